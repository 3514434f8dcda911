/*
 * The one door to jansson. It parses by recursion, so the depth is measured first, in one pass over
 * the bytes: up to the first error both see the same strings and brackets, so it never goes deeper.
 *
 * Messages name the place and the rule, and repeat nothing of the input: it may be anything.
 */
#include "event/jsontext.h"

#include "base/status.h"
#include "event/jsonscan.h"
#include "event/text.h"

#include <errno.h>
#include <string.h>

/*
 * Finds where a text first opens more than depth_max arrays and objects; its size if it never does.
 */
static size_t find_too_deep(struct fan_str text, unsigned depth_max)
{
    unsigned depth = 0;
    bool quoted = false;
    for (size_t i = 0; i < text.size; i++) {
        char byte = text.data[i];
        if (quoted) {
            if (byte == '\\')
                i++;
            else if (byte == '"')
                quoted = false;
        } else if (byte == '"') {
            quoted = true;
        } else if (byte == '{' || byte == '[') {
            if (depth++ == depth_max)
                return i;
        } else if ((byte == '}' || byte == ']') && depth > 0) {
            depth--;
        }
    }
    return text.size;
}

static const char *reason_of(enum json_error_code code)
{
    switch (code) {
    case json_error_invalid_utf8:
        return "invalid UTF-8";
    case json_error_premature_end_of_input:
        return "it ends too early";
    case json_error_end_of_input_expected:
        return "something follows the value";
    case json_error_null_character:
        return "a NUL character";
    case json_error_duplicate_key:
        return "a duplicate key";
    case json_error_numeric_overflow:
        return "a number out of range";
    default:
        return "a syntax error";
    }
}

/* members: how deep the objects lie whose members are told as fields; 0 to tell only `field`. */
struct load {
    struct fan_str text;
    unsigned depth_max;
    const char *field;
    unsigned members;
};

/* The member at a position, else the field of the whole. */
static const char *field_at(const struct load *load, size_t position, char *buffer, size_t size)
{
    if (load->members == 0)
        return load->field;
    struct fan_str name = fan__json_member_at(load->text, position, load->members);
    if (name.size == 0 || name.size >= size || !fan__segment_valid(name.data, name.size))
        return load->field;
    memcpy(buffer, name.data, name.size);
    buffer[name.size] = '\0';
    return buffer;
}

static enum fan_status load_json(const struct load *load, json_t **ret_value,
                                 struct fan_error *ret_error)
{
    struct fan_str text = load->text;
    char name[64];
    size_t too_deep = find_too_deep(text, load->depth_max + load->members);
    if (too_deep < text.size)
        return fan__fail(ret_error, FAN_INVALID, field_at(load, too_deep, name, sizeof(name)),
                         "is nested deeper than %u", load->depth_max);
    /* jansson takes a NUL between tokens for the end, and so would pass over what follows it. */
    const char *nul = text.size > 0 ? memchr(text.data, '\0', text.size) : NULL;
    if (nul)
        return fan__fail(ret_error, FAN_INVALID,
                         field_at(load, (size_t)(nul - text.data), name, sizeof(name)),
                         "is not JSON: a NUL character at byte %zu", (size_t)(nul - text.data) + 1);
    json_error_t error;
    size_t flags = JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_DECODE_INT_AS_REAL;
    errno = 0;
    json_t *value = json_loadb(text.size > 0 ? text.data : "", text.size, flags, &error);
    if (!value) {
        /*
         * Without memory for a node jansson says nothing at all; without memory for a string it
         * calls the string invalid, and only what malloc left in errno tells the truth.
         */
        if (error.text[0] == '\0' || errno == ENOMEM ||
            json_error_code(&error) == json_error_out_of_memory)
            return fan__fail(ret_error, FAN_NO_MEMORY, load->field, "no memory to parse JSON");
        enum json_error_code code = json_error_code(&error);
        /*
         * The position is behind the token at fault; a text that just ends is at fault as a whole.
         */
        size_t position = error.position > 0 ? (size_t)error.position - 1 : 0;
        const char *field = code == json_error_premature_end_of_input
                                ? load->field
                                : field_at(load, position, name, sizeof(name));
        return fan__fail(ret_error, FAN_INVALID, field, "is not JSON: %s at line %d, column %d",
                         reason_of(code), error.line, error.column);
    }
    *ret_value = value;
    return FAN_OK;
}

static enum fan_status check_json(const struct load *load, struct fan_error *ret_error)
{
    if (fan__json_surely_legal(load->text, load->depth_max + load->members))
        return FAN_OK;
    json_t *value;
    enum fan_status status = load_json(load, &value, ret_error);
    if (status == FAN_OK)
        json_decref(value);
    return status;
}

/* How deep the members of a text lie: 1 in an object, 2 in an array of objects. */
static unsigned member_depth(struct fan_str text)
{
    size_t start = 0;
    while (start < text.size && strchr(" \t\r\n", text.data[start]))
        start++;
    return start < text.size && text.data[start] == '[' ? 2 : 1;
}

enum fan_status fan__json_load(struct fan_str text, unsigned depth_max, const char *field,
                               json_t **ret_value, struct fan_error *ret_error)
{
    struct load load = { text, depth_max, field, 0 };
    return load_json(&load, ret_value, ret_error);
}

enum fan_status fan__json_check(struct fan_str text, unsigned depth_max, const char *field,
                                struct fan_error *ret_error)
{
    struct load load = { text, depth_max, field, 0 };
    return check_json(&load, ret_error);
}

enum fan_status fan__json_load_members(struct fan_str text, unsigned depth_max, const char *field,
                                       json_t **ret_value, struct fan_error *ret_error)
{
    struct load load = { text, depth_max, field, member_depth(text) };
    return load_json(&load, ret_value, ret_error);
}

enum fan_status fan__json_check_members(struct fan_str text, unsigned depth_max, const char *field,
                                        struct fan_error *ret_error)
{
    struct load load = { text, depth_max, field, member_depth(text) };
    return check_json(&load, ret_error);
}

static const char *skip_space(const char *at)
{
    while (*at == ' ' || *at == '\t' || *at == '\r' || *at == '\n')
        at++;
    return at;
}

/* `at` is at the opening quote; gives the place behind the closing one. */
static const char *skip_string(const char *at)
{
    for (at++; *at != '"'; at++)
        if (*at == '\\')
            at++;
    return at + 1;
}

static const char *skip_value(const char *at)
{
    if (*at == '"')
        return skip_string(at);
    if (*at != '{' && *at != '[') {
        while (!strchr(",]} \t\r\n", *at))
            at++;
        return at;
    }
    unsigned depth = 0;
    do {
        if (*at == '"') {
            at = skip_string(at);
            continue;
        }
        depth += *at == '{' || *at == '[';
        depth -= *at == '}' || *at == ']';
        at++;
    } while (depth > 0);
    return at;
}

void fan__json_walk_init(struct fan__json_walk *walk, const char *start)
{
    walk->at = skip_space(start);
}

bool fan__json_walk_next(struct fan__json_walk *walk, struct fan_str *ret_key,
                         struct fan_str *ret_value)
{
    /* Behind its end there may be nothing to read. */
    if (*walk->at == ']' || *walk->at == '}')
        return false;
    /* Behind `[`, `{` or `,`: a value, unless it is empty. */
    const char *at = skip_space(walk->at + 1);
    if (*at == ']' || *at == '}')
        return false;
    *ret_key = (struct fan_str){ at, 0 };
    const char *end = skip_value(at);
    const char *next = skip_space(end);
    if (*next == ':') {
        *ret_key = (struct fan_str){ at + 1, (size_t)(end - at) - 2 };
        at = skip_space(next + 1);
        end = skip_value(at);
        next = skip_space(end);
    }
    *ret_value = (struct fan_str){ at, (size_t)(end - at) };
    walk->at = next;
    return true;
}

struct fan_str fan__json_member_at(struct fan_str text, size_t position, unsigned depth)
{
    struct fan_str none = { "", 0 };
    struct fan_str last = none;
    struct fan_str member = none;
    unsigned level = 0;
    size_t quote = 0;
    bool quoted = false;
    for (size_t i = 0; i < text.size && i <= position; i++) {
        char byte = text.data[i];
        if (quoted) {
            quoted = byte != '"';
            if (byte == '\\')
                i++;
            if (!quoted && level == depth)
                last = (struct fan_str){ text.data + quote, i - quote };
        } else if (byte == '"') {
            quoted = true;
            quote = i + 1;
        } else if (byte == '{' || byte == '[') {
            level++;
        } else if ((byte == '}' || byte == ']') && level > 0) {
            level--;
            if (level < depth)
                member = none;
        } else if (level == depth && byte == ':') {
            member = last;
        } else if (level == depth && byte == ',') {
            member = none;
        }
    }
    return member;
}
