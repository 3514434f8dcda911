/*
 * Looking for damage, in one snapshot on a connection of its own: that every event can be rebuilt
 * and is legal, that what hangs together is there, and that what is counted is what is there. Pages
 * and indexes are PostgreSQL's to check (pg_amcheck); one that cannot be read is a finding.
 */
#include "store/findings.h"
#include "store/postgres/group.h"
#include "store/postgres/series.h"

#include "base/env.h"
#include "base/status.h"

#include <inttypes.h>

/* How long one statement may take: some read the whole log. */
#define STATEMENT_MS (60 * 60 * 1000)

struct verify {
    struct fan__postgres_connection *connection;
    struct fan__findings findings;
};

static PGresult *ask(struct verify *verify, enum fan__postgres_statement statement,
                     const struct fan__postgres_params *params)
{
    verify->connection->deadline_ns = fan__deadline_ns(STATEMENT_MS);
    return fan__postgres_run(verify->connection, statement, params);
}

/* Rebuilds one event as readers are given it, and lays it before the rules of a publish. */
static void check_event(struct verify *verify, const PGresult *page, int row)
{
    struct fan__postgres_connection *connection = verify->connection;
    uint64_t seq = (uint64_t)fan__postgres_int(page, row, 0);
    struct fan_event_draft draft;
    if (!fan__postgres_row_draft(connection, page, row, &draft)) {
        fan__find(&verify->findings, "event", seq, "cannot be rebuilt: its series is not there");
        if (connection->status == FAN_CORRUPT)
            connection->status = FAN_OK;
        return;
    }
    if (fan__find_event(&verify->findings, connection->store->env, seq, &draft) != FAN_OK)
        fan__postgres_fail(connection, FAN_NO_MEMORY);
}

static void check_events(struct verify *verify)
{
    int64_t seq = INT64_MIN;
    int count = 1;
    while (count > 0 && !verify->findings.ended) {
        struct fan__postgres_params params = { .count = 0 };
        fan__postgres_add_int(&params, seq);
        PGresult *page = ask(verify, FAN__PG_VERIFY_EVENTS, &params);
        count = PQntuples(page);
        for (int row = 0; row < count && !verify->findings.ended; row++)
            check_event(verify, page, row);
        if (count > 0)
            seq = fan__postgres_int(page, count - 1, 0);
        PQclear(page);
    }
}

/* What a statement gives is found: part, sequence, words. */
static void check_rows(struct verify *verify, enum fan__postgres_statement statement)
{
    PGresult *rows = ask(verify, statement, NULL);
    for (int row = 0; row < PQntuples(rows) && !verify->findings.ended; row++)
        fan__find(&verify->findings, fan__postgres_text(rows, row, 0),
                  (uint64_t)fan__postgres_int(rows, row, 1), "%s",
                  fan__postgres_text(rows, row, 2));
    PQclear(rows);
}

/* The sums that operators are shown are made in other ways than by counting: they must agree. */
static void check_sums(struct verify *verify)
{
    struct fan__postgres_params params = { .count = 0 };
    fan__postgres_add_int(&params, fan__postgres_now_us(verify->connection->store));
    PGresult *told = ask(verify, FAN__PG_SUMS, &params);
    PGresult *there = ask(verify, FAN__PG_VERIFY_STATES, &params);
    static const char *const names[] = { "pending", "processing", "failed" };
    for (int i = 0; told && there && i < 3; i++) {
        if (fan__postgres_int(told, 0, i) != fan__postgres_int(there, 0, i))
            fan__find(&verify->findings, "sums", 0,
                      "%" PRId64 " events are said to be %s, and %" PRId64 " are",
                      fan__postgres_int(told, 0, i), names[i], fan__postgres_int(there, 0, i));
    }
    PQclear(told);
    PQclear(there);
}

static void check_all(struct verify *verify)
{
    static const enum fan__postgres_statement statements[] = {
        FAN__PG_VERIFY_META,
        FAN__PG_VERIFY_DELIVERIES,
        FAN__PG_VERIFY_GROUPS,
        FAN__PG_VERIFY_MARKS,
    };
    struct fan__postgres_connection *connection = verify->connection;
    (void)fan__postgres_queue(connection, FAN__PG_BEGIN_READ, NULL);
    connection->begun = true;
    (void)fan__postgres_queue(connection, FAN__PG_PATIENT, NULL);
    for (size_t i = 0; i < sizeof(statements) / sizeof(*statements) && !verify->findings.ended; i++)
        check_rows(verify, statements[i]);
    check_events(verify);
    if (!verify->findings.ended)
        check_sums(verify);
    if (connection->status == FAN_CORRUPT)
        fan__find(&verify->findings, "storage", 0, "cannot be read to its end: %s",
                  connection->message);
}

enum fan_status fan__postgres_verify(void *self, fan_finding_visit visit, void *context,
                                     struct fan_error *error)
{
    struct fan__postgres *store = self;
    struct verify verify = { .findings = { .visit = visit, .context = context } };
    enum fan_status status = fan__postgres_connect(store, fan__deadline_ns(store->timeout_ms),
                                                   &verify.connection, error);
    if (status != FAN_OK)
        return status;
    check_all(&verify);
    status = verify.connection->status;
    if (verify.findings.count > 0)
        status =
            fan__fail(error, FAN_CORRUPT, NULL, "found %" PRIu64 " faults", verify.findings.count);
    else if (status != FAN_OK)
        status = fan__fail(error, status, NULL, "%s",
                           verify.connection->message[0] ? verify.connection->message
                                                         : fan_status_text(status));
    fan__postgres_disconnect(verify.connection);
    return status;
}

/* PostgreSQL copies itself better than anybody who asks it for rows. */
enum fan_status fan__postgres_backup(void *self, const char *path, struct fan_error *error)
{
    const struct fan__postgres *store = self;
    (void)path;
    return fan__fail(error, FAN_UNSUPPORTED, "uri",
                     "PostgreSQL makes its own copies: pg_dump --schema '\"%s\"' DATABASE "
                     "(docs/stores.md says how to restore one)",
                     store->schema);
}

enum fan_status fan__postgres_restore(const char *path, const char *uri, const struct fan_env *env,
                                      struct fan_error *error)
{
    (void)path;
    (void)uri;
    (void)env;
    return fan__fail(error, FAN_UNSUPPORTED, "uri",
                     "PostgreSQL takes its own copies back: pg_restore, or psql, and then "
                     "SELECT SCHEMA.new_epoch() (docs/stores.md)");
}
