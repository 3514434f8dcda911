/*
 * /v1/groups: consumer groups over HTTP. GET lists them; PUT makes one, or gives it another filter;
 * DELETE; and for their members POST settle and renew. POST claim is in claim.h.
 */
#ifndef FAN_SERVER_GROUP_H
#define FAN_SERVER_GROUP_H

#include <fanfare/group.h>

struct fan__buffer;
struct fan__daemon;
struct fan__http_request;

#define FAN__GROUP_BODY_SIZE_MAX ((size_t)2 << 20)
#define FAN__GROUP_ITEMS_MAX 1000
#define FAN__GROUP_ERROR_SIZE_MAX 1000
#define FAN__GROUP_LEASE_MS_DEFAULT 30000
#define FAN__GROUP_LEASE_MS_MIN 100
#define FAN__GROUP_LEASE_MS_MAX 3600000

/* The parameters of all but the list; NULL at the end. */
extern const char *const fan__group_parameters[];

/* The name that a path and its query give. Returns: FAN_INVALID. */
FAN_MUST_CHECK enum fan_status fan__group_name(const struct fan__http_request *request,
                                               struct fan_group_name *ret_name,
                                               struct fan_error *ret_error);

/* Adds `"groups":[...]`, for those who show them among other things. Returns: faults. */
FAN_MUST_CHECK enum fan_status fan__group_write(struct fan__daemon *daemon,
                                                struct fan__buffer *json);

void fan__group_list(struct fan__http_request *request);
void fan__group_put(struct fan__http_request *request);
void fan__group_delete(struct fan__http_request *request);
void fan__group_settle(struct fan__http_request *request);
void fan__group_renew(struct fan__http_request *request);

#endif
