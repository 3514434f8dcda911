/*
 * A histogram with fixed bounds: how many values were at most each of them, beyond the one before,
 * and their sum. The caller keeps the lock.
 */
#ifndef FAN_BROKER_HISTOGRAM_H
#define FAN_BROKER_HISTOGRAM_H

#include <stddef.h>
#include <stdint.h>

#define FAN__HISTOGRAM_BOUNDS_MAX 24

/* Rising bounds, in nanoseconds (told in seconds) or as numbers. */
struct fan__histogram_scale {
    size_t count;
    uint64_t bounds[FAN__HISTOGRAM_BOUNDS_MAX];
};

/* 10 us to 60 s, two or three a decade; 1 to 1,000 events in steps of 1, 2 and 5. */
extern const struct fan__histogram_scale fan__histogram_times;
extern const struct fan__histogram_scale fan__histogram_sizes;

/* counts[scale->count] is what lies beyond the last bound. */
struct fan__histogram {
    uint64_t counts[FAN__HISTOGRAM_BOUNDS_MAX + 1];
    uint64_t sum;
};

void fan__histogram_add(struct fan__histogram *histogram, const struct fan__histogram_scale *scale,
                        uint64_t value);

#endif
