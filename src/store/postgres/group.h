/*
 * Consumer groups, inside a transaction, and what is known of events by their deliveries.
 *
 * A group's row is a lock: who adds deliveries to a group holds it (claim, move, retention), and so
 * does who settles in an ordered one, where settling brings the next of a key forward. Who deletes
 * events holds those of all groups (a trigger, schema.h). No append waits for it. Rows are taken in
 * the order event, group, delivery, tally.
 */
#ifndef FAN_STORE_POSTGRES_GROUP_H
#define FAN_STORE_POSTGRES_GROUP_H

#include "store/postgres/store.h"

/* How exactly a group's joined_us is kept, so that it costs no write each time. */
#define FAN__POSTGRES_JOINED_US INT64_C(60000000)

/* A row of grp. regex and topic are NULL where the group takes all; they live in `result`. */
struct fan__postgres_found {
    PGresult *result;
    int64_t id;
    const char *regex;
    const char *topic;
    uint64_t cursor_seq;
    bool ordered;
    uint64_t token;
    int64_t joined_us;
    bool due_first; /* the last claim's odd one was of what was due already */
};

/*
 * Finds a group, and with `lock` holds its row until the end of the transaction.
 *
 * Returns: FAN_NOT_FOUND; the connection's failure. Memory: for fan__postgres_group_free.
 */
enum fan_status fan__postgres_group_find(struct fan__postgres_connection *connection,
                                         const struct fan_group_name *name, bool lock,
                                         struct fan__postgres_found *ret_group);

/* Takes a result of FAN__POSTGRES_GROUP's columns. False, and it is gone, when it has no row. */
bool fan__postgres_group_take(PGresult *result, struct fan__postgres_found *ret_group);
void fan__postgres_group_free(struct fan__postgres_found *group);

/*
 * Deletes a group whose row is held, in the transaction that runs. Its deliveries are nobody's from
 * then on, and go with calls of fan__postgres_group_clear: as many as a group may have are too many
 * for one transaction.
 */
void fan__postgres_group_drop(struct fan__postgres_connection *connection, int64_t id);

/*
 * Looks at up to `row_count` deliveries, in the transaction that runs, and deletes those of a group
 * that was dropped. False when there is none.
 */
bool fan__postgres_group_clear(struct fan__postgres_connection *connection, size_t row_count);

/* Counts deliveries of a group that became completed, with the next run or the end. */
void fan__postgres_tally_add(struct fan__postgres_connection *connection, int64_t group_id,
                             uint64_t completed);

/* Of each key in an ordered group that these deliveries have, brings the oldest one forward. */
void fan__postgres_unpark(struct fan__postgres_connection *connection, int64_t group_id,
                          struct fan__postgres_array *seqs);

/* Does not wait for the disk at this transaction's end: what a crash takes back is done again. */
void fan__postgres_unsynced(struct fan__postgres_connection *connection);

/* What a group wants as a regular expression on types; NULL in *ret_regex for everything. */
enum fan_status fan__postgres_regex(const char *pattern, const struct fan_env *env,
                                    char **ret_regex);

/* stats.c */

/* Fills pending, processing, completed, failed and groups; `events` is set. */
void fan__postgres_sums(struct fan__postgres_connection *connection,
                        struct fan_store_stats *ret_stats);

#endif
