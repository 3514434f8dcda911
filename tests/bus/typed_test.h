/* A bus with two kinds, each with its struct. */
#ifndef TYPED_TEST_H
#define TYPED_TEST_H

#include "bus_test.h"

/* The two typed events of the first system that this bus serves (B25). */
struct heartbeat_pulse {
    char host_id[64];
    bool reachable;
    int64_t occurred_at_us;
    bool prior_reachable;
    int64_t response_time_us;
};

struct drift_detected {
    char host_id[64];
    char scan_id[64];
    char drift_type[32];
    double score_delta;
    uint32_t transition_counts[5];
};

enum { PULSE, DRIFT };

FAN_KIND_DECLARE(pulse, PULSE, "host.pulse", struct heartbeat_pulse)
FAN_KIND_DECLARE(drift, DRIFT, "host.drift", struct drift_detected)

static const struct fan_kind kinds[] = { FAN_KIND(pulse), FAN_KIND(drift) };

static inline struct fan_bus *open_typed(void)
{
    struct fan_bus_options options = FAN_BUS_OPTIONS_INIT;
    options.kinds = kinds;
    options.kind_count = 2;
    return open_with(&options);
}

static inline struct fan_subscription *subscribe_kinds(struct fan_bus *bus, const unsigned *list,
                                                       size_t count)
{
    struct fan_subscription_options options = { .size = FAN_SUBSCRIPTION_OPTIONS_SIZE,
                                                .kinds = list,
                                                .kind_count = count,
                                                .all_kinds = count == 0 };
    return subscribe_with(bus, &options);
}

#endif
