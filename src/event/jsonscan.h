/* A quick look at JSON that is only to be checked. */
#ifndef FAN_EVENT_JSONSCAN_H
#define FAN_EVENT_JSONSCAN_H

#include <fanfare/event.h>

/*
 * Tells for most texts, in one pass and without memory, that they are what fan__json_load accepts:
 * one JSON value nested at most depth_max deep, no duplicate keys. False says nothing: escapes that
 * need decoding, numbers with exponents, objects with very many keys and all errors are left to it.
 */
bool fan__json_scan(struct fan_str text, unsigned depth_max);

#endif
