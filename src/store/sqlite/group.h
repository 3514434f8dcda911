/* Consumer groups, inside a write transaction. */
#ifndef FAN_STORE_SQLITE_GROUP_H
#define FAN_STORE_SQLITE_GROUP_H

#include "store/sqlite/state.h"

/* Finds a group by name (name and handler are not filled). Texts live in `texts`. */
struct fan__sqlite_found {
    struct fan__sqlite_group group;
    char pattern[FAN_TEXT_SIZE_MAX + 1];
    char topic[FAN_TEXT_SIZE_MAX + 1];
};

/* Begins a write transaction and finds the group in it; on any other answer it has ended again. */
enum fan_status fan__sqlite_group_begin(struct fan__sqlite *store,
                                        const struct fan_group_name *name,
                                        struct fan__sqlite_found *ret_found);

/* The same, for what need not survive a power loss. */
enum fan_status fan__sqlite_group_begin_unsynced(struct fan__sqlite *store,
                                                 const struct fan_group_name *name,
                                                 struct fan__sqlite_found *ret_found);

/* The same in a transaction that only looks. */
enum fan_status fan__sqlite_group_look(struct fan__sqlite *store, const struct fan_group_name *name,
                                       struct fan__sqlite_found *ret_found);

/* Finds it in the transaction that runs. Returns: FAN_NOT_FOUND. */
enum fan_status fan__sqlite_group_find(struct fan__sqlite_connection *connection,
                                       const struct fan_group_name *name,
                                       struct fan__sqlite_found *ret_found);

/*
 * Whether it is due to be noted that a member is there, and doing so in the transaction that runs.
 */
bool fan__sqlite_group_is_late(const struct fan__sqlite_group *group, int64_t now_us);
void fan__sqlite_group_join(struct fan__sqlite *store, const struct fan__sqlite_group *group,
                            int64_t now_us);

/*
 * Deletes a group, in the transaction that runs. Its deliveries are nobody's from then on: as many
 * as a group may have are too many for one commit, so they go by fan__sqlite_checkpoint_clear.
 */
void fan__sqlite_group_drop(struct fan__sqlite *store, int64_t id, uint64_t token);

/*
 * Looks at up to `row_count` deliveries, in the transaction that runs, and deletes those of a group
 * that was dropped. False when there is none.
 */
bool fan__sqlite_group_clear(struct fan__sqlite *store, size_t row_count);

/* Keys of ordered groups: 63 bits of the topic's hash. Equal hashes only cost speed. */
int64_t fan__sqlite_key_of(const char *topic);
unsigned fan__sqlite_part_of(int64_t key);

#endif
