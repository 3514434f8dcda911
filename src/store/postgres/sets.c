/*
 * Which series a filter matches. Series are added with rising numbers, so what was found for a
 * filter stays right and later calls look at later series alone; when some were forgotten the sets
 * begin anew, so that they do not grow for ever. A few filters are kept per
 * connection, the one used longest ago makes room.
 */
#include "store/postgres/series.h"

#include "base/env.h"

#include <fanfare/pattern.h>

#include <stdlib.h>
#include <string.h>

#define SET_COUNT 16
#define KEY_SIZE_MAX ((size_t)7 * (FAN_TEXT_SIZE_MAX + 1))

struct set {
    char *key;
    size_t key_size;
    struct fan__buffer ids;
    int64_t last_id;
    uint64_t used;
};

struct fan__postgres_set_cache {
    struct set sets[SET_COUNT];
    uint64_t clock;
    int64_t swept; /* since when no series were forgotten */
};

static void set_deinit(struct set *set, const struct fan_env *env)
{
    fan__free(env, set->key);
    fan__buffer_deinit(&set->ids);
    *set = (struct set){ 0 };
}

void fan__postgres_sets_free(struct fan__postgres_connection *connection)
{
    if (!connection->sets)
        return;
    for (size_t i = 0; i < SET_COUNT; i++)
        set_deinit(&connection->sets->sets[i], connection->store->env);
    fan__free(connection->store->env, connection->sets);
    connection->sets = NULL;
}

static bool is_everything(const char *pattern)
{
    return !pattern || strcmp(pattern, "*") == 0 || strcmp(pattern, ">") == 0;
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

static bool differs(const char *wanted, const PGresult *result, int row, int column)
{
    return wanted && strcmp(wanted, fan__postgres_text(result, row, column)) != 0;
}

/* The columns of SERIES_AFTER and its like. */
static bool matches(const struct fan_query *query, const PGresult *result, int row)
{
    const char *source = query->source == FAN_SOURCE_UNSET ? NULL : fan_source_text(query->source);
    return !differs(source, result, row, 1) && !differs(query->topic, result, row, 3) &&
           !differs(query->schema, result, row, 4) && !differs(query->entity, result, row, 5) &&
           !differs(query->operation, result, row, 6) &&
           !differs(query->instance_id, result, row, 7) &&
           (!query->pattern ||
            fan_pattern_match(query->pattern, fan__postgres_text(result, row, 2)));
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

/* Asks for the fewest series: by an index where the filter allows for one. */
static PGresult *candidates(struct fan__postgres_connection *connection,
                            const struct fan_query *query)
{
    char from[FAN_TEXT_SIZE_MAX + 2];
    char until[FAN_TEXT_SIZE_MAX + 2];
    const struct {
        enum fan__postgres_statement name;
        const char *value;
    } choices[] = {
        { FAN__PG_SERIES_BY_TOPIC, query->topic },
        { FAN__PG_SERIES_BY_TYPE,
          query->pattern && prefix_of(query->pattern, from, until) ? from : NULL },
        { FAN__PG_SERIES_BY_INSTANCE, query->instance_id },
        { FAN__PG_SERIES_BY_ENTITY, query->entity },
        { FAN__PG_SERIES_BY_SCHEMA, query->schema },
        { FAN__PG_SERIES_BY_OPERATION, query->operation },
        { FAN__PG_SERIES_BY_SOURCE,
          query->source == FAN_SOURCE_UNSET ? NULL : fan_source_text(query->source) },
    };
    struct fan__postgres_params params = { 0 };
    for (size_t i = 0; i < sizeof(choices) / sizeof(*choices); i++) {
        if (!choices[i].value)
            continue;
        fan__postgres_add_text(&params, choices[i].value);
        if (choices[i].name == FAN__PG_SERIES_BY_TYPE)
            fan__postgres_add_text(&params, until);
        return fan__postgres_run(connection, choices[i].name, &params);
    }
    fan__postgres_add_int(&params, 0);
    return fan__postgres_run(connection, FAN__PG_SERIES_AFTER, &params);
}

static int compare(const void *a, const void *b)
{
    int64_t left = *(const int64_t *)a;
    int64_t right = *(const int64_t *)b;
    return (left > right) - (left < right);
}

/* Adds the series past set->last_id that match. */
static void extend(struct fan__postgres_connection *connection, const struct fan_query *query,
                   struct set *set, int64_t last_id)
{
    PGresult *result = NULL;
    if (set->last_id == 0) {
        result = candidates(connection, query);
    } else {
        struct fan__postgres_params params = { 0 };
        fan__postgres_add_int(&params, set->last_id);
        result = fan__postgres_run(connection, FAN__PG_SERIES_AFTER, &params);
    }
    for (int i = 0; i < PQntuples(result); i++) {
        int64_t id = fan__postgres_int(result, i, 0);
        if (matches(query, result, i))
            fan__buffer_add(&set->ids, &id, sizeof(id));
    }
    PQclear(result);
    if (set->ids.failed)
        fan__postgres_fail(connection, FAN_NO_MEMORY);
    if (set->last_id == 0 && set->ids.size > 0)
        qsort(set->ids.data, set->ids.size / sizeof(int64_t), sizeof(int64_t), compare);
    set->last_id = last_id;
}

/* The kept set of a filter, or a place for it. NULL without memory. */
static struct set *find(struct fan__postgres_connection *connection, const char *key, size_t size)
{
    const struct fan_env *env = connection->store->env;
    if (!connection->sets)
        connection->sets = fan__alloc_zero(env, 1, sizeof(*connection->sets));
    struct fan__postgres_set_cache *cache = connection->sets;
    if (!cache)
        return NULL;
    struct set *oldest = &cache->sets[0];
    cache->clock++;
    for (size_t i = 0; i < SET_COUNT; i++) {
        struct set *set = &cache->sets[i];
        if (set->key && set->key_size == size && memcmp(set->key, key, size) == 0) {
            set->used = cache->clock;
            return set;
        }
        if (set->used < oldest->used)
            oldest = set;
    }
    set_deinit(oldest, env);
    fan__buffer_init(&oldest->ids, env);
    oldest->key = fan__alloc(env, size);
    if (!oldest->key)
        return NULL;
    memcpy(oldest->key, key, size);
    oldest->key_size = size;
    oldest->used = cache->clock;
    return oldest;
}

/* The highest number of a series. Sets that may hold forgotten ones are dropped on the way. */
static int64_t last_series(struct fan__postgres_connection *connection)
{
    PGresult *result = fan__postgres_run(connection, FAN__PG_SERIES_LAST, NULL);
    bool found = PQntuples(result) == 1;
    int64_t last_id = found ? fan__postgres_int(result, 0, 0) : 0;
    int64_t swept = found ? fan__postgres_int(result, 0, 1) : 0;
    PQclear(result);
    struct fan__postgres_set_cache *cache = connection->sets;
    for (size_t i = 0; cache && cache->swept != swept && i < SET_COUNT; i++)
        set_deinit(&cache->sets[i], connection->store->env);
    if (cache)
        cache->swept = swept;
    return last_id;
}

void fan__postgres_set_of(struct fan__postgres_connection *connection,
                          const struct fan_query *query, struct fan__postgres_set *ret_set)
{
    *ret_set = (struct fan__postgres_set){ .all = true };
    if (!query->topic && is_everything(query->pattern) && !query->schema && !query->entity &&
        !query->operation && !query->instance_id && query->source == FAN_SOURCE_UNSET)
        return;
    ret_set->all = false;
    char key[KEY_SIZE_MAX];
    size_t size = key_of(query, key);
    int64_t last_id = last_series(connection);
    struct set *set = find(connection, key, size);
    if (!set) {
        fan__postgres_fail(connection, FAN_NO_MEMORY);
        return;
    }
    if (connection->status == FAN_OK && last_id > set->last_id)
        extend(connection, query, set, last_id);
    if (connection->status != FAN_OK) {
        set_deinit(set, connection->store->env);
        return;
    }
    ret_set->ids = (const int64_t *)(const void *)set->ids.data;
    ret_set->count = set->ids.size / sizeof(int64_t);
}

bool fan__postgres_set_has(const struct fan__postgres_set *set, int64_t id)
{
    return set->all ||
           (set->count > 0 && bsearch(&id, set->ids, set->count, sizeof(id), compare) != NULL);
}
