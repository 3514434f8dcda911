/*
 * How the command line talks: words for people go to standard error with the program's name in
 * front, results to standard output. Colours and progress only where a terminal shows them.
 */
#ifndef FAN_CLI_SAY_H
#define FAN_CLI_SAY_H

#include "cli/text.h"

#include <stdint.h>

enum fan__exit {
    FAN__EXIT_OK = 0,
    FAN__EXIT_FAILED = 1,
    FAN__EXIT_USAGE = 2,
};

/* One line on standard error, above the progress bar if there is one. */
__attribute__((format(printf, 1, 2))) void fan__say(const char *format, ...);

/*
 * The escape sequence of a colour, or "" where standard output is no terminal, is a dumb one, or
 * NO_COLOR is set. By name: "bold", "dim", "red", "green", "yellow", "cyan", "off".
 */
const char *fan__colour(const char *name);

/* Characters that fit into a line of the terminal on standard output; 0 when it is none. */
unsigned fan__columns(void);

/* Adds at most `columns` characters of the words as shown, an ellipsis behind what was cut. */
void fan__text_add_fitting(struct fan__text *text, struct fan_str words, unsigned columns);

/*
 * Writes to standard output and empties the text. False (and said) when that failed.
 */
bool fan__print(struct fan__text *text);

/* A bar on standard error if that is a terminal: how much is done of `total`, 0 for unknown. */
void fan__progress(uint64_t lines, uint64_t done_bytes, uint64_t total_bytes);
void fan__progress_end(void);

#endif
