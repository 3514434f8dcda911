/*
 * Which series a filter matches, by SQLite's statements (store/sets.h).
 */
#include "store/sqlite/series.h"

static const enum fan__sqlite_statement by_column[FAN__SERIES_COLUMN_COUNT] = {
    [FAN__SERIES_SOURCE] = FAN__SQL_SERIES_BY_SOURCE,
    [FAN__SERIES_TYPE] = FAN__SQL_SERIES_BY_TYPE,
    [FAN__SERIES_TOPIC] = FAN__SQL_SERIES_BY_TOPIC,
    [FAN__SERIES_SCHEMA] = FAN__SQL_SERIES_BY_SCHEMA,
    [FAN__SERIES_ENTITY] = FAN__SQL_SERIES_BY_ENTITY,
    [FAN__SERIES_OPERATION] = FAN__SQL_SERIES_BY_OPERATION,
    [FAN__SERIES_INSTANCE] = FAN__SQL_SERIES_BY_INSTANCE,
};

/* The columns of SERIES_AFTER and its like. */
static bool matches(const struct fan_query *query, sqlite3_stmt *statement)
{
    const char *texts[FAN__SERIES_COLUMN_COUNT];
    for (int i = 0; i < FAN__SERIES_COLUMN_COUNT; i++) {
        texts[i] = (const char *)sqlite3_column_text(statement, i + 1);
        /* A damaged file may hold anything: a text that is not there differs from all. */
        if (!texts[i])
            texts[i] = "\xff";
    }
    return fan__set_matches(query, texts);
}

/* Adds the series past set->last_id that match. */
static void extend(struct fan__sqlite_connection *connection, const struct fan_query *query,
                   struct fan__set *set, int64_t last_id)
{
    struct fan__set_start start = { .any = true };
    if (set->last_id == 0)
        fan__set_start(query, &start);
    sqlite3_stmt *statement =
        fan__sqlite_use(connection, start.any ? FAN__SQL_SERIES_AFTER : by_column[start.column]);
    if (start.any)
        sqlite3_bind_int64(statement, 1, set->last_id);
    else
        sqlite3_bind_text(statement, 1, start.value, -1, SQLITE_TRANSIENT);
    if (!start.any && start.column == FAN__SERIES_TYPE)
        sqlite3_bind_text(statement, 2, start.until, -1, SQLITE_TRANSIENT);
    while (fan__sqlite_step(connection, statement)) {
        int64_t id = sqlite3_column_int64(statement, 0);
        if (matches(query, statement))
            fan__buffer_add(&set->ids, &id, sizeof(id));
    }
    if (!fan__set_end(set, last_id))
        fan__sqlite_fail(connection, FAN_NO_MEMORY);
}

void fan__sqlite_set_of(struct fan__sqlite_connection *connection, const struct fan_query *query,
                        struct fan__sqlite_set *ret_set)
{
    *ret_set = (struct fan__sqlite_set){ .all = fan__set_is_all(query) };
    if (ret_set->all)
        return;
    const struct fan_env *env = connection->store->env;
    int64_t last_id = 0;
    int64_t swept = 0;
    sqlite3_stmt *statement = fan__sqlite_use(connection, FAN__SQL_SERIES_LAST);
    if (fan__sqlite_step(connection, statement)) {
        last_id = sqlite3_column_int64(statement, 0);
        swept = sqlite3_column_int64(statement, 1);
        sqlite3_reset(statement);
    }
    if (connection->status != FAN_OK)
        return;
    struct fan__set *set = fan__sets_find(&connection->sets, env, query, swept);
    if (!set) {
        fan__sqlite_fail(connection, FAN_NO_MEMORY);
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

bool fan__sqlite_set_has(const struct fan__sqlite_set *set, int64_t id)
{
    return set->all || fan__ids_have(set->ids, set->count, id);
}
