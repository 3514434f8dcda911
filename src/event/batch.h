/* The inside of a batch for those who fill it and may have to take back. */
#ifndef FAN_EVENT_BATCH_H
#define FAN_EVENT_BATCH_H

#include <fanfare/batch.h>

/* Forgets all events but the first `count`. */
void fan__batch_truncate(struct fan_batch *batch, size_t count);

#endif
