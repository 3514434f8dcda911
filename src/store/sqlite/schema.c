/*
 * What lies at the path: nothing, a log of ours, or something else that must not be touched. Only
 * what is certain to be ours, or empty, is ever written to.
 */
#include "store/sqlite/store.h"

#include "base/env.h"
#include "base/status.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DATABASE_SIZE_MIN 512
#define WAL_TRY_COUNT 500
#define WAL_TRY_MS 10

void fan__sqlite_folder_of(const char *path, char *folder, size_t size)
{
    const char *slash = strrchr(path, '/');
    size_t length = slash ? (size_t)(slash - path) : 1;
    if (length >= size)
        length = size - 1;
    memcpy(folder, slash ? path : ".", length);
    folder[length] = '\0';
    if (slash == path)
        memcpy(folder, "/", sizeof("/"));
}

/* SQLite says "unable to open database file" for all of these. */
static enum fan_status check_path(const char *path, struct fan_error *error)
{
    char folder[1024];
    struct stat info;
    fan__sqlite_folder_of(path, folder, sizeof(folder));
    if (stat(folder, &info) != 0)
        return errno == EACCES
                   ? fan__fail(error, FAN_DENIED, "uri", "%s: no permission to enter", folder)
                   : fan__fail(error, FAN_NOT_FOUND, "uri", "%s: there is no such folder", folder);
    if (!S_ISDIR(info.st_mode))
        return fan__fail(error, FAN_INVALID, "uri", "%s is not a folder", folder);
    if (access(folder, W_OK | X_OK) != 0)
        return errno == EROFS
                   ? fan__fail(error, FAN_READ_ONLY, "uri", "%s: read-only file system", folder)
                   : fan__fail(error, FAN_DENIED, "uri",
                               "%s: no permission to write in this folder (the log keeps its "
                               "-wal and -shm files there)",
                               folder);
    if (stat(path, &info) != 0)
        return FAN_OK;
    if (S_ISDIR(info.st_mode))
        return fan__fail(error, FAN_INVALID, "uri", "%s is a folder, expected a file", path);
    if (!S_ISREG(info.st_mode))
        return fan__fail(error, FAN_INVALID, "uri", "%s is no regular file", path);
    /* Its -wal file goes by its name, so that under two names it would be two logs in one file. */
    if (info.st_nlink > 1)
        return fan__fail(error, FAN_INVALID, "uri",
                         "%s has %lu names (hard links), and a log must have one", path,
                         (unsigned long)info.st_nlink);
    /* SQLite takes a file of a byte for an empty one, and would write over it. */
    if (info.st_size > 0 && info.st_size < DATABASE_SIZE_MIN)
        return fan__fail(error, FAN_CORRUPT, "uri", "%s is no SQLite database, and no log", path);
    if (access(path, R_OK | W_OK) != 0)
        return fan__fail(error, errno == EROFS ? FAN_READ_ONLY : FAN_DENIED, "uri",
                         "%s: no permission to read and write", path);
    return FAN_OK;
}

/* Reads one number by SQL that runs once; without a row *ret_number stays as it is. */
static int read_number(struct fan__sqlite_connection *connection, const char *sql,
                       int64_t *ret_number)
{
    sqlite3_stmt *statement = NULL;
    int code = sqlite3_prepare_v2(connection->db, sql, -1, &statement, NULL);
    if (code == SQLITE_OK) {
        code = sqlite3_step(statement);
        if (code == SQLITE_ROW)
            *ret_number = sqlite3_column_int64(statement, 0);
    }
    sqlite3_finalize(statement);
    return code == SQLITE_ROW || code == SQLITE_DONE ? SQLITE_OK : code;
}

static enum fan_status failed(const struct fan__sqlite *store, int code, struct fan_error *error)
{
    return fan__sqlite_tell(store, store->writer->db, code, error);
}

/*
 * Tells what the file is: *ret_format is that of a log, 0 for nothing, so that a log may be made of
 * it.
 */
static enum fan_status identify(struct fan__sqlite *store, int64_t *ret_format,
                                struct fan_error *error)
{
    int64_t application = 0;
    int64_t format = 0;
    int64_t tables = 0;
    int code = read_number(store->writer, "PRAGMA application_id", &application);
    if (code == SQLITE_OK)
        code = read_number(store->writer, "PRAGMA user_version", &format);
    if (code == SQLITE_OK)
        code = read_number(store->writer, "SELECT count(*) FROM sqlite_schema", &tables);
    if (code != SQLITE_OK)
        return failed(store, code, error);
    *ret_format = format;
    if (application == 0 && format == 0 && tables == 0)
        return FAN_OK;
    if (application != FAN__SQLITE_APPLICATION_ID)
        return fan__fail(error, FAN_CORRUPT, "uri",
                         "%s is an SQLite database of another program (application id 0x%08x), "
                         "and no log",
                         store->path, (unsigned)application);
    if (format > FAN__SQLITE_FORMAT)
        return fan__fail(error, FAN_TOO_NEW, "uri",
                         "%s has format %lld, and this library knows formats up to %d", store->path,
                         (long long)format, FAN__SQLITE_FORMAT);
    if (format < 1)
        return fan__fail(error, FAN_CORRUPT, "uri", "%s: the log has no format", store->path);
    return FAN_OK;
}

/*
 * The change to WAL is itself a commit with a rollback journal. Were that journal's name to come
 * back after a power loss, SQLite would roll the file back to nothing under all that was appended
 * since: so its removal is synced, too (EXTRA). SQLite refuses to wait for this one pragma when two
 * processes try at once.
 */
static int enter_wal(struct fan__sqlite *store)
{
    struct fan__sqlite_connection *writer = store->writer;
    int code = fan__sqlite_exec(writer, "PRAGMA synchronous = EXTRA");
    if (code != SQLITE_OK)
        return code;
    code = SQLITE_BUSY;
    for (int i = 0; i < WAL_TRY_COUNT && (code & 0xff) == SQLITE_BUSY; i++) {
        if (i > 0)
            sqlite3_sleep(WAL_TRY_MS);
        code = fan__sqlite_exec(writer, "PRAGMA journal_mode = WAL");
    }
    if (code != SQLITE_OK)
        return code;
    return fan__sqlite_exec(writer, store->synchronous_normal ? "PRAGMA synchronous = NORMAL"
                                                              : "PRAGMA synchronous = FULL");
}

static int set_meta(struct fan__sqlite_connection *writer, const char *key, int64_t value)
{
    sqlite3_stmt *statement = NULL;
    int code = sqlite3_prepare_v2(writer->db, "INSERT INTO meta(key, value) VALUES(?1, ?2)", -1,
                                  &statement, NULL);
    if (code != SQLITE_OK)
        return code;
    sqlite3_bind_text(statement, 1, key, -1, SQLITE_STATIC);
    sqlite3_bind_int64(statement, 2, value);
    sqlite3_step(statement);
    return sqlite3_finalize(statement);
}

static int create(struct fan__sqlite *store)
{
    struct fan__sqlite_connection *writer = store->writer;
    int64_t epoch = 0;
    while (epoch == 0)
        fan__random(store->env, &epoch, sizeof(epoch));
    const struct {
        const char *key;
        int64_t value;
    } metas[] = {
        { "epoch", epoch },      { "head_floor", 0 }, { "trimmed_seq", 0 },
        { "key_generation", 0 }, { "fence", 0 },      { "token_floor", 0 },
    };
    int code = fan__sqlite_exec(writer, FAN__SQLITE_SCHEMA_TABLES);
    if (code == SQLITE_OK)
        code = fan__sqlite_exec(writer, FAN__SQLITE_SCHEMA_TRIGGERS);
    if (code == SQLITE_OK)
        code = fan__sqlite_exec(writer, FAN__SQLITE_SCHEMA_VIEWS);
    for (size_t i = 0; code == SQLITE_OK && i < sizeof(metas) / sizeof(*metas); i++)
        code = set_meta(writer, metas[i].key, metas[i].value);
    return code;
}

/* A group that has members is not to look as if nobody ever joined it. */
static int migrate(struct fan__sqlite *store)
{
    char sql[96];
    snprintf(sql, sizeof(sql), "UPDATE grp SET joined_us = %lld",
             (long long)fan__wall_us(store->env));
    int code = fan__sqlite_exec(store->writer, FAN__SQLITE_MIGRATE_1);
    return code == SQLITE_OK ? fan__sqlite_exec(store->writer, sql) : code;
}

/* Makes the log, or brings it to this format, unless another process was first. */
static enum fan_status make(struct fan__sqlite *store, struct fan_error *error)
{
    struct fan__sqlite_connection *writer = store->writer;
    int code = fan__sqlite_exec(writer, "BEGIN IMMEDIATE");
    if (code != SQLITE_OK)
        return failed(store, code, error);
    int64_t format = FAN__SQLITE_FORMAT;
    enum fan_status status = identify(store, &format, error);
    if (status == FAN_OK && format < FAN__SQLITE_FORMAT) {
        code = format == 0 ? create(store) : migrate(store);
        if (code != SQLITE_OK)
            status = failed(store, code, error);
    }
    if (status == FAN_OK) {
        code = fan__sqlite_exec(writer, "COMMIT");
        if (code != SQLITE_OK)
            status = failed(store, code, error);
    }
    if (status != FAN_OK)
        (void)fan__sqlite_exec(writer, "ROLLBACK");
    return status;
}

static enum fan_status no_log(const char *path, struct fan_error *error)
{
    return fan__fail(error, FAN_NOT_FOUND, "uri", "%s: there is no log", path);
}

enum fan_status fan__sqlite_schema_open(struct fan__sqlite *store, struct fan_error *error)
{
    enum fan_status status = store->vfs ? FAN_OK : check_path(store->path, error);
    if (status == FAN_OK && store->must_exist && !store->vfs && access(store->path, F_OK) != 0)
        status = no_log(store->path, error);
    if (status == FAN_OK)
        status = fan__sqlite_connect(store, &store->writer, error);
    int64_t format = FAN__SQLITE_FORMAT;
    if (status == FAN_OK)
        status = identify(store, &format, error);
    if (status == FAN_OK && format == 0 && store->must_exist)
        status = no_log(store->path, error);
    if (status != FAN_OK)
        return status;
    int code = enter_wal(store);
    if (code != SQLITE_OK)
        return failed(store, code, error);
    status = format < FAN__SQLITE_FORMAT ? make(store, error) : FAN_OK;
    if (status != FAN_OK)
        return status;
    int64_t epoch = 0;
    code = read_number(store->writer, "SELECT value FROM meta WHERE key = 'epoch'", &epoch);
    if (code != SQLITE_OK)
        return failed(store, code, error);
    if (epoch == 0)
        return fan__fail(error, FAN_CORRUPT, "uri", "%s: the log has no epoch", store->path);
    store->epoch = (uint64_t)epoch;
    fan__sqlite_clock_load(store);
    if (store->writer->status != FAN_OK)
        return fan__fail(error, store->writer->status, "uri", "%s: %s", store->path,
                         store->writer->message);
    return FAN_OK;
}
