/*
 * One number that any thread may set and any thread reads, on which nothing else depends: a
 * setting that changes while it is used.
 */
#ifndef FAN_BASE_NUMBER_H
#define FAN_BASE_NUMBER_H

#include <stdatomic.h>
#include <stdint.h>

struct fan__number {
    _Atomic uint32_t value;
};

static inline void fan__number_init(struct fan__number *number, uint32_t value)
{
    atomic_init(&number->value, value);
}

static inline void fan__number_set(struct fan__number *number, uint32_t value)
{
    /* relaxed: whoever reads it takes it alone, and may as well see it a moment later. */
    atomic_store_explicit(&number->value, value, memory_order_relaxed);
}

static inline uint32_t fan__number_get(const struct fan__number *number)
{
    /* relaxed: as above. */
    return atomic_load_explicit(&number->value, memory_order_relaxed);
}

#endif
