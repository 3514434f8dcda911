/* Checking what a publisher gave, and copying it into one block. */
#include "bus/bus.h"

#include "base/adopt.h"
#include "base/hash.h"

#include <fanfare/kind.h>

#include <string.h>
#ifdef __x86_64__
#include <emmintrin.h>
#endif

/*
 * While no more than this waits, readers on other processors are close behind, and the lines of the
 * block were in their caches last: stores past the caches need not fetch them from there first.
 */
#define CLOSE_BEHIND_SIZE ((size_t)4 << 20)
#define PAST_CACHES_SIZE_MIN ((size_t)4 << 10)

/* Fills in kind and type, which must be those of the bus. */
static enum fan_status check_type(struct fan__draft *draft, const struct fan_message *message,
                                  const struct fan_bus *bus)
{
    if (!bus->kinds) {
        draft->type = message->type;
        return message->kind == 0 && message->type && message->type[0] != '\0' ? FAN_OK
                                                                               : FAN_INVALID;
    }
    if (message->kind >= bus->kind_count ||
        message->payload.size != bus->kinds[message->kind].payload_size)
        return FAN_INVALID;
    draft->type = bus->kinds[message->kind].name;
    return message->type && strcmp(message->type, draft->type) != 0 ? FAN_INVALID : FAN_OK;
}

enum fan_status fan__draft_init(struct fan__draft *draft, const struct fan_message *message,
                                const struct fan_bus *bus)
{
    if (!message || message->size < FAN_MESSAGE_SIZE)
        return FAN_INVALID;
    struct fan_message known;
    if (message->size > FAN_MESSAGE_SIZE &&
        !fan__adopt(&known, sizeof(known), message, FAN_MESSAGE_SIZE))
        return FAN_INVALID;
    draft->message = message;
    draft->kind = message->kind;
    draft->topic = message->topic ? message->topic : "";
    if ((message->payload.size > 0 && !message->payload.data) ||
        check_type(draft, message, bus) != FAN_OK)
        return FAN_INVALID;
    /* The one that came last was measured then. */
    draft->route = bus->last_route;
    if (draft->route && fan__route_is_of(draft->route, bus, draft)) {
        draft->type_size = draft->route->type_size;
        draft->topic_size = draft->route->topic_size;
        return FAN_OK;
    }
    draft->route = NULL;
    draft->type_size = strnlen(draft->type, FAN_TEXT_SIZE_MAX + 1);
    draft->topic_size = strnlen(draft->topic, FAN_TEXT_SIZE_MAX + 1);
    if (draft->type_size > FAN_TEXT_SIZE_MAX || draft->topic_size > FAN_TEXT_SIZE_MAX)
        return FAN_INVALID;
    return FAN_OK;
}

size_t fan__draft_block_size(const struct fan__draft *draft)
{
    return fan__arena_size(sizeof(struct fan__block) + draft->message->payload.size +
                           draft->type_size + 1 + draft->topic_size + 1);
}

/* Copies without reading into the caches first what is overwritten; `to` is aligned to 8 bytes. */
static void copy_past_caches(char *to, const char *from, size_t size)
{
    size_t at = 0;
#ifdef __x86_64__
    for (; size - at >= sizeof(long long); at += sizeof(long long)) {
        long long word;
        memcpy(&word, from + at, sizeof(word));
        _mm_stream_si64((long long *)(void *)(to + at), word);
    }
    /* These stores are ordered by nothing else, not even by a release. */
    _mm_sfence();
#endif
    memcpy(to + at, from + at, size - at);
}

static void copy_payload(const struct fan_bus *bus, char *to, const struct fan_str *payload)
{
    /* relaxed: a guess. */
    if (payload->size >= PAST_CACHES_SIZE_MIN && bus->processor_count > 1 &&
        atomic_load_explicit(&bus->held_size, memory_order_relaxed) < CLOSE_BEHIND_SIZE)
        copy_past_caches(to, payload->data, payload->size);
    else if (payload->size > 0)
        memcpy(to, payload->data, payload->size);
}

struct fan__block *fan__block_new(struct fan_bus *bus, const struct fan__draft *draft)
{
    _Static_assert(sizeof(struct fan__block) % 8 == 0, "the payload behind it is aligned");
    const struct fan_message *message = draft->message;
    size_t size = fan__draft_block_size(draft);
    struct fan__block *block = fan__arena_get(&bus->arena, size);
    if (!block)
        return NULL;
    char *payload = (char *)(block + 1);
    char *type = payload + message->payload.size;
    char *topic = type + draft->type_size + 1;
    copy_payload(bus, payload, &message->payload);
    memcpy(type, draft->type, draft->type_size);
    type[draft->type_size] = '\0';
    memcpy(topic, draft->topic, draft->topic_size);
    topic[draft->topic_size] = '\0';
    *block = (struct fan__block){
        .message = { .size = FAN_MESSAGE_SIZE,
                     .time_us = message->time_us != 0 ? message->time_us : fan__wall_us(bus->env),
                     .kind = draft->kind,
                     .type = type,
                     .topic = topic,
                     .payload = { payload, message->payload.size } },
        .size = size,
    };
    atomic_init(&block->holders, 1);
    if (bus->latest_count > 0)
        block->key = fan__hash(fan__hash(bus->hash_seed, draft->topic, draft->topic_size),
                               draft->type, draft->type_size);
    fan__bus_hold(bus, size);
    return block;
}

bool fan__block_same_key(const struct fan__block *a, const struct fan__block *b)
{
    return a->key == b->key && strcmp(a->message.topic, b->message.topic) == 0 &&
           strcmp(a->message.type, b->message.type) == 0;
}
