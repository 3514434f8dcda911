/*
 * Where chance begins: FANFARE_SEED, else 1, but anywhere in a soak (FANFARE_SOAK=1); and chance.
 */
#ifndef TEST_SEED_H
#define TEST_SEED_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static inline bool test_is_soak(void)
{
    const char *soak = getenv("FANFARE_SOAK");
    return soak && *soak && strcmp(soak, "0") != 0;
}

static inline uint64_t test_seed(void)
{
    const char *seed = getenv("FANFARE_SEED");
    if (seed && *seed)
        return strtoull(seed, NULL, 10);
    return test_is_soak() ? (uint64_t)time(NULL) * 1000000 : 1;
}

/* splitmix64 (Steele, Lea, Flood 2014): the next of a row that begins with any state. */
static inline uint64_t test_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* One of 0 to count - 1. */
static inline size_t test_pick(uint64_t *state, size_t count)
{
    return (size_t)(test_random(state) % count);
}

#endif
