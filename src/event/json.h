/* JSON of events for those who frame it themselves: servers, exports, CloudEvents. */
#ifndef FAN_EVENT_JSON_H
#define FAN_EVENT_JSON_H

#include <fanfare/json.h>

#include "base/buffer.h"

/* Appends an event as fan_event_to_json writes it. Look at buffer->failed in the end. */
void fan__event_to_json(const struct fan_event *event, const struct fan_event_state *state,
                        unsigned flags, struct fan__buffer *buffer);

/* Appends a JSON string with its quotes; what is no UTF-8 becomes U+FFFD. */
void fan__json_add_string(struct fan__buffer *buffer, struct fan_str text);

/* Appends JSON as it is, with spaces for line ends where flags has FAN_JSON_ONE_LINE. */
void fan__json_add_raw(struct fan__buffer *buffer, struct fan_str json, unsigned flags);

/* Appends bytes as a JSON string of base64. */
void fan__json_add_base64(struct fan__buffer *buffer, struct fan_str bytes);

/* A public text seen as a buffer, empty; and back, with a NUL behind it. */
void fan__text_open(struct fan_text *text, struct fan__buffer *ret_buffer);
FAN_MUST_CHECK enum fan_status fan__text_close(struct fan_text *text, struct fan__buffer *buffer);

#endif
