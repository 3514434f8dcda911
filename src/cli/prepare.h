/* An event's JSON text made ready to be sent again and again. */
#ifndef FAN_CLI_PREPARE_H
#define FAN_CLI_PREPARE_H

#include "cli/text.h"

/* Fills `text` (at least FAN_TEXT_SIZE_MAX + 1 bytes) with a UUIDv7; ids rise within a process. */
void fan__make_id(char *text);

/*
 * Adds an event's JSON object to `text`, byte for byte, but with an id of its own and the source
 * "system" in front where it has none. False, with `reason` filled (256 bytes) and nothing added,
 * when it is no JSON object.
 */
bool fan__prepare(struct fan__text *text, struct fan_str object, bool *ret_has_own_id,
                  char *reason);

#endif
