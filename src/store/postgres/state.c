/* Groups are few and small: each snapshot that needs them reads them all, once. */
#include "store/postgres/state.h"

#include "base/env.h"

#include <fanfare/batch.h>
#include <fanfare/pattern.h>

#include <string.h>

/* Columns of STATES. */
enum { SEQ, GROUP, STATUS, ATTEMPTS, ERROR, DUE, PROCESSED, COMPLETED };

void fan__postgres_groups_load(struct fan__postgres_connection *connection,
                               struct fan__postgres_groups *ret_groups)
{
    const struct fan_env *env = connection->store->env;
    *ret_groups = (struct fan__postgres_groups){ .env = env };
    PGresult *result = fan__postgres_run(connection, FAN__PG_GROUPS, NULL);
    size_t count = (size_t)PQntuples(result);
    struct fan__postgres_group *items = fan__alloc_zero(env, count + 1, sizeof(*items));
    if (!items) {
        fan__postgres_fail(connection, FAN_NO_MEMORY);
        PQclear(result);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        int row = (int)i;
        items[i] = (struct fan__postgres_group){
            .id = fan__postgres_int(result, row, 0),
            .name = fan__postgres_text(result, row, 1),
            .handler = fan__postgres_text(result, row, 2),
            .pattern = fan__postgres_text_or_null(result, row, 3),
            .topic = fan__postgres_text_or_null(result, row, 4),
            .cursor_seq = (uint64_t)fan__postgres_int(result, row, 5),
        };
    }
    *ret_groups = (struct fan__postgres_groups){
        .env = env, .items = items, .count = count, .result = result
    };
}

void fan__postgres_groups_free(struct fan__postgres_groups *groups)
{
    fan__free(groups->env, groups->items);
    PQclear(groups->result);
}

bool fan__postgres_group_wants(const struct fan__postgres_group *group, const char *topic,
                               const char *type)
{
    if (group->topic && strcmp(group->topic, topic) != 0)
        return false;
    return !group->pattern || fan_pattern_match(group->pattern, type);
}

uint64_t fan__postgres_groups_cursor(const struct fan__postgres_groups *groups)
{
    uint64_t lowest = UINT64_MAX;
    for (size_t i = 0; i < groups->count; i++) {
        if (groups->items[i].cursor_seq < lowest)
            lowest = groups->items[i].cursor_seq;
    }
    return lowest;
}

void fan__postgres_states_load(struct fan__postgres_connection *connection, const PGresult *events,
                               struct fan__postgres_states *ret_states)
{
    struct fan__postgres_array seqs;
    struct fan__postgres_params params = { 0 };
    *ret_states = (struct fan__postgres_states){ 0 };
    fan__postgres_array_init(&seqs, connection->store->env, FAN__POSTGRES_INT8);
    for (int i = 0; i < PQntuples(events); i++)
        fan__postgres_array_int(&seqs, fan__postgres_int(events, i, 0));
    if (seqs.buffer.failed)
        fan__postgres_fail(connection, FAN_NO_MEMORY);
    fan__postgres_add_array(&params, &seqs);
    if (seqs.count > 0)
        ret_states->result = fan__postgres_run(connection, FAN__PG_STATES, &params);
    fan__postgres_array_deinit(&seqs);
}

void fan__postgres_states_free(struct fan__postgres_states *states)
{
    PQclear(states->result);
}

/* A sum under way. */
struct sum {
    bool has[4];
    unsigned attempts;
    bool failed_error;
};

/* tidy: a sum of one row is made from five things, each of another life. */
static void add_delivery(struct fan__postgres_connection *connection, struct sum *sum,
                         const PGresult *rows, int row, struct fan_batch *batch,
                         struct fan_event_state *state)
{
    enum fan_event_status status = (enum fan_event_status)fan__postgres_int(rows, row, STATUS);
    if (status == FAN_EVENT_PROCESSING &&
        fan__postgres_int(rows, row, DUE) <= fan__postgres_now_us(connection->store))
        status = FAN_EVENT_PENDING;
    sum->has[status & 3] = true;
    unsigned attempts = (unsigned)fan__postgres_int(rows, row, ATTEMPTS);
    if (attempts > sum->attempts)
        sum->attempts = attempts;
    if (fan__postgres_int(rows, row, PROCESSED) > state->processed_us)
        state->processed_us = fan__postgres_int(rows, row, PROCESSED);
    if (fan__postgres_int(rows, row, COMPLETED) > state->completed_us)
        state->completed_us = fan__postgres_int(rows, row, COMPLETED);
    const char *error = fan__postgres_text_or_null(rows, row, ERROR);
    /* A dead letter's reason says more than that of a retry. */
    bool failed = status == FAN_EVENT_FAILED;
    if (batch && error && !sum->failed_error && (!*state->error || failed)) {
        state->error = fan_batch_keep(batch, error);
        if (!state->error) {
            state->error = "";
            fan__postgres_fail(connection, FAN_NO_MEMORY);
        }
        sum->failed_error = failed;
    }
}

/* The first delivery of an event, by halving. */
static int first_of(const PGresult *rows, uint64_t seq)
{
    int low = 0;
    int high = PQntuples(rows);
    while (low < high) {
        int middle = low + (high - low) / 2;
        if ((uint64_t)fan__postgres_int(rows, middle, SEQ) < seq)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool has_row(const PGresult *rows, int first, uint64_t seq, int64_t group_id)
{
    for (int i = first; i < PQntuples(rows); i++) {
        if ((uint64_t)fan__postgres_int(rows, i, SEQ) != seq)
            return false;
        if (fan__postgres_int(rows, i, GROUP) == group_id)
            return true;
    }
    return false;
}

/*
 * Whether a group wants an event that it has not come to, and has no row of.
 * tidy: the event's number and series, and where its rows begin.
 */
static bool is_owed_unseen(struct fan__postgres_connection *connection,
                           const struct fan__postgres_groups *groups, int64_t series_id,
                           const PGresult *rows, int first, uint64_t seq)
{
    const struct fan__series *series = NULL;
    for (size_t i = 0; i < groups->count; i++) {
        const struct fan__postgres_group *group = &groups->items[i];
        if (seq <= group->cursor_seq)
            continue;
        if (!series)
            series = fan__postgres_series_get(connection, series_id);
        if (series && fan__postgres_group_wants(group, series->topic, series->type) &&
            !has_row(rows, first, seq, group->id))
            return true;
    }
    return false;
}

void fan__postgres_state_of(struct fan__postgres_connection *connection,
                            const struct fan__postgres_groups *groups, const PGresult *events,
                            int row, const struct fan__postgres_states *states,
                            struct fan_batch *batch, struct fan_event_state *ret_state)
{
    *ret_state = (struct fan_event_state){ .status = FAN_EVENT_COMPLETED, .error = "" };
    if (groups->count == 0)
        return;
    uint64_t seq = (uint64_t)fan__postgres_int(events, row, 0);
    int64_t series_id = fan__postgres_int(events, row, 2);
    struct sum sum = { .attempts = 0 };
    int first = first_of(states->result, seq);
    for (int i = first; i < PQntuples(states->result) &&
                        (uint64_t)fan__postgres_int(states->result, i, SEQ) == seq;
         i++)
        add_delivery(connection, &sum, states->result, i, batch, ret_state);
    if (sum.has[FAN_EVENT_FAILED])
        ret_state->status = FAN_EVENT_FAILED;
    else if (sum.has[FAN_EVENT_PROCESSING])
        ret_state->status = FAN_EVENT_PROCESSING;
    else if (sum.has[FAN_EVENT_PENDING] ||
             is_owed_unseen(connection, groups, series_id, states->result, first, seq))
        ret_state->status = FAN_EVENT_PENDING;
    if (ret_state->status == FAN_EVENT_PROCESSING || ret_state->status == FAN_EVENT_PENDING)
        ret_state->completed_us = 0;
    ret_state->retry_count = sum.attempts > 0 ? sum.attempts - 1 : 0;
}
