/* ZeroMQ: PUB and SUB over inproc, half of the buffer on each side. */
#include "sockets.h"

#include <zmq.h>

struct sockets {
    void *context;
    void *publisher;
    void *readers[READER_COUNT_MAX];
    unsigned count;
};

static struct sockets *sockets_open(unsigned readers)
{
    struct sockets *sockets = allocate(sizeof(*sockets));
    int high_water = BUFFER_COUNT / 2;
    int timeout_ms = RECEIVE_MS_MAX;
    char subscription[8];
    sockets->count = readers;
    sockets->context = zmq_ctx_new();
    sockets->publisher = zmq_socket(sockets->context, ZMQ_XPUB);
    zmq_setsockopt(sockets->publisher, ZMQ_SNDHWM, &high_water, sizeof(high_water));
    /* All subscriptions are told, not only the first to a topic. */
    int verbose = 1;
    zmq_setsockopt(sockets->publisher, ZMQ_XPUB_VERBOSE, &verbose, sizeof(verbose));
    must(zmq_bind(sockets->publisher, "inproc://events") == 0, "bind");
    for (unsigned i = 0; i < readers; i++) {
        sockets->readers[i] = zmq_socket(sockets->context, ZMQ_SUB);
        zmq_setsockopt(sockets->readers[i], ZMQ_RCVHWM, &high_water, sizeof(high_water));
        zmq_setsockopt(sockets->readers[i], ZMQ_RCVTIMEO, &timeout_ms, sizeof(timeout_ms));
        zmq_setsockopt(sockets->readers[i], ZMQ_SUBSCRIBE, "", 0);
        must(zmq_connect(sockets->readers[i], "inproc://events") == 0, "connect");
        must(zmq_recv(sockets->publisher, subscription, sizeof(subscription), 0) >= 1, "subscribe");
    }
    return sockets;
}

static void sockets_send(struct sockets *sockets, const uint64_t *words, size_t size)
{
    must(zmq_send(sockets->publisher, words, size, 0) == (int)size, "send");
}

static bool sockets_receive(struct sockets *sockets, unsigned reader, struct event *ret_event)
{
    return zmq_recv(sockets->readers[reader], ret_event, sizeof(*ret_event), 0) ==
           sizeof(*ret_event);
}

static void sockets_close(struct sockets *sockets)
{
    int linger = 0;
    for (unsigned i = 0; i < sockets->count; i++)
        zmq_close(sockets->readers[i]);
    zmq_setsockopt(sockets->publisher, ZMQ_LINGER, &linger, sizeof(linger));
    zmq_close(sockets->publisher);
    zmq_ctx_term(sockets->context);
    free(sockets);
}
