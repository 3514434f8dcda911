/* A broker's life: open, start, stop, free. The order of the stop is written at fan_broker_stop. */
#include "broker/broker.h"

#include "base/adopt.h"
#include "base/env.h"
#include "base/status.h"
#include "event/uuid.h"

#include <fanfare/batch.h>
#include <fanfare/bus.h>
#include <fanfare/provider.h>

#include <string.h>

#define STOP_TIMEOUT_MS 5000
#define TAIL_WAKE_MS 5

static enum fan_status open_store(struct fan_broker *broker, const char *uri,
                                  const struct fan_broker_options *options, struct fan_error *error)
{
    broker->store = options->store;
    broker->owns_store = !options->store;
    if (options->store)
        return FAN_OK;
    if (options->provider)
        return fan_store_open_provider(options->provider, uri, broker->env, &broker->store, error);
    return fan_store_open(uri, broker->env, &broker->store, error);
}

static enum fan_status open_parts(struct fan_broker *broker, const char *uri,
                                  const struct fan_broker_options *options, struct fan_error *error)
{
    const struct fan_env *env = broker->env;
    enum fan_status status = open_store(broker, uri, options, error);
    if (status != FAN_OK)
        return status;
    status = fan_store_head(broker->store, &broker->notified_seq);
    if (status != FAN_OK)
        return fan__fail(error, status, "", "cannot read the head of the log: %s",
                         fan_status_text(status));
    broker->stats.notified_seq = broker->notified_seq;
    struct fan_bus_options bus_options = FAN_BUS_OPTIONS_INIT;
    bus_options.env = env;
    bus_options.by_reference = true;
    status = fan_bus_open(&bus_options, &broker->bus, error);
    if (status != FAN_OK)
        return status;
    broker->items = fan__alloc_zero(env, FAN__COMMIT_COUNT_MAX, sizeof(*broker->items));
    broker->taken = fan__alloc_zero(env, FAN__COMMIT_COUNT_MAX, sizeof(struct fan__submission *));
    char instance_id[FAN__INSTANCE_ID_SIZE];
    if (!options->instance_id)
        fan__instance_id(env, instance_id);
    broker->instance_id =
        fan__strdup(env, options->instance_id ? options->instance_id : instance_id);
    broker->defaults.instance_id = broker->instance_id;
    if (!broker->instance_id || !broker->items || !broker->taken ||
        fan_batch_new(env, &broker->page) != FAN_OK)
        return fan__fail(error, FAN_NO_MEMORY, "", "out of memory");
    return fan__dispatch_new(broker, options, error);
}

static void release(struct fan_broker *broker)
{
    fan__dispatch_free(broker);
    fan_bus_free(broker->bus);
    if (broker->owns_store)
        fan_store_close(broker->store);
    fan_batch_free(broker->page);
    fan__free(broker->env, broker->items);
    fan__free(broker->env, broker->taken);
    fan__free(broker->env, broker->instance_id);
    fan__cond_deinit(&broker->keep.wake);
    fan__cond_deinit(&broker->idle);
    fan__cond_deinit(&broker->room);
    fan__cond_deinit(&broker->writer_wake);
    fan__mutex_deinit(&broker->feed_mutex);
    fan__mutex_deinit(&broker->mutex);
    fan__free(broker->env, broker);
}

enum fan_status fan_broker_open(const char *uri, const struct fan_broker_options *options,
                                struct fan_broker **ret_broker, struct fan_error *ret_error)
{
    struct fan_broker_options adopted = FAN_BROKER_OPTIONS_INIT;
    if (options && !fan__adopt(&adopted, sizeof(adopted), options, sizeof(adopted)))
        return fan__fail(ret_error, FAN_INVALID, "options.size", "must be that of the struct");
    options = &adopted;
    if (!uri && !options->store)
        return fan__fail(ret_error, FAN_INVALID, "uri", "must be given");
    if (options->store && (uri || options->provider))
        return fan__fail(ret_error, FAN_INVALID, "store", "cannot go with a URI or a provider");
    if (options->instance_id &&
        (!*options->instance_id || strlen(options->instance_id) > FAN_TEXT_SIZE_MAX))
        return fan__fail(ret_error, FAN_INVALID, "instance_id", "must have 1 to %d bytes",
                         FAN_TEXT_SIZE_MAX);
    struct fan_retention retention = { .size = FAN_RETENTION_SIZE };
    if (options->retention &&
        !fan__adopt(&retention, sizeof(retention), options->retention, sizeof(retention)))
        return fan__fail(ret_error, FAN_INVALID, "retention.size", "must be FAN_RETENTION_SIZE");
    struct fan_metrics metrics = { .size = FAN_METRICS_SIZE };
    if (options->metrics &&
        !fan__adopt(&metrics, sizeof(metrics), options->metrics, sizeof(metrics)))
        return fan__fail(ret_error, FAN_INVALID, "metrics.size", "must be FAN_METRICS_SIZE");
    struct fan_broker *broker = fan__alloc_zero(options->env, 1, sizeof(*broker));
    if (!broker)
        return fan__fail(ret_error, FAN_NO_MEMORY, "", "out of memory");
    broker->env = options->env;
    broker->defaults = (struct fan_event_defaults)FAN_EVENT_DEFAULTS_INIT;
    broker->defaults.env = options->env;
    broker->defaults.payload_size_max = options->payload_size_max;
    broker->queue_count_max = options->queue_count_max ? options->queue_count_max : 65536;
    broker->publish_timeout_ms = options->publish_timeout_ms ? options->publish_timeout_ms : 30000;
    broker->stepped = options->stepped;
    broker->mode = options->mode;
    broker->metrics = metrics;
    broker->keep.asked = options->retention != NULL;
    broker->keep.retention = retention;
    broker->keep.interval_ms = options->retention_interval_ms ? options->retention_interval_ms
                                                              : FAN__KEEP_INTERVAL_MS_DEFAULT;
    broker->fork_generation = fan__fork_generation();
    fan__mutex_init(&broker->mutex);
    fan__mutex_init(&broker->feed_mutex);
    fan__cond_init(&broker->writer_wake);
    fan__cond_init(&broker->room);
    fan__cond_init(&broker->idle);
    fan__cond_init(&broker->keep.wake);
    fan__high_init(&broker->torn_seq);
    fan__backlog_init(&broker->queue);
    enum fan_status status = open_parts(broker, uri, options, ret_error);
    if (status != FAN_OK) {
        release(broker);
        return status;
    }
    *ret_broker = broker;
    return FAN_OK;
}

static enum fan_status start_threads(struct fan_broker *broker)
{
    enum fan_status status =
        fan__thread_start(&broker->writer, "fan-writer", fan__writer_main, broker);
    if (status == FAN_OK && fan_store_capabilities(broker->store) & FAN_CAPABILITY_TAIL_PROCESSES)
        status = fan__thread_start(&broker->tail, "fan-tail", fan__tail_main, broker);
    if (status == FAN_OK)
        status = fan__dispatch_start(broker);
    if (status == FAN_OK)
        status = fan__keep_start(broker);
    return status;
}

enum fan_status fan_broker_start(struct fan_broker *broker)
{
    if (fan__fork_generation() != broker->fork_generation)
        return FAN_FORKED;
    fan__mutex_lock(&broker->mutex);
    enum fan__run run = broker->run;
    if (run == FAN__RUN_OPENED) {
        broker->run = FAN__RUN_STARTED;
        broker->starting = true;
        fan__keep_begin(broker);
    }
    fan__mutex_unlock(&broker->mutex);
    if (run != FAN__RUN_OPENED)
        return run == FAN__RUN_STARTED ? FAN_MISUSE : FAN_CLOSED;
    enum fan_status status = broker->stepped ? FAN_OK : start_threads(broker);
    fan__mutex_lock(&broker->mutex);
    broker->starting = false;
    fan__cond_broadcast(&broker->idle);
    fan__mutex_unlock(&broker->mutex);
    if (status != FAN_OK)
        fan_broker_stop(broker, 0);
    return status;
}

/* Waits until the queue is empty and nobody commits, or refuses what is left. */
static enum fan_status drain(struct fan_broker *broker, uint32_t timeout_ms)
{
    int64_t deadline_ns = fan__deadline_ns(timeout_ms);
    bool in_time = true;
    enum fan_status status = FAN_OK;
    while (broker->queue.count > 0 || broker->committing) {
        if (!in_time && broker->queue.count > 0) {
            status = FAN_TIMED_OUT;
            fan__backlog_refuse(broker, FAN_CLOSED);
        } else if (!broker->committing && (broker->stepped || !broker->writer.started)) {
            fan__writer_begin(broker);
            fan__mutex_unlock(&broker->mutex);
            fan__commit_queue(broker);
            fan__mutex_lock(&broker->mutex);
            fan__writer_end(broker);
            in_time = fan__deadline_ns(0) <= deadline_ns;
        } else if (in_time) {
            in_time = fan__cond_wait_until(&broker->idle, &broker->mutex, deadline_ns);
        } else {
            fan__cond_wait(&broker->idle, &broker->mutex);
        }
    }
    return status;
}

/* A wake ends only a wait that is under way, so it is repeated until the tail has seen the stop. */
static void end_tail(struct fan_broker *broker)
{
    if (!broker->tail.started)
        return;
    fan__mutex_lock(&broker->mutex);
    while (!broker->tail_ended) {
        fan__mutex_unlock(&broker->mutex);
        fan_store_wake(broker->store);
        fan__mutex_lock(&broker->mutex);
        if (!broker->tail_ended)
            fan__cond_wait_until(&broker->idle, &broker->mutex, fan__deadline_ns(TAIL_WAKE_MS));
    }
    fan__mutex_unlock(&broker->mutex);
    fan__thread_join(&broker->tail);
}

/* Tells readers, before their end, what the log holds and could not be read when it was due. */
static void pay_debt(struct fan_broker *broker)
{
    while (broker->committing)
        fan__cond_wait(&broker->idle, &broker->mutex);
    if (!broker->catch_up)
        return;
    fan__writer_begin(broker);
    fan__mutex_unlock(&broker->mutex);
    fan__catch_up(broker);
    fan__mutex_lock(&broker->mutex);
    fan__writer_end(broker);
}

/*
 * The order: refuse new publishes, drain the queue, end retention, let handlers finish what was
 * claimed for them until the deadline and hand back the rest, end the tail, close the bus, end the
 * writer. Each step leaves nothing for a later one to wake.
 */
enum fan_status fan_broker_stop(struct fan_broker *broker, uint32_t timeout_ms)
{
    if (fan__fork_generation() != broker->fork_generation)
        return FAN_FORKED;
    /* It would wait for its own caller. */
    if (fan__dispatch_is_me(broker))
        return FAN_MISUSE;
    fan__mutex_lock(&broker->mutex);
    if (fan__writer_is_me(broker)) {
        fan__mutex_unlock(&broker->mutex);
        return FAN_MISUSE;
    }
    /* Threads that are about to be there are waited for, else nobody would end them. */
    while (broker->starting)
        fan__cond_wait(&broker->idle, &broker->mutex);
    if (broker->run >= FAN__RUN_STOPPING) {
        while (broker->run != FAN__RUN_STOPPED)
            fan__cond_wait(&broker->idle, &broker->mutex);
        fan__mutex_unlock(&broker->mutex);
        return FAN_OK;
    }
    broker->run = FAN__RUN_STOPPING;
    int64_t deadline_ns = fan__deadline_ns(timeout_ms);
    fan__cond_broadcast(&broker->room);
    enum fan_status status = drain(broker, timeout_ms);
    fan__mutex_unlock(&broker->mutex);

    fan__keep_stop(broker);
    size_t abandoned = fan__dispatch_stop(broker, deadline_ns);
    if (abandoned > 0) {
        fan__log(
            broker->env, FAN_LOG_WARNING,
            "stop: %zu calls of handlers did not end by the deadline; their events were handed "
            "back, and what they say is dropped",
            abandoned);
        status = FAN_TIMED_OUT;
    }
    end_tail(broker);

    fan__mutex_lock(&broker->mutex);
    pay_debt(broker);
    fan__mutex_unlock(&broker->mutex);
    /* Before others that stop are let go: they too are promised a bus that is closed. */
    fan_bus_close(broker->bus);
    fan__mutex_lock(&broker->mutex);
    broker->run = FAN__RUN_STOPPED;
    broker->writer_sleeps = false;
    fan__cond_broadcast(&broker->writer_wake);
    fan__cond_broadcast(&broker->idle);
    fan__mutex_unlock(&broker->mutex);
    fan__thread_join(&broker->writer);
    return status;
}

void fan_broker_free(struct fan_broker *broker)
{
    /* In a fork's child, locks and conditions are as the parent's threads had them: left alone. */
    if (!broker || fan__fork_generation() != broker->fork_generation)
        return;
    fan_broker_stop(broker, STOP_TIMEOUT_MS);
    release(broker);
}

const struct fan_event_defaults *fan_broker_defaults(const struct fan_broker *broker)
{
    return &broker->defaults;
}

struct fan_store *fan_broker_store(struct fan_broker *broker)
{
    return broker->store;
}

uint64_t fan__broker_told_seq(struct fan_broker *broker)
{
    fan__mutex_lock(&broker->mutex);
    uint64_t seq = broker->stats.notified_seq;
    fan__mutex_unlock(&broker->mutex);
    return seq;
}

void fan_broker_stats(struct fan_broker *broker, struct fan_broker_stats *ret_stats)
{
    size_t size = ret_stats->size < sizeof(*ret_stats) ? ret_stats->size : sizeof(*ret_stats);
    struct fan_broker_stats given = FAN_BROKER_STATS_INIT;
    memcpy(&given, ret_stats, size);
    struct fan_broker_stats stats = { .size = size };
    bool forked = fan__fork_generation() != broker->fork_generation;
    if (!forked) {
        fan__mutex_lock(&broker->mutex);
        stats = broker->stats;
        stats.queued = broker->queue.count;
        stats.running = broker->run == FAN__RUN_STARTED;
        fan__mutex_unlock(&broker->mutex);
        fan__dispatch_stats(broker, &stats);
    }
    stats.instance_id = broker->instance_id;
    stats.mode = broker->mode;
    stats.provider = fan_store_name(broker->store);
    stats.store = given.store;
    stats.store_status = FAN_OK;
    if (stats.store)
        stats.store_status = forked ? FAN_FORKED : fan_store_stats(broker->store, stats.store);
    stats.size = size;
    memcpy(ret_stats, &stats, size);
}
