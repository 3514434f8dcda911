/*
 * Statements on their way to the server and back. A connection is always in libpq's pipeline mode:
 * what is queued goes out in one piece with what is waited for, and a failure in the middle keeps
 * the server from doing the rest, a COMMIT included.
 *
 * All waiting is done here, in poll, until the loan's deadline; a server that is stopped gives no
 * error to wait for.
 */
#include "store/postgres/store.h"

#include "base/env.h"

#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* About what a statement takes with its names filled in; a guess that saves steps of growth. */
#define TEXT_SIZE 1024

enum { PREPARED = -2 };

static const char *const texts[] = {
#define TEXT(name, text) text,
    FAN__POSTGRES_STATEMENTS(TEXT)
#undef TEXT
};

const char *fan__postgres_sql(enum fan__postgres_statement statement)
{
    return texts[statement];
}

static void add_quoted(struct fan__buffer *buffer, const char *name)
{
    fan__buffer_add(buffer, "\"", 1);
    for (const char *at = name; *at; at++) {
        if (*at == '"')
            fan__buffer_add(buffer, "\"", 1);
        fan__buffer_add(buffer, at, 1);
    }
    fan__buffer_add(buffer, "\"", 1);
}

void fan__postgres_name(const struct fan__postgres *store, const char *word, size_t size,
                        char name[FAN__POSTGRES_NAME_MAX + 1])
{
    bool is_event = size == strlen("event") && strncmp(word, "event", size) == 0;
    if (!store->table[0])
        snprintf(name, FAN__POSTGRES_NAME_MAX + 1, "%.*s", (int)size, word);
    else if (is_event)
        snprintf(name, FAN__POSTGRES_NAME_MAX + 1, "%s", store->table);
    else
        snprintf(name, FAN__POSTGRES_NAME_MAX + 1, "%.40s_%.*s", store->table, (int)size, word);
}

static void fill(const struct fan__postgres *store, const char *sql, struct fan__buffer *buffer)
{
    while (*sql) {
        char name[FAN__POSTGRES_NAME_MAX + 1];
        size_t plain = strcspn(sql, "@#");
        fan__buffer_add(buffer, sql, plain);
        sql += plain;
        if (!*sql)
            break;
        bool has_schema = *sql++ == '@';
        if (*sql == '@') {
            add_quoted(buffer, store->channel);
            sql++;
            continue;
        }
        size_t size = 0;
        while (islower((unsigned char)sql[size]) || sql[size] == '_')
            size++;
        fan__postgres_name(store, sql, size, name);
        if (has_schema)
            add_quoted(buffer, store->schema);
        if (has_schema && size > 0)
            fan__buffer_add(buffer, ".", 1);
        if (size > 0)
            add_quoted(buffer, name);
        sql += size;
    }
}

char *fan__postgres_fill(const struct fan__postgres *store, const char *sql)
{
    struct fan__buffer buffer;
    fan__buffer_init(&buffer, store->env);
    (void)fan__buffer_reserve(&buffer, strlen(sql) * 2 + TEXT_SIZE);
    fill(store, sql, &buffer);
    char *filled = fan__buffer_take(&buffer, NULL);
    fan__buffer_deinit(&buffer);
    return filled;
}

bool fan__postgres_texts_new(struct fan__postgres *store)
{
    struct fan__buffer buffer;
    fan__buffer_init(&buffer, store->env);
    (void)fan__buffer_reserve(&buffer, (size_t)FAN__PG_COUNT * TEXT_SIZE);
    for (size_t i = 0; i < FAN__PG_COUNT; i++) {
        store->text_at[i] = buffer.size;
        fill(store, texts[i], &buffer);
        fan__buffer_add(&buffer, "", 1);
    }
    store->texts = fan__buffer_take(&buffer, NULL);
    fan__buffer_deinit(&buffer);
    return store->texts != NULL;
}

void fan__postgres_fail(struct fan__postgres_connection *connection, enum fan_status status)
{
    if (connection->status == FAN_OK)
        connection->status = status;
}

static void say(struct fan__postgres_connection *connection, const char *message)
{
    if (connection->status != FAN_OK)
        return;
    size_t size = strcspn(message, "\n");
    if (size >= sizeof(connection->message))
        size = sizeof(connection->message) - 1;
    memcpy(connection->message, message, size);
    connection->message[size] = '\0';
}

/* The connection is of no more use; what was under way may have been done, or not. */
static void lost(struct fan__postgres_connection *connection, const char *message)
{
    say(connection, message);
    fan__postgres_fail(connection, connection->commit_sent ? FAN_UNKNOWN : FAN_UNAVAILABLE);
    connection->broken = true;
}

static void failed(struct fan__postgres_connection *connection, int statement,
                   const PGresult *result)
{
    const char *code = PQresultErrorField(result, PG_DIAG_SQLSTATE);
    const char *message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
    enum fan_status status = fan__postgres_map(code);
    /* Statements that are not there any more, or another's: this is not the session that it was. */
    if (code && (strcmp(code, "26000") == 0 || strcmp(code, "42P05") == 0)) {
        message = "the session was exchanged by a pooler: PgBouncer wants pool_mode=session";
        status = FAN_UNAVAILABLE;
        connection->broken = true;
    }
    say(connection, message ? message : PQresultErrorMessage(result));
    /* A commit that the server breaks off may have been done. */
    if (statement == FAN__PG_COMMIT && status == FAN_UNAVAILABLE)
        status = FAN_UNKNOWN;
    fan__postgres_fail(connection, status);
}

bool fan__postgres_poll(struct fan__postgres_connection *connection, bool to_write)
{
    int64_t left_ms = (connection->deadline_ns - fan__deadline_ns(0)) / FAN__NS_PER_MS + 1;
    if (left_ms <= 0) {
        lost(connection, "the server did not answer in time");
        return false;
    }
    struct pollfd file = { .fd = PQsocket(connection->conn),
                           .events = (short)(to_write ? POLLIN | POLLOUT : POLLIN) };
    int ready = poll(&file, 1, left_ms > INT32_MAX ? INT32_MAX : (int)left_ms);
    if (ready < 0 && errno != EINTR) {
        lost(connection, strerror(errno));
        return false;
    }
    return true;
}

/* Sends what libpq holds, and takes in what comes meanwhile. */
static bool flush(struct fan__postgres_connection *connection)
{
    for (;;) {
        int left = PQflush(connection->conn);
        if (left == 0)
            return true;
        if (left < 0 || !PQconsumeInput(connection->conn)) {
            lost(connection, PQerrorMessage(connection->conn));
            return false;
        }
        if (!fan__postgres_poll(connection, true))
            return false;
    }
}

static bool receive(struct fan__postgres_connection *connection)
{
    while (PQisBusy(connection->conn)) {
        if (!fan__postgres_poll(connection, false))
            return false;
        if (!PQconsumeInput(connection->conn)) {
            lost(connection, PQerrorMessage(connection->conn));
            return false;
        }
    }
    return true;
}

static void forget_results(struct fan__postgres_connection *connection)
{
    for (size_t i = 0; i < connection->queued; i++)
        PQclear(connection->queue[i].result);
    connection->queued = 0;
}

/* One item of the queue was answered. */
static void answered(struct fan__postgres_connection *connection, size_t index, PGresult *result)
{
    int statement = connection->queue[index].statement;
    ExecStatusType status = PQresultStatus(result);
    bool good = status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK;
    if (!good && status != PGRES_PIPELINE_ABORTED)
        failed(connection, statement, result);
    if (statement == PREPARED && good)
        connection->prepared[connection->queue[index + 1].statement] = true;
    if (statement == FAN__PG_COMMIT && good)
        connection->begun = false;
    PQclear(connection->queue[index].result);
    connection->queue[index].result = result;
}

/* Ends the queue with a Sync, and takes all answers. */
static bool sync_queue(struct fan__postgres_connection *connection)
{
    if (!PQpipelineSync(connection->conn)) {
        lost(connection, PQerrorMessage(connection->conn));
        return false;
    }
    if (!flush(connection))
        return false;
    size_t index = 0;
    bool has = false;
    for (;;) {
        if (!receive(connection))
            return false;
        PGresult *result = PQgetResult(connection->conn);
        ExecStatusType status = PQresultStatus(result);
        if (result && status == PGRES_PIPELINE_SYNC) {
            PQclear(result);
            return true;
        }
        if (!result && !has) {
            lost(connection, PQerrorMessage(connection->conn));
            return false;
        }
        if (!result) {
            index++;
            has = false;
        } else if (index < connection->queued) {
            answered(connection, index, result);
            has = true;
        } else {
            PQclear(result);
        }
        if (PQstatus(connection->conn) == CONNECTION_BAD) {
            lost(connection, PQerrorMessage(connection->conn));
            return false;
        }
    }
}

static bool prepare(struct fan__postgres_connection *connection,
                    enum fan__postgres_statement statement, const char *name)
{
    const struct fan__postgres *store = connection->store;
    const char *sql = store->texts + store->text_at[statement];
    connection->queue[connection->queued].statement = PREPARED;
    connection->queue[connection->queued].result = NULL;
    bool sent = PQsendPrepare(connection->conn, name, sql, 0, NULL);
    if (sent)
        connection->queued++;
    else
        lost(connection, PQerrorMessage(connection->conn));
    return sent;
}

/* The statement's place in the queue; SIZE_MAX once the connection has failed. */
static size_t push(struct fan__postgres_connection *connection,
                   enum fan__postgres_statement statement,
                   const struct fan__postgres_params *params)
{
    if (connection->status != FAN_OK && statement != FAN__PG_ROLLBACK)
        return SIZE_MAX;
    char name[16];
    snprintf(name, sizeof(name), "s%d", (int)statement);
    if (connection->queued == 0)
        connection->round++;
    if (!connection->prepared[statement] && connection->asked[statement] != connection->round) {
        if (!prepare(connection, statement, name))
            return SIZE_MAX;
        connection->asked[statement] = connection->round;
    }
    connection->queue[connection->queued].statement = (int)statement;
    connection->queue[connection->queued].result = NULL;
    bool sent = PQsendQueryPrepared(connection->conn, name, params ? params->count : 0,
                                    params ? params->values : NULL, params ? params->lengths : NULL,
                                    params ? params->formats : NULL, 1);
    if (!sent) {
        lost(connection, PQerrorMessage(connection->conn));
        return SIZE_MAX;
    }
    return connection->queued++;
}

size_t fan__postgres_queue(struct fan__postgres_connection *connection,
                           enum fan__postgres_statement statement,
                           const struct fan__postgres_params *params)
{
    if (connection->queued + 4 > sizeof(connection->queue) / sizeof(*connection->queue)) {
        sync_queue(connection);
        forget_results(connection);
    }
    return push(connection, statement, params);
}

/* Sends all that is queued, and takes the results from their places. */
static void flush_all(struct fan__postgres_connection *connection, const size_t *places,
                      size_t count, PGresult **ret_results)
{
    bool synced = connection->queued > 0 && !connection->broken && sync_queue(connection);
    for (size_t i = 0; i < count; i++) {
        ret_results[i] = NULL;
        if (!synced || places[i] == SIZE_MAX || connection->status != FAN_OK)
            continue;
        ret_results[i] = connection->queue[places[i]].result;
        connection->queue[places[i]].result = NULL;
    }
    forget_results(connection);
}

PGresult *fan__postgres_flush(struct fan__postgres_connection *connection, size_t place)
{
    PGresult *result = NULL;
    flush_all(connection, &place, 1, &result);
    return result;
}

PGresult *fan__postgres_run(struct fan__postgres_connection *connection,
                            enum fan__postgres_statement statement,
                            const struct fan__postgres_params *params)
{
    return fan__postgres_flush(connection, push(connection, statement, params));
}

void fan__postgres_commit_all(struct fan__postgres_connection *connection, const size_t *places,
                              size_t count, PGresult **ret_results)
{
    if (push(connection, FAN__PG_COMMIT, NULL) != SIZE_MAX)
        connection->commit_sent = connection->writes;
    flush_all(connection, places, count, ret_results);
}

PGresult *fan__postgres_commit(struct fan__postgres_connection *connection, size_t place)
{
    PGresult *result = NULL;
    fan__postgres_commit_all(connection, &place, 1, &result);
    return result;
}

PGresult *fan__postgres_run_last(struct fan__postgres_connection *connection,
                                 enum fan__postgres_statement statement,
                                 const struct fan__postgres_params *params)
{
    return fan__postgres_commit(connection, fan__postgres_queue(connection, statement, params));
}

uint64_t fan__postgres_run_count(struct fan__postgres_connection *connection,
                                 enum fan__postgres_statement statement,
                                 const struct fan__postgres_params *params)
{
    PGresult *result = fan__postgres_run(connection, statement, params);
    uint64_t count = result ? strtoull(PQcmdTuples(result), NULL, 10) : 0;
    PQclear(result);
    return count;
}

/* The one way around the pipeline, which takes a single statement at a time. */
void fan__postgres_script(struct fan__postgres_connection *connection, const char *sql)
{
    if (connection->status != FAN_OK)
        return;
    char *filled = fan__postgres_fill(connection->store, sql);
    if (!filled) {
        fan__postgres_fail(connection, FAN_NO_MEMORY);
        return;
    }
    if (!PQexitPipelineMode(connection->conn) || !PQsendQuery(connection->conn, filled))
        lost(connection, PQerrorMessage(connection->conn));
    else if (flush(connection))
        while (receive(connection)) {
            PGresult *result = PQgetResult(connection->conn);
            if (!result)
                break;
            if (PQresultStatus(result) == PGRES_FATAL_ERROR)
                failed(connection, -1, result);
            PQclear(result);
        }
    if (!connection->broken && !PQenterPipelineMode(connection->conn))
        lost(connection, PQerrorMessage(connection->conn));
    fan__free(connection->store->env, filled);
}
