/* Floor 1: UUIDs of version 7 and 8, and the default instance id. */
#include "../test.h"

#include "base/thread.h"
#include "event/uuid.h"
#include "world.h"

#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static uint64_t ms_of(const unsigned char *uuid)
{
    uint64_t ms = 0;
    for (int i = 0; i < 6; i++)
        ms = ms << 8 | uuid[i];
    return ms;
}

static void test_R02_ids_rise_also_when_the_clock_goes_back(void **state)
{
    (void)state;
    struct world world;
    world_init(&world);
    fan__uuid_reset();
    unsigned char last[FAN__UUID_SIZE];
    fan__uuid_v7(&world.env, last);
    assert_true(ms_of(last) == (uint64_t)world.now_us / 1000);
    assert_int_equal(last[6] >> 4, 7);
    assert_int_equal(last[8] >> 6, 2);
    static const int64_t steps_us[] = { 0, 0, 1000, -3600000000, 0, 1, 3600000000, 999, -1, -1 };
    for (size_t i = 0; i < 20000; i++) {
        world.now_us += steps_us[i % (sizeof(steps_us) / sizeof(steps_us[0]))];
        unsigned char next[FAN__UUID_SIZE];
        fan__uuid_v7(&world.env, next);
        assert_true(memcmp(last, next, sizeof(last)) < 0);
        assert_int_equal(next[6] >> 4, 7);
        assert_int_equal(next[8] >> 6, 2);
        memcpy(last, next, sizeof(last));
    }
    world.now_us += INT64_C(86400000000);
    fan__uuid_v7(&world.env, last);
    assert_true(ms_of(last) == (uint64_t)world.now_us / 1000);
    fan__uuid_reset();
}

static void ones(void *context, void *bytes, size_t size)
{
    (void)context;
    memset(bytes, 0xff, size);
}

static void test_R02_randomness_never_turns_the_counter_back(void **state)
{
    (void)state;
    struct world world;
    world_init(&world);
    world.env.random = ones;
    fan__uuid_reset();
    unsigned char first[FAN__UUID_SIZE];
    unsigned char second[FAN__UUID_SIZE];
    fan__uuid_v7(&world.env, first);
    fan__uuid_v7(&world.env, second);
    assert_true(memcmp(first, second, sizeof(first)) < 0);
    assert_true(ms_of(first) == ms_of(second));
    fan__uuid_reset();
}

#define THREAD_COUNT 4
#define ID_COUNT 20000

struct maker {
    struct fan__thread thread;
    unsigned char (*ids)[FAN__UUID_SIZE];
    bool rising;
};

static void make_ids(void *context)
{
    struct maker *maker = context;
    maker->rising = true;
    for (size_t i = 0; i < ID_COUNT; i++) {
        fan__uuid_v7(NULL, maker->ids[i]);
        if (i > 0 && memcmp(maker->ids[i - 1], maker->ids[i], FAN__UUID_SIZE) >= 0)
            maker->rising = false;
    }
}

static int compare_ids(const void *a, const void *b)
{
    return memcmp(a, b, FAN__UUID_SIZE);
}

static void test_P02_ids_of_many_threads_are_distinct_and_rise_in_each(void **state)
{
    (void)state;
    struct maker makers[THREAD_COUNT] = { 0 };
    unsigned char(*all)[FAN__UUID_SIZE] = calloc(THREAD_COUNT * ID_COUNT, FAN__UUID_SIZE);
    assert_non_null(all);
    for (size_t i = 0; i < THREAD_COUNT; i++) {
        makers[i].ids = all + i * ID_COUNT;
        assert_ok(fan__thread_start(&makers[i].thread, "ids", make_ids, &makers[i]));
    }
    for (size_t i = 0; i < THREAD_COUNT; i++) {
        fan__thread_join(&makers[i].thread);
        assert_true(makers[i].rising);
    }
    qsort(all, THREAD_COUNT * ID_COUNT, FAN__UUID_SIZE, compare_ids);
    for (size_t i = 1; i < THREAD_COUNT * ID_COUNT; i++)
        assert_true(memcmp(all[i - 1], all[i], FAN__UUID_SIZE) < 0);
    free(all);
}

static void test_uuid_text_is_canonical_or_refused(void **state)
{
    (void)state;
    /* The example of RFC 9562, appendix A.6. */
    const char *text = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f";
    unsigned char uuid[FAN__UUID_SIZE];
    assert_true(fan__uuid_parse(text, uuid));
    assert_true(ms_of(uuid) == UINT64_C(0x017f22e279b0));
    char again[FAN__UUID_TEXT_SIZE];
    fan__uuid_format(uuid, again);
    assert_string_equal(again, text);
    static const char *const bad[] = { "",
                                       "017f22e2-79b0-7cc3-98c4-dc0c0c07398",
                                       "017f22e2-79b0-7cc3-98c4-dc0c0c07398f0",
                                       "017F22E2-79B0-7CC3-98C4-DC0C0C07398F",
                                       "017f22e279b07cc398c4dc0c0c07398f",
                                       "017f22e2-79b0-7cc3-98c4-dc0c0c07398g",
                                       "017f22e2-79b0-7cc3-98c40dc0c0c07398f",
                                       "{017f22e2-79b0-7cc3-98c4-dc0c0c07398f}" };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(fan__uuid_parse(bad[i], uuid));
}

static void test_uuid_v8_keeps_all_bits_but_six(void **state)
{
    (void)state;
    unsigned char uuid[FAN__UUID_SIZE];
    memset(uuid, 0xff, sizeof(uuid));
    fan__uuid_v8(uuid);
    char text[FAN__UUID_TEXT_SIZE];
    fan__uuid_format(uuid, text);
    assert_string_equal(text, "ffffffff-ffff-8fff-bfff-ffffffffffff");
}

static void test_P02_a_fork_has_other_ids_and_another_instance(void **state)
{
    (void)state;
    char before[FAN__INSTANCE_ID_SIZE];
    char again[FAN__INSTANCE_ID_SIZE];
    fan__instance_id(NULL, before);
    fan__instance_id(NULL, again);
    assert_string_equal(before, again);
    assert_true(strlen(before) > 13);
    unsigned char uuid[FAN__UUID_SIZE];
    fan__uuid_v7(NULL, uuid);
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        fan__uuid_v7(NULL, uuid);
        fan__instance_id(NULL, again);
        bool sent = write(ends[1], uuid, sizeof(uuid)) == sizeof(uuid) &&
                    write(ends[1], again, sizeof(again)) == sizeof(again);
        _exit(sent ? 0 : 1);
    }
    unsigned char theirs[FAN__UUID_SIZE];
    char their_instance[FAN__INSTANCE_ID_SIZE];
    assert_int_equal(read(ends[0], theirs, sizeof(theirs)), sizeof(theirs));
    assert_int_equal(read(ends[0], their_instance, sizeof(their_instance)), sizeof(their_instance));
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    fan__uuid_v7(NULL, uuid);
    /* The random tail alone tells them apart: both would take the same bytes of a shared pool. */
    assert_memory_not_equal(uuid + 12, theirs + 12, 4);
    assert_string_not_equal(before, their_instance);
    close(ends[0]);
    close(ends[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_R02_ids_rise_also_when_the_clock_goes_back),
        cmocka_unit_test(test_R02_randomness_never_turns_the_counter_back),
        cmocka_unit_test(test_P02_ids_of_many_threads_are_distinct_and_rise_in_each),
        cmocka_unit_test(test_uuid_text_is_canonical_or_refused),
        cmocka_unit_test(test_uuid_v8_keeps_all_bits_but_six),
        cmocka_unit_test(test_P02_a_fork_has_other_ids_and_another_instance),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
