/* How many events groups are owed without a row, counted without reading the same block twice. */
#ifndef FAN_STORE_SQLITE_OWED_H
#define FAN_STORE_SQLITE_OWED_H

#include "store/sqlite/state.h"

/*
 * Past a group's cursor lies what it has not come to. For an event of one series that begins at the
 * lowest cursor of the groups that want the series: its threshold, worked out once per series.
 */
struct fan__sqlite_thresholds {
    const struct fan__sqlite_groups *groups;
    const struct fan_env *env;
    struct fan__sqlite_threshold *known; /* by series id, hashed; NULL for none yet */
    size_t capacity;
    size_t count;
};

void fan__sqlite_thresholds_init(struct fan__sqlite_thresholds *thresholds,
                                 struct fan__sqlite_connection *connection,
                                 const struct fan__sqlite_groups *groups);
void fan__sqlite_thresholds_deinit(struct fan__sqlite_thresholds *thresholds);

/* Past which sequence groups are owed events of a series; UINT64_MAX when none wants them. */
uint64_t fan__sqlite_threshold_of(struct fan__sqlite_connection *connection,
                                  struct fan__sqlite_thresholds *thresholds, int64_t series_id);

/* How many events in after_seq < seq <= last_seq lie past the threshold of their series. */
uint64_t fan__sqlite_owed_between(struct fan__sqlite_connection *connection,
                                  struct fan__sqlite_thresholds *thresholds, uint64_t after_seq,
                                  uint64_t last_seq);

#endif
