/*
 * The bus of this house, through its public API with all counters on.
 *
 *     bus-ours one|many|newest|oldest
 *
 * one and many wait for readers (FAN_POLICY_BLOCK), on a bus for one publisher or for many; the
 * others lose, on a bus for many. Readers stay awake for 50 us before they sleep, and read in
 * batches; what is offered in bursts is published by one call for each.
 *
 * Other modes, on a bus for one publisher, with times given so that no clock is read:
 *     stalled  READERS subscriptions of one kind that nobody reads
 *     filters  READERS distinct patterns of which one matches, with open types
 *     topics   READERS topics in turn, with one subscription of all, with open types
 *     tail     as stalled, each publish by the clock: p50_ns is then its 99.9th percentile
 *     memory   publish_ns is the bytes that a subscription takes which was never full
 *     thousand 1,000 publishes to READERS threads; p50_ns is the time until all have read all
 */
#define BUS_TAKES_BURSTS
#include "peers/harness.h"

#include <fanfare/env.h>
#include <fanfare/fanfare.h>
#include <fanfare/kind.h>
#include <fanfare/subscription.h>

#define BATCH_COUNT 64
#define YIELD_US 50
#define CHUNK_COUNT 1024

enum { KIND_EVENT, KIND_LARGE };

static const struct fan_kind kinds[] = {
    { "bench.event", WORD_COUNT * sizeof(uint64_t) },
    { "bench.large", LARGE_WORD_COUNT * sizeof(uint64_t) },
};

static struct {
    bool single_publisher;
    enum fan_policy policy;
} wanted;

struct ours {
    struct fan_bus *bus;
    struct fan_subscription *subscriptions[READER_COUNT_MAX];
    unsigned count;
};

static struct fan_bus *open_bus(bool single_publisher, bool closed_set, const struct fan_env *env)
{
    struct fan_bus_options options = FAN_BUS_OPTIONS_INIT;
    struct fan_bus *bus = NULL;
    options.env = env;
    options.single_publisher = single_publisher;
    options.block_timeout_ms = 60000;
    if (closed_set) {
        options.kinds = kinds;
        options.kind_count = sizeof(kinds) / sizeof(kinds[0]);
    }
    must(fan_bus_open(&options, &bus, NULL) == FAN_OK, "open");
    return bus;
}

static struct fan_subscription *subscribe(struct fan_bus *bus, enum fan_policy policy,
                                          const char *pattern, const unsigned *kind)
{
    struct fan_subscription_options options = { .size = FAN_SUBSCRIPTION_OPTIONS_SIZE,
                                                .pattern = pattern,
                                                .kinds = kind,
                                                .kind_count = kind ? 1 : 0,
                                                .policy = policy,
                                                .buffer_count = BUFFER_COUNT,
                                                .yield_us = YIELD_US };
    struct fan_subscription *subscription = NULL;
    must(fan_bus_subscribe(bus, &options, &subscription, NULL) == FAN_OK, "subscribe");
    return subscription;
}

static void *bus_open(const struct round *round)
{
    struct ours *ours = allocate(sizeof(*ours));
    unsigned kind = round->word_count == WORD_COUNT ? KIND_EVENT : KIND_LARGE;
    ours->bus = open_bus(wanted.single_publisher, true, NULL);
    ours->count = round->readers;
    for (unsigned i = 0; i < round->readers; i++)
        ours->subscriptions[i] = subscribe(ours->bus, wanted.policy, NULL, &kind);
    return ours;
}

/* By fields: a whole struct would be copied from where it was just written, which stalls. */
static inline void message_fill(struct fan_message *message, const uint64_t *words,
                                size_t word_count)
{
    message->size = FAN_MESSAGE_SIZE;
    message->time_us = (int64_t)words[1];
    message->kind = word_count == WORD_COUNT ? KIND_EVENT : KIND_LARGE;
    message->type = NULL;
    message->topic = NULL;
    message->payload.data = (const char *)words;
    message->payload.size = word_count * sizeof(uint64_t);
}

static void bus_publish(void *bus, unsigned publisher, const uint64_t *words, size_t word_count)
{
    const struct ours *ours = bus;
    struct fan_message message;
    (void)publisher;
    message_fill(&message, words, word_count);
    must(fan_bus_publish(ours->bus, &message, NULL) == FAN_OK, "publish");
}

static void bus_publish_burst(void *bus, unsigned publisher, const uint64_t *words)
{
    const struct ours *ours = bus;
    struct fan_message messages[BURST_COUNT];
    (void)publisher;
    for (size_t i = 0; i < BURST_COUNT; i++)
        message_fill(&messages[i], words + i * WORD_COUNT, WORD_COUNT);
    must(fan_bus_publish_many(ours->bus, messages, BURST_COUNT, NULL) == FAN_OK, "publish");
}

static void take(struct reader *reader, const struct fan_message *message)
{
    const uint64_t *words = (const void *)message->payload.data;
    if (message->payload.size == WORD_COUNT * sizeof(uint64_t))
        reader_take(reader, words, WORD_COUNT);
    else
        reader_take(reader, words, LARGE_WORD_COUNT);
}

static void bus_read(void *bus, struct reader *reader)
{
    const struct ours *ours = bus;
    struct fan_subscription *subscription = ours->subscriptions[reader->index];
    const struct fan_message *messages[BATCH_COUNT];
    for (;;) {
        size_t count = 0;
        enum fan_status status = fan_subscription_next_many(subscription, FAN_TIMEOUT_FOREVER,
                                                            messages, BATCH_COUNT, &count);
        if (status == FAN_GAP)
            continue;
        if (status != FAN_OK)
            break;
        for (size_t i = 0; i < count; i++)
            take(reader, messages[i]);
    }
}

static void bus_end(void *bus)
{
    const struct ours *ours = bus;
    fan_bus_close(ours->bus);
}

/* What it counted must add up (L3). */
static void bus_free(void *bus)
{
    struct ours *ours = bus;
    struct fan_bus_counters sum = { .size = sizeof(sum) };
    fan_bus_counters(ours->bus, &sum);
    must(sum.matched == sum.published * ours->count && sum.matched == sum.delivered + sum.dropped &&
             sum.queued == 0,
         "the counters do not add up");
    for (unsigned i = 0; i < ours->count; i++)
        fan_subscription_free(ours->subscriptions[i]);
    fan_bus_free(ours->bus);
    free(ours);
}

/* ------------------------------------------------------------------ one publisher, nobody reads */

struct lonely {
    struct fan_bus *bus;
    struct fan_subscription **subscriptions;
    unsigned count;
    struct fan_message message;
    uint64_t words[WORD_COUNT];
    char (*topics)[32];
    unsigned topic_count;
    uint64_t published;
};

static void lonely_begin(struct lonely *lonely, unsigned subscriptions, unsigned topics,
                         bool patterns)
{
    bool closed_set = topics == 0 && !patterns;
    unsigned kind = KIND_EVENT;
    *lonely = (struct lonely){ .bus = open_bus(true, closed_set, NULL), .count = subscriptions };
    lonely->subscriptions = allocate(subscriptions * sizeof(struct fan_subscription *));
    lonely->topics = allocate(topics * sizeof(*lonely->topics));
    for (unsigned i = 0; i < subscriptions; i++) {
        char pattern[32];
        snprintf(pattern, sizeof(pattern), "bench.event.%u", i);
        lonely->subscriptions[i] = subscribe(lonely->bus, FAN_POLICY_DROP_NEWEST,
                                             patterns ? pattern : NULL, closed_set ? &kind : NULL);
    }
    for (unsigned i = 0; i < topics; i++)
        snprintf(lonely->topics[i], sizeof(lonely->topics[i]), "library/artist/%u", i);
    lonely->topic_count = topics;
    event_fill(lonely->words, WORD_COUNT, 1, 1);
    lonely->message =
        (struct fan_message){ .size = FAN_MESSAGE_SIZE,
                              .time_us = 1,
                              .type = closed_set ? NULL : "bench.event.0",
                              .payload = { (const char *)lonely->words, sizeof(lonely->words) } };
}

static void lonely_publish(struct lonely *lonely, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        if (lonely->topic_count > 0)
            lonely->message.topic = lonely->topics[lonely->published % lonely->topic_count];
        must(fan_bus_publish(lonely->bus, &lonely->message, NULL) == FAN_OK, "publish");
        lonely->published++;
    }
}

static void lonely_end(struct lonely *lonely)
{
    struct fan_bus_counters sum = { .size = sizeof(sum) };
    fan_bus_counters(lonely->bus, &sum);
    must(sum.published == lonely->published && sum.matched == sum.dropped + sum.queued,
         "the counters do not add up");
    for (unsigned i = 0; i < lonely->count; i++)
        fan_subscription_free(lonely->subscriptions[i]);
    fan_bus_free(lonely->bus);
    free(lonely->subscriptions);
    free(lonely->topics);
}

static void answer_lonely(uint64_t published, double publish_ns, double tail_ns)
{
    printf("published=%" PRIu64 " delivered=0 seconds=0 publish_ns=%.3f p50_ns=%.0f\n", published,
           publish_ns, tail_ns);
}

/* The processor time of a publish, once every subscription is full. */
static void run_lonely(struct lonely *lonely, double seconds)
{
    uint64_t wall_ns = (uint64_t)(seconds * 1e9);
    lonely_publish(lonely, 4 * BUFFER_COUNT + lonely->topic_count);
    uint64_t before = lonely->published;
    uint64_t start_ns = clock_ns(CLOCK_MONOTONIC);
    uint64_t start_cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    while (clock_ns(CLOCK_MONOTONIC) - start_ns < wall_ns)
        lonely_publish(lonely, CHUNK_COUNT);
    uint64_t cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID) - start_cpu_ns;
    uint64_t published = lonely->published - before;
    lonely_end(lonely);
    answer_lonely(published, (double)cpu_ns / (double)published, 0);
}

static int compare_times(const void *a, const void *b)
{
    uint32_t left = *(const uint32_t *)a;
    uint32_t right = *(const uint32_t *)b;
    return (left > right) - (left < right);
}

static void run_tail(struct lonely *lonely, double seconds)
{
    uint32_t *times = allocate(SAMPLE_COUNT_MAX * sizeof(*times));
    uint64_t end_ns = clock_ns(CLOCK_MONOTONIC) + (uint64_t)(seconds * 1e9);
    size_t count = 0;
    lonely_publish(lonely, 4 * BUFFER_COUNT);
    for (uint64_t now = 0; now < end_ns && count < SAMPLE_COUNT_MAX; count++) {
        uint64_t before = clock_ns(CLOCK_MONOTONIC);
        lonely_publish(lonely, 1);
        now = clock_ns(CLOCK_MONOTONIC);
        times[count] = (uint32_t)(now - before);
    }
    qsort(times, count, sizeof(*times), compare_times);
    size_t above = count / 1000;
    answer_lonely(count, 0, times[count - 1 - above]);
    free(times);
    lonely_end(lonely);
}

/* ------------------------------------------------------------------ memory */

struct counted {
    struct fan_env env;
    size_t held;
};

static void *counted_resize(void *context, void *pointer, size_t size)
{
    struct counted *counted = context;
    size_t *before = pointer ? (size_t *)pointer - 2 : NULL;
    if (before)
        counted->held -= *before;
    size_t *block = realloc(before, size + 2 * sizeof(size_t));
    must(block != NULL, "no memory");
    *block = size;
    counted->held += size;
    return block + 2;
}

static void counted_release(void *context, void *pointer)
{
    struct counted *counted = context;
    if (!pointer)
        return;
    counted->held -= *((size_t *)pointer - 2);
    free((size_t *)pointer - 2);
}

/* Each has read, one at a time, and was never full. */
static void run_memory(unsigned readers)
{
    struct counted counted = { .env = *fan_env_default() };
    counted.env.context = &counted;
    counted.env.resize = counted_resize;
    counted.env.release = counted_release;
    struct fan_bus *bus = open_bus(true, true, &counted.env);
    struct fan_subscription **all = allocate((readers + 1) * sizeof(struct fan_subscription *));
    uint64_t words[WORD_COUNT] = { 1 };
    unsigned kind = KIND_EVENT;
    size_t held_by_one = 0;
    for (unsigned i = 0; i <= readers; i++) {
        all[i] = subscribe(bus, FAN_POLICY_DROP_NEWEST, NULL, &kind);
        for (unsigned k = 0; k <= i; k++) {
            const struct fan_message *message;
            struct fan_message out = { .size = FAN_MESSAGE_SIZE,
                                       .payload = { (const char *)words, sizeof(words) } };
            must(k > 0 || fan_bus_publish(bus, &out, NULL) == FAN_OK, "publish");
            must(fan_subscription_next(all[k], 0, &message) == FAN_OK, "read");
        }
        if (i == 0)
            held_by_one = counted.held;
    }
    answer_lonely(readers, (double)(counted.held - held_by_one) / readers, 0);
    for (unsigned i = 0; i <= readers; i++)
        fan_subscription_free(all[i]);
    fan_bus_free(bus);
    must(counted.held == 0, "memory leaks");
    free(all);
}

/* ------------------------------------------------------------------ a thousand publishes */

enum { THOUSAND = 1000 };

static void *read_a_thousand(void *subscription)
{
    const struct fan_message *messages[BATCH_COUNT];
    for (size_t read = 0, count = 0; read < THOUSAND; read += count)
        must(fan_subscription_next_many(subscription, FAN_TIMEOUT_FOREVER, messages, BATCH_COUNT,
                                        &count) == FAN_OK,
             "read");
    return NULL;
}

static void run_thousand(unsigned readers)
{
    struct fan_bus *bus = open_bus(false, true, NULL);
    struct fan_subscription *all[READER_COUNT_MAX];
    pthread_t threads[READER_COUNT_MAX];
    unsigned kind = KIND_EVENT;
    uint64_t words[WORD_COUNT];
    struct fan_message message;
    for (unsigned i = 0; i < readers; i++) {
        all[i] = subscribe(bus, FAN_POLICY_DROP_NEWEST, NULL, &kind);
        must(pthread_create(&threads[i], NULL, read_a_thousand, all[i]) == 0, "no thread");
    }
    uint64_t start_ns = clock_ns(CLOCK_MONOTONIC);
    for (uint64_t number = 1; number <= THOUSAND; number++) {
        event_fill(words, WORD_COUNT, number, number);
        message_fill(&message, words, WORD_COUNT);
        must(fan_bus_publish(bus, &message, NULL) == FAN_OK, "publish");
    }
    for (unsigned i = 0; i < readers; i++)
        pthread_join(threads[i], NULL);
    answer_lonely(THOUSAND, 0, (double)(clock_ns(CLOCK_MONOTONIC) - start_ns));
    for (unsigned i = 0; i < readers; i++)
        fan_subscription_free(all[i]);
    fan_bus_free(bus);
}

static bool bus_other(const struct round *round)
{
    struct lonely lonely;
    const char *mode = round->mode;
    if (strcmp(mode, "memory") == 0) {
        run_memory(round->readers);
        return true;
    }
    if (strcmp(mode, "thousand") == 0) {
        run_thousand(round->readers);
        return true;
    }
    bool topics = strcmp(mode, "topics") == 0;
    bool filters = strcmp(mode, "filters") == 0;
    bool tail = strcmp(mode, "tail") == 0;
    if (!topics && !filters && !tail && strcmp(mode, "stalled") != 0)
        return false;
    lonely_begin(&lonely, topics ? 1 : round->readers, topics ? round->readers : 0, filters);
    if (tail)
        run_tail(&lonely, round->seconds);
    else
        run_lonely(&lonely, round->seconds);
    return true;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        bool single_publisher;
        enum fan_policy policy;
    } variants[] = {
        { "one", true, FAN_POLICY_BLOCK },
        { "many", false, FAN_POLICY_BLOCK },
        { "newest", false, FAN_POLICY_DROP_NEWEST },
        { "oldest", false, FAN_POLICY_DROP_OLDEST },
    };
    for (size_t i = 0; argc == 2 && i < sizeof(variants) / sizeof(variants[0]); i++) {
        if (strcmp(argv[1], variants[i].name) != 0)
            continue;
        wanted.single_publisher = variants[i].single_publisher;
        wanted.policy = variants[i].policy;
        return serve();
    }
    fprintf(stderr, "usage: %s one|many|newest|oldest\n", argv[0]);
    return 2;
}
