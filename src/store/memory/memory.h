/*
 * The memory provider: the log of one process, gone with it.
 *
 * URI: `memory:` or `memory:?capacity=10000` (events). Past the capacity the oldest completed event
 * goes; what is owed to a group, or a dead letter, stays; when nothing may go, append says "full".
 */
#ifndef FAN_STORE_MEMORY_MEMORY_H
#define FAN_STORE_MEMORY_MEMORY_H

#include <fanfare/provider.h>

extern const struct fan_provider fan__memory_provider;

#endif
