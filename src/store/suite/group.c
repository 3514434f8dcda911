/* Groups: where they begin, what a claim gives, how it ends. */
#include "store/suite/suite.h"

#include <stdio.h>
#include <string.h>

static const struct fan_group_name g = { .group = "mail", .handler = "welcome" };
static const struct fan_group_name h = { .group = "mail", .handler = "" };
static const struct fan_group_name other = { .group = "audit", .handler = "welcome" };

#define CLAIM(suite, name, limit) fan__suite_claim(suite, name, "me", limit, FAN__SUITE_LONG_MS)

static void put_many(struct fan__suite *suite, size_t count, uint64_t *seqs)
{
    for (size_t i = 0; i < count; i++)
        seqs[i] = fan__suite_put_simple(suite, "a.b.c", "t", NULL);
}

static void groups_begin(struct fan__suite *suite)
{
    struct fan_error error = FAN_ERROR_INIT;
    uint64_t seqs[6];
    put_many(suite, 4, seqs);
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    fan__suite_create(suite, &h, FAN_START_NOW, NULL);
    const struct fan_group_options options = { .size = FAN_GROUP_OPTIONS_SIZE,
                                               .start = FAN_START_CURSOR,
                                               .start_seq = seqs[1] };
    CHECK_OK(suite, fan_group_create(suite->store, &other, &options, &error));
    const struct fan_group_name past = { .group = "past", .handler = "the head" };
    const struct fan_group_options far = { .size = FAN_GROUP_OPTIONS_SIZE,
                                           .start = FAN_START_CURSOR,
                                           .start_seq = seqs[3] + 1000 };
    CHECK_OK(suite, fan_group_create(suite->store, &past, &far, &error));
    CHECK_EQUAL(suite, CLAIM(suite, &h, 10)->count, 0);
    put_many(suite, 2, seqs + 4);
    static const struct {
        const struct fan_group_name *name;
        size_t first;
    } begins[] = { { &g, 0 }, { &h, 4 }, { &other, 2 } };
    for (size_t i = 0; i < 3; i++) {
        const struct fan__suite_claims *claims = CLAIM(suite, begins[i].name, 10);
        CHECK_EQUAL(suite, claims->count, 6 - begins[i].first);
        for (size_t j = 0; j < claims->count; j++) {
            CHECK_EQUAL(suite, claims->items[j].seq, seqs[begins[i].first + j]);
            CHECK_EQUAL(suite, claims->items[j].attempt, 1);
        }
        CHECK_EQUAL(suite, CLAIM(suite, begins[i].name, 10)->count, 0);
    }
    CHECK_EQUAL(suite, CLAIM(suite, &past, 10)->count, 2);
    CHECK_EQUAL(suite, fan__suite_stats(suite).groups, 4);
}

static void create_again_keeps_the_place(struct fan__suite *suite)
{
    struct fan_error error = FAN_ERROR_INIT;
    fan__suite_put_simple(suite, "old.one.x", "", NULL);
    fan__suite_create(suite, &g, FAN_START_BEGINNING, "old.>");
    CHECK_EQUAL(suite, CLAIM(suite, &g, 10)->count, 1);
    fan__suite_put_simple(suite, "old.two.x", "", NULL);
    const struct fan_group_options options = { .size = FAN_GROUP_OPTIONS_SIZE,
                                               .pattern = "new.>",
                                               .topic = "t",
                                               .start = FAN_START_BEGINNING };
    CHECK_IS(suite, fan_group_create(suite->store, &g, &options, &error), FAN_EXISTS);
    fan__suite_put_simple(suite, "new.one.x", "", NULL);
    uint64_t wanted = fan__suite_put_simple(suite, "new.two.x", "t", NULL);
    const struct fan__suite_claims *claims = CLAIM(suite, &g, 10);
    CHECK_EQUAL(suite, claims->count, 1);
    CHECK_EQUAL(suite, claims->items[0].seq, wanted);
    struct fan_group_stats stats = fan__suite_group_stats(suite, &g);
    CHECK_EQUAL(suite, stats.processing, 2);
}

static void unknown_groups(struct fan__suite *suite)
{
    struct fan_claim claim = { .seq = 1, .token = 1 };
    struct fan_claim_options options = { .size = FAN_CLAIM_OPTIONS_SIZE, .owner = "me" };
    struct fan_settle item = { .seq = 1, .token = 1 };
    fan__suite_put_simple(suite, "a.b.c", "", NULL);
    fan__suite_create(suite, &h, FAN_START_BEGINNING, NULL);
    CHECK_IS(suite, fan_group_claim(suite->store, &g, &options, suite->batch, &claim),
             FAN_NOT_FOUND);
    CHECK_IS(suite, fan_group_settle(suite->store, &g, &item, 1), FAN_NOT_FOUND);
    CHECK_IS(suite, fan_group_renew(suite->store, &g, &item, 1, 1000), FAN_NOT_FOUND);
    CHECK_IS(suite, fan_group_move(suite->store, &g, 1, FAN_EVENT_COMPLETED), FAN_NOT_FOUND);
    CHECK_IS(suite, fan_group_delete(suite->store, &g), FAN_NOT_FOUND);
    CHECK_OK(suite, fan_group_delete(suite->store, &h));
    CHECK_IS(suite, fan_group_claim(suite->store, &h, &options, suite->batch, &claim),
             FAN_NOT_FOUND);
}

static void claims_by_pattern_and_topic(struct fan__suite *suite)
{
    struct fan_error error = FAN_ERROR_INIT;
    static const char *const types[] = { "public.users.create", "public.users", "chat.message",
                                         "public.orders.create", "public.users.create" };
    static const char *const topics[] = { "a", "a", "a", "b", "b" };
    uint64_t seqs[5];
    const struct fan_group_options options = { .size = FAN_GROUP_OPTIONS_SIZE,
                                               .pattern = "*.*.create",
                                               .topic = "b" };
    fan__suite_create(suite, &g, FAN_START_NOW, "public.users.*");
    CHECK_OK(suite, fan_group_create(suite->store, &other, &options, &error));
    for (size_t i = 0; i < 5; i++)
        seqs[i] = fan__suite_put_simple(suite, types[i], topics[i], NULL);
    const struct fan__suite_claims *claims = CLAIM(suite, &g, 10);
    CHECK_EQUAL(suite, claims->count, 2);
    CHECK_EQUAL(suite, claims->items[0].seq, seqs[0]);
    CHECK_EQUAL(suite, claims->items[1].seq, seqs[4]);
    claims = CLAIM(suite, &other, 10);
    CHECK_EQUAL(suite, claims->count, 2);
    CHECK_EQUAL(suite, claims->items[0].seq, seqs[3]);
    CHECK_EQUAL(suite, claims->items[1].seq, seqs[4]);
}

static void claims_are_limited(struct fan__suite *suite)
{
    uint64_t seqs[9];
    put_many(suite, 9, seqs);
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    static const size_t limits[] = { 1, 3, 4, 5 };
    static const size_t counts[] = { 1, 3, 4, 1 };
    size_t at = 0;
    uint64_t tokens[9];
    for (size_t i = 0; i < 4; i++) {
        const struct fan__suite_claims *claims = CLAIM(suite, &g, limits[i]);
        CHECK_EQUAL(suite, claims->count, counts[i]);
        for (size_t j = 0; j < claims->count; j++, at++) {
            CHECK_EQUAL(suite, claims->items[j].seq, seqs[at]);
            tokens[at] = claims->items[j].token;
            CHECK(suite, tokens[at] != 0);
        }
    }
    /* No token of one delivery opens another. */
    const struct fan_claim wrong = { .seq = seqs[0], .token = tokens[8] + 1000 };
    CHECK_IS(suite, fan__suite_settle(suite, &g, &wrong, FAN_VERDICT_DONE, NULL), FAN_LOST);
    struct fan_claim_options none = { .size = FAN_CLAIM_OPTIONS_SIZE, .owner = "me" };
    struct fan_claim claim;
    CHECK_IS(suite, fan_group_claim(suite->store, &g, &none, suite->batch, &claim), FAN_AGAIN);
    CHECK_EQUAL(suite, fan_batch_count(suite->batch), 0);
}

static void two_groups_see_everything(struct fan__suite *suite)
{
    uint64_t seqs[5];
    fan__suite_create(suite, &g, FAN_START_NOW, NULL);
    fan__suite_create(suite, &h, FAN_START_NOW, NULL);
    fan__suite_create(suite, &other, FAN_START_NOW, NULL);
    put_many(suite, 5, seqs);
    const struct fan_group_name *const names[] = { &g, &h, &other };
    for (size_t i = 0; i < 3; i++) {
        const struct fan__suite_claims *claims = CLAIM(suite, names[i], 10);
        CHECK_EQUAL(suite, claims->count, 5);
        for (size_t j = 0; j < 5; j++)
            CHECK_EQUAL(suite, claims->items[j].seq, seqs[j]);
        CHECK_OK(suite, fan__suite_settle(suite, names[i], &claims->items[i], FAN_VERDICT_FAIL,
                                          "only here"));
    }
    CHECK_EQUAL(suite, fan__suite_delivery_of(suite, &h, seqs[0]).delivery.status,
                FAN_EVENT_PROCESSING);
}

static void done_is_done(struct fan__suite *suite)
{
    int64_t before_us = fan__suite_now_us(suite);
    uint64_t seq = fan__suite_put_simple(suite, "a.b.c", "", "x");
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    struct fan_claim claim = fan__suite_claim_one(suite, &g, seq);
    struct fan__suite_delivery now = fan__suite_delivery_of(suite, &g, seq);
    CHECK(suite, now.found);
    CHECK_EQUAL(suite, now.delivery.status, FAN_EVENT_PROCESSING);
    CHECK_TEXT(suite, now.owner, "somebody");
    CHECK(suite, now.delivery.due_us > before_us + FAN__SUITE_LONG_MS * INT64_C(1000) / 2);
    CHECK_OK(suite, fan__suite_settle(suite, &g, &claim, FAN_VERDICT_DONE, NULL));
    now = fan__suite_delivery_of(suite, &g, seq);
    CHECK_EQUAL(suite, now.delivery.seq, seq);
    CHECK_EQUAL(suite, now.delivery.status, FAN_EVENT_COMPLETED);
    CHECK_EQUAL(suite, now.delivery.attempts, 1);
    CHECK_TEXT(suite, now.error, "");
    int64_t second_us = 1000000;
    CHECK(suite, now.delivery.processed_us >= before_us - second_us);
    CHECK(suite, now.delivery.completed_us >= now.delivery.processed_us);
    CHECK(suite, now.delivery.completed_us <= fan__suite_now_us(suite) + second_us);
    for (int verdict = FAN_VERDICT_DONE; verdict <= FAN_VERDICT_HAND_BACK; verdict++)
        CHECK_IS(suite, fan__suite_settle(suite, &g, &claim, (enum fan_verdict)verdict, "again"),
                 FAN_LOST);
    CHECK_IS(suite, fan__suite_renew(suite, &g, &claim, 1000), FAN_LOST);
    CHECK_EQUAL(suite, fan__suite_delivery_of(suite, &g, seq).delivery.status, FAN_EVENT_COMPLETED);
}

static void retries_wait(struct fan__suite *suite)
{
    uint32_t short_ms = fan__suite_short_ms(suite);
    uint64_t seq = fan__suite_put_simple(suite, "a.b.c", "", "x");
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    for (unsigned attempt = 1; attempt <= 3; attempt++) {
        struct fan_claim claim = fan__suite_claim_one(suite, &g, seq);
        CHECK_EQUAL(suite, claim.attempt, attempt);
        char error[32];
        snprintf(error, sizeof(error), "attempt %u \xc3\xa4", attempt);
        CHECK_OK(suite, fan__suite_retry(suite, &g, &claim, short_ms, error));
        CHECK_EQUAL(suite, CLAIM(suite, &g, 1)->count, 0);
        struct fan__suite_delivery now = fan__suite_delivery_of(suite, &g, seq);
        CHECK_EQUAL(suite, now.delivery.status, FAN_EVENT_PENDING);
        CHECK_EQUAL(suite, now.delivery.attempts, attempt);
        CHECK_TEXT(suite, now.error, error);
        CHECK_TEXT(suite, now.owner, "");
        CHECK(suite, now.delivery.due_us > fan__suite_now_us(suite) - 1000000);
        CHECK_TEXT(suite, fan__suite_state_of(suite, "x").error, error);
        CHECK_EQUAL(suite, fan__suite_state_of(suite, "x").retry_count, attempt - 1);
        fan__suite_pass_ms(suite, short_ms + short_ms / 2);
    }
    struct fan_claim last = fan__suite_claim_one(suite, &g, seq);
    CHECK_OK(suite, fan__suite_retry(suite, &g, &last, 0, NULL));
    last = fan__suite_claim_one(suite, &g, seq);
    CHECK_EQUAL(suite, last.attempt, 5);
    CHECK_OK(suite, fan__suite_settle(suite, &g, &last, FAN_VERDICT_DONE, NULL));
    CHECK_TEXT(suite, fan__suite_state_of(suite, "x").error, "");
    CHECK_EQUAL(suite, fan__suite_state_of(suite, "x").retry_count, 4);
}

static void retries_come_before_the_others(struct fan__suite *suite)
{
    uint64_t seqs[3];
    put_many(suite, 3, seqs);
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    struct fan_claim claim = fan__suite_claim_one(suite, &g, seqs[0]);
    CHECK_OK(suite, fan__suite_retry(suite, &g, &claim, 0, "again"));
    const struct fan__suite_claims *claims = CLAIM(suite, &g, 2);
    CHECK_EQUAL(suite, claims->count, 2);
    CHECK_EQUAL(suite, claims->items[0].seq, seqs[0]);
    CHECK_EQUAL(suite, claims->items[0].attempt, 2);
    CHECK_EQUAL(suite, claims->items[1].seq, seqs[1]);
    CHECK_EQUAL(suite, claims->items[1].attempt, 1);
}

static void retries_do_not_hold_up_others(struct fan__suite *suite)
{
    uint64_t seqs[3];
    put_many(suite, 3, seqs);
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    struct fan_claim claim = fan__suite_claim_one(suite, &g, seqs[0]);
    CHECK_OK(suite, fan__suite_retry(suite, &g, &claim, FAN__SUITE_LONG_MS, "later"));
    const struct fan__suite_claims *claims = CLAIM(suite, &g, 10);
    CHECK_EQUAL(suite, claims->count, 2);
    CHECK_EQUAL(suite, claims->items[0].seq, seqs[1]);
}

static void handed_back_is_not_an_attempt(struct fan__suite *suite)
{
    uint64_t seq = fan__suite_put_simple(suite, "a.b.c", "", "x");
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    for (int i = 0; i < 3; i++) {
        struct fan_claim claim = fan__suite_claim_one(suite, &g, seq);
        CHECK_EQUAL(suite, claim.attempt, 1);
        CHECK_OK(suite, fan__suite_settle(suite, &g, &claim, FAN_VERDICT_HAND_BACK, NULL));
        CHECK_EQUAL(suite, fan__suite_delivery_of(suite, &g, seq).delivery.attempts, 0);
        CHECK_IS(suite, fan__suite_settle(suite, &g, &claim, FAN_VERDICT_DONE, NULL), FAN_LOST);
    }
    struct fan_claim claim = fan__suite_claim_one(suite, &g, seq);
    CHECK_OK(suite, fan__suite_retry(suite, &g, &claim, 0, "broke"));
    claim = fan__suite_claim_one(suite, &g, seq);
    CHECK_EQUAL(suite, claim.attempt, 2);
    CHECK_OK(suite, fan__suite_settle(suite, &g, &claim, FAN_VERDICT_HAND_BACK, NULL));
    CHECK_EQUAL(suite, fan__suite_claim_one(suite, &g, seq).attempt, 2);
}

static void lapsed_claims_go_to_another(struct fan__suite *suite)
{
    uint32_t short_ms = fan__suite_short_ms(suite);
    uint64_t seqs[2];
    put_many(suite, 2, seqs);
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    struct fan__suite_claims *first = fan__suite_claim(suite, &g, "a", 2, short_ms);
    CHECK_EQUAL(suite, first->count, 2);
    CHECK_EQUAL(suite, fan__suite_claim(suite, &g, "b", 2, FAN__SUITE_LONG_MS)->count, 0);
    fan__suite_pass_ms(suite, short_ms + short_ms / 2);
    CHECK_IS(suite, fan__suite_renew(suite, &g, &first->items[0], short_ms), FAN_LOST);
    struct fan__suite_claims *second = fan__suite_claim(suite, &g, "b", 2, FAN__SUITE_LONG_MS);
    CHECK_EQUAL(suite, second->count, 2);
    for (size_t i = 0; i < 2; i++) {
        CHECK_EQUAL(suite, second->items[i].seq, seqs[i]);
        CHECK_EQUAL(suite, second->items[i].attempt, 2);
        CHECK(suite, second->items[i].token != first->items[i].token);
        CHECK_IS(suite, fan__suite_settle(suite, &g, &first->items[i], FAN_VERDICT_DONE, NULL),
                 FAN_LOST);
        CHECK_IS(suite, fan__suite_renew(suite, &g, &first->items[i], short_ms), FAN_LOST);
    }
    struct fan__suite_delivery now = fan__suite_delivery_of(suite, &g, seqs[0]);
    CHECK_EQUAL(suite, now.delivery.status, FAN_EVENT_PROCESSING);
    CHECK_TEXT(suite, now.owner, "b");
    CHECK_OK(suite, fan__suite_settle(suite, &g, &second->items[0], FAN_VERDICT_DONE, NULL));
}

static void late_claims_can_be_settled(struct fan__suite *suite)
{
    uint32_t short_ms = fan__suite_short_ms(suite);
    uint64_t seqs[2];
    put_many(suite, 2, seqs);
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    struct fan__suite_claims *claims = fan__suite_claim(suite, &g, "a", 2, short_ms);
    fan__suite_pass_ms(suite, short_ms + short_ms / 2);
    CHECK_OK(suite, fan__suite_settle(suite, &g, &claims->items[0], FAN_VERDICT_DONE, NULL));
    CHECK_OK(suite, fan__suite_settle(suite, &g, &claims->items[1], FAN_VERDICT_FAIL, "late"));
    CHECK_EQUAL(suite, CLAIM(suite, &g, 10)->count, 0);
    CHECK_EQUAL(suite, fan__suite_delivery_of(suite, &g, seqs[0]).delivery.status,
                FAN_EVENT_COMPLETED);
    CHECK_EQUAL(suite, fan__suite_delivery_of(suite, &g, seqs[1]).delivery.status,
                FAN_EVENT_FAILED);
}

static void renewed_claims_stay(struct fan__suite *suite)
{
    uint32_t short_ms = fan__suite_short_ms(suite);
    uint64_t seq = fan__suite_put_simple(suite, "a.b.c", "", NULL);
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    struct fan__suite_claims *claims = fan__suite_claim(suite, &g, "a", 1, short_ms);
    const struct fan_claim wrong = { .seq = seq, .token = claims->items[0].token + 1 };
    CHECK_IS(suite, fan__suite_renew(suite, &g, &wrong, short_ms), FAN_LOST);
    CHECK_OK(suite, fan__suite_renew(suite, &g, &claims->items[0], FAN__SUITE_LONG_MS));
    fan__suite_pass_ms(suite, short_ms + short_ms / 2);
    CHECK_EQUAL(suite, fan__suite_claim(suite, &g, "b", 1, short_ms)->count, 0);
    /* A renewal may also shorten. */
    CHECK_OK(suite, fan__suite_renew(suite, &g, &claims->items[0], short_ms));
    fan__suite_pass_ms(suite, short_ms + short_ms / 2);
    CHECK_EQUAL(suite, fan__suite_claim(suite, &g, "b", 1, short_ms)->count, 1);
}

static void settles_in_one_commit(struct fan__suite *suite)
{
    uint64_t seqs[5];
    put_many(suite, 5, seqs);
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    const struct fan__suite_claims *claims = CLAIM(suite, &g, 5);
    CHECK_EQUAL(suite, claims->count, 5);
    struct fan_settle items[7] = { { .seq = 0 } };
    for (size_t i = 0; i < 5; i++)
        items[i] = (struct fan_settle){ .seq = seqs[i], .token = claims->items[i].token };
    items[1].verdict = FAN_VERDICT_RETRY;
    items[1].error = "retry";
    items[2].verdict = FAN_VERDICT_FAIL;
    items[2].error = "fail";
    items[3].verdict = FAN_VERDICT_HAND_BACK;
    items[4].token = 0;
    items[5] = items[0];
    items[6] = (struct fan_settle){ .seq = seqs[4] + 1000, .token = 1 };
    CHECK_OK(suite, fan_group_settle(suite->store, &g, items, 7));
    static const enum fan_event_status expected[] = { FAN_EVENT_COMPLETED, FAN_EVENT_PENDING,
                                                      FAN_EVENT_FAILED, FAN_EVENT_PENDING,
                                                      FAN_EVENT_PROCESSING };
    for (size_t i = 0; i < 7; i++)
        CHECK_IS(suite, items[i].ret_status, i < 4 ? FAN_OK : FAN_LOST);
    for (size_t i = 0; i < 5; i++)
        CHECK_EQUAL(suite, fan__suite_delivery_of(suite, &g, seqs[i]).delivery.status, expected[i]);
    struct fan_group_stats stats = fan__suite_group_stats(suite, &g);
    CHECK_EQUAL(suite, stats.completed, 1);
    CHECK_EQUAL(suite, stats.pending, 2);
    CHECK_EQUAL(suite, stats.failed, 1);
    CHECK_EQUAL(suite, stats.processing, 1);
}

static void deliver_at_waits(struct fan__suite *suite)
{
    uint32_t short_ms = fan__suite_short_ms(suite);
    int64_t now_us = fan__suite_now_us(suite);
    const struct fan_event_draft late = { .id = "late",
                                          .deliver_at_us = now_us + short_ms * INT64_C(1000) };
    const struct fan_event_draft past = { .id = "past", .deliver_at_us = now_us - 1000000 };
    fan__suite_create(suite, &g, FAN_START_NOW, NULL);
    uint64_t late_seq = fan__suite_put(suite, fan__suite_event(suite, &late));
    uint64_t past_seq = fan__suite_put(suite, fan__suite_event(suite, &past));
    struct fan__suite_claims *claims = CLAIM(suite, &g, 10);
    CHECK_EQUAL(suite, claims->count, 1);
    CHECK_EQUAL(suite, claims->items[0].seq, past_seq);
    CHECK_EQUAL(suite, fan__suite_state_of(suite, "late").status, FAN_EVENT_PENDING);
    struct fan_read_result result;
    CHECK_OK(suite, fan_store_read(suite->store, 0, NULL, suite->batch, &result));
    CHECK_EQUAL(suite, fan_batch_count(suite->batch), 2);
    fan__suite_pass_ms(suite, short_ms + short_ms / 2);
    claims = CLAIM(suite, &g, 10);
    CHECK_EQUAL(suite, claims->count, 1);
    CHECK_EQUAL(suite, claims->items[0].seq, late_seq);
    CHECK_EQUAL(suite, claims->items[0].attempt, 1);
}

static void deleted_events_are_passed_over(struct fan__suite *suite)
{
    static const char *const ids[] = { "a", "b", "c", "d" };
    uint64_t seqs[4];
    for (size_t i = 0; i < 4; i++)
        seqs[i] = fan__suite_put_simple(suite, "a.b.c", "", ids[i]);
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    struct fan_claim a = fan__suite_claim_one(suite, &g, seqs[0]);
    struct fan_claim b = fan__suite_claim_one(suite, &g, seqs[1]);
    CHECK_OK(suite, fan__suite_retry(suite, &g, &b, 0, "again"));
    CHECK_OK(suite, fan_store_delete(suite->store, "a"));
    CHECK_OK(suite, fan_store_delete(suite->store, "b"));
    CHECK_OK(suite, fan_store_delete(suite->store, "c"));
    CHECK_IS(suite, fan__suite_settle(suite, &g, &a, FAN_VERDICT_DONE, NULL), FAN_LOST);
    const struct fan__suite_claims *claims = CLAIM(suite, &g, 10);
    CHECK_EQUAL(suite, claims->count, 1);
    CHECK_EQUAL(suite, claims->items[0].seq, seqs[3]);
    CHECK(suite, !fan__suite_delivery_of(suite, &g, seqs[0]).found);
    struct fan_group_stats stats = fan__suite_group_stats(suite, &g);
    CHECK_EQUAL(suite, stats.processing, 1);
    CHECK_EQUAL(suite, stats.pending, 0);
}

static void erased_events_are_still_given(struct fan__suite *suite)
{
    uint64_t seq = fan__suite_put_simple(suite, "a.b.c", "", "x");
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    CHECK_OK(suite, fan_store_erase(suite->store, "x"));
    const struct fan__suite_claims *claims = CLAIM(suite, &g, 1);
    CHECK_EQUAL(suite, claims->count, 1);
    CHECK_EQUAL(suite, claims->items[0].seq, seq);
    CHECK_EQUAL(suite, fan_event_payload(fan_batch_event(claims->batch, 0)).size, 4);
}

static void groups_are_deleted_whole(struct fan__suite *suite)
{
    uint64_t seqs[3];
    put_many(suite, 3, seqs);
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    fan__suite_create(suite, &other, FAN_START_BEGINNING, NULL);
    struct fan_claim claim = fan__suite_claim_one(suite, &g, seqs[0]);
    CHECK_OK(suite, fan__suite_settle(suite, &g, &claim, FAN_VERDICT_FAIL, "dead"));
    fan__suite_claim_one(suite, &g, seqs[1]);
    CHECK_EQUAL(suite, fan__suite_stats(suite).failed, 1);
    CHECK_OK(suite, fan_group_delete(suite->store, &g));
    CHECK_IS(suite, fan_group_delete(suite->store, &g), FAN_NOT_FOUND);
    struct fan_store_stats stats = fan__suite_stats(suite);
    CHECK_EQUAL(suite, stats.failed, 0);
    CHECK_EQUAL(suite, stats.pending, 3);
    CHECK_EQUAL(suite, stats.groups, 1);
    CHECK(suite, !fan__suite_delivery_of(suite, &g, seqs[0]).found);
    CHECK_EQUAL(suite, CLAIM(suite, &other, 10)->count, 3);
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    const struct fan__suite_claims *claims = CLAIM(suite, &g, 10);
    CHECK_EQUAL(suite, claims->count, 3);
    CHECK_EQUAL(suite, claims->items[0].attempt, 1);
}

static void claims_are_bounded_in_bytes(struct fan__suite *suite)
{
    enum { COUNT = 8 };
    char *large = fan__suite_alloc(suite, FAN_PAYLOAD_SIZE_MAX, 1);
    const struct fan_event_draft draft = { .content_type = "application/octet-stream",
                                           .payload = { large, 600000 } };
    for (int i = 0; i < COUNT; i++)
        fan__suite_put(suite, fan__suite_event(suite, &draft));
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    for (size_t seen = 0; seen < COUNT;) {
        const struct fan__suite_claims *claims = CLAIM(suite, &g, 100);
        CHECK(suite, claims->count > 0);
        CHECK(suite, fan_batch_size(claims->batch) <= 2 * FAN_PAYLOAD_SIZE_MAX + 4096);
        seen += claims->count;
    }
}

static void names_of_any_kind(struct fan__suite *suite)
{
    static const struct fan_group_name names[] = {
        { "g", "h" },   { "g", "" },    { "g", "H" },       { "G", "h" },
        { "gh", "" },   { "g:h", "" },  { "g", "h%" },      { "g'--", "\"" },
        { "g h", "x" }, { "g", "h:x" }, { "\xc3\xa4", "" }, { "g.h", ">" },
    };
    enum { COUNT = sizeof(names) / sizeof(*names) };
    uint64_t seq = fan__suite_put_simple(suite, "a.b.c", "", NULL);
    for (size_t i = 0; i < COUNT; i++)
        fan__suite_create(suite, &names[i], FAN_START_BEGINNING, NULL);
    for (size_t i = 0; i < COUNT; i++) {
        struct fan_claim claim = fan__suite_claim_one(suite, &names[i], seq);
        CHECK_OK(suite, fan__suite_settle(suite, &names[i], &claim, FAN_VERDICT_DONE, NULL));
        CHECK_EQUAL(suite, fan__suite_stats(suite).completed, i + 1 == COUNT);
    }
    CHECK_EQUAL(suite, fan__suite_stats(suite).groups, COUNT);
}

const struct fan__suite_behaviour fan__suite_group[] = {
    { "P05_groups_begin_at_the_beginning_now_or_a_cursor", groups_begin, 0 },
    { "P05_creating_again_keeps_the_place_and_changes_the_pattern", create_again_keeps_the_place,
      0 },
    { "P05_unknown_groups_are_not_found", unknown_groups, 0 },
    { "H02_claims_by_pattern_and_topic", claims_by_pattern_and_topic, 0 },
    { "P05_claims_keep_to_their_limit", claims_are_limited, 0 },
    { "P09_two_groups_and_handlers_see_everything_each", two_groups_see_everything, 0 },
    { "P04_done_is_done", done_is_done, 0 },
    { "H03_retries_wait_for_their_delay", retries_wait, 0 },
    { "P05_retries_come_before_what_is_new", retries_come_before_the_others, 0 },
    { "H04_retries_do_not_hold_up_others", retries_do_not_hold_up_others, 0 },
    { "H09_what_is_handed_back_was_no_attempt", handed_back_is_not_an_attempt, 0 },
    { "P09_lapsed_claims_go_to_another_member", lapsed_claims_go_to_another, 0 },
    { "P09_a_lapsed_claim_can_be_settled_until_taken", late_claims_can_be_settled, 0 },
    { "P09_renewed_claims_stay", renewed_claims_stay, 0 },
    { "P05_settles_many_and_answers_each", settles_in_one_commit, 0 },
    { "H04_events_wait_for_deliver_at_in_groups_only", deliver_at_waits, 0 },
    { "P05_deleted_events_are_passed_over", deleted_events_are_passed_over, 0 },
    { "P05_erased_events_are_still_owed", erased_events_are_still_given, 0 },
    { "P05_groups_are_deleted_with_their_deliveries", groups_are_deleted_whole, 0 },
    { "L12_claims_are_bounded_in_bytes", claims_are_bounded_in_bytes, 0 },
    { "P05_group_and_handler_names_of_any_kind", names_of_any_kind, 0 },
    { .name = NULL },
};
