/* See group.h. */
#include "server/group.h"

#include "base/env.h"
#include "base/status.h"
#include "broker/metrics.h"
#include "event/json.h"
#include "server/ask.h"
#include "server/daemon.h"
#include "server/delivery.h"
#include "server/field.h"
#include "server/reply.h"

#include <fanfare/pattern.h>

#include <inttypes.h>
#include <string.h>

const char *const fan__group_parameters[] = { "handler", NULL };

enum fan_status fan__group_name(const struct fan__http_request *request,
                                struct fan_group_name *ret_name, struct fan_error *ret_error)
{
    const char *handler = fan__http_query(request, "handler");
    struct fan_group_name name = { fan__http_segment(request), handler ? handler : "" };
    if (strlen(name.group) > FAN_TEXT_SIZE_MAX)
        return fan__fail(ret_error, FAN_INVALID, "group", "is longer than %d bytes",
                         FAN_TEXT_SIZE_MAX);
    if (strlen(name.handler) > FAN_TEXT_SIZE_MAX)
        return fan__fail(ret_error, FAN_INVALID, "handler", "is longer than %d bytes",
                         FAN_TEXT_SIZE_MAX);
    *ret_name = name;
    return FAN_OK;
}

/* ---- GET /v1/groups ---- */

struct listing {
    struct fan__buffer *json;
    int64_t now_us;
    uint64_t count;
};

static bool list_one(void *context, const struct fan_group_stats *stats)
{
    struct listing *listing = context;
    struct fan__buffer *json = listing->json;
    int64_t age_us = stats->oldest_us > 0 ? listing->now_us - stats->oldest_us : 0;
    fan__buffer_add_text(json, listing->count++ > 0 ? ",\n{\"group\":" : "\n{\"group\":");
    fan__json_add_string(json, (struct fan_str){ stats->group, strlen(stats->group) });
    fan__member_text(json, "handler", stats->handler);
    fan__member_text(json, "pattern", stats->pattern);
    fan__buffer_add_format(
        json,
        ",\"cursor_seq\":%" PRIu64 ",\"lag\":%" PRIu64 ",\"lag_s\":%.3f,\"pending\":%" PRIu64
        ",\"processing\":%" PRIu64 ",\"completed\":%" PRIu64 ",\"failed\":%" PRIu64,
        stats->cursor_seq, stats->lag, age_us > 0 ? (double)age_us / (double)FAN__US_PER_S : 0.0,
        stats->pending, stats->processing, stats->completed, stats->failed);
    fan__member_time(json, "oldest_at", stats->oldest_us);
    fan__member_time(json, "joined_at", stats->joined_us);
    fan__buffer_add(json, "}", 1);
    return !json->failed;
}

enum fan_status fan__group_write(struct fan__daemon *daemon, struct fan__buffer *json)
{
    struct listing listing = { .json = json, .now_us = fan__wall_us(daemon->env) };
    fan__buffer_add_text(json, "\"groups\":[");
    enum fan_status status = fan_store_groups(daemon->store, list_one, &listing);
    fan__buffer_add_text(json, "]");
    return status;
}

static void run_list(struct fan__ask *ask)
{
    fan__buffer_add_text(&ask->json, "{");
    ask->status = fan__group_write(ask->daemon, &ask->json);
    fan__buffer_add_text(&ask->json, "}\n");
}

void fan__group_list(struct fan__http_request *request)
{
    struct fan__ask *ask = fan__ask_new(request, sizeof(*ask), false);
    if (!ask)
        return;
    ask->run = run_list;
    fan__ask_start(ask);
}

/* ---- PUT and DELETE ---- */

struct making {
    struct fan__ask ask;
    struct fan_group_name name;
    struct fan_group_options options;
    json_t *body;
};

static void deinit_making(struct fan__ask *ask)
{
    json_decref(((struct making *)ask)->body);
}

static struct making *make_making(struct fan__http_request *request)
{
    struct making *making = fan__ask_new(request, sizeof(*making), false);
    if (making)
        making->ask.deinit = deinit_making;
    return making;
}

static void run_put(struct fan__ask *ask)
{
    struct making *making = (struct making *)ask;
    ask->status =
        fan_group_create(ask->daemon->store, &making->name, &making->options, &ask->error);
    bool made = ask->status == FAN_OK;
    if (ask->status == FAN_EXISTS)
        ask->status = FAN_OK;
    ask->code = made ? 201 : 200;
    fan__buffer_add_text(&ask->json, "{\"group\":");
    fan__json_add_string(&ask->json,
                         (struct fan_str){ making->name.group, strlen(making->name.group) });
    fan__member_text(&ask->json, "handler", making->name.handler);
    fan__buffer_add_format(&ask->json, ",\"created\":%s}\n", made ? "true" : "false");
}

static enum fan_status read_start(struct making *making, const char *start, struct fan_error *error)
{
    struct fan_cursor cursor;
    if (!start || strcmp(start, "now") == 0)
        return FAN_OK;
    if (strcmp(start, "beginning") == 0) {
        making->options.start = FAN_START_BEGINNING;
        return FAN_OK;
    }
    if (fan_cursor_parse(start, &cursor, NULL) != FAN_OK)
        return fan__fail(error, FAN_INVALID, "start",
                         "is none of now, beginning, SEQ@EPOCH and SEQ");
    if (cursor.epoch != 0 && cursor.epoch != making->ask.daemon->epoch)
        return fan__fail(error, FAN_CONFLICT, "start", "is a cursor of another log");
    making->options.start = FAN_START_CURSOR;
    making->options.start_seq = cursor.seq;
    return FAN_OK;
}

static enum fan_status read_put(struct making *making, struct fan_error *error)
{
    struct given {
        const char *pattern;
        const char *topic;
        const char *start;
    } given = { NULL, NULL, NULL };
    static const struct fan__field fields[] = {
        { "pattern", FAN__FIELD_TEXT, false, offsetof(struct given, pattern), 1,
          FAN_TEXT_SIZE_MAX },
        { "topic", FAN__FIELD_TEXT, false, offsetof(struct given, topic), 0, FAN_TEXT_SIZE_MAX },
        { "start", FAN__FIELD_TEXT, false, offsetof(struct given, start), 1, FAN_CURSOR_TEXT_SIZE },
        { NULL, FAN__FIELD_TEXT, false, 0, 0, 0 },
    };
    enum fan_status status = fan__group_name(making->ask.request, &making->name, error);
    if (status == FAN_OK)
        status = fan__fields_parse(fan__http_body(making->ask.request), fields, &given,
                                   &making->body, error);
    if (status == FAN_OK && given.pattern)
        status = fan_pattern_check(given.pattern, error);
    if (status != FAN_OK)
        return status;
    making->options = (struct fan_group_options){
        .size = FAN_GROUP_OPTIONS_SIZE,
        .pattern = given.pattern,
        .topic = given.topic,
    };
    return read_start(making, given.start, error);
}

void fan__group_put(struct fan__http_request *request)
{
    struct making *making = make_making(request);
    if (!making)
        return;
    struct fan_error error = FAN_ERROR_INIT;
    enum fan_status status = read_put(making, &error);
    if (status != FAN_OK) {
        fan__ask_refuse(&making->ask, status, &error);
        return;
    }
    making->ask.run = run_put;
    fan__ask_start(&making->ask);
}

static enum fan_status unknown_group(struct fan_error *error)
{
    return fan__fail(error, FAN_NOT_FOUND, "group", "has no such handler in this log");
}

static void run_delete(struct fan__ask *ask)
{
    struct making *making = (struct making *)ask;
    ask->status = fan_group_delete(ask->daemon->store, &making->name);
    if (ask->status == FAN_NOT_FOUND)
        ask->status = unknown_group(&ask->error);
    ask->code = 204;
}

void fan__group_delete(struct fan__http_request *request)
{
    struct making *making = make_making(request);
    if (!making)
        return;
    struct fan_error error = FAN_ERROR_INIT;
    enum fan_status status = fan__group_name(request, &making->name, &error);
    if (status != FAN_OK) {
        fan__ask_refuse(&making->ask, status, &error);
        return;
    }
    making->ask.run = run_delete;
    fan__ask_start(&making->ask);
}

/* ---- POST settle and renew ---- */

struct settling {
    struct fan__ask ask;
    struct fan_group_name name;
    json_t *body;
    struct fan_settle *items;
    size_t count;
    uint32_t lease_ms;
    const char *done; /* what becomes of an item that is not lost */
};

/* An item as it comes, and the words of its verdict. */
struct item {
    uint64_t seq;
    uint64_t token;
    uint64_t delay_ms;
    const char *verdict;
    const char *error;
    const char *reason;
};

static const char *const verdicts[] = {
    [FAN_VERDICT_DONE] = "done",
    [FAN_VERDICT_RETRY] = "retry",
    [FAN_VERDICT_FAIL] = "fail",
    [FAN_VERDICT_HAND_BACK] = "hand_back",
};

static enum fan_status read_verdict(const struct item *item, struct fan_settle *settle,
                                    struct fan_error *error)
{
    size_t count = sizeof(verdicts) / sizeof(verdicts[0]);
    size_t verdict = 0;
    while (verdict < count && strcmp(verdicts[verdict], item->verdict) != 0)
        verdict++;
    if (verdict == count)
        return fan__fail(error, FAN_INVALID, "verdict", "is none of done, retry, fail, hand_back");
    settle->verdict = (enum fan_verdict)verdict;
    if (!item->reason)
        return FAN_OK;
    if (settle->verdict != FAN_VERDICT_FAIL)
        return fan__fail(error, FAN_INVALID, "reason", "goes with the verdict fail alone");
    if (strcmp(item->reason, fan_dead_reason_name(FAN_DEAD_RETRIES)) == 0)
        settle->reason = FAN_DEAD_RETRIES;
    else if (strcmp(item->reason, fan_dead_reason_name(FAN_DEAD_FAILED)) != 0)
        return fan__fail(error, FAN_INVALID, "reason", "is none of failed, retries");
    return FAN_OK;
}

static enum fan_status read_item(struct settling *settling, const json_t *items, size_t index,
                                 const struct fan__field *fields, struct fan_error *error)
{
    struct item item = { .seq = 0 };
    struct fan_error inner = FAN_ERROR_INIT;
    enum fan_status status = fan__fields_item(items, index, fields, &item, error);
    if (status != FAN_OK)
        return status;
    struct fan_settle *settle = &settling->items[index];
    *settle = (struct fan_settle){ .seq = item.seq,
                                   .token = item.token,
                                   .delay_ms = (uint32_t)item.delay_ms,
                                   .error = item.error };
    if (item.verdict && read_verdict(&item, settle, &inner) != FAN_OK)
        return fan__field_in_item(index, &inner, error);
    return FAN_OK;
}

static void run_settle(struct fan__ask *ask)
{
    struct settling *settling = (struct settling *)ask;
    struct fan_store *store = ask->daemon->store;
    ask->status = settling->lease_ms == 0
                      ? fan_group_settle(store, &settling->name, settling->items, settling->count)
                      : fan_group_renew(store, &settling->name, settling->items, settling->count,
                                        settling->lease_ms);
    if (ask->status == FAN_NOT_FOUND)
        ask->status = unknown_group(&ask->error);
    if (ask->status != FAN_OK)
        return;
    if (settling->lease_ms == 0)
        fan__metrics_settled(ask->daemon->broker, &settling->name, settling->items,
                             settling->count);
    size_t lost = 0;
    fan__buffer_add_text(&ask->json, "{\"results\":[");
    for (size_t i = 0; i < settling->count; i++) {
        const struct fan_settle *item = &settling->items[i];
        lost += item->ret_status != FAN_OK;
        fan__buffer_add_format(&ask->json, "%s{\"seq\":%" PRIu64 ",\"status\":\"%s\"}",
                               i > 0 ? "," : "", item->seq,
                               item->ret_status == FAN_OK ? settling->done : "lost");
    }
    fan__buffer_add_format(&ask->json, "],\"%s\":%zu,\"lost\":%zu}\n", settling->done,
                           settling->count - lost, lost);
}

static void deinit_settling(struct fan__ask *ask)
{
    struct settling *settling = (struct settling *)ask;
    json_decref(settling->body);
    fan__free(ask->daemon->env, settling->items);
}

/* The body of both: an object with items, and for renew its lease. */
struct settle_body {
    const json_t *items;
    uint64_t lease_ms;
};

static const struct fan__field settle_fields[] = {
    { "items", FAN__FIELD_ITEMS, true, offsetof(struct settle_body, items), 1,
      FAN__GROUP_ITEMS_MAX },
    { NULL, FAN__FIELD_TEXT, false, 0, 0, 0 },
};

static const struct fan__field renew_fields[] = {
    { "items", FAN__FIELD_ITEMS, true, offsetof(struct settle_body, items), 1,
      FAN__GROUP_ITEMS_MAX },
    { "lease_ms", FAN__FIELD_NUMBER, false, offsetof(struct settle_body, lease_ms),
      FAN__GROUP_LEASE_MS_MIN, FAN__GROUP_LEASE_MS_MAX },
    { NULL, FAN__FIELD_TEXT, false, 0, 0, 0 },
};

static const struct fan__field settle_item_fields[] = {
    { "seq", FAN__FIELD_NUMBER, true, offsetof(struct item, seq), 1, FAN_SEQ_MAX },
    { "token", FAN__FIELD_DIGITS, true, offsetof(struct item, token), 0, UINT64_MAX },
    { "verdict", FAN__FIELD_TEXT, true, offsetof(struct item, verdict), 1, 16 },
    { "delay_ms", FAN__FIELD_NUMBER, false, offsetof(struct item, delay_ms), 0, UINT32_MAX },
    { "error", FAN__FIELD_TEXT, false, offsetof(struct item, error), 0, FAN__GROUP_ERROR_SIZE_MAX },
    { "reason", FAN__FIELD_TEXT, false, offsetof(struct item, reason), 1, 16 },
    { NULL, FAN__FIELD_TEXT, false, 0, 0, 0 },
};

static const struct fan__field renew_item_fields[] = {
    { "seq", FAN__FIELD_NUMBER, true, offsetof(struct item, seq), 1, FAN_SEQ_MAX },
    { "token", FAN__FIELD_DIGITS, true, offsetof(struct item, token), 0, UINT64_MAX },
    { NULL, FAN__FIELD_TEXT, false, 0, 0, 0 },
};

static enum fan_status read_settling(struct settling *settling, bool renews,
                                     struct fan_error *error)
{
    struct settle_body body = { NULL, 0 };
    struct fan__ask *ask = &settling->ask;
    settling->done = renews ? "renewed" : "settled";
    enum fan_status status = fan__group_name(ask->request, &settling->name, error);
    if (status == FAN_OK)
        status =
            fan__fields_parse(fan__http_body(ask->request), renews ? renew_fields : settle_fields,
                              &body, &settling->body, error);
    if (status != FAN_OK)
        return status;
    if (renews)
        settling->lease_ms = body.lease_ms ? (uint32_t)body.lease_ms : FAN__GROUP_LEASE_MS_DEFAULT;
    settling->count = json_array_size(body.items);
    settling->items = fan__alloc_zero(ask->daemon->env, settling->count, sizeof(*settling->items));
    if (!settling->items)
        return FAN_NO_MEMORY;
    for (size_t i = 0; i < settling->count && status == FAN_OK; i++)
        status = read_item(settling, body.items, i, renews ? renew_item_fields : settle_item_fields,
                           error);
    return status;
}

static void start_settling(struct fan__http_request *request, bool renews)
{
    struct settling *settling = fan__ask_new(request, sizeof(*settling), true);
    if (!settling)
        return;
    struct fan_error error = FAN_ERROR_INIT;
    settling->ask.deinit = deinit_settling;
    enum fan_status status = read_settling(settling, renews, &error);
    if (status != FAN_OK) {
        fan__ask_refuse(&settling->ask, status, &error);
        return;
    }
    settling->ask.run = run_settle;
    fan__ask_start(&settling->ask);
}

void fan__group_settle(struct fan__http_request *request)
{
    start_settling(request, false);
}

void fan__group_renew(struct fan__http_request *request)
{
    start_settling(request, true);
}
