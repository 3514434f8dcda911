/* The fault provider's table: each call is decided about, done on the store behind, answered. */
#include "store/fault/fault.h"

#include "base/env.h"
#include "base/status.h"
#include "store/handle.h"
#include "store/uri.h"

#include <fanfare/batch.h>
#include <fanfare/fault.h>

#include <string.h>

static enum fan_status make(struct fan_store *inner, const char *words, const struct fan_env *env,
                            struct fan__fault **ret_fault, struct fan_error *error)
{
    struct fan__fault *fault = fan__alloc_zero(env, 1, sizeof(*fault));
    if (!fault)
        return fan__fail(error, FAN_NO_MEMORY, NULL, "no memory for the store");
    enum fan_status status = fan__faults_parse(words, env, &fault->faults, error);
    if (status != FAN_OK) {
        fan__free(env, fault);
        return status;
    }
    fault->env = env;
    fault->inner = inner;
    fan__mutex_init(&fault->mutex);
    fan__cond_init(&fault->changed);
    *ret_fault = fault;
    return FAN_OK;
}

static void fault_close(void *self)
{
    struct fan__fault *fault = self;
    if (fault->owned)
        fan_store_close(fault->inner);
    fan__cond_deinit(&fault->changed);
    fan__mutex_deinit(&fault->mutex);
    fan__free(fault->env, fault);
}

static enum fan_status fault_open(const char *uri, const struct fan_env *env, void **ret_self,
                                  uint64_t *ret_epoch, struct fan_error *error)
{
    char *words = NULL;
    const char *inner_uri = NULL;
    struct fan__fault *fault = NULL;
    enum fan_status status = fan__uri_peel(uri, env, &words, &inner_uri, error);
    if (status == FAN_OK)
        status = make(NULL, words, env, &fault, error);
    fan__free(env, words);
    if (status != FAN_OK)
        return status;
    fault->owned = true;
    status = fan__store_open_inner(inner_uri, env, &fault->inner, error);
    if (status != FAN_OK) {
        fault_close(fault);
        return status;
    }
    *ret_self = fault;
    *ret_epoch = fan_store_epoch(fault->inner);
    return FAN_OK;
}

static enum fan_status say(enum fan_status status, struct fan_error *error)
{
    return status == FAN_OK ? FAN_OK : fan__fail(error, status, NULL, "a fault that was asked for");
}

/* How many items the units before the `chosen`th are. */
static size_t prefix_of(const struct fan_append *items, size_t count, uint64_t random)
{
    size_t units = 1;
    for (size_t i = 1; i < count; i++)
        units += !items[i].joined;
    size_t chosen = (size_t)(random % units);
    size_t at = 0;
    while (at < count && (items[at].joined || chosen-- > 0))
        at++;
    return at;
}

static enum fan_status fault_append(void *self, struct fan_append *items, size_t count,
                                    struct fan_error *error)
{
    struct fan__fault *fault = self;
    struct fan__fault_plan plan;
    enum fan_status status = fan__fault_begin(fault, FAN__FAULT_CALL_append, &plan);
    if (status != FAN_OK)
        return say(status, error);
    if (plan.kind == FAN__FAULT_torn)
        count = prefix_of(items, count, plan.random);
    status = fan_store_append(fault->inner, items, count, error);
    enum fan_status answer = fan__fault_end(fault, &plan, status);
    return answer == status ? status : say(answer, error);
}

static enum fan_status fault_read(void *self, uint64_t after_seq, const struct fan_query *query,
                                  struct fan_batch *batch, struct fan_read_result *ret_result)
{
    struct fan__fault *fault = self;
    struct fan__fault_plan plan;
    enum fan_status status = fan__fault_begin(fault, FAN__FAULT_CALL_read, &plan);
    return status != FAN_OK
               ? status
               : fan__fault_end(fault, &plan,
                                fan_store_read(fault->inner, after_seq, query, batch, ret_result));
}

static enum fan_status fault_list(void *self, const struct fan_query *query,
                                  struct fan_batch *batch, struct fan_event_state *states,
                                  struct fan_error *error)
{
    struct fan__fault *fault = self;
    struct fan__fault_plan plan;
    enum fan_status status = fan__fault_begin(fault, FAN__FAULT_CALL_list, &plan);
    return status != FAN_OK
               ? say(status, error)
               : fan__fault_end(fault, &plan,
                                fan_store_list(fault->inner, query, batch, states, error));
}

static enum fan_status fault_get(void *self, const char *id, struct fan_batch *batch,
                                 struct fan_event_state *ret_state)
{
    struct fan__fault *fault = self;
    struct fan__fault_plan plan;
    enum fan_status status = fan__fault_begin(fault, FAN__FAULT_CALL_get, &plan);
    return status != FAN_OK
               ? status
               : fan__fault_end(fault, &plan, fan_store_get(fault->inner, id, batch, ret_state));
}

static enum fan_status fault_remove(void *self, const char *id)
{
    struct fan__fault *fault = self;
    struct fan__fault_plan plan;
    enum fan_status status = fan__fault_begin(fault, FAN__FAULT_CALL_remove, &plan);
    return status != FAN_OK ? status
                            : fan__fault_end(fault, &plan, fan_store_delete(fault->inner, id));
}

static enum fan_status fault_erase(void *self, const char *id)
{
    struct fan__fault *fault = self;
    struct fan__fault_plan plan;
    enum fan_status status = fan__fault_begin(fault, FAN__FAULT_CALL_erase, &plan);
    return status != FAN_OK ? status
                            : fan__fault_end(fault, &plan, fan_store_erase(fault->inner, id));
}

static enum fan_status fault_head(void *self, uint64_t *ret_seq)
{
    struct fan__fault *fault = self;
    struct fan__fault_plan plan;
    enum fan_status status = fan__fault_begin(fault, FAN__FAULT_CALL_head, &plan);
    return status != FAN_OK ? status
                            : fan__fault_end(fault, &plan, fan_store_head(fault->inner, ret_seq));
}

static enum fan_status fault_wait(void *self, uint64_t after_seq, uint32_t timeout_ms)
{
    struct fan__fault *fault = self;
    struct fan__fault_plan plan;
    enum fan_status status = fan__fault_begin(fault, FAN__FAULT_CALL_wait, &plan);
    if (status != FAN_OK)
        return status;
    if (plan.kind == FAN__FAULT_early)
        return FAN_OK;
    if (plan.kind == FAN__FAULT_deaf) {
        fan__fault_sleep(fault, timeout_ms);
        return FAN_AGAIN;
    }
    status = fan_store_wait(fault->inner, after_seq, timeout_ms);
    fan__fault_sleep(fault, plan.delay_ms);
    return status;
}

static void fault_wake(void *self)
{
    struct fan__fault *fault = self;
    fan__mutex_lock(&fault->mutex);
    fault->changes++;
    fan__cond_broadcast(&fault->changed);
    fan__mutex_unlock(&fault->mutex);
    fan_store_wake(fault->inner);
}

static enum fan_status fault_stats(void *self, struct fan_store_stats *ret_stats)
{
    struct fan__fault *fault = self;
    struct fan__fault_plan plan;
    enum fan_status status = fan__fault_begin(fault, FAN__FAULT_CALL_stats, &plan);
    return status != FAN_OK
               ? status
               : fan__fault_end(fault, &plan, fan_store_stats(fault->inner, ret_stats));
}

static enum fan_status fault_group_create(void *self, const struct fan_group_name *name,
                                          const struct fan_group_options *options,
                                          struct fan_error *error)
{
    struct fan__fault *fault = self;
    struct fan__fault_plan plan;
    enum fan_status status = fan__fault_begin(fault, FAN__FAULT_CALL_group_create, &plan);
    if (status != FAN_OK)
        return say(status, error);
    status = fan_group_create(fault->inner, name, options, error);
    enum fan_status answer = fan__fault_end(fault, &plan, status);
    return answer == status ? status : say(answer, error);
}

static enum fan_status fault_group_delete(void *self, const struct fan_group_name *name)
{
    struct fan__fault *fault = self;
    struct fan__fault_plan plan;
    enum fan_status status = fan__fault_begin(fault, FAN__FAULT_CALL_group_delete, &plan);
    return status != FAN_OK ? status
                            : fan__fault_end(fault, &plan, fan_group_delete(fault->inner, name));
}

static enum fan_status fault_claim(void *self, const struct fan_group_name *name,
                                   const struct fan_claim_options *options, struct fan_batch *batch,
                                   struct fan_claim *claims)
{
    struct fan__fault *fault = self;
    struct fan__fault_plan plan;
    enum fan_status status = fan__fault_begin(fault, FAN__FAULT_CALL_claim, &plan);
    if (status != FAN_OK)
        return status;
    status = fan_group_claim(fault->inner, name, options, batch, claims);
    enum fan_status answer = fan__fault_end(fault, &plan, status);
    if (answer != FAN_OK)
        fan_batch_clear(batch);
    return answer;
}

static enum fan_status fault_settle(void *self, const struct fan_group_name *name,
                                    struct fan_settle *items, size_t count)
{
    struct fan__fault *fault = self;
    struct fan__fault_plan plan;
    enum fan_status status = fan__fault_begin(fault, FAN__FAULT_CALL_settle, &plan);
    if (status != FAN_OK)
        return status;
    if (plan.kind == FAN__FAULT_torn && count > 0)
        count = (size_t)(plan.random % count);
    return fan__fault_end(fault, &plan, fan_group_settle(fault->inner, name, items, count));
}

static enum fan_status fault_renew(void *self, const struct fan_group_name *name,
                                   struct fan_settle *items, size_t count, uint32_t lease_ms)
{
    struct fan__fault *fault = self;
    struct fan__fault_plan plan;
    enum fan_status status = fan__fault_begin(fault, FAN__FAULT_CALL_renew, &plan);
    if (status != FAN_OK)
        return status;
    if (plan.kind == FAN__FAULT_torn && count > 0)
        count = (size_t)(plan.random % count);
    return fan__fault_end(fault, &plan,
                          fan_group_renew(fault->inner, name, items, count, lease_ms));
}

static enum fan_status fault_move(void *self, const struct fan_group_name *name, uint64_t seq,
                                  enum fan_event_status to)
{
    struct fan__fault *fault = self;
    struct fan__fault_plan plan;
    enum fan_status status = fan__fault_begin(fault, FAN__FAULT_CALL_move, &plan);
    return status != FAN_OK
               ? status
               : fan__fault_end(fault, &plan, fan_group_move(fault->inner, name, seq, to));
}

static enum fan_status fault_deliveries(void *self, uint64_t seq, uint64_t after_seq,
                                        fan_delivery_visit visit, void *context)
{
    struct fan__fault *fault = self;
    struct fan__fault_plan plan;
    enum fan_status status = fan__fault_begin(fault, FAN__FAULT_CALL_deliveries, &plan);
    return status != FAN_OK
               ? status
               : fan__fault_end(fault, &plan,
                                fan_store_deliveries(fault->inner, seq, after_seq, visit, context));
}

static enum fan_status fault_groups(void *self, fan_group_visit visit, void *context)
{
    struct fan__fault *fault = self;
    struct fan__fault_plan plan;
    enum fan_status status = fan__fault_begin(fault, FAN__FAULT_CALL_groups, &plan);
    return status != FAN_OK
               ? status
               : fan__fault_end(fault, &plan, fan_store_groups(fault->inner, visit, context));
}

static enum fan_status fault_lease_acquire(void *self, const char *name, const char *owner,
                                           uint32_t ttl_ms, uint64_t *ret_fence)
{
    struct fan__fault *fault = self;
    struct fan__fault_plan plan;
    uint64_t fence = 0;
    enum fan_status status = fan__fault_begin(fault, FAN__FAULT_CALL_lease_acquire, &plan);
    if (status != FAN_OK)
        return status;
    status =
        fan__fault_end(fault, &plan, fan_lease_acquire(fault->inner, name, owner, ttl_ms, &fence));
    if (status == FAN_OK)
        *ret_fence = fence;
    return status;
}

static enum fan_status fault_lease_renew(void *self, const char *name, const char *owner,
                                         uint64_t fence, uint32_t ttl_ms)
{
    struct fan__fault *fault = self;
    struct fan__fault_plan plan;
    enum fan_status status = fan__fault_begin(fault, FAN__FAULT_CALL_lease_renew, &plan);
    return status != FAN_OK
               ? status
               : fan__fault_end(fault, &plan,
                                fan_lease_renew(fault->inner, name, owner, fence, ttl_ms));
}

static enum fan_status fault_lease_release(void *self, const char *name, const char *owner,
                                           uint64_t fence)
{
    struct fan__fault *fault = self;
    struct fan__fault_plan plan;
    enum fan_status status = fan__fault_begin(fault, FAN__FAULT_CALL_lease_release, &plan);
    return status != FAN_OK
               ? status
               : fan__fault_end(fault, &plan, fan_lease_release(fault->inner, name, owner, fence));
}

static unsigned fault_promises(void *self)
{
    return fan_store_capabilities(((struct fan__fault *)self)->inner);
}

static enum fan_status fault_retain(void *self, const struct fan_retention *retention,
                                    struct fan_retained *ret_retained, struct fan_error *error)
{
    struct fan__fault *fault = self;
    struct fan__fault_plan plan;
    enum fan_status status = fan__fault_begin(fault, FAN__FAULT_CALL_retain, &plan);
    if (status != FAN_OK)
        return say(status, error);
    status = fan_store_retain(fault->inner, retention, ret_retained, error);
    enum fan_status answer = fan__fault_end(fault, &plan, status);
    return answer == status ? status : say(answer, error);
}

static enum fan_status fault_accept_clock(void *self, struct fan_error *error)
{
    struct fan__fault *fault = self;
    struct fan__fault_plan plan;
    enum fan_status status = fan__fault_begin(fault, FAN__FAULT_CALL_accept_clock, &plan);
    if (status != FAN_OK)
        return say(status, error);
    status = fan_store_accept_clock(fault->inner, error);
    enum fan_status answer = fan__fault_end(fault, &plan, status);
    return answer == status ? status : say(answer, error);
}

static enum fan_status fault_backup(void *self, const char *path, struct fan_error *error)
{
    struct fan__fault *fault = self;
    struct fan__fault_plan plan;
    enum fan_status status = fan__fault_begin(fault, FAN__FAULT_CALL_backup, &plan);
    return status != FAN_OK
               ? say(status, error)
               : fan__fault_end(fault, &plan, fan_store_backup(fault->inner, path, error));
}

static enum fan_status fault_restore(const char *path, const char *uri, const struct fan_env *env,
                                     struct fan_error *error)
{
    char *words = NULL;
    const char *inner_uri = NULL;
    enum fan_status status = fan__uri_peel(uri, env, &words, &inner_uri, error);
    fan__free(env, words);
    return status == FAN_OK ? fan_store_restore(path, inner_uri, env, error) : status;
}

static enum fan_status fault_verify(void *self, fan_finding_visit visit, void *context,
                                    struct fan_error *error)
{
    struct fan__fault *fault = self;
    struct fan__fault_plan plan;
    enum fan_status status = fan__fault_begin(fault, FAN__FAULT_CALL_verify, &plan);
    return status != FAN_OK ? say(status, error)
                            : fan__fault_end(fault, &plan,
                                             fan_store_verify(fault->inner, visit, context, error));
}

const struct fan_provider fan__fault_provider = {
    .size = FAN_PROVIDER_SIZE,
    .scheme = "fault",
    .open = fault_open,
    .close = fault_close,
    .append = fault_append,
    .read = fault_read,
    .list = fault_list,
    .get = fault_get,
    .remove = fault_remove,
    .erase = fault_erase,
    .head = fault_head,
    .wait = fault_wait,
    .wake = fault_wake,
    .stats = fault_stats,
    .group_create = fault_group_create,
    .group_delete = fault_group_delete,
    .claim = fault_claim,
    .settle = fault_settle,
    .renew = fault_renew,
    .move = fault_move,
    .deliveries = fault_deliveries,
    .groups = fault_groups,
    .lease_acquire = fault_lease_acquire,
    .lease_renew = fault_lease_renew,
    .lease_release = fault_lease_release,
    .promises = fault_promises,
    .retain = fault_retain,
    .accept_clock = fault_accept_clock,
    .backup = fault_backup,
    .restore = fault_restore,
    .verify = fault_verify,
};

enum fan_status fan_fault_wrap(struct fan_store *inner, const char *faults,
                               const struct fan_env *env, struct fan_store **ret_store,
                               struct fan_error *ret_error)
{
    if (!inner || !ret_store)
        return fan__fail(ret_error, FAN_INVALID, "inner", "expected a store and a place for one");
    struct fan__fault *fault = NULL;
    enum fan_status status = make(inner, faults, env, &fault, ret_error);
    if (status != FAN_OK)
        return status;
    struct fan_store *store = fan__store_new(&fan__fault_provider, env, fault);
    if (!store) {
        fault_close(fault);
        return fan__fail(ret_error, FAN_NO_MEMORY, NULL, "no memory for the store");
    }
    store->epoch = fan_store_epoch(inner);
    *ret_store = store;
    return FAN_OK;
}

/* NULL for a store of another kind. */
static struct fan__fault *fault_of(struct fan_store *store)
{
    bool usable = store && store->provider == &fan__fault_provider && !fan__store_in_fork(store);
    return usable ? store->self : NULL;
}

enum fan_status fan_fault_set(struct fan_store *store, const char *faults,
                              struct fan_error *ret_error)
{
    struct fan__fault *fault = fault_of(store);
    if (!fault)
        return fan__fail(ret_error, FAN_MISUSE, "store", "expected a fault store");
    struct fan__faults told;
    enum fan_status status = fan__faults_parse(faults, fault->env, &told, ret_error);
    if (status != FAN_OK)
        return status;
    fan__mutex_lock(&fault->mutex);
    if (!told.has_seed)
        told.seed = fault->faults.seed;
    else
        memset(fault->numbers, 0, sizeof(fault->numbers));
    fault->faults = told;
    fault->injected = 0;
    fault->changes++;
    fan__cond_broadcast(&fault->changed);
    fan__mutex_unlock(&fault->mutex);
    return FAN_OK;
}

enum fan_status fan_fault_count(struct fan_store *store, const char *name, uint64_t *ret_count)
{
    struct fan__fault *fault = fault_of(store);
    uint32_t calls = UINT32_MAX;
    uint32_t kinds = UINT32_MAX;
    if (!fault)
        return FAN_MISUSE;
    if (!ret_count || (name && fan__faults_find(name, &calls, &kinds) != FAN_OK))
        return FAN_INVALID;
    uint64_t count = 0;
    fan__mutex_lock(&fault->mutex);
    for (size_t call = 0; call < FAN__FAULT_CALL_COUNT; call++)
        for (size_t kind = 0; kind < FAN__FAULT_KIND_COUNT; kind++)
            count += calls >> call & 1 && kinds >> kind & 1 ? fault->counts[call][kind] : 0;
    fan__mutex_unlock(&fault->mutex);
    *ret_count = count;
    return FAN_OK;
}

bool fan_fault_crashed(struct fan_store *store)
{
    struct fan__fault *fault = fault_of(store);
    if (!fault)
        return false;
    fan__mutex_lock(&fault->mutex);
    bool crashed = fault->faults.crashed;
    fan__mutex_unlock(&fault->mutex);
    return crashed;
}
