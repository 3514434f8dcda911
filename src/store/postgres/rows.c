/* From rows to events: the series of a row by its number, and the row's own columns. */
#include "store/postgres/series.h"

#include "base/env.h"

#include <fanfare/batch.h>

static void load(struct fan__postgres_connection *connection, struct fan__postgres_array *ids)
{
    struct fan__postgres_params params = { 0 };
    if (ids->buffer.failed)
        fan__postgres_fail(connection, FAN_NO_MEMORY);
    fan__postgres_add_array(&params, ids);
    PGresult *result = fan__postgres_run(connection, FAN__PG_SERIES_GET, &params);
    for (int i = 0; i < PQntuples(result) && connection->status == FAN_OK; i++) {
        const char *texts[FAN__SERIES_TEXT_COUNT];
        for (int j = 0; j < FAN__SERIES_TEXT_COUNT; j++)
            texts[j] = fan__postgres_text(result, i, j + 1);
        if (!fan__rows_add(connection->rows, fan__postgres_int(result, i, 0), texts))
            fan__postgres_fail(connection, FAN_NO_MEMORY);
    }
    PQclear(result);
}

const struct fan__series *fan__postgres_series_get(struct fan__postgres_connection *connection,
                                                   int64_t id)
{
    const struct fan__series *series = fan__rows_find(connection->rows, id);
    if (series || connection->status != FAN_OK)
        return series;
    struct fan__postgres_array ids;
    fan__postgres_array_init(&ids, connection->store->env, FAN__POSTGRES_INT8);
    fan__postgres_array_int(&ids, id);
    load(connection, &ids);
    fan__postgres_array_deinit(&ids);
    series = fan__rows_find(connection->rows, id);
    if (!series)
        fan__postgres_fail(connection, FAN_CORRUPT);
    return series;
}

bool fan__postgres_rows_known(const struct fan__postgres_connection *connection,
                              const PGresult *result)
{
    bool all = true;
    for (int i = 0; i < PQntuples(result) && all; i++)
        all = fan__rows_find(connection->rows, fan__postgres_int(result, i, 2)) != NULL;
    return all;
}

void fan__postgres_rows_load(struct fan__postgres_connection *connection, const PGresult *result)
{
    struct fan__postgres_array ids;
    int64_t last_id = 0;
    fan__postgres_array_init(&ids, connection->store->env, FAN__POSTGRES_INT8);
    for (int i = 0; i < PQntuples(result); i++) {
        int64_t id = fan__postgres_int(result, i, 2);
        if (id != last_id && !fan__rows_find(connection->rows, id))
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
    const struct fan__series *series =
        fan__postgres_series_get(connection, fan__postgres_int(result, row, 2));
    if (!series)
        return false;
    fan__series_draft(series, ret_draft);
    ret_draft->id = fan__postgres_text(result, row, 1);
    ret_draft->created_us = fan__postgres_int(result, row, 3);
    ret_draft->user_id = fan__postgres_int(result, row, 4);
    ret_draft->session_id = fan__postgres_text_or_null(result, row, 5);
    ret_draft->deliver_at_us = fan__postgres_int(result, row, 6);
    ret_draft->traceparent = fan__postgres_text_or_null(result, row, 7);
    ret_draft->metadata = fan__postgres_bytes(result, row, 8);
    ret_draft->payload = fan__postgres_bytes(result, row, 9);
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
