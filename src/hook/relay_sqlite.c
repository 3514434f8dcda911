/*
 * An outbox in SQLite as its relay sees it: the numbers rise in the order of the commits, since
 * SQLite has one writer, and `PRAGMA data_version` tells whether somebody else has committed.
 */
#include "hook/outbox.h"

#include "base/env.h"
#include "base/status.h"
#include "hook/relay.h"
#include "hook/sql.h"

#include <string.h>

#define BUSY_MS 100

enum sql {
    SQL_VERSION,
    SQL_BOUNDS,
    SQL_LOAD,
    SQL_REMOVE,
    SQL_ASIDE,
    SQL_COUNT,
};

struct outbox {
    const struct fan_env *env;
    char *table;
    sqlite3 *db;
    sqlite3_stmt *statements[SQL_COUNT];
    int64_t version;
    bool dirty; /* there may be rows, whatever the version says */
};

/* --- the connection ----------------------------------------------------------------------- */

static enum fan_status prepare(struct outbox *outbox, enum sql which, struct fan__buffer *sql,
                               struct fan_error *error)
{
    return fan__sql_prepare(outbox->db, sql, &outbox->statements[which], error);
}

static enum fan_status prepare_all(struct outbox *outbox, struct fan_error *error)
{
    struct fan__buffer sql;
    fan__buffer_init(&sql, outbox->env);
    fan__buffer_add_text(&sql, "PRAGMA data_version");
    enum fan_status status = prepare(outbox, SQL_VERSION, &sql, error);
    if (status == FAN_OK) {
        fan__buffer_add_text(&sql, "SELECT (SELECT min(seq) FROM");
        fan__outbox_add_table(&sql, outbox->table);
        fan__buffer_add_text(&sql, "), (SELECT max(seq) FROM");
        fan__outbox_add_table(&sql, outbox->table);
        fan__buffer_add_text(&sql, ")");
        status = prepare(outbox, SQL_BOUNDS, &sql, error);
    }
    if (status == FAN_OK) {
        fan__buffer_add_text(&sql, "SELECT seq, id, recorded_us, event FROM");
        fan__outbox_add_table(&sql, outbox->table);
        fan__buffer_add_text(&sql, " ORDER BY seq LIMIT ?1");
        status = prepare(outbox, SQL_LOAD, &sql, error);
    }
    if (status == FAN_OK) {
        fan__buffer_add_text(&sql, "DELETE FROM");
        fan__outbox_add_table(&sql, outbox->table);
        fan__buffer_add_text(&sql, " WHERE seq = ?1");
        status = prepare(outbox, SQL_REMOVE, &sql, error);
    }
    if (status == FAN_OK) {
        fan__buffer_add_text(&sql, "INSERT OR REPLACE INTO");
        fan__outbox_add_aside(&sql, outbox->table);
        fan__buffer_add_text(&sql, " SELECT seq, id, recorded_us, event, ?2 FROM");
        fan__outbox_add_table(&sql, outbox->table);
        fan__buffer_add_text(&sql, " WHERE seq = ?1");
        status = prepare(outbox, SQL_ASIDE, &sql, error);
    }
    fan__buffer_deinit(&sql);
    return status;
}

/*
 * A deletion that a power loss undoes costs a repeated publish, which stores nothing; so where the
 * journal is a write-ahead log, deletions need not wait for the disk.
 */
static int lighten(sqlite3 *db)
{
    sqlite3_stmt *statement = NULL;
    int code = sqlite3_prepare_v2(db, "PRAGMA journal_mode", -1, &statement, NULL);
    bool wal = code == SQLITE_OK && sqlite3_step(statement) == SQLITE_ROW &&
               strcmp((const char *)sqlite3_column_text(statement, 0), "wal") == 0;
    sqlite3_finalize(statement);
    return wal ? fan__sql_exec(db, "PRAGMA synchronous = NORMAL") : code;
}

static enum fan_status connect_to(struct outbox *outbox, const char *database,
                                  struct fan_error *error)
{
    int code = sqlite3_open_v2(database, &outbox->db,
                               SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_URI, NULL);
    if (code == SQLITE_OK) {
        sqlite3_extended_result_codes(outbox->db, 1);
        sqlite3_busy_timeout(outbox->db, BUSY_MS);
        code = lighten(outbox->db);
    }
    if (code != SQLITE_OK)
        return fan__fail(error, fan__sql_status(code), "database", "%.160s: %s", database,
                         outbox->db ? sqlite3_errmsg(outbox->db) : sqlite3_errstr(code));
    return prepare_all(outbox, error);
}

static void close_it(void *self)
{
    struct outbox *outbox = self;
    for (size_t i = 0; i < SQL_COUNT; i++)
        sqlite3_finalize(outbox->statements[i]);
    sqlite3_close(outbox->db);
    fan__free(outbox->env, outbox->table);
    fan__free(outbox->env, outbox);
}

static enum fan_status open_it(const struct fan_env *env,
                               const struct fan_outbox_relay_options *options, void **ret_self,
                               struct fan_error *error)
{
    const char *table = options->table;
    enum fan_status status = fan__outbox_name(&table, error);
    if (status != FAN_OK)
        return status;
    struct outbox *outbox = fan__alloc_zero(env, 1, sizeof(*outbox));
    if (!outbox)
        return fan__fail(error, FAN_NO_MEMORY, "", "out of memory");
    outbox->env = env;
    outbox->dirty = true;
    outbox->table = fan__strdup(env, table);
    status = outbox->table ? connect_to(outbox, options->database, error)
                           : fan__fail(error, FAN_NO_MEMORY, "", "out of memory");
    if (status != FAN_OK) {
        close_it(outbox);
        return status;
    }
    *ret_self = outbox;
    return FAN_OK;
}

/* The database's full path and the table; what has no path is nobody else's. */
static void add_name(void *self, struct fan__buffer *name)
{
    struct outbox *outbox = self;
    unsigned char random[16];
    const char *path = sqlite3_db_filename(outbox->db, "main");
    fan__random(outbox->env, random, sizeof(random));
    if (path && *path)
        fan__buffer_add_text(name, path);
    else
        fan__buffer_add(name, random, sizeof(random));
    fan__buffer_add(name, "", 1);
    fan__buffer_add_text(name, outbox->table);
}

/* --- the rows ----------------------------------------------------------------------------- */

/* Whether another connection has committed since the last look. When in doubt, yes. */
static bool moved(struct outbox *outbox)
{
    sqlite3_stmt *statement = outbox->statements[SQL_VERSION];
    int64_t version = sqlite3_step(statement) == SQLITE_ROW ? sqlite3_column_int64(statement, 0)
                                                            : outbox->version + 1;
    sqlite3_reset(statement);
    bool result = version != outbox->version;
    outbox->version = version;
    return result;
}

/* How many wait is told by the bounds: the numbers have no holes, but where a hand deleted rows. */
static enum fan_status look_at_bounds(struct outbox *outbox, struct fan__sight *sight)
{
    sqlite3_stmt *statement = outbox->statements[SQL_BOUNDS];
    int code = sqlite3_step(statement);
    bool empty = sqlite3_column_type(statement, 1) == SQLITE_NULL;
    int64_t rows =
        empty ? 0 : sqlite3_column_int64(statement, 1) - sqlite3_column_int64(statement, 0) + 1;
    sqlite3_reset(statement);
    if (code != SQLITE_ROW)
        return fan__sql_status(code);
    sight->rows = (uint64_t)rows;
    return FAN_OK;
}

static enum fan_status load_rows(sqlite3_stmt *statement, const struct fan__load *load)
{
    size_t size = 0;
    size_t count = 0;
    int code;
    sqlite3_bind_int64(statement, 1, (int64_t)load->count_max);
    while ((code = sqlite3_step(statement)) == SQLITE_ROW) {
        struct fan_str text = { (const char *)sqlite3_column_text(statement, 3),
                                (size_t)sqlite3_column_bytes(statement, 3) };
        if (count > 0 && size + text.size > load->size_max)
            return FAN_OK;
        size += text.size;
        if (count++ == 0)
            load->sight->oldest_us = sqlite3_column_int64(statement, 2);
        struct fan__row place = { .seq = sqlite3_column_int64(statement, 0) };
        const char *id = (const char *)sqlite3_column_text(statement, 1);
        enum fan_status status = load->take(load->context, &place, id ? id : "", text);
        if (status != FAN_OK)
            return status;
    }
    enum fan_status status = fan__sql_status(code);
    return status == FAN_OK && count == 0 ? FAN_AGAIN : status;
}

static enum fan_status load_some(void *self, const struct fan__load *load, struct fan_error *error)
{
    struct outbox *outbox = self;
    sqlite3_stmt *statement = outbox->statements[SQL_LOAD];
    if (!moved(outbox) && !outbox->dirty)
        return FAN_AGAIN;
    outbox->dirty = true;
    enum fan_status status = look_at_bounds(outbox, load->sight);
    if (status == FAN_OK)
        status = load_rows(statement, load);
    if (status == FAN_AGAIN)
        outbox->dirty = false;
    else if (status != FAN_OK)
        fan__fail(error, status, "", "the outbox cannot be read: %s",
                  status == FAN_NO_MEMORY ? "out of memory" : sqlite3_errmsg(outbox->db));
    sqlite3_reset(statement);
    return status;
}

static int settle_rows(struct outbox *outbox, const struct fan__row *rows, size_t count)
{
    int code = fan__sql_exec(outbox->db, "BEGIN IMMEDIATE");
    for (size_t i = 0; i < count && code == SQLITE_OK; i++) {
        if (rows[i].reason) {
            sqlite3_stmt *aside = outbox->statements[SQL_ASIDE];
            sqlite3_bind_int64(aside, 1, rows[i].seq);
            sqlite3_bind_text(aside, 2, rows[i].reason, -1, SQLITE_STATIC);
            code = fan__sql_run(aside);
            sqlite3_clear_bindings(aside);
        }
        sqlite3_bind_int64(outbox->statements[SQL_REMOVE], 1, rows[i].seq);
        if (code == SQLITE_OK)
            code = fan__sql_run(outbox->statements[SQL_REMOVE]);
    }
    if (code == SQLITE_OK)
        code = fan__sql_exec(outbox->db, "COMMIT");
    return code;
}

static enum fan_status settle(void *self, const struct fan__row *rows, size_t count, bool whole,
                              struct fan_error *error)
{
    struct outbox *outbox = self;
    (void)whole;
    int code = settle_rows(outbox, rows, count);
    if (code == SQLITE_OK)
        return FAN_OK;
    enum fan_status status =
        fan__sql_fail(outbox->db, code, "the outbox's rows cannot be deleted", error);
    if (!sqlite3_get_autocommit(outbox->db))
        fan__sql_exec(outbox->db, "ROLLBACK");
    return status;
}

static int no_descriptor(void *self)
{
    (void)self;
    return -1;
}

const struct fan__outbox fan__outbox_sqlite = {
    .open = open_it,
    .close = close_it,
    .name = add_name,
    .load = load_some,
    .settle = settle,
    .descriptor = no_descriptor,
};
