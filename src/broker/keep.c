/*
 * Retention at work: one pass after the other, slice by slice. Between two slices it rests for as
 * long as a slice took, so that it never has more than half of the storage's time.
 *
 * Who was away because no broker ran is not to lose what it is owed: groups expire only where this
 * broker has run for as long as they may stay away. A process that stood still (stopped, or with
 * its machine suspended) has not run: nobody claimed meanwhile, and who wakes first may be this
 * thread.
 */
#include "broker/broker.h"

#include "base/adopt.h"
#include "base/env.h"
#include "base/status.h"

#include <inttypes.h>

#define REST_MS_MIN 1
/* Of group_age_ms: who is not here for so long stood still, and it is looked twice as often. */
#define STILL_PART 4

static void log_group(const struct fan_broker *broker, const struct fan_retained *one)
{
    if (one->groups_expired > 0)
        fan__log(broker->env, FAN_LOG_WARNING,
                 "group %s%s%s: no member has asked for work in too long; it is deleted, with what "
                 "it was owed",
                 one->group, *one->handler ? "/" : "", one->handler);
}

static void log_pass(const struct fan_broker *broker, const struct fan_retained *sum)
{
    if (sum->removed + sum->expired + sum->discarded > 0)
        fan__log(broker->env, FAN_LOG_INFO,
                 "retention: %" PRIu64 " events removed, %" PRIu64 " deliveries expired, %" PRIu64
                 " dead letters discarded; trimmed up to %" PRIu64,
                 sum->removed, sum->expired, sum->discarded, sum->trimmed_seq);
}

/*
 * Begins to count anew after standing still. A suspended machine may stop the monotonic clock, too,
 * and is told by the wall clock; one that was set forward only keeps groups for longer.
 */
static void look_awake(struct fan_broker *broker)
{
    struct fan__keep *keep = &broker->keep;
    int64_t now_ns = fan__monotonic_ns(broker->env);
    int64_t offset_us = fan__wall_us(broker->env) - now_ns / FAN__NS_PER_US;
    uint64_t age_ms = keep->retention.group_age_ms;
    if (age_ms < FAN_GROUP_AGE_MS_MIN)
        age_ms = FAN_GROUP_AGE_MS_MIN;
    uint64_t most_ms = age_ms / STILL_PART;
    int64_t still_ms = (now_ns - keep->seen_ns) / FAN__NS_PER_MS;
    int64_t leap_ms = (offset_us - keep->offset_us) * FAN__NS_PER_US / FAN__NS_PER_MS;
    if (still_ms > (int64_t)most_ms || leap_ms > (int64_t)most_ms)
        keep->since_ns = now_ns;
    keep->seen_ns = now_ns;
    keep->offset_us = offset_us;
}

void fan__keep_begin(struct fan_broker *broker)
{
    look_awake(broker);
    broker->keep.since_ns = broker->keep.seen_ns;
}

/* What may go as of now; a pass that began by sparing groups ends so. With the lock. */
static struct fan_retention bounds(struct fan_broker *broker)
{
    struct fan__keep *keep = &broker->keep;
    struct fan_retention retention = keep->retention;
    look_awake(broker);
    int64_t run_ms = (fan__monotonic_ns(broker->env) - keep->since_ns) / FAN__NS_PER_MS;
    bool spares = retention.group_age_ms >= FAN_GROUP_AGE_MS_MIN &&
                  (uint64_t)run_ms <= retention.group_age_ms;
    if (spares || !keep->passing)
        keep->spares = spares;
    if (keep->spares)
        retention.group_age_ms = 0;
    return retention;
}

/* One call. *ret_more tells whether the pass goes on. */
static void call(struct fan_broker *broker, bool *ret_more)
{
    struct fan__keep *keep = &broker->keep;
    struct fan_retained one = { .size = sizeof(one) };
    struct fan_error error = FAN_ERROR_INIT;
    fan__mutex_lock(&broker->mutex);
    struct fan_retention retention = bounds(broker);
    keep->passing = true;
    fan__mutex_unlock(&broker->mutex);
    enum fan_status status = fan_store_retain(broker->store, &retention, &one, &error);
    if (status != FAN_OK && status != keep->status)
        fan__log(broker->env, FAN_LOG_WARNING, "retention: %s",
                 *error.message ? error.message : fan_status_text(status));
    keep->status = status;
    keep->sum.removed += one.removed;
    keep->sum.expired += one.expired;
    keep->sum.discarded += one.discarded;
    keep->sum.trimmed_seq = one.trimmed_seq;
    log_group(broker, &one);
    *ret_more = status == FAN_OK && one.more;
    if (!*ret_more) {
        log_pass(broker, &keep->sum);
        keep->sum = (struct fan_retained){ 0 };
    }
    fan__mutex_lock(&broker->mutex);
    look_awake(broker);
    broker->stats.removed += one.removed;
    broker->stats.expired += one.expired;
    broker->stats.discarded += one.discarded;
    broker->stats.groups_expired += one.groups_expired;
    broker->stats.retention_failures += status != FAN_OK;
    keep->passing = *ret_more;
    if (!keep->passing && keep->renew) {
        keep->renew = false;
        keep->changed = true;
    }
    fan__mutex_unlock(&broker->mutex);
}

bool fan__keep_step(struct fan_broker *broker)
{
    struct fan__keep *keep = &broker->keep;
    int64_t now_ns = fan__monotonic_ns(broker->env);
    fan__mutex_lock(&broker->mutex);
    look_awake(broker);
    bool due = keep->asked && (now_ns >= keep->due_ns || keep->changed);
    int64_t interval_ns = (int64_t)keep->interval_ms * FAN__NS_PER_MS;
    keep->changed = keep->changed && !due;
    fan__mutex_unlock(&broker->mutex);
    if (!due)
        return false;
    bool more = false;
    call(broker, &more);
    keep->due_ns = more ? now_ns : now_ns + interval_ns;
    return more;
}

/* Waits, unless the broker stops or other bounds were set; with the lock. */
static void rest(struct fan_broker *broker, int64_t until_ns)
{
    struct fan__keep *keep = &broker->keep;
    bool in_time = true;
    while (in_time && broker->run < FAN__RUN_STOPPING && !keep->changed) {
        uint64_t part_ms = keep->retention.group_age_ms / STILL_PART / 2;
        int64_t part_ns = FAN__FOREVER;
        if (keep->asked && part_ms > 0 && part_ms < UINT32_MAX)
            part_ns = fan__deadline_ns((uint32_t)part_ms);
        bool whole = until_ns <= part_ns;
        in_time =
            fan__cond_wait_until(&keep->wake, &broker->mutex, whole ? until_ns : part_ns) || !whole;
        look_awake(broker);
    }
}

static void keep_main(void *context)
{
    struct fan_broker *broker = context;
    fan__mutex_lock(&broker->mutex);
    while (broker->run < FAN__RUN_STOPPING) {
        broker->keep.changed = false;
        if (!broker->keep.asked) {
            rest(broker, FAN__FOREVER);
            continue;
        }
        fan__mutex_unlock(&broker->mutex);
        int64_t begun_ns = fan__deadline_ns(0);
        bool more = false;
        call(broker, &more);
        int64_t ended_ns = fan__deadline_ns(REST_MS_MIN);
        fan__mutex_lock(&broker->mutex);
        rest(broker,
             more ? ended_ns + (ended_ns - begun_ns) : fan__deadline_ns(broker->keep.interval_ms));
    }
    fan__mutex_unlock(&broker->mutex);
}

enum fan_status fan__keep_start(struct fan_broker *broker)
{
    if (!broker->keep.asked)
        return FAN_OK;
    return fan__thread_start(&broker->keep.thread, "fan-keep", keep_main, broker);
}

/* The thread starts when it is first asked for; with the lock. */
static enum fan_status change(struct fan_broker *broker, const struct fan_retention *retention,
                              bool asked, uint32_t interval_ms)
{
    struct fan__keep *keep = &broker->keep;
    while (broker->starting)
        fan__cond_wait(&broker->idle, &broker->mutex);
    if (broker->run >= FAN__RUN_STOPPING)
        return FAN_CLOSED;
    keep->asked = asked;
    keep->retention = *retention;
    keep->interval_ms = interval_ms ? interval_ms : FAN__KEEP_INTERVAL_MS_DEFAULT;
    keep->changed = true;
    keep->renew = keep->passing;
    fan__cond_broadcast(&keep->wake);
    if (broker->run != FAN__RUN_STARTED || broker->stepped || keep->thread.started)
        return FAN_OK;
    return fan__keep_start(broker);
}

enum fan_status fan_broker_set_retention(struct fan_broker *broker,
                                         const struct fan_retention *retention,
                                         uint32_t interval_ms)
{
    struct fan_retention adopted = { .size = FAN_RETENTION_SIZE };
    if (fan__fork_generation() != broker->fork_generation)
        return FAN_FORKED;
    if (retention && !fan__adopt(&adopted, sizeof(adopted), retention, sizeof(adopted)))
        return FAN_INVALID;
    fan__mutex_lock(&broker->mutex);
    enum fan_status status = change(broker, &adopted, retention != NULL, interval_ms);
    fan__mutex_unlock(&broker->mutex);
    return status;
}

void fan__keep_stop(struct fan_broker *broker)
{
    if (!broker->keep.thread.started)
        return;
    fan__mutex_lock(&broker->mutex);
    fan__cond_broadcast(&broker->keep.wake);
    fan__mutex_unlock(&broker->mutex);
    fan__thread_join(&broker->keep.thread);
}
