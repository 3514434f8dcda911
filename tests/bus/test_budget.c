/* What the budget of a bus takes, from whom, and who hears of what it gave back. */
#include "bus_test.h"

#include "base/thread.h"
#include "bus/bus.h"
#include "bus/queue.h"

#include <sched.h>

#define BUDGET ((size_t)1 << 20)
#define WAITING 400
#define REPLACED 300

static struct fan_bus *open_small(unsigned block_timeout_ms)
{
    return open_tight(BUDGET, block_timeout_ms);
}

static enum fan_status publish_bytes(struct fan_bus *bus, const char *topic, size_t size)
{
    static char bytes[100000];
    struct fan_message message = message_of(topic, "a", NULL);
    message.payload = (struct fan_str){ bytes, size };
    return fan_bus_publish(bus, &message, NULL);
}

static size_t room_of(struct fan_bus *bus)
{
    size_t held = atomic_load(&bus->held_size);
    return held < BUDGET ? BUDGET - held : 0;
}

/* Takes what the bus may hold, but for less than so many bytes. */
static struct fan_subscription *take_budget(struct fan_bus *bus, enum fan_policy policy,
                                            size_t size, size_t left)
{
    struct fan_subscription *hog =
        subscribe_with(bus, OPTIONS(.topic = "hog", .policy = policy, .buffer_count = 100000));
    for (uint64_t lost = 0; room_of(bus) >= left && lost == 0; lost = counters_of(hog).dropped)
        assert_ok(publish_bytes(bus, "hog", size));
    return hog;
}

/* Within his share, he keeps what he has when he leaves the ring; the hog makes way for it. */
static void test_L12_a_hog_takes_nothing_from_those_within_their_share(void **state)
{
    (void)state;
    static const enum fan_policy policies[] = { FAN_POLICY_DROP_NEWEST, FAN_POLICY_DROP_OLDEST,
                                                FAN_POLICY_BLOCK };
    for (size_t p = 0; p < 3; p++) {
        struct fan_bus *bus = open_small(1);
        struct fan_subscription *modest = subscribe_with(
            bus, OPTIONS(.topic = "modest", .policy = policies[p], .buffer_count = 64));
        struct fan_subscription *ended = subscribe_with(
            bus, OPTIONS(.topic = "modest", .policy = policies[p], .buffer_count = 64));
        struct fan_subscription *hog = take_budget(bus, FAN_POLICY_DROP_NEWEST, 300, 1);
        uint64_t before = counters_of(hog).dropped;
        uint64_t first = publish(bus, "modest", "a");
        for (int i = 1; i < 8; i++)
            publish(bus, "modest", "a");
        fan_subscription_cancel(ended);
        /* It fits no slot, so nobody stays on the ring. */
        assert_ok(publish_bytes(bus, "modest", 300));
        for (uint64_t i = 0; i < 9; i++)
            expect_seq(modest, first + i);
        for (uint64_t i = 0; i < 8; i++)
            expect_seq(ended, first + i);
        expect_status(ended, FAN_CLOSED);
        assert_true(counters_of(hog).dropped > before);
        assert_true(bus_adds_up(bus));
        fan_subscription_free(modest);
        fan_subscription_free(ended);
        fan_subscription_free(hog);
        fan_bus_free(bus);
    }
}

/*
 * Where nobody can make way, he keeps what there is room for, by his policy, and hears of the rest.
 */
static void test_L12_who_leaves_the_ring_keeps_what_there_is_room_for(void **state)
{
    (void)state;
    static const enum fan_policy policies[] = { FAN_POLICY_DROP_NEWEST, FAN_POLICY_DROP_OLDEST };
    for (size_t p = 0; p < 2; p++) {
        struct fan_bus *bus = open_small(1);
        struct fan_subscription *reader =
            subscribe_with(bus, OPTIONS(.topic = "t", .policy = policies[p], .buffer_count = 512));
        struct fan_subscription *hog = take_budget(bus, FAN_POLICY_BLOCK, 10000, 30000);
        uint64_t first = publish(bus, "t", "a");
        for (int i = 1; i < WAITING; i++)
            publish(bus, "t", "a");
        assert_ok(publish_bytes(bus, "t", 300));
        struct fan_subscription_counters counters = counters_of(reader);
        uint64_t kept = counters.queued;
        assert_in_range(kept, 50, WAITING - 1);
        assert_int_equal(counters.dropped, WAITING + 1 - kept);
        uint64_t lost = counters.dropped;
        if (policies[p] == FAN_POLICY_DROP_NEWEST) {
            for (uint64_t i = 0; i < kept; i++)
                expect_seq(reader, first + i);
            expect_gap(reader, first + kept - 1, first + WAITING + 1, lost);
        } else {
            expect_gap(reader, first - 1, first + lost, lost);
            for (uint64_t i = 0; i < kept; i++)
                expect_seq(reader, first + lost + i);
        }
        expect_status(reader, FAN_AGAIN);
        assert_true(bus_adds_up(bus));
        fan_subscription_free(reader);
        fan_subscription_free(hog);
        fan_bus_free(bus);
    }
}

static enum fan_status try_latest(struct fan_bus *bus, size_t count)
{
    struct fan_subscription *latest = NULL;
    enum fan_status status = fan_bus_subscribe(
        bus, OPTIONS(.policy = FAN_POLICY_LATEST, .buffer_count = count), &latest, NULL);
    fan_subscription_free(latest);
    return status;
}

static void test_L12_the_table_of_the_latest_counts_in_the_budget(void **state)
{
    (void)state;
    size_t most = BUDGET / sizeof(struct fan__slot);
    struct test_memory memory;
    struct fan_bus_options options = FAN_BUS_OPTIONS_INIT;
    test_memory_init(&memory);
    options.env = &memory.env;
    options.memory_size_max = BUDGET;
    options.block_timeout_ms = 1;
    struct fan_bus *bus = open_with(&options);
    assert_ok(try_latest(bus, most / 2));
    assert_int_equal(try_latest(bus, most), FAN_NO_MEMORY);
    /* What could never be kept is not asked of the allocator. */
    long calls = atomic_load(&memory.calls);
    assert_int_equal(try_latest(bus, most + 1), FAN_NO_MEMORY);
    assert_int_equal(atomic_load(&memory.calls), calls);
    /* What holds nothing is let in, above the budget; then nothing else is. */
    struct fan_subscription *hog =
        subscribe_with(bus, OPTIONS(.topic = "hog", .policy = FAN_POLICY_BLOCK));
    for (int i = 0; room_of(bus) > 0 && i < 100; i++)
        (void)publish_bytes(bus, "hog", 100000);
    if (room_of(bus) > 0)
        assert_int_equal(publish_bytes(bus, "hog", 100000), FAN_TIMED_OUT);
    assert_int_equal(try_latest(bus, most / 2), FAN_NO_MEMORY);
    fan_subscription_free(hog);
    fan_bus_free(bus);
    assert_int_equal(atomic_load(&memory.blocks), 0);
}

/* Valid for no message, whatever is remembered of the type. */
static void test_a_size_beyond_all_is_refused_whatever_came_before(void **state)
{
    (void)state;
    struct fan_bus *bus = open_small(0);
    char type[200];
    memset(type, 'x', sizeof(type));
    type[sizeof(type) - 1] = '\0';
    struct fan_message message = message_of(NULL, type, "x");
    for (int i = 0; i < 3; i++) {
        message.payload.size = 1;
        assert_ok(fan_bus_publish(bus, &message, NULL));
        static const size_t sizes[] = { SIZE_MAX, SIZE_MAX - 7, FAN_MESSAGE_SIZE_MAX + 1,
                                        FAN_MESSAGE_SIZE_MAX + 8 };
        for (size_t k = 0; k < 4; k++) {
            message.payload.size = sizes[k];
            assert_int_equal(fan_bus_publish(bus, &message, NULL), FAN_INVALID);
        }
    }
    fan_bus_free(bus);
}

struct publisher {
    struct fan__thread thread;
    struct fan_bus *bus;
    enum fan_status status;
};

static void publish_for_the_slow(void *context)
{
    struct publisher *publisher = context;
    publisher->status = publish_bytes(publisher->bus, "slow", 300);
}

/* One who has a queue with an array for 16, and has read it to the end. */
static struct fan_subscription *subscribe_with_array(struct fan_bus *bus)
{
    const struct fan_message *message;
    struct fan_subscription *subscription =
        subscribe_with(bus, OPTIONS(.topic = "idle", .buffer_count = 16));
    publish(bus, "idle", "a");
    assert_ok(fan_subscription_next(subscription, 0, &message));
    assert_ok(publish_bytes(bus, "idle", 300));
    for (int i = 0; i < FAN__LANE_QUEUED_COUNT; i++) {
        assert_ok(fan_subscription_next(subscription, 0, &message));
        publish(bus, "idle", "a");
    }
    assert_ok(fan_subscription_next(subscription, 0, &message));
    assert_true(atomic_load(&subscription->array_size) > 0);
    return subscription;
}

/* One who finds his queue empty goes back to the ring, and leaves its array: room for another. */
static void test_L1_a_publisher_hears_of_the_array_that_a_reader_gives_back(void **state)
{
    (void)state;
    struct fan_bus *bus = open_small(FAN_TIMEOUT_FOREVER);
    struct publisher publisher = { .bus = bus };
    struct fan_subscription *idle = subscribe_with_array(bus);
    struct fan_subscription *slow = subscribe_with(
        bus, OPTIONS(.topic = "slow", .policy = FAN_POLICY_BLOCK, .buffer_count = 64));
    struct fan_subscription *hog = take_budget(bus, FAN_POLICY_BLOCK, 10000, 30000);
    while (room_of(bus) >= 600)
        assert_ok(publish_bytes(bus, "hog", 120));
    /* They leave the ring as a segment of 5 * 128 bytes or more, within the share of the slow. */
    for (int i = 0; i < 5; i++)
        publish(bus, "slow", "a");
    assert_ok(fan__thread_start(&publisher.thread, "publisher", publish_for_the_slow, &publisher));
    while (atomic_load(&bus->gate_waiter_count) == 0)
        sched_yield();
    expect_status(idle, FAN_AGAIN);
    fan__thread_join(&publisher.thread);
    assert_ok(publisher.status);
    assert_int_equal(counters_of(slow).queued, 6);
    fan_subscription_free(idle);
    fan_subscription_free(slow);
    fan_subscription_free(hog);
    fan_bus_free(bus);
}

struct leaver {
    struct fan__thread thread;
    _Atomic(struct fan_subscription *) subscription;
    atomic_bool over;
};

static void leave_each(void *context)
{
    struct leaver *leaver = context;
    while (!atomic_load(&leaver->over)) {
        struct fan_subscription *subscription = atomic_load(&leaver->subscription);
        if (!subscription) {
            sched_yield();
            continue;
        }
        fan_subscription_free(subscription);
        atomic_store(&leaver->subscription, NULL);
    }
}

/* The last of those who leave at once frees the bus; nobody else looks at it any more. */
static void test_L5_those_who_leave_last_leave_at_once(void **state)
{
    (void)state;
    struct leaver leavers[3] = { 0 };
    for (size_t i = 0; i < 3; i++)
        assert_ok(fan__thread_start(&leavers[i].thread, "leaver", leave_each, &leavers[i]));
    for (int round = 0; round < 2000; round++) {
        struct fan_bus *bus = open_small(0);
        struct fan_subscription *all[3];
        for (size_t i = 0; i < 3; i++)
            all[i] = subscribe(bus, FAN_POLICY_DROP_NEWEST, 16);
        fan_bus_free(bus);
        for (size_t i = 0; i < 3; i++)
            atomic_store(&leavers[i].subscription, all[i]);
        for (size_t i = 0; i < 3; i++) {
            while (atomic_load(&leavers[i].subscription))
                sched_yield();
        }
    }
    for (size_t i = 0; i < 3; i++) {
        atomic_store(&leavers[i].over, true);
        fan__thread_join(&leavers[i].thread);
    }
}

struct replacing {
    struct fan__thread thread;
    struct fan_subscription *latest;
    atomic_int stage; /* moved by the publisher: the round whose first message is there */
    atomic_int read;  /* and by the reader */
    unsigned found_nothing;
};

static void read_each_round(void *context)
{
    struct replacing *replacing = context;
    const struct fan_message *message;
    for (int round = 1; round <= REPLACED; round++) {
        while (atomic_load(&replacing->stage) < round)
            continue;
        enum fan_status status = fan_subscription_next(replacing->latest, 0, &message);
        replacing->found_nothing += status == FAN_AGAIN;
        atomic_store(&replacing->read, round);
    }
}

/* One message takes another's place: there is one at any time, though somebody has to make way. */
static void test_B18_the_latest_is_there_while_it_is_replaced(void **state)
{
    (void)state;
    const struct fan_message *message;
    struct fan_bus *bus = open_small(0);
    struct replacing replacing = { .latest = subscribe_with(
                                       bus, OPTIONS(.topic = "modest", .buffer_count = 4,
                                                    .policy = FAN_POLICY_LATEST)) };
    struct fan_subscription *hog = take_budget(bus, FAN_POLICY_DROP_OLDEST, 300, 1);
    assert_ok(fan__thread_start(&replacing.thread, "reader", read_each_round, &replacing));
    for (int round = 1; round <= REPLACED; round++) {
        assert_ok(publish_bytes(bus, "modest", 300));
        while (room_of(bus) > 1000)
            assert_ok(publish_bytes(bus, "hog", 300));
        atomic_store(&replacing.stage, round);
        assert_ok(publish_bytes(bus, "modest", 100000));
        while (atomic_load(&replacing.read) < round)
            sched_yield();
        while (fan_subscription_next(replacing.latest, 0, &message) != FAN_AGAIN)
            continue;
    }
    fan__thread_join(&replacing.thread);
    assert_int_equal(replacing.found_nothing, 0);
    fan_subscription_free(replacing.latest);
    fan_subscription_free(hog);
    fan_bus_free(bus);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_L12_a_hog_takes_nothing_from_those_within_their_share),
        cmocka_unit_test(test_L12_who_leaves_the_ring_keeps_what_there_is_room_for),
        cmocka_unit_test(test_L12_the_table_of_the_latest_counts_in_the_budget),
        cmocka_unit_test(test_L1_a_publisher_hears_of_the_array_that_a_reader_gives_back),
        cmocka_unit_test(test_B18_the_latest_is_there_while_it_is_replaced),
        cmocka_unit_test(test_L5_those_who_leave_last_leave_at_once),
        cmocka_unit_test(test_a_size_beyond_all_is_refused_whatever_came_before),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
