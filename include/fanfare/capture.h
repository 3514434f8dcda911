/*
 * Capture: every change of chosen PostgreSQL tables (13 or later), made by whatever program, as an
 * event `schema.entity.operation` with the row as its payload, read from the server's own log by
 * logical decoding (pgoutput). docs/capture.md has the mapping, and capture by triggers.
 *
 *     open (checks all, makes publication and slot) -> start -> stop -> free
 *
 * The slot is the place: the server keeps its log from there on. It moves only when the events are
 * durable in the fanfare log; what is sent again after a crash has the same ids, and is stored once
 * (L9). Of several captures of one slot into one log one works, the others wait. stop and free
 * leave the slot, so that nothing is lost until the next start; fan_capture_remove ends it for
 * good.
 *
 * A slot that nobody reads fills the server's disk. A capture that runs watches it: a warning in
 * the log at slot_bytes_alarm; past slot_bytes_max, when nothing got on for six looks, the slot is
 * dropped. What was missed is then told by an event `capture.SLOT.gap`, and capture begins anew.
 * While no capture runs at all, only the server's own max_slot_wal_keep_size bounds it; without
 * that, a warning says so.
 */
#ifndef FANFARE_CAPTURE_H
#define FANFARE_CAPTURE_H

#include <fanfare/status.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct fan_broker;
struct fan_capture;

#define FAN_CAPTURE_SLOT "fanfare"

/*
 * database          URI, postgres://...; its user needs REPLICATION and must own the tables
 * slot              of the slot and the publication, 1 to 63 of a-z, 0-9 and '_'; NULL for
 *                   FAN_CAPTURE_SLOT
 * tables            as SQL writes them: `public.users`, `"My Table"`
 * slot_bytes_max    0 for 16 GiB
 * slot_bytes_alarm  0 for a quarter of that
 * watch_ms          how often the slot is looked at; 0 for 10,000
 * lease_ms          how soon another capture takes over from one that died; 0 for 10,000
 */
struct fan_capture_options {
    size_t size;
    const char *database;
    const char *slot;
    const char *const *tables;
    size_t table_count;
    uint64_t slot_bytes_max;
    uint64_t slot_bytes_alarm;
    uint32_t watch_ms;
    uint32_t lease_ms;
};

#define FAN_CAPTURE_OPTIONS_SIZE sizeof(struct fan_capture_options)

/*
 * Opens a capture into a broker, which must outlive it. From its return on, changes are captured.
 *
 * Returns: FAN_INVALID with the field; FAN_NOT_FOUND for no such table; FAN_DENIED; FAN_UNSUPPORTED
 *          with what to do where wal_level is not logical, or a table has neither a primary key nor
 *          REPLICA IDENTITY FULL, or a partition another identity than its table; FAN_EXISTS when
 *          slot or publication are another's, or in use by a capture of other tables;
 *          FAN_UNAVAILABLE, also while a slot is being made; faults.
 * Memory:  options are copied; *ret_capture is yours, for fan_capture_free.
 * Thread:  any. Blocks: for the server.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_capture_open(struct fan_broker *broker,
                                                        const struct fan_capture_options *options,
                                                        struct fan_capture **ret_capture,
                                                        struct fan_error *ret_error);

/*
 * Starts its thread. What fails (server or store down) is tried again, after 50 ms to 5 s.
 *
 * Returns: FAN_MISUSE when it runs; FAN_CLOSED after stop; FAN_NO_MEMORY for the thread.
 * Thread:  any. Blocks: never.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_capture_start(struct fan_capture *capture);

/*
 * Stops after what is at hand. Again does nothing. Thread: any but its own. Blocks: for server and
 * storage.
 */
FAN_API void fan_capture_stop(struct fan_capture *capture);

/* Stops if need be and frees. Accepts NULL. Thread: any, while no other call on it runs. */
FAN_API void fan_capture_free(struct fan_capture *capture);

/*
 * Sums since open. `lsn` is the place up to which all is durable; slot_bytes what the server keeps
 * for the slot, as of the last look; leading whether this one streams.
 */
struct fan_capture_stats {
    size_t size;
    uint64_t published;
    uint64_t transactions;
    uint64_t refused; /* rows over a limit, published as their key alone */
    uint64_t gaps;    /* times that the slot was gone */
    uint64_t failures;
    uint64_t lsn;
    uint64_t slot_bytes;
    int64_t lag_us; /* from the last transaction's commit until its events were durable */
    bool leading;
    struct fan_error error; /* why it is not getting on, or FAN_OK */
    uint64_t lag_bytes;     /* of the server's log, from `lsn` to its end, as of the last look */
    bool alarm;             /* slot_bytes is from slot_bytes_alarm on */
};

/* Reads them; set ret_stats->size first. Thread: any. Blocks: short locks only. */
FAN_API void fan_capture_stats(struct fan_capture *capture, struct fan_capture_stats *ret_stats);

/*
 * Drops a capture's slot and publication, while none runs. `slot` as in the options.
 *
 * Returns: FAN_NOT_FOUND when there is neither; FAN_EXISTS while it is in use, and for a
 *          publication that is another's; as fan_capture_open.
 * Thread:  any. Blocks: for the server.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_capture_remove(const char *database, const char *slot,
                                                          struct fan_error *ret_error);

#ifdef __cplusplus
}
#endif

#endif
