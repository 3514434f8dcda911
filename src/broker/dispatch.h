/*
 * The inside of processing: handlers, what is claimed for them, who runs it, who waits for it.
 *
 *     store --claim--> held --(order)--> queue --worker--> ended --settle--> store
 *              \--own pace--> waiting --/
 *
 * The store is the truth; what lies between claim and settle is a fast lane that a crash may take.
 * One thread (work.c) alone claims, renews and settles, and frees the tasks; workers (worker.c) run
 * them. A task has two sides: its run side ends when the worker (or the queue) lets go of it, its
 * settle side when the store knows the outcome; whichever comes last frees it. So a handler that
 * overran its time limit keeps its event, while the store knows already that there was no verdict.
 */
#ifndef FAN_BROKER_DISPATCH_H
#define FAN_BROKER_DISPATCH_H

#include "base/thread.h"
#include "broker/broker.h"

#define FAN__CLAIM_LIMIT 256
#define FAN__SETTLE_LIMIT 1000
#define FAN__LOOK_MS 200
/* Nothing is held back for longer: when a handler cannot claim, the others go on. */
#define FAN__HOLD_MS 1000
/* What a handler has from the deadline of a stop, when its token fires, until it is given up. */
#define FAN__GRACE_MS 250
/* How long the outcomes of a removed handler are tried, when the store fails. */
#define FAN__REMOVAL_MS 5000
#define FAN__WORDS_SIZE 256
/* A delivery whose holders died that often is a dead letter; one less, and it is run alone. */
#define FAN__LAPSES_MAX 3
/*
 * Alone, so that only its own is on its account; but neither does it wait longer for calls that do
 * not end, nor do others wait longer for its own. Then they have so many times as long until the
 * next one is taken.
 */
#define FAN__ALONE_MS 100
#define FAN__REST_FACTOR 9

struct fan__dispatch;
struct fan__waiter;

/* Something to sleep on: descriptors, and a bell of our own; with the dispatch's lock. */
struct fan__waker {
    int epoll_fd;
    int bell_fd;
    bool sleeps;
    bool rung;
};

/* One claimed delivery. Guarded by the dispatch's lock but what is fixed at its claim. */
struct fan__task {
    struct fan_handler *handler; /* there until the task is settled and not in a call */
    uint64_t order;              /* the handler's, which may be gone while its siblings wait */
    const struct fan_env *env;
    struct fan_event *event;
    uint64_t seq;
    uint64_t token;
    unsigned attempt;
    unsigned lapses;
    int64_t claimed_ns;
    int64_t until_ns; /* the end of its lease, by the system's monotonic clock */
    int64_t begun_ns; /* of its call, 0 before it; and the call's time, until it got an outcome */
    int64_t duration_ns;

    struct fan__task *next;     /* in the queue, among the held or the waiting */
    struct fan__task *sibling;  /* the same event's next handler, run by the same worker */
    struct fan__task *next_end; /* among its handler's ended ones */
    struct fan__task *older;    /* among all that are claimed for its handler */
    struct fan__task *newer;

    bool admitted;  /* counted by a handler of its own pace */
    bool suspected; /* counted among the suspects */
    bool parked;    /* counted among what waits for an earlier call, and not ended */
    bool begun;
    bool ended; /* has an outcome, which stands below */
    bool run_over;
    bool unsure; /* a settlement of it had no answer */
    bool settled;
    enum fan_verdict verdict;
    enum fan_dead_reason reason;
    uint32_t delay_ms;
    char words[FAN__WORDS_SIZE];
};

struct fan__task_list {
    struct fan__task *first;
    struct fan__task **last;
};

struct fan_handler {
    struct fan_handler *next;
    struct fan_broker *broker;
    uint64_t order; /* of its adding */
    char *group;    /* NULL for a live one */
    char *name;
    char *pattern;
    char *topic;
    fan_handle handle;
    void *context;
    int fd;        /* of its reader or bell, watched by a waker */
    uint64_t turn; /* the last round in which it was seen */
    bool pinned;   /* used without the lock by who claims, settles or reads for it */
    bool removed;
    bool kept; /* nobody has the pointer: freed by who finds it removed and unused */

    /* A live one's. */
    struct fan_reader *reader;
    struct fan_gap gap; /* its last loss, not yet told while pending */
    bool gap_pending;
    bool muted; /* its log cannot be read: its descriptor stays ready, but is not listened to */

    /* A durable one's. */
    struct fan_subscription *bell;
    struct fan_retry_policy retry;
    uint32_t timeout_ms;
    bool ordered;
    unsigned concurrency;
    bool rung;           /* new events came since the last claim */
    bool more;           /* the last claim was full */
    bool gone;           /* the store has no such group */
    bool cautious;       /* what others died of is among what it is owed, and claimed one by one */
    bool failing;        /* the store failed it, which was said */
    uint64_t passed_seq; /* nothing before it is unclaimed, but what is not due */
    struct fan_handler *next_late; /* while it is looked who is waited for */
    int64_t look_ns;               /* when to claim without a bell */
    int64_t renew_ns;              /* when to renew what it holds */
    int64_t not_before_ns;         /* after a failure */
    int64_t give_up_ns;            /* of a removed one: until then its outcomes are tried again */
    size_t window;                 /* how much it may hold, by how long that lies in the queue */
    int64_t waited_ns;             /* the longest stay in the queue since the last claim */
    size_t held;                   /* claimed and not settled */
    size_t parked;                 /* of those, behind an earlier call of the same event */
    unsigned admitted;             /* of its own pace: in the queue or running */
    struct fan__task_list waiting;
    struct fan__task *ended; /* and not settled, linked by next_end */
    struct fan__task **ended_last;
    struct fan__task *oldest;
    struct fan__task *newest;
};

/* One handler in the middle of a call; on the stack of who calls it. */
struct fan__call {
    struct fan__call *next;
    struct fan_handler *handler;
    struct fan__task *task; /* NULL for a live handler */
    struct fan_cancel *cancel;
    int64_t limit_ns;
    bool stuck;              /* past its limit, and counted as that */
    struct fan__task *after; /* the same event's next attempts, until it returns */
    pthread_t thread;
};

struct fan__worker {
    struct fan__dispatch *dispatch;
    struct fan_cancel *cancel;
    struct fan__thread thread;
};

/* A group that is owed events and not handled for here, as it was last seen. */
struct fan__unhandled {
    struct fan__unhandled *next;
    bool seen; /* in the look that is under way */
    bool reported;
    uint64_t owed;
    int64_t joined_us; /* by the store's clock */
    int64_t since_ns;  /* it did not move, by ours */
    char *handler;
    char group[];
};

struct fan__dispatch {
    struct fan_broker *broker;
    char owner[64];
    uint32_t lease_ms;
    struct fan_retry_policy retry;
    size_t queue_count_max;
    unsigned worker_count;

    struct fan__mutex threads_mutex; /* held while threads are started and joined */
    struct fan__thread work;
    struct fan__thread live;
    struct fan__thread look;
    struct fan__worker *workers;
    struct fan_cancel *live_cancel;
    struct fan_cancel *step_cancel;

    struct fan__mutex mutex;   /* guards everything up to the next comment */
    struct fan__cond changed;  /* a call, a claim or a settlement is over */
    struct fan__cond ready;    /* workers: there is something in the queue */
    struct fan__cond reported; /* waiters: one of their handlers has its verdict */
    struct fan__cond look_wake;
    struct fan__waker work_waker;
    struct fan__waker live_waker;
    struct fan_handler *first;
    struct fan__call *calls;
    struct fan__waiter *waiters;
    struct fan__task_list queue;
    struct fan__task *held;    /* by rising sequence, until all handlers have passed it */
    struct fan__task *suspect; /* runs alone, or is about to */
    size_t suspect_count;      /* with those that are on their way back, not those let go of */
    int64_t suspect_since_ns;
    int64_t suspect_ns; /* for how long the others, or it, wait for that */
    int64_t alone_ns;
    bool suspect_forced;
    int64_t rest_ns;        /* until then the others have their time */
    uint64_t rest_turn;     /* the round after which it is over if nobody has anything to do */
    size_t queued;          /* claimed and not begun */
    size_t claimed;         /* and not settled */
    size_t claimed_size;    /* in bytes of their events */
    unsigned idle;          /* workers that sleep */
    unsigned active;        /* workers in a handler */
    unsigned stuck;         /* of those, past its time limit */
    uint32_t durable_count; /* handlers of groups that are not removed */
    uint64_t order;
    uint64_t turn;
    uint64_t live_turn;
    bool stepped;
    bool started;
    bool stopping;
    bool last_round; /* of claims, after the stop began */
    bool cut;        /* the stop's deadline is over */
    bool given_up;   /* and the grace for those that ran then */
    bool over;       /* workers end */
    bool live_over;
    bool claiming; /* stepped: somebody is in the role of the thread that claims */
    int64_t deadline_ns;
    int64_t grace_ns;
    size_t abandoned; /* calls that a stop gave up */
    int64_t wake_ns;  /* when the thread that claims looks again */
    struct fan_broker_stats stats;

    /* Who claims alone. */
    struct fan_batch *batch;
    struct fan_claim claims[FAN__CLAIM_LIMIT];
    struct fan_settle settles[FAN__SETTLE_LIMIT];
    struct fan__task *settling[FAN__SETTLE_LIMIT];

    /* Who looks for groups that nobody handles for, alone; but when is under the lock. */
    struct fan__unhandled *unhandled;
    int64_t patience_us; /* who asked for work since may still be there, in another process */
    int64_t look_ns;
};

/* dispatch.c: one verdict that counts; with the lock. */
void fan__count_processed(struct fan_broker_stats *stats, enum fan_processed_status status);
/* Of the clock by which threads wait; without threads, of the environment's. */
int64_t fan__dispatch_now_ns(const struct fan__dispatch *dispatch);

/* handler.c: with the lock, which a call lets go of while the handler runs. */
enum fan_verdict fan__call(struct fan__dispatch *dispatch, struct fan__call *call,
                           const struct fan_event *event, const struct fan_handling *handling);
/* Whether the caller's thread is inside a handler, or inside `only`. */
bool fan__dispatch_calls_me(const struct fan__dispatch *dispatch, const struct fan_handler *only);
/* Frees it, also a half-made one; without the lock. */
void fan__handler_release(struct fan_handler *handler);
/* Lets go of a pin. Returns: false when nobody else had the handler, and it was freed. */
bool fan__handler_unpin(struct fan__dispatch *dispatch, struct fan_handler *handler);

/* dispatch.c: starts the threads for the first handler of a kind, once the broker runs. */
FAN_MUST_CHECK enum fan_status fan__dispatch_want(struct fan__dispatch *dispatch, bool durable);

/* waker.c */
FAN_MUST_CHECK enum fan_status fan__waker_init(struct fan__waker *waker);
void fan__waker_deinit(struct fan__waker *waker);
FAN_MUST_CHECK enum fan_status fan__waker_watch(struct fan__waker *waker, int fd);
void fan__waker_unwatch(struct fan__waker *waker, int fd);
bool fan__waker_mute(struct fan__waker *waker, int fd, bool muted);
/* With the lock. */
void fan__waker_ring(struct fan__waker *waker);
/* Sleeps until rung, a descriptor is ready, or the deadline; with `mutex`, let go of meanwhile. */
void fan__waker_sleep(struct fan__waker *waker, struct fan__mutex *mutex, int64_t deadline_ns);

/* live.c: one turn of every live handler, up to `limit` events each; without the lock. */
bool fan__live_round(struct fan__dispatch *dispatch, size_t limit);
void fan__live_main(void *dispatch);

/* claim.c, settle.c: by who claims, without the lock. */
/* Claims for one pinned handler. Returns: whether anything came. */
bool fan__claim(struct fan__dispatch *dispatch, struct fan_handler *handler, size_t limit,
                uint64_t told_seq);
/* Lets go of what every handler has passed, or (all) of everything; with the lock. */
void fan__held_release(struct fan__dispatch *dispatch, bool all);
/* The store has no such group any more; with the lock. */
void fan__handler_gone(struct fan__dispatch *dispatch, struct fan_handler *handler);
/* Tells the store the outcomes of a pinned handler. Returns: whether there were any. */
bool fan__settle(struct fan__dispatch *dispatch, struct fan_handler *handler);
/* Renews the leases of a pinned handler that have used a third. */
void fan__renew(struct fan__dispatch *dispatch, struct fan_handler *handler);

/* task.c: with the lock. */
void fan__task_list_init(struct fan__task_list *list);
void fan__task_push(struct fan__task_list *list, struct fan__task *task);
struct fan__task *fan__task_pop(struct fan__task_list *list);
void fan__task_free(struct fan__task *task);
void fan__task_queue(struct fan__dispatch *dispatch, struct fan__task *task);
/* Gives a task its outcome; words may be NULL. Does nothing for one that has an outcome. */
void fan__task_end(struct fan__dispatch *dispatch, struct fan__task *task, enum fan_verdict verdict,
                   const char *words);
/* As the policy says of an attempt that did not work out. */
void fan__task_retry(struct fan__dispatch *dispatch, struct fan__task *task, const char *words);
void fan__task_overran(struct fan__dispatch *dispatch, struct fan__task *task);
void fan__task_run_over(struct fan__task *task);
/* Counts it among the suspects no more. */
void fan__task_acquit(struct fan__dispatch *dispatch, struct fan__task *task);
/* Whether one may be taken now; and the others go on, if this is the one that they wait for. */
bool fan__suspect_may_come(const struct fan__dispatch *dispatch, int64_t now_ns);
void fan__suspect_leave(struct fan__dispatch *dispatch, const struct fan__task *task);
void fan__task_settled(struct fan__dispatch *dispatch, struct fan__task *task);
/* Hands back what the handler has not begun. */
void fan__tasks_hand_back(struct fan__dispatch *dispatch, struct fan_handler *handler);
/* Brings waiting tasks of a handler with its own pace into the queue. */
void fan__task_admit(struct fan__dispatch *dispatch, struct fan_handler *handler);
/*
 * While an earlier call of the same event runs here, past its time limit, the next attempt is not
 * begun: it stays claimed, and one event has one worker at most. False when there is none.
 */
bool fan__task_park(struct fan__dispatch *dispatch, struct fan__task *task);
/* The call is over, and what waited for that goes on. */
void fan__tasks_unpark(struct fan__dispatch *dispatch, struct fan__call *call);
/* Ends calls past their time limit; gives the next limit. */
int64_t fan__tasks_check_limits(struct fan__dispatch *dispatch);

/* worker.c */
void fan__worker_main(void *worker);
/* Takes one item off the queue and runs it; with the lock. False when there is none. */
bool fan__work_one(struct fan__dispatch *dispatch, struct fan_cancel **cancel);

/* work.c */
void fan__work_main(void *dispatch);
bool fan__work_step(struct fan__dispatch *dispatch);
/* In place of the thread: settles once, or drops, what removed handlers or a stop left; locked. */
void fan__work_drop(struct fan__dispatch *dispatch);

/* unhandled.c: reports groups that nobody handles for, once a minute; without the lock. */
void fan__unhandled_main(void *dispatch);
void fan__unhandled_look(struct fan__dispatch *dispatch);
void fan__unhandled_free(struct fan__dispatch *dispatch);

/* sync.c: whether a handler's pattern and topic choose an event. */
bool fan__handler_wants(const struct fan_handler *handler, const struct fan_event *event);
/*
 * With the lock. A handler is done with the event that is stored at `seq`; `error` is NULL for a
 * verdict DONE.
 */
void fan__waiters_report(struct fan__dispatch *dispatch, const struct fan_handler *handler,
                         const char *event_id, uint64_t seq, const char *error);
/* No verdict will come of this handler. */
void fan__waiters_forget(struct fan__dispatch *dispatch, const struct fan_handler *handler);

/* retry.c */
FAN_MUST_CHECK enum fan_status fan__retry_policy(const struct fan_retry_policy *given,
                                                 struct fan_retry_policy *ret_policy,
                                                 struct fan_error *error);
uint32_t fan__retry_delay_ms(const struct fan_retry_policy *policy, unsigned attempt,
                             uint32_t random);

#endif
