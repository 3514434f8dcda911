/*
 * The log: events in the order of their sequences, consumer groups with their deliveries, and
 * leases.
 *
 *     open(URI) -> append, read, claim ... from any thread -> close
 *
 * A store is a provider's table (provider.h) behind a handle. Calls block for as long as their
 * storage does, are batched, and are safe from any thread. Sequences rise in the order in which
 * events become visible: whoever sees n has seen, or will never see, all before n.
 *
 * URIs: `memory:`, `sqlite:PATH`, `postgres://...`, and over them `fault:` (fault.h) and `tee:`
 * (tee.h). Options follow as `?name=value&...` (docs/stores.md). Sums: an event's status is that of
 * its deliveries: failed if any is dead, completed when all are done or no group wants it,
 * processing while any is claimed, else pending. retry_count is the highest attempt less one.
 */
#ifndef FANFARE_STORE_H
#define FANFARE_STORE_H

#include <fanfare/cursor.h>
#include <fanfare/event.h>
#include <fanfare/state.h>

#ifdef __cplusplus
extern "C" {
#endif

struct fan_batch;
struct fan_store;

/* What a provider can promise, as bits of fan_store_capabilities. */
enum fan_capability {
    FAN_CAPABILITY_DURABLE_DISK = 1 << 0,    /* acknowledged survives a power loss */
    FAN_CAPABILITY_DURABLE_PROCESS = 1 << 1, /* acknowledged survives the death of the process */
    FAN_CAPABILITY_REPLICATED = 1 << 2,
    FAN_CAPABILITY_NATIVE_GROUPS = 1 << 3,  /* groups are the storage's own, seen by its tools */
    FAN_CAPABILITY_QUERY = 1 << 4,          /* list uses indexes; without it list reads the log */
    FAN_CAPABILITY_TAIL_PROCESSES = 1 << 5, /* wait is woken by other processes */
};

/*
 * What an append demands of the log at its commit. Fields at zero demand nothing, but key: with a
 * key, the last retained event whose topic is `key` must have sequence `last_seq` (0: there is
 * none). With a lease, it must be held at the commit, and its fence be `fence`.
 */
struct fan_expectation {
    size_t size;
    const char *key;
    uint64_t last_seq;
    const char *lease;
    uint64_t fence;
};

/*
 * One event of a batch. `joined` makes it one unit with the item before it: a unit is stored whole
 * or not at all, and the expectation of its first item speaks for it; a unit of which every id is
 * there already is a retry and not asked. Units see what those before them in the batch did. The
 * ret_ fields are filled by append: FAN_OK (ret_duplicate: the id was there, ret_seq is the first
 * one's), FAN_CONFLICT, FAN_EXPIRED (an id older than the window of a provider that forgets),
 * FAN_FULL, or FAN_INVALID (over a limit of the provider's own).
 */
struct fan_append {
    const struct fan_event *event;
    const struct fan_expectation *expectation;
    bool joined;
    bool ret_duplicate;
    enum fan_status ret_status;
    uint64_t ret_seq;
};

/*
 * Which events to read or list; NULL and 0 mean any, "" those without. Times are created times:
 * from_us inclusive, until_us exclusive. `status` with has_status, offset and newest_first are for
 * list alone.
 */
struct fan_query {
    size_t size;
    const char *topic;
    const char *pattern;
    enum fan_source source;
    const char *schema;
    const char *entity;
    const char *operation;
    const char *instance_id;
    int64_t user_id;
    int64_t from_us;
    int64_t until_us;
    bool has_status;
    enum fan_event_status status;
    bool newest_first;
    uint64_t offset;
    size_t limit; /* events; 0 for 1,000 */
};

#define FAN_QUERY_SIZE sizeof(struct fan_query)

/*
 * How far a read went: everything up to scanned_seq was looked at. Retention may have removed
 * events up to trimmed_seq; head_seq is the last visible one.
 */
struct fan_read_result {
    uint64_t scanned_seq;
    uint64_t trimmed_seq;
    uint64_t head_seq;
};

/*
 * Opens a store by URI. `env` may be NULL.
 *
 * Returns: FAN_INVALID for an unknown scheme or option; FAN_CORRUPT for what is no log; FAN_TOO_NEW
 *          for a later format; FAN_NOT_FOUND for a folder that is not there; FAN_READ_ONLY,
 *          FAN_DENIED, FAN_NO_SPACE, FAN_UNAVAILABLE, FAN_IO; the message names the URI without its
 *          secret.
 * Memory:  *ret_store is yours, for fan_store_close.
 * Thread:  any. Blocks: for the storage, and to recover from a crash.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_store_open(const char *uri, const struct fan_env *env,
                                                      struct fan_store **ret_store,
                                                      struct fan_error *ret_error);

/*
 * Closes and frees. Accepts NULL. Thread: any, while no other call runs. Blocks: for the storage.
 */
FAN_API void fan_store_close(struct fan_store *store);

/*
 * The log's identity, never 0; the provider's name; its fan_capability bits. Thread: any. Blocks:
 * never.
 */
FAN_API uint64_t fan_store_epoch(const struct fan_store *store);
FAN_API const char *fan_store_name(const struct fan_store *store);
FAN_API unsigned fan_store_capabilities(const struct fan_store *store);

/*
 * Appends a batch in one commit, in its order; durable and visible on return. Look at each
 * ret_status too.
 *
 * Returns: a fault when nothing was stored; FAN_UNKNOWN when that is not certain: append the same
 *          ids again.
 * Memory:  events are borrowed for the call.
 * Thread:  any. Blocks: for the storage.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_store_append(struct fan_store *store,
                                                        struct fan_append *items, size_t count,
                                                        struct fan_error *ret_error);

/*
 * Reads events after a sequence in rising order into `batch` (cleared first), at most query->limit
 * of them (and about 1 MiB, but at least one). scanned_seq lets the caller go on where nothing
 * matched. Give it back as `after_seq` of the next read; at the head, scanned_seq equals head_seq.
 *
 * Returns: FAN_OK, also with no event; faults.
 * Thread:  any. Blocks: for the storage.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_store_read(struct fan_store *store, uint64_t after_seq,
                                                      const struct fan_query *query,
                                                      struct fan_batch *batch,
                                                      struct fan_read_result *ret_result);

#define FAN_LIST_SIZE_MAX ((size_t)16 << 20)

/*
 * Lists events with their states, in stable order by sequence; an offset past the end gives none.
 * A store without FAN_CAPABILITY_QUERY reads its whole log for that.
 * A list ends once it has FAN_LIST_SIZE_MAX bytes of events (fan_batch_size); when that is before
 * query->limit, there may be more from offset + the batch's count on. `states` has room for
 * query->limit entries (1,000 when that is 0); its error texts live as long as the batch's content.
 *
 * Returns: FAN_INVALID with the field; faults.
 * Thread:  any. Blocks: for the storage.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_store_list(struct fan_store *store,
                                                      const struct fan_query *query,
                                                      struct fan_batch *batch,
                                                      struct fan_event_state *states,
                                                      struct fan_error *ret_error);

/*
 * Gets one event by id with its state (ret_state may be NULL).
 *
 * Returns: FAN_NOT_FOUND at once for an unknown id; faults.
 * Thread:  any. Blocks: for the storage.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_store_get(struct fan_store *store, const char *id,
                                                     struct fan_batch *batch,
                                                     struct fan_event_state *ret_state);

/*
 * Deletes an event with its deliveries, or erases what it said: payload and metadata become empty
 * (JSON null), user and session are gone, the place and the id stay.
 *
 * Returns: FAN_NOT_FOUND; faults. Thread: any. Blocks: for the storage.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_store_delete(struct fan_store *store, const char *id);
FAN_MUST_CHECK FAN_API enum fan_status fan_store_erase(struct fan_store *store, const char *id);

/*
 * Tells the last visible sequence, 0 when there is none. It never goes back: a sequence is not used
 * again after its event was deleted.
 *
 * Returns: faults. Thread: any. Blocks: for the storage.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_store_head(struct fan_store *store, uint64_t *ret_seq);

/*
 * Waits until the head is past after_seq, by whatever instance. A hint: truth is reading. It may
 * come as late as the provider's next look (docs/stores.md), also for appends of this process.
 *
 * Returns: FAN_AGAIN after timeout_ms, or when fan_store_wake was called; faults.
 * Thread:  any. Blocks: up to timeout_ms.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_store_wait(struct fan_store *store, uint64_t after_seq,
                                                      uint32_t timeout_ms);

/* Ends every wait that is under way. Thread: any. Blocks: never. */
FAN_API void fan_store_wake(struct fan_store *store);

/*
 * Sums over the log; set ret_stats->size first. bytes is what the storage holds on disk or in
 * memory.
 */
struct fan_store_stats {
    size_t size;
    uint64_t events;
    uint64_t first_seq;
    uint64_t last_seq;
    uint64_t bytes;
    uint64_t pending;
    uint64_t processing;
    uint64_t completed;
    uint64_t failed;
    uint64_t groups;
};

/* Returns: faults. Thread: any. Blocks: for the storage. */
FAN_MUST_CHECK FAN_API enum fan_status fan_store_stats(struct fan_store *store,
                                                       struct fan_store_stats *ret_stats);

#ifdef __cplusplus
}
#endif

#endif
