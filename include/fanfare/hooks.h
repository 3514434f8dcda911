/*
 * Hooks: what a program's data layer asks before it touches a record, and whom it tells after.
 *
 *     registry:  new -> add, remove ... while before and after run, from any thread -> free
 *
 * The registry knows no database. A data layer calls fan_hooks_before, does its work, and calls
 * fan_hooks_after; records.h is one over SQLite. Hooks run on the caller's thread, in the order in
 * which they were added, and with no lock held, so a hook may add, remove and operate again. Those
 * added while an operation's hooks run are not called for it.
 *
 * A before hook may refuse the operation; an after hook cannot fail it. A broker that is registered
 * here publishes what was done, without ever holding it up: an event may be refused (counted) and
 * is lost with the process until the broker has it. Who needs certainty uses the outbox (outbox.h).
 */
#ifndef FANFARE_HOOKS_H
#define FANFARE_HOOKS_H

#include <fanfare/event.h>

#ifdef __cplusplus
extern "C" {
#endif

struct fan_broker;
struct fan_env;
struct fan_hook;
struct fan_hooks;

/* What is done to a record, as bits. */
enum fan_crud {
    FAN_CRUD_CREATE = 1 << 0,
    FAN_CRUD_READ = 1 << 1,
    FAN_CRUD_UPDATE = 1 << 2,
    FAN_CRUD_DELETE = 1 << 3,
};

/* Gives "create" and so on, "" for anything else. Memory: static. Thread: any. */
FAN_API const char *fan_crud_name(enum fan_crud crud);

/*
 * One operation on one record. Everything is borrowed for the call.
 *
 * id       the record's key as a JSON value; empty before a create, and before a read of many
 * data     a JSON object: the row as given before a create and as stored after it, what an update
 *          sets, the row after a read; else empty
 * topic    what an event about the record has as its topic (`users:42`), or NULL
 * user_id, session_id, metadata  who does it, and why: as in events
 */
struct fan_operation {
    size_t size;
    enum fan_crud crud;
    const char *schema;
    const char *entity;
    struct fan_str id;
    struct fan_str data;
    const char *topic;
    int64_t user_id;
    const char *session_id;
    struct fan_str metadata;
};

#define FAN_OPERATION_SIZE sizeof(struct fan_operation)

/*
 * Looks at an operation that is about to be done. Any status but FAN_OK refuses it; words and the
 * field at fault go into `error`, which is never NULL.
 */
typedef enum fan_status (*fan_hook_before)(void *context, const struct fan_operation *operation,
                                           struct fan_error *error);

/* Is told of an operation that was done. */
typedef void (*fan_hook_after)(void *context, const struct fan_operation *operation);

/*
 * operations      fan_crud bits; 0 for all
 * schema, entity  which records; NULL for any
 * before, after   at least one of them
 */
struct fan_hook_options {
    size_t size;
    unsigned operations;
    const char *schema;
    const char *entity;
    fan_hook_before before;
    fan_hook_after after;
    void *context;
};

#define FAN_HOOK_OPTIONS_SIZE sizeof(struct fan_hook_options)

/*
 * Makes an empty registry. `env` may be NULL.
 *
 * Returns: FAN_NO_MEMORY.
 * Memory:  *ret_hooks is yours, for fan_hooks_free.
 * Thread:  any. Blocks: never.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_hooks_new(const struct fan_env *env,
                                                     struct fan_hooks **ret_hooks);

/* Frees it with its hooks. Accepts NULL. Thread: any, while no other call on it runs. */
FAN_API void fan_hooks_free(struct fan_hooks *hooks);

/*
 * Adds a hook behind those that are there. ret_hook may be NULL: it then lives as long as the
 * registry.
 *
 * Returns: FAN_INVALID with the field; FAN_NO_MEMORY.
 * Memory:  options are copied; *ret_hook is yours, for fan_hook_remove before fan_hooks_free.
 * Thread:  any, also in a hook. Blocks: never.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_hooks_add(struct fan_hooks *hooks,
                                                     const struct fan_hook_options *options,
                                                     struct fan_hook **ret_hook,
                                                     struct fan_error *ret_error);

/*
 * Registers a broker: after an operation it publishes `schema.entity.operation` with source
 * database, the operation's topic, user, session and metadata, and as payload the row (create,
 * read), {"id", "data"} (update) or {"id"} (delete), by fan_broker_publish_async. In the options,
 * operations 0 means create, update and delete, reads have to be named; before, after and context
 * must be NULL. The broker must outlive the hook.
 *
 * Returns: as fan_hooks_add. Memory: as there. Thread: any, also in a hook. Blocks: never.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_hooks_publish(struct fan_hooks *hooks,
                                                         struct fan_broker *broker,
                                                         const struct fan_hook_options *options,
                                                         struct fan_hook **ret_hook,
                                                         struct fan_error *ret_error);

/*
 * Removes a hook. It is not called again by operations that begin after this.
 *
 * Thread: any. Blocks: while it runs on other threads; not when called from within a hook: it may
 *         then still run elsewhere. Accepts NULL.
 */
FAN_API void fan_hook_remove(struct fan_hook *hook);

/*
 * How a hook went. `refused` are operations that a before hook refused, or events that the broker
 * did not take; the rest is for brokers. At quiescence accepted = stored + failed.
 */
struct fan_hook_stats {
    size_t size;
    uint64_t calls;
    uint64_t refused;
    uint64_t accepted;        /* events in the writer's queue or past it */
    uint64_t stored;          /* durable */
    uint64_t failed;          /* accepted, and then not stored */
    struct fan_error refusal; /* the words of the last one that was refused or failed */
};

/* Reads the counters; set ret_stats->size first. Thread: any. Blocks: short locks only. */
FAN_API void fan_hook_stats(struct fan_hook *hook, struct fan_hook_stats *ret_stats);

/*
 * Runs the before hooks for an operation that a data layer is about to do, up to the first that
 * refuses.
 *
 * Returns: what that one gave; FAN_INVALID for an operation without its size or names.
 * Thread:  any. Blocks: as the hooks do.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_hooks_before(struct fan_hooks *hooks,
                                                        const struct fan_operation *operation,
                                                        struct fan_error *ret_error);

/* Runs the after hooks for an operation that was done. Thread: any. Blocks: as the hooks do. */
FAN_API void fan_hooks_after(struct fan_hooks *hooks, const struct fan_operation *operation);

#ifdef __cplusplus
}
#endif

#endif
