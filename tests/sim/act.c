/* What can happen in a world, and how often. */
#include "sim.h"

#include <fanfare/keep.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define PUBLISH_TIMEOUT_MS 400
#define STOP_TIMEOUT_MS 1000
#define HOUR_US (INT64_C(3600000) * US_PER_MS)

static struct sim_instance *any_instance(struct sim_world *world)
{
    unsigned first = (unsigned)sim_random(world, world->instance_count);
    for (unsigned i = 0; i < world->instance_count; i++) {
        struct sim_instance *instance = &world->instances[(first + i) % world->instance_count];
        if (instance->broker && !instance->stepping && !instance->stopping &&
            instance->asleep_ns <= sim_now_ns())
            return instance;
    }
    return NULL;
}

static void free_pending(struct sim_world *world, struct sim_instance *instance)
{
    while (instance->pending) {
        struct sim_pending *pending = instance->pending;
        instance->pending = pending->next;
        sim_check(world, "P05", pending->told, "e%u was accepted, and never answered",
                  pending->attempt.publication);
        free(pending);
    }
}

void sim_instance_start(struct sim_world *world, unsigned index)
{
    struct sim_instance *instance = &world->instances[index];
    struct sim_port *port = &world->ports[index];
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    char uri[16];
    char name[16];
    if (instance->generation > 0)
        sim_count(world, SIM_RESTART);
    *instance = (struct sim_instance){ .world = world,
                                       .index = index,
                                       .generation = instance->generation + 1,
                                       .stepping = true,
                                       .awake_ns = sim_now_ns() };
    port->crashed = false;
    port->crash_in = 0;
    snprintf(uri, sizeof(uri), "sim:%u", index);
    snprintf(name, sizeof(name), "i%u.%u", index, instance->generation);
    instance->retains = world->retention.limit > 0 && sim_chance(world, 700);
    options.env = &world->env;
    options.instance_id = name;
    options.queue_count_max = sim_chance(world, 300) ? 1 + (size_t)sim_random(world, 8) : 64;
    options.publish_timeout_ms = PUBLISH_TIMEOUT_MS;
    options.stepped = true;
    options.provider = &sim_provider;
    instance->sync = sim_chance(world, 100);
    instance->queue_count_max = options.queue_count_max;
    options.mode = instance->sync ? FAN_MODE_SYNC : FAN_MODE_ASYNC;
    options.lease_ms = 500 + (uint32_t)sim_random(world, LEASE_MS_MAX - 500);
    options.retention = instance->retains ? &world->retention : NULL;
    options.retention_interval_ms =
        50 + (uint32_t)sim_random(world, sim_chance(world, 500) ? 300 : 5000);
    enum fan_status status = fan_broker_open(uri, &options, &instance->broker, NULL);
    sim_trace(world, "i%u opens: %s", index, fan_status_name(status));
    if (status != FAN_OK) {
        instance->broker = NULL;
        instance->stepping = false;
        return;
    }
    status = fan_broker_start(instance->broker);
    sim_check(world, "H09", status == FAN_OK, "i%u cannot start: %s", index,
              fan_status_name(status));
    for (unsigned g = 0; g < world->group_count; g++)
        if (world->quiet || sim_chance(world, 700))
            sim_handle(world, index, g);
    if (sim_chance(world, world->tight ? 900 : 300))
        sim_handle_live(world, index);
    instance->stepping = false;
}

/* Its readers read what there is, then their end, for ever. */
static void end_readers(struct sim_world *world, unsigned index, bool drained)
{
    for (unsigned i = 0; i < READER_COUNT_MAX; i++) {
        struct sim_reader *reader = &world->readers[i];
        if (!reader->reader || reader->instance != index)
            continue;
        if (drained)
            sim_reader_drain(world, reader, EVENT_COUNT_MAX);
        sim_reader_close(world, reader);
    }
}

static void free_broker(struct sim_world *world, struct sim_instance *instance)
{
    fan_broker_free(instance->broker);
    instance->broker = NULL;
    free_pending(world, instance);
    sim_model_forget(world, instance->index, -1);
    for (unsigned g = 0; g < GROUP_COUNT_MAX; g++)
        instance->bindings[g].handler = NULL;
    instance->live = NULL;
}

void sim_instance_crash(struct sim_world *world, unsigned index)
{
    struct sim_instance *instance = &world->instances[index];
    world->ports[index].crashed = true;
    sim_trace(world, "i%u is gone", index);
    for (unsigned i = 0; i < READER_COUNT_MAX; i++)
        if (world->readers[i].reader && world->readers[i].instance == index)
            sim_reader_close(world, &world->readers[i]);
    free_broker(world, instance);
}

void sim_instance_step(struct sim_world *world, unsigned index)
{
    struct sim_instance *instance = &world->instances[index];
    instance->stepping = true;
    enum fan_status status = fan_broker_step(instance->broker);
    instance->stepping = false;
    sim_check(world, "H09", status == FAN_OK || status == FAN_AGAIN, "i%u's step gave %s", index,
              fan_status_name(status));
    if (!world->ports[index].crashed)
        sim_publish_check_stats(world, index);
    else if (instance->pins == 0)
        sim_instance_crash(world, index);
}

/* What it handled must be told by now: a stop leaves nothing to the leases that it can settle. */
static void check_stopped(struct sim_world *world, unsigned index)
{
    for (size_t i = 0; i < world->model.count; i++) {
        const struct sim_event *event = &world->model.events[i];
        for (unsigned g = 0; g < world->group_count && !event->removed; g++) {
            const struct sim_delivery *delivery = &event->deliveries[g];
            sim_check(world, "H09",
                      delivery->status != FAN_EVENT_PROCESSING || delivery->port != index ||
                          delivery->until_ns <= sim_now_ns() || !delivery->answers[index].called,
                      "i%u stopped, and still holds %" PRIu64 " of group %s", index, event->seq,
                      world->groups[g].name);
        }
    }
}

void sim_instance_stop(struct sim_world *world, unsigned index)
{
    struct sim_instance *instance = &world->instances[index];
    struct sim_port *port = &world->ports[index];
    /* A stop with a storage that works must leave nothing; any other leaves it to the leases. */
    bool sound = sim_chance(world, 600) && world->down_until_ns <= sim_now_ns() &&
                 port->cut_until_ns <= sim_now_ns() && port->crash_in == 0;
    bool quiet = world->quiet;
    if (sound && !world->quiet && sim_chance(world, 400)) {
        unsigned before = world->unknown_permille;
        world->unknown_permille = 500;
        sim_instance_step(world, index);
        world->unknown_permille = before;
        if (!instance->broker || instance->pins > 0)
            return;
    }
    sim_count(world, sound ? SIM_STOP_SOUND : SIM_STOP_IN_TROUBLE);
    world->quiet |= sound;
    instance->stopping = true;
    sim_trace(world, "i%u stops%s", index, sound ? ", soundly" : "");
    sim_publish_check_stats(world, index);
    enum fan_status status = fan_broker_stop(instance->broker, STOP_TIMEOUT_MS);
    sim_trace(world, "i%u stopped: %s", index, fan_status_name(status));
    if (port->crashed) {
        world->quiet = quiet;
        sim_instance_crash(world, index);
        return;
    }
    if (sound && !instance->unhandled)
        check_stopped(world, index);
    sim_publish_check_stats(world, index);
    if (sound)
        sim_publish_check_settled(world, index);
    sim_check(world, "H09", fan_broker_step(instance->broker) == FAN_CLOSED,
              "i%u steps after its stop", index);
    end_readers(world, index, sound);
    free_broker(world, instance);
    world->quiet = quiet;
}

/* Handlers come and go. */
static void act_handlers(struct sim_world *world, unsigned index, uint64_t dice)
{
    struct sim_instance *instance = &world->instances[index];
    unsigned group = (unsigned)sim_random(world, world->group_count);
    instance->stepping = true;
    if (dice < 20)
        sim_handle(world, index, group);
    else if (dice < 30)
        sim_handle_live(world, index);
    else if (world->group_count > 0)
        sim_unhandle(world, index, group);
    instance->stepping = false;
}

static void act_instance(struct sim_world *world)
{
    struct sim_instance *instance = any_instance(world);
    uint64_t dice = sim_random(world, 1000);
    if (!instance)
        return;
    unsigned index = instance->index;
    if (dice < 880 && sim_chance(world, world->lazy[index]))
        return;
    if (dice < 880 || instance->pins > 0)
        sim_instance_step(world, index);
    else if (dice < 920)
        world->ports[index].crash_in = 1 + (unsigned)sim_random(world, 30);
    else if (dice < 930)
        sim_instance_crash(world, index);
    else if (dice < 950)
        sim_instance_stop(world, index);
    else if (dice < 985)
        act_handlers(world, index, dice - 950);
    else
        world->ports[index].cut_until_ns =
            sim_now_ns() + (int64_t)sim_random(world, 3000) * NS_PER_MS;
}

static void act_restart(struct sim_world *world)
{
    unsigned index = (unsigned)sim_random(world, world->instance_count);
    struct sim_instance *instance = &world->instances[index];
    if (!instance->broker && !instance->stepping && !instance->stopping)
        sim_instance_start(world, index);
}

static void set_clock(struct sim_world *world, int64_t by_us)
{
    sim_count(world, by_us < 0 ? SIM_CLOCK_BACK : SIM_CLOCK_FORWARD);
    sim_trace(world, "the wall clock is set by %" PRId64 " s", by_us / (1000 * US_PER_MS));
    sim_clock_set_wall(by_us);
}

static void act_time(struct sim_world *world)
{
    uint64_t dice = sim_random(world, 1000);
    if (dice < 800)
        sim_clock_pass_ns((int64_t)sim_random(world, 300) * NS_PER_MS);
    else if (dice < 960)
        sim_clock_pass_ns((int64_t)sim_random(world, 3000) * NS_PER_MS);
    else if (dice < 985)
        sim_clock_pass_ns((int64_t)sim_random(world, 60000) * NS_PER_MS);
    else if (dice < 993)
        set_clock(world, -HOUR_US);
    else
        set_clock(world, 24 * HOUR_US);
}

/*
 * Processes stand still (SIGSTOP, a machine that is suspended) for longer than a group may be
 * without a member: one of them, or all.
 */
static void act_sleep(struct sim_world *world)
{
    int64_t time_ns = (int64_t)(60000 + sim_random(world, 3 * FAN_GROUP_AGE_MS_MIN)) * NS_PER_MS;
    bool all = sim_chance(world, 500);
    struct sim_instance *one = any_instance(world);
    if (!one || world->depth > 0)
        return;
    sim_count(world, SIM_ASLEEP);
    sim_trace(world, "%s for %" PRId64 " ms", all ? "all stand still" : "one stands still",
              time_ns / NS_PER_MS);
    if (all)
        sim_clock_pass_ns(time_ns);
    else
        one->asleep_ns = sim_now_ns() + time_ns;
    for (unsigned i = 0; i < world->instance_count; i++)
        if (all || &world->instances[i] == one)
            world->instances[i].awake_ns = sim_now_ns() + (all ? 0 : time_ns);
    /* Without the one, the others have their days. */
    while (!all && sim_now_ns() < one->asleep_ns && !world->failed) {
        sim_clock_pass_ns((int64_t)sim_random(world, 8000) * NS_PER_MS);
        for (unsigned i = 0; i < world->instance_count && !world->failed; i++)
            if (world->instances[i].broker && &world->instances[i] != one)
                sim_instance_step(world, i);
    }
}

static void act_trouble(struct sim_world *world)
{
    uint64_t dice = sim_random(world, 12);
    if (dice > 9)
        world->unsettled_permille = dice > 10 ? 700 : 0;
    else if (dice == 0)
        world->down_until_ns = sim_now_ns() + (int64_t)sim_random(world, 2000) * NS_PER_MS;
    else if (dice < 3)
        world->fault_permille = (unsigned)sim_random(world, 200);
    else if (dice < 5)
        world->unknown_permille = (unsigned)sim_random(world, 200);
    else
        world->fault_permille = world->unknown_permille = 0;
}

/* A dead letter of a group, redriven or discarded; now and then what is not dead, too. */
static void move_one(struct sim_world *world, struct fan_store *store)
{
    size_t first = (size_t)sim_random(world, world->model.count);
    unsigned group = (unsigned)sim_random(world, world->group_count);
    struct fan_group_name name = { world->groups[group].name, world->groups[group].handler };
    bool any = sim_chance(world, 50);
    for (size_t i = 0; i < world->model.count; i++) {
        const struct sim_event *event = &world->model.events[(first + i) % world->model.count];
        if (event->removed || (!any && event->deliveries[group].status != FAN_EVENT_FAILED))
            continue;
        enum fan_status status =
            fan_group_move(store, &name, event->seq,
                           sim_chance(world, 700) ? FAN_EVENT_PENDING : FAN_EVENT_COMPLETED);
        sim_trace(world, "%s/%s %" PRIu64 " is to be moved: %s", name.group, name.handler,
                  event->seq, fan_status_name(status));
        return;
    }
}

/* An event goes, or what it said. */
static void remove_one(struct sim_world *world, struct fan_store *store, bool erase)
{
    char id[16];
    snprintf(id, sizeof(id), "e%u", (unsigned)sim_random(world, world->publication_count));
    enum fan_status status = erase ? fan_store_erase(store, id) : fan_store_delete(store, id);
    sim_trace(world, "%s is %s: %s", id, erase ? "erased" : "deleted", fan_status_name(status));
}

/* Somebody looks after the log. */
static void act_operator(struct sim_world *world)
{
    struct fan_store *store = NULL;
    uint64_t dice = sim_random(world, 100);
    if (world->model.count == 0 || world->group_count == 0 || world->ports[MEMBER].open ||
        fan_store_open_provider(&sim_provider, "sim:4", &world->env, &store, NULL) != FAN_OK)
        return;
    unsigned group = (unsigned)sim_random(world, world->group_count);
    struct fan_group_name name = { world->groups[group].name, world->groups[group].handler };
    if (dice < 70) {
        move_one(world, store);
    } else if (dice < 85) {
        remove_one(world, store, dice < 75);
    } else if (dice < 95) {
        enum fan_status status = fan_store_accept_clock(store, NULL);
        sim_trace(world, "the clock is accepted: %s", fan_status_name(status));
    } else if (dice < 97) {
        enum fan_status status = fan_group_delete(store, &name);
        sim_trace(world, "deleting a group: %s", fan_status_name(status));
    } else {
        sim_state_check_groups(world);
        sim_state_check(world, &world->model.events[sim_random(world, world->model.count)]);
    }
    fan_store_close(store);
}

/*
 * Each world has its own mixture, as what is rare in all of them together may be common in some
 * (swarm testing, Groce and others, 2012).
 */
void sim_act_weigh(struct sim_world *world)
{
    static const unsigned usual[ACT_COUNT] = { 420, 250, 150, 100, 25, 10, 15, 30, 2, 2 };
    static const unsigned factors[] = { 1, 1, 1, 3, 6, 0 };
    for (unsigned i = 0; i < ACT_COUNT; i++)
        world->weights[i] =
            usual[i] * factors[sim_random(world, i < 2 ? 4 : sizeof(factors) / sizeof(*factors))];
    world->tight = sim_chance(world, 250);
    for (unsigned i = 0; i < INSTANCE_COUNT_MAX; i++)
        world->lazy[i] = sim_chance(world, world->tight ? 600 : 300) ? 900 : 0;
    if (sim_chance(world, 300))
        world->fault_permille = (unsigned)sim_random(world, 300);
    if (sim_chance(world, 300))
        world->unknown_permille = (unsigned)sim_random(world, 300);
    if (sim_chance(world, 100))
        world->unsettled_permille = (unsigned)sim_random(world, 900);
    if (sim_chance(world, 500))
        world->talk_permille = (unsigned)sim_random(world, 60);
}

void sim_act(struct sim_world *world)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < ACT_COUNT; i++)
        sum += world->weights[i];
    uint64_t dice = sim_random(world, sum);
    unsigned what = 0;
    while (what < ACT_COUNT - 1 && dice >= world->weights[what])
        dice -= world->weights[what++];
    struct sim_instance *instance = what == 1 ? any_instance(world) : NULL;
    if (world->failed)
        return;
    switch (what) {
    case 0:
        act_instance(world);
        break;
    case 1:
        if (instance)
            sim_publish(world, instance->index);
        if (instance && instance->broker && instance->pins == 0 &&
            world->ports[instance->index].crashed)
            sim_instance_crash(world, instance->index);
        break;
    case 2:
        sim_act_reader(world);
        break;
    case 3:
        act_time(world);
        break;
    case 4:
        act_restart(world);
        break;
    case 5:
        act_trouble(world);
        break;
    case 6:
        act_operator(world);
        break;
    case 7:
        sim_act_member(world);
        break;
    case ACT_SLEEP:
        act_sleep(world);
        break;
    default:
        sim_act_restore(world);
        break;
    }
}
