/*
 * Operations inside somebody else's transaction, until it is over.
 *
 * They are rows of a temporary table, which is a part of the transaction: a rollback, also of a
 * savepoint, takes them along, and what is still there outside of a transaction was committed. So
 * the caller's transaction is not watched, and none of the connection's few call-backs is used up.
 */
#include "hook/records.h"

#include "base/env.h"
#include "base/status.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static enum fan_status prepare(struct fan_records *records, const char *before, const char *after,
                               sqlite3_stmt **ret_statement, struct fan_error *error)
{
    struct fan__buffer sql;
    fan__buffer_init(&sql, records->env);
    fan__buffer_add_text(&sql, before);
    fan__buffer_add_text(&sql, records->held);
    fan__buffer_add_text(&sql, after);
    enum fan_status status = fan__sql_prepare(records->db, &sql, ret_statement, error);
    fan__buffer_deinit(&sql);
    return status;
}

static enum fan_status run(struct fan_records *records, const char *before, const char *after,
                           struct fan_error *error)
{
    sqlite3_stmt *statement = NULL;
    enum fan_status status = prepare(records, before, after, &statement, error);
    if (status != FAN_OK)
        return status;
    int code = fan__sql_run(statement);
    if (code != SQLITE_OK)
        status = fan__sql_fail(records->db, code, "the table of what waits", error);
    sqlite3_finalize(statement);
    return status;
}

enum fan_status fan__held_open(struct fan_records *records, struct fan_error *error)
{
    uint64_t random;
    fan__random(records->env, &random, sizeof(random));
    snprintf(records->held, sizeof(records->held), "temp.fan_held_%016" PRIx64, random);
    enum fan_status status = run(records, "CREATE TEMP TABLE ",
                                 "(n INTEGER PRIMARY KEY, crud INTEGER, schema TEXT, entity TEXT,"
                                 " id TEXT, data TEXT, topic TEXT, user_id INTEGER,"
                                 " session_id TEXT, metadata TEXT)",
                                 error);
    if (status != FAN_OK)
        *records->held = '\0';
    return status;
}

void fan__held_close(struct fan_records *records)
{
    if (*records->held)
        (void)run(records, "DROP TABLE ", "", NULL);
}

static void bind(sqlite3_stmt *statement, int index, const char *text, size_t size)
{
    if (text)
        sqlite3_bind_text64(statement, index, text, size, SQLITE_STATIC, SQLITE_UTF8);
}

enum fan_status fan__held_add(struct fan_records *records, const struct fan_operation *operation,
                              struct fan_error *error)
{
    sqlite3_stmt *statement = NULL;
    enum fan_status status =
        prepare(records, "INSERT INTO ",
                "(crud, schema, entity, id, data, topic, user_id, session_id, metadata)"
                " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                &statement, error);
    if (status != FAN_OK)
        return status;
    sqlite3_bind_int(statement, 1, (int)operation->crud);
    sqlite3_bind_text(statement, 2, operation->schema, -1, SQLITE_STATIC);
    sqlite3_bind_text(statement, 3, operation->entity, -1, SQLITE_STATIC);
    bind(statement, 4, operation->id.data, operation->id.size);
    bind(statement, 5, operation->data.data, operation->data.size);
    sqlite3_bind_text(statement, 6, operation->topic, -1, SQLITE_STATIC);
    sqlite3_bind_int64(statement, 7, operation->user_id);
    sqlite3_bind_text(statement, 8, operation->session_id, -1, SQLITE_STATIC);
    bind(statement, 9, operation->metadata.data, operation->metadata.size);
    sqlite3_int64 last = sqlite3_last_insert_rowid(records->db);
    int code = fan__sql_run(statement);
    sqlite3_set_last_insert_rowid(records->db, last);
    if (code != SQLITE_OK)
        status = fan__sql_fail(records->db, code, "the table of what waits", error);
    else
        records->may_hold = true;
    sqlite3_finalize(statement);
    return status;
}

enum { N, CRUD, SCHEMA, ENTITY, ID, DATA, TOPIC, USER_ID, SESSION_ID, METADATA, COUNT };

/* Takes the oldest out of the table. FAN_NOT_FOUND when none is left. */
static enum fan_status take_first(struct fan_records *records, sqlite3_value *values[COUNT],
                                  struct fan_error *error)
{
    sqlite3_stmt *statement = NULL;
    char before[96];
    snprintf(before, sizeof(before), "DELETE FROM %s WHERE n = (SELECT min(n) FROM ",
             records->held);
    enum fan_status status =
        prepare(records, before,
                ") RETURNING n, crud, schema, entity, id, data, topic, user_id, session_id,"
                " metadata",
                &statement, error);
    if (status != FAN_OK)
        return status;
    int code = sqlite3_step(statement);
    bool found = code == SQLITE_ROW;
    for (int i = N; i < COUNT && found; i++) {
        values[i] = sqlite3_value_dup(sqlite3_column_value(statement, i));
        if (!values[i])
            status = fan__fail(error, FAN_NO_MEMORY, "", "out of memory");
    }
    if (found)
        code = sqlite3_step(statement);
    if (code != SQLITE_DONE)
        status = fan__sql_fail(records->db, code, "the table of what waits", error);
    sqlite3_finalize(statement);
    return status == FAN_OK && !found ? FAN_NOT_FOUND : status;
}

static const char *text_of(sqlite3_value *value)
{
    return (const char *)sqlite3_value_text(value);
}

static struct fan_str str_of(sqlite3_value *value)
{
    const char *text = text_of(value);
    return (struct fan_str){ text, text ? (size_t)sqlite3_value_bytes(value) : 0 };
}

/* Its hooks may use the connection: no statement is open then. */
static enum fan_status announce_first(struct fan_records *records, struct fan_error *error)
{
    sqlite3_value *values[COUNT] = { NULL };
    enum fan_status status = take_first(records, values, error);
    if (status == FAN_OK) {
        struct fan_operation operation = {
            .size = FAN_OPERATION_SIZE,
            .crud = (enum fan_crud)sqlite3_value_int(values[CRUD]),
            .schema = text_of(values[SCHEMA]),
            .entity = text_of(values[ENTITY]),
            .id = str_of(values[ID]),
            .data = str_of(values[DATA]),
            .topic = text_of(values[TOPIC]),
            .user_id = sqlite3_value_int64(values[USER_ID]),
            .session_id = text_of(values[SESSION_ID]),
            .metadata = str_of(values[METADATA]),
        };
        fan_hooks_after(records->hooks, &operation);
    }
    for (int i = N; i < COUNT; i++)
        sqlite3_value_free(values[i]);
    return status;
}

enum fan_status fan__held_settle(struct fan_records *records, struct fan_error *error)
{
    if (records->settling)
        return FAN_OK;
    enum fan_status status = FAN_OK;
    records->settling = true;
    while (records->may_hold && status == FAN_OK && sqlite3_get_autocommit(records->db)) {
        status = announce_first(records, error);
        if (status == FAN_NOT_FOUND) {
            records->may_hold = false;
            status = FAN_OK;
        }
    }
    records->settling = false;
    return status;
}
