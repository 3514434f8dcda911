/*
 * What the reader and the writer of CloudEvents share: the known attributes, the rules for all, and
 * the id.
 */
#ifndef FAN_EVENT_CLOUDEVENTS_H
#define FAN_EVENT_CLOUDEVENTS_H

#include <fanfare/cloudevents.h>

#include "base/buffer.h"
#include "event/uuid.h"

#include <jansson.h>

#define FAN__CE_URN "urn:fanfare:"

/* Attributes with a meaning here; those from FAN__CE_OWN on are ours. */
enum fan__ce_name {
    FAN__CE_SPECVERSION,
    FAN__CE_ID,
    FAN__CE_SOURCE,
    FAN__CE_TYPE,
    FAN__CE_TIME,
    FAN__CE_SUBJECT,
    FAN__CE_DATACONTENTTYPE,
    FAN__CE_DATASCHEMA,
    FAN__CE_TRACEPARENT,
    FAN__CE_SEQUENCE,
    FAN__CE_FANSOURCE,
    FAN__CE_FANSCHEMA,
    FAN__CE_FANENTITY,
    FAN__CE_FANOPERATION,
    FAN__CE_FANUSERID,
    FAN__CE_FANSESSIONID,
    FAN__CE_FANDELIVERAT,
    FAN__CE_FANMETADATA,
    FAN__CE_FANCONTENTTYPE,
    FAN__CE_NAME_COUNT,
};

/* The name of a known attribute. */
const char *fan__ce_name_text(enum fan__ce_name name);

/* How the data stood in the CloudEvent. */
enum fan__ce_data {
    FAN__CE_DATA_NONE,
    FAN__CE_DATA_JSON,
    FAN__CE_DATA_TEXT,
    FAN__CE_DATA_BASE64,
    FAN__CE_DATA_COUNT,
};

const char *fan__ce_data_text(enum fan__ce_data data);

/*
 * The attributes of one CloudEvent: known ones by name (NULL: absent), and all of them as the
 * members of a JSON object, for those who want them (json.env set by fan__buffer_init). `foreign`
 * tells that one is not of those that an event of ours has.
 */
struct fan__ce_attributes {
    const char *known[FAN__CE_NAME_COUNT];
    bool foreign;
    struct fan__buffer json;
};

/* Takes one attribute: `text` for a string, else NULL; `raw` is its value as JSON. */
FAN_MUST_CHECK enum fan_status fan__ce_take(struct fan__ce_attributes *attributes, const char *name,
                                            const char *text, struct fan_str raw,
                                            struct fan_error *ret_error);

/* The same for a member of a JSON object; null is absent. */
FAN_MUST_CHECK enum fan_status fan__ce_take_json(struct fan__ce_attributes *attributes,
                                                 const char *name, const json_t *value,
                                                 struct fan_str raw, struct fan_error *ret_error);

/* Demands what every CloudEvent must have. */
FAN_MUST_CHECK enum fan_status fan__ce_check(const struct fan__ce_attributes *attributes,
                                             struct fan_error *ret_error);

/* Appends an event as fan_event_to_cloudevent_json writes it. Returns: FAN_NO_MEMORY. */
FAN_MUST_CHECK enum fan_status fan__event_to_cloudevent_json(const struct fan_event *event,
                                                             unsigned flags,
                                                             struct fan__buffer *buffer);

/* The id that an event has here; FAN_NO_MEMORY when the digest has none. */
FAN_MUST_CHECK enum fan_status fan__ce_id(const char *source, const char *id,
                                          char ret_text[FAN__UUID_TEXT_SIZE]);

#endif
