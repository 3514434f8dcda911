/*
 * How the floors report a failure with words: one call that fills the error and gives the status.
 */
#ifndef FAN_BASE_STATUS_H
#define FAN_BASE_STATUS_H

#include <fanfare/status.h>

/*
 * Fills `error` (may be NULL; `field` too) and gives `status` back, so that a failure is one line:
 *     return fan__fail(error, FAN_INVALID, "type", "has an empty segment");
 */
__attribute__((format(printf, 4, 5))) enum fan_status fan__fail(struct fan_error *error,
                                                                enum fan_status status,
                                                                const char *field,
                                                                const char *format, ...);

#ifdef __clang_analyzer__
/* The analyzer sees no other file: tell it that a failure never comes back as FAN_OK. */
#define fan__fail(error, status, ...) ((void)fan__fail((error), (status), __VA_ARGS__), (status))
#endif

#endif
