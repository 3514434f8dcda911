/*
 * A bus of sockets in one process, which lose and never wait: what zeromq.c and nng.c share. A
 * reader that finds nothing for 20 ms looks whether the end has come, so a round lasts as much
 * longer.
 */
#ifndef BENCH_PEERS_SOCKETS_H
#define BENCH_PEERS_SOCKETS_H

#include "harness.h"

#define RECEIVE_MS_MAX 20

struct sockets;
static struct sockets *sockets_open(unsigned readers);
static void sockets_send(struct sockets *sockets, const uint64_t *words, size_t size);
/* False when nothing came in time. */
static bool sockets_receive(struct sockets *sockets, unsigned reader, struct event *ret_event);
static void sockets_close(struct sockets *sockets);

static atomic_bool sockets_ended;

static void *bus_open(const struct round *round)
{
    must(round->publishers == 1 && !round->lossless, "one publisher that loses");
    atomic_store(&sockets_ended, false);
    return sockets_open(round->readers);
}

static void bus_publish(void *bus, unsigned publisher, const uint64_t *words, size_t word_count)
{
    (void)publisher;
    sockets_send(bus, words, word_count * sizeof(uint64_t));
}

static void bus_read(void *bus, struct reader *reader)
{
    struct event event;
    for (;;) {
        bool ended = atomic_load(&sockets_ended);
        if (sockets_receive(bus, reader->index, &event))
            reader_take(reader, event.words, WORD_COUNT);
        else if (ended)
            break;
    }
}

static void bus_end(void *bus)
{
    (void)bus;
    atomic_store(&sockets_ended, true);
}

static void bus_free(void *bus)
{
    sockets_close(bus);
}

static bool bus_other(const struct round *round)
{
    (void)round;
    return false;
}

int main(void)
{
    return serve();
}

#endif
