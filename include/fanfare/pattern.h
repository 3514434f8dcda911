/*
 * Type patterns: dotted segments in which `*` stands for one segment, a lone `*` for everything,
 * and a last `>` for one or more segments. `public.*` matches `public.users` and not
 * `public.users.create`; `public.>` matches both.
 *
 * Limits: 255 bytes. A segment is 1 or more characters of UTF-8, but no control character, space,
 * `.`, `*` or `>`; the same holds for the segments of a type.
 */
#ifndef FANFARE_PATTERN_H
#define FANFARE_PATTERN_H

#include <fanfare/status.h>

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Checks a pattern.
 *
 * Returns: FAN_INVALID with the reason when it is empty, too long, or a segment is not a legal one.
 * Thread:  any. Blocks: never.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_pattern_check(const char *pattern,
                                                         struct fan_error *ret_error);

/*
 * Tells whether a checked pattern matches a type.
 *
 * Thread: any. Blocks: never.
 */
FAN_API bool fan_pattern_match(const char *pattern, const char *type);

#ifdef __cplusplus
}
#endif

#endif
