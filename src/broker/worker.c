/*
 * Workers: take an item (an event with this process's handlers of it) off the queue, call the
 * handlers one after the other, and say how it ended.
 */
#include "broker/dispatch.h"

#include "base/env.h"

#include <fanfare/cancel.h>

#include <stdio.h>

/* What a handler said of an attempt. */
static void judge(struct fan__dispatch *dispatch, struct fan__task *task, enum fan_verdict verdict,
                  const struct fan_error *error)
{
    char other[FAN__WORDS_SIZE];
    const char *words = *error->message ? error->message : NULL;
    switch (verdict) {
    case FAN_VERDICT_DONE:
        fan__task_end(dispatch, task, verdict, NULL);
        return;
    case FAN_VERDICT_RETRY:
    case FAN_VERDICT_HAND_BACK:
        /* At the deadline of a stop it was told to give up. */
        if (dispatch->cut)
            fan__task_end(dispatch, task, FAN_VERDICT_HAND_BACK, NULL);
        else
            fan__task_retry(dispatch, task, words ? words : "the handler asked for a retry");
        return;
    case FAN_VERDICT_FAIL:
        break;
    default:
        snprintf(other, sizeof(other), "the handler gave %d, which is no verdict", (int)verdict);
        words = other;
    }
    task->reason = FAN_DEAD_FAILED;
    fan__task_end(dispatch, task, FAN_VERDICT_FAIL, words ? words : "the handler failed it");
}

static void begin(struct fan__dispatch *dispatch, struct fan__task *task, int64_t now_ns)
{
    struct fan_handler *handler = task->handler;
    task->begun = true;
    task->begun_ns = now_ns;
    dispatch->queued--;
    dispatch->active++;
    if (now_ns - task->claimed_ns > handler->waited_ns)
        handler->waited_ns = now_ns - task->claimed_ns;
    if (task == dispatch->suspect) {
        dispatch->suspect_ns = now_ns + dispatch->alone_ns;
        fan__waker_ring(&dispatch->work_waker);
    }
}

static void call(struct fan__dispatch *dispatch, struct fan__task *task, struct fan_cancel *cancel,
                 int64_t now_ns)
{
    struct fan_handler *handler = task->handler;
    begin(dispatch, task, now_ns);
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_handling handling = {
        .size = sizeof(handling),
        .group = handler->group,
        .handler = handler->name,
        .attempt = task->attempt,
        .lapses = task->lapses,
        .cancel = cancel,
        .error = &error,
    };
    struct fan__call call = {
        .handler = handler,
        .task = task,
        .cancel = cancel,
        .limit_ns =
            handler->timeout_ms ? now_ns + handler->timeout_ms * FAN__NS_PER_MS : FAN__FOREVER,
    };
    if (call.limit_ns < dispatch->wake_ns)
        fan__waker_ring(&dispatch->work_waker);
    enum fan_verdict verdict = fan__call(dispatch, &call, task->event, &handling);
    dispatch->active--;
    dispatch->stuck -= call.stuck;
    if (call.limit_ns != FAN__FOREVER && !task->ended &&
        fan__dispatch_now_ns(dispatch) >= call.limit_ns)
        fan__task_overran(dispatch, task);
    if (task->ended)
        dispatch->stats.late++;
    else
        judge(dispatch, task, verdict, &error);
    if (task->admitted) {
        handler->admitted--;
        fan__task_admit(dispatch, handler);
    }
    fan__tasks_unpark(dispatch, &call);
    if (dispatch->suspect && dispatch->active == 0)
        fan__cond_broadcast(&dispatch->ready);
}

/* A token that has not fired, for the next call; false without memory. */
static bool refresh(const struct fan__dispatch *dispatch, struct fan_cancel **cancel)
{
    struct fan_cancel *fresh;
    if (!fan_cancel_fired(*cancel))
        return true;
    if (fan_cancel_new(dispatch->broker->env, &fresh) != FAN_OK)
        return false;
    fan_cancel_unref(*cancel);
    *cancel = fresh;
    return true;
}

/* An event's handlers in their order (H08): behind one that cannot be called, none is. */
static void run(struct fan__dispatch *dispatch, struct fan__task *task, struct fan_cancel **cancel)
{
    bool go_on = true;
    while (task) {
        int64_t now_ns = fan__dispatch_now_ns(dispatch);
        /* Another may have what was not begun before the end of its lease. */
        go_on = go_on && task->until_ns > now_ns && refresh(dispatch, cancel);
        if (!go_on)
            fan__task_end(dispatch, task, FAN_VERDICT_HAND_BACK, NULL);
        if (!task->ended)
            call(dispatch, task, *cancel, now_ns);
        struct fan__task *sibling = task->sibling;
        fan__task_run_over(task);
        task = sibling;
    }
}

/* Other suspects must be back in the store by then, or a death would be on their account, too. */
static bool may_begin(const struct fan__dispatch *dispatch, const struct fan__task *suspect)
{
    return !suspect->begun && dispatch->suspect_count == 1 &&
           (dispatch->active == 0 || dispatch->suspect_forced);
}

bool fan__work_one(struct fan__dispatch *dispatch, struct fan_cancel **cancel)
{
    struct fan__task *task = dispatch->suspect;
    if (!task)
        task = fan__task_pop(&dispatch->queue);
    else if (!may_begin(dispatch, task))
        return false;
    if (!task)
        return false;
    if (dispatch->queue.first && dispatch->idle > 0)
        fan__cond_signal(&dispatch->ready);
    run(dispatch, task, cancel);
    return true;
}

void fan__worker_main(void *context)
{
    struct fan__worker *worker = context;
    struct fan__dispatch *dispatch = worker->dispatch;
    fan__mutex_lock(&dispatch->mutex);
    while (!dispatch->over) {
        if (fan__work_one(dispatch, &worker->cancel))
            continue;
        dispatch->idle++;
        fan__cond_wait(&dispatch->ready, &dispatch->mutex);
        dispatch->idle--;
    }
    fan__mutex_unlock(&dispatch->mutex);
}
