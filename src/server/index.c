/* See index.h. Groups are made with their first entry and freed with their last. */
#include "server/index.h"

#include "base/env.h"
#include "base/hash.h"

#include <fanfare/event.h>
#include <fanfare/pattern.h>

#include <assert.h>
#include <string.h>

#define BUCKET_COUNT_MIN 64

enum kind {
    KIND_TOPIC,
    KIND_TYPE,
    KIND_PATTERN,
    KIND_ALL,
};

struct fan__index_group {
    struct fan__index_group *next; /* of the bucket, or of the patterns */
    struct fan__index_entry *first;
    uint64_t hash;
    enum kind kind;
    char text[];
};

void fan__index_init(struct fan__index *index, const struct fan_env *env)
{
    *index = (struct fan__index){ .env = env };
    fan__random(env, &index->seed, sizeof(index->seed));
}

void fan__index_deinit(struct fan__index *index)
{
    assert(index->count == 0 && !index->patterns && !index->all);
    fan__free(index->env, index->buckets);
}

static bool has_wildcard(const char *pattern)
{
    return strpbrk(pattern, "*>") != NULL;
}

static enum kind kind_of(const struct fan__index_entry *entry, const char **ret_text)
{
    *ret_text = entry->topic ? entry->topic : entry->pattern ? entry->pattern : "";
    if (entry->topic)
        return KIND_TOPIC;
    if (!entry->pattern || strcmp(entry->pattern, "*") == 0 || strcmp(entry->pattern, ">") == 0)
        return KIND_ALL;
    return has_wildcard(entry->pattern) ? KIND_PATTERN : KIND_TYPE;
}

static uint64_t hash_of(const struct fan__index *index, enum kind kind, const char *text)
{
    return fan__hash(index->seed + (uint64_t)kind, text, strlen(text));
}

/*
 * The list in which a group of this kind and text stands, or would. NULL before the first bucket.
 */
static struct fan__index_group **list_of(struct fan__index *index, enum kind kind, uint64_t hash)
{
    if (kind == KIND_PATTERN)
        return &index->patterns;
    if (kind == KIND_ALL)
        return &index->all;
    return index->buckets ? &index->buckets[hash & (index->bucket_count - 1)] : NULL;
}

static struct fan__index_group *find(struct fan__index *index, enum kind kind, const char *text)
{
    uint64_t hash = hash_of(index, kind, text);
    struct fan__index_group **list = list_of(index, kind, hash);
    struct fan__index_group *group = list ? *list : NULL;
    while (group && (group->hash != hash || group->kind != kind || strcmp(group->text, text) != 0))
        group = group->next;
    return group;
}

/* Doubles the buckets. Failing is harmless once there are some: lists are longer then. */
static bool grow(struct fan__index *index)
{
    size_t count = index->bucket_count ? index->bucket_count * 2 : BUCKET_COUNT_MIN;
    struct fan__index_group **buckets = fan__alloc_zero(index->env, count, sizeof(*buckets));
    if (!buckets)
        return index->buckets != NULL;
    for (size_t i = 0; i < index->bucket_count; i++) {
        struct fan__index_group *next;
        for (struct fan__index_group *group = index->buckets[i]; group; group = next) {
            next = group->next;
            struct fan__index_group **list = &buckets[group->hash & (count - 1)];
            group->next = *list;
            *list = group;
        }
    }
    fan__free(index->env, index->buckets);
    index->buckets = buckets;
    index->bucket_count = count;
    return true;
}

static struct fan__index_group *make(struct fan__index *index, enum kind kind, const char *text)
{
    bool hashed = kind == KIND_TOPIC || kind == KIND_TYPE;
    if (hashed && index->hashed_count >= index->bucket_count && !grow(index))
        return NULL;
    size_t size = strlen(text) + 1;
    struct fan__index_group *group = fan__alloc(index->env, sizeof(*group) + size);
    if (!group)
        return NULL;
    *group = (struct fan__index_group){ .kind = kind, .hash = hash_of(index, kind, text) };
    memcpy(group->text, text, size);
    struct fan__index_group **list = list_of(index, kind, group->hash);
    group->next = *list;
    *list = group;
    index->hashed_count += hashed;
    return group;
}

enum fan_status fan__index_add(struct fan__index *index, struct fan__index_entry *entry)
{
    assert(!entry->group);
    const char *text;
    enum kind kind = kind_of(entry, &text);
    if (kind == KIND_ALL)
        text = "";
    struct fan__index_group *group = find(index, kind, text);
    if (!group)
        group = make(index, kind, text);
    if (!group)
        return FAN_NO_MEMORY;
    entry->group = group;
    entry->next = group->first;
    entry->link = &group->first;
    if (entry->next)
        entry->next->link = &entry->next;
    group->first = entry;
    index->count++;
    return FAN_OK;
}

static void unlink_group(struct fan__index *index, struct fan__index_group *group)
{
    struct fan__index_group **list = list_of(index, group->kind, group->hash);
    while (*list != group)
        list = &(*list)->next;
    *list = group->next;
    index->hashed_count -= group->kind == KIND_TOPIC || group->kind == KIND_TYPE;
    fan__free(index->env, group);
}

void fan__index_remove(struct fan__index *index, struct fan__index_entry *entry)
{
    struct fan__index_group *group = entry->group;
    if (!group)
        return;
    *entry->link = entry->next;
    if (entry->next)
        entry->next->link = entry->link;
    entry->group = NULL;
    index->count--;
    if (!group->first)
        unlink_group(index, group);
}

/* Visits a group's entries, and of those with a pattern of their own the ones that match. */
static void visit_group(const struct fan__index_group *group, const char *type,
                        void (*visit)(void *context, struct fan__index_entry *entry), void *context)
{
    struct fan__index_entry *next;
    for (struct fan__index_entry *entry = group ? group->first : NULL; entry; entry = next) {
        /* The group goes with its last entry. */
        next = entry->next;
        if (!type || !entry->pattern || fan_pattern_match(entry->pattern, type))
            visit(context, entry);
    }
}

void fan__index_match(struct fan__index *index, const struct fan_event *event,
                      void (*visit)(void *context, struct fan__index_entry *entry), void *context)
{
    const char *type = fan_event_type(event);
    if (index->hashed_count > 0)
        visit_group(find(index, KIND_TOPIC, fan_event_topic(event)), type, visit, context);
    if (index->hashed_count > 0)
        visit_group(find(index, KIND_TYPE, type), NULL, visit, context);
    struct fan__index_group *next;
    for (struct fan__index_group *group = index->patterns; group; group = next) {
        next = group->next;
        if (fan_pattern_match(group->text, type))
            visit_group(group, NULL, visit, context);
    }
    visit_group(index->all, NULL, visit, context);
}
