/*
 * A disk that is full: appends are refused with FAN_NO_SPACE, reads go on, and when there is space
 * again so do appends, on the same open store (R01, P05).
 */
#include "sqlite_support.h"
#include "vfs_power.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

#define APPEND_COUNT_MAX 20000

static char text[2002];

static enum fan_status append_one(struct fan_store *store, uint64_t *ret_seq)
{
    memset(text, 'x', sizeof(text));
    text[0] = '"';
    text[sizeof(text) - 1] = '"';
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE,
                                     .type = "a.b.c",
                                     .topic = "t",
                                     .payload = { text, sizeof(text) } };
    struct fan_append item = { 0 };
    enum fan_status status = store_add(store, &draft, &item);
    *ret_seq = item.ret_seq;
    return status;
}

/* Appends until it is refused; the refusal says why. Gives the last sequence that was stored. */
static uint64_t fill(struct fan_store *store, uint64_t stored)
{
    uint64_t seq = 0;
    enum fan_status status;
    while ((status = append_one(store, &seq)) == FAN_OK) {
        assert_true(seq > stored);
        stored = seq;
        assert_true(stored < APPEND_COUNT_MAX);
    }
    assert_int_equal(status, FAN_NO_SPACE);
    return stored;
}

static uint64_t count_all(struct fan_store *store)
{
    struct fan_batch *batch = batch_new();
    struct fan_read_result result = { 0 };
    uint64_t count = 0;
    do {
        assert_ok(fan_store_read(store, result.scanned_seq, NULL, batch, &result));
        count += fan_batch_count(batch);
    } while (result.scanned_seq < result.head_seq);
    fan_batch_free(batch);
    return count;
}

/* Full, still readable, refused again, and on again after `relieve`. */
static void check_full(struct fan_store *store, void (*relieve)(void *context), void *context)
{
    uint64_t stored = fill(store, 0);
    assert_true(stored > 10);
    assert_int_equal(count_all(store), stored);
    /* A checkpoint may have made a little room in the meantime; it ends the same way. */
    stored = fill(store, stored);
    assert_int_equal(count_all(store), stored);
    uint64_t seq = 0;
    uint64_t head = 0;
    assert_ok(fan_store_head(store, &head));
    assert_int_equal(head, stored);
    relieve(context);
    for (uint64_t i = 1; i <= 50; i++) {
        assert_ok(append_one(store, &seq));
        assert_int_equal(seq, stored + i);
    }
    assert_int_equal(count_all(store), stored + 50);
}

static void relieve_vfs(void *context)
{
    (void)context;
    power_set_capacity(0);
}

static void test_R01_a_full_disk_refuses_and_recovers(void **state)
{
    (void)state;
    for (unsigned frames = 16; frames <= 8000; frames += 7984) {
        char uri[128];
        snprintf(uri, sizeof(uri), "sqlite:/power/full.db?vfs=%s&checkpoint_frames=%u", POWER_VFS,
                 frames);
        power_install(frames);
        struct fan_store *store = store_open(uri);
        power_set_capacity(power_used() + 2000000);
        check_full(store, relieve_vfs, NULL);
        fan_store_close(store);
        store = store_open(uri);
        assert_true(count_all(store) > 60);
        fan_store_close(store);
        power_remove();
    }
}

static enum fan_status expect(struct fan_store *store, uint64_t last_seq)
{
    const struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE,
                                           .type = "a.b.c",
                                           .topic = "t" };
    const struct fan_expectation expectation = { .size = sizeof(expectation),
                                                 .key = "t",
                                                 .last_seq = last_seq };
    struct fan_event *event = event_of(&draft);
    struct fan_append item = { .event = event, .expectation = &expectation };
    enum fan_status status = fan_store_append(store, &item, 1, NULL);
    fan_event_free(event, NULL);
    return status == FAN_OK ? item.ret_status : status;
}

/*
 * The first who expects something of a topic has all processes keep its last sequence at hand. When
 * that is not committed, nobody does, nor does who tried.
 */
static void test_P23_an_expectation_that_was_not_committed_misleads_nobody(void **state)
{
    (void)state;
    char uri[128];
    snprintf(uri, sizeof(uri), "sqlite:/power/key.db?vfs=%s", POWER_VFS);
    power_install(1);
    struct fan_store *store = store_open(uri);
    struct fan_store *other = store_open(uri);
    assert_int_equal(store_say(store, "a.b.c", "t"), 1);
    assert_int_equal(store_say(other, "a.b.c", "t"), 2);
    power_fail_syncs(1);
    assert_int_equal(expect(store, 2), FAN_UNKNOWN);
    assert_int_equal(store_say(store, "a.b.c", "t"), 3);
    assert_int_equal(store_say(other, "a.b.c", "t"), 4);
    assert_int_equal(expect(store, 3), FAN_CONFLICT);
    assert_int_equal(expect(other, 3), FAN_CONFLICT);
    assert_int_equal(expect(store, 4), FAN_OK);
    assert_int_equal(expect(other, 5), FAN_OK);
    fan_store_close(other);
    fan_store_close(store);
    power_remove();
}

static void id_of(struct fan_store *store, uint64_t seq, char id[64])
{
    struct fan_query query = { .size = FAN_QUERY_SIZE, .limit = 1 };
    struct fan_read_result result;
    struct fan_batch *batch = batch_new();
    assert_ok(fan_store_read(store, seq - 1, &query, batch, &result));
    assert_int_equal(fan_batch_count(batch), 1);
    snprintf(id, 64, "%s", fan_event_id(fan_batch_event(batch, 0)));
    fan_batch_free(batch);
}

/*
 * Whether to try again: a store that was refused rests as long as making room took, and longer on a
 * busy machine. What never comes back fails.
 */
static bool is_full_for_now(enum fan_status status, time_t until_s)
{
    if (status != FAN_NO_SPACE)
        return false;
    assert_true(time(NULL) < until_s);
    sched_yield();
    return true;
}

/*
 * What is freed on a small disk is as much as the write-ahead log holds: enough to move it all, and
 * then to go on for ever, since as much goes as comes. Were it used for more of that log, nothing
 * could be moved any more, nor anything removed to make room.
 */
static void test_R01_what_is_freed_is_not_eaten_by_the_write_ahead_log(void **state)
{
    (void)state;
    char uri[128];
    snprintf(uri, sizeof(uri), "sqlite:/power/full.db?vfs=%s", POWER_VFS);
    power_install(1);
    struct fan_store *store = store_open(uri);
    uint64_t before = power_used();
    power_set_capacity(before + 2000000);
    uint64_t stored = fill(store, 0);
    power_set_capacity(before + 4400000);
    uint64_t removed = 0;
    for (int i = 0; i < 6000; i++) {
        char id[64];
        uint64_t seq = 0;
        enum fan_status status;
        time_t until_s = time(NULL) + 60;
        do
            status = append_one(store, &seq);
        while (is_full_for_now(status, until_s));
        assert_ok(status);
        assert_int_equal(seq, stored + 1);
        stored = seq;
        id_of(store, ++removed, id);
        do
            status = fan_store_delete(store, id);
        while (is_full_for_now(status, until_s));
        assert_ok(status);
    }
    assert_int_equal(count_all(store), stored - removed);
    fan_store_close(store);
    power_remove();
}

/* What a child does with a limit or a mount of its own; failing assertions end it with a signal. */
static int run_apart(int (*run)(const struct place *place), const struct place *place)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        /* A failing assertion ends the child instead of going on with the parent's tests. */
        setenv("CMOCKA_TEST_ABORT", "1", 1);
        _exit(run(place));
    }
    int result = 0;
    assert_int_equal(waitpid(child, &result, 0), child);
    return WIFEXITED(result) ? WEXITSTATUS(result) : 255;
}

#define SKIPPED 77

static void relieve_limit(void *context)
{
    struct rlimit *limit = context;
    limit->rlim_cur = limit->rlim_max;
    if (setrlimit(RLIMIT_FSIZE, limit) != 0)
        _exit(1);
}

static int run_limited(const struct place *place)
{
    struct rlimit limit;
    signal(SIGXFSZ, SIG_IGN);
    struct fan_store *store = store_open(place->uri);
    if (getrlimit(RLIMIT_FSIZE, &limit) != 0)
        return 1;
    limit.rlim_cur = 400000;
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0)
        return 1;
    check_full(store, relieve_limit, &limit);
    fan_store_close(store);
    return 0;
}

static void test_R01_a_file_size_limit_refuses_and_recovers(void **state)
{
    assert_int_equal(run_apart(run_limited, *state), 0);
}

static void relieve_mount(void *context)
{
    if (unlink(context) != 0)
        _exit(1);
}

static int run_mounted(const struct place *place)
{
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("fanfare", place->folder, "tmpfs", 0, "size=2m") != 0)
        return SKIPPED;
    char filler[96];
    snprintf(filler, sizeof(filler), "%s/filler", place->folder);
    int file = open(filler, O_CREAT | O_WRONLY, 0600);
    if (file < 0 || posix_fallocate(file, 0, 1 << 20) != 0)
        return 1;
    close(file);
    struct fan_store *store = store_open(place->uri);
    check_full(store, relieve_mount, filler);
    fan_store_close(store);
    return 0;
}

static void test_R01_a_small_file_system_refuses_and_recovers(void **state)
{
    int result = run_apart(run_mounted, *state);
    if (result == SKIPPED) {
        print_message("# skipped: mounting a tmpfs needs root\n");
        skip();
    }
    assert_int_equal(result, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        at_a_place(test_R01_a_full_disk_refuses_and_recovers),
        cmocka_unit_test(test_P23_an_expectation_that_was_not_committed_misleads_nobody),
        cmocka_unit_test(test_R01_what_is_freed_is_not_eaten_by_the_write_ahead_log),
        at_a_place(test_R01_a_file_size_limit_refuses_and_recovers),
        at_a_place(test_R01_a_small_file_system_refuses_and_recovers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
