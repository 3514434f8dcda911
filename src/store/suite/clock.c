/*
 * The store's clock: what is timed ends when it would have, whoever sets the wall clock meanwhile,
 * in which process, and whatever is closed and opened again.
 */
#include "store/suite/suite.h"

#include <stdio.h>

#define US_PER_MS INT64_C(1000)
#define SECOND_US INT64_C(1000000)
#define LONG_US (FAN__SUITE_LONG_MS * US_PER_MS)

/* Back an hour, and forward a day. */
static const int64_t settings[] = { -3600 * SECOND_US, 86400 * SECOND_US };

enum { SETTING_COUNT = sizeof(settings) / sizeof(*settings) };

/* A group of its own for each setting, with a place at the head. */
static struct fan_group_name fresh_group(struct fan__suite *suite, size_t setting)
{
    static const char *const names[] = { "back", "forward" };
    struct fan_group_name name = { .group = names[setting], .handler = "" };
    fan__suite_create(suite, &name, FAN_START_NOW, NULL);
    return name;
}

static size_t claim_count(struct fan__suite *suite, const struct fan_group_name *name)
{
    return fan__suite_claim(suite, name, "another", 10, FAN__SUITE_LONG_MS)->count;
}

static void claims_end_in_time(struct fan__suite *suite)
{
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        struct fan_group_name name = fresh_group(suite, i);
        uint64_t seq = fan__suite_put_simple(suite, "a.b.c", "", NULL);
        struct fan_claim claim = fan__suite_claim_one(suite, &name, seq);
        int64_t due_us = fan__suite_delivery_of(suite, &name, seq).delivery.due_us;
        fan__suite_set_wall(suite, settings[i]);
        struct fan__suite_delivery now = fan__suite_delivery_of(suite, &name, seq);
        CHECK_EQUAL(suite, now.delivery.status, FAN_EVENT_PROCESSING);
        CHECK_EQUAL(suite, now.delivery.due_us, due_us);
        fan__suite_pass_ms(suite, FAN__SUITE_LONG_MS / 2);
        CHECK_EQUAL(suite, claim_count(suite, &name), 0);
        CHECK_OK(suite, fan__suite_renew(suite, &name, &claim, FAN__SUITE_LONG_MS));
        int64_t renewed_us = fan__suite_delivery_of(suite, &name, seq).delivery.due_us;
        CHECK(suite, renewed_us >= due_us + LONG_US / 2);
        CHECK(suite, renewed_us < due_us + LONG_US / 2 + 60 * SECOND_US);
        fan__suite_pass_ms(suite, FAN__SUITE_LONG_MS / 2);
        CHECK_EQUAL(suite, claim_count(suite, &name), 0);
        fan__suite_pass_ms(suite, FAN__SUITE_LONG_MS);
        CHECK_EQUAL(suite, claim_count(suite, &name), 1);
        fan__suite_set_wall(suite, 0);
    }
}

static void delays_are_over_in_time(struct fan__suite *suite)
{
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        struct fan_group_name name = fresh_group(suite, i);
        uint64_t seq = fan__suite_put_simple(suite, "a.b.c", "", NULL);
        struct fan_claim claim = fan__suite_claim_one(suite, &name, seq);
        CHECK_OK(suite, fan__suite_retry(suite, &name, &claim, FAN__SUITE_LONG_MS, "later"));
        fan__suite_set_wall(suite, settings[i]);
        CHECK_EQUAL(suite, claim_count(suite, &name), 0);
        fan__suite_pass_ms(suite, FAN__SUITE_LONG_MS / 2);
        CHECK_EQUAL(suite, claim_count(suite, &name), 0);
        fan__suite_pass_ms(suite, FAN__SUITE_LONG_MS);
        CHECK_EQUAL(suite, claim_count(suite, &name), 1);
        fan__suite_set_wall(suite, 0);
    }
}

static void deliver_at_comes_in_time(struct fan__suite *suite)
{
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        struct fan_group_name name = fresh_group(suite, i);
        const struct fan_event_draft draft = { .deliver_at_us =
                                                   fan__suite_now_us(suite) + LONG_US };
        /* One that the group has come to before the clock is set, and one that it has not. */
        fan__suite_put(suite, fan__suite_event(suite, &draft));
        CHECK_EQUAL(suite, claim_count(suite, &name), 0);
        fan__suite_put(suite, fan__suite_event(suite, &draft));
        fan__suite_set_wall(suite, settings[i]);
        CHECK_EQUAL(suite, claim_count(suite, &name), 0);
        fan__suite_pass_ms(suite, FAN__SUITE_LONG_MS / 2);
        CHECK_EQUAL(suite, claim_count(suite, &name), 0);
        fan__suite_pass_ms(suite, FAN__SUITE_LONG_MS);
        CHECK_EQUAL(suite, claim_count(suite, &name), 2);
        fan__suite_set_wall(suite, 0);
    }
}

static void leases_end_in_time(struct fan__suite *suite)
{
    static const char *const names[] = { "back", "forward" };
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        uint64_t fence = 0;
        uint64_t other = 0;
        CHECK_OK(suite, fan_lease_acquire(suite->store, names[i], "a", FAN__SUITE_LONG_MS, &fence));
        fan__suite_set_wall(suite, settings[i]);
        CHECK_IS(suite, fan_lease_acquire(suite->store, names[i], "b", 1000, &other), FAN_EXISTS);
        fan__suite_pass_ms(suite, FAN__SUITE_LONG_MS / 2);
        CHECK_OK(suite, fan_lease_renew(suite->store, names[i], "a", fence, FAN__SUITE_LONG_MS));
        fan__suite_pass_ms(suite, FAN__SUITE_LONG_MS / 2);
        CHECK_IS(suite, fan_lease_acquire(suite->store, names[i], "b", 1000, &other), FAN_EXISTS);
        fan__suite_pass_ms(suite, FAN__SUITE_LONG_MS);
        CHECK_OK(suite, fan_lease_acquire(suite->store, names[i], "b", 1000, &other));
        CHECK(suite, other > fence);
        fan__suite_set_wall(suite, 0);
    }
}

static void sequences_and_times_rise(struct fan__suite *suite)
{
    static const struct fan_group_name name = { .group = "g", .handler = "" };
    uint64_t last_seq = 0;
    int64_t last_us = 0;
    fan__suite_create(suite, &name, FAN_START_NOW, NULL);
    for (size_t i = 0; i < 4; i++) {
        fan__suite_set_wall(suite, i % 2 ? 0 : settings[i / 2]);
        uint64_t seq = fan__suite_put_simple(suite, "a.b.c", "", NULL);
        CHECK(suite, seq > last_seq);
        CHECK_EQUAL(suite, fan__suite_head(suite), seq);
        struct fan_claim claim = fan__suite_claim_one(suite, &name, seq);
        CHECK_OK(suite, fan__suite_settle(suite, &name, &claim, FAN_VERDICT_DONE, NULL));
        struct fan__suite_delivery now = fan__suite_delivery_of(suite, &name, seq);
        CHECK(suite, now.delivery.processed_us >= last_us);
        CHECK(suite, now.delivery.completed_us >= now.delivery.processed_us);
        CHECK(suite, fan__suite_group_stats(suite, &name).joined_us >= last_us);
        last_seq = seq;
        last_us = now.delivery.completed_us;
    }
}

/* What is timed in one store, to be looked at in the same or another. */
struct timed {
    struct fan_group_name name;
    uint64_t held_seq;
    int64_t due_us;
    uint64_t fence;
};

static struct timed make_timed(struct fan__suite *suite, size_t setting)
{
    static const char *const leases[] = { "back", "forward" };
    struct timed timed = { .name = fresh_group(suite, setting) };
    const struct fan_event_draft later = { .deliver_at_us = fan__suite_now_us(suite) + LONG_US };
    timed.held_seq = fan__suite_put_simple(suite, "a.b.c", "", NULL);
    uint64_t retried = fan__suite_put_simple(suite, "a.b.c", "", NULL);
    fan__suite_put(suite, fan__suite_event(suite, &later));
    fan__suite_claim_one(suite, &timed.name, timed.held_seq);
    struct fan_claim claim = fan__suite_claim_one(suite, &timed.name, retried);
    CHECK_OK(suite, fan__suite_retry(suite, &timed.name, &claim, FAN__SUITE_LONG_MS, "later"));
    CHECK_OK(suite, fan_lease_acquire(suite->store, leases[setting], "a", FAN__SUITE_LONG_MS,
                                      &timed.fence));
    timed.due_us = fan__suite_delivery_of(suite, &timed.name, timed.held_seq).delivery.due_us;
    return timed;
}

/* `store` gives nothing before its time, and all of it after. */
static void check_timed(struct fan__suite *suite, struct fan_store *store,
                        const struct timed *timed)
{
    struct fan__suite_claims *claims = fan__suite_alloc(suite, 1, sizeof(*claims));
    const struct fan_claim_options options = { .size = FAN_CLAIM_OPTIONS_SIZE,
                                               .owner = "another",
                                               .limit = 10,
                                               .lease_ms = FAN__SUITE_LONG_MS };
    uint64_t other = 0;
    claims->batch = fan__suite_batch(suite);
    claims->store = store;
    CHECK_EQUAL(suite, fan__suite_delivery_of(suite, &timed->name, timed->held_seq).delivery.due_us,
                timed->due_us);
    for (int i = 0; i < 2; i++) {
        CHECK_IS(suite, fan__suite_claim_into(suite, &timed->name, &options, claims), FAN_AGAIN);
        CHECK_IS(suite, fan_lease_acquire(store, timed->name.group, "b", 1000, &other), FAN_EXISTS);
        if (i == 0)
            fan__suite_pass_ms(suite, FAN__SUITE_LONG_MS / 2);
    }
    fan__suite_pass_ms(suite, FAN__SUITE_LONG_MS);
    CHECK_OK(suite, fan__suite_claim_into(suite, &timed->name, &options, claims));
    CHECK_EQUAL(suite, claims->count, 3);
    CHECK_OK(suite, fan_lease_acquire(store, timed->name.group, "b", 1000, &other));
    CHECK(suite, other > timed->fence);
}

static void all_of_it_after_reopening(struct fan__suite *suite)
{
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        struct timed timed = make_timed(suite, i);
        fan__suite_set_wall(suite, settings[i]);
        fan__suite_reopen(suite);
        check_timed(suite, suite->store, &timed);
        fan__suite_set_wall(suite, 0);
        fan__suite_reopen(suite);
    }
}

static void all_of_it_in_another_process(struct fan__suite *suite)
{
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        struct timed timed = make_timed(suite, i);
        fan__suite_set_wall(suite, settings[i]);
        fan__suite_open_second(suite);
        check_timed(suite, suite->second, &timed);
        fan_store_close(suite->second);
        suite->second = NULL;
        fan__suite_set_wall(suite, 0);
    }
}

const struct fan__suite_behaviour fan__suite_clock[] = {
    { "R02_claims_end_in_time_whoever_sets_the_wall_clock", claims_end_in_time, FAN__SUITE_CLOCK },
    { "R02_delays_are_over_in_time_whoever_sets_the_wall_clock", delays_are_over_in_time,
      FAN__SUITE_CLOCK },
    { "R02_deliver_at_comes_in_time_whoever_sets_the_wall_clock", deliver_at_comes_in_time,
      FAN__SUITE_CLOCK },
    { "R02_leases_end_in_time_whoever_sets_the_wall_clock", leases_end_in_time, FAN__SUITE_CLOCK },
    { "R02_sequences_and_times_rise_when_the_wall_clock_goes_back", sequences_and_times_rise,
      FAN__SUITE_CLOCK },
    { "R02_the_clock_goes_on_after_reopening", all_of_it_after_reopening,
      FAN__SUITE_CLOCK | FAN__SUITE_REOPEN },
    { "R02_processes_have_one_clock", all_of_it_in_another_process,
      FAN__SUITE_CLOCK | FAN__SUITE_REOPEN },
    { .name = NULL },
};
