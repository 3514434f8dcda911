/* The walk through a file's YAML: from events to values. */
#ifndef FAN_CONFIG_WALK_H
#define FAN_CONFIG_WALK_H

#include "config/value.h"

/*
 * Takes what the text sets, or tells what is wrong. `name`: of the file.
 *
 * Returns: FAN_NO_MEMORY; FAN_OK also after problems.
 */
FAN_MUST_CHECK enum fan_status fan__walk(struct fan__making *making, const char *name,
                                         const char *text, size_t size);

#endif
