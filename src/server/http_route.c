/*
 * Finds a request's route, and decodes what the route asked for. A path is compared by segment,
 * after decoding each, so that %2F never makes two segments out of one.
 */
#include "server/http_inside.h"

#include "base/buffer.h"

#include <stdio.h>
#include <string.h>

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Decodes up to `end` into `target` (may be the same place) with a NUL; false for a bad escape. */
static bool decode(const char *at, const char *end, bool plus_is_space, char *target)
{
    while (at < end) {
        char c = *at++;
        if (c == '%') {
            if (end - at < 2 || hex_value(at[0]) < 0 || hex_value(at[1]) < 0)
                return false;
            c = (char)(hex_value(at[0]) << 4 | hex_value(at[1]));
            at += 2;
            if (c == '\0')
                return false;
        } else if (c == '+' && plus_is_space) {
            c = ' ';
        }
        *target++ = c;
    }
    *target = '\0';
    return true;
}

static size_t segment_size(const char *at)
{
    return strcspn(at, "/");
}

/* Whether a raw segment means these literal bytes. */
static bool same_segment(const char *raw, size_t raw_size, const char *literal, size_t size)
{
    size_t matched = 0;
    for (size_t i = 0; i < raw_size; i++, matched++) {
        char c = raw[i];
        if (c == '%' && raw_size - i > 2 && hex_value(raw[i + 1]) >= 0 &&
            hex_value(raw[i + 2]) >= 0) {
            c = (char)((unsigned)hex_value(raw[i + 1]) << 4 | (unsigned)hex_value(raw[i + 2]));
            i += 2;
        }
        if (matched == size || literal[matched] != c)
            return false;
    }
    return matched == size;
}

/* *ret_segment is what stands for `{name}`, raw; its data is NULL when the pattern has none. */
static bool path_matches(const char *pattern, const char *path, struct fan_str *ret_segment)
{
    *ret_segment = (struct fan_str){ NULL, 0 };
    while (*pattern == '/' && *path == '/') {
        pattern++;
        path++;
        size_t size = segment_size(pattern);
        size_t raw_size = segment_size(path);
        if (*pattern == '{') {
            if (raw_size == 0)
                return false;
            *ret_segment = (struct fan_str){ path, raw_size };
        } else if (!same_segment(path, raw_size, pattern, size)) {
            return false;
        }
        pattern += size;
        path += raw_size;
    }
    return *pattern == '\0' && *path == '\0';
}

static void add_method(char *allow, size_t size, const char *method)
{
    size_t length = strlen(allow);
    snprintf(allow + length, size - length, "%s%s", length > 0 ? ", " : "", method);
}

/* The route for path and method, or NULL with the methods that the path has, maybe none. */
static const struct fan__http_route *find(const struct fan__http_request *request,
                                          struct fan_str *ret_segment, char *allow, size_t size)
{
    const struct fan__http_options *options = &request->loop->server->options;
    const char *wanted = request->is_head ? "GET" : request->method;
    allow[0] = '\0';
    for (size_t i = 0; i < options->route_count; i++) {
        const struct fan__http_route *route = &options->routes[i];
        if (!path_matches(route->path, request->path, ret_segment))
            continue;
        if (strcmp(route->method, wanted) == 0)
            return route;
        add_method(allow, size, route->method);
        if (strcmp(route->method, "GET") == 0)
            add_method(allow, size, "HEAD");
    }
    return NULL;
}

static bool decode_segment(struct fan__http_request *request, struct fan_str raw)
{
    const char *open = strchr(request->route->path, '{');
    if (!open || !raw.data)
        return true;
    if (decode(raw.data, raw.data + raw.size, false, request->segment_space)) {
        request->segment = request->segment_space;
        return true;
    }
    char name[64];
    snprintf(name, sizeof(name), "%.*s", (int)strcspn(open + 1, "}"), open + 1);
    fan__http_problem(request, 400, name, "has a broken percent escape");
    return false;
}

static bool is_known(const char *const *names, const char *name)
{
    while (*names && strcmp(*names, name) != 0)
        names++;
    return *names != NULL;
}

static bool decode_parameter(struct fan__http_request *request, char *at, char *end)
{
    char *mark = memchr(at, '=', (size_t)(end - at));
    char *name_end = mark ? mark : end;
    char *value = mark ? mark + 1 : end;
    struct fan__http_field *parameter = &request->parameters[request->parameter_count];
    bool name_is_good = decode(at, name_end, true, at);
    parameter->name = at;
    if (!name_is_good) {
        fan__http_problem(request, 400, "query", "has a broken percent escape in a name");
        return false;
    }
    if (!is_known(request->route->query, at)) {
        fan__http_problem(request, 400, at, "is not a parameter of this path");
        return false;
    }
    if (fan__http_query(request, at)) {
        fan__http_problem(request, 400, at, "comes more than once");
        return false;
    }
    if (!decode(value, end, true, value)) {
        fan__http_problem(request, 400, at, "has a broken percent escape");
        return false;
    }
    parameter->value = value;
    request->parameter_count++;
    return true;
}

static bool decode_query(struct fan__http_request *request)
{
    if (!request->route->query || !request->query)
        return true;
    char *last = request->query + strlen(request->query);
    for (char *at = request->query; at < last;) {
        char *end = memchr(at, '&', (size_t)(last - at));
        if (!end)
            end = last;
        if (end > at && !decode_parameter(request, at, end))
            return false;
        at = end + 1;
    }
    return true;
}

bool fan__http_route_request(struct fan__http_request *request)
{
    char allow[128];
    struct fan_str segment;
    request->route = find(request, &segment, allow, sizeof(allow));
    if (request->route)
        return decode_segment(request, segment) && decode_query(request);
    if (allow[0] == '\0')
        fan__http_problem(request, 404, NULL, "there is nothing at this path");
    else if (strcmp(request->method, "OPTIONS") == 0)
        fan__http_answer_allow(request, 204, allow);
    else
        fan__http_answer_allow(request, 405, allow);
    return false;
}
