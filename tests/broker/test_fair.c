/* Nobody waits for another for long: retries, quarantine, groups that are gone, many groups. */
#include "probe.h"

#include "base/env.h"
#include "broker/dispatch.h"
#include "store/memory/memory.h"
#include "store/sqlite/sqlite.h"

#include <stdatomic.h>

/* Retries the first events each time, and counts. */
struct restless {
    struct fan__mutex mutex;
    struct fan__cond changed;
    uint64_t last; /* of those that are retried */
    size_t retried;
    size_t done;
};

static enum fan_verdict on_restless(void *context, const struct fan_event *event,
                                    const struct fan_handling *handling)
{
    (void)handling;
    struct restless *restless = context;
    bool again = fan_event_seq(event) <= restless->last;
    fan__mutex_lock(&restless->mutex);
    restless->retried += again;
    restless->done += !again;
    fan__cond_broadcast(&restless->changed);
    fan__mutex_unlock(&restless->mutex);
    return again ? FAN_VERDICT_RETRY : FAN_VERDICT_DONE;
}

static void wait_for(struct restless *restless, size_t retried, size_t done)
{
    fan__mutex_lock(&restless->mutex);
    while (restless->retried < retried || restless->done < done)
        fan__cond_wait(&restless->changed, &restless->mutex);
    fan__mutex_unlock(&restless->mutex);
}

/* Of a topic each; they share commits, and all are in the log when this returns. */
static void publish_many(struct fan_broker *broker, unsigned count, const char *prefix)
{
    uint64_t published = stats_of(broker).published;
    for (unsigned i = 0; i < count; i++) {
        char topic[16];
        snprintf(topic, sizeof(topic), "%s%u", prefix, i);
        struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE,
                                         .type = "a.b.c",
                                         .topic = topic };
        assert_ok(fan_broker_publish_async(broker, &draft, NULL, NULL, NULL));
    }
    wait_for_stats(broker, published, published + count);
}

/* As many as a claim takes, again and again: what comes after them is taken all the same. */
static void test_H04_what_is_retried_all_the_time_holds_up_nothing(void **state)
{
    for (int ordered = 0; ordered < 2; ordered++) {
        struct place place;
        place_make(&place, *state);
        struct fan_broker *broker = broker_started(&place);
        struct restless restless = { .last = 400 };
        fan__mutex_init(&restless.mutex);
        fan__cond_init(&restless.changed);
        struct fan_retry_policy at_once = { 1000000, 1, 1, 1, 0, false };
        struct fan_handler_options options = { .size = FAN_HANDLER_OPTIONS_SIZE,
                                               .group = "mail",
                                               .start = FAN_START_BEGINNING,
                                               .handle = on_restless,
                                               .context = &restless,
                                               .retry = &at_once,
                                               .ordered = ordered != 0 };
        publish_many(broker, (unsigned)restless.last, "t");
        assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
        wait_for(&restless, 2 * restless.last, 0);
        publish_many(broker, 100, "late");
        wait_for(&restless, 0, 100);
        assert_int_equal(stats_of(broker).dead, 0);
        fan_broker_free(broker);
        place_remove(&place);
    }
}

/* ------------------------------------------------------------------ what is run alone */

#define SUSPECTS 12

/* A group with suspects, each of whose calls lasts until others were called meanwhile. */
struct ward {
    struct fan__mutex mutex;
    struct fan__cond changed;
    struct fan_broker *broker;
    unsigned needed;    /* how many others one call waits for */
    uint32_t linger_ms; /* how long each call lasts */
    size_t inside;
    size_t suspects_inside;
    size_t suspects;
    size_t others;
    size_t beside;
    bool let_go;
};

static enum fan_verdict on_ward(void *context, const struct fan_event *event,
                                const struct fan_handling *handling)
{
    (void)event;
    struct ward *ward = context;
    bool suspect = handling->lapses == FAN__LAPSES_MAX - 1;
    fan__mutex_lock(&ward->mutex);
    ward->inside++;
    ward->suspects_inside += suspect;
    ward->beside += ward->suspects_inside > 0 && ward->inside > 1;
    int64_t until_ns = fan__deadline_ns(ward->linger_ms);
    while (ward->linger_ms > 0 && fan__cond_wait_until(&ward->changed, &ward->mutex, until_ns))
        ;
    size_t wanted = ward->others + ward->needed;
    while (suspect && ward->others < wanted && !ward->let_go)
        fan__cond_wait(&ward->changed, &ward->mutex);
    ward->inside--;
    ward->suspects_inside -= suspect;
    ward->suspects += suspect;
    ward->others += !suspect;
    fan__cond_broadcast(&ward->changed);
    fan__mutex_unlock(&ward->mutex);
    return FAN_VERDICT_DONE;
}

/* The store has the suspects of group "ward" when this returns. */
static void ward_open(struct ward *ward, const struct place *place)
{
    memset(ward, 0, sizeof(*ward));
    fan__mutex_init(&ward->mutex);
    fan__cond_init(&ward->changed);
    ward->broker = broker_started(place);
    make_group(fan_broker_store(ward->broker), "ward");
    for (int i = 0; i < SUSPECTS; i++)
        publish(ward->broker, "a.b.c", NULL);
    for (int i = 0; i < FAN__LAPSES_MAX - 1; i++)
        claim_and_die(fan_broker_store(ward->broker), "ward", SUSPECTS);
}

static void ward_handle(struct ward *ward, const char *group, const char *pattern)
{
    struct fan_handler_options options = { .size = FAN_HANDLER_OPTIONS_SIZE,
                                           .group = group,
                                           .pattern = pattern,
                                           .handle = on_ward,
                                           .context = ward };
    assert_ok(fan_broker_handle(ward->broker, &options, NULL, NULL));
}

static void ward_wait(struct ward *ward, size_t suspects, size_t others)
{
    fan__mutex_lock(&ward->mutex);
    while (ward->suspects < suspects || ward->others < others)
        fan__cond_wait(&ward->changed, &ward->mutex);
    fan__mutex_unlock(&ward->mutex);
}

/* As long as a call is short, nothing else is under way meanwhile: a death is its own. */
static void test_L08_what_runs_alone_has_nothing_beside_it(void **state)
{
    struct place *place = *state;
    struct ward ward;
    ward_open(&ward, place);
    ward.broker->dispatch->alone_ns = 60000 * FAN__NS_PER_MS;
    ward.linger_ms = 3;
    for (int i = 0; i < 100; i++)
        publish(ward.broker, "a.b.c", NULL);
    ward_handle(&ward, "ward", NULL);
    ward_handle(&ward, "other", NULL);
    for (int i = 0; i < 100; i++)
        publish(ward.broker, "a.b.c", NULL);
    ward_wait(&ward, SUSPECTS, 300);
    fan_broker_free(ward.broker);
    assert_int_equal(ward.beside, 0);
}

/* Each waits for the others' events, of its own group and of another: who waits for it, loses. */
static void test_L08_what_runs_alone_holds_up_nobody_for_long(void **state)
{
    for (int own = 0; own < 2; own++) {
        struct place place;
        struct ward ward;
        place_make(&place, *state);
        ward_open(&ward, &place);
        ward.needed = 3;
        ward_handle(&ward, "ward", own ? NULL : "a.b.c");
        if (!own)
            ward_handle(&ward, "other", "b.c.d");
        unsigned slow_count = 0;
        for (size_t i = 0; i < (size_t)SUSPECTS * 3; i++) {
            int64_t begun_ns = fan__deadline_ns(0);
            publish(ward.broker, "b.c.d", NULL);
            ward_wait(&ward, 0, i + 1);
            slow_count += fan__deadline_ns(0) - begun_ns > 5000 * FAN__NS_PER_MS;
        }
        fan__mutex_lock(&ward.mutex);
        ward.let_go = true;
        fan__cond_broadcast(&ward.changed);
        fan__mutex_unlock(&ward.mutex);
        ward_wait(&ward, SUSPECTS, 0);
        /* Two tenths of a second; a busy machine may make seconds of one, but not of each. */
        assert_true(slow_count < SUSPECTS / 4);
        assert_int_equal(stats_of(ward.broker).dead, 0);
        fan_broker_free(ward.broker);
        place_remove(&place);
    }
}

/* ------------------------------------------------------------------ a group that is behind */

#define BACKLOG 8000

/* Takes its time with each event. */
static enum fan_verdict on_slow(void *context, const struct fan_event *event,
                                const struct fan_handling *handling)
{
    (void)event;
    (void)handling;
    struct probe *probe = context;
    fan__mutex_lock(&probe->mutex);
    int64_t until_ns = fan__deadline_ns(5);
    while (fan__cond_wait_until(&probe->changed, &probe->mutex, until_ns))
        ;
    probe->done++;
    fan__mutex_unlock(&probe->mutex);
    return FAN_VERDICT_DONE;
}

/* One that has much to catch up with, of the same events or others, is not waited for by others. */
static void test_H08_a_group_that_is_behind_holds_up_no_other(void **state)
{
    static const char *const patterns[] = { "a.b.c", NULL };
    for (int i = 0; i < 2; i++) {
        struct place place;
        place_make(&place, *state);
        struct fan_broker *broker = broker_started(&place);
        struct probe slow;
        struct probe quick;
        probe_init(&slow);
        probe_init(&quick);
        struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
        for (int n = 1; n < BACKLOG; n++)
            assert_ok(fan_broker_publish_async(broker, &draft, NULL, NULL, NULL));
        publish(broker, "a.b.c", NULL);
        struct fan_handler_options options = probe_options(&slow, "slow", patterns[i]);
        options.handle = on_slow;
        options.start = FAN_START_BEGINNING;
        assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
        options = probe_options(&quick, "quick", "b.c.d");
        assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
        draft.type = "b.c.d";
        for (int n = 0; n < 500; n++)
            assert_ok(fan_broker_publish_async(broker, &draft, NULL, NULL, NULL));
        probe_wait_done(&quick, 500);
        fan__mutex_lock(&slow.mutex);
        size_t done = slow.done;
        fan__mutex_unlock(&slow.mutex);
        print_message("# %zu of those behind were done meanwhile\n", done);
        assert_true(done < BACKLOG / 2);
        fan_broker_stop(broker, 0);
        fan_broker_free(broker);
        place_remove(&place);
    }
}

/* ------------------------------------------------------------------ groups that are gone */

struct told {
    struct fan__mutex mutex;
    unsigned deleted;
    unsigned made;
    unsigned unhandled;
    char last[512];
};

static void on_log(void *context, enum fan_log_level level, const char *message)
{
    struct told *told = context;
    fan__mutex_lock(&told->mutex);
    told->deleted += level == FAN_LOG_WARNING && strstr(message, "was deleted under its handler");
    told->made += level == FAN_LOG_INFO && strstr(message, "was made again");
    told->unhandled += level == FAN_LOG_WARNING && strstr(message, "nobody handles");
    if (level == FAN_LOG_WARNING)
        snprintf(told->last, sizeof(told->last), "%s", message);
    fan__mutex_unlock(&told->mutex);
}

/* The memory provider and SQLite's, but claims are counted, and groups may take their time. */
static struct slow {
    struct fan_provider provider;
    const struct fan_provider *real;
    struct fan__mutex mutex;
    struct fan__cond changed;
    size_t gone; /* claims of a group that is not there */
    size_t looks;
    bool held;
} slow;

static enum fan_status slow_claim(void *self, const struct fan_group_name *name,
                                  const struct fan_claim_options *options, struct fan_batch *batch,
                                  struct fan_claim *claims)
{
    enum fan_status status = slow.real->claim(self, name, options, batch, claims);
    fan__mutex_lock(&slow.mutex);
    slow.gone += status == FAN_NOT_FOUND;
    fan__mutex_unlock(&slow.mutex);
    return status;
}

static enum fan_status slow_groups(void *self, fan_group_visit visit, void *context)
{
    fan__mutex_lock(&slow.mutex);
    slow.looks++;
    fan__cond_broadcast(&slow.changed);
    while (slow.held)
        fan__cond_wait(&slow.changed, &slow.mutex);
    fan__mutex_unlock(&slow.mutex);
    return slow.real->groups(self, visit, context);
}

static const struct fan_provider *slow_provider(const char *scheme)
{
    memset(&slow, 0, sizeof(slow));
    fan__mutex_init(&slow.mutex);
    fan__cond_init(&slow.changed);
    slow.real = strcmp(scheme, "memory") == 0 ? &fan__memory_provider : &fan__sqlite_provider;
    slow.provider = *slow.real;
    slow.provider.claim = slow_claim;
    slow.provider.groups = slow_groups;
    return &slow.provider;
}

static struct fan_broker *told_broker(const struct place *place, struct told *told,
                                      struct fan_env *env, const char *scheme)
{
    memset(told, 0, sizeof(*told));
    fan__mutex_init(&told->mutex);
    env->context = told;
    env->log = on_log;
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    options.env = env;
    options.provider = slow_provider(scheme);
    return broker_with(place, &options);
}

static void test_L08_a_group_that_is_deleted_ends_and_may_be_made_again(void **state)
{
    struct place *place = *state;
    struct told told;
    struct fan_env env = *fan_env_default();
    struct fan_broker *broker = told_broker(place, &told, &env, place->scheme);
    struct probe probe;
    probe_init_held(&probe);
    struct fan_handler_options options = probe_options(&probe, "mail", NULL);
    options.concurrency = 1;
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    publish_times(broker, 10);
    probe_wait_begun(&probe, 1);
    struct fan_group_name name = { "mail", "" };
    assert_ok(fan_group_delete(fan_broker_store(broker), &name));
    /* Whoever waits for its verdict waits no more, though one call goes on. */
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
    assert_ok(fan_broker_publish_sync(broker, &draft, NULL, NULL));
    assert_ok(fan_broker_publish_sync(broker, &draft, NULL, NULL));
    probe_let_go(&probe);
    probe_wait_done(&probe, 1);
    wait_for_stats(broker, work_queued, 0);
    assert_ok(fan_group_create(fan_broker_store(broker), &name,
                               &(struct fan_group_options){ .size = FAN_GROUP_OPTIONS_SIZE },
                               NULL));
    uint64_t seq = publish(broker, "a.b.c", NULL);
    probe_wait_done(&probe, 2);
    assert_int_equal(probe.seqs[1], seq);
    fan_broker_free(broker);
    assert_int_equal(told.deleted, 1);
    assert_int_equal(told.made, 1);
    assert_non_null(strstr(told.last, "group \"mail\", handler \"\" was deleted"));
    /* Now and then, not all the time: a few before it was made again. */
    assert_in_range(slow.gone, 1, 100);
}

static void test_L08_a_stop_does_not_wait_for_a_group_that_is_gone(void **state)
{
    struct place *place = *state;
    struct told told;
    struct fan_env env = *fan_env_default();
    struct fan_broker *broker = told_broker(place, &told, &env, place->scheme);
    struct probe probe;
    probe_init_held(&probe);
    probe_handle(&probe, broker, "mail");
    publish_times(broker, 30);
    probe_wait_begun(&probe, 10);
    struct fan_group_name name = { "mail", "" };
    assert_ok(fan_group_delete(fan_broker_store(broker), &name));
    probe_let_go(&probe);
    probe_wait_done(&probe, 10);
    int64_t begun_ns = fan__deadline_ns(0);
    assert_ok(fan_broker_stop(broker, 60000));
    assert_true(fan__deadline_ns(0) - begun_ns < 30000 * FAN__NS_PER_MS);
    fan_broker_free(broker);
}

/* ------------------------------------------------------------------ who nobody handles for */

static size_t looks(void)
{
    fan__mutex_lock(&slow.mutex);
    size_t count = slow.looks;
    fan__mutex_unlock(&slow.mutex);
    return count;
}

/* Has the broker look, whole, after this call began. */
static void look_again(struct fan_broker *broker)
{
    struct fan__dispatch *dispatch = broker->dispatch;
    size_t before = looks();
    do {
        fan__mutex_lock(&dispatch->mutex);
        dispatch->look_ns = 0;
        fan__cond_signal(&dispatch->look_wake);
        while (dispatch->look_ns == 0)
            fan__cond_wait_until(&dispatch->changed, &dispatch->mutex, fan__deadline_ns(5));
        fan__mutex_unlock(&dispatch->mutex);
    } while (looks() == before);
}

static void test_R07_a_look_at_many_groups_holds_up_nobody(void **state)
{
    struct place *place = *state;
    struct told told;
    struct fan_env env = *fan_env_default();
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    struct fan_broker *broker = NULL;
    options.provider = slow_provider(place->scheme);
    slow.held = true;
    memset(&told, 0, sizeof(told));
    fan__mutex_init(&told.mutex);
    env.context = &told;
    env.log = on_log;
    options.env = &env;
    assert_ok(fan_broker_open(place->uri, &options, &broker, NULL));
    assert_ok(fan_broker_start(broker));
    fan__mutex_lock(&slow.mutex);
    while (slow.looks == 0)
        fan__cond_wait(&slow.changed, &slow.mutex);
    fan__mutex_unlock(&slow.mutex);
    struct probe probe;
    probe_init(&probe);
    probe_handle(&probe, broker, "mail");
    publish_times(broker, 20);
    probe_wait_done(&probe, 20);
    wait_for_stats(broker, processed, 20);
    fan__mutex_lock(&slow.mutex);
    assert_int_equal(slow.looks, 1);
    slow.held = false;
    fan__cond_broadcast(&slow.changed);
    fan__mutex_unlock(&slow.mutex);
    fan_broker_free(broker);
}

static atomic_llong wall_us;
static atomic_llong passed_us;

static int64_t moved_wall_us(void *context)
{
    (void)context;
    return fan_env_default()->wall_us(NULL) + atomic_load(&wall_us);
}

static int64_t moved_monotonic_ns(void *context)
{
    (void)context;
    return fan_env_default()->monotonic_ns(NULL) + atomic_load(&passed_us) * 1000;
}

/* A member in another process asks for work. */
static void ask(struct fan_broker *broker, const char *group)
{
    struct fan_group_name name = { group, "" };
    struct fan_claim_options options = { .size = FAN_CLAIM_OPTIONS_SIZE,
                                         .owner = "elsewhere",
                                         .lease_ms = 1 };
    struct fan_claim claim;
    struct fan_batch *batch = NULL;
    assert_ok(fan_batch_new(NULL, &batch));
    enum fan_status status =
        fan_group_claim(fan_broker_store(broker), &name, &options, batch, &claim);
    assert_true(status == FAN_OK || status == FAN_AGAIN);
    fan_batch_free(batch);
}

/* Set by a day or back by an hour, the wall clock says nothing of who asked for work when. */
static void test_R07_R02_who_asked_for_work_goes_by_the_stores_clock(void **state)
{
    static const int64_t jumps_us[] = { 0, INT64_C(86400000000), INT64_C(-3600000000) };
    for (size_t i = 0; i < 3; i++) {
        struct place place;
        struct told told;
        struct fan_env env = *fan_env_default();
        place_make(&place, *state);
        atomic_store(&wall_us, 0);
        env.wall_us = moved_wall_us;
        env.monotonic_ns = moved_monotonic_ns;
        struct fan_broker *broker = told_broker(&place, &told, &env, *state);
        make_group(fan_broker_store(broker), "there");
        make_group(fan_broker_store(broker), "left");
        publish(broker, "a.b.c", NULL);
        atomic_store(&wall_us, jumps_us[i]);
        ask(broker, "there");
        look_again(broker);
        assert_int_equal(stats_of(broker).unhandled, 0);
        /* Ten minutes later one of the two has asked again. */
        atomic_fetch_add(&passed_us, 600 * FAN__US_PER_S);
        ask(broker, "there");
        look_again(broker);
        assert_int_equal(stats_of(broker).unhandled, 1);
        assert_int_equal(told.unhandled, 1);
        assert_non_null(strstr(told.last, "group \"left\""));
        look_again(broker);
        assert_int_equal(told.unhandled, 1);
        /* It is handled for again, is not, and that is said again. */
        ask(broker, "left");
        look_again(broker);
        assert_int_equal(stats_of(broker).unhandled, 0);
        fan_broker_free(broker);
        place_remove(&place);
    }
}

/* Asks as one elsewhere, and gives what it got. */
static struct fan_settle take_elsewhere(struct fan_broker *broker, const char *group,
                                        uint32_t lease_ms)
{
    struct fan_group_name name = { group, "" };
    struct fan_claim_options options = { .size = FAN_CLAIM_OPTIONS_SIZE,
                                         .owner = "elsewhere",
                                         .lease_ms = lease_ms };
    struct fan_claim claim;
    struct fan_batch *batch = NULL;
    assert_ok(fan_batch_new(NULL, &batch));
    assert_ok(fan_group_claim(fan_broker_store(broker), &name, &options, batch, &claim));
    fan_batch_free(batch);
    return (struct fan_settle){ .seq = claim.seq,
                                .token = claim.token,
                                .verdict = FAN_VERDICT_HAND_BACK };
}

/* One long call of a member in another process: what it holds, renews or settles is its. */
static void test_R07_a_busy_member_elsewhere_is_there(void **state)
{
    struct place *place = *state;
    struct told told;
    struct fan_env env = *fan_env_default();
    const struct fan_group_name busy = { "busy", "" };
    atomic_store(&wall_us, 0);
    env.wall_us = moved_wall_us;
    env.monotonic_ns = moved_monotonic_ns;
    struct fan_broker *broker = told_broker(place, &told, &env, place->scheme);
    struct fan_store *store = fan_broker_store(broker);
    make_group(store, "there");
    make_group(store, "left");
    make_group(store, "busy");
    publish(broker, "a.b.c", NULL);
    struct fan_settle held = take_elsewhere(broker, "busy", 600000);
    static const int64_t waits_s[] = { 300, 90, 600 };
    for (size_t i = 0; i < 3; i++) {
        atomic_fetch_add(&passed_us, waits_s[i] * FAN__US_PER_S);
        if (i == 2) {
            assert_ok(fan_group_settle(store, &busy, &held, 1));
            assert_int_equal(held.ret_status, FAN_OK);
        }
        ask(broker, "there");
        look_again(broker);
        assert_int_equal(stats_of(broker).unhandled, 1);
        assert_non_null(strstr(told.last, "group \"left\""));
        if (i == 0) {
            atomic_fetch_add(&passed_us, 200 * FAN__US_PER_S);
            assert_ok(fan_group_renew(store, &busy, &held, 1, 60000));
            assert_int_equal(held.ret_status, FAN_OK);
        }
    }
    assert_int_equal(told.unhandled, 1);
    /* Until it goes, too. */
    atomic_fetch_add(&passed_us, 600 * FAN__US_PER_S);
    ask(broker, "there");
    look_again(broker);
    assert_int_equal(stats_of(broker).unhandled, 2);
    fan_broker_free(broker);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_every_scheme(test_H04_what_is_retried_all_the_time_holds_up_nothing),
        on_every_store(test_L08_what_runs_alone_has_nothing_beside_it),
        on_every_scheme(test_L08_what_runs_alone_holds_up_nobody_for_long),
        on_every_scheme(test_H08_a_group_that_is_behind_holds_up_no_other),
        on_every_store(test_L08_a_group_that_is_deleted_ends_and_may_be_made_again),
        on_every_store(test_L08_a_stop_does_not_wait_for_a_group_that_is_gone),
        on_every_store(test_R07_a_look_at_many_groups_holds_up_nobody),
        on_every_scheme(test_R07_R02_who_asked_for_work_goes_by_the_stores_clock),
        on_every_store(test_R07_a_busy_member_elsewhere_is_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
