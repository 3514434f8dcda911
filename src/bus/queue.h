/*
 * What a subscription that is not on a ring has not read yet: a part of a segment that it was moved
 * off the ring with, then blocks in the order of their sequences, and what was lost between them.
 * Losses stand where they happened, so that the reader hears of them in order:
 *
 *                      first                            last
 *     front|segment    [loss|block] <-> [loss|block] <-> [loss|block]   loss behind the last
 *
 * Slots are one array, linked by index, so that FAN_POLICY_LATEST can take one out of the middle; a
 * keyed queue also has a table from key to slot. The array grows to its bound, at reserve only, and
 * is given back when the queue is empty. Not locked: its subscription's lock covers it. It holds
 * blocks and a segment, but leaves their counting, and that of its array, to its owner.
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

struct fan__segment;

#define FAN__SLOT_NONE UINT32_MAX
#define FAN__QUEUE_COUNT_MAX ((size_t)1 << 24)

struct fan__queue {
    struct fan__slot *slots;
    uint32_t count; /* of blocks */
    uint32_t count_max;
    uint32_t capacity; /* slots allocated so far */
    uint32_t first;
    uint32_t last;
    uint32_t free;
    uint32_t touched; /* slots that were ever used; those above are free without being listed */
    uint32_t *buckets;
    uint32_t bucket_mask;
    struct fan__loss loss; /* behind the last block */
    struct fan__segment *segment;
    uint64_t at; /* positions of the segment, at < end */
    uint64_t end;
    struct fan__loss front; /* before the segment; none without one */
};

/*
 * count_max is 1 to FAN__QUEUE_COUNT_MAX. A keyed queue is as large as it gets at once; another one
 * allocates nothing.
 */
FAN_MUST_CHECK enum fan_status fan__queue_init(struct fan__queue *queue, const struct fan_env *env,
                                               size_t count_max, bool keyed);
/* The queue must be empty. A zeroed one is fine. */
void fan__queue_deinit(struct fan__queue *queue, const struct fan_env *env);

size_t fan__queue_count(const struct fan__queue *queue);
bool fan__queue_full(const struct fan__queue *queue);

/* Bytes of its array and its table. */
size_t fan__queue_size(const struct fan__queue *queue);

/* Bytes more that it wants before one more block can be pushed; 0 where it has a free slot. */
size_t fan__queue_growth(const struct fan__queue *queue);

/* Sees to it that one more block can be pushed, unless the queue is full. */
FAN_MUST_CHECK enum fan_status fan__queue_reserve(struct fan__queue *queue,
                                                  const struct fan_env *env);

/* Frees the array of an empty queue, unless it is small and not `all` is to go, or it is keyed. */
void fan__queue_trim(struct fan__queue *queue, const struct fan_env *env, bool all);

/* Adds a block at the end; there must be room. */
void fan__queue_push(struct fan__queue *queue, struct fan__block *block);

/* Puts a loss, and positions `at` to `end` of a segment (NULL where none), into an empty queue. */
void fan__queue_begin(struct fan__queue *queue, const struct fan__loss *loss,
                      struct fan__segment *segment, uint64_t at, uint64_t end);

/* The words of the segment's messages that are left, one behind the other, or NULL. */
const uint64_t *fan__queue_words(const struct fan__queue *queue);

/* Takes so many of them. The loss before them must have been told. */
void fan__queue_pop_words(struct fan__queue *queue, size_t count);

/* The segment, once it is used up: the caller's from here. NULL else. */
struct fan__segment *fan__queue_used_up(struct fan__queue *queue);

/* Takes the first block, whose loss must have been told, or NULL. No segment may be left. */
struct fan__block *fan__queue_pop(struct fan__queue *queue);

/*
 * Takes out the first or the last message (there is one) and notes it as lost in its place; gives
 * its block, or NULL when it was one of the segment.
 */
struct fan__block *fan__queue_drop_first(struct fan__queue *queue);
struct fan__block *fan__queue_drop_last(struct fan__queue *queue);

/* Keyed queues: takes out the block with the same key without a loss, or gives NULL. */
struct fan__block *fan__queue_conflate(struct fan__queue *queue, const struct fan__block *block);

/* Notes that a message which would have come last is lost. */
void fan__queue_lose(struct fan__queue *queue, uint64_t seq);

/* Notes a loss behind all; none is noted there. */
void fan__queue_add_loss(struct fan__queue *queue, const struct fan__loss *loss);

/* Notes that `count` more are lost, up to `last`, behind one that was noted last. */
void fan__queue_lose_more(struct fan__queue *queue, uint64_t last, uint64_t count);

/* The loss ahead of the next read (count 0: none), and its end once it is told. */
const struct fan__loss *fan__queue_loss(const struct fan__queue *queue);
void fan__queue_clear_loss(struct fan__queue *queue);

#endif
