/*
 * See prometheus.h. One lock guards all counts, for a few tens of nanoseconds at a time; a scrape
 * copies them as they stand at one moment and writes from the copy. Texts of labels are never
 * freed before the end, so that the copy may point to them.
 */
#include "broker/prometheus.h"

#include "base/env.h"
#include "base/thread.h"
#include "broker/exposition.h"
#include "broker/label.h"

#include <fanfare/broker.h>
#include <fanfare/metrics.h>
#include <fanfare/store.h>

#include <string.h>

#define STATUSES (FAN_PROCESSED_FAILED + 1)

/* Of a source and type. */
struct series {
    uint64_t published;
    uint64_t processed[STATUSES];
    struct fan__histogram durations;
};

/* [source - 1] and [0] are the `other` of a source, and of groups. */
struct counts {
    struct fan__labels kinds;
    struct series series[FAN__LABELS_MAX];
    struct fan__labels groups;
    uint64_t retries[FAN__LABELS_MAX];
    struct fan__histogram commit_sizes;
    struct fan__histogram appends;
    struct fan__histogram queue_waits;
    struct fan__histogram work_waits;
};

struct fan_prometheus {
    const struct fan_env *env;
    unsigned fork_generation;
    struct fan_metrics metrics;
    struct fan__mutex mutex;
    struct counts counts; /* under the mutex */
};

/* What the store says of a group and handler now; of `other`, sums and the longest lag. */
struct place {
    bool seen;
    uint64_t lag;
    uint64_t lag_us;
    uint64_t pending;
    uint64_t processing;
    uint64_t dead;
};

struct places {
    int64_t now_us;
    struct fan__labels groups;
    struct place places[FAN__LABELS_MAX];
};

const char *fan_metrics_format_type(enum fan_metrics_format format)
{
    return format == FAN_METRICS_OPENMETRICS
               ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
               : "text/plain; version=0.0.4; charset=utf-8";
}

/* ---- Counting ---- */

static struct series *series_of(struct counts *counts, enum fan_source source, const char *type)
{
    unsigned other = (unsigned)source - FAN_SOURCE_DATABASE;
    return &counts->series[fan__labels_find(&counts->kinds, fan_source_text(source), type, other)];
}

static uint64_t not_negative(int64_t value)
{
    return value > 0 ? (uint64_t)value : 0;
}

static void on_published(void *context, enum fan_source source, const char *type)
{
    struct fan_prometheus *prometheus = context;
    fan__mutex_lock(&prometheus->mutex);
    series_of(&prometheus->counts, source, type)->published++;
    fan__mutex_unlock(&prometheus->mutex);
}

static void on_processed(void *context, const struct fan_metrics_processed *processed)
{
    struct fan_prometheus *prometheus = context;
    struct counts *counts = &prometheus->counts;
    fan__mutex_lock(&prometheus->mutex);
    struct series *series = series_of(counts, processed->source, processed->type);
    series->processed[processed->status]++;
    fan__histogram_add(&series->durations, &fan__histogram_times,
                       not_negative(processed->duration_ns));
    if (processed->waited_ns >= 0)
        fan__histogram_add(&counts->work_waits, &fan__histogram_times,
                           (uint64_t)processed->waited_ns);
    if (processed->group && processed->status == FAN_PROCESSED_RETRIED)
        counts
            ->retries[fan__labels_find(&counts->groups, processed->group, processed->handler, 0)]++;
    fan__mutex_unlock(&prometheus->mutex);
}

static void on_committed(void *context, const struct fan_metrics_commit *commit)
{
    struct fan_prometheus *prometheus = context;
    struct counts *counts = &prometheus->counts;
    fan__mutex_lock(&prometheus->mutex);
    if (commit->stored > 0)
        fan__histogram_add(&counts->commit_sizes, &fan__histogram_sizes, commit->stored);
    fan__histogram_add(&counts->appends, &fan__histogram_times, not_negative(commit->append_ns));
    /* What waits for a storage that is down has not waited to its end. */
    if (commit->waited_ns >= 0 && commit->count > 0)
        fan__histogram_add(&counts->queue_waits, &fan__histogram_times,
                           (uint64_t)commit->waited_ns);
    fan__mutex_unlock(&prometheus->mutex);
}

/* ---- Its life ---- */

static void init_groups(struct fan__labels *groups, const struct fan_env *env)
{
    fan__labels_init(groups, env);
    fan__labels_reserve(groups, FAN__LABEL_OTHER, "");
}

enum fan_status fan_prometheus_new(const struct fan_env *env,
                                   struct fan_prometheus **ret_prometheus)
{
    struct fan_prometheus *prometheus = fan__alloc_zero(env, 1, sizeof(*prometheus));
    if (!prometheus)
        return FAN_NO_MEMORY;
    prometheus->env = env;
    prometheus->fork_generation = fan__fork_generation();
    fan__mutex_init(&prometheus->mutex);
    fan__labels_init(&prometheus->counts.kinds, env);
    for (unsigned source = FAN_SOURCE_DATABASE; source <= FAN_SOURCE_INTERNAL; source++)
        fan__labels_reserve(&prometheus->counts.kinds, fan_source_text((enum fan_source)source),
                            FAN__LABEL_OTHER);
    init_groups(&prometheus->counts.groups, env);
    prometheus->metrics = (struct fan_metrics){
        .size = FAN_METRICS_SIZE,
        .context = prometheus,
        .event_published = on_published,
        .event_processed = on_processed,
        .committed = on_committed,
    };
    *ret_prometheus = prometheus;
    return FAN_OK;
}

void fan_prometheus_free(struct fan_prometheus *prometheus)
{
    if (!prometheus || fan__fork_generation() != prometheus->fork_generation)
        return;
    fan__labels_deinit(&prometheus->counts.kinds);
    fan__labels_deinit(&prometheus->counts.groups);
    fan__mutex_deinit(&prometheus->mutex);
    fan__free(prometheus->env, prometheus);
}

const struct fan_metrics *fan_prometheus_metrics(struct fan_prometheus *prometheus)
{
    return &prometheus->metrics;
}

/* ---- Writing ---- */

static struct fan__label_set labels_of(const struct fan__labels *kinds, unsigned index)
{
    const struct fan__label *label = &kinds->labels[index];
    return (struct fan__label_set){ { { "source", label->first }, { "type", label->second } } };
}

static struct fan__label_set group_labels(const struct fan__labels *groups, unsigned index)
{
    const struct fan__label *label = &groups->labels[index];
    return (struct fan__label_set){ { { "group", label->first }, { "handler", label->second } } };
}

static void expose_processed(struct fan__exposition *exposition, const struct counts *counts)
{
    for (unsigned i = 0; i < counts->kinds.count; i++) {
        for (unsigned status = FAN_PROCESSED_COMPLETED; status < STATUSES; status++) {
            struct fan__label_set labels = labels_of(&counts->kinds, i);
            labels.values[2] = (struct fan__label_value){
                "status", fan_processed_status_name((enum fan_processed_status)status)
            };
            if (counts->series[i].processed[status] > 0)
                fan__expose(exposition, &labels, counts->series[i].processed[status]);
        }
    }
}

static void expose_kinds(struct fan__exposition *exposition, const struct counts *counts)
{
    fan__expose_family(exposition, "eventbroker_events_published", FAN__FAMILY_COUNTER,
                       "Events stored, by source and type; types past a bound are other.");
    for (unsigned i = 0; i < counts->kinds.count; i++) {
        struct fan__label_set labels = labels_of(&counts->kinds, i);
        if (counts->series[i].published > 0)
            fan__expose(exposition, &labels, counts->series[i].published);
    }
    fan__expose_family(exposition, "eventbroker_events_processed", FAN__FAMILY_COUNTER,
                       "Verdicts of handlers: completed, retried, or failed for good.");
    expose_processed(exposition, counts);
    fan__expose_family(exposition, "eventbroker_event_processing_duration_seconds",
                       FAN__FAMILY_HISTOGRAM, "Time in handlers, by source and type of the event.");
    for (unsigned i = 0; i < counts->kinds.count; i++) {
        const struct series *series = &counts->series[i];
        struct fan__label_set labels = labels_of(&counts->kinds, i);
        if (series->processed[FAN_PROCESSED_COMPLETED] + series->processed[FAN_PROCESSED_RETRIED] +
                series->processed[FAN_PROCESSED_FAILED] >
            0)
            fan__expose_histogram(exposition, &labels, &series->durations, &fan__histogram_times);
    }
}

static void expose_waits(struct fan__exposition *exposition, const struct counts *counts)
{
    const struct {
        const char *name;
        const char *help;
        const struct fan__histogram *histogram;
        const struct fan__histogram_scale *scale;
    } families[] = {
        { "eventbroker_commit_events", "Events that one commit took to the log.",
          &counts->commit_sizes, &fan__histogram_sizes },
        { "eventbroker_append_duration_seconds", "Time that the log took for a commit or a try.",
          &counts->appends, &fan__histogram_times },
        { "eventbroker_queue_wait_seconds",
          "How long the first event of a commit waited for the writer.", &counts->queue_waits,
          &fan__histogram_times },
        { "eventbroker_work_queue_wait_seconds",
          "How long a claimed event waited for a worker of this process.", &counts->work_waits,
          &fan__histogram_times },
    };
    for (size_t i = 0; i < sizeof(families) / sizeof(families[0]); i++) {
        fan__expose_family(exposition, families[i].name, FAN__FAMILY_HISTOGRAM, families[i].help);
        fan__expose_histogram(exposition, NULL, families[i].histogram, families[i].scale);
    }
}

#define EXPOSE_ALL(exposition, families)                                                           \
    fan__expose_all(exposition, families, sizeof(families) / sizeof((families)[0]))

static void expose_broker(struct fan__exposition *exposition, const struct fan_broker_stats *stats)
{
    const struct fan__family families[] = {
        { "eventbroker_queue_size", FAN__FAMILY_GAUGE, "Events that wait for the writer.",
          stats->queued },
        { "eventbroker_workers_active", FAN__FAMILY_GAUGE, "Workers that are in a handler.",
          stats->workers_active },
        { "eventbroker_workers", FAN__FAMILY_GAUGE, "Workers of this process.", stats->workers },
        { "eventbroker_work_queue_size", FAN__FAMILY_GAUGE,
          "Claimed events that wait for a worker.", stats->work_queued },
        { "eventbroker_subscriptions", FAN__FAMILY_GAUGE, "Readers and handlers.",
          stats->subscriptions },
        { "eventbroker_groups_unhandled", FAN__FAMILY_GAUGE,
          "Groups that are owed events and that nobody handles for.", stats->unhandled },
        { "eventbroker_notified_seq", FAN__FAMILY_GAUGE,
          "The last sequence that subscribers were told.", stats->notified_seq },
        { "eventbroker_events_duplicate", FAN__FAMILY_COUNTER,
          "Events whose id was stored already.", stats->duplicates },
        { "eventbroker_events_refused", FAN__FAMILY_COUNTER,
          "Events that queue or log did not take; who waits for room counts at each try.",
          stats->refused },
        { "eventbroker_commits", FAN__FAMILY_COUNTER, "Commits to the log.", stats->commits },
        { "eventbroker_commit_failures", FAN__FAMILY_COUNTER, "Commits that failed.",
          stats->commit_failures },
        { "eventbroker_verdicts_late", FAN__FAMILY_COUNTER,
          "Verdicts that came after the time limit of their handler.", stats->late },
        { "eventbroker_verdicts_lost", FAN__FAMILY_COUNTER,
          "Verdicts on what another held by then.", stats->lost },
        { "eventbroker_retention_removed", FAN__FAMILY_COUNTER, "Events that retention removed.",
          stats->removed },
        { "eventbroker_retention_expired", FAN__FAMILY_COUNTER,
          "Deliveries that were owed for too long.", stats->expired },
        { "eventbroker_retention_discarded", FAN__FAMILY_COUNTER,
          "Dead letters that retention discarded.", stats->discarded },
        { "eventbroker_retention_groups_expired", FAN__FAMILY_COUNTER,
          "Groups in which no member was seen for too long.", stats->groups_expired },
        { "eventbroker_retention_failures", FAN__FAMILY_COUNTER, "Calls of retention that failed.",
          stats->retention_failures },
    };
    EXPOSE_ALL(exposition, families);
}

static void expose_log(struct fan__exposition *exposition, const struct fan_store_stats *store)
{
    const struct fan__family families[] = {
        { "eventbroker_log_events", FAN__FAMILY_GAUGE, "Events in the log.", store->events },
        { "eventbroker_log_bytes", FAN__FAMILY_GAUGE, "Bytes that the log holds.", store->bytes },
        { "eventbroker_log_last_seq", FAN__FAMILY_GAUGE, "The last sequence of the log.",
          store->last_seq },
    };
    EXPOSE_ALL(exposition, families);
}

static bool see_group(void *context, const struct fan_group_stats *stats)
{
    struct places *places = context;
    struct place *place =
        &places->places[fan__labels_find(&places->groups, stats->group, stats->handler, 0)];
    uint64_t lag_us = stats->oldest_us > 0 ? not_negative(places->now_us - stats->oldest_us) : 0;
    place->seen = true;
    place->lag += stats->lag;
    place->lag_us = lag_us > place->lag_us ? lag_us : place->lag_us;
    place->pending += stats->pending;
    place->processing += stats->processing;
    place->dead += stats->failed;
    return true;
}

static void expose_places(struct fan__exposition *exposition, const struct places *places)
{
    static const struct {
        const char *name;
        const char *help;
        size_t offset;
        bool seconds;
    } families[] = {
        { "eventbroker_group_lag_events", "Events after the place of the group, wanted or not.",
          offsetof(struct place, lag), false },
        { "eventbroker_group_lag_seconds", "Age of the first event that is still owed.",
          offsetof(struct place, lag_us), true },
        { "eventbroker_group_pending", "Deliveries that are owed and not claimed.",
          offsetof(struct place, pending), false },
        { "eventbroker_group_processing", "Deliveries that a member has claimed.",
          offsetof(struct place, processing), false },
        { "eventbroker_group_dead_letters", "Dead letters.", offsetof(struct place, dead), false },
    };
    for (size_t f = 0; f < sizeof(families) / sizeof(families[0]); f++) {
        fan__expose_family(exposition, families[f].name, FAN__FAMILY_GAUGE, families[f].help);
        for (unsigned i = 0; i < places->groups.count; i++) {
            const struct place *place = &places->places[i];
            struct fan__label_set labels = group_labels(&places->groups, i);
            uint64_t value = *(const uint64_t *)((const char *)place + families[f].offset);
            if (!place->seen)
                continue;
            if (families[f].seconds)
                fan__expose_seconds(exposition, &labels, value * (uint64_t)FAN__NS_PER_US);
            else
                fan__expose(exposition, &labels, value);
        }
    }
}

static void expose_retries(struct fan__exposition *exposition, const struct counts *counts)
{
    fan__expose_family(exposition, "eventbroker_group_retries", FAN__FAMILY_COUNTER,
                       "Retries that handlers of this process, or members by it, asked for.");
    for (unsigned i = 0; i < counts->groups.count; i++) {
        struct fan__label_set labels = group_labels(&counts->groups, i);
        if (counts->retries[i] > 0)
            fan__expose(exposition, &labels, counts->retries[i]);
    }
}

static struct counts *copy_counts(struct fan_prometheus *prometheus)
{
    struct counts *counts = fan__alloc(prometheus->env, sizeof(*counts));
    if (!counts)
        return NULL;
    fan__mutex_lock(&prometheus->mutex);
    *counts = prometheus->counts;
    fan__mutex_unlock(&prometheus->mutex);
    return counts;
}

static void expose_store(struct fan__exposition *exposition, struct fan_store *store,
                         struct places *places)
{
    struct fan_store_stats stats = { .size = sizeof(stats) };
    enum fan_status status = fan_store_stats(store, &stats);
    if (status == FAN_OK)
        status = fan_store_groups(store, see_group, places);
    fan__expose_family(exposition, "eventbroker_log_up", FAN__FAMILY_GAUGE,
                       "Whether the log answers.");
    fan__expose(exposition, NULL, status == FAN_OK);
    if (status != FAN_OK)
        return;
    expose_log(exposition, &stats);
    expose_places(exposition, places);
}

enum fan_status fan__prometheus_expose(struct fan_prometheus *prometheus, struct fan_broker *broker,
                                       struct fan__exposition *exposition)
{
    if (fan__fork_generation() != prometheus->fork_generation)
        return FAN_FORKED;
    struct fan_broker_stats stats = FAN_BROKER_STATS_INIT;
    struct counts *counts = copy_counts(prometheus);
    struct places *places = fan__alloc_zero(prometheus->env, 1, sizeof(*places));
    if (counts && places) {
        init_groups(&places->groups, prometheus->env);
        places->now_us = fan__wall_us(prometheus->env);
        fan_broker_stats(broker, &stats);
        expose_kinds(exposition, counts);
        expose_broker(exposition, &stats);
        expose_waits(exposition, counts);
        expose_retries(exposition, counts);
        expose_store(exposition, fan_broker_store(broker), places);
        fan__feeds_expose(broker, exposition);
        fan__labels_deinit(&places->groups);
    }
    bool whole = counts && places && !exposition->text->failed;
    fan__free(prometheus->env, counts);
    fan__free(prometheus->env, places);
    return whole ? FAN_OK : FAN_NO_MEMORY;
}

enum fan_status fan_prometheus_write(struct fan_prometheus *prometheus, struct fan_broker *broker,
                                     enum fan_metrics_format format, fan_metrics_sink sink,
                                     void *context)
{
    struct fan__buffer text;
    struct fan__exposition exposition = { .text = &text, .format = format };
    fan__buffer_init(&text, prometheus->env);
    enum fan_status status = fan__prometheus_expose(prometheus, broker, &exposition);
    fan__expose_end(&exposition);
    if (status == FAN_OK && text.failed)
        status = FAN_NO_MEMORY;
    if (status == FAN_OK)
        status = sink(context, text.data, text.size);
    fan__buffer_deinit(&text);
    return status;
}
