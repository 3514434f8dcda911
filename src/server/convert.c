/* See convert.h. Forms of CloudEvents: HTTP Protocol Binding 1.0.2. */
#include "server/convert.h"

#include "base/buffer.h"
#include "base/env.h"
#include "base/status.h"
#include "server/daemon.h"
#include "server/reply.h"

#include <fanfare/cloudevents.h>
#include <fanfare/json.h>

#include <string.h>
#include <strings.h>

#define PREFIX "ce-"
#define PREFIX_SIZE (sizeof(PREFIX) - 1)
#define ATTRIBUTE_COUNT_MAX 100

enum fan__form fan__form_of(const struct fan__http_request *request)
{
    static const struct {
        const char *media_type;
        enum fan__form form;
    } forms[] = {
        { "application/cloudevents+json", FAN__FORM_CLOUD },
        { "application/cloudevents-batch+json", FAN__FORM_CLOUD_BATCH },
        { "application/json", FAN__FORM_JSON },
        { "application/x-ndjson", FAN__FORM_LINES },
    };
    const char *given = fan__http_header(request, "Content-Type");
    bool binary = fan__http_header(request, PREFIX "specversion") != NULL;
    for (size_t i = 0; given && i < sizeof(forms) / sizeof(forms[0]); i++) {
        enum fan__form form = forms[i].form;
        bool cloud = form == FAN__FORM_CLOUD || form == FAN__FORM_CLOUD_BATCH;
        if ((cloud || !binary) && fan__reply_media_type_is(given, forms[i].media_type))
            return form;
    }
    return binary ? FAN__FORM_CLOUD_BINARY : FAN__FORM_NONE;
}

/* ---- Binary mode: attributes are header fields ---- */

static int hex_value(char digit)
{
    if (digit >= '0' && digit <= '9')
        return digit - '0';
    digit = (char)(digit | 0x20);
    return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

/* Undoes a quoted string, then one round of percent-encoding; false for a broken escape. */
static bool add_value(struct fan__buffer *texts, const char *value)
{
    size_t size = strlen(value);
    bool quoted = size >= 2 && value[0] == '"' && value[size - 1] == '"';
    const char *end = value + size - quoted;
    for (const char *at = value + quoted; at < end; at++) {
        char byte = *at;
        if (quoted && byte == '\\' && at + 1 < end) {
            byte = *++at;
        } else if (byte == '%') {
            int high = end - at > 2 ? hex_value(at[1]) : -1;
            int low = high >= 0 ? hex_value(at[2]) : -1;
            if (low < 0 || (high == 0 && low == 0))
                return false;
            byte = (char)(high * 16 + low);
            at += 2;
        }
        fan__buffer_add(texts, &byte, 1);
    }
    fan__buffer_add(texts, "", 1);
    return true;
}

static void add_name(struct fan__buffer *texts, const char *name)
{
    for (const char *at = name; *at; at++) {
        char lower = *at >= 'A' && *at <= 'Z' ? (char)(*at | 0x20) : *at;
        fan__buffer_add(texts, &lower, 1);
    }
    fan__buffer_add(texts, "", 1);
}

/* Writes name and value of each attribute, each ending in NUL, one after another. */
static enum fan_status gather(const struct fan__http_request *request, struct fan__buffer *texts,
                              size_t *ret_count, struct fan_error *error)
{
    const char *name;
    const char *value;
    *ret_count = 0;
    for (size_t i = 0; fan__http_header_at(request, i, &name, &value); i++) {
        bool is_type = strcasecmp(name, "Content-Type") == 0;
        if (!is_type && strncasecmp(name, PREFIX, PREFIX_SIZE) != 0)
            continue;
        if (++*ret_count > ATTRIBUTE_COUNT_MAX)
            return fan__fail(error, FAN_INVALID, "attributes", "are more than %d",
                             ATTRIBUTE_COUNT_MAX);
        add_name(texts, is_type ? "datacontenttype" : name + PREFIX_SIZE);
        if (!add_value(texts, value))
            return fan__fail(error, FAN_INVALID, name, "has a broken percent escape");
    }
    return texts->failed ? FAN_NO_MEMORY : FAN_OK;
}

static enum fan_status from_binary(const struct fan__http_request *request, struct fan_str data,
                                   struct fan_event **ret_event, struct fan_error *error)
{
    const struct fan__daemon *daemon = fan__http_context(request);
    struct fan_attribute attributes[ATTRIBUTE_COUNT_MAX];
    struct fan__buffer texts;
    fan__buffer_init(&texts, daemon->env);
    size_t count;
    enum fan_status status = gather(request, &texts, &count, error);
    if (status == FAN_OK) {
        const char *at = texts.data;
        for (size_t i = 0; i < count; i++) {
            attributes[i].name = at;
            at += strlen(at) + 1;
            attributes[i].value = at;
            at += strlen(at) + 1;
        }
        struct fan_cloudevent cloudevent = {
            .size = FAN_CLOUDEVENT_SIZE,
            .attributes = attributes,
            .attribute_count = count,
            .has_data = data.size > 0,
            .data = data,
        };
        status = fan_event_from_cloudevent(&cloudevent, &daemon->defaults, ret_event, error);
    }
    fan__buffer_deinit(&texts);
    return status;
}

enum fan_status fan__convert(const struct fan__http_request *request, enum fan__form form,
                             struct fan_str text, struct fan_event **ret_event,
                             struct fan_error *ret_error)
{
    const struct fan__daemon *daemon = fan__http_context(request);
    struct fan_json_options options = FAN_JSON_OPTIONS_INIT;
    options.defaults = &daemon->defaults;
    switch (form) {
    case FAN__FORM_CLOUD:
    case FAN__FORM_CLOUD_BATCH:
        return fan_event_from_cloudevent_json(text, &daemon->defaults, ret_event, ret_error);
    case FAN__FORM_CLOUD_BINARY:
        return from_binary(request, text, ret_event, ret_error);
    case FAN__FORM_JSON:
    case FAN__FORM_LINES:
    case FAN__FORM_NONE:
        break;
    }
    return fan_event_from_json(text, &options, ret_event, ret_error);
}
