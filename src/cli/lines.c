/*
 *     buffer:  [ lines that were given | start ... scanned (no line end in here) ... size ]
 */
#include "cli/lines.h"

#include "cli/wait.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define READ_SIZE ((size_t)256 << 10)

void fan__lines_init(struct fan__lines *lines, int descriptor)
{
    *lines = (struct fan__lines){ .descriptor = descriptor };
}

void fan__lines_deinit(struct fan__lines *lines)
{
    fan__text_deinit(&lines->buffer);
}

/* Makes room at the end by moving what is left to the front. */
static void shift(struct fan__lines *lines)
{
    struct fan__text *buffer = &lines->buffer;
    if (lines->start == 0)
        return;
    memmove(buffer->data, buffer->data + lines->start, buffer->size - lines->start);
    buffer->size -= lines->start;
    lines->scanned -= lines->start;
    lines->start = 0;
}

/* FAN__LINE when there is more to look at. */
static enum fan__line read_more(struct fan__lines *lines, bool wait)
{
    shift(lines);
    switch (fan__wait_readable(lines->descriptor, wait ? -1 : 0)) {
    case FAN__INTERRUPTED:
        return FAN__LINES_STOPPED;
    case FAN__NOT_YET:
        return FAN__LINE_NOT_YET;
    case FAN__READY:
        break;
    }
    char *place = fan__text_reserve(&lines->buffer, READ_SIZE);
    ssize_t count;
    do {
        count = read(lines->descriptor, place, READ_SIZE);
    } while (count < 0 && errno == EINTR && !fan__interrupted());
    if (count < 0)
        return errno == EINTR ? FAN__LINES_STOPPED : FAN__LINES_FAILED;
    lines->at_end = count == 0;
    lines->buffer.size += (size_t)count;
    lines->bytes_read += (uint64_t)count;
    return FAN__LINE;
}

/* Gives the bytes from start to stop; `next` is where the line after it begins. */
static enum fan__line give(struct fan__lines *lines, size_t stop, size_t next,
                           struct fan_str *ret_line)
{
    const char *data = lines->buffer.data;
    size_t start = lines->start;
    lines->start = lines->scanned = next;
    lines->number++;
    if (lines->skipping) {
        lines->skipping = false;
        return FAN__LINE_TOO_LONG;
    }
    if (lines->number == 1 && stop - start >= 3 && memcmp(data + start, "\xef\xbb\xbf", 3) == 0)
        start += 3;
    if (stop > start && data[stop - 1] == '\r')
        stop--;
    *ret_line = (struct fan_str){ data + start, stop - start };
    return FAN__LINE;
}

enum fan__line fan__lines_next(struct fan__lines *lines, bool wait, struct fan_str *ret_line)
{
    for (;;) {
        struct fan__text *buffer = &lines->buffer;
        const char *end = NULL;
        if (buffer->size > lines->scanned)
            end = memchr(buffer->data + lines->scanned, '\n', buffer->size - lines->scanned);
        if (end) {
            size_t stop = (size_t)(end - buffer->data);
            return give(lines, stop, stop + 1, ret_line);
        }
        lines->scanned = buffer->size;
        if (lines->at_end) {
            if (lines->start == buffer->size && !lines->skipping)
                return FAN__LINES_END;
            return give(lines, buffer->size, buffer->size, ret_line);
        }
        if (lines->skipping || buffer->size - lines->start > FAN__LINE_SIZE_MAX) {
            lines->skipping = true;
            lines->start = buffer->size;
        }
        enum fan__line result = read_more(lines, wait);
        if (result != FAN__LINE)
            return result;
    }
}
