/*
 * The topics that somebody subscribed to or holds: a chained hash table from name to lanes.
 * An entry goes when nobody needs it any more (B16). Not locked: used in the bus's turn.
 */
#ifndef FAN_BUS_TOPICS_H
#define FAN_BUS_TOPICS_H

#include <fanfare/status.h>

#include <stddef.h>
#include <stdint.h>

struct fan_env;
struct fan__lane;

struct fan__topic {
    struct fan__topic *next; /* in its bucket */
    uint64_t hash;
    size_t holds;
    struct fan__lane *first; /* its lanes */
    char name[];
};

struct fan__topics {
    const struct fan_env *env;
    uint64_t seed;
    struct fan__topic **buckets;
    size_t bucket_count; /* 0, or a power of two */
    size_t count;
};

void fan__topics_init(struct fan__topics *topics, const struct fan_env *env, uint64_t seed);
/* Frees entries that are still held; none may have a lane. */
void fan__topics_deinit(struct fan__topics *topics);

struct fan__topic *fan__topics_find(const struct fan__topics *topics, const char *name,
                                    size_t name_size);

/* Finds or makes the entry; NULL without memory. */
struct fan__topic *fan__topics_get(struct fan__topics *topics, const char *name, size_t name_size);

/* Frees the entry when it has neither lane nor hold. */
void fan__topics_tidy(struct fan__topics *topics, struct fan__topic *topic);

#endif
