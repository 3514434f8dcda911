/*
 * From rows to events: the series of a row through a cache by number, and the row's own columns.
 * Series never change, and their numbers rise from 1, so the cache is an array indexed by the low
 * bits of the number that doubles while numbers outgrow it, up to a bound.
 */
#include "store/postgres/series.h"

#include "base/env.h"

#include <fanfare/batch.h>

#include <string.h>

#define SLOT_COUNT_MAX 16384
#define BYTES_MAX ((size_t)4 << 20)
#define TEXT_COUNT 7

struct fan__postgres_row_cache {
    struct fan__postgres_series **slots;
    size_t capacity;
    size_t bytes;
};

bool fan__postgres_rows_new(struct fan__postgres_connection *connection)
{
    const struct fan_env *env = connection->store->env;
    struct fan__postgres_row_cache *rows = fan__alloc_zero(env, 1, sizeof(*rows));
    if (!rows)
        return false;
    rows->capacity = 64;
    rows->slots = fan__alloc_zero(env, rows->capacity, sizeof(struct fan__postgres_series *));
    if (!rows->slots) {
        fan__free(env, rows);
        return false;
    }
    connection->rows = rows;
    return true;
}

static void clear(struct fan__postgres_connection *connection)
{
    struct fan__postgres_row_cache *rows = connection->rows;
    for (size_t i = 0; i < rows->capacity; i++) {
        fan__free(connection->store->env, rows->slots[i]);
        rows->slots[i] = NULL;
    }
    rows->bytes = 0;
}

void fan__postgres_rows_free(struct fan__postgres_connection *connection)
{
    if (!connection->rows)
        return;
    clear(connection);
    fan__free(connection->store->env, connection->rows->slots);
    fan__free(connection->store->env, connection->rows);
    connection->rows = NULL;
}

static struct fan__postgres_series **slot_of(const struct fan__postgres_row_cache *rows, int64_t id)
{
    return &rows->slots[(size_t)id & (rows->capacity - 1)];
}

/* Doubles until `id` has a slot of its own, or the bound or memory ends it. */
static void grow(struct fan__postgres_connection *connection, int64_t id)
{
    struct fan__postgres_row_cache *rows = connection->rows;
    size_t capacity = rows->capacity;
    while (capacity <= (size_t)id && capacity < SLOT_COUNT_MAX)
        capacity *= 2;
    if (capacity == rows->capacity)
        return;
    struct fan__postgres_series **slots =
        fan__alloc_zero(connection->store->env, capacity, sizeof(struct fan__postgres_series *));
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
static struct fan__postgres_series *series_new(const struct fan_env *env, const PGresult *result,
                                               int row)
{
    size_t size = sizeof(struct fan__postgres_series);
    for (int i = 0; i < TEXT_COUNT; i++)
        size += (size_t)PQgetlength(result, row, i + 2) + 1;
    struct fan__postgres_series *series = fan__alloc(env, size);
    if (!series)
        return NULL;
    char *at = (char *)(series + 1);
    const char *copies[TEXT_COUNT];
    for (int i = 0; i < TEXT_COUNT; i++) {
        size_t length = (size_t)PQgetlength(result, row, i + 2) + 1;
        memcpy(at, PQgetvalue(result, row, i + 2), length);
        copies[i] = at;
        at += length;
    }
    *series = (struct fan__postgres_series){
        .id = fan__postgres_int(result, row, 0),
        .type = copies[0],
        .topic = copies[1],
        .schema = copies[2],
        .entity = copies[3],
        .operation = copies[4],
        .instance = copies[5],
        .content_type = copies[6],
        .size = size,
    };
    if (fan_source_parse(fan__postgres_text(result, row, 1), &series->source) != FAN_OK)
        series->source = FAN_SOURCE_UNSET;
    return series;
}

static void load(struct fan__postgres_connection *connection, struct fan__postgres_array *ids)
{
    const struct fan_env *env = connection->store->env;
    struct fan__postgres_row_cache *rows = connection->rows;
    struct fan__postgres_params params = { 0 };
    if (ids->buffer.failed)
        fan__postgres_fail(connection, FAN_NO_MEMORY);
    fan__postgres_add_array(&params, ids);
    PGresult *result = fan__postgres_run(connection, FAN__PG_SERIES_GET, &params);
    for (int i = 0; i < PQntuples(result); i++) {
        struct fan__postgres_series *series = series_new(env, result, i);
        if (!series) {
            fan__postgres_fail(connection, FAN_NO_MEMORY);
            break;
        }
        if (rows->bytes + series->size > BYTES_MAX)
            clear(connection);
        grow(connection, series->id);
        struct fan__postgres_series **slot = slot_of(rows, series->id);
        if (*slot)
            rows->bytes -= (*slot)->size;
        fan__free(env, *slot);
        *slot = series;
        rows->bytes += series->size;
    }
    PQclear(result);
}

static const struct fan__postgres_series *known(const struct fan__postgres_connection *connection,
                                                int64_t id)
{
    const struct fan__postgres_series *series = *slot_of(connection->rows, id);
    return series && series->id == id ? series : NULL;
}

const struct fan__postgres_series *fan__postgres_series_get(
    struct fan__postgres_connection *connection, int64_t id)
{
    const struct fan__postgres_series *series = known(connection, id);
    if (series || connection->status != FAN_OK)
        return series;
    struct fan__postgres_array ids;
    fan__postgres_array_init(&ids, connection->store->env, FAN__POSTGRES_INT8);
    fan__postgres_array_int(&ids, id);
    load(connection, &ids);
    fan__postgres_array_deinit(&ids);
    series = known(connection, id);
    if (!series)
        fan__postgres_fail(connection, FAN_CORRUPT);
    return series;
}

bool fan__postgres_rows_known(const struct fan__postgres_connection *connection,
                              const PGresult *result)
{
    bool all = true;
    for (int i = 0; i < PQntuples(result) && all; i++)
        all = known(connection, fan__postgres_int(result, i, 2)) != NULL;
    return all;
}

void fan__postgres_rows_load(struct fan__postgres_connection *connection, const PGresult *result)
{
    struct fan__postgres_array ids;
    int64_t last_id = 0;
    fan__postgres_array_init(&ids, connection->store->env, FAN__POSTGRES_INT8);
    for (int i = 0; i < PQntuples(result); i++) {
        int64_t id = fan__postgres_int(result, i, 2);
        if (id != last_id && !known(connection, id))
            fan__postgres_array_int(&ids, id);
        last_id = id;
    }
    if (ids.count > 0)
        load(connection, &ids);
    fan__postgres_array_deinit(&ids);
}

bool fan__postgres_row_draft(struct fan__postgres_connection *connection, const PGresult *result,
                             int row, struct fan_event_draft *ret_draft)
{
    const struct fan__postgres_series *series =
        fan__postgres_series_get(connection, fan__postgres_int(result, row, 2));
    if (!series)
        return false;
    *ret_draft = (struct fan_event_draft){
        .size = FAN_EVENT_DRAFT_SIZE,
        .type = series->type,
        .payload = fan__postgres_bytes(result, row, 9),
        .topic = series->topic,
        .id = fan__postgres_text(result, row, 1),
        .source = series->source,
        .schema = series->schema,
        .entity = series->entity,
        .operation = series->operation,
        .content_type = series->content_type,
        .metadata = fan__postgres_bytes(result, row, 8),
        .user_id = fan__postgres_int(result, row, 4),
        .session_id = fan__postgres_text_or_null(result, row, 5),
        .instance_id = series->instance,
        .created_us = fan__postgres_int(result, row, 3),
        .deliver_at_us = fan__postgres_int(result, row, 6),
        .traceparent = fan__postgres_text_or_null(result, row, 7),
    };
    return true;
}

void fan__postgres_row_add(struct fan__postgres_connection *connection, const PGresult *result,
                           int row, struct fan_batch *batch)
{
    struct fan_event_draft draft;
    if (fan__postgres_row_draft(connection, result, row, &draft))
        fan__postgres_fail(
            connection, fan_batch_add(batch, &draft, (uint64_t)fan__postgres_int(result, row, 0)));
}
