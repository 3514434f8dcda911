/* A linked list over an array of slots, with losses merged into the slot behind them. */
#include "bus/queue.h"

#include "base/env.h"

#include <assert.h>
#include <string.h>

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
    queue->slots = fan__alloc(env, count_max * sizeof(*queue->slots));
    if (!queue->slots)
        return FAN_NO_MEMORY;
    if (keyed) {
        uint32_t bucket_count = 1;
        while (bucket_count < count_max)
            bucket_count *= 2;
        queue->buckets = fan__alloc(env, bucket_count * sizeof(*queue->buckets));
        if (!queue->buckets) {
            fan__queue_deinit(queue, env);
            return FAN_NO_MEMORY;
        }
        memset(queue->buckets, 0xff, bucket_count * sizeof(*queue->buckets));
        queue->bucket_mask = bucket_count - 1;
    }
    return FAN_OK;
}

void fan__queue_deinit(struct fan__queue *queue, const struct fan_env *env)
{
    assert(queue->count == 0);
    fan__free(env, queue->slots);
    fan__free(env, queue->buckets);
    *queue = (struct fan__queue){ .count_max = 0 };
}

bool fan__queue_full(const struct fan__queue *queue)
{
    return queue->count == queue->count_max;
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
    if (index == FAN__SLOT_NONE)
        return queue->touched++;
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

struct fan__block *fan__queue_pop(struct fan__queue *queue)
{
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

struct fan__block *fan__queue_drop_first(struct fan__queue *queue)
{
    return drop(queue, queue->first);
}

struct fan__block *fan__queue_drop_last(struct fan__queue *queue)
{
    return drop(queue, queue->last);
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

const struct fan__loss *fan__queue_loss(const struct fan__queue *queue)
{
    return queue->count > 0 ? &queue->slots[queue->first].loss : &queue->loss;
}

void fan__queue_clear_loss(struct fan__queue *queue)
{
    *(queue->count > 0 ? &queue->slots[queue->first].loss : &queue->loss) =
        (struct fan__loss){ .count = 0 };
}
