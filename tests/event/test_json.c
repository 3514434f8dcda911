/* Floor 1: events as JSON text and back. */
#include "../test.h"

#include <fanfare/batch.h>
#include <fanfare/json.h>

#include "base/env.h"
#include "event/base64.h"
#include "event/json.h"
#include "event/jsontext.h"
#include "random.h"
#include "world.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

static struct fan_str str(const char *text)
{
    return (struct fan_str){ text, strlen(text) };
}

static struct fan_event *read_json(const char *text)
{
    struct fan_event *event = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    if (fan_event_from_json(str(text), NULL, &event, &error) != FAN_OK)
        fail_msg("%s %s", error.field, error.message);
    return event;
}

static void assert_refused_size(struct fan_str text, const char *field, const char *reason)
{
    struct fan_event *event = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    assert_int_equal(fan_event_from_json(text, NULL, &event, &error), FAN_INVALID);
    assert_null(event);
    if (strcmp(error.field, field) != 0 || !strstr(error.message, reason))
        fail_msg("%s: expected %s/%s, got %s/%s", text.data, field, reason, error.field,
                 error.message);
}

static void assert_refused(const char *text, const char *field, const char *reason)
{
    assert_refused_size(str(text), field, reason);
}

static void test_P01_all_fields_come_in_and_go_out(void **state)
{
    (void)state;
    static const char text[] =
        "{\"id\":\"a\\\"b\\u00e4\",\"source\":\"database\",\"type\":\"public.users.create\","
        "\"topic\":\"t\\n\\u0001\",\"schema\":\"s\",\"entity\":\"e\",\"operation\":\"o\","
        "\"user_id\":-9223372036854775808,\"session_id\":\"s-1\",\"instance_id\":\"i-1\","
        "\"created_at\":\"2024-02-29T12:00:00.123456Z\","
        "\"deliver_at\":\"2024-03-01T00:00:00.000000Z\","
        "\"traceparent\":\"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\","
        "\"content_type\":\"application/json\",\"payload\":{ \"b\" : 1.50,\n\"a\":\"\\u00e4\"},"
        "\"metadata\":{\"x\": [\"]}\\\\\", 1e2 ] }}";
    struct fan_event *event = read_json(text);
    assert_string_equal(fan_event_id(event), "a\"b\xc3\xa4");
    assert_string_equal(fan_event_topic(event), "t\n\x01");
    assert_true(fan_event_user_id(event) == INT64_MIN);
    assert_true(fan_event_created_us(event) == INT64_C(1709208000123456));
    assert_string_equal(fan_event_payload(event).data, "{ \"b\" : 1.50,\n\"a\":\"\\u00e4\"}");
    assert_string_equal(fan_event_metadata(event).data, "{\"x\": [\"]}\\\\\", 1e2 ] }");

    struct fan_text out = FAN_TEXT_INIT;
    assert_ok(fan_event_to_json(event, NULL, 0, &out));
    struct fan_event *again = read_json(out.data);
    assert_int_equal(fan_event_size(again), fan_event_size(event));
    assert_memory_equal(again, event, fan_event_size(event));
    /* But for the escape of the umlaut in the id, it is the very same text. */
    char expected[sizeof(text)];
    snprintf(expected, sizeof(expected), "%s\xc3\xa4%s", "{\"id\":\"a\\\"b",
             text + strlen("{\"id\":\"a\\\"b\\u00e4"));
    assert_string_equal(out.data, expected);
    fan_event_free(again, NULL);
    fan_event_free(event, NULL);
    fan_text_deinit(&out);
}

static void test_P04_the_state_goes_out_beside_the_event(void **state)
{
    (void)state;
    struct fan_event *event = read_json("{\"type\":\"a.b.c\",\"id\":\"1\",\"instance_id\":\"i\","
                                        "\"created_at\":\"2024-01-01T00:00:00Z\"}");
    struct fan_event_state known = { FAN_EVENT_FAILED, 2, 0, INT64_C(1704067200000001),
                                     "bad \"thing\"\xff\n" };
    struct fan_text out = FAN_TEXT_INIT;
    assert_ok(fan_event_to_json(event, &known, 0, &out));
    assert_string_equal(
        out.data, "{\"id\":\"1\",\"source\":\"internal\",\"type\":\"a.b.c\",\"topic\":\"\","
                  "\"schema\":\"a\",\"entity\":\"b\",\"operation\":\"c\",\"status\":\"failed\","
                  "\"user_id\":0,\"session_id\":\"\",\"instance_id\":\"i\","
                  "\"created_at\":\"2024-01-01T00:00:00.000000Z\",\"processed_at\":null,"
                  "\"completed_at\":\"2024-01-01T00:00:00.000001Z\",\"retry_count\":2,"
                  "\"error\":\"bad \\\"thing\\\"\xef\xbf\xbd\\n\",\"payload\":null,"
                  "\"metadata\":{}}");
    assert_int_equal(strlen(out.data), out.size);

    /* What only the log may set is refused by name, or ignored where an import says so. */
    assert_refused(out.data, "status", "read-only");
    struct fan_json_options options = FAN_JSON_OPTIONS_INIT;
    options.accept_read_only = true;
    struct fan_event *again;
    assert_ok(fan_event_from_json((struct fan_str){ out.data, out.size }, &options, &again, NULL));
    assert_memory_equal(again, event, fan_event_size(event));
    fan_event_free(again, NULL);
    static const char *const names[] = { "seq", "processed_at", "completed_at", "retry_count",
                                         "error" };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char text[100];
        snprintf(text, sizeof(text), "{\"type\":\"a\",\"%s\":1}", names[i]);
        assert_refused(text, names[i], "read-only");
        snprintf(text, sizeof(text), "{\"type\":\"a\",\"%s\":null}", names[i]);
        fan_event_free(read_json(text), NULL);
    }
    assert_int_equal(
        fan_event_from_json(str("{\"type\":\"a\",\"status\":\"done\"}"), &options, &again, NULL),
        FAN_INVALID);
    fan_event_free(event, NULL);
    fan_text_deinit(&out);
}

static void test_P02_bad_members_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *field;
        const char *reason;
    } rows[] = {
        { "{}", "type", "missing" },
        { "{\"type\":null}", "type", "missing" },
        { "{\"type\":\"a..b\"}", "type", "empty segment" },
        { "{\"type\":1}", "type", "not a string" },
        { "{\"type\":\"a\",\"id\":\"\"}", "id", "empty" },
        { "{\"type\":\"a\",\"id\":7}", "id", "not a string" },
        { "{\"type\":\"a\",\"colour\":\"red\"}", "colour", "not a field" },
        { "{\"type\":\"a\",\"Type\":\"b\"}", "Type", "not a field" },
        { "{\"type\":\"a\",\"source\":\"mars\"}", "source", "none of" },
        { "{\"type\":\"a\",\"source\":\"\"}", "source", "none of" },
        { "{\"type\":\"a\",\"status\":\"done\"}", "status", "none of" },
        { "{\"type\":\"a\",\"user_id\":9223372036854775808}", "user_id", "64 bits" },
        { "{\"type\":\"a\",\"user_id\":-9223372036854775809}", "user_id", "64 bits" },
        { "{\"type\":\"a\",\"user_id\":99999999999999999999999}", "user_id", "64 bits" },
        { "{\"type\":\"a\",\"user_id\":1.0}", "user_id", "64 bits" },
        { "{\"type\":\"a\",\"user_id\":1e3}", "user_id", "64 bits" },
        { "{\"type\":\"a\",\"user_id\":\"1\"}", "user_id", "64 bits" },
        { "{\"type\":\"a\",\"user_id\":[]}", "user_id", "64 bits" },
        { "{\"type\":\"a\",\"user_id\":true}", "user_id", "64 bits" },
        { "{\"type\":\"a\",\"created_at\":\"yesterday\"}", "created_at", "RFC 3339" },
        { "{\"type\":\"a\",\"created_at\":\"2023-02-29T00:00:00Z\"}", "created_at", "RFC 3339" },
        { "{\"type\":\"a\",\"created_at\":1709208000}", "created_at", "RFC 3339" },
        { "{\"type\":\"a\",\"created_at\":\"\"}", "created_at", "RFC 3339" },
        { "{\"type\":\"a\",\"created_at\":\"1970-01-01T00:00:00Z\"}", "created_at", "1970" },
        { "{\"type\":\"a\",\"deliver_at\":\"2024-01-01\"}", "deliver_at", "RFC 3339" },
        { "{\"type\":\"a\",\"metadata\":[1]}", "metadata", "object" },
        { "{\"type\":\"a\",\"metadata\":\"{}\"}", "metadata", "object" },
        { "{\"type\":\"a\",\"payload_encoding\":\"base64\"}", "payload_encoding", "not JSON" },
        { "{\"type\":\"a\",\"payload_encoding\":\"hex\"}", "payload_encoding", "base64" },
        { "{\"type\":\"a\",\"content_type\":\"x\"}", "content_type", "media type" },
        { "{\"type\":\"a\",\"content_type\":\"a/b\",\"payload\":{}}", "payload", "string" },
        { "{\"type\":\"a\",\"content_type\":\"a/b\",\"payload\":\"=\","
          "\"payload_encoding\":\"base64\"}",
          "payload", "base64" },
        { "[]", "event", "object" },
        { "null", "event", "object" },
        { "\"x\"", "event", "object" },
        { "", "event", "too early at line 1" },
        { "{\"type\":\"a\"", "event", "too early" },
        { "{\"type\":\"a\"} x", "event", "follows the value at line 1, column 14" },
        { "{\"type\":\"a\",\n\"payload\":{\"x\":}}", "payload", "line 2, column 16" },
        { "{\"type\":\"a\",\n\"payload\":{\"x\":1,\"x\":2}}", "payload",
          "duplicate key at line 2" },
        { "{\"type\":\"a\",\"metadata\":{\"x\":\"\xff\"}}", "metadata", "UTF-8" },
        { "{\"type\":\"a\",\"topic\":\"\\u0000\"}", "topic", "NUL" },
        { "{\"type\":\"a\",\"topic\":\"\\ud800\"}", "topic", "JSON" },
        { "{\"type\":\"a\",\"type\":\"b\"}", "event", "duplicate key" },
        { "{\"type\":\"a\",\"\\u0074ype\":\"b\"}", "event", "duplicate key" },
        { "{\"type\":\"a\",\"payload\":1e999}", "payload", "out of range" },
        { "{'type':'a'}", "event", "syntax" },
        { "{\"type\":\"a\",}", "event", "syntax" },
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        assert_refused(rows[i].text, rows[i].field, rows[i].reason);
    char nul[] = "{\"type\":\"a\"}\0{";
    assert_refused_size((struct fan_str){ nul, sizeof(nul) - 1 }, "event", "NUL");
    char nul_inside[] = "{\"type\":\"a\",\"topic\":\"a\0b\"}";
    assert_refused_size((struct fan_str){ nul_inside, sizeof(nul_inside) - 1 }, "topic", "NUL");
    assert_refused_size((struct fan_str){ NULL, 0 }, "event", "too early");
}

static void test_P02_escaped_names_are_names(void **state)
{
    (void)state;
    struct fan_event *event =
        read_json("{\"\\u0074ype\" : \"a\" , \"pay\\u006coad\"\t:\n[ 1 ]\r\n}");
    assert_string_equal(fan_event_type(event), "a");
    assert_string_equal(fan_event_payload(event).data, "[ 1 ]");
    fan_event_free(event, NULL);
}

/* The text ends where its size says; behind it there is no NUL, and under ASan nothing at all. */
static void test_P01_nothing_behind_the_text_is_read(void **state)
{
    (void)state;
    static const char *const texts[] = { "{\"type\":\"a\"}", "[{\"type\":\"a\",\"payload\":[[]]}]",
                                         "[]", "[{\"type\":\"a\",\"user_id\":7}]" };
    struct fan_batch *batch;
    assert_ok(fan_batch_new(NULL, &batch));
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        size_t size = strlen(texts[i]);
        for (size_t cut = 0; cut <= size; cut++) {
            char *text = malloc(cut ? cut : 1);
            assert_non_null(text);
            memcpy(text, texts[i], cut);
            enum fan_status status =
                fan_events_from_json((struct fan_str){ text, cut }, NULL, batch, NULL);
            assert_int_equal(status, cut == size ? FAN_OK : FAN_INVALID);
            free(text);
        }
    }
    fan_batch_free(batch);
}

static void test_P02_depth_counts_from_the_payload(void **state)
{
    (void)state;
    enum { DEEPEST = 20000 };
    char *text = malloc(2 * DEEPEST + 100);
    assert_non_null(text);
    static const int depths[] = { 64, 65, 10000, DEEPEST };
    for (size_t i = 0; i < sizeof(depths) / sizeof(depths[0]); i++) {
        char *at = text + sprintf(text, "{\"type\":\"a\",\"payload\":");
        memset(at, '[', (size_t)depths[i]);
        at += depths[i];
        memset(at, ']', (size_t)depths[i]);
        at += depths[i];
        strcpy(at, "}");
        if (depths[i] <= FAN_JSON_DEPTH_MAX)
            fan_event_free(read_json(text), NULL);
        else
            assert_refused(text, "payload", "deeper than 64");
    }
    memset(text, '[', DEEPEST);
    text[DEEPEST] = '\0';
    assert_refused(text, "event", "deeper than 64");
    free(text);
}

static void test_P01_payload_that_is_not_json(void **state)
{
    (void)state;
    struct fan_event *event =
        read_json("{\"type\":\"a\",\"payload\":\"h\\u00e4\\n\",\"content_type\":\"text/plain\"}");
    assert_string_equal(fan_event_payload(event).data, "h\xc3\xa4\n");
    fan_event_free(event, NULL);
    event = read_json("{\"type\":\"a\",\"content_type\":\"image/png\",\"payload\":\"iVBORwD/\","
                      "\"payload_encoding\":\"base64\"}");
    assert_int_equal(fan_event_payload(event).size, 6);
    assert_memory_equal(fan_event_payload(event).data, "\x89PNG\0\xff", 6);
    struct fan_text out = FAN_TEXT_INIT;
    assert_ok(fan_event_to_json(event, NULL, 0, &out));
    assert_non_null(strstr(out.data, "\"content_type\":\"image/png\",\"payload\":\"iVBORwD/\","
                                     "\"payload_encoding\":\"base64\""));
    struct fan_event *again = read_json(out.data);
    assert_memory_equal(event, again, fan_event_size(event));
    fan_event_free(again, NULL);
    fan_event_free(event, NULL);
    event = read_json("{\"type\":\"a\",\"content_type\":\"image/png\"}");
    assert_int_equal(fan_event_payload(event).size, 0);
    fan_event_free(event, NULL);
    fan_text_deinit(&out);
}

static void test_base64_is_strict(void **state)
{
    (void)state;
    static const char *const bad[] = { "=",    "A",      "AA",   "AAA",  "A===",
                                       "====", "AB==",   "AAB=", "AA=A", "AAAA=",
                                       "AA A", "AAAA\n", "AA-_", "A=AA", "AA==AA==" };
    char bytes[64];
    size_t size;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        if (fan__base64_decode(bad[i], strlen(bad[i]), bytes, &size))
            fail_msg("%s", bad[i]);
    assert_true(fan__base64_decode("", 0, bytes, &size));
    assert_int_equal(size, 0);
    uint64_t seed = 3;
    for (size_t length = 0; length < 48; length++) {
        char raw[48];
        char text[80];
        for (size_t i = 0; i < length; i++)
            raw[i] = (char)random_next(&seed);
        fan__base64_encode(raw, length, text);
        assert_int_equal(strlen(text), fan__base64_size(length));
        assert_true(fan__base64_decode(text, strlen(text), bytes, &size));
        assert_int_equal(size, length);
        assert_memory_equal(bytes, raw, length);
    }
}

static void test_P01_one_line_for_ndjson(void **state)
{
    (void)state;
    struct fan_event *event = read_json("{\"type\":\"a\",\"payload\":{\r\n \"x\":\n\"a\\n\"},"
                                        "\"metadata\":{\n\"k\":1}}");
    struct fan_text out = FAN_TEXT_INIT;
    assert_ok(fan_event_to_json(event, NULL, FAN_JSON_ONE_LINE, &out));
    assert_null(strpbrk(out.data, "\r\n"));
    assert_non_null(strstr(out.data, "\"payload\":{   \"x\": \"a\\n\"},\"metadata\":{ \"k\":1}}"));
    assert_ok(fan_event_to_json(event, NULL, 0, &out));
    assert_non_null(strstr(out.data, "{\r\n \"x\":\n\"a\\n\"}"));
    fan_event_free(event, NULL);
    fan_text_deinit(&out);
}

static void test_P05_an_array_is_all_or_nothing(void **state)
{
    (void)state;
    struct fan_batch *batch;
    assert_ok(fan_batch_new(NULL, &batch));
    assert_ok(fan_events_from_json(str(" [ {\"type\":\"a\",\"payload\":[1, 2]} ,\n{\"type\":"
                                       "\"b\"}]"),
                                   NULL, batch, NULL));
    assert_ok(fan_events_from_json(str("{\"type\":\"c\"}"), NULL, batch, NULL));
    assert_ok(fan_events_from_json(str(" [ ] "), NULL, batch, NULL));
    assert_int_equal(fan_batch_count(batch), 3);
    assert_string_equal(fan_event_payload(fan_batch_event(batch, 0)).data, "[1, 2]");
    assert_string_equal(fan_event_type(fan_batch_event(batch, 1)), "b");
    assert_string_equal(fan_event_type(fan_batch_event(batch, 2)), "c");
    size_t size = fan_batch_size(batch);
    static const struct {
        const char *text;
        const char *field;
    } rows[] = {
        { "[{\"type\":\"a\"},{\"type\":\"a b\"}]", "[1].type" },
        { "[{\"type\":\"a\"},{\"type\":\"a\"},{\"type\":\"a\",\"x\":1}]", "[2].x" },
        { "[{\"type\":\"a\"},7]", "[1].event" },
        { "[[]]", "[0].event" },
        { "[{\"type\":\"a\",\"payload\":{\"x\":1,\"x\":2}}]", "payload" },
        { "7", "event" },
        { "[{\"type\":\"a\"},]", "event" },
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct fan_error error = FAN_ERROR_INIT;
        assert_int_equal(fan_events_from_json(str(rows[i].text), NULL, batch, &error), FAN_INVALID);
        assert_string_equal(error.field, rows[i].field);
        assert_int_equal(fan_batch_count(batch), 3);
        assert_int_equal(fan_batch_size(batch), size);
    }
    fan_batch_free(batch);
}

/* Writes any string of characters that need escapes, several bytes, or neither. */
static const char *random_text(uint64_t *seed, char *buffer, size_t size_max)
{
    static const char *const pieces[] = {
        "a", "Z9",  "\"", "\\", "\n", "\x1f", "/", "\xc3\xa4", "\xe2\x80\xa8", "\xf0\x9f\x98\x80",
        " ", "\x7f"
    };
    size_t count = random_next(seed) % 6;
    buffer[0] = '\0';
    for (size_t i = 0; i < count && strlen(buffer) + 5 < size_max; i++)
        strcat(buffer, pieces[random_next(seed) % (sizeof(pieces) / sizeof(pieces[0]))]);
    return buffer;
}

static void test_P01_any_event_comes_back_from_its_json(void **state)
{
    (void)state;
    static const char *const payloads[] = { "null",
                                            "{}",
                                            "[1,\n 2]",
                                            "\"a\\\"]}\"",
                                            "-1.50e+10",
                                            "{\"a\":{\"b\":[{},[],\"}\"]}}",
                                            "18446744073709551616",
                                            "true" };
    uint64_t seed = 20240301;
    struct fan_text out = FAN_TEXT_INIT;
    for (int round = 0; round < 5000; round++) {
        char texts[6][64];
        const char *payload = payloads[random_next(&seed) % 8];
        struct fan_event_draft draft = {
            .size = FAN_EVENT_DRAFT_SIZE,
            .type = random_next(&seed) % 2 ? "public.users.create" : "\xc3\xa4.b",
            .payload = str(payload),
            .topic = random_text(&seed, texts[0], 64),
            .source = (enum fan_source)(random_next(&seed) % 6),
            .entity = random_text(&seed, texts[1], 64),
            .session_id = random_text(&seed, texts[2], 64),
            .instance_id = random_text(&seed, texts[3], 64),
            .user_id = (int64_t)random_next(&seed) >> random_next(&seed) % 64,
            .deliver_at_us = random_next(&seed) % 2 ? (int64_t)(random_next(&seed) >> 12) : 0,
            .metadata = random_next(&seed) % 2 ? str("{\"k\": [ 1 ]}") : str(""),
        };
        if (random_next(&seed) % 3 == 0) {
            draft.content_type = "application/octet-stream";
            draft.payload = (struct fan_str){ (const char *)&draft, random_next(&seed) % 99 };
        }
        struct fan_event *event;
        struct fan_event *again;
        assert_ok(fan_event_new(&draft, NULL, &event, NULL));
        assert_ok(fan_event_to_json(event, NULL, 0, &out));
        assert_ok(fan_event_from_json((struct fan_str){ out.data, out.size }, NULL, &again, NULL));
        assert_int_equal(fan_event_size(event), fan_event_size(again));
        assert_memory_equal(event, again, fan_event_size(event));
        fan_event_free(again, NULL);
        fan_event_free(event, NULL);
    }
    fan_text_deinit(&out);
}

static void test_P01_json_without_memory_loses_nothing(void **state)
{
    (void)state;
    struct world world;
    world_init(&world);
    struct fan_event_defaults defaults = FAN_EVENT_DEFAULTS_INIT;
    defaults.env = &world.env;
    struct fan_json_options options = FAN_JSON_OPTIONS_INIT;
    options.defaults = &defaults;
    struct fan_batch *batch;
    assert_ok(fan_batch_new(&world.env, &batch));
    long held = world.held;
    enum fan_status status = FAN_NO_MEMORY;
    long failures = 0;
    for (; status != FAN_OK; failures++) {
        world.allocations_left = failures;
        struct fan_error error = FAN_ERROR_INIT;
        status = fan_events_from_json(
            str("[{\"type\":\"a\"},{\"type\":\"a\",\"content_type\":\"a/b\",\"payload\":\"AAAA\","
                "\"payload_encoding\":\"base64\"}]"),
            &options, batch, &error);
        if (status != FAN_OK) {
            assert_int_equal(status, FAN_NO_MEMORY);
            assert_int_equal(error.status, FAN_NO_MEMORY);
            assert_int_equal(fan_batch_count(batch), 0);
        }
    }
    assert_true(failures > 4);
    assert_true(world.held <= held + 2);
    world.allocations_left = 0;
    struct fan_text out = { &world.env, NULL, 0, 0 };
    const struct fan_event *event = fan_batch_event(batch, 0);
    assert_int_equal(fan_event_to_json(event, NULL, 0, &out), FAN_NO_MEMORY);
    assert_int_equal(out.size, 0);
    world.allocations_left = -1;
    assert_ok(fan_event_to_json(event, NULL, 0, &out));
    world.allocations_left = 0;
    assert_ok(fan_event_to_json(event, NULL, 0, &out));
    fan_text_deinit(&out);
    fan_batch_free(batch);
    assert_int_equal(world.held, 0);
}

static void test_R04_json_options_of_other_sizes(void **state)
{
    (void)state;
    struct fan_json_options options = FAN_JSON_OPTIONS_INIT;
    struct fan_event *event;
    options.size = 3;
    assert_int_equal(fan_event_from_json(str("{\"type\":\"a\"}"), &options, &event, NULL),
                     FAN_INVALID);
    options.size = offsetof(struct fan_json_options, accept_read_only);
    options.accept_read_only = true;
    assert_int_equal(fan_event_from_json(str("{\"type\":\"a\",\"seq\":1}"), &options, &event, NULL),
                     FAN_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_P01_all_fields_come_in_and_go_out),
        cmocka_unit_test(test_P04_the_state_goes_out_beside_the_event),
        cmocka_unit_test(test_P02_bad_members_are_named),
        cmocka_unit_test(test_P02_escaped_names_are_names),
        cmocka_unit_test(test_P01_nothing_behind_the_text_is_read),
        cmocka_unit_test(test_P02_depth_counts_from_the_payload),
        cmocka_unit_test(test_P01_payload_that_is_not_json),
        cmocka_unit_test(test_base64_is_strict),
        cmocka_unit_test(test_P01_one_line_for_ndjson),
        cmocka_unit_test(test_P05_an_array_is_all_or_nothing),
        cmocka_unit_test(test_P01_any_event_comes_back_from_its_json),
        cmocka_unit_test(test_P01_json_without_memory_loses_nothing),
        cmocka_unit_test(test_R04_json_options_of_other_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
