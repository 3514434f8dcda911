/* See sse.h. */
#include "server/sse.h"

#include "event/json.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static void add_id(struct fan__buffer *buffer, const struct fan_cursor *cursor)
{
    char text[FAN_CURSOR_TEXT_SIZE];
    fan_cursor_format(cursor, text);
    fan__buffer_add(buffer, "id: ", 4);
    fan__buffer_add_text(buffer, text);
    fan__buffer_add(buffer, "\n", 1);
}

static size_t line_size(const char *text, size_t size)
{
    size_t at = 0;
    while (at < size && text[at] != '\n' && text[at] != '\r')
        at++;
    return at;
}

/* Gives each line of what was written since `start` a field of its own. */
static void split_lines(struct fan__buffer *buffer, size_t start)
{
    struct fan__buffer lines;
    fan__buffer_init(&lines, buffer->env);
    fan__buffer_add(&lines, buffer->data + start, buffer->size - start);
    if (lines.failed) {
        buffer->failed = true;
        return;
    }
    buffer->size = start;
    for (size_t at = 0;;) {
        size_t size = line_size(lines.data + at, lines.size - at);
        fan__buffer_add(buffer, lines.data + at, size);
        at += size;
        if (at == lines.size)
            break;
        bool pair = lines.data[at] == '\r' && at + 1 < lines.size && lines.data[at + 1] == '\n';
        at += pair ? 2 : 1;
        fan__buffer_add(buffer, "\ndata: ", 7);
    }
    fan__buffer_deinit(&lines);
}

void fan__sse_add_event(struct fan__buffer *buffer, const struct fan_event *event, uint64_t epoch)
{
    add_id(buffer, &(struct fan_cursor){ fan_event_seq(event), epoch });
    fan__buffer_add(buffer, "event: ", 7);
    fan__buffer_add_text(buffer, fan_event_type(event));
    fan__buffer_add(buffer, "\ndata: ", 7);
    size_t start = buffer->size;
    fan__event_to_json(event, NULL, 0, buffer);
    if (buffer->failed)
        return;
    const char *json = buffer->data + start;
    size_t size = buffer->size - start;
    if (memchr(json, '\n', size) || memchr(json, '\r', size))
        split_lines(buffer, start);
    fan__buffer_add(buffer, "\n\n", 2);
}

void fan__sse_add_gap(struct fan__buffer *buffer, const struct fan_gap *gap,
                      const struct fan_cursor *behind)
{
    char count[24] = "null";
    if (gap->count != FAN_GAP_COUNT_UNKNOWN)
        snprintf(count, sizeof(count), "%" PRIu64, gap->count);
    add_id(buffer, behind);
    fan__buffer_add_format(buffer,
                           "event: fanfare.gap\ndata: {\"after\":%" PRIu64 ",\"before\":%" PRIu64
                           ",\"count\":%s,\"reason\":\"%s\"}\n\n",
                           gap->after, gap->before, count, fan_gap_reason_text(gap->reason));
}

void fan__sse_add_retry(struct fan__buffer *buffer, unsigned retry_ms,
                        const struct fan_cursor *place)
{
    fan__buffer_add_format(buffer, "retry: %u\n", retry_ms);
    if (place)
        add_id(buffer, place);
    fan__buffer_add(buffer, "\n", 1);
}

void fan__sse_add_comment(struct fan__buffer *buffer, const struct fan_cursor *place)
{
    fan__buffer_add_text(buffer, ":\n");
    if (place)
        add_id(buffer, place);
    fan__buffer_add(buffer, "\n", 1);
}
