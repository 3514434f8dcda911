/* Handlers that do not come back: past their time limit, past the deadline of a stop. */
#include "probe.h"

#include "base/env.h"
#include "broker/broker.h"
#include "broker/dispatch.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

/* Warnings of calls past their limit, and the last of them. */
struct hung_log {
    struct fan__mutex mutex;
    unsigned count;
    bool all; /* one told of three workers */
};

static void hung_log(void *context, enum fan_log_level level, const char *message)
{
    struct hung_log *log = context;
    if (level != FAN_LOG_WARNING || !strstr(message, "past their time limit"))
        return;
    fan__mutex_lock(&log->mutex);
    log->count++;
    log->all |= strstr(message, "group \"mail\", handler \"\"") && strstr(message, "3 of 10");
    fan__mutex_unlock(&log->mutex);
}

static void wait_for_claims(struct fan_broker *broker, uint64_t count, unsigned attempts)
{
    for (uint64_t seq = 1; seq <= count; seq++) {
        struct fan__mutex mutex;
        struct fan__cond never;
        fan__mutex_init(&mutex);
        fan__cond_init(&never);
        fan__mutex_lock(&mutex);
        while (find(broker, "mail", seq).attempts < attempts)
            fan__cond_wait_until(&never, &mutex, fan__deadline_ns(2));
        fan__mutex_unlock(&mutex);
        fan__cond_deinit(&never);
        fan__mutex_deinit(&mutex);
    }
}

static void test_H05_H03_hung_events_hold_one_worker_each(void **state)
{
    struct place *place = *state;
    struct hung_log log = { .count = 0 };
    fan__mutex_init(&log.mutex);
    struct fan_env env = *fan_env_default();
    env.context = &log;
    env.log = hung_log;
    struct fan_broker_options broker_options = FAN_BROKER_OPTIONS_INIT;
    broker_options.env = &env;
    broker_options.lease_ms = 300;
    struct fan_broker *broker = broker_with(place, &broker_options);
    struct probe probe;
    struct probe other;
    probe_init(&probe);
    probe_init(&other);
    probe.held = 1;
    struct fan_retry_policy retry = { .retries = 3, .delay_ms = 1 };
    struct fan_handler_options options = probe_options(&probe, "mail", "bad.*");
    options.timeout_ms = 100;
    options.retry = &retry;
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    options = probe_options(&other, "audit", "good.*");
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    for (int i = 0; i < 3; i++)
        publish(broker, "bad.one", NULL);
    wait_for_stats(broker, retried, 3);
    /* The next attempts are claimed, and not begun; for longer than a lease. */
    wait_for_claims(broker, 3, 2);
    for (int i = 0; i < 20; i++)
        publish(broker, "good.one", NULL);
    probe_wait_done(&other, 20);
    int64_t until_ns = fan__deadline_ns(900);
    fan__mutex_lock(&probe.mutex);
    while (probe.begun == 3 && fan__cond_wait_until(&probe.changed, &probe.mutex, until_ns))
        ;
    assert_int_equal(probe.begun, 3);
    fan__mutex_unlock(&probe.mutex);
    assert_int_equal(stats_of(broker).workers_active, 3);
    for (uint64_t seq = 1; seq <= 3; seq++) {
        assert_int_equal(find(broker, "mail", seq).attempts, 2);
        assert_int_equal(find(broker, "mail", seq).lapses, 0);
    }
    fan__mutex_lock(&log.mutex);
    assert_int_equal(log.count, 3);
    assert_true(log.all);
    fan__mutex_unlock(&log.mutex);
    /* When the calls end, the second attempts begin, and are done. */
    probe_let_go(&probe);
    wait_for_stats(broker, processed, 3 + 20 + 3);
    assert_int_equal(stats_of(broker).late, 3);
    assert_int_equal(probe.begun, 6);
    assert_int_equal(probe.running_max, 3);
    for (uint64_t seq = 1; seq <= 3; seq++) {
        assert_int_equal(probe.attempts[seq], 2);
        assert_int_equal(find(broker, "mail", seq).status, FAN_EVENT_COMPLETED);
        assert_int_equal(find(broker, "mail", seq).attempts, 2);
    }
    fan_broker_free(broker);
}

/* What waits behind a call takes no room from the other events of its own handler, either. */
static void test_H05_H04_what_waits_for_a_hung_call_takes_no_room(void **state)
{
    struct place *place = *state;
    struct fan_broker_options broker_options = FAN_BROKER_OPTIONS_INIT;
    broker_options.work_queue_count = 1;
    struct fan_broker *broker = broker_with(place, &broker_options);
    struct probe probe;
    probe_init_held(&probe);
    probe.held_seq = 1;
    struct fan_retry_policy retry = { .retries = 3, .delay_ms = 1 };
    struct fan_handler_options options = probe_options(&probe, "mail", NULL);
    options.timeout_ms = 100;
    options.retry = &retry;
    options.concurrency = 2;
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    publish(broker, "a.b.c", NULL);
    wait_for_stats(broker, retried, 1);
    wait_for_claims(broker, 1, 2);
    publish_times(broker, 20);
    probe_wait_done(&probe, 20);
    wait_for_stats(broker, workers_active, 1);
    probe_let_go(&probe);
    assert_ok(fan_broker_stop(broker, 60000));
    assert_int_equal(find(broker, "mail", 1).status, FAN_EVENT_COMPLETED);
    assert_int_equal(find(broker, "mail", 1).attempts, 2);
    assert_int_equal(probe.begun, 22);
    fan_broker_free(broker);
}

/* Its first call with us hangs; whether the next one has others beside it. */
struct lonely {
    struct probe *others;
    atomic_bool held;
    atomic_bool again;
    atomic_size_t beside;
};

static enum fan_verdict on_lonely(void *context, const struct fan_event *event,
                                  const struct fan_handling *handling)
{
    struct lonely *lonely = context;
    struct probe *others = lonely->others;
    (void)event;
    fan__mutex_lock(&others->mutex);
    if (handling->attempt > FAN__LAPSES_MAX) {
        atomic_store(&lonely->beside, others->running);
        atomic_store(&lonely->again, true);
    }
    while (handling->attempt <= FAN__LAPSES_MAX && atomic_load(&lonely->held))
        fan__cond_wait_until(&others->changed, &others->mutex, fan__deadline_ns(5));
    fan__mutex_unlock(&others->mutex);
    return FAN_VERDICT_DONE;
}

static bool has_suspect(struct fan__dispatch *dispatch)
{
    fan__mutex_lock(&dispatch->mutex);
    bool has = dispatch->suspect != NULL;
    fan__mutex_unlock(&dispatch->mutex);
    return has;
}

/*
 * What two holders died with, and which then waited for a call that hung, runs alone all the same.
 */
static void test_L08_what_waited_for_a_hung_call_runs_alone(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_with(place, NULL);
    struct fan__dispatch *dispatch = broker->dispatch;
    make_group(fan_broker_store(broker), "mail");
    publish(broker, "bad.one", NULL);
    for (int i = 0; i < FAN__LAPSES_MAX - 1; i++)
        claim_and_die(fan_broker_store(broker), "mail", 1);
    struct probe others;
    struct lonely lonely = { .others = &others };
    probe_init(&others);
    others.held = 1;
    atomic_init(&lonely.held, true);
    struct fan_retry_policy retry = { .retries = 3, .delay_ms = 1 };
    struct fan_handler_options options = probe_options(&others, "mail", "bad.*");
    options.handle = on_lonely;
    options.context = &lonely;
    options.timeout_ms = 100;
    options.retry = &retry;
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    options = probe_options(&others, "audit", "good.*");
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    wait_for_stats(broker, retried, 1);
    wait_for_claims(broker, 1, FAN__LAPSES_MAX + 1);
    publish(broker, "good.one", NULL);
    probe_wait_begun(&others, 1);
    fan__mutex_lock(&dispatch->mutex);
    dispatch->alone_ns = 60000 * FAN__NS_PER_MS;
    fan__mutex_unlock(&dispatch->mutex);
    atomic_store(&lonely.held, false);
    while (!has_suspect(dispatch) && !atomic_load(&lonely.again))
        sched_yield();
    probe_let_go(&others);
    wait_for_stats(broker, processed, 1 + 1 + 1);
    assert_true(atomic_load(&lonely.again));
    assert_int_equal(atomic_load(&lonely.beside), 0);
    assert_int_equal(find(broker, "mail", 1).attempts, FAN__LAPSES_MAX + 1);
    assert_int_equal(find(broker, "mail", 1).lapses, FAN__LAPSES_MAX - 1);
    fan_broker_free(broker);
}

struct freeing {
    struct fan_broker *broker;
    atomic_bool freed;
};

static void *free_broker(void *context)
{
    struct freeing *freeing = context;
    fan_broker_free(freeing->broker);
    atomic_store(&freeing->freed, true);
    return NULL;
}

/* `store` outlives both brokers, as another process's would. */
static struct fan_broker *broker_at(struct fan_store *store)
{
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    options.store = store;
    struct fan_broker *broker = NULL;
    assert_ok(fan_broker_open(NULL, &options, &broker, NULL));
    assert_ok(fan_broker_start(broker));
    return broker;
}

static void test_H09_a_stop_gives_up_calls_that_do_not_end(void **state)
{
    struct place *place = *state;
    struct fan_store *store = NULL;
    assert_ok(fan_store_open(place->uri, NULL, &store, NULL));
    struct fan_broker *broker = broker_at(store);
    struct probe probe;
    struct probe live;
    struct probe other;
    probe_init(&probe);
    probe_init(&live);
    probe_init(&other);
    probe.held = live.held = 1;
    probe_handle(&probe, broker, "mail");
    probe_handle(&live, broker, NULL);
    publish(broker, "a.b.c", NULL);
    probe_wait_begun(&probe, 1);
    probe_wait_begun(&live, 1);
    int64_t begun_ns = fan__deadline_ns(0);
    assert_int_equal(fan_broker_stop(broker, 100), FAN_TIMED_OUT);
    assert_true(fan__deadline_ns(0) - begun_ns >= INT64_C(100000000));
    assert_int_equal(probe.done + live.done, 0);
    assert_int_equal(find(broker, "mail", 1).status, FAN_EVENT_PENDING);
    assert_int_equal(find(broker, "mail", 1).attempts, 0);
    assert_ok(fan_broker_stop(broker, 100));
    /* Another has the event meanwhile. */
    struct fan_broker *next = broker_at(store);
    struct fan_handler_options options = probe_options(&other, "mail", NULL);
    assert_ok(fan_broker_handle(next, &options, NULL, NULL));
    wait_for_stats(next, processed, 1);
    assert_int_equal(other.attempts[1], 1);
    /* Who frees waits for the calls, whose memory is the program's. */
    struct freeing freeing = { .broker = broker };
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, free_broker, &freeing), 0);
    int64_t until_ns = fan__deadline_ns(100);
    fan__mutex_lock(&probe.mutex);
    while (fan__cond_wait_until(&probe.changed, &probe.mutex, until_ns))
        ;
    assert_false(atomic_load(&freeing.freed));
    /* What it says is dropped: the other's word stands. */
    probe.verdict = FAN_VERDICT_FAIL;
    fan__mutex_unlock(&probe.mutex);
    probe_let_go(&probe);
    probe_let_go(&live);
    pthread_join(thread, NULL);
    assert_int_equal(probe.done + live.done, 2);
    assert_int_equal(find(next, "mail", 1).status, FAN_EVENT_COMPLETED);
    fan_broker_free(next);
    fan_store_close(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_every_store(test_H05_H03_hung_events_hold_one_worker_each),
        on_every_store(test_H05_H04_what_waits_for_a_hung_call_takes_no_room),
        on_every_store(test_L08_what_waited_for_a_hung_call_runs_alone),
        on_every_store(test_H09_a_stop_gives_up_calls_that_do_not_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
