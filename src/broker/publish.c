/*
 * The doors for publishers: make the event, put it into the writer's queue, wait or do not.
 *
 * A publisher that waits and finds the writer idle and the queue empty takes the writer's role for
 * its own unit: alone, an event then costs one commit and no change of thread (two wakes of 35 to
 * 45 us each, beside a commit of about 200).
 */
#include "broker/broker.h"

#include "base/adopt.h"
#include "base/env.h"
#include "base/status.h"
#include "broker/metrics.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

/*
 * A unit whose publisher waits. It is freed by whoever comes last: the publisher, or, when that one
 * gave up at its deadline, the commit.
 */
struct fan__ticket {
    const struct fan_env *env;
    struct fan__cond settled;
    size_t count;
    size_t left; /* events without an outcome */
    bool abandoned;
    struct fan_error fault; /* the storage's own words, where it failed */
    struct fan_expectation expectation;
    char *expectation_text;
    struct fan__submission submissions[];
};

enum fan_status fan__broker_may_publish(const struct fan_broker *broker)
{
    if (broker->run == FAN__RUN_STARTED)
        return FAN_OK;
    return broker->run == FAN__RUN_OPENED ? FAN_MISUSE : FAN_CLOSED;
}

static void ticket_free(struct fan__ticket *ticket)
{
    for (size_t i = 0; i < ticket->count; i++)
        fan_event_free(ticket->submissions[i].event, ticket->env);
    fan__cond_deinit(&ticket->settled);
    fan__free(ticket->env, ticket->expectation_text);
    fan__free(ticket->env, ticket);
}

void fan__ticket_settle(struct fan__ticket *ticket, const struct fan_error *fault)
{
    assert(ticket->left > 0);
    if (fault->status != FAN_OK)
        ticket->fault = *fault;
    if (--ticket->left > 0)
        return;
    if (ticket->abandoned)
        ticket_free(ticket);
    else
        fan__cond_signal(&ticket->settled);
}

bool fan__ticket_waits(struct fan__ticket *ticket, const struct fan_error *fault)
{
    ticket->fault = *fault;
    return !ticket->abandoned;
}

/* Keeps an expectation beyond the publisher's stay, who may leave at the deadline. */
static enum fan_status keep_expectation(struct fan__ticket *ticket,
                                        const struct fan_expectation *expectation)
{
    size_t key_size = expectation->key ? strlen(expectation->key) + 1 : 0;
    size_t lease_size = expectation->lease ? strlen(expectation->lease) + 1 : 0;
    ticket->expectation = *expectation;
    if (key_size + lease_size > 0) {
        ticket->expectation_text = fan__alloc(ticket->env, key_size + lease_size);
        if (!ticket->expectation_text)
            return FAN_NO_MEMORY;
    }
    if (key_size > 0)
        ticket->expectation.key = memcpy(ticket->expectation_text, expectation->key, key_size);
    if (lease_size > 0)
        ticket->expectation.lease =
            memcpy(ticket->expectation_text + key_size, expectation->lease, lease_size);
    ticket->submissions[0].expectation = &ticket->expectation;
    return FAN_OK;
}

static enum fan_status ticket_new(struct fan_broker *broker, const struct fan_unit *unit,
                                  struct fan__ticket **ret_ticket, struct fan_error *error)
{
    size_t size = sizeof(struct fan__ticket) + unit->count * sizeof(struct fan__submission);
    struct fan__ticket *ticket = fan__alloc_zero(broker->env, 1, size);
    if (!ticket)
        return fan__fail(error, FAN_NO_MEMORY, "", "out of memory");
    ticket->env = broker->env;
    fan__cond_init(&ticket->settled);
    ticket->count = ticket->left = unit->count;
    enum fan_status status = FAN_OK;
    if (unit->expectation)
        status = keep_expectation(ticket, unit->expectation);
    for (size_t i = 0; i < unit->count && status == FAN_OK; i++) {
        struct fan__submission *submission = &ticket->submissions[i];
        submission->ticket = ticket;
        submission->joined = i > 0;
        status = fan_event_new(&unit->drafts[i], &broker->defaults, &submission->event, error);
        if (status == FAN_INVALID && error && unit->count > 1) {
            char field[sizeof(error->field)];
            snprintf(field, sizeof(field), "drafts[%zu].%.32s", i, error->field);
            memcpy(error->field, field, sizeof(field));
        }
    }
    if (status == FAN_NO_MEMORY)
        fan__fail(error, status, "", "out of memory");
    if (status != FAN_OK) {
        ticket_free(ticket);
        return status;
    }
    *ret_ticket = ticket;
    return FAN_OK;
}

/* Takes the unit out of the queue again when the writer has not taken it yet. */
static bool withdraw(struct fan__backlog *backlog, struct fan__ticket *ticket)
{
    struct fan__submission **link = &backlog->first;
    while (*link && (*link)->ticket != ticket)
        link = &(*link)->next;
    if (!*link)
        return false;
    for (size_t i = 0; i < ticket->count; i++) {
        assert((*link)->ticket == ticket);
        backlog->size -= fan_event_size((*link)->event);
        backlog->count--;
        *link = (*link)->next;
    }
    if (!*link)
        backlog->last = link;
    return true;
}

static void commit_queued(struct fan_broker *broker)
{
    fan__writer_begin(broker);
    fan__mutex_unlock(&broker->mutex);
    fan__commit_queue(broker);
    fan__mutex_lock(&broker->mutex);
    fan__writer_end(broker);
}

/* Puts the unit into the queue, when there is room; with the lock held. */
static enum fan_status enqueue(struct fan_broker *broker, struct fan__ticket *ticket,
                               int64_t deadline_ns)
{
    size_t room =
        broker->queue_count_max > ticket->count ? broker->queue_count_max - ticket->count : 0;
    while (broker->queue.count > room || broker->queue.size > FAN__QUEUE_SIZE_MAX) {
        if (broker->stepped && !broker->committing)
            commit_queued(broker);
        else if (!fan__cond_wait_until(&broker->room, &broker->mutex, deadline_ns))
            return FAN_FULL;
        enum fan_status status = fan__broker_may_publish(broker);
        if (status != FAN_OK)
            return status;
    }
    ticket->submissions[0].queued_ns = fan__now_counted_ns(broker);
    for (size_t i = 0; i < ticket->count; i++)
        fan__backlog_push(&broker->queue, &ticket->submissions[i]);
    if (!broker->committing)
        fan__writer_wake(broker);
    return FAN_OK;
}

/* Waits for the outcome of a unit in the queue; with the lock held. */
static enum fan_status wait_outcome(struct fan_broker *broker, struct fan__ticket *ticket,
                                    int64_t deadline_ns)
{
    /* Without a writer thread, who waits for another's commit must look again when that is over. */
    struct fan__cond *news = broker->stepped ? &broker->idle : &ticket->settled;
    while (ticket->left > 0) {
        if (broker->stepped && !broker->committing)
            commit_queued(broker);
        else if (!fan__cond_wait_until(news, &broker->mutex, deadline_ns) && ticket->left > 0)
            return FAN_TIMED_OUT;
    }
    return FAN_OK;
}

/* Brings the unit to its outcome; the ticket is the caller's again, unless it timed out. */
static enum fan_status publish_ticket(struct fan_broker *broker, struct fan__ticket *ticket,
                                      uint32_t timeout_ms, bool *ret_kept)
{
    *ret_kept = true;
    int64_t deadline_ns = fan__deadline_ns(timeout_ms);
    fan__mutex_lock(&broker->mutex);
    enum fan_status status = fan__broker_may_publish(broker);
    /* A call-back runs in the middle of a commit: waiting for the next one would be for ever. */
    if (status == FAN_OK && fan__writer_is_me(broker))
        status = FAN_MISUSE;
    if (status == FAN_OK && !broker->committing && broker->queue.count == 0) {
        fan__writer_begin(broker);
        fan__mutex_unlock(&broker->mutex);
        fan__commit_unit(broker, ticket->submissions, ticket->count);
        fan__mutex_lock(&broker->mutex);
        fan__writer_end(broker);
    } else if (status == FAN_OK) {
        status = enqueue(broker, ticket, deadline_ns);
    }
    /* A storage that was down put it back into the queue: then there is no outcome yet. */
    if (status == FAN_OK)
        status = wait_outcome(broker, ticket, deadline_ns);
    if (status == FAN_TIMED_OUT && !withdraw(&broker->queue, ticket)) {
        ticket->abandoned = true;
        *ret_kept = false;
    } else if (status == FAN_TIMED_OUT && ticket->fault.status == FAN_UNAVAILABLE) {
        status = fan__refusal(&ticket->submissions[0], FAN_UNAVAILABLE);
    }
    fan__mutex_unlock(&broker->mutex);
    return status;
}

static bool is_name(const char *text)
{
    return *text && strnlen(text, FAN_TEXT_SIZE_MAX + 1) <= FAN_TEXT_SIZE_MAX;
}

/* The store refuses a whole batch for it, and a commit holds other publishers' events too. */
static enum fan_status check_expectation(const struct fan_expectation *expectation,
                                         struct fan_error *error)
{
    if (expectation->key && !is_name(expectation->key))
        return fan__fail(error, FAN_INVALID, "expectation.key", "must have 1 to %d bytes",
                         FAN_TEXT_SIZE_MAX);
    if (expectation->lease && !is_name(expectation->lease))
        return fan__fail(error, FAN_INVALID, "expectation.lease", "must have 1 to %d bytes",
                         FAN_TEXT_SIZE_MAX);
    if (expectation->last_seq > (expectation->key ? FAN_SEQ_MAX : 0))
        return fan__fail(error, FAN_INVALID, "expectation.last_seq",
                         "must go with a key and be at most %llu", (unsigned long long)FAN_SEQ_MAX);
    if (expectation->fence > (expectation->lease ? FAN_SEQ_MAX : 0))
        return fan__fail(error, FAN_INVALID, "expectation.fence",
                         "must go with a lease and be at most %llu",
                         (unsigned long long)FAN_SEQ_MAX);
    return FAN_OK;
}

/* Brings the unit to this version's shape, in `adopted` and `expectation`. */
static enum fan_status adopt_unit(const struct fan_unit *unit, struct fan_unit *adopted,
                                  struct fan_expectation *expectation, struct fan_error *error)
{
    if (!fan__adopt(adopted, sizeof(*adopted), unit, sizeof(*adopted)))
        return fan__fail(error, FAN_INVALID, "size", "must be FAN_UNIT_SIZE");
    if (!unit->drafts || unit->count == 0 || unit->count > FAN_UNIT_COUNT_MAX)
        return fan__fail(error, FAN_INVALID, "drafts", "must be 1 to %d, not %zu",
                         FAN_UNIT_COUNT_MAX, unit->count);
    for (size_t i = 0; i < unit->count && unit->count > 1; i++)
        if (unit->drafts[i].size != FAN_EVENT_DRAFT_SIZE)
            return fan__fail(error, FAN_INVALID, "drafts", "must have FAN_EVENT_DRAFT_SIZE");
    if (!unit->expectation)
        return FAN_OK;
    adopted->expectation = expectation;
    if (!fan__adopt(expectation, sizeof(*expectation), unit->expectation, sizeof(*expectation)))
        return fan__fail(error, FAN_INVALID, "expectation.size",
                         "must be sizeof(struct fan_expectation)");
    return check_expectation(expectation, error);
}

static const char in_doubt[] =
    "the storage gave no answer; publish the same id again to learn the outcome";

static enum fan_status fail_publish(enum fan_status status, struct fan_error *error)
{
    const char *why = fan_status_text(status);
    if (status == FAN_MISUSE)
        why = "the broker was not started, or this is a handler or call-back, which must not wait";
    else if (status == FAN_CLOSED)
        why = "the broker was stopped";
    else if (status == FAN_FULL)
        why = "the writer's queue had no room in time; the event was not stored";
    else if (status == FAN_TIMED_OUT)
        why = "no answer in time; publish the same id again to learn the outcome";
    else if (status == FAN_UNKNOWN)
        why = in_doubt;
    return fan__fail(error, status, "", "%s", why);
}

/* Words for what the store answered, or a stop in its place. */
static enum fan_status fail_append(enum fan_status status, struct fan_error *error)
{
    const char *why = fan_status_text(status);
    if (status == FAN_CONFLICT)
        why = "the expectation does not hold";
    else if (status == FAN_FULL)
        why = "the store is full; the event was not stored";
    else if (status == FAN_CLOSED)
        why = "the broker was stopped; the event was not stored";
    else if (status == FAN_UNKNOWN)
        why = in_doubt;
    return fan__fail(error, status, "", "%s", why);
}

/*
 * Publishes a unit of this version's shape; with `sync`, its one event's handlers are waited for.
 */
static enum fan_status publish_unit(struct fan_broker *broker, const struct fan_unit *unit,
                                    bool sync, struct fan_cursor *ret_cursors,
                                    struct fan_error *error)
{
    struct fan__ticket *ticket = NULL;
    struct fan__waiter *waiter = NULL;
    uint32_t timeout_ms = unit->timeout_ms ? unit->timeout_ms : broker->publish_timeout_ms;
    int64_t deadline_ns = fan__deadline_ns(timeout_ms);
    enum fan_status status = ticket_new(broker, unit, &ticket, error);
    if (status != FAN_OK)
        return status;
    bool kept = true;
    if (sync)
        status = fan__waiter_new(broker, ticket->submissions[0].event, &waiter);
    if (status == FAN_OK)
        status = publish_ticket(broker, ticket, timeout_ms, &kept);
    bool settled = status == FAN_OK;
    for (size_t i = 0; i < unit->count && status == FAN_OK; i++) {
        status = ticket->submissions[i].status;
        if (ret_cursors && status == FAN_OK)
            ret_cursors[i] =
                (struct fan_cursor){ ticket->submissions[i].seq, fan_store_epoch(broker->store) };
    }
    bool worded = kept && status != FAN_OK && ticket->fault.status == status;
    if (worded && error)
        *error = ticket->fault;
    if (waiter && status == FAN_OK) {
        status = fan__waiter_wait(waiter, &ticket->submissions[0], deadline_ns, error);
        worded = true;
    }
    fan__waiter_free(waiter);
    if (kept)
        ticket_free(ticket);
    if (status == FAN_OK || worded)
        return status;
    return settled ? fail_append(status, error) : fail_publish(status, error);
}

enum fan_status fan_broker_publish_unit(struct fan_broker *broker, const struct fan_unit *unit,
                                        struct fan_cursor *ret_cursors, struct fan_error *ret_error)
{
    if (fan__fork_generation() != broker->fork_generation)
        return fan__fail(ret_error, FAN_FORKED, "", "%s", fan_status_text(FAN_FORKED));
    struct fan_unit adopted;
    struct fan_expectation expectation;
    enum fan_status status = adopt_unit(unit, &adopted, &expectation, ret_error);
    if (status != FAN_OK)
        return status;
    return publish_unit(broker, &adopted, false, ret_cursors, ret_error);
}

static enum fan_status publish_one(struct fan_broker *broker, const struct fan_event_draft *draft,
                                   bool sync, struct fan_cursor *ret_cursor,
                                   struct fan_error *error)
{
    if (fan__fork_generation() != broker->fork_generation)
        return fan__fail(error, FAN_FORKED, "", "%s", fan_status_text(FAN_FORKED));
    struct fan_unit unit = { .size = FAN_UNIT_SIZE, .drafts = draft, .count = 1 };
    if (!draft)
        return fan__fail(error, FAN_INVALID, "drafts", "must be 1 to %d, not 0",
                         FAN_UNIT_COUNT_MAX);
    return publish_unit(broker, &unit, sync, ret_cursor, error);
}

enum fan_status fan_broker_publish(struct fan_broker *broker, const struct fan_event_draft *draft,
                                   struct fan_cursor *ret_cursor, struct fan_error *ret_error)
{
    return publish_one(broker, draft, broker->mode == FAN_MODE_SYNC, ret_cursor, ret_error);
}

enum fan_status fan_broker_publish_sync(struct fan_broker *broker,
                                        const struct fan_event_draft *draft,
                                        struct fan_cursor *ret_cursor, struct fan_error *ret_error)
{
    return publish_one(broker, draft, true, ret_cursor, ret_error);
}

enum fan_status fan_broker_submit_take(struct fan_broker *broker, struct fan_event *event,
                                       fan_publish_done done, void *context)
{
    if (fan__fork_generation() != broker->fork_generation)
        return FAN_FORKED;
    struct fan__submission *submission = fan__alloc(broker->env, sizeof(*submission));
    if (!submission)
        return FAN_NO_MEMORY;
    *submission =
        (struct fan__submission){ .event = event,
                                  .done = done,
                                  .context = context,
                                  .deadline_ns = fan__deadline_ns(broker->publish_timeout_ms) };
    fan__mutex_lock(&broker->mutex);
    enum fan_status status = fan__broker_may_publish(broker);
    if (status == FAN_OK && (broker->queue.count >= broker->queue_count_max ||
                             broker->queue.size > FAN__QUEUE_SIZE_MAX)) {
        broker->stats.refused++;
        status = FAN_FULL;
    }
    if (status == FAN_OK) {
        submission->queued_ns = fan__now_counted_ns(broker);
        fan__backlog_push(&broker->queue, submission);
        if (!broker->committing)
            fan__writer_wake(broker);
    }
    fan__mutex_unlock(&broker->mutex);
    if (status != FAN_OK)
        fan__free(broker->env, submission);
    return status;
}

enum fan_status fan_broker_publish_async(struct fan_broker *broker,
                                         const struct fan_event_draft *draft, fan_publish_done done,
                                         void *context, struct fan_error *ret_error)
{
    struct fan_event *event;
    enum fan_status status = fan_event_new(draft, &broker->defaults, &event, ret_error);
    if (status != FAN_OK)
        return status;
    status = fan_broker_submit_take(broker, event, done, context);
    if (status == FAN_OK)
        return FAN_OK;
    fan_event_free(event, broker->env);
    if (status == FAN_FULL)
        return fan__fail(ret_error, status, "", "the writer's queue is full");
    return fail_publish(status, ret_error);
}

enum fan_status fan_broker_step(struct fan_broker *broker)
{
    if (fan__fork_generation() != broker->fork_generation)
        return FAN_FORKED;
    if (!broker->stepped)
        return FAN_MISUSE;
    if (fan__dispatch_is_me(broker))
        return FAN_MISUSE;
    fan__mutex_lock(&broker->mutex);
    enum fan_status status = fan__writer_is_me(broker) ? FAN_MISUSE : FAN_OK;
    /* A publisher may hold the writer's role. */
    while (status == FAN_OK && broker->committing)
        fan__cond_wait(&broker->idle, &broker->mutex);
    if (status == FAN_OK)
        status = fan__broker_may_publish(broker);
    if (status != FAN_OK) {
        fan__mutex_unlock(&broker->mutex);
        return status;
    }
    bool worked = broker->queue.count > 0;
    if (worked)
        commit_queued(broker);
    uint64_t told_seq = broker->stats.notified_seq;
    fan__writer_begin(broker);
    fan__mutex_unlock(&broker->mutex);
    fan__catch_up(broker);
    fan__mutex_lock(&broker->mutex);
    fan__writer_end(broker);
    worked |= broker->stats.notified_seq != told_seq;
    fan__mutex_unlock(&broker->mutex);
    worked |= fan__dispatch_step(broker);
    worked |= fan__keep_step(broker);
    return worked ? FAN_OK : FAN_AGAIN;
}
