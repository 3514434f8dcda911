/* The default environment, and the thin calls through a given one. Links nothing but libc. */
#include "base/env.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

static void *default_resize(void *context, void *pointer, size_t size)
{
    (void)context;
    return realloc(pointer, size);
}

static void default_release(void *context, void *pointer)
{
    (void)context;
    free(pointer);
}

static int64_t default_wall_us(void *context)
{
    (void)context;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * FAN__US_PER_S + now.tv_nsec / FAN__NS_PER_US;
}

static int64_t default_monotonic_ns(void *context)
{
    (void)context;
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (int64_t)now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static void default_random(void *context, void *bytes, size_t size)
{
    (void)context;
    unsigned char *at = bytes;
    while (size > 0) {
        ssize_t got = getrandom(at, size, 0);
        if (got < 0 && errno == EINTR)
            continue;
        /* The kernel's pool is ready long before a program can run. */
        if (got < 0)
            abort(); /* tidy: no randomness at all is a broken system; no caller can help it */
        at += got;
        size -= (size_t)got;
    }
}

static void default_log(void *context, enum fan_log_level level, const char *message)
{
    (void)context;
    (void)level;
    (void)message;
}

static const struct fan_env default_env = {
    .size = sizeof(struct fan_env),
    .resize = default_resize,
    .release = default_release,
    .wall_us = default_wall_us,
    .monotonic_ns = default_monotonic_ns,
    .random = default_random,
    .log = default_log,
};

const struct fan_env *fan_env_default(void)
{
    return &default_env;
}

const struct fan_env *fan__env(const struct fan_env *env)
{
    return env ? env : &default_env;
}

void *fan__alloc(const struct fan_env *env, size_t size)
{
    env = fan__env(env);
    return env->resize(env->context, NULL, size);
}

void *fan__alloc_zero(const struct fan_env *env, size_t count, size_t size)
{
    size_t total;
    if (__builtin_mul_overflow(count, size, &total))
        return NULL;
    void *pointer = fan__alloc(env, total);
    if (pointer)
        memset(pointer, 0, total);
    return pointer;
}

void *fan__resize(const struct fan_env *env, void *pointer, size_t size)
{
    env = fan__env(env);
    return env->resize(env->context, pointer, size);
}

void fan__free(const struct fan_env *env, void *pointer)
{
    if (!pointer)
        return;
    env = fan__env(env);
    env->release(env->context, pointer);
}

char *fan__strdup(const struct fan_env *env, const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = fan__alloc(env, size);
    if (copy)
        memcpy(copy, text, size);
    return copy;
}

int64_t fan__wall_us(const struct fan_env *env)
{
    env = fan__env(env);
    return env->wall_us(env->context);
}

int64_t fan__monotonic_ns(const struct fan_env *env)
{
    env = fan__env(env);
    return env->monotonic_ns(env->context);
}

void fan__random(const struct fan_env *env, void *bytes, size_t size)
{
    env = fan__env(env);
    env->random(env->context, bytes, size);
}

void fan__log(const struct fan_env *env, enum fan_log_level level, const char *format, ...)
{
    env = fan__env(env);
    char message[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof(message), format, arguments);
    va_end(arguments);
    env->log(env->context, level, message);
}

atomic_uint fan__fork_count;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void fork_in_child(void)
{
    /* relaxed: the child has one thread. */
    atomic_fetch_add_explicit(&fan__fork_count, 1, memory_order_relaxed);
}

static void fork_watch(void)
{
    pthread_atfork(NULL, NULL, fork_in_child);
}

unsigned fan__fork_generation(void)
{
    pthread_once(&fork_once, fork_watch);
    return fan__fork_generation_now();
}
