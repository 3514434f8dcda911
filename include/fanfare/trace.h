/*
 * Trace context (W3C, level 1): what an event led to is a child of it, in the same trace.
 *
 *     char trace[FAN_TRACEPARENT_SIZE];
 *     fan_trace_child(fan_event_traceparent(event), NULL, trace);
 *     draft.traceparent = trace;
 */
#ifndef FANFARE_TRACE_H
#define FANFARE_TRACE_H

#include <fanfare/status.h>

#ifdef __cplusplus
extern "C" {
#endif

struct fan_env;

#define FAN_TRACEPARENT_SIZE 56

/*
 * Makes a child's traceparent: the trace id and the sampled flag are the parent's, the span id is
 * its own, at random. A parent "" or NULL has no trace, nor has its child: "". Of a later version
 * what this one knows goes on, as version 00. env may be NULL.
 *
 * Returns: FAN_INVALID for what is no traceparent. Thread: any. Blocks: never.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_trace_child(const char *parent,
                                                       const struct fan_env *env,
                                                       char ret_text[FAN_TRACEPARENT_SIZE]);

#ifdef __cplusplus
}
#endif

#endif
