/*
 * The outbox (H12): what is committed arrives in the log once and in order, what is rolled back
 * never was; and nothing that goes wrong on the way changes that.
 */
#include "outbox_support.h"
#include "shaky.h"

#include <sys/wait.h>

static sqlite3 *outbox_open(const struct place *place)
{
    sqlite3 *db = database_open(place);
    struct fan_error error = FAN_ERROR_INIT;
    if (fan_outbox_create(db, NULL, &error) != FAN_OK)
        fail_msg("%s", error.message);
    return db;
}

static enum fan_status record(sqlite3 *db, const char *id, const char *payload)
{
    struct fan_event_draft draft = order_draft(id, payload);
    return fan_outbox_record(db, NULL, &draft, NULL, NULL);
}

static struct fan_outbox_relay *relay_opened(struct fan_broker *broker, const struct place *place,
                                             const struct fan_outbox_relay_options *more)
{
    return relay_opened_at(broker, place->database, more);
}

static struct fan_outbox_relay *relay_started(struct fan_broker *broker, const struct place *place)
{
    return relay_started_at(broker, place->database, 1);
}

static int64_t waiting(sqlite3 *db)
{
    return number_of(db, "SELECT count(*) FROM fan_outbox");
}

/* What lies in the log, as `id id ...`, in its order. */
static const char *log_ids(const char *uri)
{
    static char ids[4096];
    struct fan_store *store = NULL;
    struct fan_batch *batch = NULL;
    struct fan_read_result result = { 0 };
    *ids = '\0';
    assert_ok(fan_store_open(uri, NULL, &store, NULL));
    assert_ok(fan_batch_new(NULL, &batch));
    do {
        assert_ok(fan_store_read(store, result.scanned_seq, NULL, batch, &result));
        for (size_t i = 0; i < fan_batch_count(batch); i++) {
            size_t used = strlen(ids);
            snprintf(ids + used, sizeof(ids) - used, "%s ",
                     fan_event_id(fan_batch_event(batch, i)));
        }
    } while (result.scanned_seq < result.head_seq);
    fan_batch_free(batch);
    fan_store_close(store);
    return ids;
}

static void test_H12_what_is_committed_arrives_as_it_was(void **state)
{
    struct place *place = *state;
    sqlite3 *db = outbox_open(place);
    struct fan_event_defaults defaults = FAN_EVENT_DEFAULTS_INIT;
    defaults.instance_id = "shop-1";
    run_sql(db, "BEGIN");
    assert_ok(fan_outbox_record(db, NULL, &whole_draft, &defaults, NULL));
    assert_ok(record(db, "second", "{\"n\": 1.0}"));
    run_sql(db, "COMMIT");
    struct fan_broker *broker = broker_started(place->uri);
    struct fan_reader *reader = read_all(broker);
    struct fan_outbox_relay *relay = relay_started(broker, place);
    assert_whole(next_event(reader), "shop-1");
    const struct fan_event *event = next_event(reader);
    assert_string_equal(fan_event_id(event), "second");
    assert_payload(event, "{\"n\": 1.0}");
    wait_until(waiting(db) == 0);
    fan_outbox_relay_free(relay);
    fan_reader_free(reader);
    fan_broker_free(broker);
    sqlite3_close(db);
}

static void test_H12_what_is_rolled_back_never_was(void **state)
{
    struct place *place = *state;
    sqlite3 *db = outbox_open(place);
    run_sql(db, "BEGIN");
    assert_ok(record(db, "gone", NULL));
    run_sql(db, "ROLLBACK; BEGIN");
    assert_ok(record(db, "a", NULL));
    run_sql(db, "SAVEPOINT one");
    assert_ok(record(db, "gone-one", NULL));
    run_sql(db, "SAVEPOINT two");
    assert_ok(record(db, "gone-two", NULL));
    run_sql(db, "RELEASE two; ROLLBACK TO one");
    assert_ok(record(db, "b", NULL));
    run_sql(db, "SAVEPOINT three");
    assert_ok(record(db, "c", NULL));
    run_sql(db, "RELEASE three; COMMIT");
    assert_ok(record(db, "d", NULL)); /* a transaction of its own */
    struct fan_broker *broker = broker_open(place->uri, true);
    assert_ok(fan_broker_start(broker));
    struct fan_outbox_relay *relay = relay_opened(broker, place, NULL);
    drain(relay);
    fan_outbox_relay_free(relay);
    fan_broker_free(broker);
    assert_string_equal(log_ids(place->uri), "a b c d ");
    sqlite3_close(db);
}

static void test_H12_an_invalid_event_is_refused_when_it_is_recorded(void **state)
{
    struct place *place = *state;
    sqlite3 *db = outbox_open(place);
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a..b" };
    assert_int_equal(fan_outbox_record(db, NULL, &draft, NULL, &error), FAN_INVALID);
    assert_string_equal(error.field, "type");
    draft.type = "a.b";
    draft.payload = (struct fan_str)FAN_STR("{");
    assert_int_equal(fan_outbox_record(db, NULL, &draft, NULL, &error), FAN_INVALID);
    assert_string_equal(error.field, "payload");
    draft.payload.size = 0;
    assert_int_equal(fan_outbox_record(db, "", &draft, NULL, &error), FAN_INVALID);
    assert_string_equal(error.field, "table");
    assert_int_equal(fan_outbox_record(db, "no such", &draft, NULL, &error), FAN_NOT_FOUND);
    assert_int_equal(waiting(db), 0);
    sqlite3 *other = database_open(place);
    sqlite3_busy_timeout(db, 0);
    run_sql(other, "BEGIN IMMEDIATE");
    assert_int_equal(fan_outbox_record(db, NULL, &draft, NULL, &error), FAN_UNAVAILABLE);
    run_sql(other, "COMMIT");
    assert_ok(fan_outbox_record(db, NULL, &draft, NULL, &error));
    sqlite3_close(other);
    sqlite3_close(db);
}

static void test_H12_names_are_the_applications_choice(void **state)
{
    struct place *place = *state;
    const char *name = "order \"events\"; --";
    sqlite3 *db = database_open(place);
    assert_ok(fan_outbox_create(db, name, NULL));
    assert_ok(fan_outbox_create(db, name, NULL));
    run_sql(db, "CREATE TEMP TABLE \"order \"\"events\"\"; --\"(seq, id, recorded_us, event)");
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b", .id = "one" };
    assert_ok(fan_outbox_record(db, name, &draft, NULL, NULL));
    struct fan_broker *broker = broker_open(place->uri, true);
    assert_ok(fan_broker_start(broker));
    struct fan_outbox_relay *relay =
        relay_opened(broker, place, &(struct fan_outbox_relay_options){ .table = name });
    drain(relay);
    fan_outbox_relay_free(relay);
    fan_broker_free(broker);
    assert_string_equal(log_ids(place->uri), "one ");
    sqlite3_close(db);
}

static void test_H12_no_lock_is_held_beyond_the_transaction(void **state)
{
    struct place *place = *state;
    sqlite3 *db = outbox_open(place);
    sqlite3 *other = database_open(place);
    sqlite3_busy_timeout(other, 0);
    for (int i = 0; i < 2; i++) {
        run_sql(db, "BEGIN; SELECT count(*) FROM fan_outbox");
        assert_ok(record(db, NULL, NULL));
        assert_int_equal(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_BUSY);
        run_sql(db, i == 0 ? "COMMIT" : "ROLLBACK");
        assert_null(sqlite3_next_stmt(db, NULL));
        run_sql(other, "BEGIN EXCLUSIVE; COMMIT");
    }
    /* Nor while the relay is publishing: its broker's append stands still. */
    shaky_reset();
    struct fan_broker *broker = shaky_broker(place, false);
    shaky.hold = true;
    struct fan_outbox_relay *relay = relay_started(broker, place);
    pthread_mutex_lock(&shaky.mutex);
    while (!shaky.held)
        pthread_cond_wait(&shaky.news, &shaky.mutex);
    run_sql(other, "BEGIN EXCLUSIVE; COMMIT");
    run_sql(other, "PRAGMA wal_checkpoint(TRUNCATE)");
    assert_int_equal(number_of(other, "PRAGMA wal_checkpoint(TRUNCATE)"), 0); /* not busy */
    shaky.hold = false;
    pthread_cond_broadcast(&shaky.news);
    pthread_mutex_unlock(&shaky.mutex);
    wait_until(waiting(db) == 0);
    fan_outbox_relay_free(relay);
    fan_broker_free(broker);
    sqlite3_close(other);
    sqlite3_close(db);
}

struct told {
    char text[512];
};

static void on_told(void *context, const struct fan_outbox_aside *aside)
{
    struct told *told = context;
    size_t used = strlen(told->text);
    snprintf(told->text + used, sizeof(told->text) - used, "%lld %s;", (long long)aside->row,
             aside->id);
    assert_true(*aside->reason != '\0');
}

static void test_H12_a_poison_row_is_set_aside_told_and_holds_up_nothing(void **state)
{
    struct place *place = *state;
    struct told told = { "" };
    sqlite3 *db = outbox_open(place);
    shaky_reset();
    shaky.refuse = "bad";
    run_sql(db, "INSERT INTO fan_outbox(id, event) VALUES('no-json', '{')");
    assert_ok(record(db, "a", NULL));
    run_sql(db, "INSERT INTO fan_outbox(id, event) VALUES('no-type', '{\"payload\": 5}')");
    assert_ok(record(db, "bad-1", NULL));
    assert_ok(record(db, "b", NULL));
    assert_ok(record(db, "c", NULL));
    run_sql(db, "INSERT INTO fan_outbox(id, event) VALUES('', '{\"type\": \"a.b\"}')");
    assert_ok(record(db, "d", NULL));
    assert_ok(record(db, "bad-2", NULL));
    assert_ok(record(db, "bad-3", NULL));
    assert_ok(record(db, "e", NULL));
    struct fan_broker *broker = shaky_broker(place, true);
    struct fan_outbox_relay *relay = relay_opened(
        broker, place, &(struct fan_outbox_relay_options){ .told = on_told, .context = &told });
    drain(relay);
    assert_string_equal(told.text, "1 no-json;3 no-type;4 bad-1;7 ;9 bad-2;10 bad-3;");
    assert_int_equal(relay_stats(relay).set_aside, 6);
    assert_int_equal(relay_stats(relay).published, 5);
    assert_int_equal(waiting(db), 0);
    assert_int_equal(number_of(db, "SELECT count(*) FROM fan_outbox_aside WHERE reason LIKE "
                                   "'type: %' AND id = 'no-type' AND event LIKE '%5}'"),
                     1);
    /* Mended and put back, it is tried again. */
    shaky.refuse = NULL;
    run_sql(db, "INSERT INTO fan_outbox(id, event) SELECT id, event FROM fan_outbox_aside "
                "WHERE id = 'bad-2'; DELETE FROM fan_outbox_aside WHERE id = 'bad-2'");
    drain(relay);
    fan_outbox_relay_free(relay);
    fan_broker_free(broker);
    assert_string_equal(log_ids(place->uri), "a b c d e bad-2 ");
    assert_int_equal(number_of(db, "SELECT count(*) FROM fan_outbox_aside"), 5);
    sqlite3_close(db);
}

static void test_H12_one_bad_event_of_many_costs_few_appends(void **state)
{
    struct place *place = *state;
    sqlite3 *db = outbox_open(place);
    char id[32];
    run_sql(db, "BEGIN");
    for (int i = 0; i < 500; i++) {
        snprintf(id, sizeof(id), i == 333 ? "bad" : "e%d", i);
        assert_ok(record(db, id, NULL));
    }
    run_sql(db, "COMMIT");
    shaky_reset();
    shaky.refuse = "bad";
    struct fan_broker *broker = shaky_broker(place, true);
    struct fan_outbox_relay *relay = relay_opened(broker, place, NULL);
    drain(relay);
    assert_int_equal(relay_stats(relay).published, 499);
    assert_int_equal(relay_stats(relay).set_aside, 1);
    assert_true(shaky.appends < 40);
    fan_outbox_relay_free(relay);
    fan_broker_free(broker);
    sqlite3_close(db);
}

static void test_H12_R01_a_store_that_is_down_is_waited_for(void **state)
{
    struct place *place = *state;
    sqlite3 *db = outbox_open(place);
    assert_ok(record(db, "a", NULL));
    assert_ok(record(db, "b", NULL));
    shaky_reset();
    shaky.fail_count = 3;
    shaky.fail_status = FAN_NO_SPACE;
    struct fan_broker *broker = shaky_broker(place, false);
    struct fan_outbox_relay *relay = relay_started(broker, place);
    wait_until(relay_stats(relay).failures > 0);
    wait_until(waiting(db) == 0);
    assert_true(relay_stats(relay).failures >= 1);
    assert_ok(relay_stats(relay).error.status);
    fan_outbox_relay_free(relay);
    fan_broker_free(broker);
    assert_string_equal(log_ids(place->uri), "a b ");
    sqlite3_close(db);
}

static void test_H12_L09_an_unknown_outcome_is_published_once(void **state)
{
    struct place *place = *state;
    sqlite3 *db = outbox_open(place);
    assert_ok(record(db, "a", NULL));
    assert_ok(record(db, "b", NULL));
    shaky_reset();
    shaky.fail_count = 100;
    shaky.fail_status = FAN_UNKNOWN;
    shaky.stores = true;
    struct fan_broker *broker = shaky_broker(place, true);
    struct fan_outbox_relay *relay = relay_opened(broker, place, NULL);
    struct fan_error error = FAN_ERROR_INIT;
    enum fan_status status = fan_outbox_relay_step(relay, &error);
    assert_true(status != FAN_OK && status != FAN_AGAIN);
    assert_int_equal(relay_stats(relay).error.status, status);
    assert_int_equal(relay_stats(relay).rows, 2);
    assert_true(relay_stats(relay).lag_us >= 0);
    assert_int_equal(waiting(db), 2);
    shaky_reset();
    drain(relay);
    assert_int_equal(waiting(db), 0);
    fan_outbox_relay_free(relay);
    fan_broker_free(broker);
    assert_string_equal(log_ids(place->uri), "a b ");
    sqlite3_close(db);
}

static void test_H12_a_locked_database_is_waited_for(void **state)
{
    struct place *place = *state;
    sqlite3 *db = outbox_open(place);
    assert_ok(record(db, "a", NULL));
    struct fan_broker *broker = broker_open(place->uri, true);
    assert_ok(fan_broker_start(broker));
    struct fan_outbox_relay *relay = relay_opened(broker, place, NULL);
    /* It can be read and not be written: published, and not deleted yet. */
    run_sql(db, "BEGIN IMMEDIATE");
    struct fan_error error = FAN_ERROR_INIT;
    assert_int_equal(fan_outbox_relay_step(relay, &error), FAN_UNAVAILABLE);
    assert_int_equal(fan_outbox_relay_step(relay, &error), FAN_UNAVAILABLE);
    assert_int_equal(relay_stats(relay).failures, 2);
    assert_string_equal(log_ids(place->uri), "a ");
    /* What the log forgets meanwhile does not come again: the relay knows that it is done. */
    struct fan_store *store = fan_broker_store(broker);
    assert_ok(fan_store_delete(store, "a"));
    assert_ok(record(db, "b", NULL));
    run_sql(db, "COMMIT");
    drain(relay);
    assert_int_equal(waiting(db), 0);
    assert_int_equal(relay_stats(relay).published, 2);
    fan_outbox_relay_free(relay);
    fan_broker_free(broker);
    assert_string_equal(log_ids(place->uri), "b ");
    sqlite3_close(db);
}

static void test_H12_a_rollback_journal_does_as_well(void **state)
{
    struct place *place = *state;
    sqlite3 *db = outbox_open(place);
    run_sql(db, "PRAGMA journal_mode = DELETE");
    struct fan_broker *broker = broker_started(place->uri);
    struct fan_reader *reader = read_all(broker);
    struct fan_outbox_relay *relay = relay_started(broker, place);
    char id[32];
    for (int i = 0; i < 30; i++) {
        snprintf(id, sizeof(id), "e%d", i);
        run_sql(db, "BEGIN IMMEDIATE");
        assert_ok(record(db, id, NULL));
        run_sql(db, i % 3 == 2 ? "ROLLBACK" : "COMMIT");
    }
    for (int i = 0; i < 30; i++) {
        snprintf(id, sizeof(id), "e%d", i);
        if (i % 3 != 2)
            assert_string_equal(fan_event_id(next_event(reader)), id);
    }
    wait_until(waiting(db) == 0);
    fan_outbox_relay_free(relay);
    fan_reader_free(reader);
    fan_broker_free(broker);
    sqlite3_close(db);
}

static void test_H12_a_relay_that_lost_its_lease_brings_nothing_back(void **state)
{
    struct place *place = *state;
    sqlite3 *db = outbox_open(place);
    assert_ok(record(db, "a", NULL));
    shaky_reset();
    shaky.hold = true;
    struct fan_broker *slow = shaky_broker(place, false);
    struct fan_outbox_relay *first = relay_opened(
        slow, place, &(struct fan_outbox_relay_options){ .poll_ms = 1, .lease_ms = 20 });
    assert_ok(fan_outbox_relay_start(first));
    pthread_mutex_lock(&shaky.mutex);
    while (!shaky.held)
        pthread_cond_wait(&shaky.news, &shaky.mutex);
    pthread_mutex_unlock(&shaky.mutex);
    /* It stands still in the middle. The other takes over, and the log forgets the event. */
    struct fan_broker *broker = broker_started(place->uri);
    struct fan_outbox_relay *second = relay_started(broker, place);
    wait_until(waiting(db) == 0);
    assert_string_equal(log_ids(place->uri), "a ");
    assert_ok(fan_store_delete(fan_broker_store(broker), "a"));
    pthread_mutex_lock(&shaky.mutex);
    shaky.hold = false;
    pthread_cond_broadcast(&shaky.news);
    pthread_mutex_unlock(&shaky.mutex);
    fan_outbox_relay_stop(first);
    assert_int_equal(relay_stats(first).published, 0);
    assert_string_equal(log_ids(place->uri), "");
    fan_outbox_relay_free(first);
    fan_outbox_relay_free(second);
    fan_broker_free(slow);
    fan_broker_free(broker);
    sqlite3_close(db);
}

static void test_H12_a_second_relay_waits_its_turn(void **state)
{
    struct place *place = *state;
    sqlite3 *db = outbox_open(place);
    struct fan_broker *broker = broker_open(place->uri, true);
    assert_ok(fan_broker_start(broker));
    struct fan_outbox_relay *first = relay_opened(broker, place, NULL);
    struct fan_outbox_relay *second = relay_opened(broker, place, NULL);
    assert_ok(record(db, "a", NULL));
    assert_ok(fan_outbox_relay_step(first, NULL));
    assert_true(relay_stats(first).leading);
    assert_ok(record(db, "b", NULL));
    assert_int_equal(fan_outbox_relay_step(second, NULL), FAN_EXISTS);
    assert_false(relay_stats(second).leading);
    assert_int_equal(relay_stats(second).failures, 0);
    assert_int_equal(relay_stats(second).rows, 1);
    fan_outbox_relay_stop(first); /* gives it back */
    assert_int_equal(fan_outbox_relay_step(first, NULL), FAN_CLOSED);
    drain(second);
    assert_true(relay_stats(second).leading);
    fan_outbox_relay_free(first);
    fan_outbox_relay_free(second);
    fan_broker_free(broker);
    assert_string_equal(log_ids(place->uri), "a b ");
    sqlite3_close(db);
}

static void test_H12_a_trigger_may_write_the_outbox(void **state)
{
    struct place *place = *state;
    sqlite3 *db = outbox_open(place);
    run_sql(db, "CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT);"
                "CREATE TRIGGER users_created AFTER INSERT ON users BEGIN "
                "INSERT INTO fan_outbox(event) VALUES(json_object('type', 'main.users.create',"
                "'payload', json_object('id', new.id, 'name', new.name))); END;"
                "INSERT INTO users(name) VALUES('Ada'), ('Eve')");
    shaky_reset();
    shaky.fail_count = 1; /* the same id on the second try */
    shaky.fail_status = FAN_UNKNOWN;
    shaky.stores = true;
    struct fan_broker *broker = shaky_broker(place, true);
    struct fan_outbox_relay *relay = relay_opened(broker, place, NULL);
    while (waiting(db) > 0)
        (void)!fan_outbox_relay_step(relay, NULL);
    struct fan_reader *reader = read_all(broker);
    const struct fan_event *event = next_event(reader);
    assert_string_equal(fan_event_type(event), "main.users.create");
    assert_int_equal(fan_event_source(event), FAN_SOURCE_DATABASE);
    assert_int_equal(strlen(fan_event_id(event)), 32);
    assert_payload(event, "{\"id\":1,\"name\":\"Ada\"}");
    assert_payload(next_event(reader), "{\"id\":2,\"name\":\"Eve\"}");
    assert_no_event(reader);
    fan_reader_free(reader);
    fan_outbox_relay_free(relay);
    fan_broker_free(broker);
    sqlite3_close(db);
}

static void test_H12_a_wake_is_enough(void **state)
{
    struct place *place = *state;
    sqlite3 *db = outbox_open(place);
    struct fan_broker *broker = broker_started(place->uri);
    struct fan_reader *reader = read_all(broker);
    struct fan_outbox_relay *relay =
        relay_opened(broker, place, &(struct fan_outbox_relay_options){ .poll_ms = 3600 * 1000 });
    assert_ok(fan_outbox_relay_start(relay));
    static const struct fan_record_table table = { "users", "id", NULL, NULL };
    run_sql(db, "CREATE TABLE users(id INTEGER PRIMARY KEY)");
    struct fan_records_options options = { .size = FAN_RECORDS_OPTIONS_SIZE,
                                           .tables = &table,
                                           .table_count = 1,
                                           .outbox = FAN_OUTBOX_TABLE,
                                           .relay = relay };
    struct fan_records *records = NULL;
    assert_ok(fan_records_open(db, &options, &records, NULL));
    struct fan_record row = { .size = FAN_RECORD_SIZE,
                              .table = "users",
                              .data = FAN_STR("{\"id\": 1}") };
    assert_ok(fan_records_create(records, &row, NULL, NULL));
    assert_string_equal(fan_event_topic(next_event(reader)), "users:1");
    run_sql(db, "BEGIN");
    row.data = (struct fan_str)FAN_STR("{\"id\": 2}");
    assert_ok(fan_records_create(records, &row, NULL, NULL));
    run_sql(db, "COMMIT");
    assert_ok(fan_records_settle(records));
    assert_string_equal(fan_event_topic(next_event(reader)), "users:2");
    assert_ok(record(db, "three", NULL));
    fan_outbox_relay_wake(relay);
    assert_string_equal(fan_event_id(next_event(reader)), "three");
    fan_records_close(records);
    fan_outbox_relay_free(relay);
    fan_reader_free(reader);
    fan_broker_free(broker);
    sqlite3_close(db);
}

static void test_H12_a_relay_is_opened_and_run_as_it_says(void **state)
{
    struct place *place = *state;
    sqlite3 *db = database_open(place);
    struct fan_broker *broker = broker_started(place->uri);
    struct fan_outbox_relay *relay = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_outbox_relay_options options = { .size = FAN_OUTBOX_RELAY_OPTIONS_SIZE };
    assert_int_equal(fan_outbox_relay_open(broker, &options, &relay, &error), FAN_INVALID);
    assert_string_equal(error.field, "database");
    options.database = place->database;
    assert_int_equal(fan_outbox_relay_open(broker, &options, &relay, &error), FAN_NOT_FOUND);
    options.batch_count = 1001;
    assert_int_equal(fan_outbox_relay_open(broker, &options, &relay, &error), FAN_INVALID);
    assert_string_equal(error.field, "batch_count");
    options.batch_count = 0;
    options.database = "/nowhere/app.db";
    assert_int_equal(fan_outbox_relay_open(broker, &options, &relay, &error), FAN_UNAVAILABLE);
    assert_non_null(strstr(error.message, "/nowhere/app.db"));
    options.size = 1;
    assert_int_equal(fan_outbox_relay_open(broker, &options, &relay, &error), FAN_INVALID);
    assert_ok(fan_outbox_create(db, NULL, NULL));
    relay = relay_started(broker, place);
    assert_int_equal(fan_outbox_relay_start(relay), FAN_MISUSE);
    assert_int_equal(fan_outbox_relay_step(relay, &error), FAN_MISUSE);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        bool good = fan_outbox_relay_start(relay) == FAN_FORKED &&
                    fan_outbox_relay_step(relay, NULL) == FAN_FORKED;
        fan_outbox_relay_wake(relay);
        fan_outbox_relay_free(relay);
        _exit(good ? 0 : 1);
    }
    int result = 1;
    assert_int_equal(waitpid(child, &result, 0), child);
    assert_int_equal(result, 0);
    fan_outbox_relay_stop(relay);
    fan_outbox_relay_stop(relay);
    assert_int_equal(fan_outbox_relay_start(relay), FAN_CLOSED);
    fan_outbox_relay_free(relay);
    fan_outbox_relay_free(NULL);
    fan_broker_free(broker);
    sqlite3_close(db);
}

#define THREADS 16
#define EACH 60

struct writer {
    const struct place *place;
    int number;
};

static void *write_some(void *context)
{
    struct writer *writer = context;
    sqlite3 *db = database_open(writer->place);
    for (int i = 0; i < EACH; i++) {
        char id[32];
        snprintf(id, sizeof(id), "%d-%d", writer->number, i);
        run_sql(db, "BEGIN IMMEDIATE");
        assert_ok(record(db, id, NULL));
        run_sql(db, i % 5 == 4 ? "ROLLBACK" : "COMMIT");
    }
    sqlite3_close(db);
    return NULL;
}

/* Reads all that was committed: each once, those of a writer in their order. */
static void check_all(struct fan_reader *reader, int writers)
{
    int next[THREADS] = { 0 };
    for (int left = writers * (EACH - EACH / 5); left > 0; left--) {
        int writer;
        int number;
        assert_int_equal(sscanf(fan_event_id(next_event(reader)), "%d-%d", &writer, &number), 2);
        assert_true(writer >= 0 && writer < writers);
        next[writer] += next[writer] % 5 == 4;
        assert_int_equal(number, next[writer]);
        next[writer]++;
    }
    assert_no_event(reader);
}

static void test_H12_sixteen_threads_record_while_two_relays_run(void **state)
{
    struct place *place = *state;
    sqlite3 *db = outbox_open(place);
    struct fan_broker *brokers[2];
    struct fan_outbox_relay *relays[2];
    for (int i = 0; i < 2; i++) {
        brokers[i] = broker_started(place->uri);
        relays[i] = relay_started(brokers[i], place);
    }
    struct fan_reader *reader = read_all(brokers[0]);
    pthread_t threads[THREADS];
    struct writer writers[THREADS];
    for (int i = 0; i < THREADS; i++) {
        writers[i] = (struct writer){ place, i };
        assert_int_equal(pthread_create(&threads[i], NULL, write_some, &writers[i]), 0);
    }
    /* The one that leads goes in the middle of it. */
    wait_until(relay_stats(relays[0]).published + relay_stats(relays[1]).published > 50);
    int leading = relay_stats(relays[0]).leading ? 0 : 1;
    fan_outbox_relay_free(relays[leading]);
    relays[leading] = relay_started(brokers[leading], place);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    wait_until(waiting(db) == 0);
    check_all(reader, THREADS);
    fan_reader_free(reader);
    for (int i = 0; i < 2; i++) {
        fan_outbox_relay_free(relays[i]);
        fan_broker_free(brokers[i]);
    }
    sqlite3_close(db);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        at_a_place(test_H12_what_is_committed_arrives_as_it_was),
        at_a_place(test_H12_what_is_rolled_back_never_was),
        at_a_place(test_H12_an_invalid_event_is_refused_when_it_is_recorded),
        at_a_place(test_H12_names_are_the_applications_choice),
        at_a_place(test_H12_no_lock_is_held_beyond_the_transaction),
        at_a_place(test_H12_a_poison_row_is_set_aside_told_and_holds_up_nothing),
        at_a_place(test_H12_one_bad_event_of_many_costs_few_appends),
        at_a_place(test_H12_R01_a_store_that_is_down_is_waited_for),
        at_a_place(test_H12_L09_an_unknown_outcome_is_published_once),
        at_a_place(test_H12_a_locked_database_is_waited_for),
        at_a_place(test_H12_a_rollback_journal_does_as_well),
        at_a_place(test_H12_a_relay_that_lost_its_lease_brings_nothing_back),
        at_a_place(test_H12_a_second_relay_waits_its_turn),
        at_a_place(test_H12_a_trigger_may_write_the_outbox),
        at_a_place(test_H12_a_wake_is_enough),
        at_a_place(test_H12_a_relay_is_opened_and_run_as_it_says),
        at_a_place(test_H12_sixteen_threads_record_while_two_relays_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
