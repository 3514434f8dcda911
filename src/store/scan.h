/* Lists for providers without FAN_CAPABILITY_QUERY that bring no list of their own. */
#ifndef FAN_STORE_SCAN_H
#define FAN_STORE_SCAN_H

#include <fanfare/store.h>

struct fan_batch;

/* As fan_store_list, of a query that was checked. It reads the whole log. */
FAN_MUST_CHECK enum fan_status fan__store_scan(struct fan_store *store,
                                               const struct fan_query *query,
                                               struct fan_batch *batch,
                                               struct fan_event_state *states,
                                               struct fan_error *error);

#endif
