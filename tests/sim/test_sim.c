/*
 * The simulator as a test: as many worlds as there is time for, from a seed that is told, and the
 * proof that a seed is enough to see a world again.
 *
 * FANFARE_SEED is the first seed (1; in a soak the time), FANFARE_SOAK_SECONDS how long a soak
 * runs.
 */
#include "../seed.h"
#include "../test.h"

#include "sim.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SECONDS 60
#define SECONDS_SLOW 10
#define SECONDS_SOAK 3600
/* Outside of a soak: a fast machine runs no worlds that a slow one has not run. */
#define WORLDS_MAX 20000
#define TWICE_COUNT 50
/* After so many worlds everything worth running has happened. */
#define EXPLORED_COUNT 700

#if defined(__SANITIZE_ADDRESS__)
#define SLOW true
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SLOW true
#endif
#endif
#ifndef SLOW
#define SLOW false
#endif

static uint64_t number_of(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text && *text ? strtoull(text, NULL, 10) : otherwise;
}

static void test_L2_L4_L6_L7_L8_L9_L10_P9_H4_every_world_keeps_the_laws(void **state)
{
    (void)state;
    uint64_t seconds = SLOW ? SECONDS_SLOW : SECONDS;
    if (test_is_soak())
        seconds = number_of("FANFARE_SOAK_SECONDS", SECONDS_SOAK);
    struct sim_options options = { .seed = test_seed() };
    uint64_t count = 0;
    uint64_t sums[SIM_COUNT_COUNT] = { 0 };
    /* This one budget is real time: the virtual one does not tell how long a world takes. */
    uint64_t most = test_is_soak() ? UINT64_MAX : WORLDS_MAX;
    for (time_t end = time(NULL) + (time_t)seconds;
         (time(NULL) < end && count < most) || count < EXPLORED_COUNT; count++, options.seed++) {
        struct sim_world *world = sim_world_run(&options);
        assert_non_null(world);
        bool failed = world->failed;
        if (failed)
            sim_world_report(world);
        for (size_t i = 0; i < SIM_COUNT_COUNT; i++)
            sums[i] += world->counts[i];
        sim_world_free(world);
        assert_false(failed);
    }
    /* Laws that hold where nothing happens are no laws. */
    for (unsigned i = 0; i < SIM_COUNT_COUNT; i++) {
        printf("# %9" PRIu64 "  %s\n", sums[i], sim_count_words((enum sim_count)i));
        assert_true(sums[i] > 0);
    }
    printf("# %" PRIu64 " worlds, up to seed %" PRIu64 "\n", count, options.seed - 1);
    assert_true(count > 0);
}

static uint64_t hash_of(uint64_t seed)
{
    const struct sim_options options = { .seed = seed };
    struct sim_world *world = sim_world_run(&options);
    assert_non_null(world);
    uint64_t hash = world->hash;
    sim_world_free(world);
    return hash;
}

static void test_L14_a_seed_gives_the_same_world_again(void **state)
{
    (void)state;
    uint64_t hashes[TWICE_COUNT];
    uint64_t seed = test_seed();
    for (size_t i = 0; i < TWICE_COUNT; i++)
        hashes[i] = hash_of(seed + i);
    for (size_t i = 0; i < TWICE_COUNT; i++) {
        assert_int_equal(hash_of(seed + i), hashes[i]);
        assert_int_not_equal(hashes[i], hashes[(i + 1) % TWICE_COUNT]);
    }
}

/* As long as chance makes the same worlds of them. */
static void test_H01_H05_H08_P09_worlds_that_broke_them_once_keep_them(void **state)
{
    (void)state;
    static const uint64_t seeds[] = { 1795324991002943, 1795324991017465, 1795330179045221,
                                      1795334653130655, 1795324990967714 };
    for (size_t i = 0; i < sizeof(seeds) / sizeof(seeds[0]); i++) {
        const struct sim_options options = { .seed = seeds[i] };
        struct sim_world *world = sim_world_run(&options);
        assert_non_null(world);
        bool failed = world->failed;
        if (failed)
            sim_world_report(world);
        sim_world_free(world);
        assert_false(failed);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_L14_a_seed_gives_the_same_world_again),
        cmocka_unit_test(test_H01_H05_H08_P09_worlds_that_broke_them_once_keep_them),
        cmocka_unit_test(test_L2_L4_L6_L7_L8_L9_L10_P9_H4_every_world_keeps_the_laws),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
