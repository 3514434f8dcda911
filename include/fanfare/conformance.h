/*
 * The conformance suite: the contract of a store as a program that can be run on any provider.
 *
 *     your options --fan_conformance_run--> TAP on standard output, and how many behaviours failed
 *
 * It lies in a library of its own (fanfare-conformance) and uses the public headers alone. Each
 * behaviour runs on a fresh, empty store; its name carries the number of the contract that it
 * checks. What the capabilities of a provider exclude is skipped with the reason (docs/stores.md).
 */
#ifndef FANFARE_CONFORMANCE_H
#define FANFARE_CONFORMANCE_H

#include <fanfare/store.h>

#ifdef __cplusplus
extern "C" {
#endif

struct fan_env;

/* What the suite may count on beyond the provider's own capability bits. */
enum fan_conformance_trait {
    /* Leases, delays and due times go by the environment's clocks, which the suite then moves. */
    FAN_CONFORMANCE_CLOCK = 1 << 0,
    /* Memory comes from the environment, whose allocator the suite then makes fail. */
    FAN_CONFORMANCE_MEMORY = 1 << 1,
};

/*
 * open    opens a store on empty storage, a different one each time
 * reopen  opens what `open` gave last, after the suite closed it, and, where the store promises
 *         FAN_CAPABILITY_TAIL_PROCESSES, also while it is open; NULL where nothing is kept
 * traits  bits of enum fan_conformance_trait
 * seed    of the random tests; 0 takes one and prints it
 * only    runs the behaviours whose names contain it; NULL runs all
 * full    runs the full counts instead of a sample
 * limit_s how long one behaviour of many threads may take; 0 for 60, or 600 with full
 * label   stands before every name ("sqlite: "); may be NULL
 * print   receives each line without its end; NULL prints to standard output
 */
struct fan_conformance_options {
    size_t size;
    void *context;
    enum fan_status (*open)(void *context, const struct fan_env *env, struct fan_store **ret_store,
                            struct fan_error *ret_error);
    enum fan_status (*reopen)(void *context, const struct fan_env *env,
                              struct fan_store **ret_store, struct fan_error *ret_error);
    unsigned traits;
    uint64_t seed;
    const char *only;
    bool full;
    unsigned limit_s;
    const char *label;
    void (*print)(void *context, const char *line);
};

#define FAN_CONFORMANCE_OPTIONS_SIZE sizeof(struct fan_conformance_options)

/*
 * Runs the suite. Several runs at once must not share a context.
 *
 * Returns: how many behaviours failed; -1 when the options are of no use.
 * Thread:  any; it starts threads and ends them. Blocks: for seconds to minutes.
 */
FAN_API int fan_conformance_run(const struct fan_conformance_options *options);

#ifdef __cplusplus
}
#endif

#endif
