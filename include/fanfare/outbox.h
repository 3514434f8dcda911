/*
 * The outbox: events that are recorded inside your own SQLite transaction, and become part of the
 * log once that is committed.
 *
 *     your transaction:  ... fan_outbox_record ... COMMIT      (or ROLLBACK: it never was)
 *     relay:             open -> start -> stop -> free          reads, publishes, deletes the rows
 *
 * An event is a row of a table in your database. With the commit it is certain to arrive in the
 * log, in the order of the commits, and once: the relay publishes it under its own id, and deletes
 * the row only when the log has it. It may crash anywhere in between, as long as the log still
 * remembers the id (L9) when it goes on. Several relays on one outbox take turns by a lease in the
 * log's store; one that lost it cannot publish.
 *
 * Other programs, and triggers, may insert rows, too (docs/hooks.md). A row that is no event, or
 * that the log refuses for good, moves to the table NAME_aside with the reason, and holds up
 * nothing.
 *
 * Your connections should have a busy time-out: the relay writes when it deletes.
 */
#ifndef FANFARE_OUTBOX_H
#define FANFARE_OUTBOX_H

#include <fanfare/event.h>

#ifdef __cplusplus
extern "C" {
#endif

struct fan_broker;
struct fan_outbox_relay;
struct sqlite3; /* tidy: SQLite's own */

#define FAN_OUTBOX_TABLE "fan_outbox"

/*
 * Creates the tables, unless they are there; inside a transaction, as a part of it. `table` is any
 * name of up to 200 bytes; NULL for FAN_OUTBOX_TABLE.
 *
 * Returns: FAN_INVALID; FAN_UNAVAILABLE while the database is locked; faults.
 * Thread:  the connection's. Blocks: as SQLite does.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_outbox_create(struct sqlite3 *db, const char *table,
                                                         struct fan_error *ret_error);

/*
 * Records an event: stamps and validates it as a publish would, and inserts it as a part of the
 * transaction that is open, or as one of its own. `table` and `defaults` may be NULL. It leaves
 * sqlite3_last_insert_rowid as it was.
 *
 * Returns: FAN_INVALID with the field; FAN_NOT_FOUND when there is no such outbox; FAN_UNAVAILABLE
 *          while the database is locked; faults.
 * Memory:  the draft is copied.
 * Thread:  the connection's. Blocks: as SQLite does.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_outbox_record(struct sqlite3 *db, const char *table,
                                                         const struct fan_event_draft *draft,
                                                         const struct fan_event_defaults *defaults,
                                                         struct fan_error *ret_error);

/* A row that was set aside: its id, and why. Borrowed for the call. */
struct fan_outbox_aside {
    size_t size;
    int64_t row;
    const char *id;
    const char *reason;
};

/* Is told of a row that was set aside, on the relay's thread. It must not call the relay. */
typedef void (*fan_outbox_told)(void *context, const struct fan_outbox_aside *aside);

/*
 * database     path, or URI (`file:...`), of the SQLite database with the outbox; or a URI of
 *              PostgreSQL (`postgres://...`, outbox_postgres.h)
 * table        NULL for FAN_OUTBOX_TABLE; in PostgreSQL the outbox's schema
 * poll_ms      how often it looks whether somebody has committed; 0 for 100
 * batch_count  rows that it publishes at once, at most 1,000 (and about 1 MiB); 0 for 500
 * lease_ms     how soon another relay takes over from one that died; 0 for 10,000
 * told         may be NULL
 * alarm_ms     how long rows may wait behind one open transaction (PostgreSQL) before a warning in
 *              the log names it; 0 for 10,000
 */
struct fan_outbox_relay_options {
    size_t size;
    const char *database;
    const char *table;
    uint32_t poll_ms;
    size_t batch_count;
    uint32_t lease_ms;
    fan_outbox_told told;
    void *context;
    uint32_t alarm_ms;
};

#define FAN_OUTBOX_RELAY_OPTIONS_SIZE sizeof(struct fan_outbox_relay_options)

/*
 * Opens a relay from an outbox to a broker, with a connection of its own. The broker must outlive
 * it.
 *
 * Returns: FAN_INVALID with the field; FAN_NOT_FOUND when there is no such outbox; FAN_UNAVAILABLE
 *          when the database cannot be opened; faults.
 * Memory:  options are copied; *ret_relay is yours, for fan_outbox_relay_free.
 * Thread:  any. Blocks: as SQLite does.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_outbox_relay_open(
    struct fan_broker *broker, const struct fan_outbox_relay_options *options,
    struct fan_outbox_relay **ret_relay, struct fan_error *ret_error);

/*
 * Starts its thread. What fails (store down, database locked) is tried again, after 50 ms to 5 s.
 *
 * Returns: FAN_MISUSE when it runs; FAN_CLOSED after stop; FAN_NO_MEMORY for the thread.
 * Thread:  any. Blocks: never.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_outbox_relay_start(struct fan_outbox_relay *relay);

/*
 * Moves one batch on the caller's thread, in place of start: for stepped brokers.
 *
 * Returns: FAN_AGAIN when there was nothing to move; FAN_EXISTS while another relay holds the
 * lease; FAN_MISUSE after start; FAN_CLOSED after stop; else why it failed, call again later.
 * Thread:  one at a time, and none that must not wait for the broker. Blocks: for both storages.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_outbox_relay_step(struct fan_outbox_relay *relay,
                                                             struct fan_error *ret_error);

/*
 * Lets the relay look at once: after a commit, for who does not want to wait for poll_ms.
 *
 * Thread: any. Blocks: never.
 */
FAN_API void fan_outbox_relay_wake(struct fan_outbox_relay *relay);

/*
 * Stops after the batch at hand and gives the lease back; rows that are left stay for the next
 * relay. Again does nothing. Thread: any but its own. Blocks: for both storages.
 */
FAN_API void fan_outbox_relay_stop(struct fan_outbox_relay *relay);

/* Stops if need be and frees. Accepts NULL. Thread: any, while no other call on it runs. */
FAN_API void fan_outbox_relay_free(struct fan_outbox_relay *relay);

/*
 * Sums since open; rows and lag_us as of the last look, leading whether it holds the lease. `rows`
 * may be more in SQLite, if rows between were deleted by hand; PostgreSQL counts up to 100,000,
 * once a second.
 */
struct fan_outbox_relay_stats {
    size_t size;
    uint64_t published;
    uint64_t set_aside;
    uint64_t failures; /* times that it had to try again later */
    uint64_t rows;     /* that wait */
    int64_t lag_us;    /* how long the oldest of them has been waiting */
    bool leading;
    struct fan_error error; /* why it is not getting on, or FAN_OK */
    int64_t hidden_us;      /* for how long rows have waited behind one open transaction, or 0 */
};

/* Reads them; set ret_stats->size first. Thread: any. Blocks: short locks only. */
FAN_API void fan_outbox_relay_stats(struct fan_outbox_relay *relay,
                                    struct fan_outbox_relay_stats *ret_stats);

#ifdef __cplusplus
}
#endif

#endif
