/* What goes, what stays, and who is told, when a log is trimmed. */
#include "store/suite/suite.h"

#include <fanfare/keep.h>

#include <stdio.h>
#include <string.h>

#define DAY_MS ((uint32_t)86400 * 1000)
#define DAY_US ((int64_t)86400 * 1000000)
#define PASS_CALLS_MAX 100000

static const struct fan_group_name g = { .group = "g", .handler = "h" };

/* Calls until there is no more; gives the sums. Skips where there is no retention. */
static struct fan_retained retain(struct fan__suite *suite, const struct fan_retention *retention)
{
    struct fan_retention asked = *retention;
    asked.size = FAN_RETENTION_SIZE;
    struct fan_retained sum = { .size = sizeof(sum) };
    for (size_t calls = 0;; calls++) {
        struct fan_retained one = { .size = sizeof(one) };
        struct fan_error error = FAN_ERROR_INIT;
        enum fan_status status = fan_store_retain(suite->store, &asked, &one, &error);
        if (status == FAN_UNSUPPORTED)
            fan__suite_skip(suite, "the provider has no retention");
        if (status != FAN_OK)
            fan__suite_fail(suite, __FILE__, __LINE__, "retain gave %s: %s",
                            fan_status_name(status), error.message);
        CHECK_EQUAL(suite, one.size, sizeof(one));
        CHECK(suite, one.groups_expired <= 1);
        CHECK(suite, one.trimmed_seq >= sum.trimmed_seq);
        CHECK(suite, calls < PASS_CALLS_MAX);
        sum.removed += one.removed;
        sum.expired += one.expired;
        sum.discarded += one.discarded;
        sum.groups_expired += one.groups_expired;
        sum.trimmed_seq = one.trimmed_seq;
        if (!one.more)
            return sum;
    }
}

static void put_many(struct fan__suite *suite, size_t count, uint64_t *ret_seqs)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t seq = fan__suite_put_simple(suite, "a.b.c", "", NULL);
        if (ret_seqs)
            ret_seqs[i] = seq;
    }
}

static struct fan_read_result read_all(struct fan__suite *suite, uint64_t after_seq)
{
    struct fan_query query = { .size = FAN_QUERY_SIZE, .limit = 5000 };
    struct fan_read_result result;
    CHECK_OK(suite, fan_store_read(suite->store, after_seq, &query, suite->batch, &result));
    return result;
}

/* Reads everything; it must be these. */
static void check_left(struct fan__suite *suite, const uint64_t *seqs, size_t count)
{
    read_all(suite, 0);
    CHECK_EQUAL(suite, fan_batch_count(suite->batch), count);
    for (size_t i = 0; i < count; i++)
        CHECK_EQUAL(suite, fan_event_seq(fan_batch_event(suite->batch, i)), seqs[i]);
    CHECK_EQUAL(suite, fan__suite_stats(suite).events, count);
    CHECK_EQUAL(suite, fan__suite_count(suite), count);
}

static void by_age(struct fan__suite *suite)
{
    uint64_t seqs[8];
    put_many(suite, 5, seqs);
    CHECK_EQUAL(suite, retain(suite, &(struct fan_retention){ .age_ms = DAY_MS }).removed, 0);
    fan__suite_pass_ms(suite, DAY_MS / 2);
    put_many(suite, 3, seqs + 5);
    fan__suite_pass_ms(suite, DAY_MS / 2 + 60000);
    struct fan_retained retained = retain(suite, &(struct fan_retention){ .age_ms = DAY_MS });
    CHECK_EQUAL(suite, retained.removed, 5);
    CHECK_EQUAL(suite, retained.trimmed_seq, seqs[4]);
    check_left(suite, seqs + 5, 3);
    CHECK_EQUAL(suite, fan__suite_head(suite), seqs[7]);
    /* An age is the time in the log, not what the event says of itself. */
    const struct fan_event_draft old = { .created_us = 1000000, .id = "old" };
    uint64_t seq = fan__suite_put(suite, fan__suite_event(suite, &old));
    CHECK_EQUAL(suite, retain(suite, &(struct fan_retention){ .age_ms = DAY_MS }).removed, 0);
    fan__suite_pass_ms(suite, 2 * DAY_MS);
    CHECK_EQUAL(suite, retain(suite, &(struct fan_retention){ .age_ms = DAY_MS }).removed, 4);
    check_left(suite, NULL, 0);
    /* The head stays where it was, and sequences go on. */
    CHECK_EQUAL(suite, fan__suite_head(suite), seq);
    CHECK(suite, fan__suite_put_simple(suite, "a.b.c", "", NULL) > seq);
}

/* A duplicate stores nothing: what comes right after it is as young as it is. */
static void by_age_after_a_duplicate(struct fan__suite *suite)
{
    const struct fan_event *event = fan__suite_simple(suite, "a.b.c", "", "old");
    uint64_t first_seq = fan__suite_put(suite, event);
    fan__suite_pass_ms(suite, DAY_MS);
    CHECK_EQUAL(suite, fan__suite_try(suite, event, NULL).ret_seq, first_seq);
    uint64_t seq = fan__suite_put_simple(suite, "a.b.c", "", NULL);
    CHECK_EQUAL(suite, retain(suite, &(struct fan_retention){ .age_ms = DAY_MS / 2 }).removed, 1);
    check_left(suite, &seq, 1);
    fan__suite_pass_ms(suite, DAY_MS);
    CHECK_EQUAL(suite, retain(suite, &(struct fan_retention){ .age_ms = DAY_MS / 2 }).removed, 1);
    check_left(suite, NULL, 0);
}

static void by_count(struct fan__suite *suite)
{
    uint64_t seqs[20];
    put_many(suite, 20, seqs);
    CHECK_EQUAL(suite, retain(suite, &(struct fan_retention){ .count = 20 }).removed, 0);
    CHECK_OK(suite,
             fan_store_delete(suite->store, fan_event_id(suite->events[suite->event_count - 1])));
    CHECK_EQUAL(suite, retain(suite, &(struct fan_retention){ .count = 19 }).removed, 0);
    struct fan_retained retained = retain(suite, &(struct fan_retention){ .count = 7 });
    CHECK_EQUAL(suite, retained.removed, 12);
    CHECK_EQUAL(suite, retained.trimmed_seq, seqs[11]);
    check_left(suite, seqs + 12, 7);
    CHECK_EQUAL(suite, retain(suite, &(struct fan_retention){ .count = 7 }).removed, 0);
    CHECK_EQUAL(suite, retain(suite, &(struct fan_retention){ .count = 0 }).removed, 0);
}

/* Exact to a mark of time, that is, a second's worth. */
static void by_bytes(struct fan__suite *suite)
{
    uint64_t seqs[40];
    char payload[10003];
    memset(payload, 'x', sizeof(payload));
    payload[0] = payload[10001] = '"';
    for (size_t i = 0; i < 40; i++) {
        const struct fan_event_draft draft = { .payload = { payload, 10002 } };
        seqs[i] = fan__suite_put(suite, fan__suite_event(suite, &draft));
        fan__suite_pass_ms(suite, 2000);
    }
    CHECK_EQUAL(suite, retain(suite, &(struct fan_retention){ .bytes = 1000000 }).removed, 0);
    struct fan_retained retained = retain(suite, &(struct fan_retention){ .bytes = 205000 });
    CHECK(suite, retained.removed >= 19 && retained.removed <= 22);
    check_left(suite, seqs + retained.removed, 40 - retained.removed);
    CHECK_EQUAL(suite, retain(suite, &(struct fan_retention){ .bytes = 205000 }).removed, 0);
}

static void what_is_owed_stays(struct fan__suite *suite)
{
    uint64_t seqs[8];
    put_many(suite, 8, seqs);
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    struct fan_claim claims[5];
    for (size_t i = 0; i < 5; i++)
        claims[i] = fan__suite_claim_one(suite, &g, seqs[i]);
    CHECK_OK(suite, fan__suite_settle(suite, &g, &claims[0], FAN_VERDICT_DONE, NULL));
    CHECK_OK(suite, fan__suite_settle(suite, &g, &claims[1], FAN_VERDICT_FAIL, "dead"));
    CHECK_OK(suite, fan__suite_retry(suite, &g, &claims[2], 1000, "again"));
    CHECK_OK(suite, fan__suite_settle(suite, &g, &claims[4], FAN_VERDICT_DONE, NULL));
    const struct fan_retention all = { .age_ms = DAY_MS, .count = 1, .bytes = 1 };
    fan__suite_pass_ms(suite, 10 * DAY_MS);
    struct fan_retained retained = retain(suite, &all);
    CHECK_EQUAL(suite, retained.removed, 2);
    CHECK_EQUAL(suite, retained.expired + retained.discarded + retained.groups_expired, 0);
    /* Dead, waiting, held (its lease is over), and not yet come to. */
    const uint64_t left[] = { seqs[1], seqs[2], seqs[3], seqs[5], seqs[6], seqs[7] };
    check_left(suite, left, 6);
    struct fan_store_stats stats = fan__suite_stats(suite);
    CHECK_EQUAL(suite, stats.failed, 1);
    CHECK_EQUAL(suite, stats.pending, 5);
    CHECK_EQUAL(suite, fan__suite_group_stats(suite, &g).completed, 0);
    const struct fan__suite_claims *rest =
        fan__suite_claim(suite, &g, "me", 10, FAN__SUITE_LONG_MS);
    CHECK_EQUAL(suite, rest->count, 5);
    for (size_t i = 0; i < 5; i++)
        CHECK_OK(suite, fan__suite_settle(suite, &g, &rest->items[i], FAN_VERDICT_DONE, NULL));
    CHECK_EQUAL(suite, retain(suite, &all).removed, 5);
    check_left(suite, &seqs[1], 1);
    CHECK_OK(suite, fan_group_move(suite->store, &g, seqs[1], FAN_EVENT_PENDING));
    CHECK_EQUAL(suite, retain(suite, &all).removed, 0);
    CHECK_OK(suite, fan_group_move(suite->store, &g, seqs[1], FAN_EVENT_COMPLETED));
    CHECK_EQUAL(suite, retain(suite, &all).removed, 1);
    check_left(suite, NULL, 0);
    CHECK_EQUAL(suite, fan__suite_group_stats(suite, &g).completed, 0);
}

/* A group wants what its filter says, and no more is kept for it. */
static void what_nobody_wants_goes(struct fan__suite *suite)
{
    uint64_t seqs[6];
    for (size_t i = 0; i < 6; i++)
        seqs[i] = fan__suite_put_simple(suite, i % 2 ? "x.y.z" : "a.b.c", i < 3 ? "t" : "u", NULL);
    fan__suite_create(suite, &g, FAN_START_BEGINNING, "x.>");
    const struct fan_group_name other = { .group = "other", .handler = "" };
    const struct fan_group_options options = { .size = FAN_GROUP_OPTIONS_SIZE,
                                               .topic = "u",
                                               .start = FAN_START_CURSOR,
                                               .start_seq = seqs[3] };
    CHECK_OK(suite, fan_group_create(suite->store, &other, &options, NULL));
    fan__suite_pass_ms(suite, 2 * DAY_MS);
    CHECK_EQUAL(suite, retain(suite, &(struct fan_retention){ .age_ms = DAY_MS }).removed, 2);
    const uint64_t left[] = { seqs[1], seqs[3], seqs[4], seqs[5] };
    check_left(suite, left, 4);
}

static void check_expired(struct fan__suite *suite, uint64_t seq, unsigned attempts)
{
    struct fan__suite_delivery dead = fan__suite_delivery_of(suite, &g, seq);
    CHECK(suite, dead.found);
    CHECK_EQUAL(suite, dead.delivery.status, FAN_EVENT_FAILED);
    CHECK_EQUAL(suite, dead.delivery.reason, FAN_DEAD_EXPIRED);
    CHECK_EQUAL(suite, dead.delivery.attempts, attempts);
    CHECK(suite, dead.delivery.completed_us > 0);
    CHECK(suite, strstr(dead.error, "3 d") != NULL);
}

static void owed_too_long_is_dead(struct fan__suite *suite)
{
    uint64_t seqs[6];
    put_many(suite, 4, seqs);
    const struct fan_event_draft later = { .deliver_at_us = fan__suite_now_us(suite) + 2 * DAY_US };
    seqs[4] = fan__suite_put(suite, fan__suite_event(suite, &later));
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    struct fan_claim claims[2];
    for (size_t i = 0; i < 2; i++)
        claims[i] = fan__suite_claim_one(suite, &g, seqs[i]);
    CHECK_OK(suite, fan__suite_retry(suite, &g, &claims[0], 1000, "again"));
    CHECK_OK(suite, fan__suite_renew(suite, &g, &claims[1], 4 * DAY_MS));
    const struct fan_retention owed = { .owed_age_ms = 3 * (uint64_t)DAY_MS };
    fan__suite_pass_ms(suite, DAY_MS);
    seqs[5] = fan__suite_put_simple(suite, "a.b.c", "", NULL);
    CHECK_EQUAL(suite, retain(suite, &owed).expired, 0);
    fan__suite_pass_ms(suite, 2 * DAY_MS + 60000);
    struct fan_retained retained = retain(suite, &owed);
    CHECK_EQUAL(suite, retained.expired, 3);
    CHECK_EQUAL(suite, retained.removed, 0);
    check_left(suite, seqs, 6);
    check_expired(suite, seqs[0], 1);
    check_expired(suite, seqs[2], 0);
    check_expired(suite, seqs[3], 0);
    /* The one that is held is its holder's; two are not owed for that long yet. */
    CHECK_EQUAL(suite, fan__suite_delivery_of(suite, &g, seqs[1]).delivery.status,
                FAN_EVENT_PROCESSING);
    struct fan_group_stats stats = fan__suite_group_stats(suite, &g);
    CHECK_EQUAL(suite, stats.failed, 3);
    CHECK_EQUAL(suite, stats.processing, 1);
    CHECK_EQUAL(suite, stats.pending, 2);
    CHECK_EQUAL(suite, fan__suite_stats(suite).failed, 3);
    CHECK_EQUAL(suite, fan__suite_stats(suite).pending, 2);
    CHECK_EQUAL(suite, retain(suite, &owed).expired, 0);
    /* A dead letter can be redriven like any other, and is then owed anew. */
    CHECK_OK(suite, fan_group_move(suite->store, &g, seqs[2], FAN_EVENT_PENDING));
    const struct fan__suite_claims *rest =
        fan__suite_claim(suite, &g, "me", 10, FAN__SUITE_LONG_MS);
    CHECK_EQUAL(suite, rest->count, 3);
    for (size_t i = 0; i < 3; i++)
        CHECK_OK(suite, fan__suite_settle(suite, &g, &rest->items[i], FAN_VERDICT_DONE, NULL));
    CHECK_OK(suite, fan__suite_settle(suite, &g, &claims[1], FAN_VERDICT_DONE, NULL));
    CHECK_EQUAL(suite, fan__suite_stats(suite).completed, 4);
}

static void dead_letters_go_in_time(struct fan__suite *suite)
{
    uint64_t seqs[3];
    put_many(suite, 3, seqs);
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    for (size_t i = 0; i < 3; i++) {
        struct fan_claim claim = fan__suite_claim_one(suite, &g, seqs[i]);
        CHECK_OK(suite, fan__suite_settle(suite, &g, &claim, FAN_VERDICT_FAIL, "no"));
        fan__suite_pass_ms(suite, DAY_MS);
    }
    /* They are dead for three days, two and one, and what the test took. */
    const struct fan_retention dead = { .age_ms = 1000, .dead_age_ms = 5 * (uint64_t)DAY_MS / 2 };
    struct fan_retained retained = retain(suite, &dead);
    CHECK_EQUAL(suite, retained.discarded, 1);
    CHECK_EQUAL(suite, retained.removed, 1);
    check_left(suite, seqs + 1, 2);
    CHECK_EQUAL(suite, retain(suite, &(struct fan_retention){ .age_ms = 1000 }).removed, 0);
    fan__suite_pass_ms(suite, 5 * DAY_MS);
    retained = retain(suite, &dead);
    CHECK_EQUAL(suite, retained.discarded, 2);
    CHECK_EQUAL(suite, retained.removed, 2);
    check_left(suite, NULL, 0);
    CHECK_EQUAL(suite, fan__suite_group_stats(suite, &g).failed, 0);
    CHECK_EQUAL(suite, fan__suite_group_stats(suite, &g).completed, 0);
}

static void groups_that_nobody_joins_go(struct fan__suite *suite)
{
    uint64_t seqs[3];
    put_many(suite, 3, seqs);
    static const struct fan_group_name names[] = {
        { .group = "left", .handler = "one" },
        { .group = "left", .handler = "two" },
        { .group = "served", .handler = "" },
        { .group = "held", .handler = "" },
    };
    for (size_t i = 0; i < 4; i++)
        fan__suite_create(suite, &names[i], FAN_START_BEGINNING, NULL);
    struct fan_claim held = fan__suite_claim_one(suite, &names[3], seqs[0]);
    CHECK_OK(suite, fan__suite_renew(suite, &names[3], &held, 20 * DAY_MS));
    struct fan_retention groups = { .size = FAN_RETENTION_SIZE,
                                    .age_ms = 1000,
                                    .group_age_ms = 7 * (uint64_t)DAY_MS };
    fan__suite_pass_ms(suite, 6 * DAY_MS);
    CHECK_EQUAL(suite, retain(suite, &groups).groups_expired, 0);
    const struct fan__suite_claims *claims =
        fan__suite_claim(suite, &names[2], "me", 10, FAN__SUITE_LONG_MS);
    CHECK_EQUAL(suite, claims->count, 3);
    for (size_t i = 0; i < 3; i++)
        CHECK_OK(suite,
                 fan__suite_settle(suite, &names[2], &claims->items[i], FAN_VERDICT_DONE, NULL));
    fan__suite_pass_ms(suite, 2 * DAY_MS);
    for (size_t i = 0; i < 2; i++) {
        struct fan_retained one = { .size = sizeof(one) };
        CHECK_OK(suite, fan_store_retain(suite->store, &groups, &one, NULL));
        CHECK_EQUAL(suite, one.groups_expired, 1);
        CHECK(suite, one.more);
        CHECK_TEXT(suite, one.group, "left");
        CHECK_TEXT(suite, one.handler, i == 0 ? "one" : "two");
    }
    struct fan_retained rest = retain(suite, &groups);
    CHECK_EQUAL(suite, rest.groups_expired, 0);
    CHECK_EQUAL(suite, rest.removed, 0);
    CHECK_IS(suite, fan_group_delete(suite->store, &names[0]), FAN_NOT_FOUND);
    CHECK_EQUAL(suite, fan__suite_stats(suite).groups, 2);
    CHECK_OK(suite, fan_group_delete(suite->store, &names[3]));
    CHECK_EQUAL(suite, retain(suite, &groups).removed, 3);
}

/* Asking often and in vain keeps a group, also at the least age. */
static void groups_that_ask_in_vain_stay(struct fan__suite *suite)
{
    static const struct fan_group_name idle = { .group = "idle", .handler = "" };
    struct fan_retention groups = { .size = FAN_RETENTION_SIZE,
                                    .group_age_ms = FAN_GROUP_AGE_MS_MIN };
    fan__suite_create(suite, &idle, FAN_START_NOW, NULL);
    for (int i = 0; i < 20; i++) {
        fan__suite_pass_ms(suite, FAN_GROUP_AGE_MS_MIN / 4);
        CHECK_EQUAL(suite, fan__suite_claim(suite, &idle, "me", 1, 1000)->count, 0);
        fan__suite_pass_ms(suite, FAN_GROUP_AGE_MS_MIN / 8);
        CHECK_EQUAL(suite, retain(suite, &groups).groups_expired, 0);
    }
    fan__suite_pass_ms(suite, 2 * FAN_GROUP_AGE_MS_MIN);
    CHECK_EQUAL(suite, retain(suite, &groups).groups_expired, 1);
}

/* Who joins again, renews or settles keeps a group as who asks does. */
static void groups_that_are_worked_on_stay(struct fan__suite *suite)
{
    struct fan_retention groups = { .size = FAN_RETENTION_SIZE,
                                    .group_age_ms = FAN_GROUP_AGE_MS_MIN };
    const struct fan_group_options again = { .size = FAN_GROUP_OPTIONS_SIZE };
    uint64_t seq = fan__suite_put_simple(suite, "a.b.c", "", NULL);
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    fan__suite_pass_ms(suite, 2 * FAN_GROUP_AGE_MS_MIN);
    CHECK_IS(suite, fan_group_create(suite->store, &g, &again, NULL), FAN_EXISTS);
    CHECK_EQUAL(suite, retain(suite, &groups).groups_expired, 0);
    struct fan_claim claim = fan__suite_claim_one(suite, &g, seq);
    for (int i = 0; i < 10; i++) {
        CHECK_OK(suite, fan__suite_renew(suite, &g, &claim, FAN_GROUP_AGE_MS_MIN));
        fan__suite_pass_ms(suite, FAN_GROUP_AGE_MS_MIN - 1000);
        CHECK_EQUAL(suite, retain(suite, &groups).groups_expired, 0);
    }
    CHECK_OK(suite, fan__suite_renew(suite, &g, &claim, FAN_GROUP_AGE_MS_MIN / 4));
    fan__suite_pass_ms(suite, FAN_GROUP_AGE_MS_MIN / 2 - 1000);
    CHECK_EQUAL(suite, retain(suite, &groups).groups_expired, 0); /* it lapsed, but just now */
    fan__suite_pass_ms(suite, FAN_GROUP_AGE_MS_MIN / 2);
    CHECK_OK(suite, fan__suite_settle(suite, &g, &claim, FAN_VERDICT_HAND_BACK, NULL));
    fan__suite_pass_ms(suite, FAN_GROUP_AGE_MS_MIN / 2 - 1000);
    CHECK_EQUAL(suite, retain(suite, &groups).groups_expired, 0);
    fan__suite_pass_ms(suite, FAN_GROUP_AGE_MS_MIN);
    CHECK_EQUAL(suite, retain(suite, &groups).groups_expired, 1);
}

static void a_call_is_bounded(struct fan__suite *suite)
{
    uint64_t seqs[50];
    put_many(suite, 50, seqs);
    fan__suite_pass_ms(suite, 2 * DAY_MS);
    const struct fan_retention slice = { .size = FAN_RETENTION_SIZE, .age_ms = DAY_MS, .limit = 7 };
    CHECK_EQUAL(suite, retain(suite, &(struct fan_retention){ .count = 50 }).removed, 0);
    uint64_t removed = 0;
    for (size_t calls = 1;; calls++) {
        struct fan_retained one = { .size = sizeof(one) };
        CHECK_OK(suite, fan_store_retain(suite->store, &slice, &one, NULL));
        CHECK(suite, one.removed <= 7);
        removed += one.removed;
        CHECK_EQUAL(suite, one.trimmed_seq, removed > 0 ? seqs[removed - 1] : 0);
        CHECK(suite, calls < 50);
        if (!one.more)
            break;
        /* Others get their turn in between. */
        put_many(suite, 1, NULL);
    }
    CHECK_EQUAL(suite, removed, 50);
    /* What is kept is looked at once in a pass, not again and again. */
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    fan__suite_pass_ms(suite, 2 * DAY_MS);
    CHECK_EQUAL(suite, retain(suite, &slice).removed, 0);
}

static void readers_are_told(struct fan__suite *suite)
{
    uint64_t seqs[10];
    put_many(suite, 10, seqs);
    CHECK_EQUAL(suite, read_all(suite, 0).trimmed_seq, 0);
    struct fan_retained retained = retain(suite, &(struct fan_retention){ .count = 4 });
    CHECK_EQUAL(suite, retained.trimmed_seq, seqs[5]);
    struct fan_read_result result = read_all(suite, seqs[2]);
    CHECK_EQUAL(suite, result.trimmed_seq, seqs[5]);
    CHECK_EQUAL(suite, result.head_seq, seqs[9]);
    CHECK_EQUAL(suite, fan_batch_count(suite->batch), 4);
    CHECK_EQUAL(suite, fan__suite_stats(suite).first_seq, seqs[6]);
    CHECK_EQUAL(suite, retain(suite, &(struct fan_retention){ .count = 1 }).trimmed_seq, seqs[8]);
    CHECK_EQUAL(suite, read_all(suite, seqs[9]).trimmed_seq, seqs[8]);
}

static void ids_are_forgotten_with_their_events(struct fan__suite *suite)
{
    uint64_t first = fan__suite_put_simple(suite, "a.b.c", "key", "one");
    uint64_t second = fan__suite_put_simple(suite, "a.b.c", "key", "two");
    const struct fan_event *again = fan__suite_simple(suite, "a.b.c", "key", "two");
    CHECK_EQUAL(suite, retain(suite, &(struct fan_retention){ .count = 1 }).removed, 1);
    struct fan_append known = fan__suite_try(suite, again, NULL);
    CHECK(suite, known.ret_duplicate && known.ret_seq == second);
    uint64_t anew = fan__suite_put_simple(suite, "a.b.c", "key", "one");
    CHECK(suite, first < second && second < anew);
    /* A key's last sequence is that of what is retained. */
    CHECK_EQUAL(suite, retain(suite, &(struct fan_retention){ .bytes = 1 }).removed, 2);
    const struct fan_expectation wrong = { .size = sizeof(wrong), .key = "key", .last_seq = anew };
    const struct fan_expectation none = { .size = sizeof(none), .key = "key" };
    const struct fan_event *next = fan__suite_simple(suite, "a.b.c", "key", "three");
    CHECK_IS(suite, fan__suite_try(suite, next, &wrong).ret_status, FAN_CONFLICT);
    CHECK_IS(suite, fan__suite_try(suite, next, &none).ret_status, FAN_OK);
}

/* In an ordered group what has expired is settled: the key goes on with its next. */
static void an_expired_key_goes_on(struct fan__suite *suite)
{
    uint64_t seqs[3];
    const struct fan_claim_options ordered = {
        .size = FAN_CLAIM_OPTIONS_SIZE, .owner = "a", .limit = 10, .lease_ms = 1000, .ordered = true
    };
    seqs[0] = fan__suite_put_simple(suite, "a.b.c", "k", NULL);
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    struct fan__suite_claims *claims = fan__suite_alloc(suite, 1, sizeof(*claims));
    claims->batch = fan__suite_batch(suite);
    CHECK_OK(suite, fan__suite_claim_into(suite, &g, &ordered, claims));
    seqs[1] = fan__suite_put_simple(suite, "a.b.c", "k", NULL);
    CHECK_IS(suite, fan__suite_claim_into(suite, &g, &ordered, claims), FAN_AGAIN);
    fan__suite_pass_ms(suite, DAY_MS);
    seqs[2] = fan__suite_put_simple(suite, "a.b.c", "k", NULL);
    fan__suite_pass_ms(suite, DAY_MS);
    const struct fan_retention owed = { .owed_age_ms = DAY_MS + DAY_MS / 2 };
    CHECK_EQUAL(suite, retain(suite, &owed).expired, 2);
    CHECK_OK(suite, fan__suite_claim_into(suite, &g, &ordered, claims));
    CHECK_EQUAL(suite, claims->count, 1);
    CHECK_EQUAL(suite, claims->items[0].seq, seqs[2]);
    CHECK_OK(suite, fan__suite_settle(suite, &g, &claims->items[0], FAN_VERDICT_DONE, NULL));
    /* Redriven ones come back in their order. */
    CHECK_OK(suite, fan_group_move(suite->store, &g, seqs[1], FAN_EVENT_PENDING));
    CHECK_OK(suite, fan_group_move(suite->store, &g, seqs[0], FAN_EVENT_PENDING));
    CHECK_OK(suite, fan__suite_claim_into(suite, &g, &ordered, claims));
    CHECK_EQUAL(suite, claims->items[0].seq, seqs[0]);
}

/*
 * Redriven before the group came to it, an event waits for the older ones of its key all the same.
 */
static void redriven_ahead_waits_for_its_key(struct fan__suite *suite)
{
    const struct fan_claim_options ordered = {
        .size = FAN_CLAIM_OPTIONS_SIZE, .owner = "a", .limit = 10, .lease_ms = 1000, .ordered = true
    };
    const struct fan_retention owed = { .owed_age_ms = DAY_MS };
    int64_t at_us = fan__suite_now_us(suite) + 3 * DAY_US;
    const struct fan_event_draft late = { .type = "a.b.c", .topic = "k", .deliver_at_us = at_us };
    struct fan__suite_claims *claims = fan__suite_alloc(suite, 1, sizeof(*claims));
    claims->batch = fan__suite_batch(suite);
    uint64_t first = fan__suite_put(suite, fan__suite_event(suite, &late));
    uint64_t second = fan__suite_put_simple(suite, "a.b.c", "k", NULL);
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    fan__suite_pass_ms(suite, 2 * DAY_MS);
    CHECK_EQUAL(suite, retain(suite, &owed).expired, 1);
    CHECK_OK(suite, fan_group_move(suite->store, &g, second, FAN_EVENT_PENDING));
    CHECK_IS(suite, fan__suite_claim_into(suite, &g, &ordered, claims), FAN_AGAIN);
    fan__suite_pass_ms(suite, 2 * DAY_MS);
    CHECK_OK(suite, fan__suite_claim_into(suite, &g, &ordered, claims));
    CHECK_EQUAL(suite, claims->count, 1);
    CHECK_EQUAL(suite, claims->items[0].seq, first);
    CHECK_OK(suite, fan__suite_settle(suite, &g, &claims->items[0], FAN_VERDICT_DONE, NULL));
    CHECK_OK(suite, fan__suite_claim_into(suite, &g, &ordered, claims));
    CHECK_EQUAL(suite, claims->items[0].seq, second);
}

static void a_jump_is_refused(struct fan__suite *suite)
{
    static const int64_t jumps_us[] = { 10 * DAY_US, -10 * DAY_US };
    struct fan_retention retention = { .size = FAN_RETENTION_SIZE,
                                       .age_ms = 5 * (uint64_t)DAY_MS,
                                       .owed_age_ms = 5 * (uint64_t)DAY_MS,
                                       .group_age_ms = 5 * (uint64_t)DAY_MS };
    put_many(suite, 3, NULL);
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    retain(suite, &retention);
    for (size_t i = 0; i < 2; i++) {
        fan__suite_set_wall(suite, jumps_us[i]);
        struct fan_retained one = { .size = sizeof(one) };
        struct fan_error error = FAN_ERROR_INIT;
        CHECK_IS(suite, fan_store_retain(suite->store, &retention, &one, &error), FAN_CONFLICT);
        CHECK(suite, strstr(error.message, "clock") != NULL);
        CHECK_OK(suite, fan_store_accept_clock(suite->store, &error));
        /* What was young before is young now. */
        struct fan_retained retained = retain(suite, &retention);
        CHECK_EQUAL(suite, retained.removed + retained.expired + retained.groups_expired, 0);
        CHECK_EQUAL(suite, fan__suite_stats(suite).pending, 3);
    }
    /* A little is no jump. */
    fan__suite_set_wall(suite, jumps_us[1] + DAY_US / 2);
    retain(suite, &retention);
    fan__suite_pass_ms(suite, 6 * DAY_MS);
    CHECK_EQUAL(suite, retain(suite, &retention).groups_expired, 1);
}

static const int64_t accepted_us[] = { -10 * DAY_US, 10 * DAY_US };

static void accept(struct fan__suite *suite, struct fan_store *store, int64_t by_us)
{
    struct fan_error error = FAN_ERROR_INIT;
    fan__suite_set_wall(suite, by_us);
    CHECK_OK(suite, fan_store_accept_clock(store, &error));
}

static void check_ages_after(struct fan__suite *suite, struct fan_store *accepting)
{
    const struct fan_retention half_a_day = { .age_ms = DAY_MS / 2 };
    retain(suite, &half_a_day);
    for (size_t i = 0; i < 2; i++) {
        put_many(suite, 1, NULL);
        accept(suite, accepting, accepted_us[i]);
        uint64_t seqs[2];
        put_many(suite, 1, &seqs[0]);
        CHECK_EQUAL(suite, retain(suite, &half_a_day).removed, 0);
        fan__suite_pass_ms(suite, DAY_MS);
        put_many(suite, 1, &seqs[1]);
        CHECK_EQUAL(suite, retain(suite, &half_a_day).removed, 2);
        check_left(suite, &seqs[1], 1);
        fan__suite_pass_ms(suite, DAY_MS);
        CHECK_EQUAL(suite, retain(suite, &half_a_day).removed, 1);
    }
}

/* What is stored after the clock was set and accepted is as young as it is. */
static void by_age_of_an_accepted_clock(struct fan__suite *suite)
{
    check_ages_after(suite, suite->store);
}

static void by_age_of_a_clock_that_another_accepted(struct fan__suite *suite)
{
    fan__suite_open_second(suite);
    check_ages_after(suite, suite->second);
}

/* Where there is nothing that could move, it is accepted for good all the same. */
static void an_empty_log_keeps_the_accepted_clock(struct fan__suite *suite)
{
    const struct fan_retention half_a_day = { .age_ms = DAY_MS / 2 };
    uint64_t fence = 0;
    retain(suite, &half_a_day);
    CHECK_OK(suite, fan_lease_acquire(suite->store, "l", "me", 1000, &fence));
    CHECK_OK(suite, fan_lease_release(suite->store, "l", "me", fence));
    accept(suite, suite->store, accepted_us[0]);
    retain(suite, &half_a_day);
    fan__suite_reopen(suite);
    retain(suite, &half_a_day);
}

/* A group that comes again, under an earlier clock, is not spoken for by claims on the first. */
static void tokens_rise_under_an_earlier_clock(struct fan__suite *suite)
{
    uint64_t seq = fan__suite_put_simple(suite, "a.b.c", "", NULL);
    retain(suite, &(struct fan_retention){ .age_ms = DAY_MS });
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    struct fan_claim first = fan__suite_claim_one(suite, &g, seq);
    accept(suite, suite->store, accepted_us[0]);
    CHECK_OK(suite, fan_group_delete(suite->store, &g));
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    struct fan_claim second = fan__suite_claim_one(suite, &g, seq);
    CHECK(suite, second.token > first.token);
    CHECK_IS(suite, fan__suite_settle(suite, &g, &first, FAN_VERDICT_DONE, NULL), FAN_LOST);
    CHECK_OK(suite, fan__suite_settle(suite, &g, &second, FAN_VERDICT_DONE, NULL));
}

/* An old event that died a moment ago is a young dead letter, whatever time is accepted. */
static void dead_letters_keep_their_age(struct fan__suite *suite)
{
    const struct fan_retention dead = { .dead_age_ms = DAY_MS / 2 };
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    retain(suite, &dead);
    for (size_t i = 0; i < 2; i++) {
        uint64_t seq = fan__suite_put_simple(suite, "a.b.c", "", NULL);
        fan__suite_pass_ms(suite, DAY_MS);
        struct fan_claim claim = fan__suite_claim_one(suite, &g, seq);
        CHECK_OK(suite, fan__suite_settle(suite, &g, &claim, FAN_VERDICT_FAIL, "no"));
        accept(suite, suite->store, accepted_us[i]);
        CHECK_EQUAL(suite, retain(suite, &dead).discarded, 0);
        fan__suite_pass_ms(suite, DAY_MS);
        CHECK_EQUAL(suite, retain(suite, &dead).discarded, 1);
    }
}

static void trims_are_kept(struct fan__suite *suite)
{
    uint64_t seqs[6];
    put_many(suite, 6, seqs);
    uint64_t trimmed_seq = retain(suite, &(struct fan_retention){ .count = 2 }).trimmed_seq;
    CHECK_EQUAL(suite, trimmed_seq, seqs[3]);
    fan__suite_reopen(suite);
    CHECK_EQUAL(suite, read_all(suite, 0).trimmed_seq, trimmed_seq);
    check_left(suite, seqs + 4, 2);
    /* Ages go on while the log is closed. */
    fan__suite_pass_ms(suite, 2 * DAY_MS);
    CHECK_EQUAL(suite, retain(suite, &(struct fan_retention){ .age_ms = DAY_MS }).removed, 2);
    fan__suite_reopen(suite);
    CHECK_EQUAL(suite, fan__suite_head(suite), seqs[5]);
}

static void bad_bounds_are_refused(struct fan__suite *suite)
{
    struct fan_retention retention = { .size = FAN_RETENTION_SIZE };
    struct fan_retained one = { .size = sizeof(one) };
    retain(suite, &retention);
    retention.age_ms = UINT64_MAX;
    CHECK_IS(suite, fan_store_retain(suite->store, &retention, &one, NULL), FAN_INVALID);
    /* Of who asks for work the store need only know to the minute. */
    retention = (struct fan_retention){ .size = FAN_RETENTION_SIZE,
                                        .group_age_ms = FAN_GROUP_AGE_MS_MIN - 1 };
    struct fan_error error = FAN_ERROR_INIT;
    CHECK_IS(suite, fan_store_retain(suite->store, &retention, &one, &error), FAN_INVALID);
    CHECK_TEXT(suite, error.field, "group_age_ms");
    retention = (struct fan_retention){ .size = 8 };
    CHECK_IS(suite, fan_store_retain(suite->store, &retention, &one, NULL), FAN_INVALID);
    retention.size = FAN_RETENTION_SIZE;
    one.size = 0;
    CHECK_IS(suite, fan_store_retain(suite->store, &retention, &one, NULL), FAN_INVALID);
}

const struct fan__suite_behaviour fan__suite_retain[] = {
    { "P11_finished_events_go_by_age", by_age, FAN__SUITE_CLOCK },
    { "P11_what_follows_a_duplicate_is_young", by_age_after_a_duplicate, FAN__SUITE_CLOCK },
    { "P11_finished_events_go_by_count", by_count, 0 },
    { "P11_finished_events_go_by_bytes", by_bytes, FAN__SUITE_CLOCK },
    { "P11_what_is_owed_stays", what_is_owed_stays, FAN__SUITE_CLOCK },
    { "P11_what_nobody_wants_goes", what_nobody_wants_goes, FAN__SUITE_CLOCK },
    { "P11_what_is_owed_too_long_is_a_dead_letter", owed_too_long_is_dead, FAN__SUITE_CLOCK },
    { "P11_dead_letters_go_in_time", dead_letters_go_in_time, FAN__SUITE_CLOCK },
    { "P11_groups_that_nobody_joins_go", groups_that_nobody_joins_go, FAN__SUITE_CLOCK },
    { "P11_groups_that_ask_in_vain_stay", groups_that_ask_in_vain_stay, FAN__SUITE_CLOCK },
    { "P11_groups_that_are_worked_on_stay", groups_that_are_worked_on_stay, FAN__SUITE_CLOCK },
    { "P11_one_call_looks_at_a_bounded_part", a_call_is_bounded, FAN__SUITE_CLOCK },
    { "P11_readers_are_told_what_was_trimmed", readers_are_told, 0 },
    { "P11_L09_ids_are_forgotten_with_their_events", ids_are_forgotten_with_their_events, 0 },
    { "P11_an_expired_key_goes_on", an_expired_key_goes_on, FAN__SUITE_CLOCK },
    { "P11_H04_what_is_redriven_early_waits_for_its_key", redriven_ahead_waits_for_its_key,
      FAN__SUITE_CLOCK },
    { "R02_retention_refuses_a_jump_of_the_clock", a_jump_is_refused, FAN__SUITE_CLOCK },
    { "R02_P11_ages_go_by_the_clock_that_was_accepted", by_age_of_an_accepted_clock,
      FAN__SUITE_CLOCK },
    { "R02_P11_ages_go_by_the_clock_that_another_process_accepted",
      by_age_of_a_clock_that_another_accepted, FAN__SUITE_CLOCK | FAN__SUITE_REOPEN },
    { "R02_P11_an_empty_log_keeps_the_accepted_clock", an_empty_log_keeps_the_accepted_clock,
      FAN__SUITE_CLOCK | FAN__SUITE_REOPEN },
    { "R02_P09_tokens_rise_under_an_earlier_clock", tokens_rise_under_an_earlier_clock,
      FAN__SUITE_CLOCK },
    { "R02_P11_dead_letters_keep_their_age", dead_letters_keep_their_age, FAN__SUITE_CLOCK },
    { "P11_trims_outlive_the_close", trims_are_kept, FAN__SUITE_REOPEN | FAN__SUITE_CLOCK },
    { "P11_bad_bounds_are_refused", bad_bounds_are_refused, 0 },
    { .name = NULL },
};
