/*
 * A chained hash table from name to lanes: of the topics that somebody subscribed to or holds, and
 * of what patterns begin with (route.h), of a topic or of all. An entry goes when nobody needs it
 * any more (B16). Not locked: used in the bus's turn.
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
    const struct fan__topic *of;
    uint64_t hash;
    size_t holds;
    size_t lane_count;       /* also of those on the lists of what patterns begin with */
    struct fan__lane *first; /* its lanes */
    char name[];
};

struct fan__topics {
    const struct fan_env *env;
    struct fan__topic **buckets;
    size_t bucket_count; /* 0, or a power of two */
    size_t count;
    size_t name_size_max; /* no name is longer; it falls when the last entry has gone */
};

/* What an entry is found by; the name need not end where its size says. */
struct fan__topic_key {
    const struct fan__topic *of; /* the topic of what a pattern begins with, or NULL */
    uint64_t hash;
    const char *name;
    size_t name_size;
};

void fan__topics_init(struct fan__topics *topics, const struct fan_env *env);
/* Frees entries that are still held; none may have a lane. */
void fan__topics_deinit(struct fan__topics *topics);

/* The key of a topic. */
struct fan__topic_key fan__topic_key(uint64_t seed, const char *name, size_t name_size);

struct fan__topic *fan__topics_find(const struct fan__topics *topics,
                                    const struct fan__topic_key *key);

/* Finds or makes the entry; NULL without memory. */
struct fan__topic *fan__topics_get(struct fan__topics *topics, const struct fan__topic_key *key);

/* Frees the entry when it has neither lane nor hold. */
void fan__topics_tidy(struct fan__topics *topics, struct fan__topic *topic);

#endif
