/*
 * The base's locks, waits and threads for a process of one thread and a clock that only the
 * simulator moves; linked in place of src/base/thread.c. What would wait for ever is a hang, which
 * ends the run; what waits for a time has it at once.
 */
#include "sim.h"

#include "base/thread.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define START_NS (INT64_C(3600000) * NS_PER_MS)
#define START_US (INT64_C(1700000000000) * US_PER_MS)

static struct {
    int64_t now_ns;
    int64_t wall_us;
} clocks = { START_NS, START_US };

void sim_clock_reset(void)
{
    clocks.now_ns = START_NS;
    clocks.wall_us = START_US;
}

void sim_clock_pass_ns(int64_t time_ns)
{
    clocks.now_ns += time_ns;
    clocks.wall_us += time_ns / NS_PER_US;
}

void sim_clock_set_wall(int64_t by_us)
{
    clocks.wall_us += by_us;
}

int64_t sim_now_ns(void)
{
    return clocks.now_ns;
}

int64_t sim_wall_us(void)
{
    return clocks.wall_us;
}

static void hang(const char *what)
{
    struct sim_world *world = sim_world_here();
    if (world) {
        sim_broken(world, "L5", "%s, which nobody ends", what);
        sim_world_report(world);
    }
    fprintf(stderr, "a hang: %s\n", what);
    _Exit(1);
}

unsigned fan__processor_count(void)
{
    return 1;
}

void fan__mutex_init(struct fan__mutex *mutex)
{
    pthread_mutex_init(&mutex->handle, NULL);
}

void fan__mutex_deinit(struct fan__mutex *mutex)
{
    if (pthread_mutex_destroy(&mutex->handle) != 0)
        hang("a lock is freed that is held");
}

void fan__mutex_lock(struct fan__mutex *mutex)
{
    if (pthread_mutex_trylock(&mutex->handle) == EBUSY)
        hang("a lock is taken twice");
}

void fan__mutex_unlock(struct fan__mutex *mutex)
{
    pthread_mutex_unlock(&mutex->handle);
}

void fan__cond_init(struct fan__cond *cond)
{
    (void)cond;
}

void fan__cond_deinit(struct fan__cond *cond)
{
    (void)cond;
}

void fan__cond_signal(struct fan__cond *cond)
{
    (void)cond;
}

void fan__cond_broadcast(struct fan__cond *cond)
{
    (void)cond;
}

void fan__cond_wait(struct fan__cond *cond, struct fan__mutex *mutex)
{
    (void)cond;
    (void)mutex;
    hang("somebody waits without a deadline");
}

bool fan__cond_wait_until(struct fan__cond *cond, struct fan__mutex *mutex, int64_t deadline_ns)
{
    if (deadline_ns == FAN__FOREVER)
        fan__cond_wait(cond, mutex);
    if (deadline_ns > clocks.now_ns)
        sim_clock_pass_ns(deadline_ns - clocks.now_ns);
    return false;
}

int64_t fan__deadline_ns(uint32_t timeout_ms)
{
    return timeout_ms == UINT32_MAX ? FAN__FOREVER : clocks.now_ns + timeout_ms * NS_PER_MS;
}

/* There is no other thread. In place of libc's own: on a busy machine it costs a turn of all. */
int sched_yield(void)
{
    return 0;
}

/* There is no disk that could lose its power: nobody waits for it. In place of libc's own. */
int fsync(int fd)
{
    (void)fd;
    return 0;
}

int fdatasync(int fd)
{
    (void)fd;
    return 0;
}

/* What a provider does in the background (SQLite's checkpoints) is left out. */
enum fan_status fan__thread_start(struct fan__thread *thread, const char *name,
                                  void (*run)(void *context), void *context)
{
    (void)name;
    (void)run;
    (void)context;
    thread->started = true;
    return FAN_OK;
}

void fan__thread_join(struct fan__thread *thread)
{
    thread->started = false;
}
