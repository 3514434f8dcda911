/*
 * The inside of records: declared tables with their columns, values on their way between JSON and
 * SQLite, and operations that wait for the end of their transaction.
 */
#ifndef FAN_HOOK_RECORDS_H
#define FAN_HOOK_RECORDS_H

#include "base/buffer.h"
#include "hook/sql.h"

#include <fanfare/hooks.h>
#include <fanfare/records.h>

#include <jansson.h>

/* What a column takes, by its declared type. */
enum fan__column_kind {
    FAN__COLUMN_ANY,
    FAN__COLUMN_BOOLEAN,
    FAN__COLUMN_INTEGER,
    FAN__COLUMN_REAL,
    FAN__COLUMN_TEXT,
    FAN__COLUMN_BLOB, /* hexadecimal in JSON */
};

struct fan__column {
    char *name;
    enum fan__column_kind kind;
    bool generated;
};

struct fan__records_table {
    char *name;
    char *schema;
    char *entity;
    struct fan__column *columns;
    size_t count;
    size_t key;    /* its column */
    bool key_made; /* by SQLite, where a row brings none */
};

struct fan_records {
    sqlite3 *db;
    const struct fan_env *env;
    struct fan__records_table *tables;
    size_t table_count;
    struct fan_hooks *hooks;
    char *outbox;
    struct fan_outbox_relay *relay;
    struct fan_event_defaults defaults;
    bool has_defaults;
    char held[48]; /* the temporary table */
    bool may_hold; /* it may have rows */
    bool may_wake; /* a transaction that recorded events may have been committed */
    bool settling;
};

/*
 * Reads a table's columns. `field` names it in errors. The table is zero; free it also on failure.
 */
FAN_MUST_CHECK enum fan_status fan__records_table_read(struct fan_records *records,
                                                       const struct fan_record_table *declared,
                                                       struct fan__records_table *table,
                                                       const char *field, struct fan_error *error);
void fan__records_table_deinit(struct fan_records *records, struct fan__records_table *table);

/* NULL for no such column. */
const struct fan__column *fan__records_table_column(const struct fan__records_table *table,
                                                    const char *name);

/* Binds a JSON value as the column wants it. Returns: FAN_INVALID with the column as the field. */
FAN_MUST_CHECK enum fan_status fan__value_bind(sqlite3_stmt *statement, int index,
                                               const struct fan__column *column,
                                               const json_t *value, struct fan_error *error);

/* Where a row and its key's value lie in a buffer. */
struct fan__row_place {
    size_t at;
    size_t size;
    size_t id_at;
    size_t id_size;
};

/* Adds the row that a statement stands on, with all columns of the table, as a JSON object. */
FAN_MUST_CHECK enum fan_status fan__row_add(struct fan__buffer *buffer, sqlite3_stmt *statement,
                                            const struct fan__records_table *table,
                                            struct fan__row_place *ret_place,
                                            struct fan_error *error);

/* Makes and drops the temporary table of operations that wait for their transaction's end. */
FAN_MUST_CHECK enum fan_status fan__held_open(struct fan_records *records, struct fan_error *error);
void fan__held_close(struct fan_records *records);

/* Keeps a done operation as a part of the transaction that is open. */
FAN_MUST_CHECK enum fan_status fan__held_add(struct fan_records *records,
                                             const struct fan_operation *operation,
                                             struct fan_error *error);

/* Runs the after hooks of those whose transaction is over. */
FAN_MUST_CHECK enum fan_status fan__held_settle(struct fan_records *records,
                                                struct fan_error *error);

#endif
