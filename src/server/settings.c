/*
 * Flags, help and words all come from the table of keys: a key that is added there has a flag, a
 * line in --help and one in --check-config, and is told when a reload cannot change it.
 */
#include "server/settings.h"

#include "base/env.h"
#include "config/key.h"
#include "store/uri.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

#define FLAG_COLUMN 32
#define HELP_COLUMNS 100
#define KEY_COUNT_MAX 128
#define URI_SHOWN_SIZE 512

/* Behind the keys, whose flags are their indices plus one. */
enum flag { FLAG_CONFIG = KEY_COUNT_MAX + 1, FLAG_CHECK, FLAG_HELP, FLAG_VERSION };

static const char head[] =
    "Usage: fanfared [OPTION]...\n"
    "Keeps events in a log and streams them over HTTP.\n"
    "\n"
    "  --config FILE               take settings from a YAML file; without it, from the one that\n"
    "                              FANFARE_CONFIG names\n"
    "  --check-config              say whether the settings are good, and what they come to\n"
    "  --help, --version           say this, or the version\n"
    "\n"
    "Each setting is a key of the file, an environment variable and a flag; the last of these "
    "wins:\n"
    "server.keep_alive is FANFARE_SERVER_KEEP_ALIVE and --keep-alive. docs/config.md has more.\n";

static const char foot[] =
    "\n"
    "It ends on SIGTERM or SIGINT, once what it accepted is in the log. SIGHUP has it read its\n"
    "settings again; those with a * change at once, the others when it is started again.\n";

static const char *argument_of(const struct fan__key *key)
{
    switch (key->type) {
    case FAN__KEY_FLAG:
        return "true|false";
    case FAN__KEY_NUMBER:
    case FAN__KEY_FACTOR:
        return "N";
    case FAN__KEY_DURATION:
        return "TIME";
    case FAN__KEY_SIZE:
        return "SIZE";
    case FAN__KEY_CHOICE:
        return key->choices;
    case FAN__KEY_LIST:
        return "TEXT,...";
    case FAN__KEY_URI:
        return "URI";
    default:
        return "TEXT";
    }
}

/* Prints words from a column on, on as many lines as they need. */
static void print_words(int column, const char *words)
{
    int at = column;
    while (*words) {
        int size = (int)strcspn(words, " ");
        if (at > column && at + 1 + size > HELP_COLUMNS) {
            printf("\n%*s", column, "");
            at = column;
        }
        at += printf("%s%.*s", at > column ? " " : "", size, words);
        words += size + (words[size] == ' ');
    }
    putchar('\n');
}

static void print_key(const struct fan__key *key)
{
    char flag[FAN__KEY_NAME_SIZE];
    char words[512];
    fan__key_flag(key, flag);
    const char *standard = fan__key_default(key);
    snprintf(words, sizeof(words), "%s%s%s%s%s", key->reloads ? "* " : "", key->help,
             *standard ? " (" : "", standard, *standard ? ")" : "");
    int width = printf("  --%s %s", flag, argument_of(key));
    if (width + 2 > FLAG_COLUMN)
        printf("\n%*s", FLAG_COLUMN, "");
    else
        printf("%*s", FLAG_COLUMN - width, "");
    print_words(FLAG_COLUMN, words);
}

static int print_help(void)
{
    fputs(head, stdout);
    for (size_t i = 0; i < fan__section_count; i++) {
        printf("\n%s: ", fan__sections[i].path);
        print_words((int)strlen(fan__sections[i].path) + 2, fan__sections[i].help);
        for (size_t j = 0; j < fan__key_count; j++)
            if (fan__key_section(&fan__keys[j]) == (int)i)
                print_key(&fan__keys[j]);
    }
    fputs(foot, stdout);
    return 0;
}

/* Tells a flag that is none, and the nearest one. */
static int refuse_flag(const char *written)
{
    char nearest[FAN__KEY_NAME_SIZE] = "";
    fan__key_nearest(written + strspn(written, "-"), fan__key_flag, nearest);
    fprintf(stderr,
            "fanfared: there is no flag \"%s\"; the nearest is --%s, and --help lists all.\n",
            written, nearest);
    return 2;
}

static int take_flag(struct fan__settings *settings, int flag, const char *name)
{
    switch (flag) {
    case FLAG_CONFIG:
        settings->path = optarg;
        return -1;
    case FLAG_CHECK:
        settings->check = true;
        return -1;
    case FLAG_HELP:
        return print_help();
    case FLAG_VERSION:
        puts("fanfared " FANFARE_VERSION);
        return 0;
    default:
        settings->settings[settings->setting_count++] = (struct fan_config_setting){
            .key = fan__keys[flag - 1].path, .name = name, .value = optarg
        };
        return -1;
    }
}

/* The flags, their names with the hyphens, which messages show. */
struct flags {
    char names[KEY_COUNT_MAX][FAN__KEY_NAME_SIZE + 2];
    struct option options[KEY_COUNT_MAX + 5];
};

/* Messages point into it for as long as the program runs. */
static struct flags flags;

static void fill_flags(void)
{
    static const struct option others[] = {
        { "config", required_argument, NULL, FLAG_CONFIG },
        { "check-config", no_argument, NULL, FLAG_CHECK },
        { "help", no_argument, NULL, FLAG_HELP },
        { "version", no_argument, NULL, FLAG_VERSION },
        { NULL, 0, NULL, 0 },
    };
    for (size_t i = 0; i < fan__key_count; i++) {
        memcpy(flags.names[i], "--", 2);
        fan__key_flag(&fan__keys[i], flags.names[i] + 2);
        flags.options[i] =
            (struct option){ flags.names[i] + 2, required_argument, NULL, (int)i + 1 };
    }
    memcpy(&flags.options[fan__key_count], others, sizeof(others));
}

int fan__settings_read(struct fan__settings *settings, int argc, char **argv)
{
    *settings = (struct fan__settings){ .settings = fan__alloc_zero(NULL, (size_t)argc,
                                                                    sizeof(*settings->settings)) };
    if (!settings->settings) {
        fputs("fanfared: out of memory.\n", stderr);
        return 1;
    }
    fill_flags();
    opterr = 0;
    for (;;) {
        int at = optind;
        int flag = getopt_long(argc, argv, ":", flags.options, NULL);
        if (flag == -1)
            break;
        if (flag == ':') {
            fprintf(stderr, "fanfared: %s needs a value; --help lists the flags.\n", argv[at]);
            return 2;
        }
        if (flag == '?')
            return refuse_flag(argv[at]);
        int code = take_flag(settings, flag, flag <= KEY_COUNT_MAX ? flags.names[flag - 1] : NULL);
        if (code >= 0)
            return code;
    }
    if (optind < argc) {
        fprintf(stderr, "fanfared: \"%s\" is no flag; --help lists them.\n", argv[optind]);
        return 2;
    }
    return -1;
}

void fan__settings_deinit(struct fan__settings *settings)
{
    fan__free(NULL, settings->settings);
    settings->settings = NULL;
}

/* One line, whatever is wrong: "fanfared: FILE:3:5: server.loops: expected ..., not ...". */
static void say_problem(void *context, const struct fan_config_problem *problem)
{
    (void)context;
    /* A flag or variable names its key by itself. */
    const char *key = problem->line > 0 ? problem->key : "";
    fprintf(stderr, "fanfared: %s%s%s%s%s.\n", problem->place, *problem->place ? ": " : "", key,
            *key ? ": " : "", problem->message);
}

bool fan__settings_load(const struct fan__settings *settings, struct fan_config **ret_config)
{
    struct fan_config_options options = FAN_CONFIG_OPTIONS_INIT;
    struct fan_error error = FAN_ERROR_INIT;
    options.path = settings->path;
    options.settings = settings->settings;
    options.setting_count = settings->setting_count;
    options.problem = say_problem;
    enum fan_status status = fan_config_load(&options, ret_config, &error);
    if (status == FAN_NO_MEMORY)
        fputs("fanfared: out of memory.\n", stderr);
    return status == FAN_OK;
}

static struct fan_config_value value_of(const struct fan_config *config, const struct fan__key *key)
{
    struct fan_config_value value = { .size = FAN_CONFIG_VALUE_SIZE };
    /* The key is of the table. */
    (void)!fan_config_get(config, key->path, &value);
    return value;
}

/* What stands for a value, also for one that is not there. */
static const char *shown_of(const struct fan__key *key, const struct fan_config_value *value)
{
    if (!value->text)
        return fan__key_default(key);
    return *value->shown ? value->shown : "\"\"";
}

void fan__settings_print(const struct fan_config *config, const char *store, const char *key)
{
    char uri[URI_SHOWN_SIZE];
    fan__uri_redact(store, uri, sizeof(uri));
    puts("ok");
    for (size_t i = 0; i < fan__key_count; i++) {
        struct fan_config_value value = value_of(config, &fan__keys[i]);
        const char *path = fan__keys[i].path;
        const char *place = value.source != FAN_CONFIG_DEFAULT ? value.place : "default";
        if (!value.text && strcmp(path, "server.store") == 0)
            printf("%s: %s  # %s\n", path, uri, strcmp(key, path) == 0 ? place : key);
        else
            printf("%s: %s  # %s\n", path, shown_of(&fan__keys[i], &value), place);
    }
}

static bool differ(const struct fan_config_value *one, const struct fan_config_value *two)
{
    return (one->text == NULL) != (two->text == NULL) ||
           (one->text && strcmp(one->text, two->text) != 0);
}

void fan__settings_compare(const struct fan_config *started, const struct fan_config *current,
                           const struct fan_config *loaded, struct fan__buffer *changed)
{
    for (size_t i = 0; i < fan__key_count; i++) {
        const struct fan__key *key = &fan__keys[i];
        struct fan_config_value before = value_of(key->reloads ? current : started, key);
        struct fan_config_value after = value_of(loaded, key);
        if (!differ(&before, &after))
            continue;
        if (key->reloads)
            fan__buffer_add_format(changed, "%s%s is %s", changed->size > 0 ? ", " : "", key->path,
                                   shown_of(key, &after));
        else
            fprintf(stderr,
                    "fanfared: %s%s%s cannot change while it runs, and stays %s until it is "
                    "started again.\n",
                    after.place, *after.place ? ": " : "", key->path, shown_of(key, &before));
    }
}
