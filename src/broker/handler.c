/*
 * Handlers, called by one thread for all of a broker's (or by fan_broker_step), in turn.
 *
 * A live handler is a reader. A durable one claims from its group in the store; its bell is a
 * subscription that keeps no more than one message, so that a new event is claimed at once, while
 * retries and lapsed leases of others are found by looking every POLL_MS.
 */
#include "broker/broker.h"

#include "base/adopt.h"
#include "base/env.h"
#include "base/status.h"

#include <fanfare/batch.h>
#include <fanfare/bus.h>

#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define CLAIM_LIMIT 32
#define LEASE_MS 30000
/* What was claimed and not begun by then is handed back, far from the end of its lease. */
#define CLAIM_HOLD_MS 10000
#define POLL_MS 200
#define ATTEMPT_COUNT_MAX 4
#define TURN_LIMIT 64
#define NO_DESCRIPTOR "no descriptor left for the handler"

struct fan_handler {
    struct fan_handler *next;
    struct fan_broker *broker;
    struct fan_reader *reader;     /* a live handler's */
    struct fan_subscription *bell; /* a durable one's */
    struct fan_batch *batch;
    char *group;
    char *name;
    fan_handle handle;
    void *context;
    struct fan_gap gap; /* a live one's last loss, not yet told while pending */
    bool gap_pending;
    int fd;        /* of its reader or bell, watched by the dispatcher */
    bool muted;    /* its log cannot be read: its descriptor stays ready, but is not listened to */
    uint64_t turn; /* the last round in which it was called */
    bool removed;  /* freed by the dispatcher, or by who waits for it */
    bool kept;     /* nobody has the pointer: freed with the broker */
};

struct fan__dispatch {
    struct fan__mutex mutex; /* guards what follows, and the handlers' next, turn and removed */
    struct fan__cond done;
    struct fan_handler *first;
    struct fan_handler *running;
    pthread_t running_thread;
    uint64_t turn;
    bool stopping;
    int epoll_fd;
    int wake_fd;
    char owner[64];
    struct fan__thread thread;
};

static void ring(struct fan__dispatch *dispatch)
{
    uint64_t one = 1;
    /* A full counter is rung already. */
    if (write(dispatch->wake_fd, &one, sizeof(one)) < 0)
        return;
}

static enum fan_status watch(struct fan__dispatch *dispatch, int fd)
{
    struct epoll_event event = { .events = EPOLLIN, .data.fd = fd };
    return epoll_ctl(dispatch->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0 ? FAN_OK : FAN_IO;
}

/* A muted handler is asked again every POLL_MS, and when anything else happens. */
static void mute(struct fan__dispatch *dispatch, struct fan_handler *handler, bool muted)
{
    struct epoll_event event = { .events = muted ? 0 : EPOLLIN, .data.fd = handler->fd };
    if (muted != handler->muted &&
        epoll_ctl(dispatch->epoll_fd, EPOLL_CTL_MOD, handler->fd, &event) == 0)
        handler->muted = muted;
}

enum fan_status fan__dispatch_new(struct fan_broker *broker)
{
    struct fan__dispatch *dispatch = fan__alloc_zero(broker->env, 1, sizeof(*dispatch));
    if (!dispatch)
        return FAN_NO_MEMORY;
    unsigned char random[8];
    fan__random(broker->env, random, sizeof(random));
    int at = snprintf(dispatch->owner, sizeof(dispatch->owner), "%ld-", (long)getpid());
    for (size_t i = 0; i < sizeof(random); i++)
        at +=
            snprintf(dispatch->owner + at, sizeof(dispatch->owner) - (size_t)at, "%02x", random[i]);
    fan__mutex_init(&dispatch->mutex);
    fan__cond_init(&dispatch->done);
    dispatch->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    dispatch->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    broker->dispatch = dispatch;
    if (dispatch->epoll_fd < 0 || dispatch->wake_fd < 0)
        return FAN_IO;
    return watch(dispatch, dispatch->wake_fd);
}

static void handler_free(struct fan_handler *handler)
{
    const struct fan_env *env = handler->broker->env;
    /* A fork's child may hold the descriptor open; closing it would then not end the watch. */
    if (handler->fd >= 0)
        epoll_ctl(handler->broker->dispatch->epoll_fd, EPOLL_CTL_DEL, handler->fd, NULL);
    fan_reader_free(handler->reader);
    fan_subscription_free(handler->bell);
    fan_batch_free(handler->batch);
    fan__free(env, handler->group);
    fan__free(env, handler->name);
    fan__free(env, handler);
}

void fan__dispatch_free(struct fan_broker *broker)
{
    struct fan__dispatch *dispatch = broker->dispatch;
    if (!dispatch)
        return;
    while (dispatch->first) {
        struct fan_handler *handler = dispatch->first;
        dispatch->first = handler->next;
        handler_free(handler);
    }
    if (dispatch->epoll_fd >= 0)
        close(dispatch->epoll_fd);
    if (dispatch->wake_fd >= 0)
        close(dispatch->wake_fd);
    fan__cond_deinit(&dispatch->done);
    fan__mutex_deinit(&dispatch->mutex);
    fan__free(broker->env, dispatch);
    broker->dispatch = NULL;
}

static enum fan_verdict call(struct fan_handler *handler, const struct fan_event *event,
                             unsigned attempt, const struct fan_gap *gap)
{
    struct fan_handling handling = {
        .size = sizeof(handling),
        .group = handler->group,
        .handler = handler->name,
        .attempt = attempt,
        .gap = gap,
    };
    enum fan_verdict verdict = handler->handle(handler->context, event, &handling);
    fan__mutex_lock(&handler->broker->mutex);
    handler->broker->stats.handled++;
    fan__mutex_unlock(&handler->broker->mutex);
    return verdict;
}

static bool over(struct fan__dispatch *dispatch, struct fan_handler *handler)
{
    fan__mutex_lock(&dispatch->mutex);
    bool result = handler->removed || dispatch->stopping;
    fan__mutex_unlock(&dispatch->mutex);
    return result;
}

static bool run_live(struct fan__dispatch *dispatch, struct fan_handler *handler, size_t limit)
{
    size_t count = 0;
    enum fan_status status = FAN_OK;
    while (count < limit) {
        const struct fan_event *event;
        status = fan_reader_next(handler->reader, 0, &event);
        if (status == FAN_GAP) {
            fan_reader_gap(handler->reader, &handler->gap);
            handler->gap_pending = true;
            continue;
        }
        if (status != FAN_OK)
            break;
        call(handler, event, 1, handler->gap_pending ? &handler->gap : NULL);
        handler->gap_pending = false;
        count++;
        if (over(dispatch, handler))
            break;
    }
    mute(dispatch, handler, status != FAN_OK && status != FAN_AGAIN);
    return count > 0;
}

static void judge(struct fan_settle *item, enum fan_verdict verdict, unsigned attempt)
{
    item->verdict = verdict;
    if (verdict == FAN_VERDICT_FAIL)
        item->error = "the handler failed it";
    if (verdict != FAN_VERDICT_RETRY)
        return;
    item->error = "the handler asked for a retry";
    item->delay_ms = 1000u << (attempt - 1);
    if (attempt >= ATTEMPT_COUNT_MAX) {
        item->verdict = FAN_VERDICT_FAIL;
        item->error = "the last attempt asked for a retry";
    }
}

static bool run_durable(struct fan__dispatch *dispatch, struct fan_handler *handler, size_t limit)
{
    struct fan_broker *broker = handler->broker;
    const struct fan_message *message;
    enum fan_status status;
    do
        status = fan_subscription_next(handler->bell, 0, &message);
    while (status == FAN_OK || status == FAN_GAP);
    struct fan_group_name name = { handler->group, handler->name };
    struct fan_claim_options options = {
        .size = FAN_CLAIM_OPTIONS_SIZE,
        .owner = dispatch->owner,
        .limit = limit < CLAIM_LIMIT ? limit : CLAIM_LIMIT,
        .lease_ms = LEASE_MS,
    };
    struct fan_claim claims[CLAIM_LIMIT];
    struct fan_settle items[CLAIM_LIMIT];
    status = fan_group_claim(broker->store, &name, &options, handler->batch, claims);
    if (status != FAN_OK) {
        if (status != FAN_AGAIN)
            fan__log(broker->env, FAN_LOG_WARNING, "group %s: cannot claim: %s", handler->group,
                     fan_status_text(status));
        return false;
    }
    size_t count = fan_batch_count(handler->batch);
    int64_t hold_until_ns = fan__deadline_ns(CLAIM_HOLD_MS);
    bool stop = false;
    for (size_t i = 0; i < count; i++) {
        items[i] = (struct fan_settle){ .seq = claims[i].seq,
                                        .token = claims[i].token,
                                        .verdict = FAN_VERDICT_HAND_BACK };
        stop = stop || over(dispatch, handler) || fan__deadline_ns(0) > hold_until_ns;
        if (!stop)
            judge(&items[i],
                  call(handler, fan_batch_event(handler->batch, i), claims[i].attempt, NULL),
                  claims[i].attempt);
    }
    status = fan_group_settle(broker->store, &name, items, count);
    if (status != FAN_OK)
        fan__log(broker->env, FAN_LOG_WARNING, "group %s: cannot settle: %s", handler->group,
                 fan_status_text(status));
    return true;
}

static void unlink_handler(struct fan__dispatch *dispatch, struct fan_handler *handler)
{
    struct fan_handler **link = &dispatch->first;
    while (*link != handler)
        link = &(*link)->next;
    *link = handler->next;
}

/* Calls each handler once in this round; those added meanwhile come along. */
static bool run_round(struct fan__dispatch *dispatch, size_t limit)
{
    bool worked = false;
    fan__mutex_lock(&dispatch->mutex);
    dispatch->turn++;
    struct fan_handler *handler = dispatch->first;
    while (handler && !dispatch->stopping) {
        if (handler->turn == dispatch->turn) {
            handler = handler->next;
            continue;
        }
        handler->turn = dispatch->turn;
        dispatch->running = handler;
        dispatch->running_thread = pthread_self();
        fan__mutex_unlock(&dispatch->mutex);
        worked |= handler->reader ? run_live(dispatch, handler, limit)
                                  : run_durable(dispatch, handler, limit);
        fan__mutex_lock(&dispatch->mutex);
        dispatch->running = NULL;
        if (handler->removed && handler->kept) {
            unlink_handler(dispatch, handler);
            fan__mutex_unlock(&dispatch->mutex);
            handler_free(handler);
            fan__mutex_lock(&dispatch->mutex);
        }
        fan__cond_broadcast(&dispatch->done);
        /* The list may be another by now. */
        handler = dispatch->first;
    }
    fan__mutex_unlock(&dispatch->mutex);
    return worked;
}

static void dispatch_main(void *context)
{
    struct fan__dispatch *dispatch = ((struct fan_broker *)context)->dispatch;
    for (;;) {
        fan__mutex_lock(&dispatch->mutex);
        bool stopping = dispatch->stopping;
        bool polls = false;
        for (struct fan_handler *handler = dispatch->first; handler; handler = handler->next)
            polls |= handler->group || handler->muted;
        fan__mutex_unlock(&dispatch->mutex);
        if (stopping)
            return;
        if (run_round(dispatch, TURN_LIMIT))
            continue;
        struct epoll_event event;
        epoll_wait(dispatch->epoll_fd, &event, 1, polls ? POLL_MS : -1);
        uint64_t rings;
        if (read(dispatch->wake_fd, &rings, sizeof(rings)) < 0)
            continue; /* woken by a handler's own descriptor, or by the clock */
    }
}

enum fan_status fan__dispatch_start(struct fan_broker *broker)
{
    return fan__thread_start(&broker->dispatch->thread, "fan-handlers", dispatch_main, broker);
}

bool fan__dispatch_step(struct fan_broker *broker)
{
    return run_round(broker->dispatch, 1);
}

bool fan__dispatch_is_me(struct fan_broker *broker)
{
    struct fan__dispatch *dispatch = broker->dispatch;
    fan__mutex_lock(&dispatch->mutex);
    bool result = dispatch->running && pthread_equal(dispatch->running_thread, pthread_self());
    fan__mutex_unlock(&dispatch->mutex);
    return result;
}

void fan__dispatch_stop(struct fan_broker *broker)
{
    struct fan__dispatch *dispatch = broker->dispatch;
    fan__mutex_lock(&dispatch->mutex);
    dispatch->stopping = true;
    fan__mutex_unlock(&dispatch->mutex);
    ring(dispatch);
    fan__thread_join(&dispatch->thread);
}

static enum fan_status check_options(const struct fan_handler_options *options,
                                     struct fan_error *error)
{
    if (!options->handle)
        return fan__fail(error, FAN_INVALID, "handle", "must be a function");
    if (options->name && !options->group)
        return fan__fail(error, FAN_INVALID, "name", "is for handlers of a group");
    return FAN_OK;
}

/* The store's half and the bus's half of a handler. */
static enum fan_status attach(struct fan_handler *handler,
                              const struct fan_handler_options *options, int *ret_fd,
                              struct fan_error *error)
{
    struct fan_broker *broker = handler->broker;
    enum fan_status status;
    if (!options->group) {
        struct fan_reader_options live = {
            .size = FAN_READER_OPTIONS_SIZE,
            .topic = options->topic,
            .pattern = options->pattern,
        };
        status = fan_broker_subscribe(broker, &live, &handler->reader, error);
        if (status != FAN_OK)
            return status;
        status = fan_reader_fd(handler->reader, ret_fd);
        return status == FAN_OK ? status : fan__fail(error, status, "", NO_DESCRIPTOR);
    }
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
    if (fan_batch_new(broker->env, &handler->batch) != FAN_OK)
        return fan__fail(error, FAN_NO_MEMORY, "", "out of memory");
    status = fan_bus_subscribe(broker->bus, &bell, &handler->bell, error);
    if (status != FAN_OK)
        return status;
    status = fan_group_create(broker->store, &name, &group, error);
    if (status != FAN_OK && status != FAN_EXISTS)
        return status;
    status = fan_subscription_fd(handler->bell, ret_fd);
    return status == FAN_OK ? status : fan__fail(error, status, "", NO_DESCRIPTOR);
}

static bool same_place(const struct fan_handler *a, const struct fan_handler *b)
{
    return a->group && b->group && strcmp(a->group, b->group) == 0 && strcmp(a->name, b->name) == 0;
}

/* Lets the dispatcher see it, unless the broker stops or has one for that place. */
static enum fan_status enlist(struct fan__dispatch *dispatch, struct fan_handler *handler, int fd,
                              struct fan_error *error)
{
    enum fan_status status = FAN_OK;
    fan__mutex_lock(&dispatch->mutex);
    struct fan_handler **last = &dispatch->first;
    for (; *last; last = &(*last)->next)
        if (same_place(*last, handler) && !(*last)->removed)
            status = FAN_EXISTS;
    if (dispatch->stopping)
        status = FAN_CLOSED;
    handler->fd = fd;
    if (status == FAN_OK)
        status = watch(dispatch, fd);
    if (status == FAN_OK)
        *last = handler;
    fan__mutex_unlock(&dispatch->mutex);
    if (status == FAN_EXISTS)
        return fan__fail(error, status, "group", "%s is handled by this broker already",
                         handler->group);
    return status == FAN_OK ? status : fan__fail(error, status, "", "%s", fan_status_text(status));
}

static enum fan_status keep(const struct fan_env *env, const char *text, char **ret_copy)
{
    *ret_copy = fan__strdup(env, text);
    return *ret_copy ? FAN_OK : FAN_NO_MEMORY;
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
    options = &adopted;
    enum fan_status status = check_options(options, ret_error);
    if (status != FAN_OK)
        return status;
    struct fan_handler *handler = fan__alloc_zero(broker->env, 1, sizeof(*handler));
    if (!handler)
        return fan__fail(ret_error, FAN_NO_MEMORY, "", "out of memory");
    handler->broker = broker;
    handler->fd = -1;
    handler->handle = options->handle;
    handler->context = options->context;
    handler->kept = !ret_handler;
    if (options->group)
        status = keep(broker->env, options->group, &handler->group);
    if (status == FAN_OK)
        status = keep(broker->env, options->name ? options->name : "", &handler->name);
    int fd = -1;
    if (status == FAN_OK)
        status = attach(handler, options, &fd, ret_error);
    else
        fan__fail(ret_error, status, "", "out of memory");
    if (status == FAN_OK)
        status = enlist(broker->dispatch, handler, fd, ret_error);
    if (status != FAN_OK) {
        handler_free(handler);
        return status;
    }
    fan__mutex_lock(&broker->mutex);
    broker->stats.handlers++;
    fan__mutex_unlock(&broker->mutex);
    ring(broker->dispatch);
    if (ret_handler)
        *ret_handler = handler;
    return FAN_OK;
}

void fan_handler_free(struct fan_handler *handler)
{
    if (!handler || fan__fork_generation() != handler->broker->fork_generation)
        return;
    struct fan_broker *broker = handler->broker;
    struct fan__dispatch *dispatch = broker->dispatch;
    fan__mutex_lock(&broker->mutex);
    broker->stats.handlers--;
    fan__mutex_unlock(&broker->mutex);
    fan__mutex_lock(&dispatch->mutex);
    handler->removed = true;
    if (dispatch->running == handler && pthread_equal(dispatch->running_thread, pthread_self())) {
        /* From within: the dispatcher frees it when the call is over. */
        handler->kept = true;
        fan__mutex_unlock(&dispatch->mutex);
        return;
    }
    while (dispatch->running == handler)
        fan__cond_wait(&dispatch->done, &dispatch->mutex);
    unlink_handler(dispatch, handler);
    fan__mutex_unlock(&dispatch->mutex);
    handler_free(handler);
}
