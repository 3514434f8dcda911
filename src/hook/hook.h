/*
 * The inside of hooks: what one of them is, and how a broker becomes one.
 *
 * A hook is linked from add to removal, and for as long as a call of it runs: a walk that holds a
 * hook may go on from it when the call is over, whatever was removed meanwhile.
 */
#ifndef FAN_HOOK_HOOK_H
#define FAN_HOOK_HOOK_H

#include "base/buffer.h"

#include <fanfare/hooks.h>

struct fan__publisher;

struct fan_hook {
    struct fan_hooks *hooks;
    struct fan_hook *next;
    struct fan_hook *previous;
    uint64_t number; /* rises along the list */
    unsigned running;
    bool removed;
    unsigned operations;
    char *schema;
    char *entity;
    fan_hook_before before;
    fan_hook_after after;
    void *context;
    struct fan__publisher *publisher; /* NULL for a function */
    struct fan_hook_stats stats;
};

/*
 * The event that tells of an operation that was done: its texts are borrowed from the operation,
 * its type lies in `type`, its payload in `buffer`.
 *
 * Returns: FAN_INVALID when the names make no type; FAN_NO_MEMORY.
 */
FAN_MUST_CHECK enum fan_status fan__operation_draft(const struct fan_operation *operation,
                                                    char type[FAN_TEXT_SIZE_MAX + 1],
                                                    struct fan__buffer *buffer,
                                                    struct fan_event_draft *ret_draft,
                                                    struct fan_error *error);

/*
 * A broker as an after hook. It lives until its hook and every event under way have let go of it.
 */
FAN_MUST_CHECK enum fan_status fan__publisher_new(const struct fan_env *env,
                                                  struct fan_broker *broker,
                                                  struct fan__publisher **ret_publisher);
void fan__publisher_unref(struct fan__publisher *publisher);
void fan__publisher_after(void *publisher, const struct fan_operation *operation);
/* Fills the counters of the broker's half. */
void fan__publisher_stats(struct fan__publisher *publisher, struct fan_hook_stats *stats);

#endif
