/*
 * The one door to jansson. It parses by recursion, so the depth is measured first, in one pass over
 * the bytes: up to the first error both see the same strings and brackets, so it never goes deeper.
 *
 * Messages name the place and the rule, and repeat nothing of the input: it may be anything.
 */
#include "event/jsontext.h"

#include "base/status.h"

#include <string.h>

unsigned fan__json_depth(struct fan_str text, unsigned depth_max)
{
    unsigned depth = 0;
    unsigned deepest = 0;
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
            if (++depth > deepest)
                deepest = depth;
            if (deepest > depth_max)
                break;
        } else if ((byte == '}' || byte == ']') && depth > 0) {
            depth--;
        }
    }
    return deepest;
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

enum fan_status fan__json_load(struct fan_str text, unsigned depth_max, const char *field,
                               json_t **ret_value, struct fan_error *ret_error)
{
    if (fan__json_depth(text, depth_max) > depth_max)
        return fan__fail(ret_error, FAN_INVALID, field, "is nested deeper than %u", depth_max);
    /* jansson takes a NUL between tokens for the end, and so would pass over what follows it. */
    const char *nul = text.size > 0 ? memchr(text.data, '\0', text.size) : NULL;
    if (nul)
        return fan__fail(ret_error, FAN_INVALID, field, "is not JSON: a NUL character at byte %zu",
                         (size_t)(nul - text.data) + 1);
    json_error_t error;
    size_t flags = JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_DECODE_INT_AS_REAL;
    json_t *value = json_loadb(text.size > 0 ? text.data : "", text.size, flags, &error);
    if (!value) {
        /* Without memory for a node jansson says nothing at all. */
        if (error.text[0] == '\0' || json_error_code(&error) == json_error_out_of_memory)
            return fan__fail(ret_error, FAN_NO_MEMORY, field, "no memory to parse JSON");
        return fan__fail(ret_error, FAN_INVALID, field, "is not JSON: %s at line %d, column %d",
                         reason_of(json_error_code(&error)), error.line, error.column);
    }
    *ret_value = value;
    return FAN_OK;
}
