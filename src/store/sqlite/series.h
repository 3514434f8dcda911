/*
 * The log's series: those of rows, those that a filter matches, and those of what is to be written.
 */
#ifndef FAN_STORE_SQLITE_SERIES_H
#define FAN_STORE_SQLITE_SERIES_H

#include "event/uuid.h"
#include "store/series.h"
#include "store/sets.h"
#include "store/sqlite/store.h"

/* tuples.c: the writer's, with its lock. */

/* A rolled-back transaction takes back the series that it made. */
void fan__sqlite_tuples_commit(struct fan__sqlite *store);
void fan__sqlite_tuples_roll_back(struct fan__sqlite *store);

/*
 * Gives the series of an event, made if need be; 0 once the writer has failed. *ret_keyed tells
 * whether an expectation ever named its topic.
 */
int64_t fan__sqlite_series_of(struct fan__sqlite *store, const struct fan_event *event,
                              bool *ret_keyed);

/* rows.c */

/* Gives a series, NULL once the connection has failed. Borrowed until the next call. */
const struct fan__series *fan__sqlite_series_get(struct fan__sqlite_connection *connection,
                                                 int64_t id);

/*
 * Fills a draft with the event that the statement stands on (FAN__SQLITE_COLUMNS), borrowed from it
 * and from `id`. False when the connection has failed.
 */
bool fan__sqlite_row_draft(struct fan__sqlite_connection *connection, sqlite3_stmt *statement,
                           char id[FAN__UUID_TEXT_SIZE], struct fan_event_draft *ret_draft);

/* Adds that event to a batch. */
void fan__sqlite_row_add(struct fan__sqlite_connection *connection, sqlite3_stmt *statement,
                         struct fan_batch *batch);

/* sets.c */

/* The series that a filter matches, rising; `all` means that there is nothing to filter. */
struct fan__sqlite_set {
    bool all;
    const int64_t *ids;
    size_t count;
};

/* Resolves the filter of a query. Borrowed until the next call; empty once it failed. */
void fan__sqlite_set_of(struct fan__sqlite_connection *connection, const struct fan_query *query,
                        struct fan__sqlite_set *ret_set);
bool fan__sqlite_set_has(const struct fan__sqlite_set *set, int64_t id);

#endif
