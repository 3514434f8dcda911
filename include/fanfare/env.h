/*
 * What the library asks of the world: memory, clocks, randomness, and a place to log to.
 *
 * An environment is given when something is opened (bus, store, broker) and must outlive it. NULL
 * stands for the default: malloc, the system's clocks, getrandom(2), and silence. Tests and the
 * simulator replace it, and so run a whole system from one seed.
 */
#ifndef FANFARE_ENV_H
#define FANFARE_ENV_H

#include <fanfare/status.h>

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum fan_log_level {
    FAN_LOG_DEBUG = 0,
    FAN_LOG_INFO = 1,
    FAN_LOG_WARNING = 2,
    FAN_LOG_ERROR = 3,
};

/*
 * None of the functions may be NULL, and each gets `context` as it is. All must be callable from
 * any thread, and none may call back into the library. `resize` is realloc: NULL allocates, failing
 * leaves the old block alone. `wall_us` is UTC in microseconds since 1970; it may jump.
 * `monotonic_ns` never goes back, goes on while the machine sleeps, and is the same for all
 * processes that share a log between two boots: the default is CLOCK_BOOTTIME.
 */
struct fan_env {
    size_t size;
    void *context;
    void *(*resize)(void *context, void *pointer, size_t size);
    void (*release)(void *context, void *pointer);
    int64_t (*wall_us)(void *context);
    int64_t (*monotonic_ns)(void *context);
    void (*random)(void *context, void *bytes, size_t size);
    void (*log)(void *context, enum fan_log_level level, const char *message);
};

/*
 * Gives the default environment; copy it to replace single functions.
 *
 * Returns: never NULL.
 * Memory:  static.
 * Thread:  any. Blocks: never.
 */
FAN_API const struct fan_env *fan_env_default(void);

#ifdef __cplusplus
}
#endif

#endif
