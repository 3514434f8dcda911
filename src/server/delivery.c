/* See delivery.h. */
#include "server/delivery.h"

#include "event/json.h"
#include "event/text.h"

#include <string.h>

void fan__member_text(struct fan__buffer *json, const char *name, const char *text)
{
    fan__buffer_add_format(json, ",\"%s\":", name);
    fan__json_add_string(json, (struct fan_str){ text, strlen(text) });
}

void fan__member_time(struct fan__buffer *json, const char *name, int64_t time_us)
{
    char text[FAN__TIME_TEXT_SIZE];
    if (time_us == 0) {
        fan__buffer_add_format(json, ",\"%s\":null", name);
        return;
    }
    fan__time_format(time_us, text);
    fan__buffer_add_format(json, ",\"%s\":\"%s\"", name, text);
}

void fan__delivery_to_json(const struct fan_delivery *delivery, struct fan__buffer *json)
{
    fan__buffer_add_text(json, "{\"group\":");
    fan__json_add_string(json, (struct fan_str){ delivery->group, strlen(delivery->group) });
    fan__member_text(json, "handler", delivery->handler);
    fan__member_text(json, "status", fan_event_status_text(delivery->status));
    fan__buffer_add_format(json, ",\"attempts\":%u,\"lapses\":%u", delivery->attempts,
                           delivery->lapses);
    fan__member_text(json, "owner", delivery->owner);
    fan__member_text(json, "error", delivery->error);
    fan__member_text(json, "reason", fan_dead_reason_name(delivery->reason));
    fan__member_time(json, "due_at", delivery->due_us);
    fan__member_time(json, "processed_at", delivery->processed_us);
    fan__member_time(json, "completed_at", delivery->completed_us);
    fan__buffer_add(json, "}", 1);
}
