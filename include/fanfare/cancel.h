/*
 * A cancel token: one switch that ends any number of subscriptions and waits, once.
 *
 *     new -> armed --fire--> fired (for ever)
 *
 * A token is counted: each holder unrefs it once, subscriptions hold it while they live. Firing
 * asks; what was buffered may still be read (see bus.h). A token that was made before a fork can be
 * fired and looked at in the child, where it ends nothing.
 */
#ifndef FANFARE_CANCEL_H
#define FANFARE_CANCEL_H

#include <fanfare/status.h>

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

struct fan_env;
struct fan_cancel;

/*
 * Makes an armed token. env may be NULL.
 *
 * Returns: FAN_NO_MEMORY.
 * Memory:  *ret_cancel is yours, for fan_cancel_unref.
 * Thread:  any. Blocks: never.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_cancel_new(const struct fan_env *env,
                                                      struct fan_cancel **ret_cancel);

/* Adds a holder; gives the token back. Thread: any. Blocks: never. */
FAN_API struct fan_cancel *fan_cancel_ref(struct fan_cancel *cancel);

/* Drops a holder; the last one frees it. Accepts NULL. Thread: any. Blocks: never. */
FAN_API void fan_cancel_unref(struct fan_cancel *cancel);

/*
 * Fires: all that was given this token is cancelled, later ones at once. Firing again does nothing.
 * Thread: any, not a signal handler. Blocks: for short locks only.
 */
FAN_API void fan_cancel_fire(struct fan_cancel *cancel);

/* Tells whether it has fired. Thread: any. Blocks: never. */
FAN_API bool fan_cancel_fired(const struct fan_cancel *cancel);

#ifdef __cplusplus
}
#endif

#endif
