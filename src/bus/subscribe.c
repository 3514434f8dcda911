/* The beginning and the end of a subscription: options, lists, the cancel token. */
#include "bus/bus.h"

#include "base/adopt.h"
#include "base/status.h"

#include <fanfare/kind.h>
#include <fanfare/pattern.h>

#include <assert.h>
#include <string.h>
#include <unistd.h>

#define YIELD_US_MAX 1000

static enum fan_status resolve_kinds(const struct fan_bus *bus,
                                     const struct fan_subscription_options *options,
                                     uint64_t *ret_mask, struct fan_error *ret_error)
{
    size_t count = options->kind_count;
    if (count > 0 && !options->kinds)
        return fan__fail(ret_error, FAN_INVALID, "kinds", "is NULL, expected %zu kinds", count);
    if (count > 0 && options->all_kinds)
        return fan__fail(ret_error, FAN_INVALID, "kinds", "expected a list or all_kinds, not both");
    if (count > 0 && !bus->kinds)
        return fan__fail(ret_error, FAN_INVALID, "kinds", "expected none: the bus has no kinds");
    if (count == 0 && !options->all_kinds && bus->kinds)
        return fan__fail(ret_error, FAN_INVALID, "kinds", "is empty, expected kinds or all_kinds");
    uint64_t mask = count > 0 ? 0 : UINT64_MAX;
    for (size_t i = 0; i < count; i++) {
        if (options->kinds[i] >= bus->kind_count)
            return fan__fail(ret_error, FAN_INVALID, "kinds", "%u is outside the set of %zu kinds",
                             options->kinds[i], bus->kind_count);
        mask |= UINT64_C(1) << options->kinds[i];
    }
    for (size_t i = 0; options->pattern && bus->kinds && i < bus->kind_count; i++) {
        if (!fan_pattern_match(options->pattern, bus->kinds[i].name))
            mask &= ~(UINT64_C(1) << i);
    }
    *ret_mask = mask;
    return FAN_OK;
}

static enum fan_status check_policy(const struct fan_bus *bus, enum fan_policy policy,
                                    struct fan_error *ret_error)
{
    switch (policy) {
    case FAN_POLICY_DEFAULT:
    case FAN_POLICY_DROP_NEWEST:
    case FAN_POLICY_DROP_OLDEST:
    case FAN_POLICY_LATEST:
        return FAN_OK;
    case FAN_POLICY_BLOCK:
        if (bus->block_timeout_ms > 0)
            return FAN_OK;
        return fan__fail(ret_error, FAN_MISUSE, "policy",
                         "FAN_POLICY_BLOCK wants a bus with a block_timeout_ms above 0");
    case FAN_POLICY_REFILL:
        return fan__fail(ret_error, FAN_UNSUPPORTED, "policy",
                         "FAN_POLICY_REFILL wants a store, which a bare bus has not");
    }
    return fan__fail(ret_error, FAN_INVALID, "policy", "%d is not a policy", (int)policy);
}

static enum fan_status check_options(const struct fan_bus *bus,
                                     const struct fan_subscription_options *options,
                                     struct fan_error *ret_error)
{
    enum fan_status status = check_policy(bus, options->policy, ret_error);
    if (status != FAN_OK)
        return status;
    if (options->topic && (options->topic[0] == '\0' ||
                           strnlen(options->topic, FAN_TEXT_SIZE_MAX + 1) > FAN_TEXT_SIZE_MAX))
        return fan__fail(ret_error, FAN_INVALID, "topic", "expected 1 to %d bytes, or NULL for all",
                         FAN_TEXT_SIZE_MAX);
    if (options->buffer_count > FAN__QUEUE_COUNT_MAX)
        return fan__fail(ret_error, FAN_INVALID, "buffer_count", "%zu is above the limit of %zu",
                         options->buffer_count, FAN__QUEUE_COUNT_MAX);
    if (options->yield_us > YIELD_US_MAX)
        return fan__fail(ret_error, FAN_INVALID, "yield_us", "%u is above the limit of %d",
                         options->yield_us, YIELD_US_MAX);
    if (!options->pattern)
        return FAN_OK;
    struct fan_error error = FAN_ERROR_INIT;
    status = fan_pattern_check(options->pattern, &error);
    if (status != FAN_OK)
        return fan__fail(ret_error, status, "pattern", "%s", error.message);
    return FAN_OK;
}

static void dispose(struct fan_subscription *subscription)
{
    const struct fan_env *env = subscription->bus->env;
    fan__queue_deinit(&subscription->queue, env);
    fan__cond_deinit(&subscription->cond);
    fan__free(env, subscription->lent);
    fan__free(env, subscription->pattern);
    fan__free(env, subscription);
}

/* Whether a checked pattern matches every type there is. */
static bool matches_all(const char *pattern)
{
    return strcmp(pattern, "*") == 0 || strcmp(pattern, ">") == 0;
}

static struct fan_subscription *make(struct fan_bus *bus,
                                     const struct fan_subscription_options *options)
{
    struct fan_subscription *subscription = fan__alloc_zero(bus->env, 1, sizeof(*subscription));
    if (!subscription)
        return NULL;
    size_t count = options->buffer_count > 0 ? options->buffer_count : FAN_BUFFER_COUNT;
    subscription->bus = bus;
    subscription->policy =
        options->policy != FAN_POLICY_DEFAULT ? options->policy : FAN_POLICY_DROP_NEWEST;
    subscription->yield_us = options->yield_us;
    subscription->descriptor = -1;
    subscription->counters.size = sizeof(subscription->counters);
    atomic_init(&subscription->readable, false);
    fan__cond_init(&subscription->cond);
    subscription->lent_count_max = count < FAN__BATCH_COUNT_MAX ? count : FAN__BATCH_COUNT_MAX;
    subscription->lent =
        fan__alloc(bus->env, subscription->lent_count_max * sizeof(*subscription->lent));
    bool with_pattern = options->pattern && !bus->kinds && !matches_all(options->pattern);
    if (with_pattern)
        subscription->pattern = fan__strdup(bus->env, options->pattern);
    if (!subscription->lent || (with_pattern && !subscription->pattern) ||
        fan__queue_init(&subscription->queue, bus->env, count,
                        subscription->policy == FAN_POLICY_LATEST) != FAN_OK) {
        dispose(subscription);
        return NULL;
    }
    return subscription;
}

/* seq_cst on the count: see fan__bus_heard. */
static void count_attached(struct fan_subscription *subscription, bool attached)
{
    struct fan_bus *bus = subscription->bus;
    bool latest = subscription->policy == FAN_POLICY_LATEST;
    if (attached) {
        atomic_fetch_add_explicit(&bus->subscription_count, 1, memory_order_seq_cst);
        bus->latest_count += latest;
    } else {
        atomic_fetch_sub_explicit(&bus->subscription_count, 1, memory_order_seq_cst);
        bus->latest_count -= latest;
    }
}

static enum fan_status attach(struct fan_subscription *subscription, const char *topic)
{
    struct fan_bus *bus = subscription->bus;
    if (bus->closed)
        return FAN_CLOSED;
    subscription->list = &bus->everywhere;
    if (topic) {
        subscription->topic = fan__topics_get(&bus->topics, topic, strlen(topic));
        if (!subscription->topic)
            return FAN_NO_MEMORY;
        subscription->list = &subscription->topic->first;
    }
    subscription->next = *subscription->list;
    if (subscription->next)
        subscription->next->previous = subscription;
    *subscription->list = subscription;
    subscription->all_next = bus->all;
    if (bus->all)
        bus->all->all_previous = subscription;
    bus->all = subscription;
    bus->all_count++;
    bus->holders++;
    count_attached(subscription, true);
    return FAN_OK;
}

void fan__subscription_detach(struct fan_subscription *subscription)
{
    if (!subscription->list)
        return;
    if (subscription->previous)
        subscription->previous->next = subscription->next;
    else
        *subscription->list = subscription->next;
    if (subscription->next)
        subscription->next->previous = subscription->previous;
    subscription->list = NULL;
    count_attached(subscription, false);
    if (subscription->topic)
        fan__topics_tidy(&subscription->bus->topics, subscription->topic);
    subscription->topic = NULL;
    fan__bus_open_gate(subscription->bus);
}

static void on_cancel(struct fan__cancel_entry *entry)
{
    fan_subscription_cancel(
        (struct fan_subscription *)(void *)((char *)entry -
                                            offsetof(struct fan_subscription, cancel)));
}

enum fan_status fan_bus_subscribe(struct fan_bus *bus,
                                  const struct fan_subscription_options *options,
                                  struct fan_subscription **ret_subscription,
                                  struct fan_error *ret_error)
{
    struct fan_subscription_options given = { .size = FAN_SUBSCRIPTION_OPTIONS_SIZE };
    uint64_t kind_mask = 0;
    if (fan__bus_forked(bus))
        return fan__fail(ret_error, FAN_FORKED, NULL, "the bus was opened before a fork");
    if (options && !fan__adopt(&given, sizeof(given), options, sizeof(size_t)))
        return fan__fail(ret_error, FAN_INVALID, "size", "expected the size of the options");
    enum fan_status status = check_options(bus, &given, ret_error);
    if (status == FAN_OK)
        status = resolve_kinds(bus, &given, &kind_mask, ret_error);
    if (status != FAN_OK)
        return status;
    struct fan_subscription *subscription = make(bus, &given);
    if (!subscription)
        return fan__fail(ret_error, FAN_NO_MEMORY, NULL, "no memory for a subscription");
    subscription->kind_mask = kind_mask;
    fan__bus_enter(bus);
    status = attach(subscription, given.topic);
    fan__bus_leave(bus);
    if (status != FAN_OK) {
        dispose(subscription);
        return fan__fail(ret_error, status, NULL,
                         status == FAN_CLOSED ? "the bus is closed" : "no memory for the topic");
    }
    if (given.cancel) {
        subscription->cancel.fire = on_cancel;
        subscription->registered = true;
        fan__cancel_add(given.cancel, &subscription->cancel);
    }
    *ret_subscription = subscription;
    return FAN_OK;
}

void fan_subscription_cancel(struct fan_subscription *subscription)
{
    struct fan_bus *bus = subscription->bus;
    if (fan__bus_forked(bus))
        return;
    fan__bus_enter(bus);
    fan__subscription_detach(subscription);
    fan__subscription_settle(subscription);
    fan__bus_leave(bus);
}

void fan_subscription_unsubscribe(struct fan_subscription *subscription)
{
    struct fan_bus *bus = subscription->bus;
    if (fan__bus_forked(bus))
        return;
    fan__bus_enter(bus);
    fan__subscription_detach(subscription);
    while (subscription->queue.count > 0) {
        fan__queue_clear_loss(&subscription->queue);
        fan__subscription_release(subscription, fan__queue_pop(&subscription->queue));
        subscription->counters.queued--;
        subscription->counters.discarded++;
    }
    fan__queue_clear_loss(&subscription->queue);
    fan__subscription_settle(subscription);
    /* Only one of several callers leaves the token, and without the bus's lock. */
    bool registered = subscription->registered;
    subscription->registered = false;
    fan__bus_open_gate(bus);
    fan__bus_leave(bus);
    if (registered)
        fan__cancel_remove(&subscription->cancel);
}

void fan_subscription_free(struct fan_subscription *subscription)
{
    if (!subscription || fan__bus_forked(subscription->bus))
        return;
    struct fan_bus *bus = subscription->bus;
    fan_subscription_unsubscribe(subscription);
    fan__bus_enter(bus);
    while (subscription->waking)
        fan__cond_wait(&subscription->cond, &bus->mutex);
    for (size_t i = 0; i < subscription->lent_count; i++)
        fan__subscription_release(subscription, subscription->lent[i]);
    assert(subscription->held_size == 0);
    fan__counters_add(&bus->departed, &subscription->counters);
    if (subscription->all_previous)
        subscription->all_previous->all_next = subscription->all_next;
    else
        bus->all = subscription->all_next;
    if (subscription->all_next)
        subscription->all_next->all_previous = subscription->all_previous;
    bus->all_count--;
    fan__bus_open_gate(bus);
    fan__bus_leave(bus);
    if (subscription->descriptor >= 0)
        close(subscription->descriptor);
    dispose(subscription);
    fan__bus_drop(bus);
}
