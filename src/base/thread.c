/* pthreads with the manners of a library: named, no signals, monotonic waits. */
#include "base/thread.h"

#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void must(int result)
{
    assert(result == 0);
    (void)result;
}

unsigned fan__processor_count(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) != 0)
        return 1;
    return (unsigned)CPU_COUNT(&set);
}

void fan__mutex_init(struct fan__mutex *mutex)
{
    must(pthread_mutex_init(&mutex->handle, NULL));
}

void fan__mutex_deinit(struct fan__mutex *mutex)
{
    must(pthread_mutex_destroy(&mutex->handle));
}

void fan__mutex_lock(struct fan__mutex *mutex)
{
    must(pthread_mutex_lock(&mutex->handle));
}

void fan__mutex_unlock(struct fan__mutex *mutex)
{
    must(pthread_mutex_unlock(&mutex->handle));
}

void fan__cond_init(struct fan__cond *cond)
{
    pthread_condattr_t attributes;
    must(pthread_condattr_init(&attributes));
    must(pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC));
    must(pthread_cond_init(&cond->handle, &attributes));
    must(pthread_condattr_destroy(&attributes));
}

void fan__cond_deinit(struct fan__cond *cond)
{
    must(pthread_cond_destroy(&cond->handle));
}

void fan__cond_signal(struct fan__cond *cond)
{
    must(pthread_cond_signal(&cond->handle));
}

void fan__cond_broadcast(struct fan__cond *cond)
{
    must(pthread_cond_broadcast(&cond->handle));
}

void fan__cond_wait(struct fan__cond *cond, struct fan__mutex *mutex)
{
    must(pthread_cond_wait(&cond->handle, &mutex->handle));
}

bool fan__cond_wait_until(struct fan__cond *cond, struct fan__mutex *mutex, int64_t deadline_ns)
{
    if (deadline_ns == FAN__FOREVER) {
        fan__cond_wait(cond, mutex);
        return true;
    }
    struct timespec until = { .tv_sec = (time_t)(deadline_ns / 1000000000),
                              .tv_nsec = (long)(deadline_ns % 1000000000) };
    int result = pthread_cond_timedwait(&cond->handle, &mutex->handle, &until);
    assert(result == 0 || result == ETIMEDOUT);
    return result == 0;
}

int64_t fan__deadline_ns(uint32_t timeout_ms)
{
    if (timeout_ms == UINT32_MAX)
        return FAN__FOREVER;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec + (int64_t)timeout_ms * 1000000;
}

struct start {
    void (*run)(void *context);
    void *context;
    char name[16];
};

static void *thread_main(void *argument)
{
    struct start start = *(struct start *)argument;
    free(argument);
    pthread_setname_np(pthread_self(), start.name);
    start.run(start.context);
    return NULL;
}

enum fan_status fan__thread_start(struct fan__thread *thread, const char *name,
                                  void (*run)(void *context), void *context)
{
    assert(!thread->started && strlen(name) < sizeof(((struct start *)0)->name));
    /* From malloc: it is freed by a thread whose environment may be gone by then. */
    struct start *start = malloc(sizeof(*start));
    if (!start)
        return FAN_NO_MEMORY;
    start->run = run;
    start->context = context;
    strcpy(start->name, name);

    /* A new thread inherits the mask, so no signal of the embedder is ever taken by ours. */
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    must(pthread_sigmask(SIG_SETMASK, &all, &before));
    int result = pthread_create(&thread->handle, NULL, thread_main, start);
    must(pthread_sigmask(SIG_SETMASK, &before, NULL));
    if (result != 0) {
        free(start);
        return FAN_NO_MEMORY;
    }
    thread->started = true;
    return FAN_OK;
}

void fan__thread_join(struct fan__thread *thread)
{
    if (!thread->started)
        return;
    must(pthread_join(thread->handle, NULL));
    thread->started = false;
}
