/*
 * The edges of a broker: a store that fails for a while, units that are wrong, a fork's child, two
 * threads on a stepped broker, events as large as they may be.
 */
#include "support.h"

#include "base/thread.h"

#include "store/memory/memory.h"
#include "store/sqlite/sqlite.h"

#include <errno.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

static struct fan_broker *stepped_started(const struct place *place)
{
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    options.stepped = true;
    struct fan_broker *broker = NULL;
    assert_ok(fan_broker_open(place->uri, &options, &broker, NULL));
    assert_ok(fan_broker_start(broker));
    return broker;
}

struct worker {
    struct fan__thread thread;
    struct fan_broker *broker;
    struct fan__mutex mutex;
    bool over;
};

static void step_until_over(void *context)
{
    struct worker *worker = context;
    for (bool over = false; !over;) {
        enum fan_status status = fan_broker_step(worker->broker);
        assert_true(status == FAN_OK || status == FAN_AGAIN);
        fan__mutex_lock(&worker->mutex);
        over = worker->over;
        fan__mutex_unlock(&worker->mutex);
    }
}

static void test_H01_many_may_publish_while_one_steps(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = stepped_started(place);
    struct worker stepper = { .broker = broker };
    fan__mutex_init(&stepper.mutex);
    assert_ok(fan__thread_start(&stepper.thread, "stepper", step_until_over, &stepper));
    for (uint64_t seq = 1; seq <= 300; seq++)
        assert_int_equal(publish(broker, "a.b.c", NULL), seq);
    fan__mutex_lock(&stepper.mutex);
    stepper.over = true;
    fan__mutex_unlock(&stepper.mutex);
    fan__thread_join(&stepper.thread);
    fan__mutex_deinit(&stepper.mutex);
    fan_broker_free(broker);
}

struct answer {
    size_t count;
    enum fan_status status;
    struct fan_broker *steps;
    enum fan_status stepped;
};

static void take_answer(void *context, const struct fan_published *published)
{
    struct answer *answer = context;
    answer->count++;
    answer->status = published->status;
    if (answer->steps)
        answer->stepped = fan_broker_step(answer->steps);
}

static void test_H01_stepping_in_a_call_back_is_a_typed_error(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = stepped_started(place);
    struct answer answer = { .steps = broker };
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
    assert_ok(fan_broker_publish_async(broker, &draft, take_answer, &answer, NULL));
    assert_ok(fan_broker_step(broker));
    assert_int_equal(answer.count, 1);
    assert_int_equal(answer.stepped, FAN_MISUSE);
    fan_broker_free(broker);
}

struct stops {
    struct fan_broker *broker;
    struct fan__mutex mutex;
    struct fan__cond changed;
    size_t count;
    enum fan_status status;
};

static void try_to_stop(struct stops *stops)
{
    enum fan_status status = fan_broker_stop(stops->broker, 0);
    fan__mutex_lock(&stops->mutex);
    stops->status = status;
    stops->count++;
    fan__cond_broadcast(&stops->changed);
    fan__mutex_unlock(&stops->mutex);
}

static enum fan_verdict stop_in_handler(void *context, const struct fan_event *event,
                                        const struct fan_handling *handling)
{
    (void)event;
    (void)handling;
    try_to_stop(context);
    return FAN_VERDICT_DONE;
}

static void stop_in_answer(void *context, const struct fan_published *published)
{
    (void)published;
    try_to_stop(context);
}

static void stops_wait(struct stops *stops, size_t count)
{
    fan__mutex_lock(&stops->mutex);
    while (stops->count < count)
        fan__cond_wait(&stops->changed, &stops->mutex);
    assert_int_equal(stops->status, FAN_MISUSE);
    fan__mutex_unlock(&stops->mutex);
}

static void test_H09_stopping_where_it_would_wait_for_itself_is_a_typed_error(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    struct stops stops = { .broker = broker };
    fan__mutex_init(&stops.mutex);
    fan__cond_init(&stops.changed);
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
    assert_ok(fan_broker_publish_async(broker, &draft, stop_in_answer, &stops, NULL));
    stops_wait(&stops, 1);
    struct fan_handler_options options = { .size = FAN_HANDLER_OPTIONS_SIZE,
                                           .handle = stop_in_handler,
                                           .context = &stops };
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    publish(broker, "a.b.c", NULL);
    stops_wait(&stops, 2);
    fan_broker_free(broker);
    fan__cond_deinit(&stops.changed);
    fan__mutex_deinit(&stops.mutex);
}

struct ender {
    struct fan__thread thread;
    struct fan_broker *broker;
    struct fan_reader *reader;
    enum fan_status status;
    enum fan_status read;
};

static void stop_and_read(void *context)
{
    struct ender *ender = context;
    const struct fan_event *event;
    ender->status = fan_broker_stop(ender->broker, 1000);
    ender->read = fan_reader_next(ender->reader, 0, &event);
}

/* Whoever stops later waits for the whole stop: after each, every reader is at its end. */
static void test_H09_each_of_many_stops_leaves_the_bus_closed(void **state)
{
    enum { ENDERS = 8, ROUNDS = 40 };
    struct place *place = *state;
    for (int round = 0; round < ROUNDS; round++) {
        struct ender enders[ENDERS] = { 0 };
        struct fan_broker *broker = broker_started(place);
        for (int i = 0; i < ENDERS; i++) {
            enders[i].broker = broker;
            enders[i].reader = subscribe_from(broker, FAN_START_NOW, (struct fan_cursor){ 0, 0 });
        }
        for (int i = 0; i < ENDERS; i++)
            assert_ok(fan__thread_start(&enders[i].thread, "ender", stop_and_read, &enders[i]));
        for (int i = 0; i < ENDERS; i++) {
            fan__thread_join(&enders[i].thread);
            assert_ok(enders[i].status);
            assert_int_equal(enders[i].read, FAN_CLOSED);
            fan_reader_free(enders[i].reader);
        }
        fan_broker_free(broker);
    }
}

/* Both are of one commit here: what is wrong with the one is no reason to refuse the other. */
static void test_P23_a_bad_expectation_harms_no_other_publisher(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = stepped_started(place);
    char long_name[FAN_TEXT_SIZE_MAX + 2];
    memset(long_name, 'x', sizeof(long_name) - 1);
    long_name[sizeof(long_name) - 1] = '\0';
    const struct fan_expectation bad[] = {
        { .size = sizeof(bad[0]), .last_seq = 3 },
        { .size = sizeof(bad[0]), .fence = 3 },
        { .size = sizeof(bad[0]), .key = "" },
        { .size = sizeof(bad[0]), .key = long_name },
        { .size = sizeof(bad[0]), .lease = "" },
        { .size = sizeof(bad[0]), .lease = long_name },
        { .size = sizeof(bad[0]), .key = "a", .last_seq = FAN_SEQ_MAX + 1 },
        { .size = sizeof(bad[0]), .lease = "a", .fence = FAN_SEQ_MAX + 1 },
    };
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct answer answer = { .status = FAN_AGAIN };
        assert_ok(fan_broker_publish_async(broker, &draft, take_answer, &answer, NULL));
        struct fan_unit unit = {
            .size = FAN_UNIT_SIZE, .drafts = &draft, .count = 1, .expectation = &bad[i]
        };
        struct fan_error error = FAN_ERROR_INIT;
        assert_int_equal(fan_broker_publish_unit(broker, &unit, NULL, &error), FAN_INVALID);
        assert_memory_equal(error.field, "expectation", strlen("expectation"));
        enum fan_status status = fan_broker_step(broker);
        assert_true(status == FAN_OK || status == FAN_AGAIN);
        assert_int_equal(answer.count, 1);
        assert_ok(answer.status);
    }
    fan_broker_free(broker);
}

static void child_lets_go(struct fan_broker *broker, struct fan_reader *reader,
                          struct fan_handler *handler)
{
    struct fan_broker_stats stats = { .size = sizeof(stats), .published = 77 };
    fan_broker_stats(broker, &stats);
    if (stats.published != 0)
        _exit(1);
    fan_handler_free(handler);
    fan_reader_free(reader);
    fan_broker_free(broker);
    _exit(0);
}

static enum fan_verdict done(void *context, const struct fan_event *event,
                             const struct fan_handling *handling)
{
    (void)context;
    (void)event;
    (void)handling;
    return FAN_VERDICT_DONE;
}

/* The writer sleeps on a condition of the parent's, which a child must not take apart. */
static void test_R03_a_forks_child_may_let_go_of_everything(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    struct fan_reader *reader = subscribe_from(broker, FAN_START_NOW, (struct fan_cursor){ 0, 0 });
    struct fan_handler_options options = { .size = FAN_HANDLER_OPTIONS_SIZE, .handle = done };
    struct fan_handler *handler = NULL;
    assert_ok(fan_broker_handle(broker, &options, &handler, NULL));
    publish(broker, "a.b.c", NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        alarm(20);
        child_lets_go(broker, reader, handler);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    publish(broker, "a.b.c", NULL);
    assert_int_equal(next_seq(reader), 1);
    assert_int_equal(next_seq(reader), 2);
    fan_reader_free(reader);
    fan_handler_free(handler);
    fan_broker_free(broker);
}

static void test_L07_an_event_above_the_limit_of_a_message_arrives(void **state)
{
    struct place *place = *state;
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    options.payload_size_max = FAN_MESSAGE_SIZE_MAX + 1;
    struct fan_broker *broker = NULL;
    assert_ok(fan_broker_open(place->uri, &options, &broker, NULL));
    assert_ok(fan_broker_start(broker));
    struct fan_reader *reader = subscribe_from(broker, FAN_START_NOW, (struct fan_cursor){ 0, 0 });
    char *payload = calloc(1, FAN_MESSAGE_SIZE_MAX + 1);
    assert_non_null(payload);
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE,
                                     .type = "a.b.c",
                                     .content_type = "application/octet-stream",
                                     .payload = { payload, FAN_MESSAGE_SIZE_MAX + 1 } };
    assert_ok(fan_broker_publish(broker, &draft, NULL, NULL));
    free(payload);
    publish(broker, "a.b.d", NULL);
    const struct fan_event *event = NULL;
    assert_ok(fan_reader_next(reader, 10000, &event));
    assert_int_equal(fan_event_seq(event), 1);
    assert_int_equal(fan_event_payload(event).size, FAN_MESSAGE_SIZE_MAX + 1);
    assert_int_equal(next_seq(reader), 2);
    fan_reader_free(reader);
    fan_broker_free(broker);
}

/* The memory provider, but appends and reads answer as they are told to. */
static struct {
    struct fan_provider provider;
    struct fan__mutex mutex;
    struct fan__cond changed;
    enum fan_status appends; /* FAN_UNKNOWN stores all the same */
    enum fan_status reads;
    size_t failed_reads;
    int64_t failed_at_ns[6]; /* the first of them */
    bool stalled;
    bool stalling;
} faulty;

static int64_t now_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static enum fan_status faulty_append(void *self, struct fan_append *items, size_t count,
                                     struct fan_error *error)
{
    fan__mutex_lock(&faulty.mutex);
    enum fan_status status = faulty.appends;
    faulty.stalling = true;
    fan__cond_broadcast(&faulty.changed);
    while (faulty.stalled)
        fan__cond_wait(&faulty.changed, &faulty.mutex);
    faulty.stalling = false;
    fan__mutex_unlock(&faulty.mutex);
    if (status != FAN_OK && status != FAN_UNKNOWN)
        return status;
    enum fan_status stored = fan__memory_provider.append(self, items, count, error);
    return status == FAN_OK ? stored : status;
}

static enum fan_status faulty_read(void *self, uint64_t after_seq, const struct fan_query *query,
                                   struct fan_batch *batch, struct fan_read_result *ret_result)
{
    fan__mutex_lock(&faulty.mutex);
    enum fan_status status = faulty.reads;
    if (status != FAN_OK) {
        if (faulty.failed_reads < 6)
            faulty.failed_at_ns[faulty.failed_reads] = now_ns(CLOCK_MONOTONIC);
        faulty.failed_reads++;
        fan__cond_broadcast(&faulty.changed);
    }
    fan__mutex_unlock(&faulty.mutex);
    return status != FAN_OK ? status
                            : fan__memory_provider.read(self, after_seq, query, batch, ret_result);
}

static void faulty_set(enum fan_status appends, enum fan_status reads)
{
    fan__mutex_lock(&faulty.mutex);
    faulty.appends = appends;
    faulty.reads = reads;
    fan__mutex_unlock(&faulty.mutex);
}

static struct fan_broker *faulty_started(const char *uri, bool stepped)
{
    faulty.provider = fan__memory_provider;
    faulty.provider.append = faulty_append;
    faulty.provider.read = faulty_read;
    fan__mutex_init(&faulty.mutex);
    fan__cond_init(&faulty.changed);
    faulty.failed_reads = 0;
    faulty.stalled = false;
    faulty_set(FAN_OK, FAN_OK);
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    options.provider = &faulty.provider;
    options.stepped = stepped;
    struct fan_broker *broker = NULL;
    assert_ok(fan_broker_open(uri, &options, &broker, NULL));
    assert_ok(fan_broker_start(broker));
    return broker;
}

/* The answer is unclear for good, but the event is there: who reads live must not wait for more. */
static void test_L07_what_an_unclear_append_stored_is_told(void **state)
{
    (void)state;
    struct fan_broker *broker = faulty_started("memory:", false);
    struct fan_reader *reader = subscribe_from(broker, FAN_START_NOW, (struct fan_cursor){ 0, 0 });
    faulty_set(FAN_UNKNOWN, FAN_OK);
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
    assert_int_equal(fan_broker_publish(broker, &draft, NULL, NULL), FAN_UNKNOWN);
    assert_int_equal(next_seq(reader), 1);
    fan_reader_free(reader);
    fan_broker_free(broker);
}

/* What is owed to readers when the broker stops is told before their end. */
static void test_L05_a_stop_pays_what_is_owed_to_readers(void **state)
{
    (void)state;
    struct fan_broker *broker = faulty_started("memory:", true);
    struct fan_reader *reader = subscribe_from(broker, FAN_START_NOW, (struct fan_cursor){ 0, 0 });
    faulty_set(FAN_UNKNOWN, FAN_IO);
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
    assert_int_equal(fan_broker_publish(broker, &draft, NULL, NULL), FAN_UNKNOWN);
    /* It is a duplicate of itself, which only the log could show. */
    faulty_set(FAN_OK, FAN_IO);
    draft.id = "two";
    assert_ok(fan_broker_publish(broker, &draft, NULL, NULL));
    faulty_set(FAN_OK, FAN_OK);
    assert_ok(fan_broker_stop(broker, 1000));
    assert_int_equal(next_seq(reader), 1);
    assert_int_equal(next_seq(reader), 2);
    const struct fan_event *event;
    assert_int_equal(fan_reader_next(reader, 0, &event), FAN_CLOSED);
    fan_reader_free(reader);
    fan_broker_free(broker);
}

struct gate {
    struct fan__mutex mutex;
    struct fan__cond changed;
    bool entered;
    bool open;
    uint64_t last_seq;
};

static enum fan_verdict pass_gate(void *context, const struct fan_event *event,
                                  const struct fan_handling *handling)
{
    struct gate *gate = context;
    (void)handling;
    fan__mutex_lock(&gate->mutex);
    gate->entered = true;
    gate->last_seq = fan_event_seq(event);
    fan__cond_broadcast(&gate->changed);
    while (!gate->open)
        fan__cond_wait(&gate->changed, &gate->mutex);
    fan__mutex_unlock(&gate->mutex);
    return FAN_VERDICT_DONE;
}

static void gate_wait(struct gate *gate, uint64_t seq)
{
    fan__mutex_lock(&gate->mutex);
    while (!gate->entered || gate->last_seq < seq)
        fan__cond_wait(&gate->changed, &gate->mutex);
    fan__mutex_unlock(&gate->mutex);
}

/* A live handler that was lapped must read the log. While that fails it is asked now and then. */
static void test_R01_a_log_that_fails_is_not_asked_without_pause(void **state)
{
    (void)state;
    struct fan_broker *broker = faulty_started("memory:", false);
    struct gate gate = { .open = false };
    fan__mutex_init(&gate.mutex);
    fan__cond_init(&gate.changed);
    struct fan_handler_options options = { .size = FAN_HANDLER_OPTIONS_SIZE,
                                           .handle = pass_gate,
                                           .context = &gate };
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    publish(broker, "a.b.c", NULL);
    gate_wait(&gate, 1);
    uint64_t last_seq = 0;
    for (int i = 0; i < FAN_BUFFER_COUNT + 10; i++)
        last_seq = publish(broker, "a.b.c", NULL);
    faulty_set(FAN_OK, FAN_IO);
    fan__mutex_lock(&gate.mutex);
    gate.open = true;
    fan__cond_broadcast(&gate.changed);
    fan__mutex_unlock(&gate.mutex);
    fan__mutex_lock(&faulty.mutex);
    while (faulty.failed_reads < 6)
        fan__cond_wait(&faulty.changed, &faulty.mutex);
    int64_t took_ns = faulty.failed_at_ns[5] - faulty.failed_at_ns[0];
    fan__mutex_unlock(&faulty.mutex);
    assert_true(took_ns > 100000000);
    faulty_set(FAN_OK, FAN_OK);
    gate_wait(&gate, last_seq);
    fan_broker_free(broker);
}

static void test_B20_a_reader_of_an_old_log_tells_its_lag(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    publish_times(broker, 3);
    fan_broker_free(broker);
    broker = stepped_started(place);
    struct fan_reader *reader =
        subscribe_from(broker, FAN_START_BEGINNING, (struct fan_cursor){ 0, 0 });
    struct fan_reader_stats stats = { .size = sizeof(stats) };
    fan_reader_stats(reader, &stats);
    assert_int_equal(stats.lag, 3);
    next_seq(reader);
    fan_reader_stats(reader, &stats);
    assert_int_equal(stats.lag, 2);
    fan_reader_free(reader);
    fan_broker_free(broker);
}

static void test_P08_a_full_store_is_not_called_a_full_queue(void **state)
{
    (void)state;
    struct fan_broker *broker = faulty_started("memory:?capacity=1", false);
    struct fan_group_name name = { "mail", NULL };
    struct fan_group_options group = { .size = FAN_GROUP_OPTIONS_SIZE };
    assert_ok(fan_group_create(fan_broker_store(broker), &name, &group, NULL));
    publish(broker, "a.b.c", NULL);
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
    struct fan_error error = FAN_ERROR_INIT;
    assert_int_equal(fan_broker_publish(broker, &draft, NULL, &error), FAN_FULL);
    assert_null(strstr(error.message, "queue"));
    assert_non_null(strstr(error.message, "store"));
    fan_broker_free(broker);
}

static void test_R03_a_process_without_descriptors_is_told_so(void **state)
{
    (void)state;
    struct rlimit before;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    struct rlimit none = { .rlim_cur = 0, .rlim_max = before.rlim_max };
    struct fan_broker *broker = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    enum fan_status status = fan_broker_open("memory:", NULL, &broker, &error);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_equal(status, FAN_IO);
    assert_non_null(strstr(error.message, "descriptor"));

    assert_ok(fan_broker_open("memory:", NULL, &broker, NULL));
    struct fan_handler_options options = { .size = FAN_HANDLER_OPTIONS_SIZE, .handle = done };
    error = (struct fan_error)FAN_ERROR_INIT;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    status = fan_broker_handle(broker, &options, NULL, &error);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_equal(status, FAN_IO);
    assert_int_equal(error.status, FAN_IO);
    assert_non_null(strstr(error.message, "descriptor"));
    fan_broker_free(broker);
}

static void faulty_stall(bool stalled)
{
    fan__mutex_lock(&faulty.mutex);
    faulty.stalled = stalled;
    fan__cond_broadcast(&faulty.changed);
    fan__mutex_unlock(&faulty.mutex);
}

struct stopper {
    struct fan__thread thread;
    struct fan_broker *broker;
    int64_t used_ns;
};

static void stop_and_measure(void *context)
{
    struct stopper *stopper = context;
    int64_t before_ns = now_ns(CLOCK_THREAD_CPUTIME_ID);
    (void)fan_broker_stop(stopper->broker, 1);
    stopper->used_ns = now_ns(CLOCK_THREAD_CPUTIME_ID) - before_ns;
}

static void test_H09_a_stop_that_must_wait_for_the_storage_sleeps(void **state)
{
    (void)state;
    struct fan_broker *broker = faulty_started("memory:", false);
    struct answer answer = { .status = FAN_AGAIN };
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
    faulty_stall(true);
    assert_ok(fan_broker_publish_async(broker, &draft, take_answer, &answer, NULL));
    fan__mutex_lock(&faulty.mutex);
    while (!faulty.stalling)
        fan__cond_wait(&faulty.changed, &faulty.mutex);
    fan__mutex_unlock(&faulty.mutex);
    struct stopper stopper = { .broker = broker };
    assert_ok(fan__thread_start(&stopper.thread, "stopper", stop_and_measure, &stopper));
    /* What is measured is processor time: 200 ms of ours against 50 of the stopper's. */
    int64_t until_ns = now_ns(CLOCK_THREAD_CPUTIME_ID) + 200000000;
    while (now_ns(CLOCK_THREAD_CPUTIME_ID) < until_ns)
        ;
    faulty_stall(false);
    fan__thread_join(&stopper.thread);
    assert_true(stopper.used_ns < 50000000);
    assert_int_equal(answer.count, 1);
    assert_ok(answer.status);
    fan_broker_free(broker);
}

static void stop_now(void *context)
{
    struct stopper *stopper = context;
    (void)fan_broker_stop(stopper->broker, 1000);
}

static void test_H09_a_stop_may_meet_a_start(void **state)
{
    (void)state;
    for (int i = 0; i < 200; i++) {
        struct fan_broker *broker = NULL;
        assert_ok(fan_broker_open("memory:", NULL, &broker, NULL));
        struct stopper stopper = { .broker = broker };
        assert_ok(fan__thread_start(&stopper.thread, "stopper", stop_now, &stopper));
        enum fan_status status = fan_broker_start(broker);
        assert_true(status == FAN_OK || status == FAN_CLOSED);
        fan__thread_join(&stopper.thread);
        assert_int_equal(fan_broker_start(broker), FAN_CLOSED);
        fan_broker_free(broker);
    }
}

static void test_H09_a_stepped_stop_keeps_its_deadline(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = stepped_started(place);
    struct answer answer = { .status = FAN_AGAIN };
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
    for (int i = 0; i < 1500; i++)
        assert_ok(fan_broker_publish_async(broker, &draft, take_answer, &answer, NULL));
    /* One commit of 1,000 is begun in time, a second is not. */
    assert_int_equal(fan_broker_stop(broker, 0), FAN_TIMED_OUT);
    assert_int_equal(answer.count, 1500);
    assert_int_equal(answer.status, FAN_CLOSED);
    struct fan_broker_stats stats = { .size = sizeof(stats) };
    fan_broker_stats(broker, &stats);
    assert_int_equal(stats.published, 1000);
    assert_int_equal(stats.refused, 500);
    fan_broker_free(broker);
}

/* The SQLite provider, but every third read fails. */
static struct {
    struct fan_provider provider;
    struct fan__mutex mutex;
    unsigned reads;
} shaky;

static enum fan_status shaky_read(void *self, uint64_t after_seq, const struct fan_query *query,
                                  struct fan_batch *batch, struct fan_read_result *ret_result)
{
    fan__mutex_lock(&shaky.mutex);
    bool fails = ++shaky.reads % 3 == 0;
    fan__mutex_unlock(&shaky.mutex);
    return fails ? FAN_IO : fan__sqlite_provider.read(self, after_seq, query, batch, ret_result);
}

#define WRITERS 4
#define PER_WRITER 100

static void write_some(void *context)
{
    struct worker *worker = context;
    for (int i = 0; i < PER_WRITER; i++)
        publish(worker->broker, "a.b.c", i % 3 ? "some" : "other");
}

struct follower {
    struct fan__thread thread;
    struct fan_reader *reader;
    size_t wanted;
    uint64_t last_seq;
};

static void follow(void *context)
{
    struct follower *follower = context;
    for (size_t count = 0; count < follower->wanted;) {
        const struct fan_event *event;
        enum fan_status status = fan_reader_next(follower->reader, 10000, &event);
        if (status == FAN_IO)
            continue;
        assert_ok(status);
        /* The sequences of one log have no holes here. */
        assert_int_equal(fan_event_seq(event), follower->last_seq + 1);
        follower->last_seq++;
        count++;
    }
}

static struct follower follower_from(struct fan_broker *broker, enum fan_start start,
                                     size_t buffer_count, size_t wanted)
{
    struct follower follower = { .wanted = wanted };
    struct fan_reader_options options = { .size = FAN_READER_OPTIONS_SIZE,
                                          .start = start,
                                          .buffer_count = buffer_count };
    assert_ok(fan_broker_subscribe(broker, &options, &follower.reader, NULL));
    return follower;
}

static void test_L07_two_instances_on_a_log_that_fails_now_and_then(void **state)
{
    struct place *place = *state;
    shaky.provider = fan__sqlite_provider;
    shaky.provider.read = shaky_read;
    fan__mutex_init(&shaky.mutex);
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    options.provider = &shaky.provider;
    struct fan_broker *here = NULL;
    assert_ok(fan_broker_open(place->uri, &options, &here, NULL));
    assert_ok(fan_broker_start(here));
    struct fan_broker *there = broker_started(place);
    const size_t total = WRITERS * PER_WRITER;
    struct follower followers[] = {
        follower_from(here, FAN_START_NOW, 0, total),
        follower_from(here, FAN_START_NOW, 2, total),
        follower_from(there, FAN_START_NOW, 4, total),
        { .wanted = total },
        { .wanted = total },
    };
    const size_t follower_count = sizeof(followers) / sizeof(followers[0]);
    struct worker writers[WRITERS] = { { .broker = here } };
    for (int i = 0; i < WRITERS; i++) {
        writers[i].broker = i % 2 ? here : there;
        assert_ok(fan__thread_start(&writers[i].thread, "writer", write_some, &writers[i]));
    }
    for (size_t i = 0; i < follower_count; i++) {
        if (!followers[i].reader)
            followers[i] = follower_from(here, FAN_START_BEGINNING, 2, total);
        assert_ok(fan__thread_start(&followers[i].thread, "follower", follow, &followers[i]));
    }
    for (int i = 0; i < WRITERS; i++)
        fan__thread_join(&writers[i].thread);
    for (size_t i = 0; i < follower_count; i++) {
        fan__thread_join(&followers[i].thread);
        assert_int_equal(followers[i].last_seq, total);
        fan_reader_free(followers[i].reader);
    }
    fan_broker_free(there);
    fan_broker_free(here);
    fan__mutex_deinit(&shaky.mutex);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_every_store(test_H01_many_may_publish_while_one_steps),
        on_every_store(test_H01_stepping_in_a_call_back_is_a_typed_error),
        on_every_store(test_H09_each_of_many_stops_leaves_the_bus_closed),
        on_every_store(test_H09_stopping_where_it_would_wait_for_itself_is_a_typed_error),
        on_every_store(test_P23_a_bad_expectation_harms_no_other_publisher),
        on_every_store(test_R03_a_forks_child_may_let_go_of_everything),
        on_every_store(test_L07_an_event_above_the_limit_of_a_message_arrives),
        cmocka_unit_test(test_L07_what_an_unclear_append_stored_is_told),
        cmocka_unit_test(test_L05_a_stop_pays_what_is_owed_to_readers),
        cmocka_unit_test(test_R01_a_log_that_fails_is_not_asked_without_pause),
        on_sqlite(test_B20_a_reader_of_an_old_log_tells_its_lag),
        cmocka_unit_test(test_P08_a_full_store_is_not_called_a_full_queue),
        cmocka_unit_test(test_R03_a_process_without_descriptors_is_told_so),
        cmocka_unit_test(test_H09_a_stop_that_must_wait_for_the_storage_sleeps),
        cmocka_unit_test(test_H09_a_stop_may_meet_a_start),
        on_every_store(test_H09_a_stepped_stop_keeps_its_deadline),
        on_sqlite(test_L07_two_instances_on_a_log_that_fails_now_and_then),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
