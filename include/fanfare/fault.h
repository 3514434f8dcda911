/*
 * The fault provider: a store that passes everything on to another one, and fails as it is told to,
 * so that a program can see what it does then.
 *
 *     fault:seed=7,errors=5%,append.torn=1%:sqlite:events.db
 *
 * Faults are `name=value,...`, the later one wins. What happens to a call follows from the seed,
 * the kind of call and its number among those of its kind: the same seed and calls, the same
 * faults.
 *
 * KIND=RATE of all calls to which it applies, CALL.KIND=RATE of one; RATE is `5%` or `0.5%`. CALL
 * is the name in provider.h (append, read, settle ...). Before the call, which is then not done:
 *
 *     unavailable, io, no_space  that answer; no_space of writes alone
 *     errors                     one of them
 *     stall                      nothing for stall_ms (1000) or until fan_store_wake,
 * fan_fault_set; then unavailable crash                      as io, and so is every later call Of
 * writes, with the answer FAN_UNKNOWN (crash_done: and all later calls as io):
 *
 *     unknown_lost, unknown_done, unknown  it was not done; it was; one of the two
 *     torn                       of append, settle, renew: a prefix (of units, of items) was done
 *     crash_done                 it was done
 * Of wait: `deaf` hears nothing until its time-out or fan_store_wake, `early` says at once that
 * there is something, `delay` comes late.
 *
 *     delay                      the call begins delay_ms (0-3) late, by the system's clock
 *
 * And: seed=N (1), limit=N (no more faults than that, delays apart), crashed=yes.
 */
#ifndef FANFARE_FAULT_H
#define FANFARE_FAULT_H

#include <fanfare/store.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Puts a fault store over one that is open; what was in it stays there when the fault store is
 * closed. `faults` and `env` may be NULL.
 *
 * Returns: FAN_INVALID with the name; FAN_NO_MEMORY.
 * Memory:  *ret_store is yours, for fan_store_close; `inner` is borrowed until then.
 * Thread:  any. Blocks: never.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_fault_wrap(struct fan_store *inner, const char *faults,
                                                      const struct fan_env *env,
                                                      struct fan_store **ret_store,
                                                      struct fan_error *ret_error);

/*
 * Tells a fault store its faults anew: those of before are forgotten, a crash too; what stalls goes
 * on at once. With a seed the calls are numbered from 1 again, without one they go on.
 *
 * Returns: FAN_INVALID with the name, and nothing is changed; FAN_MISUSE for any other store.
 * Memory:  `faults` is borrowed for the call.
 * Thread:  any. Blocks: never.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_fault_set(struct fan_store *store, const char *faults,
                                                     struct fan_error *ret_error);

/*
 * Tells how many faults there were: `KIND`, `CALL.KIND`, or NULL for all, delays too.
 *
 * Returns: FAN_INVALID for no such name; FAN_MISUSE for any other store.
 * Thread:  any. Blocks: never.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_fault_count(struct fan_store *store, const char *name,
                                                       uint64_t *ret_count);

/* Whether a fault store has crashed, and not been told anew. Thread: any. Blocks: never. */
FAN_API bool fan_fault_crashed(struct fan_store *store);

#ifdef __cplusplus
}
#endif

#endif
