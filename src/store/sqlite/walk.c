/*
 * Every statement may give more than the filter asks for (a block's bounds are wide, a user's
 * events lie in many series), so each row is checked against all of it before it is given.
 */
#include "store/sqlite/walk.h"

#include <stdlib.h>

/* Up to here it is cheaper to look for each series in a block than to go through the block. */
#define SEEK_COUNT_MAX 128

static int64_t from_us(const struct fan_query *query)
{
    return query->from_us != 0 ? query->from_us : INT64_MIN;
}

static int64_t until_us(const struct fan_query *query)
{
    return query->until_us != 0 ? query->until_us : INT64_MAX;
}

/* Binds ?1 to ?5 as sql.h says. */
static sqlite3_stmt *use(struct fan__sqlite_walk *walk, enum fan__sqlite_statement up,
                         enum fan__sqlite_statement down, int64_t value)
{
    sqlite3_stmt *statement = fan__sqlite_use(walk->connection, walk->down ? down : up);
    sqlite3_bind_int64(statement, 1, (int64_t)walk->after_seq);
    sqlite3_bind_int64(statement, 2, (int64_t)walk->last_seq);
    if (sqlite3_bind_parameter_count(statement) >= 5) {
        sqlite3_bind_int64(statement, 3, value);
        sqlite3_bind_int64(statement, 4, from_us(walk->query));
        sqlite3_bind_int64(statement, 5, until_us(walk->query));
    }
    return statement;
}

static void choose(struct fan__sqlite_walk *walk)
{
    const struct fan_query *query = walk->query;
    if (!walk->set.all && walk->set.count == 0) {
        walk->finished = true;
    } else if (!walk->set.all && walk->set.count == 1) {
        walk->statement =
            use(walk, FAN__SQL_WALK_SERIES, FAN__SQL_WALK_SERIES_DOWN, walk->set.ids[0]);
    } else if (query->user_id != 0) {
        walk->statement = use(walk, FAN__SQL_WALK_USER, FAN__SQL_WALK_USER_DOWN, query->user_id);
    } else if (!walk->set.all) {
        walk->by_block = true;
        walk->blocks = use(walk, FAN__SQL_WALK_BLOCKS, FAN__SQL_WALK_BLOCKS_DOWN, 0);
    } else if (query->from_us != 0 || query->until_us != 0) {
        walk->statement = use(walk, FAN__SQL_WALK_TIME, FAN__SQL_WALK_TIME_DOWN, 0);
    } else {
        walk->statement = use(walk, FAN__SQL_WALK_ALL, FAN__SQL_WALK_ALL_DOWN, 0);
    }
}

static void prepare(struct fan__sqlite_walk *walk, struct fan__sqlite_connection *connection,
                    const struct fan_query *query, uint64_t after_seq, uint64_t last_seq)
{
    *walk = (struct fan__sqlite_walk){
        .connection = connection,
        .query = query,
        .after_seq = after_seq,
        .last_seq = last_seq,
        .down = query->newest_first,
    };
    fan__sqlite_set_of(connection, query, &walk->set);
}

void fan__sqlite_walk_init(struct fan__sqlite_walk *walk, struct fan__sqlite_connection *connection,
                           const struct fan_query *query, uint64_t after_seq, uint64_t last_seq)
{
    prepare(walk, connection, query, after_seq, last_seq);
    choose(walk);
}

void fan__sqlite_walk_init_open(struct fan__sqlite_walk *walk,
                                struct fan__sqlite_connection *connection,
                                const struct fan_query *query, uint64_t after_seq,
                                uint64_t last_seq)
{
    prepare(walk, connection, query, after_seq, last_seq);
    walk->statement = use(walk, FAN__SQL_WALK_OPEN, FAN__SQL_WALK_OPEN_DOWN, 0);
}

static int compare(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a;
    uint64_t right = *(const uint64_t *)b;
    return (left > right) - (left < right);
}

static void collect(struct fan__sqlite_walk *walk, sqlite3_stmt *statement, bool check)
{
    uint64_t *seqs = walk->connection->seqs;
    while (fan__sqlite_step(walk->connection, statement)) {
        uint64_t seq = (uint64_t)sqlite3_column_int64(statement, 0);
        if (seq > walk->after_seq && seq <= walk->last_seq &&
            walk->count < FAN__SQLITE_BLOCK_COUNT &&
            (!check || fan__sqlite_set_has(&walk->set, sqlite3_column_int64(statement, 1))))
            seqs[walk->count++] = seq;
    }
}

/* Collects the sequences of the next block that has any. False at the end. */
static bool next_block(struct fan__sqlite_walk *walk)
{
    walk->count = 0;
    walk->index = 0;
    while (walk->count == 0) {
        if (!fan__sqlite_step(walk->connection, walk->blocks))
            return false;
        int64_t block = sqlite3_column_int64(walk->blocks, 0);
        if (walk->set.count > SEEK_COUNT_MAX) {
            sqlite3_stmt *statement = fan__sqlite_use(walk->connection, FAN__SQL_BLOCK_ALL);
            sqlite3_bind_int64(statement, 1, block);
            collect(walk, statement, true);
            continue;
        }
        for (size_t i = 0; i < walk->set.count; i++) {
            sqlite3_stmt *statement = fan__sqlite_use(walk->connection, FAN__SQL_BLOCK_SERIES);
            sqlite3_bind_int64(statement, 1, block);
            sqlite3_bind_int64(statement, 2, walk->set.ids[i]);
            collect(walk, statement, false);
        }
    }
    qsort(walk->connection->seqs, walk->count, sizeof(uint64_t), compare);
    return true;
}

static bool next_of_block(struct fan__sqlite_walk *walk)
{
    for (;;) {
        if (walk->index == walk->count && !next_block(walk))
            return false;
        size_t at = walk->down ? walk->count - 1 - walk->index : walk->index;
        walk->index++;
        walk->statement = fan__sqlite_use(walk->connection, FAN__SQL_EVENT_BY_SEQ);
        sqlite3_bind_int64(walk->statement, 1, (int64_t)walk->connection->seqs[at]);
        if (fan__sqlite_step(walk->connection, walk->statement))
            return true;
        if (walk->connection->status != FAN_OK)
            return false;
    }
}

/* The row is what the filter asks for; of an event with several open deliveries only the first. */
static bool fits(struct fan__sqlite_walk *walk)
{
    const struct fan_query *query = walk->query;
    sqlite3_stmt *statement = walk->statement;
    uint64_t seq = fan__sqlite_walk_seq(walk);
    if (seq == walk->previous_seq)
        return false;
    walk->previous_seq = seq;
    if (query->user_id != 0 && sqlite3_column_int64(statement, 4) != query->user_id)
        return false;
    if (query->from_us != 0 || query->until_us != 0) {
        int64_t created_us = sqlite3_column_int64(statement, 3);
        if (created_us < from_us(query) || created_us >= until_us(query))
            return false;
    }
    return walk->set.all || fan__sqlite_set_has(&walk->set, sqlite3_column_int64(statement, 2));
}

bool fan__sqlite_walk_next(struct fan__sqlite_walk *walk)
{
    while (!walk->finished) {
        bool there = walk->by_block ? next_of_block(walk)
                                    : fan__sqlite_step(walk->connection, walk->statement);
        if (!there)
            walk->finished = true;
        else if (fits(walk))
            return true;
    }
    return false;
}

uint64_t fan__sqlite_walk_seq(const struct fan__sqlite_walk *walk)
{
    return (uint64_t)sqlite3_column_int64(walk->statement, 0);
}

void fan__sqlite_walk_end(struct fan__sqlite_walk *walk)
{
    sqlite3_reset(walk->statement);
    sqlite3_reset(walk->blocks);
}
