/* See query.h. */
#include "server/query.h"

#include "base/env.h"
#include "base/status.h"
#include "event/json.h"
#include "event/text.h"
#include "server/ask.h"
#include "server/daemon.h"
#include "server/delivery.h"
#include "server/field.h"
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

struct question {
    struct fan__ask ask;
    struct fan_query query;
    struct fan_batch *batch;
    struct fan_event_state *states;
    uint64_t visited;
};

/* ---- What is asked ---- */

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
    uint64_t limit_number = LIMIT_DEFAULT;
    uint64_t offset_number = 0;
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
        status = fan__field_number("limit", limit, (struct fan__range){ 1, FAN__QUERY_LIMIT_MAX },
                                   &limit_number, error);
    if (status == FAN_OK && offset)
        status = fan__field_number("offset", offset, (struct fan__range){ 0, INT64_MAX },
                                   &offset_number, error);
    if (status == FAN_OK && order)
        status = read_order(order, &query->newest_first, error);
    query->limit = limit_number;
    query->offset = offset_number;
    return status;
}

/* ---- Asking, on a thread that may wait ---- */

static void run_list(struct fan__ask *ask)
{
    struct question *question = (struct question *)ask;
    struct fan__buffer *json = &ask->json;
    ask->status = fan_store_list(ask->daemon->store, &question->query, question->batch,
                                 question->states, &ask->error);
    if (ask->status != FAN_OK)
        return;
    size_t count = fan_batch_count(question->batch);
    fan__buffer_add_text(json, "{\"events\":[");
    for (size_t i = 0; i < count; i++) {
        fan__buffer_add_text(json, i > 0 ? ",\n" : "\n");
        fan__event_to_json(fan_batch_event(question->batch, i), &question->states[i], 0, json);
    }
    fan__buffer_add_text(json, "]");
    if (count < question->query.limit && fan_batch_size(question->batch) >= FAN_LIST_SIZE_MAX)
        fan__buffer_add_format(json, ",\"next_offset\":%" PRIu64, question->query.offset + count);
    fan__buffer_add_text(json, "}\n");
}

static bool on_delivery(void *context, const struct fan_delivery *delivery)
{
    struct question *question = context;
    struct fan__buffer *json = &question->ask.json;
    if (question->visited++ > 0)
        fan__buffer_add(json, ",", 1);
    fan__delivery_to_json(delivery, json);
    return json->size <= FAN__QUERY_SIZE_MAX;
}

static void run_get(struct fan__ask *ask)
{
    struct question *question = (struct question *)ask;
    struct fan__buffer *json = &ask->json;
    ask->status = fan_store_get(ask->daemon->store, fan__http_segment(ask->request),
                                question->batch, question->states);
    /* What can be no id is none that an event has. */
    if (ask->status == FAN_NOT_FOUND || ask->status == FAN_INVALID)
        ask->status =
            fan__fail(&ask->error, FAN_NOT_FOUND, "id", "is that of no event in this log");
    if (ask->status != FAN_OK)
        return;
    const struct fan_event *event = fan_batch_event(question->batch, 0);
    fan__event_to_json(event, question->states, 0, json);
    if (json->failed)
        return;
    json->size--; /* the object goes on */
    fan__buffer_add_text(json, ",\"deliveries\":[");
    ask->status =
        fan_store_deliveries(ask->daemon->store, fan_event_seq(event), 0, on_delivery, question);
    fan__buffer_add_text(json, "]}\n");
}

/* ---- From request to answer ---- */

static void deinit_question(struct fan__ask *ask)
{
    struct question *question = (struct question *)ask;
    fan_batch_free(question->batch);
    fan__free(ask->daemon->env, question->states);
}

/* Answers itself when it gives NULL. */
static struct question *make_question(struct fan__http_request *request, size_t state_count)
{
    struct question *question = fan__ask_new(request, sizeof(*question), false);
    if (!question)
        return NULL;
    const struct fan_env *env = question->ask.daemon->env;
    question->ask.deinit = deinit_question;
    question->states = fan__alloc_zero(env, state_count, sizeof(struct fan_event_state));
    if (question->states && fan_batch_new(env, &question->batch) == FAN_OK)
        return question;
    fan__ask_refuse(&question->ask, FAN_NO_MEMORY, NULL);
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
    struct question *question = make_question(request, query.limit);
    if (!question)
        return;
    question->query = query;
    question->ask.run = run_list;
    fan__ask_start(&question->ask);
}

void fan__query_get(struct fan__http_request *request)
{
    struct question *question = make_question(request, 1);
    if (!question)
        return;
    question->ask.run = run_get;
    fan__ask_start(&question->ask);
}
