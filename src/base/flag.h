/*
 * One switch that any thread may set and any thread reads. Who sees it set sees all before the set.
 */
#ifndef FAN_BASE_FLAG_H
#define FAN_BASE_FLAG_H

#include <stdatomic.h>
#include <stdbool.h>

struct fan__flag {
    atomic_bool set;
};

static inline void fan__flag_init(struct fan__flag *flag)
{
    atomic_init(&flag->set, false);
}

static inline void fan__flag_set(struct fan__flag *flag)
{
    /* release: pairs with the acquire below. */
    atomic_store_explicit(&flag->set, true, memory_order_release);
}

static inline bool fan__flag_get(const struct fan__flag *flag)
{
    /* acquire: pairs with the release above. */
    return atomic_load_explicit(&flag->set, memory_order_acquire);
}

#endif
