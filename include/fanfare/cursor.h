/*
 * A place in a log, and what a reader is told when it lost events on the way.
 *
 * Sequences start at 1, rise in the order in which events become visible, and may have holes. A
 * hole is never a loss: loss is only what a gap says. A cursor names the last event seen, so 0 is
 * the beginning. Its text is `SEQ@EPOCH` (decimal, then 16 hexadecimal digits) or a bare `SEQ`.
 */
#ifndef FANFARE_CURSOR_H
#define FANFARE_CURSOR_H

#include <fanfare/status.h>

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* epoch is the log's identity, born with it and anew with a restore; 0 skips the check. */
struct fan_cursor {
    uint64_t seq;
    uint64_t epoch;
};

/* 20 digits, '@', 16 digits, NUL, rounded up. */
#define FAN_CURSOR_TEXT_SIZE 40
#define FAN_SEQ_MAX ((uint64_t)INT64_MAX)

enum fan_gap_reason {
    FAN_GAP_OVERFLOW = 1,  /* the reader was too slow for its buffer */
    FAN_GAP_RETENTION = 2, /* the log no longer holds them */
    FAN_GAP_EPOCH = 3,     /* the log is not the one that the cursor came from */
};

#define FAN_GAP_COUNT_UNKNOWN UINT64_MAX

/*
 * Events between `after` and `before`, both exclusive, were not delivered: `count` of them, or
 * FAN_GAP_COUNT_UNKNOWN. With FAN_GAP_EPOCH `after` is a sequence of the other log, and `before`
 * the first that this log will give.
 */
struct fan_gap {
    uint64_t after;
    uint64_t before;
    uint64_t count;
    enum fan_gap_reason reason;
};

/*
 * Writes a cursor's text into `buffer` (FAN_CURSOR_TEXT_SIZE bytes): `SEQ@EPOCH`, or `SEQ` when the
 * epoch is 0.
 *
 * Thread: any. Blocks: never.
 */
FAN_API void fan_cursor_format(const struct fan_cursor *cursor, char *buffer);

/*
 * Reads a cursor's text.
 *
 * Returns: FAN_INVALID with the reason for anything else, a sequence above FAN_SEQ_MAX included.
 * Thread:  any. Blocks: never.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_cursor_parse(const char *text,
                                                        struct fan_cursor *ret_cursor,
                                                        struct fan_error *ret_error);

/* Gives "overflow", "retention" or "epoch". Memory: static. Thread: any. */
FAN_API const char *fan_gap_reason_text(enum fan_gap_reason reason);

#ifdef __cplusplus
}
#endif

#endif
