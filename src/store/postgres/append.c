/*
 * Appending: one transaction a batch, in one round trip where nothing speaks against it.
 *
 *     BEGIN, lock, NOTIFY, INSERT ... SELECT head + n FROM unnest(arrays), COMMIT
 *
 * Sequences are given out under the log's advisory lock, which is held until the commit: whoever
 * has it next begins its statements after that, and sees all that was given before. So the order of
 * sequences is the order in which they become visible, whoever else writes. The head is the last
 * row's own sequence, found at the right edge of an index: a counter in a row would leave a dead
 * version behind at each commit, which an open transaction somewhere keeps from being cleared away.
 *
 * An id that is there already fails the INSERT, and then the batch goes the long way, as do
 * expectations: look what is there, decide unit by unit here, and insert what is left. An id that
 * is there wins over the expectation of its unit: a retry after an unclear failure must find its
 * own first try, not the conflict that this made.
 *
 * A notice costs every listener's process a turn, so of batches that follow one another closely the
 * first alone goes with one: who hears it looks again until those that came right after it are
 * there (tail.c). One that took longer than that is told of behind its commit.
 */
#include "store/postgres/series.h"

#include "base/env.h"
#include "base/hash.h"
#include "base/status.h"

#include <string.h>

#define EVENT_SIZE_MAX ((size_t)256 << 20)
#define STATEMENT_SIZE_MAX ((size_t)32 << 20)
#define SWEPT_TRY_COUNT 3
#define MARK_US FAN__US_PER_S
#define UNSEEN UINT64_MAX
#define COLUMN_COUNT 9

/* Marks the index of an item of the same batch, where a sequence is not known yet. */
#define EARLIER (UINT64_C(1) << 63)

struct append {
    struct fan__postgres *store;
    struct fan__postgres_connection *writer;
    struct fan_append *items;
    size_t count;
    int64_t *series;
    uint64_t *existing; /* the long way: sequences of ids that are there, or come earlier */
    uint64_t head_seq;  /* before the first of them */
    bool marks;
    bool untold; /* it goes without a notice */
    bool swept;  /* the series that we know are not all there any more: nothing was stored */
    bool doubts;
    int64_t series_swept; /* what was found there then */
};

enum { ID, SERIES, CREATED, USER, SESSION, DELIVER, TRACE, METADATA, PAYLOAD };

static const enum fan__postgres_type types[COLUMN_COUNT] = {
    [ID] = FAN__POSTGRES_TEXT,    [SERIES] = FAN__POSTGRES_INT8,   [CREATED] = FAN__POSTGRES_INT8,
    [USER] = FAN__POSTGRES_INT8,  [SESSION] = FAN__POSTGRES_TEXT,  [DELIVER] = FAN__POSTGRES_INT8,
    [TRACE] = FAN__POSTGRES_TEXT, [METADATA] = FAN__POSTGRES_TEXT, [PAYLOAD] = FAN__POSTGRES_BYTEA,
};

static void add_positive(struct fan__postgres_array *array, int64_t number)
{
    if (number != 0)
        fan__postgres_array_int(array, number);
    else
        fan__postgres_array_text(array, NULL);
}

static void add_positive_param(struct fan__postgres_params *params, int64_t number)
{
    if (number != 0)
        fan__postgres_add_int(params, number);
    else
        fan__postgres_add_null(params);
}

static const char *filled(const char *text)
{
    return text && *text ? text : NULL;
}

static void add_event(struct fan__postgres_array *columns, const struct fan_event *event,
                      int64_t series)
{
    struct fan_str metadata = fan_event_metadata(event);
    struct fan_str payload = fan_event_payload(event);
    fan__postgres_array_text(&columns[ID], fan_event_id(event));
    fan__postgres_array_int(&columns[SERIES], series);
    fan__postgres_array_int(&columns[CREATED], fan_event_created_us(event));
    add_positive(&columns[USER], fan_event_user_id(event));
    fan__postgres_array_text(&columns[SESSION], filled(fan_event_session_id(event)));
    add_positive(&columns[DELIVER], fan_event_deliver_at_us(event));
    fan__postgres_array_text(&columns[TRACE], filled(fan_event_traceparent(event)));
    if (metadata.size > 0)
        fan__postgres_array_bytes(&columns[METADATA], metadata.data, metadata.size);
    else
        fan__postgres_array_text(&columns[METADATA], NULL);
    fan__postgres_array_bytes(&columns[PAYLOAD], payload.data, payload.size);
}

static bool is_stored(const struct append *append, size_t index)
{
    return append->items[index].ret_status == FAN_OK &&
           (!append->existing || append->existing[index] == 0);
}

/* What the store's clock came to is kept once a second. */
static void keep_clock(struct append *append)
{
    if (fan__postgres_clock_is_due(append->store))
        fan__postgres_clock_sync(append->writer);
}

static size_t queue_mark(struct append *append, enum fan__postgres_statement statement)
{
    struct fan__postgres_params params = { 0 };
    fan__postgres_add_int(&params, fan__postgres_now_us(append->store));
    return fan__postgres_queue(append->writer, statement, &params);
}

static int64_t monotonic_us(const struct fan__postgres *store)
{
    return fan__monotonic_ns(store->env) / FAN__NS_PER_US;
}

/*
 * Once a second there is a mark of how long the log was before, and is after. When the next one is
 * due says the last one that is there, whoever set it, and however this append went; by a clock
 * that nobody sets.
 */
static bool mark_is_due(const struct append *append)
{
    return append->marks || monotonic_us(append->store) >= append->store->mark_due_us;
}

static void note_mark(struct append *append, const PGresult *result)
{
    struct fan__postgres *store = append->store;
    bool any = PQntuples(result) == 1 && !PQgetisnull(result, 0, 0);
    int64_t left_us =
        any ? fan__postgres_int(result, 0, 0) + MARK_US - fan__postgres_now_us(store) : 0;
    store->mark_due_us = monotonic_us(store) + (left_us < MARK_US ? left_us : MARK_US);
}

static void queue_notice(struct append *append)
{
    struct fan__postgres *store = append->store;
    struct fan__postgres_params params = { 0 };
    int64_t now_ns = fan__deadline_ns(0);
    append->untold = now_ns < store->noticed_ns + FAN__POSTGRES_NOTICE_MS * FAN__NS_PER_MS;
    if (append->untold)
        return;
    store->noticed_ns = now_ns;
    fan__postgres_add_text(&params, store->channel);
    fan__postgres_add_text(&params, store->name);
    (void)fan__postgres_queue(append->writer, FAN__PG_NOTIFY, &params);
}

/* Those who heard the notice before may have looked for the last time. */
static void tell_late(struct append *append)
{
    struct fan__postgres_connection *writer = append->writer;
    append->store->noticed_ns = 0;
    queue_notice(append);
    (void)fan__postgres_flush(writer, SIZE_MAX);
    if (writer->status != FAN_OK)
        append->store->noticed_ns = 0;
    /* What is stored stays stored, whatever comes of the notice. */
    if (!writer->broken)
        writer->status = FAN_OK;
}

static bool is_late(const struct append *append)
{
    int64_t until_ns = append->store->noticed_ns + FAN__POSTGRES_LATE_MS * FAN__NS_PER_MS;
    return append->untold && fan__deadline_ns(0) >= until_ns;
}

/* Series were forgotten since we looked at them: what was to be stored is not. */
static void note_swept(struct append *append)
{
    struct fan__postgres_params params = { 0 };
    fan__postgres_add_text(&params, "series_swept");
    PGresult *result = fan__postgres_run(append->writer, FAN__PG_META_GET, &params);
    if (PQntuples(result) == 1)
        append->series_swept = fan__postgres_int(result, 0, 0);
    PQclear(result);
    append->swept = true;
}

/* Sends the statement with what goes with it; the last one of a batch commits. */
static void send(struct append *append, enum fan__postgres_statement statement,
                 const struct fan__postgres_params *params, bool last)
{
    struct fan__postgres *store = append->store;
    bool first = append->head_seq == UNSEEN;
    PGresult *results[2] = { NULL };
    append->marks = mark_is_due(append);
    if (first && append->marks)
        (void)queue_mark(append, FAN__PG_MARK_HEAD);
    if (first)
        queue_notice(append);
    size_t places[2] = { fan__postgres_queue(append->writer, statement, params), SIZE_MAX };
    if (last && append->marks)
        places[1] = queue_mark(append, FAN__PG_MARK_ADD);
    if (last)
        fan__postgres_commit_all(append->writer, places, 2, results);
    else
        results[0] = fan__postgres_flush(append->writer, places[0]);
    bool found = PQntuples(results[0]) == 1;
    if (found && first)
        append->head_seq = (uint64_t)fan__postgres_int(results[0], 0, 0);
    if (results[0] && (!found || fan__postgres_int(results[0], 0, 1) != store->series_swept))
        note_swept(append);
    if (results[1])
        note_mark(append, results[1]);
    if (results[0] && last && is_late(append))
        tell_late(append);
    PQclear(results[0]);
    PQclear(results[1]);
}

/* The only one of its batch: the same without arrays, which cost more than one event does. */
static void store_one(struct append *append)
{
    const struct fan_event *event = append->items[0].event;
    struct fan_str metadata = fan_event_metadata(event);
    struct fan_str payload = fan_event_payload(event);
    struct fan__postgres_params params = { 0 };
    fan__postgres_add_text(&params, fan_event_id(event));
    fan__postgres_add_int(&params, append->series[0]);
    fan__postgres_add_int(&params, fan_event_created_us(event));
    add_positive_param(&params, fan_event_user_id(event));
    fan__postgres_add_text(&params, filled(fan_event_session_id(event)));
    add_positive_param(&params, fan_event_deliver_at_us(event));
    fan__postgres_add_text(&params, filled(fan_event_traceparent(event)));
    if (metadata.size > 0)
        fan__postgres_add_bytes(&params, metadata.data, metadata.size);
    else
        fan__postgres_add_null(&params);
    fan__postgres_add_bytes(&params, payload.data, payload.size);
    fan__postgres_add_int(&params, append->store->series_swept);
    send(append, FAN__PG_APPEND_ONE, &params, true);
}

/* Inserts those of the items from `from` on that are to be stored; gives where it stopped. */
static size_t store_some(struct append *append, size_t from)
{
    struct fan__postgres_array columns[COLUMN_COUNT];
    struct fan__postgres_params params = { 0 };
    size_t size = 0;
    size_t i = from;
    for (size_t j = 0; j < COLUMN_COUNT; j++)
        fan__postgres_array_init(&columns[j], append->store->env, types[j]);
    for (; i < append->count && (size == 0 || size < STATEMENT_SIZE_MAX); i++) {
        if (!is_stored(append, i))
            continue;
        add_event(columns, append->items[i].event, append->series[i]);
        size += fan_event_size(append->items[i].event);
    }
    for (size_t j = 0; j < COLUMN_COUNT; j++) {
        if (columns[j].buffer.failed)
            fan__postgres_fail(append->writer, FAN_NO_MEMORY);
        fan__postgres_add_array(&params, &columns[j]);
    }
    fan__postgres_add_int(&params, append->store->series_swept);
    send(append, FAN__PG_APPEND, &params, i == append->count);
    for (size_t j = 0; j < COLUMN_COUNT; j++)
        fan__postgres_array_deinit(&columns[j]);
    return i;
}

static void store_items(struct append *append)
{
    append->head_seq = UNSEEN;
    if (append->count == 1 && is_stored(append, 0)) {
        if (append->writer->status == FAN_OK)
            store_one(append);
        return;
    }
    for (size_t i = 0; i < append->count && append->writer->status == FAN_OK && !append->swept;)
        i = store_some(append, i);
}

/* Gives the items their sequences, once they are stored. */
static void number(struct append *append)
{
    uint64_t seq = append->head_seq;
    for (size_t i = 0; i < append->count; i++) {
        struct fan_append *item = &append->items[i];
        if (is_stored(append, i))
            item->ret_seq = ++seq;
    }
    for (size_t i = 0; i < append->count && append->existing; i++) {
        struct fan_append *item = &append->items[i];
        if (item->ret_status != FAN_OK || append->existing[i] == 0)
            continue;
        item->ret_duplicate = true;
        item->ret_seq = append->existing[i] & EARLIER
                            ? append->items[append->existing[i] & ~EARLIER].ret_seq
                            : append->existing[i];
    }
    fan__postgres_tail_moved(append->store, seq);
}

/* One look at the series of all items; those that are not known are made. */
static void find_series(struct append *append)
{
    bool all = true;
    for (size_t i = 0; i < append->count; i++) {
        append->series[i] = fan__postgres_series_known(append->store, append->items[i].event);
        all = all && append->series[i] != 0;
    }
    if (!all)
        fan__postgres_series_make(append->writer, append->items, append->count, append->series);
}

/* What is not certain to be in the log, or told of, is forgotten while the writer is ours. */
static enum fan_status end(struct append *append, enum fan_status status, struct fan_error *error)
{
    bool stored = status == FAN_OK && append->writer->status == FAN_OK;
    if (!stored)
        append->store->noticed_ns = 0;
    if (!stored || append->swept)
        fan__tuples_clear(append->store->tuples);
    return fan__postgres_end(append->writer, status, error);
}

/* Series that are gone are looked up anew, unless they went with the log that they were of. */
static void look_again(struct append *append)
{
    struct fan__postgres_bounds bounds;
    if (!append->doubts)
        return;
    fan__postgres_bounds(append->writer, &bounds);
    if (append->writer->status == FAN_OK)
        append->store->series_swept = append->series_swept;
}

/* Everything at once, as if no id were there. FAN_EXISTS: one was, and nothing is stored. */
static enum fan_status append_at_once(struct append *append, struct fan_error *error)
{
    enum fan_status status = fan__postgres_borrow_writer(append->store, &append->writer, error);
    if (status != FAN_OK)
        return status;
    keep_clock(append);
    look_again(append);
    find_series(append);
    store_items(append);
    return end(append, FAN_OK, error);
}

/* What the long way knows of the log. */
struct look {
    uint64_t head_seq;
    PGresult *keys;
    PGresult *leases;
    size_t *table; /* accepted items by id, as index + 1 */
    size_t mask;
};

static void find_existing(struct append *append)
{
    struct fan__postgres_array ids;
    struct fan__postgres_params params = { 0 };
    fan__postgres_array_init(&ids, append->store->env, FAN__POSTGRES_TEXT);
    for (size_t i = 0; i < append->count; i++)
        fan__postgres_array_text(&ids, fan_event_id(append->items[i].event));
    if (ids.buffer.failed)
        fan__postgres_fail(append->writer, FAN_NO_MEMORY);
    fan__postgres_add_array(&params, &ids);
    PGresult *result = fan__postgres_run(append->writer, FAN__PG_EVENTS_FIND, &params);
    for (int i = 0; i < PQntuples(result); i++)
        append->existing[fan__postgres_int(result, i, 0) - 1] =
            (uint64_t)fan__postgres_int(result, i, 1);
    PQclear(result);
    fan__postgres_array_deinit(&ids);
}

/* The last sequences of keys, or the leases, of all items: row i is for item i. */
static PGresult *find_named(struct append *append, enum fan__postgres_statement statement)
{
    struct fan__postgres_array names;
    struct fan__postgres_params params = { 0 };
    fan__postgres_array_init(&names, append->store->env, FAN__POSTGRES_TEXT);
    for (size_t i = 0; i < append->count; i++) {
        const struct fan_expectation *expectation = append->items[i].expectation;
        const char *name = NULL;
        if (expectation)
            name = statement == FAN__PG_KEYS_LAST ? expectation->key : expectation->lease;
        fan__postgres_array_text(&names, name);
    }
    if (names.buffer.failed)
        fan__postgres_fail(append->writer, FAN_NO_MEMORY);
    fan__postgres_add_array(&params, &names);
    PGresult *result = fan__postgres_run(append->writer, statement, &params);
    if (result && (size_t)PQntuples(result) != append->count)
        fan__postgres_fail(append->writer, FAN_CORRUPT);
    fan__postgres_array_deinit(&names);
    return result;
}

/* The place of an id among the accepted items: its own, or a free one. */
static size_t *place_of(const struct append *append, const struct look *look, const char *id)
{
    for (size_t at = fan__hash(0, id, strlen(id)) & look->mask;; at = (at + 1) & look->mask) {
        size_t *place = &look->table[at];
        if (*place == 0 || strcmp(fan_event_id(append->items[*place - 1].event), id) == 0)
            return place;
    }
}

static bool is_there(const struct append *append, const struct look *look, size_t index)
{
    return append->existing[index] != 0 ||
           *place_of(append, look, fan_event_id(append->items[index].event)) != 0;
}

/* Whether the last event of the topic is the expected one, those of earlier units included. */
static bool key_is(const struct append *append, const struct look *look, size_t index)
{
    const struct fan_expectation *expectation = append->items[index].expectation;
    uint64_t last_seq = (uint64_t)fan__postgres_int(look->keys, (int)index, 0);
    for (size_t i = 0; i < index; i++) {
        const struct fan_append *item = &append->items[i];
        if (is_stored(append, i) && strcmp(fan_event_topic(item->event), expectation->key) == 0)
            last_seq = item->ret_seq;
    }
    return last_seq == expectation->last_seq;
}

static bool holds(const struct append *append, const struct look *look, size_t index)
{
    const struct fan_expectation *expectation = append->items[index].expectation;
    if (expectation->key && !key_is(append, look, index))
        return false;
    return !expectation->lease ||
           ((uint64_t)fan__postgres_int(look->leases, (int)index, 0) == expectation->fence &&
            fan__postgres_int(look->leases, (int)index, 1) > fan__postgres_now_us(append->store));
}

/* Decides on one unit; what is accepted gets its sequence, which the insert will give it. */
static void decide(struct append *append, struct look *look, size_t from, size_t until)
{
    const struct fan_expectation *expectation = append->items[from].expectation;
    enum fan_status status = FAN_OK;
    bool there = true;
    for (size_t i = from; i < until; i++) {
        there = there && is_there(append, look, i);
        if (fan_event_size(append->items[i].event) > EVENT_SIZE_MAX)
            status = FAN_INVALID;
    }
    bool checks = expectation && (expectation->key || expectation->lease) && !there;
    if (status == FAN_OK && checks && !holds(append, look, from))
        status = FAN_CONFLICT;
    for (size_t i = from; i < until; i++) {
        struct fan_append *item = &append->items[i];
        item->ret_status = status;
        size_t *place = place_of(append, look, fan_event_id(item->event));
        if (status != FAN_OK || append->existing[i] != 0)
            continue;
        if (*place != 0) {
            append->existing[i] = EARLIER | (*place - 1);
            continue;
        }
        item->ret_seq = ++look->head_seq;
        *place = i + 1;
    }
}

static void decide_all(struct append *append, struct look *look)
{
    struct fan__postgres_bounds bounds;
    bool keys = false;
    bool leases = false;
    for (size_t i = 0; i < append->count; i++) {
        const struct fan_expectation *expectation = append->items[i].expectation;
        keys = keys || (expectation && expectation->key);
        leases = leases || (expectation && expectation->lease);
    }
    fan__postgres_bounds(append->writer, &bounds);
    look->head_seq = bounds.head_seq;
    find_existing(append);
    if (keys)
        look->keys = find_named(append, FAN__PG_KEYS_LAST);
    if (leases)
        look->leases = find_named(append, FAN__PG_LEASES_FIND);
    for (size_t i = 0; append->writer->status == FAN_OK && i < append->count;) {
        size_t end = i + 1;
        while (end < append->count && append->items[end].joined)
            end++;
        decide(append, look, i, end);
        i = end;
    }
    PQclear(look->keys);
    PQclear(look->leases);
}

/* Looks first, and stores what is left. */
static enum fan_status append_with_care(struct append *append, struct fan_error *error)
{
    const struct fan_env *env = append->store->env;
    struct look look = { .mask = 15 };
    while (look.mask < append->count * 2)
        look.mask = look.mask * 2 + 1;
    fan__free(env, append->existing);
    append->existing = fan__alloc_zero(env, append->count, sizeof(*append->existing));
    look.table = fan__alloc_zero(env, look.mask + 1, sizeof(*look.table));
    enum fan_status status = FAN_NO_MEMORY;
    if (append->existing && look.table)
        status = fan__postgres_borrow_writer(append->store, &append->writer, error);
    if (status == FAN_OK) {
        fan__postgres_clock_sync(append->writer);
        look_again(append);
        decide_all(append, &look);
        find_series(append);
        store_items(append);
        status = end(append, FAN_OK, error);
    }
    fan__free(env, look.table);
    return status;
}

static bool needs_care(const struct append *append)
{
    for (size_t i = 0; i < append->count; i++) {
        const struct fan_append *item = &append->items[i];
        if ((item->expectation && (item->expectation->key || item->expectation->lease)) ||
            fan_event_size(item->event) > EVENT_SIZE_MAX)
            return true;
    }
    return false;
}

static enum fan_status append_items(struct append *append, struct fan_error *error)
{
    enum fan_status status = FAN_EXISTS;
    bool care = needs_care(append);
    /* Series that another process forgot meanwhile are looked up again, once. */
    for (int i = 0; i < SWEPT_TRY_COUNT; i++) {
        append->doubts = append->swept;
        append->swept = false;
        status = care ? FAN_EXISTS : append_at_once(append, error);
        if (status == FAN_EXISTS)
            status = append_with_care(append, error);
        if (status != FAN_OK || !append->swept)
            break;
    }
    if (status == FAN_OK && append->swept)
        status = fan__fail(error, FAN_UNAVAILABLE, NULL, "series are being forgotten");
    return status;
}

enum fan_status fan__postgres_append(void *self, struct fan_append *items, size_t count,
                                     struct fan_error *error)
{
    struct fan__postgres *store = self;
    struct append append = { .store = store, .items = items, .count = count };
    for (size_t i = 0; i < count; i++)
        items[i].ret_status = FAN_OK;
    append.series = fan__alloc_zero(store->env, count, sizeof(*append.series));
    enum fan_status status = append.series ? append_items(&append, error) : FAN_NO_MEMORY;
    if (status == FAN_OK)
        number(&append);
    fan__free(store->env, append.existing);
    fan__free(store->env, append.series);
    return status;
}
