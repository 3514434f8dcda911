/*
 * How claims end. Each move is one conditional update: it happens only from the status and with the
 * token that it names, so that of two who try the second one finds nothing to change.
 */
#include "store/postgres/group.h"

#include "base/env.h"
#include "event/text.h"

#include <string.h>

void fan__postgres_tally_add(struct fan__postgres_connection *connection, int64_t group_id,
                             uint64_t completed)
{
    struct fan__postgres_params params = { .count = 0 };
    if (completed == 0)
        return;
    fan__postgres_add_int(&params, group_id);
    fan__postgres_add_int(&params, (int64_t)completed);
    fan__postgres_queue(connection, FAN__PG_TALLY_ADD, &params);
}

void fan__postgres_unpark(struct fan__postgres_connection *connection, int64_t group_id,
                          struct fan__postgres_array *seqs)
{
    struct fan__postgres_params params = { .count = 0 };
    fan__postgres_add_int(&params, group_id);
    fan__postgres_add_array(&params, seqs);
    fan__postgres_queue(connection, FAN__PG_UNPARK, &params);
}

/* Who settles or renews is a member. Its row comes before those of deliveries. */
static void join(struct fan__postgres_connection *connection,
                 const struct fan__postgres_found *group)
{
    struct fan__postgres_params params = { .count = 0 };
    int64_t now_us = fan__postgres_now_us(connection->store);
    if (now_us - group->joined_us < FAN__POSTGRES_JOINED_US)
        return;
    fan__postgres_add_int(&params, group->id);
    fan__postgres_add_int(&params, now_us);
    fan__postgres_queue(connection, FAN__PG_GROUP_JOIN, &params);
}

/* Begins a transaction of a member, and finds the group; held, or in order, it holds its row. */
static enum fan_status begin(struct fan__postgres *store, const struct fan_group_name *name,
                             bool held, struct fan__postgres_connection **ret_connection,
                             struct fan__postgres_found *ret_group)
{
    struct fan__postgres_connection *connection = NULL;
    enum fan_status status = fan__postgres_borrow(store, FAN__POSTGRES_WRITE, &connection, NULL);
    if (status != FAN_OK)
        return status;
    fan__postgres_clock_sync(connection);
    status = fan__postgres_group_find(connection, name, held, ret_group);
    if (status == FAN_OK && ret_group->ordered && !held) {
        fan__postgres_group_free(ret_group);
        status = fan__postgres_group_find(connection, name, true, ret_group);
    }
    if (status != FAN_OK)
        return fan__postgres_end(connection, status, NULL);
    join(connection, ret_group);
    *ret_connection = connection;
    return FAN_OK;
}

/* What the server is told of the items, column by column. */
struct columns {
    struct fan__postgres_array seqs;
    struct fan__postgres_array tokens;
    struct fan__postgres_array verdicts;
    struct fan__postgres_array dues;
    struct fan__postgres_array errors;
    struct fan__postgres_array reasons;
};

static void columns_init(struct columns *columns, const struct fan_env *env)
{
    fan__postgres_array_init(&columns->seqs, env, FAN__POSTGRES_INT8);
    fan__postgres_array_init(&columns->tokens, env, FAN__POSTGRES_INT8);
    fan__postgres_array_init(&columns->verdicts, env, FAN__POSTGRES_INT8);
    fan__postgres_array_init(&columns->dues, env, FAN__POSTGRES_INT8);
    fan__postgres_array_init(&columns->errors, env, FAN__POSTGRES_TEXT);
    fan__postgres_array_init(&columns->reasons, env, FAN__POSTGRES_INT8);
}

static void columns_deinit(struct columns *columns)
{
    fan__postgres_array_deinit(&columns->seqs);
    fan__postgres_array_deinit(&columns->tokens);
    fan__postgres_array_deinit(&columns->verdicts);
    fan__postgres_array_deinit(&columns->dues);
    fan__postgres_array_deinit(&columns->errors);
    fan__postgres_array_deinit(&columns->reasons);
}

/*
 * A handler's words may be any bytes, or cut in the middle of a character; the server takes text.
 */
static void add_words(struct fan__postgres_array *array, const char *words)
{
    size_t size = words ? strlen(words) : 0;
    if (!words || fan__utf8_valid(words, size)) {
        fan__postgres_array_text(array, words);
        return;
    }
    struct fan__buffer legal;
    fan__buffer_init(&legal, array->buffer.env);
    for (size_t at = 0; at < size;) {
        size_t good = fan__utf8_size(words + at, size - at);
        fan__buffer_add(&legal, good > 0 ? words + at : "?", good > 0 ? good : 1);
        at += good > 0 ? good : 1;
    }
    fan__buffer_add(&legal, "", 1);
    array->buffer.failed = array->buffer.failed || legal.failed;
    fan__postgres_array_text(array, legal.failed ? NULL : legal.data);
    fan__buffer_deinit(&legal);
}

static void columns_add(struct columns *columns, const struct fan_settle *item, int64_t now_us)
{
    bool ended = item->verdict == FAN_VERDICT_DONE || item->verdict == FAN_VERDICT_FAIL;
    bool retry = item->verdict == FAN_VERDICT_RETRY;
    bool fail = item->verdict == FAN_VERDICT_FAIL;
    int64_t due_us = retry ? now_us + (int64_t)item->delay_ms * 1000 : now_us;
    fan__postgres_array_int(&columns->seqs, (int64_t)item->seq);
    fan__postgres_array_int(&columns->tokens, (int64_t)item->token);
    fan__postgres_array_int(&columns->verdicts, item->verdict);
    fan__postgres_array_int(&columns->dues, ended ? 0 : due_us);
    add_words(&columns->errors, retry || fail ? item->error : NULL);
    fan__postgres_array_int(&columns->reasons,
                            fail && item->reason == FAN_DEAD_NONE ? FAN_DEAD_FAILED : item->reason);
}

static bool columns_failed(const struct columns *columns)
{
    return columns->seqs.buffer.failed || columns->tokens.buffer.failed ||
           columns->verdicts.buffer.failed || columns->dues.buffer.failed ||
           columns->errors.buffer.failed || columns->reasons.buffer.failed;
}

/* Marks those that the server changed; gives how many of them are done. */
static uint64_t note_settled(struct fan_settle *items, size_t count, const PGresult *result)
{
    uint64_t done = 0;
    for (size_t i = 0; i < count; i++)
        items[i].ret_status = FAN_LOST;
    for (int row = 0; row < PQntuples(result); row++) {
        struct fan_settle *item = &items[fan__postgres_int(result, row, 0) - 1];
        item->ret_status = FAN_OK;
        done += item->verdict == FAN_VERDICT_DONE;
    }
    return done;
}

/* Whether something ended that others of its key may wait behind. */
static bool ended_keys(const PGresult *result)
{
    bool any = false;
    for (int row = 0; row < PQntuples(result) && !any; row++)
        any = fan__postgres_int(result, row, 1) != 0;
    return any;
}

static void add_columns(struct fan__postgres_params *params, struct columns *columns)
{
    fan__postgres_add_array(params, &columns->seqs);
    fan__postgres_add_array(params, &columns->tokens);
    fan__postgres_add_array(params, &columns->verdicts);
    fan__postgres_add_array(params, &columns->dues);
    fan__postgres_add_array(params, &columns->errors);
    fan__postgres_add_array(params, &columns->reasons);
}

struct settling {
    struct fan__postgres *store;
    const struct fan_group_name *name;
    struct fan_settle *items;
    size_t count;
};

/*
 * In one transaction. Where nobody keeps order the group's row is not held, and then FAN_AGAIN
 * tells that there are keys all the same: who is about to keep order, or did a while ago, may have
 * parked others behind them.
 */
static enum fan_status settle(const struct settling *settling, bool held)
{
    struct fan__postgres_connection *connection = NULL;
    struct fan__postgres_found group = { .id = 0 };
    enum fan_status status = begin(settling->store, settling->name, held, &connection, &group);
    if (status != FAN_OK)
        return status;
    int64_t now_us = fan__postgres_now_us(settling->store);
    struct columns columns;
    columns_init(&columns, settling->store->env);
    for (size_t i = 0; i < settling->count; i++)
        columns_add(&columns, &settling->items[i], now_us);
    if (columns_failed(&columns))
        fan__postgres_fail(connection, FAN_NO_MEMORY);
    struct fan__postgres_params params = { .count = 0 };
    fan__postgres_add_int(&params, group.id);
    fan__postgres_add_int(&params, now_us);
    add_columns(&params, &columns);
    PGresult *result = fan__postgres_run(connection, FAN__PG_SETTLE, &params);
    bool keyed = ended_keys(result);
    uint64_t done = note_settled(settling->items, settling->count, result);
    PQclear(result);
    if (keyed && !group.ordered && !held)
        status = FAN_AGAIN;
    else if (keyed)
        fan__postgres_unpark(connection, group.id, &columns.seqs);
    if (status == FAN_OK)
        fan__postgres_tally_add(connection, group.id, done);
    fan__postgres_group_free(&group);
    status = fan__postgres_end(connection, status, NULL);
    columns_deinit(&columns);
    return status;
}

enum fan_status fan__postgres_settle(void *self, const struct fan_group_name *name,
                                     struct fan_settle *items, size_t count)
{
    const struct settling settling = {
        .store = self, .name = name, .items = items, .count = count
    };
    enum fan_status status = settle(&settling, false);
    return status == FAN_AGAIN ? settle(&settling, true) : status;
}

enum fan_status fan__postgres_renew(void *self, const struct fan_group_name *name,
                                    struct fan_settle *items, size_t count, uint32_t lease_ms)
{
    struct fan__postgres *store = self;
    struct fan__postgres_connection *connection = NULL;
    struct fan__postgres_found group = { .id = 0 };
    enum fan_status status = begin(store, name, false, &connection, &group);
    if (status != FAN_OK)
        return status;
    int64_t now_us = fan__postgres_now_us(store);
    struct fan__postgres_array seqs;
    struct fan__postgres_array tokens;
    fan__postgres_array_init(&seqs, store->env, FAN__POSTGRES_INT8);
    fan__postgres_array_init(&tokens, store->env, FAN__POSTGRES_INT8);
    for (size_t i = 0; i < count; i++) {
        fan__postgres_array_int(&seqs, (int64_t)items[i].seq);
        fan__postgres_array_int(&tokens, (int64_t)items[i].token);
    }
    if (seqs.buffer.failed || tokens.buffer.failed)
        fan__postgres_fail(connection, FAN_NO_MEMORY);
    struct fan__postgres_params params = { .count = 0 };
    fan__postgres_add_int(&params, group.id);
    fan__postgres_add_int(&params, now_us);
    fan__postgres_add_int(&params, now_us + (int64_t)lease_ms * 1000);
    fan__postgres_add_array(&params, &seqs);
    fan__postgres_add_array(&params, &tokens);
    PGresult *result = fan__postgres_run(connection, FAN__PG_RENEW, &params);
    (void)note_settled(items, count, result);
    PQclear(result);
    fan__postgres_group_free(&group);
    status = fan__postgres_end(connection, FAN_OK, NULL);
    fan__postgres_array_deinit(&seqs);
    fan__postgres_array_deinit(&tokens);
    return status;
}

static bool may_move(enum fan_event_status from, enum fan_event_status to)
{
    static const bool legal[4][4] = {
        [FAN_EVENT_FAILED] = { [FAN_EVENT_PENDING] = true, [FAN_EVENT_COMPLETED] = true },
        [FAN_EVENT_PENDING] = { [FAN_EVENT_COMPLETED] = true },
    };
    return legal[from & 3][to & 3];
}

/* Completes what the group is still owed without a row of it. */
static enum fan_status discard_early(struct fan__postgres_connection *connection,
                                     const struct fan__postgres_found *group, uint64_t seq,
                                     enum fan_event_status to)
{
    struct fan__postgres_params params = { .count = 0 };
    fan__postgres_add_int(&params, (int64_t)seq);
    fan__postgres_add_text(&params, group->regex);
    fan__postgres_add_text(&params, group->topic);
    PGresult *result = fan__postgres_run(connection, FAN__PG_IS_WANTED, &params);
    bool owed = seq > group->cursor_seq && PQntuples(result) == 1;
    PQclear(result);
    if (!owed)
        return FAN_NOT_FOUND;
    if (to != FAN_EVENT_COMPLETED)
        return FAN_CONFLICT;
    params.count = 0;
    fan__postgres_add_int(&params, (int64_t)seq);
    fan__postgres_add_int(&params, group->id);
    fan__postgres_add_int(&params, fan__postgres_now_us(connection->store));
    fan__postgres_queue(connection, FAN__PG_DISCARD_EARLY, &params);
    fan__postgres_tally_add(connection, group->id, 1);
    return FAN_OK;
}

/* With the group's row held. */
static enum fan_status move_one(struct fan__postgres_connection *connection,
                                const struct fan__postgres_found *group, uint64_t seq,
                                enum fan_event_status to)
{
    struct fan__postgres_params params = { .count = 0 };
    int64_t now_us = fan__postgres_now_us(connection->store);
    fan__postgres_add_int(&params, (int64_t)seq);
    fan__postgres_add_int(&params, group->id);
    PGresult *result = fan__postgres_run(connection, FAN__PG_DELIVERY_LOCK, &params);
    bool found = PQntuples(result) == 1;
    enum fan_event_status from =
        found ? (enum fan_event_status)fan__postgres_int(result, 0, 0) : FAN_EVENT_PENDING;
    bool lapsed = found && fan__postgres_int(result, 0, 1) <= now_us;
    PQclear(result);
    if (!found)
        return discard_early(connection, group, seq, to);
    if (from == FAN_EVENT_PROCESSING && !lapsed)
        return FAN_MISUSE;
    if (from == FAN_EVENT_PROCESSING)
        from = FAN_EVENT_PENDING;
    if (!may_move(from, to))
        return FAN_CONFLICT;
    fan__postgres_add_int(&params, now_us);
    fan__postgres_queue(connection, to == FAN_EVENT_PENDING ? FAN__PG_REDRIVE : FAN__PG_DISCARD,
                        &params);
    if (to == FAN_EVENT_PENDING) {
        params.count = 2;
        fan__postgres_queue(connection, FAN__PG_GROUP_REORDER, &params);
        return FAN_OK;
    }
    fan__postgres_tally_add(connection, group->id, 1);
    struct fan__postgres_array seqs;
    fan__postgres_array_init(&seqs, connection->store->env, FAN__POSTGRES_INT8);
    fan__postgres_array_int(&seqs, (int64_t)seq);
    if (seqs.buffer.failed)
        fan__postgres_fail(connection, FAN_NO_MEMORY);
    fan__postgres_unpark(connection, group->id, &seqs);
    fan__postgres_array_deinit(&seqs);
    return FAN_OK;
}

enum fan_status fan__postgres_move(void *self, const struct fan_group_name *name, uint64_t seq,
                                   enum fan_event_status to)
{
    struct fan__postgres_connection *connection = NULL;
    enum fan_status status = fan__postgres_borrow(self, FAN__POSTGRES_WRITE, &connection, NULL);
    if (status != FAN_OK)
        return status;
    fan__postgres_clock_sync(connection);
    struct fan__postgres_found group = { .id = 0 };
    status = fan__postgres_group_find(connection, name, true, &group);
    if (status == FAN_OK)
        status = move_one(connection, &group, seq, to);
    fan__postgres_group_free(&group);
    return fan__postgres_end(connection, status, NULL);
}
