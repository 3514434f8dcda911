/*
 * A linked list over an array of slots, with losses merged into the slot behind them, and a segment
 * in front of it.
 */
#include "bus/queue.h"

#include "base/env.h"
#include "bus/lane.h"

#include <assert.h>
#include <string.h>

#define CAPACITY_MIN 16

enum fan_status fan__queue_init(struct fan__queue *queue, const struct fan_env *env,
                                size_t count_max, bool keyed)
{
    assert(count_max > 0 && count_max <= FAN__QUEUE_COUNT_MAX);
    *queue = (struct fan__queue){
        .count_max = (uint32_t)count_max,
        .first = FAN__SLOT_NONE,
        .last = FAN__SLOT_NONE,
        .free = FAN__SLOT_NONE,
    };
    if (!keyed)
        return FAN_OK;
    uint32_t bucket_count = 1;
    while (bucket_count < count_max)
        bucket_count *= 2;
    queue->capacity = queue->count_max;
    queue->slots = fan__alloc(env, count_max * sizeof(*queue->slots));
    queue->buckets = fan__alloc(env, bucket_count * sizeof(*queue->buckets));
    if (!queue->slots || !queue->buckets) {
        fan__queue_deinit(queue, env);
        return FAN_NO_MEMORY;
    }
    memset(queue->buckets, 0xff, bucket_count * sizeof(*queue->buckets));
    queue->bucket_mask = bucket_count - 1;
    return FAN_OK;
}

void fan__queue_deinit(struct fan__queue *queue, const struct fan_env *env)
{
    assert(queue->count == 0 && !queue->segment);
    fan__free(env, queue->slots);
    fan__free(env, queue->buckets);
    *queue = (struct fan__queue){ .count_max = 0 };
}

size_t fan__queue_count(const struct fan__queue *queue)
{
    return queue->count + (size_t)(queue->end - queue->at);
}

bool fan__queue_full(const struct fan__queue *queue)
{
    return fan__queue_count(queue) >= queue->count_max;
}

size_t fan__queue_size(const struct fan__queue *queue)
{
    size_t table = queue->buckets ? (queue->bucket_mask + (size_t)1) * sizeof(*queue->buckets) : 0;
    return queue->capacity * sizeof(*queue->slots) + table;
}

/* What the array must have room for when one more is pushed. */
static uint32_t capacity_wanted(const struct fan__queue *queue)
{
    if (queue->free != FAN__SLOT_NONE || queue->touched < queue->capacity ||
        queue->count == queue->count_max)
        return queue->capacity;
    uint32_t capacity = queue->capacity > 0 ? queue->capacity * 2 : CAPACITY_MIN;
    return capacity < queue->count_max ? capacity : queue->count_max;
}

size_t fan__queue_growth(const struct fan__queue *queue)
{
    return (capacity_wanted(queue) - queue->capacity) * sizeof(*queue->slots);
}

void fan__queue_trim(struct fan__queue *queue, const struct fan_env *env, bool all)
{
    if (queue->count > 0 || queue->buckets || (queue->capacity <= CAPACITY_MIN && !all))
        return;
    fan__free(env, queue->slots);
    queue->slots = NULL;
    queue->capacity = 0;
    queue->touched = 0;
    queue->free = FAN__SLOT_NONE;
}

enum fan_status fan__queue_reserve(struct fan__queue *queue, const struct fan_env *env)
{
    uint32_t capacity = capacity_wanted(queue);
    if (capacity == queue->capacity)
        return FAN_OK;
    struct fan__slot *slots = fan__resize(env, queue->slots, capacity * sizeof(*slots));
    if (!slots)
        return FAN_NO_MEMORY;
    queue->slots = slots;
    queue->capacity = capacity;
    return FAN_OK;
}

/* Puts the earlier loss in front of `later`. */
static void merge(struct fan__loss *later, const struct fan__loss *earlier)
{
    if (earlier->count == 0)
        return;
    if (later->count == 0)
        later->last = earlier->last;
    later->first = earlier->first;
    later->count += earlier->count;
}

static uint32_t *bucket_of(struct fan__queue *queue, const struct fan__block *block)
{
    return &queue->buckets[block->key & queue->bucket_mask];
}

static uint32_t take_free_slot(struct fan__queue *queue)
{
    uint32_t index = queue->free;
    if (index == FAN__SLOT_NONE) {
        assert(queue->touched < queue->capacity);
        return queue->touched++;
    }
    queue->free = queue->slots[index].next;
    return index;
}

void fan__queue_push(struct fan__queue *queue, struct fan__block *block)
{
    assert(!fan__queue_full(queue));
    uint32_t index = take_free_slot(queue);
    struct fan__slot *slot = &queue->slots[index];
    *slot = (struct fan__slot){ .block = block,
                                .loss = queue->loss,
                                .previous = queue->last,
                                .next = FAN__SLOT_NONE,
                                .chain = FAN__SLOT_NONE };
    queue->loss = (struct fan__loss){ .count = 0 };
    if (queue->last == FAN__SLOT_NONE)
        queue->first = index;
    else
        queue->slots[queue->last].next = index;
    queue->last = index;
    queue->count++;
    if (queue->buckets) {
        uint32_t *bucket = bucket_of(queue, block);
        slot->chain = *bucket;
        *bucket = index;
    }
}

/* Takes a slot out; its loss moves on to what follows it. */
static struct fan__block *take_out(struct fan__queue *queue, uint32_t index)
{
    struct fan__slot *slot = &queue->slots[index];
    bool is_last = slot->next == FAN__SLOT_NONE;
    merge(is_last ? &queue->loss : &queue->slots[slot->next].loss, &slot->loss);
    if (queue->buckets) {
        uint32_t *link = bucket_of(queue, slot->block);
        while (*link != index)
            link = &queue->slots[*link].chain;
        *link = slot->chain;
    }
    if (slot->previous == FAN__SLOT_NONE)
        queue->first = slot->next;
    else
        queue->slots[slot->previous].next = slot->next;
    if (is_last)
        queue->last = slot->previous;
    else
        queue->slots[slot->next].previous = slot->previous;
    slot->next = queue->free;
    queue->free = index;
    queue->count--;
    return slot->block;
}

/* The loss before the first block, or behind all. */
static struct fan__loss *block_loss(struct fan__queue *queue)
{
    return queue->count > 0 ? &queue->slots[queue->first].loss : &queue->loss;
}

void fan__queue_begin(struct fan__queue *queue, const struct fan__loss *loss,
                      struct fan__segment *segment, uint64_t at, uint64_t end)
{
    assert(fan__queue_count(queue) == 0 && queue->loss.count == 0 && !queue->segment);
    queue->segment = segment;
    if (!segment) {
        queue->loss = *loss;
        return;
    }
    queue->front = *loss;
    queue->at = at;
    queue->end = end;
}

const uint64_t *fan__queue_words(const struct fan__queue *queue)
{
    const struct fan__segment *segment = queue->segment;
    if (queue->at == queue->end)
        return NULL;
    return segment->words + (queue->at - segment->start) * segment->slot_words;
}

void fan__queue_pop_words(struct fan__queue *queue, size_t count)
{
    assert(count <= queue->end - queue->at && queue->front.count == 0);
    queue->at += count;
}

struct fan__segment *fan__queue_used_up(struct fan__queue *queue)
{
    struct fan__segment *segment = queue->segment;
    if (queue->at < queue->end)
        return NULL;
    queue->segment = NULL;
    merge(block_loss(queue), &queue->front);
    queue->front = (struct fan__loss){ .count = 0 };
    return segment;
}

struct fan__block *fan__queue_pop(struct fan__queue *queue)
{
    assert(queue->at == queue->end);
    if (queue->count == 0)
        return NULL;
    assert(queue->slots[queue->first].loss.count == 0);
    return take_out(queue, queue->first);
}

/* Adds the slot's own block to the loss before it, which then moves on with it. */
static struct fan__block *drop(struct fan__queue *queue, uint32_t index)
{
    struct fan__loss *loss = &queue->slots[index].loss;
    uint64_t seq = queue->slots[index].block->message.seq;
    struct fan__loss own = { .first = seq, .last = seq, .count = 1 };
    merge(&own, loss);
    *loss = own;
    return take_out(queue, index);
}

/* The loss of one message of the segment. */
static struct fan__loss loss_of(const struct fan__segment *segment, uint64_t position)
{
    uint64_t seq =
        segment->words[(position - segment->start) * segment->slot_words + FAN__SLOT_SEQ];
    return (struct fan__loss){ .first = seq, .last = seq, .count = 1 };
}

struct fan__block *fan__queue_drop_first(struct fan__queue *queue)
{
    if (queue->at == queue->end)
        return drop(queue, queue->first);
    struct fan__loss own = loss_of(queue->segment, queue->at++);
    merge(&own, &queue->front);
    queue->front = own;
    return NULL;
}

struct fan__block *fan__queue_drop_last(struct fan__queue *queue)
{
    if (queue->count > 0)
        return drop(queue, queue->last);
    struct fan__loss own = loss_of(queue->segment, --queue->end);
    merge(&queue->loss, &own);
    return NULL;
}

struct fan__block *fan__queue_conflate(struct fan__queue *queue, const struct fan__block *block)
{
    uint32_t index = *bucket_of(queue, block);
    while (index != FAN__SLOT_NONE && !fan__block_same_key(queue->slots[index].block, block))
        index = queue->slots[index].chain;
    return index == FAN__SLOT_NONE ? NULL : take_out(queue, index);
}

void fan__queue_lose(struct fan__queue *queue, uint64_t seq)
{
    if (queue->loss.count == 0)
        queue->loss.first = seq;
    queue->loss.last = seq;
    queue->loss.count++;
}

void fan__queue_add_loss(struct fan__queue *queue, const struct fan__loss *loss)
{
    assert(queue->loss.count == 0 || loss->count == 0);
    if (loss->count > 0)
        queue->loss = *loss;
}

void fan__queue_lose_more(struct fan__queue *queue, uint64_t last, uint64_t count)
{
    assert(queue->loss.count > 0);
    queue->loss.last = last;
    queue->loss.count += count;
}

const struct fan__loss *fan__queue_loss(const struct fan__queue *queue)
{
    if (queue->at < queue->end)
        return &queue->front;
    return queue->count > 0 ? &queue->slots[queue->first].loss : &queue->loss;
}

void fan__queue_clear_loss(struct fan__queue *queue)
{
    *(queue->at < queue->end ? &queue->front : block_loss(queue)) =
        (struct fan__loss){ .count = 0 };
}
