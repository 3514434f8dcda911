/* See trace.h. */
#include <fanfare/trace.h>

#include "base/env.h"
#include "event/event.h"

#include <stdio.h>
#include <stdlib.h>

#define TRACE_ID_AT 3
#define TRACE_ID_SIZE 32
#define FLAGS_AT 53
#define FLAG_SAMPLED 1u

enum fan_status fan_trace_child(const char *parent, const struct fan_env *env,
                                char ret_text[FAN_TRACEPARENT_SIZE])
{
    unsigned char span[8];
    char span_text[2 * sizeof(span) + 1];
    bool zero = true;
    if (!parent || !*parent) {
        ret_text[0] = '\0';
        return FAN_OK;
    }
    if (!fan__traceparent_valid(parent))
        return FAN_INVALID;
    fan__random(env, span, sizeof(span));
    for (size_t i = 0; i < sizeof(span); i++)
        zero = zero && span[i] == 0;
    /* All zeros would be no span. */
    if (zero)
        span[sizeof(span) - 1] = 1;
    for (size_t i = 0; i < sizeof(span); i++)
        snprintf(span_text + 2 * i, 3, "%02x", span[i]);
    const char flags[3] = { parent[FLAGS_AT], parent[FLAGS_AT + 1], '\0' };
    unsigned sampled = (unsigned)strtoul(flags, NULL, 16) & FLAG_SAMPLED;
    snprintf(ret_text, FAN_TRACEPARENT_SIZE, "00-%.*s-%s-%02x", TRACE_ID_SIZE, parent + TRACE_ID_AT,
             span_text, sampled);
    return FAN_OK;
}
