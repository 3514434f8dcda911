/*
 * Who wants which events: streams by their filter, so that an event costs what its listeners cost.
 *
 *     topic  --hash--> group -> stream -> stream      (their patterns are looked at one by one)
 *     type   --hash--> group -> stream                exact types
 *     pattern: group -> group                         each distinct pattern is matched once
 *     all:     group                                  no filter
 *
 * Belongs to one loop.
 */
#ifndef FAN_SERVER_INDEX_H
#define FAN_SERVER_INDEX_H

#include <fanfare/env.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fan_event;
struct fan__index_group;

/* Embedded in a stream. topic and pattern are borrowed while it is in the index, NULL for any. */
struct fan__index_entry {
    const char *topic;
    const char *pattern;
    struct fan__index_group *group; /* NULL when it is in no index */
    struct fan__index_entry *next;
    struct fan__index_entry **link;
};

struct fan__index {
    const struct fan_env *env;
    uint64_t seed;
    struct fan__index_group **buckets;
    size_t bucket_count; /* a power of two */
    size_t hashed_count;
    struct fan__index_group *patterns;
    struct fan__index_group *all;
    size_t count; /* entries */
};

void fan__index_init(struct fan__index *index, const struct fan_env *env);
/* The index is empty. */
void fan__index_deinit(struct fan__index *index);

/* Returns: FAN_NO_MEMORY. */
FAN_MUST_CHECK enum fan_status fan__index_add(struct fan__index *index,
                                              struct fan__index_entry *entry);

/* Takes it out; nothing when it is not in. */
void fan__index_remove(struct fan__index *index, struct fan__index_entry *entry);

/*
 * Calls `visit` for each entry that wants the event. It may remove the entry that it is called for,
 * and add none.
 */
void fan__index_match(struct fan__index *index, const struct fan_event *event,
                      void (*visit)(void *context, struct fan__index_entry *entry), void *context);

#endif
