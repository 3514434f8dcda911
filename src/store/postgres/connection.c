/*
 * Connections: making them, lending them, and the end of a loan.
 *
 * After a failure to connect, the next try is put off by a time that doubles, with jitter; who
 * wants a connection meanwhile waits for that, within its deadline. One that broke is thrown away,
 * and looked at before it is lent, so that a server's restart costs nobody a failed call who comes
 * after it.
 */
#include "store/postgres/series.h"

#include "base/env.h"
#include "base/status.h"

#include <ctype.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#define RETRY_MS_MIN 20
#define RETRY_MS_MAX 2000

static void ignore_notice(void *context, const PGresult *result)
{
    (void)context;
    (void)result;
}

/*
 * libpq's words for a failure to connect have the server's code in them: "FATAL:  28P01: ...".
 * code is "" for what libpq says by itself.
 */
static const char *words_of(const char *message, char code[6])
{
    for (const char *at = strstr(message, ":  "); at; at = strstr(at + 1, ":  ")) {
        size_t size = 0;
        while (size < 5 && isalnum((unsigned char)at[3 + size]))
            size++;
        if (size < 5 || at[8] != ':')
            continue;
        memcpy(code, at + 3, 5);
        return at[9] == ' ' ? at + 10 : at + 9;
    }
    return message;
}

/* What is to be done about it, where that is not plain. */
static const char *advice(const char *code)
{
    if (strcmp(code, "28P01") == 0)
        return ": check the one in the URI, passfile= or ~/.pgpass";
    if (strcmp(code, "3D000") == 0)
        return ": make it with CREATE DATABASE, ENCODING 'UTF8'";
    return "";
}

static enum fan_status refused(struct fan__postgres_connection *connection)
{
    char code[6] = "";
    const char *words = words_of(PQerrorMessage(connection->conn), code);
    enum fan_status status = fan__postgres_map(code);
    if (strstr(words, "no password supplied")) {
        memcpy(code, "28P01", sizeof(code));
        status = FAN_DENIED;
    }
    if (strncmp(words, "invalid ", strlen("invalid ")) == 0)
        status = FAN_INVALID;
    if (connection->status == FAN_OK) {
        snprintf(connection->message, sizeof(connection->message), "%.*s%s",
                 (int)strcspn(words, "\n"), words, advice(code));
        connection->status = status;
    }
    return connection->status;
}

/* Connects without blocking anywhere but in poll (and where libpq asks for a host's address). */
static enum fan_status dial(struct fan__postgres_connection *connection)
{
    struct fan__postgres *store = connection->store;
    connection->conn = PQconnectStartParams((const char *const *)store->keywords,
                                            (const char *const *)store->values, 0);
    if (!connection->conn)
        return FAN_NO_MEMORY;
    PQsetNoticeReceiver(connection->conn, ignore_notice, NULL);
    PQsetErrorVerbosity(connection->conn, PQERRORS_VERBOSE);
    PostgresPollingStatusType state = PGRES_POLLING_WRITING;
    while (state != PGRES_POLLING_OK) {
        if (state == PGRES_POLLING_FAILED || PQstatus(connection->conn) == CONNECTION_BAD)
            return refused(connection);
        if (!fan__postgres_poll(connection, state == PGRES_POLLING_WRITING))
            return connection->status;
        state = PQconnectPoll(connection->conn);
    }
    const char *standby = PQparameterStatus(connection->conn, "in_hot_standby");
    if (standby && strcmp(standby, "on") == 0) {
        snprintf(connection->message, sizeof(connection->message),
                 "the server is a standby, and takes no events until it is promoted");
        return FAN_UNAVAILABLE;
    }
    if (PQsetnonblocking(connection->conn, 1) != 0 || !PQenterPipelineMode(connection->conn))
        return FAN_NO_MEMORY;
    return FAN_OK;
}

/*
 * Each session does as the provider means it, whatever a role or a database is set to; an event
 * that is acknowledged is on the disk. Told by a statement, since poolers refuse it as a start
 * option.
 */
static void set_session(struct fan__postgres_connection *connection)
{
    char timeout[16];
    char idle[16];
    struct fan__postgres_params params = { 0 };
    snprintf(timeout, sizeof(timeout), "%" PRIu32, connection->store->timeout_ms);
    snprintf(idle, sizeof(idle), "%" PRIu32, connection->store->timeout_ms * 2);
    fan__postgres_add_text(&params, timeout);
    fan__postgres_add_text(&params, idle);
    (void)fan__postgres_queue(connection, FAN__PG_SESSION, &params);
}

void fan__postgres_check_epoch(struct fan__postgres_connection *connection, int64_t epoch)
{
    if (connection->store->epoch == 0 || (uint64_t)epoch == connection->store->epoch ||
        connection->status != FAN_OK)
        return;
    snprintf(connection->message, sizeof(connection->message),
             "the log was made anew since it was opened: open it again");
    fan__postgres_fail(connection, FAN_CORRUPT);
}

/* What a connection begins with, in one round trip. */
static enum fan_status begin(struct fan__postgres_connection *connection)
{
    set_session(connection);
    if (connection->store->epoch == 0) {
        (void)fan__postgres_flush(connection, SIZE_MAX);
        return connection->status;
    }
    struct fan__postgres_bounds bounds;
    fan__postgres_bounds(connection, &bounds);
    return connection->status;
}

void fan__postgres_disconnect(struct fan__postgres_connection *connection)
{
    if (!connection)
        return;
    for (size_t i = 0; i < connection->queued; i++)
        PQclear(connection->queue[i].result);
    PQfinish(connection->conn);
    fan__rows_free(connection->rows);
    fan__sets_free(&connection->sets, connection->store->env);
    fan__free(connection->store->env, connection);
}

enum fan_status fan__postgres_connect(struct fan__postgres *store, int64_t deadline_ns,
                                      struct fan__postgres_connection **ret_connection,
                                      struct fan_error *error)
{
    struct fan__postgres_connection *connection =
        fan__alloc_zero(store->env, 1, sizeof(*connection));
    if (!connection)
        return fan__fail(error, FAN_NO_MEMORY, NULL, "no memory for a connection");
    connection->store = store;
    connection->deadline_ns = deadline_ns;
    enum fan_status status = dial(connection);
    if (status == FAN_OK)
        status = begin(connection);
    if (status == FAN_OK)
        connection->rows = fan__rows_new(store->env);
    if (status == FAN_OK && !connection->rows)
        status = FAN_NO_MEMORY;
    if (status == FAN_OK) {
        *ret_connection = connection;
        return FAN_OK;
    }
    (void)fan__fail(error, status, "uri", "%s",
                    connection->message[0] ? connection->message : fan_status_text(status));
    fan__postgres_disconnect(connection);
    return status;
}

/* An idle connection has nothing to say, but that it is over. */
static bool is_alive(struct fan__postgres_connection *connection)
{
    struct pollfd file = { .fd = PQsocket(connection->conn), .events = POLLIN };
    return PQstatus(connection->conn) == CONNECTION_OK && poll(&file, 1, 0) == 0;
}

static void note_try(struct fan__postgres *store, enum fan_status status,
                     const struct fan_error *error)
{
    fan__mutex_lock(&store->pool_mutex);
    store->refusal = *error;
    if (status == FAN_OK) {
        store->retry_ms = 0;
        store->retry_ns = 0;
    } else if (status != FAN_NO_MEMORY) {
        uint32_t random = 0;
        fan__random(store->env, &random, sizeof(random));
        uint32_t next_ms = store->retry_ms * 2;
        if (next_ms < RETRY_MS_MIN)
            next_ms = RETRY_MS_MIN;
        store->retry_ms = next_ms > RETRY_MS_MAX ? RETRY_MS_MAX : next_ms;
        store->retry_ns = fan__deadline_ns(store->retry_ms / 2 + random % (store->retry_ms / 2));
    }
    fan__mutex_unlock(&store->pool_mutex);
}

/* Waits out the time between two tries. False when the deadline comes first. */
static bool wait_for_try(struct fan__postgres *store, int64_t deadline_ns)
{
    bool in_time = true;
    fan__mutex_lock(&store->pool_mutex);
    while (in_time && store->retry_ns > fan__deadline_ns(0)) {
        int64_t until_ns = store->retry_ns < deadline_ns ? store->retry_ns : deadline_ns;
        (void)fan__cond_wait_until(&store->pool_returned, &store->pool_mutex, until_ns);
        in_time = fan__deadline_ns(0) < deadline_ns;
    }
    fan__mutex_unlock(&store->pool_mutex);
    return in_time;
}

static enum fan_status try_connect(struct fan__postgres *store, int64_t deadline_ns,
                                   struct fan__postgres_connection **ret_connection,
                                   struct fan_error *error)
{
    struct fan_error reason = FAN_ERROR_INIT;
    enum fan_status status = FAN_UNAVAILABLE;
    if (wait_for_try(store, deadline_ns)) {
        status = fan__postgres_connect(store, deadline_ns, ret_connection, &reason);
        note_try(store, status, &reason);
    } else {
        fan__mutex_lock(&store->pool_mutex);
        reason = store->refusal;
        fan__mutex_unlock(&store->pool_mutex);
    }
    return status == FAN_OK ? FAN_OK : fan__fail(error, status, "uri", "%s", reason.message);
}

static void make_room(struct fan__postgres *store, bool writer)
{
    fan__mutex_lock(&store->pool_mutex);
    if (writer)
        store->writer_lent = false;
    else
        store->pool_count--;
    fan__cond_broadcast(&store->pool_returned);
    fan__mutex_unlock(&store->pool_mutex);
}

/* Takes a place among those that are lent, and an idle connection if there is one. */
static bool take_place(struct fan__postgres *store, bool writer, int64_t deadline_ns,
                       struct fan__postgres_connection **ret_connection)
{
    bool in_time = true;
    fan__mutex_lock(&store->pool_mutex);
    while (in_time && (writer ? store->writer_lent
                              : !store->pool && store->pool_count == FAN__POSTGRES_POOL_MAX))
        in_time = fan__cond_wait_until(&store->pool_returned, &store->pool_mutex, deadline_ns);
    if (in_time && writer) {
        store->writer_lent = true;
        *ret_connection = store->writer;
        store->writer = NULL;
    } else if (in_time) {
        *ret_connection = store->pool;
        if (store->pool)
            store->pool = store->pool->next;
        else
            store->pool_count++;
    }
    fan__mutex_unlock(&store->pool_mutex);
    return in_time;
}

static enum fan_status lend(struct fan__postgres *store, bool writer,
                            struct fan__postgres_connection **ret_connection,
                            struct fan_error *error)
{
    int64_t deadline_ns = fan__deadline_ns(store->timeout_ms);
    struct fan__postgres_connection *connection = NULL;
    if (!take_place(store, writer, deadline_ns, &connection))
        return fan__fail(error, FAN_UNAVAILABLE, "uri",
                         "all connections are waiting for the server");
    if (connection && !is_alive(connection)) {
        fan__postgres_disconnect(connection);
        connection = NULL;
    }
    if (!connection) {
        enum fan_status status = try_connect(store, deadline_ns, &connection, error);
        if (status != FAN_OK) {
            make_room(store, writer);
            return status;
        }
    }
    connection->is_writer = writer;
    connection->writes = writer;
    connection->deadline_ns = deadline_ns;
    *ret_connection = connection;
    return FAN_OK;
}

void fan__postgres_begin(struct fan__postgres_connection *connection, enum fan__postgres_mode mode)
{
    (void)fan__postgres_queue(
        connection, mode == FAN__POSTGRES_READ ? FAN__PG_BEGIN_READ : FAN__PG_BEGIN_WRITE, NULL);
    connection->begun = true;
    connection->writes = mode == FAN__POSTGRES_WRITE;
}

enum fan_status fan__postgres_borrow(struct fan__postgres *store, enum fan__postgres_mode mode,
                                     struct fan__postgres_connection **ret_connection,
                                     struct fan_error *error)
{
    enum fan_status status = lend(store, false, ret_connection, error);
    if (status != FAN_OK)
        return status;
    fan__postgres_begin(*ret_connection, mode);
    return FAN_OK;
}

enum fan_status fan__postgres_borrow_writer(struct fan__postgres *store,
                                            struct fan__postgres_connection **ret_connection,
                                            struct fan_error *error)
{
    enum fan_status status = lend(store, true, ret_connection, error);
    if (status != FAN_OK)
        return status;
    struct fan__postgres_params params = { 0 };
    fan__postgres_add_int(&params, store->lock_key);
    fan__postgres_begin(*ret_connection, FAN__POSTGRES_WRITE);
    (void)fan__postgres_queue(*ret_connection, FAN__PG_LOCK, &params);
    return FAN_OK;
}

void fan__postgres_extend(struct fan__postgres_connection *connection)
{
    connection->deadline_ns = fan__deadline_ns(connection->store->timeout_ms);
}

/* Back to those that are not lent, as good as ever, or to its end. */
static void give_back(struct fan__postgres_connection *connection)
{
    struct fan__postgres *store = connection->store;
    bool writer = connection->is_writer;
    if (connection->broken || connection->begun) {
        fan__postgres_disconnect(connection);
        make_room(store, writer);
        return;
    }
    connection->status = FAN_OK;
    connection->commit_sent = false;
    connection->message[0] = '\0';
    fan__mutex_lock(&store->pool_mutex);
    if (writer) {
        store->writer = connection;
        store->writer_lent = false;
    } else {
        connection->next = store->pool;
        store->pool = connection;
    }
    fan__cond_broadcast(&store->pool_returned);
    fan__mutex_unlock(&store->pool_mutex);
}

/* Ends a transaction that is not to be, or that a failure left open. */
static void roll_back(struct fan__postgres_connection *connection)
{
    enum fan_status first = connection->status;
    connection->status = FAN_OK;
    connection->writes = false;
    PQclear(fan__postgres_run(connection, FAN__PG_ROLLBACK, NULL));
    connection->begun = connection->status != FAN_OK;
    connection->status = first;
}

enum fan_status fan__postgres_end(struct fan__postgres_connection *connection,
                                  enum fan_status status, struct fan_error *error)
{
    if (connection->begun && status == FAN_OK && connection->status == FAN_OK)
        PQclear(fan__postgres_commit(connection, SIZE_MAX));
    if (connection->begun && !connection->broken)
        roll_back(connection);
    if (connection->status != FAN_OK) {
        status = connection->status;
        (void)fan__fail(error, status, NULL, "%s",
                        connection->message[0] ? connection->message : fan_status_text(status));
    }
    give_back(connection);
    return status;
}
