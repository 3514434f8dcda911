/*
 * The laws of a log under faults: programs that go on as the contract says, on a store that fails
 * (fanfare/fault.h) at every kind of call, from a seed, on a clock of our own.
 *
 * What is checked: a refusal without FAN_UNKNOWN stored nothing; what was acknowledged is stored
 * under its sequence, what is stored was attempted, each once; units are whole; a reader saw all of
 * it, rising; each claim is settled once, and every event comes to its end with its group; a lease
 * has one holder, whose fences rise; a chain of expectations has no fork. FANFARE_SEED repeats a
 * seed, FANFARE_SOAK=1 runs many.
 */
#include "../folder.h"
#include "../seed.h"
#include "../test.h"

#include <fanfare/batch.h>
#include <fanfare/env.h>
#include <fanfare/fault.h>
#include <fanfare/group.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef WITH_POSTGRES
#include "../postgres.h"
#endif

#define EVENTS 400
#define STEPS 250
#define MEMBERS 3
#define HELD_MAX 64
#define BATCH 8
#define LEASE_MS 5000
#define ROUNDS_MAX 2000

static const struct fan_group_name group = { "workers", "" };

struct attempt {
    struct fan_event *event;
    uint64_t seq; /* as acknowledged */
    bool tried;   /* its outcome is not known */
    bool refused; /* and it was not stored; it is not tried again */
    bool done;    /* the group's settlement said so */
    bool dead;
    unsigned ends; /* settlements that ended it */
};

struct held {
    struct fan_claim claim;
    enum fan_verdict verdict;
    bool unsure; /* a settlement of it had no answer */
};

struct member {
    char name[8];
    struct held held[HELD_MAX];
    size_t count;
    uint64_t fence; /* 0: it holds no lease */
    int64_t until_us;
};

struct world {
    struct fan_env env;
    int64_t now_us;
    int64_t real_ns; /* since when real time counts, too; 0: never */
    uint64_t seed;
    uint64_t random;
    struct fan_store *inner;
    struct fan_store *store;
    struct fan_batch *batch;
    struct attempt attempts[EVENTS];
    size_t count;
    size_t pending[BATCH]; /* a batch whose outcome is unknown, and must be asked for again */
    bool joined[BATCH];
    size_t pending_count;
    struct member members[MEMBERS];
    uint64_t read_seq;
    uint64_t seen_seq;
    size_t seen;
    uint64_t chain_seq; /* the last of the chain, as acknowledged */
    uint64_t fence;
    size_t by_seq[EVENTS + 1]; /* attempt + 1 */
};

/* A log whose server has a clock of its own needs one that goes on between our moves, too. */
static int64_t now_us(const struct world *world)
{
    const struct fan_env *real = fan_env_default();
    int64_t gone_ns = world->real_ns > 0 ? real->monotonic_ns(real->context) - world->real_ns : 0;
    return world->now_us + gone_ns / 1000;
}

static int64_t wall_us(void *context)
{
    return now_us(context);
}

static int64_t monotonic_ns(void *context)
{
    return now_us(context) * 1000;
}

static uint64_t below(struct world *world, uint64_t limit)
{
    return test_pick(&world->random, limit);
}

#define CHECK(world, condition)                                                                    \
    do {                                                                                           \
        if (!(condition))                                                                          \
            fail_msg("FANFARE_SEED=%" PRIu64 ": not so: %s", (world)->seed, #condition);           \
    } while (0)

static struct attempt *make_event(struct world *world, const char *topic)
{
    struct attempt *attempt = &world->attempts[world->count];
    char id[32];
    snprintf(id, sizeof(id), "event-%zu", world->count++);
    const struct fan_event_draft draft = {
        .size = FAN_EVENT_DRAFT_SIZE, .id = id, .topic = topic, .type = "law.event.happens"
    };
    assert_ok(fan_event_new(&draft, NULL, &attempt->event, NULL));
    return attempt;
}

static bool is_stored(struct world *world, const struct attempt *attempt)
{
    enum fan_status status =
        fan_store_get(world->inner, fan_event_id(attempt->event), world->batch, NULL);
    CHECK(world, status == FAN_OK || status == FAN_NOT_FOUND);
    return status == FAN_OK;
}

/* A batch of up to eight events, in units of one or two. */
static void choose_batch(struct world *world)
{
    size_t count = 1 + (size_t)below(world, BATCH);
    for (size_t i = 0; i < count && world->count < EVENTS; i++) {
        world->joined[i] = i > 0 && !world->joined[i - 1] && below(world, 3) == 0;
        world->pending[i] = world->count;
        make_event(world, below(world, 2) ? "a" : "b");
        world->pending_count++;
    }
}

/* Appends what is new or in doubt, and takes the answer as the contract says. */
static void publish(struct world *world)
{
    struct fan_append items[BATCH] = { { .event = NULL } };
    if (world->pending_count == 0)
        choose_batch(world);
    size_t count = world->pending_count;
    for (size_t i = 0; i < count; i++)
        items[i] = (struct fan_append){ .event = world->attempts[world->pending[i]].event,
                                        .joined = world->joined[i] };
    enum fan_status status = fan_store_append(world->store, items, count, NULL);
    for (size_t i = 0; i < count; i++) {
        struct attempt *attempt = &world->attempts[world->pending[i]];
        if (status == FAN_OK) {
            CHECK(world, items[i].ret_status == FAN_OK);
            CHECK(world, !items[i].ret_duplicate || attempt->tried);
            attempt->seq = items[i].ret_seq;
        } else if (status == FAN_UNKNOWN) {
            attempt->tried = true;
        } else if (!attempt->tried) {
            CHECK(world, !is_stored(world, attempt));
            attempt->refused = true;
        }
    }
    /* What was refused and never in doubt is given up, now and then; the rest comes again. */
    bool in_doubt = world->attempts[world->pending[0]].tried;
    if (status == FAN_OK || (status != FAN_UNKNOWN && !in_doubt && below(world, 2) == 0))
        world->pending_count = 0;
    for (size_t i = 0; i < world->pending_count; i++)
        world->attempts[world->pending[i]].refused = false;
}

static void read_on(struct world *world)
{
    struct fan_read_result result;
    const struct fan_query query = { .size = FAN_QUERY_SIZE, .limit = 1 + below(world, 20) };
    if (fan_store_read(world->store, world->read_seq, &query, world->batch, &result) != FAN_OK)
        return;
    for (size_t i = 0; i < fan_batch_count(world->batch); i++) {
        uint64_t seq = fan_event_seq(fan_batch_event(world->batch, i));
        CHECK(world, seq > world->seen_seq);
        world->seen_seq = seq;
        world->seen++;
    }
    CHECK(world, result.scanned_seq >= world->read_seq && result.scanned_seq <= result.head_seq);
    world->read_seq = result.scanned_seq;
}

static void claim(struct world *world, struct member *member)
{
    struct fan_claim claims[BATCH];
    const struct fan_claim_options options = { .size = FAN_CLAIM_OPTIONS_SIZE,
                                               .owner = member->name,
                                               .limit = 1 + (size_t)below(world, BATCH),
                                               .lease_ms = LEASE_MS };
    if (member->count + BATCH > HELD_MAX ||
        fan_group_claim(world->store, &group, &options, world->batch, claims) != FAN_OK)
        return;
    for (size_t i = 0; i < fan_batch_count(world->batch); i++) {
        enum fan_verdict verdict =
            below(world, 4) ? FAN_VERDICT_DONE : (enum fan_verdict)below(world, 4);
        member->held[member->count++] = (struct held){ .claim = claims[i], .verdict = verdict };
    }
}

static struct attempt *attempt_at(struct world *world, uint64_t seq)
{
    CHECK(world, seq <= EVENTS);
    if (world->by_seq[seq] == 0) {
        for (size_t i = 0; i < world->count && world->by_seq[seq] == 0; i++) {
            bool mine = world->attempts[i].seq == seq;
            if (!mine && world->attempts[i].seq == 0 && is_stored(world, &world->attempts[i]))
                mine = fan_event_seq(fan_batch_event(world->batch, 0)) == seq;
            world->by_seq[seq] = mine ? i + 1 : 0;
        }
    }
    CHECK(world, world->by_seq[seq] > 0);
    return &world->attempts[world->by_seq[seq] - 1];
}

/* Counts an end that the store acknowledged; after a call without an answer, LOST may be one. */
static void count_end(struct world *world, const struct held *held, enum fan_status status)
{
    struct attempt *attempt = attempt_at(world, held->claim.seq);
    bool ends = held->verdict == FAN_VERDICT_DONE || held->verdict == FAN_VERDICT_FAIL;
    if (status != FAN_OK || !ends)
        return;
    attempt->ends++;
    CHECK(world, attempt->ends == 1);
    attempt->done = held->verdict == FAN_VERDICT_DONE;
    attempt->dead = !attempt->done;
}

static void settle(struct world *world, struct member *member)
{
    struct fan_settle items[HELD_MAX];
    size_t count = member->count > 0 ? 1 + (size_t)below(world, member->count) : 0;
    for (size_t i = 0; i < count; i++)
        items[i] = (struct fan_settle){ .seq = member->held[i].claim.seq,
                                        .token = member->held[i].claim.token,
                                        .verdict = member->held[i].verdict,
                                        .delay_ms = 100,
                                        .error = "as chance would have it" };
    if (count == 0)
        return;
    enum fan_status status = fan_group_settle(world->store, &group, items, count);
    for (size_t i = 0; i < count && status == FAN_UNKNOWN; i++)
        member->held[i].unsure = true;
    if (status != FAN_OK)
        return;
    for (size_t i = 0; i < count; i++) {
        CHECK(world, items[i].ret_status == FAN_OK || items[i].ret_status == FAN_LOST);
        count_end(world, &member->held[i], items[i].ret_status);
    }
    member->count -= count;
    memmove(member->held, member->held + count, member->count * sizeof(member->held[0]));
}

static void renew(struct world *world, struct member *member)
{
    struct fan_settle items[HELD_MAX];
    for (size_t i = 0; i < member->count; i++)
        items[i] = (struct fan_settle){ .seq = member->held[i].claim.seq,
                                        .token = member->held[i].claim.token };
    if (member->count == 0 ||
        fan_group_renew(world->store, &group, items, member->count, LEASE_MS) != FAN_OK)
        return;
    size_t kept = 0;
    for (size_t i = 0; i < member->count; i++)
        if (items[i].ret_status == FAN_OK || member->held[i].unsure)
            member->held[kept++] = member->held[i];
    member->count = kept;
}

/* One lease for all: who is told that it is theirs is alone with it, under a fence that rose. */
static void lead(struct world *world, struct member *member)
{
    uint64_t fence = 0;
    int64_t before_us = now_us(world);
    enum fan_status status =
        fan_lease_acquire(world->store, "leader", member->name, LEASE_MS, &fence);
    if (status != FAN_OK)
        return;
    for (size_t i = 0; i < MEMBERS; i++)
        CHECK(world, &world->members[i] == member || world->members[i].until_us <= now_us(world));
    CHECK(world, fence >= world->fence);
    world->fence = fence;
    member->fence = fence;
    member->until_us = before_us + LEASE_MS * INT64_C(1000);
}

/* A link of the chain: stored behind the last one alone, however often it is tried. */
static void chain(struct world *world, struct member *member)
{
    if (world->count == EVENTS || member->until_us <= now_us(world))
        return;
    const struct fan_expectation expectation = { .size = sizeof(expectation),
                                                 .key = "chain",
                                                 .last_seq = world->chain_seq,
                                                 .lease = "leader",
                                                 .fence = member->fence };
    struct attempt *attempt = make_event(world, "chain");
    struct fan_append item = { .event = attempt->event, .expectation = &expectation };
    enum fan_status status = FAN_UNKNOWN;
    for (int i = 0; i < ROUNDS_MAX && status != FAN_OK; i++) {
        status = fan_store_append(world->store, &item, 1, NULL);
        attempt->tried |= status == FAN_UNKNOWN;
    }
    CHECK(world, status == FAN_OK && item.ret_status == FAN_OK);
    CHECK(world, !item.ret_duplicate || attempt->tried);
    attempt->seq = world->chain_seq = item.ret_seq;
}

static void act(struct world *world)
{
    struct member *member = &world->members[below(world, MEMBERS)];
    switch (below(world, 12)) {
    case 0:
        world->now_us += (int64_t)below(world, LEASE_MS) * 1000;
        break;
    case 1:
        renew(world, member);
        break;
    case 2:
        lead(world, member);
        break;
    case 3:
        chain(world, member);
        break;
    case 4:
        if (below(world, 8) == 0)
            member->count = 0; /* it died with all that it held */
        break;
    case 5:
    case 6:
        claim(world, member);
        break;
    case 7:
    case 8:
        settle(world, member);
        break;
    case 9:
        read_on(world);
        break;
    default:
        publish(world);
    }
}

/* Without faults all comes to its end: what is in doubt is asked for, what is owed is handled. */
static void drain(struct world *world)
{
    assert_ok(fan_fault_set(world->store, NULL, NULL));
    if (world->pending_count > 0)
        publish(world);
    CHECK(world, world->pending_count == 0);
    uint64_t head_seq = 0;
    assert_ok(fan_store_head(world->store, &head_seq));
    while (world->read_seq < head_seq)
        read_on(world);
    struct fan_store_stats stats = { .size = sizeof(stats) };
    for (int round = 0; round < ROUNDS_MAX; round++) {
        for (size_t i = 0; i < MEMBERS; i++) {
            settle(world, &world->members[i]);
            claim(world, &world->members[i]);
        }
        world->now_us += LEASE_MS / 4 * INT64_C(1000);
        assert_ok(fan_store_stats(world->store, &stats));
        if (stats.pending + stats.processing == 0)
            break;
    }
    CHECK(world, stats.pending + stats.processing == 0);
    CHECK(world, stats.completed + stats.failed == stats.events);
    CHECK(world, stats.events == world->seen);
}

/* Every attempt against what the store itself has. */
static void judge(struct world *world)
{
    size_t stored = 0;
    for (size_t i = 0; i < world->count; i++) {
        struct attempt *attempt = &world->attempts[i];
        struct fan_event_state state = { .error = NULL };
        enum fan_status status =
            fan_store_get(world->inner, fan_event_id(attempt->event), world->batch, &state);
        stored += status == FAN_OK;
        CHECK(world, status == FAN_OK ? !attempt->refused : attempt->seq == 0);
        if (status != FAN_OK)
            continue;
        CHECK(world, fan_event_seq(fan_batch_event(world->batch, 0)) == attempt->seq);
        CHECK(world, !attempt->done || state.status == FAN_EVENT_COMPLETED);
        CHECK(world, !attempt->dead || state.status == FAN_EVENT_FAILED);
    }
    /* As many events as ids: none of them is there twice, and none that nobody attempted. */
    CHECK(world, stored == world->seen);
}

static const char *const weathers[] = {
    "errors=10%,unknown=10%,torn=5%",
    "unknown=40%,torn=20%",
    "append.torn=60%,settle.torn=60%,renew.torn=60%",
    "claim.unknown_done=40%,settle.unknown_done=40%,lease_acquire.unknown_done=50%",
    "errors=60%",
    "",
};

static void change_weather(struct world *world)
{
    size_t weather = (size_t)below(world, sizeof(weathers) / sizeof(*weathers));
    assert_ok(fan_fault_set(world->store, weathers[weather], NULL));
}

static void run_seed(const char *uri, uint64_t seed)
{
    struct world *world = calloc(1, sizeof(*world));
    char faults[64];
    snprintf(faults, sizeof(faults), "seed=%" PRIu64, seed);
    assert_non_null(world);
    world->env = *fan_env_default();
    world->env.context = world;
    world->env.wall_us = wall_us;
    world->env.monotonic_ns = monotonic_ns;
    world->now_us = INT64_C(1700000000000000);
    if (strncmp(uri, "postgres:", 9) == 0)
        world->real_ns = fan_env_default()->monotonic_ns(fan_env_default()->context);
    world->seed = world->random = seed;
    assert_ok(fan_store_open(uri, &world->env, &world->inner, NULL));
    assert_ok(fan_fault_wrap(world->inner, faults, &world->env, &world->store, NULL));
    assert_ok(fan_batch_new(NULL, &world->batch));
    const struct fan_group_options options = { .size = FAN_GROUP_OPTIONS_SIZE,
                                               .start = FAN_START_BEGINNING };
    assert_ok(fan_group_create(world->store, &group, &options, NULL));
    for (size_t i = 0; i < MEMBERS; i++)
        snprintf(world->members[i].name, sizeof(world->members[i].name), "m%zu", i);
    for (int i = 0; i < STEPS; i++) {
        if (i % 25 == 0)
            change_weather(world);
        act(world);
    }
    drain(world);
    judge(world);
    for (size_t i = 0; i < world->count; i++)
        fan_event_free(world->attempts[i].event, NULL);
    fan_batch_free(world->batch);
    fan_store_close(world->store);
    fan_store_close(world->inner);
    free(world);
}

/* The seed that was asked for, or as many as there is time for. */
static void each_seed(uint64_t count, void (*run)(uint64_t seed))
{
    const char *only = getenv("FANFARE_SEED");
    if (test_is_soak())
        count *= 50;
    uint64_t first = only ? strtoull(only, NULL, 10) : 1;
    for (uint64_t seed = first; seed < (only ? first + 1 : first + count); seed++)
        run(seed);
}

static void run_memory(uint64_t seed)
{
    run_seed("memory:", seed);
}

static void run_sqlite(uint64_t seed)
{
    char folder[TEST_FOLDER_SIZE];
    char uri[128];
    assert_true(test_folder_make(folder));
    snprintf(uri, sizeof(uri), "sqlite:%s/events.db?synchronous=normal", folder);
    run_seed(uri, seed);
    snprintf(uri, sizeof(uri), "%s/events.db", folder);
    assert_int_equal(unlink(uri), 0);
    assert_int_equal(rmdir(folder), 0);
}

static void test_L06_L08_L09_laws_hold_under_faults_in_memory(void **state)
{
    (void)state;
    each_seed(400, run_memory);
}

static void test_L06_L08_L09_laws_hold_under_faults_in_sqlite(void **state)
{
    (void)state;
    each_seed(40, run_sqlite);
}

#ifdef WITH_POSTGRES
static struct test_postgres server;

static void run_postgres(uint64_t seed)
{
    char uri[256];
    char options[48];
    snprintf(options, sizeof(options), "schema=seed%" PRIu64, seed);
    test_postgres_uri(&server, options, uri, sizeof(uri));
    run_seed(uri, seed);
}

static void test_L06_L08_L09_laws_hold_under_faults_in_postgres(void **state)
{
    (void)state;
    assert_true(test_postgres_start(&server, NULL));
    each_seed(4, run_postgres);
    test_postgres_end(&server);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_L06_L08_L09_laws_hold_under_faults_in_memory),
        cmocka_unit_test(test_L06_L08_L09_laws_hold_under_faults_in_sqlite),
#ifdef WITH_POSTGRES
        cmocka_unit_test(test_L06_L08_L09_laws_hold_under_faults_in_postgres),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
