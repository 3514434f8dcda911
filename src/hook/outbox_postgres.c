/* The writing half of the outbox in PostgreSQL, on the caller's connection. */
#include "hook/outbox_postgres.h"

#include "base/adopt.h"
#include "base/env.h"
#include "base/status.h"
#include "hook/pg.h"

#include <fanfare/json.h>
#include <fanfare/outbox.h>

#include <stdio.h>
#include <string.h>

enum fan_status fan__outbox_postgres_name(const char **schema, struct fan_error *error)
{
    if (!*schema)
        *schema = FAN_OUTBOX_TABLE;
    if (!**schema || strlen(*schema) > FAN__PG_NAME_SIZE_MAX || strchr(*schema, '$'))
        return fan__fail(error, FAN_INVALID, "table",
                         "(the schema) must have 1 to %d bytes and no '$'", FAN__PG_NAME_SIZE_MAX);
    return FAN_OK;
}

void fan__outbox_postgres_add(struct fan__buffer *sql, const char *text, const char *schema)
{
    const char *end;
    for (const char *at = text; *at; at = end) {
        end = strchrnul(at, '@');
        fan__buffer_add(sql, at, (size_t)(end - at));
        if (strncmp(end, "@@", 2) == 0)
            fan__pg_add_literal(sql, schema);
        else if (*end)
            fan__pg_add_name(sql, schema);
        end += *end == '\0' ? 0 : end[1] == '@' ? 2 : 1;
    }
}

/* Whether the caller's connection can take a statement now. */
static enum fan_status check_connection(const PGconn *conn, struct fan_error *error)
{
    switch (PQtransactionStatus(conn)) {
    case PQTRANS_IDLE:
    case PQTRANS_INTRANS:
        return FAN_OK;
    case PQTRANS_INERROR:
        return fan__fail(error, FAN_MISUSE, "", "the transaction has failed: roll it back");
    case PQTRANS_ACTIVE:
        return fan__fail(error, FAN_MISUSE, "", "the connection has a statement under way");
    default:
        return fan__fail(error, FAN_UNAVAILABLE, "", "the connection is lost");
    }
}

static enum fan_status end(PGconn *conn, PGresult *result, const char *what,
                           struct fan_error *error)
{
    ExecStatusType state = PQresultStatus(result);
    enum fan_status status = FAN_OK;
    if (state != PGRES_TUPLES_OK && state != PGRES_COMMAND_OK)
        status = fan__pg_fail(conn, result, what, error);
    return status;
}

static enum fan_status check_format(PGconn *conn, const char *schema, struct fan__buffer *sql,
                                    struct fan_error *error)
{
    fan__buffer_clear(sql);
    fan__outbox_postgres_add(sql, "SELECT format, identity FROM @.about", schema);
    fan__buffer_add(sql, "", 1);
    if (sql->failed)
        return fan__fail(error, FAN_NO_MEMORY, "", "out of memory");
    PGresult *result = PQexec(conn, sql->data);
    enum fan_status status = end(conn, result, "the outbox", error);
    if (status == FAN_NOT_FOUND || (status == FAN_OK && PQntuples(result) != 1))
        status = fan__fail(error, FAN_EXISTS, "table",
                           "\"%s\" has a table \"about\" that is not of an outbox", schema);
    else if (status == FAN_OK && fan__pg_number(result, 0, 0) > FAN__OUTBOX_POSTGRES_FORMAT)
        status = fan__fail(error, FAN_TOO_NEW, "table",
                           "\"%s\" is an outbox of format %s, this library knows %d", schema,
                           PQgetvalue(result, 0, 0), FAN__OUTBOX_POSTGRES_FORMAT);
    PQclear(result);
    return status;
}

enum fan_status fan_outbox_postgres_create(PGconn *conn, const char *schema,
                                           struct fan_error *ret_error)
{
    struct fan__buffer sql;
    enum fan_status status = fan__outbox_postgres_name(&schema, ret_error);
    if (status == FAN_OK)
        status = check_connection(conn, ret_error);
    if (status != FAN_OK)
        return status;
    fan__buffer_init(&sql, NULL);
    for (const char *const *piece = fan__outbox_postgres_script; *piece; piece++)
        fan__outbox_postgres_add(&sql, *piece, schema);
    fan__buffer_add(&sql, "", 1);
    if (sql.failed) {
        status = fan__fail(ret_error, FAN_NO_MEMORY, "", "out of memory");
    } else {
        PGresult *result = PQexec(conn, sql.data);
        status = end(conn, result, "the outbox cannot be created", ret_error);
        PQclear(result);
    }
    if (status == FAN_OK)
        status = check_format(conn, schema, &sql, ret_error);
    fan__buffer_deinit(&sql);
    return status;
}

static enum fan_status insert(PGconn *conn, const char *schema, const struct fan_event *event,
                              const struct fan_env *env, struct fan_error *error)
{
    struct fan_text text = { .env = env };
    struct fan__buffer sql;
    fan__buffer_init(&sql, env);
    fan__outbox_postgres_add(&sql, "INSERT INTO @.event(id, event) VALUES ($1, $2)", schema);
    fan__buffer_add(&sql, "", 1);
    enum fan_status status = fan_event_to_json(event, NULL, FAN_JSON_ONE_LINE, &text);
    if (status != FAN_OK || sql.failed) {
        status = fan__fail(error, FAN_NO_MEMORY, "", "out of memory");
    } else {
        const char *const values[] = { fan_event_id(event), text.data };
        PGresult *result = PQexecParams(conn, sql.data, 2, NULL, values, NULL, NULL, 0);
        status = end(conn, result, "the outbox", error);
        PQclear(result);
    }
    fan__buffer_deinit(&sql);
    fan_text_deinit(&text);
    return status;
}

enum fan_status fan_outbox_postgres_record(PGconn *conn, const char *schema,
                                           const struct fan_event_draft *draft,
                                           const struct fan_event_defaults *defaults,
                                           struct fan_error *ret_error)
{
    const struct fan_env *env = defaults ? defaults->env : NULL;
    struct fan_event *event = NULL;
    enum fan_status status = fan__outbox_postgres_name(&schema, ret_error);
    if (status == FAN_OK)
        status = check_connection(conn, ret_error);
    const char *encoding = status == FAN_OK ? PQparameterStatus(conn, "client_encoding") : NULL;
    if (status == FAN_OK && (!encoding || strcmp(encoding, "UTF8") != 0))
        status = fan__fail(ret_error, FAN_UNSUPPORTED, "",
                           "the connection's client_encoding is %s; expected UTF8",
                           encoding ? encoding : "unknown");
    if (status == FAN_OK)
        status = fan_event_new(draft, defaults, &event, ret_error);
    if (status == FAN_OK)
        status = insert(conn, schema, event, env, ret_error);
    fan_event_free(event, env);
    return status;
}

static enum fan_status capture_tables(struct fan__pg *pg,
                                      const struct fan_outbox_postgres_capture_options *options,
                                      struct fan_error *error)
{
    struct fan__buffer sql;
    struct fan__pg_call begin = { .sql = "BEGIN" };
    struct fan__pg_call commit = { .sql = "COMMIT" };
    fan__buffer_init(&sql, NULL);
    fan__outbox_postgres_add(&sql,
                             options->release ? "SELECT @.release($1::regclass)"
                                              : "SELECT @.capture($1::regclass)",
                             options->schema);
    fan__buffer_add(&sql, "", 1);
    enum fan_status status = sql.failed ? fan__fail(error, FAN_NO_MEMORY, "", "out of memory")
                                        : fan__pg_run(pg, &begin, "the outbox", NULL, error);
    for (size_t i = 0; i < options->table_count && status == FAN_OK; i++) {
        struct fan__pg_call call = { sql.data, &options->tables[i], 1 };
        status = fan__pg_run(pg, &call, options->tables[i], NULL, error);
        if (status != FAN_OK && error)
            snprintf(error->field, sizeof(error->field), "tables[%zu]", i);
    }
    fan__buffer_deinit(&sql);
    return status == FAN_OK ? fan__pg_run(pg, &commit, "the outbox", NULL, error) : status;
}

enum fan_status fan_outbox_postgres_capture(
    const struct fan_outbox_postgres_capture_options *options, struct fan_error *ret_error)
{
    struct fan_outbox_postgres_capture_options adopted;
    struct fan__pg pg = { NULL, false };
    if (!fan__adopt(&adopted, sizeof(adopted), options, sizeof(adopted)))
        return fan__fail(ret_error, FAN_INVALID, "size",
                         "must be FAN_OUTBOX_POSTGRES_CAPTURE_OPTIONS_SIZE");
    enum fan_status status = fan__outbox_postgres_name(&adopted.schema, ret_error);
    if (status == FAN_OK && !adopted.database)
        status = fan__fail(ret_error, FAN_INVALID, "database", "must be given");
    if (status == FAN_OK)
        status = fan__pg_open(&pg, adopted.database, false, ret_error);
    /* For the functions that are the caller's, too, it is a blocking one. */
    if (status == FAN_OK && PQsetnonblocking(pg.conn, 0) == 0 && !adopted.release)
        status = fan_outbox_postgres_create(pg.conn, adopted.schema, ret_error);
    if (status == FAN_OK)
        status = capture_tables(&pg, &adopted, ret_error);
    fan__pg_close(&pg);
    return status;
}
