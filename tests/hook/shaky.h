/*
 * A provider that passes everything on to a real store, and whose appends fail, refuse, lie or
 * stand still as a test tells it.
 */
#ifndef TESTS_HOOK_SHAKY_H
#define TESTS_HOOK_SHAKY_H

#include "support.h"

#include <fanfare/provider.h>

/*
 * fail_count  appends that fail with fail_status, after having stored when `stores`
 * refuse      an id with this beginning is refused as invalid
 * hold        appends stand still until it is false again
 */
struct shaky {
    pthread_mutex_t mutex;
    pthread_cond_t news;
    int fail_count;
    enum fan_status fail_status;
    bool stores;
    const char *refuse;
    bool hold;
    bool held; /* one stands still */
    unsigned appends;
};

static struct shaky shaky = { .mutex = PTHREAD_MUTEX_INITIALIZER,
                              .news = PTHREAD_COND_INITIALIZER };

static inline void shaky_reset(void)
{
    pthread_mutex_lock(&shaky.mutex);
    shaky.fail_count = 0;
    shaky.fail_status = FAN_OK;
    shaky.stores = false;
    shaky.refuse = NULL;
    shaky.hold = shaky.held = false;
    shaky.appends = 0;
    pthread_mutex_unlock(&shaky.mutex);
}

/* `shaky:` and the URI of the store behind. */
static enum fan_status shaky_open(const char *uri, const struct fan_env *env, void **ret_self,
                                  uint64_t *ret_epoch, struct fan_error *error)
{
    struct fan_store *store = NULL;
    enum fan_status status = fan_store_open(uri + strlen("shaky:"), env, &store, error);
    if (status != FAN_OK)
        return status;
    *ret_self = store;
    *ret_epoch = fan_store_epoch(store);
    return FAN_OK;
}

static void shaky_close(void *self)
{
    fan_store_close(self);
}

/* A batch with a refused id stores the rest, as a provider's own limit does; units are whole. */
static bool refuses(struct fan_append *items, size_t count)
{
    bool found = false;
    for (size_t i = 0; i < count && shaky.refuse; i++)
        found |= strncmp(fan_event_id(items[i].event), shaky.refuse, strlen(shaky.refuse)) == 0;
    for (size_t i = 0; i < count && found; i++)
        items[i].ret_status = FAN_INVALID;
    return found;
}

static enum fan_status shaky_append(void *self, struct fan_append *items, size_t count,
                                    struct fan_error *error)
{
    pthread_mutex_lock(&shaky.mutex);
    shaky.appends++;
    while (shaky.hold) {
        shaky.held = true;
        pthread_cond_broadcast(&shaky.news);
        pthread_cond_wait(&shaky.news, &shaky.mutex);
    }
    bool fails = shaky.fail_count > 0;
    bool refused = !fails && refuses(items, count);
    shaky.fail_count -= fails;
    enum fan_status fail_status = shaky.fail_status;
    bool stores = shaky.stores;
    pthread_mutex_unlock(&shaky.mutex);
    if (refused)
        return FAN_OK;
    enum fan_status status = FAN_OK;
    if (!fails || stores)
        status = fan_store_append(self, items, count, error);
    return fails ? fail_status : status;
}

static enum fan_status shaky_read(void *self, uint64_t after_seq, const struct fan_query *query,
                                  struct fan_batch *batch, struct fan_read_result *ret_result)
{
    return fan_store_read(self, after_seq, query, batch, ret_result);
}

static enum fan_status shaky_list(void *self, const struct fan_query *query,
                                  struct fan_batch *batch, struct fan_event_state *states,
                                  struct fan_error *error)
{
    return fan_store_list(self, query, batch, states, error);
}

static enum fan_status shaky_get(void *self, const char *id, struct fan_batch *batch,
                                 struct fan_event_state *ret_state)
{
    return fan_store_get(self, id, batch, ret_state);
}

static enum fan_status shaky_remove(void *self, const char *id)
{
    return fan_store_delete(self, id);
}

static enum fan_status shaky_head(void *self, uint64_t *ret_seq)
{
    return fan_store_head(self, ret_seq);
}

static enum fan_status shaky_wait(void *self, uint64_t after_seq, uint32_t timeout_ms)
{
    return fan_store_wait(self, after_seq, timeout_ms);
}

static void shaky_wake(void *self)
{
    fan_store_wake(self);
}

static enum fan_status shaky_stats(void *self, struct fan_store_stats *ret_stats)
{
    return fan_store_stats(self, ret_stats);
}

static enum fan_status shaky_lease_acquire(void *self, const char *name, const char *owner,
                                           uint32_t ttl_ms, uint64_t *ret_fence)
{
    return fan_lease_acquire(self, name, owner, ttl_ms, ret_fence);
}

static enum fan_status shaky_lease_renew(void *self, const char *name, const char *owner,
                                         uint64_t fence, uint32_t ttl_ms)
{
    return fan_lease_renew(self, name, owner, fence, ttl_ms);
}

static enum fan_status shaky_lease_release(void *self, const char *name, const char *owner,
                                           uint64_t fence)
{
    return fan_lease_release(self, name, owner, fence);
}

static enum fan_status shaky_erase(void *self, const char *id)
{
    return fan_store_erase(self, id);
}

static enum fan_status shaky_group_create(void *self, const struct fan_group_name *name,
                                          const struct fan_group_options *options,
                                          struct fan_error *error)
{
    return fan_group_create(self, name, options, error);
}

static enum fan_status shaky_group_delete(void *self, const struct fan_group_name *name)
{
    return fan_group_delete(self, name);
}

static enum fan_status shaky_claim(void *self, const struct fan_group_name *name,
                                   const struct fan_claim_options *options, struct fan_batch *batch,
                                   struct fan_claim *claims)
{
    return fan_group_claim(self, name, options, batch, claims);
}

static enum fan_status shaky_settle(void *self, const struct fan_group_name *name,
                                    struct fan_settle *items, size_t count)
{
    return fan_group_settle(self, name, items, count);
}

static enum fan_status shaky_renew(void *self, const struct fan_group_name *name,
                                   struct fan_settle *items, size_t count, uint32_t lease_ms)
{
    return fan_group_renew(self, name, items, count, lease_ms);
}

static enum fan_status shaky_move(void *self, const struct fan_group_name *name, uint64_t seq,
                                  enum fan_event_status to)
{
    return fan_group_move(self, name, seq, to);
}

static enum fan_status shaky_deliveries(void *self, uint64_t seq, uint64_t after_seq,
                                        fan_delivery_visit visit, void *context)
{
    return fan_store_deliveries(self, seq, after_seq, visit, context);
}

static enum fan_status shaky_groups(void *self, fan_group_visit visit, void *context)
{
    return fan_store_groups(self, visit, context);
}

static const struct fan_provider shaky_provider = {
    .size = FAN_PROVIDER_SIZE,
    .scheme = "shaky",
    .open = shaky_open,
    .close = shaky_close,
    .append = shaky_append,
    .read = shaky_read,
    .list = shaky_list,
    .get = shaky_get,
    .remove = shaky_remove,
    .erase = shaky_erase,
    .head = shaky_head,
    .wait = shaky_wait,
    .wake = shaky_wake,
    .stats = shaky_stats,
    .group_create = shaky_group_create,
    .group_delete = shaky_group_delete,
    .claim = shaky_claim,
    .settle = shaky_settle,
    .renew = shaky_renew,
    .move = shaky_move,
    .deliveries = shaky_deliveries,
    .groups = shaky_groups,
    .lease_acquire = shaky_lease_acquire,
    .lease_renew = shaky_lease_renew,
    .lease_release = shaky_lease_release,
};

static inline struct fan_broker *shaky_broker(const struct place *place, bool stepped)
{
    char uri[160];
    snprintf(uri, sizeof(uri), "shaky:%s", place->uri);
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    options.provider = &shaky_provider;
    options.stepped = stepped;
    struct fan_broker *broker = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    if (fan_broker_open(uri, &options, &broker, &error) != FAN_OK)
        fail_msg("%s", error.message);
    assert_ok(fan_broker_start(broker));
    return broker;
}

#endif
