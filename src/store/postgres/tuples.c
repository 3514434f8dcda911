/*
 * The writer's cache from content to series: a hash table with linear probing, emptied when it is
 * full. The key is the bytes of all texts, each with its NUL.
 *
 * Series made in a transaction are in the cache at once; whoever does not commit empties it.
 */
#include "store/postgres/series.h"

#include "base/env.h"
#include "base/hash.h"

#include <string.h>

#define ENTRY_COUNT_MAX 65536
#define BYTES_MAX ((size_t)16 << 20)
#define TEXT_COUNT 8

struct entry {
    uint64_t hash;
    int64_t id;
    size_t size;
    char key[];
};

struct fan__postgres_tuples {
    struct entry **slots;
    size_t capacity;
    size_t count;
    size_t bytes;
    uint64_t seed;
};

/* In the order of SERIES_MAKE and SERIES_FIND. */
struct tuple {
    const char *texts[TEXT_COUNT];
    size_t size;
    uint64_t hash;
    char key[TEXT_COUNT * (FAN_TEXT_SIZE_MAX + 1)];
};

bool fan__postgres_tuples_new(struct fan__postgres *store)
{
    struct fan__postgres_tuples *tuples = fan__alloc_zero(store->env, 1, sizeof(*tuples));
    if (!tuples)
        return false;
    tuples->capacity = 256;
    tuples->slots = fan__alloc_zero(store->env, tuples->capacity, sizeof(struct entry *));
    if (!tuples->slots) {
        fan__free(store->env, tuples);
        return false;
    }
    fan__random(store->env, &tuples->seed, sizeof(tuples->seed));
    store->tuples = tuples;
    return true;
}

void fan__postgres_tuples_clear(struct fan__postgres *store)
{
    struct fan__postgres_tuples *tuples = store->tuples;
    for (size_t i = 0; i < tuples->capacity; i++) {
        fan__free(store->env, tuples->slots[i]);
        tuples->slots[i] = NULL;
    }
    tuples->count = 0;
    tuples->bytes = 0;
}

void fan__postgres_tuples_free(struct fan__postgres *store)
{
    if (!store->tuples)
        return;
    fan__postgres_tuples_clear(store);
    fan__free(store->env, store->tuples->slots);
    fan__free(store->env, store->tuples);
    store->tuples = NULL;
}

static void tuple_of(const struct fan__postgres_tuples *tuples, const struct fan_event *event,
                     struct tuple *ret_tuple)
{
    const char *const texts[TEXT_COUNT] = {
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
    for (size_t i = 0; i < TEXT_COUNT; i++) {
        size_t length = strlen(texts[i]) + 1;
        ret_tuple->texts[i] = ret_tuple->key + size;
        memcpy(ret_tuple->key + size, texts[i], length);
        size += length;
    }
    ret_tuple->size = size;
    ret_tuple->hash = fan__hash(tuples->seed, ret_tuple->key, size);
}

/* The slot of a tuple: the entry itself, or the empty place where it belongs. */
static struct entry **slot_of(const struct fan__postgres_tuples *tuples, const struct tuple *tuple)
{
    for (size_t i = tuple->hash & (tuples->capacity - 1);; i = (i + 1) & (tuples->capacity - 1)) {
        struct entry *entry = tuples->slots[i];
        if (!entry || (entry->hash == tuple->hash && entry->size == tuple->size &&
                       memcmp(entry->key, tuple->key, tuple->size) == 0))
            return &tuples->slots[i];
    }
}

/* Doubles the table. Without memory it stays as it is, and is emptied earlier. */
static void grow(struct fan__postgres *store)
{
    struct fan__postgres_tuples *tuples = store->tuples;
    size_t capacity = tuples->capacity * 2;
    struct entry **slots = capacity <= (size_t)2 * ENTRY_COUNT_MAX
                               ? fan__alloc_zero(store->env, capacity, sizeof(struct entry *))
                               : NULL;
    if (!slots) {
        fan__postgres_tuples_clear(store);
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
    fan__free(store->env, tuples->slots);
    tuples->slots = slots;
    tuples->capacity = capacity;
}

/* Remembers a series. Without memory it is looked up again next time. */
static void remember(struct fan__postgres *store, const struct tuple *tuple, int64_t id)
{
    struct fan__postgres_tuples *tuples = store->tuples;
    size_t size = sizeof(struct entry) + tuple->size;
    if (*slot_of(tuples, tuple))
        return;
    if (tuples->bytes + size > BYTES_MAX)
        fan__postgres_tuples_clear(store);
    if ((tuples->count + 1) * 2 > tuples->capacity)
        grow(store);
    struct entry *entry = fan__alloc(store->env, size);
    if (!entry)
        return;
    *entry = (struct entry){ .hash = tuple->hash, .id = id, .size = tuple->size };
    memcpy(entry->key, tuple->key, tuple->size);
    *slot_of(tuples, tuple) = entry;
    tuples->count++;
    tuples->bytes += size;
}

int64_t fan__postgres_series_known(struct fan__postgres *store, const struct fan_event *event)
{
    struct tuple tuple;
    tuple_of(store->tuples, event, &tuple);
    const struct entry *entry = *slot_of(store->tuples, &tuple);
    return entry ? entry->id : 0;
}

/* The ids come in the order of what was asked for. */
static void take_ids(struct fan__postgres_connection *writer, const PGresult *result,
                     const struct fan_append *items, size_t count, int64_t *series)
{
    int row = 0;
    for (size_t i = 0; i < count; i++) {
        if (series[i] != 0)
            continue;
        if (row == PQntuples(result)) {
            fan__postgres_fail(writer, FAN_CORRUPT);
            return;
        }
        struct tuple tuple;
        tuple_of(writer->store->tuples, items[i].event, &tuple);
        series[i] = fan__postgres_int(result, row++, 0);
        remember(writer->store, &tuple, series[i]);
    }
}

void fan__postgres_series_make(struct fan__postgres_connection *writer,
                               const struct fan_append *items, size_t count, int64_t *series)
{
    struct fan__postgres_array arrays[TEXT_COUNT];
    struct fan__postgres_params params = { 0 };
    struct tuple tuple;
    for (size_t i = 0; i < TEXT_COUNT; i++)
        fan__postgres_array_init(&arrays[i], writer->store->env, FAN__POSTGRES_TEXT);
    for (size_t i = 0; i < count; i++) {
        if (series[i] != 0)
            continue;
        tuple_of(writer->store->tuples, items[i].event, &tuple);
        for (size_t j = 0; j < TEXT_COUNT; j++)
            fan__postgres_array_text(&arrays[j], tuple.texts[j]);
    }
    for (size_t i = 0; i < TEXT_COUNT; i++) {
        if (arrays[i].buffer.failed)
            fan__postgres_fail(writer, FAN_NO_MEMORY);
        fan__postgres_add_array(&params, &arrays[i]);
    }
    if (arrays[0].count > 0) {
        (void)fan__postgres_queue(writer, FAN__PG_SERIES_MAKE, &params);
        PGresult *result = fan__postgres_run(writer, FAN__PG_SERIES_FIND, &params);
        if (result)
            take_ids(writer, result, items, count, series);
        PQclear(result);
    }
    for (size_t i = 0; i < TEXT_COUNT; i++)
        fan__postgres_array_deinit(&arrays[i]);
}
