/*
 * Reading what is there. On a ring: look where the lane ends, copy slots out or borrow them
 * (lane.h), move the place by compare-and-swap. Whoever changed the place meanwhile (moved it to a
 * queue, ended it, lapped it) makes that fail, and what was copied is thrown away; nobody
 * overwrites a slot that it may read without having done so first. One that is lapped reads by the
 * stamps of the slots. From a queue: under the subscription's lock. A queue that is read to its end
 * is left for the ring again, in the turn.
 *
 * Borrowed slots: lent_from is stored, then the place is moved (release); who takes the place from
 * the reader, or looks at it to find the gate (acquire), looks at lent_from behind that, so it sees
 * what was lent before that place. NOT_LENT is stored with release when they have been read.
 *
 * Orders of memory: the tail is loaded (acquire) before the limit (acquire); whoever published
 * beyond a limit did so in a later turn than the one that set it, so the limit is seen then.
 */
#include "bus/read.h"

#include <assert.h>

uint64_t fan__subscription_end_of(const struct fan_subscription *subscription, uint64_t *ret_limit)
{
    uint64_t tail = atomic_load_explicit(&subscription->lane->tail, memory_order_acquire);
    uint64_t limit = atomic_load_explicit(&subscription->limit, memory_order_acquire);
    if (ret_limit)
        *ret_limit = limit;
    return tail < limit ? tail : limit;
}

static const struct fan_message *message_of(const struct fan__lent *lent)
{
    return lent->block ? &lent->block->message : &lent->message;
}

const struct fan_message *fan__subscription_lent(const struct fan_subscription *subscription)
{
    return message_of(subscription->lent);
}

void fan__subscription_lent_all(const struct fan_subscription *subscription,
                                const struct fan_message **ret_messages)
{
    const struct fan__lent *lent = subscription->lent;
    size_t count = subscription->lent_count;
    if (!subscription->lent_blocks) {
        for (size_t i = 0; i < count; i++)
            ret_messages[i] = &lent[i].message;
        return;
    }
    for (size_t i = 0; i < count; i++)
        ret_messages[i] = message_of(&lent[i]);
}

size_t fan__lent_size(const struct fan_bus *bus)
{
    return sizeof(struct fan__lent) + bus->lent_words * sizeof(uint64_t);
}

/* Lends from here on from an array of so many, which has their data behind it. */
static size_t use_lent(struct fan_subscription *subscription, struct fan__lent *lent, size_t count)
{
    subscription->lent = lent;
    subscription->lent_data = (uint64_t *)(void *)(lent + count);
    return count;
}

size_t fan__subscription_make_lent(struct fan_subscription *subscription, size_t count_max)
{
    const struct fan_bus *bus = subscription->bus;
    if (count_max > FAN__BATCH_COUNT_MAX)
        count_max = FAN__BATCH_COUNT_MAX;
    if (count_max > FAN__BATCH_SIZE_MAX / fan__lent_size(bus))
        count_max = FAN__BATCH_SIZE_MAX / fan__lent_size(bus);
    if (count_max > subscription->buffer_count)
        count_max = subscription->buffer_count;
    if (count_max > 1 && subscription->lent_many_count < count_max) {
        struct fan__lent *many = fan__alloc_zero(bus->env, count_max, fan__lent_size(bus));
        if (!many)
            return use_lent(subscription, subscription->lent_one, 1);
        fan__free(bus->env, subscription->lent_many);
        subscription->lent_many = many;
        subscription->lent_many_count = count_max;
    }
    if (count_max == 1)
        return use_lent(subscription, subscription->lent_one, 1);
    use_lent(subscription, subscription->lent_many, subscription->lent_many_count);
    return count_max;
}

void fan__subscription_release(struct fan_subscription *subscription, struct fan__block *block)
{
    /* seq_cst: see room_of in deliver.c. */
    atomic_fetch_sub_explicit(&subscription->held_size, block->size, memory_order_seq_cst);
    fan__bus_release(subscription->bus, block);
}

static void take_back_slots(struct fan_subscription *subscription, size_t count)
{
    /* relaxed: its own. */
    uint64_t from = atomic_load_explicit(&subscription->lent_from, memory_order_relaxed);
    if (from == FAN__NOT_LENT)
        return;
    fan__slots_touch(subscription->lane, from, count, subscription->lent);
    /* release: the reader has read what was lent. */
    atomic_store_explicit(&subscription->lent_from, FAN__NOT_LENT, memory_order_release);
}

void fan__subscription_take_back(struct fan_subscription *subscription)
{
    size_t count = subscription->lent_count;
    subscription->lent_count = 0;
    if (subscription->in_place)
        take_back_slots(subscription, count);
    if (!subscription->lent_blocks)
        return;
    subscription->lent_blocks = false;
    for (size_t i = 0; i < count; i++) {
        struct fan__block *block = subscription->lent[i].block;
        subscription->lent[i].block = NULL;
        if (block)
            fan__subscription_release(subscription, block);
    }
    fan__bus_open_gate(subscription->bus);
}

/* Adds to a sum of the reader's own; relaxed: nobody else writes it. */
static void add(atomic_uint_least64_t *sum, uint64_t count)
{
    uint64_t before = atomic_load_explicit(sum, memory_order_relaxed);
    atomic_store_explicit(sum, before + count, memory_order_relaxed);
}

static void note_queued(struct fan_subscription *subscription, uint64_t count)
{
    if (count > subscription->buffer_count)
        count = subscription->buffer_count;
    /* relaxed: nobody else writes it. */
    if (count > atomic_load_explicit(&subscription->queued_max_lane, memory_order_relaxed))
        atomic_store_explicit(&subscription->queued_max_lane, count, memory_order_relaxed);
}

static enum fan_status note_gap(struct fan_subscription *subscription, const struct fan__loss *loss)
{
    subscription->gap = (struct fan_gap){ .after = loss->first - 1,
                                          .before = loss->last + 1,
                                          .count = loss->count,
                                          .reason = FAN_GAP_OVERFLOW };
    subscription->lost_ns = fan__deadline_ns(0);
    return FAN_GAP;
}

/* What was copied is the reader's: its place was moved. */
static void lend_copied(struct fan_subscription *subscription, size_t count)
{
    subscription->lent_count = count;
    add(&subscription->delivered, count);
}

/* FAN_UNKNOWN: its place was changed, look again. */
static enum fan_status read_ring(struct fan_subscription *subscription, uint64_t place,
                                 size_t count_max)
{
    uint64_t limit;
    uint64_t position = place >> FAN__PLACE_SHIFT;
    uint64_t unread = fan__subscription_end_of(subscription, &limit) - position;
    if (unread == 0)
        return limit == position ? FAN_CLOSED : FAN_AGAIN;
    /* More than its buffer has only one who was lapped, or moved to a queue just now. */
    if (unread > subscription->buffer_count)
        return FAN_UNKNOWN;
    note_queued(subscription, unread);
    size_t count = unread < count_max ? (size_t)unread : count_max;
    if (subscription->in_place) {
        /*
         * release: the reader has read what was lent before. Who takes the place sees it by that.
         */
        atomic_store_explicit(&subscription->lent_from, position, memory_order_release);
        fan__slots_lend(subscription->lane, position, count, subscription->lent,
                        subscription->lent_data);
    } else {
        fan__slots_copy(subscription->lane, position, count, subscription->lent,
                        subscription->lent_data);
    }
    /*
     * seq_cst: the place moves, then it looks for publishers at the gate, and whether it is
     * watched. It releases the slots, which it has read. relaxed: who fails looks again.
     */
    if (!atomic_compare_exchange_strong_explicit(&subscription->place, &place,
                                                 (position + count) << FAN__PLACE_SHIFT,
                                                 memory_order_seq_cst, memory_order_relaxed)) {
        atomic_store_explicit(&subscription->lent_from, FAN__NOT_LENT, memory_order_relaxed);
        return FAN_UNKNOWN;
    }
    lend_copied(subscription, count);
    subscription->caught_up = count == unread;
    if (subscription->policy == FAN_POLICY_BLOCK)
        fan__bus_open_gate(subscription->bus);
    return FAN_OK;
}

/* Tells how much was lapped: all but the last buffer's worth. With its lock. */
static enum fan_status tell_lapped(struct fan_subscription *subscription, uint64_t place,
                                   uint64_t end)
{
    const struct fan__lane *lane = subscription->lane;
    uint64_t position = place >> FAN__PLACE_SHIFT;
    uint64_t next = end - subscription->buffer_count;
    struct fan__loss loss = { .count = next - position };
    if (!fan__slot_seq(lane, next - 1, &loss.last))
        return FAN_UNKNOWN;
    if (!fan__slot_seq(lane, position, &loss.first)) {
        if (!(place & FAN__PLACE_LAPPED))
            return FAN_UNKNOWN;
        loss.first = subscription->lapped_seq;
    }
    /*
     * Once lapped, the gate does not look after the new position until the turn has attended to it;
     * else it looks after the former one, which is enough. seq_cst: as in read_ring.
     */
    subscription->lapped_seq = loss.last + 1;
    atomic_store_explicit(&subscription->place,
                          next << FAN__PLACE_SHIFT | (place & FAN__PLACE_LAPPED),
                          memory_order_seq_cst);
    add(&subscription->lapped, loss.count);
    return note_gap(subscription, &loss);
}

/* Reads on a ring that has lapped it, or may do so without a mark. With its lock. */
static enum fan_status read_lapped(struct fan_subscription *subscription, uint64_t place,
                                   size_t count_max)
{
    uint64_t limit;
    uint64_t position = place >> FAN__PLACE_SHIFT;
    uint64_t end = fan__subscription_end_of(subscription, &limit);
    uint64_t unread = end - position;
    if (unread == 0)
        return limit == position ? FAN_CLOSED : FAN_AGAIN;
    note_queued(subscription, unread);
    if (unread > subscription->buffer_count)
        return tell_lapped(subscription, place, end);
    size_t count = unread < count_max ? (size_t)unread : count_max;
    count = fan__slots_read(subscription->lane, position, count, subscription->lent,
                            subscription->lent_data);
    if (count == 0)
        return FAN_UNKNOWN;
    subscription->lapped_seq = subscription->lent[count - 1].message.seq + 1;
    /* seq_cst: as in read_ring. */
    atomic_store_explicit(&subscription->place,
                          (position + count) << FAN__PLACE_SHIFT | FAN__PLACE_LAPPED,
                          memory_order_seq_cst);
    lend_copied(subscription, count);
    return FAN_OK;
}

static enum fan_status read_behind_the_gate(struct fan_subscription *subscription, size_t count_max)
{
    enum fan_status status = FAN_UNKNOWN;
    bool ask = false;
    fan__mutex_lock(&subscription->lock);
    uint64_t place = atomic_load_explicit(&subscription->place, memory_order_acquire);
    if (!(place & FAN__PLACE_LAPPED)) {
        /* Nobody may mark it while we hold the lock, so its slot stays. */
        uint64_t limit;
        uint64_t end = fan__subscription_end_of(subscription, &limit);
        if (!(place & FAN__PLACE_QUEUED) &&
            end - (place >> FAN__PLACE_SHIFT) > subscription->buffer_count &&
            subscription->policy == FAN_POLICY_DROP_OLDEST) {
            note_queued(subscription, subscription->buffer_count);
            status = tell_lapped(subscription, place, end);
        }
    } else if (!(place & FAN__PLACE_QUEUED)) {
        status = read_lapped(subscription, place, count_max);
    }
    ask = status != FAN_UNKNOWN && (place & FAN__PLACE_LAPPED);
    fan__mutex_unlock(&subscription->lock);
    if (ask)
        fan__lane_ask(subscription->lane, subscription);
    return status;
}

/* What was taken from a segment, to be copied when the lock is free: a publisher may want it. */
struct taken {
    struct fan__segment *segment; /* held until then */
    const uint64_t *words;
    size_t count;
};

/* With its lock. */
static void take_words(struct fan_subscription *subscription, size_t count_max,
                       struct taken *ret_taken)
{
    struct fan__queue *queue = &subscription->queue;
    *ret_taken = (struct taken){ .words = fan__queue_words(queue) };
    if (!ret_taken->words)
        return;
    size_t left = (size_t)(queue->end - queue->at);
    ret_taken->count = left < count_max ? left : count_max;
    ret_taken->segment = queue->segment;
    /* relaxed: the queue holds it. */
    atomic_fetch_add_explicit(&queue->segment->holders, 1, memory_order_relaxed);
    fan__queue_pop_words(queue, ret_taken->count);
    fan__subscription_release_used_up(subscription);
}

/* Without its lock. */
static void copy_taken(struct fan_subscription *subscription, const struct taken *taken)
{
    const struct fan_bus *bus = subscription->bus;
    for (size_t i = 0; i < taken->count; i++) {
        fan__words_lend(bus, taken->words + i * bus->slot_words, &subscription->lent[i],
                        subscription->lent_data + i * bus->lent_words);
    }
    if (taken->segment)
        fan__bus_release_segment(subscription->bus, taken->segment);
}

/* Takes messages out of the queue, up to the next loss. With its lock. */
static void lend_queued(struct fan_subscription *subscription, size_t count_max,
                        struct taken *ret_taken)
{
    struct fan__queue *queue = &subscription->queue;
    take_words(subscription, count_max, ret_taken);
    size_t count = ret_taken->count;
    while (count < count_max && fan__queue_count(queue) > 0 && fan__queue_loss(queue)->count == 0) {
        subscription->lent[count++].block = fan__queue_pop(queue);
        subscription->lent_blocks = true;
    }
    subscription->lent_count = count;
    add(&subscription->delivered, count);
    fan__subscription_trim(subscription, false);
}

/* Whether its empty queue may be left for the ring. */
static bool may_rejoin(const struct fan_subscription *subscription)
{
    const struct fan__lane *lane = subscription->lane;
    /* relaxed: the turn looks again. */
    return subscription->ring &&
           atomic_load_explicit(&subscription->limit, memory_order_relaxed) == FAN__NO_LIMIT &&
           atomic_load_explicit(&lane->tail, memory_order_relaxed) >=
               atomic_load_explicit(&lane->queued_until, memory_order_relaxed);
}

/* An empty queue, seen in the turn: what was lost behind it is counted, and it is left. */
static enum fan_status leave_queue(struct fan_subscription *subscription)
{
    struct fan_bus *bus = subscription->bus;
    struct fan__queue *queue = &subscription->queue;
    enum fan_status status = FAN_UNKNOWN;
    fan__bus_enter(bus);
    fan__mutex_lock(&subscription->lock);
    fan__subscription_fold(subscription);
    /* It may have been put on a ring that was made meanwhile. relaxed: written in the turn. */
    bool queued =
        atomic_load_explicit(&subscription->place, memory_order_relaxed) & FAN__PLACE_QUEUED;
    if (queued && fan__queue_count(queue) == 0) {
        status = subscription->ended ? FAN_CLOSED : FAN_AGAIN;
        if (fan__queue_loss(queue)->count > 0)
            status = note_gap(subscription, fan__queue_loss(queue));
        fan__queue_clear_loss(queue);
        if (!subscription->ended)
            fan__lane_join(subscription->lane, subscription);
    }
    fan__mutex_unlock(&subscription->lock);
    fan__bus_leave(bus);
    /* For the room that its array had. */
    fan__bus_open_gate(bus);
    return status;
}

static enum fan_status read_queue(struct fan_subscription *subscription, size_t count_max)
{
    struct fan__queue *queue = &subscription->queue;
    enum fan_status status = FAN_OK;
    struct taken taken = { .count = 0 };
    /* acquire: not later than what the queue has, so that who waits for more is not late. */
    subscription->seen_tail = atomic_load_explicit(&subscription->lane->tail, memory_order_acquire);
    fan__mutex_lock(&subscription->lock);
    bool empty = fan__queue_count(queue) == 0;
    bool parked = subscription->parked;
    if (empty && (parked || subscription->replacing ||
                  (fan__queue_loss(queue)->count == 0 && may_rejoin(subscription)))) {
        fan__mutex_unlock(&subscription->lock);
        return leave_queue(subscription);
    }
    if (fan__queue_loss(queue)->count > 0) {
        status = note_gap(subscription, fan__queue_loss(queue));
        fan__queue_clear_loss(queue);
    } else if (!empty) {
        lend_queued(subscription, count_max, &taken);
    } else {
        /* relaxed: what came before the end is in the queue, under its lock. */
        bool live =
            atomic_load_explicit(&subscription->limit, memory_order_relaxed) == FAN__NO_LIMIT;
        status = live ? FAN_AGAIN : FAN_CLOSED;
    }
    fan__mutex_unlock(&subscription->lock);
    copy_taken(subscription, &taken);
    if (parked)
        fan__lane_ask(subscription->lane, subscription);
    /* For its own room, or that in the budget. */
    fan__bus_open_gate(subscription->bus);
    return status;
}

enum fan_status fan__subscription_read(struct fan_subscription *subscription, size_t count_max)
{
    enum fan_status status;
    do {
        uint64_t place = atomic_load_explicit(&subscription->place, memory_order_acquire);
        if (place & FAN__PLACE_QUEUED) {
            status = read_queue(subscription, count_max);
            continue;
        }
        status = FAN_UNKNOWN;
        if (!(place & FAN__PLACE_LAPPED))
            status = read_ring(subscription, place, count_max);
        if (status == FAN_UNKNOWN)
            status = read_behind_the_gate(subscription, count_max);
    } while (status == FAN_UNKNOWN);
    return status;
}
