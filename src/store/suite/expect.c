/* Expectations: a key's last sequence, a lease's fence, units; and the leases themselves. */
#include "store/suite/suite.h"

#include <inttypes.h>
#include <stdio.h>

#define EXPECT(...)                                                                                \
    &(const struct fan_expectation)                                                                \
    {                                                                                              \
        .size = sizeof(struct fan_expectation), __VA_ARGS__                                        \
    }

static struct fan_append try_key(struct fan__suite *suite, const char *topic, const char *id,
                                 uint64_t last_seq)
{
    return fan__suite_try(suite, fan__suite_simple(suite, "run.step.done", topic, id),
                          EXPECT(.key = topic, .last_seq = last_seq));
}

static void key_must_be_at_its_last(struct fan__suite *suite)
{
    fan__suite_put_simple(suite, "a.b.c", "other", NULL);
    CHECK_IS(suite, try_key(suite, "run", NULL, 1).ret_status, FAN_CONFLICT);
    struct fan_append first = try_key(suite, "run", NULL, 0);
    CHECK_IS(suite, first.ret_status, FAN_OK);
    CHECK_IS(suite, try_key(suite, "run", NULL, 0).ret_status, FAN_CONFLICT);
    CHECK_IS(suite, try_key(suite, "run", NULL, first.ret_seq + 1).ret_status, FAN_CONFLICT);
    uint64_t other = fan__suite_put_simple(suite, "a.b.c", "other", NULL);
    CHECK_IS(suite, try_key(suite, "run", NULL, other).ret_status, FAN_CONFLICT);
    struct fan_append second = try_key(suite, "run", NULL, first.ret_seq);
    CHECK_IS(suite, second.ret_status, FAN_OK);
    CHECK_IS(suite, try_key(suite, "run", NULL, first.ret_seq).ret_status, FAN_CONFLICT);
    CHECK_IS(suite, try_key(suite, "Run", NULL, 0).ret_status, FAN_OK);
    CHECK_EQUAL(suite, fan__suite_count(suite), 5);
}

static void key_may_differ_from_the_topic(struct fan__suite *suite)
{
    uint64_t seq = fan__suite_put_simple(suite, "a.b.c", "guard", NULL);
    const struct fan_event *event = fan__suite_simple(suite, "a.b.c", "elsewhere", "x");
    CHECK_IS(suite, fan__suite_try(suite, event, EXPECT(.key = "guard")).ret_status, FAN_CONFLICT);
    CHECK_IS(suite,
             fan__suite_try(suite, event, EXPECT(.key = "guard", .last_seq = seq)).ret_status,
             FAN_OK);
}

static void key_follows_what_is_retained(struct fan__suite *suite)
{
    uint64_t first = fan__suite_put_simple(suite, "a.b.c", "run", "a");
    uint64_t second = fan__suite_put_simple(suite, "a.b.c", "run", "b");
    CHECK_OK(suite, fan_store_delete(suite->store, "b"));
    CHECK_IS(suite, try_key(suite, "run", NULL, second).ret_status, FAN_CONFLICT);
    struct fan_append third = try_key(suite, "run", "c", first);
    CHECK_IS(suite, third.ret_status, FAN_OK);
    CHECK_OK(suite, fan_store_delete(suite->store, "a"));
    CHECK_OK(suite, fan_store_delete(suite->store, "c"));
    CHECK_IS(suite, try_key(suite, "run", NULL, third.ret_seq).ret_status, FAN_CONFLICT);
    CHECK_IS(suite, try_key(suite, "run", NULL, 0).ret_status, FAN_OK);
}

static void refusal_leaves_the_others(struct fan__suite *suite)
{
    fan__suite_put_simple(suite, "a.b.c", "run", NULL);
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_append items[] = {
        { .event = fan__suite_simple(suite, "a.b.c", "x", "before") },
        { .event = fan__suite_simple(suite, "a.b.c", "run", "refused"),
          .expectation = EXPECT(.key = "run") },
        { .event = fan__suite_simple(suite, "a.b.c", "y", "after") },
    };
    CHECK_OK(suite, fan_store_append(suite->store, items, 3, &error));
    CHECK_IS(suite, items[0].ret_status, FAN_OK);
    CHECK_IS(suite, items[1].ret_status, FAN_CONFLICT);
    CHECK_IS(suite, items[2].ret_status, FAN_OK);
    CHECK_IS(suite, fan_store_get(suite->store, "refused", suite->batch, NULL), FAN_NOT_FOUND);
    CHECK_EQUAL(suite, fan__suite_count(suite), 3);
    /* A refused id is not known: it can come again. */
    CHECK(suite, !fan__suite_try(suite, items[1].event, NULL).ret_duplicate);
}

static void units_see_those_before(struct fan__suite *suite)
{
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_append items[] = {
        { .event = fan__suite_simple(suite, "a.b.c", "run", "1"),
          .expectation = EXPECT(.key = "run") },
        { .event = fan__suite_simple(suite, "a.b.c", "run", "2"),
          .expectation = EXPECT(.key = "run") },
        { .event = fan__suite_simple(suite, "a.b.c", "other", "3"),
          .expectation = EXPECT(.key = "other") },
    };
    CHECK_OK(suite, fan_store_append(suite->store, items, 3, &error));
    CHECK_IS(suite, items[0].ret_status, FAN_OK);
    CHECK_IS(suite, items[1].ret_status, FAN_CONFLICT);
    CHECK_IS(suite, items[2].ret_status, FAN_OK);
    CHECK_EQUAL(suite, fan__suite_count(suite), 2);
}

/* Three events as one unit under an expectation, then a single one. */
static void append_unit(struct fan__suite *suite, struct fan_append items[4],
                        const struct fan_expectation *expectation)
{
    static const char *const ids[] = { "u1", "u2", "u3", "single" };
    struct fan_error error = FAN_ERROR_INIT;
    for (size_t i = 0; i < 4; i++)
        items[i] = (struct fan_append){
            .event = fan__suite_simple(suite, "a.b.c", i == 1 ? "side" : "run", ids[i]),
            .expectation = i == 0 ? expectation : NULL,
            .joined = i == 1 || i == 2,
        };
    CHECK_OK(suite, fan_store_append(suite->store, items, 4, &error));
}

static void units_are_whole_or_nothing(struct fan__suite *suite)
{
    uint64_t first = fan__suite_put_simple(suite, "a.b.c", "run", NULL);
    struct fan_append items[4];
    append_unit(suite, items, EXPECT(.key = "run"));
    for (size_t i = 0; i < 3; i++) {
        CHECK_IS(suite, items[i].ret_status, FAN_CONFLICT);
        CHECK_IS(suite,
                 fan_store_get(suite->store, fan_event_id(items[i].event), suite->batch, NULL),
                 FAN_NOT_FOUND);
    }
    CHECK_IS(suite, items[3].ret_status, FAN_OK);
    uint64_t single = items[3].ret_seq;
    CHECK(suite, single > first);
    append_unit(suite, items, EXPECT(.key = "run", .last_seq = single));
    for (size_t i = 0; i < 3; i++) {
        CHECK_IS(suite, items[i].ret_status, FAN_OK);
        CHECK(suite, !items[i].ret_duplicate);
        CHECK(suite, i == 0 || items[i].ret_seq > items[i - 1].ret_seq);
    }
    CHECK(suite, items[3].ret_duplicate);
    CHECK_EQUAL(suite, items[3].ret_seq, single);
    CHECK_EQUAL(suite, fan__suite_count(suite), 5);
}

static void retried_units_are_duplicates(struct fan__suite *suite)
{
    struct fan_append first[4];
    struct fan_append again[4];
    append_unit(suite, first, EXPECT(.key = "run"));
    append_unit(suite, again, EXPECT(.key = "run"));
    for (size_t i = 0; i < 4; i++) {
        CHECK_IS(suite, first[i].ret_status, FAN_OK);
        CHECK_IS(suite, again[i].ret_status, FAN_OK);
        CHECK(suite, !first[i].ret_duplicate && again[i].ret_duplicate);
        CHECK_EQUAL(suite, again[i].ret_seq, first[i].ret_seq);
    }
    CHECK_EQUAL(suite, fan__suite_count(suite), 4);
    const struct fan_expectation *stale = EXPECT(.key = "run", .last_seq = 999999);
    struct fan_append retry =
        fan__suite_try(suite, fan__suite_simple(suite, "a.b.c", "run", "single"), stale);
    CHECK_IS(suite, retry.ret_status, FAN_OK);
    CHECK(suite, retry.ret_duplicate);
    CHECK_EQUAL(suite, retry.ret_seq, first[3].ret_seq);
}

static void units_with_a_known_id(struct fan__suite *suite)
{
    uint64_t known = fan__suite_put_simple(suite, "a.b.c", "run", "u2");
    struct fan_append items[4];
    append_unit(suite, items, EXPECT(.key = "nothing here", .last_seq = 5));
    for (size_t i = 0; i < 3; i++)
        CHECK_IS(suite, items[i].ret_status, FAN_CONFLICT);
    append_unit(suite, items, EXPECT(.key = "nothing here"));
    for (size_t i = 0; i < 3; i++) {
        CHECK_IS(suite, items[i].ret_status, FAN_OK);
        CHECK_EQUAL(suite, items[i].ret_duplicate, i == 1);
    }
    CHECK_EQUAL(suite, items[1].ret_seq, known);
    CHECK_EQUAL(suite, fan__suite_count(suite), 4);
}

#define ACQUIRE(suite, lease, owner, ttl_ms, ret_fence)                                            \
    fan_lease_acquire((suite)->store, lease, owner, ttl_ms, ret_fence)

static enum fan_status try_fence(struct fan__suite *suite, const char *lease, uint64_t fence)
{
    return fan__suite_try(suite, fan__suite_simple(suite, "a.b.c", "run", NULL),
                          EXPECT(.lease = lease, .fence = fence))
        .ret_status;
}

static void fence_must_be_the_present_one(struct fan__suite *suite)
{
    uint64_t fence = 0;
    CHECK_IS(suite, try_fence(suite, "lease", 1), FAN_CONFLICT);
    CHECK_OK(suite, ACQUIRE(suite, "lease", "a", FAN__SUITE_LONG_MS, &fence));
    CHECK(suite, fence > 0);
    CHECK_OK(suite, try_fence(suite, "lease", fence));
    CHECK_IS(suite, try_fence(suite, "lease", fence + 1), FAN_CONFLICT);
    CHECK_IS(suite, try_fence(suite, "lease", fence - 1), FAN_CONFLICT);
    CHECK_IS(suite, try_fence(suite, "Lease", fence), FAN_CONFLICT);
    CHECK_OK(suite, fan_lease_release(suite->store, "lease", "a", fence));
    CHECK_IS(suite, try_fence(suite, "lease", fence), FAN_CONFLICT);
    uint64_t second = 0;
    CHECK_OK(suite, ACQUIRE(suite, "lease", "b", FAN__SUITE_LONG_MS, &second));
    CHECK(suite, second > fence);
    CHECK_IS(suite, try_fence(suite, "lease", fence), FAN_CONFLICT);
    CHECK_OK(suite, try_fence(suite, "lease", second));
    CHECK_EQUAL(suite, fan__suite_count(suite), 2);
}

static void fence_and_key_together(struct fan__suite *suite)
{
    uint64_t fence = 0;
    CHECK_OK(suite, ACQUIRE(suite, "lease", "a", FAN__SUITE_LONG_MS, &fence));
    const struct fan_event *event = fan__suite_simple(suite, "a.b.c", "run", "x");
    CHECK_IS(suite,
             fan__suite_try(suite, event,
                            EXPECT(.key = "run", .last_seq = 9, .lease = "lease", .fence = fence))
                 .ret_status,
             FAN_CONFLICT);
    CHECK_IS(
        suite,
        fan__suite_try(suite, event, EXPECT(.key = "run", .lease = "lease", .fence = fence + 1))
            .ret_status,
        FAN_CONFLICT);
    CHECK_IS(suite,
             fan__suite_try(suite, event, EXPECT(.key = "run", .lease = "lease", .fence = fence))
                 .ret_status,
             FAN_OK);
}

static void lapsed_lease_cannot_write(struct fan__suite *suite)
{
    uint32_t short_ms = fan__suite_short_ms(suite);
    uint64_t fence = 0;
    CHECK_OK(suite, ACQUIRE(suite, "lease", "a", short_ms, &fence));
    fan__suite_pass_ms(suite, short_ms + short_ms / 2);
    CHECK_IS(suite, try_fence(suite, "lease", fence), FAN_CONFLICT);
    CHECK_EQUAL(suite, fan__suite_count(suite), 0);
}

static void leases_have_one_holder(struct fan__suite *suite)
{
    uint64_t fence = 0;
    uint64_t again = 0;
    uint64_t other = 7;
    CHECK_OK(suite, ACQUIRE(suite, "lease", "a", FAN__SUITE_LONG_MS, &fence));
    CHECK_IS(suite, ACQUIRE(suite, "lease", "b", FAN__SUITE_LONG_MS, &other), FAN_EXISTS);
    CHECK_EQUAL(suite, other, 7);
    CHECK_OK(suite, ACQUIRE(suite, "lease", "a", FAN__SUITE_LONG_MS, &again));
    CHECK_EQUAL(suite, again, fence);
    CHECK_OK(suite, ACQUIRE(suite, "another", "b", FAN__SUITE_LONG_MS, &other));
    CHECK_OK(suite, fan_lease_renew(suite->store, "lease", "a", fence, FAN__SUITE_LONG_MS));
    CHECK_IS(suite, fan_lease_renew(suite->store, "lease", "b", fence, 1000), FAN_LOST);
    CHECK_IS(suite, fan_lease_renew(suite->store, "lease", "a", fence + 1, 1000), FAN_LOST);
    CHECK_IS(suite, fan_lease_renew(suite->store, "nothing", "a", fence, 1000), FAN_LOST);
    CHECK_IS(suite, fan_lease_release(suite->store, "lease", "b", fence), FAN_LOST);
    CHECK_IS(suite, fan_lease_release(suite->store, "lease", "a", fence + 1), FAN_LOST);
    CHECK_OK(suite, fan_lease_release(suite->store, "lease", "a", fence));
    CHECK_IS(suite, fan_lease_release(suite->store, "lease", "a", fence), FAN_LOST);
    CHECK_IS(suite, fan_lease_renew(suite->store, "lease", "a", fence, 1000), FAN_LOST);
    CHECK_OK(suite, ACQUIRE(suite, "lease", "b", FAN__SUITE_LONG_MS, &other));
    CHECK(suite, other > fence);
}

static void fences_rise(struct fan__suite *suite)
{
    uint64_t last = 0;
    for (int i = 0; i < 10; i++) {
        uint64_t fence = 0;
        char owner[16];
        snprintf(owner, sizeof(owner), "owner-%d", i % 2);
        CHECK_OK(suite, ACQUIRE(suite, "lease", owner, FAN__SUITE_LONG_MS, &fence));
        CHECK(suite, fence > last);
        CHECK_OK(suite, fan_lease_release(suite->store, "lease", owner, fence));
        last = fence;
    }
}

static void lapsed_lease_is_nobodys(struct fan__suite *suite)
{
    uint32_t short_ms = fan__suite_short_ms(suite);
    uint64_t fence = 0;
    uint64_t other = 0;
    CHECK_OK(suite, ACQUIRE(suite, "lease", "a", short_ms, &fence));
    fan__suite_pass_ms(suite, short_ms + short_ms / 2);
    CHECK_IS(suite, fan_lease_renew(suite->store, "lease", "a", fence, short_ms), FAN_LOST);
    CHECK_IS(suite, fan_lease_release(suite->store, "lease", "a", fence), FAN_LOST);
    CHECK_OK(suite, ACQUIRE(suite, "lease", "b", FAN__SUITE_LONG_MS, &other));
    CHECK(suite, other > fence);
    CHECK_IS(suite, ACQUIRE(suite, "lease", "a", short_ms, &fence), FAN_EXISTS);
}

static void renewed_lease_stays(struct fan__suite *suite)
{
    uint32_t short_ms = fan__suite_short_ms(suite);
    uint64_t fence = 0;
    uint64_t other = 0;
    CHECK_OK(suite, ACQUIRE(suite, "lease", "a", short_ms, &fence));
    CHECK_OK(suite, fan_lease_renew(suite->store, "lease", "a", fence, FAN__SUITE_LONG_MS));
    fan__suite_pass_ms(suite, short_ms + short_ms / 2);
    CHECK_IS(suite, ACQUIRE(suite, "lease", "b", short_ms, &other), FAN_EXISTS);
    CHECK_OK(suite, try_fence(suite, "lease", fence));
    CHECK_OK(suite, fan_lease_renew(suite->store, "lease", "a", fence, short_ms));
    fan__suite_pass_ms(suite, short_ms + short_ms / 2);
    CHECK_OK(suite, ACQUIRE(suite, "lease", "b", short_ms, &other));
}

const struct fan__suite_behaviour fan__suite_expect[] = {
    { "P23_a_key_must_be_at_its_last_sequence", key_must_be_at_its_last, 0 },
    { "P23_the_key_may_differ_from_the_topic", key_may_differ_from_the_topic, 0 },
    { "P23_a_key_follows_what_is_retained", key_follows_what_is_retained, 0 },
    { "P23_a_refusal_leaves_the_rest_of_the_batch", refusal_leaves_the_others, 0 },
    { "P23_units_see_those_before_them_in_the_batch", units_see_those_before, 0 },
    { "P23_units_are_whole_or_nothing", units_are_whole_or_nothing, 0 },
    { "L09_a_retried_unit_is_a_duplicate_not_a_conflict", retried_units_are_duplicates, 0 },
    { "P23_a_unit_with_a_known_id", units_with_a_known_id, 0 },
    { "W09_the_fence_must_be_the_present_one", fence_must_be_the_present_one, 0 },
    { "P23_fence_and_key_together", fence_and_key_together, 0 },
    { "W09_a_lapsed_lease_cannot_write", lapsed_lease_cannot_write, 0 },
    { "W09_a_lease_has_one_holder", leases_have_one_holder, 0 },
    { "W09_fences_rise_with_each_holder", fences_rise, 0 },
    { "W09_a_lapsed_lease_is_nobodys", lapsed_lease_is_nobodys, 0 },
    { "W09_a_renewed_lease_stays", renewed_lease_stays, 0 },
    { .name = NULL },
};
