/* get, ls and stats: one question each, its answer shown to people or passed on as it is. */
#include "cli/cli.h"
#include "cli/slice.h"
#include "cli/table.h"

#include <fanfare/pattern.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- get ---- */

struct get {
    struct fan__common *common;
    const char *id;
};

static error_t parse_get(int key, char *value, struct argp_state *state)
{
    struct get *get = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = get->common;
        return 0;
    case ARGP_KEY_ARG:
        if (get->id)
            argp_error(state, "one id, not more: '%s'", value);
        if (*value == '\0' || strlen(value) > FAN_TEXT_SIZE_MAX)
            argp_error(state, "an id has 1 to %d bytes", FAN_TEXT_SIZE_MAX);
        get->id = value;
        return 0;
    case ARGP_KEY_NO_ARGS:
        argp_error(state, "which event? Give its id");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = { { &fan__common_argp, 0, NULL, 0 }, { 0 } };

static const struct argp get_argp = {
    NULL,     parse_get,
    "ID",     "Shows an event with the state of its deliveries, as the JSON that the server keeps.",
    children, NULL,
    NULL,
};

int fan__cli_get(struct fan__common *common, int argc, char **argv)
{
    struct get get = { common, NULL };
    argp_parse(&get_argp, argc, argv, 0, NULL, &get);
    struct fan__client *client = fan__client_new(common->url);
    if (!client)
        return FAN__EXIT_USAGE;
    struct fan__text target = { NULL, 0, 0 };
    fan__text_add_text(&target, "/v1/events/");
    fan__text_add_escaped(&target, get.id);
    struct fan__answer answer = { .status = 0 };
    bool good = fan__client_get(client, target.data, &answer);
    if (good) {
        if (answer.body.data[answer.body.size - 1] != '\n')
            fan__text_add_text(&answer.body, "\n");
        good = fan__print(&answer.body);
    }
    fan__answer_deinit(&answer);
    fan__text_deinit(&target);
    fan__client_free(client);
    return good ? FAN__EXIT_OK : FAN__EXIT_FAILED;
}

/* ---- ls ---- */

enum { LS_NEWEST = 0x100, LS_LIMIT, LS_OFFSET, LS_JSON, LS_FILTER };

static const struct argp_option ls_options[] = {
    { "topic", LS_FILTER, "TOPIC", 0, "Of one topic", 1 },
    { "type", LS_FILTER + 1, "PATTERN", 0, "Of types that match: `*` is a segment, a last `>` more",
      1 },
    { "source", LS_FILTER + 2, "SOURCE", 0, "From database, websocket, frontend, system, internal",
      1 },
    { "status", LS_FILTER + 3, "STATUS", 0, "That are pending, processing, completed, failed", 1 },
    { "user-id", LS_FILTER + 4, "N", 0, "Of one user", 1 },
    { "schema", LS_FILTER + 5, "NAME", 0, "Of one schema", 1 },
    { "entity", LS_FILTER + 6, "NAME", 0, "Of one entity", 1 },
    { "operation", LS_FILTER + 7, "NAME", 0, "Of one operation", 1 },
    { "instance", LS_FILTER + 8, "ID", 0, "That one instance stored", 1 },
    { "since", LS_FILTER + 9, "TIME", 0, "Created at or after this time (RFC 3339)", 1 },
    { "until", LS_FILTER + 10, "TIME", 0, "Created before this time", 1 },
    { "newest", LS_NEWEST, NULL, 0, "The newest first", 2 },
    { "limit", LS_LIMIT, "N", 0, "At most so many", 2 },
    { "offset", LS_OFFSET, "N", 0, "Pass over the first", 2 },
    { "json", LS_JSON, NULL, 0, "One event a line, as JSON", 2 },
    { 0 },
};

/* By their place behind LS_FILTER. */
static const char *const ls_names[] = {
    "topic",  "type",      "source",      "status", "user_id", "schema",
    "entity", "operation", "instance_id", "since",  "until",
};

struct ls {
    struct fan__common *common;
    struct fan__text target;
    bool newest;
    bool json;
};

static void take_number(struct ls *ls, struct argp_state *state, const char *name,
                        const char *value)
{
    char digits[24];
    uint64_t number = fan__read_number(state, name, value, 0, UINT64_MAX);
    snprintf(digits, sizeof(digits), "%llu", (unsigned long long)number);
    fan__text_add_query(&ls->target, name, digits);
}

static error_t parse_ls(int key, char *value, struct argp_state *state)
{
    struct ls *ls = state->input;
    struct fan_error error;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = ls->common;
        return 0;
    case LS_NEWEST:
        ls->newest = true;
        return 0;
    case LS_LIMIT:
        take_number(ls, state, "limit", value);
        return 0;
    case LS_OFFSET:
        take_number(ls, state, "offset", value);
        return 0;
    case LS_JSON:
        ls->json = true;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "what is '%s'? Filters are options", value);
        return 0;
    default:
        if (key < LS_FILTER || key >= LS_FILTER + (int)(sizeof(ls_names) / sizeof(ls_names[0])))
            return ARGP_ERR_UNKNOWN;
        if (key == LS_FILTER + 1 && fan_pattern_check(value, &error) != FAN_OK)
            argp_error(state, "--type: %s", error.message);
        fan__text_add_query(&ls->target, ls_names[key - LS_FILTER], value);
        return 0;
    }
}

static const struct argp ls_argp = {
    ls_options, parse_ls, NULL, "Lists events, the oldest first.", children, NULL, NULL,
};

static const struct fan__column ls_columns[] = {
    { "seq", "SEQ", 8, "dim" },       { "created_at", "CREATED", 27, "dim" },
    { "status", "STATUS", 10, NULL }, { "type", "TYPE", 28, "cyan" },
    { "topic", "TOPIC", 20, NULL },   { "id", "ID", 0, NULL },
    { NULL, NULL, 0, NULL },
};

static void say_more(const struct fan__text *body)
{
    struct fan_str next;
    struct fan_str whole = { body->data, body->size };
    if (fan__slice_find(whole, "next_offset", &next))
        fan__say("there may be more, which one answer does not hold; go on with --offset %.*s",
                 (int)next.size, next.data);
}

int fan__cli_ls(struct fan__common *common, int argc, char **argv)
{
    struct ls ls = { .common = common };
    fan__text_add_text(&ls.target, "/v1/events");
    argp_parse(&ls_argp, argc, argv, 0, NULL, &ls);
    fan__text_add_query(&ls.target, "order", ls.newest ? "newest" : "oldest");
    struct fan__client *client = fan__client_new(common->url);
    if (!client) {
        fan__text_deinit(&ls.target);
        return FAN__EXIT_USAGE;
    }
    struct fan__answer answer = { .status = 0 };
    bool good = fan__client_get(client, ls.target.data, &answer) &&
                fan__print_list(&answer.body, "events", ls_columns, ls.json);
    if (good)
        say_more(&answer.body);
    fan__answer_deinit(&answer);
    fan__text_deinit(&ls.target);
    fan__client_free(client);
    return good ? FAN__EXIT_OK : FAN__EXIT_FAILED;
}

/* ---- stats ---- */

struct stats {
    struct fan__common *common;
    bool json;
};

static error_t parse_stats(int key, char *value, struct argp_state *state)
{
    struct stats *stats = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = stats->common;
        return 0;
    case 'j':
        stats->json = true;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "what is '%s'?", value);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option stats_options[] = {
    { "json", 'j', NULL, 0, "As the JSON that the server gives", 1 },
    { 0 },
};

static const struct argp stats_argp = {
    stats_options, parse_stats, NULL, "Shows the server's counters.", children, NULL, NULL,
};

/* `store.lag.mail  17`: one line a value, its path in front. JSON that jansson took is shallow. */
static void add_flat(struct fan__text *text, const char *path, struct fan_str value)
{
    if (value.data[0] != '{' && value.data[0] != '[') {
        fan__text_add_format(text, "%-40s  ", path);
        fan__add_value(text, value);
        fan__text_add_text(text, "\n");
        return;
    }
    struct fan__slice slice = fan__slice_open(value);
    struct fan__text longer = { NULL, 0, 0 };
    struct fan_str key;
    struct fan_str member;
    for (unsigned i = 0; fan__slice_next(&slice, &key, &member); i++) {
        fan__text_clear(&longer);
        if (*path)
            fan__text_add_format(&longer, "%s.", path);
        if (value.data[0] == '{')
            fan__text_add_shown(&longer, key);
        else
            fan__text_add_format(&longer, "%u", i);
        add_flat(text, longer.data, member);
    }
    fan__text_deinit(&longer);
}

int fan__cli_stats(struct fan__common *common, int argc, char **argv)
{
    struct stats stats = { common, false };
    argp_parse(&stats_argp, argc, argv, 0, NULL, &stats);
    struct fan__client *client = fan__client_new(common->url);
    if (!client)
        return FAN__EXIT_USAGE;
    struct fan__answer answer = { .status = 0 };
    struct fan__text text = { NULL, 0, 0 };
    bool good = fan__client_get(client, "/v1/stats", &answer);
    if (good && stats.json) {
        fan__text_add(&text, answer.body.data, answer.body.size);
        if (text.data[text.size - 1] != '\n')
            fan__text_add_text(&text, "\n");
    } else if (good) {
        struct fan_str whole = { answer.body.data, answer.body.size };
        while (whole.data[0] != '{') {
            whole.data++;
            whole.size--;
        }
        add_flat(&text, "", whole);
    }
    good = good && fan__print(&text);
    fan__text_deinit(&text);
    fan__answer_deinit(&answer);
    fan__client_free(client);
    return good ? FAN__EXIT_OK : FAN__EXIT_FAILED;
}
