/*
 * What happens when a buffer is full: the policies, their gaps, the bus's budget, the broker's
 * door.
 */
#include "bus_test.h"

#include "base/thread.h"
#include "bus/bus.h"
#include "bus/notify.h"
#include "bus/read.h"
#include "bus/slot.h"

#include <sched.h>

static void test_B06_drop_newest_keeps_the_first(void **state)
{
    (void)state;
    struct fan_bus *bus = open_bus();
    struct fan_subscription *full = subscribe(bus, FAN_POLICY_DROP_NEWEST, 1);
    struct fan_subscription *drained = subscribe(bus, FAN_POLICY_DROP_NEWEST, 1);
    for (uint64_t i = 1; i <= 6; i++) {
        publish(bus, NULL, "a");
        expect_seq(drained, i);
    }
    struct fan_bus_counters counters = bus_counters_of(bus);
    assert_int_equal(counters.published, 6);
    assert_int_equal(counters.queued, 1);
    assert_int_equal(counters.dropped, 5);
    expect_seq(full, 1);
    expect_gap(full, 1, 7, 5);
    expect_status(full, FAN_AGAIN);
    expect_status(drained, FAN_AGAIN);
    fan_subscription_free(full);
    fan_subscription_free(drained);
    fan_bus_free(bus);
}

static void test_B06_drop_oldest_keeps_the_last(void **state)
{
    (void)state;
    struct fan_bus *bus = open_bus();
    struct fan_subscription *full = subscribe(bus, FAN_POLICY_DROP_OLDEST, 1);
    struct fan_subscription *drained = subscribe(bus, FAN_POLICY_DROP_OLDEST, 1);
    for (uint64_t i = 1; i <= 6; i++) {
        publish(bus, NULL, "a");
        expect_seq(drained, i);
    }
    assert_int_equal(counters_of(full).dropped, 5);
    assert_int_equal(counters_of(drained).dropped, 0);
    expect_gap(full, 0, 6, 5);
    expect_seq(full, 6);
    expect_status(full, FAN_AGAIN);
    fan_subscription_free(full);
    fan_subscription_free(drained);
    fan_bus_free(bus);
}

static void test_B07_L4_gap_is_told_in_band_where_it_happened(void **state)
{
    (void)state;
    struct fan_bus *bus = open_bus();
    struct fan_subscription *subscription = subscribe(bus, FAN_POLICY_DROP_NEWEST, 2);
    for (int i = 0; i < 5; i++)
        publish(bus, NULL, "a"); /* 1 2, lost 3 4 5 */
    expect_seq(subscription, 1);
    publish(bus, NULL, "a"); /* 6 */
    publish(bus, NULL, "a"); /* lost 7 */
    expect_seq(subscription, 2);
    expect_gap(subscription, 2, 6, 3);
    expect_seq(subscription, 6);
    publish(bus, NULL, "a"); /* 8 */
    expect_gap(subscription, 6, 8, 1);
    expect_seq(subscription, 8);
    expect_status(subscription, FAN_AGAIN);
    fan_subscription_free(subscription);
    fan_bus_free(bus);
}

static void test_B07_a_gap_told_is_not_told_again(void **state)
{
    (void)state;
    struct fan_bus *bus = open_bus();
    struct fan_subscription *subscription = subscribe(bus, FAN_POLICY_DROP_OLDEST, 2);
    for (int i = 0; i < 4; i++)
        publish(bus, NULL, "a");
    expect_gap(subscription, 0, 3, 2);
    publish(bus, NULL, "a"); /* 3 is lost after its gap was told */
    expect_gap(subscription, 2, 4, 1);
    expect_seq(subscription, 4);
    expect_seq(subscription, 5);
    expect_status(subscription, FAN_AGAIN);
    fan_subscription_free(subscription);
    fan_bus_free(bus);
}

static void test_B07_count_is_of_what_was_asked_for(void **state)
{
    (void)state;
    struct fan_bus *bus = open_bus();
    struct fan_subscription_options options = { .size = FAN_SUBSCRIPTION_OPTIONS_SIZE,
                                                .topic = "t",
                                                .buffer_count = 1 };
    struct fan_subscription *subscription = subscribe_with(bus, &options);
    static const char *const topics[] = { "t", "u", "t", "u", "u", "t", "u" };
    for (size_t i = 0; i < 7; i++)
        publish(bus, topics[i], "a");
    expect_seq(subscription, 1);
    expect_gap(subscription, 2, 7, 2);
    fan_subscription_free(subscription);
    fan_bus_free(bus);
}

static void test_B18_latest_keeps_the_last_per_topic_and_type(void **state)
{
    (void)state;
    struct fan_bus *bus = open_bus();
    struct fan_subscription *subscription = subscribe(bus, FAN_POLICY_LATEST, 3);
    publish(bus, NULL, "members");   /* 1 */
    publish(bus, NULL, "heartbeat"); /* 2, replaced */
    publish(bus, "t", "heartbeat");  /* 3 */
    for (int i = 0; i < 1000; i++)
        publish(bus, NULL, "heartbeat");
    struct fan_subscription_counters counters = counters_of(subscription);
    assert_int_equal(counters.conflated, 1000);
    assert_int_equal(counters.queued, 3);
    assert_int_equal(counters.dropped, 0);
    expect_seq(subscription, 1);
    expect_seq(subscription, 3);
    expect_seq(subscription, 1003);
    expect_status(subscription, FAN_AGAIN);
    counters = counters_of(subscription);
    assert_true(adds_up(&counters));
    fan_subscription_free(subscription);
    fan_bus_free(bus);
}

static void test_B18_latest_is_bounded_in_topics(void **state)
{
    (void)state;
    struct fan_bus *bus = open_bus();
    struct fan_subscription *subscription = subscribe(bus, FAN_POLICY_LATEST, 2);
    publish(bus, "a", "x");
    publish(bus, "b", "x");
    publish(bus, "c", "x");
    publish(bus, "c", "x");
    expect_gap(subscription, 0, 2, 1);
    expect_seq(subscription, 2);
    expect_seq(subscription, 4);
    expect_status(subscription, FAN_AGAIN);
    assert_int_equal(counters_of(subscription).dropped, 1);
    assert_int_equal(counters_of(subscription).conflated, 1);
    fan_subscription_free(subscription);
    fan_bus_free(bus);
}

/* A message whose block is a little over 1,000 bytes. */
static enum fan_status publish_kilobyte(struct fan_bus *bus, const char *topic)
{
    return try_publish_bytes(bus, topic, 1000, NULL);
}

static void check_budget(struct fan_bus *bus)
{
    fan__mutex_lock(&bus->mutex);
    bool within = bus->held_size + bus->arena.spare_size <= bus->memory_size_max;
    fan__mutex_unlock(&bus->mutex);
    assert_true(within);
    assert_true(bus_adds_up(bus));
}

/* Reads to the end: messages and gaps follow each other without overlap, up to `last`. */
static void check_reads_and_gaps(struct fan_subscription *subscription, uint64_t last)
{
    uint64_t seq = 0;
    for (;;) {
        const struct fan_message *message;
        struct fan_gap gap;
        enum fan_status status = fan_subscription_next(subscription, 0, &message);
        if (status == FAN_AGAIN)
            break;
        if (status == FAN_GAP) {
            fan_subscription_gap(subscription, &gap);
            assert_int_equal(gap.after, seq);
            assert_int_equal(gap.count, gap.before - gap.after - 1);
            seq = gap.before - 1;
        } else {
            assert_ok(status);
            assert_int_equal(message->seq, seq + 1);
            seq = message->seq;
        }
    }
    assert_int_equal(seq, last);
}

static void test_L12_the_budget_takes_from_those_above_their_share(void **state)
{
    (void)state;
    static const enum fan_policy policies[] = { FAN_POLICY_DROP_NEWEST, FAN_POLICY_DROP_OLDEST };
    for (size_t p = 0; p < 2; p++) {
        struct fan_bus *bus = open_within(100 << 10);
        struct fan_subscription_options filter = { .size = FAN_SUBSCRIPTION_OPTIONS_SIZE,
                                                   .topic = "hog",
                                                   .policy = policies[p] };
        struct fan_subscription *hog = subscribe_with(bus, &filter);
        for (int i = 0; i < 200; i++) {
            assert_ok(publish_kilobyte(bus, "hog"));
            check_budget(bus);
        }
        struct fan_subscription_counters counters = counters_of(hog);
        assert_in_range(counters.queued, 80, 100);
        assert_int_equal(counters.queued + counters.dropped, 200);
        /* Others are within their shares: each half of the budget. */
        filter.topic = "late";
        struct fan_subscription *late = subscribe_with(bus, &filter);
        for (int i = 0; i < 30; i++) {
            assert_ok(publish_kilobyte(bus, "late"));
            check_budget(bus);
        }
        assert_int_equal(counters_of(late).queued, 30);
        assert_int_equal(counters_of(late).dropped, 0);
        counters = counters_of(hog);
        assert_true(counters.queued < 80);
        /* The reader hears of exactly what is missing: numbers 1 to 200, read or told. */
        check_reads_and_gaps(hog, 200);
        fan_subscription_free(late);
        fan_subscription_free(hog);
        fan_bus_free(bus);
    }
}

static void test_L12_what_is_above_the_budget_is_lost_and_told(void **state)
{
    (void)state;
    struct fan_bus_options options = FAN_BUS_OPTIONS_INIT;
    options.memory_size_max = 500;
    options.block_timeout_ms = 1;
    struct fan_bus *bus = open_with(&options);
    struct fan_subscription *newest = subscribe(bus, FAN_POLICY_DROP_NEWEST, 4);
    struct fan_subscription *oldest = subscribe(bus, FAN_POLICY_DROP_OLDEST, 4);
    struct fan_subscription *latest = subscribe(bus, FAN_POLICY_LATEST, 4);
    assert_ok(publish_kilobyte(bus, NULL));
    expect_gap(newest, 0, 2, 1);
    expect_gap(oldest, 0, 2, 1);
    expect_gap(latest, 0, 2, 1);
    check_budget(bus);
    /* A reader that insists gets one at a time. */
    struct fan_subscription *insists = subscribe(bus, FAN_POLICY_BLOCK, 4);
    assert_ok(publish_kilobyte(bus, NULL));
    assert_int_equal(publish_kilobyte(bus, NULL), FAN_TIMED_OUT);
    expect_seq(insists, 2);
    expect_status(insists, FAN_AGAIN);
    assert_ok(publish_kilobyte(bus, NULL));
    expect_seq(insists, 3);
    fan_subscription_free(newest);
    fan_subscription_free(oldest);
    fan_subscription_free(latest);
    fan_subscription_free(insists);
    fan_bus_free(bus);
}

static void test_L12_the_budget_takes_nothing_from_those_that_block(void **state)
{
    (void)state;
    struct fan_bus_options options = FAN_BUS_OPTIONS_INIT;
    options.memory_size_max = 10 << 10;
    options.block_timeout_ms = 1;
    struct fan_bus *bus = open_with(&options);
    struct fan_subscription_options filter = { .size = FAN_SUBSCRIPTION_OPTIONS_SIZE,
                                               .topic = "insists",
                                               .policy = FAN_POLICY_BLOCK };
    struct fan_subscription *insists = subscribe_with(bus, &filter);
    uint64_t count = 0;
    while (publish_kilobyte(bus, "insists") == FAN_OK)
        count++;
    assert_in_range(count, 8, 10);
    filter.topic = "other";
    filter.policy = FAN_POLICY_DROP_NEWEST;
    struct fan_subscription *other = subscribe_with(bus, &filter);
    for (int i = 0; i < 3; i++) {
        assert_ok(publish_kilobyte(bus, "other"));
        check_budget(bus);
    }
    /* It loses what the other holds, though it is within its share: nothing may be taken there. */
    assert_true(counters_of(other).dropped >= 2);
    for (uint64_t seq = 1; seq <= count; seq++)
        expect_seq(insists, seq);
    expect_status(insists, FAN_AGAIN);
    /* While the whole is within the budget, nobody is asked for his share. */
    fan_subscription_unsubscribe(other);
    for (int i = 0; i < 7; i++)
        assert_ok(publish_kilobyte(bus, "insists"));
    fan_subscription_free(other);
    fan_subscription_free(insists);
    fan_bus_free(bus);
}

static void test_L12_those_that_block_do_not_lift_the_budget(void **state)
{
    (void)state;
    static const enum fan_policy policies[] = { FAN_POLICY_DROP_NEWEST, FAN_POLICY_DROP_OLDEST };
    for (size_t p = 0; p < 2; p++) {
        struct fan_bus_options options = FAN_BUS_OPTIONS_INIT;
        options.memory_size_max = 11 << 10;
        options.block_timeout_ms = 1;
        struct fan_bus *bus = open_with(&options);
        struct fan_subscription_options filter = { .size = FAN_SUBSCRIPTION_OPTIONS_SIZE,
                                                   .topic = "hog",
                                                   .policy = policies[p] };
        struct fan_subscription *hog = subscribe_with(bus, &filter);
        for (int i = 0; i < 20; i++)
            assert_ok(publish_kilobyte(bus, "hog"));
        filter.topic = "insists";
        filter.policy = FAN_POLICY_BLOCK;
        struct fan_subscription *insists = subscribe_with(bus, &filter);
        for (int i = 0; i < 4; i++) {
            assert_ok(publish_kilobyte(bus, "insists"));
            check_budget(bus);
        }
        for (uint64_t seq = 21; seq <= 24; seq++)
            expect_seq(insists, seq);
        check_reads_and_gaps(hog, 20);
        fan_subscription_free(insists);
        fan_subscription_free(hog);
        fan_bus_free(bus);
    }
}

/* Fills up what a bus may hold, by a topic of its own that nobody reads. */
static struct fan_subscription *fill_budget(struct fan_bus *bus)
{
    static const size_t sizes[] = { 60000, 1000, 10 };
    struct fan_subscription *hog =
        subscribe_with(bus, OPTIONS(.topic = "hog", .buffer_count = 1024));
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        for (int k = 0; k < 200; k++)
            assert_ok(try_publish_bytes(bus, "hog", sizes[i], NULL));
    return hog;
}

/* The hog holds most, but who asks for more is above his own share. */
static void test_L12_who_is_above_his_share_takes_from_nobody(void **state)
{
    (void)state;
    static const enum fan_policy policies[] = { FAN_POLICY_DROP_NEWEST, FAN_POLICY_DROP_OLDEST };
    for (size_t p = 0; p < 2; p++) {
        struct fan_bus *bus = open_within(100 << 10);
        struct fan_subscription *idle = subscribe_with(bus, OPTIONS(.topic = "idle"));
        struct fan_subscription *hog = subscribe_with(bus, OPTIONS(.topic = "hog"));
        struct fan_subscription *other =
            subscribe_with(bus, OPTIONS(.topic = "other", .policy = policies[p]));
        for (int i = 0; i < 60; i++)
            assert_ok(publish_kilobyte(bus, "hog"));
        for (int i = 0; i < 60; i++) {
            assert_ok(publish_kilobyte(bus, "other"));
            check_budget(bus);
        }
        /* A third of it is his share. */
        assert_in_range(counters_of(other).queued, 25, 33);
        assert_in_range(counters_of(hog).queued, 55, 60);
        fan_subscription_free(idle);
        fan_subscription_free(hog);
        fan_subscription_free(other);
        fan_bus_free(bus);
    }
}

static void test_L12_the_array_of_a_queue_within_its_share_may_grow(void **state)
{
    (void)state;
    enum { COUNT = 200 };
    static const enum fan_policy policies[] = { FAN_POLICY_DROP_NEWEST, FAN_POLICY_DROP_OLDEST };
    for (size_t p = 0; p < 2; p++) {
        struct fan_bus_options options = FAN_BUS_OPTIONS_INIT;
        options.memory_size_max = 256 << 10;
        options.by_reference = true;
        struct fan_bus *bus = open_with(&options);
        struct fan_subscription *late =
            subscribe_with(bus, OPTIONS(.topic = "late", .policy = policies[p]));
        struct fan_subscription *hog = fill_budget(bus);
        uint64_t first = publish(bus, "late", "a");
        for (int i = 1; i < COUNT; i++)
            publish(bus, "late", "a");
        check_budget(bus);
        for (uint64_t i = 0; i < COUNT; i++)
            expect_seq(late, first + i);
        fan_subscription_free(late);
        fan_subscription_free(hog);
        fan_bus_free(bus);
    }
}

/* It was full for so long that it is forgotten; what is taken from it makes room. */
static void test_L12_who_was_forgotten_and_then_loses_is_given_messages(void **state)
{
    (void)state;
    enum { BUFFER = 80 };
    struct fan_bus *bus = open_within(100 << 10);
    struct fan_subscription *hog =
        subscribe_with(bus, OPTIONS(.topic = "hog", .buffer_count = BUFFER));
    struct fan_subscription *late = subscribe_with(bus, OPTIONS(.topic = "late"));
    const struct fan_message *message;
    for (int i = 0; i < 2 * BUFFER; i++)
        assert_ok(publish_kilobyte(bus, "hog"));
    assert_true(hog->parked);
    assert_int_equal(counters_of(hog).queued, BUFFER);
    for (int i = 0; i < 30; i++)
        assert_ok(publish_kilobyte(bus, "late"));
    uint64_t left = counters_of(hog).queued;
    assert_in_range(left, BUFFER / 2, BUFFER - 10);
    while (fan_subscription_next(late, 0, &message) == FAN_OK)
        ;
    for (int i = 0; i < 5; i++)
        assert_ok(publish_kilobyte(bus, "hog"));
    assert_int_equal(counters_of(hog).queued, left + 5);
    for (uint64_t seq = 1; seq <= left; seq++)
        expect_seq(hog, seq);
    expect_gap(hog, left, 2 * BUFFER + 1, 2 * BUFFER - left);
    for (uint64_t i = 0; i < 5; i++)
        expect_seq(hog, 2 * BUFFER + 31 + i);
    assert_true(bus_adds_up(bus));
    fan_subscription_free(hog);
    fan_subscription_free(late);
    fan_bus_free(bus);
}

static void test_L12_the_arrays_of_queues_count_in_the_budget(void **state)
{
    (void)state;
    enum { COUNT = 20, PUBLISHED = 500 };
    struct test_memory memory;
    test_memory_init(&memory);
    struct fan_bus_options options = FAN_BUS_OPTIONS_INIT;
    options.env = &memory.env;
    options.by_reference = true;
    options.memory_size_max = 64 << 10;
    struct fan_bus *bus = open_with(&options);
    /* With what they keep of it, small messages are smaller than their places in 20 queues. */
    struct fan_subscription *all[COUNT];
    for (size_t i = 0; i < COUNT; i++)
        all[i] = subscribe(bus, i % 2 ? FAN_POLICY_DROP_OLDEST : FAN_POLICY_DROP_NEWEST, 1000);
    for (int i = 0; i < PUBLISHED; i++) {
        publish(bus, NULL, "a");
        check_budget(bus);
    }
    struct fan_bus_counters counters = bus_counters_of(bus);
    assert_true(counters.dropped > 0);
    assert_in_range(counters.queued, COUNT * 16, COUNT * PUBLISHED / 2);
    for (size_t i = 0; i < COUNT; i++)
        check_reads_and_gaps(all[i], PUBLISHED);
    /* Read to the end, they hold none of the larger ones, and there is room for everybody. */
    assert_in_range(bus->held_size, 0, COUNT * 16 * sizeof(struct fan__slot));
    publish(bus, NULL, "a");
    for (size_t i = 0; i < COUNT; i++)
        expect_seq(all[i], PUBLISHED + 1);
    /* One that wants its places at once is refused, if there are too many. */
    struct fan_subscription_options latest = { .size = FAN_SUBSCRIPTION_OPTIONS_SIZE,
                                               .policy = FAN_POLICY_LATEST,
                                               .buffer_count = 2000 };
    struct fan_subscription *refused = NULL;
    assert_int_equal(fan_bus_subscribe(bus, &latest, &refused, NULL), FAN_NO_MEMORY);
    for (size_t i = 0; i < COUNT; i++)
        fan_subscription_free(all[i]);
    assert_int_equal(bus->held_size, 0);
    fan_bus_free(bus);
    assert_int_equal(atomic_load(&memory.blocks), 0);
}

/* What was let go is used again, the last first, and by the same size alone. */
static void test_the_arena_gives_out_what_it_has(void **state)
{
    (void)state;
    enum { SIZE_MAX_TRIED = 17 << 20 };
    struct test_memory memory;
    struct fan__arena arena;
    test_memory_init(&memory);
    fan__arena_init(&arena, &memory.env, SIZE_MAX_TRIED);
    size_t before = 0;
    for (size_t wanted = 1; wanted < SIZE_MAX_TRIED; wanted += wanted / 16 + 1) {
        size_t size = fan__arena_size(wanted);
        assert_in_range(size, wanted, wanted + wanted / 8);
        assert_int_equal(fan__arena_size(size), size);
        bool kept = size > 1024 && size < SIZE_MAX_TRIED;
        if (size == before || !kept)
            continue;
        before = size;
        void *first = fan__arena_get(&arena, size);
        void *second = fan__arena_get(&arena, size);
        memset(first, 1, size);
        fan__arena_put(&arena, first, size);
        fan__arena_put(&arena, second, size);
        assert_int_equal(atomic_load(&arena.spare_size),
                         2 * size <= SIZE_MAX_TRIED ? 2 * size : size);
        long calls = atomic_load(&memory.calls);
        void *again = fan__arena_get(&arena, size);
        assert_int_equal(atomic_load(&memory.calls), calls);
        assert_ptr_equal(again, 2 * size <= SIZE_MAX_TRIED ? second : first);
        fan__arena_put(&arena, again, size);
        fan__arena_trim(&arena);
        assert_int_equal(atomic_load(&arena.spare_size), 0);
        assert_int_equal(atomic_load(&memory.blocks), 0);
    }
}

static void publish_bytes(struct fan_bus *bus, size_t size)
{
    assert_ok(try_publish_bytes(bus, NULL, size, NULL));
}

static void test_L12_large_messages_use_their_memory_again(void **state)
{
    (void)state;
    enum { LARGE = 16 << 10 };
    struct test_memory memory;
    test_memory_init(&memory);
    struct fan_bus_options options = FAN_BUS_OPTIONS_INIT;
    options.env = &memory.env;
    options.memory_size_max = 1 << 20;
    struct fan_bus *bus = open_with(&options);
    struct fan_subscription *subscription = subscribe(bus, FAN_POLICY_DROP_NEWEST, 16);
    const struct fan_message *message;
    long calls = 0;
    for (int i = 0; i < 100; i++) {
        for (int k = 0; k < 8; k++)
            publish_bytes(bus, LARGE);
        for (int k = 0; k < 8; k++)
            assert_ok(fan_subscription_next(subscription, 0, &message));
        check_budget(bus);
        if (i == 1)
            calls = atomic_load(&memory.calls);
    }
    assert_int_equal(atomic_load(&memory.calls), calls);
    /* A quarter of the budget at most waits to be used again. */
    for (int k = 0; k < 16; k++)
        publish_bytes(bus, sizeof(char[64 << 10]) - 1024);
    check_budget(bus);
    for (int k = 0; fan_subscription_next(subscription, 0, &message) == FAN_OK; k++)
        check_budget(bus);
    assert_in_range(bus->arena.spare_size, 1, 256 << 10);
    /* Sizes that come no more make way for those that do. */
    for (int i = 0; i < 100; i++) {
        for (int k = 0; k < 4; k++)
            publish_bytes(bus, 2 * LARGE);
        for (int k = 0; k < 4; k++)
            assert_ok(fan_subscription_next(subscription, 0, &message));
        check_budget(bus);
        if (i == 50)
            calls = atomic_load(&memory.calls);
    }
    assert_int_equal(atomic_load(&memory.calls), calls);
    /* What waits makes way for what is used. */
    for (int k = 0; k < 4096; k++) {
        assert_ok(publish_kilobyte(bus, NULL));
        check_budget(bus);
    }
    /* With the last subscription goes what waits. */
    fan_subscription_unsubscribe(subscription);
    assert_true(bus->arena.spare_size > 0);
    fan_subscription_free(subscription);
    assert_int_equal(bus->arena.spare_size, 0);
    assert_int_equal(bus->held_size, 0);
    fan_bus_free(bus);
    assert_int_equal(atomic_load(&memory.blocks), 0);
}

/* So much that most of it is written past the processor's caches. */
static void test_L11_a_long_queue_of_large_messages_is_whole(void **state)
{
    (void)state;
    enum { COUNT = 150, SIZE_MIN = 16 << 10 };
    static char bytes[SIZE_MIN + COUNT];
    struct fan_bus *bus = open_bus();
    struct fan_subscription *subscription = subscribe(bus, FAN_POLICY_DROP_NEWEST, COUNT);
    struct fan_message message = message_of("t", "a", NULL);
    const struct fan_message *got = NULL;
    for (size_t i = 0; i < COUNT; i++) {
        memset(bytes, (int)i, sizeof(bytes));
        bytes[SIZE_MIN + i - 1] = '!';
        message.payload = (struct fan_str){ bytes, SIZE_MIN + i };
        assert_ok(fan_bus_publish(bus, &message, NULL));
    }
    for (size_t i = 0; i < COUNT; i++) {
        memset(bytes, (int)i, sizeof(bytes));
        bytes[SIZE_MIN + i - 1] = '!';
        assert_ok(fan_subscription_next(subscription, 0, &got));
        assert_int_equal(got->payload.size, SIZE_MIN + i);
        assert_memory_equal(got->payload.data, bytes, SIZE_MIN + i);
        assert_string_equal(got->type, "a");
        assert_string_equal(got->topic, "t");
    }
    fan_subscription_free(subscription);
    fan_bus_free(bus);
}

static struct fan_message numbered(uint64_t seq)
{
    struct fan_message message = message_of("t", "a", "x");
    message.seq = seq;
    return message;
}

static void test_notify_keeps_sequences_with_holes(void **state)
{
    (void)state;
    struct fan_bus *bus = open_bus();
    assert_false(fan__bus_heard(bus));
    struct fan_subscription *newest = subscribe(bus, FAN_POLICY_DROP_NEWEST, 2);
    struct fan_subscription *oldest = subscribe(bus, FAN_POLICY_DROP_OLDEST, 2);
    assert_true(fan__bus_heard(bus));
    struct fan_message messages[] = { numbered(7), numbered(10), numbered(11), numbered(20) };
    fan__bus_notify(bus, messages, 2);
    fan__bus_notify(bus, messages + 2, 2);
    expect_seq(newest, 7);
    expect_seq(newest, 10);
    expect_gap(newest, 10, 21, 2);
    expect_gap(oldest, 6, 11, 2);
    expect_seq(oldest, 11);
    expect_seq(oldest, 20);
    fan_bus_close(bus);
    fan__bus_notify(bus, messages, 2);
    expect_status(newest, FAN_CLOSED);
    assert_int_equal(bus_counters_of(bus).published, 4);
    assert_false(fan__bus_heard(bus));
    fan_subscription_free(newest);
    fan_subscription_free(oldest);
    fan_bus_free(bus);
}

static void test_notify_without_memory_is_a_gap(void **state)
{
    (void)state;
    struct test_memory memory;
    struct fan_bus *bus = open_counted(&memory);
    struct fan_subscription *subscription = subscribe(bus, FAN_POLICY_DROP_OLDEST, 8);
    struct fan_message messages[] = { numbered(3), numbered(4), numbered(6) };
    /* What does not fit a slot of the ring wants memory of its own. */
    static const char large[FAN__SLOT_SIZE_DEFAULT];
    for (size_t i = 0; i < 3; i++)
        messages[i].payload = (struct fan_str){ large, sizeof(large) };
    fan__bus_notify(bus, messages, 1);
    atomic_store(&memory.left, 0);
    fan__bus_notify(bus, messages + 1, 1);
    atomic_store(&memory.left, -1);
    fan__bus_notify(bus, messages + 2, 1);
    expect_seq(subscription, 3);
    expect_gap(subscription, 3, 5, 1);
    expect_seq(subscription, 6);
    expect_status(subscription, FAN_AGAIN);
    fan_subscription_free(subscription);
    fan_bus_free(bus);
    assert_int_equal(atomic_load(&memory.blocks), 0);
}

struct woken {
    struct fan_subscription *subscription;
    int calls;
    int read;
};

static void count_call(void *context)
{
    ((struct woken *)context)->calls++;
}

static void read_one(void *context)
{
    struct woken *woken = context;
    const struct fan_message *message;
    woken->calls++;
    while (fan_subscription_next(woken->subscription, 0, &message) == FAN_OK)
        woken->read++;
}

static void test_wake_is_called_when_it_turns_readable(void **state)
{
    (void)state;
    struct fan_bus *bus = open_bus();
    struct fan_subscription *first = subscribe(bus, FAN_POLICY_DROP_OLDEST, 4);
    struct fan_subscription *second = subscribe(bus, FAN_POLICY_DROP_OLDEST, 4);
    struct woken counts = { .subscription = first };
    struct woken reads = { .subscription = second };
    publish(bus, NULL, "a");
    fan__subscription_set_wake(first, count_call, &counts);
    assert_int_equal(counts.calls, 1);
    fan__subscription_set_wake(second, read_one, &reads);
    assert_int_equal(reads.read, 1);
    struct fan_message messages[] = { numbered(2), numbered(3) };
    fan__bus_notify(bus, messages, 2);
    assert_int_equal(counts.calls, 1);
    assert_int_equal(reads.calls, 2);
    assert_int_equal(reads.read, 3);
    for (uint64_t i = 1; i <= 3; i++)
        expect_seq(first, i);
    publish(bus, NULL, "a");
    assert_int_equal(counts.calls, 2);
    expect_seq(first, 4);
    fan__subscription_set_wake(first, NULL, NULL);
    publish(bus, NULL, "a");
    assert_int_equal(counts.calls, 2);
    assert_int_equal(reads.read, 5);
    int calls = reads.calls;
    /* Once for what is published together. */
    size_t count;
    assert_ok(fan_bus_publish_many(bus, messages, 2, &count));
    assert_int_equal(reads.calls, ++calls);
    assert_int_equal(reads.read, 7);
    fan_bus_close(bus);
    assert_int_equal(reads.calls, calls + 1);
    fan_subscription_free(first);
    fan_subscription_free(second);
    fan_bus_free(bus);
}

static void test_L12_a_batch_takes_bounded_memory(void **state)
{
    (void)state;
    struct fan_bus_options options = FAN_BUS_OPTIONS_INIT;
    options.slot_size = FAN__SLOT_SIZE_MAX;
    struct fan_bus *bus = NULL;
    assert_ok(fan_bus_open(&options, &bus, NULL));
    struct fan_subscription *subscription = subscribe(bus, FAN_POLICY_DROP_NEWEST, 1000);
    const struct fan_message *messages[1000];
    size_t left = 1000;
    for (size_t i = 0; i < left; i++)
        publish(bus, NULL, "a");
    while (left > 0) {
        size_t count = 0;
        assert_ok(fan_subscription_next_many(subscription, 0, messages, 1000, &count));
        assert_int_equal(messages[0]->seq, 1001 - left);
        left -= count;
        assert_true(subscription->lent_many_count * fan__lent_size(bus) <= FAN__BATCH_SIZE_MAX);
    }
    /* Nor more than it can ever be lent. */
    struct fan_subscription *small = subscribe(bus, FAN_POLICY_DROP_NEWEST, 4);
    size_t count = 0;
    publish(bus, NULL, "a");
    assert_ok(fan_subscription_next_many(small, 0, messages, 1000, &count));
    assert_int_equal(small->lent_many_count, 4);
    fan_subscription_free(small);
    fan_subscription_free(subscription);
    fan_bus_free(bus);
}

static void test_L1_who_has_ended_with_a_message_in_hand_holds_nobody_up(void **state)
{
    (void)state;
    enum { SLOTS = FAN__RING_SLOTS_MIN };
    struct fan_bus_options options = FAN_BUS_OPTIONS_INIT;
    options.block_timeout_ms = FAN_TIMEOUT_FOREVER;
    options.memory_size_max = 256 * 1024;
    struct fan_bus *bus = open_with(&options);
    struct fan_subscription *holder =
        subscribe_with(bus, OPTIONS(.topic = "t", .policy = FAN_POLICY_BLOCK, .buffer_count = 16));
    struct fan_subscription *unread =
        subscribe_with(bus, OPTIONS(.topic = "t", .policy = FAN_POLICY_BLOCK, .buffer_count = 16));
    struct fan_subscription *live = subscribe_with(bus, OPTIONS(.topic = "t", .buffer_count = 32));
    const struct fan_message *held = NULL;
    struct fan_subscription *hog = fill_budget(bus);
    uint64_t seq = publish(bus, "t", "a");
    assert_ok(fan_subscription_next(holder, 0, &held));
    fan_subscription_cancel(holder);
    fan_subscription_cancel(unread);
    expect_seq(live, seq);
    for (size_t i = 0; i < (size_t)SLOTS + 2 * FAN__LANE_QUEUED_COUNT; i++) {
        expect_seq(live, publish(bus, "t", "a"));
        expect_status(live, FAN_AGAIN);
        assert_int_equal(held->seq, seq);
        assert_memory_equal(held->payload.data, "x", 1);
        /* Who is off the ring does not ask for it at each look. */
        assert_true(i <= SLOTS || (live->lane->tail <= live->lane->queued_until &&
                                   (live->place & FAN__PLACE_QUEUED)));
    }
    /* Once it is taken back, they come back. */
    expect_status(holder, FAN_CLOSED);
    for (size_t i = 0; i < 2 * FAN__LANE_QUEUED_COUNT; i++) {
        expect_seq(live, publish(bus, "t", "a"));
        expect_status(live, FAN_AGAIN);
    }
    assert_false(live->place & FAN__PLACE_QUEUED);
    fan_subscription_free(holder);
    fan_subscription_free(unread);
    fan_subscription_free(live);
    fan_subscription_free(hog);
    assert_true(bus_adds_up(bus));
    fan_bus_free(bus);
}

/* Memory as it comes, not as a test would have it. */
static void *dirty_resize(void *context, void *pointer, size_t size)
{
    void *result = test_resize(context, pointer, size);
    if (result && !pointer)
        memset(result, 0xee, size);
    return result;
}

static void test_a_slot_that_was_never_written_has_no_message(void **state)
{
    (void)state;
    struct test_memory memory;
    struct fan_bus_options options = FAN_BUS_OPTIONS_INIT;
    test_memory_init(&memory);
    memory.env.resize = dirty_resize;
    options.env = &memory.env;
    options.block_timeout_ms = 1;
    struct fan_bus *bus = open_with(&options);
    struct fan_subscription *subscription = subscribe(bus, FAN_POLICY_BLOCK, 16);
    const struct fan__lane *lane = subscription->lane;
    for (uint64_t i = 0; i < lane->capacity; i++)
        assert_int_equal(*fan__slot_sizes(fan__slot_at(lane, i)), 0);
    fan_subscription_free(subscription);
    fan_bus_free(bus);
    assert_int_equal(memory.blocks, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_B06_drop_newest_keeps_the_first),
        cmocka_unit_test(test_B06_drop_oldest_keeps_the_last),
        cmocka_unit_test(test_B07_L4_gap_is_told_in_band_where_it_happened),
        cmocka_unit_test(test_B07_a_gap_told_is_not_told_again),
        cmocka_unit_test(test_B07_count_is_of_what_was_asked_for),
        cmocka_unit_test(test_B18_latest_keeps_the_last_per_topic_and_type),
        cmocka_unit_test(test_B18_latest_is_bounded_in_topics),
        cmocka_unit_test(test_L12_the_budget_takes_from_those_above_their_share),
        cmocka_unit_test(test_L12_the_budget_takes_nothing_from_those_that_block),
        cmocka_unit_test(test_L12_those_that_block_do_not_lift_the_budget),
        cmocka_unit_test(test_L12_who_is_above_his_share_takes_from_nobody),
        cmocka_unit_test(test_L12_the_array_of_a_queue_within_its_share_may_grow),
        cmocka_unit_test(test_L12_who_was_forgotten_and_then_loses_is_given_messages),
        cmocka_unit_test(test_L12_the_arrays_of_queues_count_in_the_budget),
        cmocka_unit_test(test_L12_what_is_above_the_budget_is_lost_and_told),
        cmocka_unit_test(test_L12_a_batch_takes_bounded_memory),
        cmocka_unit_test(test_L1_who_has_ended_with_a_message_in_hand_holds_nobody_up),
        cmocka_unit_test(test_a_slot_that_was_never_written_has_no_message),
        cmocka_unit_test(test_the_arena_gives_out_what_it_has),
        cmocka_unit_test(test_L12_large_messages_use_their_memory_again),
        cmocka_unit_test(test_L11_a_long_queue_of_large_messages_is_whole),
        cmocka_unit_test(test_notify_keeps_sequences_with_holes),
        cmocka_unit_test(test_notify_without_memory_is_a_gap),
        cmocka_unit_test(test_wake_is_called_when_it_turns_readable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
