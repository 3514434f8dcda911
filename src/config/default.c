/*
 * The one broker of the process.
 *
 *     none -> changing (init, set) -> running -> stopping (shutdown) -> none
 *
 * Who uses the broker is counted, and shutdown frees it only when nobody does: a call that is on
 * its way while another thread shuts down gets its answer (closed, by then), never a freed broker.
 */
#include <fanfare/default.h>

#include "base/env.h"
#include "base/status.h"
#include "base/thread.h"
#include "broker/broker.h"

#include <pthread.h>

enum state { NONE, CHANGING, RUNNING, STOPPING };

struct call {
    void (*run)(void *context);
    void *context;
};

/* broker: NULL while running means that the configuration wants none. owned: not by set. */
static struct {
    pthread_once_t once;
    unsigned generation;
    struct fan__mutex mutex;
    struct fan__cond changed;
    enum state state;
    pthread_t changer;
    struct fan_broker *broker;
    bool owned;
    struct fan_broker *left; /* stopped, and a handler that did not return ran for them */
    unsigned users;
    struct call calls[FAN_DEFAULT_CALL_COUNT_MAX];
    unsigned call_count;
} the = { .once = PTHREAD_ONCE_INIT };

static void begin(void)
{
    the.generation = fan__fork_generation();
    fan__mutex_init(&the.mutex);
    fan__cond_init(&the.changed);
}

/* Locks; not in a fork's child, where the lock may be held by nobody that is there. */
static enum fan_status enter(struct fan_error *error)
{
    pthread_once(&the.once, begin);
    if (fan__fork_generation() != the.generation)
        return fan__fail(error, FAN_FORKED, "", "the default broker stayed in the parent process");
    fan__mutex_lock(&the.mutex);
    return FAN_OK;
}

static void leave(void)
{
    fan__mutex_unlock(&the.mutex);
}

static void end_change(enum state state, struct fan_broker *broker, bool owned)
{
    fan__mutex_lock(&the.mutex);
    the.state = state;
    the.broker = broker;
    the.owned = owned;
    fan__cond_broadcast(&the.changed);
    fan__mutex_unlock(&the.mutex);
}

static enum fan_status begin_change(struct fan_error *error)
{
    enum fan_status status = enter(error);
    if (status != FAN_OK)
        return status;
    if (the.state == NONE) {
        the.state = CHANGING;
        the.changer = pthread_self();
    } else {
        status = fan__fail(error, FAN_EXISTS, "",
                           "there is a default broker already, or it is being changed");
    }
    leave();
    return status;
}

/* *ret_broker stays NULL when the configuration wants none. */
static enum fan_status open_broker(const struct fan_config_options *options,
                                   struct fan_broker **ret_broker, struct fan_error *error)
{
    struct fan_config *config;
    enum fan_status status = fan_config_load(options, &config, error);
    if (status != FAN_OK)
        return status;
    struct fan_config_value enabled = { .size = FAN_CONFIG_VALUE_SIZE };
    status = fan_config_get(config, "event_broker.enabled", &enabled);
    if (status == FAN_OK && enabled.number) {
        struct fan_broker_options broker_options = FAN_BROKER_OPTIONS_INIT;
        broker_options.env = options ? options->env : NULL;
        status = fan_config_open_broker(config, &broker_options, ret_broker, error);
        if (status == FAN_OK && (status = fan_broker_start(*ret_broker)) != FAN_OK)
            (void)fan__fail(error, status, "", "the broker does not start: %s",
                            fan_status_text(status));
    }
    fan_config_free(config);
    return status;
}

enum fan_status fan_default_init(const struct fan_config_options *options,
                                 struct fan_error *ret_error)
{
    enum fan_status status = begin_change(ret_error);
    if (status != FAN_OK)
        return status;
    struct fan_broker *broker = NULL;
    status = open_broker(options, &broker, ret_error);
    if (status != FAN_OK) {
        fan_broker_free(broker);
        end_change(NONE, NULL, false);
        return status;
    }
    end_change(RUNNING, broker, true);
    return FAN_OK;
}

enum fan_status fan_default_set(struct fan_broker *broker, struct fan_error *ret_error)
{
    if (!broker)
        return fan__fail(ret_error, FAN_INVALID, "broker", "must be given");
    enum fan_status status = begin_change(ret_error);
    if (status != FAN_OK)
        return status;
    end_change(RUNNING, broker, false);
    return FAN_OK;
}

/* Takes part in the use of the broker, until release. */
static enum fan_status acquire(struct fan_broker **ret_broker, struct fan_error *error)
{
    enum fan_status status = enter(error);
    if (status != FAN_OK)
        return status;
    if (the.state == NONE || the.state == CHANGING) {
        status =
            fan__fail(error, FAN_MISUSE, "", "there is no default broker before fan_default_init");
    } else if (!the.broker) {
        status = fan__fail(error, FAN_UNAVAILABLE, "event_broker.enabled",
                           "there is no broker: event_broker.enabled is false");
    } else {
        the.users++;
        *ret_broker = the.broker;
    }
    leave();
    return status;
}

static void release(void)
{
    fan__mutex_lock(&the.mutex);
    if (--the.users == 0)
        fan__cond_broadcast(&the.changed);
    fan__mutex_unlock(&the.mutex);
}

enum fan_status fan_default_get(struct fan_broker **ret_broker, struct fan_error *ret_error)
{
    enum fan_status status = acquire(ret_broker, ret_error);
    if (status == FAN_OK)
        release();
    return status;
}

enum fan_status fan_default_publish(const struct fan_event_draft *draft,
                                    struct fan_cursor *ret_cursor, struct fan_error *ret_error)
{
    struct fan_broker *broker = NULL;
    enum fan_status status = acquire(&broker, ret_error);
    if (status != FAN_OK)
        return status;
    status = fan_broker_publish(broker, draft, ret_cursor, ret_error);
    release();
    return status;
}

enum fan_status fan_default_subscribe(const char *pattern, fan_handle handle, void *context,
                                      struct fan_error *ret_error)
{
    struct fan_broker *broker = NULL;
    enum fan_status status = acquire(&broker, ret_error);
    if (status != FAN_OK)
        return status;
    struct fan_handler_options options = {
        .size = FAN_HANDLER_OPTIONS_SIZE, .pattern = pattern, .handle = handle, .context = context
    };
    status = fan_broker_handle(broker, &options, NULL, ret_error);
    release();
    return status;
}

enum fan_status fan_default_on_shutdown(void (*call)(void *context), void *context)
{
    if (!call)
        return FAN_INVALID;
    enum fan_status status = enter(NULL);
    if (status != FAN_OK)
        return status;
    if (the.state != RUNNING)
        status = FAN_MISUSE;
    else if (the.call_count == FAN_DEFAULT_CALL_COUNT_MAX)
        status = FAN_FULL;
    else
        the.calls[the.call_count++] = (struct call){ .run = call, .context = context };
    leave();
    return status;
}

/* Whether this thread runs a handler or call-back of the broker, which shutdown waits for. */
static bool is_inside(struct fan_broker *broker)
{
    if (!broker)
        return false;
    fan__mutex_lock(&broker->mutex);
    bool inside = fan__writer_is_me(broker);
    fan__mutex_unlock(&broker->mutex);
    return inside || fan__dispatch_is_me(broker);
}

/* Waits for its turn to stop. FAN_AGAIN: there is nothing to stop. With the lock held. */
static enum fan_status begin_stop(void)
{
    for (;;) {
        bool mine = (the.state == CHANGING || the.state == STOPPING) &&
                    pthread_equal(the.changer, pthread_self());
        if (mine || is_inside(the.broker))
            return FAN_MISUSE;
        if (the.state == NONE)
            return FAN_AGAIN;
        if (the.state == RUNNING) {
            the.state = STOPPING;
            the.changer = pthread_self();
            return FAN_OK;
        }
        fan__cond_wait(&the.changed, &the.mutex);
    }
}

/* Nobody else changes the calls: registering ended when the stop began. */
static void run_calls(void)
{
    while (the.call_count > 0) {
        struct call *call = &the.calls[--the.call_count];
        call->run(call->context);
    }
}

/* Frees those that were left and that nobody runs for any more. */
static void free_left(void)
{
    fan__mutex_lock(&the.mutex);
    struct fan_broker **link = &the.left;
    while (*link) {
        struct fan_broker *broker = *link;
        if (fan__dispatch_is_busy(broker)) {
            link = &broker->next_left;
            continue;
        }
        *link = broker->next_left;
        fan_broker_free(broker);
    }
    fan__mutex_unlock(&the.mutex);
}

enum fan_status fan_default_shutdown(uint32_t timeout_ms)
{
    enum fan_status status = enter(NULL);
    if (status != FAN_OK)
        return status;
    status = begin_stop();
    struct fan_broker *broker = the.broker;
    leave();
    if (status != FAN_OK && status != FAN_AGAIN)
        return status;
    free_left();
    if (status == FAN_AGAIN)
        return FAN_OK;
    run_calls();
    if (broker)
        status = fan_broker_stop(broker, timeout_ms);
    fan__mutex_lock(&the.mutex);
    while (the.users > 0)
        fan__cond_wait(&the.changed, &the.mutex);
    bool owned = the.owned;
    /* To wait for the handler could be to wait for ever. */
    if (owned && broker && fan__dispatch_is_busy(broker)) {
        broker->next_left = the.left;
        the.left = broker;
        owned = false;
    }
    the.broker = NULL;
    the.state = NONE;
    fan__cond_broadcast(&the.changed);
    fan__mutex_unlock(&the.mutex);
    if (owned)
        fan_broker_free(broker);
    return status;
}
