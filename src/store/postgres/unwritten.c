/* What is not written: each of these fails. */
#include "store/postgres/store.h"

enum fan_status fan__postgres_tail_start(struct fan__postgres *store, struct fan_error *error)
{
    (void)store;
    (void)error;
    return FAN_OK;
}

void fan__postgres_tail_stop(struct fan__postgres *store)
{
    (void)store;
}

void fan__postgres_tail_moved(struct fan__postgres *store, uint64_t head_seq)
{
    (void)store;
    (void)head_seq;
}

enum fan_status fan__postgres_wait(void *self, uint64_t after_seq, uint32_t timeout_ms)
{
    (void)self;
    (void)after_seq;
    (void)timeout_ms;
    return FAN_UNSUPPORTED;
}

void fan__postgres_wake(void *self)
{
    (void)self;
}

enum fan_status fan__postgres_head(void *self, uint64_t *ret_seq)
{
    (void)self;
    (void)ret_seq;
    return FAN_UNSUPPORTED;
}

enum fan_status fan__postgres_read(void *self, uint64_t after_seq, const struct fan_query *query,
                                   struct fan_batch *batch, struct fan_read_result *ret_result)
{
    (void)self;
    (void)after_seq;
    (void)query;
    (void)batch;
    (void)ret_result;
    return FAN_UNSUPPORTED;
}

enum fan_status fan__postgres_list(void *self, const struct fan_query *query,
                                   struct fan_batch *batch, struct fan_event_state *states,
                                   struct fan_error *error)
{
    (void)self;
    (void)query;
    (void)batch;
    (void)states;
    (void)error;
    return FAN_UNSUPPORTED;
}

enum fan_status fan__postgres_get(void *self, const char *id, struct fan_batch *batch,
                                  struct fan_event_state *ret_state)
{
    (void)self;
    (void)id;
    (void)batch;
    (void)ret_state;
    return FAN_UNSUPPORTED;
}

enum fan_status fan__postgres_remove(void *self, const char *id)
{
    (void)self;
    (void)id;
    return FAN_UNSUPPORTED;
}

enum fan_status fan__postgres_erase(void *self, const char *id)
{
    (void)self;
    (void)id;
    return FAN_UNSUPPORTED;
}

enum fan_status fan__postgres_stats(void *self, struct fan_store_stats *ret_stats)
{
    (void)self;
    (void)ret_stats;
    return FAN_UNSUPPORTED;
}

enum fan_status fan__postgres_lease_acquire(void *self, const char *name, const char *owner,
                                            uint32_t ttl_ms, uint64_t *ret_fence)
{
    (void)self;
    (void)name;
    (void)owner;
    (void)ttl_ms;
    (void)ret_fence;
    return FAN_UNSUPPORTED;
}

enum fan_status fan__postgres_lease_renew(void *self, const char *name, const char *owner,
                                          uint64_t fence, uint32_t ttl_ms)
{
    (void)self;
    (void)name;
    (void)owner;
    (void)fence;
    (void)ttl_ms;
    return FAN_UNSUPPORTED;
}

enum fan_status fan__postgres_lease_release(void *self, const char *name, const char *owner,
                                            uint64_t fence)
{
    (void)self;
    (void)name;
    (void)owner;
    (void)fence;
    return FAN_UNSUPPORTED;
}

enum fan_status fan__postgres_retain(void *self, const struct fan_retention *retention,
                                     struct fan_retained *ret_retained, struct fan_error *error)
{
    (void)self;
    (void)retention;
    (void)ret_retained;
    (void)error;
    return FAN_UNSUPPORTED;
}

enum fan_status fan__postgres_accept_clock(void *self, struct fan_error *error)
{
    (void)self;
    (void)error;
    return FAN_UNSUPPORTED;
}

enum fan_status fan__postgres_verify(void *self, fan_finding_visit visit, void *context,
                                     struct fan_error *error)
{
    (void)self;
    (void)visit;
    (void)context;
    (void)error;
    return FAN_UNSUPPORTED;
}
