/* What happens to a call: decided before it, told after it. */
#include "store/fault/fault.h"

/* SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014). */
static uint64_t mix(uint64_t value)
{
    value += UINT64_C(0x9e3779b97f4a7c15);
    value = (value ^ value >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    value = (value ^ value >> 27) * UINT64_C(0x94d049bb133111eb);
    return value ^ value >> 31;
}

/* With the lock. */
static void note(struct fan__fault *fault, enum fan__fault_call call, enum fan__fault_kind kind)
{
    fault->counts[call][kind]++;
    if (kind != FAN__FAULT_delay)
        fault->injected++;
    if (kind == FAN__FAULT_crash)
        fault->faults.crashed = true;
}

/* With the lock. */
static struct fan__fault_plan decide(struct fan__fault *fault, enum fan__fault_call call)
{
    const struct fan__faults *faults = &fault->faults;
    uint64_t number = ++fault->numbers[call];
    uint64_t random = mix(mix(faults->seed ^ mix(call)) ^ number);
    struct fan__fault_plan plan = { .kind = FAN__FAULT_NONE, .random = mix(random) };
    uint32_t chance = (uint32_t)(random % FAN__FAULT_RATE_ONE);
    for (unsigned kind = 0; kind < FAN__FAULT_delay && fault->injected < faults->limit; kind++) {
        if (chance < faults->rates[call][kind]) {
            plan.kind = (enum fan__fault_kind)kind;
            note(fault, call, plan.kind);
            break;
        }
        chance -= faults->rates[call][kind];
    }
    if (mix(random + 1) % FAN__FAULT_RATE_ONE < faults->rates[call][FAN__FAULT_delay]) {
        uint32_t span_ms = faults->delay_ms_max - faults->delay_ms_min + 1;
        plan.delay_ms = faults->delay_ms_min + (uint32_t)(mix(random + 2) % span_ms);
        note(fault, call, FAN__FAULT_delay);
    }
    return plan;
}

/* With the lock. */
static void sleep_locked(struct fan__fault *fault, uint32_t time_ms)
{
    int64_t deadline_ns = fan__deadline_ns(time_ms);
    uint64_t changes = fault->changes;
    bool in_time = time_ms > 0;
    while (in_time && fault->changes == changes)
        in_time = fan__cond_wait_until(&fault->changed, &fault->mutex, deadline_ns);
}

void fan__fault_sleep(struct fan__fault *fault, uint32_t time_ms)
{
    fan__mutex_lock(&fault->mutex);
    sleep_locked(fault, time_ms);
    fan__mutex_unlock(&fault->mutex);
}

static enum fan_status answer_of(enum fan__fault_kind kind)
{
    switch (kind) {
    case FAN__FAULT_unavailable:
    case FAN__FAULT_stall:
        return FAN_UNAVAILABLE;
    case FAN__FAULT_io:
    case FAN__FAULT_crash:
        return FAN_IO;
    case FAN__FAULT_no_space:
        return FAN_NO_SPACE;
    case FAN__FAULT_unknown_lost:
        return FAN_UNKNOWN;
    default:
        return FAN_OK;
    }
}

enum fan_status fan__fault_begin(struct fan__fault *fault, enum fan__fault_call call,
                                 struct fan__fault_plan *ret_plan)
{
    fan__mutex_lock(&fault->mutex);
    if (fault->faults.crashed) {
        fan__mutex_unlock(&fault->mutex);
        return FAN_IO;
    }
    struct fan__fault_plan plan = decide(fault, call);
    uint32_t sleep_ms = call == FAN__FAULT_CALL_wait ? 0 : plan.delay_ms;
    if (plan.kind == FAN__FAULT_stall)
        sleep_ms = fault->faults.stall_ms;
    sleep_locked(fault, sleep_ms);
    /* Who slept meanwhile died with the others. */
    bool crashed = fault->faults.crashed;
    fan__mutex_unlock(&fault->mutex);
    *ret_plan = plan;
    return crashed ? FAN_IO : answer_of(plan.kind);
}

enum fan_status fan__fault_end(struct fan__fault *fault, const struct fan__fault_plan *plan,
                               enum fan_status status)
{
    if (plan->kind == FAN__FAULT_crash_done) {
        fan__mutex_lock(&fault->mutex);
        fault->faults.crashed = true;
        fan__mutex_unlock(&fault->mutex);
    }
    bool unknown = plan->kind == FAN__FAULT_unknown_done || plan->kind == FAN__FAULT_crash_done ||
                   plan->kind == FAN__FAULT_torn;
    return unknown ? FAN_UNKNOWN : status;
}
