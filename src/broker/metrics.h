/* Telling the table of metrics that a broker was opened with, if any; always without a lock. */
#ifndef FAN_BROKER_METRICS_H
#define FAN_BROKER_METRICS_H

#include <fanfare/metrics.h>

struct fan_broker;
struct fan__submission;

/* The system's monotonic clock where somebody counts commits, else 0. */
int64_t fan__now_counted_ns(const struct fan_broker *broker);

/* Tells a commit, and each event that it stored. */
void fan__metrics_committed(struct fan_broker *broker, const struct fan_metrics_commit *commit,
                            struct fan__submission *const *submissions);

/* Tells one verdict. */
void fan__metrics_processed(const struct fan_broker *broker,
                            const struct fan_metrics_processed *processed);

/*
 * Counts and tells what a member in another process settled through this one, by
 * fan_group_settle, just now: what is asked of handlers is asked of them.
 */
void fan__metrics_settled(struct fan_broker *broker, const struct fan_group_name *name,
                          const struct fan_settle *items, size_t count);

#endif
