/*
 * See route.h. The lanes that were found last stay linked, so that a repeated type costs two
 * comparisons.
 */
#include "bus/bus.h"

#include "base/hash.h"

#include <fanfare/kind.h>
#include <fanfare/pattern.h>

#include <assert.h>
#include <string.h>

#define BUCKET_COUNT_MIN 64
/* So many that a full table had no room for, and it begins anew: they may be what comes now. */
#define REFUSED_COUNT_MAX ((size_t)16 * FAN__ROUTE_COUNT_MAX)

/* ------------------------------------------------------------------ matching */

static bool wants(const struct fan__lane *lane, const struct fan__draft *draft)
{
    return (lane->kind_mask >> draft->kind & 1) != 0 &&
           (!lane->pattern || fan_pattern_match(lane->pattern, draft->type));
}

static struct fan__lane *match_list(struct fan__routes *routes, struct fan__lane *list,
                                    const struct fan__draft *draft, struct fan__lane *matched)
{
    for (struct fan__lane *at = list; at; at = at->next) {
        routes->looked_at++;
        if (wants(at, draft)) {
            at->match_next = matched;
            matched = at;
        }
    }
    return matched;
}

static struct fan__topic_key key_of(const struct fan_bus *bus, const struct fan__topic *topic,
                                    const char *text)
{
    return (struct fan__topic_key){ .of = topic,
                                    .hash = topic ? topic->hash : bus->hash_seed,
                                    .name = text };
}

/* Takes in one segment more, if there is one that a pattern can have as it stands. */
static bool lengthen(struct fan__topic_key *key)
{
    const char *segment = key->name + key->name_size;
    if (key->name_size > 0 && *segment++ != '.')
        return false;
    size_t size = strcspn(segment, ".");
    if (size == 0 || *segment == '*' || *segment == '>')
        return false;
    key->hash = fan__hash(key->hash, segment, size);
    key->name_size = (size_t)(segment - key->name) + size;
    return true;
}

struct fan__topic_key fan__route_prefix(const struct fan_bus *bus, const struct fan__topic *topic,
                                        const char *pattern)
{
    struct fan__topic_key key = key_of(bus, topic, pattern);
    while (pattern && lengthen(&key))
        ;
    return key;
}

/* Those of a topic, or those without one. */
static struct fan__lane *match(struct fan_bus *bus, const struct fan__draft *draft,
                               const struct fan__topic *topic, struct fan__lane *matched)
{
    const struct fan__topics *prefixes = &bus->prefixes;
    matched = match_list(&bus->routes, topic ? topic->first : bus->everywhere, draft, matched);
    struct fan__topic_key key = key_of(bus, topic, draft->type);
    while (prefixes->count > 0 && key.name_size < prefixes->name_size_max && lengthen(&key)) {
        const struct fan__topic *prefix = fan__topics_find(prefixes, &key);
        if (prefix)
            matched = match_list(&bus->routes, prefix->first, draft, matched);
    }
    return matched;
}

const struct fan__topic *fan__route_topic(const struct fan_bus *bus, const char *topic,
                                          size_t topic_size)
{
    if (topic_size == 0 || bus->topics.count == 0)
        return NULL;
    struct fan__topic_key key = fan__topic_key(bus->hash_seed, topic, topic_size);
    const struct fan__topic *found = fan__topics_find(&bus->topics, &key);
    return found && found->lane_count > 0 ? found : NULL;
}

/* ------------------------------------------------------------------ what is remembered */

bool fan__route_is_of(const struct fan__route *route, const struct fan_bus *bus,
                      const struct fan__draft *draft)
{
    if (route->kind != draft->kind || (!bus->kinds && strcmp(route->key, draft->type) != 0))
        return false;
    if (draft->topic[0] == '\0')
        return route->topic_size == 0;
    return strcmp(route->key + route->type_size + 1, draft->topic) == 0;
}

/* The same, of what is remembered now, by the topic that has lanes. */
static bool is_for(const struct fan__route *route, const struct fan__draft *draft,
                   const struct fan__topic *topic)
{
    return route->topic == topic && route->type_size == draft->type_size &&
           memcmp(route->key, draft->type, draft->type_size) == 0;
}

static void drop(struct fan_bus *bus, struct fan__route **link)
{
    struct fan__route *route = *link;
    assert(route != bus->last_route);
    *link = route->next;
    bus->routes.count--;
    bus->routes.size -= route->size;
    fan__free(bus->env, route);
}

static void clear(struct fan_bus *bus)
{
    struct fan__routes *routes = &bus->routes;
    bus->last_route = NULL;
    for (size_t i = 0; i < routes->bucket_count; i++) {
        while (routes->buckets[i])
            drop(bus, &routes->buckets[i]);
    }
    routes->refused_count = 0;
}

void fan__route_forget(struct fan_bus *bus)
{
    bus->routes.generation++;
    bus->last_route = NULL;
}

void fan__routes_deinit(struct fan_bus *bus)
{
    clear(bus);
    fan__free(bus->env, bus->routes.buckets);
}

static struct fan__route **bucket_of(const struct fan__routes *routes, uint64_t hash)
{
    return &routes->buckets[hash & (routes->bucket_count - 1)];
}

/* Frees on its way what was forgotten of the same. */
static struct fan__route *recall(struct fan_bus *bus, const struct fan__draft *draft,
                                 const struct fan__topic *topic, uint64_t hash)
{
    struct fan__routes *routes = &bus->routes;
    struct fan__route **link = routes->count > 0 ? bucket_of(routes, hash) : NULL;
    while (link && *link) {
        struct fan__route *route = *link;
        if (route->hash == hash && route->generation != routes->generation) {
            drop(bus, link);
            continue;
        }
        if (route->hash == hash && is_for(route, draft, topic))
            return route;
        link = &route->next;
    }
    return NULL;
}

static void grow(struct fan_bus *bus)
{
    struct fan__routes *routes = &bus->routes;
    size_t count = routes->bucket_count > 0 ? routes->bucket_count * 2 : BUCKET_COUNT_MIN;
    struct fan__route **buckets = fan__alloc_zero(bus->env, count, sizeof(struct fan__route *));
    if (!buckets)
        return;
    struct fan__routes grown = { .buckets = buckets, .bucket_count = count };
    for (size_t i = 0; i < routes->bucket_count; i++) {
        while (routes->buckets[i]) {
            struct fan__route *route = routes->buckets[i];
            struct fan__route **bucket = bucket_of(&grown, route->hash);
            routes->buckets[i] = route->next;
            route->next = *bucket;
            *bucket = route;
        }
    }
    fan__free(bus->env, routes->buckets);
    routes->size += (count - routes->bucket_count) * sizeof(struct fan__route *);
    routes->buckets = buckets;
    routes->bucket_count = count;
}

static bool has_room(struct fan_bus *bus, size_t size)
{
    struct fan__routes *routes = &bus->routes;
    size_t size_max = bus->memory_size_max / FAN__ROUTE_PART;
    if (size_max < FAN__ROUTE_SIZE_MIN)
        size_max = FAN__ROUTE_SIZE_MIN;
    if (routes->count < FAN__ROUTE_COUNT_MAX && routes->size + size <= size_max) {
        if (routes->count >= routes->bucket_count)
            grow(bus);
        return routes->bucket_count > 0;
    }
    if (++routes->refused_count >= REFUSED_COUNT_MAX)
        clear(bus);
    return false;
}

static void remember_slot(const struct fan_bus *bus, struct fan__route *route,
                          const struct fan__draft *draft)
{
    size_t room = fan__slot_room(bus->slot_words);
    size_t text_size = fan__text_bytes(bus, draft);
    route->text_sizes = fan__text_sizes(bus, draft);
    route->text_at = (uint16_t)(bus->kinds ? draft->type_size + 1 : 0);
    route->text_words = (uint16_t)((text_size + sizeof(uint64_t) - 1) / sizeof(uint64_t));
    route->type = bus->kinds ? draft->type : NULL;
    /* Where nothing fits, no valid payload is as large; it is half words (image_of). */
    route->payload_size_min = text_size > room ? SIZE_MAX : 0;
    route->payload_size_span = text_size > room ? 0 : room - text_size;
    if (!bus->kinds)
        return;
    size_t payload_size = bus->kinds[draft->kind].payload_size;
    route->payload_size_min = payload_size + text_size > room ? SIZE_MAX : payload_size;
    route->payload_size_span = 0;
}

static void remember_lanes(struct fan__route *route, size_t at, struct fan__lane *matched)
{
    route->lanes = (struct fan__lane **)(void *)((char *)route + at);
    for (struct fan__lane *lane = matched; lane; lane = lane->match_next)
        route->lanes[route->lane_count++] = lane;
}

/* NULL when there is no room for it. The draft has the topic of the route. */
static const struct fan__route *remember(struct fan_bus *bus, const struct fan__draft *draft,
                                         const struct fan__topic *topic, uint64_t hash,
                                         struct fan__lane *matched)
{
    size_t count = 0;
    for (const struct fan__lane *at = matched; at; at = at->match_next)
        count++;
    size_t key_size = draft->type_size + 1 + draft->topic_size + 1 + sizeof(uint64_t);
    size_t lanes_at = sizeof(struct fan__route) + key_size;
    lanes_at += sizeof(struct fan__lane *) - lanes_at % sizeof(struct fan__lane *);
    size_t size = lanes_at + count * sizeof(struct fan__lane *);
    struct fan__route *route = has_room(bus, size) ? fan__alloc_zero(bus->env, 1, size) : NULL;
    if (!route)
        return NULL;
    struct fan__route **bucket = bucket_of(&bus->routes, hash);
    route->next = *bucket;
    *bucket = route;
    bus->routes.count++;
    bus->routes.size += size;
    route->hash = hash;
    route->generation = bus->routes.generation;
    route->topic = topic;
    route->size = size;
    route->type_size = (uint16_t)draft->type_size;
    route->topic_size = (uint16_t)draft->topic_size;
    route->kind = (uint16_t)draft->kind;
    memcpy(route->key, draft->type, draft->type_size);
    memcpy(route->key + draft->type_size + 1, draft->topic, draft->topic_size);
    remember_slot(bus, route, draft);
    remember_lanes(route, lanes_at, matched);
    return route;
}

/* ------------------------------------------------------------------ both */

static struct fan__lane *link_lanes(const struct fan__route *route)
{
    struct fan__lane *first = NULL;
    for (size_t i = route->lane_count; i-- > 0;) {
        route->lanes[i]->match_next = first;
        first = route->lanes[i];
    }
    return first;
}

/*
 * Finds what is remembered of a type and a topic, or matches, and remembers that. Those without a
 * topic are those that the type alone finds.
 */
static struct fan__lane *look_up(struct fan_bus *bus, const struct fan__draft *draft,
                                 const struct fan__topic *topic,
                                 const struct fan__route **ret_route)
{
    uint64_t hash = fan__hash(topic ? topic->hash : bus->hash_seed, draft->type, draft->type_size);
    *ret_route = recall(bus, draft, topic, hash);
    if (*ret_route)
        return link_lanes(*ret_route);
    struct fan__draft wanted = *draft;
    struct fan__lane *matched = NULL;
    const struct fan__route *without_topic;
    if (topic) {
        matched = look_up(bus, draft, NULL, &without_topic);
    } else {
        wanted.topic = "";
        wanted.topic_size = 0;
    }
    matched = match(bus, draft, topic, matched);
    *ret_route = remember(bus, &wanted, topic, hash, matched);
    return matched;
}

struct fan__lane *fan__route_find(struct fan_bus *bus, const struct fan__draft *draft)
{
    if (draft->route && draft->route == bus->last_route)
        return bus->last_lanes;
    const struct fan__topic *topic = fan__route_topic(bus, draft->topic, draft->topic_size);
    if (bus->last_route && is_for(bus->last_route, draft, topic))
        return bus->last_lanes;
    const struct fan__route *route;
    bus->last_lanes = look_up(bus, draft, topic, &route);
    bus->last_route = route;
    return bus->last_lanes;
}
