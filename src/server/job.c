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
