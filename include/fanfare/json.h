/*
 * Events as JSON text, and back.
 *
 *     {"id": "...", "type": "public.users.create", "payload": {"id": 42}, ...}
 *
 * A publisher may give: id source type topic schema entity operation user_id session_id instance_id
 * created_at payload metadata content_type payload_encoding deliver_at traceparent. Only `type`
 * must be there; null is the same as absent. Any other name is an error that tells it. Read-only
 * are: seq status processed_at completed_at retry_count error.
 *
 * Times are RFC 3339, written as UTC with microseconds. A payload that is JSON passes through byte
 * for byte. With another content type it is written as base64 and read as a string: base64 with
 * "payload_encoding": "base64", plain text without.
 *
 * Limits: those of events (event.h); an escaped NUL and a number that no double comes near are
 * refused.
 */
#ifndef FANFARE_JSON_H
#define FANFARE_JSON_H

#include <fanfare/event.h>
#include <fanfare/state.h>

#ifdef __cplusplus
extern "C" {
#endif

struct fan_batch;

/*
 * A text that writers replace: it ends in NUL (not counted), grows, and keeps its memory from call
 * to call. Starts as FAN_TEXT_INIT, or with an environment in it; ends with fan_text_deinit.
 */
struct fan_text {
    const struct fan_env *env;
    char *data;
    size_t size;
    size_t capacity;
};

#define FAN_TEXT_INIT                                                                              \
    {                                                                                              \
        NULL, NULL, 0, 0                                                                           \
    }

/* Frees a text's memory; it may be used again. Thread: its owner. Blocks: never. */
FAN_API void fan_text_deinit(struct fan_text *text);

/*
 * defaults          what is stamped, the limits, and the environment; NULL as for fan_event_new
 * accept_read_only  takes the fields that only the log may set, and ignores them: for an import of
 *                   what was exported; otherwise they are refused by name
 */
struct fan_json_options {
    size_t size;
    const struct fan_event_defaults *defaults;
    bool accept_read_only;
};

#define FAN_JSON_OPTIONS_INIT                                                                      \
    {                                                                                              \
        sizeof(struct fan_json_options), NULL, false                                               \
    }

/*
 * Makes an event of the JSON text of one. `options` may be NULL.
 *
 * Returns: FAN_INVALID with the field, or line and column where it is not JSON; FAN_NO_MEMORY.
 * Memory:  *ret_event is yours, for fan_event_free with the environment of the defaults.
 * Thread:  any. Blocks: never.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_event_from_json(struct fan_str text,
                                                           const struct fan_json_options *options,
                                                           struct fan_event **ret_event,
                                                           struct fan_error *ret_error);

/*
 * Adds one event, or all of an array of events, to a batch.
 *
 * Returns: FAN_INVALID with the field, behind its index in an array (`[3].type`); FAN_NO_MEMORY.
 *          The batch is then as it was.
 * Memory:  the text is copied.
 * Thread:  the batch's owner. Blocks: never.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_events_from_json(struct fan_str text,
                                                            const struct fan_json_options *options,
                                                            struct fan_batch *batch,
                                                            struct fan_error *ret_error);

/* How to write; combined by |. */
enum fan_json_flags {
    FAN_JSON_ONE_LINE =
        1 << 0, /* line ends within payload and metadata become spaces: for NDJSON */
};

/*
 * Writes an event as one JSON object, in place of what `text` held. `state` may be NULL where it is
 * not known: its fields are then left out, as seq is before the log has given one.
 *
 * Returns: FAN_NO_MEMORY; the text is then empty.
 * Memory:  the event is borrowed for the call.
 * Thread:  the text's owner. Blocks: never.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_event_to_json(const struct fan_event *event,
                                                         const struct fan_event_state *state,
                                                         unsigned flags, struct fan_text *text);

#ifdef __cplusplus
}
#endif

#endif
