/*
 * The inside of the SQLite provider.
 *
 *     writer   one connection under a lock: appends, claims, settles; knows the head
 *     readers  a pool of connections: read, list, get, stats; each call is one snapshot
 *     checkpointer  a thread with a connection of its own (checkpoint.c)
 *
 * A connection is used by one thread at a time. Its first failure sticks (connection->status), and
 * what is called on it after that does nothing, so that a caller looks once, at the end.
 */
#ifndef FAN_STORE_SQLITE_STORE_H
#define FAN_STORE_SQLITE_STORE_H

#include "base/buffer.h"
#include "base/thread.h"
#include "store/sqlite/sql.h"

#include <fanfare/provider.h>

#include <sqlite3.h>

struct fan__sqlite;
struct fan__sqlite_checkpoint;
struct fan__sqlite_owed;
struct fan__sqlite_sweep;
struct fan__rows;
struct fan__sets;
struct fan__tuples;

struct fan__sqlite_connection {
    struct fan__sqlite *store;
    struct fan__sqlite_connection *next;
    sqlite3 *db;
    int64_t lock_until_ns; /* of the wait for a lock that is under way */
    sqlite3_stmt *statements[FAN__SQL_COUNT];
    enum fan_status status;
    char message[160];
    struct fan__rows *rows;
    struct fan__sets *sets;
    struct fan__buffer scratch;
    uint64_t seqs[FAN__SQLITE_BLOCK_COUNT];
};

/* The clock as the log has it (clock.c); the writer's. */
struct fan__sqlite_clock {
    bool begun;
    bool kept; /* the log has this clock, and that it came to high_us */
    int64_t boot;
    int64_t high_us;
    int64_t leap_us;
};

/* A moment of the log: how long it was then, and after how many bytes. */
struct fan__sqlite_mark {
    uint64_t seq;
    int64_t us;
    uint64_t bytes;
};

/* The last mark, and the bytes at the head, if they were `counted` (mark.c). */
struct fan__sqlite_marks {
    bool known;
    bool counted;
    struct fan__sqlite_mark last;
    uint64_t bytes;
};

/* What a pass of retention has still to look at, part after part. */
enum fan__sqlite_part {
    FAN__SQLITE_PART_OPEN,   /* deliveries that are not completed: expire, discard */
    FAN__SQLITE_PART_UNSEEN, /* what groups have not come to: expire */
    FAN__SQLITE_PART_EVENTS, /* finished events: remove */
    FAN__SQLITE_PART_END,
};

/* Where retention is (retain.c). Up to the sequences things are older than their bounds. */
struct fan__sqlite_pass {
    struct fan_retention retention;
    enum fan__sqlite_part part;
    bool runs;
    uint64_t seq;
    int64_t group_id;
    uint64_t bound_seq;
    uint64_t owed_seq;
    uint64_t dead_seq;
    uint64_t removed_since_sweep;
};

struct fan__sqlite {
    const struct fan_env *env;
    char *path;
    char *vfs;
    bool synchronous_normal;
    bool must_exist;
    uint32_t poll_ms;
    uint32_t checkpoint_frames;
    uint64_t epoch;
    unsigned fork_generation;

    /* The writer's; head_seq is that of the last commit, of whichever process. */
    struct fan__mutex writer_mutex;
    struct fan__sqlite_connection *writer;
    struct fan__tuples *tuples;
    bool series_changed; /* in the transaction under way */
    uint64_t head_seq;
    int64_t data_version;
    int64_t key_generation;
    bool unsynced;
    int changes; /* of the writer's connection, when the transaction began */
    struct fan__sqlite_clock clock;
    struct fan__sqlite_clock
        clock_noted; /* and its offset: what is right if the transaction fails */
    int64_t clock_noted_us;
    struct fan__sqlite_marks marks;

    struct fan__mutex clock_mutex;
    int64_t clock_offset_us;

    struct fan__mutex pool_mutex;
    struct fan__cond pool_returned;
    struct fan__sqlite_connection *pool;
    size_t pool_count;

    /* Those who wait for the head. */
    struct fan__mutex tail_mutex;
    struct fan__cond tail_wake;
    uint64_t tail_seq;
    int64_t tail_poll_ns;
    uint64_t wakes;

    struct fan__sqlite_checkpoint *checkpoint;

    /* Retention, which one thread at a time is at; it takes this lock before the writer's. */
    struct fan__mutex keep_mutex;
    struct fan__sqlite_pass pass;
    struct fan__sqlite_sweep *sweep;

    /* What stats have counted before (owed.c). */
    struct fan__mutex owed_mutex;
    struct fan__sqlite_owed *owed;
};

#define FAN__SQLITE_READER_COUNT_MAX 8
#define FAN__SQLITE_BATCH_SIZE_MAX ((size_t)1 << 20)
/* Two waits, the one under way and its own, are less than a server's stop may take (10 s). */
#define FAN__SQLITE_BUSY_MS 4000

/* sqlite.c */

/* A path that SQLite reads as no more than that. NULL without memory. */
char *fan__sqlite_path_of(const struct fan_env *env, const char *path);

/* A store of a URI that has not touched its file yet; its opening; its end. */
enum fan_status fan__sqlite_new(const char *uri, const struct fan_env *env,
                                struct fan__sqlite **ret_store, struct fan_error *error);
enum fan_status fan__sqlite_start(struct fan__sqlite *store, struct fan_error *error);
void fan__sqlite_close(void *self);

/* connection.c */

/* Opens one more connection to the store's file. `error` (may be NULL) gets the words. */
enum fan_status fan__sqlite_connect(struct fan__sqlite *store,
                                    struct fan__sqlite_connection **ret_connection,
                                    struct fan_error *error);
void fan__sqlite_disconnect(struct fan__sqlite_connection *connection);

/* Runs SQL that runs once. Returns SQLite's code. */
int fan__sqlite_exec(struct fan__sqlite_connection *connection, const char *sql);

/* A statement, prepared and reset; NULL once the connection has failed (bind and step allow it). */
sqlite3_stmt *fan__sqlite_use(struct fan__sqlite_connection *connection,
                              enum fan__sqlite_statement statement);

/* Steps: true for a row. At the end or a failure the statement is reset. */
bool fan__sqlite_step(struct fan__sqlite_connection *connection, sqlite3_stmt *statement);

/* Runs a statement that gives no row (or whose rows do not matter). */
void fan__sqlite_run(struct fan__sqlite_connection *connection, sqlite3_stmt *statement);

/* Switches the schema's triggers, for who does what they do by larger steps. */
void fan__sqlite_set_triggers(struct fan__sqlite_connection *connection, int on);

/* Gives the first column of the first row, `otherwise` without a row; resets. */
int64_t fan__sqlite_number(struct fan__sqlite_connection *connection, sqlite3_stmt *statement,
                           int64_t otherwise);

/* Notes a failure, by SQLite's code or by our own status, if it is the first. */
void fan__sqlite_failed(struct fan__sqlite_connection *connection, int code);
void fan__sqlite_fail(struct fan__sqlite_connection *connection, enum fan_status status);

enum fan_status fan__sqlite_map(sqlite3 *db, int code);
enum fan_status fan__sqlite_map_errno(int system_error, enum fan_status otherwise);

/* Puts a failure at open into words; gives its status. */
enum fan_status fan__sqlite_tell(const struct fan__sqlite *store, sqlite3 *db, int code,
                                 struct fan_error *error);

void fan__sqlite_bind_text(sqlite3_stmt *statement, int index, const char *text);
void fan__sqlite_bind_id(sqlite3_stmt *statement, int index, const char *id,
                         unsigned char uuid[16]);

/* transaction.c */

/* A snapshot on a connection of the pool. Every begin that gives FAN_OK wants its end. */
enum fan_status fan__sqlite_read_begin(struct fan__sqlite *store,
                                       struct fan__sqlite_connection **ret_connection);
enum fan_status fan__sqlite_read_end(struct fan__sqlite_connection *connection);

/*
 * The write transaction. Its end commits if `status` and the connection's are FAN_OK, and gives
 * what came of it. head_seq is the head that it leaves, 0 when it added nothing.
 */
enum fan_status fan__sqlite_write_begin(struct fan__sqlite *store, struct fan_error *error);

/* The same for what may be lost with the power: its commit does not wait for the disk. */
enum fan_status fan__sqlite_write_begin_unsynced(struct fan__sqlite *store);

/* The same for looking alone: it takes no lock of the file. */
enum fan_status fan__sqlite_look_begin(struct fan__sqlite *store);
enum fan_status fan__sqlite_write_end(struct fan__sqlite *store, enum fan_status status,
                                      uint64_t head_seq, struct fan_error *error);

/* What a snapshot says of the log as a whole. */
struct fan__sqlite_bounds {
    uint64_t head_seq;
    uint64_t trimmed_seq;
};

void fan__sqlite_bounds(struct fan__sqlite_connection *connection,
                        struct fan__sqlite_bounds *ret_bounds);

/* tail.c: notes that the head moved, and waits for it. */
void fan__sqlite_tail_moved(struct fan__sqlite *store, uint64_t head_seq);
enum fan_status fan__sqlite_wait(void *self, uint64_t after_seq, uint32_t timeout_ms);
void fan__sqlite_wake(void *self);
enum fan_status fan__sqlite_head(void *self, uint64_t *ret_seq);

/* checkpoint.c */
enum fan_status fan__sqlite_checkpoint_start(struct fan__sqlite *store, struct fan_error *error);
void fan__sqlite_checkpoint_stop(struct fan__sqlite *store);

/* Has the thread clear what deleted groups have left, when there is anything. */
void fan__sqlite_checkpoint_clear(struct fan__sqlite *store);

/* The writer's part, between two commits and with the writer's lock, after one with `status`. */
void fan__sqlite_checkpoint_finish(struct fan__sqlite *store, enum fan_status status);

/* Whether a commit that was refused for want of space may have some now. Forgets that. */
bool fan__sqlite_checkpoint_made_room(struct fan__sqlite *store);

/* clock.c: the store's time in microseconds, which goes on whatever becomes of the wall clock. */
int64_t fan__sqlite_now_us(struct fan__sqlite *store);

/* The writer's, at open and in a transaction: takes the clock of the log; keeps it there. */
void fan__sqlite_clock_load(struct fan__sqlite *store);
void fan__sqlite_clock_keep(struct fan__sqlite *store);

/* Notes the clock as it is; goes back to that, when what was to change it is not committed. */
void fan__sqlite_clock_note(struct fan__sqlite *store);
void fan__sqlite_clock_roll_back(struct fan__sqlite *store);

/*
 * How far the store's clock and the wall's are apart, or how far it leapt when this boot's began,
 * whichever is more: while it is much, one cannot say how old anything is. In a transaction.
 */
int64_t fan__sqlite_clock_jump_us(struct fan__sqlite *store);

/* Sets the store's clock to the wall's, for good: what is under way moves along. */
enum fan_status fan__sqlite_clock_accept(struct fan__sqlite *store);

/* The same within a write transaction, which must not fail if the store is to go on. */
void fan__sqlite_clock_take(struct fan__sqlite *store);

/* schema.c */

/* The folder of a path, "." for a bare name. */
void fan__sqlite_folder_of(const char *path, char *folder, size_t size);
enum fan_status fan__sqlite_schema_open(struct fan__sqlite *store, struct fan_error *error);

/* append.c, read.c, ... as in the provider's table. */
enum fan_status fan__sqlite_append(void *self, struct fan_append *items, size_t count,
                                   struct fan_error *error);
enum fan_status fan__sqlite_read(void *self, uint64_t after_seq, const struct fan_query *query,
                                 struct fan_batch *batch, struct fan_read_result *ret_result);
enum fan_status fan__sqlite_list(void *self, const struct fan_query *query, struct fan_batch *batch,
                                 struct fan_event_state *states, struct fan_error *error);
enum fan_status fan__sqlite_get(void *self, const char *id, struct fan_batch *batch,
                                struct fan_event_state *ret_state);
enum fan_status fan__sqlite_remove(void *self, const char *id);
enum fan_status fan__sqlite_erase(void *self, const char *id);
enum fan_status fan__sqlite_stats(void *self, struct fan_store_stats *ret_stats);
enum fan_status fan__sqlite_groups(void *self, fan_group_visit visit, void *context);
enum fan_status fan__sqlite_group_create(void *self, const struct fan_group_name *name,
                                         const struct fan_group_options *options,
                                         struct fan_error *error);
enum fan_status fan__sqlite_group_delete(void *self, const struct fan_group_name *name);
enum fan_status fan__sqlite_claim(void *self, const struct fan_group_name *name,
                                  const struct fan_claim_options *options, struct fan_batch *batch,
                                  struct fan_claim *claims);
enum fan_status fan__sqlite_settle(void *self, const struct fan_group_name *name,
                                   struct fan_settle *items, size_t count);
enum fan_status fan__sqlite_renew(void *self, const struct fan_group_name *name,
                                  struct fan_settle *items, size_t count, uint32_t lease_ms);
enum fan_status fan__sqlite_move(void *self, const struct fan_group_name *name, uint64_t seq,
                                 enum fan_event_status to);
enum fan_status fan__sqlite_deliveries(void *self, uint64_t seq, uint64_t after_seq,
                                       fan_delivery_visit visit, void *context);
enum fan_status fan__sqlite_lease_acquire(void *self, const char *name, const char *owner,
                                          uint32_t ttl_ms, uint64_t *ret_fence);
enum fan_status fan__sqlite_lease_renew(void *self, const char *name, const char *owner,
                                        uint64_t fence, uint32_t ttl_ms);
enum fan_status fan__sqlite_lease_release(void *self, const char *name, const char *owner,
                                          uint64_t fence);
enum fan_status fan__sqlite_retain(void *self, const struct fan_retention *retention,
                                   struct fan_retained *ret_retained, struct fan_error *error);
enum fan_status fan__sqlite_accept_clock(void *self, struct fan_error *error);
enum fan_status fan__sqlite_backup(void *self, const char *path, struct fan_error *error);
enum fan_status fan__sqlite_restore(const char *path, const char *uri, const struct fan_env *env,
                                    struct fan_error *error);
enum fan_status fan__sqlite_verify(void *self, fan_finding_visit visit, void *context,
                                   struct fan_error *error);

#endif
