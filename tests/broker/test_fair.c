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

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_every_store(test_H04_what_is_retried_all_the_time_holds_up_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
