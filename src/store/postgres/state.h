/* What is known of events beyond what they say: the groups, and the sums over their deliveries. */
#ifndef FAN_STORE_POSTGRES_STATE_H
#define FAN_STORE_POSTGRES_STATE_H

#include "store/postgres/series.h"

/* A row of grp. pattern and topic are NULL where the group takes all. */
struct fan__postgres_group {
    int64_t id;
    const char *name;
    const char *handler;
    const char *pattern;
    const char *topic;
    uint64_t cursor_seq;
};

/* All groups of a snapshot, by name; their texts are the result's. */
struct fan__postgres_groups {
    const struct fan_env *env;
    struct fan__postgres_group *items;
    size_t count;
    PGresult *result;
};

void fan__postgres_groups_load(struct fan__postgres_connection *connection,
                               struct fan__postgres_groups *ret_groups);
void fan__postgres_groups_free(struct fan__postgres_groups *groups);

bool fan__postgres_group_wants(const struct fan__postgres_group *group, const char *topic,
                               const char *type);

/* The lowest cursor, UINT64_MAX without a group: past it events may be owed without a row. */
uint64_t fan__postgres_groups_cursor(const struct fan__postgres_groups *groups);

/* The deliveries of a page of events, in the order of their sequences. */
struct fan__postgres_states {
    PGresult *result;
};

/* Reads the deliveries of all events of a result (FAN__POSTGRES_COLUMNS). */
void fan__postgres_states_load(struct fan__postgres_connection *connection, const PGresult *events,
                               struct fan__postgres_states *ret_states);
void fan__postgres_states_free(struct fan__postgres_states *states);

/*
 * Sums up the deliveries of the event of a row. Its error's text is kept in `batch`; without one it
 * is "".
 * tidy: the event, what hangs on it, and the groups that may want it, each with its own life.
 */
void fan__postgres_state_of(struct fan__postgres_connection *connection,
                            const struct fan__postgres_groups *groups, const PGresult *events,
                            int row, const struct fan__postgres_states *states,
                            struct fan_batch *batch, struct fan_event_state *ret_state);

#endif
