/*
 * Within a block that no cursor divides, what is owed hangs on which groups have not come to it and
 * on its events; and a block that is full only ever loses events. So a count is kept under (block,
 * groups, number of events) and stays right for as long as these are found again. The table has a
 * fixed size, and a newer count takes the place of an older one.
 */
#include "store/sqlite/owed.h"

#include "base/env.h"
#include "base/hash.h"

#include <string.h>

#define ENTRY_COUNT 16384

struct fan__sqlite_owed {
    uint64_t block;
    uint64_t groups;
    uint64_t count; /* 0 for an entry that is free */
    uint64_t owed;
};

/* Numbers of series rise for ever, so there is no array of them. id 0 is a free place. */
struct fan__sqlite_threshold {
    int64_t id;
    uint64_t threshold;
};

#define KNOWN_COUNT_FIRST 64

void fan__sqlite_thresholds_init(struct fan__sqlite_thresholds *thresholds,
                                 struct fan__sqlite_connection *connection,
                                 const struct fan__sqlite_groups *groups)
{
    *thresholds =
        (struct fan__sqlite_thresholds){ .groups = groups, .env = connection->store->env };
}

void fan__sqlite_thresholds_deinit(struct fan__sqlite_thresholds *thresholds)
{
    fan__free(thresholds->env, thresholds->known);
}

static uint64_t threshold_of(const struct fan__sqlite_groups *groups,
                             const struct fan__series *series)
{
    uint64_t lowest = UINT64_MAX;
    for (size_t i = 0; i < groups->count; i++) {
        const struct fan__sqlite_group *group = &groups->items[i];
        if (group->cursor_seq < lowest &&
            fan__sqlite_group_wants(group, series->topic, series->type))
            lowest = group->cursor_seq;
    }
    return lowest;
}

/* The place of a series, its own or the free one where it belongs. */
static struct fan__sqlite_threshold *place_of(const struct fan__sqlite_thresholds *thresholds,
                                              int64_t series_id)
{
    size_t mask = thresholds->capacity - 1;
    size_t at = (size_t)fan__hash(0, &series_id, sizeof(series_id)) & mask;
    while (thresholds->known[at].id != 0 && thresholds->known[at].id != series_id)
        at = (at + 1) & mask;
    return &thresholds->known[at];
}

static bool grow(struct fan__sqlite_thresholds *thresholds)
{
    struct fan__sqlite_thresholds larger = *thresholds;
    larger.capacity = thresholds->capacity ? thresholds->capacity * 2 : KNOWN_COUNT_FIRST;
    larger.known = fan__alloc_zero(thresholds->env, larger.capacity, sizeof(*larger.known));
    if (!larger.known)
        return false;
    for (size_t i = 0; i < thresholds->capacity; i++) {
        if (thresholds->known[i].id != 0)
            *place_of(&larger, thresholds->known[i].id) = thresholds->known[i];
    }
    fan__free(thresholds->env, thresholds->known);
    *thresholds = larger;
    return true;
}

uint64_t fan__sqlite_threshold_of(struct fan__sqlite_connection *connection,
                                  struct fan__sqlite_thresholds *thresholds, int64_t series_id)
{
    if ((thresholds->count + 1) * 2 > thresholds->capacity && !grow(thresholds)) {
        fan__sqlite_fail(connection, FAN_NO_MEMORY);
        return UINT64_MAX;
    }
    struct fan__sqlite_threshold *place = place_of(thresholds, series_id);
    if (place->id != 0)
        return place->threshold;
    const struct fan__series *series = fan__sqlite_series_get(connection, series_id);
    if (!series || series_id == 0)
        return UINT64_MAX;
    place->id = series_id;
    place->threshold = threshold_of(thresholds->groups, series);
    thresholds->count++;
    return place->threshold;
}

/* A part of the log: after_seq < seq <= last_seq within one block. */
struct range {
    uint64_t block;
    uint64_t after_seq;
    uint64_t last_seq;
};

static uint64_t count_range(struct fan__sqlite_connection *connection,
                            struct fan__sqlite_thresholds *thresholds, const struct range *range)
{
    uint64_t owed = 0;
    sqlite3_stmt *statement = fan__sqlite_use(connection, FAN__SQL_BLOCK_ALL);
    sqlite3_bind_int64(statement, 1, (int64_t)range->block);
    while (fan__sqlite_step(connection, statement)) {
        uint64_t seq = (uint64_t)sqlite3_column_int64(statement, 0);
        if (seq <= range->after_seq || seq > range->last_seq)
            continue;
        int64_t series_id = sqlite3_column_int64(statement, 1);
        owed += seq > fan__sqlite_threshold_of(connection, thresholds, series_id);
    }
    return owed;
}

/*
 * A number for the groups that have not come to a whole block. False when the range is a part of
 * the block, or a cursor divides it.
 */
static bool groups_before(const struct fan__sqlite_groups *groups, const struct range *range,
                          uint64_t *ret_groups)
{
    uint64_t first = range->block << FAN__SQLITE_BLOCK_BITS;
    uint64_t last = first + FAN__SQLITE_BLOCK_COUNT - 1;
    if (range->after_seq >= first || range->last_seq < last)
        return false;
    uint64_t hash = 1;
    for (size_t i = 0; i < groups->count; i++) {
        const struct fan__sqlite_group *group = &groups->items[i];
        if (group->cursor_seq >= last)
            continue;
        if (group->cursor_seq >= first)
            return false;
        hash = fan__hash(hash, &group->id, sizeof(group->id));
        /* A filter that is not there is kept apart from an empty one. */
        if (group->pattern)
            hash = fan__hash(hash, group->pattern, strlen(group->pattern) + 1);
        hash = fan__hash(hash, "", group->topic ? 1 : 0);
        if (group->topic)
            hash = fan__hash(hash, group->topic, strlen(group->topic) + 1);
    }
    *ret_groups = hash;
    return true;
}

static struct fan__sqlite_owed *entry_of(struct fan__sqlite *store, uint64_t block, uint64_t groups)
{
    if (!store->owed)
        store->owed = fan__alloc_zero(store->env, ENTRY_COUNT, sizeof(*store->owed));
    uint64_t hash = fan__hash(groups, &block, sizeof(block));
    return store->owed ? &store->owed[hash % ENTRY_COUNT] : NULL;
}

static bool recall(struct fan__sqlite *store, struct fan__sqlite_owed *asked)
{
    fan__mutex_lock(&store->owed_mutex);
    const struct fan__sqlite_owed *entry = entry_of(store, asked->block, asked->groups);
    bool known = entry && entry->block == asked->block && entry->groups == asked->groups &&
                 entry->count == asked->count && asked->count > 0;
    if (known)
        asked->owed = entry->owed;
    fan__mutex_unlock(&store->owed_mutex);
    return known;
}

static void remember(struct fan__sqlite *store, const struct fan__sqlite_owed *counted)
{
    fan__mutex_lock(&store->owed_mutex);
    struct fan__sqlite_owed *entry = entry_of(store, counted->block, counted->groups);
    if (entry)
        *entry = *counted;
    fan__mutex_unlock(&store->owed_mutex);
}

static uint64_t count_block(struct fan__sqlite_connection *connection,
                            struct fan__sqlite_thresholds *thresholds, const struct range *range)
{
    struct fan__sqlite_owed asked = { .block = range->block };
    if (!groups_before(thresholds->groups, range, &asked.groups))
        return count_range(connection, thresholds, range);
    sqlite3_stmt *statement = fan__sqlite_use(connection, FAN__SQL_BLOCK_COUNT);
    sqlite3_bind_int64(statement, 1, (int64_t)range->block);
    asked.count = (uint64_t)fan__sqlite_number(connection, statement, 0);
    if (recall(connection->store, &asked))
        return asked.owed;
    asked.owed = count_range(connection, thresholds, range);
    if (connection->status == FAN_OK)
        remember(connection->store, &asked);
    return asked.owed;
}

uint64_t fan__sqlite_owed_between(struct fan__sqlite_connection *connection,
                                  struct fan__sqlite_thresholds *thresholds, uint64_t after_seq,
                                  uint64_t last_seq)
{
    uint64_t owed = 0;
    struct range range = { after_seq >> FAN__SQLITE_BLOCK_BITS, after_seq, last_seq };
    for (; range.block <= last_seq >> FAN__SQLITE_BLOCK_BITS && connection->status == FAN_OK;
         range.block++)
        owed += count_block(connection, thresholds, &range);
    return owed;
}
