/*
 * The inside of capture: what stands on the server (publication, slot), and who reads it.
 *
 *     publication, commented "fanfare capture"                       before the slot is made
 *                            "fanfare capture, slot made at LSN"     behind it
 *
 * A publication that says that its slot was made, and no slot, is a gap: it is told before a slot
 * is made again.
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
    struct fan__pg pg; /* for all but the stream */
};

/* Where things stand. made_at: the slot was once made there, "" for never. */
struct fan__capture_state {
    bool has_slot;
    bool unbounded; /* the server bounds no slot */
    char made_at[24];
};

/* Returns: FAN_INVALID. NULL becomes the default. */
FAN_MUST_CHECK enum fan_status fan__capture_slot_name(const char **slot, struct fan_error *error);

/* Connects if need be. */
FAN_MUST_CHECK enum fan_status fan__capture_connect(struct fan__capture_place *place,
                                                    struct fan_error *error);

/* Checks what the server allows and the tables are, and makes the publication as they want it. */
FAN_MUST_CHECK enum fan_status fan__capture_prepare(struct fan__capture_place *place,
                                                    struct fan_error *error);

/* Looks; a slot that the server has given up is dropped. */
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

/* How much the server keeps for the slot. Returns: FAN_NOT_FOUND when it is gone. */
FAN_MUST_CHECK enum fan_status fan__capture_measure(struct fan__capture_place *place,
                                                    uint64_t *ret_bytes, struct fan_error *error);

/* Drops slot and publication. */
FAN_MUST_CHECK enum fan_status fan__capture_remove(struct fan__capture_place *place,
                                                   struct fan_error *error);

/* Returns: FAN_EXISTS while it is in use; FAN_NOT_FOUND. */
FAN_MUST_CHECK enum fan_status fan__capture_drop_slot(struct fan__capture_place *place,
                                                      struct fan_error *error);

#endif
