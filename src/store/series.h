/*
 * What events have in common is stored once, as a series, where a store is tables. Two caches stand
 * before that table, both bounded: by number for those who read (rows.c), by content for who writes
 * (tuples.c). Each belongs to whoever holds its connection.
 */
#ifndef FAN_STORE_SERIES_H
#define FAN_STORE_SERIES_H

#include <fanfare/event.h>

/* The texts end in NUL and are never NULL. */
struct fan__series {
    int64_t id;
    enum fan_source source;
    const char *type;
    const char *topic;
    const char *schema;
    const char *entity;
    const char *operation;
    const char *instance;
    const char *content_type;
    size_t size;
};

/* Begins a draft with what an event has from its series; the rest is 0. */
void fan__series_draft(const struct fan__series *series, struct fan_event_draft *ret_draft);

/* rows.c */

#define FAN__SERIES_TEXT_COUNT 8

struct fan__rows;

/* NULL without memory. */
struct fan__rows *fan__rows_new(const struct fan_env *env);
void fan__rows_free(struct fan__rows *rows); /* takes NULL */

/* NULL when it is not at hand. Borrowed until the next is added. */
const struct fan__series *fan__rows_find(const struct fan__rows *rows, int64_t id);

/*
 * Remembers a series by its texts, copied: source, type, topic, schema, entity, operation, instance
 * and content type. A source that is none is FAN_SOURCE_UNSET. NULL without memory.
 */
const struct fan__series *fan__rows_add(struct fan__rows *rows, int64_t id,
                                        const char *const texts[FAN__SERIES_TEXT_COUNT]);

/* tuples.c */

/*
 * What makes a series one: topic, type, source, schema, entity, operation, instance, content type.
 */
struct fan__tuple {
    const char *texts[FAN__SERIES_TEXT_COUNT];
    size_t size;
    uint64_t hash;
    char key[FAN__SERIES_TEXT_COUNT * (FAN_TEXT_SIZE_MAX + 1)];
};

struct fan__tuples;

/* NULL without memory. */
struct fan__tuples *fan__tuples_new(const struct fan_env *env);
void fan__tuples_free(struct fan__tuples *tuples); /* takes NULL */

/*
 * Forgets all. Series made in a transaction are remembered at once; whoever does not commit it, or
 * does not know, forgets them.
 */
void fan__tuples_clear(struct fan__tuples *tuples);

void fan__tuple_of(const struct fan__tuples *tuples, const struct fan_event *event,
                   struct fan__tuple *ret_tuple);

/*
 * Gives the series, 0 when it is not at hand, and whether it was marked. `ret_marked` may be NULL.
 */
int64_t fan__tuples_find(const struct fan__tuples *tuples, const struct fan__tuple *tuple,
                         bool *ret_marked);

/* Remembers one, with a mark of the store's own. Without memory it is looked up again next time. */
void fan__tuples_add(struct fan__tuples *tuples, const struct fan__tuple *tuple, int64_t id,
                     bool marked);

#endif
