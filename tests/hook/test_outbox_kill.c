/*
 * kill -9 at every step of an application with an outbox (H12, L9): while it records, commits,
 * rolls back, and while its relay reads, publishes, deletes. The ledger is in the parent, which
 * learns by a pipe what was attempted and what was committed.
 *
 *     committed <= orders = events in the log <= attempted, each once, in order; the outbox empty
 *
 * An order is a row of the application's own table, written in the transaction of its event. Each
 * step is one thing that SQLite does to a file (vfs_kill.h), so also the middle of every commit.
 * FANFARE_SOAK=1 takes every step, else some 60 spread over them; FANFARE_SEED chooses the first.
 */
#define ORDERS 12
#define SAMPLES 60

#include "../seed.h"
#include "orders.h"

/* A planted mistake: the event is recorded behind the commit of its order. */
static bool late;

static enum fan_status record(sqlite3 *db, int order, const char *suffix)
{
    char id[48];
    char payload[48];
    snprintf(id, sizeof(id), "order-%d%s", order, suffix);
    int size = snprintf(payload, sizeof(payload), "{\"order\": %d}", order);
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE,
                                     .type = "shop.orders.create",
                                     .id = id,
                                     .payload = { payload, (size_t)size } };
    return fan_outbox_record(db, NULL, &draft, NULL, NULL);
}

static void place_order(sqlite3 *db, int order, int pipe)
{
    char sql[128];
    snprintf(sql, sizeof(sql), "BEGIN; INSERT INTO orders VALUES(%d); SAVEPOINT s", order);
    say(pipe, order, false);
    must(sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK, 4);
    must(record(db, order, "-undone") == FAN_OK, 5);
    must(sqlite3_exec(db, "ROLLBACK TO s", NULL, NULL, NULL) == SQLITE_OK, 4);
    must(late || record(db, order, "") == FAN_OK, 5);
    must(sqlite3_exec(db, is_kept(order) ? "COMMIT" : "ROLLBACK", NULL, NULL, NULL) == SQLITE_OK,
         4);
    must(!late || !is_kept(order) || record(db, order, "") == FAN_OK, 5);
    if (is_kept(order))
        say(pipe, order, true);
}

/* The child: an application and its relay on one thread, until it is killed or done. */
static void run_child(const struct place *place, int pipe, uint64_t kill_step)
{
    vfs_kill_install();
    vfs_kill_at(kill_step);
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    options.stepped = true;
    struct fan_broker *broker = NULL;
    sqlite3 *db = NULL;
    must(sqlite3_open(place->database, &db) == SQLITE_OK, 2);
    must(fan_broker_open(place->uri, &options, &broker, NULL) == FAN_OK, 2);
    must(fan_broker_start(broker) == FAN_OK, 2);
    struct fan_outbox_relay *relay = relay_open(broker, place->database);
    must(relay != NULL, 2);
    for (int order = 0; order < ORDERS; order++) {
        place_order(db, order, pipe);
        if (order % 4 == 1)
            move_some(relay);
    }
    move_some(relay);
    fan_outbox_relay_free(relay);
    fan_broker_free(broker);
    sqlite3_close(db);
    /* Tells the parent how many steps there are. */
    say(pipe, (int)vfs_kill_steps(), true);
    _exit(0);
}

static void check_database(sqlite3 *db)
{
    sqlite3_stmt *statement = NULL;
    assert_int_equal(sqlite3_prepare_v2(db, "PRAGMA integrity_check", -1, &statement, NULL),
                     SQLITE_OK);
    assert_int_equal(sqlite3_step(statement), SQLITE_ROW);
    assert_string_equal((const char *)sqlite3_column_text(statement, 0), "ok");
    sqlite3_finalize(statement);
}

static bool has_order(sqlite3 *db, int order)
{
    char sql[64];
    snprintf(sql, sizeof(sql), "SELECT count(*) FROM orders WHERE n = %d", order);
    return number_of(db, sql) == 1;
}

/* Another process goes on where the killed one was. Gives how many orders do not agree then. */
static int check_all(const struct place *place, const struct ledger *ledger)
{
    sqlite3 *db = database_open(place);
    struct fan_broker *broker = broker_started(place->uri);
    struct fan_outbox_relay *relay = relay_open(broker, place->database);
    assert_non_null(relay);
    assert_ok(fan_outbox_relay_start(relay));
    wait_until(number_of(db, "SELECT count(*) FROM fan_outbox") == 0);
    fan_outbox_relay_free(relay);
    bool stored[ORDERS] = { false };
    read_orders(broker, stored);
    int wrong = 0;
    for (int order = 0; order < ORDERS; order++)
        wrong += !agrees(ledger, order, stored[order], has_order(db, order));
    assert_int_equal(number_of(db, "SELECT count(*) FROM fan_outbox_aside"), 0);
    check_database(db);
    fan_broker_free(broker);
    sqlite3_close(db);
    return wrong;
}

/* One life and one kill. Gives the number of steps when the child came to its end, else 0. */
static int kill_once(uint64_t kill_step, int *ret_wrong)
{
    struct place place;
    struct ledger ledger = { .steps = 0 };
    int pipes[2];
    place_make(&place);
    sqlite3 *db = database_open(&place);
    run_sql(db, "CREATE TABLE orders(n INTEGER PRIMARY KEY)");
    assert_ok(fan_outbox_create(db, NULL, NULL));
    sqlite3_close(db);
    assert_int_equal(pipe(pipes), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        close(pipes[0]);
        run_child(&place, pipes[1], kill_step);
    }
    close(pipes[1]);
    follow(pipes[0], &ledger);
    close(pipes[0]);
    assert_ended(child, &ledger);
    *ret_wrong = check_all(&place, &ledger);
    place_remove(&place);
    return ledger.steps;
}

static void test_H12_L09_kill_at_every_step_loses_and_repeats_nothing(void **state)
{
    (void)state;
    uint64_t seed = test_seed();
    bool soak = test_is_soak();
    int wrong = 0;
    int steps = kill_once(0, &wrong);
    assert_true(steps > 0);
    uint64_t stride = soak ? 1 : 1 + (uint64_t)steps / SAMPLES;
    uint64_t first = 1 + (seed + stride - 1) % stride;
    print_message("# FANFARE_SEED=%" PRIu64 ", %d steps, every %" PRIu64 ". of them\n", seed, steps,
                  stride);
    for (uint64_t step = first; step <= (uint64_t)steps; step += stride) {
        kill_once(step, &wrong);
        if (wrong != 0)
            fail_msg("killed at step %" PRIu64 ": %d orders and their events disagree", step,
                     wrong);
    }
}

static void test_H12_an_event_behind_the_commit_is_found(void **state)
{
    (void)state;
    int wrong = 0;
    late = true;
    int steps = kill_once(0, &wrong);
    assert_int_equal(wrong, 0);
    /* Somewhere in the middle of the orders the kill falls between the two. */
    for (int step = steps / 2; step > 0 && wrong == 0; step -= 2)
        kill_once((uint64_t)step, &wrong);
    late = false;
    assert_int_equal(wrong, 1);
}

/* --- two processes with a relay each ------------------------------------------------------ */

#define ROUNDS 6
#define PER_ROUND 40

static pid_t relay_process(const struct place *place)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child != 0)
        return child;
    struct fan_broker *broker = NULL;
    must(fan_broker_open(place->uri, NULL, &broker, NULL) == FAN_OK, 2);
    must(fan_broker_start(broker) == FAN_OK, 2);
    struct fan_outbox_relay *relay = relay_open(broker, place->database);
    must(relay != NULL && fan_outbox_relay_start(relay) == FAN_OK, 2);
    for (;;)
        pause();
}

static void test_H12_L09_two_relay_processes_killed_in_turn_do_no_harm(void **state)
{
    struct place *place = *state;
    sqlite3 *db = database_open(place);
    char id[32];
    assert_ok(fan_outbox_create(db, NULL, NULL));
    /* Before there is a thread that a fork would leave behind. */
    pid_t relays[2] = { relay_process(place), relay_process(place) };
    for (int round = 0; round < ROUNDS; round++) {
        int64_t before = number_of(db, "SELECT seq FROM sqlite_sequence WHERE name = 'fan_outbox' "
                                       "UNION ALL SELECT 0");
        for (int i = 0; i < PER_ROUND; i++) {
            run_sql(db, "BEGIN IMMEDIATE");
            assert_ok(record(db, round * PER_ROUND + i, ""));
            run_sql(db, "COMMIT");
        }
        /* Some are through: in the middle of its work, whoever it is that works, one is killed. */
        wait_until(number_of(db, "SELECT count(*) FROM fan_outbox") < PER_ROUND);
        assert_true(before == (int64_t)round * PER_ROUND);
        assert_int_equal(kill(relays[round % 2], SIGKILL), 0);
        int result = 0;
        assert_int_equal(waitpid(relays[round % 2], &result, 0), relays[round % 2]);
        assert_true(WIFSIGNALED(result));
        relays[round % 2] = relay_process(place);
    }
    wait_until(number_of(db, "SELECT count(*) FROM fan_outbox") == 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(kill(relays[i], SIGKILL), 0);
        waitpid(relays[i], NULL, 0);
    }
    struct fan_broker *broker = broker_started(place->uri);
    struct fan_reader *reader = read_all(broker);
    for (int i = 0; i < ROUNDS * PER_ROUND; i++) {
        snprintf(id, sizeof(id), "order-%d", i);
        assert_string_equal(fan_event_id(next_event(reader)), id);
    }
    assert_no_event(reader);
    fan_reader_free(reader);
    fan_broker_free(broker);
    sqlite3_close(db);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_H12_L09_kill_at_every_step_loses_and_repeats_nothing),
        cmocka_unit_test(test_H12_an_event_behind_the_commit_is_found),
        at_a_place(test_H12_L09_two_relay_processes_killed_in_turn_do_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
