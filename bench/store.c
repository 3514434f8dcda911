/*
 * The stores: appends of 1, 10, 100 and 1,000 events a commit, and replay, held against a bare loop
 * with the provider's own client on the same schema, with the same indexes, ids and idempotence, in
 * the same run. Events carry 400 bytes of JSON and are made before the clock starts, for both. And
 * what it takes until another process has an event.
 *
 * What is acknowledged is on the disk: SQLite with synchronous=FULL, PostgreSQL with fsync and
 * synchronous_commit on, a server of its own on the same machine (tests/postgres.py).
 */
#include "bench.h"

#include "postgres.h"
#include "store/sqlite/sql.h"

#include <fanfare/batch.h>
#include <fanfare/broker.h>
#include <fanfare/outbox.h>
#include <fanfare/outbox_postgres.h>
#include <fanfare/reader.h>
#include <fanfare/store.h>

#include <endian.h>
#include <ftw.h>
#include <inttypes.h>
#include <libpq-fe.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define EVENT_COUNT_MAX 40000
#define REPLAY_COUNT 100000
#define READ_COUNT 1000
#define TOPIC_COUNT 50
#define USER_COUNT 10000
#define PAYLOAD_SIZE 400
#define HEARD_COUNT 500
#define RELAYED_COUNT 60
#define OPEN_MS 100

static struct {
    char folder[64];
    char path[96];
    char payload[PAYLOAD_SIZE + 1];
    char topics[TOPIC_COUNT][32];
    uint64_t random;
    unsigned schema; /* the number of the next one */
    struct fan_event *events[EVENT_COUNT_MAX];
    struct test_postgres server;
} place;

/* One run: so many events, so many a commit. */
struct run {
    size_t total;
    size_t batch;
};

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
    if (place.server.pid > 0)
        test_postgres_end(&place.server);
}

static void place_begin(void)
{
    /* Where the tree is: /tmp may be memory, whose syncs cost nothing. */
    strcpy(place.folder,
           access("build/bench", W_OK) == 0 ? "build/bench/store-XXXXXX" : "./bench-store-XXXXXX");
    bench_must(mkdtemp(place.folder) != NULL, "%s: cannot be made", place.folder);
    atexit(place_end);
    snprintf(place.path, sizeof(place.path), "%s/events.db", place.folder);
    place.random = 88172645463325252;
    int size = snprintf(place.payload, sizeof(place.payload), "{\"name\": \"");
    memset(place.payload + size, 'a', PAYLOAD_SIZE - (size_t)size);
    memcpy(place.payload + PAYLOAD_SIZE - 2, "\"}", 2);
    for (int i = 0; i < TOPIC_COUNT; i++)
        snprintf(place.topics[i], sizeof(place.topics[i]), "library/artist/%d", i);
    bench_must(test_postgres_start(&place.server, "fsync=on"), "no PostgreSQL to start");
}

/* Events with new ids, in place of those of the run before. */
static void make_events(size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t random = next_random();
        const struct fan_event_draft draft = {
            .size = FAN_EVENT_DRAFT_SIZE,
            .type = "library.album.create",
            .topic = place.topics[random % TOPIC_COUNT],
            .user_id = (random >> 32) % 2 ? (int64_t)((random >> 40) % USER_COUNT) + 1 : 0,
            .payload = { place.payload, PAYLOAD_SIZE },
        };
        fan_event_free(place.events[i], NULL);
        place.events[i] = NULL;
        bench_must(fan_event_new(&draft, NULL, &place.events[i], NULL) == FAN_OK, "no event");
    }
}

/* The place of its topic: bare loops know their series by heart. */
static int64_t series_of(const struct fan_event *event)
{
    return strtol(strrchr(fan_event_topic(event), '/') + 1, NULL, 10) + 1;
}

/* ------------------------------------------------------------------ ours */

static struct fan_store *open_store(const char *uri)
{
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_store *store = NULL;
    bench_must(fan_store_open(uri, NULL, &store, &error) == FAN_OK, "%s", error.message);
    return store;
}

static void append_events(struct fan_store *store, size_t total, size_t batch)
{
    static struct fan_append items[1000];
    for (size_t at = 0; at < total; at += batch) {
        for (size_t i = 0; i < batch; i++)
            items[i] = (struct fan_append){ .event = place.events[at + i] };
        bench_must(fan_store_append(store, items, batch, NULL) == FAN_OK &&
                       items[batch - 1].ret_status == FAN_OK && !items[batch - 1].ret_duplicate,
                   "append: refused");
    }
}

/*
 * As for the bare loops: the connection is made and the series are there before the clock starts.
 */
static void warm(struct fan_store *store)
{
    for (int i = 0; i < TOPIC_COUNT; i++) {
        const struct fan_event_draft draft = {
            .size = FAN_EVENT_DRAFT_SIZE,
            .type = "library.album.create",
            .topic = place.topics[i],
            .payload = { place.payload, PAYLOAD_SIZE },
        };
        struct fan_event *event = NULL;
        bench_must(fan_event_new(&draft, NULL, &event, NULL) == FAN_OK, "no event");
        struct fan_append item = { .event = event };
        bench_must(fan_store_append(store, &item, 1, NULL) == FAN_OK, "append: refused");
        fan_event_free(event, NULL);
    }
}

static double append_ours(const char *uri, const struct run *run)
{
    struct fan_store *store = open_store(uri);
    warm(store);
    make_events(run->total);
    double start = bench_now();
    append_events(store, run->total, run->batch);
    double seconds = bench_now() - start;
    fan_store_close(store);
    return (double)run->total / seconds;
}

static double replay_ours(const char *uri)
{
    struct fan_store *store = open_store(uri);
    struct fan_batch *batch = NULL;
    bench_must(fan_batch_new(NULL, &batch) == FAN_OK, "out of memory");
    const struct fan_query query = { .size = FAN_QUERY_SIZE, .limit = READ_COUNT };
    struct fan_read_result result = { 0 };
    uint64_t bytes = 0;
    double start = bench_now();
    do {
        bench_must(fan_store_read(store, result.scanned_seq, &query, batch, &result) == FAN_OK,
                   "read: failed");
        for (size_t i = 0; i < fan_batch_count(batch); i++)
            bytes += fan_event_payload(fan_batch_event(batch, i)).size;
    } while (result.scanned_seq < result.head_seq);
    double seconds = bench_now() - start;
    bench_must(bytes == (uint64_t)REPLAY_COUNT * PAYLOAD_SIZE, "events differ");
    fan_batch_free(batch);
    fan_store_close(store);
    return REPLAY_COUNT / seconds;
}

static void fill(const char *uri)
{
    struct fan_store *store = open_store(uri);
    for (size_t done = 0; done < REPLAY_COUNT; done += READ_COUNT) {
        make_events(READ_COUNT);
        append_events(store, READ_COUNT, READ_COUNT);
    }
    fan_store_close(store);
}

/* ------------------------------------------------------------------ SQLite */

static const char *sqlite_uri(void)
{
    static char uri[128];
    snprintf(uri, sizeof(uri), "sqlite:%s", place.path);
    return uri;
}

static void sqlite_remove(void)
{
    static const char *const suffixes[] = { "", "-wal", "-shm" };
    for (int i = 0; i < 3; i++) {
        char path[128];
        snprintf(path, sizeof(path), "%s%s", place.path, suffixes[i]);
        unlink(path);
    }
}

static double sqlite_ours(void *context)
{
    sqlite_remove();
    return append_ours(sqlite_uri(), context);
}

static void lite_exec(sqlite3 *db, const char *sql)
{
    bench_must(sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK, "%s: %s", sql,
               sqlite3_errmsg(db));
}

static sqlite3_stmt *lite_prepare(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *statement = NULL;
    bench_must(sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, &statement, NULL) ==
                   SQLITE_OK,
               "%s: %s", sql, sqlite3_errmsg(db));
    return statement;
}

static const char *lite_text(enum fan__sqlite_statement name)
{
    static const char *const texts[] = {
#define BENCH_TEXT(statement, text) text,
        FAN__SQLITE_STATEMENTS(BENCH_TEXT)
#undef BENCH_TEXT
    };
    return texts[name];
}

static sqlite3 *lite_open(void)
{
    sqlite3 *db = NULL;
    bench_must(sqlite3_open_v2(place.path, &db,
                               SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
                               NULL) == SQLITE_OK,
               "%s: cannot be opened", place.path);
    lite_exec(db, "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
                  "PRAGMA wal_autocheckpoint = 8000; PRAGMA cache_size = -8000");
    return db;
}

/* A UUID's text as its 16 bytes. */
static void id_bytes(const char *text, unsigned char id[16])
{
    for (int i = 0; i < 16; text++) {
        char digits[3] = { text[0], text[1], '\0' };
        if (*text == '-')
            continue;
        id[i++] = (unsigned char)strtoul(digits, NULL, 16);
        text++;
    }
}

static void lite_insert(sqlite3 *db, sqlite3_stmt *insert, const struct fan_event *event,
                        int64_t seq)
{
    unsigned char id[16];
    id_bytes(fan_event_id(event), id);
    sqlite3_bind_int64(insert, 1, seq);
    sqlite3_bind_blob(insert, 2, id, sizeof(id), SQLITE_STATIC);
    sqlite3_bind_int64(insert, 3, series_of(event));
    sqlite3_bind_int64(insert, 4, fan_event_created_us(event));
    if (fan_event_user_id(event) != 0)
        sqlite3_bind_int64(insert, 5, fan_event_user_id(event));
    else
        sqlite3_bind_null(insert, 5);
    sqlite3_bind_text(insert, 10, fan_event_payload(event).data, PAYLOAD_SIZE, SQLITE_STATIC);
    bench_must(sqlite3_step(insert) == SQLITE_DONE, "%s", sqlite3_errmsg(db));
    sqlite3_reset(insert);
}

static void lite_commit(sqlite3 *db, sqlite3_stmt *statements[2], size_t at, size_t batch)
{
    lite_exec(db, "BEGIN IMMEDIATE");
    for (size_t i = at; i < at + batch; i++)
        lite_insert(db, statements[0], place.events[i], (int64_t)i + 1);
    sqlite3_stmt *block = statements[1];
    sqlite3_bind_int64(block, 1, (int64_t)(at + batch) >> FAN__SQLITE_BLOCK_BITS);
    sqlite3_bind_int64(block, 2, fan_event_created_us(place.events[at]));
    sqlite3_bind_int64(block, 3, fan_event_created_us(place.events[at + batch - 1]));
    sqlite3_bind_int64(block, 4, (int64_t)batch);
    bench_must(sqlite3_step(block) == SQLITE_DONE, "%s", sqlite3_errmsg(db));
    sqlite3_reset(block);
    lite_exec(db, "COMMIT");
}

static double sqlite_bare(void *context)
{
    const struct run *run = context;
    sqlite_remove();
    sqlite3 *db = lite_open();
    lite_exec(db, FAN__SQLITE_SCHEMA_TABLES);
    lite_exec(db, FAN__SQLITE_SCHEMA_TRIGGERS);
    sqlite3_stmt *statements[] = { lite_prepare(db, lite_text(FAN__SQL_EVENT_INSERT)),
                                   lite_prepare(db, lite_text(FAN__SQL_BLOCK_UPSERT)) };
    for (int i = 0; i < TOPIC_COUNT; i++) {
        char sql[400];
        snprintf(sql, sizeof(sql),
                 "INSERT INTO series(topic, type, source, schema, entity, operation, instance, "
                 "content_type) VALUES('%s', 'library.album.create', 'internal', 'library', "
                 "'album', 'create', 'host-0123456789ab', '')",
                 place.topics[i]);
        lite_exec(db, sql);
    }
    make_events(run->total);
    double start = bench_now();
    for (size_t at = 0; at < run->total; at += run->batch)
        lite_commit(db, statements, at, run->batch);
    double seconds = bench_now() - start;
    sqlite3_finalize(statements[0]);
    sqlite3_finalize(statements[1]);
    sqlite3_close(db);
    return (double)run->total / seconds;
}

static double sqlite_replay_ours(void *context)
{
    (void)context;
    return replay_ours(sqlite_uri());
}

static double sqlite_replay_bare(void *context)
{
    (void)context;
    static char copy[1 << 16];
    sqlite3 *db = lite_open();
    sqlite3_stmt *scan = lite_prepare(db, "SELECT " FAN__SQLITE_COLUMNS "FROM event e WHERE "
                                          "e.seq > ?1 ORDER BY e.seq LIMIT ?2");
    uint64_t bytes = 0;
    int64_t last = 0;
    int64_t before = -1;
    double start = bench_now();
    while (last != before) {
        before = last;
        sqlite3_bind_int64(scan, 1, last);
        sqlite3_bind_int64(scan, 2, READ_COUNT);
        while (sqlite3_step(scan) == SQLITE_ROW) {
            last = sqlite3_column_int64(scan, 0);
            for (int column = 1; column < 10; column++) {
                const void *value = sqlite3_column_blob(scan, column);
                if (value)
                    memcpy(copy, value, (size_t)sqlite3_column_bytes(scan, column));
            }
            bytes += (uint64_t)sqlite3_column_bytes(scan, 9);
        }
        sqlite3_reset(scan);
    }
    double seconds = bench_now() - start;
    bench_must(bytes == (uint64_t)REPLAY_COUNT * PAYLOAD_SIZE, "events differ");
    sqlite3_finalize(scan);
    sqlite3_close(db);
    return REPLAY_COUNT / seconds;
}

/* ------------------------------------------------------------------ PostgreSQL */

/* The next schema's URI: each run has one of its own. */
static const char *postgres_uri(void)
{
    static char uri[256];
    char options[32];
    snprintf(options, sizeof(options), "schema=run%u", place.schema);
    test_postgres_uri(&place.server, options, uri, sizeof(uri));
    return uri;
}

static void pg_exec(PGconn *conn, const char *sql)
{
    PGresult *result = PQexec(conn, sql);
    ExecStatusType status = PQresultStatus(result);
    bench_must(status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK, "%s", PQerrorMessage(conn));
    PQclear(result);
}

static PGconn *pg_connect(void)
{
    char uri[256];
    snprintf(uri, sizeof(uri), "postgres://fan@/fan?host=%s&port=%u", place.server.folder,
             place.server.port);
    PGconn *conn = PQconnectdb(uri);
    bench_must(PQstatus(conn) == CONNECTION_OK, "%s", PQerrorMessage(conn));
    return conn;
}

/* What a run left goes, and its pages are written, so that the next one does not pay for it. */
static void pg_forget(void)
{
    char sql[96];
    PGconn *conn = pg_connect();
    snprintf(sql, sizeof(sql), "DROP SCHEMA run%u CASCADE", place.schema);
    pg_exec(conn, "SET client_min_messages = error");
    pg_exec(conn, sql);
    PQfinish(conn);
    place.schema++;
}

static double postgres_ours(void *context)
{
    double rate = append_ours(postgres_uri(), context);
    pg_forget();
    return rate;
}

/* A column of a batch as an array in PostgreSQL's binary format. */
struct column {
    char *data;
    size_t size;
    uint32_t count;
};

static void put(struct column *column, const void *bytes, size_t size)
{
    memcpy(column->data + column->size, bytes, size);
    column->size += size;
}

static void put32(struct column *column, uint32_t number)
{
    uint32_t big = htobe32(number);
    put(column, &big, sizeof(big));
}

static void column_begin(struct column *column, uint32_t type, uint32_t count)
{
    column->size = 0;
    put32(column, 1);
    put32(column, 1);
    put32(column, type);
    put32(column, count);
    put32(column, 1);
}

static void put_bytes(struct column *column, const void *bytes, size_t size)
{
    put32(column, (uint32_t)size);
    put(column, bytes, size);
}

static void put_int(struct column *column, int64_t number)
{
    uint64_t big = htobe64((uint64_t)number);
    put_bytes(column, &big, sizeof(big));
}

#define ARRAY_HEAD_SIZE 20

enum { ID, SERIES, CREATED, USER, PAYLOAD, COLUMN_COUNT };

static void fill_columns(struct column columns[COLUMN_COUNT], size_t at, size_t batch)
{
    static const uint32_t types[COLUMN_COUNT] = { 25, 20, 20, 20, 17 };
    for (int i = 0; i < COLUMN_COUNT; i++)
        column_begin(&columns[i], types[i], (uint32_t)batch);
    for (size_t i = at; i < at + batch; i++) {
        const struct fan_event *event = place.events[i];
        put_bytes(&columns[ID], fan_event_id(event), strlen(fan_event_id(event)));
        put_int(&columns[SERIES], series_of(event));
        put_int(&columns[CREATED], fan_event_created_us(event));
        if (fan_event_user_id(event) != 0)
            put_int(&columns[USER], fan_event_user_id(event));
        else
            put32(&columns[USER], UINT32_MAX);
        put_bytes(&columns[PAYLOAD], place.payload, PAYLOAD_SIZE);
    }
}

/* Takes the answers up to the pipeline's Sync. */
static void pg_answers(PGconn *conn, int statements)
{
    for (int i = 0; i < statements; i++) {
        PGresult *result = PQgetResult(conn);
        ExecStatusType status = PQresultStatus(result);
        bench_must(status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK, "%s",
                   PQerrorMessage(conn));
        PQclear(result);
        PQclear(PQgetResult(conn));
    }
    PGresult *sync = PQgetResult(conn);
    bench_must(PQresultStatus(sync) == PGRES_PIPELINE_SYNC, "no end of the pipeline");
    PQclear(sync);
}

/*
 * One commit, in one round trip: lock, insert after the head, commit. Who shares the log with other
 * processes knows where it ends only once he has the lock. A single event goes without arrays.
 */
static void pg_commit(PGconn *conn, const struct column columns[COLUMN_COUNT], bool single)
{
    const char *values[COLUMN_COUNT];
    int lengths[COLUMN_COUNT];
    int formats[COLUMN_COUNT];
    size_t skip = single ? ARRAY_HEAD_SIZE + sizeof(uint32_t) : 0;
    for (int i = 0; i < COLUMN_COUNT; i++) {
        values[i] = columns[i].size > skip ? columns[i].data + skip : NULL;
        lengths[i] = (int)(columns[i].size - skip);
        formats[i] = 1;
    }
    const char *insert = single ? "insert one" : "insert";
    bench_must(PQsendQueryPrepared(conn, "begin", 0, NULL, NULL, NULL, 1) &&
                   PQsendQueryPrepared(conn, "lock", 0, NULL, NULL, NULL, 1) &&
                   PQsendQueryPrepared(conn, insert, COLUMN_COUNT, values, lengths, formats, 1) &&
                   PQsendQueryPrepared(conn, "commit", 0, NULL, NULL, NULL, 1) &&
                   PQpipelineSync(conn),
               "%s", PQerrorMessage(conn));
    pg_answers(conn, 4);
}

static void pg_prepare(PGconn *conn, const char *name, const char *sql)
{
    PGresult *result = PQprepare(conn, name, sql, 0, NULL);
    bench_must(PQresultStatus(result) == PGRES_COMMAND_OK, "%s", PQerrorMessage(conn));
    PQclear(result);
}

static PGconn *pg_begin(void)
{
    char sql[400];
    /* The same schema: the store makes it, and is gone before the clock starts. */
    fan_store_close(open_store(postgres_uri()));
    PGconn *conn = pg_connect();
    snprintf(sql, sizeof(sql), "SET search_path = run%u", place.schema);
    pg_exec(conn, sql);
    /* As the store has it. */
    pg_exec(conn, "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; "
                  "SET jit = off");
    for (int i = 0; i < TOPIC_COUNT; i++) {
        snprintf(sql, sizeof(sql),
                 "INSERT INTO series(topic, type, source, schema, entity, operation, instance, "
                 "content_type) VALUES('%s', 'library.album.create', 'internal', 'library', "
                 "'album', 'create', 'host-0123456789ab', '')",
                 place.topics[i]);
        pg_exec(conn, sql);
    }
    pg_prepare(conn, "begin", "BEGIN");
    pg_prepare(conn, "lock", "SELECT pg_advisory_xact_lock(77)");
    pg_prepare(conn, "insert",
               "INSERT INTO event(seq, id, series, created_us, user_id, payload) "
               "SELECT h.seq + u.place, u.id, u.series, u.created_us, u.user_id, u.payload "
               "FROM (SELECT coalesce(max(seq), 0) AS seq FROM event) h, unnest($1::text[], "
               "$2::bigint[], $3::bigint[], $4::bigint[], $5::bytea[]) WITH ORDINALITY "
               "u(id, series, created_us, user_id, payload, place) ON CONFLICT(id) DO NOTHING");
    pg_prepare(conn, "insert one",
               "INSERT INTO event(seq, id, series, created_us, user_id, payload) "
               "SELECT coalesce(max(seq), 0) + 1, $1::text, $2::bigint, $3::bigint, $4::bigint, "
               "$5::bytea FROM event ON CONFLICT(id) DO NOTHING");
    pg_prepare(conn, "commit", "COMMIT");
    bench_must(PQenterPipelineMode(conn), "no pipeline");
    return conn;
}

static double postgres_bare(void *context)
{
    const struct run *run = context;
    struct column columns[COLUMN_COUNT];
    for (int i = 0; i < COLUMN_COUNT; i++) {
        columns[i].data = malloc(32 + run->batch * (PAYLOAD_SIZE + 8));
        bench_must(columns[i].data != NULL, "out of memory");
    }
    PGconn *conn = pg_begin();
    make_events(run->total);
    double start = bench_now();
    for (size_t at = 0; at < run->total; at += run->batch) {
        fill_columns(columns, at, run->batch);
        pg_commit(conn, columns, run->batch == 1);
    }
    double seconds = bench_now() - start;
    PQfinish(conn);
    for (int i = 0; i < COLUMN_COUNT; i++)
        free(columns[i].data);
    pg_forget();
    return (double)run->total / seconds;
}

static double postgres_replay_ours(void *context)
{
    (void)context;
    return replay_ours(postgres_uri());
}

static double postgres_replay_bare(void *context)
{
    (void)context;
    static char copy[1 << 16];
    char sql[320];
    PGconn *conn = pg_connect();
    snprintf(sql, sizeof(sql),
             "SELECT e.seq, e.id, e.series, e.created_us, e.user_id, e.session, e.deliver_at, "
             "e.traceparent, e.metadata, e.payload FROM run%u.event e WHERE e.seq > $1::bigint "
             "ORDER BY e.seq LIMIT %d",
             place.schema, READ_COUNT);
    pg_prepare(conn, "scan", sql);
    uint64_t bytes = 0;
    uint64_t last = 0;
    int count = READ_COUNT;
    double start = bench_now();
    while (count == READ_COUNT) {
        uint64_t big = htobe64(last);
        const char *values[] = { (const char *)&big };
        const int lengths[] = { sizeof(big) };
        const int formats[] = { 1 };
        PGresult *rows = PQexecPrepared(conn, "scan", 1, values, lengths, formats, 1);
        bench_must(PQresultStatus(rows) == PGRES_TUPLES_OK, "%s", PQerrorMessage(conn));
        count = PQntuples(rows);
        for (int row = 0; row < count; row++) {
            for (int column = 1; column < 10; column++)
                memcpy(copy, PQgetvalue(rows, row, column), (size_t)PQgetlength(rows, row, column));
            bytes += (uint64_t)PQgetlength(rows, row, 9);
        }
        if (count > 0) {
            memcpy(&big, PQgetvalue(rows, count - 1, 0), sizeof(big));
            last = be64toh(big);
        }
        PQclear(rows);
    }
    double seconds = bench_now() - start;
    bench_must(bytes == (uint64_t)REPLAY_COUNT * PAYLOAD_SIZE, "events differ");
    PQfinish(conn);
    return REPLAY_COUNT / seconds;
}

/* ------------------------------------------------------------------ both */

/* ------------------------------------------------------------------ from process to process */

static int64_t clock_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static struct fan_broker *open_broker(const char *uri)
{
    struct fan_broker *broker = NULL;
    bench_must(fan_broker_open(uri, NULL, &broker, NULL) == FAN_OK &&
                   fan_broker_start(broker) == FAN_OK,
               "cannot open a broker");
    return broker;
}

static int compare_times(const void *a, const void *b)
{
    int64_t left = *(const int64_t *)a;
    int64_t right = *(const int64_t *)b;
    return (left > right) - (left < right);
}

/* The other process: says when it listens, then the median of what it took to hear. */
static void hear(const char *uri, int out)
{
    static int64_t times[HEARD_COUNT];
    struct fan_broker *broker = open_broker(uri);
    const struct fan_reader_options options = { .size = FAN_READER_OPTIONS_SIZE };
    struct fan_reader *reader = NULL;
    bench_must(fan_broker_subscribe(broker, &options, &reader, NULL) == FAN_OK, "cannot listen");
    bench_must(write(out, "r", 1) == 1, "cannot tell");
    for (size_t i = 0; i < HEARD_COUNT; i++) {
        const struct fan_event *event = NULL;
        bench_must(fan_reader_next(reader, 10000, &event) == FAN_OK, "an event is not heard of");
        times[i] = clock_us() - strtoll(fan_event_payload(event).data, NULL, 10);
    }
    qsort(times, HEARD_COUNT, sizeof(*times), compare_times);
    bench_must(write(out, &times[HEARD_COUNT / 2], sizeof(*times)) == sizeof(*times),
               "cannot tell");
    fan_reader_free(reader);
    fan_broker_free(broker);
}

/* Publish to receive (P10), an event every 2 to 8 ms: milliseconds, the median. */
static double hear_in_another_process(const char *uri)
{
    int ends[2];
    char ready;
    int64_t median_us = 0;
    bench_must(pipe(ends) == 0, "no pipe");
    pid_t child = fork();
    bench_must(child >= 0, "no process");
    if (child == 0) {
        hear(uri, ends[1]);
        _exit(0);
    }
    struct fan_broker *broker = open_broker(uri);
    bench_must(read(ends[0], &ready, 1) == 1, "nobody listens");
    for (int i = 0; i < HEARD_COUNT; i++) {
        const struct timespec pause = { 0, 2000000 + (long)(next_random() % 6000000) };
        char payload[32];
        nanosleep(&pause, NULL);
        snprintf(payload, sizeof(payload), "%" PRId64, clock_us());
        const struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE,
                                               .type = "bench.event.heard",
                                               .payload = { payload, strlen(payload) } };
        bench_must(fan_broker_publish(broker, &draft, NULL, NULL) == FAN_OK, "cannot publish");
    }
    bench_must(read(ends[0], &median_us, sizeof(median_us)) == sizeof(median_us), "no answer");
    bench_must(waitpid(child, NULL, 0) == child, "the other process is gone");
    fan_broker_free(broker);
    close(ends[0]);
    close(ends[1]);
    return (double)median_us / 1000;
}

struct relaying {
    struct fan_broker *broker;
    struct fan_outbox_relay *relay;
    struct fan_reader *reader;
    PGconn *writer;
    PGconn *sitter; /* another program's connection */
};

static void relaying_begin(struct relaying *relaying)
{
    char database[256];
    snprintf(database, sizeof(database), "postgres://fan@/fan?host=%s&port=%u", place.server.folder,
             place.server.port);
    const struct fan_outbox_relay_options options = { .size = FAN_OUTBOX_RELAY_OPTIONS_SIZE,
                                                      .database = database };
    const struct fan_reader_options from_now = { .size = FAN_READER_OPTIONS_SIZE };
    relaying->writer = pg_connect();
    relaying->sitter = pg_connect();
    pg_exec(relaying->sitter, "CREATE TABLE sat (id bigint)");
    relaying->broker = open_broker(postgres_uri());
    bench_must(
        fan_outbox_postgres_create(relaying->writer, NULL, NULL) == FAN_OK &&
            fan_outbox_relay_open(relaying->broker, &options, &relaying->relay, NULL) == FAN_OK &&
            fan_outbox_relay_start(relaying->relay) == FAN_OK &&
            fan_broker_subscribe(relaying->broker, &from_now, &relaying->reader, NULL) == FAN_OK,
        "cannot relay");
}

static void relaying_end(struct relaying *relaying)
{
    fan_reader_free(relaying->reader);
    fan_outbox_relay_free(relaying->relay);
    fan_broker_free(relaying->broker);
    PQfinish(relaying->writer);
    PQfinish(relaying->sitter);
}

/*
 * From the commit of a row to its event, the median in milliseconds; where another program's
 * transaction that began before sits open for OPEN_MS, from that one's end.
 */
static double relay_one_by_one(struct relaying *relaying, bool sits)
{
    static int64_t times[RELAYED_COUNT];
    for (size_t i = 0; i < RELAYED_COUNT; i++) {
        const struct fan_event *event = NULL;
        const struct timespec pause = { 0, OPEN_MS * 1000000L };
        if (sits)
            pg_exec(relaying->sitter, "BEGIN; INSERT INTO sat VALUES (1)");
        pg_exec(relaying->writer, "SELECT fan_outbox.publish('bench.event.relayed', '1')");
        if (sits) {
            nanosleep(&pause, NULL);
            bench_must(fan_reader_next(relaying->reader, 0, &event) == FAN_AGAIN,
                       "it came before what began before it");
            pg_exec(relaying->sitter, "COMMIT");
        }
        int64_t committed_us = clock_us();
        bench_must(fan_reader_next(relaying->reader, 10000, &event) == FAN_OK, "it is not relayed");
        times[i] = clock_us() - committed_us;
    }
    qsort(times, RELAYED_COUNT, sizeof(*times), compare_times);
    int64_t median_us = times[RELAYED_COUNT / 2];
    return (double)median_us / 1000;
}

static void relay_outbox(void)
{
    struct relaying relaying = { 0 };
    relaying_begin(&relaying);
    double free_ms = relay_one_by_one(&relaying, false);
    bench_value(
        &(struct bench_case){ "commit of an outbox row to its event, p50", "ms", "none", 0, true },
        free_ms, free_ms);
    bench_value(&(struct bench_case){ "the same, from the end of a transaction that sat open", "ms",
                                      "none sat open", 0, true },
                relay_one_by_one(&relaying, true), free_ms);
    relaying_end(&relaying);
}

static void compare_appends(const char *name, const char *peer, double (*ours)(void *context),
                            double (*bare)(void *context))
{
    struct run runs[] = { { 1000, 1 }, { 5000, 10 }, { 20000, 100 }, { 40000, 1000 } };
    static char titles[8][96]; /* the rows keep them */
    static size_t count;
    for (size_t i = 0; i < sizeof(runs) / sizeof(*runs); i++) {
        char *title = titles[count++];
        snprintf(title, sizeof(titles[0]), "%s, %zu a commit", name, runs[i].batch);
        bench_compare(&(struct bench_case){ title, "events/s", peer, 0.8, false }, ours, bare,
                      &runs[i]);
    }
}

int main(int argc, char **argv)
{
    bench_begin(argc, argv);
    place_begin();
    compare_appends("append to SQLite (synchronous=FULL)", "bare SQLite", sqlite_ours, sqlite_bare);
    sqlite_remove();
    fill(sqlite_uri());
    bench_compare(
        &(struct bench_case){ "replay from SQLite", "events/s", "bare SQLite", 0.7, false },
        sqlite_replay_ours, sqlite_replay_bare, NULL);
    compare_appends("append to PostgreSQL (fsync)", "bare libpq", postgres_ours, postgres_bare);
    fill(postgres_uri());
    bench_compare(
        &(struct bench_case){ "replay from PostgreSQL", "events/s", "bare libpq", 0.7, false },
        postgres_replay_ours, postgres_replay_bare, NULL);
    bench_value(&(struct bench_case){ "publish to receive in another process over PostgreSQL, p50",
                                      "ms", "wanted", 1, true },
                hear_in_another_process(postgres_uri()), 5);
    relay_outbox();
    int code = bench_end();
    for (size_t i = 0; i < EVENT_COUNT_MAX; i++)
        fan_event_free(place.events[i], NULL);
    return code;
}
