/* Deliveries as JSON: how an event fared with a group's handler. */
#ifndef FAN_SERVER_DELIVERY_H
#define FAN_SERVER_DELIVERY_H

#include "base/buffer.h"

#include <fanfare/group.h>

/* Adds one as an object. */
void fan__delivery_to_json(const struct fan_delivery *delivery, struct fan__buffer *json);

/* Adds `,"NAME":"TEXT"`; and `,"NAME":"TIME"`, or null for 0. */
void fan__member_text(struct fan__buffer *json, const char *name, const char *text);
void fan__member_time(struct fan__buffer *json, const char *name, int64_t time_us);

#endif
