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

/* Whether it goes up and leaves nothing out. */
bool fan__postgres_walk_is_plain(const struct fan__postgres_walk *walk);

/*
 * A page in two steps, for a plain walk: it is queued, and goes along with what the caller asks
 * for; then its result is taken, for which the snapshot's head must be known.
 */
size_t fan__postgres_walk_queue(const struct fan__postgres_walk *walk, size_t limit);
void fan__postgres_walk_take(struct fan__postgres_walk *walk, const PGresult *page, size_t limit,
                             uint64_t head_seq);

#endif
