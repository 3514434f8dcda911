/*
 * A PostgreSQL server that is killed, stopped, cut off or not there, under load: what was
 * acknowledged is part of what is stored, that is part of what was attempted, nothing is there
 * twice or out of order, no reader misses anything, and every call answers in time.
 *
 * Two writers and a reader have a store each, as processes would. FANFARE_SOAK=1 runs the full
 * counts.
 */
#include "../seed.h"
#include "postgres.h"
#include "test.h"

#include <fanfare/batch.h>
#include <fanfare/env.h>
#include <fanfare/group.h>
#include <fanfare/store.h>

#include <arpa/inet.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define WRITER_COUNT 2
#define BATCH_COUNT 20
#define TIMEOUT_MS 700
/* What a busy machine may add to an answer; a call that waits for ever takes longer. */
#define SLACK_NS INT64_C(10000000000)

static struct test_postgres server;

struct writer {
    pthread_t thread;
    struct load *load;
    unsigned number;
    uint64_t attempted; /* events of this writer, by number from 1 */
    uint64_t acknowledged;
    uint64_t failed_calls;
    uint64_t unknown_calls; /* of those */
    uint64_t found;         /* events that a call with an unknown outcome had stored */
    uint64_t last_seq;
    char problem[256];
};

struct load {
    char uri[256];
    struct writer writers[WRITER_COUNT];
    pthread_t reader;
    struct fan_batch *seen; /* by the reader, in its order */
    char problem[256];
    pthread_mutex_t mutex;
    pthread_cond_t moved;
    bool stops;
    bool reader_stops;
};

static int start(void **state)
{
    (void)state;
    return test_postgres_start(&server, NULL) ? 0 : -1;
}

static int end(void **state)
{
    (void)state;
    test_postgres_end(&server);
    return 0;
}

static int64_t now_ns(void)
{
    const struct fan_env *env = fan_env_default();
    return env->monotonic_ns(env->context);
}

static bool has(struct load *load, const bool *flag)
{
    pthread_mutex_lock(&load->mutex);
    bool set = *flag;
    pthread_mutex_unlock(&load->mutex);
    return set;
}

static void set(struct load *load, bool *flag)
{
    pthread_mutex_lock(&load->mutex);
    *flag = true;
    pthread_mutex_unlock(&load->mutex);
}

static struct fan_event *event_of(unsigned writer, uint64_t number)
{
    char id[64];
    char payload[64];
    struct fan_event *event = NULL;
    snprintf(id, sizeof(id), "w%u-%" PRIu64, writer, number);
    int size = snprintf(payload, sizeof(payload), "{\"writer\":%u,\"number\":%" PRIu64 "}", writer,
                        number);
    const struct fan_event_draft draft = {
        .size = FAN_EVENT_DRAFT_SIZE,
        .type = "load.event.create",
        .topic = writer == 0 ? "a" : "b",
        .id = id,
        .instance_id = "test",
        .payload = { payload, (size_t)size },
    };
    return fan_event_new(&draft, NULL, &event, NULL) == FAN_OK ? event : NULL;
}

/* One call, and how it went. */
static enum fan_status put(struct writer *writer, struct fan_store *store, struct fan_append *items)
{
    int64_t begun_ns = now_ns();
    enum fan_status status = fan_store_append(store, items, BATCH_COUNT, NULL);
    /* A call waits for a connection, and then for its statements. */
    if (now_ns() - begun_ns > 2 * TIMEOUT_MS * INT64_C(1000000) + SLACK_NS)
        snprintf(writer->problem, sizeof(writer->problem), "an append took too long");
    if (status != FAN_OK && status != FAN_UNAVAILABLE && status != FAN_UNKNOWN)
        snprintf(writer->problem, sizeof(writer->problem), "an append gave %s",
                 fan_status_name(status));
    for (size_t i = 0; status == FAN_OK && i < BATCH_COUNT; i++) {
        if (items[i].ret_status != FAN_OK || items[i].ret_seq <= writer->last_seq)
            snprintf(writer->problem, sizeof(writer->problem), "%s has %" PRIu64 " after %" PRIu64,
                     fan_event_id(items[i].event), items[i].ret_seq, writer->last_seq);
        writer->found += items[i].ret_duplicate;
        writer->last_seq = items[i].ret_seq;
    }
    writer->unknown_calls += status == FAN_UNKNOWN;
    return status;
}

/* Appends until it is told to stop, each batch again and again until that is acknowledged. */
static void *write_events(void *context)
{
    struct writer *writer = context;
    struct load *load = writer->load;
    struct fan_store *store = NULL;
    if (fan_store_open(load->uri, NULL, &store, NULL) != FAN_OK) {
        pthread_mutex_lock(&load->mutex);
        snprintf(writer->problem, sizeof(writer->problem), "no store");
        pthread_cond_broadcast(&load->moved);
        pthread_mutex_unlock(&load->mutex);
        return NULL;
    }
    while (!has(load, &load->stops) && !*writer->problem) {
        struct fan_append items[BATCH_COUNT] = { { .event = NULL } };
        struct fan_event *events[BATCH_COUNT];
        for (size_t i = 0; i < BATCH_COUNT; i++) {
            events[i] = event_of(writer->number, writer->attempted + i + 1);
            items[i].event = events[i];
        }
        pthread_mutex_lock(&load->mutex);
        writer->attempted += BATCH_COUNT;
        pthread_mutex_unlock(&load->mutex);
        enum fan_status status = FAN_UNAVAILABLE;
        while (status != FAN_OK && !*writer->problem && !has(load, &load->stops)) {
            status = put(writer, store, items);
            pthread_mutex_lock(&load->mutex);
            if (status == FAN_OK)
                writer->acknowledged += BATCH_COUNT;
            else
                writer->failed_calls++;
            pthread_cond_broadcast(&load->moved);
            pthread_mutex_unlock(&load->mutex);
        }
        for (size_t i = 0; i < BATCH_COUNT; i++)
            fan_event_free(events[i], NULL);
    }
    fan_store_close(store);
    return NULL;
}

/* Follows the log as a subscriber does: read what is there, wait, read again. */
static void *read_events(void *context)
{
    struct load *load = context;
    struct fan_store *store = NULL;
    struct fan_batch *batch = NULL;
    const struct fan_query query = { .size = FAN_QUERY_SIZE };
    uint64_t seq = 0;
    if (fan_store_open(load->uri, NULL, &store, NULL) != FAN_OK ||
        fan_batch_new(NULL, &batch) != FAN_OK) {
        snprintf(load->problem, sizeof(load->problem), "no store for the reader");
        return NULL;
    }
    bool last = false;
    while (!last) {
        struct fan_read_result result;
        bool stops = has(load, &load->reader_stops);
        if (fan_store_read(store, seq, &query, batch, &result) == FAN_OK) {
            for (size_t i = 0; i < fan_batch_count(batch); i++) {
                if (fan_batch_add_event(load->seen, fan_batch_event(batch, i)) != FAN_OK)
                    snprintf(load->problem, sizeof(load->problem), "no memory");
            }
            seq = result.scanned_seq;
            last = stops && seq == result.head_seq;
        }
        enum fan_status status = last ? FAN_OK : fan_store_wait(store, seq, 50);
        if (status != FAN_OK && status != FAN_AGAIN && status != FAN_UNAVAILABLE)
            snprintf(load->problem, sizeof(load->problem), "a wait gave %s",
                     fan_status_name(status));
    }
    fan_batch_free(batch);
    fan_store_close(store);
    return NULL;
}

/* The load's own time is short, for what is to fail; this one has ten times that. */
static struct fan_store *open_patiently(const struct load *load)
{
    char uri[sizeof(load->uri) + 1];
    struct fan_store *store = NULL;
    snprintf(uri, sizeof(uri), "%s0", load->uri);
    assert_ok(fan_store_open(uri, NULL, &store, NULL));
    return store;
}

static void load_begin(struct load *load, const char *options)
{
    char all[160];
    *load = (struct load){ .stops = false };
    snprintf(all, sizeof(all), "%s&open_ms=30000&timeout_ms=%d", options, TIMEOUT_MS);
    test_postgres_uri(&server, all, load->uri, sizeof(load->uri));
    pthread_mutex_init(&load->mutex, NULL);
    pthread_cond_init(&load->moved, NULL);
    assert_ok(fan_batch_new(NULL, &load->seen));
    fan_store_close(open_patiently(load));
    for (unsigned i = 0; i < WRITER_COUNT; i++) {
        load->writers[i] = (struct writer){ .load = load, .number = i };
        assert_int_equal(
            pthread_create(&load->writers[i].thread, NULL, write_events, &load->writers[i]), 0);
    }
    assert_int_equal(pthread_create(&load->reader, NULL, read_events, load), 0);
}

/* Waits until each writer has had so many more acknowledgements, or failed calls. */
static void load_wait(struct load *load, uint64_t acknowledged, uint64_t failed_calls)
{
    pthread_mutex_lock(&load->mutex);
    for (size_t i = 0; i < WRITER_COUNT; i++) {
        struct writer *writer = &load->writers[i];
        uint64_t until = writer->acknowledged + acknowledged;
        uint64_t until_failed = writer->failed_calls + failed_calls;
        while ((writer->acknowledged < until || writer->failed_calls < until_failed) &&
               !*writer->problem)
            pthread_cond_wait(&load->moved, &load->mutex);
    }
    pthread_mutex_unlock(&load->mutex);
}

/* What is stored: each event once, in its writer's order, none that was not attempted. */
static void check_log(struct load *load, struct fan_store *store)
{
    struct fan_batch *batch = NULL;
    const struct fan_query query = { .size = FAN_QUERY_SIZE };
    struct fan_read_result result = { .scanned_seq = 0 };
    uint64_t numbers[WRITER_COUNT] = { 0 };
    size_t count = 0;
    assert_ok(fan_batch_new(NULL, &batch));
    do {
        assert_ok(fan_store_read(store, result.scanned_seq, &query, batch, &result));
        for (size_t i = 0; i < fan_batch_count(batch); i++) {
            const struct fan_event *event = fan_batch_event(batch, i);
            const struct fan_event *seen = fan_batch_event(load->seen, count++);
            unsigned writer = WRITER_COUNT;
            uint64_t number = 0;
            assert_int_equal(sscanf(fan_event_id(event), "w%u-%" SCNu64, &writer, &number), 2);
            assert_true(writer < WRITER_COUNT);
            assert_int_equal(number, ++numbers[writer]);
            assert_non_null(seen);
            assert_string_equal(fan_event_id(seen), fan_event_id(event));
            assert_int_equal(fan_event_seq(seen), fan_event_seq(event));
        }
    } while (result.scanned_seq < result.head_seq);
    assert_int_equal(fan_batch_count(load->seen), count);
    for (size_t i = 0; i < WRITER_COUNT; i++) {
        assert_true(load->writers[i].acknowledged <= numbers[i]);
        assert_true(numbers[i] <= load->writers[i].attempted);
        assert_true(numbers[i] > 0);
    }
    fan_batch_free(batch);
}

static void load_end(struct load *load)
{
    struct fan_store *store = NULL;
    set(load, &load->stops);
    for (size_t i = 0; i < WRITER_COUNT; i++)
        pthread_join(load->writers[i].thread, NULL);
    /* A statement that was given up may still be on its way: the log stands still behind it. */
    assert_true(test_postgres_tell(&server, "cut"));
    set(load, &load->reader_stops);
    pthread_join(load->reader, NULL);
    for (size_t i = 0; i < WRITER_COUNT; i++) {
        const struct writer *writer = &load->writers[i];
        print_message("# acknowledged %" PRIu64 ", failed calls %" PRIu64 ", %" PRIu64
                      " of them with an unknown outcome, which had stored %" PRIu64 "\n",
                      writer->acknowledged, writer->failed_calls, writer->unknown_calls,
                      writer->found);
        assert_string_equal(writer->problem, "");
    }
    assert_string_equal(load->problem, "");
    store = open_patiently(load);
    check_log(load, store);
    fan_store_close(store);
    fan_batch_free(load->seen);
    pthread_cond_destroy(&load->moved);
    pthread_mutex_destroy(&load->mutex);
}

static void test_R01_a_server_that_is_killed_loses_nothing(void **state)
{
    (void)state;
    struct load load;
    load_begin(&load, "schema=killed");
    for (int round = test_is_soak() ? 20 : 2; round > 0; round--) {
        load_wait(&load, 200, 0);
        assert_true(test_postgres_tell(&server, "kill"));
        load_wait(&load, 0, 2);
        assert_true(test_postgres_tell(&server, "start"));
    }
    load_wait(&load, 100, 0);
    load_end(&load);
}

static void test_R01_a_server_that_stands_still_is_given_up_in_time(void **state)
{
    (void)state;
    struct load load;
    load_begin(&load, "schema=stopped");
    load_wait(&load, 100, 0);
    assert_true(test_postgres_tell(&server, "stop"));
    load_wait(&load, 0, test_is_soak() ? 8 : 3);
    assert_true(test_postgres_tell(&server, "cont"));
    load_wait(&load, 100, 0);
    load_end(&load);
}

static void test_R01_connections_that_are_cut_lose_nothing(void **state)
{
    (void)state;
    struct load load;
    load_begin(&load, "schema=cut");
    for (int round = test_is_soak() ? 100 : 8; round > 0; round--) {
        load_wait(&load, 60, 0);
        assert_true(test_postgres_tell(&server, "cut"));
    }
    load_wait(&load, 60, 0);
    load_end(&load);
}

static void test_R01_a_standby_is_waited_for_until_it_is_promoted(void **state)
{
    (void)state;
    struct load load;
    load_begin(&load, "schema=standby");
    load_wait(&load, 100, 0);
    assert_true(test_postgres_tell(&server, "standby"));
    load_wait(&load, 0, 2);
    assert_true(test_postgres_tell(&server, "promote"));
    load_wait(&load, 100, 0);
    load_end(&load);
}

/* A server that replays its log for long is there, and says so to everybody (57P03). */
static void test_R01_a_server_in_recovery_is_waited_for(void **state)
{
    (void)state;
    char uri[256];
    struct load load;
    struct fan_store *store = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    load_begin(&load, "schema=recovery");
    load_wait(&load, 100, 0);
    assert_true(test_postgres_tell(&server, "recover"));
    load_wait(&load, 0, 3);
    test_postgres_uri(&server, "schema=recovery&timeout_ms=500", uri, sizeof(uri));
    /* A server that is busy may not come to say so within the time. */
    for (int tries = 1; !strstr(error.message, "the database system is"); tries++) {
        if (tries > 100)
            fail_msg("%s", error.message);
        assert_int_equal(fan_store_open(uri, NULL, &store, &error), FAN_UNAVAILABLE);
    }
    load_wait(&load, 0, test_is_soak() ? 20 : 1);
    assert_true(test_postgres_tell(&server, "recovered"));
    load_wait(&load, 100, 0);
    load_end(&load);
}

static void *start_server(void *context)
{
    (void)context;
    return test_postgres_tell(&server, "start") ? &server : NULL;
}

static void test_R01_a_log_is_opened_once_its_server_is_up(void **state)
{
    (void)state;
    char uri[256];
    struct fan_store *store = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    assert_true(test_postgres_tell(&server, "kill"));
    test_postgres_uri(&server, "schema=late&timeout_ms=200", uri, sizeof(uri));
    assert_int_equal(fan_store_open(uri, NULL, &store, &error), FAN_UNAVAILABLE);
    assert_null(store);
    pthread_t starter;
    void *started = NULL;
    assert_int_equal(pthread_create(&starter, NULL, start_server, NULL), 0);
    test_postgres_uri(&server, "schema=late&open_ms=60000", uri, sizeof(uri));
    assert_ok(fan_store_open(uri, NULL, &store, &error));
    pthread_join(starter, &started);
    assert_ptr_equal(started, &server);
    fan_store_close(store);
}

/* ---- Answers that are lost ---- */

#define PAIR_COUNT 16

/* Between a store and its server: the next answer to a commit that changed rows goes nowhere. */
struct proxy {
    pthread_t thread;
    int listener;
    int stop[2];
    unsigned port;
    pthread_mutex_t mutex;
    bool armed;
    int pairs[PAIR_COUNT][2]; /* the store's side, the server's */
};

static int connect_server(unsigned port)
{
    int file = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = { .sin_family = AF_INET,
                                   .sin_port = htons((uint16_t)port),
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    if (connect(file, (struct sockaddr *)&address, sizeof(address)) == 0)
        return file;
    close(file);
    return -1;
}

static void close_pair(int pair[2])
{
    for (int i = 0; i < 2; i++) {
        if (pair[i] >= 0)
            close(pair[i]);
        pair[i] = -1;
    }
}

/* Whether this answer is the one that gets lost. */
static bool swallows(struct proxy *proxy, const char *data, size_t size)
{
    pthread_mutex_lock(&proxy->mutex);
    bool swallowed =
        proxy->armed && memmem(data, size, "UPDATE 1", 9) && memmem(data, size, "COMMIT", 7);
    if (swallowed)
        proxy->armed = false;
    pthread_mutex_unlock(&proxy->mutex);
    return swallowed;
}

static void pass_on(struct proxy *proxy, int pair[2], int from)
{
    char data[65536];
    ssize_t size = recv(pair[from], data, sizeof(data), 0);
    bool good = size > 0 && !(from == 1 && swallows(proxy, data, (size_t)size));
    for (ssize_t at = 0; good && at < size;) {
        ssize_t sent = send(pair[!from], data + at, (size_t)(size - at), MSG_NOSIGNAL);
        good = sent > 0;
        at += sent;
    }
    if (!good)
        close_pair(pair);
}

static void take_client(struct proxy *proxy)
{
    int client = accept4(proxy->listener, NULL, NULL, SOCK_CLOEXEC);
    size_t i = 0;
    while (i < PAIR_COUNT && proxy->pairs[i][0] >= 0)
        i++;
    int other = i < PAIR_COUNT ? connect_server(server.port) : -1;
    if (client >= 0 && other >= 0) {
        proxy->pairs[i][0] = client;
        proxy->pairs[i][1] = other;
        return;
    }
    close_pair((int[2]){ client, other });
}

static void *run_proxy(void *context)
{
    struct proxy *proxy = context;
    for (;;) {
        struct pollfd files[2 + 2 * PAIR_COUNT] = { { .fd = proxy->stop[0], .events = POLLIN },
                                                    { .fd = proxy->listener, .events = POLLIN } };
        for (size_t i = 0; i < 2 * PAIR_COUNT; i++)
            files[2 + i] = (struct pollfd){ .fd = proxy->pairs[i / 2][i % 2], .events = POLLIN };
        if (poll(files, 2 + 2 * PAIR_COUNT, -1) < 0)
            continue;
        if (files[0].revents)
            return NULL;
        for (size_t i = 0; i < 2 * PAIR_COUNT; i++) {
            if (files[2 + i].revents && proxy->pairs[i / 2][i % 2] == files[2 + i].fd)
                pass_on(proxy, proxy->pairs[i / 2], (int)(i % 2));
        }
        if (files[1].revents)
            take_client(proxy);
    }
}

static void proxy_start(struct proxy *proxy)
{
    struct sockaddr_in address = { .sin_family = AF_INET,
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof(address);
    *proxy = (struct proxy){ .armed = false };
    for (size_t i = 0; i < PAIR_COUNT; i++)
        proxy->pairs[i][0] = proxy->pairs[i][1] = -1;
    pthread_mutex_init(&proxy->mutex, NULL);
    proxy->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(proxy->listener, (struct sockaddr *)&address, size), 0);
    assert_int_equal(listen(proxy->listener, PAIR_COUNT), 0);
    assert_int_equal(getsockname(proxy->listener, (struct sockaddr *)&address, &size), 0);
    proxy->port = ntohs(address.sin_port);
    assert_int_equal(pipe2(proxy->stop, O_CLOEXEC), 0);
    assert_int_equal(pthread_create(&proxy->thread, NULL, run_proxy, proxy), 0);
}

static void proxy_arm(struct proxy *proxy)
{
    pthread_mutex_lock(&proxy->mutex);
    proxy->armed = true;
    pthread_mutex_unlock(&proxy->mutex);
}

static void proxy_end(struct proxy *proxy)
{
    close(proxy->stop[1]);
    pthread_join(proxy->thread, NULL);
    close(proxy->stop[0]);
    close(proxy->listener);
    for (size_t i = 0; i < PAIR_COUNT; i++)
        close_pair(proxy->pairs[i]);
    pthread_mutex_destroy(&proxy->mutex);
}

struct claimed {
    struct fan_store *store;
    struct fan_group_name name;
    struct fan_batch *batch;
    struct fan_claim claims[4];
};

static enum fan_status claim(struct claimed *claimed)
{
    const struct fan_claim_options options = {
        .size = FAN_CLAIM_OPTIONS_SIZE, .owner = "me", .limit = 4, .lease_ms = 3600000
    };
    return fan_group_claim(claimed->store, &claimed->name, &options, claimed->batch,
                           claimed->claims);
}

static void put_one(struct fan_store *store, uint64_t number)
{
    struct fan_event *event = event_of(0, number);
    struct fan_append item = { .event = event };
    assert_ok(fan_store_append(store, &item, 1, NULL));
    fan_event_free(event, NULL);
}

/*
 * What a claim gave whose answer was lost is nobody's attempt, and is not held until a lease ends.
 */
static void test_P09_a_claim_whose_answer_is_lost_is_none(void **state)
{
    (void)state;
    char uri[200];
    struct proxy proxy;
    struct claimed claimed = { .name = { "g", "h" } };
    const struct fan_group_options group = { .size = FAN_GROUP_OPTIONS_SIZE };
    proxy_start(&proxy);
    snprintf(uri, sizeof(uri),
             "postgres://fan:geheim@127.0.0.1:%u/fan?schema=lost&timeout_ms=30000", proxy.port);
    assert_ok(fan_batch_new(NULL, &claimed.batch));
    assert_ok(fan_store_open(uri, NULL, &claimed.store, NULL));
    assert_ok(fan_group_create(claimed.store, &claimed.name, &group, NULL));
    put_one(claimed.store, 1);
    put_one(claimed.store, 2);
    assert_ok(claim(&claimed));
    assert_int_equal(fan_batch_count(claimed.batch), 2);
    struct fan_settle settle = { .seq = 1,
                                 .token = claimed.claims[0].token,
                                 .verdict = FAN_VERDICT_RETRY };
    assert_ok(fan_group_settle(claimed.store, &claimed.name, &settle, 1));
    put_one(claimed.store, 3);
    /* One that is tried again and one that is given for the first time. */
    proxy_arm(&proxy);
    assert_int_equal(claim(&claimed), FAN_UNKNOWN);
    assert_int_equal(fan_batch_count(claimed.batch), 0);
    /* Lost again, and still no attempt. */
    proxy_arm(&proxy);
    assert_int_equal(claim(&claimed), FAN_UNKNOWN);
    assert_ok(claim(&claimed));
    assert_int_equal(fan_batch_count(claimed.batch), 2);
    for (size_t i = 0; i < 2; i++) {
        const struct fan_claim *one = &claimed.claims[i];
        assert_int_equal(one->attempt, one->seq == 1 ? 2 : 1);
        assert_int_equal(one->lapses, 0);
    }
    /* What is held is held. */
    assert_int_equal(claim(&claimed), FAN_AGAIN);
    fan_store_close(claimed.store);
    fan_batch_free(claimed.batch);
    proxy_end(&proxy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_P09_a_claim_whose_answer_is_lost_is_none),
        cmocka_unit_test(test_R01_a_server_that_is_killed_loses_nothing),
        cmocka_unit_test(test_R01_a_server_in_recovery_is_waited_for),
        cmocka_unit_test(test_R01_a_server_that_stands_still_is_given_up_in_time),
        cmocka_unit_test(test_R01_connections_that_are_cut_lose_nothing),
        cmocka_unit_test(test_R01_a_log_is_opened_once_its_server_is_up),
        cmocka_unit_test(test_R01_a_standby_is_waited_for_until_it_is_promoted),
    };
    return cmocka_run_group_tests(tests, start, end);
}
