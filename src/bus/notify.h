/*
 * The door for the broker: notifications of what the log has numbered already, readers that are
 * woken by a call, and a cheap look whether anybody listens.
 */
#ifndef FAN_BUS_NOTIFY_H
#define FAN_BUS_NOTIFY_H

#include <fanfare/subscription.h>

/*
 * Fans messages out as fan_bus_publish_many does, but keeps the sequences that they carry (strictly
 * rising, from call to call too; holes are fine) and never waits or fails: a subscription for which
 * there was no memory is told the loss as a gap. After close it does nothing. One bus takes either
 * this or fan_bus_publish. The messages must be valid, which is asserted.
 *
 * Thread: any, one at a time. Blocks: short locks only.
 */
void fan__bus_notify(struct fan_bus *bus, const struct fan_message *messages, size_t count);

/*
 * Tells whether anybody is subscribed, without a lock. Who first makes something visible in the log
 * and then gets false here needs not notify: whoever subscribes later will find it in the log, if
 * it subscribes before it reads the log's end.
 */
bool fan__bus_heard(const struct fan_bus *bus);

/*
 * Has `wake` called whenever the subscription turns from one whose read would give FAN_AGAIN into
 * one whose read would not, and at once when it is readable already; NULL ends that. It runs on the
 * thread that caused it, without the bus's lock, never twice at a time; when this function or
 * fan_subscription_free returns, the former one does not run any more. It may read, and take its
 * own short locks, but must not end, free or set the wake of a subscription.
 */
void fan__subscription_set_wake(struct fan_subscription *subscription, void (*wake)(void *context),
                                void *context);

#endif
