/*
 * From text to values. Numbers have no signs, blanks or separators, durations and sizes name their
 * unit, and what is not taken is told as it was written: never with the value of a variable in it,
 * which may be a secret.
 */
#include "config/value.h"

#include "base/env.h"
#include "event/text.h"
#include "store/uri.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

#define QUOTED_BYTES_MAX 64
#define URI_SHOWN_SIZE 4096

struct unit {
    const char *name;
    uint64_t worth;
};

static const struct unit durations[] = {
    { "ms", 1 }, { "s", 1000 }, { "m", 60000 }, { "h", 3600000 }, { "d", 86400000 }, { NULL, 0 },
};

static const struct unit sizes[] = {
    { "B", 1 },
    { "KiB", UINT64_C(1) << 10 },
    { "MiB", UINT64_C(1) << 20 },
    { "GiB", UINT64_C(1) << 30 },
    { "TiB", UINT64_C(1) << 40 },
    { NULL, 0 },
};

/* Digits alone, as many as there are; false for none and for too many. */
static bool take_digits(const char **at, uint64_t *ret_number)
{
    uint64_t number = 0;
    if (!isdigit((unsigned char)**at))
        return false;
    for (; isdigit((unsigned char)**at); ++*at)
        if (__builtin_mul_overflow(number, 10, &number) ||
            __builtin_add_overflow(number, (uint64_t)(**at - '0'), &number))
            return false;
    *ret_number = number;
    return true;
}

/* "1h30m": numbers, each with its unit, the units falling; or "0". `bare`: of a lone number. */
static bool read_units(const char *text, const struct unit *units, const char *bare,
                       uint64_t *ret_number)
{
    uint64_t sum = 0;
    uint64_t least = UINT64_MAX;
    do {
        uint64_t number;
        if (!take_digits(&text, &number))
            return false;
        size_t size = strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ");
        const char *name = text;
        if (size == 0 && *text == '\0' && least == UINT64_MAX) {
            name = number == 0 ? units[0].name : bare ? bare : "";
            size = strlen(name);
        } else {
            text += size;
        }
        const struct unit *unit = units;
        while (unit->name && (strlen(unit->name) != size || memcmp(unit->name, name, size) != 0))
            unit++;
        if (!unit->name || unit->worth >= least ||
            __builtin_mul_overflow(number, unit->worth, &number) ||
            __builtin_add_overflow(sum, number, &sum))
            return false;
        least = unit->worth;
    } while (*text);
    *ret_number = sum;
    return true;
}

static bool read_number(const struct fan__key *key, const char *text, uint64_t *ret_number)
{
    if (!take_digits(&text, ret_number))
        return false;
    return *text == '\0' || (key->unit && strcmp(text, key->unit) == 0);
}

/* "2" or "1.5". strtod alone would take signs, exponents, and the locale's comma. */
static bool read_factor(const char *text, double *ret_factor)
{
    uint64_t whole;
    uint64_t part = 0;
    double scale = 1;
    if (!take_digits(&text, &whole))
        return false;
    if (*text == '.') {
        const char *digits = ++text;
        if (!take_digits(&text, &part) || text - digits > 9)
            return false;
        for (; digits < text; digits++)
            scale *= 10;
    }
    *ret_factor = (double)whole + (double)part / scale;
    return *text == '\0';
}

static bool read_flag(const char *text, uint64_t *ret_number)
{
    static const char *const words[] = { "false", "true", "False", "True", "FALSE", "TRUE" };
    for (unsigned i = 0; i < sizeof(words) / sizeof(*words); i++) {
        if (strcmp(words[i], text) == 0) {
            *ret_number = i % 2;
            return true;
        }
    }
    return false;
}

static bool has_control(const char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            return true;
    return false;
}

static bool is_list(const struct fan__key *key, const char *text)
{
    while (text) {
        size_t size = strcspn(text, ",");
        if (size < key->min || size > key->max)
            return false;
        text = text[size] ? text + size + 1 : NULL;
    }
    return true;
}

static bool read_value(const struct fan__key *key, const char *text, struct fan__value *value)
{
    size_t size = strlen(text);
    switch (key->type) {
    case FAN__KEY_FLAG:
        return read_flag(text, &value->number);
    case FAN__KEY_FACTOR:
        return read_factor(text, &value->factor) && value->factor >= (double)key->min &&
               value->factor <= (double)key->max;
    case FAN__KEY_CHOICE: {
        int index = strchr(text, '|') ? -1 : fan__word_index(key->choices, text, size);
        value->number = index < 0 ? 0 : (uint64_t)index;
        return index >= 0;
    }
    case FAN__KEY_LIST:
        return !has_control(text) && is_list(key, text);
    case FAN__KEY_TEXT:
    case FAN__KEY_URI:
        return !has_control(text) && size >= key->min && size <= key->max;
    case FAN__KEY_NUMBER:
        if (!read_number(key, text, &value->number))
            return false;
        break;
    case FAN__KEY_DURATION:
        if (!read_units(text, durations, key->unit, &value->number))
            return false;
        break;
    case FAN__KEY_SIZE:
        if (!read_units(text, sizes, "B", &value->number))
            return false;
        break;
    }
    return value->number >= key->min && value->number <= key->max;
}

/* Tells what was expected and what is there, cut to a length and to what can be printed. */
static void refuse(struct fan__making *making, const struct fan__key *key,
                   const struct fan__place *place, const struct fan__written *written)
{
    char expected[FAN__KEY_WORDS_SIZE];
    char quoted[QUOTED_BYTES_MAX + 1];
    fan__key_expected(key, expected);
    const char *behind = strcmp(written->raw, written->text) == 0 ? "" : " with its variables";
    if (key->secret || key->type == FAN__KEY_URI) {
        fan__problem(&making->problems, place, FAN_INVALID, key->path,
                     "expected %s, without control characters", expected);
        return;
    }
    size_t size = 0;
    size_t length = strlen(written->raw);
    while (size < length) {
        size_t step = fan__utf8_size(written->raw + size, length - size);
        if (step == 0 || size + step > QUOTED_BYTES_MAX)
            break;
        size += step;
    }
    memcpy(quoted, written->raw, size);
    quoted[size] = '\0';
    for (char *at = quoted; *at; at++)
        if ((unsigned char)*at < 0x20 || *at == 0x7f)
            *at = ' ';
    fan__problem(&making->problems, place, FAN_INVALID, key->path, "expected %s, not \"%s%s\"%s",
                 expected, quoted, size < length ? "..." : "", behind);
}

static char *make_shown(const struct fan_env *env, const struct fan__key *key, const char *text)
{
    char shown[URI_SHOWN_SIZE + 1];
    if (key->secret && *text)
        return fan__strdup(env, "***");
    if (key->type != FAN__KEY_URI)
        return fan__strdup(env, text);
    fan__uri_redact(text, shown, sizeof(shown));
    return fan__strdup(env, shown);
}

void fan__value_deinit(const struct fan_env *env, struct fan__value *value)
{
    fan__free(env, value->name);
    fan__free(env, value->text);
    fan__free(env, value->shown);
    *value = (struct fan__value){ .name = NULL };
}

enum fan_status fan__value_set(struct fan__making *making, const struct fan__key *key,
                               const struct fan__place *place, const struct fan__written *written)
{
    const struct fan_env *env = making->config->env;
    struct fan__value value = { .place = *place };
    if (!fan__utf8_valid(written->text, strlen(written->text))) {
        fan__problem(&making->problems, place, FAN_INVALID, key->path, "expected valid UTF-8");
        return FAN_OK;
    }
    if (!read_value(key, written->text, &value)) {
        refuse(making, key, place, written);
        return FAN_OK;
    }
    value.name = fan__strdup(env, place->name);
    value.text = fan__strdup(env, written->text);
    value.shown = make_shown(env, key, written->text);
    value.place.name = value.name;
    if (!value.name || !value.text || !value.shown) {
        fan__value_deinit(env, &value);
        return FAN_NO_MEMORY;
    }
    struct fan__value *target = &making->config->values[key - fan__keys];
    fan__value_deinit(env, target);
    *target = value;
    return FAN_OK;
}

const char *fan__variable(const struct fan__making *making, const char *name, size_t size)
{
    for (const char *const *at = making->environment; *at; at++)
        if (strncmp(*at, name, size) == 0 && (*at)[size] == '=')
            return *at + size + 1;
    return NULL;
}

/* The size of a legal name of a variable at the beginning of `text`, 0 for none. */
static size_t name_size(const char *text)
{
    size_t size = 0;
    while (text[size] == '_' || (text[size] >= 'A' && text[size] <= 'Z') ||
           (text[size] >= 'a' && text[size] <= 'z') ||
           (size > 0 && isdigit((unsigned char)text[size])))
        size++;
    return size;
}

enum fan_status fan__value_expand(struct fan__making *making, const char *name,
                                  const struct fan__place *place, const char *text,
                                  struct fan__buffer *expanded)
{
    while (*text) {
        size_t plain = strcspn(text, "$");
        fan__buffer_add(expanded, text, plain);
        text += plain;
        if (text[0] == '$' && text[1] == '{') {
            size_t size = name_size(text + 2);
            if (size == 0 || text[2 + size] != '}') {
                fan__problem(&making->problems, place, FAN_INVALID, name,
                             "expected ${NAME} with a name of letters, digits and _, or $${ for a "
                             "literal one");
                return FAN_INVALID;
            }
            struct utsname host;
            const char *value = fan__variable(making, text + 2, size);
            if (!value && size == strlen("HOSTNAME") && memcmp(text + 2, "HOSTNAME", size) == 0 &&
                uname(&host) == 0)
                value = host.nodename;
            if (!value) {
                fan__problem(&making->problems, place, FAN_INVALID, name,
                             "expected the environment to set %.*s, which it does not", (int)size,
                             text + 2);
                return FAN_INVALID;
            }
            fan__buffer_add_text(expanded, value);
            text += 2 + size + 1;
        } else if (*text) {
            text += text[1] == '$' ? 2 : 1;
            fan__buffer_add(expanded, "$", 1);
        }
    }
    return FAN_OK;
}
