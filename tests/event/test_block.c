/* Floor 1: the flat block, its parse, batches of blocks, UTF-8 and times. */
#include "../test.h"

#include <fanfare/batch.h>
#include <fanfare/event.h>

#include "base/env.h"
#include "event/event.h"
#include "event/text.h"
#include "random.h"
#include "world.h"

#include <string.h>

static const struct fan_event_draft full = {
    .size = FAN_EVENT_DRAFT_SIZE,
    .type = "public.users.create",
    .payload = FAN_STR("{\"a\": 1}"),
    .topic = "users:42",
    .id = "id-1",
    .source = FAN_SOURCE_SYSTEM,
    .schema = "public",
    .entity = "users",
    .operation = "create",
    .content_type = "application/json",
    .metadata = FAN_STR("{\"m\":2}"),
    .user_id = -42,
    .session_id = "session",
    .instance_id = "instance",
    .created_us = INT64_C(1700000000123456),
    .deliver_at_us = INT64_C(1700000001000000),
    .traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
};

/* Accessors of everything: what a parse accepts must be safe to read, under ASan too. */
static size_t read_all(const struct fan_event *event)
{
    struct fan_event_draft draft;
    fan_event_to_draft(event, &draft);
    size_t sum = strlen(fan_event_id(event)) + strlen(fan_event_type(event)) +
                 strlen(fan_event_topic(event)) + strlen(fan_event_schema(event)) +
                 strlen(fan_event_entity(event)) + strlen(fan_event_operation(event)) +
                 strlen(fan_event_session_id(event)) + strlen(fan_event_instance_id(event)) +
                 strlen(fan_event_content_type(event)) + strlen(fan_event_traceparent(event));
    for (size_t i = 0; i < draft.payload.size; i++)
        sum += (unsigned char)draft.payload.data[i];
    for (size_t i = 0; i < draft.metadata.size; i++)
        sum += (unsigned char)draft.metadata.data[i];
    return sum;
}

static void *write_block(const struct fan_event_draft *draft, uint64_t seq, size_t *ret_size)
{
    size_t size = fan__event_draft_size(draft);
    assert_true(size > 0 && size % 8 == 0);
    void *block = malloc(size);
    assert_non_null(block);
    /* Whatever was in the memory must not show. */
    memset(block, 0xa5, size);
    assert_int_equal(fan__event_write(draft, seq, block), size);
    *ret_size = size;
    return block;
}

static void test_L11_equal_content_is_equal_bytes(void **state)
{
    (void)state;
    struct fan_event *event;
    assert_ok(fan_event_new(&full, NULL, &event, NULL));
    size_t size;
    void *block = write_block(&full, 0, &size);
    assert_int_equal(size, fan_event_size(event));
    assert_memory_equal(block, event, size);
    fan__event_set_seq(event, 77);
    assert_memory_not_equal(block, event, size);
    fan__event_set_seq(block, 99);
    fan__event_set_seq(block, 77);
    assert_memory_equal(block, event, size);
    const struct fan_event *parsed;
    assert_ok(fan_event_parse(block, size, &parsed));
    assert_true(fan_event_seq(parsed) == 77);

    struct fan_event *copy;
    assert_ok(fan_event_copy(event, NULL, &copy));
    assert_memory_equal(copy, event, size);
    fan_event_free(copy, NULL);

    struct fan_event_draft again;
    fan_event_to_draft(event, &again);
    void *second = write_block(&again, 77, &size);
    assert_memory_equal(second, block, size);
    free(second);

    /* Absent and empty strings are the same content. */
    struct fan_event_draft bare = { FAN_EVENT_DRAFT_SIZE, .type = "a", .id = "b",
                                    .source = FAN_SOURCE_SYSTEM };
    struct fan_event_draft empty = bare;
    empty.topic = empty.schema = empty.session_id = empty.content_type = "";
    empty.payload.data = "";
    size_t bare_size;
    void *one = write_block(&bare, 1, &bare_size);
    void *two = write_block(&empty, 1, &size);
    assert_int_equal(size, bare_size);
    assert_memory_equal(one, two, size);
    assert_ok(fan_event_parse(one, size, &parsed));
    fan_event_to_draft(parsed, &again);
    assert_null(again.topic);
    assert_null(again.traceparent);
    free(one);
    free(two);
    free(block);
    fan_event_free(event, NULL);
}

static void test_P01_any_flipped_bit_of_a_block_is_found(void **state)
{
    (void)state;
    size_t size;
    char *block = write_block(&full, 5, &size);
    const struct fan_event *event;
    assert_ok(fan_event_parse(block, size, &event));
    for (size_t bit = 0; bit < size * 8; bit++) {
        block[bit / 8] = (char)(block[bit / 8] ^ 1 << bit % 8);
        assert_int_equal(fan_event_parse(block, size, &event), FAN_CORRUPT);
        block[bit / 8] = (char)(block[bit / 8] ^ 1 << bit % 8);
    }
    assert_ok(fan_event_parse(block, size, &event));
    for (size_t cut = 0; cut < size; cut++)
        assert_int_equal(fan_event_parse(block, cut, &event), FAN_CORRUPT);
    char *moved = malloc(size + 8);
    assert_non_null(moved);
    memcpy(moved, block, size);
    memset(moved + size, 0, 8);
    assert_int_equal(fan_event_parse(moved, size + 8, &event), FAN_CORRUPT);
    memcpy(moved + 4, block, size);
    assert_int_equal(fan_event_parse(moved + 4, size, &event), FAN_CORRUPT);
    free(moved);
    free(block);
}

static void test_P01_a_forged_block_is_refused_or_safe(void **state)
{
    (void)state;
    size_t size;
    char *block = write_block(&full, 5, &size);
    char *forged = malloc(size);
    assert_non_null(forged);
    uint64_t seed = 20240229;
    size_t accepted = 0;
    for (int round = 0; round < 200000; round++) {
        memcpy(forged, block, size);
        /* Mostly in the head, where offsets and sizes are. */
        size_t range = random_next(&seed) % 4 > 0 ? 112 : size;
        size_t at = 24 + random_next(&seed) % (range - 24);
        forged[at] = (char)random_next(&seed);
        fan__event_forge_check((struct fan_event *)(void *)forged);
        const struct fan_event *event;
        if (fan_event_parse(forged, size, &event) == FAN_OK) {
            accepted++;
            assert_true(read_all(event) > 0);
        }
    }
    assert_true(accepted > 1000);
    free(forged);
    free(block);
}

/* What a writer could make of a draft that nobody validated, a parse must not let in. */
static void test_P01_a_block_of_what_is_no_event_is_refused(void **state)
{
    (void)state;
    char long_text[FAN_TEXT_SIZE_MAX + 2];
    memset(long_text, 'x', sizeof(long_text) - 1);
    long_text[sizeof(long_text) - 1] = '\0';
    struct fan_event_draft drafts[10];
    for (size_t i = 0; i < 10; i++)
        drafts[i] = full;
    drafts[0].topic = long_text;
    drafts[1].type = long_text;
    drafts[2].type = "a..b";
    drafts[3].type = NULL;
    drafts[4].id = NULL;
    drafts[5].session_id = "\xff";
    drafts[6].source = FAN_SOURCE_UNSET;
    drafts[7].source = (enum fan_source)6;
    drafts[8].created_us = INT64_MIN;
    drafts[9].deliver_at_us = INT64_MAX;
    for (size_t i = 0; i < 10; i++) {
        size_t size;
        void *block = write_block(&drafts[i], 1, &size);
        const struct fan_event *event;
        if (fan_event_parse(block, size, &event) != FAN_CORRUPT)
            fail_msg("draft %zu", i);
        free(block);
    }
    size_t size;
    void *block = write_block(&full, (uint64_t)INT64_MAX + 1, &size);
    const struct fan_event *event;
    assert_int_equal(fan_event_parse(block, size, &event), FAN_CORRUPT);
    free(block);
    long_text[FAN_TEXT_SIZE_MAX] = '\0';
    block = write_block(&drafts[0], 1, &size);
    assert_ok(fan_event_parse(block, size, &event));
    free(block);
}

static void test_P05_a_batch_is_reused_and_keeps_what_it_was_given(void **state)
{
    (void)state;
    struct world world;
    world_init(&world);
    struct fan_batch *batch;
    assert_ok(fan_batch_new(&world.env, &batch));
    assert_null(fan_batch_event(batch, 0));
    for (int round = 0; round < 3; round++) {
        if (round > 0)
            world.allocations_left = 0;
        size_t bytes = 0;
        for (uint64_t seq = 1; seq <= 1000; seq++) {
            struct fan_event_draft draft = full;
            draft.user_id = (int64_t)seq;
            draft.payload.size = seq % 9;
            assert_ok(fan_batch_add(batch, &draft, seq));
            bytes += fan_event_size(fan_batch_event(batch, fan_batch_count(batch) - 1));
        }
        assert_int_equal(fan_batch_count(batch), 1000);
        assert_int_equal(fan_batch_size(batch), bytes);
        for (size_t i = 0; i < 1000; i++) {
            const struct fan_event *event = fan_batch_event(batch, i);
            const struct fan_event *parsed;
            assert_ok(fan_event_parse(event, fan_event_size(event), &parsed));
            assert_true(fan_event_seq(event) == i + 1);
            assert_true(fan_event_user_id(event) == (int64_t)i + 1);
        }
        assert_null(fan_batch_event(batch, 1000));
        fan_batch_clear(batch);
        assert_int_equal(fan_batch_count(batch), 0);
        assert_int_equal(fan_batch_size(batch), 0);
    }
    fan_batch_free(batch);
    fan_batch_free(NULL);
    assert_int_equal(world.held, 0);
}

static void test_P05_a_batch_without_memory_stays_as_it_was(void **state)
{
    (void)state;
    struct world world;
    world_init(&world);
    struct fan_batch *batch;
    world.allocations_left = 0;
    assert_int_equal(fan_batch_new(&world.env, &batch), FAN_NO_MEMORY);
    world.allocations_left = -1;
    assert_ok(fan_batch_new(&world.env, &batch));
    for (size_t i = 0; i < 3; i++) {
        world.allocations_left = (long)i;
        enum fan_status status = fan_batch_add(batch, &full, 1);
        assert_int_equal(status, i < 2 && fan_batch_count(batch) == 0 ? FAN_NO_MEMORY : FAN_OK);
    }
    struct fan_event_draft draft = full;
    char big[4096] = { 0 };
    draft.payload = (struct fan_str){ big, sizeof(big) };
    size_t count = fan_batch_count(batch);
    world.allocations_left = 0;
    assert_int_equal(fan_batch_add(batch, &draft, 2), FAN_NO_MEMORY);
    assert_int_equal(fan_batch_count(batch), count);
    world.allocations_left = -1;
    assert_ok(fan_batch_add(batch, &draft, 2));

    struct fan_event *event;
    assert_ok(fan_event_new(&full, NULL, &event, NULL));
    assert_ok(fan_batch_add_event(batch, event));
    const struct fan_event *last = fan_batch_event(batch, count + 1);
    assert_memory_equal(last, event, fan_event_size(event));
    fan_event_free(event, NULL);

    draft.type = NULL;
    assert_int_equal(fan_batch_add(batch, &draft, 3), FAN_INVALID);
    draft = full;
    draft.payload.size = SIZE_MAX;
    assert_int_equal(fan_batch_add(batch, &draft, 3), FAN_INVALID);
    draft.payload.size = FAN__EVENT_SIZE_MAX - 8;
    assert_int_equal(fan_batch_add(batch, &draft, 3), FAN_INVALID);
    assert_int_equal(fan_batch_count(batch), count + 2);
    fan_batch_free(batch);
    assert_int_equal(world.held, 0);
}

static void test_P02_utf8_is_strict(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool valid;
    } rows[] = {
        { "", true },
        { "plain and long enough for a word", true },
        { "\xc2\x80\xdf\xbf\xe0\xa0\x80\xef\xbf\xbf\xf0\x90\x80\x80\xf4\x8f\xbf\xbf", true },
        { "\xed\x9f\xbf\xee\x80\x80", true },
        { "\x80", false },
        { "\xc0\x80", false },
        { "\xc1\xbf", false },
        { "\xe0\x9f\xbf", false },
        { "\xed\xa0\x80", false },
        { "\xed\xbf\xbf", false },
        { "\xf0\x8f\xbf\xbf", false },
        { "\xf4\x90\x80\x80", false },
        { "\xf5\x80\x80\x80", false },
        { "12345678\xff", false },
        { "\xc3", false },
        { "\xe2\x82", false },
        { "\xf0\x9f\x98", false },
        { "\xe2\x28\xa1", false },
        { "\xf0\x9f\x98\x28", false },
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        if (fan__utf8_valid(rows[i].text, strlen(rows[i].text)) != rows[i].valid)
            fail_msg("row %zu", i);
}

/* tidy: its rows are the length, not its logic. */
static void test_P01_times_are_utc_microseconds(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t time_us;
        bool canonical;
    } rows[] = {
        { "1970-01-01T00:00:00.000000Z", 0, true },
        { "1969-12-31T23:59:59.999999Z", -1, true },
        { "2000-02-29T12:34:56.789012Z", INT64_C(951827696789012), true },
        { "2024-02-29T00:00:00.000000Z", INT64_C(1709164800000000), true },
        { "0001-01-01T00:00:00.000000Z", FAN__TIME_US_MIN, true },
        { "9999-12-31T23:59:59.999999Z", FAN__TIME_US_MAX, true },
        { "2024-02-29T00:00:00Z", INT64_C(1709164800000000), false },
        { "2024-02-29t00:00:00z", INT64_C(1709164800000000), false },
        { "2024-02-29T01:30:00+01:30", INT64_C(1709164800000000), false },
        { "2024-02-28T22:00:00-02:00", INT64_C(1709164800000000), false },
        { "2024-02-29T00:00:00.5Z", INT64_C(1709164800500000), false },
        { "2024-02-29T00:00:00.123456789Z", INT64_C(1709164800123456), false },
        { "2024-02-29T00:00:00-00:00", INT64_C(1709164800000000), false },
        { "2016-12-31T23:59:60Z", INT64_C(1483228800000000), false },
        { "2017-01-01T00:59:60.9+01:00", INT64_C(1483228800000000), false },
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        int64_t time_us;
        if (!fan__time_parse(rows[i].text, strlen(rows[i].text), &time_us) ||
            time_us != rows[i].time_us)
            fail_msg("%s", rows[i].text);
        char text[FAN__TIME_TEXT_SIZE];
        fan__time_format(time_us, text);
        if (rows[i].canonical)
            assert_string_equal(text, rows[i].text);
    }
    static const char *const bad[] = {
        "",
        "2024",
        "2024-02-29",
        "2023-02-29T00:00:00Z",
        "1900-02-29T00:00:00Z",
        "2024-02-30T00:00:00Z",
        "2024-04-31T00:00:00Z",
        "2024-13-01T00:00:00Z",
        "2024-00-01T00:00:00Z",
        "2024-01-00T00:00:00Z",
        "2024-01-01T24:00:00Z",
        "2024-01-01T00:60:00Z",
        "2024-01-01T00:00:61Z",
        "2024-01-01T12:00:60Z",
        "2024-01-01 00:00:00Z",
        "2024-01-01T00:00:00",
        "2024-01-01T00:00:00.Z",
        "2024-01-01T00:00:00,5Z",
        "2024-01-01T00:00:00+0100",
        "2024-01-01T00:00:00+24:00",
        "2024-01-01T00:00:00+01:60",
        "2024-01-01T00:00:00Zx",
        "2024-1-1T00:00:00Z",
        "-024-01-01T00:00:00Z",
        "0000-12-31T23:59:59Z",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59.9999999-00:01",
        "20240101T000000Z",
        "2024-01-01T00:00:0\xb0Z",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        int64_t time_us;
        if (fan__time_parse(bad[i], strlen(bad[i]), &time_us))
            fail_msg("%s", bad[i]);
    }
    uint64_t seed = 7;
    for (int i = 0; i < 100000; i++) {
        uint64_t range = (uint64_t)(FAN__TIME_US_MAX - FAN__TIME_US_MIN);
        int64_t time_us = FAN__TIME_US_MIN + (int64_t)(random_next(&seed) % range);
        char text[FAN__TIME_TEXT_SIZE];
        int64_t again;
        fan__time_format(time_us, text);
        assert_true(fan__time_parse(text, strlen(text), &again));
        assert_true(again == time_us);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_L11_equal_content_is_equal_bytes),
        cmocka_unit_test(test_P01_any_flipped_bit_of_a_block_is_found),
        cmocka_unit_test(test_P01_a_forged_block_is_refused_or_safe),
        cmocka_unit_test(test_P01_a_block_of_what_is_no_event_is_refused),
        cmocka_unit_test(test_P05_a_batch_is_reused_and_keeps_what_it_was_given),
        cmocka_unit_test(test_P05_a_batch_without_memory_stays_as_it_was),
        cmocka_unit_test(test_P02_utf8_is_strict),
        cmocka_unit_test(test_P01_times_are_utc_microseconds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
