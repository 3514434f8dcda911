/* Opening, closing and counting; what happens at the edges of the lock; held topics and kinds. */
#include "bus/bus.h"

#include "base/adopt.h"
#include "base/status.h"
#include "bus/notify.h"

#include <fanfare/kind.h>
#include <fanfare/pattern.h>

#include <assert.h>
#include <string.h>

#define MEMORY_SIZE_MAX_DEFAULT ((size_t)64 << 20)

static enum fan_status check_kind_name(const struct fan_kind *kinds, size_t index,
                                       struct fan_error *ret_error)
{
    const char *name = kinds[index].name;
    if (!name || strpbrk(name, "*>") || fan_pattern_check(name, NULL) != FAN_OK)
        return fan__fail(ret_error, FAN_INVALID, "kinds",
                         "kind %zu: \"%s\" is not a legal type (dotted segments, 1 to %d bytes)",
                         index, name ? name : "", FAN_TEXT_SIZE_MAX);
    for (size_t i = 0; i < index; i++) {
        if (strcmp(kinds[i].name, name) == 0)
            return fan__fail(ret_error, FAN_INVALID, "kinds",
                             "kinds %zu and %zu have the same name \"%s\"", i, index, name);
    }
    return FAN_OK;
}

static enum fan_status check_kinds(const struct fan_bus_options *options,
                                   struct fan_error *ret_error)
{
    if (!options->kinds && options->kind_count == 0)
        return FAN_OK;
    if (!options->kinds || options->kind_count == 0 || options->kind_count > FAN_KIND_COUNT_MAX)
        return fan__fail(ret_error, FAN_INVALID, "kind_count",
                         "%zu kinds given, expected 1 to %d in an array, or neither",
                         options->kind_count, FAN_KIND_COUNT_MAX);
    for (size_t i = 0; i < options->kind_count; i++) {
        enum fan_status status = check_kind_name(options->kinds, i, ret_error);
        if (status != FAN_OK)
            return status;
        if (options->kinds[i].payload_size > FAN_MESSAGE_SIZE_MAX)
            return fan__fail(ret_error, FAN_INVALID, "kinds",
                             "kind %zu: a payload of %zu bytes is above the limit of %zu", i,
                             options->kinds[i].payload_size, FAN_MESSAGE_SIZE_MAX);
    }
    return FAN_OK;
}

enum fan_status fan_bus_open(const struct fan_bus_options *options, struct fan_bus **ret_bus,
                             struct fan_error *ret_error)
{
    struct fan_bus_options given = FAN_BUS_OPTIONS_INIT;
    if (options && !fan__adopt(&given, sizeof(given), options, sizeof(size_t)))
        return fan__fail(ret_error, FAN_INVALID, "size", "expected the size of the options");
    enum fan_status status = check_kinds(&given, ret_error);
    if (status != FAN_OK)
        return status;
    struct fan_bus *bus = fan__alloc_zero(given.env, 1, sizeof(*bus));
    if (!bus)
        return fan__fail(ret_error, FAN_NO_MEMORY, NULL, "no memory for a bus");
    bus->env = given.env;
    bus->fork_generation = fan__fork_generation();
    bus->kinds = given.kinds;
    bus->kind_count = given.kind_count;
    bus->single_publisher = given.single_publisher;
    bus->memory_size_max =
        given.memory_size_max > 0 ? given.memory_size_max : MEMORY_SIZE_MAX_DEFAULT;
    bus->block_timeout_ms = given.block_timeout_ms;
    fan__random(bus->env, &bus->hash_seed, sizeof(bus->hash_seed));
    atomic_init(&bus->subscription_count, 0);
    fan__mutex_init(&bus->mutex);
    fan__cond_init(&bus->gate);
    fan__topics_init(&bus->topics, bus->env, bus->hash_seed);
    bus->holders = 1;
    *ret_bus = bus;
    return FAN_OK;
}

void fan__bus_enter(struct fan_bus *bus)
{
    fan__mutex_lock(&bus->mutex);
    assert(!bus->touched && !bus->woken);
}

/* Calls each wake once, and again for those that turned readable meanwhile. Without the lock. */
static void call_wakes(struct fan_bus *bus, struct fan_subscription *subscription)
{
    while (subscription) {
        /* Read first: nobody frees a subscription whose wake is due, but this one will not be. */
        struct fan_subscription *next = subscription->woken_next;
        subscription->wake(subscription->wake_context);
        fan__mutex_lock(&bus->mutex);
        while (subscription->wake_again) {
            subscription->wake_again = false;
            fan__mutex_unlock(&bus->mutex);
            subscription->wake(subscription->wake_context);
            fan__mutex_lock(&bus->mutex);
        }
        subscription->waking = false;
        fan__cond_broadcast(&subscription->cond);
        fan__mutex_unlock(&bus->mutex);
        subscription = next;
    }
}

void fan__bus_leave(struct fan_bus *bus)
{
    while (bus->touched) {
        struct fan_subscription *subscription = bus->touched;
        bus->touched = subscription->touched_next;
        subscription->touched = false;
        fan__subscription_settle(subscription);
    }
    struct fan_subscription *woken = bus->woken;
    bus->woken = NULL;
    fan__mutex_unlock(&bus->mutex);
    call_wakes(bus, woken);
}

void fan__bus_open_gate(struct fan_bus *bus)
{
    if (bus->gate_waiter_count > 0)
        fan__cond_broadcast(&bus->gate);
}

void fan__bus_release(struct fan_bus *bus, struct fan__block *block)
{
    if (--block->holders > 0)
        return;
    bus->held_size -= block->size;
    fan__free(bus->env, block);
}

void fan_bus_close(struct fan_bus *bus)
{
    if (fan__bus_forked(bus))
        return;
    fan__bus_enter(bus);
    bus->closed = true;
    for (struct fan_subscription *at = bus->all; at; at = at->all_next) {
        fan__subscription_detach(at);
        fan__subscription_settle(at);
    }
    fan__bus_open_gate(bus);
    fan__bus_leave(bus);
    fan__bus_enter(bus);
    while (bus->gate_waiter_count > 0)
        fan__cond_wait(&bus->gate, &bus->mutex);
    fan__bus_leave(bus);
}

void fan__bus_drop(struct fan_bus *bus)
{
    fan__mutex_lock(&bus->mutex);
    bool last = --bus->holders == 0;
    fan__mutex_unlock(&bus->mutex);
    if (!last)
        return;
    assert(bus->held_size == 0 && !bus->all);
    fan__topics_deinit(&bus->topics);
    fan__cond_deinit(&bus->gate);
    fan__mutex_deinit(&bus->mutex);
    fan__free(bus->env, bus);
}

void fan_bus_free(struct fan_bus *bus)
{
    /* In a fork's child the lock may be held by a thread that is not there: it is left alone. */
    if (!bus || fan__bus_forked(bus))
        return;
    fan_bus_close(bus);
    fan__bus_drop(bus);
}

static enum fan_status check_topic(const char *topic, size_t *ret_size)
{
    *ret_size = topic ? strnlen(topic, FAN_TEXT_SIZE_MAX + 1) : 0;
    return *ret_size > 0 && *ret_size <= FAN_TEXT_SIZE_MAX ? FAN_OK : FAN_INVALID;
}

enum fan_status fan_bus_topic_hold(struct fan_bus *bus, const char *topic)
{
    size_t size;
    if (fan__bus_forked(bus))
        return FAN_FORKED;
    if (check_topic(topic, &size) != FAN_OK)
        return FAN_INVALID;
    fan__bus_enter(bus);
    enum fan_status status = FAN_CLOSED;
    if (!bus->closed) {
        struct fan__topic *entry = fan__topics_get(&bus->topics, topic, size);
        if (entry)
            entry->holds++;
        status = entry ? FAN_OK : FAN_NO_MEMORY;
    }
    fan__bus_leave(bus);
    return status;
}

enum fan_status fan_bus_topic_release(struct fan_bus *bus, const char *topic)
{
    size_t size;
    if (fan__bus_forked(bus))
        return FAN_FORKED;
    if (check_topic(topic, &size) != FAN_OK)
        return FAN_NOT_FOUND;
    fan__bus_enter(bus);
    struct fan__topic *entry = fan__topics_find(&bus->topics, topic, size);
    bool held = entry && entry->holds > 0;
    if (held) {
        entry->holds--;
        fan__topics_tidy(&bus->topics, entry);
    }
    fan__bus_leave(bus);
    return held ? FAN_OK : FAN_NOT_FOUND;
}

void fan__counters_add(struct fan_bus_counters *sum,
                       const struct fan_subscription_counters *counters)
{
    sum->matched += counters->matched;
    sum->delivered += counters->delivered;
    sum->dropped += counters->dropped;
    sum->conflated += counters->conflated;
    sum->discarded += counters->discarded;
    sum->queued += counters->queued;
}

void fan_bus_counters(struct fan_bus *bus, struct fan_bus_counters *ret_counters)
{
    struct fan_bus_counters counters = { .size = 0 };
    if (!fan__bus_forked(bus)) {
        fan__bus_enter(bus);
        counters = bus->departed;
        counters.published = bus->published;
        counters.unheard = bus->unheard;
        counters.topics = bus->topics.count;
        /* relaxed: it is written under this lock. */
        counters.subscriptions =
            atomic_load_explicit(&bus->subscription_count, memory_order_relaxed);
        for (const struct fan_subscription *at = bus->all; at; at = at->all_next)
            fan__counters_add(&counters, &at->counters);
        fan__bus_leave(bus);
    }
    size_t size = ret_counters->size < sizeof(counters) ? ret_counters->size : sizeof(counters);
    counters.size = size;
    memcpy(ret_counters, &counters, size);
}

const struct fan_kind *fan_bus_kind(const struct fan_bus *bus, unsigned index)
{
    return index < bus->kind_count ? &bus->kinds[index] : NULL;
}

bool fan__bus_heard(const struct fan_bus *bus)
{
    /* seq_cst, as in attach: of "visible, then look here" and "count, then look there" one sees. */
    return atomic_load_explicit(&bus->subscription_count, memory_order_seq_cst) > 0;
}
