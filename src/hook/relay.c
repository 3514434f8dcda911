/*
 * The reading half of the outbox.
 *
 *     look -> load a batch -> hold the lease -> publish it as one unit -> settle: delete the rows
 *                                                                        (or set them aside)
 *
 * The invariant: a row goes only when the log has its event, or has refused it for good. Whatever
 * happens in between, the rows are there and are published again under the same ids, which the log
 * stores once. The unit carries the lease's fence, so a relay that was asleep for too long cannot
 * bring back what another one has published and the log has long forgotten.
 *
 * No statement is open and no transaction is under way while the broker has the batch.
 */
#include "hook/outbox.h"

#include "base/adopt.h"
#include "base/env.h"
#include "base/hash.h"
#include "base/status.h"
#include "base/thread.h"
#include "hook/sql.h"

#include <fanfare/broker.h>
#include <fanfare/group.h>
#include <fanfare/json.h>

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define POLL_MS 100
#define BATCH_COUNT 500
#define BATCH_SIZE_MAX ((size_t)1 << 20)
#define LEASE_MS 10000
#define BUSY_MS 100
#define DELAY_MS_MIN 50
#define DELAY_MS_MAX 5000
#define PUBLISH_TIMEOUT_MS 5000

enum sql {
    SQL_VERSION,
    SQL_BOUNDS,
    SQL_LOAD,
    SQL_REMOVE,
    SQL_ASIDE,
    SQL_COUNT,
};

enum fate {
    OWED,    /* not published yet */
    DURABLE, /* the log has it */
    ASIDE,   /* it never will */
};

struct row {
    int64_t seq;
    enum fate fate;
    char *id;
    struct fan_event *event;
    char *reason;
};

struct fan_outbox_relay {
    const struct fan_env *env;
    struct fan_broker *broker;
    char *table;
    uint32_t poll_ms;
    size_t batch_count;
    uint32_t lease_ms;
    fan_outbox_told told;
    void *context;
    unsigned fork_generation;

    /* The thread's, or the stepping caller's. */
    sqlite3 *db;
    sqlite3_stmt *statements[SQL_COUNT];
    struct row *rows;
    size_t count;
    struct fan_event_draft *drafts;
    size_t *places; /* the row of each draft */
    int64_t version;
    bool dirty; /* there may be rows, whatever the version says */
    char owner[48];
    char lease[64];
    uint64_t fence; /* 0: not held */
    int64_t renew_ns;

    struct fan__mutex mutex; /* guards all below */
    struct fan__cond news;
    struct fan__thread thread;
    bool started;
    bool stopping;
    bool woken;
    struct fan_outbox_relay_stats stats;
    int64_t oldest_us;
};

/* --- the connection ----------------------------------------------------------------------- */

static enum fan_status prepare(struct fan_outbox_relay *relay, enum sql which,
                               struct fan__buffer *sql, struct fan_error *error)
{
    return fan__sql_prepare(relay->db, sql, &relay->statements[which], error);
}

static enum fan_status prepare_all(struct fan_outbox_relay *relay, struct fan_error *error)
{
    struct fan__buffer sql;
    fan__buffer_init(&sql, relay->env);
    fan__buffer_add_text(&sql, "PRAGMA data_version");
    enum fan_status status = prepare(relay, SQL_VERSION, &sql, error);
    if (status == FAN_OK) {
        fan__buffer_add_text(&sql, "SELECT (SELECT min(seq) FROM");
        fan__outbox_add_table(&sql, relay->table);
        fan__buffer_add_text(&sql, "), (SELECT max(seq) FROM");
        fan__outbox_add_table(&sql, relay->table);
        fan__buffer_add_text(&sql, ")");
        status = prepare(relay, SQL_BOUNDS, &sql, error);
    }
    if (status == FAN_OK) {
        fan__buffer_add_text(&sql, "SELECT seq, id, recorded_us, event FROM");
        fan__outbox_add_table(&sql, relay->table);
        fan__buffer_add_text(&sql, " ORDER BY seq LIMIT ?1");
        status = prepare(relay, SQL_LOAD, &sql, error);
    }
    if (status == FAN_OK) {
        fan__buffer_add_text(&sql, "DELETE FROM");
        fan__outbox_add_table(&sql, relay->table);
        fan__buffer_add_text(&sql, " WHERE seq = ?1");
        status = prepare(relay, SQL_REMOVE, &sql, error);
    }
    if (status == FAN_OK) {
        fan__buffer_add_text(&sql, "INSERT OR REPLACE INTO");
        fan__outbox_add_aside(&sql, relay->table);
        fan__buffer_add_text(&sql, " SELECT seq, id, recorded_us, event, ?2 FROM");
        fan__outbox_add_table(&sql, relay->table);
        fan__buffer_add_text(&sql, " WHERE seq = ?1");
        status = prepare(relay, SQL_ASIDE, &sql, error);
    }
    fan__buffer_deinit(&sql);
    return status;
}

/*
 * A deletion that a power loss undoes costs a repeated publish, which stores nothing; so where the
 * journal is a write-ahead log, deletions need not wait for the disk.
 */
static int lighten(sqlite3 *db)
{
    sqlite3_stmt *statement = NULL;
    int code = sqlite3_prepare_v2(db, "PRAGMA journal_mode", -1, &statement, NULL);
    bool wal = code == SQLITE_OK && sqlite3_step(statement) == SQLITE_ROW &&
               strcmp((const char *)sqlite3_column_text(statement, 0), "wal") == 0;
    sqlite3_finalize(statement);
    return wal ? fan__sql_exec(db, "PRAGMA synchronous = NORMAL") : code;
}

static enum fan_status connect_to(struct fan_outbox_relay *relay, const char *database,
                                  struct fan_error *error)
{
    int code = sqlite3_open_v2(database, &relay->db,
                               SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_URI, NULL);
    if (code == SQLITE_OK) {
        sqlite3_extended_result_codes(relay->db, 1);
        sqlite3_busy_timeout(relay->db, BUSY_MS);
        code = lighten(relay->db);
    }
    if (code != SQLITE_OK)
        return fan__fail(error, fan__sql_status(code), "database", "%.160s: %s", database,
                         relay->db ? sqlite3_errmsg(relay->db) : sqlite3_errstr(code));
    return prepare_all(relay, error);
}

/* --- the rows ----------------------------------------------------------------------------- */

static void row_clear(struct fan_outbox_relay *relay, struct row *row)
{
    fan_event_free(row->event, relay->env);
    fan__free(relay->env, row->id);
    fan__free(relay->env, row->reason);
    *row = (struct row){ 0 };
}

static void clear(struct fan_outbox_relay *relay)
{
    for (size_t i = 0; i < relay->count; i++)
        row_clear(relay, &relay->rows[i]);
    relay->count = 0;
}

static enum fan_status set_aside(struct fan_outbox_relay *relay, struct row *row,
                                 const struct fan_error *error)
{
    char reason[sizeof(error->field) + sizeof(error->message) + 2];
    snprintf(reason, sizeof(reason), "%s%s%s", error->field, *error->field ? ": " : "",
             *error->message ? error->message : fan_status_text(error->status));
    row->reason = fan__strdup(relay->env, reason);
    row->fate = ASIDE;
    return row->reason ? FAN_OK : FAN_NO_MEMORY;
}

/* Makes a row of what the statement stands on; one that is no event is set aside. */
static enum fan_status read_row(struct fan_outbox_relay *relay, sqlite3_stmt *statement,
                                struct fan_str text)
{
    struct row *row = &relay->rows[relay->count++];
    struct fan_event_defaults defaults = *fan_broker_defaults(relay->broker);
    defaults.source = FAN_SOURCE_DATABASE;
    struct fan_json_options options = FAN_JSON_OPTIONS_INIT;
    options.defaults = &defaults;
    struct fan_error error = FAN_ERROR_INIT;
    const char *id = (const char *)sqlite3_column_text(statement, 1);
    row->seq = sqlite3_column_int64(statement, 0);
    row->id = fan__strdup(relay->env, id ? id : "");
    if (!row->id)
        return FAN_NO_MEMORY;
    enum fan_status status = fan_event_from_json(text, &options, &row->event, &error);
    return status == FAN_INVALID ? set_aside(relay, row, &error) : status;
}

static enum fan_status load_rows(struct fan_outbox_relay *relay, sqlite3_stmt *statement)
{
    size_t size = 0;
    int code;
    int64_t oldest_us = 0;
    sqlite3_bind_int64(statement, 1, (int64_t)relay->batch_count);
    while ((code = sqlite3_step(statement)) == SQLITE_ROW) {
        struct fan_str text = { (const char *)sqlite3_column_text(statement, 3),
                                (size_t)sqlite3_column_bytes(statement, 3) };
        if (relay->count > 0 && size + text.size > BATCH_SIZE_MAX)
            return FAN_OK;
        size += text.size;
        if (relay->count == 0)
            oldest_us = sqlite3_column_int64(statement, 2);
        enum fan_status status = read_row(relay, statement, text);
        if (status != FAN_OK)
            return status;
        if (relay->count == 1) {
            fan__mutex_lock(&relay->mutex);
            relay->oldest_us = oldest_us;
            fan__mutex_unlock(&relay->mutex);
        }
    }
    return fan__sql_status(code);
}

/* How many wait is told by the bounds: the numbers have no holes, but where a hand deleted rows. */
static enum fan_status look_at_bounds(struct fan_outbox_relay *relay)
{
    sqlite3_stmt *statement = relay->statements[SQL_BOUNDS];
    int code = sqlite3_step(statement);
    bool empty = sqlite3_column_type(statement, 1) == SQLITE_NULL;
    int64_t rows =
        empty ? 0 : sqlite3_column_int64(statement, 1) - sqlite3_column_int64(statement, 0) + 1;
    sqlite3_reset(statement);
    if (code != SQLITE_ROW)
        return fan__sql_status(code);
    fan__mutex_lock(&relay->mutex);
    relay->stats.rows = (uint64_t)rows;
    fan__mutex_unlock(&relay->mutex);
    return FAN_OK;
}

static enum fan_status load(struct fan_outbox_relay *relay, struct fan_error *error)
{
    sqlite3_stmt *statement = relay->statements[SQL_LOAD];
    enum fan_status status = look_at_bounds(relay);
    if (status == FAN_OK)
        status = load_rows(relay, statement);
    if (status != FAN_OK)
        fan__fail(error, status, "", "the outbox cannot be read: %s",
                  status == FAN_NO_MEMORY ? "out of memory" : sqlite3_errmsg(relay->db));
    sqlite3_reset(statement);
    return status;
}

/* Whether another connection has committed since the last look. When in doubt, yes. */
static bool moved(struct fan_outbox_relay *relay)
{
    sqlite3_stmt *statement = relay->statements[SQL_VERSION];
    int64_t version = sqlite3_step(statement) == SQLITE_ROW ? sqlite3_column_int64(statement, 0)
                                                            : relay->version + 1;
    sqlite3_reset(statement);
    bool result = version != relay->version;
    relay->version = version;
    return result;
}

/* --- the lease, the log, the end of a row --------------------------------------------------- */

static void set_leading(struct fan_outbox_relay *relay, uint64_t fence)
{
    relay->fence = fence;
    fan__mutex_lock(&relay->mutex);
    relay->stats.leading = fence != 0;
    fan__mutex_unlock(&relay->mutex);
}

static enum fan_status lead(struct fan_outbox_relay *relay, struct fan_error *error)
{
    int64_t now_ns = fan__monotonic_ns(relay->env);
    if (relay->fence != 0 && now_ns < relay->renew_ns)
        return FAN_OK;
    uint64_t fence = 0;
    enum fan_status status = fan_lease_acquire(fan_broker_store(relay->broker), relay->lease,
                                               relay->owner, relay->lease_ms, &fence);
    set_leading(relay, status == FAN_OK ? fence : 0);
    if (status == FAN_EXISTS)
        return fan__fail(error, status, "", "another relay has the lease");
    if (status != FAN_OK)
        return fan__fail(error, status, "", "cannot get the lease: %s", fan_status_text(status));
    relay->renew_ns = now_ns + (int64_t)relay->lease_ms * FAN__NS_PER_MS / 3;
    return FAN_OK;
}

static enum fan_status publish_unit(struct fan_outbox_relay *relay, size_t first, size_t count,
                                    struct fan_error *error)
{
    struct fan_expectation expectation = { .size = sizeof(expectation),
                                           .lease = relay->lease,
                                           .fence = relay->fence };
    struct fan_unit unit = { .size = FAN_UNIT_SIZE,
                             .drafts = relay->drafts + first,
                             .count = count,
                             .expectation = &expectation,
                             .timeout_ms = PUBLISH_TIMEOUT_MS };
    enum fan_status status = fan_broker_publish_unit(relay->broker, &unit, NULL, error);
    if (status != FAN_CONFLICT)
        return status;
    set_leading(relay, 0);
    return fan__fail(error, FAN_EXISTS, "", "the lease was lost");
}

/*
 * Publishes the rows that are owed, in their order. A unit is refused as a whole when one of its
 * events is; halving it finds that one, and after a success units grow again.
 */
static enum fan_status publish(struct fan_outbox_relay *relay, struct fan_error *error)
{
    size_t count = 0;
    for (size_t i = 0; i < relay->count; i++) {
        struct row *row = &relay->rows[i];
        if (row->fate != OWED)
            continue;
        fan_event_to_draft(row->event, &relay->drafts[count]);
        relay->drafts[count].id = row->id;
        relay->places[count++] = i;
    }
    size_t step = count;
    for (size_t at = 0; at < count;) {
        step = step < count - at ? step : count - at;
        enum fan_status status = publish_unit(relay, at, step, error);
        bool refused = status == FAN_INVALID || status == FAN_EXPIRED;
        if (refused && step > 1) {
            step /= 2;
            continue;
        }
        if (refused)
            status = set_aside(relay, &relay->rows[relay->places[at]], error);
        else if (status == FAN_OK)
            for (size_t i = 0; i < step; i++)
                relay->rows[relay->places[at + i]].fate = DURABLE;
        if (status != FAN_OK)
            return status;
        at += step;
        step *= 2;
    }
    return FAN_OK;
}

/* One transaction: what the log has goes, what it will never have is set aside. */
static int settle_rows(struct fan_outbox_relay *relay)
{
    int code = fan__sql_exec(relay->db, "BEGIN IMMEDIATE");
    for (size_t i = 0; i < relay->count && code == SQLITE_OK; i++) {
        const struct row *row = &relay->rows[i];
        if (row->fate == ASIDE) {
            sqlite3_stmt *aside = relay->statements[SQL_ASIDE];
            sqlite3_bind_int64(aside, 1, row->seq);
            sqlite3_bind_text(aside, 2, row->reason, -1, SQLITE_STATIC);
            code = fan__sql_run(aside);
            sqlite3_clear_bindings(aside);
        }
        sqlite3_bind_int64(relay->statements[SQL_REMOVE], 1, row->seq);
        if (code == SQLITE_OK)
            code = fan__sql_run(relay->statements[SQL_REMOVE]);
    }
    if (code == SQLITE_OK)
        code = fan__sql_exec(relay->db, "COMMIT");
    return code;
}

static void account(struct fan_outbox_relay *relay)
{
    uint64_t aside = 0;
    for (size_t i = 0; i < relay->count; i++) {
        const struct row *row = &relay->rows[i];
        if (row->fate != ASIDE)
            continue;
        aside++;
        fan__log(relay->env, FAN_LOG_WARNING, "outbox %s: row %" PRId64 " was set aside: %s",
                 relay->table, row->seq, row->reason);
        struct fan_outbox_aside told = { sizeof(told), row->seq, row->id, row->reason };
        if (relay->told)
            relay->told(relay->context, &told);
    }
    fan__mutex_lock(&relay->mutex);
    relay->stats.set_aside += aside;
    relay->stats.published += relay->count - aside;
    fan__mutex_unlock(&relay->mutex);
}

/* Settles what has its fate and forgets the rest; on failure it stays for the next time. */
static enum fan_status settle(struct fan_outbox_relay *relay, struct fan_error *error)
{
    size_t count = 0;
    for (size_t i = 0; i < relay->count; i++) {
        struct row row = relay->rows[i];
        relay->rows[i] = (struct row){ 0 };
        if (row.fate == OWED || (row.fate == ASIDE && !row.reason))
            row_clear(relay, &row);
        else
            relay->rows[count++] = row;
    }
    relay->count = count;
    if (count == 0)
        return FAN_OK;
    int code = settle_rows(relay);
    if (code != SQLITE_OK) {
        enum fan_status status =
            fan__sql_fail(relay->db, code, "the outbox's rows cannot be deleted", error);
        if (!sqlite3_get_autocommit(relay->db))
            fan__sql_exec(relay->db, "ROLLBACK");
        return status;
    }
    account(relay);
    clear(relay);
    return FAN_OK;
}

/* One batch. FAN_AGAIN when there is nothing. */
static enum fan_status advance(struct fan_outbox_relay *relay, struct fan_error *error)
{
    enum fan_status status = settle(relay, error);
    if (status != FAN_OK)
        return status;
    if (!moved(relay) && !relay->dirty)
        return FAN_AGAIN;
    relay->dirty = true;
    status = load(relay, error);
    if (status != FAN_OK) {
        clear(relay);
        return status;
    }
    if (relay->count == 0) {
        relay->dirty = false;
        return FAN_AGAIN;
    }
    status = lead(relay, error);
    if (status != FAN_OK) {
        clear(relay);
        return status;
    }
    struct fan_error later = FAN_ERROR_INIT;
    status = publish(relay, error);
    enum fan_status settled = settle(relay, status == FAN_OK ? error : &later);
    return status == FAN_OK ? settled : status;
}

/* --- life --------------------------------------------------------------------------------- */

static void note(struct fan_outbox_relay *relay, enum fan_status status,
                 const struct fan_error *error)
{
    bool fine = status == FAN_OK || status == FAN_AGAIN || status == FAN_EXISTS;
    fan__mutex_lock(&relay->mutex);
    relay->stats.failures += !fine;
    relay->stats.error = fine ? (struct fan_error)FAN_ERROR_INIT : *error;
    fan__mutex_unlock(&relay->mutex);
}

/* How long to wait after a turn that ended so. */
static uint32_t pause_ms(const struct fan_outbox_relay *relay, enum fan_status status,
                         uint32_t *delay_ms)
{
    if (status == FAN_AGAIN || status == FAN_EXISTS) {
        *delay_ms = 0;
        uint32_t quarter_ms = relay->lease_ms / 4;
        return status == FAN_AGAIN || quarter_ms < relay->poll_ms ? relay->poll_ms : quarter_ms;
    }
    *delay_ms = *delay_ms < DELAY_MS_MIN ? DELAY_MS_MIN : *delay_ms * 2;
    if (*delay_ms > DELAY_MS_MAX)
        *delay_ms = DELAY_MS_MAX;
    return *delay_ms;
}

static void relay_main(void *context)
{
    struct fan_outbox_relay *relay = context;
    uint32_t delay_ms = 0;
    fan__mutex_lock(&relay->mutex);
    while (!relay->stopping) {
        relay->woken = false;
        fan__mutex_unlock(&relay->mutex);
        struct fan_error error = FAN_ERROR_INIT;
        enum fan_status status = advance(relay, &error);
        note(relay, status, &error);
        if (status == FAN_OK)
            delay_ms = 0;
        int64_t deadline_ns =
            status == FAN_OK ? 0 : fan__deadline_ns(pause_ms(relay, status, &delay_ms));
        fan__mutex_lock(&relay->mutex);
        while (deadline_ns != 0 && !relay->stopping && !(relay->woken && status == FAN_AGAIN))
            if (!fan__cond_wait_until(&relay->news, &relay->mutex, deadline_ns))
                break;
    }
    fan__mutex_unlock(&relay->mutex);
}

static enum fan_status adopt(struct fan_outbox_relay_options *adopted,
                             const struct fan_outbox_relay_options *options,
                             struct fan_error *error)
{
    if (!fan__adopt(adopted, sizeof(*adopted), options, sizeof(*adopted)))
        return fan__fail(error, FAN_INVALID, "size", "must be FAN_OUTBOX_RELAY_OPTIONS_SIZE");
    if (!adopted->database || !*adopted->database)
        return fan__fail(error, FAN_INVALID, "database", "must be given");
    if (adopted->batch_count > FAN_UNIT_COUNT_MAX)
        return fan__fail(error, FAN_INVALID, "batch_count", "must be at most %d",
                         FAN_UNIT_COUNT_MAX);
    adopted->poll_ms = adopted->poll_ms ? adopted->poll_ms : POLL_MS;
    adopted->batch_count = adopted->batch_count ? adopted->batch_count : BATCH_COUNT;
    adopted->lease_ms = adopted->lease_ms ? adopted->lease_ms : LEASE_MS;
    return fan__outbox_name(&adopted->table, error);
}

/* One lease for all relays of this outbox: its name follows from the database's full path. */
static void name_lease(struct fan_outbox_relay *relay)
{
    unsigned char random[16];
    fan__random(relay->env, random, sizeof(random));
    memcpy(relay->owner, "relay-", sizeof("relay-"));
    for (size_t i = 0; i < sizeof(random); i++)
        snprintf(relay->owner + strlen("relay-") + 2 * i, 3, "%02x", random[i]);
    const char *path = sqlite3_db_filename(relay->db, "main");
    uint64_t hash =
        path && *path ? fan__hash(0, path, strlen(path)) : fan__hash(0, random, sizeof(random));
    hash = fan__hash(hash, relay->table, strlen(relay->table));
    snprintf(relay->lease, sizeof(relay->lease), "outbox-%016" PRIx64, hash);
}

static void release(struct fan_outbox_relay *relay)
{
    if (relay->rows)
        clear(relay);
    for (size_t i = 0; i < SQL_COUNT; i++)
        sqlite3_finalize(relay->statements[i]);
    sqlite3_close(relay->db);
    fan__cond_deinit(&relay->news);
    fan__mutex_deinit(&relay->mutex);
    fan__free(relay->env, relay->rows);
    fan__free(relay->env, relay->drafts);
    fan__free(relay->env, relay->places);
    fan__free(relay->env, relay->table);
    fan__free(relay->env, relay);
}

enum fan_status fan_outbox_relay_open(struct fan_broker *broker,
                                      const struct fan_outbox_relay_options *options,
                                      struct fan_outbox_relay **ret_relay,
                                      struct fan_error *ret_error)
{
    struct fan_outbox_relay_options adopted;
    enum fan_status status = adopt(&adopted, options, ret_error);
    if (status != FAN_OK)
        return status;
    const struct fan_env *env = fan_broker_defaults(broker)->env;
    struct fan_outbox_relay *relay = fan__alloc_zero(env, 1, sizeof(*relay));
    if (!relay)
        return fan__fail(ret_error, FAN_NO_MEMORY, "", "out of memory");
    relay->env = env;
    relay->broker = broker;
    relay->poll_ms = adopted.poll_ms;
    relay->batch_count = adopted.batch_count;
    relay->lease_ms = adopted.lease_ms;
    relay->told = adopted.told;
    relay->context = adopted.context;
    relay->fork_generation = fan__fork_generation();
    relay->dirty = true;
    fan__mutex_init(&relay->mutex);
    fan__cond_init(&relay->news);
    relay->table = fan__strdup(env, adopted.table);
    relay->rows = fan__alloc_zero(env, adopted.batch_count, sizeof(*relay->rows));
    relay->drafts = fan__alloc_zero(env, adopted.batch_count, sizeof(*relay->drafts));
    relay->places = fan__alloc_zero(env, adopted.batch_count, sizeof(*relay->places));
    if (!relay->table || !relay->rows || !relay->drafts || !relay->places)
        status = fan__fail(ret_error, FAN_NO_MEMORY, "", "out of memory");
    else
        status = connect_to(relay, adopted.database, ret_error);
    if (status != FAN_OK) {
        release(relay);
        return status;
    }
    name_lease(relay);
    *ret_relay = relay;
    return FAN_OK;
}

enum fan_status fan_outbox_relay_start(struct fan_outbox_relay *relay)
{
    if (fan__fork_generation() != relay->fork_generation)
        return FAN_FORKED;
    fan__mutex_lock(&relay->mutex);
    enum fan_status status = relay->stopping ? FAN_CLOSED : relay->started ? FAN_MISUSE : FAN_OK;
    if (status == FAN_OK)
        status = fan__thread_start(&relay->thread, "fan-relay", relay_main, relay);
    relay->started |= status == FAN_OK;
    fan__mutex_unlock(&relay->mutex);
    return status;
}

enum fan_status fan_outbox_relay_step(struct fan_outbox_relay *relay, struct fan_error *ret_error)
{
    if (fan__fork_generation() != relay->fork_generation)
        return fan__fail(ret_error, FAN_FORKED, "", "%s", fan_status_text(FAN_FORKED));
    fan__mutex_lock(&relay->mutex);
    enum fan_status status = relay->stopping ? FAN_CLOSED : relay->started ? FAN_MISUSE : FAN_OK;
    fan__mutex_unlock(&relay->mutex);
    if (status != FAN_OK)
        return fan__fail(ret_error, status, "", "%s", fan_status_text(status));
    struct fan_error error = FAN_ERROR_INIT;
    status = advance(relay, &error);
    note(relay, status, &error);
    if (status != FAN_OK && ret_error)
        *ret_error = error;
    return status;
}

void fan_outbox_relay_wake(struct fan_outbox_relay *relay)
{
    if (fan__fork_generation() != relay->fork_generation)
        return;
    fan__mutex_lock(&relay->mutex);
    relay->woken = true;
    fan__cond_signal(&relay->news);
    fan__mutex_unlock(&relay->mutex);
}

void fan_outbox_relay_stop(struct fan_outbox_relay *relay)
{
    if (fan__fork_generation() != relay->fork_generation)
        return;
    fan__mutex_lock(&relay->mutex);
    bool stopped = relay->stopping;
    relay->stopping = true;
    fan__cond_signal(&relay->news);
    fan__mutex_unlock(&relay->mutex);
    if (stopped)
        return;
    fan__thread_join(&relay->thread);
    if (relay->fence != 0)
        (void)!fan_lease_release(fan_broker_store(relay->broker), relay->lease, relay->owner,
                                 relay->fence);
    set_leading(relay, 0);
}

void fan_outbox_relay_free(struct fan_outbox_relay *relay)
{
    if (!relay || fan__fork_generation() != relay->fork_generation)
        return;
    fan_outbox_relay_stop(relay);
    release(relay);
}

void fan_outbox_relay_stats(struct fan_outbox_relay *relay,
                            struct fan_outbox_relay_stats *ret_stats)
{
    size_t size = ret_stats->size < sizeof(*ret_stats) ? ret_stats->size : sizeof(*ret_stats);
    struct fan_outbox_relay_stats stats = { .size = size };
    if (fan__fork_generation() == relay->fork_generation) {
        fan__mutex_lock(&relay->mutex);
        stats = relay->stats;
        if (stats.rows > 0)
            stats.lag_us = fan__wall_us(relay->env) - relay->oldest_us;
        fan__mutex_unlock(&relay->mutex);
    }
    stats.size = size;
    memcpy(ret_stats, &stats, size);
}
