/*
 * The tee: the first store is the log, the second gets everything, whatever happens to it in the
 * meantime: each event once, in order, as it is in the first, and nothing that was removed there.
 */
#include "../folder.h"
#include "../seed.h"
#include "../test.h"

#include <fanfare/batch.h>
#include <fanfare/env.h>
#include <fanfare/fault.h>
#include <fanfare/keep.h>
#include <fanfare/tee.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef WITH_POSTGRES
#include "../postgres.h"
#endif

#define WAIT_MS 60000

static struct fan_store *open_uri(const char *uri)
{
    struct fan_store *store = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    if (fan_store_open(uri, NULL, &store, &error) != FAN_OK)
        fail_msg("%s", error.message);
    return store;
}

static enum fan_status append(struct fan_store *store, unsigned number)
{
    char id[32];
    char payload[64];
    struct fan_event *event = NULL;
    snprintf(id, sizeof(id), "event-%u", number);
    int size = snprintf(payload, sizeof(payload), "{\"number\": %u}", number);
    const struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE,
                                           .id = id,
                                           .type = "tee.event.copied",
                                           .created_us = 1700000000000000 + number,
                                           .payload = { payload, (size_t)size } };
    assert_ok(fan_event_new(&draft, NULL, &event, NULL));
    struct fan_append item = { .event = event };
    enum fan_status status = fan_store_append(store, &item, 1, NULL);
    fan_event_free(event, NULL);
    return status;
}

static void append_all(struct fan_store *store, unsigned first, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        assert_ok(append(store, first + i));
}

static struct fan_tee_stats stats_of(struct fan_store *tee)
{
    struct fan_tee_stats stats = { .size = sizeof(stats) };
    assert_ok(fan_tee_stats(tee, &stats));
    return stats;
}

static struct fan_batch *read_all(struct fan_store *store)
{
    struct fan_batch *batch = NULL;
    struct fan_read_result result;
    const struct fan_query query = { .size = FAN_QUERY_SIZE, .limit = 5000 };
    assert_ok(fan_batch_new(NULL, &batch));
    assert_ok(fan_store_read(store, 0, &query, batch, &result));
    assert_int_equal(result.scanned_seq, result.head_seq);
    return batch;
}

/* The same events in the same order, but for their sequences. */
static void assert_same(struct fan_store *first, struct fan_store *second, size_t count)
{
    struct fan_batch *ours = read_all(first);
    struct fan_batch *theirs = read_all(second);
    assert_int_equal(fan_batch_count(ours), count);
    assert_int_equal(fan_batch_count(theirs), count);
    for (size_t i = 0; i < count; i++) {
        const struct fan_event *a = fan_batch_event(ours, i);
        const struct fan_event *b = fan_batch_event(theirs, i);
        assert_string_equal(fan_event_id(a), fan_event_id(b));
        assert_int_equal(fan_event_created_us(a), fan_event_created_us(b));
        assert_int_equal(fan_event_payload(a).size, fan_event_payload(b).size);
        assert_memory_equal(fan_event_payload(a).data, fan_event_payload(b).data,
                            fan_event_payload(a).size);
    }
    fan_batch_free(ours);
    fan_batch_free(theirs);
}

/* Two stores in memory, the second of which fails as it is told to. */
struct pair {
    struct fan_store *first;
    struct fan_store *copy;
    struct fan_store *second;
    struct fan_store *tee;
};

static void join(struct pair *pair)
{
    struct fan_error error = FAN_ERROR_INIT;
    if (fan_tee_wrap(pair->first, pair->second, NULL, &pair->tee, &error) != FAN_OK)
        fail_msg("%s", error.message);
}

static struct pair pair_make(const char *first_uri)
{
    struct pair pair = { .first = open_uri(first_uri), .copy = open_uri("memory:") };
    assert_ok(fan_fault_wrap(pair.copy, NULL, NULL, &pair.second, NULL));
    join(&pair);
    return pair;
}

static void pair_end(struct pair *pair)
{
    fan_store_close(pair->tee);
    fan_store_close(pair->second);
    fan_store_close(pair->copy);
    fan_store_close(pair->first);
}

static void test_P06_what_the_second_missed_it_gets_later(void **state)
{
    (void)state;
    struct pair pair = pair_make("memory:");
    append_all(pair.tee, 0, 10);
    assert_ok(fan_tee_wait(pair.tee, WAIT_MS));
    assert_ok(fan_fault_set(pair.second, "unavailable=100%", NULL));
    append_all(pair.tee, 10, 50);
    assert_int_equal(fan_tee_wait(pair.tee, 1), FAN_TIMED_OUT);
    struct fan_tee_stats stats = stats_of(pair.tee);
    while (stats.failures == 0)
        stats = stats_of(pair.tee);
    assert_int_equal(stats.status, FAN_UNAVAILABLE);
    assert_true(*stats.words != '\0');
    assert_int_equal(stats.lag, 50);
    assert_int_equal(stats.copied_seq, 10);
    /* The log itself is there as ever. */
    uint64_t head_seq = 0;
    assert_ok(fan_store_head(pair.tee, &head_seq));
    assert_int_equal(head_seq, 60);
    assert_ok(fan_fault_set(pair.second, NULL, NULL));
    assert_ok(fan_tee_wait(pair.tee, WAIT_MS));
    stats = stats_of(pair.tee);
    assert_int_equal(stats.status, FAN_OK);
    assert_string_equal(stats.words, "");
    assert_int_equal(stats.lag, 0);
    assert_int_equal(stats.copied, 60);
    assert_int_equal(stats.torn_seq, 0);
    assert_same(pair.first, pair.copy, 60);
    pair_end(&pair);
}

static void test_P06_removed_is_removed_in_both_or_told(void **state)
{
    (void)state;
    struct pair pair = pair_make("memory:");
    append_all(pair.tee, 0, 5);
    assert_ok(fan_tee_wait(pair.tee, WAIT_MS));
    assert_ok(fan_store_delete(pair.tee, "event-1"));
    assert_ok(fan_store_erase(pair.tee, "event-2"));
    assert_int_equal(fan_store_delete(pair.tee, "event-1"), FAN_NOT_FOUND);
    assert_same(pair.first, pair.copy, 4);
    assert_ok(fan_fault_set(pair.second, "remove.io=100%,erase.io=100%", NULL));
    assert_int_equal(fan_store_delete(pair.tee, "event-3"), FAN_IO);
    assert_int_equal(fan_store_erase(pair.tee, "event-4"), FAN_IO);
    assert_ok(fan_fault_set(pair.second, NULL, NULL));
    assert_int_equal(fan_store_delete(pair.tee, "event-3"), FAN_NOT_FOUND);
    assert_ok(fan_store_erase(pair.tee, "event-4"));
    assert_same(pair.first, pair.copy, 3);
    /* What is removed before it was copied does not come up later. */
    assert_ok(fan_fault_set(pair.second, "append.unavailable=100%", NULL));
    append_all(pair.tee, 5, 5);
    assert_ok(fan_store_delete(pair.tee, "event-7"));
    assert_ok(fan_fault_set(pair.second, NULL, NULL));
    assert_ok(fan_tee_wait(pair.tee, WAIT_MS));
    assert_same(pair.first, pair.copy, 7);
    pair_end(&pair);
}

static void test_P11_what_went_before_it_was_copied_is_told(void **state)
{
    (void)state;
    struct pair pair = pair_make("memory:?capacity=10");
    append_all(pair.tee, 0, 5);
    assert_ok(fan_tee_wait(pair.tee, WAIT_MS));
    assert_ok(fan_fault_set(pair.second, "append.no_space=100%", NULL));
    append_all(pair.tee, 5, 20);
    assert_ok(fan_fault_set(pair.second, NULL, NULL));
    assert_ok(fan_tee_wait(pair.tee, WAIT_MS));
    struct fan_tee_stats stats = stats_of(pair.tee);
    assert_int_equal(stats.torn_seq, 15);
    assert_int_equal(stats.copied, 15);
    /* What has gone from the first since it was copied stays in the second. */
    struct fan_batch *batch = NULL;
    assert_ok(fan_batch_new(NULL, &batch));
    assert_int_equal(fan_store_get(pair.tee, "event-0", batch, NULL), FAN_NOT_FOUND);
    assert_ok(fan_store_get(pair.copy, "event-0", batch, NULL));
    fan_batch_free(batch);
    pair_end(&pair);
}

static void test_P05_a_second_that_stands_still_holds_up_nobody(void **state)
{
    (void)state;
    struct pair pair = pair_make("memory:");
    assert_ok(fan_fault_set(pair.second, "append.stall=100%,stall_ms=3600000", NULL));
    append_all(pair.tee, 0, 20);
    uint64_t stalled = 0;
    while (stalled == 0)
        assert_ok(fan_fault_count(pair.second, "append.stall", &stalled));
    append_all(pair.tee, 20, 20);
    assert_int_equal(stats_of(pair.tee).lag, 40);
    /* The close does not wait for it either, and the next one finds its place. */
    fan_store_close(pair.tee);
    assert_ok(fan_fault_set(pair.second, NULL, NULL));
    join(&pair);
    assert_ok(fan_tee_wait(pair.tee, WAIT_MS));
    assert_same(pair.first, pair.copy, 40);
    pair_end(&pair);
}

static void test_P05_a_tee_opens_while_its_second_is_away(void **state)
{
    (void)state;
    struct fan_store *tee = open_uri("tee:memory:|fault:unavailable=100%,limit=5:memory:");
    append_all(tee, 0, 10);
    assert_ok(fan_tee_wait(tee, WAIT_MS));
    assert_true(stats_of(tee).failures > 0);
    assert_int_equal(stats_of(tee).copied, 10);
    fan_store_close(tee);
}

static void test_P13_after_a_restart_the_copy_goes_on(void **state)
{
    (void)state;
    char folder[TEST_FOLDER_SIZE];
    char first_uri[128];
    char second_uri[128];
    char uri[320];
    assert_true(test_folder_make(folder));
    snprintf(first_uri, sizeof(first_uri), "sqlite:%s/first.db?synchronous=normal", folder);
    snprintf(second_uri, sizeof(second_uri), "sqlite:%s/second.db?synchronous=normal", folder);
    snprintf(uri, sizeof(uri), "tee:%s|%s", first_uri, second_uri);
    /* A log that is there already is copied from its beginning. */
    struct fan_store *store = open_uri(first_uri);
    append_all(store, 0, 30);
    fan_store_close(store);
    for (unsigned round = 0; round < 3; round++) {
        store = open_uri(uri);
        assert_string_equal(fan_store_name(store), "tee");
        append_all(store, 30 + round * 20, 10);
        if (round > 0)
            assert_ok(fan_tee_wait(store, WAIT_MS));
        fan_store_close(store);
        /* And one who knows nothing of the copy goes on with the log. */
        store = open_uri(first_uri);
        append_all(store, 40 + round * 20, 10);
        fan_store_close(store);
    }
    store = open_uri(uri);
    assert_ok(fan_tee_wait(store, WAIT_MS));
    assert_true(stats_of(store).copied < 90);
    fan_store_close(store);
    struct fan_store *first = open_uri(first_uri);
    struct fan_store *second = open_uri(second_uri);
    assert_same(first, second, 90);
    assert_int_not_equal(fan_store_epoch(first), fan_store_epoch(second));
    fan_store_close(first);
    fan_store_close(second);
    test_folder_remove(folder);
}

/* A copy on its way that came through, but was not heard of; meanwhile the event is removed. */
static void test_P06_what_is_removed_while_its_copy_is_in_doubt_goes_from_both(void **state)
{
    (void)state;
    struct pair pair = pair_make("memory:");
    uint64_t begun = 0;
    assert_ok(fan_fault_set(
        pair.second, "append.unknown_done=100%,limit=1,append.delay=100%,delay_ms=300-300", NULL));
    append_all(pair.tee, 0, 1);
    while (begun == 0)
        assert_ok(fan_fault_count(pair.second, "append.delay", &begun));
    assert_ok(fan_store_delete(pair.tee, "event-0"));
    append_all(pair.tee, 1, 1);
    assert_ok(fan_tee_wait(pair.tee, WAIT_MS));
    assert_same(pair.first, pair.copy, 1);
    pair_end(&pair);
}

static void test_P07_what_is_no_pair_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *uri;
        const char *words;
    } bad[] = {
        { "tee:", "two URIs" },
        { "tee:memory:", "two URIs" },
        { "tee:memory:|", "two URIs" },
        { "tee:|memory:", "two URIs" },
        { "tee:memory:|memory:|memory:", "two URIs" },
        { "tee:memory:|mongodb://u:hidden@host", "unknown scheme" },
        { "tee:memory:|memory:?capacity=none", "capacity" },
        { "tee:sqlite:/nowhere/a.db|memory:", "no such folder" },
    };
    struct fan_store *tee = NULL;
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        struct fan_error error = FAN_ERROR_INIT;
        assert_int_not_equal(fan_store_open(bad[i].uri, NULL, &tee, &error), FAN_OK);
        if (!strstr(error.message, bad[i].words))
            fail_msg("%s", error.message);
        assert_null(strstr(error.message, "hidden"));
    }
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_store *first = open_uri("memory:");
    struct fan_store *second = open_uri("memory:");
    struct fan_store *twin = NULL;
    assert_ok(fan_fault_wrap(first, NULL, NULL, &twin, NULL));
    assert_int_equal(fan_tee_wrap(first, twin, NULL, &tee, &error), FAN_INVALID);
    append_all(second, 100, 3);
    append_all(first, 0, 3);
    assert_int_equal(fan_tee_wrap(first, second, NULL, &tee, &error), FAN_CONFLICT);
    struct fan_tee_stats stats = { .size = sizeof(stats) };
    assert_int_equal(fan_tee_stats(first, &stats), FAN_MISUSE);
    assert_int_equal(fan_tee_wait(first, 0), FAN_MISUSE);
    fan_store_close(twin);
    fan_store_close(second);
    fan_store_close(first);
}

static void hear(void *context, enum fan_log_level level, const char *message)
{
    if (level == FAN_LOG_WARNING && strstr(message, "2 events behind the copy"))
        ++*(unsigned *)context;
}

/* A copy into which somebody else wrote is told of when the tee is opened again. */
static void test_P06_a_second_that_others_write_to_is_told_of_at_open(void **state)
{
    (void)state;
    unsigned heard = 0;
    struct fan_env env = *fan_env_default();
    env.context = &heard;
    env.log = hear;
    struct fan_store *first = open_uri("memory:");
    struct fan_store *second = open_uri("memory:");
    append_all(first, 0, 3);
    for (unsigned i = 0; i < 3; i++) {
        struct fan_store *tee = NULL;
        assert_ok(fan_tee_wrap(first, second, &env, &tee, NULL));
        assert_ok(fan_tee_wait(tee, WAIT_MS));
        fan_store_close(tee);
        assert_int_equal(heard, i == 2);
        if (i == 1)
            append_all(second, 100, 2);
    }
    fan_store_close(second);
    fan_store_close(first);
}

static const char *const weathers[] = {
    "errors=30%,unknown=20%,torn=20%",
    "unknown_done=60%",
    "append.torn=80%",
    "unavailable=100%",
    "delay=50%,delay_ms=0-1",
    "",
};

static uint64_t last_seed;

/* Random calls on a tee, the second of which fails, and which is closed now and then. */
static void run_seed(uint64_t seed)
{
    struct pair pair = pair_make("memory:");
    unsigned number = 0;
    uint64_t random = seed;
    char faults[64];
    snprintf(faults, sizeof(faults), "seed=%" PRIu64, seed);
    assert_ok(fan_fault_set(pair.second, faults, NULL));
    for (int i = 0; i < 150; i++) {
        random = random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        uint64_t what = random >> 33;
        char id[32];
        snprintf(id, sizeof(id), "event-%u", number > 0 ? (unsigned)(what / 8 % number) : 0);
        if (what % 8 < 4) {
            assert_ok(append(pair.tee, number++));
            continue;
        }
        enum fan_status status = FAN_IO;
        if (what % 8 == 7)
            assert_ok(fan_fault_set(
                pair.second, weathers[what / 8 % (sizeof(weathers) / sizeof(*weathers))], NULL));
        /* Who removes asks until it is told; who is impatient looks after the weather first. */
        bool calm = what % 3 == 0;
        if (calm && what % 8 < 7)
            assert_ok(fan_fault_set(pair.second, NULL, NULL));
        for (int tries = 0; what % 8 < 6 && calm && tries < 10; tries++) {
            status = what % 8 == 4 ? fan_store_delete(pair.tee, id) : fan_store_erase(pair.tee, id);
            if (status == FAN_OK || status == FAN_NOT_FOUND)
                break;
        }
        if (what % 8 == 6 && calm) {
            fan_store_close(pair.tee);
            join(&pair);
        }
    }
    assert_ok(fan_fault_set(pair.second, NULL, NULL));
    assert_ok(fan_tee_wait(pair.tee, WAIT_MS));
    struct fan_store_stats stats = { .size = sizeof(stats) };
    assert_ok(fan_store_stats(pair.first, &stats));
    assert_same(pair.first, pair.copy, (size_t)stats.events);
    pair_end(&pair);
}

static void test_P06_the_copy_is_the_log_whatever_happened(void **state)
{
    (void)state;
    const char *only = getenv("FANFARE_SEED");
    uint64_t first = only ? strtoull(only, NULL, 10) : 1;
    uint64_t count = only ? 1 : test_is_soak() ? 5000 : 100;
    for (last_seed = first; last_seed < first + count; last_seed++)
        run_seed(last_seed);
}

static int tell_seed(void **state)
{
    (void)state;
    print_message("# ended at seed %" PRIu64 "\n", last_seed);
    return 0;
}

#ifdef WITH_POSTGRES
/* The way from SQLite to PostgreSQL, whose server is not there yet, and dies on the way. */
static void test_P06_a_log_moves_to_postgres_while_it_is_in_use(void **state)
{
    (void)state;
    struct test_postgres server;
    char folder[TEST_FOLDER_SIZE];
    char first_uri[128];
    char second_uri[160];
    char uri[256 + sizeof(second_uri)];
    assert_true(test_folder_make(folder));
    assert_true(test_postgres_start(&server, NULL));
    snprintf(first_uri, sizeof(first_uri), "sqlite:%s/first.db?synchronous=normal", folder);
    test_postgres_uri(&server, "schema=copy", second_uri, sizeof(second_uri));
    snprintf(uri, sizeof(uri), "tee:%s|%s", first_uri, second_uri);
    assert_true(test_postgres_tell(&server, "kill"));
    struct fan_store *tee = open_uri(uri);
    append_all(tee, 0, 1500);
    struct fan_tee_stats stats = stats_of(tee);
    assert_int_equal(stats.lag, 1500);
    while (stats.failures == 0)
        stats = stats_of(tee);
    assert_int_equal(stats.status, FAN_UNAVAILABLE);
    assert_true(test_postgres_tell(&server, "start"));
    assert_ok(fan_tee_wait(tee, WAIT_MS));
    assert_true(test_postgres_tell(&server, "kill"));
    append_all(tee, 1500, 200);
    assert_int_not_equal(fan_store_delete(tee, "event-7"), FAN_OK);
    assert_true(test_postgres_tell(&server, "start"));
    append_all(tee, 1700, 100);
    enum fan_status status;
    do
        status = fan_store_delete(tee, "event-7");
    while (status == FAN_UNAVAILABLE || status == FAN_UNKNOWN);
    assert_int_equal(status, FAN_NOT_FOUND);
    assert_ok(fan_tee_wait(tee, WAIT_MS));
    fan_store_close(tee);
    struct fan_store *first = open_uri(first_uri);
    struct fan_store *second = open_uri(second_uri);
    assert_same(first, second, 1799);
    fan_store_close(first);
    fan_store_close(second);
    test_postgres_end(&server);
    test_folder_remove(folder);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_P06_what_the_second_missed_it_gets_later),
        cmocka_unit_test(test_P06_removed_is_removed_in_both_or_told),
        cmocka_unit_test(test_P11_what_went_before_it_was_copied_is_told),
        cmocka_unit_test(test_P05_a_second_that_stands_still_holds_up_nobody),
        cmocka_unit_test(test_P05_a_tee_opens_while_its_second_is_away),
        cmocka_unit_test(test_P13_after_a_restart_the_copy_goes_on),
#ifdef WITH_POSTGRES
        cmocka_unit_test(test_P06_a_log_moves_to_postgres_while_it_is_in_use),
#endif
        cmocka_unit_test(test_P06_what_is_removed_while_its_copy_is_in_doubt_goes_from_both),
        cmocka_unit_test(test_P07_what_is_no_pair_is_refused),
        cmocka_unit_test(test_P06_a_second_that_others_write_to_is_told_of_at_open),
        cmocka_unit_test_teardown(test_P06_the_copy_is_the_log_whatever_happened, tell_seed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
