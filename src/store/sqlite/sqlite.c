/* Opening, closing, and the table of functions. */
#include "store/sqlite/sqlite.h"

#include "base/env.h"
#include "base/status.h"
#include "store/sqlite/retain.h"
#include "store/sqlite/series.h"
#include "store/uri.h"

#include <string.h>

#define POLL_MS_DEFAULT 100
#define POLL_MS_MAX 60000
#define CHECKPOINT_FRAMES_DEFAULT 8000
#define CHECKPOINT_FRAMES_MAX 1000000

char *fan__sqlite_path_of(const struct fan_env *env, const char *path)
{
    bool special = path[0] == ':' || strncmp(path, "file:", strlen("file:")) == 0;
    struct fan__buffer buffer;
    fan__buffer_init(&buffer, env);
    if (special)
        fan__buffer_add_text(&buffer, "./");
    fan__buffer_add_text(&buffer, path);
    char *copy = fan__buffer_take(&buffer, NULL);
    fan__buffer_deinit(&buffer);
    return copy;
}

static enum fan_status configure(struct fan__sqlite *store, struct fan__uri *uri,
                                 struct fan_error *error)
{
    uint64_t poll_ms = POLL_MS_DEFAULT;
    enum fan_status status = fan__uri_take_count(uri, "poll_ms", 1, POLL_MS_MAX, &poll_ms, error);
    if (status != FAN_OK)
        return status;
    store->poll_ms = (uint32_t)poll_ms;
    uint64_t frames = CHECKPOINT_FRAMES_DEFAULT;
    status =
        fan__uri_take_count(uri, "checkpoint_frames", 1, CHECKPOINT_FRAMES_MAX, &frames, error);
    if (status != FAN_OK)
        return status;
    store->checkpoint_frames = (uint32_t)frames;
    const char *synchronous = fan__uri_take(uri, "synchronous");
    store->synchronous_normal = synchronous && strcmp(synchronous, "normal") == 0;
    if (synchronous && !store->synchronous_normal && strcmp(synchronous, "full") != 0)
        return fan__fail(error, FAN_INVALID, "synchronous", "'%s', expected full or normal",
                         synchronous);
    const char *create = fan__uri_take(uri, "create");
    store->must_exist = create && strcmp(create, "no") == 0;
    if (create && !store->must_exist && strcmp(create, "yes") != 0)
        return fan__fail(error, FAN_INVALID, "create", "'%s', expected yes or no", create);
    const char *vfs = fan__uri_take(uri, "vfs");
    if (vfs && !sqlite3_vfs_find(vfs))
        return fan__fail(error, FAN_INVALID, "vfs", "'%s' is no VFS of this process", vfs);
    status = fan__uri_finish(uri, error);
    if (status != FAN_OK)
        return status;
    if (!*uri->path)
        return fan__fail(error, FAN_INVALID, "uri", "expected a file's path after 'sqlite:'");
    store->path = fan__sqlite_path_of(store->env, uri->path);
    store->vfs = vfs ? fan__strdup(store->env, vfs) : NULL;
    if (!store->path || (vfs && !store->vfs))
        return fan__fail(error, FAN_NO_MEMORY, NULL, "no memory for the path");
    return FAN_OK;
}

/* The writer first knows nothing: its first transaction reads the head. */
static void init(struct fan__sqlite *store, const struct fan_env *env)
{
    store->env = env;
    store->fork_generation = fan__fork_generation();
    store->data_version = -1;
    fan__mutex_init(&store->writer_mutex);
    fan__mutex_init(&store->clock_mutex);
    fan__mutex_init(&store->pool_mutex);
    fan__cond_init(&store->pool_returned);
    fan__mutex_init(&store->owed_mutex);
    fan__mutex_init(&store->keep_mutex);
    fan__mutex_init(&store->tail_mutex);
    fan__cond_init(&store->tail_wake);
}

void fan__sqlite_close(void *self)
{
    struct fan__sqlite *store = self;
    /*
     * A fork's child must not close: SQLite would take it for the last user and delete the log's
     * files under the parent.
     */
    if (store->fork_generation != fan__fork_generation())
        return;
    fan__sqlite_checkpoint_stop(store);
    while (store->pool) {
        struct fan__sqlite_connection *connection = store->pool;
        store->pool = connection->next;
        fan__sqlite_disconnect(connection);
    }
    /* The last connection to go moves the write-ahead log into the database and removes it. */
    fan__sqlite_disconnect(store->writer);
    fan__tuples_free(store->tuples);
    fan__cond_deinit(&store->tail_wake);
    fan__mutex_deinit(&store->tail_mutex);
    fan__mutex_deinit(&store->owed_mutex);
    fan__mutex_deinit(&store->keep_mutex);
    fan__sqlite_sweep_free(store);
    fan__free(store->env, store->owed);
    fan__cond_deinit(&store->pool_returned);
    fan__mutex_deinit(&store->pool_mutex);
    fan__mutex_deinit(&store->clock_mutex);
    fan__mutex_deinit(&store->writer_mutex);
    fan__free(store->env, store->path);
    fan__free(store->env, store->vfs);
    fan__free(store->env, store);
}

enum fan_status fan__sqlite_start(struct fan__sqlite *store, struct fan_error *error)
{
    enum fan_status status = fan__sqlite_schema_open(store, error);
    if (status != FAN_OK)
        return status;
    store->tuples = fan__tuples_new(store->env);
    if (!store->tuples)
        return fan__fail(error, FAN_NO_MEMORY, NULL, "no memory for the series");
    status = fan__sqlite_checkpoint_start(store, error);
    if (status != FAN_OK)
        return status;
    return fan__sqlite_head(store, &store->tail_seq);
}

enum fan_status fan__sqlite_new(const char *uri, const struct fan_env *env,
                                struct fan__sqlite **ret_store, struct fan_error *error)
{
    if (!sqlite3_threadsafe())
        return fan__fail(error, FAN_UNSUPPORTED, NULL, "this SQLite was built without threads");
    struct fan__sqlite *store = fan__alloc_zero(env, 1, sizeof(*store));
    if (!store)
        return fan__fail(error, FAN_NO_MEMORY, NULL, "no memory for the store");
    init(store, env);
    struct fan__uri parsed;
    enum fan_status status = fan__uri_parse(uri, env, &parsed, error);
    if (status == FAN_OK) {
        status = configure(store, &parsed, error);
        fan__uri_deinit(&parsed);
    }
    if (status != FAN_OK) {
        fan__sqlite_close(store);
        return status;
    }
    *ret_store = store;
    return FAN_OK;
}

static enum fan_status sqlite_open(const char *uri, const struct fan_env *env, void **ret_self,
                                   uint64_t *ret_epoch, struct fan_error *error)
{
    struct fan__sqlite *store = NULL;
    enum fan_status status = fan__sqlite_new(uri, env, &store, error);
    if (status != FAN_OK)
        return status;
    status = fan__sqlite_start(store, error);
    if (status != FAN_OK) {
        fan__sqlite_close(store);
        return status;
    }
    *ret_self = store;
    *ret_epoch = store->epoch;
    return FAN_OK;
}

static unsigned promises(void *self)
{
    const struct fan__sqlite *store = self;
    unsigned all = fan__sqlite_provider.capabilities;
    return store->synchronous_normal ? all & ~(unsigned)FAN_CAPABILITY_DURABLE_DISK : all;
}

const struct fan_provider fan__sqlite_provider = {
    .size = FAN_PROVIDER_SIZE,
    .scheme = "sqlite",
    .capabilities = FAN_CAPABILITY_DURABLE_DISK | FAN_CAPABILITY_DURABLE_PROCESS |
                    FAN_CAPABILITY_QUERY | FAN_CAPABILITY_TAIL_PROCESSES,
    .open = sqlite_open,
    .close = fan__sqlite_close,
    .append = fan__sqlite_append,
    .read = fan__sqlite_read,
    .list = fan__sqlite_list,
    .get = fan__sqlite_get,
    .remove = fan__sqlite_remove,
    .erase = fan__sqlite_erase,
    .head = fan__sqlite_head,
    .wait = fan__sqlite_wait,
    .wake = fan__sqlite_wake,
    .stats = fan__sqlite_stats,
    .group_create = fan__sqlite_group_create,
    .group_delete = fan__sqlite_group_delete,
    .claim = fan__sqlite_claim,
    .settle = fan__sqlite_settle,
    .renew = fan__sqlite_renew,
    .move = fan__sqlite_move,
    .deliveries = fan__sqlite_deliveries,
    .groups = fan__sqlite_groups,
    .lease_acquire = fan__sqlite_lease_acquire,
    .lease_renew = fan__sqlite_lease_renew,
    .lease_release = fan__sqlite_lease_release,
    .promises = promises,
    .retain = fan__sqlite_retain,
    .accept_clock = fan__sqlite_accept_clock,
    .backup = fan__sqlite_backup,
    .restore = fan__sqlite_restore,
    .verify = fan__sqlite_verify,
};
