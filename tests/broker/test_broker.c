/*
 * Publishing: order, durability before notice, idempotence, units, queues, deadlines, life and
 * death.
 */
#include "support.h"

#include "base/status.h"
#include "base/thread.h"

#include "store/memory/memory.h"

#include <fanfare/batch.h>

#include <sys/wait.h>

#define PUBLISHERS 8
#define PER_PUBLISHER 100

static void test_B17_sequences_start_at_1_and_rise(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    assert_int_equal(publish(broker, "public.users.create", NULL), 1);
    assert_int_equal(publish(broker, "public.users.create", NULL), 2);
    fan_broker_free(broker);
}

static void test_L06_who_sees_an_event_finds_it_stored(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    struct fan_reader *reader = subscribe_from(broker, FAN_START_NOW, (struct fan_cursor){ 0, 0 });
    struct fan_batch *batch;
    assert_ok(fan_batch_new(NULL, &batch));
    for (int i = 0; i < 20; i++) {
        struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
        assert_ok(fan_broker_publish_async(broker, &draft, NULL, NULL, NULL));
        const struct fan_event *event;
        assert_ok(fan_reader_next(reader, 10000, &event));
        fan_batch_clear(batch);
        assert_ok(fan_store_get(fan_broker_store(broker), fan_event_id(event), batch, NULL));
        assert_int_equal(fan_event_seq(fan_batch_event(batch, 0)), fan_event_seq(event));
    }
    fan_batch_free(batch);
    fan_reader_free(reader);
    fan_broker_free(broker);
}

/* The memory provider, but its appends fail while `broken` and hang while `stalled`. */
static struct {
    struct fan_provider provider;
    struct fan__mutex mutex;
    struct fan__cond changed;
    enum fan_status broken;
    bool stalled;
    int stalling;
} faulty;

static enum fan_status faulty_append(void *self, struct fan_append *items, size_t count,
                                     struct fan_error *error)
{
    fan__mutex_lock(&faulty.mutex);
    faulty.stalling++;
    fan__cond_broadcast(&faulty.changed);
    while (faulty.stalled)
        fan__cond_wait(&faulty.changed, &faulty.mutex);
    faulty.stalling--;
    enum fan_status status = faulty.broken;
    if (status == FAN_UNKNOWN) {
        /* It was stored, but the answer got lost: once. */
        faulty.broken = FAN_OK;
        assert_ok(fan__memory_provider.append(self, items, count, error));
    }
    fan__mutex_unlock(&faulty.mutex);
    if (status == FAN_NO_SPACE)
        return fan__fail(error, status, "", "the disk of the test is full");
    return status == FAN_OK ? fan__memory_provider.append(self, items, count, error) : status;
}

static struct fan_broker *faulty_started(size_t queue_count_max, uint32_t publish_timeout_ms)
{
    faulty.provider = fan__memory_provider;
    faulty.provider.append = faulty_append;
    fan__mutex_init(&faulty.mutex);
    fan__cond_init(&faulty.changed);
    faulty.broken = FAN_OK;
    faulty.stalled = false;
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    options.provider = &faulty.provider;
    options.queue_count_max = queue_count_max;
    options.publish_timeout_ms = publish_timeout_ms;
    struct fan_broker *broker = NULL;
    assert_ok(fan_broker_open("memory:", &options, &broker, NULL));
    assert_ok(fan_broker_start(broker));
    return broker;
}

static void faulty_set(enum fan_status broken, bool stalled)
{
    fan__mutex_lock(&faulty.mutex);
    faulty.broken = broken;
    faulty.stalled = stalled;
    fan__cond_broadcast(&faulty.changed);
    fan__mutex_unlock(&faulty.mutex);
}

/* Puts one event into a stalled append, so that the writer is busy until the stall ends. */
static void stall_writer(struct fan_broker *broker)
{
    faulty_set(FAN_OK, true);
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
    assert_ok(fan_broker_publish_async(broker, &draft, NULL, NULL, NULL));
    fan__mutex_lock(&faulty.mutex);
    while (faulty.stalling == 0)
        fan__cond_wait(&faulty.changed, &faulty.mutex);
    fan__mutex_unlock(&faulty.mutex);
}

static void test_L06_a_store_failure_is_told_to_the_publisher_alone(void **state)
{
    (void)state;
    struct fan_broker *broker = faulty_started(0, 0);
    struct fan_reader *reader = subscribe_from(broker, FAN_START_NOW, (struct fan_cursor){ 0, 0 });
    faulty_set(FAN_NO_SPACE, false);
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
    struct fan_error error = FAN_ERROR_INIT;
    assert_int_equal(fan_broker_publish(broker, &draft, NULL, &error), FAN_NO_SPACE);
    assert_int_equal(error.status, FAN_NO_SPACE);
    assert_string_equal(error.message, "the disk of the test is full");
    const struct fan_event *event;
    assert_int_equal(fan_reader_next(reader, 0, &event), FAN_AGAIN);
    faulty_set(FAN_OK, false);
    assert_int_equal(publish(broker, "a.b.d", NULL), 1);
    assert_ok(fan_reader_next(reader, 10000, &event));
    assert_string_equal(fan_event_type(event), "a.b.d");
    fan_reader_free(reader);
    fan_broker_free(broker);
}

static void test_L09_an_unclear_answer_is_asked_again_with_the_same_id(void **state)
{
    (void)state;
    struct fan_broker *broker = faulty_started(0, 0);
    struct fan_reader *reader = subscribe_from(broker, FAN_START_NOW, (struct fan_cursor){ 0, 0 });
    faulty_set(FAN_UNKNOWN, false);
    /* Its own first try made it a duplicate; subscribers see it all the same, once and in order. */
    assert_int_equal(publish(broker, "a.b.c", NULL), 1);
    assert_int_equal(next_seq(reader), 1);
    assert_int_equal(publish(broker, "a.b.d", NULL), 2);
    assert_int_equal(next_seq(reader), 2);
    fan_reader_free(reader);
    fan_broker_free(broker);
}

static void test_L09_an_id_published_again_gives_the_first_cursor(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    struct fan_reader *reader = subscribe_from(broker, FAN_START_NOW, (struct fan_cursor){ 0, 0 });
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c", .id = "one" };
    struct fan_cursor first;
    struct fan_cursor again;
    assert_ok(fan_broker_publish(broker, &draft, &first, NULL));
    publish(broker, "a.b.d", NULL);
    assert_ok(fan_broker_publish(broker, &draft, &again, NULL));
    assert_int_equal(again.seq, first.seq);
    publish(broker, "a.b.e", NULL);
    assert_int_equal(next_seq(reader), 1);
    assert_int_equal(next_seq(reader), 2);
    assert_int_equal(next_seq(reader), 3);
    struct fan_broker_stats stats = { .size = sizeof(stats) };
    fan_broker_stats(broker, &stats);
    assert_int_equal(stats.published, 3);
    assert_int_equal(stats.duplicates, 1);
    fan_reader_free(reader);
    fan_broker_free(broker);
}

struct answers {
    struct fan__mutex mutex;
    struct fan__cond changed;
    size_t count;
    size_t refused;
    uint64_t last_seq;
    struct fan_broker *broker;
};

static void answers_init(struct answers *answers)
{
    *answers = (struct answers){ .count = 0 };
    fan__mutex_init(&answers->mutex);
    fan__cond_init(&answers->changed);
}

static void answer(void *context, const struct fan_published *published)
{
    struct answers *answers = context;
    fan__mutex_lock(&answers->mutex);
    answers->count++;
    if (published->status == FAN_OK) {
        assert_true(published->cursor.seq > answers->last_seq);
        answers->last_seq = published->cursor.seq;
    } else {
        assert_int_equal(published->error->status, published->status);
        answers->refused++;
    }
    fan__cond_broadcast(&answers->changed);
    fan__mutex_unlock(&answers->mutex);
}

static void answers_wait(struct answers *answers, size_t count)
{
    fan__mutex_lock(&answers->mutex);
    while (answers->count < count)
        fan__cond_wait(&answers->changed, &answers->mutex);
    fan__mutex_unlock(&answers->mutex);
}

static void test_H01_publish_async_answers_in_order_and_says_full_at_once(void **state)
{
    (void)state;
    struct fan_broker *broker = faulty_started(4, 0);
    struct answers answers;
    answers_init(&answers);
    stall_writer(broker);
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
    for (int i = 0; i < 4; i++)
        assert_ok(fan_broker_publish_async(broker, &draft, answer, &answers, NULL));
    struct fan_error error = FAN_ERROR_INIT;
    assert_int_equal(fan_broker_publish_async(broker, &draft, answer, &answers, &error), FAN_FULL);
    assert_int_equal(error.status, FAN_FULL);
    faulty_set(FAN_OK, false);
    answers_wait(&answers, 4);
    assert_int_equal(answers.last_seq, 5);
    assert_int_equal(answers.refused, 0);
    fan_broker_free(broker);
}

static void test_L01_a_publisher_gets_its_answer_within_its_deadline(void **state)
{
    (void)state;
    struct fan_broker *broker = faulty_started(1, 20);
    stall_writer(broker);
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c", .id = "late" };
    struct fan_error error = FAN_ERROR_INIT;
    assert_int_equal(fan_broker_publish(broker, &draft, NULL, &error), FAN_TIMED_OUT);
    assert_ok(fan_broker_publish_async(broker, &draft, NULL, NULL, NULL));
    assert_int_equal(fan_broker_publish(broker, &draft, NULL, &error), FAN_FULL);
    faulty_set(FAN_OK, false);
    struct fan_cursor cursor;
    draft.id = "later";
    assert_ok(fan_broker_publish(broker, &draft, &cursor, NULL));
    assert_int_equal(cursor.seq, 3);
    fan_broker_free(broker);
}

static void publish_in_answer(void *context, const struct fan_published *published)
{
    struct answers *answers = context;
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.d" };
    fan__mutex_lock(&answers->mutex);
    answers->count++;
    answers->last_seq = published->cursor.seq;
    answers->refused += fan_broker_publish(answers->broker, &draft, NULL, NULL) == FAN_MISUSE;
    fan__cond_broadcast(&answers->changed);
    fan__mutex_unlock(&answers->mutex);
}

static void test_H01_waiting_in_a_call_back_is_a_typed_error(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    struct answers answers;
    answers_init(&answers);
    answers.broker = broker;
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
    assert_ok(fan_broker_publish_async(broker, &draft, publish_in_answer, &answers, NULL));
    answers_wait(&answers, 1);
    assert_int_equal(answers.refused, 1);
    assert_int_equal(publish(broker, "a.b.c", NULL), 2);
    fan_broker_free(broker);
}

struct publisher {
    struct fan__thread thread;
    struct fan_broker *broker;
    uint64_t last_seq;
};

static void publish_many(void *context)
{
    struct publisher *publisher = context;
    for (int i = 0; i < PER_PUBLISHER; i++) {
        uint64_t seq = publish(publisher->broker, "a.b.c", NULL);
        assert_true(seq > publisher->last_seq);
        publisher->last_seq = seq;
    }
}

static void test_L02_concurrent_publishers_share_commits_and_readers_see_rising(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    struct fan_reader *reader = subscribe_from(broker, FAN_START_NOW, (struct fan_cursor){ 0, 0 });
    struct publisher publishers[PUBLISHERS] = { 0 };
    for (int i = 0; i < PUBLISHERS; i++) {
        publishers[i].broker = broker;
        assert_ok(
            fan__thread_start(&publishers[i].thread, "publisher", publish_many, &publishers[i]));
    }
    for (uint64_t seq = 1; seq <= PUBLISHERS * PER_PUBLISHER; seq++)
        assert_int_equal(next_seq(reader), seq);
    for (int i = 0; i < PUBLISHERS; i++)
        fan__thread_join(&publishers[i].thread);
    struct fan_broker_stats stats = { .size = sizeof(stats) };
    fan_broker_stats(broker, &stats);
    assert_int_equal(stats.published, PUBLISHERS * PER_PUBLISHER);
    assert_int_equal(stats.notified_seq, PUBLISHERS * PER_PUBLISHER);
    fan_reader_free(reader);
    fan_broker_free(broker);
}

static void test_P23_a_unit_is_stored_whole_or_not_at_all(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    struct fan_event_draft drafts[2] = {
        { .size = FAN_EVENT_DRAFT_SIZE, .type = "run.step.start", .topic = "album:1" },
        { .size = FAN_EVENT_DRAFT_SIZE, .type = "run.step.done", .topic = "album:1" },
    };
    struct fan_expectation expectation = { .size = sizeof(expectation), .key = "album:1" };
    struct fan_unit unit = {
        .size = FAN_UNIT_SIZE, .drafts = drafts, .count = 2, .expectation = &expectation
    };
    struct fan_cursor cursors[2];
    assert_ok(fan_broker_publish_unit(broker, &unit, cursors, NULL));
    assert_int_equal(cursors[1].seq, cursors[0].seq + 1);
    struct fan_error error = FAN_ERROR_INIT;
    assert_int_equal(fan_broker_publish_unit(broker, &unit, cursors, &error), FAN_CONFLICT);
    struct fan_broker_stats stats = { .size = sizeof(stats) };
    fan_broker_stats(broker, &stats);
    assert_int_equal(stats.published, 2);
    expectation.last_seq = cursors[1].seq;
    assert_ok(fan_broker_publish_unit(broker, &unit, cursors, NULL));
    drafts[1].type = "no..type";
    assert_int_equal(fan_broker_publish_unit(broker, &unit, cursors, &error), FAN_INVALID);
    assert_string_equal(error.field, "drafts[1].type");
    fan_broker_free(broker);
}

static void test_P02_a_bad_event_names_its_field_and_stores_nothing(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE };
    assert_int_equal(fan_broker_publish(broker, &draft, NULL, &error), FAN_INVALID);
    assert_string_equal(error.field, "type");
    draft.type = "a.b.c";
    draft.payload = (struct fan_str)FAN_STR("{\"open\": ");
    assert_int_equal(fan_broker_publish(broker, &draft, NULL, &error), FAN_INVALID);
    assert_string_equal(error.field, "payload");
    uint64_t head = 99;
    assert_ok(fan_store_head(fan_broker_store(broker), &head));
    assert_int_equal(head, 0);
    fan_broker_free(broker);
}

static void test_H09_life_is_open_start_stop(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_open(place);
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
    struct fan_error error = FAN_ERROR_INIT;
    assert_int_equal(fan_broker_publish(broker, &draft, NULL, &error), FAN_MISUSE);
    assert_ok(fan_broker_start(broker));
    assert_int_equal(fan_broker_start(broker), FAN_MISUSE);
    struct answers answers;
    answers_init(&answers);
    for (int i = 0; i < 500; i++)
        assert_ok(fan_broker_publish_async(broker, &draft, answer, &answers, NULL));
    assert_ok(fan_broker_stop(broker, 10000));
    assert_int_equal(answers.count, 500);
    assert_int_equal(answers.refused, 0);
    assert_ok(fan_broker_stop(broker, 10000));
    assert_int_equal(fan_broker_publish(broker, &draft, NULL, &error), FAN_CLOSED);
    assert_int_equal(fan_broker_start(broker), FAN_CLOSED);
    fan_broker_free(broker);
    fan_broker_free(NULL);
}

static void stop_soon(void *context)
{
    assert_int_equal(fan_broker_stop(context, 1), FAN_TIMED_OUT);
}

static void test_H09_a_stop_refuses_what_it_cannot_drain_in_time(void **state)
{
    (void)state;
    struct fan_broker *broker = faulty_started(0, 0);
    struct answers answers;
    answers_init(&answers);
    stall_writer(broker);
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
    for (int i = 0; i < 3; i++)
        assert_ok(fan_broker_publish_async(broker, &draft, answer, &answers, NULL));
    struct fan__thread stopper = { 0 };
    assert_ok(fan__thread_start(&stopper, "stopper", stop_soon, broker));
    answers_wait(&answers, 3);
    assert_int_equal(answers.refused, 3);
    faulty_set(FAN_OK, false);
    fan__thread_join(&stopper);
    fan_broker_free(broker);
}

static void test_R03_a_forked_child_gets_a_typed_error(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    struct fan_reader *reader = subscribe_from(broker, FAN_START_NOW, (struct fan_cursor){ 0, 0 });
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
        const struct fan_event *event;
        bool right = fan_broker_publish(broker, &draft, NULL, NULL) == FAN_FORKED &&
                     fan_broker_publish_async(broker, &draft, NULL, NULL, NULL) == FAN_FORKED &&
                     fan_broker_stop(broker, 0) == FAN_FORKED &&
                     fan_reader_next(reader, 0, &event) == FAN_FORKED;
        _exit(right ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    publish(broker, "a.b.c", NULL);
    fan_reader_free(reader);
    fan_broker_free(broker);
}

static void test_a_stepped_broker_works_on_the_callers_thread(void **state)
{
    struct place *place = *state;
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    options.stepped = true;
    struct fan_broker *broker = NULL;
    assert_ok(fan_broker_open(place->uri, &options, &broker, NULL));
    assert_ok(fan_broker_start(broker));
    assert_int_equal(fan_broker_step(broker), FAN_AGAIN);
    struct answers answers;
    answers_init(&answers);
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
    assert_ok(fan_broker_publish_async(broker, &draft, answer, &answers, NULL));
    assert_int_equal(answers.count, 0);
    assert_int_equal(publish(broker, "a.b.d", NULL), 2);
    assert_int_equal(answers.count, 1);
    assert_ok(fan_broker_publish_async(broker, &draft, answer, &answers, NULL));
    assert_ok(fan_broker_step(broker));
    assert_int_equal(answers.count, 2);
    assert_ok(fan_broker_publish_async(broker, &draft, answer, &answers, NULL));
    assert_ok(fan_broker_stop(broker, 1000));
    assert_int_equal(answers.count, 3);
    assert_int_equal(answers.refused, 0);
    fan_broker_free(broker);
}

struct failing {
    struct fan_env env;
    struct fan__mutex mutex;
    long left;
};

static void *failing_resize(void *context, void *pointer, size_t size)
{
    struct failing *failing = context;
    fan__mutex_lock(&failing->mutex);
    bool fails = failing->left == 0;
    if (failing->left > 0)
        failing->left--;
    fan__mutex_unlock(&failing->mutex);
    return fails ? NULL : realloc(pointer, size);
}

/* Opens, publishes and reads with the n-th allocation and all after it failing, for every n. */
static void test_R03_every_failed_allocation_is_a_typed_error(void **state)
{
    bool whole = false;
    for (long n = 0; !whole; n++) {
        struct place place;
        place_make(&place, *state);
        struct failing failing = { .env = *fan_env_default(), .left = n };
        fan__mutex_init(&failing.mutex);
        failing.env.context = &failing;
        failing.env.resize = failing_resize;
        struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
        options.env = &failing.env;
        options.stepped = true;
        struct fan_broker *broker = NULL;
        struct fan_reader *reader = NULL;
        struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
        const struct fan_event *event = NULL;
        enum fan_status status = fan_broker_open(place.uri, &options, &broker, NULL);
        if (status == FAN_OK)
            status = fan_broker_start(broker);
        if (status == FAN_OK)
            status = fan_broker_subscribe(broker, NULL, &reader, NULL);
        if (status == FAN_OK)
            status = fan_broker_publish(broker, &draft, NULL, NULL);
        if (status == FAN_OK)
            status = fan_reader_next(reader, 0, &event);
        assert_true(status == FAN_OK || status == FAN_NO_MEMORY);
        whole = status == FAN_OK;
        fan_reader_free(reader);
        fan_broker_free(broker);
        fan__mutex_deinit(&failing.mutex);
        place_remove(&place);
        assert_true(n < 10000);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_every_store(test_B17_sequences_start_at_1_and_rise),
        on_every_store(test_L06_who_sees_an_event_finds_it_stored),
        cmocka_unit_test(test_L06_a_store_failure_is_told_to_the_publisher_alone),
        cmocka_unit_test(test_L09_an_unclear_answer_is_asked_again_with_the_same_id),
        on_every_store(test_L09_an_id_published_again_gives_the_first_cursor),
        cmocka_unit_test(test_H01_publish_async_answers_in_order_and_says_full_at_once),
        on_every_store(test_H01_waiting_in_a_call_back_is_a_typed_error),
        cmocka_unit_test(test_L01_a_publisher_gets_its_answer_within_its_deadline),
        on_every_store(test_L02_concurrent_publishers_share_commits_and_readers_see_rising),
        on_every_store(test_P23_a_unit_is_stored_whole_or_not_at_all),
        on_every_store(test_P02_a_bad_event_names_its_field_and_stores_nothing),
        on_every_store(test_H09_life_is_open_start_stop),
        cmocka_unit_test(test_H09_a_stop_refuses_what_it_cannot_drain_in_time),
        on_every_store(test_R03_a_forked_child_gets_a_typed_error),
        on_every_store(test_a_stepped_broker_works_on_the_callers_thread),
        on_every_scheme(test_R03_every_failed_allocation_is_a_typed_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
