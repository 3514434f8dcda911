/*
 * What PostgreSQL's pgoutput says of a stream of changes (protocol version 1), made into events.
 *
 *     Relation*  Begin  (Insert | Update | Delete | Truncate)*  Commit      one transaction whole
 *
 * Pure: bytes in, events gathered. An event's id follows from the place and time of its
 * transaction's commit, from its number, and from the event's index in there, so that what is sent
 * again has the same ids, also by a standby that was promoted.
 */
#ifndef FAN_HOOK_WAL_H
#define FAN_HOOK_WAL_H

#include "base/buffer.h"

#include <fanfare/event.h>

#include <stdbool.h>
#include <stdint.h>

#define FAN__LSN_TEXT_SIZE 24

/* A value of a row as it lies in a message. kind: n is NULL, u unchanged and not sent, t text. */
struct fan__wal_value {
    char kind;
    const char *data;
    size_t size;
};

struct fan__wal_column {
    char *name;
    uint32_t type;
    bool key;
    struct fan__wal_value now;
    struct fan__wal_value before;
};

/* A table as the messages behind it are to be read. identity: d default, f full, i an index. */
struct fan__wal_relation {
    uint32_t oid;
    char identity;
    char *schema; /* as segments of a type */
    char *entity;
    struct fan__wal_column *columns;
    size_t count;
};

/* Where the texts of an event lie in the buffer, each with a NUL behind it. */
struct fan__wal_event {
    char id[37];
    int64_t created_us;
    size_t type;
    size_t topic;
    size_t payload;
    size_t payload_size;
    size_t keys; /* the row's key alone, for a row that is over a limit */
    size_t keys_size;
    size_t metadata;
    size_t metadata_size;
};

/* Marks the primary key's columns of a table whose identity is full. */
typedef enum fan_status (*fan__wal_mark_keys)(void *context, struct fan__wal_relation *relation,
                                              struct fan_error *error);

struct fan__wal {
    const struct fan_env *env;
    fan__wal_mark_keys mark_keys;
    void *context;
    uint64_t seeds[2]; /* of ids */
    struct fan__wal_relation *relations;
    size_t relation_count;
    bool open; /* within a transaction */
    uint64_t commit_lsn;
    int64_t commit_us;
    uint32_t xid;
    uint32_t index;
    struct fan__buffer text; /* what was gathered */
    struct fan__wal_event *events;
    size_t count;
    size_t capacity;
    uint64_t done_lsn; /* behind the last commit that was gathered, or 0 */
    uint64_t done_count;
};

/* `source` names server, database and slot, whatever bytes that is. */
void fan__wal_init(struct fan__wal *wal, const struct fan_env *env, struct fan_str source);
void fan__wal_deinit(struct fan__wal *wal);

/*
 * Takes one message. What it makes is added to what was gathered.
 *
 * Returns: FAN_CORRUPT for what is none; FAN_NO_MEMORY; faults of mark_keys. The stream must then
 *          be begun anew.
 */
FAN_MUST_CHECK enum fan_status fan__wal_feed(struct fan__wal *wal, struct fan_str message,
                                             struct fan_error *error);

/* Forgets what was gathered. */
void fan__wal_clear(struct fan__wal *wal);

/* Shows a gathered event, or as much of it as is surely within the limits: the row's key. */
void fan__wal_show(struct fan__wal *wal, size_t index, struct fan_event_draft *ret_draft);
void fan__wal_show_key(struct fan__wal *wal, size_t index, struct fan_event_draft *ret_draft);

/* Adds a text as a JSON string, a name as a segment of a type. */
void fan__wal_add_string(struct fan__buffer *buffer, const char *text, size_t size);
void fan__wal_add_segment(struct fan__buffer *buffer, const char *name);

/* A place in the server's log: 16/B374D848. */
void fan__lsn_format(uint64_t lsn, char text[FAN__LSN_TEXT_SIZE]);

#endif
