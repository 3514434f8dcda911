/* See health.h. */
#include "server/health.h"

#include "base/env.h"
#include "event/json.h"
#include "server/accept.h"
#include "server/daemon.h"
#include "server/group.h"
#include "server/reply.h"

#include <fanfare/tee.h>

#include <inttypes.h>
#include <string.h>

void fan__health_alive(struct fan__http_request *request)
{
    static const char text[] = "ok\n";
    fan__http_answer(request, 200, "text/plain", text, sizeof(text) - 1);
}

/* ---- Gathering ---- */

static void add_counters(struct fan__hub_counters *sum, const struct fan__hub_counters *part)
{
    sum->streams += part->streams;
    sum->live += part->live;
    sum->opened += part->opened;
    sum->delivered += part->delivered;
    sum->encoded += part->encoded;
    sum->fallbacks += part->fallbacks;
    sum->pages += part->pages;
    sum->gaps += part->gaps;
}

static void gather(struct fan__report *report)
{
    struct fan__daemon *daemon = report->daemon;
    fan__http_server_counters(daemon->http, &report->http);
    fan__mutex_lock(&daemon->mutex);
    for (struct fan__hub *hub = daemon->hubs; hub; hub = hub->next) {
        fan__mutex_lock(&hub->mutex);
        add_counters(&report->hub, &hub->published);
        fan__mutex_unlock(&hub->mutex);
    }
    fan__mutex_unlock(&daemon->mutex);
    report->uptime_ns = (uint64_t)(fan__monotonic_ns(daemon->env) - daemon->started_ns);
}

static void free_report(struct fan__report *report)
{
    fan__buffer_deinit(&report->text);
    fan__free(report->daemon->env, report);
}

static void start_report(struct fan__http_request *request, void (*run)(struct fan__job *job),
                         void (*done)(struct fan__job *job))
{
    struct fan__daemon *daemon = fan__http_context(request);
    struct fan__report *report = fan__alloc_zero(daemon->env, 1, sizeof(*report));
    if (!report) {
        fan__reply_busy(request, NULL, "out of memory");
        return;
    }
    report->daemon = daemon;
    report->request = request;
    report->job.run = run;
    report->job.done = done;
    report->format = fan__accept_metrics(fan__http_header(request, "accept"));
    fan__buffer_init(&report->text, daemon->env);
    fan__job_start(fan__http_loop(request), &report->job);
}

/* ---- /readyz ---- */

static void on_ready_run(struct fan__job *job)
{
    struct fan__report *report = (struct fan__report *)job;
    uint64_t head_seq;
    report->broker = (struct fan_broker_stats)FAN_BROKER_STATS_INIT;
    fan_broker_stats(report->daemon->broker, &report->broker);
    report->store_status = fan_store_head(report->daemon->store, &head_seq);
}

static void on_ready_done(struct fan__job *job)
{
    struct fan__report *report = (struct fan__report *)job;
    static const char text[] = "ready\n";
    if (!report->broker.running)
        fan__reply_busy(report->request, "broker", "is stopping");
    else if (report->store_status != FAN_OK)
        fan__reply_busy(report->request, "store", fan_status_text(report->store_status));
    else
        fan__http_answer(report->request, 200, "text/plain", text, sizeof(text) - 1);
    free_report(report);
}

void fan__health_ready(struct fan__http_request *request)
{
    start_report(request, on_ready_run, on_ready_done);
}

/* ---- /v1/stats ---- */

struct member {
    const char *name;
    uint64_t value;
};

static void add_members(struct fan__buffer *json, const struct member *members, size_t count)
{
    for (size_t i = 0; i < count; i++)
        fan__buffer_add_format(json, ",\"%s\":%" PRIu64, members[i].name, members[i].value);
    fan__buffer_add(json, "}", 1);
}

#define ADD_MEMBERS(json, members) add_members(json, members, sizeof(members) / sizeof(*(members)))

static void write_broker(struct fan__buffer *json, const struct fan_broker_stats *broker)
{
    const struct member members[] = {
        { "published", broker->published },
        { "duplicates", broker->duplicates },
        { "refused", broker->refused },
        { "commits", broker->commits },
        { "queued", broker->queued },
        { "commit_failures", broker->commit_failures },
        { "handled", broker->handled },
        { "notified_seq", broker->notified_seq },
        { "readers", broker->readers },
        { "handlers", broker->handlers },
        { "processed", broker->processed },
        { "failed", broker->failed },
        { "retried", broker->retried },
        { "dead", broker->dead },
        { "late", broker->late },
        { "lost", broker->lost },
        { "workers", broker->workers },
        { "workers_active", broker->workers_active },
        { "unhandled", broker->unhandled },
        { "work_queued", broker->work_queued },
        { "removed", broker->removed },
        { "subscriptions", broker->subscriptions },
        { "expired", broker->expired },
        { "discarded", broker->discarded },
        { "groups_expired", broker->groups_expired },
        { "retention_failures", broker->retention_failures },
    };
    fan__buffer_add_format(json, ",\n\"broker\":{\"running\":%s,\"mode\":\"%s\"",
                           broker->running ? "true" : "false",
                           broker->mode == FAN_MODE_SYNC ? "sync" : "async");
    ADD_MEMBERS(json, members);
}

static void write_store(struct fan__buffer *json, const struct fan__report *report)
{
    const struct fan__daemon *daemon = report->daemon;
    const struct fan_store_stats *store = &report->store;
    const struct member members[] = {
        { "events", store->events },       { "first_seq", store->first_seq },
        { "last_seq", store->last_seq },   { "bytes", store->bytes },
        { "pending", store->pending },     { "processing", store->processing },
        { "completed", store->completed }, { "failed", store->failed },
        { "groups", store->groups },
    };
    fan__buffer_add_format(json, ",\n\"store\":{\"kind\":\"%s\",\"epoch\":\"%016" PRIx64 "\"",
                           fan_store_name(daemon->store), daemon->epoch);
    if (report->store_status == FAN_OK)
        ADD_MEMBERS(json, members);
    else
        fan__buffer_add_format(json, ",\"error\":\"%s\"}", fan_status_text(report->store_status));
}

/* How far the copy of a tee is; nothing for any other store. */
static void write_copy(struct fan__buffer *json, const struct fan__daemon *daemon)
{
    struct fan_tee_stats copy = { .size = sizeof(copy) };
    if (fan_tee_stats(daemon->store, &copy) != FAN_OK)
        return;
    const struct member members[] = {
        { "copied_seq", copy.copied_seq }, { "lag", copy.lag },
        { "copied", copy.copied },         { "refused", copy.refused },
        { "torn_seq", copy.torn_seq },     { "failures", copy.failures },
    };
    fan__buffer_add_format(
        json, ",\n\"copy\":{\"status\":\"%s\",\"words\":", fan_status_text(copy.status));
    fan__json_add_string(json, (struct fan_str){ copy.words, strlen(copy.words) });
    ADD_MEMBERS(json, members);
}

static void write_http(struct fan__buffer *json, const struct fan__http_counters *http)
{
    const struct member members[] = {
        { "accepted", http->accepted },
        { "refused", http->refused },
        { "requests", http->requests },
        { "responses_2xx", http->responses[2] },
        { "responses_3xx", http->responses[3] },
        { "responses_4xx", http->responses[4] },
        { "responses_5xx", http->responses[5] },
        { "timeouts", http->timeouts },
        { "bytes_received", http->bytes_received },
        { "bytes_sent", http->bytes_sent },
    };
    fan__buffer_add_format(json, ",\n\"http\":{\"connections\":%" PRIu64, http->connections);
    ADD_MEMBERS(json, members);
}

static void write_streams(struct fan__buffer *json, const struct fan__hub_counters *hub)
{
    const struct member members[] = {
        { "live", hub->live },           { "opened", hub->opened },
        { "delivered", hub->delivered }, { "encoded", hub->encoded },
        { "fallbacks", hub->fallbacks }, { "pages", hub->pages },
        { "gaps", hub->gaps },
    };
    fan__buffer_add_format(json, ",\n\"streams\":{\"open\":%" PRIu64, hub->streams);
    ADD_MEMBERS(json, members);
}

static void on_stats_run(struct fan__job *job)
{
    struct fan__report *report = (struct fan__report *)job;
    struct fan__buffer *json = &report->text;
    gather(report);
    report->store.size = sizeof(report->store);
    report->broker = (struct fan_broker_stats)FAN_BROKER_STATS_INIT;
    report->broker.store = &report->store;
    fan_broker_stats(report->daemon->broker, &report->broker);
    report->store_status = report->broker.store_status;
    const char *instance_id = report->broker.instance_id;
    fan__buffer_add_text(json, "{\"instance_id\":");
    fan__json_add_string(json, (struct fan_str){ instance_id, strlen(instance_id) });
    fan__buffer_add_format(json, ",\"uptime_s\":%.3f", (double)report->uptime_ns / 1e9);
    write_broker(json, &report->broker);
    write_store(json, report);
    write_copy(json, report->daemon);
    write_http(json, &report->http);
    write_streams(json, &report->hub);
    fan__buffer_add_text(json, ",\n");
    /* A list that breaks off is still one; what ails the store stands there. */
    enum fan_status status = fan__group_write(report->daemon, json);
    (void)status;
    fan__buffer_add_text(json, "}\n");
}

static void on_stats_done(struct fan__job *job)
{
    struct fan__report *report = (struct fan__report *)job;
    fan__reply_json(report->request, 200, &report->text);
    free_report(report);
}

void fan__health_stats(struct fan__http_request *request)
{
    start_report(request, on_stats_run, on_stats_done);
}

/* ---- /metrics ---- */

static void on_metrics_run(struct fan__job *job)
{
    struct fan__report *report = (struct fan__report *)job;
    gather(report);
    fan__metrics_write(report);
}

static void on_metrics_done(struct fan__job *job)
{
    struct fan__report *report = (struct fan__report *)job;
    if (report->text.failed)
        fan__reply_busy(report->request, NULL, "out of memory");
    else
        fan__http_answer(report->request, 200, fan_metrics_format_type(report->format),
                         report->text.data, report->text.size);
    free_report(report);
}

void fan__health_metrics(struct fan__http_request *request)
{
    start_report(request, on_metrics_run, on_metrics_done);
}
