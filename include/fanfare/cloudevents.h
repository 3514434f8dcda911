/*
 * CloudEvents 1.0, both ways and without loss: as structured JSON, as a JSON array of them, and in
 * binary mode (attributes as names and values, the data beside them).
 *
 * A CloudEvent becomes an event whose id is a UUIDv8 of its source and id, so that the same one
 * twice is one event. type stays type and must be a legal one; subject becomes the topic, time the
 * created time, the data the payload. Its attributes are kept as they were in metadata, under one
 * key:
 *
 *     {"cloudevents": {"data": "json" | "text" | "base64" | "none", "attributes": {...}}}
 *
 * and come back from there. An event that was born here becomes a CloudEvent with its own id and
 * type, source `urn:fanfare:INSTANCE`, topic as subject, and what else it holds as extension
 * attributes: fansource fanschema fanentity fanoperation fanuserid fansessionid fandeliverat
 * fanmetadata fancontenttype traceparent, and sequence. From these it comes back the same but for
 * its sequence.
 *
 * Limits: those of events; attribute names are 1 to 63 lower-case letters and digits, and subject
 * 255 bytes.
 */
#ifndef FANFARE_CLOUDEVENTS_H
#define FANFARE_CLOUDEVENTS_H

#include <fanfare/event.h>
#include <fanfare/json.h>

#ifdef __cplusplus
extern "C" {
#endif

struct fan_batch;

/* One context attribute in binary mode; name without prefix: `id`, `datacontenttype`. */
struct fan_attribute {
    const char *name;
    const char *value;
};

/* A CloudEvent in binary mode. has_data tells empty data from none. */
struct fan_cloudevent {
    size_t size;
    const struct fan_attribute *attributes;
    size_t attribute_count;
    bool has_data;
    struct fan_str data;
};

#define FAN_CLOUDEVENT_SIZE sizeof(struct fan_cloudevent)

/*
 * Makes an event of a CloudEvent in structured JSON. `defaults` may be NULL.
 *
 * Returns: FAN_INVALID with the attribute and the reason; FAN_NO_MEMORY.
 * Memory:  *ret_event is yours, for fan_event_free with the environment of the defaults.
 * Thread:  any. Blocks: never.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_event_from_cloudevent_json(
    struct fan_str text, const struct fan_event_defaults *defaults, struct fan_event **ret_event,
    struct fan_error *ret_error);

/*
 * Adds a CloudEvent, or all of a JSON array of them, to a batch.
 *
 * Returns: FAN_INVALID with the attribute, behind its index in an array (`[3].id`); FAN_NO_MEMORY.
 *          The batch is then as it was.
 * Memory:  the text is copied.
 * Thread:  the batch's owner. Blocks: never.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_events_from_cloudevent_json(
    struct fan_str text, const struct fan_event_defaults *defaults, struct fan_batch *batch,
    struct fan_error *ret_error);

/*
 * Makes an event of a CloudEvent in binary mode. Data with a JSON datacontenttype must be JSON.
 *
 * Returns: FAN_INVALID with the attribute and the reason; FAN_NO_MEMORY.
 * Memory:  the parts are copied; *ret_event as above.
 * Thread:  any. Blocks: never.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_event_from_cloudevent(
    const struct fan_cloudevent *cloudevent, const struct fan_event_defaults *defaults,
    struct fan_event **ret_event, struct fan_error *ret_error);

/*
 * Writes an event as a CloudEvent in structured JSON, in place of what `text` held. Flags are those
 * of fan_json_flags.
 *
 * Returns: FAN_NO_MEMORY; the text is then empty.
 * Memory:  the event is borrowed for the call.
 * Thread:  the text's owner. Blocks: never.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_event_to_cloudevent_json(const struct fan_event *event,
                                                                    unsigned flags,
                                                                    struct fan_text *text);

/*
 * Shows an event as a CloudEvent in binary mode. `env` may be NULL. Numbers and booleans among the
 * attributes are text here, as the protocol bindings want them.
 *
 * Returns: FAN_NO_MEMORY.
 * Memory:  *ret_cloudevent is yours, for fan_cloudevent_free; its data lie in the event.
 * Thread:  any. Blocks: never.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_event_to_cloudevent(
    const struct fan_event *event, const struct fan_env *env,
    struct fan_cloudevent **ret_cloudevent);

/* Frees what fan_event_to_cloudevent made. Accepts NULL. Thread: any. Blocks: never. */
FAN_API void fan_cloudevent_free(struct fan_cloudevent *cloudevent, const struct fan_env *env);

#ifdef __cplusplus
}
#endif

#endif
