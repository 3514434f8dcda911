/* Reading without waiting, and what it lends (read.c). For the reader alone. */
#ifndef FAN_BUS_READ_H
#define FAN_BUS_READ_H

#include "bus/bus.h"

/* Where what it may read ends. ret_limit (may be NULL): FAN__NO_LIMIT while it is live. */
uint64_t fan__subscription_end_of(const struct fan_subscription *subscription, uint64_t *ret_limit);

/* The bytes of one message that is lent, with room for its data. */
size_t fan__lent_size(const struct fan_bus *bus);

/* Room for what will be lent; gives how many messages it has room for. */
size_t fan__subscription_make_lent(struct fan_subscription *subscription, size_t count_max);

/* Takes up to count_max messages: FAN_OK, FAN_GAP, FAN_AGAIN or FAN_CLOSED. */
enum fan_status fan__subscription_read(struct fan_subscription *subscription, size_t count_max);

/* All that was lent. */
void fan__subscription_lent_all(const struct fan_subscription *subscription,
                                const struct fan_message **ret_messages);

/* The first of it. */
const struct fan_message *fan__subscription_lent(const struct fan_subscription *subscription);

#endif
