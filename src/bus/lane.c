/*
 * Lanes: birth, the gate, moving readers off the ring and back, death. All in the turn, but for
 * fan__lane_ask.
 */
#include "bus/bus.h"

#include <assert.h>
#include <stdint.h>
#include <string.h>

/* Rings may take such a part of what the bus may hold. */
#define RING_PART 4

static uint64_t tail_of(const struct fan__lane *lane)
{
    /* relaxed: only the turn moves it. */
    return atomic_load_explicit(&lane->tail, memory_order_relaxed);
}

static size_t ring_size(const struct fan_bus *bus, size_t slot_count)
{
    return slot_count * bus->slot_words * sizeof(uint64_t);
}

/* The number of slots for a buffer, or 0 when a ring of them is never allowed. */
static size_t slots_for(const struct fan_bus *bus, size_t buffer_count)
{
    size_t count = FAN__RING_SLOTS_MIN;
    if (bus->by_reference)
        return 0;
    while (count < 2 * buffer_count)
        count *= 2;
    return ring_size(bus, count) <= bus->memory_size_max / RING_PART ? count : 0;
}

static bool may_make_ring(const struct fan_bus *bus, size_t slot_count)
{
    return bus->ring_count < FAN__RING_COUNT_MAX &&
           bus->ring_size + ring_size(bus, slot_count) <= bus->memory_size_max / RING_PART;
}

static bool make_ring(struct fan__lane *lane)
{
    struct fan_bus *bus = lane->bus;
    size_t slot_count = lane->slot_count;
    size_t size = ring_size(bus, slot_count);
    /* Cleared: who is moved off it while he looks may still see the header of any slot. */
    lane->memory = fan__alloc_zero(bus->env, 1, size + FAN__LINE_SIZE);
    if (!lane->memory)
        return false;
    /* Slots of whole lines are not shared by two. */
    uintptr_t address = (uintptr_t)lane->memory;
    address += FAN__LINE_SIZE - address % FAN__LINE_SIZE;
    lane->slots = (atomic_uint_least64_t *)(void *)address;
    lane->slot_words = bus->slot_words;
    lane->capacity = slot_count;
    lane->mask = slot_count - 1;
    bus->ring_count++;
    bus->ring_size += size;
    return true;
}

static void dispose(struct fan__lane *lane)
{
    struct fan_bus *bus = lane->bus;
    if (lane->memory) {
        bus->ring_count--;
        bus->ring_size -= ring_size(bus, lane->capacity);
    }
    fan__free(bus->env, lane->memory);
    fan__free(bus->env, lane->pattern);
    fan__free(bus->env, lane);
}

static struct fan__lane *make(struct fan_bus *bus, const struct fan__filter *filter,
                              size_t slot_count)
{
    const char *pattern = filter->pattern;
    struct fan__lane *lane = fan__alloc_zero(bus->env, 1, sizeof(*lane));
    if (!lane)
        return NULL;
    lane->bus = bus;
    lane->kind_mask = filter->kind_mask;
    lane->slot_count = slot_count;
    fan__link_init(&lane->ringed);
    fan__link_init(&lane->lapped);
    fan__link_init(&lane->queued);
    fan__link_init(&lane->lending);
    fan__link_init(&lane->armed);
    atomic_init(&lane->tail, 0);
    atomic_init(&lane->queued_until, UINT64_MAX);
    atomic_init(&lane->asked, NULL);
    if (pattern)
        lane->pattern = fan__strdup(bus->env, pattern);
    if (pattern && !lane->pattern) {
        dispose(lane);
        return NULL;
    }
    return lane;
}

static bool has_filter(const struct fan__lane *lane, const struct fan__filter *filter)
{
    if (lane->kind_mask != filter->kind_mask || !lane->pattern != !filter->pattern)
        return false;
    return !filter->pattern || strcmp(lane->pattern, filter->pattern) == 0;
}

static struct fan__lane *find(struct fan__lane *list, const struct fan__filter *filter,
                              size_t slot_count)
{
    for (struct fan__lane *at = list; at; at = at->next) {
        if (at->slot_count >= slot_count && has_filter(at, filter))
            return at;
    }
    return NULL;
}

/* Where the lanes of some filters are listed. */
struct home {
    struct fan__lane **list;
    struct fan__topic *topic;
    struct fan__topic *prefix;
};

static void enlist(struct fan__lane *lane, const struct home *home)
{
    lane->topic = home->topic;
    lane->prefix = home->prefix;
    if (lane->topic)
        lane->topic->lane_count++;
    if (lane->prefix)
        lane->prefix->lane_count++;
    lane->list = home->list;
    lane->next = *home->list;
    if (lane->next)
        lane->next->previous = lane;
    *home->list = lane;
    fan__route_forget(lane->bus);
}

static struct fan__lane *find_or_make(struct fan_bus *bus, const struct fan__filter *filter,
                                      const struct home *home)
{
    size_t slot_count = filter->want_ring ? slots_for(bus, filter->buffer_count) : 0;
    struct fan__lane *lane = find(*home->list, filter, slot_count);
    if (lane)
        return lane;
    /* Where it would get no ring, any lane with the filter will do. */
    if (!may_make_ring(bus, slot_count))
        lane = find(*home->list, filter, 0);
    if (lane)
        return lane;
    lane = make(bus, filter, slot_count);
    if (lane)
        enlist(lane, home);
    return lane;
}

/* False without memory. */
static bool find_home(struct fan_bus *bus, const struct fan__filter *filter, struct home *home)
{
    *home = (struct home){ .list = &bus->everywhere };
    if (filter->topic) {
        struct fan__topic_key key =
            fan__topic_key(bus->hash_seed, filter->topic, strlen(filter->topic));
        home->topic = fan__topics_get(&bus->topics, &key);
        if (!home->topic)
            return false;
        home->list = &home->topic->first;
    }
    struct fan__topic_key key = fan__route_prefix(bus, home->topic, filter->pattern);
    if (key.name_size == 0)
        return true;
    home->prefix = fan__topics_get(&bus->prefixes, &key);
    if (!home->prefix)
        return false;
    home->list = &home->prefix->first;
    return true;
}

static void tidy_home(struct fan_bus *bus, struct fan__topic *topic, struct fan__topic *prefix)
{
    if (prefix)
        fan__topics_tidy(&bus->prefixes, prefix);
    if (topic)
        fan__topics_tidy(&bus->topics, topic);
}

struct fan__lane *fan__lane_get(struct fan_bus *bus, const struct fan__filter *filter)
{
    struct home home;
    struct fan__lane *lane = NULL;
    if (find_home(bus, filter, &home))
        lane = find_or_make(bus, filter, &home);
    if (lane) {
        lane->holders++;
        lane->live++;
    } else {
        tidy_home(bus, home.topic, home.prefix);
    }
    return lane;
}

void fan__lane_retire(struct fan__lane *lane)
{
    struct fan_bus *bus = lane->bus;
    if (--lane->live > 0)
        return;
    if (lane->previous)
        lane->previous->next = lane->next;
    else
        *lane->list = lane->next;
    if (lane->next)
        lane->next->previous = lane->previous;
    if (lane->prefix)
        lane->prefix->lane_count--;
    if (lane->topic)
        lane->topic->lane_count--;
    tidy_home(bus, lane->topic, lane->prefix);
    lane->list = NULL;
    lane->next = NULL;
    lane->previous = NULL;
    lane->topic = NULL;
    lane->prefix = NULL;
    fan__route_forget(bus);
}

void fan__lane_drop(struct fan__lane *lane)
{
    if (--lane->holders == 0)
        dispose(lane);
}

/* The first position that a reader at `place` will read, where it is too slow for some. */
static uint64_t first_kept(const struct fan_subscription *subscription, uint64_t place,
                           uint64_t end)
{
    uint64_t position = place >> FAN__PLACE_SHIFT;
    return end - position > subscription->buffer_count ? end - subscription->buffer_count
                                                       : position;
}

/* The first slot that is lent to its reader in place; `none` when none is. */
static uint64_t first_lent(const struct fan_subscription *subscription, uint64_t none)
{
    /* acquire: what was lent is no longer read then. */
    uint64_t lent_from = atomic_load_explicit(&subscription->lent_from, memory_order_acquire);
    return lent_from == FAN__NOT_LENT ? none : lent_from;
}

/*
 * The position at which the next publish would hurt a reader that is at `place`: it would be full,
 * or a slot would be overwritten that it needs. One that has ended is never full, but if it was
 * lapped before, it needs what its buffer still has, and the one before that to tell the loss.
 */
static uint64_t gate_of(const struct fan_subscription *subscription, uint64_t place)
{
    uint64_t capacity = subscription->lane->capacity;
    if (subscription->ended && (place & FAN__PLACE_LAPPED)) {
        /* relaxed: only the turn sets it. */
        uint64_t limit = atomic_load_explicit(&subscription->limit, memory_order_relaxed);
        return first_kept(subscription, place, limit) - 1 + capacity;
    }
    if (subscription->ended)
        return first_lent(subscription, place >> FAN__PLACE_SHIFT) + capacity;
    bool by_slot = subscription->policy == FAN_POLICY_DROP_OLDEST;
    return (place >> FAN__PLACE_SHIFT) + (by_slot ? capacity : subscription->buffer_count);
}

static void lower_gate(struct fan__lane *lane, uint64_t gate)
{
    if (gate < lane->gate)
        lane->gate = gate;
}

/* The position at which a slot would be overwritten that is lent to one who is off the ring. */
static uint64_t lending_gate(struct fan__lane *lane)
{
    uint64_t gate = UINT64_MAX;
    struct fan__link *next;
    for (struct fan__link *at = lane->lending.next; at != &lane->lending; at = next) {
        next = at->next;
        uint64_t first =
            first_lent(FAN__HOLDER(at, struct fan_subscription, lending_link), FAN__NOT_LENT);
        if (first == FAN__NOT_LENT)
            fan__link_leave(at);
        else if (first + lane->capacity < gate)
            gate = first + lane->capacity;
    }
    return gate;
}

void fan__lane_keep_lent(struct fan__lane *lane, struct fan_subscription *subscription)
{
    /* Nothing is lent later: its place was taken, by what shows all that it lent before. */
    if (first_lent(subscription, FAN__NOT_LENT) == FAN__NOT_LENT)
        return;
    fan__link_join(&lane->lending, &subscription->lending_link);
    lower_gate(lane, lending_gate(lane));
}

void fan__lane_mind(struct fan__lane *lane, struct fan_subscription *subscription)
{
    /*
     * acquire: what is lent is looked at behind it. It only moves on, so the gate is not too high.
     */
    uint64_t place = atomic_load_explicit(&subscription->place, memory_order_acquire);
    fan__link_join(&lane->ringed, &subscription->lane_link);
    lower_gate(lane, gate_of(subscription, place));
}

/* Keeps readers from asking for the ring with each look at an empty queue. */
static void queue_for_a_while(struct fan__lane *lane)
{
    uint64_t tail = tail_of(lane);
    /* relaxed: a hint to readers, who ask again in the turn. */
    if (atomic_load_explicit(&lane->queued_until, memory_order_relaxed) <= tail)
        atomic_store_explicit(&lane->queued_until, tail + FAN__LANE_QUEUED_COUNT,
                              memory_order_relaxed);
}

static bool may_ring(struct fan__lane *lane, const struct fan_subscription *subscription)
{
    /* relaxed: both are written in the turn. */
    return subscription->ring &&
           tail_of(lane) >= atomic_load_explicit(&lane->queued_until, memory_order_relaxed) &&
           tail_of(lane) < lending_gate(lane);
}

void fan__lane_join(struct fan__lane *lane, struct fan_subscription *subscription)
{
    uint64_t place = tail_of(lane) << FAN__PLACE_SHIFT;
    subscription->parked = false;
    subscription->lost_in_a_row = 0;
    fan__subscription_trim(subscription, true);
    if (may_ring(lane, subscription)) {
        if (fan__link_alone(&lane->ringed))
            lane->gate = lending_gate(lane);
        fan__link_join(&lane->ringed, &subscription->lane_link);
        lower_gate(lane, gate_of(subscription, place));
    } else {
        place |= FAN__PLACE_QUEUED;
        fan__link_join(&lane->queued, &subscription->lane_link);
        if (subscription->ring)
            queue_for_a_while(lane);
    }
    /* release: the reader that sees it may look at what the turn changed. */
    atomic_store_explicit(&subscription->place, place, memory_order_release);
}

/* Puts those on it whose queues are empty; the others come when theirs are. */
static void fill_ring(struct fan__lane *lane)
{
    /* relaxed: a hint to readers, who ask again in the turn. */
    atomic_store_explicit(&lane->queued_until, tail_of(lane), memory_order_relaxed);
    struct fan__link *next;
    for (struct fan__link *at = lane->queued.next; at != &lane->queued; at = next) {
        next = at->next;
        struct fan_subscription *subscription = FAN__HOLDER(at, struct fan_subscription, lane_link);
        const struct fan__queue *queue = &subscription->queue;
        fan__mutex_lock(&subscription->lock);
        if (subscription->ring && fan__queue_count(queue) == 0 &&
            fan__queue_loss(queue)->count == 0)
            fan__lane_join(lane, subscription);
        fan__mutex_unlock(&subscription->lock);
    }
}

void fan__lane_begin_ring(struct fan__lane *lane)
{
    if (!may_make_ring(lane->bus, lane->slot_count))
        lane->slot_count = 0;
    else if (make_ring(lane))
        fill_ring(lane);
}

void fan__lane_ask(struct fan__lane *lane, struct fan_subscription *subscription)
{
    /*
     * acq_rel: the turn clears it before it looks at what is asked for; who finds it set still is
     * seen by that. release: the link, and what came before it; relaxed: it is looked at again.
     */
    if (atomic_exchange_explicit(&subscription->asked, true, memory_order_acq_rel))
        return;
    struct fan_subscription *next = atomic_load_explicit(&lane->asked, memory_order_relaxed);
    do
        subscription->asked_next = next;
    while (!atomic_compare_exchange_weak_explicit(&lane->asked, &next, subscription,
                                                  memory_order_release, memory_order_relaxed));
}

static void attend(struct fan__lane *lane, struct fan_subscription *subscription)
{
    fan__mutex_lock(&subscription->lock);
    /* acquire, acq_rel: what it has read, it has copied. */
    uint64_t place = atomic_load_explicit(&subscription->place, memory_order_acquire);
    bool ringed = !(place & FAN__PLACE_QUEUED);
    if (subscription->parked) {
        fan__subscription_fold(subscription);
        subscription->parked = false;
        subscription->lost_in_a_row = 0;
        fan__link_join(&lane->queued, &subscription->lane_link);
    } else if (ringed && tail_of(lane) < (place >> FAN__PLACE_SHIFT) + lane->capacity) {
        /* Its slot is still there, so it can be looked after again. */
        place = atomic_fetch_and_explicit(&subscription->place, ~FAN__PLACE_LAPPED,
                                          memory_order_acq_rel);
        fan__link_join(&lane->ringed, &subscription->lane_link);
        lower_gate(lane, gate_of(subscription, place & ~FAN__PLACE_LAPPED));
    }
    fan__mutex_unlock(&subscription->lock);
}

void fan__lane_attend(struct fan__lane *lane)
{
    /* relaxed: a reader that asks later is seen by the next turn. */
    if (!atomic_load_explicit(&lane->asked, memory_order_relaxed))
        return;
    /* acquire: sees the links, and the places of those that ask. */
    struct fan_subscription *at =
        atomic_exchange_explicit(&lane->asked, NULL, memory_order_acquire);
    while (at) {
        struct fan_subscription *next = at->asked_next;
        /* acq_rel: a reader that asks again does so behind what we do here, or is seen here. */
        atomic_exchange_explicit(&at->asked, false, memory_order_acq_rel);
        attend(lane, at);
        at = next;
    }
}

/* What moving a reader off the ring needs and gives; the segment is shared by all in one pass. */
struct move {
    struct fan__lane *lane;
    struct fan__segment *segment;
    bool all; /* even those that have ended */
    bool must;
    bool may_wait;
};

/* Whether the publisher is to wait for it: not for one that has ended. */
static bool waits(const struct move *move, const struct fan_subscription *subscription)
{
    return move->may_wait && subscription->policy == FAN_POLICY_BLOCK && !subscription->ended;
}

/* What a reader keeps that is moved off the ring. */
struct kept {
    uint64_t from;
    uint64_t end;
};

/*
 * Leaves of it what the budget has room for, by the policy. Whoever keeps the newest would give up
 * a segment as a whole for what comes next, so half of the room is left for that.
 */
static void fit(const struct fan_subscription *subscription, struct kept *kept)
{
    const struct fan__lane *lane = subscription->lane;
    bool newest = subscription->policy == FAN_POLICY_DROP_OLDEST;
    size_t slot_size = lane->slot_words * sizeof(uint64_t);
    size_t head_size = sizeof(struct fan__segment);
    uint64_t count = kept->end - kept->from;
    size_t wanted = head_size + count * slot_size;
    size_t room = fan__subscription_make_way(subscription, wanted);
    if (room >= wanted)
        return;
    if (newest)
        room /= 2;
    uint64_t fits = room > head_size ? (room - head_size) / slot_size : 0;
    if (newest || fits == 0)
        kept->from = kept->end - fits;
    else
        kept->end = kept->from + fits;
}

/*
 * Sees to it that move->segment has what is to be kept, of which it leaves what there is room for.
 * Without memory nothing is.
 */
static enum fan_status cover(struct move *move, const struct fan_subscription *subscription,
                             struct kept *kept)
{
    struct fan_bus *bus = move->lane->bus;
    struct fan__segment *segment = move->segment;
    struct kept wanted = *kept;
    if (segment && segment->start <= kept->from && segment->end >= kept->end)
        return FAN_OK;
    if (segment)
        fan__bus_release_segment(bus, segment);
    move->segment = NULL;
    fit(subscription, kept);
    if (waits(move, subscription) && kept->end - kept->from < wanted.end - wanted.from)
        return FAN_TIMED_OUT;
    if (kept->from == kept->end)
        return FAN_OK;
    move->segment = fan__segment_new(move->lane, kept->from, kept->end);
    if (move->segment)
        return FAN_OK;
    kept->from = kept->end = wanted.end;
    return move->must ? FAN_OK : FAN_NO_MEMORY;
}

/* The loss of [position, until), where `position` was the reader's place. */
static struct fan__loss lost_on_ring(const struct fan_subscription *subscription, uint64_t place,
                                     uint64_t until)
{
    const struct fan__lane *lane = subscription->lane;
    uint64_t position = place >> FAN__PLACE_SHIFT;
    struct fan__loss loss = { .first = subscription->lapped_seq, .count = until - position };
    bool there = fan__slot_seq(lane, position, &loss.first) || (place & FAN__PLACE_LAPPED) != 0;
    there = there && fan__slot_seq(lane, until - 1, &loss.last);
    assert(there);
    (void)there;
    return loss;
}

/* Puts what it keeps into its queue, and what it loses before and behind that. With its lock. */
static void begin_queue(const struct move *move, struct fan_subscription *subscription,
                        uint64_t place, uint64_t end, const struct kept *kept)
{
    uint64_t position = place >> FAN__PLACE_SHIFT;
    struct fan__loss before = { .count = 0 };
    struct fan__loss behind = { .count = 0 };
    if (position < kept->from) {
        before = lost_on_ring(subscription, place, kept->from);
        position = kept->from;
    }
    uint64_t until = position > kept->end ? position : kept->end;
    if (until < end)
        behind = lost_on_ring(subscription, until << FAN__PLACE_SHIFT, end);
    struct fan__segment *segment = position < kept->end ? move->segment : NULL;
    if (segment) {
        /* relaxed: we hold it ourselves. */
        atomic_fetch_add_explicit(&segment->holders, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&subscription->held_size, segment->size, memory_order_relaxed);
    }
    fan__queue_begin(&subscription->queue, &before, segment, position, kept->end);
    fan__queue_add_loss(&subscription->queue, &behind);
    subscription->dropped += before.count + behind.count;
}

/* Moves a reader off the ring; the words are copied before its place is taken from it. */
static enum fan_status move_off(struct move *move, struct fan_subscription *subscription)
{
    struct fan__lane *lane = move->lane;
    uint64_t end = tail_of(lane);
    /* relaxed: only the turn sets it. */
    uint64_t limit = atomic_load_explicit(&subscription->limit, memory_order_relaxed);
    if (limit < end)
        end = limit;
    /* acquire: what it has read, it has copied, or says that it is lent. */
    uint64_t place = atomic_load_explicit(&subscription->place, memory_order_acquire);
    struct kept kept = { first_kept(subscription, place, end), end };
    if (kept.from < end) {
        enum fan_status status = cover(move, subscription, &kept);
        if (status != FAN_OK)
            return status;
    }
    fan__mutex_lock(&subscription->lock);
    /* acq_rel: as above; and the reader that sees it sees the lane as it is. */
    place = atomic_fetch_or_explicit(&subscription->place, FAN__PLACE_QUEUED, memory_order_acq_rel);
    uint64_t count = end - (place >> FAN__PLACE_SHIFT);
    uint64_t waited = count < subscription->buffer_count ? count : subscription->buffer_count;
    if (waited > subscription->queued_max)
        subscription->queued_max = waited;
    begin_queue(move, subscription, place, end, &kept);
    fan__mutex_unlock(&subscription->lock);
    fan__link_leave(&subscription->lane_link);
    if (!subscription->ended)
        fan__link_join(&lane->queued, &subscription->lane_link);
    fan__lane_keep_lent(lane, subscription);
    return FAN_OK;
}

/* Marks that its slot is about to be overwritten; false when it has moved on meanwhile. */
static bool lap(struct fan_subscription *subscription, uint64_t place)
{
    uint64_t seq;
    bool there = fan__slot_seq(subscription->lane, place >> FAN__PLACE_SHIFT, &seq);
    assert(there);
    (void)there;
    fan__mutex_lock(&subscription->lock);
    /*
     * acq_rel: what it has read, it has copied; what we do next is behind the mark. relaxed: it
     * is looked at again.
     */
    bool lapped = atomic_compare_exchange_strong_explicit(
        &subscription->place, &place, place | FAN__PLACE_LAPPED, memory_order_acq_rel,
        memory_order_relaxed);
    if (lapped)
        subscription->lapped_seq = seq;
    fan__mutex_unlock(&subscription->lock);
    return lapped;
}

/*
 * What is to be done about one reader: nothing, or how the gate hurts it. A reader of the newest
 * that is nearly full goes too, so that one who hovers there does not have everybody looked at with
 * each message.
 */
static enum fate {
    FATE_STAYS,
    FATE_LAPPED,
    FATE_MOVES,
    FATE_BLOCKS,
} fate_of(const struct move *move, const struct fan_subscription *subscription, uint64_t place,
          uint64_t *ret_gate)
{
    enum fan_policy policy = subscription->policy;
    /* relaxed: only the turn sets it. */
    uint64_t limit = atomic_load_explicit(&subscription->limit, memory_order_relaxed);
    bool lapped = place & FAN__PLACE_LAPPED;
    *ret_gate = UINT64_MAX;
    bool done = place >> FAN__PLACE_SHIFT == limit &&
                first_lent(subscription, FAN__NOT_LENT) == FAN__NOT_LENT;
    if (done || (lapped && !subscription->ended))
        return FATE_STAYS;
    uint64_t gate = gate_of(subscription, place);
    bool newest = policy == FAN_POLICY_DROP_NEWEST && !subscription->ended;
    uint64_t slack = newest ? subscription->buffer_count / 8 : 0;
    if (tail_of(move->lane) + slack < gate) {
        *ret_gate = gate;
        return FATE_STAYS;
    }
    if (policy == FAN_POLICY_DROP_OLDEST && !lapped &&
        (!subscription->ended ||
         first_kept(subscription, place, limit) > place >> FAN__PLACE_SHIFT))
        return FATE_LAPPED;
    if (waits(move, subscription))
        return FATE_BLOCKS;
    return FATE_MOVES;
}

static enum fan_status pass_one(struct move *move, struct fan_subscription *subscription,
                                bool large, uint64_t *ret_gate)
{
    for (;;) {
        /* seq_cst: a publisher that waits announced it before; see publish.c. */
        uint64_t place = atomic_load_explicit(&subscription->place, memory_order_seq_cst);
        if (move->all || (large && !subscription->ended))
            return move_off(move, subscription);
        switch (fate_of(move, subscription, place, ret_gate)) {
        case FATE_STAYS:
            return FAN_OK;
        case FATE_MOVES:
            return move_off(move, subscription);
        case FATE_BLOCKS:
            return FAN_TIMED_OUT;
        case FATE_LAPPED:
            if (!lap(subscription, place))
                break;
            /* One that has ended has another gate then. */
            if (subscription->ended)
                break;
            fan__link_join(&move->lane->lapped, &subscription->lane_link);
            return FAN_OK;
        }
    }
}

/* Passes all who are on the ring, and finds the next gate. */
static enum fan_status pass_all(struct move *move, bool large)
{
    struct fan__lane *lane = move->lane;
    enum fan_status status = FAN_OK;
    uint64_t gate = UINT64_MAX;
    struct fan__link *next;
    while ((large || move->all) && !fan__link_alone(&lane->lapped))
        fan__link_join(&lane->ringed, lane->lapped.next);
    for (struct fan__link *at = lane->ringed.next; at != &lane->ringed; at = next) {
        next = at->next;
        struct fan_subscription *subscription = FAN__HOLDER(at, struct fan_subscription, lane_link);
        uint64_t own = UINT64_MAX;
        enum fan_status one = pass_one(move, subscription, large, &own);
        if (one != FAN_OK && status != FAN_NO_MEMORY)
            status = one;
        if (one == FAN_OK && own < gate)
            gate = own;
    }
    uint64_t lending = lending_gate(lane);
    /* Who could not pass will be looked at again. */
    lane->gate = status != FAN_OK ? tail_of(lane) : lending < gate ? lending : gate;
    return status;
}

enum fan_status fan__lane_look(struct fan__lane *lane, bool large, bool may_wait, bool must)
{
    fan__lane_attend(lane);
    if (!fan__lane_on_ring(lane) || (!large && tail_of(lane) < lane->gate))
        return FAN_OK;
    struct move move = { .lane = lane, .must = must, .may_wait = may_wait };
    enum fan_status status = pass_all(&move, large);
    if (status == FAN_OK && !large && tail_of(lane) >= lending_gate(lane)) {
        /* What is lent is not written, so nobody stays. */
        queue_for_a_while(lane);
        move.all = true;
        status = pass_all(&move, large);
    }
    if (move.segment)
        fan__bus_release_segment(lane->bus, move.segment);
    return status;
}
