/* Every allocation of the bus is made to fail in turn: nothing leaks, lies, or half happens. */
#include "bus_test.h"

#include <sys/resource.h>

static enum fan_status subscribe_some(struct fan_bus *bus, struct fan_cancel *cancel,
                                      struct fan_subscription **subscriptions)
{
    enum fan_status status = fan_bus_subscribe(
        bus, OPTIONS(.topic = "t", .buffer_count = 2, .cancel = cancel), &subscriptions[0], NULL);
    if (status == FAN_OK)
        status = fan_bus_subscribe(
            bus, OPTIONS(.pattern = "a.*", .buffer_count = 3, .policy = FAN_POLICY_LATEST),
            &subscriptions[1], NULL);
    return status;
}

static enum fan_status publish_and_read(struct fan_bus *bus,
                                        struct fan_subscription **subscriptions)
{
    for (uint64_t i = 1; i <= 4; i++) {
        struct fan_bus_counters before = bus_counters_of(bus);
        enum fan_status status = try_publish(bus, "t", "a.b", NULL);
        if (status != FAN_OK) {
            struct fan_bus_counters after = bus_counters_of(bus);
            assert_memory_equal(&before, &after, sizeof(before));
            return status;
        }
    }
    expect_seq(subscriptions[0], 1);
    expect_seq(subscriptions[0], 2);
    expect_gap(subscriptions[0], 2, 5, 2);
    expect_seq(subscriptions[1], 4);
    return FAN_OK;
}

static enum fan_status play(const struct fan_env *env)
{
    struct fan_bus_options options = FAN_BUS_OPTIONS_INIT;
    options.env = env;
    struct fan_bus *bus = NULL;
    struct fan_cancel *cancel = NULL;
    struct fan_subscription *subscriptions[2] = { NULL, NULL };
    enum fan_status status = fan_bus_open(&options, &bus, NULL);
    if (status != FAN_OK)
        return status;
    status = fan_cancel_new(env, &cancel);
    if (status == FAN_OK)
        status = fan_bus_topic_hold(bus, "held");
    if (status == FAN_OK)
        status = subscribe_some(bus, cancel, subscriptions);
    if (status == FAN_OK)
        status = publish_and_read(bus, subscriptions);
    assert_true(bus_adds_up(bus));
    fan_subscription_free(subscriptions[0]);
    fan_subscription_free(subscriptions[1]);
    assert_int_equal(bus_counters_of(bus).subscriptions, 0);
    assert_true(bus_counters_of(bus).topics <= 1);
    fan_cancel_unref(cancel);
    fan_bus_free(bus);
    return status;
}

static void test_every_allocation_may_fail(void **state)
{
    (void)state;
    struct test_memory memory;
    test_memory_init(&memory);
    enum fan_status status = FAN_NO_MEMORY;
    long left;
    for (left = 0; status != FAN_OK; left++) {
        atomic_store(&memory.left, left);
        status = play(&memory.env);
        assert_true(status == FAN_OK || status == FAN_NO_MEMORY);
        assert_int_equal(atomic_load(&memory.blocks), 0);
    }
    /*
     * A bus, a token; a table of topics, and two; a subscription and its lane; another, with the
     * array and the table of its queue, a table of prefixes and one, its lane and pattern; a table
     * of routes, and two; a ring, a segment and four messages: all failed.
     */
    assert_in_range(left, 2 + 3 + 2 + 7 + 3 + 6 + 1, 40);
}

/* Refuses growth alone: what is asked for by the hundred bytes and more. */
static void *refuse_large(void *context, void *pointer, size_t size)
{
    bool *refusing = context;
    return *refusing && size > 200 ? NULL : realloc(pointer, size);
}

static void test_a_table_that_cannot_grow_still_works(void **state)
{
    (void)state;
    bool refusing = false;
    struct fan_env env = *fan_env_default();
    env.context = &refusing;
    env.resize = refuse_large;
    struct fan_bus_options options = FAN_BUS_OPTIONS_INIT;
    options.env = &env;
    struct fan_bus *bus = open_with(&options);
    refusing = true;
    char name[3] = { 0 };
    for (int i = 0; i < 400; i++) {
        memcpy(name, (char[]){ (char)('a' + i / 20), (char)('a' + i % 20) }, 2);
        assert_ok(fan_bus_topic_hold(bus, name));
    }
    assert_int_equal(bus_counters_of(bus).topics, 400);
    refusing = false;
    assert_ok(fan_bus_topic_hold(bus, "now it may grow"));
    for (int i = 0; i < 400; i++) {
        memcpy(name, (char[]){ (char)('a' + i / 20), (char)('a' + i % 20) }, 2);
        assert_ok(fan_bus_topic_release(bus, name));
    }
    assert_int_equal(bus_counters_of(bus).topics, 1);
    fan_bus_free(bus);
}

static void test_the_descriptor_may_be_refused(void **state)
{
    (void)state;
    struct fan_bus *bus = open_bus();
    struct fan_subscription *subscription = subscribe(bus, FAN_POLICY_DEFAULT, 0);
    struct rlimit before;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    struct rlimit none = { .rlim_cur = 0, .rlim_max = before.rlim_max };
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    int descriptor = 77;
    enum fan_status status = fan_subscription_fd(subscription, &descriptor);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_equal(status, FAN_IO);
    assert_int_equal(descriptor, 77);
    publish(bus, NULL, "a");
    assert_ok(fan_subscription_fd(subscription, &descriptor));
    assert_true(is_readable(descriptor));
    fan_subscription_free(subscription);
    fan_bus_free(bus);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_allocation_may_fail),
        cmocka_unit_test(test_a_table_that_cannot_grow_still_works),
        cmocka_unit_test(test_the_descriptor_may_be_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
