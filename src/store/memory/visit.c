/*
 * Snapshots: measured, then allocated once for the items and once for their texts, then filled.
 * Nothing changes between the two walks, as the caller holds the lock.
 */
#include "base/env.h"
#include "store/memory/group.h"

#include <string.h>

/* About how many dead letters one snapshot holds. */
#define PAGE_COUNT 256

struct filling {
    struct fan__snapshot snapshot;
    size_t text_size;
    size_t text_used;
};

static void measure_text(struct filling *filling, const char *text)
{
    filling->text_size += text ? strlen(text) + 1 : 1;
}

static const char *put_text(struct filling *filling, const char *text)
{
    char *place = filling->snapshot.texts + filling->text_used;
    size_t size = text ? strlen(text) + 1 : 1;
    memcpy(place, text ? text : "", size);
    filling->text_used += size;
    return place;
}

static bool allocate(const struct fan__memory *memory, struct filling *filling, size_t item_size)
{
    struct fan__snapshot *snapshot = &filling->snapshot;
    if (snapshot->count == 0)
        return true;
    snapshot->items = fan__alloc_zero(memory->env, snapshot->count, item_size);
    snapshot->texts = fan__alloc(memory->env, filling->text_size);
    if (snapshot->items && snapshot->texts) {
        snapshot->count = 0;
        return true;
    }
    fan__memory_snapshot_deinit(memory, snapshot);
    return false;
}

void fan__memory_snapshot_deinit(const struct fan__memory *memory, struct fan__snapshot *snapshot)
{
    fan__free(memory->env, snapshot->items);
    fan__free(memory->env, snapshot->texts);
    *snapshot = (struct fan__snapshot){ 0 };
}

static const char *owner_of(const struct fan__delivery *delivery)
{
    return delivery->status == FAN_EVENT_PROCESSING ? delivery->owner->name : NULL;
}

static void measure_delivery(struct filling *filling, const struct fan__delivery *delivery)
{
    filling->snapshot.count++;
    measure_text(filling, delivery->group->group);
    measure_text(filling, delivery->group->handler);
    measure_text(filling, owner_of(delivery));
    measure_text(filling, delivery->error);
}

static void put_delivery(struct filling *filling, const struct fan__delivery *delivery)
{
    struct fan_delivery *items = filling->snapshot.items;
    items[filling->snapshot.count++] = (struct fan_delivery){
        .size = sizeof(struct fan_delivery),
        .group = put_text(filling, delivery->group->group),
        .handler = put_text(filling, delivery->group->handler),
        .seq = delivery->record->seq,
        .status = delivery->status,
        .attempts = delivery->attempts,
        .owner = put_text(filling, owner_of(delivery)),
        .error = put_text(filling, delivery->error),
        .due_us = delivery->due_us,
        .processed_us = delivery->processed_us,
        .completed_us = delivery->completed_us,
        .reason = delivery->reason,
        .lapses = delivery->lapses,
    };
}

static void each_delivery(struct filling *filling, const struct fan__record *record, bool dead,
                          void (*see)(struct filling *, const struct fan__delivery *))
{
    for (const struct fan__delivery *d = record->deliveries; d; d = d->next_of_event) {
        if (!dead || d->status == FAN_EVENT_FAILED)
            see(filling, d);
    }
}

enum fan_status fan__memory_snapshot_deliveries(const struct fan__memory *memory, uint64_t seq,
                                                uint64_t *after_seq,
                                                struct fan__snapshot *ret_snapshot)
{
    bool dead = seq == 0;
    struct filling filling = { 0 };
    size_t first = fan__memory_index_after(memory, dead ? *after_seq : seq - 1);
    size_t end = first;
    uint64_t last_seq = FAN_SEQ_MAX;
    for (; end < memory->entry_end; end++) {
        const struct fan__entry *entry = &memory->entries[end];
        if (!dead && entry->seq != seq)
            break;
        if (filling.snapshot.count >= PAGE_COUNT) {
            last_seq = entry->seq - 1;
            break;
        }
        if (entry->record)
            each_delivery(&filling, entry->record, dead, measure_delivery);
    }
    if (!allocate(memory, &filling, sizeof(struct fan_delivery)))
        return FAN_NO_MEMORY;
    for (size_t i = first; i < end; i++) {
        if (memory->entries[i].record)
            each_delivery(&filling, memory->entries[i].record, dead, put_delivery);
    }
    *after_seq = last_seq;
    *ret_snapshot = filling.snapshot;
    return FAN_OK;
}

/* The created time of the first event that the group is owed. */
static int64_t oldest_us_of(const struct fan__memory *memory, const struct fan__memory_group *group)
{
    for (size_t i = memory->entry_first; i < memory->entry_end; i++) {
        const struct fan__record *record = memory->entries[i].record;
        if (!record)
            continue;
        const struct fan__delivery *delivery = fan__memory_delivery_find(record, group);
        bool owed =
            delivery ? delivery->status < FAN_EVENT_COMPLETED
                     : record->seq > group->cursor_seq && fan__memory_wants(group, record->event);
        if (owed)
            return fan_event_created_us(record->event);
    }
    return 0;
}

static void put_group(const struct fan__memory *memory, struct filling *filling,
                      const struct fan__memory_group *group)
{
    struct fan_group_stats *items = filling->snapshot.items;
    struct fan_group_stats stats = {
        .size = sizeof(stats),
        .group = put_text(filling, group->group),
        .handler = put_text(filling, group->handler),
        .pattern = put_text(filling, group->pattern),
        .cursor_seq = group->cursor_seq,
        .pending = group->counts[FAN_EVENT_PENDING],
        .processing = group->counts[FAN_EVENT_PROCESSING],
        .completed = group->counts[FAN_EVENT_COMPLETED],
        .failed = group->counts[FAN_EVENT_FAILED],
        .joined_us = group->joined_us,
    };
    size_t first = fan__memory_index_after(memory, group->cursor_seq);
    for (size_t i = first; i < memory->entry_end; i++) {
        const struct fan__record *record = memory->entries[i].record;
        if (!record)
            continue;
        stats.lag++;
        if (fan__memory_wants(group, record->event) && !fan__memory_delivery_find(record, group))
            stats.pending++;
    }
    if (stats.pending + stats.processing > 0)
        stats.oldest_us = oldest_us_of(memory, group);
    items[filling->snapshot.count++] = stats;
}

enum fan_status fan__memory_snapshot_groups(const struct fan__memory *memory,
                                            struct fan__snapshot *ret_snapshot)
{
    struct filling filling = { .snapshot.count = memory->group_count };
    for (size_t i = 0; i < memory->group_count; i++) {
        measure_text(&filling, memory->groups[i]->group);
        measure_text(&filling, memory->groups[i]->handler);
        measure_text(&filling, memory->groups[i]->pattern);
    }
    if (!allocate(memory, &filling, sizeof(struct fan_group_stats)))
        return FAN_NO_MEMORY;
    for (size_t i = 0; i < memory->group_count; i++)
        put_group(memory, &filling, memory->groups[i]);
    *ret_snapshot = filling.snapshot;
    return FAN_OK;
}
