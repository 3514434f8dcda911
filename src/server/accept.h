/* Which format of metrics a scraper wants, by its Accept header (RFC 9110, 12.5.1). */
#ifndef FAN_SERVER_ACCEPT_H
#define FAN_SERVER_ACCEPT_H

#include <fanfare/prometheus.h>

/*
 * OpenMetrics where it is named with a weight that is above zero and not below that of text/plain;
 * else Prometheus, also for NULL and for what cannot be read.
 */
enum fan_metrics_format fan__accept_metrics(const char *accept);

#endif
