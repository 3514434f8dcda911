/*
 * The outbox in PostgreSQL (13 or later): events that are recorded inside your own transaction, on
 * your own connection, by C or by SQL. outbox.h says what an outbox is; its relay, opened with the
 * database's URI, moves these, too.
 *
 *     SELECT fan_outbox.publish('shop.orders.create', '{"id": 42}', topic => 'orders:42');
 *
 * An outbox is a schema of its own: tables `event`, `aside`, `about`; functions `publish` (checks
 * what it is given as the log would, makes an id where none is given and returns it), and `capture`
 * and `release` (docs/capture.md). Who records needs USAGE on the schema and INSERT on `event`.
 *
 * Order: of a transaction its own; and what a transaction recorded comes behind all that was
 * committed before it first wrote. The relay reads no event before every older transaction that
 * wrote anything has ended, as a later commit could bring events that belong in front: an open
 * transaction delays events, and loses none (fan_outbox_relay_stats.hidden_us tells).
 */
#ifndef FANFARE_OUTBOX_POSTGRES_H
#define FANFARE_OUTBOX_POSTGRES_H

#include <fanfare/event.h>

#ifdef __cplusplus
extern "C" {
#endif

struct pg_conn; /* tidy: libpq's own, PGconn */

/*
 * Creates the outbox, unless it is there; inside a transaction, as a part of it. `schema` has 1 to
 * 63 bytes and no '$'; NULL for FAN_OUTBOX_TABLE.
 *
 * Returns: FAN_INVALID; FAN_DENIED without CREATE on the database; FAN_TOO_NEW for one of a later
 *          version; FAN_EXISTS when a schema of that name holds something else; FAN_UNAVAILABLE;
 *          faults.
 * Thread:  the connection's. Blocks: as PQexec does.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_outbox_postgres_create(struct pg_conn *conn,
                                                                  const char *schema,
                                                                  struct fan_error *ret_error);

/*
 * Records an event: stamps and validates it as a publish would, and inserts it as a part of the
 * transaction that is open, or as one of its own. `schema` and `defaults` may be NULL. When the
 * server refuses the row, your transaction has failed, as with any statement; an event that is
 * invalid is refused before, and leaves it as it was. No lock is held beyond the transaction.
 *
 * Returns: FAN_INVALID with the field; FAN_NOT_FOUND when there is no such outbox; FAN_DENIED;
 *          FAN_MISUSE in a failed transaction, and while the connection has something under way;
 *          FAN_UNSUPPORTED when its client_encoding is not UTF8; FAN_UNAVAILABLE; faults.
 * Memory:  the draft is copied.
 * Thread:  the connection's. Blocks: as PQexec does.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_outbox_postgres_record(
    struct pg_conn *conn, const char *schema, const struct fan_event_draft *draft,
    const struct fan_event_defaults *defaults, struct fan_error *ret_error);

/*
 * database  URI, postgres://...
 * schema    as above
 * tables    as SQL writes them: `public.users`, `"My Table"`
 * release   drops their triggers again
 */
struct fan_outbox_postgres_capture_options {
    size_t size;
    const char *database;
    const char *schema;
    const char *const *tables;
    size_t table_count;
    bool release;
};

#define FAN_OUTBOX_POSTGRES_CAPTURE_OPTIONS_SIZE sizeof(struct fan_outbox_postgres_capture_options)

/*
 * Has triggers record every change of tables in the outbox, which is created if need be: `create`,
 * and `capture` or `release` in SQL, by URI and in one transaction.
 *
 * Returns: FAN_INVALID with the field; FAN_NOT_FOUND for no such table; FAN_DENIED for who does not
 *          own it; FAN_UNAVAILABLE; as fan_outbox_postgres_create.
 * Thread:  any. Blocks: for the server.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_outbox_postgres_capture(
    const struct fan_outbox_postgres_capture_options *options, struct fan_error *ret_error);

#ifdef __cplusplus
}
#endif

#endif
