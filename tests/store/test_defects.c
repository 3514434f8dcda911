/*
 * P06: the conformance suite finds planted defects. A provider that passes everything on to a
 * memory store is made wrong in one way at a time; each way must fail the behaviour of the suite
 * that looks for it (defects.h), and none at all must pass the suite.
 *
 * FANFARE_SOAK=1 runs the whole suite on each, DEFECT=number on one of them and shows what it said.
 */
#include "../seed.h"
#include "../test.h"

#include "defects.h"

#include <fanfare/batch.h>
#include <fanfare/conformance.h>
#include <fanfare/env.h>
#include <fanfare/keep.h>
#include <fanfare/provider.h>

#include <ctype.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum defect {
#define AS_ENUM(name, text, found_by) name,
    DEFECT_TABLE(AS_ENUM)
#undef AS_ENUM
        DEFECT_COUNT
};

static const char *const defect_texts[] = {
#define AS_TEXT(name, text, found_by) text,
    DEFECT_TABLE(AS_TEXT)
#undef AS_TEXT
};

static enum defect defect;
static bool without_list;

#define SEQ_COUNT 8192

/* The store behind, and what some defects must remember. */
struct wrong {
    struct fan_store *store;
    const struct fan_env *env;
    struct fan_env wall_env;
    pthread_mutex_t mutex;
    uint64_t tokens[SEQ_COUNT];
    unsigned lapses[SEQ_COUNT]; /* of the last claim */
    unsigned kept[SEQ_COUNT];   /* of before the last redrive */
    enum fan_dead_reason reasons[SEQ_COUNT];
    int64_t made_us;
    unsigned calls;
};

static int64_t wall_us(void *context)
{
    const struct fan_env *env = context;
    return env->wall_us(env->context);
}

/* A monotonic clock that is the wall's. */
static int64_t wall_ns(void *context)
{
    return wall_us(context) * 1000;
}

static enum fan_status wrong_open(const char *uri, const struct fan_env *env, void **ret_self,
                                  uint64_t *ret_epoch, struct fan_error *error)
{
    (void)uri;
    struct wrong *wrong = calloc(1, sizeof(*wrong));
    if (!wrong)
        return FAN_NO_MEMORY;
    wrong->env = env;
    wrong->wall_env = *fan_env_default();
    wrong->wall_env.context = (void *)(uintptr_t)env;
    wrong->wall_env.wall_us = wall_us;
    wrong->wall_env.monotonic_ns = wall_ns;
    enum fan_status status =
        fan_store_open("memory:?capacity=100000", defect == WALL_CLOCK ? &wrong->wall_env : env,
                       &wrong->store, error);
    if (status != FAN_OK) {
        free(wrong);
        return status;
    }
    pthread_mutex_init(&wrong->mutex, NULL);
    *ret_self = wrong;
    *ret_epoch = defect == EPOCH_FIXED ? 1 : fan_store_epoch(wrong->store);
    return FAN_OK;
}

static void wrong_close(void *self)
{
    struct wrong *wrong = self;
    fan_store_close(wrong->store);
    pthread_mutex_destroy(&wrong->mutex);
    free(wrong);
}

static unsigned count_call(struct wrong *wrong)
{
    pthread_mutex_lock(&wrong->mutex);
    unsigned calls = ++wrong->calls;
    pthread_mutex_unlock(&wrong->mutex);
    return calls;
}

static enum fan_status store_duplicate(struct wrong *wrong, struct fan_append *item)
{
    struct fan_event_draft draft;
    struct fan_event *event;
    fan_event_to_draft(item->event, &draft);
    draft.size = FAN_EVENT_DRAFT_SIZE;
    draft.id = NULL;
    enum fan_status status = fan_event_new(&draft, NULL, &event, NULL);
    if (status != FAN_OK)
        return status;
    struct fan_append again = { .event = event };
    status = fan_store_append(wrong->store, &again, 1, NULL);
    item->ret_duplicate = again.ret_duplicate;
    item->ret_seq = again.ret_seq;
    fan_event_free(event, NULL);
    return status;
}

/* Takes from the expectation what this defect does not look at. */
static void forget(struct fan_append *item, struct fan_expectation *copy)
{
    if (!item->expectation)
        return;
    *copy = *item->expectation;
    item->expectation = copy;
    if (defect == FENCE_LOST) {
        copy->lease = NULL;
        copy->fence = 0;
    }
    if (defect == KEY_IGNORED || (defect == KEY_ZERO_IS_ANY && copy->last_seq == 0)) {
        copy->key = NULL;
        copy->last_seq = 0;
    }
}

static enum fan_status wrong_append(void *self, struct fan_append *items, size_t count,
                                    struct fan_error *error)
{
    struct wrong *wrong = self;
    struct fan_append *copies = calloc(count, sizeof(*copies));
    struct fan_expectation *expectations = calloc(count, sizeof(*expectations));
    assert_true(copies && expectations);
    bool reverse = defect == BATCH_REVERSED;
    for (size_t i = 0; i < count; i++) {
        reverse = reverse && !items[i].joined;
        copies[i] = items[i];
        forget(&copies[i], &expectations[i]);
        if (defect == UNIT_SPLIT)
            copies[i].joined = false;
    }
    for (size_t i = 0; reverse && i < count / 2; i++) {
        struct fan_append swapped = copies[i];
        copies[i] = copies[count - 1 - i];
        copies[count - 1 - i] = swapped;
    }
    enum fan_status status = fan_store_append(wrong->store, copies, count, error);
    for (size_t i = 0; status == FAN_OK && i < count; i++) {
        struct fan_append *copy = &copies[reverse ? count - 1 - i : i];
        if (copy->ret_duplicate && defect == DUPLICATE_STORED)
            status = store_duplicate(wrong, copy);
        if (copy->ret_duplicate && defect == DUPLICATE_LATEST)
            status = fan_store_head(wrong->store, &copy->ret_seq);
        items[i].ret_status = defect == CONFLICT_SWALLOWED && copy->ret_status == FAN_CONFLICT
                                  ? FAN_OK
                                  : copy->ret_status;
        items[i].ret_duplicate = copy->ret_duplicate && defect != DUPLICATE_NOT_SAID;
        items[i].ret_seq = copy->ret_seq;
    }
    free(copies);
    free(expectations);
    if (defect == OUT_OF_MEMORY && status == FAN_NO_MEMORY)
        return FAN_OK;
    return status;
}

/* Copies a batch but for its last `less` events. */
static enum fan_status pass_on(struct fan_batch *batch, const struct fan_batch *from, size_t less)
{
    fan_batch_clear(batch);
    for (size_t i = 0; i + less < fan_batch_count(from); i++) {
        enum fan_status status = fan_batch_add_event(batch, fan_batch_event(from, i));
        if (status != FAN_OK)
            return status;
    }
    return FAN_OK;
}

static enum fan_status wrong_read(void *self, uint64_t after_seq, const struct fan_query *query,
                                  struct fan_batch *batch, struct fan_read_result *ret_result)
{
    struct wrong *wrong = self;
    struct fan_query copy = *query;
    if (defect == READ_UNFILTERED)
        copy.pattern = NULL;
    if (defect == READ_OVER_LIMIT)
        copy.limit++;
    if (defect == READ_INCLUSIVE && after_seq > 0)
        after_seq--;
    enum fan_status status = fan_store_read(wrong->store, after_seq, &copy, batch, ret_result);
    if (status != FAN_OK)
        return status;
    size_t count = fan_batch_count(batch);
    if (defect == READ_SCANS_TOO_FAR)
        ret_result->scanned_seq = ret_result->head_seq;
    if (defect == RETAIN_UNTOLD)
        ret_result->trimmed_seq = 0;
    if (defect == READ_STUCK && count == 0)
        ret_result->scanned_seq = after_seq;
    if (defect == READ_MISSES && count > 1 && count_call(wrong) % 8 == 0) {
        struct fan_batch *whole;
        status = fan_batch_new(NULL, &whole);
        if (status == FAN_OK)
            status = pass_on(whole, batch, 1);
        if (status == FAN_OK)
            status = pass_on(batch, whole, 0);
        fan_batch_free(whole);
    }
    return status;
}

static enum fan_status wrong_list(void *self, const struct fan_query *query,
                                  struct fan_batch *batch, struct fan_event_state *states,
                                  struct fan_error *error)
{
    struct wrong *wrong = self;
    struct fan_query copy = *query;
    if (defect == LIST_OFFSET)
        copy.offset = 0;
    if (defect == LIST_ORDER)
        copy.newest_first = false;
    if (defect == LIST_STATUS)
        copy.has_status = false;
    if (defect == LIST_UNTIL && copy.until_us)
        copy.until_us++;
    if (defect == LIST_USER)
        copy.user_id = 0;
    enum fan_status status = fan_store_list(wrong->store, &copy, batch, states, error);
    for (size_t i = fan_batch_count(batch); defect == LIST_STATES && i > 1; i--)
        states[i - 1] = states[i - 2];
    return status;
}

static enum fan_status wrong_get(void *self, const char *id, struct fan_batch *batch,
                                 struct fan_event_state *ret_state)
{
    struct wrong *wrong = self;
    enum fan_status status = fan_store_get(wrong->store, id, batch, ret_state);
    if (defect == GET_STATE && status == FAN_OK)
        ret_state->status = FAN_EVENT_PENDING;
    if (defect != GET_ANY_CASE || status != FAN_NOT_FOUND)
        return status;
    char other[FAN_TEXT_SIZE_MAX + 1];
    snprintf(other, sizeof(other), "%s", id);
    *other = (char)(islower((unsigned char)*other) ? toupper((unsigned char)*other)
                                                   : tolower((unsigned char)*other));
    return fan_store_get(wrong->store, other, batch, ret_state);
}

static enum fan_status wrong_remove(void *self, const char *id)
{
    enum fan_status status = fan_store_delete(((struct wrong *)self)->store, id);
    return defect == DELETE_TWICE ? FAN_OK : status;
}

static enum fan_status wrong_erase(void *self, const char *id)
{
    struct wrong *wrong = self;
    if (defect == ERASE_ALL)
        return fan_store_delete(wrong->store, id);
    if (defect != ERASE_NOTHING)
        return fan_store_erase(wrong->store, id);
    struct fan_batch *batch;
    enum fan_status status = fan_batch_new(NULL, &batch);
    if (status != FAN_OK)
        return status;
    status = fan_store_get(wrong->store, id, batch, NULL);
    fan_batch_free(batch);
    return status;
}

static enum fan_status wrong_stats(void *self, struct fan_store_stats *ret_stats)
{
    enum fan_status status = fan_store_stats(((struct wrong *)self)->store, ret_stats);
    if (defect == STATS_ALL_DONE) {
        ret_stats->completed = ret_stats->events;
        ret_stats->pending = ret_stats->processing = ret_stats->failed = 0;
    }
    if (defect == STATS_FIRST && ret_stats->events > 0)
        ret_stats->first_seq = 1;
    return status;
}

static enum fan_status wrong_head(void *self, uint64_t *ret_seq)
{
    struct wrong *wrong = self;
    if (defect != HEAD_BACK)
        return fan_store_head(wrong->store, ret_seq);
    struct fan_store_stats stats = { .size = sizeof(stats) };
    enum fan_status status = fan_store_stats(wrong->store, &stats);
    *ret_seq = stats.last_seq;
    return status;
}

static enum fan_status wrong_wait(void *self, uint64_t after_seq, uint32_t timeout_ms)
{
    enum fan_status status = fan_store_wait(((struct wrong *)self)->store, after_seq, timeout_ms);
    return defect == WAIT_AT_ONCE ? FAN_OK : status;
}

static void wrong_wake(void *self)
{
    if (defect != WAKE_DEAF)
        fan_store_wake(((struct wrong *)self)->store);
}

static struct fan_group_name name_of(const struct fan_group_name *name)
{
    struct fan_group_name copy = *name;
    if (defect == GROUP_HANDLER)
        copy.handler = "";
    return copy;
}

static enum fan_status wrong_group_create(void *self, const struct fan_group_name *name,
                                          const struct fan_group_options *options,
                                          struct fan_error *error)
{
    struct wrong *wrong = self;
    struct fan_group_name copy = name_of(name);
    struct fan_group_options changed = *options;
    if (defect == START_BEGINNING)
        changed.start = FAN_START_BEGINNING;
    if (defect == START_CURSOR && changed.start_seq > 0)
        changed.start_seq--;
    if (defect == GROUP_TOPIC)
        changed.topic = NULL;
    wrong->made_us = wrong->env->wall_us(wrong->env->context);
    if (defect != CREATE_ANEW && defect != CREATE_OLD_PATTERN)
        return fan_group_create(wrong->store, &copy, &changed, error);
    struct fan_settle none = { .seq = 0 };
    bool exists = fan_group_settle(wrong->store, &copy, &none, 1) == FAN_OK;
    if (exists && defect == CREATE_OLD_PATTERN)
        return FAN_EXISTS;
    enum fan_status status = exists ? fan_group_delete(wrong->store, &copy) : FAN_OK;
    if (status == FAN_OK)
        status = fan_group_create(wrong->store, &copy, &changed, error);
    return status == FAN_OK && exists ? FAN_EXISTS : status;
}

static enum fan_status wrong_group_delete(void *self, const struct fan_group_name *name)
{
    struct fan_group_name copy = name_of(name);
    enum fan_status status = fan_group_delete(((struct wrong *)self)->store, &copy);
    return defect == GROUP_DELETE ? FAN_OK : status;
}

static void remember(struct wrong *wrong, const struct fan_claim *claims, size_t count)
{
    pthread_mutex_lock(&wrong->mutex);
    for (size_t i = 0; i < count; i++) {
        wrong->tokens[claims[i].seq % SEQ_COUNT] = claims[i].token;
        wrong->lapses[claims[i].seq % SEQ_COUNT] = claims[i].lapses;
    }
    pthread_mutex_unlock(&wrong->mutex);
}

static enum fan_status wrong_claim(void *self, const struct fan_group_name *name,
                                   const struct fan_claim_options *options, struct fan_batch *batch,
                                   struct fan_claim *claims)
{
    struct wrong *wrong = self;
    struct fan_group_name copy = name_of(name);
    struct fan_claim_options changed = *options;
    if (defect == CLAIM_OVER_LIMIT && changed.limit < 1000)
        changed.limit++;
    if (defect == CLAIM_LONG)
        changed.lease_ms =
            changed.lease_ms > UINT32_MAX / 1000 ? UINT32_MAX : changed.lease_ms * 1000;
    if (defect == CLAIM_UNORDERED)
        changed.ordered = false;
    if (defect == CLAIM_ONE_OWNER)
        changed.owner = "everybody";
    enum fan_status status = fan_group_claim(wrong->store, &copy, &changed, batch, claims);
    if (status != FAN_OK)
        return status;
    remember(wrong, claims, fan_batch_count(batch));
    for (size_t i = 0; i < fan_batch_count(batch); i++) {
        if (defect == CLAIM_ATTEMPT)
            claims[i].attempt = 1;
        if (defect == LAPSES_LOST)
            claims[i].lapses = 0;
        if (defect == REDRIVE_LAPSES || defect == LAPSES_BACK)
            claims[i].lapses += wrong->kept[claims[i].seq % SEQ_COUNT];
    }
    if (defect == CLAIM_TWICE && count_call(wrong) % 16 == 0) {
        struct fan_settle back = { .seq = claims[0].seq,
                                   .token = claims[0].token,
                                   .verdict = FAN_VERDICT_HAND_BACK };
        return fan_group_settle(wrong->store, &copy, &back, 1);
    }
    return FAN_OK;
}

static enum fan_status wrong_settle(void *self, const struct fan_group_name *name,
                                    struct fan_settle *items, size_t count)
{
    struct wrong *wrong = self;
    struct fan_group_name copy = name_of(name);
    struct fan_settle *changed = calloc(count ? count : 1, sizeof(*changed));
    assert_non_null(changed);
    for (size_t i = 0; i < count; i++) {
        changed[i] = items[i];
        if (defect == SETTLE_ANY_TOKEN)
            changed[i].token = wrong->tokens[items[i].seq % SEQ_COUNT];
        if (defect == SETTLE_NO_DELAY)
            changed[i].delay_ms = 0;
        if (defect == SETTLE_BACK_COUNTS && items[i].verdict == FAN_VERDICT_HAND_BACK)
            changed[i].verdict = FAN_VERDICT_RETRY;
        if (defect == SETTLE_NO_ERROR)
            changed[i].error = NULL;
        if (defect == REASON_LOST)
            changed[i].reason = FAN_DEAD_NONE;
        if (items[i].verdict == FAN_VERDICT_FAIL)
            wrong->reasons[items[i].seq % SEQ_COUNT] = items[i].reason;
        if (defect == LAPSES_BACK && items[i].verdict == FAN_VERDICT_HAND_BACK)
            wrong->kept[items[i].seq % SEQ_COUNT]++;
        if (defect == SETTLE_FAIL_DONE && items[i].verdict == FAN_VERDICT_FAIL)
            changed[i].verdict = FAN_VERDICT_DONE;
    }
    size_t some = defect == SETTLE_FIRST && count > 1 ? 1 : count;
    enum fan_status status = fan_group_settle(wrong->store, &copy, changed, some);
    for (size_t i = 0; i < count; i++)
        items[i].ret_status = i < some ? changed[i].ret_status : FAN_OK;
    free(changed);
    return status;
}

static enum fan_status wrong_renew(void *self, const struct fan_group_name *name,
                                   struct fan_settle *items, size_t count, uint32_t lease_ms)
{
    struct fan_group_name copy = name_of(name);
    if (defect == RENEW_NOTHING) {
        for (size_t i = 0; i < count; i++)
            items[i].ret_status = FAN_OK;
        return FAN_OK;
    }
    return fan_group_renew(((struct wrong *)self)->store, &copy, items, count, lease_ms);
}

static enum fan_status wrong_move(void *self, const struct fan_group_name *name, uint64_t seq,
                                  enum fan_event_status to)
{
    struct wrong *wrong = self;
    struct fan_group_name copy = name_of(name);
    enum fan_status status = fan_group_move(wrong->store, &copy, seq, to);
    if (defect == REDRIVE_LAPSES && status == FAN_OK)
        wrong->kept[seq % SEQ_COUNT] = wrong->lapses[seq % SEQ_COUNT];
    if (defect == MOVE_ANY && status == FAN_CONFLICT)
        return FAN_OK;
    if (defect == MOVE_CLAIMED && status == FAN_MISUSE) {
        struct fan_settle done = { .seq = seq, .token = wrong->tokens[seq % SEQ_COUNT] };
        return fan_group_settle(wrong->store, &copy, &done, 1);
    }
    return status;
}

struct visit {
    fan_delivery_visit delivery;
    fan_group_visit group;
    void *context;
    struct wrong *wrong;
};

static bool see_delivery(void *context, const struct fan_delivery *delivery)
{
    const struct visit *visit = context;
    struct fan_delivery changed = *delivery;
    if (defect == LAPSES_UNSEEN)
        changed.lapses = 0;
    if (defect == REASON_STAYS)
        changed.reason = visit->wrong->reasons[delivery->seq % SEQ_COUNT];
    bool more = visit->delivery(visit->context, &changed);
    return more || defect == VISIT_DEAF;
}

/* The created time of the log's first event. */
static int64_t first_us(struct wrong *wrong)
{
    struct fan_batch *batch = NULL;
    struct fan_read_result result;
    const struct fan_query query = { .size = FAN_QUERY_SIZE, .limit = 1 };
    int64_t created_us = 0;
    if (fan_batch_new(NULL, &batch) == FAN_OK &&
        fan_store_read(wrong->store, 0, &query, batch, &result) == FAN_OK &&
        fan_batch_count(batch) > 0)
        created_us = fan_event_created_us(fan_batch_event(batch, 0));
    fan_batch_free(batch);
    return created_us;
}

static bool see_group(void *context, const struct fan_group_stats *stats)
{
    const struct visit *visit = context;
    struct fan_group_stats changed = *stats;
    if (defect == GROUPS_STATS)
        changed.pending -= changed.pending < changed.lag ? changed.pending : changed.lag;
    if (defect == LAG_PENDING)
        changed.lag = changed.pending;
    if (defect == JOINED_ZERO)
        changed.joined_us = 0;
    if (defect == JOINED_NOW)
        changed.joined_us = visit->wrong->env->wall_us(visit->wrong->env->context);
    if (defect == JOINED_MADE)
        changed.joined_us = visit->wrong->made_us;
    if (defect == OLDEST_CLAIMED && changed.processing > 0)
        changed.oldest_us = 0;
    if (defect == OLDEST_FIRST)
        changed.oldest_us = changed.oldest_us ? first_us(visit->wrong) : 0;
    bool more = visit->group(visit->context, &changed);
    return more || defect == VISIT_DEAF;
}

static enum fan_status wrong_deliveries(void *self, uint64_t seq, uint64_t after_seq,
                                        fan_delivery_visit visit, void *context)
{
    struct visit both = { .delivery = visit, .context = context, .wrong = self };
    if (defect == VISIT_DEAD_ALL)
        after_seq = 0;
    return fan_store_deliveries(((struct wrong *)self)->store, seq, after_seq, see_delivery, &both);
}

static enum fan_status wrong_groups(void *self, fan_group_visit visit, void *context)
{
    struct visit both = { .group = visit, .context = context, .wrong = self };
    return fan_store_groups(((struct wrong *)self)->store, see_group, &both);
}

static const char *holder(const char *owner)
{
    return defect == LEASE_SHARED ? "everybody" : owner;
}

static enum fan_status wrong_lease_acquire(void *self, const char *name, const char *owner,
                                           uint32_t ttl_ms, uint64_t *ret_fence)
{
    if (defect == LEASE_LONG)
        ttl_ms = ttl_ms > UINT32_MAX / 1000 ? UINT32_MAX : ttl_ms * 1000;
    enum fan_status status =
        fan_lease_acquire(((struct wrong *)self)->store, name, holder(owner), ttl_ms, ret_fence);
    if (defect == LEASE_FENCE && status == FAN_OK)
        *ret_fence = 1;
    return status;
}

static enum fan_status wrong_lease_renew(void *self, const char *name, const char *owner,
                                         uint64_t fence, uint32_t ttl_ms)
{
    enum fan_status status =
        fan_lease_renew(((struct wrong *)self)->store, name, holder(owner), fence, ttl_ms);
    return defect == LEASE_RENEW ? FAN_OK : status;
}

static enum fan_status wrong_lease_release(void *self, const char *name, const char *owner,
                                           uint64_t fence)
{
    enum fan_status status =
        fan_lease_release(((struct wrong *)self)->store, name, holder(owner), fence);
    return defect == LEASE_RELEASE ? FAN_OK : status;
}

static void delete_oldest(struct wrong *wrong)
{
    struct fan_query query = { .size = FAN_QUERY_SIZE, .limit = 1 };
    struct fan_read_result result;
    struct fan_batch *batch = NULL;
    assert_ok(fan_batch_new(NULL, &batch));
    assert_ok(fan_store_read(wrong->store, 0, &query, batch, &result));
    if (fan_batch_count(batch) > 0)
        assert_ok(fan_store_delete(wrong->store, fan_event_id(fan_batch_event(batch, 0))));
    fan_batch_free(batch);
}

static void retain_wrongly(struct fan_retention *retention)
{
    if (defect == RETAIN_YOUNG)
        retention->age_ms /= 2;
    if (defect == RETAIN_COUNT && retention->count > 1)
        retention->count--;
    if (defect == RETAIN_BYTES)
        retention->bytes = 0;
    if (defect == RETAIN_OWED_SOON)
        retention->owed_age_ms /= 2;
    if (defect == RETAIN_OWED_NEVER)
        retention->owed_age_ms = 0;
    if (defect == RETAIN_DEAD_SOON)
        retention->dead_age_ms /= 2;
    if (defect == RETAIN_DEAD_NEVER)
        retention->dead_age_ms = 0;
    if (defect == RETAIN_GROUPS_SOON)
        retention->group_age_ms /= 2;
    if (defect == RETAIN_GROUPS_NEVER)
        retention->group_age_ms = 0;
    if (defect == RETAIN_UNBOUNDED)
        retention->limit = 1000000;
}

static enum fan_status wrong_retain(void *self, const struct fan_retention *retention,
                                    struct fan_retained *ret_retained, struct fan_error *error)
{
    struct wrong *wrong = self;
    struct fan_retention changed = *retention;
    if (defect == RETAIN_NOTHING)
        return FAN_OK;
    if (defect == RETAIN_OWED && retention->count == 1)
        delete_oldest(wrong);
    retain_wrongly(&changed);
    enum fan_status status = fan_store_retain(wrong->store, &changed, ret_retained, error);
    if (defect == RETAIN_ANY_CLOCK && status == FAN_CONFLICT) {
        assert_ok(fan_store_accept_clock(wrong->store, NULL));
        status = fan_store_retain(wrong->store, &changed, ret_retained, error);
    }
    if (defect == RETAIN_GROUP_UNSAID)
        ret_retained->group[0] = '\0';
    if (defect == RETAIN_NO_MORE)
        ret_retained->more = false;
    return status;
}

static enum fan_status wrong_accept_clock(void *self, struct fan_error *error)
{
    return defect == ACCEPT_NOTHING ? FAN_OK
                                    : fan_store_accept_clock(((struct wrong *)self)->store, error);
}

static unsigned wrong_promises(void *self)
{
    (void)self;
    return defect == CAPABILITY_FALSE ? FAN_CAPABILITY_DURABLE_PROCESS : 0;
}

static const struct fan_provider wrong_provider = {
    .size = FAN_PROVIDER_SIZE,
    .scheme = "wrong",
    .open = wrong_open,
    .close = wrong_close,
    .append = wrong_append,
    .read = wrong_read,
    .list = wrong_list,
    .get = wrong_get,
    .remove = wrong_remove,
    .erase = wrong_erase,
    .head = wrong_head,
    .wait = wrong_wait,
    .wake = wrong_wake,
    .stats = wrong_stats,
    .group_create = wrong_group_create,
    .group_delete = wrong_group_delete,
    .claim = wrong_claim,
    .settle = wrong_settle,
    .renew = wrong_renew,
    .move = wrong_move,
    .deliveries = wrong_deliveries,
    .groups = wrong_groups,
    .lease_acquire = wrong_lease_acquire,
    .lease_renew = wrong_lease_renew,
    .lease_release = wrong_lease_release,
    .promises = wrong_promises,
    .retain = wrong_retain,
    .accept_clock = wrong_accept_clock,
};

static enum fan_status open_wrong(void *context, const struct fan_env *env,
                                  struct fan_store **ret_store, struct fan_error *ret_error)
{
    (void)context;
    return fan_store_open_provider(&wrong_provider, "wrong:", env, ret_store, ret_error);
}

/* The same without lists of its own. */
static enum fan_status open_without_list(void *context, const struct fan_env *env,
                                         struct fan_store **ret_store, struct fan_error *ret_error)
{
    static struct fan_provider provider;
    (void)context;
    provider = wrong_provider;
    provider.list = NULL;
    return fan_store_open_provider(&provider, "wrong:", env, ret_store, ret_error);
}

/* What the suite said of one defect; shown when it was not found. */
struct said {
    char failed[4096];
    size_t size;
};

static void hear(void *context, const char *line)
{
    struct said *said = context;
    if (strncmp(line, "ok", 2) == 0)
        return;
    int size = snprintf(said->failed + said->size, sizeof(said->failed) - said->size, "%s\n", line);
    if (size > 0 && said->size + (size_t)size < sizeof(said->failed))
        said->size += (size_t)size;
}

static const char *const defect_finders[] = {
#define AS_FINDER(name, text, found_by) found_by,
    DEFECT_TABLE(AS_FINDER)
#undef AS_FINDER
};

/* Runs the behaviours whose names contain `only`, or all; gives how many failed. */
static int run_with(enum defect planted, const char *only, struct said *said)
{
    *said = (struct said){ .size = 0 };
    defect = planted;
    const struct fan_conformance_options options = {
        .size = FAN_CONFORMANCE_OPTIONS_SIZE,
        .context = said,
        .open = without_list ? open_without_list : open_wrong,
        .traits = FAN_CONFORMANCE_CLOCK | FAN_CONFORMANCE_MEMORY,
        .limit_s = 2,
        .seed = 1 + (uint64_t)planted,
        .only = only,
        .print = hear,
    };
    return fan_conformance_run(&options);
}

static void test_P06_without_a_defect_the_suite_passes(void **state)
{
    (void)state;
    static struct said said;
    if (run_with(NONE, NULL, &said) != 0)
        fail_msg("%s", said.failed);
}

static void test_P06_every_planted_defect_fails_the_suite(void **state)
{
    (void)state;
    static struct said said;
    const char *only = getenv("DEFECT");
    bool whole = only || test_is_soak();
    int missed = 0;
    for (int planted = NONE + 1; planted < DEFECT_COUNT; planted++) {
        if (only && atoi(only) != planted)
            continue;
        const char *finder = whole ? NULL : defect_finders[planted];
        int failed = run_with((enum defect)planted, finder, &said);
        if (only)
            print_message("%s\n", said.failed);
        if (failed == 0)
            print_error("not found: %d, %s\n", planted, defect_texts[planted]);
        missed += failed == 0;
    }
    assert_int_equal(missed, 0);
}

/* Where a provider has no query, the log is read; what comes out is the same, and it is said. */
static void test_P22_a_provider_without_query_lists_by_reading_the_log(void **state)
{
    (void)state;
    static struct said said;
    struct fan_store *store = NULL;
    struct fan_provider provider = wrong_provider;
    without_list = true;
    int failed = run_with(NONE, NULL, &said);
    without_list = false;
    if (failed != 0)
        fail_msg("%s", said.failed);
    assert_ok(open_without_list(NULL, NULL, &store, NULL));
    assert_int_equal(fan_store_capabilities(store) & FAN_CAPABILITY_QUERY, 0);
    fan_store_close(store);
    /* Who promises to query must be able to. */
    provider.list = NULL;
    provider.capabilities = FAN_CAPABILITY_QUERY;
    assert_int_equal(fan_store_open_provider(&provider, "wrong:", NULL, &store, NULL), FAN_INVALID);
}

/* As retention does to whoever reads the log slowly. */
static enum fan_status read_and_forget(void *self, uint64_t after_seq,
                                       const struct fan_query *query, struct fan_batch *batch,
                                       struct fan_read_result *ret_result)
{
    enum fan_status status = wrong_read(self, after_seq, query, batch, ret_result);
    for (int i = 0; i < 4 && status == FAN_OK; i++)
        delete_oldest(self);
    return status;
}

static void test_P22_a_list_is_whole_while_retention_runs(void **state)
{
    (void)state;
    struct fan_provider provider = wrong_provider;
    struct fan_event_state states[3];
    struct fan_batch *batch = NULL;
    struct fan_store *store = NULL;
    defect = NONE;
    provider.list = NULL;
    provider.read = read_and_forget;
    assert_ok(fan_batch_new(NULL, &batch));
    assert_ok(fan_store_open_provider(&provider, "wrong:", NULL, &store, NULL));
    for (int i = 0; i < 10; i++) {
        struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
        struct fan_event *event = NULL;
        assert_ok(fan_event_new(&draft, NULL, &event, NULL));
        assert_ok(fan_store_append(store, &(struct fan_append){ .event = event }, 1, NULL));
        fan_event_free(event, NULL);
    }
    const struct fan_query query = {
        .size = FAN_QUERY_SIZE, .newest_first = true, .offset = 1, .limit = 3
    };
    assert_ok(fan_store_list(store, &query, batch, states, NULL));
    assert_int_equal(fan_batch_count(batch), 3);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(fan_event_seq(fan_batch_event(batch, i)), 9 - i);
    fan_store_close(store);
    fan_batch_free(batch);
}

static void test_P15_options_of_no_use_are_refused(void **state)
{
    (void)state;
    struct fan_conformance_options options = { .size = FAN_CONFORMANCE_OPTIONS_SIZE };
    assert_int_equal(fan_conformance_run(NULL), -1);
    assert_int_equal(fan_conformance_run(&options), -1);
    options.open = open_wrong;
    options.size = 8;
    assert_int_equal(fan_conformance_run(&options), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_P06_without_a_defect_the_suite_passes),
        cmocka_unit_test(test_P06_every_planted_defect_fails_the_suite),
        cmocka_unit_test(test_P22_a_provider_without_query_lists_by_reading_the_log),
        cmocka_unit_test(test_P22_a_list_is_whole_while_retention_runs),
        cmocka_unit_test(test_P15_options_of_no_use_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
