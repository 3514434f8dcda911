/* The PostgreSQL provider over a real server. */
#include "postgres.h"
#include "test.h"

#include <fanfare/batch.h>
#include <fanfare/group.h>
#include <fanfare/keep.h>
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
    char all[160];
    struct fan_store *store = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    snprintf(all, sizeof(all), "%s&timeout_ms=30000", options);
    test_postgres_uri(&server, all, uri, sizeof(uri));
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

/* What psql would show, the words of an error included. */
static bool run_if(const char *sql, char *value, size_t size)
{
    char info[128];
    snprintf(info, sizeof(info), "host=%s port=%u user=fan dbname=fan", server.folder, server.port);
    PGconn *conn = PQconnectdb(info);
    PQclear(PQexec(conn, "SET client_min_messages = error"));
    PGresult *result = PQexec(conn, sql);
    bool good = PQresultStatus(result) != PGRES_FATAL_ERROR;
    const char *first = PQntuples(result) > 0 ? PQgetvalue(result, 0, 0) : "";
    snprintf(value, size, "%s", good ? first : PQresultErrorMessage(result));
    PQclear(result);
    PQfinish(conn);
    return good;
}

static void run(const char *sql, char *value, size_t size)
{
    if (!run_if(sql, value, size))
        fail_msg("%s: %s", sql, value);
}

static enum fan_status try_put(struct fan_store *store, const char *id, const char *topic,
                               uint64_t *ret_seq)
{
    const struct fan_event_draft draft = {
        .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.create", .topic = topic, .id = id
    };
    struct fan_event *event = NULL;
    assert_ok(fan_event_new(&draft, NULL, &event, NULL));
    struct fan_append item = { .event = event };
    enum fan_status status = fan_store_append(store, &item, 1, NULL);
    *ret_seq = item.ret_seq;
    fan_event_free(event, NULL);
    return status;
}

static void put(struct fan_store *store, const char *id, uint64_t seq)
{
    uint64_t given_seq = 0;
    assert_ok(try_put(store, id, NULL, &given_seq));
    assert_int_equal(given_seq, seq);
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
    assert_false(run_if("TRUNCATE head.event", value, sizeof(value)));
    assert_non_null(strstr(value, "use DELETE"));
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
    /* Its next look tells that what it wrote is there. */
    assert_ok(fan_lease_renew(store, "lease", "a", fence, 60000));
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

/* Who set it right in a transaction that came to nothing does not take another's clock for set. */
static void test_R02_what_was_not_committed_sets_no_clock_right(void **state)
{
    (void)state;
    char value[64];
    uint64_t fence = 0;
    struct fan_store *store = open_store("schema=undone");
    assert_ok(fan_lease_acquire(store, "lease", "a", 60000, &fence));
    run("UPDATE undone.clock SET offset_us = offset_us + 7200000000", value, sizeof(value));
    assert_int_equal(fan_lease_renew(store, "lease", "b", fence, 60000), FAN_LOST);
    run("SELECT generation FROM undone.clock", value, sizeof(value));
    assert_string_equal(value, "1");
    /* As when an operator accepts a clock that is a day ahead. */
    run("UPDATE undone.clock SET generation = generation + 1, offset_us = 86400000000", value,
        sizeof(value));
    assert_ok(fan_lease_acquire(store, "other", "a", 60000, &fence));
    run("SELECT generation || ' ' || abs(offset_us) / 10000000 FROM undone.clock", value,
        sizeof(value));
    assert_string_equal(value, "2 8640");
    run("SELECT count(*) FROM undone.lease WHERE name = 'other' "
        "AND until_us > 1000000 * extract(epoch FROM clock_timestamp()) + 86400000000",
        value, sizeof(value));
    assert_string_equal(value, "1");
    fan_store_close(store);
}

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

/*
 * A notice that went out just before somebody began to listen stands for what came right after it:
 * that is heard of all the same. Each round ends at another event, in a few of them just then.
 */
static void test_P10_who_begins_to_listen_behind_a_notice_hears_what_follows_it(void **state)
{
    (void)state;
    char id[16];
    uint64_t seq = 0;
    struct fan_store *store = open_store("schema=begun");
    for (int i = 0; i < 60; i++) {
        struct fan_store *other = open_store("schema=begun&poll_ms=60000");
        for (int j = 0; j <= i % 30; j++) {
            snprintf(id, sizeof(id), "e%d", (int)++seq);
            put(store, id, seq);
        }
        assert_ok(fan_store_wait(other, seq - 1, 10000));
        fan_store_close(other);
    }
    fan_store_close(store);
}

/* Everything that a store does on a log that is not the one it was opened for. */
static void assert_another(struct fan_store *store)
{
    uint64_t seq = 0;
    uint64_t fence = 0;
    struct fan_batch *batch = NULL;
    struct fan_claim claim;
    struct fan_read_result result;
    struct fan_settle settle = { .seq = 1, .token = 1 };
    struct fan_store_stats stats = { .size = sizeof(stats) };
    const struct fan_query query = { .size = FAN_QUERY_SIZE };
    const struct fan_group_name name = { "g", "h" };
    const struct fan_claim_options options = { .size = FAN_CLAIM_OPTIONS_SIZE, .owner = "me" };
    assert_ok(fan_batch_new(NULL, &batch));
    assert_int_equal(fan_group_delete(store, &name), FAN_CORRUPT);
    assert_int_equal(try_put(store, "more", "first", &seq), FAN_CORRUPT);
    assert_int_equal(try_put(store, "more", "first", &seq), FAN_CORRUPT);
    assert_int_equal(fan_store_head(store, &seq), FAN_CORRUPT);
    assert_int_equal(fan_store_read(store, 0, &query, batch, &result), FAN_CORRUPT);
    assert_int_equal(fan_store_get(store, "one", batch, NULL), FAN_CORRUPT);
    assert_int_equal(fan_store_delete(store, "one"), FAN_CORRUPT);
    assert_int_equal(fan_store_stats(store, &stats), FAN_CORRUPT);
    assert_int_equal(fan_group_claim(store, &name, &options, batch, &claim), FAN_CORRUPT);
    assert_int_equal(fan_group_settle(store, &name, &settle, 1), FAN_CORRUPT);
    assert_int_equal(fan_lease_acquire(store, "l", "me", 1000, &fence), FAN_CORRUPT);
    const struct fan_group_options group_options = { .size = FAN_GROUP_OPTIONS_SIZE };
    const struct fan_retention retention = { .size = FAN_RETENTION_SIZE, .count = 1 };
    struct fan_retained retained = { .size = sizeof(retained) };
    assert_int_equal(fan_group_create(store, &name, &group_options, NULL), FAN_CORRUPT);
    assert_int_equal(fan_group_move(store, &name, 1, FAN_EVENT_COMPLETED), FAN_CORRUPT);
    assert_int_equal(fan_group_renew(store, &name, &settle, 1, 1000), FAN_CORRUPT);
    assert_int_equal(fan_store_erase(store, "one"), FAN_CORRUPT);
    assert_int_equal(fan_store_retain(store, &retention, &retained, NULL), FAN_CORRUPT);
    assert_int_equal(fan_store_accept_clock(store, NULL), FAN_CORRUPT);
    fan_batch_free(batch);
}

static void assert_topic(const char *sql, const char *topic)
{
    char value[64];
    run(sql, value, sizeof(value));
    assert_string_equal(value, topic);
}

/*
 * Another log in its place is not the one that cursors were given for, nor are its series those
 * that are known by number: also to connections that live on.
 */
static void test_P13_a_log_that_was_made_anew_is_another(void **state)
{
    (void)state;
    char value[64];
    uint64_t seq = 0;
    struct fan_store *store = open_store("schema=anew");
    assert_ok(try_put(store, "one", "first", &seq));
    /* A connection that lives on. */
    assert_ok(fan_store_head(store, &seq));
    run("DROP SCHEMA anew CASCADE", value, sizeof(value));
    struct fan_store *fresh = open_store("schema=anew");
    assert_int_not_equal(fan_store_epoch(fresh), fan_store_epoch(store));
    assert_ok(try_put(fresh, "one", "another", &seq));
    const struct fan_group_name name = { "g", "h" };
    const struct fan_group_options options = { .size = FAN_GROUP_OPTIONS_SIZE };
    assert_ok(fan_group_create(fresh, &name, &options, NULL));
    assert_another(store);
    assert_true(test_postgres_tell(&server, "cut"));
    assert_int_equal(fan_store_head(store, &seq), FAN_CORRUPT);
    assert_ok(try_put(fresh, "two", "first", &seq));
    assert_topic("SELECT string_agg(topic, ' ' ORDER BY seq) FROM anew.events", "another first");
    assert_topic("SELECT name FROM anew.grp", "g");
    fan_store_close(store);
    assert_ok(fan_store_head(fresh, &seq));
    run("SELECT anew.new_epoch()", value, sizeof(value));
    assert_another(fresh);
    fan_store_close(fresh);
    store = open_store("schema=anew");
    assert_ok(try_put(store, "three", "first", &seq));
    assert_topic("SELECT string_agg(topic, ' ' ORDER BY seq) FROM anew.events",
                 "another first first");
    fan_store_close(store);
}

static bool see_error(void *context, const struct fan_delivery *delivery)
{
    snprintf(context, 32, "%s", delivery->error);
    return false;
}

/* What a handler says may be cut in the middle of a character: it holds up nobody. */
static void test_P04_words_that_are_no_text_are_kept_as_far_as_they_are(void **state)
{
    (void)state;
    struct fan_store *store = open_store("schema=words");
    const struct fan_group_name name = { "g", "h" };
    const struct fan_group_options group = { .size = FAN_GROUP_OPTIONS_SIZE };
    const struct fan_claim_options options = { .size = FAN_CLAIM_OPTIONS_SIZE,
                                               .owner = "me",
                                               .limit = 2 };
    struct fan_claim claims[2];
    struct fan_batch *batch = NULL;
    struct fan_event_state event_state;
    char error[32] = "";
    assert_ok(fan_batch_new(NULL, &batch));
    assert_ok(fan_group_create(store, &name, &group, NULL));
    put(store, "one", 1);
    put(store, "two", 2);
    assert_ok(fan_group_claim(store, &name, &options, batch, claims));
    struct fan_settle items[] = {
        { .seq = 1,
          .token = claims[0].token,
          .verdict = FAN_VERDICT_FAIL,
          .error = "gr\xc3\xbc\xff\xc3" },
        { .seq = 2, .token = claims[1].token },
    };
    assert_ok(fan_group_settle(store, &name, items, 2));
    assert_ok(items[0].ret_status);
    assert_ok(items[1].ret_status);
    assert_ok(fan_store_deliveries(store, 0, 0, see_error, error));
    assert_string_equal(error, "gr\xc3\xbc??");
    assert_ok(fan_store_deliveries(store, 0, INT64_MAX, see_error, error));
    assert_int_equal(fan_store_get(store, "\xff", batch, &event_state), FAN_NOT_FOUND);
    assert_int_equal(fan_store_delete(store, "\xff"), FAN_NOT_FOUND);
    fan_batch_free(batch);
    fan_store_close(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_P07_a_log_is_made_once_and_keeps_its_epoch),
        cmocka_unit_test(test_P20_names_are_ones_own),
        cmocka_unit_test(test_L10_the_head_never_goes_back_over_postgres),
        cmocka_unit_test(test_R02_setting_the_servers_clock_moves_no_lease),
        cmocka_unit_test(test_R02_what_was_not_committed_sets_no_clock_right),
        cmocka_unit_test(test_P10_what_has_no_notice_of_its_own_is_heard_of),
        cmocka_unit_test(test_P10_who_begins_to_listen_behind_a_notice_hears_what_follows_it),
        cmocka_unit_test(test_P13_a_log_that_was_made_anew_is_another),
        cmocka_unit_test(test_P04_words_that_are_no_text_are_kept_as_far_as_they_are),
    };
    return cmocka_run_group_tests(tests, start, end);
}
