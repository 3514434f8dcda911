/*
 * /v1/dead: deliveries that failed for good. GET lists them and shows one event's; POST redrive has
 * them handled again, POST discard lets them rest as completed.
 *
 * A page looks at FAN__DEAD_SCAN_MAX dead letters at most and ends with all of an event, so that
 * `next` (a sequence) goes on without leaving out or repeating any.
 */
#ifndef FAN_SERVER_DEAD_H
#define FAN_SERVER_DEAD_H

struct fan__http_request;

#define FAN__DEAD_SCAN_MAX 10000
#define FAN__DEAD_LIMIT_MAX 1000

/* The parameters that list takes; NULL at the end. */
extern const char *const fan__dead_parameters[];

void fan__dead_list(struct fan__http_request *request);
void fan__dead_show(struct fan__http_request *request);
void fan__dead_redrive(struct fan__http_request *request);
void fan__dead_discard(struct fan__http_request *request);

#endif
