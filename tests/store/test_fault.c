/*
 * The fault provider: what it is told in words, and that each fault does what its word says and is
 * counted; that the same seed makes the same faults; that nothing gets through after a crash.
 */
#include "../test.h"

#include <fanfare/batch.h>
#include <fanfare/env.h>
#include <fanfare/fault.h>
#include <fanfare/group.h>

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define COUNT_MAX 64

struct bench {
    struct fan_store *inner;
    struct fan_store *store;
    struct fan_batch *batch;
    unsigned number;
};

static struct bench bench_make(void)
{
    struct bench bench = { .number = 0 };
    assert_ok(fan_store_open("memory:", NULL, &bench.inner, NULL));
    assert_ok(fan_fault_wrap(bench.inner, NULL, NULL, &bench.store, NULL));
    assert_ok(fan_batch_new(NULL, &bench.batch));
    return bench;
}

static void bench_end(struct bench *bench)
{
    fan_batch_free(bench->batch);
    fan_store_close(bench->store);
    fan_store_close(bench->inner);
}

/* Appends `count` events as units of `unit`; gives the answer. */
static enum fan_status append(struct bench *bench, size_t count, size_t unit)
{
    struct fan_append items[COUNT_MAX] = { { .event = NULL } };
    for (size_t i = 0; i < count; i++) {
        struct fan_event *event = NULL;
        char id[32];
        snprintf(id, sizeof(id), "event-%u", bench->number++);
        const struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE,
                                               .id = id,
                                               .type = "a.fault.happens" };
        assert_ok(fan_event_new(&draft, NULL, &event, NULL));
        items[i] = (struct fan_append){ .event = event, .joined = i % unit != 0 };
    }
    enum fan_status status = fan_store_append(bench->store, items, count, NULL);
    for (size_t i = 0; i < count; i++)
        fan_event_free((struct fan_event *)(uintptr_t)items[i].event, NULL);
    return status;
}

static uint64_t stored(const struct bench *bench)
{
    struct fan_store_stats stats = { .size = sizeof(stats) };
    assert_ok(fan_store_stats(bench->inner, &stats));
    return stats.events;
}

static uint64_t count_of(const struct bench *bench, const char *name)
{
    uint64_t count = 0;
    assert_ok(fan_fault_count(bench->store, name, &count));
    return count;
}

static void tell(const struct bench *bench, const char *faults)
{
    struct fan_error error = FAN_ERROR_INIT;
    if (fan_fault_set(bench->store, faults, &error) != FAN_OK)
        fail_msg("%s: %s", error.field, error.message);
}

static void test_P07_faults_are_told_in_words(void **state)
{
    (void)state;
    struct bench bench = bench_make();
    static const char *const good[] = {
        "seed=18446744073709551615,limit=0",
        "errors=5%,unknown=0.5%,torn=0.0001%,delay=100%,delay_ms=3",
        "append.unknown_done=100%,settle.torn=50%,settle.io=50%",
        "errors=90%,errors=0%,wait.deaf=40%,wait.early=40%,stall_ms=0,crashed=no",
    };
    static const struct {
        const char *words;
        const char *field;
    } bad[] = {
        { "errors", "faults" },
        { "errors=5", "errors" },
        { "errors=101%", "errors" },
        { "errors=.5%", "errors" },
        { "errors=0.00001%", "errors" },
        { "error=5%", "error" },
        { "publish.errors=5%", "publish.errors" },
        { "read.torn=5%", "read.torn" },
        { "get.unknown=5%", "get.unknown" },
        { "append.deaf=5%", "append.deaf" },
        { "append.io=60%,append.torn=60%", "append" },
        { "seed=-1", "seed" },
        { "limit=many", "limit" },
        { "delay_ms=3-1", "delay_ms" },
        { "stall_ms=99999999999", "stall_ms" },
        { "crashed=1", "crashed" },
    };
    for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++)
        tell(&bench, good[i]);
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        struct fan_error error = FAN_ERROR_INIT;
        assert_int_equal(fan_fault_set(bench.store, bad[i].words, &error), FAN_INVALID);
        assert_string_equal(error.field, bad[i].field);
    }
    uint64_t count;
    assert_int_equal(fan_fault_count(bench.store, "tornado", &count), FAN_INVALID);
    assert_int_equal(fan_fault_set(bench.inner, "", NULL), FAN_MISUSE);
    assert_int_equal(fan_fault_count(bench.inner, NULL, &count), FAN_MISUSE);
    assert_false(fan_fault_crashed(bench.inner));
    bench_end(&bench);
}

static void test_P07_a_fault_uri_names_the_store_behind_it(void **state)
{
    (void)state;
    static const struct {
        const char *uri;
        const char *words;
    } bad[] = {
        { "fault:", "store behind" },
        { "fault:errors=5%", "store behind" },
        { "fault:errors=5%:", "store behind" },
        { "fault:mongodb://u:hidden@host", "unknown scheme" },
        { "fault:errors=hidden@5:memory:", "expected a share" },
        { "fault:nats://hidden@host", "unknown scheme" },
        { "fault:memory:?capacity=none", "capacity" },
    };
    struct fan_store *store = NULL;
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        struct fan_error error = FAN_ERROR_INIT;
        assert_int_equal(fan_store_open(bad[i].uri, NULL, &store, &error), FAN_INVALID);
        assert_non_null(strstr(error.message, bad[i].words));
        if (strstr(bad[i].uri, "://"))
            assert_null(strstr(error.message, "hidden"));
    }
    assert_ok(fan_store_open("fault:memory:?capacity=5", NULL, &store, NULL));
    assert_string_equal(fan_store_name(store), "fault");
    fan_store_close(store);
    assert_ok(fan_store_open("fault:crashed=yes:fault:errors=5%:memory:", NULL, &store, NULL));
    assert_true(fan_fault_crashed(store));
    fan_store_close(store);
}

static void test_L09_an_append_fails_as_it_is_told_to(void **state)
{
    (void)state;
    struct bench bench = bench_make();
    static const struct {
        const char *words;
        enum fan_status status;
        bool stored;
    } cases[] = {
        { "append.unavailable=100%", FAN_UNAVAILABLE, false },
        { "append.io=100%", FAN_IO, false },
        { "append.no_space=100%", FAN_NO_SPACE, false },
        { "append.unknown_lost=100%", FAN_UNKNOWN, false },
        { "append.unknown_done=100%", FAN_UNKNOWN, true },
        { "append.stall=100%,stall_ms=1", FAN_UNAVAILABLE, false },
        { "append.crash=100%", FAN_IO, false },
        { "append.crash_done=100%", FAN_UNKNOWN, true },
        { "append.delay=100%,delay_ms=1", FAN_OK, true },
        { "read.errors=100%", FAN_OK, true },
        { "errors=100%,limit=0", FAN_OK, true },
        { "crashed=yes", FAN_IO, false },
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        uint64_t before = stored(&bench);
        uint64_t counted = count_of(&bench, NULL);
        bool injects = strncmp(cases[i].words, "append", strlen("append")) == 0;
        tell(&bench, cases[i].words);
        assert_int_equal(append(&bench, 1, 1), cases[i].status);
        assert_int_equal(stored(&bench) - before, cases[i].stored);
        assert_int_equal(count_of(&bench, NULL) - counted, injects);
    }
    assert_int_equal(count_of(&bench, "append.crash_done"), 1);
    assert_int_equal(count_of(&bench, "errors"), 3);
    assert_int_equal(count_of(&bench, "settle.errors"), 0);
    bench_end(&bench);
}

static void test_L09_a_torn_append_stores_whole_units_from_the_front(void **state)
{
    (void)state;
    struct bench bench = bench_make();
    bool seen[4] = { false };
    tell(&bench, "append.torn=100%");
    for (unsigned i = 0; i < 100; i++) {
        uint64_t before = stored(&bench);
        assert_int_equal(append(&bench, 8, 2), FAN_UNKNOWN);
        uint64_t added = stored(&bench) - before;
        assert_true(added < 8 && added % 2 == 0);
        seen[added / 2] = true;
        for (unsigned k = 0; k < 8; k++) {
            char id[32];
            snprintf(id, sizeof(id), "event-%u", bench.number - 8 + k);
            assert_int_equal(fan_store_get(bench.inner, id, bench.batch, NULL),
                             k < added ? FAN_OK : FAN_NOT_FOUND);
        }
    }
    for (size_t i = 0; i < 4; i++)
        assert_true(seen[i]);
    bench_end(&bench);
}

/* Which of 1,000 appends failed, and how. */
static void run_of(const char *faults, unsigned char statuses[1000])
{
    struct bench bench = bench_make();
    tell(&bench, faults);
    for (size_t i = 0; i < 1000; i++) {
        statuses[i] = (unsigned char)append(&bench, 2, 1);
        uint64_t head_seq;
        if (i % 3 == 0 && fan_store_head(bench.store, &head_seq) != FAN_OK)
            statuses[i] |= 0x80;
    }
    bench_end(&bench);
}

static void test_P06_a_seed_makes_the_same_faults_again(void **state)
{
    (void)state;
    static unsigned char first[1000];
    static unsigned char second[1000];
    static unsigned char other[1000];
    run_of("seed=7,errors=9%,unknown=8%,torn=3%", first);
    run_of("seed=7,errors=9%,unknown=8%,torn=3%", second);
    run_of("seed=8,errors=9%,unknown=8%,torn=3%", other);
    assert_memory_equal(first, second, sizeof(first));
    assert_true(memcmp(first, other, sizeof(first)) != 0);
    unsigned failed = 0;
    for (size_t i = 0; i < 1000; i++)
        failed += (first[i] & 0x7f) != FAN_OK;
    assert_true(failed > 130 && failed < 270);
}

static void test_P06_a_limit_ends_the_faults(void **state)
{
    (void)state;
    struct bench bench = bench_make();
    tell(&bench, "append.io=100%,limit=3");
    for (unsigned i = 0; i < 6; i++)
        assert_int_equal(append(&bench, 1, 1), i < 3 ? FAN_IO : FAN_OK);
    bench_end(&bench);
}

static const struct fan_group_name group = { "readers", "" };

static void test_L08_claims_and_settlements_fail_as_they_are_told_to(void **state)
{
    (void)state;
    struct bench bench = bench_make();
    struct fan_claim claims[8];
    const struct fan_group_options made = { .size = FAN_GROUP_OPTIONS_SIZE };
    const struct fan_claim_options options = { .size = FAN_CLAIM_OPTIONS_SIZE,
                                               .owner = "me",
                                               .limit = 8 };
    tell(&bench, "group_create.unknown_done=100%");
    assert_int_equal(fan_group_create(bench.store, &group, &made, NULL), FAN_UNKNOWN);
    tell(&bench, "claim.unknown_lost=100%");
    assert_int_equal(fan_group_create(bench.store, &group, &made, NULL), FAN_EXISTS);
    assert_ok(append(&bench, 8, 1));
    assert_int_equal(fan_group_claim(bench.store, &group, &options, bench.batch, claims),
                     FAN_UNKNOWN);
    tell(&bench, "settle.torn=100%,seed=3");
    assert_ok(fan_group_claim(bench.store, &group, &options, bench.batch, claims));
    assert_int_equal(fan_batch_count(bench.batch), 8);
    struct fan_settle settles[8];
    for (size_t i = 0; i < 8; i++)
        settles[i] = (struct fan_settle){ .seq = claims[i].seq, .token = claims[i].token };
    assert_int_equal(fan_group_settle(bench.store, &group, settles, 8), FAN_UNKNOWN);
    struct fan_store_stats stats = { .size = sizeof(stats) };
    assert_ok(fan_store_stats(bench.store, &stats));
    assert_true(stats.completed < 8 && stats.processing == 8 - stats.completed);
    tell(&bench, NULL);
    assert_ok(fan_group_settle(bench.store, &group, settles, 8));
    for (size_t i = 0; i < 8; i++)
        assert_int_equal(settles[i].ret_status, i < stats.completed ? FAN_LOST : FAN_OK);
    assert_ok(append(&bench, 1, 1));
    tell(&bench, "claim.unknown_done=100%");
    assert_int_equal(fan_group_claim(bench.store, &group, &options, bench.batch, claims),
                     FAN_UNKNOWN);
    assert_int_equal(fan_batch_count(bench.batch), 0);
    tell(&bench, NULL);
    assert_int_equal(fan_group_claim(bench.store, &group, &options, bench.batch, claims),
                     FAN_AGAIN);
    bench_end(&bench);
}

struct stalled {
    struct bench *bench;
    enum fan_status status;
};

static void *append_one(void *context)
{
    struct stalled *stalled = context;
    stalled->status = append(stalled->bench, 1, 1);
    return NULL;
}

static void test_R01_what_stalls_goes_on_when_told(void **state)
{
    (void)state;
    struct bench bench = bench_make();
    for (int by_wake = 0; by_wake < 2; by_wake++) {
        struct stalled stalled = { &bench, FAN_OK };
        pthread_t thread;
        tell(&bench, "append.stall=100%,stall_ms=600000");
        uint64_t before = count_of(&bench, "append.stall");
        assert_int_equal(pthread_create(&thread, NULL, append_one, &stalled), 0);
        while (count_of(&bench, "append.stall") == before)
            sched_yield();
        if (by_wake)
            fan_store_wake(bench.store);
        else
            tell(&bench, NULL);
        pthread_join(thread, NULL);
        assert_int_equal(stalled.status, FAN_UNAVAILABLE);
    }
    assert_int_equal(stored(&bench), 0);
    bench_end(&bench);
}

static void test_P05_wait_can_be_deaf_early_or_late(void **state)
{
    (void)state;
    struct bench bench = bench_make();
    tell(&bench, "wait.early=100%");
    assert_ok(fan_store_wait(bench.store, 0, 600000));
    assert_ok(append(&bench, 1, 1));
    tell(&bench, "wait.deaf=100%");
    assert_int_equal(fan_store_wait(bench.store, 0, 1), FAN_AGAIN);
    tell(&bench, "wait.delay=100%,delay_ms=1");
    assert_ok(fan_store_wait(bench.store, 0, 600000));
    assert_int_equal(count_of(&bench, "wait.delay"), 1);
    bench_end(&bench);
}

static void test_L06_after_a_crash_nothing_gets_through(void **state)
{
    (void)state;
    struct bench bench = bench_make();
    struct fan_read_result result;
    struct fan_store_stats stats = { .size = sizeof(stats) };
    struct fan_claim claim;
    uint64_t fence;
    const struct fan_group_options made = { .size = FAN_GROUP_OPTIONS_SIZE };
    const struct fan_claim_options options = { .size = FAN_CLAIM_OPTIONS_SIZE, .owner = "me" };
    assert_ok(fan_group_create(bench.store, &group, &made, NULL));
    assert_ok(append(&bench, 1, 1));
    tell(&bench, "append.crash_done=100%");
    assert_false(fan_fault_crashed(bench.store));
    assert_int_equal(append(&bench, 1, 1), FAN_UNKNOWN);
    assert_true(fan_fault_crashed(bench.store));
    assert_int_equal(append(&bench, 1, 1), FAN_IO);
    assert_int_equal(fan_store_read(bench.store, 0, NULL, bench.batch, &result), FAN_IO);
    assert_int_equal(fan_store_wait(bench.store, 0, 600000), FAN_IO);
    assert_int_equal(fan_store_stats(bench.store, &stats), FAN_IO);
    assert_int_equal(fan_store_delete(bench.store, "event-0"), FAN_IO);
    assert_int_equal(fan_group_delete(bench.store, &group), FAN_IO);
    assert_int_equal(fan_group_claim(bench.store, &group, &options, bench.batch, &claim), FAN_IO);
    assert_int_equal(fan_lease_acquire(bench.store, "lease", "me", 1000, &fence), FAN_IO);
    assert_int_equal(stored(&bench), 2);
    /* The storage outlives the one who crashed. */
    fan_store_close(bench.store);
    assert_ok(fan_fault_wrap(bench.inner, "seed=2", NULL, &bench.store, NULL));
    assert_int_equal(fan_store_epoch(bench.store), fan_store_epoch(bench.inner));
    assert_ok(fan_group_claim(bench.store, &group, &options, bench.batch, &claim));
    assert_ok(append(&bench, 1, 1));
    bench_end(&bench);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_P07_faults_are_told_in_words),
        cmocka_unit_test(test_P07_a_fault_uri_names_the_store_behind_it),
        cmocka_unit_test(test_L09_an_append_fails_as_it_is_told_to),
        cmocka_unit_test(test_L09_a_torn_append_stores_whole_units_from_the_front),
        cmocka_unit_test(test_P06_a_seed_makes_the_same_faults_again),
        cmocka_unit_test(test_P06_a_limit_ends_the_faults),
        cmocka_unit_test(test_L08_claims_and_settlements_fail_as_they_are_told_to),
        cmocka_unit_test(test_R01_what_stalls_goes_on_when_told),
        cmocka_unit_test(test_P05_wait_can_be_deaf_early_or_late),
        cmocka_unit_test(test_L06_after_a_crash_nothing_gets_through),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
