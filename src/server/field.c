/* See field.h. */
#include "server/field.h"

#include "base/status.h"
#include "event/jsontext.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* An object, an array in it, its objects, and one more to be refused by name. */
#define DEPTH_MAX 4
/* Whole numbers above it are not told apart by a double. */
#define EXACT_MAX 9007199254740992.0

static bool read_digits(const char *text, uint64_t *ret_number)
{
    uint64_t number = 0;
    const char *at = text;
    for (; *at >= '0' && *at <= '9'; at++)
        if (__builtin_mul_overflow(number, 10, &number) ||
            __builtin_add_overflow(number, (uint64_t)(*at - '0'), &number))
            return false;
    *ret_number = number;
    return at > text && *at == '\0';
}

static enum fan_status out_of_bounds(const char *name, struct fan__range range,
                                     struct fan_error *error)
{
    return fan__fail(error, FAN_INVALID, name, "is no number from %" PRIu64 " to %" PRIu64,
                     range.least, range.most);
}

enum fan_status fan__field_number(const char *name, const char *text, struct fan__range range,
                                  uint64_t *ret_number, struct fan_error *ret_error)
{
    uint64_t number = 0;
    if (!read_digits(text, &number) || number < range.least || number > range.most)
        return out_of_bounds(name, range, ret_error);
    *ret_number = number;
    return FAN_OK;
}

static enum fan_status read_text(const struct fan__field *field, const json_t *value,
                                 const char **ret_text, struct fan_error *error)
{
    size_t size = json_string_length(value);
    if (!json_is_string(value) || size < field->least || size > field->most)
        return fan__fail(error, FAN_INVALID, field->name,
                         "is no string of %" PRIu64 " to %" PRIu64 " bytes", field->least,
                         field->most);
    *ret_text = json_string_value(value);
    return FAN_OK;
}

static enum fan_status read_number(const struct fan__field *field, const json_t *value,
                                   uint64_t *ret_number, struct fan_error *error)
{
    double number = json_number_value(value);
    bool whole = json_is_number(value) && number >= 0 && number <= EXACT_MAX &&
                 number <= (double)field->most && (double)(uint64_t)number == number;
    if (!whole || (uint64_t)number < field->least || (uint64_t)number > field->most)
        return out_of_bounds(field->name, (struct fan__range){ field->least, field->most }, error);
    *ret_number = (uint64_t)number;
    return FAN_OK;
}

static enum fan_status read_value(const struct fan__field *field, const json_t *value, void *target,
                                  struct fan_error *error)
{
    char *place = (char *)target + field->offset;
    switch (field->kind) {
    case FAN__FIELD_TEXT:
        return read_text(field, value, (const char **)place, error);
    case FAN__FIELD_NUMBER:
        return read_number(field, value, (uint64_t *)place, error);
    case FAN__FIELD_DIGITS:
        if (!json_is_string(value))
            return fan__fail(error, FAN_INVALID, field->name, "is no string of digits");
        return fan__field_number(field->name, json_string_value(value),
                                 (struct fan__range){ field->least, field->most },
                                 (uint64_t *)place, error);
    case FAN__FIELD_FLAG:
        if (!json_is_boolean(value))
            return fan__fail(error, FAN_INVALID, field->name, "is neither true nor false");
        *(bool *)place = json_is_true(value);
        return FAN_OK;
    case FAN__FIELD_ITEMS:
        break;
    }
    if (!json_is_array(value) || json_array_size(value) < field->least ||
        json_array_size(value) > field->most)
        return fan__fail(error, FAN_INVALID, field->name,
                         "is no array of %" PRIu64 " to %" PRIu64 " items", field->least,
                         field->most);
    *(const json_t **)place = value;
    return FAN_OK;
}

static enum fan_status refuse_unknown(const char *name, const struct fan__field *fields,
                                      struct fan_error *error)
{
    char known[160] = "";
    size_t size = 0;
    for (; fields->name && size < sizeof(known); fields++)
        size += (size_t)snprintf(known + size, sizeof(known) - size, "%s%s", size > 0 ? ", " : "",
                                 fields->name);
    return fan__fail(error, FAN_INVALID, name, "is not a field here; expected %s", known);
}

enum fan_status fan__fields_read(const json_t *object, const struct fan__field *fields,
                                 void *target, struct fan_error *ret_error)
{
    if (!json_is_object(object))
        return fan__fail(ret_error, FAN_INVALID, "body", "is no JSON object");
    const char *name;
    json_t *value;
    /* jansson's walk takes an object that it may change, and does not. */
    json_object_foreach((json_t *)object, name, value)
    {
        const struct fan__field *field = fields;
        while (field->name && strcmp(field->name, name) != 0)
            field++;
        if (!field->name)
            return refuse_unknown(name, fields, ret_error);
        enum fan_status status =
            json_is_null(value) ? FAN_OK : read_value(field, value, target, ret_error);
        if (status != FAN_OK)
            return status;
    }
    for (const struct fan__field *field = fields; field->name; field++)
        if (field->required && (!json_object_get(object, field->name) ||
                                json_is_null(json_object_get(object, field->name))))
            return fan__fail(ret_error, FAN_INVALID, field->name, "is missing");
    return FAN_OK;
}

enum fan_status fan__field_in_item(size_t index, const struct fan_error *inner,
                                   struct fan_error *ret_error)
{
    char name[sizeof(inner->field) + 32];
    snprintf(name, sizeof(name), "items[%zu].%s", index, inner->field);
    return fan__fail(ret_error, inner->status, name, "%s", inner->message);
}

enum fan_status fan__fields_item(const json_t *items, size_t index, const struct fan__field *fields,
                                 void *target, struct fan_error *ret_error)
{
    struct fan_error inner = FAN_ERROR_INIT;
    const json_t *item = json_array_get(items, index);
    if (!json_is_object(item))
        return fan__fail(ret_error, FAN_INVALID, "items", "has no JSON object at index %zu", index);
    if (fan__fields_read(item, fields, target, &inner) == FAN_OK)
        return FAN_OK;
    return fan__field_in_item(index, &inner, ret_error);
}

enum fan_status fan__fields_parse(struct fan_str body, const struct fan__field *fields,
                                  void *target, json_t **ret_value, struct fan_error *ret_error)
{
    json_t *value = NULL;
    enum fan_status status = fan__json_load(body, DEPTH_MAX, "body", &value, ret_error);
    if (status != FAN_OK)
        return status;
    status = fan__fields_read(value, fields, target, ret_error);
    if (status != FAN_OK) {
        json_decref(value);
        return status;
    }
    *ret_value = value;
    return FAN_OK;
}
