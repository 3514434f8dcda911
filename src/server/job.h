/*
 * Work that blocks (a read of the log), done on one of libuv's threads and ended on the loop. They
 * are started from a loop's thread, so that they inherit its mask: all signals blocked.
 */
#ifndef FAN_SERVER_JOB_H
#define FAN_SERVER_JOB_H

#include "server/http.h"

#include <uv.h>

/* Embedded in what it is about. `run` is called on another thread, `done` on the loop's. */
struct fan__job {
    uv_work_t work;
    void (*run)(struct fan__job *job);
    void (*done)(struct fan__job *job);
};

/* Starts it; `done` is always called. Thread: the loop's. */
void fan__job_start(struct fan__http_loop *loop, struct fan__job *job);

#endif
