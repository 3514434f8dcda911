/*
 * The log: durable publish and replay through the public API, held against a bare SQLite loop with
 * the same schema, indexes, ids and batch size, in the same run. Events carry 400 bytes of JSON,
 * commits are synchronous=FULL; syncs are counted in this process by standing before libc's.
 */
#include "bench.h"

#include "store/sqlite/sql.h"

#include <fanfare/batch.h>
#include <fanfare/broker.h>
#include <fanfare/fanfare.h>

#include <sqlite3.h>

#include <ftw.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MANY_COUNT 200000
#define ONE_COUNT 4000
#define REPLAY_COUNT 500000
#define BATCH_COUNT 1000
#define FLIGHT_COUNT_MAX 16384
#define TOPIC_COUNT 50
#define USER_COUNT 10000
#define PAYLOAD_SIZE 400

static atomic_uint_fast64_t syncs;

__attribute__((visibility("default"))) int fdatasync(int file);
__attribute__((visibility("default"))) int fsync(int file);

int fdatasync(int file)
{
    atomic_fetch_add(&syncs, 1);
    return (int)syscall(SYS_fdatasync, file);
}

int fsync(int file)
{
    atomic_fetch_add(&syncs, 1);
    return (int)syscall(SYS_fsync, file);
}

static struct {
    char folder[64];
    char path[96];
    char uri[128];
    char payload[PAYLOAD_SIZE + 1];
    char topics[TOPIC_COUNT][32];
    uint64_t random;
    const struct fan_metrics *metrics; /* who counts in the brokers to come */
    uint64_t commits;
    uint64_t syncs;
} place;

static uint64_t next_random(void)
{
    place.random ^= place.random << 13;
    place.random ^= place.random >> 7;
    place.random ^= place.random << 17;
    return place.random;
}

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
           access("build/bench", W_OK) == 0 ? "build/bench/log-XXXXXX" : "./bench-log-XXXXXX");
    bench_must(mkdtemp(place.folder) != NULL, "%s: cannot be made", place.folder);
    atexit(place_end);
    snprintf(place.path, sizeof(place.path), "%s/events.db", place.folder);
    snprintf(place.uri, sizeof(place.uri), "sqlite:%s", place.path);
    place.random = 88172645463325252;
    int size = snprintf(place.payload, sizeof(place.payload), "{\"name\": \"");
    memset(place.payload + size, 'a', PAYLOAD_SIZE - (size_t)size);
    memcpy(place.payload + PAYLOAD_SIZE - 2, "\"}", 2);
    for (int i = 0; i < TOPIC_COUNT; i++)
        snprintf(place.topics[i], sizeof(place.topics[i]), "library/artist/%d", i);
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

static struct fan_event_draft next_draft(void)
{
    uint64_t random = next_random();
    return (struct fan_event_draft){
        .size = FAN_EVENT_DRAFT_SIZE,
        .type = "library.album.create",
        .topic = place.topics[random % TOPIC_COUNT],
        .user_id = (random >> 32) % 2 ? (int64_t)((random >> 40) % USER_COUNT) + 1 : 0,
        .payload = { place.payload, PAYLOAD_SIZE },
    };
}

/* ------------------------------------------------------------------ ours, through the broker */

static struct fan_broker *broker_begin(void)
{
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_broker *broker = NULL;
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    options.metrics = place.metrics;
    remove_log();
    bench_must(fan_broker_open(place.uri, &options, &broker, &error) == FAN_OK &&
                   fan_broker_start(broker) == FAN_OK,
               "broker: %s", error.message);
    return broker;
}

static void broker_end(struct fan_broker *broker, uint64_t syncs_before)
{
    struct fan_broker_stats stats = { .size = sizeof(stats) };
    fan_broker_stats(broker, &stats);
    place.commits += stats.commits;
    place.syncs += atomic_load(&syncs) - syncs_before;
    bench_must(fan_broker_stop(broker, 10000) == FAN_OK, "the broker did not stop in time");
    fan_broker_free(broker);
}

/* `done` is counted by the writer alone; the lock is taken for the one event that is waited for. */
struct flight {
    pthread_mutex_t mutex;
    pthread_cond_t landed;
    atomic_uint_fast64_t done;
    atomic_uint_fast64_t wanted;
};

static void on_published(void *context, const struct fan_published *published)
{
    struct flight *flight = context;
    bench_must(published->status == FAN_OK, "publish: %s", fan_status_text(published->status));
    if (atomic_fetch_add(&flight->done, 1) + 1 != atomic_load(&flight->wanted))
        return;
    pthread_mutex_lock(&flight->mutex);
    pthread_cond_signal(&flight->landed);
    pthread_mutex_unlock(&flight->mutex);
}

static void flight_wait(struct flight *flight, uint64_t done)
{
    pthread_mutex_lock(&flight->mutex);
    atomic_store(&flight->wanted, done);
    while (atomic_load(&flight->done) < done)
        pthread_cond_wait(&flight->landed, &flight->mutex);
    pthread_mutex_unlock(&flight->mutex);
}

static double publish_many(void *context)
{
    (void)context;
    struct fan_broker *broker = broker_begin();
    struct flight flight = { .mutex = PTHREAD_MUTEX_INITIALIZER,
                             .landed = PTHREAD_COND_INITIALIZER };
    uint64_t syncs_before = atomic_load(&syncs);
    double start = bench_now();
    for (uint64_t i = 0; i < MANY_COUNT; i++) {
        if (i % (FLIGHT_COUNT_MAX / 2) == 0 && i >= FLIGHT_COUNT_MAX)
            flight_wait(&flight, i - FLIGHT_COUNT_MAX / 2);
        struct fan_event_draft draft = next_draft();
        bench_must(fan_broker_publish_async(broker, &draft, on_published, &flight, NULL) == FAN_OK,
                   "publish: refused");
    }
    flight_wait(&flight, MANY_COUNT);
    double seconds = bench_now() - start;
    broker_end(broker, syncs_before);
    return MANY_COUNT / seconds;
}

/* The same, with Prometheus counting. */
static double publish_counted(void *context)
{
    struct fan_prometheus *prometheus = NULL;
    bench_must(fan_prometheus_new(NULL, &prometheus) == FAN_OK, "out of memory");
    place.metrics = fan_prometheus_metrics(prometheus);
    double rate = publish_many(context);
    place.metrics = NULL;
    fan_prometheus_free(prometheus);
    return rate;
}

static double publish_one(void *context)
{
    (void)context;
    struct fan_broker *broker = broker_begin();
    uint64_t syncs_before = atomic_load(&syncs);
    double start = bench_now();
    for (uint64_t i = 0; i < ONE_COUNT; i++) {
        struct fan_event_draft draft = next_draft();
        struct fan_cursor cursor;
        bench_must(fan_broker_publish(broker, &draft, &cursor, NULL) == FAN_OK, "publish: refused");
    }
    double seconds = bench_now() - start;
    broker_end(broker, syncs_before);
    return ONE_COUNT / seconds;
}

/* ------------------------------------------------------------------ the peer, SQLite alone */

struct bare {
    sqlite3 *db;
    sqlite3_stmt *insert;
    sqlite3_stmt *block;
    int64_t seq;
};

static void bare_exec(struct bare *bare, const char *sql)
{
    bench_must(sqlite3_exec(bare->db, sql, NULL, NULL, NULL) == SQLITE_OK, "%s: %s", sql,
               sqlite3_errmsg(bare->db));
}

static sqlite3_stmt *bare_prepare(struct bare *bare, const char *sql)
{
    sqlite3_stmt *statement = NULL;
    bench_must(sqlite3_prepare_v3(bare->db, sql, -1, SQLITE_PREPARE_PERSISTENT, &statement, NULL) ==
                   SQLITE_OK,
               "%s: %s", sql, sqlite3_errmsg(bare->db));
    return statement;
}

static const char *text_of(enum fan__sqlite_statement name)
{
    static const char *const texts[] = {
#define BENCH_TEXT(statement, text) text,
        FAN__SQLITE_STATEMENTS(BENCH_TEXT)
#undef BENCH_TEXT
    };
    return texts[name];
}

static void bare_begin(struct bare *bare)
{
    *bare = (struct bare){ 0 };
    remove_log();
    bench_must(sqlite3_open_v2(place.path, &bare->db,
                               SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
                               NULL) == SQLITE_OK,
               "%s: cannot be opened", place.path);
    bare_exec(bare, "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
                    "PRAGMA wal_autocheckpoint = 8000; PRAGMA cache_size = -8000");
    bare_exec(bare, FAN__SQLITE_SCHEMA_TABLES);
    bare_exec(bare, FAN__SQLITE_SCHEMA_TRIGGERS);
    bare->insert = bare_prepare(bare, text_of(FAN__SQL_EVENT_INSERT));
    bare->block = bare_prepare(bare, text_of(FAN__SQL_BLOCK_UPSERT));
    for (int i = 0; i < TOPIC_COUNT; i++) {
        char *sql = sqlite3_mprintf("INSERT INTO series(topic, type, source, schema, entity, "
                                    "operation, instance, content_type) VALUES(%Q, "
                                    "'library.album.create', 'internal', 'library', 'album', "
                                    "'create', 'host-0123456789ab', '')",
                                    place.topics[i]);
        bare_exec(bare, sql);
        sqlite3_free(sql);
    }
}

/* A UUIDv7: time in front, so that new ids lie side by side. */
static void bare_id(unsigned char id[16], int64_t us, uint64_t count)
{
    uint64_t ms = (uint64_t)us / 1000;
    for (int i = 0; i < 6; i++)
        id[i] = (unsigned char)(ms >> (40 - 8 * i));
    id[6] = (unsigned char)(0x70 | (count >> 8 & 15));
    id[7] = (unsigned char)count;
    uint64_t random = next_random();
    memcpy(id + 8, &random, 8);
    id[8] = (unsigned char)(0x80 | (id[8] & 0x3f));
}

static int64_t wall_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void bare_block(struct bare *bare, int64_t block, int64_t us, int64_t count)
{
    sqlite3_bind_int64(bare->block, 1, block);
    sqlite3_bind_int64(bare->block, 2, us);
    sqlite3_bind_int64(bare->block, 3, us);
    sqlite3_bind_int64(bare->block, 4, count);
    bench_must(sqlite3_step(bare->block) == SQLITE_DONE, "%s", sqlite3_errmsg(bare->db));
    sqlite3_reset(bare->block);
}

static void bare_commit(struct bare *bare, uint64_t count)
{
    bare_exec(bare, "BEGIN IMMEDIATE");
    int64_t us = wall_us();
    int64_t in_block = 0;
    for (uint64_t i = 0; i < count; i++) {
        unsigned char id[16];
        uint64_t random = next_random();
        bare_id(id, us, i);
        bare->seq++;
        sqlite3_bind_int64(bare->insert, 1, bare->seq);
        sqlite3_bind_blob(bare->insert, 2, id, sizeof(id), SQLITE_STATIC);
        sqlite3_bind_int64(bare->insert, 3, (int64_t)(random % TOPIC_COUNT) + 1);
        sqlite3_bind_int64(bare->insert, 4, us);
        if ((random >> 32) % 2)
            sqlite3_bind_int64(bare->insert, 5, (int64_t)((random >> 40) % USER_COUNT) + 1);
        else
            sqlite3_bind_null(bare->insert, 5);
        sqlite3_bind_text(bare->insert, 10, place.payload, PAYLOAD_SIZE, SQLITE_STATIC);
        bench_must(sqlite3_step(bare->insert) == SQLITE_DONE, "%s", sqlite3_errmsg(bare->db));
        sqlite3_reset(bare->insert);
        in_block++;
        if (bare->seq % FAN__SQLITE_BLOCK_COUNT == FAN__SQLITE_BLOCK_COUNT - 1 || i + 1 == count) {
            bare_block(bare, bare->seq >> FAN__SQLITE_BLOCK_BITS, us, in_block);
            in_block = 0;
        }
    }
    bare_exec(bare, "COMMIT");
}

static void bare_end(struct bare *bare)
{
    sqlite3_finalize(bare->insert);
    sqlite3_finalize(bare->block);
    sqlite3_close(bare->db);
}

static double bare_publish(uint64_t total, uint64_t batch)
{
    struct bare bare;
    bare_begin(&bare);
    double start = bench_now();
    for (uint64_t i = 0; i < total; i += batch)
        bare_commit(&bare, batch);
    double seconds = bench_now() - start;
    bare_end(&bare);
    return (double)total / seconds;
}

static double bare_many(void *context)
{
    (void)context;
    return bare_publish(MANY_COUNT, BATCH_COUNT);
}

static double bare_one(void *context)
{
    (void)context;
    return bare_publish(ONE_COUNT, 1);
}

/* ------------------------------------------------------------------ replay */

static double replay(void *context)
{
    struct fan_broker *broker = context;
    struct fan_reader *reader = NULL;
    struct fan_reader_options options = { .size = FAN_READER_OPTIONS_SIZE,
                                          .start = FAN_START_BEGINNING };
    double start = bench_now();
    bench_must(fan_broker_subscribe(broker, &options, &reader, NULL) == FAN_OK, "subscribe");
    uint64_t bytes = 0;
    for (uint64_t i = 0; i < REPLAY_COUNT; i++) {
        const struct fan_event *event = NULL;
        bench_must(fan_reader_next(reader, 10000, &event) == FAN_OK, "no event %" PRIu64, i);
        bytes += fan_event_payload(event).size;
    }
    double seconds = bench_now() - start;
    bench_must(bytes == (uint64_t)REPLAY_COUNT * PAYLOAD_SIZE, "events differ");
    fan_reader_free(reader);
    return REPLAY_COUNT / seconds;
}

static double bare_scan(void *context)
{
    (void)context;
    struct bare bare = { 0 };
    bench_must(sqlite3_open_v2(place.path, &bare.db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX,
                               NULL) == SQLITE_OK,
               "%s: cannot be opened", place.path);
    sqlite3_stmt *scan = bare_prepare(&bare, "SELECT e.seq, e.id, e.series, e.created_us, "
                                             "e.user_id, e.session, e.deliver_at, e.traceparent, "
                                             "e.metadata, e.payload FROM event e "
                                             "WHERE e.seq > ?1 ORDER BY e.seq LIMIT ?2");
    static char copy[1 << 16];
    uint64_t count = 0;
    uint64_t bytes = 0;
    int64_t last = 0;
    double start = bench_now();
    do {
        count = 0;
        sqlite3_bind_int64(scan, 1, last);
        sqlite3_bind_int64(scan, 2, BATCH_COUNT);
        while (sqlite3_step(scan) == SQLITE_ROW) {
            last = sqlite3_column_int64(scan, 0);
            for (int column = 1; column < 9; column++) {
                const void *value = sqlite3_column_blob(scan, column);
                if (value)
                    memcpy(copy, value, (size_t)sqlite3_column_bytes(scan, column));
            }
            const void *payload = sqlite3_column_blob(scan, 9);
            size_t size = (size_t)sqlite3_column_bytes(scan, 9);
            memcpy(copy, payload, size);
            bytes += size;
            count++;
        }
        sqlite3_reset(scan);
    } while (count > 0);
    double seconds = bench_now() - start;
    bench_must(bytes == (uint64_t)REPLAY_COUNT * PAYLOAD_SIZE, "events differ");
    sqlite3_finalize(scan);
    sqlite3_close(bare.db);
    return REPLAY_COUNT / seconds;
}

static void fill(struct fan_broker *broker)
{
    struct flight flight = { .mutex = PTHREAD_MUTEX_INITIALIZER,
                             .landed = PTHREAD_COND_INITIALIZER };
    for (uint64_t i = 0; i < REPLAY_COUNT; i++) {
        if (i % (FLIGHT_COUNT_MAX / 2) == 0 && i >= FLIGHT_COUNT_MAX)
            flight_wait(&flight, i - FLIGHT_COUNT_MAX / 2);
        struct fan_event_draft draft = next_draft();
        bench_must(fan_broker_publish_async(broker, &draft, on_published, &flight, NULL) == FAN_OK,
                   "publish: refused");
    }
    flight_wait(&flight, REPLAY_COUNT);
}

static void compare_publish(void)
{
    const char *peer = "bare SQLite, 1,000 a commit";
    bench_compare(
        &(struct bench_case){ "durable publish, many in flight", "events/s", peer, 0.8, false },
        publish_many, bare_many, NULL);
    double rate = bench_last();
    bench_value(
        &(struct bench_case){ "durable publish, many in flight", "events/s", "wanted", 1, false },
        rate, 100000);
    uint64_t commits = place.commits;
    bench_value(&(struct bench_case){ "syncs a commit, many in flight", "syncs/commit",
                                      "one a commit", 1, false },
                (double)place.syncs / (double)commits, 1);
    place.commits = 0;
    place.syncs = 0;
    bench_compare(&(struct bench_case){ "durable publish, one in flight", "events/s",
                                        "bare SQLite, 1 a commit", 0.75, false },
                  publish_one, bare_one, NULL);
    bench_value(&(struct bench_case){ "syncs a commit, one in flight", "syncs/commit",
                                      "one a commit", 1, false },
                (double)place.syncs / (double)place.commits, 1);
}

static void compare_counting(void)
{
    bench_compare(&(struct bench_case){ "publish, counted by Prometheus", "events/s", "not counted",
                                        0.95, false },
                  publish_counted, publish_many, NULL);
    char uri[sizeof(place.uri)];
    memcpy(uri, place.uri, sizeof(uri));
    strcpy(place.uri, "memory:");
    bench_compare(&(struct bench_case){ "publish in memory, counted by Prometheus", "events/s",
                                        "not counted", 0.9, false },
                  publish_counted, publish_many, NULL);
    memcpy(place.uri, uri, sizeof(uri));
}

static void compare_replay(void)
{
    struct fan_broker *broker = broker_begin();
    fill(broker);
    bench_compare(&(struct bench_case){ "replay into a C subscriber", "events/s",
                                        "bare SQLite scan", 0.5, false },
                  replay, bare_scan, broker);
    bench_value(
        &(struct bench_case){ "replay into a C subscriber", "events/s", "wanted", 1, false },
        bench_last(), 1000000);
    broker_end(broker, 0);
}

int main(int argc, char **argv)
{
    bench_begin(argc, argv);
    place_begin();
    compare_publish();
    compare_counting();
    compare_replay();
    return bench_end();
}
