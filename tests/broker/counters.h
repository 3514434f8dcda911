/*
 * One scenario, run in every mode of a broker in this process, and what was counted of it. The
 * daemon's test does the same through HTTP and compares.
 */
#ifndef TESTS_BROKER_COUNTERS_H
#define TESTS_BROKER_COUNTERS_H

#include <fanfare/fanfare.h>

#include "base/buffer.h"
#include "base/thread.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum counters_mode { COUNTERS_ASYNC, COUNTERS_SYNC, COUNTERS_STEPPED };

/*
 * Four are done at once; three the second time; two fail; one wears out its one retry, and is
 * published twice under its id.
 */
static const char *const counters_types[] = { "a.done",  "a.done",  "a.done", "a.done", "a.retry",
                                              "a.retry", "a.retry", "a.fail", "a.fail", "a.worn" };
#define COUNTERS_EVENTS (sizeof(counters_types) / sizeof(counters_types[0]))
#define COUNTERS_VERDICTS (COUNTERS_EVENTS + 3 + 1)

static inline enum fan_verdict counters_handle(void *context, const struct fan_event *event,
                                               const struct fan_handling *handling)
{
    const char *type = fan_event_type(event);
    (void)context;
    if (strcmp(type, "a.fail") == 0)
        return FAN_VERDICT_FAIL;
    if (strcmp(type, "a.worn") == 0 || (strcmp(type, "a.retry") == 0 && handling->attempt == 1))
        return FAN_VERDICT_RETRY;
    return FAN_VERDICT_DONE;
}

static inline enum fan_status counters_take(void *context, const char *bytes, size_t size)
{
    fan__buffer_add(context, bytes, size);
    return FAN_OK;
}

static inline void counters_demand(bool held, const char *what)
{
    if (held)
        return;
    fprintf(stderr, "counters: %s\n", what);
    abort();
}

/* Waits, or steps, until all verdicts are there. */
static inline void counters_finish(struct fan_broker *broker, bool stepped)
{
    struct fan__mutex mutex;
    struct fan__cond never;
    struct fan_broker_stats stats = FAN_BROKER_STATS_INIT;
    fan__mutex_init(&mutex);
    fan__cond_init(&never);
    fan__mutex_lock(&mutex);
    for (fan_broker_stats(broker, &stats); stats.processed < COUNTERS_VERDICTS;
         fan_broker_stats(broker, &stats))
        if (!stepped || fan_broker_step(broker) != FAN_OK)
            fan__cond_wait_until(&never, &mutex, fan__deadline_ns(2));
    fan__mutex_unlock(&mutex);
    fan__cond_deinit(&never);
    fan__mutex_deinit(&mutex);
}

static inline void counters_run(struct fan_broker *broker, bool stepped)
{
    struct fan_retry_policy retry = { .retries = 1, .delay_ms = 1 };
    struct fan_handler_options handler = { .size = FAN_HANDLER_OPTIONS_SIZE,
                                           .group = "mail",
                                           .handle = counters_handle,
                                           .retry = &retry };
    counters_demand(fan_broker_handle(broker, &handler, NULL, NULL) == FAN_OK, "handle");
    for (size_t i = 0; i <= COUNTERS_EVENTS; i++) {
        bool last = i + 1 >= COUNTERS_EVENTS;
        struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE,
                                         .type = counters_types[last ? COUNTERS_EVENTS - 1 : i],
                                         .id = last ? "twice" : NULL };
        enum fan_status status = fan_broker_publish(broker, &draft, NULL, NULL);
        counters_demand(status == FAN_OK || status == FAN_HANDLER, "publish");
    }
    counters_finish(broker, stepped);
}

/* Lines of the metrics that every mode must have alike, then the statistics; free it. */
static inline char *counters_of(const char *uri, enum counters_mode mode)
{
    static const char *const names[] = {
        "eventbroker_events_published_total",
        "eventbroker_events_processed_total",
        "eventbroker_event_processing_duration_seconds_count",
        "eventbroker_events_duplicate_total",
        "eventbroker_events_refused_total",
        "eventbroker_group_retries_total",
        "eventbroker_group_dead_letters",
        "eventbroker_verdicts_lost_total",
        "eventbroker_group_pending",
    };
    struct fan_prometheus *prometheus;
    struct fan_broker *broker;
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    struct fan__buffer all;
    struct fan__buffer some;
    fan__buffer_init(&all, NULL);
    fan__buffer_init(&some, NULL);
    counters_demand(fan_prometheus_new(NULL, &prometheus) == FAN_OK, "prometheus");
    options.metrics = fan_prometheus_metrics(prometheus);
    options.mode = mode == COUNTERS_SYNC ? FAN_MODE_SYNC : FAN_MODE_ASYNC;
    options.stepped = mode == COUNTERS_STEPPED;
    counters_demand(fan_broker_open(uri, &options, &broker, NULL) == FAN_OK, "open");
    counters_demand(fan_broker_start(broker) == FAN_OK, "start");
    counters_run(broker, options.stepped);
    counters_demand(fan_prometheus_write(prometheus, broker, FAN_METRICS_PROMETHEUS, counters_take,
                                         &all) == FAN_OK,
                    "write");
    fan__buffer_add(&all, "", 1);
    fan__buffer_add(&some, "\n", 1);
    for (char *rest = all.data, *line; (line = strsep(&rest, "\n"));)
        for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
            if (strncmp(line, names[i], strlen(names[i])) == 0)
                fan__buffer_add_format(&some, "%s\n", line);
    struct fan_broker_stats stats = FAN_BROKER_STATS_INIT;
    fan_broker_stats(broker, &stats);
    fan__buffer_add_format(&some,
                           "published %" PRIu64 "\nduplicates %" PRIu64 "\nprocessed %" PRIu64
                           "\nfailed %" PRIu64 "\nretried %" PRIu64 "\ndead %" PRIu64
                           "\nlost %" PRIu64 "\n",
                           stats.published, stats.duplicates, stats.processed, stats.failed,
                           stats.retried, stats.dead, stats.lost);
    fan_broker_free(broker);
    fan_prometheus_free(prometheus);
    fan__buffer_deinit(&all);
    size_t size;
    return fan__buffer_take(&some, &size);
}

#endif
