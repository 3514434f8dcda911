/*
 * Publishing: check, pass the gate, copy once, spread. A publisher that must wait for a reader
 * takes the turn, so that nobody publishes in between while the lock is free; all who wait for the
 * turn or for room wait at the gate, each until its own deadline.
 */
#include "bus/bus.h"

#include "base/hash.h"
#include "bus/notify.h"

#include <assert.h>
#include <string.h>

/* One call of publish or publish_many. deadline_ns is 0 until it waits for the first time. */
struct turn {
    struct fan_bus *bus;
    int64_t deadline_ns;
    bool taken;
};

/* Unlocks and waits for a change; false when the deadline has passed. */
static bool wait_at_gate(struct turn *turn)
{
    struct fan_bus *bus = turn->bus;
    if (turn->deadline_ns == 0)
        turn->deadline_ns = fan__deadline_ns(bus->block_timeout_ms);
    /* What was published so far must be readable, else the reader never makes room. */
    if (bus->touched) {
        fan__bus_leave(bus);
        fan__bus_enter(bus);
        return true;
    }
    bus->gate_waiter_count++;
    bool in_time = fan__cond_wait_until(&bus->gate, &bus->mutex, turn->deadline_ns);
    bus->gate_waiter_count--;
    /* Close waits here too, for the last one to go. */
    if (bus->closed)
        fan__cond_broadcast(&bus->gate);
    return in_time;
}

static enum fan_status turn_begin(struct turn *turn)
{
    struct fan_bus *bus = turn->bus;
    for (bool in_time = true; !bus->closed && bus->gate_taken; in_time = wait_at_gate(turn)) {
        if (!in_time)
            return FAN_TIMED_OUT;
    }
    if (bus->closed)
        return FAN_CLOSED;
    if (bus->single_publisher) {
        assert(!bus->publisher_known || pthread_equal(bus->publisher, pthread_self()));
        bus->publisher = pthread_self();
        bus->publisher_known = true;
    }
    return FAN_OK;
}

static void turn_end(struct turn *turn)
{
    if (!turn->taken)
        return;
    turn->bus->gate_taken = false;
    fan__bus_open_gate(turn->bus);
}

/* Finds who wants the message, once all of them that insist have room. */
static enum fan_status pass_gate(struct turn *turn, const struct fan__draft *draft,
                                 struct fan_subscription **ret_matched)
{
    struct fan_bus *bus = turn->bus;
    size_t size = fan__draft_block_size(draft);
    for (bool in_time = true; !bus->closed; in_time = wait_at_gate(turn)) {
        struct fan_subscription *matched = fan__bus_match(bus, draft);
        if (!fan__bus_must_wait(bus, matched, size)) {
            *ret_matched = matched;
            return FAN_OK;
        }
        if (!in_time)
            return FAN_TIMED_OUT;
        turn->taken = true;
        bus->gate_taken = true;
    }
    return FAN_CLOSED;
}

static struct fan__block *copy(struct fan_bus *bus, const struct fan__draft *draft)
{
    struct fan__block *block = fan__block_new(bus->env, draft);
    if (!block)
        return NULL;
    bus->held_size += block->size;
    if (bus->latest_count > 0)
        block->key = fan__hash(fan__hash(bus->hash_seed, draft->topic, draft->topic_size),
                               draft->type, draft->type_size);
    return block;
}

static enum fan_status publish_one(struct turn *turn, const struct fan_message *message)
{
    struct fan_bus *bus = turn->bus;
    struct fan__draft draft;
    struct fan_subscription *matched;
    enum fan_status status = fan__draft_init(&draft, message, bus->kinds, bus->kind_count);
    if (status == FAN_OK && message->payload.size > FAN_MESSAGE_SIZE_MAX)
        status = FAN_INVALID;
    if (status == FAN_OK)
        status = pass_gate(turn, &draft, &matched);
    if (status != FAN_OK)
        return status;
    struct fan__block *block = NULL;
    if (fan__bus_must_copy(matched)) {
        block = copy(bus, &draft);
        if (!block)
            return FAN_NO_MEMORY;
    }
    fan__bus_spread(bus, matched, block, bus->seq + 1);
    return FAN_OK;
}

enum fan_status fan_bus_publish(struct fan_bus *bus, const struct fan_message *message,
                                uint64_t *ret_seq)
{
    if (fan__bus_forked(bus))
        return FAN_FORKED;
    fan__bus_enter(bus);
    struct turn turn = { .bus = bus };
    enum fan_status status = turn_begin(&turn);
    if (status == FAN_OK)
        status = publish_one(&turn, message);
    uint64_t seq = bus->seq;
    turn_end(&turn);
    fan__bus_leave(bus);
    if (status == FAN_OK && ret_seq)
        *ret_seq = seq;
    return status;
}

enum fan_status fan_bus_publish_many(struct fan_bus *bus, const struct fan_message *messages,
                                     size_t count, size_t *ret_count)
{
    if (ret_count)
        *ret_count = 0;
    if (fan__bus_forked(bus))
        return FAN_FORKED;
    fan__bus_enter(bus);
    struct turn turn = { .bus = bus };
    enum fan_status status = turn_begin(&turn);
    size_t published = 0;
    const struct fan_message *at = messages;
    while (status == FAN_OK && published < count) {
        status = publish_one(&turn, at);
        if (status != FAN_OK)
            break;
        published++;
        /* A step is what the caller says: its struct may be a later one that has grown. */
        at = (const void *)((const char *)at + messages->size);
    }
    turn_end(&turn);
    fan__bus_leave(bus);
    if (ret_count)
        *ret_count = published;
    return status;
}

void fan__bus_notify(struct fan_bus *bus, const struct fan_message *messages, size_t count)
{
    if (fan__bus_forked(bus))
        return;
    fan__bus_enter(bus);
    for (size_t i = 0; i < count && !bus->closed; i++) {
        struct fan__draft draft;
        enum fan_status status = fan__draft_init(&draft, &messages[i], bus->kinds, bus->kind_count);
        assert(status == FAN_OK);
        if (status != FAN_OK)
            continue;
        struct fan_subscription *matched = fan__bus_match(bus, &draft);
        struct fan__block *block = fan__bus_must_copy(matched) ? copy(bus, &draft) : NULL;
        fan__bus_spread(bus, matched, block, messages[i].seq);
    }
    fan__bus_leave(bus);
}
