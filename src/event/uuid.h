/*
 * Names that are unique: UUIDs (RFC 9562) and the default instance id of this process.
 *
 * Version 7 ids rise within a process, across its threads, also when the clock goes back: they then
 * go on from the latest time that was seen. Text is the canonical form, 36 lower-case characters.
 */
#ifndef FAN_EVENT_UUID_H
#define FAN_EVENT_UUID_H

#include <fanfare/env.h>

#include <stdbool.h>

#define FAN__UUID_SIZE 16
#define FAN__UUID_TEXT_SIZE 37

void fan__uuid_v7(const struct fan_env *env, unsigned char ret_uuid[FAN__UUID_SIZE]);

/* Marks 16 bytes of a digest as a version 8 UUID: 122 bits of the digest remain. */
void fan__uuid_v8(unsigned char uuid[FAN__UUID_SIZE]);

void fan__uuid_format(const unsigned char uuid[FAN__UUID_SIZE], char text[FAN__UUID_TEXT_SIZE]);

/* False for everything but the canonical form, so that format gives back the very same text. */
bool fan__uuid_parse(const char *text, unsigned char ret_uuid[FAN__UUID_SIZE]);

/* Forgets times, counters and the instance id, so that a simulation runs the same each time. */
void fan__uuid_reset(void);

#define FAN__INSTANCE_ID_SIZE 96

/*
 * The default instance id: host name and 48 random bits, made once a process (and anew in a fork).
 */
void fan__instance_id(const struct fan_env *env, char text[FAN__INSTANCE_ID_SIZE]);

#endif
