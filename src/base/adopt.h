/* Structs of the public headers carry their size, so that they can grow at the end (R04). */
#ifndef FAN_BASE_ADOPT_H
#define FAN_BASE_ADOPT_H

#include <stdbool.h>
#include <stddef.h>

/*
 * Copies a struct that begins with its size_t `size`, as a caller's version of the header had it,
 * to ours of `known` bytes: what a shorter one lacks is 0. False when it is shorter than `least`,
 * or longer with something else than zeros in what we do not know. `size` becomes `known`.
 */
bool fan__adopt(void *ret_struct, size_t known, const void *given, size_t least);

#endif
