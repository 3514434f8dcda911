/* See job.h. */
#include "server/job.h"

#include <assert.h>

static void on_run(uv_work_t *work)
{
    struct fan__job *job = work->data;
    job->run(job);
}

static void on_done(uv_work_t *work, int status)
{
    struct fan__job *job = work->data;
    (void)status; /* nothing is ever cancelled */
    job->done(job);
}

void fan__job_start(struct fan__http_loop *loop, struct fan__job *job)
{
    job->work.data = job;
    int failed = uv_queue_work(fan__http_loop_uv(loop), &job->work, on_run, on_done);
    assert(failed == 0); /* it fails without a call-back alone */
    (void)failed;
}

void fan__turns_init(struct fan__turns *turns, struct fan__http_loop *loop)
{
    *turns = (struct fan__turns){ .loop = loop };
}

void fan__turns_start(struct fan__turns *turns, struct fan__turn *turn)
{
    if (turns->count < FAN__TURN_COUNT_MAX) {
        turns->count++;
        fan__job_start(turns->loop, &turn->job);
        return;
    }
    if (!turns->first)
        turns->end = &turns->first;
    turn->next = NULL;
    *turns->end = turn;
    turns->end = &turn->next;
}

void fan__turns_next(struct fan__turns *turns)
{
    struct fan__turn *turn = turns->first;
    turns->count--;
    if (!turn)
        return;
    turns->first = turn->next;
    turns->count++;
    fan__job_start(turns->loop, &turn->job);
}
