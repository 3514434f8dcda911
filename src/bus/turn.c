/*
 * The turn: who may publish, and change what publishing looks at.
 *
 * With many publishers it is a spin lock that is released by a plain store. One who publishes
 * without a pause has it nearly always, so who has spun for it in vain says that he wants it:
 * publishers then queue at the mutex, which he holds. On a bus for one publisher, he pays for
 * neither lock nor fence: he says that he has the turn (`turn`), then looks whether somebody wants
 * it (`wanted`); who wants it holds the mutex, says so, and then looks whether he has it. One of
 * the two must see the other. What makes that true is a barrier between the store and the load on
 * both sides; the other side buys it for both with fan__barrier, which puts a full fence into every
 * running thread: a store before it is visible after it, and a load after it sees what was stored
 * here before. Where the kernel has no such barrier, both fence. He who finds it wanted queues at
 * the mutex.
 *
 * That no wake is lost follows: a reader that is about to sleep, or to clear its descriptor, says
 * so (it is `armed`) in the turn, after it saw in the same turn that there is nothing to read; a
 * publisher looks for armed readers in the same turn in which it made something readable. The one
 * that comes second sees the other. After that the futex word tells whether the wake was sent.
 */
#include "bus/turn.h"

#include "base/futex.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <unistd.h>

#define SPIN_COUNT 100

static void spin(unsigned *count)
{
    if (++*count % SPIN_COUNT == 0)
        sched_yield();
    else
        fan__spin_pause();
}

static void lock_word(atomic_uint *word)
{
    unsigned count = 0;
    /* acquire: sees all that the former holder did. */
    while (atomic_exchange_explicit(word, 1, memory_order_acquire) != 0) {
        /* relaxed: only to wait without a locked instruction. */
        while (atomic_load_explicit(word, memory_order_relaxed) != 0)
            spin(&count);
    }
}

static void unlock_word(atomic_uint *word)
{
    /* release: pairs with the acquire of the next holder. */
    atomic_store_explicit(word, 0, memory_order_release);
}

void fan__turn_await(struct fan_bus *bus)
{
    lock_word(&bus->turn);
}

void fan__turn_let_pass(struct fan_bus *bus)
{
    fan__mutex_lock(&bus->mutex);
    fan__mutex_unlock(&bus->mutex);
}

/* As lock_word, but publishers let it pass when it has spun for a while. */
static void lock_turn(struct fan_bus *bus)
{
    unsigned count = 0;
    /* acquire: sees all that the former holder did. */
    while (atomic_exchange_explicit(&bus->turn, 1, memory_order_acquire) != 0) {
        /* relaxed: only to wait without a locked instruction; and a request, no lock. */
        do {
            spin(&count);
            if (count == SPIN_COUNT)
                atomic_store_explicit(&bus->wanted, 1, memory_order_relaxed);
        } while (atomic_load_explicit(&bus->turn, memory_order_relaxed) != 0);
    }
    if (count >= SPIN_COUNT)
        atomic_store_explicit(&bus->wanted, 0, memory_order_relaxed);
}

void fan__turn_queue(struct fan_bus *bus)
{
    unlock_word(&bus->turn);
    fan__mutex_lock(&bus->mutex);
    /* relaxed: who wants it next takes the mutex after us. */
    atomic_store_explicit(&bus->turn, 1, memory_order_relaxed);
    fan__mutex_unlock(&bus->mutex);
}

/* With the mutex. */
static void seize(struct fan_bus *bus)
{
    if (!bus->single_publisher) {
        lock_turn(bus);
        return;
    }
    unsigned count = 0;
    /* relaxed: ordered by the barrier, or the seq_cst fence where there is none. */
    atomic_store_explicit(&bus->wanted, 1, memory_order_relaxed);
    if (bus->asymmetric)
        fan__barrier();
    else
        atomic_thread_fence(memory_order_seq_cst);
    /* acquire: sees all that the publisher did in his last turn. */
    while (atomic_load_explicit(&bus->turn, memory_order_acquire) != 0)
        spin(&count);
}

static void take_turn(struct fan_bus *bus)
{
    fan__mutex_lock(&bus->mutex);
    seize(bus);
}

/* Keeps the mutex. */
static void release(struct fan_bus *bus)
{
    if (bus->single_publisher)
        unlock_word(&bus->wanted);
    else
        unlock_word(&bus->turn);
}

static void give_turn_back(struct fan_bus *bus)
{
    release(bus);
    fan__mutex_unlock(&bus->mutex);
}

void fan__bus_await_wake(struct fan_subscription *subscription)
{
    struct fan_bus *bus = subscription->bus;
    while (subscription->waking) {
        release(bus);
        fan__cond_wait(&bus->wake_done, &bus->mutex);
        seize(bus);
    }
}

static void chain_add(struct fan_bus *bus, struct fan_subscription *subscription)
{
    lock_word(&bus->chain_lock);
    fan__link_join(&bus->chain, &subscription->chain_link);
    /* relaxed: who looks without the lock finds out with it. */
    atomic_fetch_add_explicit(&bus->chain_count, 1, memory_order_relaxed);
    unlock_word(&bus->chain_lock);
}

static void chain_leave(struct fan_bus *bus, struct fan_subscription *subscription)
{
    fan__link_leave(&subscription->chain_link);
    /* relaxed: as above. */
    atomic_fetch_sub_explicit(&bus->chain_count, 1, memory_order_relaxed);
    /* release: the sleeper that sees it sees what it is woken for. */
    atomic_store_explicit(&subscription->sleep_word, 0, memory_order_release);
}

/* Wakes the first in the chain; that one wakes the next. */
static void chain_wake(struct fan_bus *bus)
{
    atomic_uint *word = NULL;
    /* relaxed: who adds to the chain looks after that. */
    if (atomic_load_explicit(&bus->chain_count, memory_order_relaxed) == 0)
        return;
    lock_word(&bus->chain_lock);
    if (!fan__link_alone(&bus->chain)) {
        struct fan_subscription *first =
            FAN__HOLDER(bus->chain.next, struct fan_subscription, chain_link);
        chain_leave(bus, first);
        word = &first->sleep_word;
    }
    unlock_word(&bus->chain_lock);
    if (word)
        fan__futex_wake(word, 1);
}

void fan__chain_go_on(struct fan_subscription *subscription)
{
    struct fan_bus *bus = subscription->bus;
    lock_word(&bus->chain_lock);
    if (!fan__link_alone(&subscription->chain_link))
        chain_leave(bus, subscription);
    unlock_word(&bus->chain_lock);
    chain_wake(bus);
}

void fan__subscription_touch(struct fan_subscription *subscription)
{
    fan__link_join(&subscription->bus->touched, &subscription->armed_link);
}

static void set_descriptor(int descriptor)
{
    uint64_t value = 1;
    ssize_t done;
    do {
        done = write(descriptor, &value, sizeof(value));
    } while (done < 0 && errno == EINTR);
    assert(done == sizeof(value));
}

/* Tells one that turned readable. In the turn. */
static void tell(struct fan_subscription *subscription)
{
    struct fan_bus *bus = subscription->bus;
    /* relaxed: it is set in the turn. */
    if (atomic_load_explicit(&subscription->sleep_word, memory_order_relaxed) != 0)
        chain_add(bus, subscription);
    if (subscription->signalled)
        return;
    subscription->signalled = subscription->descriptor >= 0 || subscription->wake;
    if (subscription->descriptor >= 0)
        set_descriptor(subscription->descriptor);
    if (!subscription->wake)
        return;
    if (subscription->waking) {
        subscription->wake_again = true;
    } else {
        subscription->waking = true;
        subscription->woken_next = bus->woken;
        bus->woken = subscription;
    }
}

static struct fan_subscription *tell_touched(struct fan_bus *bus)
{
    while (!fan__link_alone(&bus->touched)) {
        struct fan_subscription *subscription =
            FAN__HOLDER(bus->touched.next, struct fan_subscription, armed_link);
        fan__link_leave(&subscription->armed_link);
        tell(subscription);
    }
    struct fan_subscription *woken = bus->woken;
    bus->woken = NULL;
    return woken;
}

/* Calls each wake once, and again for those that turned readable meanwhile. Without any lock. */
static void call_wakes(struct fan_bus *bus, struct fan_subscription *subscription)
{
    while (subscription) {
        /* Read first: nobody frees a subscription whose wake is due, but this one will not be. */
        struct fan_subscription *next = subscription->woken_next;
        subscription->wake(subscription->wake_context);
        take_turn(bus);
        while (subscription->wake_again) {
            subscription->wake_again = false;
            give_turn_back(bus);
            subscription->wake(subscription->wake_context);
            take_turn(bus);
        }
        subscription->waking = false;
        fan__cond_broadcast(&bus->wake_done);
        give_turn_back(bus);
        subscription = next;
    }
}

void fan__turn_tell(struct fan_bus *bus)
{
    struct fan_subscription *woken = tell_touched(bus);
    unlock_word(&bus->turn);
    chain_wake(bus);
    call_wakes(bus, woken);
}

void fan__bus_enter(struct fan_bus *bus)
{
    take_turn(bus);
    assert(fan__link_alone(&bus->touched) && !bus->woken);
}

void fan__bus_leave(struct fan_bus *bus)
{
    struct fan_subscription *woken = tell_touched(bus);
    give_turn_back(bus);
    chain_wake(bus);
    call_wakes(bus, woken);
}

void fan__bus_let_go(struct fan_bus *bus)
{
    assert(fan__link_alone(&bus->touched) && !bus->woken);
    give_turn_back(bus);
}

void fan__gate_wake(struct fan_bus *bus)
{
    /* release: the publisher that sees it move sees the room. */
    atomic_fetch_add_explicit(&bus->gate_word, 1, memory_order_release);
    fan__futex_wake(&bus->gate_word, INT_MAX);
}
