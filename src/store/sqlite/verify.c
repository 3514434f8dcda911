/*
 * Looking for damage, in one snapshot on a connection of its own: first SQLite's own check of pages
 * and indexes, then what only we know: that every event can be rebuilt and is legal, that sequences
 * rise, and that what is counted is what is there.
 *
 * The file may hold anything. What does not fit is a finding; a check that cannot go on ends with
 * one, and the next check begins.
 */
#include "store/findings.h"
#include "store/sqlite/owed.h"

#include "base/env.h"
#include "base/status.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

struct verify {
    struct fan__sqlite_connection *connection;
    struct fan__findings findings;
    struct fan__sqlite_groups groups;
    uint64_t head_seq;
    uint64_t counts[4]; /* events by status */
};

/* What SQLite cannot make sense of is damage, too, and a page past the end of the file. */
static bool is_damage(const struct fan__sqlite_connection *connection)
{
    int code = sqlite3_extended_errcode(connection->db);
    if (connection->status == FAN_IO)
        return (code & 0xff) != SQLITE_IOERR || code == SQLITE_IOERR_SHORT_READ;
    return connection->status == FAN_CORRUPT || connection->status == FAN_INVALID;
}

/* After a check: what ended it early is damage, or a fault that ends all. */
static void end_check(struct verify *verify, const char *part)
{
    struct fan__sqlite_connection *connection = verify->connection;
    if (connection->status == FAN_OK)
        return;
    if (is_damage(connection)) {
        fan__find(&verify->findings, part, 0, "cannot be read to its end: %s", connection->message);
        connection->status = FAN_OK;
    } else {
        verify->findings.ended = true;
    }
}

static sqlite3_stmt *prepare(struct verify *verify, const char *sql)
{
    sqlite3_stmt *statement = NULL;
    int code = sqlite3_prepare_v2(verify->connection->db, sql, -1, &statement, NULL);
    if (code != SQLITE_OK)
        fan__sqlite_failed(verify->connection, code);
    return statement;
}

static bool next(struct verify *verify, sqlite3_stmt *statement)
{
    return !verify->findings.ended && fan__sqlite_step(verify->connection, statement);
}

static const char *text_of(sqlite3_stmt *statement, int column)
{
    const char *text = (const char *)sqlite3_column_text(statement, column);
    return text ? text : "";
}

static void check_storage(struct verify *verify)
{
    sqlite3_stmt *statement = prepare(verify, "PRAGMA integrity_check(1000)");
    while (next(verify, statement)) {
        if (strcmp(text_of(statement, 0), "ok") != 0)
            fan__find(&verify->findings, "storage", 0, "%s", text_of(statement, 0));
    }
    sqlite3_finalize(statement);
    end_check(verify, "storage");
}

static void check_meta(struct verify *verify)
{
    static const char *const names[] = {
        "epoch", "head_floor", "trimmed_seq", "key_generation", "fence", "token_floor",
    };
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        sqlite3_stmt *statement = fan__sqlite_use(verify->connection, FAN__SQL_META_GET);
        sqlite3_bind_text(statement, 1, names[i], -1, SQLITE_STATIC);
        bool there = next(verify, statement);
        bool number = there && sqlite3_column_type(statement, 0) == SQLITE_INTEGER;
        int64_t value = number ? sqlite3_column_int64(statement, 0) : 0;
        sqlite3_reset(statement);
        if (verify->connection->status != FAN_OK)
            break;
        if (!number)
            fan__find(&verify->findings, "meta", 0, "%s is not there", names[i]);
        else if ((i == 0 && value == 0) || (i > 0 && value < 0))
            fan__find(&verify->findings, "meta", 0, "%s is %" PRId64, names[i], value);
    }
    struct fan__sqlite_bounds bounds;
    fan__sqlite_bounds(verify->connection, &bounds);
    verify->head_seq = bounds.head_seq;
    if (bounds.head_seq > FAN_SEQ_MAX)
        fan__find(&verify->findings, "meta", 0, "the head is %" PRIu64, bounds.head_seq);
    if (bounds.trimmed_seq > bounds.head_seq)
        fan__find(&verify->findings, "meta", 0,
                  "trimmed up to %" PRIu64 ", past the head at %" PRIu64, bounds.trimmed_seq,
                  bounds.head_seq);
    end_check(verify, "meta");
}

/* Rebuilds one event as readers are given it, and lays it before the rules of a publish. */
static void check_event(struct verify *verify, sqlite3_stmt *row, uint64_t seq)
{
    struct fan__sqlite_connection *connection = verify->connection;
    char id[FAN__UUID_TEXT_SIZE];
    struct fan_event_draft draft;
    if (!fan__sqlite_row_draft(connection, row, id, &draft)) {
        fan__find(&verify->findings, "event", seq, "cannot be rebuilt: %s", connection->message);
        if (connection->status == FAN_CORRUPT)
            connection->status = FAN_OK;
        return;
    }
    if (fan__find_event(&verify->findings, connection->store->env, seq, &draft) != FAN_OK)
        fan__sqlite_fail(connection, FAN_NO_MEMORY);
}

/* What the log's walk has seen of one block; compared with the block's row at its end. */
struct block {
    uint64_t number;
    uint64_t count;
    int64_t t_min;
    int64_t t_max;
};

static void check_block(struct verify *verify, const struct block *block)
{
    if (block->count == 0)
        return;
    sqlite3_stmt *statement =
        prepare(verify, "SELECT count, t_min, t_max FROM event_block WHERE block = ?1");
    sqlite3_bind_int64(statement, 1, (int64_t)block->number);
    if (!next(verify, statement)) {
        if (verify->connection->status == FAN_OK)
            fan__find(&verify->findings, "block", block->number << FAN__SQLITE_BLOCK_BITS,
                      "has no row");
    } else {
        uint64_t count = (uint64_t)sqlite3_column_int64(statement, 0);
        if (count != block->count)
            fan__find(&verify->findings, "block", block->number << FAN__SQLITE_BLOCK_BITS,
                      "counts %" PRIu64 " events, and there are %" PRIu64, count, block->count);
        if (sqlite3_column_int64(statement, 1) > block->t_min ||
            sqlite3_column_int64(statement, 2) < block->t_max)
            fan__find(&verify->findings, "block", block->number << FAN__SQLITE_BLOCK_BITS,
                      "does not span the times of its events");
    }
    sqlite3_finalize(statement);
}

static void note_block(struct verify *verify, struct block *block, uint64_t seq, int64_t created_us)
{
    uint64_t number = seq >> FAN__SQLITE_BLOCK_BITS;
    if (block->count == 0 || block->number != number) {
        check_block(verify, block);
        *block = (struct block){ .number = number, .t_min = created_us, .t_max = created_us };
    }
    block->count++;
    if (created_us < block->t_min)
        block->t_min = created_us;
    if (created_us > block->t_max)
        block->t_max = created_us;
}

static void check_events(struct verify *verify)
{
    sqlite3_stmt *row =
        prepare(verify, "SELECT " FAN__SQLITE_COLUMNS "FROM event e ORDER BY e.seq");
    struct block block = { .count = 0 };
    int64_t previous = 0;
    while (next(verify, row)) {
        int64_t seq = sqlite3_column_int64(row, 0);
        if (seq <= previous)
            fan__find(&verify->findings, "event", (uint64_t)seq, "comes after %" PRId64, previous);
        previous = seq;
        check_event(verify, row, (uint64_t)seq);
        note_block(verify, &block, (uint64_t)seq, sqlite3_column_int64(row, 3));
        struct fan_event_state state;
        fan__sqlite_state_of(verify->connection, &verify->groups, row, NULL, &state);
        if (verify->connection->status == FAN_CORRUPT)
            verify->connection->status = FAN_OK; /* said already, by check_event */
        verify->counts[state.status & 3]++;
    }
    if (!verify->findings.ended && verify->connection->status == FAN_OK)
        check_block(verify, &block);
    sqlite3_finalize(row);
    end_check(verify, "events");
}

/* What a group counts of its deliveries beside them. */
struct tally {
    uint64_t completed;
    uint64_t ahead;
};

static size_t group_at(const struct verify *verify, int64_t id)
{
    size_t i = 0;
    while (i < verify->groups.count && verify->groups.items[i].id != id)
        i++;
    return i;
}

static bool was_dropped(struct verify *verify, int64_t group_id)
{
    sqlite3_stmt *statement = fan__sqlite_use(verify->connection, FAN__SQL_DROPPED_GET);
    sqlite3_bind_int64(statement, 1, group_id);
    return fan__sqlite_number(verify->connection, statement, 0) != 0;
}

static void check_delivery(struct verify *verify, sqlite3_stmt *row, struct tally *tallies)
{
    uint64_t seq = (uint64_t)sqlite3_column_int64(row, 0);
    int64_t id = sqlite3_column_int64(row, 1);
    int status = sqlite3_column_int(row, 2);
    if (sqlite3_column_type(row, 4) == SQLITE_NULL)
        fan__find(&verify->findings, "delivery", seq, "is of an event that is not there");
    if (sqlite3_column_type(row, 2) != SQLITE_INTEGER || status < 0 || status > FAN_EVENT_FAILED)
        fan__find(&verify->findings, "delivery", seq, "has the status %d", status);
    if (sqlite3_column_int(row, 3) < 0)
        fan__find(&verify->findings, "delivery", seq, "has %d attempts",
                  sqlite3_column_int(row, 3));
    size_t index = group_at(verify, id);
    if (index == verify->groups.count) {
        if (was_dropped(verify, id))
            return;
        fan__find(&verify->findings, "delivery", seq,
                  "is of the group %" PRId64 ", which is not there", id);
        return;
    }
    tallies[index].completed += status == FAN_EVENT_COMPLETED;
    tallies[index].ahead += seq > verify->groups.items[index].cursor_seq;
}

static void check_deliveries(struct verify *verify)
{
    const struct fan_env *env = verify->connection->store->env;
    struct tally *tallies = fan__alloc_zero(env, verify->groups.count + 1, sizeof(*tallies));
    if (!tallies)
        fan__sqlite_fail(verify->connection, FAN_NO_MEMORY);
    sqlite3_stmt *row = prepare(verify, "SELECT d.seq, d.grp, d.status, d.attempts, e.seq "
                                        "FROM delivery d LEFT JOIN event e ON e.seq = d.seq "
                                        "ORDER BY d.seq, d.grp");
    while (tallies && next(verify, row))
        check_delivery(verify, row, tallies);
    sqlite3_finalize(row);
    bool whole = !verify->findings.ended && verify->connection->status == FAN_OK;
    for (size_t i = 0; tallies && whole && i < verify->groups.count; i++) {
        const struct fan__sqlite_group *group = &verify->groups.items[i];
        if (group->completed != tallies[i].completed)
            fan__find(&verify->findings, "group", 0,
                      "%s/%s counts %" PRIu64 " completed deliveries, and there are %" PRIu64,
                      group->name ? group->name : "", group->handler ? group->handler : "",
                      group->completed, tallies[i].completed);
        if (group->ahead != tallies[i].ahead)
            fan__find(&verify->findings, "group", 0,
                      "%s/%s counts %" PRIu64 " deliveries past its cursor, and there are %" PRIu64,
                      group->name ? group->name : "", group->handler ? group->handler : "",
                      group->ahead, tallies[i].ahead);
        if (group->cursor_seq > verify->head_seq)
            fan__find(&verify->findings, "group", 0, "%s/%s has its cursor past the head",
                      group->name ? group->name : "", group->handler ? group->handler : "");
    }
    fan__free(env, tallies);
    end_check(verify, "deliveries");
}

/* The sums that operators are shown are made in other ways than by counting: they must agree. */
static void check_sums(struct verify *verify)
{
    struct fan_store_stats stats = { .size = sizeof(stats) };
    fan__sqlite_sums(verify->connection, &verify->groups, &stats);
    /* What was claimed may have lapsed since it was looked at. */
    uint64_t open = verify->counts[FAN_EVENT_PENDING] + verify->counts[FAN_EVENT_PROCESSING];
    const struct {
        const char *name;
        uint64_t told;
        uint64_t there;
    } sums[] = {
        { "pending", stats.pending + stats.processing, open },
        { "completed", stats.completed, verify->counts[FAN_EVENT_COMPLETED] },
        { "failed", stats.failed, verify->counts[FAN_EVENT_FAILED] },
    };
    for (size_t i = 0; i < sizeof(sums) / sizeof(*sums); i++) {
        if (verify->connection->status == FAN_OK && sums[i].told != sums[i].there)
            fan__find(&verify->findings, "sums", 0,
                      "%" PRIu64 " events are said to be %s, and %" PRIu64 " are", sums[i].told,
                      sums[i].name, sums[i].there);
    }
    end_check(verify, "sums");
}

/* Marks tell when a sequence was reached, and after how many bytes: all three rise together. */
static void check_marks(struct verify *verify)
{
    sqlite3_stmt *row = prepare(verify, "SELECT seq, us, bytes FROM mark ORDER BY seq");
    int64_t us = INT64_MIN;
    int64_t bytes = INT64_MIN;
    while (next(verify, row)) {
        uint64_t seq = (uint64_t)sqlite3_column_int64(row, 0);
        if (sqlite3_column_int64(row, 1) < us || sqlite3_column_int64(row, 2) < bytes)
            fan__find(&verify->findings, "mark", seq,
                      "has less time or fewer bytes than the one before it");
        us = sqlite3_column_int64(row, 1);
        bytes = sqlite3_column_int64(row, 2);
        if (seq > verify->head_seq)
            fan__find(&verify->findings, "mark", seq, "lies past the head");
    }
    sqlite3_finalize(row);
    end_check(verify, "marks");
}

static void check_keys(struct verify *verify)
{
    sqlite3_stmt *row = prepare(verify, "SELECT k.last_seq, s.topic IS k.topic FROM key k "
                                        "LEFT JOIN event e ON e.seq = k.last_seq "
                                        "LEFT JOIN series s ON s.id = e.series "
                                        "WHERE k.last_seq <> 0");
    while (next(verify, row)) {
        if (sqlite3_column_int(row, 1) == 0)
            fan__find(&verify->findings, "key", (uint64_t)sqlite3_column_int64(row, 0),
                      "is called the last of a topic that it is not of");
    }
    sqlite3_finalize(row);
    end_check(verify, "keys");
}

static void check_all(struct verify *verify)
{
    void (*const checks[])(struct verify *) = {
        check_meta,  check_storage, check_events, check_deliveries,
        check_marks, check_keys,    check_sums,
    };
    for (size_t i = 0; i < sizeof(checks) / sizeof(*checks) && !verify->findings.ended; i++) {
        /* Sums are made along indexes, which are known to be sound only without a finding. */
        if (checks[i] != check_sums || verify->findings.count == 0)
            checks[i](verify);
    }
}

/* A file that cannot even be opened any more. */
static enum fan_status cannot_open(struct verify *verify, enum fan_status status,
                                   const struct fan_error *reason, struct fan_error *error)
{
    if (status == FAN_CORRUPT)
        fan__find(&verify->findings, "storage", 0, "%s", reason->message);
    return fan__fail(error, status, reason->field, "%s", reason->message);
}

enum fan_status fan__sqlite_verify(void *self, fan_finding_visit visit, void *context,
                                   struct fan_error *error)
{
    struct fan__sqlite *store = self;
    struct verify verify = { .findings = { .visit = visit, .context = context } };
    struct fan_error reason = FAN_ERROR_INIT;
    enum fan_status status = fan__sqlite_connect(store, &verify.connection, &reason);
    if (status != FAN_OK)
        return cannot_open(&verify, status, &reason, error);
    (void)fan__sqlite_exec(verify.connection,
                           "PRAGMA query_only = ON; PRAGMA cell_size_check = ON");
    fan__sqlite_run(verify.connection, fan__sqlite_use(verify.connection, FAN__SQL_BEGIN));
    fan__sqlite_groups_load(verify.connection, &verify.groups);
    end_check(&verify, "groups");
    check_all(&verify);
    status = verify.connection->status;
    if (status != FAN_OK)
        status = fan__fail(error, status, NULL, "%s: %s", store->path, verify.connection->message);
    else if (verify.findings.count > 0)
        status = fan__fail(error, FAN_CORRUPT, NULL, "%s: found %" PRIu64 " faults", store->path,
                           verify.findings.count);
    fan__sqlite_groups_free(&verify.groups);
    fan__sqlite_disconnect(verify.connection);
    return status;
}
