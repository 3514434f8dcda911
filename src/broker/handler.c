/* Handlers as such: added, called, removed. Live ones are live.c's, durable ones work.c's. */
#include "broker/dispatch.h"

#include "base/adopt.h"
#include "base/env.h"
#include "base/status.h"

#include <fanfare/bus.h>

#include <string.h>

#define NO_DESCRIPTOR "no descriptor left for the handler"

enum fan_verdict fan__call(struct fan__dispatch *dispatch, struct fan__call *call,
                           const struct fan_event *event, const struct fan_handling *handling)
{
    struct fan_handler *handler = call->handler;
    call->thread = pthread_self();
    call->next = dispatch->calls;
    dispatch->calls = call;
    fan__mutex_unlock(&dispatch->mutex);
    const struct fan_metrics *metrics = &dispatch->broker->metrics;
    bool counted = metrics->workers_active && call->task;
    if (counted)
        metrics->workers_active(metrics->context, 1);
    enum fan_verdict verdict = handler->handle(handler->context, event, handling);
    if (counted)
        metrics->workers_active(metrics->context, -1);
    fan__mutex_lock(&dispatch->mutex);
    struct fan__call **link = &dispatch->calls;
    while (*link != call)
        link = &(*link)->next;
    *link = call->next;
    dispatch->stats.handled++;
    if (dispatch->stopping || handler->removed)
        fan__waker_ring(&dispatch->work_waker);
    if (handler->removed)
        fan__cond_broadcast(&dispatch->changed);
    return verdict;
}

bool fan__dispatch_calls_me(const struct fan__dispatch *dispatch, const struct fan_handler *only)
{
    for (const struct fan__call *call = dispatch->calls; call; call = call->next)
        if ((!only || call->handler == only) && pthread_equal(call->thread, pthread_self()))
            return true;
    return false;
}

void fan__handler_release(struct fan_handler *handler)
{
    const struct fan_env *env = handler->broker->env;
    struct fan__dispatch *dispatch = handler->broker->dispatch;
    fan__waker_unwatch(handler->group ? &dispatch->work_waker : &dispatch->live_waker, handler->fd);
    fan_reader_free(handler->reader);
    fan_subscription_free(handler->bell);
    fan__free(env, handler->group);
    fan__free(env, handler->name);
    fan__free(env, handler->pattern);
    fan__free(env, handler->topic);
    fan__free(env, handler);
}

/* Nobody claims, settles, reads or calls for it, and the store knows how all of it ended. */
static bool is_unused(const struct fan__dispatch *dispatch, const struct fan_handler *handler)
{
    if (handler->pinned || handler->held > 0)
        return false;
    for (const struct fan__call *call = dispatch->calls; call; call = call->next)
        if (call->handler == handler)
            return false;
    return true;
}

static void unlink_handler(struct fan__dispatch *dispatch, const struct fan_handler *handler)
{
    struct fan_handler **link = &dispatch->first;
    while (*link != handler)
        link = &(*link)->next;
    *link = handler->next;
}

bool fan__handler_unpin(struct fan__dispatch *dispatch, struct fan_handler *handler)
{
    handler->pinned = false;
    if (!handler->removed)
        return true;
    fan__cond_broadcast(&dispatch->changed);
    if (!handler->kept || !is_unused(dispatch, handler))
        return true;
    unlink_handler(dispatch, handler);
    fan__mutex_unlock(&dispatch->mutex);
    fan__handler_release(handler);
    fan__mutex_lock(&dispatch->mutex);
    return false;
}

static enum fan_status check_options(const struct fan_handler_options *options,
                                     struct fan_error *error)
{
    if (!options->handle)
        return fan__fail(error, FAN_INVALID, "handle", "must be a function");
    if (options->group)
        return FAN_OK;
    const char *field = options->name          ? "name"
                        : options->retry       ? "retry"
                        : options->timeout_ms  ? "timeout_ms"
                        : options->ordered     ? "ordered"
                        : options->concurrency ? "concurrency"
                                               : NULL;
    if (field)
        return fan__fail(error, FAN_INVALID, field, "is for handlers of a group");
    return FAN_OK;
}

static enum fan_status attach_live(struct fan_handler *handler, struct fan_error *error)
{
    struct fan_reader_options options = {
        .size = FAN_READER_OPTIONS_SIZE,
        .topic = handler->topic,
        .pattern = handler->pattern,
    };
    enum fan_status status =
        fan_broker_subscribe(handler->broker, &options, &handler->reader, error);
    if (status != FAN_OK)
        return status;
    status = fan_reader_fd(handler->reader, &handler->fd);
    return status == FAN_OK ? status : fan__fail(error, status, "", NO_DESCRIPTOR);
}

/* The bell is there before the place, so that no event falls between them. */
static enum fan_status attach_durable(struct fan_handler *handler,
                                      const struct fan_handler_options *options,
                                      struct fan_error *error)
{
    struct fan_broker *broker = handler->broker;
    struct fan_subscription_options bell = {
        .size = FAN_SUBSCRIPTION_OPTIONS_SIZE,
        .topic = options->topic,
        .pattern = options->pattern,
        .policy = FAN_POLICY_DROP_NEWEST,
        .buffer_count = 1,
    };
    struct fan_group_options group = {
        .size = FAN_GROUP_OPTIONS_SIZE,
        .pattern = options->pattern,
        .topic = options->topic,
        .start = options->start,
        .start_seq = options->start_seq,
    };
    struct fan_group_name name = { handler->group, handler->name };
    enum fan_status status = fan_bus_subscribe(broker->bus, &bell, &handler->bell, error);
    if (status != FAN_OK)
        return status;
    status = fan_group_create(broker->store, &name, &group, error);
    if (status != FAN_OK && status != FAN_EXISTS)
        return status;
    status = fan_subscription_fd(handler->bell, &handler->fd);
    return status == FAN_OK ? status : fan__fail(error, status, "", NO_DESCRIPTOR);
}

static bool same_place(const struct fan_handler *a, const struct fan_handler *b)
{
    return a->group && b->group && strcmp(a->group, b->group) == 0 && strcmp(a->name, b->name) == 0;
}

/* Lets the threads see it, unless the broker stops or has one for that place. */
static enum fan_status enlist(struct fan__dispatch *dispatch, struct fan_handler *handler,
                              struct fan_error *error)
{
    struct fan__waker *waker = handler->group ? &dispatch->work_waker : &dispatch->live_waker;
    enum fan_status status = FAN_OK;
    fan__mutex_lock(&dispatch->mutex);
    struct fan_handler **last = &dispatch->first;
    for (; *last; last = &(*last)->next)
        if (same_place(*last, handler) && !(*last)->removed)
            status = FAN_EXISTS;
    if (dispatch->stopping)
        status = FAN_CLOSED;
    if (status == FAN_OK)
        status = fan__waker_watch(waker, handler->fd);
    if (status == FAN_OK) {
        handler->order = ++dispatch->order;
        dispatch->stats.handlers++;
        dispatch->durable_count += handler->group != NULL;
        *last = handler;
        fan__waker_ring(waker);
    }
    fan__mutex_unlock(&dispatch->mutex);
    if (status == FAN_EXISTS)
        return fan__fail(error, status, "group", "%s is handled by this broker already",
                         handler->group);
    return status == FAN_OK ? status : fan__fail(error, status, "", "%s", fan_status_text(status));
}

static bool keep(const struct fan_env *env, const char *text, char **ret_copy)
{
    *ret_copy = text ? fan__strdup(env, text) : NULL;
    return !text || *ret_copy;
}

static enum fan_status handler_new(struct fan_broker *broker,
                                   const struct fan_handler_options *options,
                                   struct fan_handler **ret_handler, struct fan_error *error)
{
    struct fan__dispatch *dispatch = broker->dispatch;
    struct fan_retry_policy retry = dispatch->retry;
    enum fan_status status = FAN_OK;
    if (options->retry)
        status = fan__retry_policy(options->retry, &retry, error);
    if (status != FAN_OK)
        return status;
    struct fan_handler *handler = fan__alloc_zero(broker->env, 1, sizeof(*handler));
    if (!handler)
        return fan__fail(error, FAN_NO_MEMORY, "", "out of memory");
    *ret_handler = handler;
    handler->broker = broker;
    handler->fd = -1;
    handler->handle = options->handle;
    handler->context = options->context;
    handler->retry = retry;
    handler->timeout_ms = options->timeout_ms;
    handler->ordered = options->ordered;
    handler->concurrency = options->concurrency;
    handler->more = true;
    handler->renew_ns = FAN__FOREVER;
    handler->window = 2 * (size_t)dispatch->worker_count;
    handler->ended_last = &handler->ended;
    fan__task_list_init(&handler->waiting);
    if (!keep(broker->env, options->group, &handler->group) ||
        !keep(broker->env, options->name ? options->name : "", &handler->name) ||
        !keep(broker->env, options->pattern, &handler->pattern) ||
        !keep(broker->env, options->topic, &handler->topic))
        return fan__fail(error, FAN_NO_MEMORY, "", "out of memory");
    return handler->group ? attach_durable(handler, options, error) : attach_live(handler, error);
}

enum fan_status fan_broker_handle(struct fan_broker *broker,
                                  const struct fan_handler_options *options,
                                  struct fan_handler **ret_handler, struct fan_error *ret_error)
{
    if (fan__fork_generation() != broker->fork_generation)
        return fan__fail(ret_error, FAN_FORKED, "", "%s", fan_status_text(FAN_FORKED));
    struct fan_handler_options adopted;
    if (!fan__adopt(&adopted, sizeof(adopted), options, sizeof(adopted)))
        return fan__fail(ret_error, FAN_INVALID, "size", "must be FAN_HANDLER_OPTIONS_SIZE");
    enum fan_status status = check_options(&adopted, ret_error);
    if (status != FAN_OK)
        return status;
    struct fan_handler *handler = NULL;
    status = handler_new(broker, &adopted, &handler, ret_error);
    if (status == FAN_OK) {
        handler->kept = !ret_handler;
        status = enlist(broker->dispatch, handler, ret_error);
    }
    if (status != FAN_OK) {
        if (handler)
            fan__handler_release(handler);
        return status;
    }
    /* After it is listed: a start that runs just now either sees it there, or is seen here. */
    status = fan__dispatch_want(broker->dispatch, adopted.group != NULL);
    if (status != FAN_OK) {
        fan_handler_free(handler);
        return fan__fail(ret_error, status, "", "no memory for the handlers' threads");
    }
    if (ret_handler)
        *ret_handler = handler;
    return FAN_OK;
}

/* There is no thread that claims: its outcomes are settled here, or given up. */
static void drop(struct fan__dispatch *dispatch, const struct fan_handler *handler)
{
    fan__work_drop(dispatch);
    if (handler->held > 0)
        fan__cond_wait_until(&dispatch->changed, &dispatch->mutex, fan__deadline_ns(FAN__LOOK_MS));
}

void fan_handler_free(struct fan_handler *handler)
{
    if (!handler || fan__fork_generation() != handler->broker->fork_generation)
        return;
    struct fan__dispatch *dispatch = handler->broker->dispatch;
    fan__mutex_lock(&dispatch->mutex);
    handler->removed = true;
    handler->give_up_ns = fan__deadline_ns(FAN__REMOVAL_MS);
    dispatch->stats.handlers--;
    dispatch->durable_count -= handler->group != NULL;
    fan__waiters_forget(dispatch, handler);
    fan__tasks_hand_back(dispatch, handler);
    fan__waker_ring(&dispatch->work_waker);
    /* Within a step there is nobody else to settle what another handler holds. */
    if (fan__dispatch_calls_me(dispatch, dispatch->stepped ? NULL : handler)) {
        /* From within: freed by the thread that claims, or reads, when the call is over. */
        handler->kept = true;
        fan__mutex_unlock(&dispatch->mutex);
        return;
    }
    while (!is_unused(dispatch, handler)) {
        if (handler->held > 0 && (!dispatch->started || dispatch->over) && !dispatch->claiming)
            drop(dispatch, handler);
        else
            fan__cond_wait(&dispatch->changed, &dispatch->mutex);
    }
    unlink_handler(dispatch, handler);
    fan__mutex_unlock(&dispatch->mutex);
    fan__handler_release(handler);
}
