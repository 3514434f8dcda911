/*
 * Counted pointers: an event is copied into memory of its own, a ring of pointers for each reader.
 * The last reader puts the memory on a list, from which the publisher takes it again. Both sides
 * give the processor away when they must wait, as ours do.
 */
#include "harness.h"

struct block {
    atomic_uint holders;
    struct block *next;
    size_t word_count;
    uint64_t words[];
};

struct ring {
    _Alignas(LINE_SIZE) atomic_size_t head;
    _Alignas(LINE_SIZE) atomic_size_t tail;
    struct block *blocks[BUFFER_COUNT];
};

struct pointers {
    struct ring *rings;
    unsigned count;
    bool lossless;
    atomic_bool ended;
    _Alignas(LINE_SIZE) struct block *_Atomic unused;
};

static void *bus_open(const struct round *round)
{
    struct pointers *pointers = allocate(sizeof(*pointers));
    must(round->publishers == 1, "one publisher");
    pointers->count = round->readers;
    pointers->lossless = round->lossless;
    pointers->rings = allocate(round->readers * sizeof(struct ring));
    return pointers;
}

/* release: who takes it sees that nobody reads it any more. */
static void release(struct pointers *pointers, struct block *block)
{
    if (atomic_fetch_sub_explicit(&block->holders, 1, memory_order_acq_rel) != 1)
        return;
    block->next = atomic_load_explicit(&pointers->unused, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&pointers->unused, &block->next, block,
                                                  memory_order_release, memory_order_relaxed))
        continue;
}

/* Only the one publisher takes, so the first block cannot leave and come back meanwhile. */
static struct block *take(struct pointers *pointers, size_t word_count)
{
    struct block *block = atomic_load_explicit(&pointers->unused, memory_order_acquire);
    while (block &&
           !atomic_compare_exchange_weak_explicit(&pointers->unused, &block, block->next,
                                                  memory_order_acquire, memory_order_acquire))
        continue;
    if (!block)
        block = malloc(sizeof(*block) + word_count * sizeof(uint64_t));
    must(block != NULL, "no memory");
    return block;
}

static bool put(struct ring *ring, struct block *block)
{
    size_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    if (tail - atomic_load_explicit(&ring->head, memory_order_acquire) == BUFFER_COUNT)
        return false;
    ring->blocks[tail % BUFFER_COUNT] = block;
    atomic_store_explicit(&ring->tail, tail + 1, memory_order_release);
    return true;
}

static void bus_publish(void *bus, unsigned publisher, const uint64_t *words, size_t word_count)
{
    struct pointers *pointers = bus;
    struct block *block = take(pointers, word_count);
    (void)publisher;
    atomic_init(&block->holders, pointers->count);
    block->word_count = word_count;
    memcpy(block->words, words, word_count * sizeof(uint64_t));
    for (unsigned i = 0; i < pointers->count; i++) {
        while (!put(&pointers->rings[i], block)) {
            if (!pointers->lossless) {
                release(pointers, block);
                break;
            }
            sched_yield();
        }
    }
}

static void bus_read(void *bus, struct reader *reader)
{
    struct pointers *pointers = bus;
    struct ring *ring = &pointers->rings[reader->index];
    size_t head = 0;
    for (;;) {
        bool ended = atomic_load_explicit(&pointers->ended, memory_order_acquire);
        if (atomic_load_explicit(&ring->tail, memory_order_acquire) == head) {
            if (ended)
                break;
            sched_yield();
            continue;
        }
        struct block *block = ring->blocks[head++ % BUFFER_COUNT];
        reader_take(reader, block->words, block->word_count);
        release(pointers, block);
        atomic_store_explicit(&ring->head, head, memory_order_release);
    }
}

static void bus_end(void *bus)
{
    struct pointers *pointers = bus;
    atomic_store(&pointers->ended, true);
}

static void bus_free(void *bus)
{
    struct pointers *pointers = bus;
    for (struct block *block; (block = pointers->unused) != NULL; free(block))
        pointers->unused = block->next;
    free(pointers->rings);
    free(pointers);
}

static bool bus_other(const struct round *round)
{
    (void)round;
    return false;
}

int main(void)
{
    return serve();
}
