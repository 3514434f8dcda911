/*
 * Readers: replay, live, and the seam between them while publishers run; gaps, ends, descriptors.
 */
#include "support.h"

#include "base/high.h"
#include "base/thread.h"

#include <poll.h>

#define WRITERS 4
#define PER_WRITER 500

static const struct fan_cursor start_of_log = { 0, 0 };

static void test_L07_replay_meets_live_while_publishers_run(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    publish_times(broker, 100);
    struct fan_reader *readers[3];
    for (int r = 0; r < 3; r++)
        readers[r] = NULL;
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
    uint64_t seen[3] = { 0, 0, 0 };
    uint64_t total = 100;
    for (int round = 0; round < 60; round++) {
        if (round % 20 == 0) {
            struct fan_reader_options options = { .size = FAN_READER_OPTIONS_SIZE,
                                                  .start = FAN_START_BEGINNING,
                                                  .buffer_count = 16 };
            assert_ok(fan_broker_subscribe(broker, &options, &readers[round / 20], NULL));
        }
        for (int i = 0; i < 40; i++, total++)
            assert_ok(fan_broker_publish_async(broker, &draft, NULL, NULL, NULL));
        for (int r = 0; r <= round / 20; r++)
            for (int i = 0; i < 30; i++)
                assert_int_equal(next_seq(readers[r]), ++seen[r]);
    }
    uint64_t refills = 0;
    for (int r = 0; r < 3; r++) {
        while (seen[r] < total)
            assert_int_equal(next_seq(readers[r]), ++seen[r]);
        struct fan_reader_stats stats = { .size = sizeof(stats) };
        fan_reader_stats(readers[r], &stats);
        assert_int_equal(stats.delivered, total);
        assert_int_equal(stats.gaps, 0);
        refills += stats.refills;
        fan_reader_free(readers[r]);
    }
    assert_true(refills > 0);
    fan_broker_free(broker);
}

struct writer {
    struct fan__thread thread;
    struct fan_broker *broker;
};

static void write_many(void *context)
{
    struct writer *writer = context;
    for (int i = 0; i < PER_WRITER; i++)
        publish(writer->broker, "a.b.c", i % 2 ? "odd" : "even");
}

static void test_B18_refill_loses_nothing_with_a_tiny_ring(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    struct fan_reader_options options = { .size = FAN_READER_OPTIONS_SIZE,
                                          .topic = "odd",
                                          .buffer_count = 2 };
    struct fan_reader *reader = NULL;
    assert_ok(fan_broker_subscribe(broker, &options, &reader, NULL));
    struct writer writers[WRITERS] = { 0 };
    for (int i = 0; i < WRITERS; i++) {
        writers[i].broker = broker;
        assert_ok(fan__thread_start(&writers[i].thread, "writer", write_many, &writers[i]));
    }
    uint64_t last = 0;
    for (int i = 0; i < WRITERS * PER_WRITER / 2; i++) {
        uint64_t seq = next_seq(reader);
        assert_true(seq > last);
        last = seq;
    }
    for (int i = 0; i < WRITERS; i++)
        fan__thread_join(&writers[i].thread);
    const struct fan_event *event;
    assert_int_equal(fan_reader_next(reader, 0, &event), FAN_AGAIN);
    struct fan_reader_stats stats = { .size = sizeof(stats) };
    fan_reader_stats(reader, &stats);
    assert_int_equal(stats.delivered, WRITERS * PER_WRITER / 2);
    fan_reader_free(reader);
    fan_broker_free(broker);
}

static void test_L04_a_lossy_reader_is_told_its_loss_in_band(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    struct fan_reader_options options = { .size = FAN_READER_OPTIONS_SIZE,
                                          .policy = FAN_POLICY_DROP_OLDEST,
                                          .buffer_count = 2 };
    struct fan_reader *reader = NULL;
    assert_ok(fan_broker_subscribe(broker, &options, &reader, NULL));
    publish_times(broker, 6);
    const struct fan_event *event;
    assert_int_equal(fan_reader_next(reader, 0, &event), FAN_GAP);
    struct fan_gap gap;
    fan_reader_gap(reader, &gap);
    assert_int_equal(gap.after, 0);
    assert_int_equal(gap.before, 5);
    assert_int_equal(gap.count, 4);
    assert_int_equal(gap.reason, FAN_GAP_OVERFLOW);
    assert_int_equal(next_seq(reader), 5);
    assert_int_equal(next_seq(reader), 6);
    fan_reader_free(reader);
    fan_broker_free(broker);
}

static void test_P13_a_cursor_goes_on_behind_what_it_names(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    publish_times(broker, 5);
    struct fan_reader *reader = subscribe_from(broker, FAN_START_BEGINNING, start_of_log);
    next_seq(reader);
    next_seq(reader);
    struct fan_cursor cursor;
    fan_reader_cursor(reader, &cursor);
    assert_int_equal(cursor.seq, 2);
    fan_reader_free(reader);
    reader = subscribe_from(broker, FAN_START_CURSOR, cursor);
    assert_int_equal(next_seq(reader), 3);
    fan_reader_free(reader);
    cursor.epoch = 0;
    reader = subscribe_from(broker, FAN_START_CURSOR, cursor);
    assert_int_equal(next_seq(reader), 3);
    fan_reader_free(reader);
    fan_broker_free(broker);
}

static void test_P13_a_cursor_of_another_log_is_told_and_starts_over(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    publish(broker, "a.b.c", NULL);
    publish(broker, "a.b.c", NULL);
    uint64_t epoch = fan_store_epoch(fan_broker_store(broker));
    const struct fan_cursor strange[] = { { 1, epoch ^ 1 }, { 77, 0 }, { 77, epoch } };
    for (size_t i = 0; i < sizeof(strange) / sizeof(strange[0]); i++) {
        struct fan_reader *reader = subscribe_from(broker, FAN_START_CURSOR, strange[i]);
        const struct fan_event *event;
        assert_int_equal(fan_reader_next(reader, 10000, &event), FAN_GAP);
        struct fan_gap gap;
        fan_reader_gap(reader, &gap);
        assert_int_equal(gap.reason, FAN_GAP_EPOCH);
        assert_int_equal(gap.after, strange[i].seq);
        assert_int_equal(gap.before, 1);
        assert_true(gap.count == FAN_GAP_COUNT_UNKNOWN);
        assert_int_equal(next_seq(reader), 1);
        assert_int_equal(next_seq(reader), 2);
        assert_int_equal(fan_reader_next(reader, 0, &event), FAN_AGAIN);
        fan_reader_free(reader);
    }
    fan_broker_free(broker);
}

static void test_L07_a_reader_goes_on_after_a_restart(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    publish_times(broker, 3);
    struct fan_reader *reader = subscribe_from(broker, FAN_START_BEGINNING, start_of_log);
    assert_int_equal(next_seq(reader), 1);
    struct fan_cursor cursor;
    fan_reader_cursor(reader, &cursor);
    fan_reader_free(reader);
    fan_broker_free(broker);
    broker = broker_started(place);
    reader = subscribe_from(broker, FAN_START_CURSOR, cursor);
    publish(broker, "a.b.d", NULL);
    for (uint64_t seq = 2; seq <= 4; seq++)
        assert_int_equal(next_seq(reader), seq);
    fan_reader_free(reader);
    fan_broker_free(broker);
}

static void test_L07_what_another_instance_appends_is_heard_live(void **state)
{
    struct place *place = *state;
    struct fan_broker *here = broker_started(place);
    struct fan_broker *there = broker_started(place);
    struct fan_reader *reader = subscribe_from(here, FAN_START_NOW, start_of_log);
    publish(there, "a.b.c", NULL);
    assert_int_equal(next_seq(reader), 1);
    publish(there, "a.b.c", NULL);
    publish(here, "a.b.c", NULL);
    publish(there, "a.b.c", NULL);
    for (uint64_t seq = 2; seq <= 4; seq++)
        assert_int_equal(next_seq(reader), seq);
    fan_reader_free(reader);
    fan_broker_free(here);
    fan_broker_free(there);
}

static void test_L05_stop_lets_readers_finish_and_ends_them(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    struct fan_reader *live = subscribe_from(broker, FAN_START_NOW, start_of_log);
    struct fan_reader *behind = subscribe_from(broker, FAN_START_BEGINNING, start_of_log);
    publish_times(broker, 10);
    assert_ok(fan_broker_stop(broker, 1000));
    for (uint64_t seq = 1; seq <= 10; seq++) {
        assert_int_equal(next_seq(live), seq);
        assert_int_equal(next_seq(behind), seq);
    }
    const struct fan_event *event;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(fan_reader_next(live, FAN_TIMEOUT_FOREVER, &event), FAN_CLOSED);
        assert_int_equal(fan_reader_next(behind, FAN_TIMEOUT_FOREVER, &event), FAN_CLOSED);
    }
    struct fan_reader *late = NULL;
    assert_int_equal(fan_broker_subscribe(broker, NULL, &late, NULL), FAN_CLOSED);
    fan_reader_free(live);
    fan_reader_free(behind);
    fan_broker_free(broker);
}

static void unsubscribe(void *context)
{
    fan_reader_unsubscribe(context);
}

static void test_L05_unsubscribe_ends_a_waiting_reader(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    struct fan_reader *reader = subscribe_from(broker, FAN_START_NOW, start_of_log);
    struct fan__thread thread = { 0 };
    assert_ok(fan__thread_start(&thread, "unsubscribe", unsubscribe, reader));
    const struct fan_event *event;
    assert_int_equal(fan_reader_next(reader, FAN_TIMEOUT_FOREVER, &event), FAN_CLOSED);
    fan__thread_join(&thread);
    publish(broker, "a.b.c", NULL);
    assert_int_equal(fan_reader_next(reader, 0, &event), FAN_CLOSED);
    fan_reader_free(reader);

    struct fan_cancel *cancel;
    assert_ok(fan_cancel_new(NULL, &cancel));
    struct fan_reader_options options = { .size = FAN_READER_OPTIONS_SIZE,
                                          .start = FAN_START_BEGINNING,
                                          .cancel = cancel };
    assert_ok(fan_broker_subscribe(broker, &options, &reader, NULL));
    assert_int_equal(next_seq(reader), 1);
    fan_cancel_fire(cancel);
    assert_int_equal(fan_reader_next(reader, FAN_TIMEOUT_FOREVER, &event), FAN_CLOSED);
    fan_reader_free(reader);
    fan_cancel_unref(cancel);
    fan_broker_free(broker);
}

static bool readable(int fd)
{
    struct pollfd poller = { .fd = fd, .events = POLLIN };
    return poll(&poller, 1, 0) == 1;
}

static void test_B19_the_descriptor_is_readable_while_events_wait(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    publish(broker, "a.b.c", NULL);
    publish(broker, "a.b.c", NULL);
    struct fan_reader *reader = subscribe_from(broker, FAN_START_BEGINNING, start_of_log);
    int fd;
    assert_ok(fan_reader_fd(reader, &fd));
    assert_true(readable(fd));
    next_seq(reader);
    assert_true(readable(fd));
    next_seq(reader);
    const struct fan_event *event;
    assert_int_equal(fan_reader_next(reader, 0, &event), FAN_AGAIN);
    assert_false(readable(fd));
    publish(broker, "a.b.c", NULL);
    assert_true(readable(fd));
    assert_true(readable(fd));
    next_seq(reader);
    assert_int_equal(fan_reader_next(reader, 0, &event), FAN_AGAIN);
    assert_false(readable(fd));
    fan_reader_unsubscribe(reader);
    assert_true(readable(fd));
    fan_reader_free(reader);
    fan_broker_free(broker);
}

static void test_P02_bad_reader_options_name_their_field(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    struct fan_reader *reader = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_reader_options options = { .size = FAN_READER_OPTIONS_SIZE, .pattern = "a..b" };
    assert_int_equal(fan_broker_subscribe(broker, &options, &reader, &error), FAN_INVALID);
    assert_string_equal(error.field, "pattern");
    options.pattern = NULL;
    options.policy = FAN_POLICY_BLOCK;
    assert_int_equal(fan_broker_subscribe(broker, &options, &reader, &error), FAN_UNSUPPORTED);
    options.policy = FAN_POLICY_DEFAULT;
    options.size = 3;
    assert_int_equal(fan_broker_subscribe(broker, &options, &reader, &error), FAN_INVALID);
    fan_broker_free(broker);
}

static enum fan_verdict count_event(void *context, const struct fan_event *event,
                                    const struct fan_handling *handling)
{
    (void)event;
    (void)handling;
    fan__high_raise(context, fan__high_get(context) + 1);
    return FAN_VERDICT_DONE;
}

/* Claims the next event of the group and ends it. */
static void end_next(struct fan_store *store, const struct fan_group_name *name,
                     enum fan_verdict verdict)
{
    const struct fan_claim_options options = { .size = FAN_CLAIM_OPTIONS_SIZE, .owner = "me" };
    struct fan_batch *batch = NULL;
    struct fan_claim claim;
    assert_ok(fan_batch_new(NULL, &batch));
    assert_ok(fan_group_claim(store, name, &options, batch, &claim));
    struct fan_settle settle = { .seq = claim.seq, .token = claim.token, .verdict = verdict };
    assert_ok(fan_group_renew(store, name, &settle, 1, 60000));
    assert_ok(fan_group_settle(store, name, &settle, 1));
    assert_ok(settle.ret_status);
    fan_batch_free(batch);
}

/* All that can become of an event, but being published. */
static void change_states(struct fan_store *store)
{
    const struct fan_group_name name = { "workers", "" };
    const struct fan_group_options options = { .size = FAN_GROUP_OPTIONS_SIZE,
                                               .start = FAN_START_BEGINNING };
    const struct fan_retention retention = { .size = FAN_RETENTION_SIZE, .count = 5 };
    struct fan_retained retained = { .size = sizeof(retained) };
    uint64_t fence;
    assert_ok(fan_group_create(store, &name, &options, NULL));
    end_next(store, &name, FAN_VERDICT_DONE);
    end_next(store, &name, FAN_VERDICT_FAIL);
    end_next(store, &name, FAN_VERDICT_FAIL);
    end_next(store, &name, FAN_VERDICT_RETRY);
    end_next(store, &name, FAN_VERDICT_HAND_BACK);
    assert_ok(fan_group_move(store, &name, 2, FAN_EVENT_PENDING));
    assert_ok(fan_group_move(store, &name, 3, FAN_EVENT_COMPLETED));
    assert_ok(fan_store_erase(store, "event-2"));
    assert_ok(fan_store_delete(store, "event-3"));
    assert_ok(fan_lease_acquire(store, "lease", "me", 60000, &fence));
    assert_ok(fan_lease_release(store, "lease", "me", fence));
    assert_ok(fan_group_delete(store, &name));
    assert_ok(fan_store_retain(store, &retention, &retained, NULL));
    assert_true(retained.removed > 0);
}

static void test_P12_status_and_delete_notices_are_no_events(void **state)
{
    struct place *place = *state;
    struct fan__high handled = { 0 };
    struct fan_broker *broker = broker_started(place);
    struct fan_reader *reader = subscribe_from(broker, FAN_START_BEGINNING, start_of_log);
    const struct fan_handler_options options = { .size = FAN_HANDLER_OPTIONS_SIZE,
                                                 .handle = count_event,
                                                 .context = &handled };
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    for (int i = 1; i <= 10; i++) {
        char id[16];
        snprintf(id, sizeof(id), "event-%d", i);
        const struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE,
                                               .type = "a.b.c",
                                               .id = id };
        assert_ok(fan_broker_publish_sync(broker, &draft, NULL, NULL));
        assert_int_equal(next_seq(reader), i);
    }
    change_states(fan_broker_store(broker));
    /* What is published next is what comes next, to each of them. */
    const struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
    struct fan_cursor cursor;
    assert_ok(fan_broker_publish_sync(broker, &draft, &cursor, NULL));
    assert_int_equal(cursor.seq, 11);
    const struct fan_event *event = NULL;
    assert_ok(fan_reader_next(reader, 10000, &event));
    assert_int_equal(fan_event_seq(event), 11);
    assert_int_equal(fan_reader_next(reader, 0, &event), FAN_AGAIN);
    assert_int_equal(fan__high_get(&handled), 11);
    struct fan_broker_stats stats = { .size = sizeof(stats) };
    fan_broker_stats(broker, &stats);
    assert_int_equal(stats.published, 11);
    fan_reader_free(reader);
    fan_broker_free(broker);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_every_store(test_L07_replay_meets_live_while_publishers_run),
        on_every_store(test_B18_refill_loses_nothing_with_a_tiny_ring),
        on_every_store(test_L04_a_lossy_reader_is_told_its_loss_in_band),
        on_every_store(test_P13_a_cursor_goes_on_behind_what_it_names),
        on_every_store(test_P13_a_cursor_of_another_log_is_told_and_starts_over),
        on_sqlite(test_L07_a_reader_goes_on_after_a_restart),
        on_sqlite(test_L07_what_another_instance_appends_is_heard_live),
        on_every_store(test_L05_stop_lets_readers_finish_and_ends_them),
        on_every_store(test_L05_unsubscribe_ends_a_waiting_reader),
        on_every_store(test_B19_the_descriptor_is_readable_while_events_wait),
        on_every_store(test_P12_status_and_delete_notices_are_no_events),
        on_every_store(test_P02_bad_reader_options_name_their_field),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
