/* From what a client sent to an event: our JSON, or CloudEvents in one of its forms. */
#ifndef FAN_SERVER_CONVERT_H
#define FAN_SERVER_CONVERT_H

#include <fanfare/event.h>

struct fan__http_request;

enum fan__form {
    FAN__FORM_NONE, /* no content type that is taken */
    FAN__FORM_JSON,
    FAN__FORM_LINES,
    FAN__FORM_CLOUD,
    FAN__FORM_CLOUD_BATCH,
    FAN__FORM_CLOUD_BINARY,
};

/* The content types that are taken, for messages. */
#define FAN__FORM_NAMES                                                                            \
    "application/json, application/x-ndjson, application/cloudevents+json, "                       \
    "application/cloudevents-batch+json, or any with the header ce-specversion"

enum fan__form fan__form_of(const struct fan__http_request *request);

/*
 * Makes an event of one text, with the defaults of this door. For FAN__FORM_CLOUD_BINARY the text
 * is the data, and the attributes are the request's header fields.
 *
 * Returns: FAN_INVALID with field and reason; FAN_NO_MEMORY.
 * Memory:  *ret_event is yours, for fan_event_free.
 */
FAN_MUST_CHECK enum fan_status fan__convert(const struct fan__http_request *request,
                                            enum fan__form form, struct fan_str text,
                                            struct fan_event **ret_event,
                                            struct fan_error *ret_error);

#endif
