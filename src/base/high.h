/*
 * The highest number so far, which any thread may raise and any thread reads. Who sees a number
 * sees all that came before its raise.
 */
#ifndef FAN_BASE_HIGH_H
#define FAN_BASE_HIGH_H

#include <stdatomic.h>
#include <stdint.h>

struct fan__high {
    _Atomic uint64_t number;
};

static inline void fan__high_init(struct fan__high *high)
{
    atomic_init(&high->number, 0);
}

/* For one thread at a time. */
static inline void fan__high_raise(struct fan__high *high, uint64_t number)
{
    /* relaxed: nobody else writes. */
    if (number > atomic_load_explicit(&high->number, memory_order_relaxed))
        /* release: pairs with the acquire below. */
        atomic_store_explicit(&high->number, number, memory_order_release);
}

static inline uint64_t fan__high_get(const struct fan__high *high)
{
    /* acquire: pairs with the release above. */
    return atomic_load_explicit(&high->number, memory_order_acquire);
}

#endif
