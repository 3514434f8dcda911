/*
 * What the event broker that this one grew from was tested for, and what it and its kin failed in.
 * Each behaviour, by its number, with the tests that prove it here; where the two differ, ours is
 * the law: patterns are by segment, a sync publish tells of the first attempt, an event's state
 * belongs to its deliveries. tests/house/test_seed.py checks that none is missing.
 *
 * Broker: built, started and stopped twice, sync, async, unstarted, retries, several handlers,
 * a removed one, counters, instance, many publishers, stop with work left, default policy, modes.
 *
 *   1  test_P07_H01_a_broker_needs_a_store_and_nothing_else
 *   2  test_H09_life_is_open_start_stop
 *   3  test_H01_H17_sync_runs_the_handler_and_counts
 *   4  test_H03_two_workers_handle_five_events
 *   5  test_H09_life_is_open_start_stop
 *   6  test_H01_H03_sync_tells_of_the_first_attempt_and_retries_go_on
 *   7  test_H02_H08_all_patterns_that_match_run_and_may_leave
 *   8  test_H02_H08_all_patterns_that_match_run_and_may_leave
 *   9  test_H01_H17_sync_runs_the_handler_and_counts
 *  10  test_P02_the_instance_is_the_brokers_own
 *  11  test_H03_fifty_publish_at_once_to_five_workers
 *  12  test_H09_stop_finishes_what_is_queued
 *  13  test_H03_the_policys_defaults_and_bounds
 *  14  test_H01_the_mode_decides_what_publish_waits_for
 *
 * Subscriptions: the table of patterns, one, two that overlap, ten threads of them, an unknown one,
 * a hundred, what a handler is given and what becomes of its error, exact beside "*".
 *
 *  15  test_H02_pattern_table test_H02_bad_patterns_are_refused_with_a_reason
 *  16  test_H02_H08_all_patterns_that_match_run_and_may_leave
 *  17  test_H02_H08_all_patterns_that_match_run_and_may_leave
 *  18  test_H08_ten_threads_add_and_remove_handlers
 *  19  P05_unknown_groups_are_not_found test_H08_a_hundred_handlers_are_a_hundred
 *  20  test_H08_a_hundred_handlers_are_a_hundred
 *  21  test_L11_a_handler_gets_what_was_published test_H01_sync_tells_that_a_handler_failed
 *  22  test_H02_H08_all_patterns_that_match_run_and_may_leave
 *
 * Event: made, its type joined, validated, payload, states and their times, JSON, names, metadata.
 *
 *  23  test_P02_absent_fields_are_stamped test_P04_states_and_times_follow_the_work
 *  24  test_P14_type_join_refuses_empty_and_dotted_parts
 *  25  test_P02_validation_names_the_field
 *  26  test_P01_every_field_is_kept
 *  27  test_L11_a_handler_gets_what_was_published
 *  28  test_P04_states_and_times_follow_the_work
 *  29  test_P04_states_and_times_follow_the_work
 *  30  test_P04_states_and_times_follow_the_work
 *  31  test_P04_states_and_times_follow_the_work P17_the_retry_count_is_the_highest
 *  32  test_P01_any_event_comes_back_from_its_json
 *  33  test_P01_P04_sources_and_states_have_names
 *  34  test_P01_P04_sources_and_states_have_names
 *  35  test_L11_a_handler_gets_what_was_published
 *  36  test_P04_states_and_times_follow_the_work
 *
 * Memory provider, and here every one: its name, publish and get, an unknown id, states, lists,
 * filters, limit, delete, capacity, age, stats, close, ten at once, stream, by time, by instance.
 *
 *  37  test_P07_H01_a_broker_needs_a_store_and_nothing_else
 *  38  test_P05_lists_and_filters_of_what_was_published
 *  39  test_P05_lists_and_filters_of_what_was_published
 *  40  test_P04_states_and_times_follow_the_work P04_list_and_get_tell_the_same_states
 *  41  test_P05_lists_and_filters_of_what_was_published
 *  42  test_P05_lists_and_filters_of_what_was_published
 *  43  test_P05_lists_and_filters_of_what_was_published
 *  44  test_P05_lists_and_filters_of_what_was_published P05_deleted_events_are_gone
 *  45  test_P08_the_oldest_completed_event_goes_first
 *  46  test_P11_a_broker_keeps_house
 *  47  test_P05_lists_and_filters_of_what_was_published
 *  48  P05_events_outlive_the_close test_P19_a_stop_leaves_nothing_claimed
 *  49  test_H03_fifty_publish_at_once_to_five_workers L10_readers_miss_nothing_while_many_write
 *  50  test_L07_replay_meets_live_while_publishers_run
 *  51  test_P05_lists_and_filters_of_what_was_published
 *  52  test_P05_lists_and_filters_of_what_was_published
 *
 * Failures: publish met close and crashed; concurrent publishers lost the order; a full queue
 * stranded events, and so did a type without a handler; statistics stood still in async; a
 * handler's crash reached the publisher; a start after stop crashed; an offset past the end
 * returned everything; a repeated id counted twice; other instances heard nothing; a missing id or
 * a list blocked for ever; one subscriber consumed another's events; polling by random ids skipped
 * rows; watchers leaked; an open stream stalled the shutdown; an old snapshot overtook the latest.
 *
 *  F1  test_H10_fifty_publish_while_another_stops
 *  F2  test_L02_concurrent_publishers_share_commits_and_readers_see_rising
 *  F3  test_H07_L08_a_full_queue_is_nothing_to_the_publisher
 *  F4  L08_what_no_group_wants_is_completed
 *  F5  test_L13_H17_sync_and_async_count_alike
 *  F6  test_L08_a_handlers_crash_takes_nothing_from_a_publisher
 *  F7  test_H09_life_is_open_start_stop
 *  F8  P05_an_offset_past_the_end_is_empty test_P05_lists_and_filters_of_what_was_published
 *  F9  test_L09_an_id_published_again_gives_the_first_cursor
 * F10  test_L07_what_another_instance_appends_is_heard_live
 * F11  test_P05_lists_and_filters_of_what_was_published
 * F12  P09_two_groups_and_handlers_see_everything_each
 * F13  test_L10_two_processes_append_in_one_order
 * F14  test_B13_ten_thousand_leave_nothing_on_a_live_token
 * F15  test_T04_streams_end_within_a_second_of_a_stop
 * F16  test_B18_latest_keeps_the_last_per_topic_and_type
 */
#include "probe.h"

#include <fanfare/batch.h>

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>

static enum fan_status publish_sync(struct fan_broker *broker, uint64_t *ret_seq,
                                    struct fan_error *error)
{
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "test.event" };
    struct fan_cursor cursor = { 0, 0 };
    enum fan_status status = fan_broker_publish_sync(broker, &draft, &cursor, error);
    *ret_seq = cursor.seq;
    return status;
}

/* The event with a sequence; its state, too. */
static struct fan_batch *batch_at(struct fan_broker *broker, uint64_t seq,
                                  struct fan_event_state *ret_state)
{
    struct fan_batch *batch = NULL;
    struct fan_query query = { .size = FAN_QUERY_SIZE, .offset = seq - 1, .limit = 1 };
    assert_ok(fan_batch_new(NULL, &batch));
    assert_ok(fan_store_list(fan_broker_store(broker), &query, batch, ret_state, NULL));
    assert_int_equal(fan_batch_count(batch), 1);
    assert_int_equal(fan_event_seq(fan_batch_event(batch, 0)), seq);
    return batch;
}

static struct fan_event_state state_of(struct fan_broker *broker, uint64_t seq, char error[128])
{
    struct fan_event_state event_state = { .status = FAN_EVENT_PENDING };
    struct fan_batch *batch = batch_at(broker, seq, &event_state);
    snprintf(error, 128, "%s", event_state.error);
    fan_batch_free(batch);
    return event_state;
}

/* ------------------------------------------------------------------ broker */

static void test_P07_H01_a_broker_needs_a_store_and_nothing_else(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    assert_int_equal(fan_broker_open("", NULL, &broker, &error), FAN_INVALID);
    assert_true(error.message[0] != '\0');
    assert_null(broker);
    /* Zeros everywhere, in either mode; without an instance id it has one of its own. */
    for (int mode = FAN_MODE_ASYNC; mode <= FAN_MODE_SYNC; mode++) {
        struct fan_broker_options options = { .size = sizeof(options),
                                              .mode = (enum fan_mode)mode };
        broker = broker_with(place, &options);
        uint64_t seq = publish(broker, "a.b.c", NULL);
        struct fan_event_state event_state;
        struct fan_batch *batch = batch_at(broker, seq, &event_state);
        assert_true(fan_event_instance_id(fan_batch_event(batch, 0))[0] != '\0');
        fan_batch_free(batch);
        assert_string_equal(fan_store_name(fan_broker_store(broker)), place->scheme);
        fan_broker_free(broker);
    }
}

static void test_H01_H17_sync_runs_the_handler_and_counts(void **state)
{
    struct place *place = *state;
    struct fan_broker_options broker_options = FAN_BROKER_OPTIONS_INIT;
    broker_options.mode = FAN_MODE_SYNC;
    struct fan_broker *broker = broker_with(place, &broker_options);
    struct probe probe;
    probe_init(&probe);
    struct fan_handler_options options = probe_options(&probe, "mail", "test.*");
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    for (uint64_t seq = 1; seq <= 3; seq++) {
        char error[128];
        assert_int_equal(publish(broker, "test.event", NULL), seq);
        assert_int_equal(probe.done, seq);
        assert_int_equal(probe.seqs[seq - 1], seq);
        assert_int_equal(state_of(broker, seq, error).status, FAN_EVENT_COMPLETED);
        struct fan_broker_stats stats = stats_of(broker);
        assert_int_equal(stats.published, seq);
        assert_int_equal(stats.handled, seq);
        assert_int_equal(stats.handlers, 1);
        assert_true(stats.running);
    }
    fan_broker_free(broker);
}

static void test_H03_two_workers_handle_five_events(void **state)
{
    struct place *place = *state;
    struct fan_broker_options broker_options = FAN_BROKER_OPTIONS_INIT;
    broker_options.worker_count = 2;
    broker_options.work_queue_count = 10;
    struct fan_broker *broker = broker_with(place, &broker_options);
    struct probe probe;
    probe_init_held(&probe);
    probe_handle(&probe, broker, "mail");
    /* All are durable while both workers stand still. */
    for (int i = 0; i < 5; i++)
        publish(broker, "test.event", NULL);
    probe_wait_begun(&probe, 2);
    probe_let_go(&probe);
    probe_wait_done(&probe, 5);
    wait_for_stats(broker, handled, 5);
    assert_int_equal(probe.running_max, 2);
    fan_broker_free(broker);
}

static void test_H01_H03_sync_tells_of_the_first_attempt_and_retries_go_on(void **state)
{
    struct place *place = *state;
    struct fan_broker_options broker_options = FAN_BROKER_OPTIONS_INIT;
    broker_options.retry = (struct fan_retry_policy){ 2, 10, 100, 2.0, 0, false };
    struct fan_broker *broker = broker_with(place, &broker_options);
    struct probe probe;
    probe_init(&probe);
    probe.verdict = FAN_VERDICT_RETRY;
    probe.words = "always fails";
    probe_handle(&probe, broker, "mail");
    struct fan_error error = FAN_ERROR_INIT;
    uint64_t seq = 0;
    assert_int_equal(publish_sync(broker, &seq, &error), FAN_HANDLER);
    assert_string_equal(error.message, "group mail: always fails");
    wait_for_stats(broker, dead, 1);
    assert_int_equal(probe.done, 3);
    char words[128];
    struct fan_event_state event_state = state_of(broker, seq, words);
    assert_int_equal(event_state.status, FAN_EVENT_FAILED);
    assert_int_equal(event_state.retry_count, 2);
    assert_string_equal(words, "always fails");
    fan_broker_free(broker);
}

static void test_P02_the_instance_is_the_brokers_own(void **state)
{
    struct place *place = *state;
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    options.instance_id = "here";
    struct fan_broker *broker = broker_with(place, &options);
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE,
                                     .type = "a.b.c",
                                     .instance_id = "elsewhere" };
    assert_ok(fan_broker_publish(broker, &draft, NULL, NULL));
    publish(broker, "a.b.c", NULL);
    assert_string_equal(fan_broker_defaults(broker)->instance_id, "here");
    static const char *const wanted[] = { "elsewhere", "here" };
    for (uint64_t seq = 1; seq <= 2; seq++) {
        struct fan_event_state event_state;
        struct fan_batch *batch = batch_at(broker, seq, &event_state);
        assert_string_equal(fan_event_instance_id(fan_batch_event(batch, 0)), wanted[seq - 1]);
        fan_batch_free(batch);
    }
    fan_broker_free(broker);
}

/* ------------------------------------------------------------------ handlers */

static void test_H02_H08_all_patterns_that_match_run_and_may_leave(void **state)
{
    static const char *const patterns[] = { "test.*", "test.event", "*", "other.*" };
    static const char *const groups[] = { "one", "two", "three", "four" };
    for (int live = 0; live < 2; live++) {
        struct place place;
        place_make(&place, *state);
        struct fan_broker *broker = broker_started(&place);
        struct probe probes[4];
        struct fan_handler *handlers[4];
        for (int i = 0; i < 4; i++) {
            probe_init(&probes[i]);
            struct fan_handler_options options =
                probe_options(&probes[i], live ? NULL : groups[i], patterns[i]);
            assert_ok(fan_broker_handle(broker, &options, &handlers[i], NULL));
            assert_int_equal(stats_of(broker).handlers, i + 1);
        }
        /* Nothing takes precedence over anything; one after the other leaves. */
        for (uint64_t left = 0; left < 4; left++) {
            uint64_t seq = 0;
            assert_ok(publish_sync(broker, &seq, NULL));
            assert_int_equal(seq, left + 1);
            for (size_t i = 0; i < 3; i++)
                assert_int_equal(probes[i].done, i < left ? i + 1 : left + 1);
            assert_int_equal(probes[3].done, 0);
            fan_handler_free(handlers[left]);
            assert_int_equal(stats_of(broker).handlers, 3 - left);
        }
        fan_broker_free(broker);
        place_remove(&place);
    }
}

struct coming {
    struct fan_broker *broker;
    unsigned number;
    unsigned failures;
};

static void *come_and_go(void *context)
{
    struct coming *coming = context;
    char group[16];
    snprintf(group, sizeof(group), "group-%u", coming->number);
    struct probe probe;
    probe_init(&probe);
    for (int round = 0; round < 20; round++) {
        struct fan_handler_options options =
            probe_options(&probe, round % 2 ? group : NULL, "test.event");
        struct fan_handler *handler = NULL;
        coming->failures += fan_broker_handle(coming->broker, &options, &handler, NULL) != FAN_OK;
        size_t before = probe_begun(&probe);
        uint64_t seq;
        coming->failures += publish_sync(coming->broker, &seq, NULL) != FAN_OK;
        /* Its own was published while it was there. */
        coming->failures += probe_begun(&probe) <= before;
        fan_handler_free(handler);
        before = probe_begun(&probe);
        coming->failures += publish_sync(coming->broker, &seq, NULL) != FAN_OK;
        coming->failures += probe_begun(&probe) != before;
    }
    return NULL;
}

static void test_H08_ten_threads_add_and_remove_handlers(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    struct coming comings[10];
    pthread_t threads[10];
    for (unsigned i = 0; i < 10; i++) {
        comings[i] = (struct coming){ .broker = broker, .number = i };
        assert_int_equal(pthread_create(&threads[i], NULL, come_and_go, &comings[i]), 0);
    }
    for (unsigned i = 0; i < 10; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(comings[i].failures, 0);
    }
    assert_int_equal(stats_of(broker).handlers, 0);
    assert_int_equal(stats_of(broker).workers_active, 0);
    fan_broker_free(broker);
}

static void test_H08_a_hundred_handlers_are_a_hundred(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    static struct probe probes[100];
    struct fan_handler *last = NULL;
    char name[16];
    for (int i = 0; i < 100; i++) {
        probe_init(&probes[i]);
        struct fan_handler_options options = probe_options(&probes[i], "mail", NULL);
        snprintf(name, sizeof(name), "h%d", i);
        options.name = name;
        assert_ok(fan_broker_handle(broker, &options, &last, NULL));
        struct fan_error error = FAN_ERROR_INIT;
        assert_int_equal(fan_broker_handle(broker, &options, NULL, &error), FAN_EXISTS);
    }
    assert_int_equal(stats_of(broker).handlers, 100);
    uint64_t seq;
    assert_ok(publish_sync(broker, &seq, NULL));
    for (int i = 0; i < 100; i++)
        assert_int_equal(probes[i].done, 1);
    /* Who was never there can be removed by nobody, nor who is gone already, nor another for it. */
    struct fan_group_name unknown = { "mail", "h100" };
    struct fan_group_name gone = { "mail", "h99" };
    assert_int_equal(fan_group_delete(fan_broker_store(broker), &unknown), FAN_NOT_FOUND);
    fan_handler_free(last);
    assert_ok(fan_group_delete(fan_broker_store(broker), &gone));
    assert_int_equal(fan_group_delete(fan_broker_store(broker), &gone), FAN_NOT_FOUND);
    assert_int_equal(stats_of(broker).handlers, 99);
    assert_ok(publish_sync(broker, &seq, NULL));
    for (int i = 0; i < 100; i++)
        assert_int_equal(probes[i].done, i < 99 ? 2 : 1);
    fan_broker_free(broker);
}

#define PAYLOAD "{\"name\": \"Ada\", \"tags\": [1, true, null], \"pi\": 3.14}"
#define METADATA "{\"s\": \"text\", \"n\": 42, \"f\": -1.5, \"b\": false, \"z\": null, \"l\": [1]}"

struct copies {
    struct fan__mutex mutex;
    struct fan_event *event[2];
    size_t count;
};

static enum fan_verdict keep_copy(void *context, const struct fan_event *event,
                                  const struct fan_handling *handling)
{
    (void)handling;
    struct copies *copies = context;
    fan__mutex_lock(&copies->mutex);
    assert_ok(fan_event_copy(event, NULL, &copies->event[copies->count++]));
    fan__mutex_unlock(&copies->mutex);
    return FAN_VERDICT_DONE;
}

static void test_L11_a_handler_gets_what_was_published(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    struct copies copies = { .count = 0 };
    fan__mutex_init(&copies.mutex);
    for (int live = 0; live < 2; live++) {
        struct fan_handler_options options = { .size = FAN_HANDLER_OPTIONS_SIZE,
                                               .group = live ? NULL : "mail",
                                               .handle = keep_copy,
                                               .context = &copies };
        assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    }
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE,
                                     .type = "public.users.create",
                                     .id = "the-same",
                                     .user_id = 42,
                                     .payload = FAN_STR(PAYLOAD),
                                     .metadata = FAN_STR(METADATA) };
    assert_ok(fan_broker_publish_sync(broker, &draft, NULL, NULL));
    assert_int_equal(copies.count, 2);
    for (int i = 0; i < 2; i++) {
        assert_string_equal(fan_event_id(copies.event[i]), "the-same");
        assert_int_equal(fan_event_user_id(copies.event[i]), 42);
        assert_string_equal(fan_event_payload(copies.event[i]).data, PAYLOAD);
        assert_string_equal(fan_event_metadata(copies.event[i]).data, METADATA);
        fan_event_free(copies.event[i], NULL);
    }
    fan_broker_free(broker);
}

/* ------------------------------------------------------------------ states */

static void test_P04_states_and_times_follow_the_work(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    struct probe probe;
    probe_init_held(&probe);
    probe.verdict = FAN_VERDICT_RETRY;
    probe.fails_attempts = 1;
    struct fan_retry_policy soon = { .delay_ms = 1 };
    struct fan_handler_options options = probe_options(&probe, "mail", "good.*");
    options.retry = &soon;
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    struct probe bad;
    probe_init(&bad);
    bad.verdict = FAN_VERDICT_FAIL;
    bad.words = "will never do";
    options = probe_options(&bad, "audit", "bad.*");
    struct fan_handler *handler;
    char words[128];
    publish(broker, "good.event", NULL);
    publish(broker, "bad.event", NULL);
    publish(broker, "nobodys.event", NULL);
    probe_wait_begun(&probe, 1);
    struct fan_event_state event_state = state_of(broker, 1, words);
    assert_int_equal(event_state.status, FAN_EVENT_PROCESSING);
    assert_int_equal(event_state.completed_us, 0);
    assert_true(event_state.processed_us > 0);
    int64_t first_us = event_state.processed_us;
    probe_let_go(&probe);
    wait_for_stats(broker, handled, 2);
    struct fan_event_state stored;
    struct fan_batch *batch = batch_at(broker, 1, &stored);
    int64_t created_us = fan_event_created_us(fan_batch_event(batch, 0));
    fan_batch_free(batch);
    while (state_of(broker, 1, words).status != FAN_EVENT_COMPLETED)
        wait_for_stats(broker, workers_active, 0);
    event_state = state_of(broker, 1, words);
    assert_int_equal(event_state.retry_count, 1);
    assert_true(created_us <= first_us);
    assert_true(first_us < event_state.processed_us);
    assert_true(event_state.processed_us <= event_state.completed_us);
    assert_string_equal(words, "");
    /* Whoever nobody wants is done; who waits for a handler of an old place is pending. */
    assert_int_equal(state_of(broker, 3, words).status, FAN_EVENT_COMPLETED);
    struct fan_group_options place_of = { .size = FAN_GROUP_OPTIONS_SIZE,
                                          .pattern = "bad.*",
                                          .start = FAN_START_BEGINNING };
    struct fan_group_name name = { "audit", "" };
    assert_ok(fan_group_create(fan_broker_store(broker), &name, &place_of, NULL));
    assert_int_equal(state_of(broker, 2, words).status, FAN_EVENT_PENDING);
    assert_int_equal(state_of(broker, 2, words).processed_us, 0);
    assert_ok(fan_broker_handle(broker, &options, &handler, NULL));
    wait_for_stats(broker, dead, 1);
    event_state = state_of(broker, 2, words);
    assert_int_equal(event_state.status, FAN_EVENT_FAILED);
    assert_string_equal(words, "will never do");
    assert_int_equal(event_state.retry_count, 0);
    assert_true(event_state.completed_us >= event_state.processed_us);
    fan_handler_free(handler);
    fan_broker_free(broker);
}

static void test_P01_P04_sources_and_states_have_names(void **state)
{
    (void)state;
    for (int status = FAN_EVENT_PENDING; status <= FAN_EVENT_FAILED; status++) {
        enum fan_event_status parsed;
        const char *text = fan_event_status_text((enum fan_event_status)status);
        assert_true(text[0] != '\0');
        assert_ok(fan_event_status_parse(text, &parsed));
        assert_int_equal(parsed, status);
    }
    static const char *const names[] = { "database", "websocket", "frontend", "system",
                                         "internal" };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        enum fan_source source;
        assert_ok(fan_source_parse(names[i], &source));
        assert_string_equal(fan_source_text(source), names[i]);
    }
}

/* ------------------------------------------------------------------ lists */

static size_t count_of(struct fan_broker *broker, struct fan_query query)
{
    struct fan_batch *batch = NULL;
    struct fan_event_state states[16];
    query.size = FAN_QUERY_SIZE;
    if (query.limit == 0)
        query.limit = 16;
    assert_ok(fan_batch_new(NULL, &batch));
    assert_ok(fan_store_list(fan_broker_store(broker), &query, batch, states, NULL));
    size_t count = fan_batch_count(batch);
    fan_batch_free(batch);
    return count;
}

static void test_P05_lists_and_filters_of_what_was_published(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    struct fan_group_name name = { "mail", "" };
    struct fan_group_options owed = { .size = FAN_GROUP_OPTIONS_SIZE, .pattern = "owed.*" };
    struct fan_store *store = fan_broker_store(broker);
    assert_ok(fan_group_create(store, &name, &owed, NULL));
    const int64_t start_us = INT64_C(1700000000000000);
    for (int i = 0; i < 10; i++) {
        char id[8];
        snprintf(id, sizeof(id), "e%d", i);
        struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE,
                                         .type = i < 3 ? "owed.event" : "free.event",
                                         .id = id,
                                         .user_id = 7,
                                         .source =
                                             i < 2 ? FAN_SOURCE_DATABASE : FAN_SOURCE_FRONTEND,
                                         .instance_id = i == 4 ? "other" : "here",
                                         .created_us = start_us + i };
        assert_ok(fan_broker_publish(broker, &draft, NULL, NULL));
    }
    assert_int_equal(count_of(broker, (struct fan_query){ .limit = 0 }), 10);
    assert_int_equal(count_of(broker, (struct fan_query){ .limit = 5 }), 5);
    assert_int_equal(count_of(broker, (struct fan_query){ .offset = 8 }), 2);
    assert_int_equal(count_of(broker, (struct fan_query){ .offset = 10 }), 0);
    assert_int_equal(count_of(broker, (struct fan_query){ .offset = 99 }), 0);
    assert_int_equal(count_of(broker, (struct fan_query){ .source = FAN_SOURCE_DATABASE }), 2);
    assert_int_equal(count_of(broker, (struct fan_query){ .has_status = true }), 3);
    assert_int_equal(count_of(broker, (struct fan_query){ .from_us = start_us + 8 }), 2);
    assert_int_equal(count_of(broker, (struct fan_query){ .instance_id = "other" }), 1);
    struct fan_store_stats stats = { .size = sizeof(stats) };
    assert_ok(fan_store_stats(store, &stats));
    assert_int_equal(stats.events, 10);
    assert_int_equal(stats.pending, 3);
    struct fan_batch *batch = NULL;
    assert_ok(fan_batch_new(NULL, &batch));
    assert_ok(fan_store_get(store, "e7", batch, NULL));
    assert_string_equal(fan_event_id(fan_batch_event(batch, 0)), "e7");
    assert_int_equal(fan_event_user_id(fan_batch_event(batch, 0)), 7);
    assert_int_equal(fan_store_get(store, "e77", batch, NULL), FAN_NOT_FOUND);
    assert_ok(fan_store_delete(store, "e7"));
    assert_int_equal(fan_store_get(store, "e7", batch, NULL), FAN_NOT_FOUND);
    assert_int_equal(count_of(broker, (struct fan_query){ .limit = 0 }), 9);
    fan_batch_free(batch);
    fan_broker_free(broker);
}

/* ------------------------------------------------------------------ a crash */

#define CRASH_AT 5
#define OTHERS 20

static enum fan_verdict crash(void *context, const struct fan_event *event,
                              const struct fan_handling *handling)
{
    atomic_uint *calls = context;
    (void)event;
    (void)handling;
    if (atomic_fetch_add(calls, 1) + 1 == CRASH_AT)
        kill(getpid(), SIGKILL);
    return FAN_VERDICT_DONE;
}

/* A process that publishes, and tells of each acknowledgement, until its handler is its end. */
static pid_t crasher(const struct place *place, int told)
{
    static atomic_uint calls;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child > 0)
        return child;
    struct fan_broker_options broker_options = FAN_BROKER_OPTIONS_INIT;
    broker_options.lease_ms = 1000;
    struct fan_broker *broker = NULL;
    struct fan_handler_options options = {
        .size = FAN_HANDLER_OPTIONS_SIZE, .group = "mail", .handle = crash, .context = &calls
    };
    if (fan_broker_open(place->uri, &broker_options, &broker, NULL) != FAN_OK ||
        fan_broker_start(broker) != FAN_OK ||
        fan_broker_handle(broker, &options, NULL, NULL) != FAN_OK)
        _exit(1);
    for (unsigned number = 0;; number++) {
        char id[16];
        snprintf(id, sizeof(id), "own-%u", number);
        struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c", .id = id };
        if (fan_broker_publish(broker, &draft, NULL, NULL) != FAN_OK ||
            write(told, &number, sizeof(number)) != (ssize_t)sizeof(number))
            _exit(1);
    }
}

/*
 * The publisher of the process that crashes dies with it, and keeps what it was acknowledged; one
 * in another process notices nothing.
 */
static void test_L08_a_handlers_crash_takes_nothing_from_a_publisher(void **state)
{
    struct place *place = *state;
    /* The group begins before the crasher is there, which forks while no thread runs. */
    struct fan_store *store = NULL;
    struct fan_group_name name = { "mail", "" };
    struct fan_group_options group = { .size = FAN_GROUP_OPTIONS_SIZE };
    assert_ok(fan_store_open(place->uri, NULL, &store, NULL));
    assert_ok(fan_group_create(store, &name, &group, NULL));
    fan_store_close(store);
    int pipes[2];
    assert_int_equal(pipe(pipes), 0);
    pid_t child = crasher(place, pipes[1]);
    close(pipes[1]);
    struct fan_broker *broker = broker_started(place);
    publish_times(broker, OTHERS);
    store = fan_broker_store(broker);
    struct fan_batch *batch = NULL;
    assert_ok(fan_batch_new(NULL, &batch));
    unsigned number = 0;
    unsigned acknowledged = 0;
    while (read(pipes[0], &number, sizeof(number)) == (ssize_t)sizeof(number)) {
        char id[16];
        snprintf(id, sizeof(id), "own-%u", number);
        assert_int_equal(number, acknowledged++);
        assert_ok(fan_store_get(store, id, batch, NULL));
    }
    close(pipes[0]);
    int ended = 0;
    assert_int_equal(waitpid(child, &ended, 0), child);
    assert_true(WIFSIGNALED(ended) && WTERMSIG(ended) == SIGKILL);
    publish(broker, "a.b.c", NULL);
    struct fan_store_stats stats = { .size = sizeof(stats) };
    assert_ok(fan_store_stats(store, &stats));
    /* One more of its own may have been stored without its having heard of it. */
    assert_in_range(stats.events, acknowledged + OTHERS + 1, acknowledged + OTHERS + 2);
    assert_true(stats.completed < stats.events);
    /* What it was in the middle of comes here, and what it had not come to. */
    struct probe probe;
    probe_init(&probe);
    probe_handle(&probe, broker, "mail");
    probe_wait_done(&probe, stats.events - stats.completed);
    assert_ok(fan_broker_stop(broker, 60000));
    assert_ok(fan_store_stats(store, &stats));
    assert_int_equal(stats.completed, stats.events);
    fan_batch_free(batch);
    fan_broker_free(broker);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_sqlite(test_L08_a_handlers_crash_takes_nothing_from_a_publisher),
        on_every_store(test_P07_H01_a_broker_needs_a_store_and_nothing_else),
        on_every_store(test_H01_H17_sync_runs_the_handler_and_counts),
        on_every_store(test_H03_two_workers_handle_five_events),
        on_every_store(test_H01_H03_sync_tells_of_the_first_attempt_and_retries_go_on),
        on_every_store(test_P02_the_instance_is_the_brokers_own),
        on_every_scheme(test_H02_H08_all_patterns_that_match_run_and_may_leave),
        on_every_store(test_H08_ten_threads_add_and_remove_handlers),
        on_every_store(test_H08_a_hundred_handlers_are_a_hundred),
        on_every_store(test_L11_a_handler_gets_what_was_published),
        on_every_store(test_P04_states_and_times_follow_the_work),
        cmocka_unit_test(test_P01_P04_sources_and_states_have_names),
        on_every_store(test_P05_lists_and_filters_of_what_was_published),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
