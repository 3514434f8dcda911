/*
 * Reading: poll, yield, sleep, and the signals that end a sleep. `readable` follows what a read
 * would return; the descriptor, the sleeper and the wake follow `readable`, so a reader that is
 * awake costs a publisher no system call.
 */
#include "bus/bus.h"

#include "bus/notify.h"

#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum fan_status fan__subscription_peek(const struct fan_subscription *subscription)
{
    if (fan__queue_loss(&subscription->queue)->count > 0)
        return FAN_GAP;
    if (subscription->queue.count > 0)
        return FAN_OK;
    return subscription->list ? FAN_AGAIN : FAN_CLOSED;
}

static void set_descriptor(int descriptor, bool readable)
{
    uint64_t value = 1;
    ssize_t done;
    do {
        done = readable ? write(descriptor, &value, sizeof(value))
                        : read(descriptor, &value, sizeof(value));
    } while (done < 0 && errno == EINTR);
    assert(done == sizeof(value));
}

void fan__subscription_settle(struct fan_subscription *subscription)
{
    struct fan_bus *bus = subscription->bus;
    bool readable = fan__subscription_peek(subscription) != FAN_AGAIN;
    if (readable && subscription->sleeping) {
        subscription->sleeping = false;
        fan__cond_broadcast(&subscription->cond);
    }
    /*
     * relaxed, here and below: it is written under this lock, and who peeks looks again under it.
     */
    if (readable == atomic_load_explicit(&subscription->readable, memory_order_relaxed))
        return;
    atomic_store_explicit(&subscription->readable, readable, memory_order_relaxed);
    if (subscription->descriptor >= 0)
        set_descriptor(subscription->descriptor, readable);
    if (!readable || !subscription->wake)
        return;
    if (subscription->waking) {
        subscription->wake_again = true;
    } else {
        subscription->waking = true;
        subscription->woken_next = bus->woken;
        bus->woken = subscription;
    }
}

void fan__subscription_release(struct fan_subscription *subscription, struct fan__block *block)
{
    subscription->held_size -= block->size;
    fan__bus_release(subscription->bus, block);
}

static void take_back(struct fan_subscription *subscription)
{
    if (subscription->lent_count == 0)
        return;
    for (size_t i = 0; i < subscription->lent_count; i++)
        fan__subscription_release(subscription, subscription->lent[i]);
    subscription->lent_count = 0;
    fan__bus_open_gate(subscription->bus);
}

/* Gives the processor away for a while, without the lock, in the hope that something comes. */
static void yield_for_a_while(struct fan_subscription *subscription, int64_t deadline_ns)
{
    fan__bus_leave(subscription->bus);
    int64_t until_ns = fan__deadline_ns(0) + subscription->yield_us * FAN__NS_PER_US;
    if (until_ns > deadline_ns)
        until_ns = deadline_ns;
    /* relaxed: who sees it set looks again under the lock. */
    while (!atomic_load_explicit(&subscription->readable, memory_order_relaxed) &&
           fan__deadline_ns(0) < until_ns)
        sched_yield();
    fan__bus_enter(subscription->bus);
}

/* What a read returns once something is there or the time has passed. */
static enum fan_status wait_readable(struct fan_subscription *subscription, uint32_t timeout_ms)
{
    enum fan_status status = fan__subscription_peek(subscription);
    if (status != FAN_AGAIN || timeout_ms == 0)
        return status;
    int64_t deadline_ns = fan__deadline_ns(timeout_ms);
    if (subscription->yield_us > 0)
        yield_for_a_while(subscription, deadline_ns);
    bool in_time = true;
    while ((status = fan__subscription_peek(subscription)) == FAN_AGAIN && in_time) {
        subscription->sleeping = true;
        in_time = fan__cond_wait_until(&subscription->cond, &subscription->bus->mutex, deadline_ns);
        subscription->sleeping = false;
    }
    return status;
}

static void note_gap(struct fan_subscription *subscription)
{
    const struct fan__loss *loss = fan__queue_loss(&subscription->queue);
    subscription->gap = (struct fan_gap){ .after = loss->first - 1,
                                          .before = loss->last + 1,
                                          .count = loss->count,
                                          .reason = FAN_GAP_OVERFLOW };
    fan__queue_clear_loss(&subscription->queue);
}

/* Takes messages out of the queue, up to the next loss, and lends them to the reader. */
static void lend(struct fan_subscription *subscription, size_t count_max)
{
    struct fan__queue *queue = &subscription->queue;
    while (subscription->lent_count < count_max && queue->count > 0 &&
           fan__queue_loss(queue)->count == 0)
        subscription->lent[subscription->lent_count++] = fan__queue_pop(queue);
    subscription->counters.queued -= subscription->lent_count;
    subscription->counters.delivered += subscription->lent_count;
    fan__bus_open_gate(subscription->bus);
}

static enum fan_status read_many(struct fan_subscription *subscription, uint32_t timeout_ms,
                                 size_t count_max)
{
    struct fan_bus *bus = subscription->bus;
    if (fan__bus_forked(bus))
        return FAN_FORKED;
    if (count_max > subscription->lent_count_max)
        count_max = subscription->lent_count_max;
    fan__bus_enter(bus);
    assert(!subscription->sleeping); /* one reader at a time */
    take_back(subscription);
    enum fan_status status = wait_readable(subscription, timeout_ms);
    if (status == FAN_GAP)
        note_gap(subscription);
    else if (status == FAN_OK)
        lend(subscription, count_max);
    fan__subscription_settle(subscription);
    fan__bus_leave(bus);
    return status;
}

enum fan_status fan_subscription_next(struct fan_subscription *subscription, uint32_t timeout_ms,
                                      const struct fan_message **ret_message)
{
    enum fan_status status = read_many(subscription, timeout_ms, 1);
    if (status == FAN_OK)
        *ret_message = &subscription->lent[0]->message;
    return status;
}

enum fan_status fan_subscription_next_many(struct fan_subscription *subscription,
                                           uint32_t timeout_ms,
                                           const struct fan_message **ret_messages,
                                           size_t count_max, size_t *ret_count)
{
    if (count_max == 0)
        return FAN_INVALID;
    enum fan_status status = read_many(subscription, timeout_ms, count_max);
    if (status != FAN_OK)
        return status;
    for (size_t i = 0; i < subscription->lent_count; i++)
        ret_messages[i] = &subscription->lent[i]->message;
    *ret_count = subscription->lent_count;
    return FAN_OK;
}

void fan_subscription_gap(const struct fan_subscription *subscription, struct fan_gap *ret_gap)
{
    *ret_gap = subscription->gap;
}

enum fan_status fan_subscription_fd(struct fan_subscription *subscription, int *ret_fd)
{
    struct fan_bus *bus = subscription->bus;
    if (fan__bus_forked(bus))
        return FAN_FORKED;
    fan__bus_enter(bus);
    if (subscription->descriptor < 0) {
        /* relaxed: it is written under this lock. */
        bool readable = atomic_load_explicit(&subscription->readable, memory_order_relaxed);
        subscription->descriptor = eventfd(readable ? 1 : 0, EFD_CLOEXEC | EFD_NONBLOCK);
    }
    int descriptor = subscription->descriptor;
    fan__bus_leave(bus);
    if (descriptor < 0)
        return FAN_IO;
    *ret_fd = descriptor;
    return FAN_OK;
}

void fan__subscription_set_wake(struct fan_subscription *subscription, void (*wake)(void *context),
                                void *context)
{
    struct fan_bus *bus = subscription->bus;
    if (fan__bus_forked(bus))
        return;
    fan__bus_enter(bus);
    while (subscription->waking)
        fan__cond_wait(&subscription->cond, &bus->mutex);
    subscription->wake = wake;
    subscription->wake_context = context;
    if (wake && fan__subscription_peek(subscription) != FAN_AGAIN) {
        subscription->waking = true;
        subscription->woken_next = NULL;
        bus->woken = subscription;
    }
    fan__bus_leave(bus);
}

void fan_subscription_counters(struct fan_subscription *subscription,
                               struct fan_subscription_counters *ret_counters)
{
    struct fan_subscription_counters counters = { .size = 0 };
    if (!fan__bus_forked(subscription->bus)) {
        fan__bus_enter(subscription->bus);
        counters = subscription->counters;
        fan__bus_leave(subscription->bus);
    }
    size_t size = ret_counters->size < sizeof(counters) ? ret_counters->size : sizeof(counters);
    counters.size = size;
    memcpy(ret_counters, &counters, size);
}
