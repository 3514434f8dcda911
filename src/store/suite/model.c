/*
 * A plain model of a store, obviously right, beside the store itself: random calls are made on both
 * and must give the same. Then the same without a model from many threads at once, and under an
 * allocator that fails.
 *
 * The model knows an event's fate per group as one small struct; it searches by walking, and it
 * keeps its own clock in seconds, which jumps far more than the run itself can take.
 */
#include "store/suite/suite.h"

#include <fanfare/keep.h>

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define EVENT_COUNT_MAX 400
#define GROUP_COUNT 3
#define TOPIC_COUNT 6
/*
 * Far enough apart that the real time which a slow run takes changes nothing; and a log may know
 * ages to the hour.
 */
#define RETRY_S 6000
#define LEASE_S 6000
#define LONG_LEASE_S 61000
#define JUMP_S 4000

/* What a group has of an event. "Virgin" ones were never given: their order is that of the log. */
struct fate {
    bool wanted;
    bool virgin;
    enum fan_event_status status;
    unsigned attempts;
    unsigned lapses;
    bool lapsed;
    enum fan_dead_reason reason;
    uint64_t token;
    int64_t due_s;
    bool has_error;
};

struct known {
    const struct fan_event *event;
    uint64_t seq;
    int64_t stored_s;
    bool gone;
    bool erased;
    struct fate fates[GROUP_COUNT];
};

struct model {
    struct fan__suite *suite;
    struct known events[EVENT_COUNT_MAX];
    size_t count;
    size_t retained;
    uint64_t head_seq;
    int64_t now_s;
    bool exists[GROUP_COUNT];
    size_t next_id;
    struct fan_event_state states[EVENT_COUNT_MAX + 1];
};

static const struct fan_group_name names[GROUP_COUNT] = {
    { .group = "all", .handler = "" },
    { .group = "some", .handler = "a" },
    { .group = "some", .handler = "b" },
};

/* The second and third group want every other type. */
static bool wants(size_t group, const struct fan_event *event)
{
    return group == 0 || fan_event_type(event)[0] == (group == 1 ? 'a' : 'b');
}

static const char *pattern_of(size_t group)
{
    static const char *const patterns[GROUP_COUNT] = { NULL, "a.>", "b.>" };
    return patterns[group];
}

static uint64_t chance(struct model *model, uint64_t limit)
{
    return fan__suite_random(&model->suite->random, limit);
}

static void let_lapse(struct model *model)
{
    for (size_t i = 0; i < model->count; i++) {
        for (size_t g = 0; g < GROUP_COUNT; g++) {
            struct fate *fate = &model->events[i].fates[g];
            if (fate->status != FAN_EVENT_PROCESSING || fate->due_s >= model->now_s)
                continue;
            fate->status = FAN_EVENT_PENDING;
            fate->lapsed = true;
        }
    }
}

static uint64_t last_of_topic(const struct model *model, const char *topic)
{
    for (size_t i = model->count; i-- > 0;) {
        if (!model->events[i].gone && strcmp(fan_event_topic(model->events[i].event), topic) == 0)
            return model->events[i].seq;
    }
    return 0;
}

static struct known *any_event(struct model *model)
{
    return model->count ? &model->events[chance(model, model->count)] : NULL;
}

/* Makes room in the model: what is gone need not be remembered for ever. */
static void forget_gone(struct model *model)
{
    size_t kept = 0;
    for (size_t i = 0; i < model->count; i++) {
        if (!model->events[i].gone)
            model->events[kept++] = model->events[i];
    }
    model->count = kept;
}

static void do_append(struct model *model)
{
    struct fan__suite *suite = model->suite;
    if (model->count == EVENT_COUNT_MAX)
        forget_gone(model);
    if (model->count == EVENT_COUNT_MAX)
        return;
    char topic[16];
    char id[32];
    snprintf(topic, sizeof(topic), "topic-%d", (int)chance(model, TOPIC_COUNT));
    snprintf(id, sizeof(id), "id-%zu", model->next_id++);
    const struct fan_event *event =
        fan__suite_simple(suite, chance(model, 2) ? "a.b.c" : "b.c.d", topic, id);
    uint64_t last_seq = last_of_topic(model, topic);
    const struct fan_expectation right = { .size = sizeof(right),
                                           .key = topic,
                                           .last_seq = last_seq };
    const struct fan_expectation wrong = { .size = sizeof(wrong),
                                           .key = topic,
                                           .last_seq = last_seq + 1 };
    uint64_t kind = chance(model, 4);
    struct fan_append item = fan__suite_try(suite, event,
                                            kind == 0   ? &wrong
                                            : kind == 1 ? &right
                                                        : NULL);
    if (kind == 0) {
        CHECK_IS(suite, item.ret_status, FAN_CONFLICT);
        return;
    }
    CHECK_IS(suite, item.ret_status, FAN_OK);
    CHECK(suite, !item.ret_duplicate && item.ret_seq > model->head_seq);
    model->head_seq = item.ret_seq;
    struct known *known = &model->events[model->count++];
    *known = (struct known){ .event = event, .seq = item.ret_seq, .stored_s = model->now_s };
    model->retained++;
    for (size_t g = 0; g < GROUP_COUNT; g++)
        known->fates[g] =
            (struct fate){ .wanted = model->exists[g] && wants(g, event), .virgin = true };
}

static void do_append_again(struct model *model)
{
    struct known *known = any_event(model);
    if (!known || known->gone)
        return;
    const struct fan_expectation wrong = { .size = sizeof(wrong),
                                           .key = "topic-0",
                                           .last_seq = 999999999 };
    struct fan_append item =
        fan__suite_try(model->suite, known->event, chance(model, 2) ? &wrong : NULL);
    CHECK_IS(model->suite, item.ret_status, FAN_OK);
    CHECK(model->suite, item.ret_duplicate);
    CHECK_EQUAL(model->suite, item.ret_seq, known->seq);
}

static void do_delete(struct model *model)
{
    struct known *known = any_event(model);
    if (!known)
        return;
    CHECK_IS(model->suite, fan_store_delete(model->suite->store, fan_event_id(known->event)),
             known->gone ? FAN_NOT_FOUND : FAN_OK);
    model->retained -= !known->gone;
    known->gone = true;
    memset(known->fates, 0, sizeof(known->fates));
}

/* Nobody is owed anything of it: every group that wants it has completed it. */
static bool is_finished(const struct known *known)
{
    for (size_t g = 0; g < GROUP_COUNT; g++) {
        if (known->fates[g].wanted && known->fates[g].status != FAN_EVENT_COMPLETED)
            return false;
    }
    return true;
}

/* An age that lies between two jumps. */
static uint64_t any_age_ms(struct model *model)
{
    return chance(model, 3) * JUMP_S * 1000 + JUMP_S * 1000 / 2;
}

static bool is_older(const struct model *model, const struct known *known, uint64_t age_ms)
{
    return age_ms > 0 && (uint64_t)(model->now_s - known->stored_s) * 1000 > age_ms;
}

/* All but the newest few go, or those that are young, if they are finished. */
static void do_retain(struct model *model)
{
    struct fan__suite *suite = model->suite;
    bool by_age = suite->options->traits & FAN_CONFORMANCE_CLOCK && chance(model, 2);
    const struct fan_retention retention = { .size = FAN_RETENTION_SIZE,
                                             .count = by_age
                                                          ? 0
                                                          : 1 + chance(model, EVENT_COUNT_MAX / 4),
                                             .age_ms = by_age ? any_age_ms(model) : 0,
                                             .limit = 1 + chance(model, 40) };
    struct fan_retained one = { .size = sizeof(one), .more = true };
    uint64_t removed = 0;
    while (one.more) {
        enum fan_status status = fan_store_retain(suite->store, &retention, &one, NULL);
        if (status == FAN_UNSUPPORTED)
            return;
        CHECK_IS(suite, status, FAN_OK);
        removed += one.removed;
    }
    uint64_t newer = 0;
    uint64_t expected = 0;
    for (size_t i = model->count; i-- > 0;) {
        struct known *known = &model->events[i];
        bool goes = !known->gone && (by_age ? is_older(model, known, retention.age_ms)
                                            : newer++ >= retention.count);
        if (!goes || !is_finished(known))
            continue;
        known->gone = true;
        memset(known->fates, 0, sizeof(known->fates));
        expected++;
    }
    model->retained -= expected;
    CHECK_EQUAL(suite, removed, expected);
}

static void do_erase(struct model *model)
{
    struct known *known = any_event(model);
    if (!known)
        return;
    CHECK_IS(model->suite, fan_store_erase(model->suite->store, fan_event_id(known->event)),
             known->gone ? FAN_NOT_FOUND : FAN_OK);
    known->erased = true;
}

static void do_create_or_delete(struct model *model)
{
    struct fan__suite *suite = model->suite;
    size_t g = chance(model, GROUP_COUNT);
    if (model->exists[g]) {
        if (chance(model, 4) > 0)
            return;
        CHECK_OK(suite, fan_group_delete(suite->store, &names[g]));
        for (size_t i = 0; i < model->count; i++)
            model->events[i].fates[g] = (struct fate){ .wanted = false };
    } else {
        bool beginning = chance(model, 2) == 0;
        fan__suite_create(suite, &names[g], beginning ? FAN_START_BEGINNING : FAN_START_NOW,
                          pattern_of(g));
        for (size_t i = 0; beginning && i < model->count; i++) {
            struct known *known = &model->events[i];
            known->fates[g] =
                (struct fate){ .wanted = !known->gone && wants(g, known->event), .virgin = true };
        }
    }
    model->exists[g] = !model->exists[g];
}

static bool is_due(const struct model *model, const struct fate *fate)
{
    return fate->wanted && fate->status == FAN_EVENT_PENDING &&
           (fate->virgin || fate->due_s <= model->now_s);
}

/* Of what was claimed: it was due, and virgins are the first ones of the log. Gives their count. */
static size_t check_claims(struct model *model, size_t g, const struct fan__suite_claims *claims,
                           int64_t lease_s)
{
    struct fan__suite *suite = model->suite;
    size_t next_virgin = 0;
    size_t virgins = 0;
    for (size_t i = 0; i < claims->count; i++) {
        const struct fan_claim *claim = &claims->items[i];
        size_t at = 0;
        while (at < model->count && model->events[at].seq != claim->seq)
            at++;
        CHECK(suite, at < model->count);
        struct fate *fate = &model->events[at].fates[g];
        CHECK(suite, !model->events[at].gone && is_due(model, fate));
        if (fate->virgin) {
            virgins++;
            while (!model->events[next_virgin].fates[g].wanted ||
                   !model->events[next_virgin].fates[g].virgin)
                next_virgin++;
            CHECK_EQUAL(suite, at, next_virgin);
        }
        CHECK_EQUAL(suite, claim->attempt, fate->attempts + 1);
        CHECK_EQUAL(suite, claim->lapses, fate->lapses + fate->lapsed);
        *fate = (struct fate){ .wanted = true,
                               .status = FAN_EVENT_PROCESSING,
                               .attempts = claim->attempt,
                               .lapses = claim->lapses,
                               .token = claim->token,
                               .has_error = fate->has_error,
                               .due_s = model->now_s + lease_s };
    }
    return virgins;
}

static void do_claim(struct model *model)
{
    struct fan__suite *suite = model->suite;
    size_t g = chance(model, GROUP_COUNT);
    size_t limit = 1 + chance(model, 8);
    int64_t lease_s = chance(model, 2) ? LEASE_S : LONG_LEASE_S;
    if (!model->exists[g])
        return;
    size_t due = 0;
    size_t due_virgins = 0;
    for (size_t i = 0; i < model->count; i++) {
        const struct fate *fate = &model->events[i].fates[g];
        due += is_due(model, fate);
        due_virgins += is_due(model, fate) && fate->virgin;
    }
    const struct fan__suite_claims *claims =
        fan__suite_claim(suite, &names[g], "me", limit, (uint32_t)lease_s * 1000);
    CHECK_EQUAL(suite, claims->count, due < limit ? due : limit);
    /* Of both kinds at least half, or all there are. */
    size_t virgins = check_claims(model, g, claims, lease_s);
    size_t others = claims->count - virgins;
    CHECK(suite, virgins >= limit / 2 || virgins == due_virgins);
    CHECK(suite, others >= limit / 2 || others == due - due_virgins);
}

static void apply_verdict(struct model *model, struct fate *fate, enum fan_verdict verdict,
                          bool delayed)
{
    fate->token = 0;
    fate->lapsed = false;
    fate->due_s = model->now_s;
    switch (verdict) {
    case FAN_VERDICT_DONE:
        fate->status = FAN_EVENT_COMPLETED;
        fate->has_error = false;
        break;
    case FAN_VERDICT_FAIL:
        fate->status = FAN_EVENT_FAILED;
        fate->reason = FAN_DEAD_RETRIES;
        fate->has_error = true;
        break;
    case FAN_VERDICT_RETRY:
        fate->status = FAN_EVENT_PENDING;
        fate->due_s += delayed ? RETRY_S : 0;
        fate->has_error = true;
        break;
    case FAN_VERDICT_HAND_BACK:
        fate->status = FAN_EVENT_PENDING;
        fate->attempts--;
        break;
    }
}

static void do_settle(struct model *model)
{
    struct known *known = any_event(model);
    size_t g = chance(model, GROUP_COUNT);
    if (!known || !model->exists[g])
        return;
    struct fate *fate = &known->fates[g];
    bool stale = chance(model, 5) == 0;
    bool delayed = chance(model, 2) == 0;
    enum fan_verdict verdict = (enum fan_verdict)chance(model, 4);
    struct fan_settle item = { .seq = known->seq,
                               .token = fate->token + stale,
                               .verdict = verdict,
                               .delay_ms = delayed ? RETRY_S * 1000 : 0,
                               .error = "it broke",
                               .reason = FAN_DEAD_RETRIES };
    /* A token that somebody may have: one more than a token can be another delivery's. */
    bool right = fate->wanted && fate->token != 0 && !stale;
    CHECK_OK(model->suite, fan_group_settle(model->suite->store, &names[g], &item, 1));
    CHECK_IS(model->suite, item.ret_status, right ? FAN_OK : FAN_LOST);
    if (right)
        apply_verdict(model, fate, verdict, delayed);
}

static void do_renew(struct model *model)
{
    struct known *known = any_event(model);
    size_t g = chance(model, GROUP_COUNT);
    if (!known || !model->exists[g])
        return;
    struct fate *fate = &known->fates[g];
    const struct fan_claim claim = { .seq = known->seq, .token = fate->token };
    bool right = fate->wanted && fate->token != 0 && fate->status == FAN_EVENT_PROCESSING;
    CHECK_IS(model->suite, fan__suite_renew(model->suite, &names[g], &claim, LONG_LEASE_S * 1000),
             right ? FAN_OK : FAN_LOST);
    if (right)
        fate->due_s = model->now_s + LONG_LEASE_S;
}

static void do_move(struct model *model)
{
    struct known *known = any_event(model);
    size_t g = chance(model, GROUP_COUNT);
    enum fan_event_status to = (enum fan_event_status)chance(model, 4);
    if (!known || !model->exists[g])
        return;
    struct fate *fate = &known->fates[g];
    enum fan_status expected = FAN_CONFLICT;
    if (!fate->wanted)
        expected = FAN_NOT_FOUND;
    else if (fate->status == FAN_EVENT_PROCESSING)
        expected = FAN_MISUSE;
    else if (to == FAN_EVENT_COMPLETED && fate->status != FAN_EVENT_COMPLETED)
        expected = FAN_OK;
    else if (to == FAN_EVENT_PENDING && fate->status == FAN_EVENT_FAILED)
        expected = FAN_OK;
    CHECK_IS(model->suite, fan_group_move(model->suite->store, &names[g], known->seq, to),
             expected);
    if (expected != FAN_OK)
        return;
    fate->virgin = false;
    fate->token = 0;
    fate->lapsed = false;
    fate->reason = FAN_DEAD_NONE;
    fate->status = to;
    fate->due_s = model->now_s;
    if (to == FAN_EVENT_PENDING)
        fate->attempts = fate->lapses = 0;
}

static void do_jump(struct model *model)
{
    if (!(model->suite->options->traits & FAN_CONFORMANCE_CLOCK))
        return;
    fan__suite_pass_ms(model->suite, JUMP_S * 1000);
    model->now_s += JUMP_S;
    fan__suite_look_at_clock(model->suite);
    let_lapse(model);
}

/*
 * The wall clock is set, and an operator accepts it: everything is as old as before. Who else has
 * the log open follows when he looks at it.
 */
static void do_set_clock(struct model *model)
{
    struct fan__suite *suite = model->suite;
    if (!(suite->options->traits & FAN_CONFORMANCE_CLOCK) || chance(model, 4) > 0)
        return;
    fan__suite_set_wall(suite, ((int64_t)chance(model, 21) - 10) * 86400 * 1000000);
    enum fan_status status = fan_store_accept_clock(suite->store, NULL);
    if (status == FAN_UNSUPPORTED)
        return;
    CHECK_OK(suite, status);
    fan__suite_look_at_clock(model->suite);
}

/* What has been owed for a while, and is held by nobody, becomes a dead letter. */
static void do_expire(struct model *model)
{
    struct fan__suite *suite = model->suite;
    /* Now and then: it ends everything else that is under way. */
    if (!(suite->options->traits & FAN_CONFORMANCE_CLOCK) || chance(model, 4) > 0)
        return;
    do_jump(model);
    const struct fan_retention retention = { .size = FAN_RETENTION_SIZE,
                                             .owed_age_ms = any_age_ms(model),
                                             .limit = 1 + chance(model, 40) };
    struct fan_retained one = { .size = sizeof(one), .more = true };
    uint64_t told = 0;
    while (one.more) {
        enum fan_status status = fan_store_retain(suite->store, &retention, &one, NULL);
        if (status == FAN_UNSUPPORTED)
            return;
        CHECK_IS(suite, status, FAN_OK);
        told += one.expired;
    }
    uint64_t expired = 0;
    for (size_t i = 0; i < model->count; i++) {
        for (size_t g = 0; g < GROUP_COUNT; g++) {
            struct fate *fate = &model->events[i].fates[g];
            if (!fate->wanted || fate->status != FAN_EVENT_PENDING ||
                !is_older(model, &model->events[i], retention.owed_age_ms))
                continue;
            fate->status = FAN_EVENT_FAILED;
            fate->reason = FAN_DEAD_EXPIRED;
            fate->lapses += fate->lapsed;
            fate->lapsed = fate->virgin = false;
            fate->token = 0;
            fate->has_error = true;
            expired++;
        }
    }
    CHECK_EQUAL(suite, told, expired);
}

static enum fan_event_status status_of(const struct known *known)
{
    bool has[4] = { false };
    for (size_t g = 0; g < GROUP_COUNT; g++) {
        if (known->fates[g].wanted)
            has[known->fates[g].status] = true;
    }
    if (has[FAN_EVENT_FAILED])
        return FAN_EVENT_FAILED;
    if (has[FAN_EVENT_PROCESSING])
        return FAN_EVENT_PROCESSING;
    return has[FAN_EVENT_PENDING] ? FAN_EVENT_PENDING : FAN_EVENT_COMPLETED;
}

static void check_event(struct model *model, const struct known *known,
                        const struct fan_event *event, const struct fan_event_state *state)
{
    struct fan__suite *suite = model->suite;
    CHECK(suite, event != NULL);
    CHECK_EQUAL(suite, fan_event_seq(event), known->seq);
    CHECK_TEXT(suite, fan_event_id(event), fan_event_id(known->event));
    CHECK_TEXT(suite, fan_event_topic(event), fan_event_topic(known->event));
    CHECK_EQUAL(suite, state->status, status_of(known));
    unsigned attempts = 0;
    for (size_t g = 0; g < GROUP_COUNT; g++) {
        if (known->fates[g].wanted && known->fates[g].attempts > attempts)
            attempts = known->fates[g].attempts;
    }
    CHECK_EQUAL(suite, state->retry_count, attempts > 0 ? attempts - 1 : 0);
    bool is_null = fan_event_payload(event).size == 4;
    CHECK_EQUAL(suite, is_null, known->erased);
}

static void check_groups(struct model *model)
{
    struct fan__suite *suite = model->suite;
    for (size_t g = 0; g < GROUP_COUNT; g++) {
        if (!model->exists[g])
            continue;
        uint64_t counts[4] = { 0 };
        uint64_t lag = 0;
        int64_t oldest_us = 0;
        struct fan_group_stats stats = fan__suite_group_stats(suite, &names[g]);
        for (size_t i = 0; i < model->count; i++) {
            const struct known *known = &model->events[i];
            const struct fate *fate = &known->fates[g];
            lag += !known->gone && known->seq > stats.cursor_seq;
            if (!fate->wanted)
                continue;
            counts[fate->status]++;
            if (oldest_us == 0 && fate->status < FAN_EVENT_COMPLETED)
                oldest_us = fan_event_created_us(known->event);
        }
        CHECK_EQUAL(suite, stats.lag, lag);
        CHECK_EQUAL(suite, stats.oldest_us, oldest_us);
        CHECK_EQUAL(suite, stats.pending, counts[FAN_EVENT_PENDING]);
        CHECK_EQUAL(suite, stats.processing, counts[FAN_EVENT_PROCESSING]);
        CHECK_EQUAL(suite, stats.completed, counts[FAN_EVENT_COMPLETED]);
        CHECK_EQUAL(suite, stats.failed, counts[FAN_EVENT_FAILED]);
    }
}

/* Everything at once: what is listed, what is read, and all sums. */
static void check_all(struct model *model)
{
    struct fan__suite *suite = model->suite;
    const struct fan_query query = { .size = FAN_QUERY_SIZE, .limit = EVENT_COUNT_MAX + 1 };
    struct fan_error error = FAN_ERROR_INIT;
    CHECK_OK(suite, fan_store_list(suite->store, &query, suite->batch, model->states, &error));
    CHECK_EQUAL(suite, fan_batch_count(suite->batch), model->retained);
    uint64_t counts[4] = { 0 };
    size_t at = 0;
    for (size_t i = 0; i < model->count; i++) {
        const struct known *known = &model->events[i];
        if (known->gone)
            continue;
        check_event(model, known, fan_batch_event(suite->batch, at), &model->states[at]);
        counts[status_of(known)]++;
        at++;
    }
    CHECK_EQUAL(suite, fan__suite_head(suite), model->head_seq);
    struct fan_store_stats stats = fan__suite_stats(suite);
    CHECK_EQUAL(suite, stats.events, model->retained);
    CHECK_EQUAL(suite, stats.pending, counts[FAN_EVENT_PENDING]);
    CHECK_EQUAL(suite, stats.processing, counts[FAN_EVENT_PROCESSING]);
    CHECK_EQUAL(suite, stats.completed, counts[FAN_EVENT_COMPLETED]);
    CHECK_EQUAL(suite, stats.failed, counts[FAN_EVENT_FAILED]);
    check_groups(model);
}

/* One delivery as it is shown. A virgin may have none yet. */
static void do_look(struct model *model)
{
    struct fan__suite *suite = model->suite;
    const struct known *known = any_event(model);
    size_t g = chance(model, GROUP_COUNT);
    if (!known || !model->exists[g])
        return;
    const struct fate *fate = &known->fates[g];
    struct fan__suite_delivery now = fan__suite_delivery_of(suite, &names[g], known->seq);
    CHECK(suite, now.found ? fate->wanted : !fate->wanted || fate->virgin);
    if (!now.found)
        return;
    CHECK_EQUAL(suite, now.delivery.status, fate->status);
    CHECK_EQUAL(suite, now.delivery.attempts, fate->attempts);
    CHECK_EQUAL(suite, now.delivery.lapses, fate->lapses);
    CHECK_EQUAL(suite, now.delivery.reason, fate->reason);
    CHECK_EQUAL(suite, *now.error != '\0', fate->has_error);
}

static void do_get(struct model *model)
{
    const struct known *known = any_event(model);
    if (!known)
        return;
    struct fan_event_state state;
    enum fan_status status =
        fan_store_get(model->suite->store, fan_event_id(known->event), model->suite->batch, &state);
    CHECK_IS(model->suite, status, known->gone ? FAN_NOT_FOUND : FAN_OK);
    if (status == FAN_OK)
        check_event(model, known, fan_batch_event(model->suite->batch, 0), &state);
}

static void (*const calls[])(struct model *model) = {
    do_append, do_append, do_append,    do_append, do_append_again,
    do_get,    do_look,   do_look,      do_delete, do_erase,
    do_claim,  do_claim,  do_claim,     do_claim,  do_settle,
    do_settle, do_settle, do_settle,    do_settle, do_settle,
    do_renew,  do_move,   do_move,      do_jump,   do_create_or_delete,
    do_retain, do_expire, do_set_clock,
};

static void random_calls(struct fan__suite *suite)
{
    struct model *model = fan__suite_alloc(suite, 1, sizeof(*model));
    model->suite = suite;
    size_t count = fan__suite_amount(suite, 1500, 20000);
    for (size_t i = 0; i < count; i++) {
        calls[chance(model, sizeof(calls) / sizeof(*calls))](model);
        if (i % 20 == 0)
            check_all(model);
    }
    check_all(model);
}

/* The same over a log that is closed and opened now and then. */
static void random_calls_over_closes(struct fan__suite *suite)
{
    struct model *model = fan__suite_alloc(suite, 1, sizeof(*model));
    model->suite = suite;
    size_t count = fan__suite_amount(suite, 600, 5000);
    for (size_t i = 0; i < count; i++) {
        calls[chance(model, sizeof(calls) / sizeof(*calls))](model);
        if (i % 50 == 49) {
            fan__suite_reopen(suite);
            check_all(model);
        }
    }
}

/* The same in two processes, now in one and now in the other. */
static void random_calls_in_two_processes(struct fan__suite *suite)
{
    struct model *model = fan__suite_alloc(suite, 1, sizeof(*model));
    bool changed = false;
    model->suite = suite;
    fan__suite_open_second(suite);
    size_t count = fan__suite_amount(suite, 300, 10000);
    for (size_t i = 0; i < count; i++) {
        void (*call)(struct model * model) = calls[chance(model, sizeof(calls) / sizeof(*calls))];
        if (chance(model, 3) == 0) {
            struct fan_store *other = suite->second;
            suite->second = suite->store;
            suite->store = other;
            changed = true;
        }
        if (changed && call == do_claim) {
            fan__suite_let_clocks_meet(suite);
            changed = false;
        }
        call(model);
        if (i % 20 == 0)
            check_all(model);
    }
    check_all(model);
}

#define THREAD_COUNT 16
#define OWN_COUNT 40

/* One thread's own events, which nobody else deletes. */
struct player {
    struct fan__suite *suite;
    struct fan__suite_claims *claims;
    const struct fan_event *events[OWN_COUNT];
    uint64_t seqs[OWN_COUNT];
    bool gone[OWN_COUNT];
    char topic[16];
    uint64_t random;
    size_t calls;
    struct fan_event_state states[OWN_COUNT + 1];
};

static bool play_append(struct player *player, size_t i)
{
    struct fan_append item = { .event = player->events[i] };
    if (player->gone[i])
        return true;
    if (fan_store_append(player->suite->store, &item, 1, NULL) != FAN_OK ||
        item.ret_status != FAN_OK || item.ret_duplicate != (player->seqs[i] != 0) ||
        (item.ret_duplicate && item.ret_seq != player->seqs[i]))
        return false;
    player->seqs[i] = item.ret_seq;
    return true;
}

static bool play_get(struct player *player, size_t i)
{
    bool there = player->seqs[i] != 0 && !player->gone[i];
    enum fan_status status = fan_store_get(player->suite->store, fan_event_id(player->events[i]),
                                           player->claims->batch, NULL);
    return status == (there ? FAN_OK : FAN_NOT_FOUND);
}

static bool play_delete(struct player *player, size_t i)
{
    bool there = player->seqs[i] != 0 && !player->gone[i];
    enum fan_status status =
        fan_store_delete(player->suite->store, fan_event_id(player->events[i]));
    player->gone[i] = player->gone[i] || there;
    return status == (there ? FAN_OK : FAN_NOT_FOUND);
}

static bool play_list(struct player *player)
{
    const struct fan_query query = { .size = FAN_QUERY_SIZE,
                                     .topic = player->topic,
                                     .limit = OWN_COUNT + 1 };
    size_t there = 0;
    for (size_t i = 0; i < OWN_COUNT; i++)
        there += player->seqs[i] != 0 && !player->gone[i];
    return fan_store_list(player->suite->store, &query, player->claims->batch, player->states,
                          NULL) == FAN_OK &&
           fan_batch_count(player->claims->batch) == there;
}

static bool play_work(struct player *player)
{
    const struct fan_group_name *name = &names[fan__suite_random(&player->random, GROUP_COUNT)];
    const struct fan_claim_options options = { .size = FAN_CLAIM_OPTIONS_SIZE,
                                               .owner = player->topic,
                                               .limit = 5,
                                               .lease_ms = FAN__SUITE_LONG_MS };
    struct fan_settle items[5] = { { .seq = 0 } };
    enum fan_status status = fan__suite_claim_into(player->suite, name, &options, player->claims);
    if (status != FAN_OK)
        return status == FAN_AGAIN;
    for (size_t i = 0; i < player->claims->count; i++)
        items[i] = (struct fan_settle){
            .seq = player->claims->items[i].seq,
            .token = player->claims->items[i].token,
            .verdict = (enum fan_verdict)fan__suite_random(&player->random, 4),
        };
    return fan_group_settle(player->suite->store, name, items, player->claims->count) == FAN_OK;
}

static bool see_group(void *context, const struct fan_group_stats *stats)
{
    (void)stats;
    ++*(size_t *)context;
    return true;
}

static bool play_look(struct player *player)
{
    struct fan_store_stats stats = { .size = sizeof(stats) };
    size_t groups = 0;
    return fan_store_stats(player->suite->store, &stats) == FAN_OK &&
           stats.pending + stats.processing + stats.completed + stats.failed == stats.events &&
           fan_store_groups(player->suite->store, see_group, &groups) == FAN_OK &&
           groups == GROUP_COUNT;
}

static void play(void *context)
{
    struct player *player = context;
    for (size_t n = 0; n < player->calls; n++) {
        size_t i = fan__suite_random(&player->random, OWN_COUNT);
        bool right = true;
        switch (fan__suite_random(&player->random, 10)) {
        case 0:
            right = play_delete(player, i);
            break;
        case 1:
            right = play_list(player);
            break;
        case 2:
            right = play_look(player);
            break;
        case 3:
        case 4:
            right = play_get(player, i);
            break;
        case 5:
        case 6:
            right = play_work(player);
            break;
        default:
            right = play_append(player, i);
            break;
        }
        CHECK_HERE(player->suite, right);
    }
}

static void many_players(struct fan__suite *suite)
{
    struct player *players = fan__suite_alloc(suite, THREAD_COUNT, sizeof(*players));
    for (size_t g = 0; g < GROUP_COUNT; g++)
        fan__suite_create(suite, &names[g], FAN_START_BEGINNING, pattern_of(g));
    for (size_t t = 0; t < THREAD_COUNT; t++) {
        struct player *player = &players[t];
        player->suite = suite;
        player->claims = fan__suite_alloc(suite, 1, sizeof(*player->claims));
        player->claims->batch = fan__suite_batch(suite);
        player->random = suite->seed + t;
        player->calls = fan__suite_amount(suite, 60, 2000);
        snprintf(player->topic, sizeof(player->topic), "player-%zu", t);
        for (size_t i = 0; i < OWN_COUNT; i++) {
            char id[32];
            snprintf(id, sizeof(id), "%zu-%zu", t, i);
            player->events[i] =
                fan__suite_simple(suite, i % 2 ? "a.b.c" : "b.c.d", player->topic, id);
        }
    }
    fan__suite_parallel(suite, THREAD_COUNT, play, players, sizeof(*players));
    size_t there = 0;
    for (size_t t = 0; t < THREAD_COUNT; t++) {
        for (size_t i = 0; i < OWN_COUNT; i++)
            there += players[t].seqs[i] != 0 && !players[t].gone[i];
    }
    CHECK_EQUAL(suite, fan__suite_stats(suite).events, there);
    CHECK_EQUAL(suite, fan__suite_count(suite), there);
}

static void refuse_after(struct fan__suite *suite, long count)
{
    pthread_mutex_lock(&suite->mutex);
    suite->allocations_left = count;
    pthread_mutex_unlock(&suite->mutex);
}

static bool was_refused(struct fan__suite *suite)
{
    pthread_mutex_lock(&suite->mutex);
    bool refused = suite->allocations_left == 0;
    pthread_mutex_unlock(&suite->mutex);
    return refused;
}

/* A fault, told as one; never an answer that is wrong. */
static bool is_fault(enum fan_status status)
{
    return status >= FAN_NO_MEMORY && status != FAN_INVALID && status != FAN_MISUSE;
}

#define SCRIPT_COUNT 12

/* A little of everything on the second store; false when a call gave something strange. */
static bool run_script(struct fan__suite *suite, const struct fan_event *const *events,
                       bool stored[SCRIPT_COUNT])
{
    struct fan_store *store = suite->second;
    struct fan_append items[SCRIPT_COUNT] = { { .event = NULL } };
    for (size_t i = 0; i < SCRIPT_COUNT; i++)
        items[i].event = events[i];
    enum fan_status status = fan_store_append(store, items, SCRIPT_COUNT, NULL);
    bool right = status == FAN_OK || is_fault(status);
    for (size_t i = 0; i < SCRIPT_COUNT; i++) {
        stored[i] = status == FAN_OK && items[i].ret_status == FAN_OK;
        right = right && (status != FAN_OK || stored[i] || is_fault(items[i].ret_status));
    }
    const struct fan_group_options options = { .size = FAN_GROUP_OPTIONS_SIZE,
                                               .pattern = ">",
                                               .start = FAN_START_BEGINNING };
    status = fan_group_create(store, &names[0], &options, NULL);
    right = right && (status == FAN_OK || status == FAN_EXISTS || is_fault(status));
    bool has_group = !is_fault(status);
    for (int i = 0; has_group && i < 3; i++) {
        const struct fan_claim_options claim_options = { .size = FAN_CLAIM_OPTIONS_SIZE,
                                                         .owner = "me",
                                                         .limit = 4,
                                                         .lease_ms = FAN__SUITE_LONG_MS,
                                                         .ordered = i == 2 };
        struct fan_claim claims[8];
        status = fan_group_claim(store, &names[0], &claim_options, suite->batch, claims);
        right = right && (status == FAN_OK || status == FAN_AGAIN || is_fault(status));
        if (status != FAN_OK)
            continue;
        struct fan_settle settle = { .seq = claims[0].seq,
                                     .token = claims[0].token,
                                     .verdict = FAN_VERDICT_FAIL,
                                     .error = "broke" };
        status = fan_group_settle(store, &names[0], &settle, 1);
        right = right && (is_fault(status) || settle.ret_status == FAN_OK);
    }
    struct fan_event_state states[20];
    const struct fan_query query = { .size = FAN_QUERY_SIZE, .limit = 20 };
    struct fan_read_result result;
    uint64_t fence;
    size_t seen = 0;
    status = fan_store_list(store, &query, suite->batch, states, NULL);
    right = right && (status == FAN_OK || is_fault(status));
    status = fan_store_read(store, 0, &query, suite->batch, &result);
    right = right && (status == FAN_OK || is_fault(status));
    status = fan_store_groups(store, see_group, &seen);
    right = right && (status == FAN_OK || is_fault(status));
    status = fan_lease_acquire(store, "lease", "me", FAN__SUITE_LONG_MS, &fence);
    right = right && (status == FAN_OK || is_fault(status));
    status = fan_store_erase(store, fan_event_id(events[0]));
    return right && (status == FAN_OK || status == FAN_NOT_FOUND || is_fault(status));
}

/* After the refusals: what was acknowledged is there, and all can still be done. */
static void check_usable(struct fan__suite *suite, const struct fan_event *const *events,
                         const bool stored[SCRIPT_COUNT])
{
    for (size_t i = 0; i < SCRIPT_COUNT; i++) {
        struct fan_append item = { .event = events[i] };
        CHECK_OK(suite, fan_store_append(suite->second, &item, 1, NULL));
        CHECK_IS(suite, item.ret_status, FAN_OK);
        CHECK(suite, item.ret_duplicate || !stored[i]);
    }
    struct fan_store_stats stats = { .size = sizeof(stats) };
    CHECK_OK(suite, fan_store_stats(suite->second, &stats));
    CHECK_EQUAL(suite, stats.events, SCRIPT_COUNT);
    CHECK_EQUAL(suite, stats.pending + stats.processing + stats.completed + stats.failed,
                SCRIPT_COUNT);
    const struct fan_group_options options = { .size = FAN_GROUP_OPTIONS_SIZE, .pattern = ">" };
    enum fan_status status = fan_group_create(suite->second, &names[0], &options, NULL);
    CHECK(suite, status == FAN_OK || status == FAN_EXISTS);
}

static void memory_ends(struct fan__suite *suite)
{
    const struct fan_event *events[SCRIPT_COUNT];
    for (size_t i = 0; i < SCRIPT_COUNT; i++)
        events[i] = fan__suite_simple(suite, "a.b.c", i % 3 ? "a" : "b", NULL);
    bool refused = true;
    for (long allowed = 0; refused; allowed++) {
        bool stored[SCRIPT_COUNT] = { false };
        CHECK(suite, allowed < 5000);
        refuse_after(suite, allowed);
        enum fan_status status =
            suite->options->open(suite->options->context, &suite->env, &suite->second, NULL);
        bool opened = status == FAN_OK;
        bool right = opened ? run_script(suite, events, stored) : is_fault(status);
        refused = was_refused(suite);
        refuse_after(suite, -1);
        if (!right)
            fan__suite_fail(suite, __FILE__, __LINE__, "with %ld allocations: %s", allowed,
                            opened ? "a call gave what is no fault" : fan_status_name(status));
        if (opened)
            check_usable(suite, events, stored);
        fan_store_close(suite->second);
        suite->second = NULL;
    }
}

const struct fan__suite_behaviour fan__suite_model[] = {
    { "P05_random_calls_do_as_the_model", random_calls, 0 },
    { "P05_random_calls_do_as_the_model_over_closes", random_calls_over_closes, FAN__SUITE_REOPEN },
    { "P10_random_calls_do_as_the_model_in_two_processes", random_calls_in_two_processes,
      FAN__SUITE_REOPEN },
    { "P05_sixteen_threads_of_random_calls", many_players, 0 },
    { "L12_memory_that_ends_is_a_fault_and_no_harm", memory_ends, FAN__SUITE_MEMORY },
    { .name = NULL },
};
