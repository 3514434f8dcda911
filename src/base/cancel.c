/*
 * A token is a counted list of entries under one lock. Order of locks: the token's first, then
 * those that an entry's fire takes; hence nobody may add or remove entries while holding the
 * latter.
 *
 * The lock is that of the process which made the token: in a fork's child another thread may have
 * held it. There a token can be fired and looked at, and ends nothing: what it would end is the
 * parent's.
 */
#include "base/cancel.h"

#include "base/env.h"
#include "base/thread.h"

#include <stdatomic.h>

struct fan_cancel {
    const struct fan_env *env;
    unsigned fork_generation;
    atomic_uint holders;
    atomic_bool fired;
    struct fan__mutex mutex;
    struct fan__cancel_entry *first;
};

static bool is_inherited(const struct fan_cancel *cancel)
{
    return cancel->fork_generation != fan__fork_generation();
}

enum fan_status fan_cancel_new(const struct fan_env *env, struct fan_cancel **ret_cancel)
{
    struct fan_cancel *cancel = fan__alloc_zero(env, 1, sizeof(*cancel));
    if (!cancel)
        return FAN_NO_MEMORY;
    cancel->env = env;
    cancel->fork_generation = fan__fork_generation();
    atomic_init(&cancel->holders, 1);
    atomic_init(&cancel->fired, false);
    fan__mutex_init(&cancel->mutex);
    *ret_cancel = cancel;
    return FAN_OK;
}

struct fan_cancel *fan_cancel_ref(struct fan_cancel *cancel)
{
    /* relaxed: the caller holds it, so it cannot go away meanwhile. */
    atomic_fetch_add_explicit(&cancel->holders, 1, memory_order_relaxed);
    return cancel;
}

void fan_cancel_unref(struct fan_cancel *cancel)
{
    if (!cancel)
        return;
    /* acq_rel: what every holder did comes before the free by the last one. */
    if (atomic_fetch_sub_explicit(&cancel->holders, 1, memory_order_acq_rel) > 1)
        return;
    if (!is_inherited(cancel))
        fan__mutex_deinit(&cancel->mutex);
    fan__free(cancel->env, cancel);
}

void fan_cancel_fire(struct fan_cancel *cancel)
{
    if (is_inherited(cancel)) {
        atomic_store_explicit(&cancel->fired, true, memory_order_release);
        return;
    }
    fan__mutex_lock(&cancel->mutex);
    /* release: who sees it fired sees what came before the fire. */
    if (!atomic_exchange_explicit(&cancel->fired, true, memory_order_release)) {
        for (struct fan__cancel_entry *entry = cancel->first; entry; entry = entry->next)
            entry->fire(entry);
    }
    fan__mutex_unlock(&cancel->mutex);
}

bool fan_cancel_fired(const struct fan_cancel *cancel)
{
    /* acquire: pairs with the release in fire. */
    return atomic_load_explicit(&cancel->fired, memory_order_acquire);
}

void fan__cancel_add(struct fan_cancel *cancel, struct fan__cancel_entry *entry)
{
    if (is_inherited(cancel)) {
        entry->cancel = NULL;
        if (fan_cancel_fired(cancel))
            entry->fire(entry);
        return;
    }
    entry->cancel = fan_cancel_ref(cancel);
    fan__mutex_lock(&cancel->mutex);
    entry->previous = NULL;
    entry->next = cancel->first;
    if (cancel->first)
        cancel->first->previous = entry;
    cancel->first = entry;
    if (fan_cancel_fired(cancel))
        entry->fire(entry);
    fan__mutex_unlock(&cancel->mutex);
}

void fan__cancel_remove(struct fan__cancel_entry *entry)
{
    struct fan_cancel *cancel = entry->cancel;
    if (!cancel)
        return;
    fan__mutex_lock(&cancel->mutex);
    if (entry->previous)
        entry->previous->next = entry->next;
    else
        cancel->first = entry->next;
    if (entry->next)
        entry->next->previous = entry->previous;
    entry->cancel = NULL;
    fan__mutex_unlock(&cancel->mutex);
    fan_cancel_unref(cancel);
}
