/*
 * What a broker tells whoever counts: a table of functions, given at open. Prometheus is the
 * built-in one (prometheus.h).
 *
 * A function may be NULL: nobody asks for that. All are called without a lock, on a thread of the
 * broker or of who publishes, some at the same time: be short, never wait, and do not call the
 * broker. What a publisher or a waiting fan_broker_publish_sync was told of has been counted
 * before.
 */
#ifndef FANFARE_METRICS_H
#define FANFARE_METRICS_H

#include <fanfare/event.h>
#include <fanfare/group.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * One append to the log. count is of those that have their answer: what was neither stored nor
 * there already was refused, and what waits for a storage that is down is not among them.
 */
struct fan_metrics_commit {
    size_t size;
    size_t count;
    size_t stored;
    size_t duplicates;
    size_t queued;     /* left in the writer's queue */
    int64_t append_ns; /* what the store took */
    int64_t waited_ns; /* how long the first of them lay in the writer's queue; -1: it did not */
};

/* How a call of a handler ended. */
enum fan_processed_status {
    FAN_PROCESSED_COMPLETED = 1,
    FAN_PROCESSED_RETRIED = 2, /* it comes again */
    FAN_PROCESSED_FAILED = 3,  /* a dead letter; of a live handler, whatever is not DONE */
};

/* Gives "completed", "retried" or "failed". Memory: static. Thread: any. */
FAN_API const char *fan_processed_status_name(enum fan_processed_status status);

/*
 * One verdict that counts: the store knows it. Hand-backs and what another held by then do not
 * come here. duration_ns is the time in the handler, or from the claim on when a member of another
 * process settled it through this one. Text is borrowed for the call.
 */
struct fan_metrics_processed {
    size_t size;
    enum fan_source source;
    const char *type;
    const char *group; /* NULL for a live handler */
    const char *handler;
    enum fan_processed_status status;
    int64_t duration_ns;
    int64_t waited_ns; /* from the claim to the call; -1: it did not wait in this process */
};

/*
 * event_published  an event was stored; not a duplicate
 * event_processed  a handler is done with an event, for now or for good
 * committed        an append is over; before its events are told one by one
 * queue_size       events that wait for the writer, after each append: one call at a time
 * workers_active   +1 when a worker enters a handler, -1 when it leaves
 */
struct fan_metrics {
    size_t size;
    void *context;
    void (*event_published)(void *context, enum fan_source source, const char *type);
    void (*event_processed)(void *context, const struct fan_metrics_processed *processed);
    void (*committed)(void *context, const struct fan_metrics_commit *commit);
    void (*queue_size)(void *context, size_t count);
    void (*workers_active)(void *context, int change);
};

#define FAN_METRICS_SIZE sizeof(struct fan_metrics)

#ifdef __cplusplus
}
#endif

#endif
