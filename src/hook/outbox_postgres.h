/* What recording and relaying agree on in PostgreSQL: the outbox's schema and its script. */
#ifndef FAN_HOOK_OUTBOX_POSTGRES_H
#define FAN_HOOK_OUTBOX_POSTGRES_H

#include "base/buffer.h"

#include <fanfare/outbox_postgres.h>

#define FAN__OUTBOX_POSTGRES_FORMAT 1

/* Creates an outbox, in a schema whose name `@` stands for: pieces of one text, then NULL. */
extern const char *const fan__outbox_postgres_script[];

/* Checks a schema's name and gives the default for NULL. */
FAN_MUST_CHECK enum fan_status fan__outbox_postgres_name(const char **schema,
                                                         struct fan_error *error);

/* Adds a text in which `@` stands for the schema's name and `@@` for it as a literal. */
void fan__outbox_postgres_add(struct fan__buffer *sql, const char *text, const char *schema);

#endif
