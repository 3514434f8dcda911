/*
 * From rows to events: the series of a row through a cache by number, and the row's own columns.
 * Series never change, and their numbers rise from 1, so the cache is an array indexed by the low
 * bits of the number that doubles while numbers outgrow it, up to a bound.
 */
#include "store/sqlite/series.h"

#include "base/env.h"
#include "event/uuid.h"

#include <fanfare/batch.h>

#include <string.h>

#define SLOT_COUNT_MAX 16384
#define BYTES_MAX ((size_t)4 << 20)

struct fan__sqlite_row_cache {
    struct fan__sqlite_series **slots;
    size_t capacity;
    size_t bytes;
};

bool fan__sqlite_rows_new(struct fan__sqlite_connection *connection)
{
    const struct fan_env *env = connection->store->env;
    struct fan__sqlite_row_cache *rows = fan__alloc_zero(env, 1, sizeof(*rows));
    if (!rows)
        return false;
    rows->capacity = 64;
    rows->slots = fan__alloc_zero(env, rows->capacity, sizeof(struct fan__sqlite_series *));
    if (!rows->slots) {
        fan__free(env, rows);
        return false;
    }
    connection->rows = rows;
    return true;
}

static void clear(struct fan__sqlite_connection *connection)
{
    struct fan__sqlite_row_cache *rows = connection->rows;
    for (size_t i = 0; i < rows->capacity; i++) {
        fan__free(connection->store->env, rows->slots[i]);
        rows->slots[i] = NULL;
    }
    rows->bytes = 0;
}

void fan__sqlite_rows_free(struct fan__sqlite_connection *connection)
{
    if (!connection->rows)
        return;
    clear(connection);
    fan__free(connection->store->env, connection->rows->slots);
    fan__free(connection->store->env, connection->rows);
    connection->rows = NULL;
}

/* Doubles until `id` has a slot of its own, or the bound or memory ends it. */
static void grow(struct fan__sqlite_connection *connection, int64_t id)
{
    struct fan__sqlite_row_cache *rows = connection->rows;
    size_t capacity = rows->capacity;
    while (capacity <= (size_t)id && capacity < SLOT_COUNT_MAX)
        capacity *= 2;
    if (capacity == rows->capacity)
        return;
    struct fan__sqlite_series **slots =
        fan__alloc_zero(connection->store->env, capacity, sizeof(struct fan__sqlite_series *));
    if (!slots)
        return;
    for (size_t i = 0; i < rows->capacity; i++) {
        if (rows->slots[i])
            slots[(size_t)rows->slots[i]->id & (capacity - 1)] = rows->slots[i];
    }
    fan__free(connection->store->env, rows->slots);
    rows->slots = slots;
    rows->capacity = capacity;
}

/* Makes a series from SERIES_GET's row: one block, the texts behind the struct. */
static struct fan__sqlite_series *series_new(struct fan__sqlite_connection *connection,
                                             sqlite3_stmt *statement)
{
    const char *texts[7];
    size_t sizes[7];
    size_t size = sizeof(struct fan__sqlite_series);
    for (int i = 0; i < 7; i++) {
        texts[i] = (const char *)sqlite3_column_text(statement, i + 2);
        if (!texts[i]) {
            bool null = sqlite3_column_type(statement, i + 2) == SQLITE_NULL;
            fan__sqlite_fail(connection, null ? FAN_CORRUPT : FAN_NO_MEMORY);
            return NULL;
        }
        sizes[i] = strlen(texts[i]) + 1;
        size += sizes[i];
    }
    struct fan__sqlite_series *series = fan__alloc(connection->store->env, size);
    if (!series)
        return NULL;
    char *at = (char *)(series + 1);
    const char *copies[7];
    for (int i = 0; i < 7; i++) {
        memcpy(at, texts[i], sizes[i]);
        copies[i] = at;
        at += sizes[i];
    }
    *series = (struct fan__sqlite_series){
        .id = sqlite3_column_int64(statement, 0),
        .type = copies[0],
        .topic = copies[1],
        .schema = copies[2],
        .entity = copies[3],
        .operation = copies[4],
        .instance = copies[5],
        .content_type = copies[6],
        .size = size,
    };
    const char *source = (const char *)sqlite3_column_text(statement, 1);
    if (!source || fan_source_parse(source, &series->source) != FAN_OK)
        series->source = FAN_SOURCE_UNSET;
    return series;
}

static const struct fan__sqlite_series *load(struct fan__sqlite_connection *connection, int64_t id)
{
    sqlite3_stmt *statement = fan__sqlite_use(connection, FAN__SQL_SERIES_GET);
    sqlite3_bind_int64(statement, 1, id);
    if (!fan__sqlite_step(connection, statement)) {
        fan__sqlite_fail(connection, FAN_CORRUPT);
        return NULL;
    }
    struct fan__sqlite_series *series = series_new(connection, statement);
    sqlite3_reset(statement);
    if (!series) {
        fan__sqlite_fail(connection, FAN_NO_MEMORY);
        return NULL;
    }
    struct fan__sqlite_row_cache *rows = connection->rows;
    if (rows->bytes + series->size > BYTES_MAX)
        clear(connection);
    grow(connection, id);
    struct fan__sqlite_series **slot = &rows->slots[(size_t)id & (rows->capacity - 1)];
    if (*slot)
        rows->bytes -= (*slot)->size;
    fan__free(connection->store->env, *slot);
    *slot = series;
    rows->bytes += series->size;
    return series;
}

const struct fan__sqlite_series *fan__sqlite_series_get(struct fan__sqlite_connection *connection,
                                                        int64_t id)
{
    const struct fan__sqlite_row_cache *rows = connection->rows;
    const struct fan__sqlite_series *series = rows->slots[(size_t)id & (rows->capacity - 1)];
    return series && series->id == id ? series : load(connection, id);
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
    const struct fan__sqlite_series *series =
        fan__sqlite_series_get(connection, sqlite3_column_int64(statement, 2));
    if (!series)
        return false;
    *ret_draft = (struct fan_event_draft){
        .size = FAN_EVENT_DRAFT_SIZE,
        .type = series->type,
        .payload = column_bytes(statement, 9),
        .topic = series->topic,
        .id = id,
        .source = series->source,
        .schema = series->schema,
        .entity = series->entity,
        .operation = series->operation,
        .content_type = series->content_type,
        .metadata = column_bytes(statement, 8),
        .user_id = sqlite3_column_int64(statement, 4),
        .session_id = (const char *)sqlite3_column_text(statement, 5),
        .instance_id = series->instance,
        .created_us = sqlite3_column_int64(statement, 3),
        .deliver_at_us = sqlite3_column_int64(statement, 6),
        .traceparent = (const char *)sqlite3_column_text(statement, 7),
    };
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
