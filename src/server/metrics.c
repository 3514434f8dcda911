/*
 * Prometheus' text format 0.0.4: HELP and TYPE once a family, then its samples. A label's value
 * escapes backslash, quote and line end.
 */
#include "server/health.h"

#include "server/daemon.h"

#include <inttypes.h>

struct family {
    const char *name;
    const char *type;
    const char *help;
    uint64_t value;
};

static void begin(struct fan__buffer *text, const char *name, const char *type, const char *help)
{
    fan__buffer_add_format(text, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void add_label_value(struct fan__buffer *text, const char *value)
{
    fan__buffer_add(text, "\"", 1);
    for (const char *at = value; *at; at++) {
        if (*at == '\\' || *at == '"')
            fan__buffer_add_format(text, "\\%c", *at);
        else if (*at == '\n')
            fan__buffer_add(text, "\\n", 2);
        else
            fan__buffer_add(text, at, 1);
    }
    fan__buffer_add(text, "\"", 1);
}

static void add_published(struct fan__buffer *text, enum fan_source source, const char *type,
                          uint64_t count)
{
    fan__buffer_add_format(
        text, "eventbroker_events_published_total{source=\"%s\",type=", fan_source_text(source));
    add_label_value(text, type);
    fan__buffer_add_format(text, "} %" PRIu64 "\n", count);
}

static void write_published(struct fan__buffer *text, const struct fan__labels *labels)
{
    begin(text, "eventbroker_events_published_total", "counter",
          "Events stored by this server, by source and type; types past a bound are other.");
    for (unsigned i = 0; i < labels->count; i++) {
        const struct fan__label *label = &labels->labels[i];
        add_published(text, label->source, label->type, label->count);
    }
    for (unsigned i = 0; i < FAN_SOURCE_INTERNAL; i++)
        if (labels->others[i] > 0)
            add_published(text, (enum fan_source)(i + FAN_SOURCE_DATABASE), "other",
                          labels->others[i]);
}

static void write_families(struct fan__buffer *text, const struct family *families, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        begin(text, families[i].name, families[i].type, families[i].help);
        fan__buffer_add_format(text, "%s %" PRIu64 "\n", families[i].name, families[i].value);
    }
}

#define WRITE_FAMILIES(text, families)                                                             \
    write_families(text, families, sizeof(families) / sizeof(*(families)))

static void write_broker(struct fan__buffer *text, const struct fan_broker_stats *broker)
{
    const struct family families[] = {
        { "eventbroker_queue_size", "gauge", "Events that wait for the writer.", broker->queued },
        { "fanfare_events_stored_total", "counter", "Events stored, through whatever door.",
          broker->published },
        { "fanfare_events_duplicate_total", "counter", "Events whose id was stored already.",
          broker->duplicates },
        { "fanfare_events_refused_total", "counter",
          "Events that queue or store did not take; who waits for room counts at each try.",
          broker->refused },
        { "fanfare_commits_total", "counter", "Commits to the log.", broker->commits },
        { "fanfare_commit_failures_total", "counter", "Commits that failed.",
          broker->commit_failures },
        { "fanfare_events_handled_total", "counter", "Events that handlers finished.",
          broker->handled },
        { "fanfare_notified_seq", "gauge", "The last sequence that subscribers were told.",
          broker->notified_seq },
    };
    WRITE_FAMILIES(text, families);
}

static void write_store(struct fan__buffer *text, const struct fan_store_stats *store)
{
    const struct family families[] = {
        { "fanfare_log_events", "gauge", "Events in the log.", store->events },
        { "fanfare_log_bytes", "gauge", "Bytes that the log holds.", store->bytes },
        { "fanfare_log_last_seq", "gauge", "The last sequence of the log.", store->last_seq },
    };
    WRITE_FAMILIES(text, families);
}

static void write_http(struct fan__buffer *text, const struct fan__http_counters *http)
{
    const struct family families[] = {
        { "fanfare_http_connections", "gauge", "Open connections.", http->connections },
        { "fanfare_http_connections_total", "counter", "Connections accepted.", http->accepted },
        { "fanfare_http_connections_refused_total", "counter", "Connections over the limit.",
          http->refused },
        { "fanfare_http_requests_total", "counter", "Requests.", http->requests },
        { "fanfare_http_timeouts_total", "counter", "Connections that were too slow.",
          http->timeouts },
        { "fanfare_http_received_bytes_total", "counter", "Bytes received.", http->bytes_received },
        { "fanfare_http_sent_bytes_total", "counter", "Bytes sent.", http->bytes_sent },
    };
    WRITE_FAMILIES(text, families);
    begin(text, "fanfare_http_responses_total", "counter", "Answers, by class of status.");
    for (unsigned i = 1; i < 6; i++)
        fan__buffer_add_format(text, "fanfare_http_responses_total{code=\"%uxx\"} %" PRIu64 "\n", i,
                               http->responses[i]);
}

static void write_streams(struct fan__buffer *text, const struct fan__hub_counters *hub)
{
    const struct family families[] = {
        { "fanfare_streams", "gauge", "Open event streams.", hub->streams },
        { "fanfare_streams_live", "gauge", "Streams that are fed as events happen.", hub->live },
        { "fanfare_streams_opened_total", "counter", "Streams opened.", hub->opened },
        { "fanfare_stream_deliveries_total", "counter", "Events sent to streams.", hub->delivered },
        { "fanfare_stream_encodings_total", "counter", "Events encoded for streams.",
          hub->encoded },
        { "fanfare_stream_fallbacks_total", "counter",
          "Streams that went from live back to the log.", hub->fallbacks },
        { "fanfare_stream_pages_total", "counter", "Reads of the log for streams.", hub->pages },
        { "fanfare_stream_gaps_total", "counter", "Gaps told to streams.", hub->gaps },
    };
    WRITE_FAMILIES(text, families);
}

void fan__metrics_write(struct fan__report *report)
{
    struct fan__buffer *text = &report->text;
    write_published(text, &report->labels);
    write_broker(text, &report->broker);
    if (report->store_status == FAN_OK)
        write_store(text, &report->store);
    write_http(text, &report->http);
    write_streams(text, &report->hub);
    begin(text, "fanfare_uptime_seconds", "gauge", "Seconds since the start.");
    fan__buffer_add_format(text, "fanfare_uptime_seconds %.3f\n", report->uptime_s);
    begin(text, "fanfare_info", "gauge", "What is running.");
    fan__buffer_add_format(text, "fanfare_info{store=\"%s\"} 1\n",
                           fan_store_name(report->daemon->store));
}
