/* What kills its workers, what is dead and why, and how long groups have been behind. */
#include "store/suite/suite.h"

#include <string.h>

static const struct fan_group_name g = { .group = "g", .handler = "h" };

/* Claims the event with that sequence, which must be due next, and lets the claim run out. */
static struct fan_claim lapse(struct fan__suite *suite, uint64_t seq)
{
    uint32_t short_ms = fan__suite_short_ms(suite);
    const struct fan__suite_claims *claims = fan__suite_claim(suite, &g, "dies", 1, short_ms);
    CHECK_EQUAL(suite, claims->count, 1);
    CHECK_EQUAL(suite, claims->items[0].seq, seq);
    fan__suite_pass_ms(suite, short_ms + short_ms / 2);
    return claims->items[0];
}

static void lapses_are_counted(struct fan__suite *suite)
{
    uint64_t seq = fan__suite_put_simple(suite, "a.b.c", "", "x");
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    for (unsigned i = 0; i < 3; i++) {
        CHECK_EQUAL(suite, lapse(suite, seq).lapses, i);
        CHECK_EQUAL(suite, fan__suite_delivery_of(suite, &g, seq).delivery.lapses, i);
    }
    struct fan_claim claim = fan__suite_claim_one(suite, &g, seq);
    CHECK_EQUAL(suite, claim.lapses, 3);
    CHECK_EQUAL(suite, claim.attempt, 4);
    CHECK_EQUAL(suite, fan__suite_delivery_of(suite, &g, seq).delivery.lapses, 3);
    CHECK_EQUAL(suite, fan__suite_state_of(suite, "x").retry_count, 3);
    /* What ended by a word was no lapse. */
    CHECK_OK(suite, fan__suite_retry(suite, &g, &claim, 0, "again"));
    claim = fan__suite_claim_one(suite, &g, seq);
    CHECK_EQUAL(suite, claim.lapses, 3);
    CHECK_OK(suite, fan__suite_settle(suite, &g, &claim, FAN_VERDICT_HAND_BACK, NULL));
    claim = lapse(suite, seq);
    CHECK_EQUAL(suite, claim.lapses, 3);
    CHECK_OK(suite, fan__suite_retry(suite, &g, &claim, 0, "late, and yet before the others"));
    claim = fan__suite_claim_one(suite, &g, seq);
    CHECK_EQUAL(suite, claim.lapses, 3);
    CHECK_OK(suite, fan__suite_settle(suite, &g, &claim, FAN_VERDICT_DONE, NULL));
    CHECK_EQUAL(suite, fan__suite_delivery_of(suite, &g, seq).delivery.lapses, 3);
}

static void lapses_in_order(struct fan__suite *suite)
{
    uint32_t short_ms = fan__suite_short_ms(suite);
    struct fan__suite_claims *claims = fan__suite_alloc(suite, 1, sizeof(*claims));
    const struct fan_claim_options options = { .size = FAN_CLAIM_OPTIONS_SIZE,
                                               .owner = "me",
                                               .limit = 8,
                                               .lease_ms = short_ms,
                                               .ordered = true };
    uint64_t first = fan__suite_put_simple(suite, "a.b.c", "k", NULL);
    fan__suite_put_simple(suite, "a.b.c", "k", NULL);
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    claims->batch = fan__suite_batch(suite);
    for (unsigned i = 0; i < 3; i++) {
        CHECK_OK(suite, fan__suite_claim_into(suite, &g, &options, claims));
        CHECK_EQUAL(suite, claims->count, 1);
        CHECK_EQUAL(suite, claims->items[0].seq, first);
        CHECK_EQUAL(suite, claims->items[0].lapses, i);
        fan__suite_pass_ms(suite, short_ms + short_ms / 2);
    }
    CHECK_OK(suite, fan__suite_claim_into(suite, &g, &options, claims));
    CHECK_OK(suite, fan__suite_settle(suite, &g, &claims->items[0], FAN_VERDICT_DONE, NULL));
    CHECK_OK(suite, fan__suite_claim_into(suite, &g, &options, claims));
    CHECK(suite, claims->items[0].seq > first);
    CHECK_EQUAL(suite, claims->items[0].lapses, 0);
}

/* Who asks for what lapsed less often gets that, and new events; who asks for all, all. */
static void claims_may_leave_out_what_lapses(struct fan__suite *suite)
{
    static const bool orders[] = { false, true };
    uint32_t short_ms = fan__suite_short_ms(suite);
    struct fan__suite_claims *claims = fan__suite_alloc(suite, 1, sizeof(*claims));
    claims->batch = fan__suite_batch(suite);
    for (size_t i = 0; i < 2; i++) {
        struct fan_claim_options options = {
            .size = FAN_CLAIM_OPTIONS_SIZE, .owner = "me", .limit = 8, .ordered = orders[i]
        };
        fan__suite_create(suite, &g, FAN_START_NOW, NULL);
        uint64_t often = fan__suite_put_simple(suite, "a.b.c", "often", NULL);
        lapse(suite, often);
        uint64_t once = fan__suite_put_simple(suite, "a.b.c", "once", NULL);
        options.lease_ms = short_ms;
        CHECK_OK(suite, fan__suite_claim_into(suite, &g, &options, claims));
        CHECK_EQUAL(suite, claims->count, 2);
        fan__suite_pass_ms(suite, short_ms + short_ms / 2);
        uint64_t never = fan__suite_put_simple(suite, "a.b.c", "never", NULL);
        options.lease_ms = FAN__SUITE_LONG_MS;
        options.lapses_below = 1;
        CHECK_OK(suite, fan__suite_claim_into(suite, &g, &options, claims));
        CHECK_EQUAL(suite, claims->count, 1);
        CHECK_EQUAL(suite, claims->items[0].seq, never);
        options.lapses_below = 2;
        CHECK_OK(suite, fan__suite_claim_into(suite, &g, &options, claims));
        CHECK_EQUAL(suite, claims->count, 1);
        CHECK_EQUAL(suite, claims->items[0].seq, once);
        CHECK_IS(suite, fan__suite_claim_into(suite, &g, &options, claims), FAN_AGAIN);
        options.lapses_below = 0;
        CHECK_OK(suite, fan__suite_claim_into(suite, &g, &options, claims));
        CHECK_EQUAL(suite, claims->count, 1);
        CHECK_EQUAL(suite, claims->items[0].seq, often);
        CHECK_EQUAL(suite, claims->items[0].lapses, 2);
        CHECK_OK(suite, fan_group_delete(suite->store, &g));
    }
}

static void redrive_forgets_them(struct fan__suite *suite)
{
    uint64_t seq = fan__suite_put_simple(suite, "a.b.c", "", NULL);
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    lapse(suite, seq);
    struct fan_claim claim = fan__suite_claim_one(suite, &g, seq);
    CHECK_EQUAL(suite, claim.lapses, 1);
    CHECK_OK(suite, fan__suite_settle(suite, &g, &claim, FAN_VERDICT_FAIL, "broke"));
    CHECK_EQUAL(suite, fan__suite_delivery_of(suite, &g, seq).delivery.lapses, 1);
    CHECK_OK(suite, fan_group_move(suite->store, &g, seq, FAN_EVENT_PENDING));
    CHECK_EQUAL(suite, fan__suite_delivery_of(suite, &g, seq).delivery.lapses, 0);
    CHECK_EQUAL(suite, lapse(suite, seq).lapses, 0);
    CHECK_EQUAL(suite, fan__suite_claim_one(suite, &g, seq).lapses, 1);
}

static enum fan_dead_reason reason_of(struct fan__suite *suite, uint64_t seq)
{
    return fan__suite_delivery_of(suite, &g, seq).delivery.reason;
}

/* Claims the next event, and settles it with a verdict and a reason. */
static void settle_next(struct fan__suite *suite, uint64_t seq, enum fan_verdict verdict,
                        enum fan_dead_reason reason)
{
    struct fan_claim claim = fan__suite_claim_one(suite, &g, seq);
    CHECK_EQUAL(suite, reason_of(suite, seq), FAN_DEAD_NONE);
    struct fan_settle item = { .seq = seq,
                               .token = claim.token,
                               .verdict = verdict,
                               .delay_ms = FAN__SUITE_LONG_MS,
                               .error = "why",
                               .reason = reason };
    CHECK_OK(suite, fan_group_settle(suite->store, &g, &item, 1));
    CHECK_IS(suite, item.ret_status, FAN_OK);
}

struct dead {
    size_t wrong;
    size_t count;
};

static bool see_dead(void *context, const struct fan_delivery *delivery)
{
    struct dead *dead = context;
    enum fan_dead_reason expected =
        dead->count == 0 ? FAN_DEAD_FAILED : (enum fan_dead_reason)dead->count;
    dead->wrong += delivery->reason != expected;
    dead->count++;
    return true;
}

static void dead_letters_have_a_reason(struct fan__suite *suite)
{
    enum { COUNT = FAN_DEAD_EXPIRED + 1 };
    uint64_t seqs[COUNT];
    struct dead dead = { .wrong = 0 };
    fan__suite_create(suite, &g, FAN_START_NOW, NULL);
    for (int reason = FAN_DEAD_NONE; reason < COUNT; reason++) {
        seqs[reason] = fan__suite_put_simple(suite, "a.b.c", "", NULL);
        settle_next(suite, seqs[reason], FAN_VERDICT_FAIL, (enum fan_dead_reason)reason);
        CHECK_EQUAL(suite, reason_of(suite, seqs[reason]),
                    reason == FAN_DEAD_NONE ? FAN_DEAD_FAILED : reason);
    }
    CHECK_OK(suite, fan_store_deliveries(suite->store, 0, 0, see_dead, &dead));
    CHECK_EQUAL(suite, dead.count, COUNT);
    CHECK_EQUAL(suite, dead.wrong, 0);
    /* It goes with its being dead. */
    CHECK_OK(suite, fan_group_move(suite->store, &g, seqs[1], FAN_EVENT_COMPLETED));
    CHECK_EQUAL(suite, reason_of(suite, seqs[1]), FAN_DEAD_NONE);
    CHECK_OK(suite, fan_group_move(suite->store, &g, seqs[2], FAN_EVENT_PENDING));
    CHECK_EQUAL(suite, reason_of(suite, seqs[2]), FAN_DEAD_NONE);
    settle_next(suite, seqs[2], FAN_VERDICT_FAIL, FAN_DEAD_LAPSES);
    CHECK_EQUAL(suite, reason_of(suite, seqs[2]), FAN_DEAD_LAPSES);
    /* With another verdict it says nothing. */
    for (int verdict = FAN_VERDICT_DONE; verdict <= FAN_VERDICT_RETRY; verdict++) {
        uint64_t seq = fan__suite_put_simple(suite, "a.b.c", "", NULL);
        settle_next(suite, seq, (enum fan_verdict)verdict, FAN_DEAD_RETRIES);
        CHECK_EQUAL(suite, reason_of(suite, seq), FAN_DEAD_NONE);
    }
    struct fan_settle none = { .reason = (enum fan_dead_reason)COUNT };
    CHECK_IS(suite, fan_group_settle(suite->store, &g, &none, 1), FAN_INVALID);
}

static void check_oldest(struct fan__suite *suite, const char *place, int64_t expected_us)
{
    fan__suite_equal(suite, place, "oldest_us",
                     (uint64_t)fan__suite_group_stats(suite, &g).oldest_us, (uint64_t)expected_us);
}

#define CHECK_OLDEST(suite, expected_us) check_oldest(suite, FAN__SUITE_PLACE, expected_us)

static void oldest_that_is_owed(struct fan__suite *suite)
{
    enum { COUNT = 8 };
    int64_t start_us = fan__suite_now_us(suite) - INT64_C(5000000000);
    uint64_t seqs[COUNT];
    char ids[COUNT][2];
    for (int i = 0; i < COUNT; i++) {
        ids[i][0] = (char)('a' + i);
        ids[i][1] = '\0';
        const struct fan_event_draft draft = { .id = ids[i],
                                               .type = i == 0 ? "x.y.z" : "a.b.c",
                                               .created_us = start_us + i };
        seqs[i] = fan__suite_put(suite, fan__suite_event(suite, &draft));
    }
    fan__suite_create(suite, &g, FAN_START_BEGINNING, "a.>");
    CHECK_OLDEST(suite, start_us + 1);
    CHECK_OK(suite, fan_store_delete(suite->store, ids[1]));
    CHECK_OLDEST(suite, start_us + 2);
    /* Claimed it is still owed; done, dead or discarded it is not. */
    struct fan_claim claim = fan__suite_claim_one(suite, &g, seqs[2]);
    CHECK_OLDEST(suite, start_us + 2);
    CHECK_OK(suite, fan__suite_settle(suite, &g, &claim, FAN_VERDICT_DONE, NULL));
    CHECK_OLDEST(suite, start_us + 3);
    claim = fan__suite_claim_one(suite, &g, seqs[3]);
    CHECK_OK(suite, fan__suite_settle(suite, &g, &claim, FAN_VERDICT_FAIL, "broke"));
    CHECK_OLDEST(suite, start_us + 4);
    CHECK_OK(suite, fan_group_move(suite->store, &g, seqs[4], FAN_EVENT_COMPLETED));
    CHECK_OK(suite, fan_group_move(suite->store, &g, seqs[6], FAN_EVENT_COMPLETED));
    CHECK_OLDEST(suite, start_us + 5);
    claim = fan__suite_claim_one(suite, &g, seqs[5]);
    CHECK_OK(suite, fan__suite_retry(suite, &g, &claim, FAN__SUITE_LONG_MS, "later"));
    CHECK_OLDEST(suite, start_us + 5);
    CHECK_OK(suite, fan_group_move(suite->store, &g, seqs[5], FAN_EVENT_COMPLETED));
    CHECK_OLDEST(suite, start_us + 7);
    CHECK_OK(suite, fan_group_move(suite->store, &g, seqs[7], FAN_EVENT_COMPLETED));
    CHECK_OLDEST(suite, 0);
    CHECK_EQUAL(suite, fan__suite_group_stats(suite, &g).pending, 0);
    CHECK_OK(suite, fan_group_move(suite->store, &g, seqs[3], FAN_EVENT_PENDING));
    CHECK_OLDEST(suite, start_us + 3);
}

static int64_t joined_us_of(struct fan__suite *suite)
{
    return fan__suite_group_stats(suite, &g).joined_us;
}

/* To the minute, so that members who come again and again cost no write each time. */
static void check_joined(struct fan__suite *suite)
{
    CHECK(suite, joined_us_of(suite) >= fan__suite_now_us(suite) - INT64_C(60000000));
}

static void members_are_seen(struct fan__suite *suite)
{
    int64_t made_us = fan__suite_now_us(suite);
    int64_t second_us = 1000000;
    fan__suite_create(suite, &g, FAN_START_NOW, NULL);
    int64_t joined_us = joined_us_of(suite);
    CHECK(suite, joined_us >= made_us - second_us);
    CHECK(suite, joined_us <= fan__suite_now_us(suite) + second_us);
    /* Neither time nor an append nor a look is a member. */
    fan__suite_pass_ms(suite, FAN__SUITE_LONG_MS);
    uint64_t seq = fan__suite_put_simple(suite, "a.b.c", "", NULL);
    CHECK_EQUAL(suite, joined_us_of(suite), joined_us);
    const struct fan_group_options again = { .size = FAN_GROUP_OPTIONS_SIZE };
    CHECK_IS(suite, fan_group_create(suite->store, &g, &again, NULL), FAN_EXISTS);
    check_joined(suite);
    fan__suite_pass_ms(suite, FAN__SUITE_LONG_MS);
    struct fan_claim claim = fan__suite_claim_one(suite, &g, seq);
    check_joined(suite);
    fan__suite_pass_ms(suite, FAN__SUITE_LONG_MS / 2);
    CHECK_OK(suite, fan__suite_renew(suite, &g, &claim, FAN__SUITE_LONG_MS));
    check_joined(suite);
    fan__suite_pass_ms(suite, FAN__SUITE_LONG_MS / 2);
    CHECK_OK(suite, fan__suite_settle(suite, &g, &claim, FAN_VERDICT_DONE, NULL));
    check_joined(suite);
    /* What came too late came from somebody, too. */
    fan__suite_pass_ms(suite, FAN__SUITE_LONG_MS);
    CHECK_IS(suite, fan__suite_renew(suite, &g, &claim, FAN__SUITE_LONG_MS), FAN_LOST);
    check_joined(suite);
    fan__suite_pass_ms(suite, FAN__SUITE_LONG_MS);
    CHECK_IS(suite, fan__suite_settle(suite, &g, &claim, FAN_VERDICT_DONE, NULL), FAN_LOST);
    check_joined(suite);
    /* There is nothing, and yet it asked. */
    fan__suite_pass_ms(suite, FAN__SUITE_LONG_MS);
    CHECK_EQUAL(suite, fan__suite_claim(suite, &g, "me", 1, 0)->count, 0);
    check_joined(suite);
}

static void all_of_it_is_kept(struct fan__suite *suite)
{
    uint64_t dead = fan__suite_put_simple(suite, "a.b.c", "", NULL);
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    lapse(suite, dead);
    settle_next(suite, dead, FAN_VERDICT_FAIL, FAN_DEAD_RETRIES);
    uint64_t held = fan__suite_put_simple(suite, "a.b.c", "", NULL);
    lapse(suite, held);
    struct fan_group_stats before = fan__suite_group_stats(suite, &g);
    fan__suite_reopen(suite);
    struct fan__suite_delivery now = fan__suite_delivery_of(suite, &g, dead);
    CHECK_EQUAL(suite, now.delivery.reason, FAN_DEAD_RETRIES);
    CHECK_EQUAL(suite, now.delivery.lapses, 1);
    struct fan_group_stats after = fan__suite_group_stats(suite, &g);
    CHECK_EQUAL(suite, after.joined_us, before.joined_us);
    CHECK_EQUAL(suite, after.oldest_us, before.oldest_us);
    CHECK(suite, after.oldest_us > 0);
    CHECK_EQUAL(suite, fan__suite_claim_one(suite, &g, held).lapses, 1);
}

const struct fan__suite_behaviour fan__suite_lapse[] = {
    { "P09_lapses_are_counted", lapses_are_counted, 0 },
    { "P09_lapses_are_counted_in_order_too", lapses_in_order, 0 },
    { "L08_claims_may_leave_out_what_lapses", claims_may_leave_out_what_lapses, 0 },
    { "H06_a_redrive_forgets_lapses", redrive_forgets_them, 0 },
    { "H06_dead_letters_have_a_reason", dead_letters_have_a_reason, 0 },
    { "P16_groups_tell_the_oldest_event_they_are_owed", oldest_that_is_owed, 0 },
    { "P16_groups_tell_when_a_member_was_last_there", members_are_seen, FAN__SUITE_CLOCK },
    { "P04_lapses_reasons_and_times_outlive_the_close", all_of_it_is_kept, FAN__SUITE_REOPEN },
    { .name = NULL },
};
