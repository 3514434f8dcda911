/* The simulator by hand: runs seeds until one breaks a law, and tells how to see it again. */
#include "sim.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] = "simulate [--seed N] [--seeds COUNT] [--steps M] [--plant NAME] "
                            "[--verbose] [--hash] [--counts]\n";

static bool read_number(const char *text, uint64_t *ret_number)
{
    char *end = NULL;
    *ret_number = text ? strtoull(text, &end, 10) : 0;
    return end && end != text && !*end;
}

static bool read_plant(const char *text, enum sim_plant *ret_plant)
{
    for (unsigned i = 0; text && i < PLANT_COUNT; i++)
        if (strcmp(text, sim_plant_name((enum sim_plant)i)) == 0) {
            *ret_plant = (enum sim_plant)i;
            return true;
        }
    return false;
}

/* An assertion of the library's own is a broken law, too. */
/* NOLINTBEGIN(bugprone-signal-handler,cert-sig30-c): abort calls it, on the one thread there is */
static void aborted(int number)
{
    struct sim_world *world = sim_world_here();
    signal(number, SIG_DFL);
    if (!world)
        return;
    sim_broken(world, "assert", "the library found itself wrong");
    sim_world_report(world);
}
/* NOLINTEND(bugprone-signal-handler,cert-sig30-c) */

int main(int count, char **arguments)
{
    struct sim_options options = { .seed = 1 };
    uint64_t seeds = 1;
    bool hash = false;
    bool counts = false;
    uint64_t sums[SIM_COUNT_COUNT] = { 0 };
    for (int i = 1; i < count; i++) {
        const char *name = arguments[i];
        const char *value = i + 1 < count ? arguments[i + 1] : NULL;
        bool good = true;
        if (strcmp(name, "--verbose") == 0)
            options.verbose = true;
        else if (strcmp(name, "--hash") == 0)
            hash = true;
        else if (strcmp(name, "--counts") == 0)
            counts = true;
        else if (strcmp(name, "--seed") == 0)
            good = read_number(value, &options.seed) && ++i;
        else if (strcmp(name, "--seeds") == 0)
            good = read_number(value, &seeds) && ++i;
        else if (strcmp(name, "--steps") == 0)
            good = read_number(value, &options.steps) && ++i;
        else if (strcmp(name, "--plant") == 0)
            good = read_plant(value, &options.plant) && ++i;
        else
            good = false;
        if (!good) {
            fputs(usage, stderr);
            return 2;
        }
    }
    signal(SIGABRT, aborted);
    for (uint64_t i = 0; i < seeds; i++, options.seed++) {
        struct sim_world *world = sim_world_run(&options);
        if (!world)
            return 1;
        bool failed = world->failed;
        if (failed)
            sim_world_report(world);
        if (hash)
            printf("%" PRIu64 " %016" PRIx64 "\n", options.seed, world->hash);
        for (size_t k = 0; k < SIM_COUNT_COUNT; k++)
            sums[k] += world->counts[k];
        sim_world_free(world);
        if (failed)
            return 1;
    }
    for (unsigned k = 0; counts && k < SIM_COUNT_COUNT; k++)
        printf("%9" PRIu64 "  %s\n", sums[k], sim_count_words((enum sim_count)k));
    printf("%" PRIu64 " worlds, no law broken\n", seeds);
    return 0;
}
