/*
 * Which lanes want a message, by kind or type and by topic.
 *
 * A lane is listed by its topic, if it wants one, and by the segments that its pattern begins with
 * up to the first wildcard: of `a.b.*.c` and `a.b`, that is `a.b`. So only the lanes of a type's
 * own beginnings are compared with it, and those that begin with a wildcard, or want every type.
 *
 * What was found is remembered, in a table that grows up to a bound of entries and of bytes: for a
 * type alone, which is all there is for a topic that nobody wants, and for a type and a topic that
 * has lanes of its own. Where the table is full, or there is no memory, it is found anew each time.
 * Everything is forgotten when a lane comes or goes. In the turn.
 */
#ifndef FAN_BUS_ROUTE_H
#define FAN_BUS_ROUTE_H

#include "bus/block.h"
#include "bus/topics.h"

#include <stdbool.h>

#define FAN__ROUTE_COUNT_MAX 4096
/* Of the bus's memory, what routes may take, and what they may take in any case. */
#define FAN__ROUTE_PART 16
#define FAN__ROUTE_SIZE_MIN ((size_t)64 << 10)

struct fan__lane;

struct fan__route {
    struct fan__route *next; /* in its bucket */
    uint64_t hash;
    uint64_t generation;
    const struct fan__topic *topic; /* NULL: of the type alone */
    size_t size;                    /* of the whole allocation */
    uint16_t type_size;
    uint16_t topic_size;
    uint16_t kind;
    /* How such a message stands in a slot: its texts, and the payload that fits with them. */
    uint16_t text_at; /* in the key */
    uint16_t text_words;
    uint32_t text_sizes;
    size_t payload_size_min;
    size_t payload_size_span; /* and so many more at most */
    const char *type;         /* the name of the kind, where there are kinds */
    size_t lane_count;
    struct fan__lane **lanes; /* behind the key */
    char key[];               /* type NUL topic NUL, and a whole word */
};

struct fan__routes {
    uint64_t generation;         /* moves with every lane that comes or goes */
    uint64_t looked_at;          /* lanes that were compared with a message */
    struct fan__route **buckets; /* also with what was forgotten */
    size_t bucket_count;         /* 0, or a power of two */
    size_t count;
    size_t size;          /* bytes of it all */
    size_t refused_count; /* since the table was full */
};

/* The lanes that want the message, linked by match_next. */
struct fan__lane *fan__route_find(struct fan_bus *bus, const struct fan__draft *draft);

/* A topic, if it has lanes of its own; NULL also for none. */
const struct fan__topic *fan__route_topic(const struct fan_bus *bus, const char *topic,
                                          size_t topic_size);

/* Where a lane with a pattern is listed; the name is empty when that begins with a wildcard. */
struct fan__topic_key fan__route_prefix(const struct fan_bus *bus, const struct fan__topic *topic,
                                        const char *pattern);

/* Compares the texts of a draft, of which the sizes need not be known. */
bool fan__route_is_of(const struct fan__route *route, const struct fan_bus *bus,
                      const struct fan__draft *draft);

/* Forgets everything; what it took is used again. */
void fan__route_forget(struct fan_bus *bus);

void fan__routes_deinit(struct fan_bus *bus);

#endif
