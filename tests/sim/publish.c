/*
 * Publishers, and what they are told: acknowledged is stored, refused is not, unclear is retried.
 */
#include "sim.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define UNIT_COUNT_MAX 4
#define DELIVER_AT_MS_MAX 20000

/* A publication of before, whose outcome may be unclear, or another one. */
static unsigned choose(struct sim_world *world)
{
    if (world->publication_count > 0 && sim_chance(world, 150))
        return (unsigned)sim_random(world, world->publication_count);
    struct sim_publication *publication = &world->publications[world->publication_count];
    *publication = (struct sim_publication){ .type = (unsigned)sim_random(world, TYPE_COUNT),
                                             .topic = (unsigned)sim_random(world, TOPIC_COUNT) };
    if (sim_chance(world, 50))
        publication->deliver_at_us =
            sim_wall_us() + (int64_t)sim_random(world, DELIVER_AT_MS_MAX) * US_PER_MS;
    return world->publication_count++;
}

/* A draft and the texts in it. Which attempt it is is what it says. */
struct text {
    char id[16];
    char payload[16];
};

static void draft_of(const struct sim_world *world, unsigned index, struct text *text,
                     struct fan_event_draft *draft)
{
    const struct sim_publication *publication = &world->publications[index];
    snprintf(text->id, sizeof(text->id), "e%u", index);
    snprintf(text->payload, sizeof(text->payload), "%u", publication->attempts + 1);
    *draft = (struct fan_event_draft){ .size = FAN_EVENT_DRAFT_SIZE,
                                       .type = sim_types[publication->type],
                                       .topic = sim_topics[publication->topic],
                                       .id = text->id,
                                       .payload = { text->payload, strlen(text->payload) },
                                       .deliver_at_us = publication->deliver_at_us };
}

/* Whether nothing can have been stored. */
static bool is_certain(enum fan_status status)
{
    return status != FAN_UNKNOWN && status != FAN_TIMED_OUT;
}

static void acknowledged(struct sim_world *world, unsigned index, uint64_t seq)
{
    struct sim_publication *publication = &world->publications[index];
    const struct sim_event *event = sim_model_event(world, seq);
    sim_check(world, "L6", event && event->publication == index,
              "e%u is acknowledged at %" PRIu64 ", where it is not", index, seq);
    if (publication->acknowledged && publication->seq != seq) {
        const struct sim_event *before = sim_model_event(world, publication->seq);
        sim_check(world, "L9", before && event && (before->removed || event->removed),
                  "e%u is acknowledged at %" PRIu64 ", after %" PRIu64, index, seq,
                  publication->seq);
    }
    publication->acknowledged = true;
    publication->seq = seq;
}

/* One attempt begins. Gives what is needed to judge its answer. */
static struct sim_attempt begin(struct sim_world *world, unsigned instance, unsigned index)
{
    struct sim_publication *publication = &world->publications[index];
    const struct sim_event *there = sim_model_by_publication(world, index);
    struct fan_broker_stats stats = FAN_BROKER_STATS_INIT;
    fan_broker_stats(world->instances[instance].broker, &stats);
    struct sim_attempt attempt = {
        .instance = instance,
        .publication = index,
        .number = ++publication->attempts,
        .known = publication->unclear || publication->under_way > 0 || there != NULL,
        .unclear = publication->unclear,
        .there = there != NULL,
        .told = there && there->seq <= stats.notified_seq,
        .failures = world->ports[instance].failures,
    };
    publication->under_way++;
    return attempt;
}

/* Told as stored: then it is, and who reads here has it in front, unless that could not be read. */
static void accepted(struct sim_world *world, const struct sim_attempt *attempt, uint64_t seq)
{
    struct fan_broker_stats stats = FAN_BROKER_STATS_INIT;
    if (attempt->unclear)
        sim_count(world, attempt->there ? SIM_RESOLVED_STORED : SIM_RESOLVED_LOST);
    if (world->ports[attempt->instance].failures != attempt->failures)
        return;
    fan_broker_stats(world->instances[attempt->instance].broker, &stats);
    sim_check(world, "L6", stats.notified_seq >= seq,
              "e%u is acknowledged at %" PRIu64 ", i%u has told up to %" PRIu64,
              attempt->publication, seq, attempt->instance, stats.notified_seq);
}

/* Its answer: of an instance that crashed there is none, and any other must be true. */
static void end(struct sim_world *world, const struct sim_attempt *attempt, enum fan_status status,
                uint64_t seq)
{
    unsigned index = attempt->publication;
    struct sim_publication *publication = &world->publications[index];
    struct sim_instance *instance = &world->instances[attempt->instance];
    publication->under_way--;
    if (world->ports[attempt->instance].crashed) {
        publication->unclear = true;
        return;
    }
    sim_trace(world, "e%u: %s %" PRIu64, index, fan_status_name(status), seq);
    instance->outcomes++;
    instance->uncounted |= status == FAN_TIMED_OUT;
    /* What another attempt stored meanwhile is not this one's. */
    bool known = attempt->known || publication->attempts != attempt->number;
    if (status == FAN_OK)
        accepted(world, attempt, seq);
    else if (status == FAN_FULL)
        sim_count(world, SIM_QUEUE_FULL);
    if (status != FAN_OK && is_certain(status))
        sim_count(world, SIM_REFUSED);
    if (status == FAN_OK) {
        instance->fresh += !known;
        const struct sim_event *found = sim_model_by_publication(world, index);
        instance->again += attempt->told && found && found->number < attempt->number;
        acknowledged(world, index, seq);
    } else if (!is_certain(status))
        publication->unclear = true;
    else
        sim_check(world, "L6", known || !sim_model_by_publication(world, index),
                  "e%u is refused (%s), and was stored", index, fan_status_name(status));
}

static void done(void *context, const struct fan_published *published)
{
    struct sim_pending *pending = context;
    struct sim_world *world = pending->world;
    sim_check(world, "P05", !pending->told, "e%u is answered twice", pending->attempt.publication);
    pending->told = true;
    end(world, &pending->attempt, published->status, published->cursor.seq);
}

void sim_publish_async(struct sim_world *world, unsigned instance)
{
    struct sim_instance *i = &world->instances[instance];
    if (world->publication_count + UNIT_COUNT_MAX > PUBLICATION_COUNT_MAX)
        return;
    unsigned index = choose(world);
    struct fan_event_draft draft;
    struct text text;
    draft_of(world, index, &text, &draft);
    struct sim_pending *pending = calloc(1, sizeof(*pending));
    if (!pending)
        return;
    *pending = (struct sim_pending){ .next = i->pending,
                                     .world = world,
                                     .attempt = begin(world, instance, index) };
    int64_t begun_ns = sim_now_ns();
    enum fan_status status = fan_broker_publish_async(i->broker, &draft, done, pending, NULL);
    sim_check(world, "L1", sim_now_ns() == begun_ns, "publishing e%u, async, took time", index);
    sim_trace(world, "i%u publishes e%u, async: %s", instance, index, fan_status_name(status));
    if (status == FAN_OK) {
        i->pending = pending;
        uint64_t untold = 0;
        for (; pending; pending = pending->next)
            untold += !pending->told;
        sim_check(world, "L12", i->stepping || untold <= i->queue_count_max,
                  "i%u keeps %" PRIu64 " in a queue of %" PRIu64, instance, untold,
                  i->queue_count_max);
        return;
    }
    end(world, &pending->attempt, status, 0);
    free(pending);
}

/* What a key's last event is, as somebody believes who may be wrong. */
static void expect(struct sim_world *world, unsigned topic, struct fan_expectation *expectation)
{
    *expectation = (struct fan_expectation){ .size = sizeof(*expectation) };
    if (sim_chance(world, 700)) {
        expectation->key = sim_topics[topic];
        for (size_t i = world->model.count; i-- > 0 && expectation->last_seq == 0;) {
            const struct sim_event *event = &world->model.events[i];
            if (!event->removed && world->publications[event->publication].topic == topic)
                expectation->last_seq = event->seq;
        }
        if (sim_chance(world, 200))
            expectation->last_seq++;
    } else {
        unsigned lease = (unsigned)sim_random(world, LEASE_COUNT);
        expectation->lease = lease ? "l1" : "l0";
        expectation->fence = world->fences[lease];
    }
}

static void publish_unit(struct sim_world *world, unsigned instance)
{
    struct sim_instance *i = &world->instances[instance];
    struct fan_event_draft drafts[UNIT_COUNT_MAX];
    struct fan_cursor cursors[UNIT_COUNT_MAX] = { { 0, 0 } };
    struct text texts[UNIT_COUNT_MAX];
    unsigned indices[UNIT_COUNT_MAX] = { 0 };
    struct sim_attempt attempts[UNIT_COUNT_MAX] = { { .number = 0 } };
    size_t count = 1 + (size_t)sim_random(world, UNIT_COUNT_MAX);
    for (size_t k = 0; k < count; k++) {
        indices[k] = choose(world);
        for (size_t other = 0; other < k; other++)
            if (indices[other] == indices[k])
                return;
        draft_of(world, indices[k], &texts[k], &drafts[k]);
    }
    struct fan_expectation expectation;
    expect(world, world->publications[indices[0]].topic, &expectation);
    if (expectation.key && !*expectation.key)
        return;
    const struct fan_unit unit = { .size = FAN_UNIT_SIZE,
                                   .drafts = drafts,
                                   .count = count,
                                   .expectation = sim_chance(world, 600) ? &expectation : NULL };
    for (size_t k = 0; k < count; k++)
        attempts[k] = begin(world, instance, indices[k]);
    if (unit.expectation)
        world->publications[indices[0]].expecting = attempts[0].number;
    sim_trace(world, "i%u publishes a unit of %zu from e%u", instance, count, indices[0]);
    i->stepping = true;
    enum fan_status status = fan_broker_publish_unit(i->broker, &unit, cursors, NULL);
    i->stepping = false;
    for (size_t k = 0; k < count; k++)
        end(world, &attempts[k], status, cursors[k].seq);
}

/* Who is told that another took it waits no more for what becomes of it. */
static bool is_elsewhere(const struct sim_delivery *delivery, unsigned instance)
{
    return (delivery->had & ~(1U << instance)) != 0;
}

/* DONE of all is told: then they are, or another had it, those of groups that are there still. */
static void check_verdicts(struct sim_world *world, unsigned instance, unsigned number_max,
                           uint64_t seq)
{
    const struct sim_event *event = sim_model_event(world, seq);
    for (unsigned g = 0; event && g < world->group_count; g++) {
        const struct sim_binding *binding = &world->instances[instance].bindings[g];
        if (binding->handler && binding->number <= number_max && sim_group_wants(world, g, event) &&
            world->publications[event->publication].deliver_at_us == 0 &&
            world->groups[g].deleted_ns == 0)
            sim_check(world, "H01",
                      event->deliveries[g].status == FAN_EVENT_COMPLETED ||
                          is_elsewhere(&event->deliveries[g], instance),
                      "e%u is told to be done, and is %s for group %s", event->publication,
                      fan_event_status_text(event->deliveries[g].status), world->groups[g].name);
    }
}

/* One is told to have failed: then some first attempt was not DONE. */
static void check_failed(struct sim_world *world, unsigned number_max, uint64_t seq)
{
    const struct sim_event *event = sim_model_event(world, seq);
    bool failed = !event || event->removed || number_max == 0;
    for (unsigned g = 0; !failed && g < world->group_count; g++)
        failed = world->groups[g].deleted_ns > 0 || event->deliveries[g].undone ||
                 event->deliveries[g].attempts > 1 ||
                 (sim_group_wants(world, g, event) &&
                  event->deliveries[g].status != FAN_EVENT_COMPLETED);
    sim_check(world, "H01", failed, "%" PRIu64 " is told to have failed, and all are done", seq);
}

static void publish_one(struct sim_world *world, unsigned instance, bool sync)
{
    struct sim_instance *i = &world->instances[instance];
    unsigned index = choose(world);
    unsigned number_max = world->binding_number;
    struct fan_event_draft draft;
    struct text text;
    draft_of(world, index, &text, &draft);
    sync |= i->sync;
    struct sim_attempt attempt = begin(world, instance, index);
    struct fan_cursor cursor = { 0, 0 };
    sim_trace(world, "i%u publishes e%u%s", instance, index, sync ? ", sync" : "");
    i->stepping = true;
    enum fan_status status = sync ? fan_broker_publish_sync(i->broker, &draft, &cursor, NULL)
                                  : fan_broker_publish(i->broker, &draft, &cursor, NULL);
    i->stepping = false;
    if (sync && status == FAN_OK && !world->ports[instance].crashed) {
        sim_count(world, SIM_SYNC_DONE);
        check_verdicts(world, instance, number_max, cursor.seq);
    } else if (status == FAN_HANDLER) {
        sim_count(world, SIM_SYNC_HANDLER);
        if (world->ports[instance].failures == attempt.failures && !i->live)
            check_failed(world, number_max, cursor.seq);
    }
    /* What a handler said of it, or did not say in time, takes nothing back. */
    if ((status == FAN_HANDLER || status == FAN_TIMED_OUT) && cursor.seq > 0)
        status = FAN_OK;
    end(world, &attempt, status, cursor.seq);
}

void sim_publish(struct sim_world *world, unsigned instance)
{
    uint64_t dice = sim_random(world, 100);
    if (world->publication_count + UNIT_COUNT_MAX > PUBLICATION_COUNT_MAX)
        return;
    if (dice < 50)
        sim_publish_async(world, instance);
    else if (dice < 65)
        publish_unit(world, instance);
    else
        publish_one(world, instance, dice < 75);
}

void sim_publish_check_stats(struct sim_world *world, unsigned instance)
{
    struct sim_instance *i = &world->instances[instance];
    struct fan_broker_stats stats = FAN_BROKER_STATS_INIT;
    fan_broker_stats(i->broker, &stats);
    if (world->ports[instance].crashed || i->uncounted)
        return;
    uint64_t told = stats.published + stats.duplicates + stats.refused;
    sim_check(world, "L13", told == i->outcomes, "i%u counts %" PRIu64 " outcomes of %" PRIu64,
              instance, told, i->outcomes);
    /* What was in doubt counts as its publisher's, although another may have stored the same id. */
    const struct sim_port *port = &world->ports[instance];
    sim_check(world, "L13", stats.published <= port->stored + port->unsure,
              "i%u counts %" PRIu64 " events published, %" PRIu64 " were stored", instance,
              stats.published, port->stored);
    sim_check(world, "L13", stats.published >= i->fresh,
              "i%u counts %" PRIu64 " events published, of %" PRIu64, instance, stats.published,
              i->fresh);
    sim_check(world, "L13", stats.duplicates >= i->again,
              "i%u counts %" PRIu64 " duplicates, of %" PRIu64, instance, stats.duplicates,
              i->again);
    sim_check(world, "L13",
              stats.removed == port->removed && stats.expired == port->expired &&
                  stats.discarded == port->discarded,
              "i%u counts %" PRIu64 " removed, %" PRIu64 " expired and %" PRIu64
              " discarded, not %" PRIu64 ", %" PRIu64 " and %" PRIu64,
              instance, stats.removed, stats.expired, stats.discarded, port->removed, port->expired,
              port->discarded);
    sim_check(world, "L13", stats.handled == i->handled,
              "i%u counts %" PRIu64 " calls of handlers, not %" PRIu64, instance, stats.handled,
              i->handled);
    if (port->settled_unsure)
        return;
    sim_check(world, "L13", stats.lost >= port->lost,
              "i%u counts %" PRIu64 " settlements that came too late, of %" PRIu64, instance,
              stats.lost, port->lost);
    sim_check(world, "L13", stats.processed == port->processed + i->live_handled,
              "i%u counts %" PRIu64 " verdicts, the log %" PRIu64, instance, stats.processed,
              port->processed + i->live_handled);
    sim_check(world, "L13", stats.retried == port->retried,
              "i%u counts %" PRIu64 " retries, the log %" PRIu64, instance, stats.retried,
              port->retried);
    sim_check(world, "L13", stats.dead == port->dead && stats.failed == port->dead + i->live_failed,
              "i%u counts %" PRIu64 " dead and %" PRIu64 " failed, the log %" PRIu64, instance,
              stats.dead, stats.failed, port->dead);
}

void sim_publish_check_settled(struct sim_world *world, unsigned instance)
{
    const struct sim_instance *i = &world->instances[instance];
    const struct sim_port *port = &world->ports[instance];
    struct fan_broker_stats stats = FAN_BROKER_STATS_INIT;
    for (unsigned g = 0; g < world->group_count; g++)
        if (world->groups[g].deleted_ns > 0)
            return;
    fan_broker_stats(i->broker, &stats);
    sim_check(world, "L13", i->unhandled || stats.processed >= port->processed + i->live_handled,
              "i%u counts %" PRIu64 " verdicts at its stop, the log %" PRIu64, instance,
              stats.processed, port->processed + i->live_handled);
}
