/*
 * POST /v1/events: the events of one request on their way into the log.
 *
 *     body --intake--> event --submit--> the writer's queue --call-back--> slot --in order-->
 * outcome
 *
 * Each event stands alone: what is refused does not hold up the others. The slots of a request are
 * a queue: made in the order of the body, marked done by the writer's thread, and taken from the
 * front on the loop. One task carries the news, once for many.
 *
 * Bounds of a request: one line or JSON text of FAN__BODY_SIZE_MAX, FAN__PUBLISH_COUNT_MAX events
 * or FAN__PUBLISH_SIZE_MAX bytes of them on their way, results (outcome.h). Of a loop:
 * FAN__DESK_SIZE_MAX of unfinished texts and results.
 */
#ifndef FAN_SERVER_PUBLISH_H
#define FAN_SERVER_PUBLISH_H

#include <uv.h>

struct fan__daemon;
struct fan__http_loop;
struct fan__http_request;
struct fan__publish;

#define FAN__PUBLISH_COUNT_MAX 8192
#define FAN__PUBLISH_SIZE_MAX ((size_t)16 << 20)
#define FAN__DESK_SIZE_MAX ((uint64_t)128 << 20)

/* What the publishes of one loop share. */
struct fan__desk {
    struct fan__daemon *daemon;
    uv_timer_t timer; /* runs while some wait for room in the writer's queue */
    struct fan__publish *waiting;
    uint64_t held_size;
};

void fan__desk_init(struct fan__desk *desk, struct fan__daemon *daemon,
                    struct fan__http_loop *loop);
/* Closes what it has on the loop; `closed` is called with the timer's data. */
void fan__desk_close(struct fan__desk *desk, uv_close_cb closed);

/* The route's functions; it takes its body in pieces. */
void fan__publish_check(struct fan__http_request *request);
void fan__publish_handle(struct fan__http_request *request);

#endif
