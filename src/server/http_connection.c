/*
 * A connection: what its input means in each state, which events and which deadline it waits for.
 *
 * Input is read into the loop's one buffer and taken from there; only what cannot be taken yet
 * (part of a head, a request that came early, a body that is paused) is copied into the connection.
 */
#include "server/http_inside.h"

#include "base/env.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* No further request is begun while more than this waits to be sent. */
#define PIPELINE_UNSENT_SIZE_MAX ((size_t)64 * 1024)
/* What a client may send after it was refused, before it is cut off. */
#define LINGER_SIZE_MAX ((uint64_t)16 * 1024 * 1024)
#define REFUSED_EXTRA_COUNT 64

#define STATE(name) (1U << FAN__HTTP_##name)

static const unsigned moves[FAN__HTTP_STATES] = {
    [FAN__HTTP_HEAD] = STATE(BODY) | STATE(ANSWER) | STATE(LINGER) | STATE(CLOSED),
    [FAN__HTTP_BODY] = STATE(ANSWER) | STATE(SKIP) | STATE(LINGER) | STATE(CLOSED),
    [FAN__HTTP_SKIP] = STATE(HEAD) | STATE(LINGER) | STATE(CLOSED),
    [FAN__HTTP_ANSWER] = STATE(HEAD) | STATE(STREAM) | STATE(LINGER) | STATE(CLOSED),
    [FAN__HTTP_STREAM] = STATE(HEAD) | STATE(LINGER) | STATE(CLOSED),
    [FAN__HTTP_LINGER] = STATE(CLOSED),
};

void fan__http_connection_move(struct fan__http_connection *connection, enum fan__http_state state)
{
    assert(moves[connection->state] & 1U << state);
    (void)moves; /* without assertions nothing else names it */
    connection->state = (uint8_t)state;
    connection->hold = false;
    connection->want_drained = false;
}

void fan__http_connection_mark(struct fan__http_connection *connection)
{
    struct fan__http_loop *loop = connection->loop;
    if (connection->dirty || connection->state == FAN__HTTP_CLOSED)
        return;
    connection->dirty = true;
    connection->dirty_next = NULL;
    *loop->dirty_end = connection;
    loop->dirty_end = &connection->dirty_next;
}

static void free_connection(struct fan__http_connection *connection)
{
    struct fan__http_loop *loop = connection->loop;
    fan__free(loop->server->options.env, connection);
    loop->closing_count--;
}

static void on_closed(uv_handle_t *handle)
{
    struct fan__http_connection *connection = handle->data;
    connection->fd = -1;
    if (!connection->dirty)
        free_connection(connection);
}

static void close_connection(struct fan__http_connection *connection)
{
    if (connection->state == FAN__HTTP_CLOSED)
        return;
    struct fan__http_loop *loop = connection->loop;
    fan__http_timer_set(connection, FAN__HTTP_TIMER_NONE);
    fan__http_connection_move(connection, FAN__HTTP_CLOSED);
    if (connection->request)
        fan__http_request_lose(connection->request);
    fan__http_output_deinit(connection);
    fan__buffer_deinit(&connection->input);
    if (connection->previous)
        connection->previous->next = connection->next;
    else
        loop->connections = connection->next;
    if (connection->next)
        connection->next->previous = connection->previous;
    loop->counters.connections--;
    fan__mutex_lock(&loop->server->mutex);
    loop->server->connection_count--;
    fan__mutex_unlock(&loop->server->mutex);
    loop->closing_count++;
    uv_close((uv_handle_t *)&connection->poll, on_closed);
    close(connection->fd);
}

/* ---- Taking input ---- */

static void end_body(struct fan__http_connection *connection)
{
    struct fan__http_request *request = connection->request;
    /* Without a body it is there already. */
    if (connection->state == FAN__HTTP_BODY)
        fan__http_connection_move(connection, FAN__HTTP_ANSWER);
    if (!request->route->body_in_pieces) {
        request->handed = true;
        request->route->handle(request);
    } else if (request->calls && request->calls->piece) {
        request->calls->piece(request, request->calls_context, (struct fan_str){ "", 0 }, true);
    }
}

/* Whether the body can be taken, as far as the head tells; else the request has been answered. */
static bool check_body(struct fan__http_request *request)
{
    struct fan__http_loop *loop = request->loop;
    const struct fan__http_route *route = request->route;
    if (request->expects_other) {
        fan__http_problem(request, 417, "Expect", "is not 100-continue");
        return false;
    }
    if (request->has_body && route->body_size_max == 0) {
        fan__http_problem(request, 413, "body", "this path takes none");
        return false;
    }
    if (request->content_length > route->body_size_max) {
        fan__http_problem(request, 413, "body", "is longer than %llu bytes",
                          (unsigned long long)route->body_size_max);
        return false;
    }
    /* What answers a body cannot be refused any more when it was taken. */
    if (request->has_body && loop->answer_size >= loop->answer_size_max) {
        fan__http_refuse_large(request);
        return false;
    }
    if (!route->body_in_pieces && request->content_length > loop->body_size_max - loop->body_size) {
        fan__http_add_retry_after(request);
        fan__http_problem(request, 503, "body", "too many bodies are being received");
        return false;
    }
    return true;
}

static void begin_request(struct fan__http_connection *connection,
                          struct fan__http_request *request)
{
    struct fan__http_loop *loop = connection->loop;
    loop->request_count++;
    loop->counters.requests++;
    connection->request = request;
    connection->streamed = false;
    request->connection = connection;
    fan__http_body_init(&connection->body, request->chunked, request->content_length);
    fan__http_connection_move(connection, request->has_body ? FAN__HTTP_BODY : FAN__HTTP_ANSWER);
    if (!fan__http_route_request(request) || !check_body(request))
        return;
    if (request->route->check) {
        request->route->check(request);
        if (connection->request != request)
            return;
    }
    if (request->route->body_in_pieces) {
        request->handed = true;
        request->route->handle(request);
        if (connection->request != request)
            return;
    }
    if (!request->has_body) {
        end_body(connection);
    } else if (request->expects_continue) {
        request->expects_continue = false;
        fan__http_send_continue(connection);
    }
}

/* Gives the bytes taken; 0 when a head is not complete yet. */
static size_t take_head(struct fan__http_connection *connection, const char *data, size_t size)
{
    struct fan__http_loop *loop = connection->loop;
    size_t size_max = loop->server->options.head_size_max;
    struct fan__http_refusal refusal = { 0 };
    size_t head_size = fan__http_head_find(data, size < size_max ? size : size_max,
                                           &connection->scanned, &refusal);
    if (head_size == 0 && refusal.status == 0 && size >= size_max) {
        bool in_line = connection->scanned <= 2;
        refusal = in_line ? (struct fan__http_refusal){ 414, NULL, "the request line is too long" }
                          : (struct fan__http_refusal){ 431, NULL, "the head is too large" };
    }
    if (head_size == 0 && refusal.status == 0)
        return 0;

    struct fan__http_request *request = NULL;
    if (refusal.status == 0 &&
        fan__http_head_parse(loop, data, head_size, &request, &refusal) == FAN_NO_MEMORY)
        refusal = (struct fan__http_refusal){ 503, NULL, "out of memory" };
    connection->scanned = 0;
    fan__http_timer_set(connection, FAN__HTTP_TIMER_NONE);
    if (refusal.status != 0) {
        loop->counters.requests++;
        fan__http_refuse(connection, &refusal);
        return size;
    }
    begin_request(connection, request);
    return head_size;
}

/* Gives a piece of the body to whom it belongs. */
static void deliver(struct fan__http_connection *connection, struct fan_str piece)
{
    struct fan__http_request *request = connection->request;
    struct fan__http_loop *loop = connection->loop;
    struct fan__http_refusal refusal = { 0 };
    request->received += piece.size;
    if (request->received > request->route->body_size_max) {
        refusal = (struct fan__http_refusal){ 413, "body", "is longer than this path takes" };
    } else if (request->route->body_in_pieces) {
        if (request->calls && request->calls->piece)
            request->calls->piece(request, request->calls_context, piece, false);
    } else if (piece.size > loop->body_size_max - loop->body_size) {
        refusal = (struct fan__http_refusal){ 503, "body", "too many bodies are being received" };
    } else {
        fan__buffer_add(&request->body, piece.data, piece.size);
        if (request->body.failed)
            refusal = (struct fan__http_refusal){ 503, NULL, "out of memory" };
        else
            loop->body_size += piece.size;
    }
    if (refusal.status != 0)
        fan__http_refuse(connection, &refusal);
}

/* Moves on when the body is there, or thrown away; a route that paused is first let resume. */
static void settle_body(struct fan__http_connection *connection)
{
    if (!fan__http_body_done(&connection->body))
        return;
    if (connection->state == FAN__HTTP_BODY && !connection->request->paused)
        end_body(connection);
    else if (connection->state == FAN__HTTP_SKIP)
        fan__http_connection_move(connection, FAN__HTTP_HEAD);
}

static size_t take_body(struct fan__http_connection *connection, const char *data, size_t size)
{
    struct fan_str piece;
    struct fan__http_refusal refusal = { 0 };
    size_t taken = fan__http_body_feed(&connection->body, data, size, &piece, &refusal);
    if (refusal.status != 0) {
        fan__http_refuse(connection, &refusal);
        return size;
    }
    if (piece.size > 0 && connection->state == FAN__HTTP_BODY)
        deliver(connection, piece);
    settle_body(connection);
    return taken;
}

/* Takes what can be taken now and gives the bytes taken. */
static size_t take(struct fan__http_connection *connection, const char *data, size_t size)
{
    size_t at = 0;
    while (at < size && !connection->broken) {
        size_t taken;
        switch ((enum fan__http_state)connection->state) {
        case FAN__HTTP_HEAD:
            if (connection->output.size > PIPELINE_UNSENT_SIZE_MAX) {
                connection->hold = true;
                return at;
            }
            taken = take_head(connection, data + at, size - at);
            if (taken == 0)
                return at;
            at += taken;
            break;
        case FAN__HTTP_BODY:
            if (connection->request->paused)
                return at;
            at += take_body(connection, data + at, size - at);
            break;
        case FAN__HTTP_SKIP:
            at += take_body(connection, data + at, size - at);
            break;
        case FAN__HTTP_ANSWER:
        case FAN__HTTP_STREAM:
            connection->hold = true;
            return at;
        case FAN__HTTP_LINGER:
            connection->skipped += size - at;
            return size;
        case FAN__HTTP_CLOSED:
        case FAN__HTTP_STATES:
            return size;
        }
    }
    return at;
}

/* Takes from what was kept. */
static void take_kept(struct fan__http_connection *connection)
{
    struct fan__buffer *input = &connection->input;
    size_t kept = input->size - connection->input_at;
    connection->input_at += take(connection, input->data + connection->input_at, kept);
    if (connection->input_at == input->size) {
        fan__buffer_deinit(input);
        connection->input_at = 0;
    }
}

static void take_received(struct fan__http_connection *connection, const char *data, size_t size)
{
    struct fan__buffer *input = &connection->input;
    bool kept = input->size > 0;
    size_t taken = 0;
    if (!kept)
        taken = take(connection, data, size);
    if (connection->input_at > 0) {
        input->size -= connection->input_at;
        memmove(input->data, input->data + connection->input_at, input->size);
        connection->input_at = 0;
    }
    fan__buffer_add(input, data + taken, size - taken);
    if (input->failed)
        connection->broken = true;
    else if (kept)
        take_kept(connection);
}

static bool has_kept(const struct fan__http_connection *connection)
{
    return connection->input.size > 0;
}

/* ---- Events and deadlines ---- */

static bool wants_read(const struct fan__http_connection *connection)
{
    if (connection->peer_done || connection->hold)
        return false;
    return connection->state != FAN__HTTP_BODY || !connection->request->paused;
}

static enum fan__http_timer wanted_timer(const struct fan__http_connection *connection)
{
    bool unsent = connection->output.size > 0;
    switch ((enum fan__http_state)connection->state) {
    case FAN__HTTP_HEAD:
        if (has_kept(connection) && !connection->hold)
            return FAN__HTTP_TIMER_HEAD;
        return unsent ? FAN__HTTP_TIMER_WRITE : FAN__HTTP_TIMER_IDLE;
    case FAN__HTTP_BODY:
        return connection->request->paused ? FAN__HTTP_TIMER_NONE : FAN__HTTP_TIMER_BODY;
    case FAN__HTTP_SKIP:
        return FAN__HTTP_TIMER_BODY;
    case FAN__HTTP_ANSWER:
        return unsent ? FAN__HTTP_TIMER_WRITE : FAN__HTTP_TIMER_NONE;
    case FAN__HTTP_LINGER:
        return unsent ? FAN__HTTP_TIMER_WRITE : FAN__HTTP_TIMER_LINGER;
    case FAN__HTTP_STREAM:
    case FAN__HTTP_CLOSED:
    case FAN__HTTP_STATES:
        break;
    }
    return FAN__HTTP_TIMER_NONE;
}

static void on_event(uv_poll_t *poll, int status, int events);

/* Whether enough has moved since the deadline was set to set it anew. */
static bool moves_on(const struct fan__http_connection *connection, enum fan__http_timer timer)
{
    if (timer == FAN__HTTP_TIMER_WRITE)
        return connection->moved > 0;
    return timer == FAN__HTTP_TIMER_BODY &&
           connection->moved >= connection->loop->server->options.body_progress_size;
}

static void update(struct fan__http_connection *connection)
{
    enum fan__http_timer timer = wanted_timer(connection);
    if (timer != connection->timer || moves_on(connection, timer))
        fan__http_timer_set(connection, timer);

    bool reads = wants_read(connection);
    int events = reads ? UV_READABLE : 0;
    /* A client that goes while nothing is read is told by the kernel, once. */
    if (!reads && !connection->peer_done && !connection->hung_up)
        events |= UV_DISCONNECT;
    if (connection->want_write)
        events |= UV_WRITABLE;
    if (events == connection->events)
        return;
    connection->events = events;
    if (uv_poll_start(&connection->poll, events, on_event) != 0)
        close_connection(connection);
}

static void on_end_of_input(struct fan__http_connection *connection)
{
    connection->peer_done = true;
    if (connection->state == FAN__HTTP_BODY ||
        (connection->state == FAN__HTTP_HEAD && connection->output.size == 0))
        close_connection(connection);
    else if (connection->state != FAN__HTTP_LINGER)
        fan__http_connection_move(connection, FAN__HTTP_LINGER);
}

/* How much to read: never more of a head than it may have. */
static size_t read_size(const struct fan__http_connection *connection)
{
    if (connection->state != FAN__HTTP_HEAD)
        return FAN__HTTP_READ_SIZE;
    size_t size_max = connection->loop->server->options.head_size_max;
    size_t kept = connection->input.size - connection->input_at;
    return kept < size_max ? size_max - kept : 1;
}

static void on_readable(struct fan__http_connection *connection)
{
    struct fan__http_loop *loop = connection->loop;
    /*
     * Whoever answers or streams leaves the input where it is; that costs nothing until it comes.
     */
    if (connection->state == FAN__HTTP_ANSWER || connection->state == FAN__HTTP_STREAM) {
        connection->hold = true;
        return;
    }
    if (!wants_read(connection))
        return;
    ssize_t got = recv(connection->fd, loop->buffer, read_size(connection), MSG_DONTWAIT);
    if (got < 0) {
        if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
            close_connection(connection);
        return;
    }
    if (got == 0) {
        on_end_of_input(connection);
        return;
    }
    connection->moved += (uint64_t)got;
    loop->counters.bytes_received += (uint64_t)got;
    take_received(connection, loop->buffer, (size_t)got);
}

/* Whether a request's answer waits for something to happen. */
static bool waits(const struct fan__http_connection *connection)
{
    const struct fan__http_request *request = connection->request;
    return connection->state == FAN__HTTP_ANSWER && request && request->calls &&
           request->calls->closing;
}

static void on_event(uv_poll_t *poll, int status, int events)
{
    struct fan__http_connection *connection = poll->data;
    if (status < 0) {
        close_connection(connection);
        return;
    }
    if (events & UV_READABLE)
        on_readable(connection);
    if (events & UV_DISCONNECT && connection->state != FAN__HTTP_CLOSED) {
        connection->hung_up = true;
        if (connection->state == FAN__HTTP_STREAM || waits(connection))
            close_connection(connection);
    }
    fan__http_connection_mark(connection);
}

/* ---- The end of a turn ---- */

static void call_drained(struct fan__http_connection *connection)
{
    struct fan__http_request *request = connection->request;
    size_t unsent_max = connection->loop->server->options.unsent_size_max;
    if (!connection->want_drained || connection->output.size > unsent_max / 4)
        return;
    connection->want_drained = false;
    if (request->calls && request->calls->drained)
        request->calls->drained(request, request->calls_context);
}

/* True when the connection has said its last word and need not wait for the client. */
static bool linger(struct fan__http_connection *connection)
{
    if (connection->output.size > 0)
        return false;
    if (!connection->shut)
        shutdown(connection->fd, SHUT_WR);
    connection->shut = true;
    return connection->peer_done || connection->loop->stopping ||
           connection->skipped > LINGER_SIZE_MAX;
}

void fan__http_connection_turn(struct fan__http_connection *connection)
{
    connection->dirty = false;
    if (connection->state == FAN__HTTP_CLOSED) {
        if (connection->fd < 0)
            free_connection(connection);
        return;
    }
    if (connection->broken || !fan__http_output_flush(connection)) {
        close_connection(connection);
        return;
    }
    call_drained(connection);
    settle_body(connection);
    if (connection->state == FAN__HTTP_HEAD && connection->output.size <= PIPELINE_UNSENT_SIZE_MAX)
        connection->hold = false;
    if (has_kept(connection) && !connection->hold)
        take_kept(connection);
    if (connection->broken || (connection->state == FAN__HTTP_LINGER && linger(connection))) {
        close_connection(connection);
        return;
    }
    update(connection);
}

void fan__http_connection_resume(struct fan__http_connection *connection)
{
    fan__http_connection_mark(connection);
}

void fan__http_connection_expire(struct fan__http_connection *connection)
{
    static const struct fan__http_refusal slow_head = { 408, NULL,
                                                        "the head did not come in time" };
    static const struct fan__http_refusal slow_body = { 408, "body", "it came too slowly" };
    connection->loop->counters.timeouts++;
    switch ((enum fan__http_timer)connection->timer) {
    case FAN__HTTP_TIMER_HEAD:
        fan__http_refuse(connection, &slow_head);
        break;
    case FAN__HTTP_TIMER_BODY:
        /* What is being skipped has been answered. */
        if (connection->state == FAN__HTTP_SKIP)
            close_connection(connection);
        else
            fan__http_refuse(connection, &slow_body);
        break;
    case FAN__HTTP_TIMER_IDLE:
    case FAN__HTTP_TIMER_WRITE:
    case FAN__HTTP_TIMER_LINGER:
    case FAN__HTTP_TIMERS:
        close_connection(connection);
        break;
    }
    fan__http_timer_set(connection, FAN__HTTP_TIMER_NONE);
}

/* ---- Begin and end ---- */

static void set_socket_options(const struct fan__http_options *options, int fd)
{
    int on = 1;
    int lost_ms = (int)options->lost_timeout_ms;
    int idle_s = lost_ms >= 4000 ? lost_ms / 2000 : 1;
    int interval_s = lost_ms >= 8000 ? lost_ms / 8000 : 1;
    int probes = 3;
    int unsent = 128 * 1024;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &lost_ms, sizeof(lost_ms));
    /* What a slow client does not take stays here, where it is counted, not in the kernel. */
    setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof(unsent));
}

/* Counts it against the limit. False when there is not even room to say so. */
static bool admit(struct fan__http_server *server, bool *ret_refused)
{
    fan__mutex_lock(&server->mutex);
    size_t count = server->connection_count;
    size_t count_max = server->options.connection_count_max;
    bool admitted = count < count_max + REFUSED_EXTRA_COUNT;
    if (admitted)
        server->connection_count++;
    fan__mutex_unlock(&server->mutex);
    *ret_refused = count >= count_max;
    return admitted;
}

static struct fan__http_connection *make_connection(struct fan__http_loop *loop, int fd)
{
    const struct fan_env *env = loop->server->options.env;
    struct fan__http_connection *connection = fan__alloc_zero(env, 1, sizeof(*connection));
    if (!connection)
        return NULL;
    if (uv_poll_init_socket(&loop->uv, &connection->poll, fd) != 0) {
        fan__free(env, connection);
        return NULL;
    }
    connection->poll.data = connection;
    connection->loop = loop;
    connection->fd = fd;
    connection->timer = FAN__HTTP_TIMER_NONE;
    fan__buffer_init(&connection->input, env);
    connection->next = loop->connections;
    if (loop->connections)
        loop->connections->previous = connection;
    loop->connections = connection;
    return connection;
}

void fan__http_connection_open(struct fan__http_loop *loop, int fd)
{
    static const struct fan__http_refusal too_many = { 503, NULL,
                                                       "there are too many connections" };
    struct fan__http_server *server = loop->server;
    bool refused = true;
    loop->counters.accepted++;
    bool admitted = admit(server, &refused);
    struct fan__http_connection *connection = admitted ? make_connection(loop, fd) : NULL;
    if (refused || !connection)
        loop->counters.refused++;
    if (!connection) {
        if (admitted) {
            fan__mutex_lock(&server->mutex);
            server->connection_count--;
            fan__mutex_unlock(&server->mutex);
        }
        close(fd);
        return;
    }
    set_socket_options(&server->options, fd);
    loop->counters.connections++;
    if (refused)
        fan__http_refuse(connection, &too_many);
    fan__http_connection_mark(connection);
}

/* Ends a stream whose route does not care to do so itself. */
static void end_stream(struct fan__http_connection *connection)
{
    struct fan__http_request *request = connection->request;
    if (request->frame &&
        fan__http_output_add(connection, connection->loop->last_chunk, false) != FAN_OK)
        connection->broken = true;
    fan__http_request_lose(request);
    fan__http_connection_move(connection, FAN__HTTP_LINGER);
}

void fan__http_connection_stop(struct fan__http_connection *connection)
{
    /* A request that is in the socket already is not idle; it is answered, as the last one. */
    if (connection->state == FAN__HTTP_HEAD)
        on_readable(connection);
    struct fan__http_request *request = connection->request;
    if (connection->state == FAN__HTTP_HEAD && !has_kept(connection)) {
        fan__http_connection_move(connection, FAN__HTTP_LINGER);
    } else if (connection->state == FAN__HTTP_STREAM) {
        if (request->calls && request->calls->closing)
            request->calls->closing(request, request->calls_context);
        else
            end_stream(connection);
    } else if (waits(connection)) {
        request->calls->closing(request, request->calls_context);
    }
    fan__http_connection_mark(connection);
}

void fan__http_connection_cut(struct fan__http_connection *connection)
{
    close_connection(connection);
}
