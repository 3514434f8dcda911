/*
 * libpq without blocking: a server that stopped answering produces no error of its own (its kernel
 * still acknowledges), so each wait ends by our deadline, and the connection with it.
 */
#include "hook/pg.h"

#include "base/env.h"
#include "base/status.h"
#include "base/thread.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

bool fan__pg_is_good(const struct fan__pg *pg)
{
    return pg->conn && !pg->late && PQstatus(pg->conn) == CONNECTION_OK;
}

void fan__pg_close(struct fan__pg *pg)
{
    PQfinish(pg->conn);
    *pg = (struct fan__pg){ NULL, false };
}

static int64_t left_ms(int64_t deadline_ns)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int64_t left_ns = deadline_ns - ((int64_t)now.tv_sec * 1000000000 + now.tv_nsec);
    return left_ns > 0 ? (left_ns + FAN__NS_PER_MS - 1) / FAN__NS_PER_MS : 0;
}

bool fan__pg_wait(const PGconn *conn, bool to_write, int64_t deadline_ns)
{
    struct pollfd place = { .fd = PQsocket(conn),
                            .events = (short)(to_write ? POLLIN | POLLOUT : POLLIN) };
    int64_t timeout_ms = left_ms(deadline_ns);
    return timeout_ms > 0 && poll(&place, 1, (int)timeout_ms) != 0;
}

/* --- words -------------------------------------------------------------------------------- */

static enum fan_status status_of_code(const char *code)
{
    static const struct {
        const char *prefix;
        enum fan_status status;
    } codes[] = {
        { "08", FAN_UNAVAILABLE },    { "57", FAN_UNAVAILABLE },    { "533", FAN_UNAVAILABLE },
        { "40", FAN_UNAVAILABLE },    { "53100", FAN_NO_SPACE },    { "53", FAN_UNAVAILABLE },
        { "42501", FAN_DENIED },      { "28", FAN_DENIED },         { "3D", FAN_NOT_FOUND },
        { "3F", FAN_NOT_FOUND },      { "42P01", FAN_NOT_FOUND },   { "42883", FAN_NOT_FOUND },
        { "42704", FAN_NOT_FOUND },   { "42P07", FAN_EXISTS },      { "42723", FAN_EXISTS },
        { "42P06", FAN_EXISTS },      { "42703", FAN_NOT_FOUND },   { "25006", FAN_READ_ONLY },
        { "25", FAN_MISUSE },         { "55006", FAN_EXISTS },      { "42710", FAN_EXISTS },
        { "55P03", FAN_UNAVAILABLE }, { "55000", FAN_UNSUPPORTED }, { "22", FAN_INVALID },
        { "23", FAN_INVALID },        { "42", FAN_INVALID },
    };
    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++)
        if (strncmp(code, codes[i].prefix, strlen(codes[i].prefix)) == 0)
            return codes[i].status;
    return FAN_IO;
}

enum fan_status fan__pg_status(const PGconn *conn, const PGresult *result)
{
    const char *code = result ? PQresultErrorField(result, PG_DIAG_SQLSTATE) : NULL;
    if (code)
        return status_of_code(code);
    return conn && PQstatus(conn) == CONNECTION_OK ? FAN_IO : FAN_UNAVAILABLE;
}

enum fan_status fan__pg_fail(const PGconn *conn, const PGresult *result, const char *what,
                             struct fan_error *error)
{
    const char *words = result ? PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY) : NULL;
    if (!words)
        words = conn ? PQerrorMessage(conn) : "out of memory";
    if (strncmp(words, "FATAL:  ", strlen("FATAL:  ")) == 0)
        words += strlen("FATAL:  ");
    int size = (int)strcspn(words, "\n");
    if (size == 0)
        return fan__fail(error, fan__pg_status(conn, result), "", "%s: the connection was lost",
                         what);
    return fan__fail(error, fan__pg_status(conn, result), "", "%s: %.*s", what, size, words);
}

/* --- connecting --------------------------------------------------------------------------- */

/* Warnings of the server are nothing for a library to print. */
static void be_silent(void *context, const PGresult *result)
{
    (void)context;
    (void)result;
}

static enum fan_status check_uri(const char *uri, struct fan_error *error)
{
    char *words = NULL;
    PQconninfoOption *options = PQconninfoParse(uri, &words);
    bool good = options != NULL;
    for (PQconninfoOption *option = options; good && option->keyword; option++)
        if (strcmp(option->keyword, "host") == 0 && option->val && strchr(option->val, '@'))
            good = false; /* a password that was not encoded; its rest would be told as a host */
    PQconninfoFree(options);
    PQfreemem(words);
    if (good)
        return FAN_OK;
    return fan__fail(
        error, FAN_INVALID, "database",
        "is no URI of PostgreSQL; expected postgres://USER:PASSWORD@HOST:PORT/DATABASE "
        "with what is special in a name or password as %%XX");
}

static bool finish_connecting(PGconn *conn, int64_t deadline_ns)
{
    PostgresPollingStatusType state = PGRES_POLLING_WRITING;
    while (state != PGRES_POLLING_OK) {
        if (state == PGRES_POLLING_FAILED ||
            !fan__pg_wait(conn, state == PGRES_POLLING_WRITING, deadline_ns))
            return false;
        state = PQconnectPoll(conn);
    }
    return PQsetnonblocking(conn, 1) == 0;
}

enum fan_status fan__pg_open(struct fan__pg *pg, const char *uri, bool replication,
                             struct fan_error *error)
{
    enum fan_status status = check_uri(uri, error);
    if (status != FAN_OK)
        return status;
    const char *const keys[] = { "dbname", "client_encoding", "fallback_application_name",
                                 replication ? "replication" : NULL, NULL };
    const char *const values[] = { uri, "UTF8", "fanfare", "database", NULL };
    int64_t deadline_ns = fan__deadline_ns(FAN__PG_TIMEOUT_MS);
    fan__pg_close(pg);
    pg->conn = PQconnectStartParams(keys, values, 1);
    if (!pg->conn)
        return fan__fail(error, FAN_NO_MEMORY, "", "out of memory");
    PQsetNoticeReceiver(pg->conn, be_silent, NULL);
    if (PQstatus(pg->conn) != CONNECTION_BAD && finish_connecting(pg->conn, deadline_ns))
        return FAN_OK;
    if (PQstatus(pg->conn) == CONNECTION_BAD)
        status = fan__pg_fail(pg->conn, NULL, "the database", error);
    else
        status = fan__fail(error, FAN_UNAVAILABLE, "", "the database at %.100s:%s did not answer",
                           PQhost(pg->conn), PQport(pg->conn));
    fan__pg_close(pg);
    return status;
}

/* --- statements --------------------------------------------------------------------------- */

static bool send_all(PGconn *conn, int64_t deadline_ns)
{
    int left;
    while ((left = PQflush(conn)) > 0)
        if (!fan__pg_wait(conn, true, deadline_ns) || PQconsumeInput(conn) == 0)
            return false;
    return left == 0;
}

/* The next result, NULL behind the last one or when *ret_late. */
static PGresult *next_result(PGconn *conn, int64_t deadline_ns, bool *ret_late)
{
    while (PQisBusy(conn) && !*ret_late)
        *ret_late = !fan__pg_wait(conn, false, deadline_ns) || PQconsumeInput(conn) == 0;
    return *ret_late ? NULL : PQgetResult(conn);
}

static bool is_failure(const PGresult *result)
{
    ExecStatusType state = PQresultStatus(result);
    return state != PGRES_TUPLES_OK && state != PGRES_COMMAND_OK && state != PGRES_COPY_BOTH;
}

/* The last result, or the first one that failed. */
static PGresult *take_results(PGconn *conn, int64_t deadline_ns, bool *ret_late)
{
    PGresult *last = NULL;
    PGresult *result;
    while ((result = next_result(conn, deadline_ns, ret_late))) {
        if (last && is_failure(last)) {
            PQclear(result);
            continue;
        }
        PQclear(last);
        last = result;
        /* What streams has no end: it is for the caller. */
        if (PQresultStatus(last) == PGRES_COPY_BOTH)
            break;
    }
    return last;
}

/* An answer that comes too late would be taken for that of the next statement. */
static enum fan_status give_up(struct fan__pg *pg, const char *what, struct fan_error *error)
{
    if (PQstatus(pg->conn) != CONNECTION_OK)
        return fan__pg_fail(pg->conn, NULL, what, error);
    pg->late = true;
    return fan__fail(error, FAN_UNAVAILABLE, "", "%s: no answer within %d s", what,
                     FAN__PG_TIMEOUT_MS / 1000);
}

enum fan_status fan__pg_run(struct fan__pg *pg, const struct fan__pg_call *call, const char *what,
                            PGresult **ret_result, struct fan_error *error)
{
    int64_t deadline_ns = fan__deadline_ns(FAN__PG_TIMEOUT_MS);
    bool late = false;
    int sent = call->count > 0 ? PQsendQueryParams(pg->conn, call->sql, call->count, NULL,
                                                   call->values, NULL, NULL, 0)
                               : PQsendQuery(pg->conn, call->sql);
    PGresult *result = NULL;
    if (sent != 0 && send_all(pg->conn, deadline_ns))
        result = take_results(pg->conn, deadline_ns, &late);
    if (late || !result) {
        PQclear(result);
        return give_up(pg, what, error);
    }
    if (is_failure(result)) {
        enum fan_status status = fan__pg_fail(pg->conn, result, what, error);
        PQclear(result);
        return status;
    }
    if (ret_result)
        *ret_result = result;
    else
        PQclear(result);
    return FAN_OK;
}

/* --- texts -------------------------------------------------------------------------------- */

static void add_doubled(struct fan__buffer *buffer, const char *text, char quote)
{
    fan__buffer_add(buffer, &quote, 1);
    for (const char *at = text; *at; at++) {
        if (*at == quote)
            fan__buffer_add(buffer, at, 1);
        fan__buffer_add(buffer, at, 1);
    }
    fan__buffer_add(buffer, &quote, 1);
}

void fan__pg_add_name(struct fan__buffer *buffer, const char *name)
{
    add_doubled(buffer, name, '"');
}

void fan__pg_add_literal(struct fan__buffer *buffer, const char *text)
{
    /* With the E a backslash means the same whatever standard_conforming_strings says. */
    fan__buffer_add_text(buffer, "E'");
    for (const char *at = text; *at; at++) {
        if (*at == '\'' || *at == '\\')
            fan__buffer_add(buffer, at, 1);
        fan__buffer_add(buffer, at, 1);
    }
    fan__buffer_add_text(buffer, "'");
}

void fan__pg_add_element(struct fan__buffer *buffer, const char *text)
{
    fan__buffer_add_text(buffer, "\"");
    for (const char *at = text; *at; at++) {
        if (*at == '"' || *at == '\\')
            fan__buffer_add_text(buffer, "\\");
        fan__buffer_add(buffer, at, 1);
    }
    fan__buffer_add_text(buffer, "\"");
}

int64_t fan__pg_number(const PGresult *result, int row, int column)
{
    return strtoll(PQgetvalue(result, row, column), NULL, 10);
}
