/*
 * The registry: a list in the order of adding, walked without a lock during the calls.
 *
 *     walk:  lock - find the next, count it as running - unlock - call - lock - ...
 *
 * Who removes waits until nobody runs it, unless it comes from within a hook: waiting there could
 * be for itself, or for a hook that waits for this one. Which threads are within a hook is told by
 * the frames of the walks, which lie on their stacks.
 */
#include "hook/hook.h"

#include "base/adopt.h"
#include "base/env.h"
#include "base/status.h"
#include "base/thread.h"

#include <string.h>

#define CRUD_ALL (FAN_CRUD_CREATE | FAN_CRUD_READ | FAN_CRUD_UPDATE | FAN_CRUD_DELETE)

/* One walk that is under way. */
struct frame {
    struct frame *next;
    pthread_t thread;
};

struct fan_hooks {
    const struct fan_env *env;
    struct fan__mutex mutex; /* guards everything below, and all of each hook but its constants */
    struct fan__cond idle;   /* a removed hook has nobody left in it */
    struct fan_hook *first;
    struct fan_hook *last;
    struct frame *frames;
    uint64_t numbers;
};

const char *fan_crud_name(enum fan_crud crud)
{
    switch (crud) {
    case FAN_CRUD_CREATE:
        return "create";
    case FAN_CRUD_READ:
        return "read";
    case FAN_CRUD_UPDATE:
        return "update";
    case FAN_CRUD_DELETE:
        return "delete";
    }
    return "";
}

enum fan_status fan_hooks_new(const struct fan_env *env, struct fan_hooks **ret_hooks)
{
    struct fan_hooks *hooks = fan__alloc_zero(env, 1, sizeof(*hooks));
    if (!hooks)
        return FAN_NO_MEMORY;
    hooks->env = env;
    fan__mutex_init(&hooks->mutex);
    fan__cond_init(&hooks->idle);
    *ret_hooks = hooks;
    return FAN_OK;
}

static void hook_free(struct fan_hook *hook)
{
    const struct fan_env *env = hook->hooks->env;
    fan__publisher_unref(hook->publisher);
    fan__free(env, hook->schema);
    fan__free(env, hook->entity);
    fan__free(env, hook);
}

void fan_hooks_free(struct fan_hooks *hooks)
{
    if (!hooks)
        return;
    while (hooks->first) {
        struct fan_hook *hook = hooks->first;
        hooks->first = hook->next;
        hook_free(hook);
    }
    fan__cond_deinit(&hooks->idle);
    fan__mutex_deinit(&hooks->mutex);
    fan__free(hooks->env, hooks);
}

static void unlink_hook(struct fan_hooks *hooks, struct fan_hook *hook)
{
    *(hook->previous ? &hook->previous->next : &hooks->first) = hook->next;
    *(hook->next ? &hook->next->previous : &hooks->last) = hook->previous;
}

static void link_hook(struct fan_hooks *hooks, struct fan_hook *hook)
{
    fan__mutex_lock(&hooks->mutex);
    hook->number = ++hooks->numbers;
    hook->previous = hooks->last;
    *(hooks->last ? &hooks->last->next : &hooks->first) = hook;
    hooks->last = hook;
    fan__mutex_unlock(&hooks->mutex);
}

static enum fan_status keep(const struct fan_env *env, const char *text, char **ret_copy)
{
    if (!text)
        return FAN_OK;
    *ret_copy = fan__strdup(env, text);
    return *ret_copy ? FAN_OK : FAN_NO_MEMORY;
}

static enum fan_status adopt(struct fan_hook_options *adopted,
                             const struct fan_hook_options *options, struct fan_error *error)
{
    if (!fan__adopt(adopted, sizeof(*adopted), options, sizeof(*adopted)))
        return fan__fail(error, FAN_INVALID, "size", "must be FAN_HOOK_OPTIONS_SIZE");
    if (adopted->operations & ~(unsigned)CRUD_ALL)
        return fan__fail(error, FAN_INVALID, "operations", "has bits that are not of fan_crud");
    return FAN_OK;
}

/* `options` are adopted and checked; `publisher` is taken over, also on failure. */
static enum fan_status add(struct fan_hooks *hooks, const struct fan_hook_options *options,
                           struct fan__publisher *publisher, struct fan_hook **ret_hook,
                           struct fan_error *error)
{
    struct fan_hook *hook = fan__alloc_zero(hooks->env, 1, sizeof(*hook));
    if (!hook) {
        fan__publisher_unref(publisher);
        return fan__fail(error, FAN_NO_MEMORY, "", "out of memory");
    }
    hook->hooks = hooks;
    hook->operations = options->operations ? options->operations : CRUD_ALL;
    hook->before = options->before;
    hook->after = options->after;
    hook->context = options->context;
    hook->publisher = publisher;
    if (keep(hooks->env, options->schema, &hook->schema) != FAN_OK ||
        keep(hooks->env, options->entity, &hook->entity) != FAN_OK) {
        hook_free(hook);
        return fan__fail(error, FAN_NO_MEMORY, "", "out of memory");
    }
    link_hook(hooks, hook);
    if (ret_hook)
        *ret_hook = hook;
    return FAN_OK;
}

enum fan_status fan_hooks_add(struct fan_hooks *hooks, const struct fan_hook_options *options,
                              struct fan_hook **ret_hook, struct fan_error *ret_error)
{
    struct fan_hook_options adopted;
    enum fan_status status = adopt(&adopted, options, ret_error);
    if (status != FAN_OK)
        return status;
    if (!adopted.before && !adopted.after)
        return fan__fail(ret_error, FAN_INVALID, "before", "or after must be a function");
    return add(hooks, &adopted, NULL, ret_hook, ret_error);
}

enum fan_status fan_hooks_publish(struct fan_hooks *hooks, struct fan_broker *broker,
                                  const struct fan_hook_options *options,
                                  struct fan_hook **ret_hook, struct fan_error *ret_error)
{
    struct fan_hook_options adopted = { .size = FAN_HOOK_OPTIONS_SIZE };
    enum fan_status status = options ? adopt(&adopted, options, ret_error) : FAN_OK;
    if (status != FAN_OK)
        return status;
    if (adopted.before || adopted.after || adopted.context)
        return fan__fail(ret_error, FAN_INVALID, adopted.before ? "before" : "after",
                         "is not for brokers");
    if (!adopted.operations)
        adopted.operations = CRUD_ALL & ~(unsigned)FAN_CRUD_READ;
    struct fan__publisher *publisher = NULL;
    if (fan__publisher_new(hooks->env, broker, &publisher) != FAN_OK)
        return fan__fail(ret_error, FAN_NO_MEMORY, "", "out of memory");
    adopted.after = fan__publisher_after;
    adopted.context = publisher;
    return add(hooks, &adopted, publisher, ret_hook, ret_error);
}

static bool within(const struct fan_hooks *hooks)
{
    for (const struct frame *frame = hooks->frames; frame; frame = frame->next)
        if (pthread_equal(frame->thread, pthread_self()))
            return true;
    return false;
}

void fan_hook_remove(struct fan_hook *hook)
{
    if (!hook)
        return;
    struct fan_hooks *hooks = hook->hooks;
    fan__mutex_lock(&hooks->mutex);
    hook->removed = true;
    if (hook->running > 0 && within(hooks)) {
        /* The last walk that leaves it frees it. */
        fan__mutex_unlock(&hooks->mutex);
        return;
    }
    hook->running++;
    while (hook->running > 1)
        fan__cond_wait(&hooks->idle, &hooks->mutex);
    unlink_hook(hooks, hook);
    fan__mutex_unlock(&hooks->mutex);
    hook_free(hook);
}

void fan_hook_stats(struct fan_hook *hook, struct fan_hook_stats *ret_stats)
{
    size_t size = ret_stats->size < sizeof(*ret_stats) ? ret_stats->size : sizeof(*ret_stats);
    fan__mutex_lock(&hook->hooks->mutex);
    struct fan_hook_stats stats = hook->stats;
    fan__mutex_unlock(&hook->hooks->mutex);
    if (hook->publisher)
        fan__publisher_stats(hook->publisher, &stats);
    stats.size = size;
    memcpy(ret_stats, &stats, size);
}

static bool wants(const struct fan_hook *hook, const struct fan_operation *operation, bool before)
{
    return !hook->removed && (before ? hook->before != NULL : hook->after != NULL) &&
           hook->operations & (unsigned)operation->crud &&
           (!hook->schema || strcmp(hook->schema, operation->schema) == 0) &&
           (!hook->entity || strcmp(hook->entity, operation->entity) == 0);
}

/* Lets go of a hook after a call; with the lock held. Gives the next in the list. */
static struct fan_hook *leave(struct fan_hooks *hooks, struct fan_hook *hook)
{
    struct fan_hook *next = hook->next;
    hook->running--;
    if (!hook->removed)
        return next;
    if (hook->running > 0) {
        fan__cond_broadcast(&hooks->idle);
        return next;
    }
    unlink_hook(hooks, hook);
    hook_free(hook);
    return next;
}

static enum fan_status call(struct fan_hook *hook, const struct fan_operation *operation,
                            bool before, struct fan_error *error)
{
    if (!before) {
        hook->after(hook->context, operation);
        return FAN_OK;
    }
    *error = (struct fan_error)FAN_ERROR_INIT;
    enum fan_status status = hook->before(hook->context, operation, error);
    if (status != FAN_OK && !*error->message)
        return fan__fail(error, status, error->field, "a hook refused it");
    error->status = status;
    return status;
}

/* Walks the hooks up to the last one that is there now, or to the first that refuses. */
static enum fan_status walk(struct fan_hooks *hooks, const struct fan_operation *operation,
                            bool before, struct fan_error *error)
{
    enum fan_status status = FAN_OK;
    fan__mutex_lock(&hooks->mutex);
    uint64_t end = hooks->numbers;
    struct frame frame = { hooks->frames, pthread_self() };
    hooks->frames = &frame;
    struct fan_hook *hook = hooks->first;
    while (hook && hook->number <= end && status == FAN_OK) {
        if (!wants(hook, operation, before)) {
            hook = hook->next;
            continue;
        }
        hook->running++;
        hook->stats.calls++;
        fan__mutex_unlock(&hooks->mutex);
        status = call(hook, operation, before, error);
        fan__mutex_lock(&hooks->mutex);
        if (status != FAN_OK) {
            hook->stats.refused++;
            hook->stats.refusal = *error;
        }
        hook = leave(hooks, hook);
    }
    struct frame **link = &hooks->frames;
    while (*link != &frame)
        link = &(*link)->next;
    *link = frame.next;
    fan__mutex_unlock(&hooks->mutex);
    return status;
}

static enum fan_status adopt_operation(const struct fan_operation *operation,
                                       struct fan_operation *adopted, struct fan_error *error)
{
    if (!fan__adopt(adopted, sizeof(*adopted), operation, sizeof(*adopted)))
        return fan__fail(error, FAN_INVALID, "size", "must be FAN_OPERATION_SIZE");
    if (!*fan_crud_name(adopted->crud))
        return fan__fail(error, FAN_INVALID, "crud", "must be one of fan_crud");
    if (!adopted->schema || !adopted->entity)
        return fan__fail(error, FAN_INVALID, adopted->schema ? "entity" : "schema",
                         "must be given");
    return FAN_OK;
}

enum fan_status fan_hooks_before(struct fan_hooks *hooks, const struct fan_operation *operation,
                                 struct fan_error *ret_error)
{
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_operation adopted;
    enum fan_status status = adopt_operation(operation, &adopted, &error);
    if (status == FAN_OK)
        status = walk(hooks, &adopted, true, &error);
    if (status != FAN_OK && ret_error)
        *ret_error = error;
    return status;
}

void fan_hooks_after(struct fan_hooks *hooks, const struct fan_operation *operation)
{
    struct fan_operation adopted;
    if (adopt_operation(operation, &adopted, NULL) == FAN_OK)
        (void)walk(hooks, &adopted, false, NULL);
}
