/*
 * The handle: finds the provider of a URI, checks what callers pass, and calls the table. All
 * promises about arguments that provider.h makes to providers are kept here, in one place; what a
 * call does to the log is the provider's alone.
 */
#include <fanfare/batch.h>
#include <fanfare/pattern.h>
#include <fanfare/provider.h>

#include "base/adopt.h"
#include "base/env.h"
#include "base/status.h"
#include "store/fault/fault.h"
#include "store/handle.h"
#include "store/memory/memory.h"
#include "store/postgres/postgres.h"
#include "store/scan.h"
#include "store/sqlite/sqlite.h"
#include "store/tee/tee.h"
#include "store/uri.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#define LIMIT_DEFAULT 1000
#define LEASE_MS_DEFAULT 30000

/* Tables may be of a header without what was added at the end. */
#define PROVIDER_SIZE_LEAST offsetof(struct fan_provider, promises)

/* The providers that the library knows by their scheme, one line each. */
static const struct fan_provider *const providers[] = {
    &fan__memory_provider,
    &fan__sqlite_provider,
    &fan__fault_provider,
    &fan__tee_provider,
#ifdef FAN__WITH_POSTGRES
    &fan__postgres_provider,
#endif
    NULL,
};

static bool in_fork(const struct fan_store *store)
{
    return fan__store_in_fork(store);
}

/* 1 to 255 bytes. */
static bool is_name(const char *name)
{
    return name && *name && strnlen(name, FAN_TEXT_SIZE_MAX + 1) <= FAN_TEXT_SIZE_MAX;
}

/* NULL, or up to 255 bytes. */
static bool is_filter(const char *text)
{
    return !text || strnlen(text, FAN_TEXT_SIZE_MAX + 1) <= FAN_TEXT_SIZE_MAX;
}

static bool has_scheme(const char *uri, const char *scheme)
{
    size_t length = strlen(scheme);
    /* PostgreSQL's own programs take either. */
    if (strncmp(uri, "postgresql:", strlen("postgresql:")) == 0)
        return strcmp(scheme, "postgres") == 0;
    return strncmp(uri, scheme, length) == 0 && uri[length] == ':';
}

enum fan_status fan__store_failed(enum fan_status status, const char *uri,
                                  const struct fan_error *reason, struct fan_error *error)
{
    char shown[128];
    fan__uri_redact(uri, shown, sizeof(shown));
    const char *message = reason->message[0] ? reason->message : fan_status_text(status);
    return fan__fail(error, status, reason->field[0] ? reason->field : "uri", "%s: %s", shown,
                     message);
}

static bool is_whole(const struct fan_provider *p)
{
    return p && p->size >= PROVIDER_SIZE_LEAST && p->scheme && *p->scheme && p->open && p->close &&
           p->append && p->read && (p->list || !(p->capabilities & FAN_CAPABILITY_QUERY)) &&
           p->get && p->remove && p->erase && p->head && p->wait && p->wake && p->stats &&
           p->group_create && p->group_delete && p->claim && p->settle && p->renew && p->move &&
           p->deliveries && p->groups && p->lease_acquire && p->lease_renew && p->lease_release;
}

struct fan_store *fan__store_new(const struct fan_provider *provider, const struct fan_env *env,
                                 void *self)
{
    struct fan_store *store = fan__alloc_zero(env, 1, sizeof(*store));
    if (!store)
        return NULL;
    store->provider = provider;
    store->env = env;
    store->self = self;
    store->fork_generation = fan__fork_generation();
    return store;
}

static enum fan_status open_bare(const struct fan_provider *provider, const char *uri,
                                 const struct fan_env *env, struct fan_store **ret_store,
                                 struct fan_error *reason)
{
    struct fan_store *store = fan__store_new(provider, env, NULL);
    if (!store)
        return fan__fail(reason, FAN_NO_MEMORY, NULL, "no memory for the store");
    enum fan_status status =
        provider->open(uri, fan__env(env), &store->self, &store->epoch, reason);
    if (status != FAN_OK) {
        fan__free(env, store);
        return status;
    }
    assert(store->epoch != 0);
    *ret_store = store;
    return FAN_OK;
}

enum fan_status fan_store_open_provider(const struct fan_provider *provider, const char *uri,
                                        const struct fan_env *env, struct fan_store **ret_store,
                                        struct fan_error *ret_error)
{
    struct fan_error reason = FAN_ERROR_INIT;
    if (!is_whole(provider))
        return fan__fail(ret_error, FAN_INVALID, "provider",
                         "expected a table with its size, its scheme and every function");
    if (!uri || !ret_store)
        return fan__fail(ret_error, FAN_INVALID, "uri", "expected a URI and a place for the store");
    if (!has_scheme(uri, provider->scheme)) {
        (void)fan__fail(&reason, FAN_INVALID, "uri", "expected the scheme '%s:'", provider->scheme);
        return fan__store_failed(FAN_INVALID, uri, &reason, ret_error);
    }
    enum fan_status status = open_bare(provider, uri, env, ret_store, &reason);
    return status == FAN_OK ? FAN_OK : fan__store_failed(status, uri, &reason, ret_error);
}

/* As fan__provider_find; the words do not begin with the URI. */
static enum fan_status find(const char *uri, const struct fan_provider **ret_provider,
                            struct fan_error *reason)
{
    char known[128] = "";
    size_t size = 0;
    for (const struct fan_provider *const *at = providers; *at; at++) {
        if (has_scheme(uri, (*at)->scheme)) {
            *ret_provider = *at;
            return FAN_OK;
        }
        int length =
            snprintf(known + size, sizeof(known) - size, "%s%s:", size ? ", " : "", (*at)->scheme);
        size += (size_t)length;
        assert(size < sizeof(known));
    }
    return fan__fail(reason, FAN_INVALID, "uri", "unknown scheme, expected one of %s", known);
}

enum fan_status fan__provider_find(const char *uri, const struct fan_provider **ret_provider,
                                   struct fan_error *error)
{
    struct fan_error reason = FAN_ERROR_INIT;
    enum fan_status status = find(uri, ret_provider, &reason);
    return status == FAN_OK ? FAN_OK : fan__store_failed(status, uri, &reason, error);
}

enum fan_status fan__store_open_inner(const char *uri, const struct fan_env *env,
                                      struct fan_store **ret_store, struct fan_error *error)
{
    const struct fan_provider *provider = NULL;
    enum fan_status status = find(uri, &provider, error);
    return status == FAN_OK ? open_bare(provider, uri, env, ret_store, error) : status;
}

enum fan_status fan_store_open(const char *uri, const struct fan_env *env,
                               struct fan_store **ret_store, struct fan_error *ret_error)
{
    if (!uri || !ret_store)
        return fan__fail(ret_error, FAN_INVALID, "uri", "expected a URI and a place for the store");
    const struct fan_provider *provider = NULL;
    enum fan_status status = fan__provider_find(uri, &provider, ret_error);
    if (status != FAN_OK)
        return status;
    return fan_store_open_provider(provider, uri, env, ret_store, ret_error);
}

void fan_store_close(struct fan_store *store)
{
    if (!store)
        return;
    /* In a fork's child the storage still belongs to the parent; closing it there would harm it. */
    if (!in_fork(store))
        store->provider->close(store->self);
    fan__free(store->env, store);
}

uint64_t fan_store_epoch(const struct fan_store *store)
{
    return store->epoch;
}

const char *fan_store_name(const struct fan_store *store)
{
    return store->provider->scheme;
}

unsigned fan_store_capabilities(const struct fan_store *store)
{
    const struct fan_provider *provider = store->provider;
    bool promises = FAN__PROVIDER_HAS(provider, promises);
    return promises ? provider->promises(store->self) : provider->capabilities;
}

static enum fan_status check_expectation(const struct fan_expectation *expectation,
                                         struct fan_error *error)
{
    if (expectation->size < sizeof(*expectation))
        return fan__fail(error, FAN_INVALID, "expectation.size", "expected sizeof(struct)");
    if (expectation->key && !is_name(expectation->key))
        return fan__fail(error, FAN_INVALID, "expectation.key", "expected 1 to %d bytes",
                         FAN_TEXT_SIZE_MAX);
    if (expectation->lease && !is_name(expectation->lease))
        return fan__fail(error, FAN_INVALID, "expectation.lease", "expected 1 to %d bytes",
                         FAN_TEXT_SIZE_MAX);
    if (expectation->last_seq > FAN_SEQ_MAX || expectation->fence > FAN_SEQ_MAX)
        return fan__fail(error, FAN_INVALID, "expectation", "expected numbers up to %llu",
                         (unsigned long long)FAN_SEQ_MAX);
    if ((expectation->last_seq && !expectation->key) || (expectation->fence && !expectation->lease))
        return fan__fail(error, FAN_INVALID, "expectation",
                         "expected last_seq with a key, and a fence with a lease");
    return FAN_OK;
}

static enum fan_status check_items(struct fan_append *items, size_t count, struct fan_error *error)
{
    for (size_t i = 0; i < count; i++) {
        struct fan_append *item = &items[i];
        if (!item->event)
            return fan__fail(error, FAN_INVALID, "event", "item %zu has no event", i);
        if (item->joined && (i == 0 || item->expectation))
            return fan__fail(error, FAN_INVALID, "joined",
                             "item %zu begins a unit or has an expectation: it cannot be joined",
                             i);
        if (item->expectation) {
            enum fan_status status = check_expectation(item->expectation, error);
            if (status != FAN_OK)
                return status;
        }
    }
    return FAN_OK;
}

enum fan_status fan_store_append(struct fan_store *store, struct fan_append *items, size_t count,
                                 struct fan_error *ret_error)
{
    if (!store || (!items && count > 0))
        return fan__fail(ret_error, FAN_INVALID, "items", "expected a store and items");
    if (in_fork(store))
        return fan__fail(ret_error, FAN_FORKED, NULL, "the store was opened before the fork");
    enum fan_status status = check_items(items, count, ret_error);
    if (status != FAN_OK || count == 0)
        return status;
    for (size_t i = 0; i < count; i++) {
        items[i].ret_status = FAN_OK;
        items[i].ret_duplicate = false;
        items[i].ret_seq = 0;
    }
    status = store->provider->append(store->self, items, count, ret_error);
    for (size_t i = 0; status != FAN_OK && i < count; i++) {
        items[i].ret_status = status;
        items[i].ret_duplicate = false;
        items[i].ret_seq = 0;
    }
    return status;
}

static enum fan_status check_query(const struct fan_query *query, struct fan_error *error)
{
    const struct {
        const char *name;
        const char *text;
    } filters[] = {
        { "topic", query->topic },
        { "schema", query->schema },
        { "entity", query->entity },
        { "operation", query->operation },
        { "instance_id", query->instance_id },
    };
    for (size_t i = 0; i < sizeof(filters) / sizeof(*filters); i++) {
        if (!is_filter(filters[i].text))
            return fan__fail(error, FAN_INVALID, filters[i].name, "expected at most %d bytes",
                             FAN_TEXT_SIZE_MAX);
    }
    if ((unsigned)query->source > FAN_SOURCE_INTERNAL)
        return fan__fail(error, FAN_INVALID, "source", "%d is no source", (int)query->source);
    if (query->has_status && (unsigned)query->status > FAN_EVENT_FAILED)
        return fan__fail(error, FAN_INVALID, "status", "%d is no status", (int)query->status);
    if (query->offset > FAN_SEQ_MAX || query->limit > FAN_SEQ_MAX)
        return fan__fail(error, FAN_INVALID, query->offset > FAN_SEQ_MAX ? "offset" : "limit",
                         "expected at most %llu", (unsigned long long)FAN_SEQ_MAX);
    return query->pattern ? fan_pattern_check(query->pattern, error) : FAN_OK;
}

/* Checks a query (NULL is everything) and gives the one that the provider sees. */
static enum fan_status adopt_query(const struct fan_query *query, struct fan_query *ret_query,
                                   struct fan_error *error)
{
    *ret_query = (struct fan_query){ .size = FAN_QUERY_SIZE, .limit = LIMIT_DEFAULT };
    if (!query)
        return FAN_OK;
    if (!fan__adopt(ret_query, FAN_QUERY_SIZE, query, FAN_QUERY_SIZE))
        return fan__fail(error, FAN_INVALID, "size", "expected FAN_QUERY_SIZE");
    if (ret_query->limit == 0)
        ret_query->limit = LIMIT_DEFAULT;
    return check_query(ret_query, error);
}

enum fan_status fan_store_read(struct fan_store *store, uint64_t after_seq,
                               const struct fan_query *query, struct fan_batch *batch,
                               struct fan_read_result *ret_result)
{
    if (!store || !batch || !ret_result || after_seq > FAN_SEQ_MAX)
        return FAN_INVALID;
    if (in_fork(store))
        return FAN_FORKED;
    struct fan_query adopted;
    enum fan_status status = adopt_query(query, &adopted, NULL);
    if (status != FAN_OK)
        return status;
    if (adopted.has_status || adopted.offset > 0 || adopted.newest_first)
        return FAN_INVALID;
    fan_batch_clear(batch);
    struct fan_read_result result = { 0 };
    status = store->provider->read(store->self, after_seq, &adopted, batch, &result);
    if (status == FAN_OK)
        *ret_result = result;
    return status;
}

enum fan_status fan_store_list(struct fan_store *store, const struct fan_query *query,
                               struct fan_batch *batch, struct fan_event_state *states,
                               struct fan_error *ret_error)
{
    if (!store || !batch || !states)
        return fan__fail(ret_error, FAN_INVALID, "batch", "expected a store, a batch and states");
    if (in_fork(store))
        return fan__fail(ret_error, FAN_FORKED, NULL, "the store was opened before the fork");
    struct fan_query adopted;
    enum fan_status status = adopt_query(query, &adopted, ret_error);
    if (status != FAN_OK)
        return status;
    fan_batch_clear(batch);
    if (!store->provider->list)
        return fan__store_scan(store, &adopted, batch, states, ret_error);
    return store->provider->list(store->self, &adopted, batch, states, ret_error);
}

enum fan_status fan_store_get(struct fan_store *store, const char *id, struct fan_batch *batch,
                              struct fan_event_state *ret_state)
{
    if (!store || !is_name(id) || !batch)
        return FAN_INVALID;
    if (in_fork(store))
        return FAN_FORKED;
    fan_batch_clear(batch);
    struct fan_event_state state = { .error = "" };
    enum fan_status status = store->provider->get(store->self, id, batch, &state);
    if (status == FAN_OK && ret_state)
        *ret_state = state;
    return status;
}

enum fan_status fan_store_delete(struct fan_store *store, const char *id)
{
    if (!store || !is_name(id))
        return FAN_INVALID;
    return in_fork(store) ? FAN_FORKED : store->provider->remove(store->self, id);
}

enum fan_status fan_store_erase(struct fan_store *store, const char *id)
{
    if (!store || !is_name(id))
        return FAN_INVALID;
    return in_fork(store) ? FAN_FORKED : store->provider->erase(store->self, id);
}

enum fan_status fan_store_head(struct fan_store *store, uint64_t *ret_seq)
{
    if (!store || !ret_seq)
        return FAN_INVALID;
    return in_fork(store) ? FAN_FORKED : store->provider->head(store->self, ret_seq);
}

enum fan_status fan_store_wait(struct fan_store *store, uint64_t after_seq, uint32_t timeout_ms)
{
    if (!store || after_seq > FAN_SEQ_MAX)
        return FAN_INVALID;
    return in_fork(store) ? FAN_FORKED : store->provider->wait(store->self, after_seq, timeout_ms);
}

void fan_store_wake(struct fan_store *store)
{
    if (store && !in_fork(store))
        store->provider->wake(store->self);
}

enum fan_status fan_store_stats(struct fan_store *store, struct fan_store_stats *ret_stats)
{
    if (!store || !ret_stats || ret_stats->size < sizeof(*ret_stats))
        return FAN_INVALID;
    if (in_fork(store))
        return FAN_FORKED;
    struct fan_store_stats stats = { .size = sizeof(stats) };
    enum fan_status status = store->provider->stats(store->self, &stats);
    if (status == FAN_OK) {
        stats.size = ret_stats->size;
        *ret_stats = stats;
    }
    return status;
}

/* Checks a group's name and gives the one that the provider sees: handler is never NULL. */
static enum fan_status adopt_name(const struct fan_store *store, const struct fan_group_name *name,
                                  struct fan_group_name *ret_name, struct fan_error *error)
{
    if (!store || !name)
        return fan__fail(error, FAN_INVALID, "group", "expected a store and a group's name");
    if (in_fork(store))
        return fan__fail(error, FAN_FORKED, NULL, "the store was opened before the fork");
    if (!is_name(name->group))
        return fan__fail(error, FAN_INVALID, "group", "expected 1 to %d bytes", FAN_TEXT_SIZE_MAX);
    if (!is_filter(name->handler))
        return fan__fail(error, FAN_INVALID, "handler", "expected at most %d bytes",
                         FAN_TEXT_SIZE_MAX);
    *ret_name = (struct fan_group_name){ .group = name->group,
                                         .handler = name->handler ? name->handler : "" };
    return FAN_OK;
}

enum fan_status fan_group_create(struct fan_store *store, const struct fan_group_name *name,
                                 const struct fan_group_options *options,
                                 struct fan_error *ret_error)
{
    struct fan_group_name adopted;
    enum fan_status status = adopt_name(store, name, &adopted, ret_error);
    if (status != FAN_OK)
        return status;
    struct fan_group_options full;
    if (!options || !fan__adopt(&full, sizeof(full), options, sizeof(full)))
        return fan__fail(ret_error, FAN_INVALID, "size", "expected FAN_GROUP_OPTIONS_SIZE");
    if (!is_filter(full.topic))
        return fan__fail(ret_error, FAN_INVALID, "topic", "expected at most %d bytes",
                         FAN_TEXT_SIZE_MAX);
    if ((unsigned)full.start > FAN_START_CURSOR)
        return fan__fail(ret_error, FAN_INVALID, "start", "%d is no start", (int)full.start);
    if (full.start_seq > FAN_SEQ_MAX)
        return fan__fail(ret_error, FAN_INVALID, "start_seq", "expected at most %llu",
                         (unsigned long long)FAN_SEQ_MAX);
    status = full.pattern ? fan_pattern_check(full.pattern, ret_error) : FAN_OK;
    if (status != FAN_OK)
        return status;
    return store->provider->group_create(store->self, &adopted, &full, ret_error);
}

enum fan_status fan_group_delete(struct fan_store *store, const struct fan_group_name *name)
{
    struct fan_group_name adopted;
    enum fan_status status = adopt_name(store, name, &adopted, NULL);
    return status == FAN_OK ? store->provider->group_delete(store->self, &adopted) : status;
}

enum fan_status fan_group_claim(struct fan_store *store, const struct fan_group_name *name,
                                const struct fan_claim_options *options, struct fan_batch *batch,
                                struct fan_claim *claims)
{
    struct fan_group_name adopted;
    enum fan_status status = adopt_name(store, name, &adopted, NULL);
    if (status != FAN_OK)
        return status;
    struct fan_claim_options full;
    if (!batch || !claims || !options || !fan__adopt(&full, sizeof(full), options, sizeof(full)) ||
        !is_name(full.owner))
        return FAN_INVALID;
    if (full.limit == 0)
        full.limit = 1;
    if (full.lease_ms == 0)
        full.lease_ms = LEASE_MS_DEFAULT;
    fan_batch_clear(batch);
    return store->provider->claim(store->self, &adopted, &full, batch, claims);
}

static enum fan_status adopt_settles(const struct fan_store *store,
                                     const struct fan_group_name *name, struct fan_settle *items,
                                     size_t count, struct fan_group_name *ret_name)
{
    enum fan_status status = adopt_name(store, name, ret_name, NULL);
    if (status != FAN_OK)
        return status;
    if (!items && count > 0)
        return FAN_INVALID;
    for (size_t i = 0; i < count; i++) {
        if ((unsigned)items[i].verdict > FAN_VERDICT_HAND_BACK || items[i].seq > FAN_SEQ_MAX ||
            (unsigned)items[i].reason > FAN_DEAD_EXPIRED)
            return FAN_INVALID;
        items[i].ret_status = FAN_OK;
    }
    return FAN_OK;
}

enum fan_status fan_group_settle(struct fan_store *store, const struct fan_group_name *name,
                                 struct fan_settle *items, size_t count)
{
    struct fan_group_name adopted;
    enum fan_status status = adopt_settles(store, name, items, count, &adopted);
    if (status != FAN_OK)
        return status;
    return store->provider->settle(store->self, &adopted, items, count);
}

enum fan_status fan_group_renew(struct fan_store *store, const struct fan_group_name *name,
                                struct fan_settle *items, size_t count, uint32_t lease_ms)
{
    struct fan_group_name adopted;
    enum fan_status status = adopt_settles(store, name, items, count, &adopted);
    if (status != FAN_OK)
        return status;
    return store->provider->renew(store->self, &adopted, items, count,
                                  lease_ms ? lease_ms : LEASE_MS_DEFAULT);
}

enum fan_status fan_group_move(struct fan_store *store, const struct fan_group_name *name,
                               uint64_t seq, enum fan_event_status to)
{
    struct fan_group_name adopted;
    enum fan_status status = adopt_name(store, name, &adopted, NULL);
    if (status != FAN_OK)
        return status;
    if ((unsigned)to > FAN_EVENT_FAILED || seq > FAN_SEQ_MAX)
        return FAN_INVALID;
    return store->provider->move(store->self, &adopted, seq, to);
}

enum fan_status fan_store_deliveries(struct fan_store *store, uint64_t seq, uint64_t after_seq,
                                     fan_delivery_visit visit, void *context)
{
    if (!store || !visit || seq > FAN_SEQ_MAX || after_seq > FAN_SEQ_MAX)
        return FAN_INVALID;
    if (in_fork(store))
        return FAN_FORKED;
    return store->provider->deliveries(store->self, seq, after_seq, visit, context);
}

enum fan_status fan_store_groups(struct fan_store *store, fan_group_visit visit, void *context)
{
    if (!store || !visit)
        return FAN_INVALID;
    return in_fork(store) ? FAN_FORKED : store->provider->groups(store->self, visit, context);
}

static enum fan_status check_lease(const struct fan_store *store, const char *name,
                                   const char *owner, uint64_t fence)
{
    if (!store || !is_name(name) || !is_name(owner) || fence > FAN_SEQ_MAX)
        return FAN_INVALID;
    return in_fork(store) ? FAN_FORKED : FAN_OK;
}

enum fan_status fan_lease_acquire(struct fan_store *store, const char *name, const char *owner,
                                  uint32_t ttl_ms, uint64_t *ret_fence)
{
    enum fan_status status = check_lease(store, name, owner, 0);
    if (status == FAN_OK && (!ret_fence || ttl_ms == 0))
        status = FAN_INVALID;
    if (status != FAN_OK)
        return status;
    return store->provider->lease_acquire(store->self, name, owner, ttl_ms, ret_fence);
}

enum fan_status fan_lease_renew(struct fan_store *store, const char *name, const char *owner,
                                uint64_t fence, uint32_t ttl_ms)
{
    enum fan_status status = check_lease(store, name, owner, fence);
    if (status == FAN_OK && ttl_ms == 0)
        status = FAN_INVALID;
    if (status != FAN_OK)
        return status;
    return store->provider->lease_renew(store->self, name, owner, fence, ttl_ms);
}

enum fan_status fan_lease_release(struct fan_store *store, const char *name, const char *owner,
                                  uint64_t fence)
{
    enum fan_status status = check_lease(store, name, owner, fence);
    if (status != FAN_OK)
        return status;
    return store->provider->lease_release(store->self, name, owner, fence);
}
