/*
 * Writing metrics down: Prometheus' text format 0.0.4, or OpenMetrics 1.0. A family first, then all
 * its samples; at the end fan__expose_end. A family's name comes without `_total` and `_info`.
 */
#ifndef FAN_BROKER_EXPOSITION_H
#define FAN_BROKER_EXPOSITION_H

#include "base/buffer.h"
#include "broker/histogram.h"

#include <fanfare/prometheus.h>

enum fan__family_kind {
    FAN__FAMILY_COUNTER,
    FAN__FAMILY_GAUGE,
    FAN__FAMILY_HISTOGRAM,
    FAN__FAMILY_INFO,
};

struct fan__label_value {
    const char *name;
    const char *value;
};

/* Up to three; one without a name ends them. */
struct fan__label_set {
    struct fan__label_value values[3];
};

struct fan__exposition {
    struct fan__buffer *text;
    enum fan_metrics_format format;
    const char *family;
    enum fan__family_kind kind;
};

struct fan__family {
    const char *name;
    enum fan__family_kind kind;
    const char *help;
    uint64_t value;
};

void fan__expose_family(struct fan__exposition *exposition, const char *name,
                        enum fan__family_kind kind, const char *help);

/* Samples of a counter, gauge or info; labels may be NULL. */
void fan__expose(struct fan__exposition *exposition, const struct fan__label_set *labels,
                 uint64_t value);
/* Given in nanoseconds, told in seconds. */
void fan__expose_seconds(struct fan__exposition *exposition, const struct fan__label_set *labels,
                         uint64_t value_ns);
void fan__expose_histogram(struct fan__exposition *exposition, const struct fan__label_set *labels,
                           const struct fan__histogram *histogram,
                           const struct fan__histogram_scale *scale);

/* Families of one sample each. */
void fan__expose_all(struct fan__exposition *exposition, const struct fan__family *families,
                     size_t count);

/* What the broker's feeds tell (feed.h). */
void fan__feeds_expose(struct fan_broker *broker, struct fan__exposition *exposition);

void fan__expose_end(struct fan__exposition *exposition);

#endif
