/*
 * Reading: each call is one snapshot, so that what it says of the head fits what it gives, and ends
 * by itself, so that the write-ahead log can start anew.
 */
#include "store/sqlite/state.h"
#include "store/sqlite/walk.h"

#include "base/env.h"
#include "base/status.h"

#include <fanfare/batch.h>

/*
 * How much of the log one read looks at: its snapshot keeps the write-ahead log from starting anew.
 */
#define SCAN_COUNT_MAX (UINT64_C(1) << 20)

enum fan_status fan__sqlite_read(void *self, uint64_t after_seq, const struct fan_query *query,
                                 struct fan_batch *batch, struct fan_read_result *ret_result)
{
    struct fan__sqlite_connection *connection = NULL;
    enum fan_status status = fan__sqlite_read_begin(self, &connection);
    if (status != FAN_OK)
        return status;
    struct fan__sqlite_bounds bounds;
    fan__sqlite_bounds(connection, &bounds);
    uint64_t until_seq = bounds.head_seq;
    if (until_seq > after_seq && until_seq - after_seq > SCAN_COUNT_MAX)
        until_seq = after_seq + SCAN_COUNT_MAX;
    *ret_result = (struct fan_read_result){
        .scanned_seq = after_seq > until_seq ? after_seq : until_seq,
        .trimmed_seq = bounds.trimmed_seq,
        .head_seq = bounds.head_seq,
    };
    struct fan__sqlite_walk walk;
    fan__sqlite_walk_init(&walk, connection, query, after_seq, until_seq);
    while (fan__sqlite_walk_next(&walk)) {
        fan__sqlite_row_add(connection, walk.statement, batch);
        if (fan_batch_count(batch) == query->limit ||
            fan_batch_size(batch) >= FAN__SQLITE_BATCH_SIZE_MAX) {
            ret_result->scanned_seq = fan__sqlite_walk_seq(&walk);
            break;
        }
    }
    fan__sqlite_walk_end(&walk);
    return fan__sqlite_read_end(connection);
}

/* A list under way. */
struct listing {
    struct fan__sqlite_connection *connection;
    const struct fan_query *query;
    struct fan__sqlite_groups groups;
    struct fan_batch *batch;
    struct fan_event_state *states;
    uint64_t passed;
};

/* Adds what a walk gives until the list is full. */
static void list_walk(struct listing *listing, struct fan__sqlite_walk *walk)
{
    const struct fan_query *query = listing->query;
    struct fan__sqlite_connection *connection = listing->connection;
    while (fan_batch_count(listing->batch) < query->limit &&
           fan_batch_size(listing->batch) < FAN_LIST_SIZE_MAX && fan__sqlite_walk_next(walk)) {
        struct fan_event_state state;
        if (query->has_status) {
            fan__sqlite_state_of(connection, &listing->groups, walk->statement, NULL, &state);
            if (state.status != query->status)
                continue;
        }
        if (listing->passed++ < query->offset)
            continue;
        fan__sqlite_state_of(connection, &listing->groups, walk->statement, listing->batch, &state);
        size_t index = fan_batch_count(listing->batch);
        fan__sqlite_row_add(connection, walk->statement, listing->batch);
        if (connection->status == FAN_OK)
            listing->states[index] = state;
    }
    fan__sqlite_walk_end(walk);
}

/* The events that are not settled: with a row up to the lowest cursor, all candidates past it. */
static void list_unsettled(struct listing *listing, uint64_t head_seq)
{
    uint64_t cursor_seq = fan__sqlite_groups_cursor(&listing->groups);
    if (listing->query->status != FAN_EVENT_PENDING || cursor_seq > head_seq)
        cursor_seq = head_seq;
    struct fan__sqlite_walk walk;
    for (int i = 0; i < 2; i++) {
        if ((i == 0) == listing->query->newest_first)
            fan__sqlite_walk_init(&walk, listing->connection, listing->query, cursor_seq, head_seq);
        else
            fan__sqlite_walk_init_open(&walk, listing->connection, listing->query, 0, cursor_seq);
        list_walk(listing, &walk);
    }
}

enum fan_status fan__sqlite_list(void *self, const struct fan_query *query, struct fan_batch *batch,
                                 struct fan_event_state *states, struct fan_error *error)
{
    struct listing listing = { .query = query, .batch = batch, .states = states };
    enum fan_status status = fan__sqlite_read_begin(self, &listing.connection);
    if (status != FAN_OK)
        return fan__fail(error, status, NULL, "cannot read the log");
    struct fan__sqlite_bounds bounds;
    fan__sqlite_bounds(listing.connection, &bounds);
    fan__sqlite_groups_load(listing.connection, &listing.groups);
    if (query->has_status && query->status != FAN_EVENT_COMPLETED) {
        list_unsettled(&listing, bounds.head_seq);
    } else {
        struct fan__sqlite_walk walk;
        fan__sqlite_walk_init(&walk, listing.connection, query, 0, bounds.head_seq);
        list_walk(&listing, &walk);
    }
    fan__sqlite_groups_free(&listing.groups);
    status = fan__sqlite_read_end(listing.connection);
    return status == FAN_OK ? FAN_OK : fan__fail(error, status, NULL, "cannot read the log");
}

enum fan_status fan__sqlite_get(void *self, const char *id, struct fan_batch *batch,
                                struct fan_event_state *ret_state)
{
    struct fan__sqlite_connection *connection = NULL;
    enum fan_status status = fan__sqlite_read_begin(self, &connection);
    if (status != FAN_OK)
        return status;
    unsigned char uuid[16];
    sqlite3_stmt *statement = fan__sqlite_use(connection, FAN__SQL_EVENT_BY_ID);
    fan__sqlite_bind_id(statement, 1, id, uuid);
    if (fan__sqlite_step(connection, statement)) {
        struct fan__sqlite_groups groups;
        fan__sqlite_groups_load(connection, &groups);
        fan__sqlite_state_of(connection, &groups, statement, batch, ret_state);
        fan__sqlite_row_add(connection, statement, batch);
        fan__sqlite_groups_free(&groups);
    } else {
        fan__sqlite_fail(connection, FAN_NOT_FOUND);
    }
    return fan__sqlite_read_end(connection);
}

static enum fan_status change(struct fan__sqlite *store, enum fan__sqlite_statement name,
                              const char *id)
{
    enum fan_status status = fan__sqlite_write_begin(store, NULL);
    if (status != FAN_OK)
        return status;
    unsigned char uuid[16];
    sqlite3_stmt *statement = fan__sqlite_use(store->writer, name);
    fan__sqlite_bind_id(statement, 1, id, uuid);
    fan__sqlite_run(store->writer, statement);
    bool changed = sqlite3_changes(store->writer->db) > 0;
    return fan__sqlite_write_end(store, changed ? FAN_OK : FAN_NOT_FOUND, 0, NULL);
}

enum fan_status fan__sqlite_remove(void *self, const char *id)
{
    return change(self, FAN__SQL_EVENT_DELETE, id);
}

enum fan_status fan__sqlite_erase(void *self, const char *id)
{
    return change(self, FAN__SQL_EVENT_ERASE, id);
}
