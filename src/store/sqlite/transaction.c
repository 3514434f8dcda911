/*
 * Snapshots from the pool, and the one write transaction. Sequences are given out under the write
 * lock of the database, so that they rise in the order of the commits, in all processes.
 */
#include "store/sqlite/store.h"

#include "base/env.h"
#include "base/status.h"
#include "store/sqlite/series.h"

#include <stdio.h>

/* Resets whatever a failure left in the middle: an open statement would keep the snapshot. */
static void reset_all(struct fan__sqlite_connection *connection)
{
    for (size_t i = 0; i < FAN__SQL_COUNT; i++) {
        if (connection->statements[i] && sqlite3_stmt_busy(connection->statements[i]))
            sqlite3_reset(connection->statements[i]);
    }
}

static enum fan_status pool_take(struct fan__sqlite *store,
                                 struct fan__sqlite_connection **ret_connection)
{
    fan__mutex_lock(&store->pool_mutex);
    while (!store->pool && store->pool_count == FAN__SQLITE_READER_COUNT_MAX)
        fan__cond_wait(&store->pool_returned, &store->pool_mutex);
    struct fan__sqlite_connection *connection = store->pool;
    if (connection)
        store->pool = connection->next;
    else
        store->pool_count++;
    fan__mutex_unlock(&store->pool_mutex);
    if (connection) {
        *ret_connection = connection;
        return FAN_OK;
    }
    enum fan_status status = fan__sqlite_connect(store, ret_connection, NULL);
    if (status != FAN_OK) {
        fan__mutex_lock(&store->pool_mutex);
        store->pool_count--;
        fan__cond_signal(&store->pool_returned);
        fan__mutex_unlock(&store->pool_mutex);
    }
    return status;
}

static void pool_give(struct fan__sqlite_connection *connection)
{
    struct fan__sqlite *store = connection->store;
    fan__mutex_lock(&store->pool_mutex);
    connection->next = store->pool;
    store->pool = connection;
    fan__cond_signal(&store->pool_returned);
    fan__mutex_unlock(&store->pool_mutex);
}

enum fan_status fan__sqlite_read_begin(struct fan__sqlite *store,
                                       struct fan__sqlite_connection **ret_connection)
{
    if (store->fork_generation != fan__fork_generation())
        return FAN_FORKED;
    struct fan__sqlite_connection *connection = NULL;
    enum fan_status status = pool_take(store, &connection);
    if (status != FAN_OK)
        return status;
    connection->status = FAN_OK;
    fan__sqlite_run(connection, fan__sqlite_use(connection, FAN__SQL_BEGIN));
    if (connection->status != FAN_OK)
        return fan__sqlite_read_end(connection);
    *ret_connection = connection;
    return FAN_OK;
}

enum fan_status fan__sqlite_read_end(struct fan__sqlite_connection *connection)
{
    enum fan_status status = connection->status;
    reset_all(connection);
    connection->status = FAN_OK;
    if (!sqlite3_get_autocommit(connection->db))
        fan__sqlite_run(connection, fan__sqlite_use(connection, FAN__SQL_COMMIT));
    if (connection->status != FAN_OK) {
        connection->status = FAN_OK;
        fan__sqlite_run(connection, fan__sqlite_use(connection, FAN__SQL_ROLLBACK));
    }
    pool_give(connection);
    return status;
}

void fan__sqlite_bounds(struct fan__sqlite_connection *connection,
                        struct fan__sqlite_bounds *ret_bounds)
{
    *ret_bounds = (struct fan__sqlite_bounds){ 0 };
    sqlite3_stmt *statement = fan__sqlite_use(connection, FAN__SQL_BOUNDS);
    if (!fan__sqlite_step(connection, statement))
        return;
    uint64_t last = (uint64_t)sqlite3_column_int64(statement, 0);
    uint64_t floor = (uint64_t)sqlite3_column_int64(statement, 1);
    ret_bounds->head_seq = last > floor ? last : floor;
    ret_bounds->trimmed_seq = (uint64_t)sqlite3_column_int64(statement, 2);
    sqlite3_reset(statement);
}

static int64_t meta_get(struct fan__sqlite_connection *connection, const char *key)
{
    sqlite3_stmt *statement = fan__sqlite_use(connection, FAN__SQL_META_GET);
    sqlite3_bind_text(statement, 1, key, -1, SQLITE_STATIC);
    return fan__sqlite_number(connection, statement, 0);
}

/* Forgets what another process may have changed since our last transaction. */
static void refresh(struct fan__sqlite *store)
{
    struct fan__sqlite_connection *writer = store->writer;
    int64_t version =
        fan__sqlite_number(writer, fan__sqlite_use(writer, FAN__SQL_DATA_VERSION), -1);
    if (writer->status != FAN_OK || version == store->data_version)
        return;
    struct fan__sqlite_bounds bounds;
    fan__sqlite_bounds(writer, &bounds);
    int64_t generation = meta_get(writer, "key_generation");
    if (writer->status == FAN_OK)
        fan__sqlite_clock_load(store);
    if (writer->status != FAN_OK)
        return;
    if (generation != store->key_generation)
        fan__tuples_clear(store->tuples);
    store->marks.known = false;
    store->key_generation = generation;
    store->head_seq = bounds.head_seq;
    store->data_version = version;
}

/* A log whose file was moved or deleted must not take events: nobody would find them again. */
static void check_place(struct fan__sqlite_connection *writer)
{
    int moved = 0;
    if (sqlite3_file_control(writer->db, "main", SQLITE_FCNTL_HAS_MOVED, &moved) != SQLITE_OK ||
        !moved)
        return;
    writer->status = FAN_UNAVAILABLE;
    snprintf(writer->message, sizeof(writer->message), "the log's file was moved or deleted");
}

/* Chooses whether the next commit waits for the disk. It never goes on with the wrong answer. */
static void set_synced(struct fan__sqlite *store, bool synced)
{
    if (store->synchronous_normal || store->unsynced == !synced)
        return;
    int code = fan__sqlite_exec(store->writer, synced ? "PRAGMA synchronous = FULL"
                                                      : "PRAGMA synchronous = NORMAL");
    if (code == SQLITE_OK)
        store->unsynced = !synced;
    else
        fan__sqlite_failed(store->writer, code);
}

enum intent {
    INTENT_WRITE,
    INTENT_WRITE_UNSYNCED,
    INTENT_LOOK,
};

static enum fan_status begin(struct fan__sqlite *store, enum intent intent, struct fan_error *error)
{
    if (store->fork_generation != fan__fork_generation())
        return fan__fail(error, FAN_FORKED, NULL, "the store was opened before the fork");
    fan__mutex_lock(&store->writer_mutex);
    struct fan__sqlite_connection *writer = store->writer;
    writer->status = FAN_OK;
    fan__sqlite_clock_note(store);
    check_place(writer);
    if (intent == INTENT_LOOK) {
        fan__sqlite_run(writer, fan__sqlite_use(writer, FAN__SQL_BEGIN));
    } else {
        set_synced(store, intent == INTENT_WRITE);
        fan__sqlite_run(writer, fan__sqlite_use(writer, FAN__SQL_BEGIN_IMMEDIATE));
    }
    refresh(store);
    store->changes = sqlite3_total_changes(writer->db);
    return writer->status == FAN_OK ? FAN_OK : fan__sqlite_write_end(store, FAN_OK, 0, error);
}

enum fan_status fan__sqlite_write_begin(struct fan__sqlite *store, struct fan_error *error)
{
    return begin(store, INTENT_WRITE, error);
}

enum fan_status fan__sqlite_write_begin_unsynced(struct fan__sqlite *store)
{
    return begin(store, INTENT_WRITE_UNSYNCED, NULL);
}

enum fan_status fan__sqlite_look_begin(struct fan__sqlite *store)
{
    return begin(store, INTENT_LOOK, NULL);
}

/*
 * A commit whose write failed left no whole commit in the file. One whose sync failed did leave it
 * there: we take it back, but after a crash it may be found.
 */
static enum fan_status commit(struct fan__sqlite_connection *writer)
{
    sqlite3_stmt *statement = fan__sqlite_use(writer, FAN__SQL_COMMIT);
    if (!statement)
        return writer->status;
    int code = sqlite3_step(statement);
    if (code != SQLITE_DONE)
        fan__sqlite_failed(writer, code);
    sqlite3_reset(statement);
    bool unsure = code == SQLITE_IOERR_FSYNC || code == SQLITE_IOERR_DIR_FSYNC;
    return unsure ? FAN_UNKNOWN : writer->status;
}

enum fan_status fan__sqlite_write_end(struct fan__sqlite *store, enum fan_status status,
                                      uint64_t head_seq, struct fan_error *error)
{
    struct fan__sqlite_connection *writer = store->writer;
    reset_all(writer);
    if (writer->status == FAN_OK && status == FAN_OK &&
        sqlite3_total_changes(writer->db) != store->changes)
        fan__sqlite_clock_keep(store);
    if (writer->status != FAN_OK)
        status = writer->status;
    if (status == FAN_OK)
        status = commit(writer);
    if (status != FAN_OK) {
        fan__sqlite_clock_roll_back(store);
        store->marks.known = false;
        (void)fan__fail(error, status, NULL, "%s: %s", store->path,
                        writer->status != FAN_OK ? writer->message : fan_status_text(status));
        fan__sqlite_tuples_roll_back(store);
        if (!sqlite3_get_autocommit(writer->db)) {
            writer->status = FAN_OK;
            fan__sqlite_run(writer, fan__sqlite_use(writer, FAN__SQL_ROLLBACK));
        }
    } else {
        fan__sqlite_tuples_commit(store);
        if (head_seq > store->head_seq)
            store->head_seq = head_seq;
    }
    uint64_t tail_seq = store->head_seq;
    fan__sqlite_checkpoint_finish(store, status);
    fan__mutex_unlock(&store->writer_mutex);
    if (status == FAN_OK && head_seq > 0)
        fan__sqlite_tail_moved(store, tail_seq);
    return status;
}
