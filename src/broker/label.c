/* See label.h. A table of open addressing that nothing is ever taken from. */
#include "broker/label.h"

#include "base/env.h"
#include "base/hash.h"

#include <assert.h>
#include <string.h>

#define OWN_MAX (FAN__LABELS_MAX - FAN__LABELS_RESERVED_MAX)

void fan__labels_init(struct fan__labels *labels, const struct fan_env *env)
{
    *labels = (struct fan__labels){ .env = env };
    fan__random(env, &labels->seed, sizeof(labels->seed));
}

void fan__labels_deinit(struct fan__labels *labels)
{
    for (unsigned i = 0; i < labels->count; i++)
        fan__free(labels->env, labels->labels[i].block);
}

/* The slot of a pair, or the free one where it would stand. */
static uint16_t *slot_of(struct fan__labels *labels, const char *first, const char *second)
{
    uint64_t hash =
        fan__hash(fan__hash(labels->seed, first, strlen(first)), second, strlen(second));
    size_t at = hash & (FAN__LABELS_SLOTS - 1);
    for (; labels->slots[at] != 0; at = (at + 1) & (FAN__LABELS_SLOTS - 1)) {
        const struct fan__label *label = &labels->labels[labels->slots[at] - 1];
        if (strcmp(label->second, second) == 0 && strcmp(label->first, first) == 0)
            break;
    }
    return &labels->slots[at];
}

void fan__labels_reserve(struct fan__labels *labels, const char *first, const char *second)
{
    assert(labels->reserved == labels->count && labels->reserved < FAN__LABELS_RESERVED_MAX);
    uint16_t *slot = slot_of(labels, first, second);
    labels->labels[labels->count++] = (struct fan__label){ NULL, first, second };
    labels->reserved++;
    *slot = (uint16_t)labels->count;
}

unsigned fan__labels_find(struct fan__labels *labels, const char *first, const char *second,
                          unsigned other)
{
    uint16_t *slot = slot_of(labels, first, second);
    if (*slot != 0)
        return *slot - 1u;
    if (labels->count - labels->reserved == OWN_MAX)
        return other;
    size_t first_size = strlen(first) + 1;
    size_t second_size = strlen(second) + 1;
    char *block = fan__alloc(labels->env, first_size + second_size);
    if (!block)
        return other;
    memcpy(block, first, first_size);
    memcpy(block + first_size, second, second_size);
    labels->labels[labels->count++] = (struct fan__label){ block, block, block + first_size };
    *slot = (uint16_t)labels->count;
    return labels->count - 1;
}
