/*
 * Leases by the store's clock, under the log's lock, so that an append that expects one sees it as
 * it is at the commit. Fences come from one counter of the log, so that a lease which nobody holds
 * can be forgotten and never gives a fence twice.
 */
#include "store/postgres/store.h"

#include "base/env.h"

#include <string.h>

/* How many new fences lie between two looks for lapsed leases to forget. */
#define SWEEP_EVERY 64

struct lease {
    bool held;
    bool mine;
    uint64_t fence;
};

static struct lease lease_get(struct fan__postgres_connection *writer, const char *name,
                              const char *owner)
{
    struct lease lease = { .held = false };
    struct fan__postgres_params params = { 0 };
    fan__postgres_clock_sync(writer);
    fan__postgres_add_text(&params, name);
    PGresult *result = fan__postgres_run(writer, FAN__PG_LEASE_GET, &params);
    if (PQntuples(result) == 1) {
        lease.mine = strcmp(fan__postgres_text(result, 0, 0), owner) == 0;
        lease.fence = (uint64_t)fan__postgres_int(result, 0, 1);
        lease.held = fan__postgres_int(result, 0, 2) > fan__postgres_now_us(writer->store);
    }
    PQclear(result);
    return lease;
}

static void lease_set(struct fan__postgres_connection *writer, const char *name, const char *owner,
                      uint64_t fence, uint32_t ttl_ms)
{
    struct fan__postgres_params params = { 0 };
    fan__postgres_add_text(&params, name);
    fan__postgres_add_text(&params, owner);
    fan__postgres_add_int(&params, (int64_t)fence);
    fan__postgres_add_int(&params, fan__postgres_now_us(writer->store) + (int64_t)ttl_ms * 1000);
    (void)fan__postgres_queue(writer, FAN__PG_LEASE_SET, &params);
}

static uint64_t next_fence(struct fan__postgres_connection *writer)
{
    struct fan__postgres_params params = { 0 };
    fan__postgres_add_text(&params, "fence");
    fan__postgres_add_int(&params, 1);
    PGresult *result = fan__postgres_run(writer, FAN__PG_META_ADD, &params);
    uint64_t fence = PQntuples(result) == 1 ? (uint64_t)fan__postgres_int(result, 0, 0) : 0;
    PQclear(result);
    if (fence % SWEEP_EVERY == 0) {
        struct fan__postgres_params until = { 0 };
        fan__postgres_add_int(&until, fan__postgres_now_us(writer->store));
        (void)fan__postgres_queue(writer, FAN__PG_LEASE_SWEEP, &until);
    }
    return fence;
}

enum fan_status fan__postgres_lease_acquire(void *self, const char *name, const char *owner,
                                            uint32_t ttl_ms, uint64_t *ret_fence)
{
    struct fan__postgres_connection *writer = NULL;
    enum fan_status status = fan__postgres_borrow_writer(self, &writer, NULL);
    if (status != FAN_OK)
        return status;
    struct lease lease = lease_get(writer, name, owner);
    if (lease.held && !lease.mine)
        return fan__postgres_end(writer, FAN_EXISTS, NULL);
    uint64_t fence = lease.held ? lease.fence : next_fence(writer);
    lease_set(writer, name, owner, fence, ttl_ms);
    status = fan__postgres_end(writer, FAN_OK, NULL);
    if (status == FAN_OK)
        *ret_fence = fence;
    return status;
}

enum fan_status fan__postgres_lease_renew(void *self, const char *name, const char *owner,
                                          uint64_t fence, uint32_t ttl_ms)
{
    struct fan__postgres_connection *writer = NULL;
    enum fan_status status = fan__postgres_borrow_writer(self, &writer, NULL);
    if (status != FAN_OK)
        return status;
    struct lease lease = lease_get(writer, name, owner);
    bool lost = !lease.held || !lease.mine || lease.fence != fence;
    if (!lost)
        lease_set(writer, name, owner, fence, ttl_ms);
    return fan__postgres_end(writer, lost ? FAN_LOST : FAN_OK, NULL);
}

enum fan_status fan__postgres_lease_release(void *self, const char *name, const char *owner,
                                            uint64_t fence)
{
    struct fan__postgres_connection *writer = NULL;
    enum fan_status status = fan__postgres_borrow_writer(self, &writer, NULL);
    if (status != FAN_OK)
        return status;
    struct lease lease = lease_get(writer, name, owner);
    bool lost = !lease.held || !lease.mine || lease.fence != fence;
    if (!lost) {
        struct fan__postgres_params params = { 0 };
        fan__postgres_add_text(&params, name);
        (void)fan__postgres_queue(writer, FAN__PG_LEASE_DELETE, &params);
    }
    return fan__postgres_end(writer, lost ? FAN_LOST : FAN_OK, NULL);
}
