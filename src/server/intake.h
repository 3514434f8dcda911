/*
 * The events of a body, one after another as texts: the lines of NDJSON as they arrive, the members
 * of an array once it is whole, or the one text that a body is.
 *
 * At most one unfinished line is kept, of FAN__BODY_SIZE_MAX bytes; a longer one is told and passed
 * over without being kept.
 */
#ifndef FAN_SERVER_INTAKE_H
#define FAN_SERVER_INTAKE_H

#include "base/buffer.h"
#include "event/jsontext.h"

#include <fanfare/event.h>

enum fan__intake_kind {
    FAN__INTAKE_LINES,
    FAN__INTAKE_WHOLE,
    FAN__INTAKE_ARRAY,
};

enum fan__intake_step {
    FAN__INTAKE_ITEM,
    FAN__INTAKE_TOO_LONG,
    FAN__INTAKE_MORE, /* not before more is added */
    FAN__INTAKE_END,
};

/*
 * input: | taken .. at | looked at .. scanned | not yet |. number counts lines or members from 1.
 */
struct fan__intake {
    enum fan__intake_kind kind;
    struct fan__buffer input;
    size_t at;
    size_t scanned;
    uint64_t number;
    bool whole;    /* the body has ended */
    bool skipping; /* the rest of a line that was too long */
    struct fan__json_walk walk;
};

void fan__intake_init(struct fan__intake *intake, const struct fan_env *env,
                      enum fan__intake_kind kind);
void fan__intake_deinit(struct fan__intake *intake);

/* Adds bytes of the body; `whole` with its end. intake->input.failed tells of no memory. */
void fan__intake_add(struct fan__intake *intake, struct fan_str bytes, bool whole);

/*
 * For a whole JSON text: makes it an array if it is one. Returns: FAN_INVALID with line and column
 * for what is no JSON, FAN_NO_MEMORY.
 */
FAN_MUST_CHECK enum fan_status fan__intake_open(struct fan__intake *intake,
                                                struct fan_error *ret_error);

/* Gives the next text, borrowed until the next call here. Blank lines are passed over. */
enum fan__intake_step fan__intake_next(struct fan__intake *intake, struct fan_str *ret_item);

#endif
