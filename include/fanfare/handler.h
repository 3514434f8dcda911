/*
 * Handlers: functions that the broker calls with events.
 *
 * Without a group a handler is live only: it gets what is published after it was added, and is owed
 * nothing. With a group it is durable: each event is owed to the group until it is done or a dead
 * letter, across crashes, and goes to one of the processes that handle for it.
 */
#ifndef FANFARE_HANDLER_H
#define FANFARE_HANDLER_H

#include <fanfare/event.h>
#include <fanfare/group.h>

#ifdef __cplusplus
extern "C" {
#endif

struct fan_broker;
struct fan_handler;

/*
 * What a handler is told beside the event. attempt starts at 1; pointers are borrowed for the call.
 * gap tells a live handler what was lost ahead of this event, NULL for nothing.
 */
struct fan_handling {
    size_t size;
    const char *group; /* NULL for a live handler */
    const char *handler;
    unsigned attempt;
    const struct fan_gap *gap;
};

/*
 * Handles one event and gives a verdict. With FAN_VERDICT_RETRY a durable event comes again after
 * 1, 2 and 4 seconds and is then a dead letter; a live one does not come again. It may publish
 * with fan_broker_publish_async and may free its own handler, but must not wait for the broker.
 */
typedef enum fan_verdict (*fan_handle)(void *context, const struct fan_event *event,
                                       const struct fan_handling *handling);

/*
 * group    NULL for a live handler
 * name     tells several handlers of one group apart; NULL for ""
 * pattern, topic  which events; NULL for all
 * start    where a group that is made by this call begins
 */
struct fan_handler_options {
    size_t size;
    const char *group;
    const char *name;
    const char *pattern;
    const char *topic;
    enum fan_start start;
    uint64_t start_seq;
    fan_handle handle;
    void *context;
};

#define FAN_HANDLER_OPTIONS_SIZE sizeof(struct fan_handler_options)

/*
 * Adds a handler, before or after start. ret_handler may be NULL: it then lives as long as the
 * broker.
 *
 * Returns: FAN_INVALID with the field; FAN_EXISTS when this broker handles for that group and name
 *          already; FAN_CLOSED after stop; faults of the store.
 * Memory:  options are copied; *ret_handler is yours, for fan_handler_free before fan_broker_free.
 * Thread:  any. Blocks: for the storage.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_broker_handle(struct fan_broker *broker,
                                                         const struct fan_handler_options *options,
                                                         struct fan_handler **ret_handler,
                                                         struct fan_error *ret_error);

/*
 * Removes a handler; its group and what is owed to it stay in the store. Accepts NULL.
 *
 * Thread: any. Blocks: while it runs; not when called from within it.
 */
FAN_API void fan_handler_free(struct fan_handler *handler);

#ifdef __cplusplus
}
#endif

#endif
