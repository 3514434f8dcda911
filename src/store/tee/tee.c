/*
 * The tee's table: the first store answers. What removes goes on to the second, since no copying
 * could tell it of what is not there any more.
 */
#include "store/tee/tee.h"

#include "base/env.h"
#include "base/status.h"
#include "store/handle.h"

#include <fanfare/batch.h>

#include <string.h>

static void release(struct fan__tee *tee)
{
    if (tee->owned) {
        fan_store_close(tee->first);
        fan_store_close(tee->second);
    }
    fan_batch_free(tee->page);
    fan_batch_free(tee->look);
    fan__cond_deinit(&tee->changed);
    fan__mutex_deinit(&tee->mutex);
    fan__free(tee->env, tee->items);
    fan__free(tee->env, tee->second_uri);
    fan__free(tee->env, tee);
}

static void tee_close(void *self)
{
    fan__tee_stop(self);
    release(self);
}

static struct fan__tee *make(const struct fan_env *env, struct fan_error *error)
{
    struct fan__tee *tee = fan__alloc_zero(env, 1, sizeof(*tee));
    if (!tee) {
        (void)fan__fail(error, FAN_NO_MEMORY, NULL, "no memory for the store");
        return NULL;
    }
    tee->env = env;
    fan__mutex_init(&tee->mutex);
    fan__cond_init(&tee->changed);
    tee->items = fan__alloc_zero(env, FAN__TEE_LOOK_COUNT, sizeof(*tee->items));
    if (tee->items && fan_batch_new(env, &tee->page) == FAN_OK &&
        fan_batch_new(env, &tee->look) == FAN_OK)
        return tee;
    release(tee);
    (void)fan__fail(error, FAN_NO_MEMORY, NULL, "no memory for the store");
    return NULL;
}

/* Both stores are there, or the second is away. */
static enum fan_status begin(struct fan__tee *tee, struct fan_error *error)
{
    enum fan_status status = FAN_OK;
    if (tee->second && fan_store_epoch(tee->first) == fan_store_epoch(tee->second))
        return fan__fail(error, FAN_INVALID, "second", "both stores are one log");
    if (tee->second)
        status = fan__tee_place(tee, error);
    if (status != FAN_OK && status != FAN_UNAVAILABLE)
        return status;
    status = fan__tee_start(tee);
    return status == FAN_OK ? FAN_OK : fan__fail(error, status, NULL, "no thread for the copy");
}

/* FIRST|SECOND. Whoever has a bar in a path writes it as %7C. */
static enum fan_status split(const char *uris, const struct fan_env *env, char **ret_first,
                             char **ret_second, struct fan_error *error)
{
    const char *bar = strchr(uris, '|');
    if (!bar || bar == uris || !bar[1] || strchr(bar + 1, '|'))
        return fan__fail(error, FAN_INVALID, "uri", "expected tee:FIRST|SECOND, two URIs");
    char *first = fan__strdup(env, uris);
    char *second = fan__strdup(env, bar + 1);
    if (!first || !second) {
        fan__free(env, first);
        fan__free(env, second);
        return fan__fail(error, FAN_NO_MEMORY, NULL, "no memory for the URIs");
    }
    first[bar - uris] = '\0';
    *ret_first = first;
    *ret_second = second;
    return FAN_OK;
}

static enum fan_status tee_open(const char *uri, const struct fan_env *env, void **ret_self,
                                uint64_t *ret_epoch, struct fan_error *error)
{
    char *first_uri = NULL;
    struct fan__tee *tee = make(env, error);
    if (!tee)
        return FAN_NO_MEMORY;
    tee->owned = true;
    enum fan_status status = split(strchr(uri, ':') + 1, env, &first_uri, &tee->second_uri, error);
    if (status == FAN_OK)
        status = fan__store_open_inner(first_uri, env, &tee->first, error);
    fan__free(env, first_uri);
    if (status == FAN_OK) {
        status = fan__store_open_inner(tee->second_uri, env, &tee->second, error);
        /* What is only away comes later; the thread asks for it. */
        if (status == FAN_UNAVAILABLE)
            status = FAN_OK;
    }
    if (status == FAN_OK)
        status = begin(tee, error);
    if (status != FAN_OK) {
        release(tee);
        return status;
    }
    *ret_self = tee;
    *ret_epoch = fan_store_epoch(tee->first);
    return FAN_OK;
}

static struct fan_store *first_of(void *self)
{
    return ((struct fan__tee *)self)->first;
}

static enum fan_status tee_append(void *self, struct fan_append *items, size_t count,
                                  struct fan_error *error)
{
    return fan_store_append(first_of(self), items, count, error);
}

static enum fan_status tee_read(void *self, uint64_t after_seq, const struct fan_query *query,
                                struct fan_batch *batch, struct fan_read_result *ret_result)
{
    return fan_store_read(first_of(self), after_seq, query, batch, ret_result);
}

static enum fan_status tee_list(void *self, const struct fan_query *query, struct fan_batch *batch,
                                struct fan_event_state *states, struct fan_error *error)
{
    return fan_store_list(first_of(self), query, batch, states, error);
}

static enum fan_status tee_get(void *self, const char *id, struct fan_batch *batch,
                               struct fan_event_state *ret_state)
{
    return fan_store_get(first_of(self), id, batch, ret_state);
}

/*
 * What the second has not got yet, it does not get any more: whoever copies looks at the first
 * again. Where the second does not answer, the caller is told so and asks again: the first then
 * says that there is no such event.
 */
static enum fan_status in_both(struct fan__tee *tee, const char *id,
                               enum fan_status (*call)(struct fan_store *store, const char *id))
{
    enum fan_status first = call(tee->first, id);
    if (first != FAN_OK && first != FAN_NOT_FOUND)
        return first;
    struct fan_store *store = fan__tee_second(tee);
    enum fan_status second = store ? call(store, id) : FAN_UNAVAILABLE;
    return second == FAN_OK || second == FAN_NOT_FOUND ? first : second;
}

static enum fan_status tee_remove(void *self, const char *id)
{
    return in_both(self, id, fan_store_delete);
}

static enum fan_status tee_erase(void *self, const char *id)
{
    return in_both(self, id, fan_store_erase);
}

static enum fan_status tee_head(void *self, uint64_t *ret_seq)
{
    return fan_store_head(first_of(self), ret_seq);
}

static enum fan_status tee_wait(void *self, uint64_t after_seq, uint32_t timeout_ms)
{
    return fan_store_wait(first_of(self), after_seq, timeout_ms);
}

static void tee_wake(void *self)
{
    fan_store_wake(first_of(self));
}

static enum fan_status tee_stats(void *self, struct fan_store_stats *ret_stats)
{
    return fan_store_stats(first_of(self), ret_stats);
}

static enum fan_status tee_group_create(void *self, const struct fan_group_name *name,
                                        const struct fan_group_options *options,
                                        struct fan_error *error)
{
    return fan_group_create(first_of(self), name, options, error);
}

static enum fan_status tee_group_delete(void *self, const struct fan_group_name *name)
{
    return fan_group_delete(first_of(self), name);
}

static enum fan_status tee_claim(void *self, const struct fan_group_name *name,
                                 const struct fan_claim_options *options, struct fan_batch *batch,
                                 struct fan_claim *claims)
{
    return fan_group_claim(first_of(self), name, options, batch, claims);
}

static enum fan_status tee_settle(void *self, const struct fan_group_name *name,
                                  struct fan_settle *items, size_t count)
{
    return fan_group_settle(first_of(self), name, items, count);
}

static enum fan_status tee_renew(void *self, const struct fan_group_name *name,
                                 struct fan_settle *items, size_t count, uint32_t lease_ms)
{
    return fan_group_renew(first_of(self), name, items, count, lease_ms);
}

static enum fan_status tee_move(void *self, const struct fan_group_name *name, uint64_t seq,
                                enum fan_event_status to)
{
    return fan_group_move(first_of(self), name, seq, to);
}

static enum fan_status tee_deliveries(void *self, uint64_t seq, uint64_t after_seq,
                                      fan_delivery_visit visit, void *context)
{
    return fan_store_deliveries(first_of(self), seq, after_seq, visit, context);
}

static enum fan_status tee_groups(void *self, fan_group_visit visit, void *context)
{
    return fan_store_groups(first_of(self), visit, context);
}

static enum fan_status tee_lease_acquire(void *self, const char *name, const char *owner,
                                         uint32_t ttl_ms, uint64_t *ret_fence)
{
    return fan_lease_acquire(first_of(self), name, owner, ttl_ms, ret_fence);
}

static enum fan_status tee_lease_renew(void *self, const char *name, const char *owner,
                                       uint64_t fence, uint32_t ttl_ms)
{
    return fan_lease_renew(first_of(self), name, owner, fence, ttl_ms);
}

static enum fan_status tee_lease_release(void *self, const char *name, const char *owner,
                                         uint64_t fence)
{
    return fan_lease_release(first_of(self), name, owner, fence);
}

static enum fan_status tee_retain(void *self, const struct fan_retention *retention,
                                  struct fan_retained *ret_retained, struct fan_error *error)
{
    return fan_store_retain(first_of(self), retention, ret_retained, error);
}

static enum fan_status tee_accept_clock(void *self, struct fan_error *error)
{
    return fan_store_accept_clock(first_of(self), error);
}

static enum fan_status tee_backup(void *self, const char *path, struct fan_error *error)
{
    return fan_store_backup(first_of(self), path, error);
}

static enum fan_status tee_verify(void *self, fan_finding_visit visit, void *context,
                                  struct fan_error *error)
{
    return fan_store_verify(first_of(self), visit, context, error);
}

static unsigned tee_promises(void *self)
{
    return fan_store_capabilities(first_of(self));
}

const struct fan_provider fan__tee_provider = {
    .size = FAN_PROVIDER_SIZE,
    .scheme = "tee",
    .open = tee_open,
    .close = tee_close,
    .append = tee_append,
    .read = tee_read,
    .list = tee_list,
    .get = tee_get,
    .remove = tee_remove,
    .erase = tee_erase,
    .head = tee_head,
    .wait = tee_wait,
    .wake = tee_wake,
    .stats = tee_stats,
    .group_create = tee_group_create,
    .group_delete = tee_group_delete,
    .claim = tee_claim,
    .settle = tee_settle,
    .renew = tee_renew,
    .move = tee_move,
    .deliveries = tee_deliveries,
    .groups = tee_groups,
    .lease_acquire = tee_lease_acquire,
    .lease_renew = tee_lease_renew,
    .lease_release = tee_lease_release,
    .promises = tee_promises,
    .retain = tee_retain,
    .accept_clock = tee_accept_clock,
    .backup = tee_backup,
    .verify = tee_verify,
};

enum fan_status fan_tee_wrap(struct fan_store *first, struct fan_store *second,
                             const struct fan_env *env, struct fan_store **ret_store,
                             struct fan_error *ret_error)
{
    if (!first || !second || !ret_store)
        return fan__fail(ret_error, FAN_INVALID, "first",
                         "expected two stores and a place for one");
    struct fan__tee *tee = make(env, ret_error);
    if (!tee)
        return FAN_NO_MEMORY;
    tee->first = first;
    tee->second = second;
    struct fan_store *store = fan__store_new(&fan__tee_provider, env, tee);
    enum fan_status status =
        store ? begin(tee, ret_error)
              : fan__fail(ret_error, FAN_NO_MEMORY, NULL, "no memory for the store");
    if (status != FAN_OK) {
        fan__free(env, store);
        release(tee);
        return status;
    }
    store->epoch = fan_store_epoch(first);
    *ret_store = store;
    return FAN_OK;
}

/* NULL for a store of another kind. */
static struct fan__tee *tee_of(struct fan_store *store)
{
    bool usable = store && store->provider == &fan__tee_provider && !fan__store_in_fork(store);
    return usable ? store->self : NULL;
}

enum fan_status fan_tee_stats(struct fan_store *store, struct fan_tee_stats *ret_stats)
{
    struct fan__tee *tee = tee_of(store);
    if (!tee)
        return FAN_MISUSE;
    if (!ret_stats || ret_stats->size < sizeof(*ret_stats))
        return FAN_INVALID;
    size_t size = ret_stats->size;
    uint64_t head_seq = 0;
    enum fan_status status = fan_store_head(tee->first, &head_seq);
    if (status != FAN_OK)
        return status;
    fan__mutex_lock(&tee->mutex);
    *ret_stats = tee->stats;
    fan__mutex_unlock(&tee->mutex);
    ret_stats->size = size;
    ret_stats->lag = head_seq > ret_stats->copied_seq ? head_seq - ret_stats->copied_seq : 0;
    return FAN_OK;
}

enum fan_status fan_tee_wait(struct fan_store *store, uint32_t timeout_ms)
{
    struct fan__tee *tee = tee_of(store);
    int64_t deadline_ns = fan__deadline_ns(timeout_ms);
    uint64_t head_seq = 0;
    if (!tee)
        return FAN_MISUSE;
    enum fan_status status = fan_store_head(tee->first, &head_seq);
    if (status != FAN_OK)
        return status;
    bool in_time = true;
    fan__mutex_lock(&tee->mutex);
    while (in_time && tee->stats.copied_seq < head_seq)
        in_time = fan__cond_wait_until(&tee->changed, &tee->mutex, deadline_ns);
    bool copied = tee->stats.copied_seq >= head_seq;
    fan__mutex_unlock(&tee->mutex);
    return copied ? FAN_OK : FAN_TIMED_OUT;
}
