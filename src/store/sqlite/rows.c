/* From rows to events: the series of a row by its number, and the row's own columns. */
#include "store/sqlite/series.h"

#include "base/env.h"
#include "event/uuid.h"

#include <fanfare/batch.h>

/* Remembers the series of SERIES_GET's row. */
static const struct fan__series *take(struct fan__sqlite_connection *connection,
                                      sqlite3_stmt *statement)
{
    const char *texts[FAN__SERIES_TEXT_COUNT];
    for (int i = 0; i < FAN__SERIES_TEXT_COUNT; i++) {
        texts[i] = (const char *)sqlite3_column_text(statement, i + 1);
        if (!texts[i]) {
            bool null = sqlite3_column_type(statement, i + 1) == SQLITE_NULL;
            fan__sqlite_fail(connection, null ? FAN_CORRUPT : FAN_NO_MEMORY);
            return NULL;
        }
    }
    const struct fan__series *series =
        fan__rows_add(connection->rows, sqlite3_column_int64(statement, 0), texts);
    if (!series)
        fan__sqlite_fail(connection, FAN_NO_MEMORY);
    return series;
}

static const struct fan__series *load(struct fan__sqlite_connection *connection, int64_t id)
{
    sqlite3_stmt *statement = fan__sqlite_use(connection, FAN__SQL_SERIES_GET);
    sqlite3_bind_int64(statement, 1, id);
    if (!fan__sqlite_step(connection, statement)) {
        fan__sqlite_fail(connection, FAN_CORRUPT);
        return NULL;
    }
    const struct fan__series *series = take(connection, statement);
    sqlite3_reset(statement);
    return series;
}

const struct fan__series *fan__sqlite_series_get(struct fan__sqlite_connection *connection,
                                                 int64_t id)
{
    const struct fan__series *series = fan__rows_find(connection->rows, id);
    return series ? series : load(connection, id);
}

static struct fan_str column_bytes(sqlite3_stmt *statement, int column)
{
    const void *bytes = sqlite3_column_blob(statement, column);
    int size = bytes ? sqlite3_column_bytes(statement, column) : 0;
    return (struct fan_str){ bytes, (size_t)size };
}

bool fan__sqlite_row_draft(struct fan__sqlite_connection *connection, sqlite3_stmt *statement,
                           char id[FAN__UUID_TEXT_SIZE], struct fan_event_draft *ret_draft)
{
    const struct fan__series *series =
        fan__sqlite_series_get(connection, sqlite3_column_int64(statement, 2));
    if (!series)
        return false;
    fan__series_draft(series, ret_draft);
    ret_draft->id = id;
    ret_draft->created_us = sqlite3_column_int64(statement, 3);
    ret_draft->user_id = sqlite3_column_int64(statement, 4);
    ret_draft->session_id = (const char *)sqlite3_column_text(statement, 5);
    ret_draft->deliver_at_us = sqlite3_column_int64(statement, 6);
    ret_draft->traceparent = (const char *)sqlite3_column_text(statement, 7);
    ret_draft->metadata = column_bytes(statement, 8);
    ret_draft->payload = column_bytes(statement, 9);
    if (sqlite3_column_type(statement, 1) == SQLITE_BLOB &&
        sqlite3_column_bytes(statement, 1) == FAN__UUID_SIZE)
        fan__uuid_format(sqlite3_column_blob(statement, 1), id);
    else
        ret_draft->id = (const char *)sqlite3_column_text(statement, 1);
    if (!ret_draft->id)
        fan__sqlite_fail(connection, FAN_CORRUPT);
    return ret_draft->id != NULL;
}

void fan__sqlite_row_add(struct fan__sqlite_connection *connection, sqlite3_stmt *statement,
                         struct fan_batch *batch)
{
    char id[FAN__UUID_TEXT_SIZE];
    struct fan_event_draft draft;
    if (fan__sqlite_row_draft(connection, statement, id, &draft))
        fan__sqlite_fail(
            connection, fan_batch_add(batch, &draft, (uint64_t)sqlite3_column_int64(statement, 0)));
}
