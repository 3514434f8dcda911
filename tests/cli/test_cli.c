/* The reader of event streams, whole and cut at every byte; and the helpers below the verbs. */
#include "../test.h"

#include "cli/lines.h"
#include "cli/prepare.h"
#include "cli/slice.h"
#include "cli/sse.h"
#include "cli/wait.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Frames as text: `event|id|data;` each. */
static bool note(void *context, const struct fan__sse_frame *frame)
{
    struct fan__text *seen = context;
    fan__text_add_format(seen, "%s|%s|%.*s;", frame->event, frame->id, (int)frame->data.size,
                         frame->data.data);
    return true;
}

struct example {
    const char *stream;
    const char *frames;
    const char *last_id;
    int64_t retry_ms;
};

/* From the HTML standard, 9.2.6 and 9.2.5, and what the wire may do to it. */
static const struct example examples[] = {
    { "data: YHOO\ndata: +2\ndata: 10\n\n", "message||YHOO\n+2\n10;", "", -1 },
    { ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third "
      "event\n\n",
      "message|1|first event;message||second event;message|| third event;", "", -1 },
    { "data\n\ndata\ndata\n\ndata:", "message||;message||\n;", "", -1 },
    { "data:test\n\ndata: test\n\n", "message||test;message||test;", "", -1 },
    { "\xef\xbb\xbf"
      "data: bom\n\n\xef\xbb\xbf"
      "data: no field\n\n",
      "message||bom;", "", -1 },
    { "\xef\xbb"
      "data: half a mark\n\ndata: x\n\n",
      "message||x;", "", -1 },
    { "id: 1@a\rdata: cr\r\rid: 2@a\r\ndata: crlf\r\n\r\nid: 3@a\ndata: lf\n\n",
      "message|1@a|cr;message|2@a|crlf;message|3@a|lf;", "3@a", -1 },
    { "event: a.b\nid: 7@e\ndata: {\"x\":\"a: b\"}\n\n", "a.b|7@e|{\"x\":\"a: b\"};", "7@e", -1 },
    { "retry: 250\n\n", "", "", 250 },
    { "retry: 2x\n\nretry:\n\nretry: -1\n\n", "", "", -1 },
    { "retry: 99999999999999999999\n\n", "", "", INT32_MAX },
    { "id: 5@e\n\n", "", "5@e", -1 },
    { "id: 5@e\ndata: x\n\nid: 6@e\ndata: cut off", "message|5@e|x;", "5@e", -1 },
    { "id: 5@e\ndata: x\n\nid: 6@e\ndata: whole line, no end\n", "message|5@e|x;", "5@e", -1 },
    { "event: only\n\ndata: x\n\n", "message||x;", "", -1 },
    { "unknown: y\n:comment\ndata: x\nDATA: z\n\n", "message||x;", "", -1 },
};

static void check(const struct example *example, size_t cut)
{
    struct fan__text seen = { NULL, 0, 0 };
    struct fan__sse sse;
    size_t size = strlen(example->stream);
    fan__text_add_text(&seen, "");
    fan__sse_init(&sse, note, &seen);
    for (size_t at = 0; at < size; at += cut) {
        size_t piece = size - at < cut ? size - at : cut;
        assert_int_equal(fan__sse_feed(&sse, example->stream + at, piece), FAN__SSE_MORE);
    }
    assert_string_equal(seen.data, example->frames);
    assert_string_equal(sse.last_id.data, example->last_id);
    assert_int_equal(sse.retry_ms, example->retry_ms);
    fan__sse_deinit(&sse);
    fan__text_deinit(&seen);
}

static void test_L07_event_streams_are_read_by_the_standard(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(examples) / sizeof(examples[0]); i++)
        check(&examples[i], strlen(examples[i].stream));
}

static void test_L07_event_streams_may_be_cut_anywhere(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(examples) / sizeof(examples[0]); i++)
        for (size_t cut = 1; cut < strlen(examples[i].stream); cut++)
            check(&examples[i], cut);
}

static void test_L07_what_was_cut_off_is_forgotten_with_its_connection(void **state)
{
    (void)state;
    struct fan__text seen = { NULL, 0, 0 };
    struct fan__sse sse;
    fan__sse_init(&sse, note, &seen);
    static const char first[] = "id: 1@e\ndata: a\n\nid: 2@e\nevent: lost\ndata: b\r";
    static const char second[] = "\n\ndata: c\n\n";
    assert_int_equal(fan__sse_feed(&sse, first, sizeof(first) - 1), FAN__SSE_MORE);
    assert_string_equal(sse.last_id.data, "1@e");
    fan__sse_begin(&sse);
    assert_int_equal(fan__sse_feed(&sse, second, sizeof(second) - 1), FAN__SSE_MORE);
    assert_string_equal(seen.data, "message|1@e|a;message|1@e|c;");
    fan__sse_deinit(&sse);
    fan__text_deinit(&seen);
}

static void test_L07_an_id_with_nul_is_ignored(void **state)
{
    (void)state;
    struct fan__text seen = { NULL, 0, 0 };
    struct fan__sse sse;
    fan__sse_init(&sse, note, &seen);
    static const char stream[] = "id: 1\0002\ndata: a\n\n";
    assert_int_equal(fan__sse_feed(&sse, stream, sizeof(stream) - 1), FAN__SSE_MORE);
    assert_string_equal(seen.data, "message||a;");
    fan__sse_deinit(&sse);
    fan__text_deinit(&seen);
}

static void add_filling(struct fan__text *text, size_t size)
{
    memset(fan__text_reserve(text, size), 'x', size);
    text->size += size;
}

static void test_L12_a_frame_is_bounded(void **state)
{
    (void)state;
    struct fan__text seen = { NULL, 0, 0 };
    struct fan__sse sse;
    fan__sse_init(&sse, note, &seen);
    size_t size = (size_t)1 << 20;
    struct fan__text line = { NULL, 0, 0 };
    fan__text_add_text(&line, "data:");
    add_filling(&line, size - line.size - 1);
    fan__text_add_text(&line, "\n");
    enum fan__sse_result result = FAN__SSE_MORE;
    size_t fed = 0;
    for (; result == FAN__SSE_MORE && fed < 100 * size; fed += size)
        result = fan__sse_feed(&sse, line.data, size);
    assert_int_equal(result, FAN__SSE_TOO_LONG);
    assert_true(fed <= FAN__SSE_SIZE_MAX + 2 * size);
    fan__text_deinit(&line);
    fan__sse_deinit(&sse);
    fan__text_deinit(&seen);
}

static void expect_member(const char *object, const char *key, const char *expected)
{
    struct fan_str value = { "", 0 };
    bool found = fan__slice_find((struct fan_str){ object, strlen(object) }, key, &value);
    assert_int_equal(found, expected != NULL);
    if (expected) {
        assert_int_equal(value.size, strlen(expected));
        assert_memory_equal(value.data, expected, value.size);
    }
}

static void test_P01_a_member_is_found_as_the_bytes_it_is(void **state)
{
    (void)state;
    static const char text[] = " { \"a\" : [1, {\"b\": \"]}\"} ] "
                               ",\"b\":\"x\\\"}\",\n\"c\":-1.50e+3 ,\"d\":{}, \"e\" :null}";
    expect_member(text, "a", "[1, {\"b\": \"]}\"} ]");
    expect_member(text, "b", "\"x\\\"}\"");
    expect_member(text, "c", "-1.50e+3");
    expect_member(text, "d", "{}");
    expect_member(text, "e", "null");
    expect_member(text, "f", NULL);
    expect_member("{}", "a", NULL);
}

static void expect_prepared(const char *given, const char *before_id, const char *after_id)
{
    struct fan__text text = { NULL, 0, 0 };
    bool own = false;
    char reason[256];
    assert_true(fan__prepare(&text, (struct fan_str){ given, strlen(given) }, &own, reason));
    assert_true(own);
    size_t before = strlen(before_id);
    assert_memory_equal(text.data, before_id, before);
    /* A UUIDv7 in its canonical form. */
    assert_int_equal(text.data[before + 14], '7');
    assert_string_equal(text.data + before + 36, after_id);
    fan__text_deinit(&text);
}

static void test_L09_a_line_is_given_an_id_and_keeps_its_bytes(void **state)
{
    (void)state;
    expect_prepared("{\"type\":\"a\", \"payload\" : 1.0}", "{\"id\":\"",
                    "\",\"source\":\"system\",\"type\":\"a\", \"payload\" : 1.0}");
    expect_prepared("{}", "{\"id\":\"", "\",\"source\":\"system\"}");
    expect_prepared("{\"source\":\"internal\"}", "{\"id\":\"", "\",\"source\":\"internal\"}");
    expect_prepared(" {\"id\":null,\"type\": \"a\",\"source\":null} ", "{\"id\":\"",
                    "\",\"source\":\"system\",\"type\":\"a\"}");
    expect_prepared("{\"\\u0069d\":null}", "{\"id\":\"", "\",\"source\":\"system\"}");
    expect_prepared("{\"payload\":{\"id\":\"inner\"},\"source\":\"system\"}", "{\"id\":\"",
                    "\",\"payload\":{\"id\":\"inner\"},\"source\":\"system\"}");
}

static void test_L09_a_given_id_is_kept(void **state)
{
    (void)state;
    static const char given[] = "{\"id\":\"x\",\"source\":\"internal\",\"payload\":1e2}";
    struct fan__text text = { NULL, 0, 0 };
    bool own = true;
    char reason[256];
    assert_true(fan__prepare(&text, (struct fan_str){ given, strlen(given) }, &own, reason));
    assert_false(own);
    assert_string_equal(text.data, given);
    fan__text_deinit(&text);
}

static void test_P02_what_is_no_object_is_refused_with_a_reason(void **state)
{
    (void)state;
    static const char *const bad[] = { "",
                                       "[]",
                                       "1",
                                       "{\"a\":1",
                                       "{\"a\":1} {}",
                                       "{\"a\":1,\"a\":2}",
                                       "nonsense",
                                       "{\"a\":\"\xff\"}" };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct fan__text text = { NULL, 0, 0 };
        bool own;
        char reason[256] = "";
        struct fan_str line = { bad[i], strlen(bad[i]) };
        assert_false(fan__prepare(&text, line, &own, reason));
        assert_int_equal(text.size, 0);
        assert_true(strlen(reason) > 0);
    }
}

/* Lines as text: each in brackets, `!` for one that is too long. */
static void expect_lines(const char *bytes, size_t size, const char *expected)
{
    FILE *file = tmpfile();
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    rewind(file);
    struct fan__lines lines;
    fan__lines_init(&lines, fileno(file));
    struct fan__text seen = { NULL, 0, 0 };
    struct fan_str line;
    enum fan__line kind;
    while ((kind = fan__lines_next(&lines, true, &line)) != FAN__LINES_END) {
        if (kind == FAN__LINE)
            fan__text_add_format(&seen, "[%.*s]", (int)line.size, line.data);
        else
            fan__text_add_text(&seen, kind == FAN__LINE_TOO_LONG ? "!" : "?");
    }
    assert_string_equal(seen.data ? seen.data : "", expected);
    fan__text_deinit(&seen);
    fan__lines_deinit(&lines);
    fclose(file);
}

static void test_L12_lines_are_read_within_a_bound(void **state)
{
    (void)state;
    expect_lines("", 0, "");
    expect_lines("a\nb\r\n\nc", 7, "[a][b][][c]");
    expect_lines("\xef\xbb\xbf"
                 "a\n\xef\xbb\xbf\n",
                 9, "[a][\xef\xbb\xbf]");
    struct fan__text text = { NULL, 0, 0 };
    fan__text_add_text(&text, "first\n");
    add_filling(&text, FAN__LINE_SIZE_MAX + ((size_t)1 << 20));
    expect_lines(text.data + 6, text.size - 6, "!");
    fan__text_add_text(&text, "\nlast");
    expect_lines(text.data, text.size, "[first]![last]");
    fan__text_deinit(&text);
}

static void test_R05_pauses_grow_with_jitter_up_to_a_cap(void **state)
{
    (void)state;
    int64_t least = INT64_MAX;
    int64_t most = 0;
    int64_t asked_least = INT64_MAX;
    int64_t asked_most = 0;
    for (int i = 0; i < 1000; i++) {
        struct fan__backoff backoff = { 200, 10000, 0 };
        int64_t pause = fan__backoff_next(&backoff, -1);
        assert_in_range(pause, 100, 200);
        least = pause < least ? pause : least;
        most = pause > most ? pause : most;
        for (int k = 0; k < 20; k++)
            pause = fan__backoff_next(&backoff, -1);
        assert_in_range(pause, 5000, 10000);
        backoff.tries = 0;
        int64_t asked = fan__backoff_next(&backoff, 3000);
        assert_in_range(asked, 3000, 4000);
        asked_least = asked < asked_least ? asked : asked_least;
        asked_most = asked > asked_most ? asked : asked_most;
    }
    assert_true(most - least > 50);
    assert_true(asked_most - asked_least > 500);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_L07_event_streams_are_read_by_the_standard),
        cmocka_unit_test(test_L07_event_streams_may_be_cut_anywhere),
        cmocka_unit_test(test_L07_what_was_cut_off_is_forgotten_with_its_connection),
        cmocka_unit_test(test_L07_an_id_with_nul_is_ignored),
        cmocka_unit_test(test_L12_a_frame_is_bounded),
        cmocka_unit_test(test_P01_a_member_is_found_as_the_bytes_it_is),
        cmocka_unit_test(test_L09_a_line_is_given_an_id_and_keeps_its_bytes),
        cmocka_unit_test(test_L09_a_given_id_is_kept),
        cmocka_unit_test(test_P02_what_is_no_object_is_refused_with_a_reason),
        cmocka_unit_test(test_L12_lines_are_read_within_a_bound),
        cmocka_unit_test(test_R05_pauses_grow_with_jitter_up_to_a_cap),
    };
    if (!fan__wait_open())
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
