/*
 * The broker: publishes into a store, and only then tells the bus.
 *
 *     open -> start -> publish, subscribe, handle ... -> stop (drains) -> free
 *
 * One writer at a time appends what has gathered as one commit, without lingering: under load many
 * events share a commit, alone an event goes at once. An event that was acknowledged is as durable
 * as the store promises (fan_store_capabilities); what a subscriber sees is in the store already.
 *
 * In a fork's child, what the parent opened answers FAN_FORKED, or does nothing.
 *
 * Limits (defaults): writer queue 65,536 events and 256 MiB, commit 1,000 events or 1 MiB.
 */
#ifndef FANFARE_BROKER_H
#define FANFARE_BROKER_H

#include <fanfare/broker_stats.h>
#include <fanfare/cursor.h>
#include <fanfare/event.h>
#include <fanfare/handler.h>
#include <fanfare/reader.h>

#ifdef __cplusplus
extern "C" {
#endif

struct fan_broker;
struct fan_metrics;
struct fan_provider;
struct fan_retention;
struct fan_store;

/*
 * instance_id         stamped on events; NULL for one that is unique to the process
 * queue_count_max     events that wait for the writer; 0 for 65,536
 * publish_timeout_ms  how long fan_broker_publish waits, and any event for a storage that is down;
 *                     0 for 30,000
 * payload_size_max    0 for 1 MiB
 * stepped             no threads: the caller runs fan_broker_step; work is timed by env's clock
 * provider            a provider of your own for the URI, or NULL
 * mode                of fan_broker_publish: FAN_MODE_SYNC makes it fan_broker_publish_sync
 * worker_count        threads that run durable handlers, at most 1,000; 0 for 10
 * work_queue_count    deliveries claimed from the store ahead of their turn; 0 for 1,000
 * retry               the policy of handlers that bring none
 * lease_ms            how soon another process takes over what this one held when it died; 0 for
 *                     30,000
 * retention           what the log keeps (keep.h); NULL: everything, and nobody looks
 * retention_interval_ms  how often that is looked at; 0 for 60,000
 * metrics             who counts (metrics.h), its context for longer than the broker; NULL: nobody
 * store               one that is open, in place of the URI; borrowed until the broker is freed
 */
struct fan_broker_options {
    size_t size;
    const struct fan_env *env;
    const char *instance_id;
    size_t queue_count_max;
    uint32_t publish_timeout_ms;
    size_t payload_size_max;
    bool stepped;
    const struct fan_provider *provider;
    enum fan_mode mode;
    unsigned worker_count;
    size_t work_queue_count;
    struct fan_retry_policy retry;
    uint32_t lease_ms;
    const struct fan_retention *retention;
    uint32_t retention_interval_ms;
    const struct fan_metrics *metrics;
    struct fan_store *store;
};

#define FAN_BROKER_OPTIONS_INIT                                                                    \
    {                                                                                              \
        sizeof(struct fan_broker_options), NULL, NULL, 0, 0, 0, false, NULL, FAN_MODE_ASYNC, 0, 0, \
            { 0, 0, 0, 0, 0, false }, 0, NULL, 0, NULL, NULL                                       \
    }

/*
 * Opens a broker on a store. `options` may be NULL; `uri` is, where options->store is given.
 *
 * Returns: as fan_store_open.
 * Memory:  options are copied; *ret_broker is yours, for fan_broker_free.
 * Thread:  any. Blocks: for the storage.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_broker_open(const char *uri,
                                                       const struct fan_broker_options *options,
                                                       struct fan_broker **ret_broker,
                                                       struct fan_error *ret_error);

/*
 * Starts it. Returns: FAN_MISUSE when it runs; FAN_CLOSED after stop. Thread: any. Blocks: never.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_broker_start(struct fan_broker *broker);

/*
 * Stops: new publishes are refused, what is queued is committed for up to timeout_ms and refused
 * after it. Until then handlers finish what was claimed for them and what lies in front of live
 * ones; after it their cancel tokens fire, and what they have not begun is handed back. Calls that
 * have not returned a quarter of a second later are given up: their events are handed back, too,
 * and may run elsewhere beside them, what they say is dropped, and what they use stays until
 * fan_broker_free. Readers read what there is and then FAN_CLOSED. Again does nothing.
 *
 * Returns: FAN_TIMED_OUT when something was refused, or a call given up (how many is in the log);
 *          FAN_MISUSE in a handler or call-back.
 * Thread:  any but a handler or call-back. Blocks: up to timeout_ms, and for a quarter of a second
 *          and a storage call; a stepped broker for a step that runs.
 */
FAN_API enum fan_status fan_broker_stop(struct fan_broker *broker, uint32_t timeout_ms);

/*
 * Stops if need be (5 s), waits for calls that the stop gave up, however long they take, as their
 * memory is the program's, closes the store and frees. Accepts NULL.
 *
 * Thread: any, while no other call on it runs. Blocks: as said.
 */
FAN_API void fan_broker_free(struct fan_broker *broker);

/*
 * Publishes one event and waits until it is durable, or as the broker's mode says. ret_cursor may
 * be NULL. Publishing an id again gives the first cursor and stores nothing.
 *
 * Returns: FAN_INVALID with the field; FAN_FULL when the queue had no room in time, or the store
 *          has none (not stored);
 *          FAN_TIMED_OUT when no answer came in time (publish the same id again to learn);
 *          FAN_UNAVAILABLE when the storage was down all that time (a stepped broker: at once);
 *          FAN_UNKNOWN when it failed and may have stored it all the same (likewise);
 *          FAN_MISUSE before start and in a call-back; FAN_CLOSED; faults of the store.
 * Memory:  the draft is copied.
 * Thread:  any but a handler or call-back. Blocks: up to the time-out; and for one commit when it
 *          finds the writer idle.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_broker_publish(struct fan_broker *broker,
                                                          const struct fan_event_draft *draft,
                                                          struct fan_cursor *ret_cursor,
                                                          struct fan_error *ret_error);

/*
 * As fan_broker_publish, and then waits until each handler of this process that matches has given
 * its first verdict, or another process took the event. A delayed event (deliver_at) is waited for
 * by live handlers alone. What is stored is never undone: *ret_cursor is set with these, too:
 *
 * Returns: FAN_HANDLER when one did not say DONE, with the words of the first, or lost its claim
 *          before its DONE was recorded, which the words say; FAN_TIMED_OUT when not all had in
 *          time; FAN_MISUSE in a handler too. Else as fan_broker_publish.
 * Memory, Thread, Blocks: as there.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_broker_publish_sync(struct fan_broker *broker,
                                                               const struct fan_event_draft *draft,
                                                               struct fan_cursor *ret_cursor,
                                                               struct fan_error *ret_error);

struct fan_expectation;

/*
 * Several events as one unit, under an expectation (may be NULL). timeout_ms 0 for the broker's.
 * Handlers are not waited for, whatever the mode.
 */
struct fan_unit {
    size_t size;
    const struct fan_event_draft *drafts;
    size_t count;
    const struct fan_expectation *expectation;
    uint32_t timeout_ms;
};

#define FAN_UNIT_SIZE sizeof(struct fan_unit)
#define FAN_UNIT_COUNT_MAX 1000

/*
 * Publishes a unit, whole or not at all. ret_cursors has room for its count, or is NULL.
 *
 * Returns: as fan_broker_publish; FAN_CONFLICT when the expectation does not hold; field is
 * `drafts[N].FIELD`. Memory, Thread, Blocks: as fan_broker_publish.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_broker_publish_unit(struct fan_broker *broker,
                                                               const struct fan_unit *unit,
                                                               struct fan_cursor *ret_cursors,
                                                               struct fan_error *ret_error);

/* How an asynchronous publish ended. Pointers are borrowed for the call. */
struct fan_published {
    size_t size;
    enum fan_status status;
    bool duplicate;
    struct fan_cursor cursor;
    const struct fan_event *event;
    const struct fan_error *error;
};

/*
 * Called once, on a thread that commits, or that of a stop which refuses: be short, never wait;
 * publishing asynchronously is fine.
 */
typedef void (*fan_publish_done)(void *context, const struct fan_published *published);

/*
 * Publishes without waiting: into the writer's queue. `done` (may be NULL) is called when the event
 * is durable or refused, if and only if this returns FAN_OK.
 *
 * Returns: FAN_FULL at once when the queue is (not stored); FAN_INVALID with the field; FAN_MISUSE;
 *          FAN_CLOSED; FAN_NO_MEMORY.
 * Memory:  the draft is copied.
 * Thread:  any. Blocks: never.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_broker_publish_async(struct fan_broker *broker,
                                                                const struct fan_event_draft *draft,
                                                                fan_publish_done done,
                                                                void *context,
                                                                struct fan_error *ret_error);

/*
 * As fan_broker_publish_async, with an event made by fan_event_new with fan_broker_defaults.
 *
 * Returns: as there. Memory: with FAN_OK the event is the broker's, else it stays yours.
 * Thread:  any. Blocks: never.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_broker_submit_take(struct fan_broker *broker,
                                                              struct fan_event *event,
                                                              fan_publish_done done, void *context);

/*
 * Does what there is to do on the caller's thread: one commit, one look at other instances' events,
 * one event for each handler, one slice of retention when it is due. For stepped brokers alone.
 *
 * Returns: FAN_AGAIN when there was nothing to do; FAN_MISUSE for a broker with threads, before
 *          start and in a handler or call-back; FAN_CLOSED after stop.
 * Thread:  one at a time, while others publish. Blocks: for the storage.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_broker_step(struct fan_broker *broker);

/*
 * Changes what the log keeps from now on, and how often that is looked at, as in the options:
 * NULL keeps everything, an interval of 0 is 60,000. A pass begins at once.
 *
 * Returns: FAN_INVALID; FAN_CLOSED after stop; FAN_NO_MEMORY when there is no thread for it.
 * Memory:  copied.
 * Thread:  any. Blocks: never.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_broker_set_retention(
    struct fan_broker *broker, const struct fan_retention *retention, uint32_t interval_ms);

/* What the broker stamps on drafts; the store under it, for get, list and groups. Thread: any. */
FAN_API const struct fan_event_defaults *fan_broker_defaults(const struct fan_broker *broker);
FAN_API struct fan_store *fan_broker_store(struct fan_broker *broker);

#ifdef __cplusplus
}
#endif

#endif
