/*
 * The outbox in the caller's own PostgreSQL transaction (H12), by C and by SQL, against a real
 * server: late commits, open transactions, cut connections and restarts lose and repeat nothing.
 */
#include "../seed.h"
#include "hearing.h"
#include "postgres_support.h"
#include "shaky.h"

#include <errno.h>
#include <sys/socket.h>

static void test_H12_postgres_what_is_committed_arrives_as_it_was(void **state)
{
    struct place *place = *state;
    PGconn *conn = outbox_made();
    struct fan_event_defaults defaults = FAN_EVENT_DEFAULTS_INIT;
    defaults.instance_id = "shop-1";
    run_pg(conn, "BEGIN");
    assert_ok(fan_outbox_postgres_record(conn, NULL, &whole_draft, &defaults, NULL));
    assert_ok(record_pg(conn, "second", "{\"n\": 1.0}"));
    run_pg(conn, "SELECT fan_outbox.publish('shop.orders.update', '{\"n\": 1.50}', 'orders:1',"
                 " id => 'third', source => 'system', user_id => 7, session_id => 'x',"
                 " metadata => '{\"k\": null}', deliver_at => '2023-11-14 22:13:21.5+00',"
                 " traceparent => '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01')");
    run_pg(conn, "COMMIT");
    struct fan_broker *broker = broker_started(place->uri);
    struct fan_reader *reader = read_all(broker);
    struct fan_outbox_relay *relay = relay_started_pg(broker);
    assert_whole(next_event(reader), "shop-1");
    const struct fan_event *event = next_event(reader);
    assert_string_equal(fan_event_id(event), "second");
    assert_payload(event, "{\"n\": 1.0}");
    event = next_event(reader);
    assert_string_equal(fan_event_id(event), "third");
    assert_string_equal(fan_event_type(event), "shop.orders.update");
    assert_string_equal(fan_event_topic(event), "orders:1");
    assert_payload(event, "{\"n\": 1.50}");
    assert_int_equal(fan_event_source(event), FAN_SOURCE_SYSTEM);
    assert_int_equal(fan_event_user_id(event), 7);
    assert_string_equal(fan_event_session_id(event), "x");
    assert_int_equal(fan_event_deliver_at_us(event), 1700000001500000);
    assert_string_equal(fan_event_traceparent(event), whole_draft.traceparent);
    assert_memory_equal(fan_event_metadata(event).data, "{\"k\": null}", 11);
    wait_until(waiting_pg(conn) == 0);
    wait_until(relay_stats(relay).rows == 0);
    fan_outbox_relay_free(relay);
    fan_reader_free(reader);
    fan_broker_free(broker);
    PQfinish(conn);
}

/* Moves all that can be moved, and checks what the log then has, as `id id ...`. */
static void assert_log(struct fan_broker *broker, struct fan_outbox_relay *relay,
                       const char *wanted)
{
    char ids[4096] = "";
    const struct fan_event *event;
    drain(relay);
    struct fan_batch *batch = NULL;
    assert_ok(fan_batch_new(NULL, &batch));
    struct fan_read_result result;
    assert_ok(fan_store_read(fan_broker_store(broker), 0, NULL, batch, &result));
    for (size_t i = 0; i < fan_batch_count(batch); i++) {
        event = fan_batch_event(batch, i);
        snprintf(ids + strlen(ids), sizeof(ids) - strlen(ids), "%s ", fan_event_id(event));
    }
    fan_batch_free(batch);
    assert_string_equal(ids, wanted);
}

static struct fan_broker *stepped(const struct place *place)
{
    struct fan_broker *broker = broker_open(place->uri, true);
    assert_ok(fan_broker_start(broker));
    return broker;
}

static void test_H12_postgres_what_is_rolled_back_never_was(void **state)
{
    PGconn *conn = outbox_made();
    run_pg(conn, "BEGIN");
    assert_ok(record_pg(conn, "gone", NULL));
    run_pg(conn, "ROLLBACK; BEGIN");
    assert_ok(record_pg(conn, "a", NULL));
    run_pg(conn, "SAVEPOINT one");
    assert_ok(record_pg(conn, "gone-one", NULL));
    run_pg(conn, "SELECT fan_outbox.publish('a.b.c', id => 'gone-too'); ROLLBACK TO one");
    assert_ok(record_pg(conn, "b", NULL));
    run_pg(conn, "SAVEPOINT two; SELECT fan_outbox.publish('a.b.c', id => 'c');"
                 "RELEASE two; COMMIT");
    assert_ok(record_pg(conn, "d", NULL)); /* a transaction of its own */
    struct fan_broker *broker = stepped(*state);
    struct fan_outbox_relay *relay = relay_opened_pg(broker, NULL);
    assert_log(broker, relay, "a b c d ");
    fan_outbox_relay_free(relay);
    fan_broker_free(broker);
    PQfinish(conn);
}

/* What is wrong, as a draft and as arguments of the SQL function, and the field that is told. */
static const struct {
    const char *arguments;
    const char *field;
    struct fan_event_draft draft;
} wrongs[] = {
    { "''", "type", { .type = "" } },
    { "NULL", "type", { .type = NULL } },
    { "'a..b'", "type", { .type = "a..b" } },
    { "'a.b c'", "type", { .type = "a.b c" } },
    { "'a.*'", "type", { .type = "a.*" } },
    { "E'a.\\u0085'", "type", { .type = "a.\xc2\x85" } },
    { "'fanfare.gap'", "type", { .type = "fanfare.gap" } },
    { "'a', id => ''", "id", { .type = "a", .id = "" } },
    { "'a', '[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1"
      "]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]'",
      "payload",
      { .type = "a",
        .payload = FAN_STR("[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1"
                           "]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]") } },
    { "'a', '1e400'", "payload", { .type = "a", .payload = FAN_STR("1e400") } },
    { "'a', metadata => '[]'", "metadata", { .type = "a", .metadata = FAN_STR("[]") } },
    { "'a', traceparent => '00-x'", "traceparent", { .type = "a", .traceparent = "00-x" } },
    { "'a', deliver_at => 'infinity'", "deliver_at", { .type = "a", .deliver_at_us = INT64_MAX } },
    { "'a', source => 'moon'", "source", { .type = "a", .source = (enum fan_source)9 } },
};

static void test_H12_P02_postgres_what_is_invalid_is_refused_alike_by_c_and_sql(void **state)
{
    (void)state;
    PGconn *conn = outbox_made();
    for (size_t i = 0; i < sizeof(wrongs) / sizeof(wrongs[0]); i++) {
        struct fan_event_draft draft = wrongs[i].draft;
        struct fan_error error = FAN_ERROR_INIT;
        char sql[512];
        draft.size = FAN_EVENT_DRAFT_SIZE;
        assert_int_equal(fan_outbox_postgres_record(conn, NULL, &draft, NULL, &error), FAN_INVALID);
        assert_string_equal(error.field, wrongs[i].field);
        snprintf(sql, sizeof(sql), "SELECT fan_outbox.publish(%s)", wrongs[i].arguments);
        PGresult *result = PQexec(conn, sql);
        assert_string_equal(PQresultErrorField(result, PG_DIAG_SQLSTATE), "22023");
        assert_string_equal(PQresultErrorField(result, PG_DIAG_COLUMN_NAME), wrongs[i].field);
        PQclear(result);
    }
    /* As deep, as large, as odd as is legal. */
    run_pg(conn, "SELECT fan_outbox.publish('a', (repeat('[', 64) || repeat(']', 64))::jsonb)");
    run_pg(conn, "SELECT fan_outbox.publish('a', to_jsonb(repeat('[', 1048574)))");
    run_pg(conn, "SELECT fan_outbox.publish('a', to_jsonb(repeat('\"9\\', 400)))");
    run_pg(conn, "SELECT fan_outbox.publish('a', ('0.' || repeat('9', 400))::jsonb)");
    run_pg(conn, "SELECT fan_outbox.publish(repeat('a', 255), '1e307')");
    run_pg(conn,
           "SELECT fan_outbox.publish('a', traceparent => 'cc-4bf92f3577b34da6a3ce929d0e0e4736-"
           "00f067aa0ba902b7-01')");
    PGresult *result =
        PQexec(conn, "SELECT fan_outbox.publish('a', to_jsonb(repeat('x', 1048575)))");
    assert_string_equal(PQresultErrorField(result, PG_DIAG_COLUMN_NAME), "payload");
    PQclear(result);
    result = PQexec(conn, "SELECT fan_outbox.publish(repeat('a', 256))");
    assert_string_equal(PQresultErrorField(result, PG_DIAG_COLUMN_NAME), "type");
    PQclear(result);
    struct fan_broker *broker = stepped(*state);
    struct fan_outbox_relay *relay = relay_opened_pg(broker, NULL);
    drain(relay);
    assert_int_equal(relay_stats(relay).published, 6);
    assert_int_equal(relay_stats(relay).set_aside, 0);
    fan_outbox_relay_free(relay);
    fan_broker_free(broker);
    PQfinish(conn);
}

static void test_H12_postgres_ids_that_are_made_are_uuids_of_version_7(void **state)
{
    (void)state;
    PGconn *conn = outbox_made();
    assert_int_equal(pg_number(conn, "SELECT count(DISTINCT id) FROM (SELECT fan_outbox.publish("
                                     "'a', to_jsonb(n)) AS id FROM generate_series(1, 1000) AS n)"
                                     " AS made WHERE id ~ '^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-"
                                     "[89ab][0-9a-f]{3}-[0-9a-f]{12}$'"),
                     1000);
    assert_int_equal(pg_number(conn, "SELECT count(*) FROM fan_outbox.event WHERE abs(extract("
                                     "epoch FROM recorded_at) * 1000 - ('x' || replace(left(id, 13"
                                     "), '-', ''))::bit(48)::bigint) > 1000"),
                     0);
    PQfinish(conn);
}

static void test_H12_postgres_a_connection_that_cannot_record_is_told(void **state)
{
    (void)state;
    PGconn *conn = outbox_made();
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a" };
    assert_int_equal(fan_outbox_postgres_record(conn, "no such", &draft, NULL, &error),
                     FAN_NOT_FOUND);
    assert_int_equal(fan_outbox_postgres_record(conn, "a$b", &draft, NULL, &error), FAN_INVALID);
    assert_string_equal(error.field, "table");
    run_pg(conn, "BEGIN");
    PQclear(PQexec(conn, "SELECT 1 / 0"));
    assert_int_equal(fan_outbox_postgres_record(conn, NULL, &draft, NULL, &error), FAN_MISUSE);
    run_pg(conn, "ROLLBACK; SET client_encoding = 'LATIN1'");
    assert_int_equal(fan_outbox_postgres_record(conn, NULL, &draft, NULL, &error), FAN_UNSUPPORTED);
    assert_non_null(strstr(error.message, "LATIN1"));
    run_pg(conn, "RESET client_encoding");
    run_as_root("DROP ROLE IF EXISTS app; CREATE ROLE app LOGIN");
    PGconn *app = connect_as("app", "fan");
    assert_int_equal(fan_outbox_postgres_record(app, NULL, &draft, NULL, &error), FAN_DENIED);
    assert_int_equal(fan_outbox_postgres_create(app, "mine", &error), FAN_DENIED);
    run_pg(conn, "GRANT USAGE ON SCHEMA fan_outbox TO app;"
                 "GRANT INSERT (id, event) ON fan_outbox.event TO app");
    assert_ok(fan_outbox_postgres_record(app, NULL, &draft, NULL, &error));
    run_pg(app, "SELECT fan_outbox.publish('a.b.c')");
    PQfinish(app);
    run_pg(conn, "CREATE SCHEMA mine; CREATE TABLE mine.event(n int)");
    assert_int_equal(fan_outbox_postgres_create(conn, "mine", &error), FAN_EXISTS);
    run_pg(conn, "DROP SCHEMA mine CASCADE; UPDATE fan_outbox.about SET format = 99");
    assert_int_equal(fan_outbox_postgres_create(conn, NULL, &error), FAN_TOO_NEW);
    run_as_root("DROP OWNED BY app; DROP ROLE app");
    PQfinish(conn);
}

static void test_H12_postgres_names_are_the_applications_choice(void **state)
{
    const char *name = "order \"events\"; '@' \\ --";
    PGconn *conn = connected();
    struct fan_error error = FAN_ERROR_INIT;
    if (fan_outbox_postgres_create(conn, name, &error) != FAN_OK)
        fail_msg("%s", error.message);
    assert_ok(fan_outbox_postgres_create(conn, name, NULL));
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b", .id = "one" };
    assert_ok(fan_outbox_postgres_record(conn, name, &draft, NULL, NULL));
    run_pg(conn, "SELECT \"order \"\"events\"\"; '@' \\ --\".publish('a', id => 'two')");
    struct fan_broker *broker = stepped(*state);
    struct fan_outbox_relay *relay =
        relay_opened_pg(broker, &(struct fan_outbox_relay_options){ .table = name });
    assert_log(broker, relay, "one two ");
    fan_outbox_relay_free(relay);
    fan_broker_free(broker);
    run_pg(conn, "DROP SCHEMA \"order \"\"events\"\"; '@' \\ --\" CASCADE");
    PQfinish(conn);
}

/* --- the horizon -------------------------------------------------------------------------- */

static void test_H12_L10_postgres_a_late_commit_is_not_skipped(void **state)
{
    PGconn *late = outbox_made();
    PGconn *early = connected();
    struct fan_broker *broker = stepped(*state);
    struct fan_outbox_relay *relay = relay_opened_pg(broker, NULL);
    run_pg(late, "BEGIN");
    assert_ok(record_pg(late, "late", NULL));
    run_pg(early, "BEGIN");
    assert_ok(record_pg(early, "early", NULL));
    run_pg(early, "COMMIT");
    assert_log(broker, relay, "");
    assert_true(relay_stats(relay).hidden_us > 0);
    run_pg(late, "COMMIT");
    assert_log(broker, relay, "late early ");
    assert_int_equal(relay_stats(relay).hidden_us, 0);
    /* And what was never to come holds up nothing once that is certain. */
    run_pg(late, "BEGIN");
    assert_ok(record_pg(late, "never", NULL));
    assert_ok(record_pg(early, "next", NULL));
    assert_log(broker, relay, "late early ");
    run_pg(late, "ROLLBACK");
    assert_log(broker, relay, "late early next ");
    /* A transaction that was prepared is an open one. */
    run_pg(early, "ALTER TABLE fan_outbox.event DISABLE TRIGGER wake");
    run_pg(late, "BEGIN");
    assert_ok(record_pg(late, "prepared", NULL));
    run_pg(late, "PREPARE TRANSACTION 'p'");
    assert_ok(record_pg(early, "behind", NULL));
    assert_log(broker, relay, "late early next ");
    run_pg(late, "COMMIT PREPARED 'p'");
    assert_log(broker, relay, "late early next prepared behind ");
    fan_outbox_relay_free(relay);
    fan_broker_free(broker);
    PQfinish(early);
    PQfinish(late);
}

static void test_H12_postgres_a_horizon_that_stands_still_is_told(void **state)
{
    struct place *place = *state;
    PGconn *conn = outbox_made();
    /* In another database of the same server, and with nothing of an outbox. */
    PGconn *other = PQconnectdb(uri_of("postgres", "postgres"));
    run_pg(other, "SET application_name = 'the culprit'; BEGIN; SELECT pg_current_xact_id()");
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    options.env = env_heard("outbox");
    struct fan_broker *broker = NULL;
    assert_ok(fan_broker_open(place->uri, &options, &broker, NULL));
    assert_ok(fan_broker_start(broker));
    struct fan_outbox_relay *relay = relay_opened_pg(
        broker, &(struct fan_outbox_relay_options){
                    .database = uri_of("postgres", "fan"), .alarm_ms = 20, .poll_ms = 5 });
    assert_ok(fan_outbox_relay_start(relay));
    assert_ok(record_pg(conn, "one", NULL));
    wait_until(has_heard("the culprit"));
    assert_true(relay_stats(relay).hidden_us > 0);
    assert_true(relay_stats(relay).lag_us > 0);
    assert_int_equal(relay_stats(relay).rows, 1);
    run_pg(other, "COMMIT");
    wait_until(waiting_pg(conn) == 0);
    wait_until(relay_stats(relay).hidden_us == 0);
    fan_outbox_relay_free(relay);
    fan_broker_free(broker);
    PQfinish(other);
    PQfinish(conn);
}

static void test_H12_postgres_a_dump_from_another_server_is_not_stuck(void **state)
{
    PGconn *conn = outbox_made();
    run_pg(conn, "INSERT INTO fan_outbox.event(xid, id, event) OVERRIDING SYSTEM VALUE VALUES "
                 "('1000000000000', 'from afar', '{\"type\": \"a.b\"}')");
    struct fan_broker *broker = stepped(*state);
    struct fan_outbox_relay *relay = relay_opened_pg(broker, NULL);
    assert_log(broker, relay, "from afar ");
    fan_outbox_relay_free(relay);
    fan_broker_free(broker);
    PQfinish(conn);
}

static void test_H12_postgres_no_lock_is_held_beyond_the_transaction(void **state)
{
    PGconn *one = outbox_made();
    PGconn *two = connected();
    run_pg(two, "SET lock_timeout = 1");
    for (int i = 0; i < 2; i++) {
        run_pg(one, "BEGIN");
        assert_ok(record_pg(one, NULL, NULL));
        run_pg(one, "SELECT fan_outbox.publish('a')");
        run_pg(two, "BEGIN");
        assert_ok(record_pg(two, NULL, NULL)); /* they do not wait for one another */
        run_pg(two, "SELECT fan_outbox.publish('a'); COMMIT");
        run_pg(one, i == 0 ? "COMMIT" : "ROLLBACK");
        run_pg(two, "BEGIN; LOCK TABLE fan_outbox.event IN ACCESS EXCLUSIVE MODE; COMMIT");
    }
    /* Nor while the relay is publishing: its broker's append stands still. */
    shaky_reset();
    struct fan_broker *broker = shaky_broker(*state, false);
    shaky.hold = true;
    struct fan_outbox_relay *relay = relay_started_pg(broker);
    pthread_mutex_lock(&shaky.mutex);
    while (!shaky.held)
        pthread_cond_wait(&shaky.news, &shaky.mutex);
    run_pg(two, "BEGIN; LOCK TABLE fan_outbox.event IN ACCESS EXCLUSIVE MODE; COMMIT");
    shaky.hold = false;
    pthread_cond_broadcast(&shaky.news);
    pthread_mutex_unlock(&shaky.mutex);
    wait_until(waiting_pg(one) == 0);
    fan_outbox_relay_free(relay);
    fan_broker_free(broker);
    PQfinish(two);
    PQfinish(one);
}

static void test_H12_postgres_a_poison_row_is_set_aside_and_holds_up_nothing(void **state)
{
    PGconn *conn = outbox_made();
    shaky_reset();
    shaky.refuse = "bad";
    run_pg(conn, "INSERT INTO fan_outbox.event(id, event) VALUES('no-json', '{')");
    assert_ok(record_pg(conn, "a", NULL));
    run_pg(conn, "INSERT INTO fan_outbox.event(event) VALUES('{\"payload\": 5}')");
    assert_ok(record_pg(conn, "bad-1", NULL));
    run_pg(conn, "INSERT INTO fan_outbox.event(id, event) VALUES('huge', repeat('x', 9000000))");
    assert_ok(record_pg(conn, "b", NULL));
    struct fan_broker *broker = shaky_broker(*state, true);
    struct fan_outbox_relay *relay = relay_opened_pg(broker, NULL);
    assert_log(broker, relay, "a b ");
    assert_int_equal(relay_stats(relay).set_aside, 4);
    assert_int_equal(waiting_pg(conn), 0);
    assert_int_equal(pg_number(conn, "SELECT count(*) FROM fan_outbox.aside WHERE reason LIKE "
                                     "'type: %' AND event LIKE '%5}'"),
                     1);
    /* Mended and put back, it is tried again. */
    shaky.refuse = NULL;
    run_pg(conn, "WITH gone AS (DELETE FROM fan_outbox.aside WHERE id = 'bad-1' RETURNING *) "
                 "INSERT INTO fan_outbox.event(id, event) SELECT id, event FROM gone");
    assert_log(broker, relay, "a b bad-1 ");
    fan_outbox_relay_free(relay);
    fan_broker_free(broker);
    PQfinish(conn);
}

/* A bad row behind one that is still owed must not move the place past that. */
static void test_H12_postgres_a_row_that_is_owed_is_not_stepped_over(void **state)
{
    PGconn *conn = outbox_made();
    assert_ok(record_pg(conn, "a", NULL));
    assert_ok(record_pg(conn, "b", NULL));
    run_pg(conn, "INSERT INTO fan_outbox.event(event) VALUES('{')");
    shaky_reset();
    struct fan_broker *broker = shaky_broker(*state, true);
    struct fan_outbox_relay *relay = relay_opened_pg(broker, NULL);
    shaky.fail_count = 100;
    shaky.fail_status = FAN_UNKNOWN;
    assert_int_not_equal(fan_outbox_relay_step(relay, NULL), FAN_OK);
    assert_int_equal(waiting_pg(conn), 2);
    shaky.stores = true; /* L9: it was stored, and is published again */
    assert_int_not_equal(fan_outbox_relay_step(relay, NULL), FAN_OK);
    shaky_reset();
    assert_log(broker, relay, "a b ");
    assert_int_equal(waiting_pg(conn), 0);
    fan_outbox_relay_free(relay);
    fan_broker_free(broker);
    PQfinish(conn);
}

static void test_H12_postgres_a_commit_wakes_the_relay(void **state)
{
    struct place *place = *state;
    PGconn *conn = outbox_made();
    struct fan_broker *broker = broker_started(place->uri);
    struct fan_reader *reader = read_all(broker);
    struct fan_outbox_relay *relay =
        relay_opened_pg(broker, &(struct fan_outbox_relay_options){ .poll_ms = 3600 * 1000 });
    assert_ok(fan_outbox_relay_start(relay));
    for (int i = 0; i < 20; i++) {
        char id[16];
        snprintf(id, sizeof(id), "n%d", i);
        assert_ok(record_pg(conn, id, NULL));
        assert_string_equal(fan_event_id(next_event(reader)), id);
    }
    run_pg(conn, "ALTER TABLE fan_outbox.event DISABLE TRIGGER wake");
    assert_ok(record_pg(conn, "silent", NULL));
    fan_outbox_relay_wake(relay);
    assert_string_equal(fan_event_id(next_event(reader)), "silent");
    fan_outbox_relay_free(relay);
    fan_reader_free(reader);
    fan_broker_free(broker);
    PQfinish(conn);
}

static void test_H12_postgres_a_relay_that_cannot_be_opened_says_why(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place->uri);
    const struct {
        const char *before; /* the port */
        const char *after;
        enum fan_status status;
        const char *words;
    } cases[] = {
        { "fan:secret@127.0.0.1:", "/fan", FAN_UNAVAILABLE, "password" },
        { "fan:geheim@127.0.0.1:", "/nowhere", FAN_UNAVAILABLE, "nowhere" },
        { "fan:geheim@127.0.0.1:", "/fan", FAN_NOT_FOUND, "no outbox" },
        { "fan:secret@127.0.0.1:", "/fan?sslmod=off", FAN_INVALID, "URI" },
        { "fan:se@cret@127.0.0.1:", "/fan", FAN_INVALID, "URI" },
        { "fan:secret@127.0.0.1:1/fan?", "", FAN_INVALID, "URI" },
        { "fan:secret@127.0.0.1:1/fan?connect_timeout=", "", FAN_UNAVAILABLE, "refused" },
    };
    PGconn *conn = outbox_made();
    run_pg(conn, "DROP SCHEMA fan_outbox CASCADE");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char uri[160];
        struct fan_error error = FAN_ERROR_INIT;
        struct fan_outbox_relay *relay = NULL;
        snprintf(uri, sizeof(uri), "postgres://%s%u%s", cases[i].before, server.port,
                 cases[i].after);
        struct fan_outbox_relay_options options = { .size = FAN_OUTBOX_RELAY_OPTIONS_SIZE,
                                                    .database = uri };
        assert_int_equal(fan_outbox_relay_open(broker, &options, &relay, &error), cases[i].status);
        if (!strstr(error.message, cases[i].words))
            fail_msg("%s", error.message);
        assert_null(strstr(error.message, "secret"));
        assert_null(strstr(error.message, "cret"));
        assert_null(strchr(error.message, '\n'));
    }
    PQfinish(conn);
    fan_broker_free(broker);
}

/* --- many at once ------------------------------------------------------------------------- */

#define THREADS 16

/* Transactions of each writer; FANFARE_SOAK=1 goes on for minutes. */
static int each = 60;

/* Half of them by C, half by SQL; every fifth rolls back. */
static void *write_some(void *context)
{
    int number = (int)(intptr_t)context;
    PGconn *conn = connected();
    for (int i = 0; i < each; i++) {
        char id[32];
        char sql[96];
        snprintf(id, sizeof(id), "%d-%d", number, i);
        snprintf(sql, sizeof(sql), "SELECT fan_outbox.publish('a.b.c', id => '%s')", id);
        run_pg(conn, "BEGIN");
        if (number % 2 == 0)
            assert_ok(record_pg(conn, id, NULL));
        else
            run_pg(conn, sql);
        run_pg(conn, i % 5 == 4 ? "ROLLBACK" : "COMMIT");
    }
    PQfinish(conn);
    return NULL;
}

/* Transactions that have an xid, and stay open for a while, until they are told to end. */
static bool ends;
static pthread_mutex_t ends_mutex = PTHREAD_MUTEX_INITIALIZER;

static void *sit(void *context)
{
    (void)context;
    PGconn *conn = connected();
    for (bool over = false; !over;) {
        run_pg(conn, "BEGIN; SELECT pg_current_xact_id(), pg_sleep(0.05); COMMIT");
        pthread_mutex_lock(&ends_mutex);
        over = ends;
        pthread_mutex_unlock(&ends_mutex);
    }
    PQfinish(conn);
    return NULL;
}

/* Reads all that was committed: each once, those of a writer in their order. */
static void check_all(struct fan_reader *reader)
{
    int next[THREADS] = { 0 };
    for (int left = THREADS * (each - each / 5); left > 0; left--) {
        int writer;
        int number;
        assert_int_equal(sscanf(fan_event_id(next_event(reader)), "%d-%d", &writer, &number), 2);
        assert_true(writer >= 0 && writer < THREADS);
        next[writer] += next[writer] % 5 == 4;
        assert_int_equal(number, next[writer]);
        next[writer]++;
    }
    assert_no_event(reader);
}

static void test_H12_L10_postgres_sixteen_writers_while_transactions_sit_open(void **state)
{
    struct place *place = *state;
    PGconn *conn = outbox_made();
    struct fan_broker *brokers[2];
    struct fan_outbox_relay *relays[2];
    for (int i = 0; i < 2; i++) {
        brokers[i] = broker_started(place->uri);
        relays[i] = relay_started_pg(brokers[i]);
    }
    struct fan_reader *reader = read_all(brokers[0]);
    pthread_t threads[THREADS];
    pthread_t sitters[2];
    ends = false;
    if (test_is_soak())
        each = 100000;
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&sitters[i], NULL, sit, NULL), 0);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, write_some, (void *)(intptr_t)i), 0);
    /* The one that leads goes in the middle of it, and every connection is cut. */
    wait_until(relay_stats(relays[0]).published + relay_stats(relays[1]).published > 50);
    int leading = relay_stats(relays[0]).leading ? 0 : 1;
    fan_outbox_relay_free(relays[leading]);
    relays[leading] = relay_started_pg(brokers[leading]);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    pthread_mutex_lock(&ends_mutex);
    ends = true;
    pthread_mutex_unlock(&ends_mutex);
    for (int i = 0; i < 2; i++)
        pthread_join(sitters[i], NULL);
    check_all(reader);
    wait_until(waiting_pg(conn) == 0);
    fan_reader_free(reader);
    for (int i = 0; i < 2; i++) {
        fan_outbox_relay_free(relays[i]);
        fan_broker_free(brokers[i]);
    }
    PQfinish(conn);
}

static void test_H12_R01_postgres_a_server_that_ends_under_the_relay_is_waited_for(void **state)
{
    struct place *place = *state;
    PGconn *conn = outbox_made();
    struct fan_broker *broker = broker_started(place->uri);
    struct fan_reader *reader = read_all(broker);
    struct fan_outbox_relay *relay = relay_started_pg(broker);
    static const char *const words[] = { "cut", "kill", "down" };
    for (int i = 0; i < 3; i++) {
        char id[16];
        for (int j = 0; j < 20; j++) {
            snprintf(id, sizeof(id), "%d-%d", i, j);
            assert_ok(record_pg(conn, id, NULL));
        }
        assert_true(test_postgres_tell(&server, words[i]));
        if (i > 0) {
            wait_until(relay_stats(relay).failures > 0);
            assert_int_equal(relay_stats(relay).error.status, FAN_UNAVAILABLE);
            assert_true(test_postgres_tell(&server, "start"));
        }
        PQfinish(conn);
        conn = connected();
        for (int j = 0; j < 20; j++) {
            snprintf(id, sizeof(id), "%d-%d", i, j);
            assert_string_equal(fan_event_id(next_event(reader)), id);
        }
    }
    wait_until(waiting_pg(conn) == 0);
    wait_until(relay_stats(relay).error.status == FAN_OK);
    /* One that answers nothing, not even an error. */
    assert_ok(record_pg(conn, "before", NULL));
    assert_string_equal(fan_event_id(next_event(reader)), "before");
    assert_true(test_postgres_tell(&server, "stop"));
    wait_until(relay_stats(relay).error.status == FAN_UNAVAILABLE);
    assert_true(test_postgres_tell(&server, "cont"));
    assert_ok(record_pg(conn, "after", NULL));
    assert_string_equal(fan_event_id(next_event(reader)), "after");
    assert_no_event(reader);
    fan_outbox_relay_free(relay);
    fan_reader_free(reader);
    fan_broker_free(broker);
    PQfinish(conn);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        at_a_place(test_H12_postgres_what_is_committed_arrives_as_it_was),
        at_a_place(test_H12_postgres_what_is_rolled_back_never_was),
        at_a_place(test_H12_P02_postgres_what_is_invalid_is_refused_alike_by_c_and_sql),
        at_a_place(test_H12_postgres_ids_that_are_made_are_uuids_of_version_7),
        at_a_place(test_H12_postgres_a_connection_that_cannot_record_is_told),
        at_a_place(test_H12_postgres_names_are_the_applications_choice),
        at_a_place(test_H12_L10_postgres_a_late_commit_is_not_skipped),
        at_a_place(test_H12_postgres_a_horizon_that_stands_still_is_told),
        at_a_place(test_H12_postgres_a_dump_from_another_server_is_not_stuck),
        at_a_place(test_H12_postgres_no_lock_is_held_beyond_the_transaction),
        at_a_place(test_H12_postgres_a_poison_row_is_set_aside_and_holds_up_nothing),
        at_a_place(test_H12_postgres_a_row_that_is_owed_is_not_stepped_over),
        at_a_place(test_H12_postgres_a_commit_wakes_the_relay),
        at_a_place(test_H12_postgres_a_relay_that_cannot_be_opened_says_why),
        at_a_place(test_H12_L10_postgres_sixteen_writers_while_transactions_sit_open),
        at_a_place(test_H12_R01_postgres_a_server_that_ends_under_the_relay_is_waited_for),
    };
    return cmocka_run_group_tests(tests, server_start, server_end);
}
