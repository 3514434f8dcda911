/*
 * Waiting for the head. One thread listens on a connection of its own: LISTEN first, then a look at
 * the head, and another at each notice and every poll_ms, as notices get lost with a connection.
 * A notice stands for the batches that come right after it, too, so that looks follow it for a
 * while (FAN__POSTGRES_AFTER_MS). What it finds is a hint for those who wait; truth is reading.
 */
#include "store/postgres/group.h"

#include "base/env.h"
#include "base/status.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define RETRY_MS_MIN 20
#define RETRY_MS_MAX 2000
/* Of deliveries that are looked at in one transaction. */
#define CLEAR_ROW_COUNT 1000
#define CLEAR_RETRY_MS 1000

struct fan__postgres_tail {
    struct fan__postgres *store;
    struct fan__thread thread;
    struct fan__postgres_connection *connection; /* the thread's */
    uint32_t retry_ms;
    int64_t after_ns;  /* until then looks follow the last notice, and one that begins behind it */
    int64_t looked_ns; /* when the last one began */
    int wake_file;

    struct fan__mutex mutex;
    struct fan__cond moved;
    bool stops;
    bool down;
    bool clears; /* there may be deliveries of groups that are gone */
    int64_t clear_ns;
    uint64_t seq;
    uint64_t wakes;
};

static bool stops(struct fan__postgres_tail *tail)
{
    fan__mutex_lock(&tail->mutex);
    bool result = tail->stops;
    fan__mutex_unlock(&tail->mutex);
    return result;
}

static void found(struct fan__postgres_tail *tail, uint64_t seq)
{
    fan__mutex_lock(&tail->mutex);
    tail->down = false;
    if (seq > tail->seq) {
        tail->seq = seq;
        fan__cond_broadcast(&tail->moved);
    }
    fan__mutex_unlock(&tail->mutex);
}

/* When what groups left that are gone is to be looked at next; INT64_MAX where there is nothing. */
static int64_t clear_ns(struct fan__postgres_tail *tail)
{
    fan__mutex_lock(&tail->mutex);
    int64_t result_ns = tail->clears ? tail->clear_ns : INT64_MAX;
    fan__mutex_unlock(&tail->mutex);
    return result_ns;
}

/* Sleeps for so long, or until the socket has something or there is something else to do. */
static void rest(struct fan__postgres_tail *tail, int file, uint32_t timeout_ms)
{
    struct pollfd files[] = { { .fd = tail->wake_file, .events = POLLIN },
                              { .fd = file, .events = POLLIN } };
    eventfd_t count;
    if (poll(files, 2, (int)timeout_ms) > 0 && files[0].revents != 0)
        (void)eventfd_read(tail->wake_file, &count);
}

static void look(struct fan__postgres_tail *tail)
{
    struct fan__postgres_connection *connection = tail->connection;
    tail->looked_ns = fan__deadline_ns(0);
    fan__postgres_extend(connection);
    struct fan__postgres_bounds bounds;
    fan__postgres_bounds(connection, &bounds);
    if (connection->status == FAN_OK)
        found(tail, bounds.head_seq);
}

static void begin(struct fan__postgres_tail *tail)
{
    struct fan__postgres *store = tail->store;
    enum fan_status status =
        fan__postgres_connect(store, fan__deadline_ns(store->timeout_ms), &tail->connection, NULL);
    if (status == FAN_OK) {
        tail->retry_ms = 0;
        fan__postgres_script(tail->connection, "LISTEN @@");
        /* The notice that stands for what comes next may have gone out before we listened. */
        tail->after_ns = fan__deadline_ns(FAN__POSTGRES_AFTER_MS);
        look(tail);
        return;
    }
    uint32_t random = 0;
    fan__random(store->env, &random, sizeof(random));
    tail->retry_ms = tail->retry_ms * 2 + RETRY_MS_MIN;
    if (tail->retry_ms > RETRY_MS_MAX)
        tail->retry_ms = RETRY_MS_MAX;
    fan__mutex_lock(&tail->mutex);
    tail->down = true;
    fan__mutex_unlock(&tail->mutex);
    rest(tail, -1, tail->retry_ms / 2 + random % (tail->retry_ms / 2));
}

/* Whether another process said something: what our own writer says is known (tail_moved). */
static bool take_notices(struct fan__postgres_connection *connection)
{
    bool news = false;
    if (!PQconsumeInput(connection->conn))
        fan__postgres_fail(connection, FAN_UNAVAILABLE);
    PGnotify *notice;
    while ((notice = PQnotifies(connection->conn)) != NULL) {
        news = news || strcmp(notice->extra, connection->store->name) != 0;
        PQfreemem(notice);
    }
    return news;
}

/* Sleeps until there is news, something to clear, or the next look is due, and looks. */
static void follow(struct fan__postgres_tail *tail, int64_t look_ns)
{
    bool due = false;
    while (!due && !stops(tail) && tail->connection->status == FAN_OK) {
        int64_t until_ns = clear_ns(tail);
        int64_t left_ns = (until_ns < look_ns ? until_ns : look_ns) - fan__deadline_ns(0);
        due = left_ns <= 0;
        /* What came with the answer to the last look is here already, and makes no file ready. */
        if (take_notices(tail->connection)) {
            tail->after_ns = fan__deadline_ns(FAN__POSTGRES_AFTER_MS);
            due = true;
        }
        if (!due)
            rest(tail, PQsocket(tail->connection->conn), (uint32_t)(left_ns / FAN__NS_PER_MS + 1));
    }
    if (due && tail->connection->status == FAN_OK)
        look(tail);
}

/*
 * A piece of what groups left that are gone, and as long a rest after it. Should it fail, as when
 * somebody holds a row, it is tried again later.
 */
static void clear_groups(struct fan__postgres_tail *tail)
{
    struct fan__postgres_connection *connection = tail->connection;
    int64_t begun_ns = fan__deadline_ns(0);
    fan__mutex_lock(&tail->mutex);
    tail->clears = false;
    fan__mutex_unlock(&tail->mutex);
    fan__postgres_extend(connection);
    fan__postgres_begin(connection, FAN__POSTGRES_WRITE);
    fan__postgres_unsynced(connection);
    (void)fan__postgres_queue(connection, FAN__PG_IMPATIENT, NULL);
    bool more = fan__postgres_group_clear(connection, CLEAR_ROW_COUNT);
    PQclear(fan__postgres_commit(connection, SIZE_MAX));
    connection->commit_sent = false;
    int64_t ended_ns = fan__deadline_ns(0);
    /* What cannot be is not tried again before the log is opened again. */
    bool failed = connection->status == FAN_UNAVAILABLE;
    fan__mutex_lock(&tail->mutex);
    tail->clears = tail->clears || more || failed;
    tail->clear_ns = ended_ns + (failed ? CLEAR_RETRY_MS * FAN__NS_PER_MS : ended_ns - begun_ns);
    fan__mutex_unlock(&tail->mutex);
}

static void go_on(struct fan__postgres_tail *tail)
{
    /* By when it began: what it did not see yet may be there when its answer comes late. */
    bool again = tail->looked_ns < tail->after_ns;
    int64_t look_ns = fan__deadline_ns(again ? FAN__POSTGRES_NOTICE_MS : tail->store->poll_ms);
    if (clear_ns(tail) <= fan__deadline_ns(0))
        clear_groups(tail);
    else
        follow(tail, look_ns);
}

static void run(void *context)
{
    struct fan__postgres_tail *tail = context;
    while (!stops(tail)) {
        if (tail->connection)
            go_on(tail);
        else
            begin(tail);
        if (tail->connection && tail->connection->status != FAN_OK) {
            fan__postgres_disconnect(tail->connection);
            tail->connection = NULL;
        }
    }
    fan__postgres_disconnect(tail->connection);
}

enum fan_status fan__postgres_tail_start(struct fan__postgres *store, struct fan_error *error)
{
    struct fan__postgres_tail *tail = fan__alloc_zero(store->env, 1, sizeof(*tail));
    if (!tail)
        return fan__fail(error, FAN_NO_MEMORY, NULL, "no memory for the tail");
    tail->store = store;
    tail->wake_file = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    fan__mutex_init(&tail->mutex);
    fan__cond_init(&tail->moved);
    /* A process may have died before all of it was cleared. */
    tail->clears = true;
    store->tail = tail;
    if (tail->wake_file < 0)
        return fan__fail(error, FAN_NO_MEMORY, NULL, "no file for the tail");
    if (fan__thread_start(&tail->thread, "fan-listen", run, tail) != FAN_OK)
        return fan__fail(error, FAN_NO_MEMORY, NULL, "no thread for the tail");
    return FAN_OK;
}

bool fan__postgres_tail_stop(struct fan__postgres *store)
{
    struct fan__postgres_tail *tail = store->tail;
    if (!tail)
        return false;
    fan__mutex_lock(&tail->mutex);
    tail->stops = true;
    fan__mutex_unlock(&tail->mutex);
    if (tail->wake_file >= 0)
        (void)eventfd_write(tail->wake_file, 1);
    fan__thread_join(&tail->thread);
    bool is_up = !tail->down;
    if (tail->wake_file >= 0)
        close(tail->wake_file);
    fan__cond_deinit(&tail->moved);
    fan__mutex_deinit(&tail->mutex);
    fan__free(store->env, tail);
    store->tail = NULL;
    return is_up;
}

void fan__postgres_tail_clear(struct fan__postgres *store)
{
    struct fan__postgres_tail *tail = store->tail;
    fan__mutex_lock(&tail->mutex);
    tail->clears = true;
    fan__mutex_unlock(&tail->mutex);
    (void)eventfd_write(tail->wake_file, 1);
}

void fan__postgres_tail_moved(struct fan__postgres *store, uint64_t head_seq)
{
    found(store->tail, head_seq);
}

void fan__postgres_wake(void *self)
{
    struct fan__postgres *store = self;
    struct fan__postgres_tail *tail = store->tail;
    fan__mutex_lock(&tail->mutex);
    tail->wakes++;
    fan__cond_broadcast(&tail->moved);
    fan__mutex_unlock(&tail->mutex);
}

enum fan_status fan__postgres_head(void *self, uint64_t *ret_seq)
{
    struct fan__postgres_connection *connection = NULL;
    enum fan_status status = fan__postgres_borrow(self, FAN__POSTGRES_READ, &connection, NULL);
    if (status != FAN_OK)
        return status;
    struct fan__postgres_bounds bounds;
    fan__postgres_bounds(connection, &bounds);
    status = fan__postgres_end(connection, FAN_OK, NULL);
    if (status == FAN_OK)
        *ret_seq = bounds.head_seq;
    return status;
}

enum fan_status fan__postgres_wait(void *self, uint64_t after_seq, uint32_t timeout_ms)
{
    struct fan__postgres *store = self;
    struct fan__postgres_tail *tail = store->tail;
    int64_t deadline_ns = fan__deadline_ns(timeout_ms);
    if (timeout_ms == 0) {
        uint64_t head_seq;
        enum fan_status status = fan__postgres_head(store, &head_seq);
        if (status != FAN_OK)
            return status;
        found(tail, head_seq);
    }
    bool in_time = true;
    fan__mutex_lock(&tail->mutex);
    uint64_t wakes = tail->wakes;
    while (in_time && tail->seq <= after_seq && tail->wakes == wakes)
        in_time = fan__cond_wait_until(&tail->moved, &tail->mutex, deadline_ns);
    enum fan_status status = FAN_AGAIN;
    if (tail->seq > after_seq)
        status = FAN_OK;
    else if (!in_time && tail->down)
        status = FAN_UNAVAILABLE;
    fan__mutex_unlock(&tail->mutex);
    return status;
}
