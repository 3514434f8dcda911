/*
 * The daemon within the test's own process: what needs a hand on its store, its loop or its memory.
 */
#include "../folder.h"
#include "../test.h"

#include "base/env.h"
#include "base/thread.h"
#include "server/daemon.h"
#include "server/hub.h"
#include "store/memory/memory.h"

#include <fanfare/batch.h>
#include <fanfare/fault.h>
#include <fanfare/group.h>
#include <fanfare/keep.h>

#include <arpa/inet.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define ANSWER_SIZE ((size_t)1 << 20)

/*
 * Memory that fails once after `left` more allocations, or from then on; and counts what is held.
 */
static atomic_long left = LONG_MAX;
static atomic_bool for_good;
static atomic_long held;

static void *resize(void *context, void *pointer, size_t size)
{
    (void)context;
    long now = atomic_fetch_sub(&left, 1);
    if (now == 0 || (now < 0 && atomic_load(&for_good)))
        return NULL;
    void *block = realloc(pointer, size);
    if (block && !pointer)
        atomic_fetch_add(&held, 1);
    return block;
}

static void release(void *context, void *pointer)
{
    (void)context;
    if (pointer)
        atomic_fetch_sub(&held, 1);
    free(pointer);
}

static struct fan_env test_env;

static struct fan__daemon *start(const char *store)
{
    struct fan_error error = FAN_ERROR_INIT;
    struct fan__daemon *daemon = NULL;
    test_env = *fan_env_default();
    test_env.resize = resize;
    test_env.release = release;
    struct fan__daemon_options options = {
        .env = &test_env, .listen = "127.0.0.1:0", .store = store, .loop_count = 1
    };
    assert_ok(fan__daemon_open(&options, &daemon, &error));
    assert_ok(fan__daemon_start(daemon, &error));
    return daemon;
}

static void stop(struct fan__daemon *daemon)
{
    assert_ok(fan__daemon_stop(daemon, 10000));
    fan__daemon_free(daemon);
    assert_int_equal(atomic_load(&held), 0);
}

/* ---- A client ---- */

static int dial(const struct fan__daemon *daemon)
{
    const char *port = strrchr(fan__daemon_address(daemon), ':') + 1;
    struct sockaddr_in address = { .sin_family = AF_INET,
                                   .sin_port = htons((uint16_t)strtoul(port, NULL, 10)),
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

static void say(int fd, const char *text)
{
    size_t size = strlen(text);
    while (size > 0) {
        ssize_t sent = send(fd, text, size, MSG_NOSIGNAL);
        if (sent <= 0)
            return; /* the answer tells */
        text += sent;
        size -= (size_t)sent;
    }
}

/* Reads to the end of the connection. */
static char *hear(int fd)
{
    char *answer = malloc(ANSWER_SIZE);
    assert_non_null(answer);
    size_t size = 0;
    for (;;) {
        ssize_t got = recv(fd, answer + size, ANSWER_SIZE - 1 - size, 0);
        if (got <= 0)
            break;
        size += (size_t)got;
    }
    answer[size] = '\0';
    close(fd);
    return answer;
}

/* One request; `more` are header fields, each with its line end. The answer is for free(). */
static char *ask(const struct fan__daemon *daemon, const char *line, const char *more,
                 const char *body)
{
    char head[512];
    int fd = dial(daemon);
    snprintf(head, sizeof(head),
             "%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%sContent-Length: %zu\r\n\r\n",
             line, more, strlen(body));
    say(fd, head);
    say(fd, body);
    return hear(fd);
}

#define JSON "Content-Type: application/json\r\n"
#define LINES "Content-Type: application/x-ndjson\r\n"

static bool has(char *answer, const char *text)
{
    bool found = strstr(answer, text) != NULL;
    free(answer);
    return found;
}

/* ---- Deliveries ---- */

static void test_P04_an_event_tells_its_deliveries(void **state)
{
    (void)state;
    struct fan__daemon *daemon = start("memory:");
    struct fan_group_name name = { "mail", "welcome" };
    struct fan_group_options options = { .size = FAN_GROUP_OPTIONS_SIZE,
                                         .start = FAN_START_BEGINNING };
    assert_ok(fan_group_create(daemon->store, &name, &options, NULL));
    assert_true(
        has(ask(daemon, "POST /v1/events", JSON, "{\"type\":\"a\",\"id\":\"1\"}"), " 201 "));
    char *answer = ask(daemon, "GET /v1/events/1", "", "");
    assert_non_null(strstr(answer, "\"status\":\"pending\""));
    free(answer);

    struct fan_claim_options claiming = { .size = FAN_CLAIM_OPTIONS_SIZE, .owner = "me" };
    struct fan_batch *batch;
    struct fan_claim claim;
    assert_ok(fan_batch_new(NULL, &batch));
    assert_ok(fan_group_claim(daemon->store, &name, &claiming, batch, &claim));
    struct fan_settle settle = { .seq = claim.seq,
                                 .token = claim.token,
                                 .verdict = FAN_VERDICT_FAIL,
                                 .error = "no \"mail\" box" };
    assert_ok(fan_group_settle(daemon->store, &name, &settle, 1));
    fan_batch_free(batch);
    answer = ask(daemon, "GET /v1/events/1", "", "");
    assert_non_null(strstr(answer, "\"status\":\"failed\""));
    assert_non_null(strstr(answer, "\"deliveries\":[{\"group\":\"mail\",\"handler\":\"welcome\","
                                   "\"status\":\"failed\",\"attempts\":1"));
    assert_non_null(strstr(answer, "\"error\":\"no \\\"mail\\\" box\""));
    free(answer);
    assert_true(has(ask(daemon, "GET /v1/events?status=failed", "", ""), "\"id\":\"1\""));
    assert_false(has(ask(daemon, "GET /v1/events?status=pending", "", ""), "\"id\":\"1\""));
    stop(daemon);
}

/* ---- A loop that was held up ---- */

struct pause {
    struct fan__http_task task;
    struct fan__mutex mutex;
    struct fan__cond cond;
    bool held;
    bool go;
};

static void on_pause(struct fan__http_task *task)
{
    struct pause *pause = (struct pause *)task;
    fan__mutex_lock(&pause->mutex);
    pause->held = true;
    fan__cond_broadcast(&pause->cond);
    while (!pause->go)
        fan__cond_wait(&pause->cond, &pause->mutex);
    pause->held = pause->go = false;
    fan__cond_broadcast(&pause->cond);
    fan__mutex_unlock(&pause->mutex);
}

static void pause_begin(struct pause *pause)
{
    *pause = (struct pause){ .task.run = on_pause };
    fan__mutex_init(&pause->mutex);
    fan__cond_init(&pause->cond);
}

static void pause_until_held(struct pause *pause)
{
    fan__mutex_lock(&pause->mutex);
    while (!pause->held)
        fan__cond_wait(&pause->cond, &pause->mutex);
    fan__mutex_unlock(&pause->mutex);
}

static void pause_end(struct pause *pause)
{
    fan__mutex_lock(&pause->mutex);
    pause->go = true;
    fan__cond_broadcast(&pause->cond);
    while (pause->held)
        fan__cond_wait(&pause->cond, &pause->mutex);
    fan__mutex_unlock(&pause->mutex);
    fan__cond_deinit(&pause->cond);
    fan__mutex_deinit(&pause->mutex);
}

static int listen_to(const struct fan__daemon *daemon, const char *query)
{
    char line[256];
    char first[64];
    int fd = dial(daemon);
    snprintf(line, sizeof(line), "GET /v1/stream%s HTTP/1.1\r\nHost: localhost\r\n\r\n", query);
    say(fd, line);
    /* The head comes when the stream is live. */
    assert_true(recv(fd, first, sizeof(first), MSG_PEEK) > 0);
    return fd;
}

/* Reads frames until the event `last`, and checks that each `step`-th number came, once. */
static void expect_all(int fd, unsigned step, unsigned last)
{
    static char bytes[1 << 16];
    size_t size = 0;
    unsigned expected = step;
    while (expected <= last) {
        ssize_t got = recv(fd, bytes + size, sizeof(bytes) - 1 - size, 0);
        assert_true(got > 0);
        size += (size_t)got;
        bytes[size] = '\0';
        char *at = bytes;
        for (char *end; (end = strstr(at, "\n\n")) != NULL; at = end + 2) {
            *end = '\0';
            const char *payload = strstr(at, "\"payload\":");
            assert_null(strstr(at, "fanfare.gap"));
            if (!payload)
                continue;
            assert_int_equal(strtoul(payload + 10, NULL, 10), expected);
            expected += step;
        }
        size -= (size_t)(at - bytes);
        memmove(bytes, at, size);
    }
}

static void publish_numbers(struct fan__daemon *daemon, unsigned first, unsigned last)
{
    for (unsigned number = first; number <= last; number++) {
        char payload[16];
        int size = snprintf(payload, sizeof(payload), "%u", number);
        struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE,
                                         .type = number % 7 ? "a.b" : "a.seven",
                                         .payload = { payload, (size_t)size } };
        assert_ok(fan_broker_publish(daemon->broker, &draft, NULL, NULL));
    }
}

/*
 * The loop does nothing while more than the hub's ring holds is published: the hub must fill the
 * lap from the log, and who was live must see everything, once and in order.
 */
static void test_L07_a_lapped_hub_reads_the_log_and_nobody_misses(void **state)
{
    (void)state;
    struct fan__daemon *daemon = start("memory:?capacity=100000");
    int all = listen_to(daemon, "");
    int some = listen_to(daemon, "?type=*.seven");
    publish_numbers(daemon, 1, 100);
    for (unsigned round = 0; round < 3; round++) {
        struct pause pause;
        pause_begin(&pause);
        assert_ok(fan__http_post(daemon->hubs->loop, &pause.task));
        pause_until_held(&pause);
        publish_numbers(daemon, 101 + round * 12000, 100 + (round + 1) * 12000);
        pause_end(&pause);
    }
    expect_all(some, 7, 36100 - 36100 % 7);
    close(some);
    /* More than its connection took at once: it went on from the log by itself. */
    expect_all(all, 1, 36100);
    close(all);
    int late = listen_to(daemon, "?after=0&type=a.seven");
    expect_all(late, 7, 36100 - 36100 % 7);
    close(late);
    char *stats = ask(daemon, "GET /v1/stats", "", "");
    assert_non_null(strstr(stats, "\"gaps\":0"));
    assert_null(strstr(stats, "\"pages\":0"));
    free(stats);
    stop(daemon);
}

/* ---- A writer that is held up ---- */

static void on_held(void *context, const struct fan_published *published)
{
    struct pause *pause = context;
    (void)published;
    if (pause)
        on_pause(&pause->task);
}

struct flood {
    const struct fan__daemon *daemon;
    char *answer;
};

static void *flood_lines(void *context)
{
    struct flood *flood = context;
    flood->answer =
        ask(flood->daemon, "POST /v1/events", LINES, "{\"type\":\"a\"}\n{\"type\":\"b\"}");
    return NULL;
}

/* The queue is full: one event is refused at once, lines wait until there is room. */
static void test_L01_L12_a_full_queue_is_told_at_once_or_waited_for(void **state)
{
    (void)state;
    struct fan__daemon *daemon = start("memory:?capacity=100000");
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b" };
    struct pause pause;
    pause_begin(&pause);
    assert_ok(fan_broker_publish_async(daemon->broker, &draft, on_held, &pause, NULL));
    pause_until_held(&pause);
    enum fan_status status;
    do
        status = fan_broker_publish_async(daemon->broker, &draft, on_held, NULL, NULL);
    while (status == FAN_OK);
    assert_int_equal(status, FAN_FULL);
    char *answer = ask(daemon, "POST /v1/events", JSON, "{\"type\":\"late\"}");
    assert_non_null(strstr(answer, " 503 "));
    assert_non_null(strstr(answer, "\r\nRetry-After: "));
    assert_non_null(strstr(answer, "queue is full"));
    free(answer);
    struct flood flood = { .daemon = daemon };
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, flood_lines, &flood), 0);
    /* Each try of those who wait counts. */
    struct fan_broker_stats before = { .size = sizeof(before) };
    struct fan_broker_stats now = { .size = sizeof(now) };
    fan_broker_stats(daemon->broker, &before);
    do
        fan_broker_stats(daemon->broker, &now);
    while (now.refused < before.refused + 2);
    /* What does not publish goes on. */
    assert_true(has(ask(daemon, "GET /readyz", "", ""), " 200 "));
    pause_end(&pause);
    pthread_join(thread, NULL);
    assert_non_null(strstr(flood.answer, "{\"stored\":2,\"duplicates\":0,\"refused\":0"));
    free(flood.answer);
    stop(daemon);
}

/*
 * ---- News of an event, at any moment ----
 *
 * The linker puts these wrappers before what the daemon calls (meson.build). Of one submission the
 * call-back is kept back until the loop's thread is about to take a lock for the n-th time after
 * it; there the loop waits until the call-back has run to its end.
 */

static struct {
    atomic_bool armed;
    int locks; /* set before it is armed */
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool go;
    bool over;
    fan_publish_done done;
    void *context;
} news = { .mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

static _Thread_local int locks_left;

enum fan_status __real_fan_broker_submit_take(struct fan_broker *broker, struct fan_event *event,
                                              fan_publish_done done, void *context);
enum fan_status __wrap_fan_broker_submit_take(struct fan_broker *broker, struct fan_event *event,
                                              fan_publish_done done, void *context);
void __real_fan__mutex_lock(struct fan__mutex *mutex);
void __wrap_fan__mutex_lock(struct fan__mutex *mutex);

static void tell_late(void *context, const struct fan_published *published)
{
    (void)context;
    pthread_mutex_lock(&news.mutex);
    while (!news.go)
        pthread_cond_wait(&news.changed, &news.mutex);
    pthread_mutex_unlock(&news.mutex);
    news.done(news.context, published);
    pthread_mutex_lock(&news.mutex);
    news.over = true;
    pthread_cond_signal(&news.changed);
    pthread_mutex_unlock(&news.mutex);
}

enum fan_status __wrap_fan_broker_submit_take(struct fan_broker *broker, struct fan_event *event,
                                              fan_publish_done done, void *context)
{
    if (!atomic_exchange(&news.armed, false))
        return __real_fan_broker_submit_take(broker, event, done, context);
    news.done = done;
    news.context = context;
    enum fan_status status = __real_fan_broker_submit_take(broker, event, tell_late, NULL);
    locks_left = news.locks;
    return status;
}

void __wrap_fan__mutex_lock(struct fan__mutex *mutex)
{
    if (locks_left > 0 && --locks_left == 0) {
        pthread_mutex_lock(&news.mutex);
        news.go = true;
        pthread_cond_signal(&news.changed);
        while (!news.over)
            pthread_cond_wait(&news.changed, &news.mutex);
        pthread_mutex_unlock(&news.mutex);
    }
    __real_fan__mutex_lock(mutex);
}

/* The publish of one event ends with its answer; it must outlive the news of it all the same. */
static void test_news_may_come_at_any_moment(void **state)
{
    (void)state;
    for (int locks = 1; locks <= 4; locks++) {
        struct fan__daemon *daemon = start("memory:");
        news.go = news.over = false;
        news.locks = locks;
        atomic_store(&news.armed, true);
        assert_true(has(ask(daemon, "POST /v1/events", JSON, "{\"type\":\"a\"}"), " 201 "));
        assert_true(news.over);
        stop(daemon);
    }
}

/* ---- A store that is down ---- */

static struct fan_provider frail;
static atomic_int frail_status;

static enum fan_status frail_head(void *self, uint64_t *ret_seq)
{
    enum fan_status status = (enum fan_status)atomic_load(&frail_status);
    return status == FAN_OK ? fan__memory_provider.head(self, ret_seq) : status;
}

/* Between two turns of its one loop, no question is under way. */
static void set_store(struct fan__daemon *daemon, struct fan_store *store)
{
    struct pause pause;
    pause_begin(&pause);
    assert_ok(fan__http_post(daemon->hubs->loop, &pause.task));
    pause_until_held(&pause);
    daemon->store = store;
    pause_end(&pause);
}

static void test_R01_readiness_tells_of_a_store_that_is_down(void **state)
{
    (void)state;
    static const enum fan_status downs[] = { FAN_UNAVAILABLE, FAN_IO, FAN_CORRUPT };
    struct fan__daemon *daemon = start("memory:");
    struct fan_store *healthy = daemon->store;
    struct fan_store *store = NULL;
    frail = fan__memory_provider;
    frail.head = frail_head;
    assert_ok(fan_store_open_provider(&frail, "memory:", &test_env, &store, NULL));
    set_store(daemon, store);
    for (size_t i = 0; i < sizeof(downs) / sizeof(downs[0]); i++) {
        atomic_store(&frail_status, FAN_OK);
        assert_true(has(ask(daemon, "GET /readyz", "", ""), " 200 "));
        atomic_store(&frail_status, (int)downs[i]);
        char *answer = ask(daemon, "GET /readyz", "", "");
        assert_non_null(strstr(answer, " 503 "));
        assert_non_null(strstr(answer, "\r\nRetry-After: "));
        assert_non_null(strstr(answer, "\"field\":\"store\""));
        assert_non_null(strstr(answer, fan_status_text(downs[i])));
        free(answer);
        /* The process itself is well. */
        assert_true(has(ask(daemon, "GET /healthz", "", ""), " 200 "));
    }
    atomic_store(&frail_status, FAN_OK);
    assert_true(has(ask(daemon, "GET /readyz", "", ""), " 200 "));
    set_store(daemon, healthy);
    fan_store_close(store);
    stop(daemon);
}

/* ---- A host that vanishes ---- */

/* The daemon's end of a connection: the socket of this process whose peer is our end. */
static int other_end(int fd)
{
    struct sockaddr_in own = { 0 };
    struct sockaddr_in peer = { 0 };
    struct rlimit limit;
    socklen_t size = sizeof(own);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&own, &size), 0);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    for (int other = 0; other < (int)limit.rlim_cur; other++) {
        size = sizeof(peer);
        if (getpeername(other, (struct sockaddr *)&peer, &size) == 0 && size == sizeof(own) &&
            peer.sin_family == AF_INET && peer.sin_port == own.sin_port)
            return other;
    }
    fail_msg("the daemon has no such connection");
    return -1;
}

static int option_of(int fd, int level, int name)
{
    int value = 0;
    socklen_t size = sizeof(value);
    assert_int_equal(getsockopt(fd, level, name, &value, &size), 0);
    return value;
}

/* Silence is noticed by probes, unsent bytes by their own time-out, both within a minute or so. */
static void append(struct fan_store *store, size_t count)
{
    const struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
    for (size_t i = 0; i < count; i++) {
        struct fan_event *event = NULL;
        assert_ok(fan_event_new(&draft, NULL, &event, NULL));
        struct fan_append item = { .event = event };
        assert_ok(fan_store_append(store, &item, 1, NULL));
        fan_event_free(event, NULL);
    }
}

/* Reads what comes until the words stand in it. */
static void hear_until(int fd, const char *words)
{
    char *heard = calloc(1, ANSWER_SIZE);
    size_t size = 0;
    assert_non_null(heard);
    while (!strstr(heard, words)) {
        struct pollfd entry = { .fd = fd, .events = POLLIN };
        assert_int_equal(poll(&entry, 1, 30000), 1);
        ssize_t got = recv(fd, heard + size, ANSWER_SIZE - 1 - size, 0);
        assert_true(got > 0);
        size += (size_t)got;
    }
    free(heard);
}

/*
 * What another instance appended was trimmed before this one could read it, and nothing came
 * behind it: its streams are told all the same.
 */
static void test_L04_streams_are_told_what_was_trimmed_while_nothing_could_be_read(void **state)
{
    (void)state;
    char folder[TEST_FOLDER_SIZE];
    char name[96];
    char uri[160];
    assert_true(test_folder_make(folder));
    snprintf(name, sizeof(name), "%s/log.db", folder);
    snprintf(uri, sizeof(uri), "fault:seed=1:sqlite:%s", name);
    struct fan__daemon *daemon = start(uri);
    struct fan_store *other = NULL;
    assert_ok(fan_store_open(uri + strlen("fault:seed=1:"), NULL, &other, NULL));
    int fd = dial(daemon);
    say(fd, "GET /v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n");
    append(other, 3);
    hear_until(fd, "id: 3@");
    assert_ok(fan_fault_set(daemon->store, "read.errors=100%", NULL));
    append(other, 10);
    struct fan_retention retention = { .size = FAN_RETENTION_SIZE, .count = 1 };
    struct fan_retained retained = { .size = sizeof(retained), .more = true };
    while (retained.more)
        assert_ok(fan_store_retain(other, &retention, &retained, NULL));
    assert_int_equal(retained.trimmed_seq, 12);
    struct fan_event_state event_state;
    struct fan_batch *batch = NULL;
    struct fan_query query = { .size = FAN_QUERY_SIZE };
    assert_ok(fan_batch_new(NULL, &batch));
    assert_ok(fan_store_list(other, &query, batch, &event_state, NULL));
    assert_ok(fan_store_delete(other, fan_event_id(fan_batch_event(batch, 0))));
    fan_batch_free(batch);
    assert_ok(fan_fault_set(daemon->store, "", NULL));
    hear_until(fd, "\"after\":3,\"before\":13,\"count\":null,\"reason\":\"retention\"");
    close(fd);
    fan_store_close(other);
    stop(daemon);
    assert_int_equal(unlink(name), 0);
    assert_int_equal(rmdir(folder), 0);
}

/* A daemon whose clients have so long to go on with a body. */
static struct fan__daemon *start_hasty(uint32_t body_timeout_ms)
{
    struct fan_error error = FAN_ERROR_INIT;
    struct fan__daemon *daemon = NULL;
    const struct fan__daemon_options options = {
        .env = fan_env_default(), .listen = "127.0.0.1:0", .store = "memory:", .loop_count = 1
    };
    assert_ok(fan__daemon_open(&options, &daemon, &error));
    fan__http_server_free(daemon->http);
    daemon->http_options.body_timeout_ms = body_timeout_ms;
    assert_ok(fan__http_server_new(&daemon->http_options, &daemon->http, &error));
    assert_ok(fan__daemon_start(daemon, &error));
    return daemon;
}

/* Says one thing after the other, as a slow client does, until it is answered. */
static size_t trickle(int fd, const char *const *words, size_t count, int pause_ms)
{
    for (size_t i = 0; i < count; i++) {
        struct pollfd entry = { .fd = fd, .events = POLLIN };
        if (poll(&entry, 1, pause_ms) > 0)
            return i;
        say(fd, words[i % 2]);
    }
    return count;
}

/*
 * A byte now and then, of one line that never ends or of none at all, is no progress: it would hold
 * its connection for ever. A line with an event is, though it be small.
 */
static void test_L12_lines_that_trickle_are_cut_off(void **state)
{
    (void)state;
    struct fan__daemon *daemon = start_hasty(800);
    static const char head[] = "POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
                               "application/x-ndjson\r\nContent-Length: 100000\r\n\r\n";
    static const char *const bytes[][2] = { { "x", "y" }, { " ", "\n" }, { "{", "\"" } };
    for (size_t i = 0; i < 3; i++) {
        int fd = dial(daemon);
        say(fd, head);
        assert_true(trickle(fd, bytes[i], 10000, 10) < 10000);
        char *answer = hear(fd);
        assert_non_null(strstr(answer, "HTTP/1.1 408 "));
        assert_non_null(strstr(answer, "it came too slowly"));
        free(answer);
        close(fd);
    }
    /* Whole lines, over a time that is several times as long. */
    static const char *const lines[] = { "{\"type\":", "\"a.b.c\"}\n" };
    struct fan_store_stats stats = { .size = sizeof(stats) };
    int fd = dial(daemon);
    say(fd, head);
    assert_int_equal(trickle(fd, lines, 24, 100), 24);
    assert_int_equal(trickle(fd, bytes[0], 1, 0), 1);
    char *answer = hear(fd);
    assert_non_null(strstr(answer, "HTTP/1.1 408 "));
    free(answer);
    close(fd);
    assert_ok(fan_store_stats(daemon->store, &stats));
    assert_int_equal(stats.events, 12);
    assert_ok(fan__daemon_stop(daemon, 10000));
    fan__daemon_free(daemon);
}

static void test_R01_a_vanished_host_is_asked_for(void **state)
{
    (void)state;
    struct fan__daemon *daemon = start("memory:");
    int fd = listen_to(daemon, "");
    int other = other_end(fd);
    assert_int_equal(option_of(other, SOL_SOCKET, SO_KEEPALIVE), 1);
    int idle_s = option_of(other, IPPROTO_TCP, TCP_KEEPIDLE);
    int interval_s = option_of(other, IPPROTO_TCP, TCP_KEEPINTVL);
    int probes = option_of(other, IPPROTO_TCP, TCP_KEEPCNT);
    assert_in_range(idle_s + probes * interval_s, 1, 60);
    assert_int_equal(option_of(other, IPPROTO_TCP, TCP_USER_TIMEOUT), 60000);
    close(fd);
    stop(daemon);
}

/* ---- Questions that wait for their turn ---- */

#define ASKERS 40

static void *ask_list(void *context)
{
    struct flood *flood = context;
    flood->answer = ask(flood->daemon, "GET /v1/events?limit=1000", "", "");
    return NULL;
}

static void test_many_questions_at_once_are_all_answered(void **state)
{
    (void)state;
    struct fan__daemon *daemon = start("memory:");
    publish_numbers(daemon, 1, 500);
    pthread_t threads[ASKERS];
    struct flood floods[ASKERS];
    for (int i = 0; i < ASKERS; i++) {
        floods[i] = (struct flood){ .daemon = daemon };
        assert_int_equal(pthread_create(&threads[i], NULL, ask_list, &floods[i]), 0);
    }
    for (int i = 0; i < ASKERS; i++) {
        pthread_join(threads[i], NULL);
        assert_non_null(strstr(floods[i].answer, " 200 "));
        assert_non_null(strstr(floods[i].answer, "\"payload\":500,"));
        free(floods[i].answer);
    }
    stop(daemon);
}

/* ---- Joining under load ---- */

#define JOINERS 4
#define JOINS 150
#define JOIN_READ 200

struct load {
    struct fan__daemon *daemon;
    atomic_bool stop;
    atomic_int failures; /* cmocka's assertions are for the first thread alone */
};

static void *keep_publishing(void *context)
{
    struct load *load = context;
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b" };
    while (!atomic_load(&load->stop))
        if (fan_broker_publish(load->daemon->broker, &draft, NULL, NULL) != FAN_OK)
            atomic_fetch_add(&load->failures, 1);
    return NULL;
}

/* Reads JOIN_READ events; false when their sequences do not follow each other without a hole. */
static bool read_dense(int fd, uint64_t after)
{
    char bytes[1 << 14];
    size_t size = 0;
    for (uint64_t wanted = after + 1; wanted <= after + JOIN_READ;) {
        ssize_t got = recv(fd, bytes + size, sizeof(bytes) - 1 - size, 0);
        if (got <= 0)
            return false;
        size += (size_t)got;
        bytes[size] = '\0';
        char *at = bytes;
        for (char *end; (end = strstr(at, "\n\n")) != NULL; at = end + 2) {
            *end = '\0';
            const char *seq = strstr(at, "\"seq\":");
            if (!seq)
                continue;
            if (strtoull(seq + 6, NULL, 10) != wanted)
                return false;
            wanted++;
        }
        size -= (size_t)(at - bytes);
        memmove(bytes, at, size);
    }
    return true;
}

static void *keep_joining(void *context)
{
    struct load *load = context;
    uint32_t seed = (uint32_t)(uintptr_t)&seed;
    for (int i = 0; i < JOINS; i++) {
        char query[64];
        uint64_t head_seq = 0;
        if (fan_store_head(load->daemon->store, &head_seq) != FAN_OK)
            atomic_fetch_add(&load->failures, 1);
        seed = seed * 1664525U + 1013904223U;
        uint64_t back = (seed >> 8) % 50;
        uint64_t after = head_seq > back ? head_seq - back : 0;
        snprintf(query, sizeof(query), "?after=%llu", (unsigned long long)after);
        int fd = listen_to(load->daemon, query);
        if (!read_dense(fd, after))
            atomic_fetch_add(&load->failures, 1);
        close(fd);
    }
    return NULL;
}

/*
 * Places near the head, where a page of the log and the hub overtake each other: whoever joins too
 * early sees an event twice, and whoever joins too late misses one.
 */
static void test_L07_streams_that_join_under_load_miss_and_double_nothing(void **state)
{
    (void)state;
    struct load load = { .daemon = start("memory:?capacity=1000000") };
    pthread_t publisher;
    pthread_t joiners[JOINERS];
    assert_int_equal(pthread_create(&publisher, NULL, keep_publishing, &load), 0);
    for (int i = 0; i < JOINERS; i++)
        assert_int_equal(pthread_create(&joiners[i], NULL, keep_joining, &load), 0);
    for (int i = 0; i < JOINERS; i++)
        pthread_join(joiners[i], NULL);
    atomic_store(&load.stop, true);
    pthread_join(publisher, NULL);
    assert_int_equal(atomic_load(&load.failures), 0);
    stop(load.daemon);
}

/* ---- Memory that ends ---- */

/* Everything that the daemon does for clients, whatever comes of it. */
static void use_all(const struct fan__daemon *daemon)
{
    free(ask(daemon, "POST /v1/events", JSON, "{\"type\":\"a\",\"payload\":[1]}"));
    free(ask(daemon, "POST /v1/events", LINES, "{\"type\":\"a\"}\n{\n{\"type\":\"b\"}\n"));
    free(ask(daemon, "POST /v1/events",
             "ce-specversion: 1.0\r\nce-id: 1\r\nce-source: /s\r\n"
             "ce-type: a\r\n",
             "1"));
    free(ask(daemon, "GET /v1/events?limit=5", "", ""));
    free(ask(daemon, "GET /v1/events/x", "", ""));
    free(ask(daemon, "GET /v1/stats", "", ""));
    free(ask(daemon, "GET /metrics", "", ""));
    int live = dial(daemon);
    int behind = dial(daemon);
    char some[256];
    say(live, "GET /v1/stream?type=a.* HTTP/1.1\r\nHost: localhost\r\n\r\n");
    say(behind, "GET /v1/stream?after=0 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    (void)!recv(live, some, sizeof(some), 0);
    (void)!recv(behind, some, sizeof(some), 0);
    free(ask(daemon, "POST /v1/events", JSON, "[{\"type\":\"a.b\"},7]"));
    close(live);
    close(behind);
}

static void check_recovered(struct fan__daemon *daemon)
{
    atomic_store(&left, LONG_MAX);
    assert_true(has(ask(daemon, "POST /v1/events", JSON, "{\"type\":\"after\"}"), " 201 "));
    close(listen_to(daemon, ""));
}

static void test_memory_may_end_at_any_moment(void **state)
{
    (void)state;
    struct fan__daemon *daemon = start("memory:");
    bool failed = true;
    for (long after = 0; failed; after++) {
        atomic_store(&for_good, false);
        atomic_store(&left, after);
        use_all(daemon);
        failed = atomic_load(&left) < 0;
        check_recovered(daemon);
        if (after % 8 > 0)
            continue;
        atomic_store(&for_good, true);
        atomic_store(&left, after);
        use_all(daemon);
        check_recovered(daemon);
    }
    stop(daemon);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_P04_an_event_tells_its_deliveries),
        cmocka_unit_test(test_L07_a_lapped_hub_reads_the_log_and_nobody_misses),
        cmocka_unit_test(test_L01_L12_a_full_queue_is_told_at_once_or_waited_for),
        cmocka_unit_test(test_news_may_come_at_any_moment),
        cmocka_unit_test(test_R01_readiness_tells_of_a_store_that_is_down),
        cmocka_unit_test(test_L04_streams_are_told_what_was_trimmed_while_nothing_could_be_read),
        cmocka_unit_test(test_L12_lines_that_trickle_are_cut_off),
        cmocka_unit_test(test_R01_a_vanished_host_is_asked_for),
        cmocka_unit_test(test_many_questions_at_once_are_all_answered),
        cmocka_unit_test(test_L07_streams_that_join_under_load_miss_and_double_nothing),
        cmocka_unit_test(test_memory_may_end_at_any_moment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
