/*
 * Groups that are owed events while nobody handles for them: a handler that was renamed, or
 * removed. Each is named once, when it is first seen so, with what to do about it. A thread of its
 * own looks, as a store of many groups takes its time to tell of them.
 *
 * When a member last asked for work is told by the store's clock, which is compared with itself:
 * with what it tells of the others. It is nobody's, too, when it stood still for long by ours. A
 * group with a claim that has not run out is somebody's, however long that takes.
 */
#include "broker/dispatch.h"

#include "base/env.h"

#include <inttypes.h>
#include <string.h>

#define LOOK_MS 60000

struct looking {
    struct fan__dispatch *dispatch;
    int64_t newest_us; /* when somebody last asked for work of any of them */
    int64_t now_ns;
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
    struct fan__unhandled **last = &dispatch->unhandled;
    while (*last)
        last = &(*last)->next;
    *last = entry;
    return entry;
}

static bool see(void *context, const struct fan_group_stats *stats)
{
    struct looking *looking = context;
    struct fan__dispatch *dispatch = looking->dispatch;
    uint64_t owed = stats->pending + stats->processing;
    if (stats->joined_us > looking->newest_us)
        looking->newest_us = stats->joined_us;
    if (owed == 0 || stats->processing > 0 || is_handled_here(dispatch, stats))
        return true;
    struct fan__unhandled *entry = find(dispatch, stats);
    if (!entry)
        entry = add(dispatch, stats);
    if (!entry)
        return true;
    if (entry->since_ns == 0 || entry->joined_us != stats->joined_us)
        entry->since_ns = looking->now_ns;
    entry->joined_us = stats->joined_us;
    entry->owed = owed;
    entry->seen = true;
    return true;
}

/* Names those for whom nobody asked in long. Gives how many they are. */
static uint64_t report(const struct looking *looking)
{
    struct fan__dispatch *dispatch = looking->dispatch;
    int64_t patience_us = dispatch->patience_us;
    uint64_t count = 0;
    for (struct fan__unhandled *entry = dispatch->unhandled; entry; entry = entry->next) {
        if (!entry->seen || (looking->newest_us - entry->joined_us < patience_us &&
                             looking->now_ns - entry->since_ns < patience_us * FAN__NS_PER_US)) {
            entry->reported = false;
            continue;
        }
        count++;
        if (!entry->reported)
            fan__log(dispatch->broker->env, FAN_LOG_WARNING,
                     "%" PRIu64 " events are owed to group \"%s\", handler \"%s\", for which "
                     "nobody handles: was it renamed or removed? Handle for it under this name, "
                     "or delete it",
                     entry->owed, entry->group, entry->handler);
        entry->reported = true;
    }
    return count;
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
    struct looking looking = { .dispatch = dispatch, .now_ns = fan__dispatch_now_ns(dispatch) };
    for (struct fan__unhandled *entry = dispatch->unhandled; entry; entry = entry->next)
        entry->seen = false;
    enum fan_status status = fan_store_groups(dispatch->broker->store, see, &looking);
    uint64_t count = status == FAN_OK ? report(&looking) : 0;
    if (status == FAN_OK)
        forget(dispatch, false);
    fan__mutex_lock(&dispatch->mutex);
    dispatch->look_ns = fan__dispatch_now_ns(dispatch) + LOOK_MS * FAN__NS_PER_MS;
    if (status == FAN_OK)
        dispatch->stats.unhandled = count;
    fan__mutex_unlock(&dispatch->mutex);
}

void fan__unhandled_main(void *context)
{
    struct fan__dispatch *dispatch = context;
    fan__mutex_lock(&dispatch->mutex);
    while (!dispatch->stopping) {
        if (dispatch->look_ns > fan__dispatch_now_ns(dispatch)) {
            fan__cond_wait_until(&dispatch->look_wake, &dispatch->mutex, dispatch->look_ns);
            continue;
        }
        fan__mutex_unlock(&dispatch->mutex);
        fan__unhandled_look(dispatch);
        fan__mutex_lock(&dispatch->mutex);
    }
    fan__mutex_unlock(&dispatch->mutex);
}

void fan__unhandled_free(struct fan__dispatch *dispatch)
{
    forget(dispatch, true);
}
