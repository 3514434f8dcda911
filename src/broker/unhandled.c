/*
 * Groups that are owed events while nobody handles for them: a handler that was renamed, or
 * removed. Each is named once, when it is first seen so, with what to do about it.
 */
#include "broker/dispatch.h"

#include "base/env.h"

#include <inttypes.h>
#include <string.h>

#define REPORT_MS 60000

struct looking {
    struct fan__dispatch *dispatch;
    int64_t now_us;
    uint64_t count;
};

static bool is_handled_here(struct fan__dispatch *dispatch, const struct fan_group_stats *stats)
{
    bool found = false;
    fan__mutex_lock(&dispatch->mutex);
    for (const struct fan_handler *handler = dispatch->first; handler && !found;
         handler = handler->next)
        found = handler->group && strcmp(handler->group, stats->group) == 0 &&
                strcmp(handler->name, stats->handler) == 0;
    fan__mutex_unlock(&dispatch->mutex);
    return found;
}

static struct fan__unhandled *find(const struct fan__dispatch *dispatch,
                                   const struct fan_group_stats *stats)
{
    struct fan__unhandled *entry = dispatch->unhandled;
    while (entry &&
           (strcmp(entry->group, stats->group) != 0 || strcmp(entry->handler, stats->handler) != 0))
        entry = entry->next;
    return entry;
}

static struct fan__unhandled *add(struct fan__dispatch *dispatch,
                                  const struct fan_group_stats *stats)
{
    size_t group_size = strlen(stats->group) + 1;
    size_t handler_size = strlen(stats->handler) + 1;
    struct fan__unhandled *entry =
        fan__alloc_zero(dispatch->broker->env, 1, sizeof(*entry) + group_size + handler_size);
    if (!entry)
        return NULL;
    memcpy(entry->group, stats->group, group_size);
    entry->handler = memcpy(entry->group + group_size, stats->handler, handler_size);
    entry->next = dispatch->unhandled;
    dispatch->unhandled = entry;
    return entry;
}

static bool see(void *context, const struct fan_group_stats *stats)
{
    struct looking *looking = context;
    struct fan__dispatch *dispatch = looking->dispatch;
    uint64_t owed = stats->pending + stats->processing;
    if (owed == 0 || stats->joined_us > looking->now_us - dispatch->joined_us ||
        is_handled_here(dispatch, stats))
        return true;
    looking->count++;
    struct fan__unhandled *entry = find(dispatch, stats);
    if (!entry) {
        fan__log(dispatch->broker->env, FAN_LOG_WARNING,
                 "%" PRIu64 " events are owed to group \"%s\", handler \"%s\", for which nobody "
                 "handles: was it renamed or removed? Handle for it under this name, or delete it",
                 owed, stats->group, stats->handler);
        entry = add(dispatch, stats);
    }
    if (entry)
        entry->seen = true;
    return true;
}

static void forget(struct fan__dispatch *dispatch, bool all)
{
    struct fan__unhandled **link = &dispatch->unhandled;
    while (*link) {
        struct fan__unhandled *entry = *link;
        bool seen = entry->seen;
        entry->seen = false;
        if (seen && !all) {
            link = &entry->next;
            continue;
        }
        *link = entry->next;
        fan__free(dispatch->broker->env, entry);
    }
}

void fan__unhandled_look(struct fan__dispatch *dispatch)
{
    struct looking looking = { .dispatch = dispatch,
                               .now_us = fan__wall_us(dispatch->broker->env) };
    enum fan_status status = fan_store_groups(dispatch->broker->store, see, &looking);
    if (status == FAN_OK)
        forget(dispatch, false);
    fan__mutex_lock(&dispatch->mutex);
    dispatch->report_ns = fan__deadline_ns(REPORT_MS);
    if (status == FAN_OK)
        dispatch->stats.unhandled = looking.count;
    fan__mutex_unlock(&dispatch->mutex);
}

void fan__unhandled_free(struct fan__dispatch *dispatch)
{
    forget(dispatch, true);
}
