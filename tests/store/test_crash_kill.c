/*
 * SIGKILL in the middle of 16 concurrent publishers, through the public broker API. The ledger is
 * in the parent, which learns by a pipe what was attempted and what was acknowledged (P05, L9).
 *
 *     acknowledged <= stored <= attempted, each once, sequences rising, integrity_check ok
 *
 * All rounds are on one file, so that each recovers what the one before left. FANFARE_SOAK=1 runs
 * 50 rounds, else 5; FANFARE_SEED chooses the moments.
 */
#include "../seed.h"
#include "sqlite_support.h"

#include <fanfare/broker.h>

#include <sqlite3.h>

#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

#define THREAD_COUNT 16
#define ROUND_COUNT_MAX 50
#define EVENT_COUNT_MAX 4096 /* per thread and round */

/* What goes through the pipe: whole, as it is shorter than PIPE_BUF. seq is 0 before the answer. */
struct record {
    uint32_t thread;
    uint32_t number;
    uint64_t seq;
};

struct publisher {
    struct fan_broker *broker;
    int pipe;
    uint32_t thread;
    uint32_t round;
};

static void say(int pipe, const struct record *record)
{
    if (write(pipe, record, sizeof(*record)) != (ssize_t)sizeof(*record))
        _exit(3);
}

static void id_of(char id[64], uint32_t round, uint32_t thread, uint32_t number)
{
    snprintf(id, 64, "round-%u-thread-%u-event-%u", round, thread, number);
}

static void *publish(void *argument)
{
    const struct publisher *publisher = argument;
    for (uint32_t number = 0; number < EVENT_COUNT_MAX; number++) {
        char id[64];
        char payload[96];
        id_of(id, publisher->round, publisher->thread, number);
        int size = snprintf(payload, sizeof(payload), "{\"id\": \"%s\"}", id);
        struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE,
                                         .type = "crash.test.create",
                                         .id = id,
                                         .topic = number % 2 ? "odd" : "even",
                                         .payload = { payload, (size_t)size } };
        struct record record = { .thread = publisher->thread, .number = number };
        struct fan_cursor cursor;
        say(publisher->pipe, &record);
        if (fan_broker_publish(publisher->broker, &draft, &cursor, NULL) != FAN_OK)
            _exit(4);
        record.seq = cursor.seq;
        say(publisher->pipe, &record);
    }
    return NULL;
}

/* The child: publishes until it is killed. It never returns. */
static void run_child(const struct place *place, int pipe, uint32_t round)
{
    struct fan_broker *broker = NULL;
    if (fan_broker_open(place->uri, NULL, &broker, NULL) != FAN_OK ||
        fan_broker_start(broker) != FAN_OK)
        _exit(2);
    pthread_t threads[THREAD_COUNT];
    struct publisher publishers[THREAD_COUNT];
    for (uint32_t i = 0; i < THREAD_COUNT; i++) {
        publishers[i] = (struct publisher){ broker, pipe, i, round };
        if (pthread_create(&threads[i], NULL, publish, &publishers[i]) != 0)
            _exit(2);
    }
    for (uint32_t i = 0; i < THREAD_COUNT; i++)
        pthread_join(threads[i], NULL);
    /* Whoever outlives the last event waits for the end. */
    for (;;)
        pause();
}

struct ledger {
    uint64_t seqs[ROUND_COUNT_MAX][THREAD_COUNT][EVENT_COUNT_MAX]; /* 0: not acknowledged */
    uint32_t attempted[ROUND_COUNT_MAX][THREAD_COUNT];
    bool stored[ROUND_COUNT_MAX][THREAD_COUNT][EVENT_COUNT_MAX];
};

static struct ledger *ledger;

/* Reads records until the pipe's end; kills the child at the acknowledgement with that number. */
static uint64_t follow(int pipe, pid_t child, uint32_t round, uint64_t kill_at)
{
    uint64_t acknowledged = 0;
    struct record record;
    ssize_t size;
    while ((size = read(pipe, &record, sizeof(record))) == (ssize_t)sizeof(record)) {
        assert_true(record.thread < THREAD_COUNT && record.number < EVENT_COUNT_MAX);
        if (record.seq == 0) {
            assert_int_equal(record.number, ledger->attempted[round][record.thread]);
            ledger->attempted[round][record.thread]++;
            continue;
        }
        ledger->seqs[round][record.thread][record.number] = record.seq;
        if (++acknowledged == kill_at)
            assert_int_equal(kill(child, SIGKILL), 0);
    }
    assert_int_equal(size, 0);
    return acknowledged;
}

static void check_event(const struct fan_event *event)
{
    unsigned round;
    unsigned thread;
    unsigned number;
    char id[64];
    char payload[96];
    assert_int_equal(
        sscanf(fan_event_id(event), "round-%u-thread-%u-event-%u", &round, &thread, &number), 3);
    assert_true(round < ROUND_COUNT_MAX && thread < THREAD_COUNT && number < EVENT_COUNT_MAX);
    id_of(id, round, thread, number);
    assert_string_equal(fan_event_id(event), id);
    int size = snprintf(payload, sizeof(payload), "{\"id\": \"%s\"}", id);
    assert_int_equal(fan_event_payload(event).size, size);
    assert_memory_equal(fan_event_payload(event).data, payload, (size_t)size);
    assert_true(number < ledger->attempted[round][thread]);
    assert_false(ledger->stored[round][thread][number]);
    ledger->stored[round][thread][number] = true;
    uint64_t seq = ledger->seqs[round][thread][number];
    if (seq != 0)
        assert_int_equal(fan_event_seq(event), seq);
}

static void check_log(const struct place *place)
{
    struct fan_store *store = store_open(place->uri);
    struct fan_batch *batch = batch_new();
    struct fan_read_result result = { 0 };
    uint64_t previous = 0;
    memset(ledger->stored, 0, sizeof(ledger->stored));
    do {
        assert_ok(fan_store_read(store, result.scanned_seq, NULL, batch, &result));
        for (size_t i = 0; i < fan_batch_count(batch); i++) {
            const struct fan_event *event = fan_batch_event(batch, i);
            assert_true(fan_event_seq(event) > previous);
            previous = fan_event_seq(event);
            check_event(event);
        }
    } while (result.scanned_seq < result.head_seq);
    fan_batch_free(batch);
    fan_store_close(store);
    for (uint32_t round = 0; round < ROUND_COUNT_MAX; round++) {
        for (uint32_t thread = 0; thread < THREAD_COUNT; thread++) {
            for (uint32_t number = 0; number < EVENT_COUNT_MAX; number++) {
                if (ledger->seqs[round][thread][number] != 0 &&
                    !ledger->stored[round][thread][number])
                    fail_msg("round %u thread %u event %u was acknowledged and is gone", round,
                             thread, number);
            }
        }
    }
}

static void check_integrity(const struct place *place)
{
    sqlite3 *db = NULL;
    sqlite3_stmt *statement = NULL;
    assert_int_equal(sqlite3_open(place->path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, "PRAGMA integrity_check", -1, &statement, NULL),
                     SQLITE_OK);
    assert_int_equal(sqlite3_step(statement), SQLITE_ROW);
    assert_string_equal((const char *)sqlite3_column_text(statement, 0), "ok");
    sqlite3_finalize(statement);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

static void test_P05_kill_keeps_what_was_acknowledged(void **state)
{
    struct place *place = *state;
    uint64_t random = test_seed();
    uint32_t rounds = test_is_soak() ? ROUND_COUNT_MAX : 5;
    print_message("# FANFARE_SEED=%" PRIu64 "\n", random);
    ledger = test_calloc(1, sizeof(*ledger));
    for (uint32_t round = 0; round < rounds; round++) {
        random = random * UINT64_C(6364136223846793005) + 1442695040888963407;
        uint64_t kill_at = 1 + (random >> 33) % 2000;
        int pipes[2];
        assert_int_equal(pipe(pipes), 0);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            close(pipes[0]);
            run_child(place, pipes[1], round);
        }
        close(pipes[1]);
        uint64_t acknowledged = follow(pipes[0], child, round, kill_at);
        close(pipes[0]);
        int result = 0;
        assert_int_equal(waitpid(child, &result, 0), child);
        assert_true(WIFSIGNALED(result) && WTERMSIG(result) == SIGKILL);
        assert_true(acknowledged >= kill_at);
        check_log(place);
        check_integrity(place);
    }
    test_free(ledger);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        at_a_place(test_P05_kill_keeps_what_was_acknowledged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
