/*
 * Retention. A pass goes over the oldest events once, a slice with each call; what is past a bound
 * is settled when it begins.
 */
#include "base/env.h"
#include "base/status.h"
#include "store/expired.h"
#include "store/memory/group.h"

#include <stdio.h>
#include <string.h>

#define US_PER_MS 1000

/* One call, with the clock read once. */
struct keeping {
    struct fan__memory *memory;
    const struct fan_retention *retention;
    struct fan_retained *retained;
    int64_t now_us;
};

static bool is_past(uint64_t bound_ms, int64_t age_us)
{
    return bound_ms > 0 && age_us > 0 && (uint64_t)age_us / US_PER_MS > bound_ms;
}

/* Up to where events are looked at, and up to where they go when they are finished. */
static void begin_pass(const struct keeping *keeping)
{
    struct fan__memory *memory = keeping->memory;
    const struct fan_retention *r = keeping->retention;
    struct fan__memory_pass *pass = &memory->pass;
    *pass = (struct fan__memory_pass){ .retention = *r, .runs = true };
    uint64_t count = memory->live_count;
    uint64_t bytes = memory->bytes;
    for (size_t i = memory->entry_first; i < memory->entry_end; i++) {
        const struct fan__record *record = memory->entries[i].record;
        if (!record)
            continue;
        int64_t age_us = keeping->now_us - record->stored_us;
        bool goes = is_past(r->age_ms, age_us) || (r->count > 0 && count > r->count) ||
                    (r->bytes > 0 && bytes > r->bytes);
        if (!goes && !is_past(r->owed_age_ms, age_us) && !is_past(r->dead_age_ms, age_us))
            break;
        pass->last_seq = record->seq;
        if (goes)
            pass->bound_seq = record->seq;
        count--;
        bytes -= fan_event_size(record->event);
    }
}

/* For how long an event has been owed: since it was there, and since it was to be delivered. */
static int64_t owed_us_of(const struct keeping *keeping, const struct fan__record *record)
{
    int64_t from_us = record->stored_us;
    int64_t deliver_at_us = fan_event_deliver_at_us(record->event);
    if (deliver_at_us > from_us)
        from_us = deliver_at_us;
    return from_us < keeping->now_us ? keeping->now_us - from_us : 0;
}

/* Makes a dead letter of a delivery that nobody holds. False without memory. */
static bool expire_one(struct keeping *keeping, struct fan__delivery *delivery, int64_t owed_us)
{
    struct fan__memory *memory = keeping->memory;
    char words[FAN__EXPIRED_SIZE];
    fan__expired_words(owed_us, keeping->retention->owed_age_ms, words);
    char *error = fan__strdup(memory->env, words);
    if (!error)
        return false;
    fan__free(memory->env, delivery->error);
    delivery->error = error;
    delivery->reason = FAN_DEAD_EXPIRED;
    delivery->lapses += delivery->token != 0;
    delivery->token = 0;
    delivery->due_us = 0;
    delivery->completed_us = keeping->now_us;
    fan__memory_shift(memory, delivery, FAN_EVENT_FAILED);
    fan__memory_owner_unref(memory, delivery->owner);
    delivery->owner = NULL;
    keeping->retained->expired++;
    return true;
}

/* Gives a delivery to each group that wants the event and has not come to it. */
static bool expire_unseen(struct keeping *keeping, struct fan__record *record, int64_t owed_us)
{
    struct fan__memory *memory = keeping->memory;
    for (size_t i = 0; i < memory->group_count; i++) {
        struct fan__memory_group *group = memory->groups[i];
        if (record->seq <= group->cursor_seq || !fan__memory_wants(group, record->event) ||
            fan__memory_delivery_find(record, group))
            continue;
        struct fan__delivery *delivery = fan__memory_delivery_new(memory, group, record);
        if (!delivery)
            return false;
        delivery->due_us = keeping->now_us;
        fan__memory_shift(memory, delivery, FAN_EVENT_PENDING);
        if (!expire_one(keeping, delivery, owed_us))
            return false;
    }
    return true;
}

static bool expire(struct keeping *keeping, struct fan__record *record)
{
    int64_t owed_us = owed_us_of(keeping, record);
    if (!is_past(keeping->retention->owed_age_ms, owed_us))
        return true;
    for (struct fan__delivery *d = record->deliveries; d; d = d->next_of_event) {
        if (d->status == FAN_EVENT_PENDING && !expire_one(keeping, d, owed_us))
            return false;
    }
    return expire_unseen(keeping, record, owed_us);
}

static void discard(struct keeping *keeping, const struct fan__record *record)
{
    for (struct fan__delivery *d = record->deliveries; d; d = d->next_of_event) {
        if (d->status != FAN_EVENT_FAILED ||
            !is_past(keeping->retention->dead_age_ms, keeping->now_us - d->completed_us))
            continue;
        d->reason = FAN_DEAD_NONE;
        d->completed_us = keeping->now_us;
        fan__memory_shift(keeping->memory, d, FAN_EVENT_COMPLETED);
        keeping->retained->discarded++;
    }
}

static bool look_at(struct keeping *keeping, struct fan__record *record)
{
    struct fan__memory *memory = keeping->memory;
    discard(keeping, record);
    if (!expire(keeping, record))
        return false;
    if (!fan__memory_is_finished(memory, record))
        return true;
    if (record->seq > memory->pass.bound_seq) {
        fan__memory_consider(memory, record);
        return true;
    }
    if (record->seq > memory->trimmed_seq)
        memory->trimmed_seq = record->seq;
    fan__memory_drop(memory, record);
    keeping->retained->removed++;
    return true;
}

/* Deletes one group that nobody has asked for work in too long. Gives whether there was one. */
static bool expire_group(struct keeping *keeping)
{
    struct fan__memory *memory = keeping->memory;
    for (size_t i = 0; i < memory->group_count; i++) {
        const struct fan__memory_group *group = memory->groups[i];
        if (!is_past(keeping->retention->group_age_ms, keeping->now_us - group->joined_us) ||
            group->counts[FAN_EVENT_PROCESSING] > 0)
            continue;
        struct fan_retained *retained = keeping->retained;
        snprintf(retained->group, sizeof(retained->group), "%s", group->group);
        snprintf(retained->handler, sizeof(retained->handler), "%s", group->handler);
        const struct fan_group_name name = { retained->group, retained->handler };
        retained->groups_expired = fan__memory_group_delete(memory, &name) == FAN_OK;
        return true;
    }
    return false;
}

static enum fan_status run_slice(struct keeping *keeping)
{
    struct fan__memory *memory = keeping->memory;
    struct fan__memory_pass *pass = &memory->pass;
    enum fan_status status = FAN_OK;
    for (size_t left = keeping->retention->limit; left > 0 && status == FAN_OK; left--) {
        size_t index = fan__memory_index_after(memory, pass->seq);
        while (index < memory->entry_end && !memory->entries[index].record)
            index++;
        if (index == memory->entry_end || memory->entries[index].seq > pass->last_seq) {
            pass->runs = false;
            break;
        }
        struct fan__record *record = memory->entries[index].record;
        pass->seq = record->seq;
        if (!look_at(keeping, record))
            status = FAN_NO_MEMORY;
    }
    return status;
}

enum fan_status fan__memory_retain(struct fan__memory *memory,
                                   const struct fan_retention *retention,
                                   struct fan_retained *ret_retained)
{
    struct keeping keeping = {
        .memory = memory,
        .retention = retention,
        .retained = ret_retained,
        .now_us = fan__memory_now_us(memory),
    };
    if (!memory->pass.runs || memcmp(&memory->pass.retention, retention, sizeof(*retention)) != 0) {
        ret_retained->more = expire_group(&keeping);
        if (!ret_retained->more)
            begin_pass(&keeping);
    }
    enum fan_status status = ret_retained->more ? FAN_OK : run_slice(&keeping);
    ret_retained->more = ret_retained->more || memory->pass.runs;
    ret_retained->trimmed_seq = memory->trimmed_seq;
    return status;
}
