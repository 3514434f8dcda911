/* JSON that is kept as the text it came as: checked strictly, then passed on byte for byte. */
#ifndef FAN_EVENT_JSONTEXT_H
#define FAN_EVENT_JSONTEXT_H

#include <fanfare/event.h>

#include <jansson.h>
#include <stdbool.h>

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

/*
 * The same for an object, or an array of them, whose members may each be depth_max deep: an error
 * names the member at fault, where one can be told, else `field`.
 */
FAN_MUST_CHECK enum fan_status fan__json_load_members(struct fan_str text, unsigned depth_max,
                                                      const char *field, json_t **ret_value,
                                                      struct fan_error *ret_error);

/*
 * The same two for who wants no value: what surely is legal (jsonscan.h) is not parsed at all.
 *
 * Returns: as fan__json_load.
 */
FAN_MUST_CHECK enum fan_status fan__json_check(struct fan_str text, unsigned depth_max,
                                               const char *field, struct fan_error *ret_error);
FAN_MUST_CHECK enum fan_status fan__json_check_members(struct fan_str text, unsigned depth_max,
                                                       const char *field,
                                                       struct fan_error *ret_error);

/*
 * A walk through one array or object of a text that was parsed already: it finds where each value
 * lies and trusts the grammar. `start` must begin with it, white space aside.
 */
struct fan__json_walk {
    const char *at;
};

void fan__json_walk_init(struct fan__json_walk *walk, const char *start);

/* The next value and, in an object, its key as written, without quotes. False at the end. */
bool fan__json_walk_next(struct fan__json_walk *walk, struct fan_str *ret_key,
                         struct fan_str *ret_value);

/*
 * Guesses, for an error message, in which member of the object that is opened at `depth` (1 is the
 * outermost) the byte at `position` lies; the text may be broken. Empty when it is in none.
 */
struct fan_str fan__json_member_at(struct fan_str text, size_t position, unsigned depth);

#endif
