/*
 * PostgreSQL as this floor uses it: one connection at a time, every wait with a deadline of its
 * own, and words without secrets. Not for callers' own connections, which are used as libpq does.
 */
#ifndef FAN_HOOK_PG_H
#define FAN_HOOK_PG_H

#include "base/buffer.h"

#include <libpq-fe.h>

#include <stdbool.h>
#include <stdint.h>

#define FAN__PG_NAME_SIZE_MAX 63 /* what PostgreSQL does not cut off */
#define FAN__PG_TIMEOUT_MS 5000

/*
 * A connection, closed while it is zero. `late` when an answer is still owed: it is of no use then.
 */
struct fan__pg {
    PGconn *conn;
    bool late;
};

/*
 * Connects anew. `replication` for a connection that may stream a slot.
 *
 * Returns: FAN_INVALID for what is no such URI; FAN_UNAVAILABLE with the server's words.
 */
FAN_MUST_CHECK enum fan_status fan__pg_open(struct fan__pg *pg, const char *uri, bool replication,
                                            struct fan_error *error);
void fan__pg_close(struct fan__pg *pg);

/* Whether it is open and its last call left it sound. */
bool fan__pg_is_good(const struct fan__pg *pg);

/*
 * Waits until the connection can be read (or written, when `to_write`), up to a deadline of
 * CLOCK_MONOTONIC. False when that passed.
 */
bool fan__pg_wait(const PGconn *conn, bool to_write, int64_t deadline_ns);

/* A statement with its parameters as text; several statements in one text where there are none. */
struct fan__pg_call {
    const char *sql;
    const char *const *values;
    int count;
};

/*
 * Runs a statement and gives its last result; ret_result may be NULL. A statement that the server
 * does not answer in FAN__PG_TIMEOUT_MS leaves a connection that is not good.
 *
 * Returns: as fan__pg_status; `what` stands before the server's words.
 * Memory:  *ret_result is for PQclear.
 */
FAN_MUST_CHECK enum fan_status fan__pg_run(struct fan__pg *pg, const struct fan__pg_call *call,
                                           const char *what, PGresult **ret_result,
                                           struct fan_error *error);

/* What a result, or a connection without one, means. */
enum fan_status fan__pg_status(const PGconn *conn, const PGresult *result);

/* Fails with the server's words, on one line, behind `what`. */
enum fan_status fan__pg_fail(const PGconn *conn, const PGresult *result, const char *what,
                             struct fan_error *error);

/* Adds an identifier in quotes, or a text as a literal. */
void fan__pg_add_name(struct fan__buffer *buffer, const char *name);
void fan__pg_add_literal(struct fan__buffer *buffer, const char *text);

/* Adds an element of an array's text, with quotes. */
void fan__pg_add_element(struct fan__buffer *buffer, const char *text);

int64_t fan__pg_number(const PGresult *result, int row, int column);

#endif
