/* Groups come and go; what they are owed is claim.c's, how it ended settle.c's. */
#include "store/sqlite/group.h"

#include "base/env.h"
#include "base/hash.h"

#include <assert.h>
#include <string.h>

/* Partitions are agreed on by all processes, so this seed is part of the format. */
#define KEY_SEED UINT64_C(0x66616e666172652e)

/* How exactly the group's joined_us is kept, so that it costs no write each time. */
#define JOINED_US (60 * FAN__US_PER_S)

int64_t fan__sqlite_key_of(const char *topic)
{
    return (int64_t)(fan__hash(KEY_SEED, topic, strlen(topic)) >> 1);
}

unsigned fan__sqlite_part_of(int64_t key)
{
    return (unsigned)key % FAN_GROUP_PARTITION_COUNT;
}

static const char *copy(sqlite3_stmt *statement, int column, char text[FAN_TEXT_SIZE_MAX + 1])
{
    const char *from = (const char *)sqlite3_column_text(statement, column);
    if (!from)
        return NULL;
    size_t size = strnlen(from, FAN_TEXT_SIZE_MAX);
    memcpy(text, from, size);
    text[size] = '\0';
    return text;
}

enum fan_status fan__sqlite_group_find(struct fan__sqlite_connection *connection,
                                       const struct fan_group_name *name,
                                       struct fan__sqlite_found *ret_found)
{
    sqlite3_stmt *statement = fan__sqlite_use(connection, FAN__SQL_GROUP_GET);
    sqlite3_bind_text(statement, 1, name->group, -1, SQLITE_STATIC);
    sqlite3_bind_text(statement, 2, name->handler, -1, SQLITE_STATIC);
    if (!fan__sqlite_step(connection, statement))
        return connection->status != FAN_OK ? connection->status : FAN_NOT_FOUND;
    ret_found->group = (struct fan__sqlite_group){
        .id = sqlite3_column_int64(statement, 0),
        .pattern = copy(statement, 3, ret_found->pattern),
        .topic = copy(statement, 4, ret_found->topic),
        .cursor_seq = (uint64_t)sqlite3_column_int64(statement, 5),
        .completed = (uint64_t)sqlite3_column_int64(statement, 6),
        .ordered = sqlite3_column_int(statement, 7) != 0,
        .token = (uint64_t)sqlite3_column_int64(statement, 8),
        .ahead = (uint64_t)sqlite3_column_int64(statement, 9),
        .joined_us = sqlite3_column_int64(statement, 10),
    };
    sqlite3_reset(statement);
    return FAN_OK;
}

static enum fan_status find_or_end(struct fan__sqlite *store, const struct fan_group_name *name,
                                   struct fan__sqlite_found *ret_found)
{
    enum fan_status status = fan__sqlite_group_find(store->writer, name, ret_found);
    return status == FAN_OK ? FAN_OK : fan__sqlite_write_end(store, status, 0, NULL);
}

enum fan_status fan__sqlite_group_begin(struct fan__sqlite *store,
                                        const struct fan_group_name *name,
                                        struct fan__sqlite_found *ret_found)
{
    enum fan_status status = fan__sqlite_write_begin(store, NULL);
    return status == FAN_OK ? find_or_end(store, name, ret_found) : status;
}

enum fan_status fan__sqlite_group_begin_unsynced(struct fan__sqlite *store,
                                                 const struct fan_group_name *name,
                                                 struct fan__sqlite_found *ret_found)
{
    enum fan_status status = fan__sqlite_write_begin_unsynced(store);
    return status == FAN_OK ? find_or_end(store, name, ret_found) : status;
}

enum fan_status fan__sqlite_group_look(struct fan__sqlite *store, const struct fan_group_name *name,
                                       struct fan__sqlite_found *ret_found)
{
    enum fan_status status = fan__sqlite_look_begin(store);
    return status == FAN_OK ? find_or_end(store, name, ret_found) : status;
}

/* NULL is kept apart from "": events without a topic are a topic too. */
static void bind_filter(sqlite3_stmt *statement, int index, const char *text)
{
    if (text)
        sqlite3_bind_text(statement, index, text, -1, SQLITE_STATIC);
    else
        sqlite3_bind_null(statement, index);
}

static uint64_t start_of(const struct fan__sqlite *store, const struct fan_group_options *options)
{
    switch (options->start) {
    case FAN_START_NOW:
        return store->head_seq;
    case FAN_START_CURSOR:
        return options->start_seq < store->head_seq ? options->start_seq : store->head_seq;
    case FAN_START_BEGINNING:
        break;
    }
    return 0;
}

enum fan_status fan__sqlite_group_create(void *self, const struct fan_group_name *name,
                                         const struct fan_group_options *options,
                                         struct fan_error *error)
{
    struct fan__sqlite *store = self;
    enum fan_status status = fan__sqlite_write_begin(store, error);
    if (status != FAN_OK)
        return status;
    struct fan__sqlite_found found;
    bool exists = fan__sqlite_group_find(store->writer, name, &found) == FAN_OK;
    sqlite3_stmt *statement;
    if (exists) {
        statement = fan__sqlite_use(store->writer, FAN__SQL_GROUP_UPDATE);
        sqlite3_bind_int64(statement, 1, found.group.id);
        bind_filter(statement, 2, options->pattern);
        bind_filter(statement, 3, options->topic);
        sqlite3_bind_int64(statement, 4, fan__sqlite_now_us(store));
    } else {
        statement = fan__sqlite_use(store->writer, FAN__SQL_GROUP_INSERT);
        sqlite3_bind_text(statement, 1, name->group, -1, SQLITE_STATIC);
        sqlite3_bind_text(statement, 2, name->handler, -1, SQLITE_STATIC);
        bind_filter(statement, 3, options->pattern);
        bind_filter(statement, 4, options->topic);
        sqlite3_bind_int64(statement, 5, (int64_t)start_of(store, options));
        sqlite3_bind_int64(statement, 6, fan__sqlite_now_us(store));
    }
    fan__sqlite_run(store->writer, statement);
    status = fan__sqlite_write_end(store, FAN_OK, 0, error);
    return status == FAN_OK && exists ? FAN_EXISTS : status;
}

bool fan__sqlite_group_is_late(const struct fan__sqlite_group *group, int64_t now_us)
{
    return now_us - group->joined_us >= JOINED_US;
}

void fan__sqlite_group_join(struct fan__sqlite *store, const struct fan__sqlite_group *group,
                            int64_t now_us)
{
    if (!fan__sqlite_group_is_late(group, now_us))
        return;
    sqlite3_stmt *statement = fan__sqlite_use(store->writer, FAN__SQL_GROUP_JOIN);
    sqlite3_bind_int64(statement, 1, group->id);
    sqlite3_bind_int64(statement, 2, now_us);
    fan__sqlite_run(store->writer, statement);
}

void fan__sqlite_group_drop(struct fan__sqlite *store, int64_t id, uint64_t token)
{
    static const enum fan__sqlite_statement statements[] = {
        FAN__SQL_GROUP_DELETE,
        FAN__SQL_DROPPED_INSERT,
    };
    /* A group of that name may come again: a claim on this one must not speak for it. */
    sqlite3_stmt *statement = fan__sqlite_use(store->writer, FAN__SQL_TOKEN_FLOOR);
    sqlite3_bind_int64(statement, 1, (int64_t)token);
    fan__sqlite_run(store->writer, statement);
    for (size_t i = 0; i < sizeof(statements) / sizeof(*statements); i++) {
        statement = fan__sqlite_use(store->writer, statements[i]);
        sqlite3_bind_int64(statement, 1, id);
        fan__sqlite_run(store->writer, statement);
    }
}

/* Numbers of groups are never given out again, so that rows of a dropped one stay nobody's. */
static void clear(struct fan__sqlite_connection *writer, int64_t id, int64_t after_seq,
                  size_t row_count)
{
    sqlite3_stmt *statement = fan__sqlite_use(writer, FAN__SQL_DELIVERY_NTH);
    sqlite3_bind_int64(statement, 1, after_seq);
    sqlite3_bind_int64(statement, 2, (int64_t)row_count - 1);
    int64_t last_seq = fan__sqlite_number(writer, statement, INT64_MAX);
    fan__sqlite_set_triggers(writer, 0);
    statement = fan__sqlite_use(writer, FAN__SQL_GROUP_CLEAR);
    sqlite3_bind_int64(statement, 1, id);
    sqlite3_bind_int64(statement, 2, after_seq);
    sqlite3_bind_int64(statement, 3, last_seq);
    fan__sqlite_run(writer, statement);
    fan__sqlite_set_triggers(writer, 1);
    bool whole = last_seq == INT64_MAX;
    statement = fan__sqlite_use(writer, whole ? FAN__SQL_DROPPED_DELETE : FAN__SQL_DROPPED_MOVE);
    sqlite3_bind_int64(statement, 1, id);
    if (!whole)
        sqlite3_bind_int64(statement, 2, last_seq);
    fan__sqlite_run(writer, statement);
}

bool fan__sqlite_group_clear(struct fan__sqlite *store, size_t row_count)
{
    struct fan__sqlite_connection *writer = store->writer;
    sqlite3_stmt *statement = fan__sqlite_use(writer, FAN__SQL_DROPPED_FIRST);
    if (!fan__sqlite_step(writer, statement))
        return false;
    int64_t id = sqlite3_column_int64(statement, 0);
    int64_t after_seq = sqlite3_column_int64(statement, 1);
    sqlite3_reset(statement);
    clear(writer, id, after_seq, row_count);
    return writer->status == FAN_OK;
}

enum fan_status fan__sqlite_group_delete(void *self, const struct fan_group_name *name)
{
    struct fan__sqlite *store = self;
    struct fan__sqlite_found found = { 0 };
    enum fan_status status = fan__sqlite_group_begin(store, name, &found);
    if (status != FAN_OK)
        return status;
    fan__sqlite_group_drop(store, found.group.id, found.group.token);
    status = fan__sqlite_write_end(store, FAN_OK, 0, NULL);
    if (status == FAN_OK)
        fan__sqlite_checkpoint_clear(store);
    return status;
}
