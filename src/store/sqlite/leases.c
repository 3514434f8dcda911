/*
 * Leases by the store's clock. Fences come from one counter of the log, so that a lease which
 * nobody holds can be forgotten and never gives a fence twice.
 */
#include "store/sqlite/store.h"

#include "base/env.h"

#include <string.h>

/* How many new fences lie between two looks for lapsed leases to forget. */
#define SWEEP_EVERY 64

struct lease {
    bool held;
    bool mine;
    uint64_t fence;
};

static struct lease lease_get(struct fan__sqlite *store, const char *name, const char *owner)
{
    struct fan__sqlite_connection *writer = store->writer;
    struct lease lease = { .held = false };
    sqlite3_stmt *statement = fan__sqlite_use(writer, FAN__SQL_LEASE_GET);
    sqlite3_bind_text(statement, 1, name, -1, SQLITE_STATIC);
    if (!fan__sqlite_step(writer, statement))
        return lease;
    const char *holder = (const char *)sqlite3_column_text(statement, 0);
    lease.held = sqlite3_column_int64(statement, 2) > fan__sqlite_now_us(store);
    lease.mine = holder && strcmp(holder, owner) == 0;
    lease.fence = (uint64_t)sqlite3_column_int64(statement, 1);
    sqlite3_reset(statement);
    return lease;
}

static void lease_set(struct fan__sqlite *store, const char *name, const char *owner,
                      uint64_t fence, uint32_t ttl_ms)
{
    sqlite3_stmt *statement = fan__sqlite_use(store->writer, FAN__SQL_LEASE_SET);
    sqlite3_bind_text(statement, 1, name, -1, SQLITE_STATIC);
    sqlite3_bind_text(statement, 2, owner, -1, SQLITE_STATIC);
    sqlite3_bind_int64(statement, 3, (int64_t)fence);
    sqlite3_bind_int64(statement, 4, fan__sqlite_now_us(store) + (int64_t)ttl_ms * 1000);
    fan__sqlite_run(store->writer, statement);
}

static uint64_t next_fence(struct fan__sqlite *store)
{
    struct fan__sqlite_connection *writer = store->writer;
    sqlite3_stmt *statement = fan__sqlite_use(writer, FAN__SQL_META_ADD);
    sqlite3_bind_text(statement, 1, "fence", -1, SQLITE_STATIC);
    sqlite3_bind_int64(statement, 2, 1);
    fan__sqlite_run(writer, statement);
    statement = fan__sqlite_use(writer, FAN__SQL_META_GET);
    sqlite3_bind_text(statement, 1, "fence", -1, SQLITE_STATIC);
    uint64_t fence = (uint64_t)fan__sqlite_number(writer, statement, 0);
    if (fence % SWEEP_EVERY == 0) {
        statement = fan__sqlite_use(writer, FAN__SQL_LEASE_SWEEP);
        sqlite3_bind_int64(statement, 1, fan__sqlite_now_us(store));
        fan__sqlite_run(writer, statement);
    }
    return fence;
}

enum fan_status fan__sqlite_lease_acquire(void *self, const char *name, const char *owner,
                                          uint32_t ttl_ms, uint64_t *ret_fence)
{
    struct fan__sqlite *store = self;
    enum fan_status status = fan__sqlite_write_begin(store, NULL);
    if (status != FAN_OK)
        return status;
    struct lease lease = lease_get(store, name, owner);
    if (lease.held && !lease.mine)
        return fan__sqlite_write_end(store, FAN_EXISTS, 0, NULL);
    uint64_t fence = lease.held ? lease.fence : next_fence(store);
    lease_set(store, name, owner, fence, ttl_ms);
    status = fan__sqlite_write_end(store, FAN_OK, 0, NULL);
    if (status == FAN_OK)
        *ret_fence = fence;
    return status;
}

enum fan_status fan__sqlite_lease_renew(void *self, const char *name, const char *owner,
                                        uint64_t fence, uint32_t ttl_ms)
{
    struct fan__sqlite *store = self;
    enum fan_status status = fan__sqlite_write_begin(store, NULL);
    if (status != FAN_OK)
        return status;
    struct lease lease = lease_get(store, name, owner);
    bool lost = !lease.held || !lease.mine || lease.fence != fence;
    if (!lost)
        lease_set(store, name, owner, fence, ttl_ms);
    return fan__sqlite_write_end(store, lost ? FAN_LOST : FAN_OK, 0, NULL);
}

enum fan_status fan__sqlite_lease_release(void *self, const char *name, const char *owner,
                                          uint64_t fence)
{
    struct fan__sqlite *store = self;
    enum fan_status status = fan__sqlite_write_begin(store, NULL);
    if (status != FAN_OK)
        return status;
    struct lease lease = lease_get(store, name, owner);
    bool lost = !lease.held || !lease.mine || lease.fence != fence;
    if (!lost) {
        sqlite3_stmt *statement = fan__sqlite_use(store->writer, FAN__SQL_LEASE_DELETE);
        sqlite3_bind_text(statement, 1, name, -1, SQLITE_STATIC);
        fan__sqlite_run(store->writer, statement);
    }
    return fan__sqlite_write_end(store, lost ? FAN_LOST : FAN_OK, 0, NULL);
}
