/* How the daemon is: /healthz, /readyz, /v1/stats and /metrics. */
#ifndef FAN_SERVER_HEALTH_H
#define FAN_SERVER_HEALTH_H

#include "base/buffer.h"
#include "server/hub.h"
#include "server/job.h"

#include <fanfare/broker.h>
#include <fanfare/prometheus.h>
#include <fanfare/store.h>

/* All counters at one moment, gathered on a thread that may wait for the store. */
struct fan__report {
    struct fan__job job;
    struct fan__daemon *daemon;
    struct fan__http_request *request;
    enum fan_status store_status;
    struct fan_broker_stats broker;
    struct fan_store_stats store;
    struct fan__http_counters http;
    struct fan__hub_counters hub;
    uint64_t uptime_ns;
    enum fan_metrics_format format;
    struct fan__buffer text;
};

void fan__health_alive(struct fan__http_request *request);
void fan__health_ready(struct fan__http_request *request);
void fan__health_stats(struct fan__http_request *request);
void fan__health_metrics(struct fan__http_request *request);

/* Writes a report in its format. */
void fan__metrics_write(struct fan__report *report);

#endif
