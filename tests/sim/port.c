/*
 * A provider that is one instance's way to the log:
 *
 *     broker -> faults (this file) -> model (learns, checks) -> plants (this file) -> the log
 *
 * A call may fail before it gets there, be done with its answer lost, or be the one in which its
 * instance crashes: from then on nothing of that instance reaches the log.
 */
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LATENCY_US_MAX 1500
#define ITEM_COUNT_MAX 1000
#define DEPTH_MAX 2
#define PAGE_COUNT_MAX 20

enum way {
    WAY_THROUGH,
    WAY_FAILS,    /* it never gets there */
    WAY_DONE_LOST /* it is done, the answer is lost */
};

struct passage {
    struct sim_port *port;
    enum way way;
    enum fan_status fault;
    int64_t begun_ns;
};

static const enum fan_status faults[] = { FAN_UNAVAILABLE, FAN_UNAVAILABLE, FAN_IO, FAN_NO_MEMORY };

static bool crash_now(struct sim_port *port)
{
    if (port->crash_in == 0 || --port->crash_in > 0)
        return false;
    port->crashed = true;
    sim_trace(port->world, "i%u crashes in a call", port->index);
    return true;
}

/*
 * A call takes time, in which others act: other instances, readers, and who publishes on this one.
 */
static void let_others_act(struct sim_port *port)
{
    struct sim_world *world = port->world;
    const struct sim_instance *instance =
        port->index == MEMBER ? NULL : &world->instances[port->index];
    if (world->quiet || world->depth >= DEPTH_MAX || !sim_chance(world, world->talk_permille))
        return;
    sim_count(world, SIM_WITHIN_CALL);
    world->depth++;
    for (uint64_t count = 1 + sim_random(world, 4); count > 0; count--) {
        if (instance && instance->broker && !instance->stopping && sim_chance(world, 200))
            sim_publish_async(world, port->index);
        else
            sim_act(world);
    }
    world->depth--;
}

/* Decides what becomes of a call. */
static struct passage enter(struct sim_port *port, bool writes)
{
    struct sim_world *world = port->world;
    struct passage passage = { port, WAY_THROUGH, FAN_UNAVAILABLE, sim_now_ns() };
    world->calls++;
    if (port->crashed) {
        passage.way = WAY_FAILS;
        return passage;
    }
    sim_clock_pass_ns((int64_t)sim_random(world, LATENCY_US_MAX) * NS_PER_US);
    let_others_act(port);
    if (crash_now(port)) {
        passage.way = writes && sim_chance(world, 500) ? WAY_DONE_LOST : WAY_FAILS;
    } else if (!world->quiet &&
               (world->down_until_ns > sim_now_ns() || port->cut_until_ns > sim_now_ns())) {
        passage.way = WAY_FAILS;
    } else if (!world->quiet && sim_chance(world, world->fault_permille)) {
        passage.way = WAY_FAILS;
        passage.fault = faults[sim_random(world, sizeof(faults) / sizeof(*faults))];
    } else if (!world->quiet && writes && sim_chance(world, world->unknown_permille)) {
        passage.way = sim_chance(world, 500) ? WAY_DONE_LOST : WAY_FAILS;
        passage.fault = FAN_UNKNOWN;
    }
    port->failures += passage.way != WAY_THROUGH;
    return passage;
}

/* What the caller is told of a call that was made, on whose way others act, too. */
static enum fan_status leave(const struct passage *passage, enum fan_status status)
{
    if (!passage->port->crashed)
        let_others_act(passage->port);
    return passage->way == WAY_DONE_LOST ? passage->fault : status;
}

static enum fan_status port_open(const char *uri, const struct fan_env *env, void **ret_self,
                                 uint64_t *ret_epoch, struct fan_error *error)
{
    struct sim_world *world = sim_world_here();
    struct sim_port *port = &world->ports[strtoul(uri + strlen("sim:"), NULL, 10)];
    struct passage passage = enter(port, false);
    if (passage.way != WAY_THROUGH)
        return passage.fault;
    port->store = world->store;
    if (world->sqlite && port->index != MEMBER) {
        enum fan_status status = fan_store_open(world->uri, env, &port->store, error);
        if (status != FAN_OK)
            return status;
    }
    port->open = true;
    port->head_seen = port->stored = port->unsure = port->processed = 0;
    port->retried = port->dead = port->lost = port->answered_seq = 0;
    port->removed = port->expired = port->discarded = 0;
    port->settled_unsure = false;
    *ret_self = port;
    *ret_epoch = fan_store_epoch(port->store);
    return FAN_OK;
}

static void port_close(void *self)
{
    struct sim_port *port = self;
    if (port->store != port->world->store)
        fan_store_close(port->store);
    port->store = NULL;
    port->open = false;
}

/* A plant: the id of what is there already is stored again under another name. */
static enum fan_status append_again(struct sim_port *port, struct fan_append *items, size_t count,
                                    struct fan_error *error)
{
    struct sim_world *world = port->world;
    enum fan_status status = fan_store_append(port->store, items, count, error);
    if (world->plant != PLANT_DUPLICATE_AFTER_UNKNOWN || status != FAN_OK ||
        !items[0].ret_duplicate)
        return status;
    struct fan_event_draft draft;
    struct fan_event *event = NULL;
    char id[64];
    fan_event_to_draft(items[0].event, &draft);
    snprintf(id, sizeof(id), "%s'", fan_event_id(items[0].event));
    draft.id = id;
    struct fan_event_defaults defaults = FAN_EVENT_DEFAULTS_INIT;
    defaults.env = &world->env;
    if (fan_event_new(&draft, &defaults, &event, NULL) != FAN_OK)
        return status;
    struct fan_append again = { .event = event };
    if (fan_store_append(port->store, &again, 1, NULL) == FAN_OK) {
        items[0].ret_seq = again.ret_seq;
        items[0].ret_duplicate = false;
    }
    fan_event_free(event, &world->env);
    return status;
}

/* A plant: of a unit of several only the first is stored. */
static enum fan_status append_torn(struct sim_port *port, struct fan_append *items, size_t count,
                                   struct fan_error *error)
{
    if (port->world->plant != PLANT_TORN_UNIT || count < 2 || !items[count - 1].joined)
        return append_again(port, items, count, error);
    enum fan_status status = append_again(port, items, count - 1, error);
    items[count - 1].ret_status = status;
    items[count - 1].ret_seq = items[count - 2].ret_seq;
    return status;
}

/* How much of a batch gets there when the connection is cut in its middle: whole units. */
static size_t whole_units(struct sim_world *world, const struct fan_append *items, size_t count)
{
    size_t part = 1 + (size_t)sim_random(world, count);
    while (part < count && items[part].joined)
        part++;
    return part;
}

static void note_append(const struct passage *passage, const struct sim_port *port, bool torn)
{
    bool fails = passage->way == WAY_FAILS;
    if (passage->way == WAY_THROUGH)
        return;
    if (port->crashed)
        sim_count(port->world, fails ? SIM_CRASH_BEFORE_APPEND : SIM_CRASH_BEFORE_NOTIFY);
    else if (passage->fault == FAN_UNKNOWN)
        sim_count(port->world, fails ? SIM_APPEND_LOST : SIM_APPEND_UNANSWERED);
    else
        sim_count(port->world, SIM_APPEND_FAILED);
    if (torn)
        sim_count(port->world, SIM_APPEND_TORN);
}

static enum fan_status port_append(void *self, struct fan_append *items, size_t count,
                                   struct fan_error *error)
{
    struct sim_port *port = self;
    struct sim_world *world = port->world;
    struct passage passage = enter(port, true);
    port->unsure += passage.fault == FAN_UNKNOWN ? count : 0;
    size_t part = count;
    if (passage.way == WAY_DONE_LOST)
        part = whole_units(world, items, count);
    note_append(&passage, port, part < count);
    if (passage.way == WAY_FAILS)
        return passage.fault;
    uint64_t head_seq = world->model.head_seq;
    enum fan_status status = append_torn(port, items, part, error);
    if (status == FAN_OK)
        sim_model_appended(port, items, part);
    if (world->plant == PLANT_LATE_COMMIT && world->late_until_ns < sim_now_ns() &&
        world->model.head_seq > head_seq && sim_chance(world, 100)) {
        world->late_seq = head_seq + 1;
        world->late_port = port->index;
        world->late_until_ns = sim_now_ns() + 200 * NS_PER_MS;
    }
    if (passage.way == WAY_DONE_LOST)
        return leave(&passage, status);
    for (size_t i = 0; i < count && status == FAN_OK; i++)
        if (items[i].ret_status == FAN_OK && items[i].ret_seq > port->answered_seq)
            port->answered_seq = items[i].ret_seq;
    port->head_seen = world->model.head_seq;
    return leave(&passage, status);
}

/* A plant: what was committed late is not there yet, while what came after it is. */
static enum fan_status hide_late(const struct sim_port *port, struct fan_batch *batch)
{
    struct sim_world *world = port->world;
    struct fan_batch *rest = NULL;
    if (world->late_until_ns < sim_now_ns() || port->index == world->late_port)
        return FAN_OK;
    enum fan_status status = fan_batch_new(&world->env, &rest);
    for (size_t i = 0; status == FAN_OK && i < fan_batch_count(batch); i++)
        if (fan_event_seq(fan_batch_event(batch, i)) != world->late_seq)
            status = fan_batch_add_event(rest, fan_batch_event(batch, i));
    fan_batch_clear(batch);
    for (size_t i = 0; status == FAN_OK && i < fan_batch_count(rest); i++)
        status = fan_batch_add_event(batch, fan_batch_event(rest, i));
    fan_batch_free(rest);
    return status;
}

static enum fan_status port_read(void *self, uint64_t after_seq, const struct fan_query *query,
                                 struct fan_batch *batch, struct fan_read_result *ret_result)
{
    struct sim_port *port = self;
    struct passage passage = enter(port, false);
    if (passage.way != WAY_THROUGH)
        return passage.fault;
    struct fan_query some = *query;
    /* A page may end before its limit, as those do that are full of bytes. */
    if (!port->world->quiet && sim_chance(port->world, 300) && some.limit > PAGE_COUNT_MAX)
        some.limit = 1 + (size_t)sim_random(port->world, PAGE_COUNT_MAX);
    enum fan_status status = fan_store_read(port->store, after_seq, &some, batch, ret_result);
    if (status == FAN_OK)
        port->head_seen = ret_result->head_seq;
    if (status == FAN_OK)
        status = hide_late(port, batch);
    return leave(&passage, status);
}

static enum fan_status port_list(void *self, const struct fan_query *query, struct fan_batch *batch,
                                 struct fan_event_state *states, struct fan_error *error)
{
    struct sim_port *port = self;
    struct passage passage = enter(port, false);
    if (passage.way != WAY_THROUGH)
        return passage.fault;
    return fan_store_list(port->store, query, batch, states, error);
}

static enum fan_status port_get(void *self, const char *id, struct fan_batch *batch,
                                struct fan_event_state *ret_state)
{
    struct sim_port *port = self;
    struct passage passage = enter(port, false);
    if (passage.way != WAY_THROUGH)
        return passage.fault;
    return fan_store_get(port->store, id, batch, ret_state);
}

static enum fan_status port_remove(void *self, const char *id)
{
    struct sim_port *port = self;
    struct passage passage = enter(port, true);
    if (passage.way == WAY_FAILS)
        return passage.fault;
    enum fan_status status = fan_store_delete(port->store, id);
    unsigned publication = 0;
    if (status == FAN_OK && sim_publication_of(port->world, id, &publication)) {
        struct sim_event *event = sim_model_by_publication(port->world, publication);
        if (event)
            event->removed = event->deleted = true;
    }
    return leave(&passage, status);
}

static enum fan_status port_erase(void *self, const char *id)
{
    struct sim_port *port = self;
    struct passage passage = enter(port, true);
    if (passage.way == WAY_FAILS)
        return passage.fault;
    enum fan_status status = fan_store_erase(port->store, id);
    unsigned publication = 0;
    if (status == FAN_OK && sim_publication_of(port->world, id, &publication)) {
        struct sim_event *event = sim_model_by_publication(port->world, publication);
        if (event)
            event->erased = true;
    }
    return leave(&passage, status);
}

/* A head may be an old one, as long as it never goes back: that is how late a wake-up may come. */
static enum fan_status port_head(void *self, uint64_t *ret_seq)
{
    struct sim_port *port = self;
    struct passage passage = enter(port, false);
    if (passage.way != WAY_THROUGH)
        return passage.fault;
    if (port->head_seen > 0 && !port->world->quiet && sim_chance(port->world, 200)) {
        *ret_seq = port->head_seen;
        return FAN_OK;
    }
    enum fan_status status = fan_store_head(port->store, ret_seq);
    if (status == FAN_OK)
        port->head_seen = *ret_seq;
    return leave(&passage, status);
}

static enum fan_status port_wait(void *self, uint64_t after_seq, uint32_t timeout_ms)
{
    struct sim_port *port = self;
    struct passage passage = enter(port, false);
    return passage.way == WAY_THROUGH ? fan_store_wait(port->store, after_seq, timeout_ms)
                                      : passage.fault;
}

static void port_wake(void *self)
{
    struct sim_port *port = self;
    if (!port->crashed)
        fan_store_wake(port->store);
}

static enum fan_status port_stats(void *self, struct fan_store_stats *ret_stats)
{
    struct sim_port *port = self;
    struct passage passage = enter(port, false);
    return passage.way == WAY_THROUGH ? fan_store_stats(port->store, ret_stats) : passage.fault;
}

static enum fan_status port_group_create(void *self, const struct fan_group_name *name,
                                         const struct fan_group_options *options,
                                         struct fan_error *error)
{
    struct sim_port *port = self;
    struct passage passage = enter(port, true);
    if (passage.way == WAY_FAILS)
        return passage.fault;
    enum fan_status status = fan_group_create(port->store, name, options, error);
    if (status == FAN_OK)
        sim_model_created(port->world, name, options);
    sim_model_seen(port->world, name);
    return leave(&passage, status);
}

static enum fan_status port_group_delete(void *self, const struct fan_group_name *name)
{
    struct sim_port *port = self;
    struct passage passage = enter(port, true);
    if (passage.way == WAY_FAILS)
        return passage.fault;
    enum fan_status status = fan_group_delete(port->store, name);
    if (status == FAN_OK)
        sim_model_deleted(port->world, name);
    return leave(&passage, status);
}

/* A plant: the first delivery that another holds is let go of, and so given at once. */
static void drop_lease(struct sim_port *port, const struct fan_group_name *name)
{
    struct sim_world *world = port->world;
    int group = sim_group_find(world, name);
    if (world->plant != PLANT_EARLY_LEASE || group < 0 || !sim_chance(world, 50))
        return;
    for (size_t i = 0; i < world->model.count; i++) {
        const struct sim_event *event = &world->model.events[i];
        const struct sim_delivery *delivery = &event->deliveries[group];
        if (event->removed || delivery->status != FAN_EVENT_PROCESSING)
            continue;
        struct fan_settle item = { .seq = event->seq,
                                   .token = delivery->token,
                                   .verdict = FAN_VERDICT_RETRY };
        if (fan_group_settle(port->store, name, &item, 1) == FAN_OK)
            return;
    }
}

static enum fan_status port_claim(void *self, const struct fan_group_name *name,
                                  const struct fan_claim_options *options, struct fan_batch *batch,
                                  struct fan_claim *claims)
{
    struct sim_port *port = self;
    struct passage passage = enter(port, true);
    if (passage.way == WAY_FAILS)
        return passage.fault;
    drop_lease(port, name);
    enum fan_status status = fan_group_claim(port->store, name, options, batch, claims);
    port->answers = passage.way == WAY_THROUGH;
    port->begun_ns = passage.begun_ns;
    sim_model_seen(port->world, name);
    if (status == FAN_OK)
        sim_model_claimed(port, name, options, batch, claims);
    if (status == FAN_OK && port->crashed && fan_batch_count(batch) > 0)
        sim_count(port->world, SIM_CRASH_AFTER_CLAIM);
    return leave(&passage, status);
}

/* A plant: whatever the token, it is taken for the right one. */
static void forge(const struct sim_port *port, const struct fan_group_name *name,
                  struct fan_settle *items, size_t count)
{
    int group = sim_group_find(port->world, name);
    for (size_t i = 0; port->world->plant == PLANT_NO_FENCE && group >= 0 && i < count; i++) {
        const struct sim_event *event = sim_model_event(port->world, items[i].seq);
        if (event && event->deliveries[group].token != 0)
            items[i].token = event->deliveries[group].token;
    }
}

static enum fan_status port_settle(void *self, const struct fan_group_name *name,
                                   struct fan_settle *items, size_t count)
{
    struct sim_port *port = self;
    struct passage passage = enter(port, true);
    port->settled_unsure |= passage.way != WAY_THROUGH && passage.fault == FAN_UNKNOWN;
    if (passage.way == WAY_THROUGH && !port->world->quiet &&
        sim_chance(port->world, port->world->unsettled_permille)) {
        passage.way = WAY_FAILS;
        port->failures++;
    }
    if (passage.way == WAY_FAILS || count > ITEM_COUNT_MAX)
        return passage.fault;
    uint64_t tokens[ITEM_COUNT_MAX];
    for (size_t i = 0; i < count; i++)
        tokens[i] = items[i].token;
    forge(port, name, items, count);
    enum fan_status status = fan_group_settle(port->store, name, items, count);
    for (size_t i = 0; i < count; i++)
        items[i].token = tokens[i];
    port->answers = passage.way == WAY_THROUGH;
    sim_model_seen(port->world, name);
    if (status == FAN_OK)
        sim_model_settled(port, name, items, count);
    if (status == FAN_OK && port->crashed)
        sim_count(port->world, SIM_CRASH_AFTER_SETTLE);
    return leave(&passage, status);
}

static enum fan_status port_renew(void *self, const struct fan_group_name *name,
                                  struct fan_settle *items, size_t count, uint32_t lease_ms)
{
    struct sim_port *port = self;
    struct passage passage = enter(port, true);
    if (passage.way == WAY_FAILS)
        return passage.fault;
    enum fan_status status = fan_group_renew(port->store, name, items, count, lease_ms);
    port->answers = passage.way == WAY_THROUGH;
    port->begun_ns = passage.begun_ns;
    sim_model_seen(port->world, name);
    if (status == FAN_OK)
        sim_model_renewed(port, name, items, count, lease_ms);
    return leave(&passage, status);
}

static enum fan_status port_move(void *self, const struct fan_group_name *name, uint64_t seq,
                                 enum fan_event_status to)
{
    struct sim_port *port = self;
    struct passage passage = enter(port, true);
    if (passage.way == WAY_FAILS)
        return passage.fault;
    enum fan_status status = fan_group_move(port->store, name, seq, to);
    if (status == FAN_OK)
        sim_model_moved(port->world, name, seq, to);
    return leave(&passage, status);
}

static enum fan_status port_deliveries(void *self, uint64_t seq, uint64_t after_seq,
                                       fan_delivery_visit visit, void *context)
{
    struct sim_port *port = self;
    struct passage passage = enter(port, false);
    if (passage.way != WAY_THROUGH)
        return passage.fault;
    return fan_store_deliveries(port->store, seq, after_seq, visit, context);
}

static enum fan_status port_groups(void *self, fan_group_visit visit, void *context)
{
    struct sim_port *port = self;
    struct passage passage = enter(port, false);
    return passage.way == WAY_THROUGH ? fan_store_groups(port->store, visit, context)
                                      : passage.fault;
}

static enum fan_status port_lease_acquire(void *self, const char *name, const char *owner,
                                          uint32_t ttl_ms, uint64_t *ret_fence)
{
    struct sim_port *port = self;
    struct passage passage = enter(port, true);
    if (passage.way == WAY_FAILS)
        return passage.fault;
    struct sim_acquired acquired = { .owner = (unsigned)strtoul(owner, NULL, 10),
                                     .ttl_ms = ttl_ms };
    acquired.status = fan_lease_acquire(port->store, name, owner, ttl_ms, &acquired.fence);
    sim_lease_acquired(port->world, name, &acquired);
    if (acquired.status == FAN_OK && passage.way == WAY_THROUGH)
        *ret_fence = acquired.fence;
    return leave(&passage, acquired.status);
}

static enum fan_status port_lease_renew(void *self, const char *name, const char *owner,
                                        uint64_t fence, uint32_t ttl_ms)
{
    struct sim_port *port = self;
    struct passage passage = enter(port, true);
    if (passage.way == WAY_FAILS)
        return passage.fault;
    enum fan_status status = fan_lease_renew(port->store, name, owner, fence, ttl_ms);
    sim_lease_renewed(port->world, name, fence, ttl_ms, status);
    return leave(&passage, status);
}

static enum fan_status port_lease_release(void *self, const char *name, const char *owner,
                                          uint64_t fence)
{
    struct sim_port *port = self;
    struct passage passage = enter(port, true);
    if (passage.way == WAY_FAILS)
        return passage.fault;
    enum fan_status status = fan_lease_release(port->store, name, owner, fence);
    sim_lease_released(port->world, name, fence, status);
    return leave(&passage, status);
}

static unsigned port_promises(void *self)
{
    const struct sim_port *port = self;
    return fan_store_capabilities(port->store);
}

/* A plant: the oldest event goes, whoever is still owed it. */
static void eat_oldest(const struct sim_port *port, struct fan_retained *retained)
{
    struct sim_world *world = port->world;
    if (world->plant != PLANT_GREEDY_RETENTION || retained->removed == 0)
        return;
    for (size_t i = 0; i < world->model.count; i++) {
        const struct sim_event *event = &world->model.events[i];
        char id[16];
        snprintf(id, sizeof(id), "e%u", event->publication);
        if (!event->removed && fan_store_delete(port->store, id) == FAN_OK) {
            retained->removed++;
            return;
        }
    }
}

static enum fan_status port_retain(void *self, const struct fan_retention *retention,
                                   struct fan_retained *ret_retained, struct fan_error *error)
{
    struct sim_port *port = self;
    struct passage passage = enter(port, true);
    if (passage.way == WAY_FAILS)
        return passage.fault;
    struct fan_retained retained = { .size = sizeof(retained) };
    enum fan_status status = fan_store_retain(port->store, retention, &retained, error);
    if (status == FAN_OK) {
        eat_oldest(port, &retained);
        sim_model_retained(port, retention, &retained);
    }
    if (status == FAN_CONFLICT)
        sim_count(port->world, SIM_CLOCK_REFUSED);
    if (status == FAN_OK && passage.way == WAY_THROUGH) {
        *ret_retained = retained;
        port->removed += retained.removed;
        port->expired += retained.expired;
        port->discarded += retained.discarded;
    }
    return leave(&passage, status);
}

static enum fan_status port_accept_clock(void *self, struct fan_error *error)
{
    struct sim_port *port = self;
    struct passage passage = enter(port, true);
    if (passage.way == WAY_FAILS)
        return passage.fault;
    enum fan_status status = fan_store_accept_clock(port->store, error);
    if (status == FAN_OK)
        sim_model_accepted(port->world);
    return leave(&passage, status);
}

const struct fan_provider sim_provider = {
    .size = FAN_PROVIDER_SIZE,
    .scheme = "sim",
    .open = port_open,
    .close = port_close,
    .append = port_append,
    .read = port_read,
    .list = port_list,
    .get = port_get,
    .remove = port_remove,
    .erase = port_erase,
    .head = port_head,
    .wait = port_wait,
    .wake = port_wake,
    .stats = port_stats,
    .group_create = port_group_create,
    .group_delete = port_group_delete,
    .claim = port_claim,
    .settle = port_settle,
    .renew = port_renew,
    .move = port_move,
    .deliveries = port_deliveries,
    .groups = port_groups,
    .lease_acquire = port_lease_acquire,
    .lease_renew = port_lease_renew,
    .lease_release = port_lease_release,
    .promises = port_promises,
    .retain = port_retain,
    .accept_clock = port_accept_clock,
};
