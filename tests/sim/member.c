/*
 * A member that is no broker: it claims, renews and settles for itself, as one does over HTTP, and
 * is often late. It also takes leases by name.
 */
#include "sim.h"

static const char *const names[LEASE_COUNT] = { "l0", "l1" };

static void claim(struct sim_world *world, struct fan_store *store)
{
    unsigned group = (unsigned)sim_random(world, world->group_count);
    struct fan_group_name name = { world->groups[group].name, world->groups[group].handler };
    const struct fan_claim_options options = {
        .size = FAN_CLAIM_OPTIONS_SIZE,
        .owner = "member",
        .limit = 1 + (size_t)sim_random(world, 4),
        .lease_ms = 300 + (uint32_t)sim_random(world, 5000),
        .ordered = world->groups[group].ordered,
    };
    struct fan_claim claims[4];
    struct fan_batch *batch = NULL;
    if (world->claim_count + options.limit > CLAIM_COUNT_MAX || !world->groups[group].exists ||
        fan_batch_new(&world->env, &batch) != FAN_OK)
        return;
    if (fan_group_claim(store, &name, &options, batch, claims) == FAN_OK)
        for (size_t i = 0; i < fan_batch_count(batch); i++)
            world->claims[world->claim_count++] = (struct sim_claim){ .group = group,
                                                                      .seq = claims[i].seq,
                                                                      .token = claims[i].token };
    fan_batch_free(batch);
}

static void settle(struct sim_world *world, struct fan_store *store, bool renew)
{
    if (world->claim_count == 0)
        return;
    size_t at = (size_t)sim_random(world, world->claim_count);
    struct sim_claim *claim = &world->claims[at];
    struct fan_group_name name = { world->groups[claim->group].name,
                                   world->groups[claim->group].handler };
    struct fan_settle item = { .seq = claim->seq,
                               .token = claim->token,
                               .verdict = (enum fan_verdict)sim_random(world, 4),
                               .delay_ms = (uint32_t)sim_random(world, 3000) };
    if (renew) {
        if (fan_group_renew(store, &name, &item, 1, 1000) != FAN_OK)
            return;
        if (item.ret_status == FAN_OK)
            return;
    } else if (fan_group_settle(store, &name, &item, 1) != FAN_OK) {
        return;
    }
    /* Now and then it forgets that it has settled, and does so again. */
    if (sim_chance(world, 800))
        *claim = world->claims[--world->claim_count];
}

static void lease(struct sim_world *world, struct fan_store *store)
{
    unsigned which = (unsigned)sim_random(world, LEASE_COUNT);
    unsigned owner = (unsigned)sim_random(world, 2);
    uint32_t ttl_ms = 200 + (uint32_t)sim_random(world, 5000);
    uint64_t fence = 0;
    uint64_t dice = sim_random(world, 10);
    enum fan_status status = FAN_OK;
    if (dice < 6) {
        status = fan_lease_acquire(store, names[which], owner ? "1" : "0", ttl_ms, &fence);
        if (status == FAN_OK)
            world->fences[which] = fence;
    } else if (world->fences[which] == 0) {
        return;
    } else if (dice < 8) {
        status = fan_lease_renew(store, names[which], world->model.leases[which].owner ? "1" : "0",
                                 world->fences[which], ttl_ms);
    } else {
        status =
            fan_lease_release(store, names[which], world->model.leases[which].owner ? "1" : "0",
                              world->fences[which]);
    }
    sim_trace(world, "lease %s: %s", names[which], fan_status_name(status));
}

void sim_act_member(struct sim_world *world)
{
    struct fan_store *store = NULL;
    uint64_t dice = sim_random(world, 10);
    if (world->ports[MEMBER].open ||
        fan_store_open_provider(&sim_provider, "sim:4", &world->env, &store, NULL) != FAN_OK)
        return;
    if (dice < 3)
        claim(world, store);
    else if (dice < 6)
        settle(world, store, false);
    else if (dice < 7)
        settle(world, store, true);
    else
        lease(world, store);
    fan_store_close(store);
}
