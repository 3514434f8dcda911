/*
 * Slots: writing, and reading against a writer who does not wait.
 *
 * Orders of memory. The writer makes the stamp odd, fences (release), stores the words (relaxed),
 * and stores the stamp of the position (release). A reader loads the stamp (acquire), copies the
 * words (relaxed), fences (acquire), and loads the stamp again. If one of the words came from a
 * later write, the fences order that write's odd stamp before the second load, so it differs. All
 * shared words are atomic, so a torn copy is no data race; it is thrown away.
 */
#include "bus/bus.h"

#include <fanfare/kind.h>

#include <assert.h>
#include <string.h>

#define WORD_SIZE sizeof(uint64_t)

/* The stamp of a position, once its slot is written; it is odd before. */
static uint64_t stamp_of(uint64_t position)
{
    return (position + 1) * 2;
}

static atomic_uint_least64_t *slot_at(const struct fan__lane *lane, uint64_t position)
{
    return lane->slots + (position & lane->mask) * lane->slot_words;
}

/* On a bus with kinds, the type is known from the kind. */
static size_t type_bytes(const struct fan_bus *bus, const struct fan__draft *draft)
{
    return bus->kinds ? 0 : draft->type_size + 1;
}

bool fan__slot_fits(const struct fan_bus *bus, const struct fan__draft *draft)
{
    size_t room = (bus->slot_words - FAN__SLOT_DATA) * WORD_SIZE;
    size_t text = type_bytes(bus, draft) + draft->topic_size + 1;
    return text <= room && draft->message->payload.size <= room - text;
}

static size_t words_for(uint64_t sizes)
{
    size_t type = sizes >> 8 & 0x1ff;
    size_t topic = sizes >> 17 & 0x1ff;
    return ((size_t)(sizes >> 32) + type + topic + WORD_SIZE - 1) / WORD_SIZE;
}

/* Stores whole words; relaxed: see above. */
static void store_words(atomic_uint_least64_t *words, const char *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t word;
        memcpy(&word, bytes + i * WORD_SIZE, WORD_SIZE);
        atomic_store_explicit(&words[i], word, memory_order_relaxed);
    }
}

/* The rest of a payload, type NUL, topic NUL. */
struct end {
    char bytes[WORD_SIZE + 2 * (FAN_TEXT_SIZE_MAX + 1) + WORD_SIZE];
};

static const char *end_of(const struct fan__draft *draft, size_t type_size, struct end *end)
{
    const struct fan_str *payload = &draft->message->payload;
    size_t rest = payload->size % WORD_SIZE;
    /* A route has the texts as they are wanted. */
    if (rest == 0 && draft->route)
        return draft->route->key + (type_size > 0 ? 0 : draft->type_size + 1);
    if (rest > 0)
        memcpy(end->bytes, payload->data + payload->size - rest, rest);
    memcpy(end->bytes + rest, draft->type, type_size);
    memcpy(end->bytes + rest + type_size, draft->topic, draft->topic_size);
    memset(end->bytes + rest + type_size + draft->topic_size, 0, WORD_SIZE);
    return end->bytes;
}

void fan__slot_write(struct fan__lane *lane, uint64_t position, const struct fan__draft *draft,
                     uint64_t seq, int64_t time_us)
{
    atomic_uint_least64_t *slot = slot_at(lane, position);
    const struct fan_str *payload = &draft->message->payload;
    size_t type_size = type_bytes(lane->bus, draft);
    size_t whole = payload->size / WORD_SIZE;
    size_t text = payload->size % WORD_SIZE + type_size + draft->topic_size + 1;
    struct end end;
    const char *bytes = end_of(draft, type_size, &end);
    uint64_t sizes = (uint64_t)payload->size << 32 | (uint64_t)(draft->topic_size + 1) << 17 |
                     (uint64_t)type_size << 8 | draft->kind;

    /* relaxed, and the fences: see above. */
    atomic_store_explicit(&slot[FAN__SLOT_STAMP], stamp_of(position) - 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    atomic_store_explicit(&slot[FAN__SLOT_SEQ], seq, memory_order_relaxed);
    atomic_store_explicit(&slot[FAN__SLOT_TIME], (uint64_t)time_us, memory_order_relaxed);
    atomic_store_explicit(&slot[FAN__SLOT_SIZES], sizes, memory_order_relaxed);
    store_words(slot + FAN__SLOT_DATA, payload->data, whole);
    store_words(slot + FAN__SLOT_DATA + whole, bytes, (text + WORD_SIZE - 1) / WORD_SIZE);
    atomic_store_explicit(&slot[FAN__SLOT_STAMP], stamp_of(position), memory_order_release);
}

static bool still_there(atomic_uint_least64_t *slot, uint64_t position)
{
    atomic_thread_fence(memory_order_acquire);
    return atomic_load_explicit(&slot[FAN__SLOT_STAMP], memory_order_relaxed) == stamp_of(position);
}

static bool is_there(atomic_uint_least64_t *slot, uint64_t position)
{
    return atomic_load_explicit(&slot[FAN__SLOT_STAMP], memory_order_acquire) == stamp_of(position);
}

static bool read_words(const struct fan__lane *lane, uint64_t position, uint64_t *ret_words)
{
    atomic_uint_least64_t *slot = slot_at(lane, position);
    if (!is_there(slot, position))
        return false;
    /* relaxed: the stamp tells whether they belong together. */
    uint64_t sizes = atomic_load_explicit(&slot[FAN__SLOT_SIZES], memory_order_relaxed);
    size_t count = FAN__SLOT_DATA + words_for(sizes);
    /* Sizes that are being overwritten may be those of another message, but not beyond a slot. */
    if (count > lane->slot_words)
        return false;
    /* Four at a time, with what is behind the last: a slot is a multiple of that. */
    for (size_t i = 0; i < count; i += 4) {
        uint64_t first = atomic_load_explicit(&slot[i], memory_order_relaxed);
        uint64_t second = atomic_load_explicit(&slot[i + 1], memory_order_relaxed);
        uint64_t third = atomic_load_explicit(&slot[i + 2], memory_order_relaxed);
        uint64_t fourth = atomic_load_explicit(&slot[i + 3], memory_order_relaxed);
        ret_words[i] = first;
        ret_words[i + 1] = second;
        ret_words[i + 2] = third;
        ret_words[i + 3] = fourth;
    }
    return still_there(slot, position);
}

bool fan__slot_seq(const struct fan__lane *lane, uint64_t position, uint64_t *ret_seq)
{
    atomic_uint_least64_t *slot = slot_at(lane, position);
    if (!is_there(slot, position))
        return false;
    *ret_seq = atomic_load_explicit(&slot[FAN__SLOT_SEQ], memory_order_relaxed);
    return still_there(slot, position);
}

void fan__lent_decode(const struct fan_bus *bus, struct fan__lent *lent)
{
    uint64_t sizes = lent->words[FAN__SLOT_SIZES];
    unsigned kind = sizes & 0xff;
    const char *data = (const char *)(lent->words + FAN__SLOT_DATA);
    const char *type = data + (sizes >> 32);
    lent->block = NULL;
    lent->message = (struct fan_message){
        .size = FAN_MESSAGE_SIZE,
        .seq = lent->words[FAN__SLOT_SEQ],
        .time_us = (int64_t)lent->words[FAN__SLOT_TIME],
        .kind = kind,
        .type = bus->kinds ? bus->kinds[kind].name : type,
        .topic = type + (sizes >> 8 & 0x1ff),
        .payload = { data, (size_t)(sizes >> 32) },
    };
}

size_t fan__slots_read(const struct fan__lane *lane, uint64_t position, size_t count,
                       struct fan__lent *first)
{
    const struct fan_bus *bus = lane->bus;
    size_t lent_size = fan__lent_size(bus);
    struct fan__lent *lent = first;
    for (size_t i = 0; i < count; i++) {
        if (!read_words(lane, position + i, lent->words))
            return i;
        fan__lent_decode(bus, lent);
        lent = (struct fan__lent *)(void *)((char *)lent + lent_size);
    }
    return count;
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
        bool there =
            read_words(lane, position, segment->words + (position - start) * lane->slot_words);
        assert(there);
        (void)there;
    }
    /* relaxed: it is a sum. */
    atomic_fetch_add_explicit(&bus->held_size, size, memory_order_relaxed);
    return segment;
}
