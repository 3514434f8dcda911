/*
 * Which series a filter matches, for stores whose events share rows of a dictionary (series): each
 * connection keeps a few sets of numbers, and the store fills them by its own statements.
 */
#ifndef FAN_STORE_SETS_H
#define FAN_STORE_SETS_H

#include "base/buffer.h"

#include <fanfare/store.h>

struct fan__sets;

/* The numbers found for one filter up to series `last_id`; 0 before the first look. */
struct fan__set {
    char *key;
    size_t key_size;
    struct fan__buffer ids;
    int64_t last_id;
    uint64_t used;
};

/* The columns behind a series' number, in the order in which statements give them. */
enum fan__series_column {
    FAN__SERIES_SOURCE,
    FAN__SERIES_TYPE,
    FAN__SERIES_TOPIC,
    FAN__SERIES_SCHEMA,
    FAN__SERIES_ENTITY,
    FAN__SERIES_OPERATION,
    FAN__SERIES_INSTANCE,
    FAN__SERIES_COLUMN_COUNT,
};

/* Where to look first: the column with the fewest series, and what it must be (or lie between). */
struct fan__set_start {
    bool any; /* no column narrows it down: look at all */
    enum fan__series_column column;
    const char *value;
    char from[FAN_TEXT_SIZE_MAX + 2];  /* FAN__SERIES_TYPE: the first text, ... */
    char until[FAN_TEXT_SIZE_MAX + 2]; /* ... and the first one past the last */
};

/* Whether the filter says nothing of what lies in a series. */
bool fan__set_is_all(const struct fan_query *query);

/* `start` is written into, and `value` may point there. */
void fan__set_start(const struct fan_query *query, struct fan__set_start *start);

bool fan__set_matches(const struct fan_query *query,
                      const char *const texts[FAN__SERIES_COLUMN_COUNT]);

/*
 * Gives the kept set of a filter, or a place for it; NULL without memory. `swept` tells since when
 * no series were forgotten: when it changes, all sets begin anew.
 */
struct fan__set *fan__sets_find(struct fan__sets **sets, const struct fan_env *env,
                                const struct fan_query *query, int64_t swept);

/* Ends a look that added the numbers up to last_id. False without memory. */
bool fan__set_end(struct fan__set *set, int64_t last_id);
void fan__set_deinit(struct fan__set *set, const struct fan_env *env);

/* Whether the rising numbers hold one. */
bool fan__ids_have(const int64_t *ids, size_t count, int64_t id);

void fan__sets_free(struct fan__sets **sets, const struct fan_env *env);

#endif
