/* See stream.h. */
#include "server/stream.h"

#include "base/buffer.h"
#include "base/env.h"
#include "base/status.h"
#include "server/daemon.h"
#include "server/reply.h"
#include "server/sse.h"

#include <fanfare/batch.h>
#include <fanfare/pattern.h>

#include <assert.h>
#include <stdio.h>
#include <string.h>

#define LIMIT_MIN 16
#define LIMIT_FIRST 256
#define LIMIT_MAX 1000
/* Frames of a page leave in chunks of about this size. */
#define CHUNK_SIZE ((size_t)32 * 1024)
#define RETRY_MS_MIN 1000
#define RETRY_MS_SPREAD 2000

#define STATE(name) (1U << FAN__STREAM_##name)

static const unsigned moves[FAN__STREAM_STATES] = {
    [FAN__STREAM_QUEUED] = STATE(READING),
    [FAN__STREAM_READING] = STATE(QUEUED) | STATE(FULL) | STATE(PAUSED) | STATE(LIVE),
    [FAN__STREAM_FULL] = STATE(QUEUED),
    [FAN__STREAM_PAUSED] = STATE(QUEUED),
    [FAN__STREAM_LIVE] = STATE(FULL) | STATE(PAUSED) | STATE(QUEUED),
};

static void move(struct fan__stream *stream, enum fan__stream_state state)
{
    assert(moves[stream->state] & 1U << state);
    (void)moves; /* without assertions nothing else names it */
    stream->state = state;
}

static void wait_for_page(struct fan__stream *stream)
{
    struct fan__hub *hub = stream->hub;
    stream->queue_next = NULL;
    *hub->queue_end = stream;
    hub->queue_end = &stream->queue_next;
}

/* ---- Sending ---- */

static enum fan_status send_bytes(struct fan__stream *stream, const struct fan__buffer *bytes)
{
    if (bytes->failed)
        return FAN_NO_MEMORY;
    struct fan__http_chunk *chunk = fan__http_chunk_new(stream->hub->daemon->env, bytes->size);
    if (!chunk)
        return FAN_NO_MEMORY;
    memcpy(fan__http_chunk_data(chunk), bytes->data, bytes->size);
    enum fan_status status = fan__http_stream_send(stream->request, chunk);
    fan__http_chunk_unref(chunk);
    if (status == FAN_OK)
        stream->sent_ms = uv_now(fan__http_loop_uv(stream->hub->loop));
    return status;
}

/* What a stream does that could not be sent something. */
static enum fan__stream_state state_after(enum fan_status status)
{
    /* A client that is gone waits for its end; nothing drains it any more. */
    return status == FAN_FULL || status == FAN_CLOSED ? FAN__STREAM_FULL : FAN__STREAM_PAUSED;
}

void fan__stream_leave(struct fan__stream *stream, uint64_t after_seq)
{
    struct fan_gap gap = { .reason = FAN_GAP_OVERFLOW, .count = FAN_GAP_COUNT_UNKNOWN };
    fan__index_remove(&stream->hub->index, &stream->entry);
    (void)fan__cursor_event(&stream->cursor, after_seq);
    gap.after = stream->cursor.seq;
    gap.before = stream->cursor.seq + 2;
    enum fan__cursor_action action = fan__cursor_ring_gap(&stream->cursor, &gap);
    assert(action == FAN__CURSOR_SKIP && stream->cursor.state == FAN__CURSOR_BEHIND);
    (void)action;
    stream->hub->counters.fallbacks++;
    move(stream, FAN__STREAM_QUEUED);
    wait_for_page(stream);
}

void fan__stream_give(struct fan__stream *stream, uint64_t seq, struct fan__http_chunk *chunk)
{
    enum fan_status status = FAN_NO_MEMORY;
    if (chunk)
        status = fan__http_stream_send(stream->request, chunk);
    if (status == FAN_OK) {
        (void)fan__cursor_event(&stream->cursor, seq);
        stream->sent_ms = uv_now(fan__http_loop_uv(stream->hub->loop));
        stream->hub->counters.delivered++;
        return;
    }
    fan__index_remove(&stream->hub->index, &stream->entry);
    (void)fan__cursor_event(&stream->cursor, seq - 1);
    struct fan_gap gap = { .after = seq - 1, .before = seq + 1, .reason = FAN_GAP_OVERFLOW };
    (void)fan__cursor_ring_gap(&stream->cursor, &gap);
    stream->hub->counters.fallbacks++;
    move(stream, state_after(status));
}

/* ---- Catching up ---- */

/* Joins the live if the hub is no further than the stream. */
static void join(struct fan__stream *stream)
{
    struct fan__hub *hub = stream->hub;
    if (stream->cursor.state == FAN__CURSOR_LIVE && hub->cursor.seq > stream->cursor.seq) {
        struct fan_gap gap = { .after = stream->cursor.seq,
                               .before = hub->cursor.seq + 1,
                               .reason = FAN_GAP_OVERFLOW };
        (void)fan__cursor_ring_gap(&stream->cursor, &gap);
    }
    if (stream->cursor.state == FAN__CURSOR_LIVE &&
        fan__index_add(&hub->index, &stream->entry) == FAN_OK) {
        move(stream, FAN__STREAM_LIVE);
        return;
    }
    if (stream->cursor.state == FAN__CURSOR_LIVE) {
        /* No memory for its place among the live: it goes on reading. */
        struct fan_gap gap = { .after = stream->cursor.seq, .before = stream->cursor.seq + 2 };
        (void)fan__cursor_ring_gap(&stream->cursor, &gap);
        move(stream, FAN__STREAM_PAUSED);
        return;
    }
    move(stream, FAN__STREAM_QUEUED);
    wait_for_page(stream);
}

static enum fan_status send_gap(struct fan__stream *stream)
{
    struct fan__buffer *scratch = &stream->hub->scratch;
    struct fan_cursor behind = { stream->cursor.seq, stream->hub->daemon->epoch };
    fan__buffer_clear(scratch);
    fan__sse_add_gap(scratch, &stream->cursor.gap, &behind);
    enum fan_status status = send_bytes(stream, scratch);
    stream->gap_owed = status != FAN_OK;
    if (status == FAN_OK)
        stream->hub->counters.gaps++;
    return status;
}

/* Sends what was gathered, which goes up to `seq`. */
static enum fan_status flush(struct fan__stream *stream, uint64_t seq, uint64_t count)
{
    struct fan__buffer *scratch = &stream->hub->scratch;
    if (count == 0)
        return FAN_OK;
    enum fan_status status = send_bytes(stream, scratch);
    fan__buffer_clear(scratch);
    if (status != FAN_OK)
        return status;
    (void)fan__cursor_event(&stream->cursor, seq);
    stream->hub->counters.delivered += count;
    stream->hub->counters.encoded += count;
    return FAN_OK;
}

/* Sends a page's events as far as there is room, and tells how many fitted. */
static enum fan_status send_page(struct fan__stream *stream, const struct fan_batch *batch,
                                 size_t *ret_sent)
{
    struct fan__hub *hub = stream->hub;
    size_t gathered = 0;
    uint64_t last_seq = 0;
    enum fan_status status = FAN_OK;
    fan__buffer_clear(&hub->scratch);
    *ret_sent = 0;
    for (size_t i = 0; i < fan_batch_count(batch) && status == FAN_OK; i++) {
        const struct fan_event *event = fan_batch_event(batch, i);
        if (fan_event_seq(event) <= stream->cursor.seq)
            continue;
        fan__sse_add_event(&hub->scratch, event, hub->daemon->epoch);
        last_seq = fan_event_seq(event);
        gathered++;
        if (hub->scratch.size < CHUNK_SIZE)
            continue;
        status = flush(stream, last_seq, gathered);
        *ret_sent += status == FAN_OK ? gathered : 0;
        gathered = 0;
    }
    if (status == FAN_OK)
        status = flush(stream, last_seq, gathered);
    if (status == FAN_OK)
        *ret_sent += gathered;
    return status;
}

/* The next page is as long as the client's room was for this one. */
static void adapt(struct fan__stream *stream, bool all_fitted, size_t sent)
{
    if (all_fitted)
        stream->limit *= 2;
    else
        stream->limit = sent + sent / 4;
    if (stream->limit < LIMIT_MIN)
        stream->limit = LIMIT_MIN;
    if (stream->limit > LIMIT_MAX)
        stream->limit = LIMIT_MAX;
}

void fan__stream_take_page(struct fan__stream *stream, struct fan__page *page)
{
    if (page->status != FAN_OK) {
        fan__log(stream->hub->daemon->env, FAN_LOG_WARNING,
                 "a stream waits: the log cannot be read: %s", fan_status_text(page->status));
        move(stream, FAN__STREAM_PAUSED);
        return;
    }
    enum fan_status status = stream->gap_owed ? send_gap(stream) : FAN_OK;
    bool again = false;
    if (status == FAN_OK &&
        fan__cursor_page(&stream->cursor, &page->result) == FAN__CURSOR_TELL_GAP) {
        /* The page of a cursor from another log is not the one that follows its gap. */
        again = stream->cursor.gap.reason == FAN_GAP_EPOCH;
        status = send_gap(stream);
    }
    stream->placed = true;
    size_t sent = 0;
    if (status == FAN_OK && !again) {
        status = send_page(stream, page->batch, &sent);
        adapt(stream, status == FAN_OK, sent);
    }
    if (status != FAN_OK) {
        move(stream, state_after(status));
    } else if (again) {
        move(stream, FAN__STREAM_QUEUED);
        wait_for_page(stream);
    } else {
        fan__cursor_page_end(&stream->cursor, &page->result);
        join(stream);
    }
}

/* ---- Calls from below ---- */

void fan__stream_tick(struct fan__stream *stream, uint64_t now_ms)
{
    struct fan__hub *hub = stream->hub;
    if (stream->state == FAN__STREAM_PAUSED) {
        move(stream, FAN__STREAM_QUEUED);
        wait_for_page(stream);
    }
    if (now_ms - stream->sent_ms < fan__number_get(&hub->daemon->keep_alive_ms))
        return;
    struct fan_cursor place = { stream->cursor.seq, hub->daemon->epoch };
    if (stream->state == FAN__STREAM_LIVE && hub->cursor.seq > place.seq)
        place.seq = hub->cursor.seq;
    bool told = stream->placed && !stream->gap_owed;
    fan__buffer_clear(&hub->scratch);
    fan__sse_add_comment(&hub->scratch, told ? &place : NULL);
    /* Who has no room for it is not idle. */
    (void)send_bytes(stream, &hub->scratch);
}

static void remove_from_queue(struct fan__stream *stream)
{
    struct fan__hub *hub = stream->hub;
    struct fan__stream **link = &hub->queue;
    while (*link != stream)
        link = &(*link)->queue_next;
    *link = stream->queue_next;
    if (!*link)
        hub->queue_end = link;
}

static void free_stream(struct fan__stream *stream)
{
    struct fan__hub *hub = stream->hub;
    if (stream->page)
        stream->page->stream = NULL;
    if (stream->state == FAN__STREAM_QUEUED)
        remove_from_queue(stream);
    fan__index_remove(&hub->index, &stream->entry);
    if (stream->previous)
        stream->previous->next = stream->next;
    else
        hub->streams = stream->next;
    if (stream->next)
        stream->next->previous = stream->previous;
    hub->counters.streams--;
    fan__hub_publish(hub);
    fan__free(hub->daemon->env, stream->topic);
    fan__free(hub->daemon->env, stream->pattern);
    fan__free(hub->daemon->env, stream);
}

static void on_gone(struct fan__http_request *request, void *context)
{
    free_stream(context);
    fan__http_drop(request);
}

static void on_closing(struct fan__http_request *request, void *context)
{
    free_stream(context);
    fan__http_stream_end(request);
}

static void on_drained(struct fan__http_request *request, void *context)
{
    struct fan__stream *stream = context;
    (void)request;
    /* A comment that found no room drains, too. */
    if (stream->state != FAN__STREAM_FULL)
        return;
    move(stream, FAN__STREAM_QUEUED);
    wait_for_page(stream);
    fan__hub_read(stream->hub);
}

/* ---- The route ---- */

/* Where the client wants to begin; *ret_given is false for live. */
static enum fan_status read_place(struct fan__http_request *request, struct fan_cursor *ret_place,
                                  bool *ret_given, struct fan_error *error)
{
    /* EventSource repeats the URL when it reconnects, so what it saw last counts more. */
    const char *field = "Last-Event-ID";
    const char *text = fan__http_header(request, field);
    if (!text || !*text) {
        field = "after";
        text = fan__http_query(request, field);
    }
    *ret_given = text != NULL;
    if (!text)
        return FAN_OK;
    enum fan_status status = fan_cursor_parse(text, ret_place, error);
    if (status != FAN_OK)
        snprintf(error->field, sizeof(error->field), "%s", field);
    return status;
}

static struct fan__stream *make_stream(struct fan__http_request *request)
{
    struct fan__hub *hub = fan__http_loop_context(fan__http_loop(request));
    const struct fan_env *env = hub->daemon->env;
    const char *topic = fan__http_query(request, "topic");
    const char *pattern = fan__http_query(request, "type");
    struct fan__stream *stream = fan__alloc_zero(env, 1, sizeof(*stream));
    if (!stream)
        return NULL;
    stream->topic = topic ? fan__strdup(env, topic) : NULL;
    stream->pattern = pattern ? fan__strdup(env, pattern) : NULL;
    if ((topic && !stream->topic) || (pattern && !stream->pattern)) {
        fan__free(env, stream->topic);
        fan__free(env, stream->pattern);
        fan__free(env, stream);
        return NULL;
    }
    stream->request = request;
    stream->hub = hub;
    stream->entry.topic = stream->topic;
    stream->entry.pattern = stream->pattern;
    stream->limit = LIMIT_FIRST;
    stream->next = hub->streams;
    if (stream->next)
        stream->next->previous = stream;
    hub->streams = stream;
    hub->counters.streams++;
    hub->counters.opened++;
    return stream;
}

/* Gives it its place, live or behind; it is QUEUED or LIVE then. */
static void place(struct fan__stream *stream, const struct fan_cursor *from)
{
    struct fan__hub *hub = stream->hub;
    uint64_t epoch = hub->daemon->epoch;
    bool foreign = from && from->epoch != 0 && from->epoch != epoch;
    bool live = !from || (!foreign && from->seq == hub->cursor.seq);
    fan__cursor_init(&stream->cursor, from ? from->seq : hub->cursor.seq, live, true);
    stream->cursor.foreign = foreign;
    stream->placed = live;
    if (live) {
        stream->state = FAN__STREAM_READING;
        join(stream);
    } else {
        stream->state = FAN__STREAM_QUEUED;
        wait_for_page(stream);
    }
}

static enum fan_status check_filter(struct fan__http_request *request, struct fan_error *error)
{
    const char *topic = fan__http_query(request, "topic");
    const char *pattern = fan__http_query(request, "type");
    if (topic && strlen(topic) > FAN_TEXT_SIZE_MAX)
        return fan__fail(error, FAN_INVALID, "topic", "is longer than %d bytes", FAN_TEXT_SIZE_MAX);
    enum fan_status status = pattern ? fan_pattern_check(pattern, error) : FAN_OK;
    if (status != FAN_OK)
        snprintf(error->field, sizeof(error->field), "type");
    return status;
}

void fan__stream_handle(struct fan__http_request *request)
{
    static const struct fan__http_calls calls = { .gone = on_gone,
                                                  .drained = on_drained,
                                                  .closing = on_closing };
    struct fan__hub *hub = fan__http_loop_context(fan__http_loop(request));
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_cursor from;
    bool given;
    enum fan_status status = read_place(request, &from, &given, &error);
    if (status == FAN_OK)
        status = check_filter(request, &error);
    if (status != FAN_OK) {
        fan__reply_fault(request, status, &error);
        return;
    }
    struct fan__stream *stream = make_stream(request);
    if (!stream) {
        fan__reply_busy(request, NULL, "out of memory");
        return;
    }
    place(stream, given ? &from : NULL);
    fan__http_add_header(request, "Cache-Control", "no-cache, no-transform");
    fan__http_add_header(request, "X-Accel-Buffering", "no");
    fan__http_attach(request, &calls, stream);
    if (fan__http_stream_start(request, 200, "text/event-stream") != FAN_OK) {
        free_stream(stream);
        return;
    }
    uint16_t jitter;
    fan__random(hub->daemon->env, &jitter, sizeof(jitter));
    fan__buffer_clear(&hub->scratch);
    /* Who is live from here and loses the connection before any event comes back to this place. */
    struct fan_cursor here = { stream->cursor.seq, hub->daemon->epoch };
    fan__sse_add_retry(&hub->scratch, RETRY_MS_MIN + jitter % RETRY_MS_SPREAD,
                       stream->placed ? &here : NULL);
    /* Without memory it goes without; nothing else of it can have filled the buffer. */
    (void)send_bytes(stream, &hub->scratch);
    fan__hub_read(hub);
    fan__hub_publish(hub);
}
