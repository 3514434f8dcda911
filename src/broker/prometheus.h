/* Prometheus, for who adds families of their own before the end. */
#ifndef FAN_BROKER_PROMETHEUS_H
#define FAN_BROKER_PROMETHEUS_H

#include <fanfare/prometheus.h>

struct fan__exposition;

/* As fan_prometheus_write, into a buffer and without the end; marks the buffer without memory. */
FAN_MUST_CHECK enum fan_status fan__prometheus_expose(struct fan_prometheus *prometheus,
                                                      struct fan_broker *broker,
                                                      struct fan__exposition *exposition);

#endif
