/*
 * Retention. A pass looks at everything past a bound once, a slice with each call, and each slice
 * is one short write transaction. Nothing of it is worth a sync: after a power loss it is done
 * again.
 *
 *     bounds (ages and sizes become sequences, by marks and by the counts of blocks)
 *       -> open deliveries: expire, discard -> what groups have not come to: expire
 *       -> events that are finished: remove -> series out of use, if much was removed (sweep.c)
 */
#include "store/sqlite/retain.h"

#include "base/env.h"
#include "base/status.h"
#include "store/expired.h"
#include "store/sqlite/walk.h"

#include <stdio.h>
#include <string.h>

#define US_PER_MS 1000

/* A sweep reads an index over all that is left; it is due when that is worth it. */
#define SWEEP_SHARE 4

/* One call. */
struct keeping {
    struct fan__sqlite *store;
    struct fan__sqlite_connection *writer;
    const struct fan_retention *retention;
    struct fan_retained *retained;
    struct fan__sqlite_pass *pass;
    struct fan__sqlite_groups groups;
    int64_t now_us;
    size_t left; /* how much may still be looked at */
};

static bool is_past(uint64_t bound_ms, int64_t age_us)
{
    return bound_ms > 0 && age_us > 0 && (uint64_t)age_us / US_PER_MS > bound_ms;
}

/* ---- Bounds ---- */

static bool is_until(const void *until_us, const struct fan__sqlite_mark *mark)
{
    return mark->us <= *(const int64_t *)until_us;
}

/* Up to where everything is older. */
static uint64_t seq_of_age(struct keeping *keeping, uint64_t age_ms)
{
    if (age_ms == 0)
        return 0;
    int64_t until_us = keeping->now_us - (int64_t)age_ms * US_PER_MS;
    struct fan__sqlite_mark around[2];
    fan__sqlite_marks_find(keeping->store, is_until, &until_us, around);
    return around[0].seq;
}

static bool has_fewer(const void *bytes, const struct fan__sqlite_mark *mark)
{
    return mark->bytes < *(const uint64_t *)bytes;
}

/* Up to where events go so that about `bytes` are left; between two marks they count alike. */
static uint64_t seq_of_bytes(struct keeping *keeping, uint64_t bytes)
{
    struct fan__sqlite *store = keeping->store;
    uint64_t total = fan__sqlite_marks_bytes(store);
    if (bytes == 0 || total <= bytes)
        return 0;
    uint64_t gone = total - bytes;
    struct fan__sqlite_mark around[2];
    if (!fan__sqlite_marks_find(store, has_fewer, &gone, around))
        around[1] = (struct fan__sqlite_mark){ .seq = store->head_seq, .bytes = total };
    double share = (double)(gone - around[0].bytes) / (double)(around[1].bytes - around[0].bytes);
    uint64_t seq =
        around[0].seq + (uint64_t)(share * (double)(around[1].seq - around[0].seq) + 0.999);
    return seq < around[1].seq ? seq : around[1].seq;
}

/* Up to where events go so that `count` are left. */
static uint64_t seq_of_count(struct keeping *keeping, uint64_t count)
{
    uint64_t newer = 0;
    int64_t block = -1;
    sqlite3_stmt *statement = fan__sqlite_use(keeping->writer, FAN__SQL_BLOCKS_DOWN);
    while (count > 0 && fan__sqlite_step(keeping->writer, statement)) {
        uint64_t in_block = (uint64_t)sqlite3_column_int64(statement, 1);
        if (newer + in_block > count) {
            block = sqlite3_column_int64(statement, 0);
            sqlite3_reset(statement);
            break;
        }
        newer += in_block;
    }
    if (block < 0)
        return 0;
    statement = fan__sqlite_use(keeping->writer, FAN__SQL_BLOCK_NTH);
    sqlite3_bind_int64(statement, 1, block);
    sqlite3_bind_int64(statement, 2, (int64_t)(count - newer));
    return (uint64_t)fan__sqlite_number(keeping->writer, statement, 0);
}

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static void begin_pass(struct keeping *keeping)
{
    const struct fan_retention *r = keeping->retention;
    struct fan__sqlite_pass *pass = keeping->pass;
    uint64_t removed = pass->removed_since_sweep;
    *pass = (struct fan__sqlite_pass){ .retention = *r, .runs = true };
    pass->removed_since_sweep = removed;
    pass->bound_seq =
        larger(seq_of_age(keeping, r->age_ms),
               larger(seq_of_bytes(keeping, r->bytes), seq_of_count(keeping, r->count)));
    pass->owed_seq = seq_of_age(keeping, r->owed_age_ms);
    pass->dead_seq = seq_of_age(keeping, r->dead_age_ms);
}

/* ---- Deliveries ---- */

static void add_counts(struct keeping *keeping, int64_t group_id, int64_t completed, int64_t ahead)
{
    sqlite3_stmt *statement = fan__sqlite_use(keeping->writer, FAN__SQL_GROUP_COMPLETED);
    sqlite3_bind_int64(statement, 1, group_id);
    sqlite3_bind_int64(statement, 2, completed);
    sqlite3_bind_int64(statement, 3, ahead);
    fan__sqlite_run(keeping->writer, statement);
}

/* Since when an event is owed: it was there then, and was to be delivered. */
static int64_t owed_since_us(struct keeping *keeping, uint64_t seq, int64_t deliver_at_us)
{
    struct fan__sqlite_mark mark = { .us = keeping->now_us };
    sqlite3_stmt *statement = fan__sqlite_use(keeping->writer, FAN__SQL_MARK_FROM);
    sqlite3_bind_int64(statement, 1, (int64_t)seq);
    if (fan__sqlite_step(keeping->writer, statement)) {
        fan__sqlite_mark_of(statement, &mark);
        sqlite3_reset(statement);
    }
    return deliver_at_us > mark.us ? deliver_at_us : mark.us;
}

static void expire_row(struct keeping *keeping, uint64_t seq, int64_t group_id, int64_t owed_us)
{
    char words[FAN__EXPIRED_SIZE];
    fan__expired_words(owed_us, keeping->retention->owed_age_ms, words);
    sqlite3_stmt *statement = fan__sqlite_use(keeping->writer, FAN__SQL_DELIVERY_EXPIRE);
    sqlite3_bind_int64(statement, 1, (int64_t)seq);
    sqlite3_bind_int64(statement, 2, group_id);
    fan__sqlite_bind_text(statement, 3, words);
    sqlite3_bind_int64(statement, 4, keeping->now_us);
    fan__sqlite_run(keeping->writer, statement);
    keeping->retained->expired += keeping->writer->status == FAN_OK;
}

/* A row of OPEN_FROM, put aside: the statement must end before rows change. */
struct open {
    uint64_t seq;
    int64_t group_id;
    int status;
    int64_t due_us;
    int64_t completed_us;
};

/* What a deleted group has left is nobody's. */
static bool is_somebodys(const struct keeping *keeping, const struct open *open)
{
    for (size_t i = 0; i < keeping->groups.count; i++) {
        if (keeping->groups.items[i].id == open->group_id)
            return true;
    }
    return false;
}

static void look_at_open(struct keeping *keeping, const struct open *open)
{
    struct fan__sqlite_connection *writer = keeping->writer;
    if (!is_somebodys(keeping, open))
        return;
    if (open->status == FAN_EVENT_FAILED) {
        if (!is_past(keeping->retention->dead_age_ms, keeping->now_us - open->completed_us))
            return;
        sqlite3_stmt *statement = fan__sqlite_use(writer, FAN__SQL_DELIVERY_DISCARD);
        sqlite3_bind_int64(statement, 1, (int64_t)open->seq);
        sqlite3_bind_int64(statement, 2, open->group_id);
        sqlite3_bind_int64(statement, 3, keeping->now_us);
        fan__sqlite_run(writer, statement);
        add_counts(keeping, open->group_id, 1, 0);
        keeping->retained->discarded += writer->status == FAN_OK;
        return;
    }
    bool held = open->status == FAN_EVENT_PROCESSING && open->due_us > keeping->now_us;
    if (held || open->seq > keeping->pass->owed_seq)
        return;
    sqlite3_stmt *row = fan__sqlite_use(writer, FAN__SQL_EVENT_BY_SEQ);
    sqlite3_bind_int64(row, 1, (int64_t)open->seq);
    if (!fan__sqlite_step(writer, row))
        return;
    int64_t deliver_at_us = sqlite3_column_int64(row, 6);
    sqlite3_reset(row);
    int64_t owed_us = keeping->now_us - owed_since_us(keeping, open->seq, deliver_at_us);
    if (is_past(keeping->retention->owed_age_ms, owed_us))
        expire_row(keeping, open->seq, open->group_id, owed_us);
}

static void look_at_deliveries(struct keeping *keeping)
{
    struct fan__sqlite_pass *pass = keeping->pass;
    struct fan__buffer *rows = &keeping->writer->scratch;
    fan__buffer_clear(rows);
    sqlite3_stmt *statement = fan__sqlite_use(keeping->writer, FAN__SQL_OPEN_FROM);
    sqlite3_bind_int64(statement, 1, (int64_t)pass->seq);
    sqlite3_bind_int64(statement, 2, pass->group_id);
    sqlite3_bind_int64(statement, 3, (int64_t)larger(pass->owed_seq, pass->dead_seq));
    sqlite3_bind_int64(statement, 4, (int64_t)keeping->left);
    while (fan__sqlite_step(keeping->writer, statement)) {
        struct open open = {
            .seq = (uint64_t)sqlite3_column_int64(statement, 0),
            .group_id = sqlite3_column_int64(statement, 1),
            .status = sqlite3_column_int(statement, 2),
            .due_us = sqlite3_column_int64(statement, 3),
            .completed_us = sqlite3_column_int64(statement, 4),
        };
        fan__buffer_add(rows, &open, sizeof(open));
    }
    if (rows->failed)
        fan__sqlite_fail(keeping->writer, FAN_NO_MEMORY);
    size_t count = rows->size / sizeof(struct open);
    for (size_t i = 0; i < count && keeping->writer->status == FAN_OK; i++) {
        struct open open;
        memcpy(&open, rows->data + i * sizeof(open), sizeof(open));
        look_at_open(keeping, &open);
        pass->seq = open.seq;
        pass->group_id = open.group_id;
    }
    if (count < keeping->left) {
        pass->part = FAN__SQLITE_PART_UNSEEN;
        pass->seq = 0;
    }
    keeping->left -= count;
}

/* ---- What groups have not come to ---- */

/* Gives an event a row of the group, as a claim would that passes over it. */
static bool insert_row(struct keeping *keeping, const struct fan__sqlite_group *group,
                       sqlite3_stmt *row, int64_t due_us)
{
    struct fan__sqlite_connection *writer = keeping->writer;
    const struct fan__series *series = fan__sqlite_series_get(writer, sqlite3_column_int64(row, 2));
    if (!series)
        return false;
    int64_t key = group->ordered ? fan__sqlite_key_of(series->topic) : 0;
    bool parked = false;
    if (group->ordered) {
        sqlite3_stmt *oldest = fan__sqlite_use(writer, FAN__SQL_KEY_OLDEST);
        sqlite3_bind_int64(oldest, 1, group->id);
        sqlite3_bind_int64(oldest, 2, key);
        parked = fan__sqlite_number(writer, oldest, 0) != 0;
    }
    sqlite3_stmt *statement = fan__sqlite_use(writer, FAN__SQL_DELIVERY_INSERT);
    sqlite3_clear_bindings(statement);
    sqlite3_bind_int64(statement, 1, sqlite3_column_int64(row, 0));
    sqlite3_bind_int64(statement, 2, group->id);
    sqlite3_bind_int(statement, 3, FAN_EVENT_PENDING);
    sqlite3_bind_int(statement, 4, 0);
    sqlite3_bind_int(statement, 5, 0);
    sqlite3_bind_int64(statement, 7, due_us);
    sqlite3_bind_int(statement, 8, 0);
    if (group->ordered) {
        sqlite3_bind_int64(statement, 9, key);
        sqlite3_bind_int64(statement, 10, fan__sqlite_part_of(key));
    }
    sqlite3_bind_int(statement, 11, parked);
    fan__sqlite_run(writer, statement);
    return writer->status == FAN_OK && sqlite3_changes(writer->db) > 0;
}

static void expire_unseen_one(struct keeping *keeping, struct fan__sqlite_group *group,
                              sqlite3_stmt *row)
{
    uint64_t seq = (uint64_t)sqlite3_column_int64(row, 0);
    int64_t deliver_at_us = sqlite3_column_int64(row, 6);
    int64_t owed_us = keeping->now_us - owed_since_us(keeping, seq, deliver_at_us);
    bool expired = is_past(keeping->retention->owed_age_ms, owed_us);
    int64_t due_us = deliver_at_us > keeping->now_us ? deliver_at_us : keeping->now_us;
    if (!insert_row(keeping, group, row, due_us))
        group->ahead -= group->ahead > 0; /* it was discarded before its turn */
    else if (expired)
        expire_row(keeping, seq, group->id, owed_us);
}

/* Moves a group's cursor over what it has not come to and is not to be given any more. */
static void expire_unseen(struct keeping *keeping, struct fan__sqlite_group *group)
{
    struct fan__sqlite_connection *writer = keeping->writer;
    const struct fan_query query = {
        .size = FAN_QUERY_SIZE,
        .topic = group->topic,
        .pattern = group->pattern,
    };
    uint64_t owed_seq = keeping->pass->owed_seq;
    struct fan__sqlite_walk walk;
    fan__sqlite_walk_init(&walk, writer, &query, group->cursor_seq, owed_seq);
    for (; keeping->left > 0 && writer->status == FAN_OK; keeping->left--) {
        if (!fan__sqlite_walk_next(&walk)) {
            group->cursor_seq = owed_seq;
            break;
        }
        group->cursor_seq = fan__sqlite_walk_seq(&walk);
        expire_unseen_one(keeping, group, walk.statement);
    }
    fan__sqlite_walk_end(&walk);
    sqlite3_stmt *statement = fan__sqlite_use(writer, FAN__SQL_GROUP_ADVANCE);
    sqlite3_bind_int64(statement, 1, group->id);
    sqlite3_bind_int64(statement, 2, (int64_t)group->cursor_seq);
    sqlite3_bind_int64(statement, 3, (int64_t)group->token);
    sqlite3_bind_int(statement, 4, group->ordered);
    sqlite3_bind_int64(statement, 5, (int64_t)group->ahead);
    sqlite3_bind_int64(statement, 6, group->joined_us);
    fan__sqlite_run(writer, statement);
}

static void look_at_unseen(struct keeping *keeping)
{
    for (size_t i = 0; i < keeping->groups.count && keeping->left > 0; i++) {
        struct fan__sqlite_group *group = &keeping->groups.items[i];
        if (group->cursor_seq < keeping->pass->owed_seq)
            expire_unseen(keeping, group);
    }
    if (keeping->left > 0)
        keeping->pass->part = FAN__SQLITE_PART_EVENTS;
}

/* ---- Events ---- */

static bool is_finished(struct keeping *keeping, uint64_t seq, int64_t series_id)
{
    sqlite3_stmt *statement = fan__sqlite_use(keeping->writer, FAN__SQL_EVENT_OPEN);
    sqlite3_bind_int64(statement, 1, (int64_t)seq);
    return fan__sqlite_number(keeping->writer, statement, 0) == 0 &&
           !fan__sqlite_is_owed_unseen(keeping->writer, &keeping->groups, seq, series_id);
}

struct candidate {
    uint64_t seq;
    int64_t series_id;
};

/* What the triggers on event and delivery would do row by row, summed up for a slice. */
struct removal {
    struct keeping *keeping;
    int64_t *completed; /* by the place of the group */
    int64_t *ahead;
    uint64_t block;
    int64_t in_block;
    int64_t series_id;
    bool keyed;
};

static void flush_block(struct removal *removal)
{
    struct fan__sqlite_connection *writer = removal->keeping->writer;
    if (removal->in_block == 0)
        return;
    sqlite3_stmt *statement = fan__sqlite_use(writer, FAN__SQL_BLOCK_LESS);
    sqlite3_bind_int64(statement, 1, (int64_t)removal->block);
    sqlite3_bind_int64(statement, 2, removal->in_block);
    fan__sqlite_run(writer, statement);
    removal->in_block = 0;
}

/* All deliveries of a finished event are completed ones. */
static void remove_deliveries(struct removal *removal, uint64_t seq)
{
    const struct fan__sqlite_groups *groups = &removal->keeping->groups;
    struct fan__sqlite_connection *writer = removal->keeping->writer;
    bool any = false;
    sqlite3_stmt *statement = fan__sqlite_use(writer, FAN__SQL_EVENT_GROUPS);
    sqlite3_bind_int64(statement, 1, (int64_t)seq);
    while (fan__sqlite_step(writer, statement)) {
        int64_t id = sqlite3_column_int64(statement, 0);
        any = true;
        for (size_t i = 0; i < groups->count; i++) {
            if (groups->items[i].id != id)
                continue;
            removal->completed[i]++;
            removal->ahead[i] += seq > groups->items[i].cursor_seq;
        }
    }
    if (!any)
        return;
    statement = fan__sqlite_use(writer, FAN__SQL_EVENT_CLEAR);
    sqlite3_bind_int64(statement, 1, (int64_t)seq);
    fan__sqlite_run(writer, statement);
}

static void remove_key(struct removal *removal, const struct candidate *event)
{
    struct fan__sqlite_connection *writer = removal->keeping->writer;
    if (removal->series_id != event->series_id) {
        sqlite3_stmt *statement = fan__sqlite_use(writer, FAN__SQL_SERIES_IS_KEYED);
        sqlite3_bind_int64(statement, 1, event->series_id);
        removal->series_id = event->series_id;
        removal->keyed = fan__sqlite_number(writer, statement, 0) != 0;
    }
    if (!removal->keyed)
        return;
    sqlite3_stmt *statement = fan__sqlite_use(writer, FAN__SQL_KEY_DROP);
    sqlite3_bind_int64(statement, 1, event->series_id);
    sqlite3_bind_int64(statement, 2, (int64_t)event->seq);
    fan__sqlite_run(writer, statement);
}

static void remove_one(struct removal *removal, const struct candidate *event)
{
    struct keeping *keeping = removal->keeping;
    uint64_t block = event->seq >> FAN__SQLITE_BLOCK_BITS;
    remove_deliveries(removal, event->seq);
    remove_key(removal, event);
    sqlite3_stmt *statement = fan__sqlite_use(keeping->writer, FAN__SQL_EVENT_DROP);
    sqlite3_bind_int64(statement, 1, (int64_t)event->seq);
    fan__sqlite_run(keeping->writer, statement);
    if (block != removal->block)
        flush_block(removal);
    removal->block = block;
    removal->in_block++;
    keeping->retained->removed++;
    keeping->retained->trimmed_seq = event->seq;
}

/* Groups whose rows went; what they count beside their rows follows. */
static void flush_groups(struct removal *removal)
{
    struct keeping *keeping = removal->keeping;
    for (size_t i = 0; i < keeping->groups.count; i++) {
        if (removal->completed[i] > 0)
            add_counts(keeping, keeping->groups.items[i].id, -removal->completed[i],
                       -removal->ahead[i]);
    }
}

/*
 * Removes what of the candidates is finished. The triggers, which do the same for whoever deletes a
 * row by hand, take several times as long; prepared statements follow their switch by themselves.
 */
static void remove_finished(struct keeping *keeping, struct candidate *events, size_t count)
{
    const struct fan_env *env = keeping->store->env;
    size_t finished = 0;
    for (size_t i = 0; i < count && keeping->writer->status == FAN_OK; i++) {
        if (is_finished(keeping, events[i].seq, events[i].series_id))
            events[finished++] = events[i];
    }
    if (finished == 0 || keeping->writer->status != FAN_OK)
        return;
    size_t groups = keeping->groups.count;
    struct removal removal = { .keeping = keeping, .series_id = -1 };
    removal.completed = fan__alloc_zero(env, groups * 2 + 1, sizeof(*removal.completed));
    if (!removal.completed) {
        fan__sqlite_fail(keeping->writer, FAN_NO_MEMORY);
        return;
    }
    removal.ahead = removal.completed + groups;
    fan__sqlite_set_triggers(keeping->writer, 0);
    for (size_t i = 0; i < finished && keeping->writer->status == FAN_OK; i++)
        remove_one(&removal, &events[i]);
    flush_block(&removal);
    flush_groups(&removal);
    sqlite3_stmt *statement = fan__sqlite_use(keeping->writer, FAN__SQL_HEAD_FLOOR);
    sqlite3_bind_int64(statement, 1, (int64_t)events[finished - 1].seq);
    fan__sqlite_run(keeping->writer, statement);
    fan__sqlite_set_triggers(keeping->writer, 1);
    fan__free(env, removal.completed);
}

static void look_at_events(struct keeping *keeping)
{
    struct fan__sqlite_pass *pass = keeping->pass;
    struct fan__sqlite_connection *writer = keeping->writer;
    struct fan__buffer *rows = &writer->scratch;
    fan__buffer_clear(rows);
    sqlite3_stmt *statement = fan__sqlite_use(writer, FAN__SQL_EVENTS_FROM);
    sqlite3_bind_int64(statement, 1, (int64_t)pass->seq);
    sqlite3_bind_int64(statement, 2, (int64_t)pass->bound_seq);
    sqlite3_bind_int64(statement, 3, (int64_t)keeping->left);
    while (fan__sqlite_step(writer, statement)) {
        struct candidate candidate = {
            .seq = (uint64_t)sqlite3_column_int64(statement, 0),
            .series_id = sqlite3_column_int64(statement, 1),
        };
        fan__buffer_add(rows, &candidate, sizeof(candidate));
    }
    if (rows->failed)
        fan__sqlite_fail(writer, FAN_NO_MEMORY);
    size_t count = rows->size / sizeof(struct candidate);
    struct candidate *events = (struct candidate *)(void *)rows->data;
    if (count > 0) {
        pass->seq = events[count - 1].seq;
        remove_finished(keeping, events, count);
    }
    if (count < keeping->left)
        pass->part = FAN__SQLITE_PART_END;
}

/* Rows that speak of what is gone. */
static void tidy_up(struct keeping *keeping)
{
    struct fan__sqlite_connection *writer = keeping->writer;
    uint64_t first_seq = (uint64_t)fan__sqlite_number(
        writer, fan__sqlite_use(writer, FAN__SQL_EVENT_FIRST), (int64_t)keeping->store->head_seq);
    sqlite3_stmt *statement = fan__sqlite_use(writer, FAN__SQL_BLOCKS_DROP);
    sqlite3_bind_int64(statement, 1, (int64_t)(keeping->store->head_seq >> FAN__SQLITE_BLOCK_BITS));
    fan__sqlite_run(writer, statement);
    statement = fan__sqlite_use(writer, FAN__SQL_MARK_DROP);
    sqlite3_bind_int64(statement, 1, (int64_t)first_seq);
    fan__sqlite_run(writer, statement);
    statement = fan__sqlite_use(writer, FAN__SQL_MARK_THIN);
    sqlite3_bind_int64(statement, 1, (int64_t)keeping->pass->bound_seq);
    fan__sqlite_run(writer, statement);
}

/* ---- Groups ---- */

static void put_name(char *to, size_t size, const char *name)
{
    snprintf(to, size, "%s", name ? name : "");
}

/* Deletes one group that nobody has asked for work in too long. Gives whether there was one. */
static bool expire_group(struct keeping *keeping)
{
    for (size_t i = 0; i < keeping->groups.count; i++) {
        const struct fan__sqlite_group *group = &keeping->groups.items[i];
        if (!is_past(keeping->retention->group_age_ms, keeping->now_us - group->joined_us))
            continue;
        sqlite3_stmt *statement = fan__sqlite_use(keeping->writer, FAN__SQL_GROUP_HELD);
        sqlite3_bind_int64(statement, 1, group->id);
        sqlite3_bind_int64(statement, 2, keeping->now_us);
        if (fan__sqlite_number(keeping->writer, statement, 0) != 0)
            continue;
        struct fan_retained *retained = keeping->retained;
        put_name(retained->group, sizeof(retained->group), group->name);
        put_name(retained->handler, sizeof(retained->handler), group->handler);
        retained->groups_expired = 1;
        fan__sqlite_group_drop(keeping->store, group->id, group->token);
        return true;
    }
    return false;
}

/* ---- A call ---- */

static void run_slice(struct keeping *keeping)
{
    struct fan__sqlite_pass *pass = keeping->pass;
    if (pass->part == FAN__SQLITE_PART_OPEN)
        look_at_deliveries(keeping);
    if (pass->part == FAN__SQLITE_PART_UNSEEN && keeping->left > 0)
        look_at_unseen(keeping);
    if (pass->part == FAN__SQLITE_PART_EVENTS && keeping->left > 0)
        look_at_events(keeping);
    if (keeping->retained->removed > 0) {
        sqlite3_stmt *statement = fan__sqlite_use(keeping->writer, FAN__SQL_TRIMMED);
        sqlite3_bind_int64(statement, 1, (int64_t)keeping->retained->trimmed_seq);
        fan__sqlite_run(keeping->writer, statement);
    }
    if (pass->part == FAN__SQLITE_PART_END) {
        pass->runs = false;
        tidy_up(keeping);
    }
}

static void run(struct keeping *keeping)
{
    struct fan__sqlite_pass *pass = keeping->pass;
    struct fan_retained *retained = keeping->retained;
    fan__sqlite_marks_head(keeping->store);
    fan__sqlite_groups_load(keeping->writer, &keeping->groups);
    if (!pass->runs || memcmp(&pass->retention, keeping->retention, sizeof(pass->retention)) != 0) {
        pass->runs = false;
        retained->more = expire_group(keeping);
        if (!retained->more)
            begin_pass(keeping);
    }
    if (!retained->more)
        run_slice(keeping);
    retained->more = retained->more || pass->runs;
    struct fan__sqlite_bounds bounds;
    fan__sqlite_bounds(keeping->writer, &bounds);
    retained->trimmed_seq = bounds.trimmed_seq;
    pass->removed_since_sweep += retained->removed;
    fan__sqlite_groups_free(&keeping->groups);
}

static enum fan_status retain_slice(struct fan__sqlite *store,
                                    const struct fan_retention *retention,
                                    struct fan_retained *ret_retained, struct fan_error *error)
{
    enum fan_status status = fan__sqlite_write_begin_unsynced(store);
    if (status != FAN_OK)
        return fan__fail(error, status, NULL, "%s: %s", store->path, fan_status_text(status));
    struct keeping keeping = {
        .store = store,
        .writer = store->writer,
        .retention = retention,
        .retained = ret_retained,
        .pass = &store->pass,
        .now_us = fan__sqlite_now_us(store),
        .left = retention->limit,
    };
    struct fan_error reason = FAN_ERROR_INIT;
    status = fan__check_jump(fan__wall_us(store->env), keeping.now_us,
                             fan__sqlite_clock_jump_us(store), &reason);
    if (status != FAN_OK) {
        (void)fan__sqlite_write_end(store, status, 0, NULL);
        return fan__fail(error, status, reason.field, "%s", reason.message);
    }
    run(&keeping);
    status = fan__sqlite_write_end(store, FAN_OK, 0, error);
    if (status != FAN_OK)
        store->pass.runs = false;
    else if (ret_retained->groups_expired > 0)
        fan__sqlite_checkpoint_clear(store);
    return status;
}

/* Whether so much is gone that it is worth a look for series out of use. */
static bool sweep_is_due(struct fan__sqlite *store)
{
    struct fan__sqlite_connection *connection = NULL;
    if (store->pass.runs || store->pass.removed_since_sweep == 0 ||
        fan__sqlite_read_begin(store, &connection) != FAN_OK)
        return false;
    sqlite3_stmt *statement = fan__sqlite_use(connection, FAN__SQL_BLOCK_SUM);
    sqlite3_bind_int64(statement, 1, -1);
    uint64_t left = (uint64_t)fan__sqlite_number(connection, statement, INT64_MAX);
    return fan__sqlite_read_end(connection) == FAN_OK &&
           store->pass.removed_since_sweep >= left / SWEEP_SHARE;
}

enum fan_status fan__sqlite_retain(void *self, const struct fan_retention *retention,
                                   struct fan_retained *ret_retained, struct fan_error *error)
{
    struct fan__sqlite *store = self;
    if (store->fork_generation != fan__fork_generation())
        return fan__fail(error, FAN_FORKED, NULL, "the store was opened before the fork");
    fan__mutex_lock(&store->keep_mutex);
    enum fan_status status;
    if (store->sweep) {
        status = fan__sqlite_sweep_step(store, &ret_retained->more);
        /* Who asks for something else by now has his pass still before him. */
        if (memcmp(&store->pass.retention, retention, sizeof(*retention)) != 0)
            ret_retained->more = true;
        struct fan__sqlite_bounds bounds = { 0 };
        struct fan__sqlite_connection *connection = NULL;
        if (status == FAN_OK)
            status = fan__sqlite_read_begin(store, &connection);
        if (status == FAN_OK) {
            fan__sqlite_bounds(connection, &bounds);
            status = fan__sqlite_read_end(connection);
        }
        ret_retained->trimmed_seq = bounds.trimmed_seq;
    } else {
        status = retain_slice(store, retention, ret_retained, error);
        if (status == FAN_OK && sweep_is_due(store)) {
            store->pass.removed_since_sweep = 0;
            status = fan__sqlite_sweep_begin(store);
            ret_retained->more = status == FAN_OK;
        }
    }
    fan__mutex_unlock(&store->keep_mutex);
    if (status != FAN_OK && status != FAN_CONFLICT)
        return fan__fail(error, status, NULL, "%s: %s", store->path, fan_status_text(status));
    return status;
}

enum fan_status fan__sqlite_accept_clock(void *self, struct fan_error *error)
{
    struct fan__sqlite *store = self;
    enum fan_status status = fan__sqlite_clock_accept(store);
    if (status != FAN_OK)
        return fan__fail(error, status, NULL, "%s: %s", store->path, fan_status_text(status));
    /* The marks moved along, and a pass's bounds are of the other clock. */
    fan__mutex_lock(&store->keep_mutex);
    store->pass.runs = false;
    fan__mutex_unlock(&store->keep_mutex);
    return FAN_OK;
}
