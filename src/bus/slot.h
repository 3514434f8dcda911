/*
 * The slots of a ring: writing, and reading against a writer who does not wait.
 *
 *     [ stamp | seq | time | sizes, touch | 4 words of data ]  [ 7 words of data | touch ]  ...
 *
 * in words of 8 bytes and lines of 8 words. The data are payload, type NUL and topic NUL; on a bus
 * with kinds the type is not in it, and no topic takes no byte.
 *
 * Nobody reads the words named touch. A line that a reader's processor has only read must be called
 * in from there before it is written again, and AMD's do that slowly: measured on Zen 4, 75 ns a
 * line, one after the other, whatever was prefetched; a line that was written there comes over in
 * 4 to 10 ns. So on these a reader writes into each line that it has copied, or is done with.
 *
 * Orders of memory. The writer makes the stamp odd, fences (release), stores the words (relaxed),
 * and stores the stamp of the position (release). A reader whom the gate does not look after loads
 * the stamp (acquire), copies the words (relaxed), fences (acquire), and loads the stamp again. If
 * one of the words came from a later write, the fences order that write's odd stamp before the
 * second load, so it differs. All shared words are atomic, so a torn copy is no data race; it is
 * thrown away.
 *
 * One whom the gate looks after needs no stamp: its slots are there as long as its place is not
 * marked, and it finds out by the compare-and-swap that moves its place (read.c). The mark is a
 * read-modify-write of that place with acquire, so what is written behind it is not seen by one
 * whose compare-and-swap (release) came first. What is lent in the ring is read behind that; it was
 * before the place that the compare-and-swap of the next batch releases, or lent_from does, and the
 * gate acquires one of the two before the slot is written again.
 */
#ifndef FAN_BUS_SLOT_H
#define FAN_BUS_SLOT_H

#include "base/futex.h"
#include "bus/bus.h"

#include <string.h>

/* So many slots ahead the writer asks for the lines, which a reader's processor has. */
#define FAN__SLOTS_AHEAD 8

/* The same in every slot that a message is written to; borrows the publisher's payload. */
struct fan__image {
    uint32_t sizes;
    const char *payload;
    size_t payload_words; /* whole ones */
    const char *rest;     /* the rest of the payload and the texts, in whole words */
    size_t rest_words;
    char bytes[sizeof(uint64_t) + 2 * (FAN_TEXT_SIZE_MAX + 1) + sizeof(uint64_t)];
};

/* Fills in an image of what fits a slot. */
void fan__image_init(struct fan__image *image, const struct fan_bus *bus,
                     const struct fan__draft *draft);

/*
 * The payload's size above 18 bits, then 9 bits each for the bytes of the topic and of the type,
 * or, on a bus with kinds, for the kind.
 */
static inline uint32_t fan__image_sizes(size_t payload_size, uint32_t text_sizes)
{
    return (uint32_t)payload_size << 18 | text_sizes;
}

static inline atomic_uint_least64_t *fan__slot_at(const struct fan__lane *lane, uint64_t position)
{
    return lane->slots + (position & lane->mask) * lane->slot_words;
}

/* The stamp of a position, once its slot is written; it is odd before. */
static inline uint64_t fan__stamp_of(uint64_t position)
{
    return (position + 1) * 2;
}

/* relaxed: see above. */
static inline void fan__store_word(atomic_uint_least64_t *word, const char *bytes)
{
    uint64_t value;
    memcpy(&value, bytes, sizeof(value));
    atomic_store_explicit(word, value, memory_order_relaxed);
}

/* Where the data of a line end that has the word `at`. */
static inline size_t fan__line_end(size_t at)
{
    return at < FAN__LINE_WORDS ? FAN__LINE_WORDS : at | (FAN__LINE_WORDS - 1);
}

static inline void fan__store_four(atomic_uint_least64_t *words, const char *bytes)
{
    fan__store_word(&words[0], bytes);
    fan__store_word(&words[1], bytes + 8);
    fan__store_word(&words[2], bytes + 16);
    fan__store_word(&words[3], bytes + 24);
}

/* Stores whole words of data from the slot's word `at` on; gives the word behind them. */
static inline size_t fan__store_words(atomic_uint_least64_t *slot, size_t at, const char *bytes,
                                      size_t count)
{
    while (count > 0) {
        size_t end = fan__line_end(at);
        if (count >= 4 && end - at >= 4) {
            fan__store_four(&slot[at], bytes);
            at += 4;
            bytes += 32;
            count -= 4;
        }
        for (; at < end && count > 0; count--) {
            fan__store_word(&slot[at++], bytes);
            bytes += sizeof(uint64_t);
        }
        if (at == end && at > FAN__LINE_WORDS)
            at++;
    }
    return at;
}

/* The two halves of a word: the sizes, and what a reader may write. */
static inline atomic_uint_least32_t *fan__slot_sizes(atomic_uint_least64_t *slot)
{
    return (atomic_uint_least32_t *)(void *)&slot[FAN__SLOT_SIZES];
}

static inline __attribute__((always_inline)) void fan__slot_write(const struct fan__lane *lane,
                                                                  uint64_t position,
                                                                  const struct fan__image *image,
                                                                  uint64_t seq, int64_t time_us)
{
    atomic_uint_least64_t *slot = fan__slot_at(lane, position);
    /* Past the end of the ring, once in a round, it asks for what it does not need. */
    uintptr_t ahead = (uintptr_t)slot + FAN__SLOTS_AHEAD * lane->slot_words * sizeof(*slot);
    fan__prefetch_write((const void *)ahead);
    fan__prefetch_write((const void *)(ahead + FAN__LINE_SIZE));
    /* relaxed, and the fence: see above. */
    atomic_store_explicit(&slot[FAN__SLOT_STAMP], fan__stamp_of(position) - 1,
                          memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    atomic_store_explicit(&slot[FAN__SLOT_SEQ], seq, memory_order_relaxed);
    atomic_store_explicit(&slot[FAN__SLOT_TIME], (uint64_t)time_us, memory_order_relaxed);
    atomic_store_explicit(fan__slot_sizes(slot), image->sizes, memory_order_relaxed);
    const char *bytes = image->payload;
    size_t at = FAN__SLOT_DATA;
    size_t left = image->payload_words;
    /* The first line and half of the second need no look for where a line ends. */
    for (; left >= 4 && at < FAN__LINE_WORDS + 4; left -= 4) {
        fan__store_four(&slot[at], bytes);
        at += 4;
        bytes += 32;
    }
    at = fan__store_words(slot, at, bytes, left);
    fan__store_words(slot, at, image->rest, image->rest_words);
    atomic_store_explicit(&slot[FAN__SLOT_STAMP], fan__stamp_of(position), memory_order_release);
}

#endif
