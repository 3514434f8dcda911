/*
 * A subscription to a bus: a filter, a bounded buffer, and what happens when it is full.
 *
 *     subscribe -> live --cancel, bus close--> ending (reads what is buffered) -> closed
 *                       --unsubscribe--------> closed (what was buffered is discarded, counted)
 *
 * It reads strictly rising sequences. When it lost messages it is told so, once and exactly, ahead
 * of the next one. Closed is reported for ever. One thread at a time reads; the others may
 * unsubscribe, cancel and look at counters.
 */
#ifndef FANFARE_SUBSCRIPTION_H
#define FANFARE_SUBSCRIPTION_H

#include <fanfare/bus.h>
#include <fanfare/cursor.h>

#ifdef __cplusplus
extern "C" {
#endif

struct fan_cancel;

#define FAN_BUFFER_COUNT 1024
#define FAN_TIMEOUT_FOREVER UINT32_MAX

enum fan_policy {
    FAN_POLICY_DEFAULT = 0,     /* drop newest on a bare bus, refill over a store */
    FAN_POLICY_DROP_NEWEST = 1, /* a full buffer keeps what it has */
    FAN_POLICY_DROP_OLDEST = 2, /* a full buffer makes room for what comes */
    FAN_POLICY_LATEST = 3, /* the last message per topic and type; replaced ones are conflated */
    FAN_POLICY_BLOCK = 4,  /* a bare bus only: the publisher waits, up to its deadline */
    FAN_POLICY_REFILL = 5, /* over a store only: what was lost is read from the log */
};

/*
 * What to receive and how. Where several of topic, kinds and pattern are given, all must match.
 *
 * topic         NULL for every topic
 * kinds         indices into the bus's set; a duplicate counts once, none is an error on a bus
 *               with kinds
 * all_kinds     every kind, instead of a list
 * pattern       on the type (pattern.h), NULL for every type
 * buffer_count  0 for FAN_BUFFER_COUNT; with FAN_POLICY_LATEST the bound on topics and types
 * cancel        ends the subscription when it fires; may be NULL
 * yield_us      how long a read that waits stays awake before it sleeps, up to 1,000. 0: it sleeps
 *               at once, and takes no processor time. 50: what comes within that time is read
 *               some hundred times sooner, for up to 50 us of a processor at each wait. In a flood
 *               of messages a read may then lag by up to 0.2 ms, also behind an end
 */
struct fan_subscription_options {
    size_t size;
    const char *topic;
    const unsigned *kinds;
    size_t kind_count;
    bool all_kinds;
    const char *pattern;
    enum fan_policy policy;
    size_t buffer_count;
    struct fan_cancel *cancel;
    unsigned yield_us;
};

#define FAN_SUBSCRIPTION_OPTIONS_SIZE sizeof(struct fan_subscription_options)

struct fan_subscription_counters {
    size_t size;
    uint64_t matched;
    uint64_t delivered;
    uint64_t dropped;
    uint64_t conflated;
    uint64_t discarded;
    uint64_t queued;
    uint64_t queued_max;
};

/*
 * Subscribes. `options` may be NULL on a bus without kinds: everything.
 *
 * Returns: FAN_CLOSED on a closed bus; FAN_INVALID with the field at fault; FAN_UNSUPPORTED for
 *          FAN_POLICY_REFILL on a bare bus; FAN_MISUSE for FAN_POLICY_BLOCK on a bus not opened for
 *          it; FAN_NO_MEMORY, also for FAN_POLICY_LATEST with a larger buffer than the bus's bound
 *          on memory has room for; FAN_FORKED.
 * Memory:  options are copied. *ret_subscription is yours, for fan_subscription_free.
 * Thread:  any. Blocks: never.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_bus_subscribe(
    struct fan_bus *bus, const struct fan_subscription_options *options,
    struct fan_subscription **ret_subscription, struct fan_error *ret_error);

/*
 * Takes the next message, waiting up to timeout_ms (0 polls, FAN_TIMEOUT_FOREVER waits for good).
 *
 * Returns: FAN_AGAIN when none came in time; FAN_GAP when messages were lost, told by
 *          fan_subscription_gap, the next call goes on behind it; FAN_CLOSED at the end;
 *          FAN_FORKED.
 * Memory:  *ret_message is borrowed until the next read on this subscription.
 * Thread:  one reader at a time. Blocks: up to timeout_ms.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_subscription_next(
    struct fan_subscription *subscription, uint32_t timeout_ms,
    const struct fan_message **ret_message);

/*
 * Takes messages that follow each other without loss, waiting for the first as
 * fan_subscription_next does: up to count_max, but never more than 256, than its buffer_count, or
 * than fit 64 KiB of the room told below (18 with the largest slots). ret_messages has room for
 * count_max pointers.
 *
 * Returns: as fan_subscription_next; FAN_INVALID for a count_max of 0. With FAN_OK, *ret_count is
 *          at least 1.
 * Memory:  the messages are borrowed until the next read on this subscription. It keeps room for
 *          the largest count_max (within those bounds) that it was asked for, 80 bytes and what
 *          fits a slot for each (168 bytes with slots of 128, so 10.5 KiB for 64), until it is
 *          freed. Without memory for that, it takes one at a time.
 * Thread:  one reader at a time. Blocks: up to timeout_ms.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_subscription_next_many(
    struct fan_subscription *subscription, uint32_t timeout_ms,
    const struct fan_message **ret_messages, size_t count_max, size_t *ret_count);

/* Tells the loss that the last read reported with FAN_GAP. Thread: the reader. Blocks: never. */
FAN_API void fan_subscription_gap(const struct fan_subscription *subscription,
                                  struct fan_gap *ret_gap);

/*
 * Gives a descriptor for poll, epoll or libuv: readable, level-triggered, while a read would not
 * return FAN_AGAIN. Read with timeout 0 when it is; never read or close the descriptor itself.
 *
 * Returns: FAN_IO when the process has no descriptor left; FAN_FORKED.
 * Memory:  the descriptor lives as long as the subscription.
 * Thread:  the reader. Blocks: never.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_subscription_fd(struct fan_subscription *subscription,
                                                           int *ret_fd);

/*
 * Ends the subscription: nothing more is delivered, what is buffered is discarded and counted. A
 * reader that waits returns FAN_CLOSED. Again does nothing.
 *
 * Thread: any. Blocks: never.
 */
FAN_API void fan_subscription_unsubscribe(struct fan_subscription *subscription);

/*
 * Ends the subscription as a cancel token does: what is buffered can still be read.
 *
 * Thread: any. Blocks: never.
 */
FAN_API void fan_subscription_cancel(struct fan_subscription *subscription);

/* Unsubscribes if need be and frees. Accepts NULL. Thread: any, while no other call on it runs. */
FAN_API void fan_subscription_free(struct fan_subscription *subscription);

/* Reads the counters; set ret_counters->size first. Thread: any. Blocks: short locks only. */
FAN_API void fan_subscription_counters(struct fan_subscription *subscription,
                                       struct fan_subscription_counters *ret_counters);

#ifdef __cplusplus
}
#endif

#endif
