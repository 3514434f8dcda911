/*
 * The operations.
 *
 *     settle - parse - before hooks - SAVEPOINT - one statement - (outbox) - (hold) - RELEASE
 *     - after hooks, unless they are held
 *
 * The savepoint makes the row, its event and what is held one thing, inside a transaction or as one
 * of its own; it is not open while hooks run.
 */
#include "hook/records.h"

#include "base/adopt.h"
#include "base/env.h"
#include "base/status.h"
#include "hook/hook.h"

#include <fanfare/outbox.h>

#include <stdio.h>
#include <string.h>

#define LIST_LIMIT 100

/* One call on its way. */
struct call {
    struct fan_records *records;
    struct fan_record request;
    const struct fan__records_table *table;
    json_t *id;
    json_t *data;
    struct fan__buffer rows;
    struct fan__row_place place; /* of the row, where there is one */
    char topic[FAN_TEXT_SIZE_MAX + 1];
    struct fan_operation operation;
};

/* --- the request -------------------------------------------------------------------------- */

static enum fan_status parse(struct fan_str text, size_t flags, const char *field,
                             json_t **ret_value, struct fan_error *error)
{
    json_error_t where;
    if (text.size == 0)
        return fan__fail(error, FAN_INVALID, field, "must be given");
    *ret_value = json_loadb(text.data, text.size, flags | JSON_REJECT_DUPLICATES, &where);
    if (*ret_value)
        return FAN_OK;
    if (json_error_code(&where) == json_error_out_of_memory)
        return fan__fail(error, FAN_NO_MEMORY, "", "out of memory");
    return fan__fail(error, FAN_INVALID, field, "is not legal JSON: line %d, column %d", where.line,
                     where.column);
}

static enum fan_status parse_id(struct call *call, struct fan_error *error)
{
    enum fan_status status = parse(call->request.id, JSON_DECODE_ANY, "id", &call->id, error);
    if (status == FAN_OK && !json_is_string(call->id) && !json_is_number(call->id))
        return fan__fail(error, FAN_INVALID, "id", "must be a number or a string");
    return status;
}

static enum fan_status check_column(const struct call *call, const char *name, bool written,
                                    struct fan_error *error)
{
    const struct fan__column *column = fan__records_table_column(call->table, name);
    if (!column)
        return fan__fail(error, FAN_INVALID, name, "%.60s has no such column", call->table->name);
    if (written && column->generated)
        return fan__fail(error, FAN_INVALID, name, "is a generated column");
    return FAN_OK;
}

static enum fan_status parse_data(struct call *call, bool written, struct fan_error *error)
{
    enum fan_status status = parse(call->request.data, 0, "data", &call->data, error);
    if (status != FAN_OK)
        return status;
    if (!json_is_object(call->data))
        return fan__fail(error, FAN_INVALID, "data", "must be an object");
    const char *name;
    json_t *value;
    json_object_foreach(call->data, name, value)
    {
        status = check_column(call, name, written, error);
        if (status != FAN_OK)
            return status;
    }
    return FAN_OK;
}

static enum fan_status find_table(struct call *call, struct fan_error *error)
{
    struct fan_records *records = call->records;
    if (!call->request.table)
        return fan__fail(error, FAN_INVALID, "table", "must be given");
    for (size_t i = 0; i < records->table_count && !call->table; i++)
        if (strcmp(records->tables[i].name, call->request.table) == 0)
            call->table = &records->tables[i];
    if (!call->table)
        return fan__fail(error, FAN_INVALID, "table", "%.60s was not declared",
                         call->request.table);
    return FAN_OK;
}

static enum fan_status settle(struct fan_records *records, struct fan_error *error)
{
    if (!sqlite3_get_autocommit(records->db) || records->settling)
        return FAN_OK;
    if (records->may_wake && records->relay)
        fan_outbox_relay_wake(records->relay);
    records->may_wake = false;
    return records->may_hold ? fan__held_settle(records, error) : FAN_OK;
}

static enum fan_status begin(struct call *call, struct fan_records *records,
                             const struct fan_record *request, enum fan_crud crud,
                             struct fan_error *error)
{
    *call = (struct call){ .records = records };
    fan__buffer_init(&call->rows, records->env);
    if (!fan__adopt(&call->request, sizeof(call->request), request, sizeof(call->request)))
        return fan__fail(error, FAN_INVALID, "size", "must be FAN_RECORD_SIZE");
    enum fan_status status = settle(records, error);
    if (status == FAN_OK)
        status = find_table(call, error);
    if (status != FAN_OK)
        return status;
    call->operation = (struct fan_operation){
        .size = FAN_OPERATION_SIZE,
        .crud = crud,
        .schema = call->table->schema,
        .entity = call->table->entity,
        .user_id = call->request.user_id,
        .session_id = call->request.session_id,
        .metadata = call->request.metadata,
    };
    return FAN_OK;
}

static void end(struct call *call)
{
    json_decref(call->id);
    json_decref(call->data);
    fan__buffer_deinit(&call->rows);
}

/* Names the record, as `ENTITY:KEY`, where that is short enough for a topic. */
static void name_topic(struct call *call, const json_t *id)
{
    char number[32];
    const char *key = json_string_value(id);
    size_t key_size = key ? json_string_length(id) : 0;
    if (json_is_integer(id)) {
        key_size =
            (size_t)snprintf(number, sizeof(number), "%lld", (long long)json_integer_value(id));
        key = number;
    }
    call->operation.topic = NULL;
    size_t size = strlen(call->table->entity);
    if (!key || size + 1 + key_size > FAN_TEXT_SIZE_MAX)
        return;
    memcpy(call->topic, call->table->entity, size);
    call->topic[size] = ':';
    memcpy(call->topic + size + 1, key, key_size);
    call->topic[size + 1 + key_size] = '\0';
    call->operation.topic = call->topic;
}

/* The operation becomes one on the row that lies at a place. */
static enum fan_status name_row(struct call *call, const struct fan__row_place *place,
                                struct fan_error *error)
{
    call->operation.id = (struct fan_str){ call->rows.data + place->id_at, place->id_size };
    call->operation.data = (struct fan_str){ call->rows.data + place->at, place->size };
    json_t *id = NULL;
    enum fan_status status = parse(call->operation.id, JSON_DECODE_ANY, "id", &id, error);
    if (status == FAN_OK)
        name_topic(call, id);
    json_decref(id);
    return status;
}

static enum fan_status before(struct call *call, struct fan_error *error)
{
    if (!call->records->hooks)
        return FAN_OK;
    return fan_hooks_before(call->records->hooks, &call->operation, error);
}

/* --- statements --------------------------------------------------------------------------- */

static void add_columns(struct fan__buffer *sql, const struct fan__records_table *table)
{
    for (size_t i = 0; i < table->count; i++) {
        fan__buffer_add_text(sql, i == 0 ? " " : ", ");
        fan__sql_add_name(sql, table->columns[i].name);
    }
}

static void add_table(struct fan__buffer *sql, const struct fan__records_table *table)
{
    fan__buffer_add_text(sql, " main.");
    fan__sql_add_name(sql, table->name);
}

static void add_key(struct fan__buffer *sql, const struct fan__records_table *table,
                    const char *operator)
{
    fan__buffer_add_text(sql, " ");
    fan__sql_add_name(sql, table->columns[table->key].name);
    fan__buffer_add_format(sql, " %s ?", operator);
}

/* Adds the columns of `data`, each in the middle of three texts. */
static void add_data(struct fan__buffer *sql, json_t *data, const char *between, const char *behind)
{
    const char *name;
    json_t *value;
    const char *separator = " ";
    json_object_foreach(data, name, value)
    {
        fan__buffer_add_text(sql, separator);
        fan__sql_add_name(sql, name);
        fan__buffer_add_text(sql, behind);
        separator = between;
    }
}

static enum fan_status bind_data(const struct call *call, sqlite3_stmt *statement, int *index,
                                 struct fan_error *error)
{
    const char *name;
    json_t *value;
    json_object_foreach(call->data, name, value)
    {
        enum fan_status status = fan__value_bind(
            statement, ++*index, fan__records_table_column(call->table, name), value, error);
        if (status != FAN_OK)
            return status;
    }
    return FAN_OK;
}

static enum fan_status bind_id(const struct call *call, sqlite3_stmt *statement, int *index,
                               struct fan_error *error)
{
    enum fan_status status = fan__value_bind(
        statement, ++*index, &call->table->columns[call->table->key], call->id, error);
    if (status == FAN_INVALID && error)
        snprintf(error->field, sizeof(error->field), "id");
    return status;
}

/* The column that SQLite's message about a constraint names last: `... failed: TABLE.COLUMN`. */
static void column_at_fault(const char *message, char *field, size_t size)
{
    const char *dot = strrchr(message, '.');
    snprintf(field, size, "%s", dot && strstr(message, " failed: ") ? dot + 1 : "data");
}

static enum fan_status fail_statement(sqlite3 *db, struct fan_error *error)
{
    int code = sqlite3_extended_errcode(db);
    const char *message = sqlite3_errmsg(db);
    char field[sizeof(error->field)];
    column_at_fault(message, field, sizeof(field));
    switch (code) {
    case SQLITE_CONSTRAINT_PRIMARYKEY:
    case SQLITE_CONSTRAINT_ROWID:
    case SQLITE_CONSTRAINT_UNIQUE:
        return fan__fail(error, FAN_EXISTS, field, "%s", message);
    case SQLITE_CONSTRAINT_NOTNULL:
        return fan__fail(error, FAN_INVALID, field, "must not be null");
    case SQLITE_CONSTRAINT_CHECK:
    case SQLITE_CONSTRAINT_DATATYPE:
        return fan__fail(error, FAN_INVALID, "data", "%s", message);
    default:
        return fan__fail(error, fan__sql_status(code), "", "%s", message);
    }
}

/* Runs a statement for one row, which goes into `rows`. FAN_NOT_FOUND when it gives none. */
static enum fan_status one_row(struct call *call, sqlite3_stmt *statement, struct fan_error *error)
{
    sqlite3 *db = call->records->db;
    int code = sqlite3_step(statement);
    if (code == SQLITE_DONE)
        return fan__fail(error, FAN_NOT_FOUND, "id", "%.60s has no such row", call->table->name);
    if (code != SQLITE_ROW)
        return fail_statement(db, error);
    enum fan_status status = fan__row_add(&call->rows, statement, call->table, &call->place, error);
    if (status == FAN_OK && sqlite3_step(statement) != SQLITE_DONE)
        return fail_statement(db, error);
    return status;
}

static enum fan_status do_create(struct call *call, struct fan_error *error)
{
    struct fan__buffer sql;
    fan__buffer_init(&sql, call->records->env);
    fan__buffer_add_text(&sql, "INSERT INTO");
    add_table(&sql, call->table);
    size_t count = json_object_size(call->data);
    if (count > 0) {
        fan__buffer_add_text(&sql, "(");
        add_data(&sql, call->data, ", ", "");
        fan__buffer_add_text(&sql, ") VALUES(?");
        for (size_t i = 1; i < count; i++)
            fan__buffer_add_text(&sql, ", ?");
        fan__buffer_add_text(&sql, ") RETURNING");
    } else {
        fan__buffer_add_text(&sql, " DEFAULT VALUES RETURNING");
    }
    add_columns(&sql, call->table);
    sqlite3_stmt *statement = NULL;
    int index = 0;
    enum fan_status status = fan__sql_prepare(call->records->db, &sql, &statement, error);
    if (status == FAN_OK)
        status = bind_data(call, statement, &index, error);
    if (status == FAN_OK)
        status = one_row(call, statement, error);
    sqlite3_finalize(statement);
    fan__buffer_deinit(&sql);
    return status == FAN_OK ? name_row(call, &call->place, error) : status;
}

/*
 * Read, update or delete of the row with that id: `verb TABLE middle`, as the operation wants it.
 */
static enum fan_status do_by_id(struct call *call, struct fan_error *error)
{
    struct fan__buffer sql;
    enum fan_crud crud = call->operation.crud;
    fan__buffer_init(&sql, call->records->env);
    if (crud == FAN_CRUD_UPDATE) {
        fan__buffer_add_text(&sql, "UPDATE");
        add_table(&sql, call->table);
        fan__buffer_add_text(&sql, " SET");
        add_data(&sql, call->data, ", ", " = ?");
    } else {
        fan__buffer_add_text(&sql, crud == FAN_CRUD_READ ? "SELECT" : "DELETE");
        if (crud == FAN_CRUD_READ)
            add_columns(&sql, call->table);
        fan__buffer_add_text(&sql, " FROM");
        add_table(&sql, call->table);
    }
    fan__buffer_add_text(&sql, " WHERE");
    add_key(&sql, call->table, "=");
    if (crud != FAN_CRUD_READ) {
        fan__buffer_add_text(&sql, " RETURNING");
        add_columns(&sql, call->table);
    }
    sqlite3_stmt *statement = NULL;
    int index = 0;
    enum fan_status status = fan__sql_prepare(call->records->db, &sql, &statement, error);
    if (status == FAN_OK && crud == FAN_CRUD_UPDATE)
        status = bind_data(call, statement, &index, error);
    if (status == FAN_OK)
        status = bind_id(call, statement, &index, error);
    if (status == FAN_OK)
        status = one_row(call, statement, error);
    sqlite3_finalize(statement);
    fan__buffer_deinit(&sql);
    return status;
}

/* --- the frame around a write --------------------------------------------------------------- */

static enum fan_status record_event(struct call *call, struct fan_error *error)
{
    struct fan_records *records = call->records;
    char type[FAN_TEXT_SIZE_MAX + 1];
    struct fan_event_draft draft;
    struct fan__buffer payload;
    fan__buffer_init(&payload, records->env);
    enum fan_status status = fan__operation_draft(&call->operation, type, &payload, &draft, error);
    if (status == FAN_OK)
        status = fan_outbox_record(records->db, records->outbox, &draft,
                                   records->has_defaults ? &records->defaults : NULL, error);
    fan__buffer_deinit(&payload);
    return status;
}

static void take_back(sqlite3 *db, bool inside)
{
    fan__sql_exec(db, "ROLLBACK TO fan_record");
    fan__sql_exec(db, "RELEASE fan_record");
    if (!inside && !sqlite3_get_autocommit(db))
        fan__sql_exec(db, "ROLLBACK");
}

/* Makes room for the row in the caller's text, so that giving it cannot fail any more. */
static enum fan_status make_room(struct fan_text *text, size_t size, struct fan_error *error)
{
    if (!text || text->capacity > size)
        return FAN_OK;
    char *data = fan__resize(text->env, text->data, size + 1);
    if (!data)
        return fan__fail(error, FAN_NO_MEMORY, "", "out of memory");
    text->data = data;
    text->capacity = size + 1;
    return FAN_OK;
}

static void give(struct fan_text *text, const char *data, size_t size)
{
    if (!text)
        return;
    memcpy(text->data, data, size);
    text->data[size] = '\0';
    text->size = size;
}

static enum fan_status write_inside(struct call *call, bool inside, struct fan_text *ret_row,
                                    struct fan_error *error)
{
    enum fan_status status =
        call->operation.crud == FAN_CRUD_CREATE ? do_create(call, error) : do_by_id(call, error);
    if (status == FAN_OK && call->records->outbox)
        status = record_event(call, error);
    if (status == FAN_OK && inside && call->records->hooks)
        status = fan__held_add(call->records, &call->operation, error);
    if (status == FAN_OK)
        status = make_room(ret_row, call->place.size, error);
    return status;
}

/* Does what was parsed and allowed. */
static enum fan_status write_row(struct call *call, struct fan_text *ret_row,
                                 struct fan_error *error)
{
    struct fan_records *records = call->records;
    sqlite3 *db = records->db;
    bool inside = !sqlite3_get_autocommit(db);
    if (fan__sql_exec(db, "SAVEPOINT fan_record") != SQLITE_OK)
        return fail_statement(db, error);
    enum fan_status status = write_inside(call, inside, ret_row, error);
    if (status == FAN_OK && fan__sql_exec(db, "RELEASE fan_record") != SQLITE_OK)
        status = fail_statement(db, error);
    if (status != FAN_OK) {
        take_back(db, inside);
        return status;
    }
    give(ret_row, call->rows.data + call->place.at, call->place.size);
    records->may_wake |= inside && records->outbox;
    if (inside)
        return FAN_OK;
    if (records->outbox && records->relay)
        fan_outbox_relay_wake(records->relay);
    if (records->hooks)
        fan_hooks_after(records->hooks, &call->operation);
    return FAN_OK;
}

/* --- the doors ---------------------------------------------------------------------------- */

/* A row that brings no key where SQLite makes none would be a row without a name. */
static enum fan_status check_key(const struct call *call, struct fan_error *error)
{
    const char *key = call->table->columns[call->table->key].name;
    const json_t *value = json_object_get(call->data, key);
    if ((value && !json_is_null(value)) || call->table->key_made)
        return FAN_OK;
    return fan__fail(error, FAN_INVALID, key, "must be given: it is the key");
}

enum fan_status fan_records_create(struct fan_records *records, const struct fan_record *request,
                                   struct fan_text *ret_row, struct fan_error *ret_error)
{
    struct call call;
    enum fan_status status = begin(&call, records, request, FAN_CRUD_CREATE, ret_error);
    if (status == FAN_OK)
        status = parse_data(&call, true, ret_error);
    if (status == FAN_OK)
        status = check_key(&call, ret_error);
    call.operation.data = call.request.data;
    if (status == FAN_OK)
        status = before(&call, ret_error);
    if (status == FAN_OK)
        status = write_row(&call, ret_row, ret_error);
    end(&call);
    return status;
}

static enum fan_status begin_by_id(struct call *call, struct fan_records *records,
                                   const struct fan_record *request, enum fan_crud crud,
                                   struct fan_error *error)
{
    enum fan_status status = begin(call, records, request, crud, error);
    if (status == FAN_OK)
        status = parse_id(call, error);
    if (status != FAN_OK)
        return status;
    call->operation.id = call->request.id;
    name_topic(call, call->id);
    return FAN_OK;
}

enum fan_status fan_records_read(struct fan_records *records, const struct fan_record *request,
                                 struct fan_text *ret_row, struct fan_error *ret_error)
{
    struct call call;
    enum fan_status status = begin_by_id(&call, records, request, FAN_CRUD_READ, ret_error);
    if (status == FAN_OK)
        status = before(&call, ret_error);
    if (status == FAN_OK)
        status = do_by_id(&call, ret_error);
    if (status == FAN_OK)
        status = make_room(ret_row, call.place.size, ret_error);
    if (status == FAN_OK) {
        give(ret_row, call.rows.data + call.place.at, call.place.size);
        call.operation.data = (struct fan_str){ call.rows.data + call.place.at, call.place.size };
        if (records->hooks)
            fan_hooks_after(records->hooks, &call.operation);
    }
    end(&call);
    return status;
}

enum fan_status fan_records_update(struct fan_records *records, const struct fan_record *request,
                                   struct fan_text *ret_row, struct fan_error *ret_error)
{
    struct call call;
    enum fan_status status = begin_by_id(&call, records, request, FAN_CRUD_UPDATE, ret_error);
    if (status == FAN_OK)
        status = parse_data(&call, true, ret_error);
    if (status == FAN_OK && json_object_size(call.data) == 0)
        status = fan__fail(ret_error, FAN_INVALID, "data", "must set something");
    call.operation.data = call.request.data;
    if (status == FAN_OK)
        status = before(&call, ret_error);
    if (status == FAN_OK)
        status = write_row(&call, ret_row, ret_error);
    end(&call);
    return status;
}

enum fan_status fan_records_delete(struct fan_records *records, const struct fan_record *request,
                                   struct fan_error *ret_error)
{
    struct call call;
    enum fan_status status = begin_by_id(&call, records, request, FAN_CRUD_DELETE, ret_error);
    if (status == FAN_OK)
        status = before(&call, ret_error);
    if (status == FAN_OK)
        status = write_row(&call, NULL, ret_error);
    end(&call);
    return status;
}

static enum fan_status prepare_list(struct call *call, sqlite3_stmt **ret_statement,
                                    struct fan_error *error)
{
    struct fan__buffer sql;
    fan__buffer_init(&sql, call->records->env);
    fan__buffer_add_text(&sql, "SELECT");
    add_columns(&sql, call->table);
    fan__buffer_add_text(&sql, " FROM");
    add_table(&sql, call->table);
    fan__buffer_add_text(&sql, " WHERE");
    add_data(&sql, call->data, " AND ", " IS ?");
    fan__buffer_add_text(&sql, json_object_size(call->data) > 0 ? " AND" : "");
    if (call->id)
        add_key(&sql, call->table, ">");
    else
        fan__buffer_add_text(&sql, " 1");
    fan__buffer_add_text(&sql, " ORDER BY ");
    fan__sql_add_name(&sql, call->table->columns[call->table->key].name);
    fan__buffer_add_text(&sql, " LIMIT ?");
    int index = 0;
    enum fan_status status = fan__sql_prepare(call->records->db, &sql, ret_statement, error);
    if (status == FAN_OK)
        status = bind_data(call, *ret_statement, &index, error);
    if (status == FAN_OK && call->id)
        status = bind_id(call, *ret_statement, &index, error);
    size_t limit = call->request.limit ? call->request.limit : LIST_LIMIT;
    if (status == FAN_OK)
        sqlite3_bind_int64(*ret_statement, ++index, limit < INT64_MAX ? (int64_t)limit : INT64_MAX);
    fan__buffer_deinit(&sql);
    return status;
}

/* Fills `rows` with the array, and `places` with where its rows lie. */
static enum fan_status do_list(struct call *call, struct fan__buffer *places,
                               struct fan_error *error)
{
    sqlite3_stmt *statement = NULL;
    int code = SQLITE_DONE;
    enum fan_status status = prepare_list(call, &statement, error);
    fan__buffer_add_text(&call->rows, "[");
    while (status == FAN_OK && (code = sqlite3_step(statement)) == SQLITE_ROW) {
        struct fan__row_place place = { 0 };
        fan__buffer_add_text(&call->rows, places->size > 0 ? ", " : "");
        status = fan__row_add(&call->rows, statement, call->table, &place, error);
        fan__buffer_add(places, &place, sizeof(place));
    }
    if (status == FAN_OK && code != SQLITE_DONE)
        status = fail_statement(call->records->db, error);
    sqlite3_finalize(statement);
    fan__buffer_add_text(&call->rows, "]");
    if (status == FAN_OK && (call->rows.failed || places->failed))
        return fan__fail(error, FAN_NO_MEMORY, "", "out of memory");
    return status;
}

static void announce_rows(struct call *call, const struct fan__buffer *places)
{
    struct fan__row_place place;
    for (size_t at = 0; at < places->size; at += sizeof(place)) {
        memcpy(&place, places->data + at, sizeof(place));
        if (name_row(call, &place, NULL) == FAN_OK)
            fan_hooks_after(call->records->hooks, &call->operation);
    }
}

enum fan_status fan_records_list(struct fan_records *records, const struct fan_record *request,
                                 struct fan_text *ret_rows, struct fan_error *ret_error)
{
    struct call call;
    struct fan__buffer places;
    fan__buffer_init(&places, records->env);
    enum fan_status status = begin(&call, records, request, FAN_CRUD_READ, ret_error);
    if (status == FAN_OK && call.request.id.size > 0)
        status = parse_id(&call, ret_error);
    if (status == FAN_OK && call.request.data.size > 0)
        status = parse_data(&call, false, ret_error);
    if (status == FAN_OK)
        status = before(&call, ret_error);
    if (status == FAN_OK)
        status = do_list(&call, &places, ret_error);
    if (status == FAN_OK)
        status = make_room(ret_rows, call.rows.size, ret_error);
    if (status == FAN_OK) {
        give(ret_rows, call.rows.data, call.rows.size);
        if (records->hooks)
            announce_rows(&call, &places);
    }
    end(&call);
    fan__buffer_deinit(&places);
    return status;
}

enum fan_status fan_records_settle(struct fan_records *records)
{
    return settle(records, NULL);
}

static enum fan_status check_outbox(struct fan_records *records, struct fan_error *error)
{
    struct fan__buffer sql;
    sqlite3_stmt *statement = NULL;
    fan__buffer_init(&sql, records->env);
    fan__buffer_add_text(&sql, "SELECT id, recorded_us, event FROM main.");
    fan__sql_add_name(&sql, records->outbox);
    enum fan_status status = fan__sql_prepare(records->db, &sql, &statement, error);
    sqlite3_finalize(statement);
    fan__buffer_deinit(&sql);
    return status;
}

static enum fan_status open_parts(struct fan_records *records,
                                  const struct fan_records_options *options,
                                  struct fan_error *error)
{
    records->tables = fan__alloc_zero(records->env, options->table_count, sizeof(*records->tables));
    if (!records->tables)
        return fan__fail(error, FAN_NO_MEMORY, "", "out of memory");
    enum fan_status status = FAN_OK;
    for (size_t i = 0; i < options->table_count && status == FAN_OK; i++) {
        char field[32];
        snprintf(field, sizeof(field), "tables[%zu]", i);
        records->table_count++;
        status = fan__records_table_read(records, &options->tables[i], &records->tables[i], field,
                                         error);
    }
    if (status == FAN_OK && options->outbox) {
        records->outbox = fan__strdup(records->env, options->outbox);
        status = records->outbox ? check_outbox(records, error)
                                 : fan__fail(error, FAN_NO_MEMORY, "", "out of memory");
    }
    if (status == FAN_OK && options->hooks)
        status = fan__held_open(records, error);
    return status;
}

static void release(struct fan_records *records)
{
    fan__held_close(records);
    for (size_t i = 0; i < records->table_count; i++)
        fan__records_table_deinit(records, &records->tables[i]);
    fan__free(records->env, records->tables);
    fan__free(records->env, records->outbox);
    fan__free(records->env, records);
}

enum fan_status fan_records_open(sqlite3 *db, const struct fan_records_options *options,
                                 struct fan_records **ret_records, struct fan_error *ret_error)
{
    struct fan_records_options adopted;
    if (!fan__adopt(&adopted, sizeof(adopted), options, sizeof(adopted)))
        return fan__fail(ret_error, FAN_INVALID, "size", "must be FAN_RECORDS_OPTIONS_SIZE");
    if (!adopted.tables || adopted.table_count == 0)
        return fan__fail(ret_error, FAN_INVALID, "tables", "must be given");
    if (!sqlite3_get_autocommit(db))
        return fan__fail(ret_error, FAN_MISUSE, "", "a transaction is open");
    struct fan_records *records = fan__alloc_zero(adopted.env, 1, sizeof(*records));
    if (!records)
        return fan__fail(ret_error, FAN_NO_MEMORY, "", "out of memory");
    records->db = db;
    records->env = adopted.env;
    records->hooks = adopted.hooks;
    records->relay = adopted.relay;
    enum fan_status status = FAN_OK;
    if (adopted.defaults) {
        records->has_defaults = true;
        if (!fan__adopt(&records->defaults, sizeof(records->defaults), adopted.defaults,
                        sizeof(size_t)))
            status = fan__fail(ret_error, FAN_INVALID, "defaults", "must carry their size");
    }
    if (status == FAN_OK)
        status = open_parts(records, &adopted, ret_error);
    if (status != FAN_OK) {
        release(records);
        return status;
    }
    *ret_records = records;
    return FAN_OK;
}

void fan_records_close(struct fan_records *records)
{
    if (!records)
        return;
    (void)settle(records, NULL);
    release(records);
}
