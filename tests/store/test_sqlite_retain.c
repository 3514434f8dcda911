/* P11 on the SQLite log: what is beyond the suite. */
#include "../seed.h"
#include "sqlite_support.h"

#include <fanfare/env.h>
#include <fanfare/keep.h>

#include "store/sqlite/group.h"
#include "store/sqlite/sqlite.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/wait.h>

static struct fan_retained retain_all(struct fan_store *store, struct fan_retention retention)
{
    struct fan_retained sum = { .size = sizeof(sum), .more = true };
    retention.size = FAN_RETENTION_SIZE;
    while (sum.more) {
        struct fan_retained one = { .size = sizeof(one) };
        struct fan_error error = FAN_ERROR_INIT;
        if (fan_store_retain(store, &retention, &one, &error) != FAN_OK)
            fail_msg("%s", error.message);
        sum.removed += one.removed;
        sum.expired += one.expired;
        sum.more = one.more;
        sum.trimmed_seq = one.trimmed_seq;
    }
    return sum;
}

static bool show_finding(void *context, const struct fan_finding *finding)
{
    (void)context;
    print_error("%s %llu: %s\n", finding->part, (unsigned long long)finding->seq, finding->words);
    return true;
}

static void assert_sound(struct fan_store *store)
{
    assert_ok(fan_store_verify(store, show_finding, NULL, NULL));
}

static int64_t ask(const struct place *place, const char *sql)
{
    sqlite3 *db = NULL;
    sqlite3_stmt *statement = NULL;
    assert_int_equal(sqlite3_open(place->path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &statement, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(statement), SQLITE_ROW);
    int64_t number = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    sqlite3_close(db);
    return number;
}

static void run_sql(const struct place *place, const char *sql)
{
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(place->path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

/* One batch: to topics of its own from a number on, or all to topic 0. */
static void say_many(struct fan_store *store, size_t count, bool own, size_t from)
{
    struct fan_append *items = test_calloc(count, sizeof(*items));
    for (size_t i = 0; i < count; i++) {
        char topic[32];
        snprintf(topic, sizeof(topic), "topic-%u", own ? (unsigned)(from + i) : 0);
        struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE,
                                         .type = "a.b.c",
                                         .topic = topic };
        items[i].event = event_of(&draft);
    }
    assert_ok(fan_store_append(store, items, count, NULL));
    for (size_t i = 0; i < count; i++) {
        assert_ok(items[i].ret_status);
        fan_event_free((struct fan_event *)(uintptr_t)items[i].event, NULL);
    }
    test_free(items);
}

/* Every event has a topic of its own: what they have in common must go with them. */
static void test_P11_series_and_keys_go_with_their_events(void **state)
{
    const struct place *place = *state;
    struct fan_store *store = store_open(place->uri);
    struct fan_store *other = store_open(place->uri);
    struct fan_query query = { .size = FAN_QUERY_SIZE, .pattern = "a.>" };
    struct fan_read_result result;
    struct fan_batch *batch = batch_new();
    for (unsigned round = 0; round < 12; round++) {
        for (size_t i = 0; i < 10; i++)
            say_many(store, 100, true, round * 1000 + i * 100);
        /* The other process has seen them all, and knows their series. */
        assert_ok(fan_store_read(other, 0, &query, batch, &result));
        struct fan_expectation none = { .size = sizeof(none), .key = "never" };
        struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "k", .topic = "t" };
        struct fan_event *event = event_of(&draft);
        struct fan_append item = { .event = event, .expectation = &none };
        assert_ok(fan_store_append(other, &item, 1, NULL));
        fan_event_free(event, NULL);
        retain_all(store, (struct fan_retention){ .count = 50 });
    }
    assert_true(ask(place, "SELECT count(*) FROM event") == 50);
    assert_true(ask(place, "SELECT count(*) FROM series") < 400);
    assert_true(ask(place, "SELECT count(*) FROM key") <= 1);
    assert_true(ask(place, "SELECT count(*) FROM event_block") <= 3);
    assert_true(ask(place, "SELECT count(*) FROM event e LEFT JOIN series s ON s.id = e.series "
                           "WHERE s.id IS NULL") == 0);
    /* What is said again in a forgotten topic is found, in either process. */
    store_say(store, "a.b.c", "topic-3");
    store_say(other, "a.b.c", "topic-3");
    query.topic = "topic-3";
    for (int i = 0; i < 2; i++) {
        assert_ok(fan_store_read(i ? other : store, 0, &query, batch, &result));
        assert_int_equal(fan_batch_count(batch), 2);
    }
    fan_batch_free(batch);
    assert_sound(store);
    fan_store_close(other);
    fan_store_close(store);
}

/* The same amount comes and goes: the file must not grow. */
static void test_P11_the_file_does_not_grow_with_what_comes_and_goes(void **state)
{
    const struct place *place = *state;
    char uri[240];
    snprintf(uri, sizeof(uri), "%s?synchronous=normal&checkpoint_frames=200", place->uri);
    struct fan_store *store = store_open(uri);
    int64_t pages = 0;
    for (unsigned round = 0; round < 30; round++) {
        for (size_t i = 0; i < 4; i++)
            say_many(store, 500, i % 2 == 0, round * 2000);
        retain_all(store, (struct fan_retention){ .count = 1000 });
        int64_t now = ask(place, "PRAGMA page_count");
        if (round == 10)
            pages = now;
        if (round > 10)
            assert_true(now <= pages * 5 / 4);
    }
    assert_sound(store);
    retain_all(store, (struct fan_retention){ .count = 10 });
    fan_store_close(store);
    /* What is left over is given back by a VACUUM, which changes nothing else. */
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(place->path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "VACUUM", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    assert_true(ask(place, "PRAGMA page_count") < pages / 2);
    store = store_open(uri);
    assert_sound(store);
    fan_store_close(store);
}

/* A clock of the test's own; both clocks go on together. */
struct clock {
    pthread_mutex_t mutex;
    int64_t us;
};

static int64_t clock_us(void *context)
{
    struct clock *clock = context;
    pthread_mutex_lock(&clock->mutex);
    int64_t us = clock->us;
    pthread_mutex_unlock(&clock->mutex);
    return us;
}

static int64_t clock_ns(void *context)
{
    return clock_us(context) * 1000;
}

static void pass_s(struct clock *clock, int64_t seconds)
{
    pthread_mutex_lock(&clock->mutex);
    clock->us += seconds * 1000000;
    pthread_mutex_unlock(&clock->mutex);
}

/* Two processes append in turn: ages are right to the second, and bytes are counted. */
static void test_P11_marks_are_right_when_processes_share_the_log(void **state)
{
    const struct place *place = *state;
    struct clock clock = { .us = INT64_C(1700000000000000) };
    pthread_mutex_init(&clock.mutex, NULL);
    struct fan_env env = *fan_env_default();
    env.context = &clock;
    env.wall_us = clock_us;
    env.monotonic_ns = clock_ns;
    struct fan_store *stores[2] = { NULL, NULL };
    for (int i = 0; i < 2; i++)
        assert_ok(fan_store_open(place->uri, &env, &stores[i], NULL));
    for (int second = 0; second < 100; second++) {
        for (int i = 0; i < 4; i++)
            store_say(stores[(second + i) % 2], "a.b.c", "t");
        pass_s(&clock, 1);
    }
    assert_true(ask(place, "SELECT count(*) FROM mark") <= 200);
    /* After 100 s, what is older than 40 s: the events of the first 59 or 60 seconds. */
    struct fan_retained retained = retain_all(stores[0], (struct fan_retention){ .age_ms = 40000 });
    assert_in_range(retained.removed, 59 * 4, 60 * 4);
    assert_sound(stores[0]);
    /* 160 events of 160 bytes and a payload of 4 are left: half of these bytes are half of them. */
    retained = retain_all(stores[1], (struct fan_retention){ .bytes = 80 * 164 });
    assert_in_range(retained.removed, 70, 90);
    retained = retain_all(stores[1], (struct fan_retention){ .bytes = 80 * 164 });
    assert_int_equal(retained.removed, 0);
    assert_sound(stores[1]);
    fan_store_close(stores[0]);
    fan_store_close(stores[1]);
    pthread_mutex_destroy(&clock.mutex);
}

/* A log that has run for years keeps few marks of what is long gone. */
static void test_P11_old_marks_are_thinned(void **state)
{
    const struct place *place = *state;
    struct clock clock = { .us = INT64_C(1700000000000000) };
    pthread_mutex_init(&clock.mutex, NULL);
    struct fan_env env = *fan_env_default();
    env.context = &clock;
    env.wall_us = clock_us;
    env.monotonic_ns = clock_ns;
    struct fan_store *store = NULL;
    char uri[240];
    snprintf(uri, sizeof(uri), "%s?synchronous=normal", place->uri);
    assert_ok(fan_store_open(uri, &env, &store, NULL));
    /* One that stays: a dead letter. */
    const struct fan_group_name group = { .group = "g", .handler = "" };
    const struct fan_group_options options = { .size = FAN_GROUP_OPTIONS_SIZE };
    assert_ok(fan_group_create(store, &group, &options, NULL));
    store_say(store, "a.b.c", "t");
    retain_all(store, (struct fan_retention){ .count = 1 });
    pass_s(&clock, 86400);
    assert_int_equal(retain_all(store, (struct fan_retention){ .owed_age_ms = 1000 }).expired, 1);
    for (int i = 0; i < 2000; i++) {
        store_say(store, "a.b.c", "t");
        pass_s(&clock, 10);
        if (i % 50 == 0)
            retain_all(store, (struct fan_retention){ .age_ms = 600000,
                                                      .owed_age_ms = 1000,
                                                      .dead_age_ms = 60000 * 60 * 24 * 9 });
    }
    assert_true(ask(place, "SELECT count(*) FROM mark") < 400);
    assert_sound(store);
    fan_store_close(store);
    pthread_mutex_destroy(&clock.mutex);
}

/* Appends go on while a large part of the log is removed; the longest one is shown. */
static void test_P11_appends_go_on_between_slices(void **state)
{
    const struct place *place = *state;
    char uri[240];
    snprintf(uri, sizeof(uri), "%s?synchronous=normal", place->uri);
    struct fan_store *store = store_open(uri);
    for (unsigned i = 0; i < 20; i++)
        say_many(store, 1000, false, 0);
    struct fan_retention retention = { .size = FAN_RETENTION_SIZE, .count = 100, .limit = 500 };
    struct fan_retained one = { .size = sizeof(one), .more = true };
    size_t slices = 0;
    while (one.more) {
        assert_ok(fan_store_retain(store, &retention, &one, NULL));
        assert_true(one.removed <= 500);
        store_say(store, "a.b.c", "new");
        slices++;
    }
    assert_true(slices >= 40);
    assert_sound(store);
    fan_store_close(store);
}

static const struct fan_group_name crowd = { .group = "crowd", .handler = "" };

/* A log whose group has claimed, and some of it settled, as many events as are said. */
static void make_crowd(struct fan_store *store, size_t count)
{
    const struct fan_group_options options = { .size = FAN_GROUP_OPTIONS_SIZE };
    const struct fan_claim_options claim = {
        .size = FAN_CLAIM_OPTIONS_SIZE, .owner = "me", .limit = 500, .lease_ms = 600000
    };
    struct fan_claim claims[500];
    struct fan_settle settles[250];
    struct fan_batch *batch = batch_new();
    assert_ok(fan_group_create(store, &crowd, &options, NULL));
    for (size_t done = 0; done < count; done += 500) {
        say_many(store, 500, false, 0);
        assert_ok(fan_group_claim(store, &crowd, &claim, batch, claims));
        assert_int_equal(fan_batch_count(batch), 500);
        for (size_t i = 0; i < 250; i++)
            settles[i] = (struct fan_settle){ .seq = claims[i].seq,
                                              .token = claims[i].token,
                                              .verdict = FAN_VERDICT_DONE };
        assert_ok(fan_group_settle(store, &crowd, settles, 250));
    }
    fan_batch_free(batch);
}

static bool count_groups(void *context, const struct fan_group_stats *stats)
{
    (void)stats;
    ++*(size_t *)context;
    return true;
}

/* Nobody is owed what a deleted group has left, nor counts it, and it is no damage. */
static void check_nobodys(struct fan_store *store, size_t groups_left)
{
    size_t groups = 0;
    struct fan_store_stats stats = { .size = sizeof(stats) };
    assert_ok(fan_store_groups(store, count_groups, &groups));
    assert_int_equal(groups, groups_left);
    assert_ok(fan_store_stats(store, &stats));
    assert_int_equal(stats.completed, stats.events);
    assert_sound(store);
}

static void await_cleared(const struct place *place)
{
    while (ask(place, "SELECT count(*) FROM delivery") > 0 ||
           ask(place, "SELECT count(*) FROM meta WHERE key LIKE 'dropped%'") > 0)
        sched_yield();
}

static void test_P11_an_expired_group_is_gone_at_once(void **state)
{
    const struct place *place = *state;
    struct clock clock = { .us = INT64_C(1700000000000000) };
    pthread_mutex_init(&clock.mutex, NULL);
    struct fan_env env = *fan_env_default();
    env.context = &clock;
    env.wall_us = clock_us;
    env.monotonic_ns = clock_ns;
    struct fan_store *store = NULL;
    assert_ok(fan_store_open(place->uri, &env, &store, NULL));
    make_crowd(store, 3000);
    pass_s(&clock, 3600);
    struct fan_retention retention = { .size = FAN_RETENTION_SIZE,
                                       .group_age_ms = FAN_GROUP_AGE_MS_MIN };
    struct fan_retained one = { .size = sizeof(one) };
    assert_ok(fan_store_retain(store, &retention, &one, NULL));
    assert_int_equal(one.groups_expired, 1);
    assert_string_equal(one.group, "crowd");
    check_nobodys(store, 0);
    /* One that takes its name begins as any other does. */
    const struct fan_group_options options = { .size = FAN_GROUP_OPTIONS_SIZE,
                                               .start = FAN_START_BEGINNING };
    struct fan_claim claims[500];
    const struct fan_claim_options claim = { .size = FAN_CLAIM_OPTIONS_SIZE,
                                             .owner = "me",
                                             .limit = 500 };
    struct fan_batch *batch = batch_new();
    assert_ok(fan_group_create(store, &crowd, &options, NULL));
    assert_ok(fan_group_claim(store, &crowd, &claim, batch, claims));
    assert_int_equal(fan_batch_count(batch), 500);
    assert_int_equal(claims[0].seq, 1);
    assert_ok(fan_group_delete(store, &crowd));
    await_cleared(place);
    check_nobodys(store, 0);
    fan_batch_free(batch);
    fan_store_close(store);
    pthread_mutex_destroy(&clock.mutex);
}

static void drop_by_hand(const struct place *place)
{
    run_sql(place, "INSERT INTO meta SELECT 'dropped ' || id, 0 FROM grp; DELETE FROM grp");
}

/* As many as a group may be owed are too many for one transaction: appends go on between parts. */
static void test_P11_what_a_group_leaves_goes_in_parts(void **state)
{
    const struct place *place = *state;
    void *self = NULL;
    uint64_t epoch = 0;
    struct fan_store *store = store_open(place->uri);
    make_crowd(store, 3000);
    assert_ok(fan__sqlite_provider.open(place->uri, fan_env_default(), &self, &epoch, NULL));
    drop_by_hand(place);
    int64_t rows = 3000;
    for (bool more = true; more;) {
        check_nobodys(store, 0);
        assert_ok(fan__sqlite_write_begin_unsynced(self));
        more = fan__sqlite_group_clear(self, 250);
        assert_ok(fan__sqlite_write_end(self, FAN_OK, 0, NULL));
        int64_t left = ask(place, "SELECT count(*) FROM delivery");
        assert_int_equal(rows - left, more && rows > 0 ? 250 : 0);
        rows = left;
        store_say(store, "a.b.c", "topic-0");
    }
    assert_int_equal(rows, 0);
    assert_int_equal(ask(place, "SELECT count(*) FROM meta WHERE key LIKE 'dropped%'"), 0);
    fan__sqlite_provider.close(self);
    fan_store_close(store);
}

/* Also what a process left that died before. What was owed to it alone is finished. */
static void test_P05_a_deleted_group_leaves_nothing(void **state)
{
    const struct place *place = *state;
    struct fan_store *store = store_open(place->uri);
    make_crowd(store, 2500);
    drop_by_hand(place);
    make_crowd(store, 500);
    assert_ok(fan_group_delete(store, &crowd));
    await_cleared(place);
    make_crowd(store, 500);
    fan_store_close(store);
    drop_by_hand(place);
    store = store_open(place->uri);
    await_cleared(place);
    assert_int_equal(retain_all(store, (struct fan_retention){ .count = 10 }).removed, 3490);
    check_nobodys(store, 0);
    fan_store_close(store);
}

/* The child appends, claims, settles and retains until it is killed. */
static void work_until_killed(const char *uri, int ready_fd)
{
    struct fan_store *store = NULL;
    if (fan_store_open(uri, NULL, &store, NULL) != FAN_OK)
        _exit(1);
    const struct fan_group_name group = { .group = "g", .handler = "" };
    struct fan_batch *batch = NULL;
    struct fan_claim claims[20];
    const struct fan_claim_options options = { .size = FAN_CLAIM_OPTIONS_SIZE,
                                               .owner = "me",
                                               .limit = 20 };
    if (fan_batch_new(NULL, &batch) != FAN_OK)
        _exit(1);
    for (unsigned i = 0;; i++) {
        char topic[16];
        snprintf(topic, sizeof(topic), "t%u", i);
        for (int j = 0; j < 5; j++) {
            struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE,
                                             .type = "a.b.c",
                                             .topic = topic };
            struct fan_event *event = NULL;
            if (fan_event_new(&draft, NULL, &event, NULL) != FAN_OK)
                _exit(1);
            struct fan_append item = { .event = event };
            if (fan_store_append(store, &item, 1, NULL) != FAN_OK)
                _exit(1);
            fan_event_free(event, NULL);
        }
        if (fan_group_claim(store, &group, &options, batch, claims) == FAN_OK) {
            struct fan_settle settles[20];
            for (size_t j = 0; j < fan_batch_count(batch); j++)
                settles[j] = (struct fan_settle){ .seq = claims[j].seq,
                                                  .token = claims[j].token,
                                                  .verdict = claims[j].seq % 7 ? FAN_VERDICT_DONE
                                                                               : FAN_VERDICT_FAIL };
            if (fan_group_settle(store, &group, settles, fan_batch_count(batch)) != FAN_OK)
                _exit(1);
        }
        struct fan_retention retention = { .size = FAN_RETENTION_SIZE, .count = 40, .limit = 13 };
        struct fan_retained one = { .size = sizeof(one) };
        if (fan_store_retain(store, &retention, &one, NULL) != FAN_OK)
            _exit(1);
        if (i == 3 && write(ready_fd, "x", 1) != 1)
            _exit(1);
    }
}

static void test_P11_killed_while_retaining_the_log_is_sound(void **state)
{
    const struct place *place = *state;
    const struct fan_group_name group = { .group = "g", .handler = "" };
    const struct fan_group_options options = { .size = FAN_GROUP_OPTIONS_SIZE };
    struct fan_store *store = store_open(place->uri);
    assert_ok(fan_group_create(store, &group, &options, NULL));
    fan_store_close(store);
    int rounds = test_is_soak() ? 200 : 12;
    uint64_t trimmed_seq = 0;
    for (int round = 0; round < rounds; round++) {
        int fds[2];
        assert_int_equal(pipe(fds), 0);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0)
            work_until_killed(place->uri, fds[1]);
        close(fds[1]);
        char byte;
        assert_int_equal(read(fds[0], &byte, 1), 1);
        close(fds[0]);
        /* Somewhere in what comes next; where, the scheduler says. */
        for (int i = 0; i < round * 50; i++)
            sched_yield();
        assert_int_equal(kill(child, SIGKILL), 0);
        assert_int_equal(waitpid(child, NULL, 0), child);
        store = store_open(place->uri);
        assert_sound(store);
        struct fan_query query = { .size = FAN_QUERY_SIZE };
        struct fan_read_result result;
        struct fan_batch *batch = batch_new();
        assert_ok(fan_store_read(store, 0, &query, batch, &result));
        assert_true(result.trimmed_seq >= trimmed_seq);
        trimmed_seq = result.trimmed_seq;
        fan_batch_free(batch);
        fan_store_close(store);
    }
    assert_true(trimmed_seq > 0);
}

/* A backup that is killed leaves its temporary file, and never one under the name. */
static void test_P24_killed_while_backing_up_nothing_half_is_there(void **state)
{
    const struct place *place = *state;
    struct fan_store *store = store_open(place->uri);
    for (unsigned i = 0; i < 10; i++)
        say_many(store, 1000, true, (size_t)i * 1000);
    fan_store_close(store);
    char copy[160];
    size_t whole = 0;
    for (int round = 0; round < 16; round++) {
        snprintf(copy, sizeof(copy), "%s/copy-%d", place->folder, round);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            if (fan_store_open(place->uri, NULL, &store, NULL) != FAN_OK)
                _exit(1);
            _exit(fan_store_backup(store, copy, NULL) == FAN_OK ? 0 : 1);
        }
        /* Somewhere on its way. */
        (void)poll(NULL, 0, round * 2);
        (void)kill(child, SIGKILL);
        assert_int_equal(waitpid(child, NULL, 0), child);
        if (access(copy, F_OK) != 0)
            continue;
        whole++;
        char target[160];
        char uri[200];
        snprintf(target, sizeof(target), "%s/log-%d", place->folder, round);
        snprintf(uri, sizeof(uri), "sqlite:%s", target);
        struct fan_error error = FAN_ERROR_INIT;
        if (fan_store_restore(copy, uri, NULL, &error) != FAN_OK)
            fail_msg("%s", error.message);
    }
    print_message("# %zu of 16 were done before they were killed\n", whole);
    store = store_open(place->uri);
    assert_sound(store);
    fan_store_close(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        at_a_place(test_P11_series_and_keys_go_with_their_events),
        at_a_place(test_P11_the_file_does_not_grow_with_what_comes_and_goes),
        at_a_place(test_P11_marks_are_right_when_processes_share_the_log),
        at_a_place(test_P11_old_marks_are_thinned),
        at_a_place(test_P11_appends_go_on_between_slices),
        at_a_place(test_P11_an_expired_group_is_gone_at_once),
        at_a_place(test_P11_what_a_group_leaves_goes_in_parts),
        at_a_place(test_P05_a_deleted_group_leaves_nothing),
        at_a_place(test_P11_killed_while_retaining_the_log_is_sound),
        at_a_place(test_P24_killed_while_backing_up_nothing_half_is_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
