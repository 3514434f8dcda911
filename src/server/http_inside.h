/*
 * What the files of the HTTP layer share; routes do not include it.
 *
 *     http_server.c      options, listening sockets, threads, stop, counters
 *     http_loop.c        accept, posts, the end of a turn, the order of stopping
 *     http_timer.c       deadlines
 *     http_connection.c  the states of a connection, its input and its events
 *     http_output.c      chunks, the queue of a connection, gathered writes
 *     http_head.c        bytes of a head -> request; the only user of http_parser
 *     http_body.c        length and chunked framing
 *     http_route.c       path and query against the table of routes
 *     http_request.c     what routes read from a request
 *     http_response.c    answers, problems, streams
 *
 * A connection holds at most one request; it is one of these, and moves as `moves` in
 * http_connection.c allows:
 *
 *     HEAD --head--> BODY --body--> ANSWER --stream_start--> STREAM
 *       ^              |early           |answer                  |end
 *       |            SKIP               |                        |
 *       +--------------+----------------+------------------------+     keep-alive
 *     LINGER: the last answer is on its way, input is thrown away, then CLOSED
 *
 * Nothing is closed inside a call-back of a route: failures are marked and seen to at the end of
 * the turn, in fan__http_connection_turn.
 */
#ifndef FAN_SERVER_HTTP_INSIDE_H
#define FAN_SERVER_HTTP_INSIDE_H

#include "base/buffer.h"
#include "base/thread.h"
#include "server/http.h"

#include <uv.h>

#define FAN__HTTP_BACKLOG 1024
#define FAN__HTTP_READ_SIZE ((size_t)64 * 1024)
#define FAN__HTTP_SKIP_SIZE ((uint64_t)64 * 1024)

/* Why the server itself refuses; the strings are static. status 0: it does not. */
struct fan__http_refusal {
    unsigned status;
    const char *field;
    const char *reason;
};

/* ---- http_body.c ---- */

enum fan__http_framing {
    FAN__HTTP_SIZE_FIRST, /* the first digit of a chunk's size */
    FAN__HTTP_SIZE,
    FAN__HTTP_EXTENSION,
    FAN__HTTP_SIZE_LF,
    FAN__HTTP_DATA,
    FAN__HTTP_DATA_CR,
    FAN__HTTP_DATA_LF,
    FAN__HTTP_TRAILER_FIRST, /* the first byte of a trailer's line */
    FAN__HTTP_TRAILER,
    FAN__HTTP_TRAILER_LF,
    FAN__HTTP_LAST_LF,
    FAN__HTTP_DONE,
};

struct fan__http_body {
    uint64_t left; /* of the body, or of the chunk */
    uint16_t line_size;
    bool chunked;
    uint8_t framing; /* enum fan__http_framing */
};

void fan__http_body_init(struct fan__http_body *body, bool chunked, uint64_t length);

static inline bool fan__http_body_done(const struct fan__http_body *body)
{
    return body->framing == FAN__HTTP_DONE;
}

/*
 * Takes bytes up to the next piece of content, or the end. Gives the bytes consumed; *ret_piece is
 * the content among them, maybe empty. refusal->status is set when the framing is broken.
 */
size_t fan__http_body_feed(struct fan__http_body *body, const char *data, size_t size,
                           struct fan_str *ret_piece, struct fan__http_refusal *refusal);

/* ---- Output: http_output.c ---- */

struct fan__http_out {
    struct fan__http_chunk *chunk;
    uint32_t at; /* next byte to send, and the end, in the chunk's frame */
    uint32_t end;
};

/* A ring of chunks. While nothing waits, its memory is none or that of a few. */
struct fan__http_output {
    struct fan__http_out *ring;
    uint32_t first;
    uint32_t count;
    uint32_t capacity;
    size_t size; /* bytes that wait */
};

/* ---- Connections ---- */

enum fan__http_state {
    FAN__HTTP_HEAD,
    FAN__HTTP_BODY,
    FAN__HTTP_SKIP,
    FAN__HTTP_ANSWER,
    FAN__HTTP_STREAM,
    FAN__HTTP_LINGER,
    FAN__HTTP_CLOSED,
    FAN__HTTP_STATES,
};

/* Each has one time-out, hence a list in the order of deadlines. */
enum fan__http_timer {
    FAN__HTTP_TIMER_IDLE,
    FAN__HTTP_TIMER_HEAD,
    FAN__HTTP_TIMER_BODY,
    FAN__HTTP_TIMER_WRITE,
    FAN__HTTP_TIMER_LINGER,
    FAN__HTTP_TIMERS,
    FAN__HTTP_TIMER_NONE = FAN__HTTP_TIMERS,
};

struct fan__http_connection {
    uv_poll_t poll;
    struct fan__http_loop *loop;
    int fd;
    int events; /* asked of `poll` */
    uint8_t state;
    uint8_t timer;
    bool want_write;   /* the socket took less than there was */
    bool hold;         /* input is there that nobody wants at present */
    bool peer_done;    /* the client sends no more */
    bool shut;         /* we send no more */
    bool broken;       /* to be closed at the end of the turn */
    bool want_drained; /* a stream was told FULL */
    bool dirty;
    bool hung_up;  /* the kernel told that the client sends no more */
    bool streamed; /* its last request was a stream, which may be cut when the server stops */
    uint64_t deadline;
    uint64_t moved; /* bytes since the deadline was set */
    uint64_t skipped;
    struct fan__http_connection *timer_previous;
    struct fan__http_connection *timer_next;
    struct fan__http_connection *previous;
    struct fan__http_connection *next;
    struct fan__http_connection *dirty_next;
    struct fan__http_request *request;
    struct fan__http_body body;
    struct fan__buffer input; /* came early, or is part of a head */
    size_t input_at;          /* up to here it has been taken */
    size_t scanned;           /* of a head: up to the line at hand */
    struct fan__http_output output;
    uint64_t answer_size; /* of large answers in it */
};

struct fan__http_field {
    const char *name;
    const char *value;
};

struct fan__http_request {
    struct fan__http_connection *connection; /* NULL when the client is gone */
    struct fan__http_loop *loop;
    const struct fan__http_route *route;
    const struct fan__http_calls *calls;
    void *calls_context;
    const char *method;
    char *path;
    char *query;         /* raw, or NULL; decoded in place into `parameters` */
    char *segment_space; /* room for the decoded segment */
    const char *segment;
    struct fan__http_field *parameters;
    size_t parameter_count;
    size_t parameter_count_max;
    struct fan__http_field *fields;
    size_t field_count;
    uint64_t content_length;
    uint64_t received; /* of the body */
    struct fan__buffer body;
    struct fan__buffer extra; /* header fields of the answer */
    uint8_t minor;
    bool chunked;
    bool has_body;
    bool is_head;
    bool keep_alive;
    bool expects_continue;
    bool expects_other;
    bool handed;    /* a route will end it */
    bool streaming; /* the head of the answer is out */
    bool frame;     /* with chunked framing */
    bool paused;
};

/* ---- Loops ---- */

struct fan__http_timer_list {
    struct fan__http_connection *first;
    struct fan__http_connection *last;
};

struct fan__http_loop {
    struct fan__http_server *server;
    void *context;
    unsigned index;
    int listen_fd;
    struct fan__thread thread;
    uv_loop_t uv;
    uv_poll_t listen;
    uv_async_t wake;
    uv_prepare_t prepare;
    uv_check_t check;
    uv_idle_t idle;
    uv_timer_t timer;        /* for the lists of deadlines */
    uv_timer_t accept_timer; /* after the system ran out of descriptors */
    uv_timer_t stop_timer;
    char *buffer;                       /* FAN__HTTP_READ_SIZE bytes, for one read */
    struct fan__buffer scratch;         /* for one head */
    struct fan__http_chunk *last_chunk; /* ends a stream */
    struct fan__http_connection *connections;
    struct fan__http_connection *dirty;
    struct fan__http_connection **dirty_end;
    struct fan__http_timer_list timers[FAN__HTTP_TIMERS];
    uint32_t timeouts_ms[FAN__HTTP_TIMERS];
    uint64_t timer_due;
    size_t request_count;
    size_t closing_count; /* connections that libuv still holds */
    uint64_t body_size;   /* of whole bodies held */
    uint64_t body_size_max;
    uint64_t answer_size; /* of large answers that are not sent whole */
    uint64_t answer_size_max;
    bool stopping;
    bool streams_cut; /* the time for their last words is over */
    bool finished;
    uint32_t stop_left_ms;
    int64_t date_s;
    char date[32];
    struct fan__http_counters counters;
    struct fan__http_counters told; /* what was last published */

    /* Under the mutex: what other threads touch. */
    struct fan__mutex mutex;
    struct fan__http_task *tasks;
    struct fan__http_task **tasks_end;
    struct fan__http_counters published;
    bool stop_asked;
    uint32_t stop_timeout_ms;
    bool ended;
};

struct fan__http_server {
    /* With the defaults filled in; of what changes, connection_count_max, under the mutex. */
    struct fan__http_options options;
    char address[80];
    unsigned generation; /* of fan__fork_generation */
    unsigned loop_count;
    struct fan__http_loop *loops;
    bool started;
    bool stopped;

    /* Under the mutex: start and stop of the loops, connections of all of them. */
    struct fan__mutex mutex;
    struct fan__cond cond;
    unsigned loops_ready;
    enum fan_status start_status;
    struct fan_error start_error;
    size_t connection_count;
};

/* http_loop.c */
FAN_MUST_CHECK enum fan_status fan__http_loop_init(struct fan__http_loop *loop,
                                                   struct fan__http_server *server, unsigned index,
                                                   struct fan_error *ret_error);
void fan__http_loop_deinit(struct fan__http_loop *loop);
void fan__http_loop_run(void *loop);
void fan__http_loop_stop(struct fan__http_loop *loop, uint32_t timeout_ms);
const char *fan__http_loop_date(struct fan__http_loop *loop);

/* http_connection.c */
void fan__http_connection_open(struct fan__http_loop *loop, int fd);
void fan__http_connection_turn(struct fan__http_connection *connection);
void fan__http_connection_mark(struct fan__http_connection *connection);
void fan__http_connection_expire(struct fan__http_connection *connection);
void fan__http_connection_stop(struct fan__http_connection *connection);
void fan__http_connection_cut(struct fan__http_connection *connection);
void fan__http_connection_move(struct fan__http_connection *connection, enum fan__http_state state);
void fan__http_connection_resume(struct fan__http_connection *connection);

/* http_timer.c */
void fan__http_timer_init(struct fan__http_loop *loop);
/* For the loop's uv timer: ends what is due, and arms it again. */
void fan__http_timer_fire(uv_timer_t *timer);
void fan__http_timer_set(struct fan__http_connection *connection, enum fan__http_timer timer);

/* http_output.c */
FAN_MUST_CHECK enum fan_status fan__http_output_add(struct fan__http_connection *connection,
                                                    struct fan__http_chunk *chunk, bool frame);
/* Whether it fits into size_max with what waits; one above it fits when nothing waits. */
bool fan__http_output_has_room(const struct fan__http_connection *connection,
                               const struct fan__http_chunk *chunk, size_t size_max);
/* Sends what the socket takes. False when the connection failed. */
bool fan__http_output_flush(struct fan__http_connection *connection);
void fan__http_output_deinit(struct fan__http_connection *connection);

/* http_head.c */

/* "Not Found". Static. */
const char *fan__http_status_text(unsigned status);

/*
 * Looks for the end of a head in `size` bytes. Gives its size, or 0 when more is needed or, with
 * refusal->status set, when it is refused. *scanned is where to go on, 0 at first.
 */
size_t fan__http_head_find(const char *data, size_t size, size_t *scanned,
                           struct fan__http_refusal *refusal);

/* Makes a request of a whole head. Returns: FAN_INVALID with the refusal, FAN_NO_MEMORY. */
FAN_MUST_CHECK enum fan_status fan__http_head_parse(struct fan__http_loop *loop, const char *data,
                                                    size_t size,
                                                    struct fan__http_request **ret_request,
                                                    struct fan__http_refusal *refusal);

/* http_route.c */

/* Finds the route and decodes segment and query; when it refuses, the request has been answered. */
bool fan__http_route_request(struct fan__http_request *request);

/* http_request.c */
void fan__http_request_free(struct fan__http_request *request);
/* Takes the request off its connection, and tells the route, or frees what no route holds. */
void fan__http_request_lose(struct fan__http_request *request);

/* http_response.c */

/* The server's own last word on a connection, without a request: then LINGER. */
void fan__http_refuse(struct fan__http_connection *connection,
                      const struct fan__http_refusal *refusal);
void fan__http_send_continue(struct fan__http_connection *connection);
/* Answers that too much is waiting for slow clients already. */
void fan__http_refuse_large(struct fan__http_request *request);
void fan__http_answer_allow(struct fan__http_request *request, unsigned status, const char *allow);

#endif
