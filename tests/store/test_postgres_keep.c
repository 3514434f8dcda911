/* Keeping a log in PostgreSQL: damage is found, groups go in slices, copies get an epoch. */
#include "postgres.h"
#include "test.h"

#include <fanfare/batch.h>
#include <fanfare/env.h>
#include <fanfare/group.h>
#include <fanfare/keep.h>

#include <inttypes.h>
#include <libpq-fe.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct test_postgres server;
static const struct fan_group_name name = { "g", "h" };

static double now_s(void)
{
    const struct fan_env *env = fan_env_default();
    return (double)env->monotonic_ns(env->context) / 1e9;
}

static int start(void **state)
{
    (void)state;
    return test_postgres_start(&server, NULL) ? 0 : -1;
}

static int end(void **state)
{
    (void)state;
    test_postgres_end(&server);
    return 0;
}

static struct fan_store *open_store(const char *options)
{
    char uri[256];
    char all[160];
    struct fan_store *store = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    snprintf(all, sizeof(all), "%s%s", options,
             strstr(options, "timeout_ms") ? "" : "&timeout_ms=30000");
    test_postgres_uri(&server, all, uri, sizeof(uri));
    if (fan_store_open(uri, NULL, &store, &error) != FAN_OK)
        fail_msg("%s", error.message);
    return store;
}

static PGconn *connect_server(void)
{
    char uri[256];
    snprintf(uri, sizeof(uri), "postgres://fan@/fan?host=%s&port=%u", server.folder, server.port);
    return PQconnectdb(uri);
}

/* Runs SQL as an operator would; gives the first number of the first row, if there is one. */
static int64_t sql(const char *text)
{
    PGconn *conn = connect_server();
    PGresult *result = PQexec(conn, text);
    ExecStatusType status = PQresultStatus(result);
    if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK)
        fail_msg("%s", PQerrorMessage(conn));
    int64_t number = PQntuples(result) > 0 ? strtoll(PQgetvalue(result, 0, 0), NULL, 10) : 0;
    PQclear(result);
    PQfinish(conn);
    return number;
}

static void put_many(struct fan_store *store, size_t count, const char *topic)
{
    struct fan_append items[500] = { { .event = NULL } };
    assert_true(count <= 500);
    struct fan_event *events[500];
    for (size_t i = 0; i < count; i++) {
        char text[32];
        snprintf(text, sizeof(text), "%s-%zu", topic, i % 50);
        const struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE,
                                               .type = "a.b.c",
                                               .topic = text };
        assert_ok(fan_event_new(&draft, NULL, &events[i], NULL));
        items[i].event = events[i];
    }
    assert_ok(fan_store_append(store, items, count, NULL));
    for (size_t i = 0; i < count; i++)
        fan_event_free(events[i], NULL);
}

/* Claims and settles all that is there for the group. */
static void work_off(struct fan_store *store, bool ordered)
{
    struct fan_batch *batch = NULL;
    struct fan_claim claims[100];
    struct fan_settle items[100];
    const struct fan_claim_options options = {
        .size = FAN_CLAIM_OPTIONS_SIZE, .owner = "me", .limit = 100, .ordered = ordered
    };
    assert_ok(fan_batch_new(NULL, &batch));
    enum fan_status status;
    while ((status = fan_group_claim(store, &name, &options, batch, claims)) == FAN_OK) {
        size_t count = fan_batch_count(batch);
        for (size_t i = 0; i < count; i++)
            items[i] = (struct fan_settle){ .seq = claims[i].seq, .token = claims[i].token };
        assert_ok(fan_group_settle(store, &name, items, count));
    }
    assert_int_equal(status, FAN_AGAIN);
    fan_batch_free(batch);
}

struct findings {
    char text[2000];
    size_t count;
};

static bool see_finding(void *context, const struct fan_finding *finding)
{
    struct findings *findings = context;
    size_t size = strlen(findings->text);
    snprintf(findings->text + size, sizeof(findings->text) - size, "%s %" PRIu64 " %s\n",
             finding->part, finding->seq, finding->words);
    findings->count++;
    return findings->count < 20;
}

static void assert_sound(struct fan_store *store)
{
    struct findings findings = { .count = 0 };
    if (fan_store_verify(store, see_finding, &findings, NULL) != FAN_OK)
        fail_msg("%s", findings.text);
}

static void assert_found(struct fan_store *store, const char *expected)
{
    struct findings findings = { .count = 0 };
    struct fan_error error = FAN_ERROR_INIT;
    assert_int_equal(fan_store_verify(store, see_finding, &findings, &error), FAN_CORRUPT);
    if (!strstr(findings.text, expected))
        fail_msg("not among what was found: %s\n%s", expected, findings.text);
    assert_non_null(strstr(error.message, "faults"));
}

static struct fan_store *filled(const char *options, bool ordered)
{
    struct fan_store *store = open_store(options);
    const struct fan_group_options group_options = { .size = FAN_GROUP_OPTIONS_SIZE };
    assert_ok(fan_group_create(store, &name, &group_options, NULL));
    put_many(store, 200, "t");
    work_off(store, ordered);
    put_many(store, 20, "t");
    assert_sound(store);
    return store;
}

static void test_P24_damage_in_postgres_is_found(void **state)
{
    (void)state;
    static const struct {
        const char *damage;
        const char *words;
        const char *repair;
    } damages[] = {
        { "UPDATE damaged.event SET series = series + 1000000 WHERE seq = 7",
          "event 7 cannot be rebuilt",
          "UPDATE damaged.event SET series = series - 1000000 "
          "WHERE seq = 7" },
        { "UPDATE damaged.event SET payload = '{' WHERE seq = 8", "event 8 is not legal",
          "UPDATE damaged.event SET payload = 'null' WHERE seq = 8" },
        { "INSERT INTO damaged.delivery(seq, grp, status, attempts, token, due_us) "
          "VALUES(999, 1, 0, 1, 1, 1)",
          "delivery 999 is of an event that is not there",
          "DELETE FROM damaged.delivery WHERE seq = 999" },
        { "INSERT INTO damaged.delivery(seq, grp, status, attempts, token, due_us) "
          "VALUES(5, 999, 0, 1, 1, 1)",
          "delivery 5 is of the group 999, which is not there",
          "DELETE FROM damaged.delivery WHERE grp = 999" },
        { "UPDATE damaged.tally SET completed = completed + 3", "completed deliveries",
          "UPDATE damaged.tally SET completed = completed - 3" },
        { "UPDATE damaged.grp SET cursor = 500", "has its cursor past the head",
          "UPDATE damaged.grp SET cursor = 200" },
        { "UPDATE damaged.meta SET value = 5 WHERE key = 'removed'", "counts 215 events",
          "UPDATE damaged.meta SET value = 0 WHERE key = 'removed'" },
        { "UPDATE damaged.mark SET seq = seq + 1000", "lies past the head",
          "UPDATE damaged.mark SET seq = seq - 1000" },
    };
    struct fan_store *store = filled("schema=damaged", false);
    for (size_t i = 0; i < sizeof(damages) / sizeof(*damages); i++) {
        sql(damages[i].damage);
        assert_found(store, damages[i].words);
        sql(damages[i].repair);
        assert_sound(store);
    }
    fan_store_close(store);
}

static void test_P05_a_deleted_group_in_postgres_leaves_no_rows(void **state)
{
    (void)state;
    struct fan_store *store = filled("schema=dropped&poll_ms=60000", true);
    assert_true(sql("SELECT count(*) FROM dropped.delivery") >= 200);
    /* Enough for several slices. Who deletes it waits for none, which cannot end here. */
    sql("INSERT INTO dropped.delivery(seq, grp, status, attempts, token, due_us) "
        "SELECT i, (SELECT id FROM dropped.grp), 2, 1, 0, 0 "
        "FROM generate_series(1000000, 1004999) i");
    PGconn *conn = connect_server();
    PQclear(PQexec(conn, "BEGIN"));
    PQclear(PQexec(conn, "SELECT 1 FROM dropped.delivery WHERE seq = 1004999 FOR UPDATE"));
    assert_ok(fan_group_delete(store, &name));
    put_many(store, 1, "t");
    assert_true(sql("SELECT count(*) FROM dropped.delivery") > 0);
    PQfinish(conn);
    /* At once, and not with the next look at the head. */
    double end_s = now_s() + 30;
    while (sql("SELECT count(*) FROM dropped.dropped") > 0)
        assert_true(now_s() < end_s);
    assert_int_equal(sql("SELECT count(*) FROM dropped.delivery"), 0);
    assert_int_equal(sql("SELECT count(*) FROM dropped.tally"), 0);
    assert_sound(store);
    fan_store_close(store);
    /* What a process leaves that dies in the middle is cleared by who opens the log next. */
    sql("INSERT INTO dropped.dropped(grp, after_seq) VALUES(99, 0)");
    sql("INSERT INTO dropped.delivery(seq, grp, status, attempts, token, due_us) "
        "VALUES(1, 99, 2, 1, 0, 0)");
    store = open_store("schema=dropped");
    while (sql("SELECT count(*) FROM dropped.dropped") > 0)
        continue;
    assert_int_equal(sql("SELECT count(*) FROM dropped.delivery"), 0);
    fan_store_close(store);
}

/* A group that went while its rows did not: they count for nothing, and retention clears them. */
static void test_P11_what_a_group_leaves_in_postgres_goes_by_slices(void **state)
{
    (void)state;
    struct fan_store *store = filled("schema=slices", true);
    int64_t rows = sql("SELECT count(*) FROM slices.delivery");
    sql("WITH gone AS (DELETE FROM slices.grp RETURNING id) "
        "INSERT INTO slices.dropped(grp, after_seq) SELECT id, 0 FROM gone");
    struct fan_store_stats stats = { .size = sizeof(stats) };
    assert_ok(fan_store_stats(store, &stats));
    assert_int_equal(stats.completed, 220);
    assert_sound(store);
    const struct fan_retention retention = { .size = FAN_RETENTION_SIZE,
                                             .count = 1000,
                                             .limit = 30 };
    struct fan_retained retained = { .size = sizeof(retained), .more = true };
    size_t calls = 0;
    while (retained.more) {
        assert_ok(fan_store_retain(store, &retention, &retained, NULL));
        int64_t left = sql("SELECT count(*) FROM slices.delivery");
        assert_true(rows - left <= 30);
        rows = left;
        calls++;
        assert_sound(store);
    }
    assert_true(calls > 5);
    assert_int_equal(rows, 0);
    assert_int_equal(sql("SELECT count(*) FROM slices.dropped"), 0);
    fan_store_close(store);
}

static void test_P11_series_out_of_use_are_forgotten_in_postgres(void **state)
{
    (void)state;
    struct fan_store *store = open_store("schema=series");
    struct fan_store *other = open_store("schema=series");
    for (int i = 0; i < 8; i++) {
        char topic[16];
        snprintf(topic, sizeof(topic), "round%d", i);
        put_many(i % 2 ? store : other, 500, topic);
    }
    assert_int_equal(sql("SELECT count(*) FROM series.series"), 400);
    const struct fan_retention retention = { .size = FAN_RETENTION_SIZE, .count = 500 };
    struct fan_retained retained = { .size = sizeof(retained), .more = true };
    while (retained.more)
        assert_ok(fan_store_retain(store, &retention, &retained, NULL));
    assert_int_equal(sql("SELECT count(*) FROM series.series"), 50);
    /* Both know series by heart that are gone. */
    put_many(store, 50, "round0");
    put_many(other, 50, "round1");
    assert_int_equal(sql("SELECT count(*) FROM series.series"), 150);
    assert_sound(store);
    fan_store_close(other);
    fan_store_close(store);
}

/*
 * Series that are forgotten again and again, as long as the view stands: what is not stored puts
 * off no mark of time, so that what is stored next is young.
 */
static void test_P11_what_was_not_stored_puts_off_no_mark(void **state)
{
    (void)state;
    struct fan_store *store = open_store("schema=puts");
    put_many(store, 1, "t");
    fan_store_close(store);
    sql("UPDATE puts.mark SET us = us - 3600000000");
    store = open_store("schema=puts");
    sql("CREATE SEQUENCE puts.sweeps; ALTER TABLE puts.meta RENAME TO meta_there; "
        "CREATE VIEW puts.meta AS SELECT key, CASE key WHEN 'series_swept' "
        "THEN nextval('puts.sweeps') ELSE value END AS value FROM puts.meta_there");
    const struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
    struct fan_append item = { .event = NULL };
    struct fan_event *event = NULL;
    assert_ok(fan_event_new(&draft, NULL, &event, NULL));
    item.event = event;
    assert_int_equal(fan_store_append(store, &item, 1, NULL), FAN_UNAVAILABLE);
    sql("DROP VIEW puts.meta; ALTER TABLE puts.meta_there RENAME TO meta");
    assert_ok(fan_store_append(store, &item, 1, NULL));
    assert_int_equal(item.ret_seq, 2);
    fan_event_free(event, NULL);
    const struct fan_retention retention = { .size = FAN_RETENTION_SIZE, .age_ms = 1800000 };
    struct fan_retained retained = { .size = sizeof(retained) };
    assert_ok(fan_store_retain(store, &retention, &retained, NULL));
    assert_int_equal(retained.removed, 1);
    assert_int_equal(sql("SELECT seq FROM puts.event"), 2);
    fan_store_close(store);
}

/* What has no mark of its own came within a second of the last one, whichever process set that. */
static void test_P11_marks_are_right_when_processes_share_postgres(void **state)
{
    (void)state;
    struct fan_store *store = open_store("schema=marks");
    struct fan_store *other = NULL;
    int64_t seq = 1;
    put_many(store, 1, "t");
    /* On a busy machine the second may be over before the other process appends. */
    do {
        fan_store_close(other);
        other = open_store("schema=marks");
        sql("UPDATE marks.mark SET us = 1000000 * extract(epoch FROM clock_timestamp()) - 500000 "
            "WHERE seq = (SELECT max(seq) FROM marks.mark)");
        put_many(other, 1, "t");
        seq++;
    } while (sql("SELECT max(seq) FROM marks.mark") == seq);
    while (sql("SELECT (max(us) + 1050000 > 1000000 * extract(epoch FROM clock_timestamp()))::int "
               "FROM marks.mark") != 0)
        continue;
    put_many(other, 1, "t");
    assert_true(sql("SELECT max(seq) FROM marks.mark") >= seq);
    fan_store_close(other);
    fan_store_close(store);
}

/* A settlement goes on behind the first claim that keeps order, which parks what comes after. */
static void *settle_one(void *context)
{
    struct fan_settle *item = context;
    struct fan_store *store = open_store("schema=settle");
    enum fan_status status = fan_group_settle(store, &name, item, 1);
    fan_store_close(store);
    return status == FAN_OK && item->ret_status == FAN_OK ? item : NULL;
}

static void test_H04_a_settlement_beside_the_first_ordered_claim(void **state)
{
    (void)state;
    struct fan_store *store = open_store("schema=settle");
    const struct fan_group_options group_options = { .size = FAN_GROUP_OPTIONS_SIZE };
    struct fan_claim_options options = { .size = FAN_CLAIM_OPTIONS_SIZE,
                                         .owner = "me",
                                         .limit = 1 };
    struct fan_batch *batch = NULL;
    struct fan_claim claim;
    pthread_t thread;
    void *settled = NULL;
    assert_ok(fan_batch_new(NULL, &batch));
    assert_ok(fan_group_create(store, &name, &group_options, NULL));
    put_many(store, 1, "t");
    put_many(store, 1, "t");
    assert_ok(fan_group_claim(store, &name, &options, batch, &claim));
    /* What such a claim writes, in the middle of it. */
    PGconn *conn = connect_server();
    PQclear(PQexec(conn, "BEGIN; SELECT 1 FROM settle.grp FOR UPDATE; "
                         "UPDATE settle.delivery SET key = hashtextextended('t-0', 0), "
                         "part = hashtextextended('t-0', 0) & 63; "
                         "INSERT INTO settle.delivery(seq, grp, status, attempts, token, due_us, "
                         "key, part, parked) SELECT 2, grp, 0, 0, 0, 0, key, part, true "
                         "FROM settle.delivery; "
                         "UPDATE settle.grp SET ordered = true, cursor = 2"));
    assert_int_equal(PQtransactionStatus(conn), PQTRANS_INTRANS);
    struct fan_settle item = { .seq = claim.seq, .token = claim.token };
    assert_int_equal(pthread_create(&thread, NULL, settle_one, &item), 0);
    while (sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") == 0)
        continue;
    PQclear(PQexec(conn, "COMMIT"));
    PQfinish(conn);
    pthread_join(thread, &settled);
    assert_non_null(settled);
    options.ordered = true;
    assert_ok(fan_group_claim(store, &name, &options, batch, &claim));
    assert_int_equal(claim.seq, 2);
    assert_sound(store);
    fan_batch_free(batch);
    fan_store_close(store);
}

static int64_t tomorrow_us(void *context)
{
    (void)context;
    const struct fan_env *real = fan_env_default();
    return real->wall_us(real->context) + INT64_C(86400000000);
}

static void *accept_clock(void *context)
{
    return fan_store_accept_clock(context, NULL) == FAN_OK ? context : NULL;
}

/* Two operators, or one with two programs: the clock and the marks move once. */
static void test_R02_a_clock_is_accepted_once(void **state)
{
    (void)state;
    struct fan_env env = *fan_env_default();
    struct fan_store *stores[2] = { NULL };
    pthread_t threads[2];
    char uri[256];
    env.wall_us = tomorrow_us;
    test_postgres_uri(&server, "schema=accept&timeout_ms=30000", uri, sizeof(uri));
    for (size_t i = 0; i < 2; i++)
        assert_ok(fan_store_open(uri, &env, &stores[i], NULL));
    put_many(stores[0], 1, "t");
    const struct fan_retention retention = { .size = FAN_RETENTION_SIZE, .age_ms = 3600000 };
    struct fan_retained retained = { .size = sizeof(retained) };
    assert_int_equal(fan_store_retain(stores[0], &retention, &retained, NULL), FAN_CONFLICT);
    PGconn *conn = connect_server();
    PQclear(PQexec(conn, "BEGIN; SELECT 1 FROM accept.clock FOR UPDATE"));
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, accept_clock, stores[i]), 0);
    while (sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") < 2)
        continue;
    PQclear(PQexec(conn, "COMMIT"));
    PQfinish(conn);
    for (size_t i = 0; i < 2; i++) {
        void *accepted = NULL;
        pthread_join(threads[i], &accepted);
        assert_non_null(accepted);
    }
    for (size_t i = 0; i < 2; i++) {
        assert_ok(fan_store_retain(stores[i], &retention, &retained, NULL));
        assert_int_equal(retained.removed, 0);
    }
    for (size_t i = 0; i < 2; i++)
        fan_store_close(stores[i]);
}

static void test_P24_copies_are_postgres_own_and_get_an_epoch(void **state)
{
    (void)state;
    char uri[256];
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_store *store = filled("schema=copied", false);
    uint64_t epoch = fan_store_epoch(store);
    assert_int_equal(fan_store_backup(store, "/tmp/nowhere", &error), FAN_UNSUPPORTED);
    assert_non_null(strstr(error.message, "pg_dump"));
    test_postgres_uri(&server, "schema=other", uri, sizeof(uri));
    assert_int_equal(fan_store_restore("/tmp/nowhere", uri, NULL, &error), FAN_UNSUPPORTED);
    assert_non_null(strstr(error.message, "new_epoch"));
    fan_store_close(store);
    assert_int_not_equal(sql("SELECT copied.new_epoch()"), 0);
    store = open_store("schema=copied");
    assert_int_not_equal(fan_store_epoch(store), epoch);
    assert_sound(store);
    fan_store_close(store);
}

/* A process that stands still in the middle of a claim, as one that was stopped. */
static void test_R01_a_claim_that_stands_still_holds_up_no_append(void **state)
{
    (void)state;
    char uri[256];
    struct fan_store *store = filled("schema=still&timeout_ms=1500", false);
    snprintf(uri, sizeof(uri), "postgres://fan@/fan?host=%s&port=%u", server.folder, server.port);
    PGconn *conn = PQconnectdb(uri);
    PQclear(PQexec(conn, "BEGIN; SELECT 1 FROM still.grp FOR UPDATE; "
                         "UPDATE still.clock SET high_us = high_us + 1"));
    assert_int_equal(PQtransactionStatus(conn), PQTRANS_INTRANS);
    /* Past the second after which an append tells the log how far the clock came. */
    double until_s = now_s() + 1.5;
    while (now_s() < until_s)
        put_many(store, 1, "t");
    struct fan_batch *batch = NULL;
    struct fan_claim claim;
    const struct fan_claim_options options = { .size = FAN_CLAIM_OPTIONS_SIZE, .owner = "me" };
    assert_ok(fan_batch_new(NULL, &batch));
    assert_int_equal(fan_group_claim(store, &name, &options, batch, &claim), FAN_UNAVAILABLE);
    PQclear(PQexec(conn, "ROLLBACK"));
    PQfinish(conn);
    assert_ok(fan_group_claim(store, &name, &options, batch, &claim));
    fan_batch_free(batch);
    fan_store_close(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_P24_damage_in_postgres_is_found),
        cmocka_unit_test(test_P05_a_deleted_group_in_postgres_leaves_no_rows),
        cmocka_unit_test(test_P11_what_a_group_leaves_in_postgres_goes_by_slices),
        cmocka_unit_test(test_P11_series_out_of_use_are_forgotten_in_postgres),
        cmocka_unit_test(test_P11_what_was_not_stored_puts_off_no_mark),
        cmocka_unit_test(test_P11_marks_are_right_when_processes_share_postgres),
        cmocka_unit_test(test_H04_a_settlement_beside_the_first_ordered_claim),
        cmocka_unit_test(test_R02_a_clock_is_accepted_once),
        cmocka_unit_test(test_P24_copies_are_postgres_own_and_get_an_epoch),
        cmocka_unit_test(test_R01_a_claim_that_stands_still_holds_up_no_append),
    };
    return cmocka_run_group_tests(tests, start, end);
}
