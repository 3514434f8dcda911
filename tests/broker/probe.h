/* A handler that counts, waits to be let go, and answers as told; and looks into the store. */
#ifndef TESTS_BROKER_PROBE_H
#define TESTS_BROKER_PROBE_H

#include "support.h"

#include "base/thread.h"

#include <fanfare/batch.h>

#define PROBE_SEQS 4096

struct probe {
    struct fan__mutex mutex;
    struct fan__cond changed;
    struct fan_broker *broker;
    size_t begun;
    size_t done;
    size_t running;
    size_t running_max;
    size_t held;             /* calls that wait to be let go while it is above zero */
    uint64_t held_seq;       /* 0: any event */
    unsigned lets_attempts;  /* up to which attempt calls are let go all the same */
    uint64_t failing;        /* events up to this sequence get `verdict`, the others DONE; 0: all */
    unsigned fails_attempts; /* up to which attempt; 0: all */
    enum fan_verdict verdict;
    const char *words;
    bool gives_up; /* a held call ends when its cancel token fires */
    uint64_t seqs[PROBE_SEQS];
    unsigned attempts[PROBE_SEQS]; /* by sequence, the last */
    unsigned lapses;
};

static inline void probe_init(struct probe *probe)
{
    memset(probe, 0, sizeof(*probe));
    fan__mutex_init(&probe->mutex);
    fan__cond_init(&probe->changed);
}

/* One whose calls wait to be let go. */
static inline void probe_init_held(struct probe *probe)
{
    probe_init(probe);
    probe->held = 1;
}

static inline enum fan_verdict probe_call(void *context, const struct fan_event *event,
                                          const struct fan_handling *handling)
{
    struct probe *probe = context;
    uint64_t seq = fan_event_seq(event);
    fan__mutex_lock(&probe->mutex);
    if (probe->begun < PROBE_SEQS)
        probe->seqs[probe->begun] = seq;
    if (seq < PROBE_SEQS)
        probe->attempts[seq] = handling->attempt;
    probe->lapses = handling->lapses;
    probe->begun++;
    probe->running++;
    if (probe->running > probe->running_max)
        probe->running_max = probe->running;
    fan__cond_broadcast(&probe->changed);
    while (probe->held > 0 && handling->attempt > probe->lets_attempts &&
           (probe->held_seq == 0 || probe->held_seq == seq) &&
           !(probe->gives_up && fan_cancel_fired(handling->cancel)))
        fan__cond_wait_until(&probe->changed, &probe->mutex, fan__deadline_ns(5));
    bool fails = probe->verdict != FAN_VERDICT_DONE &&
                 (probe->failing == 0 || seq <= probe->failing) &&
                 (probe->fails_attempts == 0 || handling->attempt <= probe->fails_attempts);
    enum fan_verdict verdict = fails ? probe->verdict : FAN_VERDICT_DONE;
    if (fails && probe->words && handling->error)
        snprintf(handling->error->message, sizeof(handling->error->message), "%s", probe->words);
    probe->running--;
    probe->done++;
    fan__cond_broadcast(&probe->changed);
    fan__mutex_unlock(&probe->mutex);
    return verdict;
}

static inline void probe_wait_begun(struct probe *probe, size_t count)
{
    fan__mutex_lock(&probe->mutex);
    while (probe->begun < count)
        fan__cond_wait(&probe->changed, &probe->mutex);
    fan__mutex_unlock(&probe->mutex);
}

static inline void probe_wait_done(struct probe *probe, size_t count)
{
    fan__mutex_lock(&probe->mutex);
    while (probe->done < count)
        fan__cond_wait(&probe->changed, &probe->mutex);
    fan__mutex_unlock(&probe->mutex);
}

static inline void probe_let_go(struct probe *probe)
{
    fan__mutex_lock(&probe->mutex);
    probe->held = 0;
    fan__cond_broadcast(&probe->changed);
    fan__mutex_unlock(&probe->mutex);
}

static inline size_t probe_begun(struct probe *probe)
{
    fan__mutex_lock(&probe->mutex);
    size_t begun = probe->begun;
    fan__mutex_unlock(&probe->mutex);
    return begun;
}

static inline struct fan_handler_options probe_options(struct probe *probe, const char *group,
                                                       const char *pattern)
{
    return (struct fan_handler_options){ .size = FAN_HANDLER_OPTIONS_SIZE,
                                         .group = group,
                                         .pattern = pattern,
                                         .handle = probe_call,
                                         .context = probe };
}

/* A handler of all events; `group` NULL for a live one. */
static inline void probe_handle(struct probe *probe, struct fan_broker *broker, const char *group)
{
    struct fan_handler_options options = probe_options(probe, group, NULL);
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
}

static inline struct fan_broker *broker_with(const struct place *place,
                                             const struct fan_broker_options *options)
{
    struct fan_broker *broker = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    if (fan_broker_open(place->uri, options, &broker, &error) != FAN_OK)
        fail_msg("%s: %s", error.field, error.message);
    assert_ok(fan_broker_start(broker));
    return broker;
}

/* What the store knows of one delivery. */
struct found {
    const char *group;
    const char *handler;
    enum fan_event_status status;
    enum fan_dead_reason reason;
    unsigned attempts;
    unsigned lapses;
    char error[256];
    bool there;
};

static inline bool found_see(void *context, const struct fan_delivery *delivery)
{
    struct found *found = context;
    if (strcmp(delivery->group, found->group) != 0 ||
        strcmp(delivery->handler, found->handler) != 0)
        return true;
    found->there = true;
    found->status = delivery->status;
    found->reason = delivery->reason;
    found->attempts = delivery->attempts;
    found->lapses = delivery->lapses;
    snprintf(found->error, sizeof(found->error), "%s", delivery->error);
    return false;
}

static inline struct found find(struct fan_broker *broker, const char *group, uint64_t seq)
{
    struct found found = { .group = group, .handler = "" };
    assert_ok(fan_store_deliveries(fan_broker_store(broker), seq, 0, found_see, &found));
    assert_true(found.there);
    return found;
}

static inline struct fan_broker_stats stats_of(struct fan_broker *broker)
{
    struct fan_broker_stats stats = { .size = sizeof(stats) };
    fan_broker_stats(broker, &stats);
    return stats;
}

/*
 * Waits until a counter of the broker is `wanted`; a condition, as workers settle after they run.
 */
#define wait_for_stats(broker, field, wanted)                                                      \
    do {                                                                                           \
        struct fan__mutex mutex_;                                                                  \
        struct fan__cond cond_;                                                                    \
        fan__mutex_init(&mutex_);                                                                  \
        fan__cond_init(&cond_);                                                                    \
        fan__mutex_lock(&mutex_);                                                                  \
        while (stats_of(broker).field != (wanted))                                                 \
            fan__cond_wait_until(&cond_, &mutex_, fan__deadline_ns(2));                            \
        fan__mutex_unlock(&mutex_);                                                                \
        fan__cond_deinit(&cond_);                                                                  \
        fan__mutex_deinit(&mutex_);                                                                \
    } while (0)

/* Claims as a process that then dies would: the leases run out unsettled, all at once. */
static inline void claim_and_die(struct fan_store *store, const char *group, size_t count)
{
    struct fan_group_name name = { group, "" };
    struct fan_claim_options options = {
        .size = FAN_CLAIM_OPTIONS_SIZE, .owner = "who dies", .limit = count, .lease_ms = 50
    };
    struct fan_batch *batch = NULL;
    struct fan_claim claims[64];
    assert_ok(fan_batch_new(NULL, &batch));
    enum fan_status status;
    do
        status = fan_group_claim(store, &name, &options, batch, claims);
    while (status == FAN_AGAIN);
    assert_ok(status);
    assert_int_equal(fan_batch_count(batch), count);
    fan_batch_free(batch);
}

static inline void make_group(struct fan_store *store, const char *group)
{
    struct fan_group_name name = { group, "" };
    struct fan_group_options options = { .size = FAN_GROUP_OPTIONS_SIZE };
    assert_ok(fan_group_create(store, &name, &options, NULL));
}

#endif
