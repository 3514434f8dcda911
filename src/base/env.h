/* Memory, clocks, randomness and log through the environment that was given at open. */
#ifndef FAN_BASE_ENV_H
#define FAN_BASE_ENV_H

#include <fanfare/env.h>

#include <stdatomic.h>
#include <stdbool.h>

#define FAN__NS_PER_MS INT64_C(1000000)
#define FAN__NS_PER_US INT64_C(1000)
#define FAN__US_PER_S INT64_C(1000000)

/* The environment itself, or the default one for NULL. */
const struct fan_env *fan__env(const struct fan_env *env);

/* NULL when there is no memory. fan__alloc_zero clears; array sizes are checked for overflow. */
void *fan__alloc(const struct fan_env *env, size_t size);
void *fan__alloc_zero(const struct fan_env *env, size_t count, size_t size);
void *fan__resize(const struct fan_env *env, void *pointer, size_t size);
void fan__free(const struct fan_env *env, void *pointer);
char *fan__strdup(const struct fan_env *env, const char *text);

int64_t fan__wall_us(const struct fan_env *env);
int64_t fan__monotonic_ns(const struct fan_env *env);
void fan__random(const struct fan_env *env, void *bytes, size_t size);

__attribute__((format(printf, 3, 4))) void fan__log(const struct fan_env *env,
                                                    enum fan_log_level level, const char *format,
                                                    ...);

/*
 * Rises by one in every fork's child. What was opened keeps the value of its birth; another value
 * at a call means that threads and locks were left behind in the parent (FAN_FORKED).
 */
unsigned fan__fork_generation(void);

/* The same, for one who has called it before: a load. */
extern atomic_uint fan__fork_count;
static inline unsigned fan__fork_generation_now(void)
{
    /* relaxed: only a fork's child sees it change, and it has one thread then. */
    return atomic_load_explicit(&fan__fork_count, memory_order_relaxed);
}

#endif
