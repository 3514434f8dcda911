/* What is written into a slot, and reading it back: see slot.h. */
#include "bus/slot.h"

#include <fanfare/kind.h>

#include <assert.h>
#include <string.h>

#define WORD_SIZE sizeof(uint64_t)

/* On a bus with kinds, the type is known from the kind. */
static size_t type_bytes(const struct fan_bus *bus, const struct fan__draft *draft)
{
    return bus->kinds ? 0 : draft->type_size + 1;
}

/* No topic takes nothing. */
static size_t topic_bytes(const struct fan__draft *draft)
{
    return draft->topic_size > 0 ? draft->topic_size + 1 : 0;
}

size_t fan__text_bytes(const struct fan_bus *bus, const struct fan__draft *draft)
{
    return type_bytes(bus, draft) + topic_bytes(draft);
}

bool fan__slot_fits(const struct fan_bus *bus, const struct fan__draft *draft)
{
    size_t room = (bus->slot_words - FAN__SLOT_DATA) * WORD_SIZE;
    size_t text = fan__text_bytes(bus, draft);
    return text <= room && draft->message->payload.size <= room - text;
}

uint32_t fan__text_sizes(const struct fan_bus *bus, const struct fan__draft *draft)
{
    return (uint32_t)topic_bytes(draft) << 17 | (uint32_t)type_bytes(bus, draft) << 8 | draft->kind;
}

void fan__image_init(struct fan__image *image, const struct fan_bus *bus,
                     const struct fan__draft *draft)
{
    const struct fan_str *payload = &draft->message->payload;
    size_t type_size = type_bytes(bus, draft);
    size_t rest = payload->size % WORD_SIZE;
    size_t text = fan__text_bytes(bus, draft);
    image->sizes = fan__image_sizes(payload->size, fan__text_sizes(bus, draft));
    image->payload = payload->data;
    image->payload_words = payload->size / WORD_SIZE;
    image->rest = image->bytes;
    image->rest_words = (rest + text + WORD_SIZE - 1) / WORD_SIZE;
    if (rest > 0)
        memcpy(image->bytes, payload->data + payload->size - rest, rest);
    if (type_size > 0)
        memcpy(image->bytes + rest, draft->type, type_size);
    memcpy(image->bytes + rest + type_size, draft->topic, draft->topic_size);
    memset(image->bytes + rest + type_size + draft->topic_size, 0, WORD_SIZE);
}

static bool still_there(atomic_uint_least64_t *slot, uint64_t position)
{
    /* acquire: the words came before; relaxed: the fence orders it. */
    atomic_thread_fence(memory_order_acquire);
    return atomic_load_explicit(&slot[FAN__SLOT_STAMP], memory_order_relaxed) ==
           fan__stamp_of(position);
}

static bool is_there(atomic_uint_least64_t *slot, uint64_t position)
{
    /* acquire: the words come after. */
    return atomic_load_explicit(&slot[FAN__SLOT_STAMP], memory_order_acquire) ==
           fan__stamp_of(position);
}

bool fan__slot_seq(const struct fan__lane *lane, uint64_t position, uint64_t *ret_seq)
{
    atomic_uint_least64_t *slot = fan__slot_at(lane, position);
    if (!is_there(slot, position))
        return false;
    /* relaxed: between the stamps. */
    *ret_seq = atomic_load_explicit(&slot[FAN__SLOT_SEQ], memory_order_relaxed);
    return still_there(slot, position);
}

/* The words behind the header, for the payload and the texts. */
static inline size_t data_words(uint64_t sizes)
{
    size_t type = sizes >> 8 & 0x1ff;
    size_t topic = sizes >> 17 & 0x1ff;
    return ((size_t)(sizes >> 32) + type + topic + WORD_SIZE - 1) / WORD_SIZE;
}

/* Makes the message of its header; its data is in lent->words, or will be. */
static inline void decode(const struct fan_bus *bus, struct fan__lent *lent, uint64_t seq,
                          uint64_t time_us, uint64_t sizes)
{
    struct fan_message *message = &lent->message;
    unsigned kind = sizes & 0xff;
    const char *data = (const char *)lent->words;
    const char *type = data + (sizes >> 32);
    lent->block = NULL;
    message->size = FAN_MESSAGE_SIZE;
    message->seq = seq;
    message->time_us = (int64_t)time_us;
    message->kind = kind;
    message->type = bus->kinds ? bus->kinds[kind].name : type;
    message->topic = sizes >> 17 & 0x1ff ? type + (sizes >> 8 & 0x1ff) : "";
    message->payload.data = data;
    message->payload.size = sizes >> 32;
}

/*
 * relaxed: the stamp or the place tells whether they belong together. The sizes may be those of
 * another message then, but one that was in this slot.
 */
static inline void copy_slot(const struct fan_bus *bus, struct fan__lent *lent,
                             atomic_uint_least64_t *slot)
{
    uint64_t seq = atomic_load_explicit(&slot[FAN__SLOT_SEQ], memory_order_relaxed);
    uint64_t time_us = atomic_load_explicit(&slot[FAN__SLOT_TIME], memory_order_relaxed);
    uint64_t sizes = atomic_load_explicit(&slot[FAN__SLOT_SIZES], memory_order_relaxed);
    decode(bus, lent, seq, time_us, sizes);
    size_t count = data_words(sizes);
    uint64_t *words = lent->words;
    slot += FAN__SLOT_DATA;
    /* Four at a time, with what is behind the last: a slot is a multiple of that. */
    for (size_t i = 0; i < count; i += 4) {
        uint64_t first = atomic_load_explicit(&slot[i], memory_order_relaxed);
        uint64_t second = atomic_load_explicit(&slot[i + 1], memory_order_relaxed);
        uint64_t third = atomic_load_explicit(&slot[i + 2], memory_order_relaxed);
        uint64_t fourth = atomic_load_explicit(&slot[i + 3], memory_order_relaxed);
        words[i] = first;
        words[i + 1] = second;
        words[i + 2] = third;
        words[i + 3] = fourth;
    }
}

static struct fan__lent *next_lent(const struct fan_bus *bus, struct fan__lent *lent)
{
    return (struct fan__lent *)(void *)((char *)lent + bus->lent_size);
}

void fan__slots_copy(const struct fan__lane *lane, uint64_t position, size_t count,
                     struct fan__lent *first)
{
    const struct fan_bus *bus = lane->bus;
    struct fan__lent *lent = first;
    for (size_t i = 0; i < count; i++) {
        copy_slot(bus, lent, fan__slot_at(lane, position + i));
        lent = next_lent(bus, lent);
    }
}

size_t fan__slots_read(const struct fan__lane *lane, uint64_t position, size_t count,
                       struct fan__lent *first)
{
    const struct fan_bus *bus = lane->bus;
    struct fan__lent *lent = first;
    for (size_t i = 0; i < count; i++) {
        atomic_uint_least64_t *slot = fan__slot_at(lane, position + i);
        if (!is_there(slot, position + i))
            return i;
        copy_slot(bus, lent, slot);
        if (!still_there(slot, position + i))
            return i;
        lent = next_lent(bus, lent);
    }
    return count;
}

void fan__words_lend(const struct fan_bus *bus, const uint64_t *words, struct fan__lent *lent)
{
    decode(bus, lent, words[FAN__SLOT_SEQ], words[FAN__SLOT_TIME], words[FAN__SLOT_SIZES]);
    memcpy(lent->words, words + FAN__SLOT_DATA, data_words(words[FAN__SLOT_SIZES]) * WORD_SIZE);
}

struct fan__segment *fan__segment_new(const struct fan__lane *lane, uint64_t start, uint64_t end)
{
    struct fan_bus *bus = lane->bus;
    size_t size = sizeof(struct fan__segment) + (end - start) * lane->slot_words * WORD_SIZE;
    struct fan__segment *segment = fan__alloc(bus->env, size);
    if (!segment)
        return NULL;
    *segment = (struct fan__segment){
        .size = size, .start = start, .end = end, .slot_words = lane->slot_words
    };
    atomic_init(&segment->holders, 1);
    for (uint64_t position = start; position < end; position++) {
        atomic_uint_least64_t *slot = fan__slot_at(lane, position);
        uint64_t *words = segment->words + (position - start) * lane->slot_words;
        assert(is_there(slot, position));
        /* relaxed: only the turn writes it. */
        for (size_t i = 0; i < lane->slot_words; i++)
            words[i] = atomic_load_explicit(&slot[i], memory_order_relaxed);
    }
    fan__bus_hold(bus, size);
    return segment;
}
