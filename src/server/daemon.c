/*
 * The order of starting and stopping. Up: log, broker, loops (each with its hub), listening. Down:
 * listening, streams, requests in flight, hubs, loops, and only then the broker, because what was
 * accepted from a request is owed to it until its last event is written.
 */
#include "server/daemon.h"

#include "base/env.h"
#include "base/status.h"
#include "server/claim.h"
#include "server/dead.h"
#include "server/group.h"
#include "server/health.h"
#include "server/hub.h"
#include "server/publish.h"
#include "server/query.h"
#include "server/reply.h"
#include "server/stream.h"

#include <string.h>

#define KEEP_ALIVE_MS 15000
/* A client has its answer before it gives up by itself. */
#define PUBLISH_TIMEOUT_MS 5000
/* A few names and numbers, however they are escaped. */
#define SMALL_BODY_SIZE_MAX 16384

static const char *const no_parameters[] = { NULL };
static const char *const stream_parameters[] = { "topic", "type", "after", NULL };

static const struct fan__http_route routes[] = {
    { .method = "POST",
      .path = "/v1/events",
      .handle = fan__publish_handle,
      .check = fan__publish_check,
      .query = no_parameters,
      .body_size_max = UINT64_MAX, /* of NDJSON; each line has its bound */
      .body_in_pieces = true },
    { .method = "GET",
      .path = "/v1/events",
      .handle = fan__query_list,
      .query = fan__query_parameters },
    { .method = "GET",
      .path = "/v1/events/{id}",
      .handle = fan__query_get,
      .query = no_parameters },
    { .method = "GET",
      .path = "/v1/stream",
      .handle = fan__stream_handle,
      .query = stream_parameters },
    { .method = "GET",
      .path = "/v1/dead",
      .handle = fan__dead_list,
      .query = fan__dead_parameters },
    { .method = "POST",
      .path = "/v1/dead/redrive",
      .handle = fan__dead_redrive,
      .check = fan__reply_check_json,
      .query = no_parameters,
      .body_size_max = SMALL_BODY_SIZE_MAX },
    { .method = "POST",
      .path = "/v1/dead/discard",
      .handle = fan__dead_discard,
      .check = fan__reply_check_json,
      .query = no_parameters,
      .body_size_max = SMALL_BODY_SIZE_MAX },
    { .method = "GET", .path = "/v1/dead/{id}", .handle = fan__dead_show, .query = no_parameters },
    { .method = "GET", .path = "/v1/groups", .handle = fan__group_list, .query = no_parameters },
    { .method = "PUT",
      .path = "/v1/groups/{group}",
      .handle = fan__group_put,
      .check = fan__reply_check_json,
      .query = fan__group_parameters,
      .body_size_max = SMALL_BODY_SIZE_MAX },
    { .method = "DELETE",
      .path = "/v1/groups/{group}",
      .handle = fan__group_delete,
      .query = fan__group_parameters },
    { .method = "POST",
      .path = "/v1/groups/{group}/claim",
      .handle = fan__claim_handle,
      .check = fan__reply_check_json,
      .query = fan__group_parameters,
      .body_size_max = SMALL_BODY_SIZE_MAX },
    { .method = "POST",
      .path = "/v1/groups/{group}/settle",
      .handle = fan__group_settle,
      .check = fan__reply_check_json,
      .query = fan__group_parameters,
      .body_size_max = FAN__GROUP_BODY_SIZE_MAX },
    { .method = "POST",
      .path = "/v1/groups/{group}/renew",
      .handle = fan__group_renew,
      .check = fan__reply_check_json,
      .query = fan__group_parameters,
      .body_size_max = FAN__GROUP_BODY_SIZE_MAX },
    { .method = "GET", .path = "/v1/stats", .handle = fan__health_stats, .query = no_parameters },
    { .method = "GET", .path = "/metrics", .handle = fan__health_metrics },
    { .method = "GET", .path = "/healthz", .handle = fan__health_alive },
    { .method = "GET", .path = "/readyz", .handle = fan__health_ready },
};

static enum fan_status on_loop_start(struct fan__http_loop *loop, void *context,
                                     void **ret_loop_context, struct fan_error *ret_error)
{
    struct fan__hub *hub;
    enum fan_status status = fan__hub_open(context, loop, &hub, ret_error);
    if (status == FAN_OK)
        *ret_loop_context = hub;
    return status;
}

static void on_loop_stop(struct fan__http_loop *loop, void *context, void *loop_context)
{
    (void)loop;
    (void)context;
    fan__hub_close(loop_context);
}

static enum fan_status open_parts(struct fan__daemon *daemon, struct fan_error *error)
{
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    if (daemon->options.broker)
        options = *daemon->options.broker;
    options.env = daemon->env;
    if (options.publish_timeout_ms == 0)
        options.publish_timeout_ms = PUBLISH_TIMEOUT_MS;
    enum fan_status status = fan_prometheus_new(daemon->env, &daemon->prometheus);
    if (status != FAN_OK)
        return fan__fail(error, status, "", "out of memory");
    options.metrics = fan_prometheus_metrics(daemon->prometheus);
    status = fan_broker_open(daemon->options.store, &options, &daemon->broker, error);
    if (status != FAN_OK)
        return status;
    daemon->store = fan_broker_store(daemon->broker);
    daemon->epoch = fan_store_epoch(daemon->store);
    daemon->defaults = *fan_broker_defaults(daemon->broker);
    daemon->defaults.source = FAN_SOURCE_FRONTEND;
    daemon->http_options = (struct fan__http_options){
        .size = sizeof(struct fan__http_options),
        .env = daemon->env,
        .address = daemon->options.listen,
        .loopback_only = true,
        .loop_count = daemon->options.loop_count,
        .connection_count_max = daemon->options.connection_count_max,
        .routes = routes,
        .route_count = sizeof(routes) / sizeof(routes[0]),
        .context = daemon,
        .loop_start = on_loop_start,
        .loop_stop = on_loop_stop,
    };
    return fan__http_server_new(&daemon->http_options, &daemon->http, error);
}

enum fan_status fan__daemon_open(const struct fan__daemon_options *options,
                                 struct fan__daemon **ret_daemon, struct fan_error *ret_error)
{
    const struct fan_env *env = fan__env(options->env);
    struct fan__daemon *daemon = fan__alloc_zero(env, 1, sizeof(*daemon));
    if (!daemon)
        return fan__fail(ret_error, FAN_NO_MEMORY, "", "out of memory");
    daemon->env = env;
    daemon->options = *options;
    fan__number_init(&daemon->keep_alive_ms,
                     options->keep_alive_ms ? options->keep_alive_ms : KEEP_ALIVE_MS);
    daemon->started_ns = fan__monotonic_ns(env);
    fan__mutex_init(&daemon->mutex);
    enum fan_status status = open_parts(daemon, ret_error);
    if (status != FAN_OK) {
        fan__daemon_free(daemon);
        return status;
    }
    *ret_daemon = daemon;
    return FAN_OK;
}

enum fan_status fan__daemon_start(struct fan__daemon *daemon, struct fan_error *ret_error)
{
    enum fan_status status = fan_broker_start(daemon->broker);
    if (status != FAN_OK)
        return fan__fail(ret_error, status, "", "the broker does not start: %s",
                         fan_status_text(status));
    return fan__http_server_start(daemon->http, ret_error);
}

void fan__daemon_change(struct fan__daemon *daemon, const struct fan__daemon_changes *changes)
{
    fan__number_set(&daemon->keep_alive_ms, changes->keep_alive_ms);
    fan__http_server_limit(daemon->http, changes->connection_count_max);
}

static uint64_t count_unwritten(struct fan__daemon *daemon)
{
    fan__mutex_lock(&daemon->mutex);
    uint64_t count = daemon->unwritten;
    fan__mutex_unlock(&daemon->mutex);
    return count;
}

enum fan_status fan__daemon_stop(struct fan__daemon *daemon, uint32_t timeout_ms)
{
    uint64_t before = count_unwritten(daemon);
    fan__http_server_stop(daemon->http, timeout_ms);
    enum fan_status status = fan_broker_stop(daemon->broker, timeout_ms);
    return status == FAN_OK && count_unwritten(daemon) > before ? FAN_TIMED_OUT : status;
}

void fan__daemon_free(struct fan__daemon *daemon)
{
    if (!daemon)
        return;
    fan__http_server_free(daemon->http);
    fan_broker_free(daemon->broker);
    fan_prometheus_free(daemon->prometheus);
    fan__mutex_deinit(&daemon->mutex);
    fan__free(daemon->env, daemon);
}

const char *fan__daemon_address(const struct fan__daemon *daemon)
{
    return fan__http_server_address(daemon->http);
}
