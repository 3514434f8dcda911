/*
 * The store's clock: when leases end, delays are over and deliver_at has come. It is the same in
 * all processes that share the log, and whoever sets a wall clock does not move it, the server's
 * included.
 *
 *     now = the server's wall clock + offset          (the log's row, for all)
 *         = env's monotonic clock + our own offset    (each process between two looks at the row)
 *
 * A process looks at the row in each transaction that writes. Small differences are the drift of
 * two clocks, and it follows the row. A large one means that the server's wall clock was set: a
 * monotonic clock knows how much time has passed, so the process puts the row right, once (the
 * generation tells whether another was first). Where nobody looked on meanwhile, the clock goes on
 * from high_us at the least: a leap ahead is not told from a rest then.
 */
#include "store/postgres/store.h"

#include "base/env.h"

#include <stdlib.h>

#define KEEP_US FAN__US_PER_S
#define DRIFT_US 5000
#define JUMP_US FAN__US_PER_S

static int64_t monotonic_us(const struct fan__postgres *store)
{
    return fan__monotonic_ns(store->env) / FAN__NS_PER_US;
}

int64_t fan__postgres_now_us(struct fan__postgres *store)
{
    fan__mutex_lock(&store->clock_mutex);
    int64_t offset_us = store->clock.offset_us;
    fan__mutex_unlock(&store->clock_mutex);
    return offset_us + monotonic_us(store);
}

/* The row, and between which times of ours it was read. */
struct look {
    int64_t generation;
    int64_t offset_us;
    int64_t high_us;
    int64_t server_us;
    int64_t begun_us;
    int64_t ended_us;
};

static bool look_at(struct fan__postgres_connection *connection, struct look *ret_look)
{
    struct look look = { .begun_us = monotonic_us(connection->store) };
    PGresult *result = fan__postgres_run(connection, FAN__PG_CLOCK_GET, NULL);
    look.ended_us = monotonic_us(connection->store);
    bool found = result && PQntuples(result) == 1;
    if (found) {
        look.generation = fan__postgres_int(result, 0, 0);
        look.offset_us = fan__postgres_int(result, 0, 1);
        look.high_us = fan__postgres_int(result, 0, 2);
        look.server_us = fan__postgres_int(result, 0, 3);
        fan__postgres_check_epoch(connection, fan__postgres_int(result, 0, 4));
        *ret_look = look;
    } else if (result) {
        fan__postgres_fail(connection, FAN_CORRUPT);
    }
    PQclear(result);
    return connection->status == FAN_OK && found;
}

/* How far the row's clock is from ours: 0 when it may be the same. */
static int64_t distance_us(const struct fan__postgres_clock *clock, const struct look *look)
{
    int64_t theirs_us = look->server_us + look->offset_us;
    if (theirs_us < clock->offset_us + look->begun_us)
        return theirs_us - (clock->offset_us + look->begun_us);
    if (theirs_us > clock->offset_us + look->ended_us)
        return theirs_us - (clock->offset_us + look->ended_us);
    return 0;
}

/* Writes the row anew, unless another process did so since. */
static void put_right(struct fan__postgres_connection *connection,
                      struct fan__postgres_clock *clock, const struct look *look, int64_t now_us)
{
    struct fan__postgres_params params = { 0 };
    int64_t passed_us = monotonic_us(connection->store) - look->ended_us;
    fan__postgres_add_int(&params, look->generation);
    fan__postgres_add_int(&params, now_us - look->server_us);
    fan__postgres_add_int(&params, now_us + passed_us);
    clock->put_us = now_us - look->server_us;
    clock->put_generation = look->generation + 1;
    (void)fan__postgres_queue(connection, FAN__PG_CLOCK_SET, &params);
}

/* The first look: the log's clock, but never behind what the log has seen. */
static void begin(struct fan__postgres_connection *connection, struct fan__postgres_clock *clock,
                  const struct look *look)
{
    int64_t now_us = look->server_us + look->offset_us;
    if (now_us < look->high_us) {
        now_us = look->high_us + KEEP_US;
        put_right(connection, clock, look, now_us);
    }
    clock->begun = true;
    clock->generation = look->generation;
    clock->offset_us = now_us - look->ended_us;
    clock->kept_us = look->high_us;
}

/* Whether nobody else wrote the row since we looked at it: what we write may not be committed. */
static bool is_ours(const struct fan__postgres_clock *clock, const struct look *look)
{
    bool by_us = look->generation == clock->put_generation && look->offset_us == clock->put_us;
    return look->generation <= clock->generation || by_us;
}

static void follow(struct fan__postgres_connection *connection, struct fan__postgres_clock *clock,
                   const struct look *look)
{
    int64_t apart_us = distance_us(clock, look);
    if (is_ours(clock, look) && llabs(apart_us) > JUMP_US) {
        put_right(connection, clock, look, clock->offset_us + look->ended_us);
    } else if (llabs(apart_us) > DRIFT_US) {
        clock->offset_us += apart_us;
    }
    clock->generation = look->generation;
    clock->kept_us = look->high_us;
}

/* Tells the log how far its clock came, once a second. */
static void keep(struct fan__postgres_connection *connection, struct fan__postgres_clock *clock)
{
    int64_t now_us = clock->offset_us + monotonic_us(connection->store);
    if (now_us < clock->kept_us + KEEP_US)
        return;
    struct fan__postgres_params params = { 0 };
    fan__postgres_add_int(&params, now_us);
    (void)fan__postgres_queue(connection, FAN__PG_CLOCK_HIGH, &params);
}

void fan__postgres_clock_sync(struct fan__postgres_connection *connection)
{
    struct fan__postgres *store = connection->store;
    struct look look;
    if (!look_at(connection, &look))
        return;
    fan__mutex_lock(&store->clock_mutex);
    if (store->clock.begun)
        follow(connection, &store->clock, &look);
    else
        begin(connection, &store->clock, &look);
    keep(connection, &store->clock);
    fan__mutex_unlock(&store->clock_mutex);
}

bool fan__postgres_clock_is_due(struct fan__postgres *store)
{
    fan__mutex_lock(&store->clock_mutex);
    int64_t now_us = store->clock.offset_us + monotonic_us(store);
    bool due = now_us >= store->clock.kept_us + KEEP_US;
    fan__mutex_unlock(&store->clock_mutex);
    return due;
}

void fan__postgres_clock_leave(struct fan__postgres *store)
{
    struct fan__postgres_connection *connection = NULL;
    if (store->epoch == 0 || !fan__postgres_clock_is_due(store) ||
        fan__postgres_borrow(store, FAN__POSTGRES_WRITE, &connection, NULL) != FAN_OK)
        return;
    fan__postgres_clock_sync(connection);
    (void)fan__postgres_end(connection, FAN_OK, NULL);
}

/* What was timed by the old clock and is not over yet ends as much later as it would have. */
static void move_times(struct fan__postgres_connection *connection, int64_t from_us, int64_t to_us)
{
    static const enum fan__postgres_statement statements[] = {
        FAN__PG_CLOCK_MOVE_DELIVERIES, FAN__PG_CLOCK_MOVE_DEAD,  FAN__PG_CLOCK_MOVE_LEASES,
        FAN__PG_CLOCK_MOVE_GROUPS,     FAN__PG_CLOCK_MOVE_MARKS, FAN__PG_CLOCK_MOVE,
    };
    struct fan__postgres_params params = { 0 };
    fan__postgres_add_int(&params, from_us);
    fan__postgres_add_int(&params, to_us);
    for (size_t i = 0; i < sizeof(statements) / sizeof(*statements); i++)
        (void)fan__postgres_queue(connection, statements[i], &params);
}

/*
 * Under the log's lock: two who accept at once move nothing twice, and no append sets a mark of the
 * old time among those that moved.
 */
enum fan_status fan__postgres_clock_accept(struct fan__postgres *store, struct fan_error *error)
{
    struct fan__postgres_connection *connection = NULL;
    enum fan_status status = fan__postgres_borrow_writer(store, &connection, error);
    if (status != FAN_OK)
        return status;
    fan__postgres_clock_sync(connection);
    move_times(connection, fan__postgres_now_us(store), fan__wall_us(store->env));
    status = fan__postgres_end(connection, FAN_OK, error);
    if (status != FAN_OK)
        return status;
    /* Like every other process, this one takes the clock as it is in the log now. */
    status = fan__postgres_borrow(store, FAN__POSTGRES_WRITE, &connection, error);
    if (status != FAN_OK)
        return status;
    fan__postgres_clock_sync(connection);
    return fan__postgres_end(connection, FAN_OK, error);
}
