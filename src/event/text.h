/* What text may be: UTF-8, legal type segments, times of RFC 3339. */
#ifndef FAN_EVENT_TEXT_H
#define FAN_EVENT_TEXT_H

#include <fanfare/status.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Strict (RFC 3629): no overlong forms, no surrogates, nothing above U+10FFFF. NUL is a character.
 */
bool fan__utf8_valid(const char *text, size_t size);

/* The size of the valid character at the beginning of `text`, 0 when there is none. */
size_t fan__utf8_size(const char *text, size_t size);

/* A type: 1 to 255 bytes of legal segments (pattern.h). `field` goes into the error. */
FAN_MUST_CHECK enum fan_status fan__type_check(const char *type, const char *field,
                                               struct fan_error *ret_error);

/* One legal segment. */
bool fan__segment_valid(const char *segment, size_t size);

/* From 0001-01-01T00:00:00Z to 9999-12-31T23:59:59.999999Z. */
#define FAN__TIME_US_MIN INT64_C(-62135596800000000)
#define FAN__TIME_US_MAX INT64_C(253402300799999999)

#define FAN__TIME_TEXT_SIZE 28

/* Writes `2024-02-29T12:00:00.000000Z`. The time lies within the bounds above. */
void fan__time_format(int64_t time_us, char text[FAN__TIME_TEXT_SIZE]);

/*
 * Reads an RFC 3339 time with any offset and any number of digits of fraction; those behind the
 * sixth are cut off. A leap second is the first instant after it. False for anything else.
 */
bool fan__time_parse(const char *text, size_t size, int64_t *ret_time_us);

#endif
