/* What the tests of outbox and capture over PostgreSQL share: a server, connections, a log. */
#ifndef TESTS_HOOK_POSTGRES_SUPPORT_H
#define TESTS_HOOK_POSTGRES_SUPPORT_H

#include "outbox_support.h"
#include "postgres.h"

#include <libpq-fe.h>

static struct test_postgres server;

static inline int server_start(void **state)
{
    (void)state;
    return test_postgres_start(&server, "max_prepared_transactions=4") ? 0 : -1;
}

static inline int server_end(void **state)
{
    (void)state;
    test_postgres_end(&server);
    return 0;
}

/* A URI of the server's by its socket: who, and which database. */
static inline const char *uri_of(const char *user, const char *database)
{
    static _Thread_local char uri[4][256];
    static _Thread_local unsigned turn;
    char *text = uri[turn++ % 4];
    snprintf(text, sizeof(uri[0]), "postgres://%s@/%s?host=%s&port=%u", user, database,
             server.folder, server.port);
    return text;
}

static inline void be_silent(void *context, const PGresult *result)
{
    (void)context;
    (void)result;
}

static inline PGconn *connect_as(const char *user, const char *database)
{
    PGconn *conn = PQconnectdb(uri_of(user, database));
    if (PQstatus(conn) != CONNECTION_OK)
        fail_msg("%s", PQerrorMessage(conn));
    PQsetNoticeReceiver(conn, be_silent, NULL);
    return conn;
}

static inline PGconn *connected(void)
{
    return connect_as("fan", "fan");
}

static inline void run_pg(PGconn *conn, const char *sql)
{
    PGresult *result = PQexec(conn, sql);
    ExecStatusType state = PQresultStatus(result);
    if (state != PGRES_COMMAND_OK && state != PGRES_TUPLES_OK)
        fail_msg("%s: %s", sql, PQerrorMessage(conn));
    PQclear(result);
}

/* Runs as the one who may do all. */
static inline void run_as_root(const char *sql)
{
    PGconn *conn = connect_as("postgres", "fan");
    run_pg(conn, sql);
    PQfinish(conn);
}

static inline int64_t pg_number(PGconn *conn, const char *sql)
{
    PGresult *result = PQexec(conn, sql);
    if (PQresultStatus(result) != PGRES_TUPLES_OK || PQntuples(result) != 1)
        fail_msg("%s: %s", sql, PQerrorMessage(conn));
    int64_t number = strtoll(PQgetvalue(result, 0, 0), NULL, 10);
    PQclear(result);
    return number;
}

/* An outbox as if it had never been there. */
static inline PGconn *outbox_made(void)
{
    PGconn *conn = connected();
    struct fan_error error = FAN_ERROR_INIT;
    run_pg(conn, "DROP SCHEMA IF EXISTS fan_outbox CASCADE");
    if (fan_outbox_postgres_create(conn, NULL, &error) != FAN_OK)
        fail_msg("%s", error.message);
    return conn;
}

static inline enum fan_status record_pg(PGconn *conn, const char *id, const char *payload)
{
    struct fan_event_draft draft = order_draft(id, payload);
    return fan_outbox_postgres_record(conn, NULL, &draft, NULL, NULL);
}

static inline struct fan_outbox_relay *relay_opened_pg(struct fan_broker *broker,
                                                       const struct fan_outbox_relay_options *more)
{
    return relay_opened_at(broker, uri_of("fan", "fan"), more);
}

static inline struct fan_outbox_relay *relay_started_pg(struct fan_broker *broker)
{
    return relay_started_at(broker, uri_of("fan", "fan"), 20);
}

static inline int64_t waiting_pg(PGconn *conn)
{
    return pg_number(conn, "SELECT count(*) FROM fan_outbox.event");
}

#endif
