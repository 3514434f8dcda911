/*
 * Answers, problems and streams: builds heads, decides what becomes of the connection, and ends the
 * request. A failure to answer (no memory) closes the connection: half an answer would be a lie.
 */
#include "server/http_inside.h"

#include "base/env.h"
#include "event/text.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define RETRY_AFTER_S_MAX 4

struct answer {
    unsigned status;
    const char *content_type;
    const struct fan__buffer *extra;
    const void *body;
    size_t size;
    bool is_head;
    bool in_chunks;
    bool until_close; /* a body without a length */
    bool close;
    bool say_keep_alive; /* HTTP/1.0 must be told */
};

static bool has_body(const struct answer *answer)
{
    return !answer->is_head && answer->status >= 200 && answer->status != 204 &&
           answer->status != 304;
}

static void write_head(struct fan__http_loop *loop, const struct answer *answer,
                       struct fan__buffer *head)
{
    fan__buffer_clear(head);
    fan__buffer_add_format(head, "HTTP/1.1 %u %s\r\nDate: %s\r\n", answer->status,
                           fan__http_status_text(answer->status), fan__http_loop_date(loop));
    if (answer->content_type)
        fan__buffer_add_format(head, "Content-Type: %s\r\n", answer->content_type);
    if (answer->in_chunks)
        fan__buffer_add_text(head, "Transfer-Encoding: chunked\r\n");
    else if (!answer->until_close && answer->status != 204 && answer->status != 304)
        fan__buffer_add_format(head, "Content-Length: %zu\r\n", answer->size);
    if (answer->close)
        fan__buffer_add_text(head, "Connection: close\r\n");
    else if (answer->say_keep_alive)
        fan__buffer_add_text(head, "Connection: keep-alive\r\n");
    if (answer->extra) {
        fan__buffer_add(head, answer->extra->data, answer->extra->size);
        head->failed = head->failed || answer->extra->failed;
    }
    fan__buffer_add_text(head, "\r\n");
}

static bool add_bytes(struct fan__http_connection *connection, const struct fan__buffer *head,
                      const void *body, size_t size)
{
    if (head->failed)
        return false;
    struct fan__http_chunk *chunk =
        fan__http_chunk_new(connection->loop->server->options.env, head->size + size);
    if (!chunk)
        return false;
    memcpy(fan__http_chunk_data(chunk), head->data, head->size);
    if (size > 0)
        memcpy(fan__http_chunk_data(chunk) + head->size, body, size);
    enum fan_status status = fan__http_output_add(connection, chunk, false);
    fan__http_chunk_unref(chunk);
    return status == FAN_OK;
}

static bool send_answer(struct fan__http_connection *connection, const struct answer *answer)
{
    struct fan__http_loop *loop = connection->loop;
    struct fan__buffer *head = &loop->scratch;
    write_head(loop, answer, head);
    bool with_body = has_body(answer) && !answer->in_chunks && !answer->until_close;
    if (!add_bytes(connection, head, answer->body, with_body ? answer->size : 0)) {
        connection->broken = true;
        fan__http_connection_mark(connection);
        return false;
    }
    loop->counters.responses[answer->status / 100 % 6]++;
    return true;
}

/* Where the connection goes when the request ends now. */
static enum fan__http_state after(const struct fan__http_request *request)
{
    const struct fan__http_connection *connection = request->connection;
    bool keep = request->keep_alive && !request->loop->stopping && !connection->peer_done;
    if (!keep)
        return FAN__HTTP_LINGER;
    if (connection->state != FAN__HTTP_BODY)
        return FAN__HTTP_HEAD;
    const struct fan__http_body *body = &connection->body;
    bool short_rest = !request->chunked && body->left <= FAN__HTTP_SKIP_SIZE;
    bool skip = fan__http_body_done(body) || (short_rest && !request->expects_continue);
    return skip ? FAN__HTTP_SKIP : FAN__HTTP_LINGER;
}

/* Takes the request off its connection, moves that on, and frees the request. */
static void finish(struct fan__http_request *request, enum fan__http_state state)
{
    struct fan__http_connection *connection = request->connection;
    connection->request = NULL;
    fan__http_connection_move(connection, state);
    fan__http_connection_mark(connection);
    fan__http_request_free(request);
}

void fan__http_add_header(struct fan__http_request *request, const char *name, const char *value)
{
    struct fan__buffer *extra = &request->extra;
    fan__buffer_add_format(extra, "%s: ", name);
    size_t from = extra->size;
    fan__buffer_add_text(extra, value);
    for (size_t i = from; i < extra->size; i++) {
        if ((unsigned char)extra->data[i] < 0x20 || extra->data[i] == 0x7f)
            extra->data[i] = ' ';
    }
    fan__buffer_add_text(extra, "\r\n");
}

static int retry_after_s(const struct fan_env *env)
{
    unsigned char jitter;
    fan__random(env, &jitter, sizeof(jitter));
    return 1 + jitter % RETRY_AFTER_S_MAX;
}

void fan__http_add_retry_after(struct fan__http_request *request)
{
    char text[8];
    snprintf(text, sizeof(text), "%d", retry_after_s(request->loop->server->options.env));
    fan__http_add_header(request, "Retry-After", text);
}

void fan__http_refuse_large(struct fan__http_request *request)
{
    fan__http_add_retry_after(request);
    fan__http_problem(request, 503, NULL, "too many large answers are being read");
}

/*
 * Large answers share a budget, of which a client that reads slowly holds its part. What was only
 * read can be asked for again; the answer to anything else must go out.
 */
static bool take_budget(struct fan__http_request *request, size_t size)
{
    struct fan__http_loop *loop = request->loop;
    if (size <= loop->server->options.unsent_size_max || request->is_head)
        return true;
    bool room = loop->answer_size < loop->answer_size_max &&
                size <= loop->answer_size_max - loop->answer_size;
    if (!room && strcmp(request->route->method, "GET") == 0)
        return false;
    loop->answer_size += size;
    request->connection->answer_size += size;
    return true;
}

void fan__http_answer(struct fan__http_request *request, unsigned status, const char *content_type,
                      const void *body, size_t size)
{
    assert(status >= 200 && status <= 599 && !request->streaming);
    if (!request->connection) {
        fan__http_request_free(request);
        return;
    }
    if (!take_budget(request, size)) {
        fan__http_refuse_large(request);
        return;
    }
    enum fan__http_state state = after(request);
    struct answer answer = {
        .status = status,
        .content_type = content_type,
        .extra = &request->extra,
        .body = body,
        .size = size,
        .is_head = request->is_head,
        .close = state == FAN__HTTP_LINGER,
        .say_keep_alive = request->minor == 0,
    };
    send_answer(request->connection, &answer);
    finish(request, state);
}

void fan__http_answer_allow(struct fan__http_request *request, unsigned status, const char *allow)
{
    fan__http_add_header(request, "Allow", allow);
    if (status == 204)
        fan__http_answer(request, 204, NULL, NULL, 0);
    else
        fan__http_problem(request, status, NULL, "this path takes %s", allow);
}

void fan__http_drop(struct fan__http_request *request)
{
    struct fan__http_connection *connection = request->connection;
    if (!connection) {
        fan__http_request_free(request);
        return;
    }
    if (request->streaming)
        request->loop->counters.streams--;
    /* Earlier answers still go out. A stream lacks its last chunk, which tells the client. */
    finish(request, FAN__HTTP_LINGER);
}

/*
 * A JSON string; bytes that are no UTF-8 become U+FFFD, since a name from a client may be echoed.
 */
static void add_json_text(struct fan__buffer *json, const char *text)
{
    bool valid = fan__utf8_valid(text, strlen(text));
    fan__buffer_add(json, "\"", 1);
    for (const unsigned char *at = (const unsigned char *)text; *at; at++) {
        if (*at == '"' || *at == '\\')
            fan__buffer_add_format(json, "\\%c", *at);
        else if (*at < 0x20 || *at == 0x7f)
            fan__buffer_add_format(json, "\\u%04x", *at);
        else if (*at >= 0x80 && !valid)
            fan__buffer_add_text(json, "\\ufffd");
        else
            fan__buffer_add(json, at, 1);
    }
    fan__buffer_add(json, "\"", 1);
}

static void write_problem(struct fan__buffer *json, unsigned status, const char *field,
                          const char *reason)
{
    fan__buffer_add_text(json, "{\"type\":\"about:blank\",\"title\":");
    add_json_text(json, fan__http_status_text(status));
    char detail[768];
    snprintf(detail, sizeof(detail), "%s%s%s", field ? field : "", field ? ": " : "", reason);
    fan__buffer_add_format(json, ",\"status\":%u,\"detail\":", status);
    add_json_text(json, detail);
    if (field) {
        fan__buffer_add_text(json, ",\"field\":");
        add_json_text(json, field);
        fan__buffer_add_text(json, ",\"reason\":");
        add_json_text(json, reason);
    }
    fan__buffer_add_text(json, "}\n");
}

#define PROBLEM_TYPE "application/problem+json"

void fan__http_problem(struct fan__http_request *request, unsigned status, const char *field,
                       const char *reason, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, reason);
    vsnprintf(text, sizeof(text), reason, arguments);
    va_end(arguments);
    struct fan__buffer json;
    fan__buffer_init(&json, request->loop->server->options.env);
    write_problem(&json, status, field, text);
    if (json.failed)
        fan__http_drop(request);
    else
        fan__http_answer(request, status, PROBLEM_TYPE, json.data, json.size);
    fan__buffer_deinit(&json);
}

void fan__http_refuse(struct fan__http_connection *connection,
                      const struct fan__http_refusal *refusal)
{
    if (connection->request)
        fan__http_request_lose(connection->request);
    const struct fan_env *env = connection->loop->server->options.env;
    struct fan__buffer json;
    struct fan__buffer extra;
    fan__buffer_init(&json, env);
    fan__buffer_init(&extra, env);
    write_problem(&json, refusal->status, refusal->field, refusal->reason);
    if (refusal->status == 503) {
        fan__buffer_add_format(&extra, "Retry-After: %d\r\n", retry_after_s(env));
    }
    struct answer answer = {
        .status = refusal->status,
        .content_type = PROBLEM_TYPE,
        .extra = &extra,
        .body = json.data,
        .size = json.size,
        .close = true,
    };
    if (json.failed)
        connection->broken = true;
    else
        send_answer(connection, &answer);
    fan__http_connection_move(connection, FAN__HTTP_LINGER);
    fan__http_connection_mark(connection);
    fan__buffer_deinit(&json);
    fan__buffer_deinit(&extra);
}

void fan__http_send_continue(struct fan__http_connection *connection)
{
    struct fan__buffer *head = &connection->loop->scratch;
    fan__buffer_clear(head);
    fan__buffer_add_text(head, "HTTP/1.1 100 Continue\r\n\r\n");
    if (!add_bytes(connection, head, NULL, 0)) {
        connection->broken = true;
        fan__http_connection_mark(connection);
    }
}

enum fan_status fan__http_stream_start(struct fan__http_request *request, unsigned status,
                                       const char *content_type)
{
    struct fan__http_connection *connection = request->connection;
    /* Whoever hears no end of a stream would never leave: a half-closed client counts as gone. */
    if (!connection || connection->broken || connection->hung_up) {
        fan__http_drop(request);
        return FAN_CLOSED;
    }
    assert(connection->state == FAN__HTTP_ANSWER);
    request->frame = request->minor > 0;
    /* Without frames its end is the end of the connection. */
    request->keep_alive = request->keep_alive && request->frame;
    struct answer answer = {
        .status = status,
        .content_type = content_type,
        .extra = &request->extra,
        .is_head = request->is_head,
        .in_chunks = request->frame,
        .until_close = !request->frame,
        .close = after(request) == FAN__HTTP_LINGER,
    };
    if (!send_answer(connection, &answer)) {
        finish(request, FAN__HTTP_LINGER);
        return FAN_NO_MEMORY;
    }
    if (request->is_head) {
        finish(request, after(request));
        return FAN_CLOSED;
    }
    request->streaming = true;
    connection->streamed = true;
    request->loop->counters.streams++;
    fan__http_connection_move(connection, FAN__HTTP_STREAM);
    return FAN_OK;
}

enum fan_status fan__http_stream_send(struct fan__http_request *request,
                                      struct fan__http_chunk *chunk)
{
    struct fan__http_connection *connection = request->connection;
    if (!connection || connection->broken)
        return FAN_CLOSED;
    assert(request->streaming);
    size_t unsent_max = request->loop->server->options.unsent_size_max;
    if (!fan__http_output_has_room(connection, chunk, unsent_max)) {
        connection->want_drained = true;
        return FAN_FULL;
    }
    return fan__http_output_add(connection, chunk, request->frame);
}

size_t fan__http_stream_unsent(const struct fan__http_request *request)
{
    return request->connection ? request->connection->output.size : 0;
}

void fan__http_stream_end(struct fan__http_request *request)
{
    struct fan__http_connection *connection = request->connection;
    if (!connection) {
        fan__http_request_free(request);
        return;
    }
    assert(request->streaming);
    request->loop->counters.streams--;
    if (request->frame &&
        fan__http_output_add(connection, request->loop->last_chunk, false) != FAN_OK)
        connection->broken = true;
    finish(request, after(request));
}
