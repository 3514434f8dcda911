/* See label.h. A table of open addressing that nothing is ever taken from. */
#include "server/label.h"

#include "base/env.h"
#include "base/hash.h"

#include <string.h>

void fan__labels_init(struct fan__labels *labels, const struct fan_env *env)
{
    *labels = (struct fan__labels){ .env = env };
    fan__mutex_init(&labels->mutex);
    fan__random(env, &labels->seed, sizeof(labels->seed));
}

void fan__labels_deinit(struct fan__labels *labels)
{
    for (unsigned i = 0; i < labels->count; i++)
        fan__free(labels->env, labels->labels[i].type);
    fan__mutex_deinit(&labels->mutex);
}

/* Gives the pair's counter, made if there is room for it; with the lock held. */
static uint64_t *find(struct fan__labels *labels, enum fan_source source, const char *type)
{
    uint64_t *other = &labels->others[source - FAN_SOURCE_DATABASE];
    /* A type of this name is not told from the rest: two series of one name are no metrics. */
    if (strcmp(type, "other") == 0)
        return other;
    uint64_t hash = fan__hash(labels->seed + (uint64_t)source, type, strlen(type));
    size_t at = hash & (FAN__LABEL_SLOTS - 1);
    for (; labels->slots[at] != 0; at = (at + 1) & (FAN__LABEL_SLOTS - 1)) {
        struct fan__label *label = &labels->labels[labels->slots[at] - 1];
        if (label->source == source && strcmp(label->type, type) == 0)
            return &label->count;
    }
    if (labels->count == FAN__LABEL_COUNT_MAX)
        return other;
    char *copy = fan__strdup(labels->env, type);
    if (!copy)
        return other;
    struct fan__label *label = &labels->labels[labels->count++];
    *label = (struct fan__label){ .source = source, .type = copy };
    labels->slots[at] = (uint16_t)labels->count;
    return &label->count;
}

void fan__labels_add(struct fan__labels *labels, enum fan_source source, const char *type,
                     uint64_t count)
{
    fan__mutex_lock(&labels->mutex);
    *find(labels, source, type) += count;
    fan__mutex_unlock(&labels->mutex);
}

void fan__labels_merge(struct fan__labels *into, struct fan__labels *from)
{
    fan__mutex_lock(&from->mutex);
    for (unsigned i = 0; i < from->count; i++) {
        const struct fan__label *label = &from->labels[i];
        *find(into, label->source, label->type) += label->count;
    }
    for (unsigned i = 0; i < FAN_SOURCE_INTERNAL; i++)
        into->others[i] += from->others[i];
    fan__mutex_unlock(&from->mutex);
}
