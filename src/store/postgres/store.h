/*
 * The inside of the PostgreSQL provider.
 *
 *     writer   one connection under a lock: appends and whatever else takes the log's lock
 *     pool     connections that are lent for one call each: reads, claims, settles, leases
 *     tail     one connection that listens (tail.c)
 *
 * A connection is used by one thread at a time. Its first failure sticks (connection->status), and
 * what is called on it after that does nothing, so that a caller looks once, at the end. Each loan
 * has one deadline for all of its waits; what is not back by then is given up with its connection.
 *
 *     fan__postgres_borrow(store, FAN__POSTGRES_WRITE, &connection, error)
 *     result = fan__postgres_run(connection, FAN__PG_X, &params)      ... PQclear(result)
 *     return fan__postgres_end(connection, status, error)             commits, or rolls back
 *
 * A loan is a transaction; its BEGIN travels with its first statement.
 */
#ifndef FAN_STORE_POSTGRES_STORE_H
#define FAN_STORE_POSTGRES_STORE_H

#include "base/buffer.h"
#include "base/thread.h"
#include "store/postgres/sql.h"

#include <fanfare/provider.h>

#include <libpq-fe.h>

struct fan__postgres;
struct fan__postgres_tail;
struct fan__rows;
struct fan__sets;
struct fan__tuples;

#define FAN__POSTGRES_QUEUE_MAX 16
#define FAN__POSTGRES_PARAM_MAX 24
#define FAN__POSTGRES_POOL_MAX 8
#define FAN__POSTGRES_DOUBT_MAX 32
#define FAN__POSTGRES_NAME_MAX 63 /* bytes of an identifier */
#define FAN__POSTGRES_BATCH_SIZE_MAX ((size_t)1 << 20)

/*
 * Of a process's batches at most one in NOTICE_MS goes with a notice. Who hears it looks at once,
 * and every NOTICE_MS until AFTER_MS later; what became visible LATE_MS after the last notice is
 * told of by one of its own.
 */
#define FAN__POSTGRES_NOTICE_MS 5
#define FAN__POSTGRES_LATE_MS 9
#define FAN__POSTGRES_AFTER_MS 10

enum fan__postgres_mode {
    FAN__POSTGRES_READ,  /* one snapshot, nothing may be written */
    FAN__POSTGRES_WRITE, /* each statement sees what was committed before it began */
};

struct fan__postgres_connection {
    struct fan__postgres *store;
    struct fan__postgres_connection *next;
    PGconn *conn;
    int64_t deadline_ns; /* of CLOCK_MONOTONIC, as fan__deadline_ns gives it */
    bool prepared[FAN__PG_COUNT];
    unsigned asked[FAN__PG_COUNT]; /* the round in which its preparation was sent */
    unsigned round;
    bool is_writer;
    bool writes;
    bool begun;       /* a BEGIN was queued, and no end came */
    bool commit_sent; /* from here on a failure leaves the outcome unknown */
    bool broken;
    enum fan_status status;
    char message[200];
    size_t queued;
    struct {
        int statement; /* -2: the preparation of the next */
        PGresult *result;
    } queue[2 * FAN__POSTGRES_QUEUE_MAX];
    struct fan__rows *rows;
    struct fan__sets *sets;
};

/* What the log says of its clock, and where this process took it (clock.c). */
struct fan__postgres_clock {
    bool begun;
    int64_t generation;
    int64_t offset_us; /* of the store's time to env's monotonic clock */
    int64_t kept_us;   /* the log knows that it came to here */
    int64_t put_us;    /* the offset by which we last put the row right, if that was committed */
    int64_t put_generation; /* the row's then */
};

/* What a pass of retention has still to look at, part after part. */
enum fan__postgres_part {
    FAN__POSTGRES_PART_OPEN,   /* deliveries that are not completed: expire, discard */
    FAN__POSTGRES_PART_UNSEEN, /* what groups have not come to: expire */
    FAN__POSTGRES_PART_EVENTS, /* finished events: remove */
    FAN__POSTGRES_PART_END,
};

/* A claim that may have been committed, though nobody was told what it gave (claim.c). */
struct fan__postgres_doubt {
    int64_t group_id;
    uint64_t token;
    int64_t until_us;
};

/* Where retention is (retain.c). Up to the sequences things are older than their bounds. */
struct fan__postgres_pass {
    struct fan_retention retention;
    enum fan__postgres_part part;
    bool runs;
    bool sweeps; /* the pass is over, and series are looked at, up to series_id */
    uint64_t seq;
    int64_t group_id;
    uint64_t bound_seq;
    uint64_t owed_seq;
    uint64_t dead_seq;
    uint64_t removed; /* since series were looked at */
    int64_t series_id;
};

struct fan__postgres {
    const struct fan_env *env;
    unsigned fork_generation;
    char **keywords; /* of libpq, ending in NULL; with values */
    char **values;
    char schema[FAN__POSTGRES_NAME_MAX + 1];
    char table[FAN__POSTGRES_NAME_MAX + 1]; /* of the events; "" where names are plain */
    char channel[FAN__POSTGRES_NAME_MAX + 1];
    char name[17]; /* of this store among all that have the log open, in notices */
    uint32_t timeout_ms;
    uint32_t open_ms;
    uint32_t poll_ms;
    uint64_t epoch;
    char *texts; /* all statements with their names filled in (wire.c) */
    size_t text_at[FAN__PG_COUNT];
    int64_t lock_key; /* of the advisory lock under which sequences are given */
    bool durable;     /* the server syncs its log */

    /* The writer's. */
    struct fan__tuples *tuples;
    int64_t series_swept; /* changes when series are forgotten, or the log is another */
    int64_t mark_due_us;  /* by env's monotonic clock */
    int64_t noticed_ns;   /* when the last notice went out */

    struct fan__mutex pool_mutex;
    struct fan__cond pool_returned;
    struct fan__postgres_connection *writer; /* while it is not lent */
    bool writer_lent;
    struct fan__postgres_connection *pool;
    size_t pool_count; /* also those that are lent */
    int64_t retry_ns;  /* no connection is tried before; after a failure, with jitter */
    uint32_t retry_ms;
    struct fan_error refusal; /* of the last try */

    struct fan__mutex clock_mutex;
    struct fan__postgres_clock clock;

    struct fan__mutex doubt_mutex;
    struct fan__postgres_doubt doubts[FAN__POSTGRES_DOUBT_MAX];
    size_t doubt_count; /* also those that were forgotten: the oldest make room */

    struct fan__postgres_tail *tail;

    /* Retention, which one thread at a time is at. */
    struct fan__mutex keep_mutex;
    struct fan__postgres_pass pass;
};

/* connection.c */

/*
 * Begins a transaction on a connection of the pool, or on the writer's (fan__postgres_borrow_writer
 * also takes the log's lock in the database: nobody else appends or deletes until its end).
 *
 * Returns: FAN_UNAVAILABLE when none can be had before the deadline.
 * `error` may be NULL. What gives FAN_OK wants its end.
 */
enum fan_status fan__postgres_borrow(struct fan__postgres *store, enum fan__postgres_mode mode,
                                     struct fan__postgres_connection **ret_connection,
                                     struct fan_error *error);
enum fan_status fan__postgres_borrow_writer(struct fan__postgres *store,
                                            struct fan__postgres_connection **ret_connection,
                                            struct fan_error *error);

/*
 * Commits, if `status` and the connection's are FAN_OK, else rolls back; gives the connection back
 * and tells what came of it: `status`, or the connection's failure. FAN_UNKNOWN: the commit was
 * sent and nobody knows what became of it.
 */
enum fan_status fan__postgres_end(struct fan__postgres_connection *connection,
                                  enum fan_status status, struct fan_error *error);

/* Begins another transaction of a loan whose first one was committed. */
void fan__postgres_begin(struct fan__postgres_connection *connection, enum fan__postgres_mode mode);

/* Opens one more connection, beside the pool, by `deadline_ns`. */
enum fan_status fan__postgres_connect(struct fan__postgres *store, int64_t deadline_ns,
                                      struct fan__postgres_connection **ret_connection,
                                      struct fan_error *error);
void fan__postgres_disconnect(struct fan__postgres_connection *connection);

/*
 * Fails the connection when the log that is there has another epoch than the one that was opened.
 */
void fan__postgres_check_epoch(struct fan__postgres_connection *connection, int64_t epoch);

/* Gives a loan that has much to do the whole time again, from now on. */
void fan__postgres_extend(struct fan__postgres_connection *connection);

/* wire.c: parameters are borrowed for the call. */

struct fan__postgres_params {
    int count;
    const char *values[FAN__POSTGRES_PARAM_MAX];
    int lengths[FAN__POSTGRES_PARAM_MAX];
    int formats[FAN__POSTGRES_PARAM_MAX];
    char numbers[FAN__POSTGRES_PARAM_MAX][8];
};

/* In their order, $1 first. SQL says their types: $1::bigint, $2::text, $3::bytea, $4::bigint[]. */
void fan__postgres_add_int(struct fan__postgres_params *params, int64_t number);
void fan__postgres_add_null(struct fan__postgres_params *params);
void fan__postgres_add_text(struct fan__postgres_params *params, const char *text); /* NULL too */
void fan__postgres_add_bytes(struct fan__postgres_params *params, const void *data, size_t size);

/* Arrays, built in a buffer that lives until the call. */
struct fan__postgres_array {
    struct fan__buffer buffer;
    uint32_t count;
};

enum fan__postgres_type {
    FAN__POSTGRES_BYTEA = 17,
    FAN__POSTGRES_INT8 = 20,
    FAN__POSTGRES_TEXT = 25,
};

void fan__postgres_array_init(struct fan__postgres_array *array, const struct fan_env *env,
                              enum fan__postgres_type type);
void fan__postgres_array_deinit(struct fan__postgres_array *array);
void fan__postgres_array_int(struct fan__postgres_array *array, int64_t number);
void fan__postgres_array_bytes(struct fan__postgres_array *array, const void *data, size_t size);
void fan__postgres_array_text(struct fan__postgres_array *array, const char *text); /* NULL too */
void fan__postgres_add_array(struct fan__postgres_params *params,
                             struct fan__postgres_array *array);

/*
 * Runs a statement, waits for it and gives its result, which is yours (PQclear takes NULL, and
 * PQntuples(NULL) is 0); NULL once the connection has failed. `params` may be NULL. What was queued
 * before goes along and is done first.
 */
PGresult *fan__postgres_run(struct fan__postgres_connection *connection,
                            enum fan__postgres_statement statement,
                            const struct fan__postgres_params *params);

/* The same for what gives no rows: how many were touched. */
uint64_t fan__postgres_run_count(struct fan__postgres_connection *connection,
                                 enum fan__postgres_statement statement,
                                 const struct fan__postgres_params *params);

/* Queues a statement to go with the next run or commit; gives its place there. */
size_t fan__postgres_queue(struct fan__postgres_connection *connection,
                           enum fan__postgres_statement statement,
                           const struct fan__postgres_params *params);

/* Sends all that is queued, and gives the result of what was queued at `place`. */
PGresult *fan__postgres_flush(struct fan__postgres_connection *connection, size_t place);

/*
 * Commits, together with all that is queued, and gives the result of what was queued at `place`
 * (SIZE_MAX: none is wanted). fan__postgres_end is still to come, and tells what came of it.
 */
PGresult *fan__postgres_commit(struct fan__postgres_connection *connection, size_t place);

/* The same with the results of several places; each is NULL once the connection has failed. */
void fan__postgres_commit_all(struct fan__postgres_connection *connection, const size_t *places,
                              size_t count, PGresult **ret_results);

/* Queues a statement and commits with it, in one round trip. */
PGresult *fan__postgres_run_last(struct fan__postgres_connection *connection,
                                 enum fan__postgres_statement statement,
                                 const struct fan__postgres_params *params);

/* Runs several statements in one text, outside of the pipeline, their names filled in (schema). */
void fan__postgres_script(struct fan__postgres_connection *connection, const char *sql);

/* Waits for the socket by the loan's deadline; false when that has passed. */
bool fan__postgres_poll(struct fan__postgres_connection *connection, bool to_write);

/* Notes a failure that is ours, if it is the first. */
void fan__postgres_fail(struct fan__postgres_connection *connection, enum fan_status status);

/* Values of a result, all binary: 0, "" and NULL for SQL's NULL. Texts live as long as it. */
int64_t fan__postgres_int(const PGresult *result, int row, int column);
const char *fan__postgres_text(const PGresult *result, int row, int column);
const char *fan__postgres_text_or_null(const PGresult *result, int row, int column);
struct fan_str fan__postgres_bytes(const PGresult *result, int row, int column);

/* Fills the names into all statements, once. */
bool fan__postgres_texts_new(struct fan__postgres *store);

/* The text of a statement with its names filled in; yours (fan__free), NULL without memory. */
char *fan__postgres_fill(const struct fan__postgres *store, const char *sql);

/* The name that a word stands for, without quotes: "meta" may be "events_meta". */
void fan__postgres_name(const struct fan__postgres *store, const char *word, size_t size,
                        char name[FAN__POSTGRES_NAME_MAX + 1]);

/* map.c: what a failure means, and its words for people. */
enum fan_status fan__postgres_map(const char *sqlstate);

/* clock.c: the store's time in microseconds; whoever sets a wall clock does not move it. */
int64_t fan__postgres_now_us(struct fan__postgres *store);

/*
 * Takes the clock of the log as it is in this transaction, and keeps there how far it came: each
 * transaction that times something calls it first. Sets the log's right, where the server's wall
 * clock was set meanwhile.
 */
void fan__postgres_clock_sync(struct fan__postgres_connection *connection);

/* Before the end: whoever opens the log next begins where we are. */
void fan__postgres_clock_leave(struct fan__postgres *store);

/* Sets the store's clock to env's wall clock, for good: what is under way moves along. */
enum fan_status fan__postgres_clock_accept(struct fan__postgres *store, struct fan_error *error);

/* Whether the log was not told for a second how far its clock came. */
bool fan__postgres_clock_is_due(struct fan__postgres *store);

/* schema.c: makes or migrates the log, and reads its identity. */
enum fan_status fan__postgres_schema_open(struct fan__postgres *store, struct fan_error *error);

/* The names of all that a log has in its schema; the array wants its end. */
void fan__postgres_names(const struct fan__postgres *store, struct fan__postgres_array *names);

/* What a snapshot says of the log as a whole. It fails when that is another log than was opened. */
struct fan__postgres_bounds {
    uint64_t head_seq;
    uint64_t trimmed_seq;
};

void fan__postgres_bounds(struct fan__postgres_connection *connection,
                          struct fan__postgres_bounds *ret_bounds);

/* The same from the result of BOUNDS. */
void fan__postgres_bounds_of(struct fan__postgres_connection *connection, const PGresult *result,
                             struct fan__postgres_bounds *ret_bounds);

/* tail.c */
enum fan_status fan__postgres_tail_start(struct fan__postgres *store, struct fan_error *error);
bool fan__postgres_tail_stop(struct fan__postgres *store); /* whether the server was there */
void fan__postgres_tail_moved(struct fan__postgres *store, uint64_t head_seq);
void fan__postgres_tail_clear(struct fan__postgres *store); /* a group was deleted */
enum fan_status fan__postgres_wait(void *self, uint64_t after_seq, uint32_t timeout_ms);
void fan__postgres_wake(void *self);
enum fan_status fan__postgres_head(void *self, uint64_t *ret_seq);

/* append.c, read.c, ... as in the provider's table. */
enum fan_status fan__postgres_append(void *self, struct fan_append *items, size_t count,
                                     struct fan_error *error);
enum fan_status fan__postgres_read(void *self, uint64_t after_seq, const struct fan_query *query,
                                   struct fan_batch *batch, struct fan_read_result *ret_result);
enum fan_status fan__postgres_list(void *self, const struct fan_query *query,
                                   struct fan_batch *batch, struct fan_event_state *states,
                                   struct fan_error *error);
enum fan_status fan__postgres_get(void *self, const char *id, struct fan_batch *batch,
                                  struct fan_event_state *ret_state);
enum fan_status fan__postgres_remove(void *self, const char *id);
enum fan_status fan__postgres_erase(void *self, const char *id);
enum fan_status fan__postgres_stats(void *self, struct fan_store_stats *ret_stats);
enum fan_status fan__postgres_lease_acquire(void *self, const char *name, const char *owner,
                                            uint32_t ttl_ms, uint64_t *ret_fence);
enum fan_status fan__postgres_lease_renew(void *self, const char *name, const char *owner,
                                          uint64_t fence, uint32_t ttl_ms);
enum fan_status fan__postgres_lease_release(void *self, const char *name, const char *owner,
                                            uint64_t fence);

/* groups and keeping */
enum fan_status fan__postgres_group_create(void *self, const struct fan_group_name *name,
                                           const struct fan_group_options *options,
                                           struct fan_error *error);
enum fan_status fan__postgres_group_delete(void *self, const struct fan_group_name *name);
enum fan_status fan__postgres_claim(void *self, const struct fan_group_name *name,
                                    const struct fan_claim_options *options,
                                    struct fan_batch *batch, struct fan_claim *claims);
enum fan_status fan__postgres_settle(void *self, const struct fan_group_name *name,
                                     struct fan_settle *items, size_t count);
enum fan_status fan__postgres_renew(void *self, const struct fan_group_name *name,
                                    struct fan_settle *items, size_t count, uint32_t lease_ms);
enum fan_status fan__postgres_move(void *self, const struct fan_group_name *name, uint64_t seq,
                                   enum fan_event_status to);
enum fan_status fan__postgres_deliveries(void *self, uint64_t seq, uint64_t after_seq,
                                         fan_delivery_visit visit, void *context);
enum fan_status fan__postgres_groups(void *self, fan_group_visit visit, void *context);
enum fan_status fan__postgres_retain(void *self, const struct fan_retention *retention,
                                     struct fan_retained *ret_retained, struct fan_error *error);
enum fan_status fan__postgres_accept_clock(void *self, struct fan_error *error);
enum fan_status fan__postgres_backup(void *self, const char *path, struct fan_error *error);
enum fan_status fan__postgres_restore(const char *path, const char *uri, const struct fan_env *env,
                                      struct fan_error *error);
enum fan_status fan__postgres_verify(void *self, fan_finding_visit visit, void *context,
                                     struct fan_error *error);

#endif
