/*
 * Two growing runs: the blocks, and where each begins. Every block's size is a multiple of 8, so
 * all of them are aligned as the first one is.
 */
#include "event/batch.h"

#include "base/buffer.h"
#include "base/env.h"
#include "event/event.h"

#include <string.h>

/* Each text has its own piece of memory, so that it stays where it is. */
struct kept {
    struct kept *next;
    char text[];
};

struct fan_batch {
    const struct fan_env *env;
    struct fan__buffer blocks;
    struct kept *kept;
    size_t *starts;
    size_t count;
    size_t capacity;
};

enum fan_status fan_batch_new(const struct fan_env *env, struct fan_batch **ret_batch)
{
    struct fan_batch *batch = fan__alloc_zero(env, 1, sizeof(*batch));
    if (!batch)
        return FAN_NO_MEMORY;
    batch->env = env;
    fan__buffer_init(&batch->blocks, env);
    *ret_batch = batch;
    return FAN_OK;
}

static void free_kept(struct fan_batch *batch)
{
    while (batch->kept) {
        struct kept *next = batch->kept->next;
        fan__free(batch->env, batch->kept);
        batch->kept = next;
    }
}

void fan_batch_free(struct fan_batch *batch)
{
    if (!batch)
        return;
    free_kept(batch);
    fan__buffer_deinit(&batch->blocks);
    fan__free(batch->env, batch->starts);
    fan__free(batch->env, batch);
}

void fan_batch_clear(struct fan_batch *batch)
{
    fan__buffer_clear(&batch->blocks);
    free_kept(batch);
    batch->count = 0;
}

void fan__batch_truncate(struct fan_batch *batch, size_t count)
{
    if (count >= batch->count)
        return;
    batch->blocks.size = batch->starts[count];
    batch->count = count;
}

size_t fan_batch_count(const struct fan_batch *batch)
{
    return batch->count;
}

size_t fan_batch_size(const struct fan_batch *batch)
{
    return batch->blocks.size;
}

const struct fan_event *fan_batch_event(const struct fan_batch *batch, size_t index)
{
    if (index >= batch->count)
        return NULL;
    return (const void *)(batch->blocks.data + batch->starts[index]);
}

/* Makes room for one more block and gives its place; NULL without memory. */
static void *reserve(struct fan_batch *batch, size_t size)
{
    if (batch->count == batch->capacity) {
        size_t capacity = batch->capacity ? batch->capacity * 2 : 64;
        size_t *starts = fan__resize(batch->env, batch->starts, capacity * sizeof(*starts));
        if (!starts)
            return NULL;
        batch->starts = starts;
        batch->capacity = capacity;
    }
    return fan__buffer_reserve(&batch->blocks, size);
}

static void commit(struct fan_batch *batch, size_t size)
{
    batch->starts[batch->count++] = batch->blocks.size;
    batch->blocks.size += size;
}

enum fan_status fan_batch_add(struct fan_batch *batch, const struct fan_event_draft *draft,
                              uint64_t seq)
{
    struct fan__event_layout layout;
    if (draft->size != FAN_EVENT_DRAFT_SIZE || !draft->id || !draft->type ||
        !fan__event_layout(draft, &layout))
        return FAN_INVALID;
    void *block = reserve(batch, layout.size);
    if (!block)
        return FAN_NO_MEMORY;
    fan__event_write_layout(draft, &layout, seq, block);
    commit(batch, layout.size);
    return FAN_OK;
}

enum fan_status fan_batch_add_event(struct fan_batch *batch, const struct fan_event *event)
{
    size_t size = fan_event_size(event);
    void *block = reserve(batch, size);
    if (!block)
        return FAN_NO_MEMORY;
    memcpy(block, event, size);
    commit(batch, size);
    return FAN_OK;
}

const char *fan_batch_keep(struct fan_batch *batch, const char *text)
{
    size_t size = strlen(text) + 1;
    struct kept *kept = fan__alloc(batch->env, sizeof(*kept) + size);
    if (!kept)
        return NULL;
    kept->next = batch->kept;
    memcpy(kept->text, text, size);
    batch->kept = kept;
    return kept->text;
}
