/* What a look for damage finds, for stores that are tables. */
#ifndef FAN_STORE_FINDINGS_H
#define FAN_STORE_FINDINGS_H

#include <fanfare/keep.h>

struct fan__findings {
    fan_finding_visit visit;
    void *context;
    uint64_t count;
    bool ended; /* the visitor wants no more, or a fault keeps the rest from being looked at */
};

/* Tells of one, unless it has ended. */
__attribute__((format(printf, 4, 5))) void fan__find(struct fan__findings *findings,
                                                     const char *part, uint64_t seq,
                                                     const char *format, ...);

/*
 * Lays an event, as readers are given it, before the rules of a publish. Returns: FAN_NO_MEMORY, or
 * FAN_OK, whatever was found.
 */
FAN_MUST_CHECK enum fan_status fan__find_event(struct fan__findings *findings,
                                               const struct fan_env *env, uint64_t seq,
                                               const struct fan_event_draft *draft);

#endif
