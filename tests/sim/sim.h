/*
 * The simulator: whole brokers over one log, on one thread, from one seed.
 *
 *     seed -> world: clock, log, 1 to 4 instances, groups, readers, publishers, an operator
 *       step after step somebody does something (act.c); every call that a broker makes of the log
 *       goes through a port (port.c), which may fail it, lose its answer or crash the instance, and
 *       is held against a model (model.c) of what the log should hold
 *     -> the faults end, time passes, everything must come to its end (settle.c)
 *
 * The first law that is broken is kept with the seed; the same seed gives the same trace.
 */
#ifndef TESTS_SIM_SIM_H
#define TESTS_SIM_SIM_H

#include <fanfare/fanfare.h>
#include <fanfare/provider.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NS_PER_MS INT64_C(1000000)
#define US_PER_MS INT64_C(1000)
#define NS_PER_US INT64_C(1000)

#define INSTANCE_COUNT_MAX 4
/* A member claims for itself, as one does over HTTP. Its port is the one behind the instances'. */
#define MEMBER INSTANCE_COUNT_MAX
#define PORT_COUNT (INSTANCE_COUNT_MAX + 1)
#define GROUP_COUNT_MAX 4
#define LEASE_COUNT 2
#define TYPE_COUNT 4
#define TOPIC_COUNT 5
#define EVENT_COUNT_MAX 2000
#define PUBLICATION_COUNT_MAX 1000
#define READER_COUNT_MAX 8
#define CLAIM_COUNT_MAX 16
#define ACT_SLEEP 8
#define ACT_RESTORE 9
#define ACT_COUNT 10
#define TRACE_LINES 60
#define TRACE_LINE_SIZE 160

extern const char *const sim_types[TYPE_COUNT];
extern const char *const sim_topics[TOPIC_COUNT];

/* A mistake of the storage's own, to be found; below the model. Those of the broker are plants/. */
enum sim_plant {
    PLANT_NONE,
    PLANT_LATE_COMMIT,             /* a sequence becomes visible after later ones */
    PLANT_NO_FENCE,                /* an old token settles */
    PLANT_DUPLICATE_AFTER_UNKNOWN, /* an id whose append was unclear is stored again */
    PLANT_TORN_UNIT,               /* half of a unit is stored */
    PLANT_EARLY_LEASE,             /* a claim is given while another holds it */
    PLANT_GREEDY_RETENTION,        /* what is owed is removed */
    PLANT_COUNT,
};

/*
 * What makes worlds worth running, counted to see that it happens: a name, and what it is.
 */
#define SIM_COUNTS(X)                                                                              \
    X(CRASH_BEFORE_APPEND, "an instance crashes in an append that does not get there")             \
    X(CRASH_BEFORE_NOTIFY, "it crashes between append and notify")                                 \
    X(CRASH_AFTER_CLAIM, "it crashes with a claim that it was never told of")                      \
    X(CRASH_AFTER_SETTLE, "it crashes with a settlement that is done")                             \
    X(RESTART, "an instance comes back")                                                           \
    X(STOP_SOUND, "a stop with a log that works")                                                  \
    X(STOP_IN_TROUBLE, "a stop with one that may not")                                             \
    X(APPEND_FAILED, "an append fails")                                                            \
    X(APPEND_LOST, "an append without an answer that was not done")                                \
    X(APPEND_UNANSWERED, "one that was done")                                                      \
    X(APPEND_TORN, "one of which a part was done")                                                 \
    X(RESOLVED_STORED, "an unclear publish turns out to be stored")                                \
    X(RESOLVED_LOST, "an unclear publish turns out not to be stored")                              \
    X(DUPLICATE, "an id comes a second time")                                                      \
    X(UNIT, "a unit of several is stored")                                                         \
    X(EXPECTED, "an expectation holds")                                                            \
    X(CONFLICT, "an expectation does not hold")                                                    \
    X(REFUSED, "a publish is refused")                                                             \
    X(QUEUE_FULL, "the writer's queue is full")                                                    \
    X(LOG_FULL, "the log is full")                                                                 \
    X(SYNC_DONE, "a publish is told that all handlers are done")                                   \
    X(SYNC_HANDLER, "or that one is not")                                                          \
    X(LAPSED, "a claim lapses, and another gets the event")                                        \
    X(ADOPTED, "a claim lapses, and its holder gets the event again")                              \
    X(LATE_SETTLE, "who lost its claim settles")                                                   \
    X(RENEWED, "a claim is renewed")                                                               \
    X(RENEW_LOST, "one is renewed that is lost")                                                   \
    X(RETRIED, "a handler asks for a retry")                                                       \
    X(OVERRAN, "a call takes longer than it may")                                                  \
    X(DEAD_FAILED, "an event is dead because its handler says so")                                 \
    X(DEAD_RETRIES, "because its retries are over")                                                \
    X(DEAD_LAPSES, "because its holders died")                                                     \
    X(DEAD_EXPIRED, "because it was owed for too long")                                            \
    X(DISCARDED, "retention discards a dead letter")                                               \
    X(HANDED_BACK, "a claim is handed back")                                                       \
    X(REDRIVEN, "a dead letter is redriven")                                                       \
    X(REDRIVEN_KEY, "a dead letter of a key is, while later ones are owed")                        \
    X(SIBLINGS, "two handlers of an event are called one after the other")                         \
    X(REMOVED, "retention removes")                                                                \
    X(REMOVED_BEHIND_OWED, "it removes what comes after an event that is owed")                    \
    X(GROUP_DELETED, "a group is deleted")                                                         \
    X(GROUP_EXPIRED, "a group expires")                                                            \
    X(GROUP_AGAIN, "a group is made again")                                                        \
    X(GAP_OVERFLOW, "a reader is told that its buffer ran over")                                   \
    X(GAP_RETENTION, "a reader is told that events were removed")                                  \
    X(GAP_EPOCH, "a reader is told that its place is not of this log")                             \
    X(GAP_LIVE, "a live handler is told a gap")                                                    \
    X(GOT_REFILL, "a reader that refills gets an event")                                           \
    X(GOT_DROP_NEWEST, "one that drops the newest")                                                \
    X(GOT_DROP_OLDEST, "one that drops the oldest")                                                \
    X(GOT_LATEST, "one that keeps the latest")                                                     \
    X(GOT_LIVE, "a live handler")                                                                  \
    X(GOT_FOREIGN, "any of them one that another instance stored")                                 \
    X(HAND_OVER, "a reader comes from the log to live events")                                     \
    X(REFILLED, "a reader goes back to the log")                                                   \
    X(READER_CANCELLED, "a reader ends by its token")                                              \
    X(READER_UNSUBSCRIBED, "a reader ends because it wants to")                                    \
    X(READER_STOPPED, "a reader ends with its instance")                                           \
    X(CLOCK_FORWARD, "the wall clock is set forward")                                              \
    X(CLOCK_BACK, "the wall clock is set back")                                                    \
    X(CLOCK_REFUSED, "retention does not trust the clock")                                         \
    X(ASLEEP, "a process stands still for minutes")                                                \
    X(LEASE_TAKEN, "a lease by name goes to another")                                              \
    X(HANDLER_GONE, "a handler is removed in the middle of its call")                              \
    X(WITHIN_CALL, "others act while a call of the log is under way")                              \
    X(WITHIN_HANDLER, "others act while a handler runs")                                           \
    X(RESTORED, "the log is restored from a copy")                                                 \
    X(SEVERAL, "a world of several instances")                                                     \
    X(SQLITE, "a world over SQLite")

enum sim_count {
#define SIM_COUNT(name, words) SIM_##name,
    SIM_COUNTS(SIM_COUNT)
#undef SIM_COUNT
        SIM_COUNT_COUNT,
};

/* What an instance has said of a delivery, for its settlement. */
struct sim_answer {
    bool called;
    bool ended; /* false while the call runs */
    bool overran;
    enum fan_verdict verdict;
    unsigned binding; /* the handler's number */
    uint64_t token;   /* of the claim for which it is, or which took that one's place */
    unsigned attempt;
    unsigned lapses;
};

struct sim_delivery {
    enum fan_event_status status;
    enum fan_dead_reason reason;
    unsigned attempts;
    unsigned lapses;
    bool lapsed;
    unsigned port; /* the holder's */
    bool told;     /* it knows */
    unsigned had;  /* a bit for each port that ever claimed it, one for those that are gone */
    bool undone;   /* somebody once said that it is not done */
    uint64_t token;
    int64_t until_ns;
    int64_t until_told_ns; /* as its holder knows it, who counts from the call's begin */
    int64_t due_ns;
    int64_t died_ns;
    unsigned running;
    struct sim_answer answers[PORT_COUNT];
};

struct sim_event {
    uint64_t seq;
    unsigned publication;
    unsigned number; /* which attempt to publish it this is, as its payload says */
    unsigned port;   /* who stored it */
    bool removed;
    bool deleted; /* by its id, not by retention */
    bool erased;
    int64_t stored_ns;
    struct sim_delivery deliveries[GROUP_COUNT_MAX];
};

/* What somebody once tried to publish; its id is "e" and its index. */
struct sim_publication {
    unsigned type;
    unsigned topic;
    int64_t deliver_at_us;
    bool unclear; /* an attempt ended without a certain answer */
    unsigned under_way;
    unsigned attempts;
    unsigned expecting; /* which of them had an expectation */
    bool acknowledged;
    uint64_t seq;
};

struct sim_group {
    char name[8];
    const char *handler;
    const char *pattern;
    const char *topic;
    bool ordered;
    unsigned concurrency;
    uint32_t timeout_ms;
    enum fan_start start;
    struct fan_retry_policy retry;
    bool exists;
    int64_t deleted_ns; /* what was claimed before may be held and handled for as long as a lease */
    int64_t seen_ns;    /* when a member was there last */
    uint64_t start_seq;
};

#define LEASE_MS_MAX 10500

struct sim_lease {
    bool held;
    unsigned owner;
    uint64_t fence;
    int64_t until_ns;
};

/* What the log should hold, learned from what went through the ports. */
struct sim_model {
    struct sim_event *events;
    size_t count;
    uint64_t head_seq;
    uint64_t trimmed_seq;
    int64_t clock_offset_us; /* the store's clock is this and the monotonic one */
    uint64_t fence_last;
    struct sim_lease leases[LEASE_COUNT];
};

struct sim_world;
struct sim_copy;

/* One instance's way to the log. */
struct sim_port {
    struct sim_world *world;
    unsigned index;
    struct fan_store *store; /* of its own, or the world's one */
    bool open;
    bool crashed;
    unsigned crash_in; /* calls; 0: not asked for */
    int64_t cut_until_ns;
    uint64_t head_seen;
    uint64_t stored;    /* since it was opened */
    uint64_t unsure;    /* events whose append had no answer, likewise */
    uint64_t processed; /* verdicts settled, likewise */
    uint64_t retried;   /* of these */
    uint64_t dead;
    uint64_t lost;    /* settlements that it was told are not its own any more, likewise */
    uint64_t removed; /* by its retention, likewise */
    uint64_t expired;
    uint64_t discarded;
    uint64_t failures;     /* calls that were made to fail, or lost their answer */
    uint64_t answered_seq; /* the last one of which it knows that it is stored */
    bool answers;          /* the call that is under way will be answered */
    int64_t begun_ns;      /* and began then */
    bool settled_unsure;   /* a settlement had no answer: it may be counted or not */
};

struct sim_binding {
    struct sim_world *world;
    unsigned instance;
    unsigned group;
    unsigned number;
    struct fan_handler *handler;
};

/* Everything that one subscription was promised, and where it stands. */
struct sim_watch {
    struct sim_world *world;
    unsigned number;
    const char *topic;
    const char *pattern;
    bool lossless;
    bool latest;
    bool foreign; /* a gap of reason epoch is owed */
    bool beyond;  /* it began past the head: such a gap may come, and must while it is there */
    enum sim_count got;
    unsigned instance;
    uint64_t seq;       /* all up to here is accounted for */
    uint64_t taken_seq; /* the end of what it took last, event or gap */
};

struct sim_reader {
    struct fan_reader *reader;
    struct fan_cancel *cancel;
    struct sim_watch watch;
    unsigned instance;
    bool busy; /* in a call */
    bool behind;
    uint64_t refills;
    bool fired;
    bool unsubscribed;
    bool closed;
};

/* One attempt to publish; `known`: it was there before, or may have been. */
struct sim_attempt {
    unsigned instance;
    unsigned publication;
    unsigned number;
    bool known;
    bool unclear; /* an attempt before had no answer */
    bool there;
    bool told; /* and was told here */
    uint64_t failures;
};

/* An asynchronous publish under way. */
struct sim_pending {
    struct sim_pending *next;
    struct sim_world *world;
    struct sim_attempt attempt;
    bool told;
};

struct sim_instance {
    struct sim_world *world;
    unsigned index;
    unsigned generation;
    struct fan_broker *broker;
    bool stepping; /* inside one of its calls */
    bool stopping;
    bool retains;
    bool sync;
    unsigned pins; /* readers inside calls: it may not go */
    uint64_t queue_count_max;
    int64_t awake_ns;  /* since when it runs without standing still */
    int64_t asleep_ns; /* until when it stands still */
    struct sim_binding bindings[GROUP_COUNT_MAX];
    struct fan_handler *live;
    struct sim_watch live_watch;
    struct sim_pending *pending;
    uint64_t outcomes;
    bool uncounted; /* who left before the answer may be counted or not */
    uint64_t handled;
    uint64_t live_handled;
    uint64_t live_failed;
    uint64_t fresh; /* publishes that must have stored something */
    uint64_t again; /* that must have found it there */
    bool unhandled; /* a handler was removed in the middle of its call */
};

/* The member's claims. */
struct sim_claim {
    unsigned group;
    uint64_t seq;
    uint64_t token;
    bool done;
};

struct sim_world {
    uint64_t seed;
    uint64_t random;
    enum sim_plant plant;
    bool verbose;
    struct fan_env env;
    char folder[64];
    char uri[128];
    struct fan_store *store; /* the log itself, without faults */
    bool sqlite;
    uint64_t capacity;
    struct fan_batch *page;
    struct fan_retention retention;

    struct sim_model model;
    struct sim_copy *copy; /* of the log and what should be in it */

    struct sim_port ports[PORT_COUNT];
    struct sim_instance instances[INSTANCE_COUNT_MAX];
    unsigned instance_count;
    struct sim_group groups[GROUP_COUNT_MAX];
    unsigned group_count;
    struct sim_reader readers[READER_COUNT_MAX];
    unsigned reader_number;
    unsigned binding_number;
    struct sim_publication *publications;
    unsigned publication_count;
    struct sim_claim claims[CLAIM_COUNT_MAX];
    unsigned claim_count;
    uint64_t fences[LEASE_COUNT]; /* of the member */

    unsigned weights[ACT_COUNT];       /* how often each kind of act comes, in this world */
    unsigned lazy[INSTANCE_COUNT_MAX]; /* how many of its turns in 1,000 an instance sleeps */
    bool tight;                        /* small buffers, and nobody reads the log for them */
    bool quiet;                        /* no faults any more */
    unsigned fault_permille;
    unsigned unknown_permille;
    unsigned unsettled_permille; /* of settlements alone */
    unsigned talk_permille;      /* of calls in which others act */
    int64_t down_until_ns;
    unsigned depth; /* of steps within handlers */
    uint64_t late_seq;
    unsigned late_port;
    int64_t late_until_ns;
    bool clock_accepted;

    uint64_t step;
    uint64_t calls;
    uint64_t counts[SIM_COUNT_COUNT];
    uint64_t hash;
    bool failed;
    char failure[256];
    char trace[TRACE_LINES][TRACE_LINE_SIZE];
    uint64_t trace_count;
};

/* clock.c: time for everything in the process, which only we move. */
void sim_clock_reset(void);
void sim_clock_pass_ns(int64_t time_ns);
void sim_clock_set_wall(int64_t by_us);
int64_t sim_now_ns(void);
int64_t sim_wall_us(void);

/* world.c */
uint64_t sim_random(struct sim_world *world, uint64_t limit);
bool sim_chance(struct sim_world *world, unsigned permille);
__attribute__((format(printf, 2, 3))) void sim_trace(struct sim_world *world, const char *format,
                                                     ...);
/* Notes the first law that is broken. */
__attribute__((format(printf, 3, 4))) void sim_broken(struct sim_world *world, const char *law,
                                                      const char *format, ...);
static inline void sim_count(struct sim_world *world, enum sim_count what)
{
    world->counts[what]++;
}
const char *sim_count_words(enum sim_count what);

#define sim_check(world, law, condition, ...)                                                      \
    do {                                                                                           \
        if (!(condition))                                                                          \
            sim_broken((world), (law), __VA_ARGS__);                                               \
    } while (0)

struct sim_options {
    uint64_t seed;
    uint64_t steps; /* 0: as the seed says */
    enum sim_plant plant;
    bool verbose;
};

/* Runs one world to its end. The world is the caller's, for sim_world_free. */
struct sim_world *sim_world_run(const struct sim_options *options);
void sim_world_free(struct sim_world *world);
void sim_world_report(const struct sim_world *world);
const char *sim_plant_name(enum sim_plant plant);

/* port.c */
extern const struct fan_provider sim_provider;
struct sim_world *sim_world_here(void);

/* model.c: told by the ports what the log itself answered. */
struct sim_event *sim_model_event(struct sim_world *world, uint64_t seq);
struct sim_event *sim_model_by_publication(struct sim_world *world, unsigned publication);
bool sim_group_wants(const struct sim_world *world, unsigned group, const struct sim_event *event);
bool sim_matches(const struct sim_world *world, const struct sim_event *event, const char *topic,
                 const char *pattern);
bool sim_publication_of(const struct sim_world *world, const char *id, unsigned *ret_publication);
int sim_group_find(const struct sim_world *world, const struct fan_group_name *name);
void sim_model_appended(struct sim_port *port, const struct fan_append *items, size_t count);
bool sim_payload_is(const struct sim_event *known, const struct fan_event *event);
void sim_model_created(struct sim_world *world, const struct fan_group_name *name,
                       const struct fan_group_options *options);
/* A member of it is there. */
void sim_model_seen(struct sim_world *world, const struct fan_group_name *name);
void sim_model_claimed(struct sim_port *port, const struct fan_group_name *name,
                       const struct fan_claim_options *options, const struct fan_batch *batch,
                       const struct fan_claim *claims);
void sim_model_settled(struct sim_port *port, const struct fan_group_name *name,
                       const struct fan_settle *items, size_t count);
void sim_model_renewed(struct sim_port *port, const struct fan_group_name *name,
                       const struct fan_settle *items, size_t count, uint32_t lease_ms);
void sim_model_moved(struct sim_world *world, const struct fan_group_name *name, uint64_t seq,
                     enum fan_event_status to);
void sim_model_retained(struct sim_port *port, const struct fan_retention *retention,
                        const struct fan_retained *retained);
void sim_model_accepted(struct sim_world *world);
/* Forgets what an instance said, for one group or (-1) all: it is gone. */
void sim_model_forget(struct sim_world *world, unsigned port, int group);
void sim_model_deleted(struct sim_world *world, const struct fan_group_name *name);
/* Looks for what was removed since. */
void sim_model_look(struct sim_world *world);

/* lease.c */
/* What an acquire asked for and was told. */
struct sim_acquired {
    unsigned owner;
    uint32_t ttl_ms;
    enum fan_status status;
    uint64_t fence;
};

void sim_lease_acquired(struct sim_world *world, const char *name,
                        const struct sim_acquired *acquired);
void sim_lease_renewed(struct sim_world *world, const char *name, uint64_t fence, uint32_t ttl_ms,
                       enum fan_status status);
void sim_lease_released(struct sim_world *world, const char *name, uint64_t fence,
                        enum fan_status status);
bool sim_lease_holds(const struct sim_world *world, const char *name, uint64_t fence);

/* watch.c: what a subscription got is held against the log. */
void sim_watch_event(struct sim_watch *watch, const struct fan_event *event);
void sim_watch_gap(struct sim_watch *watch, const struct fan_gap *gap);
/* Everything up to there must have been accounted for. */
void sim_watch_reached(struct sim_watch *watch, uint64_t seq);

/* state.c: what the log says of events and groups, held against the model. */
void sim_state_check(struct sim_world *world, const struct sim_event *event);
void sim_state_check_groups(struct sim_world *world);

/* restore.c: copies of the log, and a log made of one. */
void sim_act_restore(struct sim_world *world);
void sim_copy_free(struct sim_world *world);

/* act.c: what actors do. */
void sim_act_weigh(struct sim_world *world);
void sim_act(struct sim_world *world);
void sim_instance_start(struct sim_world *world, unsigned index);
void sim_instance_stop(struct sim_world *world, unsigned index);
void sim_instance_crash(struct sim_world *world, unsigned index);
void sim_instance_step(struct sim_world *world, unsigned index);
void sim_reader_close(struct sim_world *world, struct sim_reader *reader);
void sim_reader_drain(struct sim_world *world, struct sim_reader *reader, size_t limit);

/* read.c, member.c */
void sim_act_reader(struct sim_world *world);
void sim_act_member(struct sim_world *world);

/* handle.c: handlers, and what they say. */
void sim_handle(struct sim_world *world, unsigned instance, unsigned group);
void sim_unhandle(struct sim_world *world, unsigned instance, unsigned group);
void sim_handle_live(struct sim_world *world, unsigned instance);

/* publish.c */
void sim_publish(struct sim_world *world, unsigned instance);
void sim_publish_async(struct sim_world *world, unsigned instance);
void sim_publish_check_stats(struct sim_world *world, unsigned instance);
/* And once nothing is unclear any more. */
void sim_publish_check_settled(struct sim_world *world, unsigned instance);

/* settle.c: faults end, and everything must come to its end. */
void sim_settle(struct sim_world *world);

#endif
