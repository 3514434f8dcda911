/* What retention needs to know: marks of time, and which series are out of use. */
#ifndef FAN_STORE_SQLITE_RETAIN_H
#define FAN_STORE_SQLITE_RETAIN_H

#include "store/sqlite/group.h"

#include "base/env.h"

/* About what an event takes beside its payload and metadata, indexes included. */
#define FAN__SQLITE_EVENT_BYTES 160

/* mark.c, all in the writer's transaction. */

void fan__sqlite_mark_of(sqlite3_stmt *row, struct fan__sqlite_mark *ret_mark);

/* Marks the head if what lies after the last mark is a second old. */
void fan__sqlite_marks_head(struct fan__sqlite *store);

/* The same, and counts what an append is about to commit: `bytes` up to head_seq. */
void fan__sqlite_marks_add(struct fan__sqlite *store, uint64_t head_seq, uint64_t bytes);

/* The bytes at the head; after fan__sqlite_marks_head. */
uint64_t fan__sqlite_marks_bytes(struct fan__sqlite *store);

/*
 * Finds where a property of marks ends that holds for all up to one of them: the last that has it
 * (zeros when none has) and the first that has not. False when all have it.
 */
bool fan__sqlite_marks_find(struct fan__sqlite *store,
                            bool (*is_before)(const void *context,
                                              const struct fan__sqlite_mark *mark),
                            const void *context, struct fan__sqlite_mark ret_around[2]);

/* sweep.c: looking for series that no event uses. One thread at a time; not in a transaction. */

/* Begins a sweep. Gives FAN_NO_MEMORY and the like. */
enum fan_status fan__sqlite_sweep_begin(struct fan__sqlite *store);

/* Looks at a bounded part; *ret_more tells whether there is more. */
enum fan_status fan__sqlite_sweep_step(struct fan__sqlite *store, bool *ret_more);
void fan__sqlite_sweep_free(struct fan__sqlite *store);

#endif
