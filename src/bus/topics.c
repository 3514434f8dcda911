/* The table doubles when it holds more entries than buckets; one that cannot grow gets slower. */
#include "bus/topics.h"

#include "base/env.h"
#include "base/hash.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

#define BUCKET_COUNT_MIN 16

void fan__topics_init(struct fan__topics *topics, const struct fan_env *env)
{
    *topics = (struct fan__topics){ .env = env };
}

void fan__topics_deinit(struct fan__topics *topics)
{
    for (size_t i = 0; i < topics->bucket_count; i++) {
        while (topics->buckets[i]) {
            struct fan__topic *topic = topics->buckets[i];
            assert(!topic->first);
            topics->buckets[i] = topic->next;
            fan__free(topics->env, topic);
        }
    }
    fan__free(topics->env, topics->buckets);
    fan__topics_init(topics, topics->env);
}

struct fan__topic_key fan__topic_key(uint64_t seed, const char *name, size_t name_size)
{
    return (struct fan__topic_key){ .hash = fan__hash(seed, name, name_size),
                                    .name = name,
                                    .name_size = name_size };
}

static bool has_key(const struct fan__topic *topic, const struct fan__topic_key *key)
{
    return topic->hash == key->hash && topic->of == key->of &&
           strncmp(topic->name, key->name, key->name_size) == 0 &&
           topic->name[key->name_size] == '\0';
}

struct fan__topic *fan__topics_find(const struct fan__topics *topics,
                                    const struct fan__topic_key *key)
{
    if (topics->count == 0)
        return NULL;
    struct fan__topic *topic = topics->buckets[key->hash & (topics->bucket_count - 1)];
    while (topic && !has_key(topic, key))
        topic = topic->next;
    return topic;
}

static enum fan_status grow(struct fan__topics *topics)
{
    size_t count = topics->bucket_count > 0 ? topics->bucket_count * 2 : BUCKET_COUNT_MIN;
    struct fan__topic **buckets = fan__alloc_zero(topics->env, count, sizeof(struct fan__topic *));
    if (!buckets)
        return FAN_NO_MEMORY;
    for (size_t i = 0; i < topics->bucket_count; i++) {
        while (topics->buckets[i]) {
            struct fan__topic *topic = topics->buckets[i];
            topics->buckets[i] = topic->next;
            topic->next = buckets[topic->hash & (count - 1)];
            buckets[topic->hash & (count - 1)] = topic;
        }
    }
    fan__free(topics->env, topics->buckets);
    topics->buckets = buckets;
    topics->bucket_count = count;
    return FAN_OK;
}

struct fan__topic *fan__topics_get(struct fan__topics *topics, const struct fan__topic_key *key)
{
    struct fan__topic *topic = fan__topics_find(topics, key);
    if (topic)
        return topic;
    if (topics->count >= topics->bucket_count && grow(topics) != FAN_OK &&
        topics->bucket_count == 0)
        return NULL;
    topic = fan__alloc(topics->env, sizeof(*topic) + key->name_size + 1);
    if (!topic)
        return NULL;
    struct fan__topic **bucket = &topics->buckets[key->hash & (topics->bucket_count - 1)];
    *topic = (struct fan__topic){ .next = *bucket, .of = key->of, .hash = key->hash };
    memcpy(topic->name, key->name, key->name_size);
    topic->name[key->name_size] = '\0';
    *bucket = topic;
    if (topics->count++ == 0 || key->name_size > topics->name_size_max)
        topics->name_size_max = key->name_size;
    return topic;
}

void fan__topics_tidy(struct fan__topics *topics, struct fan__topic *topic)
{
    if (topic->lane_count > 0 || topic->holds > 0)
        return;
    assert(!topic->first);
    struct fan__topic **link = &topics->buckets[topic->hash & (topics->bucket_count - 1)];
    while (*link != topic)
        link = &(*link)->next;
    *link = topic->next;
    topics->count--;
    fan__free(topics->env, topic);
}
