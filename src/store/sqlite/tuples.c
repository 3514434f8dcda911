/*
 * The writer's series, by content: those it knows, and those that are found or made. One is marked
 * when an expectation ever named its topic.
 *
 * Series made or marked in a transaction are known so at once; when it is rolled back, numbers will
 * be given to others, and no other process knows of a mark: all of them are forgotten then.
 */
#include "store/sqlite/series.h"

void fan__sqlite_tuples_commit(struct fan__sqlite *store)
{
    store->series_changed = false;
}

void fan__sqlite_tuples_roll_back(struct fan__sqlite *store)
{
    if (store->series_changed)
        fan__tuples_clear(store->tuples);
    store->series_changed = false;
}

static void bind_tuple(sqlite3_stmt *statement, const struct fan__tuple *tuple)
{
    for (int i = 0; i < FAN__SERIES_TEXT_COUNT; i++)
        sqlite3_bind_text(statement, i + 1, tuple->texts[i], -1, SQLITE_STATIC);
}

static int64_t insert(struct fan__sqlite *store, const struct fan__tuple *tuple, bool *ret_keyed)
{
    struct fan__sqlite_connection *writer = store->writer;
    sqlite3_stmt *key = fan__sqlite_use(writer, FAN__SQL_KEY_TRACKED);
    sqlite3_bind_text(key, 1, tuple->texts[0], -1, SQLITE_STATIC);
    *ret_keyed = fan__sqlite_number(writer, key, 0) != 0;
    sqlite3_stmt *statement = fan__sqlite_use(writer, FAN__SQL_SERIES_INSERT);
    bind_tuple(statement, tuple);
    sqlite3_bind_int(statement, FAN__SERIES_TEXT_COUNT + 1, *ret_keyed);
    fan__sqlite_run(writer, statement);
    store->series_changed = true;
    return writer->status == FAN_OK ? sqlite3_last_insert_rowid(writer->db) : 0;
}

int64_t fan__sqlite_series_of(struct fan__sqlite *store, const struct fan_event *event,
                              bool *ret_keyed)
{
    struct fan__sqlite_connection *writer = store->writer;
    struct fan__tuple tuple;
    fan__tuple_of(store->tuples, event, &tuple);
    int64_t id = fan__tuples_find(store->tuples, &tuple, ret_keyed);
    if (id != 0)
        return id;
    bool keyed = false;
    sqlite3_stmt *statement = fan__sqlite_use(writer, FAN__SQL_SERIES_FIND);
    bind_tuple(statement, &tuple);
    if (fan__sqlite_step(writer, statement)) {
        id = sqlite3_column_int64(statement, 0);
        keyed = sqlite3_column_int(statement, 1) != 0;
        sqlite3_reset(statement);
    } else {
        id = insert(store, &tuple, &keyed);
    }
    if (writer->status != FAN_OK)
        return 0;
    fan__tuples_add(store->tuples, &tuple, id, keyed);
    *ret_keyed = keyed;
    return id;
}
