/* What the model knows of leases by name: one holder at a time, fences that rise. */
#include "sim.h"

#include <inttypes.h>

/* Leases are called "l0" and so on. */
static struct sim_lease *lease_of(struct sim_world *world, const char *name)
{
    return &world->model.leases[(unsigned)(name[1] - '0') % LEASE_COUNT];
}

static bool is_held(const struct sim_lease *lease)
{
    return lease->held && lease->until_ns > sim_now_ns();
}

void sim_lease_acquired(struct sim_world *world, const char *name,
                        const struct sim_acquired *acquired)
{
    struct sim_lease *lease = lease_of(world, name);
    bool own = is_held(lease) && lease->owner == acquired->owner;
    if (acquired->status == FAN_EXISTS)
        sim_check(world, "W09", is_held(lease) && !own, "lease %s is nobody's, and not given",
                  name);
    if (acquired->status != FAN_OK)
        return;
    sim_check(world, "W09", !is_held(lease) || own, "lease %s is given to %u while %u holds it",
              name, acquired->owner, lease->owner);
    sim_check(world, "W09",
              own ? acquired->fence == lease->fence : acquired->fence > world->model.fence_last,
              "lease %s is given with fence %" PRIu64, name, acquired->fence);
    if (lease->fence > 0 && lease->owner != acquired->owner)
        sim_count(world, SIM_LEASE_TAKEN);
    if (acquired->fence > world->model.fence_last)
        world->model.fence_last = acquired->fence;
    *lease = (struct sim_lease){ .held = true,
                                 .owner = acquired->owner,
                                 .fence = acquired->fence,
                                 .until_ns = sim_now_ns() + acquired->ttl_ms * NS_PER_MS };
}

bool sim_lease_holds(const struct sim_world *world, const char *name, uint64_t fence)
{
    const struct sim_lease *lease = lease_of((struct sim_world *)(uintptr_t)world, name);
    return is_held(lease) && lease->fence == fence;
}

void sim_lease_renewed(struct sim_world *world, const char *name, uint64_t fence, uint32_t ttl_ms,
                       enum fan_status status)
{
    bool holds = sim_lease_holds(world, name, fence);
    sim_check(world, "W09", (status == FAN_OK) == holds, "lease %s: renewing gave %s", name,
              fan_status_name(status));
    if (status == FAN_OK)
        lease_of(world, name)->until_ns = sim_now_ns() + ttl_ms * NS_PER_MS;
}

void sim_lease_released(struct sim_world *world, const char *name, uint64_t fence,
                        enum fan_status status)
{
    bool holds = sim_lease_holds(world, name, fence);
    sim_check(world, "W09", (status == FAN_OK) == holds, "lease %s: releasing gave %s", name,
              fan_status_name(status));
    if (status == FAN_OK)
        lease_of(world, name)->held = false;
}
