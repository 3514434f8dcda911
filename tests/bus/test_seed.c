/*
 * What the tests of the systems before this one asked of their buses, with the exact numbers:
 * the typed bus (monitoring of hosts) and the topology bus (members of a cluster).
 */
#include "typed_test.h"

#include "base/thread.h"

static void publish_pulse(struct fan_bus *bus, uint64_t number)
{
    struct heartbeat_pulse pulse = { .host_id = "h", .occurred_at_us = (int64_t)number };
    assert_ok(pulse_publish(bus, NULL, &pulse, NULL));
}

static void expect_pulse(struct fan_subscription *subscription, uint64_t number)
{
    const struct fan_message *message;
    struct heartbeat_pulse pulse = { .occurred_at_us = 0 };
    assert_ok(fan_subscription_next(subscription, 0, &message));
    assert_ok(pulse_read(message, &pulse));
    assert_int_equal(pulse.occurred_at_us, number);
}

/* Typed bus, 9: one unheard, one read, one kept, one lost. */
static void test_B20_the_counters_after_four_publishes(void **state)
{
    (void)state;
    struct fan_bus *bus = open_typed();
    publish_pulse(bus, 1);
    struct fan_subscription *subscription =
        subscribe_with(bus, OPTIONS(.all_kinds = true, .buffer_count = 1));
    publish_pulse(bus, 2);
    expect_pulse(subscription, 2);
    publish_pulse(bus, 3);
    publish_pulse(bus, 4);
    struct fan_bus_counters counters = bus_counters_of(bus);
    assert_int_equal(counters.published, 4);
    assert_int_equal(counters.unheard, 1);
    assert_int_equal(counters.dropped, 1);
    expect_pulse(subscription, 3);
    counters = bus_counters_of(bus);
    assert_int_equal(counters.matched, 3);
    assert_int_equal(counters.delivered, 2);
    assert_true(bus_adds_up(bus));
    fan_subscription_free(subscription);
    fan_bus_free(bus);
}

/* Typed bus, 7: the set is these two, and no third. */
static void test_B24_B25_the_set_is_of_two_kinds(void **state)
{
    (void)state;
    struct fan_bus *bus = open_typed();
    assert_string_equal(fan_bus_kind(bus, PULSE)->name, "host.pulse");
    assert_string_equal(fan_bus_kind(bus, DRIFT)->name, "host.drift");
    assert_null(fan_bus_kind(bus, 2));
    struct drift_detected drift = { .host_id = "h", .scan_id = "s", .score_delta = -22 };
    struct fan_subscription *pulses = subscribe_kinds(bus, (unsigned[]){ PULSE }, 1);
    struct fan_subscription *drifts = subscribe_kinds(bus, (unsigned[]){ DRIFT }, 1);
    assert_ok(drift_publish(bus, NULL, &drift, NULL));
    expect_status(pulses, FAN_AGAIN);
    const struct fan_message *message;
    struct drift_detected got;
    struct heartbeat_pulse other;
    assert_ok(fan_subscription_next(drifts, 0, &message));
    assert_int_equal(pulse_read(message, &other), FAN_INVALID);
    assert_ok(drift_read(message, &got));
    assert_memory_equal(&got, &drift, sizeof(got));
    fan_subscription_free(pulses);
    fan_subscription_free(drifts);
    fan_bus_free(bus);
}

/* Typed bus, 11, and topology bus, 4: a slow one loses its own, and nobody else's. */
static void test_B11_a_drained_subscriber_gets_all_beside_a_slow_one(void **state)
{
    (void)state;
    static const struct {
        size_t buffer_count;
        uint64_t published;
    } rounds[] = { { 2, 100 }, { 16, 26 } };
    for (size_t i = 0; i < 2; i++) {
        struct fan_bus *bus = open_typed();
        struct fan_subscription *slow =
            subscribe_with(bus, OPTIONS(.all_kinds = true, .buffer_count = rounds[i].buffer_count));
        struct fan_subscription *fast = subscribe_with(bus, OPTIONS(.all_kinds = true));
        for (uint64_t number = 1; number <= rounds[i].published; number++) {
            publish_pulse(bus, number);
            expect_pulse(fast, number);
        }
        expect_status(fast, FAN_AGAIN);
        assert_int_equal(counters_of(fast).dropped, 0);
        assert_int_equal(counters_of(slow).dropped, rounds[i].published - rounds[i].buffer_count);
        assert_int_equal(bus_counters_of(bus).dropped, counters_of(slow).dropped);
        fan_subscription_free(slow);
        fan_subscription_free(fast);
        fan_bus_free(bus);
    }
}

/* Topology bus, 3: nobody reads; what fits is kept, what does not is dropped, nobody waits. */
static void test_B06_sixteen_are_kept_and_five_are_dropped(void **state)
{
    (void)state;
    struct fan_bus *bus = open_bus();
    struct fan_subscription *subscription = subscribe(bus, FAN_POLICY_DROP_NEWEST, 16);
    for (int i = 0; i < 16; i++)
        publish(bus, NULL, "members");
    assert_int_equal(bus_counters_of(bus).dropped, 0);
    for (int i = 0; i < 5; i++)
        publish(bus, NULL, "members");
    assert_int_equal(bus_counters_of(bus).dropped, 5);
    assert_int_equal(bus_counters_of(bus).queued, 16);
    for (uint64_t seq = 1; seq <= 16; seq++)
        expect_seq(subscription, seq);
    expect_gap(subscription, 16, 22, 5);
    fan_subscription_free(subscription);
    fan_bus_free(bus);
}

/* Topology bus, 7: versions rise, read as they were returned. */
static void test_B17_a_hundred_versions_rise(void **state)
{
    (void)state;
    struct fan_bus *bus = open_bus();
    struct fan_subscription *subscription = subscribe(bus, FAN_POLICY_DROP_NEWEST, 0);
    for (uint64_t seq = 1; seq <= 100; seq++) {
        assert_int_equal(publish(bus, NULL, "members"), seq);
        expect_seq(subscription, seq);
    }
    fan_subscription_free(subscription);
    fan_bus_free(bus);
}

struct drain {
    struct fan__thread thread;
    struct fan_subscription *subscription;
    uint64_t count;
};

static void drain_all(void *context)
{
    struct drain *drain = context;
    const struct fan_message *message;
    while (fan_subscription_next(drain->subscription, FAN_TIMEOUT_FOREVER, &message) == FAN_OK)
        drain->count++;
}

/* Typed bus, 4 and 10: exact where the bound was from above alone. */
static void test_B26_a_thousand_publishes_make_ten_thousand_deliveries(void **state)
{
    (void)state;
    enum { READERS = 10, PUBLISHED = 1000 };
    struct fan_bus *bus = open_typed();
    struct drain drains[READERS] = { 0 };
    for (size_t i = 0; i < READERS; i++) {
        drains[i].subscription = subscribe_with(bus, OPTIONS(.all_kinds = true));
        assert_ok(fan__thread_start(&drains[i].thread, "drain", drain_all, &drains[i]));
    }
    for (uint64_t number = 1; number <= PUBLISHED; number++)
        publish_pulse(bus, number);
    fan_bus_close(bus);
    for (size_t i = 0; i < READERS; i++) {
        fan__thread_join(&drains[i].thread);
        assert_int_equal(drains[i].count, PUBLISHED);
    }
    struct fan_bus_counters counters = bus_counters_of(bus);
    assert_int_equal(counters.published, PUBLISHED);
    assert_int_equal(counters.delivered, READERS * PUBLISHED);
    for (size_t i = 0; i < READERS; i++)
        fan_subscription_free(drains[i].subscription);
    fan_bus_free(bus);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_B20_the_counters_after_four_publishes),
        cmocka_unit_test(test_B24_B25_the_set_is_of_two_kinds),
        cmocka_unit_test(test_B11_a_drained_subscriber_gets_all_beside_a_slow_one),
        cmocka_unit_test(test_B06_sixteen_are_kept_and_five_are_dropped),
        cmocka_unit_test(test_B17_a_hundred_versions_rise),
        cmocka_unit_test(test_B26_a_thousand_publishes_make_ten_thousand_deliveries),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
