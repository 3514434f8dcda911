/*
 * An event: something that happened, as one flat and immutable block of bytes.
 *
 *     draft (your struct) --fan_event_new--> event --append--> event with its sequence
 *
 * A block holds a fixed head, then the strings (each ends in NUL), then the payload; it holds no
 * pointer, so it is copied as bytes and is the same in a ring, in a file and on a wire between
 * equal machines. What changes about an event (status, attempts, error) is not in it: that belongs
 * to its deliveries, kept by the store.
 *
 * Limits: id, type, topic and every other string 255 bytes (metadata: the payload's limit), payload
 * 1 MiB and JSON depth 64 unless the defaults say otherwise. All text is UTF-8 without NUL.
 */
#ifndef FANFARE_EVENT_H
#define FANFARE_EVENT_H

#include <fanfare/status.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct fan_env;
struct fan_event;

#define FAN_TEXT_SIZE_MAX 255
#define FAN_PAYLOAD_SIZE_MAX ((size_t)1 << 20)
#define FAN_JSON_DEPTH_MAX 64

/* Bytes with a length, borrowed. Need not end in NUL. */
struct fan_str {
    const char *data;
    size_t size;
};

#define FAN_STR(literal)                                                                           \
    {                                                                                              \
        (literal), sizeof(literal) - 1                                                             \
    }

/* Where an event comes from. FAN_SOURCE_UNSET takes the default of the door it came through. */
enum fan_source {
    FAN_SOURCE_UNSET = 0,
    FAN_SOURCE_DATABASE = 1,
    FAN_SOURCE_WEBSOCKET = 2,
    FAN_SOURCE_FRONTEND = 3,
    FAN_SOURCE_SYSTEM = 4,
    FAN_SOURCE_INTERNAL = 5,
};

/*
 * What a publisher fills in; everything but `size` and `type` may stay zero. An empty string is the
 * same as NULL, but for the id, where it is an error.
 *
 * id           1 to 255 bytes; a UUIDv7 is made where there is none
 * type         dotted segments, `schema.entity.operation` by custom; `fanfare.` is reserved
 * topic        what the event is about; also the key of ordering and of expectations; may be empty
 * schema, entity, operation  taken from a type of three segments where not given
 * content_type NULL means JSON: the payload must then be one JSON value (empty becomes `null`)
 * metadata     one JSON object, or empty
 * user_id      0 means none
 * created_us, deliver_at_us  UTC microseconds since 1970; 0 means now, and at once
 * traceparent  W3C Trace Context, or NULL
 */
struct fan_event_draft {
    size_t size;
    const char *type;
    struct fan_str payload;
    const char *topic;
    const char *id;
    enum fan_source source;
    const char *schema;
    const char *entity;
    const char *operation;
    const char *content_type;
    struct fan_str metadata;
    int64_t user_id;
    const char *session_id;
    const char *instance_id;
    int64_t created_us;
    int64_t deliver_at_us;
    const char *traceparent;
};

#define FAN_EVENT_DRAFT_SIZE sizeof(struct fan_event_draft)

/*
 * What is stamped where the draft is silent, and the limits. Zero in a limit means the default; the
 * depth is at most 1,024.
 */
struct fan_event_defaults {
    size_t size;
    const struct fan_env *env;
    enum fan_source source;
    const char *instance_id;
    size_t payload_size_max;
    unsigned json_depth_max;
};

#define FAN_EVENT_DEFAULTS_INIT                                                                    \
    {                                                                                              \
        sizeof(struct fan_event_defaults), NULL, FAN_SOURCE_INTERNAL, NULL, 0, 0                   \
    }

/*
 * Stamps, validates, and makes an event of a draft. `defaults` may be NULL.
 *
 * Returns: FAN_INVALID with the field and the reason; FAN_NO_MEMORY.
 * Memory:  the draft is copied; *ret_event is yours, for fan_event_free with the same environment.
 * Thread:  any. Blocks: never.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_event_new(const struct fan_event_draft *draft,
                                                     const struct fan_event_defaults *defaults,
                                                     struct fan_event **ret_event,
                                                     struct fan_error *ret_error);

/*
 * Checks that bytes are one whole event block, as a file or a peer may have damaged them. What it
 * accepts is safe to use with every function here.
 *
 * Returns: FAN_CORRUPT when they are not.
 * Memory:  *ret_event points into `bytes`, which must be aligned to 8 bytes.
 * Thread:  any. Blocks: never.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_event_parse(const void *bytes, size_t size,
                                                       const struct fan_event **ret_event);

/*
 * Copies an event.
 *
 * Returns: FAN_NO_MEMORY.
 * Memory:  *ret_event is yours, for fan_event_free. env may be NULL.
 * Thread:  any. Blocks: never.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_event_copy(const struct fan_event *event,
                                                      const struct fan_env *env,
                                                      struct fan_event **ret_event);

/* Frees an event that fan_event_new or fan_event_copy made. Accepts NULL. Thread: any. */
FAN_API void fan_event_free(struct fan_event *event, const struct fan_env *env);

/*
 * Shows an event as a draft whose strings point into it, for those who store it field by field.
 * Absent strings are NULL; user_id, created_us and deliver_at_us are as they are in the event.
 *
 * Memory:  borrowed from the event.
 * Thread:  any. Blocks: never.
 */
FAN_API void fan_event_to_draft(const struct fan_event *event, struct fan_event_draft *ret_draft);

/*
 * Accessors. Strings are never NULL (absent is empty), end in NUL, and live as long as the event.
 * The size is that of the whole block; the sequence is 0 until the log has given one.
 * Thread: any. Blocks: never.
 */
FAN_API size_t fan_event_size(const struct fan_event *event);
FAN_API uint64_t fan_event_seq(const struct fan_event *event);
FAN_API const char *fan_event_id(const struct fan_event *event);
FAN_API const char *fan_event_type(const struct fan_event *event);
FAN_API const char *fan_event_topic(const struct fan_event *event);
FAN_API const char *fan_event_schema(const struct fan_event *event);
FAN_API const char *fan_event_entity(const struct fan_event *event);
FAN_API const char *fan_event_operation(const struct fan_event *event);
FAN_API const char *fan_event_session_id(const struct fan_event *event);
FAN_API const char *fan_event_instance_id(const struct fan_event *event);
FAN_API const char *fan_event_content_type(const struct fan_event *event);
FAN_API const char *fan_event_traceparent(const struct fan_event *event);
FAN_API enum fan_source fan_event_source(const struct fan_event *event);
FAN_API int64_t fan_event_user_id(const struct fan_event *event);
FAN_API int64_t fan_event_created_us(const struct fan_event *event);
FAN_API int64_t fan_event_deliver_at_us(const struct fan_event *event);
FAN_API struct fan_str fan_event_payload(const struct fan_event *event);
FAN_API struct fan_str fan_event_metadata(const struct fan_event *event);

/*
 * Tells whether the payload is JSON (no content type given, or a JSON one).
 * Thread: any. Blocks: never.
 */
FAN_API bool fan_event_is_json(const struct fan_event *event);

/*
 * Joins the three parts of a type into `buffer` (at least FAN_TEXT_SIZE_MAX + 1 bytes).
 *
 * Returns: FAN_INVALID when a part is empty, dotted or holds an illegal character, or all are too
 *          long.
 * Thread:  any. Blocks: never.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_event_type_join(const char *schema, const char *entity,
                                                           const char *operation, char *buffer,
                                                           size_t buffer_size);

/* Gives "database" and so on, "" for FAN_SOURCE_UNSET. Memory: static. Thread: any. */
FAN_API const char *fan_source_text(enum fan_source source);

/* Reads a source's name. Returns: FAN_INVALID for any other word. Thread: any. Blocks: never. */
FAN_MUST_CHECK FAN_API enum fan_status fan_source_parse(const char *text,
                                                        enum fan_source *ret_source);

#ifdef __cplusplus
}
#endif

#endif
