/*
 * Live handlers: readers in disguise, called in turn by one thread for all of a broker's, or by
 * fan_broker_step. They are owed nothing; a stop lets them have what lies in front of them.
 */
#include "broker/dispatch.h"

#include "base/env.h"
#include "broker/metrics.h"

#include <fanfare/cancel.h>

#define TURN_LIMIT 64
#define MUTED_MS 200

/* Whether the handler is to be called no more; with the lock. */
static bool is_over(const struct fan__dispatch *dispatch, const struct fan_handler *handler)
{
    return handler->removed || dispatch->cut;
}

/* Counts and tells a verdict, for which it lets go of the lock: the handler is pinned. */
static void account(struct fan__dispatch *dispatch, const struct fan_handler *handler,
                    const struct fan_event *event, enum fan_verdict verdict, int64_t duration_ns)
{
    struct fan_metrics_processed processed = {
        .size = sizeof(processed),
        .source = fan_event_source(event),
        .type = fan_event_type(event),
        .handler = handler->name,
        .status = verdict == FAN_VERDICT_DONE ? FAN_PROCESSED_COMPLETED : FAN_PROCESSED_FAILED,
        .duration_ns = duration_ns,
        .waited_ns = -1,
    };
    fan__count_processed(&dispatch->stats, processed.status);
    fan__mutex_unlock(&dispatch->mutex);
    fan__metrics_processed(dispatch->broker, &processed);
    fan__mutex_lock(&dispatch->mutex);
}

static void call(struct fan__dispatch *dispatch, struct fan_handler *handler,
                 const struct fan_event *event)
{
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_handling handling = {
        .size = sizeof(handling),
        .handler = handler->name,
        .attempt = 1,
        .gap = handler->gap_pending ? &handler->gap : NULL,
        .cancel = dispatch->live_cancel,
        .error = &error,
    };
    struct fan__call call = { .handler = handler,
                              .cancel = dispatch->live_cancel,
                              .limit_ns = FAN__FOREVER };
    int64_t begun_ns = fan__dispatch_now_ns(dispatch);
    enum fan_verdict verdict = fan__call(dispatch, &call, event, &handling);
    account(dispatch, handler, event, verdict, fan__dispatch_now_ns(dispatch) - begun_ns);
    const char *words = *error.message ? error.message : "the handler did not say that it is done";
    fan__waiters_report(dispatch, handler, fan_event_id(event), fan_event_seq(event),
                        verdict == FAN_VERDICT_DONE ? NULL : words);
}

/* A muted handler is asked again every MUTED_MS, and when anything else happens. */
static void mute(struct fan__dispatch *dispatch, struct fan_handler *handler, bool muted)
{
    if (muted != handler->muted && fan__waker_mute(&dispatch->live_waker, handler->fd, muted))
        handler->muted = muted;
}

/* Losses that follow each other with no event between them are told as one. */
static void note_gap(struct fan_handler *handler)
{
    struct fan_gap gap;
    fan_reader_gap(handler->reader, &gap);
    if (handler->gap_pending) {
        bool known =
            gap.count != FAN_GAP_COUNT_UNKNOWN && handler->gap.count != FAN_GAP_COUNT_UNKNOWN;
        gap.count = known ? gap.count + handler->gap.count : FAN_GAP_COUNT_UNKNOWN;
        gap.after = handler->gap.after;
    }
    handler->gap = gap;
    handler->gap_pending = true;
}

/* One handler's turn; with the lock. */
static bool serve(struct fan__dispatch *dispatch, struct fan_handler *handler, size_t limit)
{
    size_t count = 0;
    enum fan_status status = FAN_OK;
    while (count < limit && !is_over(dispatch, handler)) {
        const struct fan_event *event;
        fan__mutex_unlock(&dispatch->mutex);
        status = fan_reader_next(handler->reader, 0, &event);
        fan__mutex_lock(&dispatch->mutex);
        if (status == FAN_GAP) {
            note_gap(handler);
            continue;
        }
        if (status != FAN_OK)
            break;
        call(dispatch, handler, event);
        handler->gap_pending = false;
        count++;
    }
    mute(dispatch, handler, status != FAN_OK && status != FAN_AGAIN);
    return count > 0;
}

bool fan__live_round(struct fan__dispatch *dispatch, size_t limit)
{
    bool worked = false;
    fan__mutex_lock(&dispatch->mutex);
    uint64_t turn = ++dispatch->live_turn;
    for (;;) {
        struct fan_handler *handler = dispatch->first;
        while (handler && (handler->group || handler->turn == turn))
            handler = handler->next;
        if (!handler)
            break;
        handler->turn = turn;
        handler->pinned = true;
        worked |= serve(dispatch, handler, limit);
        /* The list may be another by now. */
        fan__handler_unpin(dispatch, handler);
    }
    fan__mutex_unlock(&dispatch->mutex);
    return worked;
}

void fan__live_main(void *context)
{
    struct fan__dispatch *dispatch = context;
    fan__mutex_lock(&dispatch->mutex);
    for (;;) {
        bool stopping = dispatch->stopping;
        fan__mutex_unlock(&dispatch->mutex);
        bool worked = fan__live_round(dispatch, TURN_LIMIT);
        fan__mutex_lock(&dispatch->mutex);
        if (dispatch->cut || (stopping && !worked))
            break;
        if (worked)
            continue;
        int64_t wake_ns = FAN__FOREVER;
        for (const struct fan_handler *handler = dispatch->first; handler; handler = handler->next)
            if (handler->muted)
                wake_ns = fan__deadline_ns(MUTED_MS);
        fan__waker_sleep(&dispatch->live_waker, &dispatch->mutex, wake_ns);
    }
    dispatch->live_over = true;
    fan__waker_ring(&dispatch->work_waker);
    fan__mutex_unlock(&dispatch->mutex);
}
