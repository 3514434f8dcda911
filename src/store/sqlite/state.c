/* Groups are few and small: each snapshot that needs them reads them all, once. */
#include "store/sqlite/state.h"

#include "base/env.h"

#include <fanfare/batch.h>
#include <fanfare/pattern.h>

#include <string.h>

/* Texts are kept as offsets until all are there, as the buffer moves when it grows. 0 is NULL. */
static const char *keep(struct fan__buffer *texts, sqlite3_stmt *statement, int column)
{
    const char *text = (const char *)sqlite3_column_text(statement, column);
    if (!text)
        return NULL;
    uintptr_t at = texts->size;
    fan__buffer_add(texts, text, strlen(text) + 1);
    return (const char *)at;
}

static void resolve(const struct fan__buffer *texts, const char **text)
{
    if (*text)
        *text = texts->data + (uintptr_t)*text;
}

void fan__sqlite_groups_load(struct fan__sqlite_connection *connection,
                             struct fan__sqlite_groups *ret_groups)
{
    const struct fan_env *env = connection->store->env;
    struct fan__buffer items;
    fan__buffer_init(&items, env);
    *ret_groups = (struct fan__sqlite_groups){ 0 };
    fan__buffer_init(&ret_groups->texts, env);
    fan__buffer_add(&ret_groups->texts, "", 1);
    sqlite3_stmt *statement = fan__sqlite_use(connection, FAN__SQL_GROUPS);
    while (fan__sqlite_step(connection, statement)) {
        struct fan__sqlite_group group = {
            .id = sqlite3_column_int64(statement, 0),
            .name = keep(&ret_groups->texts, statement, 1),
            .handler = keep(&ret_groups->texts, statement, 2),
            .pattern = keep(&ret_groups->texts, statement, 3),
            .topic = keep(&ret_groups->texts, statement, 4),
            .cursor_seq = (uint64_t)sqlite3_column_int64(statement, 5),
            .completed = (uint64_t)sqlite3_column_int64(statement, 6),
            .ordered = sqlite3_column_int(statement, 7) != 0,
            .token = (uint64_t)sqlite3_column_int64(statement, 8),
            .ahead = (uint64_t)sqlite3_column_int64(statement, 9),
            .joined_us = sqlite3_column_int64(statement, 10),
        };
        fan__buffer_add(&items, &group, sizeof(group));
    }
    if (items.failed || ret_groups->texts.failed)
        fan__sqlite_fail(connection, FAN_NO_MEMORY);
    if (connection->status != FAN_OK) {
        fan__buffer_deinit(&items);
        return;
    }
    ret_groups->items = (struct fan__sqlite_group *)(void *)items.data;
    ret_groups->count = items.size / sizeof(*ret_groups->items);
    for (size_t i = 0; i < ret_groups->count; i++) {
        resolve(&ret_groups->texts, &ret_groups->items[i].name);
        resolve(&ret_groups->texts, &ret_groups->items[i].handler);
        resolve(&ret_groups->texts, &ret_groups->items[i].pattern);
        resolve(&ret_groups->texts, &ret_groups->items[i].topic);
    }
}

void fan__sqlite_groups_free(struct fan__sqlite_groups *groups)
{
    fan__free(groups->texts.env, groups->items);
    fan__buffer_deinit(&groups->texts);
}

bool fan__sqlite_group_wants(const struct fan__sqlite_group *group, const char *topic,
                             const char *type)
{
    if (group->topic && strcmp(group->topic, topic) != 0)
        return false;
    return !group->pattern || fan_pattern_match(group->pattern, type);
}

uint64_t fan__sqlite_groups_cursor(const struct fan__sqlite_groups *groups)
{
    uint64_t lowest = UINT64_MAX;
    for (size_t i = 0; i < groups->count; i++) {
        if (groups->items[i].cursor_seq < lowest)
            lowest = groups->items[i].cursor_seq;
    }
    return lowest;
}

/* A sum under way. */
struct sum {
    bool has[4];
    unsigned attempts;
    bool failed_error;
};

static void add_delivery(struct fan__sqlite_connection *connection, struct sum *sum,
                         sqlite3_stmt *statement, struct fan_batch *batch,
                         struct fan_event_state *state)
{
    enum fan_event_status status = (enum fan_event_status)sqlite3_column_int(statement, 0);
    if (status == FAN_EVENT_PROCESSING &&
        sqlite3_column_int64(statement, 3) <= fan__sqlite_now_us(connection->store))
        status = FAN_EVENT_PENDING;
    sum->has[status & 3] = true;
    unsigned attempts = (unsigned)sqlite3_column_int(statement, 1);
    if (attempts > sum->attempts)
        sum->attempts = attempts;
    if (sqlite3_column_int64(statement, 4) > state->processed_us)
        state->processed_us = sqlite3_column_int64(statement, 4);
    if (sqlite3_column_int64(statement, 5) > state->completed_us)
        state->completed_us = sqlite3_column_int64(statement, 5);
    const char *error = (const char *)sqlite3_column_text(statement, 2);
    /* A dead letter's reason says more than that of a retry. */
    bool failed = status == FAN_EVENT_FAILED;
    if (batch && error && !sum->failed_error && (!*state->error || failed)) {
        state->error = fan_batch_keep(batch, error);
        if (!state->error) {
            state->error = "";
            fan__sqlite_fail(connection, FAN_NO_MEMORY);
        }
        sum->failed_error = failed;
    }
}

bool fan__sqlite_is_owed_unseen(struct fan__sqlite_connection *connection,
                                const struct fan__sqlite_groups *groups, uint64_t seq,
                                int64_t series_id)
{
    const struct fan__series *series = NULL;
    for (size_t i = 0; i < groups->count; i++) {
        const struct fan__sqlite_group *group = &groups->items[i];
        if (seq <= group->cursor_seq)
            continue;
        if (!series)
            series = fan__sqlite_series_get(connection, series_id);
        if (!series || !fan__sqlite_group_wants(group, series->topic, series->type))
            continue;
        if (group->ahead == 0)
            return true;
        sqlite3_stmt *statement = fan__sqlite_use(connection, FAN__SQL_DELIVERY_GET);
        sqlite3_bind_int64(statement, 1, (int64_t)seq);
        sqlite3_bind_int64(statement, 2, group->id);
        if (fan__sqlite_number(connection, statement, -1) < 0)
            return true;
    }
    return false;
}

void fan__sqlite_state_of(struct fan__sqlite_connection *connection,
                          const struct fan__sqlite_groups *groups, sqlite3_stmt *row,
                          struct fan_batch *batch, struct fan_event_state *ret_state)
{
    *ret_state = (struct fan_event_state){ .status = FAN_EVENT_COMPLETED, .error = "" };
    if (groups->count == 0)
        return;
    uint64_t seq = (uint64_t)sqlite3_column_int64(row, 0);
    struct sum sum = { .attempts = 0 };
    sqlite3_stmt *statement = fan__sqlite_use(connection, FAN__SQL_STATE);
    sqlite3_bind_int64(statement, 1, (int64_t)seq);
    while (fan__sqlite_step(connection, statement))
        add_delivery(connection, &sum, statement, batch, ret_state);
    if (sum.has[FAN_EVENT_FAILED])
        ret_state->status = FAN_EVENT_FAILED;
    else if (sum.has[FAN_EVENT_PROCESSING])
        ret_state->status = FAN_EVENT_PROCESSING;
    else if (sum.has[FAN_EVENT_PENDING] ||
             fan__sqlite_is_owed_unseen(connection, groups, seq, sqlite3_column_int64(row, 2)))
        ret_state->status = FAN_EVENT_PENDING;
    if (ret_state->status == FAN_EVENT_PROCESSING || ret_state->status == FAN_EVENT_PENDING)
        ret_state->completed_us = 0;
    ret_state->retry_count = sum.attempts > 0 ? sum.attempts - 1 : 0;
}
