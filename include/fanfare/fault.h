/*
 * The fault provider: a store that passes everything on to another one, and fails as it is told to,
 * so that a program can see what it does then.
 *
 *     fault:seed=7,errors=5%,append.torn=1%:sqlite:events.db
 *
 * Faults are `name=value,...`; the later one wins. KIND=RATE is for all calls that it can meet,
 * CALL.KIND=RATE for one, by its name in provider.h (append, read, settle ...); a rate is `5%` or
 * `0.5%`. What happens to a call follows from the seed, its kind and its number among those of its
 * kind: the same seed and calls, the same faults.
 *
 * Before the call, which is then not done:
 *
 *     unavailable, io   that answer
 *     no_space          that answer, to writes
 *     errors            one of these three
 *     stall             nothing for stall_ms (1000), or until a wake or other faults;
 *                       then unavailable
 *     crash             io, and so is every call from then on
 *
 * Of a write, answered with FAN_UNKNOWN:
 *
 *     unknown_lost      it was not done
 *     unknown_done      it was done
 *     unknown           one of these two
 *     torn              a prefix of it was done: of an append's units, of the
 *                       items of a settle or renew
 *     crash_done        it was done, and every call from then on is io
 *
 * Of a wait:
 *
 *     deaf              nothing is heard until the time-out, or a wake
 *     early             it says at once that there is something
 *
 * Of any call, beside these: `delay` begins it delay_ms (0-3) late, by the system's clock; a wait
 * ends late.
 *
 * And: seed=N (1); limit=N, no more faults than that, delays apart; crashed=yes.
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
