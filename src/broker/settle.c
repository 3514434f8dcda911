/* Outcomes and leases: many deliveries of one handler in one commit. */
#include "broker/dispatch.h"

#include "base/env.h"
#include "broker/metrics.h"

#include <fanfare/batch.h>

#define RENEWALS_PER_LEASE 3

/* Takes ended tasks off the handler's list. */
static size_t take_ended(struct fan__dispatch *dispatch, struct fan_handler *handler)
{
    size_t count = 0;
    for (; handler->ended && count < FAN__SETTLE_LIMIT; count++) {
        struct fan__task *task = handler->ended;
        handler->ended = task->next_end;
        dispatch->settling[count] = task;
        dispatch->settles[count] = (struct fan_settle){
            .seq = task->seq,
            .token = task->token,
            .verdict = task->verdict,
            .delay_ms = task->delay_ms,
            .error = *task->words ? task->words : NULL,
            .reason = task->reason,
        };
    }
    if (!handler->ended)
        handler->ended_last = &handler->ended;
    return count;
}

static void put_back(struct fan__dispatch *dispatch, struct fan_handler *handler, size_t count)
{
    if (!handler->ended)
        handler->ended_last = &dispatch->settling[count - 1]->next_end;
    dispatch->settling[count - 1]->next_end = handler->ended;
    for (size_t i = count - 1; i > 0; i--)
        dispatch->settling[i - 1]->next_end = dispatch->settling[i];
    handler->ended = dispatch->settling[0];
}

static enum fan_processed_status processed_as(enum fan_verdict verdict)
{
    if (verdict == FAN_VERDICT_DONE)
        return FAN_PROCESSED_COMPLETED;
    return verdict == FAN_VERDICT_RETRY ? FAN_PROCESSED_RETRIED : FAN_PROCESSED_FAILED;
}

/* Tells whoever counts; without the lock: outcomes do not change, and the handler is pinned. */
static void tell(struct fan__dispatch *dispatch, const struct fan_handler *handler, size_t count)
{
    for (size_t i = 0; i < count && dispatch->broker->metrics.event_processed; i++) {
        const struct fan__task *task = dispatch->settling[i];
        if (dispatch->settles[i].ret_status != FAN_OK || task->verdict == FAN_VERDICT_HAND_BACK)
            continue;
        bool waited = task->begun_ns > task->claimed_ns;
        struct fan_metrics_processed processed = {
            .size = sizeof(processed),
            .source = fan_event_source(task->event),
            .type = fan_event_type(task->event),
            .group = handler->group,
            .handler = handler->name,
            .status = processed_as(task->verdict),
            .duration_ns = task->duration_ns,
            .waited_ns = waited ? task->begun_ns - task->claimed_ns : -1,
        };
        fan__metrics_processed(dispatch->broker, &processed);
    }
}

/* Counts how one ended, and tells who waits for it. */
static void account(struct fan__dispatch *dispatch, const struct fan__task *task,
                    enum fan_status status)
{
    struct fan_handler *handler = task->handler;
    int64_t due_ns = fan__dispatch_now_ns(dispatch) + task->delay_ms * FAN__NS_PER_MS;
    if (status != FAN_OK)
        dispatch->stats.lost++;
    else if (task->verdict != FAN_VERDICT_HAND_BACK)
        fan__count_processed(&dispatch->stats, processed_as(task->verdict));
    if (status == FAN_OK && task->verdict == FAN_VERDICT_FAIL)
        dispatch->stats.dead++;
    if (task->verdict == FAN_VERDICT_HAND_BACK) {
        handler->more = true;
        return;
    }
    if (task->verdict == FAN_VERDICT_RETRY && due_ns < handler->look_ns)
        handler->look_ns = due_ns;
    /* Of one key the next can be claimed when this one is settled. */
    if (handler->ordered)
        handler->more = true;
    const char *words = task->verdict == FAN_VERDICT_DONE ? NULL : task->words;
    /* Done, but not for the log, which may give it to another. */
    if (!words && status != FAN_OK)
        words = status == FAN_LOST ? "done, but its claim was lost before that was recorded"
                                   : "done, but that was not recorded";
    /* What is only assumed to be recorded is seen by a look into the store, as it is there. */
    if (status != FAN_OK || !task->unsure)
        fan__waiters_report(dispatch, handler, fan_event_id(task->event), task->seq, words);
}

/*
 * Whether to try again: a failed settlement is repeated for as long as its handler is there, and
 * for some time after its removal, but not past the deadline of a stop.
 */
static bool note_failure(struct fan__dispatch *dispatch, struct fan_handler *handler,
                         enum fan_status status)
{
    if (status == FAN_NOT_FOUND) {
        fan__handler_gone(dispatch, handler);
        return false;
    }
    if (!handler->failing)
        fan__log(dispatch->broker->env, FAN_LOG_WARNING, "group %s: cannot settle: %s",
                 handler->group, fan_status_text(status));
    handler->failing = true;
    handler->not_before_ns = fan__dispatch_now_ns(dispatch) + FAN__LOOK_MS * FAN__NS_PER_MS;
    return !dispatch->cut && (!handler->removed || fan__deadline_ns(0) < handler->give_up_ns);
}

/*
 * Where the storage gave no answer, what it had settled is lost to the repeat; it was ours, since
 * nobody else is given the event before its lease is over.
 */
static void take_doubt(struct fan__dispatch *dispatch, size_t count, enum fan_status status)
{
    for (size_t i = 0; i < count; i++) {
        struct fan__task *task = dispatch->settling[i];
        struct fan_settle *settle = &dispatch->settles[i];
        if (status == FAN_UNKNOWN)
            task->unsure = true;
        if (status != FAN_OK)
            continue;
        task->unsure = task->unsure && settle->ret_status == FAN_LOST;
        if (task->unsure)
            settle->ret_status = FAN_OK;
    }
}

bool fan__settle(struct fan__dispatch *dispatch, struct fan_handler *handler)
{
    struct fan_group_name name = { handler->group, handler->name };
    fan__mutex_lock(&dispatch->mutex);
    size_t count = take_ended(dispatch, handler);
    bool gone = handler->gone;
    fan__mutex_unlock(&dispatch->mutex);
    if (count == 0)
        return false;
    enum fan_status status = FAN_NOT_FOUND;
    if (!gone)
        status = fan_group_settle(dispatch->broker->store, &name, dispatch->settles, count);
    take_doubt(dispatch, count, status);
    /* Before those that wait for an outcome have it. */
    if (status == FAN_OK)
        tell(dispatch, handler, count);
    fan__mutex_lock(&dispatch->mutex);
    bool again = status != FAN_OK && note_failure(dispatch, handler, status);
    if (again)
        put_back(dispatch, handler, count);
    for (size_t i = 0; i < count && !again; i++) {
        account(dispatch, dispatch->settling[i],
                status == FAN_OK ? dispatch->settles[i].ret_status : status);
        fan__task_settled(dispatch, dispatch->settling[i]);
    }
    fan__cond_broadcast(&dispatch->changed);
    fan__mutex_unlock(&dispatch->mutex);
    return !again;
}

/* Takes what has used a third of its lease by `by_ns`. */
static size_t take_old(struct fan__dispatch *dispatch, struct fan_handler *handler, int64_t by_ns)
{
    size_t count = 0;
    for (struct fan__task *task = handler->oldest; task && count < FAN__SETTLE_LIMIT;
         task = task->newer) {
        if (task->ended || task->until_ns > by_ns)
            continue;
        dispatch->settling[count] = task;
        dispatch->settles[count++] = (struct fan_settle){ .seq = task->seq, .token = task->token };
    }
    return count;
}

void fan__renew(struct fan__dispatch *dispatch, struct fan_handler *handler)
{
    struct fan_group_name name = { handler->group, handler->name };
    int64_t lease_ns = dispatch->lease_ms * FAN__NS_PER_MS;
    int64_t now_ns = fan__dispatch_now_ns(dispatch);
    int64_t by_ns = now_ns + lease_ns - lease_ns / RENEWALS_PER_LEASE;
    enum fan_status status = FAN_OK;
    size_t count = FAN__SETTLE_LIMIT;
    while (status == FAN_OK && count == FAN__SETTLE_LIMIT) {
        fan__mutex_lock(&dispatch->mutex);
        count = take_old(dispatch, handler, by_ns);
        fan__mutex_unlock(&dispatch->mutex);
        if (count == 0)
            break;
        status = fan_group_renew(dispatch->broker->store, &name, dispatch->settles, count,
                                 dispatch->lease_ms);
        fan__mutex_lock(&dispatch->mutex);
        for (size_t i = 0; i < count && status == FAN_OK; i++) {
            struct fan__task *task = dispatch->settling[i];
            task->until_ns = now_ns + lease_ns;
            /* Who is in the middle of it cannot be stopped; its settlement will tell. */
            if (dispatch->settles[i].ret_status != FAN_OK && !task->begun)
                fan__task_end(dispatch, task, FAN_VERDICT_HAND_BACK, NULL);
        }
        fan__mutex_unlock(&dispatch->mutex);
    }
    fan__mutex_lock(&dispatch->mutex);
    handler->renew_ns = fan__dispatch_now_ns(dispatch) + FAN__LOOK_MS * FAN__NS_PER_MS;
    if (status == FAN_OK)
        handler->renew_ns =
            handler->held > 0 ? now_ns + lease_ns / RENEWALS_PER_LEASE : FAN__FOREVER;
    if (status == FAN_NOT_FOUND) {
        handler->renew_ns = FAN__FOREVER;
        fan__handler_gone(dispatch, handler);
    }
    fan__mutex_unlock(&dispatch->mutex);
}
