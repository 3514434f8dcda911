/*
 * Sums over the log without reading it: events by the counts of their blocks, deliveries by the
 * index over those that are not completed and by each group's counter, and what groups are owed
 * without a row by the index over series.
 */
#include "store/sqlite/owed.h"
#include "store/sqlite/walk.h"

#include "base/env.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Events in all, or past a sequence. */
static uint64_t count_after(struct fan__sqlite_connection *connection, uint64_t seq)
{
    uint64_t block = seq >> FAN__SQLITE_BLOCK_BITS;
    sqlite3_stmt *statement = fan__sqlite_use(connection, FAN__SQL_BLOCK_SUM);
    sqlite3_bind_int64(statement, 1, seq == 0 ? -1 : (int64_t)block);
    uint64_t count = (uint64_t)fan__sqlite_number(connection, statement, 0);
    if (seq > 0) {
        statement = fan__sqlite_use(connection, FAN__SQL_BLOCK_COUNT_AFTER);
        sqlite3_bind_int64(statement, 1, (int64_t)seq);
        count += (uint64_t)fan__sqlite_number(connection, statement, 0);
    }
    return count;
}

/* The lowest cursor of a group that wants everything: past it all events count, whatever series. */
static uint64_t threshold_of_all(const struct fan__sqlite_groups *groups)
{
    uint64_t lowest = UINT64_MAX;
    for (size_t i = 0; i < groups->count; i++) {
        const struct fan__sqlite_group *group = &groups->items[i];
        bool all = !group->topic && (!group->pattern || strcmp(group->pattern, "*") == 0 ||
                                     strcmp(group->pattern, ">") == 0);
        if (all && group->cursor_seq < lowest)
            lowest = group->cursor_seq;
    }
    return lowest;
}

/* Events that are owed to some group without a row, as far as the groups' filters tell. */
static uint64_t count_owed(struct fan__sqlite_connection *connection,
                           struct fan__sqlite_thresholds *thresholds, uint64_t last_seq)
{
    uint64_t lowest = fan__sqlite_groups_cursor(thresholds->groups);
    uint64_t all = threshold_of_all(thresholds->groups);
    if (lowest >= last_seq)
        return 0;
    uint64_t until = all < last_seq ? all : last_seq;
    uint64_t count = all < last_seq ? count_after(connection, all) : 0;
    if (lowest < until)
        count += fan__sqlite_owed_between(connection, thresholds, lowest, until);
    return count;
}

/*
 * Corrects the sums for one event that has rows: `owed` counted it as pending if its series'
 * threshold lies before it; what it is really says its state.
 */
static void correct(struct fan__sqlite_connection *connection,
                    struct fan__sqlite_thresholds *thresholds, uint64_t seq,
                    struct fan_store_stats *stats)
{
    sqlite3_stmt *row = fan__sqlite_use(connection, FAN__SQL_EVENT_BY_SEQ);
    sqlite3_bind_int64(row, 1, (int64_t)seq);
    if (!fan__sqlite_step(connection, row))
        return;
    if (seq > fan__sqlite_threshold_of(connection, thresholds, sqlite3_column_int64(row, 2)))
        stats->pending--;
    struct fan_event_state state;
    fan__sqlite_state_of(connection, thresholds->groups, row, NULL, &state);
    sqlite3_reset(row);
    stats->pending += state.status == FAN_EVENT_PENDING;
    stats->processing += state.status == FAN_EVENT_PROCESSING;
    stats->failed += state.status == FAN_EVENT_FAILED;
}

static int compare(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a;
    uint64_t right = *(const uint64_t *)b;
    return (left > right) - (left < right);
}

/* Events with a row that was made before the group's cursor came by, in their order. */
static size_t load_ahead(struct fan__sqlite_connection *connection,
                         const struct fan__sqlite_groups *groups, struct fan__buffer *seqs)
{
    for (size_t i = 0; i < groups->count; i++) {
        const struct fan__sqlite_group *group = &groups->items[i];
        if (group->ahead == 0)
            continue;
        sqlite3_stmt *statement = fan__sqlite_use(connection, FAN__SQL_AHEAD);
        sqlite3_bind_int64(statement, 1, (int64_t)group->cursor_seq);
        sqlite3_bind_int64(statement, 2, group->id);
        while (fan__sqlite_step(connection, statement)) {
            uint64_t seq = (uint64_t)sqlite3_column_int64(statement, 0);
            fan__buffer_add(seqs, &seq, sizeof(seq));
        }
    }
    if (seqs->failed)
        fan__sqlite_fail(connection, FAN_NO_MEMORY);
    size_t count = seqs->size / sizeof(uint64_t);
    if (count > 0)
        qsort(seqs->data, count, sizeof(uint64_t), compare);
    return count;
}

/* An event under way: its rows that are not completed come one after the other. */
struct open_event {
    uint64_t seq; /* 0 for none */
    bool failed;
    bool held;
};

/*
 * The same correction for an event whose rows were all seen: they say what it is, and only past
 * the lowest cursor may it have been counted.
 */
static void correct_open(struct fan__sqlite_connection *connection,
                         struct fan__sqlite_thresholds *thresholds, const struct open_event *event,
                         struct fan_store_stats *stats)
{
    if (event->seq == 0)
        return;
    if (event->seq > fan__sqlite_groups_cursor(thresholds->groups)) {
        correct(connection, thresholds, event->seq, stats);
        return;
    }
    stats->failed += event->failed;
    stats->processing += event->held && !event->failed;
    stats->pending += !event->held && !event->failed;
}

static bool is_group(const struct fan__sqlite_groups *groups, int64_t id)
{
    size_t i = 0;
    while (i < groups->count && groups->items[i].id != id)
        i++;
    return i < groups->count;
}

/* Events with a row that is not completed, but those that are ahead. */
static void correct_rows(struct fan__sqlite_connection *connection,
                         struct fan__sqlite_thresholds *thresholds, const struct fan__buffer *ahead,
                         struct fan_store_stats *stats)
{
    int64_t now_us = fan__sqlite_now_us(connection->store);
    size_t count = ahead->size / sizeof(uint64_t);
    struct open_event event = { .seq = 0 };
    sqlite3_stmt *statement = fan__sqlite_use(connection, FAN__SQL_OPEN);
    while (fan__sqlite_step(connection, statement)) {
        uint64_t seq = (uint64_t)sqlite3_column_int64(statement, 0);
        if (!is_group(thresholds->groups, sqlite3_column_int64(statement, 1)) ||
            (count > 0 && bsearch(&seq, ahead->data, count, sizeof(seq), compare)))
            continue;
        if (seq != event.seq) {
            correct_open(connection, thresholds, &event, stats);
            event = (struct open_event){ .seq = seq };
        }
        int status = sqlite3_column_int(statement, 2);
        event.failed |= status == FAN_EVENT_FAILED;
        event.held |= status == FAN_EVENT_PROCESSING && sqlite3_column_int64(statement, 3) > now_us;
    }
    correct_open(connection, thresholds, &event, stats);
}

static void correct_all(struct fan__sqlite_connection *connection,
                        struct fan__sqlite_thresholds *thresholds, struct fan_store_stats *stats)
{
    struct fan__buffer ahead;
    fan__buffer_init(&ahead, connection->store->env);
    size_t count = load_ahead(connection, thresholds->groups, &ahead);
    const uint64_t *seqs = (const uint64_t *)(void *)ahead.data;
    correct_rows(connection, thresholds, &ahead, stats);
    for (size_t i = 0; i < count && connection->status == FAN_OK; i++) {
        if (i == 0 || seqs[i] != seqs[i - 1])
            correct(connection, thresholds, seqs[i], stats);
    }
    fan__buffer_deinit(&ahead);
}

/* What the files hold. Not the truth of one instant: they are written while we look. */
static uint64_t bytes_of(struct fan__sqlite_connection *connection)
{
    sqlite3_int64 total = 0;
    sqlite3_file *file = NULL;
    const int opcodes[] = { SQLITE_FCNTL_FILE_POINTER, SQLITE_FCNTL_JOURNAL_POINTER };
    for (size_t i = 0; i < sizeof(opcodes) / sizeof(*opcodes); i++) {
        sqlite3_int64 size = 0;
        if (sqlite3_file_control(connection->db, "main", opcodes[i], &file) == SQLITE_OK && file &&
            file->pMethods && file->pMethods->xFileSize(file, &size) == SQLITE_OK)
            total += size;
    }
    return (uint64_t)total;
}

void fan__sqlite_sums(struct fan__sqlite_connection *connection,
                      const struct fan__sqlite_groups *groups, struct fan_store_stats *ret_stats)
{
    struct fan__sqlite_thresholds thresholds;
    fan__sqlite_thresholds_init(&thresholds, connection, groups);
    ret_stats->events = count_after(connection, 0);
    ret_stats->first_seq = (uint64_t)fan__sqlite_number(
        connection, fan__sqlite_use(connection, FAN__SQL_EVENT_FIRST), 0);
    ret_stats->last_seq = (uint64_t)fan__sqlite_number(
        connection, fan__sqlite_use(connection, FAN__SQL_EVENT_LAST), 0);
    ret_stats->bytes = bytes_of(connection);
    ret_stats->groups = groups->count;
    ret_stats->pending = count_owed(connection, &thresholds, ret_stats->last_seq);
    correct_all(connection, &thresholds, ret_stats);
    ret_stats->completed =
        ret_stats->events - ret_stats->pending - ret_stats->processing - ret_stats->failed;
    fan__sqlite_thresholds_deinit(&thresholds);
}

enum fan_status fan__sqlite_stats(void *self, struct fan_store_stats *ret_stats)
{
    struct fan__sqlite_connection *connection = NULL;
    enum fan_status status = fan__sqlite_read_begin(self, &connection);
    if (status != FAN_OK)
        return status;
    struct fan__sqlite_groups groups;
    fan__sqlite_groups_load(connection, &groups);
    fan__sqlite_sums(connection, &groups, ret_stats);
    fan__sqlite_groups_free(&groups);
    return fan__sqlite_read_end(connection);
}

/* A group's stats on the way; first_seq is the first row that is still owed, 0 without one. */
struct tally {
    struct fan_group_stats stats;
    uint64_t first_seq;
};

/* Counts the groups' rows that are not completed; a lapsed claim is pending again. */
static void count_open(struct fan__sqlite_connection *connection,
                       const struct fan__sqlite_groups *groups, struct tally *tallies)
{
    int64_t now_us = fan__sqlite_now_us(connection->store);
    sqlite3_stmt *statement = fan__sqlite_use(connection, FAN__SQL_OPEN);
    while (fan__sqlite_step(connection, statement)) {
        int64_t id = sqlite3_column_int64(statement, 1);
        size_t i = 0;
        while (i < groups->count && groups->items[i].id != id)
            i++;
        if (i == groups->count)
            continue;
        struct tally *tally = &tallies[i];
        int status = sqlite3_column_int(statement, 2);
        if (status == FAN_EVENT_FAILED) {
            tally->stats.failed++;
            continue;
        }
        if (status == FAN_EVENT_PROCESSING && sqlite3_column_int64(statement, 3) > now_us)
            tally->stats.processing++;
        else
            tally->stats.pending++;
        if (tally->first_seq == 0)
            tally->first_seq = (uint64_t)sqlite3_column_int64(statement, 0);
    }
}

/* How many of the rows past the cursor were counted as owed. */
static uint64_t count_ahead(struct fan__sqlite_connection *connection,
                            const struct fan__sqlite_group *group,
                            struct fan__sqlite_thresholds *thresholds)
{
    uint64_t count = 0;
    if (group->ahead == 0)
        return 0;
    sqlite3_stmt *statement = fan__sqlite_use(connection, FAN__SQL_AHEAD);
    sqlite3_bind_int64(statement, 1, (int64_t)group->cursor_seq);
    sqlite3_bind_int64(statement, 2, group->id);
    while (fan__sqlite_step(connection, statement))
        count += fan__sqlite_threshold_of(connection, thresholds,
                                          sqlite3_column_int64(statement, 1)) != UINT64_MAX;
    return count;
}

static bool has_row(struct fan__sqlite_connection *connection,
                    const struct fan__sqlite_group *group, uint64_t seq)
{
    if (group->ahead == 0)
        return false;
    sqlite3_stmt *statement = fan__sqlite_use(connection, FAN__SQL_DELIVERY_GET);
    sqlite3_bind_int64(statement, 1, (int64_t)seq);
    sqlite3_bind_int64(statement, 2, group->id);
    return fan__sqlite_number(connection, statement, -1) >= 0;
}

/* The created time of the first event that a group has not come to and is owed, 0 without one. */
static int64_t first_us_past(struct fan__sqlite_connection *connection,
                             const struct fan__sqlite_group *group, uint64_t last_seq)
{
    const struct fan_query query = {
        .size = FAN_QUERY_SIZE,
        .topic = group->topic,
        .pattern = group->pattern,
    };
    int64_t created_us = 0;
    struct fan__sqlite_walk walk;
    fan__sqlite_walk_init(&walk, connection, &query, group->cursor_seq, last_seq);
    while (created_us == 0 && fan__sqlite_walk_next(&walk)) {
        if (!has_row(connection, group, fan__sqlite_walk_seq(&walk)))
            created_us = sqlite3_column_int64(walk.statement, 3);
    }
    fan__sqlite_walk_end(&walk);
    return created_us;
}

static int64_t created_us_of(struct fan__sqlite_connection *connection, uint64_t seq)
{
    int64_t created_us = 0;
    sqlite3_stmt *row = fan__sqlite_use(connection, FAN__SQL_EVENT_BY_SEQ);
    sqlite3_bind_int64(row, 1, (int64_t)seq);
    if (fan__sqlite_step(connection, row)) {
        created_us = sqlite3_column_int64(row, 3);
        sqlite3_reset(row);
    }
    return created_us;
}

static void fill_group(struct fan__sqlite_connection *connection, struct fan__sqlite_groups *groups,
                       size_t index, uint64_t last_seq, struct tally *tally)
{
    struct fan__sqlite_group *group = &groups->items[index];
    struct fan_group_stats *stats = &tally->stats;
    struct fan__sqlite_groups alone = { .items = group, .count = 1 };
    struct fan__sqlite_thresholds thresholds;
    fan__sqlite_thresholds_init(&thresholds, connection, &alone);
    stats->size = sizeof(*stats);
    stats->group = group->name;
    stats->handler = group->handler;
    stats->pattern = group->pattern ? group->pattern : "";
    stats->cursor_seq = group->cursor_seq;
    stats->lag = count_after(connection, group->cursor_seq);
    stats->completed = group->completed;
    uint64_t owed = count_owed(connection, &thresholds, last_seq);
    owed -= count_ahead(connection, group, &thresholds);
    stats->pending += owed;
    stats->joined_us = group->joined_us;
    if (tally->first_seq > 0)
        stats->oldest_us = created_us_of(connection, tally->first_seq);
    else if (owed > 0)
        stats->oldest_us = first_us_past(connection, group, last_seq);
    fan__sqlite_thresholds_deinit(&thresholds);
}

enum fan_status fan__sqlite_groups(void *self, fan_group_visit visit, void *context)
{
    struct fan__sqlite *store = self;
    struct fan__sqlite_connection *connection = NULL;
    enum fan_status status = fan__sqlite_read_begin(store, &connection);
    if (status != FAN_OK)
        return status;
    struct fan__sqlite_groups groups;
    fan__sqlite_groups_load(connection, &groups);
    uint64_t last_seq = (uint64_t)fan__sqlite_number(
        connection, fan__sqlite_use(connection, FAN__SQL_EVENT_LAST), 0);
    struct tally *tallies = fan__alloc_zero(store->env, groups.count + 1, sizeof(*tallies));
    if (!tallies)
        fan__sqlite_fail(connection, FAN_NO_MEMORY);
    if (tallies && connection->status == FAN_OK)
        count_open(connection, &groups, tallies);
    for (size_t i = 0; tallies && i < groups.count && connection->status == FAN_OK; i++)
        fill_group(connection, &groups, i, last_seq, &tallies[i]);
    status = fan__sqlite_read_end(connection);
    for (size_t i = 0; status == FAN_OK && i < groups.count; i++) {
        if (!visit(context, &tallies[i].stats))
            break;
    }
    fan__free(store->env, tallies);
    fan__sqlite_groups_free(&groups);
    return status;
}

static bool visit_row(sqlite3_stmt *row, int64_t now_us, fan_delivery_visit visit, void *context)
{
    struct fan_delivery delivery = {
        .size = sizeof(delivery),
        .group = (const char *)sqlite3_column_text(row, 0),
        .handler = (const char *)sqlite3_column_text(row, 1),
        .seq = (uint64_t)sqlite3_column_int64(row, 2),
        .status = (enum fan_event_status)sqlite3_column_int(row, 3),
        .attempts = (unsigned)sqlite3_column_int(row, 4),
        .owner = (const char *)sqlite3_column_text(row, 5),
        .error = (const char *)sqlite3_column_text(row, 6),
        .due_us = sqlite3_column_int64(row, 7),
        .processed_us = sqlite3_column_int64(row, 8),
        .completed_us = sqlite3_column_int64(row, 9),
        .reason = (enum fan_dead_reason)sqlite3_column_int(row, 10),
        .lapses = (unsigned)sqlite3_column_int(row, 11),
    };
    if (delivery.status == FAN_EVENT_PROCESSING && delivery.due_us <= now_us) {
        delivery.status = FAN_EVENT_PENDING;
        delivery.owner = NULL;
    }
    delivery.owner = delivery.owner ? delivery.owner : "";
    delivery.error = delivery.error ? delivery.error : "";
    return visit(context, &delivery);
}

enum fan_status fan__sqlite_deliveries(void *self, uint64_t seq, uint64_t after_seq,
                                       fan_delivery_visit visit, void *context)
{
    struct fan__sqlite *store = self;
    struct fan__sqlite_connection *connection = NULL;
    enum fan_status status = fan__sqlite_read_begin(store, &connection);
    if (status != FAN_OK)
        return status;
    int64_t now_us = fan__sqlite_now_us(store);
    sqlite3_stmt *row = fan__sqlite_use(connection, seq > 0 ? FAN__SQL_DELIVERIES : FAN__SQL_DEAD);
    sqlite3_bind_int64(row, 1, (int64_t)(seq > 0 ? seq : after_seq));
    while (fan__sqlite_step(connection, row)) {
        if (!visit_row(row, now_us, visit, context))
            break;
    }
    return fan__sqlite_read_end(connection);
}
