/* The beginning and the end of a subscription: options, its lane, the cancel token. */
#include "bus/bus.h"
#include "bus/read.h"

#include "base/adopt.h"
#include "base/status.h"

#include <fanfare/kind.h>
#include <fanfare/pattern.h>

#include <assert.h>
#include <stdint.h>
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
    if (bus->kinds && count == 0)
        mask >>= FAN_KIND_COUNT_MAX - bus->kind_count;
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
    fan__mutex_deinit(&subscription->lock);
    fan__free(env, subscription->lent_many);
    fan__free(env, subscription);
}

/* Whether a checked pattern matches every type there is. */
static bool matches_all(const char *pattern)
{
    return strcmp(pattern, "*") == 0 || strcmp(pattern, ">") == 0;
}

/* NULL without memory, or when it wants more at once than the bus may hold. */
static struct fan_subscription *make(struct fan_bus *bus,
                                     const struct fan_subscription_options *options)
{
    if (options->policy == FAN_POLICY_LATEST &&
        options->buffer_count > bus->memory_size_max / sizeof(struct fan__slot))
        return NULL;
    struct fan_subscription *subscription =
        fan__alloc_zero(bus->env, 1, sizeof(*subscription) + fan__lent_size(bus));
    if (!subscription)
        return NULL;
    subscription->bus = bus;
    subscription->policy =
        options->policy != FAN_POLICY_DEFAULT ? options->policy : FAN_POLICY_DROP_NEWEST;
    subscription->buffer_count =
        options->buffer_count > 0 ? options->buffer_count : FAN_BUFFER_COUNT;
    subscription->in_place = subscription->policy == FAN_POLICY_BLOCK;
    subscription->yield_us = options->yield_us;
    subscription->descriptor = -1;
    subscription->lent_one = (struct fan__lent *)(void *)(subscription + 1);
    atomic_init(&subscription->limit, FAN__NO_LIMIT);
    atomic_init(&subscription->place, 0);
    atomic_init(&subscription->lent_from, FAN__NOT_LENT);
    atomic_init(&subscription->delivered, 0);
    atomic_init(&subscription->lapped, 0);
    atomic_init(&subscription->queued_max_lane, 0);
    atomic_init(&subscription->held_size, 0);
    atomic_init(&subscription->array_size, 0);
    atomic_init(&subscription->asked, false);
    atomic_init(&subscription->sleep_word, 0);
    fan__link_init(&subscription->all_link);
    fan__link_init(&subscription->lane_link);
    fan__link_init(&subscription->armed_link);
    fan__link_init(&subscription->lending_link);
    fan__link_init(&subscription->chain_link);
    fan__mutex_init(&subscription->lock);
    if (fan__queue_init(&subscription->queue, bus->env, subscription->buffer_count,
                        subscription->policy == FAN_POLICY_LATEST) == FAN_OK)
        return subscription;
    dispose(subscription);
    return NULL;
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

static enum fan_status attach(struct fan_subscription *subscription,
                              const struct fan_subscription_options *options, uint64_t kind_mask)
{
    struct fan_bus *bus = subscription->bus;
    struct fan__filter filter = {
        .topic = options->topic,
        .pattern = options->pattern,
        .kind_mask = kind_mask,
        .buffer_count = subscription->buffer_count,
        .want_ring = subscription->policy != FAN_POLICY_LATEST,
    };
    /* On a bus with kinds, the mask has it. */
    if (filter.pattern && (bus->kinds || matches_all(filter.pattern)))
        filter.pattern = NULL;
    if (bus->closed)
        return FAN_CLOSED;
    /* relaxed: a sum. */
    if (atomic_load_explicit(&bus->held_size, memory_order_relaxed) +
            fan__queue_size(&subscription->queue) >
        bus->memory_size_max)
        return FAN_NO_MEMORY;
    struct fan__lane *lane = fan__lane_get(bus, &filter);
    if (!lane)
        return FAN_NO_MEMORY;
    subscription->lane = lane;
    subscription->ring = filter.want_ring && lane->slot_count >= 2 * subscription->buffer_count;
    /* relaxed: only the turn moves it. */
    subscription->start = atomic_load_explicit(&lane->tail, memory_order_relaxed);
    fan__link_join(&bus->all, &subscription->all_link);
    bus->all_count++;
    bus->holders++;
    count_attached(subscription, true);
    fan__subscription_charge(subscription);
    fan__lane_join(lane, subscription);
    return FAN_OK;
}

void fan__subscription_end(struct fan_subscription *subscription)
{
    struct fan__lane *lane = subscription->lane;
    if (subscription->ended)
        return;
    fan__mutex_lock(&subscription->lock);
    fan__subscription_fold(subscription);
    subscription->parked = false;
    fan__mutex_unlock(&subscription->lock);
    subscription->ended = true;
    /*
     * release: a reader that finds a later position on the lane finds this too, since it came
     * before in the turn. relaxed: only the turn moves the tail, or to the queue and back.
     */
    atomic_store_explicit(&subscription->limit,
                          atomic_load_explicit(&lane->tail, memory_order_relaxed),
                          memory_order_release);
    /* One on the ring stays there, so that nothing is overwritten that it may still read. */
    if (atomic_load_explicit(&subscription->place, memory_order_relaxed) & FAN__PLACE_QUEUED)
        fan__link_leave(&subscription->lane_link);
    else
        fan__lane_mind(lane, subscription);
    count_attached(subscription, false);
    fan__lane_retire(lane);
    fan__subscription_settle(subscription);
    fan__bus_open_gate(subscription->bus);
}

/* Counts what it has not read as discarded, and forgets it. In the turn. */
static void discard(struct fan_subscription *subscription)
{
    struct fan__queue *queue = &subscription->queue;
    /* relaxed: only the turn sets it. */
    uint64_t limit = atomic_load_explicit(&subscription->limit, memory_order_relaxed);
    fan__mutex_lock(&subscription->lock);
    /* acq_rel: its reader finds out that nothing of the lane is its own any more. */
    uint64_t place =
        atomic_fetch_or_explicit(&subscription->place, FAN__PLACE_QUEUED, memory_order_acq_rel);
    if (!(place & FAN__PLACE_QUEUED)) {
        uint64_t unread = limit - (place >> FAN__PLACE_SHIFT);
        uint64_t kept = unread < subscription->buffer_count ? unread : subscription->buffer_count;
        subscription->discarded += kept;
        subscription->dropped += unread - kept;
        if (kept > subscription->queued_max)
            subscription->queued_max = kept;
    }
    subscription->discarded += fan__queue_count(queue);
    if (fan__queue_words(queue)) {
        fan__queue_clear_loss(queue);
        fan__queue_pop_words(queue, (size_t)(queue->end - queue->at));
    }
    fan__subscription_release_used_up(subscription);
    while (queue->count > 0) {
        fan__queue_clear_loss(queue);
        fan__subscription_release(subscription, fan__queue_pop(queue));
    }
    fan__queue_clear_loss(queue);
    fan__subscription_trim(subscription, true);
    fan__mutex_unlock(&subscription->lock);
    fan__link_leave(&subscription->lane_link);
    fan__lane_keep_lent(subscription->lane, subscription);
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
    fan__bus_enter(bus);
    status = attach(subscription, &given, kind_mask);
    fan__bus_leave(bus);
    if (status != FAN_OK) {
        dispose(subscription);
        return fan__fail(ret_error, status, NULL,
                         status == FAN_CLOSED ? "the bus is closed" : "no memory for its lane");
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
    fan__subscription_end(subscription);
    fan__bus_leave(bus);
}

void fan_subscription_unsubscribe(struct fan_subscription *subscription)
{
    struct fan_bus *bus = subscription->bus;
    if (fan__bus_forked(bus))
        return;
    fan__bus_enter(bus);
    fan__subscription_end(subscription);
    discard(subscription);
    fan__subscription_settle(subscription);
    /* Only one of several callers leaves the token, and without the bus's locks. */
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
    fan__bus_await_wake(subscription);
    /* It may be among those that ask for something. */
    fan__lane_attend(subscription->lane);
    fan__link_leave(&subscription->lane_link);
    fan__link_leave(&subscription->armed_link);
    fan__link_leave(&subscription->lending_link);
    fan__subscription_take_back(subscription);
    assert(subscription->held_size == 0);
    struct fan_subscription_counters counters;
    fan__subscription_count(subscription, &counters);
    fan__counters_add(&bus->departed, &counters);
    fan__link_leave(&subscription->all_link);
    fan__queue_deinit(&subscription->queue, bus->env);
    fan__subscription_charge(subscription);
    if (--bus->all_count == 0)
        fan__arena_trim(&bus->arena); /* nothing is kept for nobody */
    fan__lane_drop(subscription->lane);
    fan__bus_open_gate(bus);
    fan__bus_leave(bus);
    if (subscription->descriptor >= 0)
        close(subscription->descriptor);
    dispose(subscription);
    fan__bus_drop(bus);
}
