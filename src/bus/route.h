/*
 * Which lanes want a message, by kind or type and by topic. What was found is remembered in a
 * small table, so that a filter that does not match costs nothing, however many there are; a type
 * with a topic is remembered when it comes a second time, so that topics which come once do not
 * push out those that come often; what a type alone wants is remembered apart, and is all there is
 * where nobody wants a topic. Everything is forgotten when a lane comes or goes. In the turn.
 */
#ifndef FAN_BUS_ROUTE_H
#define FAN_BUS_ROUTE_H

#include "bus/block.h"

#include <stdbool.h>

#define FAN__ROUTE_COUNT 64
#define FAN__ROUTE_KEY_SIZE 72 /* with room for a whole word behind it */
#define FAN__ROUTE_LANE_COUNT 6

struct fan__lane;

struct fan__route {
    uint64_t generation; /* 0: nothing is remembered but the hash */
    uint64_t hash;
    uint16_t type_size;
    uint16_t topic_size;
    uint16_t lane_count;
    uint16_t kind;
    /* How such a message stands in a slot: its texts, and the payload that fits with them. */
    uint32_t text_sizes;
    uint16_t text_at; /* in the key */
    uint16_t text_words;
    size_t payload_size_min;
    size_t payload_size_span; /* and so many more at most */
    const char *type;         /* the name of the kind, where there are kinds */
    bool any_topic;           /* no lane wants a topic, so this is of all of them */
    struct fan__lane *lanes[FAN__ROUTE_LANE_COUNT];
    char key[FAN__ROUTE_KEY_SIZE + sizeof(uint64_t)]; /* type NUL topic NUL */
};

struct fan__routes {
    uint64_t generation; /* moves with every lane that comes or goes; from 1 */
    uint64_t looked_at;  /* lanes that were compared with a message */
    struct fan__route by_type[FAN__ROUTE_COUNT]; /* lanes without a topic */
    struct fan__route by_topic[FAN__ROUTE_COUNT];
};

/* The lanes that want the message, linked by match_next. */
struct fan__lane *fan__route_find(struct fan_bus *bus, const struct fan__draft *draft);

/* Compares the texts of a draft, of which the sizes need not be known. */
bool fan__route_is_of(const struct fan__route *route, const struct fan_bus *bus,
                      const struct fan__draft *draft);

/* Forgets everything. */
void fan__route_forget(struct fan_bus *bus);

#endif
