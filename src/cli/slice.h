/*
 * Finds where the values of a JSON text lie, so that they can be passed on as the bytes they are.
 * Only for text that was parsed before: it trusts the grammar and checks nothing.
 */
#ifndef FAN_CLI_SLICE_H
#define FAN_CLI_SLICE_H

#include <fanfare/event.h>

#include <stdbool.h>

/* A walk through the members of one object, or the elements of one array. */
struct fan__slice {
    const char *at;
    const char *end;
};

/* `text` is an object or an array, white space aside. */
struct fan__slice fan__slice_open(struct fan_str text);

/*
 * The next value, and for an object its key as it is written, without quotes. False at the end.
 */
bool fan__slice_next(struct fan__slice *slice, struct fan_str *ret_key, struct fan_str *ret_value);

/* The value of an object's member whose key is written plainly. False when there is none. */
bool fan__slice_find(struct fan_str object, const char *key, struct fan_str *ret_value);

#endif
