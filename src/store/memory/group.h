/* Groups, deliveries and their order; drawn in log.h. */
#ifndef FAN_STORE_MEMORY_GROUP_H
#define FAN_STORE_MEMORY_GROUP_H

#include "store/memory/log.h"

struct fan__key;

/*
 * due is in the group's ready heap while pending, in its leased heap while processing, by due_us.
 * token is 0 once it was settled: no claim can speak for it then; a
 * pending one with a token is a claim that lapsed.
 */
struct fan__delivery {
    struct fan__heap_node due;
    struct fan__delivery *next_of_event;
    struct fan__record *record;
    struct fan__memory_group *group;
    enum fan_event_status status;
    enum fan_dead_reason reason;
    unsigned attempts;
    unsigned lapses;
    uint64_t token;
    struct fan__owner *owner;
    char *error;
    int64_t due_us;
    int64_t processed_us;
    int64_t completed_us;

    struct fan__key *key;
    struct fan__delivery *key_previous;
    struct fan__delivery *key_next;
    struct fan__delivery *waiting_next;
    bool waiting;
};

/* One key of an ordered group, while it has unsettled deliveries. */
struct fan__key {
    struct fan__table_node node;
    struct fan__delivery *first;
    struct fan__delivery *last;
    size_t processing;
    unsigned partition;
    char name[];
};

/* Held by one owner while that owner has a claim in it. */
struct fan__partition {
    struct fan__owner *owner;
    size_t processing;
    struct fan__delivery *waiting;
};

struct fan__order {
    struct fan__table keys;
    struct fan__partition partitions[FAN_GROUP_PARTITION_COUNT];
};

struct fan__memory_group {
    char *group;
    char *handler;
    char *pattern;
    char *topic;
    uint64_t cursor_seq;
    int64_t joined_us;
    struct fan__heap ready;
    struct fan__heap leased;
    uint64_t counts[4];
    struct fan__order *order;
    bool new_first; /* of the next claim's odd one: the last one was of what was due already */
};

/* group.c: groups, their deliveries, and what may become of one. */
enum fan_status fan__memory_group_create(struct fan__memory *memory,
                                         const struct fan_group_name *name,
                                         const struct fan_group_options *options);
enum fan_status fan__memory_group_delete(struct fan__memory *memory,
                                         const struct fan_group_name *name);
struct fan__memory_group *fan__memory_group_find(const struct fan__memory *memory,
                                                 const struct fan_group_name *name);
void fan__memory_groups_deinit(struct fan__memory *memory);
bool fan__memory_wants(const struct fan__memory_group *group, const struct fan_event *event);

/* Makes lapsed claims of all groups pending again; every look at a state comes after it. */
void fan__memory_lapse(struct fan__memory *memory);

/* A delivery of a record that has none of this group; NULL without memory. It is in no heap yet. */
struct fan__delivery *fan__memory_delivery_new(struct fan__memory *memory,
                                               struct fan__memory_group *group,
                                               struct fan__record *record);
void fan__memory_delivery_free(struct fan__memory *memory, struct fan__delivery *delivery);
struct fan__delivery *fan__memory_delivery_find(const struct fan__record *record,
                                                const struct fan__memory_group *group);
enum fan_status fan__memory_settle(struct fan__memory *memory, struct fan__memory_group *group,
                                   struct fan_settle *items, size_t count);
enum fan_status fan__memory_renew(struct fan__memory *memory, struct fan__memory_group *group,
                                  struct fan_settle *items, size_t count, uint32_t lease_ms);
enum fan_status fan__memory_move(struct fan__memory *memory, struct fan__memory_group *group,
                                 uint64_t seq, enum fan_event_status to);
void fan__memory_state(const struct fan__memory *memory, const struct fan__record *record,
                       struct fan_event_state *ret_state);

/*
 * visit.c: copies of what visitors see, so that no lock is held while they look. A snapshot of
 * deliveries covers whole events only; *after_seq moves to the last one that it covers, and to
 * FAN_SEQ_MAX at the end.
 */
struct fan__snapshot {
    void *items;
    size_t count;
    char *texts;
};

enum fan_status fan__memory_snapshot_deliveries(const struct fan__memory *memory, uint64_t seq,
                                                uint64_t *after_seq,
                                                struct fan__snapshot *ret_snapshot);
enum fan_status fan__memory_snapshot_groups(const struct fan__memory *memory,
                                            struct fan__snapshot *ret_snapshot);
void fan__memory_snapshot_deinit(const struct fan__memory *memory, struct fan__snapshot *snapshot);

/* claim.c */
enum fan_status fan__memory_claim(struct fan__memory *memory, struct fan__memory_group *group,
                                  const struct fan_claim_options *options, struct fan_batch *batch,
                                  struct fan_claim *claims);
void fan__memory_owner_unref(struct fan__memory *memory, struct fan__owner *owner);

/* place.c: where a delivery waits: a heap, a partition's list, or behind others of its key. */

/* Moves a delivery to a status, with its places and counts; due_us and owner are set before. */
void fan__memory_shift(struct fan__memory *memory, struct fan__delivery *delivery,
                       enum fan_event_status status);

/* Gives another due_us to a delivery where it is. */
void fan__memory_reschedule(struct fan__delivery *delivery, int64_t due_us);

/* Takes a delivery that goes away out of its places and counts. */
void fan__memory_unplace(struct fan__memory *memory, struct fan__delivery *delivery);

/*
 * Ordered groups: gives an unsettled delivery its place in its key's queue. False without memory.
 */
bool fan__memory_queue(struct fan__memory *memory, struct fan__delivery *delivery);

/* Makes a group ordered, from then on. False without memory. */
bool fan__memory_order_begin(struct fan__memory *memory, struct fan__memory_group *group);
void fan__memory_order_free(struct fan__memory *memory, struct fan__order *order);

/*
 * Gives a delivery that is due and that the owner may have, NULL when there is none. It is in no
 * place then: claim it or shift it back to pending.
 */
struct fan__delivery *fan__memory_next_due(struct fan__memory_group *group,
                                           const struct fan__owner *owner, int64_t now_us);

/* The same of one pending delivery: whether it is due and the owner may have it. */
bool fan__memory_pick(struct fan__delivery *delivery, const struct fan__owner *owner,
                      int64_t now_us);

#endif
