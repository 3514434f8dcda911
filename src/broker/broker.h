/*
 * The inside of a broker: the writer's queue, the writer's role, and who waits for it.
 *
 * The writer's role is held by one thread at a time (`committing`): the writer thread, a publisher
 * that found everything idle and commits its own unit, or the caller of fan_broker_step. Only its
 * holder appends, notifies the bus and touches `batch`, `messages` and `page`.
 */
#ifndef FAN_BROKER_BROKER_H
#define FAN_BROKER_BROKER_H

#include "base/high.h"
#include "base/thread.h"

#include <fanfare/broker.h>
#include <fanfare/keep.h>
#include <fanfare/metrics.h>
#include <fanfare/store.h>

struct fan_batch;
struct fan_bus;
struct fan__ticket;
struct fan__waiter;

#define FAN__COMMIT_COUNT_MAX 1000
#define FAN__COMMIT_SIZE_MAX ((size_t)1 << 20)
#define FAN__QUEUE_SIZE_MAX ((size_t)256 << 20)
#define FAN__REFILL_LIMIT 1000

/* One event on its way to the log. Asynchronous ones stand alone; those of a ticket lie in it. */
struct fan__submission {
    struct fan__submission *next;
    struct fan_event *event;
    const struct fan_expectation *expectation;
    struct fan__ticket *ticket;
    fan_publish_done done;
    void *context;
    int64_t
        deadline_ns; /* of an asynchronous one: until then it waits for a storage that is down */
    bool joined;
    int64_t queued_ns; /* when, where somebody counts; 0: it was not queued */
    /* Set by the commit. */
    bool unsure; /* an append had no answer: it may be in the log, after this sequence */
    uint64_t unsure_after_seq;
    bool known;     /* the log had the id, perhaps with other content */
    bool duplicate; /* and not from this publish */
    enum fan_status status;
    uint64_t seq;
};

enum fan__run {
    FAN__RUN_OPENED,
    FAN__RUN_STARTED,
    FAN__RUN_STOPPING, /* refuses new, drains */
    FAN__RUN_STOPPED,
};

struct fan__backlog {
    struct fan__submission *first;
    struct fan__submission **last;
    size_t count;
    size_t size;
};

struct fan__dispatch;

#define FAN__KEEP_INTERVAL_MS_DEFAULT 60000

/* Retention, where it is asked for (keep.c). What may change is under the broker's mutex. */
struct fan__keep {
    bool asked;
    bool changed; /* since the thread last looked */
    bool passing; /* a pass is under way */
    bool spares;  /* it leaves groups, as the broker has not run for long enough */
    bool renew;   /* it began with other bounds: one more follows at once */
    struct fan_retention retention;
    uint32_t interval_ms;
    int64_t since_ns;        /* since when the broker runs without standing still, by env's clock */
    int64_t seen_ns;         /* when that was looked at last */
    int64_t offset_us;       /* of the wall clock from that one then */
    int64_t due_ns;          /* the next pass, by env's clock: of a stepped broker */
    struct fan_retained sum; /* of the pass that is under way */
    enum fan_status status;  /* of the last call; what is told again and again is logged once */
    struct fan__thread thread;
    struct fan__cond wake;
};

struct fan_broker {
    struct fan_broker *next_left; /* of the default ones that a handler still ran for */
    const struct fan_env *env;
    struct fan_event_defaults defaults;
    char *instance_id;
    struct fan_metrics metrics;
    size_t queue_count_max;
    uint32_t publish_timeout_ms;
    bool stepped;
    enum fan_mode mode;
    unsigned fork_generation;
    struct fan_store *store;
    bool owns_store;
    struct fan_bus *bus;
    struct fan__dispatch *dispatch;

    struct fan__mutex mutex; /* guards everything up to the next comment */
    struct fan__cond writer_wake;
    struct fan__cond room; /* the queue got shorter, or stops */
    struct fan__cond idle; /* the writer's role was given back */
    enum fan__run run;
    bool starting; /* the threads, without the lock */
    bool committing;
    pthread_t committer; /* while committing */
    bool tail_ended;
    bool writer_sleeps;
    bool catch_up;         /* other instances appended, or a notification is owed */
    int64_t down_until_ns; /* the storage was down: it is not asked again before */
    struct fan__backlog queue;
    struct fan_broker_stats stats;

    /* The holder of the writer's role alone. */
    struct fan_append *items;
    struct fan__submission **taken;
    struct fan_batch *page;
    uint64_t notified_seq;
    uint64_t acknowledged_seq; /* the last that an append gave; the bus may be behind it */

    /* Up to here retention had removed some of what the bus was still to be told. */
    struct fan__high torn_seq;

    struct fan__mutex feed_mutex; /* guards the next one */
    struct fan_feed *feeds;

    struct fan__keep keep;
    struct fan__thread writer;
    struct fan__thread tail;
};

/* FAN_MISUSE before start, FAN_CLOSED after stop; with the lock held. */
enum fan_status fan__broker_may_publish(const struct fan_broker *broker);

void fan__backlog_init(struct fan__backlog *backlog);
void fan__backlog_push(struct fan__backlog *backlog, struct fan__submission *submission);

/* Wakes the writer thread if it sleeps; with the lock held. */
void fan__writer_wake(struct fan_broker *broker);

/*
 * Takes and gives back the writer's role; with the lock held. Giving back wakes who waits for it.
 */
void fan__writer_begin(struct fan_broker *broker);
void fan__writer_end(struct fan_broker *broker);

/* Whether the caller is inside a commit, that is, in a call-back; with the lock held. */
bool fan__writer_is_me(const struct fan_broker *broker);

/* One commit of what is queued; the caller holds the role and not the lock. */
void fan__commit_queue(struct fan_broker *broker);

/* One commit of a unit that is not in the queue, likewise. */
void fan__commit_unit(struct fan_broker *broker, struct fan__submission *first, size_t count);

/* Tells the bus what is in the log and was not told yet, likewise. */
void fan__catch_up(struct fan_broker *broker);

/* The outcome of what was not stored, as far as anybody knows: what is in doubt is not refused. */
enum fan_status fan__refusal(const struct fan__submission *submission, enum fan_status status);

/* Ends every queued submission as refused; likewise. */
void fan__backlog_refuse(struct fan_broker *broker, enum fan_status status);

/* keep.c: one call of retention, if it is due; gives whether there was something to do. */
bool fan__keep_step(struct fan_broker *broker);
/* From here on the broker runs; with the lock. */
void fan__keep_begin(struct fan_broker *broker);
FAN_MUST_CHECK enum fan_status fan__keep_start(struct fan_broker *broker);
void fan__keep_stop(struct fan_broker *broker);

void fan__writer_main(void *broker);
void fan__tail_main(void *broker);

/*
 * Told by the commit, with the lock held: an event of the ticket has its outcome. `fault` is the
 * storage's own, or FAN_OK.
 */
void fan__ticket_settle(struct fan__ticket *ticket, const struct fan_error *fault);

/*
 * Told by the commit, with the lock held: the storage is down. Gives whether the publisher still
 * waits; if not, the outcome is to be told.
 */
bool fan__ticket_waits(struct fan__ticket *ticket, const struct fan_error *fault);

/* The last sequence that the bus was told. */
uint64_t fan__broker_told_seq(struct fan_broker *broker);

/* Handlers (dispatch.h). */
FAN_MUST_CHECK enum fan_status fan__dispatch_new(struct fan_broker *broker,
                                                 const struct fan_broker_options *options,
                                                 struct fan_error *error);
FAN_MUST_CHECK enum fan_status fan__dispatch_start(struct fan_broker *broker);
bool fan__dispatch_step(struct fan_broker *broker);
/* Whether the caller is inside a handler. */
bool fan__dispatch_is_me(struct fan_broker *broker);
/* Gives how many calls it gave up; their threads are joined by fan__dispatch_free. */
size_t fan__dispatch_stop(struct fan_broker *broker, int64_t deadline_ns);
/* Whether a handler runs. */
bool fan__dispatch_is_busy(struct fan_broker *broker);
void fan__dispatch_free(struct fan_broker *broker);
void fan__dispatch_stats(struct fan_broker *broker, struct fan_broker_stats *stats);
/* Counts what a member in another process settled; 0: another held it. */
void fan__dispatch_count(struct fan_broker *broker, enum fan_processed_status status);

/* Who waits for the verdicts of handlers (sync.c). */
FAN_MUST_CHECK enum fan_status fan__waiter_new(struct fan_broker *broker,
                                               const struct fan_event *event,
                                               struct fan__waiter **ret_waiter);
FAN_MUST_CHECK enum fan_status fan__waiter_wait(struct fan__waiter *waiter,
                                                const struct fan__submission *published,
                                                int64_t deadline_ns, struct fan_error *error);
void fan__waiter_free(struct fan__waiter *waiter);

#endif
