/*
 * Series that no event uses any more, and keys of topics that have none, are forgotten. Which ones
 * are in use is gathered from the index over series, some blocks at a time and outside of any write
 * transaction; what is appended meanwhile lies in the last of these blocks or after it, and is
 * looked for again when a series is to go.
 *
 * The series with the highest number stays, so that numbers are never given out again.
 */
#include "store/sqlite/retain.h"

#include "base/env.h"
#include "store/sqlite/series.h"

#include <stdlib.h>
#include <string.h>

#define BLOCKS_PER_STEP 16
#define SERIES_PER_STEP 256

struct fan__sqlite_sweep {
    struct fan__buffer ids;
    unsigned char *used;
    size_t count;
    uint64_t block;      /* the next to look at */
    uint64_t last_block; /* that of the head when the sweep began */
    size_t next;         /* the next series to forget, once all blocks were looked at */
};

void fan__sqlite_sweep_free(struct fan__sqlite *store)
{
    struct fan__sqlite_sweep *sweep = store->sweep;
    if (!sweep)
        return;
    fan__free(store->env, sweep->used);
    fan__buffer_deinit(&sweep->ids);
    fan__free(store->env, sweep);
    store->sweep = NULL;
}

static int64_t id_at(const struct fan__sqlite_sweep *sweep, size_t index)
{
    int64_t id;
    memcpy(&id, sweep->ids.data + index * sizeof(id), sizeof(id));
    return id;
}

static void load(struct fan__sqlite_connection *connection, struct fan__sqlite_sweep *sweep)
{
    struct fan__sqlite_bounds bounds;
    fan__sqlite_bounds(connection, &bounds);
    sweep->last_block = bounds.head_seq >> FAN__SQLITE_BLOCK_BITS;
    sweep->block = (uint64_t)fan__sqlite_number(
                       connection, fan__sqlite_use(connection, FAN__SQL_EVENT_FIRST), 0) >>
                   FAN__SQLITE_BLOCK_BITS;
    sqlite3_stmt *statement = fan__sqlite_use(connection, FAN__SQL_SERIES_IDS);
    while (fan__sqlite_step(connection, statement)) {
        int64_t id = sqlite3_column_int64(statement, 0);
        fan__buffer_add(&sweep->ids, &id, sizeof(id));
    }
    if (sweep->ids.failed)
        fan__sqlite_fail(connection, FAN_NO_MEMORY);
    sweep->count = sweep->ids.size / sizeof(int64_t);
}

enum fan_status fan__sqlite_sweep_begin(struct fan__sqlite *store)
{
    struct fan__sqlite_connection *connection = NULL;
    enum fan_status status = fan__sqlite_read_begin(store, &connection);
    if (status != FAN_OK)
        return status;
    struct fan__sqlite_sweep *sweep = fan__alloc_zero(store->env, 1, sizeof(*sweep));
    store->sweep = sweep;
    if (sweep) {
        fan__buffer_init(&sweep->ids, store->env);
        load(connection, sweep);
        sweep->used = fan__alloc_zero(store->env, sweep->count + 1, 1);
    }
    if (!sweep || !sweep->used)
        fan__sqlite_fail(connection, FAN_NO_MEMORY);
    status = fan__sqlite_read_end(connection);
    if (status != FAN_OK)
        fan__sqlite_sweep_free(store);
    return status;
}

static void note_used(struct fan__sqlite_sweep *sweep, int64_t id)
{
    size_t low = 0;
    size_t high = sweep->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (id_at(sweep, middle) < id)
            low = middle + 1;
        else
            high = middle;
    }
    if (low < sweep->count && id_at(sweep, low) == id)
        sweep->used[low] = 1;
}

static enum fan_status look(struct fan__sqlite *store)
{
    struct fan__sqlite_sweep *sweep = store->sweep;
    struct fan__sqlite_connection *connection = NULL;
    enum fan_status status = fan__sqlite_read_begin(store, &connection);
    if (status != FAN_OK)
        return status;
    for (int i = 0; i < BLOCKS_PER_STEP && sweep->block <= sweep->last_block; i++) {
        sqlite3_stmt *statement = fan__sqlite_use(connection, FAN__SQL_BLOCK_ALL);
        sqlite3_bind_int64(statement, 1, (int64_t)sweep->block);
        int64_t last_id = -1;
        while (fan__sqlite_step(connection, statement)) {
            int64_t id = sqlite3_column_int64(statement, 1);
            if (id != last_id)
                note_used(sweep, id);
            last_id = id;
        }
        sweep->block++;
    }
    return fan__sqlite_read_end(connection);
}

/* Forgets one series, unless an event that came since uses it. */
static bool forget(struct fan__sqlite *store, int64_t id)
{
    struct fan__sqlite_connection *writer = store->writer;
    sqlite3_stmt *statement = fan__sqlite_use(writer, FAN__SQL_SERIES_USED);
    sqlite3_bind_int64(statement, 1, id);
    sqlite3_bind_int64(statement, 2, (int64_t)store->sweep->last_block);
    if (fan__sqlite_number(writer, statement, 0) != 0)
        return false;
    statement = fan__sqlite_use(writer, FAN__SQL_KEY_FORGET);
    sqlite3_bind_int64(statement, 1, id);
    fan__sqlite_run(writer, statement);
    statement = fan__sqlite_use(writer, FAN__SQL_SERIES_FORGET);
    sqlite3_bind_int64(statement, 1, id);
    fan__sqlite_run(writer, statement);
    return writer->status == FAN_OK && sqlite3_changes(writer->db) > 0;
}

/* Tells every cache of series, here and in other processes, that some are gone. */
static void tell_caches(struct fan__sqlite *store)
{
    struct fan__sqlite_connection *writer = store->writer;
    sqlite3_stmt *statement = fan__sqlite_use(writer, FAN__SQL_META_ADD);
    sqlite3_bind_text(statement, 1, "key_generation", -1, SQLITE_STATIC);
    sqlite3_bind_int64(statement, 2, 1);
    fan__sqlite_run(writer, statement);
    fan__sqlite_run(writer, fan__sqlite_use(writer, FAN__SQL_SERIES_SWEPT));
    fan__tuples_clear(store->tuples);
}

static enum fan_status forget_some(struct fan__sqlite *store)
{
    struct fan__sqlite_sweep *sweep = store->sweep;
    enum fan_status status = fan__sqlite_write_begin_unsynced(store);
    if (status != FAN_OK)
        return status;
    size_t forgotten = 0;
    size_t next = sweep->next;
    for (size_t tried = 0; next < sweep->count && tried < SERIES_PER_STEP; next++) {
        if (sweep->used[next])
            continue;
        tried++;
        forgotten += forget(store, id_at(sweep, next));
    }
    if (forgotten > 0)
        tell_caches(store);
    status = fan__sqlite_write_end(store, FAN_OK, 0, NULL);
    if (status == FAN_OK)
        sweep->next = next;
    return status;
}

enum fan_status fan__sqlite_sweep_step(struct fan__sqlite *store, bool *ret_more)
{
    struct fan__sqlite_sweep *sweep = store->sweep;
    enum fan_status status = sweep->block <= sweep->last_block ? look(store) : forget_some(store);
    *ret_more =
        status == FAN_OK && (sweep->block <= sweep->last_block || sweep->next < sweep->count);
    if (!*ret_more)
        fan__sqlite_sweep_free(store);
    return status;
}
