/* Readers of every policy: from everywhere, slow, stalled, cancelled, unsubscribed. */
#include "sim.h"

#include <inttypes.h>

static const enum fan_policy policies[] = { FAN_POLICY_REFILL, FAN_POLICY_DEFAULT,
                                            FAN_POLICY_DROP_NEWEST, FAN_POLICY_DROP_OLDEST,
                                            FAN_POLICY_LATEST };

static void open_reader(struct sim_world *world, struct sim_reader *reader)
{
    unsigned index = (unsigned)sim_random(world, world->instance_count);
    struct sim_instance *instance = &world->instances[index];
    if (!instance->broker || instance->stopping || world->ports[index].crashed)
        return;
    *reader = (struct sim_reader){ .instance = index };
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
    uint64_t head_seq = world->model.head_seq;
    bool foreign = false;
    if (options.start == FAN_START_CURSOR) {
        options.cursor.seq = sim_random(world, head_seq + 1);
        if (sim_chance(world, 700))
            options.cursor.epoch = fan_store_epoch(world->store);
        if (sim_chance(world, 50)) {
            options.cursor.epoch = fan_store_epoch(world->store) ^ 1;
            foreign = true;
        }
    }
    if (sim_chance(world, 300) && fan_cancel_new(&world->env, &reader->cancel) == FAN_OK)
        options.cancel = reader->cancel;
    enum fan_status status =
        fan_broker_subscribe(instance->broker, &options, &reader->reader, NULL);
    if (status != FAN_OK) {
        fan_cancel_unref(reader->cancel);
        *reader = (struct sim_reader){ .reader = NULL };
        return;
    }
    struct fan_cursor place;
    fan_reader_cursor(reader->reader, &place);
    sim_check(world, "L7", options.start != FAN_START_NOW || place.seq <= head_seq,
              "a reader from now begins at %" PRIu64 ", the head is %" PRIu64, place.seq, head_seq);
    bool refills = options.policy == FAN_POLICY_REFILL || options.policy == FAN_POLICY_DEFAULT;
    reader->watch = (struct sim_watch){ .world = world,
                                        .number = ++world->reader_number,
                                        .topic = options.topic,
                                        .pattern = options.pattern,
                                        .lossless = refills,
                                        .latest = options.policy == FAN_POLICY_LATEST,
                                        .foreign = foreign,
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
    if (!reader->watch.lossless || reader->unsubscribed || reader->fired)
        return;
    fan_broker_stats(broker, &stats);
    sim_watch_reached(&reader->watch, stats.notified_seq);
}

static void check_end(struct sim_world *world, struct sim_reader *reader)
{
    const struct sim_instance *instance = &world->instances[reader->instance];
    sim_check(world, "L5", reader->fired || reader->unsubscribed || instance->stopping,
              "watch %u is closed, and nobody ended it", reader->watch.number);
    if (!reader->closed)
        check_caught_up(world, reader);
    reader->closed = true;
}

void sim_reader_drain(struct sim_world *world, struct sim_reader *reader, size_t limit)
{
    for (size_t i = 0; i < limit && !world->failed; i++) {
        const struct fan_event *event = NULL;
        struct fan_gap gap;
        enum fan_status status = fan_reader_next(reader->reader, 0, &event);
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
    if (!reader->reader) {
        if (dice < 300)
            open_reader(world, reader);
        return;
    }
    if (world->ports[reader->instance].crashed)
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
