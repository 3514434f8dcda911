/* Floor 0: status texts, errors, buffers, hashes, cancel tokens, threads, forks. */
#include "../test.h"

#include "base/adopt.h"
#include "base/buffer.h"
#include "base/cancel.h"
#include "base/env.h"
#include "base/hash.h"
#include "base/status.h"
#include "base/thread.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void test_status_texts(void **state)
{
    (void)state;
    assert_string_equal(fan_status_text(FAN_NOT_FOUND), "not found");
    assert_string_equal(fan_status_name(FAN_NOT_FOUND), "FAN_NOT_FOUND");
    assert_string_equal(fan_status_text((enum fan_status)999), "unknown status");
}

static void test_error_is_cut_between_characters(void **state)
{
    (void)state;
    struct fan_error error = FAN_ERROR_INIT;
    char text[600];
    for (size_t i = 0; i + 1 < sizeof(text); i += 2)
        memcpy(text + i, "\xc3\xa4", 2);
    text[sizeof(text) - 2] = '\0';
    assert_int_equal(fan__fail(&error, FAN_INVALID, "type", "x%s", text), FAN_INVALID);
    assert_string_equal(error.field, "type");
    size_t length = strlen(error.message);
    assert_int_equal(length % 2, 1);
    assert_true(length > 250);
    assert_int_equal(fan__fail(NULL, FAN_IO, NULL, "no error to fill"), FAN_IO);
}

struct failing {
    struct fan_env env;
    int left;
};

static void *failing_resize(void *context, void *pointer, size_t size)
{
    struct failing *failing = context;
    if (failing->left-- <= 0)
        return NULL;
    return realloc(pointer, size);
}

static void test_buffer_remembers_a_failed_growth(void **state)
{
    (void)state;
    struct failing failing = { .env = *fan_env_default(), .left = 1 };
    failing.env.context = &failing;
    failing.env.resize = failing_resize;
    struct fan__buffer buffer;
    fan__buffer_init(&buffer, &failing.env);
    fan__buffer_add_format(&buffer, "%d-%s", 12, "ab");
    assert_int_equal(buffer.size, 5);
    char big[1000] = { 0 };
    fan__buffer_add(&buffer, big, sizeof(big));
    assert_true(buffer.failed);
    assert_int_equal(buffer.size, 5);
    assert_null(fan__buffer_take(&buffer, NULL));
    fan__buffer_clear(&buffer);
    fan__buffer_add_text(&buffer, "again");
    size_t size;
    char *text = fan__buffer_take(&buffer, &size);
    assert_string_equal(text, "again");
    assert_int_equal(size, 5);
    fan__free(&failing.env, text);
    fan__buffer_deinit(&buffer);
}

static void test_hash_depends_on_seed_and_every_byte(void **state)
{
    (void)state;
    const char text[] = "public.users.create";
    uint64_t hash = fan__hash(1, text, sizeof(text) - 1);
    assert_true(hash == fan__hash(1, text, sizeof(text) - 1));
    assert_true(hash != fan__hash(2, text, sizeof(text) - 1));
    for (size_t i = 0; i < sizeof(text) - 1; i++) {
        char other[sizeof(text)];
        memcpy(other, text, sizeof(text));
        other[i] = (char)(other[i] ^ 1);
        assert_true(hash != fan__hash(1, other, sizeof(text) - 1));
    }
    assert_true(fan__hash(1, NULL, 0) != fan__hash(2, NULL, 0));
}

struct version {
    size_t size;
    int first;
    int later;
};

static void test_R04_options_of_other_versions_are_adopted(void **state)
{
    (void)state;
    struct version ours;
    struct version theirs = { .size = offsetof(struct version, later), .first = 7, .later = 9 };
    const size_t size_min = offsetof(struct version, later);
    assert_true(fan__adopt(&ours, sizeof(ours), &theirs, size_min));
    assert_int_equal(ours.size, sizeof(ours));
    assert_int_equal(ours.first, 7);
    assert_int_equal(ours.later, 0);
    theirs.size = size_min - 1;
    assert_false(fan__adopt(&ours, sizeof(ours), &theirs, size_min));
    struct {
        struct version known;
        long unknown;
    } newer = { .known = { .size = sizeof(newer), .first = 1, .later = 2 } };
    assert_true(fan__adopt(&ours, sizeof(ours), &newer, size_min));
    assert_int_equal(ours.later, 2);
    newer.unknown = 1;
    assert_false(fan__adopt(&ours, sizeof(ours), &newer, size_min));
}

struct told {
    struct fan__cancel_entry entry;
    int count;
};

static void tell(struct fan__cancel_entry *entry)
{
    ((struct told *)(void *)entry)->count++;
}

static void test_cancel_tells_each_entry_once(void **state)
{
    (void)state;
    struct fan_cancel *cancel;
    assert_ok(fan_cancel_new(NULL, &cancel));
    struct told early = { .entry.fire = tell };
    struct told gone = { .entry.fire = tell };
    struct told late = { .entry.fire = tell };
    fan__cancel_add(cancel, &early.entry);
    fan__cancel_add(cancel, &gone.entry);
    fan__cancel_remove(&gone.entry);
    fan__cancel_remove(&gone.entry);
    assert_false(fan_cancel_fired(cancel));
    fan_cancel_fire(cancel);
    fan_cancel_fire(cancel);
    fan__cancel_add(cancel, &late.entry);
    assert_true(fan_cancel_fired(cancel));
    assert_int_equal(early.count, 1);
    assert_int_equal(gone.count, 0);
    assert_int_equal(late.count, 1);
    fan_cancel_unref(cancel);
    fan__cancel_remove(&early.entry);
    fan__cancel_remove(&late.entry);
    fan_cancel_unref(NULL);
}

/* An entry whose fire keeps the token's lock until it is let go. */
struct holding {
    struct fan__cancel_entry entry;
    struct fan_cancel *cancel;
    struct fan__thread thread;
    struct fan__mutex mutex;
    struct fan__cond changed;
    bool held;
    bool go;
};

static void hold(struct fan__cancel_entry *entry)
{
    struct holding *holding = (struct holding *)(void *)entry;
    fan__mutex_lock(&holding->mutex);
    holding->held = true;
    fan__cond_broadcast(&holding->changed);
    while (!holding->go)
        fan__cond_wait(&holding->changed, &holding->mutex);
    fan__mutex_unlock(&holding->mutex);
}

static void fire_and_hold(void *context)
{
    fan_cancel_fire(((struct holding *)context)->cancel);
}

static void use_inherited(struct fan_cancel *cancel)
{
    struct told entry = { .entry.fire = tell };
    alarm(20); /* what hangs is ended */
    fan_cancel_fire(cancel);
    fan__cancel_add(cancel, &entry.entry);
    fan__cancel_remove(&entry.entry);
    bool right = fan_cancel_fired(cancel) && entry.count == 1;
    fan_cancel_unref(cancel);
    _exit(right ? 0 : 1);
}

static void test_R03_a_token_in_a_forked_child_hangs_nobody(void **state)
{
    (void)state;
    struct holding holding = { .entry.fire = hold };
    fan__mutex_init(&holding.mutex);
    fan__cond_init(&holding.changed);
    assert_ok(fan_cancel_new(NULL, &holding.cancel));
    fan__cancel_add(holding.cancel, &holding.entry);
    assert_ok(fan__thread_start(&holding.thread, "fan-test", fire_and_hold, &holding));
    fan__mutex_lock(&holding.mutex);
    while (!holding.held)
        fan__cond_wait(&holding.changed, &holding.mutex);
    fan__mutex_unlock(&holding.mutex);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        use_inherited(holding.cancel);
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    fan__mutex_lock(&holding.mutex);
    holding.go = true;
    fan__cond_broadcast(&holding.changed);
    fan__mutex_unlock(&holding.mutex);
    fan__thread_join(&holding.thread);
    fan__cancel_remove(&holding.entry);
    fan_cancel_unref(holding.cancel);
    fan__cond_deinit(&holding.changed);
    fan__mutex_deinit(&holding.mutex);
}

static void check_thread(void *context)
{
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    char name[16];
    pthread_getname_np(pthread_self(), name, sizeof(name));
    *(bool *)context = sigismember(&mask, SIGTERM) == 1 && strcmp(name, "fan-test") == 0;
}

static void test_R03_threads_are_named_and_take_no_signals(void **state)
{
    (void)state;
    bool right = false;
    struct fan__thread thread = { 0 };
    assert_ok(fan__thread_start(&thread, "fan-test", check_thread, &right));
    fan__thread_join(&thread);
    fan__thread_join(&thread);
    assert_true(right);
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    assert_int_equal(sigismember(&mask, SIGTERM), 0);
}

static void test_R03_a_fork_is_noticed_in_the_child_alone(void **state)
{
    (void)state;
    unsigned before = fan__fork_generation();
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        _exit(fan__fork_generation() == before + 1 ? 0 : 1);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(fan__fork_generation(), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_status_texts),
        cmocka_unit_test(test_error_is_cut_between_characters),
        cmocka_unit_test(test_buffer_remembers_a_failed_growth),
        cmocka_unit_test(test_hash_depends_on_seed_and_every_byte),
        cmocka_unit_test(test_R04_options_of_other_versions_are_adopted),
        cmocka_unit_test(test_cancel_tells_each_entry_once),
        cmocka_unit_test(test_R03_threads_are_named_and_take_no_signals),
        cmocka_unit_test(test_R03_a_token_in_a_forked_child_hangs_nobody),
        cmocka_unit_test(test_R03_a_fork_is_noticed_in_the_child_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
