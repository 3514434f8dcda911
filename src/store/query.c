/* The cheap comparisons come first, the pattern last. */
#include "store/query.h"

#include <fanfare/pattern.h>

#include <string.h>

static bool differs(const char *wanted, const char *text)
{
    return wanted && strcmp(wanted, text) != 0;
}

bool fan__query_match(const struct fan_query *query, const struct fan_event *event)
{
    if (query->source != FAN_SOURCE_UNSET && query->source != fan_event_source(event))
        return false;
    if (query->user_id != 0 && query->user_id != fan_event_user_id(event))
        return false;
    int64_t created_us = fan_event_created_us(event);
    if (query->from_us != 0 && created_us < query->from_us)
        return false;
    if (query->until_us != 0 && created_us >= query->until_us)
        return false;
    if (differs(query->topic, fan_event_topic(event)) ||
        differs(query->schema, fan_event_schema(event)) ||
        differs(query->entity, fan_event_entity(event)) ||
        differs(query->operation, fan_event_operation(event)) ||
        differs(query->instance_id, fan_event_instance_id(event)))
        return false;
    return !query->pattern || fan_pattern_match(query->pattern, fan_event_type(event));
}
