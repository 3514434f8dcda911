/*
 * The bus: fan-out of messages within one process, with bounded memory and exact accounts. It keeps
 * nothing: what must survive goes through a broker (broker.h), whose doorbell this is.
 *
 *     open -> publish, subscribe ... -> close (refuses, ends every subscription) -> free
 *
 * A bus may have a closed set of kinds (up to 64, each with its C struct: see kind.h) or, without
 * one, take any type string with opaque bytes. Sequences ("versions") start at 1 and rise by 1 per
 * publish. Publish never waits for a subscriber, but for one with FAN_POLICY_BLOCK.
 *
 * At quiescence, for each subscription since it attached,
 *     matched = delivered + dropped + conflated + discarded + queued
 * and the bus totals are the sums, departed subscriptions included.
 *
 * In a fork's child, what the parent opened answers FAN_FORKED, or does nothing.
 *
 * Subscriptions with the same topic, kinds and pattern share a ring, into which a message is
 * written once. A subscriber that stands still costs the publisher and the others nothing.
 *
 * Limits: 1,024 messages a subscription, 64 MiB of held messages a bus (defaults), 64 rings within
 * a quarter of that, for the filters that get messages first; topic and type 255 bytes. With slots
 * of 128 bytes a subscription takes less than 1 KiB, and up to 48 bytes more, out of that bound,
 * for each message of its buffer while it is too slow for its ring. FAN_POLICY_LATEST takes up to
 * 56 bytes for each from the start. One that reads in batches keeps room for the largest (see
 * fan_subscription_next_many).
 */
#ifndef FANFARE_BUS_H
#define FANFARE_BUS_H

#include <fanfare/event.h>

#ifdef __cplusplus
extern "C" {
#endif

struct fan_bus;
struct fan_kind;
struct fan_subscription;

#define FAN_KIND_COUNT_MAX 64
#define FAN_MESSAGE_SIZE_MAX ((size_t)16 << 20)

/*
 * kinds               the closed set, or NULL for open types; the array must outlive the bus and
 *                     its subscriptions: a message that is read points at the name in it
 * single_publisher    one thread publishes (asserted), without lock or fence on its path; whoever
 *                     subscribes, ends, or falls asleep pays for that, with microseconds
 * memory_size_max     bound on bytes held for slow subscribers, 0 for 64 MiB; past it those that
 *                     hold more than their share lose messages as if their buffer were full. A
 *                     reader with FAN_POLICY_BLOCK that holds nothing, or that has a descriptor and
 *                     all it holds in its hands, is given one message in any case, to go on. What
 *                     large messages took is used again: of that, up to a quarter waits meanwhile
 * block_timeout_ms    how long a publish may wait for FAN_POLICY_BLOCK; 0 refuses that policy
 * slot_size           bytes of a place in a shared ring, 64 to 4,096 in steps of 64, 0 for 128:
 *                     what does not fit with 32 bytes for itself, and 8 for each 64 more, goes by
 *                     reference, and costs more
 * by_reference        no shared rings: for messages that are mostly larger than a slot
 */
struct fan_bus_options {
    size_t size;
    const struct fan_env *env;
    const struct fan_kind *kinds;
    size_t kind_count;
    bool single_publisher;
    size_t memory_size_max;
    unsigned block_timeout_ms;
    size_t slot_size;
    bool by_reference;
};

#define FAN_BUS_OPTIONS_INIT                                                                       \
    {                                                                                              \
        sizeof(struct fan_bus_options), NULL, NULL, 0, false, 0, 0, 0, false                       \
    }

/*
 * A message, as published and as read. seq is set by the bus; time_us is kept when given and
 * stamped when 0. On a bus with kinds, `kind` is the index into the set and `type` its name, which
 * may be NULL when published; on an open one, `kind` is 0 and `type` wanted. topic may be NULL when
 * published and is never NULL when read. A payload that is read is aligned to 8 bytes.
 *
 * size is FAN_MESSAGE_SIZE, of the header that the publisher, or the library for one that is read,
 * was compiled with: fields come later at the end.
 */
struct fan_message {
    size_t size;
    uint64_t seq;
    int64_t time_us;
    unsigned kind;
    const char *type;
    const char *topic;
    struct fan_str payload;
};

#define FAN_MESSAGE_SIZE sizeof(struct fan_message)

/* Exact at quiescence. Of fan_bus_counters, delivered to queued are sums over subscriptions. */
struct fan_bus_counters {
    size_t size;
    uint64_t published;
    uint64_t unheard; /* published with nobody to match */
    uint64_t matched;
    uint64_t delivered;
    uint64_t dropped;
    uint64_t conflated;
    uint64_t discarded;
    uint64_t queued;
    uint64_t subscriptions;
    uint64_t topics; /* with a subscriber, or held */
};

/*
 * Opens a bus. `options` may be NULL.
 *
 * Returns: FAN_INVALID, with the field at fault, for a bad set of kinds, a slot_size that is none
 *          of those above, or a size that is not that of the options; FAN_NO_MEMORY.
 * Memory:  options are copied, all but the array of kinds. *ret_bus is yours, for fan_bus_close and
 *          fan_bus_free.
 * Thread:  any. Blocks: never.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_bus_open(const struct fan_bus_options *options,
                                                    struct fan_bus **ret_bus,
                                                    struct fan_error *ret_error);

/*
 * Closes the bus: publishes in flight finish, later ones are refused, every subscription reads what
 * it has buffered and then FAN_CLOSED. Closing again does nothing.
 *
 * Thread: any. Blocks: for publishes in flight; those that wait for a reader are woken.
 */
FAN_API void fan_bus_close(struct fan_bus *bus);

/*
 * Closes the bus if need be and lets go of it. Subscriptions stay valid until they are freed.
 * Accepts NULL. Thread: any, while no other call on the bus runs. Blocks: as fan_bus_close.
 */
FAN_API void fan_bus_free(struct fan_bus *bus);

/*
 * Publishes one message to all that match. ret_seq may be NULL.
 *
 * Returns: FAN_CLOSED after close; FAN_INVALID for a kind outside the set, a payload of another
 *          size than the kind's or above FAN_MESSAGE_SIZE_MAX, no type on a bus without kinds,
 *          another type than the kind's, too long a string, a size below FAN_MESSAGE_SIZE;
 *          FAN_TIMED_OUT when a FAN_POLICY_BLOCK reader made no room in time; FAN_NO_MEMORY;
 *          FAN_FORKED. In all these cases nobody got it, and it is counted nowhere; what waits for
 *          others above their share may have been lost to make room for it.
 * Memory:  the message is copied.
 * Thread:  any (single_publisher: always the same). Blocks: for FAN_POLICY_BLOCK readers without
 *          room, and behind a publish, of whatever topic, that waits for one: up to
 *          block_timeout_ms. Else never.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_bus_publish(struct fan_bus *bus,
                                                       const struct fan_message *message,
                                                       uint64_t *ret_seq);

/*
 * Publishes messages in order, without another publisher's in between, and wakes readers once.
 * *ret_count (may be NULL) tells how many were published, also on failure.
 *
 * Returns: as fan_bus_publish, for the first message that failed: those before it are published.
 * Memory, Thread, Blocks: as fan_bus_publish; the deadline is one for all.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_bus_publish_many(struct fan_bus *bus,
                                                            const struct fan_message *messages,
                                                            size_t count, size_t *ret_count);

/*
 * Keeps a topic listed while it has no subscriber; each hold wants one release.
 *
 * Returns: FAN_NO_MEMORY; FAN_CLOSED; FAN_INVALID for an empty or too long topic; FAN_FORKED.
 * Memory:  the topic is copied.
 * Thread:  any. Blocks: never.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_bus_topic_hold(struct fan_bus *bus, const char *topic);

/*
 * Undoes one hold.
 *
 * Returns: FAN_NOT_FOUND when there is none; FAN_FORKED.
 * Thread:  any. Blocks: never.
 */
FAN_API enum fan_status fan_bus_topic_release(struct fan_bus *bus, const char *topic);

/*
 * Reads all counters at once; set ret_counters->size first, which becomes the size that was filled.
 * It looks at every subscription, and nobody publishes meanwhile: for now and then.
 *
 * Thread: any. Blocks: short locks only, in time that grows with the number of subscriptions.
 */
FAN_API void fan_bus_counters(struct fan_bus *bus, struct fan_bus_counters *ret_counters);

/*
 * Names the kind with an index, for enumeration.
 *
 * Returns: NULL past the end, and on a bus without kinds.
 * Memory:  borrowed from the set.
 * Thread:  any. Blocks: never.
 */
FAN_API const struct fan_kind *fan_bus_kind(const struct fan_bus *bus, unsigned index);

#ifdef __cplusplus
}
#endif

#endif
