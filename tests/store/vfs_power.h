/*
 * A SQLite VFS in memory whose power can fail: files keep what was synced for sure, and of what was
 * written since then whatever chance says.
 *
 *     install -> (stores run) -> cut at the n-th operation: everything fails from then on
 *             -> close the stores -> restore: what survived -> open again ... -> remove
 *
 * What may happen is what SQLite's documentation allows: writes since the last sync of a file are
 * applied or not, each sector by itself and in any order; what a file grew by without a sync may be
 * garbage; names that were made or removed without a sync of the folder may come back or vanish.
 * What it does not do: damage what was synced, or bytes beside those that were written
 * (SQLITE_IOCAP_POWERSAFE_OVERWRITE, as SQLite assumes by default).
 */
#ifndef TESTS_STORE_VFS_POWER_H
#define TESTS_STORE_VFS_POWER_H

#include <stdbool.h>
#include <stdint.h>

#define POWER_VFS "power"

/* Registers the VFS with no files. `seed` decides what survives. */
void power_install(uint64_t seed);
void power_remove(void);

/* Everything fails from the operation with this number on; 0 for never. Counting starts anew. */
void power_cut_at(uint64_t operation);
uint64_t power_operations(void);
bool power_is_cut(void);

/* Brings the power back: files become what survived. No connection may be open. */
void power_restore(void);

/* Syncs of write-ahead logs so far. */
uint64_t power_wal_syncs(void);

/* Files together may hold this many bytes; beyond it writes fail with SQLITE_FULL. 0: no bound. */
void power_set_capacity(uint64_t bytes);
uint64_t power_used(void);

/* The next `count` syncs of write-ahead logs fail. */
void power_fail_syncs(unsigned count);

#endif
