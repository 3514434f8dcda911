/* What the data layer and the outbox share about SQLite: quoting, preparing, and its codes. */
#ifndef FAN_HOOK_SQL_H
#define FAN_HOOK_SQL_H

#include "base/buffer.h"

#include <sqlite3.h>

#include <stdbool.h>
#include <stdint.h>

/* Adds an identifier in quotes, whatever it is made of. */
void fan__sql_add_name(struct fan__buffer *buffer, const char *name);

/* What an (extended) result code means to a caller; FAN_IO for what has no meaning of its own. */
enum fan_status fan__sql_status(int code);

/* Fails with the connection's own words behind `what`. */
enum fan_status fan__sql_fail(sqlite3 *db, int code, const char *what, struct fan_error *error);

int fan__sql_exec(sqlite3 *db, const char *sql);

/* Runs a statement that gives no rows, and makes it ready for the next time. */
int fan__sql_run(sqlite3_stmt *statement);

/*
 * Prepares what a buffer holds, and empties it.
 *
 * Returns: FAN_NO_MEMORY when the buffer failed; FAN_NOT_FOUND for no such table; else as
 *          fan__sql_status.
 * Memory:  *ret_statement is for sqlite3_finalize.
 */
FAN_MUST_CHECK enum fan_status fan__sql_prepare(sqlite3 *db, struct fan__buffer *sql,
                                                sqlite3_stmt **ret_statement,
                                                struct fan_error *error);

#endif
