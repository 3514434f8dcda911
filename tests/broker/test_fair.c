/* Nobody waits for another for long: retries, quarantine, groups that are gone, many groups. */
#include "probe.h"

#include "base/env.h"
#include "broker/dispatch.h"

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
        for (unsigned i = 0; i < restless.last; i++) {
            char topic[16];
            snprintf(topic, sizeof(topic), "t%u", i);
            publish(broker, "a.b.c", topic);
        }
        assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
        wait_for(&restless, 2 * restless.last, 0);
        for (int i = 0; i < 100; i++)
            publish(broker, "a.b.c", "late");
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
    unsigned needed; /* how many others one call waits for */
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
    struct place place;
    struct ward ward;
    place_make(&place, *state);
    ward_open(&ward, &place);
    ward.broker->dispatch->alone_ns = 60000 * FAN__NS_PER_MS;
    for (int i = 0; i < 100; i++)
        publish(ward.broker, "a.b.c", NULL);
    ward_handle(&ward, "ward", NULL);
    ward_handle(&ward, "other", NULL);
    for (int i = 0; i < 100; i++)
        publish(ward.broker, "a.b.c", NULL);
    ward_wait(&ward, SUSPECTS, 300);
    fan_broker_free(ward.broker);
    assert_int_equal(ward.beside, 0);
    place_remove(&place);
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
        int64_t slowest_ns = 0;
        for (size_t i = 0; i < (size_t)SUSPECTS * 3; i++) {
            int64_t begun_ns = fan__deadline_ns(0);
            publish(ward.broker, "b.c.d", NULL);
            ward_wait(&ward, 0, i + 1);
            int64_t took_ns = fan__deadline_ns(0) - begun_ns;
            slowest_ns = took_ns > slowest_ns ? took_ns : slowest_ns;
        }
        fan__mutex_lock(&ward.mutex);
        ward.let_go = true;
        fan__cond_broadcast(&ward.changed);
        fan__mutex_unlock(&ward.mutex);
        ward_wait(&ward, SUSPECTS, 0);
        /* Two tenths of a second; a busy machine may make more of them, but not seconds. */
        assert_true(slowest_ns < 5000 * FAN__NS_PER_MS);
        assert_int_equal(stats_of(ward.broker).dead, 0);
        fan_broker_free(ward.broker);
        place_remove(&place);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_every_store(test_H04_what_is_retried_all_the_time_holds_up_nothing),
        on_every_store(test_L08_what_runs_alone_has_nothing_beside_it),
        on_every_store(test_L08_what_runs_alone_holds_up_nobody_for_long),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
