/* Opening, closing and counting; held topics and kinds. */
#include "bus/bus.h"

#include "base/adopt.h"
#include "base/futex.h"
#include "base/status.h"
#include "bus/notify.h"

#include <fanfare/kind.h>
#include <fanfare/pattern.h>

#include <assert.h>
#include <sched.h>
#include <string.h>

#define MEMORY_SIZE_MAX_DEFAULT ((size_t)64 << 20)
#define SPARE_PART 4 /* of that, what may wait to be used again */

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

static enum fan_status check_slot_size(size_t size, struct fan_error *ret_error)
{
    if (size == 0 || (size <= FAN__SLOT_SIZE_MAX && size % FAN__LINE_SIZE == 0))
        return FAN_OK;
    return fan__fail(ret_error, FAN_INVALID, "slot_size",
                     "%zu bytes given, expected a multiple of %d up to %d, or 0 for %d", size,
                     FAN__LINE_SIZE, FAN__SLOT_SIZE_MAX, FAN__SLOT_SIZE_DEFAULT);
}

static void init(struct fan_bus *bus, const struct fan_bus_options *given)
{
    size_t slot_size = given->slot_size > 0 ? given->slot_size : FAN__SLOT_SIZE_DEFAULT;
    bus->env = given->env;
    bus->fork_generation = fan__fork_generation();
    bus->kinds = given->kinds;
    bus->kind_count = given->kind_count;
    bus->single_publisher = given->single_publisher;
    bus->asymmetric = given->single_publisher && fan__barrier_init();
    bus->by_reference = given->by_reference;
    bus->slot_words = slot_size / sizeof(uint64_t);
    bus->lent_words = fan__slot_room(bus->slot_words) / sizeof(uint64_t);
    bus->touch = fan__upgrades_slowly();
    bus->memory_size_max =
        given->memory_size_max > 0 ? given->memory_size_max : MEMORY_SIZE_MAX_DEFAULT;
    bus->block_timeout_ms = given->block_timeout_ms;
    bus->processor_count = fan__processor_count();
    fan__random(bus->env, &bus->hash_seed, sizeof(bus->hash_seed));
    atomic_init(&bus->subscription_count, 0);
    atomic_init(&bus->turn, 0);
    atomic_init(&bus->wanted, 0);
    atomic_init(&bus->held_size, 0);
    atomic_init(&bus->gate_waiter_count, 0);
    atomic_init(&bus->gate_word, 0);
    atomic_init(&bus->chain_lock, 0);
    atomic_init(&bus->chain_count, 0);
    fan__mutex_init(&bus->mutex);
    fan__cond_init(&bus->wake_done);
    fan__arena_init(&bus->arena, bus->env, bus->memory_size_max / SPARE_PART);
    fan__topics_init(&bus->topics, bus->env);
    fan__topics_init(&bus->prefixes, bus->env);
    fan__link_init(&bus->all);
    fan__link_init(&bus->touched);
    fan__link_init(&bus->chain);
    bus->holders = 1;
}

enum fan_status fan_bus_open(const struct fan_bus_options *options, struct fan_bus **ret_bus,
                             struct fan_error *ret_error)
{
    struct fan_bus_options given = FAN_BUS_OPTIONS_INIT;
    if (options && !fan__adopt(&given, sizeof(given), options, sizeof(size_t)))
        return fan__fail(ret_error, FAN_INVALID, "size", "expected the size of the options");
    enum fan_status status = check_kinds(&given, ret_error);
    if (status == FAN_OK)
        status = check_slot_size(given.slot_size, ret_error);
    if (status != FAN_OK)
        return status;
    struct fan_bus *bus = fan__alloc_zero(given.env, 1, sizeof(*bus));
    if (!bus)
        return fan__fail(ret_error, FAN_NO_MEMORY, NULL, "no memory for a bus");
    init(bus, &given);
    *ret_bus = bus;
    return FAN_OK;
}

void fan__bus_release(struct fan_bus *bus, struct fan__block *block)
{
    /* acq_rel: what every holder did comes before the free by the last one. */
    if (atomic_fetch_sub_explicit(&block->holders, 1, memory_order_acq_rel) > 1)
        return;
    size_t size = block->size;
    /* relaxed: sums, of which neither is ever too low. Above the budget nothing waits. */
    if (atomic_load_explicit(&bus->held_size, memory_order_relaxed) +
            atomic_load_explicit(&bus->arena.spare_size, memory_order_relaxed) >
        bus->memory_size_max)
        fan__free(bus->env, block);
    else
        fan__arena_put(&bus->arena, block, size);
    /* seq_cst: see room_of in deliver.c. */
    atomic_fetch_sub_explicit(&bus->held_size, size, memory_order_seq_cst);
}

void fan__bus_hold(struct fan_bus *bus, size_t size)
{
    /* relaxed: sums. What waits to be used again makes way for what is used. */
    size_t held = atomic_fetch_add_explicit(&bus->held_size, size, memory_order_relaxed) + size;
    size_t spare = atomic_load_explicit(&bus->arena.spare_size, memory_order_relaxed);
    if (spare > 0 && held + spare > bus->memory_size_max)
        fan__arena_trim(&bus->arena);
}

void fan__bus_release_segment(struct fan_bus *bus, struct fan__segment *segment)
{
    /*
     * acq_rel: what every holder did comes before the free by the last one; seq_cst: see
     * room_of in deliver.c.
     */
    if (atomic_fetch_sub_explicit(&segment->holders, 1, memory_order_acq_rel) > 1)
        return;
    atomic_fetch_sub_explicit(&bus->held_size, segment->size, memory_order_seq_cst);
    fan__free(bus->env, segment);
}

void fan_bus_close(struct fan_bus *bus)
{
    if (fan__bus_forked(bus))
        return;
    fan__bus_enter(bus);
    bus->closed = true;
    for (struct fan__link *at = bus->all.next; at != &bus->all; at = at->next)
        fan__subscription_end(FAN__HOLDER(at, struct fan_subscription, all_link));
    fan__bus_leave(bus);
    /* Those at the gate leave as soon as they look. relaxed: they count in the turn. */
    for (bool waiting = true; waiting;) {
        fan__bus_open_gate(bus);
        sched_yield();
        fan__bus_enter(bus);
        waiting = bus->gate_taken ||
                  atomic_load_explicit(&bus->gate_waiter_count, memory_order_relaxed) > 0;
        fan__bus_leave(bus);
    }
}

void fan__bus_drop(struct fan_bus *bus)
{
    fan__bus_enter(bus);
    bool last = --bus->holders == 0;
    fan__bus_let_go(bus);
    if (!last)
        return;
    assert(bus->held_size == 0 && fan__link_alone(&bus->all) && bus->ring_count == 0);
    fan__arena_trim(&bus->arena);
    fan__routes_deinit(bus);
    fan__topics_deinit(&bus->prefixes);
    fan__topics_deinit(&bus->topics);
    fan__cond_deinit(&bus->wake_done);
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
        struct fan__topic_key key = fan__topic_key(bus->hash_seed, topic, size);
        struct fan__topic *entry = fan__topics_get(&bus->topics, &key);
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
    struct fan__topic_key key = fan__topic_key(bus->hash_seed, topic, size);
    struct fan__topic *entry = fan__topics_find(&bus->topics, &key);
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
        /* relaxed: it is written in the turn. */
        counters.subscriptions =
            atomic_load_explicit(&bus->subscription_count, memory_order_relaxed);
        for (struct fan__link *at = bus->all.next; at != &bus->all; at = at->next) {
            struct fan_subscription_counters own;
            fan__subscription_count(FAN__HOLDER(at, struct fan_subscription, all_link), &own);
            fan__counters_add(&counters, &own);
        }
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
    /*
     * seq_cst, as in count_attached: of "visible, then look here" and "count, then look there" one
     * sees.
     */
    return atomic_load_explicit(&bus->subscription_count, memory_order_seq_cst) > 0;
}
