/* See hub.h. */
#include "server/hub.h"

#include "base/env.h"
#include "base/status.h"
#include "server/daemon.h"
#include "server/sse.h"
#include "server/stream.h"

#include <fanfare/batch.h>

#include <assert.h>
#include <string.h>

#define TICK_MS 1000
#define RETRY_MS 100
/* Events taken from the ring in one go, so that a flood leaves the loop time for the rest. */
#define GIVE_COUNT_MAX 256
#define BUFFER_COUNT 8192
#define PAGE_COUNT 1000

struct fan__desk *fan__hub_desk(struct fan__hub *hub)
{
    return &hub->desk;
}

void fan__hub_publish(struct fan__hub *hub)
{
    hub->counters.live = hub->index.count;
    fan__mutex_lock(&hub->mutex);
    hub->published = hub->counters;
    fan__mutex_unlock(&hub->mutex);
}

/* ---- Giving events to the live ---- */

struct giving {
    struct fan__hub *hub;
    const struct fan_event *event;
    struct fan__http_chunk *chunk;
    bool failed;
};

static struct fan__http_chunk *encode(struct fan__hub *hub, const struct fan_event *event)
{
    struct fan__buffer *scratch = &hub->scratch;
    fan__buffer_clear(scratch);
    fan__sse_add_event(scratch, event, hub->daemon->epoch);
    if (scratch->failed)
        return NULL;
    struct fan__http_chunk *chunk = fan__http_chunk_new(hub->daemon->env, scratch->size);
    if (!chunk)
        return NULL;
    memcpy(fan__http_chunk_data(chunk), scratch->data, scratch->size);
    hub->counters.encoded++;
    return chunk;
}

static void on_match(void *context, struct fan__index_entry *entry)
{
    struct giving *giving = context;
    struct fan__stream *stream =
        (struct fan__stream *)((char *)entry - offsetof(struct fan__stream, entry));
    uint64_t seq = fan_event_seq(giving->event);
    if (stream->cursor.seq >= seq)
        return;
    if (!giving->chunk && !giving->failed) {
        giving->chunk = encode(giving->hub, giving->event);
        giving->failed = !giving->chunk;
    }
    fan__stream_give(stream, seq, giving->chunk);
}

static void give(struct fan__hub *hub, const struct fan_event *event)
{
    if (fan__cursor_event(&hub->cursor, fan_event_seq(event)) == FAN__CURSOR_SKIP)
        return;
    struct giving giving = { .hub = hub, .event = event };
    if (hub->index.count > 0)
        fan__index_match(&hub->index, event, on_match, &giving);
    fan__http_chunk_unref(giving.chunk);
}

/* ---- Pages ---- */

static void release(struct fan__hub *hub);

static void on_page_run(struct fan__job *job)
{
    struct fan__page *page = (struct fan__page *)job;
    page->status = fan_store_read(page->hub->daemon->store, page->after_seq, &page->query,
                                  page->batch, &page->result);
}

static void start_page(struct fan__page *page, uint64_t after_seq, size_t limit)
{
    struct fan__hub *hub = page->hub;
    page->busy = true;
    page->after_seq = after_seq;
    page->query.limit = limit;
    hub->held++;
    hub->counters.pages++;
    fan__job_start(hub->loop, &page->job);
}

static const char *copy_text(char *room, const char *text)
{
    return text ? strcpy(room, text) : NULL;
}

void fan__hub_read(struct fan__hub *hub)
{
    for (size_t i = 0; i < FAN__HUB_PAGES && hub->queue; i++) {
        struct fan__page *page = &hub->pages[i];
        if (page->busy)
            continue;
        struct fan__stream *stream = hub->queue;
        hub->queue = stream->queue_next;
        if (!hub->queue)
            hub->queue_end = &hub->queue;
        stream->state = FAN__STREAM_READING;
        stream->page = page;
        page->stream = stream;
        page->query = (struct fan_query){
            .size = FAN_QUERY_SIZE,
            .topic = copy_text(page->topic, stream->topic),
            .pattern = copy_text(page->pattern, stream->pattern),
        };
        start_page(page, stream->cursor.seq, stream->limit);
    }
}

static void on_stream_page(struct fan__job *job)
{
    struct fan__page *page = (struct fan__page *)job;
    struct fan__hub *hub = page->hub;
    struct fan__stream *stream = page->stream;
    page->stream = NULL;
    if (stream) {
        stream->page = NULL;
        fan__stream_take_page(stream, page);
    }
    page->busy = false;
    fan_batch_clear(page->batch);
    if (!hub->closing) {
        fan__hub_read(hub);
        fan__hub_publish(hub);
    }
    release(hub);
}

static void on_readable(uv_poll_t *poll, int status, int events);

static void watch(struct fan__hub *hub)
{
    if (!hub->watching && !hub->closing)
        uv_poll_start(&hub->poll, UV_READABLE, on_readable);
    hub->watching = true;
}

static void unwatch(struct fan__hub *hub)
{
    if (hub->watching)
        uv_poll_stop(&hub->poll);
    hub->watching = false;
}

/* The log no longer holds what the hub has to read: each live stream finds that out by itself. */
static void lose_place(struct fan__hub *hub, uint64_t after_seq)
{
    struct fan__stream *next;
    for (struct fan__stream *stream = hub->streams; stream; stream = next) {
        next = stream->next;
        if (stream->state == FAN__STREAM_LIVE)
            fan__stream_leave(stream, after_seq);
    }
}

static void read_own(struct fan__hub *hub)
{
    if (!hub->own.busy)
        start_page(&hub->own, hub->cursor.seq, PAGE_COUNT);
}

static void on_own_page(struct fan__job *job)
{
    struct fan__page *page = (struct fan__page *)job;
    struct fan__hub *hub = page->hub;
    page->busy = false;
    if (hub->closing || page->status != FAN_OK) {
        if (page->status != FAN_OK)
            fan__log(hub->daemon->env, FAN_LOG_WARNING, "streams wait: the log cannot be read: %s",
                     fan_status_text(page->status));
        /* The tick tries again. */
        release(hub);
        return;
    }
    uint64_t after_seq = hub->cursor.seq;
    if (fan__cursor_page(&hub->cursor, &page->result) == FAN__CURSOR_TELL_GAP)
        lose_place(hub, after_seq);
    for (size_t i = 0; i < fan_batch_count(page->batch); i++)
        give(hub, fan_batch_event(page->batch, i));
    fan__cursor_page_end(&hub->cursor, &page->result);
    fan_batch_clear(page->batch);
    fan__claims_wake(&hub->claims);
    if (hub->cursor.state == FAN__CURSOR_LIVE)
        watch(hub);
    else
        read_own(hub);
    fan__hub_publish(hub);
    release(hub);
}

/* ---- The ring ---- */

/* False when there is nothing more to take now. */
static bool take_one(struct fan__hub *hub)
{
    const struct fan_event *event;
    struct fan_gap gap;
    switch (fan_reader_next(hub->reader, 0, &event)) {
    case FAN_OK:
        give(hub, event);
        return true;
    case FAN_GAP:
        fan_reader_gap(hub->reader, &gap);
        if (fan__cursor_ring_gap(&hub->cursor, &gap) == FAN__CURSOR_SKIP &&
            hub->cursor.state == FAN__CURSOR_LIVE)
            return true;
        unwatch(hub);
        read_own(hub);
        return false;
    case FAN_CLOSED:
        unwatch(hub);
        return false;
    default:
        return false;
    }
}

static void take(struct fan__hub *hub)
{
    for (int i = 0; i < GIVE_COUNT_MAX && take_one(hub); i++)
        ;
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
    struct fan__hub *hub = poll->data;
    (void)status;
    (void)events;
    take(hub);
    fan__claims_wake(&hub->claims);
    fan__hub_publish(hub);
}

static void on_tick(uv_timer_t *timer)
{
    struct fan__hub *hub = timer->data;
    uint64_t now_ms = uv_now(fan__http_loop_uv(hub->loop));
    struct fan__stream *next;
    for (struct fan__stream *stream = hub->streams; stream; stream = next) {
        next = stream->next;
        fan__stream_tick(stream, now_ms);
    }
    /* A loss behind which nothing came makes no reader readable. */
    if (hub->cursor.state == FAN__CURSOR_BEHIND)
        read_own(hub);
    else if (hub->cursor.state == FAN__CURSOR_LIVE)
        take(hub);
    fan__hub_read(hub);
    fan__hub_publish(hub);
}

/* ---- Life ---- */

static void free_hub(struct fan__hub *hub)
{
    const struct fan_env *env = hub->daemon->env;
    for (size_t i = 0; i < FAN__HUB_PAGES; i++)
        fan_batch_free(hub->pages[i].batch);
    fan_batch_free(hub->own.batch);
    fan_reader_free(hub->reader);
    fan__index_deinit(&hub->index);
    fan__buffer_deinit(&hub->scratch);
    fan__mutex_deinit(&hub->mutex);
    fan__free(env, hub);
}

/* Something that libuv had has come back; the last of them, after the close, frees. */
static void release(struct fan__hub *hub)
{
    assert(hub->held > 0);
    hub->held--;
    if (hub->closing && hub->held == 0)
        free_hub(hub);
}

static void on_closed(uv_handle_t *handle)
{
    release(handle->data);
}

static void init_page(struct fan__page *page, struct fan__hub *hub,
                      void (*done)(struct fan__job *job))
{
    page->hub = hub;
    page->job.run = on_page_run;
    page->job.done = done;
    page->query.size = FAN_QUERY_SIZE;
}

static enum fan_status open_reader(struct fan__hub *hub, int *ret_fd, struct fan_error *error)
{
    /* What the ring loses is told, and read on a thread that may wait. */
    struct fan_reader_options options = {
        .size = FAN_READER_OPTIONS_SIZE,
        .policy = FAN_POLICY_DROP_OLDEST,
        .buffer_count = BUFFER_COUNT,
    };
    enum fan_status status =
        fan_broker_subscribe(hub->daemon->broker, &options, &hub->reader, error);
    for (size_t i = 0; i < FAN__HUB_PAGES && status == FAN_OK; i++)
        status = fan_batch_new(hub->daemon->env, &hub->pages[i].batch);
    if (status == FAN_OK)
        status = fan_batch_new(hub->daemon->env, &hub->own.batch);
    if (status == FAN_OK)
        status = fan_reader_fd(hub->reader, ret_fd);
    if (status != FAN_OK && hub->reader)
        return fan__fail(error, status, "", "the streams cannot be set up: %s",
                         fan_status_text(status));
    return status;
}

enum fan_status fan__hub_open(struct fan__daemon *daemon, struct fan__http_loop *loop,
                              struct fan__hub **ret_hub, struct fan_error *ret_error)
{
    struct fan__hub *hub = fan__alloc_zero(daemon->env, 1, sizeof(*hub));
    if (!hub)
        return fan__fail(ret_error, FAN_NO_MEMORY, "", "out of memory");
    hub->daemon = daemon;
    hub->loop = loop;
    hub->queue_end = &hub->queue;
    fan__mutex_init(&hub->mutex);
    fan__buffer_init(&hub->scratch, daemon->env);
    fan__index_init(&hub->index, daemon->env);
    fan__desk_init(&hub->desk, daemon, loop);
    fan__turns_init(&hub->questions, loop);
    fan__turns_init(&hub->chores, loop);
    fan__claims_init(&hub->claims, daemon, loop, &hub->chores);
    uv_timer_init(fan__http_loop_uv(loop), &hub->tick);
    hub->tick.data = hub->desk.timer.data = hub->claims.timer.data = hub->poll.data = hub;
    hub->held = 3;
    for (size_t i = 0; i < FAN__HUB_PAGES; i++)
        init_page(&hub->pages[i], hub, on_stream_page);
    init_page(&hub->own, hub, on_own_page);
    int fd;
    enum fan_status status = open_reader(hub, &fd, ret_error);
    if (status == FAN_OK && uv_poll_init(fan__http_loop_uv(loop), &hub->poll, fd) != 0)
        status = fan__fail(ret_error, FAN_IO, "", "the bus cannot be watched");
    if (status != FAN_OK) {
        fan__hub_close(hub);
        return status;
    }
    hub->held++;
    struct fan_cursor place;
    fan_reader_cursor(hub->reader, &place);
    fan__cursor_init(&hub->cursor, place.seq, true, true);
    watch(hub);
    uv_timer_start(&hub->tick, on_tick, TICK_MS, TICK_MS);
    fan__mutex_lock(&daemon->mutex);
    hub->next = daemon->hubs;
    daemon->hubs = hub;
    fan__mutex_unlock(&daemon->mutex);
    *ret_hub = hub;
    return FAN_OK;
}

void fan__hub_close(struct fan__hub *hub)
{
    struct fan__daemon *daemon = hub->daemon;
    assert(!hub->streams && !hub->queue);
    hub->closing = true;
    fan__mutex_lock(&daemon->mutex);
    struct fan__hub **link = &daemon->hubs;
    while (*link && *link != hub)
        link = &(*link)->next;
    if (*link)
        *link = hub->next;
    fan__mutex_unlock(&daemon->mutex);
    uv_close((uv_handle_t *)&hub->tick, on_closed);
    fan__desk_close(&hub->desk, on_closed);
    fan__claims_close(&hub->claims, on_closed);
    if (hub->poll.type == UV_POLL)
        uv_close((uv_handle_t *)&hub->poll, on_closed);
}
