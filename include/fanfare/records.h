/*
 * Records: rows of your own SQLite tables as JSON objects, with hooks before and after.
 *
 *     open (on your connection, with your tables) -> create, read, update, delete, list -> close
 *
 * A small data layer, and the first user of hooks.h: each call asks the before hooks, runs one
 * prepared statement, and tells the after hooks. It works on your connection, inside your
 * transaction or outside of one. After hooks of an operation inside a transaction wait for its end:
 * they run when it was committed, and not when it, or a savepoint around the operation, was rolled
 * back. They run at the next call here that is outside of a transaction; fan_records_settle, after
 * your COMMIT, runs them at once. With an outbox, the event is a part of the transaction, and
 * certain.
 *
 * JSON and columns: integers, reals, strings, true, false and null, as the column's declared type
 * takes them without a change of meaning; a BLOB column's value is a string of hexadecimal digits,
 * a BOOLEAN column's is true or false.
 *
 * A connection, and so what is opened on it, is used by one thread at a time.
 */
#ifndef FANFARE_RECORDS_H
#define FANFARE_RECORDS_H

#include <fanfare/event.h>
#include <fanfare/json.h>

#ifdef __cplusplus
extern "C" {
#endif

struct fan_hooks;
struct fan_outbox_relay;
struct fan_records;
struct sqlite3; /* tidy: SQLite's own */

/*
 * A table that may be used. `key` is the one column whose value names a row: it must be unique.
 * `schema` and `entity` are what hooks and events call it; NULL for "main" and the table's name.
 */
struct fan_record_table {
    const char *name;
    const char *key;
    const char *schema;
    const char *entity;
};

/*
 * hooks     may be NULL
 * outbox    name of an outbox in the same database (outbox.h), in which creates, updates and
 * deletes are recorded as a part of their transaction: the events that a registered broker would
 *           publish, but certain. Register no broker beside it. NULL for none
 * relay     is woken when an operation outside of a transaction was recorded, or by settle; or NULL
 * defaults  what is stamped on those events, and their limits; may be NULL
 */
struct fan_records_options {
    size_t size;
    const struct fan_env *env;
    const struct fan_record_table *tables;
    size_t table_count;
    struct fan_hooks *hooks;
    const char *outbox;
    struct fan_outbox_relay *relay;
    const struct fan_event_defaults *defaults;
};

#define FAN_RECORDS_OPTIONS_SIZE sizeof(struct fan_records_options)

/*
 * Opens records on a connection, outside of a transaction. The columns are read now: after an ALTER
 * TABLE, open again.
 *
 * Returns: FAN_INVALID with the field, for tables[N] that are not there or have no such unique key;
 *          FAN_NOT_FOUND for no such outbox; FAN_MISUSE inside a transaction; faults.
 * Memory:  options are copied; connection, hooks and relay are borrowed; *ret_records is yours, for
 *          fan_records_close.
 * Thread:  the connection's. Blocks: as SQLite does.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_records_open(struct sqlite3 *db,
                                                        const struct fan_records_options *options,
                                                        struct fan_records **ret_records,
                                                        struct fan_error *ret_error);

/*
 * Settles, closes and frees, before sqlite3_close. After hooks that wait for a transaction which is
 * still open do not run. Accepts NULL. Thread: the connection's. Blocks: as the hooks do.
 */
FAN_API void fan_records_close(struct fan_records *records);

/*
 * What is asked for. What the operation does not need is ignored.
 *
 * id     the key's value as JSON: `42`, `"ada"`
 * data   a JSON object of columns: the row to create, what to update, what listed rows must equal
 * user_id, session_id, metadata  go to the hooks and into events
 * limit  rows to list; 0 for 100
 */
struct fan_record {
    size_t size;
    const char *table;
    struct fan_str id;
    struct fan_str data;
    int64_t user_id;
    const char *session_id;
    struct fan_str metadata;
    size_t limit;
};

#define FAN_RECORD_SIZE sizeof(struct fan_record)

/*
 * Creates a row, and gives it as it was stored. ret_row may be NULL.
 *
 * Returns: FAN_INVALID with the column or field (no such table or column, wrong type, null where
 *          none may be, a failed CHECK); FAN_EXISTS for a duplicate of what is unique; FAN_CONFLICT
 *          for a foreign key, or a trigger that refused; what a before hook gave; FAN_UNAVAILABLE
 *          while the database is locked; faults. Nothing was done then.
 * Memory:  the request is borrowed; ret_row is replaced.
 * Thread:  the connection's. Blocks: as SQLite and the hooks do.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_records_create(struct fan_records *records,
                                                          const struct fan_record *request,
                                                          struct fan_text *ret_row,
                                                          struct fan_error *ret_error);

/*
 * Reads a row.
 *
 * Returns: FAN_NOT_FOUND; else as fan_records_create. Memory, Thread, Blocks: as there.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_records_read(struct fan_records *records,
                                                        const struct fan_record *request,
                                                        struct fan_text *ret_row,
                                                        struct fan_error *ret_error);

/*
 * Sets the columns in `data` of one row, and gives it as it is then.
 *
 * Returns: FAN_NOT_FOUND; else as fan_records_create. Memory, Thread, Blocks: as there.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_records_update(struct fan_records *records,
                                                          const struct fan_record *request,
                                                          struct fan_text *ret_row,
                                                          struct fan_error *ret_error);

/*
 * Deletes a row.
 *
 * Returns: FAN_NOT_FOUND; else as fan_records_create. Thread, Blocks: as there.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_records_delete(struct fan_records *records,
                                                          const struct fan_record *request,
                                                          struct fan_error *ret_error);

/*
 * Lists rows that equal `data`, in the order of the key, after the one whose key is `id` (none:
 * from the first), as a JSON array. The before hooks are asked once, the after hooks told of each
 * row.
 *
 * Returns: as fan_records_create; an empty array when there is none. Memory, Thread, Blocks: as
 * there.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_records_list(struct fan_records *records,
                                                        const struct fan_record *request,
                                                        struct fan_text *ret_rows,
                                                        struct fan_error *ret_error);

/*
 * Runs the after hooks of operations whose transaction was committed, in their order, and wakes the
 * relay. Inside a transaction it does nothing, as it does in a hook.
 *
 * Returns: faults. Thread: the connection's. Blocks: as the hooks do.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_records_settle(struct fan_records *records);

#ifdef __cplusplus
}
#endif

#endif
