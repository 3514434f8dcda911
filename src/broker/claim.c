/*
 * Claiming, and the order of what was claimed.
 *
 * The handlers of one event are called one after the other, in the order in which they were added.
 * Each has its own place in the store, so they come to an event in different claims: what one has
 * claimed is held until every other handler that wants the event has passed that sequence, and then
 * goes to the queue as one item. A handler whose bell has not rung has passed all that the bus was
 * told. One that is far behind is not waited for. What is retried, or of a handler with a pace of
 * its own (ordered, concurrency), goes by itself.
 */
#include "broker/dispatch.h"

#include "base/env.h"

#include <fanfare/batch.h>

#include <stdio.h>

/* A batch of this size may be one that the store ended for its bytes. */
#define FULL_SIZE ((size_t)1 << 19)
/* What lies in the queue for longer than SLOW would be better off in another process. */
#define SLOW_NS (500 * FAN__NS_PER_MS)
#define RENEWALS_PER_LEASE 3
/* Who is so many events behind another handler is catching up, for as long as that takes. */
#define BEHIND_MAX 1000
/* How often a group that was deleted is looked for. */
#define GONE_LOOK_MS 2000

static bool has_own_pace(const struct fan_handler *handler)
{
    return handler->ordered || handler->concurrency > 0;
}

static struct fan__task *task_new(struct fan_handler *handler, const struct fan_event *event,
                                  const struct fan_claim *claim)
{
    const struct fan_env *env = handler->broker->env;
    struct fan__task *task = fan__alloc_zero(env, 1, sizeof(*task));
    if (!task)
        return NULL;
    task->handler = handler;
    task->order = handler->order;
    task->env = env;
    task->seq = claim->seq;
    task->token = claim->token;
    task->attempt = claim->attempt;
    task->lapses = claim->lapses;
    if (fan_event_copy(event, env, &task->event) == FAN_OK)
        return task;
    fan__free(env, task);
    return NULL;
}

/* Copies what was claimed; what there is no memory for is handed back at once. */
static void copy(struct fan__dispatch *dispatch, struct fan_handler *handler,
                 struct fan__task_list *tasks)
{
    struct fan_group_name name = { handler->group, handler->name };
    size_t count = fan_batch_count(dispatch->batch);
    size_t refused = 0;
    for (size_t i = 0; i < count; i++) {
        const struct fan_claim *claim = &dispatch->claims[i];
        struct fan__task *task = task_new(handler, fan_batch_event(dispatch->batch, i), claim);
        if (task)
            fan__task_push(tasks, task);
        else
            dispatch->settles[refused++] = (struct fan_settle){ .seq = claim->seq,
                                                                .token = claim->token,
                                                                .verdict = FAN_VERDICT_HAND_BACK };
    }
    if (refused == 0)
        return;
    enum fan_status status =
        fan_group_settle(dispatch->broker->store, &name, dispatch->settles, refused);
    fan__log(dispatch->broker->env, FAN_LOG_WARNING, "group %s: no memory for %zu events: %s",
             handler->group, refused, status == FAN_OK ? "handed back" : fan_status_text(status));
}

static void add_last(struct fan_handler *handler, struct fan__task *task)
{
    task->older = handler->newest;
    *(handler->newest ? &handler->newest->newer : &handler->oldest) = task;
    handler->newest = task;
}

/* Puts a task among the held, beside its siblings. `at` is where the last one of its claim went. */
static struct fan__task **hold(struct fan__dispatch *dispatch, struct fan__task *task,
                               struct fan__task **at)
{
    if (*at && (*at)->seq > task->seq)
        at = &dispatch->held;
    while (*at && (*at)->seq < task->seq)
        at = &(*at)->next;
    if (!*at || (*at)->seq > task->seq) {
        task->next = *at;
        *at = task;
        return at;
    }
    struct fan__task *first = *at;
    if (first->order > task->order) {
        task->sibling = first;
        task->next = first->next;
        first->next = NULL;
        *at = task;
        return at;
    }
    while (first->sibling && first->sibling->order < task->order)
        first = first->sibling;
    task->sibling = first->sibling;
    first->sibling = task;
    return at;
}

/*
 * What its holders died of, or was there when they died. True when the task goes no further. One
 * is run alone, if it may come; the others go back to the store, where no death is theirs.
 */
static bool is_suspect(struct fan__dispatch *dispatch, struct fan__task *task, bool *may_come)
{
    struct fan_handler *handler = task->handler;
    if (task->lapses < FAN__LAPSES_MAX - 1)
        return false;
    char words[FAN__WORDS_SIZE];
    if (task->lapses >= FAN__LAPSES_MAX) {
        snprintf(words, sizeof(words),
                 "%u holders died with it, or lost their lease; it was not "
                 "given to another",
                 task->lapses);
        task->reason = FAN_DEAD_LAPSES;
        fan__task_end(dispatch, task, FAN_VERDICT_FAIL, words);
        fan__task_run_over(task);
        return true;
    }
    handler->cautious = true;
    if (!*may_come) {
        fan__task_end(dispatch, task, FAN_VERDICT_HAND_BACK, NULL);
        fan__task_run_over(task);
        return true;
    }
    *may_come = false;
    dispatch->suspect = task;
    dispatch->suspect_forced = false;
    dispatch->suspect_since_ns = fan__dispatch_now_ns(dispatch);
    dispatch->suspect_ns = dispatch->suspect_since_ns + dispatch->alone_ns;
    fan__cond_broadcast(&dispatch->ready);
    return true;
}

/* Whether every claim of it since this one was held has ended with its lease. */
static bool is_same(const struct fan__task *held, const struct fan__task *task)
{
    return held->lapses < task->lapses &&
           task->attempt - held->attempt == task->lapses - held->lapses;
}

/*
 * A stall may cost this process its lease, and it is the one who claims the delivery anew. What it
 * holds of it then goes on under the fresh claim, and is not run a second time. But what it holds
 * may also have been settled, with the answer lost: then this is another attempt, which is run.
 * Where it holds two, as after a redrive, which counts attempts from the first again, the one that
 * it claimed last is meant. What was redriven while this process was away, and then lapsed in
 * another's hands, is not told from a lapse of its own: it gets the verdict of the former call.
 */
static bool adopt(struct fan_handler *handler, const struct fan__task *task)
{
    struct fan__task *held = task->lapses > 0 ? handler->newest : NULL;
    while (held && held->seq != task->seq)
        held = held->older;
    if (!held || !is_same(held, task))
        return false;
    held->token = task->token;
    held->until_ns = task->until_ns;
    held->attempt = task->attempt;
    held->lapses = task->lapses;
    held->unsure = false;
    return true;
}

static void take(struct fan__dispatch *dispatch, struct fan_handler *handler,
                 struct fan__task_list *tasks, int64_t claimed_ns)
{
    struct fan__task **at = &dispatch->held;
    struct fan__task *task;
    bool may_come = fan__suspect_may_come(dispatch, claimed_ns);
    while ((task = fan__task_pop(tasks))) {
        task->claimed_ns = claimed_ns;
        task->until_ns = claimed_ns + dispatch->lease_ms * FAN__NS_PER_MS;
        if (adopt(handler, task)) {
            fan__task_free(task);
            continue;
        }
        add_last(handler, task);
        handler->held++;
        dispatch->claimed++;
        dispatch->queued++;
        task->suspected = task->lapses == FAN__LAPSES_MAX - 1;
        dispatch->suspect_count += task->suspected;
        dispatch->claimed_size += fan_event_size(task->event);
        if (task->seq > handler->passed_seq)
            handler->passed_seq = task->seq;
        if (handler->removed || dispatch->cut) {
            fan__task_end(dispatch, task, FAN_VERDICT_HAND_BACK, NULL);
            fan__task_run_over(task);
        } else if (fan__task_park(dispatch, task) || is_suspect(dispatch, task, &may_come)) {
            continue;
        } else if (handler->concurrency > 0) {
            fan__task_push(&handler->waiting, task);
        } else if (handler->ordered || task->attempt > 1) {
            fan__task_queue(dispatch, task);
        } else {
            at = hold(dispatch, task, at);
        }
    }
    fan__task_admit(dispatch, handler);
}

/* How much it may hold, by how long the last ones lay in the queue. */
static void adapt(const struct fan__dispatch *dispatch, struct fan_handler *handler)
{
    size_t least = 2 * (size_t)dispatch->worker_count;
    if (handler->waited_ns > SLOW_NS)
        handler->window /= 2;
    else
        handler->window *= 2;
    if (handler->window < least)
        handler->window = least;
    if (handler->window > dispatch->queue_count_max)
        handler->window = dispatch->queue_count_max;
    handler->waited_ns = 0;
}

/*
 * Somebody deleted the group, and that holds: to make it again would give it what it was spared,
 * or spare it what it wants. But when somebody makes it again, it is worked for again.
 */
void fan__handler_gone(struct fan__dispatch *dispatch, struct fan_handler *handler)
{
    handler->not_before_ns = fan__dispatch_now_ns(dispatch) + GONE_LOOK_MS * FAN__NS_PER_MS;
    if (handler->gone)
        return;
    handler->gone = true;
    fan__waiters_forget(dispatch, handler);
    fan__tasks_hand_back(dispatch, handler);
    fan__log(dispatch->broker->env, FAN_LOG_WARNING,
             "group \"%s\", handler \"%s\" was deleted under its handler, which gets nothing until "
             "the group is made again",
             handler->group, handler->name);
}

static void note_success(struct fan__dispatch *dispatch, struct fan_handler *handler)
{
    if (handler->gone)
        fan__log(dispatch->broker->env, FAN_LOG_INFO, "group \"%s\", handler \"%s\" was made again",
                 handler->group, handler->name);
    handler->failing = handler->gone = false;
}

static void note_failure(struct fan__dispatch *dispatch, struct fan_handler *handler,
                         enum fan_status status)
{
    handler->not_before_ns = fan__dispatch_now_ns(dispatch) + FAN__LOOK_MS * FAN__NS_PER_MS;
    if (status == FAN_NOT_FOUND) {
        fan__handler_gone(dispatch, handler);
        return;
    }
    if (!handler->failing)
        fan__log(dispatch->broker->env, FAN_LOG_WARNING, "group %s: cannot claim: %s",
                 handler->group, fan_status_text(status));
    handler->failing = true;
}

/* Whether there may be suspects among what is due: then something is that came before. */
static bool has_dues(const struct fan__dispatch *dispatch, size_t count)
{
    bool found = false;
    for (size_t i = 0; i < count && !found; i++)
        found = dispatch->claims[i].attempt > 1;
    return found;
}

/* One claim of what lapsed less often than `below`. Gives how many came. */
static size_t claim_some(struct fan__dispatch *dispatch, struct fan_handler *handler, size_t limit,
                         unsigned below, uint64_t told_seq)
{
    struct fan_group_name name = { handler->group, handler->name };
    struct fan_claim_options options = {
        .size = FAN_CLAIM_OPTIONS_SIZE,
        .owner = dispatch->owner,
        .limit = limit < FAN__CLAIM_LIMIT ? limit : FAN__CLAIM_LIMIT,
        .lease_ms = dispatch->lease_ms,
        .ordered = handler->ordered,
        .lapses_below = below,
    };
    int64_t claimed_ns = fan__dispatch_now_ns(dispatch);
    enum fan_status status = fan_group_claim(dispatch->broker->store, &name, &options,
                                             dispatch->batch, dispatch->claims);
    struct fan__task_list tasks;
    fan__task_list_init(&tasks);
    size_t count = status == FAN_OK ? fan_batch_count(dispatch->batch) : 0;
    bool full =
        count == options.limit || (count > 0 && fan_batch_size(dispatch->batch) >= FULL_SIZE);
    if (count > 0)
        copy(dispatch, handler, &tasks);

    fan__mutex_lock(&dispatch->mutex);
    /* However many handlers there are, together they look no more than 1,000 times a second. */
    int64_t look_ns = claimed_ns + (FAN__LOOK_MS + dispatch->durable_count) * FAN__NS_PER_MS;
    if (handler->look_ns <= claimed_ns || handler->look_ns > look_ns)
        handler->look_ns = look_ns;
    if (status == FAN_OK || status == FAN_AGAIN) {
        note_success(dispatch, handler);
        handler->more |= full;
        handler->cautious &= below > 0 || has_dues(dispatch, count);
        if (!full && told_seq > handler->passed_seq)
            handler->passed_seq = told_seq;
    } else {
        note_failure(dispatch, handler, status);
    }
    if (count > 0) {
        int64_t renew_ns = claimed_ns + dispatch->lease_ms * FAN__NS_PER_MS / RENEWALS_PER_LEASE;
        if (renew_ns < handler->renew_ns)
            handler->renew_ns = renew_ns;
        adapt(dispatch, handler);
        take(dispatch, handler, &tasks, claimed_ns);
    }
    fan__mutex_unlock(&dispatch->mutex);
    return count;
}

static bool may_fetch(struct fan__dispatch *dispatch, const struct fan_handler *handler)
{
    fan__mutex_lock(&dispatch->mutex);
    bool may = handler->cautious && !handler->failing && !handler->gone &&
               fan__suspect_may_come(dispatch, fan__dispatch_now_ns(dispatch));
    fan__mutex_unlock(&dispatch->mutex);
    return may;
}

bool fan__claim(struct fan__dispatch *dispatch, struct fan_handler *handler, size_t limit,
                uint64_t told_seq)
{
    if (!handler->cautious)
        return claim_some(dispatch, handler, limit, 0, told_seq) > 0;
    /* Suspects hold up nothing: they are left out of a claim, and fetched on their own. */
    size_t count = claim_some(dispatch, handler, limit, FAN__LAPSES_MAX - 1, told_seq);
    if (may_fetch(dispatch, handler))
        count += claim_some(dispatch, handler, limit < 2 ? limit : 2, 0, told_seq);
    return count > 0;
}

/* Handlers that have not passed all that is held, linked by next_late. */
static struct fan_handler *find_late(struct fan__dispatch *dispatch, uint64_t last_seq)
{
    struct fan_handler *late = NULL;
    for (struct fan_handler *handler = dispatch->first; handler; handler = handler->next) {
        if (!handler->group || handler->removed || handler->gone || has_own_pace(handler) ||
            handler->passed_seq >= last_seq)
            continue;
        handler->next_late = late;
        late = handler;
    }
    return late;
}

static bool is_waited_for(const struct fan_handler *late, const struct fan__task *task)
{
    for (; late; late = late->next_late)
        if (late->passed_seq < task->seq && task->seq - late->passed_seq <= BEHIND_MAX &&
            fan__handler_wants(late, task->event))
            return true;
    return false;
}

void fan__held_release(struct fan__dispatch *dispatch, bool all)
{
    if (!dispatch->held)
        return;
    const struct fan__task *last = dispatch->held;
    while (last->next)
        last = last->next;
    const struct fan_handler *late = find_late(dispatch, last->seq);
    int64_t early_ns = fan__dispatch_now_ns(dispatch) - FAN__HOLD_MS * FAN__NS_PER_MS;
    struct fan__task **link = &dispatch->held;
    while (*link) {
        struct fan__task *task = *link;
        if (!all && task->claimed_ns > early_ns && is_waited_for(late, task)) {
            link = &task->next;
            continue;
        }
        *link = task->next;
        fan__task_queue(dispatch, task);
    }
}
