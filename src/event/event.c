/*
 * From a draft to an event: stamp what is absent, check every field, write the block. What is
 * checked here is checked nowhere else again; stores and rings copy blocks as they are.
 */
#include "event/event.h"

#include "base/adopt.h"
#include "base/env.h"
#include "base/status.h"
#include "event/jsonscan.h"
#include "event/jsontext.h"
#include "event/text.h"
#include "event/uuid.h"

#include <string.h>

/* Types of what a stream says of itself, such as `fanfare.gap`. */
#define TYPE_RESERVED "fanfare."

/* Room for what is stamped, as long as the block is not written. */
struct stamps {
    char id[FAN__UUID_TEXT_SIZE];
    char instance_id[FAN__INSTANCE_ID_SIZE];
    char parts[3][FAN_TEXT_SIZE_MAX + 1];
};

enum fan_status fan__event_draft_adopt(const struct fan_event_draft *draft,
                                       struct fan_event_draft *ret_draft,
                                       struct fan_error *ret_error)
{
    size_t least = offsetof(struct fan_event_draft, type) + sizeof(draft->type);
    if (!draft || !fan__adopt(ret_draft, sizeof(*ret_draft), draft, least))
        return fan__fail(ret_error, FAN_INVALID, "size",
                         "of the draft is not one that this library knows");
    return FAN_OK;
}

enum fan_status fan__event_defaults_adopt(const struct fan_event_defaults *given,
                                          struct fan_event_defaults *ret_defaults,
                                          struct fan_error *ret_error)
{
    static const struct fan_event_defaults built_in = FAN_EVENT_DEFAULTS_INIT;
    if (!fan__adopt(ret_defaults, sizeof(*ret_defaults), given ? given : &built_in, sizeof(size_t)))
        return fan__fail(ret_error, FAN_INVALID, "size",
                         "of the defaults is not one that this library knows");
    if (ret_defaults->source == FAN_SOURCE_UNSET)
        ret_defaults->source = FAN_SOURCE_INTERNAL;
    if (ret_defaults->payload_size_max == 0)
        ret_defaults->payload_size_max = FAN_PAYLOAD_SIZE_MAX;
    if (ret_defaults->json_depth_max == 0)
        ret_defaults->json_depth_max = FAN_JSON_DEPTH_MAX;
    if (ret_defaults->json_depth_max > FAN__JSON_DEPTH_LIMIT)
        ret_defaults->json_depth_max = FAN__JSON_DEPTH_LIMIT;
    return FAN_OK;
}

static enum fan_status check_text(const char *text, const char *field, struct fan_error *ret_error)
{
    if (!text)
        return FAN_OK;
    size_t size = strnlen(text, FAN_TEXT_SIZE_MAX + 1);
    if (size > FAN_TEXT_SIZE_MAX)
        return fan__fail(ret_error, FAN_INVALID, field, "is longer than %d bytes",
                         FAN_TEXT_SIZE_MAX);
    if (!fan__utf8_valid(text, size))
        return fan__fail(ret_error, FAN_INVALID, field, "is not valid UTF-8");
    return FAN_OK;
}

static bool is_hex(const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (!((text[i] >= '0' && text[i] <= '9') || (text[i] >= 'a' && text[i] <= 'f')))
            return false;
    return true;
}

/*
 * W3C Trace Context, level 1: version 00 is exactly this long, later ones may go on behind a dash.
 */
bool fan__traceparent_valid(const char *text)
{
    static const char zeros[] = "00000000000000000000000000000000";
    size_t size = strlen(text);
    if (size < 55 || !is_hex(text, 2) || text[2] != '-' || !is_hex(text + 3, 32) ||
        text[35] != '-' || !is_hex(text + 36, 16) || text[52] != '-' || !is_hex(text + 53, 2))
        return false;
    if (memcmp(text, "ff", 2) == 0 || memcmp(text + 3, zeros, 32) == 0 ||
        memcmp(text + 36, zeros, 16) == 0)
        return false;
    return size == 55 || (memcmp(text, "00", 2) != 0 && text[55] == '-');
}

/*
 * type "/" subtype [";" parameters], in visible ASCII; HTTP and CloudEvents carry it as a header.
 */
static bool content_type_valid(const char *text)
{
    size_t type_size = strcspn(text, "/; \t");
    size_t end = strcspn(text, "; \t");
    if (type_size == 0 || text[type_size] != '/' || end <= type_size + 1)
        return false;
    for (const char *at = text; *at; at++)
        if (*at < ' ' || *at > '~')
            return false;
    return true;
}

static bool time_valid(int64_t time_us)
{
    return time_us >= FAN__TIME_US_MIN && time_us <= FAN__TIME_US_MAX;
}

static enum fan_status check_fields(const struct fan_event_draft *draft,
                                    struct fan_error *ret_error)
{
    const struct {
        const char *text;
        const char *field;
    } texts[] = {
        { draft->id, "id" },
        { draft->topic, "topic" },
        { draft->schema, "schema" },
        { draft->entity, "entity" },
        { draft->operation, "operation" },
        { draft->session_id, "session_id" },
        { draft->instance_id, "instance_id" },
        { draft->content_type, "content_type" },
        { draft->traceparent, "traceparent" },
    };
    enum fan_status status = fan__type_check(draft->type, "type", ret_error);
    /* A stream's frame is told by its type, so that nobody may publish what looks like a gap. */
    if (status == FAN_OK && strncmp(draft->type, TYPE_RESERVED, sizeof(TYPE_RESERVED) - 1) == 0)
        status = fan__fail(ret_error, FAN_INVALID, "type",
                           "begins with \"" TYPE_RESERVED "\", which is reserved");
    for (size_t i = 0; status == FAN_OK && i < sizeof(texts) / sizeof(texts[0]); i++)
        status = check_text(texts[i].text, texts[i].field, ret_error);
    if (status != FAN_OK)
        return status;
    if (draft->id[0] == '\0')
        return fan__fail(ret_error, FAN_INVALID, "id",
                         "is empty; expected 1 to 255 bytes, or none to have one made");
    if (draft->source < FAN_SOURCE_DATABASE || draft->source > FAN_SOURCE_INTERNAL)
        return fan__fail(ret_error, FAN_INVALID, "source",
                         "is none of database, websocket, frontend, system, internal");
    if (draft->content_type && draft->content_type[0] && !content_type_valid(draft->content_type))
        return fan__fail(ret_error, FAN_INVALID, "content_type",
                         "is no media type; expected one such as image/png");
    if (draft->traceparent && draft->traceparent[0] && !fan__traceparent_valid(draft->traceparent))
        return fan__fail(ret_error, FAN_INVALID, "traceparent",
                         "is no W3C trace context; expected 00-32 hex-16 hex-2 hex, lower case");
    if (!time_valid(draft->created_us))
        return fan__fail(ret_error, FAN_INVALID, "created_at", "is outside the years 1 to 9999");
    if (!time_valid(draft->deliver_at_us))
        return fan__fail(ret_error, FAN_INVALID, "deliver_at", "is outside the years 1 to 9999");
    return FAN_OK;
}

static enum fan_status check_size(struct fan_str bytes, const char *field, size_t size_max,
                                  struct fan_error *ret_error)
{
    if (bytes.size > size_max)
        return fan__fail(ret_error, FAN_INVALID, field, "has %zu bytes, the limit is %zu",
                         bytes.size, size_max);
    if (bytes.size > 0 && !bytes.data)
        return fan__fail(ret_error, FAN_INVALID, field, "has a size but no bytes");
    return FAN_OK;
}

/* Checks payload and metadata as JSON; metadata without members becomes absent. */
static enum fan_status check_json(struct fan_event_draft *draft,
                                  const struct fan_event_defaults *defaults,
                                  struct fan_error *ret_error)
{
    unsigned depth_max = defaults->json_depth_max;
    enum fan_status status = FAN_OK;
    if (fan__content_type_is_json(draft->content_type))
        status = fan__json_check(draft->payload, depth_max, "payload", ret_error);
    if (status != FAN_OK || draft->metadata.size == 0)
        return status;
    status = fan__json_check(draft->metadata, depth_max, "metadata", ret_error);
    if (status != FAN_OK)
        return status;
    bool empty;
    if (!fan__json_scan_is_object(draft->metadata, &empty))
        return fan__fail(ret_error, FAN_INVALID, "metadata", "is not a JSON object");
    if (empty)
        draft->metadata = (struct fan_str){ NULL, 0 };
    return FAN_OK;
}

/* Fills schema, entity and operation from a type of exactly three segments. */
static void stamp_parts(struct fan_event_draft *draft, struct stamps *stamps)
{
    const char **parts[] = { &draft->schema, &draft->entity, &draft->operation };
    const char *segments[3];
    size_t sizes[3];
    const char *at = draft->type;
    for (unsigned i = 0; i < 3; i++) {
        segments[i] = at;
        sizes[i] = strcspn(at, ".");
        at += sizes[i];
        if ((i < 2 && *at++ != '.') || (i == 2 && *at != '\0'))
            return;
    }
    for (unsigned i = 0; i < 3; i++) {
        if (*parts[i] && **parts[i] != '\0')
            continue;
        memcpy(stamps->parts[i], segments[i], sizes[i]);
        stamps->parts[i][sizes[i]] = '\0';
        *parts[i] = stamps->parts[i];
    }
}

static void stamp(struct fan_event_draft *draft, const struct fan_event_defaults *defaults,
                  struct stamps *stamps)
{
    if (!draft->id) {
        unsigned char uuid[FAN__UUID_SIZE];
        fan__uuid_v7(defaults->env, uuid);
        fan__uuid_format(uuid, stamps->id);
        draft->id = stamps->id;
    }
    if (draft->source == FAN_SOURCE_UNSET)
        draft->source = defaults->source;
    if (!draft->instance_id || draft->instance_id[0] == '\0')
        draft->instance_id = defaults->instance_id;
    if (!draft->instance_id || draft->instance_id[0] == '\0') {
        fan__instance_id(defaults->env, stamps->instance_id);
        draft->instance_id = stamps->instance_id;
    }
    /*
     * 0 stands for "not given" wherever an event is written out, so a clock at 0 is moved on by 1.
     */
    if (draft->created_us == 0)
        draft->created_us = fan__wall_us(defaults->env);
    if (draft->created_us == 0)
        draft->created_us = 1;
    if (draft->payload.size == 0 && fan__content_type_is_json(draft->content_type))
        draft->payload = (struct fan_str)FAN_STR("null");
}

static enum fan_status make(const struct fan_event_draft *given,
                            const struct fan_event_defaults *given_defaults, bool json_checked,
                            struct fan_event **ret_event, struct fan_error *ret_error)
{
    struct fan_event_draft draft;
    struct fan_event_defaults defaults;
    struct stamps stamps;
    enum fan_status status = fan__event_draft_adopt(given, &draft, ret_error);
    if (status == FAN_OK)
        status = fan__event_defaults_adopt(given_defaults, &defaults, ret_error);
    if (status != FAN_OK)
        return status;
    stamp(&draft, &defaults, &stamps);
    status = check_fields(&draft, ret_error);
    if (status == FAN_OK)
        status = check_size(draft.payload, "payload", defaults.payload_size_max, ret_error);
    if (status == FAN_OK)
        status = check_size(draft.metadata, "metadata", defaults.payload_size_max, ret_error);
    if (status == FAN_OK && !json_checked)
        status = check_json(&draft, &defaults, ret_error);
    if (status != FAN_OK)
        return status;
    stamp_parts(&draft, &stamps);

    struct fan__event_layout layout;
    if (!fan__event_layout(&draft, &layout))
        return fan__fail(ret_error, FAN_INVALID, "payload", "makes an event of more than 1 GiB");
    struct fan_event *event = fan__alloc(defaults.env, layout.size);
    if (!event)
        return fan__fail(ret_error, FAN_NO_MEMORY, NULL, "no memory for an event of %u bytes",
                         layout.size);
    fan__event_write_layout(&draft, &layout, 0, event);
    *ret_event = event;
    return FAN_OK;
}

enum fan_status fan_event_new(const struct fan_event_draft *draft,
                              const struct fan_event_defaults *defaults,
                              struct fan_event **ret_event, struct fan_error *ret_error)
{
    return make(draft, defaults, false, ret_event, ret_error);
}

enum fan_status fan__event_new_checked(const struct fan_event_draft *draft,
                                       const struct fan_event_defaults *defaults,
                                       struct fan_event **ret_event, struct fan_error *ret_error)
{
    return make(draft, defaults, true, ret_event, ret_error);
}
