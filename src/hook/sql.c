/* SQL texts are put together in buffers: names in quotes, values always bound. */
#include "hook/sql.h"

#include "base/status.h"

#include <string.h>

void fan__sql_add_name(struct fan__buffer *buffer, const char *name)
{
    fan__buffer_add(buffer, "\"", 1);
    for (const char *at = name; *at; at++) {
        if (*at == '"')
            fan__buffer_add(buffer, at, 1);
        fan__buffer_add(buffer, at, 1);
    }
    fan__buffer_add(buffer, "\"", 1);
}

enum fan_status fan__sql_status(int code)
{
    switch (code & 0xff) {
    case SQLITE_OK:
    case SQLITE_ROW:
    case SQLITE_DONE:
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
    case SQLITE_CANTOPEN:
        return FAN_UNAVAILABLE;
    case SQLITE_TOOBIG:
    case SQLITE_MISMATCH:
    case SQLITE_RANGE:
        return FAN_INVALID;
    case SQLITE_CONSTRAINT:
        return FAN_CONFLICT;
    case SQLITE_MISUSE:
        return FAN_MISUSE;
    default:
        return FAN_IO;
    }
}

enum fan_status fan__sql_fail(sqlite3 *db, int code, const char *what, struct fan_error *error)
{
    return fan__fail(error, fan__sql_status(code), "", "%s: %s", what,
                     db ? sqlite3_errmsg(db) : sqlite3_errstr(code));
}

int fan__sql_exec(sqlite3 *db, const char *sql)
{
    return sqlite3_exec(db, sql, NULL, NULL, NULL);
}

int fan__sql_run(sqlite3_stmt *statement)
{
    int code = sqlite3_step(statement);
    int end = sqlite3_reset(statement);
    return code == SQLITE_ROW || code == SQLITE_DONE ? end : code;
}

enum fan_status fan__sql_prepare(sqlite3 *db, struct fan__buffer *sql, sqlite3_stmt **ret_statement,
                                 struct fan_error *error)
{
    fan__buffer_add(sql, "", 1);
    if (sql->failed)
        return fan__fail(error, FAN_NO_MEMORY, "", "out of memory");
    int code = sqlite3_prepare_v2(db, sql->data, -1, ret_statement, NULL);
    fan__buffer_clear(sql);
    if (code == SQLITE_OK)
        return FAN_OK;
    if (strncmp(sqlite3_errmsg(db), "no such table", strlen("no such table")) == 0)
        return fan__fail(error, FAN_NOT_FOUND, "table", "%s", sqlite3_errmsg(db));
    return fan__sql_fail(db, code, "SQLite", error);
}
