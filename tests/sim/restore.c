/*
 * A copy of the log is made while everybody works. Later all processes are gone, and a log is made
 * of the copy: what came since is lost, and whoever comes with a place of the log of before is told
 * so (P13, P24).
 */
#include "sim.h"

#include <fanfare/keep.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct sim_copy {
    char path[96];
    unsigned number;
    struct sim_model model; /* with events of its own */
    struct sim_group groups[GROUP_COUNT_MAX];
    unsigned publication_count;
};

void sim_copy_free(struct sim_world *world)
{
    if (world->copy)
        free(world->copy->model.events);
    free(world->copy);
    world->copy = NULL;
}

static void make_copy(struct sim_world *world)
{
    static unsigned number;
    struct sim_copy *copy = calloc(1, sizeof(*copy));
    struct sim_event *events = calloc(EVENT_COUNT_MAX, sizeof(*events));
    if (!copy || !events) {
        free(copy);
        free(events);
        return;
    }
    sim_model_look(world);
    copy->number = ++number;
    snprintf(copy->path, sizeof(copy->path), "%s/copy-%u.db", world->folder, copy->number);
    enum fan_status status = fan_store_backup(world->store, copy->path, NULL);
    sim_trace(world, "the log is copied: %s", fan_status_name(status));
    sim_check(world, "P24", status == FAN_OK, "the log cannot be copied");
    copy->model = world->model;
    copy->model.events = events;
    memcpy(events, world->model.events, world->model.count * sizeof(*events));
    memcpy(copy->groups, world->groups, sizeof(copy->groups));
    copy->publication_count = world->publication_count;
    sim_copy_free(world);
    world->copy = copy;
}

/* Claims of before the copy mean nothing any more; they lapse. */
static void take_model(struct sim_world *world)
{
    struct sim_copy *copy = world->copy;
    struct sim_event *events = world->model.events;
    memcpy(events, copy->model.events, copy->model.count * sizeof(*events));
    world->model = copy->model;
    world->model.events = events;
    for (unsigned g = 0; g < world->group_count; g++) {
        /* Since then is as long ago as it was. */
        copy->groups[g].deleted_ns = world->groups[g].deleted_ns;
        world->groups[g] = copy->groups[g];
    }
    for (size_t i = 0; i < world->model.count; i++)
        for (unsigned g = 0; g < world->group_count; g++) {
            struct sim_delivery *delivery = &events[i].deliveries[g];
            delivery->token = 0;
            memset(delivery->answers, 0, sizeof(delivery->answers));
        }
    for (unsigned i = 0; i < world->publication_count; i++) {
        struct sim_publication *publication = &world->publications[i];
        publication->acknowledged = false;
        publication->unclear = true;
    }
    world->claim_count = 0;
}

static void restore(struct sim_world *world)
{
    char uri[sizeof(world->uri)];
    for (unsigned i = 0; i < world->instance_count; i++)
        if (world->instances[i].broker)
            sim_instance_crash(world, i);
    fan_store_close(world->store);
    world->store = NULL;
    snprintf(uri, sizeof(uri), "sqlite:%s/events-%u.db?synchronous=normal", world->folder,
             world->copy->number);
    struct fan_error error = FAN_ERROR_INIT;
    enum fan_status status = fan_store_restore(world->copy->path, uri, &world->env, &error);
    if (status == FAN_OK)
        status = fan_store_open(uri, &world->env, &world->store, &error);
    sim_trace(world, "the log is restored as of %" PRIu64 ": %s", world->copy->model.head_seq,
              fan_status_name(status));
    if (status != FAN_OK) {
        sim_broken(world, "P24", "the copy makes no log: %s", error.message);
        return;
    }
    memcpy(world->uri, uri, sizeof(uri));
    take_model(world);
    sim_copy_free(world);
    sim_count(world, SIM_RESTORED);
}

void sim_act_restore(struct sim_world *world)
{
    int64_t offset_us = sim_wall_us() - sim_now_ns() / NS_PER_US;
    if (!world->sqlite || world->depth > 0 || world->ports[MEMBER].open)
        return;
    if (!world->copy)
        make_copy(world);
    /*
     * A log goes on by the clock of its restore: one that was set meanwhile would move what is due.
     */
    else if (offset_us == world->model.clock_offset_us &&
             offset_us == world->copy->model.clock_offset_us)
        restore(world);
}
