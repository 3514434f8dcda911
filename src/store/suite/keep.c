/* What is there after close and open. */
#include "store/suite/suite.h"

#include <stdio.h>
#include <string.h>

static const struct fan_group_name g = { .group = "g", .handler = "h" };

static void log_is_kept(struct fan__suite *suite)
{
    uint64_t epoch = fan_store_epoch(suite->store);
    static const char *const ids[] = { "a", "b", "c", "d", "e" };
    uint64_t seqs[5];
    const struct fan_event *events[5];
    for (size_t i = 0; i < 5; i++) {
        events[i] = fan__suite_simple(suite, "a.b.c", i % 2 ? "odd" : "even", ids[i]);
        seqs[i] = fan__suite_put(suite, events[i]);
    }
    CHECK_OK(suite, fan_store_delete(suite->store, "b"));
    CHECK_OK(suite, fan_store_erase(suite->store, "c"));
    for (int round = 0; round < 2; round++) {
        fan__suite_reopen(suite);
        CHECK_EQUAL(suite, fan_store_epoch(suite->store), epoch);
        CHECK_EQUAL(suite, fan__suite_head(suite), seqs[4]);
        CHECK_EQUAL(suite, fan__suite_count(suite), 4);
        for (size_t i = 0; i < 5; i++) {
            if (i == 1)
                continue;
            CHECK_OK(suite, fan_store_get(suite->store, ids[i], suite->batch, NULL));
            const struct fan_event *event = fan_batch_event(suite->batch, 0);
            CHECK_EQUAL(suite, fan_event_seq(event), seqs[i]);
            CHECK_TEXT(suite, fan_event_topic(event), fan_event_topic(events[i]));
            CHECK_EQUAL(suite, fan_event_size(event) == fan_event_size(events[i]), i != 2);
        }
        CHECK_IS(suite, fan_store_get(suite->store, "b", suite->batch, NULL), FAN_NOT_FOUND);
    }
}

static void ids_are_kept(struct fan__suite *suite)
{
    uint64_t seq = fan__suite_put_simple(suite, "a.b.c", "", "same");
    fan__suite_put_simple(suite, "a.b.c", "", "other");
    fan__suite_reopen(suite);
    struct fan_append again =
        fan__suite_try(suite, fan__suite_simple(suite, "a.b.c", "", "same"), NULL);
    CHECK(suite, again.ret_duplicate);
    CHECK_EQUAL(suite, again.ret_seq, seq);
    CHECK_EQUAL(suite, fan__suite_count(suite), 2);
}

static void sequences_go_on(struct fan__suite *suite)
{
    fan__suite_put_simple(suite, "a.b.c", "", "a");
    uint64_t last = fan__suite_put_simple(suite, "a.b.c", "", "b");
    CHECK_OK(suite, fan_store_delete(suite->store, "b"));
    fan__suite_reopen(suite);
    CHECK_EQUAL(suite, fan__suite_head(suite), last);
    CHECK(suite, fan__suite_put_simple(suite, "a.b.c", "", "c") > last);
    CHECK_OK(suite, fan_store_delete(suite->store, "a"));
    CHECK_OK(suite, fan_store_delete(suite->store, "c"));
    fan__suite_reopen(suite);
    CHECK(suite, fan__suite_put_simple(suite, "a.b.c", "", "d") > last + 1);
}

static void groups_are_kept(struct fan__suite *suite)
{
    uint64_t seqs[6];
    for (size_t i = 0; i < 6; i++)
        seqs[i] = fan__suite_put_simple(suite, i == 3 ? "x.y.z" : "a.b.c", "", NULL);
    fan__suite_create(suite, &g, FAN_START_BEGINNING, "a.>");
    struct fan_claim done = fan__suite_claim_one(suite, &g, seqs[0]);
    struct fan_claim dead = fan__suite_claim_one(suite, &g, seqs[1]);
    struct fan_claim held = fan__suite_claim_one(suite, &g, seqs[2]);
    CHECK_OK(suite, fan__suite_settle(suite, &g, &done, FAN_VERDICT_DONE, NULL));
    CHECK_OK(suite, fan__suite_settle(suite, &g, &dead, FAN_VERDICT_FAIL, "dead \xc3\xa4"));
    struct fan__suite_delivery before = fan__suite_delivery_of(suite, &g, seqs[1]);
    fan__suite_reopen(suite);
    struct fan__suite_delivery after = fan__suite_delivery_of(suite, &g, seqs[1]);
    CHECK_EQUAL(suite, after.delivery.status, FAN_EVENT_FAILED);
    CHECK_TEXT(suite, after.error, before.error);
    CHECK_EQUAL(suite, after.delivery.attempts, 1);
    CHECK(suite, after.delivery.processed_us == before.delivery.processed_us);
    CHECK(suite, after.delivery.completed_us == before.delivery.completed_us);
    CHECK_EQUAL(suite, fan__suite_delivery_of(suite, &g, seqs[0]).delivery.status,
                FAN_EVENT_COMPLETED);
    struct fan_group_stats stats = fan__suite_group_stats(suite, &g);
    CHECK_TEXT(suite, stats.pattern, "a.>");
    CHECK_EQUAL(suite, stats.processing, 1);
    CHECK_EQUAL(suite, stats.pending, 2);
    /* The claim outlives the close: its token still speaks for it. */
    CHECK_OK(suite, fan__suite_renew(suite, &g, &held, FAN__SUITE_LONG_MS));
    CHECK_OK(suite, fan__suite_settle(suite, &g, &held, FAN_VERDICT_DONE, NULL));
    const struct fan__suite_claims *rest =
        fan__suite_claim(suite, &g, "me", 10, FAN__SUITE_LONG_MS);
    CHECK_EQUAL(suite, rest->count, 2);
    CHECK_EQUAL(suite, rest->items[0].seq, seqs[4]);
    CHECK_EQUAL(suite, rest->items[1].seq, seqs[5]);
}

static void leases_and_fences_are_kept(struct fan__suite *suite)
{
    uint64_t fence = 0;
    uint64_t other = 0;
    CHECK_OK(suite, fan_lease_acquire(suite->store, "l", "a", FAN__SUITE_LONG_MS, &fence));
    fan__suite_reopen(suite);
    CHECK_IS(suite, fan_lease_acquire(suite->store, "l", "b", FAN__SUITE_LONG_MS, &other),
             FAN_EXISTS);
    CHECK_OK(suite, fan_lease_renew(suite->store, "l", "a", fence, FAN__SUITE_LONG_MS));
    CHECK_OK(suite, fan_lease_release(suite->store, "l", "a", fence));
    fan__suite_reopen(suite);
    CHECK_OK(suite, fan_lease_acquire(suite->store, "l", "b", FAN__SUITE_LONG_MS, &other));
    CHECK(suite, other > fence);
}

static void expectations_are_kept(struct fan__suite *suite)
{
    uint64_t seq = fan__suite_put_simple(suite, "a.b.c", "run", NULL);
    fan__suite_reopen(suite);
    const struct fan_event *event = fan__suite_simple(suite, "a.b.c", "run", NULL);
    const struct fan_expectation wrong = { .size = sizeof(wrong), .key = "run" };
    const struct fan_expectation right = { .size = sizeof(right), .key = "run", .last_seq = seq };
    CHECK_IS(suite, fan__suite_try(suite, event, &wrong).ret_status, FAN_CONFLICT);
    CHECK_IS(suite, fan__suite_try(suite, event, &right).ret_status, FAN_OK);
}

static void order_is_kept(struct fan__suite *suite)
{
    uint64_t first = fan__suite_put_simple(suite, "a.b.c", "k", NULL);
    uint64_t second = fan__suite_put_simple(suite, "a.b.c", "k", NULL);
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    struct fan_claim claims[2];
    const struct fan_claim_options options = { .size = FAN_CLAIM_OPTIONS_SIZE,
                                               .owner = "a",
                                               .limit = 2,
                                               .lease_ms = FAN__SUITE_LONG_MS,
                                               .ordered = true };
    CHECK_OK(suite, fan_group_claim(suite->store, &g, &options, suite->batch, claims));
    CHECK_EQUAL(suite, fan_batch_count(suite->batch), 1);
    CHECK_EQUAL(suite, claims[0].seq, first);
    fan__suite_reopen(suite);
    struct fan_batch *batch = fan__suite_batch(suite);
    CHECK_IS(suite, fan_group_claim(suite->store, &g, &options, batch, claims + 1), FAN_AGAIN);
    CHECK_OK(suite, fan__suite_settle(suite, &g, &claims[0], FAN_VERDICT_DONE, NULL));
    CHECK_OK(suite, fan_group_claim(suite->store, &g, &options, batch, claims + 1));
    CHECK_EQUAL(suite, claims[1].seq, second);
}

/* What a store says of itself is what the suite was given to check it with. */
static void durable_means_reopened(struct fan__suite *suite)
{
    unsigned durable = FAN_CAPABILITY_DURABLE_DISK | FAN_CAPABILITY_DURABLE_PROCESS;
    bool promised = (fan_store_capabilities(suite->store) & durable) != 0;
    CHECK_EQUAL(suite, promised, suite->options->reopen != NULL);
    bool disk = (fan_store_capabilities(suite->store) & FAN_CAPABILITY_DURABLE_DISK) != 0;
    bool process = (fan_store_capabilities(suite->store) & FAN_CAPABILITY_DURABLE_PROCESS) != 0;
    CHECK(suite, process || !disk);
}

const struct fan__suite_behaviour fan__suite_keep[] = {
    { "P21_a_durable_store_is_one_that_can_be_reopened", durable_means_reopened, 0 },
    { "P05_events_outlive_the_close", log_is_kept, FAN__SUITE_REOPEN },
    { "L09_ids_outlive_the_close", ids_are_kept, FAN__SUITE_REOPEN },
    { "L02_sequences_go_on_after_the_close", sequences_go_on, FAN__SUITE_REOPEN },
    { "P04_deliveries_outlive_the_close", groups_are_kept, FAN__SUITE_REOPEN },
    { "W09_leases_and_fences_outlive_the_close", leases_and_fences_are_kept, FAN__SUITE_REOPEN },
    { "P23_expectations_outlive_the_close", expectations_are_kept, FAN__SUITE_REOPEN },
    { "H04_order_outlives_the_close", order_is_kept, FAN__SUITE_REOPEN },
    { .name = NULL },
};
