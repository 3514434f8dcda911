/* What is owed is settled in the end: leases, lapses, other processes, restarts, many events. */
#include "../seed.h"
#include "probe.h"

#include "base/env.h"
#include "broker/dispatch.h"

#include <fanfare/batch.h>

#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>

#define MANY 20000
#define MANY_SOAK 1000000

static void test_L08_H05_a_lapsed_claim_comes_again_with_its_attempts(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    make_group(fan_broker_store(broker), "mail");
    publish(broker, "a.b.c", NULL);
    claim_and_die(fan_broker_store(broker), "mail", 1);
    claim_and_die(fan_broker_store(broker), "mail", 1);
    struct probe probe;
    probe_init(&probe);
    probe.verdict = FAN_VERDICT_RETRY;
    struct fan_retry_policy once = { .retries = 1, .delay_ms = 1 };
    struct fan_handler_options options = probe_options(&probe, "mail", NULL);
    options.retry = &once;
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    wait_for_stats(broker, dead, 1);
    /* Deaths are counted as attempts, and use up no retries. */
    assert_int_equal(probe.done, 2);
    assert_int_equal(probe.lapses, 2);
    assert_int_equal(probe.attempts[1], 4);
    assert_int_equal(find(broker, "mail", 1).reason, FAN_DEAD_RETRIES);
    fan_broker_free(broker);
}

static void test_L08_H06_after_three_lapses_it_is_a_dead_letter_unrun(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    make_group(fan_broker_store(broker), "mail");
    publish(broker, "a.b.c", NULL);
    for (int i = 0; i < 3; i++)
        claim_and_die(fan_broker_store(broker), "mail", 1);
    publish(broker, "a.b.c", NULL);
    struct probe probe;
    probe_init(&probe);
    probe_handle(&probe, broker, "mail");
    wait_for_stats(broker, dead, 1);
    probe_wait_done(&probe, 1);
    assert_int_equal(probe.seqs[0], 2);
    struct found found = find(broker, "mail", 1);
    assert_int_equal(found.reason, FAN_DEAD_LAPSES);
    assert_int_equal(found.lapses, 3);
    assert_non_null(strstr(found.error, "3 holders died with it"));
    /* Redriven, it starts anew. */
    struct fan_group_name name = { "mail", "" };
    assert_ok(fan_group_move(fan_broker_store(broker), &name, 1, FAN_EVENT_PENDING));
    probe_wait_done(&probe, 2);
    assert_int_equal(probe.attempts[1], 1);
    fan_broker_free(broker);
}

static void test_L08_what_two_holders_died_of_is_run_alone(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    make_group(fan_broker_store(broker), "mail");
    publish_times(broker, 20);
    claim_and_die(fan_broker_store(broker), "mail", 20);
    claim_and_die(fan_broker_store(broker), "mail", 20);
    publish_times(broker, 20);
    struct probe probe;
    probe_init(&probe);
    probe_handle(&probe, broker, "mail");
    probe_wait_done(&probe, 40);
    fan_broker_free(broker);
    for (uint64_t seq = 1; seq <= 40; seq++)
        assert_int_equal(probe.attempts[seq], seq <= 20 ? 3 : 1);
}

/* A call that does not end keeps others waiting for a bounded time, also the next such event. */
static void test_L08_two_that_run_alone_stop_nobody(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    broker->dispatch->alone_ns = 50 * FAN__NS_PER_MS;
    make_group(fan_broker_store(broker), "slow");
    publish_times(broker, 2);
    claim_and_die(fan_broker_store(broker), "slow", 2);
    claim_and_die(fan_broker_store(broker), "slow", 2);
    struct probe slow;
    struct probe other;
    probe_init(&slow);
    probe_init(&other);
    slow.held = 1;
    struct fan_handler_options options = probe_options(&slow, "slow", "a.b.c");
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    probe_wait_begun(&slow, 2);
    options = probe_options(&other, "other", "b.c.d");
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    publish(broker, "b.c.d", NULL);
    probe_wait_done(&other, 1);
    assert_int_equal(slow.done, 0);
    probe_let_go(&slow);
    probe_wait_done(&slow, 2);
    fan_broker_free(broker);
}

static void test_P09_leases_are_renewed_while_a_handler_runs(void **state)
{
    struct place *place = *state;
    struct fan_broker_options broker_options = FAN_BROKER_OPTIONS_INIT;
    broker_options.lease_ms = 1500; /* a busy machine stalls threads for less */
    broker_options.worker_count = 1;
    struct fan_broker *broker = broker_with(place, &broker_options);
    struct probe probe;
    probe_init_held(&probe);
    probe_handle(&probe, broker, "mail");
    publish_times(broker, 3);
    probe_wait_begun(&probe, 1);
    /* Longer than a lease, while another looks for what has lapsed. */
    struct fan_group_name name = { "mail", "" };
    struct fan_claim_options claim = { .size = FAN_CLAIM_OPTIONS_SIZE, .owner = "other" };
    struct fan_batch *batch = NULL;
    struct fan_claim claimed;
    assert_ok(fan_batch_new(NULL, &batch));
    int64_t until_ns = fan__deadline_ns(2000);
    fan__mutex_lock(&probe.mutex);
    while (fan__deadline_ns(0) < until_ns) {
        fan__cond_wait_until(&probe.changed, &probe.mutex, fan__deadline_ns(10));
        assert_int_equal(fan_group_claim(fan_broker_store(broker), &name, &claim, batch, &claimed),
                         FAN_AGAIN);
    }
    fan__mutex_unlock(&probe.mutex);
    fan_batch_free(batch);
    probe_let_go(&probe);
    probe_wait_done(&probe, 3);
    fan_broker_free(broker);
    assert_int_equal(probe.done, 3);
}

static void test_L08_a_group_deleted_under_its_handler_stops_nobody(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    struct probe gone;
    struct probe there;
    probe_init(&gone);
    probe_init(&there);
    gone.held = 1;
    struct fan_handler *handler;
    struct fan_handler_options options = probe_options(&gone, "gone", NULL);
    assert_ok(fan_broker_handle(broker, &options, &handler, NULL));
    probe_handle(&there, broker, "there");
    publish(broker, "a.b.c", NULL);
    probe_wait_begun(&gone, 1);
    struct fan_group_name name = { "gone", "" };
    assert_ok(fan_group_delete(fan_broker_store(broker), &name));
    probe_let_go(&gone);
    publish_times(broker, 20);
    probe_wait_done(&there, 21);
    fan_handler_free(handler);
    fan_broker_free(broker);
}

/* ------------------------------------------------------------------ a clock of one's own */

static atomic_llong steps_us;

static int64_t step_wall_us(void *context)
{
    (void)context;
    return 1700000000000000 + atomic_load(&steps_us);
}

static int64_t step_monotonic_ns(void *context)
{
    (void)context;
    return atomic_load(&steps_us) * 1000 + 1000000000;
}

static void step_all(struct fan_broker *broker)
{
    enum fan_status status;
    do
        status = fan_broker_step(broker);
    while (status == FAN_OK);
    assert_int_equal(status, FAN_AGAIN);
}

static struct fan_broker *broker_by_our_clock(const struct place *place)
{
    static struct fan_env env; /* the broker's until its end */
    env = *fan_env_default();
    env.wall_us = step_wall_us;
    env.monotonic_ns = step_monotonic_ns;
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    options.env = &env;
    options.stepped = true;
    return broker_with(place, &options);
}

static void test_H03_a_stepped_broker_retries_by_the_environments_clock(void **state)
{
    struct fan_broker *broker = broker_by_our_clock(*state);
    struct probe probe;
    probe_init(&probe);
    probe.verdict = FAN_VERDICT_RETRY;
    probe_handle(&probe, broker, "mail");
    publish(broker, "a.b.c", NULL);
    step_all(broker);
    static const unsigned waits_ms[] = { 1000, 2000, 4000 };
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(probe.done, i + 1);
        atomic_fetch_add(&steps_us, (waits_ms[i] - 10) * 1000);
        step_all(broker);
        assert_int_equal(probe.done, i + 1);
        atomic_fetch_add(&steps_us, 20 * 1000);
        step_all(broker);
    }
    assert_int_equal(probe.done, 4);
    assert_int_equal(find(broker, "mail", 1).reason, FAN_DEAD_RETRIES);
    fan_broker_free(broker);
}

/*
 * The answer to a settlement is lost, and the dead letter redriven before the store tells. What it
 * is handled as then is held beside it, as long as nothing can be settled; when the leases lapse,
 * the fresh claim is that of the second call.
 */
static void test_H05_H06_a_redriven_one_is_settled_as_its_own_call_said(void **state)
{
    const struct place *place = *state;
    struct place faulty = *place;
    snprintf(faulty.uri, sizeof(faulty.uri), "fault:%.100s", place->uri);
    struct fan_broker *broker = broker_by_our_clock(&faulty);
    struct fan_store *store = fan_broker_store(broker);
    struct probe probe;
    probe_init(&probe);
    probe.verdict = FAN_VERDICT_FAIL;
    probe_handle(&probe, broker, "mail");
    assert_ok(fan_fault_set(store, "settle.unknown_done=100%", NULL));
    publish(broker, "a.b.c", NULL);
    step_all(broker);
    assert_int_equal(probe.done, 1);
    assert_int_equal(find(broker, "mail", 1).status, FAN_EVENT_FAILED);
    assert_ok(fan_fault_set(store, "settle.unavailable=100%,renew.unavailable=100%", NULL));
    assert_ok(fan_group_move(store, &(struct fan_group_name){ "mail", "" }, 1, FAN_EVENT_PENDING));
    probe.verdict = FAN_VERDICT_DONE;
    atomic_fetch_add(&steps_us, 1000000);
    step_all(broker);
    assert_int_equal(probe.done, 2);
    atomic_fetch_add(&steps_us, 3600000000);
    step_all(broker);
    assert_int_equal(find(broker, "mail", 1).lapses, 1);
    assert_ok(fan_fault_set(store, "", NULL));
    atomic_fetch_add(&steps_us, 1000000);
    step_all(broker);
    assert_int_equal(probe.done, 2);
    assert_int_equal(find(broker, "mail", 1).status, FAN_EVENT_COMPLETED);
    fan_broker_free(broker);
}

/* ------------------------------------------------------------------ renamed handlers */

struct log {
    struct fan__mutex mutex;
    unsigned warnings;
    char last[256];
};

static void on_log(void *context, enum fan_log_level level, const char *message)
{
    struct log *log = context;
    fan__mutex_lock(&log->mutex);
    if (level == FAN_LOG_WARNING && strstr(message, "nobody handles")) {
        log->warnings++;
        snprintf(log->last, sizeof(log->last), "%s", message);
    }
    fan__mutex_unlock(&log->mutex);
}

static void test_R07_a_group_that_nobody_handles_for_is_named(void **state)
{
    struct place *place = *state;
    struct log log = { .warnings = 0 };
    fan__mutex_init(&log.mutex);
    struct fan_env env = *fan_env_default();
    env.context = &log;
    env.log = on_log;
    struct fan_broker *broker = broker_started(place);
    struct fan_store *store = fan_broker_store(broker);
    make_group(store, "old-name");
    make_group(store, "idle");
    make_group(store, "joined");
    publish(broker, "a.b.c", NULL);
    fan_broker_free(broker);
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    options.env = &env;
    broker = NULL;
    assert_ok(fan_broker_open(place->uri, &options, &broker, NULL));
    struct probe probe;
    probe_init(&probe);
    probe_handle(&probe, broker, "joined");
    broker->dispatch->patience_us = 0; /* nobody is given time to come back */
    assert_ok(fan_broker_start(broker));
    wait_for_stats(broker, unhandled, 2);
    fan_broker_free(broker);
    assert_int_equal(log.warnings, 2);
    assert_non_null(strstr(log.last, "1 events are owed to group \"old-name\""));
}

/* ------------------------------------------------------------------ many */

/* Counts what is allocated, so that "flat" is a number. */
struct meter {
    atomic_size_t used;
    atomic_size_t used_max;
};

static void note_use(struct meter *meter, size_t added, size_t removed)
{
    size_t change = added - removed; /* modulo */
    size_t used = atomic_fetch_add(&meter->used, change) + change;
    size_t seen = atomic_load(&meter->used_max);
    while (used > seen && !atomic_compare_exchange_weak(&meter->used_max, &seen, used))
        ;
}

static void *meter_resize(void *context, void *pointer, size_t size)
{
    size_t before = pointer ? malloc_usable_size(pointer) : 0;
    void *resized = realloc(pointer, size);
    if (resized)
        note_use(context, malloc_usable_size(resized), before);
    return resized;
}

static void meter_release(void *context, void *pointer)
{
    note_use(context, 0, pointer ? malloc_usable_size(pointer) : 0);
    free(pointer);
}

static atomic_uint scarce; /* one allocation of so many fails; 0: none */
static atomic_uint allocations;

static void *scarce_resize(void *context, void *pointer, size_t size)
{
    (void)context;
    unsigned every = atomic_load(&scarce);
    if (every > 0 && atomic_fetch_add(&allocations, 1) % every == 0)
        return NULL;
    return realloc(pointer, size);
}

static void test_L08_R03_what_there_is_no_memory_for_stays_owed(void **state)
{
    struct place *place = *state;
    struct fan_env env = *fan_env_default();
    env.resize = scarce_resize;
    struct fan_broker_options broker_options = FAN_BROKER_OPTIONS_INIT;
    broker_options.env = &env;
    struct fan_broker *broker = broker_with(place, &broker_options);
    struct probe probe;
    probe_init(&probe);
    probe_handle(&probe, broker, "mail");
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
    atomic_store(&scarce, 31);
    for (int i = 0; i < 100;) {
        enum fan_status status = fan_broker_publish(broker, &draft, NULL, NULL);
        assert_true(status == FAN_OK || status == FAN_NO_MEMORY);
        i += status == FAN_OK;
    }
    probe_wait_done(&probe, 100);
    atomic_store(&scarce, 0);
    assert_ok(fan_broker_stop(broker, 60000));
    struct fan_store_stats stats = { .size = sizeof(stats) };
    assert_ok(fan_store_stats(fan_broker_store(broker), &stats));
    assert_int_equal(stats.completed, stats.events);
    assert_int_equal(stats.events, 100);
    assert_int_equal(probe.done, 100);
    fan_broker_free(broker);
}

struct many {
    atomic_uchar *seen; /* by sequence */
    size_t count;
    atomic_size_t twice;
};

static enum fan_verdict on_many(void *context, const struct fan_event *event,
                                const struct fan_handling *handling)
{
    struct many *many = context;
    uint64_t seq = fan_event_seq(event);
    if (seq > many->count || (handling->attempt == 1 && atomic_fetch_add(&many->seen[seq], 1) > 0))
        atomic_fetch_add(&many->twice, 1);
    /* One in a thousand comes twice, one in ten thousand is a dead letter. */
    if (seq % 10000 == 0)
        return FAN_VERDICT_FAIL;
    return seq % 1000 == 1 && handling->attempt == 1 ? FAN_VERDICT_RETRY : FAN_VERDICT_DONE;
}

/* Keeps the writer's queue filled, but not memory: no more are under way than the log can take. */
static void publish_many(struct fan_broker *broker, size_t count)
{
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE,
                                     .type = "many.events.create",
                                     .payload = FAN_STR("{\"id\": 42, \"name\": \"Ada\"}") };
    for (size_t i = 0; i < count; i++) {
        if (i % 1000 == 0) {
            assert_ok(fan_broker_publish(broker, &draft, NULL, NULL));
            continue;
        }
        assert_ok(fan_broker_publish_async(broker, &draft, NULL, NULL, NULL));
    }
}

static void test_L08_L12_many_events_are_none_lost_none_stuck_memory_flat(void **state)
{
    struct place *place = *state;
    struct meter meter = { 0 };
    struct fan_env env = *fan_env_default();
    env.context = &meter;
    env.resize = meter_resize;
    env.release = meter_release;
    size_t count = test_is_soak() ? MANY_SOAK : MANY;
    struct many many = { .seen = test_calloc(count + 1, 1), .count = count };
    struct fan_broker_options broker_options = FAN_BROKER_OPTIONS_INIT;
    broker_options.env = &env;
    broker_options.retry = (struct fan_retry_policy){ .delay_ms = 10 };
    struct fan_broker *broker = broker_with(place, &broker_options);
    struct fan_handler_options options = {
        .size = FAN_HANDLER_OPTIONS_SIZE, .group = "mail", .handle = on_many, .context = &many
    };
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    publish_many(broker, count);
    wait_for_stats(broker, handled, count + count / 1000);
    wait_for_stats(broker, dead, count / 10000);
    assert_ok(fan_broker_stop(broker, 60000));
    struct fan_store_stats stats = { .size = sizeof(stats) };
    assert_ok(fan_store_stats(fan_broker_store(broker), &stats));
    assert_int_equal(stats.events, count);
    assert_int_equal(stats.pending + stats.processing, 0);
    assert_int_equal(stats.failed, count / 10000);
    assert_int_equal(many.twice, 0);
    for (size_t seq = 1; seq <= count; seq++)
        assert_int_equal(many.seen[seq], 1);
    /* The bound does not depend on the number of events. */
    print_message("# %zu events, at most %zu KiB\n", count, atomic_load(&meter.used_max) / 1024);
    assert_true(atomic_load(&meter.used_max) < (size_t)16 << 20);
    fan_broker_free(broker);
    assert_int_equal(atomic_load(&meter.used), 0);
    test_free(many.seen);
}

/* ------------------------------------------------------------------ stepping */

static enum fan_verdict free_other(void *context, const struct fan_event *event,
                                   const struct fan_handling *handling)
{
    (void)event;
    (void)handling;
    struct fan_handler **other = context;
    fan_handler_free(*other);
    *other = NULL;
    return FAN_VERDICT_DONE;
}

static void test_H08_a_stepped_handler_may_free_another(void **state)
{
    struct place *place = *state;
    struct fan_broker_options broker_options = FAN_BROKER_OPTIONS_INIT;
    broker_options.stepped = true;
    struct fan_broker *broker = broker_with(place, &broker_options);
    struct fan_handler *other = NULL;
    struct probe probe;
    probe_init(&probe);
    struct fan_handler_options options = {
        .size = FAN_HANDLER_OPTIONS_SIZE, .group = "first", .handle = free_other, .context = &other
    };
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    options = probe_options(&probe, "second", NULL);
    assert_ok(fan_broker_handle(broker, &options, &other, NULL));
    publish(broker, "a.b.c", NULL);
    step_all(broker);
    assert_null(other);
    assert_int_equal(probe.done, 0);
    struct found found = { .group = "second", .handler = "" };
    assert_ok(fan_store_deliveries(fan_broker_store(broker), 1, 0, found_see, &found));
    assert_true(!found.there || found.status == FAN_EVENT_PENDING);
    assert_int_equal(stats_of(broker).handlers, 1);
    fan_broker_free(broker);
}

static void test_L08_a_stepped_stop_hands_back_what_is_to_run_alone(void **state)
{
    struct place *place = *state;
    struct fan_broker_options broker_options = FAN_BROKER_OPTIONS_INIT;
    broker_options.stepped = true;
    struct fan_broker *broker = broker_with(place, &broker_options);
    static const char *const groups[] = { "first", "second" };
    struct probe probes[2];
    for (int i = 0; i < 2; i++) {
        probe_init(&probes[i]);
        make_group(fan_broker_store(broker), groups[i]);
        probe_handle(&probes[i], broker, groups[i]);
    }
    publish(broker, "a.b.c", NULL);
    for (int i = 0; i < 2; i++) {
        claim_and_die(fan_broker_store(broker), groups[0], 1);
        claim_and_die(fan_broker_store(broker), groups[1], 1);
    }
    struct fan_store_stats stats = { .size = sizeof(stats), .processing = 2 };
    while (stats.processing > 0)
        assert_ok(fan_store_stats(fan_broker_store(broker), &stats));
    /* Both leases are over: what is of the first is claimed. */
    while (fan_broker_step(broker) == FAN_AGAIN)
        ;
    assert_ok(fan_broker_stop(broker, 1000));
    assert_ok(fan_store_stats(fan_broker_store(broker), &stats));
    assert_int_equal(stats.processing + stats.failed, 0);
    fan_broker_free(broker);
}

static void *publish_and_wait(void *context)
{
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
    for (int i = 0; i < 20; i++)
        if (fan_broker_publish_sync(context, &draft, NULL, NULL) != FAN_OK)
            return context;
    return NULL;
}

static void test_H01_many_may_wait_on_a_stepped_broker(void **state)
{
    struct place *place = *state;
    struct fan_broker_options broker_options = FAN_BROKER_OPTIONS_INIT;
    broker_options.stepped = true;
    struct fan_broker *broker = broker_with(place, &broker_options);
    struct probe probe;
    probe_init(&probe);
    probe_handle(&probe, broker, "mail");
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, publish_and_wait, broker), 0);
    for (int i = 0; i < 4; i++) {
        void *failed;
        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
    assert_int_equal(probe.done, 80);
    assert_int_equal(probe.running_max, 1);
    fan_broker_free(broker);
}

/* ------------------------------------------------------------------ one id, stored twice */

struct again {
    struct fan_broker *broker;
    struct probe *probe;
    bool in_commit; /* all is said before its publisher knows its sequence */
    bool later_first;
    enum fan_status status;
    struct fan_cursor cursor;
    struct fan_error error;
};

static const struct fan_event_draft of_one_id = { .size = FAN_EVENT_DRAFT_SIZE,
                                                  .type = "a.b.c",
                                                  .id = "one" };

static void *publish_again(void *context)
{
    struct again *again = context;
    again->status =
        fan_broker_publish_sync(again->broker, &of_one_id, &again->cursor, &again->error);
    return NULL;
}

static void hold_only(struct probe *probe, uint64_t seq)
{
    fan__mutex_lock(&probe->mutex);
    probe->held_seq = seq;
    fan__cond_broadcast(&probe->changed);
    fan__mutex_unlock(&probe->mutex);
}

/* Both calls return, one after the other, each when the store knows of the one before it. */
static void let_both_go(struct again *again)
{
    struct fan_broker *broker = again->broker;
    probe_wait_begun(again->probe, 2);
    hold_only(again->probe, again->later_first ? 1 : 2);
    wait_for_stats(broker, lost, again->later_first ? 0U : 1U);
    wait_for_stats(broker, processed, again->later_first ? 1U : 0U);
    probe_let_go(again->probe);
    wait_for_stats(broker, lost, 1);
    wait_for_stats(broker, processed, 1);
}

static void on_stored(void *context, enum fan_source source, const char *type)
{
    (void)source;
    (void)type;
    struct again *again = context;
    if (again->in_commit)
        let_both_go(again);
}

/* A handler has an event in hand that is deleted, and published again under its id. */
static void publish_one_id_twice(const struct place *place, bool in_commit, bool later_first)
{
    struct probe probe;
    probe_init_held(&probe);
    probe.verdict = FAN_VERDICT_FAIL;
    probe.failing = 1;
    struct again again = { .probe = &probe, .later_first = later_first };
    const struct fan_metrics metrics = { .size = FAN_METRICS_SIZE,
                                         .context = &again,
                                         .event_published = on_stored };
    struct fan_broker_options broker_options = FAN_BROKER_OPTIONS_INIT;
    broker_options.metrics = &metrics;
    struct fan_broker *broker = broker_with(place, &broker_options);
    again.broker = broker;
    probe_handle(&probe, broker, "mail");
    assert_ok(fan_broker_publish(broker, &of_one_id, NULL, NULL));
    probe_wait_begun(&probe, 1);
    assert_ok(fan_store_delete(fan_broker_store(broker), "one"));
    again.in_commit = in_commit;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, publish_again, &again), 0);
    if (!in_commit)
        let_both_go(&again);
    pthread_join(thread, NULL);
    assert_string_equal(again.error.message, "");
    assert_ok(again.status);
    assert_int_equal(again.cursor.seq, 2);
    assert_int_equal(find(broker, "mail", 2).status, FAN_EVENT_COMPLETED);
    fan_broker_free(broker);
}

static void test_H01_sync_waits_for_its_own_event_not_for_one_deleted(void **state)
{
    for (int i = 0; i < 4; i++) {
        struct place place;
        place_make(&place, *state);
        publish_one_id_twice(&place, i & 1, i & 2);
        place_remove(&place);
    }
}

static void test_H01_what_a_live_handler_says_of_one_deleted_is_not_told(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    struct probe durable;
    struct probe live;
    probe_init(&durable);
    probe_init_held(&live);
    live.verdict = FAN_VERDICT_FAIL;
    live.failing = 1;
    probe_handle(&durable, broker, "mail");
    probe_handle(&live, broker, NULL);
    assert_ok(fan_broker_publish(broker, &of_one_id, NULL, NULL));
    probe_wait_begun(&live, 1);
    wait_for_stats(broker, processed, 1);
    assert_ok(fan_store_delete(fan_broker_store(broker), "one"));
    struct again again = { .broker = broker };
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, publish_again, &again), 0);
    /* The second one is stored: who waits for it is there. */
    fan__mutex_lock(&durable.mutex);
    while (durable.attempts[2] == 0)
        fan__cond_wait(&durable.changed, &durable.mutex);
    fan__mutex_unlock(&durable.mutex);
    probe_let_go(&live);
    pthread_join(thread, NULL);
    assert_string_equal(again.error.message, "");
    assert_ok(again.status);
    assert_int_equal(live.done, 2);
    fan_broker_free(broker);
}

/* ------------------------------------------------------------------ more handlers than queue */

#define CROWD 30
#define CROWD_EVENTS 20

struct crowd {
    struct fan__mutex mutex;
    unsigned turn[CROWD_EVENTS + 1];
    unsigned wrong;
};

struct person {
    struct crowd *crowd;
    unsigned number;
};

static enum fan_verdict on_crowd(void *context, const struct fan_event *event,
                                 const struct fan_handling *handling)
{
    (void)handling;
    struct person *person = context;
    uint64_t seq = fan_event_seq(event);
    fan__mutex_lock(&person->crowd->mutex);
    person->crowd->wrong += person->crowd->turn[seq]++ != person->number;
    fan__mutex_unlock(&person->crowd->mutex);
    return FAN_VERDICT_DONE;
}

static void test_H07_H08_more_handlers_than_queue_get_on_in_their_order(void **state)
{
    struct place *place = *state;
    struct fan_broker_options broker_options = FAN_BROKER_OPTIONS_INIT;
    broker_options.work_queue_count = CROWD / 3;
    struct fan_broker *broker = broker_with(place, &broker_options);
    struct crowd crowd = { .wrong = 0 };
    fan__mutex_init(&crowd.mutex);
    struct person persons[CROWD];
    for (unsigned i = 0; i < CROWD; i++) {
        char group[32];
        persons[i] = (struct person){ &crowd, i };
        snprintf(group, sizeof(group), "group-%u", i);
        struct fan_handler_options options = { .size = FAN_HANDLER_OPTIONS_SIZE,
                                               .group = group,
                                               .pattern = i % 2 ? "a.b.c" : "a.>",
                                               .handle = on_crowd,
                                               .context = &persons[i] };
        assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    }
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
    for (int i = 0; i < CROWD_EVENTS; i++)
        assert_ok(fan_broker_publish_async(broker, &draft, NULL, NULL, NULL));
    wait_for_stats(broker, handled, CROWD * CROWD_EVENTS);
    fan_broker_free(broker);
    assert_int_equal(crowd.wrong, 0);
}

/* ------------------------------------------------------------------ order in two processes */

#define KEY_COUNT 8
#define KEY_EVENTS 40

struct keys {
    struct fan__mutex mutex;
    struct fan__cond changed;
    uint64_t last[KEY_COUNT];
    bool busy[KEY_COUNT];
    unsigned wrong;
    unsigned done;
};

static enum fan_verdict on_key(void *context, const struct fan_event *event,
                               const struct fan_handling *handling)
{
    struct keys *keys = context;
    size_t key = (size_t)(fan_event_topic(event)[0] - 'a');
    uint64_t seq = fan_event_seq(event);
    fan__mutex_lock(&keys->mutex);
    keys->wrong += keys->busy[key];
    keys->busy[key] = true;
    /* Some of each key come twice, and nothing of it in between. */
    bool again = seq % 16 == key && handling->attempt == 1;
    keys->wrong += seq <= keys->last[key];
    fan__cond_wait_until(&keys->changed, &keys->mutex, fan__deadline_ns(1));
    if (!again) {
        keys->last[key] = seq;
        keys->done++;
    }
    keys->busy[key] = false;
    fan__cond_broadcast(&keys->changed);
    fan__mutex_unlock(&keys->mutex);
    return again ? FAN_VERDICT_RETRY : FAN_VERDICT_DONE;
}

static void test_H04_two_processes_keep_the_order_of_every_key(void **state)
{
    struct place *place = *state;
    struct fan_broker *brokers[2] = { broker_started(place), broker_started(place) };
    struct keys keys = { .done = 0 };
    fan__mutex_init(&keys.mutex);
    fan__cond_init(&keys.changed);
    struct fan_retry_policy soon = { .delay_ms = 1 };
    struct fan_handler_options options = { .size = FAN_HANDLER_OPTIONS_SIZE,
                                           .group = "mail",
                                           .handle = on_key,
                                           .context = &keys,
                                           .retry = &soon,
                                           .ordered = true };
    for (int i = 0; i < 2; i++)
        assert_ok(fan_broker_handle(brokers[i], &options, NULL, NULL));
    for (int i = 0; i < KEY_COUNT * KEY_EVENTS; i++) {
        char topic[2] = { (char)('a' + i % KEY_COUNT), '\0' };
        publish(brokers[i / KEY_COUNT % 2], "a.b.c", topic);
    }
    fan__mutex_lock(&keys.mutex);
    while (keys.done < KEY_COUNT * KEY_EVENTS)
        fan__cond_wait(&keys.changed, &keys.mutex);
    fan__mutex_unlock(&keys.mutex);
    fan_broker_free(brokers[0]);
    fan_broker_free(brokers[1]);
    assert_int_equal(keys.wrong, 0);
}

static void test_L08_two_processes_share_a_group(void **state)
{
    struct place *place = *state;
    struct fan_broker *brokers[2] = { broker_started(place), broker_started(place) };
    struct probe probes[2];
    for (int i = 0; i < 2; i++) {
        probe_init(&probes[i]);
        struct fan_handler_options options = probe_options(&probes[i], "mail", NULL);
        assert_ok(fan_broker_handle(brokers[i], &options, NULL, NULL));
    }
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
    for (int i = 0; i < 1000; i++)
        assert_ok(fan_broker_publish_async(brokers[i % 2], &draft, NULL, NULL, NULL));
    struct fan_store_stats stats = { .size = sizeof(stats) };
    fan__mutex_lock(&probes[0].mutex);
    do {
        fan__cond_wait_until(&probes[0].changed, &probes[0].mutex, fan__deadline_ns(5));
        assert_ok(fan_store_stats(fan_broker_store(brokers[0]), &stats));
    } while (stats.completed < 1000);
    fan__mutex_unlock(&probes[0].mutex);
    fan_broker_free(brokers[0]);
    fan_broker_free(brokers[1]);
    assert_int_equal(probes[0].done + probes[1].done, 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_every_store(test_L08_H05_a_lapsed_claim_comes_again_with_its_attempts),
        on_every_store(test_L08_H06_after_three_lapses_it_is_a_dead_letter_unrun),
        on_every_store(test_L08_what_two_holders_died_of_is_run_alone),
        on_every_store(test_L08_two_that_run_alone_stop_nobody),
        on_every_store(test_P09_leases_are_renewed_while_a_handler_runs),
        on_every_store(test_L08_a_group_deleted_under_its_handler_stops_nobody),
        on_every_store(test_H03_a_stepped_broker_retries_by_the_environments_clock),
        on_every_store(test_H05_H06_a_redriven_one_is_settled_as_its_own_call_said),
        on_every_store(test_H08_a_stepped_handler_may_free_another),
        on_every_store(test_L08_a_stepped_stop_hands_back_what_is_to_run_alone),
        on_every_store(test_H01_many_may_wait_on_a_stepped_broker),
        on_every_scheme(test_H01_sync_waits_for_its_own_event_not_for_one_deleted),
        on_every_store(test_H01_what_a_live_handler_says_of_one_deleted_is_not_told),
        on_every_store(test_H07_H08_more_handlers_than_queue_get_on_in_their_order),
        on_sqlite(test_H04_two_processes_keep_the_order_of_every_key),
        on_sqlite(test_L08_two_processes_share_a_group),
        on_sqlite(test_R07_a_group_that_nobody_handles_for_is_named),
        on_every_store(test_L08_R03_what_there_is_no_memory_for_stays_owed),
        on_sqlite(test_L08_L12_many_events_are_none_lost_none_stuck_memory_flat),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
