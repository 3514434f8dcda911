/*
 * A lane: what everybody with the same filter wants, in order, numbered by position from 0.
 *
 *     position   ... 4   5   6   7   8                       tail = 9
 *     ring         [ 4 | 5 | 6 | 7 | 8 |   |   | ... ]       (a power of two of slots)
 *                        ^           ^
 *                    a reader     another: a reader is a position
 *
 * A message is written once, however many read it. A reader copies the slot out, and then moves its
 * place by compare-and-swap, which fails when the place was marked meanwhile; nobody's slot is
 * overwritten before its place is marked. One who makes the publisher wait need not copy: he says
 * from where on slots are lent to him (lent_from) before he moves his place, and reads them in the
 * ring; he takes that back when he asks for more. A slot also has a stamp, which is odd while it is
 * being written and names the position afterwards: who is marked looks at it before and after the
 * copy. Who fails at either starts over, so it never returns what was overwritten.
 *
 * The ring holds at least twice the buffer of every reader on it. `gate` is the position at which
 * somebody will be full (or overwritten), so that up to there a publish looks at no reader. There,
 *     drop_oldest   is marked as lapped; it will find out how many it lost by subtraction
 *     drop_newest   is moved to a queue of its own: its share of the ring becomes a segment, shared
 *                   by all who are moved with it. It comes back when it has read its queue to the
 *                   end. Who stays full is parked: publishing forgets it, and what it lost is
 *                   counted by subtraction
 *     block         makes the publisher wait
 * Only the slow cost anything. The gate also keeps what is lent to one on the ring: it is at most a
 * buffer's worth behind his place. When his place is taken from him, or he has ended, the gate goes
 * by lent_from; where it is reached, all others leave the ring until he has read that.
 *
 * A lane gets its ring with the first message for it that fits a slot, so that filters for which
 * nothing comes take none. One past the number or the bytes that rings may take, and readers with
 * FAN_POLICY_LATEST, use queues of references alone.
 */
#ifndef FAN_BUS_LANE_H
#define FAN_BUS_LANE_H

#include "bus/block.h"
#include "bus/link.h"

#include <stdatomic.h>

struct fan__lent;

#define FAN__LINE_SIZE 64 /* of the processor's cache, at least */
#define FAN__RING_COUNT_MAX 64
#define FAN__RING_SLOTS_MIN 64
#define FAN__SLOT_SIZE_DEFAULT 128
#define FAN__SLOT_SIZE_MAX 4096
/* After a message that was too large for a slot, a lane uses queues for so many more. */
#define FAN__LANE_QUEUED_COUNT 256

#define FAN__LINE_WORDS (FAN__LINE_SIZE / sizeof(uint64_t))

/* The words of a slot, which is whole lines (slot.h). */
enum { FAN__SLOT_STAMP, FAN__SLOT_SEQ, FAN__SLOT_TIME, FAN__SLOT_SIZES, FAN__SLOT_DATA };

/* The bytes of data in a slot: all but the head, and a word in each further line. */
static inline size_t fan__slot_room(size_t slot_words)
{
    size_t further_lines = slot_words / FAN__LINE_WORDS - 1;
    return (slot_words - FAN__SLOT_DATA - further_lines) * sizeof(uint64_t);
}

/* A copy of a part of the ring, for readers that were moved off it. Does not change. */
struct fan__segment {
    atomic_size_t holders;
    size_t size;
    uint64_t start;
    uint64_t end;
    size_t slot_words;
    uint64_t words[];
};

struct fan__lane {
    struct fan_bus *bus;
    struct fan__topic *topic;  /* while it is on a list; NULL without */
    struct fan__topic *prefix; /* the same, of what its pattern begins with */
    uint64_t kind_mask;
    char *pattern; /* NULL where every type matches, or where kind_mask has it */
    struct fan__lane **list;
    struct fan__lane *next;
    struct fan__lane *previous;
    struct fan__lane *match_next;
    size_t holders;          /* subscriptions until they are freed */
    size_t live;             /* that have not ended */
    struct fan__link ringed; /* on the ring, looked after by the gate */
    struct fan__link lapped; /* on the ring, and not */
    struct fan__link queued;
    struct fan__link lending; /* off the ring, with slots that are lent still */
    struct fan__link armed;

    char before_gate[FAN__LINE_SIZE];
    uint64_t gate;
    uint64_t last_seq;
    char after_gate[FAN__LINE_SIZE];

    size_t slot_count; /* of the ring that it has or is to get; 0: none */

    /* Read by readers on the ring, written when it is made. */
    uint64_t mask;
    uint64_t capacity; /* 0: no ring */
    size_t slot_words;
    void *memory;
    atomic_uint_least64_t *slots;

    char before_tail[FAN__LINE_SIZE];
    atomic_uint_least64_t tail; /* positions below it are there */
    char after_tail[FAN__LINE_SIZE];
    atomic_uint_least64_t queued_until;       /* no reader comes to the ring before this position */
    _Atomic(struct fan_subscription *) asked; /* readers that want attention */
};

/* What a subscription wants. */
struct fan__filter {
    const char *topic;   /* NULL for every topic */
    const char *pattern; /* NULL where every type matches, or where kind_mask has it */
    uint64_t kind_mask;
    size_t buffer_count;
    bool want_ring;
};

/* Finds or makes the lane for a filter, in the turn, and counts a holder. NULL without memory. */
struct fan__lane *fan__lane_get(struct fan_bus *bus, const struct fan__filter *filter);

/* Undoes one holder; the last frees it. */
void fan__lane_drop(struct fan__lane *lane);

/* One subscription less that is live; without any, publishing finds the lane no more. */
void fan__lane_retire(struct fan__lane *lane);

/* Makes the ring that it is to get, unless it may not; without memory, when it is asked again. */
void fan__lane_begin_ring(struct fan__lane *lane);

/* Puts a live subscription on the ring if it may be there, else among those with a queue. */
void fan__lane_join(struct fan__lane *lane, struct fan_subscription *subscription);

/* Does what readers asked for since. In the turn. */
void fan__lane_attend(struct fan__lane *lane);

/* Asks for it. Any reader. */
void fan__lane_ask(struct fan__lane *lane, struct fan_subscription *subscription);

/* Whether anybody reads from the ring, so that it must be written. */
static inline bool fan__lane_on_ring(const struct fan__lane *lane)
{
    return !fan__link_alone(&lane->ringed) || !fan__link_alone(&lane->lapped);
}

/*
 * Sees to it that one more message may be written: FAN_TIMED_OUT when a reader that blocks has no
 * room and may_wait, FAN_NO_MEMORY unless `must`: then readers lose instead. `large`: the message
 * will come by reference, so nobody may stay on the ring.
 */
enum fan_status fan__lane_look(struct fan__lane *lane, bool large, bool may_wait, bool must);

static inline enum fan_status fan__lane_pass(struct fan__lane *lane, bool large, bool may_wait,
                                             bool must)
{
    /*
     * relaxed: a reader that asks later is seen by the next turn, and only the turn moves the tail.
     */
    bool asked = atomic_load_explicit(&lane->asked, memory_order_relaxed) != NULL;
    bool at_gate = large || atomic_load_explicit(&lane->tail, memory_order_relaxed) >= lane->gate;
    if (!asked && (!at_gate || !fan__lane_on_ring(lane)))
        return FAN_OK;
    return fan__lane_look(lane, large, may_wait, must);
}

/* Lowers the gate for one who is on the ring and has ended. */
void fan__lane_mind(struct fan__lane *lane, struct fan_subscription *subscription);

/* Lowers it for one whose place was taken, as long as slots are lent to its reader. */
void fan__lane_keep_lent(struct fan__lane *lane, struct fan_subscription *subscription);

/* slot.c; writing is in slot.h. */
bool fan__slot_fits(const struct fan_bus *bus, const struct fan__draft *draft);
/* The bytes of its texts, and what is below the payload's size in the word of sizes. */
size_t fan__text_bytes(const struct fan_bus *bus, const struct fan__draft *draft);
uint32_t fan__text_sizes(const struct fan_bus *bus, const struct fan__draft *draft);
/* Copies messages that are there as long as the reader's place is what it was. */
void fan__slots_copy(const struct fan__lane *lane, uint64_t position, size_t count,
                     struct fan__lent *lent, uint64_t *words);
/* The same, but data that are in one piece are not copied, and their lines not yet touched. */
void fan__slots_lend(const struct fan__lane *lane, uint64_t position, size_t count,
                     struct fan__lent *lent, uint64_t *words);
/* Touches those, when they have been read. */
void fan__slots_touch(const struct fan__lane *lane, uint64_t position, size_t count,
                      const struct fan__lent *lent);
/* Copies messages from a position on; gives how many were still there. */
size_t fan__slots_read(const struct fan__lane *lane, uint64_t position, size_t count,
                       struct fan__lent *lent, uint64_t *words);
/* The sequence alone; false when the slot is not (any more) that of the position. */
bool fan__slot_seq(const struct fan__lane *lane, uint64_t position, uint64_t *ret_seq);
/* Lends a message out of the words of its slot. */
void fan__words_lend(const struct fan_bus *bus, const uint64_t *slot, struct fan__lent *lent,
                     uint64_t *words);
struct fan__segment *fan__segment_new(const struct fan__lane *lane, uint64_t start, uint64_t end);

#endif
