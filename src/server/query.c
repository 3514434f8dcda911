/* See query.h. */
#include "server/query.h"

#include "base/buffer.h"
#include "base/env.h"
#include "base/status.h"
#include "event/json.h"
#include "event/text.h"
#include "server/daemon.h"
#include "server/hub.h"
#include "server/job.h"
#include "server/reply.h"

#include <fanfare/batch.h>
#include <fanfare/group.h>
#include <fanfare/pattern.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define LIMIT_DEFAULT 100

const char *const fan__query_parameters[] = {
    "topic",       "type",  "source", "status", "user_id", "schema", "entity", "operation",
    "instance_id", "since", "until",  "limit",  "offset",  "order",  NULL,
};

/* One question. The query's strings are the request's, which lives until it is answered. */
struct fan__question {
    struct fan__job job;
    struct fan__question *next; /* of those that wait */
    struct fan__daemon *daemon;
    struct fan__http_request *request;
    struct fan_query query;
    const char *id;
    struct fan_batch *batch;
    struct fan_event_state *states;
    struct fan__buffer json;
    enum fan_status status;
    struct fan_error error;
    uint64_t visited;
};

/* ---- What is asked ---- */

static enum fan_status read_number(const char *name, const char *text, int64_t max,
                                   int64_t *ret_number, struct fan_error *error)
{
    char *end;
    errno = 0;
    bool digits = text[0] >= '0' && text[0] <= '9';
    long long number = digits ? strtoll(text, &end, 10) : 0;
    if (!digits || *end != '\0' || errno != 0 || number > max)
        return fan__fail(error, FAN_INVALID, name, "is no number from 0 to %" PRId64, max);
    *ret_number = number;
    return FAN_OK;
}

static enum fan_status read_user(const char *text, int64_t *ret_user, struct fan_error *error)
{
    char *end;
    errno = 0;
    bool number = (text[0] >= '0' && text[0] <= '9') || (text[0] == '-' && text[1] != '\0');
    long long user = number ? strtoll(text, &end, 10) : 0;
    if (!number || *end != '\0' || errno != 0 || user == 0)
        return fan__fail(error, FAN_INVALID, "user_id", "is no whole number of 64 bits but 0");
    *ret_user = user;
    return FAN_OK;
}

static enum fan_status read_time(const char *name, const char *text, int64_t *ret_us,
                                 struct fan_error *error)
{
    if (!fan__time_parse(text, strlen(text), ret_us))
        return fan__fail(error, FAN_INVALID, name,
                         "is no RFC 3339 time; expected one such as 2024-02-29T12:00:00Z");
    /* In a query 0 means any. */
    if (*ret_us == 0)
        *ret_us = 1;
    return FAN_OK;
}

static enum fan_status read_order(const char *text, bool *ret_newest_first, struct fan_error *error)
{
    *ret_newest_first = strcmp(text, "newest") == 0;
    if (*ret_newest_first || strcmp(text, "oldest") == 0)
        return FAN_OK;
    return fan__fail(error, FAN_INVALID, "order", "is neither newest nor oldest");
}

/* Parameters that are words of a closed set, or have a form. */
static enum fan_status read_forms(struct fan__http_request *request, struct fan_query *query,
                                  struct fan_error *error)
{
    const char *source = fan__http_query(request, "source");
    const char *state = fan__http_query(request, "status");
    const char *user = fan__http_query(request, "user_id");
    const char *since = fan__http_query(request, "since");
    const char *until = fan__http_query(request, "until");
    enum fan_status status = FAN_OK;
    if (source && fan_source_parse(source, &query->source) != FAN_OK)
        return fan__fail(error, FAN_INVALID, "source",
                         "is none of database, websocket, frontend, system, internal");
    if (state && fan_event_status_parse(state, &query->status) != FAN_OK)
        return fan__fail(error, FAN_INVALID, "status",
                         "is none of pending, processing, completed, failed");
    query->has_status = state != NULL;
    if (user)
        status = read_user(user, &query->user_id, error);
    if (status == FAN_OK && since)
        status = read_time("since", since, &query->from_us, error);
    if (status == FAN_OK && until)
        status = read_time("until", until, &query->until_us, error);
    return status;
}

static enum fan_status read_query(struct fan__http_request *request, struct fan_query *query,
                                  struct fan_error *error)
{
    const char *limit = fan__http_query(request, "limit");
    const char *offset = fan__http_query(request, "offset");
    const char *order = fan__http_query(request, "order");
    int64_t limit_number = LIMIT_DEFAULT;
    int64_t offset_number = 0;
    *query = (struct fan_query){
        .size = FAN_QUERY_SIZE,
        .topic = fan__http_query(request, "topic"),
        .pattern = fan__http_query(request, "type"),
        .schema = fan__http_query(request, "schema"),
        .entity = fan__http_query(request, "entity"),
        .operation = fan__http_query(request, "operation"),
        .instance_id = fan__http_query(request, "instance_id"),
        .newest_first = true,
    };
    enum fan_status status = read_forms(request, query, error);
    if (status == FAN_OK && query->pattern) {
        status = fan_pattern_check(query->pattern, error);
        if (status != FAN_OK)
            memcpy(error->field, "type", sizeof("type"));
    }
    if (status == FAN_OK && limit)
        status = read_number("limit", limit, FAN__QUERY_LIMIT_MAX, &limit_number, error);
    if (status == FAN_OK && limit_number == 0)
        status =
            fan__fail(error, FAN_INVALID, "limit", "is 0; expected 1 to %d", FAN__QUERY_LIMIT_MAX);
    if (status == FAN_OK && offset)
        status = read_number("offset", offset, INT64_MAX, &offset_number, error);
    if (status == FAN_OK && order)
        status = read_order(order, &query->newest_first, error);
    query->limit = (size_t)limit_number;
    query->offset = (uint64_t)offset_number;
    return status;
}

/* ---- Asking, on a thread that may wait ---- */

static void on_list_run(struct fan__job *job)
{
    struct fan__question *question = (struct fan__question *)job;
    struct fan__buffer *json = &question->json;
    question->status = fan_store_list(question->daemon->store, &question->query, question->batch,
                                      question->states, &question->error);
    if (question->status != FAN_OK)
        return;
    fan__buffer_add_text(json, "{\"events\":[");
    for (size_t i = 0; i < fan_batch_count(question->batch); i++) {
        if (json->size > FAN__QUERY_SIZE_MAX) {
            question->status = fan__fail(&question->error, FAN_INVALID, "limit",
                                         "makes an answer of more than %zu bytes; ask for fewer",
                                         FAN__QUERY_SIZE_MAX);
            return;
        }
        fan__buffer_add_text(json, i > 0 ? ",\n" : "\n");
        fan__event_to_json(fan_batch_event(question->batch, i), &question->states[i], 0, json);
    }
    fan__buffer_add_text(json, "]}\n");
}

static void add_member(struct fan__buffer *json, const char *name, const char *text)
{
    fan__buffer_add_format(json, ",\"%s\":", name);
    fan__json_add_string(json, (struct fan_str){ text, strlen(text) });
}

static void add_time(struct fan__buffer *json, const char *name, int64_t time_us)
{
    char text[FAN__TIME_TEXT_SIZE];
    if (time_us == 0) {
        fan__buffer_add_format(json, ",\"%s\":null", name);
        return;
    }
    fan__time_format(time_us, text);
    fan__buffer_add_format(json, ",\"%s\":\"%s\"", name, text);
}

static bool on_delivery(void *context, const struct fan_delivery *delivery)
{
    struct fan__question *question = context;
    struct fan__buffer *json = &question->json;
    fan__buffer_add_text(json, question->visited++ > 0 ? ",{\"group\":" : "{\"group\":");
    fan__json_add_string(json, (struct fan_str){ delivery->group, strlen(delivery->group) });
    add_member(json, "handler", delivery->handler);
    add_member(json, "status", fan_event_status_text(delivery->status));
    fan__buffer_add_format(json, ",\"attempts\":%u", delivery->attempts);
    fan__buffer_add_format(json, ",\"lapses\":%u", delivery->lapses);
    add_member(json, "owner", delivery->owner);
    add_member(json, "error", delivery->error);
    add_member(json, "reason", fan_dead_reason_name(delivery->reason));
    add_time(json, "due_at", delivery->due_us);
    add_time(json, "processed_at", delivery->processed_us);
    add_time(json, "completed_at", delivery->completed_us);
    fan__buffer_add(json, "}", 1);
    return json->size <= FAN__QUERY_SIZE_MAX;
}

static void on_get_run(struct fan__job *job)
{
    struct fan__question *question = (struct fan__question *)job;
    struct fan__buffer *json = &question->json;
    question->status =
        fan_store_get(question->daemon->store, question->id, question->batch, question->states);
    if (question->status != FAN_OK)
        return;
    const struct fan_event *event = fan_batch_event(question->batch, 0);
    fan__event_to_json(event, question->states, 0, json);
    if (json->failed)
        return;
    json->size--; /* the object goes on */
    fan__buffer_add_text(json, ",\"deliveries\":[");
    question->status = fan_store_deliveries(question->daemon->store, fan_event_seq(event), 0,
                                            on_delivery, question);
    fan__buffer_add_text(json, "]}\n");
}

/* ---- Answering ---- */

static struct fan__questions *questions_of(const struct fan__http_request *request)
{
    struct fan__hub *hub = fan__http_loop_context(fan__http_loop(request));
    return &hub->questions;
}

/* Asks, or waits for a turn. */
static void ask(struct fan__question *question)
{
    struct fan__questions *questions = questions_of(question->request);
    if (questions->count < FAN__QUERY_COUNT_MAX) {
        questions->count++;
        fan__job_start(fan__http_loop(question->request), &question->job);
        return;
    }
    if (!questions->first)
        questions->end = &questions->first;
    *questions->end = question;
    questions->end = &question->next;
}

/* One was asked: the next has its turn. */
static void ask_next(struct fan__questions *questions)
{
    struct fan__question *question = questions->first;
    questions->count--;
    if (!question)
        return;
    questions->first = question->next;
    question->next = NULL;
    ask(question);
}

static void free_question(struct fan__question *question)
{
    const struct fan_env *env = question->daemon->env;
    fan_batch_free(question->batch);
    fan__buffer_deinit(&question->json);
    fan__free(env, question->states);
    fan__free(env, question);
}

static void on_asked(struct fan__job *job)
{
    struct fan__question *question = (struct fan__question *)job;
    struct fan__http_request *request = question->request;
    ask_next(questions_of(request));
    if (question->status == FAN_OK)
        fan__reply_json(request, 200, &question->json);
    else
        fan__reply_fault(request, question->status, &question->error);
    free_question(question);
}

/* What can be no id is none that an event has. */
static void on_got(struct fan__job *job)
{
    struct fan__question *question = (struct fan__question *)job;
    if (question->status == FAN_NOT_FOUND || question->status == FAN_INVALID)
        question->status =
            fan__fail(&question->error, FAN_NOT_FOUND, "id", "is that of no event in this log");
    on_asked(job);
}

/* Answers itself when it gives NULL. */
static struct fan__question *make_question(struct fan__http_request *request, size_t state_count)
{
    struct fan__daemon *daemon = fan__http_context(request);
    struct fan__question *question = fan__alloc_zero(daemon->env, 1, sizeof(*question));
    if (question) {
        question->daemon = daemon;
        question->request = request;
        question->job.done = on_asked;
        fan__buffer_init(&question->json, daemon->env);
        question->states =
            fan__alloc_zero(daemon->env, state_count, sizeof(struct fan_event_state));
        if (question->states && fan_batch_new(daemon->env, &question->batch) == FAN_OK)
            return question;
        free_question(question);
    }
    fan__reply_busy(request, NULL, "out of memory");
    return NULL;
}

void fan__query_list(struct fan__http_request *request)
{
    struct fan_query query;
    struct fan_error error = FAN_ERROR_INIT;
    enum fan_status status = read_query(request, &query, &error);
    if (status != FAN_OK) {
        fan__reply_fault(request, status, &error);
        return;
    }
    struct fan__question *question = make_question(request, query.limit);
    if (!question)
        return;
    question->query = query;
    question->job.run = on_list_run;
    ask(question);
}

void fan__query_get(struct fan__http_request *request)
{
    struct fan__question *question = make_question(request, 1);
    if (!question)
        return;
    question->id = fan__http_segment(request);
    question->job.run = on_get_run;
    question->job.done = on_got;
    ask(question);
}
