/*
 * Series never change, and their numbers rise from 1, so the cache is an array indexed by the low
 * bits of the number that doubles while numbers outgrow it, up to a bound.
 */
#include "store/series.h"

#include "base/env.h"

#include <string.h>

#define SLOT_COUNT_MAX 16384
#define BYTES_MAX ((size_t)4 << 20)

struct fan__rows {
    const struct fan_env *env;
    struct fan__series **slots;
    size_t capacity;
    size_t bytes;
};

struct fan__rows *fan__rows_new(const struct fan_env *env)
{
    struct fan__rows *rows = fan__alloc_zero(env, 1, sizeof(*rows));
    if (!rows)
        return NULL;
    rows->env = env;
    rows->capacity = 64;
    rows->slots = fan__alloc_zero(env, rows->capacity, sizeof(struct fan__series *));
    if (!rows->slots) {
        fan__free(env, rows);
        return NULL;
    }
    return rows;
}

static void clear(struct fan__rows *rows)
{
    for (size_t i = 0; i < rows->capacity; i++) {
        fan__free(rows->env, rows->slots[i]);
        rows->slots[i] = NULL;
    }
    rows->bytes = 0;
}

void fan__rows_free(struct fan__rows *rows)
{
    if (!rows)
        return;
    clear(rows);
    fan__free(rows->env, rows->slots);
    fan__free(rows->env, rows);
}

const struct fan__series *fan__rows_find(const struct fan__rows *rows, int64_t id)
{
    const struct fan__series *series = rows->slots[(size_t)id & (rows->capacity - 1)];
    return series && series->id == id ? series : NULL;
}

/* Doubles until `id` has a slot of its own, or the bound or memory ends it. */
static void grow(struct fan__rows *rows, int64_t id)
{
    size_t capacity = rows->capacity;
    while (capacity <= (size_t)id && capacity < SLOT_COUNT_MAX)
        capacity *= 2;
    if (capacity == rows->capacity)
        return;
    struct fan__series **slots = fan__alloc_zero(rows->env, capacity, sizeof(struct fan__series *));
    if (!slots)
        return;
    for (size_t i = 0; i < rows->capacity; i++) {
        if (rows->slots[i])
            slots[(size_t)rows->slots[i]->id & (capacity - 1)] = rows->slots[i];
    }
    fan__free(rows->env, rows->slots);
    rows->slots = slots;
    rows->capacity = capacity;
}

/* One block, the texts behind the struct. */
static struct fan__series *series_new(const struct fan_env *env, int64_t id,
                                      const char *const texts[FAN__SERIES_TEXT_COUNT])
{
    size_t sizes[FAN__SERIES_TEXT_COUNT];
    size_t size = sizeof(struct fan__series);
    for (size_t i = 1; i < FAN__SERIES_TEXT_COUNT; i++) {
        sizes[i] = strlen(texts[i]) + 1;
        size += sizes[i];
    }
    struct fan__series *series = fan__alloc(env, size);
    if (!series)
        return NULL;
    char *at = (char *)(series + 1);
    const char *copies[FAN__SERIES_TEXT_COUNT];
    for (size_t i = 1; i < FAN__SERIES_TEXT_COUNT; i++) {
        memcpy(at, texts[i], sizes[i]);
        copies[i] = at;
        at += sizes[i];
    }
    *series = (struct fan__series){
        .id = id,
        .type = copies[1],
        .topic = copies[2],
        .schema = copies[3],
        .entity = copies[4],
        .operation = copies[5],
        .instance = copies[6],
        .content_type = copies[7],
        .size = size,
    };
    if (fan_source_parse(texts[0], &series->source) != FAN_OK)
        series->source = FAN_SOURCE_UNSET;
    return series;
}

const struct fan__series *fan__rows_add(struct fan__rows *rows, int64_t id,
                                        const char *const texts[FAN__SERIES_TEXT_COUNT])
{
    struct fan__series *series = series_new(rows->env, id, texts);
    if (!series)
        return NULL;
    if (rows->bytes + series->size > BYTES_MAX)
        clear(rows);
    grow(rows, id);
    struct fan__series **slot = &rows->slots[(size_t)id & (rows->capacity - 1)];
    if (*slot)
        rows->bytes -= (*slot)->size;
    fan__free(rows->env, *slot);
    *slot = series;
    rows->bytes += series->size;
    return series;
}

void fan__series_draft(const struct fan__series *series, struct fan_event_draft *ret_draft)
{
    *ret_draft = (struct fan_event_draft){
        .size = FAN_EVENT_DRAFT_SIZE,
        .type = series->type,
        .topic = series->topic,
        .source = series->source,
        .schema = series->schema,
        .entity = series->entity,
        .operation = series->operation,
        .content_type = series->content_type,
        .instance_id = series->instance,
    };
}
