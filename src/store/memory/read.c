/* Reading, listing and counting: nothing here changes anything. */
#include "event/event.h"
#include "store/memory/group.h"
#include "store/memory/log.h"
#include "store/query.h"

#include <fanfare/batch.h>

/* How many events one read looks at before it lets others have the lock. */
#define SCAN_COUNT_MAX 65536

/* A walk over the records of one topic, or of the whole log, in either direction. */
struct walk {
    const struct fan__memory *memory;
    bool by_topic;
    bool newest_first;
    struct fan__record *next;
    size_t index;
};

static void walk_topic(struct walk *walk, const char *name, uint64_t after_seq)
{
    const struct fan__topic *topic = fan__memory_topic(walk->memory, name);
    if (!topic)
        return;
    if (walk->newest_first) {
        walk->next = topic->last;
        return;
    }
    if (after_seq == 0) {
        walk->next = topic->first;
        return;
    }
    for (struct fan__record *at = topic->last; at && at->seq > after_seq; at = at->topic_previous)
        walk->next = at;
}

static struct walk walk_begin(const struct fan__memory *memory, const struct fan_query *query,
                              uint64_t after_seq)
{
    struct walk walk = { .memory = memory,
                         .by_topic = query->topic != NULL,
                         .newest_first = query->newest_first };
    if (walk.by_topic)
        walk_topic(&walk, query->topic, after_seq);
    else if (walk.newest_first)
        walk.index = memory->entry_end;
    else
        walk.index = fan__memory_index_after(memory, after_seq);
    return walk;
}

static struct fan__record *walk_next(struct walk *walk)
{
    if (walk->by_topic) {
        struct fan__record *record = walk->next;
        if (record)
            walk->next = walk->newest_first ? record->topic_previous : record->topic_next;
        return record;
    }
    const struct fan__memory *memory = walk->memory;
    if (walk->newest_first) {
        while (walk->index > memory->entry_first) {
            struct fan__record *record = memory->entries[--walk->index].record;
            if (record)
                return record;
        }
        return NULL;
    }
    while (walk->index < memory->entry_end) {
        struct fan__record *record = memory->entries[walk->index++].record;
        if (record)
            return record;
    }
    return NULL;
}

enum fan_status fan__memory_read(struct fan__memory *memory, uint64_t after_seq,
                                 const struct fan_query *query, struct fan_batch *batch,
                                 struct fan_read_result *ret_result)
{
    uint64_t head_seq = memory->head_seq;
    *ret_result = (struct fan_read_result){
        .scanned_seq = after_seq > head_seq ? after_seq : head_seq,
        .trimmed_seq = memory->trimmed_seq,
        .head_seq = head_seq,
    };
    struct walk walk = walk_begin(memory, query, after_seq);
    struct fan__record *record;
    for (size_t scanned = 1; (record = walk_next(&walk)); scanned++) {
        if (fan__query_match(query, record->event)) {
            enum fan_status status = fan_batch_add_event(batch, record->event);
            if (status != FAN_OK)
                return status;
        }
        if (fan_batch_count(batch) == query->limit || scanned == SCAN_COUNT_MAX ||
            fan_batch_size(batch) >= FAN__MEMORY_BATCH_SIZE_MAX) {
            ret_result->scanned_seq = record->seq;
            break;
        }
    }
    return FAN_OK;
}

enum fan_status fan__memory_add(struct fan__memory *memory, const struct fan__record *record,
                                struct fan_batch *batch, struct fan_event_state *ret_state)
{
    struct fan_event_state state;
    fan__memory_state(memory, record, &state);
    if (*state.error) {
        state.error = fan_batch_keep(batch, state.error);
        if (!state.error)
            return FAN_NO_MEMORY;
    }
    enum fan_status status = fan_batch_add_event(batch, record->event);
    if (status == FAN_OK)
        *ret_state = state;
    return status;
}

enum fan_status fan__memory_list(struct fan__memory *memory, const struct fan_query *query,
                                 struct fan_batch *batch, struct fan_event_state *states)
{
    struct walk walk = walk_begin(memory, query, 0);
    uint64_t passed = 0;
    struct fan__record *record;
    while (fan_batch_count(batch) < query->limit && fan_batch_size(batch) < FAN_LIST_SIZE_MAX &&
           (record = walk_next(&walk))) {
        if (!fan__query_match(query, record->event))
            continue;
        if (query->has_status) {
            struct fan_event_state state;
            fan__memory_state(memory, record, &state);
            if (state.status != query->status)
                continue;
        }
        if (passed++ < query->offset)
            continue;
        enum fan_status status =
            fan__memory_add(memory, record, batch, &states[fan_batch_count(batch)]);
        if (status != FAN_OK)
            return status;
    }
    return FAN_OK;
}

void fan__memory_stats(struct fan__memory *memory, struct fan_store_stats *ret_stats)
{
    ret_stats->events = memory->live_count;
    ret_stats->bytes = memory->bytes;
    ret_stats->groups = memory->group_count;
    uint64_t *const counts[] = {
        [FAN_EVENT_PENDING] = &ret_stats->pending,
        [FAN_EVENT_PROCESSING] = &ret_stats->processing,
        [FAN_EVENT_COMPLETED] = &ret_stats->completed,
        [FAN_EVENT_FAILED] = &ret_stats->failed,
    };
    struct walk walk = walk_begin(memory, &(struct fan_query){ .size = FAN_QUERY_SIZE }, 0);
    struct fan__record *record;
    while ((record = walk_next(&walk))) {
        struct fan_event_state state;
        fan__memory_state(memory, record, &state);
        ++*counts[state.status];
        if (ret_stats->first_seq == 0)
            ret_stats->first_seq = record->seq;
        ret_stats->last_seq = record->seq;
    }
}
