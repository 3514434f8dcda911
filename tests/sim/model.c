/*
 * What the log should hold, learned from the answers that the log itself gave (below the faults),
 * and the laws that each answer must obey.
 */
#include "sim.h"

#include "broker/dispatch.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LAPSES_MAX FAN__LAPSES_MAX
/* Who was there is known to the minute. */
#define SLACK_NS (60000 * NS_PER_MS)

struct sim_event *sim_model_event(struct sim_world *world, uint64_t seq)
{
    size_t low = 0;
    size_t high = world->model.count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (world->model.events[middle].seq < seq)
            low = middle + 1;
        else
            high = middle;
    }
    struct sim_event *event = &world->model.events[low];
    return low < world->model.count && event->seq == seq ? event : NULL;
}

struct sim_event *sim_model_by_publication(struct sim_world *world, unsigned publication)
{
    for (size_t i = world->model.count; i-- > 0;) {
        struct sim_event *event = &world->model.events[i];
        if (!event->removed && event->publication == publication)
            return event;
    }
    return NULL;
}

bool sim_publication_of(const struct sim_world *world, const char *id, unsigned *ret_publication)
{
    char *end = NULL;
    unsigned long number = id[0] == 'e' ? strtoul(id + 1, &end, 10) : 0;
    if (!end || *end || number >= world->publication_count)
        return false;
    *ret_publication = (unsigned)number;
    return true;
}

bool sim_matches(const struct sim_world *world, const struct sim_event *event, const char *topic,
                 const char *pattern)
{
    const struct sim_publication *publication = &world->publications[event->publication];
    if (topic && strcmp(topic, sim_topics[publication->topic]) != 0)
        return false;
    return !pattern || fan_pattern_match(pattern, sim_types[publication->type]);
}

bool sim_group_wants(const struct sim_world *world, unsigned group, const struct sim_event *event)
{
    const struct sim_group *g = &world->groups[group];
    return g->exists && !event->removed && event->seq > g->start_seq &&
           sim_matches(world, event, g->topic, g->pattern);
}

int sim_group_find(const struct sim_world *world, const struct fan_group_name *name)
{
    for (unsigned i = 0; i < world->group_count; i++)
        if (strcmp(world->groups[i].name, name->group) == 0 &&
            strcmp(world->groups[i].handler, name->handler) == 0)
            return (int)i;
    return -1;
}

/* What became of time: a claim whose lease is over counts as pending. */
static void let_lapse(struct sim_delivery *delivery)
{
    if (delivery->status != FAN_EVENT_PROCESSING || delivery->until_ns > sim_now_ns())
        return;
    delivery->status = FAN_EVENT_PENDING;
    delivery->lapsed = true;
    delivery->due_ns = delivery->until_ns;
}

static uint64_t last_of_topic(const struct sim_world *world, const char *key)
{
    for (size_t i = world->model.count; i-- > 0;) {
        const struct sim_event *event = &world->model.events[i];
        if (!event->removed && sim_matches(world, event, key, NULL))
            return event->seq;
    }
    return 0;
}

static bool expectation_holds(const struct sim_world *world, const struct fan_append *item)
{
    const struct fan_expectation *expected = item->expectation;
    if (!expected)
        return true;
    if (expected->key && last_of_topic(world, expected->key) != expected->last_seq)
        return false;
    return !expected->lease || sim_lease_holds(world, expected->lease, expected->fence);
}

/* Which attempt to publish its id it is, as draft_of writes it. */
static unsigned number_of(const struct fan_event *event)
{
    const struct fan_str payload = fan_event_payload(event);
    char text[32];
    snprintf(text, sizeof(text), "%.*s", (int)(payload.size < 31 ? payload.size : 31),
             payload.size > 0 ? payload.data : "");
    return (unsigned)strtoul(text, NULL, 10);
}

bool sim_payload_is(const struct sim_event *known, const struct fan_event *event)
{
    return known->erased || number_of(event) == known->number;
}

/* One stored event joins the model; false when it should not have been. */
static void learn(struct sim_port *port, const struct fan_append *item)
{
    struct sim_world *world = port->world;
    struct sim_model *model = &world->model;
    unsigned publication = 0;
    if (!sim_publication_of(world, fan_event_id(item->event), &publication)) {
        sim_broken(world, "L6", "%s was stored, which nobody published", fan_event_id(item->event));
        return;
    }
    if (item->ret_duplicate) {
        const struct sim_event *event = sim_model_by_publication(world, publication);
        sim_count(world, SIM_DUPLICATE);
        sim_check(world, "L9", event && event->seq == item->ret_seq,
                  "e%u is told to be at %" PRIu64 ", where it is not", publication, item->ret_seq);
        return;
    }
    sim_check(world, "L9", !sim_model_by_publication(world, publication),
              "e%u is stored a second time, at %" PRIu64, publication, item->ret_seq);
    sim_check(world, "L10", item->ret_seq > model->head_seq, "sequence %" PRIu64 " after %" PRIu64,
              item->ret_seq, model->head_seq);
    if (world->failed || model->count == EVENT_COUNT_MAX)
        return;
    /* Of the units that are stored here, only the first item has it. */
    sim_check(world, "P23",
              item->joined || item->expectation ||
                  world->publications[publication].expecting != number_of(item->event),
              "e%u is stored without its expectation", publication);
    model->head_seq = item->ret_seq;
    port->stored++;
    model->events[model->count++] = (struct sim_event){ .seq = item->ret_seq,
                                                        .publication = publication,
                                                        .number = number_of(item->event),
                                                        .port = port->index,
                                                        .stored_ns = sim_now_ns() };
    sim_trace(world, "i%u stores e%u at %" PRIu64, port->index, publication, item->ret_seq);
}

/* The items of one unit: stored whole, or refused whole, as its expectation says. */
static void check_unit(struct sim_port *port, const struct fan_append *items, size_t count)
{
    struct sim_world *world = port->world;
    size_t known = 0;
    for (size_t i = 0; i < count; i++) {
        unsigned publication = 0;
        known += sim_publication_of(world, fan_event_id(items[i].event), &publication) &&
                 sim_model_by_publication(world, publication) != NULL;
        sim_check(world, "P05", items[i].ret_status == items[0].ret_status,
                  "of one unit e%u is %s, and its first %s", publication,
                  fan_status_name(items[i].ret_status), fan_status_name(items[0].ret_status));
    }
    bool holds = known == count || expectation_holds(world, &items[0]);
    /* A log that makes room in the middle of a batch forgets what was expected of it. */
    if (world->capacity > 0 && items[0].expectation)
        holds = items[0].ret_status != FAN_CONFLICT;
    if (items[0].ret_status == FAN_CONFLICT)
        sim_count(world, SIM_CONFLICT);
    if (items[0].ret_status == FAN_FULL)
        sim_count(world, SIM_LOG_FULL);
    if (items[0].ret_status == FAN_CONFLICT)
        sim_check(world, "P23", !holds, "a conflict, although the expectation holds");
    if (items[0].ret_status != FAN_OK)
        return;
    sim_check(world, "P23", holds, "%s was stored against its expectation",
              fan_event_id(items[0].event));
    if (count > 1)
        sim_count(world, SIM_UNIT);
    if (items[0].expectation)
        sim_count(world, SIM_EXPECTED);
    for (size_t i = 0; i < count; i++)
        learn(port, &items[i]);
}

void sim_model_appended(struct sim_port *port, const struct fan_append *items, size_t count)
{
    struct sim_world *world = port->world;
    for (size_t first = 0; first < count;) {
        size_t end = first + 1;
        while (end < count && items[end].joined)
            end++;
        check_unit(port, items + first, end - first);
        first = end;
    }
    uint64_t head_seq = 0;
    if (fan_store_head(world->store, &head_seq) == FAN_OK)
        sim_check(world, "P05", head_seq == world->model.head_seq,
                  "the head is %" PRIu64 ", not %" PRIu64, head_seq, world->model.head_seq);
    if (world->capacity > 0)
        sim_model_look(world);
}

void sim_model_created(struct sim_world *world, const struct fan_group_name *name,
                       const struct fan_group_options *options)
{
    int index = sim_group_find(world, name);
    if (index < 0)
        return;
    struct sim_group *group = &world->groups[index];
    uint64_t head_seq = world->model.head_seq;
    if (group->deleted_ns > 0)
        sim_count(world, SIM_GROUP_AGAIN);
    group->exists = true;
    group->start_seq = 0;
    if (options->start == FAN_START_NOW ||
        (options->start == FAN_START_CURSOR && options->start_seq > head_seq))
        group->start_seq = head_seq;
    else if (options->start == FAN_START_CURSOR)
        group->start_seq = options->start_seq;
    sim_trace(world, "group %s/%s from %" PRIu64, name->group, name->handler, group->start_seq);
}

void sim_model_seen(struct sim_world *world, const struct fan_group_name *name)
{
    int index = sim_group_find(world, name);
    if (index >= 0)
        world->groups[index].seen_ns = sim_now_ns();
}

/* Of one key the oldest that is not settled is given, and nothing while one of it is held. */
static void check_order(struct sim_world *world, unsigned group, const struct sim_event *claimed)
{
    unsigned topic = world->publications[claimed->publication].topic;
    for (size_t i = 0; i < world->model.count; i++) {
        struct sim_event *event = &world->model.events[i];
        struct sim_delivery *delivery = &event->deliveries[group];
        if (event == claimed || world->publications[event->publication].topic != topic ||
            !sim_group_wants(world, group, event))
            continue;
        let_lapse(delivery);
        sim_check(world, "H04",
                  event->seq > claimed->seq || delivery->status == FAN_EVENT_COMPLETED ||
                      delivery->status == FAN_EVENT_FAILED,
                  "%" PRIu64 " of key %s is given before %" PRIu64, claimed->seq, sim_topics[topic],
                  event->seq);
        sim_check(world, "H04", delivery->status != FAN_EVENT_PROCESSING,
                  "%" PRIu64 " of key %s is given while %" PRIu64 " is held", claimed->seq,
                  sim_topics[topic], event->seq);
    }
}

/* Whether it may be given now. */
static void check_due(struct sim_world *world, unsigned group, struct sim_event *event)
{
    const struct sim_delivery *delivery = &event->deliveries[group];
    const struct sim_group *g = &world->groups[group];
    int64_t deliver_at_us = world->publications[event->publication].deliver_at_us;
    sim_check(world, "L8", sim_group_wants(world, group, event),
              "group %s is given %" PRIu64 ", which it does not want", g->name, event->seq);
    sim_check(world, "P09", delivery->status != FAN_EVENT_PROCESSING,
              "group %s: %" PRIu64 " is given while %u holds it", g->name, event->seq,
              delivery->port);
    sim_check(world, "P04", delivery->status == FAN_EVENT_PENDING,
              "group %s: %" PRIu64 " is given, which is %s", g->name, event->seq,
              fan_event_status_text(delivery->status));
    sim_check(world, "H03", delivery->due_ns <= sim_now_ns() + NS_PER_MS,
              "group %s: %" PRIu64 " comes %" PRId64 " ms early", g->name, event->seq,
              (delivery->due_ns - sim_now_ns()) / NS_PER_MS);
    if (!world->clock_accepted && delivery->attempts == 0)
        sim_check(world, "H04",
                  deliver_at_us <=
                      world->model.clock_offset_us + sim_now_ns() / NS_PER_US + US_PER_MS,
                  "group %s: %" PRIu64 " comes before its time", g->name, event->seq);
}

static void claim_one(struct sim_port *port, unsigned group,
                      const struct fan_claim_options *options, const struct fan_claim *claim)
{
    struct sim_world *world = port->world;
    struct sim_event *event = sim_model_event(world, claim->seq);
    if (!event) {
        sim_broken(world, "L6", "%" PRIu64 " is given, which is not in the log", claim->seq);
        return;
    }
    struct sim_delivery *delivery = &event->deliveries[group];
    let_lapse(delivery);
    check_due(world, group, event);
    if (world->groups[group].ordered)
        check_order(world, group, event);
    delivery->attempts++;
    if (delivery->lapsed)
        sim_count(world, SIM_LAPSED);
    delivery->lapses += delivery->lapsed;
    delivery->lapsed = false;
    sim_check(world, "H05",
              claim->attempt == delivery->attempts && claim->lapses == delivery->lapses,
              "group %s: %" PRIu64 " is attempt %u with %u lapses, not %u with %u",
              world->groups[group].name, event->seq, claim->attempt, claim->lapses,
              delivery->attempts, delivery->lapses);
    /*
     * Who let it lapse, and holds its answer still, gives that one under this claim. What was
     * handled when its group was deleted already has no token, and goes with the group.
     */
    struct sim_answer *answer = &delivery->answers[port->index];
    if (port->index != MEMBER && port->answers && answer->called && answer->token != 0 &&
        answer->binding == world->instances[port->index].bindings[group].number &&
        answer->lapses < claim->lapses &&
        claim->attempt - answer->attempt == claim->lapses - answer->lapses) {
        sim_count(world, SIM_ADOPTED);
        answer->token = claim->token;
        answer->attempt = claim->attempt;
        answer->lapses = claim->lapses;
    }
    delivery->status = FAN_EVENT_PROCESSING;
    delivery->port = port->index;
    delivery->told = port->answers;
    delivery->had |= 1U << port->index;
    delivery->token = claim->token;
    delivery->until_ns = sim_now_ns() + options->lease_ms * NS_PER_MS;
    delivery->until_told_ns = port->begun_ns + options->lease_ms * NS_PER_MS;
    sim_trace(world, "i%u claims %s/%s %" PRIu64 " attempt %u lapses %u", port->index,
              world->groups[group].name, world->groups[group].handler, event->seq, claim->attempt,
              claim->lapses);
}

void sim_model_claimed(struct sim_port *port, const struct fan_group_name *name,
                       const struct fan_claim_options *options, const struct fan_batch *batch,
                       const struct fan_claim *claims)
{
    int group = sim_group_find(port->world, name);
    for (size_t i = 0; group >= 0 && i < fan_batch_count(batch); i++)
        claim_one(port, (unsigned)group, options, &claims[i]);
}

/* Which answer of a handler it is: lapses are none. */
static unsigned asked(const struct sim_answer *answer)
{
    return answer->attempt - answer->lapses;
}

/* How a handler's answer becomes a settlement, by the policy that it was given. */
static enum fan_verdict settlement_of(const struct sim_group *group,
                                      const struct sim_answer *answer)
{
    bool retry = answer->overran || answer->verdict == FAN_VERDICT_RETRY;
    unsigned retries = group->retry.none ? 0 : group->retry.retries;
    if (retry)
        return asked(answer) > retries ? FAN_VERDICT_FAIL : FAN_VERDICT_RETRY;
    return answer->verdict;
}

static uint32_t delay_of(const struct sim_group *group, unsigned answers)
{
    double delay_ms = group->retry.delay_ms;
    for (unsigned i = 1; i < answers && delay_ms < group->retry.delay_ms_max; i++)
        delay_ms *= group->retry.factor;
    return (uint32_t)(delay_ms > group->retry.delay_ms_max ? group->retry.delay_ms_max : delay_ms);
}

/* What a broker settles must be what its handler said. */
static void check_verdict(struct sim_port *port, unsigned group, const struct sim_event *event,
                          const struct fan_settle *item)
{
    struct sim_world *world = port->world;
    const struct sim_group *g = &world->groups[group];
    const struct sim_answer *answer = &event->deliveries[group].answers[port->index];
    if (port->index == MEMBER)
        return;
    if (!answer->called || !answer->ended || answer->token != item->token) {
        sim_check(world, "H05",
                  item->verdict == FAN_VERDICT_HAND_BACK ||
                      (item->verdict == FAN_VERDICT_FAIL && item->reason == FAN_DEAD_LAPSES &&
                       event->deliveries[group].lapses >= LAPSES_MAX),
                  "group %s: %" PRIu64 " is settled (%d) without a verdict", g->name, event->seq,
                  (int)item->verdict);
        return;
    }
    enum fan_verdict expected = settlement_of(g, answer);
    if (answer->overran)
        sim_count(world, SIM_OVERRAN);
    sim_check(world, "H05", item->verdict == expected,
              "group %s: %" PRIu64 " is settled as %d, its handler said %d (answer %u of %u)",
              g->name, event->seq, (int)item->verdict, (int)answer->verdict, asked(answer),
              g->retry.retries + 1);
    if (expected == FAN_VERDICT_RETRY) {
        uint32_t delay_ms = delay_of(g, asked(answer));
        uint32_t least_ms = delay_ms - delay_ms * g->retry.jitter_percent / 100;
        sim_check(world, "H03", item->delay_ms <= delay_ms && item->delay_ms + 1 >= least_ms,
                  "group %s: retry %u after %u ms, not %u", g->name, asked(answer), item->delay_ms,
                  delay_ms);
    }
    if (expected == FAN_VERDICT_FAIL)
        sim_check(world, "H06",
                  item->reason == (answer->overran || answer->verdict == FAN_VERDICT_RETRY
                                       ? FAN_DEAD_RETRIES
                                       : FAN_DEAD_FAILED),
                  "group %s: %" PRIu64 " is dead of %s", g->name, event->seq,
                  fan_dead_reason_name(item->reason));
}

static void apply(struct sim_delivery *delivery, const struct fan_settle *item)
{
    delivery->token = 0;
    delivery->lapsed = false;
    delivery->due_ns = sim_now_ns();
    delivery->reason = FAN_DEAD_NONE;
    delivery->undone |= item->verdict == FAN_VERDICT_RETRY || item->verdict == FAN_VERDICT_FAIL;
    switch (item->verdict) {
    case FAN_VERDICT_DONE:
        delivery->status = FAN_EVENT_COMPLETED;
        break;
    case FAN_VERDICT_FAIL:
        delivery->status = FAN_EVENT_FAILED;
        delivery->reason = item->reason == FAN_DEAD_NONE ? FAN_DEAD_FAILED : item->reason;
        delivery->died_ns = sim_now_ns();
        break;
    case FAN_VERDICT_RETRY:
        delivery->status = FAN_EVENT_PENDING;
        delivery->due_ns += item->delay_ms * NS_PER_MS;
        break;
    case FAN_VERDICT_HAND_BACK:
        delivery->status = FAN_EVENT_PENDING;
        delivery->attempts--;
        break;
    }
}

static void note_verdict(struct sim_port *port, const struct fan_settle *item)
{
    port->retried += item->verdict == FAN_VERDICT_RETRY;
    port->dead += item->verdict == FAN_VERDICT_FAIL;
    switch (item->verdict) {
    case FAN_VERDICT_RETRY:
        sim_count(port->world, SIM_RETRIED);
        break;
    case FAN_VERDICT_HAND_BACK:
        sim_count(port->world, SIM_HANDED_BACK);
        break;
    case FAN_VERDICT_FAIL:
        sim_count(port->world, item->reason == FAN_DEAD_LAPSES    ? SIM_DEAD_LAPSES
                               : item->reason == FAN_DEAD_RETRIES ? SIM_DEAD_RETRIES
                                                                  : SIM_DEAD_FAILED);
        break;
    case FAN_VERDICT_DONE:
        break;
    }
}

static void settle_one(struct sim_port *port, unsigned group, const struct fan_settle *item)
{
    struct sim_world *world = port->world;
    struct sim_event *event = sim_model_event(world, item->seq);
    struct sim_delivery *delivery = event ? &event->deliveries[group] : NULL;
    bool right = event && !event->removed && delivery->token != 0 && delivery->token == item->token;
    sim_check(world, "P09", (item->ret_status == FAN_OK) == right,
              "group %s: settling %" PRIu64 " with %s token gave %s", world->groups[group].name,
              item->seq, right ? "the right" : "an old", fan_status_name(item->ret_status));
    sim_trace(world, "i%u settles %s/%s %" PRIu64 " as %d: %s", port->index,
              world->groups[group].name, world->groups[group].handler, item->seq,
              (int)item->verdict, fan_status_name(item->ret_status));
    if (right)
        check_verdict(port, group, event, item);
    if (right)
        note_verdict(port, item);
    else
        sim_count(world, SIM_LATE_SETTLE);
    port->lost += !right && port->answers;
    /* Who is not told that it is lost tries again. */
    if (delivery && delivery->answers[port->index].token == item->token && (right || port->answers))
        delivery->answers[port->index] = (struct sim_answer){ .called = false };
    if (right)
        apply(delivery, item);
    port->processed += right && item->verdict != FAN_VERDICT_HAND_BACK;
}

void sim_model_settled(struct sim_port *port, const struct fan_group_name *name,
                       const struct fan_settle *items, size_t count)
{
    int group = sim_group_find(port->world, name);
    for (size_t i = 0; group >= 0 && i < count; i++)
        settle_one(port, (unsigned)group, &items[i]);
}

void sim_model_renewed(struct sim_port *port, const struct fan_group_name *name,
                       const struct fan_settle *items, size_t count, uint32_t lease_ms)
{
    struct sim_world *world = port->world;
    int group = sim_group_find(world, name);
    for (size_t i = 0; group >= 0 && i < count; i++) {
        struct sim_event *event = sim_model_event(world, items[i].seq);
        struct sim_delivery *delivery = event ? &event->deliveries[group] : NULL;
        if (delivery)
            let_lapse(delivery);
        bool right = event && !event->removed && delivery->status == FAN_EVENT_PROCESSING &&
                     delivery->token == items[i].token;
        sim_check(world, "P09", (items[i].ret_status == FAN_OK) == right,
                  "group %s: renewing %" PRIu64 " gave %s", world->groups[group].name, items[i].seq,
                  fan_status_name(items[i].ret_status));
        sim_count(world, right ? SIM_RENEWED : SIM_RENEW_LOST);
        if (right)
            delivery->until_ns = sim_now_ns() + lease_ms * NS_PER_MS;
        if (right && port->answers)
            delivery->until_told_ns = port->begun_ns + lease_ms * NS_PER_MS;
    }
}

/* Whether the key's later events are owed still. */
static bool has_later_of_key(const struct sim_world *world, unsigned group,
                             const struct sim_event *event)
{
    unsigned topic = world->publications[event->publication].topic;
    for (size_t i = 0; i < world->model.count; i++) {
        const struct sim_event *other = &world->model.events[i];
        if (other->seq > event->seq && world->publications[other->publication].topic == topic &&
            sim_group_wants(world, group, other) &&
            other->deliveries[group].status != FAN_EVENT_COMPLETED &&
            other->deliveries[group].status != FAN_EVENT_FAILED)
            return true;
    }
    return false;
}

void sim_model_moved(struct sim_world *world, const struct fan_group_name *name, uint64_t seq,
                     enum fan_event_status to)
{
    int group = sim_group_find(world, name);
    struct sim_event *event = sim_model_event(world, seq);
    if (group < 0 || !event)
        return;
    struct sim_delivery *delivery = &event->deliveries[group];
    let_lapse(delivery);
    bool may = to == FAN_EVENT_PENDING
                   ? delivery->status == FAN_EVENT_FAILED
                   : delivery->status == FAN_EVENT_FAILED || delivery->status == FAN_EVENT_PENDING;
    sim_check(world, "P04", may, "%" PRIu64 " is moved from %s to %s", seq,
              fan_event_status_text(delivery->status), fan_event_status_text(to));
    delivery->status = to;
    delivery->reason = FAN_DEAD_NONE;
    delivery->token = 0;
    delivery->lapsed = false;
    delivery->due_ns = sim_now_ns();
    if (to == FAN_EVENT_PENDING) {
        delivery->attempts = delivery->lapses = 0;
        sim_count(world, SIM_REDRIVEN);
        if (world->groups[group].ordered && has_later_of_key(world, (unsigned)group, event))
            sim_count(world, SIM_REDRIVEN_KEY);
    }
    sim_trace(world, "%s/%s %" PRIu64 " is moved to %s", name->group, name->handler, seq,
              fan_event_status_text(to));
}

void sim_model_accepted(struct sim_world *world)
{
    world->clock_accepted = true;
    world->model.clock_offset_us = sim_wall_us() - sim_now_ns() / NS_PER_US;
}

#define FORMER_BIT (1U << 31)

void sim_model_forget(struct sim_world *world, unsigned port, int group)
{
    for (size_t i = 0; i < world->model.count; i++)
        for (unsigned g = 0; g < world->group_count; g++)
            if (group < 0 || g == (unsigned)group) {
                struct sim_delivery *delivery = &world->model.events[i].deliveries[g];
                delivery->answers[port] = (struct sim_answer){ .called = false };
                delivery->told &= delivery->port != port;
                /* To the next that runs here, it was somebody else. */
                if (group < 0 && (delivery->had & 1U << port) != 0)
                    delivery->had = (delivery->had & ~(1U << port)) | FORMER_BIT;
            }
}

void sim_model_deleted(struct sim_world *world, const struct fan_group_name *name)
{
    int group = sim_group_find(world, name);
    if (group < 0)
        return;
    sim_count(world, SIM_GROUP_DELETED);
    world->groups[group].exists = false;
    world->groups[group].deleted_ns = sim_now_ns();
    for (size_t i = 0; i < world->model.count; i++)
        world->model.events[i].deliveries[group] =
            (struct sim_delivery){ .status = FAN_EVENT_PENDING };
    sim_trace(world, "group %s/%s is deleted", name->group, name->handler);
}

static bool is_finished(struct sim_world *world, const struct sim_event *event)
{
    for (unsigned g = 0; g < world->group_count; g++)
        if (sim_group_wants(world, g, event) && event->deliveries[g].status != FAN_EVENT_COMPLETED)
            return false;
    return true;
}

/* Reads the log from the beginning: what is there, and what has gone since. */
void sim_model_look(struct sim_world *world)
{
    struct fan_query query = { .size = FAN_QUERY_SIZE, .limit = EVENT_COUNT_MAX };
    struct fan_read_result result = { 0 };
    struct sim_model *model = &world->model;
    size_t at = 0;
    uint64_t seq = 0;
    uint64_t owed_seq = 0; /* the first that stays because a group wants it */
    do {
        if (fan_store_read(world->store, seq, &query, world->page, &result) != FAN_OK)
            return;
        seq = result.scanned_seq;
        for (size_t i = 0; i <= fan_batch_count(world->page); i++) {
            const struct fan_event *found = fan_batch_event(world->page, i);
            uint64_t until_seq = found ? fan_event_seq(found) : seq + 1;
            for (; at < model->count && model->events[at].seq < until_seq; at++) {
                struct sim_event *event = &model->events[at];
                if (event->removed)
                    continue;
                sim_check(world, "P11",
                          event->seq <= result.trimmed_seq && is_finished(world, event),
                          "%" PRIu64 " is gone, which was not finished", event->seq);
                event->removed = true;
                sim_count(world, SIM_REMOVED);
                if (owed_seq > 0 && owed_seq < event->seq)
                    sim_count(world, SIM_REMOVED_BEHIND_OWED);
                sim_trace(world, "%" PRIu64 " is removed", event->seq);
            }
            if (!found)
                break;
            if (owed_seq == 0 && at < model->count && !is_finished(world, &model->events[at]))
                owed_seq = until_seq;
            sim_check(world, "L6",
                      at < model->count && model->events[at].seq == until_seq &&
                          !model->events[at].removed,
                      "%" PRIu64 " is in the log, and nobody stored it", until_seq);
            at++;
        }
    } while (seq < result.head_seq && !world->failed);
    model->trimmed_seq = result.trimmed_seq;
}

/* A dead letter that retention made, or took away. */
struct looking {
    struct sim_world *world;
    const struct fan_retention *retention;
    struct sim_event *event;
    uint64_t expired;
    uint64_t discarded;
};

static int64_t owed_ns_of(const struct sim_world *world, const struct sim_event *event)
{
    int64_t deliver_at_us = world->publications[event->publication].deliver_at_us;
    int64_t from_ns = (deliver_at_us - world->model.clock_offset_us) * NS_PER_US;
    if (world->clock_accepted || from_ns < event->stored_ns)
        from_ns = event->stored_ns;
    return sim_now_ns() - from_ns;
}

static bool see(void *context, const struct fan_delivery *found)
{
    struct looking *looking = context;
    struct sim_world *world = looking->world;
    struct fan_group_name name = { found->group, found->handler };
    int group = sim_group_find(world, &name);
    if (group < 0)
        return true;
    struct sim_delivery *delivery = &looking->event->deliveries[group];
    let_lapse(delivery);
    /* By seconds, as some logs tell ages. */
    int64_t slack_ns = 2000 * NS_PER_MS;
    if (found->reason == FAN_DEAD_EXPIRED && delivery->status != FAN_EVENT_FAILED) {
        sim_check(world, "P11", delivery->status == FAN_EVENT_PENDING,
                  "%" PRIu64 " expired while it is %s", looking->event->seq,
                  fan_event_status_text(delivery->status));
        sim_check(world, "P11",
                  owed_ns_of(world, looking->event) + slack_ns >=
                      (int64_t)looking->retention->owed_age_ms * NS_PER_MS,
                  "%" PRIu64 " expired early", looking->event->seq);
        delivery->lapses += delivery->lapsed;
        delivery->lapsed = false;
        delivery->token = 0;
        delivery->status = FAN_EVENT_FAILED;
        delivery->reason = FAN_DEAD_EXPIRED;
        delivery->undone = true;
        delivery->died_ns = sim_now_ns();
        looking->expired++;
        sim_count(world, SIM_DEAD_EXPIRED);
    } else if (found->status == FAN_EVENT_COMPLETED && delivery->status == FAN_EVENT_FAILED) {
        sim_check(world, "P11",
                  sim_now_ns() - delivery->died_ns + slack_ns >=
                      (int64_t)looking->retention->dead_age_ms * NS_PER_MS,
                  "%" PRIu64 " is discarded early", looking->event->seq);
        delivery->status = FAN_EVENT_COMPLETED;
        delivery->reason = FAN_DEAD_NONE;
        looking->discarded++;
        sim_count(world, SIM_DISCARDED);
    }
    return true;
}

/* A group goes when no member was there for long, and not because nobody could be. */
static void check_group_expired(const struct sim_port *port, const struct fan_retention *retention,
                                const struct fan_group_name *name)
{
    struct sim_world *world = port->world;
    int group = sim_group_find(world, name);
    int64_t age_ns = (int64_t)retention->group_age_ms * NS_PER_MS;
    sim_check(world, "P11", group >= 0, "no group %s/%s to expire", name->group, name->handler);
    if (group < 0)
        return;
    sim_count(world, SIM_GROUP_EXPIRED);
    sim_check(world, "P11", world->groups[group].seen_ns + age_ns <= sim_now_ns() + SLACK_NS,
              "group %s/%s expires, of which a member was there %" PRId64 " ms ago", name->group,
              name->handler, (sim_now_ns() - world->groups[group].seen_ns) / NS_PER_MS);
    sim_check(world, "P11",
              world->instances[port->index].awake_ns + age_ns <= sim_now_ns() + SLACK_NS,
              "i%u lets group %s/%s expire, and was not there for as long itself", port->index,
              name->group, name->handler);
}

void sim_model_retained(struct sim_port *port, const struct fan_retention *retention,
                        const struct fan_retained *retained)
{
    struct sim_world *world = port->world;
    struct looking looking = { .world = world, .retention = retention };
    struct fan_group_name name = { retained->group, retained->handler };
    if (retained->groups_expired > 0) {
        check_group_expired(port, retention, &name);
        sim_model_deleted(world, &name);
    }
    for (size_t i = 0; retained->expired + retained->discarded > 0 && i < world->model.count; i++) {
        looking.event = &world->model.events[i];
        if (!looking.event->removed &&
            fan_store_deliveries(world->store, looking.event->seq, 0, see, &looking) != FAN_OK)
            return;
    }
    /* An event may lose its last dead letter and go with the same call. */
    sim_check(world, "P11", looking.expired == retained->expired,
              "%" PRIu64 " expired, %" PRIu64 " are told", looking.expired, retained->expired);
    if (retained->discarded != looking.discarded)
        for (size_t i = 0; i < world->model.count; i++)
            for (unsigned g = 0; g < world->group_count; g++) {
                struct sim_event *event = &world->model.events[i];
                struct sim_delivery *delivery = &event->deliveries[g];
                struct fan_batch *page = world->page;
                char id[16];
                snprintf(id, sizeof(id), "e%u", event->publication);
                if (!event->removed && delivery->status == FAN_EVENT_FAILED &&
                    fan_store_get(world->store, id, page, NULL) == FAN_NOT_FOUND)
                    delivery->status = FAN_EVENT_COMPLETED;
            }
    if (retained->removed > 0)
        sim_model_look(world);
    if (retained->removed + retained->expired + retained->discarded > 0)
        sim_trace(world,
                  "retention: %" PRIu64 " removed, %" PRIu64 " expired, %" PRIu64 " discarded",
                  retained->removed, retained->expired, retained->discarded);
}
