/*
 * Moving the write-ahead log into the database, without holding up the writer for long.
 *
 *     writer's hook: enough frames --> thread: PASSIVE, up to 3 passes, until < 600 frames are left
 *                                 --> writer, between two commits: one PASSIVE over the rest
 *
 * A thread alone never finishes while the writer goes on: what it found and moved whole has grown
 * by then, and only a log that was moved whole can start anew. So the writer always does the small
 * rest itself. (A log that grows costs each commit a second wait, for the file's new size.) Readers
 * that stay in a snapshot put it off, which is why ours never do.
 *
 * The thread has another chore: the deliveries of groups that were deleted go by short
 * transactions, with as long a rest after each.
 *
 * On a full disk the log's frames have to be moved first, or whatever is freed goes to more of them
 * until none of it is left for the database: then they can never be moved. So the writer tries when
 * a commit was refused for want of space, and after the first one that was not.
 */
#include "store/sqlite/group.h"

#include "base/env.h"
#include "base/status.h"

#define FRAME_COUNT_REST 600
#define FRAME_COUNT_LEAST 16
#define PASS_COUNT_MAX 3
/* Of deliveries that are looked at in one transaction. */
#define CLEAR_ROW_COUNT 1000
/* After one that failed on a full disk, as many times as long as it took. */
#define RELIEF_REST_TIMES 10

struct fan__sqlite_checkpoint {
    struct fan__sqlite_connection *connection;
    struct fan__thread thread;
    struct fan__mutex mutex;
    struct fan__cond changed;
    int frame_count_start;
    int frame_count_next; /* where the thread is asked again, as the log did not start anew */
    int frame_count_last;
    bool asked;
    bool clears; /* there are deliveries of groups that are gone */
    bool rest;
    bool room; /* all frames were moved after a commit that was refused for want of space */
    bool stop;

    /* The writer's. */
    bool full;         /* there was no space, and the frames were not all moved since then */
    int64_t relief_ns; /* when to try next after a commit that was refused */
};

/* Called by SQLite on the writer's thread after each commit. */
static int on_commit(void *context, sqlite3 *db, const char *name, int frame_count)
{
    (void)db;
    (void)name;
    struct fan__sqlite_checkpoint *checkpoint = context;
    if (frame_count < checkpoint->frame_count_last)
        checkpoint->frame_count_next = checkpoint->frame_count_start;
    checkpoint->frame_count_last = frame_count;
    if (frame_count < checkpoint->frame_count_next)
        return SQLITE_OK;
    fan__mutex_lock(&checkpoint->mutex);
    if (!checkpoint->asked && !checkpoint->rest) {
        checkpoint->asked = true;
        checkpoint->frame_count_next = frame_count + checkpoint->frame_count_start / 4 + 1;
        fan__cond_signal(&checkpoint->changed);
    }
    fan__mutex_unlock(&checkpoint->mutex);
    return SQLITE_OK;
}

/* One pass. Returns: how many frames are left, -1 when it failed: the next pass's concern. */
static int pass(struct fan__sqlite_connection *connection)
{
    int frames = 0;
    int moved = 0;
    int code =
        sqlite3_wal_checkpoint_v2(connection->db, NULL, SQLITE_CHECKPOINT_PASSIVE, &frames, &moved);
    if (code != SQLITE_OK)
        fan__log(connection->store->env, FAN_LOG_DEBUG, "%s: checkpoint: %s",
                 connection->store->path, sqlite3_errstr(code));
    return code == SQLITE_OK ? frames - moved : -1;
}

/* With the lock, which it gives up meanwhile. */
static void move_frames(struct fan__sqlite_checkpoint *checkpoint)
{
    fan__mutex_unlock(&checkpoint->mutex);
    int left = pass(checkpoint->connection);
    for (int i = 1; i < PASS_COUNT_MAX && left >= FRAME_COUNT_REST; i++)
        left = pass(checkpoint->connection);
    fan__mutex_lock(&checkpoint->mutex);
    checkpoint->asked = false;
    checkpoint->rest = true;
}

/* The same. What fails is left to who next deletes a group or opens the log. */
static void clear_groups(struct fan__sqlite_checkpoint *checkpoint)
{
    struct fan__sqlite *store = checkpoint->connection->store;
    checkpoint->clears = false;
    fan__mutex_unlock(&checkpoint->mutex);
    int64_t begun_ns = fan__deadline_ns(0);
    bool more = fan__sqlite_write_begin_unsynced(store) == FAN_OK;
    if (more) {
        more = fan__sqlite_group_clear(store, CLEAR_ROW_COUNT);
        more = fan__sqlite_write_end(store, FAN_OK, 0, NULL) == FAN_OK && more;
    }
    int64_t ended_ns = fan__deadline_ns(0);
    fan__mutex_lock(&checkpoint->mutex);
    if (!more)
        return;
    checkpoint->clears = true;
    int64_t until_ns = ended_ns + (ended_ns - begun_ns);
    bool in_time = true;
    while (in_time && !checkpoint->stop && !checkpoint->asked)
        in_time = fan__cond_wait_until(&checkpoint->changed, &checkpoint->mutex, until_ns);
}

static void run(void *context)
{
    struct fan__sqlite_checkpoint *checkpoint = context;
    fan__mutex_lock(&checkpoint->mutex);
    while (!checkpoint->stop) {
        if (checkpoint->asked)
            move_frames(checkpoint);
        else if (checkpoint->clears)
            clear_groups(checkpoint);
        else
            fan__cond_wait(&checkpoint->changed, &checkpoint->mutex);
    }
    fan__mutex_unlock(&checkpoint->mutex);
}

/*
 * From a full disk on, frames are moved in time for the log to stay within the room that it had
 * then: the rest is the database's.
 */
static void tighten(struct fan__sqlite_checkpoint *checkpoint)
{
    int frames = checkpoint->frame_count_last / 2;
    if (frames < FRAME_COUNT_LEAST)
        frames = FRAME_COUNT_LEAST;
    if (frames < checkpoint->frame_count_start)
        checkpoint->frame_count_start = frames;
    checkpoint->frame_count_next = checkpoint->frame_count_start;
}

/* On a disk that was full at the last commit, or is. Gives whether all frames were moved. */
static bool relieve(struct fan__sqlite *store, bool refused)
{
    struct fan__sqlite_checkpoint *checkpoint = store->checkpoint;
    int64_t begun_ns = fan__deadline_ns(0);
    if (refused)
        tighten(checkpoint);
    if (refused && begun_ns < checkpoint->relief_ns)
        return false;
    checkpoint->full = pass(store->writer) != 0;
    int64_t ended_ns = fan__deadline_ns(0);
    checkpoint->relief_ns = ended_ns + (ended_ns - begun_ns) * RELIEF_REST_TIMES;
    return !checkpoint->full;
}

void fan__sqlite_checkpoint_finish(struct fan__sqlite *store, enum fan_status status)
{
    struct fan__sqlite_checkpoint *checkpoint = store->checkpoint;
    if (!checkpoint)
        return;
    fan__mutex_lock(&checkpoint->mutex);
    bool rest = checkpoint->rest;
    checkpoint->rest = false;
    fan__mutex_unlock(&checkpoint->mutex);
    bool refused = status == FAN_NO_SPACE;
    if (refused || (checkpoint->full && status == FAN_OK)) {
        bool relieved = relieve(store, refused);
        fan__mutex_lock(&checkpoint->mutex);
        checkpoint->room = relieved && refused;
        fan__mutex_unlock(&checkpoint->mutex);
    } else if (rest) {
        (void)pass(store->writer);
    }
}

void fan__sqlite_checkpoint_clear(struct fan__sqlite *store)
{
    struct fan__sqlite_checkpoint *checkpoint = store->checkpoint;
    fan__mutex_lock(&checkpoint->mutex);
    checkpoint->clears = true;
    fan__cond_signal(&checkpoint->changed);
    fan__mutex_unlock(&checkpoint->mutex);
}

bool fan__sqlite_checkpoint_made_room(struct fan__sqlite *store)
{
    struct fan__sqlite_checkpoint *checkpoint = store->checkpoint;
    fan__mutex_lock(&checkpoint->mutex);
    bool room = checkpoint->room;
    checkpoint->room = false;
    fan__mutex_unlock(&checkpoint->mutex);
    return room;
}

/* Whether a process died before all was cleared. */
static bool has_dropped(struct fan__sqlite_connection *connection)
{
    sqlite3_stmt *statement = fan__sqlite_use(connection, FAN__SQL_DROPPED_FIRST);
    bool any = fan__sqlite_step(connection, statement);
    if (any)
        sqlite3_reset(statement);
    connection->status = FAN_OK;
    return any;
}

enum fan_status fan__sqlite_checkpoint_start(struct fan__sqlite *store, struct fan_error *error)
{
    struct fan__sqlite_checkpoint *checkpoint = fan__alloc_zero(store->env, 1, sizeof(*checkpoint));
    if (!checkpoint)
        return fan__fail(error, FAN_NO_MEMORY, NULL, "no memory for the checkpointer");
    fan__mutex_init(&checkpoint->mutex);
    fan__cond_init(&checkpoint->changed);
    checkpoint->frame_count_start = (int)store->checkpoint_frames;
    checkpoint->frame_count_next = checkpoint->frame_count_start;
    store->checkpoint = checkpoint;
    enum fan_status status = fan__sqlite_connect(store, &checkpoint->connection, error);
    if (status == FAN_OK) {
        checkpoint->clears = has_dropped(checkpoint->connection);
        status = fan__thread_start(&checkpoint->thread, "fan-checkpoint", run, checkpoint);
        if (status != FAN_OK)
            (void)fan__fail(error, status, NULL, "no thread for the checkpointer");
    }
    if (status == FAN_OK)
        sqlite3_wal_hook(store->writer->db, on_commit, checkpoint);
    return status;
}

void fan__sqlite_checkpoint_stop(struct fan__sqlite *store)
{
    struct fan__sqlite_checkpoint *checkpoint = store->checkpoint;
    if (!checkpoint)
        return;
    fan__mutex_lock(&checkpoint->mutex);
    checkpoint->stop = true;
    fan__cond_signal(&checkpoint->changed);
    fan__mutex_unlock(&checkpoint->mutex);
    fan__thread_join(&checkpoint->thread);
    sqlite3_wal_hook(store->writer->db, NULL, NULL);
    fan__sqlite_disconnect(checkpoint->connection);
    fan__cond_deinit(&checkpoint->changed);
    fan__mutex_deinit(&checkpoint->mutex);
    fan__free(store->env, checkpoint);
    store->checkpoint = NULL;
}
