/*
 * What the log says of an event as a whole, and of its groups: the sum of the deliveries (P17), and
 * how much each group is owed (P16), as the model has it.
 */
#include "sim.h"

#include <inttypes.h>
#include <stdio.h>

/* A claim whose lease is over counts as pending where somebody looks. */
static enum fan_event_status status_of(const struct sim_delivery *delivery)
{
    bool over = delivery->status == FAN_EVENT_PROCESSING && delivery->until_ns <= sim_now_ns();
    return over ? FAN_EVENT_PENDING : delivery->status;
}

static enum fan_event_status sum_of(const struct sim_world *world, const struct sim_event *event,
                                    unsigned *ret_retries)
{
    unsigned counts[FAN_EVENT_FAILED + 1] = { 0 };
    *ret_retries = 0;
    for (unsigned g = 0; g < world->group_count; g++) {
        const struct sim_delivery *delivery = &event->deliveries[g];
        if (!sim_group_wants(world, g, event))
            continue;
        counts[status_of(delivery)]++;
        if (delivery->attempts > *ret_retries + 1)
            *ret_retries = delivery->attempts - 1;
    }
    if (counts[FAN_EVENT_FAILED] > 0)
        return FAN_EVENT_FAILED;
    if (counts[FAN_EVENT_PROCESSING] > 0)
        return FAN_EVENT_PROCESSING;
    return counts[FAN_EVENT_PENDING] > 0 ? FAN_EVENT_PENDING : FAN_EVENT_COMPLETED;
}

void sim_state_check(struct sim_world *world, const struct sim_event *event)
{
    struct fan_event_state state = { .error = "" };
    char id[16];
    unsigned retries = 0;
    snprintf(id, sizeof(id), "e%u", event->publication);
    enum fan_event_status expected = sum_of(world, event, &retries);
    if (event->removed)
        return;
    sim_check(world, "P05", fan_store_get(world->store, id, world->page, &state) == FAN_OK,
              "%" PRIu64 " is not found by its id", event->seq);
    if (world->failed)
        return;
    sim_check(world, "P17", state.status == expected && state.retry_count == retries,
              "%" PRIu64 " is %s after %u retries, by its deliveries %s after %u", event->seq,
              fan_event_status_text(state.status), state.retry_count,
              fan_event_status_text(expected), retries);
    sim_check(world, "L11", sim_payload_is(event, fan_batch_event(world->page, 0)),
              "%" PRIu64 " is not what was stored", event->seq);
}

static bool see(void *context, const struct fan_group_stats *stats)
{
    struct sim_world *world = context;
    struct fan_group_name name = { stats->group, stats->handler };
    int group = sim_group_find(world, &name);
    uint64_t counts[FAN_EVENT_FAILED + 1] = { 0 };
    sim_check(world, "P16", group >= 0 && world->groups[group].exists,
              "group %s/%s is there, which nobody made", name.group, name.handler);
    if (world->failed)
        return false;
    for (size_t i = 0; i < world->model.count; i++) {
        const struct sim_event *event = &world->model.events[i];
        if (sim_group_wants(world, (unsigned)group, event))
            counts[status_of(&event->deliveries[group])]++;
    }
    sim_check(world, "P16",
              stats->pending == counts[FAN_EVENT_PENDING] &&
                  stats->processing == counts[FAN_EVENT_PROCESSING] &&
                  stats->failed == counts[FAN_EVENT_FAILED],
              "group %s/%s: %" PRIu64 " pending, %" PRIu64 " claimed, %" PRIu64
              " dead, not %" PRIu64 ", %" PRIu64 ", %" PRIu64,
              name.group, name.handler, stats->pending, stats->processing, stats->failed,
              counts[FAN_EVENT_PENDING], counts[FAN_EVENT_PROCESSING], counts[FAN_EVENT_FAILED]);
    return !world->failed;
}

void sim_state_check_groups(struct sim_world *world)
{
    sim_model_look(world);
    sim_check(world, "P16", fan_store_groups(world->store, see, world) == FAN_OK,
              "the log does not tell its groups");
}
