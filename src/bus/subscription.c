/*
 * Waiting and being told: spin, yield, sleep, the descriptor, the wake. turn.c argues why no wake
 * is lost. A reader that is awake and has neither descriptor nor wake is never told anything, and
 * costs a publisher no system call.
 */
#include "bus/read.h"

#include "base/futex.h"
#include "bus/notify.h"

#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define PAUSE_COUNT 8
#define PROBE_COUNT 256
/*
 * What comes more often than every so many ns is let gather: so many, for so long at most, and if
 * more came after the first look. Where none did, more and more reads go by before that is tried
 * again, so many at most.
 */
#define LINGER_EVERY_NS 250
#define LINGER_COUNT_MAX 256
#define LINGER_SHARE 4
#define LINGER_NS_MAX 8000
#define LINGER_LOOK_NS 1000
#define LINGER_SKIP_COUNT_MAX 256
/*
 * In a crowd, and for so long after a loss: the time in which an eighth of the buffer fills, if
 * messages come more often than every so many ns, and timers are exact enough for it.
 */
#define NAP_AFTER_LOSS_NS 1000000000
#define NAP_EVERY_NS 10000
#define NAP_SHARE 8
#define NAP_NS_MIN 100000
#define NAP_NS_MAX 200000
#define PACE_NS 1000000
/* What a yield is taken to cost a reader that blocks, at most. */
#define YIELD_NS_MAX 1000

static enum fan_status peek_queue(struct fan_subscription *subscription)
{
    fan__mutex_lock(&subscription->lock);
    fan__subscription_fold(subscription);
    bool lost = fan__queue_loss(&subscription->queue)->count > 0;
    bool has = fan__queue_count(&subscription->queue) > 0;
    fan__mutex_unlock(&subscription->lock);
    if (lost)
        return FAN_GAP;
    if (has)
        return FAN_OK;
    return subscription->ended ? FAN_CLOSED : FAN_AGAIN;
}

enum fan_status fan__subscription_peek(struct fan_subscription *subscription)
{
    /* seq_cst: a reader moves its place, then looks whether it is watched; we the other way. */
    uint64_t place = atomic_load_explicit(&subscription->place, memory_order_seq_cst);
    if (place & FAN__PLACE_QUEUED)
        return peek_queue(subscription);
    uint64_t unread = fan__subscription_end_of(subscription, NULL) - (place >> FAN__PLACE_SHIFT);
    if (unread > 0)
        return unread > subscription->buffer_count ? FAN_GAP : FAN_OK;
    return subscription->ended ? FAN_CLOSED : FAN_AGAIN;
}

static void clear_descriptor(int descriptor)
{
    uint64_t value;
    ssize_t done;
    do {
        done = read(descriptor, &value, sizeof(value));
    } while (done < 0 && errno == EINTR);
    assert(done == sizeof(value));
}

static bool sleeps(const struct fan_subscription *subscription)
{
    /* relaxed: it is set in the turn. */
    return atomic_load_explicit(&subscription->sleep_word, memory_order_relaxed) != 0;
}

static bool is_watched(const struct fan_subscription *subscription)
{
    /* seq_cst: see peek. */
    return atomic_load_explicit(&subscription->watched, memory_order_seq_cst);
}

void fan__subscription_settle(struct fan_subscription *subscription)
{
    if (fan__subscription_peek(subscription) != FAN_AGAIN) {
        if (!fan__link_alone(&subscription->armed_link) ||
            (is_watched(subscription) && !subscription->signalled))
            fan__subscription_touch(subscription);
        return;
    }
    if (subscription->signalled && subscription->descriptor >= 0)
        clear_descriptor(subscription->descriptor);
    subscription->signalled = false;
    if (is_watched(subscription) || sleeps(subscription))
        fan__link_join(&subscription->lane->armed, &subscription->armed_link);
}

/* A look without the turn, for one who will look again. */
static bool looks_readable(const struct fan_subscription *subscription)
{
    uint64_t place = atomic_load_explicit(&subscription->place, memory_order_relaxed);
    const struct fan__lane *lane = subscription->lane;
    /* relaxed: reading looks again. */
    if (atomic_load_explicit(&subscription->limit, memory_order_relaxed) != FAN__NO_LIMIT)
        return true;
    uint64_t tail = atomic_load_explicit(&lane->tail, memory_order_relaxed);
    if (place & FAN__PLACE_QUEUED)
        return tail != subscription->seen_tail;
    return tail != place >> FAN__PLACE_SHIFT;
}

/* Not to look too often: each look takes the line from the publisher who writes it. */
static void pause_looking(void)
{
    for (unsigned i = 0; i < PAUSE_COUNT; i++)
        fan__spin_pause();
}

static bool spin_until(const struct fan_subscription *subscription, int64_t until_ns)
{
    while (!looks_readable(subscription)) {
        if (fan__deadline_ns(0) >= until_ns)
            return false;
        pause_looking();
    }
    return true;
}

/* Whether a reader that spins takes the processor from nobody. */
static bool has_processor(const struct fan_subscription *subscription)
{
    const struct fan_bus *bus = subscription->bus;
    /* relaxed: a guess. */
    return atomic_load_explicit(&bus->subscription_count, memory_order_relaxed) <
           bus->processor_count;
}

/* How often messages come, in ns, over the last while that is long enough to tell. */
static int64_t pace_ns(struct fan_subscription *subscription, int64_t now_ns)
{
    struct fan__pace *pace = &subscription->pace;
    int64_t elapsed_ns = now_ns - pace->since_ns;
    if (elapsed_ns >= PACE_NS) {
        /* relaxed: a guess. */
        uint64_t tail = atomic_load_explicit(&subscription->lane->tail, memory_order_relaxed);
        int64_t count = (int64_t)(tail - pace->tail);
        pace->every_ns = count > 0 ? elapsed_ns / count : elapsed_ns;
        pace->since_ns = now_ns;
        pace->tail = tail;
    }
    return pace->every_ns;
}

/* How many messages it would find on the ring; SIZE_MAX when it need not wait for more. */
static size_t count_unread(const struct fan_subscription *subscription)
{
    /* relaxed: as in looks_readable. */
    uint64_t place = atomic_load_explicit(&subscription->place, memory_order_relaxed);
    uint64_t tail = atomic_load_explicit(&subscription->lane->tail, memory_order_relaxed);
    uint64_t limit = atomic_load_explicit(&subscription->limit, memory_order_relaxed);
    if ((place & FAN__PLACE_QUEUED) || limit != FAN__NO_LIMIT)
        return SIZE_MAX;
    return (size_t)(tail - (place >> FAN__PLACE_SHIFT));
}

static int64_t pause_until(int64_t until_ns, bool alone)
{
    int64_t now_ns;
    do {
        if (alone)
            pause_looking();
        else
            sched_yield();
        now_ns = fan__deadline_ns(0);
    } while (now_ns < until_ns);
    return now_ns;
}

/*
 * One who is as fast as the publisher would fetch each message by itself, and the lines would go to
 * and fro between the two for each. So when it has read all that was there, it lets a part of its
 * buffer fill before it reads again. In a crowd others read meanwhile.
 */
static void linger(struct fan_subscription *subscription, int64_t now_ns, int64_t deadline_ns)
{
    bool alone = has_processor(subscription);
    int64_t every_ns = pace_ns(subscription, now_ns);
    if (every_ns > LINGER_EVERY_NS)
        return;
    size_t wanted = subscription->buffer_count / LINGER_SHARE;
    if (wanted > LINGER_COUNT_MAX)
        wanted = LINGER_COUNT_MAX;
    int64_t until_ns = now_ns + subscription->yield_us * FAN__NS_PER_US;
    if (until_ns > now_ns + LINGER_NS_MAX)
        until_ns = now_ns + LINGER_NS_MAX;
    if (until_ns > deadline_ns)
        until_ns = deadline_ns;
    int64_t look_ns = now_ns + LINGER_LOOK_NS;
    for (size_t unread = count_unread(subscription); unread < wanted && now_ns < until_ns;) {
        size_t before = unread;
        now_ns = pause_until(look_ns < until_ns ? look_ns : until_ns, alone);
        unread = count_unread(subscription);
        if (unread == before) {
            if (subscription->fruitless < LINGER_SKIP_COUNT_MAX)
                subscription->fruitless = 2 * subscription->fruitless + 1;
            subscription->linger_skips = subscription->fruitless;
            return;
        }
        subscription->fruitless = 0;
        look_ns = now_ns + every_ns * (int64_t)(unread < wanted ? wanted - unread : 0);
    }
}

/* Before it looks for more. */
static void linger_if_caught_up(struct fan_subscription *subscription, uint32_t timeout_ms)
{
    bool caught_up = subscription->caught_up;
    subscription->caught_up = false;
    if (!caught_up || timeout_ms == 0 || subscription->yield_us == 0)
        return;
    if (subscription->linger_skips > 0)
        subscription->linger_skips--;
    else
        linger(subscription, fan__deadline_ns(0), fan__deadline_ns(timeout_ms));
}

/*
 * In a crowd, one who yields to a publisher that waits for nobody comes back after a whole slice of
 * his, and has lost what did not fit its buffer. One who sleeps for a part of that is given a
 * processor when it wakes. Nobody is told of this sleep, nor ends it, be it by a close: a wake
 * would cost a publisher more than a message. Gives whether it slept.
 */
static bool nap(struct fan_subscription *subscription, int64_t now_ns, int64_t deadline_ns)
{
    bool lost = subscription->lost_ns != 0 && now_ns - subscription->lost_ns < NAP_AFTER_LOSS_NS;
    if (!lost || has_processor(subscription))
        return false;
    int64_t every_ns = pace_ns(subscription, now_ns);
    if (every_ns > NAP_EVERY_NS)
        return false;
    int64_t nap_ns = every_ns * (int64_t)(subscription->buffer_count / NAP_SHARE);
    if (nap_ns < NAP_NS_MIN)
        return false;
    int64_t until_ns = now_ns + (nap_ns < NAP_NS_MAX ? nap_ns : NAP_NS_MAX);
    (void)fan__futex_wait(&subscription->sleep_word, 0,
                          until_ns < deadline_ns ? until_ns : deadline_ns);
    return true;
}

/*
 * Waits without giving the processor away, which helps as long as the publisher has another one,
 * and takes it from nobody while there are fewer readers than processors: so for twice as long each
 * time that it helped, for half as long when it did not, and now and then to see whether it would.
 */
static bool spin_for_a_while(struct fan_subscription *subscription, int64_t now_ns,
                             int64_t until_ns)
{
    int64_t spin_ns_max = (until_ns - now_ns) / 2;
    int64_t spin_ns = subscription->spin_ns;
    if (!has_processor(subscription))
        return false;
    if (subscription->wait_count++ % PROBE_COUNT == 0 || spin_ns > spin_ns_max)
        spin_ns = spin_ns_max;
    bool helped = spin_until(subscription, now_ns + spin_ns);
    subscription->spin_ns = helped ? 2 * spin_ns : subscription->spin_ns / 2;
    return helped;
}

/*
 * Stays awake for a while in the hope that something comes. What others run while it yields is not
 * its time where a publisher waits for all of them: each would else sleep, and be woken, at each of
 * its turns. Where none waits, one who sleeps is given a processor sooner than one who yielded.
 */
static void stay_awake(struct fan_subscription *subscription, int64_t deadline_ns)
{
    int64_t now_ns = fan__deadline_ns(0);
    int64_t left_ns = subscription->yield_us * FAN__NS_PER_US;
    int64_t until_ns = now_ns + left_ns < deadline_ns ? now_ns + left_ns : deadline_ns;
    int64_t yield_ns_max = subscription->policy == FAN_POLICY_BLOCK ? YIELD_NS_MAX : INT64_MAX;
    if (nap(subscription, now_ns, deadline_ns))
        return;
    if (spin_for_a_while(subscription, now_ns, until_ns))
        return;
    for (now_ns = fan__deadline_ns(0); left_ns > 0 && now_ns < deadline_ns;) {
        if (looks_readable(subscription))
            return;
        int64_t before_ns = now_ns;
        sched_yield();
        now_ns = fan__deadline_ns(0);
        int64_t taken_ns = now_ns - before_ns;
        left_ns -= taken_ns < yield_ns_max ? taken_ns : yield_ns_max;
    }
}

/* False when the deadline passed. */
static bool sleep_until(struct fan_subscription *subscription, int64_t deadline_ns)
{
    struct fan_bus *bus = subscription->bus;
    bool in_time = true;
    fan__bus_enter(bus);
    assert(!sleeps(subscription)); /* one reader at a time */
    bool nothing = fan__subscription_peek(subscription) == FAN_AGAIN;
    if (nothing) {
        /* relaxed: the turn orders it for those who tell. */
        atomic_store_explicit(&subscription->sleep_word, 1, memory_order_relaxed);
        fan__link_join(&subscription->lane->armed, &subscription->armed_link);
    }
    fan__bus_leave(bus);
    if (!nothing)
        return true;
    /* acquire: who sees that it was woken sees what for. */
    while (in_time && atomic_load_explicit(&subscription->sleep_word, memory_order_acquire) != 0)
        in_time = fan__futex_wait(&subscription->sleep_word, 1, deadline_ns);
    if (atomic_load_explicit(&subscription->sleep_word, memory_order_acquire) != 0) {
        fan__bus_enter(bus);
        atomic_store_explicit(&subscription->sleep_word, 0, memory_order_relaxed);
        if (!is_watched(subscription))
            fan__link_leave(&subscription->armed_link);
        fan__bus_leave(bus);
    }
    fan__chain_go_on(subscription);
    return in_time;
}

static enum fan_status wait_and_read(struct fan_subscription *subscription, uint32_t timeout_ms,
                                     size_t count_max)
{
    int64_t deadline_ns = fan__deadline_ns(timeout_ms);
    enum fan_status status = FAN_AGAIN;
    if (subscription->yield_us > 0) {
        stay_awake(subscription, deadline_ns);
        status = fan__subscription_read(subscription, count_max);
    }
    for (bool in_time = true; status == FAN_AGAIN && in_time;) {
        in_time = sleep_until(subscription, deadline_ns);
        status = fan__subscription_read(subscription, count_max);
    }
    return status;
}

/* Whether the descriptor may have to be cleared. */
static bool seems_empty(struct fan_subscription *subscription)
{
    uint64_t place = atomic_load_explicit(&subscription->place, memory_order_relaxed);
    /* relaxed: who makes it readable later tells it. */
    if (atomic_load_explicit(&subscription->limit, memory_order_relaxed) != FAN__NO_LIMIT)
        return false;
    if (!(place & FAN__PLACE_QUEUED))
        return !looks_readable(subscription);
    fan__mutex_lock(&subscription->lock);
    bool empty = fan__queue_count(&subscription->queue) == 0 &&
                 fan__queue_loss(&subscription->queue)->count == 0;
    fan__mutex_unlock(&subscription->lock);
    return empty;
}

static enum fan_status read_many(struct fan_subscription *subscription, uint32_t timeout_ms,
                                 size_t count_max)
{
    struct fan_bus *bus = subscription->bus;
    if (fan__bus_forked(bus))
        return FAN_FORKED;
    fan__subscription_take_back(subscription);
    count_max = fan__subscription_make_lent(subscription, count_max);
    linger_if_caught_up(subscription, timeout_ms);
    enum fan_status status = fan__subscription_read(subscription, count_max);
    if (status == FAN_AGAIN && timeout_ms > 0)
        status = wait_and_read(subscription, timeout_ms, count_max);
    if (is_watched(subscription) && status != FAN_AGAIN && seems_empty(subscription)) {
        fan__bus_enter(bus);
        fan__subscription_settle(subscription);
        fan__bus_leave(bus);
    }
    return status;
}

enum fan_status fan_subscription_next(struct fan_subscription *subscription, uint32_t timeout_ms,
                                      const struct fan_message **ret_message)
{
    enum fan_status status = read_many(subscription, timeout_ms, 1);
    if (status == FAN_OK)
        *ret_message = fan__subscription_lent(subscription);
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
    fan__subscription_lent_all(subscription, ret_messages);
    *ret_count = subscription->lent_count;
    return FAN_OK;
}

void fan_subscription_gap(const struct fan_subscription *subscription, struct fan_gap *ret_gap)
{
    *ret_gap = subscription->gap;
}

static void watch(struct fan_subscription *subscription)
{
    /* seq_cst: see peek. */
    atomic_store_explicit(&subscription->watched,
                          subscription->descriptor >= 0 || subscription->wake,
                          memory_order_seq_cst);
}

enum fan_status fan_subscription_fd(struct fan_subscription *subscription, int *ret_fd)
{
    struct fan_bus *bus = subscription->bus;
    if (fan__bus_forked(bus))
        return FAN_FORKED;
    fan__bus_enter(bus);
    if (subscription->descriptor < 0) {
        subscription->descriptor =
            eventfd(subscription->signalled ? 1 : 0, EFD_CLOEXEC | EFD_NONBLOCK);
        watch(subscription);
        fan__subscription_settle(subscription);
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
    fan__bus_await_wake(subscription);
    subscription->wake = wake;
    subscription->wake_context = context;
    watch(subscription);
    bool readable = fan__subscription_peek(subscription) != FAN_AGAIN;
    if (wake && readable) {
        /* The descriptor, if there is one, is set already. */
        subscription->signalled = true;
        subscription->waking = true;
        subscription->woken_next = bus->woken;
        bus->woken = subscription;
    } else if (is_watched(subscription)) {
        fan__subscription_settle(subscription);
    } else {
        subscription->signalled = false;
        if (!sleeps(subscription))
            fan__link_leave(&subscription->armed_link);
    }
    fan__bus_leave(bus);
}

void fan__subscription_count(struct fan_subscription *subscription,
                             struct fan_subscription_counters *ret_counters)
{
    uint64_t limit;
    uint64_t end = fan__subscription_end_of(subscription, &limit);
    fan__mutex_lock(&subscription->lock);
    fan__subscription_fold(subscription);
    /* acquire: what it counted before it moved its place. */
    uint64_t place = atomic_load_explicit(&subscription->place, memory_order_acquire);
    uint64_t queued = fan__queue_count(&subscription->queue);
    uint64_t dropped =
        subscription->dropped + atomic_load_explicit(&subscription->lapped, memory_order_relaxed);
    uint64_t queued_max = subscription->queued_max;
    fan__mutex_unlock(&subscription->lock);
    if (!(place & FAN__PLACE_QUEUED)) {
        uint64_t unread = end - (place >> FAN__PLACE_SHIFT);
        queued = unread < subscription->buffer_count ? unread : subscription->buffer_count;
        dropped += unread - queued;
    }
    /* relaxed, here and above: exact when the reader stands still. */
    uint64_t seen = atomic_load_explicit(&subscription->queued_max_lane, memory_order_relaxed);
    queued_max = seen > queued_max ? seen : queued_max;
    *ret_counters = (struct fan_subscription_counters){
        .size = sizeof(*ret_counters),
        .matched = end - subscription->start,
        .delivered = atomic_load_explicit(&subscription->delivered, memory_order_relaxed),
        .dropped = dropped,
        .conflated = subscription->conflated,
        .discarded = subscription->discarded,
        .queued = queued,
        .queued_max = queued > queued_max ? queued : queued_max,
    };
}

void fan_subscription_counters(struct fan_subscription *subscription,
                               struct fan_subscription_counters *ret_counters)
{
    struct fan_subscription_counters counters = { .size = 0 };
    if (!fan__bus_forked(subscription->bus)) {
        fan__bus_enter(subscription->bus);
        fan__subscription_count(subscription, &counters);
        fan__bus_leave(subscription->bus);
    }
    size_t size = ret_counters->size < sizeof(counters) ? ret_counters->size : sizeof(counters);
    counters.size = size;
    memcpy(ret_counters, &counters, size);
}
