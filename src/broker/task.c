/* A claimed delivery from its claim to its outcome: lists, and who frees it. */
#include "broker/dispatch.h"

#include "base/env.h"

#include <fanfare/cancel.h>

#include <inttypes.h>
#include <stdio.h>

void fan__task_list_init(struct fan__task_list *list)
{
    *list = (struct fan__task_list){ .last = &list->first };
}

void fan__task_push(struct fan__task_list *list, struct fan__task *task)
{
    task->next = NULL;
    *list->last = task;
    list->last = &task->next;
}

struct fan__task *fan__task_pop(struct fan__task_list *list)
{
    struct fan__task *task = list->first;
    if (!task)
        return NULL;
    list->first = task->next;
    if (!list->first)
        list->last = &list->first;
    task->next = NULL;
    return task;
}

void fan__task_free(struct fan__task *task)
{
    const struct fan_env *env = task->env;
    fan_event_free(task->event, env);
    fan__free(env, task);
}

void fan__task_queue(struct fan__dispatch *dispatch, struct fan__task *task)
{
    /* Who takes from a queue that holds more wakes the next one. */
    if (!dispatch->queue.first && dispatch->idle > 0)
        fan__cond_signal(&dispatch->ready);
    fan__task_push(&dispatch->queue, task);
}

void fan__task_admit(struct fan__dispatch *dispatch, struct fan_handler *handler)
{
    while (handler->waiting.first && handler->admitted < handler->concurrency) {
        struct fan__task *task = fan__task_pop(&handler->waiting);
        task->admitted = true;
        handler->admitted++;
        fan__task_queue(dispatch, task);
    }
}

bool fan__suspect_may_come(const struct fan__dispatch *dispatch, int64_t now_ns)
{
    bool idle = dispatch->claimed == 0 && dispatch->turn > dispatch->rest_turn;
    return !dispatch->suspect && (dispatch->stepped || idle || dispatch->rest_ns <= now_ns);
}

void fan__suspect_leave(struct fan__dispatch *dispatch, const struct fan__task *task)
{
    if (dispatch->suspect != task)
        return;
    int64_t now_ns = fan__dispatch_now_ns(dispatch);
    dispatch->suspect = NULL;
    dispatch->rest_ns = now_ns + FAN__REST_FACTOR * (now_ns - dispatch->suspect_since_ns);
    dispatch->rest_turn = dispatch->turn + 1;
    fan__cond_broadcast(&dispatch->ready);
    fan__waker_ring(&dispatch->work_waker);
}

static void leave_park(struct fan__task *task)
{
    task->handler->parked -= task->parked;
    task->parked = false;
}

void fan__task_end(struct fan__dispatch *dispatch, struct fan__task *task, enum fan_verdict verdict,
                   const char *words)
{
    struct fan_handler *handler = task->handler;
    if (task->ended)
        return;
    task->ended = true;
    task->verdict = verdict;
    if (task->begun)
        task->duration_ns = fan__dispatch_now_ns(dispatch) - task->begun_ns;
    snprintf(task->words, sizeof(task->words), "%s", words ? words : "");
    leave_park(task);
    if (!task->begun) {
        dispatch->queued--;
        if (task->admitted) {
            task->admitted = false;
            handler->admitted--;
            fan__task_admit(dispatch, handler);
        }
    }
    if (task == dispatch->suspect && !task->begun)
        task->run_over = true;
    fan__suspect_leave(dispatch, task);
    task->next_end = NULL;
    *handler->ended_last = task;
    handler->ended_last = &task->next_end;
    fan__waker_ring(&dispatch->work_waker);
}

void fan__task_retry(struct fan__dispatch *dispatch, struct fan__task *task, const char *words)
{
    const struct fan_retry_policy *policy = &task->handler->retry;
    /* What ended with its holder was no attempt that the handler answered. */
    unsigned asked = task->attempt > task->lapses ? task->attempt - task->lapses : 1;
    if (asked > policy->retries) {
        task->reason = FAN_DEAD_RETRIES;
        fan__task_end(dispatch, task, FAN_VERDICT_FAIL, words);
        return;
    }
    uint32_t random = 0;
    if (policy->jitter_percent > 0)
        fan__random(task->env, &random, sizeof(random));
    task->delay_ms = fan__retry_delay_ms(policy, asked, random);
    fan__task_end(dispatch, task, FAN_VERDICT_RETRY, words);
}

void fan__task_run_over(struct fan__task *task)
{
    task->run_over = true;
    if (task->settled)
        fan__task_free(task);
}

void fan__task_acquit(struct fan__dispatch *dispatch, struct fan__task *task)
{
    if (task->suspected && --dispatch->suspect_count == 1)
        fan__cond_broadcast(&dispatch->ready);
    task->suspected = false;
}

void fan__task_settled(struct fan__dispatch *dispatch, struct fan__task *task)
{
    struct fan_handler *handler = task->handler;
    *(task->older ? &task->older->newer : &handler->oldest) = task->newer;
    *(task->newer ? &task->newer->older : &handler->newest) = task->older;
    handler->held--;
    dispatch->claimed--;
    fan__task_acquit(dispatch, task);
    dispatch->claimed_size -= fan_event_size(task->event);
    task->settled = true;
    if (task->run_over)
        fan__task_free(task);
}

static void hand_back(struct fan__dispatch *dispatch, struct fan_handler *handler)
{
    struct fan__task *task;
    while ((task = fan__task_pop(&handler->waiting))) {
        fan__task_end(dispatch, task, FAN_VERDICT_HAND_BACK, NULL);
        fan__task_run_over(task);
    }
    for (task = handler->oldest; task; task = task->newer)
        if (!task->begun)
            fan__task_end(dispatch, task, FAN_VERDICT_HAND_BACK, NULL);
}

void fan__tasks_hand_back(struct fan__dispatch *dispatch, struct fan_handler *handler)
{
    if (handler->group)
        hand_back(dispatch, handler);
}

bool fan__task_park(struct fan__dispatch *dispatch, struct fan__task *task)
{
    if (dispatch->stuck == 0 || task->lapses >= FAN__LAPSES_MAX)
        return false;
    struct fan__call *call = dispatch->calls;
    while (call && (call->handler != task->handler || !call->task || call->task->seq != task->seq))
        call = call->next;
    if (!call)
        return false;
    /* Among suspects it would be waited for: it counts as one that runs for too long. */
    fan__task_acquit(dispatch, task);
    task->parked = true;
    task->handler->parked++;
    task->next = call->after;
    call->after = task;
    return true;
}

void fan__tasks_unpark(struct fan__dispatch *dispatch, struct fan__call *call)
{
    struct fan_handler *handler = call->handler;
    while (call->after) {
        struct fan__task *task = call->after;
        call->after = task->next;
        if (task->ended) {
            fan__task_run_over(task);
            continue;
        }
        leave_park(task);
        /* What is to run alone comes again, in its turn among suspects. */
        if (task->lapses == FAN__LAPSES_MAX - 1) {
            handler->cautious = true;
            fan__task_end(dispatch, task, FAN_VERDICT_HAND_BACK, NULL);
            fan__task_run_over(task);
            continue;
        }
        if (handler->concurrency > 0)
            fan__task_push(&handler->waiting, task);
        else
            fan__task_queue(dispatch, task);
    }
    fan__task_admit(dispatch, handler);
}

/* Says so once for each call, before all workers are in such. */
static void note_stuck(struct fan__dispatch *dispatch, struct fan__call *call)
{
    const struct fan_handler *handler = call->handler;
    call->stuck = true;
    dispatch->stuck++;
    fan__log(dispatch->broker->env, FAN_LOG_WARNING,
             "group \"%s\", handler \"%s\": no verdict on event %s (sequence %" PRIu64
             ") within %u ms, and the call goes on; %u of %u workers are held by calls past their "
             "time limit",
             handler->group, handler->name, fan_event_id(call->task->event), call->task->seq,
             handler->timeout_ms, dispatch->stuck, dispatch->worker_count);
}

int64_t fan__tasks_check_limits(struct fan__dispatch *dispatch)
{
    int64_t now_ns = fan__dispatch_now_ns(dispatch);
    int64_t next_ns = FAN__FOREVER;
    for (struct fan__call *call = dispatch->calls; call; call = call->next) {
        struct fan__task *task = call->task;
        if (!task || task->ended || call->limit_ns == FAN__FOREVER)
            continue;
        if (call->limit_ns > now_ns) {
            next_ns = call->limit_ns < next_ns ? call->limit_ns : next_ns;
            continue;
        }
        note_stuck(dispatch, call);
        fan__task_overran(dispatch, task);
        fan_cancel_fire(call->cancel);
        /* The event's other handlers need not wait for this one. */
        struct fan__task *rest = task->sibling;
        task->sibling = NULL;
        if (rest)
            fan__task_queue(dispatch, rest);
    }
    return next_ns;
}

void fan__task_overran(struct fan__dispatch *dispatch, struct fan__task *task)
{
    char words[FAN__WORDS_SIZE];
    snprintf(words, sizeof(words), "no verdict within %u ms", task->handler->timeout_ms);
    fan__task_retry(dispatch, task, words);
}
