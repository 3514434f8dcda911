/* Handlers to their end: modes, retries, order, time limits, full queues. */
#include "probe.h"

#include "broker/dispatch.h"

#include <pthread.h>

static enum fan_status publish_sync(struct fan_broker *broker, const char *type, uint64_t *ret_seq,
                                    struct fan_error *error)
{
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = type };
    struct fan_cursor cursor = { 0, 0 };
    enum fan_status status = fan_broker_publish_sync(broker, &draft, &cursor, error);
    *ret_seq = cursor.seq;
    return status;
}

/* ------------------------------------------------------------------ modes */

static void test_H01_sync_returns_when_all_handlers_are_done(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    struct probe durable;
    struct probe live;
    struct probe other;
    probe_init(&durable);
    probe_init(&live);
    probe_init(&other);
    struct fan_handler_options options = probe_options(&durable, "mail", "test.*");
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    options = probe_options(&live, NULL, "*");
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    options = probe_options(&other, "other", "else.*");
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    for (unsigned i = 1; i <= 20; i++) {
        uint64_t seq;
        assert_ok(publish_sync(broker, "test.event", &seq, NULL));
        assert_int_equal(durable.done, i);
        assert_int_equal(live.done, i);
        assert_int_equal(durable.seqs[i - 1], seq);
        assert_int_equal(find(broker, "mail", seq).status, FAN_EVENT_COMPLETED);
    }
    /* Nobody handles it: there is nothing to wait for. */
    uint64_t seq;
    assert_ok(publish_sync(broker, "nobody.wants", &seq, NULL));
    assert_int_equal(other.done, 0);
    fan_broker_free(broker);
}

static void test_H01_sync_tells_that_a_handler_failed(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    struct probe failing;
    struct probe fine;
    probe_init(&failing);
    probe_init(&fine);
    failing.verdict = FAN_VERDICT_FAIL;
    failing.words = "the mail server said no";
    probe_handle(&failing, broker, "mail");
    probe_handle(&fine, broker, "audit");
    struct fan_error error = FAN_ERROR_INIT;
    uint64_t seq;
    assert_int_equal(publish_sync(broker, "a.b.c", &seq, &error), FAN_HANDLER);
    assert_string_equal(error.message, "group mail: the mail server said no");
    assert_int_equal(seq, 1);
    /* One handler's failure is not the other's. */
    assert_int_equal(find(broker, "audit", 1).status, FAN_EVENT_COMPLETED);
    struct found found = find(broker, "mail", 1);
    assert_int_equal(found.status, FAN_EVENT_FAILED);
    assert_int_equal(found.reason, FAN_DEAD_FAILED);
    assert_string_equal(found.error, "the mail server said no");
    /* The same id again tells how it ended and runs nothing. */
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c", .id = "twice" };
    assert_int_equal(fan_broker_publish_sync(broker, &draft, NULL, &error), FAN_HANDLER);
    assert_int_equal(fan_broker_publish_sync(broker, &draft, NULL, &error), FAN_HANDLER);
    assert_int_equal(failing.done, 2);
    fan_broker_free(broker);
}

static void test_H01_the_mode_decides_what_publish_waits_for(void **state)
{
    for (int mode = FAN_MODE_ASYNC; mode <= FAN_MODE_SYNC; mode++) {
        struct place place;
        place_make(&place, *state);
        struct fan_broker_options broker_options = FAN_BROKER_OPTIONS_INIT;
        broker_options.mode = (enum fan_mode)mode;
        struct fan_broker *broker = broker_with(&place, &broker_options);
        struct probe probe;
        probe_init(&probe);
        probe.held = mode == FAN_MODE_ASYNC;
        probe_handle(&probe, broker, "mail");
        uint64_t seq = publish(broker, "a.b.c", NULL);
        /* In the asynchronous mode publish returned while the handler is still held. */
        if (mode == FAN_MODE_SYNC)
            assert_int_equal(probe.done, 1);
        probe_let_go(&probe);
        probe_wait_done(&probe, 1);
        assert_int_equal(probe.seqs[0], seq);
        fan_broker_free(broker);
        place_remove(&place);
    }
}

struct nested {
    struct fan_broker *broker;
    enum fan_status sync;
    enum fan_status stop;
    enum fan_status async;
};

static enum fan_verdict on_nested(void *context, const struct fan_event *event,
                                  const struct fan_handling *handling)
{
    (void)handling;
    struct nested *nested = context;
    if (strcmp(fan_event_type(event), "a.b.c") != 0)
        return FAN_VERDICT_DONE;
    uint64_t seq;
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "x.y.z" };
    nested->sync = publish_sync(nested->broker, "x.y.z", &seq, NULL);
    nested->stop = fan_broker_stop(nested->broker, 0);
    nested->async = fan_broker_publish_async(nested->broker, &draft, NULL, NULL, NULL);
    return FAN_VERDICT_DONE;
}

static void test_H01_sync_within_a_handler_is_a_typed_error(void **state)
{
    struct place *place = *state;
    const char *groups[] = { "mail", NULL };
    for (int i = 0; i < 2; i++) {
        struct fan_broker *broker = broker_started(place);
        struct nested nested = { broker, FAN_OK, FAN_OK, FAN_IO };
        struct fan_handler_options options = { .size = FAN_HANDLER_OPTIONS_SIZE,
                                               .group = groups[i],
                                               .handle = on_nested,
                                               .context = &nested };
        assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
        uint64_t seq;
        assert_ok(publish_sync(broker, "a.b.c", &seq, NULL));
        assert_int_equal(nested.sync, FAN_MISUSE);
        assert_int_equal(nested.stop, FAN_MISUSE);
        assert_int_equal(nested.async, FAN_OK);
        fan_broker_free(broker);
    }
}

static void test_H01_a_sync_that_times_out_leaves_the_event(void **state)
{
    struct place *place = *state;
    struct fan_broker_options broker_options = FAN_BROKER_OPTIONS_INIT;
    broker_options.publish_timeout_ms = 300;
    struct fan_broker *broker = broker_with(place, &broker_options);
    struct probe probe;
    probe_init_held(&probe);
    probe_handle(&probe, broker, "mail");
    struct fan_error error = FAN_ERROR_INIT;
    uint64_t seq;
    assert_int_equal(publish_sync(broker, "a.b.c", &seq, &error), FAN_TIMED_OUT);
    assert_int_equal(seq, 1);
    assert_non_null(strstr(error.message, "the event is stored"));
    probe_let_go(&probe);
    probe_wait_done(&probe, 1);
    /* A delayed event is not waited for. */
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE,
                                     .type = "a.b.c",
                                     .deliver_at_us = INT64_C(4000000000000000) };
    assert_ok(fan_broker_publish_sync(broker, &draft, NULL, NULL));
    assert_int_equal(probe_begun(&probe), 1);
    fan_broker_free(broker);
}

static void test_H01_sync_sees_what_another_process_took(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    struct fan_broker *other = broker_started(place);
    struct probe probe;
    struct probe theirs;
    probe_init(&probe);
    probe_init(&theirs);
    probe.held = 1; /* whatever comes here first does not return, the rest is for the other */
    struct fan_handler_options options = probe_options(&probe, "mail", NULL);
    options.concurrency = 1;
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    publish(broker, "a.b.c", NULL);
    probe_wait_begun(&probe, 1);
    options = probe_options(&theirs, "mail", NULL);
    assert_ok(fan_broker_handle(other, &options, NULL, NULL));
    /* Claims of ours are bounded by what our one call leaves; theirs are not. */
    for (int i = 0; i < 60; i++)
        publish(other, "a.b.c", NULL);
    probe_let_go(&probe);
    uint64_t seq;
    for (int i = 0; i < 20; i++)
        assert_ok(publish_sync(broker, "a.b.c", &seq, NULL));
    fan_broker_free(other);
    fan_broker_free(broker);
    assert_int_equal(probe.done + theirs.done, 81);
}

/* ------------------------------------------------------------------ retries and verdicts */

static void test_H03_the_policys_defaults_and_bounds(void **state)
{
    (void)state;
    struct fan_retry_policy given = { 0 };
    struct fan_retry_policy policy;
    assert_ok(fan__retry_policy(&given, &policy, NULL));
    assert_int_equal(policy.retries, 3);
    assert_int_equal(fan__retry_delay_ms(&policy, 1, 0), 1000);
    assert_int_equal(fan__retry_delay_ms(&policy, 2, 0), 2000);
    assert_int_equal(fan__retry_delay_ms(&policy, 3, 0), 4000);
    assert_int_equal(fan__retry_delay_ms(&policy, 5, 0), 16000);
    assert_int_equal(fan__retry_delay_ms(&policy, 6, 0), 30000);
    assert_int_equal(fan__retry_delay_ms(&policy, 4000000000u, UINT32_MAX), 30000);
    given.jitter_percent = 25;
    assert_ok(fan__retry_policy(&given, &policy, NULL));
    assert_int_equal(fan__retry_delay_ms(&policy, 1, 0), 1000);
    assert_int_equal(fan__retry_delay_ms(&policy, 1, UINT32_MAX), 750);
    given = (struct fan_retry_policy){ .none = true };
    assert_ok(fan__retry_policy(&given, &policy, NULL));
    assert_int_equal(policy.retries, 0);
    static const struct {
        struct fan_retry_policy policy;
        const char *field;
    } bad[] = {
        { { .retries = 1, .none = true }, "retry.none" },
        { { .factor = 0.5 }, "retry.factor" },
        { { .factor = -1 }, "retry.factor" },
        { { .jitter_percent = 101 }, "retry.jitter_percent" },
        { { .delay_ms = 500, .delay_ms_max = 499 }, "retry.delay_ms_max" },
        { { .retries = 4000000000u }, "retry.retries" },
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct fan_error error = FAN_ERROR_INIT;
        assert_int_equal(fan__retry_policy(&bad[i].policy, &policy, &error), FAN_INVALID);
        assert_string_equal(error.field, bad[i].field);
    }
}

static void test_H03_H06_after_the_last_retry_it_is_a_dead_letter(void **state)
{
    struct place *place = *state;
    struct fan_broker_options broker_options = FAN_BROKER_OPTIONS_INIT;
    broker_options.retry = (struct fan_retry_policy){ 2, 10, 100, 2.0, 50, false };
    struct fan_broker *broker = broker_with(place, &broker_options);
    struct probe probe;
    probe_init(&probe);
    probe.verdict = FAN_VERDICT_RETRY;
    probe.words = "not today";
    probe_handle(&probe, broker, "mail");
    publish(broker, "a.b.c", NULL);
    wait_for_stats(broker, dead, 1);
    assert_int_equal(probe.done, 3);
    struct found found = find(broker, "mail", 1);
    assert_int_equal(found.status, FAN_EVENT_FAILED);
    assert_int_equal(found.reason, FAN_DEAD_RETRIES);
    assert_int_equal(found.attempts, 3);
    assert_string_equal(found.error, "not today");
    struct fan_broker_stats stats = stats_of(broker);
    assert_int_equal(stats.handled, 3);
    assert_int_equal(stats.retried, 2);
    fan_broker_free(broker);
}

static void test_H03_zero_retries_are_possible(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    struct probe probe;
    probe_init(&probe);
    probe.verdict = FAN_VERDICT_RETRY;
    struct fan_retry_policy none = { .none = true };
    struct fan_handler_options options = probe_options(&probe, "mail", NULL);
    options.retry = &none;
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    uint64_t seq;
    assert_int_equal(publish_sync(broker, "a.b.c", &seq, NULL), FAN_HANDLER);
    assert_int_equal(find(broker, "mail", seq).reason, FAN_DEAD_RETRIES);
    assert_int_equal(probe.done, 1);
    fan_broker_free(broker);
}

static void test_H04_a_retry_holds_up_nobody(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    struct probe probe;
    probe_init(&probe);
    probe.verdict = FAN_VERDICT_RETRY;
    probe.failing = 1;
    struct fan_retry_policy slow = { .delay_ms = 3600000 };
    struct fan_handler_options options = probe_options(&probe, "mail", NULL);
    options.retry = &slow;
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    for (int i = 0; i < 50; i++)
        publish(broker, "a.b.c", "same");
    probe_wait_done(&probe, 50);
    /* An hour's wait is no wait for the stop. */
    fan_broker_free(broker);
}

static void test_H04_ordered_lets_the_same_key_wait_alone(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    struct probe probe;
    probe_init(&probe);
    probe.verdict = FAN_VERDICT_RETRY;
    probe.failing = 1;
    probe.fails_attempts = 1;
    struct fan_retry_policy retry = { .delay_ms = 300 };
    struct fan_handler_options options = probe_options(&probe, "mail", NULL);
    options.retry = &retry;
    options.ordered = true;
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    publish(broker, "a.b.c", "stuck"); /* 1 asks for a retry */
    probe_wait_done(&probe, 1);
    for (int i = 0; i < 20; i++) {
        publish(broker, "a.b.c", "stuck");
        publish(broker, "a.b.c", "free");
    }
    probe_wait_done(&probe, 42);
    uint64_t last_stuck = 0;
    uint64_t last_free = 0;
    size_t free_before_retry = 0;
    bool retried = false;
    for (size_t i = 0; i < 42; i++) {
        uint64_t seq = probe.seqs[i];
        uint64_t *last = seq == 1 || seq % 2 == 0 ? &last_stuck : &last_free;
        assert_true(seq > *last || (seq == 1 && i > 0));
        *last = seq;
        retried |= seq == 1 && i > 0;
        free_before_retry += !retried && last == &last_free;
        if (!retried && i > 0)
            assert_true(last == &last_free);
    }
    assert_true(free_before_retry > 0);
    fan_broker_free(broker);
}

static void test_H05_a_success_is_not_repeated_for_anothers_failure(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    struct probe flaky;
    struct probe steady;
    probe_init(&flaky);
    probe_init(&steady);
    flaky.verdict = FAN_VERDICT_RETRY;
    flaky.fails_attempts = 1;
    struct fan_retry_policy retry = { .delay_ms = 5 };
    struct fan_handler_options options = probe_options(&steady, "work", NULL);
    options.name = "steady";
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    options = probe_options(&flaky, "work", NULL);
    options.name = "flaky";
    options.retry = &retry;
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    publish_times(broker, 10);
    probe_wait_done(&flaky, 20);
    fan_broker_free(broker);
    assert_int_equal(flaky.done, 20);
    assert_int_equal(steady.done, 10);
    unsigned again = 0;
    for (uint64_t seq = 1; seq <= 10; seq++) {
        assert_int_equal(steady.attempts[seq], 1);
        again += flaky.attempts[seq] == 2;
    }
    assert_int_equal(again, 10);
}

/* ------------------------------------------------------------------ time limits */

static void test_H05_no_verdict_in_time_is_a_retry(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    struct probe probe;
    struct probe next;
    probe_init(&probe);
    probe_init(&next);
    probe.held = 1;
    struct fan_retry_policy retry = { .retries = 1, .delay_ms = 1 };
    struct fan_handler_options options = probe_options(&probe, "mail", NULL);
    options.retry = &retry;
    options.timeout_ms = 50;
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    probe_handle(&next, broker, "audit");
    struct fan_error error = FAN_ERROR_INIT;
    uint64_t seq;
    assert_int_equal(publish_sync(broker, "a.b.c", &seq, &error), FAN_HANDLER);
    assert_string_equal(error.message, "group mail: no verdict within 50 ms");
    /* The event's next handler did not wait for the function to return. */
    probe_wait_done(&next, 1);
    /* The next attempt begins when the first call has returned. */
    fan__mutex_lock(&probe.mutex);
    probe.lets_attempts = 1;
    fan__mutex_unlock(&probe.mutex);
    wait_for_stats(broker, dead, 1);
    struct found found = find(broker, "mail", 1);
    assert_int_equal(found.attempts, 2);
    assert_int_equal(found.reason, FAN_DEAD_RETRIES);
    assert_string_equal(found.error, "no verdict within 50 ms");
    assert_int_equal(stats_of(broker).workers_active, 1);
    assert_int_equal(probe.running_max, 1);
    /* What it says then is counted and changes nothing. */
    probe_let_go(&probe);
    wait_for_stats(broker, late, 2);
    assert_int_equal(stats_of(broker).workers_active, 0);
    assert_int_equal(find(broker, "mail", 1).status, FAN_EVENT_FAILED);
    fan_broker_free(broker);
}

static void test_H05_the_token_fires_at_the_time_limit(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    struct probe probe;
    probe_init_held(&probe);
    probe.gives_up = true;
    struct fan_retry_policy none = { .none = true };
    struct fan_handler_options options = probe_options(&probe, "mail", NULL);
    options.retry = &none;
    options.timeout_ms = 20;
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    publish_times(broker, 30);
    /* Each call has a token of its own: all of them end, and by the limit alone. */
    wait_for_stats(broker, dead, 30);
    wait_for_stats(broker, late, 30);
    fan_broker_free(broker);
}

/* ------------------------------------------------------------------ queue, order, concurrency */

static void test_H07_L08_a_full_queue_is_nothing_to_the_publisher(void **state)
{
    struct place *place = *state;
    struct fan_broker_options broker_options = FAN_BROKER_OPTIONS_INIT;
    broker_options.worker_count = 1;
    broker_options.work_queue_count = 4;
    struct fan_broker *broker = broker_with(place, &broker_options);
    struct probe probe;
    probe_init_held(&probe);
    probe_handle(&probe, broker, "mail");
    publish_times(broker, 200);
    assert_true(stats_of(broker).work_queued <= 4);
    probe_let_go(&probe);
    probe_wait_done(&probe, 200);
    fan_broker_free(broker);
    for (size_t i = 0; i < 200; i++)
        assert_int_equal(probe.attempts[i + 1], 1);
}

struct sequence {
    struct fan__mutex mutex;
    unsigned turn[PROBE_SEQS];
    unsigned wrong;
};

struct member {
    struct sequence *sequence;
    unsigned number;
};

static enum fan_verdict on_turn(void *context, const struct fan_event *event,
                                const struct fan_handling *handling)
{
    (void)handling;
    struct member *member = context;
    uint64_t seq = fan_event_seq(event);
    fan__mutex_lock(&member->sequence->mutex);
    if (member->sequence->turn[seq] != member->number)
        member->sequence->wrong++;
    member->sequence->turn[seq]++;
    fan__mutex_unlock(&member->sequence->mutex);
    return FAN_VERDICT_DONE;
}

static void test_H08_handlers_of_one_event_run_in_their_order(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    struct sequence sequence = { .wrong = 0 };
    fan__mutex_init(&sequence.mutex);
    static const char *const groups[] = { "zeta", "alpha", "mid" };
    static const char *const patterns[] = { "a.>", "*", "a.b.c" };
    struct member members[3];
    for (unsigned i = 0; i < 3; i++) {
        members[i] = (struct member){ &sequence, i };
        struct fan_handler_options options = { .size = FAN_HANDLER_OPTIONS_SIZE,
                                               .group = groups[i],
                                               .pattern = patterns[i],
                                               .handle = on_turn,
                                               .context = &members[i] };
        assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    }
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
    for (int i = 0; i < 2000; i++)
        assert_ok(fan_broker_publish_async(broker, &draft, NULL, NULL, NULL));
    wait_for_stats(broker, handled, 6000);
    fan_broker_free(broker);
    assert_int_equal(sequence.wrong, 0);
}

static void test_H08_freeing_waits_for_the_call_and_hands_back_the_rest(void **state)
{
    struct place *place = *state;
    struct fan_broker_options broker_options = FAN_BROKER_OPTIONS_INIT;
    broker_options.worker_count = 2;
    struct fan_broker *broker = broker_with(place, &broker_options);
    struct probe probe;
    probe_init(&probe);
    struct fan_handler_options options = probe_options(&probe, "mail", NULL);
    struct fan_handler *handler;
    probe.held = 1;
    probe.held_seq = 1;
    options.concurrency = 1;
    assert_ok(fan_broker_handle(broker, &options, &handler, NULL));
    publish_times(broker, 10);
    probe_wait_begun(&probe, 1);
    pthread_t thread;
    void *(*start)(void *) = (void *(*)(void *))(void (*)(void))fan_handler_free;
    assert_int_equal(pthread_create(&thread, NULL, start, handler), 0);
    wait_for_stats(broker, handlers, 0);
    wait_for_stats(broker, work_queued, 0);
    probe_let_go(&probe);
    pthread_join(thread, NULL);
    assert_int_equal(probe.done, 1);
    assert_int_equal(find(broker, "mail", 1).status, FAN_EVENT_COMPLETED);
    for (uint64_t seq = 2; seq <= 10; seq++) {
        struct found found = { .group = "mail", .handler = "" };
        assert_ok(fan_store_deliveries(fan_broker_store(broker), seq, 0, found_see, &found));
        assert_true(!found.there || found.status == FAN_EVENT_PENDING);
        assert_int_equal(found.attempts, 0);
    }
    /* They are there for the next one. */
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    probe_wait_done(&probe, 10);
    fan_broker_free(broker);
}

/* What was claimed for one and waits for the event's other handlers may outlive it. */
static void test_H08_one_may_be_freed_while_its_event_waits_for_another(void **state)
{
    struct place *place = *state;
    struct fan_broker_options broker_options = FAN_BROKER_OPTIONS_INIT;
    broker_options.worker_count = 1;
    broker_options.work_queue_count = 2;
    struct fan_broker *broker = broker_with(place, &broker_options);
    struct probe probes[2];
    struct fan_handler *handlers[2];
    for (size_t i = 0; i < 2; i++) {
        probe_init(&probes[i]);
        struct fan_handler_options options = probe_options(&probes[i], i ? "two" : "one", NULL);
        assert_ok(fan_broker_handle(broker, &options, &handlers[i], NULL));
    }
    probes[1].held = 1;
    uint64_t first_seq = publish(broker, "a.b.c", NULL);
    probe_wait_begun(&probes[1], 1);
    /* The first one can claim it, the second one has no room. */
    uint64_t seq = publish(broker, "a.b.c", NULL);
    wait_for_stats(broker, work_queued, 1);
    fan_handler_free(handlers[0]);
    probe_let_go(&probes[1]);
    probe_wait_done(&probes[1], 2);
    fan_handler_free(handlers[1]);
    assert_int_equal(find(broker, "one", first_seq).status, FAN_EVENT_COMPLETED);
    assert_int_equal(find(broker, "one", seq).status, FAN_EVENT_PENDING);
    assert_int_equal(find(broker, "one", seq).attempts, 0);
    assert_int_equal(find(broker, "two", seq).status, FAN_EVENT_COMPLETED);
    fan_broker_free(broker);
}

struct leaving {
    struct fan__mutex mutex;
    struct fan__cond changed;
    struct fan_handler *handler;
    unsigned calls;
    bool left;
    bool gone;
};

static enum fan_verdict on_leaving(void *context, const struct fan_event *event,
                                   const struct fan_handling *handling)
{
    (void)event;
    (void)handling;
    struct leaving *leaving = context;
    fan__mutex_lock(&leaving->mutex);
    while (!leaving->handler)
        fan__cond_wait(&leaving->changed, &leaving->mutex);
    leaving->calls++;
    bool first = !leaving->left;
    leaving->left = true;
    fan__mutex_unlock(&leaving->mutex);
    if (first)
        fan_handler_free(leaving->handler);
    fan__mutex_lock(&leaving->mutex);
    leaving->gone |= first;
    fan__cond_broadcast(&leaving->changed);
    /* Who returned before it is removed would be called once more. */
    while (!leaving->gone)
        fan__cond_wait(&leaving->changed, &leaving->mutex);
    fan__mutex_unlock(&leaving->mutex);
    return FAN_VERDICT_DONE;
}

static void test_H08_a_durable_handler_may_free_itself(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    struct leaving leaving = { .calls = 0 };
    fan__mutex_init(&leaving.mutex);
    fan__cond_init(&leaving.changed);
    struct fan_handler_options options = {
        .size = FAN_HANDLER_OPTIONS_SIZE, .group = "mail", .handle = on_leaving, .context = &leaving
    };
    struct fan_handler *handler;
    assert_ok(fan_broker_handle(broker, &options, &handler, NULL));
    publish_times(broker, 50);
    fan__mutex_lock(&leaving.mutex);
    leaving.handler = handler;
    fan__cond_broadcast(&leaving.changed);
    fan__mutex_unlock(&leaving.mutex);
    wait_for_stats(broker, handlers, 0);
    wait_for_stats(broker, workers_active, 0);
    assert_ok(fan_broker_stop(broker, 60000));
    /* Calls that were under way ended as they liked, the rest is owed. */
    struct fan_store_stats stats = { .size = sizeof(stats) };
    assert_ok(fan_store_stats(fan_broker_store(broker), &stats));
    assert_int_equal(stats.completed, leaving.calls);
    assert_int_equal(stats.pending, 50 - leaving.calls);
    assert_true(leaving.calls >= 1 && leaving.calls <= 10);
    fan_broker_free(broker);
}

/* Large events of a slow group take all the room there is for what is claimed. */
static void test_H07_L12_large_events_of_one_group_hold_up_no_other(void **state)
{
    struct place *place = *state;
    struct fan_broker_options broker_options = FAN_BROKER_OPTIONS_INIT;
    broker_options.payload_size_max = (size_t)8 << 20;
    struct fan_broker *broker = broker_with(place, &broker_options);
    struct probe slow;
    struct probe quick;
    probe_init(&slow);
    probe_init(&quick);
    slow.held = 1;
    struct fan_handler_options options = probe_options(&slow, "slow", "large.*");
    options.concurrency = 1;
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    options = probe_options(&quick, "quick", "small.*");
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    char *text = malloc(broker_options.payload_size_max);
    assert_non_null(text);
    memset(text, '1', broker_options.payload_size_max);
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE,
                                     .type = "large.one",
                                     .content_type = "text/plain",
                                     .payload = { text, broker_options.payload_size_max } };
    for (int i = 0; i < 8; i++)
        assert_ok(fan_broker_publish(broker, &draft, NULL, NULL));
    probe_wait_begun(&slow, 1);
    wait_for_stats(broker, work_queued, 7);
    for (int i = 0; i < 3; i++)
        publish(broker, "small.one", NULL);
    probe_wait_done(&quick, 3);
    probe_let_go(&slow);
    probe_wait_done(&slow, 8);
    fan_broker_free(broker);
    free(text);
}

static void *publish_one(void *context)
{
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
    return fan_broker_publish(context, &draft, NULL, NULL) == FAN_OK ? NULL : context;
}

static void test_H03_fifty_publish_at_once_to_five_workers(void **state)
{
    struct place *place = *state;
    struct fan_broker_options broker_options = FAN_BROKER_OPTIONS_INIT;
    broker_options.worker_count = 5;
    broker_options.work_queue_count = 100;
    struct fan_broker *broker = broker_with(place, &broker_options);
    struct probe probe;
    probe_init(&probe);
    probe_handle(&probe, broker, "mail");
    pthread_t threads[50];
    for (int i = 0; i < 50; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, publish_one, broker), 0);
    for (int i = 0; i < 50; i++) {
        void *failed;
        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
    probe_wait_done(&probe, 50);
    fan_broker_free(broker);
    assert_int_equal(probe.done, 50);
    assert_true(probe.running_max <= 5);
}

static void test_H03_a_concurrency_of_its_own_is_kept(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    struct probe probe;
    struct probe free;
    probe_init(&probe);
    probe_init(&free);
    struct fan_handler_options options = probe_options(&probe, "mail", NULL);
    options.concurrency = 2;
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    probe_handle(&free, broker, "audit");
    probe.held = 1;
    publish_times(broker, 300);
    /* The slow one holds up none of the other's. */
    probe_wait_done(&free, 300);
    probe_wait_begun(&probe, 2);
    probe_let_go(&probe);
    probe_wait_done(&probe, 300);
    fan_broker_free(broker);
    assert_int_equal(probe.running_max, 2);
}

/* ------------------------------------------------------------------ the rest */

static void count_calls(struct fan_broker *broker, struct probe *probe, bool sync,
                        struct fan_broker_stats *ret_stats)
{
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
    for (int i = 0; i < 10; i++) {
        enum fan_status status = sync ? fan_broker_publish_sync(broker, &draft, NULL, NULL)
                                      : fan_broker_publish(broker, &draft, NULL, NULL);
        assert_true(status == FAN_OK || (sync && status == FAN_HANDLER));
    }
    wait_for_stats(broker, dead, 5);
    probe_wait_done(probe, 15);
    assert_ok(fan_broker_stop(broker, 5000));
    *ret_stats = stats_of(broker);
}

static void test_L13_H17_sync_and_async_count_alike(void **state)
{
    struct fan_broker_stats stats[2];
    for (int sync = 0; sync < 2; sync++) {
        struct place place;
        place_make(&place, *state);
        struct fan_broker *broker = broker_started(&place);
        struct probe probe;
        probe_init(&probe);
        probe.verdict = FAN_VERDICT_RETRY;
        probe.failing = 5; /* the first five events fail twice, the others are done at once */
        struct fan_retry_policy retry = { .retries = 1, .delay_ms = 1 };
        struct fan_handler_options options = probe_options(&probe, "mail", NULL);
        options.retry = &retry;
        assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
        count_calls(broker, &probe, sync == 1, &stats[sync]);
        fan_broker_free(broker);
        place_remove(&place);
    }
    for (int sync = 0; sync < 2; sync++) {
        assert_int_equal(stats[sync].published, 10);
        assert_int_equal(stats[sync].handled, 15);
        assert_int_equal(stats[sync].retried, 5);
        assert_int_equal(stats[sync].dead, 5);
        assert_int_equal(stats[sync].handlers, 1);
        assert_int_equal(stats[sync].workers, 10);
        assert_int_equal(stats[sync].workers_active, 0);
        assert_int_equal(stats[sync].work_queued, 0);
    }
}

static void test_H01_a_stepped_broker_publishes_in_sync(void **state)
{
    struct place *place = *state;
    struct fan_broker_options broker_options = FAN_BROKER_OPTIONS_INIT;
    broker_options.stepped = true;
    broker_options.mode = FAN_MODE_SYNC;
    struct fan_broker *broker = broker_with(place, &broker_options);
    struct probe probe;
    struct probe live;
    probe_init(&probe);
    probe_init(&live);
    struct fan_handler_options options = probe_options(&probe, "mail", NULL);
    struct fan_handler *handler;
    assert_ok(fan_broker_handle(broker, &options, &handler, NULL));
    probe_handle(&live, broker, NULL);
    publish(broker, "a.b.c", NULL);
    assert_int_equal(probe.done, 1);
    assert_int_equal(live.done, 1);
    probe.verdict = FAN_VERDICT_FAIL;
    uint64_t seq;
    assert_int_equal(publish_sync(broker, "a.b.c", &seq, NULL), FAN_HANDLER);
    assert_int_equal(find(broker, "mail", seq).status, FAN_EVENT_FAILED);
    fan_handler_free(handler);
    assert_int_equal(fan_broker_step(broker), FAN_AGAIN);
    fan_broker_free(broker);
}

static void test_handler_options_are_checked(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    struct probe probe;
    probe_init(&probe);
    struct fan_retry_policy retry = { .factor = 0.1 };
    struct fan_handler_options bad[5];
    static const char *const fields[] = { "timeout_ms", "ordered", "concurrency", "retry",
                                          "retry.factor" };
    for (int i = 0; i < 5; i++)
        bad[i] = probe_options(&probe, NULL, NULL);
    bad[0].timeout_ms = 1;
    bad[1].ordered = true;
    bad[2].concurrency = 1;
    bad[3].retry = &retry;
    bad[4].retry = &retry;
    bad[4].group = "mail";
    for (int i = 0; i < 5; i++) {
        struct fan_error error = FAN_ERROR_INIT;
        assert_int_equal(fan_broker_handle(broker, &bad[i], NULL, &error), FAN_INVALID);
        assert_string_equal(error.field, fields[i]);
    }
    fan_broker_free(broker);
    struct fan_broker_options options[4];
    static const char *const names[] = { "mode", "worker_count", "lease_ms", "retry.factor" };
    for (int i = 0; i < 4; i++)
        options[i] = (struct fan_broker_options)FAN_BROKER_OPTIONS_INIT;
    options[0].mode = (enum fan_mode)7;
    options[1].worker_count = 1001;
    options[2].lease_ms = 1;
    options[3].retry.factor = 0.5;
    for (int i = 0; i < 4; i++) {
        struct fan_error error = FAN_ERROR_INIT;
        assert_int_equal(fan_broker_open(place->uri, &options[i], &broker, &error), FAN_INVALID);
        assert_string_equal(error.field, names[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_every_store(test_H01_sync_returns_when_all_handlers_are_done),
        on_every_store(test_H01_sync_tells_that_a_handler_failed),
        on_every_scheme(test_H01_the_mode_decides_what_publish_waits_for),
        on_every_store(test_H01_sync_within_a_handler_is_a_typed_error),
        on_every_store(test_H01_a_sync_that_times_out_leaves_the_event),
        on_sqlite(test_H01_sync_sees_what_another_process_took),
        on_every_store(test_H01_a_stepped_broker_publishes_in_sync),
        cmocka_unit_test(test_H03_the_policys_defaults_and_bounds),
        on_every_store(test_H03_H06_after_the_last_retry_it_is_a_dead_letter),
        on_every_store(test_H03_zero_retries_are_possible),
        on_every_store(test_H03_a_concurrency_of_its_own_is_kept),
        on_every_store(test_H04_a_retry_holds_up_nobody),
        on_every_store(test_H04_ordered_lets_the_same_key_wait_alone),
        on_every_store(test_H05_a_success_is_not_repeated_for_anothers_failure),
        on_every_store(test_H05_no_verdict_in_time_is_a_retry),
        on_every_store(test_H05_the_token_fires_at_the_time_limit),
        on_every_store(test_H07_L08_a_full_queue_is_nothing_to_the_publisher),
        on_every_store(test_H07_L12_large_events_of_one_group_hold_up_no_other),
        on_every_store(test_H08_handlers_of_one_event_run_in_their_order),
        on_every_store(test_H08_freeing_waits_for_the_call_and_hands_back_the_rest),
        on_every_store(test_H08_a_durable_handler_may_free_itself),
        on_every_store(test_H08_one_may_be_freed_while_its_event_waits_for_another),
        on_every_store(test_H03_fifty_publish_at_once_to_five_workers),
        on_every_scheme(test_L13_H17_sync_and_async_count_alike),
        on_memory(test_handler_options_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
