/*
 * Claiming, in one transaction: half of it what is due already, half event by event from the
 * group's cursor, and where one of the two ends the other goes on. The odd one is of either
 * in turn: the tokens of claims are even, and the group's is odd after one that began with dues.
 *
 * An ordered claim gives the oldest unsettled delivery of a key, and only in partitions that no
 * other owner holds, that is, has a live claim in. An event that may not be given yet gets a row
 * too, so that the cursor can go on: parked when an older one of its key is unsettled (triggers in
 * sql.h bring it forward), else merely pending.
 */
#include "store/sqlite/group.h"
#include "store/sqlite/walk.h"

#include "base/env.h"

#include <fanfare/batch.h>

#include <string.h>

/*
 * How many rows one claim may add for others in a transaction. With something to give it goes after
 * a few times its limit; with nothing it looks on, from one transaction to the next.
 */
#define PASSED_COUNT_MAX 4096

enum hold {
    HOLD_FREE = 0,
    HOLD_MINE,
    HOLD_OTHER,
};

struct claiming {
    struct fan__sqlite *store;
    struct fan__sqlite_connection *writer;
    const struct fan_claim_options *options;
    struct fan__sqlite_group group;
    struct fan_batch *batch;
    struct fan_claim *claims;
    int64_t now_us;
    int64_t until_us;
    size_t passed;
    size_t count_max; /* where the part that is under way ends */
    size_t size_max;
    bool due_first; /* and then the next odd one is a new event */
    enum hold holds[FAN_GROUP_PARTITION_COUNT];
};

/* A row of DUE or DUE_IN_PART, put aside: the statement must end before rows change. */
struct due {
    uint64_t seq;
    unsigned attempts;
    unsigned lapses;
    int64_t key;
};

static bool is_full(const struct claiming *claiming)
{
    return fan_batch_count(claiming->batch) >= claiming->count_max ||
           fan_batch_size(claiming->batch) >= claiming->size_max ||
           claiming->writer->status != FAN_OK;
}

static void note_claim(struct claiming *claiming, uint64_t seq, unsigned attempt, unsigned lapses)
{
    claiming->claims[fan_batch_count(claiming->batch) - 1] = (struct fan_claim){
        .seq = seq, .token = claiming->group.token, .attempt = attempt, .lapses = lapses
    };
}

/* Gives a delivery that has a row. */
static void take(struct claiming *claiming, const struct due *due)
{
    struct fan__sqlite_connection *writer = claiming->writer;
    sqlite3_stmt *statement = fan__sqlite_use(writer, FAN__SQL_EVENT_BY_SEQ);
    sqlite3_bind_int64(statement, 1, (int64_t)due->seq);
    if (!fan__sqlite_step(writer, statement))
        return;
    fan__sqlite_row_add(writer, statement, claiming->batch);
    sqlite3_reset(statement);
    if (writer->status != FAN_OK)
        return;
    note_claim(claiming, due->seq, due->attempts + 1, due->lapses);
    statement = fan__sqlite_use(writer, FAN__SQL_DELIVERY_CLAIM);
    sqlite3_bind_int64(statement, 1, (int64_t)due->seq);
    sqlite3_bind_int64(statement, 2, claiming->group.id);
    sqlite3_bind_int64(statement, 3, (int64_t)claiming->group.token);
    sqlite3_bind_text(statement, 4, claiming->options->owner, -1, SQLITE_STATIC);
    sqlite3_bind_int64(statement, 5, claiming->until_us);
    sqlite3_bind_int64(statement, 6, claiming->now_us);
    fan__sqlite_run(writer, statement);
}

/* A key may be given when this is its oldest unsettled delivery and no other of it is claimed. */
static bool key_allows(struct claiming *claiming, uint64_t seq, int64_t key)
{
    struct fan__sqlite_connection *writer = claiming->writer;
    sqlite3_stmt *statement = fan__sqlite_use(writer, FAN__SQL_KEY_OLDEST);
    sqlite3_bind_int64(statement, 1, claiming->group.id);
    sqlite3_bind_int64(statement, 2, key);
    int64_t oldest = fan__sqlite_number(writer, statement, (int64_t)seq);
    if ((uint64_t)oldest != seq)
        return false;
    statement = fan__sqlite_use(writer, FAN__SQL_KEY_HELD);
    sqlite3_bind_int64(statement, 1, claiming->group.id);
    sqlite3_bind_int64(statement, 2, claiming->now_us);
    sqlite3_bind_int64(statement, 3, key);
    sqlite3_bind_int64(statement, 4, fan__sqlite_part_of(key));
    return fan__sqlite_number(writer, statement, 0) == 0;
}

/* Collects what a DUE statement gives, then takes it. */
static void take_due(struct claiming *claiming, sqlite3_stmt *statement, bool ordered)
{
    struct fan__buffer *dues = &claiming->writer->scratch;
    fan__buffer_clear(dues);
    sqlite3_bind_int64(statement, 1, claiming->group.id);
    sqlite3_bind_int64(statement, 2, claiming->now_us);
    sqlite3_bind_int64(statement, 3,
                       (int64_t)(claiming->count_max - fan_batch_count(claiming->batch)));
    unsigned below = claiming->options->lapses_below;
    sqlite3_bind_int64(statement, 5, below ? below : INT64_MAX);
    while (fan__sqlite_step(claiming->writer, statement)) {
        struct due due = {
            .seq = (uint64_t)sqlite3_column_int64(statement, 0),
            .attempts = (unsigned)sqlite3_column_int(statement, 1),
            .lapses = (unsigned)sqlite3_column_int(statement, 2),
            .key = ordered ? sqlite3_column_int64(statement, 3) : 0,
        };
        fan__buffer_add(dues, &due, sizeof(due));
    }
    if (dues->failed)
        fan__sqlite_fail(claiming->writer, FAN_NO_MEMORY);
    for (size_t at = 0; at + sizeof(struct due) <= dues->size && !is_full(claiming);
         at += sizeof(struct due)) {
        struct due due;
        memcpy(&due, dues->data + at, sizeof(due));
        if (!ordered || key_allows(claiming, due.seq, due.key))
            take(claiming, &due);
    }
}

static void take_due_in_parts(struct claiming *claiming)
{
    /* Each claim begins elsewhere: what is retried all the time in some holds up no others. */
    unsigned start = (unsigned)((claiming->group.token * UINT64_C(0x9e3779b97f4a7c15)) >> 58);
    for (unsigned i = 0; i < FAN_GROUP_PARTITION_COUNT && !is_full(claiming); i++) {
        unsigned part = (start + i) % FAN_GROUP_PARTITION_COUNT;
        if (claiming->holds[part] == HOLD_OTHER)
            continue;
        sqlite3_stmt *statement = fan__sqlite_use(claiming->writer, FAN__SQL_DUE_IN_PART);
        sqlite3_bind_int64(statement, 4, part);
        /* Redriven ahead of the cursor: older ones of its key may be still to come. */
        sqlite3_bind_int64(statement, 6, (int64_t)claiming->group.cursor_seq);
        take_due(claiming, statement, true);
    }
}

/* Of what is due already, until the claim has so much. Gives whether there may be more of it. */
static bool take_dues(struct claiming *claiming, size_t count_max, size_t size_max)
{
    claiming->count_max = count_max;
    claiming->size_max = size_max;
    if (is_full(claiming))
        return true;
    if (claiming->options->ordered)
        take_due_in_parts(claiming);
    else
        take_due(claiming, fan__sqlite_use(claiming->writer, FAN__SQL_DUE), false);
    return is_full(claiming);
}

static void load_holds(struct claiming *claiming)
{
    memset(claiming->holds, 0, sizeof(claiming->holds));
    sqlite3_stmt *statement = fan__sqlite_use(claiming->writer, FAN__SQL_HELD);
    sqlite3_bind_int64(statement, 1, claiming->group.id);
    sqlite3_bind_int64(statement, 2, claiming->now_us);
    while (fan__sqlite_step(claiming->writer, statement)) {
        const char *owner = (const char *)sqlite3_column_text(statement, 1);
        bool mine = owner && strcmp(owner, claiming->options->owner) == 0;
        claiming->holds[(unsigned)sqlite3_column_int(statement, 0) % FAN_GROUP_PARTITION_COUNT] =
            mine ? HOLD_MINE : HOLD_OTHER;
    }
}

/* Tells whether a new event may be given, and whether it must wait behind its key. */
static bool may_give(struct claiming *claiming, uint64_t seq, int64_t key, bool *ret_parked)
{
    struct fan__sqlite_connection *writer = claiming->writer;
    sqlite3_stmt *statement = fan__sqlite_use(writer, FAN__SQL_KEY_OLDEST);
    sqlite3_bind_int64(statement, 1, claiming->group.id);
    sqlite3_bind_int64(statement, 2, key);
    int64_t oldest = fan__sqlite_number(writer, statement, 0);
    *ret_parked = oldest != 0 && (uint64_t)oldest < seq;
    return !*ret_parked && claiming->holds[fan__sqlite_part_of(key)] != HOLD_OTHER;
}

/* Gives an event that has no row yet, or passes over it with one. */
static void take_new(struct claiming *claiming, sqlite3_stmt *row)
{
    struct fan__sqlite_connection *writer = claiming->writer;
    const struct fan__series *series = fan__sqlite_series_get(writer, sqlite3_column_int64(row, 2));
    if (!series)
        return;
    uint64_t seq = (uint64_t)sqlite3_column_int64(row, 0);
    int64_t deliver_at_us = sqlite3_column_int64(row, 6);
    int64_t key = claiming->options->ordered ? fan__sqlite_key_of(series->topic) : 0;
    bool parked = false;
    bool give = (!claiming->options->ordered || may_give(claiming, seq, key, &parked)) &&
                deliver_at_us <= claiming->now_us;

    sqlite3_stmt *statement = fan__sqlite_use(writer, FAN__SQL_DELIVERY_INSERT);
    sqlite3_bind_int64(statement, 1, (int64_t)seq);
    sqlite3_bind_int64(statement, 2, claiming->group.id);
    sqlite3_bind_int(statement, 3, give ? FAN_EVENT_PROCESSING : FAN_EVENT_PENDING);
    sqlite3_bind_int(statement, 4, give);
    sqlite3_bind_int64(statement, 5, give ? (int64_t)claiming->group.token : 0);
    fan__sqlite_bind_text(statement, 6, give ? claiming->options->owner : NULL);
    int64_t due_us = deliver_at_us > claiming->now_us ? deliver_at_us : claiming->now_us;
    sqlite3_bind_int64(statement, 7, give ? claiming->until_us : due_us);
    sqlite3_bind_int64(statement, 8, give ? claiming->now_us : 0);
    if (claiming->options->ordered) {
        sqlite3_bind_int64(statement, 9, key);
        sqlite3_bind_int64(statement, 10, fan__sqlite_part_of(key));
    } else {
        sqlite3_bind_null(statement, 9);
        sqlite3_bind_null(statement, 10);
    }
    sqlite3_bind_int(statement, 11, parked);
    fan__sqlite_run(writer, statement);
    if (writer->status != FAN_OK)
        return;
    if (sqlite3_changes(writer->db) == 0) {
        /* It was discarded before its turn. */
        claiming->group.ahead -= claiming->group.ahead > 0;
    } else if (!give) {
        claiming->passed++;
    } else {
        fan__sqlite_row_add(writer, row, claiming->batch);
        if (writer->status == FAN_OK)
            note_claim(claiming, seq, 1, 0);
    }
}

static bool has_passed_enough(const struct claiming *claiming)
{
    return claiming->passed >= PASSED_COUNT_MAX ||
           (fan_batch_count(claiming->batch) > 0 &&
            claiming->passed / 4 >= claiming->options->limit + 16);
}

/* Goes on from the cursor. Returns: true when the end of the log was reached. */
static bool take_news(struct claiming *claiming)
{
    uint64_t head_seq = claiming->store->head_seq;
    struct fan_query query = {
        .size = FAN_QUERY_SIZE,
        .topic = claiming->group.topic,
        .pattern = claiming->group.pattern,
    };
    if (claiming->group.cursor_seq >= head_seq)
        return true;
    struct fan__sqlite_walk walk;
    fan__sqlite_walk_init(&walk, claiming->writer, &query, claiming->group.cursor_seq, head_seq);
    while (!is_full(claiming) && !has_passed_enough(claiming)) {
        if (!fan__sqlite_walk_next(&walk)) {
            claiming->group.cursor_seq = head_seq;
            break;
        }
        claiming->group.cursor_seq = fan__sqlite_walk_seq(&walk);
        take_new(claiming, walk.statement);
    }
    fan__sqlite_walk_end(&walk);
    return claiming->group.cursor_seq == head_seq;
}

/* The group was claimed without order so far: its unsettled deliveries get their keys. */
static void begin_order(struct claiming *claiming)
{
    struct fan__sqlite_connection *writer = claiming->writer;
    struct fan__buffer *seqs = &writer->scratch;
    fan__buffer_clear(seqs);
    sqlite3_stmt *statement = fan__sqlite_use(writer, FAN__SQL_UNKEYED);
    sqlite3_bind_int64(statement, 1, claiming->group.id);
    while (fan__sqlite_step(writer, statement)) {
        uint64_t seq = (uint64_t)sqlite3_column_int64(statement, 0);
        fan__buffer_add(seqs, &seq, sizeof(seq));
    }
    if (seqs->failed)
        fan__sqlite_fail(writer, FAN_NO_MEMORY);
    for (size_t at = 0; at + sizeof(uint64_t) <= seqs->size && writer->status == FAN_OK;
         at += sizeof(uint64_t)) {
        uint64_t seq;
        memcpy(&seq, seqs->data + at, sizeof(seq));
        sqlite3_stmt *row = fan__sqlite_use(writer, FAN__SQL_EVENT_BY_SEQ);
        sqlite3_bind_int64(row, 1, (int64_t)seq);
        if (!fan__sqlite_step(writer, row))
            continue;
        const struct fan__series *series =
            fan__sqlite_series_get(writer, sqlite3_column_int64(row, 2));
        int64_t key = series ? fan__sqlite_key_of(series->topic) : 0;
        statement = fan__sqlite_use(writer, FAN__SQL_DELIVERY_ORDER);
        sqlite3_bind_int64(statement, 1, (int64_t)seq);
        sqlite3_bind_int64(statement, 2, claiming->group.id);
        sqlite3_bind_int64(statement, 3, key);
        sqlite3_bind_int64(statement, 4, fan__sqlite_part_of(key));
        fan__sqlite_run(writer, statement);
    }
}

/*
 * Remembers that a cursor moved over events that nobody wanted, or that a member asks for work now
 * and then. This is not worth a sync: after a power loss they are looked at again.
 */
static enum fan_status move_cursor(struct claiming *claiming, uint64_t from_seq)
{
    struct fan__sqlite *store = claiming->store;
    enum fan_status status = fan__sqlite_write_begin_unsynced(store);
    if (status != FAN_OK)
        return status;
    sqlite3_stmt *statement = fan__sqlite_use(store->writer, FAN__SQL_GROUP_MOVE);
    sqlite3_bind_int64(statement, 1, claiming->group.id);
    sqlite3_bind_int64(statement, 2, (int64_t)claiming->group.cursor_seq);
    sqlite3_bind_int64(statement, 3, (int64_t)from_seq);
    sqlite3_bind_int64(statement, 4, claiming->now_us);
    fan__sqlite_run(store->writer, statement);
    return fan__sqlite_write_end(store, FAN_OK, 0, NULL);
}

/*
 * A claim is not worth a sync: what a power loss takes back is due again, as all who held it here
 * are gone. Only those who hold it over a network are not, so that a token must not come again: it
 * follows the store's clock, which never begins behind where it was.
 */
static uint64_t next_token(const struct fan__sqlite_group *group, int64_t now_us)
{
    uint64_t token =
        now_us > 0 && (uint64_t)now_us > group->token ? (uint64_t)now_us : group->token + 1;
    return token + (token & 1);
}

/* Every part of the claim, each for as much as is its. Gives whether the log's end was reached. */
static bool take_all(struct claiming *claiming, bool new_first)
{
    size_t limit = claiming->options->limit;
    bool more = take_dues(claiming, (limit + !new_first) / 2, FAN__SQLITE_BATCH_SIZE_MAX / 2);
    claiming->due_first = fan_batch_count(claiming->batch) > 0;
    claiming->count_max = limit;
    claiming->size_max = FAN__SQLITE_BATCH_SIZE_MAX;
    bool end = take_news(claiming);
    if (more)
        take_dues(claiming, limit, FAN__SQLITE_BATCH_SIZE_MAX);
    return end;
}

/* One transaction's worth. *ret_end tells whether the end of the log was reached. */
static enum fan_status claim_once(struct claiming *claiming, const struct fan_group_name *name,
                                  bool *ret_end)
{
    struct fan__sqlite *store = claiming->store;
    struct fan__sqlite_found found;
    enum fan_status status = fan__sqlite_group_begin_unsynced(store, name, &found);
    if (status != FAN_OK)
        return status;
    uint64_t cursor_seq = found.group.cursor_seq;
    claiming->writer = store->writer;
    claiming->group = found.group;
    claiming->passed = 0;
    claiming->now_us = fan__sqlite_now_us(store);
    claiming->group.token = next_token(&found.group, claiming->now_us);
    claiming->until_us = claiming->now_us + (int64_t)claiming->options->lease_ms * 1000;
    bool ordered = claiming->options->ordered;
    if (ordered && !found.group.ordered)
        begin_order(claiming);
    if (ordered)
        load_holds(claiming);
    *ret_end = take_all(claiming, found.group.token & 1);
    bool changed = fan_batch_count(claiming->batch) > 0 || claiming->passed > 0 ||
                   claiming->group.ahead != found.group.ahead || ordered != found.group.ordered;
    if (changed) {
        sqlite3_stmt *statement = fan__sqlite_use(store->writer, FAN__SQL_GROUP_ADVANCE);
        sqlite3_bind_int64(statement, 1, claiming->group.id);
        sqlite3_bind_int64(statement, 2, (int64_t)claiming->group.cursor_seq);
        sqlite3_bind_int64(statement, 3, (int64_t)claiming->group.token + claiming->due_first);
        sqlite3_bind_int(statement, 4, ordered);
        sqlite3_bind_int64(statement, 5, (int64_t)claiming->group.ahead);
        sqlite3_bind_int64(statement, 6, claiming->now_us);
        fan__sqlite_run(store->writer, statement);
    }
    status = fan__sqlite_write_end(store, FAN_OK, 0, NULL);
    bool joined = fan__sqlite_group_is_late(&found.group, claiming->now_us);
    if (status == FAN_OK && !changed && (claiming->group.cursor_seq != cursor_seq || joined))
        status = move_cursor(claiming, cursor_seq);
    return status;
}

/*
 * Whether a claim is worth its transaction. Members ask again and again, mostly for nothing: that
 * takes no lock of the file from those who write.
 */
static enum fan_status look(const struct claiming *claiming, const struct fan_group_name *name,
                            bool *ret_worth)
{
    struct fan__sqlite *store = claiming->store;
    struct fan__sqlite_found found;
    enum fan_status status = fan__sqlite_group_look(store, name, &found);
    if (status != FAN_OK)
        return status;
    int64_t now_us = fan__sqlite_now_us(store);
    unsigned below = claiming->options->lapses_below;
    *ret_worth = found.group.cursor_seq < store->head_seq ||
                 found.group.ordered != claiming->options->ordered ||
                 fan__sqlite_group_is_late(&found.group, now_us);
    if (!*ret_worth) {
        sqlite3_stmt *statement = fan__sqlite_use(store->writer, FAN__SQL_DUE);
        sqlite3_bind_int64(statement, 1, found.group.id);
        sqlite3_bind_int64(statement, 2, now_us);
        sqlite3_bind_int64(statement, 3, 1);
        sqlite3_bind_int64(statement, 5, below ? below : INT64_MAX);
        *ret_worth = fan__sqlite_number(store->writer, statement, 0) != 0;
    }
    return fan__sqlite_write_end(store, FAN_OK, 0, NULL);
}

enum fan_status fan__sqlite_claim(void *self, const struct fan_group_name *name,
                                  const struct fan_claim_options *options, struct fan_batch *batch,
                                  struct fan_claim *claims)
{
    struct claiming claiming = {
        .store = self, .options = options, .batch = batch, .claims = claims
    };
    bool end = false;
    bool worth = false;
    enum fan_status status = look(&claiming, name, &worth);
    if (status != FAN_OK || !worth)
        return status == FAN_OK ? FAN_AGAIN : status;
    do {
        status = claim_once(&claiming, name, &end);
    } while (status == FAN_OK && fan_batch_count(batch) == 0 && !end);
    if (status != FAN_OK)
        fan_batch_clear(batch);
    return status == FAN_OK && fan_batch_count(batch) == 0 ? FAN_AGAIN : status;
}
