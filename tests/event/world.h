/* Environments for the tests of events: memory that runs out on demand, a clock set by hand. */
#ifndef WORLD_H
#define WORLD_H

#include <fanfare/env.h>

#include <stdlib.h>

/* allocations_left: how many succeed, negative for all; held: blocks that were not freed. */
struct world {
    struct fan_env env;
    long allocations_left;
    long held;
    int64_t now_us;
};

static void *world_resize(void *context, void *pointer, size_t size)
{
    struct world *world = context;
    if (world->allocations_left == 0)
        return NULL;
    if (world->allocations_left > 0)
        world->allocations_left--;
    void *block = realloc(pointer, size);
    if (block && !pointer)
        world->held++;
    return block;
}

static void world_release(void *context, void *pointer)
{
    struct world *world = context;
    if (pointer)
        world->held--;
    free(pointer);
}

static int64_t world_wall_us(void *context)
{
    return ((struct world *)context)->now_us;
}

static inline void world_init(struct world *world)
{
    *world = (struct world){ .env = *fan_env_default(),
                             .allocations_left = -1,
                             .now_us = INT64_C(1700000000123456) };
    world->env.context = world;
    world->env.resize = world_resize;
    world->env.release = world_release;
    world->env.wall_us = world_wall_us;
}

#endif
