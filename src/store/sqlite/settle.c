/*
 * How claims end. Each move is one conditional update: it happens only from the status and with the
 * token that it names, so that of two who try the second one finds nothing to change.
 */
#include "store/sqlite/group.h"

#include "base/env.h"

static enum fan__sqlite_statement statement_of(enum fan_verdict verdict, bool keyed)
{
    switch (verdict) {
    case FAN_VERDICT_DONE:
        return keyed ? FAN__SQL_DELIVERY_DONE_KEYED : FAN__SQL_DELIVERY_DONE;
    case FAN_VERDICT_RETRY:
        return FAN__SQL_DELIVERY_RETRY;
    case FAN_VERDICT_FAIL:
        return FAN__SQL_DELIVERY_FAIL;
    case FAN_VERDICT_HAND_BACK:
        break;
    }
    return FAN__SQL_DELIVERY_HAND_BACK;
}

/* Settles one claim. Returns: FAN_LOST when the token is not the delivery's (any more). */
static enum fan_status settle_one(struct fan__sqlite_connection *writer, int64_t group_id,
                                  const struct fan_settle *item, int64_t now_us, bool keyed)
{
    if (item->token == 0)
        return FAN_LOST;
    bool retry = item->verdict == FAN_VERDICT_RETRY;
    sqlite3_stmt *statement = fan__sqlite_use(writer, statement_of(item->verdict, keyed));
    sqlite3_bind_int64(statement, 1, (int64_t)item->seq);
    sqlite3_bind_int64(statement, 2, group_id);
    sqlite3_bind_int64(statement, 3, (int64_t)item->token);
    sqlite3_bind_int64(statement, 4, retry ? now_us + (int64_t)item->delay_ms * 1000 : now_us);
    if (retry || item->verdict == FAN_VERDICT_FAIL)
        fan__sqlite_bind_text(statement, 5, item->error);
    if (item->verdict == FAN_VERDICT_FAIL)
        sqlite3_bind_int(statement, 6,
                         item->reason != FAN_DEAD_NONE ? (int)item->reason : FAN_DEAD_FAILED);
    fan__sqlite_run(writer, statement);
    return sqlite3_changes(writer->db) > 0 ? FAN_OK : FAN_LOST;
}

static void add_completed(struct fan__sqlite_connection *writer, int64_t group_id,
                          uint64_t completed, uint64_t ahead)
{
    if (completed == 0 && ahead == 0)
        return;
    sqlite3_stmt *statement = fan__sqlite_use(writer, FAN__SQL_GROUP_COMPLETED);
    sqlite3_bind_int64(statement, 1, group_id);
    sqlite3_bind_int64(statement, 2, (int64_t)completed);
    sqlite3_bind_int64(statement, 3, (int64_t)ahead);
    fan__sqlite_run(writer, statement);
}

/* Tells whether settling a delivery may bring forward another of its key. */
static bool has_keys(struct fan__sqlite_connection *writer, int64_t group_id)
{
    sqlite3_stmt *statement = fan__sqlite_use(writer, FAN__SQL_GROUP_KEYED);
    sqlite3_bind_int64(statement, 1, group_id);
    return fan__sqlite_number(writer, statement, 0) != 0;
}

enum fan_status fan__sqlite_settle(void *self, const struct fan_group_name *name,
                                   struct fan_settle *items, size_t count)
{
    struct fan__sqlite *store = self;
    struct fan__sqlite_found found;
    enum fan_status status = fan__sqlite_group_begin(store, name, &found);
    if (status != FAN_OK)
        return status;
    int64_t now_us = fan__sqlite_now_us(store);
    fan__sqlite_group_join(store, &found.group, now_us);
    bool keyed = has_keys(store->writer, found.group.id);
    uint64_t completed = 0;
    for (size_t i = 0; i < count && store->writer->status == FAN_OK; i++) {
        items[i].ret_status = settle_one(store->writer, found.group.id, &items[i], now_us, keyed);
        completed += items[i].ret_status == FAN_OK && items[i].verdict == FAN_VERDICT_DONE;
    }
    add_completed(store->writer, found.group.id, completed, 0);
    return fan__sqlite_write_end(store, FAN_OK, 0, NULL);
}

enum fan_status fan__sqlite_renew(void *self, const struct fan_group_name *name,
                                  struct fan_settle *items, size_t count, uint32_t lease_ms)
{
    struct fan__sqlite *store = self;
    struct fan__sqlite_found found;
    enum fan_status status = fan__sqlite_group_begin(store, name, &found);
    if (status != FAN_OK)
        return status;
    int64_t now_us = fan__sqlite_now_us(store);
    fan__sqlite_group_join(store, &found.group, now_us);
    for (size_t i = 0; i < count; i++) {
        sqlite3_stmt *statement = fan__sqlite_use(store->writer, FAN__SQL_DELIVERY_RENEW);
        sqlite3_bind_int64(statement, 1, (int64_t)items[i].seq);
        sqlite3_bind_int64(statement, 2, found.group.id);
        sqlite3_bind_int64(statement, 3, (int64_t)items[i].token);
        sqlite3_bind_int64(statement, 4, now_us);
        sqlite3_bind_int64(statement, 5, now_us + (int64_t)lease_ms * 1000);
        fan__sqlite_run(store->writer, statement);
        items[i].ret_status = sqlite3_changes(store->writer->db) > 0 ? FAN_OK : FAN_LOST;
    }
    return fan__sqlite_write_end(store, FAN_OK, 0, NULL);
}

/* What the group is still owed without a row of it. Returns: FAN_NOT_FOUND for anything else. */
static enum fan_status find_owed(struct fan__sqlite *store, const struct fan__sqlite_group *group,
                                 uint64_t seq, const struct fan__series **ret_series)
{
    struct fan__sqlite_connection *writer = store->writer;
    sqlite3_stmt *row = fan__sqlite_use(writer, FAN__SQL_EVENT_BY_SEQ);
    sqlite3_bind_int64(row, 1, (int64_t)seq);
    if (seq <= group->cursor_seq || !fan__sqlite_step(writer, row))
        return FAN_NOT_FOUND;
    const struct fan__series *series = fan__sqlite_series_get(writer, sqlite3_column_int64(row, 2));
    sqlite3_reset(row);
    if (!series || !fan__sqlite_group_wants(group, series->topic, series->type))
        return FAN_NOT_FOUND;
    *ret_series = series;
    return FAN_OK;
}

/* Gives a completed row to an event that the group has not come to yet. */
static enum fan_status discard_ahead(struct fan__sqlite *store,
                                     const struct fan__sqlite_group *group, uint64_t seq,
                                     enum fan_event_status to)
{
    const struct fan__series *series;
    enum fan_status status = find_owed(store, group, seq, &series);
    if (status != FAN_OK)
        return status;
    if (to != FAN_EVENT_COMPLETED)
        return FAN_CONFLICT;
    sqlite3_stmt *statement = fan__sqlite_use(store->writer, FAN__SQL_DELIVERY_INSERT);
    sqlite3_clear_bindings(statement);
    sqlite3_bind_int64(statement, 1, (int64_t)seq);
    sqlite3_bind_int64(statement, 2, group->id);
    sqlite3_bind_int(statement, 3, FAN_EVENT_PENDING);
    sqlite3_bind_int(statement, 4, 0);
    sqlite3_bind_int(statement, 5, 0);
    sqlite3_bind_int(statement, 7, 0);
    sqlite3_bind_int(statement, 11, 0);
    fan__sqlite_run(store->writer, statement);
    statement = fan__sqlite_use(store->writer, FAN__SQL_DELIVERY_DISCARD);
    sqlite3_bind_int64(statement, 1, (int64_t)seq);
    sqlite3_bind_int64(statement, 2, group->id);
    sqlite3_bind_int64(statement, 3, fan__sqlite_now_us(store));
    fan__sqlite_run(store->writer, statement);
    add_completed(store->writer, group->id, 1, 1);
    return FAN_OK;
}

static bool may_move(enum fan_event_status from, enum fan_event_status to)
{
    static const bool legal[4][4] = {
        [FAN_EVENT_FAILED] = { [FAN_EVENT_PENDING] = true, [FAN_EVENT_COMPLETED] = true },
        [FAN_EVENT_PENDING] = { [FAN_EVENT_COMPLETED] = true },
    };
    return legal[from & 3][to & 3];
}

/*
 * What died before the group was ordered has no key. The next ordered claim finds the keys anew, as
 * the first did.
 */
static void find_key(struct fan__sqlite_connection *writer, int64_t group, uint64_t seq)
{
    sqlite3_stmt *statement = fan__sqlite_use(writer, FAN__SQL_GROUP_REORDER);
    sqlite3_bind_int64(statement, 1, (int64_t)seq);
    sqlite3_bind_int64(statement, 2, group);
    fan__sqlite_run(writer, statement);
}

static enum fan_status move_one(struct fan__sqlite *store, const struct fan__sqlite_group *group,
                                uint64_t seq, enum fan_event_status to)
{
    int64_t now_us = fan__sqlite_now_us(store);
    sqlite3_stmt *statement = fan__sqlite_use(store->writer, FAN__SQL_DELIVERY_GET);
    sqlite3_bind_int64(statement, 1, (int64_t)seq);
    sqlite3_bind_int64(statement, 2, group->id);
    if (!fan__sqlite_step(store->writer, statement))
        return discard_ahead(store, group, seq, to);
    enum fan_event_status from = (enum fan_event_status)sqlite3_column_int(statement, 0);
    bool lapsed = sqlite3_column_int64(statement, 1) <= now_us;
    sqlite3_reset(statement);
    if (from == FAN_EVENT_PROCESSING && !lapsed)
        return FAN_MISUSE;
    if (from == FAN_EVENT_PROCESSING)
        from = FAN_EVENT_PENDING;
    if (!may_move(from, to))
        return FAN_CONFLICT;
    statement = fan__sqlite_use(store->writer, to == FAN_EVENT_PENDING ? FAN__SQL_DELIVERY_REDRIVE
                                                                       : FAN__SQL_DELIVERY_DISCARD);
    sqlite3_bind_int64(statement, 1, (int64_t)seq);
    sqlite3_bind_int64(statement, 2, group->id);
    sqlite3_bind_int64(statement, 3, now_us);
    fan__sqlite_run(store->writer, statement);
    add_completed(store->writer, group->id, to == FAN_EVENT_COMPLETED, 0);
    if (to == FAN_EVENT_PENDING && group->ordered)
        find_key(store->writer, group->id, seq);
    return FAN_OK;
}

enum fan_status fan__sqlite_move(void *self, const struct fan_group_name *name, uint64_t seq,
                                 enum fan_event_status to)
{
    struct fan__sqlite *store = self;
    struct fan__sqlite_found found;
    enum fan_status status = fan__sqlite_group_begin(store, name, &found);
    if (status != FAN_OK)
        return status;
    status = move_one(store, &found.group, seq, to);
    return fan__sqlite_write_end(store, status, 0, NULL);
}
