/*
 * The thread that claims, renews and settles, alone for all durable handlers of a broker.
 *
 * A round: what has ended is settled, what is held for long is renewed, and where there is room,
 * due deliveries are claimed. Outcomes that come in the meantime gather, and share the next commit.
 * It sleeps until a bell rings (a new event), a worker says how something ended, or the clock says
 * that something may be due; what other processes retried or dropped is found by looking now and
 * then.
 */
#include "broker/dispatch.h"

#include "base/env.h"

#include <fanfare/bus.h>
#include <fanfare/cancel.h>

/*
 * What is claimed and not settled holds no more bytes than this and one claim; and above it one
 * event of each handler, so that the large ones of some do not hold up the others.
 */
#define CLAIMED_SIZE_MAX ((size_t)64 << 20)

static void earlier(int64_t *wake_ns, int64_t at_ns)
{
    if (at_ns < *wake_ns)
        *wake_ns = at_ns;
}

/* New events make a handler's bell ready, which is then remembered here. */
static void hear_bells(struct fan__dispatch *dispatch, uint64_t told_seq)
{
    for (struct fan_handler *handler = dispatch->first; handler; handler = handler->next) {
        if (!handler->group)
            continue;
        const struct fan_message *message;
        enum fan_status status = fan_subscription_next(handler->bell, 0, &message);
        while (status == FAN_OK || status == FAN_GAP) {
            handler->rung = true;
            status = fan_subscription_next(handler->bell, 0, &message);
        }
        if (!handler->rung && !handler->more && told_seq > handler->passed_seq)
            handler->passed_seq = told_seq;
    }
}

/* How many deliveries a handler may claim now; 0 while that is not worth a call. */
static size_t room_of(const struct fan__dispatch *dispatch, const struct fan_handler *handler)
{
    if (dispatch->suspect)
        return 0;
    /* What waits for an earlier call may do so for long, and takes no room from the others. */
    size_t held = handler->held - handler->parked;
    if (dispatch->claimed_size >= CLAIMED_SIZE_MAX)
        return held == 0 ? 1 : 0;
    size_t count = dispatch->durable_count;
    size_t share = dispatch->queue_count_max / (count > 0 ? count : 1);
    if (!dispatch->last_round && share > handler->window)
        share = handler->window;
    if (share == 0)
        share = 1;
    if (held > share / 2)
        return 0;
    return dispatch->stepped ? 1 : share - held;
}

static bool wants_claim(const struct fan__dispatch *dispatch, const struct fan_handler *handler,
                        int64_t now_ns)
{
    if (dispatch->stopping)
        return dispatch->last_round;
    return handler->rung || handler->more || handler->look_ns <= now_ns ||
           (handler->cautious && fan__suspect_may_come(dispatch, now_ns));
}

/* What a handler is to be woken for. */
static int64_t wake_of(const struct fan__dispatch *dispatch, const struct fan_handler *handler)
{
    int64_t wake_ns = handler->renew_ns;
    if (handler->ended)
        earlier(&wake_ns, handler->gone ? 0 : handler->not_before_ns);
    if (!dispatch->stopping && !handler->removed && room_of(dispatch, handler) > 0) {
        int64_t look_ns = handler->rung || handler->more ? 0 : handler->look_ns;
        if (handler->cautious)
            earlier(&look_ns, dispatch->claimed == 0 ? 0 : dispatch->rest_ns);
        earlier(&wake_ns, look_ns > handler->not_before_ns ? look_ns : handler->not_before_ns);
    }
    return wake_ns;
}

/* One handler's part of a round; without the lock. */
static bool serve(struct fan__dispatch *dispatch, struct fan_handler *handler, uint64_t told_seq)
{
    int64_t now_ns = fan__dispatch_now_ns(dispatch);
    fan__mutex_lock(&dispatch->mutex);
    bool may = handler->not_before_ns <= now_ns || dispatch->cut;
    bool gone = handler->gone;
    bool renew = handler->renew_ns <= now_ns;
    fan__mutex_unlock(&dispatch->mutex);
    bool worked = (may || gone) && fan__settle(dispatch, handler);
    if (renew)
        fan__renew(dispatch, handler);
    fan__mutex_lock(&dispatch->mutex);
    may = may && !handler->removed && !dispatch->cut && wants_claim(dispatch, handler, now_ns);
    size_t room = may ? room_of(dispatch, handler) : 0;
    if (room > 0)
        handler->rung = handler->more = false;
    fan__mutex_unlock(&dispatch->mutex);
    if (room > 0)
        worked |= fan__claim(dispatch, handler, room, told_seq);
    return worked;
}

/* The next handler that this round has not seen. */
static struct fan_handler *next_of_turn(const struct fan__dispatch *dispatch)
{
    struct fan_handler *handler = dispatch->first;
    while (handler && (!handler->group || handler->turn == dispatch->turn))
        handler = handler->next;
    return handler;
}

static bool round_of(struct fan__dispatch *dispatch)
{
    bool worked = false;
    fan__mutex_unlock(&dispatch->mutex);
    uint64_t told_seq = fan__broker_told_seq(dispatch->broker);
    fan__mutex_lock(&dispatch->mutex);
    hear_bells(dispatch, told_seq);
    dispatch->turn++;
    struct fan_handler *handler;
    while ((handler = next_of_turn(dispatch))) {
        handler->turn = dispatch->turn;
        handler->pinned = true;
        fan__mutex_unlock(&dispatch->mutex);
        worked |= serve(dispatch, handler, told_seq);
        fan__mutex_lock(&dispatch->mutex);
        /* The list may be another by now. */
        fan__handler_unpin(dispatch, handler);
    }
    /* When no more is claimed, nobody passes what is held. */
    fan__held_release(dispatch, dispatch->stopping && !dispatch->last_round);
    return worked;
}

/* What was to run alone begins beside others, or others beside it, when that takes too long. */
static void check_suspect(struct fan__dispatch *dispatch)
{
    if (!dispatch->suspect || dispatch->suspect_ns > fan__dispatch_now_ns(dispatch))
        return;
    if (dispatch->suspect->begun) {
        fan__task_acquit(dispatch, dispatch->suspect);
        fan__suspect_leave(dispatch, dispatch->suspect);
        return;
    }
    dispatch->suspect_forced = true;
    dispatch->suspect_ns = FAN__FOREVER;
    fan__cond_broadcast(&dispatch->ready);
}

/*
 * After the grace who still runs is not waited for. Its event is handed back, though it may then
 * run elsewhere beside the call that goes on here: it would do so anyway when the lease is over,
 * which nobody renews after the stop, only with a death on its account that was none. What the call
 * says then is dropped.
 */
static void give_up(struct fan__dispatch *dispatch)
{
    dispatch->given_up = true;
    for (struct fan__call *call = dispatch->calls; call; call = call->next) {
        dispatch->abandoned++;
        if (call->task)
            fan__task_end(dispatch, call->task, FAN_VERDICT_HAND_BACK, NULL);
    }
}

/* At the deadline of a stop: who runs is told to give up, what was not begun is handed back. */
static void check_stop(struct fan__dispatch *dispatch)
{
    int64_t now_ns = fan__dispatch_now_ns(dispatch);
    if (dispatch->cut && !dispatch->given_up && now_ns >= dispatch->grace_ns)
        give_up(dispatch);
    if (!dispatch->stopping || dispatch->cut || now_ns < dispatch->deadline_ns)
        return;
    dispatch->cut = true;
    dispatch->grace_ns = now_ns + FAN__GRACE_MS * FAN__NS_PER_MS;
    for (struct fan__call *call = dispatch->calls; call; call = call->next)
        fan_cancel_fire(call->cancel);
    for (struct fan_handler *handler = dispatch->first; handler; handler = handler->next)
        fan__tasks_hand_back(dispatch, handler);
}

static int64_t next_wake(struct fan__dispatch *dispatch)
{
    int64_t wake_ns = fan__tasks_check_limits(dispatch);
    for (const struct fan_handler *handler = dispatch->first; handler; handler = handler->next)
        if (handler->group)
            earlier(&wake_ns, wake_of(dispatch, handler));
    if (dispatch->suspect)
        earlier(&wake_ns, dispatch->suspect_ns);
    if (dispatch->held)
        earlier(&wake_ns, dispatch->held->claimed_ns + FAN__HOLD_MS * FAN__NS_PER_MS);
    if (dispatch->stopping && !dispatch->cut)
        earlier(&wake_ns, dispatch->deadline_ns);
    if (dispatch->cut && !dispatch->given_up)
        earlier(&wake_ns, dispatch->grace_ns);
    return wake_ns;
}

/* Whether a stop has come to its end: nothing is claimed, nobody inside a handler is waited for. */
static bool is_over(const struct fan__dispatch *dispatch)
{
    return dispatch->stopping && !dispatch->last_round && dispatch->claimed == 0 &&
           (dispatch->given_up || (!dispatch->calls && dispatch->live_over));
}

void fan__work_main(void *context)
{
    struct fan__dispatch *dispatch = context;
    fan__mutex_lock(&dispatch->mutex);
    while (!is_over(dispatch)) {
        bool last = dispatch->last_round;
        bool worked = round_of(dispatch);
        if (last)
            dispatch->last_round = false;
        check_suspect(dispatch);
        check_stop(dispatch);
        dispatch->wake_ns = next_wake(dispatch);
        if (worked || last || is_over(dispatch))
            continue;
        fan__waker_sleep(&dispatch->work_waker, &dispatch->mutex, dispatch->wake_ns);
    }
    fan__mutex_unlock(&dispatch->mutex);
}

/* A round of nothing but settling; with the lock. */
static void settle_all(struct fan__dispatch *dispatch)
{
    struct fan_handler *handler;
    dispatch->turn++;
    while ((handler = next_of_turn(dispatch))) {
        handler->turn = dispatch->turn;
        handler->pinned = true;
        fan__mutex_unlock(&dispatch->mutex);
        fan__settle(dispatch, handler);
        fan__mutex_lock(&dispatch->mutex);
        fan__handler_unpin(dispatch, handler);
    }
}

bool fan__work_step(struct fan__dispatch *dispatch)
{
    fan__mutex_lock(&dispatch->mutex);
    for (struct fan_handler *handler = dispatch->first; handler; handler = handler->next)
        handler->more = true;
    bool worked = round_of(dispatch);
    fan__held_release(dispatch, true);
    while (fan__work_one(dispatch, &dispatch->step_cancel))
        worked = true;
    settle_all(dispatch);
    bool look = dispatch->look_ns <= fan__dispatch_now_ns(dispatch);
    fan__mutex_unlock(&dispatch->mutex);
    if (look)
        fan__unhandled_look(dispatch);
    return worked;
}

void fan__work_drop(struct fan__dispatch *dispatch)
{
    while (dispatch->claiming)
        fan__cond_wait(&dispatch->changed, &dispatch->mutex);
    dispatch->claiming = true;
    settle_all(dispatch);
    dispatch->claiming = false;
    fan__cond_broadcast(&dispatch->changed);
}
