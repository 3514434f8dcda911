/*
 * The reading half of the outbox, whatever the database (relay.h).
 *
 *     load a batch -> hold the lease -> publish it as one unit -> settle: delete the rows
 *                                                                (or set them aside)
 *
 * The invariant: a row goes only when the log has its event, or has refused it for good. Whatever
 * happens in between, the rows are there and are published again under the same ids, which the log
 * stores once. The unit carries the lease's fence, so a relay that was asleep for too long cannot
 * bring back what another one has published and the log has long forgotten.
 *
 * No statement is open and no transaction is under way while the broker has the batch.
 */
#include "hook/relay.h"

#include "base/adopt.h"
#include "base/env.h"
#include "base/status.h"
#include "base/thread.h"
#include "hook/leader.h"

#include <fanfare/broker.h>
#include <fanfare/feed.h>
#include <fanfare/json.h>

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define POLL_MS 100
#define BATCH_COUNT 500
#define BATCH_SIZE_MAX ((size_t)1 << 20)
#define LEASE_MS 10000
#define ALARM_MS 10000
#define DELAY_MS_MIN 50
#define DELAY_MS_MAX 5000
#define HIDDEN_MS_MIN 2
#define HIDDEN_MS_MAX 20

struct fan_outbox_relay {
    const struct fan_env *env;
    struct fan_broker *broker;
    const struct fan__outbox *outbox;
    char *table;
    uint32_t poll_ms;
    size_t batch_count;
    uint32_t lease_ms;
    uint32_t alarm_ms;
    fan_outbox_told told;
    void *context;
    unsigned fork_generation;
    int bell; /* an eventfd: woken, or to stop */

    /* The thread's, or the stepping caller's. */
    void *self; /* the database */
    struct fan__row *rows;
    size_t count;
    bool partial; /* some that were loaded are still owed */
    struct fan_event_draft *drafts;
    size_t *places; /* the row of each draft */
    struct fan__sight sight;
    struct fan__leader leader;
    struct fan_feed *feed;

    struct fan__mutex mutex; /* guards all below */
    struct fan__thread thread;
    bool started;
    bool stopping;
    struct fan_outbox_relay_stats stats;
    int64_t oldest_us;
};

/* --- the rows ----------------------------------------------------------------------------- */

static void row_clear(struct fan_outbox_relay *relay, struct fan__row *row)
{
    fan_event_free(row->event, relay->env);
    fan__free(relay->env, row->id);
    fan__free(relay->env, row->reason);
    *row = (struct fan__row){ 0 };
}

static void clear(struct fan_outbox_relay *relay)
{
    for (size_t i = 0; i < relay->count; i++)
        row_clear(relay, &relay->rows[i]);
    relay->count = 0;
}

static enum fan_status set_aside(struct fan_outbox_relay *relay, struct fan__row *row,
                                 const struct fan_error *error)
{
    char reason[sizeof(error->field) + sizeof(error->message) + 2];
    snprintf(reason, sizeof(reason), "%s%s%s", error->field, *error->field ? ": " : "",
             *error->message ? error->message : fan_status_text(error->status));
    row->reason = fan__strdup(relay->env, reason);
    row->fate = FAN__FATE_ASIDE;
    return row->reason ? FAN_OK : FAN_NO_MEMORY;
}

/* Makes a row of what was read; one that is no event is set aside. */
static enum fan_status take_row(void *context, const struct fan__row *place, const char *id,
                                struct fan_str text)
{
    struct fan_outbox_relay *relay = context;
    struct fan__row *row = &relay->rows[relay->count++];
    struct fan_event_defaults defaults = *fan_broker_defaults(relay->broker);
    defaults.source = FAN_SOURCE_DATABASE;
    struct fan_json_options options = FAN_JSON_OPTIONS_INIT;
    options.defaults = &defaults;
    struct fan_error error = FAN_ERROR_INIT;
    *row = *place;
    row->id = fan__strdup(relay->env, id);
    if (!row->id)
        return FAN_NO_MEMORY;
    enum fan_status status =
        text.data ? fan_event_from_json(text, &options, &row->event, &error)
                  : fan__fail(&error, FAN_INVALID, "event", "is too large to be one");
    return status == FAN_INVALID ? set_aside(relay, row, &error) : status;
}

static enum fan_status load_rows(struct fan_outbox_relay *relay, struct fan_error *error)
{
    struct fan__load load = { .count_max = relay->batch_count,
                              .size_max = BATCH_SIZE_MAX,
                              .alarm_ms = relay->alarm_ms,
                              .take = take_row,
                              .context = relay,
                              .sight = &relay->sight };
    relay->partial = false;
    enum fan_status status = relay->outbox->load(relay->self, &load, error);
    fan__mutex_lock(&relay->mutex);
    relay->stats.rows = relay->sight.rows;
    relay->stats.hidden_us = relay->sight.hidden_us;
    relay->oldest_us = relay->sight.oldest_us;
    fan__mutex_unlock(&relay->mutex);
    return status;
}

/* --- the log, the end of a row -------------------------------------------------------------- */

static void show_leading(struct fan_outbox_relay *relay)
{
    fan__mutex_lock(&relay->mutex);
    relay->stats.leading = relay->leader.fence != 0;
    fan__mutex_unlock(&relay->mutex);
}

static void on_done(void *context, size_t first, size_t count)
{
    struct fan_outbox_relay *relay = context;
    for (size_t i = first; i < first + count; i++)
        relay->rows[relay->places[i]].fate = FAN__FATE_DURABLE;
}

static enum fan_status on_refused(void *context, size_t index, const struct fan_error *error)
{
    struct fan_outbox_relay *relay = context;
    return set_aside(relay, &relay->rows[relay->places[index]], error);
}

/* Publishes the rows that are owed, in their order. */
static enum fan_status publish(struct fan_outbox_relay *relay, struct fan_error *error)
{
    struct fan__leader_batch batch = {
        .drafts = relay->drafts, .done = on_done, .refused = on_refused, .context = relay
    };
    for (size_t i = 0; i < relay->count; i++) {
        struct fan__row *row = &relay->rows[i];
        if (row->fate != FAN__FATE_OWED)
            continue;
        fan_event_to_draft(row->event, &relay->drafts[batch.count]);
        relay->drafts[batch.count].id = row->id;
        relay->places[batch.count++] = i;
    }
    return fan__leader_publish(&relay->leader, &batch, error);
}

static void account(struct fan_outbox_relay *relay)
{
    uint64_t aside = 0;
    for (size_t i = 0; i < relay->count; i++) {
        const struct fan__row *row = &relay->rows[i];
        if (row->fate != FAN__FATE_ASIDE)
            continue;
        aside++;
        fan__log(relay->env, FAN_LOG_WARNING, "outbox %s: row %" PRId64 " was set aside: %s",
                 relay->table, row->seq, row->reason);
        struct fan_outbox_aside told = { sizeof(told), row->seq, row->id, row->reason };
        if (relay->told)
            relay->told(relay->context, &told);
    }
    fan__mutex_lock(&relay->mutex);
    relay->stats.set_aside += aside;
    relay->stats.published += relay->count - aside;
    fan__mutex_unlock(&relay->mutex);
}

/* Settles what has its fate and forgets the rest; on failure it stays for the next time. */
static enum fan_status settle(struct fan_outbox_relay *relay, struct fan_error *error)
{
    size_t count = 0;
    for (size_t i = 0; i < relay->count; i++) {
        struct fan__row row = relay->rows[i];
        relay->rows[i] = (struct fan__row){ 0 };
        if (row.fate == FAN__FATE_OWED || (row.fate == FAN__FATE_ASIDE && !row.reason)) {
            row_clear(relay, &row);
            relay->partial = true;
        } else {
            relay->rows[count++] = row;
        }
    }
    relay->count = count;
    if (count == 0)
        return FAN_OK;
    enum fan_status status =
        relay->outbox->settle(relay->self, relay->rows, count, !relay->partial, error);
    if (status != FAN_OK)
        return status;
    account(relay);
    clear(relay);
    return FAN_OK;
}

/* One batch. FAN_AGAIN when there is nothing. */
static enum fan_status advance(struct fan_outbox_relay *relay, struct fan_error *error)
{
    enum fan_status status = settle(relay, error);
    if (status != FAN_OK)
        return status;
    status = load_rows(relay, error);
    if (status == FAN_OK) {
        status = fan__leader_lead(&relay->leader, error);
        show_leading(relay);
    }
    if (status != FAN_OK) {
        clear(relay);
        return status;
    }
    struct fan_error later = FAN_ERROR_INIT;
    status = publish(relay, error);
    show_leading(relay);
    enum fan_status settled = settle(relay, status == FAN_OK ? error : &later);
    return status == FAN_OK ? settled : status;
}

static bool is_postgres(const char *text)
{
    return strncmp(text, "postgres://", strlen("postgres://")) == 0 ||
           strncmp(text, "postgresql://", strlen("postgresql://")) == 0;
}

/* --- life --------------------------------------------------------------------------------- */

static void note(struct fan_outbox_relay *relay, enum fan_status status,
                 const struct fan_error *error)
{
    bool fine = status == FAN_OK || status == FAN_AGAIN || status == FAN_EXISTS;
    fan__mutex_lock(&relay->mutex);
    relay->stats.failures += !fine;
    relay->stats.error = fine ? (struct fan_error)FAN_ERROR_INIT : *error;
    fan__mutex_unlock(&relay->mutex);
}

/*
 * How long to wait after a turn that ended so. What is hidden by an open transaction may come to
 * light without a sound, often soon.
 */
static uint32_t pause_ms(const struct fan_outbox_relay *relay, enum fan_status status,
                         uint32_t *delay_ms)
{
    bool hidden = status == FAN_AGAIN && relay->sight.hidden_us > 0;
    if (status == FAN_EXISTS || (status == FAN_AGAIN && !hidden)) {
        *delay_ms = 0;
        uint32_t quarter_ms = relay->lease_ms / 4;
        return status == FAN_AGAIN || quarter_ms < relay->poll_ms ? relay->poll_ms : quarter_ms;
    }
    uint32_t least_ms = hidden ? HIDDEN_MS_MIN : DELAY_MS_MIN;
    uint32_t most_ms = hidden ? HIDDEN_MS_MAX : DELAY_MS_MAX;
    *delay_ms = *delay_ms < least_ms ? least_ms : *delay_ms * 2;
    if (*delay_ms > most_ms)
        *delay_ms = most_ms;
    return *delay_ms;
}

static void ring(struct fan_outbox_relay *relay)
{
    uint64_t once = 1;
    (void)!write(relay->bell, &once, sizeof(once));
}

static bool is_stopping(struct fan_outbox_relay *relay)
{
    fan__mutex_lock(&relay->mutex);
    bool stopping = relay->stopping;
    fan__mutex_unlock(&relay->mutex);
    return stopping;
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 * FAN__NS_PER_MS + now.tv_nsec;
}

/* Waits for the bell or, when `listening`, for news of the database; a failure's time is kept. */
static void wait_for_news(struct fan_outbox_relay *relay, uint32_t timeout_ms, bool keeps,
                          bool listening)
{
    int64_t deadline_ns = fan__deadline_ns(timeout_ms);
    bool rung = false;
    while (!is_stopping(relay) && !rung) {
        struct pollfd places[] = {
            { .fd = relay->bell, .events = POLLIN },
            { .fd = listening ? relay->outbox->descriptor(relay->self) : -1, .events = POLLIN },
        };
        int64_t left_ns = deadline_ns - now_ns();
        if (left_ns <= 0)
            return;
        int left_ms = (int)((left_ns + FAN__NS_PER_MS - 1) / FAN__NS_PER_MS);
        poll(places, 2, left_ms);
        uint64_t rings;
        bool bell = places[0].revents != 0 && read(relay->bell, &rings, sizeof(rings)) > 0;
        rung = (bell && !keeps) || places[1].revents != 0;
    }
}

static void relay_main(void *context)
{
    struct fan_outbox_relay *relay = context;
    uint32_t delay_ms = 0;
    while (!is_stopping(relay)) {
        struct fan_error error = FAN_ERROR_INIT;
        enum fan_status status = advance(relay, &error);
        note(relay, status, &error);
        if (status == FAN_OK) {
            delay_ms = 0;
            continue;
        }
        bool hidden = relay->sight.hidden_us > 0;
        wait_for_news(relay, pause_ms(relay, status, &delay_ms), status != FAN_AGAIN,
                      status == FAN_AGAIN && !hidden);
    }
}

static enum fan_status adopt(struct fan_outbox_relay_options *adopted,
                             const struct fan_outbox_relay_options *options,
                             struct fan_error *error)
{
    if (!fan__adopt(adopted, sizeof(*adopted), options, sizeof(*adopted)))
        return fan__fail(error, FAN_INVALID, "size", "must be FAN_OUTBOX_RELAY_OPTIONS_SIZE");
    if (!adopted->database || !*adopted->database)
        return fan__fail(error, FAN_INVALID, "database", "must be given");
    if (adopted->batch_count > FAN_UNIT_COUNT_MAX)
        return fan__fail(error, FAN_INVALID, "batch_count", "must be at most %d",
                         FAN_UNIT_COUNT_MAX);
    adopted->poll_ms = adopted->poll_ms ? adopted->poll_ms : POLL_MS;
    adopted->batch_count = adopted->batch_count ? adopted->batch_count : BATCH_COUNT;
    adopted->lease_ms = adopted->lease_ms ? adopted->lease_ms : LEASE_MS;
    adopted->alarm_ms = adopted->alarm_ms ? adopted->alarm_ms : ALARM_MS;
    return FAN_OK;
}

/* One lease for all relays of this outbox: its name follows from what names the outbox. */
static enum fan_status name_lease(struct fan_outbox_relay *relay, struct fan_error *error)
{
    struct fan__buffer name;
    fan__buffer_init(&name, relay->env);
    relay->outbox->name(relay->self, &name);
    bool failed = name.failed;
    fan__leader_init(&relay->leader, relay->broker, relay->lease_ms);
    fan__leader_name(&relay->leader, "outbox", (struct fan_str){ name.data, name.size });
    fan__buffer_deinit(&name);
    return failed ? fan__fail(error, FAN_NO_MEMORY, "", "out of memory") : FAN_OK;
}

static int64_t lag_us(const struct fan_outbox_relay *relay)
{
    return relay->stats.rows > 0 ? fan__wall_us(relay->env) - relay->oldest_us : 0;
}

/* What the metrics tell. */
static void look_at(void *context, struct fan_feed_stats *ret_stats)
{
    struct fan_outbox_relay *relay = context;
    fan__mutex_lock(&relay->mutex);
    const struct fan_outbox_relay_stats *stats = &relay->stats;
    int64_t lag = lag_us(relay);
    *ret_stats = (struct fan_feed_stats){
        .size = ret_stats->size,
        .leading = stats->leading,
        .failing = stats->error.status != FAN_OK,
        .events = stats->published,
        .failures = stats->failures,
        .lag_ns = lag > 0 ? (uint64_t)lag * FAN__NS_PER_US : 0,
        .aside = stats->set_aside,
        .rows = stats->rows,
        .hidden_ns = (uint64_t)stats->hidden_us * FAN__NS_PER_US,
    };
    fan__mutex_unlock(&relay->mutex);
}

static enum fan_status be_seen(struct fan_outbox_relay *relay, struct fan_error *error)
{
    struct fan_feed_options options = { .size = FAN_FEED_OPTIONS_SIZE,
                                        .kind = FAN_FEED_RELAY,
                                        .name = relay->table,
                                        .look = look_at,
                                        .context = relay };
    enum fan_status status = fan_feed_add(relay->broker, &options, &relay->feed);
    return status == FAN_OK ? FAN_OK : fan__fail(error, status, "", "out of memory");
}

static void release(struct fan_outbox_relay *relay)
{
    fan_feed_remove(relay->feed);
    if (relay->rows)
        clear(relay);
    if (relay->self)
        relay->outbox->close(relay->self);
    if (relay->bell >= 0)
        close(relay->bell);
    fan__mutex_deinit(&relay->mutex);
    fan__free(relay->env, relay->rows);
    fan__free(relay->env, relay->drafts);
    fan__free(relay->env, relay->places);
    fan__free(relay->env, relay->table);
    fan__free(relay->env, relay);
}

enum fan_status fan_outbox_relay_open(struct fan_broker *broker,
                                      const struct fan_outbox_relay_options *options,
                                      struct fan_outbox_relay **ret_relay,
                                      struct fan_error *ret_error)
{
    struct fan_outbox_relay_options adopted;
    enum fan_status status = adopt(&adopted, options, ret_error);
    if (status != FAN_OK)
        return status;
    const struct fan_env *env = fan_broker_defaults(broker)->env;
    struct fan_outbox_relay *relay = fan__alloc_zero(env, 1, sizeof(*relay));
    if (!relay)
        return fan__fail(ret_error, FAN_NO_MEMORY, "", "out of memory");
    relay->env = env;
    relay->broker = broker;
    relay->poll_ms = adopted.poll_ms;
    relay->batch_count = adopted.batch_count;
    relay->lease_ms = adopted.lease_ms;
    relay->told = adopted.told;
    relay->context = adopted.context;
    relay->fork_generation = fan__fork_generation();
    relay->alarm_ms = adopted.alarm_ms;
    relay->outbox = is_postgres(adopted.database) ? &fan__outbox_postgres : &fan__outbox_sqlite;
    relay->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    fan__mutex_init(&relay->mutex);
    relay->table = fan__strdup(env, adopted.table ? adopted.table : FAN_OUTBOX_TABLE);
    relay->rows = fan__alloc_zero(env, adopted.batch_count, sizeof(*relay->rows));
    relay->drafts = fan__alloc_zero(env, adopted.batch_count, sizeof(*relay->drafts));
    relay->places = fan__alloc_zero(env, adopted.batch_count, sizeof(*relay->places));
    if (!relay->table || !relay->rows || !relay->drafts || !relay->places || relay->bell < 0)
        status = fan__fail(ret_error, FAN_NO_MEMORY, "", "out of memory");
    else
        status = relay->outbox->open(env, &adopted, &relay->self, ret_error);
    if (status == FAN_OK)
        status = name_lease(relay, ret_error);
    if (status == FAN_OK)
        status = be_seen(relay, ret_error);
    if (status != FAN_OK) {
        release(relay);
        return status;
    }
    *ret_relay = relay;
    return FAN_OK;
}

enum fan_status fan_outbox_relay_start(struct fan_outbox_relay *relay)
{
    if (fan__fork_generation() != relay->fork_generation)
        return FAN_FORKED;
    fan__mutex_lock(&relay->mutex);
    enum fan_status status = relay->stopping ? FAN_CLOSED : relay->started ? FAN_MISUSE : FAN_OK;
    if (status == FAN_OK)
        status = fan__thread_start(&relay->thread, "fan-relay", relay_main, relay);
    relay->started |= status == FAN_OK;
    fan__mutex_unlock(&relay->mutex);
    return status;
}

enum fan_status fan_outbox_relay_step(struct fan_outbox_relay *relay, struct fan_error *ret_error)
{
    if (fan__fork_generation() != relay->fork_generation)
        return fan__fail(ret_error, FAN_FORKED, "", "%s", fan_status_text(FAN_FORKED));
    fan__mutex_lock(&relay->mutex);
    enum fan_status status = relay->stopping ? FAN_CLOSED : relay->started ? FAN_MISUSE : FAN_OK;
    fan__mutex_unlock(&relay->mutex);
    if (status != FAN_OK)
        return fan__fail(ret_error, status, "", "%s", fan_status_text(status));
    struct fan_error error = FAN_ERROR_INIT;
    status = advance(relay, &error);
    note(relay, status, &error);
    if (status != FAN_OK && ret_error)
        *ret_error = error;
    return status;
}

void fan_outbox_relay_wake(struct fan_outbox_relay *relay)
{
    if (fan__fork_generation() != relay->fork_generation)
        return;
    ring(relay);
}

void fan_outbox_relay_stop(struct fan_outbox_relay *relay)
{
    if (fan__fork_generation() != relay->fork_generation)
        return;
    fan__mutex_lock(&relay->mutex);
    bool stopped = relay->stopping;
    relay->stopping = true;
    fan__mutex_unlock(&relay->mutex);
    if (stopped)
        return;
    ring(relay);
    fan__thread_join(&relay->thread);
    fan__leader_release(&relay->leader);
    show_leading(relay);
}

void fan_outbox_relay_free(struct fan_outbox_relay *relay)
{
    if (!relay || fan__fork_generation() != relay->fork_generation)
        return;
    fan_outbox_relay_stop(relay);
    release(relay);
}

void fan_outbox_relay_stats(struct fan_outbox_relay *relay,
                            struct fan_outbox_relay_stats *ret_stats)
{
    size_t size = ret_stats->size < sizeof(*ret_stats) ? ret_stats->size : sizeof(*ret_stats);
    struct fan_outbox_relay_stats stats = { .size = size };
    if (fan__fork_generation() == relay->fork_generation) {
        fan__mutex_lock(&relay->mutex);
        stats = relay->stats;
        stats.lag_us = lag_us(relay);
        fan__mutex_unlock(&relay->mutex);
    }
    stats.size = size;
    memcpy(ret_stats, &stats, size);
}
