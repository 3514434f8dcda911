/* One world from its seed to its end, and what is told of it. */
#include "sim.h"

#include "../folder.h"
#include "../seed.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HASH_START UINT64_C(0xcbf29ce484222325)
#define HASH_PRIME UINT64_C(0x100000001b3)
#define SQLITE_ONE_IN 24
/* The environment's clock is not the system's: who takes one for the other is wrong at once. */
#define ENV_AHEAD_NS (INT64_C(7654321000) * NS_PER_MS)

const char *const sim_types[TYPE_COUNT] = { "a.b.create", "a.b.update", "c.d.create",
                                            "c.d.delete" };
const char *const sim_topics[TOPIC_COUNT] = { "", "k1", "k2", "k3", "k4" };

static const char *const plants[PLANT_COUNT] = {
    "none",      "late-commit", "no-fence",         "duplicate-after-unknown",
    "torn-unit", "early-lease", "greedy-retention",
};

static struct sim_world *here;

struct sim_world *sim_world_here(void)
{
    return here;
}

const char *sim_count_words(enum sim_count what)
{
    static const char *const words[] = {
#define SIM_COUNT(name, text) [SIM_##name] = #name ": " text,
        SIM_COUNTS(SIM_COUNT)
#undef SIM_COUNT
    };
    return words[what];
}

const char *sim_plant_name(enum sim_plant plant)
{
    return plants[plant];
}

uint64_t sim_random(struct sim_world *world, uint64_t limit)
{
    return limit > 0 ? test_pick(&world->random, limit) : 0;
}

bool sim_chance(struct sim_world *world, unsigned permille)
{
    return permille > 0 && sim_random(world, 1000) < permille;
}

static void keep_line(struct sim_world *world, const char *line)
{
    char *kept = world->trace[world->trace_count++ % TRACE_LINES];
    snprintf(kept, TRACE_LINE_SIZE, "%6" PRIu64 " %9" PRId64 " ms  %.120s", world->step,
             sim_now_ns() / NS_PER_MS, line);
    for (const char *c = kept; *c; c++)
        world->hash = (world->hash ^ (unsigned char)*c) * HASH_PRIME;
    if (world->verbose)
        printf("%s\n", kept);
}

void sim_trace(struct sim_world *world, const char *format, ...)
{
    char line[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof(line), format, arguments);
    va_end(arguments);
    keep_line(world, line);
}

void sim_broken(struct sim_world *world, const char *law, const char *format, ...)
{
    char text[200];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    if (world->failed)
        return;
    world->failed = true;
    snprintf(world->failure, sizeof(world->failure), "%s: %s", law, text);
    keep_line(world, world->failure);
}

void sim_world_report(const struct sim_world *world)
{
    uint64_t first = world->trace_count > TRACE_LINES ? world->trace_count - TRACE_LINES : 0;
    for (uint64_t i = first; i < world->trace_count && !world->verbose; i++)
        printf("# %s\n", world->trace[i % TRACE_LINES]);
    printf("# seed %" PRIu64 " breaks %s\n# again: simulate --seed %" PRIu64
           " --plant %s --verbose\n",
           world->seed, world->failure, world->seed, plants[world->plant]);
    fflush(stdout);
}

static int64_t env_wall_us(void *context)
{
    (void)context;
    return sim_wall_us();
}

static int64_t env_monotonic_ns(void *context)
{
    (void)context;
    return sim_now_ns() + ENV_AHEAD_NS;
}

static void env_random(void *context, void *bytes, size_t size)
{
    struct sim_world *world = context;
    unsigned char *at = bytes;
    for (size_t i = 0; i < size; i++)
        at[i] = (unsigned char)test_random(&world->random);
}

static void env_log(void *context, enum fan_log_level level, const char *message)
{
    const struct sim_world *world = context;
    if (world->verbose)
        printf("                      (%d) %s\n", (int)level, message);
}

static void make_groups(struct sim_world *world)
{
    static const char *const patterns[] = { NULL, "a.>", "*.*.create", "c.d.*" };
    static const enum fan_start starts[] = { FAN_START_BEGINNING, FAN_START_NOW };
    world->group_count = (unsigned)sim_random(world, world->tight ? 2 : GROUP_COUNT_MAX + 1);
    for (unsigned i = 0; i < world->group_count; i++) {
        struct sim_group *group = &world->groups[i];
        *group = (struct sim_group){
            .handler = i % 2 ? "b" : "",
            .pattern = patterns[sim_random(world, 4)],
            .topic = sim_chance(world, 150) ? "k1" : NULL,
            .ordered = sim_chance(world, 400),
            .timeout_ms = sim_chance(world, 300) ? 2000 : 0,
            .start = starts[sim_random(world, 2)],
            .retry = { .retries = 1 + (unsigned)sim_random(world, 4),
                       .delay_ms = 50 + (uint32_t)sim_random(world, 1000),
                       .delay_ms_max = 5000,
                       .factor = 2.0,
                       .jitter_percent = sim_chance(world, 300) ? 20 : 0 },
        };
        if (sim_chance(world, 200))
            group->retry = (struct fan_retry_policy){
                .none = true, .delay_ms = 100, .delay_ms_max = 100, .factor = 1.0
            };
        group->concurrency = sim_chance(world, 200) ? 2 : 0;
        snprintf(group->name, sizeof(group->name), "g%u", i / 2);
    }
}

/* Bounds of retention, in most worlds; where little is kept, what nobody read yet goes. */
static void make_retention(struct sim_world *world)
{
    if (world->tight) {
        world->retention = (struct fan_retention){ .size = FAN_RETENTION_SIZE,
                                                   .count = 1 + sim_random(world, 3),
                                                   .limit = 40 };
        return;
    }
    if (sim_chance(world, 333))
        return;
    world->retention = (struct fan_retention){
        .size = FAN_RETENTION_SIZE,
        .age_ms = sim_chance(world, 500) ? 1000 + sim_random(world, 30000) : 0,
        .count =
            sim_chance(world, 700) ? 1 + sim_random(world, sim_chance(world, 500) ? 4 : 60) : 0,
        .owed_age_ms = sim_chance(world, 300) ? 5000 + sim_random(world, 60000) : 0,
        .dead_age_ms = sim_chance(world, 300) ? 5000 + sim_random(world, 30000) : 0,
        .group_age_ms = sim_chance(world, 250) ? FAN_GROUP_AGE_MS_MIN : 0,
        .limit = 1 + (size_t)sim_random(world, 40),
    };
}

static bool open_log(struct sim_world *world)
{
    strcpy(world->uri, "memory:");
    world->sqlite = sim_chance(world, 1000 / SQLITE_ONE_IN);
    if (world->sqlite) {
        world->weights[ACT_RESTORE] = 10;
        if (!test_folder_make(world->folder))
            return false;
        snprintf(world->uri, sizeof(world->uri), "sqlite:%s/events.db?synchronous=normal",
                 world->folder);
    } else if (sim_chance(world, 100)) {
        world->capacity = 10 + sim_random(world, 100);
        snprintf(world->uri, sizeof(world->uri), "memory:?capacity=%" PRIu64, world->capacity);
    }
    world->model.clock_offset_us = sim_wall_us() - sim_now_ns() / NS_PER_US;
    uint64_t fence = 0;
    /* A log in SQLite keeps the clock of its first commit, which is this one. */
    return fan_store_open(world->uri, &world->env, &world->store, NULL) == FAN_OK &&
           fan_lease_acquire(world->store, "first", "world", 1, &fence) == FAN_OK &&
           fan_batch_new(&world->env, &world->page) == FAN_OK;
}

static struct sim_world *make(const struct sim_options *options)
{
    struct sim_world *world = calloc(1, sizeof(*world));
    if (!world)
        return NULL;
    here = world;
    sim_clock_reset();
    world->seed = world->random = options->seed;
    world->hash = HASH_START;
    world->plant = options->plant;
    world->verbose = options->verbose;
    world->env = *fan_env_default();
    world->env.context = world;
    world->env.wall_us = env_wall_us;
    world->env.monotonic_ns = env_monotonic_ns;
    world->env.random = env_random;
    world->env.log = env_log;
    world->publications = calloc(PUBLICATION_COUNT_MAX, sizeof(*world->publications));
    world->model.events = calloc(EVENT_COUNT_MAX, sizeof(*world->model.events));
    world->instance_count = 1 + (unsigned)sim_random(world, INSTANCE_COUNT_MAX);
    for (unsigned i = 0; i < PORT_COUNT; i++)
        world->ports[i] = (struct sim_port){ .world = world, .index = i };
    sim_act_weigh(world);
    make_groups(world);
    make_retention(world);
    if (world->retention.group_age_ms > 0)
        world->weights[ACT_SLEEP] = 25;
    if (!world->publications || !world->model.events || !open_log(world))
        sim_broken(world, "P05", "the log cannot be opened");
    return world;
}

struct sim_world *sim_world_run(const struct sim_options *options)
{
    struct sim_world *world = make(options);
    if (!world || world->failed)
        return world;
    uint64_t steps = 50 + sim_random(world, 450);
    if (options->steps > 0)
        steps = options->steps;
    sim_trace(world, "seed %" PRIu64 ": %u instances, %u groups, %" PRIu64 " steps, %.7s",
              world->seed, world->instance_count, world->group_count, steps, world->uri);
    for (unsigned i = 0; i < world->group_count; i++)
        sim_trace(world, "group %s/%s: pattern %s, topic %s%s, %u retries, limit %u ms",
                  world->groups[i].name, world->groups[i].handler,
                  world->groups[i].pattern ? world->groups[i].pattern : "any",
                  world->groups[i].topic ? world->groups[i].topic : "any",
                  world->groups[i].ordered ? ", ordered" : "", world->groups[i].retry.retries,
                  world->groups[i].timeout_ms);
    if (world->instance_count > 1)
        sim_count(world, SIM_SEVERAL);
    if (world->sqlite)
        sim_count(world, SIM_SQLITE);
    /* One may have been started while another was. */
    for (unsigned i = 0; i < world->instance_count; i++)
        if (!world->instances[i].broker)
            sim_instance_start(world, i);
    for (world->step = 1; world->step <= steps && !world->failed; world->step++)
        sim_act(world);
    if (!world->failed)
        sim_settle(world);
    return world;
}

void sim_world_free(struct sim_world *world)
{
    if (!world)
        return;
    /* One that failed may be in any state: it is left as it is. */
    if (!world->failed) {
        for (unsigned i = 0; i < READER_COUNT_MAX; i++)
            if (world->readers[i].reader)
                sim_reader_close(world, &world->readers[i]);
        for (unsigned i = 0; i < world->instance_count; i++)
            if (world->instances[i].broker)
                sim_instance_crash(world, i);
        fan_batch_free(world->page);
        fan_store_close(world->store);
        sim_copy_free(world);
        free(world->model.events);
        free(world->publications);
    }
    if (*world->folder)
        test_folder_remove(world->folder);
    here = NULL;
    if (!world->failed)
        free(world);
}
