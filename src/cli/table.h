/* Rows of JSON objects for people: columns by member, cut to nothing, padded to a width. */
#ifndef FAN_CLI_TABLE_H
#define FAN_CLI_TABLE_H

#include "cli/text.h"

/* width 0 ends the row without padding; colour as of fan__colour, or NULL. */
struct fan__column {
    const char *name;
    const char *heading;
    int width;
    const char *colour;
};

/* The words of a JSON value: a string without its quotes and escapes, all else as it is. */
void fan__add_value(struct fan__text *text, struct fan_str value);

/* `columns` end with a name of NULL. A member that is absent or null is empty. */
void fan__add_heading(struct fan__text *text, const struct fan__column *columns);
void fan__add_row(struct fan__text *text, const struct fan__column *columns, struct fan_str object);

/*
 * Prints the array `name` of an answer's object as a table, or with `json` one item a line as it
 * is. False, and said why, when it is not there or cannot be written.
 */
bool fan__print_list(const struct fan__text *body, const char *name,
                     const struct fan__column *columns, bool json);

#endif
