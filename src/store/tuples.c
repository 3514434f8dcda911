/*
 * The cache from content to series: a hash table with linear probing, emptied when it is full. The
 * key is the bytes of all texts, each with its NUL.
 */
#include "base/env.h"
#include "base/hash.h"
#include "store/series.h"

#include <string.h>

#define ENTRY_COUNT_MAX 65536
#define BYTES_MAX ((size_t)16 << 20)

struct entry {
    uint64_t hash;
    int64_t id;
    bool marked;
    size_t size;
    char key[];
};

struct fan__tuples {
    const struct fan_env *env;
    struct entry **slots;
    size_t capacity;
    size_t count;
    size_t bytes;
    uint64_t seed;
};

struct fan__tuples *fan__tuples_new(const struct fan_env *env)
{
    struct fan__tuples *tuples = fan__alloc_zero(env, 1, sizeof(*tuples));
    if (!tuples)
        return NULL;
    tuples->env = env;
    tuples->capacity = 256;
    tuples->slots = fan__alloc_zero(env, tuples->capacity, sizeof(struct entry *));
    if (!tuples->slots) {
        fan__free(env, tuples);
        return NULL;
    }
    fan__random(env, &tuples->seed, sizeof(tuples->seed));
    return tuples;
}

void fan__tuples_clear(struct fan__tuples *tuples)
{
    for (size_t i = 0; i < tuples->capacity; i++) {
        fan__free(tuples->env, tuples->slots[i]);
        tuples->slots[i] = NULL;
    }
    tuples->count = 0;
    tuples->bytes = 0;
}

void fan__tuples_free(struct fan__tuples *tuples)
{
    if (!tuples)
        return;
    fan__tuples_clear(tuples);
    fan__free(tuples->env, tuples->slots);
    fan__free(tuples->env, tuples);
}

void fan__tuple_of(const struct fan__tuples *tuples, const struct fan_event *event,
                   struct fan__tuple *ret_tuple)
{
    const char *const texts[FAN__SERIES_TEXT_COUNT] = {
        fan_event_topic(event),
        fan_event_type(event),
        fan_source_text(fan_event_source(event)),
        fan_event_schema(event),
        fan_event_entity(event),
        fan_event_operation(event),
        fan_event_instance_id(event),
        fan_event_content_type(event),
    };
    size_t size = 0;
    for (size_t i = 0; i < FAN__SERIES_TEXT_COUNT; i++) {
        size_t length = strlen(texts[i]) + 1;
        ret_tuple->texts[i] = ret_tuple->key + size;
        memcpy(ret_tuple->key + size, texts[i], length);
        size += length;
    }
    ret_tuple->size = size;
    ret_tuple->hash = fan__hash(tuples->seed, ret_tuple->key, size);
}

/* The slot of a tuple: the entry itself, or the empty place where it belongs. */
static struct entry **slot_of(const struct fan__tuples *tuples, const struct fan__tuple *tuple)
{
    for (size_t i = tuple->hash & (tuples->capacity - 1);; i = (i + 1) & (tuples->capacity - 1)) {
        struct entry *entry = tuples->slots[i];
        if (!entry || (entry->hash == tuple->hash && entry->size == tuple->size &&
                       memcmp(entry->key, tuple->key, tuple->size) == 0))
            return &tuples->slots[i];
    }
}

int64_t fan__tuples_find(const struct fan__tuples *tuples, const struct fan__tuple *tuple,
                         bool *ret_marked)
{
    const struct entry *entry = *slot_of(tuples, tuple);
    if (entry && ret_marked)
        *ret_marked = entry->marked;
    return entry ? entry->id : 0;
}

/* Doubles the table. Without memory it stays as it is, and is emptied earlier. */
static void grow(struct fan__tuples *tuples)
{
    size_t capacity = tuples->capacity * 2;
    struct entry **slots = capacity <= (size_t)2 * ENTRY_COUNT_MAX
                               ? fan__alloc_zero(tuples->env, capacity, sizeof(struct entry *))
                               : NULL;
    if (!slots) {
        fan__tuples_clear(tuples);
        return;
    }
    for (size_t i = 0; i < tuples->capacity; i++) {
        if (!tuples->slots[i])
            continue;
        size_t at = tuples->slots[i]->hash & (capacity - 1);
        while (slots[at])
            at = (at + 1) & (capacity - 1);
        slots[at] = tuples->slots[i];
    }
    fan__free(tuples->env, tuples->slots);
    tuples->slots = slots;
    tuples->capacity = capacity;
}

void fan__tuples_add(struct fan__tuples *tuples, const struct fan__tuple *tuple, int64_t id,
                     bool marked)
{
    size_t size = sizeof(struct entry) + tuple->size;
    if (*slot_of(tuples, tuple))
        return;
    if (tuples->bytes + size > BYTES_MAX)
        fan__tuples_clear(tuples);
    if ((tuples->count + 1) * 2 > tuples->capacity)
        grow(tuples);
    struct entry *entry = fan__alloc(tuples->env, size);
    if (!entry)
        return;
    *entry = (struct entry){ .hash = tuple->hash, .id = id, .marked = marked, .size = tuple->size };
    memcpy(entry->key, tuple->key, tuple->size);
    *slot_of(tuples, tuple) = entry;
    tuples->count++;
    tuples->bytes += size;
}
