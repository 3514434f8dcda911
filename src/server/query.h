/*
 * GET /v1/events and GET /v1/events/{id}: the log is read and the answer written on a thread that
 * may wait, in its turn (ask.h).
 */
#ifndef FAN_SERVER_QUERY_H
#define FAN_SERVER_QUERY_H

#include <stddef.h>

struct fan__http_request;

#define FAN__QUERY_LIMIT_MAX 1000
#define FAN__QUERY_SIZE_MAX ((size_t)64 << 20)

/* The parameters that list takes; NULL at the end. */
extern const char *const fan__query_parameters[];

void fan__query_list(struct fan__http_request *request);
void fan__query_get(struct fan__http_request *request);

#endif
