/*
 * One connection: opening, statements that are prepared once, and what SQLite's codes mean to us.
 * A connection is never used by two threads at once, so SQLite's own lock on it is left out.
 */
#include "store/sqlite/store.h"

#include "base/env.h"
#include "base/status.h"
#include "event/uuid.h"
#include "store/sqlite/series.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define LOCK_PAUSE_US 100
#define LOCK_PAUSE_STEP_US 5

static const char *const texts[FAN__SQL_COUNT] = {
#define FAN__SQLITE_TEXT(name, text) text,
    FAN__SQLITE_STATEMENTS(FAN__SQLITE_TEXT)
#undef FAN__SQLITE_TEXT
};

const char *fan__sqlite_text(enum fan__sqlite_statement statement)
{
    return texts[statement];
}

enum fan_status fan__sqlite_map_errno(int system_error, enum fan_status otherwise)
{
    switch (system_error) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return FAN_NO_SPACE;
    case EROFS:
        return FAN_READ_ONLY;
    case EACCES:
    case EPERM:
        return FAN_DENIED;
    default:
        return otherwise;
    }
}

/* The last system error of the database's file or its write-ahead log, 0 without one. */
static int file_errno(sqlite3 *db, int opcode)
{
    sqlite3_file *file = NULL;
    int system_error = 0;
    if (sqlite3_file_control(db, "main", opcode, &file) != SQLITE_OK || !file || !file->pMethods ||
        file->pMethods->xFileControl(file, SQLITE_FCNTL_LAST_ERRNO, &system_error) != SQLITE_OK)
        return 0;
    return system_error;
}

/* Which write failed how is forgotten by the connection once it has rolled back. */
static enum fan_status map_write(sqlite3 *db)
{
    enum fan_status status =
        fan__sqlite_map_errno(file_errno(db, SQLITE_FCNTL_JOURNAL_POINTER), FAN_IO);
    return status != FAN_IO
               ? status
               : fan__sqlite_map_errno(file_errno(db, SQLITE_FCNTL_FILE_POINTER), FAN_IO);
}

enum fan_status fan__sqlite_map(sqlite3 *db, int code)
{
    switch (code & 0xff) {
    case SQLITE_OK:
    case SQLITE_DONE:
    case SQLITE_ROW:
        return FAN_OK;
    case SQLITE_NOMEM:
        return FAN_NO_MEMORY;
    case SQLITE_FULL:
        return FAN_NO_SPACE;
    case SQLITE_READONLY:
        return FAN_READ_ONLY;
    case SQLITE_PERM:
    case SQLITE_AUTH:
        return FAN_DENIED;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return FAN_CORRUPT;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_PROTOCOL:
        return FAN_UNAVAILABLE;
    case SQLITE_TOOBIG:
        return FAN_INVALID;
    case SQLITE_CANTOPEN:
        return fan__sqlite_map_errno(db ? sqlite3_system_errno(db) : 0, FAN_UNAVAILABLE);
    default:
        if (code == SQLITE_IOERR_NOMEM)
            return FAN_NO_MEMORY;
        if (code == SQLITE_IOERR_WRITE && db)
            return map_write(db);
        return fan__sqlite_map_errno(db ? sqlite3_system_errno(db) : 0, FAN_IO);
    }
}

void fan__sqlite_failed(struct fan__sqlite_connection *connection, int code)
{
    if (connection->status != FAN_OK)
        return;
    connection->status = fan__sqlite_map(connection->db, code);
    int system_error = sqlite3_system_errno(connection->db);
    const char *reason =
        system_error != 0 && (code & 0xff) != SQLITE_BUSY ? strerror(system_error) : "";
    snprintf(connection->message, sizeof(connection->message), "%s%s%s",
             sqlite3_errmsg(connection->db), *reason ? ": " : "", reason);
}

void fan__sqlite_fail(struct fan__sqlite_connection *connection, enum fan_status status)
{
    if (connection->status != FAN_OK || status == FAN_OK)
        return;
    connection->status = status;
    snprintf(connection->message, sizeof(connection->message), "%s", fan_status_text(status));
}

int fan__sqlite_exec(struct fan__sqlite_connection *connection, const char *sql)
{
    return sqlite3_exec(connection->db, sql, NULL, NULL, NULL);
}

sqlite3_stmt *fan__sqlite_use(struct fan__sqlite_connection *connection,
                              enum fan__sqlite_statement statement)
{
    if (connection->status != FAN_OK)
        return NULL;
    sqlite3_stmt **prepared = &connection->statements[statement];
    if (!*prepared) {
        int code = sqlite3_prepare_v3(connection->db, texts[statement], -1,
                                      SQLITE_PREPARE_PERSISTENT, prepared, NULL);
        if (code != SQLITE_OK) {
            fan__sqlite_failed(connection, code);
            return NULL;
        }
    } else if (sqlite3_stmt_busy(*prepared)) {
        sqlite3_reset(*prepared);
    }
    return *prepared;
}

bool fan__sqlite_step(struct fan__sqlite_connection *connection, sqlite3_stmt *statement)
{
    if (connection->status != FAN_OK)
        return false;
    int code = sqlite3_step(statement);
    if (code == SQLITE_ROW)
        return true;
    if (code != SQLITE_DONE)
        fan__sqlite_failed(connection, code);
    sqlite3_reset(statement);
    return false;
}

void fan__sqlite_run(struct fan__sqlite_connection *connection, sqlite3_stmt *statement)
{
    if (fan__sqlite_step(connection, statement))
        sqlite3_reset(statement);
}

void fan__sqlite_set_triggers(struct fan__sqlite_connection *connection, int on)
{
    int code = sqlite3_db_config(connection->db, SQLITE_DBCONFIG_ENABLE_TRIGGER, on, NULL);
    if (code != SQLITE_OK)
        fan__sqlite_failed(connection, code);
}

int64_t fan__sqlite_number(struct fan__sqlite_connection *connection, sqlite3_stmt *statement,
                           int64_t otherwise)
{
    if (!fan__sqlite_step(connection, statement))
        return otherwise;
    int64_t number = sqlite3_column_int64(statement, 0);
    sqlite3_reset(statement);
    return number;
}

void fan__sqlite_bind_text(sqlite3_stmt *statement, int index, const char *text)
{
    if (text && *text)
        sqlite3_bind_text(statement, index, text, -1, SQLITE_STATIC);
    else
        sqlite3_bind_null(statement, index);
}

void fan__sqlite_bind_id(sqlite3_stmt *statement, int index, const char *id, unsigned char uuid[16])
{
    if (fan__uuid_parse(id, uuid))
        sqlite3_bind_blob(statement, index, uuid, FAN__UUID_SIZE, SQLITE_STATIC);
    else
        sqlite3_bind_text(statement, index, id, -1, SQLITE_STATIC);
}

enum fan_status fan__sqlite_tell(const struct fan__sqlite *store, sqlite3 *db, int code,
                                 struct fan_error *error)
{
    if ((code & 0xff) == SQLITE_NOTADB)
        return fan__fail(error, FAN_CORRUPT, "uri", "%s is no SQLite database, and no log",
                         store->path);
    return fan__fail(error, fan__sqlite_map(db, code), "uri", "%s: %s", store->path,
                     db ? sqlite3_errmsg(db) : sqlite3_errstr(code));
}

/*
 * Waits for a lock that another process (or store) holds. SQLite's own handler soon asks only ten
 * times a second, and a process that writes without a pause leaves the lock free for microseconds:
 * the other one then starves. This one asks some thousand times a second, at uneven intervals.
 */
static int wait_for_lock(void *context, int tries)
{
    struct fan__sqlite_connection *connection = context;
    if (tries == 0)
        connection->lock_until_ns = fan__deadline_ns(FAN__SQLITE_BUSY_MS);
    if (fan__deadline_ns(0) >= connection->lock_until_ns)
        return 0;
    unsigned step = ((unsigned)tries + 1) * 0x9e3779b1u >> 24;
    sqlite3_vfs *vfs = sqlite3_vfs_find(connection->store->vfs);
    vfs->xSleep(vfs, LOCK_PAUSE_US + (int)step * LOCK_PAUSE_STEP_US);
    return 1;
}

static int configure(struct fan__sqlite_connection *connection)
{
    struct fan__sqlite *store = connection->store;
    sqlite3_extended_result_codes(connection->db, 1);
    sqlite3_busy_handler(connection->db, wait_for_lock, connection);
    char sql[256];
    snprintf(sql, sizeof(sql),
             "PRAGMA automatic_index = OFF; PRAGMA wal_autocheckpoint = 0;"
             "PRAGMA cache_size = -8000; PRAGMA temp_store = MEMORY; PRAGMA synchronous = %s",
             store->synchronous_normal ? "NORMAL" : "FULL");
    return fan__sqlite_exec(connection, sql);
}

enum fan_status fan__sqlite_connect(struct fan__sqlite *store,
                                    struct fan__sqlite_connection **ret_connection,
                                    struct fan_error *error)
{
    struct fan__sqlite_connection *connection = fan__alloc_zero(store->env, 1, sizeof(*connection));
    if (!connection)
        return fan__fail(error, FAN_NO_MEMORY, NULL, "no memory for a connection");
    connection->store = store;
    fan__buffer_init(&connection->scratch, store->env);
    connection->rows = fan__rows_new(store->env);
    int flags =
        SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE;
    int code = sqlite3_open_v2(store->path, &connection->db, flags, store->vfs);
    if (code == SQLITE_OK)
        code = configure(connection);
    enum fan_status status = FAN_OK;
    if (code != SQLITE_OK) {
        status = fan__sqlite_tell(store, connection->db, code, error);
    } else if (!connection->rows) {
        status = fan__fail(error, FAN_NO_MEMORY, NULL, "no memory for a connection");
    }
    if (status != FAN_OK) {
        fan__sqlite_disconnect(connection);
        return status;
    }
    *ret_connection = connection;
    return FAN_OK;
}

void fan__sqlite_disconnect(struct fan__sqlite_connection *connection)
{
    if (!connection)
        return;
    for (size_t i = 0; i < FAN__SQL_COUNT; i++)
        sqlite3_finalize(connection->statements[i]);
    sqlite3_close(connection->db);
    fan__rows_free(connection->rows);
    fan__sets_free(&connection->sets, connection->store->env);
    fan__buffer_deinit(&connection->scratch);
    fan__free(connection->store->env, connection);
}
