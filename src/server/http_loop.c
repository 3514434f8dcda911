/*
 * A loop: one thread, one listening socket, the connections that came in by it.
 *
 * A turn of libuv is: timers, [prepare] wait for events and serve them [check]. What was queued for
 * sending by any of them leaves in prepare or check, so that a client gets a turn's chunks in one
 * write. What is marked while connections are looked after waits for the next turn, which then does
 * not wait (idle).
 *
 * The end, in this order: stop listening; idle connections and streams end; after a second streams
 * are cut, after the time-out everything; when the last request has been ended by its route, the
 * routes close what is theirs, then the loop's own handles are closed, and posts are refused.
 */
#include "server/http_inside.h"

#include "base/env.h"
#include "base/status.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define ACCEPT_COUNT 64
#define ACCEPT_PAUSE_MS 100
#define STREAM_END_MS 1000

struct fan__http_server *fan__http_loop_server(const struct fan__http_loop *loop)
{
    return loop->server;
}

bool fan__http_loop_stopping(const struct fan__http_loop *loop)
{
    return loop->stopping;
}

unsigned fan__http_loop_index(const struct fan__http_loop *loop)
{
    return loop->index;
}

void *fan__http_loop_context(const struct fan__http_loop *loop)
{
    return loop->context;
}

struct uv_loop_s *fan__http_loop_uv(struct fan__http_loop *loop)
{
    return &loop->uv;
}

const char *fan__http_loop_date(struct fan__http_loop *loop)
{
    time_t now = (time_t)(fan__wall_us(loop->server->options.env) / FAN__US_PER_S);
    if (now != loop->date_s || loop->date[0] == '\0') {
        static const char days[7][4] = { "Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat" };
        static const char months[12][4] = { "Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                            "Jul", "Aug", "Sep", "Oct", "Nov", "Dec" };
        struct tm parts;
        gmtime_r(&now, &parts);
        /* By hand: strftime would follow the embedder's locale. */
        snprintf(loop->date, sizeof(loop->date), "%s, %02d %s %04d %02d:%02d:%02d GMT",
                 days[parts.tm_wday], parts.tm_mday, months[parts.tm_mon],
                 (parts.tm_year + 1900) % 10000, parts.tm_hour, parts.tm_min, parts.tm_sec);
        loop->date_s = now;
    }
    return loop->date;
}

/* ---- Accepting ---- */

static void on_connection(uv_poll_t *poll, int status, int events);

static void on_accept_again(uv_timer_t *timer)
{
    struct fan__http_loop *loop = timer->data;
    if (!loop->stopping)
        uv_poll_start(&loop->listen, UV_READABLE, on_connection);
}

/* Takes up to `count` connections. False when the system is out of descriptors or memory. */
static bool accept_some(struct fan__http_loop *loop, int count)
{
    while (count-- > 0) {
        int fd = accept4(loop->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0)
            fan__http_connection_open(loop, fd);
        else if (errno == EAGAIN || errno == EWOULDBLOCK)
            return true;
        else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
            return false;
        /* Everything else is the failure of one connection that is gone already (accept(2)). */
    }
    return true;
}

static void on_connection(uv_poll_t *poll, int status, int events)
{
    struct fan__http_loop *loop = poll->data;
    (void)events;
    if (status == 0 && accept_some(loop, ACCEPT_COUNT))
        return;
    /* Level-triggered: without a pause the loop would do nothing but fail. */
    uv_poll_stop(&loop->listen);
    uv_timer_start(&loop->accept_timer, on_accept_again, ACCEPT_PAUSE_MS, 0);
}

/* ---- Posts and stop ---- */

enum fan_status fan__http_post(struct fan__http_loop *loop, struct fan__http_task *task)
{
    task->next = NULL;
    fan__mutex_lock(&loop->mutex);
    bool ended = loop->ended;
    if (!ended) {
        bool first = !loop->tasks;
        *loop->tasks_end = task;
        loop->tasks_end = &task->next;
        /* Under the lock: the handle is closed only after `ended` is set. */
        if (first)
            uv_async_send(&loop->wake);
    }
    fan__mutex_unlock(&loop->mutex);
    return ended ? FAN_CLOSED : FAN_OK;
}

void fan__http_loop_stop(struct fan__http_loop *loop, uint32_t timeout_ms)
{
    fan__mutex_lock(&loop->mutex);
    loop->stop_asked = true;
    loop->stop_timeout_ms = timeout_ms;
    if (!loop->ended)
        uv_async_send(&loop->wake);
    fan__mutex_unlock(&loop->mutex);
}

static void for_connections(struct fan__http_loop *loop,
                            void (*call)(struct fan__http_connection *connection))
{
    for (struct fan__http_connection *at = loop->connections, *next; at; at = next) {
        next = at->next;
        call(at);
    }
}

static void cut_stream(struct fan__http_connection *connection)
{
    if (connection->state == FAN__HTTP_STREAM || connection->streamed)
        fan__http_connection_cut(connection);
}

static void on_stop_timer(uv_timer_t *timer)
{
    struct fan__http_loop *loop = timer->data;
    if (!loop->streams_cut && loop->stop_left_ms > 0) {
        loop->streams_cut = true;
        for_connections(loop, cut_stream);
        uv_timer_start(&loop->stop_timer, on_stop_timer, loop->stop_left_ms, 0);
        return;
    }
    for_connections(loop, fan__http_connection_cut);
}

static void begin_stop(struct fan__http_loop *loop, uint32_t timeout_ms)
{
    loop->stopping = true;
    /* Who is in the queue already has been promised an answer by the kernel. */
    accept_some(loop, FAN__HTTP_BACKLOG);
    uv_close((uv_handle_t *)&loop->listen, NULL);
    close(loop->listen_fd);
    loop->listen_fd = -1;
    for_connections(loop, fan__http_connection_stop);
    uint32_t first_ms = timeout_ms < STREAM_END_MS ? timeout_ms : STREAM_END_MS;
    loop->stop_left_ms = timeout_ms - first_ms;
    uv_timer_start(&loop->stop_timer, on_stop_timer, first_ms, 0);
}

static void run_tasks(struct fan__http_task *tasks)
{
    while (tasks) {
        struct fan__http_task *task = tasks;
        tasks = task->next;
        task->run(task);
    }
}

static struct fan__http_task *take_tasks(struct fan__http_loop *loop)
{
    struct fan__http_task *tasks = loop->tasks;
    loop->tasks = NULL;
    loop->tasks_end = &loop->tasks;
    return tasks;
}

static void on_wake(uv_async_t *wake)
{
    struct fan__http_loop *loop = wake->data;
    fan__mutex_lock(&loop->mutex);
    struct fan__http_task *tasks = take_tasks(loop);
    bool stop = loop->stop_asked;
    uint32_t timeout_ms = loop->stop_timeout_ms;
    fan__mutex_unlock(&loop->mutex);
    run_tasks(tasks);
    if (stop && !loop->stopping)
        begin_stop(loop, timeout_ms);
}

static void close_handles(struct fan__http_loop *loop)
{
    uv_close((uv_handle_t *)&loop->wake, NULL);
    uv_close((uv_handle_t *)&loop->prepare, NULL);
    uv_close((uv_handle_t *)&loop->check, NULL);
    uv_close((uv_handle_t *)&loop->idle, NULL);
    uv_close((uv_handle_t *)&loop->timer, NULL);
    uv_close((uv_handle_t *)&loop->accept_timer, NULL);
    uv_close((uv_handle_t *)&loop->stop_timer, NULL);
}

/* ---- The end of a turn ---- */

static void publish_counters(struct fan__http_loop *loop)
{
    if (memcmp(&loop->counters, &loop->told, sizeof(loop->told)) == 0)
        return;
    loop->told = loop->counters;
    fan__mutex_lock(&loop->mutex);
    loop->published = loop->told;
    fan__mutex_unlock(&loop->mutex);
}

/* Nothing is held any more: the last posts, the routes' end, our own. */
static void finish(struct fan__http_loop *loop)
{
    loop->finished = true;
    fan__mutex_lock(&loop->mutex);
    loop->ended = true;
    struct fan__http_task *tasks = take_tasks(loop);
    fan__mutex_unlock(&loop->mutex);
    run_tasks(tasks);
    const struct fan__http_options *options = &loop->server->options;
    if (options->loop_stop)
        options->loop_stop(loop, options->context, loop->context);
    close_handles(loop);
}

static void on_idle(uv_idle_t *idle)
{
    (void)idle;
}

static void end_turn(struct fan__http_loop *loop)
{
    /* Before the bytes leave: whoever has seen an answer finds it counted. */
    publish_counters(loop);
    struct fan__http_connection *next = loop->dirty;
    loop->dirty = NULL;
    loop->dirty_end = &loop->dirty;
    while (next) {
        struct fan__http_connection *connection = next;
        next = connection->dirty_next;
        fan__http_connection_turn(connection);
    }
    publish_counters(loop);
    if (loop->stopping && !loop->connections && loop->closing_count == 0 &&
        loop->request_count == 0 && !loop->finished)
        finish(loop);
    else if (loop->dirty)
        uv_idle_start(&loop->idle, on_idle);
    else
        uv_idle_stop(&loop->idle);
}

static void on_prepare(uv_prepare_t *prepare)
{
    end_turn(prepare->data);
}

static void on_check(uv_check_t *check)
{
    end_turn(check->data);
}

/* ---- Life ---- */

static enum fan_status init_handles(struct fan__http_loop *loop, struct fan_error *error)
{
    int failed = uv_loop_init(&loop->uv);
    if (failed == 0) {
        failed = uv_async_init(&loop->uv, &loop->wake, on_wake);
        if (failed != 0)
            uv_loop_close(&loop->uv);
    }
    if (failed != 0)
        return fan__fail(error, failed == UV_ENOMEM ? FAN_NO_MEMORY : FAN_IO, NULL,
                         "the event loop cannot be made: %s", uv_strerror(failed));
    uv_prepare_init(&loop->uv, &loop->prepare);
    uv_check_init(&loop->uv, &loop->check);
    uv_idle_init(&loop->uv, &loop->idle);
    uv_timer_init(&loop->uv, &loop->timer);
    uv_timer_init(&loop->uv, &loop->accept_timer);
    uv_timer_init(&loop->uv, &loop->stop_timer);
    loop->wake.data = loop->prepare.data = loop->check.data = loop->idle.data = loop;
    loop->timer.data = loop->accept_timer.data = loop->stop_timer.data = loop->listen.data = loop;
    return FAN_OK;
}

enum fan_status fan__http_loop_init(struct fan__http_loop *loop, struct fan__http_server *server,
                                    unsigned index, struct fan_error *error)
{
    const struct fan_env *env = server->options.env;
    loop->server = server;
    loop->index = index;
    loop->listen_fd = -1;
    loop->dirty_end = &loop->dirty;
    loop->tasks_end = &loop->tasks;
    loop->body_size_max = server->options.body_total_size_max / server->loop_count;
    loop->answer_size_max = server->options.answer_total_size_max / server->loop_count;
    fan__http_timer_init(loop);
    fan__buffer_init(&loop->scratch, env);
    loop->buffer = fan__alloc(env, FAN__HTTP_READ_SIZE);
    loop->last_chunk = fan__http_chunk_new(env, 5);
    enum fan_status status = FAN_NO_MEMORY;
    if (loop->buffer && loop->last_chunk) {
        memcpy(fan__http_chunk_data(loop->last_chunk), "0\r\n\r\n", 5);
        status = init_handles(loop, error);
    }
    if (status != FAN_OK) {
        fan__http_chunk_unref(loop->last_chunk);
        fan__free(env, loop->buffer);
        return status;
    }
    fan__mutex_init(&loop->mutex);
    return FAN_OK;
}

void fan__http_loop_deinit(struct fan__http_loop *loop)
{
    const struct fan_env *env = loop->server->options.env;
    /* One whose thread never ran still has its handles; libuv closes them in a run. */
    if (!loop->ended)
        close_handles(loop);
    uv_run(&loop->uv, UV_RUN_DEFAULT);
    int busy = uv_loop_close(&loop->uv);
    assert(busy == 0);
    (void)busy;
    fan__mutex_deinit(&loop->mutex);
    fan__http_chunk_unref(loop->last_chunk);
    fan__buffer_deinit(&loop->scratch);
    fan__free(env, loop->buffer);
}

/* Tells the starting thread how it went. */
static void report(struct fan__http_loop *loop, enum fan_status status,
                   const struct fan_error *error)
{
    struct fan__http_server *server = loop->server;
    fan__mutex_lock(&server->mutex);
    server->loops_ready++;
    if (status != FAN_OK) {
        server->start_status = status;
        server->start_error = *error;
    }
    fan__cond_broadcast(&server->cond);
    fan__mutex_unlock(&server->mutex);
}

static enum fan_status begin(struct fan__http_loop *loop, struct fan_error *error)
{
    int failed = uv_poll_init_socket(&loop->uv, &loop->listen, loop->listen_fd);
    if (failed != 0)
        return fan__fail(error, FAN_IO, NULL, "the listening socket cannot be watched: %s",
                         uv_strerror(failed));
    uv_prepare_start(&loop->prepare, on_prepare);
    uv_check_start(&loop->check, on_check);
    const struct fan__http_options *options = &loop->server->options;
    if (!options->loop_start)
        return FAN_OK;
    enum fan_status status = options->loop_start(loop, options->context, &loop->context, error);
    if (status != FAN_OK)
        uv_close((uv_handle_t *)&loop->listen, NULL);
    return status;
}

void fan__http_loop_run(void *context)
{
    struct fan__http_loop *loop = context;
    struct fan_error error = FAN_ERROR_INIT;
    enum fan_status status = begin(loop, &error);
    if (status == FAN_OK) {
        uv_poll_start(&loop->listen, UV_READABLE, on_connection);
    } else {
        fan__mutex_lock(&loop->mutex);
        loop->ended = true;
        fan__mutex_unlock(&loop->mutex);
        close_handles(loop);
    }
    report(loop, status, &error);
    uv_run(&loop->uv, UV_RUN_DEFAULT);
}
