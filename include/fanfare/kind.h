/*
 * Kinds: message types with a C struct each, for a bus with a closed set.
 *
 *     struct pulse { char host[64]; bool reachable; };
 *     struct drift { char host[64]; double score; };
 *     enum { PULSE, DRIFT };
 *     FAN_KIND_DECLARE(pulse, PULSE, "host.pulse", struct pulse)
 *     FAN_KIND_DECLARE(drift, DRIFT, "host.drift", struct drift)
 *     static const struct fan_kind kinds[] = { FAN_KIND(pulse), FAN_KIND(drift) };
 *
 *     struct pulse sent = { .host = "db-1", .reachable = true };
 *     status = pulse_publish(bus, "hosts", &sent, NULL);
 *
 *     struct pulse pulse;
 *     struct drift drift;
 *     do {
 *         status = fan_subscription_next(subscription, FAN_TIMEOUT_FOREVER, &message);
 *         if (status == FAN_OK && pulse_read(message, &pulse) == FAN_OK)
 *             on_pulse(&pulse);
 *         else if (status == FAN_OK && drift_read(message, &drift) == FAN_OK)
 *             on_drift(&drift);
 *     } while (status != FAN_CLOSED);
 *
 * Another struct than the declared one does not compile, nor do two structs for one enumerator. An
 * index is a plain enumerator: of two words for one number, as `DRIFT` and `1`, the compiler does
 * not tell. A declaration with another index than its place in the table, or for the table of
 * another bus, is refused by the name, when it is published and when it is read.
 *
 * A struct is published as its bytes are, padding included: one that leaves the process, or is
 * compared by memcmp, wants its padding set (memset). Pointers in it are copied, not what they
 * point at.
 */
#ifndef FANFARE_KIND_H
#define FANFARE_KIND_H

#include <fanfare/bus.h>

#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One of a bus's closed set (bus.h). */
struct fan_kind {
    const char *name; /* a legal type (pattern.h), distinct within the set */
    size_t payload_size;
};

/* The entry in the table of what was declared with that prefix. */
#define FAN_KIND(prefix)                                                                           \
    {                                                                                              \
        prefix##_kind_name, sizeof(prefix##_kind_struct)                                           \
    }

/*
 * Defines two functions for the kind with that index (a plain enumerator, no expression: names are
 * made of it), name, and struct as payload:
 *
 * enum fan_status prefix_publish(bus, topic, const struct_type *value, uint64_t *ret_seq)
 *     Publishes. Returns, Memory, Thread, Blocks: as fan_bus_publish.
 *
 * enum fan_status prefix_read(const struct fan_message *message, struct_type *ret_value)
 *     Returns: FAN_INVALID when the message is of another kind or size.
 *     Memory:  the payload is copied, so it outlasts the message.
 *     Thread:  the reader. Blocks: never.
 *
 * unused: a program may publish a kind that it never reads.
 */
#define FAN_KIND_DECLARE(prefix, index, name, struct_type)                                         \
    typedef struct_type fan_kind_at_##index; /* one struct for it */                               \
    typedef struct_type prefix##_kind_struct;                                                      \
    __attribute__((unused)) static const char prefix##_kind_name[] = name;                         \
    FAN_MUST_CHECK __attribute__((unused)) static inline enum fan_status prefix##_publish(         \
        struct fan_bus *bus, const char *topic, const struct_type *value, uint64_t *ret_seq)       \
    {                                                                                              \
        struct fan_message message;                                                                \
        memset(&message, 0, sizeof(message));                                                      \
        message.size = sizeof(message);                                                            \
        message.kind = (index);                                                                    \
        message.type = prefix##_kind_name;                                                         \
        message.topic = topic;                                                                     \
        message.payload.data = (const char *)value;                                                \
        message.payload.size = sizeof(*value);                                                     \
        return fan_bus_publish(bus, &message, ret_seq);                                            \
    }                                                                                              \
    FAN_MUST_CHECK __attribute__((unused)) static inline enum fan_status prefix##_read(            \
        const struct fan_message *message, struct_type *ret_value)                                 \
    {                                                                                              \
        if (message->kind != (index) || message->payload.size != sizeof(*ret_value) ||             \
            (message->type != prefix##_kind_name &&                                                \
             strcmp(message->type, prefix##_kind_name) != 0))                                      \
            return FAN_INVALID;                                                                    \
        memcpy(ret_value, message->payload.data, sizeof(*ret_value));                              \
        return FAN_OK;                                                                             \
    }

#ifdef __cplusplus
}
#endif

#endif
