/*
 * From a CloudEvent to an event. One that was an event of ours, and got no attribute on its way
 * that we do not know, becomes that event again; any other keeps its attributes in metadata.
 */
#include "event/cloudevents.h"

#include "base/adopt.h"
#include "base/env.h"
#include "base/status.h"
#include "event/base64.h"
#include "event/event.h"
#include "event/json.h"
#include "event/jsonform.h"
#include "event/jsontext.h"
#include "event/text.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* One CloudEvent being read; strings are borrowed from the input. */
struct reading {
    struct fan_event_defaults defaults;
    struct fan__ce_attributes attributes;
    enum fan__ce_data data_kind;
    struct fan_str data;
    const json_t *json_data;
    const char *base64;
    void *decoded;
    bool json_checked;
    struct fan_event_draft draft;
    char id[FAN__UUID_TEXT_SIZE];
    char instance_id[FAN_TEXT_SIZE_MAX + 1];
};

static const char *known(const struct reading *reading, enum fan__ce_name name)
{
    return reading->attributes.known[name];
}

/* What an event calls its fields, in the words of a CloudEvent. */
static void rename_field(struct fan_error *error)
{
    static const char *const pairs[][2] = {
        { "topic", "subject" },
        { "content_type", "datacontenttype" },
        { "payload", "data" },
        { "created_at", "time" },
        { "user_id", "fanuserid" },
        { "session_id", "fansessionid" },
        { "deliver_at", "fandeliverat" },
        { "schema", "fanschema" },
        { "entity", "fanentity" },
        { "operation", "fanoperation" },
        { "instance_id", "source" },
    };
    if (!error)
        return;
    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
        if (strcmp(error->field, pairs[i][0]) == 0) {
            strcpy(error->field, pairs[i][1]);
            return;
        }
    }
}

static enum fan_status no_memory(struct fan_error *ret_error)
{
    return fan__fail(ret_error, FAN_NO_MEMORY, NULL, "no memory to read a CloudEvent");
}

static enum fan_status take_time(struct reading *reading, enum fan__ce_name name, int64_t *ret_us,
                                 struct fan_error *ret_error)
{
    const char *text = known(reading, name);
    if (!text)
        return FAN_OK;
    if (!fan__time_parse(text, strlen(text), ret_us))
        return fan__fail(ret_error, FAN_INVALID, fan__ce_name_text(name),
                         "is no RFC 3339 time; expected one such as 2024-02-29T12:00:00Z");
    return FAN_OK;
}

static enum fan_status decode_base64(struct reading *reading, struct fan_error *ret_error)
{
    size_t size = strlen(reading->base64);
    reading->decoded = fan__alloc(reading->defaults.env, size / 4 * 3 + 1);
    if (!reading->decoded)
        return no_memory(ret_error);
    if (!fan__base64_decode(reading->base64, size, reading->decoded, &reading->data.size))
        return fan__fail(ret_error, FAN_INVALID, "data_base64", "is not padded base64");
    reading->data.data = reading->decoded;
    if (reading->data.size == 0 && known(reading, FAN__CE_DATACONTENTTYPE) &&
        fan__content_type_is_json(known(reading, FAN__CE_DATACONTENTTYPE)))
        return fan__fail(ret_error, FAN_INVALID, "data_base64",
                         "is empty, which is no JSON as datacontenttype says");
    return FAN_OK;
}

/* Brings the data of structured JSON to its bytes. */
static enum fan_status settle_data(struct reading *reading, struct fan_error *ret_error)
{
    const char *content_type = known(reading, FAN__CE_DATACONTENTTYPE);
    if (reading->base64) {
        reading->data_kind = FAN__CE_DATA_BASE64;
        return decode_base64(reading, ret_error);
    }
    /* Null is a value of JSON; where the data are no JSON it can only mean that there are none. */
    bool json = fan__content_type_is_json(content_type);
    if (!reading->json_data || (!json && json_is_null(reading->json_data))) {
        reading->data = (struct fan_str){ NULL, 0 };
        return FAN_OK;
    }
    if (json) {
        reading->data_kind = FAN__CE_DATA_JSON;
        reading->json_checked = true;
        return FAN_OK;
    }
    if (!json_is_string(reading->json_data))
        return fan__fail(ret_error, FAN_INVALID, "data",
                         "is not a string, which this datacontenttype asks for");
    reading->data_kind = FAN__CE_DATA_TEXT;
    reading->data = (struct fan_str){ json_string_value(reading->json_data),
                                      json_string_length(reading->json_data) };
    return FAN_OK;
}

/* Undoes the percent-encoding of the URN's last part. False for what the writer would not write. */
static bool decode_urn(const char *source, char instance_id[FAN_TEXT_SIZE_MAX + 1])
{
    static const char digits[] = "0123456789ABCDEF";
    size_t size = 0;
    for (const char *at = source + strlen(FAN__CE_URN); *at; at++) {
        unsigned char byte = (unsigned char)*at;
        if (byte == '%') {
            const char *high = at[1] ? strchr(digits, at[1]) : NULL;
            const char *low = high && at[2] ? strchr(digits, at[2]) : NULL;
            if (!low)
                return false;
            byte = (unsigned char)((high - digits) << 4 | (low - digits));
            at += 2;
        }
        if (size == FAN_TEXT_SIZE_MAX || byte == '\0')
            return false;
        instance_id[size++] = (char)byte;
    }
    instance_id[size] = '\0';
    return size > 0;
}

static bool is_ours(struct reading *reading)
{
    return !reading->attributes.foreign && known(reading, FAN__CE_FANSOURCE) &&
           known(reading, FAN__CE_TIME) &&
           strncmp(known(reading, FAN__CE_SOURCE), FAN__CE_URN, strlen(FAN__CE_URN)) == 0 &&
           decode_urn(known(reading, FAN__CE_SOURCE), reading->instance_id);
}

static enum fan_status take_user_id(struct reading *reading, struct fan_error *ret_error)
{
    const char *text = known(reading, FAN__CE_FANUSERID);
    if (!text)
        return FAN_OK;
    char *end;
    errno = 0;
    long long number = strtoll(text, &end, 10);
    bool digits = text[0] == '-' || (text[0] >= '0' && text[0] <= '9');
    if (!digits || *end != '\0' || errno != 0)
        return fan__fail(ret_error, FAN_INVALID, "fanuserid", "is not a whole number of 64 bits");
    reading->draft.user_id = number;
    return FAN_OK;
}

static enum fan_status make_ours(struct reading *reading, struct fan_event **ret_event,
                                 struct fan_error *ret_error)
{
    struct fan_event_draft *draft = &reading->draft;
    draft->id = known(reading, FAN__CE_ID);
    draft->traceparent = known(reading, FAN__CE_TRACEPARENT);
    draft->instance_id = reading->instance_id;
    draft->schema = known(reading, FAN__CE_FANSCHEMA);
    draft->entity = known(reading, FAN__CE_FANENTITY);
    draft->operation = known(reading, FAN__CE_FANOPERATION);
    draft->session_id = known(reading, FAN__CE_FANSESSIONID);
    /* The writer names JSON where the event names nothing, and tells when the event did. */
    const char *content_type = known(reading, FAN__CE_FANCONTENTTYPE);
    if (!content_type && draft->content_type &&
        strcmp(draft->content_type, "application/json") != 0)
        content_type = draft->content_type;
    draft->content_type = content_type;
    const char *metadata = known(reading, FAN__CE_FANMETADATA);
    if (metadata)
        draft->metadata = (struct fan_str){ metadata, strlen(metadata) };
    if (fan_source_parse(known(reading, FAN__CE_FANSOURCE), &draft->source) != FAN_OK)
        return fan__fail(ret_error, FAN_INVALID, "fansource",
                         "is none of database, websocket, frontend, system, internal");
    enum fan_status status = take_user_id(reading, ret_error);
    if (status == FAN_OK)
        status = take_time(reading, FAN__CE_FANDELIVERAT, &draft->deliver_at_us, ret_error);
    if (status == FAN_OK)
        status = fan_event_new(draft, &reading->defaults, ret_event, ret_error);
    return status;
}

static enum fan_status make_foreign(struct reading *reading, struct fan_event **ret_event,
                                    struct fan_error *ret_error)
{
    struct fan_event_draft *draft = &reading->draft;
    if (fan__ce_id(known(reading, FAN__CE_SOURCE), known(reading, FAN__CE_ID), reading->id) !=
        FAN_OK)
        return no_memory(ret_error);
    draft->id = reading->id;
    /*
     * W3C wants a trace context that is none to be ignored; as an attribute it is kept all the
     * same.
     */
    const char *traceparent = known(reading, FAN__CE_TRACEPARENT);
    if (traceparent && fan__traceparent_valid(traceparent))
        draft->traceparent = traceparent;
    /* Bytes without a type are not JSON here, though no type means JSON. */
    bool bytes = reading->data_kind == FAN__CE_DATA_BASE64;
    if (bytes && !draft->content_type)
        draft->content_type = "application/octet-stream";

    struct fan__buffer metadata;
    fan__buffer_init(&metadata, reading->defaults.env);
    fan__buffer_add_text(&metadata, "{\"cloudevents\":{\"data\":\"");
    fan__buffer_add_text(&metadata, fan__ce_data_text(reading->data_kind));
    fan__buffer_add_text(&metadata, "\",\"attributes\":{");
    fan__buffer_add(&metadata, reading->attributes.json.data, reading->attributes.json.size);
    fan__buffer_add_text(&metadata, "}}}");
    enum fan_status status;
    draft->metadata = (struct fan_str){ metadata.data, metadata.size };
    if (metadata.failed)
        status = no_memory(ret_error);
    else if (reading->json_checked)
        status = fan__event_new_checked(draft, &reading->defaults, ret_event, ret_error);
    else
        status = fan_event_new(draft, &reading->defaults, ret_event, ret_error);
    fan__buffer_deinit(&metadata);
    draft->id = NULL;
    draft->metadata = (struct fan_str){ 0 };
    return status;
}

/* Attributes and data are taken: makes the event. */
static enum fan_status make(struct reading *reading, struct fan_event **ret_event,
                            struct fan_error *ret_error)
{
    struct fan_event_draft *draft = &reading->draft;
    if (reading->attributes.json.failed)
        return no_memory(ret_error);
    enum fan_status status = fan__ce_check(&reading->attributes, ret_error);
    if (status != FAN_OK)
        return status;
    *draft = (struct fan_event_draft){
        .size = FAN_EVENT_DRAFT_SIZE,
        .type = known(reading, FAN__CE_TYPE),
        .payload = reading->data,
        .topic = known(reading, FAN__CE_SUBJECT),
        .content_type = known(reading, FAN__CE_DATACONTENTTYPE),
    };
    status = take_time(reading, FAN__CE_TIME, &draft->created_us, ret_error);
    if (status != FAN_OK)
        return status;
    /* 0 would mean "now"; the text of the time is kept, so nothing is lost. */
    if (known(reading, FAN__CE_TIME) && draft->created_us == 0)
        draft->created_us = 1;
    status = is_ours(reading) ? make_ours(reading, ret_event, ret_error)
                              : make_foreign(reading, ret_event, ret_error);
    if (status != FAN_OK)
        rename_field(ret_error);
    return status;
}

static enum fan_status start(struct reading *reading, const struct fan_event_defaults *defaults,
                             struct fan_error *ret_error)
{
    *reading = (struct reading){ .data_kind = FAN__CE_DATA_NONE };
    enum fan_status status = fan__event_defaults_adopt(defaults, &reading->defaults, ret_error);
    if (status == FAN_OK)
        fan__buffer_init(&reading->attributes.json, reading->defaults.env);
    return status;
}

/* Lets go of what one CloudEvent needed, ready for the next. */
static void finish(struct reading *reading)
{
    fan__free(reading->defaults.env, reading->decoded);
    fan__buffer_deinit(&reading->attributes.json);
    struct fan_event_defaults defaults = reading->defaults;
    *reading = (struct reading){ .defaults = defaults };
    fan__buffer_init(&reading->attributes.json, defaults.env);
}

static enum fan_status take_member(void *context, const struct fan__json_part *part,
                                   struct fan_error *ret_error)
{
    struct reading *reading = context;
    if (strcmp(part->name, "data") == 0) {
        reading->json_data = part->value;
        reading->data = part->raw;
        return FAN_OK;
    }
    if (strcmp(part->name, "data_base64") != 0)
        return fan__ce_take_json(&reading->attributes, part->name, part->value, part->raw,
                                 ret_error);
    if (json_is_null(part->value))
        return FAN_OK;
    reading->base64 = json_string_value(part->value);
    if (!reading->base64)
        return fan__fail(ret_error, FAN_INVALID, part->name, "is not a string");
    return FAN_OK;
}

static enum fan_status end_object(void *context, enum fan_status status,
                                  struct fan_event **ret_event, struct fan_error *ret_error)
{
    struct reading *reading = context;
    if (status == FAN_OK && reading->base64 && reading->json_data)
        status = fan__fail(ret_error, FAN_INVALID, "data_base64", "stands beside data");
    if (status == FAN_OK)
        status = settle_data(reading, ret_error);
    if (status == FAN_OK)
        status = make(reading, ret_event, ret_error);
    finish(reading);
    return status;
}

static struct fan__json_form form_of(struct reading *reading)
{
    return (struct fan__json_form){
        .name = "cloudevent",
        .defaults = &reading->defaults,
        .context = reading,
        .take = take_member,
        .end = end_object,
    };
}

enum fan_status fan_event_from_cloudevent_json(struct fan_str text,
                                               const struct fan_event_defaults *defaults,
                                               struct fan_event **ret_event,
                                               struct fan_error *ret_error)
{
    struct reading reading;
    enum fan_status status = start(&reading, defaults, ret_error);
    const struct fan__json_form form = form_of(&reading);
    return status == FAN_OK ? fan__json_form_read(&form, text, ret_event, ret_error) : status;
}

enum fan_status fan_events_from_cloudevent_json(struct fan_str text,
                                                const struct fan_event_defaults *defaults,
                                                struct fan_batch *batch,
                                                struct fan_error *ret_error)
{
    struct reading reading;
    enum fan_status status = start(&reading, defaults, ret_error);
    const struct fan__json_form form = form_of(&reading);
    return status == FAN_OK ? fan__json_form_read_all(&form, text, batch, ret_error) : status;
}

/* Takes the attributes of binary mode, each a string. */
static enum fan_status take_parts(struct reading *reading, const struct fan_cloudevent *parts,
                                  struct fan_error *ret_error)
{
    struct fan__buffer raw;
    fan__buffer_init(&raw, reading->defaults.env);
    enum fan_status status = FAN_OK;
    for (size_t i = 0; i < parts->attribute_count && status == FAN_OK; i++) {
        const struct fan_attribute *attribute = &parts->attributes[i];
        for (size_t j = 0; j < i && status == FAN_OK; j++)
            if (strcmp(parts->attributes[j].name, attribute->name) == 0)
                status = fan__fail(ret_error, FAN_INVALID, attribute->name, "stands there twice");
        if (status == FAN_OK && !fan__utf8_valid(attribute->value, strlen(attribute->value)))
            status = fan__fail(ret_error, FAN_INVALID, attribute->name, "is not valid UTF-8");
        if (status != FAN_OK)
            break;
        fan__buffer_clear(&raw);
        fan__json_add_string(&raw, (struct fan_str){ attribute->value, strlen(attribute->value) });
        status = raw.failed ? no_memory(ret_error)
                            : fan__ce_take(&reading->attributes, attribute->name, attribute->value,
                                           (struct fan_str){ raw.data, raw.size }, ret_error);
    }
    fan__buffer_deinit(&raw);
    return status;
}

enum fan_status fan_event_from_cloudevent(const struct fan_cloudevent *cloudevent,
                                          const struct fan_event_defaults *defaults,
                                          struct fan_event **ret_event, struct fan_error *ret_error)
{
    struct reading reading;
    struct fan_cloudevent parts;
    if (!fan__adopt(&parts, sizeof(parts), cloudevent, sizeof(parts)))
        return fan__fail(ret_error, FAN_INVALID, "size",
                         "of the CloudEvent is not one that this library knows");
    enum fan_status status = start(&reading, defaults, ret_error);
    if (status != FAN_OK)
        return status;
    status = take_parts(&reading, &parts, ret_error);
    if (status == FAN_OK) {
        const char *content_type = known(&reading, FAN__CE_DATACONTENTTYPE);
        bool json = content_type && fan__content_type_is_json(content_type);
        /* No bytes at all are no JSON. */
        if (parts.has_data && !(json && parts.data.size == 0)) {
            reading.data_kind = json ? FAN__CE_DATA_JSON : FAN__CE_DATA_BASE64;
            reading.data = parts.data;
        }
        status = make(&reading, ret_event, ret_error);
    }
    finish(&reading);
    return status;
}
