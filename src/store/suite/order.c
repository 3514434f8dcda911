/* Ordered claims: one of a key at a time, in order, and partitions with one owner. */
#include "store/suite/suite.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct fan_group_name g = { .group = "ordered", .handler = "h" };

static struct fan__suite_claims *claim(struct fan__suite *suite, const char *owner, size_t limit,
                                       uint32_t lease_ms)
{
    struct fan__suite_claims *claims = fan__suite_alloc(suite, 1, sizeof(*claims));
    claims->batch = fan__suite_batch(suite);
    const struct fan_claim_options options = { .size = FAN_CLAIM_OPTIONS_SIZE,
                                               .owner = owner,
                                               .limit = limit,
                                               .lease_ms = lease_ms,
                                               .ordered = true };
    enum fan_status status = fan__suite_claim_into(suite, &g, &options, claims);
    CHECK(suite, status == FAN_OK || status == FAN_AGAIN);
    return claims;
}

/* The only claim there is must be that of `seq`. */
static struct fan_claim claim_only(struct fan__suite *suite, uint64_t seq)
{
    const struct fan__suite_claims *claims = claim(suite, "a", 100, FAN__SUITE_LONG_MS);
    CHECK_EQUAL(suite, claims->count, 1);
    CHECK_EQUAL(suite, claims->items[0].seq, seq);
    return claims->items[0];
}

static void check_none(struct fan__suite *suite, const char *owner)
{
    CHECK_EQUAL(suite, claim(suite, owner, 100, FAN__SUITE_LONG_MS)->count, 0);
}

static void keys_go_one_by_one(struct fan__suite *suite)
{
    uint64_t a[5];
    uint64_t b[2];
    for (size_t i = 0; i < 5; i++) {
        a[i] = fan__suite_put_simple(suite, "x.y.z", "key:a", NULL);
        if (i < 2)
            b[i] = fan__suite_put_simple(suite, "x.y.z", "key:b", NULL);
    }
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    struct fan__suite_claims *claims = claim(suite, "a", 100, FAN__SUITE_LONG_MS);
    CHECK_EQUAL(suite, claims->count, 2);
    bool a_first = claims->items[0].seq == a[0];
    CHECK_EQUAL(suite, claims->items[a_first ? 0 : 1].seq, a[0]);
    CHECK_EQUAL(suite, claims->items[a_first ? 1 : 0].seq, b[0]);
    check_none(suite, "a");
    struct fan_claim one = claims->items[a_first ? 0 : 1];
    CHECK_OK(suite, fan__suite_settle(suite, &g, &one, FAN_VERDICT_DONE, NULL));
    one = claim_only(suite, a[1]);
    CHECK_OK(suite, fan__suite_settle(suite, &g, &one, FAN_VERDICT_HAND_BACK, NULL));
    one = claim_only(suite, a[1]);
    CHECK_OK(suite, fan__suite_settle(suite, &g, &one, FAN_VERDICT_FAIL, "dead"));
    one = claim_only(suite, a[2]);
    CHECK_OK(suite, fan__suite_retry(suite, &g, &one, FAN__SUITE_LONG_MS, "later"));
    check_none(suite, "a");
    CHECK_OK(suite, fan_group_move(suite->store, &g, a[2], FAN_EVENT_COMPLETED));
    one = claim_only(suite, a[3]);
    CHECK_OK(suite, fan__suite_settle(suite, &g, &one, FAN_VERDICT_DONE, NULL));
    CHECK_OK(suite,
             fan__suite_settle(suite, &g, &claims->items[a_first ? 1 : 0], FAN_VERDICT_DONE, NULL));
    claims = claim(suite, "a", 100, FAN__SUITE_LONG_MS);
    CHECK_EQUAL(suite, claims->count, 2);
    CHECK_EQUAL(suite, claims->items[0].seq + claims->items[1].seq, a[4] + b[1]);
}

static void retried_key_waits_alone(struct fan__suite *suite)
{
    uint32_t short_ms = fan__suite_short_ms(suite);
    uint64_t first = fan__suite_put_simple(suite, "x.y.z", "slow", NULL);
    uint64_t second = fan__suite_put_simple(suite, "x.y.z", "slow", NULL);
    uint64_t quick = fan__suite_put_simple(suite, "x.y.z", "quick", NULL);
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    struct fan__suite_claims *claims = claim(suite, "a", 100, FAN__SUITE_LONG_MS);
    CHECK_EQUAL(suite, claims->count, 2);
    size_t slow = claims->items[0].seq == first ? 0 : 1;
    CHECK_OK(suite, fan__suite_retry(suite, &g, &claims->items[slow], short_ms, "later"));
    CHECK_EQUAL(suite, claims->items[1 - slow].seq, quick);
    CHECK_OK(suite, fan__suite_settle(suite, &g, &claims->items[1 - slow], FAN_VERDICT_DONE, NULL));
    uint64_t quicker = fan__suite_put_simple(suite, "x.y.z", "quick", NULL);
    struct fan_claim one = claim_only(suite, quicker);
    CHECK_OK(suite, fan__suite_settle(suite, &g, &one, FAN_VERDICT_DONE, NULL));
    fan__suite_pass_ms(suite, short_ms + short_ms / 2);
    one = claim_only(suite, first);
    CHECK_EQUAL(suite, one.attempt, 2);
    CHECK_OK(suite, fan__suite_settle(suite, &g, &one, FAN_VERDICT_DONE, NULL));
    claim_only(suite, second);
}

static void key_waits_for_deliver_at(struct fan__suite *suite)
{
    uint32_t short_ms = fan__suite_short_ms(suite);
    int64_t at_us = fan__suite_now_us(suite) + short_ms * INT64_C(1000);
    const struct fan_event_draft late = { .topic = "k", .deliver_at_us = at_us };
    fan__suite_create(suite, &g, FAN_START_NOW, NULL);
    uint64_t first = fan__suite_put(suite, fan__suite_event(suite, &late));
    uint64_t second = fan__suite_put_simple(suite, "x.y.z", "k", NULL);
    check_none(suite, "a");
    fan__suite_pass_ms(suite, short_ms + short_ms / 2);
    struct fan_claim one = claim_only(suite, first);
    CHECK_OK(suite, fan__suite_settle(suite, &g, &one, FAN_VERDICT_DONE, NULL));
    claim_only(suite, second);
}

static void redriven_goes_first(struct fan__suite *suite)
{
    uint64_t seqs[3];
    for (size_t i = 0; i < 3; i++)
        seqs[i] = fan__suite_put_simple(suite, "x.y.z", "k", NULL);
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    struct fan_claim dead = claim_only(suite, seqs[0]);
    CHECK_OK(suite, fan__suite_settle(suite, &g, &dead, FAN_VERDICT_FAIL, "dead"));
    struct fan_claim next = claim_only(suite, seqs[1]);
    CHECK_OK(suite, fan_group_move(suite->store, &g, seqs[0], FAN_EVENT_PENDING));
    check_none(suite, "a");
    CHECK_OK(suite, fan__suite_settle(suite, &g, &next, FAN_VERDICT_RETRY, "again"));
    struct fan_claim redriven = claim_only(suite, seqs[0]);
    CHECK_EQUAL(suite, redriven.attempt, 1);
    CHECK_OK(suite, fan__suite_settle(suite, &g, &redriven, FAN_VERDICT_DONE, NULL));
    next = claim_only(suite, seqs[1]);
    CHECK_EQUAL(suite, next.attempt, 2);
    CHECK_OK(suite, fan__suite_settle(suite, &g, &next, FAN_VERDICT_DONE, NULL));
    claim_only(suite, seqs[2]);
}

static void deleted_head_lets_the_key_go_on(struct fan__suite *suite)
{
    fan__suite_put_simple(suite, "x.y.z", "k", "first");
    uint64_t second = fan__suite_put_simple(suite, "x.y.z", "k", "second");
    uint64_t third = fan__suite_put_simple(suite, "x.y.z", "k", "third");
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    CHECK_EQUAL(suite, claim(suite, "a", 100, FAN__SUITE_LONG_MS)->count, 1);
    CHECK_OK(suite, fan_store_delete(suite->store, "first"));
    struct fan_claim one = claim_only(suite, second);
    CHECK_OK(suite, fan__suite_retry(suite, &g, &one, FAN__SUITE_LONG_MS, "later"));
    CHECK_OK(suite, fan_store_delete(suite->store, "second"));
    claim_only(suite, third);
}

static void redriven_goes_before_what_waits(struct fan__suite *suite)
{
    uint64_t seqs[3];
    static const char *const ids[] = { "a", "b", "c" };
    for (size_t i = 0; i < 3; i++)
        seqs[i] = fan__suite_put_simple(suite, "x.y.z", "k", ids[i]);
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    struct fan_claim one = claim_only(suite, seqs[0]);
    CHECK_OK(suite, fan__suite_settle(suite, &g, &one, FAN_VERDICT_FAIL, "dead"));
    one = claim_only(suite, seqs[1]);
    CHECK_OK(suite, fan__suite_settle(suite, &g, &one, FAN_VERDICT_HAND_BACK, NULL));
    CHECK_OK(suite, fan_group_move(suite->store, &g, seqs[0], FAN_EVENT_PENDING));
    one = claim_only(suite, seqs[0]);
    /* What waits in the middle may go without a trace. */
    CHECK_OK(suite, fan_store_delete(suite->store, "b"));
    check_none(suite, "a");
    CHECK_OK(suite, fan__suite_settle(suite, &g, &one, FAN_VERDICT_DONE, NULL));
    claim_only(suite, seqs[2]);
}

/* What may not be given yet takes nobody's place, also of claims that ask for one. */
static void redriven_is_not_hidden(struct fan__suite *suite)
{
    uint64_t seqs[2];
    for (size_t i = 0; i < 2; i++)
        seqs[i] = fan__suite_put_simple(suite, "x.y.z", "k", NULL);
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    struct fan_claim one = claim_only(suite, seqs[0]);
    CHECK_OK(suite, fan__suite_settle(suite, &g, &one, FAN_VERDICT_FAIL, "dead"));
    one = claim_only(suite, seqs[1]);
    CHECK_OK(suite, fan__suite_settle(suite, &g, &one, FAN_VERDICT_HAND_BACK, NULL));
    fan__suite_pass_ms(suite, 2);
    CHECK_OK(suite, fan_group_move(suite->store, &g, seqs[0], FAN_EVENT_PENDING));
    const struct fan__suite_claims *claims = claim(suite, "a", 1, FAN__SUITE_LONG_MS);
    CHECK_EQUAL(suite, claims->count, 1);
    CHECK_EQUAL(suite, claims->items[0].seq, seqs[0]);
}

static void groups_become_ordered(struct fan__suite *suite)
{
    uint64_t dead = fan__suite_put_simple(suite, "x.y.z", "k", NULL);
    uint64_t seqs[4];
    for (size_t i = 0; i < 4; i++)
        seqs[i] = fan__suite_put_simple(suite, "x.y.z", "k", NULL);
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    struct fan__suite_claims *claims = fan__suite_claim(suite, &g, "a", 1, FAN__SUITE_LONG_MS);
    CHECK_EQUAL(suite, claims->count, 1);
    CHECK_OK(suite, fan__suite_settle(suite, &g, &claims->items[0], FAN_VERDICT_FAIL, "dead"));
    claims = fan__suite_claim(suite, &g, "a", 3, FAN__SUITE_LONG_MS);
    CHECK_EQUAL(suite, claims->count, 3);
    CHECK_OK(suite, fan__suite_settle(suite, &g, &claims->items[0], FAN_VERDICT_HAND_BACK, NULL));
    CHECK_OK(suite, fan__suite_settle(suite, &g, &claims->items[1], FAN_VERDICT_HAND_BACK, NULL));
    /* The third is still claimed, so that none of its key is given. */
    check_none(suite, "a");
    CHECK_OK(suite, fan__suite_settle(suite, &g, &claims->items[2], FAN_VERDICT_DONE, NULL));
    /* What died before comes to its place in the order, too. */
    const uint64_t order[] = { seqs[0], dead, seqs[1], seqs[3] };
    for (size_t i = 0; i < 4; i++) {
        struct fan_claim one = claim_only(suite, order[i]);
        if (i == 0)
            CHECK_OK(suite, fan_group_move(suite->store, &g, dead, FAN_EVENT_PENDING));
        CHECK_OK(suite, fan__suite_settle(suite, &g, &one, FAN_VERDICT_DONE, NULL));
    }
}

/* While one that died without order is brought back, the keys of the others go on. */
static void keys_go_on_beside_a_redriven_one(struct fan__suite *suite)
{
    uint64_t dead = fan__suite_put_simple(suite, "x.y.z", "dead", NULL);
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    const struct fan__suite_claims *claims =
        fan__suite_claim(suite, &g, "a", 1, FAN__SUITE_LONG_MS);
    CHECK_EQUAL(suite, claims->count, 1);
    CHECK_OK(suite, fan__suite_settle(suite, &g, &claims->items[0], FAN_VERDICT_FAIL, "dead"));
    uint64_t first = fan__suite_put_simple(suite, "x.y.z", "k", NULL);
    uint64_t second = fan__suite_put_simple(suite, "x.y.z", "k", NULL);
    struct fan_claim one = claim_only(suite, first);
    CHECK_OK(suite, fan_group_move(suite->store, &g, dead, FAN_EVENT_PENDING));
    CHECK_OK(suite, fan__suite_settle(suite, &g, &one, FAN_VERDICT_DONE, NULL));
    claims = claim(suite, "a", 100, FAN__SUITE_LONG_MS);
    CHECK_EQUAL(suite, claims->count, 2);
    CHECK_EQUAL(suite, claims->items[0].seq + claims->items[1].seq, dead + second);
}

/* Members that ask for order and others that do not, as while a program is exchanged. */
static void members_with_and_without_order(struct fan__suite *suite)
{
    uint64_t seqs[3];
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    seqs[0] = fan__suite_put_simple(suite, "x.y.z", "k", NULL);
    struct fan_claim one = claim_only(suite, seqs[0]);
    CHECK_OK(suite, fan__suite_settle(suite, &g, &one, FAN_VERDICT_DONE, NULL));
    seqs[1] = fan__suite_put_simple(suite, "x.y.z", "k", NULL);
    const struct fan__suite_claims *claims =
        fan__suite_claim(suite, &g, "b", 100, FAN__SUITE_LONG_MS);
    CHECK_EQUAL(suite, claims->count, 1);
    CHECK_EQUAL(suite, claims->items[0].seq, seqs[1]);
    CHECK_OK(suite, fan__suite_settle(suite, &g, &claims->items[0], FAN_VERDICT_RETRY, "again"));
    seqs[2] = fan__suite_put_simple(suite, "x.y.z", "k", NULL);
    for (size_t i = 1; i < 3; i++) {
        one = claim_only(suite, seqs[i]);
        CHECK_OK(suite, fan__suite_settle(suite, &g, &one, FAN_VERDICT_DONE, NULL));
    }
}

#define KEY_COUNT 200

static void put_keys(struct fan__suite *suite, size_t each)
{
    struct fan_error error = FAN_ERROR_INIT;
    size_t count = KEY_COUNT * each;
    struct fan_append *items = fan__suite_alloc(suite, count, sizeof(*items));
    for (size_t i = 0; i < count; i++) {
        char topic[32];
        snprintf(topic, sizeof(topic), "key:%zu", i % KEY_COUNT);
        items[i].event = fan__suite_simple(suite, "x.y.z", topic, NULL);
    }
    CHECK_OK(suite, fan_store_append(suite->store, items, count, &error));
}

static void partitions_have_one_owner(struct fan__suite *suite)
{
    put_keys(suite, 1);
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    struct fan__suite_claims *first = claim(suite, "a", 1, FAN__SUITE_LONG_MS);
    CHECK_EQUAL(suite, first->count, 1);
    size_t of_b = claim(suite, "b", 1000, FAN__SUITE_LONG_MS)->count;
    CHECK(suite, of_b > 0 && of_b < KEY_COUNT);
    check_none(suite, "c");
    size_t of_a = claim(suite, "a", 1000, FAN__SUITE_LONG_MS)->count;
    CHECK_EQUAL(suite, 1 + of_a + of_b, KEY_COUNT);
    /* A partition without a claim in it is anybody's. */
    uint64_t seq = fan__suite_put(
        suite,
        fan__suite_simple(suite, "x.y.z", fan_event_topic(fan_batch_event(first->batch, 0)), NULL));
    check_none(suite, "b");
    CHECK_OK(suite, fan__suite_settle(suite, &g, &first->items[0], FAN_VERDICT_DONE, NULL));
    claim_only(suite, seq);
}

static void partitions_move_when_an_owner_lapses(struct fan__suite *suite)
{
    uint32_t short_ms = fan__suite_short_ms(suite);
    put_keys(suite, 1);
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    struct fan__suite_claims *of_a = claim(suite, "a", 90, short_ms);
    CHECK_EQUAL(suite, of_a->count, 90);
    CHECK_OK(suite, fan__suite_renew(suite, &g, &of_a->items[0], FAN__SUITE_LONG_MS));
    size_t before = claim(suite, "b", 1000, FAN__SUITE_LONG_MS)->count;
    fan__suite_pass_ms(suite, short_ms + short_ms / 2);
    /* All but the partition of the renewed claim are free. */
    struct fan__suite_claims *after = claim(suite, "b", 1000, FAN__SUITE_LONG_MS);
    CHECK(suite, after->count > 0 && before + after->count < KEY_COUNT);
    unsigned second_attempts = 0;
    for (size_t i = 0; i < after->count; i++)
        second_attempts += after->items[i].attempt == 2;
    CHECK(suite, second_attempts > 0);
    size_t rest = claim(suite, "a", 1000, FAN__SUITE_LONG_MS)->count;
    CHECK_EQUAL(suite, before + after->count + rest + 1, KEY_COUNT);
    size_t lost = 0;
    for (size_t i = 1; i < of_a->count; i++)
        lost += fan__suite_settle(suite, &g, &of_a->items[i], FAN_VERDICT_DONE, NULL) == FAN_LOST;
    CHECK_EQUAL(suite, lost, of_a->count - 1);
}

static void without_a_topic_is_one_key(struct fan__suite *suite)
{
    uint64_t first = fan__suite_put_simple(suite, "x.y.z", "", NULL);
    fan__suite_put_simple(suite, "x.y.z", "", NULL);
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    claim_only(suite, first);
    check_none(suite, "a");
}

#define OWNER_COUNT 4

/* What all owners know of the keys, under the suite's lock. */
struct keys {
    struct fan__suite *suite;
    pthread_mutex_t mutex;
    uint64_t last_seq[KEY_COUNT];
    bool busy[KEY_COUNT];
    size_t done;
    size_t wanted;
};

struct owner {
    struct keys *keys;
    struct fan__suite_claims claims;
    uint64_t random;
    char name[16];
};

static size_t key_of(const struct fan_event *event)
{
    return (size_t)strtoul(fan_event_topic(event) + strlen("key:"), NULL, 10);
}

/* Notes the beginning (or end) of one event's work; false when the order is broken. */
static bool note(struct keys *keys, const struct fan_event *event, bool begins, bool done)
{
    size_t key = key_of(event);
    pthread_mutex_lock(&keys->mutex);
    bool right = keys->busy[key] != begins;
    if (begins)
        right = right && fan_event_seq(event) > keys->last_seq[key];
    keys->busy[key] = begins;
    if (done) {
        keys->last_seq[key] = fan_event_seq(event);
        keys->done++;
    }
    pthread_mutex_unlock(&keys->mutex);
    return right;
}

static bool is_over(struct keys *keys)
{
    pthread_mutex_lock(&keys->mutex);
    bool over = keys->done == keys->wanted;
    pthread_mutex_unlock(&keys->mutex);
    return over || fan__suite_must_end(keys->suite);
}

static void work(void *context)
{
    struct owner *owner = context;
    struct fan__suite *suite = owner->keys->suite;
    const struct fan_claim_options options = { .size = FAN_CLAIM_OPTIONS_SIZE,
                                               .owner = owner->name,
                                               .limit = 7,
                                               .lease_ms = FAN__SUITE_LONG_MS,
                                               .ordered = true };
    while (!is_over(owner->keys)) {
        enum fan_status status = fan__suite_claim_into(suite, &g, &options, &owner->claims);
        CHECK_HERE(suite, status == FAN_OK || status == FAN_AGAIN);
        for (size_t i = 0; i < owner->claims.count; i++)
            CHECK_HERE(suite,
                       note(owner->keys, fan_batch_event(owner->claims.batch, i), true, false));
        for (size_t i = 0; i < owner->claims.count; i++) {
            bool done = fan__suite_random(&owner->random, 4) > 0;
            struct fan_settle item = { .seq = owner->claims.items[i].seq,
                                       .token = owner->claims.items[i].token,
                                       .verdict = done ? FAN_VERDICT_DONE : FAN_VERDICT_RETRY };
            /* Noted before it is settled: at once afterwards it may be another's. */
            CHECK_HERE(suite,
                       note(owner->keys, fan_batch_event(owner->claims.batch, i), false, done));
            CHECK_HERE(suite, fan_group_settle(suite->store, &g, &item, 1) == FAN_OK);
            CHECK_HERE(suite, item.ret_status == FAN_OK);
        }
    }
}

static void four_owners_keep_the_order(struct fan__suite *suite)
{
    size_t each = fan__suite_amount(suite, 3, 25);
    struct keys *keys = fan__suite_alloc(suite, 1, sizeof(*keys));
    struct owner *owners = fan__suite_alloc(suite, OWNER_COUNT, sizeof(*owners));
    keys->suite = suite;
    keys->wanted = each * KEY_COUNT;
    pthread_mutex_init(&keys->mutex, NULL);
    fan__suite_create(suite, &g, FAN_START_NOW, NULL);
    put_keys(suite, each);
    for (size_t i = 0; i < OWNER_COUNT; i++) {
        owners[i].keys = keys;
        owners[i].claims.batch = fan__suite_batch(suite);
        owners[i].random = suite->seed + i;
        snprintf(owners[i].name, sizeof(owners[i].name), "owner-%zu", i);
    }
    fan__suite_parallel(suite, OWNER_COUNT, work, owners, sizeof(*owners));
    struct fan_store_stats stats = fan__suite_stats(suite);
    CHECK_EQUAL(suite, stats.completed, keys->wanted);
}

#define RESTLESS_COUNT 32

/* Events that are retried at once, each time, and those that come after them. */
struct restless {
    struct fan__suite_claims *claims;
    struct fan_claim_options options;
    uint64_t last; /* of the restless ones */
    unsigned turns[RESTLESS_COUNT];
    size_t others;
    unsigned topics;
};

static uint64_t put_keys_apart(struct fan__suite *suite, struct restless *restless, size_t count)
{
    uint64_t last = 0;
    for (size_t i = 0; i < count; i++) {
        char topic[32];
        snprintf(topic, sizeof(topic), "key:%u", restless->topics++);
        last = fan__suite_put_simple(suite, "a.b.c", topic, NULL);
    }
    return last;
}

/* Gives how many of the others came. */
static size_t claim_and_retry(struct fan__suite *suite, struct restless *restless, size_t limit)
{
    struct fan__suite_claims *claims = restless->claims;
    struct fan_settle items[RESTLESS_COUNT];
    size_t others = 0;
    restless->options.limit = limit;
    CHECK_OK(suite, fan__suite_claim_into(suite, &g, &restless->options, claims));
    CHECK_EQUAL(suite, claims->count, limit);
    for (size_t i = 0; i < limit; i++) {
        uint64_t seq = claims->items[i].seq;
        bool other = seq > restless->last;
        others += other;
        if (!other) {
            CHECK(suite, restless->last - seq < RESTLESS_COUNT);
            restless->turns[restless->last - seq]++;
        }
        items[i] = (struct fan_settle){ .seq = seq,
                                        .token = claims->items[i].token,
                                        .verdict = other ? FAN_VERDICT_DONE : FAN_VERDICT_RETRY };
    }
    CHECK_OK(suite, fan_group_settle(suite->store, &g, items, limit));
    restless->others += others;
    return others;
}

static void restless_hold_up_nothing(struct fan__suite *suite, bool ordered)
{
    struct restless *restless = fan__suite_alloc(suite, 1, sizeof(*restless));
    restless->claims = fan__suite_alloc(suite, 1, sizeof(*restless->claims));
    restless->claims->batch = fan__suite_batch(suite);
    restless->options = (struct fan_claim_options){ .size = FAN_CLAIM_OPTIONS_SIZE,
                                                    .owner = "me",
                                                    .lease_ms = FAN__SUITE_LONG_MS,
                                                    .ordered = ordered };
    fan__suite_create(suite, &g, FAN_START_NOW, NULL);
    restless->last = put_keys_apart(suite, restless, RESTLESS_COUNT);
    CHECK_EQUAL(suite, claim_and_retry(suite, restless, RESTLESS_COUNT), 0);
    /* They could fill every claim; half of it is for the others, and half for them. */
    put_keys_apart(suite, restless, 16);
    for (size_t i = 0; i < 4; i++)
        CHECK_EQUAL(suite, claim_and_retry(suite, restless, 8), 4);
    CHECK_EQUAL(suite, claim_and_retry(suite, restless, 8), 0);
    /* Also one by one. */
    put_keys_apart(suite, restless, 100);
    restless->others = 0;
    for (size_t i = 0; i < 100; i++)
        claim_and_retry(suite, restless, 1);
    CHECK(suite, restless->others > 10 && restless->others < 90);
    /* Nor does one of them hold up another. */
    memset(restless->turns, 0, sizeof(restless->turns));
    for (size_t i = 0; i < (size_t)RESTLESS_COUNT * 8; i++)
        claim_and_retry(suite, restless, 4);
    for (size_t i = 0; i < RESTLESS_COUNT; i++)
        CHECK(suite, restless->turns[i] > 0);
    CHECK_OK(suite, fan_group_delete(suite->store, &g));
}

static void retried_all_the_time(struct fan__suite *suite)
{
    restless_hold_up_nothing(suite, false);
    restless_hold_up_nothing(suite, true);
}

const struct fan__suite_behaviour fan__suite_order[] = {
    { "H04_what_is_retried_all_the_time_holds_up_nothing", retried_all_the_time, 0 },
    { "H04_of_a_key_one_at_a_time_in_order", keys_go_one_by_one, 0 },
    { "H04_a_retried_key_waits_alone", retried_key_waits_alone, 0 },
    { "H04_a_key_waits_for_deliver_at", key_waits_for_deliver_at, 0 },
    { "H04_a_redriven_event_goes_before_its_key", redriven_goes_first, 0 },
    { "H04_a_redriven_event_goes_before_what_waits", redriven_goes_before_what_waits, 0 },
    { "H04_what_waits_hides_no_redriven_event", redriven_is_not_hidden, 0 },
    { "H04_a_group_may_become_ordered", groups_become_ordered, 0 },
    { "H04_keys_go_on_beside_one_that_is_redriven", keys_go_on_beside_a_redriven_one, 0 },
    { "H04_members_with_and_without_order", members_with_and_without_order, 0 },
    { "H04_a_deleted_head_lets_its_key_go_on", deleted_head_lets_the_key_go_on, 0 },
    { "H04_partitions_have_one_owner", partitions_have_one_owner, 0 },
    { "H04_partitions_move_when_their_owner_lapses", partitions_move_when_an_owner_lapses, 0 },
    { "H04_events_without_a_topic_are_one_key", without_a_topic_is_one_key, 0 },
    { "H04_four_owners_keep_the_order_of_every_key", four_owners_keep_the_order, 0 },
    { .name = NULL },
};
