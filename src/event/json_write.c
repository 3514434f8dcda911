/*
 * From an event to JSON text. Nothing is parsed: payload and metadata are JSON since they were
 * made.
 */
#include "event/json.h"

#include "event/base64.h"
#include "event/text.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

void fan_text_deinit(struct fan_text *text)
{
    struct fan__buffer buffer = { .env = text->env, .data = text->data };
    fan__buffer_deinit(&buffer);
    *text = (struct fan_text){ .env = text->env };
}

void fan__text_open(struct fan_text *text, struct fan__buffer *ret_buffer)
{
    *ret_buffer =
        (struct fan__buffer){ .env = text->env, .data = text->data, .capacity = text->capacity };
}

enum fan_status fan__text_close(struct fan_text *text, struct fan__buffer *buffer)
{
    char *end = fan__buffer_reserve(buffer, 1);
    bool failed = buffer->failed;
    text->data = buffer->data;
    text->capacity = buffer->capacity;
    text->size = failed ? 0 : buffer->size;
    if (!failed)
        *end = '\0';
    else if (text->capacity > 0)
        text->data[0] = '\0';
    return failed ? FAN_NO_MEMORY : FAN_OK;
}

static void add_escape(struct fan__buffer *buffer, unsigned char byte)
{
    static const char digits[] = "0123456789abcdef";
    char escape[] = "\\u0000";
    switch (byte) {
    case '"':
    case '\\':
        escape[1] = (char)byte;
        break;
    case '\n':
        escape[1] = 'n';
        break;
    case '\r':
        escape[1] = 'r';
        break;
    case '\t':
        escape[1] = 't';
        break;
    default:
        escape[4] = digits[byte >> 4];
        escape[5] = digits[byte & 0xf];
        fan__buffer_add(buffer, escape, 6);
        return;
    }
    fan__buffer_add(buffer, escape, 2);
}

/* Texts of events are valid; what a handler gave as its error may be anything. */
static void add_repaired(struct fan__buffer *buffer, struct fan_str text)
{
    fan__buffer_add(buffer, "\"", 1);
    for (size_t i = 0; i < text.size;) {
        size_t size = fan__utf8_size(text.data + i, text.size - i);
        unsigned char byte = (unsigned char)text.data[i];
        if (size == 0)
            fan__buffer_add_text(buffer, "\xef\xbf\xbd");
        else if (byte < ' ' || byte == '"' || byte == '\\')
            add_escape(buffer, byte);
        else
            fan__buffer_add(buffer, text.data + i, size);
        i += size > 0 ? size : 1;
    }
    fan__buffer_add(buffer, "\"", 1);
}

void fan__json_add_string(struct fan__buffer *buffer, struct fan_str text)
{
    if (!fan__utf8_valid(text.data, text.size)) {
        add_repaired(buffer, text);
        return;
    }
    fan__buffer_add(buffer, "\"", 1);
    size_t start = 0;
    for (size_t i = 0; i < text.size; i++) {
        unsigned char byte = (unsigned char)text.data[i];
        if (byte >= ' ' && byte != '"' && byte != '\\')
            continue;
        fan__buffer_add(buffer, text.data + start, i - start);
        add_escape(buffer, byte);
        start = i + 1;
    }
    fan__buffer_add(buffer, text.data + start, text.size - start);
    fan__buffer_add(buffer, "\"", 1);
}

void fan__json_add_raw(struct fan__buffer *buffer, struct fan_str json, unsigned flags)
{
    char *place = fan__buffer_reserve(buffer, json.size);
    if (!place || json.size == 0)
        return;
    memcpy(place, json.data, json.size);
    buffer->size += json.size;
    if (!(flags & FAN_JSON_ONE_LINE))
        return;
    /* Within a JSON string they can only stand escaped, so these are white space. */
    for (size_t i = 0; i < json.size; i++)
        if (place[i] == '\n' || place[i] == '\r')
            place[i] = ' ';
}

void fan__json_add_base64(struct fan__buffer *buffer, struct fan_str bytes)
{
    size_t size = fan__base64_size(bytes.size);
    char *place = fan__buffer_reserve(buffer, size + 3);
    if (!place)
        return;
    place[0] = '"';
    fan__base64_encode(bytes.data, bytes.size, place + 1);
    place[size + 1] = '"';
    buffer->size += size + 2;
}

/* `lead` is the comma, the name and the colon: `,"type":`. */
static void add_text(struct fan__buffer *buffer, const char *lead, const char *text)
{
    fan__buffer_add_text(buffer, lead);
    fan__json_add_string(buffer, (struct fan_str){ text, strlen(text) });
}

static void add_number(struct fan__buffer *buffer, const char *lead, int64_t number)
{
    char digits[24];
    int size = snprintf(digits, sizeof(digits), "%" PRId64, number);
    fan__buffer_add_text(buffer, lead);
    fan__buffer_add(buffer, digits, (size_t)size);
}

static void add_time(struct fan__buffer *buffer, const char *lead, int64_t time_us)
{
    char text[FAN__TIME_TEXT_SIZE + 2] = "\"";
    fan__buffer_add_text(buffer, lead);
    fan__time_format(time_us, text + 1);
    text[FAN__TIME_TEXT_SIZE] = '"';
    fan__buffer_add(buffer, text, FAN__TIME_TEXT_SIZE + 1);
}

static void add_time_or_null(struct fan__buffer *buffer, const char *lead, int64_t time_us)
{
    if (time_us != 0) {
        add_time(buffer, lead, time_us);
    } else {
        fan__buffer_add_text(buffer, lead);
        fan__buffer_add_text(buffer, "null");
    }
}

static void add_payload(struct fan__buffer *buffer, const struct fan_event *event, unsigned flags)
{
    struct fan_str payload = fan_event_payload(event);
    fan__buffer_add_text(buffer, ",\"payload\":");
    if (fan_event_is_json(event)) {
        /* An erased event has no payload at all. */
        if (payload.size == 0)
            payload = (struct fan_str)FAN_STR("null");
        fan__json_add_raw(buffer, payload, flags);
    } else {
        fan__json_add_base64(buffer, payload);
        fan__buffer_add_text(buffer, ",\"payload_encoding\":\"base64\"");
    }
}

static void add_state(struct fan__buffer *buffer, const struct fan_event_state *state)
{
    add_time_or_null(buffer, ",\"processed_at\":", state->processed_us);
    add_time_or_null(buffer, ",\"completed_at\":", state->completed_us);
    add_number(buffer, ",\"retry_count\":", state->retry_count);
    add_text(buffer, ",\"error\":", state->error ? state->error : "");
}

void fan__event_to_json(const struct fan_event *event, const struct fan_event_state *state,
                        unsigned flags, struct fan__buffer *buffer)
{
    /* All names and times together are shorter than this; texts that need escapes may grow it. */
    if (!fan__buffer_reserve(buffer, fan_event_size(event) + 640))
        return;
    add_text(buffer, "{\"id\":", fan_event_id(event));
    if (fan_event_seq(event) > 0)
        add_number(buffer, ",\"seq\":", (int64_t)fan_event_seq(event));
    add_text(buffer, ",\"source\":", fan_source_text(fan_event_source(event)));
    add_text(buffer, ",\"type\":", fan_event_type(event));
    add_text(buffer, ",\"topic\":", fan_event_topic(event));
    add_text(buffer, ",\"schema\":", fan_event_schema(event));
    add_text(buffer, ",\"entity\":", fan_event_entity(event));
    add_text(buffer, ",\"operation\":", fan_event_operation(event));
    if (state)
        add_text(buffer, ",\"status\":", fan_event_status_text(state->status));
    add_number(buffer, ",\"user_id\":", fan_event_user_id(event));
    add_text(buffer, ",\"session_id\":", fan_event_session_id(event));
    add_text(buffer, ",\"instance_id\":", fan_event_instance_id(event));
    add_time(buffer, ",\"created_at\":", fan_event_created_us(event));
    if (fan_event_deliver_at_us(event) != 0)
        add_time(buffer, ",\"deliver_at\":", fan_event_deliver_at_us(event));
    if (state)
        add_state(buffer, state);
    if (fan_event_traceparent(event)[0] != '\0')
        add_text(buffer, ",\"traceparent\":", fan_event_traceparent(event));
    if (fan_event_content_type(event)[0] != '\0')
        add_text(buffer, ",\"content_type\":", fan_event_content_type(event));
    add_payload(buffer, event, flags);
    struct fan_str metadata = fan_event_metadata(event);
    fan__buffer_add_text(buffer, ",\"metadata\":");
    fan__json_add_raw(buffer, metadata.size > 0 ? metadata : (struct fan_str)FAN_STR("{}"), flags);
    fan__buffer_add(buffer, "}", 1);
}

enum fan_status fan_event_to_json(const struct fan_event *event,
                                  const struct fan_event_state *state, unsigned flags,
                                  struct fan_text *text)
{
    struct fan__buffer buffer;
    fan__text_open(text, &buffer);
    fan__event_to_json(event, state, flags, &buffer);
    return fan__text_close(text, &buffer);
}
