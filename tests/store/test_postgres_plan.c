/*
 * Query plans of the PostgreSQL provider: no statement reads a whole table of those that grow, also
 * when the server knows nothing of them yet, and walks go by the index of their filter (P20).
 */
#include "postgres.h"
#include "test.h"

#include "base/env.h"
#include "store/postgres/postgres.h"
#include "store/postgres/store.h"

#include <fanfare/batch.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[FAN__PG_COUNT] = {
#define STATEMENT_NAME(name, text) #name,
    FAN__POSTGRES_STATEMENTS(STATEMENT_NAME)
#undef STATEMENT_NAME
};

struct fixture {
    struct test_postgres server;
    struct fan__postgres *store;
    PGconn *conn;
};

static void run(PGconn *conn, const char *sql)
{
    PGresult *result = PQexec(conn, sql);
    if (PQresultStatus(result) == PGRES_FATAL_ERROR)
        fail_msg("%s: %s", sql, PQresultErrorMessage(result));
    PQclear(result);
}

/* A session as the provider's own are. */
static PGconn *connect_as(const struct fan__postgres *store)
{
    PGconn *conn = PQconnectdbParams((const char *const *)store->keywords,
                                     (const char *const *)store->values, 0);
    assert_int_equal(PQstatus(conn), CONNECTION_OK);
    const char *const values[] = { "60000", "60000" };
    PGresult *result =
        PQexecParams(conn, fan__postgres_sql(FAN__PG_SESSION), 2, NULL, values, NULL, NULL, 0);
    assert_int_equal(PQresultStatus(result), PGRES_TUPLES_OK);
    PQclear(result);
    return conn;
}

static int start(void **state)
{
    static struct fixture fixture;
    char uri[256];
    void *self = NULL;
    uint64_t epoch = 0;
    if (!test_postgres_start(&fixture.server, NULL))
        return -1;
    test_postgres_uri(&fixture.server, "schema=plan", uri, sizeof(uri));
    if (fan__postgres_provider.open(uri, fan_env_default(), &self, &epoch, NULL) != FAN_OK)
        return -1;
    fixture.store = self;
    fixture.conn = connect_as(self);
    *state = &fixture;
    return 0;
}

static int end(void **state)
{
    struct fixture *fixture = *state;
    PQfinish(fixture->conn);
    fan__postgres_provider.close(fixture->store);
    test_postgres_end(&fixture->server);
    return 0;
}

/* How many parameters a statement has. */
static int count_of(const char *sql)
{
    int count = 0;
    for (const char *at = strchr(sql, '$'); at; at = strchr(at + 1, '$')) {
        int number = atoi(at + 1);
        if (number > count)
            count = number;
    }
    return count;
}

/* The generic plan of a statement, NULL for one that has none (BEGIN, SET). Freed by PQclear. */
static PGresult *plan_of(const struct fixture *fixture, enum fan__postgres_statement statement)
{
    char *sql = fan__postgres_fill(fixture->store, fan__postgres_sql(statement));
    char text[8192];
    assert_non_null(sql);
    bool has_plan = strncmp(sql, "SELECT", 6) == 0 || strncmp(sql, "WITH", 4) == 0 ||
                    strncmp(sql, "INSERT", 6) == 0 || strncmp(sql, "UPDATE", 6) == 0 ||
                    strncmp(sql, "DELETE", 6) == 0;
    if (!has_plan) {
        fan__free(fixture->store->env, sql);
        return NULL;
    }
    snprintf(text, sizeof(text), "PREPARE p AS %s", sql);
    run(fixture->conn, text);
    int size = snprintf(text, sizeof(text), "EXPLAIN EXECUTE p");
    int count = count_of(sql);
    for (int i = 0; i < count; i++)
        size += snprintf(text + size, sizeof(text) - (size_t)size, "%sNULL", i ? ", " : "(");
    if (count > 0)
        snprintf(text + size, sizeof(text) - (size_t)size, ")");
    PGresult *result = PQexec(fixture->conn, text);
    if (PQresultStatus(result) != PGRES_TUPLES_OK)
        fail_msg("%s: %s", names[statement], PQresultErrorMessage(result));
    run(fixture->conn, "DEALLOCATE p");
    fan__free(fixture->store->env, sql);
    return result;
}

/*
 * What moves all times at once, when somebody says that the clock is right, and what reads all. Of
 * a group's pattern each series is asked, so that events are not.
 */
static bool may_scan(enum fan__postgres_statement statement, const char *table)
{
    if (statement == FAN__PG_GROUP_STATS && strstr(table, "series"))
        return true;
    return strncmp(names[statement], "CLOCK_MOVE", strlen("CLOCK_MOVE")) == 0 ||
           strncmp(names[statement], "VERIFY", strlen("VERIFY")) == 0;
}

static void check_no_scan(const struct fixture *fixture)
{
    size_t count = 0;
    static const char *const tables[] = { "Seq Scan on event", "Seq Scan on delivery",
                                          "Seq Scan on series", "Seq Scan on mark" };
    for (int i = 0; i < FAN__PG_COUNT; i++) {
        PGresult *plan = plan_of(fixture, (enum fan__postgres_statement)i);
        for (int row = 0; row < PQntuples(plan); row++) {
            for (size_t j = 0; j < sizeof(tables) / sizeof(*tables); j++) {
                if (may_scan((enum fan__postgres_statement)i, tables[j]) ||
                    !strstr(PQgetvalue(plan, row, 0), tables[j]))
                    continue;
                print_message("# %s: %s\n", names[i], PQgetvalue(plan, row, 0));
                count++;
            }
        }
        PQclear(plan);
    }
    assert_int_equal(count, 0);
}

static void check_index(const struct fixture *fixture, enum fan__postgres_statement statement,
                        const char *index, const char *condition)
{
    PGresult *plan = plan_of(fixture, statement);
    bool found = false;
    for (int row = 0; row + 1 < PQntuples(plan); row++) {
        found = found || (strstr(PQgetvalue(plan, row, 0), index) &&
                          strstr(PQgetvalue(plan, row + 1, 0), condition));
    }
    if (!found) {
        for (int row = 0; row < PQntuples(plan); row++)
            print_message("# %s\n", PQgetvalue(plan, row, 0));
        fail_msg("%s does not use %s", names[statement], index);
    }
    PQclear(plan);
}

static void check_indexes(const struct fixture *fixture)
{
    for (int down = 0; down < 2; down++) {
        const struct {
            enum fan__postgres_statement statement;
            const char *index;
            const char *condition;
        } cases[] = {
            { FAN__PG_PAGE_ALL, "event_pkey", "Index Cond: ((seq > $1) AND (seq <= $2))" },
            { FAN__PG_PAGE_WINDOW, "event_pkey", "Index Cond: ((seq > $1) AND (seq <= $2))" },
            { FAN__PG_PAGE_SERIES, "event_series",
              "Index Cond: ((series = s.id) AND (seq > $1) AND (seq <= $2))" },
            { FAN__PG_PAGE_USER, "event_user",
              "Index Cond: ((user_id = $6) AND (seq > $1) AND (seq <= $2))" },
            { FAN__PG_PAGE_TIME, "event_created",
              "Index Cond: ((created_us >= $7) AND (created_us < $8))" },
            { FAN__PG_PAGE_OPEN, "delivery_open", "Index Cond: ((seq > $1) AND (seq <= $2))" },
        };
        for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
            check_index(fixture, (enum fan__postgres_statement)((int)cases[i].statement + down),
                        cases[i].index, cases[i].condition);
    }
    check_index(fixture, FAN__PG_EVENT_BY_ID, "event_id_key", "Index Cond: (id = $1)");
    check_index(fixture, FAN__PG_SERIES_BY_TOPIC, "series_topic", "Index Cond: (topic = $1)");
    check_index(fixture, FAN__PG_SERIES_BY_TYPE, "series_type",
                "Index Cond: ((type >= $1) AND (type < $2))");
}

static void test_P20_no_statement_scans_a_table(void **state)
{
    struct fixture *fixture = *state;
    check_no_scan(fixture);
    check_indexes(fixture);
    run(fixture->conn,
        "INSERT INTO plan.series(topic, type, source, schema, entity, operation, instance, "
        "content_type) SELECT 't' || i, 'a.b' || i, 'system', '', '', '', '', '' "
        "FROM generate_series(1, 100) i");
    run(fixture->conn,
        "INSERT INTO plan.event(seq, id, series, created_us, user_id, payload) "
        "SELECT i, 'id' || i, i % 100 + 1, i, i % 1000 + 1, 'x' FROM generate_series(1, 20000) i");
    run(fixture->conn, "INSERT INTO plan.grp(name, handler, cursor, token, joined_us) "
                       "VALUES('g', '', 19900, 0, 0)");
    run(fixture->conn,
        "INSERT INTO plan.delivery(seq, grp, status, attempts, token, due_us, key, part) "
        "SELECT i, 1, CASE i % 100 WHEN 0 THEN 0 WHEN 1 THEN 1 ELSE 2 END, 0, i, i, i, i % 64 "
        "FROM generate_series(1, 19900) i");
    run(fixture->conn, "ANALYZE plan.event, plan.series, plan.delivery, plan.grp");
    /* Plans are made for what the server knows now. */
    PQfinish(fixture->conn);
    fixture->conn = connect_as(fixture->store);
    check_no_scan(fixture);
    check_indexes(fixture);
}

static void assert_setting(PGconn *conn, const char *name, const char *value)
{
    char sql[100];
    snprintf(sql, sizeof(sql), "SHOW %s", name);
    PGresult *result = PQexec(conn, sql);
    assert_string_equal(PQgetvalue(result, 0, 0), value);
    PQclear(result);
}

/* Whatever a role is set to: what is acknowledged is on the disk, and nobody waits for ever. */
static void test_L6_a_session_is_as_the_provider_means_it(void **state)
{
    struct fixture *fixture = *state;
    run(fixture->conn, "ALTER ROLE fan SET synchronous_commit = off");
    run(fixture->conn, "ALTER ROLE fan SET search_path = plan");
    PGconn *conn = connect_as(fixture->store);
    assert_setting(conn, "synchronous_commit", "on");
    assert_setting(conn, "search_path", "pg_catalog");
    assert_setting(conn, "statement_timeout", "1min");
    PQfinish(conn);
    run(fixture->conn, "ALTER ROLE fan SET synchronous_commit = remote_write");
    conn = connect_as(fixture->store);
    assert_setting(conn, "synchronous_commit", "remote_write");
    PQfinish(conn);
    run(fixture->conn, "ALTER ROLE fan RESET ALL");
}

/* A pooler that gives the session to another between two transactions is told from a broken log. */
static void test_R01_a_session_that_was_exchanged_is_given_up(void **state)
{
    struct fixture *fixture = *state;
    struct fan__postgres_connection *connection = NULL;
    struct fan__postgres_bounds bounds;
    struct fan_error error = FAN_ERROR_INIT;
    assert_ok(fan__postgres_borrow(fixture->store, FAN__POSTGRES_READ, &connection, NULL));
    fan__postgres_bounds(connection, &bounds);
    fan__postgres_script(connection, "DEALLOCATE ALL");
    fan__postgres_bounds(connection, &bounds);
    assert_int_equal(fan__postgres_end(connection, FAN_OK, &error), FAN_UNAVAILABLE);
    assert_non_null(strstr(error.message, "pool_mode=session"));
    assert_ok(fan__postgres_head(fixture->store, &bounds.head_seq));
}

/* The number behind a word of a plan's line, 0 without. */
static double number_after(const char *line, const char *word)
{
    const char *at = strstr(line, word);
    return at ? atof(at + strlen(word)) : 0;
}

/*
 * What a statement did on a log of 20,000 events, most of them long settled: no step of it, all of
 * its loops together, may see or throw away more than a few hundred rows.
 */
static void check_work(const struct fixture *fixture, enum fan__postgres_statement statement,
                       const char *arguments)
{
    char text[8192];
    char *sql = fan__postgres_fill(fixture->store, fan__postgres_sql(statement));
    assert_non_null(sql);
    snprintf(text, sizeof(text), "BEGIN; PREPARE p AS %s", sql);
    run(fixture->conn, text);
    snprintf(text, sizeof(text), "EXPLAIN ANALYZE EXECUTE p(%s)", arguments);
    PGresult *plan = PQexec(fixture->conn, text);
    if (PQresultStatus(plan) != PGRES_TUPLES_OK)
        fail_msg("%s: %s", names[statement], PQresultErrorMessage(plan));
    double loops = 1;
    for (int row = 0; row < PQntuples(plan); row++) {
        const char *line = PQgetvalue(plan, row, 0);
        const char *actual = strstr(line, "actual ");
        if (actual)
            loops = number_after(actual, "loops=");
        double seen = actual ? number_after(actual, "rows=") * loops
                             : number_after(line, "Rows Removed by Filter: ") * loops;
        if (seen <= 500)
            continue;
        for (int i = 0; i < PQntuples(plan); i++)
            print_message("# %s\n", PQgetvalue(plan, i, 0));
        fail_msg("%s sees %.0f rows", names[statement], seen);
    }
    PQclear(plan);
    run(fixture->conn, "ROLLBACK");
    run(fixture->conn, "DEALLOCATE p");
    fan__free(fixture->store->env, sql);
}

/* Whoever claims, settles or looks on pays for what he is given, not for what was there before. */
static void test_P20_work_of_groups_is_bounded_by_what_it_gives(void **state)
{
    const struct fixture *fixture = *state;
    static const struct {
        enum fan__postgres_statement statement;
        const char *arguments;
    } cases[] = {
        { FAN__PG_GROUP_LOCK, "'g', ''" },
        { FAN__PG_CLAIM_LOOK, "'g', '', 99999" },
        { FAN__PG_DUE, "1, 99999, 10, 100000, 7, 'me', 200000, 100" },
        { FAN__PG_DUE_IN_ORDER, "1, 99999, 10, 100000, 7, 'me', 200000, 100, 5" },
        { FAN__PG_HELD, "1, 0, 'me'" },
        { FAN__PG_UNCLAIM, "1, 101, 101, 99999" },
        { FAN__PG_SCAN, "1, 19900, '^a', NULL, 64" },
        { FAN__PG_SCAN_KEYS, "1, 19900, '^a', NULL, 64" },
        { FAN__PG_DELIVERY_ADD, "1, 7, 'me', 1, 2, 1, '{19901}', '{0}', '{5}', '{0}'" },
        { FAN__PG_EVENTS_OF, "'{5, 5000, 19901}'" },
        { FAN__PG_SETTLE, "1, 99999, '{101, 5001}', '{101, 5001}', '{0, 1}', '{0, 9}', "
                          "'{NULL, x}', '{0, 0}'" },
        { FAN__PG_RENEW, "1, 0, 99999, '{101, 5001}', '{101, 5001}'" },
        { FAN__PG_UNPARK, "1, '{2, 5002}'" },
        { FAN__PG_UNPARK_ALL, "'{2, 5002}', '{1, 1}'" },
        { FAN__PG_DELIVERY_LOCK, "5000, 1" },
        { FAN__PG_REDRIVE, "5000, 1, 9" },
        { FAN__PG_DISCARD, "5000, 1, 9" },
        { FAN__PG_DELIVERIES, "5000" },
        { FAN__PG_DEAD, "0, '', ''" },
        { FAN__PG_STATES, "'{5, 5000, 19901}'" },
        { FAN__PG_SUMS, "99999" },
        { FAN__PG_GROUP_STATS, "99999" },
        { FAN__PG_GROUP_CLEAR, "2, 0, 100" },
        { FAN__PG_OPEN_FROM, "0, 0, 20000, 100, 99999" },
        { FAN__PG_EVENTS_REMOVE, "0, 20000, 100" },
        { FAN__PG_GROUP_OLD, "99999, 0" },
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        check_work(fixture, cases[i].statement, cases[i].arguments);
}

/* One number that the server gives. */
static uint64_t ask(const struct fixture *fixture, const char *sql)
{
    PGresult *result = PQexec(fixture->conn, sql);
    if (PQresultStatus(result) != PGRES_TUPLES_OK)
        fail_msg("%s: %s", sql, PQresultErrorMessage(result));
    uint64_t number = strtoull(PQgetvalue(result, 0, 0), NULL, 10);
    PQclear(result);
    return number;
}

/* A group's sums against those that look at each event. */
static bool check_group(void *context, const struct fan_group_stats *stats)
{
    static const char *const past =
        "SELECT %s FROM plan.grp g JOIN plan.event e ON e.seq > g.cursor JOIN plan.series s "
        "ON s.id = e.series WHERE g.name = '%s' AND (g.regex IS NULL OR s.type ~ g.regex) AND NOT "
        "EXISTS (SELECT 1 FROM plan.delivery d WHERE d.grp = g.id AND d.seq = e.seq AND d.early)";
    static const char *const rows =
        "SELECT %s FROM plan.delivery d JOIN plan.grp g ON g.id = d.grp "
        "WHERE d.status < 2 AND g.name = '%s'";
    char sql[512];
    snprintf(sql, sizeof(sql), past, "count(*)", stats->group);
    uint64_t pending = ask(context, sql);
    snprintf(sql, sizeof(sql), past, "coalesce(min(e.created_us), 0)", stats->group);
    uint64_t oldest_us = ask(context, sql);
    snprintf(sql, sizeof(sql), rows, "count(*)", stats->group);
    pending += ask(context, sql);
    snprintf(sql, sizeof(sql), rows, "coalesce(min(d.seq), 0)", stats->group);
    uint64_t first_seq = ask(context, sql);
    snprintf(sql, sizeof(sql), "SELECT count(*) FROM plan.event WHERE seq > %" PRIu64,
             stats->cursor_seq);
    assert_int_equal(stats->lag, ask(context, sql));
    assert_int_equal(stats->pending + stats->processing, pending);
    /* An event of this log was made at the time that its sequence is. */
    assert_int_equal(stats->oldest_us, first_seq > 0 ? first_seq : oldest_us);
    return true;
}

static void check_sums(const struct fixture *fixture)
{
    struct fan_store_stats stats = { .size = sizeof(stats) };
    const char *const now[] = { "9000000000000000" };
    char *sql = fan__postgres_fill(fixture->store, fan__postgres_sql(FAN__PG_VERIFY_STATES));
    PGresult *result = PQexecParams(fixture->conn, sql, 1, NULL, now, NULL, NULL, 0);
    assert_int_equal(PQresultStatus(result), PGRES_TUPLES_OK);
    assert_ok(fan__postgres_provider.stats(fixture->store, &stats));
    assert_int_equal(stats.pending, strtoull(PQgetvalue(result, 0, 0), NULL, 10));
    assert_int_equal(stats.processing, strtoull(PQgetvalue(result, 0, 1), NULL, 10));
    assert_int_equal(stats.failed, strtoull(PQgetvalue(result, 0, 2), NULL, 10));
    assert_int_equal(stats.events, ask(fixture, "SELECT count(*) FROM plan.event"));
    PQclear(result);
    fan__free(fixture->store->env, sql);
    assert_ok(
        fan__postgres_provider.groups(fixture->store, check_group, (void *)(uintptr_t)fixture));
}

/* Sums of what groups have not come to: right, and not by a look at each event. */
static void test_P16_sums_do_not_look_at_what_is_owed(void **state)
{
    const struct fixture *fixture = *state;
    check_sums(fixture);
    run(fixture->conn, "INSERT INTO plan.grp(name, handler, cursor, token, joined_us) "
                       "VALUES('all', '', 0, 0, 0), ('late', '', 10000, 0, 0)");
    check_work(fixture, FAN__PG_SUMS, "99999");
    check_work(fixture, FAN__PG_GROUP_STATS, "99999");
    check_sums(fixture);
    run(fixture->conn, "DELETE FROM plan.grp WHERE name = 'all'");
    run(fixture->conn,
        "INSERT INTO plan.grp(name, handler, pattern, regex, cursor, token, joined_us) VALUES"
        "('far', '', 'a.b7', '^a\\.b7$', 100, 0, 0), ('near', '', 'a.b7', '^a\\.b7$', 19000, 0, "
        "0)");
    check_index(fixture, FAN__PG_SUMS, "Index Only Scan using event_series",
                ".id) AND (seq > (min(g_");
    check_index(fixture, FAN__PG_GROUP_STATS, "Index Only Scan using event_series",
                ".id) AND (seq > g.cursor))");
    check_sums(fixture);
    run(fixture->conn,
        "INSERT INTO plan.delivery(seq, grp, status, attempts, token, due_us, early) "
        "SELECT u.seq, g.id, 2, 0, 0, 0, true FROM plan.grp g, unnest('{106, "
        "19206}'::bigint[]) AS u(seq) WHERE g.name = 'far'");
    check_sums(fixture);
    run(fixture->conn, "DELETE FROM plan.event WHERE seq IN (1, 2, 3)");
    check_sums(fixture);
    run(fixture->conn, "DELETE FROM plan.event WHERE seq IN (206, 5000, 15000, 19999)");
    check_sums(fixture);
    run(fixture->conn, "DELETE FROM plan.grp WHERE name = 'late'");
    check_sums(fixture);
}

/* How many events with a status there are, by lists of which each goes on behind the last. */
static size_t list_all(const struct fixture *fixture, struct fan_query *query)
{
    static struct fan_event_state states[1500];
    struct fan_batch *batch = NULL;
    assert_ok(fan_batch_new(NULL, &batch));
    uint64_t last_seq = query->newest_first ? UINT64_MAX : 0;
    query->size = FAN_QUERY_SIZE;
    query->limit = 1500;
    query->offset = 0;
    do {
        fan_batch_clear(batch);
        assert_ok(fan__postgres_provider.list(fixture->store, query, batch, states, NULL));
        for (size_t i = 0; i < fan_batch_count(batch); i++) {
            uint64_t seq = fan_event_seq(fan_batch_event(batch, i));
            assert_true(query->newest_first ? seq < last_seq : seq > last_seq);
            assert_int_equal(states[i].status, query->status);
            last_seq = seq;
        }
        query->offset += fan_batch_count(batch);
    } while (fan_batch_count(batch) > 0);
    fan_batch_free(batch);
    return (size_t)query->offset;
}

/* Of many that are not settled, those with a status are found piece by piece, both ways. */
static void test_P05_lists_by_status_go_by_pieces(void **state)
{
    const struct fixture *fixture = *state;
    run(fixture->conn, "DELETE FROM plan.delivery WHERE grp <> 1");
    run(fixture->conn, "DELETE FROM plan.grp WHERE id <> 1");
    run(fixture->conn, "UPDATE plan.grp SET cursor = 20000");
    run(fixture->conn,
        "UPDATE plan.delivery SET status = CASE WHEN seq % 5000 = 7 THEN 3 WHEN seq % 100 = 1 "
        "THEN 2 WHEN seq % 1000 = 5 THEN 1 ELSE 0 END, due_us = 9000000000000000");
    for (int down = 0; down < 2; down++) {
        const struct {
            enum fan_event_status status;
            const char *rows;
        } cases[] = {
            { FAN_EVENT_PENDING, "0" },
            { FAN_EVENT_PROCESSING, "1" },
            { FAN_EVENT_FAILED, "3" },
        };
        for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
            char sql[128];
            struct fan_query query = { .has_status = true, .status = cases[i].status };
            query.newest_first = down == 1;
            snprintf(sql, sizeof(sql), "SELECT count(*) FROM plan.delivery WHERE status = %s",
                     cases[i].rows);
            assert_int_equal(list_all(fixture, &query), ask(fixture, sql));
            query.user_id = 8;
            snprintf(sql, sizeof(sql),
                     "SELECT count(*) FROM plan.delivery d JOIN plan.event e ON e.seq = d.seq "
                     "WHERE d.status = %s AND e.user_id = 8",
                     cases[i].rows);
            assert_int_equal(list_all(fixture, &query), ask(fixture, sql));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_P20_no_statement_scans_a_table),
        cmocka_unit_test(test_P20_work_of_groups_is_bounded_by_what_it_gives),
        cmocka_unit_test(test_P16_sums_do_not_look_at_what_is_owed),
        cmocka_unit_test(test_P05_lists_by_status_go_by_pieces),
        cmocka_unit_test(test_L6_a_session_is_as_the_provider_means_it),
        cmocka_unit_test(test_R01_a_session_that_was_exchanged_is_given_up),
    };
    return cmocka_run_group_tests(tests, start, end);
}
