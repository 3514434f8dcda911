/*
 * Appending, finding and dropping. An append allocates everything that it may need before it
 * changes anything, so that it is whole or nothing also when memory ends half-way.
 */
#include "store/memory/log.h"

#include "base/env.h"
#include "base/hash.h"
#include "event/event.h"
#include "store/memory/group.h"

#include <string.h>

#define ENTRY_CAPACITY_FIRST 256

uint64_t fan__memory_hash(const struct fan__memory *memory, const char *text)
{
    return fan__hash(memory->hash_seed, text, strlen(text));
}

bool fan__memory_log_init(struct fan__memory *memory)
{
    fan__heap_init(&memory->evictable, memory->env);
    return fan__table_init(&memory->ids, memory->env) &&
           fan__table_init(&memory->topics, memory->env);
}

static void topic_unref(struct fan__memory *memory, struct fan__topic *topic)
{
    if (--topic->holders > 0)
        return;
    fan__table_remove(&memory->topics, &topic->node);
    fan__free(memory->env, topic);
}

static void record_free(struct fan__memory *memory, struct fan__record *record)
{
    if (!record)
        return;
    if (record->topic)
        topic_unref(memory, record->topic);
    fan_event_free(record->event, memory->env);
    fan__free(memory->env, record);
}

void fan__memory_log_deinit(struct fan__memory *memory)
{
    for (size_t i = memory->entry_first; i < memory->entry_end; i++)
        record_free(memory, memory->entries[i].record);
    fan__free(memory->env, memory->entries);
    fan__table_deinit(&memory->ids);
    fan__table_deinit(&memory->topics);
    fan__heap_deinit(&memory->evictable);
}

static struct fan__record *record_of_id(struct fan__table_node *node)
{
    return (void *)((char *)node - offsetof(struct fan__record, by_id));
}

static struct fan__record *record_of_evictable(struct fan__heap_node *node)
{
    return (void *)((char *)node - offsetof(struct fan__record, evictable));
}

static struct fan__record *find_hashed(const struct fan__memory *memory, const char *id,
                                       uint64_t hash)
{
    struct fan__table_node *node = fan__table_first(&memory->ids, hash);
    for (; node; node = fan__table_next(node)) {
        struct fan__record *record = record_of_id(node);
        if (strcmp(fan_event_id(record->event), id) == 0)
            return record;
    }
    return NULL;
}

struct fan__record *fan__memory_find(const struct fan__memory *memory, const char *id)
{
    return find_hashed(memory, id, fan__memory_hash(memory, id));
}

/* The stored event with the id of a record that is not stored yet. */
static struct fan__record *find_same(const struct fan__memory *memory,
                                     const struct fan__record *record)
{
    return find_hashed(memory, fan_event_id(record->event), record->by_id.hash);
}

struct fan__topic *fan__memory_topic(const struct fan__memory *memory, const char *name)
{
    struct fan__table_node *node =
        fan__table_first(&memory->topics, fan__memory_hash(memory, name));
    for (; node; node = fan__table_next(node)) {
        struct fan__topic *topic = (void *)node;
        if (strcmp(topic->name, name) == 0)
            return topic;
    }
    return NULL;
}

size_t fan__memory_index_after(const struct fan__memory *memory, uint64_t after_seq)
{
    size_t low = memory->entry_first;
    size_t high = memory->entry_end;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (memory->entries[middle].seq <= after_seq)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct fan__record *fan__memory_at(const struct fan__memory *memory, uint64_t seq)
{
    if (seq == 0)
        return NULL;
    size_t index = fan__memory_index_after(memory, seq - 1);
    if (index == memory->entry_end || memory->entries[index].seq != seq)
        return NULL;
    return memory->entries[index].record;
}

/* Squeezes removed entries out when they are most of what is there. */
static void compact(struct fan__memory *memory)
{
    while (memory->entry_first < memory->entry_end && !memory->entries[memory->entry_first].record)
        memory->entry_first++;
    size_t span = memory->entry_end - memory->entry_first;
    if (span < ENTRY_CAPACITY_FIRST || memory->live_count > span / 2)
        return;
    size_t to = 0;
    for (size_t i = memory->entry_first; i < memory->entry_end; i++) {
        if (memory->entries[i].record)
            memory->entries[to++] = memory->entries[i];
    }
    memory->entry_first = 0;
    memory->entry_end = to;
}

static bool reserve_entries(struct fan__memory *memory, size_t count)
{
    if (memory->entry_end + count <= memory->entry_capacity)
        return true;
    size_t span = memory->entry_end - memory->entry_first;
    if (memory->entry_first >= memory->entry_capacity / 2 && memory->entry_first > 0) {
        memmove(memory->entries, memory->entries + memory->entry_first,
                span * sizeof(*memory->entries));
        memory->entry_first = 0;
        memory->entry_end = span;
    }
    size_t capacity = memory->entry_capacity ? memory->entry_capacity : ENTRY_CAPACITY_FIRST;
    while (capacity < memory->entry_end + count)
        capacity *= 2;
    if (capacity == memory->entry_capacity)
        return true;
    struct fan__entry *entries =
        fan__resize(memory->env, memory->entries, capacity * sizeof(*entries));
    if (!entries)
        return false;
    memory->entries = entries;
    memory->entry_capacity = capacity;
    return true;
}

static void topic_unlink(struct fan__record *record)
{
    struct fan__topic *topic = record->topic;
    if (record->topic_previous)
        record->topic_previous->topic_next = record->topic_next;
    else
        topic->first = record->topic_next;
    if (record->topic_next)
        record->topic_next->topic_previous = record->topic_previous;
    else
        topic->last = record->topic_previous;
}

void fan__memory_drop(struct fan__memory *memory, struct fan__record *record)
{
    while (record->deliveries)
        fan__memory_delivery_free(memory, record->deliveries);
    fan__heap_remove(&memory->evictable, &record->evictable);
    fan__table_remove(&memory->ids, &record->by_id);
    topic_unlink(record);
    memory->bytes -= fan_event_size(record->event);
    memory->live_count--;
    memory->entries[fan__memory_index_after(memory, record->seq - 1)].record = NULL;
    compact(memory);
    record_free(memory, record);
}

bool fan__memory_is_finished(const struct fan__memory *memory, const struct fan__record *record)
{
    for (const struct fan__delivery *d = record->deliveries; d; d = d->next_of_event) {
        if (d->status != FAN_EVENT_COMPLETED)
            return false;
    }
    for (size_t i = 0; i < memory->group_count; i++) {
        const struct fan__memory_group *group = memory->groups[i];
        if (record->seq > group->cursor_seq && fan__memory_wants(group, record->event) &&
            !fan__memory_delivery_find(record, group))
            return false;
    }
    return true;
}

void fan__memory_consider(struct fan__memory *memory, struct fan__record *record)
{
    if (record->evictable.place == 0 && fan__memory_is_finished(memory, record))
        fan__heap_add(&memory->evictable, &record->evictable, 0, record->seq);
}

/*
 * Makes room for `count` more events, or changes nothing and says so. What became owed again since
 * it was put into the heap (a group that began behind it) is left out; it comes back when finished.
 */
static bool make_room(struct fan__memory *memory, uint64_t count)
{
    if (count > memory->capacity)
        return false;
    struct fan__record *first = NULL;
    uint64_t left = memory->live_count;
    while (left + count > memory->capacity) {
        struct fan__heap_node *node = fan__heap_top(&memory->evictable);
        if (!node)
            break;
        fan__heap_remove(&memory->evictable, node);
        struct fan__record *record = record_of_evictable(node);
        if (!fan__memory_is_finished(memory, record))
            continue;
        record->evict_next = first;
        first = record;
        left--;
    }
    bool enough = left + count <= memory->capacity;
    while (first) {
        struct fan__record *next = first->evict_next;
        if (enough) {
            if (first->seq > memory->trimmed_seq)
                memory->trimmed_seq = first->seq;
            fan__memory_drop(memory, first);
        } else {
            fan__heap_add(&memory->evictable, &first->evictable, 0, first->seq);
        }
        first = next;
    }
    return enough;
}

static struct fan__topic *topic_ref(struct fan__memory *memory, const char *name)
{
    struct fan__topic *topic = fan__memory_topic(memory, name);
    if (!topic) {
        size_t size = strlen(name) + 1;
        topic = fan__alloc_zero(memory->env, 1, sizeof(*topic) + size);
        if (!topic)
            return NULL;
        memcpy(topic->name, name, size);
        fan__table_add(&memory->topics, &topic->node, fan__memory_hash(memory, name));
    }
    topic->holders++;
    return topic;
}

static struct fan__record *record_new(struct fan__memory *memory, const struct fan_event *event,
                                      uint64_t id_hash)
{
    struct fan__record *record = fan__alloc_zero(memory->env, 1, sizeof(*record));
    if (!record)
        return NULL;
    if (fan_event_copy(event, memory->env, &record->event) != FAN_OK) {
        fan__free(memory->env, record);
        return NULL;
    }
    record->by_id.hash = id_hash;
    record->topic = topic_ref(memory, fan_event_topic(record->event));
    if (!record->topic) {
        record_free(memory, record);
        return NULL;
    }
    return record;
}

/* Allocates for every item whose id is not there yet; what is there is marked as a duplicate. */
static enum fan_status prepare(struct fan__memory *memory, struct fan_append *items, size_t count,
                               struct fan__record **records)
{
    if (!reserve_entries(memory, count) ||
        !fan__heap_reserve(&memory->evictable, memory->live_count + count))
        return FAN_NO_MEMORY;
    for (size_t i = 0; i < count; i++) {
        const char *id = fan_event_id(items[i].event);
        uint64_t hash = fan__memory_hash(memory, id);
        const struct fan__record *there = find_hashed(memory, id, hash);
        if (there) {
            items[i].ret_duplicate = true;
            items[i].ret_seq = there->seq;
            continue;
        }
        records[i] = record_new(memory, items[i].event, hash);
        if (!records[i])
            return FAN_NO_MEMORY;
    }
    return FAN_OK;
}

static void store_record(struct fan__memory *memory, struct fan__record *record)
{
    record->seq = ++memory->head_seq;
    record->stored_us = fan__memory_now_us(memory);
    fan__event_set_seq(record->event, record->seq);
    fan__table_add(&memory->ids, &record->by_id, record->by_id.hash);
    struct fan__topic *topic = record->topic;
    record->topic_previous = topic->last;
    if (topic->last)
        topic->last->topic_next = record;
    else
        topic->first = record;
    topic->last = record;
    memory->entries[memory->entry_end++] =
        (struct fan__entry){ .seq = record->seq, .record = record };
    memory->live_count++;
    memory->bytes += fan_event_size(record->event);
    fan__memory_consider(memory, record);
}

static bool is_met(const struct fan__memory *memory, const struct fan_expectation *expectation)
{
    if (!expectation)
        return true;
    if (expectation->key) {
        const struct fan__topic *topic = fan__memory_topic(memory, expectation->key);
        uint64_t last_seq = topic && topic->last ? topic->last->seq : 0;
        if (last_seq != expectation->last_seq)
            return false;
    }
    return !expectation->lease ||
           fan__memory_lease_is(memory, expectation->lease, expectation->fence);
}

/*
 * One unit, whole or not at all. A unit of which all is there already is not asked for its
 * expectation: it was met when it was stored, and this is a retry.
 */
static void commit_unit(struct fan__memory *memory, struct fan_append *items, size_t count,
                        struct fan__record **records)
{
    uint64_t wanted = 0;
    for (size_t i = 0; i < count; i++) {
        const struct fan__record *there = records[i] ? find_same(memory, records[i]) : NULL;
        if (there) {
            items[i].ret_duplicate = true;
            items[i].ret_seq = there->seq;
        }
        wanted += !items[i].ret_duplicate;
    }
    enum fan_status status = FAN_OK;
    if (wanted > 0 && !is_met(memory, items[0].expectation))
        status = FAN_CONFLICT;
    else if (wanted > 0 && !make_room(memory, wanted))
        status = FAN_FULL;
    for (size_t i = 0; i < count; i++) {
        items[i].ret_status = status;
        if (status != FAN_OK) {
            items[i].ret_duplicate = false;
            items[i].ret_seq = 0;
            continue;
        }
        if (items[i].ret_duplicate)
            continue;
        /* Within a unit of several, the same id may have come before. */
        const struct fan__record *there = count > 1 ? find_same(memory, records[i]) : NULL;
        items[i].ret_duplicate = there != NULL;
        if (!there) {
            store_record(memory, records[i]);
            there = records[i];
            records[i] = NULL;
        }
        items[i].ret_seq = there->seq;
    }
}

enum fan_status fan__memory_append(struct fan__memory *memory, struct fan_append *items,
                                   size_t count)
{
    struct fan__record **records =
        fan__alloc_zero(memory->env, count, sizeof(struct fan__record *));
    if (!records)
        return FAN_NO_MEMORY;
    enum fan_status status = prepare(memory, items, count, records);
    for (size_t first = 0; status == FAN_OK && first < count;) {
        size_t end = first + 1;
        while (end < count && items[end].joined)
            end++;
        commit_unit(memory, items + first, end - first, records + first);
        first = end;
    }
    /* What was prepared and not stored: duplicates within the batch, refusals, all on failure. */
    for (size_t i = 0; i < count; i++)
        record_free(memory, records[i]);
    fan__free(memory->env, records);
    return status;
}

enum fan_status fan__memory_erase(struct fan__memory *memory, struct fan__record *record)
{
    struct fan_event_draft draft;
    fan_event_to_draft(record->event, &draft);
    draft.payload = fan_event_is_json(record->event) ? (struct fan_str)FAN_STR("null")
                                                     : (struct fan_str){ NULL, 0 };
    draft.metadata = (struct fan_str){ NULL, 0 };
    draft.user_id = 0;
    draft.session_id = NULL;
    size_t size = fan__event_draft_size(&draft);
    struct fan_event *event = fan__alloc(memory->env, size);
    if (!event)
        return FAN_NO_MEMORY;
    fan__event_write(&draft, record->seq, event);
    memory->bytes -= fan_event_size(record->event);
    memory->bytes += size;
    fan_event_free(record->event, memory->env);
    record->event = event;
    return FAN_OK;
}
