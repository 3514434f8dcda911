/*
 * Subscriptions with queues: who takes a message, and what a queue does that has no room. In the
 * turn, and under the subscription's lock where its queue is touched; only who has the turn holds
 * two of these locks at once. The policies are in give(), the budget in within_budget(): while the
 * bus holds more than its bound, a subscription may hold at most its share, an equal part; those
 * that hold more lose messages until the others fit.
 */
#include "bus/bus.h"

#include <assert.h>

/* So many losses in a row, and publishing forgets a full subscription until it is read. */
#define PARK_COUNT 64

static size_t held_by(const struct fan_subscription *subscription)
{
    /* relaxed, as all that is held: sums that readers lower at any time. */
    return atomic_load_explicit(&subscription->held_size, memory_order_relaxed);
}

static size_t held_in_all(const struct fan_bus *bus)
{
    /* relaxed: a sum. */
    return atomic_load_explicit(&bus->held_size, memory_order_relaxed);
}

static size_t share_size(const struct fan_bus *bus)
{
    return bus->memory_size_max / bus->all_count;
}

/* What holds nothing is let in, so that a message above the share cannot stop a bus for good. */
static bool must_wait_for(const struct fan_subscription *subscription, size_t block_size)
{
    const struct fan_bus *bus = subscription->bus;
    size_t held = held_by(subscription);
    if (fan__queue_full(&subscription->queue))
        return true;
    return held > 0 && held_in_all(bus) + block_size > bus->memory_size_max &&
           held + block_size > share_size(bus);
}

enum fan__verdict fan__subscription_prepare(struct fan_subscription *subscription,
                                            size_t block_size, bool may_wait)
{
    enum fan__verdict verdict = FAN__KEEP;
    fan__mutex_lock(&subscription->lock);
    bool full = fan__queue_full(&subscription->queue);
    if (subscription->policy == FAN_POLICY_BLOCK && may_wait &&
        must_wait_for(subscription, block_size))
        verdict = FAN__WAIT;
    else if (full && (subscription->policy == FAN_POLICY_BLOCK ||
                      subscription->policy == FAN_POLICY_DROP_NEWEST))
        verdict = FAN__LOSE;
    else if (fan__queue_reserve(&subscription->queue, subscription->bus->env) != FAN_OK)
        verdict = FAN__NO_MEMORY;
    fan__mutex_unlock(&subscription->lock);
    subscription->keep = verdict == FAN__KEEP;
    return verdict;
}

void fan__subscription_release_used_up(struct fan_subscription *subscription)
{
    struct fan__segment *segment = fan__queue_used_up(&subscription->queue);
    if (!segment)
        return;
    /* relaxed: a sum. */
    atomic_fetch_sub_explicit(&subscription->held_size, segment->size, memory_order_relaxed);
    fan__bus_release_segment(subscription->bus, segment);
}

/* It stays readable: the loss is to be told. With its lock. */
static void drop(struct fan_subscription *subscription, bool oldest)
{
    struct fan__block *block = oldest ? fan__queue_drop_first(&subscription->queue)
                                      : fan__queue_drop_last(&subscription->queue);
    subscription->dropped++;
    fan__subscription_release_used_up(subscription);
    if (block)
        fan__subscription_release(subscription, block);
}

static bool keeps_oldest(const struct fan_subscription *subscription)
{
    return subscription->policy == FAN_POLICY_DROP_NEWEST ||
           subscription->policy == FAN_POLICY_BLOCK;
}

/* Locks another subscription than the one whose lock is held. */
static void lock_other(struct fan_subscription *other, const struct fan_subscription *own)
{
    if (other != own)
        fan__mutex_lock(&other->lock);
}

static void unlock_other(struct fan_subscription *other, const struct fan_subscription *own)
{
    if (other != own)
        fan__mutex_unlock(&other->lock);
}

/* The one above its share that holds most and may be made to lose, or NULL. */
static struct fan_subscription *find_hog(const struct fan_subscription *own)
{
    struct fan_bus *bus = own->bus;
    struct fan_subscription *hog = NULL;
    size_t size = share_size(bus);
    for (struct fan__link *at = bus->all.next; at != &bus->all; at = at->next) {
        struct fan_subscription *other = FAN__HOLDER(at, struct fan_subscription, all_link);
        if (held_by(other) <= size || other->policy == FAN_POLICY_BLOCK)
            continue;
        lock_other(other, own);
        if (fan__queue_count(&other->queue) > 0) {
            hog = other;
            size = held_by(other);
        }
        unlock_other(other, own);
    }
    return hog;
}

static void drop_from_hog(struct fan_subscription *hog, const struct fan_subscription *own)
{
    lock_other(hog, own);
    if (fan__queue_count(&hog->queue) > 0)
        drop(hog, !keeps_oldest(hog));
    bool parked = hog->parked;
    unlock_other(hog, own);
    /* It is not full any more. */
    if (parked)
        fan__lane_ask(hog->lane, hog);
}

/*
 * Whether the budget lets the subscription hold this block, whose size is in the bus's sum already,
 * after making those above their share lose what is in its way. With its lock.
 */
static bool within_budget(struct fan_subscription *subscription, const struct fan__block *block)
{
    struct fan_bus *bus = subscription->bus;
    while (held_in_all(bus) > bus->memory_size_max) {
        if (held_by(subscription) + block->size > share_size(bus))
            return false;
        struct fan_subscription *hog = find_hog(subscription);
        if (!hog)
            return false;
        drop_from_hog(hog, subscription);
    }
    return true;
}

/* Makes room as the policy says; false when the block is the one to be lost. With its lock. */
static bool make_room(struct fan_subscription *subscription, const struct fan__block *block)
{
    struct fan__queue *queue = &subscription->queue;
    /*
     * The gate has seen to its room. Others may have to make way for it, but it is not asked for
     * more than the gate did.
     */
    if (subscription->policy == FAN_POLICY_BLOCK) {
        (void)within_budget(subscription, block);
        return !fan__queue_full(queue);
    }
    while (fan__queue_full(queue) || !within_budget(subscription, block)) {
        if (keeps_oldest(subscription) || fan__queue_count(queue) == 0)
            return false;
        drop(subscription, true);
    }
    return true;
}

static void park(struct fan_subscription *subscription)
{
    struct fan__lane *lane = subscription->lane;
    subscription->parked = true;
    /* relaxed: only the turn moves it. Its next position is the one that is lost here. */
    subscription->parked_at = atomic_load_explicit(&lane->tail, memory_order_relaxed) + 1;
    fan__link_leave(&subscription->lane_link);
}

/* With its lock. */
static void lose(struct fan_subscription *subscription, uint64_t seq)
{
    subscription->dropped++;
    fan__queue_lose(&subscription->queue, seq);
    if (++subscription->lost_in_a_row >= PARK_COUNT &&
        subscription->policy == FAN_POLICY_DROP_NEWEST && fan__queue_full(&subscription->queue))
        park(subscription);
}

void fan__subscription_fold(struct fan_subscription *subscription)
{
    struct fan__lane *lane = subscription->lane;
    if (!subscription->parked)
        return;
    /* relaxed: only the turn moves it. */
    uint64_t tail = atomic_load_explicit(&lane->tail, memory_order_relaxed);
    /* It may have been parked by the very message that is being given. */
    if (tail <= subscription->parked_at)
        return;
    fan__queue_lose_more(&subscription->queue, lane->last_seq, tail - subscription->parked_at);
    subscription->dropped += tail - subscription->parked_at;
    subscription->parked_at = tail;
}

/* With its lock. */
static void take(struct fan_subscription *subscription, struct fan__block *block)
{
    if (subscription->policy == FAN_POLICY_LATEST) {
        struct fan__block *replaced = fan__queue_conflate(&subscription->queue, block);
        if (replaced) {
            subscription->conflated++;
            fan__subscription_release(subscription, replaced);
        }
    }
    if (!make_room(subscription, block)) {
        lose(subscription, block->message.seq);
        return;
    }
    /* relaxed: the caller holds it. */
    atomic_fetch_add_explicit(&block->holders, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&subscription->held_size, block->size, memory_order_relaxed);
    fan__queue_push(&subscription->queue, block);
    subscription->lost_in_a_row = 0;
    size_t count = fan__queue_count(&subscription->queue);
    if (count > subscription->queued_max)
        subscription->queued_max = count;
}

void fan__subscription_give(struct fan_subscription *subscription, struct fan__block *block,
                            uint64_t seq)
{
    fan__mutex_lock(&subscription->lock);
    if (block && subscription->keep)
        take(subscription, block);
    else
        lose(subscription, seq);
    fan__mutex_unlock(&subscription->lock);
}
