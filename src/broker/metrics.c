/* See metrics.h. */
#include "broker/metrics.h"

#include "base/env.h"
#include "broker/broker.h"

#include <fanfare/batch.h>

#include <string.h>

const char *fan_processed_status_name(enum fan_processed_status status)
{
    static const char *const names[] = {
        [FAN_PROCESSED_COMPLETED] = "completed",
        [FAN_PROCESSED_RETRIED] = "retried",
        [FAN_PROCESSED_FAILED] = "failed",
    };
    return status >= FAN_PROCESSED_COMPLETED && status <= FAN_PROCESSED_FAILED ? names[status] : "";
}

int64_t fan__now_counted_ns(const struct fan_broker *broker)
{
    return broker->metrics.committed ? fan__deadline_ns(0) : 0;
}

void fan__metrics_committed(struct fan_broker *broker, const struct fan_metrics_commit *commit,
                            struct fan__submission *const *submissions)
{
    const struct fan_metrics *metrics = &broker->metrics;
    if (metrics->committed)
        metrics->committed(metrics->context, commit);
    for (size_t i = 0; i < commit->count && metrics->event_published; i++) {
        const struct fan__submission *submission = submissions[i];
        if (submission->status == FAN_OK && !submission->duplicate)
            metrics->event_published(metrics->context, fan_event_source(submission->event),
                                     fan_event_type(submission->event));
    }
    if (metrics->queue_size)
        metrics->queue_size(metrics->context, commit->queued);
}

void fan__metrics_processed(const struct fan_broker *broker,
                            const struct fan_metrics_processed *processed)
{
    if (broker->metrics.event_processed)
        broker->metrics.event_processed(broker->metrics.context, processed);
}

/* How long a delivery took from its claim on, by the store's clock alone. */
struct taken {
    const struct fan_group_name *name;
    const struct fan_settle *item;
    int64_t took_us;
};

static bool see_taken(void *context, const struct fan_delivery *delivery)
{
    struct taken *taken = context;
    if (strcmp(delivery->group, taken->name->group) != 0 ||
        strcmp(delivery->handler, taken->name->handler) != 0)
        return true;
    int64_t ended_us = delivery->completed_us;
    if (taken->item->verdict == FAN_VERDICT_RETRY && delivery->status == FAN_EVENT_PENDING)
        ended_us = delivery->due_us - taken->item->delay_ms * INT64_C(1000);
    if (delivery->processed_us > 0 && ended_us > delivery->processed_us)
        taken->took_us = ended_us - delivery->processed_us;
    return false;
}

static void tell_settled(struct fan_broker *broker, const struct fan_group_name *name,
                         const struct fan_settle *item, enum fan_processed_status status,
                         struct fan_batch *batch)
{
    struct fan_query query = { .size = FAN_QUERY_SIZE, .limit = 1 };
    struct fan_read_result result;
    struct taken taken = { .name = name, .item = item };
    if (fan_store_read(broker->store, item->seq - 1, &query, batch, &result) != FAN_OK ||
        fan_batch_count(batch) == 0 || fan_event_seq(fan_batch_event(batch, 0)) != item->seq ||
        fan_store_deliveries(broker->store, item->seq, 0, see_taken, &taken) != FAN_OK) {
        fan__log(broker->env, FAN_LOG_DEBUG, "group %s: cannot tell of what was settled",
                 name->group);
        return;
    }
    const struct fan_event *event = fan_batch_event(batch, 0);
    struct fan_metrics_processed processed = {
        .size = sizeof(processed),
        .source = fan_event_source(event),
        .type = fan_event_type(event),
        .group = name->group,
        .handler = name->handler,
        .status = status,
        .duration_ns = taken.took_us * FAN__NS_PER_US,
        .waited_ns = -1,
    };
    fan__metrics_processed(broker, &processed);
}

void fan__metrics_settled(struct fan_broker *broker, const struct fan_group_name *name,
                          const struct fan_settle *items, size_t count)
{
    static const enum fan_processed_status statuses[] = {
        [FAN_VERDICT_DONE] = FAN_PROCESSED_COMPLETED,
        [FAN_VERDICT_RETRY] = FAN_PROCESSED_RETRIED,
        [FAN_VERDICT_FAIL] = FAN_PROCESSED_FAILED,
    };
    struct fan_batch *batch = NULL;
    if (broker->metrics.event_processed && fan_batch_new(broker->env, &batch) != FAN_OK)
        batch = NULL;
    for (size_t i = 0; i < count; i++) {
        bool lost = items[i].ret_status != FAN_OK;
        if (!lost && items[i].verdict == FAN_VERDICT_HAND_BACK)
            continue;
        enum fan_processed_status status = lost ? 0 : statuses[items[i].verdict];
        fan__dispatch_count(broker, status);
        if (!lost && batch)
            tell_settled(broker, name, &items[i], status, batch);
    }
    fan_batch_free(batch);
}
