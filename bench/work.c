/*
 * Handlers: durable work through ten workers, held against a bare claim-and-acknowledge loop on the
 * same log, and how long it is from a publish until its handler has returned. The bare loop is
 * SQLite's C API alone, with our schema and statements, 1,000 events a claim, one sync for each
 * acknowledgement of them and, as ours, none for the claim.
 */
#include "bench.h"

#include "store/sqlite/sql.h"

#include <fanfare/fanfare.h>

#include <sqlite3.h>

#include <ftw.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EVENT_COUNT 100000
#define FLIGHT_COUNT 10000
#define LATENCY_COUNT 2000
#define CLAIM_COUNT 1000
#define PAYLOAD_SIZE 400
#define GROUP "mail"

static struct {
    char folder[64];
    char path[96];
    char uri[128];
    char payload[PAYLOAD_SIZE + 1];
} place;

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *ftw)
{
    (void)info;
    (void)type;
    (void)ftw;
    return remove(path);
}

static void place_end(void)
{
    nftw(place.folder, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

static void place_begin(void)
{
    /* Where the tree is: /tmp may be memory, whose syncs cost nothing. */
    strcpy(place.folder,
           access("build/bench", W_OK) == 0 ? "build/bench/work-XXXXXX" : "./bench-work-XXXXXX");
    bench_must(mkdtemp(place.folder) != NULL, "%s: cannot be made", place.folder);
    atexit(place_end);
    snprintf(place.path, sizeof(place.path), "%s/events.db", place.folder);
    snprintf(place.uri, sizeof(place.uri), "sqlite:%s", place.path);
    int size = snprintf(place.payload, sizeof(place.payload), "{\"name\": \"");
    memset(place.payload + size, 'a', PAYLOAD_SIZE - (size_t)size);
    memcpy(place.payload + PAYLOAD_SIZE - 2, "\"}", 2);
}

static void remove_log(void)
{
    static const char *const suffixes[] = { "", "-wal", "-shm" };
    for (int i = 0; i < 3; i++) {
        char path[128];
        snprintf(path, sizeof(path), "%s%s", place.path, suffixes[i]);
        unlink(path);
    }
}

static struct fan_event_draft draft(void)
{
    return (struct fan_event_draft){
        .size = FAN_EVENT_DRAFT_SIZE,
        .type = "library.album.create",
        .topic = "library",
        .payload = { place.payload, PAYLOAD_SIZE },
    };
}

static struct fan_broker *broker_begin(const struct fan_metrics *metrics)
{
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_broker *broker = NULL;
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    options.metrics = metrics;
    bench_must(fan_broker_open(place.uri, &options, &broker, &error) == FAN_OK &&
                   fan_broker_start(broker) == FAN_OK,
               "broker: %s", error.message);
    return broker;
}

static void broker_end(struct fan_broker *broker)
{
    bench_must(fan_broker_stop(broker, 60000) == FAN_OK, "the broker did not stop in time");
    fan_broker_free(broker);
}

/* A log of EVENT_COUNT events that a group is owed, from the beginning. */
static void fill(void)
{
    remove_log();
    struct fan_broker *broker = broker_begin(NULL);
    struct fan_group_name name = { GROUP, "" };
    struct fan_group_options group = { .size = FAN_GROUP_OPTIONS_SIZE };
    struct fan_event_draft event = draft();
    bench_must(fan_group_create(fan_broker_store(broker), &name, &group, NULL) == FAN_OK, "group");
    for (int i = 1; i <= EVENT_COUNT; i++) {
        enum fan_status status = i % FLIGHT_COUNT == 0
                                     ? fan_broker_publish(broker, &event, NULL, NULL)
                                     : fan_broker_publish_async(broker, &event, NULL, NULL, NULL);
        bench_must(status == FAN_OK, "publish: %s", fan_status_text(status));
    }
    broker_end(broker);
}

/* ------------------------------------------------------------------ ours */

struct work {
    atomic_uint_fast64_t handled;
    atomic_uint_fast64_t bytes;
    double at;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    uint64_t wanted; /* which call is the last, by how many; 0: another tells of the end */
    bool done;
};

static void work_done(struct work *work)
{
    double at = bench_now();
    pthread_mutex_lock(&work->mutex);
    work->at = at;
    work->done = true;
    pthread_cond_signal(&work->changed);
    pthread_mutex_unlock(&work->mutex);
}

static enum fan_verdict on_event(void *context, const struct fan_event *event,
                                 const struct fan_handling *handling)
{
    (void)handling;
    struct work *work = context;
    atomic_fetch_add(&work->bytes, fan_event_payload(event).size);
    if (atomic_fetch_add(&work->handled, 1) + 1 == work->wanted)
        work_done(work);
    return FAN_VERDICT_DONE;
}

static void work_wait(struct work *work)
{
    pthread_mutex_lock(&work->mutex);
    while (!work->done)
        pthread_cond_wait(&work->changed, &work->mutex);
    pthread_mutex_unlock(&work->mutex);
}

static void check_completed(void)
{
    struct fan_store *store = NULL;
    struct fan_store_stats stats = { .size = sizeof(stats) };
    bench_must(fan_store_open(place.uri, NULL, &store, NULL) == FAN_OK &&
                   fan_store_stats(store, &stats) == FAN_OK,
               "the log cannot be read");
    bench_must(stats.completed == EVENT_COUNT, "%" PRIu64 " are completed", stats.completed);
    fan_store_close(store);
}

static double work_many(void *context)
{
    (void)context;
    fill();
    struct work work = { .mutex = PTHREAD_MUTEX_INITIALIZER,
                         .changed = PTHREAD_COND_INITIALIZER,
                         .wanted = EVENT_COUNT };
    struct fan_broker *broker = broker_begin(NULL);
    struct fan_handler_options options = {
        .size = FAN_HANDLER_OPTIONS_SIZE, .group = GROUP, .handle = on_event, .context = &work
    };
    double start = bench_now();
    bench_must(fan_broker_handle(broker, &options, NULL, NULL) == FAN_OK, "handle");
    work_wait(&work);
    /* The stop waits until the last outcome is in the log. */
    bench_must(fan_broker_stop(broker, 60000) == FAN_OK, "the broker did not stop in time");
    double seconds = bench_now() - start;
    fan_broker_free(broker);
    bench_must(work.bytes == (uint64_t)EVENT_COUNT * PAYLOAD_SIZE, "events differ");
    check_completed();
    return EVENT_COUNT / seconds;
}

/* ------------------------------------------------------------------ the peer, SQLite alone */

struct bare {
    sqlite3 *db;
    sqlite3_stmt *walk;
    sqlite3_stmt *insert;
    sqlite3_stmt *advance;
    sqlite3_stmt *done;
    sqlite3_stmt *completed;
    int64_t cursor;
    int64_t token;
    uint64_t bytes;
    char copy[1 << 16];
};

static void bare_exec(struct bare *bare, const char *sql)
{
    bench_must(sqlite3_exec(bare->db, sql, NULL, NULL, NULL) == SQLITE_OK, "%s: %s", sql,
               sqlite3_errmsg(bare->db));
}

static sqlite3_stmt *bare_prepare(struct bare *bare, enum fan__sqlite_statement name)
{
    static const char *const texts[] = {
#define BENCH_TEXT(statement, text) text,
        FAN__SQLITE_STATEMENTS(BENCH_TEXT)
#undef BENCH_TEXT
    };
    sqlite3_stmt *statement = NULL;
    bench_must(sqlite3_prepare_v3(bare->db, texts[name], -1, SQLITE_PREPARE_PERSISTENT, &statement,
                                  NULL) == SQLITE_OK,
               "%s: %s", texts[name], sqlite3_errmsg(bare->db));
    return statement;
}

static void bare_run(struct bare *bare, sqlite3_stmt *statement)
{
    bench_must(sqlite3_step(statement) == SQLITE_DONE, "%s", sqlite3_errmsg(bare->db));
    sqlite3_reset(statement);
}

static void bare_claim_one(struct bare *bare, int64_t us)
{
    int64_t seq = sqlite3_column_int64(bare->walk, 0);
    for (int column = 1; column < 10; column++) {
        const void *value = sqlite3_column_blob(bare->walk, column);
        if (value)
            memcpy(bare->copy, value, (size_t)sqlite3_column_bytes(bare->walk, column));
    }
    bare->bytes += (uint64_t)sqlite3_column_bytes(bare->walk, 9);
    bare->cursor = seq;
    sqlite3_bind_int64(bare->insert, 1, seq);
    sqlite3_bind_int64(bare->insert, 2, 1);
    sqlite3_bind_int(bare->insert, 3, FAN_EVENT_PROCESSING);
    sqlite3_bind_int(bare->insert, 4, 1);
    sqlite3_bind_int64(bare->insert, 5, bare->token);
    sqlite3_bind_text(bare->insert, 6, "12345-0123456789abcdef", -1, SQLITE_STATIC);
    sqlite3_bind_int64(bare->insert, 7, us + 30000000);
    sqlite3_bind_int64(bare->insert, 8, us);
    sqlite3_bind_int(bare->insert, 11, 0);
    bare_run(bare, bare->insert);
}

static int64_t bare_claim(struct bare *bare, int64_t us)
{
    bare_exec(bare, "PRAGMA synchronous = NORMAL; BEGIN IMMEDIATE");
    bare->token++;
    sqlite3_bind_int64(bare->walk, 1, bare->cursor);
    sqlite3_bind_int64(bare->walk, 2, EVENT_COUNT);
    int64_t count = 0;
    while (count < CLAIM_COUNT && sqlite3_step(bare->walk) == SQLITE_ROW) {
        bare_claim_one(bare, us);
        count++;
    }
    sqlite3_reset(bare->walk);
    sqlite3_bind_int64(bare->advance, 1, 1);
    sqlite3_bind_int64(bare->advance, 2, bare->cursor);
    sqlite3_bind_int64(bare->advance, 3, bare->token);
    sqlite3_bind_int(bare->advance, 4, 0);
    sqlite3_bind_int(bare->advance, 5, 0);
    sqlite3_bind_int64(bare->advance, 6, us);
    bare_run(bare, bare->advance);
    bare_exec(bare, "COMMIT");
    return count;
}

static void bare_acknowledge(struct bare *bare, int64_t count, int64_t us)
{
    bare_exec(bare, "PRAGMA synchronous = FULL; BEGIN IMMEDIATE");
    for (int64_t seq = bare->cursor - count + 1; seq <= bare->cursor; seq++) {
        sqlite3_bind_int64(bare->done, 1, seq);
        sqlite3_bind_int64(bare->done, 2, 1);
        sqlite3_bind_int64(bare->done, 3, bare->token);
        sqlite3_bind_int64(bare->done, 4, us);
        bare_run(bare, bare->done);
    }
    sqlite3_bind_int64(bare->completed, 1, 1);
    sqlite3_bind_int64(bare->completed, 2, count);
    sqlite3_bind_int64(bare->completed, 3, 0);
    bare_run(bare, bare->completed);
    bare_exec(bare, "COMMIT");
}

static double bare_many(void *context)
{
    (void)context;
    static struct bare bare;
    fill();
    bare = (struct bare){ .cursor = 0 };
    bench_must(sqlite3_open_v2(place.path, &bare.db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX,
                               NULL) == SQLITE_OK,
               "%s: cannot be opened", place.path);
    bare_exec(&bare, "PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 8000;"
                     "PRAGMA cache_size = -8000");
    bare.walk = bare_prepare(&bare, FAN__SQL_WALK_ALL);
    bare.insert = bare_prepare(&bare, FAN__SQL_DELIVERY_INSERT);
    bare.advance = bare_prepare(&bare, FAN__SQL_GROUP_ADVANCE);
    bare.done = bare_prepare(&bare, FAN__SQL_DELIVERY_DONE);
    bare.completed = bare_prepare(&bare, FAN__SQL_GROUP_COMPLETED);
    double start = bench_now();
    int64_t us = 1700000000000000;
    int64_t count;
    while ((count = bare_claim(&bare, us++)) > 0)
        bare_acknowledge(&bare, count, us++);
    double seconds = bench_now() - start;
    bench_must(bare.bytes == (uint64_t)EVENT_COUNT * PAYLOAD_SIZE, "events differ");
    sqlite3_finalize(bare.walk);
    sqlite3_finalize(bare.insert);
    sqlite3_finalize(bare.advance);
    sqlite3_finalize(bare.done);
    sqlite3_finalize(bare.completed);
    sqlite3_close(bare.db);
    check_completed();
    return EVENT_COUNT / seconds;
}

/* ------------------------------------------------------------------ latency */

static int compare(const void *a, const void *b)
{
    double left = *(const double *)a;
    double right = *(const double *)b;
    return (left > right) - (left < right);
}

/* The end of a call: its handler has returned. */
static void on_worker(void *context, int change)
{
    if (change < 0)
        work_done(context);
}

/* One event at a time, each published when the one before is handled. In microseconds. */
static void latencies(double values[LATENCY_COUNT])
{
    remove_log();
    struct work work = { .mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };
    struct fan_metrics metrics = { .size = FAN_METRICS_SIZE,
                                   .context = &work,
                                   .workers_active = on_worker };
    struct fan_handler_options options = {
        .size = FAN_HANDLER_OPTIONS_SIZE, .group = GROUP, .handle = on_event, .context = &work
    };
    struct fan_event_draft event = draft();
    struct fan_broker *broker = broker_begin(&metrics);
    bench_must(fan_broker_handle(broker, &options, NULL, NULL) == FAN_OK, "handle");
    for (uint64_t i = 0; i < LATENCY_COUNT; i++) {
        pthread_mutex_lock(&work.mutex);
        work.done = false;
        pthread_mutex_unlock(&work.mutex);
        double start = bench_now();
        bench_must(fan_broker_publish(broker, &event, NULL, NULL) == FAN_OK, "publish");
        work_wait(&work);
        values[i] = (work.at - start) * 1e6;
    }
    broker_end(broker);
    qsort(values, LATENCY_COUNT, sizeof(values[0]), compare);
}

int main(int argc, char **argv)
{
    bench_begin(argc, argv);
    place_begin();
    bench_compare(&(struct bench_case){ "work through ten workers", "events/s",
                                        "bare claim and acknowledge", 0.7, false },
                  work_many, bare_many, NULL);
    static double values[LATENCY_COUNT];
    latencies(values);
    bench_value(&(struct bench_case){ "publish to handled, p50", "us", "wanted", 0, true },
                values[LATENCY_COUNT / 2], 2000);
    bench_value(&(struct bench_case){ "publish to handled, p99", "us", "wanted", 0, true },
                values[LATENCY_COUNT * 99 / 100], 10000);
    return bench_end();
}
