/* The bus with one thread: kinds, topics, patterns, ends, counters, descriptors, refusals. */
#include "typed_test.h"

#include <fanfare/pattern.h>

#include <dirent.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <unistd.h>

static void test_B01_B25_one_subscriber_gets_a_typed_event(void **state)
{
    (void)state;
    struct fan_bus *bus = open_typed();
    struct fan_subscription *pulses = subscribe_kinds(bus, (unsigned[]){ PULSE }, 1);
    struct heartbeat_pulse sent = {
        .host_id = "h-1", .reachable = true, .occurred_at_us = 1234567, .response_time_us = 89
    };
    uint64_t seq = 0;
    assert_ok(pulse_publish(bus, "h-1", &sent, &seq));
    assert_int_equal(seq, 1);
    const struct fan_message *message;
    assert_ok(fan_subscription_next(pulses, 0, &message));
    assert_int_equal(message->seq, 1);
    assert_int_equal(message->kind, PULSE);
    assert_string_equal(message->type, "host.pulse");
    assert_string_equal(message->topic, "h-1");
    struct heartbeat_pulse got;
    assert_ok(pulse_read(message, &got));
    assert_memory_equal(&got, &sent, sizeof(got));
    fan_subscription_free(pulses);
    fan_bus_free(bus);
}

static void test_B02_unheard_is_counted_and_allocates_nothing(void **state)
{
    (void)state;
    struct test_memory memory;
    struct fan_bus *bus = open_counted(&memory);
    struct fan_subscription_options elsewhere = { .size = FAN_SUBSCRIPTION_OPTIONS_SIZE,
                                                  .topic = "elsewhere" };
    struct fan_subscription *other = subscribe_with(bus, &elsewhere);
    /* That nobody wants the type is remembered. */
    assert_int_equal(publish(bus, NULL, "a.b"), 1);
    long calls = atomic_load(&memory.calls);
    assert_int_equal(publish(bus, "here", "a.b"), 2);
    assert_int_equal(publish(bus, NULL, "a.b"), 3);
    assert_int_equal(atomic_load(&memory.calls), calls);
    struct fan_bus_counters counters = bus_counters_of(bus);
    assert_int_equal(counters.published, 3);
    assert_int_equal(counters.unheard, 3);
    assert_int_equal(counters.delivered, 0);
    assert_int_equal(counters.matched, 0);
    fan_subscription_free(other);
    fan_bus_free(bus);
    assert_int_equal(atomic_load(&memory.blocks), 0);
}

static void test_B03_every_subscriber_of_a_kind_receives(void **state)
{
    (void)state;
    struct fan_bus *bus = open_typed();
    struct fan_subscription *all[3];
    for (size_t i = 0; i < 3; i++)
        all[i] = subscribe_kinds(bus, (unsigned[]){ DRIFT }, 1);
    struct drift_detected event = { .drift_type = "major", .score_delta = -22.0 };
    assert_ok(drift_publish(bus, NULL, &event, NULL));
    for (size_t i = 0; i < 3; i++) {
        const struct fan_message *message;
        struct drift_detected got = { 0 };
        assert_ok(fan_subscription_next(all[i], 0, &message));
        assert_ok(drift_read(message, &got));
        assert_true(got.score_delta < -21.9);
        assert_string_equal(message->topic, "");
        fan_subscription_free(all[i]);
    }
    fan_bus_free(bus);
}

static void test_B05_close_lets_read_then_refuses(void **state)
{
    (void)state;
    struct fan_bus *bus = open_bus();
    struct fan_subscription *subscription = subscribe(bus, FAN_POLICY_DEFAULT, 0);
    publish(bus, NULL, "a");
    publish(bus, NULL, "a");
    fan_bus_close(bus);
    fan_bus_close(bus);
    expect_unpublished(bus, FAN_CLOSED);
    assert_int_equal(bus_counters_of(bus).subscriptions, 0);
    struct fan_subscription *late = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    assert_int_equal(fan_bus_subscribe(bus, NULL, &late, &error), FAN_CLOSED);
    assert_null(late);
    assert_string_equal(error.message, "the bus is closed");
    expect_seq(subscription, 1);
    expect_seq(subscription, 2);
    expect_status(subscription, FAN_CLOSED);
    expect_status(subscription, FAN_CLOSED);
    fan_subscription_free(subscription);
    fan_bus_free(bus);
}

static void test_B08_another_kind_never_arrives(void **state)
{
    (void)state;
    struct fan_bus *bus = open_typed();
    struct fan_subscription *pulses = subscribe_kinds(bus, (unsigned[]){ PULSE }, 1);
    struct drift_detected event = { .drift_type = "minor" };
    assert_ok(drift_publish(bus, NULL, &event, NULL));
    expect_status(pulses, FAN_AGAIN);
    assert_int_equal(counters_of(pulses).matched, 0);
    assert_int_equal(bus_counters_of(bus).unheard, 1);
    fan_subscription_free(pulses);
    fan_bus_free(bus);
}

static void expect_kinds_refused(const struct fan_kind *set, size_t count, const char *field)
{
    struct fan_bus_options options = FAN_BUS_OPTIONS_INIT;
    options.kinds = set;
    options.kind_count = count;
    struct fan_bus *bus = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    assert_int_equal(fan_bus_open(&options, &bus, &error), FAN_INVALID);
    assert_null(bus);
    assert_string_equal(error.field, field);
}

static void test_B09_bad_sets_of_kinds_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = { "", "a..b", ".a", "a b", "a.*", ">", NULL };
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        struct fan_kind set[] = { { "fine", 1 }, { bad[i], 1 } };
        expect_kinds_refused(set, 2, "kinds");
    }
    struct fan_kind twice[] = { { "a.b", 1 }, { "a.b", 2 } };
    expect_kinds_refused(twice, 2, "kinds");
    struct fan_kind large[] = { { "a.b", FAN_MESSAGE_SIZE_MAX + 1 } };
    expect_kinds_refused(large, 1, "kinds");
    expect_kinds_refused(kinds, 0, "kind_count");
    expect_kinds_refused(NULL, 2, "kind_count");

    static struct fan_kind many[FAN_KIND_COUNT_MAX + 1];
    static char names[FAN_KIND_COUNT_MAX + 1][8];
    for (size_t i = 0; i < FAN_KIND_COUNT_MAX + 1; i++) {
        snprintf(names[i], sizeof(names[i]), "k%zu", i);
        many[i] = (struct fan_kind){ names[i], 1 };
    }
    expect_kinds_refused(many, FAN_KIND_COUNT_MAX + 1, "kind_count");
    struct fan_bus_options options = FAN_BUS_OPTIONS_INIT;
    options.kinds = many;
    options.kind_count = FAN_KIND_COUNT_MAX;
    struct fan_bus *bus = open_with(&options);
    struct fan_subscription *last = subscribe_kinds(bus, (unsigned[]){ 63 }, 1);
    struct fan_message message = { .size = FAN_MESSAGE_SIZE, .kind = 63, .payload = { "x", 1 } };
    assert_ok(fan_bus_publish(bus, &message, NULL));
    message.kind = 62;
    assert_ok(fan_bus_publish(bus, &message, NULL));
    expect_seq(last, 1);
    expect_status(last, FAN_AGAIN);
    fan_subscription_free(last);
    fan_bus_free(bus);
}

static void expect_refused(struct fan_bus *bus, const struct fan_subscription_options *options,
                           enum fan_status status, const char *field)
{
    struct fan_subscription *subscription = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    assert_int_equal(fan_bus_subscribe(bus, options, &subscription, &error), status);
    assert_null(subscription);
    assert_int_equal(error.status, status);
    assert_string_equal(error.field, field);
    assert_true(error.message[0] != '\0');
}

static void test_B09_kinds_of_a_filter_are_checked(void **state)
{
    (void)state;
    struct fan_bus *bus = open_typed();
    unsigned outside[] = { PULSE, 2 };
    unsigned twice[] = { DRIFT, DRIFT };
    expect_refused(bus, NULL, FAN_INVALID, "kinds");
    expect_refused(bus, OPTIONS(.topic = "t"), FAN_INVALID, "kinds");
    expect_refused(bus, OPTIONS(.kinds = twice, .kind_count = 0), FAN_INVALID, "kinds");
    expect_refused(bus, OPTIONS(.kinds = outside, .kind_count = 2), FAN_INVALID, "kinds");
    expect_refused(bus, OPTIONS(.kinds = NULL, .kind_count = 2), FAN_INVALID, "kinds");
    expect_refused(bus, OPTIONS(.kinds = twice, .kind_count = 2, .all_kinds = true), FAN_INVALID,
                   "kinds");
    assert_int_equal(bus_counters_of(bus).subscriptions, 0);
    struct fan_subscription *subscription = subscribe_kinds(bus, twice, 2);
    struct drift_detected event = { .score_delta = 1 };
    assert_ok(drift_publish(bus, NULL, &event, NULL));
    expect_seq(subscription, 1);
    expect_status(subscription, FAN_AGAIN);
    assert_int_equal(counters_of(subscription).matched, 1);
    fan_subscription_free(subscription);

    struct fan_bus *open = open_bus();
    expect_refused(open, OPTIONS(.kinds = twice, .kind_count = 2), FAN_INVALID, "kinds");
    fan_bus_free(open);
    fan_bus_free(bus);
}

static void test_subscribe_names_the_field_at_fault(void **state)
{
    (void)state;
    char long_text[FAN_TEXT_SIZE_MAX + 2];
    memset(long_text, 'x', sizeof(long_text) - 1);
    long_text[sizeof(long_text) - 1] = '\0';
    struct fan_bus *bus = open_bus();
    expect_refused(bus, OPTIONS(.topic = ""), FAN_INVALID, "topic");
    expect_refused(bus, OPTIONS(.topic = long_text), FAN_INVALID, "topic");
    expect_refused(bus, OPTIONS(.pattern = "a..b"), FAN_INVALID, "pattern");
    expect_refused(bus, OPTIONS(.pattern = ""), FAN_INVALID, "pattern");
    expect_refused(bus, OPTIONS(.buffer_count = SIZE_MAX), FAN_INVALID, "buffer_count");
    expect_refused(bus, OPTIONS(.yield_us = 1001), FAN_INVALID, "yield_us");
    expect_refused(bus, OPTIONS(.policy = (enum fan_policy)17), FAN_INVALID, "policy");
    expect_refused(bus, &(struct fan_subscription_options){ .size = 0 }, FAN_INVALID, "size");
    /* B18: refill wants a store; block wants a bus that was opened for it. */
    expect_refused(bus, OPTIONS(.policy = FAN_POLICY_REFILL), FAN_UNSUPPORTED, "policy");
    expect_refused(bus, OPTIONS(.policy = FAN_POLICY_BLOCK), FAN_MISUSE, "policy");
    long_text[FAN_TEXT_SIZE_MAX] = '\0';
    struct fan_subscription *subscription =
        subscribe_with(bus, OPTIONS(.topic = long_text, .yield_us = 1000));
    publish(bus, long_text, long_text);
    expect_seq(subscription, 1);
    fan_subscription_free(subscription);
    struct fan_bus_options options = { .size = 0 };
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_bus *none = NULL;
    assert_int_equal(fan_bus_open(&options, &none, &error), FAN_INVALID);
    assert_string_equal(error.field, "size");
    fan_bus_free(bus);
}

static void expect_not_published(struct fan_bus *bus, struct fan_message message)
{
    struct fan_bus_counters before = bus_counters_of(bus);
    uint64_t seq = 99;
    assert_int_equal(fan_bus_publish(bus, &message, &seq), FAN_INVALID);
    assert_int_equal(seq, 99);
    struct fan_bus_counters after = bus_counters_of(bus);
    assert_memory_equal(&before, &after, sizeof(before));
}

static void test_B10_another_struct_is_a_typed_error(void **state)
{
    (void)state;
    struct fan_bus *bus = open_typed();
    struct fan_subscription *all = subscribe_kinds(bus, NULL, 0);
    struct heartbeat_pulse pulse = { .reachable = true };
    struct fan_message message = { .size = FAN_MESSAGE_SIZE,
                                   .kind = DRIFT,
                                   .payload = { (const char *)&pulse, sizeof(pulse) } };
    expect_not_published(bus, message);
    message.kind = 2;
    expect_not_published(bus, message);
    message.kind = PULSE;
    message.type = "host.drift";
    expect_not_published(bus, message);
    message.type = "host.pulse";
    assert_ok(fan_bus_publish(bus, &message, NULL));
    const struct fan_message *got;
    assert_ok(fan_subscription_next(all, 0, &got));
    struct drift_detected drift = { .score_delta = 7 };
    assert_int_equal(drift_read(got, &drift), FAN_INVALID);
    assert_true(drift.score_delta > 6.9);
    fan_subscription_free(all);
    fan_bus_free(bus);
}

static void test_publish_refuses_what_is_no_message(void **state)
{
    (void)state;
    char long_text[FAN_TEXT_SIZE_MAX + 2];
    memset(long_text, 'x', sizeof(long_text) - 1);
    long_text[sizeof(long_text) - 1] = '\0';
    struct fan_bus *bus = open_bus();
    struct fan_subscription *subscription = subscribe(bus, FAN_POLICY_DEFAULT, 0);
    struct fan_message good = message_of("t", "a", "12345678");
    struct fan_message bad = good;
    /* Also where all but one thing is as it was in the messages before. */
    for (uint64_t seq = 1; seq <= 4; seq++) {
        assert_ok(fan_bus_publish(bus, &good, NULL));
        expect_seq(subscription, seq);
    }
    bad.size = 0;
    expect_not_published(bus, bad);
    bad = good;
    bad.type = NULL;
    expect_not_published(bus, bad);
    bad = good;
    bad.type = "";
    expect_not_published(bus, bad);
    bad.type = long_text;
    expect_not_published(bus, bad);
    bad = good;
    bad.topic = long_text;
    expect_not_published(bus, bad);
    bad = good;
    bad.kind = 1;
    expect_not_published(bus, bad);
    bad = good;
    bad.payload = (struct fan_str){ NULL, 1 };
    expect_not_published(bus, bad);
    bad.payload = (struct fan_str){ "x", FAN_MESSAGE_SIZE_MAX + 1 };
    expect_not_published(bus, bad);
    struct fan_message batch[] = { good, good, bad, good };
    size_t count = 99;
    assert_int_equal(fan_bus_publish_many(bus, batch, 4, &count), FAN_INVALID);
    assert_int_equal(count, 2);
    assert_ok(fan_bus_publish_many(bus, NULL, 0, &count));
    assert_int_equal(count, 0);
    expect_seq(subscription, 5);
    expect_seq(subscription, 6);
    expect_status(subscription, FAN_AGAIN);
    fan_subscription_free(subscription);
    fan_bus_free(bus);
}

static void test_B11_a_stalled_subscriber_disturbs_nobody(void **state)
{
    (void)state;
    struct fan_bus *bus = open_bus();
    struct fan_subscription *stalled = subscribe(bus, FAN_POLICY_DROP_NEWEST, 2);
    struct fan_subscription *fast = subscribe(bus, FAN_POLICY_DROP_NEWEST, 1024);
    for (uint64_t i = 1; i <= 100; i++) {
        assert_int_equal(publish(bus, NULL, "a"), i);
        expect_seq(fast, i);
    }
    struct fan_subscription_counters counters = counters_of(stalled);
    assert_int_equal(counters.queued, 2);
    assert_int_equal(counters.dropped, 98);
    assert_int_equal(counters_of(fast).dropped, 0);
    fan_subscription_free(stalled);
    fan_subscription_free(fast);
    fan_bus_free(bus);
}

static void test_B12_L5_unsubscribe_is_idempotent_and_discards(void **state)
{
    (void)state;
    struct fan_bus *bus = open_bus();
    struct fan_subscription *subscription = subscribe(bus, FAN_POLICY_DROP_NEWEST, 2);
    const struct fan_message *lent;
    for (int i = 0; i < 3; i++)
        publish(bus, "t", "a");
    assert_ok(fan_subscription_next(subscription, 0, &lent));
    for (int i = 0; i < 3; i++)
        fan_subscription_unsubscribe(subscription);
    /* What was read stays readable until the next read. */
    assert_string_equal(lent->topic, "t");
    publish(bus, "t", "a");
    struct fan_subscription_counters counters = counters_of(subscription);
    assert_int_equal(counters.matched, 3);
    assert_int_equal(counters.delivered, 1);
    assert_int_equal(counters.dropped, 1);
    assert_int_equal(counters.discarded, 1);
    assert_int_equal(counters.queued, 0);
    assert_true(adds_up(&counters));
    expect_status(subscription, FAN_CLOSED);
    fan_subscription_cancel(subscription);
    fan_bus_close(bus);
    expect_status(subscription, FAN_CLOSED);
    assert_int_equal(bus_counters_of(bus).subscriptions, 0);
    fan_subscription_free(subscription);
    assert_int_equal(bus_counters_of(bus).discarded, 1);
    fan_subscription_free(NULL);
    fan_bus_free(bus);
    fan_bus_free(NULL);
}

static void test_B13_a_token_ends_the_subscription(void **state)
{
    (void)state;
    struct fan_bus *bus = open_bus();
    struct fan_cancel *cancel;
    assert_ok(fan_cancel_new(NULL, &cancel));
    struct fan_subscription *subscription =
        subscribe_with(bus, OPTIONS(.cancel = cancel, .buffer_count = 1));
    publish(bus, NULL, "a");
    publish(bus, NULL, "a");
    fan_cancel_fire(cancel);
    assert_int_equal(bus_counters_of(bus).subscriptions, 0);
    publish(bus, NULL, "a");
    expect_seq(subscription, 1);
    expect_gap(subscription, 1, 3, 1);
    expect_status(subscription, FAN_CLOSED);
    expect_status(subscription, FAN_CLOSED);
    struct fan_subscription *late = subscribe_with(bus, OPTIONS(.cancel = cancel));
    expect_status(late, FAN_CLOSED);
    fan_subscription_free(late);
    fan_subscription_free(subscription);
    fan_cancel_unref(cancel);
    fan_bus_free(bus);
}

static int thread_count(void)
{
    int count = 0;
    DIR *folder = opendir("/proc/self/task");
    assert_non_null(folder);
    for (const struct dirent *entry = readdir(folder); entry; entry = readdir(folder))
        count += entry->d_name[0] != '.';
    closedir(folder);
    return count;
}

static void test_B13_ten_thousand_leave_nothing_on_a_live_token(void **state)
{
    (void)state;
    int threads = thread_count();
    struct test_memory memory;
    struct fan_bus *bus = open_counted(&memory);
    struct fan_cancel *cancel;
    assert_ok(fan_cancel_new(&memory.env, &cancel));
    /* The tables of topics and types are made once and stay. */
    long blocks = 0;
    for (int i = 0; i < 10000; i++) {
        if (i == 1)
            blocks = atomic_load(&memory.blocks);
        struct fan_subscription *subscription = subscribe_with(
            bus, OPTIONS(.topic = "t", .pattern = "a.*", .buffer_count = 4, .cancel = cancel));
        publish(bus, "t", "a.b");
        fan_subscription_unsubscribe(subscription);
        fan_subscription_free(subscription);
    }
    assert_int_equal(atomic_load(&memory.blocks), blocks);
    assert_int_equal(thread_count(), threads);
    assert_int_equal(bus_counters_of(bus).topics, 0);
    assert_int_equal(bus_counters_of(bus).discarded, 10000);
    /* Were anything registered still, firing would touch freed memory. */
    fan_cancel_fire(cancel);
    fan_cancel_unref(cancel);
    fan_bus_free(bus);
    assert_int_equal(atomic_load(&memory.blocks), 0);
}

static void test_B15_topics_are_separate_and_in_order(void **state)
{
    (void)state;
    struct fan_bus *bus = open_bus();
    struct fan_subscription *global = subscribe(bus, FAN_POLICY_DEFAULT, 0);
    struct fan_subscription *a = subscribe_with(bus, OPTIONS(.topic = "a", .buffer_count = 2));
    struct fan_subscription *b = subscribe_with(bus, OPTIONS(.topic = "b"));
    static const char *const topics[] = { "b", "a", NULL, "b", "b", "a" };
    for (size_t i = 0; i < 6; i++)
        publish(bus, topics[i], "x");
    for (uint64_t i = 1; i <= 6; i++)
        expect_seq(global, i);
    /* Its two places were not taken by what it did not ask for. */
    expect_seq(a, 2);
    expect_seq(a, 6);
    expect_status(a, FAN_AGAIN);
    expect_seq(b, 1);
    expect_seq(b, 4);
    expect_seq(b, 5);
    expect_status(b, FAN_AGAIN);
    fan_subscription_free(global);
    fan_subscription_free(a);
    fan_subscription_free(b);
    fan_bus_free(bus);
}

static void test_B16_a_topic_goes_with_its_last_holder(void **state)
{
    (void)state;
    struct fan_bus *bus = open_bus();
    struct fan_subscription *first = subscribe_with(bus, OPTIONS(.topic = "a"));
    struct fan_subscription *second = subscribe_with(bus, OPTIONS(.topic = "a"));
    assert_int_equal(bus_counters_of(bus).topics, 1);
    fan_subscription_unsubscribe(first);
    assert_int_equal(bus_counters_of(bus).topics, 1);
    assert_ok(fan_bus_topic_hold(bus, "a"));
    assert_ok(fan_bus_topic_hold(bus, "a"));
    assert_ok(fan_bus_topic_hold(bus, "c"));
    fan_subscription_cancel(second);
    assert_int_equal(bus_counters_of(bus).topics, 2);
    assert_ok(fan_bus_topic_release(bus, "a"));
    assert_int_equal(bus_counters_of(bus).topics, 2);
    assert_ok(fan_bus_topic_release(bus, "a"));
    assert_int_equal(bus_counters_of(bus).topics, 1);
    assert_int_equal(fan_bus_topic_release(bus, "a"), FAN_NOT_FOUND);
    assert_int_equal(fan_bus_topic_release(bus, ""), FAN_NOT_FOUND);
    assert_int_equal(fan_bus_topic_hold(bus, ""), FAN_INVALID);
    fan_subscription_free(first);
    fan_subscription_free(second);
    fan_bus_close(bus);
    assert_int_equal(fan_bus_topic_hold(bus, "d"), FAN_CLOSED);
    fan_bus_free(bus);
}

static void test_B16_many_topics_are_found(void **state)
{
    (void)state;
    enum { COUNT = 5000 };
    struct fan_bus *bus = open_bus();
    static struct fan_subscription *all[COUNT];
    char name[32];
    for (size_t i = 0; i < COUNT; i++) {
        snprintf(name, sizeof(name), "topic-%zu", i);
        all[i] = subscribe_with(bus, OPTIONS(.topic = name, .buffer_count = 1));
    }
    assert_int_equal(bus_counters_of(bus).topics, COUNT);
    for (size_t i = 0; i < COUNT; i++) {
        snprintf(name, sizeof(name), "topic-%zu", i);
        publish(bus, name, "a");
    }
    for (size_t i = 0; i < COUNT; i++) {
        expect_seq(all[i], i + 1);
        fan_subscription_free(all[i]);
    }
    assert_int_equal(bus_counters_of(bus).topics, 0);
    fan_bus_free(bus);
}

static int64_t fixed_clock(void *context)
{
    (void)context;
    return 1700000000123456;
}

static void test_B17_versions_rise_and_times_are_kept(void **state)
{
    (void)state;
    struct fan_env env = *fan_env_default();
    env.wall_us = fixed_clock;
    struct fan_bus_options options = FAN_BUS_OPTIONS_INIT;
    options.env = &env;
    struct fan_bus *bus = open_with(&options);
    for (uint64_t i = 1; i <= 100; i++)
        assert_int_equal(publish(bus, NULL, "a"), i);
    struct fan_subscription *subscription = subscribe(bus, FAN_POLICY_DEFAULT, 0);
    struct fan_message message = message_of(NULL, "a", "x");
    message.time_us = -5;
    assert_ok(fan_bus_publish(bus, &message, NULL));
    message.time_us = 0;
    assert_ok(fan_bus_publish(bus, &message, NULL));
    const struct fan_message *got;
    assert_ok(fan_subscription_next(subscription, 0, &got));
    assert_int_equal(got->seq, 101);
    assert_int_equal(got->time_us, -5);
    assert_ok(fan_subscription_next(subscription, 0, &got));
    assert_int_equal(got->seq, 102);
    assert_int_equal(got->time_us, 1700000000123456);
    fan_subscription_free(subscription);
    fan_bus_free(bus);
}

static void test_B19_reads_in_batches_up_to_a_loss(void **state)
{
    (void)state;
    struct fan_bus *bus = open_bus();
    struct fan_subscription *subscription = subscribe(bus, FAN_POLICY_DROP_NEWEST, 3);
    const struct fan_message *got[8];
    size_t count = 99;
    assert_int_equal(fan_subscription_next_many(subscription, 0, got, 8, &count), FAN_AGAIN);
    assert_int_equal(fan_subscription_next_many(subscription, 0, got, 0, &count), FAN_INVALID);
    assert_int_equal(count, 99);
    for (int i = 0; i < 4; i++)
        publish(bus, "t", "a");
    assert_ok(fan_subscription_next_many(subscription, 0, got, 2, &count));
    assert_int_equal(count, 2);
    publish(bus, "t", "a");
    assert_int_equal(got[0]->seq, 1);
    assert_int_equal(got[1]->seq, 2);
    assert_string_equal(got[1]->topic, "t");
    assert_ok(fan_subscription_next_many(subscription, 0, got, 8, &count));
    assert_int_equal(count, 1);
    assert_int_equal(got[0]->seq, 3);
    expect_gap(subscription, 3, 5, 1);
    assert_ok(fan_subscription_next_many(subscription, 0, got, 8, &count));
    assert_int_equal(count, 1);
    assert_int_equal(got[0]->seq, 5);
    fan_subscription_free(subscription);
    fan_bus_free(bus);
}

static void test_B19_a_read_times_out(void **state)
{
    (void)state;
    struct fan_bus *bus = open_bus();
    const struct fan_message *message;
    struct fan_subscription *sleeper = subscribe(bus, FAN_POLICY_DEFAULT, 0);
    struct fan_subscription *yielder = subscribe_with(bus, OPTIONS(.yield_us = 100));
    assert_int_equal(fan_subscription_next(sleeper, 5, &message), FAN_AGAIN);
    assert_int_equal(fan_subscription_next(yielder, 5, &message), FAN_AGAIN);
    fan_subscription_free(sleeper);
    fan_subscription_free(yielder);
    fan_bus_free(bus);
}

/* Level-triggered: as long as something waits, each look at it says so. */
static void test_B19_the_descriptor_works_with_epoll(void **state)
{
    (void)state;
    struct fan_bus *bus = open_bus();
    struct fan_subscription *subscription = subscribe(bus, FAN_POLICY_DROP_OLDEST, 2);
    struct epoll_event event = { .events = EPOLLIN, .data.ptr = subscription };
    int descriptor;
    int poller = epoll_create1(EPOLL_CLOEXEC);
    assert_true(poller >= 0);
    assert_ok(fan_subscription_fd(subscription, &descriptor));
    assert_int_equal(epoll_ctl(poller, EPOLL_CTL_ADD, descriptor, &event), 0);
    for (uint64_t round = 0; round < 3; round++) {
        assert_int_equal(epoll_wait(poller, &event, 1, 0), 0);
        publish(bus, NULL, "a");
        publish(bus, NULL, "a");
        for (uint64_t i = 1; i <= 2; i++) {
            for (int look = 0; look < 3; look++) {
                event.data.ptr = NULL;
                assert_int_equal(epoll_wait(poller, &event, 1, 0), 1);
                assert_ptr_equal(event.data.ptr, subscription);
            }
            expect_seq(subscription, 2 * round + i);
        }
    }
    close(poller);
    fan_subscription_free(subscription);
    fan_bus_free(bus);
}

static void test_B19_the_descriptor_is_readable_while_a_read_is(void **state)
{
    (void)state;
    struct fan_bus *bus = open_bus();
    struct fan_subscription *subscription = subscribe(bus, FAN_POLICY_DROP_NEWEST, 2);
    publish(bus, NULL, "a");
    int descriptor;
    int again;
    assert_ok(fan_subscription_fd(subscription, &descriptor));
    assert_ok(fan_subscription_fd(subscription, &again));
    assert_int_equal(descriptor, again);
    assert_true(is_readable(descriptor));
    expect_seq(subscription, 1);
    assert_false(is_readable(descriptor));
    expect_status(subscription, FAN_AGAIN);
    assert_false(is_readable(descriptor));
    for (int i = 0; i < 3; i++)
        publish(bus, NULL, "a");
    expect_seq(subscription, 2);
    assert_true(is_readable(descriptor));
    expect_seq(subscription, 3);
    /* A pending gap is something to read, and so is the end. */
    assert_true(is_readable(descriptor));
    expect_gap(subscription, 3, 5, 1);
    assert_false(is_readable(descriptor));
    fan_bus_close(bus);
    assert_true(is_readable(descriptor));
    expect_status(subscription, FAN_CLOSED);
    assert_true(is_readable(descriptor));
    fan_subscription_free(subscription);
    fan_bus_free(bus);
}

static void test_B20_B24_L3_counters_add_up_with_the_departed(void **state)
{
    (void)state;
    struct fan_bus *bus = open_bus();
    publish(bus, NULL, "a");
    struct fan_subscription *first = subscribe(bus, FAN_POLICY_DROP_NEWEST, 1);
    publish(bus, NULL, "a");
    expect_seq(first, 2);
    publish(bus, NULL, "a");
    publish(bus, NULL, "a");
    struct fan_bus_counters counters = bus_counters_of(bus);
    assert_int_equal(counters.published, 4);
    assert_int_equal(counters.unheard, 1);
    assert_int_equal(counters.matched, 3);
    assert_int_equal(counters.delivered, 1);
    assert_int_equal(counters.queued, 1);
    assert_int_equal(counters.dropped, 1);
    assert_int_equal(counters.subscriptions, 1);
    fan_subscription_free(first);
    struct fan_subscription *second = subscribe(bus, FAN_POLICY_LATEST, 2);
    for (int i = 0; i < 3; i++)
        publish(bus, NULL, "a");
    counters = bus_counters_of(bus);
    assert_int_equal(counters.matched, 6);
    assert_int_equal(counters.delivered, 1);
    assert_int_equal(counters.dropped, 1);
    assert_int_equal(counters.discarded, 1);
    assert_int_equal(counters.conflated, 2);
    assert_int_equal(counters.queued, 1);
    assert_true(bus_adds_up(bus));
    struct fan_subscription_counters own = counters_of(second);
    assert_int_equal(own.queued_max, 1);
    assert_int_equal(own.size, sizeof(own));
    /* A caller with an older, shorter struct gets what fits. */
    struct fan_bus_counters shorter = { .size = offsetof(struct fan_bus_counters, matched),
                                        .matched = 77 };
    fan_bus_counters(bus, &shorter);
    assert_int_equal(shorter.published, 7);
    assert_int_equal(shorter.matched, 77);
    fan_subscription_free(second);
    fan_bus_free(bus);
}

static void test_B22_the_default_is_1024_and_drop_newest(void **state)
{
    (void)state;
    struct fan_bus *bus = open_bus();
    struct fan_subscription *subscription = subscribe_with(bus, NULL);
    for (int i = 0; i < 1030; i++)
        publish(bus, NULL, "a");
    struct fan_subscription_counters counters = counters_of(subscription);
    assert_int_equal(counters.queued, FAN_BUFFER_COUNT);
    assert_int_equal(counters.dropped, 6);
    for (uint64_t i = 1; i <= FAN_BUFFER_COUNT; i++)
        expect_seq(subscription, i);
    expect_gap(subscription, 1024, 1031, 6);
    fan_subscription_free(subscription);
    fan_bus_free(bus);
}

static void test_B23_an_open_bus_takes_any_type_and_bytes(void **state)
{
    (void)state;
    struct fan_bus *bus = open_bus();
    struct fan_subscription *matching = subscribe_with(bus, OPTIONS(.pattern = "public.*"));
    struct fan_subscription *both =
        subscribe_with(bus, OPTIONS(.pattern = "public.>", .topic = "t"));
    struct fan_subscription *every = subscribe_with(bus, OPTIONS(.pattern = "*"));
    struct fan_message message = message_of("t", "public.users", NULL);
    message.payload = (struct fan_str){ "\0\xff\n", 3 };
    assert_ok(fan_bus_publish(bus, &message, NULL));
    publish(bus, "t", "public.users.create");
    publish(bus, "u", "public.users.create");
    publish(bus, "u", "chat");
    const struct fan_message *got;
    assert_ok(fan_subscription_next(matching, 0, &got));
    assert_int_equal(got->payload.size, 3);
    assert_memory_equal(got->payload.data, "\0\xff\n", 3);
    assert_int_equal((uintptr_t)got->payload.data % 8, 0);
    assert_int_equal(got->kind, 0);
    assert_int_equal(got->size, FAN_MESSAGE_SIZE);
    expect_status(matching, FAN_AGAIN);
    expect_seq(both, 1);
    expect_seq(both, 2);
    expect_status(both, FAN_AGAIN);
    for (uint64_t i = 1; i <= 4; i++)
        expect_seq(every, i);
    fan_subscription_free(matching);
    fan_subscription_free(both);
    fan_subscription_free(every);
    fan_bus_free(bus);
}

static void test_B24_kinds_can_be_enumerated_and_filtered_by_pattern(void **state)
{
    (void)state;
    struct fan_bus *bus = open_typed();
    assert_string_equal(fan_bus_kind(bus, 0)->name, "host.pulse");
    assert_string_equal(fan_bus_kind(bus, 1)->name, "host.drift");
    assert_int_equal(fan_bus_kind(bus, 1)->payload_size, sizeof(struct drift_detected));
    assert_null(fan_bus_kind(bus, 2));
    struct fan_subscription *subscription =
        subscribe_with(bus, OPTIONS(.all_kinds = true, .pattern = "*.drift"));
    struct heartbeat_pulse pulse = { .reachable = true };
    struct drift_detected drift = { .score_delta = 1 };
    assert_ok(pulse_publish(bus, NULL, &pulse, NULL));
    assert_ok(drift_publish(bus, NULL, &drift, NULL));
    expect_seq(subscription, 2);
    expect_status(subscription, FAN_AGAIN);
    fan_subscription_free(subscription);
    struct fan_bus *open = open_bus();
    assert_null(fan_bus_kind(open, 0));
    fan_bus_free(open);
    fan_bus_free(bus);
}

static void test_L5_a_subscription_outlives_its_bus(void **state)
{
    (void)state;
    struct fan_bus *bus = open_bus();
    struct fan_subscription *subscription = subscribe(bus, FAN_POLICY_DEFAULT, 0);
    struct fan_message message = message_of("t", "a", "still here");
    assert_ok(fan_bus_publish(bus, &message, NULL));
    fan_bus_free(bus);
    const struct fan_message *got;
    assert_ok(fan_subscription_next(subscription, FAN_TIMEOUT_FOREVER, &got));
    assert_memory_equal(got->payload.data, "still here", 10);
    assert_int_equal(fan_subscription_next(subscription, FAN_TIMEOUT_FOREVER, &got), FAN_CLOSED);
    assert_int_equal(counters_of(subscription).delivered, 1);
    fan_subscription_unsubscribe(subscription);
    fan_subscription_free(subscription);
}

static void test_a_bus_for_one_publisher_publishes(void **state)
{
    (void)state;
    struct fan_bus_options options = FAN_BUS_OPTIONS_INIT;
    options.single_publisher = true;
    struct fan_bus *bus = open_with(&options);
    struct fan_subscription *subscription = subscribe(bus, FAN_POLICY_DEFAULT, 0);
    for (uint64_t i = 1; i <= 3; i++) {
        publish(bus, NULL, "a");
        expect_seq(subscription, i);
    }
    fan_subscription_free(subscription);
    fan_bus_free(bus);
}

static void test_L11_what_one_reads_is_what_was_published(void **state)
{
    (void)state;
    struct fan_bus *bus = open_bus();
    struct fan_subscription *first = subscribe(bus, FAN_POLICY_DEFAULT, 0);
    struct fan_subscription *second = subscribe(bus, FAN_POLICY_DEFAULT, 0);
    char text[] = "before";
    char topic[] = "topic";
    struct fan_message message = message_of(topic, "a", text);
    assert_ok(fan_bus_publish(bus, &message, NULL));
    /* The publisher's memory is its own again. */
    memset(text, '!', sizeof(text) - 1);
    memset(topic, '!', sizeof(topic) - 1);
    const struct fan_message *got;
    assert_ok(fan_subscription_next(first, 0, &got));
    fan_subscription_free(first);
    assert_ok(fan_subscription_next(second, 0, &got));
    assert_memory_equal(got->payload.data, "before", 6);
    assert_string_equal(got->topic, "topic");
    fan_subscription_free(second);
    fan_bus_free(bus);
}

static int in_forked_child(struct fan_bus *bus, struct fan_subscription *subscription)
{
    struct fan_message message = message_of(NULL, "a", "x");
    const struct fan_message *many[1];
    const struct fan_message *got;
    struct fan_subscription *other;
    size_t count;
    int descriptor;
    int failed = 0;
    failed += fan_bus_publish(bus, &message, NULL) != FAN_FORKED;
    failed += fan_bus_publish_many(bus, &message, 1, &count) != FAN_FORKED;
    failed += fan_bus_subscribe(bus, NULL, &other, NULL) != FAN_FORKED;
    failed += fan_bus_topic_hold(bus, "t") != FAN_FORKED;
    failed += fan_bus_topic_release(bus, "t") != FAN_FORKED;
    failed += fan_subscription_next(subscription, 0, &got) != FAN_FORKED;
    failed += fan_subscription_next_many(subscription, 0, many, 1, &count) != FAN_FORKED;
    failed += fan_subscription_fd(subscription, &descriptor) != FAN_FORKED;
    failed += bus_counters_of(bus).published != 0;
    failed += counters_of(subscription).matched != 0;
    fan_subscription_unsubscribe(subscription);
    fan_subscription_cancel(subscription);
    fan_subscription_free(subscription);
    fan_bus_close(bus);
    fan_bus_free(bus);
    /* What the child opens itself is its own. */
    struct fan_bus *own;
    failed += fan_bus_open(NULL, &own, NULL) != FAN_OK;
    failed += fan_bus_publish(own, &message, NULL) != FAN_OK;
    fan_bus_free(own);
    return failed;
}

static void test_R03_a_forks_child_gets_a_typed_error(void **state)
{
    (void)state;
    struct fan_bus *bus = open_bus();
    struct fan_subscription *subscription = subscribe(bus, FAN_POLICY_DEFAULT, 0);
    publish(bus, NULL, "a");
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        _exit(in_forked_child(bus, subscription));
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    expect_seq(subscription, 1);
    fan_subscription_free(subscription);
    fan_bus_free(bus);
}

/* A caller that was built against a later header: it has more, and says so. */
static void test_R04_structs_of_a_later_version(void **state)
{
    (void)state;
    struct {
        struct fan_message known;
        uint64_t unknown;
    } later = { .known = message_of(NULL, "a", "x") };
    later.known.size = sizeof(later);
    struct fan_bus *bus = open_bus();
    assert_ok(fan_bus_publish(bus, &later.known, NULL));
    later.unknown = 1;
    assert_int_equal(fan_bus_publish(bus, &later.known, NULL), FAN_INVALID);
    assert_int_equal(bus_counters_of(bus).published, 1);

    /* Told how much of it was filled. */
    struct {
        struct fan_bus_counters known;
        uint64_t unknown;
    } bus_counters = { .known = { .size = sizeof(bus_counters) }, .unknown = 77 };
    fan_bus_counters(bus, &bus_counters.known);
    assert_int_equal(bus_counters.known.published, 1);
    assert_int_equal(bus_counters.known.size, sizeof(bus_counters.known));
    assert_int_equal(bus_counters.unknown, 77);
    struct fan_subscription *subscription = subscribe(bus, FAN_POLICY_DEFAULT, 0);
    struct {
        struct fan_subscription_counters known;
        uint64_t unknown;
    } counters = { .known = { .size = sizeof(counters) }, .unknown = 77 };
    fan_subscription_counters(subscription, &counters.known);
    assert_int_equal(counters.known.size, sizeof(counters.known));
    assert_int_equal(counters.unknown, 77);
    fan_subscription_free(subscription);
    fan_bus_free(bus);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_B01_B25_one_subscriber_gets_a_typed_event),
        cmocka_unit_test(test_B02_unheard_is_counted_and_allocates_nothing),
        cmocka_unit_test(test_B03_every_subscriber_of_a_kind_receives),
        cmocka_unit_test(test_B05_close_lets_read_then_refuses),
        cmocka_unit_test(test_B08_another_kind_never_arrives),
        cmocka_unit_test(test_B09_bad_sets_of_kinds_are_refused),
        cmocka_unit_test(test_B09_kinds_of_a_filter_are_checked),
        cmocka_unit_test(test_subscribe_names_the_field_at_fault),
        cmocka_unit_test(test_B10_another_struct_is_a_typed_error),
        cmocka_unit_test(test_publish_refuses_what_is_no_message),
        cmocka_unit_test(test_B11_a_stalled_subscriber_disturbs_nobody),
        cmocka_unit_test(test_B12_L5_unsubscribe_is_idempotent_and_discards),
        cmocka_unit_test(test_B13_a_token_ends_the_subscription),
        cmocka_unit_test(test_B13_ten_thousand_leave_nothing_on_a_live_token),
        cmocka_unit_test(test_B15_topics_are_separate_and_in_order),
        cmocka_unit_test(test_B16_a_topic_goes_with_its_last_holder),
        cmocka_unit_test(test_B16_many_topics_are_found),
        cmocka_unit_test(test_B17_versions_rise_and_times_are_kept),
        cmocka_unit_test(test_B19_reads_in_batches_up_to_a_loss),
        cmocka_unit_test(test_B19_a_read_times_out),
        cmocka_unit_test(test_B19_the_descriptor_works_with_epoll),
        cmocka_unit_test(test_B19_the_descriptor_is_readable_while_a_read_is),
        cmocka_unit_test(test_B20_B24_L3_counters_add_up_with_the_departed),
        cmocka_unit_test(test_B22_the_default_is_1024_and_drop_newest),
        cmocka_unit_test(test_B23_an_open_bus_takes_any_type_and_bytes),
        cmocka_unit_test(test_B24_kinds_can_be_enumerated_and_filtered_by_pattern),
        cmocka_unit_test(test_L5_a_subscription_outlives_its_bus),
        cmocka_unit_test(test_a_bus_for_one_publisher_publishes),
        cmocka_unit_test(test_L11_what_one_reads_is_what_was_published),
        cmocka_unit_test(test_R03_a_forks_child_gets_a_typed_error),
        cmocka_unit_test(test_R04_structs_of_a_later_version),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
