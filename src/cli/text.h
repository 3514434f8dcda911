/*
 * Growable text for the command line. A program that has no memory left can only say so: these
 * functions then end it with exit code 1, so that no verb has to.
 */
#ifndef FAN_CLI_TEXT_H
#define FAN_CLI_TEXT_H

#include <fanfare/event.h>

#include <stdbool.h>
#include <stddef.h>

/* Ends in NUL (not counted) once something was added. All zero is an empty one. */
struct fan__text {
    char *data;
    size_t size;
    size_t capacity;
};

void fan__text_deinit(struct fan__text *text);

/* Empties it and keeps its memory. */
void fan__text_clear(struct fan__text *text);

/* Makes room for `size` more bytes and a NUL, and gives their place. */
char *fan__text_reserve(struct fan__text *text, size_t size);

void fan__text_add(struct fan__text *text, const void *bytes, size_t size);
void fan__text_add_text(struct fan__text *text, const char *words);
__attribute__((format(printf, 2, 3))) void fan__text_add_format(struct fan__text *text,
                                                                const char *format, ...);

/* Adds a JSON string with its quotes. The bytes are UTF-8; false, and nothing added, if not. */
bool fan__text_add_json(struct fan__text *text, const char *words);

/*
 * Adds a member to an object that was opened with `{` at the text's begin; nothing for NULL. False
 * (and said) when the value is no UTF-8.
 */
bool fan__text_add_member(struct fan__text *text, const char *name, const char *value);

/* Adds JSON on one line: a line end in it can only be white space between tokens. */
void fan__text_add_one_line(struct fan__text *text, struct fan_str json);

/*
 * Adds text of strangers for a terminal or a log: control characters become `?`, as escape
 * sequences would let an event repaint the screen.
 */
void fan__text_add_shown(struct fan__text *text, struct fan_str words);

/* Adds `NAME=VALUE` to a query string, escaped, behind `?` or `&`; nothing for NULL. */
void fan__text_add_query(struct fan__text *text, const char *name, const char *value);

/* Adds text escaped for a URL: all but letters, digits and `-._~` in per cent. */
void fan__text_add_escaped(struct fan__text *text, const char *words);

/* realloc that never fails. */
void *fan__cli_resize(void *pointer, size_t count, size_t size);

#endif
