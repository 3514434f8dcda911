/* The provider's table: each function takes the one lock, looks the names up, and calls inside. */
#include "store/memory/memory.h"

#include "base/env.h"
#include "base/status.h"
#include "store/expired.h"
#include "store/memory/group.h"
#include "store/memory/log.h"
#include "store/uri.h"

#define CAPACITY_DEFAULT 10000
#define CAPACITY_MAX UINT32_MAX

static enum fan_status read_uri(const char *text, const struct fan_env *env, uint64_t *ret_capacity,
                                struct fan_error *error)
{
    struct fan__uri uri;
    enum fan_status status = fan__uri_parse(text, env, &uri, error);
    if (status != FAN_OK)
        return status;
    if (*uri.path)
        status = fan__fail(error, FAN_INVALID, "uri", "expected nothing between ':' and '?'");
    if (status == FAN_OK)
        status = fan__uri_take_count(&uri, "capacity", 1, CAPACITY_MAX, ret_capacity, error);
    if (status == FAN_OK)
        status = fan__uri_finish(&uri, error);
    fan__uri_deinit(&uri);
    return status;
}

static void free_parts(struct fan__memory *memory)
{
    fan__memory_groups_deinit(memory);
    fan__memory_leases_deinit(memory);
    fan__memory_log_deinit(memory);
    fan__free(memory->env, memory);
}

static enum fan_status memory_open(const char *uri, const struct fan_env *env, void **ret_self,
                                   uint64_t *ret_epoch, struct fan_error *error)
{
    uint64_t capacity = CAPACITY_DEFAULT;
    enum fan_status status = read_uri(uri, env, &capacity, error);
    if (status != FAN_OK)
        return status;
    struct fan__memory *memory = fan__alloc_zero(env, 1, sizeof(*memory));
    if (!memory)
        return fan__fail(error, FAN_NO_MEMORY, NULL, "no memory for the store");
    memory->env = env;
    memory->capacity = capacity;
    fan__memory_clock_init(memory);
    fan__random(env, &memory->hash_seed, sizeof(memory->hash_seed));
    while (memory->epoch == 0)
        fan__random(env, &memory->epoch, sizeof(memory->epoch));
    if (!fan__memory_log_init(memory) || !fan__table_init(&memory->owners, env) ||
        !fan__table_init(&memory->leases, env)) {
        free_parts(memory);
        return fan__fail(error, FAN_NO_MEMORY, NULL, "no memory for the store");
    }
    fan__mutex_init(&memory->mutex);
    fan__cond_init(&memory->appended);
    *ret_self = memory;
    *ret_epoch = memory->epoch;
    return FAN_OK;
}

static void memory_close(void *self)
{
    struct fan__memory *memory = self;
    fan__cond_deinit(&memory->appended);
    fan__mutex_deinit(&memory->mutex);
    free_parts(memory);
}

static struct fan__memory *lock(void *self)
{
    struct fan__memory *memory = self;
    fan__mutex_lock(&memory->mutex);
    return memory;
}

static enum fan_status unlock(struct fan__memory *memory, enum fan_status status)
{
    fan__mutex_unlock(&memory->mutex);
    return status;
}

static enum fan_status memory_append(void *self, struct fan_append *items, size_t count,
                                     struct fan_error *error)
{
    struct fan__memory *memory = lock(self);
    uint64_t head_seq = memory->head_seq;
    enum fan_status status = fan__memory_append(memory, items, count);
    if (memory->head_seq != head_seq)
        fan__cond_broadcast(&memory->appended);
    unlock(memory, status);
    return status == FAN_OK ? status : fan__fail(error, status, NULL, "no memory for the events");
}

static enum fan_status memory_read(void *self, uint64_t after_seq, const struct fan_query *query,
                                   struct fan_batch *batch, struct fan_read_result *ret_result)
{
    struct fan__memory *memory = lock(self);
    return unlock(memory, fan__memory_read(memory, after_seq, query, batch, ret_result));
}

static enum fan_status memory_list(void *self, const struct fan_query *query,
                                   struct fan_batch *batch, struct fan_event_state *states,
                                   struct fan_error *error)
{
    struct fan__memory *memory = lock(self);
    fan__memory_lapse(memory);
    enum fan_status status = unlock(memory, fan__memory_list(memory, query, batch, states));
    return status == FAN_OK ? status : fan__fail(error, status, NULL, "no memory for the list");
}

static enum fan_status memory_get(void *self, const char *id, struct fan_batch *batch,
                                  struct fan_event_state *ret_state)
{
    struct fan__memory *memory = lock(self);
    fan__memory_lapse(memory);
    const struct fan__record *record = fan__memory_find(memory, id);
    return unlock(memory,
                  record ? fan__memory_add(memory, record, batch, ret_state) : FAN_NOT_FOUND);
}

static enum fan_status memory_remove(void *self, const char *id)
{
    struct fan__memory *memory = lock(self);
    struct fan__record *record = fan__memory_find(memory, id);
    if (record)
        fan__memory_drop(memory, record);
    return unlock(memory, record ? FAN_OK : FAN_NOT_FOUND);
}

static enum fan_status memory_erase(void *self, const char *id)
{
    struct fan__memory *memory = lock(self);
    struct fan__record *record = fan__memory_find(memory, id);
    return unlock(memory, record ? fan__memory_erase(memory, record) : FAN_NOT_FOUND);
}

static enum fan_status memory_head(void *self, uint64_t *ret_seq)
{
    struct fan__memory *memory = lock(self);
    *ret_seq = memory->head_seq;
    return unlock(memory, FAN_OK);
}

static enum fan_status memory_wait(void *self, uint64_t after_seq, uint32_t timeout_ms)
{
    int64_t deadline_ns = fan__deadline_ns(timeout_ms);
    struct fan__memory *memory = lock(self);
    uint64_t wakes = memory->wakes;
    bool in_time = true;
    while (in_time && memory->head_seq <= after_seq && memory->wakes == wakes)
        in_time = fan__cond_wait_until(&memory->appended, &memory->mutex, deadline_ns);
    return unlock(memory, memory->head_seq > after_seq ? FAN_OK : FAN_AGAIN);
}

static void memory_wake(void *self)
{
    struct fan__memory *memory = lock(self);
    memory->wakes++;
    fan__cond_broadcast(&memory->appended);
    unlock(memory, FAN_OK);
}

static enum fan_status memory_stats(void *self, struct fan_store_stats *ret_stats)
{
    struct fan__memory *memory = lock(self);
    fan__memory_lapse(memory);
    fan__memory_stats(memory, ret_stats);
    return unlock(memory, FAN_OK);
}

static enum fan_status memory_group_create(void *self, const struct fan_group_name *name,
                                           const struct fan_group_options *options,
                                           struct fan_error *error)
{
    struct fan__memory *memory = lock(self);
    enum fan_status status = unlock(memory, fan__memory_group_create(memory, name, options));
    if (status == FAN_NO_MEMORY)
        return fan__fail(error, status, NULL, "no memory for the group");
    if (status == FAN_EXISTS)
        return fan__fail(error, status, "group", "it is there already and keeps its place");
    return status;
}

static enum fan_status memory_group_delete(void *self, const struct fan_group_name *name)
{
    struct fan__memory *memory = lock(self);
    return unlock(memory, fan__memory_group_delete(memory, name));
}

/* Locks, lets lapse what has lapsed, and finds the group; NULL when there is none. */
static struct fan__memory_group *enter_group(void *self, const struct fan_group_name *name)
{
    struct fan__memory *memory = lock(self);
    fan__memory_lapse(memory);
    return fan__memory_group_find(memory, name);
}

static enum fan_status memory_claim(void *self, const struct fan_group_name *name,
                                    const struct fan_claim_options *options,
                                    struct fan_batch *batch, struct fan_claim *claims)
{
    struct fan__memory_group *group = enter_group(self, name);
    return unlock(self,
                  group ? fan__memory_claim(self, group, options, batch, claims) : FAN_NOT_FOUND);
}

static enum fan_status memory_settle(void *self, const struct fan_group_name *name,
                                     struct fan_settle *items, size_t count)
{
    struct fan__memory_group *group = enter_group(self, name);
    return unlock(self, group ? fan__memory_settle(self, group, items, count) : FAN_NOT_FOUND);
}

static enum fan_status memory_renew(void *self, const struct fan_group_name *name,
                                    struct fan_settle *items, size_t count, uint32_t lease_ms)
{
    struct fan__memory_group *group = enter_group(self, name);
    return unlock(self,
                  group ? fan__memory_renew(self, group, items, count, lease_ms) : FAN_NOT_FOUND);
}

static enum fan_status memory_move(void *self, const struct fan_group_name *name, uint64_t seq,
                                   enum fan_event_status to)
{
    struct fan__memory_group *group = enter_group(self, name);
    return unlock(self, group ? fan__memory_move(self, group, seq, to) : FAN_NOT_FOUND);
}

static enum fan_status memory_deliveries(void *self, uint64_t seq, uint64_t after_seq,
                                         fan_delivery_visit visit, void *context)
{
    bool more = true;
    while (more) {
        struct fan__memory *memory = lock(self);
        fan__memory_lapse(memory);
        struct fan__snapshot snapshot;
        enum fan_status status =
            unlock(memory, fan__memory_snapshot_deliveries(memory, seq, &after_seq, &snapshot));
        if (status != FAN_OK)
            return status;
        more = after_seq < FAN_SEQ_MAX;
        const struct fan_delivery *items = snapshot.items;
        for (size_t i = 0; i < snapshot.count; i++) {
            if (!visit(context, &items[i])) {
                more = false;
                break;
            }
        }
        fan__memory_snapshot_deinit(memory, &snapshot);
    }
    return FAN_OK;
}

static enum fan_status memory_groups(void *self, fan_group_visit visit, void *context)
{
    struct fan__memory *memory = lock(self);
    fan__memory_lapse(memory);
    struct fan__snapshot snapshot;
    enum fan_status status = unlock(memory, fan__memory_snapshot_groups(memory, &snapshot));
    if (status != FAN_OK)
        return status;
    const struct fan_group_stats *items = snapshot.items;
    for (size_t i = 0; i < snapshot.count && visit(context, &items[i]); i++)
        ;
    fan__memory_snapshot_deinit(memory, &snapshot);
    return FAN_OK;
}

static enum fan_status memory_lease_acquire(void *self, const char *name, const char *owner,
                                            uint32_t ttl_ms, uint64_t *ret_fence)
{
    struct fan__memory *memory = lock(self);
    return unlock(memory, fan__memory_lease_acquire(memory, name, owner, ttl_ms, ret_fence));
}

static enum fan_status memory_lease_renew(void *self, const char *name, const char *owner,
                                          uint64_t fence, uint32_t ttl_ms)
{
    struct fan__memory *memory = lock(self);
    return unlock(memory, fan__memory_lease_renew(memory, name, owner, fence, ttl_ms));
}

static enum fan_status memory_lease_release(void *self, const char *name, const char *owner,
                                            uint64_t fence)
{
    struct fan__memory *memory = lock(self);
    return unlock(memory, fan__memory_lease_release(memory, name, owner, fence));
}

static enum fan_status memory_retain(void *self, const struct fan_retention *retention,
                                     struct fan_retained *ret_retained, struct fan_error *error)
{
    struct fan__memory *memory = lock(self);
    fan__memory_lapse(memory);
    enum fan_status status = fan__check_jump(fan__wall_us(memory->env), fan__memory_now_us(memory),
                                             fan__memory_clock_jump_us(memory), error);
    if (status != FAN_OK)
        return unlock(memory, status);
    status = unlock(memory, fan__memory_retain(memory, retention, ret_retained));
    return status == FAN_OK ? status
                            : fan__fail(error, status, NULL, "no memory for a dead letter");
}

static enum fan_status memory_accept_clock(void *self, struct fan_error *error)
{
    (void)error;
    struct fan__memory *memory = lock(self);
    fan__memory_clock_accept(memory);
    return unlock(memory, FAN_OK);
}

const struct fan_provider fan__memory_provider = {
    .size = FAN_PROVIDER_SIZE,
    .scheme = "memory",
    .capabilities = 0,
    .open = memory_open,
    .close = memory_close,
    .append = memory_append,
    .read = memory_read,
    .list = memory_list,
    .get = memory_get,
    .remove = memory_remove,
    .erase = memory_erase,
    .head = memory_head,
    .wait = memory_wait,
    .wake = memory_wake,
    .stats = memory_stats,
    .group_create = memory_group_create,
    .group_delete = memory_group_delete,
    .claim = memory_claim,
    .settle = memory_settle,
    .renew = memory_renew,
    .move = memory_move,
    .deliveries = memory_deliveries,
    .groups = memory_groups,
    .lease_acquire = memory_lease_acquire,
    .lease_renew = memory_lease_renew,
    .lease_release = memory_lease_release,
    .retain = memory_retain,
    .accept_clock = memory_accept_clock,
};
