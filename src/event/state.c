/* The names of states and of what ends as a dead letter, as they stand in JSON, SQL and filters. */
#include <fanfare/state.h>

#include <string.h>

static const char *const texts[] = {
    [FAN_EVENT_PENDING] = "pending",
    [FAN_EVENT_PROCESSING] = "processing",
    [FAN_EVENT_COMPLETED] = "completed",
    [FAN_EVENT_FAILED] = "failed",
};

static const char *const reasons[] = {
    [FAN_DEAD_NONE] = "",         [FAN_DEAD_FAILED] = "failed",   [FAN_DEAD_RETRIES] = "retries",
    [FAN_DEAD_LAPSES] = "lapses", [FAN_DEAD_EXPIRED] = "expired",
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

const char *fan_dead_reason_name(enum fan_dead_reason reason)
{
    return (size_t)reason < sizeof(reasons) / sizeof(*reasons) ? reasons[reason] : "unknown";
}
