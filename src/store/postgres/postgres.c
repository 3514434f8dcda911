/* Opening, closing, and the table of functions. */
#include "store/postgres/postgres.h"

#include "base/env.h"
#include "base/hash.h"
#include "base/status.h"
#include "store/postgres/series.h"
#include "store/uri.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TIMEOUT_MS_DEFAULT 4000
#define TIMEOUT_MS_MIN 50
#define TIMEOUT_MS_MAX 60000
#define OPEN_MS_MAX 86400000
#define POLL_MS_DEFAULT 1000
#define POLL_MS_MAX 60000
#define TABLE_MAX 40
#define KEYWORD_MAX 64
#define LOCK_SEED UINT64_C(0x66616e66617265)

/* What a URI may say to libpq itself. */
static const char *const passed_on[] = {
    "host",    "port",       "user",       "sslmode",  "sslrootcert",          "sslcert",
    "sslkey",  "sslcrl",     "passfile",   "password", "target_session_attrs", "hostaddr",
    "service", "krbsrvname", "gssencmode",
};

static enum fan_status set(struct fan__postgres *store, const char *keyword, const char *value)
{
    size_t i = 0;
    while (store->keywords[i] && strcmp(store->keywords[i], keyword) != 0)
        i++;
    if (i == KEYWORD_MAX)
        return FAN_INVALID;
    if (!store->keywords[i])
        store->keywords[i] = fan__strdup(store->env, keyword);
    if (!store->keywords[i])
        return FAN_NO_MEMORY;
    fan__free(store->env, store->values[i]);
    store->values[i] = fan__strdup(store->env, value);
    return store->values[i] ? FAN_OK : FAN_NO_MEMORY;
}

/* Who, where and which database, as libpq reads a URI: up to the question mark. */
static enum fan_status set_place(struct fan__postgres *store, const char *uri,
                                 struct fan_error *error)
{
    char *place = fan__strdup(store->env, uri);
    if (!place)
        return FAN_NO_MEMORY;
    place[strcspn(place, "?")] = '\0';
    char *words = NULL;
    PQconninfoOption *options = PQconninfoParse(place, &words);
    fan__free(store->env, place);
    PQfreemem(words);
    if (!options)
        return fan__fail(error, FAN_INVALID, "uri",
                         "expected postgres://USER:PASSWORD@HOST:PORT/DATABASE");
    enum fan_status status = FAN_OK;
    for (const PQconninfoOption *at = options; status == FAN_OK && at->keyword; at++) {
        if (at->val)
            status = set(store, at->keyword, at->val);
    }
    PQconninfoFree(options);
    return status;
}

static enum fan_status set_name(struct fan__uri *uri, const char *option, size_t size_max,
                                char name[FAN__POSTGRES_NAME_MAX + 1], struct fan_error *error)
{
    const char *given = fan__uri_take(uri, option);
    if (!given)
        return FAN_OK;
    size_t size = strlen(given);
    if (size > size_max || size == 0)
        return fan__fail(error, FAN_INVALID, option,
                         "option '%s' is '%s': expected a name of 1 to %zu bytes", option, given,
                         size_max);
    memcpy(name, given, size + 1);
    return FAN_OK;
}

static enum fan_status set_names(struct fan__postgres *store, struct fan__uri *uri,
                                 struct fan_error *error)
{
    memcpy(store->schema, "fanfare", sizeof("fanfare"));
    enum fan_status status = set_name(uri, "schema", FAN__POSTGRES_NAME_MAX, store->schema, error);
    if (status == FAN_OK)
        status = set_name(uri, "table", TABLE_MAX, store->table, error);
    if (status != FAN_OK)
        return status;
    char key[2 * FAN__POSTGRES_NAME_MAX + 2];
    int size = snprintf(key, sizeof(key), "%s.%s", store->schema, store->table);
    uint64_t hash = fan__hash(LOCK_SEED, key, (size_t)size);
    memcpy(&store->lock_key, &hash, sizeof(hash));
    snprintf(store->channel, sizeof(store->channel), "fanfare_%016llx", (unsigned long long)hash);
    return set_name(uri, "channel", FAN__POSTGRES_NAME_MAX, store->channel, error);
}

static enum fan_status set_times(struct fan__postgres *store, struct fan__uri *uri,
                                 struct fan_error *error)
{
    uint64_t timeout_ms = TIMEOUT_MS_DEFAULT;
    uint64_t poll_ms = POLL_MS_DEFAULT;
    enum fan_status status =
        fan__uri_take_count(uri, "timeout_ms", TIMEOUT_MS_MIN, TIMEOUT_MS_MAX, &timeout_ms, error);
    if (status == FAN_OK)
        status = fan__uri_take_count(uri, "poll_ms", 1, POLL_MS_MAX, &poll_ms, error);
    uint64_t open_ms = timeout_ms;
    if (status == FAN_OK)
        status = fan__uri_take_count(uri, "open_ms", TIMEOUT_MS_MIN, OPEN_MS_MAX, &open_ms, error);
    store->open_ms = (uint32_t)open_ms;
    store->timeout_ms = (uint32_t)timeout_ms;
    store->poll_ms = (uint32_t)poll_ms;
    return status;
}

static enum fan_status configure(struct fan__postgres *store, const char *text,
                                 struct fan__uri *uri, struct fan_error *error)
{
    if (strncmp(uri->path, "//", 2) != 0)
        return fan__fail(error, FAN_INVALID, "uri",
                         "expected postgres://USER:PASSWORD@HOST:PORT/DATABASE");
    enum fan_status status = set_names(store, uri, error);
    if (status == FAN_OK)
        status = set_times(store, uri, error);
    if (status == FAN_OK)
        status = set_place(store, text, error);
    for (size_t i = 0; status == FAN_OK && i < sizeof(passed_on) / sizeof(*passed_on); i++) {
        const char *value = fan__uri_take(uri, passed_on[i]);
        if (value)
            status = set(store, passed_on[i], value);
    }
    if (status == FAN_OK)
        status = set(store, "client_encoding", "UTF8");
    if (status == FAN_OK)
        status = set(store, "application_name", "fanfare");
    if (status == FAN_NO_MEMORY)
        return fan__fail(error, status, NULL, "no memory for the URI");
    return status == FAN_OK ? fan__uri_finish(uri, error) : status;
}

static enum fan_status make(const char *uri, const struct fan_env *env,
                            struct fan__postgres **ret_store, struct fan_error *error)
{
    struct fan__postgres *store = fan__alloc_zero(env, 1, sizeof(*store));
    if (!store)
        return fan__fail(error, FAN_NO_MEMORY, NULL, "no memory for the store");
    store->env = env;
    store->fork_generation = fan__fork_generation();
    fan__mutex_init(&store->pool_mutex);
    fan__cond_init(&store->pool_returned);
    fan__mutex_init(&store->clock_mutex);
    fan__mutex_init(&store->doubt_mutex);
    fan__mutex_init(&store->keep_mutex);
    uint64_t name = 0;
    fan__random(env, &name, sizeof(name));
    snprintf(store->name, sizeof(store->name), "%016" PRIx64, name);
    *ret_store = store;
    store->keywords = fan__alloc_zero(env, KEYWORD_MAX + 1, sizeof(*store->keywords));
    store->values = fan__alloc_zero(env, KEYWORD_MAX + 1, sizeof(*store->values));
    if (!store->keywords || !store->values)
        return fan__fail(error, FAN_NO_MEMORY, NULL, "no memory for the store");
    struct fan__uri parsed;
    enum fan_status status = fan__uri_check_place(uri, error);
    if (status == FAN_OK)
        status = fan__uri_parse(uri, env, &parsed, error);
    if (status != FAN_OK)
        return status;
    status = configure(store, uri, &parsed, error);
    fan__uri_deinit(&parsed);
    return status;
}

static void postgres_close(void *self)
{
    struct fan__postgres *store = self;
    /* A fork's child must not close: it would say goodbye on the parent's connections. */
    if (store->fork_generation != fan__fork_generation())
        return;
    bool is_up = fan__postgres_tail_stop(store);
    if (is_up)
        fan__postgres_clock_leave(store);
    while (store->pool) {
        struct fan__postgres_connection *connection = store->pool;
        store->pool = connection->next;
        fan__postgres_disconnect(connection);
    }
    fan__postgres_disconnect(store->writer);
    fan__tuples_free(store->tuples);
    for (size_t i = 0; store->keywords && store->keywords[i]; i++) {
        fan__free(store->env, store->keywords[i]);
        fan__free(store->env, store->values ? store->values[i] : NULL);
    }
    fan__free(store->env, store->keywords);
    fan__free(store->env, store->values);
    fan__free(store->env, store->texts);
    fan__mutex_deinit(&store->keep_mutex);
    fan__mutex_deinit(&store->doubt_mutex);
    fan__mutex_deinit(&store->clock_mutex);
    fan__cond_deinit(&store->pool_returned);
    fan__mutex_deinit(&store->pool_mutex);
    fan__free(store->env, store);
}

/* A server that is not there yet, or is starting, is waited for. */
static enum fan_status find_log(struct fan__postgres *store, struct fan_error *error)
{
    int64_t deadline_ns = fan__deadline_ns(store->open_ms);
    for (;;) {
        enum fan_status status = fan__postgres_schema_open(store, error);
        if (status != FAN_UNAVAILABLE || fan__deadline_ns(0) >= deadline_ns)
            return status;
    }
}

static enum fan_status postgres_open(const char *uri, const struct fan_env *env, void **ret_self,
                                     uint64_t *ret_epoch, struct fan_error *error)
{
    struct fan__postgres *store = NULL;
    enum fan_status status = make(uri, env, &store, error);
    if (status == FAN_OK)
        store->tuples = fan__tuples_new(store->env);
    if (status == FAN_OK && (!store->tuples || !fan__postgres_texts_new(store)))
        status = fan__fail(error, FAN_NO_MEMORY, NULL, "no memory for the statements");
    if (status == FAN_OK)
        status = find_log(store, error);
    if (status == FAN_OK)
        status = fan__postgres_tail_start(store, error);
    if (status != FAN_OK) {
        if (store)
            postgres_close(store);
        return status;
    }
    *ret_self = store;
    *ret_epoch = store->epoch;
    return FAN_OK;
}

static unsigned promises(void *self)
{
    const struct fan__postgres *store = self;
    unsigned all = fan__postgres_provider.capabilities;
    return store->durable ? all : all & ~(unsigned)FAN_CAPABILITY_DURABLE_DISK;
}

const struct fan_provider fan__postgres_provider = {
    .size = FAN_PROVIDER_SIZE,
    .scheme = "postgres",
    .capabilities = FAN_CAPABILITY_DURABLE_DISK | FAN_CAPABILITY_DURABLE_PROCESS |
                    FAN_CAPABILITY_QUERY | FAN_CAPABILITY_TAIL_PROCESSES,
    .open = postgres_open,
    .close = postgres_close,
    .append = fan__postgres_append,
    .read = fan__postgres_read,
    .list = fan__postgres_list,
    .get = fan__postgres_get,
    .remove = fan__postgres_remove,
    .erase = fan__postgres_erase,
    .head = fan__postgres_head,
    .wait = fan__postgres_wait,
    .wake = fan__postgres_wake,
    .stats = fan__postgres_stats,
    .group_create = fan__postgres_group_create,
    .group_delete = fan__postgres_group_delete,
    .claim = fan__postgres_claim,
    .settle = fan__postgres_settle,
    .renew = fan__postgres_renew,
    .move = fan__postgres_move,
    .deliveries = fan__postgres_deliveries,
    .groups = fan__postgres_groups,
    .lease_acquire = fan__postgres_lease_acquire,
    .lease_renew = fan__postgres_lease_renew,
    .lease_release = fan__postgres_lease_release,
    .promises = promises,
    .retain = fan__postgres_retain,
    .accept_clock = fan__postgres_accept_clock,
    .backup = fan__postgres_backup,
    .restore = fan__postgres_restore,
    .verify = fan__postgres_verify,
};
