/* dead: what failed for good, to be looked at, handled again or let rest. */
#include "cli/cli.h"
#include "cli/slice.h"
#include "cli/table.h"

#include <fanfare/pattern.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE_COUNT 1000

enum {
    DEAD_GROUP = 0x100,
    DEAD_HANDLER,
    DEAD_TYPE,
    DEAD_TOPIC,
    DEAD_AFTER,
    DEAD_LIMIT,
    DEAD_ALL,
    DEAD_JSON
};

struct dead {
    struct fan__common *common;
    const char *verb;
    const char *event; /* an id, or a sequence */
    const char *group;
    const char *handler;
    const char *type;
    const char *topic;
    uint64_t after;
    uint64_t limit; /* 0: none given */
    bool all;
    bool json;
};

static const struct argp_option options[] = {
    { "group", DEAD_GROUP, "NAME", 0, "Of one consumer group", 1 },
    { "handler", DEAD_HANDLER, "NAME", 0, "Of one of its handlers", 1 },
    { "type", DEAD_TYPE, "PATTERN", 0, "Of types that match: `*` is a segment, a last `>` more",
      1 },
    { "topic", DEAD_TOPIC, "TOPIC", 0, "Of one topic", 1 },
    { "all", DEAD_ALL, NULL, 0, "redrive, discard: all of them, whatever they are", 2 },
    { "after", DEAD_AFTER, "SEQ", 0, "Of events behind this sequence", 2 },
    { "limit", DEAD_LIMIT, "N", 0, "At most so many", 2 },
    { "json", DEAD_JSON, NULL, 0, "ls: one a line, as JSON", 2 },
    { 0 },
};

static void take_word(struct dead *dead, struct argp_state *state, const char *word)
{
    static const char *const verbs[] = { "ls", "show", "redrive", "discard" };
    for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]) && !dead->verb; i++)
        if (strcmp(verbs[i], word) == 0) {
            dead->verb = verbs[i];
            return;
        }
    if (!dead->verb)
        argp_error(state, "no such verb: '%s'; expected ls, show, redrive or discard", word);
    else if (dead->event || strcmp(dead->verb, "ls") == 0)
        argp_error(state, "what is '%s'?", word);
    else if (*word == '\0' || strlen(word) > FAN_TEXT_SIZE_MAX)
        argp_error(state, "an id has 1 to %d bytes", FAN_TEXT_SIZE_MAX);
    dead->event = word;
}

static void check(const struct dead *dead, const struct argp_state *state)
{
    if (!dead->verb) {
        argp_error(state, "which verb? ls, show, redrive or discard");
        return;
    }
    bool moves = strcmp(dead->verb, "redrive") == 0 || strcmp(dead->verb, "discard") == 0;
    bool filters = dead->type || dead->topic || dead->all || dead->after > 0 || dead->limit > 0;
    if (strcmp(dead->verb, "show") == 0 && !dead->event)
        argp_error(state, "which event? Give its id or sequence");
    if (moves && dead->event && !dead->group)
        argp_error(state, "--group is missing: an event may be the dead letter of several");
    if (moves && dead->event && filters)
        argp_error(state, "one event, or --type, --topic, --all, --after and --limit; not both");
    if (moves && !dead->event && !dead->group && !dead->type && !dead->topic && !dead->all)
        argp_error(state, "which ones? Give an event and --group; or --group, --type, --topic "
                          "or --all");
}

static error_t parse(int key, char *value, struct argp_state *state)
{
    struct dead *dead = state->input;
    struct fan_error error;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = dead->common;
        return 0;
    case DEAD_GROUP:
        dead->group = value;
        return 0;
    case DEAD_HANDLER:
        dead->handler = value;
        return 0;
    case DEAD_TYPE:
        if (fan_pattern_check(value, &error) != FAN_OK)
            argp_error(state, "--type: the pattern '%s' %s", value, error.message);
        dead->type = value;
        return 0;
    case DEAD_TOPIC:
        dead->topic = value;
        return 0;
    case DEAD_AFTER:
        dead->after = fan__read_number(state, "after", value, 0, INT64_MAX);
        return 0;
    case DEAD_LIMIT:
        dead->limit = fan__read_number(state, "limit", value, 1, UINT64_MAX);
        return 0;
    case DEAD_ALL:
        dead->all = true;
        return 0;
    case DEAD_JSON:
        dead->json = true;
        return 0;
    case ARGP_KEY_ARG:
        take_word(dead, state, value);
        return 0;
    case ARGP_KEY_END:
        check(dead, state);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = { { &fan__common_argp, 0, NULL, 0 }, { 0 } };

static const struct argp dead_argp = {
    options,
    parse,
    "ls\nshow ID|SEQ\nredrive|discard ID|SEQ --group NAME\nredrive|discard --group NAME|--all",
    "Dead letters: events that a consumer group could not handle.\v"
    "ls lists them with the reason and the last error, show gives one with its event as JSON, "
    "redrive has them handled again, with attempts from 1, discard lets them rest. Digits alone "
    "are a sequence.",
    children,
    NULL,
    NULL,
};

/* ---- ls ---- */

static const struct fan__column columns[] = {
    { "seq", "SEQ", 8, "dim" },       { "completed_at", "DIED", 27, "dim" },
    { "group", "GROUP", 16, NULL },   { "handler", "HANDLER", 10, NULL },
    { "reason", "REASON", 8, "red" }, { "attempts", "ATTEMPTS", 8, NULL },
    { "type", "TYPE", 24, "cyan" },   { "id", "ID", 36, NULL },
    { "error", "ERROR", 0, NULL },    { NULL, NULL, 0, NULL },
};

static void add_number(struct fan__text *target, const char *name, uint64_t number)
{
    char digits[24];
    snprintf(digits, sizeof(digits), "%" PRIu64, number);
    fan__text_add_query(target, name, digits);
}

/* The `next` of an answer: 0 for none. */
static uint64_t next_of(const struct fan__answer *answer)
{
    struct fan_str whole = { answer->body.data, answer->body.size };
    struct fan_str next;
    return fan__slice_find(whole, "next", &next) ? strtoull(next.data, NULL, 10) : 0;
}

static bool list(struct dead *dead, struct fan__client *client, struct fan__answer *answer)
{
    struct fan__text target = { NULL, 0, 0 };
    fan__text_add_text(&target, "/v1/dead");
    fan__text_add_query(&target, "group", dead->group);
    fan__text_add_query(&target, "handler", dead->handler);
    fan__text_add_query(&target, "type", dead->type);
    fan__text_add_query(&target, "topic", dead->topic);
    add_number(&target, "after", dead->after);
    if (dead->limit > 0)
        add_number(&target, "limit", dead->limit);
    bool good = fan__client_get(client, target.data, answer) &&
                fan__print_list(&answer->body, "dead", columns, dead->json);
    if (good && next_of(answer) > 0)
        fan__say("there are more: go on with --after %" PRIu64, next_of(answer));
    fan__text_deinit(&target);
    return good;
}

/* ---- show ---- */

static bool show(struct dead *dead, struct fan__client *client, struct fan__answer *answer)
{
    struct fan__text target = { NULL, 0, 0 };
    fan__text_add_text(&target, "/v1/dead/");
    fan__text_add_escaped(&target, dead->event);
    bool good = fan__client_get(client, target.data, answer);
    if (good && answer->body.data[answer->body.size - 1] != '\n')
        fan__text_add_text(&answer->body, "\n");
    good = good && fan__print(&answer->body);
    fan__text_deinit(&target);
    return good;
}

/* ---- redrive and discard ---- */

static bool write_body(const struct dead *dead, uint64_t after, uint64_t limit,
                       struct fan__text *body)
{
    fan__text_clear(body);
    fan__text_add_text(body, "{");
    bool digits = dead->event && strspn(dead->event, "0123456789") == strlen(dead->event);
    if (digits)
        fan__text_add_format(body, "\"seq\":%s", dead->event);
    bool good = (digits || fan__text_add_member(body, "id", dead->event)) &&
                fan__text_add_member(body, "group", dead->group) &&
                fan__text_add_member(body, "handler", dead->handler) &&
                fan__text_add_member(body, "type", dead->type) &&
                fan__text_add_member(body, "topic", dead->topic);
    const char *comma = body->size > 1 ? "," : "";
    if (!dead->event)
        fan__text_add_format(body, "%s\"all\":%s,\"after\":%" PRIu64 ",\"limit\":%" PRIu64, comma,
                             dead->all ? "true" : "false", after, limit);
    fan__text_add_text(body, "}");
    return good;
}

/* All of them, a page at a time. */
static bool move(struct dead *dead, struct fan__client *client, struct fan__answer *answer)
{
    struct fan__text target = { NULL, 0, 0 };
    struct fan__text body = { NULL, 0, 0 };
    fan__text_add_format(&target, "/v1/dead/%s", dead->verb);
    uint64_t after = dead->after;
    uint64_t moved = 0;
    bool good;
    do {
        uint64_t left = dead->limit > 0 ? dead->limit - moved : PAGE_COUNT;
        good = write_body(dead, after, left < PAGE_COUNT ? left : PAGE_COUNT, &body);
        struct fan__call call = { .target = target.data,
                                  .content_type = "application/json",
                                  .body = { body.data, body.size } };
        good = good && fan__client_ask(client, &call, answer);
        struct fan_str count = { "0", 1 };
        struct fan_str whole = { answer->body.data, answer->body.size };
        if (good && fan__slice_find(whole, "moved", &count))
            moved += strtoull(count.data, NULL, 10);
        after = good ? next_of(answer) : 0;
    } while (after > 0 && (dead->limit == 0 || moved < dead->limit));
    bool redrives = strcmp(dead->verb, "redrive") == 0;
    if (good || moved > 0) {
        struct fan__text text = { NULL, 0, 0 };
        fan__text_add_format(&text, "%s %" PRIu64 "\n", redrives ? "redriven" : "discarded", moved);
        good = fan__print(&text) && good;
        fan__text_deinit(&text);
    }
    fan__text_deinit(&body);
    fan__text_deinit(&target);
    return good;
}

int fan__cli_dead(struct fan__common *common, int argc, char **argv)
{
    struct dead dead = { .common = common };
    argp_parse(&dead_argp, argc, argv, 0, NULL, &dead);
    struct fan__client *client = fan__client_new(common->url);
    if (!client)
        return FAN__EXIT_USAGE;
    struct fan__answer answer = { .status = 0 };
    bool good;
    if (strcmp(dead.verb, "ls") == 0)
        good = list(&dead, client, &answer);
    else if (strcmp(dead.verb, "show") == 0)
        good = show(&dead, client, &answer);
    else
        good = move(&dead, client, &answer);
    fan__answer_deinit(&answer);
    fan__client_free(client);
    return good ? FAN__EXIT_OK : FAN__EXIT_FAILED;
}
