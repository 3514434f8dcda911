/*
 * The one function in which an event is appended and then notified, and the threads that call it.
 *
 * What is told to the bus is always the next of the log: before a commit's first event goes out,
 * whatever lies between it and the last one told (written by other instances) is read and told.
 * What retention removed before it could be told is a loss that readers are told of (torn_seq),
 * each when it next looks, at the latest ahead of what comes next.
 * When that reading fails, nothing is told, the debt is remembered in `catch_up`, and the
 * acknowledgements go out all the same: they speak of the log, not of the bus.
 */
#include "broker/broker.h"

#include "base/env.h"
#include "base/status.h"
#include "broker/metrics.h"
#include "bus/notify.h"
#include "event/event.h"

#include <fanfare/batch.h>

#include <assert.h>
#include <string.h>

#define NOTIFY_COUNT_MAX 128
#define UNKNOWN_TRIES 3
#define CATCH_UP_RETRY_MS 100
#define DOWN_RETRY_MS 100
#define TAIL_WAIT_MS 1000

void fan__backlog_init(struct fan__backlog *backlog)
{
    *backlog = (struct fan__backlog){ .last = &backlog->first };
}

void fan__backlog_push(struct fan__backlog *backlog, struct fan__submission *submission)
{
    submission->next = NULL;
    *backlog->last = submission;
    backlog->last = &submission->next;
    backlog->count++;
    backlog->size += fan_event_size(submission->event);
}

static struct fan__submission *backlog_pop(struct fan__backlog *backlog)
{
    struct fan__submission *submission = backlog->first;
    backlog->first = submission->next;
    if (!backlog->first)
        backlog->last = &backlog->first;
    backlog->count--;
    backlog->size -= fan_event_size(submission->event);
    return submission;
}

void fan__writer_wake(struct fan_broker *broker)
{
    if (!broker->writer_sleeps)
        return;
    broker->writer_sleeps = false;
    fan__cond_signal(&broker->writer_wake);
}

void fan__writer_begin(struct fan_broker *broker)
{
    assert(!broker->committing);
    broker->committing = true;
    broker->committer = pthread_self();
}

bool fan__writer_is_me(const struct fan_broker *broker)
{
    return broker->committing && pthread_equal(broker->committer, pthread_self());
}

void fan__writer_end(struct fan_broker *broker)
{
    broker->committing = false;
    if (broker->queue.count > 0 || broker->catch_up)
        fan__writer_wake(broker);
    fan__cond_broadcast(&broker->room);
    fan__cond_broadcast(&broker->idle);
}

static void message_of(const struct fan_event *event, struct fan_message *message)
{
    *message = (struct fan_message){
        .size = FAN_MESSAGE_SIZE,
        .seq = fan_event_seq(event),
        .time_us = fan_event_created_us(event),
        .type = fan_event_type(event),
        .topic = fan_event_topic(event),
        .payload = { (const char *)event, fan_event_size(event) },
    };
}

static void notify_page(struct fan_broker *broker)
{
    struct fan_message messages[NOTIFY_COUNT_MAX];
    size_t total = fan_batch_count(broker->page);
    for (size_t done = 0; done < total;) {
        size_t count = 0;
        for (; count < NOTIFY_COUNT_MAX && done < total; count++, done++)
            message_of(fan_batch_event(broker->page, done), &messages[count]);
        fan__bus_notify(broker->bus, messages, count);
    }
}

/* Tells the bus what the log holds after the last one told, up to `until_seq`. */
static enum fan_status tell_log(struct fan_broker *broker, uint64_t until_seq)
{
    struct fan_query query = { .size = FAN_QUERY_SIZE };
    while (broker->notified_seq < until_seq) {
        if (!fan__bus_heard(broker->bus)) {
            broker->notified_seq = until_seq;
            break;
        }
        uint64_t between = until_seq - broker->notified_seq;
        query.limit = between < FAN__REFILL_LIMIT ? (size_t)between : FAN__REFILL_LIMIT;
        struct fan_read_result result;
        enum fan_status status =
            fan_store_read(broker->store, broker->notified_seq, &query, broker->page, &result);
        if (status != FAN_OK)
            return status;
        /* Before what comes after the loss: a reader that sees that knows of this, too. */
        if (result.trimmed_seq > broker->notified_seq)
            fan__high_raise(&broker->torn_seq, result.trimmed_seq);
        notify_page(broker);
        if (result.scanned_seq <= broker->notified_seq)
            break;
        broker->notified_seq = result.scanned_seq;
    }
    return FAN_OK;
}

void fan__catch_up(struct fan_broker *broker)
{
    uint64_t head_seq;
    enum fan_status status = fan_store_head(broker->store, &head_seq);
    if (status == FAN_OK)
        status = tell_log(broker, head_seq);
    if (status != FAN_OK)
        fan__log(broker->env, FAN_LOG_WARNING, "cannot read what other instances appended: %s",
                 fan_status_text(status));
    fan__mutex_lock(&broker->mutex);
    broker->catch_up = status != FAN_OK;
    broker->stats.notified_seq = broker->notified_seq;
    fan__mutex_unlock(&broker->mutex);
}

/* Tells the bus a commit's events, in order and after all that comes before them in the log. */
static bool notify_commit(struct fan_broker *broker, size_t count)
{
    struct fan_message messages[NOTIFY_COUNT_MAX];
    size_t ready = 0;
    bool heard = fan__bus_heard(broker->bus);
    for (size_t i = 0; i < count; i++) {
        const struct fan__submission *submission = broker->taken[i];
        if (submission->status != FAN_OK || submission->seq <= broker->notified_seq)
            continue;
        /* What is stored under a known id may differ from what came: only the log knows it. */
        uint64_t read_until_seq = submission->known ? submission->seq : submission->seq - 1;
        if (read_until_seq > broker->notified_seq) {
            fan__bus_notify(broker->bus, messages, ready);
            ready = 0;
            if (tell_log(broker, read_until_seq) != FAN_OK)
                return false;
        }
        /* Where the log has holes, reading by count may have come this far already. */
        if (submission->known || submission->seq <= broker->notified_seq)
            continue;
        broker->notified_seq = submission->seq;
        if (!heard)
            continue;
        message_of(submission->event, &messages[ready++]);
        if (ready == NOTIFY_COUNT_MAX) {
            fan__bus_notify(broker->bus, messages, ready);
            ready = 0;
        }
    }
    fan__bus_notify(broker->bus, messages, ready);
    return true;
}

enum fan_status fan__refusal(const struct fan__submission *submission, enum fan_status status)
{
    return submission->unsure ? FAN_UNKNOWN : status;
}

/* Whether one of the first `count` of an append, with the same id, was given this sequence. */
static bool is_given(const struct fan_broker *broker, size_t count, uint64_t seq)
{
    for (size_t i = 0; i < count; i++)
        if (broker->taken[i]->status == FAN_OK && broker->taken[i]->seq == seq)
            return true;
    return false;
}

/*
 * Takes the answer of an append; with `unsure`, one before it had none. Refused then is in doubt,
 * too: what that one stored may be gone again, and the log does not know the id any more. Gives
 * whether something may have been stored that nobody was told of.
 */
static bool take_answer(struct fan_broker *broker, size_t count, enum fan_status status,
                        bool unsure)
{
    bool doubt = unsure && status != FAN_OK;
    uint64_t before_seq = broker->acknowledged_seq;
    if (before_seq < broker->notified_seq)
        before_seq = broker->notified_seq;
    for (size_t i = 0; i < count; i++) {
        struct fan__submission *submission = broker->taken[i];
        const struct fan_append *item = &broker->items[i];
        if (unsure && !submission->unsure) {
            submission->unsure = true;
            submission->unsure_after_seq = before_seq;
        }
        submission->status = status == FAN_OK ? item->ret_status : status;
        if (submission->status != FAN_OK) {
            submission->status = fan__refusal(submission, submission->status);
            doubt |= status == FAN_OK && submission->unsure;
            continue;
        }
        submission->seq = item->ret_seq;
        submission->known = item->ret_duplicate;
        /* What came into the log since the doubt began is what was in doubt. */
        submission->duplicate =
            item->ret_duplicate &&
            !(submission->unsure && item->ret_seq > submission->unsure_after_seq &&
              !is_given(broker, i, item->ret_seq));
        if (broker->acknowledged_seq < item->ret_seq)
            broker->acknowledged_seq = item->ret_seq;
        fan__event_set_seq(submission->event, submission->seq);
    }
    return doubt;
}

/* As take_answer. */
static bool append(struct fan_broker *broker, size_t count, enum fan_status *ret_status,
                   struct fan_error *error)
{
    for (size_t i = 0; i < count; i++)
        broker->items[i] = (struct fan_append){
            .event = broker->taken[i]->event,
            .expectation = broker->taken[i]->expectation,
            .joined = broker->taken[i]->joined,
        };
    enum fan_status status;
    bool unsure = false;
    int tries = 0;
    do {
        status = fan_store_append(broker->store, broker->items, count, error);
        unsure |= status == FAN_UNKNOWN;
    } while (status == FAN_UNKNOWN && ++tries < UNKNOWN_TRIES);
    *ret_status = status;
    return take_answer(broker, count, status, unsure);
}

/* Answers an asynchronous publisher and frees what was kept for it. */
static void answer(struct fan_broker *broker, struct fan__submission *submission,
                   const struct fan_error *error)
{
    if (submission->done) {
        struct fan_published published = {
            .size = sizeof(published),
            .status = submission->status,
            .duplicate = submission->duplicate,
            .cursor = { submission->seq, fan_store_epoch(broker->store) },
            .event = submission->event,
            .error = error,
        };
        submission->done(submission->context, &published);
    }
    fan_event_free(submission->event, broker->env);
    fan__free(broker->env, submission);
}

/*
 * Publishers get their answers, those that wait under the lock, those with a call-back outside it.
 */
static void settle(struct fan_broker *broker, size_t count, const struct fan_error *fault)
{
    for (size_t i = 0; i < count; i++) {
        struct fan__submission *submission = broker->taken[i];
        if (submission->ticket)
            continue;
        struct fan_error error;
        const struct fan_error *told = fault;
        if (submission->status != fault->status) {
            fan__fail(&error, submission->status, "", "%s", fan_status_text(submission->status));
            told = &error;
        }
        answer(broker, submission, told);
        broker->taken[i] = NULL;
    }
    fan__mutex_lock(&broker->mutex);
    for (size_t i = 0; i < count; i++)
        if (broker->taken[i])
            fan__ticket_settle(broker->taken[i]->ticket, fault);
    fan__mutex_unlock(&broker->mutex);
}

/*
 * The storage is down and nothing was stored: whose publisher still waits goes back to the head of
 * the queue, as it came. Gives how many are left in `taken`, to be answered.
 */
static size_t put_back(struct fan_broker *broker, size_t count, struct fan_error *fault)
{
    struct fan__backlog waiting;
    size_t left = 0;
    if (fault->status != FAN_UNAVAILABLE)
        fan__fail(fault, FAN_UNAVAILABLE, "", "%s", fan_status_text(FAN_UNAVAILABLE));
    fan__backlog_init(&waiting);
    fan__mutex_lock(&broker->mutex);
    int64_t now_ns = fan__deadline_ns(0);
    for (size_t i = 0; i < count; i++) {
        struct fan__submission *submission = broker->taken[i];
        if (submission->ticket ? fan__ticket_waits(submission->ticket, fault)
                               : now_ns < submission->deadline_ns)
            fan__backlog_push(&waiting, submission);
        else
            broker->taken[left++] = submission;
    }
    if (waiting.count > 0) {
        *waiting.last = broker->queue.first;
        if (!broker->queue.first)
            broker->queue.last = waiting.last;
        broker->queue.first = waiting.first;
        broker->queue.count += waiting.count;
        broker->queue.size += waiting.size;
    }
    broker->down_until_ns = fan__deadline_ns(DOWN_RETRY_MS);
    fan__mutex_unlock(&broker->mutex);
    return left;
}

static void commit(struct fan_broker *broker, size_t count)
{
    struct fan_error error = FAN_ERROR_INIT;
    int64_t begun_ns = fan__now_counted_ns(broker);
    int64_t queued_ns = broker->taken[0]->queued_ns;
    enum fan_status status;
    bool unsure = append(broker, count, &status, &error);
    int64_t ended_ns = fan__now_counted_ns(broker);
    /* Without threads nobody would try again: there the caller is told at once. */
    if (status == FAN_UNAVAILABLE && !broker->stepped)
        count = put_back(broker, count, &error);
    bool told = status != FAN_OK || notify_commit(broker, count);
    uint64_t stored = 0;
    uint64_t duplicates = 0;
    for (size_t i = 0; i < count; i++) {
        bool ok = broker->taken[i]->status == FAN_OK;
        stored += ok && !broker->taken[i]->duplicate;
        duplicates += ok && broker->taken[i]->duplicate;
    }
    fan__mutex_lock(&broker->mutex);
    struct fan_broker_stats *stats = &broker->stats;
    stats->commits += status == FAN_OK;
    stats->commit_failures += status != FAN_OK;
    stats->published += stored;
    stats->duplicates += duplicates;
    stats->refused += count - stored - duplicates;
    stats->notified_seq = broker->notified_seq;
    /* What was not certain to be stored may be there; looking is what catching up does. */
    if (!told || unsure)
        broker->catch_up = true;
    size_t queued = broker->queue.count;
    fan__mutex_unlock(&broker->mutex);
    /* Before any publisher has its answer. */
    struct fan_metrics_commit counted = {
        .size = sizeof(counted),
        .count = count,
        .stored = stored,
        .duplicates = duplicates,
        .queued = queued,
        .append_ns = ended_ns - begun_ns,
        .waited_ns = queued_ns > 0 ? begun_ns - queued_ns : -1,
    };
    fan__metrics_committed(broker, &counted, broker->taken);
    settle(broker, count, &error);
}

/* Takes whole units from the queue, as many as fit into one commit. */
static size_t take(struct fan_broker *broker)
{
    size_t count = 0;
    size_t size = 0;
    while (broker->queue.first) {
        size_t unit_count = 1;
        size_t unit_size = fan_event_size(broker->queue.first->event);
        for (const struct fan__submission *next = broker->queue.first->next; next && next->joined;
             next = next->next) {
            unit_count++;
            unit_size += fan_event_size(next->event);
        }
        if (count > 0 &&
            (count + unit_count > FAN__COMMIT_COUNT_MAX || size + unit_size > FAN__COMMIT_SIZE_MAX))
            break;
        for (; unit_count > 0; unit_count--)
            broker->taken[count++] = backlog_pop(&broker->queue);
        size += unit_size;
    }
    return count;
}

void fan__commit_queue(struct fan_broker *broker)
{
    fan__mutex_lock(&broker->mutex);
    size_t count = take(broker);
    fan__cond_broadcast(&broker->room);
    fan__mutex_unlock(&broker->mutex);
    if (count > 0)
        commit(broker, count);
}

void fan__commit_unit(struct fan_broker *broker, struct fan__submission *first, size_t count)
{
    for (size_t i = 0; i < count; i++)
        broker->taken[i] = &first[i];
    commit(broker, count);
}

void fan__backlog_refuse(struct fan_broker *broker, enum fan_status status)
{
    struct fan_error error = FAN_ERROR_INIT;
    while (broker->queue.first) {
        struct fan__submission *submission = backlog_pop(&broker->queue);
        submission->status = fan__refusal(submission, status);
        fan__fail(&error, submission->status, "", "%s", fan_status_text(submission->status));
        broker->stats.refused++;
        if (submission->ticket) {
            fan__ticket_settle(submission->ticket, &error);
        } else {
            fan__mutex_unlock(&broker->mutex);
            answer(broker, submission, &error);
            fan__mutex_lock(&broker->mutex);
        }
    }
}

void fan__writer_main(void *context)
{
    struct fan_broker *broker = context;
    fan__mutex_lock(&broker->mutex);
    while (broker->run != FAN__RUN_STOPPED) {
        bool work = broker->queue.count > 0 || broker->catch_up;
        if (!work || broker->committing) {
            broker->writer_sleeps = true;
            fan__cond_wait(&broker->writer_wake, &broker->mutex);
            broker->writer_sleeps = false;
            continue;
        }
        if (fan__deadline_ns(0) < broker->down_until_ns) {
            fan__cond_wait_until(&broker->writer_wake, &broker->mutex, broker->down_until_ns);
            continue;
        }
        fan__writer_begin(broker);
        bool catch_up = broker->catch_up;
        fan__mutex_unlock(&broker->mutex);
        fan__commit_queue(broker);
        if (catch_up)
            fan__catch_up(broker);
        fan__mutex_lock(&broker->mutex);
        fan__writer_end(broker);
        /* What could not be read stays owed; the storage is asked again after a pause. */
        if (broker->catch_up && catch_up && broker->queue.count == 0) {
            broker->writer_sleeps = true;
            fan__cond_wait_until(&broker->writer_wake, &broker->mutex,
                                 fan__deadline_ns(CATCH_UP_RETRY_MS));
            broker->writer_sleeps = false;
        }
    }
    fan__mutex_unlock(&broker->mutex);
}

/*
 * Waits for what other instances append, and has the writer tell it. Our own appends end the wait
 * too; they are told when their commit is over, and then there is nothing to catch up.
 */
void fan__tail_main(void *context)
{
    struct fan_broker *broker = context;
    fan__mutex_lock(&broker->mutex);
    while (broker->run < FAN__RUN_STOPPING) {
        uint64_t seen_seq = broker->stats.notified_seq;
        fan__mutex_unlock(&broker->mutex);
        enum fan_status status = fan_store_wait(broker->store, seen_seq, TAIL_WAIT_MS);
        fan__mutex_lock(&broker->mutex);
        if (status == FAN_AGAIN)
            continue;
        while (broker->committing)
            fan__cond_wait(&broker->idle, &broker->mutex);
        if (broker->run >= FAN__RUN_STOPPING || broker->stats.notified_seq > seen_seq)
            continue;
        broker->catch_up = true;
        fan__writer_wake(broker);
        fan__cond_wait_until(&broker->idle, &broker->mutex, fan__deadline_ns(CATCH_UP_RETRY_MS));
    }
    broker->tail_ended = true;
    fan__cond_broadcast(&broker->idle);
    fan__mutex_unlock(&broker->mutex);
}
