/*
 * Sections within sections, down to the keys of the table. A mistake is told and passed over, so
 * that one run finds all; only a text that is no YAML ends it.
 */
#include "config/walk.h"

#include "config/yaml.h"
#include "event/text.h"

#include <stdio.h>
#include <string.h>

struct walk {
    struct fan__making *making;
    struct fan__yaml yaml;
};

/* A path that does not fit is no key of the table; it is cut where a character ends. */
static void put_path(char path[FAN__KEY_NAME_SIZE], const char *section, const char *word,
                     size_t size)
{
    size_t at = (size_t)snprintf(path, FAN__KEY_NAME_SIZE, "%s%s", section, *section ? "." : "");
    while (size > 0) {
        size_t step = fan__utf8_size(word, size);
        if (step == 0 || at + step >= FAN__KEY_NAME_SIZE)
            break;
        memcpy(path + at, word, step);
        if ((unsigned char)*word < 0x20)
            path[at] = ' ';
        at += step;
        word += step;
        size -= step;
    }
    path[at] = '\0';
}

/* Tells a value of the wrong kind, and passes over it. */
static void refuse_kind(struct walk *walk, const char *path, const char *expected)
{
    static const char *const kinds[] = {
        [FAN__YAML_SCALAR] = "a value",
        [FAN__YAML_MAP] = "a section",
        [FAN__YAML_LIST] = "a list",
    };
    const struct fan__yaml *yaml = &walk->yaml;
    /* The text broke off, which was told. */
    if (yaml->type == FAN__YAML_END)
        return;
    const char *is =
        yaml->type == FAN__YAML_SCALAR && yaml->nothing ? "nothing" : kinds[yaml->type];
    fan__problem(&walk->making->problems, &yaml->place, FAN_INVALID, path, "expected %s, not %s",
                 expected, is);
    fan__yaml_skip(&walk->yaml);
}

/* Adds the scalar at hand: as it was written, and with its variables replaced. */
static bool add_scalar(struct walk *walk, const struct fan__key *key, struct fan__buffer *raw,
                       struct fan__buffer *text)
{
    const struct fan__yaml *yaml = &walk->yaml;
    size_t before = raw->size;
    fan__buffer_add(raw, yaml->text, yaml->size);
    fan__buffer_add(raw, "", 1);
    if (raw->failed)
        return true;
    enum fan_status status =
        fan__value_expand(walk->making, key->path, &yaml->place, raw->data + before, text);
    raw->size--;
    return status == FAN_OK;
}

/* Reads the items of a list up to its end; false when one of them was refused. */
static bool add_items(struct walk *walk, const struct fan__key *key, struct fan__buffer *raw,
                      struct fan__buffer *text)
{
    bool good = true;
    for (size_t count = 0;; count++) {
        enum fan__yaml_type type = fan__yaml_next(&walk->yaml);
        if (type == FAN__YAML_LIST_END)
            return good;
        if (type == FAN__YAML_END)
            return false;
        if (type != FAN__YAML_SCALAR || walk->yaml.nothing ||
            memchr(walk->yaml.text, ',', walk->yaml.size)) {
            refuse_kind(walk, key->path, "items that are texts without commas");
            good = false;
            continue;
        }
        if (count > 0) {
            fan__buffer_add(raw, ",", 1);
            fan__buffer_add(text, ",", 1);
        }
        good = add_scalar(walk, key, raw, text) && good;
    }
}

static enum fan_status set_value(struct walk *walk, const struct fan__key *key)
{
    struct fan__yaml *yaml = &walk->yaml;
    const struct fan_env *env = walk->making->config->env;
    char expected[FAN__KEY_WORDS_SIZE];
    fan__key_expected(key, expected);
    bool is_list = key->type == FAN__KEY_LIST && yaml->type == FAN__YAML_LIST;
    if (!is_list && (yaml->type != FAN__YAML_SCALAR || yaml->nothing)) {
        refuse_kind(walk, key->path, expected);
        return FAN_OK;
    }
    struct fan__place place = yaml->place;
    struct fan__buffer raw;
    struct fan__buffer text;
    fan__buffer_init(&raw, env);
    fan__buffer_init(&text, env);
    bool good = is_list ? add_items(walk, key, &raw, &text) : add_scalar(walk, key, &raw, &text);
    fan__buffer_add(&raw, "", 1);
    fan__buffer_add(&text, "", 1);
    enum fan_status status = FAN_OK;
    if (raw.failed || text.failed)
        status = FAN_NO_MEMORY;
    else if (good)
        status = fan__value_set(walk->making, key, &place,
                                &(struct fan__written){ .raw = raw.data, .text = text.data });
    fan__buffer_deinit(&raw);
    fan__buffer_deinit(&text);
    return status;
}

static enum fan_status walk_section(struct walk *walk, const char *section);

/* Tells that a key or section stands twice. True when it does. */
static bool is_twice(struct walk *walk, const char *path, unsigned first_line)
{
    if (first_line == 0)
        return false;
    fan__problem(&walk->making->problems, &walk->yaml.place, FAN_INVALID, path,
                 "stands twice, first on line %u", first_line);
    return true;
}

static enum fan_status take_section(struct walk *walk, int index, bool twice)
{
    const struct fan__section *section = &fan__sections[index];
    struct fan__yaml *yaml = &walk->yaml;
    bool empty = yaml->type == FAN__YAML_SCALAR && yaml->nothing;
    if (empty || twice) {
        fan__yaml_skip(yaml);
        return FAN_OK;
    }
    if (yaml->type == FAN__YAML_MAP)
        return walk_section(walk, section->path);
    refuse_kind(walk, section->path, "a section with keys of its own");
    return FAN_OK;
}

/* The key is at hand; its value follows. */
static enum fan_status take_key(struct walk *walk, const char *section)
{
    struct fan__making *making = walk->making;
    struct fan__yaml *yaml = &walk->yaml;
    char path[FAN__KEY_NAME_SIZE];
    put_path(path, section, yaml->text, yaml->size);
    bool dotted = memchr(yaml->text, '.', yaml->size) != NULL;
    int key = dotted ? -1 : fan__key_find(path);
    int inner = dotted ? -1 : fan__section_find(path);
    if (inner >= 0) {
        bool twice = is_twice(walk, path, making->section_lines[inner]);
        making->section_lines[inner] = yaml->place.line;
        fan__yaml_next(yaml);
        return take_section(walk, inner, twice);
    }
    if (key >= 0) {
        struct fan__place *known = &making->key_places[key];
        bool twice = is_twice(walk, fan__keys[key].path, known->line);
        *known = yaml->place;
        fan__yaml_next(yaml);
        if (!twice)
            return set_value(walk, &fan__keys[key]);
    } else {
        char nearest[FAN__KEY_NAME_SIZE] = "";
        /* Of thousands, most are told by their number alone. */
        if (making->problems.count < FAN__PROBLEM_COUNT_MAX)
            fan__key_nearest(path, fan__key_path, nearest);
        fan__problem(&making->problems, &yaml->place, FAN_INVALID, path,
                     "no such key; the nearest is %s", nearest);
        fan__yaml_next(yaml);
    }
    fan__yaml_skip(yaml);
    return FAN_OK;
}

/* From behind the beginning of a section to its end. */
static enum fan_status walk_section(struct walk *walk, const char *section)
{
    for (;;) {
        enum fan__yaml_type type = fan__yaml_next(&walk->yaml);
        if (type == FAN__YAML_MAP_END || type == FAN__YAML_END)
            return FAN_OK;
        if (type != FAN__YAML_SCALAR) {
            refuse_kind(walk, section, "a key");
            fan__yaml_next(&walk->yaml);
            fan__yaml_skip(&walk->yaml);
            continue;
        }
        enum fan_status status = take_key(walk, section);
        if (status != FAN_OK)
            return status;
    }
}

enum fan_status fan__walk(struct fan__making *making, const char *name, const char *text,
                          size_t size)
{
    struct walk walk = { .making = making };
    enum fan_status status = fan__yaml_init(&walk.yaml, name, text, size, &making->problems);
    if (status != FAN_OK)
        return status;
    enum fan__yaml_type type = fan__yaml_next(&walk.yaml);
    if (type == FAN__YAML_MAP)
        status = walk_section(&walk, "");
    else if (type != FAN__YAML_END && !(type == FAN__YAML_SCALAR && walk.yaml.nothing))
        refuse_kind(&walk, "", "sections, such as event_broker:");
    /* What is behind the first document, or what is no YAML, is told there. */
    while (status == FAN_OK && fan__yaml_next(&walk.yaml) != FAN__YAML_END)
        ;
    fan__yaml_deinit(&walk.yaml);
    return status;
}
