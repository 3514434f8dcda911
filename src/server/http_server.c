/*
 * A server: its options, its address, one listening socket and one thread per loop.
 *
 * The first socket binds and listens without SO_REUSEPORT, and shares only then: so a second server
 * on the same address, which would share silently, is refused (EADDRINUSE).
 */
#include "server/http_inside.h"

#include "base/env.h"
#include "base/status.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LOOP_COUNT_MAX 64
#define HEAD_SIZE_MAX ((size_t)32 * 1024)

static void fill_defaults(struct fan__http_options *options)
{
#define DEFAULT(name, value)                                                                       \
    if (options->name == 0)                                                                        \
    options->name = (value)
    DEFAULT(loop_count, uv_available_parallelism());
    DEFAULT(connection_count_max, 10000);
    DEFAULT(head_size_max, (size_t)16 * 1024);
    DEFAULT(target_size_max, (size_t)8 * 1024);
    DEFAULT(unsent_size_max, (size_t)256 * 1024);
    DEFAULT(body_total_size_max, (size_t)256 * 1024 * 1024);
    DEFAULT(answer_total_size_max, (size_t)256 * 1024 * 1024);
    DEFAULT(head_timeout_ms, 10000);
    DEFAULT(body_progress_size, 16384);
    DEFAULT(body_timeout_ms, 30000);
    DEFAULT(idle_timeout_ms, 60000);
    DEFAULT(write_timeout_ms, 30000);
    DEFAULT(linger_timeout_ms, 2000);
    DEFAULT(lost_timeout_ms, 60000);
#undef DEFAULT
}

enum fan_status fan__http_server_new(const struct fan__http_options *options,
                                     struct fan__http_server **ret_server, struct fan_error *error)
{
    if (options->size != sizeof(*options))
        return fan__fail(error, FAN_INVALID, "size", "is not that of this library's options");
    if (!options->address)
        return fan__fail(error, FAN_INVALID, "address", "is missing; expected HOST:PORT");
    if (options->head_size_max > HEAD_SIZE_MAX)
        return fan__fail(error, FAN_INVALID, "head_size_max", "is above 32 KiB");
    if (options->loop_count > LOOP_COUNT_MAX)
        return fan__fail(error, FAN_INVALID, "loop_count", "is above %d", LOOP_COUNT_MAX);

    struct fan__http_server *server = fan__alloc_zero(options->env, 1, sizeof(*server));
    if (!server)
        return fan__fail(error, FAN_NO_MEMORY, NULL, "no memory for the HTTP server");
    server->options = *options;
    fill_defaults(&server->options);
    server->generation = fan__fork_generation();
    server->loop_count = server->options.loop_count;
    if (server->loop_count > LOOP_COUNT_MAX)
        server->loop_count = LOOP_COUNT_MAX;
    fan__mutex_init(&server->mutex);
    fan__cond_init(&server->cond);
    *ret_server = server;
    return FAN_OK;
}

/* ---- The address ---- */

static bool is_loopback(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)address;
        return ntohl(in->sin_addr.s_addr) >> 24 == 127;
    }
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)address;
    return address->sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr);
}

struct place {
    const char *text;
    struct sockaddr_storage address;
    socklen_t size;
};

/* "HOST:PORT" or "[IPV6]:PORT" into a socket address. */
static enum fan_status look_up(struct place *place, struct fan_error *error)
{
    const char *text = place->text;
    char host[256];
    const char *colon = strrchr(text, ':');
    size_t size = colon ? (size_t)(colon - text) : 0;
    bool brackets = size > 2 && text[0] == '[' && colon[-1] == ']';
    if (size == 0 || size >= sizeof(host) || (!brackets && memchr(text, ':', size)))
        return fan__fail(error, FAN_INVALID, "address", "\"%s\" is not HOST:PORT or [IPV6]:PORT",
                         text);
    memcpy(host, brackets ? text + 1 : text, brackets ? size - 2 : size);
    host[brackets ? size - 2 : size] = '\0';

    const char *port = colon + 1;
    size_t digits = strspn(port, "0123456789");
    if (digits == 0 || digits > 5 || port[digits] != '\0' || strtoul(port, NULL, 10) > 65535)
        return fan__fail(error, FAN_INVALID, "address", "\"%s\" has no port from 0 to 65535", text);
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE };
    struct addrinfo *found = NULL;
    int failed = getaddrinfo(host, port, &hints, &found);
    if (failed != 0)
        return fan__fail(error, FAN_INVALID, "address", "\"%s\" cannot be resolved: %s", text,
                         gai_strerror(failed));
    memcpy(&place->address, found->ai_addr, found->ai_addrlen);
    place->size = found->ai_addrlen;
    freeaddrinfo(found);
    return FAN_OK;
}

/* Listens. `first` is the socket that must have the address for itself. */
static enum fan_status listen_on(const struct place *place, bool first, int *ret_fd,
                                 struct fan_error *error)
{
    int on = 1;
    const struct sockaddr *name = (const struct sockaddr *)&place->address;
    const char *text = place->text;
    int fd = socket(name->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0 &&
        (first || setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) == 0) &&
        bind(fd, name, place->size) == 0 && listen(fd, FAN__HTTP_BACKLOG) == 0 &&
        (!first || setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) == 0)) {
        *ret_fd = fd;
        return FAN_OK;
    }
    int reason = errno;
    if (fd >= 0)
        close(fd);
    if (reason == EADDRINUSE)
        return fan__fail(error, FAN_EXISTS, "address", "%s is in use by another program", text);
    if (reason == EACCES)
        return fan__fail(error, FAN_DENIED, "address", "%s needs rights that are missing", text);
    char words[128];
    return fan__fail(error, FAN_IO, "address", "cannot listen on %s: %s", text,
                     strerror_r(reason, words, sizeof(words)));
}

static void name_address(struct fan__http_server *server, const struct place *place)
{
    char host[64];
    char port[8];
    if (getnameinfo((const struct sockaddr *)&place->address, place->size, host, sizeof(host), port,
                    sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return;
    bool brackets = place->address.ss_family == AF_INET6;
    snprintf(server->address, sizeof(server->address), "%s%s%s:%s", brackets ? "[" : "", host,
             brackets ? "]" : "", port);
}

static void close_sockets(struct fan__http_server *server)
{
    for (unsigned i = 0; i < server->loop_count; i++) {
        if (server->loops[i].listen_fd >= 0)
            close(server->loops[i].listen_fd);
        server->loops[i].listen_fd = -1;
    }
}

static enum fan_status listen_all(struct fan__http_server *server, struct fan_error *error)
{
    const char *text = server->options.address;
    struct place place = { .text = text };
    struct sockaddr *name = (struct sockaddr *)&place.address;
    enum fan_status status = look_up(&place, error);
    if (status == FAN_OK && server->options.loopback_only && !is_loopback(name))
        status = fan__fail(error, FAN_DENIED, "address",
                           "%s can be reached from outside; only loopback is allowed", text);
    for (unsigned i = 0; status == FAN_OK && i < server->loop_count; i++) {
        status = listen_on(&place, i == 0, &server->loops[i].listen_fd, error);
        /* The others take the port that the first was given. */
        if (status == FAN_OK && i == 0 &&
            getsockname(server->loops[0].listen_fd, name, &place.size) != 0)
            status = fan__fail(error, FAN_IO, "address", "%s has no name", text);
    }
    if (status == FAN_OK)
        name_address(server, &place);
    return status;
}

/* ---- Start and stop ---- */

static void deinit_loops(struct fan__http_server *server, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        fan__http_loop_deinit(&server->loops[i]);
    fan__free(server->options.env, server->loops);
    server->loops = NULL;
}

static enum fan_status make_loops(struct fan__http_server *server, struct fan_error *error)
{
    server->loops =
        fan__alloc_zero(server->options.env, server->loop_count, sizeof(*server->loops));
    if (!server->loops)
        return fan__fail(error, FAN_NO_MEMORY, NULL, "no memory for the loops");
    for (unsigned i = 0; i < server->loop_count; i++) {
        enum fan_status status = fan__http_loop_init(&server->loops[i], server, i, error);
        if (status != FAN_OK) {
            deinit_loops(server, i);
            return status;
        }
    }
    return FAN_OK;
}

static void join_loops(struct fan__http_server *server)
{
    for (unsigned i = 0; i < server->loop_count; i++)
        fan__thread_join(&server->loops[i].thread);
}

static enum fan_status start_threads(struct fan__http_server *server, struct fan_error *error)
{
    unsigned started = 0;
    enum fan_status status = FAN_OK;
    while (status == FAN_OK && started < server->loop_count) {
        struct fan__http_loop *loop = &server->loops[started];
        char name[16];
        snprintf(name, sizeof(name), "fan-http-%u", loop->index % 1000);
        status = fan__thread_start(&loop->thread, name, fan__http_loop_run, loop);
        if (status == FAN_OK)
            started++;
        else
            fan__fail(error, status, NULL, "the system gives no thread for a loop");
    }
    fan__mutex_lock(&server->mutex);
    while (server->loops_ready < started)
        fan__cond_wait(&server->cond, &server->mutex);
    if (status == FAN_OK && server->start_status != FAN_OK) {
        status = server->start_status;
        if (error)
            *error = server->start_error;
    }
    fan__mutex_unlock(&server->mutex);
    if (status == FAN_OK)
        return FAN_OK;
    for (unsigned i = 0; i < started; i++)
        fan__http_loop_stop(&server->loops[i], 0);
    join_loops(server);
    return status;
}

enum fan_status fan__http_server_start(struct fan__http_server *server, struct fan_error *error)
{
    if (server->generation != fan__fork_generation())
        return fan__fail(error, FAN_FORKED, NULL, "the HTTP server was made before a fork");
    if (server->started || server->stopped)
        return fan__fail(error, FAN_MISUSE, NULL, "the HTTP server was started before");
    server->start_status = FAN_OK;
    server->loops_ready = 0;
    enum fan_status status = make_loops(server, error);
    if (status != FAN_OK)
        return status;
    status = listen_all(server, error);
    if (status == FAN_OK)
        status = start_threads(server, error);
    if (status == FAN_OK) {
        server->started = true;
        return FAN_OK;
    }
    close_sockets(server);
    deinit_loops(server, server->loop_count);
    return status;
}

void fan__http_server_limit(struct fan__http_server *server, size_t connection_count_max)
{
    fan__mutex_lock(&server->mutex);
    server->options.connection_count_max = connection_count_max;
    fan__mutex_unlock(&server->mutex);
}

const char *fan__http_server_address(const struct fan__http_server *server)
{
    return server->address;
}

void fan__http_server_stop(struct fan__http_server *server, uint32_t timeout_ms)
{
    /* A fork's child has none of the threads; waiting for them would never end. */
    if (!server->started || server->stopped || server->generation != fan__fork_generation())
        return;
    for (unsigned i = 0; i < server->loop_count; i++)
        fan__http_loop_stop(&server->loops[i], timeout_ms);
    join_loops(server);
    server->stopped = true;
}

void fan__http_server_free(struct fan__http_server *server)
{
    if (!server)
        return;
    /* What a fork left behind cannot be taken down: the child gives up the memory. */
    if (server->generation != fan__fork_generation())
        return;
    fan__http_server_stop(server, 0);
    if (server->loops)
        deinit_loops(server, server->loop_count);
    fan__cond_deinit(&server->cond);
    fan__mutex_deinit(&server->mutex);
    fan__free(server->options.env, server);
}

void fan__http_server_counters(struct fan__http_server *server,
                               struct fan__http_counters *ret_counters)
{
    struct fan__http_counters sum = { 0 };
    for (unsigned i = 0; server->loops && i < server->loop_count; i++) {
        struct fan__http_loop *loop = &server->loops[i];
        fan__mutex_lock(&loop->mutex);
        struct fan__http_counters one = loop->published;
        fan__mutex_unlock(&loop->mutex);
        sum.connections += one.connections;
        sum.accepted += one.accepted;
        sum.refused += one.refused;
        sum.requests += one.requests;
        for (size_t k = 0; k < sizeof(sum.responses) / sizeof(*sum.responses); k++)
            sum.responses[k] += one.responses[k];
        sum.streams += one.streams;
        sum.timeouts += one.timeouts;
        sum.bytes_received += one.bytes_received;
        sum.bytes_sent += one.bytes_sent;
    }
    *ret_counters = sum;
}
