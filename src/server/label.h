/*
 * Counters by source and type, bounded in number: past FAN__LABEL_COUNT_MAX pairs a type becomes
 * `other` (of its source). One loop finds and counts; other threads may merge at any time.
 */
#ifndef FAN_SERVER_LABEL_H
#define FAN_SERVER_LABEL_H

#include "base/thread.h"

#include <fanfare/event.h>

#define FAN__LABEL_COUNT_MAX 200
#define FAN__LABEL_SLOTS 512 /* a power of two, more than twice as many */

struct fan__label {
    enum fan_source source;
    char *type;
    uint64_t count;
};

/* labels[source - 1] is the `other` of that source. */
struct fan__labels {
    const struct fan_env *env;
    struct fan__mutex mutex;
    uint64_t seed;
    uint64_t others[FAN_SOURCE_INTERNAL];
    struct fan__label labels[FAN__LABEL_COUNT_MAX];
    unsigned count;
    uint16_t slots[FAN__LABEL_SLOTS]; /* index + 1 */
};

void fan__labels_init(struct fan__labels *labels, const struct fan_env *env);
void fan__labels_deinit(struct fan__labels *labels);

/* Adds to the counter of a pair. Thread: any. */
void fan__labels_add(struct fan__labels *labels, enum fan_source source, const char *type,
                     uint64_t count);

/* Adds all of `from` to `into`, which is the caller's alone. Thread: any. */
void fan__labels_merge(struct fan__labels *into, struct fan__labels *from);

#endif
