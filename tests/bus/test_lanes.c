/*
 * What lanes promise beyond the policies: bounded cost and memory with many topics, filters and
 * stalled subscribers (by counters, never by time), and buses for one publisher. FANFARE_SOAK runs
 * the full counts.
 */
#include "../seed.h"
#include "bus_test.h"

#include "base/thread.h"
#include "bus/bus.h"

#include <fanfare/pattern.h>

#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static struct fan_bus *open_in(struct test_memory *memory, bool single_publisher)
{
    struct fan_bus_options options = FAN_BUS_OPTIONS_INIT;
    test_memory_init(memory);
    options.env = &memory->env;
    options.single_publisher = single_publisher;
    return open_with(&options);
}

static void test_R06_a_hundred_thousand_topics_cost_no_memory(void **state)
{
    (void)state;
    enum { TOPICS = 100000, FILTERS = 1000 };
    struct test_memory memory;
    struct fan_bus *bus = open_in(&memory, true);
    static struct fan_subscription *all[FILTERS];
    char text[32];
    for (size_t i = 0; i < FILTERS; i++) {
        snprintf(text, sizeof(text), "type-%zu.*", i);
        all[i] = subscribe_with(bus, OPTIONS(.pattern = text, .buffer_count = 8));
    }
    struct fan_subscription *one = subscribe_with(bus, OPTIONS(.topic = "topic-77"));
    /* Once a type is known, no filter is looked at again, whatever the topic. */
    for (int i = 0; i < 3; i++)
        publish(bus, NULL, "type-7.a");
    for (int i = 0; i < 100; i++)
        publish(bus, "t", "type-7.a");
    long calls = atomic_load(&memory.calls);
    uint64_t looked_at = bus->routes.looked_at;
    for (size_t i = 0; i < TOPICS; i++) {
        snprintf(text, sizeof(text), "topic-%zu", i);
        publish(bus, text, "type-7.a");
    }
    /* The one topic that has a lane has it looked at. */
    assert_int_equal(bus->routes.looked_at - looked_at, 1);
    /* It is remembered, and its lane gets a ring. */
    assert_int_equal(atomic_load(&memory.calls), calls + 2);
    assert_int_equal(counters_of(all[7]).matched, TOPICS + 103);
    assert_int_equal(counters_of(one).matched, 1);
    assert_int_equal(bus_counters_of(bus).topics, 1);
    assert_true(bus_adds_up(bus));
    for (size_t i = 0; i < FILTERS; i++)
        fan_subscription_free(all[i]);
    fan_subscription_free(one);
    fan_bus_free(bus);
    assert_int_equal(atomic_load(&memory.blocks), 0);
}

/* A text with a number where `form` has a #. */
static void number_text(char text[FAN_TEXT_SIZE_MAX + 1], const char *form, int number)
{
    size_t at = strcspn(form, "#");
    if (form[at] == '\0')
        strcpy(text, form);
    else
        snprintf(text, FAN_TEXT_SIZE_MAX + 1, "%.*s%d%s", (int)at, form, number, form + at + 1);
}

/* Publishes a form's types from 0 to count - 1; gives how many lanes were compared with them. */
static uint64_t publish_types(struct fan_bus *bus, const char *topic, const char *form, int count)
{
    char type[FAN_TEXT_SIZE_MAX + 1];
    uint64_t looked_at = bus->routes.looked_at;
    for (int i = 0; i < count; i++) {
        number_text(type, form, i);
        publish(bus, topic, type);
    }
    return bus->routes.looked_at - looked_at;
}

/* A thousand filters, and of each type that they want some in turn. */
static void check_thousand(const char *topic, const char *patterns, const char *types)
{
    enum { FILTERS = 1000, ROUNDS = 3 };
    struct fan_bus *bus = open_bus();
    static struct fan_subscription *all[FILTERS];
    char pattern[FAN_TEXT_SIZE_MAX + 1];
    for (int i = 0; i < FILTERS; i++) {
        number_text(pattern, patterns, i);
        all[i] =
            subscribe_with(bus, OPTIONS(.topic = topic, .pattern = pattern, .buffer_count = 8));
    }
    /* At first each is compared with the one filter, and then with none. */
    assert_int_equal(publish_types(bus, topic, types, FILTERS), FILTERS);
    for (int i = 1; i < ROUNDS; i++)
        assert_int_equal(publish_types(bus, topic, types, FILTERS), 0);
    /* Filters that come and go cost those that stay one comparison. */
    for (int i = 0; i < 100; i++) {
        struct fan_subscription *other = subscribe_with(bus, OPTIONS(.pattern = "else.where"));
        assert_int_equal(publish_types(bus, topic, types, 1), 1);
        assert_int_equal(publish_types(bus, topic, types, 1), 0);
        fan_subscription_free(other);
        assert_int_equal(publish_types(bus, topic, types, 1), 1);
    }
    for (int i = 0; i < FILTERS; i++) {
        assert_int_equal(counters_of(all[i]).matched, i == 0 ? ROUNDS + 300 : ROUNDS);
        fan_subscription_free(all[i]);
    }
    assert_int_equal(bus->prefixes.count, 0);
    fan_bus_free(bus);
}

static void test_R06_a_thousand_types_in_turn_look_at_their_own_filters(void **state)
{
    (void)state;
    char wide[FAN_TEXT_SIZE_MAX + 1] = "";
    while (strlen(wide) < 200)
        strcat(wide, "segment.");
    strcat(wide, "#");
    check_thousand(NULL, "a.b.#", "a.b.#");
    check_thousand(NULL, "#.*", "#.b");
    check_thousand(NULL, "a.#.>", "a.#.b.c");
    check_thousand(NULL, wide, wide);
    check_thousand("t", "a.b.#", "a.b.#");
}

static void test_R06_a_type_that_many_filters_want_is_remembered(void **state)
{
    (void)state;
    enum { WIDTH = 7, FILTERS = 100 };
    struct fan_bus *bus = open_bus();
    struct fan_subscription *all[FILTERS];
    for (size_t i = 0; i < FILTERS; i++) {
        char pattern[2 * WIDTH] = "a.a.a.a.a.a.a";
        for (size_t bit = 0; bit < WIDTH; bit++)
            if (i >> bit & 1)
                pattern[2 * bit] = '*';
        all[i] = subscribe_with(bus, OPTIONS(.pattern = pattern, .buffer_count = 8));
        assert_int_equal(publish_types(bus, NULL, "a.a.a.a.a.a.a", 1), i + 1);
        assert_int_equal(publish_types(bus, NULL, "a.a.a.a.a.a.a", 1), 0);
        publish(bus, NULL, "another");
        assert_int_equal(publish_types(bus, NULL, "a.a.a.a.a.a.a", 2), 0);
    }
    assert_int_equal(bus->routes.count, 2);
    for (size_t i = 0; i < FILTERS; i++) {
        assert_int_equal(counters_of(all[i]).matched, 4 * (FILTERS - i));
        fan_subscription_free(all[i]);
    }
    fan_bus_free(bus);
}

static void test_R06_topics_that_nobody_wants_are_found_by_type(void **state)
{
    (void)state;
    enum { TOPICS = 100000, WANTED = 100, TYPES = 10 };
    struct test_memory memory;
    struct fan_bus *bus = open_in(&memory, true);
    struct fan_subscription *all[WANTED];
    struct fan_subscription *every = subscribe(bus, FAN_POLICY_DROP_OLDEST, 8);
    char text[32];
    for (int i = 0; i < WANTED; i++) {
        snprintf(text, sizeof(text), "topic-%d", i * 77);
        all[i] = subscribe_with(
            bus, OPTIONS(.topic = text, .policy = FAN_POLICY_DROP_OLDEST, .buffer_count = 8));
    }
    assert_int_equal(publish_types(bus, NULL, "type-#", TYPES), TYPES);
    for (int round = 0; round < 2; round++) {
        uint64_t looked_at = bus->routes.looked_at;
        for (int i = 0; i < TOPICS; i++) {
            char type[32];
            snprintf(text, sizeof(text), "topic-%d", i);
            snprintf(type, sizeof(type), "type-%d", i % TYPES);
            publish(bus, text, type);
        }
        assert_int_equal(bus->routes.looked_at - looked_at, round == 0 ? WANTED : 0);
        assert_int_equal(bus->routes.count, TYPES + WANTED);
    }
    for (int i = 0; i < WANTED; i++) {
        assert_int_equal(counters_of(all[i]).matched, 2);
        fan_subscription_free(all[i]);
    }
    assert_int_equal(counters_of(every).matched, 2 * TOPICS + TYPES);
    fan_subscription_free(every);
    fan_bus_free(bus);
    assert_int_equal(atomic_load(&memory.blocks), 0);
}

static void test_R06_what_is_remembered_of_types_is_bounded(void **state)
{
    (void)state;
    enum { TYPES = 16 * FAN__ROUTE_COUNT_MAX };
    struct test_memory memory;
    struct fan_bus *bus = open_in(&memory, true);
    struct fan_subscription *all =
        subscribe_with(bus, OPTIONS(.pattern = "*.7", .policy = FAN_POLICY_DROP_OLDEST));
    publish_types(bus, NULL, "a.#", FAN__ROUTE_COUNT_MAX);
    assert_int_equal(bus->routes.count, FAN__ROUTE_COUNT_MAX);
    /* What comes on top is found nevertheless, and in the end it is what is remembered. */
    assert_int_equal(publish_types(bus, NULL, "b.#", 100), 100);
    assert_int_equal(publish_types(bus, NULL, "b.#", 100), 100);
    publish_types(bus, NULL, "c.#", TYPES);
    publish_types(bus, NULL, "b.#", 100);
    assert_int_equal(publish_types(bus, NULL, "b.#", 100), 0);
    assert_int_equal(counters_of(all).matched, 1 + 4 + 1);
    fan_subscription_free(all);
    fan_bus_free(bus);
    /* In bytes too. */
    bus = open_in(&memory, true);
    all = subscribe(bus, FAN_POLICY_DROP_OLDEST, 8);
    bus->memory_size_max = FAN__ROUTE_PART * FAN__ROUTE_SIZE_MIN;
    publish_types(bus, NULL, "type-#", FAN__ROUTE_COUNT_MAX);
    assert_in_range(bus->routes.size, FAN__ROUTE_SIZE_MIN / 2, FAN__ROUTE_SIZE_MIN);
    assert_int_equal(counters_of(all).matched, FAN__ROUTE_COUNT_MAX);
    fan_subscription_free(all);
    fan_bus_free(bus);
    assert_int_equal(atomic_load(&memory.blocks), 0);
}

/* A text of a few segments, of which `>` is the last. */
static void random_text(uint64_t *state, char text[16], const char *const *segments, size_t count)
{
    const char *segment = segments[test_pick(state, count)];
    strcpy(text, segment);
    while (test_pick(state, 3) > 0 && strlen(text) < 8 && segment[0] != '>') {
        segment = segments[test_pick(state, count)];
        strcat(text, ".");
        strcat(text, segment);
    }
}

/* What a filter wants, and how many of it came. */
struct wish {
    struct fan_subscription *subscription;
    const char *topic;
    char pattern[16];
    uint64_t matched;
};

static void test_R06_the_lanes_found_are_those_that_all_filters_name(void **state)
{
    (void)state;
    enum { WISHES = 40 };
    static const char *const parts[] = { "a", "b", "ab", "*", ">" };
    static const char *const odd[] = { "a", "b", "ab", "", "*", ">" };
    static const char *const topics[] = { NULL, NULL, "t", "u", "v", "a" };
    struct test_memory memory;
    struct fan_bus *bus = open_in(&memory, false);
    struct wish wishes[WISHES] = { 0 };
    uint64_t random = test_seed();
    for (int i = 0; i < (test_is_soak() ? 2000000 : 20000); i++) {
        struct wish *wish = &wishes[test_pick(&random, WISHES)];
        if (i < WISHES || test_pick(&random, 8) == 0) {
            fan_subscription_free(wish->subscription);
            wish->matched = 0;
            wish->topic = topics[test_pick(&random, 5)];
            random_text(&random, wish->pattern, parts, 5);
            wish->subscription =
                subscribe_with(bus, OPTIONS(.topic = wish->topic, .pattern = wish->pattern,
                                            .buffer_count = 1, .policy = FAN_POLICY_DROP_OLDEST));
        }
        char type[16];
        const char *topic = topics[test_pick(&random, 6)];
        random_text(&random, type, odd, test_pick(&random, 4) > 0 ? 3 : 6);
        if (type[0] == '\0')
            continue;
        /* Without memory nothing is remembered, and all is found. */
        atomic_store(&memory.left, test_pick(&random, 4) > 0 ? -1 : 0);
        enum fan_status status = try_publish(bus, topic, type, NULL);
        atomic_store(&memory.left, -1);
        /* A lane is to get its ring. */
        if (status == FAN_NO_MEMORY)
            publish(bus, topic, type);
        else
            assert_ok(status);
        for (size_t n = 0; n < WISHES; n++) {
            wish = &wishes[n];
            if (!wish->subscription)
                continue;
            wish->matched += (!wish->topic || (topic && strcmp(wish->topic, topic) == 0)) &&
                             fan_pattern_match(wish->pattern, type);
            assert_int_equal(counters_of(wish->subscription).matched, wish->matched);
        }
    }
    for (size_t n = 0; n < WISHES; n++)
        fan_subscription_free(wishes[n].subscription);
    assert_int_equal(bus->prefixes.count + bus->topics.count, 0);
    fan_bus_free(bus);
    assert_int_equal(atomic_load(&memory.blocks), 0);
}

static void test_R06_rings_are_bounded_in_number_and_bytes(void **state)
{
    (void)state;
    enum { FILTERS = 200 };
    struct test_memory memory;
    struct fan_bus *bus = open_in(&memory, false);
    static struct fan_subscription *all[FILTERS];
    char text[32];
    for (size_t i = 0; i < FILTERS; i++) {
        snprintf(text, sizeof(text), "type-%zu", i);
        all[i] = subscribe_with(bus, OPTIONS(.pattern = text));
    }
    /* A filter for which nothing comes takes none. */
    assert_int_equal(bus->ring_count, 0);
    for (size_t i = 0; i < FILTERS; i++) {
        snprintf(text, sizeof(text), "type-%zu", i);
        publish(bus, NULL, text);
        assert_true(bus->ring_count <= FAN__RING_COUNT_MAX);
        assert_true(bus->ring_size <= bus->memory_size_max / 4);
    }
    assert_int_equal(bus->ring_count, FAN__RING_COUNT_MAX);
    /* Those without a ring hear the same. */
    for (size_t i = 0; i < FILTERS; i++) {
        expect_seq(all[i], i + 1);
        expect_status(all[i], FAN_AGAIN);
        fan_subscription_free(all[i]);
    }
    assert_int_equal(bus->ring_count, 0);
    assert_int_equal(bus->ring_size, 0);
    /* A ring that would be too large is not made, and the buffer is as large as asked for. */
    struct fan_subscription *large = subscribe(bus, FAN_POLICY_DROP_NEWEST, 100000);
    assert_int_equal(bus->ring_count, 0);
    for (int i = 0; i < 100001; i++)
        publish(bus, NULL, "a");
    assert_int_equal(counters_of(large).queued, 100000);
    assert_int_equal(counters_of(large).dropped, 1);
    fan_subscription_free(large);
    fan_bus_free(bus);
    assert_int_equal(atomic_load(&memory.blocks), 0);
}

static void test_R06_rings_take_a_part_of_the_budget_together(void **state)
{
    (void)state;
    enum {
        BUFFER = FAN__RING_SLOTS_MIN / 2,
        RING_SIZE = FAN__RING_SLOTS_MIN * FAN__SLOT_SIZE_DEFAULT
    };
    static const char *const ring_topics[] = { "t", "u", "v" };
    struct fan_bus_options options = FAN_BUS_OPTIONS_INIT;
    struct fan_subscription *all[3];
    /* Of which a quarter is two rings, and no third. */
    options.memory_size_max = (size_t)11 * RING_SIZE;
    struct fan_bus *bus = open_with(&options);
    for (size_t i = 0; i < 3; i++)
        all[i] = subscribe_with(bus, OPTIONS(.topic = ring_topics[i], .buffer_count = BUFFER));
    for (size_t i = 0; i < 3; i++)
        expect_seq(all[i], publish(bus, ring_topics[i], "a"));
    assert_int_equal(bus->ring_count, 2);
    assert_int_equal(bus->ring_size, 2 * RING_SIZE);
    for (size_t i = 0; i < 3; i++)
        fan_subscription_free(all[i]);
    assert_int_equal(bus->ring_size, 0);
    fan_bus_free(bus);
}

/* One that was forgotten asks to be given messages again, and is freed before the next one. */
static void test_L5_who_asks_for_something_and_is_freed_is_asked_for_no_more(void **state)
{
    (void)state;
    static const enum fan_policy policies[] = { FAN_POLICY_DROP_NEWEST, FAN_POLICY_DROP_OLDEST };
    for (size_t p = 0; p < 2; p++) {
        struct fan_bus *bus = open_bus();
        struct fan_subscription *asks = subscribe(bus, policies[p], 4);
        struct fan_subscription *other = subscribe(bus, FAN_POLICY_DROP_OLDEST, 4);
        const struct fan__lane *lane = other->lane;
        const struct fan_message *message;
        for (int i = 0; i < 200; i++)
            publish(bus, NULL, "a");
        assert_int_not_equal(fan_subscription_next(asks, 0, &message), FAN_AGAIN);
        assert_ptr_equal(atomic_load(&lane->asked), asks);
        fan_subscription_free(asks);
        assert_null(atomic_load(&lane->asked));
        publish(bus, NULL, "a");
        expect_gap(other, 0, 198, 197);
        fan_subscription_free(other);
        fan_bus_free(bus);
    }
}

static void test_R06_stalled_subscribers_are_forgotten_until_they_read(void **state)
{
    (void)state;
    enum { STALLED = 1000, BUFFER = 100 };
    struct test_memory memory;
    struct fan_bus *bus = open_in(&memory, true);
    static struct fan_subscription *all[STALLED];
    for (size_t i = 0; i < STALLED; i++)
        all[i] = subscribe(bus, FAN_POLICY_DROP_NEWEST, BUFFER);
    struct fan_subscription *fast = subscribe(bus, FAN_POLICY_DROP_OLDEST, BUFFER);
    for (int i = 0; i < 2 * BUFFER; i++)
        publish(bus, "t", "a.b");
    /* All of them are off the ring, share what they hold, and are looked at no more. */
    const struct fan__lane *lane = all[0]->lane;
    assert_true(fan__link_alone(&lane->queued));
    assert_true(bus->held_size < 4 * BUFFER * FAN__SLOT_SIZE_DEFAULT + (size_t)STALLED * BUFFER);
    long calls = atomic_load(&memory.calls);
    for (int i = 0; i < 10000; i++)
        publish(bus, "t", "a.b");
    assert_int_equal(atomic_load(&memory.calls), calls);
    for (size_t i = 0; i < STALLED; i++) {
        struct fan_subscription_counters counters = counters_of(all[i]);
        assert_int_equal(counters.queued, BUFFER);
        assert_int_equal(counters.dropped, 10000 + BUFFER);
    }
    /* One of them reads: it has its first, and its place is taken by the next. */
    for (uint64_t i = 1; i <= BUFFER; i++)
        expect_seq(all[0], i);
    expect_gap(all[0], BUFFER, 10000 + 2 * BUFFER + 1, 10000 + BUFFER);
    uint64_t seq = publish(bus, "t", "a.b");
    expect_seq(all[0], seq);
    expect_seq(all[1], 1);
    seq = publish(bus, "t", "a.b");
    for (uint64_t i = 2; i <= BUFFER; i++)
        expect_seq(all[1], i);
    expect_gap(all[1], BUFFER, seq, 10000 + BUFFER + 1);
    expect_seq(all[1], seq);
    assert_true(bus_adds_up(bus));
    for (size_t i = 0; i < STALLED; i++)
        fan_subscription_free(all[i]);
    fan_subscription_free(fast);
    assert_int_equal(bus->held_size, 0);
    fan_bus_free(bus);
    assert_int_equal(atomic_load(&memory.blocks), 0);
}

static void test_R06_lapped_subscribers_are_looked_at_once(void **state)
{
    (void)state;
    enum { STALLED = 1000, BUFFER = 32 };
    struct test_memory memory;
    struct fan_bus *bus = open_in(&memory, true);
    static struct fan_subscription *all[STALLED];
    for (size_t i = 0; i < STALLED; i++)
        all[i] = subscribe(bus, FAN_POLICY_DROP_OLDEST, BUFFER);
    struct fan_subscription *fast = subscribe(bus, FAN_POLICY_DROP_OLDEST, BUFFER);
    const struct fan__lane *lane = fast->lane;
    long calls = atomic_load(&memory.calls);
    for (uint64_t i = 1; i <= 1000; i++) {
        publish(bus, NULL, "a");
        expect_seq(fast, i);
    }
    /* The gate has one reader to look after. */
    assert_ptr_equal(lane->ringed.next, &fast->lane_link);
    assert_ptr_equal(lane->ringed.previous, &fast->lane_link);
    /* Who reads again is looked after again, and told of the next loss as of the first. */
    expect_gap(all[0], 0, 1000 - BUFFER + 1, 1000 - BUFFER);
    for (uint64_t i = 1000 - BUFFER + 1; i <= 1000; i++)
        expect_seq(all[0], i);
    for (int i = 0; i < 500; i++)
        publish(bus, NULL, "a");
    expect_gap(all[0], 1000, 1500 - BUFFER + 1, 500 - BUFFER);
    expect_seq(all[0], 1500 - BUFFER + 1);
    expect_gap(fast, 1000, 1500 - BUFFER + 1, 500 - BUFFER);
    /* The ring, the table of types, and the one type. */
    assert_int_equal(atomic_load(&memory.calls), calls + 3);
    assert_true(bus_adds_up(bus));
    for (size_t i = 0; i < STALLED; i++)
        fan_subscription_free(all[i]);
    fan_subscription_free(fast);
    fan_bus_free(bus);
}

static bool reads_its_queue(const struct fan_subscription *subscription)
{
    return (atomic_load(&subscription->place) & FAN__PLACE_QUEUED) != 0;
}

/* Where large messages come among small ones, nobody is moved to and fro with each. */
static void test_R06_after_a_large_message_the_ring_is_left_alone_for_a_while(void **state)
{
    (void)state;
    static const char large[2 * FAN__SLOT_SIZE_DEFAULT];
    struct fan_bus *bus = open_bus();
    struct fan_subscription *subscription = subscribe(bus, FAN_POLICY_DROP_NEWEST, 8);
    uint64_t seq = publish(bus, NULL, "a");
    expect_seq(subscription, seq);
    expect_status(subscription, FAN_AGAIN);
    assert_false(reads_its_queue(subscription));
    struct fan_message message = message_of(NULL, "a", NULL);
    message.payload = (struct fan_str){ large, sizeof(large) };
    assert_ok(fan_bus_publish(bus, &message, NULL));
    expect_seq(subscription, ++seq);
    for (int i = 1; i < FAN__LANE_QUEUED_COUNT; i++) {
        expect_status(subscription, FAN_AGAIN);
        assert_true(reads_its_queue(subscription));
        publish(bus, NULL, "a");
        expect_seq(subscription, ++seq);
    }
    expect_status(subscription, FAN_AGAIN);
    assert_false(reads_its_queue(subscription));
    publish(bus, NULL, "a");
    expect_seq(subscription, ++seq);
    fan_subscription_free(subscription);
    fan_bus_free(bus);
}

/* Bytes that it asks for, beyond what it shares with the others on its ring. */
static void *count_bytes(void *context, void *pointer, size_t size)
{
    *(size_t *)context += size;
    return realloc(pointer, size);
}

static void test_L12_one_more_subscriber_takes_less_than_a_kilobyte(void **state)
{
    (void)state;
    size_t asked = 0;
    struct fan_env env = *fan_env_default();
    env.context = &asked;
    env.resize = count_bytes;
    struct fan_bus_options options = FAN_BUS_OPTIONS_INIT;
    options.env = &env;
    struct fan_bus *bus;
    assert_ok(fan_bus_open(&options, &bus, NULL));
    struct fan_subscription *first = subscribe(bus, FAN_POLICY_DEFAULT, 0);
    publish(bus, "t", "a");
    expect_seq(first, 1);
    asked = 0;
    struct fan_subscription *second = subscribe(bus, FAN_POLICY_DEFAULT, 0);
    for (uint64_t i = 2; i <= 10000; i++) {
        publish(bus, "t", "a");
        expect_seq(first, i);
        expect_seq(second, i);
    }
    assert_in_range(asked, 1, 1024);
    fan_subscription_free(first);
    fan_subscription_free(second);
    fan_bus_free(bus);
}

static void test_L12_segments_count_in_the_budget(void **state)
{
    (void)state;
    struct fan_bus_options options = FAN_BUS_OPTIONS_INIT;
    options.memory_size_max = 64 << 10; /* a ring of 64 slots fits, and few segments */
    struct fan_bus *bus;
    assert_ok(fan_bus_open(&options, &bus, NULL));
    struct fan_subscription *all[20];
    uint64_t published = 0;
    /* Each is moved off the ring at another position, so that none shares with another. */
    for (size_t i = 0; i < 20; i++) {
        all[i] = subscribe(bus, FAN_POLICY_DROP_NEWEST, 32);
        for (int k = 0; k < 40; k++) {
            publish(bus, NULL, "a");
            published++;
            assert_true(bus->held_size <= bus->memory_size_max);
        }
    }
    assert_true(bus_adds_up(bus));
    for (size_t i = 0; i < 20; i++) {
        uint64_t seq = 0;
        const struct fan_message *message;
        struct fan_gap gap;
        enum fan_status status;
        while ((status = fan_subscription_next(all[i], 0, &message)) != FAN_AGAIN) {
            if (status == FAN_GAP) {
                fan_subscription_gap(all[i], &gap);
                assert_true(seq == 0 || gap.after == seq);
                assert_int_equal(gap.count, gap.before - gap.after - 1);
                seq = gap.before - 1;
            } else {
                assert_ok(status);
                assert_true(seq == 0 || message->seq == seq + 1);
                seq = message->seq;
            }
        }
        assert_int_equal(seq, published);
        fan_subscription_free(all[i]);
    }
    assert_int_equal(bus->held_size, 0);
    fan_bus_free(bus);
}

/*
 * However far it was lapped before, and however far the lane goes on after: what was in its buffer
 * when it was cancelled can be read, and no more.
 */
static void test_L5_what_was_buffered_at_the_end_is_not_overwritten(void **state)
{
    (void)state;
    static const enum fan_policy policies[] = { FAN_POLICY_DROP_NEWEST, FAN_POLICY_DROP_OLDEST };
    enum { BUFFER = 5, BEFORE_MAX = 80, AFTER_MAX = 150 };
    for (uint64_t before = 1; before < BEFORE_MAX; before += 3) {
        for (uint64_t after = 0; after < AFTER_MAX; after += before % 7 + 1) {
            enum fan_policy policy = policies[after % 2];
            struct fan_bus *bus = open_bus();
            struct fan_subscription *other = subscribe(bus, FAN_POLICY_DROP_OLDEST, BUFFER);
            struct fan_subscription *ended = subscribe(bus, policy, BUFFER);
            for (uint64_t i = 0; i < before; i++)
                publish(bus, "t", "a");
            fan_subscription_cancel(ended);
            for (uint64_t i = 0; i < after; i++)
                publish(bus, "t", "a");
            uint64_t lost = before > BUFFER ? before - BUFFER : 0;
            uint64_t first = policy == FAN_POLICY_DROP_OLDEST ? lost + 1 : 1;
            if (lost > 0 && first > 1)
                expect_gap(ended, 0, first, lost);
            for (uint64_t i = 0; i < before - lost; i++)
                expect_seq(ended, first + i);
            if (lost > 0 && first == 1)
                expect_gap(ended, BUFFER, before + 1, lost);
            expect_status(ended, FAN_CLOSED);
            fan_subscription_free(ended);
            fan_subscription_free(other);
            assert_true(bus_adds_up(bus));
            fan_bus_free(bus);
        }
    }
}

static void test_the_size_of_slots_is_checked(void **state)
{
    (void)state;
    static const size_t bad[] = { 1, 56, 96, 4160, SIZE_MAX };
    for (size_t i = 0; i < 5; i++) {
        struct fan_bus_options options = FAN_BUS_OPTIONS_INIT;
        struct fan_bus *bus = NULL;
        struct fan_error error = FAN_ERROR_INIT;
        options.slot_size = bad[i];
        assert_int_equal(fan_bus_open(&options, &bus, &error), FAN_INVALID);
        assert_null(bus);
        assert_string_equal(error.field, "slot_size");
    }
}

/* Reads one message and then a batch, of what was published in two calls. */
static bool publish_and_read(struct fan_bus *bus, struct fan_subscription **all, size_t count)
{
    struct fan_message messages[4];
    for (size_t i = 0; i < 4; i++) {
        messages[i] = message_of("t", "a.b", "some words");
        messages[i].time_us = 1;
    }
    bool right = fan_bus_publish(bus, messages, NULL) == FAN_OK &&
                 fan_bus_publish_many(bus, messages, 4, NULL) == FAN_OK;
    for (size_t i = 0; i < count; i++) {
        const struct fan_message *many[8];
        size_t got = 0;
        right &= fan_subscription_next(all[i], 0, many) == FAN_OK &&
                 fan_subscription_next_many(all[i], 0, many, 8, &got) == FAN_OK && got == 4 &&
                 fan_subscription_next(all[i], 0, many) == FAN_AGAIN;
    }
    return right;
}

/* In a child that is killed when it calls the kernel for anything but writing and ending. */
static int stay_awake_alone(bool single_publisher)
{
    enum { READERS = 3, NO_SECCOMP = 77 };
    static const enum fan_policy policies[READERS] = { FAN_POLICY_DROP_NEWEST,
                                                       FAN_POLICY_DROP_OLDEST, FAN_POLICY_BLOCK };
    struct fan_bus_options options = FAN_BUS_OPTIONS_INIT;
    struct fan_bus *bus;
    struct fan_subscription *all[READERS];
    options.single_publisher = single_publisher;
    options.block_timeout_ms = 1000;
    if (fan_bus_open(&options, &bus, NULL) != FAN_OK)
        return 2;
    for (size_t i = 0; i < READERS; i++)
        if (fan_bus_subscribe(bus, OPTIONS(.policy = policies[i], .buffer_count = 64), &all[i],
                              NULL) != FAN_OK)
            return 2;
    if (!publish_and_read(bus, all, READERS))
        return 1;
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) != 0)
        return NO_SECCOMP;
    bool right = true;
    for (int i = 0; i < 2000; i++)
        right &= publish_and_read(bus, all, READERS);
    return right ? 0 : 1;
}

static void test_B19_who_is_awake_costs_no_system_call(void **state)
{
    (void)state;
    for (int single_publisher = 0; single_publisher < 2 && !TEST_SANITIZED; single_publisher++) {
        pid_t child = fork();
        assert_true(child >= 0);
        /* The one way to end that is allowed then. */
        if (child == 0)
            syscall(SYS_exit, stay_awake_alone(single_publisher));
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
            skip();
        assert_int_equal(status, 0);
    }
}

static void *publish_one_more(void *bus)
{
    (void)!try_publish(bus, NULL, "a", NULL);
    return NULL;
}

static void *publish_one_more_of_many(void *bus)
{
    struct fan_message message = message_of(NULL, "a", "x");
    (void)!fan_bus_publish_many(bus, &message, 1, NULL);
    return NULL;
}

/* In a child, without a core and without its words. */
static int publish_from_two_threads(void *(*second)(void *bus))
{
    struct fan_bus_options options = FAN_BUS_OPTIONS_INIT;
    struct rlimit no_core = { 0, 0 };
    struct fan_bus *bus;
    pthread_t other;
    options.single_publisher = true;
    bool ready = setrlimit(RLIMIT_CORE, &no_core) == 0 && freopen("/dev/null", "w", stderr) &&
                 fan_bus_open(&options, &bus, NULL) == FAN_OK &&
                 try_publish(bus, NULL, "a", NULL) == FAN_OK &&
                 try_publish(bus, NULL, "a", NULL) == FAN_OK;
    if (ready && pthread_create(&other, NULL, second, bus) == 0)
        pthread_join(other, NULL);
    return ready ? 1 : 2;
}

/* A mistake in the program, so it ends, through whichever door it comes. */
static void test_a_bus_for_one_publisher_takes_one_thread_alone(void **state)
{
    (void)state;
    void *(*const seconds[])(void *) = { publish_one_more, publish_one_more_of_many };
    for (size_t i = 0; i < 2; i++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0)
            _exit(publish_from_two_threads(seconds[i]));
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    }
}

/* One publisher without a lock, against readers that sleep: a wake that is lost hangs the test. */
struct sleeper {
    struct fan__thread thread;
    struct fan_subscription *subscription;
    atomic_ulong read;
    uint64_t told;
    enum fan_status end;
};

static void read_asleep(void *context)
{
    struct sleeper *sleeper = context;
    for (;;) {
        const struct fan_message *message;
        struct fan_gap gap;
        enum fan_status status =
            fan_subscription_next(sleeper->subscription, FAN_TIMEOUT_FOREVER, &message);
        if (status == FAN_GAP) {
            fan_subscription_gap(sleeper->subscription, &gap);
            sleeper->told += gap.count;
        } else if (status == FAN_OK) {
            atomic_fetch_add(&sleeper->read, 1);
        } else {
            sleeper->end = status;
            return;
        }
    }
}

static void test_B19_one_publisher_wakes_all_who_sleep(void **state)
{
    (void)state;
    static const enum fan_policy policies[] = { FAN_POLICY_DROP_NEWEST, FAN_POLICY_DROP_OLDEST,
                                                FAN_POLICY_BLOCK };
    struct fan_bus_options options = FAN_BUS_OPTIONS_INIT;
    options.single_publisher = true;
    options.block_timeout_ms = FAN_TIMEOUT_FOREVER;
    struct fan_bus *bus;
    assert_ok(fan_bus_open(&options, &bus, NULL));
    struct sleeper sleepers[6] = { 0 };
    for (size_t i = 0; i < 6; i++) {
        sleepers[i].subscription =
            subscribe_with(bus, OPTIONS(.policy = policies[i % 3], .buffer_count = 1 + i * 3,
                                        .yield_us = i % 2 ? 0 : 5));
        assert_ok(fan__thread_start(&sleepers[i].thread, "sleeper", read_asleep, &sleepers[i]));
    }
    uint64_t count = test_is_soak() ? 50000 : 3000;
    for (uint64_t n = 1; n <= count; n++) {
        publish(bus, NULL, "a");
        /* All but some of the time, everybody is asleep at the next one. */
        for (size_t i = 0; i < 6 && n % 7; i++)
            while (counters_of(sleepers[i].subscription).queued > 0)
                sched_yield();
    }
    fan_bus_close(bus);
    for (size_t i = 0; i < 6; i++) {
        fan__thread_join(&sleepers[i].thread);
        assert_int_equal(sleepers[i].end, FAN_CLOSED);
        assert_int_equal(atomic_load(&sleepers[i].read) + sleepers[i].told, count);
        assert_true(i % 3 != 2 || sleepers[i].told == 0);
        fan_subscription_free(sleepers[i].subscription);
    }
    fan_bus_free(bus);
}

/* As if it had lost some of a message each microsecond just now. */
static void make_sleepy(struct fan_subscription *subscription)
{
    subscription->lost_ns = fan__deadline_ns(0);
    subscription->pace = (struct fan__pace){ .since_ns = subscription->lost_ns, .every_ns = 1000 };
}

static void close_bus(void *context)
{
    fan_bus_close(context);
}

static void test_B19_a_nap_among_many_ends_in_time_and_hears_of_the_end(void **state)
{
    (void)state;
    struct fan_bus *bus = open_with(NULL);
    size_t count = bus->processor_count;
    const struct fan_message *message = NULL;
    struct fan_subscription **all = test_calloc(count, sizeof(struct fan_subscription *));
    for (size_t i = 0; i < count; i++)
        all[i] = subscribe_with(
            bus, OPTIONS(.policy = FAN_POLICY_DROP_OLDEST, .buffer_count = 1024, .yield_us = 1));
    for (int i = 0; i < 20; i++) {
        int64_t end_ns = fan__deadline_ns(1);
        make_sleepy(all[0]);
        assert_int_equal(fan_subscription_next(all[0], 1, &message), FAN_AGAIN);
        assert_true(fan__deadline_ns(0) >= end_ns);
        publish(bus, NULL, "a");
        make_sleepy(all[0]);
        assert_ok(fan_subscription_next(all[0], 1, &message));
    }
    struct fan__thread closer = { .started = false };
    make_sleepy(all[0]);
    assert_ok(fan__thread_start(&closer, "closer", close_bus, bus));
    assert_int_equal(fan_subscription_next(all[0], FAN_TIMEOUT_FOREVER, &message), FAN_CLOSED);
    fan__thread_join(&closer);
    for (size_t i = 0; i < count; i++)
        fan_subscription_free(all[i]);
    fan_bus_free(bus);
    test_free(all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_R06_a_hundred_thousand_topics_cost_no_memory),
        cmocka_unit_test(test_R06_a_thousand_types_in_turn_look_at_their_own_filters),
        cmocka_unit_test(test_R06_a_type_that_many_filters_want_is_remembered),
        cmocka_unit_test(test_R06_topics_that_nobody_wants_are_found_by_type),
        cmocka_unit_test(test_R06_what_is_remembered_of_types_is_bounded),
        cmocka_unit_test(test_R06_the_lanes_found_are_those_that_all_filters_name),
        cmocka_unit_test(test_R06_rings_are_bounded_in_number_and_bytes),
        cmocka_unit_test(test_R06_rings_take_a_part_of_the_budget_together),
        cmocka_unit_test(test_L5_who_asks_for_something_and_is_freed_is_asked_for_no_more),
        cmocka_unit_test(test_R06_stalled_subscribers_are_forgotten_until_they_read),
        cmocka_unit_test(test_R06_lapped_subscribers_are_looked_at_once),
        cmocka_unit_test(test_R06_after_a_large_message_the_ring_is_left_alone_for_a_while),
        cmocka_unit_test(test_L12_one_more_subscriber_takes_less_than_a_kilobyte),
        cmocka_unit_test(test_L12_segments_count_in_the_budget),
        cmocka_unit_test(test_L5_what_was_buffered_at_the_end_is_not_overwritten),
        cmocka_unit_test(test_the_size_of_slots_is_checked),
        cmocka_unit_test(test_B19_who_is_awake_costs_no_system_call),
        cmocka_unit_test(test_a_bus_for_one_publisher_takes_one_thread_alone),
        cmocka_unit_test(test_B19_one_publisher_wakes_all_who_sleep),
        cmocka_unit_test(test_B19_a_nap_among_many_ends_in_time_and_hears_of_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
