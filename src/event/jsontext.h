/* JSON that is kept as the text it came as: checked strictly, then passed on byte for byte. */
#ifndef FAN_EVENT_JSONTEXT_H
#define FAN_EVENT_JSONTEXT_H

#include <fanfare/event.h>

#include <jansson.h>

/*
 * Parses one JSON value that is nested at most `depth_max` deep, strictly: no duplicate keys, no
 * invalid UTF-8, no NUL even when escaped, nothing behind the value. Numbers may be of any size
 * that a double can come near; they are all read as reals.
 *
 * Returns: FAN_INVALID with line and column; FAN_NO_MEMORY.
 * Memory:  *ret_value is yours, for json_decref. Nothing recurses deeper than depth_max.
 */
FAN_MUST_CHECK enum fan_status fan__json_load(struct fan_str text, unsigned depth_max,
                                              const char *field, json_t **ret_value,
                                              struct fan_error *ret_error);

/* Gives the greatest number of arrays and objects that are open at once, or one above the limit. */
unsigned fan__json_depth(struct fan_str text, unsigned depth_max);

#endif
