/*
 * Prometheus: counts what brokers tell (metrics.h), and writes it with what they and their logs
 * know, for a scrape. docs/metrics.md lists every name.
 *
 *     new -> given to fan_broker_open by fan_prometheus_metrics -> write ... -> free
 *
 * Limits: 200 pairs of source and type and 200 groups have series of their own; the rest is counted
 * as `other`.
 */
#ifndef FANFARE_PROMETHEUS_H
#define FANFARE_PROMETHEUS_H

#include <fanfare/status.h>

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct fan_broker;
struct fan_env;
struct fan_metrics;
struct fan_prometheus;

enum fan_metrics_format {
    FAN_METRICS_PROMETHEUS = 0,  /* text/plain; version=0.0.4; charset=utf-8 */
    FAN_METRICS_OPENMETRICS = 1, /* application/openmetrics-text; version=1.0.0; charset=utf-8 */
};

/* Gives the media type of a format, as above. Memory: static. Thread: any. */
FAN_API const char *fan_metrics_format_type(enum fan_metrics_format format);

/*
 * Makes one, empty. env may be NULL.
 *
 * Returns: FAN_NO_MEMORY. Memory: yours, for fan_prometheus_free. Thread: any.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_prometheus_new(const struct fan_env *env,
                                                          struct fan_prometheus **ret_prometheus);

/* Frees it, after the brokers that tell it. Accepts NULL. Thread: any. */
FAN_API void fan_prometheus_free(struct fan_prometheus *prometheus);

/* Gives the table for a broker's options. Memory: as long as *prometheus. Thread: any. */
FAN_API const struct fan_metrics *fan_prometheus_metrics(struct fan_prometheus *prometheus);

/* Takes what is written, in order; anything but FAN_OK ends it. */
typedef enum fan_status (*fan_metrics_sink)(void *context, const char *bytes, size_t size);

/*
 * Writes everything: what was counted up to one moment, and what the broker and its log say. When
 * the log does not answer, its part is left out and eventbroker_log_up is 0.
 *
 * Returns: FAN_NO_MEMORY; FAN_FORKED; what the sink gives.
 * Thread:  any. Blocks: for the storage.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_prometheus_write(struct fan_prometheus *prometheus,
                                                            struct fan_broker *broker,
                                                            enum fan_metrics_format format,
                                                            fan_metrics_sink sink, void *context);

#ifdef __cplusplus
}
#endif

#endif
