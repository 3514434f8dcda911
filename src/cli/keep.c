/*
 * backup, restore, verify and retain: they work on the log itself, by its URI, beside a server that
 * has it open or without one.
 */
#include "cli/cli.h"
#include "cli/wait.h"

#include <fanfare/keep.h>

#include <ctype.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    KEEP_STORE = 0x100,
    KEEP_AGE,
    KEEP_COUNT,
    KEEP_BYTES,
    KEEP_OWED,
    KEEP_DEAD,
    KEEP_GROUP,
    KEEP_ACCEPT,
};

struct keep {
    const char *store;
    const char *file;
    bool wants_file;
    bool accept_clock;
    struct fan_retention retention;
};

/* A number with the word behind it: "7d", "10G". Ends the program for anything else. */
static uint64_t read_amount(const struct argp_state *state, const char *option, const char *text,
                            const char *const *units, const uint64_t *factors)
{
    uint64_t number = 0;
    const char *at = text;
    bool good = isdigit((unsigned char)*at);
    for (; good && isdigit((unsigned char)*at); at++)
        good = !__builtin_mul_overflow(number, 10, &number) &&
               !__builtin_add_overflow(number, (uint64_t)(*at - '0'), &number);
    size_t unit = 0;
    while (units[unit] && strcmp(units[unit], at) != 0)
        unit++;
    if (!good || number == 0 || !units[unit] ||
        __builtin_mul_overflow(number, factors[unit], &number))
        argp_error(state, "--%s: '%s'; expected %s", option, text,
                   units[0][0] == '\0' ? "a size such as 500M or 10G"
                                       : "a time such as 90s, 30m, 12h or 7d");
    return number;
}

static uint64_t read_age(const struct argp_state *state, const char *option, const char *text)
{
    static const char *const units[] = { "ms", "s", "m", "h", "d", NULL };
    static const uint64_t factors[] = { 1, 1000, 60000, 3600000, 86400000 };
    return read_amount(state, option, text, units, factors);
}

uint64_t fan__read_size(const struct argp_state *state, const char *option, const char *text)
{
    static const char *const units[] = { "", "B", "K", "M", "G", "T", NULL };
    static const uint64_t factors[] = { 1, 1, 1 << 10, 1 << 20, 1 << 30, (uint64_t)1 << 40 };
    return read_amount(state, option, text, units, factors);
}

static bool has_bound(const struct keep *keep)
{
    const struct fan_retention *r = &keep->retention;
    return r->age_ms || r->count || r->bytes || r->owed_age_ms || r->dead_age_ms ||
           r->group_age_ms || keep->accept_clock;
}

static void check(const struct keep *keep, const struct argp_state *state)
{
    if (!keep->store)
        argp_error(state, "--store is missing: which log? For one, sqlite:fanfare.db");
    if (keep->wants_file && !keep->file)
        argp_error(state, "which file?");
    if (keep->retention.size > 0 && !has_bound(keep))
        argp_error(state, "nothing to do: give --age, --count, --bytes, --owed-age, --dead-age, "
                          "--group-age or --accept-clock");
}

static error_t parse(int key, char *value, struct argp_state *state)
{
    struct keep *keep = state->input;
    switch (key) {
    case KEEP_STORE:
        keep->store = value;
        return 0;
    case KEEP_AGE:
        keep->retention.age_ms = read_age(state, "age", value);
        return 0;
    case KEEP_COUNT:
        keep->retention.count = fan__read_number(state, "count", value, 1, INT64_MAX);
        return 0;
    case KEEP_BYTES:
        keep->retention.bytes = fan__read_size(state, "bytes", value);
        return 0;
    case KEEP_OWED:
        keep->retention.owed_age_ms = read_age(state, "owed-age", value);
        return 0;
    case KEEP_DEAD:
        keep->retention.dead_age_ms = read_age(state, "dead-age", value);
        return 0;
    case KEEP_GROUP:
        keep->retention.group_age_ms = read_age(state, "group-age", value);
        return 0;
    case KEEP_ACCEPT:
        keep->accept_clock = true;
        return 0;
    case ARGP_KEY_ARG:
        if (!keep->wants_file || keep->file)
            argp_error(state, "what is '%s'?", value);
        keep->file = value;
        return 0;
    case ARGP_KEY_END:
        check(keep, state);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

#define STORE_OPTION                                                                               \
    {                                                                                              \
        "store", KEEP_STORE, "URI", 0, "The log: sqlite:PATH", 1                                   \
    }

static const struct argp_option store_options[] = { STORE_OPTION, { 0 } };

static const struct argp_option retain_options[] = {
    STORE_OPTION,
    { "age", KEEP_AGE, "TIME", 0, "Finished events that are older go (90s, 30m, 12h, 7d)", 2 },
    { "count", KEEP_COUNT, "N", 0, "Finished events that are not among the newest N go", 2 },
    { "bytes", KEEP_BYTES, "SIZE", 0, "The oldest finished events above this size go (500M, 10G)",
      2 },
    { "owed-age", KEEP_OWED, "TIME", 0, "What is owed to a group for longer becomes a dead letter",
      3 },
    { "dead-age", KEEP_DEAD, "TIME", 0, "Dead letters that are dead for longer are discarded", 3 },
    { "group-age", KEEP_GROUP, "TIME", 0, "Groups with no member seen for longer go", 3 },
    { "accept-clock", KEEP_ACCEPT, NULL, 0, "Take the clock for right, though it jumped", 4 },
    { 0 },
};

/* The URI with what a program wants that must not make a log: Memory: the text's. */
static const char *existing(struct fan__text *text, const char *uri)
{
    fan__text_add_text(text, uri);
    if (strncmp(uri, "sqlite:", strlen("sqlite:")) == 0 && !strstr(uri, "create="))
        fan__text_add_text(text, strchr(uri, '?') ? "&create=no" : "?create=no");
    return text->data;
}

/* Says why a log cannot be opened, by the URI that the user gave. */
static void say_unopened(const char *given, const char *used, const char *message)
{
    size_t same = 0;
    while (used[same] && used[same] == message[same])
        same++;
    if (same >= strlen(given))
        fan__say("%s%s", given, message + same);
    else
        fan__say("%s", message);
}

static struct fan_store *open_log(const char *uri)
{
    struct fan_store *store = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    struct fan__text text = { NULL, 0, 0 };
    const char *used = existing(&text, uri);
    if (fan_store_open(used, NULL, &store, &error) != FAN_OK)
        say_unopened(uri, used, error.message);
    fan__text_deinit(&text);
    return store;
}

/* A line that the next one overwrites, on terminals alone. */
static void show(const char *words, uint64_t number)
{
    if (!isatty(STDERR_FILENO))
        return;
    fprintf(stderr, "\r\x1b[K%s", words);
    if (number > 0)
        fprintf(stderr, " %" PRIu64, number);
    fflush(stderr);
}

static void unshow(void)
{
    if (isatty(STDERR_FILENO))
        fputs("\r\x1b[K", stderr);
}

/* These calls cannot be asked to end, and leave nothing half done when they are killed. */
static void die_by_signals(void)
{
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
}

__attribute__((format(printf, 1, 2))) static bool tell(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    bool good = vprintf(format, arguments) >= 0 && fflush(stdout) == 0;
    va_end(arguments);
    if (!good)
        fan__say("standard output cannot be written");
    return good;
}

int fan__cli_backup(struct fan__common *common, int argc, char **argv)
{
    (void)common;
    struct keep keep = { .wants_file = true };
    static const struct argp backup_argp = {
        store_options,
        parse,
        "FILE",
        "Copies a log, as of one instant, into a file that is not there yet. The server goes on.",
        NULL,
        NULL,
        NULL,
    };
    argp_parse(&backup_argp, argc, argv, 0, NULL, &keep);
    die_by_signals();
    struct fan_store *store = open_log(keep.store);
    if (!store)
        return FAN__EXIT_FAILED;
    struct fan_error error = FAN_ERROR_INIT;
    show("backing up...", 0);
    enum fan_status status = fan_store_backup(store, keep.file, &error);
    unshow();
    fan_store_close(store);
    if (status != FAN_OK)
        fan__say("%s", error.message);
    bool good = status == FAN_OK && tell("backed up to %s\n", keep.file);
    return good ? FAN__EXIT_OK : FAN__EXIT_FAILED;
}

int fan__cli_restore(struct fan__common *common, int argc, char **argv)
{
    (void)common;
    struct keep keep = { .wants_file = true };
    static const struct argp restore_argp = {
        store_options,
        parse,
        "FILE",
        "Makes a log of a backup, where there is none yet. It is verified first, and begins a new "
        "epoch.",
        NULL,
        NULL,
        NULL,
    };
    argp_parse(&restore_argp, argc, argv, 0, NULL, &keep);
    die_by_signals();
    struct fan_error error = FAN_ERROR_INIT;
    show("restoring...", 0);
    enum fan_status status = fan_store_restore(keep.file, keep.store, NULL, &error);
    unshow();
    if (status != FAN_OK) {
        fan__say("%s", error.message);
        return FAN__EXIT_FAILED;
    }
    struct fan_store *store = open_log(keep.store);
    struct fan_cursor head = { 0, 0 };
    char text[FAN_CURSOR_TEXT_SIZE];
    bool good = store && fan_store_head(store, &head.seq) == FAN_OK;
    if (good) {
        head.epoch = fan_store_epoch(store);
        fan_cursor_format(&head, text);
        good = tell("restored, the last event is %s\n", text);
    }
    fan_store_close(store);
    return good ? FAN__EXIT_OK : FAN__EXIT_FAILED;
}

static bool on_finding(void *context, const struct fan_finding *finding)
{
    uint64_t *count = context;
    unshow();
    ++*count;
    if (finding->seq > 0)
        return tell("%s %" PRIu64 ": %s\n", finding->part, finding->seq, finding->words);
    return tell("%s: %s\n", finding->part, finding->words);
}

int fan__cli_verify(struct fan__common *common, int argc, char **argv)
{
    (void)common;
    struct keep keep = { .wants_file = false };
    static const struct argp verify_argp = {
        store_options,
        parse,
        "",
        "Reads a whole log as of one instant and tells what is wrong with it. The server goes on.",
        NULL,
        NULL,
        NULL,
    };
    argp_parse(&verify_argp, argc, argv, 0, NULL, &keep);
    die_by_signals();
    struct fan_store *store = open_log(keep.store);
    if (!store)
        return FAN__EXIT_FAILED;
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_store_stats stats = { .size = sizeof(stats) };
    uint64_t count = 0;
    show("verifying...", 0);
    enum fan_status status = fan_store_verify(store, on_finding, &count, &error);
    unshow();
    bool good = status == FAN_OK && fan_store_stats(store, &stats) == FAN_OK &&
                tell("sound, %" PRIu64 " events\n", stats.events);
    if (status != FAN_OK)
        fan__say("%s", error.message);
    fan_store_close(store);
    return good ? FAN__EXIT_OK : FAN__EXIT_FAILED;
}

/* Pass after slice until there is no more, or the user has enough. */
static bool retain_all(struct fan_store *store, const struct keep *keep)
{
    struct fan_retained sum = { .size = sizeof(sum), .more = true };
    while (sum.more) {
        struct fan_retained one = { .size = sizeof(one) };
        struct fan_error error = FAN_ERROR_INIT;
        if (fan_store_retain(store, &keep->retention, &one, &error) != FAN_OK) {
            unshow();
            fan__say("%s", error.message);
            return false;
        }
        sum.removed += one.removed;
        sum.expired += one.expired;
        sum.discarded += one.discarded;
        sum.trimmed_seq = one.trimmed_seq;
        sum.more = one.more;
        if (one.groups_expired > 0) {
            unshow();
            if (!tell("group %s%s%s deleted\n", one.group, *one.handler ? "/" : "", one.handler))
                return false;
        }
        show("removed", sum.removed);
        if (sum.more && fan__interrupted())
            break;
    }
    unshow();
    return tell("removed %" PRIu64 ", expired %" PRIu64 ", discarded %" PRIu64
                "; trimmed up to %" PRIu64 "%s\n",
                sum.removed, sum.expired, sum.discarded, sum.trimmed_seq,
                sum.more ? " (interrupted)" : "") &&
           !sum.more;
}

int fan__cli_retain(struct fan__common *common, int argc, char **argv)
{
    (void)common;
    struct keep keep = { .retention.size = FAN_RETENTION_SIZE };
    static const struct argp retain_argp = {
        retain_options,
        parse,
        "",
        "Removes what is finished and past a bound from a log, once. The server goes on; it does "
        "the same by itself where its configuration says so.",
        NULL,
        NULL,
        NULL,
    };
    argp_parse(&retain_argp, argc, argv, 0, NULL, &keep);
    struct fan_store *store = open_log(keep.store);
    if (!store)
        return FAN__EXIT_FAILED;
    struct fan_error error = FAN_ERROR_INIT;
    bool good = !keep.accept_clock || fan_store_accept_clock(store, &error) == FAN_OK;
    if (!good)
        fan__say("%s", error.message);
    good = good && retain_all(store, &keep);
    fan_store_close(store);
    return good ? FAN__EXIT_OK : FAN__EXIT_FAILED;
}
