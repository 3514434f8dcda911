/*
 * Leases by name. Fences come from one counter of the store, so that a lease which nobody holds can
 * be forgotten and still never gives a fence twice.
 */
#include "base/env.h"
#include "store/memory/log.h"

#include <string.h>

#define SWEEP_COUNT_FIRST 64

struct lease {
    struct fan__table_node node;
    uint64_t fence;
    int64_t until_us;
    char *owner;
    char name[];
};

static void lease_free(struct fan__memory *memory, struct lease *lease)
{
    fan__free(memory->env, lease->owner);
    fan__free(memory->env, lease);
}

void fan__memory_leases_deinit(struct fan__memory *memory)
{
    size_t at = 0;
    struct fan__table_node *node;
    while ((node = fan__table_pop(&memory->leases, &at)))
        lease_free(memory, (void *)node);
    fan__table_deinit(&memory->leases);
}

static struct lease *find(const struct fan__memory *memory, const char *name)
{
    struct fan__table_node *node =
        fan__table_first(&memory->leases, fan__memory_hash(memory, name));
    for (; node; node = fan__table_next(node)) {
        struct lease *lease = (void *)node;
        if (strcmp(lease->name, name) == 0)
            return lease;
    }
    return NULL;
}

static bool is_held(const struct fan__memory *memory, const struct lease *lease)
{
    return lease && lease->until_us > fan__memory_now_us(memory);
}

/* The lease, if it is held now by that owner under that fence. */
static struct lease *find_held(const struct fan__memory *memory, const char *name,
                               const char *owner, uint64_t fence)
{
    struct lease *lease = find(memory, name);
    if (!is_held(memory, lease) || lease->fence != fence || strcmp(lease->owner, owner) != 0)
        return NULL;
    return lease;
}

/* Forgets the lapsed, each time that there are twice as many leases as were left the last time. */
static void sweep(struct fan__memory *memory)
{
    if (memory->leases.count < memory->lease_sweep_count)
        return;
    for (size_t i = 0; i < memory->leases.capacity; i++) {
        struct fan__table_node *next;
        for (struct fan__table_node *node = memory->leases.buckets[i]; node; node = next) {
            next = node->next;
            if (is_held(memory, (void *)node))
                continue;
            fan__table_remove(&memory->leases, node);
            lease_free(memory, (void *)node);
        }
    }
    size_t count = memory->leases.count * 2;
    memory->lease_sweep_count = count > SWEEP_COUNT_FIRST ? count : SWEEP_COUNT_FIRST;
}

static int64_t end_of(const struct fan__memory *memory, uint32_t ttl_ms)
{
    return fan__memory_now_us(memory) + (int64_t)ttl_ms * 1000;
}

static struct lease *add(struct fan__memory *memory, const char *name)
{
    sweep(memory);
    size_t size = strlen(name) + 1;
    struct lease *lease = fan__alloc_zero(memory->env, 1, sizeof(*lease) + size);
    if (!lease)
        return NULL;
    memcpy(lease->name, name, size);
    fan__table_add(&memory->leases, &lease->node, fan__memory_hash(memory, name));
    return lease;
}

enum fan_status fan__memory_lease_acquire(struct fan__memory *memory, const char *name,
                                          const char *owner, uint32_t ttl_ms, uint64_t *ret_fence)
{
    struct lease *lease = find(memory, name);
    if (is_held(memory, lease)) {
        if (strcmp(lease->owner, owner) != 0)
            return FAN_EXISTS;
        lease->until_us = end_of(memory, ttl_ms);
        *ret_fence = lease->fence;
        return FAN_OK;
    }
    char *copy = fan__strdup(memory->env, owner);
    if (!copy)
        return FAN_NO_MEMORY;
    if (!lease)
        lease = add(memory, name);
    if (!lease) {
        fan__free(memory->env, copy);
        return FAN_NO_MEMORY;
    }
    fan__free(memory->env, lease->owner);
    lease->owner = copy;
    lease->fence = ++memory->fence_last;
    lease->until_us = end_of(memory, ttl_ms);
    *ret_fence = lease->fence;
    return FAN_OK;
}

enum fan_status fan__memory_lease_renew(struct fan__memory *memory, const char *name,
                                        const char *owner, uint64_t fence, uint32_t ttl_ms)
{
    struct lease *lease = find_held(memory, name, owner, fence);
    if (!lease)
        return FAN_LOST;
    lease->until_us = end_of(memory, ttl_ms);
    return FAN_OK;
}

enum fan_status fan__memory_lease_release(struct fan__memory *memory, const char *name,
                                          const char *owner, uint64_t fence)
{
    struct lease *lease = find_held(memory, name, owner, fence);
    if (!lease)
        return FAN_LOST;
    fan__table_remove(&memory->leases, &lease->node);
    lease_free(memory, lease);
    return FAN_OK;
}

bool fan__memory_lease_is(const struct fan__memory *memory, const char *name, uint64_t fence)
{
    const struct lease *lease = find(memory, name);
    return is_held(memory, lease) && lease->fence == fence;
}

void fan__memory_leases_move(struct fan__memory *memory, int64_t from_us, int64_t to_us)
{
    for (size_t i = 0; i < memory->leases.capacity; i++) {
        for (struct fan__table_node *node = memory->leases.buckets[i]; node; node = node->next) {
            struct lease *lease = (void *)node;
            bool held = lease->until_us > from_us;
            lease->until_us = held ? lease->until_us + to_us - from_us : INT64_MIN;
        }
    }
}
