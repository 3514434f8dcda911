/*
 * Claiming, in one transaction: half of it what is due already, half the log from the group's
 * cursor, a piece at a time, and where one of the two ends the other goes on. The group's row is
 * held meanwhile, so that claims of a group go one after the other; neither appends nor, in a group
 * without order, settling waits for them. What is seen of the log is a piece without a hole, since
 * sequences become visible in their order: no event is passed over that commits late.
 *
 * An ordered claim gives the oldest unsettled delivery of a key, and only in partitions that no
 * other owner holds, that is, has a live claim in. An event that may not be given yet gets a row
 * too, so that the cursor can go on: parked when an older one of its key is unsettled (settle.c
 * brings it forward), else merely pending.
 */
#include "store/postgres/group.h"
#include "store/postgres/series.h"

#include "base/env.h"

#include <fanfare/batch.h>

#include <string.h>

/* How much of the log one piece, and one transaction, looks at. */
#define PIECE_COUNT_MIN 64
#define PIECE_COUNT_MAX 8192
#define SCAN_COUNT_MAX 65536

/*
 * How many rows one claim may add for others in a transaction. With something to give it goes after
 * a few times its limit; with nothing it looks on, from one transaction to the next.
 */
#define PASSED_COUNT_MAX 4096

struct claiming {
    struct fan__postgres *store;
    struct fan__postgres_connection *connection;
    const struct fan_claim_options *options;
    struct fan__postgres_found group;
    struct fan_claim *claims;
    size_t count;
    size_t bytes;
    size_t count_max; /* of the part that is under way */
    size_t bytes_max;
    int64_t now_us;
    int64_t until_us;
    size_t passed;
    size_t scanned;
    struct fan__postgres_doubt doubts[FAN__POSTGRES_DOUBT_MAX];
    size_t doubt_count;
    bool end;                              /* the cursor has come to the end of the log */
    bool held[FAN_GROUP_PARTITION_COUNT];  /* by another owner */
    struct fan__postgres_array given_seqs; /* of all claims, in their order */
};

/* Rows that a piece of the log gives the group. */
struct additions {
    struct fan__postgres_array seqs;
    struct fan__postgres_array dues; /* 0 for those that are given at once */
    struct fan__postgres_array keys;
    struct fan__postgres_array parked;
};

static bool is_full(const struct claiming *claiming)
{
    return claiming->count >= claiming->count_max || claiming->bytes >= claiming->bytes_max ||
           claiming->connection->status != FAN_OK;
}

static void note_claim(struct claiming *claiming, uint64_t seq, unsigned attempt, unsigned lapses)
{
    claiming->claims[claiming->count++] = (struct fan_claim){
        .seq = seq, .token = claiming->group.token, .attempt = attempt, .lapses = lapses
    };
    fan__postgres_array_int(&claiming->given_seqs, (int64_t)seq);
}

/* Each ordered claim begins elsewhere: what is retried all the time in some holds up no others. */
static unsigned first_part(const struct claiming *claiming)
{
    return (unsigned)((claiming->group.token * UINT64_C(0x9e3779b97f4a7c15)) >> 58);
}

/* Of what is due already, until the claim has so much. Gives whether there may be more of it. */
static bool take_dues(struct claiming *claiming, size_t count_max, size_t bytes_max)
{
    struct fan__postgres_params params = { .count = 0 };
    claiming->count_max = count_max;
    claiming->bytes_max = bytes_max;
    if (is_full(claiming))
        return true;
    fan__postgres_add_int(&params, claiming->group.id);
    fan__postgres_add_int(&params, claiming->now_us);
    fan__postgres_add_int(&params, (int64_t)(count_max - claiming->count));
    fan__postgres_add_int(&params, (int64_t)(bytes_max - claiming->bytes));
    fan__postgres_add_int(&params, (int64_t)claiming->group.token);
    fan__postgres_add_text(&params, claiming->options->owner);
    fan__postgres_add_int(&params, claiming->until_us);
    fan__postgres_add_int(
        &params, claiming->options->lapses_below > 0 ? claiming->options->lapses_below : INT32_MAX);
    if (claiming->options->ordered)
        fan__postgres_add_int(&params, first_part(claiming));
    PGresult *result =
        fan__postgres_run(claiming->connection,
                          claiming->options->ordered ? FAN__PG_DUE_IN_ORDER : FAN__PG_DUE, &params);
    for (int row = 0; row < PQntuples(result); row++) {
        note_claim(claiming, (uint64_t)fan__postgres_int(result, row, 0),
                   (unsigned)fan__postgres_int(result, row, 1),
                   (unsigned)fan__postgres_int(result, row, 2));
        claiming->bytes += (size_t)fan__postgres_int(result, row, 3);
    }
    PQclear(result);
    return is_full(claiming);
}

static void load_held(struct claiming *claiming)
{
    struct fan__postgres_params params = { .count = 0 };
    fan__postgres_add_int(&params, claiming->group.id);
    fan__postgres_add_int(&params, claiming->now_us);
    fan__postgres_add_text(&params, claiming->options->owner);
    PGresult *result = fan__postgres_run(claiming->connection, FAN__PG_HELD, &params);
    memset(claiming->held, 0, sizeof(claiming->held));
    for (int row = 0; row < PQntuples(result); row++)
        claiming->held[(unsigned)fan__postgres_int(result, row, 0) % FAN_GROUP_PARTITION_COUNT] =
            true;
    PQclear(result);
}

static bool has_passed_enough(const struct claiming *claiming)
{
    return claiming->passed >= PASSED_COUNT_MAX || claiming->scanned >= SCAN_COUNT_MAX ||
           (claiming->count > 0 && claiming->passed / 4 >= claiming->options->limit + 16);
}

/* Decides on one event that the group wants and has no row of (the columns of SCAN). */
static void look_at(struct claiming *claiming, const PGresult *piece, int row,
                    struct additions *additions)
{
    bool ordered = claiming->options->ordered;
    int64_t seq = fan__postgres_int(piece, row, 0);
    int64_t deliver_at_us = fan__postgres_int(piece, row, 1);
    int64_t key = ordered ? fan__postgres_int(piece, row, 5) : 0;
    bool parked = ordered && fan__postgres_int(piece, row, 6) != 0;
    bool give = !parked && deliver_at_us <= claiming->now_us &&
                !(ordered && claiming->held[(unsigned)key % FAN_GROUP_PARTITION_COUNT]);
    int64_t due_us = deliver_at_us > claiming->now_us ? deliver_at_us : claiming->now_us;
    fan__postgres_array_int(&additions->seqs, seq);
    fan__postgres_array_int(&additions->dues, give ? 0 : due_us);
    fan__postgres_array_int(&additions->keys, key);
    fan__postgres_array_int(&additions->parked, parked);
    if (give) {
        note_claim(claiming, (uint64_t)seq, 1, 0);
        claiming->bytes += (size_t)fan__postgres_int(piece, row, 2);
    } else {
        claiming->passed++;
    }
}

static void add_rows(struct claiming *claiming, struct additions *additions)
{
    struct fan__postgres_params params = { .count = 0 };
    if (additions->seqs.count == 0)
        return;
    fan__postgres_add_int(&params, claiming->group.id);
    fan__postgres_add_int(&params, (int64_t)claiming->group.token);
    fan__postgres_add_text(&params, claiming->options->owner);
    fan__postgres_add_int(&params, claiming->now_us);
    fan__postgres_add_int(&params, claiming->until_us);
    fan__postgres_add_int(&params, claiming->options->ordered);
    fan__postgres_add_array(&params, &additions->seqs);
    fan__postgres_add_array(&params, &additions->dues);
    fan__postgres_add_array(&params, &additions->keys);
    fan__postgres_add_array(&params, &additions->parked);
    fan__postgres_queue(claiming->connection, FAN__PG_DELIVERY_ADD, &params);
}

/* Goes over one piece of the log, event by event, until the claim is full. */
static void take_piece(struct claiming *claiming, const PGresult *piece, size_t limit)
{
    const struct fan_env *env = claiming->store->env;
    struct additions additions;
    fan__postgres_array_init(&additions.seqs, env, FAN__POSTGRES_INT8);
    fan__postgres_array_init(&additions.dues, env, FAN__POSTGRES_INT8);
    fan__postgres_array_init(&additions.keys, env, FAN__POSTGRES_INT8);
    fan__postgres_array_init(&additions.parked, env, FAN__POSTGRES_INT8);
    int count = PQntuples(piece);
    int row = 0;
    for (; row < count && !is_full(claiming) && !has_passed_enough(claiming); row++) {
        claiming->group.cursor_seq = (uint64_t)fan__postgres_int(piece, row, 0);
        if (fan__postgres_int(piece, row, 3) != 0)
            look_at(claiming, piece, row, &additions);
    }
    claiming->end = row == count && (count == 0 || (size_t)fan__postgres_int(piece, 0, 4) < limit);
    if (additions.seqs.buffer.failed || additions.dues.buffer.failed ||
        additions.keys.buffer.failed || additions.parked.buffer.failed)
        fan__postgres_fail(claiming->connection, FAN_NO_MEMORY);
    add_rows(claiming, &additions);
    fan__postgres_array_deinit(&additions.seqs);
    fan__postgres_array_deinit(&additions.dues);
    fan__postgres_array_deinit(&additions.keys);
    fan__postgres_array_deinit(&additions.parked);
}

/* Goes on from the cursor: in pieces that grow where nobody wants what is there. */
static void take_news(struct claiming *claiming)
{
    size_t piece_count = 2 * claiming->options->limit;
    if (piece_count < PIECE_COUNT_MIN)
        piece_count = PIECE_COUNT_MIN;
    while (!claiming->end && !is_full(claiming) && !has_passed_enough(claiming)) {
        if (piece_count > PIECE_COUNT_MAX)
            piece_count = PIECE_COUNT_MAX;
        struct fan__postgres_params params = { .count = 0 };
        fan__postgres_add_int(&params, claiming->group.id);
        fan__postgres_add_int(&params, (int64_t)claiming->group.cursor_seq);
        fan__postgres_add_text(&params, claiming->group.regex);
        fan__postgres_add_text(&params, claiming->group.topic);
        fan__postgres_add_int(&params, (int64_t)piece_count);
        PGresult *piece = fan__postgres_run(
            claiming->connection, claiming->options->ordered ? FAN__PG_SCAN_KEYS : FAN__PG_SCAN,
            &params);
        take_piece(claiming, piece, piece_count);
        claiming->scanned += piece_count;
        piece_count *= 4;
        PQclear(piece);
    }
}

/* Adds the events that are given to the batch, in the order of their claims. */
static void fetch(struct claiming *claiming, struct fan_batch *batch)
{
    if (claiming->count == 0)
        return;
    if (claiming->given_seqs.buffer.failed)
        fan__postgres_fail(claiming->connection, FAN_NO_MEMORY);
    struct fan__postgres_params params = { .count = 0 };
    fan__postgres_add_array(&params, &claiming->given_seqs);
    PGresult *result = fan__postgres_run(claiming->connection, FAN__PG_EVENTS_OF, &params);
    int count = PQntuples(result);
    fan__postgres_rows_load(claiming->connection, result);
    for (int row = 0; row < count; row++)
        fan__postgres_row_add(claiming->connection, result, row, batch);
    /* Nobody deletes an event while the group's row is held. */
    if (result && (size_t)count != claiming->count)
        fan__postgres_fail(claiming->connection, FAN_CORRUPT);
    PQclear(result);
}

/*
 * A claim is not worth a sync: what a crash of the server takes back is due again, as if its holder
 * had died. So that a token does not come again, it follows the store's clock, which never begins
 * behind where it was.
 */
static uint64_t next_token(const struct fan__postgres_found *group, int64_t now_us)
{
    return now_us > 0 && (uint64_t)now_us > group->token ? (uint64_t)now_us : group->token + 1;
}

static void advance(struct claiming *claiming, bool due_first)
{
    struct fan__postgres_params params = { .count = 0 };
    fan__postgres_add_int(&params, claiming->group.id);
    fan__postgres_add_int(&params, (int64_t)claiming->group.cursor_seq);
    fan__postgres_add_int(&params, (int64_t)claiming->group.token);
    fan__postgres_add_int(&params, claiming->options->ordered);
    fan__postgres_add_int(&params, claiming->now_us);
    fan__postgres_add_int(&params, due_first);
    fan__postgres_queue(claiming->connection, FAN__PG_GROUP_ADVANCE, &params);
}

/* Every part of the claim, each for as much as is its; the odd one is in turn of either. */
static bool take_all(struct claiming *claiming)
{
    size_t limit = claiming->options->limit;
    bool more = take_dues(claiming, (limit + !claiming->group.due_first) / 2,
                          FAN__POSTGRES_BATCH_SIZE_MAX / 2);
    bool due_first = claiming->count > 0;
    claiming->count_max = limit;
    claiming->bytes_max = FAN__POSTGRES_BATCH_SIZE_MAX;
    take_news(claiming);
    if (more)
        (void)take_dues(claiming, limit, FAN__POSTGRES_BATCH_SIZE_MAX);
    return due_first;
}

/* ---- Claims whose answer was lost ---- */

static void doubt(struct claiming *claiming)
{
    struct fan__postgres *store = claiming->store;
    fan__mutex_lock(&store->doubt_mutex);
    store->doubts[store->doubt_count++ % FAN__POSTGRES_DOUBT_MAX] =
        (struct fan__postgres_doubt){ claiming->group.id, claiming->group.token,
                                      claiming->until_us };
    fan__mutex_unlock(&store->doubt_mutex);
}

/* Copies the doubts of a group; gives how many there are. */
static size_t doubts_of(struct fan__postgres *store, int64_t group_id,
                        struct fan__postgres_doubt doubts[FAN__POSTGRES_DOUBT_MAX])
{
    size_t count = 0;
    fan__mutex_lock(&store->doubt_mutex);
    for (size_t i = 0; i < FAN__POSTGRES_DOUBT_MAX; i++) {
        if (store->doubts[i].token != 0 && store->doubts[i].group_id == group_id)
            doubts[count++] = store->doubts[i];
    }
    fan__mutex_unlock(&store->doubt_mutex);
    return count;
}

static void forget_doubts(struct claiming *claiming)
{
    struct fan__postgres *store = claiming->store;
    fan__mutex_lock(&store->doubt_mutex);
    for (size_t i = 0; i < claiming->doubt_count; i++) {
        for (size_t j = 0; j < FAN__POSTGRES_DOUBT_MAX; j++) {
            if (store->doubts[j].token == claiming->doubts[i].token &&
                store->doubts[j].group_id == claiming->doubts[i].group_id)
                store->doubts[j] = (struct fan__postgres_doubt){ 0 };
        }
    }
    fan__mutex_unlock(&store->doubt_mutex);
    claiming->doubt_count = 0;
}

static void give_doubts_back(struct claiming *claiming)
{
    claiming->doubt_count = doubts_of(claiming->store, claiming->group.id, claiming->doubts);
    for (size_t i = 0; i < claiming->doubt_count; i++) {
        struct fan__postgres_params params = { .count = 0 };
        fan__postgres_add_int(&params, claiming->group.id);
        fan__postgres_add_int(&params, (int64_t)claiming->doubts[i].token);
        fan__postgres_add_int(&params, claiming->doubts[i].until_us);
        fan__postgres_add_int(&params, claiming->now_us);
        fan__postgres_queue(claiming->connection, FAN__PG_UNCLAIM, &params);
    }
}

/* ---- A transaction ---- */

/* With the group's row held. */
static void claim_held(struct claiming *claiming, struct fan_batch *batch)
{
    uint64_t cursor_seq = claiming->group.cursor_seq;
    bool begins_order = claiming->options->ordered && !claiming->group.ordered;
    claiming->now_us = fan__postgres_now_us(claiming->store);
    claiming->group.token = next_token(&claiming->group, claiming->now_us);
    claiming->until_us = claiming->now_us + (int64_t)claiming->options->lease_ms * 1000;
    claiming->passed = 0;
    claiming->scanned = 0;
    give_doubts_back(claiming);
    if (begins_order) {
        /* It was claimed without order so far: its unsettled deliveries get their keys. */
        struct fan__postgres_params params = { .count = 0 };
        fan__postgres_add_int(&params, claiming->group.id);
        fan__postgres_queue(claiming->connection, FAN__PG_ORDER_BEGIN, &params);
    }
    if (claiming->options->ordered)
        load_held(claiming);
    bool due_first = take_all(claiming);
    fetch(claiming, batch);
    if (claiming->count > 0 || claiming->group.cursor_seq != cursor_seq || begins_order ||
        claiming->now_us - claiming->group.joined_us >= FAN__POSTGRES_JOINED_US)
        advance(claiming, due_first);
}

/* Whether there may be something to give, or to note, without holding the group's row. */
static bool is_worth_it(struct claiming *claiming, const struct fan_group_name *name,
                        enum fan_status *ret_status)
{
    struct fan__postgres_params params = { .count = 0 };
    int64_t now_us = fan__postgres_now_us(claiming->store);
    fan__postgres_add_text(&params, name->group);
    fan__postgres_add_text(&params, name->handler);
    fan__postgres_add_int(&params, now_us);
    PGresult *result = fan__postgres_run(claiming->connection, FAN__PG_CLAIM_LOOK, &params);
    *ret_status = result && PQntuples(result) == 0 ? FAN_NOT_FOUND : claiming->connection->status;
    struct fan__postgres_doubt doubts[FAN__POSTGRES_DOUBT_MAX];
    bool worth_it = PQntuples(result) > 0 &&
                    (fan__postgres_int(result, 0, 0) != 0 ||
                     doubts_of(claiming->store, fan__postgres_int(result, 0, 3), doubts) > 0 ||
                     now_us - fan__postgres_int(result, 0, 1) >= FAN__POSTGRES_JOINED_US ||
                     (claiming->options->ordered && fan__postgres_int(result, 0, 2) == 0));
    PQclear(result);
    return worth_it;
}

/* One transaction's worth. */
static enum fan_status claim_once(struct claiming *claiming, const struct fan_group_name *name,
                                  struct fan_batch *batch)
{
    enum fan_status status =
        fan__postgres_borrow(claiming->store, FAN__POSTGRES_WRITE, &claiming->connection, NULL);
    if (status != FAN_OK)
        return status;
    fan__postgres_unsynced(claiming->connection);
    fan__postgres_clock_sync(claiming->connection);
    claiming->end = true;
    claiming->doubt_count = 0;
    if (is_worth_it(claiming, name, &status) && status == FAN_OK) {
        status = fan__postgres_group_find(claiming->connection, name, true, &claiming->group);
        claiming->end = false;
        if (status == FAN_OK)
            claim_held(claiming, batch);
        fan__postgres_group_free(&claiming->group);
    }
    status = fan__postgres_end(claiming->connection, status, NULL);
    if (status == FAN_OK)
        forget_doubts(claiming);
    if (status == FAN_UNKNOWN && claiming->count > 0)
        doubt(claiming);
    return status;
}

enum fan_status fan__postgres_claim(void *self, const struct fan_group_name *name,
                                    const struct fan_claim_options *options,
                                    struct fan_batch *batch, struct fan_claim *claims)
{
    struct claiming claiming = { .store = self, .options = options, .claims = claims };
    enum fan_status status;
    fan__postgres_array_init(&claiming.given_seqs, claiming.store->env, FAN__POSTGRES_INT8);
    do {
        status = claim_once(&claiming, name, batch);
    } while (status == FAN_OK && claiming.count == 0 && !claiming.end);
    fan__postgres_array_deinit(&claiming.given_seqs);
    if (status != FAN_OK)
        fan_batch_clear(batch);
    return status == FAN_OK && claiming.count == 0 ? FAN_AGAIN : status;
}
