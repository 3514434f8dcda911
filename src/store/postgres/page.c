/*
 * The next page of a walk.
 *
 *     nothing to filter     the primary key
 *     few series            each series' own end of (series, seq), merged
 *     a user                (user_id, seq)
 *     many series, a time   the primary key for a window of the log, which is what a filter that
 *                           leaves most in needs; where the window gave too little, the index for
 *                           the whole of the rest
 *     not settled           the index over those rows, some thousands of events at a time
 *
 * Every statement checks all of the filter but the pattern and the texts, which the set of series
 * stands for.
 */
#include "store/postgres/page.h"

#include "base/env.h"

#define SERIES_COUNT_FEW 64
#define WINDOW_COUNT 16384
#define OPEN_COUNT 4096

void fan__postgres_walk_init(struct fan__postgres_walk *walk,
                             struct fan__postgres_connection *connection,
                             const struct fan_query *query, uint64_t after_seq, uint64_t last_seq)
{
    *walk = (struct fan__postgres_walk){
        .connection = connection,
        .query = query,
        .after_seq = after_seq,
        .last_seq = last_seq,
        .down = query->newest_first,
        .size_max = FAN__POSTGRES_BATCH_SIZE_MAX,
    };
    fan__postgres_set_of(connection, query, &walk->set);
}

/* Binds $1 to $4, which every page has. */
static void add_range(struct fan__postgres_params *params, uint64_t after_seq, uint64_t last_seq,
                      size_t limit, size_t size_max)
{
    fan__postgres_add_int(params, (int64_t)after_seq);
    fan__postgres_add_int(params, (int64_t)last_seq);
    fan__postgres_add_int(params, (int64_t)limit);
    fan__postgres_add_int(params, (int64_t)size_max);
}

/* Binds $1 to $9 as sql.h says. */
static PGresult *find(const struct fan__postgres_walk *walk, enum fan__postgres_statement up,
                      uint64_t after_seq, uint64_t last_seq, size_t limit)
{
    const struct fan_query *query = walk->query;
    struct fan__postgres_connection *connection = walk->connection;
    struct fan__postgres_params params = { 0 };
    struct fan__postgres_array ids;
    fan__postgres_array_init(&ids, connection->store->env, FAN__POSTGRES_INT8);
    for (size_t i = 0; i < walk->set.count; i++)
        fan__postgres_array_int(&ids, walk->set.ids[i]);
    if (ids.buffer.failed)
        fan__postgres_fail(connection, FAN_NO_MEMORY);
    add_range(&params, after_seq, last_seq, limit, walk->size_max);
    if (up != FAN__PG_PAGE_ALL) {
        if (walk->set.all)
            fan__postgres_add_null(&params);
        else
            fan__postgres_add_array(&params, &ids);
        fan__postgres_add_int(&params, query->user_id);
        fan__postgres_add_int(&params, query->from_us != 0 ? query->from_us : INT64_MIN);
        fan__postgres_add_int(&params, query->until_us != 0 ? query->until_us : INT64_MAX);
    }
    if (up == FAN__PG_PAGE_OPEN)
        fan__postgres_add_int(&params, query->status);
    /* The one for the way down stands behind each. */
    PGresult *result = fan__postgres_run(
        connection, (enum fan__postgres_statement)((int)up + walk->down), &params);
    fan__postgres_array_deinit(&ids);
    return result;
}

/* The walk goes on behind what a page looked at: up to its last event, or all of its range. */
static void pass(struct fan__postgres_walk *walk, const PGresult *result, bool whole,
                 uint64_t window_seq)
{
    int count = PQntuples(result);
    uint64_t seq = count > 0 ? (uint64_t)fan__postgres_int(result, count - 1, 0) : 0;
    if (walk->down)
        walk->last_seq = whole ? window_seq : seq - 1;
    else
        walk->after_seq = whole ? window_seq : seq;
}

/* Whether a page is all that its range had: it was neither cut by the count nor by the size. */
static bool is_whole(const struct fan__postgres_walk *walk, const PGresult *result, size_t limit)
{
    uint64_t size = 0;
    int count = PQntuples(result);
    if ((size_t)count >= limit)
        return false;
    for (int i = 0; i < count; i++)
        size += fan__postgres_bytes(result, i, 8).size + fan__postgres_bytes(result, i, 9).size;
    return size < walk->size_max;
}

static enum fan__postgres_statement statement_of(const struct fan__postgres_walk *walk,
                                                 bool *ret_window)
{
    const struct fan_query *query = walk->query;
    bool timed = query->from_us != 0 || query->until_us != 0;
    *ret_window = false;
    if (!walk->set.all && walk->set.count <= SERIES_COUNT_FEW)
        return FAN__PG_PAGE_SERIES;
    if (query->user_id != 0)
        return FAN__PG_PAGE_USER;
    if (walk->set.all && !timed)
        return FAN__PG_PAGE_ALL;
    *ret_window = true;
    return walk->set.all ? FAN__PG_PAGE_TIME : FAN__PG_PAGE_SERIES;
}

bool fan__postgres_walk_is_plain(const struct fan__postgres_walk *walk)
{
    bool window = false;
    return !walk->down && statement_of(walk, &window) == FAN__PG_PAGE_ALL;
}

size_t fan__postgres_walk_queue(const struct fan__postgres_walk *walk, size_t limit)
{
    struct fan__postgres_params params = { 0 };
    add_range(&params, walk->after_seq, walk->last_seq, limit, walk->size_max);
    return fan__postgres_queue(walk->connection, FAN__PG_PAGE_ALL, &params);
}

void fan__postgres_walk_take(struct fan__postgres_walk *walk, const PGresult *page, size_t limit,
                             uint64_t head_seq)
{
    pass(walk, page, is_whole(walk, page, limit), head_seq);
}

/* The part of the rest that lies next. */
static uint64_t window_of(const struct fan__postgres_walk *walk)
{
    bool all = walk->last_seq - walk->after_seq <= WINDOW_COUNT;
    if (walk->down)
        return all ? walk->after_seq : walk->last_seq - WINDOW_COUNT;
    return all ? walk->last_seq : walk->after_seq + WINDOW_COUNT;
}

/* The same of what is not settled, by its events. */
static uint64_t open_window_of(const struct fan__postgres_walk *walk)
{
    struct fan__postgres_params params = { 0 };
    fan__postgres_add_int(&params, (int64_t)walk->after_seq);
    fan__postgres_add_int(&params, (int64_t)walk->last_seq);
    fan__postgres_add_int(&params, OPEN_COUNT);
    PGresult *result = fan__postgres_run(
        walk->connection, walk->down ? FAN__PG_OPEN_WINDOW_DOWN : FAN__PG_OPEN_WINDOW, &params);
    uint64_t window_seq = walk->down ? walk->after_seq : walk->last_seq;
    if (PQntuples(result) == 1)
        window_seq = (uint64_t)fan__postgres_int(result, 0, 0) - walk->down;
    PQclear(result);
    return window_seq;
}

/* What a window has, looked at from where the walk stands; up to `limit` of it. */
static PGresult *next_open(struct fan__postgres_walk *walk, size_t limit)
{
    uint64_t window_seq = open_window_of(walk);
    PGresult *result = find(walk, FAN__PG_PAGE_OPEN, walk->down ? window_seq : walk->after_seq,
                            walk->down ? walk->last_seq : window_seq, limit);
    if (result)
        pass(walk, result, is_whole(walk, result, limit), window_seq);
    return result;
}

PGresult *fan__postgres_walk_next(struct fan__postgres_walk *walk, size_t limit)
{
    if (walk->after_seq >= walk->last_seq || walk->connection->status != FAN_OK ||
        (!walk->set.all && walk->set.count == 0)) {
        walk->after_seq = walk->last_seq;
        return NULL;
    }
    if (walk->open)
        return next_open(walk, limit);
    bool window = false;
    enum fan__postgres_statement statement = statement_of(walk, &window);
    uint64_t end_seq = walk->down ? walk->after_seq : walk->last_seq;
    if (window) {
        uint64_t window_seq = window_of(walk);
        PGresult *result =
            find(walk, FAN__PG_PAGE_WINDOW, walk->down ? window_seq : walk->after_seq,
                 walk->down ? walk->last_seq : window_seq, limit);
        bool whole = result && is_whole(walk, result, limit);
        if (result)
            pass(walk, result, whole, window_seq);
        if (!whole || PQntuples(result) > 0 || window_seq == end_seq)
            return result;
        PQclear(result);
    }
    PGresult *result = find(walk, statement, walk->after_seq, walk->last_seq, limit);
    if (result)
        pass(walk, result, is_whole(walk, result, limit), end_seq);
    return result;
}
