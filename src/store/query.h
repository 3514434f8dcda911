/* The filter of struct fan_query as one function, for providers that look at events themselves. */
#ifndef FAN_STORE_QUERY_H
#define FAN_STORE_QUERY_H

#include <fanfare/store.h>

/* Everything but status, offset, order and limit. */
bool fan__query_match(const struct fan_query *query, const struct fan_event *event);

#endif
