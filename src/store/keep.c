/*
 * The handle's part of keeping a log (keep.h): checks what callers pass, and says so where a
 * provider has no such function.
 */
#include <fanfare/keep.h>

#include "base/adopt.h"
#include "base/status.h"
#include "store/handle.h"

#include <string.h>

#define LIMIT_DEFAULT 1000

/* Far enough for any log, and no overflow when it becomes microseconds. */
#define AGE_MS_MAX ((uint64_t)1000 * 366 * 86400 * 1000)

static enum fan_status unsupported(const struct fan_provider *provider, const char *what,
                                   struct fan_error *error)
{
    return fan__fail(error, FAN_UNSUPPORTED, "uri", "a log in '%s:' cannot be %s", provider->scheme,
                     what);
}

static enum fan_status check(const struct fan_store *store, struct fan_error *error)
{
    if (!store)
        return fan__fail(error, FAN_INVALID, "store", "expected a store");
    if (fan__store_in_fork(store))
        return fan__fail(error, FAN_FORKED, NULL, "the store was opened before the fork");
    return FAN_OK;
}

static enum fan_status check_bounds(const struct fan_retention *retention, struct fan_error *error)
{
    const struct {
        const char *name;
        uint64_t value;
        uint64_t most;
    } bounds[] = {
        { "age_ms", retention->age_ms, AGE_MS_MAX },
        { "count", retention->count, FAN_SEQ_MAX },
        { "bytes", retention->bytes, FAN_SEQ_MAX },
        { "owed_age_ms", retention->owed_age_ms, AGE_MS_MAX },
        { "dead_age_ms", retention->dead_age_ms, AGE_MS_MAX },
        { "group_age_ms", retention->group_age_ms, AGE_MS_MAX },
        { "limit", retention->limit, UINT32_MAX },
    };
    for (size_t i = 0; i < sizeof(bounds) / sizeof(*bounds); i++) {
        if (bounds[i].value > bounds[i].most)
            return fan__fail(error, FAN_INVALID, bounds[i].name, "expected at most %llu",
                             (unsigned long long)bounds[i].most);
    }
    if (retention->group_age_ms > 0 && retention->group_age_ms < FAN_GROUP_AGE_MS_MIN)
        return fan__fail(error, FAN_INVALID, "group_age_ms", "expected at least %d",
                         FAN_GROUP_AGE_MS_MIN);
    return FAN_OK;
}

enum fan_status fan_store_retain(struct fan_store *store, const struct fan_retention *retention,
                                 struct fan_retained *ret_retained, struct fan_error *ret_error)
{
    enum fan_status status = check(store, ret_error);
    if (status != FAN_OK)
        return status;
    struct fan_retention adopted = { .size = FAN_RETENTION_SIZE };
    if (!retention || !fan__adopt(&adopted, FAN_RETENTION_SIZE, retention, FAN_RETENTION_SIZE))
        return fan__fail(ret_error, FAN_INVALID, "size", "expected FAN_RETENTION_SIZE");
    if (!ret_retained || ret_retained->size < sizeof(*ret_retained))
        return fan__fail(ret_error, FAN_INVALID, "retained.size", "expected sizeof(struct)");
    status = check_bounds(&adopted, ret_error);
    if (status != FAN_OK)
        return status;
    if (adopted.limit == 0)
        adopted.limit = LIMIT_DEFAULT;
    if (!FAN__PROVIDER_HAS(store->provider, retain))
        return unsupported(store->provider, "trimmed", ret_error);
    struct fan_retained retained = { .size = sizeof(retained) };
    status = store->provider->retain(store->self, &adopted, &retained, ret_error);
    if (status == FAN_OK) {
        retained.size = ret_retained->size;
        memcpy(ret_retained, &retained, sizeof(retained));
    }
    return status;
}

enum fan_status fan_store_accept_clock(struct fan_store *store, struct fan_error *ret_error)
{
    enum fan_status status = check(store, ret_error);
    if (status != FAN_OK)
        return status;
    if (!FAN__PROVIDER_HAS(store->provider, accept_clock))
        return unsupported(store->provider, "told the time", ret_error);
    return store->provider->accept_clock(store->self, ret_error);
}

enum fan_status fan_store_backup(struct fan_store *store, const char *path,
                                 struct fan_error *ret_error)
{
    enum fan_status status = check(store, ret_error);
    if (status != FAN_OK)
        return status;
    if (!path || !*path)
        return fan__fail(ret_error, FAN_INVALID, "path", "expected a file's path");
    if (!FAN__PROVIDER_HAS(store->provider, backup))
        return unsupported(store->provider, "backed up", ret_error);
    return store->provider->backup(store->self, path, ret_error);
}

enum fan_status fan_store_restore(const char *path, const char *uri, const struct fan_env *env,
                                  struct fan_error *ret_error)
{
    if (!path || !*path)
        return fan__fail(ret_error, FAN_INVALID, "path", "expected a file's path");
    if (!uri)
        return fan__fail(ret_error, FAN_INVALID, "uri", "expected a URI");
    const struct fan_provider *provider = NULL;
    enum fan_status status = fan__provider_find(uri, &provider, ret_error);
    if (status != FAN_OK)
        return status;
    if (!FAN__PROVIDER_HAS(provider, restore))
        return unsupported(provider, "restored", ret_error);
    struct fan_error reason = FAN_ERROR_INIT;
    status = provider->restore(path, uri, fan__env(env), &reason);
    return status == FAN_OK ? FAN_OK : fan__store_failed(status, uri, &reason, ret_error);
}

enum fan_status fan_store_verify(struct fan_store *store, fan_finding_visit visit, void *context,
                                 struct fan_error *ret_error)
{
    enum fan_status status = check(store, ret_error);
    if (status != FAN_OK)
        return status;
    if (!visit)
        return fan__fail(ret_error, FAN_INVALID, "visit", "expected a function");
    if (!FAN__PROVIDER_HAS(store->provider, verify))
        return unsupported(store->provider, "verified", ret_error);
    return store->provider->verify(store->self, visit, context, ret_error);
}
