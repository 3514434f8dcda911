/* The names of an event's states, as they stand in JSON, in SQL and in filters. */
#include <fanfare/state.h>

#include <string.h>

static const char *const texts[] = {
    [FAN_EVENT_PENDING] = "pending",
    [FAN_EVENT_PROCESSING] = "processing",
    [FAN_EVENT_COMPLETED] = "completed",
    [FAN_EVENT_FAILED] = "failed",
};

#define TEXT_COUNT (sizeof(texts) / sizeof(texts[0]))

const char *fan_event_status_text(enum fan_event_status status)
{
    return (size_t)status < TEXT_COUNT ? texts[status] : "unknown";
}

enum fan_status fan_event_status_parse(const char *text, enum fan_event_status *ret_status)
{
    for (unsigned i = 0; i < TEXT_COUNT; i++) {
        if (strcmp(text, texts[i]) == 0) {
            *ret_status = (enum fan_event_status)i;
            return FAN_OK;
        }
    }
    return FAN_INVALID;
}
