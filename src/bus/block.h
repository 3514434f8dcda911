/*
 * A message that is held by reference: one allocation, shared by all subscriptions that have it
 * queued or lent to their reader. Nothing in it changes once it is published.
 *
 *     [ struct fan__block | payload, aligned to 8 | type NUL | topic NUL ]
 */
#ifndef FAN_BUS_BLOCK_H
#define FAN_BUS_BLOCK_H

#include <fanfare/bus.h>

#include <stdatomic.h>

struct fan__route;

/* A message that was found valid, with its lengths; it borrows the publisher's strings. */
struct fan__draft {
    const struct fan_message *message;
    unsigned kind;
    const char *type;
    size_t type_size;
    const char *topic;
    size_t topic_size;
    const struct fan__route *route; /* the last one, when it is of this type and topic, or NULL */
};

struct fan__block {
    struct fan_message message;
    size_t size; /* of the whole allocation, as the bus's budget counts it */
    atomic_size_t holders;
    uint64_t key; /* a hash of topic and type; 0 where nobody asked for it */
};

/*
 * Measures and checks a message, in the turn. FAN_INVALID as fan_bus_publish says, but for the size
 * of the payload: what the log took, the bus tells.
 */
FAN_MUST_CHECK enum fan_status fan__draft_init(struct fan__draft *draft,
                                               const struct fan_message *message,
                                               const struct fan_bus *bus);

size_t fan__draft_block_size(const struct fan__draft *draft);

/*
 * Copies a draft into a block with one holder and sequence 0, stamped, and counts its size; NULL
 * without memory.
 */
struct fan__block *fan__block_new(struct fan_bus *bus, const struct fan__draft *draft);

bool fan__block_same_key(const struct fan__block *a, const struct fan__block *b);

#endif
