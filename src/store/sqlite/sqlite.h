/*
 * The SQLite provider: a durable log in one file, for one process or several.
 *
 * URI: `sqlite:PATH`, with `?synchronous=full|normal` (full: durable on disk at each commit),
 * `poll_ms=100` (how soon the appends of other processes are seen), `checkpoint_frames=8000` (how
 * many pages of 4 KiB the write-ahead log gathers before they are moved) and `vfs=NAME`.
 */
#ifndef FAN_STORE_SQLITE_SQLITE_H
#define FAN_STORE_SQLITE_SQLITE_H

#include <fanfare/provider.h>

extern const struct fan_provider fan__sqlite_provider;

#endif
