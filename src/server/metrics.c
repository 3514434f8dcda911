/* The server's own metrics, behind those of the broker. */
#include "broker/exposition.h"
#include "broker/prometheus.h"
#include "server/daemon.h"
#include "server/health.h"

#include <stdio.h>

#define EXPOSE_ALL(exposition, families)                                                           \
    fan__expose_all(exposition, families, sizeof(families) / sizeof((families)[0]))

static void expose_http(struct fan__exposition *exposition, const struct fan__http_counters *http)
{
    const struct fan__family families[] = {
        { "fanfare_http_connections", FAN__FAMILY_GAUGE, "Open connections.", http->connections },
        { "fanfare_http_connections_accepted", FAN__FAMILY_COUNTER, "Connections accepted.",
          http->accepted },
        { "fanfare_http_connections_refused", FAN__FAMILY_COUNTER, "Connections over the limit.",
          http->refused },
        { "fanfare_http_requests", FAN__FAMILY_COUNTER, "Requests.", http->requests },
        { "fanfare_http_timeouts", FAN__FAMILY_COUNTER, "Connections that were too slow.",
          http->timeouts },
        { "fanfare_http_received_bytes", FAN__FAMILY_COUNTER, "Bytes received.",
          http->bytes_received },
        { "fanfare_http_sent_bytes", FAN__FAMILY_COUNTER, "Bytes sent.", http->bytes_sent },
    };
    EXPOSE_ALL(exposition, families);
    fan__expose_family(exposition, "fanfare_http_responses", FAN__FAMILY_COUNTER,
                       "Answers, by class of status.");
    for (unsigned i = 1; i < 6; i++) {
        char code[4];
        snprintf(code, sizeof(code), "%uxx", i);
        struct fan__label_set labels = { { { "code", code } } };
        fan__expose(exposition, &labels, http->responses[i]);
    }
}

static void expose_streams(struct fan__exposition *exposition, const struct fan__hub_counters *hub)
{
    const struct fan__family families[] = {
        { "fanfare_streams", FAN__FAMILY_GAUGE, "Open event streams.", hub->streams },
        { "fanfare_streams_live", FAN__FAMILY_GAUGE, "Streams that are fed as events happen.",
          hub->live },
        { "fanfare_streams_opened", FAN__FAMILY_COUNTER, "Streams opened.", hub->opened },
        { "fanfare_stream_deliveries", FAN__FAMILY_COUNTER, "Events sent to streams.",
          hub->delivered },
        { "fanfare_stream_encodings", FAN__FAMILY_COUNTER, "Events encoded for streams.",
          hub->encoded },
        { "fanfare_stream_fallbacks", FAN__FAMILY_COUNTER,
          "Streams that went from live back to the log.", hub->fallbacks },
        { "fanfare_stream_pages", FAN__FAMILY_COUNTER, "Reads of the log for streams.",
          hub->pages },
        { "fanfare_stream_gaps", FAN__FAMILY_COUNTER, "Gaps told to streams.", hub->gaps },
    };
    EXPOSE_ALL(exposition, families);
}

void fan__metrics_write(struct fan__report *report)
{
    struct fan__daemon *daemon = report->daemon;
    struct fan__exposition exposition = { .text = &report->text, .format = report->format };
    struct fan__label_set info = { { { "store", fan_store_name(daemon->store) } } };
    enum fan_status status =
        fan__prometheus_expose(daemon->prometheus, daemon->broker, &exposition);
    expose_http(&exposition, &report->http);
    expose_streams(&exposition, &report->hub);
    fan__expose_family(&exposition, "fanfare_uptime_seconds", FAN__FAMILY_GAUGE,
                       "Seconds since the start.");
    fan__expose_seconds(&exposition, NULL, report->uptime_ns);
    fan__expose_family(&exposition, "fanfare", FAN__FAMILY_INFO, "What is running.");
    fan__expose(&exposition, &info, 1);
    fan__expose_end(&exposition);
    report->text.failed |= status != FAN_OK;
}
