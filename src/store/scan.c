/*
 * A list without indexes: the log is read from its beginning, with the same filter, and the states
 * are asked for one by one. Of a list with the newest first, the matches are counted before.
 */
#include "store/scan.h"

#include "base/env.h"
#include "base/status.h"
#include "store/handle.h"

#include <fanfare/batch.h>

#define PAGE_COUNT 1000

struct scan {
    struct fan_store *store;
    const struct fan_query *query;
    struct fan_batch *page;
    struct fan_batch *one;
    uint64_t until_seq; /* the head at the beginning: what comes meanwhile is not in the list */
    uint64_t matched;
    uint64_t from; /* which of the matches are wanted */
    uint64_t to;
    char **ids;
    size_t count;
    size_t room;
};

static enum fan_status keep_id(struct scan *scan, const struct fan_event *event)
{
    const struct fan_env *env = scan->store->env;
    if (scan->count == scan->room) {
        size_t room = scan->room > 0 ? 2 * scan->room : 64;
        char **ids = fan__resize(env, scan->ids, room * sizeof(*ids));
        if (!ids)
            return FAN_NO_MEMORY;
        scan->ids = ids;
        scan->room = room;
    }
    scan->ids[scan->count] = fan__strdup(env, fan_event_id(event));
    return scan->ids[scan->count] && ++scan->count ? FAN_OK : FAN_NO_MEMORY;
}

/* One event that the filter of a read let through. */
static enum fan_status see(struct scan *scan, const struct fan_event *event)
{
    if (scan->query->has_status) {
        struct fan_event_state state = { .error = "" };
        fan_batch_clear(scan->one);
        enum fan_status status =
            scan->store->provider->get(scan->store->self, fan_event_id(event), scan->one, &state);
        if (status != FAN_OK)
            return status == FAN_NOT_FOUND ? FAN_OK : status;
        if (state.status != scan->query->status)
            return FAN_OK;
    }
    uint64_t index = scan->matched++;
    return index >= scan->from && index < scan->to ? keep_id(scan, event) : FAN_OK;
}

static enum fan_status walk(struct scan *scan)
{
    struct fan_query query = *scan->query;
    struct fan_read_result result = { 0 };
    enum fan_status status = FAN_OK;
    query.has_status = query.newest_first = false;
    query.offset = 0;
    query.limit = PAGE_COUNT;
    scan->matched = 0;
    while (status == FAN_OK && result.scanned_seq < scan->until_seq &&
           (scan->matched < scan->to || scan->to == 0)) {
        fan_batch_clear(scan->page);
        status = scan->store->provider->read(scan->store->self, result.scanned_seq, &query,
                                             scan->page, &result);
        for (size_t i = 0; status == FAN_OK && i < fan_batch_count(scan->page); i++)
            if (fan_event_seq(fan_batch_event(scan->page, i)) <= scan->until_seq)
                status = see(scan, fan_batch_event(scan->page, i));
    }
    return status;
}

/* Finds out which matches are wanted. */
static enum fan_status bound(struct scan *scan)
{
    const struct fan_query *query = scan->query;
    enum fan_status status = scan->store->provider->head(scan->store->self, &scan->until_seq);
    if (!query->newest_first) {
        scan->from = query->offset;
        scan->to = query->offset + query->limit;
        return status;
    }
    if (status == FAN_OK)
        status = walk(scan);
    scan->to = scan->matched > query->offset ? scan->matched - query->offset : 0;
    scan->from = scan->to > query->limit ? scan->to - query->limit : 0;
    return status;
}

static enum fan_status add(struct scan *scan, const char *id, struct fan_batch *batch,
                           struct fan_event_state *states)
{
    struct fan_event_state state = { .error = "" };
    fan_batch_clear(scan->one);
    enum fan_status status = scan->store->provider->get(scan->store->self, id, scan->one, &state);
    if (status != FAN_OK)
        return status == FAN_NOT_FOUND ? FAN_OK : status;
    state.error = fan_batch_keep(batch, state.error);
    if (!state.error)
        return FAN_NO_MEMORY;
    status = fan_batch_add_event(batch, fan_batch_event(scan->one, 0));
    if (status == FAN_OK)
        states[fan_batch_count(batch) - 1] = state;
    return status;
}

enum fan_status fan__store_scan(struct fan_store *store, const struct fan_query *query,
                                struct fan_batch *batch, struct fan_event_state *states,
                                struct fan_error *error)
{
    struct scan scan = { .store = store, .query = query };
    enum fan_status status = fan_batch_new(store->env, &scan.page);
    if (status == FAN_OK)
        status = fan_batch_new(store->env, &scan.one);
    if (status == FAN_OK)
        status = bound(&scan);
    if (status == FAN_OK && scan.to > 0)
        status = walk(&scan);
    for (size_t i = 0;
         status == FAN_OK && i < scan.count && fan_batch_size(batch) < FAN_LIST_SIZE_MAX; i++)
        status = add(&scan, scan.ids[query->newest_first ? scan.count - 1 - i : i], batch, states);
    for (size_t i = 0; i < scan.count; i++)
        fan__free(store->env, scan.ids[i]);
    fan__free(store->env, scan.ids);
    fan_batch_free(scan.page);
    fan_batch_free(scan.one);
    return status == FAN_OK
               ? FAN_OK
               : fan__fail(error, status, NULL, "cannot read the log: %s", fan_status_text(status));
}
