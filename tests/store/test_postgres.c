/* The PostgreSQL provider over a real server. */
#include "postgres.h"
#include "test.h"

#include <fanfare/group.h>
#include <fanfare/store.h>

#include <libpq-fe.h>
#include <stdio.h>
#include <string.h>

static struct test_postgres server;

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
    struct fan_store *store = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    test_postgres_uri(&server, options, uri, sizeof(uri));
    if (fan_store_open(uri, NULL, &store, &error) != FAN_OK)
        fail_msg("%s", error.message);
    return store;
}

static void test_P07_a_log_is_made_once_and_keeps_its_epoch(void **state)
{
    (void)state;
    struct fan_store *first = open_store("schema=made%20once&table=a%22b");
    struct fan_store *second = open_store("schema=made%20once&table=a%22b");
    struct fan_store *other = open_store("schema=made%20once&table=c");
    assert_string_equal(fan_store_name(first), "postgres");
    assert_int_equal(fan_store_epoch(first), fan_store_epoch(second));
    assert_int_not_equal(fan_store_epoch(first), fan_store_epoch(other));
    fan_store_close(first);
    fan_store_close(second);
    fan_store_close(other);
}

static void run(const char *sql, char *value, size_t size)
{
    char info[128];
    snprintf(info, sizeof(info), "host=%s port=%u user=fan dbname=fan", server.folder, server.port);
    PGconn *conn = PQconnectdb(info);
    PQclear(PQexec(conn, "SET client_min_messages = error"));
    PGresult *result = PQexec(conn, sql);
    if (PQresultStatus(result) == PGRES_FATAL_ERROR)
        fail_msg("%s: %s", sql, PQresultErrorMessage(result));
    snprintf(value, size, "%s", PQntuples(result) > 0 ? PQgetvalue(result, 0, 0) : "");
    PQclear(result);
    PQfinish(conn);
}

static void put(struct fan_store *store, const char *id, uint64_t seq)
{
    const struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE,
                                           .type = "a.b.create",
                                           .id = id };
    struct fan_event *event = NULL;
    assert_ok(fan_event_new(&draft, NULL, &event, NULL));
    struct fan_append item = { .event = event };
    assert_ok(fan_store_append(store, &item, 1, NULL));
    assert_int_equal(item.ret_seq, seq);
    fan_event_free(event, NULL);
}

static void test_P20_names_are_ones_own(void **state)
{
    (void)state;
    char value[64];
    struct fan_store *store = open_store("schema=o'dd%20%22x%22&table=It's@%23&channel=a@%23b'%22");
    struct fan_store *other = open_store("schema=o'dd%20%22x%22&table=It's@%23&channel=a@%23b'%22");
    put(store, "one", 1);
    put(other, "two", 2);
    while (fan_store_wait(store, 1, 1000) != FAN_OK)
        continue;
    struct fan_store_stats stats = { .size = sizeof(stats) };
    assert_ok(fan_store_stats(store, &stats));
    assert_int_equal(stats.events, 2);
    run("SELECT count(*) FROM \"o'dd \"\"x\"\"\".\"It's@#\"", value, sizeof(value));
    assert_string_equal(value, "2");
    fan_store_close(store);
    fan_store_close(other);
}

static void test_L10_the_head_never_goes_back_over_postgres(void **state)
{
    (void)state;
    char value[64];
    uint64_t head_seq = 0;
    struct fan_store *store = open_store("schema=head");
    put(store, "one", 1);
    put(store, "two", 2);
    run("DELETE FROM head.event WHERE seq = 2", value, sizeof(value));
    assert_ok(fan_store_head(store, &head_seq));
    assert_int_equal(head_seq, 2);
    put(store, "three", 3);
    run("DELETE FROM head.event", value, sizeof(value));
    put(store, "four", 4);
    struct fan_store_stats stats = { .size = sizeof(stats) };
    assert_ok(fan_store_stats(store, &stats));
    assert_int_equal(stats.events, 1);
    fan_store_close(store);
}

/*
 * Whoever sets the server's clock moves nothing: to the log it is the same as if its offset were
 * another.
 */
static void test_R02_setting_the_servers_clock_moves_no_lease(void **state)
{
    (void)state;
    char value[64];
    uint64_t fence = 0;
    uint64_t other = 0;
    struct fan_store *store = open_store("schema=clock");
    struct fan_store *second = open_store("schema=clock");
    assert_ok(fan_lease_acquire(store, "lease", "a", 60000, &fence));
    run("UPDATE clock.clock SET offset_us = offset_us + 7200000000", value, sizeof(value));
    assert_int_equal(fan_lease_acquire(second, "lease", "b", 1000, &other), FAN_EXISTS);
    assert_ok(fan_lease_renew(store, "lease", "a", fence, 60000));
    run("SELECT generation || ' ' || abs(offset_us) / 10000000 FROM clock.clock", value,
        sizeof(value));
    assert_string_equal(value, "2 0");
    run("UPDATE clock.clock SET offset_us = offset_us - 86400000000", value, sizeof(value));
    assert_ok(fan_lease_renew(store, "lease", "a", fence, 1));
    while (fan_lease_acquire(second, "lease", "b", 1000, &other) == FAN_EXISTS)
        continue;
    assert_true(other > fence);
    run("SELECT generation || ' ' || abs(offset_us) / 10000000 FROM clock.clock", value,
        sizeof(value));
    assert_string_equal(value, "3 0");
    fan_store_close(store);
    fan_store_close(second);
}

/* Another log in its place is not the one that cursors were given for. */
/*
 * Batches that follow one another closely have one notice between them. Whoever listens hears of
 * each all the same, long before it would look by itself, also of one that took its time.
 */
static void test_P10_what_has_no_notice_of_its_own_is_heard_of(void **state)
{
    (void)state;
    char value[64];
    struct fan_store *store = open_store("schema=told");
    struct fan_store *other = open_store("schema=told&poll_ms=60000");
    run("CREATE FUNCTION told.slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF NEW.seq % 4 = 0 THEN PERFORM pg_sleep(0.03); END IF; RETURN NULL; END $$; "
        "CREATE TRIGGER slow AFTER INSERT ON told.event FOR EACH ROW EXECUTE FUNCTION told.slow()",
        value, sizeof(value));
    for (uint64_t seq = 1; seq <= 40; seq++) {
        char id[16];
        snprintf(id, sizeof(id), "e%d", (int)seq);
        put(store, id, seq);
        if (seq % 2 == 0)
            assert_ok(fan_store_wait(other, seq - 1, 10000));
    }
    fan_store_close(store);
    fan_store_close(other);
}

static void test_P13_a_log_that_was_made_anew_is_another(void **state)
{
    (void)state;
    char value[64];
    char uri[256];
    struct fan_store *store = open_store("schema=anew");
    put(store, "one", 1);
    run("DROP SCHEMA anew CASCADE", value, sizeof(value));
    struct fan_store *fresh = open_store("schema=anew");
    assert_int_not_equal(fan_store_epoch(fresh), fan_store_epoch(store));
    assert_true(test_postgres_tell(&server, "cut"));
    uint64_t head_seq = 0;
    assert_int_equal(fan_store_head(store, &head_seq), FAN_CORRUPT);
    put(fresh, "one", 1);
    fan_store_close(store);
    fan_store_close(fresh);
    test_postgres_uri(&server, "schema=anew", uri, sizeof(uri));
    assert_ok(fan_store_open(uri, NULL, &store, NULL));
    fan_store_close(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_P07_a_log_is_made_once_and_keeps_its_epoch),
        cmocka_unit_test(test_P20_names_are_ones_own),
        cmocka_unit_test(test_L10_the_head_never_goes_back_over_postgres),
        cmocka_unit_test(test_R02_setting_the_servers_clock_moves_no_lease),
        cmocka_unit_test(test_P10_what_has_no_notice_of_its_own_is_heard_of),
        cmocka_unit_test(test_P13_a_log_that_was_made_anew_is_another),
    };
    return cmocka_run_group_tests(tests, start, end);
}
