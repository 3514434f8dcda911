/*
 * What a relay needs of a database with an outbox: one table of functions for SQLite, one for
 * PostgreSQL. All are called by one thread at a time.
 */
#ifndef FAN_HOOK_RELAY_H
#define FAN_HOOK_RELAY_H

#include "base/buffer.h"

#include <fanfare/outbox.h>

#include <stdbool.h>
#include <stdint.h>

enum fan__fate {
    FAN__FATE_OWED,    /* not published yet */
    FAN__FATE_DURABLE, /* the log has it */
    FAN__FATE_ASIDE,   /* it never will */
};

/* A row that was loaded. Its place is (xid, seq); SQLite needs no xid. */
struct fan__row {
    uint64_t xid;
    int64_t seq;
    enum fan__fate fate;
    char *id;
    struct fan_event *event;
    char *reason;
};

/* What a load saw. oldest_us: when the oldest row that waits was recorded. */
struct fan__sight {
    uint64_t rows; /* that wait */
    int64_t oldest_us;
    int64_t hidden_us; /* for how long rows have waited for an older transaction, 0: none does */
};

/* Is given each row that was loaded; `event` is NULL for one that is too large to be one. */
typedef enum fan_status (*fan__row_take)(void *context, const struct fan__row *place,
                                         const char *id, struct fan_str event);

struct fan__load {
    size_t count_max;
    size_t size_max;
    uint32_t alarm_ms;
    fan__row_take take;
    void *context;
    struct fan__sight *sight;
};

/*
 * open    connects; as fan_outbox_relay_open
 * name    adds what names this outbox among all, for its lease
 * load    gives the oldest rows in their order; FAN_AGAIN when none is there, or nothing changed
 * settle  in one transaction deletes rows, and keeps those that have a reason in the table aside;
 *         `whole` when they are all that was loaded
 * descriptor  is readable when somebody committed, or -1
 */
struct fan__outbox {
    enum fan_status (*open)(const struct fan_env *env,
                            const struct fan_outbox_relay_options *options, void **ret_self,
                            struct fan_error *error);
    void (*close)(void *self);
    void (*name)(void *self, struct fan__buffer *name);
    enum fan_status (*load)(void *self, const struct fan__load *load, struct fan_error *error);
    enum fan_status (*settle)(void *self, const struct fan__row *rows, size_t count, bool whole,
                              struct fan_error *error);
    int (*descriptor)(void *self);
};

extern const struct fan__outbox fan__outbox_sqlite;
extern const struct fan__outbox fan__outbox_postgres;

#endif
