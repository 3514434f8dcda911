/*
 * The inside of the memory provider. One lock over everything; no file here takes it but memory.c.
 *
 *     entries   | 1 | 2 | . | 4 | 5 |        in order of sequence; `.` was removed
 *                 |   |       |   |
 *     ids  ---> record  --- topic (first ... last of its records, for expectations and reads)
 *                 |
 *                 +--- delivery (group a) --- delivery (group b)
 *                          |
 *     group:    ready heap (pending, by due time)   leased heap (processing, by end of lease)
 *
 * A group is lazy: of events behind its cursor it has deliveries only where it wanted one; events
 * past its cursor that it wants are pending without a record of it.
 *
 * An ordered group also keeps, per key, the queue of its unsettled deliveries. Only the head of a
 * queue may be in the ready heap, and only while no other of the key is processing. A head whose
 * partition another owner holds waits in the partition's list instead.
 */
#ifndef FAN_STORE_MEMORY_LOG_H
#define FAN_STORE_MEMORY_LOG_H

#include "base/thread.h"
#include "store/memory/table.h"

#include <fanfare/provider.h>

struct fan__delivery;
struct fan__memory_group;

/* Lives while a record holds it, stored or about to be. */
struct fan__topic {
    struct fan__table_node node;
    struct fan__record *first;
    struct fan__record *last;
    size_t holders;
    char name[];
};

struct fan__record {
    struct fan__table_node by_id;
    struct fan__heap_node evictable;
    struct fan__topic *topic;
    struct fan__record *topic_previous;
    struct fan__record *topic_next;
    struct fan__record *evict_next;
    struct fan__delivery *deliveries;
    struct fan_event *event;
    uint64_t seq;
    int64_t stored_us;
};

/* record is NULL once removed; the sequence stays, so that the search still works. */
struct fan__entry {
    uint64_t seq;
    struct fan__record *record;
};

/* An owner's name, shared by its claims. */
struct fan__owner {
    struct fan__table_node node;
    size_t holders;
    char name[];
};

/* Where retention is: past `seq` up to last_seq it has to look, and up to bound_seq events go. */
struct fan__memory_pass {
    struct fan_retention retention;
    bool runs;
    uint64_t seq;
    uint64_t last_seq;
    uint64_t bound_seq;
};

struct fan__memory {
    const struct fan_env *env;
    struct fan__mutex mutex;
    struct fan__cond appended;
    uint64_t wakes;
    uint64_t hash_seed;
    uint64_t epoch;
    int64_t clock_offset_us;

    uint64_t capacity;
    uint64_t head_seq;
    uint64_t trimmed_seq;
    uint64_t bytes;
    uint64_t live_count;
    struct fan__entry *entries;
    size_t entry_first;
    size_t entry_end;
    size_t entry_capacity;
    struct fan__table ids;
    struct fan__table topics;
    struct fan__heap evictable;

    struct fan__memory_group **groups;
    size_t group_count;
    size_t group_capacity;
    struct fan__table owners;
    uint64_t token_last;

    struct fan__table leases;
    uint64_t fence_last;
    size_t lease_sweep_count;

    struct fan__memory_pass pass;
};

/* About what one read or claim gives. */
#define FAN__MEMORY_BATCH_SIZE_MAX ((size_t)1 << 20)

/* clock.c: the store's time in microseconds, which goes on whatever becomes of the wall clock. */
void fan__memory_clock_init(struct fan__memory *memory);
int64_t fan__memory_now_us(const struct fan__memory *memory);

/* How far the store's clock and the wall's are apart. */
int64_t fan__memory_clock_jump_us(const struct fan__memory *memory);

/* Sets the store's clock to the wall's, for good: what is under way moves along. */
void fan__memory_clock_accept(struct fan__memory *memory);

/* log.c: the events. */
bool fan__memory_log_init(struct fan__memory *memory);
void fan__memory_log_deinit(struct fan__memory *memory);
enum fan_status fan__memory_append(struct fan__memory *memory, struct fan_append *items,
                                   size_t count);
struct fan__record *fan__memory_find(const struct fan__memory *memory, const char *id);
struct fan__record *fan__memory_at(const struct fan__memory *memory, uint64_t seq);

struct fan__topic *fan__memory_topic(const struct fan__memory *memory, const char *name);
uint64_t fan__memory_hash(const struct fan__memory *memory, const char *text);

/* The index of the first entry past `after_seq`, entry_end when there is none. */
size_t fan__memory_index_after(const struct fan__memory *memory, uint64_t after_seq);

/* Takes a record and its deliveries out and frees them. */
void fan__memory_drop(struct fan__memory *memory, struct fan__record *record);

/* A finished event: every delivery completed, and no group that will still want it. */
bool fan__memory_is_finished(const struct fan__memory *memory, const struct fan__record *record);

/* Puts a record where eviction finds it, if no group is owed anything of it. */
void fan__memory_consider(struct fan__memory *memory, struct fan__record *record);
enum fan_status fan__memory_erase(struct fan__memory *memory, struct fan__record *record);

/* read.c: what readers ask. */
enum fan_status fan__memory_read(struct fan__memory *memory, uint64_t after_seq,
                                 const struct fan_query *query, struct fan_batch *batch,
                                 struct fan_read_result *ret_result);
enum fan_status fan__memory_list(struct fan__memory *memory, const struct fan_query *query,
                                 struct fan_batch *batch, struct fan_event_state *states);
enum fan_status fan__memory_add(struct fan__memory *memory, const struct fan__record *record,
                                struct fan_batch *batch, struct fan_event_state *ret_state);
void fan__memory_stats(struct fan__memory *memory, struct fan_store_stats *ret_stats);

/* keep.c */
enum fan_status fan__memory_retain(struct fan__memory *memory,
                                   const struct fan_retention *retention,
                                   struct fan_retained *ret_retained);

/* leases.c */
void fan__memory_leases_deinit(struct fan__memory *memory);
enum fan_status fan__memory_lease_acquire(struct fan__memory *memory, const char *name,
                                          const char *owner, uint32_t ttl_ms, uint64_t *ret_fence);
enum fan_status fan__memory_lease_renew(struct fan__memory *memory, const char *name,
                                        const char *owner, uint64_t fence, uint32_t ttl_ms);
enum fan_status fan__memory_lease_release(struct fan__memory *memory, const char *name,
                                          const char *owner, uint64_t fence);

void fan__memory_leases_move(struct fan__memory *memory, int64_t from_us, int64_t to_us);

/* Tells whether the lease is held now, with that fence. */
bool fan__memory_lease_is(const struct fan__memory *memory, const char *name, uint64_t fence);

#endif
