/* A bus of rings, one for each reader: what ck.c and rte.c share. */
#ifndef BENCH_PEERS_FANOUT_H
#define BENCH_PEERS_FANOUT_H

#include "harness.h"

struct ring;
/* A pause of the processor, by the library's own word for it. */
static void ring_pause(void);

/* The ring has no wait of its own: pauses, then gives the processor away. */
#define PAUSE_COUNT 64

static atomic_bool fanout_ended;

static inline void fanout_wait(unsigned *count)
{
    if (++*count % PAUSE_COUNT == 0)
        sched_yield();
    else
        ring_pause();
}

static struct ring *ring_new(bool many_publishers);
static void ring_free(struct ring *ring);
static bool ring_put(struct ring *ring, const struct event *event);
static bool ring_take(struct ring *ring, struct event *ret_event);

struct fanout {
    struct ring *rings[READER_COUNT_MAX];
    unsigned count;
    bool lossless;
};

static void *bus_open(const struct round *round)
{
    struct fanout *fanout = allocate(sizeof(*fanout));
    must(round->word_count == WORD_COUNT, "not for large events");
    fanout->count = round->readers;
    fanout->lossless = round->lossless;
    atomic_store(&fanout_ended, false);
    for (unsigned i = 0; i < fanout->count; i++)
        fanout->rings[i] = ring_new(round->publishers > 1);
    return fanout;
}

static void bus_publish(void *bus, unsigned publisher, const uint64_t *words, size_t word_count)
{
    struct fanout *fanout = bus;
    struct event event;
    (void)publisher;
    (void)word_count;
    memcpy(&event, words, sizeof(event));
    for (unsigned i = 0; i < fanout->count; i++) {
        unsigned count = 0;
        while (!ring_put(fanout->rings[i], &event) && fanout->lossless)
            fanout_wait(&count);
    }
}

static void bus_read(void *bus, struct reader *reader)
{
    struct fanout *fanout = bus;
    struct ring *ring = fanout->rings[reader->index];
    struct event event;
    unsigned count = 0;
    for (;;) {
        /* acquire: what was put before the end is seen with it. */
        bool ended = atomic_load_explicit(&fanout_ended, memory_order_acquire);
        if (ring_take(ring, &event))
            reader_take(reader, event.words, WORD_COUNT);
        else if (ended)
            break;
        else
            fanout_wait(&count);
    }
}

static void bus_end(void *bus)
{
    (void)bus;
    atomic_store(&fanout_ended, true);
}

static void bus_free(void *bus)
{
    struct fanout *fanout = bus;
    for (unsigned i = 0; i < fanout->count; i++)
        ring_free(fanout->rings[i]);
    free(fanout);
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
