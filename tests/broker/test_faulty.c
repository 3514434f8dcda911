/*
 * Brokers on stores that fail (fanfare/fault.h): whatever the store answers, and whenever, what was
 * acknowledged is stored, what is stored was attempted, each once; every event comes to its end
 * with every group; readers see all of it in order. A run follows from its seed, but for the order
 * in which threads come; FANFARE_SEED repeats one, FANFARE_SOAK=1 runs many.
 */
#include "../seed.h"
#include "support.h"

#include "base/thread.h"

#include <inttypes.h>

#include <fanfare/fault.h>

/* The seed that was asked for, or so many; many more in a soak. */
static void each_seed(uint64_t count, const char *scheme, void (*run)(const char *, uint64_t))
{
    const char *only = getenv("FANFARE_SEED");
    if (test_is_soak())
        count *= 50;
    uint64_t first = only ? strtoull(only, NULL, 10) : 1;
    for (uint64_t seed = first; seed < (only ? first + 1 : first + count); seed++)
        run(scheme, seed);
}

#define CHECK(seed, condition)                                                                     \
    do {                                                                                           \
        if (!(condition))                                                                          \
            fail_msg("FANFARE_SEED=%" PRIu64 ": not so: %s", (uint64_t)(seed), #condition);        \
    } while (0)

static struct fan_broker *broker_over(struct fan_store *store, bool stepped)
{
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    struct fan_broker *broker = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    options.store = store;
    options.stepped = stepped;
    if (fan_broker_open(NULL, &options, &broker, &error) != FAN_OK)
        fail_msg("%s: %s", error.field, error.message);
    assert_ok(fan_broker_start(broker));
    return broker;
}

static void test_L06_a_log_outlives_a_broker_that_crashed(void **state)
{
    struct place *place = *state;
    struct fan_store *inner = NULL;
    struct fan_store *store = NULL;
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c", .id = "one" };
    assert_ok(fan_store_open(place->uri, NULL, &inner, NULL));
    assert_ok(fan_fault_wrap(inner, "append.crash_done=100%", NULL, &store, NULL));
    struct fan_broker *broker = broker_over(store, true);
    assert_int_not_equal(fan_broker_publish(broker, &draft, NULL, NULL), FAN_OK);
    assert_true(fan_fault_crashed(store));
    draft.id = "two";
    assert_int_equal(fan_broker_publish(broker, &draft, NULL, NULL), FAN_IO);
    fan_broker_free(broker);
    fan_store_close(store);

    struct fan_cursor cursor;
    broker = broker_over(inner, true);
    assert_ok(fan_broker_publish(broker, &draft, &cursor, NULL));
    assert_int_equal(cursor.seq, 2);
    assert_int_equal(cursor.epoch, fan_store_epoch(inner));
    fan_broker_free(broker);
    uint64_t head_seq = 0;
    assert_ok(fan_store_head(inner, &head_seq));
    assert_int_equal(head_seq, 2);
    fan_store_close(inner);
}

static void test_P15_a_broker_takes_a_store_or_a_uri(void **state)
{
    (void)state;
    struct fan_store *store = NULL;
    struct fan_broker *broker = NULL;
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    struct fan_error error = FAN_ERROR_INIT;
    assert_int_equal(fan_broker_open(NULL, &options, &broker, &error), FAN_INVALID);
    assert_string_equal(error.field, "uri");
    assert_ok(fan_store_open("memory:", NULL, &store, NULL));
    options.store = store;
    assert_int_equal(fan_broker_open("memory:", &options, &broker, &error), FAN_INVALID);
    assert_string_equal(error.field, "store");
    fan_store_close(store);
}

/* One publish after the other on a stepped broker, and what it was answered. */
struct asked {
    enum fan_status status;
    struct fan_cursor cursor;
    unsigned count; /* how often */
};

#define ASKED_MAX 40

struct answers {
    uint64_t seed;
    uint64_t random;
    struct fan_store *inner;
    struct fan_store *store;
    struct fan_broker *broker;
    struct asked asked[ASKED_MAX];
    uint64_t acknowledged; /* answers */
};

static void note_answer(void *context, const struct fan_published *published)
{
    struct asked *asked = context;
    asked->status = published->status;
    asked->cursor = published->cursor;
    assert_int_equal(published->error->status, published->status);
}

static void ask(struct answers *answers, size_t number)
{
    struct asked *asked = &answers->asked[number];
    char id[32];
    snprintf(id, sizeof(id), "event-%zu", number);
    const struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE,
                                           .type = "a.b.c",
                                           .id = id };
    asked->count++;
    if (test_pick(&answers->random, 2)) {
        struct fan_error error = FAN_ERROR_INIT;
        asked->status = fan_broker_publish(answers->broker, &draft, &asked->cursor, &error);
        CHECK(answers->seed, asked->status == error.status);
    } else {
        assert_ok(fan_broker_publish_async(answers->broker, &draft, note_answer, asked, NULL));
        assert_ok(fan_broker_step(answers->broker));
    }
    answers->acknowledged += asked->status == FAN_OK;
}

/* Whether what was answered is so; who was left in doubt may publish again. */
static void check_answer(struct answers *answers, size_t number, struct fan_batch *batch)
{
    struct asked *asked = &answers->asked[number];
    char id[32];
    snprintf(id, sizeof(id), "event-%zu", number);
    enum fan_status status = fan_store_get(answers->inner, id, batch, NULL);
    if (asked->status == FAN_OK) {
        CHECK(answers->seed, status == FAN_OK);
        CHECK(answers->seed, fan_event_seq(fan_batch_event(batch, 0)) == asked->cursor.seq);
    } else if (asked->status != FAN_UNKNOWN && asked->count == 1) {
        CHECK(answers->seed, status == FAN_NOT_FOUND);
    }
}

static void run_answers(const char *uri, uint64_t seed)
{
    static struct answers answers;
    struct fan_batch *batch = NULL;
    char faults[128];
    answers = (struct answers){ .seed = seed, .random = seed };
    snprintf(faults, sizeof(faults),
             "seed=%" PRIu64 ",append.errors=25%%,append.unknown=25%%,"
             "append.torn=10%%,read.errors=20%%,head.errors=20%%",
             seed);
    assert_ok(fan_batch_new(NULL, &batch));
    assert_ok(fan_store_open(uri, NULL, &answers.inner, NULL));
    assert_ok(fan_fault_wrap(answers.inner, NULL, NULL, &answers.store, NULL));
    answers.broker = broker_over(answers.store, true);
    struct fan_reader *reader =
        subscribe_from(answers.broker, FAN_START_BEGINNING, (struct fan_cursor){ 0, 0 });
    assert_ok(fan_fault_set(answers.store, faults, NULL));
    for (size_t i = 0; i < ASKED_MAX; i++) {
        ask(&answers, i);
        check_answer(&answers, i, batch);
        size_t other = test_pick(&answers.random, i + 1);
        ask(&answers, other);
        check_answer(&answers, other, batch);
    }
    assert_ok(fan_fault_set(answers.store, NULL, NULL));
    while (fan_broker_step(answers.broker) == FAN_OK)
        ;
    struct fan_broker_stats stats = { .size = sizeof(stats) };
    struct fan_store_stats stored = { .size = sizeof(stored) };
    fan_broker_stats(answers.broker, &stats);
    assert_ok(fan_store_stats(answers.inner, &stored));
    uint64_t last_seq = 0;
    uint64_t seen = 0;
    const struct fan_event *event;
    while (fan_reader_next(reader, 0, &event) == FAN_OK) {
        CHECK(seed, fan_event_seq(event) > last_seq);
        last_seq = fan_event_seq(event);
        seen++;
    }
    CHECK(seed, seen == stored.events);
    CHECK(seed, stats.published <= stored.events);
    CHECK(seed, stats.published + stats.duplicates == answers.acknowledged);
    fan_reader_free(reader);
    fan_broker_free(answers.broker);
    fan_store_close(answers.store);
    fan_store_close(answers.inner);
    fan_batch_free(batch);
}

static void run_answers_in(const char *scheme, uint64_t seed)
{
    struct place place;
    place_make(&place, scheme);
    run_answers(place.uri, seed);
    place_remove(&place);
}

static void test_L06_L09_what_publishers_are_told_is_so(void **state)
{
    each_seed(strcmp(*state, "memory") == 0 ? 300 : 10, *state, run_answers_in);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_every_store(test_L06_a_log_outlives_a_broker_that_crashed),
        on_every_scheme(test_L06_L09_what_publishers_are_told_is_so),
        cmocka_unit_test(test_P15_a_broker_takes_a_store_or_a_uri),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
