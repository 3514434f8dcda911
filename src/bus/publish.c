/*
 * Publishing: check, find the lanes, pass their gates, write once into each. What is like the
 * message before it, and meets nobody who wants more than a slot written, does so in one go
 * (publish_same).
 *
 * A publisher that must wait for a reader takes the gate, so that nobody publishes in between while
 * the turn is free; all who wait for the gate or for room do so until their own deadlines. They
 * give the processor away for a while, then announce themselves (gate_waiter_count), look once
 * more, and sleep on gate_word. A reader makes room first and looks for waiters then. On a lane all
 * four accesses are seq_cst, so that one of the two sees the other; a queue is looked at under its
 * lock, which does the same.
 */
#include "bus/slot.h"
#include "bus/turn.h"

#include "base/futex.h"
#include "bus/notify.h"

#include <fanfare/kind.h>

#include <assert.h>
#include <sched.h>
#include <string.h>

#define YIELD_COUNT 300
#define RUN_COUNT_MAX 32

/* One call of publish or publish_many. deadline_ns is 0 until it waits for the first time. */
struct call {
    struct fan_bus *bus;
    int64_t deadline_ns;
    unsigned yields;
    bool announced;
    unsigned gate_word;
    bool gate_taken;
};

/* Gives the turn away and waits for a change; false when the deadline has passed. */
static bool wait_at_gate(struct call *call)
{
    struct fan_bus *bus = call->bus;
    if (call->deadline_ns == 0)
        call->deadline_ns = fan__deadline_ns(bus->block_timeout_ms);
    if (!call->announced && call->yields++ >= YIELD_COUNT) {
        call->announced = true;
        /* seq_cst: see above. */
        atomic_fetch_add_explicit(&bus->gate_waiter_count, 1, memory_order_seq_cst);
        /* acquire: who sees it moved sees the room. */
        call->gate_word = atomic_load_explicit(&bus->gate_word, memory_order_acquire);
        return true;
    }
    fan__turn_leave(bus);
    if (call->announced) {
        (void)fan__futex_wait(&bus->gate_word, call->gate_word, call->deadline_ns);
        /* relaxed: who counts it still wakes nobody. */
        atomic_fetch_sub_explicit(&bus->gate_waiter_count, 1, memory_order_relaxed);
        call->announced = false;
    } else {
        sched_yield();
    }
    fan__turn_enter(bus);
    return call->deadline_ns == FAN__FOREVER || fan__deadline_ns(0) < call->deadline_ns;
}

/* Ends the call's stay at the gate. */
static inline void leave_gate(struct call *call)
{
    struct fan_bus *bus = call->bus;
    /* relaxed: who counts it still wakes nobody. */
    if (call->announced)
        atomic_fetch_sub_explicit(&bus->gate_waiter_count, 1, memory_order_relaxed);
    call->announced = false;
    if (!call->gate_taken)
        return;
    call->gate_taken = false;
    bus->gate_taken = false;
    fan__bus_open_gate(bus);
}

/* Its address tells threads apart, without a call. */
static _Thread_local char thread_mark __attribute__((tls_model("initial-exec")));

/* The one publisher, when the bus is for one. */
static void note_publisher(struct fan_bus *bus)
{
    assert(!bus->publisher || bus->publisher == &thread_mark);
    bus->publisher = &thread_mark;
}

/* In the turn: waits until nobody else waits for a reader. */
static enum fan_status begin(struct call *call)
{
    struct fan_bus *bus = call->bus;
    for (bool in_time = true; !bus->closed && bus->gate_taken; in_time = wait_at_gate(call)) {
        if (!in_time)
            return FAN_TIMED_OUT;
    }
    return bus->closed ? FAN_CLOSED : FAN_OK;
}

/* A message on its way: what was found out before anything changes. */
struct parcel {
    struct fan__draft draft;
    struct fan__image image; /* where it is small */
    struct fan__lane *lanes; /* linked by match_next */
    bool small;              /* it fits a slot */
    bool want_block;
    bool may_wait;
    bool must; /* it cannot be refused, so those without memory lose it */
};

/* Looks at those of a lane that have queues. */
static enum fan_status prepare_queued(const struct fan__lane *lane, struct parcel *parcel,
                                      size_t block_size)
{
    for (struct fan__link *at = lane->queued.next; at != &lane->queued; at = at->next) {
        struct fan_subscription *subscription = FAN__HOLDER(at, struct fan_subscription, lane_link);
        switch (fan__subscription_prepare(subscription, block_size, parcel->may_wait)) {
        case FAN__KEEP:
            parcel->want_block = true;
            break;
        case FAN__LOSE:
            break;
        case FAN__WAIT:
            return FAN_TIMED_OUT;
        case FAN__NO_MEMORY:
            if (!parcel->must)
                return FAN_NO_MEMORY;
            break;
        }
    }
    return FAN_OK;
}

static void find_lanes(struct fan_bus *bus, struct parcel *parcel)
{
    parcel->draft.route = NULL;
    parcel->lanes = fan__route_find(bus, &parcel->draft);
}

/* FAN_TIMED_OUT when a reader that insists has no room. */
static enum fan_status prepare(struct parcel *parcel)
{
    size_t block_size = 0;
    parcel->want_block = false;
    for (struct fan__lane *lane = parcel->lanes; lane; lane = lane->match_next) {
        if (parcel->small && lane->slot_count > lane->capacity)
            fan__lane_begin_ring(lane);
        enum fan_status status =
            fan__lane_pass(lane, !parcel->small, parcel->may_wait, parcel->must);
        if (status == FAN_OK && !fan__link_alone(&lane->queued)) {
            block_size = block_size > 0 ? block_size : fan__draft_block_size(&parcel->draft);
            status = prepare_queued(lane, parcel, block_size);
        }
        if (status != FAN_OK)
            return status;
    }
    return FAN_OK;
}

/* Waits until all that insist have room. */
static enum fan_status pass_gate(struct call *call, struct parcel *parcel)
{
    struct fan_bus *bus = call->bus;
    for (bool in_time = true; !bus->closed; in_time = wait_at_gate(call)) {
        if (call->gate_taken)
            find_lanes(bus, parcel); /* while it waited, lanes came and went */
        enum fan_status status = prepare(parcel);
        if (status != FAN_TIMED_OUT || !in_time)
            return status;
        call->gate_taken = true;
        bus->gate_taken = true;
    }
    return FAN_CLOSED;
}

/* One position more. */
static void move_tail(struct fan__lane *lane, uint64_t tail, uint64_t seq)
{
    lane->last_seq = seq;
    /* release: who sees the position there sees its slot. */
    atomic_store_explicit(&lane->tail, tail + 1, memory_order_release);
    fan__lane_touch(lane);
}

static __attribute__((noinline)) void spread_to_lane(struct fan__lane *lane,
                                                     const struct parcel *parcel,
                                                     struct fan__block *block, uint64_t seq,
                                                     int64_t time_us)
{
    /* relaxed: only the turn moves it. */
    uint64_t tail = atomic_load_explicit(&lane->tail, memory_order_relaxed);
    if (fan__lane_on_ring(lane) && parcel->small)
        fan__slot_write(lane, tail, &parcel->image, seq, time_us);
    /* relaxed: a hint to readers, who ask again in the turn. */
    if (!parcel->small && lane->capacity > 0)
        atomic_store_explicit(&lane->queued_until, tail + FAN__LANE_QUEUED_COUNT,
                              memory_order_relaxed);
    struct fan__link *next;
    for (struct fan__link *at = lane->queued.next; at != &lane->queued; at = next) {
        next = at->next;
        fan__subscription_give(FAN__HOLDER(at, struct fan_subscription, lane_link), block, seq);
    }
    move_tail(lane, tail, seq);
}

/* Counts the message as published, and gives it to all that want it. */
static void spread(struct fan_bus *bus, const struct parcel *parcel, struct fan__block *block,
                   uint64_t seq)
{
    assert(seq > bus->seq);
    bus->seq = seq;
    bus->published++;
    if (!parcel->lanes)
        bus->unheard++;
    int64_t time_us = parcel->draft.message->time_us;
    if (block) {
        block->message.seq = seq;
        time_us = block->message.time_us;
    } else if (time_us == 0 && parcel->lanes) {
        time_us = fan__wall_us(bus->env);
    }
    for (struct fan__lane *lane = parcel->lanes; lane; lane = lane->match_next)
        spread_to_lane(lane, parcel, block, seq, time_us);
    if (block)
        fan__bus_release(bus, block);
}

/* Finds out how a message stands in a slot, if it fits. */
static void parcel_init(struct parcel *parcel, const struct fan_bus *bus)
{
    parcel->small = fan__slot_fits(bus, &parcel->draft);
    if (parcel->small)
        fan__image_init(&parcel->image, bus, &parcel->draft);
}

/* ------------------------------------------------------------------ one like the one before */

/* Whether a message is of a route's type, with a payload that fits a slot beside its texts. */
static inline bool is_of_type(const struct fan_message *message, const struct fan__route *route)
{
    const char *type = message->type;
    size_t size = message->payload.size;
    if (message->size != FAN_MESSAGE_SIZE || message->kind != route->kind ||
        size - route->payload_size_min > route->payload_size_span ||
        (!message->payload.data && size > 0))
        return false;
    /* A kind's name may be known by its address, and need not be given. */
    if (!type)
        return route->type != NULL;
    return type == route->type || strcmp(type, route->key) == 0;
}

static inline bool is_of_topic(const struct fan_message *message, const struct fan__route *route)
{
    if (!message->topic || message->topic[0] == '\0')
        return route->topic_size == 0;
    return route->topic_size > 0 && strcmp(message->topic, route->key + route->type_size + 1) == 0;
}

/*
 * The image, where one is wanted, of a message that has another topic than its route, or a payload
 * of half words. False when it does not fit a slot, or its topic is too long, or one that has lanes
 * of its own.
 */
static bool image_of(struct fan__image *ret_image, const struct fan_bus *bus,
                     const struct fan_message *message, bool same_topic, bool wanted)
{
    const struct fan__route *route = bus->last_route;
    struct fan__draft draft = {
        .message = message,
        .kind = message->kind,
        .type = route->key,
        .type_size = route->type_size,
        .topic = message->topic ? message->topic : "",
    };
    draft.topic_size = strnlen(draft.topic, FAN_TEXT_SIZE_MAX + 1);
    if (draft.topic_size > FAN_TEXT_SIZE_MAX || message->payload.size > FAN_MESSAGE_SIZE_MAX)
        return false;
    if (!same_topic && fan__route_topic(bus, draft.topic, draft.topic_size))
        return false;
    if (!wanted)
        return true;
    if (!fan__slot_fits(bus, &draft))
        return false;
    fan__image_init(ret_image, bus, &draft);
    return true;
}

/* The image of one that has its route's topic and a payload of whole words. */
static inline void image_of_route(struct fan__image *ret_image, const struct fan__route *route,
                                  const struct fan_message *message)
{
    ret_image->sizes = fan__image_sizes(message->payload.size, route->text_sizes);
    ret_image->payload = message->payload.data;
    ret_image->payload_words = message->payload.size / sizeof(uint64_t);
    ret_image->rest = route->key + route->text_at;
    ret_image->rest_words = route->text_words;
}

/* Gives it to lanes on which nobody wants more than a slot written, on those with readers. */
static inline __attribute__((always_inline)) void give_same(struct fan_bus *bus,
                                                            const struct fan_message *message,
                                                            const struct fan__image *image,
                                                            bool on_ring)
{
    uint64_t seq = ++bus->seq;
    int64_t time_us = message->time_us;
    bus->published++;
    if (!bus->last_lanes)
        bus->unheard++;
    else if (time_us == 0)
        time_us = fan__wall_us(bus->env);
    for (struct fan__lane *lane = bus->last_lanes; lane; lane = lane->match_next) {
        /* relaxed: only the turn moves it. */
        uint64_t tail = atomic_load_explicit(&lane->tail, memory_order_relaxed);
        if (on_ring && fan__lane_on_ring(lane))
            fan__slot_write(lane, tail, image, seq, time_us);
        move_tail(lane, tail, seq);
    }
}

/* As publish_same, for one with another topic or half words. */
static __attribute__((noinline)) bool publish_similar(struct fan_bus *bus,
                                                      const struct fan_message *message,
                                                      bool same_topic, bool on_ring)
{
    struct fan__image image;
    if (!image_of(&image, bus, message, same_topic, on_ring))
        return false;
    give_same(bus, message, &image, on_ring);
    return true;
}

/* Whether nobody on the lane wants anything but a slot written, if that. */
static inline bool is_plain(const struct fan__lane *lane)
{
    /* relaxed: as in fan__lane_pass. */
    return !atomic_load_explicit(&lane->asked, memory_order_relaxed) &&
           (atomic_load_explicit(&lane->tail, memory_order_relaxed) < lane->gate ||
            !fan__lane_on_ring(lane)) &&
           fan__link_alone(&lane->queued);
}

/* As publish_one, for what most messages are; false when it is none of them. */
static inline __attribute__((always_inline)) bool publish_same(struct fan_bus *bus,
                                                               const struct fan_message *message)
{
    const struct fan__route *route = bus->last_route;
    size_t size = message->payload.size;
    if (!route || !is_of_type(message, route))
        return false;
    bool same_topic = is_of_topic(message, route);
    if (!same_topic && route->topic_size > 0)
        return false;
    bool on_ring = false; /* else nobody reads now, and nothing is to be written */
    for (const struct fan__lane *lane = bus->last_lanes; lane; lane = lane->match_next) {
        if (!is_plain(lane))
            return false;
        on_ring |= fan__lane_on_ring(lane);
    }
    if (!same_topic || size % sizeof(uint64_t) != 0)
        return publish_similar(bus, message, same_topic, on_ring);
    struct fan__image image;
    image_of_route(&image, route, message);
    give_same(bus, message, &image, on_ring);
    return true;
}

/* A step is what the caller says: its struct may be a later one that has grown. */
static inline const struct fan_message *message_at(const struct fan_message *messages, size_t index)
{
    return (const void *)((const char *)messages + index * messages->size);
}

/* How many slots may be written before the tail moves, for one lane and its readers. */
static inline size_t run_room(const struct fan__lane *lane, uint64_t tail)
{
    /* What a reader behind the gate wants, and one before it, is there still: half a ring. */
    size_t room = lane->capacity / 2 - 1;
    if (room > RUN_COUNT_MAX)
        room = RUN_COUNT_MAX;
    return lane->gate - tail < room ? (size_t)(lane->gate - tail) : room;
}

/*
 * As publish_same, for those from the first on that go into the same ring alone: its tail moves
 * once, since readers that look at it take its line away each time. Gives how many they were.
 */
static size_t publish_alike(struct fan_bus *bus, const struct fan_message *messages, size_t first,
                            size_t count)
{
    const struct fan__route *route = bus->last_route;
    struct fan__lane *lane = bus->last_lanes;
    if (!route || !lane || lane->match_next || !is_plain(lane) || !fan__lane_on_ring(lane))
        return 0;
    /* relaxed: only the turn moves it. */
    uint64_t tail = atomic_load_explicit(&lane->tail, memory_order_relaxed);
    size_t room = run_room(lane, tail);
    size_t published = 0;
    for (; first + published < count && published < room; published++) {
        const struct fan_message *message = message_at(messages, first + published);
        struct fan__image image;
        if (!is_of_type(message, route) || !is_of_topic(message, route) ||
            message->payload.size % sizeof(uint64_t) != 0)
            break;
        image_of_route(&image, route, message);
        fan__slot_write(lane, tail + published, &image, ++bus->seq,
                        message->time_us != 0 ? message->time_us : fan__wall_us(bus->env));
    }
    bus->published += published;
    if (published > 0)
        move_tail(lane, tail + published - 1, bus->seq);
    return published;
}

/* ------------------------------------------------------------------ the doors */

/* The publisher's way in. */
static inline void enter(struct fan_bus *bus)
{
    fan__turn_enter(bus);
    if (bus->single_publisher)
        note_publisher(bus);
}

/* The same, where it is not the door's. */
static __attribute__((noinline)) bool publish_same_of_run(struct fan_bus *bus,
                                                          const struct fan_message *message)
{
    return publish_same(bus, message);
}

static enum fan_status publish_one(struct call *call, const struct fan_message *message)
{
    struct fan_bus *bus = call->bus;
    struct parcel parcel;
    parcel.may_wait = bus->block_timeout_ms > 0;
    parcel.must = false;
    enum fan_status status = fan__draft_init(&parcel.draft, message, bus);
    if (status == FAN_OK && message->payload.size > FAN_MESSAGE_SIZE_MAX)
        status = FAN_INVALID;
    if (status != FAN_OK)
        return status;
    bool other = !parcel.draft.route;
    parcel.lanes = fan__route_find(bus, &parcel.draft);
    /* What is remembered of its own type is the last now. */
    if (other && publish_same_of_run(bus, message))
        return FAN_OK;
    parcel_init(&parcel, bus);
    status = pass_gate(call, &parcel);
    if (status != FAN_OK)
        return status;
    struct fan__block *block = NULL;
    if (parcel.want_block) {
        block = fan__block_new(bus, &parcel.draft);
        if (!block)
            return FAN_NO_MEMORY;
    }
    spread(bus, &parcel, block, bus->seq + 1);
    return FAN_OK;
}

/* In the turn, which it leaves. ret_seq: of the last that was published. */
static enum fan_status publish_run(struct fan_bus *bus, const struct fan_message *messages,
                                   size_t count, size_t *ret_count, uint64_t *ret_seq)
{
    struct call call = { .bus = bus };
    enum fan_status status = begin(&call);
    if (status == FAN_OK && !messages && count > 0)
        status = FAN_INVALID;
    size_t published = 0;
    while (status == FAN_OK && published < count) {
        const struct fan_message *at = message_at(messages, published);
        size_t alike = count > 1 ? publish_alike(bus, messages, published, count) : 0;
        if (alike == 0 && !publish_same_of_run(bus, at))
            status = publish_one(&call, at);
        if (status == FAN_OK)
            published += alike > 0 ? alike : 1;
    }
    *ret_seq = bus->seq;
    leave_gate(&call);
    fan__turn_leave(bus);
    *ret_count = published;
    return status;
}

/* What is not like the one before it, in the turn, which it leaves. */
static __attribute__((noinline)) enum fan_status publish_unlike(struct fan_bus *bus,
                                                                const struct fan_message *message,
                                                                uint64_t *ret_seq)
{
    size_t count;
    uint64_t seq;
    enum fan_status status = publish_run(bus, message, 1, &count, &seq);
    if (status == FAN_OK && ret_seq)
        *ret_seq = seq;
    return status;
}

enum fan_status fan_bus_publish(struct fan_bus *bus, const struct fan_message *message,
                                uint64_t *ret_seq)
{
    if (fan__bus_forked(bus))
        return FAN_FORKED;
    enter(bus);
    if (!message || bus->closed || bus->gate_taken || !publish_same(bus, message))
        return publish_unlike(bus, message, ret_seq);
    uint64_t seq = bus->seq;
    fan__turn_leave(bus);
    if (ret_seq)
        *ret_seq = seq;
    return FAN_OK;
}

enum fan_status fan_bus_publish_many(struct fan_bus *bus, const struct fan_message *messages,
                                     size_t count, size_t *ret_count)
{
    size_t published = 0;
    enum fan_status status = FAN_FORKED;
    if (!fan__bus_forked(bus)) {
        enter(bus);
        uint64_t seq;
        status = publish_run(bus, messages, count, &published, &seq);
    }
    if (ret_count)
        *ret_count = published;
    return status;
}

void fan__bus_notify(struct fan_bus *bus, const struct fan_message *messages, size_t count)
{
    if (fan__bus_forked(bus))
        return;
    fan__turn_enter(bus);
    for (size_t i = 0; i < count && !bus->closed; i++) {
        struct parcel parcel;
        parcel.may_wait = false;
        parcel.must = true;
        enum fan_status status = fan__draft_init(&parcel.draft, &messages[i], bus);
        assert(status == FAN_OK);
        if (status != FAN_OK)
            continue;
        parcel.lanes = fan__route_find(bus, &parcel.draft);
        parcel_init(&parcel, bus);
        status = prepare(&parcel);
        assert(status == FAN_OK);
        struct fan__block *block = parcel.want_block ? fan__block_new(bus, &parcel.draft) : NULL;
        spread(bus, &parcel, block, messages[i].seq);
    }
    fan__turn_leave(bus);
}
