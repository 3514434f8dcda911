/* See publish.h. */
#include "server/publish.h"

#include "base/env.h"
#include "base/status.h"
#include "server/convert.h"
#include "server/daemon.h"
#include "server/hub.h"
#include "server/intake.h"
#include "server/outcome.h"
#include "server/reply.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define SLOT_COUNT 256
/* How many are done before the loop is told while more are on their way. */
#define READY_COUNT 256
#define RETRY_MS 5
/* As long as fan_broker_publish waits for room. */
#define WAIT_NS_MAX (30000 * FAN__NS_PER_MS)

/* One event. `done` and what follows it are written under the lock of its publish. */
struct slot {
    struct fan__publish *publish;
    uint64_t number;
    uint32_t size;
    bool refused; /* by us, before it was submitted */
    bool done;
    bool duplicate;
    enum fan_status status;
    uint64_t seq;
};

/* Slots do not move: the writer knows their places. */
struct block {
    struct block *next;
    uint32_t capacity;
    uint32_t used;  /* the loop's */
    uint32_t taken; /* the loop's */
    struct slot slots[];
};

/*
 * texts: for each slot, in order, what is to be told of it and is known before: the id of an event
 * and "", or the field and the reason of a refusal; each ends in NUL.
 */
struct fan__publish {
    struct fan__http_request *request;
    struct fan__http_loop *loop;
    struct fan__daemon *daemon;
    struct fan__desk *desk;
    enum fan__form form;
    bool alone; /* one event, answered by itself */
    bool open;  /* the body is there and its kind is known */
    bool ended; /* nothing more will come of it */
    bool gone;
    bool busy; /* to be answered with 503 */
    bool waits;
    struct fan__publish *waiting_next;
    struct fan__intake intake;
    struct fan__outcome outcome;
    struct fan__buffer texts;
    size_t texts_at;
    struct block *first;
    struct block *last;
    size_t count;            /* slots not taken */
    size_t size;             /* bytes of their events */
    uint64_t held_size;      /* as counted in the desk */
    struct fan_event *event; /* found no room in the queue yet */
    struct slot *event_slot;
    int64_t wait_until_ns;

    /* Under the mutex, together with what slots say. */
    struct fan__mutex mutex;
    size_t in_flight;
    size_t ready;
    bool posted;
    struct fan_error fault; /* the words of the first failure */
    struct fan__http_task task;
};

static void advance(struct fan__publish *publish);

/* ---- The queue of slots ---- */

static struct slot *slot_add(struct fan__publish *publish)
{
    struct block *block = publish->last;
    if (!block || block->used == block->capacity) {
        uint32_t capacity = publish->alone ? 1 : SLOT_COUNT;
        block = fan__alloc(publish->daemon->env, sizeof(*block) + capacity * sizeof(struct slot));
        if (!block)
            return NULL;
        block->next = NULL;
        block->capacity = capacity;
        block->used = block->taken = 0;
        if (publish->last)
            publish->last->next = block;
        else
            publish->first = block;
        publish->last = block;
    }
    struct slot *slot = &block->slots[block->used++];
    *slot = (struct slot){ .publish = publish, .number = publish->intake.number };
    publish->count++;
    return slot;
}

/* Takes the front if it is done and may be taken. */
static bool slot_take(struct fan__publish *publish, struct slot *ret_slot)
{
    struct block *block = publish->first;
    if (!block || block->taken == block->used)
        return false;
    fan__mutex_lock(&publish->mutex);
    *ret_slot = block->slots[block->taken];
    /* Taking the slot of one event ends its publish, which must outlive a task on its way. */
    bool ready = ret_slot->done && !(publish->alone && publish->posted);
    fan__mutex_unlock(&publish->mutex);
    if (!ready)
        return false;
    publish->count--;
    publish->size -= ret_slot->size;
    if (++block->taken == block->capacity) {
        publish->first = block->next;
        if (!publish->first)
            publish->last = NULL;
        fan__free(publish->daemon->env, block);
    }
    return true;
}

/* Adds a slot with its two texts; NULL without memory. */
static struct slot *slot_add_with(struct fan__publish *publish, const char *first,
                                  const char *second)
{
    struct fan__buffer *texts = &publish->texts;
    if (publish->texts_at == texts->size) {
        fan__buffer_clear(texts);
        publish->texts_at = 0;
    }
    size_t first_size = strlen(first) + 1;
    size_t second_size = strlen(second) + 1;
    if (!fan__buffer_reserve(texts, first_size + second_size))
        return NULL;
    struct slot *slot = slot_add(publish);
    if (!slot)
        return NULL;
    fan__buffer_add(texts, first, first_size);
    fan__buffer_add(texts, second, second_size);
    return slot;
}

static struct slot *slot_add_event(struct fan__publish *publish, struct fan_event *event)
{
    struct slot *slot = slot_add_with(publish, fan_event_id(event), "");
    if (!slot) {
        fan_event_free(event, publish->daemon->env);
        return NULL;
    }
    slot->size = (uint32_t)fan_event_size(event);
    publish->size += slot->size;
    publish->event = event;
    publish->event_slot = slot;
    return slot;
}

static const char *text_take(struct fan__publish *publish)
{
    const char *text = publish->texts.data + publish->texts_at;
    publish->texts_at += strlen(text) + 1;
    return text;
}

/* ---- Between the loop and the writer ---- */

static void on_task(struct fan__http_task *task)
{
    struct fan__publish *publish =
        (struct fan__publish *)((char *)task - offsetof(struct fan__publish, task));
    fan__mutex_lock(&publish->mutex);
    publish->posted = false;
    publish->ready = 0;
    fan__mutex_unlock(&publish->mutex);
    advance(publish);
}

/* The loop lives: a request of it is not ended before its events are. */
static void post_task(struct fan__publish *publish)
{
    enum fan_status status = fan__http_post(publish->loop, &publish->task);
    assert(status == FAN_OK);
    (void)status;
}

/* On the writer's thread. */
static void on_published(void *context, const struct fan_published *published)
{
    struct slot *slot = context;
    struct fan__publish *publish = slot->publish;
    fan__mutex_lock(&publish->mutex);
    slot->status = published->status;
    slot->duplicate = published->duplicate;
    slot->seq = published->cursor.seq;
    slot->done = true;
    if (published->status != FAN_OK && publish->fault.status == FAN_OK && published->error)
        publish->fault = *published->error;
    publish->in_flight--;
    publish->ready++;
    /* While more is on its way there will be another call; the last one always tells. */
    bool post = !publish->posted && (publish->in_flight == 0 || publish->ready >= READY_COUNT);
    if (post)
        publish->posted = true;
    fan__mutex_unlock(&publish->mutex);
    if (post)
        post_task(publish);
}

/* Gives the event at hand to the broker; false when its queue is full. */
static bool submit(struct fan__publish *publish)
{
    struct slot *slot = publish->event_slot;
    struct fan_event *event = publish->event;
    fan__mutex_lock(&publish->mutex);
    publish->in_flight++;
    fan__mutex_unlock(&publish->mutex);
    enum fan_status status =
        fan_broker_submit_take(publish->daemon->broker, event, on_published, slot);
    if (status == FAN_OK) {
        publish->event = NULL;
        return true;
    }
    fan__mutex_lock(&publish->mutex);
    publish->in_flight--;
    fan__mutex_unlock(&publish->mutex);
    bool patient = !publish->alone && !publish->gone;
    if (status == FAN_FULL && patient &&
        fan__monotonic_ns(publish->daemon->env) < publish->wait_until_ns)
        return false;
    /* The text of the slot is there already; what happened is told by its status. */
    fan__mutex_lock(&publish->mutex);
    slot->status = status == FAN_FULL ? FAN_AGAIN : status;
    slot->done = true;
    fan__mutex_unlock(&publish->mutex);
    fan_event_free(event, publish->daemon->env);
    publish->event = NULL;
    return true;
}

/* ---- Waiting for room ---- */

static void on_retry(uv_timer_t *timer)
{
    struct fan__desk *desk =
        (struct fan__desk *)((char *)timer - offsetof(struct fan__desk, timer));
    struct fan__publish *publish = desk->waiting;
    desk->waiting = NULL;
    while (publish) {
        struct fan__publish *next = publish->waiting_next;
        publish->waits = false;
        advance(publish);
        publish = next;
    }
    if (!desk->waiting)
        uv_timer_stop(&desk->timer);
}

static void wait_for_room(struct fan__publish *publish)
{
    struct fan__desk *desk = publish->desk;
    if (publish->waits)
        return;
    publish->waits = true;
    publish->waiting_next = desk->waiting;
    if (!desk->waiting)
        uv_timer_start(&desk->timer, on_retry, RETRY_MS, RETRY_MS);
    desk->waiting = publish;
}

void fan__desk_init(struct fan__desk *desk, struct fan__daemon *daemon, struct fan__http_loop *loop)
{
    *desk = (struct fan__desk){ .daemon = daemon };
    uv_timer_init(fan__http_loop_uv(loop), &desk->timer);
}

void fan__desk_close(struct fan__desk *desk, uv_close_cb closed)
{
    assert(!desk->waiting);
    uv_close((uv_handle_t *)&desk->timer, closed);
}

/* ---- Ending ---- */

static void count_held(struct fan__publish *publish, uint64_t size)
{
    publish->desk->held_size += size - publish->held_size;
    publish->held_size = size;
}

static void free_publish(struct fan__publish *publish)
{
    const struct fan_env *env = publish->daemon->env;
    assert(publish->in_flight == 0 && !publish->posted && !publish->waits);
    count_held(publish, 0);
    while (publish->first) {
        struct block *block = publish->first;
        publish->first = block->next;
        fan__free(env, block);
    }
    fan_event_free(publish->event, env);
    fan__intake_deinit(&publish->intake);
    fan__outcome_deinit(&publish->outcome);
    fan__buffer_deinit(&publish->texts);
    fan__mutex_deinit(&publish->mutex);
    fan__free(env, publish);
}

/* Ends it with a problem; nothing of it is on its way. */
static void end_with(struct fan__publish *publish, enum fan_status status,
                     const struct fan_error *error)
{
    struct fan__http_request *request = publish->request;
    free_publish(publish);
    fan__reply_fault(request, status, error);
}

/* Words for an event that the broker did not store. */
static void explain(struct fan__publish *publish, enum fan_status status, struct fan_error *error)
{
    if (status == FAN_AGAIN)
        fan__fail(error, status, "", "the writer's queue is full; the event was not stored");
    else if (status == FAN_CLOSED)
        fan__fail(error, status, "", "the server is stopping; the event was not stored");
    else if (status == FAN_UNKNOWN)
        fan__fail(error, status, "",
                  "the log did not answer; publish the same id again to learn the outcome");
    else if (publish->fault.status == status && publish->fault.message[0])
        *error = publish->fault;
    else
        fan__fail(error, status, "", "%s", fan_status_text(status));
}

/* Answers a request of one event, whose slot was taken. */
static void answer_alone(struct fan__publish *publish, const struct slot *slot,
                         const struct fan__accepted *accepted)
{
    struct fan__http_request *request = publish->request;
    struct fan_error error = FAN_ERROR_INIT;
    if (slot->status != FAN_OK) {
        explain(publish, slot->status, &error);
        end_with(publish, slot->status, &error);
        return;
    }
    struct fan__buffer json;
    fan__buffer_init(&json, publish->daemon->env);
    fan__buffer_add(&json, "{", 1);
    fan__outcome_write(&json, accepted);
    fan__buffer_add(&json, "\n", 1);
    free_publish(publish);
    fan__reply_json(request, slot->duplicate ? 200 : 201, &json);
    fan__buffer_deinit(&json);
}

/* Whether the task is on its way; until it has come, nothing may be freed. */
static bool is_posted(struct fan__publish *publish)
{
    fan__mutex_lock(&publish->mutex);
    bool posted = publish->posted;
    fan__mutex_unlock(&publish->mutex);
    return posted;
}

/* What was accepted from someone who can no longer be told of its failure. */
static void count_unwritten(struct fan__daemon *daemon, const struct slot *slot)
{
    /* Closed: it came too late to be accepted. */
    if (slot->refused || slot->status == FAN_OK || slot->status == FAN_CLOSED)
        return;
    fan__mutex_lock(&daemon->mutex);
    daemon->unwritten++;
    fan__mutex_unlock(&daemon->mutex);
}

/* Takes what is done from the front. False when the request has been answered. */
static bool settle(struct fan__publish *publish)
{
    struct slot slot;
    while (slot_take(publish, &slot)) {
        const char *first = text_take(publish);
        const char *second = text_take(publish);
        struct fan__accepted accepted = {
            .id = first,
            .cursor = { slot.seq, publish->daemon->epoch },
            .duplicate = slot.duplicate,
        };
        if (publish->gone) {
            count_unwritten(publish->daemon, &slot);
            continue;
        }
        if (publish->alone) {
            answer_alone(publish, &slot, &accepted);
            return false;
        }
        struct fan_error error = FAN_ERROR_INIT;
        if (slot.refused) {
            fan__outcome_refuse(&publish->outcome, slot.number, fan__reply_status(FAN_INVALID),
                                first, second);
        } else if (slot.status != FAN_OK) {
            explain(publish, slot.status, &error);
            fan__outcome_refuse(&publish->outcome, slot.number, fan__reply_status(slot.status),
                                error.field, error.message);
        } else {
            fan__outcome_accept(&publish->outcome, slot.number, &accepted);
        }
    }
    return true;
}

/* ---- Taking the body ---- */

static bool out_of_memory(struct fan__publish *publish)
{
    publish->busy = true;
    return false;
}

/* Makes the event of one text and submits it. False when no more can be taken now. */
static bool take_item(struct fan__publish *publish, struct fan_str item,
                      const struct fan_error *refusal)
{
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_event *event = NULL;
    enum fan_status status = FAN_INVALID;
    if (refusal)
        error = *refusal;
    else
        status = fan__convert(publish->request, publish->form, item, &event, &error);
    if (status == FAN_OK) {
        if (!slot_add_event(publish, event))
            return out_of_memory(publish);
    } else {
        struct slot *slot = NULL;
        if (status != FAN_NO_MEMORY)
            slot = slot_add_with(publish, error.field, error.message);
        if (!slot)
            return out_of_memory(publish);
        slot->refused = true;
        slot->done = true;
        return true;
    }
    publish->wait_until_ns = fan__monotonic_ns(publish->daemon->env) + WAIT_NS_MAX;
    return submit(publish);
}

static bool crowded(const struct fan__publish *publish)
{
    return publish->count >= FAN__PUBLISH_COUNT_MAX || publish->size >= FAN__PUBLISH_SIZE_MAX;
}

/*
 * Takes events from the body until there are no more, or no room for more. True when it stopped in
 * a crowd, with more of the body to take.
 */
static bool take(struct fan__publish *publish)
{
    while (!publish->ended && !publish->busy) {
        if (crowded(publish))
            return true;
        struct fan_error error = FAN_ERROR_INIT;
        struct fan_str item;
        bool more = true;
        switch (fan__intake_next(&publish->intake, &item)) {
        case FAN__INTAKE_MORE:
            return false;
        case FAN__INTAKE_END:
            publish->ended = true;
            return false;
        case FAN__INTAKE_TOO_LONG:
            fan__fail(&error, FAN_INVALID, "line", "is longer than %zu bytes", FAN__BODY_SIZE_MAX);
            more = take_item(publish, item, &error);
            break;
        case FAN__INTAKE_ITEM:
            more = take_item(publish, item, NULL);
            break;
        }
        /* Lines may come as they happen; a part of one, or a blank one, does not count. */
        fan__http_progress(publish->request);
        if (!more)
            return false;
    }
    return false;
}

/* The one event of a request; what is wrong with it is the answer. */
static void take_alone(struct fan__publish *publish)
{
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_event *event;
    struct fan_str text = { publish->intake.input.data, publish->intake.input.size };
    enum fan_status status = fan__convert(publish->request, publish->form, text, &event, &error);
    if (status == FAN_OK && !slot_add_event(publish, event))
        status = FAN_NO_MEMORY;
    if (status != FAN_OK) {
        end_with(publish, status, &error);
        return;
    }
    publish->ended = true;
    submit(publish);
    advance(publish);
}

/* A JSON body is there: one event, or an array of them. */
static void open_body(struct fan__publish *publish)
{
    struct fan_error error = FAN_ERROR_INIT;
    publish->open = true;
    if (publish->form == FAN__FORM_JSON || publish->form == FAN__FORM_CLOUD_BATCH) {
        enum fan_status status = fan__intake_open(&publish->intake, &error);
        if (status == FAN_OK && publish->form == FAN__FORM_CLOUD_BATCH &&
            publish->intake.kind != FAN__INTAKE_ARRAY)
            status = fan__fail(&error, FAN_INVALID, "body", "is no array");
        if (status != FAN_OK) {
            end_with(publish, status, &error);
            return;
        }
    }
    publish->alone = publish->intake.kind == FAN__INTAKE_WHOLE;
    if (publish->alone)
        take_alone(publish);
    else
        advance(publish);
}

/* ---- The one driver ---- */

/* Comes back in the loop's next turn, which others have a share of, unless a call is on its way. */
static void come_back(struct fan__publish *publish)
{
    fan__mutex_lock(&publish->mutex);
    bool post = !publish->posted;
    publish->posted = true;
    fan__mutex_unlock(&publish->mutex);
    if (post)
        post_task(publish);
}

/* Nothing is on its way: the last word. */
static void finish(struct fan__publish *publish)
{
    struct fan__http_request *request = publish->request;
    if (publish->gone) {
        free_publish(publish);
        fan__http_drop(request);
        return;
    }
    if (publish->busy) {
        free_publish(publish);
        fan__reply_busy(request, NULL,
                        "there is no memory for more of this body; what came before was stored");
        return;
    }
    fan__outcome_answer(&publish->outcome, request);
    free_publish(publish);
}

/* Does what can be done now: takes answers, then events; ends, or waits for the next call. */
static void advance(struct fan__publish *publish)
{
    if (publish->event && publish->gone) {
        /* Nobody waits for it any more, and it was never accepted. */
        publish->event_slot->status = FAN_CLOSED;
        publish->event_slot->done = true;
        fan_event_free(publish->event, publish->daemon->env);
        publish->event = NULL;
    }
    bool room = !publish->event || submit(publish);
    if (!settle(publish))
        return;
    bool more = room && !publish->gone && !publish->ended &&
                (publish->open || publish->form == FAN__FORM_LINES) && take(publish);
    /* What was refused by ourselves needs no call-back, and gets none. */
    if (!settle(publish))
        return;
    more = more && !crowded(publish);
    if (more)
        come_back(publish);
    if (publish->event)
        wait_for_room(publish);
    bool idle = publish->count == 0 && !publish->waits && !is_posted(publish);
    if (idle && (publish->ended || publish->gone || publish->busy)) {
        finish(publish);
        return;
    }
    count_held(publish, publish->intake.input.capacity + publish->outcome.results.capacity);
    bool wait = more || publish->event || crowded(publish) || publish->busy;
    if (wait)
        fan__http_pause(publish->request);
    else if (publish->count <= FAN__PUBLISH_COUNT_MAX / 2 &&
             publish->size <= FAN__PUBLISH_SIZE_MAX / 2)
        fan__http_resume(publish->request);
}

static void too_large(struct fan__http_request *request)
{
    fan__http_problem(request, 413, "body", "is longer than %zu bytes; send NDJSON for more",
                      FAN__BODY_SIZE_MAX);
}

static void on_piece(struct fan__http_request *request, void *context, struct fan_str bytes,
                     bool last)
{
    struct fan__publish *publish = context;
    struct fan__intake *intake = &publish->intake;
    (void)request;
    if (publish->busy)
        return;
    bool lines = publish->form == FAN__FORM_LINES;
    if (!lines && intake->input.size + bytes.size > FAN__BODY_SIZE_MAX) {
        struct fan__http_request *ended = publish->request;
        free_publish(publish);
        too_large(ended);
        return;
    }
    if (publish->desk->held_size > FAN__DESK_SIZE_MAX)
        publish->busy = true;
    else
        fan__intake_add(intake, bytes, last);
    if (intake->input.failed)
        publish->busy = true;
    if (lines || publish->busy)
        advance(publish);
    else if (last)
        open_body(publish);
    else
        count_held(publish, intake->input.capacity);
}

static void on_gone(struct fan__http_request *request, void *context)
{
    struct fan__publish *publish = context;
    (void)request;
    publish->gone = true;
    advance(publish);
}

/* ---- The route ---- */

void fan__publish_check(struct fan__http_request *request)
{
    enum fan__form form = fan__form_of(request);
    const char *length = fan__http_header(request, "Content-Length");
    const char *encoding = fan__http_header(request, "Content-Encoding");
    if (form == FAN__FORM_NONE) {
        const char *given = fan__http_header(request, "Content-Type");
        fan__http_problem(request, 415, "Content-Type", "%s%s is not taken; send %s",
                          given ? "" : "nothing", given ? given : "", FAN__FORM_NAMES);
    } else if (encoding && strcasecmp(encoding, "identity") != 0) {
        fan__http_problem(request, 415, "Content-Encoding", "%s is not taken; send identity",
                          encoding);
    } else if (form != FAN__FORM_LINES && length &&
               strtoull(length, NULL, 10) > FAN__BODY_SIZE_MAX) {
        too_large(request);
    }
}

void fan__publish_handle(struct fan__http_request *request)
{
    static const struct fan__http_calls calls = { .piece = on_piece, .gone = on_gone };
    struct fan__daemon *daemon = fan__http_context(request);
    struct fan__http_loop *loop = fan__http_loop(request);
    struct fan__publish *publish = fan__alloc_zero(daemon->env, 1, sizeof(*publish));
    if (!publish) {
        fan__reply_busy(request, NULL, "out of memory");
        return;
    }
    publish->request = request;
    publish->loop = loop;
    publish->daemon = daemon;
    publish->desk = fan__hub_desk(fan__http_loop_context(loop));
    publish->form = fan__form_of(request);
    publish->task.run = on_task;
    fan__mutex_init(&publish->mutex);
    fan__buffer_init(&publish->texts, daemon->env);
    fan__outcome_init(&publish->outcome, daemon->env, request);
    fan__intake_init(&publish->intake, daemon->env,
                     publish->form == FAN__FORM_LINES ? FAN__INTAKE_LINES : FAN__INTAKE_WHOLE);
    fan__http_attach(request, &calls, publish);
}
