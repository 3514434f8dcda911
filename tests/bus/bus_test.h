/* Short words for tests of the bus, and an environment that counts and refuses allocations. */
#ifndef BUS_TEST_H
#define BUS_TEST_H

#include "../test.h"

#include <fanfare/cancel.h>
#include <fanfare/env.h>
#include <fanfare/kind.h>
#include <fanfare/subscription.h>

#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* Options of a subscription, by their fields. */
#define OPTIONS(...)                                                                               \
    &(struct fan_subscription_options)                                                             \
    {                                                                                              \
        FAN_SUBSCRIPTION_OPTIONS_SIZE, __VA_ARGS__                                                 \
    }

/* Counts blocks that are allocated; refuses all once `left` (unless negative) is used up. */
struct test_memory {
    struct fan_env env;
    atomic_long blocks;
    atomic_long calls;
    atomic_long left;
};

static inline void *test_resize(void *context, void *pointer, size_t size)
{
    struct test_memory *memory = context;
    atomic_fetch_add(&memory->calls, 1);
    if (atomic_load(&memory->left) >= 0 && atomic_fetch_sub(&memory->left, 1) <= 0) {
        atomic_store(&memory->left, 0);
        return NULL;
    }
    void *result = realloc(pointer, size);
    if (result && !pointer)
        atomic_fetch_add(&memory->blocks, 1);
    return result;
}

static inline void test_release(void *context, void *pointer)
{
    struct test_memory *memory = context;
    atomic_fetch_sub(&memory->blocks, 1);
    free(pointer);
}

static inline void test_memory_init(struct test_memory *memory)
{
    memory->env = *fan_env_default();
    memory->env.context = memory;
    memory->env.resize = test_resize;
    memory->env.release = test_release;
    atomic_init(&memory->blocks, 0);
    atomic_init(&memory->calls, 0);
    atomic_init(&memory->left, -1);
}

static inline struct fan_message message_of(const char *topic, const char *type, const char *text)
{
    return (struct fan_message){ .size = FAN_MESSAGE_SIZE,
                                 .topic = topic,
                                 .type = type,
                                 .payload = { text, text ? strlen(text) : 0 } };
}

static inline enum fan_status try_publish(struct fan_bus *bus, const char *topic, const char *type,
                                          uint64_t *ret_seq)
{
    struct fan_message message = message_of(topic, type, "x");
    return fan_bus_publish(bus, &message, ret_seq);
}

static inline uint64_t publish(struct fan_bus *bus, const char *topic, const char *type)
{
    uint64_t seq = 0;
    assert_ok(try_publish(bus, topic, type, &seq));
    return seq;
}

/* So many zeros, up to 64 KiB. */
static inline enum fan_status try_publish_bytes(struct fan_bus *bus, const char *topic, size_t size,
                                                uint64_t *ret_seq)
{
    static const char bytes[64 << 10];
    struct fan_message message = message_of(topic, "a", NULL);
    message.payload = (struct fan_str){ bytes, size };
    assert_true(size <= sizeof(bytes));
    return fan_bus_publish(bus, &message, ret_seq);
}

static inline struct fan_bus *open_with(const struct fan_bus_options *options)
{
    struct fan_bus *bus = NULL;
    assert_ok(fan_bus_open(options, &bus, NULL));
    return bus;
}

/* One with a budget, whose publishers wait up to timeout_ms for readers that block. */
static inline struct fan_bus *open_tight(size_t memory_size_max, uint32_t timeout_ms)
{
    struct fan_bus_options options = FAN_BUS_OPTIONS_INIT;
    options.memory_size_max = memory_size_max;
    options.block_timeout_ms = timeout_ms;
    return open_with(&options);
}

/* One with a budget, and nothing else that is not usual. */
static inline struct fan_bus *open_within(size_t memory_size_max)
{
    return open_tight(memory_size_max, 0);
}

static inline struct fan_bus *open_bus(void)
{
    return open_with(NULL);
}

/* A bus whose publishers wait up to timeout_ms for readers that block. */
static inline struct fan_bus *open_blocking(uint32_t timeout_ms)
{
    struct fan_bus_options options = FAN_BUS_OPTIONS_INIT;
    options.block_timeout_ms = timeout_ms;
    return open_with(&options);
}

/* A bus that allocates from `memory`, which is made ready here. */
static inline struct fan_bus *open_counted(struct test_memory *memory)
{
    struct fan_bus_options options = FAN_BUS_OPTIONS_INIT;
    test_memory_init(memory);
    options.env = &memory->env;
    return open_with(&options);
}

static inline struct fan_subscription *subscribe_with(
    struct fan_bus *bus, const struct fan_subscription_options *options)
{
    struct fan_subscription *subscription = NULL;
    assert_ok(fan_bus_subscribe(bus, options, &subscription, NULL));
    return subscription;
}

static inline struct fan_subscription *subscribe(struct fan_bus *bus, enum fan_policy policy,
                                                 size_t buffer_count)
{
    struct fan_subscription_options options = { .size = FAN_SUBSCRIPTION_OPTIONS_SIZE,
                                                .policy = policy,
                                                .buffer_count = buffer_count };
    return subscribe_with(bus, &options);
}

static inline void expect_seq(struct fan_subscription *subscription, uint64_t seq)
{
    const struct fan_message *message = NULL;
    assert_ok(fan_subscription_next(subscription, 0, &message));
    assert_int_equal(message->seq, seq);
}

static inline void expect_status(struct fan_subscription *subscription, enum fan_status status)
{
    const struct fan_message *message = NULL;
    assert_int_equal(fan_subscription_next(subscription, 0, &message), status);
    assert_null(message);
}

static inline void expect_gap(struct fan_subscription *subscription, uint64_t after,
                              uint64_t before, uint64_t count)
{
    struct fan_gap gap;
    expect_status(subscription, FAN_GAP);
    fan_subscription_gap(subscription, &gap);
    assert_int_equal(gap.after, after);
    assert_int_equal(gap.before, before);
    assert_int_equal(gap.count, count);
    assert_int_equal(gap.reason, FAN_GAP_OVERFLOW);
}

static inline struct fan_subscription_counters counters_of(struct fan_subscription *subscription)
{
    struct fan_subscription_counters counters = { .size = sizeof(counters) };
    fan_subscription_counters(subscription, &counters);
    return counters;
}

static inline struct fan_bus_counters bus_counters_of(struct fan_bus *bus)
{
    struct fan_bus_counters counters = { .size = sizeof(counters) };
    fan_bus_counters(bus, &counters);
    return counters;
}

/* A publish that is refused: it changes nothing. */
static inline void expect_unpublished(struct fan_bus *bus, enum fan_status status)
{
    struct fan_bus_counters before = bus_counters_of(bus);
    uint64_t seq = 99;
    assert_int_equal(try_publish(bus, NULL, "a", &seq), status);
    assert_int_equal(seq, 99);
    struct fan_bus_counters after = bus_counters_of(bus);
    assert_memory_equal(&before, &after, sizeof(before));
}

/* L3, for one subscription and for a whole bus. */
static inline bool adds_up(const struct fan_subscription_counters *c)
{
    return c->matched == c->delivered + c->dropped + c->conflated + c->discarded + c->queued;
}

static inline bool bus_adds_up(struct fan_bus *bus)
{
    struct fan_bus_counters c = bus_counters_of(bus);
    return c.matched == c.delivered + c.dropped + c.conflated + c.discarded + c.queued;
}

static inline bool is_readable(int descriptor)
{
    struct pollfd poll_one = { .fd = descriptor, .events = POLLIN };
    return poll(&poll_one, 1, 0) == 1;
}

#endif
