/*
 * An outbox in PostgreSQL as its relay sees it.
 *
 * The hazard: numbers are given when a row is inserted, and rows become visible when their
 * transaction commits, in another order. A reader that goes by `seq > last` steps over what commits
 * late. So rows are read by (xid, seq), and only those below the snapshot's xmin: every transaction
 * with a smaller xid has ended, and what it wrote is visible or never will be. Nothing can appear
 * behind the place any more; an open transaction, in whatever database of the server, delays what
 * is above it.
 *
 *     ... 17 17 18 | 21 22 22      18 is settled: the place. 19 is still open: xmin
 *                  ^ hidden, until 19 ends
 *
 * The place also keeps the scan away from the index entries of deleted rows, which a vacuum cannot
 * remove while that transaction is open. It is forgotten with the connection.
 *
 * LISTEN comes before the first look, so no commit falls in between; what NOTIFY may not tell (the
 * end of an open transaction) is found by looking.
 */
#include "hook/outbox_postgres.h"

#include "base/env.h"
#include "base/status.h"
#include "hook/pg.h"
#include "hook/relay.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROW_SIZE_MAX (8 << 20)
#define ROWS_COUNTED_MAX 100000
#define COUNT_EVERY_NS (INT64_C(1000) * FAN__NS_PER_MS)

struct outbox {
    const struct fan_env *env;
    char *uri;
    char *schema;
    struct fan__pg pg;
    char identity[40];
    char load_sql[768]; /* prepared texts: the schema's name has 63 bytes, each at most doubled */
    char hidden_sql[384];
    char count_sql[256];
    char settle_sql[768];
    uint64_t xid; /* the place: settled up to here */
    int64_t seq;
    bool fresh; /* nothing was loaded on this connection yet */
    int64_t counted_ns;
    uint64_t horizon; /* where it stood when rows were first hidden by it */
    int64_t stands_since_ns;
    bool said;
};

/* --- the connection ----------------------------------------------------------------------- */

static void put(char *text, size_t size, const char *template, const struct outbox *outbox)
{
    struct fan__buffer buffer;
    fan__buffer_init(&buffer, outbox->env);
    fan__outbox_postgres_add(&buffer, template, outbox->schema);
    fan__buffer_add(&buffer, "", 1);
    *text = '\0';
    if (!buffer.failed && buffer.size <= size)
        memcpy(text, buffer.data, buffer.size);
    fan__buffer_deinit(&buffer);
}

static bool make_texts(struct outbox *outbox)
{
    put(outbox->load_sql, sizeof(outbox->load_sql),
        "SELECT xid, seq, id, (extract(epoch FROM recorded_at) * 1000000)::bigint,"
        " CASE WHEN size <= $5::bigint THEN event END"
        " FROM (SELECT *, sum(size) OVER (ORDER BY xid, seq) AS total FROM"
        " (SELECT xid, seq, id, recorded_at, size, event FROM @.event"
        " WHERE (xid, seq) > ($1::xid8, $2::bigint)"
        " AND xid < pg_snapshot_xmin(pg_current_snapshot())"
        " ORDER BY xid, seq LIMIT $3::bigint) AS first) AS summed"
        " WHERE total - size < $4::bigint ORDER BY xid, seq",
        outbox);
    put(outbox->hidden_sql, sizeof(outbox->hidden_sql),
        "SELECT (extract(epoch FROM recorded_at) * 1000000)::bigint,"
        " pg_snapshot_xmin(pg_current_snapshot()) FROM @.event"
        " WHERE (xid, seq) > ($1::xid8, $2::bigint) ORDER BY xid, seq LIMIT 1",
        outbox);
    put(outbox->count_sql, sizeof(outbox->count_sql),
        "SELECT count(*) FROM (SELECT FROM @.event WHERE (xid, seq) > ($1::xid8, $2::bigint)"
        " LIMIT $3::bigint) AS counted",
        outbox);
    put(outbox->settle_sql, sizeof(outbox->settle_sql),
        "WITH gone AS (DELETE FROM @.event AS e"
        " USING unnest($1::xid8[], $2::bigint[], $3::text[]) AS d(xid, seq, reason)"
        " WHERE e.xid = d.xid AND e.seq = d.seq"
        " RETURNING e.seq, e.id, e.recorded_at, e.event, d.reason)"
        " INSERT INTO @.aside(seq, id, recorded_at, event, reason)"
        " SELECT seq, id, recorded_at, event, reason FROM gone WHERE reason IS NOT NULL"
        " ON CONFLICT (seq) DO NOTHING",
        outbox);
    return *outbox->load_sql && *outbox->hidden_sql && *outbox->count_sql && *outbox->settle_sql;
}

/*
 * A deletion that a crash of the server undoes costs a repeated publish, which stores nothing: it
 * need not wait for the disk. Rows with an xid of the future came from a dump of another server.
 */
#define PREPARE_SQL                                                                                \
    "SET synchronous_commit = off; SET default_transaction_read_only = off; LISTEN @;"             \
    "UPDATE @.event SET xid = pg_current_xact_id()"                                                \
    " WHERE xid >= pg_snapshot_xmax(pg_current_snapshot());"                                       \
    "SELECT format, identity FROM @.about"

static enum fan_status take_identity(struct outbox *outbox, const PGresult *result,
                                     struct fan_error *error)
{
    if (PQntuples(result) != 1)
        return fan__fail(error, FAN_NOT_FOUND, "table", "there is no outbox \"%s\"",
                         outbox->schema);
    if (fan__pg_number(result, 0, 0) > FAN__OUTBOX_POSTGRES_FORMAT)
        return fan__fail(error, FAN_TOO_NEW, "table",
                         "\"%s\" is an outbox of format %s, this library knows %d", outbox->schema,
                         PQgetvalue(result, 0, 0), FAN__OUTBOX_POSTGRES_FORMAT);
    snprintf(outbox->identity, sizeof(outbox->identity), "%s", PQgetvalue(result, 0, 1));
    return FAN_OK;
}

static enum fan_status connect_to(struct outbox *outbox, struct fan_error *error)
{
    struct fan__buffer sql;
    PGresult *result = NULL;
    enum fan_status status = fan__pg_open(&outbox->pg, outbox->uri, false, error);
    if (status != FAN_OK)
        return status;
    fan__buffer_init(&sql, outbox->env);
    fan__outbox_postgres_add(&sql, PREPARE_SQL, outbox->schema);
    fan__buffer_add(&sql, "", 1);
    struct fan__pg_call call = { .sql = sql.data };
    status = sql.failed ? fan__fail(error, FAN_NO_MEMORY, "", "out of memory")
                        : fan__pg_run(&outbox->pg, &call, "the outbox", &result, error);
    fan__buffer_deinit(&sql);
    if (status == FAN_OK)
        status = take_identity(outbox, result, error);
    PQclear(result);
    if (status == FAN_NOT_FOUND)
        fan__fail(error, status, "table", "there is no outbox \"%s\" in the database",
                  outbox->schema);
    if (status != FAN_OK)
        fan__pg_close(&outbox->pg);
    outbox->xid = 0;
    outbox->seq = 0;
    outbox->fresh = true;
    return status;
}

static void close_it(void *self)
{
    struct outbox *outbox = self;
    fan__pg_close(&outbox->pg);
    fan__free(outbox->env, outbox->uri);
    fan__free(outbox->env, outbox->schema);
    fan__free(outbox->env, outbox);
}

static enum fan_status open_it(const struct fan_env *env,
                               const struct fan_outbox_relay_options *options, void **ret_self,
                               struct fan_error *error)
{
    const char *schema = options->table;
    enum fan_status status = fan__outbox_postgres_name(&schema, error);
    if (status != FAN_OK)
        return status;
    struct outbox *outbox = fan__alloc_zero(env, 1, sizeof(*outbox));
    if (!outbox)
        return fan__fail(error, FAN_NO_MEMORY, "", "out of memory");
    outbox->env = env;
    outbox->uri = fan__strdup(env, options->database);
    outbox->schema = fan__strdup(env, schema);
    status = outbox->uri && outbox->schema && make_texts(outbox)
                 ? connect_to(outbox, error)
                 : fan__fail(error, FAN_NO_MEMORY, "", "out of memory");
    if (status != FAN_OK) {
        close_it(outbox);
        return status;
    }
    *ret_self = outbox;
    return FAN_OK;
}

static void add_name(void *self, struct fan__buffer *name)
{
    struct outbox *outbox = self;
    fan__buffer_add_text(name, outbox->identity);
}

/* A connection that went is replaced; its failure is told, and the next call tries again. */
static enum fan_status be_connected(struct outbox *outbox, struct fan_error *error)
{
    return fan__pg_is_good(&outbox->pg) ? FAN_OK : connect_to(outbox, error);
}

/* --- the horizon -------------------------------------------------------------------------- */

/* Says once who it is that everybody waits for, as far as the server lets us see. */
static void say_who(struct outbox *outbox, int64_t stands_ns)
{
    static const struct fan__pg_call call = {
        .sql = "SELECT * FROM (SELECT format('pid %s, user %s, application \"%s\", %s', pid,"
               " usename, application_name, state), age(backend_xid) AS age"
               " FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()"
               " UNION ALL SELECT format('prepared transaction \"%s\"', gid), age(transaction)"
               " FROM pg_prepared_xacts) AS who ORDER BY age DESC LIMIT 1"
    };
    PGresult *result = NULL;
    if (fan__pg_run(&outbox->pg, &call, "", &result, NULL) != FAN_OK)
        return;
    fan__log(outbox->env, FAN_LOG_WARNING,
             "outbox %s: events have been waiting for %" PRId64
             " s for a transaction that is still open: %s",
             outbox->schema, stands_ns / (1000 * FAN__NS_PER_MS),
             PQntuples(result) == 1 ? PQgetvalue(result, 0, 0) : "of whom, this user may not see");
    PQclear(result);
    outbox->said = true;
}

static void watch_horizon(struct outbox *outbox, const struct fan__load *load, uint64_t horizon)
{
    int64_t now_ns = fan__monotonic_ns(outbox->env);
    if (horizon != outbox->horizon || outbox->stands_since_ns == 0) {
        outbox->horizon = horizon;
        outbox->stands_since_ns = now_ns;
        outbox->said = false;
    }
    int64_t stands_ns = now_ns - outbox->stands_since_ns;
    load->sight->hidden_us = stands_ns / FAN__NS_PER_US + 1;
    if (!outbox->said && stands_ns >= (int64_t)load->alarm_ms * FAN__NS_PER_MS)
        say_who(outbox, stands_ns);
}

/* Nothing can be read: is nothing there, or is it hidden? */
static enum fan_status look_behind(struct outbox *outbox, const struct fan__load *load,
                                   const char *const *values, struct fan_error *error)
{
    struct fan__pg_call call = { outbox->hidden_sql, values, 2 };
    PGresult *result = NULL;
    enum fan_status status = fan__pg_run(&outbox->pg, &call, "the outbox", &result, error);
    if (status != FAN_OK)
        return status;
    if (PQntuples(result) == 1) {
        load->sight->oldest_us = fan__pg_number(result, 0, 0);
        watch_horizon(outbox, load, strtoull(PQgetvalue(result, 0, 1), NULL, 10));
    } else {
        outbox->stands_since_ns = 0;
        load->sight->hidden_us = 0;
        load->sight->rows = 0;
    }
    PQclear(result);
    return FAN_AGAIN;
}

/* --- the rows ----------------------------------------------------------------------------- */

/* Counting costs as much as there is to count: at most once a second. */
static enum fan_status count_rows(struct outbox *outbox, const struct fan__load *load,
                                  const char *const *values, struct fan_error *error)
{
    int64_t now_ns = fan__monotonic_ns(outbox->env);
    if (outbox->counted_ns != 0 && now_ns - outbox->counted_ns < COUNT_EVERY_NS)
        return FAN_OK;
    char most[24];
    snprintf(most, sizeof(most), "%d", ROWS_COUNTED_MAX);
    const char *const bounds[] = { values[0], values[1], most };
    struct fan__pg_call call = { outbox->count_sql, bounds, 3 };
    PGresult *result = NULL;
    enum fan_status status = fan__pg_run(&outbox->pg, &call, "the outbox", &result, error);
    if (status == FAN_OK) {
        load->sight->rows = (uint64_t)fan__pg_number(result, 0, 0);
        outbox->counted_ns = now_ns;
    }
    PQclear(result);
    return status;
}

static enum fan_status take_rows(struct outbox *outbox, const struct fan__load *load,
                                 const PGresult *result)
{
    int count = PQntuples(result);
    load->sight->oldest_us = fan__pg_number(result, 0, 3);
    load->sight->hidden_us = 0;
    outbox->stands_since_ns = 0;
    if (load->sight->rows < (uint64_t)count)
        load->sight->rows = (uint64_t)count;
    enum fan_status status = FAN_OK;
    for (int i = 0; i < count && status == FAN_OK; i++) {
        struct fan__row place = { .xid = strtoull(PQgetvalue(result, i, 0), NULL, 10),
                                  .seq = fan__pg_number(result, i, 1) };
        struct fan_str text = { PQgetvalue(result, i, 4), (size_t)PQgetlength(result, i, 4) };
        if (PQgetisnull(result, i, 4))
            text.data = NULL;
        status = load->take(load->context, &place, PQgetvalue(result, i, 2), text);
    }
    return status;
}

/* Whether something came in that told of a commit; it is heard with this. */
static bool has_heard(struct outbox *outbox)
{
    bool heard = false;
    PGnotify *notify;
    while ((notify = PQnotifies(outbox->pg.conn))) {
        PQfreemem(notify);
        heard = true;
    }
    return heard;
}

static enum fan_status look(struct outbox *outbox, const struct fan__load *load,
                            const char *const *values, struct fan_error *error)
{
    struct fan__pg_call call = { outbox->load_sql, values, 5 };
    PGresult *result = NULL;
    enum fan_status status =
        fan__pg_run(&outbox->pg, &call, "the outbox cannot be read", &result, error);
    if (status == FAN_OK)
        outbox->fresh = false;
    if (status == FAN_OK && PQntuples(result) == 0)
        status = look_behind(outbox, load, values, error);
    else if (status == FAN_OK)
        status = take_rows(outbox, load, result);
    PQclear(result);
    return status;
}

static enum fan_status load_some(void *self, const struct fan__load *load, struct fan_error *error)
{
    struct outbox *outbox = self;
    char texts[5][24];
    enum fan_status status = be_connected(outbox, error);
    if (status != FAN_OK)
        return status;
    snprintf(texts[0], sizeof(texts[0]), "%" PRIu64, outbox->xid);
    snprintf(texts[1], sizeof(texts[1]), "%" PRId64, outbox->seq);
    snprintf(texts[2], sizeof(texts[2]), "%zu", load->count_max);
    snprintf(texts[3], sizeof(texts[3]), "%zu", load->size_max);
    snprintf(texts[4], sizeof(texts[4]), "%d", ROW_SIZE_MAX);
    const char *const values[] = { texts[0], texts[1], texts[2], texts[3], texts[4] };
    (void)!PQconsumeInput(outbox->pg.conn);
    (void)has_heard(outbox);
    /* What came in while we looked may be of a commit that the look did not see. */
    do
        status = look(outbox, load, values, error);
    while (status == FAN_AGAIN && has_heard(outbox) && load->sight->hidden_us == 0);
    if (status == FAN_NO_MEMORY)
        return fan__fail(error, status, "", "out of memory");
    if (status == FAN_OK || (status == FAN_AGAIN && load->sight->hidden_us > 0)) {
        enum fan_status counted = count_rows(outbox, load, values, error);
        status = counted == FAN_OK ? status : counted;
    }
    return status;
}

static void add_arrays(const struct fan__row *rows, size_t count, struct fan__buffer arrays[3])
{
    for (size_t i = 0; i < count; i++) {
        const char *before = i == 0 ? "{" : ",";
        fan__buffer_add_format(&arrays[0], "%s%" PRIu64, before, rows[i].xid);
        fan__buffer_add_format(&arrays[1], "%s%" PRId64, before, rows[i].seq);
        fan__buffer_add_text(&arrays[2], before);
        if (rows[i].reason)
            fan__pg_add_element(&arrays[2], rows[i].reason);
        else
            fan__buffer_add_text(&arrays[2], "NULL");
    }
    for (size_t i = 0; i < 3; i++)
        fan__buffer_add(&arrays[i], "}", 2);
}

static enum fan_status settle(void *self, const struct fan__row *rows, size_t count, bool whole,
                              struct fan_error *error)
{
    struct outbox *outbox = self;
    enum fan_status status = be_connected(outbox, error);
    if (status != FAN_OK)
        return status;
    struct fan__buffer arrays[3];
    for (size_t i = 0; i < 3; i++)
        fan__buffer_init(&arrays[i], outbox->env);
    add_arrays(rows, count, arrays);
    const char *const values[] = { arrays[0].data, arrays[1].data, arrays[2].data };
    struct fan__pg_call call = { outbox->settle_sql, values, 3 };
    if (arrays[0].failed || arrays[1].failed || arrays[2].failed)
        status = fan__fail(error, FAN_NO_MEMORY, "", "out of memory");
    else
        status =
            fan__pg_run(&outbox->pg, &call, "the outbox's rows cannot be deleted", NULL, error);
    for (size_t i = 0; i < 3; i++)
        fan__buffer_deinit(&arrays[i]);
    if (status == FAN_OK && whole && !outbox->fresh) {
        outbox->xid = rows[count - 1].xid;
        outbox->seq = rows[count - 1].seq;
    }
    return status;
}

static int descriptor(void *self)
{
    struct outbox *outbox = self;
    return fan__pg_is_good(&outbox->pg) ? PQsocket(outbox->pg.conn) : -1;
}

const struct fan__outbox fan__outbox_postgres = {
    .open = open_it,
    .close = close_it,
    .name = add_name,
    .load = load_some,
    .settle = settle,
    .descriptor = descriptor,
};
