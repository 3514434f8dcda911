/*
 * A layer over SQLite's own that kills the process, as kill -9 does, before the n-th thing that it
 * does to a file: a write, a truncation, a sync, a lock, a deletion. Of all databases together.
 */
#ifndef TESTS_HOOK_VFS_KILL_H
#define TESTS_HOOK_VFS_KILL_H

#include <stdint.h>

/* Becomes the default layer. */
void vfs_kill_install(void);

/* Counts from 0 again; 0 kills nobody. */
void vfs_kill_at(uint64_t step);

uint64_t vfs_kill_steps(void);

/* One step more, of something else than a file. */
void vfs_kill_step(void);

#endif
