/*
 * Loading: defaults, then the file, the environment, the settings, each over what was before. A
 * configuration in which anything is wrong is none.
 */
#include "base/adopt.h"
#include "base/env.h"
#include "base/status.h"
#include "config/walk.h"
#include "event/text.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_SIZE_MAX ((size_t)1 << 20)
/* libfyaml takes time by the square of a line's length to refuse some of them. */
#define LINE_CHARACTERS_MAX 8192
#define FILE_VARIABLE "FANFARE_CONFIG"
#define TEXT_NAME "text"
#define PLACE_SIZE 512

/* Of what the environment sets, what begins so is ours, and must be known. */
static const char *const prefixes[] = { "FANFARE_SERVER_", "FANFARE_EVENT_BROKER_" };

static enum fan_status set_defaults(struct fan__making *making)
{
    for (size_t i = 0; i < fan__key_count; i++) {
        const struct fan__key *key = &fan__keys[i];
        struct fan__place place = { .source = FAN_CONFIG_DEFAULT, .name = "" };
        struct fan__written written = { .raw = key->standard, .text = key->standard };
        enum fan_status status =
            key->standard ? fan__value_set(making, key, &place, &written) : FAN_OK;
        if (status != FAN_OK)
            return status;
        making->config->values[i].place = place;
    }
    return FAN_OK;
}

/* ---- The file ---- */

static enum fan_status read_bytes(int file, struct fan__buffer *bytes)
{
    while (bytes->size <= FILE_SIZE_MAX) {
        char *room = fan__buffer_reserve(bytes, 16384);
        if (!room)
            return FAN_NO_MEMORY;
        ssize_t got = read(file, room, 16384);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return FAN_IO;
        if (got == 0)
            return FAN_OK;
        bytes->size += (size_t)got;
    }
    return FAN_FULL;
}

/* Opens what can be read to an end without waiting for anybody. -1 with errno, or what it is. */
static int open_file(const char *path, const char **ret_kind)
{
    struct stat about;
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (file >= 0 && fstat(file, &about) == 0 && !S_ISREG(about.st_mode) &&
        !S_ISCHR(about.st_mode)) {
        *ret_kind = S_ISDIR(about.st_mode) ? "a directory" : "a pipe or a socket";
        close(file);
        return -1;
    }
    return file;
}

/* `name`: what the file was called by, for the message. */
static enum fan_status read_file(struct fan__making *making, const char *path,
                                 const struct fan__place *name, struct fan__buffer *bytes)
{
    const char *kind = NULL;
    int file = open_file(path, &kind);
    enum fan_status status = file < 0 ? FAN_IO : read_bytes(file, bytes);
    int reason = errno;
    if (file >= 0)
        close(file);
    if (status == FAN_NO_MEMORY)
        return status;
    if (kind)
        fan__problem(&making->problems, name, FAN_INVALID, "", "expected a file; %s is %s", path,
                     kind);
    else if (status == FAN_IO)
        fan__problem(&making->problems, name, FAN_IO, "", "cannot read %s: %s", path,
                     strerrordesc_np(reason));
    else if (status == FAN_FULL)
        fan__problem(&making->problems, name, FAN_INVALID, "",
                     "too big: %s has more than 1 MiB, the most for a configuration", path);
    else
        return FAN_OK;
    return FAN_AGAIN;
}

/* Whether all of it is text; tells the first place where it is not. */
static bool check_text(struct fan__making *making, const char *name, const char *text, size_t size)
{
    struct fan__place place = { .source = FAN_CONFIG_FILE, .name = name, .line = 1, .column = 1 };
    size_t at = 0;
    while (at < size) {
        size_t step = fan__utf8_size(text + at, size - at);
        unsigned char byte = (unsigned char)text[at];
        if (step == 0 || byte == 0x7f || (byte < 0x20 && !strchr("\t\n\r", byte)) || byte == 0) {
            fan__problem(&making->problems, &place, FAN_INVALID, "",
                         step == 0 ? "expected UTF-8; there is the byte 0x%02x"
                                   : "expected text; there is the control character 0x%02x",
                         byte);
            return false;
        }
        if (++place.column > LINE_CHARACTERS_MAX + 1 && byte != '\n') {
            fan__problem(&making->problems, &place, FAN_INVALID, "",
                         "too long: a line has at most %d characters", LINE_CHARACTERS_MAX);
            return false;
        }
        if (byte == '\n') {
            place.line++;
            place.column = 1;
        }
        at += step;
    }
    return true;
}

static enum fan_status take_text(struct fan__making *making, const char *name, const char *text,
                                 size_t size)
{
    if (!check_text(making, name, text, size))
        return FAN_OK;
    return fan__walk(making, name, text, size);
}

static enum fan_status take_file(struct fan__making *making, const char *path,
                                 const struct fan__place *called)
{
    struct fan__buffer bytes;
    fan__buffer_init(&bytes, making->config->env);
    enum fan_status status = read_file(making, path, called, &bytes);
    if (status == FAN_OK)
        status = take_text(making, path, bytes.data ? bytes.data : "", bytes.size);
    fan__buffer_deinit(&bytes);
    /* AGAIN: it could not be read, which was told. */
    return status == FAN_AGAIN ? FAN_OK : status;
}

/* ---- The environment and the settings ---- */

static bool is_ours(const char *variable)
{
    for (size_t i = 0; i < sizeof(prefixes) / sizeof(*prefixes); i++)
        if (strncmp(variable, prefixes[i], strlen(prefixes[i])) == 0)
            return true;
    return false;
}

static enum fan_status take_variable(struct fan__making *making, const char *variable)
{
    char name[2 * FAN__KEY_NAME_SIZE];
    char known[FAN__KEY_NAME_SIZE];
    size_t length = strcspn(variable, "=");
    snprintf(name, sizeof(name), "%.*s", (int)(length < 127 ? length : 127), variable);
    const char *text = variable[length] ? variable + length + 1 : "";
    struct fan__place place = { .source = FAN_CONFIG_ENVIRONMENT, .name = name };
    for (size_t i = 0; i < fan__key_count; i++) {
        fan__key_variable(&fan__keys[i], known);
        if (strcmp(known, name) == 0)
            return fan__value_set(making, &fan__keys[i], &place,
                                  &(struct fan__written){ .raw = text, .text = text });
    }
    fan__key_nearest(name, fan__key_variable, known);
    fan__problem(&making->problems, &place, FAN_INVALID, "", "no such variable; the nearest is %s",
                 known);
    return FAN_OK;
}

static enum fan_status take_environment(struct fan__making *making)
{
    for (const char *const *at = making->environment; *at; at++) {
        enum fan_status status = is_ours(*at) ? take_variable(making, *at) : FAN_OK;
        if (status != FAN_OK)
            return status;
    }
    return FAN_OK;
}

static enum fan_status take_settings(struct fan__making *making,
                                     const struct fan_config_options *options)
{
    for (size_t i = 0; i < options->setting_count; i++) {
        const struct fan_config_setting *setting = &options->settings[i];
        const char *name = setting->name ? setting->name : setting->key;
        struct fan__place place = { .source = FAN_CONFIG_SETTING, .name = name };
        int key = fan__key_find(setting->key);
        if (key < 0) {
            char known[FAN__KEY_NAME_SIZE] = "";
            fan__key_nearest(setting->key, fan__key_path, known);
            fan__problem(&making->problems, &place, FAN_INVALID, setting->key,
                         "no such key; the nearest is %s", known);
            continue;
        }
        struct fan__written written = { .raw = setting->value, .text = setting->value };
        enum fan_status status = fan__value_set(making, &fan__keys[key], &place, &written);
        if (status != FAN_OK)
            return status;
    }
    return FAN_OK;
}

/* ---- The whole ---- */

static enum fan_status take_all(struct fan__making *making,
                                const struct fan_config_options *options)
{
    struct fan__place called = { .source = FAN_CONFIG_FILE, .name = "" };
    const char *path = options->path;
    if (!path && !options->text) {
        path = fan__variable(making, FILE_VARIABLE, strlen(FILE_VARIABLE));
        called.name = FILE_VARIABLE;
    }
    enum fan_status status = set_defaults(making);
    if (status == FAN_OK && options->text)
        status = take_text(making, TEXT_NAME, options->text, strlen(options->text));
    if (status == FAN_OK && path)
        status = take_file(making, path, &called);
    if (status == FAN_OK)
        status = take_environment(making);
    if (status == FAN_OK)
        status = take_settings(making, options);
    return status;
}

/* Says once and for all where each value comes from. */
static enum fan_status put_places(struct fan_config *config)
{
    for (size_t i = 0; i < fan__key_count; i++) {
        char place[PLACE_SIZE];
        fan__place_format(&config->values[i].place, place, sizeof(place));
        config->places[i] = fan__strdup(config->env, place);
        if (!config->places[i])
            return FAN_NO_MEMORY;
    }
    return FAN_OK;
}

static enum fan_status make(struct fan__making *making, const struct fan_config_options *options,
                            struct fan_error *error)
{
    struct fan_config *config = making->config;
    const struct fan_env *env = config->env;
    config->values = fan__alloc_zero(env, fan__key_count, sizeof(*config->values));
    config->places = fan__alloc_zero(env, fan__key_count, sizeof(*config->places));
    making->section_lines =
        fan__alloc_zero(env, fan__section_count, sizeof(*making->section_lines));
    making->key_places = fan__alloc_zero(env, fan__key_count, sizeof(*making->key_places));
    enum fan_status status = FAN_NO_MEMORY;
    if (config->values && config->places && making->section_lines && making->key_places)
        status = take_all(making, options);
    if (status == FAN_OK)
        status = put_places(config);
    fan__free(env, making->section_lines);
    fan__free(env, making->key_places);
    if (status != FAN_OK)
        return fan__fail(error, status, "", "out of memory");
    return fan__problems_end(&making->problems, error);
}

enum fan_status fan_config_load(const struct fan_config_options *options,
                                struct fan_config **ret_config, struct fan_error *ret_error)
{
    struct fan_config_options adopted = FAN_CONFIG_OPTIONS_INIT;
    if (options && !fan__adopt(&adopted, sizeof(adopted), options, sizeof(adopted)))
        return fan__fail(ret_error, FAN_INVALID, "options.size", "must be that of the struct");
    if (adopted.path && adopted.text)
        return fan__fail(ret_error, FAN_INVALID, "options.text", "expected a path or a text");
    struct fan_config *config = fan__alloc_zero(adopted.env, 1, sizeof(*config));
    if (!config)
        return fan__fail(ret_error, FAN_NO_MEMORY, "", "out of memory");
    config->env = adopted.env;
    static const char *const nothing[] = { NULL };
    const char *const *environment = adopted.environment;
    if (!environment)
        environment = environ ? (const char *const *)environ : nothing;
    struct fan__making making = { .config = config,
                                  .problems = { .call = adopted.problem,
                                                .context = adopted.context },
                                  .environment = environment };
    enum fan_status status = make(&making, &adopted, ret_error);
    if (status != FAN_OK) {
        fan_config_free(config);
        return status;
    }
    *ret_config = config;
    return FAN_OK;
}

void fan_config_free(struct fan_config *config)
{
    if (!config)
        return;
    for (size_t i = 0; config->values && i < fan__key_count; i++)
        fan__value_deinit(config->env, &config->values[i]);
    for (size_t i = 0; config->places && i < fan__key_count; i++)
        fan__free(config->env, config->places[i]);
    fan__free(config->env, config->values);
    fan__free(config->env, config->places);
    fan__free(config->env, config);
}

enum fan_status fan_config_get(const struct fan_config *config, const char *key,
                               struct fan_config_value *ret_value)
{
    int index = fan__key_find(key);
    if (index < 0)
        return FAN_NOT_FOUND;
    const struct fan__value *value = &config->values[index];
    size_t size = ret_value->size < sizeof(*ret_value) ? ret_value->size : sizeof(*ret_value);
    struct fan_config_value known = { .size = size,
                                      .source = value->place.source,
                                      .place = config->places[index],
                                      .text = value->text,
                                      .shown = value->shown ? value->shown : "",
                                      .number = value->number,
                                      .factor = value->factor };
    memcpy(ret_value, &known, size);
    return FAN_OK;
}

const struct fan__value *fan__config_value(const struct fan_config *config, const char *path)
{
    int index = fan__key_find(path);
    assert(index >= 0);
    return &config->values[index];
}
