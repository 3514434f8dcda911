/*
 * Subscriptions with queues: who takes a message, and what a queue does that has no room. In the
 * turn, and under the subscription's lock where its queue is touched; nobody holds two of these
 * locks at once. The policies are in take(), the budget in find_room(): while the bus holds more
 * than its bound, a subscription may hold at most its share, an equal part; those that hold more
 * lose messages until the others fit.
 */
#include "bus/bus.h"

#include <assert.h>

/* So many losses in a row, and publishing forgets a full subscription until it is read. */
#define PARK_COUNT 64

static size_t held_by(const struct fan_subscription *subscription)
{
    /* relaxed, as all that is held: sums that readers lower at any time. */
    return atomic_load_explicit(&subscription->held_size, memory_order_relaxed) +
           atomic_load_explicit(&subscription->array_size, memory_order_relaxed);
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

static size_t room_of(const struct fan_bus *bus)
{
    /*
     * seq_cst: who waits for room announced that before; who lets go of some looks for that behind
     * it.
     */
    size_t held = atomic_load_explicit(&bus->held_size, memory_order_seq_cst);
    return held < bus->memory_size_max ? bus->memory_size_max - held : 0;
}

/*
 * What holds nothing is let in, so that a message above the share cannot stop a bus for good. So is
 * one message for who may wait on a descriptor with all that he holds in his hand: nothing else
 * would have him read on, and give that back.
 */
static bool must_wait_for(const struct fan_subscription *subscription, size_t block_size)
{
    const struct fan_bus *bus = subscription->bus;
    const struct fan__queue *queue = &subscription->queue;
    size_t size = block_size + fan__queue_growth(queue);
    if (fan__queue_full(queue))
        return true;
    /* relaxed: it is set in the turn. */
    if (atomic_load_explicit(&subscription->watched, memory_order_relaxed) &&
        fan__queue_count(queue) == 0 && fan__queue_loss(queue)->count == 0)
        return false;
    /* seq_cst: see room_of. */
    return atomic_load_explicit(&subscription->held_size, memory_order_seq_cst) > 0 &&
           room_of(bus) < size && held_by(subscription) + size > share_size(bus);
}

void fan__subscription_charge(struct fan_subscription *subscription)
{
    size_t size = fan__queue_size(&subscription->queue);
    /* relaxed: sums. It grows in the turn alone. */
    size_t before = atomic_load_explicit(&subscription->array_size, memory_order_relaxed);
    atomic_store_explicit(&subscription->array_size, size, memory_order_relaxed);
    if (size > before)
        fan__bus_hold(subscription->bus, size - before);
    else /* seq_cst: see room_of */
        atomic_fetch_sub_explicit(&subscription->bus->held_size, before - size,
                                  memory_order_seq_cst);
}

void fan__subscription_trim(struct fan_subscription *subscription, bool all)
{
    if (subscription->queue.count > 0)
        return;
    fan__queue_trim(&subscription->queue, subscription->bus->env, all);
    fan__subscription_charge(subscription);
}

/*
 * Lets its array grow where it must; FAN_FULL when neither the budget nor its share has room for
 * that: within its share, others make way when it is given the message. With its lock.
 */
static enum fan_status reserve(struct fan_subscription *subscription)
{
    const struct fan_bus *bus = subscription->bus;
    size_t growth = fan__queue_growth(&subscription->queue);
    if (growth == 0)
        return FAN_OK;
    if (subscription->policy != FAN_POLICY_BLOCK &&
        held_in_all(bus) + growth > bus->memory_size_max &&
        held_by(subscription) + growth > share_size(bus))
        return FAN_FULL;
    enum fan_status status = fan__queue_reserve(&subscription->queue, bus->env);
    fan__subscription_charge(subscription);
    return status;
}

static bool keeps_oldest(const struct fan_subscription *subscription)
{
    return subscription->policy == FAN_POLICY_DROP_NEWEST ||
           subscription->policy == FAN_POLICY_BLOCK;
}

/* Where the budget does not let its array grow, it makes do with what it has. With its lock. */
static enum fan__verdict verdict_of(const struct fan_subscription *subscription,
                                    enum fan_status reserved)
{
    if (reserved == FAN_OK)
        return FAN__KEEP;
    if (reserved == FAN_NO_MEMORY)
        return FAN__NO_MEMORY;
    return keeps_oldest(subscription) || subscription->queue.count == 0 ? FAN__LOSE : FAN__KEEP;
}

enum fan__verdict fan__subscription_prepare(struct fan_subscription *subscription,
                                            size_t block_size, bool may_wait)
{
    enum fan__verdict verdict;
    fan__mutex_lock(&subscription->lock);
    if (subscription->policy == FAN_POLICY_BLOCK && may_wait &&
        must_wait_for(subscription, block_size))
        verdict = FAN__WAIT;
    else if (fan__queue_full(&subscription->queue) && keeps_oldest(subscription))
        verdict = FAN__LOSE;
    else
        verdict = verdict_of(subscription, reserve(subscription));
    fan__mutex_unlock(&subscription->lock);
    subscription->keep = verdict == FAN__KEEP;
    return verdict;
}

void fan__subscription_release_used_up(struct fan_subscription *subscription)
{
    struct fan__segment *segment = fan__queue_used_up(&subscription->queue);
    if (!segment)
        return;
    /* seq_cst: see room_of. */
    atomic_fetch_sub_explicit(&subscription->held_size, segment->size, memory_order_seq_cst);
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

/* The one above its share that holds most and may be made to lose, or NULL. */
static struct fan_subscription *find_hog(struct fan_bus *bus)
{
    struct fan_subscription *hog = NULL;
    size_t size = share_size(bus);
    for (struct fan__link *at = bus->all.next; at != &bus->all; at = at->next) {
        struct fan_subscription *other = FAN__HOLDER(at, struct fan_subscription, all_link);
        if (held_by(other) <= size || other->policy == FAN_POLICY_BLOCK)
            continue;
        fan__mutex_lock(&other->lock);
        if (fan__queue_count(&other->queue) > 0) {
            hog = other;
            size = held_by(other);
        }
        fan__mutex_unlock(&other->lock);
    }
    return hog;
}

static void drop_from_hog(struct fan_subscription *hog)
{
    fan__mutex_lock(&hog->lock);
    if (fan__queue_count(&hog->queue) > 0)
        drop(hog, !keeps_oldest(hog));
    bool parked = hog->parked;
    fan__mutex_unlock(&hog->lock);
    /* It is not full any more. */
    if (parked)
        fan__lane_ask(hog->lane, hog);
}

size_t fan__subscription_make_way(const struct fan_subscription *subscription, size_t size)
{
    struct fan_bus *bus = subscription->bus;
    size_t held = held_by(subscription);
    size_t share = share_size(bus) > held ? share_size(bus) - held : 0;
    struct fan_subscription *hog;
    while (room_of(bus) < (size < share ? size : share) && (hog = find_hog(bus)) != NULL)
        drop_from_hog(hog);
    return room_of(bus);
}

/* Whether there is room for a block whose size is in the bus's sum already. */
enum room {
    ROOM,
    ROOM_OF_OTHERS, /* those above their share are to make way */
    ROOM_NONE,
};

/*
 * Makes room as the policy says, out of its own queue. With its lock. `others`: somebody may be
 * above his share. For one that blocks, the gate has seen to its room: others may have to make way
 * for it, but it is not asked for more than the gate did.
 */
static enum room make_room(struct fan_subscription *subscription, const struct fan__block *block,
                           bool others)
{
    const struct fan_bus *bus = subscription->bus;
    const struct fan__queue *queue = &subscription->queue;
    for (;;) {
        /* A reader that has emptied it since may have given its array back. */
        bool fits = !fan__queue_full(queue) && reserve(subscription) == FAN_OK;
        if (fits && held_in_all(bus) <= bus->memory_size_max)
            return ROOM;
        if (fits && others && held_by(subscription) + block->size <= share_size(bus))
            return ROOM_OF_OTHERS;
        if (fits && subscription->policy == FAN_POLICY_BLOCK)
            return ROOM;
        if (keeps_oldest(subscription) || fan__queue_count(queue) == 0)
            return ROOM_NONE;
        drop(subscription, true);
    }
}

/* As make_room, and others make way; without its lock meanwhile, so that nobody has two. */
static bool find_room(struct fan_subscription *subscription, const struct fan__block *block)
{
    bool others = true;
    enum room room;
    while ((room = make_room(subscription, block, others)) == ROOM_OF_OTHERS) {
        fan__mutex_unlock(&subscription->lock);
        struct fan_subscription *hog = find_hog(subscription->bus);
        if (hog)
            drop_from_hog(hog);
        others = hog != NULL;
        fan__mutex_lock(&subscription->lock);
    }
    return room == ROOM;
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
        subscription->replacing = replaced != NULL;
        if (replaced) {
            subscription->conflated++;
            fan__subscription_release(subscription, replaced);
        }
    }
    bool room = find_room(subscription, block);
    subscription->replacing = false;
    if (!room) {
        /* Nor is room for what it did not get kept. */
        fan__subscription_trim(subscription, true);
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
