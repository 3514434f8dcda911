/*
 * iceoryx, through its binding for C, with its broker in the same process (roudi.cpp). Queues of
 * 256, the most that Debian's build has, overwrite the oldest; readers poll and give the processor
 * away.
 */
#include "harness.h"

#include <iceoryx_binding_c/publisher.h>
#include <iceoryx_binding_c/runtime.h>
#include <iceoryx_binding_c/subscriber.h>

#include <fcntl.h>
#include <unistd.h>

#define QUEUE_COUNT 256

void roudi_start(void);

struct iceoryx {
    iox_pub_storage_t publisher_storage;
    iox_pub_t publisher;
    iox_sub_storage_t reader_storage[READER_COUNT_MAX];
    iox_sub_t readers[READER_COUNT_MAX];
    unsigned count;
    atomic_bool ended;
};

static void *bus_open(const struct round *round)
{
    struct iceoryx *iceoryx = allocate(sizeof(*iceoryx));
    iox_pub_options_t publisher;
    iox_sub_options_t reader;
    must(round->publishers == 1 && !round->lossless, "one publisher that loses");
    iox_pub_options_init(&publisher);
    iceoryx->publisher =
        iox_pub_init(&iceoryx->publisher_storage, "bench", "bus", "events", &publisher);
    iceoryx->count = round->readers;
    for (unsigned i = 0; i < round->readers; i++) {
        iox_sub_options_init(&reader);
        reader.queueCapacity = QUEUE_COUNT;
        iceoryx->readers[i] =
            iox_sub_init(&iceoryx->reader_storage[i], "bench", "bus", "events", &reader);
        while (iox_sub_get_subscription_state(iceoryx->readers[i]) != SubscribeState_SUBSCRIBED)
            sched_yield();
    }
    return iceoryx;
}

static void bus_publish(void *bus, unsigned publisher, const uint64_t *words, size_t word_count)
{
    struct iceoryx *iceoryx = bus;
    void *chunk = NULL;
    (void)publisher;
    if (iox_pub_loan_chunk(iceoryx->publisher, &chunk, (uint32_t)(word_count * sizeof(uint64_t))) !=
        AllocationResult_SUCCESS)
        return;
    memcpy(chunk, words, word_count * sizeof(uint64_t));
    iox_pub_publish_chunk(iceoryx->publisher, chunk);
}

static void bus_read(void *bus, struct reader *reader)
{
    struct iceoryx *iceoryx = bus;
    iox_sub_t own = iceoryx->readers[reader->index];
    for (;;) {
        bool ended = atomic_load(&iceoryx->ended);
        const void *chunk = NULL;
        if (iox_sub_take_chunk(own, &chunk) == ChunkReceiveResult_SUCCESS) {
            reader_take(reader, chunk, WORD_COUNT);
            iox_sub_release_chunk(own, chunk);
        } else if (ended) {
            break;
        } else {
            sched_yield();
        }
    }
}

static void bus_end(void *bus)
{
    struct iceoryx *iceoryx = bus;
    atomic_store(&iceoryx->ended, true);
}

static void bus_free(void *bus)
{
    struct iceoryx *iceoryx = bus;
    for (unsigned i = 0; i < iceoryx->count; i++)
        iox_sub_deinit(iceoryx->readers[i]);
    iox_pub_deinit(iceoryx->publisher);
    free(iceoryx);
}

static bool bus_other(const struct round *round)
{
    (void)round;
    return false;
}

/* What it says while it starts is no answer. */
int main(void)
{
    int answers = dup(STDOUT_FILENO);
    int errors = dup(STDERR_FILENO);
    int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
    must(answers >= 0 && errors >= 0 && nowhere >= 0, "no descriptor");
    dup2(nowhere, STDOUT_FILENO);
    dup2(nowhere, STDERR_FILENO);
    roudi_start();
    dup2(answers, STDOUT_FILENO);
    dup2(errors, STDERR_FILENO);
    return serve();
}
