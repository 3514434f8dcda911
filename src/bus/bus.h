/*
 * The inside of the bus.
 *
 *     bus ── topics ── topic ── lane ── lane          (lane.h: one for each distinct filter)
 *      ├──── prefixes ── prefix ── lane               (by what their patterns begin with)
 *      ├──── everywhere ─────── lane                  (those without a topic and a prefix)
 *      ├──── routes: which lanes want a type and a topic, remembered
 *      └──── all: every subscription until it is freed
 *
 * What is locked, in this order; a cancel token's lock comes before all of it:
 *
 *     mutex     one who subscribes, ends, counts, or is about to sleep
 *     turn      one who publishes, or holds the mutex (turn.c): lanes, routes, who is where
 *     a subscription's lock   its own queue (queue.h), shared by its reader and the turn
 *     chain     who is to be woken
 *
 * A reader that is awake on a lane takes none of these. A subscription keeps the bus's memory.
 */
#ifndef FAN_BUS_BUS_H
#define FAN_BUS_BUS_H

#include "base/cancel.h"
#include "base/env.h"
#include "base/thread.h"
#include "bus/arena.h"
#include "bus/lane.h"
#include "bus/link.h"
#include "bus/queue.h"
#include "bus/route.h"
#include "bus/topics.h"

#include <fanfare/subscription.h>

#include <stdatomic.h>

struct fan_bus {
    const struct fan_env *env;
    unsigned fork_generation;
    const struct fan_kind *kinds;
    size_t kind_count;
    bool single_publisher;
    bool asymmetric; /* the kernel has barriers, so the one publisher needs none */
    bool by_reference;
    bool touch; /* readers write into the lines that they copy (slot.h) */
    size_t slot_words;
    size_t lent_words; /* room for the data of one that is copied */
    size_t memory_size_max;
    unsigned block_timeout_ms;
    unsigned processor_count;
    uint64_t hash_seed;
    atomic_size_t subscription_count; /* attached ones; written in the turn */

    char before_turn[FAN__LINE_SIZE];
    atomic_uint turn;   /* 1 while somebody has it */
    atomic_uint wanted; /* somebody who does not publish wants it; with many publishers: in vain */
    char after_turn[FAN__LINE_SIZE];

    /* From here on: in the turn. First what every publish looks at. */
    bool closed;
    bool gate_taken;       /* a publisher waits for a reader; the others wait for him */
    const void *publisher; /* of a bus for one, once it is known; a mark of its thread */
    uint64_t seq;
    uint64_t published;
    struct fan__link touched;            /* turned readable in this turn, and want to be told */
    const struct fan__route *last_route; /* of the last message; its lanes are linked */
    struct fan__lane *last_lanes;
    uint64_t unheard;
    size_t holders;                   /* the owner, until fan_bus_free, and each subscription */
    struct fan_bus_counters departed; /* sums over freed subscriptions */
    size_t latest_count;              /* attached ones with FAN_POLICY_LATEST */
    size_t ring_count;
    size_t ring_size; /* bytes */
    struct fan__topics topics;
    struct fan__topics prefixes;
    struct fan__lane *everywhere;
    struct fan__routes routes;
    struct fan__link all;
    size_t all_count;
    struct fan_subscription *woken; /* whose wake is to be called after it */

    /* From here on: no longer. */
    struct fan__mutex mutex;
    struct fan__cond wake_done; /* with the mutex: a wake has returned */
    atomic_size_t held_size;    /* bytes of all blocks, segments and arrays of queues in use */
    struct fan__arena arena;

    /* Publishers that wait for a FAN_POLICY_BLOCK reader, or for one that does; on a line apart. */
    char before_gate[FAN__LINE_SIZE];
    atomic_uint gate_waiter_count;
    atomic_uint gate_word; /* moves when there may be room */
    char after_gate[FAN__LINE_SIZE];

    /* Sleepers that are to be woken, each by the one before it. */
    atomic_uint chain_lock;
    struct fan__link chain;
    atomic_uint chain_count;
};

#define FAN__BATCH_COUNT_MAX 256
#define FAN__BATCH_SIZE_MAX 65536 /* of what a batch is lent in */

/*
 * The two low bits of a reader's place; the position on the lane is above them. Without them, only
 * the reader moves its place, by compare-and-swap; they are set, and with them it moves, under its
 * lock.
 */
#define FAN__PLACE_QUEUED UINT64_C(1) /* it reads from its queue, not from the lane */
#define FAN__PLACE_LAPPED UINT64_C(2) /* the gate does not look after the slot at its position */
#define FAN__PLACE_SHIFT 2
#define FAN__NO_LIMIT UINT64_MAX
#define FAN__NOT_LENT UINT64_MAX

/* A message that is lent to the reader: in its slot, copied out of it, or in a block. */
struct fan__lent {
    struct fan_message message;
    struct fan__block *block; /* NULL but for one in a block */
    uint32_t form;       /* of the message, or 0: what its slot says of sizes and kind, plus 1 */
    uint16_t word_count; /* of its data */
    bool has_texts;      /* its data are not the payload alone */
};

/* How often messages come to a reader's lane: every_ns until then, and its tail then. */
struct fan__pace {
    int64_t since_ns;
    uint64_t tail;
    int64_t every_ns;
};

struct fan_subscription {
    struct fan_bus *bus;
    struct fan__lane *lane;
    enum fan_policy policy;
    unsigned yield_us;
    size_t buffer_count;
    bool ring;     /* the lane's ring has room for it */
    bool in_place; /* it reads in the ring; others copy */

    /* In the turn. */
    struct fan__link all_link;
    struct fan__link lane_link;    /* on one of its lane's lists, or alone while it is parked */
    struct fan__link armed_link;   /* wants to be told when it turns readable */
    struct fan__link lending_link; /* off the ring, with slots that are lent still */
    bool ended;
    bool keep;                   /* publishing found that its queue will take the message */
    uint64_t start;              /* the lane's position when it subscribed */
    atomic_uint_least64_t limit; /* and when it ended; FAN__NO_LIMIT before */
    uint64_t discarded;
    atomic_bool watched; /* it has a descriptor or a wake */
    bool signalled;      /* descriptor and wake were told that it is readable */
    int descriptor;      /* an eventfd that is set while signalled; -1 until somebody asks */
    void (*wake)(void *context);
    void *wake_context;
    bool waking; /* the wake is being called, or about to be */
    bool wake_again;
    struct fan_subscription *woken_next;

    char before_place[FAN__LINE_SIZE];
    /* The reader's own, looked at by others. */
    atomic_uint_least64_t place;
    atomic_uint_least64_t lent_from; /* the first slot that is lent in place, or FAN__NOT_LENT */
    atomic_uint_least64_t delivered;
    atomic_uint_least64_t lapped; /* dropped on the lane */
    atomic_uint_least64_t queued_max_lane;
    /* The reader's own. */
    struct fan__lent *lent_one;
    struct fan__lent *lent_many;
    struct fan__lent *lent; /* one of the two */
    uint64_t *lent_data;    /* behind it: lent_words for each */
    size_t lent_count;
    bool lent_blocks; /* some of it are blocks */
    size_t lent_many_count;
    int64_t spin_ns; /* how long it looks again before it yields */
    unsigned wait_count;
    bool caught_up;        /* it has read all that was there */
    unsigned linger_skips; /* reads before it lingers again, and after the last that did not help */
    unsigned fruitless;
    struct fan__pace pace;
    int64_t lost_ns;    /* when it was last told of a loss; 0: never */
    uint64_t seen_tail; /* of the lane, when it last looked at its queue */
    struct fan_gap gap;
    char after_place[FAN__LINE_SIZE];

    struct fan__mutex lock; /* covers all that follows */
    struct fan__queue queue;
    uint64_t lapped_seq; /* of the slot at its position, or a lower one, with FAN__PLACE_LAPPED */
    uint64_t parked_at;  /* the lane's position, when its queue was full for a while */
    bool parked;
    bool replacing; /* what was taken out of the queue is replaced when the turn ends */
    unsigned lost_in_a_row;
    uint64_t dropped;
    uint64_t conflated;
    uint64_t queued_max;

    atomic_size_t held_size;  /* bytes of what is queued or lent */
    atomic_size_t array_size; /* and of the queue's array; written with its lock */
    atomic_bool asked;        /* it is among those the lane is to attend to */
    struct fan_subscription *asked_next;

    atomic_uint sleep_word;      /* 1 while the reader sleeps */
    struct fan__link chain_link; /* covered by the bus's chain lock */

    bool registered; /* with the cancel token */
    struct fan__cancel_entry cancel;
};

static inline bool fan__bus_forked(const struct fan_bus *bus)
{
    return bus->fork_generation != fan__fork_generation_now();
}

/* The mutex and the turn (turn.h), for everybody but publishers. */
void fan__bus_enter(struct fan_bus *bus);
void fan__bus_leave(struct fan_bus *bus);

/* The same, where nobody turned readable: the bus may be gone once the mutex is free. */
void fan__bus_let_go(struct fan_bus *bus);

/* Waits until its wake, if one is under way, has returned. Between enter and leave. */
void fan__bus_await_wake(struct fan_subscription *subscription);

/* Notes a subscription that turned readable, to be told when the turn ends. In the turn. */
void fan__subscription_touch(struct fan_subscription *subscription);

/* Notes those on the lane who want to be told that it has something. In the turn. */
static inline void fan__lane_touch(struct fan__lane *lane)
{
    while (!fan__link_alone(&lane->armed))
        fan__subscription_touch(FAN__HOLDER(lane->armed.next, struct fan_subscription, armed_link));
}

/* After a sleep: takes itself out of the chain, and wakes the next in it. */
void fan__chain_go_on(struct fan_subscription *subscription);

/* Frees the bus when nobody holds it any more. Takes the lock; the bus is gone after it. */
void fan__bus_drop(struct fan_bus *bus);

void fan__gate_wake(struct fan_bus *bus);

/*
 * Lets publishers at the gate look again. Whoever made room did so by a seq_cst operation or under
 * a lock that the waiting publisher takes when it looks.
 */
static inline void fan__bus_open_gate(struct fan_bus *bus)
{
    /* seq_cst: see fan_bus's gate in publish.c. */
    if (atomic_load_explicit(&bus->gate_waiter_count, memory_order_seq_cst) > 0)
        fan__gate_wake(bus);
}

/* Adds what one subscription counted. */
void fan__counters_add(struct fan_bus_counters *sum,
                       const struct fan_subscription_counters *counters);

/* Counts bytes that were taken into use. In the turn. */
void fan__bus_hold(struct fan_bus *bus, size_t size);

/* Lets go of a block; any thread. */
void fan__bus_release(struct fan_bus *bus, struct fan__block *block);

/* Lets go of a segment; any thread. */
void fan__bus_release_segment(struct fan_bus *bus, struct fan__segment *segment);

/* What a read would return now: FAN_OK, FAN_GAP, FAN_AGAIN or FAN_CLOSED. In the turn. */
enum fan_status fan__subscription_peek(struct fan_subscription *subscription);

/* Brings descriptor, sleeper and wake in line with what a read would return now. In the turn. */
void fan__subscription_settle(struct fan_subscription *subscription);

/* All that it counted so far. In the turn. */
void fan__subscription_count(struct fan_subscription *subscription,
                             struct fan_subscription_counters *ret_counters);

/* Takes it off what publishing looks at. Does nothing when that is done already. In the turn. */
void fan__subscription_end(struct fan_subscription *subscription);

/* Lets go of a block that was taken out of its queue or lent. */
void fan__subscription_release(struct fan_subscription *subscription, struct fan__block *block);

/* Counts the bytes of its queue's array in the budget; with its lock, after they changed. */
void fan__subscription_charge(struct fan_subscription *subscription);

/* Gives its queue's array back when that is empty, also a small one if `all`; with its lock. */
void fan__subscription_trim(struct fan_subscription *subscription, bool all);

/*
 * Gives the bytes that the budget has room for. Where those are fewer than `size`, and than the
 * subscription's share leaves it, those above their share lose first. In the turn.
 */
size_t fan__subscription_make_way(const struct fan_subscription *subscription, size_t size);

/* Lets go of a segment that its queue has used up; with its lock. */
void fan__subscription_release_used_up(struct fan_subscription *subscription);

/* Takes back what was lent to its reader. */
void fan__subscription_take_back(struct fan_subscription *subscription);

/* Counts what a parked subscription lost; in the turn, with its lock. */
void fan__subscription_fold(struct fan_subscription *subscription);

/* What publishing does to the subscriptions with queues, in the turn (deliver.c). */
enum fan__verdict {
    FAN__KEEP,
    FAN__LOSE,
    FAN__WAIT,
    FAN__NO_MEMORY,
};
enum fan__verdict fan__subscription_prepare(struct fan_subscription *subscription,
                                            size_t block_size, bool may_wait);
void fan__subscription_give(struct fan_subscription *subscription, struct fan__block *block,
                            uint64_t seq);

#endif
