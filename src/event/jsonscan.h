/*
 * The quick answer to "is this JSON?": one pass over the bytes that says yes or does not know. Who
 * gets no yes asks jansson, which knows for sure and tells where it fails and why.
 *
 * The invariant: what is said to be legal here is legal to fan__json_load with the same depth.
 */
#ifndef FAN_EVENT_JSONSCAN_H
#define FAN_EVENT_JSONSCAN_H

#include <fanfare/event.h>

/* Tells that a text surely is one JSON value, nested at most `depth_max` deep. Never allocates. */
bool fan__json_surely_legal(struct fan_str text, unsigned depth_max);

/* Tells whether a value that is known to be legal is an object, and then whether it has members. */
bool fan__json_scan_is_object(struct fan_str value, bool *ret_empty);

/*
 * The same by pieces, for who reads an object's members in the same pass. `at` and `end` are the
 * text that is left. Each gives NULL when in doubt: out of place, broken, or merely unusual.
 */

/* Gives the place of the first byte from `at` that is no white space; `end` when there is none. */
const char *fan__json_scan_space(const char *at, const char *end);

/* Gives the place behind the value that begins at `at`, white space aside. */
const char *fan__json_scan_value(const char *at, const char *end, unsigned depth_max);

struct fan__json_member {
    struct fan_str name;  /* without quotes; a name with an escape is a doubt */
    struct fan_str value; /* as written, without the white space around it */
};

/*
 * Reads the member behind the `{` or `,` that ends at `at`, with a value of at most `depth_max`,
 * and gives the place of the `,` or `}` behind it. Whether names repeat is the caller's to tell.
 */
const char *fan__json_scan_member(const char *at, const char *end, unsigned depth_max,
                                  struct fan__json_member *ret_member);

#endif
