/*
 * See route.h. The lanes that were found last stay linked, so that a repeated type costs two
 * comparisons.
 */
#include "bus/bus.h"

#include "base/hash.h"

#include <fanfare/kind.h>
#include <fanfare/pattern.h>

#include <string.h>

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

bool fan__route_is_of(const struct fan__route *route, const struct fan_bus *bus,
                      const struct fan__draft *draft)
{
    if (route->kind != draft->kind || (!bus->kinds && strcmp(route->key, draft->type) != 0))
        return false;
    if (draft->topic[0] == '\0')
        return route->topic_size == 0;
    return strcmp(route->key + route->type_size + 1, draft->topic) == 0;
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
    route->any_topic = bus->topics.count == 0;
    /* Where nothing fits, no payload is as large. */
    route->payload_size_min = text_size > room ? SIZE_MAX : 0;
    route->payload_size_span = text_size > room ? 0 : room - text_size;
    if (!bus->kinds)
        return;
    size_t payload_size = bus->kinds[draft->kind].payload_size;
    route->payload_size_min = payload_size + text_size > room ? SIZE_MAX : payload_size;
    route->payload_size_span = 0;
}

static void remember(const struct fan_bus *bus, struct fan__route *route,
                     const struct fan__draft *draft, struct fan__lane *matched)
{
    size_t count = 0;
    for (struct fan__lane *at = matched; at; at = at->match_next) {
        if (count == FAN__ROUTE_LANE_COUNT)
            return;
        route->lanes[count++] = at;
    }
    route->generation = bus->routes.generation;
    route->type_size = (uint16_t)draft->type_size;
    route->topic_size = (uint16_t)draft->topic_size;
    route->kind = (uint16_t)draft->kind;
    route->lane_count = (uint16_t)count;
    memcpy(route->key, draft->type, draft->type_size);
    route->key[draft->type_size] = '\0';
    memcpy(route->key + draft->type_size + 1, draft->topic, draft->topic_size);
    route->key[draft->type_size + 1 + draft->topic_size] = '\0';
    remember_slot(bus, route, draft);
}

static struct fan__lane *link_lanes(const struct fan__route *route)
{
    struct fan__lane *first = NULL;
    for (size_t i = route->lane_count; i-- > 0;) {
        route->lanes[i]->match_next = first;
        first = route->lanes[i];
    }
    return first;
}

static struct fan__lane *match(struct fan_bus *bus, const struct fan__draft *draft);

/* Finds what is remembered of a type and a topic, or matches, and perhaps remembers that. */
static struct fan__lane *look_up(struct fan_bus *bus, const struct fan__draft *draft,
                                 const struct fan__route **ret_route)
{
    struct fan__routes *routes = &bus->routes;
    *ret_route = NULL;
    if (draft->type_size + draft->topic_size + 2 > FAN__ROUTE_KEY_SIZE)
        return match(bus, draft);
    uint64_t hash = fan__hash(fan__hash(bus->hash_seed, draft->topic, draft->topic_size),
                              draft->type, draft->type_size);
    struct fan__route *table = draft->topic_size > 0 ? routes->by_topic : routes->by_type;
    struct fan__route *route = &table[hash % FAN__ROUTE_COUNT];
    bool seen = route->hash == hash;
    if (!seen || route->generation != routes->generation || !fan__route_is_of(route, bus, draft)) {
        struct fan__lane *matched = match(bus, draft);
        route->hash = hash;
        route->generation = 0;
        if (seen)
            remember(bus, route, draft, matched);
        return matched;
    }
    *ret_route = route;
    return link_lanes(route);
}

/* Those without a topic are those that the type alone finds. */
static struct fan__lane *match(struct fan_bus *bus, const struct fan__draft *draft)
{
    if (draft->topic_size == 0)
        return match_list(&bus->routes, bus->everywhere, draft, NULL);
    const struct fan__route *route;
    struct fan__draft without_topic = *draft;
    without_topic.topic = "";
    without_topic.topic_size = 0;
    struct fan__lane *matched = look_up(bus, &without_topic, &route);
    struct fan__topic *topic = fan__topics_find(&bus->topics, draft->topic, draft->topic_size);
    return topic ? match_list(&bus->routes, topic->first, draft, matched) : matched;
}

struct fan__lane *fan__route_find(struct fan_bus *bus, const struct fan__draft *draft)
{
    if (draft->route && draft->route == bus->last_route)
        return bus->last_lanes;
    struct fan__draft wanted = *draft;
    /* Where nobody wants a topic, all are found by their types. */
    if (bus->topics.count == 0) {
        wanted.topic = "";
        wanted.topic_size = 0;
    }
    bus->last_lanes = look_up(bus, &wanted, &bus->last_route);
    return bus->last_lanes;
}

void fan__route_forget(struct fan_bus *bus)
{
    bus->routes.generation++;
    bus->last_route = NULL;
}
