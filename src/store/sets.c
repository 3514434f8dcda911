/*
 * Series are added with rising numbers, so what was found for a filter stays right and later calls
 * look at later series alone; when some were forgotten the sets begin anew, so that they do not
 * grow for ever. A few filters are kept, the one used longest ago makes room.
 */
#include "store/sets.h"

#include "base/env.h"

#include <fanfare/pattern.h>

#include <stdlib.h>
#include <string.h>

#define SET_COUNT 16
#define KEY_SIZE_MAX ((size_t)7 * (FAN_TEXT_SIZE_MAX + 1))

struct fan__sets {
    struct fan__set sets[SET_COUNT];
    uint64_t clock;
    int64_t swept;
};

void fan__set_deinit(struct fan__set *set, const struct fan_env *env)
{
    fan__free(env, set->key);
    fan__buffer_deinit(&set->ids);
    *set = (struct fan__set){ 0 };
}

void fan__sets_free(struct fan__sets **sets, const struct fan_env *env)
{
    if (!*sets)
        return;
    for (size_t i = 0; i < SET_COUNT; i++)
        fan__set_deinit(&(*sets)->sets[i], env);
    fan__free(env, *sets);
    *sets = NULL;
}

static bool is_everything(const char *pattern)
{
    return !pattern || strcmp(pattern, "*") == 0 || strcmp(pattern, ">") == 0;
}

bool fan__set_is_all(const struct fan_query *query)
{
    return !query->topic && is_everything(query->pattern) && !query->schema && !query->entity &&
           !query->operation && !query->instance_id && query->source == FAN_SOURCE_UNSET;
}

/* The parts of the filter that lie in the series: each text with its length before it. */
static size_t key_of(const struct fan_query *query, char key[KEY_SIZE_MAX])
{
    const char *const texts[] = {
        query->topic,     is_everything(query->pattern) ? NULL : query->pattern,
        query->schema,    query->entity,
        query->operation, query->instance_id,
    };
    size_t size = 0;
    key[size++] = (char)query->source;
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
        /* The mark keeps "no filter" apart from "the empty text". */
        key[size++] = texts[i] ? '=' : '-';
        size_t length = texts[i] ? strlen(texts[i]) + 1 : 0;
        if (length > 0)
            memcpy(key + size, texts[i], length);
        size += length;
    }
    return size;
}

static bool differs(const char *wanted, const char *text)
{
    return wanted && strcmp(wanted, text) != 0;
}

static const char *source_of(const struct fan_query *query)
{
    return query->source == FAN_SOURCE_UNSET ? NULL : fan_source_text(query->source);
}

bool fan__set_matches(const struct fan_query *query,
                      const char *const texts[FAN__SERIES_COLUMN_COUNT])
{
    return !differs(source_of(query), texts[FAN__SERIES_SOURCE]) &&
           !differs(query->topic, texts[FAN__SERIES_TOPIC]) &&
           !differs(query->schema, texts[FAN__SERIES_SCHEMA]) &&
           !differs(query->entity, texts[FAN__SERIES_ENTITY]) &&
           !differs(query->operation, texts[FAN__SERIES_OPERATION]) &&
           !differs(query->instance_id, texts[FAN__SERIES_INSTANCE]) &&
           (!query->pattern || fan_pattern_match(query->pattern, texts[FAN__SERIES_TYPE]));
}

/* The text that every type must begin with, and the first one past all of those. */
static bool prefix_of(const char *pattern, char from[FAN_TEXT_SIZE_MAX + 2],
                      char until[FAN_TEXT_SIZE_MAX + 2])
{
    size_t size = strcspn(pattern, "*>");
    if (size == 0)
        return false;
    memcpy(from, pattern, size);
    from[size] = '\0';
    memcpy(until, pattern, size);
    if (pattern[size] == '\0') {
        /* No wildcard: the type itself; no type holds a control character. */
        until[size] = '\x01';
        until[size + 1] = '\0';
        return true;
    }
    /* The last character is a dot; the next one in order ends the range. */
    until[size - 1] = '/';
    until[size] = '\0';
    return true;
}

void fan__set_start(const struct fan_query *query, struct fan__set_start *start)
{
    const char *from =
        query->pattern && prefix_of(query->pattern, start->from, start->until) ? start->from : NULL;
    const struct {
        enum fan__series_column column;
        const char *value;
    } choices[] = {
        { FAN__SERIES_TOPIC, query->topic },          { FAN__SERIES_TYPE, from },
        { FAN__SERIES_INSTANCE, query->instance_id }, { FAN__SERIES_ENTITY, query->entity },
        { FAN__SERIES_SCHEMA, query->schema },        { FAN__SERIES_OPERATION, query->operation },
        { FAN__SERIES_SOURCE, source_of(query) },
    };
    start->any = true;
    for (size_t i = 0; start->any && i < sizeof(choices) / sizeof(*choices); i++) {
        start->any = !choices[i].value;
        start->column = choices[i].column;
        start->value = choices[i].value;
    }
}

static int compare(const void *a, const void *b)
{
    int64_t left = *(const int64_t *)a;
    int64_t right = *(const int64_t *)b;
    return (left > right) - (left < right);
}

bool fan__set_end(struct fan__set *set, int64_t last_id)
{
    /* By an index they come in its order; later ones come by number. */
    if (set->last_id == 0 && set->ids.size > 0)
        qsort(set->ids.data, set->ids.size / sizeof(int64_t), sizeof(int64_t), compare);
    set->last_id = last_id;
    return !set->ids.failed;
}

struct fan__set *fan__sets_find(struct fan__sets **sets, const struct fan_env *env,
                                const struct fan_query *query, int64_t swept)
{
    char key[KEY_SIZE_MAX];
    size_t size = key_of(query, key);
    if (!*sets)
        *sets = fan__alloc_zero(env, 1, sizeof(**sets));
    struct fan__sets *all = *sets;
    if (!all)
        return NULL;
    for (size_t i = 0; all->swept != swept && i < SET_COUNT; i++)
        fan__set_deinit(&all->sets[i], env);
    all->swept = swept;
    struct fan__set *oldest = &all->sets[0];
    all->clock++;
    for (size_t i = 0; i < SET_COUNT; i++) {
        struct fan__set *set = &all->sets[i];
        if (set->key && set->key_size == size && memcmp(set->key, key, size) == 0) {
            set->used = all->clock;
            return set;
        }
        if (set->used < oldest->used)
            oldest = set;
    }
    fan__set_deinit(oldest, env);
    fan__buffer_init(&oldest->ids, env);
    oldest->key = fan__alloc(env, size);
    if (!oldest->key)
        return NULL;
    memcpy(oldest->key, key, size);
    oldest->key_size = size;
    oldest->used = all->clock;
    return oldest;
}

bool fan__ids_have(const int64_t *ids, size_t count, int64_t id)
{
    return count > 0 && bsearch(&id, ids, count, sizeof(id), compare) != NULL;
}
