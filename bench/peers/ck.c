/* ck_ring of Concurrency Kit: a ring with the events inside for each reader. */
#include "fanout.h"

#include <ck_pr.h>
#include <ck_ring.h>

CK_RING_PROTOTYPE(event, event)

struct ring {
    ck_ring_t ring;
    bool many;
    struct event events[BUFFER_COUNT];
};

static void ring_pause(void)
{
    ck_pr_stall();
}

static struct ring *ring_new(bool many_publishers)
{
    struct ring *ring = allocate(sizeof(*ring));
    ck_ring_init(&ring->ring, BUFFER_COUNT);
    ring->many = many_publishers;
    return ring;
}

static void ring_free(struct ring *ring)
{
    free(ring);
}

static bool ring_put(struct ring *ring, const struct event *event)
{
    if (ring->many)
        return CK_RING_ENQUEUE_MPSC(event, &ring->ring, ring->events, (struct event *)event);
    return CK_RING_ENQUEUE_SPSC(event, &ring->ring, ring->events, (struct event *)event);
}

static bool ring_take(struct ring *ring, struct event *ret_event)
{
    if (ring->many)
        return CK_RING_DEQUEUE_MPSC(event, &ring->ring, ring->events, ret_event);
    return CK_RING_DEQUEUE_SPSC(event, &ring->ring, ring->events, ret_event);
}
