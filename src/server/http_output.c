/*
 * What waits to be sent: counted chunks, and a ring of them per connection.
 *
 *     chunk:  | free |"1f4\r\n"| data ... |"\r\n"|      one block: a client of HTTP/1.1 gets the
 * frame, ^frame    ^data                    one of HTTP/1.0 the data alone
 *
 * A turn's chunks leave with one sendmsg for up to 32 of them. SIGPIPE is never raised
 * (MSG_NOSIGNAL; libuv's own writes would).
 */
#include "server/http_inside.h"

#include "base/env.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define PREFIX_SIZE 10 /* eight digits and CRLF */
#define GATHER_COUNT 32
#define CALLS_PER_TURN 8
#define RING_COUNT_MIN 4 /* kept by an idle connection */

struct fan__http_chunk {
    const struct fan_env *env;
    uint32_t holders; /* of one loop, so not atomic */
    uint32_t size;
    uint32_t frame; /* where the frame begins in `bytes` */
    char bytes[];
};

struct fan__http_chunk *fan__http_chunk_new(const struct fan_env *env, size_t size)
{
    assert(size > 0);
    if (size > UINT32_MAX / 2)
        return NULL;
    struct fan__http_chunk *chunk = fan__alloc(env, sizeof(*chunk) + PREFIX_SIZE + size + 2);
    if (!chunk)
        return NULL;
    char prefix[PREFIX_SIZE + 1];
    int length = snprintf(prefix, sizeof(prefix), "%zx\r\n", size);
    *chunk = (struct fan__http_chunk){ .env = env, .holders = 1, .size = (uint32_t)size };
    chunk->frame = (uint32_t)(PREFIX_SIZE - length);
    memcpy(chunk->bytes + chunk->frame, prefix, (size_t)length);
    memcpy(chunk->bytes + PREFIX_SIZE + size, "\r\n", 2);
    return chunk;
}

char *fan__http_chunk_data(struct fan__http_chunk *chunk)
{
    return chunk->bytes + PREFIX_SIZE;
}

struct fan__http_chunk *fan__http_chunk_ref(struct fan__http_chunk *chunk)
{
    chunk->holders++;
    return chunk;
}

void fan__http_chunk_unref(struct fan__http_chunk *chunk)
{
    if (chunk && --chunk->holders == 0)
        fan__free(chunk->env, chunk);
}

static bool grow(struct fan__http_connection *connection)
{
    struct fan__http_output *output = &connection->output;
    uint32_t capacity = output->capacity ? output->capacity * 2 : RING_COUNT_MIN;
    const struct fan_env *env = connection->loop->server->options.env;
    struct fan__http_out *ring = fan__alloc_zero(env, capacity, sizeof(*ring));
    if (!ring)
        return false;
    for (uint32_t i = 0; i < output->count; i++)
        ring[i] = output->ring[(output->first + i) & (output->capacity - 1)];
    fan__free(env, output->ring);
    output->ring = ring;
    output->first = 0;
    output->capacity = capacity;
    return true;
}

bool fan__http_output_has_room(const struct fan__http_connection *connection,
                               const struct fan__http_chunk *chunk, size_t size_max)
{
    const struct fan__http_output *output = &connection->output;
    /* The ring's own memory counts, or a flood of tiny chunks would not be bounded. */
    size_t cost = output->size + (output->count + 1U) * sizeof(struct fan__http_out);
    return output->count == 0 || cost + PREFIX_SIZE + chunk->size + 2 <= size_max;
}

enum fan_status fan__http_output_add(struct fan__http_connection *connection,
                                     struct fan__http_chunk *chunk, bool frame)
{
    struct fan__http_output *output = &connection->output;
    if (output->count == output->capacity && !grow(connection))
        return FAN_NO_MEMORY;
    struct fan__http_out out = { .chunk = fan__http_chunk_ref(chunk) };
    out.at = frame ? chunk->frame : PREFIX_SIZE;
    out.end = PREFIX_SIZE + chunk->size + (frame ? 2 : 0);
    output->ring[(output->first + output->count) & (output->capacity - 1)] = out;
    output->count++;
    output->size += out.end - out.at;
    fan__http_connection_mark(connection);
    return FAN_OK;
}

static void advance(struct fan__http_output *output, size_t sent)
{
    output->size -= sent;
    while (sent > 0) {
        struct fan__http_out *out = &output->ring[output->first];
        uint32_t left = out->end - out->at;
        if (sent < left) {
            out->at += (uint32_t)sent;
            return;
        }
        sent -= left;
        fan__http_chunk_unref(out->chunk);
        output->first = (output->first + 1) & (output->capacity - 1);
        output->count--;
    }
}

static size_t gather(const struct fan__http_output *output, struct iovec *parts)
{
    size_t count = output->count < GATHER_COUNT ? output->count : GATHER_COUNT;
    for (size_t i = 0; i < count; i++) {
        struct fan__http_out *out = &output->ring[(output->first + i) & (output->capacity - 1)];
        parts[i] = (struct iovec){ out->chunk->bytes + out->at, out->end - out->at };
    }
    return count;
}

/* All is sent, or will never be. */
static void release_answers(struct fan__http_connection *connection)
{
    connection->loop->answer_size -= connection->answer_size;
    connection->answer_size = 0;
}

bool fan__http_output_flush(struct fan__http_connection *connection)
{
    struct fan__http_output *output = &connection->output;
    connection->want_write = false;
    for (int calls = 0; output->count > 0; calls++) {
        /* The rest waits for the next turn, so that one fast client does not hold up the others. */
        if (calls == CALLS_PER_TURN) {
            connection->want_write = true;
            return true;
        }
        struct iovec parts[GATHER_COUNT];
        struct msghdr message = { .msg_iov = parts, .msg_iovlen = gather(output, parts) };
        ssize_t sent = sendmsg(connection->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != ENOBUFS)
            return false;
        if (sent <= 0) {
            connection->want_write = true;
            return true;
        }
        advance(output, (size_t)sent);
        connection->moved += (uint64_t)sent;
        connection->loop->counters.bytes_sent += (uint64_t)sent;
    }
    release_answers(connection);
    if (output->capacity > RING_COUNT_MIN) {
        fan__free(connection->loop->server->options.env, output->ring);
        *output = (struct fan__http_output){ 0 };
    }
    return true;
}

void fan__http_output_deinit(struct fan__http_connection *connection)
{
    struct fan__http_output *output = &connection->output;
    for (uint32_t i = 0; i < output->count; i++)
        fan__http_chunk_unref(output->ring[(output->first + i) & (output->capacity - 1)].chunk);
    release_answers(connection);
    fan__free(connection->loop->server->options.env, output->ring);
    *output = (struct fan__http_output){ 0 };
}
