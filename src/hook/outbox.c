/*
 * The writing half of the outbox: the tables, and one row for each event.
 *
 *     NAME        seq (in the order of the commits: SQLite has one writer, and AUTOINCREMENT uses
 *                 no number twice), id, recorded_us, event as JSON
 *     NAME_aside  the same, and the reason
 *
 * The id is a column of its own, so that a row whose event brings none has the same one each time
 * that it is published.
 */
#include "hook/outbox.h"

#include "base/env.h"
#include "base/status.h"
#include "hook/sql.h"

#include <fanfare/json.h>

#include <string.h>

#define NAME_SIZE_MAX 200

enum fan_status fan__outbox_name(const char **table, struct fan_error *error)
{
    if (!*table)
        *table = FAN_OUTBOX_TABLE;
    if (!**table || strlen(*table) > NAME_SIZE_MAX)
        return fan__fail(error, FAN_INVALID, "table", "must have 1 to %d bytes", NAME_SIZE_MAX);
    return FAN_OK;
}

void fan__outbox_add_table(struct fan__buffer *sql, const char *table)
{
    fan__buffer_add_text(sql, " main.");
    fan__sql_add_name(sql, table);
}

void fan__outbox_add_aside(struct fan__buffer *sql, const char *table)
{
    char name[NAME_SIZE_MAX + sizeof("_aside")];
    size_t size = strlen(table);
    memcpy(name, table, size);
    memcpy(name + size, "_aside", sizeof("_aside"));
    fan__outbox_add_table(sql, name);
}

static enum fan_status run(sqlite3 *db, struct fan__buffer *sql, struct fan_error *error)
{
    sqlite3_stmt *statement = NULL;
    enum fan_status status = fan__sql_prepare(db, sql, &statement, error);
    if (status != FAN_OK)
        return status;
    int code = fan__sql_run(statement);
    if (code != SQLITE_OK)
        status = fan__sql_fail(db, code, "the outbox's table", error);
    sqlite3_finalize(statement);
    return status;
}

enum fan_status fan_outbox_create(sqlite3 *db, const char *table, struct fan_error *ret_error)
{
    enum fan_status status = fan__outbox_name(&table, ret_error);
    if (status != FAN_OK)
        return status;
    struct fan__buffer sql;
    fan__buffer_init(&sql, NULL);
    fan__buffer_add_text(&sql, "CREATE TABLE IF NOT EXISTS");
    fan__outbox_add_table(&sql, table);
    fan__buffer_add_text(&sql, "(seq INTEGER PRIMARY KEY AUTOINCREMENT,"
                               " id TEXT NOT NULL DEFAULT (lower(hex(randomblob(16)))),"
                               " recorded_us INTEGER NOT NULL DEFAULT"
                               " (CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)),"
                               " event TEXT NOT NULL)");
    status = run(db, &sql, ret_error);
    if (status == FAN_OK) {
        fan__buffer_add_text(&sql, "CREATE TABLE IF NOT EXISTS");
        fan__outbox_add_aside(&sql, table);
        fan__buffer_add_text(&sql, "(seq INTEGER PRIMARY KEY, id TEXT, recorded_us INTEGER,"
                                   " event TEXT, reason TEXT NOT NULL)");
        status = run(db, &sql, ret_error);
    }
    fan__buffer_deinit(&sql);
    return status;
}

static enum fan_status insert(sqlite3 *db, const char *table, const struct fan_event *event,
                              const struct fan_env *env, struct fan_error *error)
{
    struct fan_text text = { .env = env };
    struct fan__buffer sql;
    sqlite3_stmt *statement = NULL;
    fan__buffer_init(&sql, env);
    fan__buffer_add_text(&sql, "INSERT INTO");
    fan__outbox_add_table(&sql, table);
    fan__buffer_add_text(&sql, "(id, recorded_us, event) VALUES(?1, ?2, ?3)");
    enum fan_status status = fan_event_to_json(event, NULL, FAN_JSON_ONE_LINE, &text);
    if (status != FAN_OK)
        fan__fail(error, status, "", "out of memory");
    else
        status = fan__sql_prepare(db, &sql, &statement, error);
    if (status == FAN_OK) {
        sqlite3_int64 last = sqlite3_last_insert_rowid(db);
        sqlite3_bind_text(statement, 1, fan_event_id(event), -1, SQLITE_STATIC);
        sqlite3_bind_int64(statement, 2, fan__wall_us(env));
        sqlite3_bind_text64(statement, 3, text.data, text.size, SQLITE_STATIC, SQLITE_UTF8);
        int code = fan__sql_run(statement);
        if (code != SQLITE_OK)
            status = fan__sql_fail(db, code, "the outbox", error);
        sqlite3_set_last_insert_rowid(db, last);
    }
    sqlite3_finalize(statement);
    fan__buffer_deinit(&sql);
    fan_text_deinit(&text);
    return status;
}

enum fan_status fan_outbox_record(sqlite3 *db, const char *table,
                                  const struct fan_event_draft *draft,
                                  const struct fan_event_defaults *defaults,
                                  struct fan_error *ret_error)
{
    const struct fan_env *env = defaults ? defaults->env : NULL;
    struct fan_event *event = NULL;
    enum fan_status status = fan__outbox_name(&table, ret_error);
    if (status == FAN_OK)
        status = fan_event_new(draft, defaults, &event, ret_error);
    if (status == FAN_OK)
        status = insert(db, table, event, env, ret_error);
    fan_event_free(event, env);
    return status;
}
