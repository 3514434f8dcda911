/*
 * The gate: publishers that wait for readers with FAN_POLICY_BLOCK. How long they wait at most, and
 * what wakes them before. Times are only ever "so much has passed"; PATIENCE_MS is what something
 * gets that should take none, before a test fails rather than hangs.
 */
#include "bus_test.h"

#include "base/thread.h"
#include "bus/bus.h"

#include <sched.h>

enum { PATIENCE_MS = 10000, TIMEOUT_MS = 20 };

struct publisher {
    struct fan__thread thread;
    struct fan_bus *bus;
    const char *topic;
    size_t payload_size;
    enum fan_status status;
    uint64_t seq;
    atomic_bool done;
};

static void publish_once(void *context)
{
    struct publisher *publisher = context;
    publisher->status = try_publish_bytes(publisher->bus, publisher->topic, publisher->payload_size,
                                          &publisher->seq);
    atomic_store(&publisher->done, true);
}

static void start_publisher(struct publisher *publisher, struct fan_bus *bus, const char *topic,
                            size_t payload_size)
{
    *publisher = (struct publisher){ .bus = bus, .topic = topic, .payload_size = payload_size };
    assert_ok(fan__thread_start(&publisher->thread, "publisher", publish_once, publisher));
}

/* Waits until so many sleep at the gate. */
static void await_blocked(struct fan_bus *bus, size_t count)
{
    int64_t until_ns = fan__deadline_ns(PATIENCE_MS);
    while (atomic_load(&bus->gate_waiter_count) != count) {
        assert_true(fan__deadline_ns(0) < until_ns);
        sched_yield();
    }
}

/* Waits for one that nothing more is done for, on a bus that would have it wait for ever. */
static void join_published(struct publisher *publisher)
{
    int64_t until_ns = fan__deadline_ns(PATIENCE_MS);
    while (!atomic_load(&publisher->done) && fan__deadline_ns(0) < until_ns)
        sched_yield();
    bool done = atomic_load(&publisher->done);
    if (!done)
        fan_bus_close(publisher->bus);
    fan__thread_join(&publisher->thread);
    assert_true(done);
    assert_ok(publisher->status);
}

static void start_blocked(struct publisher *publisher, struct fan_bus *bus, const char *topic,
                          size_t waiters)
{
    start_publisher(publisher, bus, topic, 1);
    await_blocked(bus, waiters);
}

static void test_B18_L1_block_times_out_and_nobody_got_it(void **state)
{
    (void)state;
    struct fan_bus *bus = open_blocking(3);
    struct fan_subscription *slow = subscribe(bus, FAN_POLICY_BLOCK, 2);
    struct fan_subscription *fast = subscribe(bus, FAN_POLICY_DROP_NEWEST, 0);
    struct fan_message message = message_of(NULL, "a", "x");
    struct fan_message batch[] = { message, message, message, message };
    size_t count = 0;
    assert_int_equal(fan_bus_publish_many(bus, batch, 4, &count), FAN_TIMED_OUT);
    assert_int_equal(count, 2);
    expect_unpublished(bus, FAN_TIMED_OUT);
    assert_int_equal(counters_of(fast).matched, 2);
    expect_seq(slow, 1);
    assert_int_equal(publish(bus, NULL, "a"), 3);
    expect_seq(slow, 2);
    expect_seq(slow, 3);
    expect_status(slow, FAN_AGAIN);
    assert_int_equal(counters_of(slow).dropped, 0);
    fan_subscription_free(slow);
    /* Nobody insists any more. */
    for (int i = 0; i < 2000; i++)
        publish(bus, NULL, "a");
    fan_subscription_free(fast);
    fan_bus_free(bus);
}

/* A bus with a reader that has no room, whose publishers have TIMEOUT_MS. */
static struct fan_bus *open_full(bool by_reference, struct fan_subscription **ret_full)
{
    struct fan_bus_options options = FAN_BUS_OPTIONS_INIT;
    options.block_timeout_ms = TIMEOUT_MS;
    options.by_reference = by_reference;
    struct fan_bus *bus = open_with(&options);
    *ret_full = subscribe_with(
        bus, OPTIONS(.topic = "full", .policy = FAN_POLICY_BLOCK, .buffer_count = 1));
    publish(bus, "full", "a");
    return bus;
}

static void test_B18_L1_a_publisher_waits_as_long_as_it_may(void **state)
{
    (void)state;
    for (int by_reference = 0; by_reference < 2; by_reference++) {
        struct fan_subscription *full;
        struct fan_bus *bus = open_full(by_reference, &full);
        struct fan_message batch[] = { message_of("full", "a", "x"), message_of("full", "a", "x") };
        int64_t until_ns = fan__deadline_ns(TIMEOUT_MS);
        assert_int_equal(try_publish(bus, "full", "a", NULL), FAN_TIMED_OUT);
        assert_true(fan__deadline_ns(0) >= until_ns);
        until_ns = fan__deadline_ns(TIMEOUT_MS);
        size_t count = 99;
        assert_int_equal(fan_bus_publish_many(bus, batch, 2, &count), FAN_TIMED_OUT);
        assert_true(fan__deadline_ns(0) >= until_ns);
        assert_int_equal(count, 0);
        fan_subscription_free(full);
        fan_bus_free(bus);
    }
}

static void set_timeout(struct fan_bus *bus, unsigned timeout_ms)
{
    fan__bus_enter(bus);
    bus->block_timeout_ms = timeout_ms;
    fan__bus_leave(bus);
}

/* Each end of a subscription may have made room, so the publisher looks again; and again. */
static void test_B18_L1_a_publisher_that_is_woken_in_vain_gives_up_in_time(void **state)
{
    (void)state;
    struct fan_subscription *full;
    struct fan_bus *bus = open_full(false, &full);
    struct publisher publisher;
    set_timeout(bus, 10 * TIMEOUT_MS);
    int64_t until_ns = fan__deadline_ns(PATIENCE_MS);
    start_publisher(&publisher, bus, "full", 1);
    while (!atomic_load(&publisher.done) && fan__deadline_ns(0) < until_ns)
        fan_subscription_free(subscribe_with(bus, OPTIONS(.topic = "other")));
    bool gave_up = atomic_load(&publisher.done);
    fan__thread_join(&publisher.thread);
    assert_true(gave_up);
    assert_int_equal(publisher.status, FAN_TIMED_OUT);
    assert_int_equal(bus_counters_of(bus).published, 1);
    fan_subscription_free(full);
    fan_bus_free(bus);
}

struct batch {
    struct fan__thread thread;
    struct fan_bus *bus;
    size_t count;
    enum fan_status status;
    atomic_bool done;
};

enum { BATCH_COUNT = 12 };

static void publish_batch(void *context)
{
    struct batch *batch = context;
    struct fan_message messages[BATCH_COUNT];
    for (size_t i = 0; i < BATCH_COUNT; i++)
        messages[i] = message_of("full", "a", "x");
    batch->status = fan_bus_publish_many(batch->bus, messages, BATCH_COUNT, &batch->count);
    atomic_store(&batch->done, true);
}

/* The reader makes room after half of it each time, which is time enough for each alone. */
static void test_B18_L1_messages_that_are_published_together_have_one_deadline(void **state)
{
    (void)state;
    for (int by_reference = 0; by_reference < 2; by_reference++) {
        struct fan_subscription *full;
        struct fan_bus *bus = open_full(by_reference, &full);
        struct batch batch = { .bus = bus };
        assert_ok(fan__thread_start(&batch.thread, "publisher", publish_batch, &batch));
        for (uint64_t seq = 1; !atomic_load(&batch.done);) {
            int64_t until_ns = fan__deadline_ns(TIMEOUT_MS / 2);
            while (fan__deadline_ns(0) < until_ns && !atomic_load(&batch.done))
                sched_yield();
            const struct fan_message *message;
            if (fan_subscription_next(full, 0, &message) == FAN_OK)
                assert_int_equal(message->seq, seq++);
        }
        fan__thread_join(&batch.thread);
        assert_int_equal(batch.status, FAN_TIMED_OUT);
        assert_in_range(batch.count, 0, BATCH_COUNT - 1);
        fan_subscription_free(full);
        fan_bus_free(bus);
    }
}

static void test_B18_L1_who_waits_behind_another_publisher_gives_up_in_time(void **state)
{
    (void)state;
    struct fan_bus *bus = open_blocking(PATIENCE_MS);
    struct fan_subscription *full =
        subscribe_with(bus, OPTIONS(.policy = FAN_POLICY_BLOCK, .buffer_count = 1));
    publish(bus, NULL, "a");
    struct publisher first;
    start_blocked(&first, bus, NULL, 1);
    set_timeout(bus, TIMEOUT_MS);
    int64_t until_ns = fan__deadline_ns(TIMEOUT_MS);
    assert_int_equal(try_publish(bus, NULL, "a", NULL), FAN_TIMED_OUT);
    assert_true(fan__deadline_ns(0) >= until_ns);
    assert_false(atomic_load(&first.done));
    expect_seq(full, 1);
    fan__thread_join(&first.thread);
    assert_ok(first.status);
    expect_seq(full, 2);
    fan_subscription_free(full);
    fan_bus_free(bus);
}

static void test_B18_block_is_woken_by_progress_and_ends(void **state)
{
    (void)state;
    struct fan_cancel *cancel;
    assert_ok(fan_cancel_new(NULL, &cancel));
    for (int how = 0; how < 5; how++) {
        struct fan_bus *bus = open_blocking(FAN_TIMEOUT_FOREVER);
        struct fan_subscription_options options = { .size = FAN_SUBSCRIPTION_OPTIONS_SIZE,
                                                    .policy = FAN_POLICY_BLOCK,
                                                    .buffer_count = 1,
                                                    .cancel = cancel };
        struct fan_subscription *slow = subscribe_with(bus, &options);
        publish(bus, NULL, "a");
        struct publisher first;
        struct publisher second;
        start_blocked(&first, bus, NULL, 1);
        start_blocked(&second, bus, NULL, 2);
        if (how == 0) {
            /* Each read alone lets the next publisher through. */
            for (uint64_t seq = 1; seq <= 3; seq++) {
                while (bus_counters_of(bus).published < seq)
                    sched_yield();
                expect_seq(slow, seq);
            }
        } else if (how == 1) {
            fan_subscription_unsubscribe(slow);
        } else if (how == 2) {
            fan_subscription_cancel(slow);
        } else if (how == 3) {
            fan_bus_close(bus);
        } else {
            fan_cancel_fire(cancel);
        }
        fan__thread_join(&first.thread);
        fan__thread_join(&second.thread);
        enum fan_status expected = how == 3 ? FAN_CLOSED : FAN_OK;
        assert_int_equal(first.status, expected);
        assert_int_equal(second.status, expected);
        assert_int_equal(bus_counters_of(bus).published, how == 3 ? 1 : 3);
        fan_subscription_free(slow);
        fan_bus_free(bus);
    }
    fan_cancel_unref(cancel);
}

static void await_gate_taken(struct fan_bus *bus)
{
    for (bool taken = false; !taken;) {
        fan__bus_enter(bus);
        taken = bus->gate_taken;
        fan__bus_leave(bus);
    }
}

static void test_B05_who_waits_at_the_gate_is_out_when_close_returns(void **state)
{
    (void)state;
    for (size_t round = 0; round < 60; round++) {
        struct fan_bus *bus = open_blocking(FAN_TIMEOUT_FOREVER);
        struct fan_subscription *full =
            subscribe_with(bus, OPTIONS(.policy = FAN_POLICY_BLOCK, .buffer_count = 1));
        publish(bus, NULL, "a");
        size_t count = round % 3 == 0 ? 2 : 1;
        struct publisher publishers[2];
        for (size_t i = 0; i < count; i++)
            start_publisher(&publishers[i], bus, NULL, 1);
        /* Asleep, or on its way there. */
        if (round % 3 < 2)
            await_blocked(bus, count);
        else
            await_gate_taken(bus);
        fan_bus_close(bus);
        fan__bus_enter(bus);
        bool waiting = bus->gate_taken || atomic_load(&bus->gate_waiter_count) > 0;
        fan__bus_leave(bus);
        for (size_t i = 0; i < count; i++) {
            fan__thread_join(&publishers[i].thread);
            assert_int_equal(publishers[i].status, FAN_CLOSED);
        }
        assert_false(waiting);
        fan_subscription_free(full);
        fan_bus_free(bus);
    }
}

static void test_L1_all_topics_wait_behind_one_that_waits(void **state)
{
    (void)state;
    struct fan_bus *bus = open_blocking(FAN_TIMEOUT_FOREVER);
    struct fan_subscription *slow = subscribe_with(
        bus, OPTIONS(.topic = "slow", .policy = FAN_POLICY_BLOCK, .buffer_count = 1));
    publish(bus, "slow", "a");
    publish(bus, "other", "a");
    struct publisher first;
    struct publisher second;
    start_blocked(&first, bus, "slow", 1);
    start_blocked(&second, bus, "other", 2);
    expect_seq(slow, 1);
    fan__thread_join(&first.thread);
    fan__thread_join(&second.thread);
    assert_int_equal(first.status, FAN_OK);
    assert_int_equal(second.status, FAN_OK);
    assert_int_equal(second.seq, first.seq + 1);
    fan_subscription_free(slow);
    fan_bus_free(bus);
}

/* Small ones by a bus that has no rings, and large ones by one that has. */
static void test_B18_one_read_of_a_queue_wakes_a_publisher(void **state)
{
    (void)state;
    for (int by_reference = 0; by_reference < 2; by_reference++) {
        size_t size = by_reference ? 1 : 2 * FAN__SLOT_SIZE_DEFAULT;
        struct fan_bus_options options = FAN_BUS_OPTIONS_INIT;
        options.block_timeout_ms = FAN_TIMEOUT_FOREVER;
        options.by_reference = by_reference;
        struct fan_bus *bus = open_with(&options);
        struct fan_subscription *slow =
            subscribe_with(bus, OPTIONS(.policy = FAN_POLICY_BLOCK, .buffer_count = 2));
        assert_ok(try_publish_bytes(bus, NULL, size, NULL));
        assert_ok(try_publish_bytes(bus, NULL, size, NULL));
        struct publisher publisher;
        start_publisher(&publisher, bus, NULL, size);
        await_blocked(bus, 1);
        assert_true(atomic_load(&slow->place) & FAN__PLACE_QUEUED);
        expect_seq(slow, 1);
        join_published(&publisher);
        expect_seq(slow, 2);
        expect_seq(slow, 3);
        fan_subscription_free(slow);
        fan_bus_free(bus);
    }
}

/*
 * What a reader has in hand is half of the budget, and the other half that of one who blocks. It is
 * on the ring when it reads on, and gives back by that what it was lent.
 */
static void test_B18_L12_who_gives_back_what_it_was_lent_wakes_a_publisher(void **state)
{
    (void)state;
    enum { LARGE = 60000 };
    struct fan_bus *bus = open_tight(128 << 10, FAN_TIMEOUT_FOREVER);
    struct fan_subscription *holder = subscribe_with(bus, OPTIONS(.topic = "t", .buffer_count = 4));
    struct fan_subscription *slow =
        subscribe_with(bus, OPTIONS(.topic = "u", .policy = FAN_POLICY_BLOCK, .buffer_count = 4));
    assert_ok(try_publish_bytes(bus, "t", LARGE, NULL));
    expect_seq(holder, 1);
    publish(bus, "t", "a");
    assert_false(atomic_load(&holder->place) & FAN__PLACE_QUEUED);
    assert_ok(try_publish_bytes(bus, "u", LARGE, NULL));
    struct publisher publisher;
    start_publisher(&publisher, bus, "u", LARGE);
    await_blocked(bus, 1);
    expect_seq(holder, 2);
    join_published(&publisher);
    expect_seq(slow, 3);
    expect_seq(slow, 4);
    fan_subscription_free(holder);
    fan_subscription_free(slow);
    fan_bus_free(bus);
}

/*
 * What it has in hand is all that the bus may hold, and it waits on its descriptor for more: one is
 * let in, for which it reads on, and gives back what it had.
 */
static void test_B18_B19_who_waits_with_all_it_holds_in_hand_is_given_one_more(void **state)
{
    (void)state;
    enum { LARGE = 60000 };
    struct fan_bus *bus = open_tight(128 << 10, 1);
    struct fan_subscription *slow =
        subscribe_with(bus, OPTIONS(.policy = FAN_POLICY_BLOCK, .buffer_count = 8));
    const struct fan_message *many[8];
    size_t count = 0;
    int descriptor = -1;
    assert_ok(fan_subscription_fd(slow, &descriptor));
    assert_ok(try_publish_bytes(bus, NULL, LARGE, NULL));
    assert_ok(try_publish_bytes(bus, NULL, LARGE, NULL));
    assert_ok(fan_subscription_next_many(slow, 0, many, 8, &count));
    assert_int_equal(count, 2);
    assert_false(is_readable(descriptor));
    assert_ok(try_publish_bytes(bus, NULL, LARGE, NULL));
    assert_true(is_readable(descriptor));
    assert_int_equal(try_publish_bytes(bus, NULL, LARGE, NULL), FAN_TIMED_OUT);
    expect_seq(slow, 3);
    assert_ok(try_publish_bytes(bus, NULL, LARGE, NULL));
    expect_seq(slow, 4);
    fan_subscription_free(slow);
    fan_bus_free(bus);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_B18_L1_block_times_out_and_nobody_got_it),
        cmocka_unit_test(test_B18_L1_a_publisher_waits_as_long_as_it_may),
        cmocka_unit_test(test_B18_L1_a_publisher_that_is_woken_in_vain_gives_up_in_time),
        cmocka_unit_test(test_B18_L1_messages_that_are_published_together_have_one_deadline),
        cmocka_unit_test(test_B18_L1_who_waits_behind_another_publisher_gives_up_in_time),
        cmocka_unit_test(test_B18_block_is_woken_by_progress_and_ends),
        cmocka_unit_test(test_L1_all_topics_wait_behind_one_that_waits),
        cmocka_unit_test(test_B18_one_read_of_a_queue_wakes_a_publisher),
        cmocka_unit_test(test_B18_L12_who_gives_back_what_it_was_lent_wakes_a_publisher),
        cmocka_unit_test(test_B18_B19_who_waits_with_all_it_holds_in_hand_is_given_one_more),
        cmocka_unit_test(test_B05_who_waits_at_the_gate_is_out_when_close_returns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
