/*
 * The inside of the event for those who make many of them: providers that rebuild events from
 * columns, and rings that stamp sequences.
 */
#ifndef FAN_EVENT_EVENT_H
#define FAN_EVENT_EVENT_H

#include <fanfare/event.h>

/* The strings of an event, in the order in which they lie in its block. */
enum fan__event_text {
    FAN__EVENT_ID,
    FAN__EVENT_TYPE,
    FAN__EVENT_TOPIC,
    FAN__EVENT_SCHEMA,
    FAN__EVENT_ENTITY,
    FAN__EVENT_OPERATION,
    FAN__EVENT_SESSION_ID,
    FAN__EVENT_INSTANCE_ID,
    FAN__EVENT_CONTENT_TYPE,
    FAN__EVENT_TRACEPARENT,
    FAN__EVENT_TEXT_COUNT,
};

/* Where everything goes: measured once, used to reserve and then to write. */
struct fan__event_layout {
    const char *texts[FAN__EVENT_TEXT_COUNT];
    uint32_t at[FAN__EVENT_TEXT_COUNT];
    uint32_t text_sizes[FAN__EVENT_TEXT_COUNT];
    uint32_t metadata_at;
    uint32_t payload_at;
    uint32_t size;
};

/* Larger blocks are not made; offsets have 32 bits. */
#define FAN__EVENT_SIZE_MAX ((size_t)1 << 30)

/* Lays a draft out. False when the block would be larger than FAN__EVENT_SIZE_MAX. */
bool fan__event_layout(const struct fan_event_draft *draft, struct fan__event_layout *ret_layout);

/* Writes the laid out draft into layout->size bytes that are aligned to 8. */
void fan__event_write_layout(const struct fan_event_draft *draft,
                             const struct fan__event_layout *layout, uint64_t seq, void *block);

/*
 * The same in two calls: the size of a validated draft's block, and the writing of it. Neither
 * allocates nor validates. The size is 0 when the block would be too large.
 */
size_t fan__event_draft_size(const struct fan_event_draft *draft);
size_t fan__event_write(const struct fan_event_draft *draft, uint64_t seq, void *block);

/* Gives an event its sequence. The block must not be shared yet. */
void fan__event_set_seq(struct fan_event *event, uint64_t seq);

/* jansson recurses once a level; this many fit any thread's stack, so no limit is above it. */
#define FAN__JSON_DEPTH_LIMIT 1024

/* W3C Trace Context, level 1. `text` may be any string. */
bool fan__traceparent_valid(const char *text);

/* Makes the check of a block fit whatever it holds, as a forger would: for tests and fuzzers. */
void fan__event_forge_check(struct fan_event *event);

/* Tells whether a content type is JSON: NULL, empty, application/json, text/json, or ...+json. */
bool fan__content_type_is_json(const char *content_type);

/*
 * Brings a draft of another version of the struct to ours (R04): what a smaller one lacks is 0.
 *
 * Returns: FAN_INVALID when it is too small, or larger and not 0 in what we do not know.
 */
FAN_MUST_CHECK enum fan_status fan__event_draft_adopt(const struct fan_event_draft *draft,
                                                      struct fan_event_draft *ret_draft,
                                                      struct fan_error *ret_error);

/* Brings defaults (NULL: the built-in ones) to our version, with every limit and the source set. */
FAN_MUST_CHECK enum fan_status fan__event_defaults_adopt(const struct fan_event_defaults *defaults,
                                                         struct fan_event_defaults *ret_defaults,
                                                         struct fan_error *ret_error);

/*
 * fan_event_new for a payload and metadata that are known to be legal JSON within the depth: the
 * reader of JSON has seen them already.
 */
FAN_MUST_CHECK enum fan_status fan__event_new_checked(const struct fan_event_draft *draft,
                                                      const struct fan_event_defaults *defaults,
                                                      struct fan_event **ret_event,
                                                      struct fan_error *ret_error);

#endif
