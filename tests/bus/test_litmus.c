/*
 * Litmus tests of what the bus relies on and no model or sanitizer sees: that a store and the load
 * behind it, on two sides that do so at once, are not both passed by each other, when one side pays
 * for the fence of both (fan__barrier), and when each has its own; and that a slot which is
 * overwritten while it is copied is known for that. FANFARE_SOAK runs more of them.
 */
#include "../seed.h"
#include "bus_test.h"

#include "base/futex.h"
#include "base/thread.h"
#include "bus/slot.h"
#include "bus/turn.h"

#include <sched.h>

#define BARRIER_COUNT 20000
#define FENCE_COUNT 2000000
#define SEIZE_COUNT 6000
#define YIELD_COUNT 2000

static uint64_t times(uint64_t count)
{
    return test_is_soak() ? 20 * count : count;
}

/*
 * Store buffering without end: the one side stores x = 1, 2, ... and loads y behind each, the other
 * stores y = 1 to `count` and loads x behind each. When the other, behind y = m, saw x = n, then a
 * store of x above n came later, and the load behind it must have seen m or more.
 */
struct buffering {
    struct fan__thread thread;
    char before_x[FAN__LINE_SIZE];
    atomic_uint_least64_t x;
    char before_y[FAN__LINE_SIZE];
    atomic_uint_least64_t y;
    char after_y[FAN__LINE_SIZE];
    bool fenced;
    uint64_t count;
    uint64_t *last; /* for each y: the last x behind which it was seen */
};

static void store_and_load(void *context)
{
    struct buffering *buffering = context;
    uint64_t seen = 0;
    for (uint64_t n = 1; seen < buffering->count; n++) {
        /* relaxed, here and below: the fences are what is tested. */
        atomic_store_explicit(&buffering->x, n, memory_order_relaxed);
        if (buffering->fenced)
            atomic_thread_fence(memory_order_seq_cst);
        else
            atomic_signal_fence(memory_order_seq_cst);
        seen = atomic_load_explicit(&buffering->y, memory_order_relaxed);
        buffering->last[seen] = n;
    }
}

/* Runs both sides; gives how often each passed the other. */
static uint64_t run_buffering(uint64_t count, bool fenced, bool by_barrier)
{
    struct buffering buffering = { .fenced = fenced, .count = count };
    uint64_t *seen = calloc(count + 1, sizeof(*seen));
    uint64_t passed = 0;
    buffering.last = calloc(count + 1, sizeof(*buffering.last));
    assert_true(seen && buffering.last);
    assert_ok(fan__thread_start(&buffering.thread, "litmus", store_and_load, &buffering));
    while (atomic_load(&buffering.x) == 0)
        sched_yield();
    for (uint64_t m = 1; m <= count; m++) {
        atomic_store_explicit(&buffering.y, m, memory_order_relaxed);
        if (by_barrier)
            fan__barrier();
        else
            atomic_thread_fence(memory_order_seq_cst);
        seen[m] = atomic_load_explicit(&buffering.x, memory_order_relaxed);
    }
    fan__thread_join(&buffering.thread);
    uint64_t last = 0;
    for (uint64_t m = 1; m <= count; m++) {
        last = buffering.last[m - 1] > last ? buffering.last[m - 1] : last;
        passed += last > seen[m];
    }
    free(buffering.last);
    free(seen);
    return passed;
}

static void test_a_barrier_is_paid_for_by_one_side(void **state)
{
    (void)state;
    if (!fan__barrier_init())
        skip();
    assert_int_equal(run_buffering(times(BARRIER_COUNT), false, true), 0);
}

static void test_a_fence_on_each_side_does_the_same(void **state)
{
    (void)state;
    assert_int_equal(run_buffering(times(FENCE_COUNT), true, false), 0);
}

/* Two in the turn at once would find each other's mark, or lose an addition. */
struct shared {
    struct fan__thread publisher;
    struct fan__thread others[2];
    struct fan_bus *bus;
    atomic_uint running;
    uint64_t sum;       /* in the turn */
    atomic_uint inside; /* and who is in it */
    atomic_uint met;
    atomic_uint_least64_t published;
};

/* Now long, now short, so that others are met at each point. */
static void pause_for(uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        fan__spin_pause();
}

static void stay(struct shared *shared, unsigned me, uint64_t round)
{
    shared->sum++;
    /* relaxed: one alone finds what it stored. */
    atomic_store_explicit(&shared->inside, me, memory_order_relaxed);
    pause_for(round % 16);
    if (atomic_load_explicit(&shared->inside, memory_order_relaxed) != me)
        atomic_fetch_add_explicit(&shared->met, 1, memory_order_relaxed);
}

static void publish_turns(void *context)
{
    struct shared *shared = context;
    uint64_t round = 0;
    while (atomic_load_explicit(&shared->running, memory_order_relaxed) > 0) {
        fan__turn_enter(shared->bus);
        stay(shared, 1, round);
        fan__turn_leave(shared->bus);
        /* Else the turn is free for so short a time that nobody comes in between. */
        pause_for(round++ % 32);
        /* relaxed: it tells that he runs. */
        atomic_store_explicit(&shared->published, round, memory_order_relaxed);
    }
}

/*
 * Until he is seen to run beside us: two that run in turn do not meet. On a machine that has no
 * processor for both, so many looks in all are enough.
 */
static void await_publisher(struct shared *shared, unsigned *yields_left)
{
    /* relaxed: it tells that he runs. */
    uint64_t before = atomic_load_explicit(&shared->published, memory_order_relaxed);
    for (unsigned i = 1; atomic_load_explicit(&shared->published, memory_order_relaxed) == before;
         i++) {
        if (i % 4096 != 0)
            continue;
        if (*yields_left == 0)
            return;
        --*yields_left;
        sched_yield();
        before = atomic_load_explicit(&shared->published, memory_order_relaxed);
    }
}

static void seize_turns(void *context)
{
    struct shared *shared = context;
    unsigned yields_left = YIELD_COUNT;
    for (uint64_t i = 0; i < times(SEIZE_COUNT); i++) {
        await_publisher(shared, &yields_left);
        fan__bus_enter(shared->bus);
        stay(shared, 2, i);
        fan__bus_leave(shared->bus);
    }
    atomic_fetch_sub(&shared->running, 1);
}

static void run_turns(bool asymmetric)
{
    struct fan_bus_options options = FAN_BUS_OPTIONS_INIT;
    options.single_publisher = true;
    struct shared shared = { .bus = open_with(&options), .running = 2 };
    if (asymmetric && !shared.bus->asymmetric) {
        fan_bus_free(shared.bus);
        skip();
    }
    shared.bus->asymmetric = asymmetric;
    assert_ok(fan__thread_start(&shared.publisher, "publisher", publish_turns, &shared));
    for (size_t i = 0; i < 2; i++)
        assert_ok(fan__thread_start(&shared.others[i], "other", seize_turns, &shared));
    for (size_t i = 0; i < 2; i++)
        fan__thread_join(&shared.others[i]);
    fan__thread_join(&shared.publisher);
    assert_int_equal(shared.met, 0);
    assert_int_equal(shared.sum, shared.published + 2 * times(SEIZE_COUNT));
    fan_bus_free(shared.bus);
}

static void test_one_at_a_time_has_the_turn_by_barriers(void **state)
{
    (void)state;
    run_turns(true);
}

static void test_one_at_a_time_has_the_turn_by_fences(void **state)
{
    (void)state;
    run_turns(false);
}

/* One slot, written for one position after the other, while another thread copies it. */
struct rewriting {
    struct fan__thread thread;
    const struct fan__lane *lane;
    atomic_uint_least64_t round; /* its position is so many times the capacity */
    atomic_bool over;
};

enum { IMAGE_WORDS = 11 }; /* what a slot has room for */

static void rewrite(void *context)
{
    struct rewriting *rewriting = context;
    uint64_t words[IMAGE_WORDS];
    struct fan__image image = { .payload = (const char *)words, .payload_words = IMAGE_WORDS };
    image.sizes = fan__image_sizes(sizeof(words), 0);
    for (uint64_t round = 1; !atomic_load_explicit(&rewriting->over, memory_order_relaxed);
         round++) {
        for (size_t i = 0; i < IMAGE_WORDS; i++)
            words[i] = round;
        fan__slot_write(rewriting->lane, round * rewriting->lane->capacity, &image, round, 0);
        atomic_store_explicit(&rewriting->round, round, memory_order_relaxed);
        pause_for(round % 16);
    }
}

static bool is_all(const struct fan_message *message, uint64_t number)
{
    const uint64_t *words = (const uint64_t *)(const void *)message->payload.data;
    bool same = message->seq == number && message->payload.size == IMAGE_WORDS * sizeof(*words);
    for (size_t i = 0; same && i < IMAGE_WORDS; i++)
        same = words[i] == number;
    return same;
}

static void test_a_slot_that_is_overwritten_is_not_read(void **state)
{
    (void)state;
    struct fan_bus *bus = open_bus();
    struct fan_subscription *subscription = subscribe(bus, FAN_POLICY_DROP_OLDEST, 1);
    struct rewriting rewriting = { .lane = subscription->lane };
    bus->touch = true;
    uint64_t wrong = 0;
    atomic_init(&rewriting.over, false);
    atomic_init(&rewriting.round, 0);
    publish(bus, NULL, "a"); /* what nobody has written has no stamp */
    assert_ok(fan__thread_start(&rewriting.thread, "writer", rewrite, &rewriting));
    for (uint64_t whole = 0, refused = 0; whole < times(20000) || refused < times(20000);) {
        uint64_t round = atomic_load_explicit(&rewriting.round, memory_order_relaxed);
        size_t count = fan__slots_read(rewriting.lane, round * rewriting.lane->capacity, 1,
                                       subscription->lent_one,
                                       (uint64_t *)(void *)(subscription->lent_one + 1));
        whole += count;
        refused += count == 0;
        wrong += count > 0 && round > 0 && !is_all(&subscription->lent_one->message, round);
    }
    atomic_store(&rewriting.over, true);
    fan__thread_join(&rewriting.thread);
    assert_int_equal(wrong, 0);
    fan_subscription_free(subscription);
    fan_bus_free(bus);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_barrier_is_paid_for_by_one_side),
        cmocka_unit_test(test_a_fence_on_each_side_does_the_same),
        cmocka_unit_test(test_one_at_a_time_has_the_turn_by_barriers),
        cmocka_unit_test(test_one_at_a_time_has_the_turn_by_fences),
        cmocka_unit_test(test_a_slot_that_is_overwritten_is_not_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
