/*
 * One request that the store answers: asked in its turn on a thread that may wait, then answered as
 * JSON or as a problem. What a request gave (path, query, body) lives until then.
 */
#ifndef FAN_SERVER_ASK_H
#define FAN_SERVER_ASK_H

#include "base/buffer.h"
#include "server/job.h"

#include <fanfare/status.h>

struct fan__daemon;

/*
 * run     called on a thread that may wait; fills status, error and json
 * done    may be NULL; called on the loop before the answer, which it may still change
 * deinit  may be NULL; ends what stands behind the ask
 * code    of a success, 0 for 200; 204 has no body
 */
struct fan__ask {
    struct fan__turn turn;
    struct fan__turns *turns;
    struct fan__daemon *daemon;
    struct fan__http_request *request;
    void (*run)(struct fan__ask *ask);
    void (*done)(struct fan__ask *ask);
    void (*deinit)(struct fan__ask *ask);
    struct fan__buffer json;
    unsigned code;
    enum fan_status status;
    struct fan_error error;
};

/*
 * Makes one, at the front of `size` cleared bytes, for reads that may take their time or (quick)
 * for what keeps work going. Answers the request itself when it gives NULL.
 */
FAN_MUST_CHECK void *fan__ask_new(struct fan__http_request *request, size_t size, bool quick);

/* Asks, answers and frees. */
void fan__ask_start(struct fan__ask *ask);

/* Answers with a problem, and frees it without asking. */
void fan__ask_refuse(struct fan__ask *ask, enum fan_status status, const struct fan_error *error);

#endif
