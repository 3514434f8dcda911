/*
 * The store's clock beyond the conformance suite: processes whose wall clocks differ, the next
 * boot, and what becomes of all that is timed when an operator accepts another time (R02).
 */
#include "sqlite_support.h"

#include <fanfare/keep.h>

#include "store/memory/group.h"
#include "store/memory/memory.h"
#include "store/sqlite/sqlite.h"
#include "store/sqlite/store.h"

#include <sys/wait.h>

#define SECOND_US INT64_C(1000000)
#define HOUR_US (3600 * SECOND_US)
#define DAY_US (24 * HOUR_US)
#define START_US (INT64_C(1700000000) * SECOND_US)
#define LEASE_MS 600000
#define LEASE_US (600 * SECOND_US)

static const struct fan_group_name group = { "g", "" };

/* An environment whose clocks stand where they are put. */
struct clocks {
    struct fan_env env;
    int64_t wall_us;
    int64_t monotonic_us;
};

static int64_t wall_us(void *context)
{
    return ((struct clocks *)context)->wall_us;
}

static int64_t monotonic_ns(void *context)
{
    return ((struct clocks *)context)->monotonic_us * 1000;
}

static void clocks_init(struct clocks *clocks, int64_t wall)
{
    *clocks =
        (struct clocks){ .env = *fan_env_default(), .wall_us = wall, .monotonic_us = HOUR_US };
    clocks->env.context = clocks;
    clocks->env.wall_us = wall_us;
    clocks->env.monotonic_ns = monotonic_ns;
}

static void pass(struct clocks *clocks, int64_t time_us)
{
    clocks->wall_us += time_us;
    clocks->monotonic_us += time_us;
}

static struct fan_store *open_with(const char *uri, struct clocks *clocks)
{
    struct fan_store *store = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    if (fan_store_open(uri, &clocks->env, &store, &error) != FAN_OK)
        fail_msg("%s", error.message);
    return store;
}

static void create(struct fan_store *store)
{
    const struct fan_group_options options = { .size = FAN_GROUP_OPTIONS_SIZE,
                                               .start = FAN_START_BEGINNING };
    assert_ok(fan_group_create(store, &group, &options, NULL));
}

/* How many events a claim gives. */
static size_t claim(struct fan_store *store, struct fan_claim claims[8])
{
    struct fan_batch *batch = batch_new();
    struct fan_claim_options options = {
        .size = FAN_CLAIM_OPTIONS_SIZE, .owner = "o", .limit = 8, .lease_ms = LEASE_MS
    };
    enum fan_status status = fan_group_claim(store, &group, &options, batch, claims);
    size_t count = status == FAN_AGAIN ? 0 : fan_batch_count(batch);
    if (status != FAN_AGAIN)
        assert_ok(status);
    fan_batch_free(batch);
    return count;
}

static bool see_due(void *context, const struct fan_delivery *delivery)
{
    *(int64_t *)context = delivery->due_us;
    return false;
}

static int64_t due_us_of(struct fan_store *store, uint64_t seq)
{
    int64_t due_us = 0;
    assert_ok(fan_store_deliveries(store, seq, 0, see_due, &due_us));
    return due_us;
}

/* Runs `check` in a process of its own, which exits with 0 when it is content. */
static void elsewhere(const char *uri, struct clocks *clocks,
                      bool (*check)(struct fan_store *store))
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct fan_store *store = open_with(uri, clocks);
        bool content = check(store);
        fan_store_close(store);
        _exit(content ? 0 : 1);
    }
    int result = 0;
    assert_int_equal(waitpid(child, &result, 0), child);
    assert_true(WIFEXITED(result));
    assert_int_equal(WEXITSTATUS(result), 0);
}

static bool takes_all(struct fan_store *store)
{
    struct fan_claim claims[8];
    uint64_t fence = 0;
    return claim(store, claims) > 0 &&
           fan_lease_acquire(store, "l", "o", LEASE_MS, &fence) == FAN_OK;
}

static bool gets_nothing(struct fan_store *store)
{
    struct fan_claim claims[8];
    uint64_t fence = 0;
    return claim(store, claims) == 0 &&
           fan_lease_acquire(store, "l", "p", LEASE_MS, &fence) == FAN_EXISTS;
}

static void test_R02_the_first_commit_decides_for_all_processes(void **state)
{
    struct place *place = *state;
    static const int64_t others[] = { -HOUR_US, DAY_US };
    for (size_t i = 0; i < 2; i++) {
        struct clocks mine;
        struct clocks other;
        struct fan_claim claims[8];
        uint64_t fence = 0;
        clocks_init(&mine, START_US);
        clocks_init(&other, START_US + others[i]);
        /* All have the log open before one of them commits. */
        struct fan_store *early = open_with(place->uri, &mine);
        struct fan_store *decides = open_with(place->uri, &other);
        create(decides);
        store_say(decides, "a.b", "t");
        elsewhere(place->uri, &mine, takes_all);
        assert_int_equal(due_us_of(early, 1), START_US + others[i] + LEASE_US);
        assert_true(gets_nothing(early));
        assert_true(gets_nothing(decides));
        pass(&mine, LEASE_US - SECOND_US);
        elsewhere(place->uri, &mine, gets_nothing);
        assert_true(gets_nothing(early));
        pass(&mine, 2 * SECOND_US);
        assert_int_equal(claim(early, claims), 1);
        assert_int_equal(claims[0].lapses, 1);
        assert_ok(fan_lease_acquire(early, "l", "q", LEASE_MS, &fence));
        /* Its monotonic clock is that of the machine, too. */
        pass(&other, LEASE_US + SECOND_US);
        assert_true(gets_nothing(decides));
        fan_store_close(early);
        fan_store_close(decides);
        assert_int_equal(unlink(place->path), 0);
    }
}

static void change_boot(const struct place *place)
{
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(place->path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "UPDATE clock SET boot = boot + 1", NULL, NULL, NULL),
                     SQLITE_OK);
    assert_int_equal(sqlite3_changes(db), 1);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

static struct fan__sqlite *provider_open(const struct place *place, struct clocks *clocks)
{
    void *self = NULL;
    uint64_t epoch = 0;
    assert_ok(fan__sqlite_provider.open(place->uri, &clocks->env, &self, &epoch, NULL));
    return self;
}

static void test_R02_the_next_boot_goes_on_where_the_log_was(void **state)
{
    struct place *place = *state;
    struct clocks clocks;
    struct fan_claim claims[8];
    clocks_init(&clocks, START_US);
    struct fan_store *store = open_with(place->uri, &clocks);
    create(store);
    store_say(store, "a.b", "t");
    pass(&clocks, 100 * SECOND_US);
    assert_int_equal(claim(store, claims), 1);
    int64_t due_us = due_us_of(store, 1);
    assert_int_equal(due_us, START_US + 100 * SECOND_US + LEASE_US);
    fan_store_close(store);

    /* A boot later the wall clock is an hour behind, and the other one begins anew. */
    change_boot(place);
    clocks.wall_us -= HOUR_US;
    clocks.monotonic_us = 5 * SECOND_US;
    struct fan__sqlite *inside = provider_open(place, &clocks);
    assert_true(fan__sqlite_now_us(inside) >= START_US + 100 * SECOND_US);
    assert_true(fan__sqlite_now_us(inside) <= START_US + 102 * SECOND_US);
    fan__sqlite_provider.close(inside);
    store = open_with(place->uri, &clocks);
    assert_int_equal(due_us_of(store, 1), due_us);
    assert_int_equal(claim(store, claims), 0);
    pass(&clocks, LEASE_US);
    assert_int_equal(claim(store, claims), 1);
    assert_int_equal(claims[0].lapses, 1);
    fan_store_close(store);
}

static void test_R02_a_leap_between_boots_is_told_until_accepted(void **state)
{
    struct place *place = *state;
    struct clocks clocks;
    struct fan_claim claims[8];
    clocks_init(&clocks, START_US);
    struct fan_store *store = open_with(place->uri, &clocks);
    create(store);
    store_say(store, "a.b", "t");
    assert_int_equal(claim(store, claims), 1);
    fan_store_close(store);
    struct fan__sqlite *inside = provider_open(place, &clocks);
    assert_int_equal(fan__sqlite_clock_jump_us(inside), 0);
    fan__sqlite_provider.close(inside);

    change_boot(place);
    clocks.wall_us += 3 * DAY_US;
    for (int i = 0; i < 2; i++) {
        inside = provider_open(place, &clocks);
        assert_int_equal(fan__sqlite_now_us(inside), clocks.wall_us);
        assert_int_equal(fan__sqlite_clock_jump_us(inside), 3 * DAY_US);
        struct fan_settle late = { .seq = claims[0].seq,
                                   .token = claims[0].token,
                                   .verdict = FAN_VERDICT_RETRY };
        assert_ok(fan__sqlite_provider.settle(inside, &group, &late, 1));
        fan__sqlite_provider.close(inside);
    }
    /* Retention refuses until then, in words that name both times. */
    const struct fan_retention retention = { .size = FAN_RETENTION_SIZE, .age_ms = 1000 };
    struct fan_retained retained = { .size = sizeof(retained) };
    struct fan_error error = FAN_ERROR_INIT;
    char says[32] = "";
    char knows[32] = "";
    store = open_with(place->uri, &clocks);
    assert_int_equal(fan_store_retain(store, &retention, &retained, &error), FAN_CONFLICT);
    assert_int_equal(
        sscanf(error.message, "the clock says %31s and the log knows of %31[^:]", says, knows), 2);
    assert_string_not_equal(says, knows);
    assert_non_null(strstr(error.message, "--accept-clock"));
    assert_ok(fan_store_accept_clock(store, &error));
    assert_ok(fan_store_retain(store, &retention, &retained, &error));
    fan_store_close(store);
    inside = provider_open(place, &clocks);
    assert_int_equal(fan__sqlite_clock_jump_us(inside), 0);
    fan__sqlite_provider.close(inside);
    inside = provider_open(place, &clocks);
    assert_int_equal(fan__sqlite_clock_jump_us(inside), 0);
    fan__sqlite_provider.close(inside);
}

static void execute(const struct place *place, const char *sql)
{
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(place->path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

/* What could not be accepted is not: the leap is told on, and nothing is removed by it. */
static void test_R02_a_leap_that_could_not_be_accepted_is_told_on(void **state)
{
    struct place *place = *state;
    struct clocks clocks;
    const struct fan_retention retention = { .size = FAN_RETENTION_SIZE, .age_ms = 1000 };
    struct fan_retained retained = { .size = sizeof(retained) };
    clocks_init(&clocks, START_US);
    struct fan_store *store = open_with(place->uri, &clocks);
    store_say(store, "a.b", "t");
    fan_store_close(store);
    change_boot(place);
    /* Whoever accepts says that there was no leap. */
    execute(place, "CREATE TRIGGER full BEFORE INSERT ON clock WHEN new.leap_us = 0 "
                   "BEGIN SELECT RAISE(ABORT, 'as if the disk were full'); END");
    clocks.wall_us += 3 * DAY_US;
    store = open_with(place->uri, &clocks);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(fan_store_retain(store, &retention, &retained, NULL), FAN_CONFLICT);
        assert_int_not_equal(fan_store_accept_clock(store, NULL), FAN_OK);
    }
    assert_int_equal(fan_store_retain(store, &retention, &retained, NULL), FAN_CONFLICT);
    execute(place, "DROP TRIGGER full");
    assert_ok(fan_store_accept_clock(store, NULL));
    assert_ok(fan_store_retain(store, &retention, &retained, NULL));
    assert_int_equal(retained.removed, 1);
    fan_store_close(store);
}

/* Events held, retried and delayed, and a lease; `store` is what the suite of calls goes to. */
static void begin_all(struct fan_store *store, const struct clocks *clocks)
{
    struct fan_claim claims[8];
    uint64_t fence = 0;
    const struct fan_event_draft later = { .size = FAN_EVENT_DRAFT_SIZE,
                                           .type = "a.b",
                                           .deliver_at_us = clocks->wall_us + 2 * DAY_US };
    create(store);
    store_say(store, "a.b", "t");
    store_say(store, "a.b", "t");
    assert_ok(store_add(store, &later, NULL));
    assert_int_equal(claim(store, claims), 2);
    struct fan_settle retry = { .seq = claims[1].seq,
                                .token = claims[1].token,
                                .verdict = FAN_VERDICT_RETRY,
                                .delay_ms = LEASE_MS };
    assert_ok(fan_group_settle(store, &group, &retry, 1));
    assert_ok(fan_lease_acquire(store, "l", "o", LEASE_MS, &fence));
    assert_int_equal(claim(store, claims), 0);
}

/* The clock was moved by `by_us`: what was timed ends later by as much, deliver_at does not. */
static void check_all(struct fan_store *store, struct clocks *clocks, int64_t by_us)
{
    struct fan_claim claims[8];
    uint64_t fence = 0;
    assert_int_equal(due_us_of(store, 1), START_US + by_us + LEASE_US);
    assert_int_equal(due_us_of(store, 2), START_US + by_us + LEASE_US);
    assert_int_equal(due_us_of(store, 3), START_US + 2 * DAY_US);
    assert_true(gets_nothing(store));
    pass(clocks, LEASE_US - SECOND_US);
    assert_true(gets_nothing(store));
    pass(clocks, SECOND_US);
    assert_int_equal(claim(store, claims), 2);
    assert_ok(fan_lease_acquire(store, "l", "p", LEASE_MS, &fence));
    pass(clocks, 2 * DAY_US - by_us - LEASE_US - SECOND_US);
    assert_int_equal(claim(store, claims), 2);
    pass(clocks, SECOND_US);
    assert_int_equal(claim(store, claims), 1);
    assert_int_equal(claims[0].seq, 3);
}

/*
 * A backup of last week, on another machine or after a boot: whoever restores it says with that
 * that it is to go on now. Its retention must not be kept from its work by the time in between.
 */
static void test_R02_P24_a_restored_log_goes_by_the_clock_of_now(void **state)
{
    struct place *place = *state;
    struct clocks clocks;
    char copy[160];
    char uri[200];
    snprintf(copy, sizeof(copy), "%s/copy", place->folder);
    snprintf(uri, sizeof(uri), "sqlite:%s/again.db", place->folder);
    clocks_init(&clocks, START_US);
    struct fan_store *store = open_with(place->uri, &clocks);
    create(store);
    store_say(store, "a.b", "t");
    fan_store_close(store);
    change_boot(place);
    store = open_with(place->uri, &clocks);
    assert_ok(fan_store_backup(store, copy, NULL));
    fan_store_close(store);

    struct fan_claim claims[8];
    const struct fan_retention retention = { .size = FAN_RETENTION_SIZE, .owed_age_ms = 1000 };
    struct fan_retained retained = { .size = sizeof(retained) };
    clocks.wall_us += 7 * DAY_US;
    clocks.monotonic_us = 5 * SECOND_US;
    struct fan_error error = FAN_ERROR_INIT;
    assert_ok(fan_store_restore(copy, uri, &clocks.env, &error));
    store = open_with(uri, &clocks);
    assert_int_equal(claim(store, claims), 1);
    assert_int_equal(due_us_of(store, 1), clocks.wall_us + LEASE_US);
    pass(&clocks, LEASE_US);
    if (fan_store_retain(store, &retention, &retained, &error) != FAN_OK)
        fail_msg("%s", error.message);
    /* The week counts: what was owed through it is owed for too long. */
    assert_int_equal(retained.expired, 1);
    fan_store_close(store);
}

static void test_R02_accepting_moves_what_is_under_way(void **state)
{
    struct place *place = *state;
    static const int64_t settings[] = { -HOUR_US, DAY_US };
    for (size_t i = 0; i < 2; i++) {
        struct clocks clocks;
        clocks_init(&clocks, START_US);
        struct fan_store *store = open_with(place->uri, &clocks);
        struct fan__sqlite *inside = provider_open(place, &clocks);
        begin_all(store, &clocks);
        clocks.wall_us += settings[i];
        assert_int_equal(fan__sqlite_clock_jump_us(inside),
                         settings[i] < 0 ? -settings[i] : settings[i]);
        assert_int_equal(due_us_of(store, 1), START_US + LEASE_US);
        assert_ok(fan__sqlite_clock_accept(inside));
        assert_int_equal(fan__sqlite_clock_jump_us(inside), 0);
        /* Who has the log open follows with its next transaction. */
        check_all(store, &clocks, settings[i]);
        fan__sqlite_provider.close(inside);
        fan_store_close(store);
        assert_int_equal(unlink(place->path), 0);
    }
}

/* A provider's table that lends its inside, so that the public functions can be used on it. */
static struct fan__memory *lent;

static enum fan_status open_and_lend(const char *uri, const struct fan_env *env, void **ret_self,
                                     uint64_t *ret_epoch, struct fan_error *error)
{
    enum fan_status status = fan__memory_provider.open(uri, env, ret_self, ret_epoch, error);
    lent = *ret_self;
    return status;
}

static void test_R02_accepting_in_memory(void **state)
{
    (void)state;
    static const int64_t settings[] = { -HOUR_US, DAY_US };
    struct fan_provider provider = fan__memory_provider;
    provider.open = open_and_lend;
    for (size_t i = 0; i < 2; i++) {
        struct clocks clocks;
        struct fan_store *store = NULL;
        clocks_init(&clocks, START_US);
        assert_ok(fan_store_open_provider(&provider, "memory:", &clocks.env, &store, NULL));
        begin_all(store, &clocks);
        clocks.wall_us += settings[i];
        assert_int_equal(fan__memory_clock_jump_us(lent),
                         settings[i] < 0 ? -settings[i] : settings[i]);
        assert_int_equal(due_us_of(store, 1), START_US + LEASE_US);
        fan__memory_clock_accept(lent);
        assert_int_equal(fan__memory_clock_jump_us(lent), 0);
        check_all(store, &clocks, settings[i]);
        fan_store_close(store);
    }
}

/* A dead letter is as old as it was, whatever time is accepted. */
static void test_R02_accepting_keeps_the_age_of_dead_letters(void **state)
{
    struct place *place = *state;
    const char *const uris[] = { "memory:", place->uri };
    const struct fan_retention retention = { .size = FAN_RETENTION_SIZE, .dead_age_ms = 3600000 };
    for (size_t i = 0; i < 2; i++) {
        struct clocks clocks;
        clocks_init(&clocks, START_US);
        struct fan_store *store = open_with(uris[i], &clocks);
        struct fan_claim claims[8];
        struct fan_retained retained = { .size = sizeof(retained) };
        create(store);
        store_say(store, "a.b", "t");
        assert_int_equal(claim(store, claims), 1);
        struct fan_settle fail = { .seq = claims[0].seq,
                                   .token = claims[0].token,
                                   .verdict = FAN_VERDICT_FAIL };
        assert_ok(fan_group_settle(store, &group, &fail, 1));
        clocks.wall_us += DAY_US;
        assert_ok(fan_store_accept_clock(store, NULL));
        assert_ok(fan_store_retain(store, &retention, &retained, NULL));
        assert_int_equal(retained.discarded, 0);
        pass(&clocks, HOUR_US + SECOND_US);
        assert_ok(fan_store_retain(store, &retention, &retained, NULL));
        assert_int_equal(retained.discarded, 1);
        fan_store_close(store);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        at_a_place(test_R02_the_first_commit_decides_for_all_processes),
        at_a_place(test_R02_the_next_boot_goes_on_where_the_log_was),
        at_a_place(test_R02_a_leap_between_boots_is_told_until_accepted),
        at_a_place(test_R02_a_leap_that_could_not_be_accepted_is_told_on),
        at_a_place(test_R02_P24_a_restored_log_goes_by_the_clock_of_now),
        at_a_place(test_R02_accepting_moves_what_is_under_way),
        cmocka_unit_test(test_R02_accepting_in_memory),
        at_a_place(test_R02_accepting_keeps_the_age_of_dead_letters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
