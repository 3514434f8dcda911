/*
 * POST /v1/groups/{group}/claim: events for a member of a group, at once or when there are some.
 *
 *     waiter --in a queue--> seat (a group's handler) --one claim at a time--> store
 *                             ^ woken by events, and every FAN__CLAIM_LOOK_MS for what became due
 *
 * A loop has a seat for each handler that is asked for, and claims one after another for those who
 * wait there, in the order they came: so an event is looked for once, however many wait. A claim
 * that found nothing is not repeated for FAN__CLAIM_QUIET_MS, however many events come that nobody
 * there wants. What was claimed for a client that has gone meanwhile is handed back.
 *
 * A delivery whose holders were lost FAN__LAPSES_MAX times is not given again, as in the broker: it
 * becomes a dead letter.
 *
 * One that lapsed once less is given alone, so that the death it may bring is of nothing else: a
 * claim for many leaves such suspects out, and is given one when nothing else is due, or when it
 * is among the one in FAN__CLAIM_SUSPECT_SHARE that look for them first.
 *
 * Bounds of a loop: FAN__CLAIM_COUNT_MAX that wait at once; of a wait: FAN__CLAIM_WAIT_MS_MAX.
 */
#ifndef FAN_SERVER_CLAIM_H
#define FAN_SERVER_CLAIM_H

#include "server/job.h"

#include <uv.h>

struct fan__daemon;
struct fan__seat;

#define FAN__CLAIM_COUNT_MAX 1000
#define FAN__CLAIM_LIMIT_MAX 1000
#define FAN__CLAIM_WAIT_MS_MAX 60000
#define FAN__CLAIM_LOOK_MS 200
#define FAN__CLAIM_QUIET_MS 10
#define FAN__CLAIM_SUSPECT_SHARE 16

/* What the claims of one loop share. */
struct fan__claims {
    struct fan__daemon *daemon;
    struct fan__http_loop *loop;
    struct fan__turns *turns;
    uv_timer_t timer; /* runs while some wait */
    struct fan__seat *seats;
    unsigned count; /* of requests that are held */
};

void fan__claims_init(struct fan__claims *claims, struct fan__daemon *daemon,
                      struct fan__http_loop *loop, struct fan__turns *turns);
/* Closes what it has on the loop; `closed` is called with the timer's data. */
void fan__claims_close(struct fan__claims *claims, uv_close_cb closed);

/* Events have come. */
void fan__claims_wake(struct fan__claims *claims);

/* The route's function. */
void fan__claim_handle(struct fan__http_request *request);

#endif
