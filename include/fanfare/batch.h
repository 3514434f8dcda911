/*
 * A batch: events one after another in one growing piece of memory, for providers that read them
 * out of a log and for those who ask for many at once.
 *
 *     new -> add ... -> read -> clear (keeps the memory) -> add ... -> free
 *
 * A batch belongs to one thread at a time. Its events are borrowed, and move when more are added.
 *
 * Limits: 4,294,967,295 events; memory alone bounds the bytes, so who fills it counts them.
 */
#ifndef FANFARE_BATCH_H
#define FANFARE_BATCH_H

#include <fanfare/event.h>

#ifdef __cplusplus
extern "C" {
#endif

struct fan_batch;

/*
 * Makes an empty batch.
 *
 * Returns: FAN_NO_MEMORY.
 * Memory:  *ret_batch is yours, for fan_batch_free. `env` may be NULL and must outlive it.
 * Thread:  any. Blocks: never.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_batch_new(const struct fan_env *env,
                                                     struct fan_batch **ret_batch);

/* Frees a batch and its events. Accepts NULL. Thread: the batch's owner. Blocks: never. */
FAN_API void fan_batch_free(struct fan_batch *batch);

/* Forgets the events and keeps the memory. Thread: the batch's owner. Blocks: never. */
FAN_API void fan_batch_clear(struct fan_batch *batch);

/* Tells how many events there are, and the bytes of all their blocks. Thread: the batch's owner. */
FAN_API size_t fan_batch_count(const struct fan_batch *batch);
FAN_API size_t fan_batch_size(const struct fan_batch *batch);

/*
 * Gives the event with an index, 0 for the first.
 *
 * Returns: NULL past the end.
 * Memory:  borrowed until the next add, clear or free.
 * Thread:  the batch's owner. Blocks: never.
 */
FAN_API const struct fan_event *fan_batch_event(const struct fan_batch *batch, size_t index);

/*
 * Adds an event from its fields, as a log kept them: nothing is stamped and nothing validated, so
 * they must be what fan_event_new made. The draft must have this header's size.
 *
 * Returns: FAN_NO_MEMORY; FAN_INVALID for a block of more than 1 GiB, or a draft without type or
 *          id. The batch is then as it was.
 * Memory:  the draft is copied.
 * Thread:  the batch's owner. Blocks: never.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_batch_add(struct fan_batch *batch,
                                                     const struct fan_event_draft *draft,
                                                     uint64_t seq);

/*
 * Adds a copy of an event.
 *
 * Returns: FAN_NO_MEMORY; the batch is then as it was.
 * Memory:  the event is copied; it may lie in another batch, but not in this one.
 * Thread:  the batch's owner. Blocks: never.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_batch_add_event(struct fan_batch *batch,
                                                           const struct fan_event *event);

/*
 * Keeps a copy of a text beside the events, for what a provider says about them (struct
 * fan_event_state).
 *
 * Returns: NULL without memory.
 * Memory:  borrowed until the next clear or free; adding does not move it.
 * Thread:  the batch's owner. Blocks: never.
 */
FAN_MUST_CHECK FAN_API const char *fan_batch_keep(struct fan_batch *batch, const char *text);

#ifdef __cplusplus
}
#endif

#endif
