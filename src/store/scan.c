/*
 * A list without indexes: the log is read from its beginning, once, with the same filter, and the
 * states are asked for one by one. Of a list with the newest first, the ids of the last matches are
 * kept on the way, offset + limit of them, since nobody knows which will be the last.
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
    uint64_t skip; /* matches before those that are kept */
    uint64_t keep;
    char **ids; /* the match n lies at (n - skip) % keep */
    size_t count;
    size_t room;
};

static enum fan_status make_room(struct scan *scan)
{
    size_t room = scan->room > 0 ? 2 * scan->room : 64;
    char **ids = fan__resize(scan->store->env, scan->ids, room * sizeof(*ids));
    if (!ids)
        return FAN_NO_MEMORY;
    scan->ids = ids;
    scan->room = room;
    return FAN_OK;
}

/* Keeps a match, in the place of the oldest one when there are as many as are wanted. */
static enum fan_status keep_id(struct scan *scan, const struct fan_event *event, uint64_t n)
{
    const struct fan_env *env = scan->store->env;
    bool more = scan->count < scan->keep;
    if (more && scan->count == scan->room && make_room(scan) != FAN_OK)
        return FAN_NO_MEMORY;
    char *id = fan__strdup(env, fan_event_id(event));
    if (!id)
        return FAN_NO_MEMORY;
    size_t at = (size_t)((n - scan->skip) % scan->keep);
    if (more)
        scan->count++;
    else
        fan__free(env, scan->ids[at]);
    scan->ids[at] = id;
    return FAN_OK;
}

/* Whether what comes after n matches is not wanted. */
static bool is_whole(const struct scan *scan, uint64_t n)
{
    return !scan->query->newest_first && n >= scan->skip + scan->keep;
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
    uint64_t n = scan->matched++;
    return n >= scan->skip && !is_whole(scan, n) ? keep_id(scan, event, n) : FAN_OK;
}

static enum fan_status walk(struct scan *scan)
{
    struct fan_query query = *scan->query;
    struct fan_read_result result = { 0 };
    enum fan_status status = FAN_OK;
    query.has_status = query.newest_first = false;
    query.offset = 0;
    query.limit = PAGE_COUNT;
    while (status == FAN_OK && result.scanned_seq < scan->until_seq &&
           !is_whole(scan, scan->matched)) {
        fan_batch_clear(scan->page);
        status = scan->store->provider->read(scan->store->self, result.scanned_seq, &query,
                                             scan->page, &result);
        for (size_t i = 0; status == FAN_OK && i < fan_batch_count(scan->page); i++)
            if (fan_event_seq(fan_batch_event(scan->page, i)) <= scan->until_seq)
                status = see(scan, fan_batch_event(scan->page, i));
    }
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

/* The id of the i-th event of the list. */
static const char *id_of(const struct scan *scan, uint64_t i)
{
    uint64_t n = scan->query->newest_first ? scan->matched - 1 - i : i;
    return scan->ids[n % scan->keep];
}

enum fan_status fan__store_scan(struct fan_store *store, const struct fan_query *query,
                                struct fan_batch *batch, struct fan_event_state *states,
                                struct fan_error *error)
{
    /* Neither is past FAN_SEQ_MAX. */
    uint64_t to = query->offset + query->limit;
    struct scan scan = { .store = store,
                         .query = query,
                         .skip = query->newest_first ? 0 : query->offset,
                         .keep = query->newest_first ? to : query->limit };
    enum fan_status status = fan_batch_new(store->env, &scan.page);
    if (status == FAN_OK)
        status = fan_batch_new(store->env, &scan.one);
    if (status == FAN_OK)
        status = store->provider->head(store->self, &scan.until_seq);
    if (status == FAN_OK)
        status = walk(&scan);
    for (uint64_t i = query->newest_first ? query->offset : 0;
         status == FAN_OK && i < scan.count && fan_batch_size(batch) < FAN_LIST_SIZE_MAX; i++)
        status = add(&scan, id_of(&scan, i), batch, states);
    for (size_t i = 0; i < scan.count; i++)
        fan__free(store->env, scan.ids[i]);
    fan__free(store->env, scan.ids);
    fan_batch_free(scan.page);
    fan_batch_free(scan.one);
    return status == FAN_OK
               ? FAN_OK
               : fan__fail(error, status, NULL, "cannot read the log: %s", fan_status_text(status));
}
