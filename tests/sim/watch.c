/*
 * What a subscription was given, held against the log: nothing twice, nothing lost without a word.
 */
#include "sim.h"

#include <inttypes.h>

static size_t index_after(const struct sim_world *world, uint64_t seq)
{
    size_t low = 0;
    size_t high = world->model.count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (world->model.events[middle].seq <= seq)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Whether a later event of the same topic and type took its place. */
static bool is_superseded(const struct sim_world *world, size_t index)
{
    const struct sim_event *events = world->model.events;
    const struct sim_publication *publications = world->publications;
    for (size_t i = index + 1; i < world->model.count; i++)
        if (publications[events[i].publication].type ==
                publications[events[index].publication].type &&
            publications[events[i].publication].topic ==
                publications[events[index].publication].topic)
            return true;
    return false;
}

/* Everything before `before_seq` that it asked for should have come, or been told as lost. */
static void pass_over(struct sim_watch *watch, uint64_t before_seq)
{
    struct sim_world *world = watch->world;
    const struct sim_model *model = &world->model;
    for (size_t i = index_after(world, watch->seq);
         i < model->count && model->events[i].seq < before_seq; i++) {
        const struct sim_event *event = &model->events[i];
        if (event->deleted || !sim_matches(world, event, watch->topic, watch->pattern))
            continue;
        if (watch->latest && is_superseded(world, i))
            continue;
        sim_broken(world, watch->lossless ? "L7" : "L4",
                   "watch %u never got %" PRIu64 ", and was told of no loss", watch->number,
                   event->seq);
    }
}

void sim_watch_event(struct sim_watch *watch, const struct fan_event *event)
{
    struct sim_world *world = watch->world;
    uint64_t seq = fan_event_seq(event);
    const struct sim_event *known = sim_model_event(world, seq);
    unsigned publication = 0;
    sim_trace(world, "watch %u gets %" PRIu64, watch->number, seq);
    sim_count(world, watch->got);
    if (!known || !sim_publication_of(world, fan_event_id(event), &publication) ||
        known->publication != publication) {
        sim_broken(world, "L6", "watch %u got %" PRIu64 " (%s), which is not in the log",
                   watch->number, seq, fan_event_id(event));
        return;
    }
    if (known->port != watch->instance)
        sim_count(world, SIM_GOT_FOREIGN);
    sim_check(world, "L11", sim_payload_is(known, event),
              "watch %u got %" PRIu64 " with what is not stored there", watch->number, seq);
    sim_check(world, "P13", !watch->foreign, "watch %u was told of no other epoch", watch->number);
    sim_check(world, "L2", seq > watch->seq, "watch %u got %" PRIu64 " after %" PRIu64,
              watch->number, seq, watch->seq);
    sim_check(world, "H02", sim_matches(world, known, watch->topic, watch->pattern),
              "watch %u got %" PRIu64 ", for which it did not ask", watch->number, seq);
    pass_over(watch, seq);
    watch->seq = watch->taken_seq = seq;
    watch->beyond = false;
}

/* A buffer that ran over: how many, exactly, and never for one that reads the log instead. */
static void check_overflow(struct sim_watch *watch, const struct fan_gap *gap)
{
    struct sim_world *world = watch->world;
    uint64_t lost = 0;
    uint64_t removed = 0;
    for (size_t i = index_after(world, gap->after);
         i < world->model.count && world->model.events[i].seq < gap->before; i++) {
        const struct sim_event *event = &world->model.events[i];
        if (!sim_matches(world, event, watch->topic, watch->pattern))
            continue;
        lost++;
        removed += event->removed;
    }
    sim_check(world, "L4", !watch->lossless, "watch %u, which refills, overflowed", watch->number);
    if (gap->count == FAN_GAP_COUNT_UNKNOWN)
        return;
    bool exact = removed == 0 && !watch->latest;
    sim_check(world, "L4", exact ? gap->count == lost : gap->count <= lost,
              "watch %u is told %" PRIu64 " lost in %" PRIu64 " to %" PRIu64 ", not %" PRIu64,
              watch->number, gap->count, gap->after, gap->before, lost);
}

void sim_watch_gap(struct sim_watch *watch, const struct fan_gap *gap)
{
    struct sim_world *world = watch->world;
    sim_trace(world, "watch %u is told a gap %" PRIu64 " to %" PRIu64 ", %s", watch->number,
              gap->after, gap->before, fan_gap_reason_text(gap->reason));
    if (gap->reason == FAN_GAP_EPOCH) {
        sim_count(world, SIM_GAP_EPOCH);
        sim_check(world, "P13", watch->foreign || watch->beyond,
                  "watch %u is told of another epoch", watch->number);
        sim_check(world, "P13", gap->before <= world->model.trimmed_seq + 1,
                  "watch %u begins at %" PRIu64, watch->number, gap->before);
        watch->foreign = watch->beyond = false;
        watch->seq = watch->taken_seq = gap->before - 1;
        return;
    }
    sim_count(world, gap->reason == FAN_GAP_RETENTION ? SIM_GAP_RETENTION : SIM_GAP_OVERFLOW);
    sim_check(world, "L4", gap->after >= watch->taken_seq && gap->before > gap->after + 1,
              "watch %u at %" PRIu64 " is told a gap %" PRIu64 " to %" PRIu64, watch->number,
              watch->taken_seq, gap->after, gap->before);
    if (gap->reason == FAN_GAP_RETENTION)
        sim_check(world, "P11", gap->before <= world->model.trimmed_seq + 1,
                  "watch %u is told that %" PRIu64 " was removed", watch->number, gap->before - 1);
    else
        check_overflow(watch, gap);
    pass_over(watch, gap->after + 1);
    watch->taken_seq = gap->before - 1;
    if (watch->seq < gap->before - 1)
        watch->seq = gap->before - 1;
}

void sim_watch_reached(struct sim_watch *watch, uint64_t seq)
{
    if (watch->foreign || seq <= watch->seq)
        return;
    pass_over(watch, seq + 1);
    watch->seq = seq;
}
