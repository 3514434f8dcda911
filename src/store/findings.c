/* Telling of damage, and the part of the look for it that is the same for all tables. */
#include "store/findings.h"

#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>

#define PAYLOAD_SIZE_MAX ((size_t)1 << 30)
#define JSON_DEPTH_MAX 1024

void fan__find(struct fan__findings *findings, const char *part, uint64_t seq, const char *format,
               ...)
{
    if (findings->ended)
        return;
    char words[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(words, sizeof(words), format, arguments);
    va_end(arguments);
    const struct fan_finding finding = {
        .size = sizeof(finding), .part = part, .seq = seq, .words = words
    };
    findings->count++;
    findings->ended = !findings->visit(findings->context, &finding);
}

enum fan_status fan__find_event(struct fan__findings *findings, const struct fan_env *env,
                                uint64_t seq, const struct fan_event_draft *draft)
{
    const struct fan_event_defaults defaults = {
        .size = sizeof(defaults),
        .env = env,
        .payload_size_max = PAYLOAD_SIZE_MAX,
        .json_depth_max = JSON_DEPTH_MAX,
    };
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_event *event = NULL;
    enum fan_status status = fan_event_new(draft, &defaults, &event, &error);
    if (status == FAN_NO_MEMORY)
        return status;
    if (status != FAN_OK)
        fan__find(findings, "event", seq, "is not legal: %s: %s", error.field, error.message);
    else if (draft->source == FAN_SOURCE_UNSET || draft->created_us == 0)
        fan__find(findings, "event", seq, "has no %s", draft->created_us == 0 ? "time" : "source");
    fan_event_free(event, env);
    return FAN_OK;
}
