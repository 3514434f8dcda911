/* What is known of an event's deliveries, summed: its status, attempts and times. */
#ifndef FANFARE_STATE_H
#define FANFARE_STATE_H

#include <fanfare/status.h>

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum fan_event_status {
    FAN_EVENT_PENDING = 0,
    FAN_EVENT_PROCESSING = 1,
    FAN_EVENT_COMPLETED = 2,
    FAN_EVENT_FAILED = 3,
};

/* Why a delivery is a dead letter; NONE where it is none. */
enum fan_dead_reason {
    FAN_DEAD_NONE = 0,
    FAN_DEAD_FAILED = 1,  /* its handler gave FAIL */
    FAN_DEAD_RETRIES = 2, /* the last attempt asked for a retry */
    FAN_DEAD_LAPSES = 3,  /* its holders died or lost their leases too often */
    FAN_DEAD_EXPIRED = 4, /* it was owed for longer than retention keeps what is owed */
};

/* error is "" where there is none; times are UTC microseconds since 1970, 0 for not yet. */
struct fan_event_state {
    enum fan_event_status status;
    unsigned retry_count;
    int64_t processed_us;
    int64_t completed_us;
    const char *error;
};

/* Gives "pending" and so on. Memory: static. Thread: any. Blocks: never. */
FAN_API const char *fan_event_status_text(enum fan_event_status status);

/* Reads a status's name. Returns: FAN_INVALID for any other word. Thread: any. Blocks: never. */
FAN_MUST_CHECK FAN_API enum fan_status fan_event_status_parse(const char *text,
                                                              enum fan_event_status *ret_status);

/*
 * Gives "failed", "retries", "lapses", "expired"; "" for none. Memory: static. Thread: any. Blocks:
 * never.
 */
FAN_API const char *fan_dead_reason_name(enum fan_dead_reason reason);

#ifdef __cplusplus
}
#endif

#endif
