/* States: redrive and discard, the sums of P17, dead letters, visits and stats. */
#include "store/suite/suite.h"

#include <stdio.h>
#include <string.h>

static const struct fan_group_name g = { .group = "g", .handler = "h" };
static const struct fan_group_name second = { .group = "g", .handler = "second" };

/* Brings the group's next delivery, of the event `seq`, to a status. */
static void bring_to(struct fan__suite *suite, const struct fan_group_name *name, uint64_t seq,
                     enum fan_event_status status)
{
    struct fan_claim claim = fan__suite_claim_one(suite, name, seq);
    switch (status) {
    case FAN_EVENT_PENDING:
        CHECK_OK(suite, fan__suite_retry(suite, name, &claim, FAN__SUITE_LONG_MS, "later"));
        break;
    case FAN_EVENT_PROCESSING:
        break;
    case FAN_EVENT_COMPLETED:
        CHECK_OK(suite, fan__suite_settle(suite, name, &claim, FAN_VERDICT_DONE, NULL));
        break;
    case FAN_EVENT_FAILED:
        CHECK_OK(suite, fan__suite_settle(suite, name, &claim, FAN_VERDICT_FAIL, "broke"));
        break;
    }
}

static void moves_of_what_was_never_claimed(struct fan__suite *suite)
{
    fan__suite_create(suite, &g, FAN_START_NOW, "a.>");
    uint64_t first = fan__suite_put_simple(suite, "a.b.c", "", "first");
    uint64_t unwanted = fan__suite_put_simple(suite, "x.y.z", "", NULL);
    uint64_t last = fan__suite_put_simple(suite, "a.b.c", "", NULL);
    CHECK_IS(suite, fan_group_move(suite->store, &g, first, FAN_EVENT_PENDING), FAN_CONFLICT);
    CHECK_IS(suite, fan_group_move(suite->store, &g, first, FAN_EVENT_FAILED), FAN_CONFLICT);
    CHECK_OK(suite, fan_group_move(suite->store, &g, first, FAN_EVENT_COMPLETED));
    CHECK_IS(suite, fan_group_move(suite->store, &g, unwanted, FAN_EVENT_COMPLETED), FAN_NOT_FOUND);
    CHECK_EQUAL(suite, fan__suite_state_of(suite, "first").status, FAN_EVENT_COMPLETED);
    fan__suite_claim_one(suite, &g, last);
}

static void redrive_starts_anew(struct fan__suite *suite)
{
    uint64_t seq = fan__suite_put_simple(suite, "a.b.c", "", "x");
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    for (int i = 0; i < 3; i++) {
        struct fan_claim claim = fan__suite_claim_one(suite, &g, seq);
        CHECK_OK(suite, fan__suite_retry(suite, &g, &claim, 0, "again"));
    }
    struct fan_claim claim = fan__suite_claim_one(suite, &g, seq);
    CHECK_EQUAL(suite, claim.attempt, 4);
    CHECK_OK(suite, fan__suite_settle(suite, &g, &claim, FAN_VERDICT_FAIL, "no more"));
    CHECK_EQUAL(suite, fan__suite_claim(suite, &g, "me", 1, 0)->count, 0);
    struct fan_event_state state = fan__suite_state_of(suite, "x");
    CHECK_EQUAL(suite, state.status, FAN_EVENT_FAILED);
    CHECK_EQUAL(suite, state.retry_count, 3);
    CHECK_TEXT(suite, state.error, "no more");
    CHECK(suite, state.completed_us >= state.processed_us && state.processed_us > 0);
    CHECK_OK(suite, fan_group_move(suite->store, &g, seq, FAN_EVENT_PENDING));
    CHECK_IS(suite, fan__suite_settle(suite, &g, &claim, FAN_VERDICT_DONE, NULL), FAN_LOST);
    struct fan__suite_delivery now = fan__suite_delivery_of(suite, &g, seq);
    CHECK_EQUAL(suite, now.delivery.attempts, 0);
    CHECK(suite, now.delivery.completed_us == 0);
    CHECK_EQUAL(suite, fan__suite_claim_one(suite, &g, seq).attempt, 1);
}

static void discard_ends_it(struct fan__suite *suite)
{
    uint64_t dead = fan__suite_put_simple(suite, "a.b.c", "", "dead");
    uint64_t waiting = fan__suite_put_simple(suite, "a.b.c", "", "waiting");
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    bring_to(suite, &g, dead, FAN_EVENT_FAILED);
    struct fan_claim claim = fan__suite_claim_one(suite, &g, waiting);
    CHECK_IS(suite, fan_group_move(suite->store, &g, waiting, FAN_EVENT_COMPLETED), FAN_MISUSE);
    CHECK_OK(suite, fan__suite_retry(suite, &g, &claim, 0, "again"));
    CHECK_OK(suite, fan_group_move(suite->store, &g, dead, FAN_EVENT_COMPLETED));
    CHECK_OK(suite, fan_group_move(suite->store, &g, waiting, FAN_EVENT_COMPLETED));
    CHECK_EQUAL(suite, fan__suite_claim(suite, &g, "me", 2, 0)->count, 0);
    CHECK_EQUAL(suite, fan__suite_state_of(suite, "dead").status, FAN_EVENT_COMPLETED);
    CHECK_EQUAL(suite, fan__suite_state_of(suite, "waiting").status, FAN_EVENT_COMPLETED);
    CHECK(suite, fan__suite_state_of(suite, "dead").completed_us > 0);
}

static void lapsed_counts_as_pending(struct fan__suite *suite)
{
    uint32_t short_ms = fan__suite_short_ms(suite);
    uint64_t seq = fan__suite_put_simple(suite, "a.b.c", "", "x");
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    CHECK_EQUAL(suite, fan__suite_claim(suite, &g, "me", 1, short_ms)->count, 1);
    CHECK_IS(suite, fan_group_move(suite->store, &g, seq, FAN_EVENT_COMPLETED), FAN_MISUSE);
    fan__suite_pass_ms(suite, short_ms + short_ms / 2);
    CHECK_EQUAL(suite, fan__suite_state_of(suite, "x").status, FAN_EVENT_PENDING);
    CHECK_EQUAL(suite, fan__suite_stats(suite).pending, 1);
    CHECK_EQUAL(suite, fan__suite_group_stats(suite, &g).pending, 1);
    CHECK_EQUAL(suite, fan__suite_delivery_of(suite, &g, seq).delivery.status, FAN_EVENT_PENDING);
    CHECK_OK(suite, fan_group_move(suite->store, &g, seq, FAN_EVENT_COMPLETED));
}

static enum fan_event_status sum(enum fan_event_status a, enum fan_event_status b)
{
    if (a == FAN_EVENT_FAILED || b == FAN_EVENT_FAILED)
        return FAN_EVENT_FAILED;
    if (a == FAN_EVENT_PROCESSING || b == FAN_EVENT_PROCESSING)
        return FAN_EVENT_PROCESSING;
    return a == FAN_EVENT_COMPLETED && b == FAN_EVENT_COMPLETED ? FAN_EVENT_COMPLETED
                                                                : FAN_EVENT_PENDING;
}

/* Every pair of states of two handlers; those "unseen" were never claimed by the second. */
static void sums_of_deliveries(struct fan__suite *suite)
{
    fan__suite_create(suite, &g, FAN_START_NOW, NULL);
    fan__suite_create(suite, &second, FAN_START_NOW, NULL);
    uint64_t counts[4] = { 0 };
    for (int a = FAN_EVENT_PENDING; a <= FAN_EVENT_FAILED; a++) {
        for (int b = FAN_EVENT_PENDING; b <= FAN_EVENT_FAILED; b++) {
            char id[16];
            snprintf(id, sizeof(id), "%d-%d", a, b);
            uint64_t seq = fan__suite_put_simple(suite, "a.b.c", "", id);
            bring_to(suite, &g, seq, (enum fan_event_status)a);
            CHECK_EQUAL(suite, fan__suite_state_of(suite, id).status,
                        sum((enum fan_event_status)a, FAN_EVENT_PENDING));
            bring_to(suite, &second, seq, (enum fan_event_status)b);
            enum fan_event_status expected =
                sum((enum fan_event_status)a, (enum fan_event_status)b);
            CHECK_EQUAL(suite, fan__suite_state_of(suite, id).status, expected);
            counts[expected]++;
        }
    }
    struct fan_store_stats stats = fan__suite_stats(suite);
    CHECK_EQUAL(suite, stats.pending, counts[FAN_EVENT_PENDING]);
    CHECK_EQUAL(suite, stats.processing, counts[FAN_EVENT_PROCESSING]);
    CHECK_EQUAL(suite, stats.completed, counts[FAN_EVENT_COMPLETED]);
    CHECK_EQUAL(suite, stats.failed, counts[FAN_EVENT_FAILED]);
    CHECK_EQUAL(suite, stats.events, 16);
}

static size_t count_listed(struct fan__suite *suite, enum fan_event_status status)
{
    struct fan_event_state states[8];
    struct fan_error error = FAN_ERROR_INIT;
    const struct fan_query query = {
        .size = FAN_QUERY_SIZE, .has_status = true, .status = status, .limit = 8
    };
    CHECK_OK(suite, fan_store_list(suite->store, &query, suite->batch, states, &error));
    return fan_batch_count(suite->batch);
}

/* One handler's claim lapses, while the other's delivery is in each of the states. */
static void sums_with_a_lapsed_claim(struct fan__suite *suite)
{
    uint32_t short_ms = fan__suite_short_ms(suite);
    uint64_t counts[4] = { 0 };
    fan__suite_create(suite, &g, FAN_START_NOW, NULL);
    fan__suite_create(suite, &second, FAN_START_NOW, NULL);
    for (int other = FAN_EVENT_PENDING; other <= FAN_EVENT_FAILED; other++) {
        char id[16];
        snprintf(id, sizeof(id), "with-%d", other);
        uint64_t seq = fan__suite_put_simple(suite, "a.b.c", "", id);
        CHECK_EQUAL(suite, fan__suite_claim(suite, &g, "dies", 1, short_ms)->count, 1);
        bring_to(suite, &second, seq, (enum fan_event_status)other);
        CHECK_EQUAL(suite, fan__suite_state_of(suite, id).status,
                    sum(FAN_EVENT_PROCESSING, (enum fan_event_status)other));
        counts[sum(FAN_EVENT_PENDING, (enum fan_event_status)other)]++;
    }
    fan__suite_pass_ms(suite, short_ms + short_ms / 2);
    for (int other = FAN_EVENT_PENDING; other <= FAN_EVENT_FAILED; other++) {
        char id[16];
        snprintf(id, sizeof(id), "with-%d", other);
        CHECK_EQUAL(suite, fan__suite_state_of(suite, id).status,
                    sum(FAN_EVENT_PENDING, (enum fan_event_status)other));
        CHECK_EQUAL(suite, count_listed(suite, (enum fan_event_status)other), counts[other]);
    }
    struct fan_store_stats stats = fan__suite_stats(suite);
    CHECK_EQUAL(suite, stats.pending, counts[FAN_EVENT_PENDING]);
    CHECK_EQUAL(suite, stats.processing, counts[FAN_EVENT_PROCESSING]);
    CHECK_EQUAL(suite, stats.completed, 0);
    CHECK_EQUAL(suite, stats.failed, counts[FAN_EVENT_FAILED]);
    CHECK_EQUAL(suite, fan__suite_group_stats(suite, &g).pending, 4);
    CHECK_EQUAL(suite, fan__suite_group_stats(suite, &g).processing, 0);
}

static void retry_count_is_the_highest(struct fan__suite *suite)
{
    uint64_t seq = fan__suite_put_simple(suite, "a.b.c", "", "x");
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    fan__suite_create(suite, &second, FAN_START_BEGINNING, NULL);
    CHECK_EQUAL(suite, fan__suite_state_of(suite, "x").retry_count, 0);
    for (int i = 0; i < 3; i++) {
        struct fan_claim claim = fan__suite_claim_one(suite, &second, seq);
        CHECK_EQUAL(suite, fan__suite_state_of(suite, "x").retry_count, i);
        CHECK_OK(suite, fan__suite_retry(suite, &second, &claim, 0, "again"));
    }
    fan__suite_claim_one(suite, &g, seq);
    CHECK_EQUAL(suite, fan__suite_state_of(suite, "x").retry_count, 2);
}

static void unwanted_is_completed(struct fan__suite *suite)
{
    fan__suite_put_simple(suite, "a.b.c", "", "before");
    CHECK_EQUAL(suite, fan__suite_state_of(suite, "before").status, FAN_EVENT_COMPLETED);
    fan__suite_create(suite, &g, FAN_START_NOW, "a.>");
    CHECK_EQUAL(suite, fan__suite_state_of(suite, "before").status, FAN_EVENT_COMPLETED);
    fan__suite_put_simple(suite, "x.y.z", "", "unwanted");
    fan__suite_put_simple(suite, "a.b.c", "", "wanted");
    CHECK_EQUAL(suite, fan__suite_state_of(suite, "unwanted").status, FAN_EVENT_COMPLETED);
    CHECK_EQUAL(suite, fan__suite_state_of(suite, "wanted").status, FAN_EVENT_PENDING);
    struct fan_store_stats stats = fan__suite_stats(suite);
    CHECK_EQUAL(suite, stats.completed, 2);
    CHECK_EQUAL(suite, stats.pending, 1);
    fan__suite_create(suite, &second, FAN_START_BEGINNING, "x.>");
    CHECK_EQUAL(suite, fan__suite_state_of(suite, "unwanted").status, FAN_EVENT_PENDING);
    CHECK_OK(suite, fan_group_delete(suite->store, &second));
    CHECK_EQUAL(suite, fan__suite_state_of(suite, "unwanted").status, FAN_EVENT_COMPLETED);
}

/* A visit notes what is wrong and leaves the checks to later: a jump would go over the store. */
struct dead {
    uint64_t seqs[600];
    size_t count;
    size_t stop_at;
    size_t wrong;
};

static bool see_dead(void *context, const struct fan_delivery *delivery)
{
    struct dead *dead = context;
    char expected[32];
    snprintf(expected, sizeof(expected), "broke %d", (int)delivery->seq);
    dead->wrong += delivery->status != FAN_EVENT_FAILED || strcmp(delivery->error, expected) != 0;
    if (dead->count < 600) {
        dead->wrong += dead->count > 0 && delivery->seq < dead->seqs[dead->count - 1];
        dead->seqs[dead->count] = delivery->seq;
    }
    dead->count++;
    return dead->count != dead->stop_at;
}

static void dead_letters_are_listed(struct fan__suite *suite)
{
    enum { COUNT = 540 };
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_append *items = fan__suite_alloc(suite, COUNT, sizeof(*items));
    for (size_t i = 0; i < COUNT; i++)
        items[i].event = fan__suite_simple(suite, "a.b.c", "", NULL);
    CHECK_OK(suite, fan_store_append(suite->store, items, COUNT, &error));
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    struct fan__suite_claims *claims = fan__suite_claim(suite, &g, "me", COUNT, 0);
    CHECK_EQUAL(suite, claims->count, COUNT);
    struct fan_settle *settles = fan__suite_alloc(suite, COUNT, sizeof(*settles));
    char(*errors)[32] = fan__suite_alloc(suite, COUNT, sizeof(*errors));
    for (size_t i = 0; i < COUNT; i++) {
        snprintf(errors[i], sizeof(errors[i]), "broke %d", (int)claims->items[i].seq);
        settles[i] = (struct fan_settle){ .seq = claims->items[i].seq,
                                          .token = claims->items[i].token,
                                          .verdict = i % 9 ? FAN_VERDICT_FAIL : FAN_VERDICT_DONE,
                                          .error = errors[i] };
    }
    CHECK_OK(suite, fan_group_settle(suite->store, &g, settles, COUNT));
    struct dead *dead = fan__suite_alloc(suite, 1, sizeof(*dead));
    CHECK_OK(suite, fan_store_deliveries(suite->store, 0, 0, see_dead, dead));
    CHECK_EQUAL(suite, dead->count, COUNT - COUNT / 9);
    for (size_t i = 0; i < COUNT / 9; i++)
        CHECK_EQUAL(suite, dead->seqs[i * 8], items[i * 9 + 1].ret_seq);
    uint64_t middle = dead->seqs[100];
    dead->count = 0;
    dead->stop_at = 7;
    CHECK_OK(suite, fan_store_deliveries(suite->store, 0, middle, see_dead, dead));
    CHECK_EQUAL(suite, dead->count, 7);
    CHECK(suite, dead->seqs[0] > middle);
    dead->count = 0;
    dead->stop_at = 0;
    CHECK_OK(suite, fan_group_move(suite->store, &g, middle, FAN_EVENT_PENDING));
    CHECK_OK(suite, fan_store_deliveries(suite->store, 0, middle - 1, see_dead, dead));
    CHECK(suite, dead->count > 0 && dead->seqs[0] > middle);
    CHECK_EQUAL(suite, dead->wrong, 0);
}

struct visited {
    char names[8][32];
    size_t count;
    size_t stop_at;
};

static bool see_name(struct visited *visited, const char *group, const char *handler)
{
    if (visited->count < 8)
        snprintf(visited->names[visited->count], sizeof(visited->names[0]), "%s/%s", group,
                 handler);
    visited->count++;
    return visited->count != visited->stop_at;
}

static bool see_delivery(void *context, const struct fan_delivery *delivery)
{
    return see_name(context, delivery->group, delivery->handler);
}

static bool see_group(void *context, const struct fan_group_stats *stats)
{
    return see_name(context, stats->group, stats->handler);
}

static void visits_are_in_order(struct fan__suite *suite)
{
    static const struct fan_group_name names[] = {
        { "b", "y" }, { "a", "z" }, { "b", "" }, { "ab", "" }, { "a", "B" },
    };
    static const char *const expected[] = { "a/B", "a/z", "ab/", "b/", "b/y" };
    uint64_t seq = fan__suite_put_simple(suite, "a.b.c", "", NULL);
    uint64_t next = fan__suite_put_simple(suite, "a.b.c", "", NULL);
    for (size_t i = 0; i < 5; i++) {
        fan__suite_create(suite, &names[i], FAN_START_BEGINNING, NULL);
        fan__suite_claim_one(suite, &names[i], seq);
        fan__suite_claim_one(suite, &names[i], next);
    }
    struct visited groups = { .count = 0 };
    struct visited deliveries = { .count = 0 };
    CHECK_OK(suite, fan_store_groups(suite->store, see_group, &groups));
    CHECK_OK(suite, fan_store_deliveries(suite->store, seq, 0, see_delivery, &deliveries));
    CHECK_EQUAL(suite, groups.count, 5);
    CHECK_EQUAL(suite, deliveries.count, 5);
    for (size_t i = 0; i < 5; i++) {
        CHECK_TEXT(suite, groups.names[i], expected[i]);
        CHECK_TEXT(suite, deliveries.names[i], expected[i]);
    }
    struct visited some = { .stop_at = 2 };
    CHECK_OK(suite, fan_store_groups(suite->store, see_group, &some));
    CHECK_EQUAL(suite, some.count, 2);
    some.count = 0;
    CHECK_OK(suite, fan_store_deliveries(suite->store, seq, 0, see_delivery, &some));
    CHECK_EQUAL(suite, some.count, 2);
    CHECK_OK(suite, fan_store_deliveries(suite->store, next + 5, 0, see_delivery, &some));
    CHECK_EQUAL(suite, some.count, 2);
}

static void stats_of_groups(struct fan__suite *suite)
{
    uint64_t seqs[8];
    for (size_t i = 0; i < 8; i++)
        seqs[i] = fan__suite_put_simple(suite, i % 4 == 3 ? "x.y.z" : "a.b.c", "", NULL);
    fan__suite_create(suite, &g, FAN_START_BEGINNING, "a.>");
    struct fan_group_stats stats = fan__suite_group_stats(suite, &g);
    CHECK_TEXT(suite, stats.pattern, "a.>");
    CHECK_EQUAL(suite, stats.cursor_seq, 0);
    CHECK_EQUAL(suite, stats.lag, 8);
    CHECK_EQUAL(suite, stats.pending, 6);
    bring_to(suite, &g, seqs[0], FAN_EVENT_COMPLETED);
    bring_to(suite, &g, seqs[1], FAN_EVENT_FAILED);
    bring_to(suite, &g, seqs[2], FAN_EVENT_PROCESSING);
    stats = fan__suite_group_stats(suite, &g);
    CHECK(suite, stats.cursor_seq >= seqs[2] && stats.cursor_seq <= seqs[3]);
    CHECK_EQUAL(suite, stats.lag, stats.cursor_seq == seqs[3] ? 4 : 5);
    CHECK_EQUAL(suite, stats.completed, 1);
    CHECK_EQUAL(suite, stats.failed, 1);
    CHECK_EQUAL(suite, stats.processing, 1);
    CHECK_EQUAL(suite, stats.pending, 3);
    CHECK_EQUAL(suite, fan__suite_claim(suite, &g, "me", 10, 0)->count, 3);
    CHECK_EQUAL(suite, fan__suite_claim(suite, &g, "me", 10, 0)->count, 0);
    stats = fan__suite_group_stats(suite, &g);
    CHECK_EQUAL(suite, stats.cursor_seq, seqs[7]);
    CHECK_EQUAL(suite, stats.lag, 0);
    CHECK_EQUAL(suite, stats.processing, 4);
}

const struct fan__suite_behaviour fan__suite_state[] = {
    { "P04_moves_of_what_was_never_claimed", moves_of_what_was_never_claimed, 0 },
    { "H06_a_redriven_dead_letter_starts_anew", redrive_starts_anew, 0 },
    { "H06_a_discarded_delivery_is_completed", discard_ends_it, 0 },
    { "P04_a_lapsed_claim_counts_as_pending", lapsed_counts_as_pending, 0 },
    { "P17_the_status_is_the_sum_of_the_deliveries", sums_of_deliveries, 0 },
    { "P17_a_lapsed_claim_counts_as_pending_in_the_sum", sums_with_a_lapsed_claim, 0 },
    { "P17_the_retry_count_is_the_highest", retry_count_is_the_highest, 0 },
    { "L08_what_no_group_wants_is_completed", unwanted_is_completed, 0 },
    { "H06_dead_letters_are_listed_in_order", dead_letters_are_listed, 0 },
    { "P05_visits_are_in_order_and_end_when_told", visits_are_in_order, 0 },
    { "P16_stats_of_groups", stats_of_groups, 0 },
    { .name = NULL },
};
