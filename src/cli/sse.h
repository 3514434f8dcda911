/*
 * Reads a stream of server-sent events by the rules of the HTML standard ("Interpreting an event
 * stream"): lines end in CR, LF or CRLF, a byte order mark in front is dropped, lines of data are
 * joined, comments and unknown fields are passed over, and what the stream's end cuts off is no
 * event. Bytes may come in pieces of any size.
 */
#ifndef FAN_CLI_SSE_H
#define FAN_CLI_SSE_H

#include "cli/text.h"

#include <stdint.h>

/* What one frame, its line of data included, may hold at most. */
#define FAN__SSE_SIZE_MAX ((size_t)64 << 20)

/* Borrowed for the call. `id` is the stream's last one, which is this frame's if it had any. */
struct fan__sse_frame {
    const char *event;
    const char *id;
    struct fan_str data;
};

enum fan__sse_result {
    FAN__SSE_MORE,     /* all was read */
    FAN__SSE_STOPPED,  /* `frame` said so; the rest of the bytes was not looked at */
    FAN__SSE_TOO_LONG, /* a frame above FAN__SSE_SIZE_MAX */
};

/*
 * frame      called for each event; false stops
 * last_id    the id to come back with: that of the last frame that ended, with data or without
 * retry_ms   as the stream last asked, or -1
 */
struct fan__sse {
    bool (*frame)(void *context, const struct fan__sse_frame *frame);
    void *context;
    struct fan__text last_id;
    int64_t retry_ms;
    struct fan__text line;
    struct fan__text id;
    struct fan__text event;
    struct fan__text data;
    bool after_cr;
    size_t mark_matched;
};

void fan__sse_init(struct fan__sse *sse,
                   bool (*frame)(void *context, const struct fan__sse_frame *frame), void *context);
void fan__sse_deinit(struct fan__sse *sse);

/* Before the first byte of each connection: forgets what was cut off, keeps last_id. */
void fan__sse_begin(struct fan__sse *sse);

enum fan__sse_result fan__sse_feed(struct fan__sse *sse, const char *bytes, size_t size);

#endif
