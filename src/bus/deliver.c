/*
 * Who gets a message, and what a queue does that has no room. The policies are in give(), the
 * budget in within_budget(): while the bus holds more than its bound, a subscription may hold at
 * most its share, an equal part; those that hold more lose messages until the others fit.
 */
#include "bus/bus.h"

#include <fanfare/pattern.h>

#include <assert.h>

static bool wants(const struct fan_subscription *subscription, const struct fan__draft *draft)
{
    return (subscription->kind_mask >> draft->kind & 1) != 0 &&
           (!subscription->pattern || fan_pattern_match(subscription->pattern, draft->type));
}

static struct fan_subscription *match_list(struct fan_subscription *list,
                                           const struct fan__draft *draft,
                                           struct fan_subscription *matched)
{
    for (struct fan_subscription *at = list; at; at = at->next) {
        if (wants(at, draft)) {
            at->match_next = matched;
            matched = at;
        }
    }
    return matched;
}

struct fan_subscription *fan__bus_match(struct fan_bus *bus, const struct fan__draft *draft)
{
    struct fan_subscription *matched = match_list(bus->everywhere, draft, NULL);
    struct fan__topic *topic = NULL;
    if (draft->topic_size > 0)
        topic = fan__topics_find(&bus->topics, draft->topic, draft->topic_size);
    return topic ? match_list(topic->first, draft, matched) : matched;
}

static size_t share_size(const struct fan_bus *bus)
{
    return bus->memory_size_max / bus->all_count;
}

/* What holds nothing is let in, so that a message above the share cannot stop a bus for good. */
static bool must_wait_for(const struct fan_subscription *subscription, size_t block_size)
{
    const struct fan_bus *bus = subscription->bus;
    if (fan__queue_full(&subscription->queue))
        return true;
    return subscription->held_size > 0 && bus->held_size + block_size > bus->memory_size_max &&
           subscription->held_size + block_size > share_size(bus);
}

bool fan__bus_must_wait(const struct fan_bus *bus, const struct fan_subscription *matched,
                        size_t block_size)
{
    if (bus->block_timeout_ms == 0)
        return false;
    for (; matched; matched = matched->match_next) {
        if (matched->policy == FAN_POLICY_BLOCK && must_wait_for(matched, block_size))
            return true;
    }
    return false;
}

bool fan__bus_must_copy(const struct fan_subscription *matched)
{
    for (; matched; matched = matched->match_next) {
        if (matched->policy != FAN_POLICY_DROP_NEWEST || !fan__queue_full(&matched->queue))
            return true;
    }
    return false;
}

/*
 * Notes a subscription that has something to read, to be settled once for a whole batch. One that
 * was readable before stays so, and its reader does not sleep.
 */
static void touch(struct fan_subscription *subscription)
{
    /* relaxed: it is written under this lock. */
    if (subscription->touched ||
        atomic_load_explicit(&subscription->readable, memory_order_relaxed))
        return;
    subscription->touched = true;
    subscription->touched_next = subscription->bus->touched;
    subscription->bus->touched = subscription;
}

/* It stays readable: the loss is to be told. */
static void drop(struct fan_subscription *subscription, bool oldest)
{
    struct fan__block *block = oldest ? fan__queue_drop_first(&subscription->queue)
                                      : fan__queue_drop_last(&subscription->queue);
    subscription->counters.queued--;
    subscription->counters.dropped++;
    fan__subscription_release(subscription, block);
}

static void lose(struct fan_subscription *subscription, uint64_t seq)
{
    subscription->counters.dropped++;
    fan__queue_lose(&subscription->queue, seq);
    touch(subscription);
}

static bool keeps_oldest(const struct fan_subscription *subscription)
{
    return subscription->policy == FAN_POLICY_DROP_NEWEST ||
           subscription->policy == FAN_POLICY_BLOCK;
}

/* The one above its share that holds most and may be made to lose, or NULL. */
static struct fan_subscription *find_hog(struct fan_bus *bus)
{
    struct fan_subscription *hog = NULL;
    size_t size = share_size(bus);
    for (struct fan_subscription *at = bus->all; at; at = at->all_next) {
        if (at->held_size > size && at->queue.count > 0 && at->policy != FAN_POLICY_BLOCK) {
            hog = at;
            size = at->held_size;
        }
    }
    return hog;
}

/*
 * Whether the budget lets the subscription hold this block, whose size is in the bus's sum already,
 * after making those above their share lose what is in its way.
 */
static bool within_budget(struct fan_subscription *subscription, const struct fan__block *block)
{
    struct fan_bus *bus = subscription->bus;
    while (bus->held_size > bus->memory_size_max) {
        if (subscription->held_size + block->size > share_size(bus))
            return false;
        struct fan_subscription *hog = find_hog(bus);
        if (!hog)
            return false;
        drop(hog, !keeps_oldest(hog));
    }
    return true;
}

/* Makes room as the policy says; false when the block is the one to be lost. */
static bool make_room(struct fan_subscription *subscription, const struct fan__block *block)
{
    struct fan__queue *queue = &subscription->queue;
    /*
     * The gate has seen to its room; on a bus that only notifies, what is full loses. Others may
     * have to make way for it, but it is not asked for more than the gate did.
     */
    if (subscription->policy == FAN_POLICY_BLOCK) {
        (void)within_budget(subscription, block);
        return !fan__queue_full(queue);
    }
    while (fan__queue_full(queue) || !within_budget(subscription, block)) {
        if (keeps_oldest(subscription) || queue->count == 0)
            return false;
        drop(subscription, true);
    }
    return true;
}

static void give(struct fan_subscription *subscription, struct fan__block *block)
{
    struct fan_subscription_counters *counters = &subscription->counters;
    if (subscription->policy == FAN_POLICY_LATEST) {
        struct fan__block *replaced = fan__queue_conflate(&subscription->queue, block);
        if (replaced) {
            counters->queued--;
            counters->conflated++;
            fan__subscription_release(subscription, replaced);
        }
    }
    if (!make_room(subscription, block)) {
        lose(subscription, block->message.seq);
        return;
    }
    block->holders++;
    subscription->held_size += block->size;
    fan__queue_push(&subscription->queue, block);
    counters->queued++;
    if (counters->queued > counters->queued_max)
        counters->queued_max = counters->queued;
    touch(subscription);
}

void fan__bus_spread(struct fan_bus *bus, struct fan_subscription *matched,
                     struct fan__block *block, uint64_t seq)
{
    assert(seq > bus->seq);
    bus->seq = seq;
    bus->published++;
    if (!matched)
        bus->unheard++;
    if (block)
        block->message.seq = seq;
    for (; matched; matched = matched->match_next) {
        matched->counters.matched++;
        if (block)
            give(matched, block);
        else
            lose(matched, seq);
    }
    if (block)
        fan__bus_release(bus, block);
}
