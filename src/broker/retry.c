/* How late a delivery comes again: exponential, bounded, with jitter taken off. */
#include "broker/dispatch.h"

#include "base/status.h"

#define RETRIES 3
#define DELAY_MS 1000
#define DELAY_MS_MAX 30000
#define FACTOR 2.0
#define RETRIES_MAX 1000000

enum fan_status fan__retry_policy(const struct fan_retry_policy *given,
                                  struct fan_retry_policy *ret_policy, struct fan_error *error)
{
    struct fan_retry_policy policy = *given;
    if (policy.none && policy.retries > 0)
        return fan__fail(error, FAN_INVALID, "retry.none", "cannot go with %u retries",
                         policy.retries);
    if (policy.retries > RETRIES_MAX)
        return fan__fail(error, FAN_INVALID, "retry.retries", "must be at most %d", RETRIES_MAX);
    /* Written so that not-a-number is refused too. */
    if (policy.factor != 0 && !(policy.factor >= 1 && policy.factor <= 1000))
        return fan__fail(error, FAN_INVALID, "retry.factor", "must be 1 to 1,000");
    if (policy.jitter_percent > 100)
        return fan__fail(error, FAN_INVALID, "retry.jitter_percent", "must be at most 100");
    if (!policy.none && policy.retries == 0)
        policy.retries = RETRIES;
    if (policy.delay_ms == 0)
        policy.delay_ms = DELAY_MS;
    if (policy.delay_ms_max == 0)
        policy.delay_ms_max = policy.delay_ms > DELAY_MS_MAX ? policy.delay_ms : DELAY_MS_MAX;
    if (policy.delay_ms_max < policy.delay_ms)
        return fan__fail(error, FAN_INVALID, "retry.delay_ms_max",
                         "must be at least the first delay, %u", policy.delay_ms);
    if (policy.factor == 0)
        policy.factor = FACTOR;
    *ret_policy = policy;
    return FAN_OK;
}

uint32_t fan__retry_delay_ms(const struct fan_retry_policy *policy, unsigned attempt,
                             uint32_t random)
{
    double delay_ms = policy->delay_ms;
    for (unsigned i = 1; i < attempt && delay_ms < policy->delay_ms_max && policy->factor > 1; i++)
        delay_ms *= policy->factor;
    if (delay_ms > policy->delay_ms_max)
        delay_ms = policy->delay_ms_max;
    delay_ms -= delay_ms * policy->jitter_percent / 100 * random / UINT32_MAX;
    return (uint32_t)delay_ms;
}
