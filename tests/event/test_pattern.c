/* Floor 1: patterns over types, and the text of cursors. */
#include "../test.h"

#include <fanfare/cursor.h>
#include <fanfare/event.h>
#include <fanfare/pattern.h>

#include "base/status.h"
#include "event/text.h"

#include <string.h>

static void test_H02_pattern_table(void **state)
{
    (void)state;
    static const struct {
        const char *pattern;
        const char *type;
        bool matches;
    } rows[] = {
        { "public.users.create", "public.users.create", true },
        { "public.users.create", "public.users.update", false },
        { "*", "anything", true },
        { "*", "public.users.create", true },
        { "public.*", "public.users", true },
        { "public.*", "public.users.create", false },
        { "public.*", "admin.users", false },
        { "public.*", "public", false },
        { "*.users.create", "public.users.create", true },
        { "*.users.create", "admin.users.create", true },
        { "*.users.create", "public.roles.create", false },
        { "public.*.create", "public.users.create", true },
        { "public.*.create", "public.roles.create", true },
        { "public.*.create", "public.users.update", false },
        { "*.*", "public.users", true },
        { "*.*", "public.users.create", false },
        { "*.*", "public", false },
        { "*.*.create", "public.users.create", true },
        { "*.*.create", "admin.roles.create", true },
        { "*.*.create", "public.users.update", false },
        { ">", "a", true },
        { ">", "a.b.c", true },
        { "public.>", "public.users", true },
        { "public.>", "public.users.create", true },
        { "public.>", "public", false },
        { "public.>", "publicity.users", false },
        { "*.>", "a", false },
        { "*.>", "a.b.c", true },
        { "a.*.>", "a.b", false },
        { "a.*.>", "a.b.c", true },
        { "public.user", "public.users", false },
        { "public.users", "public.user", false },
        { "public", "public.users", false },
        { "chat.message", "chat.message", true },
        { "\xc3\xa4.*", "\xc3\xa4.x", true },
        { "\xc3\xa4.*", "\xc3\xb6.x", false },
        { "", "", false },
        { "", "something", false },
        { "something", "", false },
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        if (rows[i].pattern[0] && rows[i].type[0])
            assert_ok(fan_pattern_check(rows[i].pattern, NULL));
        if (fan_pattern_match(rows[i].pattern, rows[i].type) != rows[i].matches)
            fail_msg("%s against %s", rows[i].pattern, rows[i].type);
    }
}

static void test_H02_bad_patterns_are_refused_with_a_reason(void **state)
{
    (void)state;
    char too_long[300];
    memset(too_long, 'a', sizeof(too_long));
    too_long[256] = '\0';
    static const struct {
        const char *pattern;
        const char *reason;
    } rows[] = {
        { NULL, "is empty" },
        { "", "is empty" },
        { ".", "empty segment (number 1)" },
        { "a.", "empty segment (number 2)" },
        { ".a", "empty segment (number 1)" },
        { "a..b", "empty segment (number 2)" },
        { ">.a", "may only be the last" },
        { "a.>.b", "may only be the last" },
        { "a.b*", "illegal segment (number 2)" },
        { "**", "illegal segment (number 1)" },
        { "a.>>", "illegal segment (number 2)" },
        { "a b", "illegal segment (number 1)" },
        { "a.\x01", "illegal segment (number 2)" },
        { "a.\x7f", "illegal segment (number 2)" },
        { "a.\xc2\x85", "illegal segment (number 2)" },
        { "a.\xff", "illegal segment (number 2)" },
        { "a.\xc0\xaf", "illegal segment (number 2)" },
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct fan_error error = FAN_ERROR_INIT;
        assert_int_equal(fan_pattern_check(rows[i].pattern, &error), FAN_INVALID);
        assert_string_equal(error.field, "pattern");
        if (!strstr(error.message, rows[i].reason))
            fail_msg("%s: %s", rows[i].pattern, error.message);
        assert_int_equal(fan_pattern_check(rows[i].pattern, NULL), FAN_INVALID);
    }
    assert_int_equal(fan_pattern_check(too_long, NULL), FAN_INVALID);
    too_long[255] = '\0';
    assert_ok(fan_pattern_check(too_long, NULL));
}

static void test_P14_types_of_any_number_of_segments(void **state)
{
    (void)state;
    static const char *const good[] = {
        "a",      "chat.message", "public.users.create", "a.b.c.d.e", "\xe6\x97\xa5\xe6\x9c\xac.x",
        "A-b_c.1"
    };
    static const char *const bad[] = { "",
                                       ".",
                                       "a.",
                                       ".a",
                                       "a..b",
                                       "a.*",
                                       "a.>",
                                       "a b",
                                       "a\tb",
                                       "a.\x7f",
                                       "\xed\xa0\x80",
                                       "\xf4\x90\x80\x80",
                                       "\xe0\x80\xaf",
                                       "a\xc3" };
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        assert_ok(fan__type_check(good[i], "type", NULL));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        if (fan__type_check(bad[i], "type", NULL) != FAN_INVALID)
            fail_msg("%s", bad[i]);
}

static void test_P14_type_join_refuses_empty_and_dotted_parts(void **state)
{
    (void)state;
    char type[FAN_TEXT_SIZE_MAX + 1] = "untouched";
    assert_int_equal(fan_event_type_join("", "users", "create", type, sizeof(type)), FAN_INVALID);
    assert_int_equal(fan_event_type_join("public", NULL, "create", type, sizeof(type)),
                     FAN_INVALID);
    assert_int_equal(fan_event_type_join("public", "users", "", type, sizeof(type)), FAN_INVALID);
    assert_int_equal(fan_event_type_join("pub.lic", "users", "create", type, sizeof(type)),
                     FAN_INVALID);
    assert_int_equal(fan_event_type_join("public", "us*", "create", type, sizeof(type)),
                     FAN_INVALID);
    assert_string_equal(type, "untouched");
    assert_ok(fan_event_type_join("public", "users", "create", type, sizeof(type)));
    assert_string_equal(type, "public.users.create");

    char part[260];
    memset(part, 'x', sizeof(part));
    part[251] = '\0';
    assert_ok(fan_event_type_join(part, "y", "z", type, sizeof(type)));
    assert_int_equal(strlen(type), 255);
    part[251] = 'x';
    part[252] = '\0';
    assert_int_equal(fan_event_type_join(part, "y", "z", type, sizeof(type)), FAN_INVALID);
    assert_int_equal(fan_event_type_join("a", "y", part, type, sizeof(type)), FAN_INVALID);
    assert_int_equal(fan_event_type_join("a", "b", "c", type, 5), FAN_INVALID);
    assert_ok(fan_event_type_join("a", "b", "c", type, 6));
}

static void test_P13_cursor_text(void **state)
{
    (void)state;
    char text[FAN_CURSOR_TEXT_SIZE];
    struct fan_cursor cursor = { 42, UINT64_C(0x0123456789abcdef) };
    fan_cursor_format(&cursor, text);
    assert_string_equal(text, "42@0123456789abcdef");
    struct fan_cursor again;
    assert_ok(fan_cursor_parse(text, &again, NULL));
    assert_true(again.seq == cursor.seq && again.epoch == cursor.epoch);
    assert_ok(fan_cursor_parse("42@0123456789ABCDEF", &again, NULL));
    assert_true(again.epoch == cursor.epoch);
    cursor = (struct fan_cursor){ FAN_SEQ_MAX, 0 };
    fan_cursor_format(&cursor, text);
    assert_string_equal(text, "9223372036854775807");
    assert_ok(fan_cursor_parse(text, &again, NULL));
    assert_true(again.seq == FAN_SEQ_MAX && again.epoch == 0);
    assert_ok(fan_cursor_parse("0", &again, NULL));
    assert_true(again.seq == 0);
    cursor = (struct fan_cursor){ UINT64_MAX, UINT64_MAX };
    fan_cursor_format(&cursor, text);
    assert_string_equal(text, "18446744073709551615@ffffffffffffffff");
}

static void test_P13_bad_cursors_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = { "",
                                       "-1",
                                       "+1",
                                       " 1",
                                       "1 ",
                                       "x",
                                       "@",
                                       "1@",
                                       "1@1",
                                       "1@0123456789abcde",
                                       "1@0123456789abcdef0",
                                       "1@0123456789abcdeg",
                                       "1@0000000000000000",
                                       "@0123456789abcdef",
                                       "1@@123456789abcdef",
                                       "1.5",
                                       "0x10",
                                       "9223372036854775808",
                                       "18446744073709551616",
                                       "99999999999999999999999999" };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct fan_cursor cursor = { 7, 7 };
        struct fan_error error = FAN_ERROR_INIT;
        if (fan_cursor_parse(bad[i], &cursor, &error) != FAN_INVALID)
            fail_msg("%s", bad[i]);
        assert_string_equal(error.field, "cursor");
        assert_true(strlen(error.message) > 0);
        assert_true(cursor.seq == 7 && cursor.epoch == 7);
    }
    assert_int_equal(fan_cursor_parse(NULL, &(struct fan_cursor){ 0 }, NULL), FAN_INVALID);
}

static void test_L04_gap_reasons_have_names(void **state)
{
    (void)state;
    assert_string_equal(fan_gap_reason_text(FAN_GAP_OVERFLOW), "overflow");
    assert_string_equal(fan_gap_reason_text(FAN_GAP_RETENTION), "retention");
    assert_string_equal(fan_gap_reason_text(FAN_GAP_EPOCH), "epoch");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_H02_pattern_table),
        cmocka_unit_test(test_H02_bad_patterns_are_refused_with_a_reason),
        cmocka_unit_test(test_P14_types_of_any_number_of_segments),
        cmocka_unit_test(test_P14_type_join_refuses_empty_and_dotted_parts),
        cmocka_unit_test(test_P13_cursor_text),
        cmocka_unit_test(test_P13_bad_cursors_are_refused),
        cmocka_unit_test(test_L04_gap_reasons_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
