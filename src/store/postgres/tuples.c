/* The writer's series, by content: those it knows, and those that are found or made. */
#include "store/postgres/series.h"

#include "base/env.h"

int64_t fan__postgres_series_known(struct fan__postgres *store, const struct fan_event *event)
{
    struct fan__tuple tuple;
    fan__tuple_of(store->tuples, event, &tuple);
    return fan__tuples_find(store->tuples, &tuple, NULL);
}

/* The ids come in the order of what was asked for. */
static void take_ids(struct fan__postgres_connection *writer, const PGresult *result,
                     const struct fan_append *items, size_t count, int64_t *series)
{
    int row = 0;
    for (size_t i = 0; i < count; i++) {
        if (series[i] != 0)
            continue;
        if (row == PQntuples(result)) {
            fan__postgres_fail(writer, FAN_CORRUPT);
            return;
        }
        struct fan__tuple tuple;
        fan__tuple_of(writer->store->tuples, items[i].event, &tuple);
        series[i] = fan__postgres_int(result, row++, 0);
        fan__tuples_add(writer->store->tuples, &tuple, series[i], false);
    }
}

void fan__postgres_series_make(struct fan__postgres_connection *writer,
                               const struct fan_append *items, size_t count, int64_t *series)
{
    struct fan__postgres_array arrays[FAN__SERIES_TEXT_COUNT];
    struct fan__postgres_params params = { 0 };
    struct fan__tuple tuple;
    for (size_t i = 0; i < FAN__SERIES_TEXT_COUNT; i++)
        fan__postgres_array_init(&arrays[i], writer->store->env, FAN__POSTGRES_TEXT);
    for (size_t i = 0; i < count; i++) {
        if (series[i] != 0)
            continue;
        fan__tuple_of(writer->store->tuples, items[i].event, &tuple);
        for (size_t j = 0; j < FAN__SERIES_TEXT_COUNT; j++)
            fan__postgres_array_text(&arrays[j], tuple.texts[j]);
    }
    for (size_t i = 0; i < FAN__SERIES_TEXT_COUNT; i++) {
        if (arrays[i].buffer.failed)
            fan__postgres_fail(writer, FAN_NO_MEMORY);
        fan__postgres_add_array(&params, &arrays[i]);
    }
    if (arrays[0].count > 0) {
        (void)fan__postgres_queue(writer, FAN__PG_SERIES_MAKE, &params);
        PGresult *result = fan__postgres_run(writer, FAN__PG_SERIES_FIND, &params);
        if (result)
            take_ids(writer, result, items, count, series);
        PQclear(result);
    }
    for (size_t i = 0; i < FAN__SERIES_TEXT_COUNT; i++)
        fan__postgres_array_deinit(&arrays[i]);
}
