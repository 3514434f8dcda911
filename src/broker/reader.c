/*
 * A reader: carries out what its cursor (cursor.h) decides, on a subscription and pages of the log.
 *
 * The descriptor is an epoll set of two: the subscription's, and one of our own that is raised
 * while the reader is behind or holds a page. Both are level-triggered, so the set is.
 */
#include "broker/broker.h"

#include "base/adopt.h"
#include "base/cancel.h"
#include "base/env.h"
#include "base/flag.h"
#include "base/status.h"
#include "broker/cursor.h"

#include <fanfare/batch.h>
#include <fanfare/pattern.h>

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define LOOK_MS 1000

struct fan_reader {
    struct fan_broker *broker;
    struct fan_subscription *subscription;
    struct fan_cancel *cancel;
    struct fan__flag unsubscribed;
    struct fan__cursor cursor;
    char *topic;
    char *pattern;
    struct fan_batch *page;
    struct fan_read_result result;
    size_t index; /* of the next event in the page */
    bool page_held;
    const struct fan_event *after_gap; /* from the ring: comes when the gap was told */
    bool raised;
    int epoll_fd;
    int behind_fd;
    uint64_t delivered;
    uint64_t gaps;
};

/* A reader's subscription sees every event from here on; what came before is in the log. */
static enum fan_status attach(struct fan_reader *reader, const struct fan_reader_options *options,
                              struct fan_error *error)
{
    bool refill = options->policy == FAN_POLICY_DEFAULT || options->policy == FAN_POLICY_REFILL;
    struct fan_subscription_options subscription_options = {
        .size = FAN_SUBSCRIPTION_OPTIONS_SIZE,
        .topic = options->topic,
        .pattern = options->pattern,
        .policy = refill ? FAN_POLICY_DROP_OLDEST : options->policy,
        .buffer_count = options->buffer_count,
        .cancel = options->cancel,
        .yield_us = options->yield_us,
    };
    enum fan_status status =
        fan_bus_subscribe(reader->broker->bus, &subscription_options, &reader->subscription, error);
    if (status != FAN_OK)
        return status;
    uint64_t head_seq;
    status = fan_store_head(reader->broker->store, &head_seq);
    if (status != FAN_OK)
        return fan__fail(error, status, "", "cannot read the head of the log: %s",
                         fan_status_text(status));
    if (options->start == FAN_START_NOW) {
        fan__cursor_init(&reader->cursor, head_seq, true, refill);
        return FAN_OK;
    }
    const struct fan_cursor *from = &options->cursor;
    bool given = options->start == FAN_START_CURSOR;
    fan__cursor_init(&reader->cursor, given ? from->seq : 0, false, refill);
    reader->cursor.foreign =
        given && from->epoch != 0 && from->epoch != fan_store_epoch(reader->broker->store);
    return FAN_OK;
}

static enum fan_status check_options(const struct fan_reader_options *options,
                                     struct fan_error *error)
{
    if (options->policy == FAN_POLICY_BLOCK)
        return fan__fail(error, FAN_UNSUPPORTED, "policy", "block is for a bus without a log");
    if (options->cursor.seq > FAN_SEQ_MAX)
        return fan__fail(error, FAN_INVALID, "cursor", "is past %llu",
                         (unsigned long long)FAN_SEQ_MAX);
    if ((unsigned)options->start > FAN_START_CURSOR)
        return fan__fail(error, FAN_INVALID, "start", "must be now, beginning or cursor");
    if (options->pattern)
        return fan_pattern_check(options->pattern, error);
    return FAN_OK;
}

static enum fan_status keep(const struct fan_env *env, const char *text, char **ret_copy)
{
    *ret_copy = text ? fan__strdup(env, text) : NULL;
    return text && !*ret_copy ? FAN_NO_MEMORY : FAN_OK;
}

enum fan_status fan_broker_subscribe(struct fan_broker *broker,
                                     const struct fan_reader_options *options,
                                     struct fan_reader **ret_reader, struct fan_error *ret_error)
{
    struct fan_reader_options adopted = { .size = FAN_READER_OPTIONS_SIZE };
    if (fan__fork_generation() != broker->fork_generation)
        return fan__fail(ret_error, FAN_FORKED, "", "%s", fan_status_text(FAN_FORKED));
    if (options && !fan__adopt(&adopted, sizeof(adopted), options, sizeof(adopted)))
        return fan__fail(ret_error, FAN_INVALID, "size", "must be FAN_READER_OPTIONS_SIZE");
    options = &adopted;
    enum fan_status status = check_options(options, ret_error);
    if (status != FAN_OK)
        return status;
    struct fan_reader *reader = fan__alloc_zero(broker->env, 1, sizeof(*reader));
    if (!reader)
        return fan__fail(ret_error, FAN_NO_MEMORY, "", "out of memory");
    reader->broker = broker;
    reader->epoll_fd = reader->behind_fd = -1;
    fan__flag_init(&reader->unsubscribed);
    fan__mutex_lock(&broker->mutex);
    broker->stats.readers++;
    fan__mutex_unlock(&broker->mutex);
    if (options->cancel)
        reader->cancel = fan_cancel_ref(options->cancel);
    if (keep(broker->env, options->topic, &reader->topic) != FAN_OK ||
        keep(broker->env, options->pattern, &reader->pattern) != FAN_OK)
        status = fan__fail(ret_error, FAN_NO_MEMORY, "", "out of memory");
    else
        status = attach(reader, options, ret_error);
    if (status != FAN_OK) {
        fan_reader_free(reader);
        return status;
    }
    *ret_reader = reader;
    return FAN_OK;
}

/* A page of up to 1 MiB is kept only while the reader is behind. */
static void drop_page(struct fan_reader *reader)
{
    reader->page_held = false;
    fan_batch_free(reader->page);
    reader->page = NULL;
}

/*
 * Keeps our half of the descriptor true: raised while there is something that the ring does not
 * show.
 */
static void raise_behind(struct fan_reader *reader)
{
    bool behind =
        reader->page_held || reader->after_gap || reader->cursor.state == FAN__CURSOR_BEHIND;
    if (reader->behind_fd < 0 || behind == reader->raised)
        return;
    uint64_t one = 1;
    ssize_t moved = behind ? write(reader->behind_fd, &one, sizeof(one))
                           : read(reader->behind_fd, &one, sizeof(one));
    if (moved == (ssize_t)sizeof(one))
        reader->raised = behind;
}

static enum fan_status told_gap(struct fan_reader *reader)
{
    reader->gaps++;
    return FAN_GAP;
}

static enum fan_status read_page(struct fan_reader *reader)
{
    struct fan_query query = {
        .size = FAN_QUERY_SIZE,
        .topic = reader->topic,
        .pattern = reader->pattern,
        .limit = FAN__REFILL_LIMIT,
    };
    if (reader->cancel && fan_cancel_fired(reader->cancel)) {
        fan__cursor_close(&reader->cursor);
        return FAN_CLOSED;
    }
    enum fan_status status =
        reader->page ? FAN_OK : fan_batch_new(reader->broker->env, &reader->page);
    if (status == FAN_OK)
        status = fan_store_read(reader->broker->store, reader->cursor.seq, &query, reader->page,
                                &reader->result);
    if (status != FAN_OK) {
        drop_page(reader);
        return status;
    }
    reader->index = 0;
    reader->page_held = true;
    if (fan__cursor_page(&reader->cursor, &reader->result) != FAN__CURSOR_TELL_GAP)
        return FAN_OK;
    if (reader->cursor.gap.reason == FAN_GAP_EPOCH)
        drop_page(reader);
    return told_gap(reader);
}

/* Gives the page's next event, or ends the page and gives NULL. */
static const struct fan_event *next_of_page(struct fan_reader *reader)
{
    while (reader->index < fan_batch_count(reader->page)) {
        const struct fan_event *event = fan_batch_event(reader->page, reader->index++);
        if (fan__cursor_event(&reader->cursor, fan_event_seq(event)) == FAN__CURSOR_DELIVER)
            return event;
    }
    fan__cursor_page_end(&reader->cursor, &reader->result);
    reader->page_held = false;
    if (reader->cursor.state == FAN__CURSOR_LIVE)
        drop_page(reader);
    return NULL;
}

/* One message of the ring: FAN_OK with the event, or with NULL when it is to be passed over. */
static enum fan_status read_ring(struct fan_reader *reader, uint32_t timeout_ms,
                                 const struct fan_event **ret_event)
{
    const struct fan_message *message;
    enum fan_status status = fan_subscription_next(reader->subscription, timeout_ms, &message);
    *ret_event = NULL;
    if (status == FAN_GAP) {
        struct fan_gap gap;
        fan_subscription_gap(reader->subscription, &gap);
        /* What the ring was never given is lost with it: nobody knows how many. */
        if (fan__high_get(&reader->broker->torn_seq) > reader->cursor.seq) {
            gap.after = reader->cursor.seq;
            gap.count = FAN_GAP_COUNT_UNKNOWN;
        }
        if (fan__cursor_ring_gap(&reader->cursor, &gap) == FAN__CURSOR_TELL_GAP)
            return told_gap(reader);
        return FAN_OK;
    }
    if (status != FAN_OK && status != FAN_AGAIN && status != FAN_CLOSED)
        return status;
    const struct fan_event *event = NULL;
    if (status == FAN_OK)
        event = (const struct fan_event *)(const void *)message->payload.data;
    /* Of a loss it is told also when nothing came behind it, or the end. */
    if (fan__cursor_torn(&reader->cursor, fan__high_get(&reader->broker->torn_seq)) ==
        FAN__CURSOR_TELL_GAP) {
        reader->after_gap = event;
        return told_gap(reader);
    }
    if (reader->cursor.state != FAN__CURSOR_LIVE)
        return FAN_OK; /* the log has it, or tells the gap */
    if (status == FAN_CLOSED)
        fan__cursor_close(&reader->cursor);
    if (status != FAN_OK)
        return status;
    if (fan__cursor_event(&reader->cursor, message->seq) == FAN__CURSOR_DELIVER)
        *ret_event = event;
    return FAN_OK;
}

/* The event that stood behind a gap. It is still ours: nothing was taken from the ring since. */
static const struct fan_event *take_after_gap(struct fan_reader *reader)
{
    const struct fan_event *event = reader->after_gap;
    reader->after_gap = NULL;
    if (!event || fan__cursor_event(&reader->cursor, fan_event_seq(event)) != FAN__CURSOR_DELIVER)
        return NULL;
    return event;
}

static uint32_t left_ms(int64_t deadline_ns)
{
    if (deadline_ns == FAN__FOREVER)
        return FAN_TIMEOUT_FOREVER;
    int64_t left = deadline_ns - fan__deadline_ns(0);
    return left > 0 ? (uint32_t)((left + FAN__NS_PER_MS - 1) / FAN__NS_PER_MS) : 0;
}

/* Who waits for long looks up now and then: a loss alone wakes nobody. */
static enum fan_status wait_for_ring(struct fan_reader *reader, uint32_t timeout_ms,
                                     const struct fan_event **ret_event)
{
    uint32_t part_ms = timeout_ms < LOOK_MS ? timeout_ms : LOOK_MS;
    enum fan_status status = read_ring(reader, part_ms, ret_event);
    return status == FAN_AGAIN && part_ms < timeout_ms ? FAN_OK : status;
}

static enum fan_status step(struct fan_reader *reader, uint32_t timeout_ms,
                            const struct fan_event **ret_event)
{
    /* The clock is asked only when something was passed over. */
    int64_t deadline_ns = -1;
    for (;;) {
        if (fan__flag_get(&reader->unsubscribed))
            return FAN_CLOSED;
        if (reader->after_gap) {
            *ret_event = take_after_gap(reader);
            if (*ret_event)
                return FAN_OK;
        }
        if (reader->page_held) {
            *ret_event = next_of_page(reader);
            if (*ret_event)
                return FAN_OK;
            continue;
        }
        enum fan_status status = FAN_OK;
        switch (fan__cursor_next(&reader->cursor)) {
        case FAN__CURSOR_READ_LOG:
            status = read_page(reader);
            break;
        case FAN__CURSOR_READ_RING:
            if (timeout_ms != 0 && timeout_ms != FAN_TIMEOUT_FOREVER) {
                if (deadline_ns < 0)
                    deadline_ns = fan__deadline_ns(timeout_ms);
                else
                    timeout_ms = left_ms(deadline_ns);
            }
            status = wait_for_ring(reader, timeout_ms, ret_event);
            if (status == FAN_OK && *ret_event)
                return FAN_OK;
            break;
        default:
            return FAN_CLOSED;
        }
        if (status != FAN_OK)
            return status;
    }
}

enum fan_status fan_reader_next(struct fan_reader *reader, uint32_t timeout_ms,
                                const struct fan_event **ret_event)
{
    if (fan__fork_generation() != reader->broker->fork_generation)
        return FAN_FORKED;
    const struct fan_event *event = NULL;
    enum fan_status status = step(reader, timeout_ms, &event);
    if (status == FAN_OK) {
        reader->delivered++;
        *ret_event = event;
    }
    raise_behind(reader);
    return status;
}

void fan_reader_gap(const struct fan_reader *reader, struct fan_gap *ret_gap)
{
    *ret_gap = reader->cursor.gap;
}

void fan_reader_cursor(const struct fan_reader *reader, struct fan_cursor *ret_cursor)
{
    ret_cursor->seq = reader->cursor.seq;
    ret_cursor->epoch = fan_store_epoch(reader->broker->store);
}

static int watch(int epoll_fd, int fd)
{
    struct epoll_event event = { .events = EPOLLIN, .data.fd = fd };
    return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

enum fan_status fan_reader_fd(struct fan_reader *reader, int *ret_fd)
{
    if (reader->epoll_fd < 0) {
        int subscription_fd;
        enum fan_status status = fan_subscription_fd(reader->subscription, &subscription_fd);
        if (status != FAN_OK)
            return status;
        int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        int behind_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (epoll_fd < 0 || behind_fd < 0 || watch(epoll_fd, subscription_fd) != 0 ||
            watch(epoll_fd, behind_fd) != 0) {
            if (epoll_fd >= 0)
                close(epoll_fd);
            if (behind_fd >= 0)
                close(behind_fd);
            return FAN_IO;
        }
        reader->epoll_fd = epoll_fd;
        reader->behind_fd = behind_fd;
        raise_behind(reader);
    }
    *ret_fd = reader->epoll_fd;
    return FAN_OK;
}

void fan_reader_unsubscribe(struct fan_reader *reader)
{
    fan__flag_set(&reader->unsubscribed);
    fan_subscription_unsubscribe(reader->subscription);
}

void fan_reader_free(struct fan_reader *reader)
{
    if (!reader || fan__fork_generation() != reader->broker->fork_generation)
        return;
    struct fan_broker *broker = reader->broker;
    if (reader->epoll_fd >= 0)
        close(reader->epoll_fd);
    if (reader->behind_fd >= 0)
        close(reader->behind_fd);
    fan_subscription_free(reader->subscription);
    fan_cancel_unref(reader->cancel);
    fan_batch_free(reader->page);
    fan__free(broker->env, reader->topic);
    fan__free(broker->env, reader->pattern);
    fan__free(broker->env, reader);
    fan__mutex_lock(&broker->mutex);
    broker->stats.readers--;
    fan__mutex_unlock(&broker->mutex);
}

void fan_reader_stats(const struct fan_reader *reader, struct fan_reader_stats *ret_stats)
{
    struct fan_broker_stats broker_stats = { .size = sizeof(broker_stats) };
    fan_broker_stats(reader->broker, &broker_stats);
    size_t size = ret_stats->size < sizeof(*ret_stats) ? ret_stats->size : sizeof(*ret_stats);
    struct fan_reader_stats stats = {
        .size = size,
        .delivered = reader->delivered,
        .gaps = reader->gaps,
        .refills = reader->cursor.refills,
        .lag = broker_stats.notified_seq > reader->cursor.seq
                   ? broker_stats.notified_seq - reader->cursor.seq
                   : 0,
        .live = reader->cursor.state == FAN__CURSOR_LIVE && !reader->page_held,
    };
    memcpy(ret_stats, &stats, size);
}
