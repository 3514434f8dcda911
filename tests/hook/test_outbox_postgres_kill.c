/*
 * kill -9 at the steps of an application with an outbox in PostgreSQL (H12, L9): while it records,
 * commits, rolls back, and while its relay reads, publishes, deletes. The ledger is in the parent,
 * which learns by a pipe what was attempted and what was committed.
 *
 *     committed <= orders = events in the log <= attempted, each once, in order; the outbox empty
 *
 * A step is each thing that is sent to the server, before and behind it (the server goes on with
 * what it was told), and each thing that the log does to a file (vfs_kill.h). FANFARE_SOAK=1 takes
 * every step, else some 30 spread over them; FANFARE_SEED chooses the first.
 */
#define ORDERS 9
#define SAMPLES 30

#include "../seed.h"
#include "orders.h"
#include "postgres_support.h"

#include <dlfcn.h>
#include <sys/socket.h>

/* In place of libc's: what libpq sends goes through here. */
ssize_t send(int descriptor, const void *bytes, size_t size, int flags)
{
    static ssize_t (*real)(int, const void *, size_t, int);
    if (!real)
        *(void **)(void *)&real = dlsym(RTLD_NEXT, "send");
    vfs_kill_step();
    ssize_t sent = real(descriptor, bytes, size, flags);
    vfs_kill_step();
    return sent;
}

static bool run_quietly(PGconn *conn, const char *sql)
{
    PGresult *result = PQexec(conn, sql);
    ExecStatusType state = PQresultStatus(result);
    PQclear(result);
    return state == PGRES_COMMAND_OK || state == PGRES_TUPLES_OK;
}

static void place_order(PGconn *conn, int order, int pipe)
{
    char sql[160];
    char id[32];
    snprintf(sql, sizeof(sql),
             "BEGIN; INSERT INTO orders VALUES(%d); SAVEPOINT s;"
             "SELECT fan_outbox.publish('a.b.c', id => 'undone'); ROLLBACK TO s",
             order);
    snprintf(id, sizeof(id), "order-%d", order);
    say(pipe, order, false);
    must(run_quietly(conn, sql), 4);
    must(record_pg(conn, id, "{}") == FAN_OK, 5);
    must(run_quietly(conn, is_kept(order) ? "COMMIT" : "ROLLBACK"), 4);
    if (is_kept(order))
        say(pipe, order, true);
}

/* The child: an application and its relay on one thread, until it is killed or done. */
static void run_child(const struct place *place, int pipe, uint64_t kill_step)
{
    vfs_kill_install();
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    options.stepped = true;
    struct fan_broker *broker = NULL;
    PGconn *conn = PQconnectdb(uri_of("fan", "fan"));
    must(PQstatus(conn) == CONNECTION_OK, 2);
    must(fan_broker_open(place->uri, &options, &broker, NULL) == FAN_OK, 2);
    must(fan_broker_start(broker) == FAN_OK, 2);
    vfs_kill_at(kill_step);
    struct fan_outbox_relay *relay = relay_open(broker, uri_of("fan", "fan"));
    must(relay != NULL, 2);
    for (int order = 0; order < ORDERS; order++) {
        place_order(conn, order, pipe);
        if (order % 4 == 1)
            move_some(relay);
    }
    move_some(relay);
    fan_outbox_relay_free(relay);
    fan_broker_free(broker);
    PQfinish(conn);
    /* Tells the parent how many steps there are. */
    say(pipe, (int)vfs_kill_steps(), true);
    _exit(0);
}

/* Another process goes on where the killed one was. */
static void check_all(const struct place *place, const struct ledger *ledger, PGconn *conn)
{
    /* What the server was told before its client died, it finishes. */
    wait_until(pg_number(conn, "SELECT count(*) FROM pg_stat_activity WHERE backend_type ="
                               " 'client backend' AND pid <> pg_backend_pid()") == 0);
    struct fan_broker *broker = broker_started(place->uri);
    struct fan_outbox_relay *relay = relay_open(broker, uri_of("fan", "fan"));
    assert_non_null(relay);
    assert_ok(fan_outbox_relay_start(relay));
    wait_until(waiting_pg(conn) == 0);
    fan_outbox_relay_free(relay);
    bool stored[ORDERS] = { false };
    read_orders(broker, stored);
    for (int order = 0; order < ORDERS; order++) {
        char sql[64];
        snprintf(sql, sizeof(sql), "SELECT count(*) FROM orders WHERE n = %d", order);
        assert_true(agrees(ledger, order, stored[order], pg_number(conn, sql) == 1));
    }
    assert_int_equal(pg_number(conn, "SELECT count(*) FROM fan_outbox.aside"), 0);
    fan_broker_free(broker);
}

/* One life and one kill. Gives the number of steps when the child came to its end, else 0. */
static int kill_once(uint64_t kill_step, PGconn *conn)
{
    struct place place;
    struct ledger ledger = { .steps = 0 };
    int pipes[2];
    place_make(&place);
    run_pg(conn, "TRUNCATE orders, fan_outbox.event, fan_outbox.aside");
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
    check_all(&place, &ledger, conn);
    place_remove(&place);
    return ledger.steps;
}

static void test_H12_L09_postgres_kill_at_every_step_loses_and_repeats_nothing(void **state)
{
    (void)state;
    uint64_t seed = test_seed();
    bool soak = test_is_soak();
    PGconn *conn = outbox_made();
    run_pg(conn, "DROP TABLE IF EXISTS orders; CREATE TABLE orders(n int PRIMARY KEY)");
    int steps = kill_once(0, conn);
    assert_true(steps > 0);
    uint64_t stride = soak ? 1 : 1 + (uint64_t)steps / SAMPLES;
    uint64_t first = 1 + (seed + stride - 1) % stride;
    print_message("# FANFARE_SEED=%" PRIu64 ", %d steps, every %" PRIu64 ". of them\n", seed, steps,
                  stride);
    for (uint64_t step = first; step <= (uint64_t)steps; step += stride)
        kill_once(step, conn);
    PQfinish(conn);
}

static void test_H13_a_server_without_logical_decoding_is_told(void **state)
{
    struct place *place = *state;
    static const char *const tables[] = { "orders" };
    struct fan_broker *broker = broker_started(place->uri);
    struct fan_capture_options options = { .size = FAN_CAPTURE_OPTIONS_SIZE,
                                           .database = uri_of("fan", "fan"),
                                           .tables = tables,
                                           .table_count = 1 };
    struct fan_capture *capture = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    assert_int_equal(fan_capture_open(broker, &options, &capture, &error), FAN_UNSUPPORTED);
    assert_non_null(strstr(error.message, "set wal_level = logical"));
    fan_broker_free(broker);
}

/* An outbox needs no logical decoding. */
static int plain_server_start(void **state)
{
    (void)state;
    return test_postgres_start(&server, "wal_level=replica") ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_H12_L09_postgres_kill_at_every_step_loses_and_repeats_nothing),
        at_a_place(test_H13_a_server_without_logical_decoding_is_told),
    };
    return cmocka_run_group_tests(tests, plain_server_start, server_end);
}
