/*
 * What the kernel offers below locks: sleeping on a word, and a barrier that others pay for. Linux
 * only, as eventfd and epoll elsewhere in this house.
 */
#ifndef FAN_BASE_FUTEX_H
#define FAN_BASE_FUTEX_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/*
 * Sleeps while *word is `expected`, until a wake or `deadline_ns` (thread.h, FAN__FOREVER for
 * good). False when the deadline passed; spurious wakes return true.
 */
bool fan__futex_wait(atomic_uint *word, unsigned expected, int64_t deadline_ns);

/*
 * Wakes up to `count` sleepers. The word is used as an address only: it may be gone already, then
 * at worst a stranger wakes without need.
 */
void fan__futex_wake(atomic_uint *word, int count);

/*
 * Asks the kernel for process-wide barriers; false where it has none, then both sides of a
 * handshake must fence.
 */
bool fan__barrier_init(void);

/*
 * Makes every other thread of this process pass a full fence; needs fan__barrier_init to have given
 * true. Costs the caller microseconds and the others nothing that they notice.
 */
void fan__barrier(void);

/* Has the processor fetch a line of cache that will be written soon, for itself alone. */
static inline void fan__prefetch_write(const void *address)
{
#if defined(__x86_64__)
    /* The builtin gives this only where a newer processor is asked for; older ones ignore it. */
    __asm__ volatile("prefetchw %0" : : "m"(*(const char *)address));
#else
    __builtin_prefetch(address, 1);
#endif
}

/* Whether writing a line is slow that another processor has read since it was last written. */
static inline bool fan__upgrades_slowly(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    return __builtin_cpu_is("amd");
#else
    return false;
#endif
}

/* Tells the processor that this is a loop that waits for another thread. */
static inline void fan__spin_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

#endif
