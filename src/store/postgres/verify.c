/*
 * Looking for damage, in one snapshot on a connection of its own: that every event can be rebuilt
 * and is legal, that what hangs together is there, and that what is counted is what is there. Pages
 * and indexes are PostgreSQL's to check (pg_amcheck); one that cannot be read is a finding.
 */
#include "store/postgres/group.h"
#include "store/postgres/series.h"

#include "base/env.h"
#include "base/status.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#define PAYLOAD_SIZE_MAX ((size_t)1 << 30)
#define JSON_DEPTH_MAX 1024

/* How long one statement may take: some read the whole log. */
#define STATEMENT_MS (60 * 60 * 1000)

struct verify {
    struct fan__postgres_connection *connection;
    fan_finding_visit visit;
    void *context;
    uint64_t found;
    bool ended; /* the visitor wants no more */
};

__attribute__((format(printf, 4, 5))) static void tell(struct verify *verify, const char *part,
                                                       uint64_t seq, const char *format, ...)
{
    if (verify->ended)
        return;
    char words[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(words, sizeof(words), format, arguments);
    va_end(arguments);
    const struct fan_finding finding = {
        .size = sizeof(finding), .part = part, .seq = seq, .words = words
    };
    verify->found++;
    verify->ended = !verify->visit(verify->context, &finding);
}

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
        tell(verify, "event", seq, "cannot be rebuilt: its series is not there");
        if (connection->status == FAN_CORRUPT)
            connection->status = FAN_OK;
        return;
    }
    const struct fan_event_defaults defaults = {
        .size = sizeof(defaults),
        .env = connection->store->env,
        .payload_size_max = PAYLOAD_SIZE_MAX,
        .json_depth_max = JSON_DEPTH_MAX,
    };
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_event *event = NULL;
    enum fan_status status = fan_event_new(&draft, &defaults, &event, &error);
    if (status == FAN_NO_MEMORY)
        fan__postgres_fail(connection, status);
    else if (status != FAN_OK)
        tell(verify, "event", seq, "is not legal: %s: %s", error.field, error.message);
    else if (draft.source == FAN_SOURCE_UNSET || draft.created_us == 0)
        tell(verify, "event", seq, "has no %s", draft.created_us == 0 ? "time" : "source");
    fan_event_free(event, connection->store->env);
}

static void check_events(struct verify *verify)
{
    int64_t seq = INT64_MIN;
    int count = 1;
    while (count > 0 && !verify->ended) {
        struct fan__postgres_params params = { .count = 0 };
        fan__postgres_add_int(&params, seq);
        PGresult *page = ask(verify, FAN__PG_VERIFY_EVENTS, &params);
        count = PQntuples(page);
        for (int row = 0; row < count && !verify->ended; row++)
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
    for (int row = 0; row < PQntuples(rows) && !verify->ended; row++)
        tell(verify, fan__postgres_text(rows, row, 0), (uint64_t)fan__postgres_int(rows, row, 1),
             "%s", fan__postgres_text(rows, row, 2));
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
            tell(verify, "sums", 0, "%" PRId64 " events are said to be %s, and %" PRId64 " are",
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
    for (size_t i = 0; i < sizeof(statements) / sizeof(*statements) && !verify->ended; i++)
        check_rows(verify, statements[i]);
    check_events(verify);
    if (!verify->ended)
        check_sums(verify);
    if (connection->status == FAN_CORRUPT)
        tell(verify, "storage", 0, "cannot be read to its end: %s", connection->message);
}

enum fan_status fan__postgres_verify(void *self, fan_finding_visit visit, void *context,
                                     struct fan_error *error)
{
    struct fan__postgres *store = self;
    struct verify verify = { .visit = visit, .context = context };
    enum fan_status status = fan__postgres_connect(store, fan__deadline_ns(store->timeout_ms),
                                                   &verify.connection, error);
    if (status != FAN_OK)
        return status;
    check_all(&verify);
    status = verify.connection->status;
    if (verify.found > 0)
        status = fan__fail(error, FAN_CORRUPT, NULL, "found %" PRIu64 " faults", verify.found);
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
