/*
 * What all programs written in C that bench/bus.py drives have in common, ours and the peers. A
 * program defines the functions below for its bus and includes this file last; it then answers
 * lines on its standard input until that ends:
 *
 *     MODE PUBLISHERS READERS SECONDS RATE
 *     -> published=N delivered=N seconds=S publish_ns=T process_ns=T p50_ns=T
 *
 * MODE is lossless, lossy, latency (lossy, with times in the events) or large (lossless, 16 KiB);
 * what a mode does not measure is 0, or left out. A program may have modes of its own.
 * RATE is offered by each publisher in events a second, in bursts at known times between which it
 * spins and yields to nobody; 0 is as fast as it goes. publish_ns is the processor time of
 * publishing in such bursts, per event, without that of the clock. process_ns is the processor time
 * of the whole process in the round, that of spinning between bursts included, per event delivered.
 * Every reader is a thread that looks at each word of each event.
 */
#ifndef BENCH_PEERS_ROUND_H
#define BENCH_PEERS_ROUND_H

#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BUFFER_COUNT 1024
#define WORD_COUNT 8
#define LARGE_WORD_COUNT 2048
#define PUBLISHER_COUNT_MAX 16
#define READER_COUNT_MAX 64
#define SAMPLE_COUNT_MAX (1u << 20)
#define BURST_COUNT 32
#define LINE_SIZE 64

/* words[0] is its number, the publisher's in the high 16 bits; words[1] the time, or the number. */
struct event {
    uint64_t words[WORD_COUNT];
};

struct round {
    char mode[16];
    unsigned publishers;
    unsigned readers;
    double seconds;
    double rate;
    bool lossless;
    bool timed;
    size_t word_count;
};

struct reader {
    pthread_t thread;
    void *bus;
    unsigned index;
    bool lossless;
    bool timed;
    uint64_t last[PUBLISHER_COUNT_MAX];
    uint64_t delivered;
    uint64_t wrong;
    uint32_t *samples;
    size_t sample_count;
};

/* The bus under measurement. publish waits for room on a lossless bus, else it may lose. */
static void *bus_open(const struct round *round);
static void bus_publish(void *bus, unsigned publisher, const uint64_t *words, size_t word_count);
/* BURST_COUNT events; one that has a call for several defines it, and BUS_TAKES_BURSTS. */
static void bus_publish_burst(void *bus, unsigned publisher, const uint64_t *words);
/* Gives every event to reader_take, until bus_end was called and all before it are taken. */
static void bus_read(void *bus, struct reader *reader);
static void bus_end(void *bus);
static void bus_free(void *bus);

static inline uint64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline void must(bool right, const char *words)
{
    if (right)
        return;
    printf("error %s\n", words);
    exit(EXIT_FAILURE);
}

/* Zeroed memory, by lines of cache. */
__attribute__((returns_nonnull)) static inline void *allocate(size_t size)
{
    size_t whole = (size + LINE_SIZE) / LINE_SIZE * LINE_SIZE;
    void *memory = aligned_alloc(LINE_SIZE, whole);
    if (!memory)
        abort();
    return memset(memory, 0, whole);
}

static inline void event_fill(uint64_t *words, size_t word_count, uint64_t number, uint64_t stamp)
{
    words[0] = number;
    words[1] = stamp;
    for (size_t i = 2; i < word_count; i++)
        words[i] = number * 0x9e3779b97f4a7c15u + i;
}

static inline void reader_take(struct reader *reader, const uint64_t *words, size_t word_count)
{
    uint64_t number = words[0];
    uint64_t wrong = 0;
    unsigned publisher = (unsigned)(number >> 48) % PUBLISHER_COUNT_MAX;
    for (size_t i = 2; i < word_count; i++)
        wrong |= words[i] ^ (number * 0x9e3779b97f4a7c15u + i);
    if (reader->lossless)
        wrong |= number ^ (reader->last[publisher] + 1);
    else
        wrong |= number <= reader->last[publisher];
    if (!reader->timed)
        wrong |= words[1] ^ number;
    else if (reader->sample_count < SAMPLE_COUNT_MAX)
        reader->samples[reader->sample_count++] = (uint32_t)(clock_ns(CLOCK_MONOTONIC) - words[1]);
    reader->last[publisher] = number;
    reader->delivered++;
    reader->wrong += wrong != 0;
}

#endif
