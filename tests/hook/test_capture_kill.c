/*
 * kill -9 at the steps of a capture by logical decoding (H13, L9): while it makes its slot, reads
 * the stream, publishes, confirms. The ledger is the table itself.
 *
 *     rows of committed transactions = events in the log, each once, in the order of the commits
 *
 * A step is each thing that is sent to the server, before and behind it, and each thing that the
 * log does to a file (vfs_kill.h). FANFARE_SOAK=1 kills at every step, else at some 25 spread over
 * them; FANFARE_SEED chooses the first.
 */
#include "../seed.h"
#include "postgres_support.h"
#include "vfs_kill.h"

#include <dlfcn.h>
#include <inttypes.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define SAMPLES 25
#define ROWS 40

/* In place of libc's: what libpq sends goes through here. The steps are of several threads. */
static pthread_mutex_t step_mutex = PTHREAD_MUTEX_INITIALIZER;

static void one_step(void)
{
    pthread_mutex_lock(&step_mutex);
    vfs_kill_step();
    pthread_mutex_unlock(&step_mutex);
}

ssize_t send(int descriptor, const void *bytes, size_t size, int flags)
{
    static ssize_t (*real)(int, const void *, size_t, int);
    pthread_mutex_lock(&step_mutex);
    if (!real)
        *(void **)(void *)&real = dlsym(RTLD_NEXT, "send");
    pthread_mutex_unlock(&step_mutex);
    one_step();
    ssize_t sent = real(descriptor, bytes, size, flags);
    one_step();
    return sent;
}

static const char *const tables[] = { "numbers" };

static struct fan_capture *capture_started(struct fan_broker *broker)
{
    struct fan_capture_options options = { .size = FAN_CAPTURE_OPTIONS_SIZE,
                                           .database = uri_of("fan", "fan"),
                                           .tables = tables,
                                           .table_count = 1,
                                           .watch_ms = 50,
                                           .lease_ms = 50 };
    struct fan_capture *capture = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    if (fan_capture_open(broker, &options, &capture, &error) != FAN_OK ||
        fan_capture_start(capture) != FAN_OK) {
        fprintf(stderr, "# %s\n", error.message);
        return NULL;
    }
    return capture;
}

static uint64_t published(struct fan_capture *capture)
{
    struct fan_capture_stats stats = { .size = sizeof(stats) };
    fan_capture_stats(capture, &stats);
    return stats.published;
}

/* Transactions of several rows, some of them rolled back, in part or whole. */
static void change(PGconn *conn, int from)
{
    for (int n = from; n < from + ROWS / 2; n += 4) {
        char sql[256];
        snprintf(sql, sizeof(sql),
                 "BEGIN; INSERT INTO numbers VALUES (%d), (%d); SAVEPOINT s;"
                 "INSERT INTO numbers VALUES (-1); ROLLBACK TO s;"
                 "INSERT INTO numbers VALUES (%d), (%d); COMMIT;"
                 "BEGIN; INSERT INTO numbers VALUES (-2); ROLLBACK",
                 n, n + 1, n + 2, n + 3);
        run_pg(conn, sql);
    }
}

/* The child captures, until it is killed or has seen what there was to see. */
static void run_child(const struct place *place, int pipe, uint64_t kill_step)
{
    struct fan_broker *broker = NULL;
    vfs_kill_install();
    if (fan_broker_open(place->uri, NULL, &broker, NULL) != FAN_OK ||
        fan_broker_start(broker) != FAN_OK)
        _exit(2);
    vfs_kill_at(kill_step);
    struct fan_capture *capture = capture_started(broker);
    if (!capture)
        _exit(3);
    /* The parent makes the second half of the changes once the slot is there. */
    if (write(pipe, "s", 1) != 1)
        _exit(4);
    while (published(capture) < ROWS / 2)
        poll(NULL, 0, 1);
    fan_capture_free(capture);
    fan_broker_free(broker);
    uint64_t steps = vfs_kill_steps();
    if (write(pipe, &steps, sizeof(steps)) != (ssize_t)sizeof(steps))
        _exit(4);
    _exit(0);
}

/* Another process goes on where the killed one was. */
static void check_all(const struct place *place, PGconn *conn, int from)
{
    struct fan_broker *broker = broker_started(place->uri);
    struct fan_reader *reader = read_all(broker);
    struct fan_capture *capture = capture_started(broker);
    assert_non_null(capture);
    /* What was committed before there was a slot for the first time is not captured. */
    change(conn, ROWS);
    int previous = -1;
    while (previous < ROWS + ROWS / 2 - 1) {
        const struct fan_event *event = next_event(reader);
        int number = 0;
        assert_string_equal(fan_event_type(event), "public.numbers.create");
        assert_int_equal(sscanf(fan_event_topic(event), "numbers:%d", &number), 1);
        if (number >= from && previous >= from)
            assert_int_equal(number, previous == ROWS / 2 - 1 ? ROWS : previous + 1);
        else
            assert_int_equal(number, from == 0 ? 0 : ROWS);
        previous = number;
    }
    assert_no_event(reader);
    fan_capture_free(capture);
    fan_reader_free(reader);
    fan_broker_free(broker);
}

/* One life and one kill. Gives the number of steps when the child came to its end, else 0. */
static uint64_t kill_once(uint64_t kill_step, PGconn *conn)
{
    struct place place;
    int pipes[2];
    uint64_t steps = 0;
    char started = 0;
    struct fan_error error = FAN_ERROR_INIT;
    place_make(&place);
    run_pg(conn, "TRUNCATE numbers");
    assert_int_equal(pipe(pipes), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        close(pipes[0]);
        run_child(&place, pipes[1], kill_step);
    }
    close(pipes[1]);
    bool open = read(pipes[0], &started, 1) == 1;
    /* Killed before open returned: what is written now may be captured or not. */
    if (open)
        change(conn, 0);
    bool ended = read(pipes[0], &steps, sizeof(steps)) == (ssize_t)sizeof(steps);
    close(pipes[0]);
    int result = 0;
    assert_int_equal(waitpid(child, &result, 0), child);
    if (!ended && !(WIFSIGNALED(result) && WTERMSIG(result) == SIGKILL))
        fail_msg("the child ended with %d", result);
    /* The server lets go of the slot once it sees that its reader is gone. */
    wait_until(pg_number(conn,
                         "SELECT count(*) FROM pg_stat_activity WHERE backend_type IN"
                         " ('client backend', 'walsender') AND pid <> pg_backend_pid()") == 0);
    check_all(&place, conn, open ? 0 : ROWS);
    enum fan_status status;
    wait_until((status = fan_capture_remove(uri_of("fan", "fan"), NULL, &error)) != FAN_EXISTS);
    assert_ok(status);
    place_remove(&place);
    return ended ? steps : 0;
}

static void test_H13_L09_kill_at_every_step_of_a_capture_loses_and_repeats_nothing(void **state)
{
    (void)state;
    uint64_t seed = test_seed();
    bool soak = test_is_soak();
    PGconn *conn = connected();
    run_pg(conn, "DROP TABLE IF EXISTS numbers; CREATE TABLE numbers(n int PRIMARY KEY)");
    uint64_t steps = kill_once(0, conn);
    assert_true(steps > 0);
    uint64_t stride = soak ? 1 : 1 + steps / SAMPLES;
    uint64_t first = 1 + (seed + stride - 1) % stride;
    print_message("# FANFARE_SEED=%" PRIu64 ", %" PRIu64 " steps, every %" PRIu64 ". of them\n",
                  seed, steps, stride);
    for (uint64_t step = first; step <= steps; step += stride)
        kill_once(step, conn);
    PQfinish(conn);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_H13_L09_kill_at_every_step_of_a_capture_loses_and_repeats_nothing),
    };
    return cmocka_run_group_tests(tests, server_start, server_end);
}
