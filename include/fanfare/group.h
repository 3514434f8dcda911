/*
 * Consumer groups in a store: who is owed what, and how it ended.
 *
 *     delivery:  pending --claim--> processing --done--> completed
 *                   ^                   |------ failed (dead letter) --redrive--> pending
 *                   +--- retry, hand back, lost lease
 *
 * A group is named, and each handler in it has its own place, pattern and deliveries. An event goes
 * to one member (owner) at a time, under a lease by the store's clock; who lets it lapse loses it
 * to another. Setting the wall clock does not move that clock. Each claim carries a token: settling
 * with an old one is FAN_LOST. Any move outside the drawing is FAN_CONFLICT. A lapsed claim counts
 * as pending: it cannot be renewed, and can still be settled until another has taken it.
 *
 * Ordered claims: the group's keys (topics) fall into 64 partitions. One is held by an owner while
 * that owner has an unlapsed claim in it, and nobody else is given anything of it then. Of one key
 * only the oldest unsettled delivery is given, and only while none of that key is claimed; where it
 * waits (a retry, deliver_at), the key waits. Dead letters are settled.
 *
 * An event with a later deliver_at is pending and not due until then.
 */
#ifndef FANFARE_GROUP_H
#define FANFARE_GROUP_H

#include <fanfare/store.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FAN_GROUP_PARTITION_COUNT 64

/* Which handler of which group; both 1 to 255 bytes, handler "" where there is but one. */
struct fan_group_name {
    const char *group;
    const char *handler;
};

enum fan_start {
    FAN_START_NOW = 0,
    FAN_START_BEGINNING = 1,
    FAN_START_CURSOR = 2,
};

/*
 * pattern and topic choose the events (NULL: all). start_seq goes with FAN_START_CURSOR and names
 * the last event seen; past the head it means now.
 */
struct fan_group_options {
    size_t size;
    const char *pattern;
    const char *topic;
    enum fan_start start;
    uint64_t start_seq;
};

#define FAN_GROUP_OPTIONS_SIZE sizeof(struct fan_group_options)

/*
 * lease_ms 0 means 30,000; limit 0 means 1. lapses_below: only what lapsed less often, 0 for all.
 */
struct fan_claim_options {
    size_t size;
    const char *owner;
    size_t limit;
    uint32_t lease_ms;
    bool ordered;
    unsigned lapses_below;
};

#define FAN_CLAIM_OPTIONS_SIZE sizeof(struct fan_claim_options)

/*
 * The claim of the batch's event with the same index. attempt starts at 1; lapses are the earlier
 * claims of it that ran out before they were settled.
 */
struct fan_claim {
    uint64_t seq;
    uint64_t token;
    unsigned attempt;
    unsigned lapses;
};

enum fan_verdict {
    FAN_VERDICT_DONE = 0,
    FAN_VERDICT_RETRY = 1,     /* pending again after delay_ms */
    FAN_VERDICT_FAIL = 2,      /* a dead letter */
    FAN_VERDICT_HAND_BACK = 3, /* pending at once, the attempt is not counted */
};

/*
 * How a claim ended. `error` (may be NULL) is kept with RETRY and FAIL, `reason` with FAIL (NONE
 * means FAILED). ret_status: FAN_LOST for an old token.
 */
struct fan_settle {
    uint64_t seq;
    uint64_t token;
    enum fan_verdict verdict;
    uint32_t delay_ms;
    const char *error;
    enum fan_status ret_status;
    enum fan_dead_reason reason;
};

/*
 * One delivery as it stands. Text is borrowed for the visit, "" where there is none. Times are UTC
 * microseconds, 0 for not yet: processed_us is that of the last claim, completed_us that of the end
 * (completed or failed). Done clears the error, a redrive attempts, lapses and completed_us; the
 * reason is that of a dead letter, and of nothing else.
 */
struct fan_delivery {
    size_t size;
    const char *group;
    const char *handler;
    uint64_t seq;
    enum fan_event_status status;
    unsigned attempts;
    const char *owner;
    const char *error;
    int64_t due_us; /* lease end while processing, next try while pending */
    int64_t processed_us;
    int64_t completed_us;
    enum fan_dead_reason reason;
    unsigned lapses;
};

/*
 * A handler of a group. joined_us is when a member was last there, to the minute: made it or made
 * it again, claimed (also in vain), renewed or settled; oldest_us the created time of the first
 * event that is still owed, 0 without one.
 */
struct fan_group_stats {
    size_t size;
    const char *group;
    const char *handler;
    const char *pattern;
    uint64_t cursor_seq; /* all up to here have been claimed once or passed over */
    uint64_t lag;        /* events after it, matching or not */
    uint64_t pending;    /* also those after the cursor that it wants */
    uint64_t processing;
    uint64_t completed;
    uint64_t failed;
    int64_t joined_us;
    int64_t oldest_us;
};

/*
 * Creates a group's handler with its place in the log.
 *
 * Returns: FAN_EXISTS when it is there already: its place is kept, its pattern and topic become
 *          these; it counts as joining.
 * Thread:  any. Blocks: for the storage.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_group_create(struct fan_store *store,
                                                        const struct fan_group_name *name,
                                                        const struct fan_group_options *options,
                                                        struct fan_error *ret_error);

/* Deletes it with its deliveries. Returns: FAN_NOT_FOUND. Thread: any. Blocks: for the storage. */
FAN_MUST_CHECK FAN_API enum fan_status fan_group_delete(struct fan_store *store,
                                                        const struct fan_group_name *name);

/*
 * Claims deliveries that are due: lapsed and retried ones first, then new events; but where there
 * are both, half of a claim is of either, and of claims for one some are, so that what is retried
 * all the time holds up nothing. Fills `batch` and as many `claims` (room for options->limit);
 * events that expired or were deleted are passed over.
 *
 * Returns: FAN_AGAIN when nothing is due; FAN_NOT_FOUND for no such group; faults.
 * Thread:  any. Blocks: for the storage.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_group_claim(struct fan_store *store,
                                                       const struct fan_group_name *name,
                                                       const struct fan_claim_options *options,
                                                       struct fan_batch *batch,
                                                       struct fan_claim *claims);

/*
 * Settles claims in one commit; each item tells how it went.
 *
 * Returns: FAN_NOT_FOUND for no such group; faults, when nothing was settled; FAN_UNKNOWN when that
 *          is not certain: settle again, and what was settled is FAN_LOST then.
 * Thread:  any. Blocks: for the storage.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_group_settle(struct fan_store *store,
                                                        const struct fan_group_name *name,
                                                        struct fan_settle *items, size_t count);

/*
 * Renews the leases of claims for lease_ms from now; ret_status of each is FAN_LOST where it is
 * gone. Returns: as fan_group_settle. Thread: any. Blocks: for the storage.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_group_renew(struct fan_store *store,
                                                       const struct fan_group_name *name,
                                                       struct fan_settle *items, size_t count,
                                                       uint32_t lease_ms);

/*
 * Moves one delivery that nobody holds: failed to pending (redrive: attempts start anew) or failed
 * and pending to completed (discard).
 *
 * Returns: FAN_NOT_FOUND; FAN_CONFLICT for any other move; FAN_MISUSE while it is claimed.
 * Thread:  any. Blocks: for the storage.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_group_move(struct fan_store *store,
                                                      const struct fan_group_name *name,
                                                      uint64_t seq, enum fan_event_status to);

/* Sees one delivery or group; false ends the visit. It must not call the store. */
typedef bool (*fan_delivery_visit)(void *context, const struct fan_delivery *delivery);
typedef bool (*fan_group_visit)(void *context, const struct fan_group_stats *stats);

/*
 * Visits the deliveries of one event, or (seq 0) the dead letters after `after_seq`, in order.
 * Returns: faults. Thread: any. Blocks: for the storage.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_store_deliveries(struct fan_store *store, uint64_t seq,
                                                            uint64_t after_seq,
                                                            fan_delivery_visit visit,
                                                            void *context);

/* Visits every group's handlers by name. Returns: faults. Thread: any. Blocks: for the storage. */
FAN_MUST_CHECK FAN_API enum fan_status fan_store_groups(struct fan_store *store,
                                                        fan_group_visit visit, void *context);

/*
 * Leases by name, for what only one instance may do. Acquire gives a fence that rises with each new
 * holder and is checked by struct fan_expectation; the same owner acquiring again renews and keeps
 * it. A lapsed lease is nobody's, also for its last holder.
 *
 * Returns: FAN_EXISTS while another holds it; renew and release: FAN_LOST when it is not `owner`'s
 *          with that fence.
 * Thread:  any. Blocks: for the storage.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_lease_acquire(struct fan_store *store, const char *name,
                                                         const char *owner, uint32_t ttl_ms,
                                                         uint64_t *ret_fence);
FAN_MUST_CHECK FAN_API enum fan_status fan_lease_renew(struct fan_store *store, const char *name,
                                                       const char *owner, uint64_t fence,
                                                       uint32_t ttl_ms);
FAN_MUST_CHECK FAN_API enum fan_status fan_lease_release(struct fan_store *store, const char *name,
                                                         const char *owner, uint64_t fence);

#ifdef __cplusplus
}
#endif

#endif
