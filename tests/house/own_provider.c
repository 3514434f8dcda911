/*
 * A program that brings a provider of its own and runs the conformance suite on it, with nothing
 * but what is installed (test_install.py compiles it there). The provider hands every call on to a
 * memory store, through the public functions alone.
 */
#include <fanfare/conformance.h>
#include <fanfare/provider.h>

#include <stddef.h>

static enum fan_status own_open(const char *uri, const struct fan_env *env, void **ret_self,
                                uint64_t *ret_epoch, struct fan_error *error)
{
    (void)uri;
    struct fan_store *store = NULL;
    enum fan_status status = fan_store_open("memory:", env, &store, error);
    if (status != FAN_OK)
        return status;
    *ret_epoch = fan_store_epoch(store);
    *ret_self = store;
    return FAN_OK;
}

static void own_close(void *self)
{
    fan_store_close(self);
}

static enum fan_status own_append(void *self, struct fan_append *items, size_t count,
                                  struct fan_error *error)
{
    return fan_store_append(self, items, count, error);
}

static enum fan_status own_read(void *self, uint64_t after_seq, const struct fan_query *query,
                                struct fan_batch *batch, struct fan_read_result *ret_result)
{
    return fan_store_read(self, after_seq, query, batch, ret_result);
}

static enum fan_status own_list(void *self, const struct fan_query *query, struct fan_batch *batch,
                                struct fan_event_state *states, struct fan_error *error)
{
    return fan_store_list(self, query, batch, states, error);
}

static enum fan_status own_get(void *self, const char *id, struct fan_batch *batch,
                               struct fan_event_state *ret_state)
{
    return fan_store_get(self, id, batch, ret_state);
}

static enum fan_status own_remove(void *self, const char *id)
{
    return fan_store_delete(self, id);
}

static enum fan_status own_erase(void *self, const char *id)
{
    return fan_store_erase(self, id);
}

static enum fan_status own_head(void *self, uint64_t *ret_seq)
{
    return fan_store_head(self, ret_seq);
}

static enum fan_status own_wait(void *self, uint64_t after_seq, uint32_t timeout_ms)
{
    return fan_store_wait(self, after_seq, timeout_ms);
}

static void own_wake(void *self)
{
    fan_store_wake(self);
}

static enum fan_status own_stats(void *self, struct fan_store_stats *ret_stats)
{
    return fan_store_stats(self, ret_stats);
}

static enum fan_status own_group_create(void *self, const struct fan_group_name *name,
                                        const struct fan_group_options *options,
                                        struct fan_error *error)
{
    return fan_group_create(self, name, options, error);
}

static enum fan_status own_group_delete(void *self, const struct fan_group_name *name)
{
    return fan_group_delete(self, name);
}

static enum fan_status own_claim(void *self, const struct fan_group_name *name,
                                 const struct fan_claim_options *options, struct fan_batch *batch,
                                 struct fan_claim *claims)
{
    return fan_group_claim(self, name, options, batch, claims);
}

static enum fan_status own_settle(void *self, const struct fan_group_name *name,
                                  struct fan_settle *items, size_t count)
{
    return fan_group_settle(self, name, items, count);
}

static enum fan_status own_renew(void *self, const struct fan_group_name *name,
                                 struct fan_settle *items, size_t count, uint32_t lease_ms)
{
    return fan_group_renew(self, name, items, count, lease_ms);
}

static enum fan_status own_move(void *self, const struct fan_group_name *name, uint64_t seq,
                                enum fan_event_status to)
{
    return fan_group_move(self, name, seq, to);
}

static enum fan_status own_deliveries(void *self, uint64_t seq, uint64_t after_seq,
                                      fan_delivery_visit visit, void *context)
{
    return fan_store_deliveries(self, seq, after_seq, visit, context);
}

static enum fan_status own_groups(void *self, fan_group_visit visit, void *context)
{
    return fan_store_groups(self, visit, context);
}

static enum fan_status own_lease_acquire(void *self, const char *name, const char *owner,
                                         uint32_t ttl_ms, uint64_t *ret_fence)
{
    return fan_lease_acquire(self, name, owner, ttl_ms, ret_fence);
}

static enum fan_status own_lease_renew(void *self, const char *name, const char *owner,
                                       uint64_t fence, uint32_t ttl_ms)
{
    return fan_lease_renew(self, name, owner, fence, ttl_ms);
}

static enum fan_status own_lease_release(void *self, const char *name, const char *owner,
                                         uint64_t fence)
{
    return fan_lease_release(self, name, owner, fence);
}

static const struct fan_provider own = {
    .size = FAN_PROVIDER_SIZE,
    .scheme = "own",
    .capabilities = FAN_CAPABILITY_NATIVE_GROUPS | FAN_CAPABILITY_QUERY,
    .open = own_open,
    .close = own_close,
    .append = own_append,
    .read = own_read,
    .list = own_list,
    .get = own_get,
    .remove = own_remove,
    .erase = own_erase,
    .head = own_head,
    .wait = own_wait,
    .wake = own_wake,
    .stats = own_stats,
    .group_create = own_group_create,
    .group_delete = own_group_delete,
    .claim = own_claim,
    .settle = own_settle,
    .renew = own_renew,
    .move = own_move,
    .deliveries = own_deliveries,
    .groups = own_groups,
    .lease_acquire = own_lease_acquire,
    .lease_renew = own_lease_renew,
    .lease_release = own_lease_release,
};

static enum fan_status open_fresh(void *context, const struct fan_env *env,
                                  struct fan_store **ret_store, struct fan_error *ret_error)
{
    (void)context;
    return fan_store_open_provider(&own, "own:", env, ret_store, ret_error);
}

int main(void)
{
    const struct fan_conformance_options options = {
        .size = FAN_CONFORMANCE_OPTIONS_SIZE,
        .open = open_fresh,
        .traits = FAN_CONFORMANCE_CLOCK,
        .seed = 1,
        .label = "own: ",
    };
    return fan_conformance_run(&options) == 0 ? 0 : 1;
}
