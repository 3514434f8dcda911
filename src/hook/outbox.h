/* What recording and relaying agree on: the tables of an outbox and their names. */
#ifndef FAN_HOOK_OUTBOX_H
#define FAN_HOOK_OUTBOX_H

#include "base/buffer.h"

#include <fanfare/outbox.h>

/* Checks a name and gives the default for NULL. */
FAN_MUST_CHECK enum fan_status fan__outbox_name(const char **table, struct fan_error *error);

/* Adds the table's name, or that of the table for rows that were set aside. */
void fan__outbox_add_table(struct fan__buffer *sql, const char *table);
void fan__outbox_add_aside(struct fan__buffer *sql, const char *table);

#endif
