/*
 * The bus with many threads. Threads note what they saw in their own struct, the test's thread
 * looks at it after they have ended. A soak multiplies the counts.
 */
#include "../seed.h"
#include "bus_test.h"

#include "base/thread.h"
#include "bus/bus.h"
#include "bus/notify.h"

#include <sched.h>
#include <semaphore.h>

static size_t factor(void)
{
    return test_is_soak() ? 10 : 1;
}

struct reader {
    struct fan__thread thread;
    struct fan_subscription *subscription;
    bool by_descriptor;
    size_t batch; /* 0: one at a time */
    uint64_t last;
    uint64_t delivered;
    uint64_t told;
    uint64_t payload_sum;
    bool disordered;
    enum fan_status end;
};

static void note_message(struct reader *reader, const struct fan_message *message)
{
    uint64_t payload;
    memcpy(&payload, message->payload.data, sizeof(payload));
    reader->disordered |= message->seq <= reader->last;
    reader->last = message->seq;
    reader->delivered++;
    reader->payload_sum += payload;
}

static void note_gap_of(struct reader *reader)
{
    struct fan_gap gap;
    fan_subscription_gap(reader->subscription, &gap);
    reader->disordered |= gap.after < reader->last || gap.before <= gap.after + gap.count;
    reader->last = gap.before - 1;
    reader->told += gap.count;
}

static enum fan_status read_some(struct reader *reader, uint32_t timeout_ms)
{
    const struct fan_message *message;
    const struct fan_message *many[32];
    size_t count = 0;
    if (reader->batch == 0) {
        enum fan_status status = fan_subscription_next(reader->subscription, timeout_ms, &message);
        if (status == FAN_OK)
            note_message(reader, message);
        return status;
    }
    enum fan_status status =
        fan_subscription_next_many(reader->subscription, timeout_ms, many, reader->batch, &count);
    for (size_t i = 0; i < count; i++)
        note_message(reader, many[i]);
    return status;
}

/* Reads to the end; no wait has a time limit, so a wake that is lost hangs the test. */
static void read_to_the_end(void *context)
{
    struct reader *reader = context;
    int descriptor = -1;
    if (reader->by_descriptor && fan_subscription_fd(reader->subscription, &descriptor) != FAN_OK)
        return;
    for (;;) {
        if (descriptor >= 0) {
            struct pollfd one = { .fd = descriptor, .events = POLLIN };
            poll(&one, 1, -1);
        }
        enum fan_status status = read_some(reader, descriptor >= 0 ? 0 : FAN_TIMEOUT_FOREVER);
        if (status == FAN_GAP)
            note_gap_of(reader);
        else if (status != FAN_OK) {
            reader->end = status;
            return;
        }
    }
}

struct writer {
    struct fan__thread thread;
    struct fan_bus *bus;
    uint64_t count;
    size_t batch; /* 0: one at a time */
    uint64_t published;
    uint64_t payload_sum;
    bool disordered;
    enum fan_status status;
};

static void write_one_by_one(struct writer *writer)
{
    uint64_t last = 0;
    for (uint64_t i = 0; i < writer->count && writer->status == FAN_OK; i++) {
        struct fan_message message = message_of("t", "a.b", NULL);
        message.payload = (struct fan_str){ (const char *)&i, sizeof(i) };
        uint64_t seq = 0;
        writer->status = fan_bus_publish(writer->bus, &message, &seq);
        if (writer->status != FAN_OK)
            return;
        writer->disordered |= seq <= last;
        last = seq;
        writer->published++;
        writer->payload_sum += i;
    }
}

static void write_all(void *context)
{
    struct writer *writer = context;
    if (writer->batch == 0) {
        write_one_by_one(writer);
        return;
    }
    struct fan_message batch[16];
    uint64_t payload = (uintptr_t)writer;
    for (size_t i = 0; i < writer->batch; i++) {
        batch[i] = message_of("t", "a.b", NULL);
        batch[i].payload = (struct fan_str){ (const char *)&payload, sizeof(payload) };
    }
    for (uint64_t i = 0; i < writer->count && writer->status == FAN_OK; i++) {
        size_t count = 0;
        writer->status = fan_bus_publish_many(writer->bus, batch, writer->batch, &count);
        writer->published += count;
        writer->payload_sum += count * payload;
    }
}

static void start_reader(struct reader *reader)
{
    assert_ok(fan__thread_start(&reader->thread, "reader", read_to_the_end, reader));
}

static void start_writer(struct writer *writer)
{
    assert_ok(fan__thread_start(&writer->thread, "writer", write_all, writer));
}

/* Runs writers against readers that read until the bus is closed behind the last publish. */
static void run(struct fan_bus *bus, struct reader *readers, size_t reader_count,
                struct writer *writers, size_t writer_count)
{
    for (size_t i = 0; i < reader_count; i++)
        start_reader(&readers[i]);
    for (size_t i = 0; i < writer_count; i++)
        start_writer(&writers[i]);
    for (size_t i = 0; i < writer_count; i++) {
        fan__thread_join(&writers[i].thread);
        assert_ok(writers[i].status);
        assert_false(writers[i].disordered);
    }
    fan_bus_close(bus);
    for (size_t i = 0; i < reader_count; i++) {
        fan__thread_join(&readers[i].thread);
        assert_int_equal(readers[i].end, FAN_CLOSED);
        assert_false(readers[i].disordered);
        struct fan_subscription_counters counters = counters_of(readers[i].subscription);
        assert_true(adds_up(&counters));
        assert_int_equal(counters.delivered, readers[i].delivered);
        assert_int_equal(counters.dropped, readers[i].told);
        assert_int_equal(counters.queued, 0);
    }
    assert_true(bus_adds_up(bus));
}

static void test_B04_L2_four_publishers_ten_subscribers(void **state)
{
    (void)state;
    struct fan_bus *bus = open_bus();
    struct reader readers[10] = { 0 };
    struct writer writers[4] = { 0 };
    for (size_t i = 0; i < 10; i++) {
        readers[i].subscription = subscribe(bus, FAN_POLICY_DROP_NEWEST, 4000);
        readers[i].by_descriptor = i % 4 == 3;
        readers[i].batch = i % 3 * 7;
    }
    uint64_t sum = 0;
    for (size_t i = 0; i < 4; i++)
        writers[i] = (struct writer){ .bus = bus, .count = 1000 };
    run(bus, readers, 10, writers, 4);
    for (size_t i = 0; i < 4; i++)
        sum += writers[i].payload_sum;
    for (size_t i = 0; i < 10; i++) {
        assert_int_equal(readers[i].delivered, 4000);
        assert_int_equal(readers[i].told, 0);
        assert_int_equal(readers[i].payload_sum, sum);
        fan_subscription_free(readers[i].subscription);
    }
    assert_int_equal(bus_counters_of(bus).delivered, 40000);
    fan_bus_free(bus);
}

static void test_B26_a_hundred_threads_publish_ten_each(void **state)
{
    (void)state;
    static struct writer writers[100];
    struct reader readers[10] = { 0 };
    struct fan_bus *bus = open_bus();
    for (size_t i = 0; i < 10; i++)
        readers[i].subscription = subscribe(bus, FAN_POLICY_DEFAULT, 0);
    for (size_t i = 0; i < 100; i++)
        writers[i] = (struct writer){ .bus = bus, .count = 10 };
    run(bus, readers, 10, writers, 100);
    for (size_t i = 0; i < 10; i++) {
        assert_int_equal(readers[i].delivered, 1000);
        fan_subscription_free(readers[i].subscription);
    }
    fan_bus_free(bus);
}

static void test_L3_L4_small_buffers_account_for_everything(void **state)
{
    (void)state;
    static const enum fan_policy policies[] = { FAN_POLICY_DROP_NEWEST, FAN_POLICY_DROP_OLDEST,
                                                FAN_POLICY_LATEST };
    struct fan_bus *bus = open_bus();
    struct reader readers[6] = { 0 };
    struct writer writers[3] = { 0 };
    for (size_t i = 0; i < 6; i++) {
        readers[i].subscription = subscribe(bus, policies[i % 3], 1 + i);
        readers[i].by_descriptor = i >= 4;
        readers[i].batch = i % 2 * 4;
    }
    uint64_t count = 4800 * factor();
    for (size_t i = 0; i < 3; i++)
        writers[i] = (struct writer){ .bus = bus, .count = count };
    /* One of them in runs of sixteen. */
    writers[2].batch = 16;
    writers[2].count /= 16;
    run(bus, readers, 6, writers, 3);
    for (size_t i = 0; i < 6; i++) {
        struct fan_subscription_counters counters = counters_of(readers[i].subscription);
        assert_int_equal(counters.matched, 3 * count);
        assert_int_equal(counters.delivered + counters.dropped + counters.conflated, 3 * count);
        fan_subscription_free(readers[i].subscription);
    }
    fan_bus_free(bus);
}

static void test_B18_block_loses_nothing(void **state)
{
    (void)state;
    struct fan_bus *bus = open_blocking(FAN_TIMEOUT_FOREVER);
    struct reader readers[3] = { 0 };
    struct writer writers[3] = { 0 };
    for (size_t i = 0; i < 3; i++) {
        readers[i].subscription = subscribe(bus, FAN_POLICY_BLOCK, 1 + i * 4);
        readers[i].by_descriptor = i == 2;
        writers[i] = (struct writer){ .bus = bus, .count = 700 };
    }
    run(bus, readers, 3, writers, 3);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(readers[i].delivered, 2100);
        assert_int_equal(readers[i].told, 0);
        fan_subscription_free(readers[i].subscription);
    }
    fan_bus_free(bus);
}

enum { LARGE_WORDS = 2048 };

/* Reads 16 KiB messages in place, and looks at the former ones again before it gives them back. */
struct looker {
    struct fan__thread thread;
    struct fan_subscription *subscription;
    uint64_t delivered;
    uint64_t told;
    uint64_t wrong;
};

static bool is_whole(const struct fan_message *message, size_t word_count)
{
    const uint64_t *words = (const void *)message->payload.data;
    uint64_t differ = message->payload.size ^ (word_count * sizeof(*words));
    for (size_t i = 0; i < word_count; i++)
        differ |= words[i] ^ message->seq;
    return differ == 0;
}

static void look(void *context)
{
    struct looker *looker = context;
    const struct fan_message *messages[8];
    size_t count = 0;
    for (;;) {
        for (size_t i = 0; i < count; i++)
            looker->wrong += !is_whole(messages[i], LARGE_WORDS);
        count = 0;
        enum fan_status status = fan_subscription_next_many(
            looker->subscription, FAN_TIMEOUT_FOREVER, messages, 8, &count);
        if (status == FAN_CLOSED)
            return;
        if (status == FAN_GAP) {
            struct fan_gap gap;
            fan_subscription_gap(looker->subscription, &gap);
            looker->told += gap.count;
        }
        for (size_t i = 0; i < count; i++)
            looker->wrong += !is_whole(messages[i], LARGE_WORDS);
        looker->delivered += count;
    }
}

static void test_L12_L11_no_large_message_is_used_again_under_its_readers(void **state)
{
    (void)state;
    static const enum fan_policy policies[] = { FAN_POLICY_BLOCK, FAN_POLICY_BLOCK,
                                                FAN_POLICY_DROP_NEWEST, FAN_POLICY_DROP_OLDEST,
                                                FAN_POLICY_LATEST };
    enum { COUNT = sizeof(policies) / sizeof(policies[0]) };
    static uint64_t words[LARGE_WORDS];
    struct test_memory memory;
    struct fan_bus_options options = FAN_BUS_OPTIONS_INIT;
    test_memory_init(&memory);
    options.env = &memory.env;
    options.block_timeout_ms = FAN_TIMEOUT_FOREVER;
    struct fan_bus *bus = open_with(&options);
    struct looker lookers[COUNT] = { 0 };
    for (size_t i = 0; i < COUNT; i++) {
        lookers[i].subscription = subscribe(bus, policies[i], i % 2 ? 12 : 120);
        assert_ok(fan__thread_start(&lookers[i].thread, "looker", look, &lookers[i]));
    }
    uint64_t published = 2000 * factor();
    for (uint64_t seq = 1; seq <= published; seq++) {
        struct fan_message message = message_of(NULL, "a", NULL);
        for (size_t i = 0; i < LARGE_WORDS; i++)
            words[i] = seq;
        message.payload = (struct fan_str){ (const char *)words, sizeof(words) };
        assert_ok(fan_bus_publish(bus, &message, NULL));
    }
    fan_bus_close(bus);
    for (size_t i = 0; i < COUNT; i++) {
        fan__thread_join(&lookers[i].thread);
        struct fan_subscription_counters counters = counters_of(lookers[i].subscription);
        assert_int_equal(lookers[i].wrong, 0);
        assert_true(adds_up(&counters));
        assert_int_equal(counters.delivered, lookers[i].delivered);
        assert_int_equal(counters.dropped, lookers[i].told);
        assert_int_equal(counters.matched, published);
        if (policies[i] == FAN_POLICY_BLOCK)
            assert_int_equal(lookers[i].delivered, published);
        fan_subscription_free(lookers[i].subscription);
    }
    assert_int_equal(bus->held_size, 0);
    fan_bus_free(bus);
    assert_int_equal(atomic_load(&memory.blocks), 0);
}

enum { SMALL_WORDS = 9, HOLD_COUNT = 300 };

/* What those share who publish, read in the ring, and end one another. */
struct shared_ring {
    struct fan_bus *bus;
    atomic_uint_least64_t published;
    atomic_uint_least64_t held; /* batches, while the ring was written once and again */
    atomic_bool over;
};

struct holder {
    struct fan__thread thread;
    struct shared_ring *ring;
    struct fan__mutex lock;
    struct fan_subscription *subscription; /* covered by it, for the others */
    uint64_t delivered;
    uint64_t wrong;
};

/* One that has ended holds nobody up, so it may look on until its slots were due. */
static void hold(struct holder *holder)
{
    struct shared_ring *ring = holder->ring;
    if (atomic_load(&holder->subscription->limit) == FAN__NO_LIMIT)
        return;
    uint64_t until = atomic_load(&ring->published) + HOLD_COUNT;
    while (atomic_load(&ring->published) < until && !atomic_load(&ring->over))
        sched_yield();
    atomic_fetch_add(&ring->held, 1);
}

static void read_and_hold(struct holder *holder)
{
    const struct fan_message *messages[16];
    size_t count = 0;
    while (fan_subscription_next_many(holder->subscription, FAN_TIMEOUT_FOREVER, messages, 16,
                                      &count) == FAN_OK) {
        for (size_t i = 0; i < count; i++)
            holder->wrong += !is_whole(messages[i], SMALL_WORDS);
        hold(holder);
        for (size_t i = 0; i < count; i++)
            holder->wrong += !is_whole(messages[i], SMALL_WORDS);
        holder->delivered += count;
    }
}

static void subscribe_and_hold(void *context)
{
    struct holder *holder = context;
    struct fan_subscription_options options = { .size = FAN_SUBSCRIPTION_OPTIONS_SIZE,
                                                .policy = FAN_POLICY_BLOCK,
                                                .buffer_count = 16 };
    struct fan_subscription *subscription;
    while (fan_bus_subscribe(holder->ring->bus, &options, &subscription, NULL) == FAN_OK) {
        fan__mutex_lock(&holder->lock);
        holder->subscription = subscription;
        fan__mutex_unlock(&holder->lock);
        read_and_hold(holder);
        fan__mutex_lock(&holder->lock);
        holder->subscription = NULL;
        fan__mutex_unlock(&holder->lock);
        fan_subscription_free(subscription);
    }
}

static void publish_words(struct shared_ring *ring, uint64_t number)
{
    uint64_t words[SMALL_WORDS];
    struct fan_message message = message_of(NULL, "a", NULL);
    for (size_t i = 0; i < SMALL_WORDS; i++)
        words[i] = number;
    message.payload = (struct fan_str){ (const char *)words, sizeof(words) };
    assert_ok(fan_bus_publish(ring->bus, &message, NULL));
    atomic_fetch_add(&ring->published, 1);
}

static void end_one(struct holder *holder, uint64_t number)
{
    fan__mutex_lock(&holder->lock);
    if (holder->subscription && number % 3 == 0)
        fan_subscription_unsubscribe(holder->subscription);
    else if (holder->subscription)
        fan_subscription_cancel(holder->subscription);
    fan__mutex_unlock(&holder->lock);
}

static void test_L5_B19_what_is_lent_stays_while_others_end_it(void **state)
{
    (void)state;
    enum { COUNT = 4 };
    struct fan_bus_options options = FAN_BUS_OPTIONS_INIT;
    options.block_timeout_ms = FAN_TIMEOUT_FOREVER;
    struct shared_ring ring = { .bus = open_with(&options) };
    struct holder holders[COUNT] = { 0 };
    uint64_t wrong = 0;
    for (size_t i = 0; i < COUNT; i++) {
        holders[i].ring = &ring;
        fan__mutex_init(&holders[i].lock);
        assert_ok(fan__thread_start(&holders[i].thread, "holder", subscribe_and_hold, &holders[i]));
    }
    for (uint64_t number = 1; atomic_load(&ring.held) < 100 * factor(); number++) {
        publish_words(&ring, number);
        if (number % 100 == 0)
            end_one(&holders[number / 100 % COUNT], number);
    }
    atomic_store(&ring.over, true);
    fan_bus_close(ring.bus);
    for (size_t i = 0; i < COUNT; i++) {
        fan__thread_join(&holders[i].thread);
        fan__mutex_deinit(&holders[i].lock);
        wrong += holders[i].wrong;
    }
    assert_int_equal(wrong, 0);
    assert_true(bus_adds_up(ring.bus));
    fan_bus_free(ring.bus);
}

/* Each batch must arrive in one piece, also where the gate was shut in the middle of it. */
static void test_a_batch_is_not_cut_by_another_publisher(void **state)
{
    (void)state;
    struct fan_bus *bus = open_blocking(FAN_TIMEOUT_FOREVER);
    struct fan_subscription *subscription = subscribe(bus, FAN_POLICY_BLOCK, 3);
    struct writer writers[3] = { 0 };
    for (size_t i = 0; i < 3; i++) {
        writers[i] = (struct writer){ .bus = bus, .count = 100, .batch = 5 };
        start_writer(&writers[i]);
    }
    for (int i = 0; i < 300; i++) {
        uint64_t first = 0;
        for (int k = 0; k < 5; k++) {
            const struct fan_message *message;
            uint64_t payload;
            assert_ok(fan_subscription_next(subscription, FAN_TIMEOUT_FOREVER, &message));
            memcpy(&payload, message->payload.data, sizeof(payload));
            first = k == 0 ? payload : first;
            assert_int_equal(payload, first);
        }
    }
    for (size_t i = 0; i < 3; i++) {
        fan__thread_join(&writers[i].thread);
        assert_ok(writers[i].status);
        assert_int_equal(writers[i].published, 500);
    }
    expect_status(subscription, FAN_AGAIN);
    fan_subscription_free(subscription);
    fan_bus_free(bus);
}

/* Each side sleeps until the other has answered: one lost wake and it hangs. */
struct echo {
    struct fan__thread thread;
    struct fan_bus *to;
    struct reader reader;
};

static void echo_run(void *context)
{
    struct echo *echo = context;
    while (read_some(&echo->reader, FAN_TIMEOUT_FOREVER) == FAN_OK) {
        struct fan_message message = message_of("t", "a", NULL);
        message.payload = (struct fan_str){ (const char *)&echo->reader.last, sizeof(uint64_t) };
        if (fan_bus_publish(echo->to, &message, NULL) != FAN_OK)
            return;
    }
}

static void test_B19_no_wake_is_lost(void **state)
{
    (void)state;
    for (unsigned yield_us = 0; yield_us <= 50; yield_us += 25) {
        struct fan_subscription_options options = { .size = FAN_SUBSCRIPTION_OPTIONS_SIZE,
                                                    .buffer_count = 1,
                                                    .yield_us = yield_us };
        struct fan_bus *there = open_bus();
        struct fan_bus *back = open_bus();
        struct echo echo = { .to = back, .reader.subscription = subscribe_with(there, &options) };
        struct reader reader = { .subscription = subscribe_with(back, &options) };
        assert_ok(fan__thread_start(&echo.thread, "echo", echo_run, &echo));
        for (uint64_t i = 1; i <= 3000 * factor(); i++) {
            struct fan_message message = message_of("t", "a", NULL);
            message.payload = (struct fan_str){ (const char *)&i, sizeof(i) };
            assert_ok(fan_bus_publish(there, &message, NULL));
            assert_ok(read_some(&reader, FAN_TIMEOUT_FOREVER));
            assert_int_equal(reader.last, i);
        }
        fan_bus_close(there);
        fan__thread_join(&echo.thread);
        fan_subscription_free(echo.reader.subscription);
        fan_subscription_free(reader.subscription);
        fan_bus_free(there);
        fan_bus_free(back);
    }
}

static void publish_number(struct fan_bus *bus)
{
    uint64_t number = 1;
    struct fan_message message = message_of("t", "a.b", NULL);
    message.payload = (struct fan_str){ (const char *)&number, sizeof(number) };
    assert_ok(fan_bus_publish(bus, &message, NULL));
}

struct ender {
    struct fan__thread thread;
    struct fan_subscription *subscription;
    struct fan_bus *bus;
    struct fan_cancel *cancel;
    pthread_barrier_t *barrier;
    int how;
};

static void end_it(void *context)
{
    struct ender *ender = context;
    pthread_barrier_wait(ender->barrier);
    switch (ender->how) {
    case 0:
        fan_subscription_unsubscribe(ender->subscription);
        break;
    case 1:
        fan_subscription_cancel(ender->subscription);
        break;
    case 2:
        fan_bus_close(ender->bus);
        break;
    default:
        fan_cancel_fire(ender->cancel);
        break;
    }
}

static void test_L5_every_end_from_any_thread_ends_once(void **state)
{
    (void)state;
    for (unsigned which = 1; which < 16 * 4; which++) {
        struct fan_bus *bus = open_bus();
        struct fan_cancel *cancel;
        assert_ok(fan_cancel_new(NULL, &cancel));
        struct fan_subscription_options options = { .size = FAN_SUBSCRIPTION_OPTIONS_SIZE,
                                                    .cancel = cancel };
        struct reader reader = { .subscription = subscribe_with(bus, &options),
                                 .by_descriptor = which % 2 == 0 };
        struct ender enders[4];
        unsigned chosen = which % 16;
        pthread_barrier_t barrier;
        pthread_barrier_init(&barrier, NULL, (unsigned)__builtin_popcount(chosen) + 1);
        start_reader(&reader);
        publish_number(bus);
        for (int how = 0; how < 4; how++) {
            enders[how] = (struct ender){ .subscription = reader.subscription,
                                          .bus = bus,
                                          .cancel = cancel,
                                          .barrier = &barrier,
                                          .how = how };
            if (chosen & 1u << how)
                assert_ok(fan__thread_start(&enders[how].thread, "ender", end_it, &enders[how]));
        }
        pthread_barrier_wait(&barrier);
        for (int how = 0; how < 4; how++)
            fan__thread_join(&enders[how].thread);
        if (chosen == 0)
            fan_bus_close(bus);
        fan__thread_join(&reader.thread);
        assert_int_equal(reader.end, FAN_CLOSED);
        expect_status(reader.subscription, FAN_CLOSED);
        struct fan_subscription_counters counters = counters_of(reader.subscription);
        assert_int_equal(counters.matched, 1);
        assert_int_equal(counters.delivered + counters.discarded, 1);
        fan_subscription_free(reader.subscription);
        fan_cancel_unref(cancel);
        fan_bus_free(bus);
        pthread_barrier_destroy(&barrier);
    }
}

struct churner {
    struct fan__thread thread;
    struct fan_bus *bus;
    struct fan_cancel *cancel;
    unsigned number;
    uint64_t rounds;
    uint64_t ended;
    bool wrong;
};

/* Subscribes, reads a little, ends in one of several ways, reads to the end, frees; again. */
static void churn(void *context)
{
    struct churner *churner = context;
    for (;;) {
        unsigned way = (unsigned)(churner->rounds + churner->number) % 6;
        struct fan_subscription_options options = { .size = FAN_SUBSCRIPTION_OPTIONS_SIZE,
                                                    .topic = way % 2 ? "t" : NULL,
                                                    .pattern = way % 3 ? "a.*" : NULL,
                                                    .buffer_count = 1 + way,
                                                    .policy = (enum fan_policy)(1 + way % 3),
                                                    .cancel = way == 1 ? churner->cancel : NULL };
        struct fan_subscription *subscription;
        enum fan_status status = fan_bus_subscribe(churner->bus, &options, &subscription, NULL);
        if (status != FAN_OK) {
            churner->wrong |= status != FAN_CLOSED;
            return;
        }
        churner->rounds++;
        struct reader reader = { .subscription = subscription };
        if (way > 3)
            churner->wrong |= read_some(&reader, 1) == FAN_TIMED_OUT;
        if (way % 2)
            fan_subscription_cancel(subscription);
        else
            fan_subscription_unsubscribe(subscription);
        read_to_the_end(&reader);
        churner->wrong |= reader.disordered;
        churner->ended += reader.end == FAN_CLOSED;
        struct fan_subscription_counters counters = counters_of(subscription);
        churner->wrong |= !adds_up(&counters) || counters.queued > 0;
        fan_subscription_free(subscription);
    }
}

static void test_B14_L5_publish_against_subscribe_unsubscribe_and_close(void **state)
{
    (void)state;
    struct test_memory memory;
    struct fan_bus *bus = open_counted(&memory);
    struct fan_cancel *cancel;
    assert_ok(fan_cancel_new(&memory.env, &cancel));
    struct churner churners[3] = { 0 };
    struct writer writers[2] = { 0 };
    for (size_t i = 0; i < 3; i++) {
        churners[i] = (struct churner){ .bus = bus, .cancel = cancel, .number = (unsigned)i };
        assert_ok(fan__thread_start(&churners[i].thread, "churner", churn, &churners[i]));
    }
    for (size_t i = 0; i < 2; i++) {
        writers[i] = (struct writer){ .bus = bus, .count = 50000 * factor() + i * 1000000 };
        start_writer(&writers[i]);
    }
    fan__thread_join(&writers[0].thread);
    assert_ok(writers[0].status);
    /* The other one is in the middle of it. */
    fan_bus_close(bus);
    fan__thread_join(&writers[1].thread);
    assert_true(writers[1].status == FAN_CLOSED || writers[1].published == writers[1].count);
    for (size_t i = 0; i < 3; i++) {
        fan__thread_join(&churners[i].thread);
        assert_false(churners[i].wrong);
        assert_int_equal(churners[i].ended, churners[i].rounds);
    }
    struct fan_bus_counters counters = bus_counters_of(bus);
    assert_int_equal(counters.published, writers[0].published + writers[1].published);
    assert_int_equal(counters.subscriptions, 0);
    assert_int_equal(counters.topics, 0);
    assert_int_equal(counters.queued, 0);
    assert_true(bus_adds_up(bus));
    fan_cancel_unref(cancel);
    fan_bus_free(bus);
    assert_int_equal(atomic_load(&memory.blocks), 0);
}

/* Rounds of a bus that is closed in the middle of it; what close found is all there ever is. */
static void test_B05_B14_nothing_is_published_behind_close(void **state)
{
    (void)state;
    for (uint64_t round = 0; round < 16 * factor(); round++) {
        struct fan_bus *bus = round % 2 ? open_blocking(FAN_TIMEOUT_FOREVER) : open_bus();
        struct churner churner = { .bus = bus, .number = (unsigned)round };
        struct writer writers[2] = { 0 };
        struct reader reader = {
            .subscription =
                subscribe(bus, round % 2 ? FAN_POLICY_BLOCK : FAN_POLICY_DROP_NEWEST, 16),
            .batch = round % 5,
        };
        assert_ok(fan_cancel_new(NULL, &churner.cancel));
        start_reader(&reader);
        assert_ok(fan__thread_start(&churner.thread, "churner", churn, &churner));
        for (size_t i = 0; i < 2; i++) {
            writers[i] = (struct writer){ .bus = bus, .count = UINT64_MAX };
            start_writer(&writers[i]);
        }
        while (bus_counters_of(bus).published < 100 * (round % 8))
            sched_yield();
        fan_bus_close(bus);
        uint64_t published = bus_counters_of(bus).published;
        for (size_t i = 0; i < 2; i++) {
            fan__thread_join(&writers[i].thread);
            assert_int_equal(writers[i].status, FAN_CLOSED);
        }
        fan__thread_join(&churner.thread);
        fan__thread_join(&reader.thread);
        assert_int_equal(writers[0].published + writers[1].published, published);
        assert_int_equal(bus_counters_of(bus).published, published);
        assert_int_equal(reader.delivered + reader.told, published);
        assert_int_equal(reader.end, FAN_CLOSED);
        assert_false(reader.disordered || churner.wrong);
        assert_int_equal(churner.ended, churner.rounds);
        fan_subscription_free(reader.subscription);
        assert_true(bus_adds_up(bus));
        fan_cancel_unref(churner.cancel);
        fan_bus_free(bus);
    }
}

struct firing {
    struct fan__thread thread;
    struct fan_cancel *cancel;
};

static void fire(void *context)
{
    fan_cancel_fire(((struct firing *)context)->cancel);
}

static void test_B13_firing_against_unsubscribe_and_free(void **state)
{
    (void)state;
    struct fan_bus *bus = open_bus();
    for (int i = 0; i < 300; i++) {
        struct firing firing = { .cancel = NULL };
        assert_ok(fan_cancel_new(NULL, &firing.cancel));
        struct fan_subscription_options options = { .size = FAN_SUBSCRIPTION_OPTIONS_SIZE,
                                                    .buffer_count = 1,
                                                    .cancel = firing.cancel };
        struct fan_subscription *early = subscribe_with(bus, &options);
        assert_ok(fan__thread_start(&firing.thread, "firing", fire, &firing));
        struct fan_subscription *late = subscribe_with(bus, &options);
        fan_subscription_free(early);
        const struct fan_message *message;
        assert_int_equal(fan_subscription_next(late, FAN_TIMEOUT_FOREVER, &message), FAN_CLOSED);
        fan_subscription_free(late);
        fan__thread_join(&firing.thread);
        fan_cancel_unref(firing.cancel);
    }
    assert_int_equal(bus_counters_of(bus).subscriptions, 0);
    fan_bus_free(bus);
}

/* What a wake touches lives only until the subscription is freed. */
struct wake_target {
    atomic_int calls;
};

static void touch_target(void *context)
{
    /* relaxed: nobody draws conclusions from the number. */
    atomic_fetch_add_explicit(&((struct wake_target *)context)->calls, 1, memory_order_relaxed);
}

static void test_a_wake_does_not_outlive_its_subscription(void **state)
{
    (void)state;
    struct fan_bus *bus = open_bus();
    struct writer writers[2] = { 0 };
    for (size_t i = 0; i < 2; i++) {
        writers[i] = (struct writer){ .bus = bus, .count = UINT64_MAX };
        start_writer(&writers[i]);
    }
    int calls = 0;
    for (int i = 0; i < 500 || calls == 0; i++) {
        struct wake_target *target = calloc(1, sizeof(*target));
        assert_non_null(target);
        struct reader reader = { .subscription = subscribe(bus, FAN_POLICY_DROP_OLDEST, 4) };
        fan__subscription_set_wake(reader.subscription, touch_target, target);
        for (int k = 0; k < 5; k++) {
            enum fan_status status = read_some(&reader, 0);
            assert_true(status == FAN_OK || status == FAN_AGAIN || status == FAN_GAP);
        }
        if (i % 2 == 0)
            fan__subscription_set_wake(reader.subscription, NULL, NULL);
        else
            fan_subscription_free(reader.subscription);
        calls += atomic_load(&target->calls);
        free(target);
        if (i % 2 == 0)
            fan_subscription_free(reader.subscription);
    }
    fan_bus_close(bus);
    for (size_t i = 0; i < 2; i++) {
        fan__thread_join(&writers[i].thread);
        assert_int_equal(writers[i].status, FAN_CLOSED);
    }
    fan_bus_free(bus);
}

/* A wake that is held up in the middle of its first call. */
struct held_wake {
    struct fan__thread thread;
    struct fan_subscription *subscription;
    sem_t entered;
    sem_t go_on;
    atomic_int calls;
    atomic_bool inside;
    bool inside_after_free;
};

static void hold_up(void *context)
{
    struct held_wake *held = context;
    atomic_store(&held->inside, true);
    if (atomic_fetch_add(&held->calls, 1) == 0) {
        sem_post(&held->entered);
        sem_wait(&held->go_on);
    }
    atomic_store(&held->inside, false);
}

static void free_held(void *context)
{
    struct held_wake *held = context;
    fan_subscription_free(held->subscription);
    held->inside_after_free = atomic_load(&held->inside);
}

static bool has_ended(struct fan_bus *bus, struct fan_subscription *subscription)
{
    fan__mutex_lock(&bus->mutex);
    bool ended = subscription->ended;
    fan__mutex_unlock(&bus->mutex);
    return ended;
}

static void test_a_wake_is_called_again_and_waited_for(void **state)
{
    (void)state;
    struct fan_bus *bus = open_bus();
    struct held_wake held = { .subscription = subscribe(bus, FAN_POLICY_DROP_OLDEST, 4) };
    struct reader reader = { .subscription = held.subscription };
    struct writer writer = { .bus = bus, .count = 1 };
    sem_init(&held.entered, 0, 0);
    sem_init(&held.go_on, 0, 0);
    fan__subscription_set_wake(held.subscription, hold_up, &held);
    start_writer(&writer);
    sem_wait(&held.entered);
    /* Emptied and filled again while the wake runs: it is owed another call, but not at once. */
    assert_ok(read_some(&reader, 0));
    publish_number(bus);
    assert_int_equal(atomic_load(&held.calls), 1);
    assert_ok(fan__thread_start(&held.thread, "freeing", free_held, &held));
    while (!has_ended(bus, held.subscription))
        sched_yield();
    sem_post(&held.go_on);
    fan__thread_join(&held.thread);
    fan__thread_join(&writer.thread);
    assert_int_equal(atomic_load(&held.calls), 2);
    assert_false(held.inside_after_free);
    sem_destroy(&held.entered);
    sem_destroy(&held.go_on);
    fan_bus_free(bus);
}

/* One who publishes batch after batch, until he is told to stop or loses patience. */
struct flood {
    struct fan__thread thread;
    struct fan_bus *bus;
    atomic_bool begun;
    atomic_bool over;
    bool gave_up;
};

static void publish_without_pause(void *context)
{
    enum { COUNT = 600, PATIENCE_MS = 60000 };
    struct flood *flood = context;
    struct fan_message many[COUNT];
    for (size_t i = 0; i < COUNT; i++)
        many[i] = message_of(NULL, "a", "x");
    int64_t until_ns = fan__deadline_ns(PATIENCE_MS);
    while (!atomic_load(&flood->over) && !flood->gave_up) {
        if (fan_bus_publish_many(flood->bus, many, COUNT, NULL) != FAN_OK)
            abort();
        atomic_store(&flood->begun, true);
        flood->gave_up = fan__deadline_ns(0) >= until_ns;
    }
}

/* Who subscribes, ends, or looks at counters has the turn beside one who hardly ever leaves it. */
static void test_L5_who_does_not_publish_has_a_turn_beside_one_who_always_does(void **state)
{
    (void)state;
    struct fan_bus_options options = FAN_BUS_OPTIONS_INIT;
    options.by_reference = true;
    struct flood flood = { .bus = open_with(&options) };
    struct fan_subscription *full[4];
    for (size_t i = 0; i < 4; i++)
        full[i] = subscribe(flood.bus, FAN_POLICY_DROP_OLDEST, 64);
    assert_ok(fan__thread_start(&flood.thread, "flood", publish_without_pause, &flood));
    while (!atomic_load(&flood.begun))
        sched_yield();
    for (int i = 0; i < 10; i++)
        fan_subscription_free(subscribe(flood.bus, FAN_POLICY_DROP_OLDEST, 64));
    atomic_store(&flood.over, true);
    fan__thread_join(&flood.thread);
    assert_false(flood.gave_up);
    for (size_t i = 0; i < 4; i++)
        fan_subscription_free(full[i]);
    fan_bus_free(flood.bus);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_B04_L2_four_publishers_ten_subscribers),
        cmocka_unit_test(test_B26_a_hundred_threads_publish_ten_each),
        cmocka_unit_test(test_L3_L4_small_buffers_account_for_everything),
        cmocka_unit_test(test_B18_block_loses_nothing),
        cmocka_unit_test(test_L12_L11_no_large_message_is_used_again_under_its_readers),
        cmocka_unit_test(test_L5_B19_what_is_lent_stays_while_others_end_it),
        cmocka_unit_test(test_a_batch_is_not_cut_by_another_publisher),
        cmocka_unit_test(test_B19_no_wake_is_lost),
        cmocka_unit_test(test_L5_every_end_from_any_thread_ends_once),
        cmocka_unit_test(test_B14_L5_publish_against_subscribe_unsubscribe_and_close),
        cmocka_unit_test(test_B05_B14_nothing_is_published_behind_close),
        cmocka_unit_test(test_B13_firing_against_unsubscribe_and_free),
        cmocka_unit_test(test_L5_who_does_not_publish_has_a_turn_beside_one_who_always_does),
        cmocka_unit_test(test_a_wake_is_called_again_and_waited_for),
        cmocka_unit_test(test_a_wake_does_not_outlive_its_subscription),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
