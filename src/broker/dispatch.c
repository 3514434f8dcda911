/* Processing as a whole: made, started, stopped, counted. */
#include "broker/dispatch.h"

#include "base/env.h"
#include "base/status.h"

#include <fanfare/batch.h>
#include <fanfare/cancel.h>

#include <stdio.h>
#include <unistd.h>

#define WORKER_COUNT 10
#define WORKER_COUNT_MAX 1000
#define QUEUE_COUNT 1000
#define LEASE_MS 30000
#define LEASE_MS_MIN 100
#define PATIENCE_US (120 * FAN__US_PER_S)

int64_t fan__dispatch_now_ns(const struct fan__dispatch *dispatch)
{
    return dispatch->stepped ? fan__monotonic_ns(dispatch->broker->env) : fan__deadline_ns(0);
}

static enum fan_status check_options(const struct fan_broker_options *options,
                                     struct fan_error *error)
{
    if ((unsigned)options->mode > FAN_MODE_SYNC)
        return fan__fail(error, FAN_INVALID, "mode", "must be async or sync");
    if (options->worker_count > WORKER_COUNT_MAX)
        return fan__fail(error, FAN_INVALID, "worker_count", "must be at most %d, not %u",
                         WORKER_COUNT_MAX, options->worker_count);
    if (options->lease_ms > 0 && options->lease_ms < LEASE_MS_MIN)
        return fan__fail(error, FAN_INVALID, "lease_ms", "must be at least %d, not %u",
                         LEASE_MS_MIN, options->lease_ms);
    return FAN_OK;
}

/* Tells this broker's claims from those of others, also of other brokers in this process. */
static void name_owner(struct fan__dispatch *dispatch)
{
    unsigned char random[8];
    fan__random(dispatch->broker->env, random, sizeof(random));
    int at = snprintf(dispatch->owner, sizeof(dispatch->owner), "%ld-", (long)getpid());
    for (size_t i = 0; i < sizeof(random); i++)
        at +=
            snprintf(dispatch->owner + at, sizeof(dispatch->owner) - (size_t)at, "%02x", random[i]);
}

static enum fan_status make_workers(struct fan__dispatch *dispatch)
{
    const struct fan_env *env = dispatch->broker->env;
    dispatch->workers = fan__alloc_zero(env, dispatch->worker_count, sizeof(*dispatch->workers));
    if (!dispatch->workers || fan_batch_new(env, &dispatch->batch) != FAN_OK ||
        fan_cancel_new(env, &dispatch->live_cancel) != FAN_OK ||
        fan_cancel_new(env, &dispatch->step_cancel) != FAN_OK)
        return FAN_NO_MEMORY;
    for (unsigned i = 0; i < dispatch->worker_count; i++) {
        dispatch->workers[i].dispatch = dispatch;
        if (fan_cancel_new(env, &dispatch->workers[i].cancel) != FAN_OK)
            return FAN_NO_MEMORY;
    }
    return FAN_OK;
}

enum fan_status fan__dispatch_new(struct fan_broker *broker,
                                  const struct fan_broker_options *options, struct fan_error *error)
{
    enum fan_status status = check_options(options, error);
    if (status != FAN_OK)
        return status;
    struct fan__dispatch *dispatch = fan__alloc_zero(broker->env, 1, sizeof(*dispatch));
    if (!dispatch)
        return fan__fail(error, FAN_NO_MEMORY, "", "out of memory");
    broker->dispatch = dispatch;
    dispatch->broker = broker;
    dispatch->stepped = options->stepped;
    dispatch->worker_count = options->worker_count ? options->worker_count : WORKER_COUNT;
    dispatch->queue_count_max = options->work_queue_count ? options->work_queue_count : QUEUE_COUNT;
    dispatch->lease_ms = options->lease_ms ? options->lease_ms : LEASE_MS;
    dispatch->patience_us = PATIENCE_US;
    dispatch->alone_ns = FAN__ALONE_MS * FAN__NS_PER_MS;
    dispatch->live_over = true;
    name_owner(dispatch);
    fan__mutex_init(&dispatch->threads_mutex);
    fan__mutex_init(&dispatch->mutex);
    fan__cond_init(&dispatch->changed);
    fan__cond_init(&dispatch->ready);
    fan__cond_init(&dispatch->reported);
    fan__cond_init(&dispatch->look_wake);
    fan__task_list_init(&dispatch->queue);
    enum fan_status work = fan__waker_init(&dispatch->work_waker);
    enum fan_status live = fan__waker_init(&dispatch->live_waker);
    if (work != FAN_OK || live != FAN_OK)
        return fan__fail(error, FAN_IO, "", "no descriptor left for the handlers' threads");
    status = fan__retry_policy(&options->retry, &dispatch->retry, error);
    if (status != FAN_OK)
        return status;
    if (make_workers(dispatch) != FAN_OK)
        return fan__fail(error, FAN_NO_MEMORY, "", "out of memory");
    return FAN_OK;
}

/* What the workers leave behind: items whose tasks were all ended before their turn. */
static void empty_queue(struct fan__dispatch *dispatch)
{
    struct fan__task *item;
    fan__held_release(dispatch, true);
    while ((item = fan__task_pop(&dispatch->queue))) {
        while (item) {
            struct fan__task *sibling = item->sibling;
            fan__task_run_over(item);
            item = sibling;
        }
    }
}

/* The threads that call handlers, which a stop may have left in a call. */
static void join_callers(struct fan__dispatch *dispatch)
{
    fan__thread_join(&dispatch->live);
    for (unsigned i = 0; dispatch->workers && i < dispatch->worker_count; i++)
        fan__thread_join(&dispatch->workers[i].thread);
}

void fan__dispatch_free(struct fan_broker *broker)
{
    struct fan__dispatch *dispatch = broker->dispatch;
    if (!dispatch)
        return;
    join_callers(dispatch);
    while (dispatch->first) {
        struct fan_handler *handler = dispatch->first;
        dispatch->first = handler->next;
        fan__handler_release(handler);
    }
    for (unsigned i = 0; dispatch->workers && i < dispatch->worker_count; i++)
        fan_cancel_unref(dispatch->workers[i].cancel);
    fan_cancel_unref(dispatch->live_cancel);
    fan_cancel_unref(dispatch->step_cancel);
    fan_batch_free(dispatch->batch);
    fan__unhandled_free(dispatch);
    fan__waker_deinit(&dispatch->work_waker);
    fan__waker_deinit(&dispatch->live_waker);
    fan__cond_deinit(&dispatch->changed);
    fan__cond_deinit(&dispatch->ready);
    fan__cond_deinit(&dispatch->reported);
    fan__cond_deinit(&dispatch->look_wake);
    fan__mutex_deinit(&dispatch->mutex);
    fan__mutex_deinit(&dispatch->threads_mutex);
    fan__free(broker->env, dispatch->workers);
    fan__free(broker->env, dispatch);
    broker->dispatch = NULL;
}

static enum fan_status start_live(struct fan__dispatch *dispatch)
{
    fan__mutex_lock(&dispatch->mutex);
    dispatch->live_over = false;
    fan__mutex_unlock(&dispatch->mutex);
    enum fan_status status =
        fan__thread_start(&dispatch->live, "fan-live", fan__live_main, dispatch);
    if (status != FAN_OK) {
        fan__mutex_lock(&dispatch->mutex);
        dispatch->live_over = true;
        fan__mutex_unlock(&dispatch->mutex);
    }
    return status;
}

static enum fan_status start_workers(struct fan__dispatch *dispatch)
{
    enum fan_status status = FAN_OK;
    for (unsigned i = 0; i < dispatch->worker_count && status == FAN_OK; i++) {
        struct fan__worker *worker = &dispatch->workers[i];
        char name[16];
        snprintf(name, sizeof(name), "fan-worker-%u", i + 1 < 1000 ? i + 1 : 1000);
        if (!worker->thread.started)
            status = fan__thread_start(&worker->thread, name, fan__worker_main, worker);
    }
    return status;
}

/* Threads come with the first handler of their kind. */
enum fan_status fan__dispatch_want(struct fan__dispatch *dispatch, bool durable)
{
    enum fan_status status = FAN_OK;
    fan__mutex_lock(&dispatch->threads_mutex);
    fan__mutex_lock(&dispatch->mutex);
    bool wanted = dispatch->started && !dispatch->stopping && !dispatch->stepped;
    fan__mutex_unlock(&dispatch->mutex);
    if (wanted && durable)
        status = start_workers(dispatch);
    else if (wanted && !dispatch->live.started)
        status = start_live(dispatch);
    fan__mutex_unlock(&dispatch->threads_mutex);
    return status;
}

enum fan_status fan__dispatch_start(struct fan_broker *broker)
{
    struct fan__dispatch *dispatch = broker->dispatch;
    bool durable = false;
    bool live = false;
    fan__mutex_lock(&dispatch->mutex);
    dispatch->started = true;
    fan__mutex_unlock(&dispatch->mutex);
    enum fan_status status =
        fan__thread_start(&dispatch->work, "fan-work", fan__work_main, dispatch);
    if (status == FAN_OK)
        status = fan__thread_start(&dispatch->look, "fan-look", fan__unhandled_main, dispatch);
    fan__mutex_lock(&dispatch->mutex);
    dispatch->started = status == FAN_OK;
    for (const struct fan_handler *handler = dispatch->first; handler; handler = handler->next) {
        durable |= handler->group != NULL;
        live |= handler->group == NULL;
    }
    fan__mutex_unlock(&dispatch->mutex);
    if (durable && status == FAN_OK)
        status = fan__dispatch_want(dispatch, true);
    if (live && status == FAN_OK)
        status = fan__dispatch_want(dispatch, false);
    return status;
}

bool fan__dispatch_step(struct fan_broker *broker)
{
    struct fan__dispatch *dispatch = broker->dispatch;
    /* Publishers that wait for verdicts step, too. */
    fan__mutex_lock(&dispatch->mutex);
    while (dispatch->claiming)
        fan__cond_wait(&dispatch->changed, &dispatch->mutex);
    dispatch->claiming = true;
    fan__mutex_unlock(&dispatch->mutex);
    bool worked = fan__live_round(dispatch, 1);
    worked |= fan__work_step(dispatch);
    fan__mutex_lock(&dispatch->mutex);
    dispatch->claiming = false;
    fan__cond_broadcast(&dispatch->changed);
    fan__mutex_unlock(&dispatch->mutex);
    return worked;
}

bool fan__dispatch_is_me(struct fan_broker *broker)
{
    struct fan__dispatch *dispatch = broker->dispatch;
    fan__mutex_lock(&dispatch->mutex);
    bool result = fan__dispatch_calls_me(dispatch, NULL);
    fan__mutex_unlock(&dispatch->mutex);
    return result;
}

size_t fan__dispatch_stop(struct fan_broker *broker, int64_t deadline_ns)
{
    struct fan__dispatch *dispatch = broker->dispatch;
    fan__mutex_lock(&dispatch->mutex);
    bool threads = dispatch->started;
    dispatch->stopping = true;
    dispatch->deadline_ns = deadline_ns;
    dispatch->last_round = threads && deadline_ns > fan__deadline_ns(0);
    fan__waker_ring(&dispatch->work_waker);
    fan__waker_ring(&dispatch->live_waker);
    fan__cond_signal(&dispatch->look_wake);
    fan__mutex_unlock(&dispatch->mutex);
    /* Who starts threads just now is waited for; later ones see the stop. */
    fan__mutex_lock(&dispatch->threads_mutex);
    fan__mutex_unlock(&dispatch->threads_mutex);

    fan__thread_join(&dispatch->work);
    fan__mutex_lock(&dispatch->mutex);
    dispatch->cut = dispatch->over = true;
    fan__cond_broadcast(&dispatch->ready);
    fan__waker_ring(&dispatch->live_waker);
    if (!threads) {
        for (struct fan_handler *handler = dispatch->first; handler; handler = handler->next)
            fan__tasks_hand_back(dispatch, handler);
        fan__work_drop(dispatch);
    }
    bool busy = dispatch->calls != NULL;
    size_t abandoned = dispatch->abandoned;
    fan__mutex_unlock(&dispatch->mutex);
    fan__thread_join(&dispatch->look);
    if (!busy)
        join_callers(dispatch);

    fan__mutex_lock(&dispatch->mutex);
    empty_queue(dispatch);
    fan__cond_broadcast(&dispatch->reported);
    fan__cond_broadcast(&dispatch->changed);
    fan__mutex_unlock(&dispatch->mutex);
    return abandoned;
}

bool fan__dispatch_is_busy(struct fan_broker *broker)
{
    struct fan__dispatch *dispatch = broker->dispatch;
    fan__mutex_lock(&dispatch->mutex);
    bool busy = dispatch->calls != NULL;
    fan__mutex_unlock(&dispatch->mutex);
    return busy;
}

void fan__dispatch_stats(struct fan_broker *broker, struct fan_broker_stats *stats)
{
    struct fan__dispatch *dispatch = broker->dispatch;
    fan__mutex_lock(&dispatch->mutex);
    stats->handled = dispatch->stats.handled;
    stats->handlers = dispatch->stats.handlers;
    stats->workers = dispatch->worker_count;
    stats->workers_active = dispatch->active;
    stats->work_queued = dispatch->queued;
    stats->retried = dispatch->stats.retried;
    stats->dead = dispatch->stats.dead;
    stats->late = dispatch->stats.late;
    stats->lost = dispatch->stats.lost;
    stats->processed = dispatch->stats.processed;
    stats->failed = dispatch->stats.failed;
    stats->subscriptions = stats->readers;
    for (const struct fan_handler *handler = dispatch->first; handler; handler = handler->next)
        stats->subscriptions += handler->group && !handler->removed;
    stats->unhandled = dispatch->stats.unhandled;
    fan__mutex_unlock(&dispatch->mutex);
}

void fan__count_processed(struct fan_broker_stats *stats, enum fan_processed_status status)
{
    stats->processed++;
    stats->retried += status == FAN_PROCESSED_RETRIED;
    stats->failed += status == FAN_PROCESSED_FAILED;
}

void fan__dispatch_count(struct fan_broker *broker, enum fan_processed_status status)
{
    struct fan__dispatch *dispatch = broker->dispatch;
    fan__mutex_lock(&dispatch->mutex);
    if (status == 0)
        dispatch->stats.lost++;
    else
        fan__count_processed(&dispatch->stats, status);
    dispatch->stats.dead += status == FAN_PROCESSED_FAILED;
    fan__mutex_unlock(&dispatch->mutex);
}
