/* The lines of a file or a pipe, without their ends, each within a bound. */
#ifndef FAN_CLI_LINES_H
#define FAN_CLI_LINES_H

#include "cli/text.h"

#include <stdint.h>

/* A payload's default limit is 1 MiB; servers may allow more, so their answer decides below it. */
#define FAN__LINE_SIZE_MAX ((size_t)16 << 20)

struct fan__lines {
    int descriptor;
    struct fan__text buffer;
    size_t start;
    size_t scanned;
    uint64_t number;
    uint64_t bytes_read;
    bool at_end;
    bool skipping;
};

enum fan__line {
    FAN__LINE,
    FAN__LINE_TOO_LONG, /* above FAN__LINE_SIZE_MAX: read to its end and dropped */
    FAN__LINE_NOT_YET,  /* a pipe has no more at the moment */
    FAN__LINES_END,
    FAN__LINES_FAILED, /* errno */
    FAN__LINES_STOPPED /* a signal */
};

void fan__lines_init(struct fan__lines *lines, int descriptor);
void fan__lines_deinit(struct fan__lines *lines);

/*
 * The next line, borrowed until the next call; lines->number is its number. With `wait` it never
 * answers FAN__LINE_NOT_YET. A byte order mark at the start and the CR of a CRLF are dropped.
 */
enum fan__line fan__lines_next(struct fan__lines *lines, bool wait, struct fan_str *ret_line);

#endif
