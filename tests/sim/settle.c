/*
 * The end of a world: faults stop, everybody is started, time passes. Then every event that a group
 * wants must be completed or a dead letter, every reader must have what it was promised, and the
 * log must say of each delivery what the model says.
 */
#include "sim.h"

#include "broker/broker.h"

#include <inttypes.h>
#include <stdio.h>

#define ROUND_COUNT_MAX 2000
#define ROUND_MS 250
/* What was published under a wall clock that is days ahead is due in days. */
#define LATE_ROUND_COUNT 1000
#define LATE_ROUND_MS INT64_C(3600000)

static uint64_t count_owed(struct sim_world *world)
{
    uint64_t owed = 0;
    for (size_t i = 0; i < world->model.count; i++)
        for (unsigned g = 0; g < world->group_count; g++) {
            const struct sim_event *event = &world->model.events[i];
            owed += sim_group_wants(world, g, event) &&
                    event->deliveries[g].status != FAN_EVENT_COMPLETED &&
                    event->deliveries[g].status != FAN_EVENT_FAILED;
        }
    return owed;
}

static void tell_stranded(struct sim_world *world)
{
    for (size_t i = 0; i < world->model.count; i++)
        for (unsigned g = 0; g < world->group_count; g++) {
            const struct sim_event *event = &world->model.events[i];
            enum fan_event_status status = event->deliveries[g].status;
            if (sim_group_wants(world, g, event) && status != FAN_EVENT_COMPLETED &&
                status != FAN_EVENT_FAILED)
                sim_broken(world, "L8", "%" PRIu64 " of group %s/%s stays %s", event->seq,
                           world->groups[g].name, world->groups[g].handler,
                           fan_event_status_text(status));
        }
}

static bool see(void *context, const struct fan_delivery *found)
{
    struct sim_event *event = ((void **)context)[1];
    struct sim_world *world = ((void **)context)[0];
    struct fan_group_name name = { found->group, found->handler };
    int group = sim_group_find(world, &name);
    if (group < 0 || !sim_group_wants(world, (unsigned)group, event))
        return true;
    const struct sim_delivery *delivery = &event->deliveries[group];
    sim_check(world, "P04",
              found->status == delivery->status && found->attempts == delivery->attempts &&
                  found->lapses == delivery->lapses && found->reason == delivery->reason,
              "group %s: %" PRIu64 " is %s (%s) after %u attempts and %u lapses, "
              "not %s (%s) after %u and %u",
              found->group, found->seq, fan_event_status_text(found->status),
              fan_dead_reason_name(found->reason), found->attempts, found->lapses,
              fan_event_status_text(delivery->status), fan_dead_reason_name(delivery->reason),
              delivery->attempts, delivery->lapses);
    return true;
}

static void check_deliveries(struct sim_world *world)
{
    for (size_t i = 0; i < world->model.count && !world->failed; i++) {
        struct sim_event *event = &world->model.events[i];
        void *context[] = { world, event };
        if (!event->removed)
            sim_check(world, "P04",
                      fan_store_deliveries(world->store, event->seq, 0, see, context) == FAN_OK,
                      "the log does not tell its deliveries");
        sim_state_check(world, event);
    }
}

/* Acknowledged is a part of stored: what was acknowledged is there, unless it was removed. */
static void check_publications(struct sim_world *world)
{
    for (unsigned i = 0; i < world->publication_count; i++) {
        const struct sim_publication *publication = &world->publications[i];
        if (!publication->acknowledged)
            continue;
        const struct sim_event *event = sim_model_event(world, publication->seq);
        sim_check(world, "L6", event && event->publication == i,
                  "e%u was acknowledged at %" PRIu64 ", and is not there", i, publication->seq);
    }
}

/* L3 on each instance's bus, of which brokers keep the totals. */
static void check_accounts(struct sim_world *world, const struct sim_instance *instance)
{
    struct fan_bus_counters counters = { .size = sizeof(counters) };
    fan_bus_counters(instance->broker->bus, &counters);
    uint64_t sum = counters.delivered + counters.dropped + counters.conflated + counters.discarded +
                   counters.queued;
    sim_check(world, "L3", counters.matched == sum,
              "i%u: matched %" PRIu64 ", accounted for %" PRIu64, instance->index, counters.matched,
              sum);
}

static void start_all(struct sim_world *world)
{
    for (unsigned i = 0; i < world->instance_count; i++) {
        if (!world->instances[i].broker)
            sim_instance_start(world, i);
        for (unsigned g = 0; g < world->group_count; g++)
            sim_handle(world, i, g);
    }
}

void sim_settle(struct sim_world *world)
{
    world->quiet = true;
    sim_trace(world, "faults end");
    for (unsigned i = 0; i < PORT_COUNT; i++)
        world->ports[i].crash_in = 0;
    for (unsigned round = 0; round < ROUND_COUNT_MAX && !world->failed; round++) {
        start_all(world);
        for (unsigned i = 0; i < world->instance_count && !world->failed; i++)
            sim_instance_step(world, i);
        if (round > 2 && count_owed(world) == 0)
            break;
        sim_clock_pass_ns((round < LATE_ROUND_COUNT ? ROUND_MS : LATE_ROUND_MS) * NS_PER_MS);
    }
    if (!world->failed)
        tell_stranded(world);
    sim_model_look(world);
    check_deliveries(world);
    sim_state_check_groups(world);
    check_publications(world);
    for (unsigned i = 0; i < READER_COUNT_MAX && !world->failed; i++)
        if (world->readers[i].reader)
            sim_reader_drain(world, &world->readers[i], 2 * EVENT_COUNT_MAX);
    for (unsigned i = 0; i < world->instance_count && !world->failed; i++)
        check_accounts(world, &world->instances[i]);
    for (unsigned i = 0; i < world->instance_count && !world->failed; i++)
        sim_instance_stop(world, i);
}
