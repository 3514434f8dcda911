/* Runs the behaviours one by one and prints TAP. */
#include "store/suite/suite.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NS_PER_US 1000

static void *suite_resize(void *context, void *pointer, size_t size)
{
    struct fan__suite *suite = context;
    pthread_mutex_lock(&suite->mutex);
    bool refused = suite->allocations_left == 0;
    if (suite->allocations_left > 0)
        suite->allocations_left--;
    pthread_mutex_unlock(&suite->mutex);
    return refused ? NULL : realloc(pointer, size);
}

static int64_t suite_wall_us(void *context)
{
    struct fan__suite *suite = context;
    const struct fan_env *real = fan_env_default();
    pthread_mutex_lock(&suite->mutex);
    int64_t by_us = suite->skew_us + suite->wall_by_us;
    pthread_mutex_unlock(&suite->mutex);
    return real->wall_us(real->context) + by_us;
}

static int64_t suite_monotonic_ns(void *context)
{
    struct fan__suite *suite = context;
    const struct fan_env *real = fan_env_default();
    pthread_mutex_lock(&suite->mutex);
    int64_t by_us = suite->skew_us;
    pthread_mutex_unlock(&suite->mutex);
    return real->monotonic_ns(real->context) + by_us * NS_PER_US;
}

void fan__suite_fail(struct fan__suite *suite, const char *file, int line, const char *format, ...)
{
    const char *name = strrchr(file, '/');
    char said[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(said, sizeof(said), format, arguments);
    va_end(arguments);
    pthread_mutex_lock(&suite->mutex);
    if (!suite->failed && line > 0)
        snprintf(suite->reason, sizeof(suite->reason), "%s:%d: %s", name ? name + 1 : file, line,
                 said);
    else if (!suite->failed)
        snprintf(suite->reason, sizeof(suite->reason), "%s: %s", name ? name + 1 : file, said);
    suite->failed = true;
    pthread_mutex_unlock(&suite->mutex);
    if (pthread_equal(pthread_self(), suite->owner))
        longjmp(suite->stop, 1);
}

void fan__suite_skip(struct fan__suite *suite, const char *reason)
{
    suite->skipped = reason;
    longjmp(suite->stop, 1);
}

void fan__suite_is(struct fan__suite *suite, const char *place, const char *what,
                   enum fan_status status, enum fan_status expected)
{
    if (status != expected)
        fan__suite_fail(suite, place, 0, "%s gave %s, expected %s", what, fan_status_name(status),
                        fan_status_name(expected));
}

void fan__suite_equal(struct fan__suite *suite, const char *place, const char *what, uint64_t value,
                      uint64_t expected)
{
    if (value != expected)
        fan__suite_fail(suite, place, 0, "%s is %" PRIu64 ", expected %" PRIu64, what, value,
                        expected);
}

void fan__suite_text(struct fan__suite *suite, const char *place, const char *what,
                     const char *value, const char *expected)
{
    if (!value || strcmp(value, expected) != 0)
        fan__suite_fail(suite, place, 0, "%s is '%.100s', expected '%.100s'", what,
                        value ? value : "(null)", expected);
}

static void clean(struct fan__suite *suite)
{
    suite->allocations_left = -1;
    fan_store_close(suite->second);
    fan_store_close(suite->store);
    for (size_t i = 0; i < suite->batch_count; i++)
        fan_batch_free(suite->batches[i]);
    for (size_t i = 0; i < suite->event_count; i++)
        fan_event_free(suite->events[i], NULL);
    for (size_t i = 0; i < suite->kept_count; i++)
        free(suite->kept[i]);
    free(suite->batches);
    free(suite->events);
    free(suite->kept);
    pthread_mutex_destroy(&suite->mutex);
}

static void run_inside(struct fan__suite *suite, const struct fan__suite_behaviour *behaviour)
{
    if (setjmp(suite->stop) != 0)
        return;
    struct fan_error error = FAN_ERROR_INIT;
    suite->batch = fan__suite_batch(suite);
    enum fan_status status =
        suite->options->open(suite->options->context, &suite->env, &suite->store, &error);
    if (status != FAN_OK)
        fan__suite_fail(suite, __FILE__, __LINE__, "open gave %s: %s", fan_status_name(status),
                        error.message);
    behaviour->run(suite);
}

struct runner {
    const struct fan_conformance_options *options;
    uint64_t seed;
    size_t number;
    int failed;
};

static void print(const struct fan_conformance_options *options, const char *line)
{
    if (options->print) {
        options->print(options->context, line);
        return;
    }
    printf("%s\n", line);
    fflush(stdout);
}

static const char *missing(const struct fan_conformance_options *options, unsigned needs)
{
    if (needs & FAN__SUITE_REOPEN && !options->reopen)
        return "nothing is kept after close";
    if (needs & FAN__SUITE_CLOCK && !(options->traits & FAN_CONFORMANCE_CLOCK))
        return "the store's clock is not ours to move";
    if (needs & FAN__SUITE_MEMORY && !(options->traits & FAN_CONFORMANCE_MEMORY))
        return "the store's memory is not ours to refuse";
    return NULL;
}

static void run_one(struct runner *runner, const struct fan__suite_behaviour *behaviour)
{
    const struct fan_conformance_options *options = runner->options;
    const char *label = options->label ? options->label : "";
    char line[768];
    runner->number++;
    const char *lack = missing(options, behaviour->needs);
    if (lack) {
        snprintf(line, sizeof(line), "ok %zu - %s%s # SKIP %s", runner->number, label,
                 behaviour->name, lack);
        print(options, line);
        return;
    }
    const struct fan_env *real = fan_env_default();
    struct fan__suite suite = { .options = options,
                                .env = *fan_env_default(),
                                .seed = runner->seed,
                                .random = runner->seed,
                                .allocations_left = -1,
                                .begun_ns = real->monotonic_ns(real->context),
                                .owner = pthread_self() };
    pthread_mutex_init(&suite.mutex, NULL);
    suite.env.context = &suite;
    suite.env.resize = suite_resize;
    suite.env.wall_us = suite_wall_us;
    suite.env.monotonic_ns = suite_monotonic_ns;
    run_inside(&suite, behaviour);
    if (suite.failed) {
        runner->failed++;
        snprintf(line, sizeof(line), "# %s", suite.reason);
        print(options, line);
    }
    snprintf(line, sizeof(line), "%sok %zu - %s%s%s%s", suite.failed ? "not " : "", runner->number,
             label, behaviour->name, suite.skipped ? " # SKIP " : "",
             suite.skipped ? suite.skipped : "");
    print(options, line);
    clean(&suite);
}

static const struct fan__suite_behaviour *const tables[] = {
    fan__suite_log,    fan__suite_list,    fan__suite_expect, fan__suite_group, fan__suite_order,
    fan__suite_state,  fan__suite_moves,   fan__suite_lapse,  fan__suite_clock, fan__suite_keep,
    fan__suite_retain, fan__suite_threads, fan__suite_model,
};

/* Runs each behaviour that was asked for, if there is a runner; gives their number. */
static size_t each_behaviour(const struct fan_conformance_options *options, struct runner *runner)
{
    size_t count = 0;
    for (size_t i = 0; i < sizeof(tables) / sizeof(*tables); i++) {
        for (const struct fan__suite_behaviour *at = tables[i]; at->name; at++) {
            if (options->only && !strstr(at->name, options->only))
                continue;
            count++;
            if (runner)
                run_one(runner, at);
        }
    }
    return count;
}

int fan_conformance_run(const struct fan_conformance_options *options)
{
    if (!options || options->size < FAN_CONFORMANCE_OPTIONS_SIZE || !options->open)
        return -1;
    struct runner runner = { .options = options, .seed = options->seed };
    const struct fan_env *real = fan_env_default();
    while (runner.seed == 0)
        real->random(real->context, &runner.seed, sizeof(runner.seed));
    char line[64];
    snprintf(line, sizeof(line), "1..%zu", each_behaviour(options, NULL));
    print(options, line);
    snprintf(line, sizeof(line), "# seed %" PRIu64, runner.seed);
    print(options, line);
    each_behaviour(options, &runner);
    return runner.failed;
}
