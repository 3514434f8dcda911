/*
 * See dead.h. A visit of dead letters must not call the store: what it sees is noted first, and the
 * events are read, or the letters moved, behind it.
 */
#include "server/dead.h"

#include "base/env.h"
#include "base/status.h"
#include "event/json.h"
#include "server/ask.h"
#include "server/daemon.h"
#include "server/delivery.h"
#include "server/field.h"
#include "server/reply.h"

#include <fanfare/batch.h>
#include <fanfare/group.h>
#include <fanfare/pattern.h>

#include <inttypes.h>
#include <string.h>

#define LIST_LIMIT 100

const char *const fan__dead_parameters[] = {
    "group", "handler", "type", "topic", "after", "limit", NULL,
};

/* Which letters; NULL for any. With seq or id it is one event's, of one group and handler. */
struct wanted {
    const char *group;
    const char *handler;
    const char *type;
    const char *topic;
    const char *id;
    uint64_t seq;
    uint64_t after;
    uint64_t limit;
    bool all;
};

/* A letter that was seen: where its texts lie in `texts`. */
struct letter {
    uint64_t seq;
    size_t group;
    size_t handler;
    size_t json;
    size_t json_size;
};

struct errand {
    struct fan__ask ask;
    struct wanted wanted;
    json_t *body;
    enum fan_event_status to;
    struct fan_batch *batch;
    struct fan__buffer letters;
    struct fan__buffer texts;
    size_t room; /* letters that may still be noted */
    uint64_t scanned;
    uint64_t last_seq; /* everything up to here was looked at */
    bool more;         /* and there may be some behind it */
    bool reads;        /* each letter's event too */
    bool found;        /* the one delivery that was asked for */
    enum fan_event_status found_status;
    uint64_t count;
};

/* ---- Seeing ---- */

static bool fits(const char *wanted, const char *text)
{
    return !wanted || strcmp(wanted, text) == 0;
}

static size_t keep(struct fan__buffer *texts, const char *text)
{
    size_t place = texts->size;
    fan__buffer_add(texts, text, strlen(text) + 1);
    return place;
}

static void note(struct errand *errand, const struct fan_delivery *delivery)
{
    struct letter letter = {
        .seq = delivery->seq,
        .group = keep(&errand->texts, delivery->group),
        .handler = keep(&errand->texts, delivery->handler),
        .json = errand->texts.size,
    };
    fan__delivery_to_json(delivery, &errand->texts);
    letter.json_size = errand->texts.size - letter.json;
    fan__buffer_add(&errand->letters, &letter, sizeof(letter));
}

static bool see_dead(void *context, const struct fan_delivery *delivery)
{
    struct errand *errand = context;
    bool enough = errand->room == 0 || errand->scanned >= FAN__DEAD_SCAN_MAX;
    if (enough && delivery->seq != errand->last_seq) {
        errand->more = true;
        return false;
    }
    errand->last_seq = delivery->seq;
    errand->scanned++;
    if (!fits(errand->wanted.group, delivery->group) ||
        !fits(errand->wanted.handler, delivery->handler))
        return true;
    note(errand, delivery);
    errand->room -= errand->room > 0;
    return !errand->letters.failed && !errand->texts.failed;
}

/* Notes the next letters behind last_seq, some more than `room` where an event has several. */
static enum fan_status look_on(struct errand *errand, size_t room)
{
    fan__buffer_clear(&errand->letters);
    fan__buffer_clear(&errand->texts);
    errand->room = room;
    errand->more = false;
    enum fan_status status =
        fan_store_deliveries(errand->ask.daemon->store, 0, errand->last_seq, see_dead, errand);
    if (status == FAN_OK && (errand->letters.failed || errand->texts.failed))
        status = FAN_NO_MEMORY;
    return status;
}

/* Reads the event of a sequence into the batch. Returns: FAN_NOT_FOUND when it is gone. */
static enum fan_status read_event(struct errand *errand, uint64_t seq)
{
    struct fan_query query = { .size = FAN_QUERY_SIZE, .limit = 1 };
    struct fan_read_result result;
    if (fan_batch_count(errand->batch) == 1 &&
        fan_event_seq(fan_batch_event(errand->batch, 0)) == seq)
        return FAN_OK;
    enum fan_status status =
        fan_store_read(errand->ask.daemon->store, seq - 1, &query, errand->batch, &result);
    if (status == FAN_OK && (fan_batch_count(errand->batch) != 1 ||
                             fan_event_seq(fan_batch_event(errand->batch, 0)) != seq))
        status = FAN_NOT_FOUND;
    return status;
}

static bool event_fits(const struct wanted *wanted, const struct fan_event *event)
{
    return fits(wanted->topic, fan_event_topic(event)) &&
           (!wanted->type || fan_pattern_match(wanted->type, fan_event_type(event)));
}

/* Does `each` with every letter that is wanted, until there are `limit` or no more. */
static enum fan_status go_through(struct errand *errand,
                                  enum fan_status (*each)(struct errand *errand,
                                                          const struct letter *letter))
{
    const struct wanted *wanted = &errand->wanted;
    enum fan_status status = FAN_OK;
    errand->last_seq = wanted->after;
    do {
        status = look_on(errand, wanted->limit - errand->count);
        const struct letter *letters = (const struct letter *)(const void *)errand->letters.data;
        size_t count = errand->letters.size / sizeof(*letters);
        for (size_t i = 0; i < count && status == FAN_OK; i++) {
            if (errand->reads)
                status = read_event(errand, letters[i].seq);
            if (status == FAN_OK &&
                (!errand->reads || event_fits(wanted, fan_batch_event(errand->batch, 0))))
                status = each(errand, &letters[i]);
            /* It was deleted, or moved by another, since it was seen. */
            if (status == FAN_NOT_FOUND || status == FAN_CONFLICT || status == FAN_MISUSE)
                status = FAN_OK;
        }
    } while (status == FAN_OK && errand->more && errand->count < wanted->limit &&
             errand->scanned < FAN__DEAD_SCAN_MAX);
    return status;
}

static void add_next(const struct errand *errand, struct fan__buffer *json)
{
    if (errand->more)
        fan__buffer_add_format(json, "\"next\":%" PRIu64 "}\n", errand->last_seq);
    else
        fan__buffer_add_text(json, "\"next\":null}\n");
}

static void deinit_errand(struct fan__ask *ask)
{
    struct errand *errand = (struct errand *)ask;
    fan_batch_free(errand->batch);
    fan__buffer_deinit(&errand->letters);
    fan__buffer_deinit(&errand->texts);
    json_decref(errand->body);
}

/* Answers itself when it gives NULL. */
static struct errand *make_errand(struct fan__http_request *request)
{
    struct errand *errand = fan__ask_new(request, sizeof(*errand), false);
    if (!errand)
        return NULL;
    const struct fan_env *env = errand->ask.daemon->env;
    errand->ask.deinit = deinit_errand;
    errand->wanted.limit = LIST_LIMIT;
    fan__buffer_init(&errand->letters, env);
    fan__buffer_init(&errand->texts, env);
    if (fan_batch_new(env, &errand->batch) == FAN_OK)
        return errand;
    fan__ask_refuse(&errand->ask, FAN_NO_MEMORY, NULL);
    return NULL;
}

static enum fan_status check_wanted(const struct wanted *wanted, struct fan_error *error)
{
    if (wanted->group && strlen(wanted->group) > FAN_TEXT_SIZE_MAX)
        return fan__fail(error, FAN_INVALID, "group", "is longer than %d bytes", FAN_TEXT_SIZE_MAX);
    if (wanted->handler && strlen(wanted->handler) > FAN_TEXT_SIZE_MAX)
        return fan__fail(error, FAN_INVALID, "handler", "is longer than %d bytes",
                         FAN_TEXT_SIZE_MAX);
    enum fan_status status = wanted->type ? fan_pattern_check(wanted->type, error) : FAN_OK;
    if (status != FAN_OK)
        memcpy(error->field, "type", sizeof("type"));
    return status;
}

/* ---- GET /v1/dead ---- */

static enum fan_status list_one(struct errand *errand, const struct letter *letter)
{
    struct fan__buffer *json = &errand->ask.json;
    const struct fan_event *event = fan_batch_event(errand->batch, 0);
    struct fan_cursor cursor = { letter->seq, errand->ask.daemon->epoch };
    char text[FAN_CURSOR_TEXT_SIZE];
    fan_cursor_format(&cursor, text);
    fan__buffer_add_format(json, "%s{\"seq\":%" PRIu64 ",\"cursor\":\"%s\"",
                           errand->count > 0 ? ",\n" : "\n", letter->seq, text);
    fan__member_text(json, "id", fan_event_id(event));
    fan__member_text(json, "type", fan_event_type(event));
    fan__member_text(json, "topic", fan_event_topic(event));
    fan__member_time(json, "created_at", fan_event_created_us(event));
    fan__buffer_add(json, ",", 1);
    /* The members of the delivery, in the same object. */
    fan__buffer_add(json, errand->texts.data + letter->json + 1, letter->json_size - 1);
    errand->count++;
    return FAN_OK;
}

static void run_list(struct fan__ask *ask)
{
    struct errand *errand = (struct errand *)ask;
    fan__buffer_add_text(&ask->json, "{\"dead\":[");
    ask->status = go_through(errand, list_one);
    fan__buffer_add_text(&ask->json, "],");
    add_next(errand, &ask->json);
}

void fan__dead_list(struct fan__http_request *request)
{
    struct errand *errand = make_errand(request);
    if (!errand)
        return;
    struct wanted *wanted = &errand->wanted;
    struct fan_error error = FAN_ERROR_INIT;
    const char *after = fan__http_query(request, "after");
    const char *limit = fan__http_query(request, "limit");
    wanted->group = fan__http_query(request, "group");
    wanted->handler = fan__http_query(request, "handler");
    wanted->type = fan__http_query(request, "type");
    wanted->topic = fan__http_query(request, "topic");
    enum fan_status status = check_wanted(wanted, &error);
    if (status == FAN_OK && after)
        status = fan__field_number("after", after, (struct fan__range){ 0, FAN_SEQ_MAX },
                                   &wanted->after, &error);
    if (status == FAN_OK && limit)
        status = fan__field_number("limit", limit, (struct fan__range){ 1, FAN__DEAD_LIMIT_MAX },
                                   &wanted->limit, &error);
    if (status != FAN_OK) {
        fan__ask_refuse(&errand->ask, status, &error);
        return;
    }
    errand->reads = true;
    errand->ask.run = run_list;
    fan__ask_start(&errand->ask);
}

/* ---- GET /v1/dead/{id} ---- */

static bool show_one(void *context, const struct fan_delivery *delivery)
{
    struct errand *errand = context;
    if (delivery->status != FAN_EVENT_FAILED)
        return true;
    if (errand->count++ > 0)
        fan__buffer_add(&errand->texts, ",", 1);
    fan__delivery_to_json(delivery, &errand->texts);
    return !errand->texts.failed;
}

/* By a sequence, or by an id: digits alone are a sequence. */
static enum fan_status find_event(struct errand *errand, const char *name,
                                  struct fan_event_state *ret_state)
{
    struct fan_store *store = errand->ask.daemon->store;
    uint64_t seq;
    if (fan__field_number("id", name, (struct fan__range){ 1, FAN_SEQ_MAX }, &seq, NULL) != FAN_OK)
        return fan_store_get(store, name, errand->batch, ret_state);
    enum fan_status status = read_event(errand, seq);
    if (status != FAN_OK)
        return status;
    char id[FAN_TEXT_SIZE_MAX + 1];
    strcpy(id, fan_event_id(fan_batch_event(errand->batch, 0)));
    return fan_store_get(store, id, errand->batch, ret_state);
}

static void run_show(struct fan__ask *ask)
{
    struct errand *errand = (struct errand *)ask;
    struct fan__buffer *json = &ask->json;
    struct fan_event_state state;
    ask->status = find_event(errand, fan__http_segment(ask->request), &state);
    if (ask->status == FAN_NOT_FOUND || ask->status == FAN_INVALID)
        ask->status =
            fan__fail(&ask->error, FAN_NOT_FOUND, "id", "is that of no event in this log");
    if (ask->status != FAN_OK)
        return;
    const struct fan_event *event = fan_batch_event(errand->batch, 0);
    ask->status =
        fan_store_deliveries(ask->daemon->store, fan_event_seq(event), 0, show_one, errand);
    if (ask->status == FAN_OK && errand->count == 0)
        ask->status = fan__fail(&ask->error, FAN_NOT_FOUND, "id",
                                "is that of an event without a dead letter");
    if (ask->status != FAN_OK)
        return;
    fan__buffer_add_text(json, "{\"event\":");
    fan__event_to_json(event, &state, 0, json);
    fan__buffer_add_text(json, ",\"dead\":[");
    fan__buffer_add(json, errand->texts.data, errand->texts.size);
    fan__buffer_add_text(json, "]}\n");
    json->failed = json->failed || errand->texts.failed;
}

void fan__dead_show(struct fan__http_request *request)
{
    struct errand *errand = make_errand(request);
    if (!errand)
        return;
    errand->ask.run = run_show;
    fan__ask_start(&errand->ask);
}

/* ---- POST /v1/dead/redrive and discard ---- */

static enum fan_status move(struct errand *errand, const char *group, const char *handler,
                            uint64_t seq)
{
    const struct fan_group_name name = { group, handler };
    enum fan_status status = fan_group_move(errand->ask.daemon->store, &name, seq, errand->to);
    errand->count += status == FAN_OK;
    return status;
}

static enum fan_status move_one(struct errand *errand, const struct letter *letter)
{
    const char *texts = errand->texts.data;
    return move(errand, texts + letter->group, texts + letter->handler, letter->seq);
}

static bool see_asked(void *context, const struct fan_delivery *delivery)
{
    struct errand *errand = context;
    errand->found = strcmp(delivery->group, errand->wanted.group) == 0 &&
                    strcmp(delivery->handler, errand->wanted.handler) == 0;
    errand->found_status = delivery->status;
    return !errand->found;
}

/* One letter: it must be there, and be one. */
static enum fan_status move_asked(struct errand *errand, struct fan_error *error)
{
    struct wanted *wanted = &errand->wanted;
    if (!wanted->handler)
        wanted->handler = "";
    if (wanted->id) {
        enum fan_status status =
            fan_store_get(errand->ask.daemon->store, wanted->id, errand->batch, NULL);
        if (status == FAN_NOT_FOUND)
            return fan__fail(error, FAN_NOT_FOUND, "id", "is that of no event in this log");
        if (status != FAN_OK)
            return status;
        wanted->seq = fan_event_seq(fan_batch_event(errand->batch, 0));
    }
    enum fan_status status =
        fan_store_deliveries(errand->ask.daemon->store, wanted->seq, 0, see_asked, errand);
    if (status != FAN_OK)
        return status;
    if (!errand->found)
        return fan__fail(error, FAN_NOT_FOUND, "group",
                         "has no delivery of event %" PRIu64 " to handler \"%s\"", wanted->seq,
                         wanted->handler);
    status = errand->found_status == FAN_EVENT_FAILED
                 ? move(errand, wanted->group, wanted->handler, wanted->seq)
                 : FAN_CONFLICT;
    if (status == FAN_CONFLICT || status == FAN_MISUSE || status == FAN_NOT_FOUND)
        return fan__fail(error, FAN_CONFLICT, wanted->id ? "id" : "seq",
                         "is that of no dead letter there: its delivery is %s",
                         fan_event_status_text(errand->found_status));
    return status;
}

static void run_move(struct fan__ask *ask)
{
    struct errand *errand = (struct errand *)ask;
    bool one = errand->wanted.id || errand->wanted.seq > 0;
    ask->status = one ? move_asked(errand, &ask->error) : go_through(errand, move_one);
    fan__buffer_add_format(&ask->json, "{\"moved\":%" PRIu64 ",", errand->count);
    add_next(errand, &ask->json);
}

static enum fan_status read_move(struct errand *errand, struct fan_error *error)
{
    static const struct fan__field fields[] = {
        { "id", FAN__FIELD_TEXT, false, offsetof(struct wanted, id), 1, FAN_TEXT_SIZE_MAX },
        { "seq", FAN__FIELD_NUMBER, false, offsetof(struct wanted, seq), 1, FAN_SEQ_MAX },
        { "group", FAN__FIELD_TEXT, false, offsetof(struct wanted, group), 1, FAN_TEXT_SIZE_MAX },
        { "handler", FAN__FIELD_TEXT, false, offsetof(struct wanted, handler), 0,
          FAN_TEXT_SIZE_MAX },
        { "type", FAN__FIELD_TEXT, false, offsetof(struct wanted, type), 1, FAN_TEXT_SIZE_MAX },
        { "topic", FAN__FIELD_TEXT, false, offsetof(struct wanted, topic), 0, FAN_TEXT_SIZE_MAX },
        { "after", FAN__FIELD_NUMBER, false, offsetof(struct wanted, after), 0, FAN_SEQ_MAX },
        { "limit", FAN__FIELD_NUMBER, false, offsetof(struct wanted, limit), 1,
          FAN__DEAD_LIMIT_MAX },
        { "all", FAN__FIELD_FLAG, false, offsetof(struct wanted, all), 0, 0 },
        { NULL, FAN__FIELD_TEXT, false, 0, 0, 0 },
    };
    struct wanted *wanted = &errand->wanted;
    wanted->limit = FAN__DEAD_LIMIT_MAX;
    enum fan_status status = fan__fields_parse(fan__http_body(errand->ask.request), fields, wanted,
                                               &errand->body, error);
    if (status != FAN_OK)
        return status;
    bool one = wanted->id || wanted->seq > 0;
    if (wanted->id && wanted->seq > 0)
        return fan__fail(error, FAN_INVALID, "seq", "goes not with id; one of them is enough");
    if (one && !wanted->group)
        return fan__fail(error, FAN_INVALID, "group",
                         "is missing; an event may be the dead letter of several");
    if (one && (wanted->type || wanted->topic || wanted->after > 0 || wanted->all))
        return fan__fail(error, FAN_INVALID, wanted->id ? "id" : "seq",
                         "is one event's; type, topic, after and all are for several");
    if (!one && !wanted->group && !wanted->type && !wanted->topic && !wanted->all)
        return fan__fail(error, FAN_INVALID, "group",
                         "is missing; name a group, a type or a topic, or say \"all\": true");
    return check_wanted(wanted, error);
}

static void start_move(struct fan__http_request *request, enum fan_event_status to)
{
    struct errand *errand = make_errand(request);
    if (!errand)
        return;
    struct fan_error error = FAN_ERROR_INIT;
    enum fan_status status = read_move(errand, &error);
    if (status != FAN_OK) {
        fan__ask_refuse(&errand->ask, status, &error);
        return;
    }
    errand->to = to;
    errand->reads = errand->wanted.type || errand->wanted.topic;
    errand->ask.run = run_move;
    fan__ask_start(&errand->ask);
}

void fan__dead_redrive(struct fan__http_request *request)
{
    start_move(request, FAN_EVENT_PENDING);
}

void fan__dead_discard(struct fan__http_request *request)
{
    start_move(request, FAN_EVENT_COMPLETED);
}
