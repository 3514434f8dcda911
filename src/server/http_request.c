/* What a route reads from a request, and how long a request lives. */
#include "server/http_inside.h"

#include "base/env.h"

#include <assert.h>
#include <string.h>
#include <strings.h>

struct fan__http_loop *fan__http_loop(const struct fan__http_request *request)
{
    return request->loop;
}

void *fan__http_context(const struct fan__http_request *request)
{
    return request->loop->server->options.context;
}

const char *fan__http_method(const struct fan__http_request *request)
{
    return request->method;
}

const char *fan__http_path(const struct fan__http_request *request)
{
    return request->path;
}

const char *fan__http_header(const struct fan__http_request *request, const char *name)
{
    for (size_t i = 0; i < request->field_count; i++) {
        if (strcasecmp(request->fields[i].name, name) == 0)
            return request->fields[i].value;
    }
    return NULL;
}

bool fan__http_header_at(const struct fan__http_request *request, size_t index,
                         const char **ret_name, const char **ret_value)
{
    if (index >= request->field_count)
        return false;
    *ret_name = request->fields[index].name;
    *ret_value = request->fields[index].value;
    return true;
}

const char *fan__http_segment(const struct fan__http_request *request)
{
    return request->segment;
}

const char *fan__http_query(const struct fan__http_request *request, const char *name)
{
    for (size_t i = 0; i < request->parameter_count; i++) {
        if (strcmp(request->parameters[i].name, name) == 0)
            return request->parameters[i].value;
    }
    return NULL;
}

struct fan_str fan__http_body(const struct fan__http_request *request)
{
    return (struct fan_str){ request->body.data, request->body.size };
}

bool fan__http_connected(const struct fan__http_request *request)
{
    return request->connection != NULL;
}

void fan__http_attach(struct fan__http_request *request, const struct fan__http_calls *calls,
                      void *context)
{
    request->calls = calls;
    request->calls_context = context;
}

void fan__http_progress(struct fan__http_request *request)
{
    struct fan__http_connection *connection = request->connection;
    if (!connection || connection->state != FAN__HTTP_BODY)
        return;
    connection->moved = request->loop->server->options.body_progress_size;
    fan__http_connection_mark(connection);
}

void fan__http_pause(struct fan__http_request *request)
{
    request->paused = true;
}

void fan__http_resume(struct fan__http_request *request)
{
    if (!request->paused)
        return;
    request->paused = false;
    if (request->connection)
        fan__http_connection_resume(request->connection);
}

void fan__http_request_free(struct fan__http_request *request)
{
    struct fan__http_loop *loop = request->loop;
    loop->body_size -= request->body.size;
    loop->request_count--;
    fan__buffer_deinit(&request->body);
    fan__buffer_deinit(&request->extra);
    fan__free(loop->server->options.env, request);
}

void fan__http_request_lose(struct fan__http_request *request)
{
    request->connection->request = NULL;
    request->connection = NULL;
    if (request->streaming)
        request->loop->counters.streams--;
    if (!request->handed)
        fan__http_request_free(request);
    else if (request->calls && request->calls->gone)
        request->calls->gone(request, request->calls_context);
}
