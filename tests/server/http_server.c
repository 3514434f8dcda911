/*
 * The HTTP layer with routes made for its tests, driven by test_http.py. Options come as
 * NAME=NUMBER arguments. Says "listening ADDRESS" or "error FIELD: WORDS"; `stop MS` on the
 * standard input, or its end, stops it. Exits with 0 when nothing was left behind.
 */
#include "server/http.h"

#include "base/env.h"
#include "base/thread.h"

#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/wait.h>
#include <unistd.h>

#define LOOP_COUNT 8

/* A request that is held: by the worker, by /held, or as a listener of /broadcast. */
struct held {
    struct fan__http_task task;
    struct fan__http_request *request;
    struct held *next;
    struct held **list;
    struct fan__http_chunk *chunk;
    size_t left;
    bool done;
};

struct loop_state {
    struct held *held;
    struct held *listeners;
};

struct post {
    struct fan__http_task task;
    struct fan__http_loop *loop;
    size_t size;
    char bytes[];
};

static struct {
    struct fan_env env;
    struct fan__mutex mutex;
    struct fan__cond cond;
    size_t allocated;
    size_t blocks;
    long fail_after;
    unsigned gone;
    struct held *work;
    bool stop;
    struct fan__thread worker;
    struct fan__http_loop *loops[LOOP_COUNT];
    struct loop_state states[LOOP_COUNT];
    unsigned loop_count;
    struct fan__http_server *server;
} all;

/* ---- Memory that is counted, and fails when told to ---- */

static void *counting_resize(void *context, void *pointer, size_t size)
{
    (void)context;
    fan__mutex_lock(&all.mutex);
    bool fails = all.fail_after > 0 && --all.fail_after == 0;
    size_t before = pointer ? malloc_usable_size(pointer) : 0;
    void *result = fails ? NULL : realloc(pointer, size);
    if (result) {
        all.allocated += malloc_usable_size(result) - before;
        all.blocks += pointer ? 0 : 1;
    }
    fan__mutex_unlock(&all.mutex);
    return result;
}

static void counting_release(void *context, void *pointer)
{
    (void)context;
    fan__mutex_lock(&all.mutex);
    all.allocated -= malloc_usable_size(pointer);
    all.blocks--;
    fan__mutex_unlock(&all.mutex);
    free(pointer);
}

static void count_gone(void)
{
    fan__mutex_lock(&all.mutex);
    all.gone++;
    fan__mutex_unlock(&all.mutex);
}

/* ---- Held requests ---- */

static struct held *hold(struct fan__http_request *request, struct held **list)
{
    struct held *held = calloc(1, sizeof(*held));
    if (!held)
        abort();
    held->request = request;
    if (list) {
        held->list = list;
        held->next = *list;
        *list = held;
    }
    return held;
}

static void unhold(struct held *held)
{
    for (struct held **at = held->list; at && *at; at = &(*at)->next) {
        if (*at == held) {
            *at = held->next;
            break;
        }
    }
    fan__http_chunk_unref(held->chunk);
    free(held);
}

static void on_gone(struct fan__http_request *request, void *context)
{
    count_gone();
    unhold(context);
    fan__http_drop(request);
}

/* The worker has it: it is ended when it comes back. */
static void on_gone_at_work(struct fan__http_request *request, void *context)
{
    (void)request;
    (void)context;
    count_gone();
}

static const struct fan__http_calls held_calls = { .gone = on_gone };
static const struct fan__http_calls work_calls = { .gone = on_gone_at_work };

static struct loop_state *state_of(const struct fan__http_request *request)
{
    return fan__http_loop_context(fan__http_loop(request));
}

static void answer_text(struct fan__http_request *request, const char *text)
{
    fan__http_answer(request, 200, "text/plain", text, strlen(text));
}

/* ---- Routes ---- */

static void echo(struct fan__http_request *request)
{
    struct fan_str body = fan__http_body(request);
    const char *type = fan__http_header(request, "content-type");
    fan__http_answer(request, 200, type, body.data, body.size);
}

static void hello(struct fan__http_request *request)
{
    char text[600];
    const char *name = fan__http_query(request, "name");
    const char *greeting = fan__http_query(request, "greeting");
    snprintf(text, sizeof(text), "%s %s", greeting ? greeting : "hello", name ? name : "world");
    const char *header = fan__http_header(request, "x-echo");
    if (header)
        fan__http_add_header(request, "X-Echo", header);
    if (name)
        fan__http_add_header(request, "X-Name", name);
    answer_text(request, text);
}

static void thing(struct fan__http_request *request)
{
    answer_text(request, fan__http_segment(request));
}

static void check_json(struct fan__http_request *request)
{
    const char *type = fan__http_header(request, "Content-Type");
    if (!type || strcasecmp(type, "application/json") != 0)
        fan__http_problem(request, 415, "Content-Type", "is not application/json");
}

static void big(struct fan__http_request *request)
{
    const char *size_text = fan__http_query(request, "size");
    size_t size = strtoul(size_text ? size_text : "0", NULL, 10);
    char *bytes = malloc(size + 1);
    if (!bytes)
        abort();
    for (size_t i = 0; i < size; i++)
        bytes[i] = (char)('a' + i % 26);
    fan__http_answer(request, 200, "text/plain", bytes, size);
    free(bytes);
}

static void drop(struct fan__http_request *request)
{
    fan__http_drop(request);
}

static void counters(struct fan__http_request *request)
{
    struct fan__http_counters c;
    fan__http_server_counters(all.server, &c);
    fan__mutex_lock(&all.mutex);
    unsigned gone = all.gone;
    size_t allocated = all.allocated;
    fan__mutex_unlock(&all.mutex);
    char text[600];
    snprintf(text, sizeof(text),
             "{\"connections\": %llu, \"accepted\": %llu, \"refused\": %llu, \"requests\": %llu, "
             "\"responses\": [%llu, %llu, %llu, %llu, %llu, %llu], \"streams\": %llu, "
             "\"timeouts\": %llu, \"received\": %llu, \"sent\": %llu, \"gone\": %u, "
             "\"allocated\": %zu, \"loop\": %u}",
             (unsigned long long)c.connections, (unsigned long long)c.accepted,
             (unsigned long long)c.refused, (unsigned long long)c.requests,
             (unsigned long long)c.responses[0], (unsigned long long)c.responses[1],
             (unsigned long long)c.responses[2], (unsigned long long)c.responses[3],
             (unsigned long long)c.responses[4], (unsigned long long)c.responses[5],
             (unsigned long long)c.streams, (unsigned long long)c.timeouts,
             (unsigned long long)c.bytes_received, (unsigned long long)c.bytes_sent, gone,
             allocated, fan__http_loop_index(fan__http_loop(request)));
    fan__http_answer(request, 200, "application/json", text, strlen(text));
}

/* ---- Bodies in pieces ---- */

struct lines {
    struct fan__http_task task;
    struct fan__http_request *request;
    unsigned long long bytes;
    unsigned long long lines;
    unsigned long long pieces;
    bool pauses;
    bool posted; /* a resume is on its way */
    bool gone;
    unsigned long long stop_at; /* answers early at this byte */
};

static void end_lines(struct lines *lines, unsigned status)
{
    char text[200];
    snprintf(text, sizeof(text), "%llu bytes, %llu lines%s", lines->bytes, lines->lines,
             status == 200 ? "" : ", stopped");
    if (lines->gone)
        fan__http_drop(lines->request);
    else
        fan__http_answer(lines->request, status, "text/plain", text, strlen(text));
    free(lines);
}

static void resume_lines(struct fan__http_task *task)
{
    struct lines *lines = (struct lines *)(void *)task;
    lines->posted = false;
    if (lines->gone)
        end_lines(lines, 200);
    else
        fan__http_resume(lines->request);
}

static void on_piece(struct fan__http_request *request, void *context, struct fan_str bytes,
                     bool last)
{
    struct lines *lines = context;
    lines->bytes += bytes.size;
    lines->pieces++;
    for (size_t i = 0; i < bytes.size; i++)
        lines->lines += bytes.data[i] == '\n';
    if (lines->stop_at > 0 && lines->bytes >= lines->stop_at) {
        end_lines(lines, 422);
    } else if (last) {
        end_lines(lines, 200);
    } else if (lines->pauses) {
        if (lines->posted)
            abort(); /* a piece came while paused */
        lines->posted = true;
        fan__http_pause(request);
        if (fan__http_post(fan__http_loop(request), &lines->task) != FAN_OK)
            abort();
    }
}

static void on_lines_gone(struct fan__http_request *request, void *context)
{
    (void)request;
    struct lines *lines = context;
    count_gone();
    lines->gone = true;
    if (!lines->posted)
        end_lines(lines, 200);
}

static const struct fan__http_calls lines_calls = { .piece = on_piece, .gone = on_lines_gone };

static void attach_lines(struct fan__http_request *request, const struct fan__http_calls *calls)
{
    struct lines *lines = calloc(1, sizeof(*lines));
    if (!lines)
        abort();
    const char *stop_at = fan__http_query(request, "stop_at");
    lines->request = request;
    lines->task.run = resume_lines;
    lines->pauses = fan__http_query(request, "pause") != NULL;
    lines->stop_at = stop_at ? strtoull(stop_at, NULL, 10) : 0;
    fan__http_attach(request, calls, lines);
}

static void take_lines(struct fan__http_request *request)
{
    attach_lines(request, &lines_calls);
}

/* ---- Late answers ---- */

static void answer_late(struct fan__http_task *task)
{
    struct held *held = (struct held *)(void *)task;
    char name[16] = "";
    pthread_getname_np(pthread_self(), name, sizeof(name));
    char text[100];
    snprintf(text, sizeof(text), "late on %s%s", name,
             strcmp(name, "fan-http-0") == 0 || strcmp(name, "fan-http-1") == 0 ? "" : "?");
    answer_text(held->request, text);
    free(held);
}

static void late(struct fan__http_request *request)
{
    struct held *held = hold(request, NULL);
    held->task.run = answer_late;
    fan__http_attach(request, &work_calls, held);
    fan__mutex_lock(&all.mutex);
    held->next = all.work;
    all.work = held;
    fan__cond_signal(&all.cond);
    fan__mutex_unlock(&all.mutex);
}

static void work(void *context)
{
    (void)context;
    fan__mutex_lock(&all.mutex);
    while (!all.stop || all.work) {
        struct held *held = all.work;
        if (!held) {
            fan__cond_wait(&all.cond, &all.mutex);
            continue;
        }
        all.work = held->next;
        fan__mutex_unlock(&all.mutex);
        if (fan__http_post(fan__http_loop(held->request), &held->task) != FAN_OK)
            abort();
        fan__mutex_lock(&all.mutex);
    }
    fan__mutex_unlock(&all.mutex);
}

static void keep_held(struct fan__http_request *request)
{
    struct held *held = hold(request, &state_of(request)->held);
    fan__http_attach(request, &held_calls, held);
}

static struct post *make_post(struct fan__http_loop *loop, struct fan_str bytes,
                              void (*run)(struct fan__http_task *task))
{
    struct post *post = malloc(sizeof(*post) + bytes.size);
    if (!post)
        abort();
    post->task.run = run;
    post->loop = loop;
    post->size = bytes.size;
    if (bytes.size > 0)
        memcpy(post->bytes, bytes.data, bytes.size);
    return post;
}

static void to_all_loops(struct fan__http_request *request,
                         void (*run)(struct fan__http_task *task))
{
    for (unsigned i = 0; i < all.loop_count; i++) {
        struct post *post = make_post(all.loops[i], fan__http_body(request), run);
        if (fan__http_post(all.loops[i], &post->task) != FAN_OK)
            free(post);
    }
    answer_text(request, "sent");
}

static void run_release(struct fan__http_task *task)
{
    struct post *post = (struct post *)(void *)task;
    struct loop_state *state = fan__http_loop_context(post->loop);
    while (state->held) {
        struct held *held = state->held;
        struct fan__http_request *request = held->request;
        unhold(held);
        answer_text(request, "released");
    }
    free(post);
}

static void release(struct fan__http_request *request)
{
    to_all_loops(request, run_release);
}

/* ---- Streams ---- */

static void pump(struct held *held)
{
    while (held->left > 0) {
        enum fan_status status = fan__http_stream_send(held->request, held->chunk);
        if (status != FAN_OK)
            return;
        held->left--;
    }
    struct fan__http_request *request = held->request;
    unhold(held);
    fan__http_stream_end(request);
}

static void on_drained(struct fan__http_request *request, void *context)
{
    (void)request;
    pump(context);
}

static const struct fan__http_calls stream_calls = { .gone = on_gone, .drained = on_drained };

static void stream(struct fan__http_request *request)
{
    const char *count = fan__http_query(request, "count");
    const char *size = fan__http_query(request, "size");
    struct held *held = hold(request, NULL);
    held->left = strtoul(count ? count : "1", NULL, 10);
    size_t bytes = strtoul(size ? size : "1", NULL, 10);
    held->chunk = fan__http_chunk_new(&all.env, bytes);
    fan__http_attach(request, &stream_calls, held);
    if (!held->chunk) {
        fan__http_problem(request, 503, NULL, "no memory");
        unhold(held);
        return;
    }
    memset(fan__http_chunk_data(held->chunk), 'x', bytes);
    if (fan__http_stream_start(request, 200, "text/plain") == FAN_OK)
        pump(held);
    else
        unhold(held);
}

static void on_closing(struct fan__http_request *request, void *context)
{
    struct held *held = context;
    struct fan__http_chunk *chunk = fan__http_chunk_new(&all.env, 8);
    if (chunk) {
        memcpy(fan__http_chunk_data(chunk), "goodbye\n", 8);
        (void)!fan__http_stream_send(request, chunk);
        fan__http_chunk_unref(chunk);
    }
    unhold(held);
    fan__http_stream_end(request);
}

static const struct fan__http_calls listen_calls = { .gone = on_gone };
static const struct fan__http_calls polite_calls = { .gone = on_gone, .closing = on_closing };
static void on_closing_ignored(struct fan__http_request *request, void *context)
{
    (void)request;
    (void)context;
}
static const struct fan__http_calls stubborn_calls = { .gone = on_gone,
                                                       .closing = on_closing_ignored };

static void listen_to(struct fan__http_request *request)
{
    struct held *held = hold(request, &state_of(request)->listeners);
    const char *manner = fan__http_query(request, "manner");
    const struct fan__http_calls *calls = &listen_calls;
    if (manner && strcmp(manner, "polite") == 0)
        calls = &polite_calls;
    else if (manner && strcmp(manner, "stubborn") == 0)
        calls = &stubborn_calls;
    fan__http_attach(request, calls, held);
    if (fan__http_stream_start(request, 200, "text/event-stream") != FAN_OK)
        unhold(held);
}

static void run_broadcast(struct fan__http_task *task)
{
    struct post *post = (struct post *)(void *)task;
    struct loop_state *state = fan__http_loop_context(post->loop);
    struct fan__http_chunk *chunk =
        post->size > 0 ? fan__http_chunk_new(&all.env, post->size) : NULL;
    if (chunk) {
        memcpy(fan__http_chunk_data(chunk), post->bytes, post->size);
        for (struct held *held = state->listeners; held; held = held->next)
            (void)!fan__http_stream_send(held->request, chunk);
        fan__http_chunk_unref(chunk);
    }
    free(post);
}

static void broadcast(struct fan__http_request *request)
{
    to_all_loops(request, run_broadcast);
}

static void on_feed(struct fan__http_request *request, void *context, struct fan_str bytes,
                    bool last)
{
    if (memchr(bytes.data, '\n', bytes.size))
        fan__http_progress(request);
    on_piece(request, context, bytes, last);
}

/* Lines, each of which is progress. */
static void take_feed(struct fan__http_request *request)
{
    static const struct fan__http_calls calls = { .piece = on_feed, .gone = on_lines_gone };
    attach_lines(request, &calls);
}

/* ---- The table ---- */

#define MIB ((uint64_t)1 << 20)

static const char *const hello_query[] = { "name", "greeting", NULL };
static const char *const lines_query[] = { "pause", "stop_at", NULL };
static const char *const stream_query[] = { "count", "size", NULL };
static const char *const big_query[] = { "size", NULL };
static const char *const listen_query[] = { "manner", NULL };

static const struct fan__http_route routes[] = {
    { .method = "GET", .path = "/hello", .handle = hello, .query = hello_query },
    { .method = "POST", .path = "/echo", .handle = echo, .body_size_max = MIB },
    { .method = "PUT", .path = "/echo", .handle = echo, .body_size_max = MIB },
    { .method = "GET", .path = "/things/{id}", .handle = thing },
    { .method = "GET", .path = "/things/{id}/parts", .handle = thing },
    { .method = "POST",
      .path = "/checked",
      .handle = echo,
      .check = check_json,
      .body_size_max = 10 * MIB },
    { .method = "POST",
      .path = "/lines",
      .handle = take_lines,
      .query = lines_query,
      .body_size_max = 200 * MIB,
      .body_in_pieces = true },
    { .method = "POST",
      .path = "/feed",
      .handle = take_feed,
      .query = lines_query,
      .body_size_max = 200 * MIB,
      .body_in_pieces = true },
    { .method = "GET", .path = "/big", .handle = big, .query = big_query },
    { .method = "GET", .path = "/late", .handle = late },
    { .method = "GET", .path = "/held", .handle = keep_held },
    { .method = "POST", .path = "/release", .handle = release, .body_size_max = 16 },
    { .method = "GET", .path = "/stream", .handle = stream, .query = stream_query },
    { .method = "GET", .path = "/listen", .handle = listen_to, .query = listen_query },
    { .method = "POST", .path = "/broadcast", .handle = broadcast, .body_size_max = MIB },
    { .method = "GET", .path = "/drop", .handle = drop },
    { .method = "GET", .path = "/counters", .handle = counters },
};

static enum fan_status loop_start(struct fan__http_loop *loop, void *context,
                                  void **ret_loop_context, struct fan_error *ret_error)
{
    (void)ret_error;
    unsigned index = fan__http_loop_index(loop);
    fan__mutex_lock(&all.mutex);
    all.loops[index] = loop;
    all.loop_count++;
    fan__mutex_unlock(&all.mutex);
    *ret_loop_context = &((struct loop_state *)context)[index];
    return FAN_OK;
}

static void loop_stop(struct fan__http_loop *loop, void *context, void *loop_context)
{
    (void)loop;
    (void)context;
    struct loop_state *state = loop_context;
    if (state->held || state->listeners)
        abort();
}

static bool set_option(struct fan__http_options *options, const char *argument)
{
    const char *mark = strchr(argument, '=');
    if (!mark)
        return false;
    size_t length = (size_t)(mark - argument);
    unsigned long number = strtoul(mark + 1, NULL, 10);
#define OPTION(name, type)                                                                         \
    if (strlen(#name) == length && memcmp(argument, #name, length) == 0) {                         \
        options->name = (type)number;                                                              \
        return true;                                                                               \
    }
    OPTION(loop_count, unsigned)
    OPTION(loopback_only, bool)
    OPTION(connection_count_max, size_t)
    OPTION(head_size_max, size_t)
    OPTION(unsent_size_max, size_t)
    OPTION(body_total_size_max, size_t)
    OPTION(answer_total_size_max, size_t)
    OPTION(body_progress_size, size_t)
    OPTION(head_timeout_ms, uint32_t)
    OPTION(body_timeout_ms, uint32_t)
    OPTION(idle_timeout_ms, uint32_t)
    OPTION(write_timeout_ms, uint32_t)
    OPTION(linger_timeout_ms, uint32_t)
    OPTION(lost_timeout_ms, uint32_t)
#undef OPTION
    if (strncmp(argument, "address=", 8) == 0) {
        options->address = mark + 1;
        return true;
    }
    if (strncmp(argument, "fail_after=", 11) == 0) {
        all.fail_after = (long)number;
        return true;
    }
    return false;
}

/* What a fork's child may do with the server: be told so, and leave. */
static void try_fork(void)
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        struct fan_error error = FAN_ERROR_INIT;
        fan__http_server_stop(all.server, 1000);
        enum fan_status status = fan__http_server_start(all.server, &error);
        fan__http_server_free(all.server);
        _exit(status == FAN_FORKED ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    printf("child %d\n", status);
    fflush(stdout);
}

static void wait_for_stop(void)
{
    char line[64];
    unsigned timeout_ms = 5000;
    while (fgets(line, sizeof(line), stdin)) {
        long fail_after;
        if (sscanf(line, "fail %ld", &fail_after) == 1) {
            fan__mutex_lock(&all.mutex);
            all.fail_after = fail_after;
            fan__mutex_unlock(&all.mutex);
            printf("ok\n");
            fflush(stdout);
            continue;
        }
        if (strcmp(line, "fork\n") == 0)
            try_fork();
        if (sscanf(line, "stop %u", &timeout_ms) == 1)
            break;
    }
    fan__http_server_stop(all.server, timeout_ms);
    fan__http_server_stop(all.server, timeout_ms);
}

int main(int argc, char **argv)
{
    all.env = *fan_env_default();
    all.env.resize = counting_resize;
    all.env.release = counting_release;
    fan__mutex_init(&all.mutex);
    fan__cond_init(&all.cond);
    struct fan__http_options options = FAN__HTTP_OPTIONS_INIT;
    options.env = &all.env;
    options.address = "127.0.0.1:0";
    options.loop_count = 2;
    options.routes = routes;
    options.route_count = sizeof(routes) / sizeof(*routes);
    options.context = all.states;
    options.loop_start = loop_start;
    options.loop_stop = loop_stop;
    for (int i = 1; i < argc; i++) {
        if (!set_option(&options, argv[i]))
            return 2;
    }
    struct fan_error error = FAN_ERROR_INIT;
    enum fan_status status = fan__http_server_new(&options, &all.server, &error);
    if (status == FAN_OK)
        status = fan__http_server_start(all.server, &error);
    if (status == FAN_OK) {
        if (fan__thread_start(&all.worker, "test-worker", work, NULL) != FAN_OK)
            return 2;
        printf("listening %s\n", fan__http_server_address(all.server));
        fflush(stdout);
        wait_for_stop();
        fan__mutex_lock(&all.mutex);
        all.stop = true;
        fan__cond_signal(&all.cond);
        fan__mutex_unlock(&all.mutex);
        fan__thread_join(&all.worker);
    } else {
        printf("error %s %s: %s\n", fan_status_name(status), error.field, error.message);
    }
    fan__http_server_free(all.server);
    if (all.blocks != 0) {
        printf("left behind: %zu blocks, %zu bytes\n", all.blocks, all.allocated);
        return 4;
    }
    return status == FAN_OK ? 0 : 3;
}
