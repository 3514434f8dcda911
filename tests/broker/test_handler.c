/* Handlers: live ones, durable ones over a group, verdicts, removal from within, stop. */
#include "support.h"

#include "base/thread.h"

struct calls {
    struct fan__mutex mutex;
    struct fan__cond changed;
    size_t count;
    size_t count_wanted;
    unsigned last_attempt;
    uint64_t last_seq;
    enum fan_verdict verdict;
    struct fan_handler *frees; /* on the first call */
};

static void calls_init(struct calls *calls)
{
    *calls = (struct calls){ .verdict = FAN_VERDICT_DONE };
    fan__mutex_init(&calls->mutex);
    fan__cond_init(&calls->changed);
}

static void calls_wait(struct calls *calls, size_t count)
{
    fan__mutex_lock(&calls->mutex);
    while (calls->count < count)
        fan__cond_wait(&calls->changed, &calls->mutex);
    fan__mutex_unlock(&calls->mutex);
}

static enum fan_verdict on_event(void *context, const struct fan_event *event,
                                 const struct fan_handling *handling)
{
    struct calls *calls = context;
    fan__mutex_lock(&calls->mutex);
    calls->count++;
    calls->last_attempt = handling->attempt;
    calls->last_seq = fan_event_seq(event);
    enum fan_verdict verdict = calls->verdict;
    struct fan_handler *frees = calls->frees;
    calls->frees = NULL;
    fan__cond_broadcast(&calls->changed);
    fan__mutex_unlock(&calls->mutex);
    fan_handler_free(frees);
    return verdict;
}

static struct fan_handler_options handler_of(struct calls *calls, const char *group,
                                             const char *pattern)
{
    return (struct fan_handler_options){ .size = FAN_HANDLER_OPTIONS_SIZE,
                                         .group = group,
                                         .pattern = pattern,
                                         .handle = on_event,
                                         .context = calls };
}

static void test_H02_a_live_handler_gets_what_its_pattern_matches(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    struct calls calls;
    calls_init(&calls);
    publish(broker, "public.users.create", NULL);
    struct fan_handler_options options = handler_of(&calls, NULL, "public.users.*");
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    publish(broker, "public.roles.create", NULL);
    publish(broker, "public.users.update", NULL);
    publish(broker, "public.users.delete", NULL);
    calls_wait(&calls, 2);
    assert_ok(fan_broker_stop(broker, 1000));
    assert_int_equal(calls.count, 2);
    assert_int_equal(calls.last_seq, 4);
    fan_broker_free(broker);
}

static void test_L08_a_group_is_owed_its_events_across_a_restart(void **state)
{
    struct place *place = *state;
    struct calls calls;
    calls_init(&calls);
    struct fan_handler_options options = handler_of(&calls, "mail", "public.users.create");
    struct fan_broker *broker = broker_started(place);
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    publish(broker, "public.users.create", NULL);
    calls_wait(&calls, 1);
    fan_broker_free(broker);

    /* Published while nobody handles: owed. */
    broker = broker_started(place);
    publish(broker, "public.users.create", NULL);
    publish(broker, "public.users.delete", NULL);
    fan_broker_free(broker);

    broker = broker_started(place);
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    calls_wait(&calls, 2);
    fan_broker_free(broker);
    assert_int_equal(calls.count, 2);
    assert_int_equal(calls.last_seq, 2);
}

static bool see_dead(void *context, const struct fan_delivery *delivery)
{
    size_t *count = context;
    assert_int_equal(delivery->status, FAN_EVENT_FAILED);
    assert_string_equal(delivery->group, "mail");
    assert_int_equal(delivery->attempts, 1);
    (*count)++;
    return true;
}

static void test_H05_verdicts_and_attempts(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    struct calls calls;
    calls_init(&calls);
    calls.verdict = FAN_VERDICT_FAIL;
    struct fan_handler_options options = handler_of(&calls, "mail", NULL);
    struct fan_handler *handler;
    assert_ok(fan_broker_handle(broker, &options, &handler, NULL));
    struct fan_error error = FAN_ERROR_INIT;
    assert_int_equal(fan_broker_handle(broker, &options, NULL, &error), FAN_EXISTS);
    publish(broker, "a.b.c", NULL);
    calls_wait(&calls, 1);
    assert_int_equal(calls.last_attempt, 1);
    /* Freeing waits for the call and its settlement. */
    fan_handler_free(handler);
    size_t dead = 0;
    assert_ok(fan_store_deliveries(fan_broker_store(broker), 0, 0, see_dead, &dead));
    assert_int_equal(dead, 1);
    struct fan_group_name name = { "mail", "" };
    assert_ok(fan_group_move(fan_broker_store(broker), &name, 1, FAN_EVENT_PENDING));
    calls.verdict = FAN_VERDICT_RETRY;
    assert_ok(fan_broker_handle(broker, &options, &handler, NULL));
    calls_wait(&calls, 2);
    assert_int_equal(calls.last_attempt, 1);
    calls.verdict = FAN_VERDICT_DONE;
    calls_wait(&calls, 3);
    assert_int_equal(calls.last_attempt, 2);
    fan_broker_free(broker);
}

static void test_H08_a_handler_may_free_itself(void **state)
{
    struct place *place = *state;
    struct fan_broker *broker = broker_started(place);
    struct calls calls;
    struct calls other;
    calls_init(&calls);
    calls_init(&other);
    struct fan_handler_options options = handler_of(&calls, NULL, NULL);
    struct fan_handler_options other_options = handler_of(&other, NULL, NULL);
    struct fan_handler *handler;
    assert_ok(fan_broker_handle(broker, &options, &handler, NULL));
    assert_ok(fan_broker_handle(broker, &other_options, NULL, NULL));
    calls.frees = handler;
    publish(broker, "a.b.c", NULL);
    publish(broker, "a.b.c", NULL);
    calls_wait(&other, 2);
    fan_broker_free(broker);
    assert_int_equal(calls.count, 1);
}

struct slow {
    struct fan__mutex mutex;
    struct fan__cond changed;
    bool held;
    uint64_t last_seq;
    uint64_t gaps;
};

/* Stays in its first call until it is let go, and checks that every later hole is told. */
static enum fan_verdict on_event_slowly(void *context, const struct fan_event *event,
                                        const struct fan_handling *handling)
{
    struct slow *slow = context;
    fan__mutex_lock(&slow->mutex);
    while (slow->held)
        fan__cond_wait(&slow->changed, &slow->mutex);
    uint64_t seq = fan_event_seq(event);
    assert_int_equal(handling->gap != NULL, seq != slow->last_seq + 1);
    if (handling->gap) {
        assert_int_equal(handling->gap->reason, FAN_GAP_RETENTION);
        assert_true(handling->gap->after >= slow->last_seq && handling->gap->before <= seq);
        slow->gaps++;
    }
    slow->last_seq = seq;
    fan__cond_broadcast(&slow->changed);
    fan__mutex_unlock(&slow->mutex);
    return FAN_VERDICT_DONE;
}

static void test_L04_a_live_handler_is_told_what_it_lost(void **state)
{
    struct place *place = *state;
    strcat(place->uri, "?capacity=10");
    struct fan_broker *broker = broker_started(place);
    struct slow slow = { .held = true };
    fan__mutex_init(&slow.mutex);
    fan__cond_init(&slow.changed);
    struct fan_handler_options options = { .size = FAN_HANDLER_OPTIONS_SIZE,
                                           .handle = on_event_slowly,
                                           .context = &slow };
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    for (int i = 0; i < 3 * FAN_BUFFER_COUNT; i++)
        publish(broker, "a.b.c", NULL);
    fan__mutex_lock(&slow.mutex);
    slow.held = false;
    fan__cond_broadcast(&slow.changed);
    while (slow.last_seq < 3 * FAN_BUFFER_COUNT)
        fan__cond_wait(&slow.changed, &slow.mutex);
    fan__mutex_unlock(&slow.mutex);
    assert_true(slow.gaps > 0);
    fan_broker_free(broker);
}

static void test_a_stepped_broker_calls_handlers_on_the_callers_thread(void **state)
{
    struct place *place = *state;
    struct fan_broker_options broker_options = FAN_BROKER_OPTIONS_INIT;
    broker_options.stepped = true;
    struct fan_broker *broker = NULL;
    assert_ok(fan_broker_open(place->uri, &broker_options, &broker, NULL));
    assert_ok(fan_broker_start(broker));
    struct calls live;
    struct calls durable;
    calls_init(&live);
    calls_init(&durable);
    struct fan_handler_options options = handler_of(&live, NULL, NULL);
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    options = handler_of(&durable, "mail", NULL);
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    publish(broker, "a.b.c", NULL);
    publish(broker, "a.b.c", NULL);
    assert_int_equal(live.count + durable.count, 0);
    while (fan_broker_step(broker) == FAN_OK)
        ;
    assert_int_equal(live.count, 2);
    assert_int_equal(durable.count, 2);
    fan_broker_free(broker);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_every_store(test_H02_a_live_handler_gets_what_its_pattern_matches),
        on_sqlite(test_L08_a_group_is_owed_its_events_across_a_restart),
        on_every_store(test_H05_verdicts_and_attempts),
        on_every_store(test_H08_a_handler_may_free_itself),
        on_memory(test_L04_a_live_handler_is_told_what_it_lost),
        on_every_store(test_a_stepped_broker_calls_handlers_on_the_callers_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
