/*
 * What providers say alike about retention: the words of a dead letter, and of a clock that jumped.
 */
#ifndef FAN_STORE_EXPIRED_H
#define FAN_STORE_EXPIRED_H

#include <fanfare/keep.h>

#define FAN__EXPIRED_SIZE 128

/* How long it was owed, and how long retention keeps what is owed. */
void fan__expired_words(int64_t owed_us, uint64_t owed_age_ms, char words[FAN__EXPIRED_SIZE]);

/* Refuses when the clocks are more than a day apart: FAN_CONFLICT with both times. */
FAN_MUST_CHECK enum fan_status fan__check_jump(int64_t wall_us, int64_t store_us, int64_t jump_us,
                                               struct fan_error *error);

#endif
