/*
 * The one place that moves a delivery between its statuses, so that counts, heaps, key queues and
 * partitions always agree. An unordered group has no queues: pending is in the ready heap,
 * processing in the leased one, and that is all.
 */
#include "base/env.h"
#include "store/memory/group.h"

#include <assert.h>
#include <string.h>

static bool is_settled(enum fan_event_status status)
{
    return status == FAN_EVENT_COMPLETED || status == FAN_EVENT_FAILED;
}

static struct fan__delivery *of_due(struct fan__heap_node *node)
{
    return (void *)((char *)node - offsetof(struct fan__delivery, due));
}

static struct fan__partition *partition_of(const struct fan__delivery *delivery)
{
    return &delivery->group->order->partitions[delivery->key->partition];
}

static void make_ready(struct fan__delivery *delivery)
{
    fan__heap_add(&delivery->group->ready, &delivery->due, delivery->due_us, delivery->record->seq);
}

static void set_aside(struct fan__delivery *delivery)
{
    struct fan__partition *partition = partition_of(delivery);
    delivery->waiting = true;
    delivery->waiting_next = partition->waiting;
    partition->waiting = delivery;
}

static void unwait(struct fan__delivery *delivery)
{
    if (!delivery->waiting)
        return;
    struct fan__delivery **at = &partition_of(delivery)->waiting;
    while (*at != delivery)
        at = &(*at)->waiting_next;
    *at = delivery->waiting_next;
    delivery->waiting = false;
}

/* Puts the head of a queue where it can be claimed, if it may be. */
static void promote(struct fan__key *key)
{
    struct fan__delivery *head = key->first;
    if (key->processing == 0 && head->status == FAN_EVENT_PENDING && head->due.place == 0 &&
        !head->waiting)
        make_ready(head);
}

/* The last claim in a partition is gone: what waited for that may be taken by anybody. */
static void partition_end(struct fan__memory *memory, struct fan__partition *partition)
{
    if (--partition->processing > 0)
        return;
    fan__memory_owner_unref(memory, partition->owner);
    partition->owner = NULL;
    while (partition->waiting) {
        struct fan__delivery *delivery = partition->waiting;
        unwait(delivery);
        make_ready(delivery);
    }
}

static void partition_begin(struct fan__partition *partition, struct fan__owner *owner)
{
    if (partition->processing++ > 0)
        return;
    partition->owner = owner;
    owner->holders++;
}

static void leave(struct fan__memory *memory, struct fan__delivery *delivery)
{
    struct fan__memory_group *group = delivery->group;
    if (delivery->status == FAN_EVENT_PROCESSING) {
        fan__heap_remove(&group->leased, &delivery->due);
        if (delivery->key) {
            delivery->key->processing--;
            partition_end(memory, partition_of(delivery));
        }
    } else if (delivery->status == FAN_EVENT_PENDING) {
        fan__heap_remove(&group->ready, &delivery->due);
        unwait(delivery);
    }
    group->counts[delivery->status]--;
}

static void enter(struct fan__delivery *delivery)
{
    struct fan__memory_group *group = delivery->group;
    group->counts[delivery->status]++;
    if (delivery->status == FAN_EVENT_PROCESSING) {
        fan__heap_add(&group->leased, &delivery->due, delivery->due_us, delivery->record->seq);
        if (delivery->key) {
            delivery->key->processing++;
            partition_begin(partition_of(delivery), delivery->owner);
        }
    } else if (delivery->status == FAN_EVENT_PENDING && !delivery->key) {
        make_ready(delivery);
    }
}

static void dequeue(struct fan__memory *memory, struct fan__delivery *delivery)
{
    struct fan__key *key = delivery->key;
    if (!key)
        return;
    if (delivery->key_previous)
        delivery->key_previous->key_next = delivery->key_next;
    else
        key->first = delivery->key_next;
    if (delivery->key_next)
        delivery->key_next->key_previous = delivery->key_previous;
    else
        key->last = delivery->key_previous;
    delivery->key = NULL;
    if (key->first) {
        promote(key);
        return;
    }
    fan__table_remove(&delivery->group->order->keys, &key->node);
    fan__free(memory->env, key);
}

void fan__memory_shift(struct fan__memory *memory, struct fan__delivery *delivery,
                       enum fan_event_status status)
{
    assert(!delivery->group->order || is_settled(status) || delivery->key);
    leave(memory, delivery);
    delivery->status = status;
    enter(delivery);
    if (is_settled(status))
        dequeue(memory, delivery);
    else if (delivery->key)
        promote(delivery->key);
}

void fan__memory_reschedule(struct fan__delivery *delivery, int64_t due_us)
{
    struct fan__memory_group *group = delivery->group;
    struct fan__heap *heap =
        delivery->status == FAN_EVENT_PROCESSING ? &group->leased : &group->ready;
    bool placed = delivery->due.place != 0;
    if (placed)
        fan__heap_remove(heap, &delivery->due);
    delivery->due_us = due_us;
    if (placed)
        fan__heap_add(heap, &delivery->due, due_us, delivery->record->seq);
}

void fan__memory_unplace(struct fan__memory *memory, struct fan__delivery *delivery)
{
    leave(memory, delivery);
    dequeue(memory, delivery);
}

static struct fan__key *key_obtain(struct fan__memory *memory, struct fan__order *order,
                                   const char *name)
{
    uint64_t hash = fan__memory_hash(memory, name);
    struct fan__table_node *node = fan__table_first(&order->keys, hash);
    for (; node; node = fan__table_next(node)) {
        struct fan__key *key = (void *)node;
        if (strcmp(key->name, name) == 0)
            return key;
    }
    size_t size = strlen(name) + 1;
    struct fan__key *key = fan__alloc_zero(memory->env, 1, sizeof(*key) + size);
    if (!key)
        return NULL;
    memcpy(key->name, name, size);
    key->partition = (unsigned)(hash >> 32) % FAN_GROUP_PARTITION_COUNT;
    fan__table_add(&order->keys, &key->node, hash);
    return key;
}

bool fan__memory_queue(struct fan__memory *memory, struct fan__delivery *delivery)
{
    struct fan__order *order = delivery->group->order;
    if (!order || delivery->key)
        return true;
    struct fan__key *key = key_obtain(memory, order, fan_event_topic(delivery->record->event));
    if (!key)
        return false;
    struct fan__delivery *before = key->last;
    while (before && before->record->seq > delivery->record->seq)
        before = before->key_previous;
    struct fan__delivery *after = before ? before->key_next : key->first;
    /* A redriven one may be older than the head, which then may not be taken before it. */
    if (!before && after && after->status == FAN_EVENT_PENDING) {
        fan__heap_remove(&delivery->group->ready, &after->due);
        unwait(after);
    }
    delivery->key = key;
    delivery->key_previous = before;
    delivery->key_next = after;
    if (before)
        before->key_next = delivery;
    else
        key->first = delivery;
    if (after)
        after->key_previous = delivery;
    else
        key->last = delivery;
    return true;
}

void fan__memory_order_free(struct fan__memory *memory, struct fan__order *order)
{
    if (!order)
        return;
    size_t at = 0;
    struct fan__table_node *node;
    while ((node = fan__table_pop(&order->keys, &at)))
        fan__free(memory->env, node);
    fan__table_deinit(&order->keys);
    fan__free(memory->env, order);
}

static struct fan__delivery *unsettled_at(const struct fan__memory *memory, size_t index,
                                          const struct fan__memory_group *group)
{
    const struct fan__record *record = memory->entries[index].record;
    struct fan__delivery *delivery = record ? fan__memory_delivery_find(record, group) : NULL;
    return delivery && !is_settled(delivery->status) ? delivery : NULL;
}

static bool queue_all(struct fan__memory *memory, struct fan__memory_group *group)
{
    for (size_t i = memory->entry_first; i < memory->entry_end; i++) {
        struct fan__delivery *delivery = unsettled_at(memory, i, group);
        if (delivery && !fan__memory_queue(memory, delivery))
            return false;
    }
    return true;
}

bool fan__memory_order_begin(struct fan__memory *memory, struct fan__memory_group *group)
{
    if (group->order)
        return true;
    struct fan__order *order = fan__alloc_zero(memory->env, 1, sizeof(*order));
    if (!order)
        return false;
    if (!fan__table_init(&order->keys, memory->env)) {
        fan__free(memory->env, order);
        return false;
    }
    group->order = order;
    bool whole = queue_all(memory, group);
    for (size_t i = memory->entry_first; i < memory->entry_end; i++) {
        struct fan__delivery *delivery = unsettled_at(memory, i, group);
        if (!delivery)
            continue;
        if (!whole) {
            delivery->key = NULL;
        } else if (delivery->status == FAN_EVENT_PROCESSING) {
            delivery->key->processing++;
            partition_begin(partition_of(delivery), delivery->owner);
        }
    }
    if (!whole) {
        group->order = NULL;
        fan__memory_order_free(memory, order);
        return false;
    }
    /* What was ready of its own now waits behind its key. */
    for (size_t i = memory->entry_first; i < memory->entry_end; i++) {
        struct fan__delivery *delivery = unsettled_at(memory, i, group);
        if (delivery && delivery->status == FAN_EVENT_PENDING &&
            (delivery != delivery->key->first || delivery->key->processing > 0))
            fan__heap_remove(&group->ready, &delivery->due);
    }
    return true;
}

struct fan__delivery *fan__memory_next_due(struct fan__memory_group *group,
                                           const struct fan__owner *owner, int64_t now_us)
{
    for (unsigned i = 0; group->order && i < FAN_GROUP_PARTITION_COUNT; i++) {
        struct fan__partition *partition = &group->order->partitions[i];
        if (partition->owner == owner && partition->waiting) {
            struct fan__delivery *delivery = partition->waiting;
            unwait(delivery);
            return delivery;
        }
    }
    struct fan__heap_node *node;
    while ((node = fan__heap_top(&group->ready)) && node->key <= now_us) {
        fan__heap_remove(&group->ready, node);
        struct fan__delivery *delivery = of_due(node);
        if (!delivery->key || !partition_of(delivery)->owner ||
            partition_of(delivery)->owner == owner)
            return delivery;
        set_aside(delivery);
    }
    return NULL;
}

bool fan__memory_pick(struct fan__delivery *delivery, const struct fan__owner *owner,
                      int64_t now_us)
{
    if (delivery->due.place == 0 || delivery->due_us > now_us)
        return false;
    if (delivery->key && partition_of(delivery)->owner && partition_of(delivery)->owner != owner)
        return false;
    fan__heap_remove(&delivery->group->ready, &delivery->due);
    return true;
}
