/* Everything that depends on whether somebody watches. */
#include "cli/say.h"

#include "cli/wait.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define BAR_WIDTH 30
#define BAR_INTERVAL_MS 100

static struct {
    bool shown;
    int64_t started_ms;
    int64_t drawn_ms;
} bar;

void fan__say(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    if (bar.shown)
        fputs("\r\x1b[K", stderr);
    fputs("fanfare: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
}

static bool has_colours(void)
{
    static int known = -1;
    if (known < 0) {
        const char *no_color = getenv("NO_COLOR");
        const char *term = getenv("TERM");
        known = isatty(STDOUT_FILENO) && !(no_color && *no_color) && term && *term &&
                strcmp(term, "dumb") != 0;
    }
    return known;
}

const char *fan__colour(const char *name)
{
    static const char *const colours[][2] = {
        { "off", "\x1b[0m" },   { "bold", "\x1b[1m" },   { "dim", "\x1b[2m" },
        { "red", "\x1b[31m" },  { "green", "\x1b[32m" }, { "yellow", "\x1b[33m" },
        { "cyan", "\x1b[36m" },
    };
    if (!has_colours())
        return "";
    for (size_t i = 0; i < sizeof(colours) / sizeof(colours[0]); i++)
        if (strcmp(colours[i][0], name) == 0)
            return colours[i][1];
    return "";
}

unsigned fan__columns(void)
{
    struct winsize size;
    if (!isatty(STDOUT_FILENO) || ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0)
        return 0;
    return size.ws_col;
}

void fan__text_add_fitting(struct fan__text *text, struct fan_str words, unsigned columns)
{
    unsigned count = 0;
    size_t cut = 0;
    for (size_t i = 0; i < words.size; i++) {
        if (((unsigned char)words.data[i] & 0xc0) == 0x80)
            continue;
        if (count + 1 == columns)
            cut = i;
        if (count++ == columns) {
            fan__text_add_shown(text, (struct fan_str){ words.data, cut });
            fan__text_add_text(text, "…");
            return;
        }
    }
    fan__text_add_shown(text, words);
}

bool fan__print(struct fan__text *text)
{
    size_t written = fan__write_all(STDOUT_FILENO, text->data, text->size);
    bool all = written == text->size;
    if (!all && !fan__interrupted())
        fan__say("standard output: %s", strerror(errno));
    fan__text_clear(text);
    return all;
}

void fan__progress(uint64_t lines, uint64_t done_bytes, uint64_t total_bytes)
{
    int64_t now_ms = fan__now_ms();
    if (bar.started_ms == 0)
        bar.started_ms = now_ms;
    if (now_ms - bar.drawn_ms < BAR_INTERVAL_MS || !isatty(STDERR_FILENO))
        return;
    bar.drawn_ms = now_ms;
    bar.shown = true;
    int64_t elapsed_ms = now_ms - bar.started_ms;
    uint64_t rate = elapsed_ms > 0 ? lines * 1000 / (uint64_t)elapsed_ms : 0;
    fputs("\r\x1b[K", stderr);
    if (total_bytes > 0) {
        uint64_t done = done_bytes < total_bytes ? done_bytes : total_bytes;
        int filled = (int)((double)done / (double)total_bytes * BAR_WIDTH);
        fprintf(stderr, "[%.*s%*s] ", filled, "##############################", BAR_WIDTH - filled,
                "");
    }
    fprintf(stderr, "%" PRIu64 " lines, %" PRIu64 "/s", lines, rate);
    fflush(stderr);
}

void fan__progress_end(void)
{
    if (bar.shown)
        fputs("\r\x1b[K", stderr);
    bar.shown = false;
}
