/*
 * What every fallible function of Fanfare returns, and the words that may go with it.
 *
 * A *condition* (FAN_AGAIN to FAN_HANDLER) is an ordinary answer for the direct caller and is
 * listed under "Returns" of the function that gives it. A *fault* (FAN_NO_MEMORY and after) travels
 * up unchanged. There is no thread-local last error: words for people go into a struct fan_error
 * that the caller may pass, of fixed size, so that "out of memory" needs none.
 */
#ifndef FANFARE_STATUS_H
#define FANFARE_STATUS_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FAN_API __attribute__((visibility("default")))
#define FAN_MUST_CHECK __attribute__((warn_unused_result))

/* name, code, text. Codes are part of the ABI and never change their meaning. */
#define FAN_STATUS_TABLE(X)                                                                        \
    X(OK, 0, "ok")                                                                                 \
    X(AGAIN, 1, "nothing there yet")                                                               \
    X(NOT_FOUND, 2, "not found")                                                                   \
    X(FULL, 3, "full")                                                                             \
    X(CLOSED, 4, "closed")                                                                         \
    X(GAP, 5, "events were lost")                                                                  \
    X(EXISTS, 6, "exists already")                                                                 \
    X(TIMED_OUT, 7, "timed out")                                                                   \
    X(CONFLICT, 8, "conflict")                                                                     \
    X(LOST, 9, "lease lost")                                                                       \
    X(EXPIRED, 10, "expired")                                                                      \
    X(HANDLER, 11, "a handler failed")                                                             \
    X(NO_MEMORY, 32, "out of memory")                                                              \
    X(INVALID, 33, "invalid")                                                                      \
    X(MISUSE, 34, "not allowed in this state")                                                     \
    X(UNSUPPORTED, 35, "not supported")                                                            \
    X(IO, 36, "input or output failed")                                                            \
    X(NO_SPACE, 37, "no space left")                                                               \
    X(READ_ONLY, 38, "read-only")                                                                  \
    X(CORRUPT, 39, "corrupt")                                                                      \
    X(TOO_NEW, 40, "format is newer than this library")                                            \
    X(UNAVAILABLE, 41, "unavailable")                                                              \
    X(UNKNOWN, 42, "outcome unknown")                                                              \
    X(DENIED, 43, "permission denied")                                                             \
    X(FORKED, 44, "used in a forked child")

enum fan_status {
#define FAN_STATUS_ENUM(name, code, text) FAN_##name = (code),
    FAN_STATUS_TABLE(FAN_STATUS_ENUM)
#undef FAN_STATUS_ENUM
};

/* field names the input at fault ("type", "payload.id", "--after"), or is empty. */
struct fan_error {
    enum fan_status status;
    char field[64];
    char message[256];
};

#define FAN_ERROR_INIT                                                                             \
    {                                                                                              \
        FAN_OK, "", ""                                                                             \
    }

/*
 * Gives the short text of a status ("not found"), for logs and messages.
 *
 * Returns: never NULL; "unknown status" for a code outside the table.
 * Memory:  static.
 * Thread:  any. Blocks: never.
 */
FAN_API const char *fan_status_text(enum fan_status status);

/*
 * Gives the name of a status as it stands in the source ("FAN_NOT_FOUND").
 *
 * Returns: never NULL.
 * Memory:  static.
 * Thread:  any. Blocks: never.
 */
FAN_API const char *fan_status_name(enum fan_status status);

#ifdef __cplusplus
}
#endif

#endif
