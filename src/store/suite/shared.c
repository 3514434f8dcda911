/* What behaviours share: events, appends, time, threads, chance. */
#include "store/suite/suite.h"

#include <inttypes.h>
#include <stdlib.h>

#define US_PER_MS 1000
#define NS_PER_MS 1000000
#define NS_PER_S 1000000000
#define CLOCKS_APART_NS (15 * NS_PER_MS)

/* The suite cannot go on without its own memory. */
static void *must(void *pointer)
{
    if (!pointer)
        abort();
    return pointer;
}

void *fan__suite_alloc(struct fan__suite *suite, size_t count, size_t size)
{
    suite->kept = must(realloc(suite->kept, (suite->kept_count + 1) * sizeof(void *)));
    void *pointer = must(calloc(count ? count : 1, size));
    suite->kept[suite->kept_count++] = pointer;
    return pointer;
}

const struct fan_event *fan__suite_event(struct fan__suite *suite,
                                         const struct fan_event_draft *draft)
{
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_event_draft full = *draft;
    full.size = FAN_EVENT_DRAFT_SIZE;
    if (!full.type)
        full.type = "suite.thing.happen";
    struct fan_event *event = NULL;
    if (fan_event_new(&full, NULL, &event, &error) != FAN_OK)
        fan__suite_fail(suite, __FILE__, __LINE__, "the suite made no event: %s: %s", error.field,
                        error.message);
    suite->events =
        must(realloc(suite->events, (suite->event_count + 1) * sizeof(struct fan_event *)));
    suite->events[suite->event_count++] = event;
    return event;
}

struct fan_batch *fan__suite_batch(struct fan__suite *suite)
{
    struct fan_batch *batch = NULL;
    if (fan_batch_new(NULL, &batch) != FAN_OK)
        abort();
    suite->batches =
        must(realloc(suite->batches, (suite->batch_count + 1) * sizeof(struct fan_batch *)));
    suite->batches[suite->batch_count++] = batch;
    return batch;
}

const struct fan_event *fan__suite_simple(struct fan__suite *suite, const char *type,
                                          const char *topic, const char *id)
{
    return fan__suite_event(
        suite, &(struct fan_event_draft){ .type = type,
                                          .topic = topic,
                                          .id = id,
                                          .payload = FAN_STR("{\"made\": \"by the suite\"}") });
}

struct fan_append fan__suite_try(struct fan__suite *suite, const struct fan_event *event,
                                 const struct fan_expectation *expectation)
{
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_append item = { .event = event, .expectation = expectation };
    enum fan_status status = fan_store_append(suite->store, &item, 1, &error);
    if (status != FAN_OK)
        fan__suite_fail(suite, __FILE__, __LINE__, "append gave %s: %s", fan_status_name(status),
                        error.message);
    return item;
}

uint64_t fan__suite_put(struct fan__suite *suite, const struct fan_event *event)
{
    struct fan_append item = fan__suite_try(suite, event, NULL);
    if (item.ret_status != FAN_OK || item.ret_duplicate || item.ret_seq == 0)
        fan__suite_fail(suite, __FILE__, __LINE__,
                        "append of a new event: %s, duplicate %d, sequence %" PRIu64,
                        fan_status_name(item.ret_status), item.ret_duplicate, item.ret_seq);
    return item.ret_seq;
}

uint64_t fan__suite_put_simple(struct fan__suite *suite, const char *type, const char *topic,
                               const char *id)
{
    return fan__suite_put(suite, fan__suite_simple(suite, type, topic, id));
}

size_t fan__suite_count(struct fan__suite *suite)
{
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_query query = { .size = FAN_QUERY_SIZE, .limit = 5000 };
    struct fan_event_state *states = fan__suite_alloc(suite, query.limit, sizeof(*states));
    CHECK_OK(suite, fan_store_list(suite->store, &query, suite->batch, states, &error));
    return fan_batch_count(suite->batch);
}

uint64_t fan__suite_head(struct fan__suite *suite)
{
    uint64_t seq = 0;
    CHECK_OK(suite, fan_store_head(suite->store, &seq));
    return seq;
}

struct fan_event_state fan__suite_state_of(struct fan__suite *suite, const char *id)
{
    struct fan_event_state state = { .error = NULL };
    CHECK_OK(suite, fan_store_get(suite->store, id, suite->batch, &state));
    CHECK(suite, state.error != NULL);
    return state;
}

struct fan_store_stats fan__suite_stats(struct fan__suite *suite)
{
    struct fan_store_stats stats = { .size = sizeof(stats) };
    CHECK_OK(suite, fan_store_stats(suite->store, &stats));
    return stats;
}

int64_t fan__suite_now_us(struct fan__suite *suite)
{
    return suite->env.wall_us(suite->env.context);
}

uint32_t fan__suite_short_ms(const struct fan__suite *suite)
{
    return suite->options->traits & FAN_CONFORMANCE_CLOCK ? 10000 : 300;
}

void fan__suite_pass_ms(struct fan__suite *suite, uint32_t time_ms)
{
    if (suite->options->traits & FAN_CONFORMANCE_CLOCK) {
        pthread_mutex_lock(&suite->mutex);
        suite->skew_us += (int64_t)time_ms * US_PER_MS;
        pthread_mutex_unlock(&suite->mutex);
        return;
    }
    /* The clock of a server cannot be moved, only waited for. */
    const struct fan_env *real = fan_env_default();
    int64_t until_ns = real->monotonic_ns(real->context) + (int64_t)time_ms * NS_PER_MS;
    while (real->monotonic_ns(real->context) < until_ns)
        fan__suite_pause(suite);
}

void fan__suite_set_wall(struct fan__suite *suite, int64_t by_us)
{
    pthread_mutex_lock(&suite->mutex);
    suite->wall_by_us = by_us;
    pthread_mutex_unlock(&suite->mutex);
}

void fan__suite_pause(struct fan__suite *suite)
{
    /* No log comes to this sequence, so the store waits its time; what it answers is no matter. */
    enum fan_status status = fan_store_wait(suite->store, FAN_SEQ_MAX, 1);
    (void)status;
}

void fan__suite_reopen(struct fan__suite *suite)
{
    struct fan_error error = FAN_ERROR_INIT;
    fan_store_close(suite->store);
    suite->store = NULL;
    enum fan_status status =
        suite->options->reopen(suite->options->context, &suite->env, &suite->store, &error);
    if (status != FAN_OK)
        fan__suite_fail(suite, __FILE__, __LINE__, "reopen gave %s: %s", fan_status_name(status),
                        error.message);
}

void fan__suite_open_second(struct fan__suite *suite)
{
    struct fan_error error = FAN_ERROR_INIT;
    if (!(fan_store_capabilities(suite->store) & FAN_CAPABILITY_TAIL_PROCESSES))
        fan__suite_skip(suite, "the store is one process's own");
    enum fan_status status =
        suite->options->reopen(suite->options->context, &suite->env, &suite->second, &error);
    if (status != FAN_OK)
        fan__suite_fail(suite, __FILE__, __LINE__, "a second open gave %s: %s",
                        fan_status_name(status), error.message);
}

void fan__suite_look_at_clock(struct fan__suite *suite)
{
    struct fan_store *stores[] = { suite->store, suite->second };
    for (size_t i = 0; i < 2 && stores[i]; i++) {
        uint64_t fence = 0;
        CHECK_OK(suite, fan_lease_acquire(stores[i], "clock", "me", 1000, &fence));
        CHECK_OK(suite, fan_lease_release(stores[i], "clock", "me", fence));
    }
}

void fan__suite_let_clocks_meet(struct fan__suite *suite)
{
    const struct fan_env *real = fan_env_default();
    int64_t until_ns = real->monotonic_ns(real->context) + CLOCKS_APART_NS;
    while (real->monotonic_ns(real->context) < until_ns)
        fan__suite_pause(suite);
}

struct start {
    pthread_barrier_t *barrier;
    void (*run)(void *context);
    void *context;
};

static void *thread_main(void *argument)
{
    const struct start *start = argument;
    pthread_barrier_wait(start->barrier);
    start->run(start->context);
    return NULL;
}

void fan__suite_parallel(struct fan__suite *suite, size_t count, void (*run)(void *context),
                         void *contexts, size_t context_size)
{
    pthread_barrier_t barrier;
    pthread_t *threads = fan__suite_alloc(suite, count, sizeof(*threads));
    struct start *starts = fan__suite_alloc(suite, count, sizeof(*starts));
    pthread_barrier_init(&barrier, NULL, (unsigned)count);
    for (size_t i = 0; i < count; i++) {
        starts[i] = (struct start){ &barrier, run, (char *)contexts + i * context_size };
        /* The others already wait at the barrier: there is no way back from here. */
        if (pthread_create(&threads[i], NULL, thread_main, &starts[i]) != 0)
            abort();
    }
    for (size_t i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&barrier);
    if (suite->failed)
        longjmp(suite->stop, 1);
}

bool fan__suite_must_end(struct fan__suite *suite)
{
    pthread_mutex_lock(&suite->mutex);
    bool failed = suite->failed;
    pthread_mutex_unlock(&suite->mutex);
    const struct fan_env *real = fan_env_default();
    int64_t limit_s = suite->options->limit_s;
    if (limit_s == 0)
        limit_s = suite->options->full ? 600 : 60;
    int64_t spent_s = (real->monotonic_ns(real->context) - suite->begun_ns) / NS_PER_S;
    if (!failed && spent_s > limit_s)
        fan__suite_fail(suite, __FILE__, __LINE__, "not at its end after %d s", (int)spent_s);
    return failed || spent_s > limit_s;
}

/* SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014). */
uint64_t fan__suite_random(uint64_t *state, uint64_t limit)
{
    uint64_t value = *state += UINT64_C(0x9e3779b97f4a7c15);
    value = (value ^ value >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    value = (value ^ value >> 27) * UINT64_C(0x94d049bb133111eb);
    return (value ^ value >> 31) % limit;
}

size_t fan__suite_amount(const struct fan__suite *suite, size_t sample, size_t full)
{
    return suite->options->full ? full : sample;
}
