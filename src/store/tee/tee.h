/*
 * The inside of the tee: the first store answers, a thread copies to the second.
 *
 *     find the place -> copy a page -> look at that page again -> copy the next ...
 *          ^                 \-- the second fails: pause, and again from the same place
 *          \--- the second was opened anew
 *
 * Copying is reading and appending under the same ids: doing any of it again changes nothing, so
 * that no state but the place is kept, and the place can be found again in the second itself.
 *
 * An event may be removed or erased between its reading and its appending. Who removes does so in
 * the first, then in the second; who copies appends to the second, then looks at the first again:
 * whichever comes last takes it away. A page is not left before that look has succeeded; nor is one
 * read anew whose appending has an unknown outcome: it is appended again, which settles that.
 */
#ifndef FAN_STORE_TEE_TEE_H
#define FAN_STORE_TEE_TEE_H

#include "base/thread.h"

#include <fanfare/provider.h>
#include <fanfare/tee.h>

#define FAN__TEE_LOOK_COUNT 1000

/* How far a page is. One of which a part may be in the second, or come yet, is not read anew. */
enum fan__tee_page {
    FAN__TEE_DONE, /* as it is in the first, or not begun */
    FAN__TEE_READ,
    FAN__TEE_IN_DOUBT,
    FAN__TEE_APPENDED, /* and not looked at again in the first */
};

struct fan__tee {
    const struct fan_env *env;
    struct fan_store *first;
    char *second_uri; /* NULL: the second is borrowed */
    bool owned;

    /* The copying thread's alone. */
    struct fan_batch *page;
    struct fan_batch *look;
    struct fan_append *items;
    bool placed; /* the place is known */
    enum fan__tee_page page_is;
    uint64_t page_after; /* where the page begins and ends */
    uint64_t page_until;
    uint32_t pause_ms;

    struct fan__mutex mutex; /* guards all that follows */
    struct fan__cond changed;
    struct fan_store *second; /* NULL until it could be opened; set once */
    bool stopping;
    bool ended;
    struct fan_tee_stats stats;
    struct fan__thread thread;
};

/*
 * Finds where the copy ends.
 *
 * Returns: FAN_CONFLICT for a second log that knows nothing of the first; faults.
 */
FAN_MUST_CHECK enum fan_status fan__tee_place(struct fan__tee *tee, struct fan_error *error);

FAN_MUST_CHECK enum fan_status fan__tee_start(struct fan__tee *tee);
void fan__tee_stop(struct fan__tee *tee);

/* The second store, or NULL while it could not be opened. */
struct fan_store *fan__tee_second(struct fan__tee *tee);

extern const struct fan_provider fan__tee_provider;

#endif
