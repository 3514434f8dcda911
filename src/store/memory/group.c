/* Groups and what becomes of their deliveries. Statuses move in place.c alone. */
#include "store/memory/group.h"

#include "base/env.h"

#include <fanfare/pattern.h>

#include <string.h>

static int compare(const struct fan__memory_group *group, const struct fan_group_name *name)
{
    int order = strcmp(group->group, name->group);
    return order ? order : strcmp(group->handler, name->handler);
}

/* The place of a name among the groups, which are in order of their names. */
static size_t place_of(const struct fan__memory *memory, const struct fan_group_name *name)
{
    size_t low = 0;
    size_t high = memory->group_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (compare(memory->groups[middle], name) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct fan__memory_group *fan__memory_group_find(const struct fan__memory *memory,
                                                 const struct fan_group_name *name)
{
    size_t place = place_of(memory, name);
    if (place < memory->group_count && compare(memory->groups[place], name) == 0)
        return memory->groups[place];
    return NULL;
}

bool fan__memory_wants(const struct fan__memory_group *group, const struct fan_event *event)
{
    if (group->topic && strcmp(group->topic, fan_event_topic(event)) != 0)
        return false;
    return !group->pattern || fan_pattern_match(group->pattern, fan_event_type(event));
}

static void consider_all(struct fan__memory *memory)
{
    for (size_t i = memory->entry_first; i < memory->entry_end; i++) {
        if (memory->entries[i].record)
            fan__memory_consider(memory, memory->entries[i].record);
    }
}

static void group_free(struct fan__memory *memory, struct fan__memory_group *group)
{
    fan__memory_order_free(memory, group->order);
    fan__heap_deinit(&group->ready);
    fan__heap_deinit(&group->leased);
    fan__free(memory->env, group->group);
    fan__free(memory->env, group->handler);
    fan__free(memory->env, group->pattern);
    fan__free(memory->env, group->topic);
    fan__free(memory->env, group);
}

/* NULL stays NULL; false without memory. */
static bool copy(const struct fan_env *env, const char *text, char **ret_copy)
{
    *ret_copy = text ? fan__strdup(env, text) : NULL;
    return !text || *ret_copy;
}

static struct fan__memory_group *group_new(struct fan__memory *memory,
                                           const struct fan_group_name *name,
                                           const struct fan_group_options *options)
{
    const struct fan_env *env = memory->env;
    struct fan__memory_group *group = fan__alloc_zero(env, 1, sizeof(*group));
    if (!group)
        return NULL;
    fan__heap_init(&group->ready, env);
    fan__heap_init(&group->leased, env);
    if (!copy(env, name->group, &group->group) || !copy(env, name->handler, &group->handler) ||
        !copy(env, options->pattern, &group->pattern) ||
        !copy(env, options->topic, &group->topic)) {
        group_free(memory, group);
        return NULL;
    }
    if (options->start == FAN_START_NOW)
        group->cursor_seq = memory->head_seq;
    else if (options->start == FAN_START_CURSOR)
        group->cursor_seq =
            options->start_seq < memory->head_seq ? options->start_seq : memory->head_seq;
    group->joined_us = fan__memory_now_us(memory);
    return group;
}

static enum fan_status change(struct fan__memory *memory, struct fan__memory_group *group,
                              const struct fan_group_options *options)
{
    char *pattern;
    char *topic;
    if (!copy(memory->env, options->pattern, &pattern))
        return FAN_NO_MEMORY;
    if (!copy(memory->env, options->topic, &topic)) {
        fan__free(memory->env, pattern);
        return FAN_NO_MEMORY;
    }
    fan__free(memory->env, group->pattern);
    fan__free(memory->env, group->topic);
    group->pattern = pattern;
    group->topic = topic;
    group->joined_us = fan__memory_now_us(memory);
    consider_all(memory);
    return FAN_EXISTS;
}

enum fan_status fan__memory_group_create(struct fan__memory *memory,
                                         const struct fan_group_name *name,
                                         const struct fan_group_options *options)
{
    struct fan__memory_group *there = fan__memory_group_find(memory, name);
    if (there)
        return change(memory, there, options);
    if (memory->group_count == memory->group_capacity) {
        size_t capacity = memory->group_capacity ? memory->group_capacity * 2 : 8;
        struct fan__memory_group **groups =
            fan__resize(memory->env, memory->groups, capacity * sizeof(struct fan__memory_group *));
        if (!groups)
            return FAN_NO_MEMORY;
        memory->groups = groups;
        memory->group_capacity = capacity;
    }
    struct fan__memory_group *group = group_new(memory, name, options);
    if (!group)
        return FAN_NO_MEMORY;
    size_t place = place_of(memory, name);
    memmove(memory->groups + place + 1, memory->groups + place,
            (memory->group_count - place) * sizeof(*memory->groups));
    memory->groups[place] = group;
    memory->group_count++;
    return FAN_OK;
}

enum fan_status fan__memory_group_delete(struct fan__memory *memory,
                                         const struct fan_group_name *name)
{
    struct fan__memory_group *group = fan__memory_group_find(memory, name);
    if (!group)
        return FAN_NOT_FOUND;
    for (size_t i = memory->entry_first; i < memory->entry_end; i++) {
        const struct fan__record *record = memory->entries[i].record;
        struct fan__delivery *delivery = record ? fan__memory_delivery_find(record, group) : NULL;
        if (delivery)
            fan__memory_delivery_free(memory, delivery);
    }
    size_t place = place_of(memory, name);
    memory->group_count--;
    memmove(memory->groups + place, memory->groups + place + 1,
            (memory->group_count - place) * sizeof(*memory->groups));
    group_free(memory, group);
    consider_all(memory);
    return FAN_OK;
}

void fan__memory_groups_deinit(struct fan__memory *memory)
{
    for (size_t i = memory->entry_first; i < memory->entry_end; i++) {
        struct fan__record *record = memory->entries[i].record;
        while (record && record->deliveries)
            fan__memory_delivery_free(memory, record->deliveries);
    }
    for (size_t i = 0; i < memory->group_count; i++)
        group_free(memory, memory->groups[i]);
    fan__free(memory->env, memory->groups);
    fan__table_deinit(&memory->owners);
}

struct fan__delivery *fan__memory_delivery_find(const struct fan__record *record,
                                                const struct fan__memory_group *group)
{
    struct fan__delivery *delivery = record->deliveries;
    while (delivery && delivery->group != group)
        delivery = delivery->next_of_event;
    return delivery;
}

struct fan__delivery *fan__memory_delivery_new(struct fan__memory *memory,
                                               struct fan__memory_group *group,
                                               struct fan__record *record)
{
    /* Room in both heaps for all that the group has: moving a delivery then never fails. */
    size_t count = 1;
    for (size_t i = 0; i < sizeof(group->counts) / sizeof(*group->counts); i++)
        count += group->counts[i];
    if (!fan__heap_reserve(&group->ready, count) || !fan__heap_reserve(&group->leased, count))
        return NULL;
    struct fan__delivery *delivery = fan__alloc_zero(memory->env, 1, sizeof(*delivery));
    if (!delivery)
        return NULL;
    delivery->group = group;
    delivery->record = record;
    if (!fan__memory_queue(memory, delivery)) {
        fan__free(memory->env, delivery);
        return NULL;
    }
    delivery->status = FAN_EVENT_PENDING;
    group->counts[FAN_EVENT_PENDING]++;
    struct fan_group_name name = { .group = group->group, .handler = group->handler };
    struct fan__delivery **at = &record->deliveries;
    while (*at && compare((*at)->group, &name) < 0)
        at = &(*at)->next_of_event;
    delivery->next_of_event = *at;
    *at = delivery;
    return delivery;
}

void fan__memory_delivery_free(struct fan__memory *memory, struct fan__delivery *delivery)
{
    struct fan__delivery **at = &delivery->record->deliveries;
    while (*at != delivery)
        at = &(*at)->next_of_event;
    *at = delivery->next_of_event;
    fan__memory_unplace(memory, delivery);
    fan__memory_owner_unref(memory, delivery->owner);
    fan__free(memory->env, delivery->error);
    fan__free(memory->env, delivery);
}

void fan__memory_lapse(struct fan__memory *memory)
{
    int64_t now_us = fan__memory_now_us(memory);
    for (size_t i = 0; i < memory->group_count; i++) {
        struct fan__heap *leased = &memory->groups[i]->leased;
        struct fan__heap_node *node;
        while ((node = fan__heap_top(leased)) && node->key <= now_us)
            fan__memory_shift(memory, (void *)node, FAN_EVENT_PENDING);
    }
}

static struct fan__delivery *find_at(const struct fan__memory *memory,
                                     const struct fan__memory_group *group, uint64_t seq)
{
    const struct fan__record *record = fan__memory_at(memory, seq);
    return record ? fan__memory_delivery_find(record, group) : NULL;
}

/* The delivery that a claim speaks for, NULL when it is lost. */
static struct fan__delivery *find_claimed(const struct fan__memory *memory,
                                          const struct fan__memory_group *group,
                                          const struct fan_settle *item)
{
    struct fan__delivery *delivery = find_at(memory, group, item->seq);
    return delivery && delivery->token != 0 && delivery->token == item->token ? delivery : NULL;
}

static void set_error(struct fan__memory *memory, struct fan__delivery *delivery, char *error)
{
    fan__free(memory->env, delivery->error);
    delivery->error = error;
}

static enum fan_event_status verdict_status(enum fan_verdict verdict)
{
    switch (verdict) {
    case FAN_VERDICT_DONE:
        return FAN_EVENT_COMPLETED;
    case FAN_VERDICT_FAIL:
        return FAN_EVENT_FAILED;
    case FAN_VERDICT_RETRY:
    case FAN_VERDICT_HAND_BACK:
        break;
    }
    return FAN_EVENT_PENDING;
}

/* `error` becomes the delivery's. */
static void settle_one(struct fan__memory *memory, struct fan__delivery *delivery,
                       const struct fan_settle *item, char *error)
{
    int64_t now_us = fan__memory_now_us(memory);
    enum fan_event_status status = verdict_status(item->verdict);
    uint32_t delay_ms = item->verdict == FAN_VERDICT_RETRY ? item->delay_ms : 0;
    if (item->verdict == FAN_VERDICT_HAND_BACK)
        delivery->attempts--;
    else
        set_error(memory, delivery, error);
    if (status == FAN_EVENT_FAILED)
        delivery->reason = item->reason != FAN_DEAD_NONE ? item->reason : FAN_DEAD_FAILED;
    delivery->token = 0;
    delivery->due_us = status == FAN_EVENT_PENDING ? now_us + (int64_t)delay_ms * 1000 : 0;
    delivery->completed_us = status == FAN_EVENT_PENDING ? 0 : now_us;
    fan__memory_shift(memory, delivery, status);
    fan__memory_owner_unref(memory, delivery->owner);
    delivery->owner = NULL;
    if (status == FAN_EVENT_COMPLETED)
        fan__memory_consider(memory, delivery->record);
}

static bool keeps_error(const struct fan_settle *item)
{
    return item->error && *item->error &&
           (item->verdict == FAN_VERDICT_RETRY || item->verdict == FAN_VERDICT_FAIL);
}

enum fan_status fan__memory_settle(struct fan__memory *memory, struct fan__memory_group *group,
                                   struct fan_settle *items, size_t count)
{
    group->joined_us = fan__memory_now_us(memory);
    if (count == 0)
        return FAN_OK;
    char **errors = fan__alloc_zero(memory->env, count, sizeof(char *));
    bool whole = errors != NULL;
    for (size_t i = 0; whole && i < count; i++) {
        if (keeps_error(&items[i]) && find_claimed(memory, group, &items[i]))
            whole = copy(memory->env, items[i].error, &errors[i]);
    }
    for (size_t i = 0; whole && i < count; i++) {
        struct fan__delivery *delivery = find_claimed(memory, group, &items[i]);
        items[i].ret_status = delivery ? FAN_OK : FAN_LOST;
        if (!delivery)
            continue;
        settle_one(memory, delivery, &items[i], errors[i]);
        errors[i] = NULL;
    }
    for (size_t i = 0; errors && i < count; i++)
        fan__free(memory->env, errors[i]);
    fan__free(memory->env, errors);
    return whole ? FAN_OK : FAN_NO_MEMORY;
}

enum fan_status fan__memory_renew(struct fan__memory *memory, struct fan__memory_group *group,
                                  struct fan_settle *items, size_t count, uint32_t lease_ms)
{
    int64_t now_us = fan__memory_now_us(memory);
    group->joined_us = now_us;
    for (size_t i = 0; i < count; i++) {
        struct fan__delivery *delivery = find_claimed(memory, group, &items[i]);
        if (!delivery || delivery->status != FAN_EVENT_PROCESSING) {
            items[i].ret_status = FAN_LOST;
            continue;
        }
        items[i].ret_status = FAN_OK;
        delivery->due_us = now_us + (int64_t)lease_ms * 1000;
        fan__memory_shift(memory, delivery, FAN_EVENT_PROCESSING);
    }
    return FAN_OK;
}

static bool may_move(enum fan_event_status from, enum fan_event_status to)
{
    static const bool legal[4][4] = {
        [FAN_EVENT_FAILED] = { [FAN_EVENT_PENDING] = true, [FAN_EVENT_COMPLETED] = true },
        [FAN_EVENT_PENDING] = { [FAN_EVENT_COMPLETED] = true },
    };
    return legal[from][to];
}

/* The delivery to move; what the group is still owed without a record of it gets one. */
static enum fan_status find_to_move(struct fan__memory *memory, struct fan__memory_group *group,
                                    uint64_t seq, enum fan_event_status to,
                                    struct fan__delivery **ret_delivery)
{
    struct fan__record *record = fan__memory_at(memory, seq);
    if (!record)
        return FAN_NOT_FOUND;
    *ret_delivery = fan__memory_delivery_find(record, group);
    if (*ret_delivery)
        return FAN_OK;
    if (seq <= group->cursor_seq || !fan__memory_wants(group, record->event))
        return FAN_NOT_FOUND;
    if (to != FAN_EVENT_COMPLETED)
        return FAN_CONFLICT;
    *ret_delivery = fan__memory_delivery_new(memory, group, record);
    if (!*ret_delivery)
        return FAN_NO_MEMORY;
    (*ret_delivery)->due_us = fan__memory_now_us(memory);
    fan__memory_shift(memory, *ret_delivery, FAN_EVENT_PENDING);
    return FAN_OK;
}

enum fan_status fan__memory_move(struct fan__memory *memory, struct fan__memory_group *group,
                                 uint64_t seq, enum fan_event_status to)
{
    struct fan__delivery *delivery = NULL;
    enum fan_status status = find_to_move(memory, group, seq, to, &delivery);
    if (status != FAN_OK)
        return status;
    if (delivery->status == FAN_EVENT_PROCESSING)
        return FAN_MISUSE;
    if (!may_move(delivery->status, to))
        return FAN_CONFLICT;
    if (!fan__memory_queue(memory, delivery))
        return FAN_NO_MEMORY;
    int64_t now_us = fan__memory_now_us(memory);
    delivery->token = 0;
    delivery->reason = FAN_DEAD_NONE;
    if (to == FAN_EVENT_PENDING) {
        delivery->attempts = 0;
        delivery->lapses = 0;
        delivery->completed_us = 0;
        delivery->due_us = now_us;
    } else {
        delivery->completed_us = now_us;
        delivery->due_us = 0;
    }
    fan__memory_shift(memory, delivery, to);
    if (to == FAN_EVENT_COMPLETED)
        fan__memory_consider(memory, delivery->record);
    return FAN_OK;
}

static bool is_owed_unseen(const struct fan__memory *memory, const struct fan__record *record)
{
    for (size_t i = 0; i < memory->group_count; i++) {
        const struct fan__memory_group *group = memory->groups[i];
        if (record->seq > group->cursor_seq && fan__memory_wants(group, record->event) &&
            !fan__memory_delivery_find(record, group))
            return true;
    }
    return false;
}

void fan__memory_state(const struct fan__memory *memory, const struct fan__record *record,
                       struct fan_event_state *ret_state)
{
    struct fan_event_state state = { .status = FAN_EVENT_COMPLETED, .error = "" };
    bool has[4] = { [FAN_EVENT_PENDING] = is_owed_unseen(memory, record) };
    unsigned attempts = 0;
    bool failed_error = false;
    for (const struct fan__delivery *d = record->deliveries; d; d = d->next_of_event) {
        has[d->status] = true;
        if (d->attempts > attempts)
            attempts = d->attempts;
        if (d->processed_us > state.processed_us)
            state.processed_us = d->processed_us;
        if (d->completed_us > state.completed_us)
            state.completed_us = d->completed_us;
        /* A dead letter's reason says more than that of a retry. */
        if (d->error && !failed_error && (!*state.error || d->status == FAN_EVENT_FAILED)) {
            state.error = d->error;
            failed_error = d->status == FAN_EVENT_FAILED;
        }
    }
    if (has[FAN_EVENT_FAILED])
        state.status = FAN_EVENT_FAILED;
    else if (has[FAN_EVENT_PROCESSING])
        state.status = FAN_EVENT_PROCESSING;
    else if (has[FAN_EVENT_PENDING])
        state.status = FAN_EVENT_PENDING;
    if (state.status == FAN_EVENT_PROCESSING || state.status == FAN_EVENT_PENDING)
        state.completed_us = 0;
    state.retry_count = attempts > 0 ? attempts - 1 : 0;
    *ret_state = state;
}
