/*
 * Frames of an event stream (HTML standard, "Server-sent events"):
 *
 *     id: 42@0123456789abcdef        where to go on: Last-Event-ID of the next attempt
 *     event: public.users.create
 *     data: {"id":"...","seq":42,...}
 *
 * A line end within a payload becomes the end of a data line; the client puts LF in its place.
 */
#ifndef FAN_SERVER_SSE_H
#define FAN_SERVER_SSE_H

#include <fanfare/cursor.h>

struct fan__buffer;
struct fan_event;

/* Appends one frame; look at buffer->failed in the end. */
void fan__sse_add_event(struct fan__buffer *buffer, const struct fan_event *event, uint64_t epoch);

/* `fanfare.gap`, with the place behind it as its id. */
void fan__sse_add_gap(struct fan__buffer *buffer, const struct fan_gap *gap,
                      const struct fan_cursor *behind);

/*
 * How long to wait before the next attempt; and, where `place` is not NULL, an id without an event.
 */
void fan__sse_add_retry(struct fan__buffer *buffer, unsigned retry_ms,
                        const struct fan_cursor *place);

/* A comment; and, where `place` is not NULL, an id without an event: it moves Last-Event-ID on. */
void fan__sse_add_comment(struct fan__buffer *buffer, const struct fan_cursor *place);

#endif
