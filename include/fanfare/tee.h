/*
 * The tee provider: a store whose events a second one gets too, to move a log elsewhere while it is
 * in use, or to keep a copy.
 *
 *     tee:sqlite:events.db|postgres://host/events
 *
 * The first store is the log: every answer is its own, with its sequences, groups, leases and
 * retention. The second is a copy of its events, never asked for anything: a thread reads the first
 * from where the copy ends and appends to the second, in order, under the same ids; sequences there
 * are the second's own. It holds one page at a time (1,000 events or about 1 MiB). While the second
 * is down, slow or full, the first goes on as ever, and the copy lags; then it catches up from its
 * place in the log, which it finds by the ids in the second, also after a restart.
 *
 * An event that was removed or erased is so in both when the call returns FAN_OK or FAN_NOT_FOUND;
 * where the second does not answer, the first has done it and the call fails: call again. What
 * retention takes from the first stays in the second; what it takes before it was copied is not in
 * the second (torn_seq).
 */
#ifndef FANFARE_TEE_H
#define FANFARE_TEE_H

#include <fanfare/store.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Puts a tee over two stores that are open. `env` may be NULL.
 *
 * Returns: FAN_INVALID when both are one log; FAN_CONFLICT when the second holds events and none of
 *          its last 1,000 is in the first; FAN_NO_MEMORY, also for a thread; faults of the stores.
 * Memory:  *ret_store is yours, for fan_store_close; both stores are borrowed until then.
 * Thread:  any. Blocks: for the storage.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_tee_wrap(struct fan_store *first,
                                                    struct fan_store *second,
                                                    const struct fan_env *env,
                                                    struct fan_store **ret_store,
                                                    struct fan_error *ret_error);

/*
 * How far the copy is; set size first. copied_seq is the last sequence of the first store up to
 * which the second has everything, lag how many sequences are left; refused are events that the
 * second will never take (over its own limits). torn_seq: events up to here were gone from the
 * first before they were copied; 0: none. status is how the last try to copy ended, and words what
 * the second said, "" for nothing.
 */
struct fan_tee_stats {
    size_t size;
    uint64_t copied_seq;
    uint64_t lag;
    uint64_t copied; /* events, since open */
    uint64_t refused;
    uint64_t torn_seq;
    uint64_t failures;
    enum fan_status status;
    char words[256];
};

/*
 * Returns: FAN_MISUSE for a store that is no tee; faults of the first. Thread: any. Blocks: for the
 * storage.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_tee_stats(struct fan_store *store,
                                                     struct fan_tee_stats *ret_stats);

/*
 * Waits until the second has everything that the first has at this moment.
 *
 * Returns: FAN_TIMED_OUT; FAN_MISUSE for a store that is no tee; faults of the first.
 * Thread:  any. Blocks: up to timeout_ms, and for the storage.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_tee_wait(struct fan_store *store, uint32_t timeout_ms);

#ifdef __cplusplus
}
#endif

#endif
