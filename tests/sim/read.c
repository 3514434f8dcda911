/* Readers of every policy: from everywhere, slow, stalled, cancelled, unsubscribed. */
#include "sim.h"

#include <inttypes.h>

static const enum fan_policy policies[] = { FAN_POLICY_REFILL, FAN_POLICY_DEFAULT,
                                            FAN_POLICY_DROP_NEWEST, FAN_POLICY_DROP_OLDEST,
                                            FAN_POLICY_LATEST };

/* A place of this log, or of another one. */
static bool choose_place(struct sim_world *world, struct fan_cursor *cursor)
{
    uint64_t head_seq = world->model.head_seq;
    cursor->seq = sim_random(world, head_seq + 1);
    if (sim_chance(world, 700))
        cursor->epoch = fan_store_epoch(world->store);
    if (sim_chance(world, 50))
        cursor->seq = head_seq + 1 + sim_random(world, 20);
    if (!sim_chance(world, 50))
        return false;
    cursor->epoch = fan_store_epoch(world->store) ^ 1;
    return true;
}

static enum sim_count got_of(enum fan_policy policy)
{
    switch (policy) {
    case FAN_POLICY_DROP_NEWEST:
        return SIM_GOT_DROP_NEWEST;
    case FAN_POLICY_DROP_OLDEST:
        return SIM_GOT_DROP_OLDEST;
    case FAN_POLICY_LATEST:
        return SIM_GOT_LATEST;
    default:
        return SIM_GOT_REFILL;
    }
}

static void open_reader(struct sim_world *world, struct sim_reader *reader)
{
    unsigned index = (unsigned)sim_random(world, world->instance_count);
    struct sim_instance *instance = &world->instances[index];
    if (!instance->broker || instance->stopping || world->ports[index].crashed ||
        instance->asleep_ns > sim_now_ns())
        return;
    *reader = (struct sim_reader){ .instance = index, .busy = true };
    struct fan_reader_options options = {
        .size = FAN_READER_OPTIONS_SIZE,
        .topic = sim_chance(world, 200) ? sim_topics[sim_random(world, TOPIC_COUNT)] : NULL,
        .pattern = sim_chance(world, 300) ? "*.*.create" : NULL,
        .start = (enum fan_start)sim_random(world, 3),
        .policy = policies[sim_random(world, sizeof(policies) / sizeof(*policies))],
        .buffer_count = sim_chance(world, 600) ? 1 + (size_t)sim_random(world, 8) : 0,
    };
    if (options.topic && !*options.topic)
        options.topic = NULL;
    if (world->tight) {
        options.policy = sim_chance(world, 500) ? FAN_POLICY_DROP_NEWEST : FAN_POLICY_DROP_OLDEST;
        options.buffer_count = 1 + (size_t)sim_random(world, 2);
    }
    bool foreign = false;
    if (options.start == FAN_START_CURSOR)
        foreign = choose_place(world, &options.cursor);
    if (sim_chance(world, 300) && fan_cancel_new(&world->env, &reader->cancel) == FAN_OK)
        options.cancel = reader->cancel;
    instance->pins++;
    enum fan_status status =
        fan_broker_subscribe(instance->broker, &options, &reader->reader, NULL);
    instance->pins--;
    reader->busy = false;
    if (status != FAN_OK) {
        fan_cancel_unref(reader->cancel);
        *reader = (struct sim_reader){ .reader = NULL };
        return;
    }
    struct fan_cursor place;
    fan_reader_cursor(reader->reader, &place);
    sim_check(world, "L7", options.start != FAN_START_NOW || place.seq <= world->model.head_seq,
              "a reader from now begins at %" PRIu64 ", the head is %" PRIu64, place.seq,
              world->model.head_seq);
    bool refills = options.policy == FAN_POLICY_REFILL || options.policy == FAN_POLICY_DEFAULT;
    reader->watch = (struct sim_watch){ .world = world,
                                        .number = ++world->reader_number,
                                        .topic = options.topic,
                                        .pattern = options.pattern,
                                        .lossless = refills,
                                        .latest = options.policy == FAN_POLICY_LATEST,
                                        .got = got_of(options.policy),
                                        .instance = index,
                                        .foreign = foreign,
                                        .beyond = place.seq > world->model.head_seq,
                                        .seq = place.seq,
                                        .taken_seq = place.seq };
    sim_trace(world, "watch %u on i%u from %" PRIu64 ", policy %d, buffer %zu",
              reader->watch.number, index, place.seq, (int)options.policy, options.buffer_count);
}

/* Everything that its broker was told, this reader has. */
static void check_caught_up(struct sim_world *world, struct sim_reader *reader)
{
    struct fan_broker *broker = world->instances[reader->instance].broker;
    struct fan_broker_stats stats = FAN_BROKER_STATS_INIT;
    if (reader->unsubscribed || reader->fired)
        return;
    sim_check(world, "P13", !reader->watch.beyond || reader->watch.seq <= world->model.head_seq,
              "watch %u stands at %" PRIu64 ", past the head, and is told nothing",
              reader->watch.number, reader->watch.seq);
    if (!reader->watch.lossless)
        return;
    fan_broker_stats(broker, &stats);
    /* Who ends with a sound stop has what its broker itself stored, whatever could not be read. */
    const struct sim_instance *instance = &world->instances[reader->instance];
    sim_check(world, "L7",
              !instance->stopping || !world->quiet ||
                  stats.notified_seq >= world->ports[reader->instance].answered_seq,
              "i%u stopped, told up to %" PRIu64 ", and stored up to %" PRIu64, reader->instance,
              stats.notified_seq, world->ports[reader->instance].answered_seq);
    sim_watch_reached(&reader->watch, stats.notified_seq);
}

static void check_end(struct sim_world *world, struct sim_reader *reader)
{
    const struct sim_instance *instance = &world->instances[reader->instance];
    sim_check(world, "L5", reader->fired || reader->unsubscribed || instance->stopping,
              "watch %u is closed, and nobody ended it", reader->watch.number);
    if (!reader->closed) {
        check_caught_up(world, reader);
        sim_count(world, reader->unsubscribed ? SIM_READER_UNSUBSCRIBED
                         : reader->fired      ? SIM_READER_CANCELLED
                                              : SIM_READER_STOPPED);
    }
    reader->closed = true;
}

/* From the log to live events, and back. */
static void note_way(struct sim_world *world, struct sim_reader *reader)
{
    struct fan_reader_stats stats = { .size = sizeof(stats) };
    fan_reader_stats(reader->reader, &stats);
    if (reader->behind && stats.live)
        sim_count(world, SIM_HAND_OVER);
    reader->behind = !stats.live;
    world->counts[SIM_REFILLED] += stats.refills - reader->refills;
    reader->refills = stats.refills;
}

static void drain(struct sim_world *world, struct sim_reader *reader, size_t limit)
{
    for (size_t i = 0; i < limit && !world->failed; i++) {
        const struct fan_event *event = NULL;
        struct fan_gap gap;
        enum fan_status status = fan_reader_next(reader->reader, 0, &event);
        note_way(world, reader);
        sim_check(world, "L5", !reader->closed || status == FAN_CLOSED,
                  "watch %u was closed, and gives %s", reader->watch.number,
                  fan_status_name(status));
        switch (status) {
        case FAN_OK:
            sim_check(world, "L5", !reader->unsubscribed, "watch %u is unsubscribed, and reads",
                      reader->watch.number);
            sim_watch_event(&reader->watch, event);
            break;
        case FAN_GAP:
            fan_reader_gap(reader->reader, &gap);
            sim_watch_gap(&reader->watch, &gap);
            break;
        case FAN_AGAIN:
            check_caught_up(world, reader);
            return;
        case FAN_CLOSED:
            check_end(world, reader);
            return;
        default:
            sim_check(world, "R01", !world->quiet, "watch %u cannot read: %s", reader->watch.number,
                      fan_status_name(status));
            return;
        }
    }
}

void sim_reader_drain(struct sim_world *world, struct sim_reader *reader, size_t limit)
{
    struct sim_instance *instance = &world->instances[reader->instance];
    instance->pins++;
    reader->busy = true;
    drain(world, reader, limit);
    reader->busy = false;
    instance->pins--;
}

void sim_reader_close(struct sim_world *world, struct sim_reader *reader)
{
    (void)world;
    fan_reader_free(reader->reader);
    fan_cancel_unref(reader->cancel);
    *reader = (struct sim_reader){ .reader = NULL };
}

void sim_act_reader(struct sim_world *world)
{
    struct sim_reader *reader = &world->readers[sim_random(world, READER_COUNT_MAX)];
    uint64_t dice = sim_random(world, 1000);
    if (reader->busy)
        return;
    if (!reader->reader) {
        if (dice < 300)
            open_reader(world, reader);
        return;
    }
    if (world->ports[reader->instance].crashed ||
        world->instances[reader->instance].asleep_ns > sim_now_ns())
        return;
    if (dice < 900) {
        sim_reader_drain(world, reader, 1 + (size_t)sim_random(world, dice < 450 ? 3 : 40));
    } else if (dice < 930 && reader->cancel) {
        fan_cancel_fire(reader->cancel);
        reader->fired = true;
    } else if (dice < 950) {
        fan_reader_unsubscribe(reader->reader);
        reader->unsubscribed = true;
    } else if (dice < 980) {
        sim_reader_close(world, reader);
    }
}
