/*
 * Waiting for verdicts: a publisher names its event before the commit, so that no outcome is
 * missed, and lists the handlers of this process that it matches. These may still hold an event
 * that had the same id and was deleted: what they say is told by sequence, and is kept until the
 * commit has given the publisher's own.
 *
 * Outcomes are reported when the store knows them, so that whoever returns finds them there. What
 * another process does with the event is seen by looking into the store now and then.
 */
#include "broker/dispatch.h"

#include "base/env.h"
#include "base/status.h"

#include <fanfare/pattern.h>

#include <stdio.h>
#include <string.h>

struct entry {
    const struct fan_handler *handler; /* there until done; NULL: gone before the commit was over */
    uint64_t seq;                      /* the last event of the id that it spoke of, 0: none */
    bool failed;                       /* what it said of that, first */
    char words[FAN__WORDS_SIZE];
    bool done;
};

struct fan__waiter {
    struct fan__waiter *next;
    struct fan_broker *broker;
    bool delayed;
    uint64_t seq; /* 0 until the commit is over */
    size_t left;
    const struct entry *failed; /* the first that did */
    char id[FAN_TEXT_SIZE_MAX + 1];
    size_t count;
    struct entry entries[];
};

bool fan__handler_wants(const struct fan_handler *handler, const struct fan_event *event)
{
    if (handler->topic && strcmp(handler->topic, fan_event_topic(event)) != 0)
        return false;
    return !handler->pattern || fan_pattern_match(handler->pattern, fan_event_type(event));
}

static bool matches(const struct fan_handler *handler, const struct fan_event *event)
{
    return !handler->removed && !handler->gone && fan__handler_wants(handler, event);
}

enum fan_status fan__waiter_new(struct fan_broker *broker, const struct fan_event *event,
                                struct fan__waiter **ret_waiter)
{
    struct fan__dispatch *dispatch = broker->dispatch;
    bool delayed = fan_event_deliver_at_us(event) > fan__wall_us(broker->env);
    fan__mutex_lock(&dispatch->mutex);
    if (fan__dispatch_calls_me(dispatch, NULL)) {
        fan__mutex_unlock(&dispatch->mutex);
        return FAN_MISUSE;
    }
    size_t count = 0;
    for (const struct fan_handler *handler = dispatch->first; handler; handler = handler->next)
        count += matches(handler, event) && !(delayed && handler->group);
    struct fan__waiter *waiter =
        fan__alloc_zero(broker->env, 1, sizeof(*waiter) + count * sizeof(waiter->entries[0]));
    if (waiter) {
        waiter->broker = broker;
        waiter->count = waiter->left = count;
        snprintf(waiter->id, sizeof(waiter->id), "%s", fan_event_id(event));
        count = 0;
        for (const struct fan_handler *handler = dispatch->first; handler; handler = handler->next)
            if (matches(handler, event) && !(delayed && handler->group))
                waiter->entries[count++].handler = handler;
        waiter->next = dispatch->waiters;
        dispatch->waiters = waiter;
    }
    fan__mutex_unlock(&dispatch->mutex);
    *ret_waiter = waiter;
    return waiter ? FAN_OK : FAN_NO_MEMORY;
}

void fan__waiter_free(struct fan__waiter *waiter)
{
    if (!waiter)
        return;
    struct fan__dispatch *dispatch = waiter->broker->dispatch;
    fan__mutex_lock(&dispatch->mutex);
    struct fan__waiter **link = &dispatch->waiters;
    while (*link != waiter)
        link = &(*link)->next;
    *link = waiter->next;
    fan__mutex_unlock(&dispatch->mutex);
    fan__free(waiter->broker->env, waiter);
}

/* A handler speaks of an event of the id; `words` tell what it failed of. With the lock. */
static void note(struct entry *entry, uint64_t seq, const char *words)
{
    const char *group = entry->handler->group;
    entry->seq = seq;
    entry->failed = words != NULL;
    if (words && group)
        snprintf(entry->words, sizeof(entry->words), "group %.64s: %.180s", group, words);
    else if (words)
        snprintf(entry->words, sizeof(entry->words), "%s", words);
}

/* It has nothing more to say. With the lock. */
static void finish(struct fan__waiter *waiter, struct entry *entry)
{
    if (entry->failed && !waiter->failed)
        waiter->failed = entry;
    entry->done = true;
    waiter->left--;
    if (waiter->left == 0)
        fan__cond_broadcast(&waiter->broker->dispatch->reported);
}

static struct entry *find_entry(struct fan__waiter *waiter, const struct fan_handler *handler)
{
    for (size_t i = 0; i < waiter->count; i++)
        if (!waiter->entries[i].done && waiter->entries[i].handler == handler)
            return &waiter->entries[i];
    return NULL;
}

void fan__waiters_report(struct fan__dispatch *dispatch, const struct fan_handler *handler,
                         const char *event_id, uint64_t seq, const char *error)
{
    for (struct fan__waiter *waiter = dispatch->waiters; waiter; waiter = waiter->next) {
        if (strcmp(waiter->id, event_id) != 0)
            continue;
        struct entry *entry = find_entry(waiter, handler);
        if (!entry || (waiter->seq > 0 ? seq != waiter->seq : seq <= entry->seq))
            continue;
        note(entry, seq, error);
        if (waiter->seq > 0)
            finish(waiter, entry);
    }
}

void fan__waiters_forget(struct fan__dispatch *dispatch, const struct fan_handler *handler)
{
    for (struct fan__waiter *waiter = dispatch->waiters; waiter; waiter = waiter->next) {
        struct entry *entry = find_entry(waiter, handler);
        if (entry && waiter->seq > 0)
            finish(waiter, entry);
        else if (entry)
            entry->handler = NULL;
    }
}

/*
 * The commit is over: what was said of this event counts, of another not. One that was there
 * already does not come to live handlers again.
 */
static void begin(struct fan__waiter *waiter, const struct fan__submission *published)
{
    struct fan__dispatch *dispatch = waiter->broker->dispatch;
    fan__mutex_lock(&dispatch->mutex);
    waiter->seq = published->seq;
    for (size_t i = 0; i < waiter->count; i++) {
        struct entry *entry = &waiter->entries[i];
        bool said = entry->seq == waiter->seq;
        entry->failed = entry->failed && said;
        if (said || !entry->handler || (published->duplicate && !entry->handler->group))
            finish(waiter, entry);
    }
    fan__mutex_unlock(&dispatch->mutex);
}

/*
 * What a delivery says of a first attempt that was not reported here. A lease that is over says
 * nothing: what was claimed is claimed again, or what its handler said is on its way.
 */
static bool see(void *context, const struct fan_delivery *delivery)
{
    struct fan__waiter *waiter = context;
    struct fan__dispatch *dispatch = waiter->broker->dispatch;
    bool pending = delivery->status == FAN_EVENT_PENDING;
    bool ours =
        delivery->status == FAN_EVENT_PROCESSING && strcmp(delivery->owner, dispatch->owner) == 0;
    bool failed = pending || delivery->status == FAN_EVENT_FAILED;
    if (ours || (pending && (delivery->attempts == 0 || delivery->error[0] == '\0')))
        return true;
    fan__mutex_lock(&dispatch->mutex);
    for (size_t i = 0; i < waiter->count; i++) {
        struct entry *entry = &waiter->entries[i];
        if (!entry->done && entry->handler->group &&
            strcmp(entry->handler->group, delivery->group) == 0 &&
            strcmp(entry->handler->name, delivery->handler) == 0) {
            note(entry, waiter->seq, failed ? delivery->error : NULL);
            finish(waiter, entry);
        }
    }
    fan__mutex_unlock(&dispatch->mutex);
    return true;
}

/* Waits until all is said, for as long as a look into the store may. True when it is. */
static bool wait_once(struct fan__waiter *waiter, int64_t deadline_ns, bool *ret_over)
{
    struct fan__dispatch *dispatch = waiter->broker->dispatch;
    int64_t until_ns = fan__deadline_ns(FAN__LOOK_MS);
    if (until_ns > deadline_ns)
        until_ns = deadline_ns;
    bool in_time = true;
    fan__mutex_lock(&dispatch->mutex);
    while (waiter->left > 0 && !dispatch->over && in_time)
        in_time = fan__cond_wait_until(&dispatch->reported, &dispatch->mutex, until_ns);
    *ret_over = dispatch->over;
    bool done = waiter->left == 0;
    fan__mutex_unlock(&dispatch->mutex);
    return done;
}

enum fan_status fan__waiter_wait(struct fan__waiter *waiter,
                                 const struct fan__submission *published, int64_t deadline_ns,
                                 struct fan_error *error)
{
    struct fan_broker *broker = waiter->broker;
    bool look = published->duplicate;
    bool over = false;
    begin(waiter, published);
    for (;;) {
        if (look && fan_store_deliveries(broker->store, published->seq, 0, see, waiter) != FAN_OK)
            fan__log(broker->env, FAN_LOG_DEBUG, "cannot look for verdicts");
        bool stepped = broker->stepped && fan_broker_step(broker) == FAN_OK;
        if (wait_once(waiter, stepped ? 0 : deadline_ns, &over))
            break;
        look = !stepped;
        if (over || (!stepped && fan__deadline_ns(0) >= deadline_ns))
            return fan__fail(error, FAN_TIMED_OUT, "",
                             "the event is stored, but not every handler gave a verdict %s",
                             over ? "before the stop" : "in time");
    }
    if (!waiter->failed)
        return FAN_OK;
    return fan__fail(error, FAN_HANDLER, "", "%s", waiter->failed->words);
}
