/*
 * Kinds: message types with a C struct each, for a bus with a closed set.
 *
 *     struct pulse { char host[64]; bool reachable; };
 *     struct drift { char host[64]; double score; };
 *     enum { PULSE, DRIFT };
 *     static const struct fan_kind kinds[] = { FAN_KIND("host.pulse", struct pulse),
 *                                              FAN_KIND("host.drift", struct drift) };
 *     FAN_KIND_DECLARE(pulse, PULSE, struct pulse)
 *
 * declares pulse_publish(bus, topic, &pulse, &seq) and pulse_read(message, &pulse): another struct
 * does not compile, and a message of another kind is a typed error.
 */
#ifndef FANFARE_KIND_H
#define FANFARE_KIND_H

#include <fanfare/bus.h>

#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

struct fan_kind {
    const char *name; /* a legal type (pattern.h), distinct within the set */
    size_t payload_size;
};

#define FAN_KIND(name, struct_type)                                                                \
    {                                                                                              \
        (name), sizeof(struct_type)                                                                \
    }

/* unused: a program may publish a kind that it never reads. */
#define FAN_KIND_DECLARE(prefix, index, struct_type)                                               \
    FAN_MUST_CHECK __attribute__((unused)) static inline enum fan_status prefix##_publish(         \
        struct fan_bus *bus, const char *topic, const struct_type *value, uint64_t *ret_seq)       \
    {                                                                                              \
        struct fan_message message;                                                                \
        memset(&message, 0, sizeof(message));                                                      \
        message.size = sizeof(message);                                                            \
        message.kind = (index);                                                                    \
        message.topic = topic;                                                                     \
        message.payload.data = (const char *)value;                                                \
        message.payload.size = sizeof(*value);                                                     \
        return fan_bus_publish(bus, &message, ret_seq);                                            \
    }                                                                                              \
    FAN_MUST_CHECK __attribute__((unused)) static inline enum fan_status prefix##_read(            \
        const struct fan_message *message, struct_type *ret_value)                                 \
    {                                                                                              \
        if (message->kind != (index) || message->payload.size != sizeof(*ret_value))               \
            return FAN_INVALID;                                                                    \
        memcpy(ret_value, message->payload.data, sizeof(*ret_value));                              \
        return FAN_OK;                                                                             \
    }

#ifdef __cplusplus
}
#endif

#endif
