/*
 * Which series a filter matches, by PostgreSQL's statements (store/sets.h).
 */
#include "store/postgres/series.h"

static const enum fan__postgres_statement by_column[FAN__SERIES_COLUMN_COUNT] = {
    [FAN__SERIES_SOURCE] = FAN__PG_SERIES_BY_SOURCE,
    [FAN__SERIES_TYPE] = FAN__PG_SERIES_BY_TYPE,
    [FAN__SERIES_TOPIC] = FAN__PG_SERIES_BY_TOPIC,
    [FAN__SERIES_SCHEMA] = FAN__PG_SERIES_BY_SCHEMA,
    [FAN__SERIES_ENTITY] = FAN__PG_SERIES_BY_ENTITY,
    [FAN__SERIES_OPERATION] = FAN__PG_SERIES_BY_OPERATION,
    [FAN__SERIES_INSTANCE] = FAN__PG_SERIES_BY_INSTANCE,
};

/* The columns of SERIES_AFTER and its like. */
static bool matches(const struct fan_query *query, const PGresult *result, int row)
{
    const char *texts[FAN__SERIES_COLUMN_COUNT];
    for (int i = 0; i < FAN__SERIES_COLUMN_COUNT; i++)
        texts[i] = fan__postgres_text(result, row, i + 1);
    return fan__set_matches(query, texts);
}

/* Adds the series past set->last_id that match. */
static void extend(struct fan__postgres_connection *connection, const struct fan_query *query,
                   struct fan__set *set, int64_t last_id)
{
    struct fan__set_start start = { .any = true };
    struct fan__postgres_params params = { 0 };
    if (set->last_id == 0)
        fan__set_start(query, &start);
    if (start.any)
        fan__postgres_add_int(&params, set->last_id);
    else
        fan__postgres_add_text(&params, start.value);
    if (!start.any && start.column == FAN__SERIES_TYPE)
        fan__postgres_add_text(&params, start.until);
    PGresult *result = fan__postgres_run(
        connection, start.any ? FAN__PG_SERIES_AFTER : by_column[start.column], &params);
    for (int i = 0; i < PQntuples(result); i++) {
        int64_t id = fan__postgres_int(result, i, 0);
        if (matches(query, result, i))
            fan__buffer_add(&set->ids, &id, sizeof(id));
    }
    PQclear(result);
    if (!fan__set_end(set, last_id))
        fan__postgres_fail(connection, FAN_NO_MEMORY);
}

void fan__postgres_set_of(struct fan__postgres_connection *connection,
                          const struct fan_query *query, struct fan__postgres_set *ret_set)
{
    *ret_set = (struct fan__postgres_set){ .all = fan__set_is_all(query) };
    if (ret_set->all)
        return;
    const struct fan_env *env = connection->store->env;
    PGresult *result = fan__postgres_run(connection, FAN__PG_SERIES_LAST, NULL);
    bool found = PQntuples(result) == 1;
    int64_t last_id = found ? fan__postgres_int(result, 0, 0) : 0;
    int64_t swept = found ? fan__postgres_int(result, 0, 1) : 0;
    PQclear(result);
    if (connection->status != FAN_OK)
        return;
    struct fan__set *set = fan__sets_find(&connection->sets, env, query, swept);
    if (!set) {
        fan__postgres_fail(connection, FAN_NO_MEMORY);
        return;
    }
    if (last_id > set->last_id)
        extend(connection, query, set, last_id);
    if (connection->status != FAN_OK) {
        fan__set_deinit(set, env);
        return;
    }
    ret_set->ids = (const int64_t *)(const void *)set->ids.data;
    ret_set->count = set->ids.size / sizeof(int64_t);
}

bool fan__postgres_set_has(const struct fan__postgres_set *set, int64_t id)
{
    return set->all || fan__ids_have(set->ids, set->count, id);
}
