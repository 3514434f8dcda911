/*
 * Retention. A pass looks at everything past a bound once, a slice with each call, and each slice
 * is one short transaction whose commit does not wait for the disk: after a crash of the server it
 * is done again. No slice takes the log's lock, so that appends go on; of the marks, which appends
 * set too, one is set under it, in a transaction of its own.
 *
 *     groups that go -> bounds (ages and sizes become sequences, by marks)
 *       -> open deliveries: expire, discard -> what groups have not come to: expire
 *       -> events that are finished: remove -> series out of use, if much was removed: forget
 *
 * Several processes may be at it at once: each looks at all, and what another did is done.
 */
#include "store/postgres/group.h"

#include "base/env.h"
#include "base/status.h"
#include "store/expired.h"

#include <stdio.h>
#include <string.h>

#define US_PER_MS 1000

/* Looking for series out of use reads all of them; it is due when that is worth it. */
#define SWEEP_SHARE 4
#define SERIES_PER_CALL 256

/* One call. */
struct keeping {
    struct fan__postgres *store;
    struct fan__postgres_connection *connection;
    const struct fan_retention *retention;
    struct fan_retained *retained;
    struct fan__postgres_pass *pass;
    int64_t now_us;
    size_t left; /* how much may still be looked at */
};

static bool is_past(uint64_t bound_ms, int64_t age_us)
{
    return bound_ms > 0 && age_us > 0 && (uint64_t)age_us / US_PER_MS > bound_ms;
}

/* Runs a statement that gives one number. */
static int64_t number_of(struct keeping *keeping, enum fan__postgres_statement statement,
                         const struct fan__postgres_params *params)
{
    PGresult *result = fan__postgres_run(keeping->connection, statement, params);
    int64_t number = PQntuples(result) > 0 ? fan__postgres_int(result, 0, 0) : 0;
    PQclear(result);
    return number;
}

static int64_t number_by(struct keeping *keeping, enum fan__postgres_statement statement,
                         int64_t parameter)
{
    struct fan__postgres_params params = { .count = 0 };
    fan__postgres_add_int(&params, parameter);
    return number_of(keeping, statement, &params);
}

/* ---- Bounds ---- */

/* Up to where everything is older. */
static uint64_t seq_of_age(struct keeping *keeping, uint64_t age_ms)
{
    if (age_ms == 0)
        return 0;
    int64_t until_us = keeping->now_us - (int64_t)age_ms * US_PER_MS;
    return (uint64_t)number_by(keeping, FAN__PG_MARK_UNTIL, until_us);
}

/* Up to where events go so that about `bytes` are left; between two marks they count alike. */
static uint64_t seq_of_bytes(struct keeping *keeping, uint64_t bytes)
{
    if (bytes == 0)
        return 0;
    struct fan__postgres_params params = { .count = 0 };
    fan__postgres_add_int(&params, (int64_t)bytes);
    PGresult *result = fan__postgres_run(keeping->connection, FAN__PG_MARK_BYTES, &params);
    uint64_t bound = 0;
    if (PQntuples(result) == 1) {
        uint64_t seqs[] = { (uint64_t)fan__postgres_int(result, 0, 0),
                            (uint64_t)fan__postgres_int(result, 0, 2) };
        double low = (double)fan__postgres_int(result, 0, 1);
        double high = (double)fan__postgres_int(result, 0, 3);
        double gone = (double)fan__postgres_int(result, 0, 4);
        double share = high > low ? (gone - low) / (high - low) : 1;
        bound = seqs[0] + (uint64_t)(share * (double)(seqs[1] - seqs[0]) + 0.999);
        if (bound > seqs[1])
            bound = seqs[1];
    }
    PQclear(result);
    return bound;
}

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static void begin_pass(struct keeping *keeping)
{
    const struct fan_retention *r = keeping->retention;
    struct fan__postgres_pass *pass = keeping->pass;
    *pass = (struct fan__postgres_pass){ .retention = *r, .runs = true, .removed = pass->removed };
    uint64_t count_seq =
        r->count > 0 ? (uint64_t)number_by(keeping, FAN__PG_EVENT_NTH, (int64_t)r->count) : 0;
    pass->bound_seq =
        larger(seq_of_age(keeping, r->age_ms), larger(seq_of_bytes(keeping, r->bytes), count_seq));
    pass->owed_seq = seq_of_age(keeping, r->owed_age_ms);
    pass->dead_seq = seq_of_age(keeping, r->dead_age_ms);
}

/* ---- Open deliveries ---- */

/* Deliveries that end: by group and sequence, with words where they become dead letters. */
struct ending {
    struct fan__postgres_array seqs;
    struct fan__postgres_array groups;
    struct fan__postgres_array words;
};

static void ending_init(struct ending *ending, const struct fan_env *env)
{
    fan__postgres_array_init(&ending->seqs, env, FAN__POSTGRES_INT8);
    fan__postgres_array_init(&ending->groups, env, FAN__POSTGRES_INT8);
    fan__postgres_array_init(&ending->words, env, FAN__POSTGRES_TEXT);
}

static void ending_deinit(struct ending *ending)
{
    fan__postgres_array_deinit(&ending->seqs);
    fan__postgres_array_deinit(&ending->groups);
    fan__postgres_array_deinit(&ending->words);
}

static void ending_add(struct ending *ending, int64_t seq, int64_t group_id, const char *words)
{
    fan__postgres_array_int(&ending->seqs, seq);
    fan__postgres_array_int(&ending->groups, group_id);
    fan__postgres_array_text(&ending->words, words);
}

/* Ends them, if they still may; gives how many it were. */
static uint64_t end_all(struct keeping *keeping, struct ending *ending,
                        enum fan__postgres_statement statement)
{
    struct fan__postgres_params params = { .count = 0 };
    if (ending->seqs.count == 0)
        return 0;
    if (ending->seqs.buffer.failed || ending->groups.buffer.failed || ending->words.buffer.failed)
        fan__postgres_fail(keeping->connection, FAN_NO_MEMORY);
    fan__postgres_queue(keeping->connection, FAN__PG_GROUPS_LOCK, NULL);
    fan__postgres_add_int(&params, keeping->now_us);
    fan__postgres_add_array(&params, &ending->seqs);
    fan__postgres_add_array(&params, &ending->groups);
    if (statement == FAN__PG_EXPIRE)
        fan__postgres_add_array(&params, &ending->words);
    uint64_t count = (uint64_t)number_of(keeping, statement, &params);
    params.count = 0;
    fan__postgres_add_array(&params, &ending->seqs);
    fan__postgres_add_array(&params, &ending->groups);
    fan__postgres_queue(keeping->connection, FAN__PG_UNPARK_ALL, &params);
    return count;
}

/* Decides on one row of OPEN_FROM. */
static void look_at_open(struct keeping *keeping, const PGresult *rows, int row,
                         struct ending *expired, struct ending *discarded)
{
    int64_t seq = fan__postgres_int(rows, row, 0);
    int64_t group_id = fan__postgres_int(rows, row, 1);
    int64_t status = fan__postgres_int(rows, row, 2);
    if (status == FAN_EVENT_FAILED) {
        int64_t dead_us = keeping->now_us - fan__postgres_int(rows, row, 4);
        if (is_past(keeping->retention->dead_age_ms, dead_us))
            ending_add(discarded, seq, group_id, NULL);
        return;
    }
    bool held = status == FAN_EVENT_PROCESSING && fan__postgres_int(rows, row, 3) > keeping->now_us;
    int64_t owed_us = keeping->now_us - fan__postgres_int(rows, row, 5);
    if (held || (uint64_t)seq > keeping->pass->owed_seq ||
        !is_past(keeping->retention->owed_age_ms, owed_us))
        return;
    char words[FAN__EXPIRED_SIZE];
    fan__expired_words(owed_us, keeping->retention->owed_age_ms, words);
    ending_add(expired, seq, group_id, words);
}

static void look_at_deliveries(struct keeping *keeping)
{
    struct fan__postgres_pass *pass = keeping->pass;
    struct fan__postgres_params params = { .count = 0 };
    fan__postgres_add_int(&params, (int64_t)pass->seq);
    fan__postgres_add_int(&params, pass->group_id);
    fan__postgres_add_int(&params, (int64_t)larger(pass->owed_seq, pass->dead_seq));
    fan__postgres_add_int(&params, (int64_t)keeping->left);
    fan__postgres_add_int(&params, keeping->now_us);
    PGresult *rows = fan__postgres_run(keeping->connection, FAN__PG_OPEN_FROM, &params);
    struct ending expired;
    struct ending discarded;
    ending_init(&expired, keeping->store->env);
    ending_init(&discarded, keeping->store->env);
    int count = PQntuples(rows);
    for (int row = 0; row < count; row++)
        look_at_open(keeping, rows, row, &expired, &discarded);
    if (count > 0) {
        pass->seq = (uint64_t)fan__postgres_int(rows, count - 1, 0);
        pass->group_id = fan__postgres_int(rows, count - 1, 1);
    }
    PQclear(rows);
    keeping->retained->expired += end_all(keeping, &expired, FAN__PG_EXPIRE);
    keeping->retained->discarded += end_all(keeping, &discarded, FAN__PG_DISCARD_DEAD);
    ending_deinit(&expired);
    ending_deinit(&discarded);
    if ((size_t)count < keeping->left) {
        pass->part = FAN__POSTGRES_PART_UNSEEN;
        pass->group_id = 0;
    }
    keeping->left -= (size_t)count;
}

/* ---- What groups have not come to ---- */

/* What becomes of a piece of the log that a group has not come to. */
struct unseen {
    struct fan__postgres_array seqs;
    struct fan__postgres_array dues;
    struct fan__postgres_array keys;
    struct fan__postgres_array parked;
    struct fan__postgres_array words; /* NULL for what is still to be given */
};

static void unseen_add(struct keeping *keeping, const PGresult *piece, int row,
                       struct unseen *unseen)
{
    char words[FAN__EXPIRED_SIZE];
    int64_t deliver_at_us = fan__postgres_int(piece, row, 1);
    int64_t owed_us = keeping->now_us - fan__postgres_int(piece, row, 2);
    bool expired = is_past(keeping->retention->owed_age_ms, owed_us);
    if (expired)
        fan__expired_words(owed_us, keeping->retention->owed_age_ms, words);
    fan__postgres_array_int(&unseen->seqs, fan__postgres_int(piece, row, 0));
    fan__postgres_array_int(&unseen->dues,
                            deliver_at_us > keeping->now_us ? deliver_at_us : keeping->now_us);
    fan__postgres_array_int(&unseen->keys, fan__postgres_int(piece, row, 4));
    fan__postgres_array_int(&unseen->parked, fan__postgres_int(piece, row, 5));
    fan__postgres_array_text(&unseen->words, expired ? words : NULL);
    keeping->retained->expired += expired;
}

static void unseen_store(struct keeping *keeping, const struct fan__postgres_found *group,
                         struct unseen *unseen)
{
    struct fan__postgres_params params = { .count = 0 };
    if (unseen->seqs.count == 0)
        return;
    if (unseen->seqs.buffer.failed || unseen->dues.buffer.failed || unseen->keys.buffer.failed ||
        unseen->parked.buffer.failed || unseen->words.buffer.failed)
        fan__postgres_fail(keeping->connection, FAN_NO_MEMORY);
    fan__postgres_add_int(&params, group->id);
    fan__postgres_add_int(&params, keeping->now_us);
    fan__postgres_add_int(&params, group->ordered);
    fan__postgres_add_array(&params, &unseen->seqs);
    fan__postgres_add_array(&params, &unseen->dues);
    fan__postgres_add_array(&params, &unseen->keys);
    fan__postgres_add_array(&params, &unseen->parked);
    fan__postgres_add_array(&params, &unseen->words);
    fan__postgres_queue(keeping->connection, FAN__PG_UNSEEN_ADD, &params);
    if (group->ordered)
        fan__postgres_unpark(keeping->connection, group->id, &unseen->seqs);
}

/* Gives rows to what the group wants of the piece, and moves its cursor over it. */
static void pass_over(struct keeping *keeping, const struct fan__postgres_found *group,
                      const PGresult *piece)
{
    const struct fan_env *env = keeping->store->env;
    struct unseen unseen;
    fan__postgres_array_init(&unseen.seqs, env, FAN__POSTGRES_INT8);
    fan__postgres_array_init(&unseen.dues, env, FAN__POSTGRES_INT8);
    fan__postgres_array_init(&unseen.keys, env, FAN__POSTGRES_INT8);
    fan__postgres_array_init(&unseen.parked, env, FAN__POSTGRES_INT8);
    fan__postgres_array_init(&unseen.words, env, FAN__POSTGRES_TEXT);
    int count = PQntuples(piece);
    for (int row = 0; row < count; row++) {
        if (fan__postgres_int(piece, row, 3) != 0)
            unseen_add(keeping, piece, row, &unseen);
    }
    unseen_store(keeping, group, &unseen);
    bool end = (size_t)count < keeping->left;
    struct fan__postgres_params params = { .count = 0 };
    fan__postgres_add_int(&params, group->id);
    fan__postgres_add_int(&params, end ? (int64_t)keeping->pass->owed_seq
                                       : fan__postgres_int(piece, count - 1, 0));
    fan__postgres_queue(keeping->connection, FAN__PG_GROUP_MOVE, &params);
    keeping->left -= (size_t)count;
    fan__postgres_array_deinit(&unseen.seqs);
    fan__postgres_array_deinit(&unseen.dues);
    fan__postgres_array_deinit(&unseen.keys);
    fan__postgres_array_deinit(&unseen.parked);
    fan__postgres_array_deinit(&unseen.words);
}

/* Goes on with the next group that has not come to where things are too old. */
static bool look_at_unseen(struct keeping *keeping)
{
    struct fan__postgres_params params = { .count = 0 };
    struct fan__postgres_found group;
    fan__postgres_add_int(&params, keeping->pass->group_id);
    fan__postgres_add_int(&params, (int64_t)keeping->pass->owed_seq);
    if (!fan__postgres_group_take(
            fan__postgres_run(keeping->connection, FAN__PG_GROUP_BEHIND, &params), &group))
        return false;
    keeping->pass->group_id = group.id - 1;
    params.count = 0;
    fan__postgres_add_int(&params, group.id);
    fan__postgres_add_int(&params, (int64_t)group.cursor_seq);
    fan__postgres_add_text(&params, group.regex);
    fan__postgres_add_text(&params, group.topic);
    fan__postgres_add_int(&params, (int64_t)keeping->left);
    fan__postgres_add_int(&params, (int64_t)keeping->pass->owed_seq);
    fan__postgres_add_int(&params, keeping->now_us);
    PGresult *piece = fan__postgres_run(keeping->connection, FAN__PG_SCAN_UNSEEN, &params);
    if (piece)
        pass_over(keeping, &group, piece);
    PQclear(piece);
    fan__postgres_group_free(&group);
    return keeping->connection->status == FAN_OK;
}

/* ---- Events ---- */

static void look_at_events(struct keeping *keeping)
{
    struct fan__postgres_pass *pass = keeping->pass;
    struct fan__postgres_params params = { .count = 0 };
    fan__postgres_add_int(&params, (int64_t)pass->seq);
    fan__postgres_add_int(&params, (int64_t)pass->bound_seq);
    fan__postgres_add_int(&params, (int64_t)keeping->left);
    PGresult *result = fan__postgres_run(keeping->connection, FAN__PG_EVENTS_REMOVE, &params);
    size_t count = PQntuples(result) == 1 ? (size_t)fan__postgres_int(result, 0, 0) : 0;
    if (count > 0) {
        pass->seq = (uint64_t)fan__postgres_int(result, 0, 1);
        keeping->retained->removed += (uint64_t)fan__postgres_int(result, 0, 2);
        keeping->retained->trimmed_seq = (uint64_t)fan__postgres_int(result, 0, 3);
    }
    PQclear(result);
    if (keeping->retained->trimmed_seq > 0) {
        params.count = 0;
        fan__postgres_add_int(&params, (int64_t)keeping->retained->trimmed_seq);
        fan__postgres_queue(keeping->connection, FAN__PG_TRIMMED, &params);
    }
    if (count < keeping->left)
        pass->part = FAN__POSTGRES_PART_END;
}

/* ---- Groups ---- */

/* Deletes one group that nobody has asked for work in too long. Gives whether there was one. */
static bool expire_group(struct keeping *keeping)
{
    struct fan__postgres_params params = { .count = 0 };
    if (keeping->retention->group_age_ms == 0)
        return false;
    fan__postgres_add_int(&params, keeping->now_us);
    fan__postgres_add_int(&params, (int64_t)keeping->retention->group_age_ms);
    PGresult *result = fan__postgres_run(keeping->connection, FAN__PG_GROUP_OLD, &params);
    bool found = PQntuples(result) == 1;
    if (found) {
        struct fan_retained *retained = keeping->retained;
        snprintf(retained->group, sizeof(retained->group), "%s", fan__postgres_text(result, 0, 1));
        snprintf(retained->handler, sizeof(retained->handler), "%s",
                 fan__postgres_text(result, 0, 2));
        retained->groups_expired = 1;
        fan__postgres_group_drop(keeping->connection, fan__postgres_int(result, 0, 0));
    }
    PQclear(result);
    return found;
}

/* Groups come first: the next that is to go, and the rows of those that are gone. */
static bool look_at_groups(struct keeping *keeping)
{
    struct fan__postgres_pass *pass = keeping->pass;
    if (!pass->runs || memcmp(&pass->retention, keeping->retention, sizeof(pass->retention)) != 0) {
        pass->runs = false;
        if (expire_group(keeping))
            return true;
    }
    return fan__postgres_group_clear(keeping->connection, keeping->left);
}

/* ---- A call ---- */

static void run_slice(struct keeping *keeping)
{
    struct fan__postgres_pass *pass = keeping->pass;
    if (pass->part == FAN__POSTGRES_PART_OPEN)
        look_at_deliveries(keeping);
    if (pass->part == FAN__POSTGRES_PART_UNSEEN) {
        while (keeping->left > 0 && look_at_unseen(keeping))
            continue;
        if (keeping->left > 0) {
            pass->part = FAN__POSTGRES_PART_EVENTS;
            pass->seq = 0;
        }
    }
    if (pass->part == FAN__POSTGRES_PART_EVENTS && keeping->left > 0)
        look_at_events(keeping);
    if (pass->part == FAN__POSTGRES_PART_END) {
        uint64_t left = (uint64_t)number_by(keeping, FAN__PG_MARKS_TIDY, (int64_t)pass->bound_seq);
        uint64_t removed = pass->removed + keeping->retained->removed;
        pass->runs = false;
        pass->sweeps = removed > 0 && removed >= left / SWEEP_SHARE;
    }
}

/*
 * Series that no event uses any more are forgotten, a piece of them with each call. Under the log's
 * lock: appends know series by heart, and are told that some are gone.
 */
static enum fan_status sweep(struct keeping *keeping, struct fan_error *error)
{
    struct fan__postgres_pass *pass = keeping->pass;
    enum fan_status status =
        fan__postgres_borrow_writer(keeping->store, &keeping->connection, error);
    if (status != FAN_OK)
        return status;
    fan__postgres_unsynced(keeping->connection);
    struct fan__postgres_params params = { .count = 0 };
    fan__postgres_add_int(&params, pass->series_id);
    fan__postgres_add_int(&params, SERIES_PER_CALL);
    PGresult *result = fan__postgres_run(keeping->connection, FAN__PG_SERIES_FORGET, &params);
    int64_t looked_at = PQntuples(result) == 1 ? fan__postgres_int(result, 0, 0) : 0;
    int64_t series_id = looked_at > 0 ? fan__postgres_int(result, 0, 1) : 0;
    int64_t forgotten = looked_at > 0 ? fan__postgres_int(result, 0, 2) : 0;
    PQclear(result);
    if (forgotten > 0)
        (void)number_by(keeping, FAN__PG_SERIES_SWEPT, 1);
    struct fan__postgres_bounds bounds;
    fan__postgres_bounds(keeping->connection, &bounds);
    keeping->retained->trimmed_seq = bounds.trimmed_seq;
    status = fan__postgres_end(keeping->connection, FAN_OK, error);
    if (status != FAN_OK)
        return status;
    pass->series_id = series_id;
    if (looked_at < SERIES_PER_CALL) {
        pass->sweeps = false;
        pass->series_id = 0;
        pass->removed = 0;
    }
    /* Who asks for something else by now has his pass still before him. */
    keeping->retained->more =
        pass->sweeps || memcmp(&pass->retention, keeping->retention, sizeof(pass->retention)) != 0;
    return FAN_OK;
}

/* Marks the head, if what lies after the last mark is a second old: under the log's lock. */
static enum fan_status mark_head(struct fan__postgres *store)
{
    struct fan__postgres_connection *connection = NULL;
    enum fan_status status = fan__postgres_borrow_writer(store, &connection, NULL);
    if (status != FAN_OK)
        return status;
    fan__postgres_unsynced(connection);
    fan__postgres_clock_sync(connection);
    struct fan__postgres_params params = { .count = 0 };
    fan__postgres_add_int(&params, fan__postgres_now_us(store));
    (void)fan__postgres_run_count(connection, FAN__PG_MARK_HEAD, &params);
    return fan__postgres_end(connection, FAN_OK, NULL);
}

static enum fan_status check_clock(struct fan__postgres *store, struct fan_error *error)
{
    int64_t now_us = fan__postgres_now_us(store);
    int64_t wall_us = fan__wall_us(store->env);
    int64_t jump_us = wall_us > now_us ? wall_us - now_us : now_us - wall_us;
    return fan__check_jump(wall_us, now_us, jump_us, error);
}

static enum fan_status run(struct keeping *keeping, struct fan_error *error)
{
    struct fan__postgres *store = keeping->store;
    struct fan_retained *retained = keeping->retained;
    enum fan_status status =
        fan__postgres_borrow(store, FAN__POSTGRES_WRITE, &keeping->connection, error);
    if (status != FAN_OK)
        return status;
    fan__postgres_unsynced(keeping->connection);
    fan__postgres_clock_sync(keeping->connection);
    keeping->now_us = fan__postgres_now_us(store);
    struct fan_error reason = FAN_ERROR_INIT;
    status = check_clock(store, &reason);
    if (status != FAN_OK) {
        (void)fan__postgres_end(keeping->connection, status, NULL);
        return fan__fail(error, status, reason.field, "%s", reason.message);
    }
    retained->more = look_at_groups(keeping);
    if (!retained->more && !keeping->pass->runs)
        begin_pass(keeping);
    if (!retained->more)
        run_slice(keeping);
    retained->more = retained->more || keeping->pass->runs || keeping->pass->sweeps;
    struct fan__postgres_bounds bounds;
    fan__postgres_bounds(keeping->connection, &bounds);
    retained->trimmed_seq = bounds.trimmed_seq;
    keeping->pass->removed += retained->removed;
    status = fan__postgres_end(keeping->connection, FAN_OK, error);
    if (status != FAN_OK)
        keeping->pass->runs = keeping->pass->sweeps = false;
    return status;
}

enum fan_status fan__postgres_retain(void *self, const struct fan_retention *retention,
                                     struct fan_retained *ret_retained, struct fan_error *error)
{
    struct fan__postgres *store = self;
    fan__mutex_lock(&store->keep_mutex);
    struct keeping keeping = {
        .store = store,
        .retention = retention,
        .retained = ret_retained,
        .pass = &store->pass,
        .left = retention->limit,
    };
    bool sweeps = store->pass.sweeps;
    enum fan_status status = sweeps || store->pass.runs ? FAN_OK : mark_head(store);
    if (status == FAN_OK)
        status = sweeps ? sweep(&keeping, error) : run(&keeping, error);
    fan__mutex_unlock(&store->keep_mutex);
    if (status != FAN_OK && status != FAN_CONFLICT && error && !error->message[0])
        return fan__fail(error, status, NULL, "%s", fan_status_text(status));
    return status;
}

enum fan_status fan__postgres_accept_clock(void *self, struct fan_error *error)
{
    struct fan__postgres *store = self;
    enum fan_status status = fan__postgres_clock_accept(store, error);
    /* The marks moved along, and a pass's bounds are of the other clock. */
    fan__mutex_lock(&store->keep_mutex);
    store->pass.runs = false;
    fan__mutex_unlock(&store->keep_mutex);
    return status;
}
