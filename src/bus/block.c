/* Checking what a publisher gave, and copying it into one block. */
#include "bus/bus.h"

#include "base/adopt.h"
#include "base/hash.h"

#include <fanfare/kind.h>

#include <string.h>

enum fan_status fan__draft_init(struct fan__draft *draft, const struct fan_message *message,
                                const struct fan_kind *kinds, size_t kind_count)
{
    if (!message || message->size < FAN_MESSAGE_SIZE)
        return FAN_INVALID;
    struct fan_message known;
    if (message->size > FAN_MESSAGE_SIZE &&
        !fan__adopt(&known, sizeof(known), message, FAN_MESSAGE_SIZE))
        return FAN_INVALID;
    *draft = (struct fan__draft){ .message = message, .kind = message->kind };
    if (message->payload.size > 0 && !message->payload.data)
        return FAN_INVALID;
    if (kinds) {
        if (message->kind >= kind_count ||
            message->payload.size != kinds[message->kind].payload_size)
            return FAN_INVALID;
        draft->type = kinds[message->kind].name;
        if (message->type && strcmp(message->type, draft->type) != 0)
            return FAN_INVALID;
    } else {
        if (message->kind != 0 || !message->type || message->type[0] == '\0')
            return FAN_INVALID;
        draft->type = message->type;
    }
    draft->type_size = strnlen(draft->type, FAN_TEXT_SIZE_MAX + 1);
    draft->topic = message->topic ? message->topic : "";
    draft->topic_size = strnlen(draft->topic, FAN_TEXT_SIZE_MAX + 1);
    if (draft->type_size > FAN_TEXT_SIZE_MAX || draft->topic_size > FAN_TEXT_SIZE_MAX)
        return FAN_INVALID;
    return FAN_OK;
}

size_t fan__draft_block_size(const struct fan__draft *draft)
{
    return sizeof(struct fan__block) + draft->message->payload.size + draft->type_size + 1 +
           draft->topic_size + 1;
}

struct fan__block *fan__block_new(struct fan_bus *bus, const struct fan__draft *draft)
{
    _Static_assert(sizeof(struct fan__block) % 8 == 0, "the payload behind it is aligned");
    const struct fan_message *message = draft->message;
    size_t size = fan__draft_block_size(draft);
    struct fan__block *block = fan__alloc(bus->env, size);
    if (!block)
        return NULL;
    char *payload = (char *)(block + 1);
    char *type = payload + message->payload.size;
    char *topic = type + draft->type_size + 1;
    if (message->payload.size > 0)
        memcpy(payload, message->payload.data, message->payload.size);
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
    /* relaxed: it is a sum. */
    atomic_fetch_add_explicit(&bus->held_size, size, memory_order_relaxed);
    return block;
}

bool fan__block_same_key(const struct fan__block *a, const struct fan__block *b)
{
    return a->key == b->key && strcmp(a->message.topic, b->message.topic) == 0 &&
           strcmp(a->message.type, b->message.type) == 0;
}
