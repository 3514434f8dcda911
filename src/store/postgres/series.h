/*
 * The log's series: those of rows, those that a filter matches, and those of what is to be written.
 */
#ifndef FAN_STORE_POSTGRES_SERIES_H
#define FAN_STORE_POSTGRES_SERIES_H

#include "store/postgres/store.h"
#include "store/series.h"
#include "store/sets.h"

/* rows.c */

/* Gives a series, NULL once the connection has failed. Borrowed until the next call. */
const struct fan__series *fan__postgres_series_get(struct fan__postgres_connection *connection,
                                                   int64_t id);

/* Looks for all series that a result's events (FAN__POSTGRES_COLUMNS) need, in one go. */
void fan__postgres_rows_load(struct fan__postgres_connection *connection, const PGresult *result);

/* Whether all of them are at hand. */
bool fan__postgres_rows_known(const struct fan__postgres_connection *connection,
                              const PGresult *result);

/*
 * Fills a draft with the event of a row (FAN__POSTGRES_COLUMNS), borrowed from the result. False
 * when the connection has failed.
 */
bool fan__postgres_row_draft(struct fan__postgres_connection *connection, const PGresult *result,
                             int row, struct fan_event_draft *ret_draft);

/* Adds that event to a batch. */
void fan__postgres_row_add(struct fan__postgres_connection *connection, const PGresult *result,
                           int row, struct fan_batch *batch);

/* sets.c */

/* The series that a filter matches, rising; `all` means that there is nothing to filter. */
struct fan__postgres_set {
    bool all;
    const int64_t *ids;
    size_t count;
};

/* Resolves the filter of a query. Borrowed until the next call; empty once it failed. */
void fan__postgres_set_of(struct fan__postgres_connection *connection,
                          const struct fan_query *query, struct fan__postgres_set *ret_set);
bool fan__postgres_set_has(const struct fan__postgres_set *set, int64_t id);

/* tuples.c: the writer's. */

/* The series of an event, 0 when it is not at hand. */
int64_t fan__postgres_series_known(struct fan__postgres *store, const struct fan_event *event);

/* Finds or makes, in the writer's transaction, the series of the items whose `series` is 0. */
void fan__postgres_series_make(struct fan__postgres_connection *writer,
                               const struct fan_append *items, size_t count, int64_t *series);

#endif
