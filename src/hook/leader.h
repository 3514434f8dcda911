/*
 * Who may bring events from elsewhere into a log: one at a time, by a lease in the log's store, and
 * in units that carry its fence. So who was asleep for too long cannot bring back what another one
 * has published and the log has long forgotten.
 */
#ifndef FAN_HOOK_LEADER_H
#define FAN_HOOK_LEADER_H

#include <fanfare/event.h>

#include <stdbool.h>

struct fan_broker;

struct fan__leader {
    const struct fan_env *env;
    struct fan_broker *broker;
    uint32_t lease_ms;
    char owner[48];
    char lease[64];
    uint64_t fence; /* 0: not held */
    int64_t renew_ns;
};

/* The lease's name follows from `kind` and from what names the source, whatever bytes that is. */
void fan__leader_init(struct fan__leader *leader, struct fan_broker *broker, uint32_t lease_ms);
void fan__leader_name(struct fan__leader *leader, const char *kind, struct fan_str source);

/* Returns: FAN_EXISTS while another holds the lease; faults of the store. */
FAN_MUST_CHECK enum fan_status fan__leader_lead(struct fan__leader *leader,
                                                struct fan_error *error);
void fan__leader_release(struct fan__leader *leader);

/*
 * Events for the log, in their order. `done` is told of those that it has, `refused` of the one
 * that it will never have; what `refused` gives, if not FAN_OK, ends the call.
 */
struct fan__leader_batch {
    const struct fan_event_draft *drafts;
    size_t count;
    void (*done)(void *context, size_t first, size_t count);
    enum fan_status (*refused)(void *context, size_t index, const struct fan_error *error);
    void *context;
};

/* Returns: FAN_EXISTS when the lease was lost; as fan_broker_publish_unit. */
FAN_MUST_CHECK enum fan_status fan__leader_publish(struct fan__leader *leader,
                                                   const struct fan__leader_batch *batch,
                                                   struct fan_error *error);

#endif
