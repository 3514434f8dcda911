/*
 * fanfare: publishes, follows, inspects and works on events over the network API.
 *
 *     fanfare [--url URL] VERB [OPTION...]
 *
 * Exit codes: 0 done, 1 something failed, 2 wrong usage.
 */
#include "cli/cli.h"

#include "cli/wait.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* argp looks for it from within libc, so it must be seen there. */
FAN_API const char *argp_program_version = "fanfare " FANFARE_VERSION;

#define VERBS                                                                                      \
    "pub, tail, get, ls, stats, run, dead, groups, backup, restore, verify, retain or "            \
    "capture"

static const struct verb {
    const char *name;
    int (*run)(struct fan__common *common, int argc, char **argv);
    const char *words;
} verbs[] = {
    { "pub", fan__cli_pub, "publish one event, or a file of them" },
    { "tail", fan__cli_tail, "follow events as they come" },
    { "get", fan__cli_get, "show one event" },
    { "ls", fan__cli_ls, "list events" },
    { "stats", fan__cli_stats, "show the server's counters" },
    { "run", fan__cli_run, "have a command work on events" },
    { "dead", fan__cli_dead, "dead letters: ls, show, redrive, discard" },
    { "groups", fan__cli_groups, "consumer groups: ls, create, delete" },
    { "backup", fan__cli_backup, "copy a log into a file" },
    { "restore", fan__cli_restore, "make a log of a backup" },
    { "verify", fan__cli_verify, "look for damage in a log" },
    { "retain", fan__cli_retain, "remove from a log what is finished and old" },
    { "capture", fan__cli_capture, "bring what happens in PostgreSQL into a log" },
};

static error_t parse_common(int key, char *value, struct argp_state *state)
{
    struct fan__common *common = state->input;
    if (key != 'u')
        return ARGP_ERR_UNKNOWN;
    common->url = value;
    return 0;
}

static const struct argp_option common_options[] = {
    { "url", 'u', "URL", 0, "The server (FANFARE_URL, else http://127.0.0.1:8080)", 0 },
    { 0 },
};

const struct argp fan__common_argp = { common_options, parse_common, NULL, NULL, NULL, NULL, NULL };

uint64_t fan__read_number(const struct argp_state *state, const char *option, const char *text,
                          uint64_t least, uint64_t most)
{
    uint64_t number = 0;
    const char *at = text;
    bool good = *at != '\0';
    for (; good && *at; at++) {
        good = *at >= '0' && *at <= '9' && !__builtin_mul_overflow(number, 10, &number) &&
               !__builtin_add_overflow(number, (uint64_t)(*at - '0'), &number);
    }
    if (!good || number < least || number > most)
        argp_error(state, "--%s: expected a number from %" PRIu64 " to %" PRIu64 ", not '%s'",
                   option, least, most, text);
    return number;
}

struct start {
    struct fan__common *common;
    int verb_at;
};

static error_t parse_start(int key, char *value, struct argp_state *state)
{
    struct start *start = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = start->common;
        return 0;
    case ARGP_KEY_ARG:
        (void)value;
        start->verb_at = state->next - 1;
        /* What follows is the verb's. */
        state->next = state->argc;
        return 0;
    case ARGP_KEY_NO_ARGS:
        argp_error(state, "which verb? " VERBS);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const char start_words[] =
    "Publishes, follows, inspects and works on events of a Fanfare server.\v"
    "Verbs:\n"
    "  pub    publish one event, or a file of them\n"
    "  tail   follow events as they come\n"
    "  get    show one event\n"
    "  ls     list events\n"
    "  stats  show the server's counters\n"
    "  run    have a command work on events\n"
    "  dead   dead letters: ls, show, redrive, discard\n"
    "  groups consumer groups: ls, create, delete\n"
    "\n"
    "Verbs that work on a log itself (--store URI), with or without a server:\n"
    "  backup  copy it into a file\n"
    "  restore make it of a backup\n"
    "  verify  look for damage\n"
    "  retain  remove what is finished and old\n"
    "  capture bring what happens in PostgreSQL into it\n"
    "\n"
    "`fanfare VERB --help` tells the options of each. Exit codes: 0 done, 1 something failed, "
    "2 wrong usage.";

static const struct argp_child start_children[] = {
    { &fan__common_argp, 0, NULL, 0 },
    { 0 },
};

static const struct argp start_argp = {
    NULL, parse_start, "VERB [OPTION...]", start_words, start_children, NULL, NULL,
};

/* argp names the program in its messages by argv[0]: "fanfare tail: unknown option". */
static int run_verb(const struct verb *verb, struct fan__common *common, int argc, char **argv)
{
    struct fan__text name = { NULL, 0, 0 };
    fan__text_add_format(&name, "fanfare %s", verb->name);
    argv[0] = name.data;
    int code = verb->run(common, argc, argv);
    fan__text_deinit(&name);
    return code;
}

int main(int argc, char **argv)
{
    const char *url = getenv("FANFARE_URL");
    struct fan__common common = { url && *url ? url : "http://127.0.0.1:8080" };
    struct start start = { &common, 0 };
    char name[] = "fanfare";
    argp_err_exit_status = FAN__EXIT_USAGE;
    if (argc > 0)
        argv[0] = name;
    if (argp_parse(&start_argp, argc, argv, ARGP_IN_ORDER, NULL, &start) != 0)
        return FAN__EXIT_USAGE;
    if (!fan__wait_open())
        return FAN__EXIT_FAILED;
    const char *wanted = argv[start.verb_at];
    for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++)
        if (strcmp(verbs[i].name, wanted) == 0)
            return run_verb(&verbs[i], &common, argc - start.verb_at, argv + start.verb_at);
    fan__say("no such verb: '%s'; expected " VERBS, wanted);
    return FAN__EXIT_USAGE;
}
