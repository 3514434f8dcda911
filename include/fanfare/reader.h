/*
 * A reader: a cursor on the log that the bus wakes. It gives every matching event after its place,
 * first from the log, then live, without gap or duplicate and in rising order, while others
 * publish.
 *
 *     open -> behind (reads the log) <-> live (reads the ring) -> closed
 *
 * A reader too slow for its ring goes back to the log (FAN_POLICY_REFILL, the default): it costs
 * others nothing and loses nothing but what retention removed, which it is told as a gap. With
 * another policy, what the ring loses is told as a gap and gone. A cursor from another log, or past
 * the head, is told as a gap too, and reading starts at the beginning of this one.
 *
 * A stop lets a reader read up to the end of the log. A cancel lets it read what its ring or its
 * page holds; one that is behind then ends there, and its cursor says where to go on.
 */
#ifndef FANFARE_READER_H
#define FANFARE_READER_H

#include <fanfare/cursor.h>
#include <fanfare/event.h>
#include <fanfare/group.h>
#include <fanfare/subscription.h>

#ifdef __cplusplus
extern "C" {
#endif

struct fan_broker;
struct fan_reader;

/*
 * topic, pattern  which events; NULL for all
 * start, cursor   where to begin; the cursor (the last event seen) goes with FAN_START_CURSOR
 * policy, buffer_count, cancel, yield_us  as in subscription.h; FAN_POLICY_BLOCK is not for logs
 */
struct fan_reader_options {
    size_t size;
    const char *topic;
    const char *pattern;
    enum fan_start start;
    struct fan_cursor cursor;
    enum fan_policy policy;
    size_t buffer_count;
    struct fan_cancel *cancel;
    unsigned yield_us;
};

#define FAN_READER_OPTIONS_SIZE sizeof(struct fan_reader_options)

/* lag is how many sequences the reader is behind the last visible event, matching or not. */
struct fan_reader_stats {
    size_t size;
    uint64_t delivered;
    uint64_t gaps;
    uint64_t refills; /* how often it went from live back to the log */
    uint64_t lag;
    bool live;
};

/*
 * Opens a reader. Events published after this call are never missed. `options` may be NULL: all,
 * from now.
 *
 * Returns: FAN_INVALID with the field; FAN_UNSUPPORTED for FAN_POLICY_BLOCK; FAN_CLOSED after stop;
 *          faults of the store.
 * Memory:  options are copied; *ret_reader is yours, for fan_reader_free before fan_broker_free.
 * Thread:  any. Blocks: for the storage.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_broker_subscribe(
    struct fan_broker *broker, const struct fan_reader_options *options,
    struct fan_reader **ret_reader, struct fan_error *ret_error);

/*
 * Takes the next event, waiting up to timeout_ms (0 polls, FAN_TIMEOUT_FOREVER waits for good).
 *
 * Returns: FAN_AGAIN when none came in time; FAN_GAP when events were lost, told by fan_reader_gap
 *          (ahead of what comes next, or within a second when nothing does);
 *          FAN_CLOSED at the end; faults of the store, after which the same call tries again.
 * Memory:  *ret_event is borrowed until the next call on this reader.
 * Thread:  one at a time. Blocks: up to timeout_ms, and for the storage while behind.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_reader_next(struct fan_reader *reader,
                                                       uint32_t timeout_ms,
                                                       const struct fan_event **ret_event);

/* Tells the loss that the last call reported with FAN_GAP. Thread: the reader's. Blocks: never. */
FAN_API void fan_reader_gap(const struct fan_reader *reader, struct fan_gap *ret_gap);

/* Tells the place behind the last event or gap taken, to go on from later. Thread: the reader's. */
FAN_API void fan_reader_cursor(const struct fan_reader *reader, struct fan_cursor *ret_cursor);

/*
 * Gives a descriptor for poll, epoll or libuv: readable, level-triggered, while fan_reader_next
 * might not return FAN_AGAIN. Never read or close it.
 *
 * Returns: FAN_IO when the process has no descriptor left.
 * Memory:  it lives as long as the reader.
 * Thread:  the reader's. Blocks: never.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_reader_fd(struct fan_reader *reader, int *ret_fd);

/* Ends the reader; a call that waits returns FAN_CLOSED. Again does nothing. Thread: any. */
FAN_API void fan_reader_unsubscribe(struct fan_reader *reader);

/* Unsubscribes if need be and frees. Accepts NULL. Thread: any, while no other call on it runs. */
FAN_API void fan_reader_free(struct fan_reader *reader);

/* Reads the counters; set ret_stats->size first. Thread: the reader's. Blocks: never. */
FAN_API void fan_reader_stats(const struct fan_reader *reader, struct fan_reader_stats *ret_stats);

#ifdef __cplusplus
}
#endif

#endif
