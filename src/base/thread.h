/*
 * Locks, waits by the monotonic clock, and threads with a name and all signals masked. Failures of
 * pthread calls other than fan__thread_start are our own bugs and asserted.
 */
#ifndef FAN_BASE_THREAD_H
#define FAN_BASE_THREAD_H

#include <fanfare/status.h>

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct fan__mutex {
    pthread_mutex_t handle;
};

struct fan__cond {
    pthread_cond_t handle;
};

void fan__mutex_init(struct fan__mutex *mutex);
void fan__mutex_deinit(struct fan__mutex *mutex);
void fan__mutex_lock(struct fan__mutex *mutex);
void fan__mutex_unlock(struct fan__mutex *mutex);

void fan__cond_init(struct fan__cond *cond);
void fan__cond_deinit(struct fan__cond *cond);
void fan__cond_signal(struct fan__cond *cond);
void fan__cond_broadcast(struct fan__cond *cond);
void fan__cond_wait(struct fan__cond *cond, struct fan__mutex *mutex);

/* How many processors the calling thread may run on; 1 where the system does not tell. */
unsigned fan__processor_count(void);

#define FAN__FOREVER INT64_MAX

/*
 * Waits until `deadline_ns` of the system's CLOCK_MONOTONIC (not of an environment), FAN__FOREVER
 * for good. False when the deadline passed; spurious wakes return true.
 */
bool fan__cond_wait_until(struct fan__cond *cond, struct fan__mutex *mutex, int64_t deadline_ns);

/* The system's monotonic clock now, plus timeout_ms; FAN__FOREVER for UINT32_MAX. */
int64_t fan__deadline_ns(uint32_t timeout_ms);

struct fan__thread {
    pthread_t handle;
    bool started;
};

/* name: at most 15 bytes. Returns: FAN_NO_MEMORY when the system gives no thread. */
FAN_MUST_CHECK enum fan_status fan__thread_start(struct fan__thread *thread, const char *name,
                                                 void (*run)(void *context), void *context);

/* Waits for the end of a started thread; does nothing for one that never started. */
void fan__thread_join(struct fan__thread *thread);

#endif
