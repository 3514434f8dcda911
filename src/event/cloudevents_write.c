/*
 * From an event to a CloudEvent. Attributes go through one list, whatever becomes of them: what was
 * kept in metadata as it was, or what an event born here has to tell.
 */
#include "event/cloudevents.h"

#include "base/env.h"
#include "event/base64.h"
#include "event/event.h"
#include "event/json.h"
#include "event/jsontext.h"
#include "event/text.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Where attributes go: as JSON members, or as names and values that each end in NUL. */
struct list {
    struct fan__buffer *buffer;
    bool json;
    size_t count;
};

static void add_part(struct list *list, const char *name, const void *text, size_t size)
{
    fan__buffer_add(list->buffer, name, strlen(name) + 1);
    fan__buffer_add(list->buffer, text, size);
    fan__buffer_add(list->buffer, "", 1);
    list->count++;
}

static void add(struct list *list, enum fan__ce_name name, const char *text)
{
    if (text[0] == '\0')
        return;
    if (!list->json) {
        add_part(list, fan__ce_name_text(name), text, strlen(text));
        return;
    }
    fan__buffer_add_text(list->buffer, list->count++ > 0 ? ",\"" : "\"");
    fan__buffer_add_text(list->buffer, fan__ce_name_text(name));
    fan__buffer_add_text(list->buffer, "\":");
    fan__json_add_string(list->buffer, (struct fan_str){ text, strlen(text) });
}

#define URN_SIZE (sizeof(FAN__CE_URN) + (size_t)3 * FAN_TEXT_SIZE_MAX)

/* What RFC 3986 does not leave unreserved is percent-encoded. */
static void encode_urn(const char *instance_id, char urn[URN_SIZE])
{
    static const char digits[] = "0123456789ABCDEF";
    static const char plain[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~";
    memcpy(urn, FAN__CE_URN, sizeof(FAN__CE_URN));
    char *to = urn + strlen(FAN__CE_URN);
    for (const char *at = instance_id; *at; at++) {
        unsigned char byte = (unsigned char)*at;
        if (strchr(plain, *at)) {
            *to++ = *at;
            continue;
        }
        *to++ = '%';
        *to++ = digits[byte >> 4];
        *to++ = digits[byte & 0xf];
    }
    *to = '\0';
}

static void add_born_here(struct list *list, const struct fan_event *event)
{
    char urn[URN_SIZE];
    char time[FAN__TIME_TEXT_SIZE];
    char number[24];
    encode_urn(fan_event_instance_id(event), urn);
    add(list, FAN__CE_SPECVERSION, "1.0");
    add(list, FAN__CE_ID, fan_event_id(event));
    add(list, FAN__CE_SOURCE, urn);
    add(list, FAN__CE_TYPE, fan_event_type(event));
    fan__time_format(fan_event_created_us(event), time);
    add(list, FAN__CE_TIME, time);
    add(list, FAN__CE_SUBJECT, fan_event_topic(event));
    const char *content_type = fan_event_content_type(event);
    add(list, FAN__CE_DATACONTENTTYPE, content_type[0] ? content_type : "application/json");
    if (strcmp(content_type, "application/json") == 0)
        add(list, FAN__CE_FANCONTENTTYPE, content_type);
    add(list, FAN__CE_TRACEPARENT, fan_event_traceparent(event));
    if (fan_event_seq(event) > 0) {
        /* The extension "sequence" is ordered as text. */
        snprintf(number, sizeof(number), "%019" PRIu64, fan_event_seq(event));
        add(list, FAN__CE_SEQUENCE, number);
    }
    add(list, FAN__CE_FANSOURCE, fan_source_text(fan_event_source(event)));
    add(list, FAN__CE_FANSCHEMA, fan_event_schema(event));
    add(list, FAN__CE_FANENTITY, fan_event_entity(event));
    add(list, FAN__CE_FANOPERATION, fan_event_operation(event));
    if (fan_event_user_id(event) != 0) {
        snprintf(number, sizeof(number), "%" PRId64, fan_event_user_id(event));
        add(list, FAN__CE_FANUSERID, number);
    }
    add(list, FAN__CE_FANSESSIONID, fan_event_session_id(event));
    if (fan_event_deliver_at_us(event) != 0) {
        fan__time_format(fan_event_deliver_at_us(event), time);
        add(list, FAN__CE_FANDELIVERAT, time);
    }
    add(list, FAN__CE_FANMETADATA, fan_event_metadata(event).data);
}

static enum fan__ce_data data_of_born_here(const struct fan_event *event)
{
    if (fan_event_payload(event).size == 0)
        return FAN__CE_DATA_NONE;
    return fan_event_is_json(event) ? FAN__CE_DATA_JSON : FAN__CE_DATA_BASE64;
}

/* A CloudEvent that metadata keeps: its attributes, and how the data stood. */
struct kept {
    json_t *metadata;
    json_t *attributes;
    const char *attributes_text;
    struct fan__ce_attributes checked;
    enum fan__ce_data data;
};

static void kept_deinit(struct kept *kept)
{
    json_decref(kept->metadata);
    fan__buffer_deinit(&kept->checked.json);
}

/* Finds the text of a member of an object. */
static struct fan_str find_member(const char *object, const char *name)
{
    struct fan__json_walk walk;
    struct fan_str key;
    struct fan_str value;
    fan__json_walk_init(&walk, object);
    while (fan__json_walk_next(&walk, &key, &value))
        if (key.size == strlen(name) && memcmp(key.data, name, key.size) == 0)
            return value;
    return (struct fan_str){ NULL, 0 };
}

static bool data_fits(const struct fan_event *event, enum fan__ce_data data)
{
    struct fan_str payload = fan_event_payload(event);
    switch (data) {
    case FAN__CE_DATA_NONE:
        return payload.size == 0 || (fan_event_is_json(event) && payload.size == 4 &&
                                     memcmp(payload.data, "null", 4) == 0);
    case FAN__CE_DATA_JSON:
        return fan_event_is_json(event) && payload.size > 0;
    case FAN__CE_DATA_TEXT:
        return !fan_event_is_json(event) && fan__utf8_valid(payload.data, payload.size) &&
               !memchr(payload.data, '\0', payload.size);
    case FAN__CE_DATA_BASE64:
        return true;
    case FAN__CE_DATA_COUNT:
        break;
    }
    return false;
}

/*
 * Tells whether the parsed metadata are what the reader made, and fills `kept`: exactly its
 * members, legal attributes, the type of this event, and an id that follows from source and id.
 */
static bool metadata_fit(const struct fan_event *event, struct kept *kept)
{
    json_t *envelope = json_object_get(kept->metadata, "cloudevents");
    const char *data = json_string_value(json_object_get(envelope, "data"));
    kept->attributes = json_object_get(envelope, "attributes");
    if (json_object_size(kept->metadata) != 1 || json_object_size(envelope) != 2 || !data ||
        !json_is_object(kept->attributes))
        return false;
    kept->data = FAN__CE_DATA_NONE;
    while (kept->data < FAN__CE_DATA_COUNT && strcmp(fan__ce_data_text(kept->data), data) != 0)
        kept->data++;
    struct fan_str text = find_member(fan_event_metadata(event).data, "cloudevents");
    if (text.data)
        text = find_member(text.data, "attributes");
    if (!text.data || !data_fits(event, kept->data))
        return false;
    kept->attributes_text = text.data;
    struct fan__json_walk walk;
    fan__json_walk_init(&walk, text.data);
    for (void *at = json_object_iter(kept->attributes); at;
         at = json_object_iter_next(kept->attributes, at)) {
        struct fan_str key;
        struct fan_str raw;
        if (!fan__json_walk_next(&walk, &key, &raw) ||
            fan__ce_take_json(&kept->checked, json_object_iter_key(at), json_object_iter_value(at),
                              raw, NULL) != FAN_OK)
            return false;
    }
    char id[FAN__UUID_TEXT_SIZE];
    return fan__ce_check(&kept->checked, NULL) == FAN_OK &&
           strcmp(kept->checked.known[FAN__CE_TYPE], fan_event_type(event)) == 0 &&
           fan__ce_id(kept->checked.known[FAN__CE_SOURCE], kept->checked.known[FAN__CE_ID], id) ==
               FAN_OK &&
           strcmp(id, fan_event_id(event)) == 0;
}

/* FAN_NOT_FOUND when the event was born here. On FAN_OK `kept` is to be let go. */
static enum fan_status find_kept(const struct fan_event *event, const struct fan_env *env,
                                 struct kept *kept)
{
    static const char key[] = "\"cloudevents\"";
    struct fan_str metadata = fan_event_metadata(event);
    if (!memmem(metadata.data, metadata.size, key, sizeof(key) - 1))
        return FAN_NOT_FOUND;
    *kept = (struct kept){ 0 };
    /* It was checked against a limit that may have been another one; this is the highest. */
    enum fan_status status =
        fan__json_load(metadata, FAN__JSON_DEPTH_LIMIT, "metadata", &kept->metadata, NULL);
    if (status != FAN_OK)
        return status == FAN_NO_MEMORY ? status : FAN_NOT_FOUND;
    fan__buffer_init(&kept->checked.json, env);
    bool fits = metadata_fit(event, kept);
    if (fits && !kept->checked.json.failed)
        return FAN_OK;
    status = kept->checked.json.failed ? FAN_NO_MEMORY : FAN_NOT_FOUND;
    kept_deinit(kept);
    return status;
}

static void add_data(struct fan__buffer *buffer, const struct fan_event *event,
                     enum fan__ce_data data, unsigned flags)
{
    switch (data) {
    case FAN__CE_DATA_JSON:
        fan__buffer_add_text(buffer, ",\"data\":");
        fan__json_add_raw(buffer, fan_event_payload(event), flags);
        break;
    case FAN__CE_DATA_TEXT:
        fan__buffer_add_text(buffer, ",\"data\":");
        fan__json_add_string(buffer, fan_event_payload(event));
        break;
    case FAN__CE_DATA_BASE64:
        fan__buffer_add_text(buffer, ",\"data_base64\":");
        fan__json_add_base64(buffer, fan_event_payload(event));
        break;
    case FAN__CE_DATA_NONE:
    case FAN__CE_DATA_COUNT:
        break;
    }
}

enum fan_status fan__event_to_cloudevent_json(const struct fan_event *event, unsigned flags,
                                              struct fan__buffer *buffer)
{
    struct kept kept;
    enum fan_status status = find_kept(event, buffer->env, &kept);
    if (status == FAN_NO_MEMORY)
        return status;
    enum fan__ce_data data = data_of_born_here(event);
    fan__buffer_add(buffer, "{", 1);
    if (status == FAN_OK) {
        fan__buffer_add(buffer, kept.checked.json.data, kept.checked.json.size);
        data = kept.data;
        kept_deinit(&kept);
    } else {
        struct list list = { buffer, true, 0 };
        add_born_here(&list, event);
    }
    add_data(buffer, event, data, flags);
    fan__buffer_add(buffer, "}", 1);
    return buffer->failed ? FAN_NO_MEMORY : FAN_OK;
}

enum fan_status fan_event_to_cloudevent_json(const struct fan_event *event, unsigned flags,
                                             struct fan_text *text)
{
    struct fan__buffer buffer;
    fan__text_open(text, &buffer);
    if (fan__event_to_cloudevent_json(event, flags, &buffer) != FAN_OK)
        buffer.failed = true;
    return fan__text_close(text, &buffer);
}

/* Strings as what they say, numbers and booleans as their JSON text. */
static void add_kept(struct list *list, const struct kept *kept)
{
    struct fan__json_walk walk;
    fan__json_walk_init(&walk, kept->attributes_text);
    for (void *at = json_object_iter(kept->attributes); at;
         at = json_object_iter_next(kept->attributes, at)) {
        struct fan_str key;
        struct fan_str raw;
        const json_t *value = json_object_iter_value(at);
        if (!fan__json_walk_next(&walk, &key, &raw) || json_is_null(value))
            continue;
        const char *name = json_object_iter_key(at);
        if (json_is_string(value))
            add_part(list, name, json_string_value(value), json_string_length(value));
        else
            add_part(list, name, raw.data, raw.size);
    }
}

/* One block: the struct, its attributes, their texts. */
struct owned {
    struct fan_cloudevent cloudevent;
    struct fan_attribute attributes[];
};

static struct owned *make_owned(const struct list *list, const struct fan_env *env)
{
    size_t head_size = sizeof(struct owned) + list->count * sizeof(struct fan_attribute);
    struct owned *owned = fan__alloc(env, head_size + list->buffer->size);
    if (!owned)
        return NULL;
    char *text = (char *)owned + head_size;
    memcpy(text, list->buffer->data, list->buffer->size);
    for (size_t i = 0; i < list->count; i++) {
        owned->attributes[i].name = text;
        text += strlen(text) + 1;
        owned->attributes[i].value = text;
        text += strlen(text) + 1;
    }
    return owned;
}

enum fan_status fan_event_to_cloudevent(const struct fan_event *event, const struct fan_env *env,
                                        struct fan_cloudevent **ret_cloudevent)
{
    struct kept kept;
    enum fan_status status = find_kept(event, env, &kept);
    if (status == FAN_NO_MEMORY)
        return status;
    enum fan__ce_data data = data_of_born_here(event);
    struct fan__buffer buffer;
    fan__buffer_init(&buffer, env);
    struct list list = { &buffer, false, 0 };
    if (status == FAN_OK) {
        add_kept(&list, &kept);
        data = kept.data;
        kept_deinit(&kept);
    } else {
        add_born_here(&list, event);
    }
    struct owned *owned = buffer.failed ? NULL : make_owned(&list, env);
    fan__buffer_deinit(&buffer);
    if (!owned)
        return FAN_NO_MEMORY;
    owned->cloudevent = (struct fan_cloudevent){
        .size = FAN_CLOUDEVENT_SIZE,
        .attributes = owned->attributes,
        .attribute_count = list.count,
        .has_data = data != FAN__CE_DATA_NONE,
    };
    if (owned->cloudevent.has_data)
        owned->cloudevent.data = fan_event_payload(event);
    *ret_cloudevent = &owned->cloudevent;
    return FAN_OK;
}

void fan_cloudevent_free(struct fan_cloudevent *cloudevent, const struct fan_env *env)
{
    fan__free(env, cloudevent);
}
