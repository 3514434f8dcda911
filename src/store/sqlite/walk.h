/*
 * Going through the events that a filter matches, in order of sequence and either way, by the index
 * that fits the filter:
 *
 *     one series            event_series, block by block
 *     several series        the same per block: numbers first, sorted, then each event
 *     user, or time         event_user; event_block's bounds
 *     open deliveries       delivery_open (for lists by status)
 *     nothing               the primary key
 *
 *     init -> next, next ... -> end
 */
#ifndef FAN_STORE_SQLITE_WALK_H
#define FAN_STORE_SQLITE_WALK_H

#include "store/sqlite/series.h"

struct fan__sqlite_walk {
    struct fan__sqlite_connection *connection;
    const struct fan_query *query;
    struct fan__sqlite_set set;
    uint64_t after_seq;
    uint64_t last_seq;
    bool down;
    bool by_block;
    bool finished;
    uint64_t previous_seq;
    sqlite3_stmt *statement; /* stands on the event after a `true` (FAN__SQLITE_COLUMNS) */
    sqlite3_stmt *blocks;
    size_t count;
    size_t index;
};

/* Events in after_seq < seq <= last_seq; the query's order, user, times and series hold. */
void fan__sqlite_walk_init(struct fan__sqlite_walk *walk, struct fan__sqlite_connection *connection,
                           const struct fan_query *query, uint64_t after_seq, uint64_t last_seq);

/* The same, but only events that have a delivery that is not completed. */
void fan__sqlite_walk_init_open(struct fan__sqlite_walk *walk,
                                struct fan__sqlite_connection *connection,
                                const struct fan_query *query, uint64_t after_seq,
                                uint64_t last_seq);

/* The next event; false at the end, or when the connection has failed. */
bool fan__sqlite_walk_next(struct fan__sqlite_walk *walk);
uint64_t fan__sqlite_walk_seq(const struct fan__sqlite_walk *walk);
void fan__sqlite_walk_end(struct fan__sqlite_walk *walk);

#endif
