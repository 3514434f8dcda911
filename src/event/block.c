/*
 * The flat block of an event:
 *
 *     | head | id\0 | type\0 | ... | traceparent\0 | metadata\0 | 0 to 7 zeros | payload\0 | 0 to 7
 * zeros |
 *
 * The invariant: equal content has equal bytes. Every present string follows the one before it, an
 * absent one (the empty one is absent) points at the head's one NUL, padding is zero, and the size
 * is a multiple of 8. So a parse can demand that each offset is the only possible one.
 *
 * The check is a sum over everything behind it, XORed with a bijection of the sequence, so that a
 * sequence is stamped without reading the block again. Any damage within one 8-byte word is found
 * for sure. It is no defence against an attacker, who can compute it: the parse trusts nothing.
 */
#include "event/event.h"

#include "base/env.h"
#include "base/status.h"
#include "event/text.h"

#include <string.h>
#include <strings.h>

#define EVENT_MAGIC UINT32_C(0x31764e46) /* "FNv1" in little-endian order */

struct fan_event {
    uint32_t magic;
    uint32_t size;
    uint64_t check;
    uint64_t seq;
    int64_t user_id;
    int64_t created_us;
    int64_t deliver_at_us;
    uint32_t at[FAN__EVENT_TEXT_COUNT];
    uint32_t metadata_at;
    uint32_t metadata_size;
    uint32_t payload_at;
    uint32_t payload_size;
    uint8_t source;
    char empty[7];
};

#define SUM_START (offsetof(struct fan_event, seq) + sizeof(uint64_t))
#define EMPTY_AT ((uint32_t)offsetof(struct fan_event, empty))

_Static_assert(sizeof(struct fan_event) == 112 && SUM_START % 8 == 0, "no padding in the head");

static inline uint64_t rotate(uint64_t value, unsigned bits)
{
    return value << bits | value >> (64 - bits);
}

#define ODD_A UINT64_C(0x9e3779b97f4a7c15)
#define ODD_B UINT64_C(0xc2b2ae3d27d4eb4f)

static inline uint64_t word_at(const char *bytes)
{
    uint64_t word;
    memcpy(&word, bytes, sizeof(word));
    return word;
}

static inline uint64_t step(uint64_t lane, const char *bytes)
{
    return rotate(lane ^ word_at(bytes), 29) * ODD_A;
}

/*
 * Four lanes, so that the multiplications overlap; an array of them would lie in memory. Each step
 * is a bijection of the word for a given lane and of the lane for a given word; therefore a single
 * changed word always changes the end.
 */
static uint64_t sum_of(const void *block, size_t size)
{
    const char *at = (const char *)block + SUM_START;
    size_t count = (size - SUM_START) / sizeof(uint64_t);
    uint64_t a = size;
    uint64_t b = ODD_A;
    uint64_t c = ODD_B;
    uint64_t d = ~(uint64_t)size;
    for (; count >= 4; count -= 4, at += 32) {
        a = step(a, at);
        b = step(b, at + 8);
        c = step(c, at + 16);
        d = step(d, at + 24);
    }
    if (count > 0)
        a = step(a, at);
    if (count > 1)
        b = step(b, at + 8);
    if (count > 2)
        c = step(c, at + 16);
    uint64_t sum = rotate(a * ODD_B, 31) ^ b;
    sum = rotate(sum * ODD_B, 31) ^ c;
    return rotate(sum * ODD_B, 31) ^ d;
}

static inline uint64_t seq_mask(uint64_t seq)
{
    return rotate(seq * ODD_B, 23);
}

static inline uint64_t round_up(uint64_t size)
{
    return (size + 7) & ~UINT64_C(7);
}

bool fan__event_layout(const struct fan_event_draft *draft, struct fan__event_layout *ret_layout)
{
    const char *const texts[FAN__EVENT_TEXT_COUNT] = {
        [FAN__EVENT_ID] = draft->id,
        [FAN__EVENT_TYPE] = draft->type,
        [FAN__EVENT_TOPIC] = draft->topic,
        [FAN__EVENT_SCHEMA] = draft->schema,
        [FAN__EVENT_ENTITY] = draft->entity,
        [FAN__EVENT_OPERATION] = draft->operation,
        [FAN__EVENT_SESSION_ID] = draft->session_id,
        [FAN__EVENT_INSTANCE_ID] = draft->instance_id,
        [FAN__EVENT_CONTENT_TYPE] = draft->content_type,
        [FAN__EVENT_TRACEPARENT] = draft->traceparent,
    };
    uint64_t at = sizeof(struct fan_event);
    for (unsigned i = 0; i < FAN__EVENT_TEXT_COUNT; i++) {
        size_t size = texts[i] ? strlen(texts[i]) : 0;
        if (size > FAN__EVENT_SIZE_MAX)
            return false;
        ret_layout->texts[i] = texts[i];
        ret_layout->text_sizes[i] = (uint32_t)size;
        ret_layout->at[i] = size > 0 ? (uint32_t)at : EMPTY_AT;
        if (size > 0)
            at += size + 1;
        if (at > FAN__EVENT_SIZE_MAX)
            return false;
    }
    if (draft->metadata.size > FAN__EVENT_SIZE_MAX || draft->payload.size > FAN__EVENT_SIZE_MAX)
        return false;
    ret_layout->metadata_at = draft->metadata.size > 0 ? (uint32_t)at : EMPTY_AT;
    if (draft->metadata.size > 0)
        at += draft->metadata.size + 1;
    at = round_up(at);
    ret_layout->payload_at = draft->payload.size > 0 ? (uint32_t)at : EMPTY_AT;
    if (draft->payload.size > 0)
        at = round_up(at + draft->payload.size + 1);
    ret_layout->size = (uint32_t)at;
    return at <= FAN__EVENT_SIZE_MAX;
}

void fan__event_write_layout(const struct fan_event_draft *draft,
                             const struct fan__event_layout *layout, uint64_t seq, void *block)
{
    char *bytes = block;
    struct fan_event head = {
        .magic = EVENT_MAGIC,
        .size = layout->size,
        .seq = seq,
        .user_id = draft->user_id,
        .created_us = draft->created_us,
        .deliver_at_us = draft->deliver_at_us,
        .metadata_at = layout->metadata_at,
        .metadata_size = (uint32_t)draft->metadata.size,
        .payload_at = layout->payload_at,
        .payload_size = (uint32_t)draft->payload.size,
        .source = (uint8_t)draft->source,
    };
    memcpy(head.at, layout->at, sizeof(head.at));
    size_t end = sizeof(head);
    for (unsigned i = 0; i < FAN__EVENT_TEXT_COUNT; i++) {
        if (layout->text_sizes[i] == 0)
            continue;
        memcpy(bytes + end, layout->texts[i], (size_t)layout->text_sizes[i] + 1);
        end += (size_t)layout->text_sizes[i] + 1;
    }
    if (draft->metadata.size > 0) {
        memcpy(bytes + end, draft->metadata.data, draft->metadata.size);
        end += draft->metadata.size;
        bytes[end++] = '\0';
    }
    size_t payload_at = round_up(end);
    memset(bytes + end, 0, payload_at - end);
    if (draft->payload.size > 0) {
        memcpy(bytes + payload_at, draft->payload.data, draft->payload.size);
        end = payload_at + draft->payload.size;
        memset(bytes + end, 0, layout->size - end);
    }
    memcpy(bytes, &head, sizeof(head));
    head.check = sum_of(bytes, layout->size) ^ seq_mask(seq);
    memcpy(bytes + offsetof(struct fan_event, check), &head.check, sizeof(head.check));
}

size_t fan__event_draft_size(const struct fan_event_draft *draft)
{
    struct fan__event_layout layout;
    return fan__event_layout(draft, &layout) ? layout.size : 0;
}

size_t fan__event_write(const struct fan_event_draft *draft, uint64_t seq, void *block)
{
    struct fan__event_layout layout;
    if (!fan__event_layout(draft, &layout))
        return 0;
    fan__event_write_layout(draft, &layout, seq, block);
    return layout.size;
}

void fan__event_set_seq(struct fan_event *event, uint64_t seq)
{
    event->check ^= seq_mask(event->seq) ^ seq_mask(seq);
    event->seq = seq;
}

void fan__event_forge_check(struct fan_event *event)
{
    event->check = sum_of(event, event->size) ^ seq_mask(event->seq);
}

/* Demands that a string is absent or lies exactly at *at, and moves *at behind it. */
static bool text_fits(const struct fan_event *event, unsigned text, uint64_t *at)
{
    if (event->at[text] == EMPTY_AT)
        return true;
    if (event->at[text] != *at)
        return false;
    const char *bytes = (const char *)event + *at;
    size_t left = event->size - (size_t)*at;
    size_t size = strnlen(bytes, left < FAN_TEXT_SIZE_MAX + 1 ? left : FAN_TEXT_SIZE_MAX + 1);
    if (size == 0 || size == left || size > FAN_TEXT_SIZE_MAX || !fan__utf8_valid(bytes, size))
        return false;
    *at += size + 1;
    return true;
}

/* The same for bytes with a size, which end in NUL too. */
static bool bytes_fit(const struct fan_event *event, uint32_t bytes_at, uint32_t size, uint64_t *at)
{
    if (size == 0)
        return bytes_at == EMPTY_AT;
    if (bytes_at != *at || *at + size >= event->size || ((const char *)event)[*at + size] != '\0')
        return false;
    *at += (uint64_t)size + 1;
    return true;
}

static bool zeros_up_to(const struct fan_event *event, uint64_t *at)
{
    uint64_t end = round_up(*at);
    if (end > event->size)
        return false;
    for (; *at < end; (*at)++)
        if (((const char *)event)[*at] != '\0')
            return false;
    return true;
}

static bool time_fits(int64_t time_us)
{
    return time_us >= FAN__TIME_US_MIN && time_us <= FAN__TIME_US_MAX;
}

static bool block_fits(const struct fan_event *event)
{
    static const char nothing[sizeof(event->empty)] = { 0 };
    if (memcmp(event->empty, nothing, sizeof(nothing)) != 0 || event->seq > (uint64_t)INT64_MAX ||
        event->source < FAN_SOURCE_DATABASE || event->source > FAN_SOURCE_INTERNAL ||
        !time_fits(event->created_us) || !time_fits(event->deliver_at_us))
        return false;
    uint64_t at = sizeof(*event);
    for (unsigned i = 0; i < FAN__EVENT_TEXT_COUNT; i++)
        if (!text_fits(event, i, &at))
            return false;
    if (event->at[FAN__EVENT_ID] == EMPTY_AT ||
        fan__type_check(fan_event_type(event), "type", NULL) != FAN_OK)
        return false;
    return bytes_fit(event, event->metadata_at, event->metadata_size, &at) &&
           zeros_up_to(event, &at) &&
           bytes_fit(event, event->payload_at, event->payload_size, &at) &&
           zeros_up_to(event, &at) && at == event->size;
}

enum fan_status fan_event_parse(const void *bytes, size_t size, const struct fan_event **ret_event)
{
    if ((uintptr_t)bytes % 8 != 0 || size < sizeof(struct fan_event) || size % 8 != 0 ||
        size > FAN__EVENT_SIZE_MAX)
        return FAN_CORRUPT;
    const struct fan_event *event = bytes;
    if (event->magic != EVENT_MAGIC || event->size != size ||
        event->check != (sum_of(bytes, size) ^ seq_mask(event->seq)) || !block_fits(event))
        return FAN_CORRUPT;
    *ret_event = event;
    return FAN_OK;
}

enum fan_status fan_event_copy(const struct fan_event *event, const struct fan_env *env,
                               struct fan_event **ret_event)
{
    struct fan_event *copy = fan__alloc(env, event->size);
    if (!copy)
        return FAN_NO_MEMORY;
    memcpy(copy, event, event->size);
    *ret_event = copy;
    return FAN_OK;
}

void fan_event_free(struct fan_event *event, const struct fan_env *env)
{
    fan__free(env, event);
}

static inline const char *text_of(const struct fan_event *event, enum fan__event_text text)
{
    return (const char *)event + event->at[text];
}

static inline const char *text_or_null(const struct fan_event *event, enum fan__event_text text)
{
    return event->at[text] == EMPTY_AT ? NULL : text_of(event, text);
}

void fan_event_to_draft(const struct fan_event *event, struct fan_event_draft *ret_draft)
{
    *ret_draft = (struct fan_event_draft){
        .size = FAN_EVENT_DRAFT_SIZE,
        .type = text_or_null(event, FAN__EVENT_TYPE),
        .payload = fan_event_payload(event),
        .topic = text_or_null(event, FAN__EVENT_TOPIC),
        .id = text_or_null(event, FAN__EVENT_ID),
        .source = (enum fan_source)event->source,
        .schema = text_or_null(event, FAN__EVENT_SCHEMA),
        .entity = text_or_null(event, FAN__EVENT_ENTITY),
        .operation = text_or_null(event, FAN__EVENT_OPERATION),
        .content_type = text_or_null(event, FAN__EVENT_CONTENT_TYPE),
        .metadata = fan_event_metadata(event),
        .user_id = event->user_id,
        .session_id = text_or_null(event, FAN__EVENT_SESSION_ID),
        .instance_id = text_or_null(event, FAN__EVENT_INSTANCE_ID),
        .created_us = event->created_us,
        .deliver_at_us = event->deliver_at_us,
        .traceparent = text_or_null(event, FAN__EVENT_TRACEPARENT),
    };
}

size_t fan_event_size(const struct fan_event *event)
{
    return event->size;
}

uint64_t fan_event_seq(const struct fan_event *event)
{
    return event->seq;
}

#define TEXT_ACCESSOR(name, text)                                                                  \
    const char *fan_event_##name(const struct fan_event *event)                                    \
    {                                                                                              \
        return text_of(event, FAN__EVENT_##text);                                                  \
    }

TEXT_ACCESSOR(id, ID)
TEXT_ACCESSOR(type, TYPE)
TEXT_ACCESSOR(topic, TOPIC)
TEXT_ACCESSOR(schema, SCHEMA)
TEXT_ACCESSOR(entity, ENTITY)
TEXT_ACCESSOR(operation, OPERATION)
TEXT_ACCESSOR(session_id, SESSION_ID)
TEXT_ACCESSOR(instance_id, INSTANCE_ID)
TEXT_ACCESSOR(content_type, CONTENT_TYPE)
TEXT_ACCESSOR(traceparent, TRACEPARENT)

enum fan_source fan_event_source(const struct fan_event *event)
{
    return (enum fan_source)event->source;
}

int64_t fan_event_user_id(const struct fan_event *event)
{
    return event->user_id;
}

int64_t fan_event_created_us(const struct fan_event *event)
{
    return event->created_us;
}

int64_t fan_event_deliver_at_us(const struct fan_event *event)
{
    return event->deliver_at_us;
}

struct fan_str fan_event_payload(const struct fan_event *event)
{
    return (struct fan_str){ (const char *)event + event->payload_at, event->payload_size };
}

struct fan_str fan_event_metadata(const struct fan_event *event)
{
    return (struct fan_str){ (const char *)event + event->metadata_at, event->metadata_size };
}

bool fan_event_is_json(const struct fan_event *event)
{
    return fan__content_type_is_json(fan_event_content_type(event));
}

bool fan__content_type_is_json(const char *content_type)
{
    if (!content_type || content_type[0] == '\0')
        return true;
    size_t size = strcspn(content_type, "; \t");
    if (size == strlen("text/json") && strncasecmp(content_type, "text/json", size) == 0)
        return true;
    if (size == strlen("application/json") &&
        strncasecmp(content_type, "application/json", size) == 0)
        return true;
    const char suffix[] = "+json";
    size_t suffix_size = sizeof(suffix) - 1;
    return size > suffix_size &&
           strncasecmp(content_type + size - suffix_size, suffix, suffix_size) == 0;
}

static const char *const source_texts[] = {
    [FAN_SOURCE_UNSET] = "",
    [FAN_SOURCE_DATABASE] = "database",
    [FAN_SOURCE_WEBSOCKET] = "websocket",
    [FAN_SOURCE_FRONTEND] = "frontend",
    [FAN_SOURCE_SYSTEM] = "system",
    [FAN_SOURCE_INTERNAL] = "internal",
};

#define SOURCE_COUNT (sizeof(source_texts) / sizeof(source_texts[0]))

const char *fan_source_text(enum fan_source source)
{
    return (size_t)source < SOURCE_COUNT ? source_texts[source] : "";
}

enum fan_status fan_source_parse(const char *text, enum fan_source *ret_source)
{
    for (unsigned i = FAN_SOURCE_DATABASE; i < SOURCE_COUNT; i++) {
        if (strcmp(text, source_texts[i]) == 0) {
            *ret_source = (enum fan_source)i;
            return FAN_OK;
        }
    }
    return FAN_INVALID;
}

enum fan_status fan_event_type_join(const char *schema, const char *entity, const char *operation,
                                    char *buffer, size_t buffer_size)
{
    const char *const parts[] = { schema, entity, operation };
    char joined[FAN_TEXT_SIZE_MAX + 1];
    size_t size = 0;
    for (unsigned i = 0; i < 3; i++) {
        const char *part = parts[i] ? parts[i] : "";
        size_t part_size = strnlen(part, sizeof(joined));
        /* One more for the dot or the NUL behind it. */
        if (part_size + 1 > sizeof(joined) - size || !fan__segment_valid(part, part_size))
            return FAN_INVALID;
        memcpy(joined + size, part, part_size);
        size += part_size;
        joined[size++] = i < 2 ? '.' : '\0';
    }
    if (size > buffer_size)
        return FAN_INVALID;
    memcpy(buffer, joined, size);
    return FAN_OK;
}
