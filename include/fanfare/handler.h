/*
 * Handlers: functions that the broker calls with events.
 *
 * Without a group a handler is live: it gets what is published after it was added, in order, on the
 * thread of all live handlers, and is owed nothing. With a group it is durable: each event is owed
 * to the group until it is done or a dead letter, across crashes, and goes to one of the processes
 * that handle for it. Durable handlers are called by the broker's workers, many at a time; those of
 * one event one after the other, in the order in which they were added, while retries, and handlers
 * that are ordered or have a concurrency of their own, go by themselves.
 *
 * A delivery whose holder dies comes again when its lease is over, with its attempts counted. After
 * three such ends it is a dead letter unrun. So that the last is its own, it runs with nothing
 * beside it, for which others wait no longer than two tenths of a second, one time in ten.
 *
 * Deleting a group under its handler ends it: what is not begun is not run, the verdicts of running
 * calls are lost, and the log says so once. The handler goes on when somebody makes the group anew.
 */
#ifndef FANFARE_HANDLER_H
#define FANFARE_HANDLER_H

#include <fanfare/event.h>
#include <fanfare/group.h>

#ifdef __cplusplus
extern "C" {
#endif

struct fan_broker;
struct fan_cancel;
struct fan_handler;

/*
 * How often and how late a durable event comes again: after delay_ms, then each time `factor` times
 * later, never more than delay_ms_max; jitter_percent takes up to that much off each, at random.
 * What is 0 is 3 retries, 1,000 ms, 30,000 ms, 2.0 and no jitter; `none` is zero retries.
 */
struct fan_retry_policy {
    unsigned retries;
    uint32_t delay_ms;
    uint32_t delay_ms_max;
    double factor;
    unsigned jitter_percent;
    bool none;
};

/*
 * What a handler is told beside the event. attempt starts at 1 and counts the `lapses`, too: claims
 * that ended with their holder. Pointers are borrowed for the call. gap tells a live handler what
 * was lost ahead of this event, NULL for nothing. `cancel` fires at the time limit and at the
 * deadline of a stop. Words put into `error` are kept with the delivery.
 */
struct fan_handling {
    size_t size;
    const char *group; /* NULL for a live handler */
    const char *handler;
    unsigned attempt;
    const struct fan_gap *gap;
    unsigned lapses;
    struct fan_cancel *cancel;
    struct fan_error *error;
};

/*
 * Handles one event and gives a verdict: DONE, RETRY (once more as the policy says, after the last
 * retry a dead letter) or FAIL (a dead letter at once). To a live handler the event does not come
 * again. It may publish with fan_broker_publish_async and may free its own handler, but must not
 * wait for the broker.
 */
typedef enum fan_verdict (*fan_handle)(void *context, const struct fan_event *event,
                                       const struct fan_handling *handling);

/*
 * group        NULL for a live handler, and then nothing below `context` is for it
 * name         tells several handlers of one group apart; NULL for ""
 * pattern, topic  which events; NULL for all
 * start        where a group that is made by this call begins
 * retry        NULL for the broker's
 * timeout_ms   how long one call may take until the delivery counts as a retry with "no verdict";
 *              a later verdict is ignored. The worker is busy until the function returns, and until
 *              then the event's next attempt does not begin in this process; a function that never
 *              returns costs one worker for each such event. 0: no limit
 * ordered      of each topic one event at a time, in order, in all processes
 * concurrency  how many calls at a time in this process; 0: as many as there are workers
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
    const struct fan_retry_policy *retry;
    uint32_t timeout_ms;
    bool ordered;
    unsigned concurrency;
};

#define FAN_HANDLER_OPTIONS_SIZE sizeof(struct fan_handler_options)

/*
 * Adds a handler, before or after start. ret_handler may be NULL: it then lives as long as the
 * broker.
 *
 * Returns: FAN_INVALID with the field; FAN_EXISTS when this broker handles for that group and name
 *          already; FAN_CLOSED after stop; FAN_NO_MEMORY, also for a thread; faults of the store.
 * Memory:  options are copied; *ret_handler is yours, for fan_handler_free before fan_broker_free.
 * Thread:  any. Blocks: for the storage.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_broker_handle(struct fan_broker *broker,
                                                         const struct fan_handler_options *options,
                                                         struct fan_handler **ret_handler,
                                                         struct fan_error *ret_error);

/*
 * Removes a handler; its group and what is owed to it stay in the store, and what was claimed for
 * it and is not run yet is handed back. While the storage fails, outcomes are tried for 5 s; what
 * is not written then comes again when its lease is over. Accepts NULL.
 *
 * Thread: any. Blocks: while it runs, and for the storage; not when called from within it.
 */
FAN_API void fan_handler_free(struct fan_handler *handler);

#ifdef __cplusplus
}
#endif

#endif
