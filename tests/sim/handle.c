/* Handlers: what they see is checked, what they say is remembered until it is settled. */
#include "sim.h"

#include "broker/dispatch.h"

#include <inttypes.h>
#include <string.h>

#define NESTED_STEPS_MAX 12

static bool has_own_pace(const struct sim_group *group)
{
    return group->ordered || group->concurrency > 0;
}

/* The first attempts that one instance holds of an event come in the order of its handlers. */
static void check_siblings(const struct sim_binding *binding, const struct sim_event *event,
                           const struct fan_handling *handling)
{
    struct sim_world *world = binding->world;
    const struct sim_instance *instance = &world->instances[binding->instance];
    if (handling->attempt > 1 || has_own_pace(&world->groups[binding->group]))
        return;
    for (unsigned g = 0; g < world->group_count; g++) {
        const struct sim_binding *other = &instance->bindings[g];
        const struct sim_delivery *delivery = &event->deliveries[g];
        if (!other->handler || other->number >= binding->number ||
            has_own_pace(&world->groups[g]) || delivery->status != FAN_EVENT_PROCESSING ||
            delivery->port != binding->instance || delivery->attempts > 1 ||
            delivery->until_told_ns <= sim_now_ns())
            continue;
        /* Of a claim whose answer was lost it knows nothing. */
        if (delivery->answers[binding->instance].called)
            sim_count(world, SIM_SIBLINGS);
        else
            sim_check(world, "H08", !delivery->told,
                      "i%u handles %" PRIu64 " for group %s before group %s", binding->instance,
                      event->seq, world->groups[binding->group].name, world->groups[g].name);
    }
}

/* What was given to this instance, and to nobody else while its lease lasts. */
static void check_call(const struct sim_binding *binding, const struct sim_event *event,
                       const struct fan_handling *handling)
{
    struct sim_world *world = binding->world;
    const struct sim_delivery *delivery = &event->deliveries[binding->group];
    int64_t deleted_ns = world->groups[binding->group].deleted_ns;
    if (event->removed || (deleted_ns > 0 && sim_now_ns() < deleted_ns + LEASE_MS_MAX * NS_PER_MS))
        return;
    sim_check(world, "P09",
              delivery->status == FAN_EVENT_PROCESSING && delivery->port == binding->instance,
              "i%u handles %" PRIu64 ", which it does not hold", binding->instance, event->seq);
    sim_check(world, "P09", delivery->until_ns > sim_now_ns(),
              "i%u handles %" PRIu64 " after its lease", binding->instance, event->seq);
    sim_check(world, "H05",
              handling->attempt == delivery->attempts && handling->lapses == delivery->lapses,
              "i%u handles attempt %u with %u lapses of %" PRIu64 ", not %u with %u",
              binding->instance, handling->attempt, handling->lapses, event->seq,
              delivery->attempts, delivery->lapses);
    sim_check(world, "H05",
              strcmp(handling->group, world->groups[binding->group].name) == 0 &&
                  strcmp(handling->handler, world->groups[binding->group].handler) == 0,
              "i%u calls the handler of another group", binding->instance);
    sim_check(world, "P09", handling->lapses < FAN__LAPSES_MAX,
              "i%u handles %" PRIu64 ", of which %u holders died", binding->instance, event->seq,
              handling->lapses);
    check_siblings(binding, event, handling);
}

/* Others go on while the handler runs, and time passes. */
static void linger(struct sim_world *world, int64_t time_ms)
{
    sim_count(world, SIM_WITHIN_HANDLER);
    uint64_t steps = sim_random(world, NESTED_STEPS_MAX);
    if (world->depth >= 2)
        steps = 0;
    world->depth++;
    for (uint64_t i = 0; i < steps; i++) {
        sim_clock_pass_ns(time_ms * NS_PER_MS / (int64_t)steps);
        sim_act(world);
    }
    world->depth--;
    if (steps == 0)
        sim_clock_pass_ns(time_ms * NS_PER_MS);
}

static enum fan_verdict decide(struct sim_world *world)
{
    uint64_t dice = sim_random(world, 100);
    if (world->quiet)
        return dice < 95 ? FAN_VERDICT_DONE : FAN_VERDICT_RETRY;
    return dice < 70 ? FAN_VERDICT_DONE : dice < 93 ? FAN_VERDICT_RETRY : FAN_VERDICT_FAIL;
}

static int64_t time_of_call_ms(struct sim_world *world)
{
    uint64_t dice = sim_random(world, 100);
    if (world->quiet || dice < 75)
        return 0;
    return (int64_t)sim_random(world, dice < 90 ? 300 : dice < 97 ? 4000 : 40000);
}

/* A handler may free itself, or another. */
static void remove_within(struct sim_world *world, const struct sim_binding *binding)
{
    struct sim_instance *instance = &world->instances[binding->instance];
    unsigned group = binding->group;
    if (sim_chance(world, 500))
        group = (unsigned)sim_random(world, world->group_count);
    struct sim_binding *own = &instance->bindings[group];
    if (!own->handler)
        return;
    sim_trace(world, "i%u's handler of group %u is freed in a call", binding->instance, group);
    fan_handler_free(own->handler);
    own->handler = NULL;
    sim_count(world, SIM_HANDLER_GONE);
    instance->unhandled = true;
}

static enum fan_verdict handle(void *context, const struct fan_event *event,
                               const struct fan_handling *handling)
{
    const struct sim_binding *binding = context;
    struct sim_world *world = binding->world;
    /* A crashed process runs nothing; what is left of it only comes to its end. */
    if (world->ports[binding->instance].crashed || world->failed)
        return FAN_VERDICT_DONE;
    sim_check(world, "H08", binding->handler, "i%u calls the handler of group %u, which is removed",
              binding->instance, binding->group);
    struct sim_event *known = sim_model_event(world, fan_event_seq(event));
    if (!known) {
        sim_broken(world, "L6", "i%u handles %" PRIu64 ", which is not in the log",
                   binding->instance, fan_event_seq(event));
        return FAN_VERDICT_DONE;
    }
    check_call(binding, known, handling);
    sim_check(world, "L11", sim_payload_is(known, event),
              "i%u handles %" PRIu64 " with what is not stored there", binding->instance,
              known->seq);
    world->instances[binding->instance].handled++;
    struct sim_answer *answer = &known->deliveries[binding->group].answers[binding->instance];
    uint64_t token = known->deliveries[binding->group].token;
    sim_check(world, "P09", !answer->called || answer->token != token,
              "i%u handles %" PRIu64 " twice at once", binding->instance, known->seq);
    *answer = (struct sim_answer){ .called = true,
                                   .binding = binding->number,
                                   .token = token,
                                   .attempt = handling->attempt,
                                   .lapses = handling->lapses };
    sim_trace(world, "i%u handles %s/%s %" PRIu64 " attempt %u", binding->instance, handling->group,
              handling->handler, known->seq, handling->attempt);
    int64_t begun_ns = sim_now_ns();
    int64_t time_ms = time_of_call_ms(world);
    uint32_t timeout_ms = world->groups[binding->group].timeout_ms;
    enum fan_verdict verdict = decide(world);
    if (time_ms > 0)
        linger(world, time_ms);
    /* The call may have outlived its instance's patience, but not the instance. */
    if (!world->quiet && sim_chance(world, 30))
        sim_publish_async(world, binding->instance);
    if (!world->quiet && sim_chance(world, 10))
        remove_within(world, binding);
    answer->verdict = verdict;
    answer->overran = timeout_ms > 0 && sim_now_ns() - begun_ns >= timeout_ms * NS_PER_MS;
    answer->ended = true;
    return verdict;
}

void sim_handle(struct sim_world *world, unsigned instance, unsigned group)
{
    struct sim_instance *i = &world->instances[instance];
    struct sim_group *g = &world->groups[group];
    struct sim_binding *binding = &i->bindings[group];
    if (!i->broker || group >= world->group_count || binding->handler)
        return;
    *binding = (struct sim_binding){
        .world = world, .instance = instance, .group = group, .number = ++world->binding_number
    };
    const struct fan_handler_options options = {
        .size = FAN_HANDLER_OPTIONS_SIZE,
        .group = g->name,
        .name = g->handler,
        .pattern = g->pattern,
        .topic = g->topic,
        .start = g->start,
        .handle = handle,
        .context = binding,
        .retry = &g->retry,
        .timeout_ms = g->timeout_ms,
        .ordered = g->ordered,
        .concurrency = g->concurrency,
    };
    enum fan_status status = fan_broker_handle(i->broker, &options, &binding->handler, NULL);
    sim_trace(world, "i%u handles for %s/%s: %s", instance, g->name, g->handler,
              fan_status_name(status));
    if (status != FAN_OK)
        binding->handler = NULL;
}

void sim_unhandle(struct sim_world *world, unsigned instance, unsigned group)
{
    struct sim_binding *binding = &world->instances[instance].bindings[group];
    if (!binding->handler)
        return;
    sim_trace(world, "i%u handles no more for group %u", instance, group);
    fan_handler_free(binding->handler);
    binding->handler = NULL;
    sim_model_forget(world, instance, (int)group);
}

static enum fan_verdict handle_live(void *context, const struct fan_event *event,
                                    const struct fan_handling *handling)
{
    struct sim_instance *i = context;
    struct sim_world *world = i->world;
    if (world->ports[i->index].crashed || world->failed)
        return FAN_VERDICT_DONE;
    i->handled++;
    i->live_handled++;
    if (handling->gap) {
        sim_count(world, SIM_GAP_LIVE);
        sim_watch_gap(&i->live_watch, handling->gap);
    }
    sim_watch_event(&i->live_watch, event);
    if (sim_chance(world, 900))
        return FAN_VERDICT_DONE;
    i->live_failed++;
    return FAN_VERDICT_FAIL;
}

void sim_handle_live(struct sim_world *world, unsigned instance)
{
    struct sim_instance *i = &world->instances[instance];
    if (!i->broker || i->live)
        return;
    const char *pattern = sim_chance(world, 500) ? "a.>" : NULL;
    const char *topic = world->tight && sim_chance(world, 700) ? "k1" : NULL;
    const struct fan_handler_options options = { .size = FAN_HANDLER_OPTIONS_SIZE,
                                                 .topic = topic,
                                                 .pattern = pattern,
                                                 .handle = handle_live,
                                                 .context = i };
    if (fan_broker_handle(i->broker, &options, &i->live, NULL) != FAN_OK) {
        i->live = NULL;
        return;
    }
    /* It began at the head that it was shown, which may be an old one: others acted since. */
    struct fan_cursor place;
    fan_reader_cursor(i->live->reader, &place);
    i->live_watch = (struct sim_watch){ .world = world,
                                        .number = ++world->reader_number,
                                        .topic = topic,
                                        .pattern = pattern,
                                        .lossless = true,
                                        .got = SIM_GOT_LIVE,
                                        .instance = instance,
                                        .seq = place.seq,
                                        .taken_seq = place.seq };
    sim_trace(world, "i%u has a live handler, watch %u, from %" PRIu64, instance,
              i->live_watch.number, i->live_watch.seq);
}
