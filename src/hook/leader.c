/* A lease is renewed when a third of it has passed, and found lost by the log itself. */
#include "hook/leader.h"

#include "base/env.h"
#include "base/hash.h"
#include "base/status.h"

#include <fanfare/broker.h>
#include <fanfare/group.h>

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define PUBLISH_TIMEOUT_MS 5000

void fan__leader_init(struct fan__leader *leader, struct fan_broker *broker, uint32_t lease_ms)
{
    unsigned char random[16];
    *leader = (struct fan__leader){ .env = fan_broker_defaults(broker)->env,
                                    .broker = broker,
                                    .lease_ms = lease_ms };
    fan__random(leader->env, random, sizeof(random));
    memcpy(leader->owner, "relay-", sizeof("relay-"));
    for (size_t i = 0; i < sizeof(random); i++)
        snprintf(leader->owner + strlen("relay-") + 2 * i, 3, "%02x", random[i]);
}

void fan__leader_name(struct fan__leader *leader, const char *kind, struct fan_str source)
{
    snprintf(leader->lease, sizeof(leader->lease), "%s-%016" PRIx64, kind,
             fan__hash(0, source.data, source.size));
}

enum fan_status fan__leader_lead(struct fan__leader *leader, struct fan_error *error)
{
    int64_t now_ns = fan__monotonic_ns(leader->env);
    if (leader->fence != 0 && now_ns < leader->renew_ns)
        return FAN_OK;
    uint64_t fence = 0;
    enum fan_status status = fan_lease_acquire(fan_broker_store(leader->broker), leader->lease,
                                               leader->owner, leader->lease_ms, &fence);
    leader->fence = status == FAN_OK ? fence : 0;
    if (status == FAN_EXISTS)
        return fan__fail(error, status, "", "another relay has the lease");
    if (status != FAN_OK)
        return fan__fail(error, status, "", "cannot get the lease: %s", fan_status_text(status));
    leader->renew_ns = now_ns + (int64_t)leader->lease_ms * FAN__NS_PER_MS / 3;
    return FAN_OK;
}

void fan__leader_release(struct fan__leader *leader)
{
    if (leader->fence != 0)
        (void)!fan_lease_release(fan_broker_store(leader->broker), leader->lease, leader->owner,
                                 leader->fence);
    leader->fence = 0;
}

static enum fan_status publish_unit(struct fan__leader *leader,
                                    const struct fan_event_draft *drafts, size_t count,
                                    struct fan_error *error)
{
    struct fan_expectation expectation = { .size = sizeof(expectation),
                                           .lease = leader->lease,
                                           .fence = leader->fence };
    struct fan_unit unit = { .size = FAN_UNIT_SIZE,
                             .drafts = drafts,
                             .count = count,
                             .expectation = &expectation,
                             .timeout_ms = PUBLISH_TIMEOUT_MS };
    enum fan_status status = fan_broker_publish_unit(leader->broker, &unit, NULL, error);
    if (status != FAN_CONFLICT)
        return status;
    leader->fence = 0;
    return fan__fail(error, FAN_EXISTS, "", "the lease was lost");
}

/*
 * A unit is refused as a whole when one of its events is; halving it finds that one, and after a
 * success units grow again.
 */
enum fan_status fan__leader_publish(struct fan__leader *leader,
                                    const struct fan__leader_batch *batch, struct fan_error *error)
{
    size_t step = batch->count;
    for (size_t at = 0; at < batch->count;) {
        step = step < batch->count - at ? step : batch->count - at;
        enum fan_status status = publish_unit(leader, batch->drafts + at, step, error);
        bool refused = status == FAN_INVALID || status == FAN_EXPIRED;
        if (refused && step > 1) {
            step /= 2;
            continue;
        }
        if (refused)
            status = batch->refused(batch->context, at, error);
        else if (status == FAN_OK)
            batch->done(batch->context, at, step);
        if (status != FAN_OK)
            return status;
        at += step;
        step *= 2;
    }
    return FAN_OK;
}
