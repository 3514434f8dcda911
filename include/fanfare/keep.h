/*
 * Keeping a log for years: what goes and when, copies of it, and whether it is sound.
 *
 * Retention removes finished events alone, oldest first: those that every group has completed, or
 * that none wants. What a group is owed stays, and so do dead letters, up to bounds of their own. A
 * reader whose place lies before what was removed is told a gap (FAN_GAP_RETENTION).
 *
 * An optional part of a provider: where it is not there the answer is FAN_UNSUPPORTED.
 */
#ifndef FANFARE_KEEP_H
#define FANFARE_KEEP_H

#include <fanfare/store.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * The bounds; 0 for none. Ages are times since the append, by the store's clock.
 *
 * age_ms        finished events that are older go
 * count, bytes  of more events in the log than this, or of more bytes of them, the oldest go
 * owed_age_ms   what a group is owed for longer becomes a dead letter (FAN_DEAD_EXPIRED); where an
 *               event has a deliver_at, from then on. A claim that somebody holds is left alone
 * dead_age_ms   a dead letter that is dead for longer is discarded; until then it keeps its event
 * group_age_ms  a group in which no member was seen for longer is deleted, with what it is owed;
 *               who creates it again, claims, renews or settles is seen. At least
 *               FAN_GROUP_AGE_MS_MIN, as a store need only know to the minute who was there. A
 *               broker deletes none before it has run for as long itself: time in which none ran,
 *               or in which its process stood still, does not count
 * limit         events that one call looks at; 0 for 1,000
 */
struct fan_retention {
    size_t size;
    uint64_t age_ms;
    uint64_t count;
    uint64_t bytes;
    uint64_t owed_age_ms;
    uint64_t dead_age_ms;
    uint64_t group_age_ms;
    size_t limit;
};

#define FAN_RETENTION_SIZE sizeof(struct fan_retention)
#define FAN_GROUP_AGE_MS_MIN 120000

/*
 * What one call did; set size first. One call deletes one group at most: `group` and `handler` name
 * it. trimmed_seq is that of fan_read_result; more: there is more to look at, call again.
 */
struct fan_retained {
    size_t size;
    uint64_t removed;
    uint64_t expired;
    uint64_t discarded;
    uint64_t groups_expired;
    uint64_t trimmed_seq;
    bool more;
    char group[FAN_TEXT_SIZE_MAX + 1];
    char handler[FAN_TEXT_SIZE_MAX + 1];
};

/*
 * Applies retention to a bounded part of the log, so that nobody waits for long. Several calls, one
 * after the other until `more` is false, look at all that is past a bound once; the store remembers
 * how far they came.
 *
 * Returns: FAN_INVALID with the field; FAN_CONFLICT when the clock is more than a day from where
 *          the log knows it to be, until fan_store_accept_clock; faults.
 * Thread:  any. Blocks: for the storage.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_store_retain(struct fan_store *store,
                                                        const struct fan_retention *retention,
                                                        struct fan_retained *ret_retained,
                                                        struct fan_error *ret_error);

/*
 * Takes the clock as it stands now for right. Returns: faults. Thread: any. Blocks: for the
 * storage.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_store_accept_clock(struct fan_store *store,
                                                              struct fan_error *ret_error);

/*
 * Writes a copy of the log, as of one instant, into a file that is not there yet. Appends and reads
 * go on. The file appears under its name when it is whole and on the disk; until then it is called
 * PATH.fanfare-part. Files of that ending whose process died are removed from the folder.
 *
 * Returns: FAN_EXISTS when the file is there; FAN_UNAVAILABLE while another one writes it;
 *          FAN_NO_SPACE, FAN_DENIED and the like; faults.
 * Thread:  any. Blocks: for the storage, seconds for each gigabyte.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_store_backup(struct fan_store *store, const char *path,
                                                        struct fan_error *ret_error);

/*
 * Makes a log at a URI, where there is none yet, of a backup. It is verified first, and has an
 * epoch of its own: a cursor of the log that it was taken from gets a gap. It goes on by the clock
 * of now, which is thereby taken for right. `env` may be NULL.
 *
 * Returns: FAN_EXISTS when there is something at the URI; FAN_CORRUPT for what is no sound backup;
 *          FAN_TOO_NEW; FAN_INVALID, also for a log that is in use; FAN_UNAVAILABLE while another
 *          one writes the same log; faults. The message names the URI without its secret.
 * Thread:  any. Blocks: for the storage, seconds for each gigabyte.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_store_restore(const char *path, const char *uri,
                                                         const struct fan_env *env,
                                                         struct fan_error *ret_error);

/*
 * Something that is wrong with a log. part is "storage", "event", "delivery" and the like; seq is
 * the event's, 0 where it is none's. Text is borrowed for the visit.
 */
struct fan_finding {
    size_t size;
    const char *part;
    uint64_t seq;
    const char *words;
};

/* Sees one finding; false ends the search. It must not call the store. */
typedef bool (*fan_finding_visit)(void *context, const struct fan_finding *finding);

/*
 * Looks for damage: reads the whole log as of one instant, and changes nothing. Appends and reads
 * go on.
 *
 * Returns: FAN_CORRUPT when there was a finding; faults, when it could not look.
 * Thread:  any. Blocks: for the storage, seconds to minutes for each gigabyte.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_store_verify(struct fan_store *store,
                                                        fan_finding_visit visit, void *context,
                                                        struct fan_error *ret_error);

#ifdef __cplusplus
}
#endif

#endif
