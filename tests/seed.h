/* Where chance begins: FANFARE_SEED, else 1, but anywhere in a soak (FANFARE_SOAK=1). */
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

#endif
