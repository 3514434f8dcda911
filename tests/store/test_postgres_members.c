/*
 * Many on one PostgreSQL: members of a group that are killed at work, and writers of both kinds
 * while transactions sit open. What was seen is kept outside of the processes that are killed, and
 * FANFARE_SOAK=1 makes it minutes.
 */
#include "../seed.h"
#include "postgres.h"
#include "test.h"

#include <fanfare/batch.h>
#include <fanfare/broker.h>
#include <fanfare/env.h>
#include <fanfare/group.h>
#include <fanfare/keep.h>
#include <fanfare/outbox.h>
#include <fanfare/outbox_postgres.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libpq-fe.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define DEADLINE_S 240

static struct test_postgres server;
static const struct fan_group_name group = { "members", "" };
static const char *program;

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

static double now_s(void)
{
    const struct fan_env *env = fan_env_default();
    return (double)env->monotonic_ns(env->context) / 1e9;
}

static void pause_ms(int ms)
{
    poll(NULL, 0, ms);
}

static struct fan_store *store_open(const char *uri)
{
    struct fan_store *store = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    if (fan_store_open(uri, NULL, &store, &error) != FAN_OK)
        fail_msg("%s", error.message);
    return store;
}

static enum fan_status append_one(struct fan_store *store, const char *topic, const char *id)
{
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_event *event = NULL;
    const struct fan_event_draft draft = {
        .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c", .topic = topic, .id = id
    };
    if (fan_event_new(&draft, NULL, &event, &error) != FAN_OK)
        return error.status;
    struct fan_append item = { .event = event };
    enum fan_status status = fan_store_append(store, &item, 1, &error);
    fan_event_free(event, NULL);
    return status == FAN_OK ? item.ret_status : status;
}

/* ---- Members that are killed ---- */

#define MEMBER_COUNT 4
#define KEY_COUNT 24
#define PATH_SIZE 96
#define LEASE_MS 1500

/* A line of the ledger, written in one piece. */
struct line {
    char what; /* 'c'laimed, 'b'egun, 'e'nded */
    uint32_t key;
    uint64_t seq;
    uint64_t token;
    uint32_t attempt;
    uint32_t lapses;
};

static bool note(int ledger, char what, const struct fan_event *event,
                 const struct fan_claim *claim)
{
    struct line line;
    memset(&line, 0, sizeof(line));
    line.what = what;
    line.key = (uint32_t)strtoul(fan_event_topic(event) + 1, NULL, 10);
    line.seq = claim->seq;
    line.token = claim->token;
    line.attempt = claim->attempt;
    line.lapses = claim->lapses;
    return write(ledger, &line, sizeof(line)) == (ssize_t)sizeof(line);
}

/* Handles what it holds while its leases are good: past half of them it leaves the rest. */
static bool handle(struct fan_store *store, int ledger, const struct fan_batch *batch,
                   const struct fan_claim *claims, double until_s)
{
    for (size_t i = 0; i < fan_batch_count(batch); i++) {
        const struct fan_event *event = fan_batch_event(batch, i);
        struct fan_settle item = { .seq = claims[i].seq, .token = claims[i].token };
        if (now_s() > until_s)
            return true;
        if (!note(ledger, 'b', event, &claims[i]))
            return false;
        pause_ms(2);
        if (!note(ledger, 'e', event, &claims[i]))
            return false;
        enum fan_status status = fan_group_settle(store, &group, &item, 1);
        if (status != FAN_OK && status != FAN_UNAVAILABLE)
            return false;
    }
    return true;
}

/* The program of a member: works until it is killed. */
static int member(const char *uri, const char *path, const char *owner)
{
    struct fan_store *store = NULL;
    struct fan_batch *batch = NULL;
    struct fan_claim claims[6];
    const struct fan_claim_options options = { .size = FAN_CLAIM_OPTIONS_SIZE,
                                               .owner = owner,
                                               .limit = 6,
                                               .lease_ms = LEASE_MS,
                                               .ordered = true };
    int ledger = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (ledger < 0 || fan_batch_new(NULL, &batch) != FAN_OK ||
        fan_store_open(uri, NULL, &store, NULL) != FAN_OK)
        return 1;
    for (;;) {
        double until_s = now_s() + LEASE_MS / 2000.0;
        enum fan_status status = fan_group_claim(store, &group, &options, batch, claims);
        if (status == FAN_AGAIN || status == FAN_UNAVAILABLE) {
            pause_ms(10);
            continue;
        }
        if (status != FAN_OK)
            return 1;
        for (size_t i = 0; i < fan_batch_count(batch); i++) {
            if (!note(ledger, 'c', fan_batch_event(batch, i), &claims[i]))
                return 1;
        }
        if (!handle(store, ledger, batch, claims, until_s))
            return 1;
    }
}

static pid_t member_start(const char *uri, const char *path, unsigned number)
{
    char owner[16];
    snprintf(owner, sizeof(owner), "member-%u", number);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        execl(program, program, "member", uri, path, owner, (char *)NULL);
        _exit(127);
    }
    return child;
}

static void member_kill(pid_t child)
{
    int result = 0;
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, &result, 0), child);
    /* Not one of them ended by itself. */
    assert_true(WIFSIGNALED(result) && WTERMSIG(result) == SIGKILL);
}

/* What the ledger says of an event. */
struct fate {
    bool ended;
    uint32_t attempt;
};

struct ledger {
    struct fate *fates; /* by sequence */
    uint64_t last[KEY_COUNT];
};

/* Of a key nothing begins before all that is older has ended. */
static void check_line(struct ledger *ledger, const struct line *line, const uint64_t *previous)
{
    struct fate *fate = &ledger->fates[line->seq];
    switch (line->what) {
    case 'c':
        assert_true(line->attempt > fate->attempt);
        assert_int_equal(line->lapses, line->attempt - 1);
        fate->attempt = line->attempt;
        break;
    case 'b':
        assert_true(line->seq >= ledger->last[line->key]);
        assert_true(previous[line->seq] == 0 || ledger->fates[previous[line->seq]].ended);
        ledger->last[line->key] = line->seq;
        break;
    default:
        assert_int_equal(line->what, 'e');
        fate->ended = true;
        break;
    }
}

static size_t ledger_count(const char *path, char what)
{
    FILE *file = fopen(path, "rb");
    struct line line;
    size_t count = 0;
    assert_non_null(file);
    while (fread(&line, sizeof(line), 1, file) == 1)
        count += line.what == what;
    fclose(file);
    return count;
}

static void check_ledger(struct fan_store *store, const char *path, size_t count)
{
    struct ledger ledger = { .fates = NULL };
    uint64_t previous_of_key[KEY_COUNT] = { 0 };
    uint64_t *previous = calloc(count + 1, sizeof(*previous));
    ledger.fates = calloc(count + 1, sizeof(*ledger.fates));
    if (!previous || !ledger.fates)
        abort();
    /* The log is fresh, and has one writer: sequences are 1, 2, 3 ... */
    for (size_t seq = 1; seq <= count; seq++) {
        previous[seq] = previous_of_key[(seq - 1) % KEY_COUNT];
        previous_of_key[(seq - 1) % KEY_COUNT] = seq;
    }
    FILE *file = fopen(path, "rb");
    struct line line;
    assert_non_null(file);
    while (fread(&line, sizeof(line), 1, file) == 1) {
        assert_in_range(line.seq, 1, count);
        assert_int_equal(line.key, (line.seq - 1) % KEY_COUNT);
        check_line(&ledger, &line, previous);
    }
    fclose(file);
    for (size_t seq = 1; seq <= count; seq++)
        assert_true(ledger.fates[seq].ended);
    struct fan_store_stats stats = { .size = sizeof(stats) };
    assert_ok(fan_store_stats(store, &stats));
    assert_int_equal(stats.completed, count);
    free(previous);
    free(ledger.fates);
}

static bool see_delivery(void *context, const struct fan_delivery *delivery)
{
    size_t *wrong = context;
    /* Nothing was retried or handed back: each attempt but the last one lapsed. */
    *wrong += delivery->status != FAN_EVENT_COMPLETED ||
              delivery->attempts != delivery->lapses + 1 || delivery->owner[0] != '\0';
    return true;
}

static bool see_finding(void *context, const struct fan_finding *finding)
{
    (void)context;
    print_message("%s %" PRIu64 ": %s\n", finding->part, finding->seq, finding->words);
    return true;
}

/* A file that goes with the server's folder. */
static int file_made(char path[static PATH_SIZE])
{
    snprintf(path, PATH_SIZE, "%s/file-XXXXXX", server.folder);
    int file = mkstemp(path);
    assert_true(file >= 0);
    return file;
}

static void test_P09_H04_members_that_are_killed_strand_nothing_and_keep_the_order(void **state)
{
    (void)state;
    char uri[256];
    char path[PATH_SIZE];
    pid_t members[MEMBER_COUNT];
    unsigned number = 0;
    size_t kills = test_is_soak() ? 120 : 4;
    size_t each = 5 * KEY_COUNT;
    size_t count = 0;
    test_postgres_uri(&server, "schema=members", uri, sizeof(uri));
    close(file_made(path));
    struct fan_store *store = store_open(uri);
    const struct fan_group_options options = { .size = FAN_GROUP_OPTIONS_SIZE };
    assert_ok(fan_group_create(store, &group, &options, NULL));
    for (size_t i = 0; i < MEMBER_COUNT; i++)
        members[i] = member_start(uri, path, number++);
    for (size_t round = 0; round < kills; round++) {
        for (size_t i = 0; i < each; i++, count++) {
            char topic[16];
            snprintf(topic, sizeof(topic), "k%zu", count % KEY_COUNT);
            assert_ok(append_one(store, topic, NULL));
        }
        /* Once a second, and at work: there is more to do, and something was done since. */
        size_t before = ledger_count(path, 'e');
        double until_s = now_s() + 1;
        while (now_s() < until_s || ledger_count(path, 'e') == before) {
            assert_true(now_s() < until_s + DEADLINE_S);
            pause_ms(20);
        }
        member_kill(members[round % MEMBER_COUNT]);
        members[round % MEMBER_COUNT] = member_start(uri, path, number++);
    }
    double until_s = now_s() + DEADLINE_S;
    struct fan_store_stats stats = { .size = sizeof(stats) };
    do {
        pause_ms(50);
        assert_ok(fan_store_stats(store, &stats));
        assert_true(now_s() < until_s);
    } while (stats.completed < count);
    for (size_t i = 0; i < MEMBER_COUNT; i++)
        member_kill(members[i]);
    check_ledger(store, path, count);
    size_t wrong = 0;
    for (uint64_t seq = 1; seq <= count; seq++)
        assert_ok(fan_store_deliveries(store, seq, 0, see_delivery, &wrong));
    assert_int_equal(wrong, 0);
    assert_ok(fan_store_verify(store, see_finding, NULL, NULL));
    fan_store_close(store);
    unlink(path);
}

/* ---- Writers of both kinds, while transactions sit open ---- */

#define WRITER_COUNT 16 /* half of them by SQL */
#define READER_COUNT 4
#define SITTER_COUNT 2
#define PROCESS_COUNT 4 /* of writers, and half as many of readers, each of its own memory */
#define ROLLED_BACK 999999999

/* In a file that all processes have mapped. */
struct churn {
    char uri[256];
    char libpq[256];
    atomic_bool ends;
    atomic_bool written;
    atomic_bool failed;
    atomic_uint processes;
    atomic_uint_fast64_t counts[WRITER_COUNT]; /* what each has committed */
    atomic_uint_fast64_t sat[SITTER_COUNT];    /* events recorded while its transaction was open */
};

struct actor {
    struct churn *churn;
    size_t index;
    pthread_t thread;
};

static void give_up(struct churn *churn, const char *words)
{
    fprintf(stderr, "# %s\n", words);
    atomic_store(&churn->failed, true);
}

/* NULL when that was told. A machine with much else to do may take its time. */
static struct fan_store *churn_store(struct churn *churn)
{
    struct fan_store *store = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    double until_s = now_s() + DEADLINE_S;
    enum fan_status status;
    do
        status = fan_store_open(churn->uri, NULL, &store, &error);
    while (status == FAN_UNAVAILABLE && now_s() < until_s);
    if (status != FAN_OK)
        give_up(churn, error.message);
    return store;
}

/* Each writer's ids count from 0 on; what is not certain is said again. */
static void *write_store(void *argument)
{
    struct actor *actor = argument;
    struct churn *churn = actor->churn;
    struct fan_store *store = churn_store(churn);
    for (uint64_t i = 0; store && !atomic_load(&churn->ends);) {
        char id[32];
        snprintf(id, sizeof(id), "%zu-%" PRIu64, actor->index, i);
        enum fan_status status = append_one(store, "churn", id);
        if (status == FAN_OK)
            atomic_store(&churn->counts[actor->index], ++i);
        else if (status != FAN_UNAVAILABLE && status != FAN_UNKNOWN)
            give_up(churn, fan_status_text(status));
        if (atomic_load(&churn->failed))
            break;
    }
    fan_store_close(store);
    return NULL;
}

static bool run_sql(PGconn *conn, const char *sql)
{
    PGresult *result = PQexec(conn, sql);
    ExecStatusType state = PQresultStatus(result);
    PQclear(result);
    return state == PGRES_COMMAND_OK || state == PGRES_TUPLES_OK;
}

/* Some stay open between two events, so that others commit first; some are rolled back. */
static bool write_transaction(PGconn *conn, size_t index, uint64_t first, uint64_t count, bool back)
{
    bool good = run_sql(conn, "BEGIN");
    for (uint64_t i = 0; i < count && good; i++) {
        char sql[160];
        snprintf(sql, sizeof(sql),
                 "SELECT fan_outbox.publish('a.b.c', topic => 'churn', id => '%zu-%" PRIu64 "')",
                 index, back ? ROLLED_BACK : first + i);
        good = run_sql(conn, sql);
        pause_ms((int)((first + index) % 5) * 4);
    }
    return good && run_sql(conn, back ? "ROLLBACK" : "COMMIT");
}

static void *write_sql(void *argument)
{
    struct actor *actor = argument;
    struct churn *churn = actor->churn;
    PGconn *conn = PQconnectdb(churn->libpq);
    uint64_t done = 0;
    for (unsigned turn = 0; !atomic_load(&churn->ends) && !atomic_load(&churn->failed); turn++) {
        uint64_t count = 1 + turn % 3;
        bool back = turn % 8 == 7;
        if (!write_transaction(conn, actor->index, done, count, back))
            give_up(churn, PQerrorMessage(conn));
        else if (!back)
            atomic_store(&churn->counts[actor->index], done += count);
        pause_ms(1);
    }
    PQfinish(conn);
    return NULL;
}

static uint64_t count_written(struct churn *churn)
{
    uint64_t sum = 0;
    for (size_t i = WRITER_COUNT / 2; i < WRITER_COUNT; i++)
        sum += atomic_load(&churn->counts[i]);
    return sum;
}

/* Holds transactions open that have written something, for half a second or longer at a time. */
static void *sit(void *argument)
{
    struct actor *actor = argument;
    struct churn *churn = actor->churn;
    PGconn *conn = PQconnectdb(churn->libpq);
    while (!atomic_load(&churn->ends) && !atomic_load(&churn->failed)) {
        if (!run_sql(conn, "BEGIN; INSERT INTO sitters VALUES(1)"))
            give_up(churn, PQerrorMessage(conn));
        uint64_t before = count_written(churn);
        double until_s = now_s() + 0.5 + (double)actor->index;
        while (now_s() < until_s && !atomic_load(&churn->ends))
            pause_ms(20);
        if (PQtransactionStatus(conn) != PQTRANS_INTRANS)
            give_up(churn, "a transaction did not stay open");
        atomic_fetch_add(&churn->sat[actor->index], count_written(churn) - before);
        if (!run_sql(conn, actor->index % 2 ? "ROLLBACK" : "COMMIT"))
            give_up(churn, PQerrorMessage(conn));
    }
    PQfinish(conn);
    return NULL;
}

/* Every writer's next event is the one after its last: nothing is missed, doubled or turned. */
static bool take(struct churn *churn, const struct fan_event *event, uint64_t next[WRITER_COUNT])
{
    char *rest = NULL;
    size_t writer = strtoul(fan_event_id(event), &rest, 10);
    uint64_t number = strtoull(rest + 1, NULL, 10);
    if (writer < WRITER_COUNT && number == next[writer]) {
        next[writer]++;
        return true;
    }
    char words[96];
    snprintf(words, sizeof(words), "%s came where %" PRIu64 " was next", fan_event_id(event),
             writer < WRITER_COUNT ? next[writer] : 0);
    give_up(churn, words);
    return false;
}

static bool has_all(struct churn *churn, const uint64_t next[WRITER_COUNT])
{
    for (size_t i = 0; i < WRITER_COUNT; i++) {
        if (next[i] < atomic_load(&churn->counts[i]))
            return false;
    }
    return atomic_load(&churn->written);
}

static void *read_store(void *argument)
{
    struct actor *actor = argument;
    struct churn *churn = actor->churn;
    struct fan_store *store = churn_store(churn);
    struct fan_batch *batch = NULL;
    uint64_t next[WRITER_COUNT] = { 0 };
    uint64_t cursor = 0;
    double until_s = 0;
    if (fan_batch_new(NULL, &batch) != FAN_OK)
        give_up(churn, "no memory");
    while (store && !has_all(churn, next) && !atomic_load(&churn->failed)) {
        struct fan_read_result result;
        const struct fan_query query = { .size = FAN_QUERY_SIZE, .limit = 50 + actor->index };
        enum fan_status status = fan_store_read(store, cursor, &query, batch, &result);
        for (size_t i = 0; status == FAN_OK && i < fan_batch_count(batch); i++) {
            if (!take(churn, fan_batch_event(batch, i), next))
                break;
        }
        if (status == FAN_OK)
            cursor = result.scanned_seq;
        if (status == FAN_OK && cursor >= result.head_seq)
            status = fan_store_wait(store, cursor, 100);
        if (status != FAN_OK && status != FAN_AGAIN && status != FAN_UNAVAILABLE)
            give_up(churn, fan_status_text(status));
        if (until_s == 0 && atomic_load(&churn->written))
            until_s = now_s() + DEADLINE_S;
        if (until_s > 0 && now_s() > until_s)
            give_up(churn, "a reader has not come to the end");
    }
    fan_batch_free(batch);
    fan_store_close(store);
    return NULL;
}

/* What the threads of a process are, of how many in all. */
static const struct part {
    const char *name;
    void *(*run)(void *);
    size_t first;
    size_t count;
    size_t processes;
} parts[] = {
    { "store", write_store, 0, WRITER_COUNT / 2, PROCESS_COUNT },
    { "sql", write_sql, WRITER_COUNT / 2, WRITER_COUNT / 2, PROCESS_COUNT },
    { "read", read_store, 0, READER_COUNT, PROCESS_COUNT / 2 },
    { "sit", sit, 0, SITTER_COUNT, 1 },
};
#define PART_COUNT (sizeof(parts) / sizeof(parts[0]))

static struct churn *churn_map(const char *path)
{
    int file = open(path, O_RDWR | O_CLOEXEC);
    void *at = file < 0
                   ? MAP_FAILED
                   : mmap(NULL, sizeof(struct churn), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (file >= 0)
        close(file);
    return at == MAP_FAILED ? NULL : at;
}

/* The program of a process: its share of a part, as threads. */
static int act(const char *path, const char *name, const char *number)
{
    struct actor actors[WRITER_COUNT];
    struct churn *churn = churn_map(path);
    const struct part *part = parts;
    size_t index = strtoul(number, NULL, 10);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (part < parts + PART_COUNT && strcmp(part->name, name) != 0)
        part++;
    if (!churn || part == parts + PART_COUNT)
        return 1;
    size_t count = part->count / part->processes;
    atomic_fetch_add(&churn->processes, 1);
    for (size_t i = 0; i < count; i++) {
        actors[i] = (struct actor){ .churn = churn, .index = part->first + index * count + i };
        if (pthread_create(&actors[i].thread, NULL, part->run, &actors[i]) != 0)
            return 1;
    }
    for (size_t i = 0; i < count; i++)
        pthread_join(actors[i].thread, NULL);
    return atomic_load(&churn->failed);
}

static void part_start(const struct part *part, const char *path, pid_t *children)
{
    for (size_t i = 0; i < part->processes; i++) {
        char number[24];
        snprintf(number, sizeof(number), "%zu", i);
        children[i] = fork();
        assert_true(children[i] >= 0);
        if (children[i] == 0) {
            execl(program, program, "act", path, part->name, number, (char *)NULL);
            _exit(127);
        }
    }
}

static void part_join(const struct part *part, const pid_t *children)
{
    for (size_t i = 0; i < part->processes; i++) {
        int result = 0;
        assert_int_equal(waitpid(children[i], &result, 0), children[i]);
        assert_int_equal(result, 0);
    }
}

static void outbox_make(const char *libpq)
{
    PGconn *conn = PQconnectdb(libpq);
    struct fan_error error = FAN_ERROR_INIT;
    assert_int_equal(PQstatus(conn), CONNECTION_OK);
    if (fan_outbox_postgres_create(conn, NULL, &error) != FAN_OK)
        fail_msg("%s", error.message);
    assert_true(run_sql(conn, "CREATE TABLE sitters(a integer)"));
    PQfinish(conn);
}

static struct churn *churn_made(char path[static PATH_SIZE])
{
    int file = file_made(path);
    assert_int_equal(ftruncate(file, sizeof(struct churn)), 0);
    close(file);
    struct churn *churn = churn_map(path);
    assert_non_null(churn);
    test_postgres_uri(&server, "schema=churn", churn->uri, sizeof(churn->uri));
    snprintf(churn->libpq, sizeof(churn->libpq), "postgres://fan@/fan?host=%s&port=%u",
             server.folder, server.port);
    outbox_make(churn->libpq);
    return churn;
}

static void test_L10_P10_H12_no_event_is_missed_while_transactions_sit_open(void **state)
{
    (void)state;
    char path[PATH_SIZE];
    struct churn *churn = churn_made(path);
    pid_t children[PART_COUNT][PROCESS_COUNT];
    struct fan_store *store = churn_store(churn);
    struct fan_broker *broker = NULL;
    struct fan_outbox_relay *relay = NULL;
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    const struct fan_outbox_relay_options relay_options = { .size = FAN_OUTBOX_RELAY_OPTIONS_SIZE,
                                                            .database = churn->libpq };
    double begun_s = now_s();
    options.store = store;
    assert_ok(fan_broker_open(NULL, &options, &broker, NULL));
    assert_ok(fan_broker_start(broker));
    enum fan_status status;
    while ((status = fan_outbox_relay_open(broker, &relay_options, &relay, NULL)) ==
           FAN_UNAVAILABLE)
        assert_true(now_s() < begun_s + DEADLINE_S);
    assert_ok(status);
    assert_ok(fan_outbox_relay_start(relay));
    double until_s = now_s() + (test_is_soak() ? 600 : 20);
    for (size_t i = 0; i < PART_COUNT; i++)
        part_start(&parts[i], path, children[i]);
    while (now_s() < until_s && !atomic_load(&churn->failed))
        pause_ms(50);
    atomic_store(&churn->ends, true);
    for (size_t i = 0; i < PART_COUNT; i++) {
        if (parts[i].run != read_store)
            part_join(&parts[i], children[i]);
    }
    atomic_store(&churn->written, true);
    part_join(&parts[2], children[2]);
    assert_int_equal(atomic_load(&churn->processes), 2 * PROCESS_COUNT + PROCESS_COUNT / 2 + 1);
    for (size_t i = 0; i < WRITER_COUNT; i++)
        assert_true(atomic_load(&churn->counts[i]) > 0);
    /* Others were at work while each of them sat there. */
    for (size_t i = 0; i < SITTER_COUNT; i++)
        assert_true(atomic_load(&churn->sat[i]) > 0);
    fan_outbox_relay_free(relay);
    assert_ok(fan_broker_stop(broker, 10000));
    fan_broker_free(broker);
    fan_store_close(store);
    munmap(churn, sizeof(*churn));
    unlink(path);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_P09_H04_members_that_are_killed_strand_nothing_and_keep_the_order),
        cmocka_unit_test(test_L10_P10_H12_no_event_is_missed_while_transactions_sit_open),
    };
    program = argv[0];
    if (argc == 5 && strcmp(argv[1], "member") == 0)
        return member(argv[2], argv[3], argv[4]);
    if (argc == 5 && strcmp(argv[1], "act") == 0)
        return act(argv[2], argv[3], argv[4]);
    return cmocka_run_group_tests(tests, start, end);
}
