/*
 * The life of a capture: a thread that connects, streams, publishes, confirms.
 *
 *     look (gap? slot?) -> hold the lease -> START_REPLICATION -> gather -> publish as units
 *          ^                                                        ^            |
 *          |  whatever fails: 50 ms to 5 s                          +-- confirm -+
 *
 * The invariant: what is confirmed to the server lies behind no commit whose events are not durable
 * in the log. The server begins anew at the last confirmed place, with transactions from their
 * beginning; the ids are the same then, and the log stores them once. A transaction that is larger
 * than a batch is published in pieces as it comes: memory holds one batch, and what the server
 * sends for one row.
 *
 * While the log takes nothing, nothing is read; the server is told that we live, and the slot is
 * watched.
 */
#include "hook/capture.h"

#include "base/adopt.h"
#include "base/env.h"
#include "base/status.h"
#include "base/thread.h"
#include "hook/leader.h"
#include "hook/wal.h"

#include <fanfare/broker.h>
#include <fanfare/feed.h>
#include <fanfare/store.h>

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define SLOT_BYTES_MAX ((uint64_t)16 << 30)
#define WATCH_MS 10000
#define LEASE_MS 10000
#define BATCH_COUNT 500
#define BATCH_SIZE_MAX ((size_t)1 << 20)
#define DELAY_MS_MIN 50
#define DELAY_MS_MAX 5000
#define STATUS_MS 2000
#define DROP_TRIES 100
#define STUCK_LOOKS_MAX 6 /* a log that restarts is no reason to drop what waits for it */

struct fan_capture {
    const struct fan_env *env;
    struct fan_broker *broker;
    uint64_t slot_bytes_max;
    uint64_t slot_bytes_alarm;
    uint32_t watch_ms;
    unsigned fork_generation;
    int bell; /* an eventfd: to stop */

    /* The thread's. */
    struct fan__capture_place place;
    struct fan__leader leader;
    struct fan__pg stream;
    struct fan__wal wal;
    struct fan_event_draft *drafts;
    size_t draft_count;
    uint64_t confirmed_lsn;
    uint64_t told_lsn; /* to the server */
    int64_t told_ns;
    bool asked; /* the server wants to be told now */
    int64_t watched_ns;
    uint64_t watched_lsn;
    uint64_t watched_count; /* of events */
    unsigned stuck_looks;   /* one after the other */
    const char *must_go;    /* why the slot is to be dropped, or NULL */
    uint64_t refused;       /* of the batch at hand */

    struct fan_feed *feed;

    struct fan__mutex mutex; /* guards all below */
    struct fan__thread thread;
    bool started;
    bool stopping;
    struct fan_capture_stats stats;
};

/* --- waiting ------------------------------------------------------------------------------ */

static bool is_stopping(struct fan_capture *capture)
{
    fan__mutex_lock(&capture->mutex);
    bool stopping = capture->stopping;
    fan__mutex_unlock(&capture->mutex);
    return stopping;
}

/* Until the bell, the time or, when `listening`, something of the stream. */
static void wait_for_news(struct fan_capture *capture, uint32_t timeout_ms, bool listening)
{
    struct pollfd places[] = {
        { .fd = capture->bell, .events = POLLIN },
        { .fd = listening ? PQsocket(capture->stream.conn) : -1, .events = POLLIN },
    };
    poll(places, 2, (int)timeout_ms);
}

static bool is_due(struct fan_capture *capture, int64_t since_ns, uint32_t every_ms)
{
    return since_ns == 0 ||
           fan__monotonic_ns(capture->env) - since_ns >= (int64_t)every_ms * FAN__NS_PER_MS;
}

/* --- the slot's size ---------------------------------------------------------------------- */

static void show_size(struct fan_capture *capture, const struct fan__capture_size *size)
{
    bool high = size->kept >= capture->slot_bytes_alarm;
    fan__mutex_lock(&capture->mutex);
    bool told = capture->stats.alarm;
    capture->stats.slot_bytes = size->kept;
    capture->stats.lag_bytes = size->behind;
    capture->stats.alarm = high;
    fan__mutex_unlock(&capture->mutex);
    if (high && !told)
        fan__log(capture->env, FAN_LOG_WARNING,
                 "capture %s: the server keeps %" PRIu64 " MiB of its log for the slot, which is "
                 "dropped past %" PRIu64 " MiB when capture does not get on",
                 capture->place.slot, size->kept >> 20, capture->slot_bytes_max >> 20);
}

/*
 * Looks at the slot now and then. It `must_go` when it is past its bound while we fail, and nothing
 * was brought into the log for some looks. What is being caught up on is left alone.
 */
static enum fan_status watch(struct fan_capture *capture, struct fan_error *error)
{
    if (!is_due(capture, capture->watched_ns, capture->watch_ms))
        return FAN_OK;
    struct fan__capture_size size = { 0, 0 };
    bool stuck = capture->watched_ns != 0 && capture->stats.error.status != FAN_OK &&
                 capture->watched_lsn == capture->confirmed_lsn &&
                 capture->watched_count == capture->stats.published;
    capture->stuck_looks = stuck ? capture->stuck_looks + 1 : 0;
    capture->watched_ns = fan__monotonic_ns(capture->env);
    capture->watched_lsn = capture->confirmed_lsn;
    capture->watched_count = capture->stats.published;
    enum fan_status status = fan__capture_connect(&capture->place, error);
    if (status == FAN_OK)
        status = fan__capture_measure(&capture->place, &size, error);
    if (status != FAN_OK)
        return status;
    show_size(capture, &size);
    if (size.kept <= capture->slot_bytes_max || capture->stuck_looks < STUCK_LOOKS_MAX)
        return FAN_OK;
    capture->must_go = "was past its bound";
    return fan__fail(error, FAN_FULL, "slot",
                     "the slot \"%s\" held %" PRIu64 " MiB of the server's log and was dropped",
                     capture->place.slot, size.kept >> 20);
}

/* Looks at what stands on the server. A publication that somebody dropped is made again. */
static enum fan_status look(struct fan_capture *capture, struct fan__capture_state *ret_state,
                            struct fan_error *error)
{
    struct fan__capture_place *place = &capture->place;
    enum fan_status status = fan__capture_connect(place, error);
    if (status == FAN_OK)
        status = fan__capture_look(place, ret_state, error);
    if (status != FAN_NOT_FOUND)
        return status;
    status = fan__capture_prepare(place, error);
    return status == FAN_OK ? fan__capture_look(place, ret_state, error) : status;
}

/*
 * The publication tells that there was a slot, so it must be there. The server takes a moment to
 * see that the stream has ended.
 */
static void drop(struct fan_capture *capture)
{
    struct fan_error error = FAN_ERROR_INIT;
    struct fan__capture_state state;
    enum fan_status status = look(capture, &state, &error);
    status = status == FAN_OK ? FAN_EXISTS : status;
    for (int i = 0; i < DROP_TRIES && status == FAN_EXISTS && !is_stopping(capture); i++) {
        status = fan__capture_drop_slot(&capture->place, &error);
        if (status == FAN_EXISTS)
            wait_for_news(capture, DELAY_MS_MIN, false);
    }
    if (status == FAN_OK)
        fan__log(capture->env, FAN_LOG_ERROR,
                 "capture %s: the slot %s and was dropped; what is missed will be told by an event",
                 capture->place.slot, capture->must_go);
    else
        fan__log(capture->env, FAN_LOG_ERROR, "capture %s: the slot cannot be dropped: %s",
                 capture->place.slot, error.message);
    capture->watched_ns = 0;
    capture->stuck_looks = 0;
    capture->must_go = NULL;
}

/* --- the stream --------------------------------------------------------------------------- */

static void put_number(unsigned char *at, uint64_t number)
{
    for (int i = 7; i >= 0; i--, number >>= 8)
        at[i] = (unsigned char)number;
}

/* Tells the server how far we are: written, flushed, applied. */
static enum fan_status tell(struct fan_capture *capture, struct fan_error *error)
{
    unsigned char message[34] = { 'r' };
    PGconn *conn = capture->stream.conn;
    for (size_t i = 0; i < 3; i++)
        put_number(message + 1 + 8 * i, capture->confirmed_lsn);
    int64_t since_2000_us = fan__wall_us(capture->env) - INT64_C(946684800000000);
    put_number(message + 25, (uint64_t)since_2000_us);
    int64_t deadline_ns = fan__deadline_ns(FAN__PG_TIMEOUT_MS);
    bool good = PQputCopyData(conn, (char *)message, sizeof(message)) == 1;
    int left = good ? PQflush(conn) : -1;
    while (left > 0)
        left = fan__pg_wait(conn, true, deadline_ns) && PQconsumeInput(conn) ? PQflush(conn) : -1;
    if (left != 0)
        return fan__pg_fail(conn, NULL, "the stream of changes", error);
    capture->told_lsn = capture->confirmed_lsn;
    capture->told_ns = fan__monotonic_ns(capture->env);
    capture->asked = false;
    fan__mutex_lock(&capture->mutex);
    capture->stats.lsn = capture->confirmed_lsn;
    fan__mutex_unlock(&capture->mutex);
    return FAN_OK;
}

static uint64_t number_at(const char *bytes)
{
    uint64_t number = 0;
    for (int i = 0; i < 8; i++)
        number = number << 8 | (unsigned char)bytes[i];
    return number;
}

/* `w`: start, end, time, a change. `k`: end, time, whether an answer is wanted. */
static enum fan_status take_message(struct fan_capture *capture, struct fan_str message,
                                    struct fan_error *error)
{
    struct fan__wal *wal = &capture->wal;
    if (message.size >= 25 && *message.data == 'w')
        return fan__wal_feed(wal, (struct fan_str){ message.data + 25, message.size - 25 }, error);
    if (message.size < 18 || *message.data != 'k')
        return fan__fail(error, FAN_CORRUPT, "", "the server sent what is no change");
    uint64_t end_lsn = number_at(message.data + 1);
    /* All before it was sent: with nothing at hand, all that was of interest is durable. */
    if (!wal->open && wal->count == 0 && wal->done_lsn == 0 && end_lsn > capture->confirmed_lsn)
        capture->confirmed_lsn = end_lsn;
    capture->asked |= message.data[17] != 0;
    return FAN_OK;
}

/* Takes what is there, up to a batch. FAN_AGAIN when nothing is left. */
static enum fan_status gather(struct fan_capture *capture, struct fan_error *error)
{
    PGconn *conn = capture->stream.conn;
    enum fan_status status = FAN_OK;
    while (status == FAN_OK && capture->wal.count < BATCH_COUNT &&
           capture->wal.text.size < BATCH_SIZE_MAX) {
        char *bytes = NULL;
        int size = PQgetCopyData(conn, &bytes, 1);
        if (size == 0 && PQconsumeInput(conn) == 1)
            size = PQgetCopyData(conn, &bytes, 1);
        if (size > 0)
            status = take_message(capture, (struct fan_str){ bytes, (size_t)size }, error);
        else if (size == 0 && PQstatus(conn) == CONNECTION_OK)
            status = FAN_AGAIN;
        else
            status = FAN_CLOSED;
        PQfreemem(bytes);
    }
    if (status != FAN_CLOSED)
        return status;
    PGresult *result = PQgetResult(conn);
    status = fan__pg_fail(conn, result, "the stream of changes", error);
    PQclear(result);
    /* The server reads its log with the publications of that time: no try will find it. */
    if (status == FAN_NOT_FOUND)
        capture->must_go = "cannot be read since its publication was dropped";
    return status;
}

/* --- into the log ------------------------------------------------------------------------- */

static void on_done(void *context, size_t first, size_t count)
{
    (void)context;
    (void)first;
    (void)count;
}

static enum fan_status on_refused_again(void *context, size_t index, const struct fan_error *error)
{
    struct fan_capture *capture = context;
    (void)index;
    fan__log(capture->env, FAN_LOG_ERROR, "capture %s: a change cannot be published: %s: %s",
             capture->place.slot, error->field, error->message);
    return FAN_OK;
}

/* A row that is over a limit is told by its key, in its place. */
static enum fan_status on_refused(void *context, size_t index, const struct fan_error *error)
{
    struct fan_capture *capture = context;
    struct fan_event_draft draft;
    struct fan__buffer metadata;
    struct fan_error later = FAN_ERROR_INIT;
    fan__wal_show_key(&capture->wal, index, &draft);
    fan__buffer_init(&metadata, capture->env);
    fan__buffer_add_format(&metadata, "{\"refused\":");
    fan__wal_add_string(&metadata, error->message, strlen(error->message));
    fan__buffer_add_text(&metadata, "}");
    draft.metadata = (struct fan_str){ metadata.data, metadata.size };
    struct fan__leader_batch batch = { &draft, 1, on_done, on_refused_again, capture };
    enum fan_status status =
        metadata.failed ? FAN_NO_MEMORY : fan__leader_publish(&capture->leader, &batch, &later);
    fan__buffer_deinit(&metadata);
    capture->refused++;
    return status;
}

static enum fan_status publish_once(struct fan_capture *capture, struct fan_error *error)
{
    struct fan__wal *wal = &capture->wal;
    if (wal->count > capture->draft_count) {
        void *drafts =
            fan__resize(capture->env, capture->drafts, wal->count * sizeof(*capture->drafts));
        if (!drafts)
            return fan__fail(error, FAN_NO_MEMORY, "", "out of memory");
        capture->drafts = drafts;
        capture->draft_count = wal->count;
    }
    for (size_t i = 0; i < wal->count; i++)
        fan__wal_show(wal, i, &capture->drafts[i]);
    capture->refused = 0;
    struct fan__leader_batch batch = { .drafts = capture->drafts,
                                       .count = wal->count,
                                       .done = on_done,
                                       .refused = on_refused,
                                       .context = capture };
    enum fan_status status = fan__leader_lead(&capture->leader, error);
    return status == FAN_OK ? fan__leader_publish(&capture->leader, &batch, error) : status;
}

static void note(struct fan_capture *capture, enum fan_status status, const struct fan_error *error)
{
    /* Another of our log's is waited for; one of another log's, or none that is seen, is told. */
    bool waits = status == FAN_EXISTS && capture->leader.fence == 0;
    bool fine = status == FAN_OK || status == FAN_AGAIN || waits;
    fan__mutex_lock(&capture->mutex);
    capture->stats.failures += !fine;
    capture->stats.error = fine ? (struct fan_error)FAN_ERROR_INIT : *error;
    fan__mutex_unlock(&capture->mutex);
}

static uint32_t longer(uint32_t delay_ms)
{
    delay_ms = delay_ms < DELAY_MS_MIN ? DELAY_MS_MIN : delay_ms * 2;
    return delay_ms < DELAY_MS_MAX ? delay_ms : DELAY_MS_MAX;
}

/* The log has what was gathered: the place moves, behind the last commit of it. */
static void account(struct fan_capture *capture)
{
    struct fan__wal *wal = &capture->wal;
    fan__mutex_lock(&capture->mutex);
    capture->stats.published += wal->count;
    capture->stats.refused += capture->refused;
    capture->stats.transactions += wal->done_count;
    capture->stats.error = (struct fan_error)FAN_ERROR_INIT;
    if (wal->done_lsn != 0)
        capture->stats.lag_us = fan__wall_us(capture->env) - wal->commit_us;
    fan__mutex_unlock(&capture->mutex);
    if (wal->done_lsn > capture->confirmed_lsn)
        capture->confirmed_lsn = wal->done_lsn;
    fan__wal_clear(wal);
    capture->refused = 0;
}

/* Brings what was gathered into the log, for as long as that takes. */
static enum fan_status flush(struct fan_capture *capture, struct fan_error *error)
{
    uint32_t delay_ms = 0;
    while (capture->wal.count > 0) {
        enum fan_status status = publish_once(capture, error);
        if (status == FAN_OK)
            break;
        note(capture, status, error);
        if (status == FAN_EXISTS || is_stopping(capture))
            return status;
        status = tell(capture, error);
        if (status == FAN_OK)
            status = watch(capture, error);
        if (status != FAN_OK)
            return status;
        delay_ms = longer(delay_ms);
        wait_for_news(capture, delay_ms < capture->watch_ms ? delay_ms : capture->watch_ms, false);
    }
    account(capture);
    return FAN_OK;
}

/* --- a session ---------------------------------------------------------------------------- */

static enum fan_status mark_keys(void *context, struct fan__wal_relation *relation,
                                 struct fan_error *error)
{
    struct fan_capture *capture = context;
    char oid[16];
    const char *const values[] = { oid };
    struct fan__pg_call call = { "SELECT a.attname FROM pg_index i JOIN pg_attribute a ON"
                                 " a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) WHERE"
                                 " i.indrelid = $1::oid AND i.indisprimary",
                                 values, 1 };
    PGresult *result = NULL;
    snprintf(oid, sizeof(oid), "%" PRIu32, relation->oid);
    enum fan_status status = fan__capture_connect(&capture->place, error);
    if (status == FAN_OK)
        status = fan__pg_run(&capture->place.pg, &call, "capture", &result, error);
    for (size_t i = 0; i < relation->count && status == FAN_OK; i++) {
        relation->columns[i].key = false;
        for (int row = 0; row < PQntuples(result); row++)
            if (strcmp(relation->columns[i].name, PQgetvalue(result, row, 0)) == 0)
                relation->columns[i].key = true;
    }
    PQclear(result);
    return status;
}

/* What has been missed since the slot was made, or became ours, is told before that is again. */
static enum fan_status tell_gap(struct fan_capture *capture, const struct fan__capture_state *state,
                                struct fan_error *error)
{
    const char *slot = capture->place.slot;
    const PGconn *conn = capture->place.pg.conn;
    const char *reason =
        state->has_slot ? "the slot was read into another log" : "the slot is gone";
    char type[128];
    char id[256];
    char payload[192];
    snprintf(type, sizeof(type), "capture.%s.gap", slot);
    snprintf(id, sizeof(id), "capture-gap:%.100s:%s:%s", PQdb(conn), slot, state->made_at);
    int size = snprintf(payload, sizeof(payload),
                        "{\"slot\": \"%s\", \"made_at\": \"%s\", \"reason\": \"%s: changes were "
                        "missed\"}",
                        slot, state->made_at, reason);
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE,
                                     .type = type,
                                     .topic = slot,
                                     .id = id,
                                     .source = FAN_SOURCE_SYSTEM,
                                     .payload = { payload, (size_t)size } };
    struct fan__leader_batch batch = { &draft, 1, on_done, on_refused_again, capture };
    enum fan_status status = fan__leader_publish(&capture->leader, &batch, error);
    if (status == FAN_OK)
        status = fan__capture_forget(&capture->place, error);
    if (status != FAN_OK)
        return status;
    fan__log(capture->env, FAN_LOG_ERROR, "capture %s: %s, and changes were missed", slot, reason);
    fan__mutex_lock(&capture->mutex);
    capture->stats.gaps++;
    fan__mutex_unlock(&capture->mutex);
    return FAN_OK;
}

/* Sees to it that the slot is there, and ours. */
static enum fan_status find_place(struct fan_capture *capture, struct fan_error *error)
{
    struct fan__capture_place *place = &capture->place;
    struct fan__capture_state state = { .active = false };
    enum fan_status status = look(capture, &state, error);
    if (status == FAN_OK && state.active)
        return fan__fail(error, FAN_EXISTS, "slot", "another connection reads the slot \"%s\"",
                         place->slot);
    if (status == FAN_OK && *state.made_at && (!state.has_slot || state.foreign)) {
        status = tell_gap(capture, &state, error);
        *state.made_at = '\0';
    }
    if (status == FAN_OK)
        status = fan__capture_make_slot(place, &state, error);
    return status;
}

static enum fan_status run_on_stream(struct fan_capture *capture, const char *sql,
                                     PGresult **ret_result, struct fan_error *error)
{
    struct fan__pg_call call = { .sql = sql };
    return fan__pg_run(&capture->stream, &call, "the stream of changes", ret_result, error);
}

/* Ids are of this server, database and slot: elsewhere the same place is another's. */
static enum fan_status identify(struct fan_capture *capture, struct fan_error *error)
{
    char source[256];
    PGresult *result = NULL;
    enum fan_status status = run_on_stream(capture, "IDENTIFY_SYSTEM", &result, error);
    if (status != FAN_OK)
        return status;
    int size = snprintf(source, sizeof(source), "%s/%s/%s", PQgetvalue(result, 0, 0),
                        PQgetvalue(result, 0, 3), capture->place.slot);
    PQclear(result);
    fan__wal_deinit(&capture->wal);
    fan__wal_init(&capture->wal, capture->env, (struct fan_str){ source, (size_t)size });
    capture->wal.mark_keys = mark_keys;
    capture->wal.context = capture;
    return FAN_OK;
}

static enum fan_status open_stream(struct fan_capture *capture, struct fan_error *error)
{
    char sql[256];
    enum fan_status status = fan__pg_open(&capture->stream, capture->place.uri, true, error);
    if (status == FAN_OK)
        status = run_on_stream(capture,
                               "SET datestyle = 'ISO'; SET timezone = 'UTC'; SET intervalstyle ="
                               " 'postgres'; SET bytea_output = 'hex'; SET extra_float_digits = 1",
                               NULL, error);
    if (status == FAN_OK)
        status = identify(capture, error);
    snprintf(sql, sizeof(sql),
             "START_REPLICATION SLOT \"%s\" LOGICAL 0/0 (proto_version '1', publication_names"
             " '\"%s\"')",
             capture->place.slot, capture->place.slot);
    if (status == FAN_OK)
        status = run_on_stream(capture, sql, NULL, error);
    capture->told_ns = 0;
    capture->told_lsn = 0;
    capture->confirmed_lsn = 0;
    return status;
}

static void show_leading(struct fan_capture *capture, bool leading)
{
    fan__mutex_lock(&capture->mutex);
    capture->stats.leading = leading;
    fan__mutex_unlock(&capture->mutex);
}

static enum fan_status stream(struct fan_capture *capture, struct fan_error *error)
{
    while (!is_stopping(capture)) {
        enum fan_status gathered = gather(capture, error);
        if (gathered != FAN_OK && gathered != FAN_AGAIN)
            return gathered;
        enum fan_status status = flush(capture, error);
        bool moved = capture->confirmed_lsn != capture->told_lsn;
        if (status == FAN_OK && (capture->asked || (moved && gathered == FAN_AGAIN) ||
                                 is_due(capture, capture->told_ns, STATUS_MS)))
            status = tell(capture, error);
        if (status == FAN_OK)
            status = fan__leader_lead(&capture->leader, error);
        if (status == FAN_OK)
            status = watch(capture, error);
        if (status != FAN_OK)
            return status;
        uint32_t pause_ms = capture->watch_ms < STATUS_MS ? capture->watch_ms : STATUS_MS;
        if (gathered == FAN_AGAIN)
            wait_for_news(capture, pause_ms, true);
    }
    return capture->confirmed_lsn == capture->told_lsn ? FAN_OK : tell(capture, error);
}

/* One connection's time. */
static enum fan_status session(struct fan_capture *capture, struct fan_error *error)
{
    enum fan_status status = fan__leader_lead(&capture->leader, error);
    if (status == FAN_OK)
        status = find_place(capture, error);
    if (status == FAN_OK)
        status = open_stream(capture, error);
    if (status == FAN_OK) {
        note(capture, FAN_OK, error);
        show_leading(capture, true);
        status = stream(capture, error);
        show_leading(capture, false);
    }
    fan__pg_close(&capture->stream);
    return status;
}

static void capture_main(void *context)
{
    struct fan_capture *capture = context;
    uint32_t delay_ms = 0;
    while (!is_stopping(capture)) {
        struct fan_error error = FAN_ERROR_INIT;
        uint64_t before = capture->stats.published;
        enum fan_status status = session(capture, &error);
        note(capture, status, &error);
        /* A log that takes nothing keeps us from the stream, but not from watching the slot. */
        if (!capture->must_go && status != FAN_OK && status != FAN_EXISTS)
            (void)!watch(capture, &error);
        if (capture->must_go)
            drop(capture);
        delay_ms = capture->stats.published != before ? 0 : longer(delay_ms);
        if (!is_stopping(capture))
            wait_for_news(capture, delay_ms ? delay_ms : DELAY_MS_MIN, false);
    }
}

/* --- life --------------------------------------------------------------------------------- */

static enum fan_status adopt(struct fan_capture_options *adopted,
                             const struct fan_capture_options *options, struct fan_error *error)
{
    if (!fan__adopt(adopted, sizeof(*adopted), options, sizeof(*adopted)))
        return fan__fail(error, FAN_INVALID, "size", "must be FAN_CAPTURE_OPTIONS_SIZE");
    if (!adopted->database)
        return fan__fail(error, FAN_INVALID, "database", "must be given");
    if (adopted->table_count == 0)
        return fan__fail(error, FAN_INVALID, "tables", "must be given");
    if (adopted->slot_bytes_max == 0)
        adopted->slot_bytes_max = SLOT_BYTES_MAX;
    if (adopted->slot_bytes_alarm == 0)
        adopted->slot_bytes_alarm = adopted->slot_bytes_max / 4;
    adopted->watch_ms = adopted->watch_ms ? adopted->watch_ms : WATCH_MS;
    adopted->lease_ms = adopted->lease_ms ? adopted->lease_ms : LEASE_MS;
    return fan__capture_slot_name(&adopted->slot, error);
}

/* What the metrics tell. */
static void look_at(void *context, struct fan_feed_stats *ret_stats)
{
    struct fan_capture *capture = context;
    fan__mutex_lock(&capture->mutex);
    const struct fan_capture_stats *stats = &capture->stats;
    *ret_stats = (struct fan_feed_stats){
        .size = ret_stats->size,
        .leading = stats->leading,
        .failing = stats->error.status != FAN_OK,
        .events = stats->published,
        .failures = stats->failures,
        .lag_ns = stats->lag_us > 0 ? (uint64_t)stats->lag_us * FAN__NS_PER_US : 0,
        .refused = stats->refused,
        .gaps = stats->gaps,
        .lag_bytes = stats->lag_bytes,
        .slot_bytes = stats->slot_bytes,
        .alarm = stats->alarm,
    };
    fan__mutex_unlock(&capture->mutex);
}

static enum fan_status be_seen(struct fan_capture *capture, struct fan_error *error)
{
    struct fan_feed_options options = { .size = FAN_FEED_OPTIONS_SIZE,
                                        .kind = FAN_FEED_CAPTURE,
                                        .name = capture->place.slot,
                                        .look = look_at,
                                        .context = capture };
    enum fan_status status = fan_feed_add(capture->broker, &options, &capture->feed);
    return status == FAN_OK ? FAN_OK : fan__fail(error, status, "", "out of memory");
}

static void release(struct fan_capture *capture)
{
    const struct fan_env *env = capture->env;
    fan_feed_remove(capture->feed);
    fan__pg_close(&capture->stream);
    fan__pg_close(&capture->place.pg);
    fan__wal_deinit(&capture->wal);
    for (size_t i = 0; i < capture->place.table_count && capture->place.tables; i++)
        fan__free(env, capture->place.tables[i]);
    fan__free(env, capture->place.tables);
    fan__free(env, capture->place.uri);
    fan__free(env, capture->place.slot);
    fan__free(env, capture->drafts);
    if (capture->bell >= 0)
        close(capture->bell);
    fan__mutex_deinit(&capture->mutex);
    fan__free(env, capture);
}

static bool keep(struct fan_capture *capture, const struct fan_capture_options *options)
{
    struct fan__capture_place *place = &capture->place;
    const struct fan_env *env = capture->env;
    place->env = env;
    place->epoch = fan_store_epoch(fan_broker_store(capture->broker));
    place->uri = fan__strdup(env, options->database);
    place->slot = fan__strdup(env, options->slot);
    place->tables = fan__alloc_zero(env, options->table_count, sizeof(*place->tables));
    bool good = place->uri && place->slot && place->tables && capture->bell >= 0;
    for (; good && place->table_count < options->table_count; place->table_count++) {
        place->tables[place->table_count] = fan__strdup(env, options->tables[place->table_count]);
        good = place->tables[place->table_count] != NULL;
    }
    return good;
}

/* All that may be wrong is found now, and from now on the server keeps what changes. */
static enum fan_status connect_to(struct fan_capture *capture, struct fan_error *error)
{
    struct fan__capture_place *place = &capture->place;
    struct fan__capture_state state;
    enum fan_status status = fan__capture_connect(place, error);
    if (status == FAN_OK)
        status = fan__capture_prepare(place, error);
    if (status == FAN_OK)
        status = fan__capture_look(place, &state, error);
    if (status != FAN_OK)
        return status;
    if (state.unbounded)
        fan__log(capture->env, FAN_LOG_WARNING,
                 "capture %s: while nobody captures, nothing bounds what the server keeps for the "
                 "slot: set max_slot_wal_keep_size there",
                 place->slot);
    /* A slot that is gone is told of first, by the thread; another capture may make it, too. */
    if (!state.has_slot && *state.made_at)
        return FAN_OK;
    status = fan__capture_make_slot(place, &state, error);
    return status == FAN_EXISTS ? FAN_OK : status;
}

enum fan_status fan_capture_open(struct fan_broker *broker,
                                 const struct fan_capture_options *options,
                                 struct fan_capture **ret_capture, struct fan_error *ret_error)
{
    struct fan_capture_options adopted;
    enum fan_status status = adopt(&adopted, options, ret_error);
    if (status != FAN_OK)
        return status;
    const struct fan_env *env = fan_broker_defaults(broker)->env;
    struct fan_capture *capture = fan__alloc_zero(env, 1, sizeof(*capture));
    if (!capture)
        return fan__fail(ret_error, FAN_NO_MEMORY, "", "out of memory");
    capture->env = env;
    capture->broker = broker;
    capture->slot_bytes_max = adopted.slot_bytes_max;
    capture->slot_bytes_alarm = adopted.slot_bytes_alarm;
    capture->watch_ms = adopted.watch_ms;
    capture->fork_generation = fan__fork_generation();
    capture->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    fan__mutex_init(&capture->mutex);
    fan__wal_init(&capture->wal, env, (struct fan_str){ "", 0 });
    status = keep(capture, &adopted) ? connect_to(capture, ret_error)
                                     : fan__fail(ret_error, FAN_NO_MEMORY, "", "out of memory");
    if (status == FAN_OK)
        status = be_seen(capture, ret_error);
    if (status != FAN_OK) {
        release(capture);
        return status;
    }
    char name[256];
    const PGconn *conn = capture->place.pg.conn;
    int size = snprintf(name, sizeof(name), "%.90s:%s/%.60s:%s", PQhost(conn), PQport(conn),
                        PQdb(conn), capture->place.slot);
    fan__leader_init(&capture->leader, broker, adopted.lease_ms);
    fan__leader_name(&capture->leader, "capture", (struct fan_str){ name, (size_t)size });
    *ret_capture = capture;
    return FAN_OK;
}

enum fan_status fan_capture_start(struct fan_capture *capture)
{
    if (fan__fork_generation() != capture->fork_generation)
        return FAN_FORKED;
    fan__mutex_lock(&capture->mutex);
    enum fan_status status = capture->stopping  ? FAN_CLOSED
                             : capture->started ? FAN_MISUSE
                                                : FAN_OK;
    if (status == FAN_OK)
        status = fan__thread_start(&capture->thread, "fan-capture", capture_main, capture);
    capture->started |= status == FAN_OK;
    fan__mutex_unlock(&capture->mutex);
    return status;
}

void fan_capture_stop(struct fan_capture *capture)
{
    if (fan__fork_generation() != capture->fork_generation)
        return;
    fan__mutex_lock(&capture->mutex);
    bool stopped = capture->stopping;
    capture->stopping = true;
    fan__mutex_unlock(&capture->mutex);
    if (stopped)
        return;
    uint64_t once = 1;
    (void)!write(capture->bell, &once, sizeof(once));
    fan__thread_join(&capture->thread);
    fan__leader_release(&capture->leader);
}

void fan_capture_free(struct fan_capture *capture)
{
    if (!capture || fan__fork_generation() != capture->fork_generation)
        return;
    fan_capture_stop(capture);
    release(capture);
}

void fan_capture_stats(struct fan_capture *capture, struct fan_capture_stats *ret_stats)
{
    size_t size = ret_stats->size < sizeof(*ret_stats) ? ret_stats->size : sizeof(*ret_stats);
    struct fan_capture_stats stats = { .size = size };
    if (fan__fork_generation() == capture->fork_generation) {
        fan__mutex_lock(&capture->mutex);
        stats = capture->stats;
        fan__mutex_unlock(&capture->mutex);
    }
    stats.size = size;
    memcpy(ret_stats, &stats, size);
}

enum fan_status fan_capture_remove(const char *database, const char *slot,
                                   struct fan_error *ret_error)
{
    enum fan_status status = fan__capture_slot_name(&slot, ret_error);
    if (status != FAN_OK)
        return status;
    struct fan__capture_place place = { .uri = fan__strdup(NULL, database),
                                        .slot = fan__strdup(NULL, slot) };
    if (!place.uri || !place.slot)
        status = fan__fail(ret_error, FAN_NO_MEMORY, "", "out of memory");
    if (status == FAN_OK)
        status = fan__capture_connect(&place, ret_error);
    if (status == FAN_OK)
        status = fan__capture_remove(&place, ret_error);
    fan__pg_close(&place.pg);
    fan__free(NULL, place.uri);
    fan__free(NULL, place.slot);
    return status;
}
