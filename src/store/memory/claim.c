/*
 * Claiming: half of it what is due already, half event by event from the group's cursor, and where
 * one of the two ends the other goes on. A new event first becomes a pending delivery like any
 * other, so that one path gives all of them.
 */
#include "base/env.h"
#include "store/memory/group.h"

#include <fanfare/batch.h>

#include <string.h>

static struct fan__owner *owner_ref(struct fan__memory *memory, const char *name)
{
    uint64_t hash = fan__memory_hash(memory, name);
    struct fan__owner *owner = NULL;
    struct fan__table_node *node = fan__table_first(&memory->owners, hash);
    for (; node && !owner; node = fan__table_next(node)) {
        if (strcmp(((struct fan__owner *)(void *)node)->name, name) == 0)
            owner = (void *)node;
    }
    if (!owner) {
        size_t size = strlen(name) + 1;
        owner = fan__alloc_zero(memory->env, 1, sizeof(*owner) + size);
        if (!owner)
            return NULL;
        memcpy(owner->name, name, size);
        fan__table_add(&memory->owners, &owner->node, hash);
    }
    owner->holders++;
    return owner;
}

void fan__memory_owner_unref(struct fan__memory *memory, struct fan__owner *owner)
{
    if (!owner || --owner->holders > 0)
        return;
    fan__table_remove(&memory->owners, &owner->node);
    fan__free(memory->env, owner);
}

/* One claim under way, with the clock read once. */
struct taking {
    struct fan__memory *memory;
    struct fan__memory_group *group;
    struct fan__owner *owner;
    struct fan_batch *batch;
    struct fan_claim *claims;
    const struct fan_claim_options *options;
    struct fan__delivery *passed; /* over, as they lapsed too often: linked by waiting_next */
    size_t index;
    int64_t now_us;
    int64_t lease_us;
};

static enum fan_status take(struct taking *taking, struct fan__delivery *delivery)
{
    struct fan__memory *memory = taking->memory;
    size_t count = fan_batch_count(taking->batch);
    enum fan_status status = fan_batch_add_event(taking->batch, delivery->record->event);
    if (status != FAN_OK) {
        fan__memory_shift(memory, delivery, FAN_EVENT_PENDING);
        return status;
    }
    fan__memory_owner_unref(memory, delivery->owner);
    delivery->owner = taking->owner;
    taking->owner->holders++;
    delivery->attempts++;
    delivery->lapses += delivery->token != 0;
    delivery->token = ++memory->token_last;
    delivery->processed_us = taking->now_us;
    delivery->due_us = taking->now_us + taking->lease_us;
    fan__memory_shift(memory, delivery, FAN_EVENT_PROCESSING);
    taking->claims[count] = (struct fan_claim){ .seq = delivery->record->seq,
                                                .token = delivery->token,
                                                .attempt = delivery->attempts,
                                                .lapses = delivery->lapses };
    return FAN_OK;
}

/* Expired and redriven before the group came to it: older ones of its key may be still to come. */
static bool is_ahead(const struct fan__memory_group *group, const struct fan__delivery *delivery)
{
    return delivery->key && delivery->record->seq > group->cursor_seq;
}

/* FAN_AGAIN when there is none. */
static enum fan_status take_due(struct taking *taking)
{
    unsigned below = taking->options->lapses_below;
    struct fan__delivery *delivery;
    while ((delivery = fan__memory_next_due(taking->group, taking->owner, taking->now_us))) {
        if ((below == 0 || delivery->lapses + (delivery->token != 0) < below) &&
            !is_ahead(taking->group, delivery))
            return take(taking, delivery);
        delivery->waiting_next = taking->passed;
        taking->passed = delivery;
    }
    return FAN_AGAIN;
}

static void put_back_passed(struct taking *taking)
{
    while (taking->passed) {
        struct fan__delivery *delivery = taking->passed;
        taking->passed = delivery->waiting_next;
        fan__memory_shift(taking->memory, delivery, FAN_EVENT_PENDING);
    }
}

/*
 * Moves the cursor over one event, taking it when the group wants it and may have it.
 *
 * Returns: FAN_AGAIN at the end of the log; FAN_NO_MEMORY, and nothing moved.
 */
static enum fan_status take_new(struct taking *taking)
{
    struct fan__memory *memory = taking->memory;
    struct fan__memory_group *group = taking->group;
    while (taking->index < memory->entry_end && !memory->entries[taking->index].record)
        taking->index++;
    if (taking->index == memory->entry_end) {
        group->cursor_seq = memory->head_seq;
        return FAN_AGAIN;
    }
    struct fan__record *record = memory->entries[taking->index++].record;
    if (!fan__memory_wants(group, record->event) || fan__memory_delivery_find(record, group)) {
        group->cursor_seq = record->seq;
        fan__memory_consider(memory, record);
        return FAN_OK;
    }
    struct fan__delivery *delivery = fan__memory_delivery_new(memory, group, record);
    if (!delivery)
        return FAN_NO_MEMORY;
    group->cursor_seq = record->seq;
    int64_t deliver_at_us = fan_event_deliver_at_us(record->event);
    delivery->due_us = deliver_at_us > taking->now_us ? deliver_at_us : taking->now_us;
    fan__memory_shift(memory, delivery, FAN_EVENT_PENDING);
    bool due = fan__memory_pick(delivery, taking->owner, taking->now_us);
    return due ? take(taking, delivery) : FAN_OK;
}

/* Takes by one of the two until there is so much, or there is no more. */
static enum fan_status take_until(struct taking *taking,
                                  enum fan_status (*take_one)(struct taking *taking), size_t count,
                                  size_t size)
{
    enum fan_status status = FAN_OK;
    while (status == FAN_OK && fan_batch_count(taking->batch) < count &&
           fan_batch_size(taking->batch) < size)
        status = take_one(taking);
    return status;
}

static enum fan_status take_all(struct taking *taking)
{
    size_t limit = taking->options->limit;
    struct fan__memory_group *group = taking->group;
    /* The odd one is in turn of either. */
    size_t half = (limit + !group->new_first) / 2;
    enum fan_status status = take_until(taking, take_due, half, FAN__MEMORY_BATCH_SIZE_MAX / 2);
    bool more = status == FAN_OK;
    if (status == FAN_OK || status == FAN_AGAIN)
        group->new_first = fan_batch_count(taking->batch) > 0;
    if (status == FAN_OK || status == FAN_AGAIN)
        status = take_until(taking, take_new, limit, FAN__MEMORY_BATCH_SIZE_MAX);
    if (status == FAN_AGAIN && more)
        status = take_until(taking, take_due, limit, FAN__MEMORY_BATCH_SIZE_MAX);
    put_back_passed(taking);
    /* What was taken is taken; memory that ended after it is the next claim's concern. */
    return fan_batch_count(taking->batch) > 0 ? FAN_OK : status;
}

enum fan_status fan__memory_claim(struct fan__memory *memory, struct fan__memory_group *group,
                                  const struct fan_claim_options *options, struct fan_batch *batch,
                                  struct fan_claim *claims)
{
    if (options->ordered && !fan__memory_order_begin(memory, group))
        return FAN_NO_MEMORY;
    struct fan__owner *owner = owner_ref(memory, options->owner);
    if (!owner)
        return FAN_NO_MEMORY;
    struct taking taking = {
        .memory = memory,
        .group = group,
        .owner = owner,
        .batch = batch,
        .claims = claims,
        .options = options,
        .index = fan__memory_index_after(memory, group->cursor_seq),
        .now_us = fan__memory_now_us(memory),
        .lease_us = (int64_t)options->lease_ms * 1000,
    };
    group->joined_us = taking.now_us;
    enum fan_status status = take_all(&taking);
    fan__memory_owner_unref(memory, owner);
    return status;
}
