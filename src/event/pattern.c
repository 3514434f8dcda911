/*
 * Patterns are matched as they stand, segment by segment; there is nothing to compile or to free.
 */
#include <fanfare/pattern.h>

#include "base/status.h"
#include "event/text.h"

#include <fanfare/event.h>

#include <string.h>

enum fan_status fan_pattern_check(const char *pattern, struct fan_error *ret_error)
{
    if (!pattern || pattern[0] == '\0')
        return fan__fail(ret_error, FAN_INVALID, "pattern",
                         "is empty; expected segments such as public.*.create, or * for all");
    if (strnlen(pattern, FAN_TEXT_SIZE_MAX + 1) > FAN_TEXT_SIZE_MAX)
        return fan__fail(ret_error, FAN_INVALID, "pattern", "is longer than %d bytes",
                         FAN_TEXT_SIZE_MAX);
    const char *segment = pattern;
    for (unsigned number = 1;; number++) {
        const char *end = strchrnul(segment, '.');
        size_t size = (size_t)(end - segment);
        bool star = size == 1 && segment[0] == '*';
        bool rest = size == 1 && segment[0] == '>';
        if (size == 0)
            return fan__fail(ret_error, FAN_INVALID, "pattern", "has an empty segment (number %u)",
                             number);
        if (rest && *end != '\0')
            return fan__fail(ret_error, FAN_INVALID, "pattern",
                             "has '>' as segment number %u; it may only be the last", number);
        if (!star && !rest && !fan__segment_valid(segment, size))
            return fan__fail(ret_error, FAN_INVALID, "pattern",
                             "has an illegal segment (number %u): expected '*', a last '>', or "
                             "UTF-8 without spaces, control characters, '*' and '>'",
                             number);
        if (*end == '\0')
            return FAN_OK;
        segment = end + 1;
    }
}

bool fan_pattern_match(const char *pattern, const char *type)
{
    if (pattern[0] == '*' && pattern[1] == '\0')
        return true;
    for (;;) {
        if (*type == '\0')
            return false;
        if (pattern[0] == '>' && pattern[1] == '\0')
            return true;
        if (pattern[0] == '*') {
            pattern++;
            while (*type != '\0' && *type != '.')
                type++;
        } else {
            while (*pattern == *type && *pattern != '\0' && *pattern != '.') {
                pattern++;
                type++;
            }
        }
        /* Both must stand at the end of a segment: at the very end, or with more to come. */
        if (*pattern != *type)
            return false;
        if (*pattern == '\0')
            return true;
        pattern++;
        type++;
    }
}
