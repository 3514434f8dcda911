/* What the library writes to its log: the warnings and errors in which a word stands. */
#ifndef TESTS_HOOK_HEARING_H
#define TESTS_HOOK_HEARING_H

#include <fanfare/env.h>

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static struct {
    pthread_mutex_t mutex;
    const char *word;
    char text[2048];
} hearing = { .mutex = PTHREAD_MUTEX_INITIALIZER };

static void hear(void *context, enum fan_log_level level, const char *message)
{
    (void)context;
    pthread_mutex_lock(&hearing.mutex);
    size_t used = strlen(hearing.text);
    if (level >= FAN_LOG_WARNING && strstr(message, hearing.word))
        snprintf(hearing.text + used, sizeof(hearing.text) - used, "%s\n", message);
    pthread_mutex_unlock(&hearing.mutex);
}

/* An environment that is heard, for brokers of one test after the other. */
static inline struct fan_env *env_heard(const char *word)
{
    static struct fan_env env;
    pthread_mutex_lock(&hearing.mutex);
    env = *fan_env_default();
    env.log = hear;
    hearing.word = word;
    *hearing.text = '\0';
    pthread_mutex_unlock(&hearing.mutex);
    return &env;
}

static inline bool has_heard(const char *words)
{
    pthread_mutex_lock(&hearing.mutex);
    bool found = strstr(hearing.text, words) != NULL;
    pthread_mutex_unlock(&hearing.mutex);
    return found;
}

#endif
