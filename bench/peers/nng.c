/* nng: pub0 and sub0 over inproc. */
#include "sockets.h"

#include <nng/nng.h>
#include <nng/protocol/pubsub0/pub.h>
#include <nng/protocol/pubsub0/sub.h>

struct sockets {
    nng_socket publisher;
    nng_socket readers[READER_COUNT_MAX];
    unsigned count;
};

static struct sockets *sockets_open(unsigned readers)
{
    struct sockets *sockets = allocate(sizeof(*sockets));
    sockets->count = readers;
    must(nng_pub0_open(&sockets->publisher) == 0, "open");
    must(nng_socket_set_int(sockets->publisher, NNG_OPT_SENDBUF, BUFFER_COUNT / 2) == 0, "buffer");
    must(nng_listen(sockets->publisher, "inproc://events", NULL, 0) == 0, "listen");
    for (unsigned i = 0; i < readers; i++) {
        nng_socket *reader = &sockets->readers[i];
        must(nng_sub0_open(reader) == 0, "open");
        must(nng_socket_set_int(*reader, NNG_OPT_RECVBUF, BUFFER_COUNT / 2) == 0, "buffer");
        must(nng_socket_set_ms(*reader, NNG_OPT_RECVTIMEO, RECEIVE_MS_MAX) == 0, "timeout");
        must(nng_socket_set(*reader, NNG_OPT_SUB_SUBSCRIBE, "", 0) == 0, "subscribe");
        must(nng_dial(*reader, "inproc://events", NULL, 0) == 0, "dial");
    }
    return sockets;
}

static void sockets_send(struct sockets *sockets, const uint64_t *words, size_t size)
{
    must(nng_send(sockets->publisher, (void *)words, size, 0) == 0, "send");
}

static bool sockets_receive(struct sockets *sockets, unsigned reader, struct event *ret_event)
{
    size_t size = sizeof(*ret_event);
    return nng_recv(sockets->readers[reader], ret_event, &size, 0) == 0;
}

static void sockets_close(struct sockets *sockets)
{
    for (unsigned i = 0; i < sockets->count; i++)
        nng_close(sockets->readers[i]);
    nng_close(sockets->publisher);
    free(sockets);
}
