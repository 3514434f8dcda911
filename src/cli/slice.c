/* A value ends where its brackets balance, a string where its quote is not escaped. */
#include "cli/slice.h"

#include <string.h>

static bool is_space(char byte)
{
    return byte == ' ' || byte == '\t' || byte == '\n' || byte == '\r';
}

static const char *skip(const char *at, const char *end, const char *more)
{
    while (at < end && (is_space(*at) || (*at && strchr(more, *at))))
        at++;
    return at;
}

static const char *string_end(const char *at, const char *end)
{
    for (at++; at < end && *at != '"'; at++)
        if (*at == '\\')
            at++;
    return at < end ? at + 1 : end;
}

static const char *value_end(const char *at, const char *end)
{
    unsigned depth = 0;
    while (at < end) {
        if (*at == '"') {
            at = string_end(at, end);
            if (depth == 0)
                return at;
            continue;
        }
        bool closes = *at == ']' || *at == '}';
        if (depth == 0 && (closes || *at == ',' || is_space(*at)))
            return at;
        if (*at == '[' || *at == '{')
            depth++;
        at++;
        if (closes && --depth == 0)
            return at;
    }
    return end;
}

struct fan__slice fan__slice_open(struct fan_str text)
{
    const char *end = text.data + text.size;
    const char *at = skip(text.data, end, "");
    return (struct fan__slice){ at < end ? at + 1 : end, end };
}

bool fan__slice_next(struct fan__slice *slice, struct fan_str *ret_key, struct fan_str *ret_value)
{
    const char *at = skip(slice->at, slice->end, ",");
    if (at >= slice->end || *at == ']' || *at == '}')
        return false;
    const char *stop = value_end(at, slice->end);
    struct fan_str value = { at, (size_t)(stop - at) };
    struct fan_str key = { "", 0 };
    const char *colon = skip(stop, slice->end, "");
    if (*at == '"' && colon < slice->end && *colon == ':') {
        key = (struct fan_str){ at + 1, value.size - 2 };
        at = skip(colon + 1, slice->end, "");
        stop = value_end(at, slice->end);
        value = (struct fan_str){ at, (size_t)(stop - at) };
    }
    slice->at = stop;
    *ret_key = key;
    *ret_value = value;
    return true;
}

bool fan__slice_find(struct fan_str object, const char *key, struct fan_str *ret_value)
{
    struct fan__slice slice = fan__slice_open(object);
    struct fan_str name;
    struct fan_str value;
    while (fan__slice_next(&slice, &name, &value)) {
        if (name.size == strlen(key) && memcmp(name.data, key, name.size) == 0) {
            *ret_value = value;
            return true;
        }
    }
    return false;
}
