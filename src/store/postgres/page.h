/*
 * Walking the log by a filter, a page at a time, in the order of sequences or against it. Which
 * statement finds the next page hangs on what the filter says (page.c).
 */
#ifndef FAN_STORE_POSTGRES_PAGE_H
#define FAN_STORE_POSTGRES_PAGE_H

#include "store/postgres/series.h"

struct fan__postgres_walk {
    struct fan__postgres_connection *connection;
    const struct fan_query *query;
    struct fan__postgres_set set;
    bool open; /* only events with a delivery that is not completed */
    bool down;
    size_t size_max;
    uint64_t after_seq; /* what is left: after_seq < seq <= last_seq */
    uint64_t last_seq;
};

/* Begins a walk over after_seq < seq <= last_seq, up or (newest_first) down. */
void fan__postgres_walk_init(struct fan__postgres_walk *walk,
                             struct fan__postgres_connection *connection,
                             const struct fan_query *query, uint64_t after_seq, uint64_t last_seq);

/*
 * Gives the next events (FAN__POSTGRES_COLUMNS), at most `limit` and about walk->size_max bytes of
 * them; they may be fewer, and none, before the end. NULL at the end or once the connection has
 * failed. The walk goes on behind them.
 */
PGresult *fan__postgres_walk_next(struct fan__postgres_walk *walk, size_t limit);

#endif
