/*
 * Feeds: who brings events from elsewhere into a broker's log, so that the broker's metrics tell
 * how far each of them is (docs/metrics.md). Relays and captures add themselves; a program with one
 * of its own may do so, too.
 *
 *     add -> looked at whenever metrics are written -> remove, before the broker is freed
 */
#ifndef FANFARE_FEED_H
#define FANFARE_FEED_H

#include <fanfare/status.h>

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct fan_broker;
struct fan_feed;

enum fan_feed_kind {
    FAN_FEED_RELAY = 0,   /* of rows of an outbox */
    FAN_FEED_CAPTURE = 1, /* of the log of a server, by a slot */
};

/*
 * Sums since it was opened, and how things stand. Of what its kind does not have, nothing is told.
 */
struct fan_feed_stats {
    size_t size;
    uint64_t leading; /* 1 for who works, of those that take turns */
    uint64_t failing; /* 1 while it does not get on */
    uint64_t events;
    uint64_t failures;
    uint64_t lag_ns;
    uint64_t aside; /* of a relay: rows set aside, rows that wait, how long behind another */
    uint64_t rows;
    uint64_t hidden_ns;
    uint64_t refused; /* of a capture: events told by their key, gaps, the server's log */
    uint64_t gaps;
    uint64_t lag_bytes;
    uint64_t slot_bytes;
    uint64_t alarm;
};

/*
 * look  fills *ret_stats. It is called with a lock of the list's held: it takes short locks alone,
 *       and does not call the broker
 * name  of the outbox or slot, as a label; made unique among its kind by -2, -3 ...
 */
struct fan_feed_options {
    size_t size;
    enum fan_feed_kind kind;
    const char *name;
    void (*look)(void *context, struct fan_feed_stats *ret_stats);
    void *context;
};

#define FAN_FEED_OPTIONS_SIZE sizeof(struct fan_feed_options)

/*
 * Adds one.
 *
 * Returns: FAN_INVALID; FAN_NO_MEMORY.
 * Memory:  options are copied; *ret_feed is yours, for fan_feed_remove.
 * Thread:  any. Blocks: short locks only.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_feed_add(struct fan_broker *broker,
                                                    const struct fan_feed_options *options,
                                                    struct fan_feed **ret_feed);

/*
 * Takes it away and frees it; then look is not called any more. Accepts NULL.
 *
 * Thread: any. Blocks: for a look that runs.
 */
FAN_API void fan_feed_remove(struct fan_feed *feed);

#ifdef __cplusplus
}
#endif

#endif
