/*
 * Lines are gathered, then told apart by their field. The id is kept twice: `id` is what the stream
 * named last, `last_id` what a frame that ended has confirmed; only that may go into Last-Event-ID,
 * as a frame that was cut off was not delivered.
 */
#include "cli/sse.h"

#include <string.h>

/* U+FEFF, once, at the very start. */
static const char byte_order_mark[] = "\xef\xbb\xbf";
#define MARK_SIZE (sizeof(byte_order_mark) - 1)

void fan__sse_init(struct fan__sse *sse,
                   bool (*frame)(void *context, const struct fan__sse_frame *frame), void *context)
{
    *sse = (struct fan__sse){ .frame = frame, .context = context, .retry_ms = -1 };
    fan__text_add_text(&sse->last_id, "");
    fan__sse_begin(sse);
}

void fan__sse_deinit(struct fan__sse *sse)
{
    fan__text_deinit(&sse->last_id);
    fan__text_deinit(&sse->line);
    fan__text_deinit(&sse->id);
    fan__text_deinit(&sse->event);
    fan__text_deinit(&sse->data);
}

void fan__sse_begin(struct fan__sse *sse)
{
    fan__text_clear(&sse->line);
    fan__text_clear(&sse->event);
    fan__text_clear(&sse->data);
    fan__text_clear(&sse->id);
    fan__text_add(&sse->id, sse->last_id.data, sse->last_id.size);
    sse->after_cr = false;
    sse->mark_matched = 0;
}

static bool is_field(const char *line, size_t name_size, const char *name)
{
    return name_size == strlen(name) && memcmp(line, name, name_size) == 0;
}

static void take_retry(struct fan__sse *sse, const char *value, size_t size)
{
    int64_t ms = 0;
    for (size_t i = 0; i < size; i++) {
        if (value[i] < '0' || value[i] > '9')
            return;
        if (ms < INT32_MAX)
            ms = ms * 10 + (value[i] - '0');
    }
    if (size > 0)
        sse->retry_ms = ms < INT32_MAX ? ms : INT32_MAX;
}

static void take_field(struct fan__sse *sse)
{
    const char *line = sse->line.data;
    const char *colon = memchr(line, ':', sse->line.size);
    size_t name_size = colon ? (size_t)(colon - line) : sse->line.size;
    const char *value = colon ? colon + 1 : line + sse->line.size;
    if (colon && *value == ' ')
        value++;
    size_t size = sse->line.size - (size_t)(value - line);
    if (is_field(line, name_size, "data")) {
        fan__text_add(&sse->data, value, size);
        fan__text_add(&sse->data, "\n", 1);
    } else if (is_field(line, name_size, "event")) {
        fan__text_clear(&sse->event);
        fan__text_add(&sse->event, value, size);
    } else if (is_field(line, name_size, "id")) {
        if (memchr(value, '\0', size))
            return;
        fan__text_clear(&sse->id);
        fan__text_add(&sse->id, value, size);
    } else if (is_field(line, name_size, "retry")) {
        take_retry(sse, value, size);
    }
}

/* A frame has ended. False when whoever takes them wants no more. */
static bool dispatch(struct fan__sse *sse)
{
    fan__text_clear(&sse->last_id);
    fan__text_add(&sse->last_id, sse->id.data, sse->id.size);
    bool more = true;
    if (sse->data.size > 0) {
        struct fan__sse_frame frame = {
            .event = sse->event.size > 0 ? sse->event.data : "message",
            .id = sse->last_id.data,
            .data = { sse->data.data, sse->data.size - 1 },
        };
        more = sse->frame(sse->context, &frame);
    }
    fan__text_clear(&sse->event);
    fan__text_clear(&sse->data);
    return more;
}

/* False when `frame` said so. */
static bool end_line(struct fan__sse *sse)
{
    bool more = true;
    if (sse->line.size == 0)
        more = dispatch(sse);
    else
        take_field(sse);
    fan__text_clear(&sse->line);
    return more;
}

/* Passes over the mark's bytes as long as they are it; gives back what only began like one. */
static size_t skip_mark(struct fan__sse *sse, const char *bytes, size_t size)
{
    size_t at = 0;
    while (sse->mark_matched < MARK_SIZE && at < size) {
        if (bytes[at] != byte_order_mark[sse->mark_matched]) {
            fan__text_add(&sse->line, byte_order_mark, sse->mark_matched);
            sse->mark_matched = MARK_SIZE;
            break;
        }
        sse->mark_matched++;
        at++;
    }
    return at;
}

enum fan__sse_result fan__sse_feed(struct fan__sse *sse, const char *bytes, size_t size)
{
    size_t at = skip_mark(sse, bytes, size);
    while (at < size) {
        if (sse->after_cr && bytes[at] == '\n')
            at++;
        sse->after_cr = false;
        size_t stop = at;
        while (stop < size && bytes[stop] != '\n' && bytes[stop] != '\r')
            stop++;
        if (sse->line.size + sse->data.size + (stop - at) > FAN__SSE_SIZE_MAX)
            return FAN__SSE_TOO_LONG;
        fan__text_add(&sse->line, bytes + at, stop - at);
        if (stop == size)
            break;
        sse->after_cr = bytes[stop] == '\r';
        at = stop + 1;
        if (!end_line(sse))
            return FAN__SSE_STOPPED;
    }
    return FAN__SSE_MORE;
}
