/* The publisher's turn, in the lines that every publish runs; see turn.c. */
#ifndef FAN_BUS_TURN_H
#define FAN_BUS_TURN_H

#include "bus/bus.h"

/* One publisher: queues at the mutex for the turn that somebody else wants. */
void fan__turn_queue(struct fan_bus *bus);

/* Many: waits until the turn is free, and takes it. */
void fan__turn_await(struct fan_bus *bus);

/* Leaves the turn, and tells those that turned readable in it. */
void fan__turn_tell(struct fan_bus *bus);

static inline void fan__handshake_fence(const struct fan_bus *bus)
{
    /*
     * seq_cst: a store before a load. The compiler keeps the order; the other side sees to the
     * processor.
     */
    if (bus->asymmetric)
        atomic_signal_fence(memory_order_seq_cst);
    else
        atomic_thread_fence(memory_order_seq_cst);
}

/* Many: waits until somebody who spins for the turn in vain has had it. */
void fan__turn_let_pass(struct fan_bus *bus);

static inline void fan__turn_enter(struct fan_bus *bus)
{
    if (!bus->single_publisher) {
        /* acquire: sees all that the former holder did. */
        if (atomic_exchange_explicit(&bus->turn, 1, memory_order_acquire) != 0)
            fan__turn_await(bus);
        return;
    }
    /* relaxed: the fence and the acquire below order what matters. */
    atomic_store_explicit(&bus->turn, 1, memory_order_relaxed);
    fan__handshake_fence(bus);
    /* acquire: who reads the 0 of a former holder sees what that one did. */
    if (atomic_load_explicit(&bus->wanted, memory_order_acquire) != 0)
        fan__turn_queue(bus);
}

/* Tells the readers that something is there. */
static inline void fan__turn_leave(struct fan_bus *bus)
{
    /* relaxed: a request, looked at while the line is ours. */
    bool wanted = atomic_load_explicit(&bus->wanted, memory_order_relaxed) != 0;
    if (!fan__link_alone(&bus->touched))
        fan__turn_tell(bus);
    else /* release: pairs with the acquire of the next holder */
        atomic_store_explicit(&bus->turn, 0, memory_order_release);
    if (wanted && !bus->single_publisher)
        fan__turn_let_pass(bus);
}

#endif
