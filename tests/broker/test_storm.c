/*
 * Brokers with all their threads on a store that fails at every kind of call, and that die in the
 * middle of it: publishers that go on as the contract says, a reader, durable groups (one of them
 * ordered) and a live handler. When the weather has passed, every law must hold of what there is.
 *
 * The faults follow from the seed; the order of threads does not. FANFARE_SEED runs one seed,
 * FANFARE_SOAK=1 many.
 */
#include "../seed.h"
#include "support.h"

#include "base/thread.h"

#include <fanfare/fault.h>

#include <inttypes.h>

#ifdef WITH_POSTGRES
#include "../postgres.h"
#endif

#define LIVES 3
#define PUBLISHERS 3
#define EACH 30 /* events of a publisher in one life */
#define EVENTS (LIVES * PUBLISHERS * EACH)
#define TOPICS 4
#define LIMIT_NS (INT64_C(60) * 1000000000)

enum asked { UNASKED, REFUSED, IN_DOUBT, STORED };

/* What handlers were called with, by sequence. */
struct seen {
    struct storm *storm;
    const char *group; /* NULL: live */
    unsigned calls[EVENTS + 1];
    uint64_t last_seq[TOPICS];
    bool disordered;
};

struct storm {
    uint64_t seed;
    struct fan_store *inner;
    struct fan_store *store;
    struct fan_broker *broker;
    struct fan__mutex mutex;
    enum asked asked[EVENTS];
    uint64_t seqs[EVENTS];
    struct seen free_group;
    struct seen ordered_group;
    struct seen live;
    uint64_t read_seq;
    size_t read_count;
    unsigned over; /* publishers that are through */
};

struct publisher {
    struct storm *storm;
    pthread_t thread;
    size_t first;
    uint64_t random;
};

#define CHECK(storm, condition)                                                                    \
    do {                                                                                           \
        if (!(condition))                                                                          \
            fail_msg("FANFARE_SEED=%" PRIu64 ": not so: %s", (storm)->seed, #condition);           \
    } while (0)

static size_t topic_of(const struct fan_event *event)
{
    return (size_t)(fan_event_topic(event)[0] - 'a');
}

static enum fan_verdict on_event(void *context, const struct fan_event *event,
                                 const struct fan_handling *handling)
{
    struct seen *seen = context;
    uint64_t seq = fan_event_seq(event);
    uint64_t random = seen->storm->seed ^ seq << 8 ^ handling->attempt;
    uint64_t chance = test_pick(&random, 100);
    size_t topic = topic_of(event);
    fan__mutex_lock(&seen->storm->mutex);
    if (seen->calls[seq]++ == 0) {
        seen->disordered |= seq < seen->last_seq[topic];
        seen->last_seq[topic] = seq;
    }
    fan__mutex_unlock(&seen->storm->mutex);
    if (chance < 15)
        return FAN_VERDICT_RETRY;
    return chance < 18 ? FAN_VERDICT_FAIL : FAN_VERDICT_DONE;
}

static bool is_fault(enum fan_status status)
{
    return status == FAN_UNKNOWN || status == FAN_UNAVAILABLE || status == FAN_IO ||
           status == FAN_NO_SPACE;
}

static void handle(struct storm *storm, struct seen *seen, bool ordered)
{
    const struct fan_retry_policy retry = { .retries = 5, .delay_ms = 1, .delay_ms_max = 2 };
    const struct fan_handler_options options = { .size = FAN_HANDLER_OPTIONS_SIZE,
                                                 .group = seen->group,
                                                 .start = seen->group ? FAN_START_BEGINNING
                                                                      : FAN_START_NOW,
                                                 .handle = on_event,
                                                 .context = seen,
                                                 .retry = seen->group ? &retry : NULL,
                                                 .ordered = ordered };
    enum fan_status status;
    do
        status = fan_broker_handle(storm->broker, &options, NULL, NULL);
    while (is_fault(status));
    assert_ok(status);
}

/* Publishes one event until it knows, or (now and then, and when the broker died) gives up. */
static void publish_one(struct publisher *publisher, size_t number)
{
    struct storm *storm = publisher->storm;
    char id[32];
    snprintf(id, sizeof(id), "event-%zu", number);
    const struct fan_event_draft draft = {
        .size = FAN_EVENT_DRAFT_SIZE,
        .type = "storm.event.come",
        .id = id,
        .topic = (const char *[]){ "a", "b", "c", "d" }[number % TOPICS],
    };
    enum asked asked = UNASKED;
    while (asked == UNASKED || asked == IN_DOUBT || test_pick(&publisher->random, 2)) {
        struct fan_cursor cursor = { 0, 0 };
        enum fan_status status = fan_broker_publish(storm->broker, &draft, &cursor, NULL);
        if (status == FAN_OK) {
            asked = STORED;
            storm->seqs[number] = cursor.seq;
            break;
        }
        if (status == FAN_UNKNOWN || status == FAN_TIMED_OUT)
            asked = IN_DOUBT;
        else if (asked == UNASKED)
            asked = REFUSED;
        if (fan_fault_crashed(storm->store))
            break;
    }
    storm->asked[number] = asked;
}

static void *publish_all(void *context)
{
    struct publisher *publisher = context;
    struct storm *storm = publisher->storm;
    for (size_t i = 0; i < EACH; i++)
        publish_one(publisher, publisher->first + i);
    fan__mutex_lock(&storm->mutex);
    storm->over++;
    fan__mutex_unlock(&storm->mutex);
    return NULL;
}

static struct fan_reader *subscribe(struct storm *storm)
{
    const struct fan_reader_options options = {
        .size = FAN_READER_OPTIONS_SIZE,
        .start = FAN_START_CURSOR,
        .cursor = { storm->read_seq, fan_store_epoch(storm->inner) },
    };
    struct fan_reader *reader = NULL;
    enum fan_status status;
    do
        status = fan_broker_subscribe(storm->broker, &options, &reader, NULL);
    while (is_fault(status));
    assert_ok(status);
    return reader;
}

/* Reads what there is; a store that fails is asked again by the next call. */
static void read_on(struct storm *storm, struct fan_reader *reader, uint32_t timeout_ms)
{
    const struct fan_event *event = NULL;
    enum fan_status status = fan_reader_next(reader, timeout_ms, &event);
    CHECK(storm, status != FAN_GAP);
    if (status != FAN_OK)
        return;
    CHECK(storm, fan_event_seq(event) > storm->read_seq);
    storm->read_seq = fan_event_seq(event);
    storm->read_count++;
}

static const char *const weathers[] = {
    "errors=10%,unknown=8%,torn=4%,delay=5%,stall=2%,stall_ms=10,wait.deaf=10%,wait.early=10%",
    "unknown=25%,torn=10%,limit=200",
    "append.unknown_done=50%,settle.torn=40%,claim.unknown_done=10%,limit=100",
    "unavailable=100%,limit=60",
    "read.errors=50%,head.errors=50%,wait.deaf=50%",
    "stall=20%,stall_ms=5,delay=20%,delay_ms=0-2",
    "",
};

static void change_weather(struct storm *storm, uint64_t *random)
{
    size_t weather = test_pick(random, sizeof(weathers) / sizeof(*weathers));
    assert_ok(fan_fault_set(storm->store, weathers[weather], NULL));
}

static unsigned through(struct storm *storm)
{
    fan__mutex_lock(&storm->mutex);
    unsigned over = storm->over;
    fan__mutex_unlock(&storm->mutex);
    return over;
}

static size_t answered(struct storm *storm)
{
    struct fan_broker_stats stats = { .size = sizeof(stats) };
    fan_broker_stats(storm->broker, &stats);
    return stats.commits + stats.commit_failures;
}

/* Opening asks the store, which may fail. */
static struct fan_broker *open_broker(struct storm *storm)
{
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    struct fan_broker *broker = NULL;
    options.store = storm->store;
    options.publish_timeout_ms = 100;
    options.lease_ms = 250;
    assert_ok(fan_broker_open(NULL, &options, &broker, NULL));
    return broker;
}

/* All that is owed is handled, all that is stored is read, and the live handler has it, too. */
static void calm_down(struct storm *storm, struct fan_reader *reader, uint64_t live_seq)
{
    int64_t limit_ns = fan__deadline_ns(0) + LIMIT_NS;
    struct fan_store_stats stats = { .size = sizeof(stats) };
    bool calm = false;
    assert_ok(fan_fault_set(storm->store, NULL, NULL));
    while (!calm) {
        CHECK(storm, fan__deadline_ns(0) < limit_ns);
        read_on(storm, reader, 5);
        assert_ok(fan_store_stats(storm->inner, &stats));
        calm = stats.pending + stats.processing == 0 && storm->read_count == stats.events;
        fan__mutex_lock(&storm->mutex);
        for (uint64_t seq = live_seq + 1; seq <= stats.last_seq; seq++)
            calm &= storm->live.calls[seq] == 1;
        fan__mutex_unlock(&storm->mutex);
    }
    CHECK(storm, stats.groups == 2);
    CHECK(storm, stats.completed + stats.failed == stats.events);
}

/* One broker's life: until its publishers are through; the last one's ends in calm weather. */
static void live_once(struct storm *storm, unsigned life, uint64_t *random)
{
    struct publisher publishers[PUBLISHERS];
    uint64_t live_seq = 0;
    storm->broker = open_broker(storm);
    assert_ok(fan_store_head(storm->inner, &live_seq));
    memset(storm->live.calls, 0, sizeof(storm->live.calls));
    change_weather(storm, random);
    handle(storm, &storm->free_group, false);
    handle(storm, &storm->ordered_group, true);
    handle(storm, &storm->live, false);
    assert_ok(fan_broker_start(storm->broker));
    struct fan_reader *reader = subscribe(storm);
    storm->over = 0;
    for (unsigned i = 0; i < PUBLISHERS; i++) {
        publishers[i] = (struct publisher){ .storm = storm,
                                            .first = (life * PUBLISHERS + i) * EACH,
                                            .random = storm->seed + i };
        assert_int_equal(pthread_create(&publishers[i].thread, NULL, publish_all, &publishers[i]),
                         0);
    }
    size_t changed_at = 0;
    size_t dies_at = life + 1 < LIVES ? 20 + test_pick(random, 60) : SIZE_MAX;
    while (through(storm) < PUBLISHERS) {
        read_on(storm, reader, 1);
        size_t count = answered(storm);
        if (count >= dies_at)
            assert_ok(fan_fault_set(storm->store, "crashed=yes", NULL));
        else if (count >= changed_at + 10)
            change_weather(storm, random);
        changed_at = count >= changed_at + 10 ? count : changed_at;
    }
    for (unsigned i = 0; i < PUBLISHERS; i++)
        pthread_join(publishers[i].thread, NULL);
    if (life + 1 == LIVES)
        calm_down(storm, reader, live_seq);
    else
        assert_ok(fan_fault_set(storm->store, "crashed=yes", NULL));
    fan_reader_free(reader);
    /* Whether anything was still queued is no matter: it is dead. */
    (void)!fan_broker_stop(storm->broker, 0);
    fan_broker_free(storm->broker);
    fan_store_close(storm->store);
    assert_ok(fan_fault_wrap(storm->inner, NULL, NULL, &storm->store, NULL));
}

/* Everything that was asked, against the log. */
static void judge(struct storm *storm)
{
    struct fan_batch *batch = NULL;
    size_t stored = 0;
    assert_ok(fan_batch_new(NULL, &batch));
    for (size_t i = 0; i < EVENTS; i++) {
        char id[32];
        struct fan_event_state state;
        snprintf(id, sizeof(id), "event-%zu", i);
        enum fan_status status = fan_store_get(storm->inner, id, batch, &state);
        CHECK(storm, status == FAN_OK || storm->asked[i] != STORED);
        CHECK(storm, status == FAN_NOT_FOUND || storm->asked[i] != REFUSED);
        if (status != FAN_OK)
            continue;
        stored++;
        uint64_t seq = fan_event_seq(fan_batch_event(batch, 0));
        CHECK(storm, storm->asked[i] != STORED || seq == storm->seqs[i]);
        CHECK(storm, state.status == FAN_EVENT_FAILED || storm->free_group.calls[seq] > 0);
        CHECK(storm, state.status == FAN_EVENT_FAILED || storm->ordered_group.calls[seq] > 0);
    }
    CHECK(storm, stored == storm->read_count);
    CHECK(storm, !storm->ordered_group.disordered);
    CHECK(storm, !storm->live.disordered);
    fan_batch_free(batch);
}

static void run_seed(const char *uri, uint64_t seed)
{
    struct storm *storm = calloc(1, sizeof(*storm));
    uint64_t random = seed;
    char faults[64];
    assert_non_null(storm);
    snprintf(faults, sizeof(faults), "seed=%" PRIu64, seed);
    storm->seed = seed;
    storm->free_group = (struct seen){ .storm = storm, .group = "free" };
    storm->ordered_group = (struct seen){ .storm = storm, .group = "ordered" };
    storm->live = (struct seen){ .storm = storm };
    fan__mutex_init(&storm->mutex);
    assert_ok(fan_store_open(uri, NULL, &storm->inner, NULL));
    assert_ok(fan_fault_wrap(storm->inner, faults, NULL, &storm->store, NULL));
    for (unsigned life = 0; life < LIVES; life++)
        live_once(storm, life, &random);
    judge(storm);
    fan_store_close(storm->store);
    fan_store_close(storm->inner);
    fan__mutex_deinit(&storm->mutex);
    free(storm);
}

/* The seed that was asked for, or so many; many more in a soak. */
static void each_seed(uint64_t count, void (*run)(void *context, uint64_t seed), void *context)
{
    const char *only = getenv("FANFARE_SEED");
    uint64_t first = only ? strtoull(only, NULL, 10) : 1;
    if (only)
        count = 1;
    else if (test_is_soak())
        count *= 25;
    for (uint64_t seed = first; seed < first + count; seed++)
        run(context, seed);
}

static void run_place(void *scheme, uint64_t seed)
{
    struct place place;
    place_make(&place, scheme);
    run_seed(place.uri, seed);
    place_remove(&place);
}

static void test_L06_L07_L08_L09_laws_hold_in_a_storm(void **state)
{
    each_seed(2, run_place, *state);
}

#ifdef WITH_POSTGRES
static void run_postgres(void *server, uint64_t seed)
{
    char uri[256];
    char options[48];
    snprintf(options, sizeof(options), "schema=seed%" PRIu64, seed);
    test_postgres_uri(server, options, uri, sizeof(uri));
    run_seed(uri, seed);
}

static void test_L06_L07_L08_L09_laws_hold_in_a_storm_over_postgres(void **state)
{
    (void)state;
    struct test_postgres server;
    assert_true(test_postgres_start(&server, NULL));
    each_seed(1, run_postgres, &server);
    test_postgres_end(&server);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_every_scheme(test_L06_L07_L08_L09_laws_hold_in_a_storm),
#ifdef WITH_POSTGRES
        cmocka_unit_test(test_L06_L07_L08_L09_laws_hold_in_a_storm_over_postgres),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
