/*
 * The inside of the bus. One lock covers all of it: the topics, every subscription's queue, the
 * counting of blocks. Whoever changes what a reader could read does it between enter and leave.
 *
 *     bus ── topics ── topic ── subscription ── subscription
 *      ├──── everywhere ─────── subscription                    (those without a topic)
 *      └──── all ────────────── every subscription until it is freed
 *                                   └── queue ── block          (blocks are shared)
 *
 * Order of locks: a cancel token's, then the bus's. A subscription keeps the bus's memory alive.
 */
#ifndef FAN_BUS_BUS_H
#define FAN_BUS_BUS_H

#include "base/cancel.h"
#include "base/env.h"
#include "base/thread.h"
#include "bus/queue.h"
#include "bus/topics.h"

#include <fanfare/subscription.h>

#include <stdatomic.h>

struct fan_bus {
    const struct fan_env *env;
    unsigned fork_generation;
    const struct fan_kind *kinds;
    size_t kind_count;
    bool single_publisher;
    size_t memory_size_max;
    unsigned block_timeout_ms;
    uint64_t hash_seed;
    atomic_size_t subscription_count; /* attached ones; written under the lock */

    struct fan__mutex mutex; /* covers all that follows, and the subscriptions */
    size_t holders;          /* the owner, until fan_bus_free, and each subscription */
    bool closed;
    bool publisher_known;
    pthread_t publisher;
    uint64_t seq;
    uint64_t published;
    uint64_t unheard;
    struct fan_bus_counters departed; /* sums over freed subscriptions */
    size_t held_size;                 /* bytes of all blocks that exist */
    size_t latest_count;              /* attached ones with FAN_POLICY_LATEST */
    struct fan__topics topics;
    struct fan_subscription *everywhere;
    struct fan_subscription *all;
    size_t all_count;

    /*
     * Publishers that wait for a FAN_POLICY_BLOCK reader: one has the turn, the others wait for it.
     */
    struct fan__cond gate;
    bool gate_taken;
    size_t gate_waiter_count;

    struct fan_subscription *touched; /* got something in this critical section, not yet settled */
    struct fan_subscription *woken;   /* whose wake is to be called after it */
};

#define FAN__BATCH_COUNT_MAX 256

struct fan_subscription {
    struct fan_bus *bus;
    enum fan_policy policy;
    unsigned yield_us;
    uint64_t kind_mask;
    char *pattern; /* NULL where every type matches, or where kind_mask has it */
    struct fan__topic *topic;

    struct fan_subscription **list; /* the head of the list below; NULL once it has ended */
    struct fan_subscription *next;
    struct fan_subscription *previous;
    struct fan_subscription *all_next;
    struct fan_subscription *all_previous;
    struct fan_subscription *match_next;
    struct fan_subscription *touched_next;
    struct fan_subscription *woken_next;
    bool touched;

    struct fan__queue queue;
    size_t held_size; /* bytes of the blocks in its queue and lent */
    struct fan_subscription_counters counters;

    struct fan__block **lent; /* to the reader, until its next read */
    size_t lent_count;
    size_t lent_count_max;
    struct fan_gap gap;

    bool sleeping; /* the reader, on `cond`, and not woken yet */
    struct fan__cond cond;
    atomic_bool readable; /* written under the lock; a yielding reader peeks */
    int descriptor;       /* an eventfd that is set while readable; -1 until somebody asks */
    void (*wake)(void *context);
    void *wake_context;
    bool waking; /* the wake is being called, or about to be */
    bool wake_again;

    bool registered; /* with the cancel token */
    struct fan__cancel_entry cancel;
};

static inline bool fan__bus_forked(const struct fan_bus *bus)
{
    return bus->fork_generation != fan__fork_generation();
}

void fan__bus_enter(struct fan_bus *bus);
/* Tells the readers that something is there, unlocks, and calls the wakes that are due. */
void fan__bus_leave(struct fan_bus *bus);

/* Frees the bus when nobody holds it any more. Takes the lock; the bus is gone after it. */
void fan__bus_drop(struct fan_bus *bus);

/* Lets a publisher at the gate look again. */
void fan__bus_open_gate(struct fan_bus *bus);

/* Adds what one subscription counted. */
void fan__counters_add(struct fan_bus_counters *sum,
                       const struct fan_subscription_counters *counters);

void fan__bus_release(struct fan_bus *bus, struct fan__block *block);

/* What a read would return now: FAN_OK, FAN_GAP, FAN_AGAIN or FAN_CLOSED. */
enum fan_status fan__subscription_peek(const struct fan_subscription *subscription);

/* Brings flag, descriptor, sleeper and wake in line with what a read would return now. */
void fan__subscription_settle(struct fan_subscription *subscription);

/* Takes it off the lists that publishing looks at. Does nothing when that is done already. */
void fan__subscription_detach(struct fan_subscription *subscription);

/* Lets go of a block that was taken out of its queue or lent. */
void fan__subscription_release(struct fan_subscription *subscription, struct fan__block *block);

/* All subscriptions that want the message, linked by match_next. */
struct fan_subscription *fan__bus_match(struct fan_bus *bus, const struct fan__draft *draft);

/* Whether one of these is a FAN_POLICY_BLOCK reader without room for a block of this size. */
bool fan__bus_must_wait(const struct fan_bus *bus, const struct fan_subscription *matched,
                        size_t block_size);

/* Whether one of these would keep the message, so that a block is needed. */
bool fan__bus_must_copy(const struct fan_subscription *matched);

/*
 * Counts the message as published with this sequence and gives it to all that matched, each by its
 * policy. Takes the caller's hold of `block`; NULL counts as lost for all of them.
 */
void fan__bus_spread(struct fan_bus *bus, struct fan_subscription *matched,
                     struct fan__block *block, uint64_t seq);

#endif
