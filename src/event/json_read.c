/*
 * From JSON text to an event: parsed once, strictly; then a walk over the same text finds the bytes
 * of payload and metadata, which go into the event as they were written.
 *
 * An ordinary event is not parsed at all (jsonscan.h). Both ways give the same events; errors come
 * from the parsed one alone.
 */
#include "event/json.h"

#include "base/adopt.h"
#include "base/env.h"
#include "base/status.h"
#include "event/base64.h"
#include "event/batch.h"
#include "event/event.h"
#include "event/jsonform.h"
#include "event/jsonscan.h"
#include "event/jsontext.h"
#include "event/text.h"

#include <stdio.h>
#include <string.h>

enum kind {
    KIND_TEXT,
    KIND_TIME,
    KIND_SOURCE,
    KIND_USER_ID,
    KIND_PAYLOAD,
    KIND_ENCODING,
    KIND_METADATA,
    KIND_STATUS,
    KIND_READ_ONLY,
};

#define TEXT_FIELD(name)                                                                           \
    {                                                                                              \
#name, sizeof(#name) - 1, KIND_TEXT, offsetof(struct fan_event_draft, name)                \
    }
#define FIELD(name, kind, member)                                                                  \
    {                                                                                              \
        name, sizeof(name) - 1, kind, offsetof(struct fan_event_draft, member)                     \
    }

/* The offset is that of the draft's member, where there is one. */
static const struct field {
    const char *name;
    size_t size;
    enum kind kind;
    size_t offset;
} fields[] = {
    TEXT_FIELD(id),
    TEXT_FIELD(type),
    TEXT_FIELD(topic),
    TEXT_FIELD(schema),
    TEXT_FIELD(entity),
    TEXT_FIELD(operation),
    TEXT_FIELD(session_id),
    TEXT_FIELD(instance_id),
    TEXT_FIELD(content_type),
    TEXT_FIELD(traceparent),
    FIELD("source", KIND_SOURCE, source),
    FIELD("user_id", KIND_USER_ID, user_id),
    FIELD("created_at", KIND_TIME, created_us),
    FIELD("deliver_at", KIND_TIME, deliver_at_us),
    FIELD("payload", KIND_PAYLOAD, payload),
    FIELD("metadata", KIND_METADATA, metadata),
    FIELD("payload_encoding", KIND_ENCODING, size),
    FIELD("status", KIND_STATUS, size),
    FIELD("seq", KIND_READ_ONLY, size),
    FIELD("processed_at", KIND_READ_ONLY, size),
    FIELD("completed_at", KIND_READ_ONLY, size),
    FIELD("retry_count", KIND_READ_ONLY, size),
    FIELD("error", KIND_READ_ONLY, size),
};

static const struct field *find_field(const char *name, size_t size)
{
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
        if (fields[i].size == size && memcmp(fields[i].name, name, size) == 0)
            return &fields[i];
    return NULL;
}

/* One event being read. The draft points into `text` and into jansson's values. */
struct reading {
    struct fan_event_defaults defaults;
    bool accept_read_only;
    struct fan_event_draft draft;
    const json_t *payload;
    const char *encoding;
    void *decoded;
};

static enum fan_status take_user_id(struct reading *reading, const char *digits, size_t size,
                                    struct fan_error *ret_error)
{
    /* From the text, because jansson reads numbers as reals. */
    int64_t number = 0;
    bool negative = size > 0 && digits[0] == '-';
    for (size_t i = negative; i < size; i++) {
        if (digits[i] < '0' || digits[i] > '9' || __builtin_mul_overflow(number, 10, &number) ||
            __builtin_sub_overflow(number, digits[i] - '0', &number))
            goto fail;
    }
    if (!negative && __builtin_sub_overflow(0, number, &number))
        goto fail;
    reading->draft.user_id = number;
    return FAN_OK;

fail:
    return fan__fail(ret_error, FAN_INVALID, "user_id", "is not a whole number of 64 bits");
}

static enum fan_status take_time(const struct field *field, const json_t *value, int64_t *ret_us,
                                 struct fan_error *ret_error)
{
    if (!json_is_string(value) ||
        !fan__time_parse(json_string_value(value), json_string_length(value), ret_us))
        return fan__fail(ret_error, FAN_INVALID, field->name,
                         "is no RFC 3339 time; expected one such as 2024-02-29T12:00:00Z");
    /* In a draft 0 stands for "now", so this one instant cannot be told. */
    if (*ret_us == 0 && field->offset == offsetof(struct fan_event_draft, created_us))
        return fan__fail(ret_error, FAN_INVALID, field->name,
                         "is the beginning of 1970, which stands for no time at all");
    return FAN_OK;
}

static enum fan_status take_read_only(const struct reading *reading, const struct field *field,
                                      const json_t *value, struct fan_error *ret_error)
{
    enum fan_event_status status;
    if (field->kind == KIND_STATUS &&
        (!json_is_string(value) ||
         fan_event_status_parse(json_string_value(value), &status) != FAN_OK))
        return fan__fail(ret_error, FAN_INVALID, field->name,
                         "is none of pending, processing, completed, failed");
    if (!reading->accept_read_only)
        return fan__fail(ret_error, FAN_INVALID, field->name,
                         "is read-only: the log sets it, a publisher cannot");
    return FAN_OK;
}

static enum fan_status take_text(const struct field *field, const json_t *value,
                                 const char **ret_text, struct fan_error *ret_error)
{
    if (!json_is_string(value))
        return fan__fail(ret_error, FAN_INVALID, field->name, "is not a string");
    *ret_text = json_string_value(value);
    return FAN_OK;
}

static enum fan_status take_source(struct reading *reading, const json_t *value,
                                   struct fan_error *ret_error)
{
    if (!json_is_string(value) ||
        fan_source_parse(json_string_value(value), &reading->draft.source) != FAN_OK)
        return fan__fail(ret_error, FAN_INVALID, "source",
                         "is none of database, websocket, frontend, system, internal");
    return FAN_OK;
}

static enum fan_status take_metadata(struct reading *reading, const json_t *value,
                                     struct fan_str raw, struct fan_error *ret_error)
{
    if (!json_is_object(value))
        return fan__fail(ret_error, FAN_INVALID, "metadata", "is not a JSON object");
    if (json_object_size(value) > 0)
        reading->draft.metadata = raw;
    return FAN_OK;
}

static enum fan_status take_member(void *context, const struct fan__json_part *part,
                                   struct fan_error *ret_error)
{
    struct reading *reading = context;
    const json_t *value = part->value;
    struct fan_str raw = part->raw;
    const struct field *field = find_field(part->name, strlen(part->name));
    if (!field)
        return fan__fail(ret_error, FAN_INVALID, part->name, "is not a field of an event");
    if (json_is_null(value) && field->kind != KIND_PAYLOAD)
        return FAN_OK;
    void *place = (char *)&reading->draft + field->offset;
    switch (field->kind) {
    case KIND_TEXT:
        return take_text(field, value, place, ret_error);
    case KIND_TIME:
        return take_time(field, value, place, ret_error);
    case KIND_SOURCE:
        return take_source(reading, value, ret_error);
    case KIND_USER_ID:
        return take_user_id(reading, raw.data, raw.size, ret_error);
    case KIND_PAYLOAD:
        reading->payload = value;
        reading->draft.payload = raw;
        return FAN_OK;
    case KIND_ENCODING:
        return take_text(field, value, &reading->encoding, ret_error);
    case KIND_METADATA:
        return take_metadata(reading, value, raw, ret_error);
    case KIND_STATUS:
    case KIND_READ_ONLY:
        return take_read_only(reading, field, value, ret_error);
    }
    return FAN_OK;
}

/* Brings a payload that is not JSON from its string to its bytes. */
static enum fan_status decode_payload(struct reading *reading, struct fan_error *ret_error)
{
    bool base64 = reading->encoding && strcmp(reading->encoding, "base64") == 0;
    if (reading->encoding && !base64)
        return fan__fail(ret_error, FAN_INVALID, "payload_encoding", "is not base64");
    if (fan__content_type_is_json(reading->draft.content_type)) {
        if (base64)
            return fan__fail(ret_error, FAN_INVALID, "payload_encoding",
                             "goes with a content_type that is not JSON");
        return FAN_OK;
    }
    reading->draft.payload = (struct fan_str){ NULL, 0 };
    if (!reading->payload || json_is_null(reading->payload))
        return FAN_OK;
    if (!json_is_string(reading->payload))
        return fan__fail(ret_error, FAN_INVALID, "payload",
                         "is not a string, which this content_type asks for");
    struct fan_str text = { json_string_value(reading->payload),
                            json_string_length(reading->payload) };
    if (!base64) {
        reading->draft.payload = text;
        return FAN_OK;
    }
    size_t size;
    reading->decoded = fan__alloc(reading->defaults.env, text.size / 4 * 3 + 1);
    if (!reading->decoded)
        return fan__fail(ret_error, FAN_NO_MEMORY, "payload", "no memory to decode it");
    if (!fan__base64_decode(text.data, text.size, reading->decoded, &size))
        return fan__fail(ret_error, FAN_INVALID, "payload", "is not padded base64");
    reading->draft.payload = (struct fan_str){ reading->decoded, size };
    return FAN_OK;
}

static void begin_event(void *context)
{
    struct reading *reading = context;
    reading->draft = (struct fan_event_draft){ .size = FAN_EVENT_DRAFT_SIZE };
    reading->payload = NULL;
    reading->encoding = NULL;
}

static enum fan_status end_event(void *context, enum fan_status status,
                                 struct fan_event **ret_event, struct fan_error *ret_error)
{
    struct reading *reading = context;
    if (status == FAN_OK)
        status = decode_payload(reading, ret_error);
    if (status == FAN_OK)
        status = fan__event_new_checked(&reading->draft, &reading->defaults, ret_event, ret_error);
    fan__free(reading->defaults.env, reading->decoded);
    reading->decoded = NULL;
    return status;
}

static struct fan__json_form form_of(struct reading *reading)
{
    return (struct fan__json_form){
        .name = "event",
        .defaults = &reading->defaults,
        .context = reading,
        .begin = begin_event,
        .take = take_member,
        .end = end_event,
    };
}

/*
 * The quick way, for text that surely is legal and an event that is nothing but usual: every other
 * one is left to the long way above, which alone makes errors. Strings are copied here, to have a
 * NUL behind them; payload and metadata are taken where they stand.
 */
struct quick {
    struct reading *reading;
    uint32_t seen;
    size_t room_used;
    char room[(FAN__EVENT_TEXT_COUNT + 2) * (FAN_TEXT_SIZE_MAX + 1)];
};

_Static_assert(sizeof(fields) / sizeof(fields[0]) <= 32, "a bit for each field");

/* Any string that fits and has no escapes. */
static bool quick_text(struct quick *quick, struct fan_str raw, const char **ret_text)
{
    if (raw.data[0] != '"' || raw.size - 2 > FAN_TEXT_SIZE_MAX || memchr(raw.data, '\\', raw.size))
        return false;
    char *text = quick->room + quick->room_used;
    size_t size = raw.size - 2;
    memcpy(text, raw.data + 1, size);
    text[size] = '\0';
    quick->room_used += size + 1;
    *ret_text = text;
    return true;
}

static bool quick_time(const struct field *field, struct fan_str raw, int64_t *ret_us)
{
    return raw.data[0] == '"' && fan__time_parse(raw.data + 1, raw.size - 2, ret_us) &&
           (*ret_us != 0 || field->offset != offsetof(struct fan_event_draft, created_us));
}

static bool quick_member(struct quick *quick, const struct field *field, struct fan_str raw)
{
    struct fan_event_draft *draft = &quick->reading->draft;
    void *place = (char *)draft + field->offset;
    const char *text;
    enum fan_event_status status;
    bool empty;
    if (raw.data[0] == 'n' && field->kind != KIND_PAYLOAD)
        return true;
    switch (field->kind) {
    case KIND_TEXT:
        return quick_text(quick, raw, place);
    case KIND_TIME:
        return quick_time(field, raw, place);
    case KIND_SOURCE:
        return quick_text(quick, raw, &text) && fan_source_parse(text, &draft->source) == FAN_OK;
    case KIND_USER_ID:
        return take_user_id(quick->reading, raw.data, raw.size, NULL) == FAN_OK;
    case KIND_PAYLOAD:
        draft->payload = raw;
        return true;
    case KIND_METADATA:
        if (!fan__json_scan_is_object(raw, &empty))
            return false;
        if (!empty)
            draft->metadata = raw;
        return true;
    case KIND_STATUS:
        return quick->reading->accept_read_only && quick_text(quick, raw, &text) &&
               fan_event_status_parse(text, &status) == FAN_OK;
    case KIND_READ_ONLY:
        return quick->reading->accept_read_only;
    case KIND_ENCODING:
        break;
    }
    return false;
}

/* Reads the event that begins at `at`. Gives the place behind it, NULL when in doubt. */
static const char *quick_event(struct reading *reading, const char *at, const char *end,
                               struct fan_event **ret_event)
{
    struct quick quick;
    quick.reading = reading;
    quick.seen = 0;
    quick.room_used = 0;
    reading->draft = (struct fan_event_draft){ .size = FAN_EVENT_DRAFT_SIZE };
    at = fan__json_scan_space(at, end);
    if (at == end || *at != '{')
        return NULL;
    do {
        struct fan__json_member member;
        at = fan__json_scan_member(at + 1, end, reading->defaults.json_depth_max, &member);
        const struct field *field = at ? find_field(member.name.data, member.name.size) : NULL;
        if (!field || (quick.seen & UINT32_C(1) << (field - fields)) != 0 ||
            !quick_member(&quick, field, member.value))
            return NULL;
        quick.seen |= UINT32_C(1) << (field - fields);
    } while (*at == ',');
    if (!fan__content_type_is_json(reading->draft.content_type) ||
        fan__event_new_checked(&reading->draft, &reading->defaults, ret_event, NULL) != FAN_OK)
        return NULL;
    return at + 1;
}

static enum fan_status start_reading(struct reading *reading, const struct fan_json_options *given,
                                     struct fan_error *ret_error)
{
    static const struct fan_json_options built_in = FAN_JSON_OPTIONS_INIT;
    struct fan_json_options options;
    if (!fan__adopt(&options, sizeof(options), given ? given : &built_in, sizeof(size_t)))
        return fan__fail(ret_error, FAN_INVALID, "size",
                         "of the options is not one that this library knows");
    *reading = (struct reading){ .accept_read_only = options.accept_read_only };
    return fan__event_defaults_adopt(options.defaults, &reading->defaults, ret_error);
}

static bool quick_whole(struct reading *reading, struct fan_str text, struct fan_event **ret_event)
{
    if (text.size == 0)
        return false;
    struct fan_event *event = NULL;
    const char *end = text.data + text.size;
    const char *at = quick_event(reading, text.data, end, &event);
    if (at && fan__json_scan_space(at, end) == end) {
        *ret_event = event;
        return true;
    }
    fan_event_free(event, reading->defaults.env);
    return false;
}

enum fan_status fan_event_from_json(struct fan_str text, const struct fan_json_options *options,
                                    struct fan_event **ret_event, struct fan_error *ret_error)
{
    struct reading reading;
    enum fan_status status = start_reading(&reading, options, ret_error);
    if (status != FAN_OK || quick_whole(&reading, text, ret_event))
        return status;
    const struct fan__json_form form = form_of(&reading);
    return fan__json_form_read(&form, text, ret_event, ret_error);
}

/* One event or an array of them; false leaves the batch as it was. */
static bool quick_batch(const struct fan__json_form *form, struct fan_str text,
                        struct fan_batch *batch)
{
    if (text.size == 0)
        return false;
    size_t before = fan_batch_count(batch);
    const char *end = text.data + text.size;
    const char *at = fan__json_scan_space(text.data, end);
    bool array = at < end && *at == '[';
    do {
        struct fan_event *event;
        at = quick_event(form->context, at + array, end, &event);
        if (!at || fan__json_form_add(form, event, batch, NULL) != FAN_OK)
            goto fail;
        at = fan__json_scan_space(at, end);
    } while (array && at < end && *at == ',');
    if (array && at < end && *at == ']')
        at = fan__json_scan_space(at + 1, end);
    else if (array)
        goto fail;
    if (at == end)
        return true;

fail:
    fan__batch_truncate(batch, before);
    return false;
}

enum fan_status fan_events_from_json(struct fan_str text, const struct fan_json_options *options,
                                     struct fan_batch *batch, struct fan_error *ret_error)
{
    struct reading reading;
    enum fan_status status = start_reading(&reading, options, ret_error);
    const struct fan__json_form form = form_of(&reading);
    if (status != FAN_OK || quick_batch(&form, text, batch))
        return status;
    return fan__json_form_read_all(&form, text, batch, ret_error);
}
