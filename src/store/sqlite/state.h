/* What is known of events beyond what they say: the groups, and the sums over their deliveries. */
#ifndef FAN_STORE_SQLITE_STATE_H
#define FAN_STORE_SQLITE_STATE_H

#include "store/sqlite/series.h"

/* A row of grp. pattern and topic are NULL where the group takes all. */
struct fan__sqlite_group {
    int64_t id;
    const char *name;
    const char *handler;
    const char *pattern;
    const char *topic;
    uint64_t cursor_seq;
    uint64_t completed;
    bool ordered;
    uint64_t token;
    uint64_t ahead;
    int64_t joined_us;
};

/* All groups of a snapshot, by name. One block of memory. */
struct fan__sqlite_groups {
    struct fan__sqlite_group *items;
    size_t count;
    struct fan__buffer texts;
};

void fan__sqlite_groups_load(struct fan__sqlite_connection *connection,
                             struct fan__sqlite_groups *ret_groups);
void fan__sqlite_groups_free(struct fan__sqlite_groups *groups);

bool fan__sqlite_group_wants(const struct fan__sqlite_group *group, const char *topic,
                             const char *type);

/* Whether a group wants an event that it has not come to, and has no row of. */
bool fan__sqlite_is_owed_unseen(struct fan__sqlite_connection *connection,
                                const struct fan__sqlite_groups *groups, uint64_t seq,
                                int64_t series_id);

/* The lowest cursor, UINT64_MAX without a group: past it events may be owed without a row. */
uint64_t fan__sqlite_groups_cursor(const struct fan__sqlite_groups *groups);

/*
 * Sums up the deliveries of the event that `row` stands on (FAN__SQLITE_COLUMNS). Its error's text
 * is kept in `batch`; without one it is "".
 */
void fan__sqlite_state_of(struct fan__sqlite_connection *connection,
                          const struct fan__sqlite_groups *groups, sqlite3_stmt *row,
                          struct fan_batch *batch, struct fan_event_state *ret_state);

/* Fills what fan_store_stats tells, in the snapshot that the connection stands in. */
void fan__sqlite_sums(struct fan__sqlite_connection *connection,
                      const struct fan__sqlite_groups *groups, struct fan_store_stats *ret_stats);

#endif
