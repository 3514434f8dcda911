/*
 * HTTP/1.1 for the daemon: loops that parse requests, hand them to routes, and send answers and
 * streams. It knows nothing of events; routes are written on this header alone.
 *
 *     server:  new -> start -> (serving) -> stop (waits) -> free
 *     request: head -> check -> body -> handle -> answered | stream -> ended, exactly once
 *
 * One thread per loop; each loop listens on the same address by itself (SO_REUSEPORT), so that a
 * connection lives and dies on one loop. Everything about a request is called on its loop's thread,
 * and must not block. Other threads reach a loop through fan__http_post alone.
 *
 * **A request that was handed to a route is ended exactly once by it**: with fan__http_answer,
 * fan__http_problem, fan__http_stream_end, or fan__http_drop, at once or later. That holds when the
 * client has gone meanwhile (then nothing is sent). After the ending call the request is no more.
 *
 * Bounds per connection: a head of head_size_max, 64 KiB of input that waits, a body of the route's
 * body_size_max, unsent_size_max of a stream. An idle connection has no buffers.
 */
#ifndef FAN_SERVER_HTTP_H
#define FAN_SERVER_HTTP_H

#include <fanfare/event.h>
#include <fanfare/status.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fan_env;
struct fan__http_chunk;
struct fan__http_loop;
struct fan__http_request;
struct fan__http_server;
struct uv_loop_s;

/*
 * method         GET answers HEAD too (without the body, by itself)
 * path           literal segments, or one `{name}` that stands for a whole, non-empty segment
 * handle         for a whole body: called when it is there. For pieces: called with the head, and
 *                sets `piece` by fan__http_attach
 * check          may be NULL; called with the head, before any of the body is asked for. It may
 *                answer (415, 403): the body is then not read. The request stays the server's else
 * query          names of the query parameters that are taken, NULL at the end; another name, one
 *                that comes twice, and a broken escape are refused with 400. NULL: not looked at
 * body_size_max  0 for no body at all; a longer one is refused with 413, by its length at once
 */
struct fan__http_route {
    const char *method;
    const char *path;
    void (*handle)(struct fan__http_request *request);
    void (*check)(struct fan__http_request *request);
    const char *const *query;
    uint64_t body_size_max;
    bool body_in_pieces;
};

/*
 * What a request tells the route that holds it; each may be NULL.
 *
 * piece    the next bytes of the body, borrowed; `last` comes exactly once, maybe without bytes
 * gone     the client went, was too slow, or broke the rules: nothing can be sent any more. The
 *          request must still be ended, from here or later. Not called after the end
 * drained  after FAN_FULL: a quarter of unsent_size_max or less is left to send
 * closing  the server stops: a stream has a second for its last words and its end. Without it the
 *          server ends the stream and calls `gone`. Before an answer it marks a request that waits
 *          for something to happen: its time is over when the server stops, and a client that
 *          closes its side counts as gone, as one of a stream does
 */
struct fan__http_calls {
    void (*piece)(struct fan__http_request *request, void *context, struct fan_str bytes,
                  bool last);
    void (*gone)(struct fan__http_request *request, void *context);
    void (*drained)(struct fan__http_request *request, void *context);
    void (*closing)(struct fan__http_request *request, void *context);
};

/*
 * address         "HOST:PORT" or "[IPV6]:PORT"; port 0 takes a free one
 * loopback_only   refuse any address that others can reach (FAN_DENIED)
 * loop_count      0 for one a core
 * context         of the routes: fan__http_context
 * loop_start      on each loop's thread before it accepts; gives the loop's own context
 *                 (fan__http_loop_context), or fails the start
 * loop_stop       on each loop's thread when its last request has ended; closes what loop_start
 *                 opened on the uv loop
 * Times in ms, sizes in bytes, 0 for the default that stands behind each.
 */
struct fan__http_options {
    size_t size;
    const struct fan_env *env;
    const char *address;
    bool loopback_only;
    unsigned loop_count;
    const struct fan__http_route *routes;
    size_t route_count;
    void *context;
    enum fan_status (*loop_start)(struct fan__http_loop *loop, void *context,
                                  void **ret_loop_context, struct fan_error *ret_error);
    void (*loop_stop)(struct fan__http_loop *loop, void *context, void *loop_context);
    size_t connection_count_max;  /* 10,000: above it 503, or closed at once */
    size_t head_size_max;         /* 16 KiB, at most 32 KiB: 431 */
    size_t target_size_max;       /* 8 KiB: 414 */
    size_t unsent_size_max;       /* 256 KiB a stream */
    size_t body_total_size_max;   /* 256 MiB of whole bodies in all: 503 */
    size_t answer_total_size_max; /* 256 MiB of answers above unsent_size_max in all: 503 */
    uint32_t head_timeout_ms;     /* 10 s from a head's first byte to its end: 408 */
    size_t body_progress_size;    /* 16 KiB: fewer bytes alone are no progress of a body */
    uint32_t body_timeout_ms;     /* 30 s without progress: 408 */
    uint32_t idle_timeout_ms;     /* 60 s between requests; not for streams */
    uint32_t write_timeout_ms;    /* 30 s in which the client takes nothing of an answer */
    uint32_t linger_timeout_ms;   /* 2 s for the client to read a last answer */
    uint32_t lost_timeout_ms;     /* 60 s without a sign of life from the client's system */
};

#define FAN__HTTP_OPTIONS_INIT                                                                     \
    {                                                                                              \
        .size = sizeof(struct fan__http_options)                                                   \
    }

/*
 * All of the server's loops together, as of their last turn. responses: by first digit of status.
 */
struct fan__http_counters {
    uint64_t connections;
    uint64_t accepted;
    uint64_t refused; /* over a limit */
    uint64_t requests;
    uint64_t responses[6];
    uint64_t streams; /* open */
    uint64_t timeouts;
    uint64_t bytes_received;
    uint64_t bytes_sent;
};

/*
 * Makes a server. Options and the routes' strings are borrowed until free.
 *
 * Returns: FAN_INVALID for a bad option; FAN_NO_MEMORY.
 * Memory:  *ret_server is yours, for fan__http_server_free.
 * Thread:  any. Blocks: never.
 */
FAN_MUST_CHECK enum fan_status fan__http_server_new(const struct fan__http_options *options,
                                                    struct fan__http_server **ret_server,
                                                    struct fan_error *ret_error);

/*
 * Listens and starts the threads; once per server.
 *
 * Returns: FAN_INVALID for an address that is none, FAN_DENIED for one that is not loopback,
 *          FAN_EXISTS when it is in use (all name it), FAN_IO, FAN_NO_MEMORY, FAN_MISUSE.
 * Thread:  one at a time. Blocks: for a look-up of the host name.
 */
FAN_MUST_CHECK enum fan_status fan__http_server_start(struct fan__http_server *server,
                                                      struct fan_error *ret_error);

/* The address it listens on, with the real port: "127.0.0.1:8080". Valid from start to free. */
const char *fan__http_server_address(const struct fan__http_server *server);

/*
 * Sets how many connections there may be at once; those that are there stay. Thread: any. Blocks:
 * for a short lock.
 */
void fan__http_server_limit(struct fan__http_server *server, size_t connection_count_max);

/*
 * Stops: listens no more, closes idle connections, ends streams (`closing`) within a second, lets
 * requests in flight end for up to timeout_ms, then cuts them off (`gone`). Again does nothing.
 *
 * Thread:  any but a loop's. Blocks: up to timeout_ms, and until each request has been ended.
 */
void fan__http_server_stop(struct fan__http_server *server, uint32_t timeout_ms);

/* Stops (at once) and frees. Accepts NULL. Thread: any but a loop's. Blocks: as stop. */
void fan__http_server_free(struct fan__http_server *server);

/* Thread: any. Blocks: for short locks. */
void fan__http_server_counters(struct fan__http_server *server,
                               struct fan__http_counters *ret_counters);

/* ---- Loops ---- */

/* Work for a loop, embedded in what it is about; it is the loop's from the post until it runs. */
struct fan__http_task {
    struct fan__http_task *next;
    void (*run)(struct fan__http_task *task);
};

/*
 * Has task->run called on the loop's thread, in the order of posts. Allocates nothing.
 *
 * Returns: FAN_CLOSED when the loop has ended, which it does not while a request is not ended.
 * Thread:  any, until the server is freed. Blocks: for a short lock.
 */
FAN_MUST_CHECK enum fan_status fan__http_post(struct fan__http_loop *loop,
                                              struct fan__http_task *task);

unsigned fan__http_loop_index(const struct fan__http_loop *loop);
void *fan__http_loop_context(const struct fan__http_loop *loop);
struct fan__http_server *fan__http_loop_server(const struct fan__http_loop *loop);

/* Whether the loop stops: what waits for something to happen is not begun. Thread: the loop's. */
bool fan__http_loop_stopping(const struct fan__http_loop *loop);

/* The uv loop, for handles of the routes' own: timers, polls. Thread: the loop's. */
struct uv_loop_s *fan__http_loop_uv(struct fan__http_loop *loop);

/* ---- A request: what came. Everything is borrowed until the request ends. ---- */

struct fan__http_loop *fan__http_loop(const struct fan__http_request *request);
void *fan__http_context(const struct fan__http_request *request);

/* "GET"; for HEAD, "HEAD". */
const char *fan__http_method(const struct fan__http_request *request);

/* The raw path, without the query string. */
const char *fan__http_path(const struct fan__http_request *request);

/* The value of a header field, trimmed, the first if it comes twice; NULL when it is absent. */
const char *fan__http_header(const struct fan__http_request *request, const char *name);

/* Goes through all header fields; false at the end. */
bool fan__http_header_at(const struct fan__http_request *request, size_t index,
                         const char **ret_name, const char **ret_value);

/* What stood for the path's `{name}`, decoded, without NUL; NULL when the route has none. */
const char *fan__http_segment(const struct fan__http_request *request);

/* A query parameter, decoded, without NUL; NULL when it is absent. */
const char *fan__http_query(const struct fan__http_request *request, const char *name);

/* The whole body, once `handle` is called; empty for pieces. */
struct fan_str fan__http_body(const struct fan__http_request *request);

/* Whether the client is still there. Thread: the loop's. */
bool fan__http_connected(const struct fan__http_request *request);

/* ---- Holding on to a request ---- */

/* Sets whom to tell, and what to tell them; again replaces it. `calls` is borrowed. */
void fan__http_attach(struct fan__http_request *request, const struct fan__http_calls *calls,
                      void *context);

/* What came of its body is progress, however little it is: the time of the body begins anew. */
void fan__http_progress(struct fan__http_request *request);

/* Back-pressure: no more pieces after the present one, until resume. Twice is once. */
void fan__http_pause(struct fan__http_request *request);
void fan__http_resume(struct fan__http_request *request);

/* ---- Ending it with an answer ---- */

/* Adds a header field to the answer to come. Control bytes in the value become spaces. */
void fan__http_add_header(struct fan__http_request *request, const char *name, const char *value);

/* Adds a Retry-After of one to four seconds, at random: those refused do not come back together. */
void fan__http_add_retry_after(struct fan__http_request *request);

/*
 * Answers and ends. Content-Length, Date and Connection are added. content_type may be NULL where
 * there is no body. An answer before the body's end closes the connection, or skips a short rest.
 */
void fan__http_answer(struct fan__http_request *request, unsigned status, const char *content_type,
                      const void *body, size_t size);

/*
 * Answers with application/problem+json (RFC 9457) and ends: type about:blank, title of the status,
 * detail; and where `field` is not NULL, the members field and reason.
 */
__attribute__((format(printf, 4, 5))) void fan__http_problem(struct fan__http_request *request,
                                                             unsigned status, const char *field,
                                                             const char *reason, ...);

/* Ends it without an answer; the connection is closed. */
void fan__http_drop(struct fan__http_request *request);

/* ---- Streams ---- */

/*
 * Bytes that are encoded once and sent to any number of streams of one loop; counted, without
 * locks: a chunk never leaves the loop it was made for. Fill fan__http_chunk_data before the first
 * send. A new chunk has one holder.
 */
FAN_MUST_CHECK struct fan__http_chunk *fan__http_chunk_new(const struct fan_env *env, size_t size);
char *fan__http_chunk_data(struct fan__http_chunk *chunk);
struct fan__http_chunk *fan__http_chunk_ref(struct fan__http_chunk *chunk);
void fan__http_chunk_unref(struct fan__http_chunk *chunk);

/*
 * Sends the head of an answer whose body follows piece by piece, until fan__http_stream_end. Only
 * once the request's body is there. What is sent goes out at the end of the loop's turn, gathered.
 *
 * Returns: FAN_CLOSED when nobody wants a body (the client is gone, or asked by HEAD),
 * FAN_NO_MEMORY; both have ended the request.
 */
FAN_MUST_CHECK enum fan_status fan__http_stream_start(struct fan__http_request *request,
                                                      unsigned status, const char *content_type);

/*
 * Adds a chunk (of at least one byte) to what is to be sent, and holds it until then.
 *
 * Returns: FAN_FULL when unsent_size_max would be exceeded (`drained` follows), FAN_CLOSED when the
 *          client is gone, FAN_NO_MEMORY; in all of them nothing was added.
 */
FAN_MUST_CHECK enum fan_status fan__http_stream_send(struct fan__http_request *request,
                                                     struct fan__http_chunk *chunk);

/* Bytes that wait to be sent on this connection. */
size_t fan__http_stream_unsent(const struct fan__http_request *request);

/* Ends the stream after what was sent, and the request. */
void fan__http_stream_end(struct fan__http_request *request);

#endif
