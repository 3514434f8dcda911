/*
 * P19: a broker that ends leaves nothing claimed. What its handlers were done with is settled, the
 * rest is handed back with no attempt counted, and the next one gets that and nothing else.
 */
#include "probe.h"

#define EVENT_COUNT 60
#define HELD_SEQ 30

/* Three handlers: one that is quick, one that stands still at an event, one that wants retries. */
struct house {
    struct place place;
    struct fan_broker *broker;
    struct probe quick;
    struct probe held;
    struct probe retried;
    struct fan_handler_options options[3];
};

static void house_begin(struct house *house, const char *scheme)
{
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    options.worker_count = 3;
    options.retry.delay_ms = 600000;
    options.retry.delay_ms_max = 600000;
    place_make(&house->place, scheme);
    house->broker = broker_with(&house->place, &options);
    probe_init(&house->quick);
    probe_init(&house->held);
    probe_init(&house->retried);
    house->held.held = 1;
    house->held.held_seq = HELD_SEQ;
    house->held.gives_up = true;
    house->retried.verdict = FAN_VERDICT_RETRY;
    house->options[0] = probe_options(&house->quick, "quick", NULL);
    house->options[1] = probe_options(&house->held, "held", NULL);
    house->options[1].ordered = true;
    house->options[1].concurrency = 1;
    house->options[2] = probe_options(&house->retried, "retried", NULL);
}

/*
 * All runs, until the quick one is done and the held one stands still: at the end of its call it
 * will ask for a retry.
 */
static void house_run(struct house *house)
{
    for (int i = 0; i < 3; i++)
        assert_ok(fan_broker_handle(house->broker, &house->options[i], NULL, NULL));
    for (int i = 0; i < EVENT_COUNT; i++)
        publish(house->broker, "a.b.c", "one");
    probe_wait_done(&house->quick, EVENT_COUNT);
    probe_wait_done(&house->retried, EVENT_COUNT);
    probe_wait_begun(&house->held, HELD_SEQ);
    fan__mutex_lock(&house->held.mutex);
    house->held.verdict = FAN_VERDICT_RETRY;
    fan__mutex_unlock(&house->held.mutex);
}

static bool see_group(void *context, const struct fan_group_stats *stats)
{
    unsigned *count = context;
    ++*count;
    assert_int_equal(stats->processing, 0);
    assert_int_equal(stats->failed, 0);
    assert_int_equal(stats->pending + stats->completed, EVENT_COUNT);
    if (strcmp(stats->group, "quick") == 0)
        assert_int_equal(stats->completed, EVENT_COUNT);
    if (strcmp(stats->group, "held") == 0)
        assert_int_equal(stats->completed, HELD_SEQ - 1);
    if (strcmp(stats->group, "retried") == 0)
        assert_int_equal(stats->pending, EVENT_COUNT);
    return true;
}

static void check_store(struct fan_store *store)
{
    struct fan_store_stats stats = { .size = sizeof(stats) };
    unsigned groups = 0;
    assert_ok(fan_store_stats(store, &stats));
    assert_int_equal(stats.processing, 0);
    assert_ok(fan_store_groups(store, see_group, &groups));
    assert_int_equal(groups, 3);
    for (uint64_t seq = 1; seq <= EVENT_COUNT; seq++) {
        struct found held = { .group = "held", .handler = "" };
        assert_ok(fan_store_deliveries(store, seq, 0, found_see, &held));
        /* What was handed back, or never begun, was no attempt and no lapse. */
        assert_int_equal(held.attempts, seq < HELD_SEQ ? 1 : 0);
        assert_int_equal(held.lapses, 0);
        struct found retried = { .group = "retried", .handler = "" };
        assert_ok(fan_store_deliveries(store, seq, 0, found_see, &retried));
        assert_int_equal(retried.attempts, 1);
    }
}

static void test_P19_a_stop_leaves_nothing_claimed(void **state)
{
    struct house house;
    house_begin(&house, *state);
    house_run(&house);
    assert_ok(fan_broker_stop(house.broker, 100));
    check_store(fan_broker_store(house.broker));
    fan_broker_free(house.broker);
    place_remove(&house.place);
}

/* Also with no time at all; the next broker begins with what was left. */
static void test_P19_the_next_broker_gets_the_rest(void **state)
{
    (void)state;
    struct house house;
    house_begin(&house, "sqlite");
    house_run(&house);
    assert_ok(fan_broker_stop(house.broker, 0));
    fan_broker_free(house.broker);
    struct fan_store *store = NULL;
    assert_ok(fan_store_open(house.place.uri, NULL, &store, NULL));
    check_store(store);
    fan_store_close(store);

    house.broker = broker_started(&house.place);
    house.held.held = 0;
    house.held.verdict = FAN_VERDICT_DONE;
    size_t before = house.held.done;
    size_t quick = house.quick.done;
    house.options[1].concurrency = 0;
    assert_ok(fan_broker_handle(house.broker, &house.options[0], NULL, NULL));
    assert_ok(fan_broker_handle(house.broker, &house.options[1], NULL, NULL));
    probe_wait_done(&house.held, before + EVENT_COUNT - HELD_SEQ + 1);
    assert_ok(fan_broker_stop(house.broker, 60000));
    assert_int_equal(house.held.done, before + EVENT_COUNT - HELD_SEQ + 1);
    assert_int_equal(house.quick.done, quick);
    for (uint64_t seq = HELD_SEQ; seq <= EVENT_COUNT; seq++)
        assert_int_equal(house.held.attempts[seq], 1);
    fan_broker_free(house.broker);
    place_remove(&house.place);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_every_scheme(test_P19_a_stop_leaves_nothing_claimed),
        cmocka_unit_test(test_P19_the_next_broker_gets_the_rest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
