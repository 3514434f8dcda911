/* See claim.h. */
#include "server/claim.h"

#include "base/buffer.h"
#include "base/env.h"
#include "base/status.h"
#include "broker/dispatch.h"
#include "broker/metrics.h"
#include "event/json.h"
#include "server/daemon.h"
#include "server/field.h"
#include "server/group.h"
#include "server/hub.h"
#include "server/reply.h"

#include <fanfare/batch.h>

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define LAPSES_TEXT "its holders were lost before they settled it"
/* Of claims for one, each second begins with what is due again. */
#define SINGLES_MAX 2

/* A request that waits. */
struct fan__waiter {
    struct fan__waiter *next;
    struct fan__seat *seat;
    struct fan__http_request *request;
    char owner[FAN_TEXT_SIZE_MAX + 1];
    struct fan_claim_options options;
    uint64_t until_ms;
    uint64_t tried; /* the round in which nothing was found for it, 0 for none */
    bool fresh;     /* came after the claim that runs now */
    bool gone;
};

/* A group's handler, for which one claim runs at a time. */
struct fan__seat {
    struct fan__turn turn;
    struct fan__claims *claims;
    struct fan__seat *next;
    struct fan__waiter *first;
    struct fan__waiter *asking; /* for whom the claim is */
    uint64_t round;             /* one more each time there may be something */
    uint64_t asked_round;
    uint64_t quiet_until_ms;
    char group[FAN_TEXT_SIZE_MAX + 1];
    char handler[FAN_TEXT_SIZE_MAX + 1];
    struct fan_group_name name;

    /* Of the claim. */
    struct fan_batch *batch;
    struct fan_claim *given;
    size_t count;
    struct fan__buffer json;
    enum fan_status status;
};

static uint64_t now_ms(const struct fan__claims *claims)
{
    return uv_now(fan__http_loop_uv(claims->loop));
}

/* ---- The claim, on a thread that may wait ---- */

static enum fan_status settle(struct fan__seat *seat, struct fan_settle *items, size_t count)
{
    return fan_group_settle(seat->claims->daemon->store, &seat->name, items, count);
}

/* Writes the claims that came last, whose events the batch has. */
static void write_claims(struct fan__seat *seat)
{
    struct fan__buffer *json = &seat->json;
    size_t first = seat->count - fan_batch_count(seat->batch);
    for (size_t i = first; i < seat->count; i++) {
        const struct fan_claim *claim = &seat->given[i];
        fan__buffer_add_format(json,
                               "%s\n{\"seq\":%" PRIu64 ",\"token\":\"%" PRIu64
                               "\",\"attempt\":%u,\"lapses\":%u,\"event\":",
                               i > 0 ? "," : "", claim->seq, claim->token, claim->attempt,
                               claim->lapses);
        fan__event_to_json(fan_batch_event(seat->batch, i - first), NULL, 0, json);
        fan__buffer_add(json, "}", 1);
    }
}

/* Adds to what is given what lapsed less often than `below`, 0 for all. */
static enum fan_status claim_some(struct fan__seat *seat, size_t limit, unsigned below)
{
    struct fan_claim_options options = seat->asking->options;
    options.limit = limit;
    options.lapses_below = below;
    enum fan_status status = fan_group_claim(seat->claims->daemon->store, &seat->name, &options,
                                             seat->batch, seat->given + seat->count);
    if (status == FAN_OK)
        seat->count += fan_batch_count(seat->batch);
    return status;
}

static const struct fan_claim *last_of(const struct fan__seat *seat)
{
    return &seat->given[seat->count - 1];
}

/* Makes a dead letter of the last one. */
static enum fan_status bury(struct fan__seat *seat)
{
    struct fan_settle dead = { .seq = last_of(seat)->seq,
                               .token = last_of(seat)->token,
                               .verdict = FAN_VERDICT_FAIL,
                               .error = LAPSES_TEXT,
                               .reason = FAN_DEAD_LAPSES };
    enum fan_status status = settle(seat, &dead, 1);
    if (status != FAN_OK)
        return status;
    fan__metrics_settled(seat->claims->daemon->broker, &seat->name, &dead, 1);
    seat->count--;
    return FAN_OK;
}

/* Adds one of all that is due, whatever became of its holders. */
static enum fan_status claim_one(struct fan__seat *seat)
{
    enum fan_status status = claim_some(seat, 1, 0);
    while (status == FAN_OK && last_of(seat)->lapses >= FAN__LAPSES_MAX) {
        status = bury(seat);
        if (status == FAN_OK)
            status = claim_some(seat, 1, 0);
    }
    return status;
}

static bool is_suspect(const struct fan__seat *seat)
{
    return seat->count > 0 && last_of(seat)->lapses == FAN__LAPSES_MAX - 1;
}

static enum fan_status hand_back(struct fan__seat *seat, size_t count)
{
    struct fan_settle items[FAN__CLAIM_LIMIT_MAX];
    for (size_t i = 0; i < count; i++)
        items[i] = (struct fan_settle){ .seq = seat->given[i].seq,
                                        .token = seat->given[i].token,
                                        .verdict = FAN_VERDICT_HAND_BACK };
    return count > 0 ? settle(seat, items, count) : FAN_OK;
}

/* What cannot be handed back comes free when its lease ends. */
static void hand_back_all(struct fan__seat *seat)
{
    if (hand_back(seat, seat->count) != FAN_OK)
        fan__log(seat->claims->daemon->env, FAN_LOG_WARNING,
                 "%zu claims of a client that has gone stay until their leases end", seat->count);
}

static void begin_claims(struct fan__seat *seat)
{
    fan__buffer_clear(&seat->json);
    fan__buffer_add_text(&seat->json, "{\"claims\":[");
}

/* Gives up what came before a suspect, which is given alone. None of that is a suspect. */
static enum fan_status keep_suspect(struct fan__seat *seat)
{
    enum fan_status status = hand_back(seat, seat->count - 1);
    seat->given[0] = *last_of(seat);
    seat->count = 1;
    begin_claims(seat);
    write_claims(seat);
    return status;
}

/*
 * Whether to look for suspects, which claims for many leave out. By chance, as who asks next, for
 * how many and on which loop is not known: so they come up where there is always something else.
 */
static bool looks_for_suspects(const struct fan__seat *seat)
{
    unsigned char random;
    fan__random(seat->claims->daemon->env, &random, sizeof(random));
    return random % FAN__CLAIM_SUSPECT_SHARE == 0;
}

/* One by one, until it is a suspect or one is due again: no suspect is due before that. */
static enum fan_status claim_singly(struct fan__seat *seat, size_t limit)
{
    enum fan_status status = FAN_OK;
    for (unsigned i = 0; i < SINGLES_MAX && seat->count < limit; i++) {
        status = claim_one(seat);
        if (status != FAN_OK)
            break;
        if (is_suspect(seat))
            return keep_suspect(seat);
        write_claims(seat);
        if (last_of(seat)->attempt > 1)
            break;
    }
    return status == FAN_AGAIN && seat->count > 0 ? FAN_OK : status;
}

static enum fan_status claim(struct fan__seat *seat)
{
    size_t limit = seat->asking->options.limit;
    enum fan_status status = FAN_AGAIN;
    bool single = limit == 1 || looks_for_suspects(seat);
    if (single)
        status = claim_singly(seat, limit);
    if (is_suspect(seat) || seat->count == limit || (single && status != FAN_OK))
        return status;
    status = claim_some(seat, limit - seat->count, FAN__LAPSES_MAX - 1);
    if (status == FAN_OK)
        write_claims(seat);
    else if (status == FAN_AGAIN)
        status = seat->count > 0 ? FAN_OK : claim_singly(seat, 1);
    return status;
}

static void on_claim_run(struct fan__job *job)
{
    struct fan__seat *seat = (struct fan__seat *)job;
    seat->count = 0;
    begin_claims(seat);
    seat->status = claim(seat);
    fan__buffer_add_text(&seat->json, "]}\n");
    if (seat->status == FAN_OK && seat->json.failed)
        seat->status = FAN_NO_MEMORY;
    if (seat->status != FAN_OK && seat->status != FAN_AGAIN)
        hand_back_all(seat);
}

static void on_hand_back_run(struct fan__job *job)
{
    hand_back_all((struct fan__seat *)job);
}

/* ---- Waiting ---- */

static void free_waiter(struct fan__waiter *waiter)
{
    struct fan__claims *claims = waiter->seat->claims;
    claims->count--;
    fan__free(claims->daemon->env, waiter);
}

static void free_seat(struct fan__seat *seat)
{
    const struct fan_env *env = seat->claims->daemon->env;
    struct fan__seat **link = &seat->claims->seats;
    while (*link && *link != seat)
        link = &(*link)->next;
    if (*link)
        *link = seat->next;
    fan_batch_free(seat->batch);
    fan__buffer_deinit(&seat->json);
    fan__free(env, seat->given);
    fan__free(env, seat);
}

static void answer_empty(struct fan__waiter *waiter)
{
    static const char none[] = "{\"claims\":[]}\n";
    if (waiter->gone)
        fan__http_drop(waiter->request);
    else
        fan__http_answer(waiter->request, 200, "application/json", none, sizeof(none) - 1);
    free_waiter(waiter);
}

static void answer_fault(struct fan__waiter *waiter, enum fan_status status)
{
    struct fan_error error = FAN_ERROR_INIT;
    if (waiter->gone)
        fan__http_drop(waiter->request);
    else if (status == FAN_NOT_FOUND)
        fan__http_problem(waiter->request, 404, "group", "has no such handler in this log");
    else
        fan__reply_fault(waiter->request, status, &error);
    free_waiter(waiter);
}

/* Whose turn it is: the first for whom the present round has not been tried. */
static struct fan__waiter **find_next(struct fan__seat *seat)
{
    struct fan__waiter **link = &seat->first;
    while (*link && (*link)->tried == seat->round)
        link = &(*link)->next;
    return link;
}

static void arm(struct fan__claims *claims, bool soon);
static void on_claimed(struct fan__job *job);

/* Claims for who is next, or lets the seat go when nobody is there. */
static void go_on(struct fan__seat *seat)
{
    if (seat->asking)
        return;
    struct fan__waiter **link = find_next(seat);
    struct fan__waiter *waiter = *link;
    if (!waiter) {
        if (!seat->first)
            free_seat(seat);
        return;
    }
    if (waiter->tried != 0 && now_ms(seat->claims) < seat->quiet_until_ms) {
        arm(seat->claims, true);
        return;
    }
    *link = waiter->next;
    seat->asking = waiter;
    seat->asked_round = seat->round;
    for (struct fan__waiter *other = seat->first; other; other = other->next)
        other->fresh = false;
    seat->turn.job.run = on_claim_run;
    seat->turn.job.done = on_claimed;
    fan__turns_start(seat->claims->turns, &seat->turn);
}

static void wake(struct fan__seat *seat)
{
    seat->round++;
    go_on(seat);
}

void fan__claims_wake(struct fan__claims *claims)
{
    struct fan__seat *next;
    for (struct fan__seat *seat = claims->seats; seat; seat = next) {
        next = seat->next;
        wake(seat);
    }
}

/* Answers those of a seat whose time is over. */
static void end_waits(struct fan__seat *seat)
{
    uint64_t now = now_ms(seat->claims);
    struct fan__waiter **link = &seat->first;
    while (*link) {
        struct fan__waiter *waiter = *link;
        if (waiter->until_ms > now || waiter->tried == 0) {
            link = &waiter->next;
            continue;
        }
        *link = waiter->next;
        answer_empty(waiter);
    }
}

static void on_timer(uv_timer_t *timer)
{
    struct fan__hub *hub = timer->data;
    struct fan__claims *claims = &hub->claims;
    struct fan__seat *next;
    for (struct fan__seat *seat = claims->seats; seat; seat = next) {
        next = seat->next;
        end_waits(seat);
        wake(seat);
    }
    if (claims->seats)
        arm(claims, false);
}

/* Has the timer run: after the pause between looks, or already after that between two claims. */
static void arm(struct fan__claims *claims, bool soon)
{
    uint64_t pause_ms = soon ? FAN__CLAIM_QUIET_MS : FAN__CLAIM_LOOK_MS;
    if (!uv_is_active((uv_handle_t *)&claims->timer) ||
        uv_timer_get_due_in(&claims->timer) > pause_ms)
        uv_timer_start(&claims->timer, on_timer, pause_ms, 0);
}

/* ---- After a claim ---- */

/* Nothing for this one; what holds for it holds for those who were there and ask without order. */
static void put_back(struct fan__seat *seat, struct fan__waiter *waiter)
{
    waiter->tried = seat->asked_round;
    if (!waiter->options.ordered)
        for (struct fan__waiter *other = seat->first; other; other = other->next)
            if (!other->fresh && !other->options.ordered)
                other->tried = seat->asked_round;
    seat->quiet_until_ms = now_ms(seat->claims) + FAN__CLAIM_QUIET_MS;
    arm(seat->claims, false);
    if (waiter->gone || waiter->until_ms <= now_ms(seat->claims)) {
        answer_empty(waiter);
        return;
    }
    waiter->next = seat->first;
    seat->first = waiter;
}

static void end_claim(struct fan__seat *seat)
{
    seat->asking = NULL;
    fan_batch_clear(seat->batch);
    fan__buffer_deinit(&seat->json);
    end_waits(seat);
    go_on(seat);
}

static void on_handed_back(struct fan__job *job)
{
    struct fan__seat *seat = (struct fan__seat *)job;
    fan__turns_next(seat->claims->turns);
    fan__http_drop(seat->asking->request);
    free_waiter(seat->asking);
    end_claim(seat);
}

static void on_claimed(struct fan__job *job)
{
    struct fan__seat *seat = (struct fan__seat *)job;
    struct fan__waiter *waiter = seat->asking;
    fan__turns_next(seat->claims->turns);
    if (seat->status == FAN_OK && waiter->gone) {
        seat->turn.job.run = on_hand_back_run;
        seat->turn.job.done = on_handed_back;
        fan__turns_start(seat->claims->turns, &seat->turn);
        return;
    }
    if (seat->status == FAN_AGAIN) {
        put_back(seat, waiter);
    } else if (seat->status == FAN_OK) {
        fan__reply_json(waiter->request, 200, &seat->json);
        free_waiter(waiter);
    } else {
        answer_fault(waiter, seat->status);
    }
    end_claim(seat);
}

/* ---- Coming and going ---- */

static void unlink_waiter(struct fan__waiter *waiter)
{
    struct fan__waiter **link = &waiter->seat->first;
    while (*link != waiter)
        link = &(*link)->next;
    *link = waiter->next;
}

static void on_gone(struct fan__http_request *request, void *context)
{
    struct fan__waiter *waiter = context;
    struct fan__seat *seat = waiter->seat;
    waiter->gone = true;
    if (waiter == seat->asking)
        return;
    unlink_waiter(waiter);
    fan__http_drop(request);
    free_waiter(waiter);
    go_on(seat);
}

static void on_closing(struct fan__http_request *request, void *context)
{
    struct fan__waiter *waiter = context;
    struct fan__seat *seat = waiter->seat;
    waiter->until_ms = 0;
    if (waiter == seat->asking || waiter->tried == 0)
        return;
    unlink_waiter(waiter);
    (void)request;
    answer_empty(waiter);
    go_on(seat);
}

static struct fan__seat *find_seat(struct fan__claims *claims, const struct fan_group_name *name)
{
    struct fan__seat *seat = claims->seats;
    while (seat &&
           (strcmp(seat->group, name->group) != 0 || strcmp(seat->handler, name->handler) != 0))
        seat = seat->next;
    return seat;
}

static struct fan__seat *make_seat(struct fan__claims *claims, const struct fan_group_name *name)
{
    const struct fan_env *env = claims->daemon->env;
    struct fan__seat *seat = fan__alloc_zero(env, 1, sizeof(*seat));
    if (!seat)
        return NULL;
    seat->claims = claims;
    seat->round = 1;
    strcpy(seat->group, name->group);
    strcpy(seat->handler, name->handler);
    seat->name = (struct fan_group_name){ seat->group, seat->handler };
    fan__buffer_init(&seat->json, env);
    seat->given = fan__alloc_zero(env, FAN__CLAIM_LIMIT_MAX, sizeof(*seat->given));
    seat->next = claims->seats;
    claims->seats = seat;
    if (seat->given && fan_batch_new(env, &seat->batch) == FAN_OK)
        return seat;
    free_seat(seat);
    return NULL;
}

struct claim_body {
    const char *owner;
    uint64_t limit;
    uint64_t lease_ms;
    uint64_t wait_ms;
    bool ordered;
};

static enum fan_status read_claim(struct fan__http_request *request, struct fan__waiter *waiter,
                                  struct fan_group_name *ret_name, struct fan_error *error)
{
    static const struct fan__field fields[] = {
        { "owner", FAN__FIELD_TEXT, true, offsetof(struct claim_body, owner), 1,
          FAN_TEXT_SIZE_MAX },
        { "limit", FAN__FIELD_NUMBER, false, offsetof(struct claim_body, limit), 1,
          FAN__CLAIM_LIMIT_MAX },
        { "lease_ms", FAN__FIELD_NUMBER, false, offsetof(struct claim_body, lease_ms),
          FAN__GROUP_LEASE_MS_MIN, FAN__GROUP_LEASE_MS_MAX },
        { "wait_ms", FAN__FIELD_NUMBER, false, offsetof(struct claim_body, wait_ms), 0,
          FAN__CLAIM_WAIT_MS_MAX },
        { "ordered", FAN__FIELD_FLAG, false, offsetof(struct claim_body, ordered), 0, 0 },
        { NULL, FAN__FIELD_TEXT, false, 0, 0, 0 },
    };
    struct claim_body body = { .limit = 1, .lease_ms = FAN__GROUP_LEASE_MS_DEFAULT };
    json_t *value = NULL;
    enum fan_status status = fan__group_name(request, ret_name, error);
    if (status == FAN_OK)
        status = fan__fields_parse(fan__http_body(request), fields, &body, &value, error);
    if (status != FAN_OK)
        return status;
    snprintf(waiter->owner, sizeof(waiter->owner), "%s", body.owner);
    json_decref(value);
    waiter->options = (struct fan_claim_options){
        .size = FAN_CLAIM_OPTIONS_SIZE,
        .owner = waiter->owner,
        .limit = body.limit,
        .lease_ms = (uint32_t)body.lease_ms,
        .ordered = body.ordered,
    };
    waiter->until_ms = body.wait_ms;
    return FAN_OK;
}

static void sit_down(struct fan__waiter *waiter, struct fan__seat *seat)
{
    static const struct fan__http_calls calls = { .gone = on_gone, .closing = on_closing };
    struct fan__claims *claims = seat->claims;
    waiter->seat = seat;
    waiter->fresh = true;
    bool stopping = fan__http_loop_stopping(claims->loop);
    waiter->until_ms = stopping ? 0 : now_ms(claims) + waiter->until_ms;
    struct fan__waiter **link = &seat->first;
    while (*link)
        link = &(*link)->next;
    *link = waiter;
    claims->count++;
    fan__http_attach(waiter->request, &calls, waiter);
    go_on(seat);
}

void fan__claim_handle(struct fan__http_request *request)
{
    struct fan__hub *hub = fan__http_loop_context(fan__http_loop(request));
    struct fan__claims *claims = &hub->claims;
    const struct fan_env *env = claims->daemon->env;
    struct fan_group_name name;
    struct fan_error error = FAN_ERROR_INIT;
    if (claims->count >= FAN__CLAIM_COUNT_MAX) {
        fan__reply_busy(request, NULL, "too many claims wait here already");
        return;
    }
    struct fan__waiter *waiter = fan__alloc_zero(env, 1, sizeof(*waiter));
    enum fan_status status = waiter ? read_claim(request, waiter, &name, &error) : FAN_NO_MEMORY;
    struct fan__seat *seat = NULL;
    if (status == FAN_OK) {
        seat = find_seat(claims, &name);
        if (!seat)
            seat = make_seat(claims, &name);
    }
    if (!seat) {
        fan__free(env, waiter);
        fan__reply_fault(request, status == FAN_OK ? FAN_NO_MEMORY : status, &error);
        return;
    }
    waiter->request = request;
    sit_down(waiter, seat);
}

/* ---- The loop's ---- */

void fan__claims_init(struct fan__claims *claims, struct fan__daemon *daemon,
                      struct fan__http_loop *loop, struct fan__turns *turns)
{
    *claims = (struct fan__claims){ .daemon = daemon, .loop = loop, .turns = turns };
    uv_timer_init(fan__http_loop_uv(loop), &claims->timer);
}

void fan__claims_close(struct fan__claims *claims, uv_close_cb closed)
{
    assert(!claims->seats && claims->count == 0);
    uv_close((uv_handle_t *)&claims->timer, closed);
}
