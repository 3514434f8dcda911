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

/* A job that waits for its turn. */
struct fan__turn {
    struct fan__job job;
    struct fan__turn *next;
};

#define FAN__TURN_COUNT_MAX 4

/* Jobs of one kind and loop: FAN__TURN_COUNT_MAX at once, the others in the order they came. */
struct fan__turns {
    struct fan__http_loop *loop;
    unsigned count;
    struct fan__turn *first;
    struct fan__turn **end;
};

void fan__turns_init(struct fan__turns *turns, struct fan__http_loop *loop);

/* Starts a job when it is its turn. Thread: the loop's. */
void fan__turns_start(struct fan__turns *turns, struct fan__turn *turn);

/* To be called first in `done`: the next has its turn. Thread: the loop's. */
void fan__turns_next(struct fan__turns *turns);

#endif
