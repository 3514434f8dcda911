/*
 * The inside of capture: what stands on the server (publication, slot), and who reads it.
 *
 *     publication, commented "fanfare capture"                     before the slot is made
 *                            MARK ", slot made at LSN for log N"   behind it
 *
 * A publication that says that its slot was made, and no slot, is a gap: it is told before a slot
 * is made again. So is a slot that was another log's: what that one took is not in ours.
 */
#ifndef FAN_HOOK_CAPTURE_H
#define FAN_HOOK_CAPTURE_H

#include "hook/pg.h"

#include <fanfare/capture.h>

struct fan__capture_place {
    const struct fan_env *env;
    char *uri;
    char *slot;
    char **tables;
    size_t table_count;
    uint64_t epoch;    /* of the log */
    struct fan__pg pg; /* for all but the stream */
};

/* Where things stand. made_at: the slot was once made there, "" for never. */
struct fan__capture_state {
    bool has_slot;
    bool active;    /* somebody reads it */
    bool foreign;   /* it was another log's */
    bool unbounded; /* the server bounds no slot */
    char made_at[24];
};

/* What the server keeps for the slot, and how much of it was written since our place. */
struct fan__capture_size {
    uint64_t kept;
    uint64_t behind;
};

/* Returns: FAN_INVALID. NULL becomes the default. */
FAN_MUST_CHECK enum fan_status fan__capture_slot_name(const char **slot, struct fan_error *error);

/* Connects if need be. */
FAN_MUST_CHECK enum fan_status fan__capture_connect(struct fan__capture_place *place,
                                                    struct fan_error *error);

/* Checks what the server allows and the tables are, and makes the publication as they want it. */
FAN_MUST_CHECK enum fan_status fan__capture_prepare(struct fan__capture_place *place,
                                                    struct fan_error *error);

/*
 * Looks; a slot that the server has given up is dropped.
 *
 * Returns: FAN_NOT_FOUND without the publication; FAN_UNAVAILABLE for a slot that is still being
 *          made: what is committed now may not be in it.
 */
FAN_MUST_CHECK enum fan_status fan__capture_look(struct fan__capture_place *place,
                                                 struct fan__capture_state *ret_state,
                                                 struct fan_error *error);

/* Forgets that there was a slot: its gap was told. */
FAN_MUST_CHECK enum fan_status fan__capture_forget(struct fan__capture_place *place,
                                                   struct fan_error *error);

/* Makes the slot, if it is not there, and notes where. */
FAN_MUST_CHECK enum fan_status fan__capture_make_slot(struct fan__capture_place *place,
                                                      const struct fan__capture_state *state,
                                                      struct fan_error *error);

/* Returns: FAN_NOT_FOUND when the slot is gone. */
FAN_MUST_CHECK enum fan_status fan__capture_measure(struct fan__capture_place *place,
                                                    struct fan__capture_size *ret_size,
                                                    struct fan_error *error);

/* Drops slot and publication, of which one may be gone. */
FAN_MUST_CHECK enum fan_status fan__capture_remove(struct fan__capture_place *place,
                                                   struct fan_error *error);

/* Returns: FAN_EXISTS while it is in use; FAN_NOT_FOUND. */
FAN_MUST_CHECK enum fan_status fan__capture_drop_slot(struct fan__capture_place *place,
                                                      struct fan_error *error);

#endif
