/* See ask.h. */
#include "server/ask.h"

#include "base/env.h"
#include "server/daemon.h"
#include "server/hub.h"
#include "server/reply.h"

static void free_ask(struct fan__ask *ask)
{
    if (ask->deinit)
        ask->deinit(ask);
    fan__buffer_deinit(&ask->json);
    fan__free(ask->daemon->env, ask);
}

static void on_run(struct fan__job *job)
{
    struct fan__ask *ask = (struct fan__ask *)job;
    ask->run(ask);
}

static void on_done(struct fan__job *job)
{
    struct fan__ask *ask = (struct fan__ask *)job;
    fan__turns_next(ask->turns);
    if (ask->done)
        ask->done(ask);
    if (ask->status != FAN_OK)
        fan__reply_fault(ask->request, ask->status, &ask->error);
    else if (ask->code == 204)
        fan__http_answer(ask->request, 204, NULL, NULL, 0);
    else
        fan__reply_json(ask->request, ask->code ? ask->code : 200, &ask->json);
    free_ask(ask);
}

void *fan__ask_new(struct fan__http_request *request, size_t size, bool quick)
{
    struct fan__daemon *daemon = fan__http_context(request);
    struct fan__hub *hub = fan__http_loop_context(fan__http_loop(request));
    struct fan__ask *ask = fan__alloc_zero(daemon->env, 1, size);
    if (!ask) {
        fan__reply_busy(request, NULL, "out of memory");
        return NULL;
    }
    ask->turn.job.run = on_run;
    ask->turn.job.done = on_done;
    ask->turns = quick ? &hub->chores : &hub->questions;
    ask->daemon = daemon;
    ask->request = request;
    fan__buffer_init(&ask->json, daemon->env);
    return ask;
}

void fan__ask_start(struct fan__ask *ask)
{
    fan__turns_start(ask->turns, &ask->turn);
}

void fan__ask_refuse(struct fan__ask *ask, enum fan_status status, const struct fan_error *error)
{
    fan__reply_fault(ask->request, status, error);
    free_ask(ask);
}
