/*
 * The states of a delivery and all that can be asked of it in each (P04): what is legal happens,
 * anything else is a typed error and changes nothing.
 */
#include "store/suite/suite.h"

#include <stdio.h>

enum state {
    UNSEEN = 0, /* the group has not come to it */
    WAITING,    /* retried, later */
    BACK,       /* handed back */
    REDRIVEN,
    LAPSED,
    PROCESSING,
    COMPLETED,
    FAILED,
    STATE_COUNT,
};

enum action {
    DONE = 0,
    RETRY,
    FAIL,
    HAND_BACK,
    OLD_DONE, /* with a token that is not the claim's */
    OLD_FAIL,
    RENEW,
    TO_PENDING,
    TO_PROCESSING,
    TO_COMPLETED,
    TO_FAILED,
    ACTION_COUNT,
};

static const char *const state_names[STATE_COUNT] = {
    "unseen", "waiting", "handed back", "redriven", "lapsed", "processing", "completed", "failed",
};

static const char *const action_names[ACTION_COUNT] = {
    "done",
    "retry",
    "fail",
    "hand back",
    "done with an old token",
    "fail with an old token",
    "renew",
    "to pending",
    "to processing",
    "to completed",
    "to failed",
};

static const enum fan_event_status statuses[STATE_COUNT] = {
    [UNSEEN] = FAN_EVENT_PENDING,      [WAITING] = FAN_EVENT_PENDING,
    [BACK] = FAN_EVENT_PENDING,        [REDRIVEN] = FAN_EVENT_PENDING,
    [LAPSED] = FAN_EVENT_PENDING,      [PROCESSING] = FAN_EVENT_PROCESSING,
    [COMPLETED] = FAN_EVENT_COMPLETED, [FAILED] = FAN_EVENT_FAILED,
};

/* What comes of an action; `after` where it is FAN_OK. */
struct outcome {
    enum fan_status status;
    enum fan_event_status after;
};

#define TO(status)                                                                                 \
    {                                                                                              \
        FAN_OK, FAN_EVENT_##status                                                                 \
    }
#define NO(status)                                                                                 \
    {                                                                                              \
        FAN_##status, FAN_EVENT_PENDING                                                            \
    }

/* clang-format off */
static const struct outcome claimed[] = {
    [DONE] = TO(COMPLETED), [RETRY] = TO(PENDING), [FAIL] = TO(FAILED), [HAND_BACK] = TO(PENDING),
    [OLD_DONE] = NO(LOST), [OLD_FAIL] = NO(LOST), [RENEW] = TO(PROCESSING),
    [TO_PENDING] = NO(MISUSE), [TO_PROCESSING] = NO(MISUSE), [TO_COMPLETED] = NO(MISUSE),
    [TO_FAILED] = NO(MISUSE),
};

/* Until another has taken it, its token still settles it. */
static const struct outcome lapsed[] = {
    [DONE] = TO(COMPLETED), [RETRY] = TO(PENDING), [FAIL] = TO(FAILED), [HAND_BACK] = TO(PENDING),
    [OLD_DONE] = NO(LOST), [OLD_FAIL] = NO(LOST), [RENEW] = NO(LOST),
    [TO_PENDING] = NO(CONFLICT), [TO_PROCESSING] = NO(CONFLICT), [TO_COMPLETED] = TO(COMPLETED),
    [TO_FAILED] = NO(CONFLICT),
};

static const struct outcome pending[] = {
    [DONE] = NO(LOST), [RETRY] = NO(LOST), [FAIL] = NO(LOST), [HAND_BACK] = NO(LOST),
    [OLD_DONE] = NO(LOST), [OLD_FAIL] = NO(LOST), [RENEW] = NO(LOST),
    [TO_PENDING] = NO(CONFLICT), [TO_PROCESSING] = NO(CONFLICT), [TO_COMPLETED] = TO(COMPLETED),
    [TO_FAILED] = NO(CONFLICT),
};

static const struct outcome completed[] = {
    [DONE] = NO(LOST), [RETRY] = NO(LOST), [FAIL] = NO(LOST), [HAND_BACK] = NO(LOST),
    [OLD_DONE] = NO(LOST), [OLD_FAIL] = NO(LOST), [RENEW] = NO(LOST),
    [TO_PENDING] = NO(CONFLICT), [TO_PROCESSING] = NO(CONFLICT), [TO_COMPLETED] = NO(CONFLICT),
    [TO_FAILED] = NO(CONFLICT),
};

static const struct outcome failed[] = {
    [DONE] = NO(LOST), [RETRY] = NO(LOST), [FAIL] = NO(LOST), [HAND_BACK] = NO(LOST),
    [OLD_DONE] = NO(LOST), [OLD_FAIL] = NO(LOST), [RENEW] = NO(LOST),
    [TO_PENDING] = TO(PENDING), [TO_PROCESSING] = NO(CONFLICT), [TO_COMPLETED] = TO(COMPLETED),
    [TO_FAILED] = NO(CONFLICT),
};
/* clang-format on */

static const struct outcome *const outcomes[STATE_COUNT] = {
    [UNSEEN] = pending, [WAITING] = pending,    [BACK] = pending,        [REDRIVEN] = pending,
    [LAPSED] = lapsed,  [PROCESSING] = claimed, [COMPLETED] = completed, [FAILED] = failed,
};

/* One event in a state, in a group that wants nothing else. */
struct trial {
    char group[16];
    char id[16];
    struct fan_group_name name;
    uint64_t seq;
    struct fan_claim claim;
};

static void begin(struct fan__suite *suite, struct trial *trial, enum state state, int number)
{
    char type[32];
    snprintf(trial->group, sizeof(trial->group), "g%d-%d", (int)state, number);
    snprintf(trial->id, sizeof(trial->id), "e%d-%d", (int)state, number);
    snprintf(type, sizeof(type), "only.%s", trial->group);
    trial->name = (struct fan_group_name){ .group = trial->group, .handler = "" };
    fan__suite_create(suite, &trial->name, FAN_START_NOW, type);
    trial->seq = fan__suite_put_simple(suite, type, "", trial->id);
    if (state == UNSEEN)
        return;
    uint32_t lease_ms = state == LAPSED ? fan__suite_short_ms(suite) : FAN__SUITE_LONG_MS;
    const struct fan__suite_claims *claims =
        fan__suite_claim(suite, &trial->name, "me", 1, lease_ms);
    CHECK_EQUAL(suite, claims->count, 1);
    trial->claim = claims->items[0];
    if (state == WAITING)
        CHECK_OK(suite,
                 fan__suite_retry(suite, &trial->name, &trial->claim, FAN__SUITE_LONG_MS, "later"));
    if (state == BACK)
        CHECK_OK(suite, fan__suite_settle(suite, &trial->name, &trial->claim, FAN_VERDICT_HAND_BACK,
                                          NULL));
    if (state == COMPLETED)
        CHECK_OK(suite,
                 fan__suite_settle(suite, &trial->name, &trial->claim, FAN_VERDICT_DONE, NULL));
    if (state == FAILED || state == REDRIVEN)
        CHECK_OK(suite,
                 fan__suite_settle(suite, &trial->name, &trial->claim, FAN_VERDICT_FAIL, "broke"));
    if (state == REDRIVEN)
        CHECK_OK(suite, fan_group_move(suite->store, &trial->name, trial->seq, FAN_EVENT_PENDING));
}

/* Lets lapse what is to lapse, of as many trials as there are. */
static void let_lapse(struct fan__suite *suite, enum state state)
{
    uint32_t short_ms = fan__suite_short_ms(suite);
    if (state == LAPSED)
        fan__suite_pass_ms(suite, short_ms + short_ms / 2);
}

static enum fan_status act(struct fan__suite *suite, const struct trial *trial, enum action action)
{
    static const enum fan_verdict verdicts[] = {
        [DONE] = FAN_VERDICT_DONE,     [RETRY] = FAN_VERDICT_RETRY,
        [FAIL] = FAN_VERDICT_FAIL,     [HAND_BACK] = FAN_VERDICT_HAND_BACK,
        [OLD_DONE] = FAN_VERDICT_DONE, [OLD_FAIL] = FAN_VERDICT_FAIL,
    };
    struct fan_claim claim = { .seq = trial->seq, .token = trial->claim.token };
    if (action >= TO_PENDING)
        return fan_group_move(suite->store, &trial->name, trial->seq,
                              (enum fan_event_status)(action - TO_PENDING));
    if (action == RENEW)
        return fan__suite_renew(suite, &trial->name, &claim, FAN__SUITE_LONG_MS);
    if (action == OLD_DONE || action == OLD_FAIL)
        claim.token += 1000000;
    return fan__suite_settle(suite, &trial->name, &claim, verdicts[action], "why");
}

static unsigned attempts_after(unsigned attempts, enum action action)
{
    if (action == HAND_BACK)
        return attempts - 1;
    return action == TO_PENDING ? 0 : attempts;
}

static void check_action(struct fan__suite *suite, const struct trial *trial, enum state state,
                         enum action action)
{
    const struct outcome *outcome = &outcomes[state][action];
    struct fan__suite_delivery before = fan__suite_delivery_of(suite, &trial->name, trial->seq);
    CHECK_EQUAL(suite, fan__suite_state_of(suite, trial->id).status, statuses[state]);
    enum fan_status status = act(suite, trial, action);
    if (status != outcome->status)
        fan__suite_fail(suite, __FILE__, __LINE__, "%s of one that is %s gave %s, expected %s",
                        action_names[action], state_names[state], fan_status_name(status),
                        fan_status_name(outcome->status));
    bool moved = status == FAN_OK;
    enum fan_event_status expected = moved ? outcome->after : statuses[state];
    struct fan__suite_delivery after = fan__suite_delivery_of(suite, &trial->name, trial->seq);
    CHECK_EQUAL(suite, fan__suite_state_of(suite, trial->id).status, expected);
    CHECK(suite, after.found || (state == UNSEEN && !moved));
    if (!after.found)
        return;
    CHECK_EQUAL(suite, after.delivery.status, expected);
    CHECK_EQUAL(suite, after.delivery.attempts,
                moved ? attempts_after(before.delivery.attempts, action)
                      : before.delivery.attempts);
    if (!moved && before.found) {
        CHECK_EQUAL(suite, after.delivery.due_us, before.delivery.due_us);
        CHECK_EQUAL(suite, after.delivery.processed_us, before.delivery.processed_us);
        CHECK_EQUAL(suite, after.delivery.completed_us, before.delivery.completed_us);
        CHECK_TEXT(suite, after.error, before.error);
    }
}

static void every_move(struct fan__suite *suite)
{
    struct trial *trials = fan__suite_alloc(suite, ACTION_COUNT, sizeof(*trials));
    for (int state = UNSEEN; state < STATE_COUNT; state++) {
        for (int action = DONE; action < ACTION_COUNT; action++)
            begin(suite, &trials[action], (enum state)state, action);
        let_lapse(suite, (enum state)state);
        for (int action = DONE; action < ACTION_COUNT; action++)
            check_action(suite, &trials[action], (enum state)state, (enum action)action);
    }
    CHECK_IS(suite, fan_group_move(suite->store, &trials[0].name, 999999, FAN_EVENT_COMPLETED),
             FAN_NOT_FOUND);
}

/* A claim takes what is pending and due, and nothing else. */
static void every_claim(struct fan__suite *suite)
{
    static const unsigned attempts[STATE_COUNT] = {
        [UNSEEN] = 1,
        [BACK] = 1,
        [REDRIVEN] = 1,
        [LAPSED] = 2,
    };
    for (int state = UNSEEN; state < STATE_COUNT; state++) {
        struct trial trial = { .seq = 0 };
        begin(suite, &trial, (enum state)state, 0);
        let_lapse(suite, (enum state)state);
        const struct fan__suite_claims *claims =
            fan__suite_claim(suite, &trial.name, "another", 1, FAN__SUITE_LONG_MS);
        if (claims->count != (attempts[state] > 0))
            fan__suite_fail(suite, __FILE__, __LINE__, "one that is %s gave %zu to a claim",
                            state_names[state], claims->count);
        if (claims->count == 0)
            continue;
        CHECK_EQUAL(suite, claims->items[0].attempt, attempts[state]);
        CHECK_EQUAL(suite, claims->items[0].lapses, state == LAPSED);
        CHECK_TEXT(suite, fan__suite_delivery_of(suite, &trial.name, trial.seq).owner, "another");
        if (trial.claim.token != 0)
            CHECK_IS(suite, act(suite, &trial, DONE), FAN_LOST);
    }
}

static void every_state_is_kept(struct fan__suite *suite)
{
    struct trial *trials = fan__suite_alloc(suite, STATE_COUNT, sizeof(*trials));
    struct fan__suite_delivery *before = fan__suite_alloc(suite, STATE_COUNT, sizeof(*before));
    for (int state = UNSEEN; state < STATE_COUNT; state++)
        begin(suite, &trials[state], (enum state)state, 0);
    let_lapse(suite, LAPSED);
    for (int state = UNSEEN; state < STATE_COUNT; state++)
        before[state] = fan__suite_delivery_of(suite, &trials[state].name, trials[state].seq);
    fan__suite_reopen(suite);
    for (int state = UNSEEN; state < STATE_COUNT; state++) {
        const struct fan_delivery *old = &before[state].delivery;
        struct fan__suite_delivery after =
            fan__suite_delivery_of(suite, &trials[state].name, trials[state].seq);
        CHECK_EQUAL(suite, fan__suite_state_of(suite, trials[state].id).status, statuses[state]);
        CHECK_EQUAL(suite, after.found, before[state].found);
        if (!after.found)
            continue;
        CHECK_EQUAL(suite, after.delivery.status, statuses[state]);
        CHECK_EQUAL(suite, after.delivery.attempts, old->attempts);
        CHECK_EQUAL(suite, after.delivery.lapses, old->lapses);
        CHECK_EQUAL(suite, after.delivery.reason, old->reason);
        CHECK_EQUAL(suite, after.delivery.due_us, old->due_us);
        CHECK_EQUAL(suite, after.delivery.processed_us, old->processed_us);
        CHECK_EQUAL(suite, after.delivery.completed_us, old->completed_us);
        CHECK_TEXT(suite, after.owner, before[state].owner);
        CHECK_TEXT(suite, after.error, before[state].error);
        CHECK_IS(suite, act(suite, &trials[state], DONE), outcomes[state][DONE].status);
    }
}

const struct fan__suite_behaviour fan__suite_moves[] = {
    { "P04_every_move_and_no_other", every_move, 0 },
    { "P04_a_claim_takes_what_is_pending_and_due", every_claim, 0 },
    { "P04_every_state_outlives_the_close", every_state_is_kept, FAN__SUITE_REOPEN },
    { .name = NULL },
};
