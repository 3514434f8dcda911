/*
 * Capture (H13): changes of chosen PostgreSQL tables become events, by triggers and by logical
 * decoding, against a real server; whatever ends in between, each once and in order.
 */
#include "hearing.h"
#include "postgres_support.h"
#include "shaky.h"

#include <jansson.h>
#include <malloc.h>

/* What the library holds. */
static struct {
    pthread_mutex_t mutex;
    size_t held;
    size_t peak;
} memory = { .mutex = PTHREAD_MUTEX_INITIALIZER };

static void *count_resize(void *context, void *pointer, size_t size)
{
    (void)context;
    pthread_mutex_lock(&memory.mutex);
    memory.held -= pointer ? malloc_usable_size(pointer) : 0;
    void *block = realloc(pointer, size);
    memory.held += block ? malloc_usable_size(block) : 0;
    memory.peak = memory.held > memory.peak ? memory.held : memory.peak;
    pthread_mutex_unlock(&memory.mutex);
    return block;
}

static void count_release(void *context, void *pointer)
{
    (void)context;
    pthread_mutex_lock(&memory.mutex);
    memory.held -= pointer ? malloc_usable_size(pointer) : 0;
    pthread_mutex_unlock(&memory.mutex);
    free(pointer);
}

/* Over a store that fails as it is told to, when `is_shaky`. */
static struct fan_broker *listening_broker_at(const struct place *place, bool is_shaky)
{
    char uri[160];
    struct fan_env *env = env_heard("capture");
    env->resize = count_resize;
    env->release = count_release;
    snprintf(uri, sizeof(uri), "%s%s", is_shaky ? "shaky:" : "", place->uri);
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    options.env = env;
    options.provider = is_shaky ? &shaky_provider : NULL;
    options.publish_timeout_ms = is_shaky ? 100 : 0;
    struct fan_broker *broker = NULL;
    shaky_reset();
    assert_ok(fan_broker_open(uri, &options, &broker, NULL));
    assert_ok(fan_broker_start(broker));
    return broker;
}

static struct fan_broker *listening_broker(const struct place *place)
{
    return listening_broker_at(place, false);
}

static const char *const users[] = { "users" };

static struct fan_capture_options users_options(void)
{
    return (struct fan_capture_options){ .size = FAN_CAPTURE_OPTIONS_SIZE,
                                         .database = uri_of("fan", "fan"),
                                         .tables = users,
                                         .table_count = 1,
                                         .watch_ms = 20,
                                         .lease_ms = 400 };
}

static struct fan_capture *capture_opened(struct fan_broker *broker,
                                          const struct fan_capture_options *options)
{
    struct fan_capture *capture = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    enum fan_status status = FAN_UNAVAILABLE;
    /* A server beside much else may take its time. */
    for (int tries = 0; status == FAN_UNAVAILABLE && tries < 5; tries++)
        status = fan_capture_open(broker, options, &capture, &error);
    if (status != FAN_OK)
        fail_msg("%s: %s", error.field, error.message);
    return capture;
}

static struct fan_capture *capture_started(struct fan_broker *broker,
                                           const struct fan_capture_options *options)
{
    struct fan_capture *capture = capture_opened(broker, options);
    assert_ok(fan_capture_start(capture));
    return capture;
}

static struct fan_capture_stats stats_of(struct fan_capture *capture)
{
    struct fan_capture_stats stats = { .size = sizeof(stats) };
    fan_capture_stats(capture, &stats);
    return stats;
}

/* Ends it for good: the next test's tables are others. */
static void capture_end(struct fan_capture *capture)
{
    struct fan_error error = FAN_ERROR_INIT;
    enum fan_status status;
    fan_capture_free(capture);
    wait_until((status = fan_capture_remove(uri_of("fan", "fan"), NULL, &error)) != FAN_EXISTS);
    if (status != FAN_OK)
        fail_msg("%s", error.message);
}

static PGconn *users_made(const char *columns)
{
    char sql[512];
    PGconn *conn = connected();
    snprintf(sql, sizeof(sql), "DROP TABLE IF EXISTS users; CREATE TABLE users(%s)", columns);
    run_pg(conn, sql);
    return conn;
}

/* The next event's type, topic and payload, and one word that its metadata must have. */
static const struct fan_event *assert_next(struct fan_reader *reader, const char *type,
                                           const char *topic, const char *payload)
{
    const struct fan_event *event = next_event(reader);
    assert_string_equal(fan_event_type(event), type);
    assert_string_equal(fan_event_topic(event), topic);
    assert_int_equal(fan_event_source(event), FAN_SOURCE_DATABASE);
    struct fan_str given = fan_event_payload(event);
    json_t *left = json_loadb(given.data, given.size, JSON_DECODE_ANY, NULL);
    json_t *right = json_loads(payload, JSON_DECODE_ANY, NULL);
    assert_non_null(right);
    if (!left || !json_equal(left, right))
        fail_msg("%.*s is not %s", (int)given.size, given.data, payload);
    json_decref(left);
    json_decref(right);
    return event;
}

static void assert_metadata(const struct fan_event *event, const char *words)
{
    struct fan_str metadata = fan_event_metadata(event);
    if (!memmem(metadata.data, metadata.size, words, strlen(words)))
        fail_msg("%.*s has no %s", (int)metadata.size, metadata.data, words);
}

/* --- both ways give the same --------------------------------------------------------------- */

static const char types[] =
    "id int PRIMARY KEY, name text, big bigint, amount numeric(10,2), near float8, yes boolean,"
    " extra jsonb, at timestamptz, day date, bytes bytea, odd numeric";

static void change_types(PGconn *conn)
{
    run_pg(conn, "INSERT INTO users VALUES (1, E'A\"d\\\\a\\n\\u00e9', 9007199254740993, 1.50,"
                 " 0.25, true, '{\"a\": [1, null, \"x\"]}', '2026-11-21 15:51:02.5+00',"
                 " '2026-11-21', '\\x00ff', 'NaN')");
    run_pg(conn, "INSERT INTO users(id, yes, near) VALUES (2, false, 'Infinity')");
    run_pg(conn, "UPDATE users SET name = 'Eve' WHERE id = 2");
    run_pg(conn, "DELETE FROM users WHERE id = 2");
    run_pg(conn, "BEGIN; INSERT INTO users(id) VALUES (3); ROLLBACK");
    run_pg(conn, "BEGIN; SAVEPOINT s; INSERT INTO users(id) VALUES (4); ROLLBACK TO s;"
                 "INSERT INTO users(id) VALUES (5); COMMIT");
    run_pg(conn, "TRUNCATE users");
}

#define EMPTY                                                                                      \
    "\"big\": null, \"amount\": null, \"extra\": null, \"at\": null, \"day\": null, "              \
    "\"bytes\": null, \"odd\": null"

static void assert_types(struct fan_reader *reader, bool whole)
{
    assert_next(reader, "public.users.create", "users:1",
                "{\"id\": 1, \"name\": \"A\\\"d\\\\a\\n\\u00e9\", \"big\": 9007199254740993,"
                " \"amount\": 1.50, \"near\": 0.25, \"yes\": true, \"extra\": {\"a\": [1, null,"
                " \"x\"]}, \"at\": \"2026-11-21T15:51:02.5+00:00\", \"day\": \"2026-11-21\","
                " \"bytes\": \"\\\\x00ff\", \"odd\": \"NaN\"}");
    assert_next(reader, "public.users.create", "users:2",
                "{\"id\": 2, \"name\": null, \"near\": \"Infinity\", \"yes\": false, " EMPTY "}");
    const struct fan_event *event = assert_next(
        reader, "public.users.update", "users:2",
        "{\"id\": 2, \"name\": \"Eve\", \"near\": \"Infinity\", \"yes\": false, " EMPTY "}");
    assert_metadata(event, "\"xid\"");
    assert_next(
        reader, "public.users.delete", "users:2",
        whole ? "{\"id\": 2, \"name\": \"Eve\", \"near\": \"Infinity\", \"yes\": false, " EMPTY "}"
              : "{\"id\": 2}");
    assert_next(reader, "public.users.create", "users:5",
                "{\"id\": 5, \"name\": null, \"near\": null, \"yes\": null, " EMPTY "}");
    assert_next(reader, "public.users.truncate", "users", "null");
}

static void test_H13_triggers_make_events_of_every_change(void **state)
{
    struct place *place = *state;
    PGconn *conn = outbox_made();
    PQfinish(users_made(types));
    run_pg(conn, "SELECT fan_outbox.capture('users'); SELECT fan_outbox.capture('users')");
    /* A program that knows nothing of the outbox. */
    run_as_root("CREATE ROLE app LOGIN; GRANT ALL ON users TO app");
    PGconn *app = connect_as("app", "fan");
    run_pg(app, "SET timezone = 'Asia/Kolkata'; SET search_path = public, pg_catalog;"
                "SET bytea_output = 'escape'; SET extra_float_digits = -15");
    struct fan_broker *broker = broker_started(place->uri);
    struct fan_reader *reader = read_all(broker);
    struct fan_outbox_relay *relay = relay_started_pg(broker);
    change_types(app);
    assert_types(reader, true);
    run_pg(conn, "ALTER TABLE users DROP big, DROP amount, DROP near, DROP yes, DROP extra, DROP"
                 " at, DROP day, DROP bytes, DROP odd, ADD more text DEFAULT 'x'");
    run_pg(conn, "ALTER TABLE users RENAME name TO label; ALTER TABLE users RENAME id TO number");
    run_pg(conn, "INSERT INTO users VALUES (7, 'a')");
    assert_next(reader, "public.users.create", "users:7",
                "{\"number\": 7, \"label\": \"a\", \"more\": \"x\"}");
    run_pg(conn, "UPDATE users SET number = 70");
    assert_metadata(assert_next(reader, "public.users.update", "users:70",
                                "{\"number\": 70, \"label\": \"a\", \"more\": \"x\"}"),
                    "\"old\": {\"number\": 7}");
    /* What no jsonb can hold does not fail the application's statement. */
    run_pg(conn, "ALTER TABLE users ADD odd json; INSERT INTO users(number, odd) VALUES (6,"
                 " '{\"a\": \"\\u0000\"}'); DELETE FROM users WHERE number = 6;"
                 "ALTER TABLE users DROP odd");
    static const char *const operations[] = { "public.users.create", "public.users.delete" };
    for (int i = 0; i < 2; i++)
        assert_metadata(assert_next(reader, operations[i], "users:6", "{\"number\": 6}"),
                        "\"refused\": \"unsupported Unicode");
    run_pg(conn, "SELECT fan_outbox.release('users'); INSERT INTO users VALUES (8)");
    run_pg(conn, "SELECT fan_outbox.capture('users', 'shop', 'people');"
                 "INSERT INTO users VALUES (9)");
    assert_next(reader, "shop.people.create", "people:9",
                "{\"number\": 9, \"label\": null, \"more\": \"x\"}");
    PQclear(PQexec(conn, "SELECT fan_outbox.capture('pg_tables')"));
    assert_non_null(strstr(PQerrorMessage(conn), "only tables can be captured"));
    PQclear(PQexec(conn, "SELECT fan_outbox.capture('fan_outbox.event')"));
    assert_non_null(strstr(PQerrorMessage(conn), "is the outbox itself"));
    PQfinish(app);
    run_pg(conn, "DROP TABLE users");
    run_as_root("DROP ROLE app");
    fan_outbox_relay_free(relay);
    fan_reader_free(reader);
    fan_broker_free(broker);
    PQfinish(conn);
}

static void test_H13_decoding_makes_events_of_every_change(void **state)
{
    struct place *place = *state;
    PGconn *conn = users_made(types);
    struct fan_broker *broker = listening_broker(place);
    struct fan_reader *reader = read_all(broker);
    struct fan_capture_options options = users_options();
    struct fan_capture *capture = capture_started(broker, &options);
    change_types(conn);
    assert_types(reader, false);
    wait_until(stats_of(capture).published == 6);
    wait_until(stats_of(capture).transactions == 6);
    assert_true(stats_of(capture).leading);
    /* Columns that come, go and are renamed. */
    run_pg(conn, "ALTER TABLE users DROP big, DROP amount, DROP near, DROP yes, DROP extra, DROP"
                 " at, DROP day, DROP bytes, DROP odd, ADD more text DEFAULT 'x'");
    run_pg(conn, "INSERT INTO users VALUES (6, 'a')");
    run_pg(conn, "ALTER TABLE users RENAME name TO label; ALTER TABLE users RENAME id TO number");
    run_pg(conn, "INSERT INTO users VALUES (7, 'a')");
    assert_next(reader, "public.users.create", "users:6",
                "{\"id\": 6, \"name\": \"a\", \"more\": \"x\"}");
    assert_next(reader, "public.users.create", "users:7",
                "{\"number\": 7, \"label\": \"a\", \"more\": \"x\"}");
    /* A key that changes is told as it was. */
    run_pg(conn, "UPDATE users SET number = 70 WHERE number = 7");
    assert_metadata(assert_next(reader, "public.users.update", "users:70",
                                "{\"number\": 70, \"label\": \"a\", \"more\": \"x\"}"),
                    "\"old\":{\"number\":7}");
    /* What is large and was not touched is not sent, unless the identity is full. */
    run_pg(conn, "ALTER TABLE users ALTER more SET STORAGE EXTERNAL");
    run_pg(conn, "INSERT INTO users VALUES (8, 'a', repeat('x', 10000))");
    run_pg(conn, "UPDATE users SET label = 'b' WHERE number = 8");
    assert_int_equal(fan_event_payload(next_event(reader)).size,
                     strlen("{\"number\":8,\"label\":\"a\",\"more\":\"\"}") + 10000);
    assert_metadata(
        assert_next(reader, "public.users.update", "users:8", "{\"number\": 8, \"label\": \"b\"}"),
        "\"unchanged\":[\"more\"]");
    run_pg(conn, "ALTER TABLE users REPLICA IDENTITY FULL");
    run_pg(conn, "UPDATE users SET label = 'c' WHERE number = 8");
    const struct fan_event *event = next_event(reader);
    assert_string_equal(fan_event_topic(event), "users:8");
    assert_int_equal(fan_event_payload(event).size,
                     strlen("{\"number\":8,\"label\":\"c\",\"more\":\"\"}") + 10000);
    assert_metadata(event, "\"old\":{\"number\":8,\"label\":\"b\"");
    run_pg(conn, "DELETE FROM users WHERE number = 70");
    assert_next(reader, "public.users.delete", "users:70",
                "{\"number\": 70, \"label\": \"a\", \"more\": \"x\"}");
    assert_no_event(reader);
    capture_end(capture);
    fan_reader_free(reader);
    fan_broker_free(broker);
    PQfinish(conn);
}

static void test_H13_names_and_keys_are_the_applications_choice(void **state)
{
    struct place *place = *state;
    static const char *const tables[] = { "odd.\"My \"\"Table\"\".*\"", "public.parted" };
    PGconn *conn = connected();
    run_pg(conn, "DROP SCHEMA IF EXISTS odd CASCADE; CREATE SCHEMA odd;"
                 "CREATE TABLE odd.\"My \"\"Table\"\".*\"(a int, \"b \"\"\" text, c text,"
                 " PRIMARY KEY (\"b \"\"\", a));"
                 "CREATE TABLE parted(id int PRIMARY KEY, n int) PARTITION BY RANGE (id);"
                 "CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10);"
                 "CREATE TABLE others(id int PRIMARY KEY)");
    struct fan_broker *broker = listening_broker(place);
    struct fan_reader *reader = read_all(broker);
    struct fan_capture_options options = users_options();
    options.tables = tables;
    options.table_count = 2;
    struct fan_capture *capture = capture_started(broker, &options);
    run_pg(conn, "INSERT INTO odd.\"My \"\"Table\"\".*\" VALUES (1, 'x', 'c');"
                 "INSERT INTO others VALUES (1); INSERT INTO parted VALUES (3, 4)");
    assert_next(reader, "odd.My_\"Table\"__.create", "My_\"Table\"__:1,x",
                "{\"a\": 1, \"b \\\"\": \"x\", \"c\": \"c\"}");
    assert_next(reader, "public.parted.create", "parted:3", "{\"id\": 3, \"n\": 4}");
    run_pg(conn, "UPDATE odd.\"My \"\"Table\"\".*\" SET a = 2, \"b \"\"\" = repeat('y', 300)");
    assert_string_equal(fan_event_topic(next_event(reader)), "My_\"Table\"__");
    assert_no_event(reader);
    capture_end(capture);
    run_pg(conn, "DROP SCHEMA odd CASCADE; DROP TABLE parted, others");
    fan_reader_free(reader);
    fan_broker_free(broker);
    PQfinish(conn);
}

/* --- what goes wrong ------------------------------------------------------------------------ */

static void assert_numbers(struct fan_reader *reader, int from, int to)
{
    for (int i = from; i < to; i++) {
        char topic[32];
        snprintf(topic, sizeof(topic), "users:%d", i);
        const struct fan_event *event = NULL;
        enum fan_status status = fan_reader_next(reader, 60000, &event);
        if (status != FAN_OK)
            fail_msg("%s: %s", topic, fan_status_text(status));
        assert_string_equal(fan_event_topic(event), topic);
    }
}

static void insert_numbers(PGconn *conn, int from, int to)
{
    char sql[128];
    snprintf(sql, sizeof(sql), "INSERT INTO users SELECT n FROM generate_series(%d, %d) AS n", from,
             to - 1);
    run_pg(conn, sql);
}

static void test_H13_R01_what_ends_in_between_loses_and_repeats_nothing(void **state)
{
    struct place *place = *state;
    PGconn *conn = users_made("id int PRIMARY KEY");
    struct fan_broker *broker = listening_broker(place);
    struct fan_reader *reader = read_all(broker);
    struct fan_capture_options options = users_options();
    struct fan_capture *capture = capture_started(broker, &options);
    insert_numbers(conn, 0, 10);
    assert_numbers(reader, 0, 10);
    /* Nobody captures for a while. */
    fan_capture_free(capture);
    insert_numbers(conn, 10, 20);
    capture = capture_started(broker, &options);
    assert_numbers(reader, 10, 20);
    static const char *const words[] = { "cut", "kill", "down" };
    for (int i = 0; i < 3; i++) {
        insert_numbers(conn, 20 + 10 * i, 25 + 10 * i);
        assert_true(test_postgres_tell(&server, words[i]));
        if (i > 0)
            assert_true(test_postgres_tell(&server, "start"));
        PQfinish(conn);
        conn = connected();
        insert_numbers(conn, 25 + 10 * i, 30 + 10 * i);
        assert_numbers(reader, 20 + 10 * i, 30 + 10 * i);
    }
    wait_until(stats_of(capture).error.status == FAN_OK);
    assert_true(stats_of(capture).failures > 0);
    assert_int_equal(stats_of(capture).gaps, 0);
    /* One that answers nothing, not even an error. */
    assert_true(test_postgres_tell(&server, "stop"));
    wait_until(stats_of(capture).error.status == FAN_UNAVAILABLE);
    assert_true(test_postgres_tell(&server, "cont"));
    insert_numbers(conn, 50, 60);
    assert_numbers(reader, 50, 60);
    /* The place follows: nothing is kept for what is durable, also where others write. */
    run_pg(conn, "CREATE TABLE noise(t text); INSERT INTO noise SELECT repeat('x', 1000) FROM"
                 " generate_series(1, 1000); DROP TABLE noise");
    int64_t end = pg_number(conn, "SELECT (pg_current_wal_lsn() - '0/0')::bigint");
    wait_until((int64_t)stats_of(capture).lsn >= end);
    assert_no_event(reader);
    capture_end(capture);
    fan_reader_free(reader);
    fan_broker_free(broker);
    PQfinish(conn);
}

static void fail_appends(enum fan_status status, int count)
{
    pthread_mutex_lock(&shaky.mutex);
    shaky.fail_status = status;
    shaky.fail_count = count;
    pthread_mutex_unlock(&shaky.mutex);
}

static void test_H13_L09_a_log_that_fails_is_waited_for(void **state)
{
    struct place *place = *state;
    PGconn *conn = users_made("id int PRIMARY KEY");
    shaky_reset();
    struct fan_broker *broker = shaky_broker(place, false);
    struct fan_reader *reader = read_all(broker);
    struct fan_capture_options options = users_options();
    struct fan_capture *capture = capture_started(broker, &options);
    insert_numbers(conn, 0, 5);
    assert_numbers(reader, 0, 5);
    pthread_mutex_lock(&shaky.mutex);
    shaky.fail_status = FAN_UNKNOWN;
    shaky.stores = true;
    shaky.fail_count = 5;
    pthread_mutex_unlock(&shaky.mutex);
    insert_numbers(conn, 5, 900);
    assert_numbers(reader, 5, 900);
    /*
     * It has one, and does not say so, so nothing behind that is taken: another server, which took
     * over, sends it again.
     */
    pthread_mutex_lock(&shaky.mutex);
    shaky.fail_count = 1000000;
    pthread_mutex_unlock(&shaky.mutex);
    insert_numbers(conn, 900, 901);
    assert_numbers(reader, 900, 901);
    PQfinish(conn);
    assert_true(test_postgres_tell(&server, "standby"));
    assert_true(test_postgres_tell(&server, "promote"));
    conn = connected();
    shaky_reset();
    insert_numbers(conn, 901, 920);
    assert_numbers(reader, 901, 920);
    assert_no_event(reader);
    capture_end(capture);
    fan_reader_free(reader);
    fan_broker_free(broker);
    PQfinish(conn);
}

static void test_H13_L12_a_large_transaction_takes_bounded_memory(void **state)
{
    struct place *place = *state;
    PGconn *conn = users_made("id int PRIMARY KEY, filler text");
    struct fan_broker *broker = listening_broker(place);
    struct fan_reader *reader = read_all(broker);
    struct fan_capture_options options = users_options();
    struct fan_capture *capture = capture_started(broker, &options);
    wait_until(stats_of(capture).leading);
    pthread_mutex_lock(&memory.mutex);
    size_t before = memory.peak = memory.held;
    pthread_mutex_unlock(&memory.mutex);
    run_pg(conn, "INSERT INTO users SELECT n, repeat('x', 3000) FROM generate_series(0, 7999)"
                 " AS n");
    assert_numbers(reader, 0, 8000);
    assert_no_event(reader);
    pthread_mutex_lock(&memory.mutex);
    size_t peak = memory.peak - before;
    pthread_mutex_unlock(&memory.mutex);
    /* 24 MB went through; the log's own share is in it. */
    assert_true(peak < (size_t)12 << 20);
    wait_until(stats_of(capture).transactions == 1);
    /* What no event can hold is told by its key. */
    run_pg(conn, "INSERT INTO users VALUES (20000, repeat('x', 2000000))");
    run_pg(conn, "INSERT INTO users VALUES (20001, repeat('x', 9000000)), (20002, 'y')");
    assert_metadata(assert_next(reader, "public.users.create", "users:20000", "{\"id\": 20000}"),
                    "\"refused\":\"has 20000");
    assert_metadata(assert_next(reader, "public.users.create", "users:20001", "{\"id\": 20001}"),
                    "\"refused\":\"the row is over 8 MiB\"");
    assert_next(reader, "public.users.create", "users:20002", "{\"id\": 20002, \"filler\": \"y\"}");
    wait_until(stats_of(capture).refused == 1);
    capture_end(capture);
    fan_reader_free(reader);
    fan_broker_free(broker);
    PQfinish(conn);
}

static void test_H13_of_two_captures_one_works_and_the_other_takes_over(void **state)
{
    struct place *place = *state;
    PGconn *conn = users_made("id int PRIMARY KEY");
    struct fan_broker *broker = listening_broker(place);
    struct fan_broker *other = broker_started(place->uri);
    struct fan_reader *reader = read_all(broker);
    struct fan_capture_options options = users_options();
    struct fan_capture *first = capture_started(broker, &options);
    wait_until(stats_of(first).leading);
    struct fan_capture *second = capture_started(other, &options);
    insert_numbers(conn, 0, 100);
    assert_numbers(reader, 0, 100);
    assert_false(stats_of(second).leading);
    struct fan_error error = FAN_ERROR_INIT;
    assert_int_equal(fan_capture_remove(options.database, NULL, &error), FAN_EXISTS);
    fan_capture_free(first);
    insert_numbers(conn, 100, 200);
    assert_numbers(reader, 100, 200);
    assert_true(stats_of(second).leading);
    assert_no_event(reader);
    capture_end(second);
    fan_reader_free(reader);
    fan_broker_free(other);
    fan_broker_free(broker);
    PQfinish(conn);
}

/* --- the slot ------------------------------------------------------------------------------- */

static void fill_the_servers_log(PGconn *conn)
{
    run_pg(conn, "CREATE TABLE noise(t text); INSERT INTO noise SELECT repeat('x', 1000) FROM"
                 " generate_series(1, 3000); DROP TABLE noise");
}

static void test_H13_a_slot_past_its_bound_is_dropped_and_it_is_said(void **state)
{
    struct place *place = *state;
    PGconn *conn = users_made("id int PRIMARY KEY, filler text");
    struct fan_broker *broker = listening_broker_at(place, true);
    struct fan_reader *reader = read_all(broker);
    struct fan_capture_options options = users_options();
    options.slot_bytes_max = 2 << 20;
    options.slot_bytes_alarm = 1 << 20;
    struct fan_capture *capture = capture_started(broker, &options);
    assert_true(has_heard("max_slot_wal_keep_size"));
    insert_numbers(conn, 0, 5);
    assert_numbers(reader, 0, 5);
    /* Others write, nothing is owed: the slot follows. */
    fill_the_servers_log(conn);
    wait_until(stats_of(capture).slot_bytes < (1 << 20));
    /* A large transaction is got on with, however often the log fails in it. */
    run_pg(conn, "INSERT INTO users SELECT n, repeat('x', 700) FROM generate_series(100, 8099)"
                 " AS n");
    for (int i = 100; i < 8100; i++) {
        if (i % 500 == 0)
            fail_appends(FAN_NO_SPACE, 1);
        assert_numbers(reader, i, i + 1);
    }
    assert_true(has_heard("MiB of its log for the slot"));
    wait_until(stats_of(capture).lag_bytes == 0);
    assert_int_equal(stats_of(capture).gaps, 0);
    assert_true(stats_of(capture).failures > 0);
    /* The log takes nothing, and the server goes on. */
    fail_appends(FAN_NO_SPACE, 1000000);
    insert_numbers(conn, 5, 10);
    fill_the_servers_log(conn);
    wait_until(pg_number(conn, "SELECT count(*) FROM pg_replication_slots") == 0);
    assert_true(has_heard("MiB of its log for the slot"));
    wait_until(has_heard("past its bound"));
    assert_int_equal(stats_of(capture).gaps, 0);
    /* It takes something again: first it is told that something is missing. */
    fail_appends(FAN_OK, 0);
    wait_until(stats_of(capture).leading);
    insert_numbers(conn, 10, 15);
    const struct fan_event *event = next_event(reader);
    while (strcmp(fan_event_type(event), "capture.fanfare.gap") != 0)
        event = next_event(reader);
    assert_string_equal(fan_event_topic(event), "fanfare");
    assert_int_equal(fan_event_source(event), FAN_SOURCE_SYSTEM);
    assert_numbers(reader, 10, 15);
    assert_int_equal(stats_of(capture).gaps, 1);
    assert_no_event(reader);
    capture_end(capture);
    fan_reader_free(reader);
    fan_broker_free(broker);
    PQfinish(conn);
}

static void test_H13_a_slot_that_is_gone_is_told_once(void **state)
{
    struct place *place = *state;
    PGconn *conn = users_made("id int PRIMARY KEY");
    struct fan_broker *broker = listening_broker(place);
    struct fan_reader *reader = read_all(broker);
    struct fan_capture_options options = users_options();
    struct fan_capture *capture = capture_started(broker, &options);
    insert_numbers(conn, 0, 5);
    assert_numbers(reader, 0, 5);
    fan_capture_free(capture);
    wait_until(pg_number(conn, "SELECT count(*) FROM pg_replication_slots WHERE active") == 0);
    run_pg(conn, "SELECT pg_drop_replication_slot('fanfare')");
    insert_numbers(conn, 5, 10);
    for (int i = 0; i < 2; i++) {
        capture = capture_started(broker, &options);
        wait_until(stats_of(capture).leading);
        insert_numbers(conn, 10 + i, 11 + i);
        if (i == 0)
            assert_string_equal(fan_event_type(next_event(reader)), "capture.fanfare.gap");
        assert_numbers(reader, 10 + i, 11 + i);
        fan_capture_stop(capture);
        if (i == 0)
            fan_capture_free(capture);
    }
    assert_no_event(reader);
    capture_end(capture);
    fan_reader_free(reader);
    fan_broker_free(broker);
    PQfinish(conn);
}

static void assert_gap(struct fan_reader *reader, const char *reason)
{
    const struct fan_event *event = next_event(reader);
    struct fan_str payload = fan_event_payload(event);
    assert_string_equal(fan_event_type(event), "capture.fanfare.gap");
    assert_non_null(memmem(payload.data, payload.size, reason, strlen(reason)));
}

static void test_H13_a_publication_that_was_dropped_is_made_again_and_its_gap_told(void **state)
{
    struct place *place = *state;
    PGconn *conn = users_made("id int PRIMARY KEY");
    struct fan_broker *broker = listening_broker(place);
    struct fan_reader *reader = read_all(broker);
    struct fan_capture_options options = users_options();
    struct fan_capture *capture = NULL;
    for (int i = 0; i < 2; i++) {
        if (!capture)
            capture = capture_started(broker, &options);
        insert_numbers(conn, 10 * i, 10 * i + 5);
        assert_numbers(reader, 10 * i, 10 * i + 5);
        /* Under its eyes, then while nobody captures. */
        if (i == 1) {
            fan_capture_free(capture);
            capture = NULL;
        }
        run_pg(conn, "DROP PUBLICATION fanfare");
        insert_numbers(conn, 10 * i + 5, 10 * i + 7);
        if (!capture)
            capture = capture_started(broker, &options);
        assert_gap(reader, "the slot is gone");
        wait_until(stats_of(capture).gaps == 1 && stats_of(capture).leading);
        fan_capture_free(capture);
        capture = NULL;
    }
    /* A slot without its publication is not left behind for ever. */
    run_pg(conn, "DROP PUBLICATION fanfare");
    capture_end(NULL);
    assert_int_equal(pg_number(conn, "SELECT count(*) FROM pg_replication_slots"), 0);
    assert_int_equal(fan_capture_remove(options.database, NULL, NULL), FAN_NOT_FOUND);
    assert_no_event(reader);
    fan_reader_free(reader);
    fan_broker_free(broker);
    PQfinish(conn);
}

static void test_H13_P13_what_another_log_took_out_of_the_slot_is_told(void **state)
{
    struct place *place = *state;
    struct place elsewhere;
    place_make(&elsewhere);
    PGconn *conn = users_made("id int PRIMARY KEY");
    struct fan_broker *brokers[] = { broker_started(place->uri), broker_started(elsewhere.uri) };
    struct fan_reader *readers[] = { read_all(brokers[0]), read_all(brokers[1]) };
    struct fan_capture_options options = users_options();
    struct fan_capture *capture = capture_started(brokers[0], &options);
    insert_numbers(conn, 0, 5);
    assert_numbers(readers[0], 0, 5);
    /* It does not wait in silence for what will never be given to it. */
    struct fan_capture *other = capture_started(brokers[1], &options);
    wait_until(stats_of(other).error.status == FAN_EXISTS);
    assert_non_null(strstr(stats_of(other).error.message, "reads the slot \"fanfare\""));
    /* Nor can one of other tables take them away from it. */
    static const char *const others[] = { "others" };
    struct fan_capture *none = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    run_pg(conn, "CREATE TABLE others(id int PRIMARY KEY)");
    options.tables = others;
    assert_int_equal(fan_capture_open(brokers[0], &options, &none, &error), FAN_EXISTS);
    assert_non_null(strstr(error.message, "other tables"));
    fan_capture_free(capture);
    insert_numbers(conn, 5, 9);
    int64_t before = pg_number(conn, "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint");
    insert_numbers(conn, 9, 10);
    assert_gap(readers[1], "into another log");
    assert_numbers(readers[1], 5, 10);
    /* What the server was not told in time it would give again. */
    wait_until(pg_number(conn, "SELECT (confirmed_flush_lsn - '0/0')::bigint "
                               "FROM pg_replication_slots WHERE slot_name = 'fanfare'") > before);
    fan_capture_free(other);
    options = users_options();
    capture = capture_started(brokers[0], &options);
    insert_numbers(conn, 10, 15);
    assert_gap(readers[0], "into another log");
    assert_numbers(readers[0], 10, 15);
    capture_end(capture);
    for (int i = 0; i < 2; i++) {
        assert_no_event(readers[i]);
        fan_reader_free(readers[i]);
        fan_broker_free(brokers[i]);
    }
    run_pg(conn, "DROP TABLE others");
    PQfinish(conn);
    place_remove(&elsewhere);
}

static void assert_refused(struct fan_broker *broker, const struct fan_capture_options *options,
                           enum fan_status status, const char *words)
{
    struct fan_capture *capture = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    enum fan_status given = fan_capture_open(broker, options, &capture, &error);
    if (given != status || !strstr(error.message, words))
        fail_msg("%s: %s", fan_status_name(given), error.message);
    assert_null(strchr(error.message, '\n'));
}

/* What is committed while the slot is being made is not in it. */
static void assert_unready(struct fan_broker *broker, PGconn *conn)
{
    PGconn *open = connected();
    PGconn *maker = connected();
    struct fan_capture_options options = users_options();
    run_pg(open, "BEGIN; SELECT pg_current_xact_id()");
    assert_int_equal(PQsendQuery(maker, "SELECT pg_create_logical_replication_slot('fanfare',"
                                        " 'pgoutput')"),
                     1);
    wait_until(PQflush(maker) == 0 &&
               pg_number(conn, "SELECT count(*) FROM pg_replication_slots") == 1);
    assert_refused(broker, &options, FAN_UNAVAILABLE, "open on the server");
    run_pg(open, "COMMIT");
    PQclear(PQgetResult(maker));
    PQfinish(maker);
    PQfinish(open);
    capture_end(NULL);
}

static void test_H13_what_keeps_a_capture_from_opening_is_told_in_a_sentence(void **state)
{
    struct place *place = *state;
    static const char *const nowhere[] = { "nowhere" };
    static const char *const view[] = { "seen" };
    static const char *const keyless[] = { "keyless" };
    static const char *const unlogged[] = { "unlogged" };
    PGconn *conn = users_made("id int PRIMARY KEY");
    run_pg(conn, "CREATE VIEW seen AS SELECT * FROM users; CREATE TABLE keyless(n int);"
                 "CREATE UNLOGGED TABLE unlogged(n int PRIMARY KEY)");
    struct fan_broker *broker = broker_started(place->uri);
    struct fan_capture_options options = users_options();
    options.tables = nowhere;
    assert_refused(broker, &options, FAN_NOT_FOUND, "there is no table nowhere");
    options.tables = view;
    assert_refused(broker, &options, FAN_INVALID, "is no table");
    options.tables = unlogged;
    assert_refused(broker, &options, FAN_UNSUPPORTED, "by triggers");
    options.tables = keyless;
    assert_refused(broker, &options, FAN_UNSUPPORTED, "REPLICA IDENTITY FULL");
    run_pg(conn, "INSERT INTO keyless VALUES (1); UPDATE keyless SET n = 2"); /* as before */
    /* A partition must have as much of an old row as its table says. */
    static const char *const parted[] = { "parted" };
    options.tables = parted;
    run_pg(conn, "CREATE TABLE parted(n int) PARTITION BY RANGE (n); CREATE TABLE parted_1"
                 " PARTITION OF parted FOR VALUES FROM (0) TO (10); ALTER TABLE parted REPLICA"
                 " IDENTITY FULL");
    assert_refused(broker, &options, FAN_UNSUPPORTED, "parted_1, a partition of parted");
    assert_unready(broker, conn);
    options = users_options();
    options.slot = "Bad Name";
    assert_refused(broker, &options, FAN_INVALID, "a-z");
    options.slot = "mine";
    run_as_root("SELECT pg_create_logical_replication_slot('mine', 'test_decoding')");
    assert_refused(broker, &options, FAN_EXISTS, "not of capture");
    run_as_root("SELECT pg_drop_replication_slot('mine'); DROP PUBLICATION mine;"
                "CREATE PUBLICATION mine");
    assert_refused(broker, &options, FAN_EXISTS, "not of capture");
    run_as_root("DROP PUBLICATION mine; CREATE ROLE app LOGIN; CREATE ROLE rep LOGIN REPLICATION");
    options = users_options();
    options.database = uri_of("app", "fan");
    assert_refused(broker, &options, FAN_DENIED, "ALTER ROLE \"app\" REPLICATION");
    options.database = uri_of("rep", "fan");
    assert_refused(broker, &options, FAN_DENIED, "must own it");
    options.database = uri_of("fan", "nowhere");
    assert_refused(broker, &options, FAN_UNAVAILABLE, "nowhere");
    options.database = "sqlite:x";
    assert_refused(broker, &options, FAN_INVALID, "URI");
    options = users_options();
    options.table_count = 0;
    assert_refused(broker, &options, FAN_INVALID, "must be given");
    run_pg(conn, "DROP VIEW seen; DROP TABLE keyless, unlogged, parted");
    run_as_root("DROP ROLE app; DROP ROLE rep");
    PQfinish(conn);
    fan_broker_free(broker);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        at_a_place(test_H13_triggers_make_events_of_every_change),
        at_a_place(test_H13_decoding_makes_events_of_every_change),
        at_a_place(test_H13_names_and_keys_are_the_applications_choice),
        at_a_place(test_H13_R01_what_ends_in_between_loses_and_repeats_nothing),
        at_a_place(test_H13_L09_a_log_that_fails_is_waited_for),
        at_a_place(test_H13_L12_a_large_transaction_takes_bounded_memory),
        at_a_place(test_H13_of_two_captures_one_works_and_the_other_takes_over),
        at_a_place(test_H13_a_slot_past_its_bound_is_dropped_and_it_is_said),
        at_a_place(test_H13_a_slot_that_is_gone_is_told_once),
        at_a_place(test_H13_a_publication_that_was_dropped_is_made_again_and_its_gap_told),
        at_a_place(test_H13_P13_what_another_log_took_out_of_the_slot_is_told),
        at_a_place(test_H13_what_keeps_a_capture_from_opening_is_told_in_a_sentence),
    };
    return cmocka_run_group_tests(tests, server_start, server_end);
}
