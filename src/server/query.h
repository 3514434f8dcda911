/*
 * GET /v1/events and GET /v1/events/{id}: the log is read and the answer written on a thread that
 * may wait. At most FAN__QUERY_COUNT_MAX of a loop at once; the others wait for their turn.
 */
#ifndef FAN_SERVER_QUERY_H
#define FAN_SERVER_QUERY_H

#include <stddef.h>

struct fan__http_request;
struct fan__question;

#define FAN__QUERY_COUNT_MAX 4
#define FAN__QUERY_LIMIT_MAX 1000
#define FAN__QUERY_SIZE_MAX ((size_t)64 << 20)

/* The questions of one loop: how many are asked now, and who waits. */
struct fan__questions {
    unsigned count;
    struct fan__question *first;
    struct fan__question **end;
};

/* The parameters that list takes; NULL at the end. */
extern const char *const fan__query_parameters[];

void fan__query_list(struct fan__http_request *request);
void fan__query_get(struct fan__http_request *request);

#endif
