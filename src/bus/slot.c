/* What is written into a slot, and reading it back: see slot.h. */
#include "bus/slot.h"

#include <fanfare/kind.h>

#include <assert.h>
#include <string.h>

#define WORD_SIZE sizeof(uint64_t)
/* Words of data in the first line of a slot, and in each of the others. */
#define FIRST_COUNT (FAN__LINE_WORDS - FAN__SLOT_DATA)
#define LINE_COUNT (FAN__LINE_WORDS - 1)
/* What is not longer has nothing between its words. */
#define ONE_PIECE_COUNT (FIRST_COUNT + LINE_COUNT)

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
    size_t room = fan__slot_room(bus->slot_words);
    size_t text = fan__text_bytes(bus, draft);
    return text <= room && draft->message->payload.size <= room - text;
}

uint32_t fan__text_sizes(const struct fan_bus *bus, const struct fan__draft *draft)
{
    uint32_t type = bus->kinds ? draft->kind : (uint32_t)type_bytes(bus, draft);
    return (uint32_t)topic_bytes(draft) << 9 | type;
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

/* Makes the message of its header but for what differs from one to the next. */
static void decode_form(const struct fan_bus *bus, struct fan__lent *lent, uint32_t sizes)
{
    struct fan_message *message = &lent->message;
    size_t payload_size = sizes >> 18;
    size_t topic_size = sizes >> 9 & 0x1ff;
    unsigned kind = bus->kinds ? sizes & 0x1ff : 0;
    size_t type_size = bus->kinds ? 0 : sizes & 0x1ff;
    message->size = FAN_MESSAGE_SIZE;
    message->kind = kind;
    message->type = bus->kinds ? bus->kinds[kind].name : NULL;
    message->topic = "";
    message->payload.size = payload_size;
    lent->form = sizes + 1;
    lent->word_count =
        (uint16_t)((payload_size + type_size + topic_size + WORD_SIZE - 1) / WORD_SIZE);
    lent->has_texts = type_size + topic_size > 0;
}

/* Makes the message of its header but for the data. */
static inline void decode(const struct fan_bus *bus, struct fan__lent *lent, uint64_t seq,
                          uint64_t time_us, uint32_t sizes)
{
    /* Most are of the form of the one that was lent here before. */
    if (lent->form != sizes + 1)
        decode_form(bus, lent, sizes);
    lent->message.seq = seq;
    lent->message.time_us = (int64_t)time_us;
}

/* Says where its data are. */
static inline void locate(const struct fan_bus *bus, struct fan__lent *lent, const void *data)
{
    struct fan_message *message = &lent->message;
    message->payload.data = data;
    if (!lent->has_texts)
        return;
    const char *text = (const char *)data + message->payload.size;
    uint32_t sizes = lent->form - 1;
    if (!bus->kinds) {
        message->type = text;
        text += sizes & 0x1ff;
    }
    if ((sizes >> 9 & 0x1ff) > 0)
        message->topic = text;
}

/* relaxed, as all in copy_slot. */
static inline void copy_word(uint64_t *word, atomic_uint_least64_t *slot)
{
    *word = atomic_load_explicit(slot, memory_order_relaxed);
}

static inline void copy_four(uint64_t *words, atomic_uint_least64_t *slot)
{
    copy_word(&words[0], &slot[0]);
    copy_word(&words[1], &slot[1]);
    copy_word(&words[2], &slot[2]);
    copy_word(&words[3], &slot[3]);
}

/*
 * The header of a slot. relaxed: the stamp or the place tells whether its words belong together.
 * The sizes may be those of another message then, but one that was in this slot, or none.
 */
static inline void read_header(const struct fan_bus *bus, struct fan__lent *lent,
                               atomic_uint_least64_t *slot)
{
    uint64_t seq = atomic_load_explicit(&slot[FAN__SLOT_SEQ], memory_order_relaxed);
    uint64_t time_us = atomic_load_explicit(&slot[FAN__SLOT_TIME], memory_order_relaxed);
    decode(bus, lent, seq, time_us,
           atomic_load_explicit(fan__slot_sizes(slot), memory_order_relaxed));
}

/* Writes into a line that was read; see slot.h. relaxed: nobody reads it. */
static inline void touch_first(atomic_uint_least64_t *slot)
{
    atomic_store_explicit(fan__slot_sizes(slot) + 1, 0, memory_order_relaxed);
}

/* relaxed: nobody reads it. */
static inline void touch_further(atomic_uint_least64_t *line)
{
    atomic_store_explicit(&line[LINE_COUNT], 0, memory_order_relaxed);
}

/* Copies the data up to the end of a line or half a one. */
static inline void copy_data(struct fan__lent *lent, uint64_t *words, atomic_uint_least64_t *slot,
                             bool touch)
{
    size_t count = lent->word_count;
    copy_four(words, slot + FAN__SLOT_DATA);
    if (touch)
        touch_first(slot);
    for (size_t i = FIRST_COUNT; i < count; i += LINE_COUNT) {
        slot += FAN__LINE_WORDS;
        copy_four(words + i, slot);
        if (count - i > 4) {
            copy_word(&words[i + 4], &slot[4]);
            copy_word(&words[i + 5], &slot[5]);
            copy_word(&words[i + 6], &slot[6]);
        }
        if (touch)
            touch_further(slot);
    }
}

static inline void copy_slot(const struct fan_bus *bus, struct fan__lent *lent, uint64_t *words,
                             atomic_uint_least64_t *slot)
{
    read_header(bus, lent, slot);
    locate(bus, lent, words);
    copy_data(lent, words, slot, bus->touch);
}

void fan__slots_copy(const struct fan__lane *lane, uint64_t position, size_t count,
                     struct fan__lent *lent, uint64_t *words)
{
    const struct fan_bus *bus = lane->bus;
    for (size_t i = 0; i < count; i++, words += bus->lent_words)
        copy_slot(bus, &lent[i], words, fan__slot_at(lane, position + i));
}

void fan__slots_lend(const struct fan__lane *lane, uint64_t position, size_t count,
                     struct fan__lent *lent, uint64_t *words)
{
    const struct fan_bus *bus = lane->bus;
    for (size_t i = 0; i < count; i++) {
        atomic_uint_least64_t *slot = fan__slot_at(lane, position + i);
        read_header(bus, &lent[i], slot);
        if (lent[i].word_count <= ONE_PIECE_COUNT) {
            locate(bus, &lent[i], slot + FAN__SLOT_DATA);
            continue;
        }
        locate(bus, &lent[i], words + i * bus->lent_words);
        copy_data(&lent[i], words + i * bus->lent_words, slot, bus->touch);
    }
}

void fan__slots_touch(const struct fan__lane *lane, uint64_t position, size_t count,
                      const struct fan__lent *lent)
{
    for (size_t i = 0; lane->bus->touch && i < count; i++) {
        atomic_uint_least64_t *slot = fan__slot_at(lane, position + i);
        if (lent[i].word_count > ONE_PIECE_COUNT)
            continue;
        touch_first(slot);
        if (lent[i].word_count > FIRST_COUNT)
            touch_further(slot + FAN__LINE_WORDS);
    }
}

size_t fan__slots_read(const struct fan__lane *lane, uint64_t position, size_t count,
                       struct fan__lent *lent, uint64_t *words)
{
    const struct fan_bus *bus = lane->bus;
    for (size_t i = 0; i < count; i++, words += bus->lent_words) {
        atomic_uint_least64_t *slot = fan__slot_at(lane, position + i);
        if (!is_there(slot, position + i))
            return i;
        copy_slot(bus, &lent[i], words, slot);
        if (!still_there(slot, position + i))
            return i;
    }
    return count;
}

void fan__words_lend(const struct fan_bus *bus, const uint64_t *slot, struct fan__lent *lent,
                     uint64_t *words)
{
    decode(bus, lent, slot[FAN__SLOT_SEQ], slot[FAN__SLOT_TIME], (uint32_t)slot[FAN__SLOT_SIZES]);
    locate(bus, lent, words);
    memcpy(words, slot + FAN__SLOT_DATA, FIRST_COUNT * WORD_SIZE);
    for (size_t i = FIRST_COUNT; i < lent->word_count; i += LINE_COUNT) {
        slot += FAN__LINE_WORDS;
        memcpy(words + i, slot, LINE_COUNT * WORD_SIZE);
    }
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
        /* relaxed: only the turn writes it, but for what nobody reads. */
        copy_word(&words[FAN__SLOT_SEQ], &slot[FAN__SLOT_SEQ]);
        copy_word(&words[FAN__SLOT_TIME], &slot[FAN__SLOT_TIME]);
        words[FAN__SLOT_SIZES] = atomic_load_explicit(fan__slot_sizes(slot), memory_order_relaxed);
        for (size_t i = FAN__SLOT_DATA; i < lane->slot_words; i++)
            copy_word(&words[i], &slot[i]);
    }
    fan__bus_hold(bus, size);
    return segment;
}
