/* See member.h. */
#include "cli/member.h"

#include "cli/say.h"
#include "cli/slice.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* How long the server holds a claim, and how much longer its silence is taken for patience. */
#define WAIT_MS 30000
#define SILENCE_MS 15000
#define PAUSE_MS 20
#define RETRY_MS 200
#define RETRY_MS_MAX 10000
#define PAUSE_MS_MAX 60000
#define ERROR_SIZE_MAX 1000

static const char *const verdicts[] = { "done", "retry", "fail", "hand_back" };

static void init_wire(struct fan__member *member, struct fan__wire *wire, const char *verb)
{
    *wire = (struct fan__wire){ .backoff = { RETRY_MS, RETRY_MS_MAX, 0 } };
    fan__group_add_target(&wire->target, member->group, verb);
}

void fan__member_init(struct fan__member *member, size_t work_count)
{
    member->works = fan__cli_resize(NULL, work_count, sizeof(*member->works));
    memset(member->works, 0, work_count * sizeof(*member->works));
    member->work_count = work_count;
    init_wire(member, &member->claim, "claim");
    init_wire(member, &member->settle, "settle");
    init_wire(member, &member->renew, "renew");
}

static void deinit_wire(struct fan__wire *wire)
{
    if (wire->pending)
        fan__client_end(wire->pending);
    fan__text_deinit(&wire->target);
    fan__text_deinit(&wire->body);
    fan__answer_deinit(&wire->answer);
}

void fan__member_deinit(struct fan__member *member)
{
    deinit_wire(&member->claim);
    deinit_wire(&member->settle);
    deinit_wire(&member->renew);
    for (size_t i = 0; i < member->work_count; i++) {
        fan__text_deinit(&member->works[i].event);
        fan__text_deinit(&member->works[i].error);
    }
    free(member->works);
}

size_t fan__member_count(const struct fan__member *member, enum fan__work_state state)
{
    size_t count = 0;
    for (size_t i = 0; i < member->work_count; i++)
        count += member->works[i].state == state;
    return count;
}

static void free_work(struct fan__work *work)
{
    work->state = FAN__WORK_FREE;
    fan__text_clear(&work->event);
    fan__text_clear(&work->error);
}

void fan__member_end(struct fan__work *work, const char *verdict)
{
    work->verdict = verdict;
    if (work->lost)
        free_work(work);
    else
        work->state = FAN__WORK_ENDED;
}

/* ---- Calls ---- */

static void begin(struct fan__member *member, struct fan__wire *wire, int64_t silence_ms)
{
    wire->call = (struct fan__call){
        .target = wire->target.data,
        .content_type = "application/json",
        .body = { wire->body.data, wire->body.size },
        .silence_ms = silence_ms,
    };
    wire->pending = fan__client_begin(member->client, &wire->call, &wire->answer);
}

/* What goes on by itself when the server is back. */
static void come_again(struct fan__member *member, struct fan__wire *wire)
{
    int64_t pause_ms = fan__backoff_next(&wire->backoff, wire->answer.retry_after_ms);
    wire->next_ms = fan__now_ms() + pause_ms;
    if (member->away)
        return;
    member->away = true;
    struct fan__text why = { NULL, 0, 0 };
    if (wire->answer.outcome == FAN__ANSWERED)
        fan__answer_describe(&wire->answer, &why);
    else
        fan__text_add_text(&why, wire->answer.why);
    fan__say("%s: %s; trying again until it answers", fan__client_url(member->client), why.data);
    fan__text_deinit(&why);
}

/* Whether an answer came that can be read; else it is tried again, or the end. */
static bool end(struct fan__member *member, struct fan__wire *wire)
{
    fan__client_end(wire->pending);
    wire->pending = NULL;
    const struct fan__answer *answer = &wire->answer;
    bool answered = answer->outcome == FAN__ANSWERED;
    if (!answered || fan__answer_is_passing(answer)) {
        wire->repeats = wire->repeats || answer->outcome == FAN__LOST;
        come_again(member, wire);
        return false;
    }
    json_t *value = NULL;
    if (answer->status == 200 && strcmp(answer->type, "application/json") == 0)
        value = json_loadb(answer->body.data ? answer->body.data : "", answer->body.size,
                           JSON_DECODE_INT_AS_REAL, NULL);
    bool good = json_is_object(value);
    json_decref(value);
    if (!good) {
        if (answer->status == 200)
            fan__say("%s answers, but with no JSON object: is it a Fanfare server?",
                     fan__client_url(member->client));
        else
            fan__say_answer(member->client, answer);
        member->failed = true;
        return false;
    }
    if (member->away)
        fan__say("%s answers again", fan__client_url(member->client));
    member->away = false;
    wire->backoff.tries = 0;
    wire->next_ms = 0;
    return true;
}

static bool is_due(const struct fan__wire *wire)
{
    return !wire->pending && fan__now_ms() >= wire->next_ms;
}

/* ---- Claiming ---- */

static uint64_t number_of(struct fan_str object, const char *name)
{
    struct fan_str value;
    return fan__slice_find(object, name, &value) ? strtoull(value.data, NULL, 10) : 0;
}

/* Copies a token: a string of digits. */
static bool take_token(struct fan__work *work, struct fan_str token)
{
    size_t size = token.size > 2 ? token.size - 2 : 0;
    if (size == 0 || size >= sizeof(work->token) || token.data[0] != '"')
        return false;
    memcpy(work->token, token.data + 1, size);
    work->token[size] = '\0';
    return strspn(work->token, "0123456789") == size;
}

static bool take_claim(struct fan__member *member, struct fan_str claim)
{
    struct fan_str token;
    struct fan_str event;
    struct fan__work *work = member->works;
    while (work < member->works + member->work_count && work->state != FAN__WORK_FREE)
        work++;
    if (work == member->works + member->work_count || !fan__slice_find(claim, "token", &token) ||
        !fan__slice_find(claim, "event", &event) || event.data[0] != '{' ||
        !take_token(work, token))
        return false;
    work->seq = number_of(claim, "seq");
    work->attempt = (unsigned)number_of(claim, "attempt");
    work->lapses = (unsigned)number_of(claim, "lapses");
    fan__text_clear(&work->event);
    fan__text_add_one_line(&work->event, event);
    work->state = FAN__WORK_FRESH;
    work->lost = false;
    return work->seq > 0;
}

static void take_claims(struct fan__member *member)
{
    struct fan_str whole = { member->claim.answer.body.data, member->claim.answer.body.size };
    struct fan_str claims;
    bool good = fan__slice_find(whole, "claims", &claims) && claims.data[0] == '[';
    struct fan_str key;
    struct fan_str claim;
    struct fan__slice slice = { NULL, NULL };
    if (good)
        slice = fan__slice_open(claims);
    while (good && fan__slice_next(&slice, &key, &claim))
        good = claim.data[0] == '{' && take_claim(member, claim);
    /* A server that gives nothing and does not wait either is not asked without a pause. */
    if (good && fan__member_count(member, FAN__WORK_FRESH) == 0)
        member->claim.next_ms = fan__now_ms() + PAUSE_MS;
    if (good)
        return;
    fan__say("%s answers a claim with what is none", fan__client_url(member->client));
    member->failed = true;
}

static void step_claim(struct fan__member *member, size_t claim_count)
{
    struct fan__wire *wire = &member->claim;
    if (wire->pending && (fan__pending_done(wire->pending) || claim_count == 0)) {
        /* Who hangs up here is noticed, and what was claimed meanwhile is handed back there. */
        bool hangs_up = !fan__pending_done(wire->pending);
        if (hangs_up) {
            fan__client_end(wire->pending);
            wire->pending = NULL;
        } else if (end(member, wire)) {
            take_claims(member);
        }
    }
    if (is_due(wire))
        wire->next_ms = 0;
    size_t room = fan__member_count(member, FAN__WORK_FREE);
    if (room < claim_count)
        claim_count = room;
    /* What was given in this step takes of what was wanted. */
    if (claim_count == 0 || member->failed || !is_due(wire) ||
        fan__member_count(member, FAN__WORK_FRESH) > 0)
        return;
    fan__text_clear(&wire->body);
    fan__text_add_format(
        &wire->body,
        "{\"limit\":%zu,\"lease_ms\":%" PRIu32 ",\"wait_ms\":%d,\"ordered\":%s,\"owner\":\"%s\"}",
        claim_count, member->lease_ms, WAIT_MS, member->ordered ? "true" : "false", member->owner);
    begin(member, wire, WAIT_MS + SILENCE_MS);
}

/* ---- Results of settle and renew ---- */

/* Calls `each` with every work in `state` that the results are about, and whether it is lost. */
static void take_results(struct fan__member *member, struct fan__wire *wire,
                         void (*each)(struct fan__member *member, struct fan__work *work,
                                      bool lost))
{
    struct fan_str whole = { wire->answer.body.data, wire->answer.body.size };
    struct fan_str results;
    struct fan_str key;
    struct fan_str result;
    struct fan_str status;
    if (!fan__slice_find(whole, "results", &results) || results.data[0] != '[')
        return;
    struct fan__slice slice = fan__slice_open(results);
    while (fan__slice_next(&slice, &key, &result)) {
        if (result.data[0] != '{' || !fan__slice_find(result, "status", &status))
            continue;
        bool lost = status.size == 6 && memcmp(status.data, "\"lost\"", 6) == 0;
        uint64_t seq = number_of(result, "seq");
        for (size_t i = 0; i < member->work_count; i++)
            if (member->works[i].seq == seq)
                each(member, &member->works[i], lost);
    }
}

static void take_settled(struct fan__member *member, struct fan__work *work, bool lost)
{
    if (work->state != FAN__WORK_SETTLING)
        return;
    if (lost && !member->settle.repeats) {
        fan__say("event %" PRIu64 ": its lease ended too early; it is another's now", work->seq);
        member->lost++;
    } else {
        for (size_t i = 0; i < sizeof(verdicts) / sizeof(verdicts[0]); i++)
            member->settled[i] += strcmp(verdicts[i], work->verdict) == 0;
    }
    free_work(work);
}

static void add_item(struct fan__text *body, const struct fan__work *work)
{
    fan__text_add_format(body, "%s{\"seq\":%" PRIu64 ",\"token\":\"%s\"",
                         body->data[body->size - 1] == '[' ? "" : ",", work->seq, work->token);
}

/* Cuts to what the server keeps, and never within a character. */
static void cut(struct fan__text *text, size_t size_max)
{
    size_t size = text->size < size_max ? text->size : size_max;
    size_t start = size;
    while (start > 0 && size - start < 4 && ((unsigned char)text->data[start - 1] & 0xc0) == 0x80)
        start--;
    unsigned char lead = start > 0 ? (unsigned char)text->data[start - 1] : 0;
    size_t wanted = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc0 ? 2 : 1;
    if (lead >= 0xc0 && size - start + 1 < wanted)
        size = start - 1;
    text->size = size;
    text->data[size] = '\0';
}

/* Text of strangers as JSON: without what controls a terminal, and `?` for what is no UTF-8. */
static void add_error(struct fan__text *body, const struct fan__text *error)
{
    struct fan__text shown = { NULL, 0, 0 };
    fan__text_add_shown(&shown, (struct fan_str){ error->data, error->size });
    cut(&shown, ERROR_SIZE_MAX);
    fan__text_add_text(body, ",\"error\":");
    if (!fan__text_add_json(body, shown.data)) {
        for (size_t i = 0; i < shown.size; i++)
            if ((unsigned char)shown.data[i] >= 0x80)
                shown.data[i] = '?';
        fan__text_add_json(body, shown.data);
    }
    fan__text_deinit(&shown);
}

static void step_settle(struct fan__member *member)
{
    struct fan__wire *wire = &member->settle;
    if (wire->pending && fan__pending_done(wire->pending)) {
        if (end(member, wire)) {
            take_results(member, wire, take_settled);
            wire->repeats = false;
        }
        for (size_t i = 0; i < member->work_count; i++)
            if (member->works[i].state == FAN__WORK_SETTLING)
                member->works[i].state = FAN__WORK_ENDED;
    }
    if (is_due(wire))
        wire->next_ms = 0;
    if (member->failed || !is_due(wire) || fan__member_count(member, FAN__WORK_ENDED) == 0)
        return;
    fan__text_clear(&wire->body);
    fan__text_add_text(&wire->body, "{\"items\":[");
    for (size_t i = 0; i < member->work_count; i++) {
        struct fan__work *work = &member->works[i];
        if (work->state != FAN__WORK_ENDED)
            continue;
        add_item(&wire->body, work);
        fan__text_add_format(&wire->body, ",\"verdict\":\"%s\",\"delay_ms\":%" PRIu32,
                             work->verdict, work->delay_ms);
        if (work->reason)
            fan__text_add_format(&wire->body, ",\"reason\":\"%s\"", work->reason);
        if (work->error.size > 0)
            add_error(&wire->body, &work->error);
        fan__text_add_text(&wire->body, "}");
        work->state = FAN__WORK_SETTLING;
    }
    fan__text_add_text(&wire->body, "]}");
    begin(member, wire, SILENCE_MS);
}

static void take_renewed(struct fan__member *member, struct fan__work *work, bool lost)
{
    if (!lost || (work->state != FAN__WORK_HELD && work->state != FAN__WORK_FRESH) || work->lost)
        return;
    fan__say("event %" PRIu64 ": its lease ended too early; it is another's now", work->seq);
    work->lost = true;
    member->lost++;
    if (work->state == FAN__WORK_FRESH)
        free_work(work);
}

/* Whether its lease is to be kept. */
static bool is_kept(const struct fan__work *work)
{
    return (work->state == FAN__WORK_HELD && !work->lost) || work->state == FAN__WORK_FRESH ||
           work->state == FAN__WORK_ENDED;
}

static void step_renew(struct fan__member *member)
{
    struct fan__wire *wire = &member->renew;
    if (wire->pending && fan__pending_done(wire->pending) && end(member, wire)) {
        take_results(member, wire, take_renewed);
        wire->next_ms = fan__now_ms() + member->lease_ms / 3;
    }
    size_t count = 0;
    for (size_t i = 0; i < member->work_count; i++)
        count += is_kept(&member->works[i]);
    if (count == 0) {
        wire->next_ms = fan__now_ms() + member->lease_ms / 3;
        return;
    }
    if (member->failed || !is_due(wire))
        return;
    fan__text_clear(&wire->body);
    fan__text_add_format(&wire->body, "{\"lease_ms\":%" PRIu32 ",\"items\":[", member->lease_ms);
    for (size_t i = 0; i < member->work_count; i++)
        if (is_kept(&member->works[i])) {
            add_item(&wire->body, &member->works[i]);
            fan__text_add_text(&wire->body, "}");
        }
    fan__text_add_text(&wire->body, "]}");
    begin(member, wire, SILENCE_MS);
}

void fan__member_step(struct fan__member *member, size_t claim_count)
{
    step_settle(member);
    step_renew(member);
    step_claim(member, claim_count);
}

int64_t fan__member_pause_ms(const struct fan__member *member)
{
    const struct fan__wire *wires[] = { &member->claim, &member->settle, &member->renew };
    int64_t now_ms = fan__now_ms();
    int64_t pause_ms = PAUSE_MS_MAX;
    for (size_t i = 0; i < sizeof(wires) / sizeof(wires[0]); i++) {
        int64_t left_ms = wires[i]->next_ms - now_ms;
        if (!wires[i]->pending && wires[i]->next_ms > 0 && left_ms < pause_ms)
            pause_ms = left_ms > 0 ? left_ms : 0;
    }
    return pause_ms;
}
