/*
 * The whole chain over a store that fails: it is down, without space, or the clock is set. What can
 * wait waits up to its deadline, the rest is told; all goes on by itself, nothing is lost and
 * nothing runs twice (R01, R02).
 */
#include "probe.h"

#include "base/status.h"
#include "store/sqlite/sqlite.h"

#include "../store/vfs_power.h"

#include <fanfare/batch.h>
#include <fanfare/keep.h>

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>

/* The SQLite provider, but its calls answer `status` while that is not FAN_OK. */
static struct {
    struct fan__mutex mutex;
    struct fan__cond changed;
    enum fan_status status;
    unsigned failures; /* since it was last set */
    unsigned appends;
} sick = { .mutex = { PTHREAD_MUTEX_INITIALIZER } };

static enum fan_status sick_now(bool append)
{
    fan__mutex_lock(&sick.mutex);
    enum fan_status status = sick.status;
    sick.failures += status != FAN_OK;
    sick.appends += append && status != FAN_OK;
    fan__cond_broadcast(&sick.changed);
    fan__mutex_unlock(&sick.mutex);
    return status;
}

static void set_sick(enum fan_status status)
{
    fan__mutex_lock(&sick.mutex);
    sick.status = status;
    sick.failures = sick.appends = 0;
    fan__mutex_unlock(&sick.mutex);
}

static void wait_for_failures(unsigned failures, unsigned appends)
{
    fan__mutex_lock(&sick.mutex);
    while (sick.failures < failures || sick.appends < appends)
        fan__cond_wait(&sick.changed, &sick.mutex);
    fan__mutex_unlock(&sick.mutex);
}

static enum fan_status sick_append(void *self, struct fan_append *items, size_t count,
                                   struct fan_error *error)
{
    enum fan_status status = sick_now(true);
    if (status != FAN_OK)
        return fan__fail(error, status, "", "the test's store is away");
    return fan__sqlite_provider.append(self, items, count, error);
}

static enum fan_status sick_read(void *self, uint64_t after_seq, const struct fan_query *query,
                                 struct fan_batch *batch, struct fan_read_result *ret_result)
{
    enum fan_status status = sick_now(false);
    return status != FAN_OK ? status
                            : fan__sqlite_provider.read(self, after_seq, query, batch, ret_result);
}

static enum fan_status sick_head(void *self, uint64_t *ret_seq)
{
    enum fan_status status = sick_now(false);
    return status != FAN_OK ? status : fan__sqlite_provider.head(self, ret_seq);
}

static enum fan_status sick_claim(void *self, const struct fan_group_name *name,
                                  const struct fan_claim_options *options, struct fan_batch *batch,
                                  struct fan_claim *claims)
{
    enum fan_status status = sick_now(false);
    return status != FAN_OK ? status
                            : fan__sqlite_provider.claim(self, name, options, batch, claims);
}

static enum fan_status sick_settle(void *self, const struct fan_group_name *name,
                                   struct fan_settle *items, size_t count)
{
    enum fan_status status = sick_now(false);
    return status != FAN_OK ? status : fan__sqlite_provider.settle(self, name, items, count);
}

static enum fan_status sick_renew(void *self, const struct fan_group_name *name,
                                  struct fan_settle *items, size_t count, uint32_t lease_ms)
{
    enum fan_status status = sick_now(false);
    return status != FAN_OK ? status
                            : fan__sqlite_provider.renew(self, name, items, count, lease_ms);
}

static enum fan_status sick_retain(void *self, const struct fan_retention *retention,
                                   struct fan_retained *ret_retained, struct fan_error *error)
{
    enum fan_status status = sick_now(false);
    if (status != FAN_OK)
        return fan__fail(error, status, "", "the test's store is away");
    return fan__sqlite_provider.retain(self, retention, ret_retained, error);
}

static struct fan_broker *broker_on_sick(const struct place *place,
                                         struct fan_broker_options *options)
{
    static struct fan_provider provider;
    provider = fan__sqlite_provider;
    provider.append = sick_append;
    provider.read = sick_read;
    provider.head = sick_head;
    provider.claim = sick_claim;
    provider.settle = sick_settle;
    provider.renew = sick_renew;
    provider.retain = sick_retain;
    fan__cond_init(&sick.changed);
    set_sick(FAN_OK);
    options->provider = &provider;
    return broker_with(place, options);
}

/* Publishes one id after the other, each until it is stored; gives up on nothing but the stop. */
struct source {
    pthread_t thread;
    struct fan_broker *broker;
    unsigned number;
    unsigned count;
    unsigned refusals;
    enum fan_status astray;
};

static void *source_main(void *context)
{
    struct source *source = context;
    for (unsigned i = 0; i < source->count; i++) {
        char id[32];
        snprintf(id, sizeof(id), "%u-%u", source->number, i);
        struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c", .id = id };
        enum fan_status status;
        while ((status = fan_broker_publish(source->broker, &draft, NULL, NULL)) == FAN_NO_SPACE ||
               status == FAN_IO || status == FAN_UNAVAILABLE) {
            source->refusals++;
            sched_yield();
        }
        if (status != FAN_OK)
            source->astray = status;
    }
    return NULL;
}

static void source_start(struct source *source)
{
    assert_int_equal(pthread_create(&source->thread, NULL, source_main, source), 0);
}

static void source_join(struct source *source)
{
    pthread_join(source->thread, NULL);
    assert_int_equal(source->astray, FAN_OK);
}

struct answers {
    struct fan__mutex mutex;
    struct fan__cond changed;
    size_t count;
    enum fan_status last;
    char message[256];
};

static void answers_init(struct answers *answers)
{
    *answers = (struct answers){ .count = 0 };
    fan__mutex_init(&answers->mutex);
    fan__cond_init(&answers->changed);
}

static void answer(void *context, const struct fan_published *published)
{
    struct answers *answers = context;
    fan__mutex_lock(&answers->mutex);
    answers->count++;
    answers->last = published->status;
    snprintf(answers->message, sizeof(answers->message), "%s", published->error->message);
    fan__cond_broadcast(&answers->changed);
    fan__mutex_unlock(&answers->mutex);
}

static void answers_wait(struct answers *answers, size_t count)
{
    fan__mutex_lock(&answers->mutex);
    while (answers->count < count)
        fan__cond_wait(&answers->changed, &answers->mutex);
    fan__mutex_unlock(&answers->mutex);
}

static void check_all_completed(struct fan_broker *broker, uint64_t events)
{
    struct fan_store_stats stats = { .size = sizeof(stats) };
    assert_ok(fan_store_stats(fan_broker_store(broker), &stats));
    assert_int_equal(stats.events, events);
    assert_int_equal(stats.completed, events);
}

/* ------------------------------------------------------------------ down */

static void test_R01_publishes_wait_for_a_store_that_is_down(void **state)
{
    struct place *place = *state;
    struct fan_broker_options broker_options = FAN_BROKER_OPTIONS_INIT;
    broker_options.queue_count_max = 20;
    struct fan_broker *broker = broker_on_sick(place, &broker_options);
    struct probe probe;
    struct probe live;
    probe_init(&probe);
    probe_init(&live);
    probe_handle(&probe, broker, "mail");
    probe_handle(&live, broker, NULL);
    struct fan_reader *reader = subscribe_from(broker, FAN_START_NOW, (struct fan_cursor){ 0, 0 });
    publish_times(broker, 10);
    set_sick(FAN_UNAVAILABLE);
    struct source sources[4];
    for (unsigned i = 0; i < 4; i++) {
        sources[i] = (struct source){ .broker = broker, .number = i, .count = 5 };
        source_start(&sources[i]);
    }
    struct answers answers;
    answers_init(&answers);
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
    size_t taken = 0;
    enum fan_status status;
    /* The queue has its bound, also while nothing leaves it. */
    while ((status = fan_broker_publish_async(broker, &draft, answer, &answers, NULL)) == FAN_OK)
        assert_true(++taken <= 40);
    assert_int_equal(status, FAN_FULL);
    assert_true(taken > 0);
    wait_for_failures(3, 3);
    /* What was told already is read meanwhile. */
    for (uint64_t seq = 1; seq <= 10; seq++)
        assert_int_equal(next_seq(reader), seq);
    assert_int_equal(answers.count, 0);
    set_sick(FAN_OK);
    for (unsigned i = 0; i < 4; i++) {
        source_join(&sources[i]);
        assert_int_equal(sources[i].refusals, 0);
    }
    answers_wait(&answers, taken);
    assert_ok(answers.last);
    size_t total = 10 + 20 + taken;
    for (uint64_t seq = 11; seq <= total; seq++)
        assert_int_equal(next_seq(reader), seq);
    probe_wait_done(&probe, total);
    probe_wait_done(&live, total);
    assert_ok(fan_broker_stop(broker, 60000));
    check_all_completed(broker, total);
    assert_int_equal(probe.done, total);
    fan_reader_free(reader);
    fan_broker_free(broker);
}

static void test_R01_past_its_deadline_a_publish_tells_that_the_store_is_down(void **state)
{
    struct place *place = *state;
    struct fan_broker_options broker_options = FAN_BROKER_OPTIONS_INIT;
    broker_options.publish_timeout_ms = 250;
    struct fan_broker *broker = broker_on_sick(place, &broker_options);
    struct answers answers;
    answers_init(&answers);
    set_sick(FAN_UNAVAILABLE);
    struct fan_event_draft drafts[2] = { { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" },
                                         { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.d" } };
    assert_ok(fan_broker_publish_async(broker, &drafts[0], answer, &answers, NULL));
    struct fan_error error = FAN_ERROR_INIT;
    assert_int_equal(fan_broker_publish(broker, &drafts[0], NULL, &error), FAN_UNAVAILABLE);
    assert_int_equal(error.status, FAN_UNAVAILABLE);
    assert_string_equal(error.message, "the test's store is away");
    answers_wait(&answers, 1);
    assert_int_equal(answers.last, FAN_UNAVAILABLE);
    assert_string_equal(answers.message, "the test's store is away");
    struct fan_unit unit = {
        .size = FAN_UNIT_SIZE, .drafts = drafts, .count = 2, .timeout_ms = 120
    };
    assert_int_equal(fan_broker_publish_unit(broker, &unit, NULL, &error), FAN_UNAVAILABLE);
    assert_int_equal(stats_of(broker).published, 0);
    assert_int_equal(stats_of(broker).queued, 0);
    /* What was refused is not stored later. */
    set_sick(FAN_OK);
    assert_int_equal(publish(broker, "a.b.e", NULL), 1);
    fan_broker_free(broker);
}

static void *stop_it(void *context)
{
    return fan_broker_stop(context, 50) == FAN_TIMED_OUT ? NULL : context;
}

static void test_R01_H09_a_stop_refuses_what_waits_for_a_store_that_is_down(void **state)
{
    struct place *place = *state;
    struct fan_broker_options broker_options = FAN_BROKER_OPTIONS_INIT;
    struct fan_broker *broker = broker_on_sick(place, &broker_options);
    struct answers answers;
    answers_init(&answers);
    set_sick(FAN_UNAVAILABLE);
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
    for (int i = 0; i < 3; i++)
        assert_ok(fan_broker_publish_async(broker, &draft, answer, &answers, NULL));
    wait_for_failures(1, 1);
    pthread_t stopper;
    void *failed;
    assert_int_equal(pthread_create(&stopper, NULL, stop_it, broker), 0);
    pthread_join(stopper, &failed);
    assert_null(failed);
    assert_int_equal(answers.count, 3);
    assert_int_equal(answers.last, FAN_CLOSED);
    set_sick(FAN_OK);
    check_all_completed(broker, 0);
    fan_broker_free(broker);
}

/* It fails in every way, in the middle of everything, again and again. */
static void test_R01_a_store_that_comes_and_goes_loses_and_repeats_nothing(void **state)
{
    static const enum fan_status ways[] = { FAN_UNAVAILABLE, FAN_NO_SPACE, FAN_IO };
    struct place *place = *state;
    struct fan_retention retention = { .size = FAN_RETENTION_SIZE, .count = 50, .limit = 20 };
    struct fan_broker_options broker_options = FAN_BROKER_OPTIONS_INIT;
    broker_options.retry = (struct fan_retry_policy){ 3, 1, 5, 2.0, 0, false };
    broker_options.retention = &retention;
    broker_options.retention_interval_ms = 5;
    struct fan_broker *broker = broker_on_sick(place, &broker_options);
    struct probe probes[3];
    static const char *const groups[] = { "mail", "audit", "again" };
    for (int i = 0; i < 3; i++) {
        probe_init(&probes[i]);
        probe_handle(&probes[i], broker, groups[i]);
    }
    probes[2].verdict = FAN_VERDICT_RETRY;
    probes[2].fails_attempts = 1;
    struct source sources[4];
    for (unsigned i = 0; i < 4; i++) {
        sources[i] = (struct source){ .broker = broker, .number = i, .count = 100 };
        source_start(&sources[i]);
    }
    for (unsigned i = 0; i < 9; i++) {
        set_sick(ways[i % 3]);
        wait_for_failures(5, 0);
        set_sick(FAN_OK);
        probe_wait_done(&probes[0], (i + 1) * 20);
    }
    for (unsigned i = 0; i < 4; i++)
        source_join(&sources[i]);
    wait_for_stats(broker, handled, 1600);
    wait_for_stats(broker, retried, 400);
    while (stats_of(broker).removed < 350)
        sched_yield();
    assert_ok(fan_broker_stop(broker, 60000));
    struct fan_broker_stats stats = stats_of(broker);
    assert_int_equal(stats.published, 400);
    assert_int_equal(stats.handled, 1600);
    assert_int_equal(stats.lost, 0);
    assert_int_equal(stats.dead, 0);
    assert_true(stats.retention_failures + stats.commit_failures > 0);
    for (uint64_t seq = 1; seq <= 400; seq++) {
        assert_int_equal(probes[0].attempts[seq], 1);
        assert_int_equal(probes[1].attempts[seq], 1);
        assert_int_equal(probes[2].attempts[seq], 2);
    }
    check_all_completed(broker, 50);
    fan_broker_free(broker);
}

/* ------------------------------------------------------------------ no space */

static char text[2002];

static enum fan_status publish_much(struct fan_broker *broker)
{
    memset(text, 'x', sizeof(text));
    text[0] = text[sizeof(text) - 1] = '"';
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE,
                                     .type = "a.b.c",
                                     .payload = { text, sizeof(text) } };
    return fan_broker_publish(broker, &draft, NULL, NULL);
}

/* Publishes under handlers until the disk is full, reads, makes room, and ends all. */
static void fill_and_recover(const char *uri, void (*relieve)(const void *), const void *context)
{
    struct place place;
    snprintf(place.uri, sizeof(place.uri), "%s", uri);
    struct fan_broker *broker = broker_started(&place);
    struct probe probes[2];
    static const char *const groups[] = { "mail", "audit" };
    for (int i = 0; i < 2; i++) {
        probe_init(&probes[i]);
        probe_handle(&probes[i], broker, groups[i]);
    }
    struct fan_reader *reader = subscribe_from(broker, FAN_START_NOW, (struct fan_cursor){ 0, 0 });
    size_t stored = 0;
    enum fan_status status;
    while ((status = publish_much(broker)) == FAN_OK)
        assert_true(++stored < 20000);
    assert_int_equal(status, FAN_NO_SPACE);
    assert_true(stored > 10);
    /* Streams and reads go on. */
    for (uint64_t seq = 1; seq <= stored; seq++)
        assert_int_equal(next_seq(reader), seq);
    struct fan_reader *again =
        subscribe_from(broker, FAN_START_BEGINNING, (struct fan_cursor){ 0, 0 });
    for (uint64_t seq = 1; seq <= stored; seq++)
        assert_int_equal(next_seq(again), seq);
    fan_reader_free(again);
    relieve(context);
    for (int i = 0; i < 50; i++, stored++)
        assert_ok(publish_much(broker));
    for (int i = 0; i < 2; i++)
        probe_wait_done(&probes[i], stored);
    assert_ok(fan_broker_stop(broker, 60000));
    for (int i = 0; i < 2; i++)
        assert_int_equal(probes[i].done, stored);
    check_all_completed(broker, stored);
    fan_reader_free(reader);
    fan_broker_free(broker);
}

static void relieve_vfs(const void *context)
{
    (void)context;
    power_set_capacity(0);
}

static void test_R01_handlers_outlive_a_full_disk(void **state)
{
    (void)state;
    power_install(7);
    struct fan_store *store = NULL;
    assert_ok(fan_store_open("sqlite:/power/full.db?vfs=" POWER_VFS, NULL, &store, NULL));
    power_set_capacity(power_used() + 2000000);
    fan_store_close(store);
    fill_and_recover("sqlite:/power/full.db?vfs=" POWER_VFS, relieve_vfs, NULL);
    power_remove();
}

#define SKIPPED 77

static void relieve_mount(const void *context)
{
    if (unlink(context) != 0)
        _exit(1);
}

static int run_mounted(const struct place *place)
{
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("fanfare", place->folder, "tmpfs", 0, "size=8m") != 0)
        return SKIPPED;
    char filler[96];
    snprintf(filler, sizeof(filler), "%s/filler", place->folder);
    int file = open(filler, O_CREAT | O_WRONLY, 0600);
    if (file < 0 || posix_fallocate(file, 0, 5 << 20) != 0)
        return 1;
    close(file);
    fill_and_recover(place->uri, relieve_mount, filler);
    return 0;
}

static void test_R01_handlers_outlive_a_full_file_system(void **state)
{
    struct place *place = *state;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        setenv("CMOCKA_TEST_ABORT", "1", 1);
        _exit(run_mounted(place));
    }
    int result = 0;
    assert_int_equal(waitpid(child, &result, 0), child);
    assert_true(WIFEXITED(result));
    if (WEXITSTATUS(result) == SKIPPED) {
        print_message("# skipped: mounting a tmpfs needs root\n");
        skip();
    }
    assert_int_equal(WEXITSTATUS(result), 0);
}

/* ------------------------------------------------------------------ clocks */

static struct {
    struct fan__mutex mutex;
    int64_t wrong_us;
} clock_of_test = { .mutex = { PTHREAD_MUTEX_INITIALIZER } };

static int64_t wrong_wall_us(void *context)
{
    (void)context;
    const struct fan_env *real = fan_env_default();
    fan__mutex_lock(&clock_of_test.mutex);
    int64_t wrong_us = clock_of_test.wrong_us;
    fan__mutex_unlock(&clock_of_test.mutex);
    return real->wall_us(real->context) + wrong_us;
}

static void set_wrong(int64_t wrong_us)
{
    fan__mutex_lock(&clock_of_test.mutex);
    clock_of_test.wrong_us = wrong_us;
    fan__mutex_unlock(&clock_of_test.mutex);
}

static void check_ids_rise(struct fan_broker *broker, size_t total)
{
    struct fan_batch *batch = NULL;
    struct fan_read_result result = { 0 };
    char last[64] = "";
    uint64_t last_seq = 0;
    size_t count = 0;
    assert_ok(fan_batch_new(NULL, &batch));
    do {
        assert_ok(
            fan_store_read(fan_broker_store(broker), result.scanned_seq, NULL, batch, &result));
        for (size_t i = 0; i < fan_batch_count(batch); i++, count++) {
            const struct fan_event *event = fan_batch_event(batch, i);
            assert_true(fan_event_seq(event) > last_seq);
            assert_true(strcmp(fan_event_id(event), last) > 0);
            last_seq = fan_event_seq(event);
            snprintf(last, sizeof(last), "%s", fan_event_id(event));
        }
    } while (result.scanned_seq < result.head_seq);
    assert_int_equal(count, total);
    fan_batch_free(batch);
}

static void test_R02_work_goes_on_while_the_wall_clock_is_set(void **state)
{
    static const int64_t wrongs_us[] = { -3600000000, 86400000000, 0, 86400000000, -3600000000 };
    const size_t rounds = sizeof(wrongs_us) / sizeof(wrongs_us[0]);
    struct place *place = *state;
    struct fan_env env = *fan_env_default();
    env.wall_us = wrong_wall_us;
    struct fan_broker_options broker_options = FAN_BROKER_OPTIONS_INIT;
    broker_options.env = &env;
    broker_options.lease_ms = 1000;
    broker_options.retry = (struct fan_retry_policy){ 3, 20, 20, 1.0, 0, false };
    struct fan_broker *broker = broker_with(place, &broker_options);
    struct probe probe;
    struct probe held;
    probe_init(&probe);
    probe_init(&held);
    probe.verdict = FAN_VERDICT_RETRY;
    probe.fails_attempts = 1;
    held.held = 1; /* one stands still meanwhile: its lease is renewed past the lease's length */
    held.held_seq = 1;
    probe_handle(&probe, broker, "mail");
    struct fan_handler_options options = probe_options(&held, "audit", "first.*");
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    int64_t begun_ns = fan__deadline_ns(0);
    publish(broker, "first.event", NULL);
    probe_wait_begun(&held, 1);
    size_t total = 1;
    for (size_t i = 0; i < rounds; i++) {
        struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE,
                                         .type = "a.b.c",
                                         .deliver_at_us = wrong_wall_us(NULL) + 100000 };
        assert_ok(fan_broker_publish(broker, &draft, NULL, NULL));
        for (int n = 0; n < 19; n++)
            publish(broker, "a.b.c", NULL);
        total += 20;
        set_wrong(wrongs_us[i]);
        for (int n = 0; n < 20; n++)
            publish(broker, "a.b.c", NULL);
        total += 20;
        /* Each has two attempts: delays and retries end while the clock is wrong. */
        probe_wait_done(&probe, 2 * total);
        fan__mutex_lock(&held.mutex);
        int64_t until_ns = begun_ns + (int64_t)(i + 1) * 400000000;
        while (fan__deadline_ns(0) < until_ns)
            fan__cond_wait_until(&held.changed, &held.mutex, until_ns);
        fan__mutex_unlock(&held.mutex);
        set_wrong(0);
    }
    probe_let_go(&held);
    probe_wait_done(&held, 1);
    assert_ok(fan_broker_stop(broker, 60000));
    struct fan_broker_stats stats = stats_of(broker);
    assert_int_equal(stats.lost, 0);
    assert_int_equal(stats.dead, 0);
    assert_int_equal(stats.handled, 2 * total + 1);
    assert_int_equal(held.begun, 1);
    check_all_completed(broker, total);
    check_ids_rise(broker, total);
    fan_broker_free(broker);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_sqlite(test_R01_handlers_outlive_a_full_file_system),
        on_sqlite(test_R01_publishes_wait_for_a_store_that_is_down),
        on_sqlite(test_R01_past_its_deadline_a_publish_tells_that_the_store_is_down),
        on_sqlite(test_R01_H09_a_stop_refuses_what_waits_for_a_store_that_is_down),
        on_sqlite(test_R01_a_store_that_comes_and_goes_loses_and_repeats_nothing),
        cmocka_unit_test(test_R01_handlers_outlive_a_full_disk),
        on_every_store(test_R02_work_goes_on_while_the_wall_clock_is_set),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
