/* A hash of bytes for tables in memory, seeded so that strangers cannot choose collisions. */
#ifndef FAN_BASE_HASH_H
#define FAN_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

uint64_t fan__hash(uint64_t seed, const void *bytes, size_t size);

#endif
