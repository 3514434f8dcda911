/*
 * The inside of the conformance suite: one run of one behaviour, what it may check with, and what
 * it makes.
 *
 * A check that fails ends the behaviour with a long jump, so everything that a behaviour makes is
 * owned by the run and freed by it. In threads of a behaviour a check notes the failure and returns
 * from the thread's function instead.
 */
#ifndef FAN_STORE_SUITE_SUITE_H
#define FAN_STORE_SUITE_SUITE_H

#include <fanfare/batch.h>
#include <fanfare/conformance.h>
#include <fanfare/env.h>
#include <fanfare/group.h>

#include <pthread.h>
#include <setjmp.h>

/* What a behaviour needs; where it is not there, the behaviour is skipped. */
enum fan__suite_need {
    FAN__SUITE_REOPEN = 1 << 0,
    FAN__SUITE_CLOCK = 1 << 1,
    FAN__SUITE_MEMORY = 1 << 2,
};

struct fan__suite {
    const struct fan_conformance_options *options;
    struct fan_env env;
    struct fan_store *store;
    struct fan_store *second;
    struct fan_batch *batch;
    uint64_t seed;
    uint64_t random;

    pthread_t owner;
    int64_t begun_ns;
    jmp_buf stop;
    void **kept;
    size_t kept_count;
    struct fan_event **events;
    size_t event_count;
    struct fan_batch **batches;
    size_t batch_count;

    pthread_mutex_t mutex; /* guards all that follows */
    int64_t skew_us;       /* of all clocks */
    int64_t wall_by_us;
    long allocations_left; /* below 0: no end */
    bool failed;
    const char *skipped;
    char reason[512];
};

struct fan__suite_behaviour {
    const char *name;
    void (*run)(struct fan__suite *suite);
    unsigned needs;
};

/* The tables, each ended by a behaviour without a name. */
extern const struct fan__suite_behaviour fan__suite_log[];
extern const struct fan__suite_behaviour fan__suite_list[];
extern const struct fan__suite_behaviour fan__suite_expect[];
extern const struct fan__suite_behaviour fan__suite_group[];
extern const struct fan__suite_behaviour fan__suite_order[];
extern const struct fan__suite_behaviour fan__suite_state[];
extern const struct fan__suite_behaviour fan__suite_moves[];
extern const struct fan__suite_behaviour fan__suite_lapse[];
extern const struct fan__suite_behaviour fan__suite_clock[];
extern const struct fan__suite_behaviour fan__suite_keep[];
extern const struct fan__suite_behaviour fan__suite_retain[];
extern const struct fan__suite_behaviour fan__suite_threads[];
extern const struct fan__suite_behaviour fan__suite_model[];

/* Notes a failure; in the behaviour's own thread it does not return. */
__attribute__((format(printf, 4, 5))) void fan__suite_fail(struct fan__suite *suite,
                                                           const char *file, int line,
                                                           const char *format, ...);
void fan__suite_is(struct fan__suite *suite, const char *place, const char *what,
                   enum fan_status status, enum fan_status expected);
void fan__suite_equal(struct fan__suite *suite, const char *place, const char *what, uint64_t value,
                      uint64_t expected);
void fan__suite_text(struct fan__suite *suite, const char *place, const char *what,
                     const char *value, const char *expected);

#define FAN__SUITE_TEXT(number) #number
#define FAN__SUITE_LINE(number) FAN__SUITE_TEXT(number)
#define FAN__SUITE_PLACE __FILE__ ":" FAN__SUITE_LINE(__LINE__)

#define CHECK(suite, condition)                                                                    \
    do {                                                                                           \
        if (!(condition))                                                                          \
            fan__suite_fail(suite, __FILE__, __LINE__, "not so: %s", #condition);                  \
    } while (0)
#define CHECK_IS(suite, call, expected)                                                            \
    fan__suite_is(suite, FAN__SUITE_PLACE, #call, (call), (expected))
#define CHECK_OK(suite, call) CHECK_IS(suite, call, FAN_OK)
#define CHECK_EQUAL(suite, value, expected)                                                        \
    fan__suite_equal(suite, FAN__SUITE_PLACE, #value, (uint64_t)(value), (uint64_t)(expected))
#define CHECK_TEXT(suite, value, expected)                                                         \
    fan__suite_text(suite, FAN__SUITE_PLACE, #value, (value), (expected))

/* For threads of a behaviour: notes the failure and leaves the function. */
#define CHECK_HERE(suite, condition)                                                               \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fan__suite_fail(suite, __FILE__, __LINE__, "not so: %s", #condition);                  \
            return;                                                                                \
        }                                                                                          \
    } while (0)

/* Memory, events and batches that the run frees; for the behaviour's own thread. */
void *fan__suite_alloc(struct fan__suite *suite, size_t count, size_t size);
const struct fan_event *fan__suite_event(struct fan__suite *suite,
                                         const struct fan_event_draft *draft);
struct fan_batch *fan__suite_batch(struct fan__suite *suite);

/* An event of a type in a topic, with an id, or a UUID where that is NULL. */
const struct fan_event *fan__suite_simple(struct fan__suite *suite, const char *type,
                                          const char *topic, const char *id);

/* Appends one event that must be stored anew; gives its sequence. */
uint64_t fan__suite_put(struct fan__suite *suite, const struct fan_event *event);
uint64_t fan__suite_put_simple(struct fan__suite *suite, const char *type, const char *topic,
                               const char *id);

/* Appends one event with an expectation (may be NULL); the call itself must succeed. */
struct fan_append fan__suite_try(struct fan__suite *suite, const struct fan_event *event,
                                 const struct fan_expectation *expectation);

/* How many events the store lists in all; at most 5,000. */
size_t fan__suite_count(struct fan__suite *suite);
uint64_t fan__suite_head(struct fan__suite *suite);
struct fan_event_state fan__suite_state_of(struct fan__suite *suite, const char *id);

/* Lets time pass for the store: at once where its clock is ours, by waiting where it is not. */
void fan__suite_pass_ms(struct fan__suite *suite, uint32_t time_ms);

/* Sets the wall clock, and nothing else, to be wrong by so much. */
void fan__suite_set_wall(struct fan__suite *suite, int64_t by_us);

/* Gives way for a moment, in loops that ask again until something is so. For any thread. */
void fan__suite_pause(struct fan__suite *suite);
int64_t fan__suite_now_us(struct fan__suite *suite);

/* A lease that is long enough to work under, and one that is short enough to wait for. */
#define FAN__SUITE_LONG_MS 600000
uint32_t fan__suite_short_ms(const struct fan__suite *suite);

/* Closes the store and opens it again. */
void fan__suite_reopen(struct fan__suite *suite);

/* Opens the same storage a second time, as another process would; skips where none may. */
void fan__suite_open_second(struct fan__suite *suite);

/*
 * Both look at the log's clock: what passes for the suite alone is to a server as if its own was
 * set, and of that it is told more often than it happens.
 */
void fan__suite_look_at_clock(struct fan__suite *suite);

/* The clocks of processes may be some milliseconds apart: what is due for one is due for both. */
void fan__suite_let_clocks_meet(struct fan__suite *suite);

/* Ends the behaviour as one that does not apply. */
void fan__suite_skip(struct fan__suite *suite, const char *reason);

/* Runs `run` in `count` threads that start together, each with its own item of `contexts`. */
void fan__suite_parallel(struct fan__suite *suite, size_t count, void (*run)(void *context),
                         void *contexts, size_t context_size);

/* Tells the loops of threads to end: something failed, or it takes longer than it ever should. */
bool fan__suite_must_end(struct fan__suite *suite);

/* Evenly from 0 to below `limit`. */
uint64_t fan__suite_random(uint64_t *state, uint64_t limit);

/* How much: the sample, or the full count. */
size_t fan__suite_amount(const struct fan__suite *suite, size_t sample, size_t full);

/* claims.c: what the behaviours of groups share. */
struct fan__suite_claims {
    struct fan_store *store; /* NULL for the run's own */
    struct fan_batch *batch;
    struct fan_claim items[1000];
    size_t count;
};

void fan__suite_create(struct fan__suite *suite, const struct fan_group_name *name,
                       enum fan_start start, const char *pattern);

/* Claims into *claims, whose batch is set; FAN_AGAIN is a count of 0. For any thread. */
enum fan_status fan__suite_claim_into(struct fan__suite *suite, const struct fan_group_name *name,
                                      const struct fan_claim_options *options,
                                      struct fan__suite_claims *claims);

/* The same with claims that the run owns; anything but FAN_OK and FAN_AGAIN is a failure. */
struct fan__suite_claims *fan__suite_claim(struct fan__suite *suite,
                                           const struct fan_group_name *name, const char *owner,
                                           size_t limit, uint32_t lease_ms);
enum fan_status fan__suite_settle(struct fan__suite *suite, const struct fan_group_name *name,
                                  const struct fan_claim *claim, enum fan_verdict verdict,
                                  const char *error);
enum fan_status fan__suite_retry(struct fan__suite *suite, const struct fan_group_name *name,
                                 const struct fan_claim *claim, uint32_t delay_ms,
                                 const char *error);
enum fan_status fan__suite_renew(struct fan__suite *suite, const struct fan_group_name *name,
                                 const struct fan_claim *claim, uint32_t lease_ms);

/* Claims the event alone with that sequence, which must be what is due next. */
struct fan_claim fan__suite_claim_one(struct fan__suite *suite, const struct fan_group_name *name,
                                      uint64_t seq);

/* One delivery of an event as the store shows it; found is false when there is none. */
struct fan__suite_delivery {
    bool found;
    struct fan_delivery delivery;
    char owner[256];
    char error[256];
};

struct fan__suite_delivery fan__suite_delivery_of(struct fan__suite *suite,
                                                  const struct fan_group_name *name, uint64_t seq);
struct fan_group_stats fan__suite_group_stats(struct fan__suite *suite,
                                              const struct fan_group_name *name);
struct fan_store_stats fan__suite_stats(struct fan__suite *suite);

#endif
