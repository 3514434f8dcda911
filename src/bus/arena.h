/*
 * The memory of messages that are held by reference. What the last holder let go of is kept, and
 * given out again, the last first: its pages are there, and most of it is in the processor's cache
 * still, so a large message costs its copy and no more. One stack for each class of sizes:
 *
 *     heads[class] -> spare -> spare      pushed by whoever lets go; popped in the turn alone
 *
 * Since one at a time pops, what it sees behind a head stays behind it, and no head can come back
 * in between: a compare-and-swap is enough. Small messages are left to the allocator.
 */
#ifndef FAN_BUS_ARENA_H
#define FAN_BUS_ARENA_H

#include <stdatomic.h>
#include <stddef.h>

struct fan_env;
struct fan__spare;

#define FAN__ARENA_CLASS_COUNT 113

struct fan__arena {
    const struct fan_env *env;
    size_t spare_size_max;
    atomic_size_t spare_size; /* bytes that wait to be used again, or a few more */
    size_t next_class;        /* to make way for other sizes; in the turn */
    _Atomic(struct fan__spare *) heads[FAN__ARENA_CLASS_COUNT];
};

void fan__arena_init(struct fan__arena *arena, const struct fan_env *env, size_t spare_size_max);

/* What a piece of at least this size takes; the same for what it gives. */
size_t fan__arena_size(size_t size);

/* A piece of a size that fan__arena_size gave; NULL without memory. In the turn. */
void *fan__arena_get(struct fan__arena *arena, size_t size);

/* Takes a piece back. Any thread. */
void fan__arena_put(struct fan__arena *arena, void *piece, size_t size);

/* Gives all that waits back to the allocator. In the turn. */
void fan__arena_trim(struct fan__arena *arena);

#endif
