/*
 * A broker as an after hook: one asynchronous publish for each operation, and an account of them.
 *
 *     after -> fan_broker_publish_async -> accepted -> done -> stored, or failed
 *                     `-> refused
 *
 * An event under way holds the publisher: the hook may be removed while the writer still has it.
 */
#include "hook/hook.h"

#include "base/env.h"
#include "base/status.h"
#include "base/thread.h"

#include <fanfare/broker.h>

struct fan__publisher {
    const struct fan_env *env;
    struct fan_broker *broker;
    struct fan__mutex mutex; /* guards all below */
    uint64_t holds;
    struct fan_hook_stats stats;
};

enum fan_status fan__operation_draft(const struct fan_operation *operation,
                                     char type[FAN_TEXT_SIZE_MAX + 1], struct fan__buffer *buffer,
                                     struct fan_event_draft *ret_draft, struct fan_error *error)
{
    enum fan_status status =
        fan_event_type_join(operation->schema, operation->entity, fan_crud_name(operation->crud),
                            type, FAN_TEXT_SIZE_MAX + 1);
    if (status != FAN_OK)
        return fan__fail(error, status, "type", "%.60s and %.60s do not make a type",
                         operation->schema, operation->entity);
    struct fan_str payload = operation->data;
    if (operation->crud == FAN_CRUD_UPDATE || operation->crud == FAN_CRUD_DELETE) {
        fan__buffer_clear(buffer);
        fan__buffer_add_text(buffer, "{\"id\": ");
        fan__buffer_add(buffer, operation->id.data, operation->id.size);
        if (operation->crud == FAN_CRUD_UPDATE) {
            fan__buffer_add_text(buffer, ", \"data\": ");
            fan__buffer_add(buffer, operation->data.data, operation->data.size);
        }
        fan__buffer_add_text(buffer, "}");
        if (buffer->failed)
            return fan__fail(error, FAN_NO_MEMORY, "", "out of memory");
        payload = (struct fan_str){ buffer->data, buffer->size };
    }
    *ret_draft = (struct fan_event_draft){
        .size = FAN_EVENT_DRAFT_SIZE,
        .type = type,
        .payload = payload,
        .topic = operation->topic,
        .source = FAN_SOURCE_DATABASE,
        .metadata = operation->metadata,
        .user_id = operation->user_id,
        .session_id = operation->session_id,
    };
    return FAN_OK;
}

enum fan_status fan__publisher_new(const struct fan_env *env, struct fan_broker *broker,
                                   struct fan__publisher **ret_publisher)
{
    struct fan__publisher *publisher = fan__alloc_zero(env, 1, sizeof(*publisher));
    if (!publisher)
        return FAN_NO_MEMORY;
    publisher->env = env;
    publisher->broker = broker;
    publisher->holds = 1;
    fan__mutex_init(&publisher->mutex);
    *ret_publisher = publisher;
    return FAN_OK;
}

/* With the lock held, which it gives back. */
static void let_go(struct fan__publisher *publisher)
{
    bool last = --publisher->holds == 0;
    fan__mutex_unlock(&publisher->mutex);
    if (!last)
        return;
    fan__mutex_deinit(&publisher->mutex);
    fan__free(publisher->env, publisher);
}

void fan__publisher_unref(struct fan__publisher *publisher)
{
    if (!publisher)
        return;
    fan__mutex_lock(&publisher->mutex);
    let_go(publisher);
}

static void on_published(void *context, const struct fan_published *published)
{
    struct fan__publisher *publisher = context;
    fan__mutex_lock(&publisher->mutex);
    if (published->status == FAN_OK) {
        publisher->stats.stored++;
    } else {
        publisher->stats.failed++;
        fan__fail(&publisher->stats.refusal, published->status,
                  published->error ? published->error->field : "", "%s",
                  published->error && *published->error->message
                      ? published->error->message
                      : fan_status_text(published->status));
    }
    let_go(publisher);
}

void fan__publisher_after(void *context, const struct fan_operation *operation)
{
    struct fan__publisher *publisher = context;
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_event_draft draft;
    char type[FAN_TEXT_SIZE_MAX + 1];
    struct fan__buffer buffer;
    fan__buffer_init(&buffer, publisher->env);
    enum fan_status status = fan__operation_draft(operation, type, &buffer, &draft, &error);
    fan__mutex_lock(&publisher->mutex);
    publisher->holds++;
    publisher->stats.accepted++;
    fan__mutex_unlock(&publisher->mutex);
    if (status == FAN_OK)
        status =
            fan_broker_publish_async(publisher->broker, &draft, on_published, publisher, &error);
    fan__buffer_deinit(&buffer);
    if (status == FAN_OK)
        return;
    fan__mutex_lock(&publisher->mutex);
    publisher->stats.accepted--;
    publisher->stats.refused++;
    publisher->stats.refusal = error;
    let_go(publisher);
}

void fan__publisher_stats(struct fan__publisher *publisher, struct fan_hook_stats *stats)
{
    fan__mutex_lock(&publisher->mutex);
    uint64_t calls = stats->calls;
    *stats = publisher->stats;
    stats->calls = calls;
    fan__mutex_unlock(&publisher->mutex);
}
