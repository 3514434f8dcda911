/*
 * The store's clock: the wall's as it was at open, carried on by env's monotonic clock. Leases,
 * delays and deliver_at go by it alone, so that setting the wall clock does not move them.
 */
#include "store/memory/group.h"

#include "base/env.h"

static int64_t monotonic_us(const struct fan__memory *memory)
{
    return fan__monotonic_ns(memory->env) / FAN__NS_PER_US;
}

void fan__memory_clock_init(struct fan__memory *memory)
{
    memory->clock_offset_us = fan__wall_us(memory->env) - monotonic_us(memory);
}

int64_t fan__memory_now_us(const struct fan__memory *memory)
{
    return memory->clock_offset_us + monotonic_us(memory);
}

int64_t fan__memory_clock_jump_us(const struct fan__memory *memory)
{
    int64_t ahead_us = fan__wall_us(memory->env) - fan__memory_now_us(memory);
    return ahead_us < 0 ? -ahead_us : ahead_us;
}

/* What was timed by the old clock and is not over yet ends as much later as it would have. */
static int64_t moved(int64_t time_us, int64_t from_us, int64_t to_us)
{
    if (time_us <= from_us)
        return time_us < to_us ? time_us : to_us;
    return time_us + to_us - from_us;
}

void fan__memory_clock_accept(struct fan__memory *memory)
{
    fan__memory_lapse(memory);
    int64_t from_us = fan__memory_now_us(memory);
    int64_t to_us = fan__wall_us(memory->env);
    for (size_t i = memory->entry_first; i < memory->entry_end; i++) {
        struct fan__record *record = memory->entries[i].record;
        if (!record)
            continue;
        record->stored_us += to_us - from_us;
        for (struct fan__delivery *d = record->deliveries; d; d = d->next_of_event) {
            bool waits_for_its_time = d->status == FAN_EVENT_PENDING && d->attempts == 0;
            if (!waits_for_its_time || d->due_us <= from_us)
                fan__memory_reschedule(d, moved(d->due_us, from_us, to_us));
            /* Dead letters go by their age. */
            if (d->status == FAN_EVENT_FAILED)
                d->completed_us += to_us - from_us;
        }
    }
    for (size_t i = 0; i < memory->group_count; i++)
        memory->groups[i]->joined_us += to_us - from_us;
    fan__memory_leases_move(memory, from_us, to_us);
    memory->clock_offset_us += to_us - from_us;
}
