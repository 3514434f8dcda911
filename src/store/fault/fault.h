/*
 * The inside of the fault provider: what it is to do, how often, and what it did (fault.h of the
 * public headers tells the words).
 *
 *     begin -> (the inner call, or a part of it) -> end
 *
 * Whether and how a call fails is a pure function of the seed, the kind of call and its number:
 * which thread comes first changes who meets a fault, not how many there are.
 */
#ifndef FAN_STORE_FAULT_FAULT_H
#define FAN_STORE_FAULT_FAULT_H

#include "base/thread.h"

#include <fanfare/provider.h>

/* What can go wrong with a call. */
enum fan__fault_trait {
    FAN__FAULT_ANY = 1 << 0,
    FAN__FAULT_WRITE = 1 << 1,
    FAN__FAULT_PARTS = 1 << 2, /* it is of parts, so that it can be torn */
    FAN__FAULT_WAIT = 1 << 3,
    FAN__FAULT_CALL = 1 << 4, /* all but wait */
};

#define FAN__FAULT_READS (FAN__FAULT_ANY | FAN__FAULT_CALL)
#define FAN__FAULT_WRITES (FAN__FAULT_READS | FAN__FAULT_WRITE)

/* name, traits */
#define FAN__FAULT_CALL_TABLE(X)                                                                   \
    X(append, FAN__FAULT_WRITES | FAN__FAULT_PARTS)                                                \
    X(read, FAN__FAULT_READS)                                                                      \
    X(list, FAN__FAULT_READS)                                                                      \
    X(get, FAN__FAULT_READS)                                                                       \
    X(remove, FAN__FAULT_WRITES)                                                                   \
    X(erase, FAN__FAULT_WRITES)                                                                    \
    X(head, FAN__FAULT_READS)                                                                      \
    X(wait, FAN__FAULT_ANY | FAN__FAULT_WAIT)                                                      \
    X(stats, FAN__FAULT_READS)                                                                     \
    X(group_create, FAN__FAULT_WRITES)                                                             \
    X(group_delete, FAN__FAULT_WRITES)                                                             \
    X(claim, FAN__FAULT_WRITES)                                                                    \
    X(settle, FAN__FAULT_WRITES | FAN__FAULT_PARTS)                                                \
    X(renew, FAN__FAULT_WRITES | FAN__FAULT_PARTS)                                                 \
    X(move, FAN__FAULT_WRITES)                                                                     \
    X(deliveries, FAN__FAULT_READS)                                                                \
    X(groups, FAN__FAULT_READS)                                                                    \
    X(lease_acquire, FAN__FAULT_WRITES)                                                            \
    X(lease_renew, FAN__FAULT_WRITES)                                                              \
    X(lease_release, FAN__FAULT_WRITES)                                                            \
    X(retain, FAN__FAULT_WRITES)                                                                   \
    X(accept_clock, FAN__FAULT_WRITES)                                                             \
    X(backup, FAN__FAULT_READS)                                                                    \
    X(verify, FAN__FAULT_READS)

/* name, the trait of the calls to which it applies */
#define FAN__FAULT_KIND_TABLE(X)                                                                   \
    X(unavailable, FAN__FAULT_ANY)                                                                 \
    X(io, FAN__FAULT_ANY)                                                                          \
    X(no_space, FAN__FAULT_WRITE)                                                                  \
    X(stall, FAN__FAULT_CALL)                                                                      \
    X(crash, FAN__FAULT_ANY)                                                                       \
    X(unknown_lost, FAN__FAULT_WRITE)                                                              \
    X(unknown_done, FAN__FAULT_WRITE)                                                              \
    X(torn, FAN__FAULT_PARTS)                                                                      \
    X(crash_done, FAN__FAULT_WRITE)                                                                \
    X(deaf, FAN__FAULT_WAIT)                                                                       \
    X(early, FAN__FAULT_WAIT)                                                                      \
    X(delay, FAN__FAULT_ANY)

enum fan__fault_call {
#define FAN__FAULT_AS_CALL(name, traits) FAN__FAULT_CALL_##name,
    FAN__FAULT_CALL_TABLE(FAN__FAULT_AS_CALL)
#undef FAN__FAULT_AS_CALL
        FAN__FAULT_CALL_COUNT
};

enum fan__fault_kind {
#define FAN__FAULT_AS_KIND(name, trait) FAN__FAULT_##name,
    FAN__FAULT_KIND_TABLE(FAN__FAULT_AS_KIND)
#undef FAN__FAULT_AS_KIND
        FAN__FAULT_KIND_COUNT
};

#define FAN__FAULT_NONE FAN__FAULT_KIND_COUNT
#define FAN__FAULT_RATE_ONE 1000000

/* What a store was told. Rates are in millionths. */
struct fan__faults {
    uint32_t rates[FAN__FAULT_CALL_COUNT][FAN__FAULT_KIND_COUNT];
    bool has_seed;
    uint64_t seed;
    uint64_t limit;
    uint32_t delay_ms_min;
    uint32_t delay_ms_max;
    uint32_t stall_ms;
    bool crashed;
};

/*
 * Reads `name=value,...`; NULL and "" are none.
 *
 * Returns: FAN_INVALID naming what it could not read; FAN_NO_MEMORY.
 */
FAN_MUST_CHECK enum fan_status fan__faults_parse(const char *text, const struct fan_env *env,
                                                 struct fan__faults *ret_faults,
                                                 struct fan_error *error);

/* The calls (bits) and kinds (bits) that a name stands for: "append.torn", "errors". */
FAN_MUST_CHECK enum fan_status fan__faults_find(const char *name, uint32_t *ret_calls,
                                                uint32_t *ret_kinds);

struct fan__fault {
    const struct fan_env *env;
    struct fan_store *inner;
    bool owned;

    struct fan__mutex mutex; /* guards all that follows */
    struct fan__cond changed;
    struct fan__faults faults;
    uint64_t changes; /* of `faults`, and wakes */
    uint64_t numbers[FAN__FAULT_CALL_COUNT];
    uint64_t counts[FAN__FAULT_CALL_COUNT][FAN__FAULT_KIND_COUNT];
    uint64_t injected; /* since the faults were told, delays apart */
};

/* What happens to one call. */
struct fan__fault_plan {
    enum fan__fault_kind kind;
    uint64_t random;
    uint32_t delay_ms;
};

/*
 * Decides about a call, and sleeps if it is late or stalls.
 *
 * Returns: FAN_OK when the inner call is to be done; else the answer.
 */
FAN_MUST_CHECK enum fan_status fan__fault_begin(struct fan__fault *fault, enum fan__fault_call call,
                                                struct fan__fault_plan *ret_plan);

/* Gives the answer to a call of which the inner one gave `status`. */
enum fan_status fan__fault_end(struct fan__fault *fault, const struct fan__fault_plan *plan,
                               enum fan_status status);

/* Sleeps until the deadline, a wake, or other faults. */
void fan__fault_sleep(struct fan__fault *fault, uint32_t time_ms);

extern const struct fan_provider fan__fault_provider;

#endif
