/*
 * The bus of this house, through its public API with all counters on.
 *
 *     bus-ours block-one|block-many|newest-one|newest-many|oldest-one|oldest-many
 *
 * The policy, and whether the bus is for one publisher or for many. Readers stay awake for 50 us
 * before they sleep, and read in batches. Each event is one call of fan_bus_publish, but in the
 * mode `bursts`: that is `lossy` with one call of fan_bus_publish_many for each burst.
 *
 * Other modes, on a bus for one publisher, with times given so that no clock is read. The publisher
 * itself reads what has come, between bursts of at most half a buffer, and outside its time:
 *     stalled  READERS subscriptions of one kind that nobody reads, beside one that is read
 *     tail     as stalled, with each publish by the clock
 *     filters  READERS distinct patterns of which one matches, with open types: the one that was
 *              subscribed last, so that it gets nothing for having come before the others
 *     long     as filters, with a type of 200 bytes
 *     types    1,000 types in turn: a pattern for each (READERS 1,000), or one for all (1)
 *     topics   READERS topics in turn, with one subscription of all, with open types
 *     beside   as topics, with 100 subscriptions of a topic each beside it
 * and
 *     memory   a further subscription that was never full and reads one by one
 *     batches  as memory, reading up to 64 at once
 *     thousand 1,000 publishes to READERS threads, until all have read all
 * They answer publish_ns (processor time), p999_ns, bytes or total_ns.
 */
#define BUS_TAKES_BURSTS
#include "peers/harness.h"

#include <fanfare/env.h>
#include <fanfare/fanfare.h>
#include <fanfare/kind.h>
#include <fanfare/subscription.h>

#define BATCH_COUNT 64
#define YIELD_US 50
#define CHUNK_COUNT (BUFFER_COUNT / 2)
#define NAME_SIZE 32
#define LONG_TYPE_SIZE 200
#define TYPE_COUNT 1000
#define TOPIC_STEP 1000
#define BESIDE_COUNT 100

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
    bool bursts;
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
                                          const char *topic, const char *pattern,
                                          const unsigned *kind)
{
    struct fan_subscription_options options = { .size = FAN_SUBSCRIPTION_OPTIONS_SIZE,
                                                .topic = topic,
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
    ours->bursts = strcmp(round->mode, "bursts") == 0;
    for (unsigned i = 0; i < round->readers; i++)
        ours->subscriptions[i] = subscribe(ours->bus, wanted.policy, NULL, NULL, &kind);
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
    if (!ours->bursts) {
        for (size_t i = 0; i < BURST_COUNT; i++)
            bus_publish(bus, publisher, words + i * WORD_COUNT, WORD_COUNT);
        return;
    }
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

/* ------------------------------------------------------------------ one thread does it all */

/*
 * The first `live` subscriptions are read. The names are types or topics, published in turn; where
 * there are none, the message has a kind, or `type`.
 */
struct lonely {
    struct fan_bus *bus;
    struct fan_subscription **subscriptions;
    unsigned count;
    unsigned live;
    struct fan_message message;
    uint64_t words[WORD_COUNT];
    char type[LONG_TYPE_SIZE + 1];
    char (*names)[NAME_SIZE];
    unsigned name_count;
    bool topics;
    uint64_t published;
};

static void lonely_open(struct lonely *lonely, bool closed_set, unsigned count, unsigned live,
                        unsigned name_count)
{
    *lonely = (struct lonely){ .bus = open_bus(true, closed_set, NULL),
                               .count = count,
                               .live = live,
                               .name_count = name_count };
    lonely->subscriptions = allocate(count * sizeof(struct fan_subscription *));
    lonely->names = allocate(name_count * sizeof(*lonely->names));
    event_fill(lonely->words, WORD_COUNT, 1, 1);
    lonely->message =
        (struct fan_message){ .size = FAN_MESSAGE_SIZE,
                              .time_us = 1,
                              .payload = { (const char *)lonely->words, sizeof(lonely->words) } };
}

static void begin_stalled(struct lonely *lonely, unsigned stalled)
{
    unsigned kind = KIND_EVENT;
    lonely_open(lonely, true, 1 + stalled, 1, 0);
    for (unsigned i = 0; i < lonely->count; i++)
        lonely->subscriptions[i] = subscribe(lonely->bus, wanted.policy, NULL, NULL, &kind);
}

/* However many there are, the last one has the same pattern. It is the one that is read. */
static void begin_filters(struct lonely *lonely, unsigned patterns, bool long_type)
{
    lonely_open(lonely, false, patterns, 1, 0);
    for (unsigned left = patterns; left-- > 0;) {
        char pattern[NAME_SIZE];
        snprintf(pattern, sizeof(pattern), long_type ? "bench.event.%u.*" : "bench.event.%u", left);
        lonely->subscriptions[left] = subscribe(lonely->bus, wanted.policy, NULL, pattern, NULL);
    }
    const char *type = long_type ? "bench.event.0." : "bench.event.0";
    memset(lonely->type, 'x', LONG_TYPE_SIZE);
    memcpy(lonely->type, type, strlen(type) + !long_type);
    lonely->message.type = lonely->type;
}

static void begin_types(struct lonely *lonely, unsigned patterns)
{
    lonely_open(lonely, false, patterns, patterns, TYPE_COUNT);
    for (unsigned i = 0; i < TYPE_COUNT; i++)
        snprintf(lonely->names[i], NAME_SIZE, "bench.event.%u", i);
    for (unsigned i = 0; i < patterns; i++)
        lonely->subscriptions[i] =
            subscribe(lonely->bus, wanted.policy, NULL,
                      patterns == 1 ? "bench.event.*" : lonely->names[i], NULL);
}

/* Short names, that all fits a slot. Of 100,000 topics, those beside are each thousandth. */
static void begin_topics(struct lonely *lonely, unsigned topics, unsigned beside)
{
    lonely_open(lonely, false, 1 + beside, 1 + beside, topics);
    lonely->topics = true;
    lonely->message.type = "bench";
    for (unsigned i = 0; i < topics; i++)
        snprintf(lonely->names[i], NAME_SIZE, "artist/%u", i);
    lonely->subscriptions[0] = subscribe(lonely->bus, wanted.policy, NULL, NULL, NULL);
    for (unsigned i = 1; i <= beside; i++) {
        char topic[NAME_SIZE];
        snprintf(topic, sizeof(topic), "artist/%u", i * TOPIC_STEP - 1);
        lonely->subscriptions[i] = subscribe(lonely->bus, wanted.policy, topic, NULL, NULL);
    }
}

static bool lonely_begin(struct lonely *lonely, const char *mode, unsigned count)
{
    bool tail = strcmp(mode, "tail") == 0;
    bool long_type = strcmp(mode, "long") == 0;
    bool beside = strcmp(mode, "beside") == 0;
    if (tail || strcmp(mode, "stalled") == 0)
        begin_stalled(lonely, count);
    else if (long_type || strcmp(mode, "filters") == 0)
        begin_filters(lonely, count, long_type);
    else if (strcmp(mode, "types") == 0)
        begin_types(lonely, count);
    else if (beside || strcmp(mode, "topics") == 0)
        begin_topics(lonely, count, beside ? BESIDE_COUNT : 0);
    else
        return false;
    return true;
}

static void lonely_publish(struct lonely *lonely, unsigned count)
{
    const char **name = lonely->topics ? &lonely->message.topic : &lonely->message.type;
    for (unsigned i = 0; i < count; i++) {
        if (lonely->name_count > 0)
            *name = lonely->names[lonely->published % lonely->name_count];
        must(fan_bus_publish(lonely->bus, &lonely->message, NULL) == FAN_OK, "publish");
        lonely->published++;
    }
}

static void lonely_read(struct lonely *lonely)
{
    const struct fan_message *messages[BATCH_COUNT];
    size_t count;
    for (unsigned i = 0; i < lonely->live; i++) {
        enum fan_status status = FAN_OK;
        while (status == FAN_OK)
            status = fan_subscription_next_many(lonely->subscriptions[i], 0, messages, BATCH_COUNT,
                                                &count);
        must(status == FAN_AGAIN, "who reads in time lost messages");
    }
}

/* Until whoever does not read is full, and each name came more than once. */
static void lonely_warm_up(struct lonely *lonely)
{
    uint64_t count = 4 * BUFFER_COUNT + 2 * (uint64_t)lonely->name_count;
    while (lonely->published < count) {
        lonely_publish(lonely, CHUNK_COUNT);
        lonely_read(lonely);
    }
}

static void lonely_end(struct lonely *lonely)
{
    struct fan_bus_counters sum = { .size = sizeof(sum) };
    fan_bus_counters(lonely->bus, &sum);
    must(sum.published == lonely->published &&
             sum.matched == sum.delivered + sum.dropped + sum.queued,
         "the counters do not add up");
    for (unsigned i = 0; i < lonely->count; i++)
        fan_subscription_free(lonely->subscriptions[i]);
    fan_bus_free(lonely->bus);
    free(lonely->subscriptions);
    free(lonely->names);
}

/* The processor time of a publish. */
static void run_lonely(struct lonely *lonely, double seconds)
{
    uint64_t clock_cost = clock_cost_ns();
    uint64_t cpu_ns = 0;
    lonely_warm_up(lonely);
    uint64_t before = lonely->published;
    uint64_t end_ns = clock_ns(CLOCK_MONOTONIC) + (uint64_t)(seconds * 1e9);
    while (clock_ns(CLOCK_MONOTONIC) < end_ns) {
        uint64_t start_cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID);
        lonely_publish(lonely, CHUNK_COUNT);
        cpu_ns += clock_ns(CLOCK_THREAD_CPUTIME_ID) - start_cpu_ns - clock_cost;
        lonely_read(lonely);
    }
    uint64_t published = lonely->published - before;
    lonely_end(lonely);
    printf("published=%" PRIu64 " publish_ns=%.3f\n", published,
           (double)cpu_ns / (double)published);
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
    lonely_warm_up(lonely);
    for (uint64_t now = 0; now < end_ns && count < SAMPLE_COUNT_MAX; count++) {
        uint64_t before = clock_ns(CLOCK_MONOTONIC);
        lonely_publish(lonely, 1);
        now = clock_ns(CLOCK_MONOTONIC);
        times[count] = (uint32_t)(now - before);
        if ((count + 1) % CHUNK_COUNT == 0)
            lonely_read(lonely);
    }
    qsort(times, count, sizeof(*times), compare_times);
    size_t above = count / 1000;
    printf("published=%zu p999_ns=%" PRIu32 "\n", count, times[count - 1 - above]);
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

/* Each has read, and was never full. */
static void run_memory(unsigned readers, size_t batch_count)
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
        all[i] = subscribe(bus, FAN_POLICY_DROP_NEWEST, NULL, NULL, &kind);
        for (unsigned k = 0; k <= i; k++) {
            const struct fan_message *messages[BATCH_COUNT];
            size_t count = 0;
            struct fan_message out = { .size = FAN_MESSAGE_SIZE,
                                       .payload = { (const char *)words, sizeof(words) } };
            must(k > 0 || fan_bus_publish(bus, &out, NULL) == FAN_OK, "publish");
            must(fan_subscription_next_many(all[k], 0, messages, batch_count, &count) == FAN_OK,
                 "read");
        }
        if (i == 0)
            held_by_one = counted.held;
    }
    printf("bytes=%.1f\n", (double)(counted.held - held_by_one) / readers);
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
        all[i] = subscribe(bus, FAN_POLICY_DROP_NEWEST, NULL, NULL, &kind);
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
    printf("published=%d total_ns=%" PRIu64 "\n", THOUSAND, clock_ns(CLOCK_MONOTONIC) - start_ns);
    for (unsigned i = 0; i < readers; i++)
        fan_subscription_free(all[i]);
    fan_bus_free(bus);
}

static bool bus_other(const struct round *round)
{
    struct lonely lonely;
    const char *mode = round->mode;
    if (strcmp(mode, "memory") == 0 || strcmp(mode, "batches") == 0) {
        run_memory(round->readers, strcmp(mode, "batches") == 0 ? BATCH_COUNT : 1);
        return true;
    }
    if (strcmp(mode, "thousand") == 0) {
        run_thousand(round->readers);
        return true;
    }
    if (!lonely_begin(&lonely, mode, round->readers))
        return false;
    if (strcmp(mode, "tail") == 0)
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
        { "block-one", true, FAN_POLICY_BLOCK },
        { "block-many", false, FAN_POLICY_BLOCK },
        { "newest-one", true, FAN_POLICY_DROP_NEWEST },
        { "newest-many", false, FAN_POLICY_DROP_NEWEST },
        { "oldest-one", true, FAN_POLICY_DROP_OLDEST },
        { "oldest-many", false, FAN_POLICY_DROP_OLDEST },
    };
    for (size_t i = 0; argc == 2 && i < sizeof(variants) / sizeof(variants[0]); i++) {
        if (strcmp(argv[1], variants[i].name) != 0)
            continue;
        wanted.single_publisher = variants[i].single_publisher;
        wanted.policy = variants[i].policy;
        return serve();
    }
    fprintf(stderr,
            "usage: %s block-one|block-many|newest-one|newest-many|oldest-one|oldest-many\n",
            argv[0]);
    return 2;
}
