/*
 * The default broker: one for the whole process, for programs that need no more.
 *
 *     init (or set) -> publish, subscribe, get ... -> shutdown -> init again, if wanted
 *
 * init follows the configuration (config.h). With event_broker.enabled false, which is its default,
 * there is no broker: init succeeds, and whatever would use it answers FAN_UNAVAILABLE, so that no
 * event is lost in silence. Before init all answers are FAN_MISUSE; in a fork's child of a process
 * that used any of this, FAN_FORKED.
 */
#ifndef FANFARE_DEFAULT_H
#define FANFARE_DEFAULT_H

#include <fanfare/broker.h>
#include <fanfare/config.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Loads the configuration, opens the broker and starts it. `options` may be NULL: then the file
 * that FANFARE_CONFIG names, the environment and defaults.
 *
 * Returns: FAN_EXISTS when there is one already, which stays as it is; as fan_config_load and
 *          fan_config_open_broker.
 * Thread:  any. Blocks: for the storage, and for another init or shutdown.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_default_init(const struct fan_config_options *options,
                                                        struct fan_error *ret_error);

/*
 * Makes a broker of yours the default one; it must outlive shutdown, which stops it and does not
 * free it.
 *
 * Returns: FAN_EXISTS when there is one already. Thread: any. Blocks: as fan_default_init.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_default_set(struct fan_broker *broker,
                                                       struct fan_error *ret_error);

/*
 * Gets the broker, for whatever is not here.
 *
 * Returns: FAN_UNAVAILABLE, FAN_MISUSE, FAN_FORKED as above, with words.
 * Memory:  *ret_broker is borrowed until shutdown.
 * Thread:  any. Blocks: never.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_default_get(struct fan_broker **ret_broker,
                                                       struct fan_error *ret_error);

/*
 * Publishes to it. ret_cursor may be NULL.
 *
 * Returns: as fan_default_get and fan_broker_publish.
 * Memory:  the draft is copied.
 * Thread:  any but a handler or call-back. Blocks: as fan_broker_publish.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_default_publish(const struct fan_event_draft *draft,
                                                           struct fan_cursor *ret_cursor,
                                                           struct fan_error *ret_error);

/*
 * Adds a live handler for a pattern ("public.users.*"), until shutdown. What must survive a crash
 * wants a group: fan_broker_handle on what fan_default_get gives.
 *
 * Returns: as fan_default_get and fan_broker_handle. Thread: any. Blocks: for the storage.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_default_subscribe(const char *pattern, fan_handle handle,
                                                             void *context,
                                                             struct fan_error *ret_error);

#define FAN_DEFAULT_CALL_COUNT_MAX 32

/*
 * Has `call` called once by the next shutdown, the last registered first; it may still publish.
 *
 * Returns: FAN_FULL above 32; FAN_MISUSE before init and once shutdown began; FAN_FORKED.
 * Thread:  any. Blocks: never.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_default_on_shutdown(void (*call)(void *context),
                                                               void *context);

/*
 * Runs the registered call-backs, stops the broker (which drains what is queued for up to
 * timeout_ms) and frees it; one that a handler still runs for is freed by a later shutdown. Again,
 * or without init, does nothing else.
 *
 * Returns: FAN_TIMED_OUT when something was refused or a handler given up, as fan_broker_stop;
 *          FAN_MISUSE in a handler or call-back; FAN_FORKED.
 * Thread:  any but a handler or call-back. Blocks: as fan_broker_stop, and for calls in flight.
 */
FAN_API enum fan_status fan_default_shutdown(uint32_t timeout_ms);

#ifdef __cplusplus
}
#endif

#endif
