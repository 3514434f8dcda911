/* rte_ring_elem of DPDK, without its environment: a ring for each reader. */
#include "fanout.h"

#include <rte_pause.h>
#include <rte_ring_elem.h>

struct ring {
    struct rte_ring *ring;
};

static void ring_pause(void)
{
    rte_pause();
}

static struct ring *ring_new(bool many_publishers)
{
    struct ring *ring = allocate(sizeof(*ring));
    ssize_t size = rte_ring_get_memsize_elem(sizeof(struct event), BUFFER_COUNT * 2);
    must(size > 0, "no memory");
    ring->ring = allocate((size_t)size);
    unsigned flags = RING_F_SC_DEQ | RING_F_EXACT_SZ | (many_publishers ? 0 : RING_F_SP_ENQ);
    must(rte_ring_init(ring->ring, "events", BUFFER_COUNT, flags) == 0, "no ring");
    return ring;
}

static void ring_free(struct ring *ring)
{
    free(ring->ring);
    free(ring);
}

static bool ring_put(struct ring *ring, const struct event *event)
{
    return rte_ring_enqueue_elem(ring->ring, (void *)event, sizeof(*event)) == 0;
}

static bool ring_take(struct ring *ring, struct event *ret_event)
{
    return rte_ring_dequeue_elem(ring->ring, ret_event, sizeof(*ret_event)) == 0;
}
