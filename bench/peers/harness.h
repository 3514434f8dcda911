/* The rounds of a program that round.h describes, and the loop that answers lines. */
#ifndef BENCH_PEERS_HARNESS_H
#define BENCH_PEERS_HARNESS_H

#include "round.h"

struct publisher {
    pthread_t thread;
    void *bus;
    const struct round *round;
    unsigned index;
    uint64_t published;
    uint64_t cpu_ns;
};

static pthread_barrier_t harness_start;
static atomic_bool harness_stop;

static inline bool harness_stopped(void)
{
    return atomic_load_explicit(&harness_stop, memory_order_relaxed);
}

static inline void fill_next(struct publisher *publisher, uint64_t *words)
{
    uint64_t number = (uint64_t)publisher->index << 48 | ++publisher->published;
    bool large = publisher->round->word_count != WORD_COUNT;
    event_fill(words, large ? LARGE_WORD_COUNT : WORD_COUNT, number,
               publisher->round->timed ? clock_ns(CLOCK_MONOTONIC) : number);
}

static inline void publish_next(struct publisher *publisher, uint64_t *words)
{
    fill_next(publisher, words);
    bus_publish(publisher->bus, publisher->index, words, publisher->round->word_count);
}

static int compare_samples(const void *a, const void *b)
{
    uint32_t left = *(const uint32_t *)a;
    uint32_t right = *(const uint32_t *)b;
    return (left > right) - (left < right);
}

/* What reading the clock of the thread's processor time adds to a burst: the median of some. */
static uint64_t clock_cost_ns(void)
{
    enum { TRIALS = 64 };
    uint32_t costs[TRIALS];
    for (int i = 0; i < TRIALS; i++) {
        uint64_t before = clock_ns(CLOCK_THREAD_CPUTIME_ID);
        costs[i] = (uint32_t)(clock_ns(CLOCK_THREAD_CPUTIME_ID) - before);
    }
    qsort(costs, TRIALS, sizeof(costs[0]), compare_samples);
    return costs[TRIALS / 2];
}

#ifndef BUS_TAKES_BURSTS
static void bus_publish_burst(void *bus, unsigned publisher, const uint64_t *words)
{
    for (size_t i = 0; i < BURST_COUNT; i++)
        bus_publish(bus, publisher, words + i * WORD_COUNT, WORD_COUNT);
}
#endif

/* Events that are ready, so that the processor time is that of publishing alone. */
static void publish_burst(struct publisher *publisher, uint64_t *words)
{
    for (size_t i = 0; i < BURST_COUNT; i++)
        fill_next(publisher, words + i * WORD_COUNT);
    uint64_t before = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    bus_publish_burst(publisher->bus, publisher->index, words);
    publisher->cpu_ns += clock_ns(CLOCK_THREAD_CPUTIME_ID) - before;
}

static void publish_paced(struct publisher *publisher, uint64_t *words)
{
    bool timed = publisher->round->timed;
    double step_ns = (timed ? 1 : BURST_COUNT) * 1e9 / publisher->round->rate;
    uint64_t clock_cost = clock_cost_ns();
    uint64_t bursts = 0;
    double due_ns = (double)clock_ns(CLOCK_MONOTONIC);
    do {
        bursts++;
        if (timed)
            publish_next(publisher, words);
        else
            publish_burst(publisher, words);
        due_ns += step_ns;
        while ((double)clock_ns(CLOCK_MONOTONIC) < due_ns)
            continue;
    } while (!harness_stopped());
    publisher->cpu_ns -= timed ? 0 : bursts * clock_cost;
}

/* It publishes once at least, however short the round. */
static void *publisher_main(void *context)
{
    struct publisher *publisher = context;
    _Alignas(LINE_SIZE) uint64_t words[LARGE_WORD_COUNT];
    pthread_barrier_wait(&harness_start);
    if (publisher->round->rate > 0) {
        publish_paced(publisher, words);
        return NULL;
    }
    do
        publish_next(publisher, words);
    while (!harness_stopped());
    return NULL;
}

static void *reader_main(void *context)
{
    struct reader *reader = context;
    pthread_barrier_wait(&harness_start);
    bus_read(reader->bus, reader);
    return NULL;
}

static void sleep_for(double seconds)
{
    struct timespec left = { (time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9) };
    while (nanosleep(&left, &left) != 0)
        continue;
}

static void answer(const struct publisher *publishers, struct reader *readers,
                   const struct round *round, double seconds, uint64_t process_ns)
{
    uint64_t published = 0;
    uint64_t cpu_ns = 0;
    uint64_t delivered = 0;
    uint64_t wrong = 0;
    double p50 = 0;
    for (unsigned i = 0; i < round->publishers; i++) {
        published += publishers[i].published;
        cpu_ns += publishers[i].cpu_ns;
    }
    for (unsigned i = 0; i < round->readers; i++) {
        struct reader *reader = &readers[i];
        delivered += reader->delivered;
        wrong += reader->wrong;
        if (reader->sample_count > 0) {
            qsort(reader->samples, reader->sample_count, sizeof(uint32_t), compare_samples);
            p50 += reader->samples[reader->sample_count / 2] / (double)round->readers;
        }
    }
    must(wrong == 0, "events came torn or out of order");
    must(!round->lossless || delivered == published * round->readers, "events were lost");
    printf("published=%" PRIu64 " delivered=%" PRIu64 " seconds=%.6f publish_ns=%.3f "
           "process_ns=%.3f p50_ns=%.0f\n",
           published, delivered, seconds, published > 0 ? (double)cpu_ns / (double)published : 0,
           delivered > 0 ? (double)process_ns / (double)delivered : 0, p50);
}

static void harness_run(const struct round *round)
{
    static struct publisher publishers[PUBLISHER_COUNT_MAX];
    static struct reader readers[READER_COUNT_MAX];
    void *bus = bus_open(round);
    atomic_store(&harness_stop, false);
    pthread_barrier_init(&harness_start, NULL, round->publishers + round->readers + 1);
    for (unsigned i = 0; i < round->readers; i++) {
        readers[i] = (struct reader){
            .bus = bus, .index = i, .lossless = round->lossless, .timed = round->timed
        };
        for (uint64_t k = 0; k < PUBLISHER_COUNT_MAX; k++)
            readers[i].last[k] = k << 48;
        if (round->timed)
            readers[i].samples = allocate(SAMPLE_COUNT_MAX * sizeof(uint32_t));
        must(pthread_create(&readers[i].thread, NULL, reader_main, &readers[i]) == 0, "no thread");
    }
    for (unsigned i = 0; i < round->publishers; i++) {
        publishers[i] = (struct publisher){ .bus = bus, .round = round, .index = i };
        must(pthread_create(&publishers[i].thread, NULL, publisher_main, &publishers[i]) == 0,
             "no thread");
    }
    pthread_barrier_wait(&harness_start);
    uint64_t start = clock_ns(CLOCK_MONOTONIC);
    uint64_t start_process_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    sleep_for(round->seconds);
    atomic_store(&harness_stop, true);
    for (unsigned i = 0; i < round->publishers; i++)
        pthread_join(publishers[i].thread, NULL);
    bus_end(bus);
    for (unsigned i = 0; i < round->readers; i++)
        pthread_join(readers[i].thread, NULL);
    double seconds = (double)(clock_ns(CLOCK_MONOTONIC) - start) * 1e-9;
    uint64_t process_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - start_process_ns;
    pthread_barrier_destroy(&harness_start);
    answer(publishers, readers, round, seconds, process_ns);
    for (unsigned i = 0; i < round->readers; i++)
        free(readers[i].samples);
    bus_free(bus);
}

/* Runs a round that is no run of publishers against readers; false when it is none of these. */
static bool bus_other(const struct round *round);

static void serve_line(const char *line)
{
    struct round round = { .word_count = WORD_COUNT };
    must(sscanf(line, "%15s %u %u %lf %lf", round.mode, &round.publishers, &round.readers,
                &round.seconds, &round.rate) == 5,
         "expected MODE PUBLISHERS READERS SECONDS RATE");
    if (bus_other(&round))
        return;
    must(round.publishers <= PUBLISHER_COUNT_MAX && round.readers <= READER_COUNT_MAX, "too many");
    round.timed = strcmp(round.mode, "latency") == 0;
    round.lossless = strcmp(round.mode, "lossless") == 0 || strcmp(round.mode, "large") == 0;
    if (strcmp(round.mode, "large") == 0)
        round.word_count = LARGE_WORD_COUNT;
    harness_run(&round);
}

static int serve(void)
{
    char line[128];
    setvbuf(stdout, NULL, _IOLBF, 0);
    while (fgets(line, sizeof(line), stdin))
        serve_line(line);
    return EXIT_SUCCESS;
}

#endif
