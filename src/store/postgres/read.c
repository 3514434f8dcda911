/*
 * Reading: each call is one snapshot, so that what it says of the head fits what it gives.
 */
#include "store/postgres/group.h"
#include "store/postgres/page.h"
#include "store/postgres/state.h"

#include "base/env.h"
#include "base/status.h"
#include "event/event.h"
#include "event/text.h"

#include <fanfare/batch.h>

#include <string.h>

/* How many events a list looks at with one look at their states. */
#define PAGE_COUNT 1000

/* A read under way. */
struct reading {
    struct fan__postgres_connection *connection;
    const struct fan_query *query;
    struct fan_batch *batch;
    uint64_t after_seq;
    struct fan__postgres_bounds bounds;
    struct fan__postgres_walk walk;
};

static void add_rows(struct reading *reading, const PGresult *page)
{
    struct fan__postgres_connection *connection = reading->connection;
    for (int i = 0; i < PQntuples(page) && connection->status == FAN_OK; i++)
        fan__postgres_row_add(connection, page, i, reading->batch);
}

/*
 * Reads what is not filtered: all of the transaction in one round trip. False when series are to be
 * looked up, which wants the same snapshot.
 */
static bool read_at_once(struct reading *reading)
{
    struct fan__postgres_connection *connection = reading->connection;
    size_t limit = reading->query->limit;
    PGresult *results[2];
    reading->walk.last_seq = FAN_SEQ_MAX;
    const size_t places[] = { fan__postgres_queue(connection, FAN__PG_BOUNDS, NULL),
                              fan__postgres_walk_queue(&reading->walk, limit) };
    fan__postgres_commit_all(connection, places, 2, results);
    fan__postgres_bounds_of(connection, results[0], &reading->bounds);
    bool known = connection->status != FAN_OK || fan__postgres_rows_known(connection, results[1]);
    if (known && results[1]) {
        fan__postgres_walk_take(&reading->walk, results[1], limit, reading->bounds.head_seq);
        add_rows(reading, results[1]);
    }
    PQclear(results[0]);
    PQclear(results[1]);
    return known;
}

static void read_with_care(struct reading *reading)
{
    struct fan__postgres_connection *connection = reading->connection;
    fan__postgres_bounds(connection, &reading->bounds);
    reading->walk.last_seq = reading->bounds.head_seq;
    PGresult *page = fan__postgres_walk_next(&reading->walk, reading->query->limit);
    fan__postgres_rows_load(connection, page);
    add_rows(reading, page);
    PQclear(page);
}

enum fan_status fan__postgres_read(void *self, uint64_t after_seq, const struct fan_query *query,
                                   struct fan_batch *batch, struct fan_read_result *ret_result)
{
    struct reading reading = { .query = query, .batch = batch, .after_seq = after_seq };
    enum fan_status status =
        fan__postgres_borrow(self, FAN__POSTGRES_READ, &reading.connection, NULL);
    if (status != FAN_OK)
        return status;
    fan__postgres_walk_init(&reading.walk, reading.connection, query, after_seq, FAN_SEQ_MAX);
    if (!fan__postgres_walk_is_plain(&reading.walk)) {
        read_with_care(&reading);
    } else if (!read_at_once(&reading)) {
        fan__postgres_begin(reading.connection, FAN__POSTGRES_READ);
        read_with_care(&reading);
    }
    uint64_t scanned_seq = reading.walk.after_seq;
    *ret_result = (struct fan_read_result){
        .scanned_seq = scanned_seq > after_seq ? scanned_seq : after_seq,
        .trimmed_seq = reading.bounds.trimmed_seq,
        .head_seq = reading.bounds.head_seq,
    };
    return fan__postgres_end(reading.connection, FAN_OK, NULL);
}

/* A list under way. */
struct listing {
    struct fan__postgres_connection *connection;
    const struct fan_query *query;
    struct fan__postgres_groups groups;
    struct fan_batch *batch;
    struct fan_event_state *states;
    uint64_t passed;
};

static bool is_full(const struct listing *listing)
{
    return fan_batch_count(listing->batch) >= listing->query->limit ||
           fan_batch_size(listing->batch) >= FAN_LIST_SIZE_MAX;
}

/* Adds those events of a page that are wanted. */
static void list_page(struct listing *listing, const PGresult *page)
{
    const struct fan_query *query = listing->query;
    struct fan__postgres_connection *connection = listing->connection;
    struct fan__postgres_states states = { 0 };
    fan__postgres_rows_load(connection, page);
    if (listing->groups.count > 0)
        fan__postgres_states_load(connection, page, &states);
    for (int i = 0; i < PQntuples(page) && connection->status == FAN_OK && !is_full(listing); i++) {
        struct fan_event_state state;
        if (query->has_status) {
            fan__postgres_state_of(connection, &listing->groups, page, i, &states, NULL, &state);
            if (state.status != query->status)
                continue;
        }
        if (listing->passed++ < query->offset)
            continue;
        fan__postgres_state_of(connection, &listing->groups, page, i, &states, listing->batch,
                               &state);
        size_t index = fan_batch_count(listing->batch);
        fan__postgres_row_add(connection, page, i, listing->batch);
        if (connection->status == FAN_OK)
            listing->states[index] = state;
    }
    fan__postgres_states_free(&states);
}

/* How many events the list may still need; with a status, any number of them. */
static size_t page_count(const struct listing *listing)
{
    const struct fan_query *query = listing->query;
    uint64_t left = query->limit - fan_batch_count(listing->batch);
    if (query->offset > listing->passed)
        left += query->offset - listing->passed;
    return query->has_status || left > PAGE_COUNT ? PAGE_COUNT : (size_t)left;
}

/* Adds what a walk gives until the list is full. */
static void list_walk(struct listing *listing, struct fan__postgres_walk *walk)
{
    while (!is_full(listing)) {
        PGresult *page = fan__postgres_walk_next(walk, page_count(listing));
        if (!page)
            break;
        list_page(listing, page);
        PQclear(page);
        fan__postgres_extend(listing->connection);
    }
}

/* The events that are not settled: with a row up to the lowest cursor, all candidates past it. */
static void list_unsettled(struct listing *listing, uint64_t head_seq)
{
    uint64_t cursor_seq = fan__postgres_groups_cursor(&listing->groups);
    if (listing->query->status != FAN_EVENT_PENDING || cursor_seq > head_seq)
        cursor_seq = head_seq;
    for (int i = 0; i < 2; i++) {
        struct fan__postgres_walk walk;
        bool past = (i == 0) == listing->query->newest_first;
        fan__postgres_walk_init(&walk, listing->connection, listing->query, past ? cursor_seq : 0,
                                past ? head_seq : cursor_seq);
        walk.open = !past;
        list_walk(listing, &walk);
    }
}

enum fan_status fan__postgres_list(void *self, const struct fan_query *query,
                                   struct fan_batch *batch, struct fan_event_state *states,
                                   struct fan_error *error)
{
    struct listing listing = { .query = query, .batch = batch, .states = states };
    enum fan_status status =
        fan__postgres_borrow(self, FAN__POSTGRES_READ, &listing.connection, error);
    if (status != FAN_OK)
        return status;
    struct fan__postgres_bounds bounds;
    fan__postgres_bounds(listing.connection, &bounds);
    fan__postgres_groups_load(listing.connection, &listing.groups);
    if (query->has_status && query->status != FAN_EVENT_COMPLETED) {
        list_unsettled(&listing, bounds.head_seq);
    } else {
        struct fan__postgres_walk walk;
        fan__postgres_walk_init(&walk, listing.connection, query, 0, bounds.head_seq);
        list_walk(&listing, &walk);
    }
    fan__postgres_groups_free(&listing.groups);
    return fan__postgres_end(listing.connection, FAN_OK, error);
}

static PGresult *find(struct fan__postgres_connection *connection, const char *id)
{
    struct fan__postgres_params params = { 0 };
    struct fan__postgres_bounds bounds;
    fan__postgres_bounds(connection, &bounds);
    /* The server would refuse to look for what it could not hold. */
    if (!fan__utf8_valid(id, strlen(id)))
        return NULL;
    fan__postgres_add_text(&params, id);
    PGresult *result = fan__postgres_run(connection, FAN__PG_EVENT_BY_ID, &params);
    fan__postgres_rows_load(connection, result);
    return result;
}

enum fan_status fan__postgres_get(void *self, const char *id, struct fan_batch *batch,
                                  struct fan_event_state *ret_state)
{
    struct fan__postgres_connection *connection = NULL;
    enum fan_status status = fan__postgres_borrow(self, FAN__POSTGRES_READ, &connection, NULL);
    if (status != FAN_OK)
        return status;
    PGresult *event = find(connection, id);
    bool found = PQntuples(event) > 0;
    if (found && ret_state) {
        struct fan__postgres_groups groups;
        struct fan__postgres_states states = { 0 };
        fan__postgres_groups_load(connection, &groups);
        if (groups.count > 0)
            fan__postgres_states_load(connection, event, &states);
        fan__postgres_state_of(connection, &groups, event, 0, &states, batch, ret_state);
        fan__postgres_states_free(&states);
        fan__postgres_groups_free(&groups);
    }
    if (found)
        fan__postgres_row_add(connection, event, 0, batch);
    PQclear(event);
    return fan__postgres_end(connection, found ? FAN_OK : FAN_NOT_FOUND, NULL);
}

enum fan_status fan__postgres_remove(void *self, const char *id)
{
    struct fan__postgres_connection *connection = NULL;
    enum fan_status status = fan__postgres_borrow_writer(self, &connection, NULL);
    if (status != FAN_OK)
        return status;
    struct fan__postgres_params params = { 0 };
    struct fan__postgres_bounds bounds;
    fan__postgres_bounds(connection, &bounds);
    fan__postgres_add_text(&params, id);
    uint64_t count = fan__utf8_valid(id, strlen(id))
                         ? fan__postgres_run_count(connection, FAN__PG_EVENT_DELETE, &params)
                         : 0;
    return fan__postgres_end(connection, count > 0 ? FAN_OK : FAN_NOT_FOUND, NULL);
}

enum fan_status fan__postgres_erase(void *self, const char *id)
{
    struct fan__postgres_connection *connection = NULL;
    enum fan_status status = fan__postgres_borrow(self, FAN__POSTGRES_WRITE, &connection, NULL);
    if (status != FAN_OK)
        return status;
    PGresult *event = find(connection, id);
    struct fan_event_draft draft;
    bool found = PQntuples(event) > 0 && fan__postgres_row_draft(connection, event, 0, &draft);
    if (found) {
        struct fan__postgres_params params = { 0 };
        fan__postgres_add_text(&params, id);
        bool json = fan__content_type_is_json(draft.content_type);
        fan__postgres_add_bytes(&params, "null", json ? 4 : 0);
        (void)fan__postgres_run_count(connection, FAN__PG_EVENT_ERASE, &params);
    }
    PQclear(event);
    return fan__postgres_end(connection, found ? FAN_OK : FAN_NOT_FOUND, NULL);
}

enum fan_status fan__postgres_stats(void *self, struct fan_store_stats *ret_stats)
{
    struct fan__postgres *store = self;
    struct fan__postgres_connection *connection = NULL;
    enum fan_status status = fan__postgres_borrow(store, FAN__POSTGRES_READ, &connection, NULL);
    if (status != FAN_OK)
        return status;
    struct fan__postgres_params params = { 0 };
    struct fan__postgres_array names;
    struct fan__postgres_bounds bounds;
    fan__postgres_bounds(connection, &bounds);
    fan__postgres_names(store, &names);
    fan__postgres_add_text(&params, store->schema);
    fan__postgres_add_array(&params, &names);
    PGresult *result = fan__postgres_run(connection, FAN__PG_STATS, &params);
    fan__postgres_array_deinit(&names);
    if (PQntuples(result) == 1) {
        /* Sequences have no holes but what was deleted, and that is counted. */
        ret_stats->first_seq = (uint64_t)fan__postgres_int(result, 0, 0);
        ret_stats->last_seq = (uint64_t)fan__postgres_int(result, 0, 1);
        ret_stats->events =
            (uint64_t)(fan__postgres_int(result, 0, 2) - fan__postgres_int(result, 0, 3));
        ret_stats->bytes = (uint64_t)fan__postgres_int(result, 0, 4);
    }
    PQclear(result);
    fan__postgres_sums(connection, ret_stats);
    return fan__postgres_end(connection, FAN_OK, NULL);
}
