/*
 * What a subscription has not read yet: blocks in the order of their sequences, and what was lost
 * between them. Losses stand where they happened, so that the reader hears of them in order:
 *
 *     first                            last
 *     [loss|block] <-> [loss|block] <-> [loss|block]   loss behind the last
 *
 * Slots are one array, linked by index, so that FAN_POLICY_LATEST can take one out of the middle; a
 * keyed queue also has a table from key to slot. Bounded: nothing is allocated after init. Not
 * locked: the bus's lock covers it. It holds blocks, but leaves their counting to its owner.
 */
#ifndef FAN_BUS_QUEUE_H
#define FAN_BUS_QUEUE_H

#include "bus/block.h"

/* A run of lost messages: the first and the last that was lost, and how many. count 0: none. */
struct fan__loss {
    uint64_t first;
    uint64_t last;
    uint64_t count;
};

struct fan__slot {
    struct fan__block *block;
    struct fan__loss loss; /* right before this block */
    uint32_t previous;
    uint32_t next;  /* in the queue, or in the list of free slots */
    uint32_t chain; /* the next slot with the same bucket */
};

#define FAN__SLOT_NONE UINT32_MAX
#define FAN__QUEUE_COUNT_MAX ((size_t)1 << 24)

struct fan__queue {
    struct fan__slot *slots;
    uint32_t count;
    uint32_t count_max;
    uint32_t first;
    uint32_t last;
    uint32_t free;
    uint32_t touched; /* slots that were ever used; those above are free without being listed */
    uint32_t *buckets;
    uint32_t bucket_mask;
    struct fan__loss loss; /* behind the last block */
};

/* count_max is 1 to FAN__QUEUE_COUNT_MAX. */
FAN_MUST_CHECK enum fan_status fan__queue_init(struct fan__queue *queue, const struct fan_env *env,
                                               size_t count_max, bool keyed);
/* The queue must be empty. A zeroed one is fine. */
void fan__queue_deinit(struct fan__queue *queue, const struct fan_env *env);

bool fan__queue_full(const struct fan__queue *queue);

/* Adds a block at the end; there must be room. */
void fan__queue_push(struct fan__queue *queue, struct fan__block *block);

/* Takes the first block, whose loss must have been told, or NULL. */
struct fan__block *fan__queue_pop(struct fan__queue *queue);

/* Takes out the first or the last block (there is one) and notes it as lost in its place. */
struct fan__block *fan__queue_drop_first(struct fan__queue *queue);
struct fan__block *fan__queue_drop_last(struct fan__queue *queue);

/* Keyed queues: takes out the block with the same key without a loss, or gives NULL. */
struct fan__block *fan__queue_conflate(struct fan__queue *queue, const struct fan__block *block);

/* Notes that a message which would have come last is lost. */
void fan__queue_lose(struct fan__queue *queue, uint64_t seq);

/* The loss ahead of the next read (count 0: none), and its end once it is told. */
const struct fan__loss *fan__queue_loss(const struct fan__queue *queue);
void fan__queue_clear_loss(struct fan__queue *queue);

#endif
