/* See expired.h. */
#include "store/expired.h"

#include "base/status.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define US_PER_S INT64_C(1000000)
#define US_PER_DAY (86400 * US_PER_S)

/* "3 d 4 h", "2 h 10 min", "90 s". */
static void span(int64_t us, char text[40])
{
    long long s = us / US_PER_S;
    if (s >= 86400)
        snprintf(text, 40, "%lld d %lld h", s / 86400, s % 86400 / 3600);
    else if (s >= 3600)
        snprintf(text, 40, "%lld h %lld min", s / 3600, s % 3600 / 60);
    else
        snprintf(text, 40, "%lld s", s);
}

void fan__expired_words(int64_t owed_us, uint64_t owed_age_ms, char words[FAN__EXPIRED_SIZE])
{
    char owed[40];
    char bound[40];
    span(owed_us, owed);
    span((int64_t)owed_age_ms * 1000, bound);
    snprintf(words, FAN__EXPIRED_SIZE, "owed for %s, and retention keeps what is owed for %s", owed,
             bound);
}

static void moment(int64_t us, char text[40])
{
    time_t seconds = (time_t)(us / US_PER_S);
    struct tm parts;
    if (!gmtime_r(&seconds, &parts) || strftime(text, 40, "%Y-%m-%dT%H:%M:%SZ", &parts) == 0)
        snprintf(text, 40, "%lld s", (long long)seconds);
}

enum fan_status fan__check_jump(int64_t wall_us, int64_t store_us, int64_t jump_us,
                                struct fan_error *error)
{
    if (jump_us <= US_PER_DAY)
        return FAN_OK;
    /*
     * Clocks that agree by now do so since the store's leapt ahead, at the first use after a boot.
     */
    if (llabs(wall_us - store_us) <= US_PER_DAY)
        store_us = wall_us - jump_us;
    char wall[40];
    char known[40];
    moment(wall_us, wall);
    moment(store_us, known);
    return fan__fail(error, FAN_CONFLICT, "clock",
                     "the clock says %s and the log knows of %s: nothing is removed until the "
                     "clock is set right, or accepted (fanfare retain --accept-clock)",
                     wall, known);
}
