/* How processing ends: a stop, its deadline, a store that is down, publishers that run into it. */
#include "../seed.h"
#include "probe.h"

#include "store/sqlite/sqlite.h"

#include <pthread.h>

static enum fan_verdict take_50_ms(void *context, const struct fan_event *event,
                                   const struct fan_handling *handling)
{
    struct probe *probe = context;
    int64_t until_ns = fan__deadline_ns(50);
    fan__mutex_lock(&probe->mutex);
    while (fan__deadline_ns(0) < until_ns)
        fan__cond_wait_until(&probe->changed, &probe->mutex, until_ns);
    fan__mutex_unlock(&probe->mutex);
    return probe_call(context, event, handling);
}

static void test_H09_stop_finishes_what_is_queued(void **state)
{
    struct place *place = *state;
    struct fan_broker_options broker_options = FAN_BROKER_OPTIONS_INIT;
    broker_options.worker_count = 2;
    struct fan_broker *broker = broker_with(place, &broker_options);
    struct probe probe;
    struct probe live;
    probe_init(&probe);
    probe_init(&live);
    struct fan_handler_options options = probe_options(&probe, "mail", NULL);
    options.handle = take_50_ms;
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    options = probe_options(&live, NULL, NULL);
    options.handle = take_50_ms;
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
    for (int i = 0; i < 5; i++)
        assert_ok(fan_broker_publish_async(broker, &draft, NULL, NULL, NULL));
    assert_ok(fan_broker_stop(broker, 60000));
    assert_int_equal(probe.done, 5);
    assert_int_equal(live.done, 5);
    for (uint64_t seq = 1; seq <= 5; seq++)
        assert_int_equal(find(broker, "mail", seq).status, FAN_EVENT_COMPLETED);
    /* Once more is nothing; a new start is refused. */
    assert_ok(fan_broker_stop(broker, 60000));
    assert_int_equal(fan_broker_start(broker), FAN_CLOSED);
    struct fan_error error = FAN_ERROR_INIT;
    assert_int_equal(fan_broker_handle(broker, &options, NULL, &error), FAN_CLOSED);
    assert_int_equal(fan_broker_publish(broker, &draft, NULL, &error), FAN_CLOSED);
    fan_broker_free(broker);
}

static void test_H09_past_the_deadline_the_rest_is_handed_back(void **state)
{
    struct place *place = *state;
    struct fan_broker_options broker_options = FAN_BROKER_OPTIONS_INIT;
    broker_options.worker_count = 2;
    struct fan_broker *broker = broker_with(place, &broker_options);
    struct probe probe;
    probe_init_held(&probe);
    probe.gives_up = true; /* when its token fires */
    probe.verdict = FAN_VERDICT_RETRY;
    probe_handle(&probe, broker, "mail");
    publish_times(broker, 10);
    probe_wait_begun(&probe, 2);
    assert_ok(fan_broker_stop(broker, 100));
    assert_int_equal(probe.begun, 2);
    assert_int_equal(probe.done, 2);
    struct fan_store_stats stats = { .size = sizeof(stats) };
    assert_ok(fan_store_stats(fan_broker_store(broker), &stats));
    assert_int_equal(stats.pending, 10);
    for (uint64_t seq = 1; seq <= 10; seq++) {
        struct found found = { .group = "mail", .handler = "" };
        assert_ok(fan_store_deliveries(fan_broker_store(broker), seq, 0, found_see, &found));
        assert_int_equal(found.attempts, 0);
        assert_int_equal(found.status, FAN_EVENT_PENDING);
    }
    fan_broker_free(broker);
}

struct storm {
    struct fan_broker *broker;
    struct fan__mutex mutex;
    struct fan__cond changed;
    unsigned started;
    unsigned astray; /* ended by anything but the stop */
    uint64_t accepted;
    uint64_t taken; /* without waiting: each is to be answered, once */
    uint64_t answered;
    uint64_t stored; /* of those */
};

#define STORM_FLIGHT 64

static void *storm_publish(void *context)
{
    struct storm *storm = context;
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
    uint64_t accepted = 0;
    fan__mutex_lock(&storm->mutex);
    storm->started++;
    fan__cond_broadcast(&storm->changed);
    fan__mutex_unlock(&storm->mutex);
    enum fan_status status;
    do {
        status = fan_broker_publish(storm->broker, &draft, NULL, NULL);
        accepted += status == FAN_OK;
    } while (status == FAN_OK);
    fan__mutex_lock(&storm->mutex);
    storm->accepted += accepted;
    storm->astray += status != FAN_CLOSED;
    fan__mutex_unlock(&storm->mutex);
    return NULL;
}

static void on_stormed(void *context, const struct fan_published *published)
{
    struct storm *storm = context;
    fan__mutex_lock(&storm->mutex);
    storm->answered++;
    storm->stored += published->status == FAN_OK;
    storm->astray += published->status != FAN_OK && published->status != FAN_CLOSED;
    fan__cond_broadcast(&storm->changed);
    fan__mutex_unlock(&storm->mutex);
}

/* As many at a time as there may be without an answer; who gets none in ever so long gives up. */
static void *storm_publish_async(void *context)
{
    struct storm *storm = context;
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
    enum fan_status status;
    do {
        fan__mutex_lock(&storm->mutex);
        storm->started++;
        storm->taken++;
        bool in_time = true;
        while (storm->taken - storm->answered > STORM_FLIGHT && in_time)
            in_time = fan__cond_wait_until(&storm->changed, &storm->mutex, fan__deadline_ns(20000));
        storm->astray += !in_time;
        fan__cond_broadcast(&storm->changed);
        fan__mutex_unlock(&storm->mutex);
        status = fan_broker_publish_async(storm->broker, &draft, on_stormed, storm, NULL);
        if (!in_time)
            break;
    } while (status == FAN_OK);
    fan__mutex_lock(&storm->mutex);
    storm->taken -= status != FAN_OK;
    storm->astray += status != FAN_CLOSED && status != FAN_OK;
    fan__mutex_unlock(&storm->mutex);
    return NULL;
}

static void storm_once(const char *scheme, unsigned round)
{
    struct place place;
    place_make(&place, scheme);
    if (strcmp(scheme, "memory") == 0)
        strcat(place.uri, "?capacity=1000000"); /* none may go, none be refused */
    struct fan_broker *broker = broker_started(&place);
    struct probe probe;
    probe_init(&probe);
    probe_handle(&probe, broker, "mail");
    struct storm storm = { .broker = broker };
    fan__mutex_init(&storm.mutex);
    fan__cond_init(&storm.changed);
    pthread_t threads[50];
    for (int i = 0; i < 50; i++)
        assert_int_equal(pthread_create(&threads[i], NULL,
                                        i % 5 == 0 ? storm_publish_async : storm_publish, &storm),
                         0);
    fan__mutex_lock(&storm.mutex);
    while (storm.started < round % 50 + 1)
        fan__cond_wait(&storm.changed, &storm.mutex);
    fan__mutex_unlock(&storm.mutex);
    enum fan_status status = fan_broker_stop(broker, round % 3 == 0 ? 0 : 5000);
    assert_true(status == FAN_OK || status == FAN_TIMED_OUT);
    for (int i = 0; i < 50; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(storm.astray, 0);
    assert_int_equal(storm.answered, storm.taken);
    storm.accepted += storm.stored;
    struct fan_store_stats stats = { .size = sizeof(stats) };
    assert_ok(fan_store_stats(fan_broker_store(broker), &stats));
    /* Nothing is held by who is gone, and every accepted event is there. */
    assert_int_equal(stats.processing, 0);
    assert_int_equal(stats.failed, 0);
    assert_int_equal(stats.events, storm.accepted);
    /* On a busy machine a call may be given up, whose word is then dropped. */
    wait_for_stats(broker, workers_active, 0);
    assert_int_equal(stats.completed + stats_of(broker).late, probe.done);
    assert_int_equal(stats.pending + stats.completed, storm.accepted);
    fan_broker_free(broker);
    place_remove(&place);
}

static void test_H10_fifty_publish_while_another_stops(void **state)
{
    unsigned rounds = test_is_soak() ? 1000 : 10;
    for (unsigned round = 0; round < rounds; round++)
        storm_once(*state, round);
}

/* ------------------------------------------------------------------ a store that fails */

/* The SQLite provider, but claims, settlements and renewals fail while it is down, or by turns. */
static struct {
    struct fan__mutex mutex;
    bool down;
    bool no_renewal;
    unsigned every; /* one call of so many fails; 0: none */
    unsigned calls;
    unsigned failures;
    unsigned settles;
    bool loses; /* settlements find that another has the claim */
} sick = { .mutex = { PTHREAD_MUTEX_INITIALIZER } };

static bool sick_fails(void)
{
    fan__mutex_lock(&sick.mutex);
    bool fails = sick.down || (sick.every > 0 && ++sick.calls % sick.every == 0);
    sick.failures += fails;
    fan__mutex_unlock(&sick.mutex);
    return fails;
}

static enum fan_status sick_claim(void *self, const struct fan_group_name *name,
                                  const struct fan_claim_options *options, struct fan_batch *batch,
                                  struct fan_claim *claims)
{
    return sick_fails() ? FAN_IO : fan__sqlite_provider.claim(self, name, options, batch, claims);
}

static enum fan_status sick_settle(void *self, const struct fan_group_name *name,
                                   struct fan_settle *items, size_t count)
{
    bool fails = sick_fails();
    fan__mutex_lock(&sick.mutex);
    sick.settles++;
    bool loses = sick.loses;
    fan__mutex_unlock(&sick.mutex);
    if (loses) {
        for (size_t i = 0; i < count; i++)
            items[i].ret_status = FAN_LOST;
        return FAN_OK;
    }
    return fails ? FAN_NO_SPACE : fan__sqlite_provider.settle(self, name, items, count);
}

static enum fan_status sick_renew(void *self, const struct fan_group_name *name,
                                  struct fan_settle *items, size_t count, uint32_t lease_ms)
{
    return sick_fails() || sick.no_renewal
               ? FAN_IO
               : fan__sqlite_provider.renew(self, name, items, count, lease_ms);
}

static struct fan_broker *broker_on_sick(const struct place *place, uint32_t lease_ms)
{
    static struct fan_provider provider;
    provider = fan__sqlite_provider;
    provider.claim = sick_claim;
    provider.settle = sick_settle;
    provider.renew = sick_renew;
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    options.provider = &provider;
    options.lease_ms = lease_ms;
    return broker_with(place, &options);
}

static void set_sick(bool down, unsigned every)
{
    fan__mutex_lock(&sick.mutex);
    sick.down = down;
    sick.every = every;
    fan__mutex_unlock(&sick.mutex);
}

static void test_R01_outcomes_outlive_a_store_that_fails(void **state)
{
    struct place *place = *state;
    set_sick(false, 3);
    struct fan_broker *broker = broker_on_sick(place, 0);
    struct probe probes[2];
    static const char *const groups[] = { "mail", "audit" };
    for (int i = 0; i < 2; i++) {
        probe_init(&probes[i]);
        probe_handle(&probes[i], broker, groups[i]);
    }
    publish_times(broker, 200);
    probe_wait_done(&probes[0], 200);
    probe_wait_done(&probes[1], 200);
    /* Down altogether while it works: what was run is recorded when it is back, not run again. */
    fan__mutex_lock(&probes[0].mutex);
    probes[0].held = 1;
    fan__mutex_unlock(&probes[0].mutex);
    publish_times(broker, 5);
    probe_wait_begun(&probes[0], 205);
    set_sick(true, 0);
    probe_let_go(&probes[0]);
    probe_wait_done(&probes[0], 205);
    wait_for_stats(broker, workers_active, 0);
    set_sick(false, 0);
    probe_wait_done(&probes[1], 205);
    assert_ok(fan_broker_stop(broker, 60000));
    struct fan_store_stats stats = { .size = sizeof(stats) };
    assert_ok(fan_store_stats(fan_broker_store(broker), &stats));
    assert_int_equal(stats.completed, 205);
    assert_int_equal(probes[0].done, 205);
    assert_int_equal(probes[1].done, 205);
    assert_true(sick.failures > 0);
    fan_broker_free(broker);
}

/* A thread that frees a handler. */
struct removal {
    pthread_t thread;
    struct fan__mutex mutex;
    struct fan__cond changed;
    struct fan_handler *handler;
    bool freed;
};

static void *remove_handler(void *context)
{
    struct removal *removal = context;
    fan_handler_free(removal->handler);
    fan__mutex_lock(&removal->mutex);
    removal->freed = true;
    fan__cond_broadcast(&removal->changed);
    fan__mutex_unlock(&removal->mutex);
    return NULL;
}

static void removal_start(struct removal *removal, struct fan_handler *handler)
{
    *removal = (struct removal){ .handler = handler };
    fan__mutex_init(&removal->mutex);
    fan__cond_init(&removal->changed);
    assert_int_equal(pthread_create(&removal->thread, NULL, remove_handler, removal), 0);
}

/* The store is down when the handler is freed, and back soon after. */
static void test_R01_H08_a_removed_handlers_outcomes_wait_for_the_store(void **state)
{
    struct place *place = *state;
    set_sick(false, 0);
    struct fan_broker *broker = broker_on_sick(place, 0);
    struct removal removal;
    struct fan_handler *handler = NULL;
    struct probe probe;
    probe_init_held(&probe);
    struct fan_handler_options options = probe_options(&probe, "mail", NULL);
    assert_ok(fan_broker_handle(broker, &options, &handler, NULL));
    publish(broker, "a.b.c", NULL);
    probe_wait_begun(&probe, 1);
    set_sick(true, 0);
    removal_start(&removal, handler);
    wait_for_stats(broker, handlers, 0);
    fan__mutex_lock(&sick.mutex);
    unsigned settled = sick.settles;
    fan__mutex_unlock(&sick.mutex);
    probe_let_go(&probe);
    fan__mutex_lock(&sick.mutex);
    while (sick.settles == settled)
        fan__cond_wait_until(&removal.changed, &sick.mutex, fan__deadline_ns(2));
    fan__mutex_unlock(&sick.mutex);
    set_sick(false, 0);
    pthread_join(removal.thread, NULL);
    assert_int_equal(find(broker, "mail", 1).status, FAN_EVENT_COMPLETED);
    assert_int_equal(stats_of(broker).lost, 0);
    fan_broker_free(broker);
}

static void test_R01_H09_a_stop_does_not_wait_for_a_store_that_is_down(void **state)
{
    struct place *place = *state;
    set_sick(false, 0);
    struct fan_broker *broker = broker_on_sick(place, 0);
    struct probe probe;
    struct probe other;
    probe_init(&probe);
    probe_init(&other);
    struct fan_handler_options options = probe_options(&probe, "mail", NULL);
    struct fan_handler *handler;
    probe.held = 1;
    assert_ok(fan_broker_handle(broker, &options, &handler, NULL));
    options = probe_options(&other, "audit", NULL);
    other.held = 1;
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    publish(broker, "a.b.c", NULL);
    probe_wait_begun(&probe, 1);
    set_sick(true, 0);
    probe_let_go(&probe);
    /* Who frees a handler waits for the store, but not past the stop either. */
    struct removal removal;
    removal_start(&removal, handler);
    probe_wait_begun(&other, 1);
    probe_let_go(&other);
    assert_ok(fan_broker_stop(broker, 100));
    pthread_join(removal.thread, NULL);
    /* What could not be recorded is due again when the leases are over. */
    struct fan_store_stats stats = { .size = sizeof(stats) };
    assert_ok(fan_store_stats(fan_broker_store(broker), &stats));
    assert_int_equal(stats.completed, 0);
    fan_broker_free(broker);
    set_sick(false, 0);
}

static void test_H01_P09_done_under_a_lost_claim_is_no_success(void **state)
{
    struct place *place = *state;
    set_sick(false, 0);
    sick.loses = true;
    struct fan_broker *broker = broker_on_sick(place, 0);
    struct probe probe;
    probe_init(&probe);
    probe_handle(&probe, broker, "mail");
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
    struct fan_cursor cursor = { 0, 0 };
    struct fan_error error = FAN_ERROR_INIT;
    assert_int_equal(fan_broker_publish_sync(broker, &draft, &cursor, &error), FAN_HANDLER);
    assert_string_equal(error.message,
                        "group mail: done, but its claim was lost before that was recorded");
    assert_int_equal(cursor.seq, 1);
    assert_int_equal(stats_of(broker).lost, 1);
    assert_int_equal(stats_of(broker).processed, 0);
    fan_broker_free(broker);
    sick.loses = false;
}

static void test_P09_who_lost_its_lease_to_itself_does_not_run_it_again(void **state)
{
    struct place *place = *state;
    set_sick(false, 0);
    sick.no_renewal = true;
    struct fan_broker *broker = broker_on_sick(place, 100);
    struct probe probe;
    probe_init_held(&probe);
    probe_handle(&probe, broker, "mail");
    publish(broker, "a.b.c", NULL);
    probe_wait_begun(&probe, 1);
    /* Its lease runs out while it is run, and the next look claims it again. */
    struct found found;
    fan__mutex_lock(&probe.mutex);
    do {
        fan__cond_wait_until(&probe.changed, &probe.mutex, fan__deadline_ns(5));
        found = find(broker, "mail", 1);
    } while (found.lapses < 2);
    fan__mutex_unlock(&probe.mutex);
    probe_let_go(&probe);
    assert_ok(fan_broker_stop(broker, 60000));
    assert_int_equal(probe.done, 1);
    assert_int_equal(find(broker, "mail", 1).status, FAN_EVENT_COMPLETED);
    fan_broker_free(broker);
    sick.no_renewal = false;
}

/* ------------------------------------------------------------------ removed past its limit */

/* The store knows by then that there was no verdict; the function runs on all the same. */
static void test_H08_H05_freeing_waits_for_a_call_past_its_time_limit(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    struct removal removal;
    struct fan_handler *handler = NULL;
    struct probe probe;
    probe_init_held(&probe);
    struct fan_handler_options options = probe_options(&probe, "mail", NULL);
    options.timeout_ms = 20;
    assert_ok(fan_broker_handle(broker, &options, &handler, NULL));
    publish(broker, "a.b.c", NULL);
    wait_for_stats(broker, retried, 1);
    removal_start(&removal, handler);
    wait_for_stats(broker, handlers, 0);
    int64_t until_ns = fan__deadline_ns(100);
    fan__mutex_lock(&removal.mutex);
    while (!removal.freed && fan__cond_wait_until(&removal.changed, &removal.mutex, until_ns))
        ;
    assert_false(removal.freed);
    fan__mutex_unlock(&removal.mutex);
    probe_let_go(&probe);
    pthread_join(removal.thread, NULL);
    assert_int_equal(probe.done, 1);
    assert_int_equal(stats_of(broker).late, 1);
    fan_broker_free(broker);
}

/* What lies in front of a live handler is not for it any more. */
static void test_H08_freeing_a_live_handler_waits_for_one_call_alone(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    struct removal removal;
    struct fan_handler *handler = NULL;
    struct probe probe;
    probe_init_held(&probe);
    struct fan_handler_options options = probe_options(&probe, NULL, NULL);
    assert_ok(fan_broker_handle(broker, &options, &handler, NULL));
    publish_times(broker, 5);
    probe_wait_begun(&probe, 1);
    removal_start(&removal, handler);
    wait_for_stats(broker, handlers, 0);
    probe_let_go(&probe);
    pthread_join(removal.thread, NULL);
    assert_int_equal(probe.done, 1);
    fan_broker_free(broker);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_every_store(test_H09_stop_finishes_what_is_queued),
        on_every_store(test_H09_past_the_deadline_the_rest_is_handed_back),
        on_every_scheme(test_H10_fifty_publish_while_another_stops),
        on_sqlite(test_R01_outcomes_outlive_a_store_that_fails),
        on_sqlite(test_H01_P09_done_under_a_lost_claim_is_no_success),
        on_sqlite(test_P09_who_lost_its_lease_to_itself_does_not_run_it_again),
        on_sqlite(test_R01_H08_a_removed_handlers_outcomes_wait_for_the_store),
        on_sqlite(test_R01_H09_a_stop_does_not_wait_for_a_store_that_is_down),
        on_every_store(test_H08_H05_freeing_waits_for_a_call_past_its_time_limit),
        on_every_store(test_H08_freeing_a_live_handler_waits_for_one_call_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
