/* groups: consumer groups, and what they are owed. */
#include "cli/groups.h"
#include "cli/cli.h"
#include "cli/table.h"

#include <fanfare/cursor.h>
#include <fanfare/pattern.h>

#include <stdlib.h>
#include <string.h>

enum { GROUPS_HANDLER = 0x100, GROUPS_TYPE, GROUPS_TOPIC, GROUPS_START, GROUPS_AFTER, GROUPS_JSON };

struct groups {
    struct fan__common *common;
    const char *verb;
    struct fan__group group;
    bool json;
};

static const struct argp_option options[] = {
    { "handler", GROUPS_HANDLER, "NAME", 0, "create, delete: one of several handlers", 1 },
    { "type", GROUPS_TYPE, "PATTERN", 0,
      "create: types that match; `*` is a segment, a last `>` more", 1 },
    { "topic", GROUPS_TOPIC, "TOPIC", 0, "create: of one topic", 1 },
    { "from-start", GROUPS_START, NULL, 0, "create: from all that the log has (else what comes)",
      1 },
    { "after", GROUPS_AFTER, "CURSOR", 0, "create: from what follows SEQ@EPOCH, or SEQ", 1 },
    { "json", GROUPS_JSON, NULL, 0, "ls: one a line, as JSON", 2 },
    { 0 },
};

static void take_word(struct groups *groups, struct argp_state *state, const char *word)
{
    static const char *const verbs[] = { "ls", "create", "delete" };
    for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]) && !groups->verb; i++)
        if (strcmp(verbs[i], word) == 0) {
            groups->verb = verbs[i];
            return;
        }
    if (!groups->verb)
        argp_error(state, "no such verb: '%s'; expected ls, create or delete", word);
    else if (groups->group.name || strcmp(groups->verb, "ls") == 0)
        argp_error(state, "what is '%s'?", word);
    else
        fan__group_take_name(state, word, &groups->group.name);
}

static error_t parse(int key, char *value, struct argp_state *state)
{
    struct groups *groups = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = groups->common;
        return 0;
    case GROUPS_HANDLER:
        groups->group.handler = value;
        return 0;
    case GROUPS_TYPE:
        fan__group_take_type(state, value, &groups->group);
        return 0;
    case GROUPS_TOPIC:
        groups->group.topic = value;
        return 0;
    case GROUPS_START:
        fan__group_take_start(state, "beginning", &groups->group);
        return 0;
    case GROUPS_AFTER:
        fan__group_take_start(state, value, &groups->group);
        return 0;
    case GROUPS_JSON:
        groups->json = true;
        return 0;
    case ARGP_KEY_ARG:
        take_word(groups, state, value);
        return 0;
    case ARGP_KEY_END:
        if (!groups->verb)
            argp_error(state, "which verb? ls, create or delete");
        else if (strcmp(groups->verb, "ls") != 0 && !groups->group.name)
            argp_error(state, "which group? Give its name");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = { { &fan__common_argp, 0, NULL, 0 }, { 0 } };

static const struct argp groups_argp = {
    options,
    parse,
    "ls\ncreate NAME\ndelete NAME",
    "Consumer groups, and what they are owed.\v"
    "create gives a group that is there already another filter and leaves its place; delete "
    "forgets what it is owed.",
    children,
    NULL,
    NULL,
};

/* ---- What `run` shares ---- */

void fan__group_take_name(const struct argp_state *state, const char *word, const char **ret_name)
{
    if (*word == '\0' || strlen(word) > FAN_TEXT_SIZE_MAX)
        argp_error(state, "a group's name has 1 to %d bytes", FAN_TEXT_SIZE_MAX);
    *ret_name = word;
}

void fan__group_take_type(const struct argp_state *state, const char *word,
                          struct fan__group *group)
{
    struct fan_error error;
    if (fan_pattern_check(word, &error) != FAN_OK)
        argp_error(state, "--type: the pattern '%s' %s", word, error.message);
    group->type = word;
}

void fan__group_take_start(const struct argp_state *state, const char *word,
                           struct fan__group *group)
{
    struct fan_cursor cursor;
    struct fan_error error;
    if (group->start)
        argp_error(state, "one of --after and --from-start, not both");
    if (strcmp(word, "beginning") != 0 && fan_cursor_parse(word, &cursor, &error) != FAN_OK)
        argp_error(state, "--after: the cursor '%s' %s", word, error.message);
    group->start = word;
}

void fan__group_add_target(struct fan__text *target, const struct fan__group *group,
                           const char *verb)
{
    fan__text_add_text(target, "/v1/groups/");
    fan__text_add_escaped(target, group->name);
    if (verb)
        fan__text_add_format(target, "/%s", verb);
    fan__text_add_query(target, "handler", group->handler);
}

bool fan__group_create(struct fan__client *client, const struct fan__group *group,
                       struct fan__answer *answer)
{
    struct fan__text target = { NULL, 0, 0 };
    struct fan__text body = { NULL, 0, 0 };
    fan__group_add_target(&target, group, NULL);
    fan__text_add_text(&body, "{");
    bool good = fan__text_add_member(&body, "pattern", group->type) &&
                fan__text_add_member(&body, "topic", group->topic) &&
                fan__text_add_member(&body, "start", group->start);
    fan__text_add_text(&body, "}");
    struct fan__call call = { .method = "PUT",
                              .target = target.data,
                              .content_type = "application/json",
                              .body = { body.data, body.size } };
    good = good && fan__client_ask(client, &call, answer);
    fan__text_deinit(&body);
    fan__text_deinit(&target);
    return good;
}

/* ---- The verbs ---- */

static const struct fan__column columns[] = {
    { "group", "GROUP", 20, "cyan" },
    { "handler", "HANDLER", 10, NULL },
    { "pattern", "PATTERN", 20, NULL },
    { "lag", "LAG", 8, NULL },
    { "lag_s", "LAG-S", 9, NULL },
    { "pending", "PENDING", 8, NULL },
    { "processing", "PROCESSING", 10, NULL },
    { "completed", "COMPLETED", 10, NULL },
    { "failed", "FAILED", 8, "red" },
    { "joined_at", "JOINED", 0, "dim" },
    { NULL, NULL, 0, NULL },
};

static bool delete (struct fan__client *client, const struct fan__group *group,
                    struct fan__answer *answer)
{
    struct fan__text target = { NULL, 0, 0 };
    fan__group_add_target(&target, group, NULL);
    struct fan__call call = { .method = "DELETE", .target = target.data };
    bool good = fan__client_ask(client, &call, answer);
    fan__text_deinit(&target);
    return good;
}

int fan__cli_groups(struct fan__common *common, int argc, char **argv)
{
    struct groups groups = { .common = common };
    argp_parse(&groups_argp, argc, argv, 0, NULL, &groups);
    struct fan__client *client = fan__client_new(common->url);
    if (!client)
        return FAN__EXIT_USAGE;
    struct fan__answer answer = { .status = 0 };
    bool good;
    if (strcmp(groups.verb, "ls") == 0)
        good = fan__client_get(client, "/v1/groups", &answer) &&
               fan__print_list(&answer.body, "groups", columns, groups.json);
    else if (strcmp(groups.verb, "create") == 0)
        good = fan__group_create(client, &groups.group, &answer);
    else
        good = delete (client, &groups.group, &answer);
    fan__answer_deinit(&answer);
    fan__client_free(client);
    return good ? FAN__EXIT_OK : FAN__EXIT_FAILED;
}
