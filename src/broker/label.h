/*
 * Pairs of label values, bounded in number: each has an index, in the order of their first use.
 * The first ones are reserved, to stand for all that find no room. The caller keeps the lock.
 */
#ifndef FAN_BROKER_LABEL_H
#define FAN_BROKER_LABEL_H

#include <fanfare/env.h>

#include <stdint.h>

#define FAN__LABELS_RESERVED_MAX 8
#define FAN__LABELS_MAX (200 + FAN__LABELS_RESERVED_MAX)
#define FAN__LABELS_SLOTS 512 /* a power of two, more than twice as many */
#define FAN__LABEL_OTHER "other"

/* What was found has both texts in one block, what is reserved is borrowed for good. */
struct fan__label {
    char *block;
    const char *first;
    const char *second;
};

struct fan__labels {
    const struct fan_env *env;
    uint64_t seed;
    unsigned reserved;
    unsigned count;
    struct fan__label labels[FAN__LABELS_MAX];
    uint16_t slots[FAN__LABELS_SLOTS]; /* index + 1 */
};

void fan__labels_init(struct fan__labels *labels, const struct fan_env *env);
void fan__labels_deinit(struct fan__labels *labels);

/* Reserves the next index for a pair of constants, before any is found. */
void fan__labels_reserve(struct fan__labels *labels, const char *first, const char *second);

/* The index of a pair; `other` when it has none and there is no room, or no memory. */
unsigned fan__labels_find(struct fan__labels *labels, const char *first, const char *second,
                          unsigned other);

#endif
