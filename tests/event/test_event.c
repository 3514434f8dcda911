/* Floor 1: stamping and validation of events. */
#include "../test.h"

#include <fanfare/event.h>
#include <fanfare/state.h>
#include <fanfare/trace.h>

#include "base/env.h"
#include "event/uuid.h"
#include "world.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>

#define TRACEPARENT "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

static struct fan_event *make(const struct fan_event_draft *draft)
{
    struct fan_event *event = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    if (fan_event_new(draft, NULL, &event, &error) != FAN_OK)
        fail_msg("%s: %s", error.field, error.message);
    return event;
}

static void assert_refused(const struct fan_event_draft *draft,
                           const struct fan_event_defaults *defaults, const char *field,
                           const char *reason)
{
    struct fan_event *event = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    assert_int_equal(fan_event_new(draft, defaults, &event, &error), FAN_INVALID);
    assert_null(event);
    assert_int_equal(error.status, FAN_INVALID);
    assert_string_equal(error.field, field);
    if (!strstr(error.message, reason))
        fail_msg("expected '%s' in '%s'", reason, error.message);
    assert_int_equal(fan_event_new(draft, defaults, &event, NULL), FAN_INVALID);
}

static void test_P02_absent_fields_are_stamped(void **state)
{
    (void)state;
    struct world world;
    world_init(&world);
    fan__uuid_reset();
    struct fan_event_defaults defaults = FAN_EVENT_DEFAULTS_INIT;
    defaults.env = &world.env;
    struct fan_event_draft draft = { FAN_EVENT_DRAFT_SIZE, .type = "public.users.create" };
    struct fan_event *event;
    assert_ok(fan_event_new(&draft, &defaults, &event, NULL));
    unsigned char uuid[FAN__UUID_SIZE];
    assert_true(fan__uuid_parse(fan_event_id(event), uuid));
    assert_int_equal(uuid[6] >> 4, 7);
    char instance[FAN__INSTANCE_ID_SIZE];
    fan__instance_id(NULL, instance);
    assert_string_equal(fan_event_instance_id(event), instance);
    assert_true(fan_event_created_us(event) == world.now_us);
    assert_int_equal(fan_event_source(event), FAN_SOURCE_INTERNAL);
    assert_true(fan_event_seq(event) == 0);
    assert_string_equal(fan_event_schema(event), "public");
    assert_string_equal(fan_event_entity(event), "users");
    assert_string_equal(fan_event_operation(event), "create");
    assert_string_equal(fan_event_topic(event), "");
    assert_string_equal(fan_event_content_type(event), "");
    assert_true(fan_event_is_json(event));
    struct fan_str payload = fan_event_payload(event);
    assert_int_equal(payload.size, 4);
    assert_memory_equal(payload.data, "null", 5);
    assert_int_equal(fan_event_metadata(event).size, 0);
    assert_string_equal(fan_event_metadata(event).data, "");
    fan_event_free(event, &world.env);

    defaults.source = FAN_SOURCE_FRONTEND;
    defaults.instance_id = "node-1";
    assert_ok(fan_event_new(&draft, &defaults, &event, NULL));
    assert_int_equal(fan_event_source(event), FAN_SOURCE_FRONTEND);
    assert_string_equal(fan_event_instance_id(event), "node-1");
    fan_event_free(event, &world.env);
    world.now_us = 0;
    assert_ok(fan_event_new(&draft, &defaults, &event, NULL));
    assert_true(fan_event_created_us(event) == 1);
    fan_event_free(event, &world.env);
    assert_int_equal(world.held, 0);
    fan__uuid_reset();
}

static void test_P01_every_field_is_kept(void **state)
{
    (void)state;
    struct fan_event_draft draft = {
        .size = FAN_EVENT_DRAFT_SIZE,
        .type = "public.users.create",
        .payload = FAN_STR(" {\"b\": 1.0,\n\"a\":[2]} "),
        .topic = "users:42",
        .id = "order 7/\xc3\xa4",
        .source = FAN_SOURCE_WEBSOCKET,
        .schema = "crm",
        .operation = "upsert",
        .content_type = "application/vnd.acme+json; charset=utf-8",
        .metadata = FAN_STR("{\"k\":[1,true,null,\"s\",2.5]}"),
        .user_id = INT64_MIN,
        .session_id = "s-1",
        .instance_id = "i-1",
        .created_us = -1,
        .deliver_at_us = INT64_C(253402300799999999),
        .traceparent = TRACEPARENT,
    };
    struct fan_event *event = make(&draft);
    assert_string_equal(fan_event_id(event), draft.id);
    assert_string_equal(fan_event_topic(event), draft.topic);
    assert_string_equal(fan_event_schema(event), "crm");
    assert_string_equal(fan_event_entity(event), "users");
    assert_string_equal(fan_event_operation(event), "upsert");
    assert_string_equal(fan_event_content_type(event), draft.content_type);
    assert_string_equal(fan_event_session_id(event), "s-1");
    assert_string_equal(fan_event_traceparent(event), TRACEPARENT);
    assert_int_equal(fan_event_source(event), FAN_SOURCE_WEBSOCKET);
    assert_true(fan_event_user_id(event) == INT64_MIN);
    assert_true(fan_event_created_us(event) == -1);
    assert_true(fan_event_deliver_at_us(event) == draft.deliver_at_us);
    assert_true(fan_event_is_json(event));
    struct fan_str payload = fan_event_payload(event);
    assert_int_equal(payload.size, draft.payload.size);
    assert_memory_equal(payload.data, draft.payload.data, payload.size);
    struct fan_str metadata = fan_event_metadata(event);
    assert_int_equal(metadata.size, draft.metadata.size);
    assert_memory_equal(metadata.data, draft.metadata.data, metadata.size);

    struct fan_event_draft again;
    fan_event_to_draft(event, &again);
    struct fan_event *second = make(&again);
    assert_int_equal(fan_event_size(event), fan_event_size(second));
    assert_memory_equal(event, second, fan_event_size(event));
    fan_event_free(event, NULL);
    fan_event_free(second, NULL);
    fan_event_free(NULL, NULL);
}

static void test_P01_operations_and_types_may_be_custom(void **state)
{
    (void)state;
    struct fan_event *event =
        make(&(struct fan_event_draft){ FAN_EVENT_DRAFT_SIZE, .type = "chat.message" });
    assert_string_equal(fan_event_schema(event), "");
    assert_string_equal(fan_event_operation(event), "");
    fan_event_free(event, NULL);
    event = make(&(struct fan_event_draft){ FAN_EVENT_DRAFT_SIZE, .type = "a.b.c.d",
                                            .operation = "archive" });
    assert_string_equal(fan_event_schema(event), "");
    assert_string_equal(fan_event_operation(event), "archive");
    fan_event_free(event, NULL);
    for (int source = FAN_SOURCE_DATABASE; source <= FAN_SOURCE_INTERNAL; source++) {
        enum fan_source parsed;
        assert_ok(fan_source_parse(fan_source_text((enum fan_source)source), &parsed));
        assert_int_equal(parsed, source);
    }
    enum fan_source parsed;
    assert_int_equal(fan_source_parse("", &parsed), FAN_INVALID);
    assert_int_equal(fan_source_parse("Database", &parsed), FAN_INVALID);
    assert_string_equal(fan_source_text(FAN_SOURCE_UNSET), "");
    assert_string_equal(fan_source_text((enum fan_source)99), "");
    for (int status = FAN_EVENT_PENDING; status <= FAN_EVENT_FAILED; status++) {
        enum fan_event_status known;
        const char *text = fan_event_status_text((enum fan_event_status)status);
        assert_true(text[0] != '\0');
        assert_ok(fan_event_status_parse(text, &known));
        assert_int_equal(known, status);
    }
    enum fan_event_status known;
    assert_int_equal(fan_event_status_parse("done", &known), FAN_INVALID);
}

static void test_P02_validation_names_the_field(void **state)
{
    (void)state;
    char long_text[FAN_TEXT_SIZE_MAX + 2];
    memset(long_text, 'x', sizeof(long_text) - 1);
    long_text[sizeof(long_text) - 1] = '\0';
    const char *bad_utf8 = "a\xed\xa0\x80";
    const struct {
        struct fan_event_draft draft;
        const char *field;
        const char *reason;
    } rows[] = {
        { { .type = NULL }, "type", "missing" },
        { { .type = "" }, "type", "missing" },
        { { .type = "a..b" }, "type", "empty segment" },
        { { .type = "a.*" }, "type", "illegal segment" },
        { { .type = "a.b c" }, "type", "illegal segment" },
        { { .type = long_text }, "type", "longer" },
        { { .type = "fanfare.gap" }, "type", "reserved" },
        { { .type = "fanfare.x.y" }, "type", "reserved" },
        { { .type = "a", .id = "" }, "id", "empty" },
        { { .type = "a", .id = long_text }, "id", "longer" },
        { { .type = "a", .id = bad_utf8 }, "id", "UTF-8" },
        { { .type = "a", .topic = long_text }, "topic", "longer" },
        { { .type = "a", .topic = "\xff" }, "topic", "UTF-8" },
        { { .type = "a", .schema = bad_utf8 }, "schema", "UTF-8" },
        { { .type = "a", .entity = long_text }, "entity", "longer" },
        { { .type = "a", .operation = bad_utf8 }, "operation", "UTF-8" },
        { { .type = "a", .session_id = long_text }, "session_id", "longer" },
        { { .type = "a", .instance_id = long_text }, "instance_id", "longer" },
        { { .type = "a", .source = (enum fan_source)6 }, "source", "database" },
        { { .type = "a", .source = (enum fan_source) - 1 }, "source", "database" },
        { { .type = "a", .content_type = "png" }, "content_type", "media type" },
        { { .type = "a", .content_type = "image/" }, "content_type", "media type" },
        { { .type = "a", .content_type = "/png" }, "content_type", "media type" },
        { { .type = "a", .content_type = "a/b\r\nX: y" }, "content_type", "media type" },
        { { .type = "a", .content_type = long_text }, "content_type", "longer" },
        { { .type = "a", .traceparent = "00" }, "traceparent", "trace context" },
        { { .type = "a", .traceparent = "ff" }, "traceparent", "trace context" },
        { { .type = "a", .traceparent = TRACEPARENT "0" }, "traceparent", "trace context" },
        { { .type = "a", .traceparent = "00-00000000000000000000000000000000-b7ad6b7169203331-01" },
          "traceparent",
          "trace context" },
        { { .type = "a", .traceparent = "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01" },
          "traceparent",
          "trace context" },
        { { .type = "a", .created_us = INT64_MAX }, "created_at", "years" },
        { { .type = "a", .deliver_at_us = INT64_MIN }, "deliver_at", "years" },
        { { .type = "a", .payload = { NULL, 3 } }, "payload", "no bytes" },
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct fan_event_draft draft = rows[i].draft;
        draft.size = FAN_EVENT_DRAFT_SIZE;
        assert_refused(&draft, NULL, rows[i].field, rows[i].reason);
    }
    long_text[FAN_TEXT_SIZE_MAX] = '\0';
    struct fan_event *event = make(&(struct fan_event_draft){
        FAN_EVENT_DRAFT_SIZE, .type = long_text, .id = long_text, .topic = long_text });
    assert_string_equal(fan_event_topic(event), long_text);
    fan_event_free(event, NULL);
}

static void test_P02_payload_must_be_strict_json(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t size; /* 0: its length */
        const char *reason;
    } rows[] = {
        { "{", 0, "ends too early at line 1, column 1" },
        { "{\n \"a\": 1,\n \"a\": 2}", 0, "duplicate key at line 3" },
        { "{\"x\":{\"a\":1,\"a\":1}}", 0, "duplicate key" },
        { "{\"\\u0061\":1,\"a\":1}", 0, "duplicate key" },
        { "[1,]", 0, "syntax" },
        { "{a:1}", 0, "syntax" },
        { "01", 0, "syntax" },
        { "NaN", 0, "syntax" },
        { "'a'", 0, "syntax" },
        { "[1] 2", 0, "follows" },
        { "\"\xff\"", 0, "UTF-8" },
        { "\"\xc0\x80\"", 0, "UTF-8" },
        { "\"\xed\xa0\x80\"", 0, "UTF-8" },
        { "\"\\ud800\"", 0, "JSON" },
        { "\"\\u0000\"", 0, "NUL" },
        { "\"a\0b\"", 5, "NUL" },
        { "1\0", 2, "NUL character at byte 2" },
        { "[]\0{", 4, "NUL character at byte 3" },
        { "[1,\0 2]", 7, "NUL character at byte 4" },
        { "\"a\nb\"", 0, "JSON" },
        { "1e400", 0, "out of range" },
        { " ", 0, "ends too early" },
        { "\xef\xbb\xbf{}", 0, "JSON" },
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        size_t size = rows[i].size ? rows[i].size : strlen(rows[i].text);
        struct fan_event_draft draft = { FAN_EVENT_DRAFT_SIZE, .type = "a",
                                         .payload = { rows[i].text, size } };
        assert_refused(&draft, NULL, "payload", rows[i].reason);
        draft.content_type = "text/plain";
        fan_event_free(make(&draft), NULL);
    }
    static const char *const good[] = { "null",
                                        "\"x\"",
                                        "-0",
                                        "[]",
                                        "18446744073709551616",
                                        "123456789012345678901234567890",
                                        "\"\\ud83d\\ude00\"" };
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        struct fan_event *event = make(&(struct fan_event_draft){
            FAN_EVENT_DRAFT_SIZE, .type = "a", .payload = { good[i], strlen(good[i]) } });
        assert_string_equal(fan_event_payload(event).data, good[i]);
        fan_event_free(event, NULL);
    }
}

static void test_P02_metadata_must_be_an_object(void **state)
{
    (void)state;
    struct fan_event_draft draft = { FAN_EVENT_DRAFT_SIZE, .type = "a",
                                     .metadata = FAN_STR("[1]") };
    assert_refused(&draft, NULL, "metadata", "object");
    draft.metadata = (struct fan_str)FAN_STR("{\"a\":1,\"a\":2}");
    assert_refused(&draft, NULL, "metadata", "duplicate");
    draft.metadata = (struct fan_str)FAN_STR("null");
    assert_refused(&draft, NULL, "metadata", "object");
    draft.metadata = (struct fan_str)FAN_STR(" { } ");
    struct fan_event *event = make(&draft);
    assert_int_equal(fan_event_metadata(event).size, 0);
    fan_event_free(event, NULL);
}

static char *nested(size_t depth, size_t *ret_size)
{
    char *text = malloc(2 * depth + 1);
    assert_non_null(text);
    for (size_t i = 0; i < depth; i++) {
        text[i] = '[';
        text[2 * depth - 1 - i] = ']';
    }
    text[2 * depth] = '\0';
    *ret_size = 2 * depth;
    return text;
}

static void test_P02_depth_and_size_have_limits(void **state)
{
    (void)state;
    struct fan_event_draft draft = { FAN_EVENT_DRAFT_SIZE, .type = "a" };
    struct fan_event_defaults defaults = FAN_EVENT_DEFAULTS_INIT;
    static const size_t depths[] = { FAN_JSON_DEPTH_MAX + 1, 10000, 500000 };
    for (size_t i = 0; i < sizeof(depths) / sizeof(depths[0]); i++) {
        char *text = nested(depths[i], &draft.payload.size);
        draft.payload.data = text;
        assert_refused(&draft, NULL, "payload", "deeper than 64");
        /* Also when nobody closes them. */
        draft.payload.size = depths[i];
        assert_refused(&draft, NULL, "payload", "deeper than 64");
        free(text);
    }
    char *text = nested(FAN_JSON_DEPTH_MAX, &draft.payload.size);
    draft.payload.data = text;
    fan_event_free(make(&draft), NULL);
    defaults.json_depth_max = 63;
    assert_refused(&draft, &defaults, "payload", "deeper than 63");
    free(text);
    text = nested(10000, &draft.payload.size);
    draft.payload.data = text;
    defaults.json_depth_max = UINT32_MAX;
    assert_refused(&draft, &defaults, "payload", "deeper than 1024");
    free(text);
    draft.payload = (struct fan_str)FAN_STR("\"[[[[\\\"[[[[\"");
    defaults.json_depth_max = 1;
    struct fan_event *event;
    assert_ok(fan_event_new(&draft, &defaults, &event, NULL));
    fan_event_free(event, NULL);

    size_t size = FAN_PAYLOAD_SIZE_MAX + 1;
    char *big = malloc(size);
    assert_non_null(big);
    memset(big, 'x', size);
    big[0] = '"';
    big[size - 1] = '"';
    draft.payload = (struct fan_str){ big, size };
    assert_refused(&draft, NULL, "payload", "the limit is 1048576");
    big[size - 2] = '"';
    draft.payload.size = size - 1;
    fan_event_free(make(&draft), NULL);
    defaults.payload_size_max = 10;
    assert_refused(&draft, &defaults, "payload", "the limit is 10");
    draft.payload = (struct fan_str)FAN_STR("1");
    draft.metadata = (struct fan_str)FAN_STR("{\"abc\":12345}");
    assert_refused(&draft, &defaults, "metadata", "the limit is 10");
    free(big);
}

static void test_P01_bytes_with_a_content_type_are_any_bytes(void **state)
{
    (void)state;
    static const char bytes[] = "\x89PNG\0\xff";
    struct fan_event_draft draft = { FAN_EVENT_DRAFT_SIZE, .type = "a",
                                     .payload = { bytes, sizeof(bytes) },
                                     .content_type = "image/png" };
    struct fan_event *event = make(&draft);
    assert_false(fan_event_is_json(event));
    assert_int_equal(fan_event_payload(event).size, sizeof(bytes));
    assert_memory_equal(fan_event_payload(event).data, bytes, sizeof(bytes));
    assert_int_equal((uintptr_t)fan_event_payload(event).data % 8, 0);
    fan_event_free(event, NULL);
    draft.payload.size = 0;
    event = make(&draft);
    assert_int_equal(fan_event_payload(event).size, 0);
    fan_event_free(event, NULL);
    static const char *const json_types[] = { "application/json", "Application/JSON;v=1",
                                              "text/json", "application/cloudevents+JSON" };
    for (size_t i = 0; i < sizeof(json_types) / sizeof(json_types[0]); i++) {
        draft.content_type = json_types[i];
        draft.payload = (struct fan_str)FAN_STR("{");
        assert_refused(&draft, NULL, "payload", "JSON");
    }
}

static void test_R04_drafts_of_other_sizes(void **state)
{
    (void)state;
    struct {
        struct fan_event_draft draft;
        char later[16];
    } grown = { .draft = { sizeof(grown), .type = "a.b" } };
    fan_event_free(make(&grown.draft), NULL);
    grown.later[3] = 1;
    assert_refused(&grown.draft, NULL, "size", "knows");
    grown.draft.size = SIZE_MAX;
    assert_refused(&grown.draft, NULL, "size", "knows");
    grown.draft.size = 0;
    assert_refused(&grown.draft, NULL, "size", "knows");

    /* An older caller's struct ended before the topic; what lies behind it is not ours to read. */
    grown.draft = (struct fan_event_draft){ offsetof(struct fan_event_draft, topic), .type = "a.b",
                                            .topic = (const char *)1, .id = (const char *)1 };
    struct fan_event *event = make(&grown.draft);
    assert_string_equal(fan_event_topic(event), "");
    fan_event_free(event, NULL);

    struct fan_event_draft draft = { FAN_EVENT_DRAFT_SIZE, .type = "a" };
    struct fan_event_defaults defaults = { offsetof(struct fan_event_defaults, instance_id),
                                           .source = FAN_SOURCE_SYSTEM,
                                           .instance_id = (const char *)1 };
    assert_ok(fan_event_new(&draft, &defaults, &event, NULL));
    assert_int_equal(fan_event_source(event), FAN_SOURCE_SYSTEM);
    fan_event_free(event, NULL);
    defaults.size = 1;
    assert_refused(&draft, &defaults, "size", "defaults");
}

static void test_P02_without_memory_nothing_is_lost(void **state)
{
    (void)state;
    struct world world;
    world_init(&world);
    struct fan_event_defaults defaults = FAN_EVENT_DEFAULTS_INIT;
    defaults.env = &world.env;
    struct fan_event_draft draft = { FAN_EVENT_DRAFT_SIZE, .type = "a",
                                     .payload = FAN_STR("{\"a\":[1,2]}"),
                                     .metadata = FAN_STR("{\"b\":2}") };
    enum fan_status status = FAN_NO_MEMORY;
    long failures = 0;
    for (; status != FAN_OK; failures++) {
        struct fan_event *event = NULL;
        struct fan_error error = FAN_ERROR_INIT;
        world.allocations_left = failures;
        status = fan_event_new(&draft, &defaults, &event, &error);
        if (status == FAN_OK) {
            struct fan_event *copy = NULL;
            world.allocations_left = 0;
            assert_int_equal(fan_event_copy(event, &world.env, &copy), FAN_NO_MEMORY);
            assert_null(copy);
            fan_event_free(event, &world.env);
        } else {
            assert_int_equal(status, FAN_NO_MEMORY);
            assert_int_equal(error.status, FAN_NO_MEMORY);
            assert_null(event);
        }
        assert_int_equal(world.held, 0);
    }
    assert_true(failures > 1);
}

static long jansson_left;
static long jansson_held;

static void *jansson_malloc(size_t size)
{
    if (jansson_left-- <= 0) {
        errno = ENOMEM;
        return NULL;
    }
    void *block = malloc(size);
    jansson_held += block != NULL;
    return block;
}

static void jansson_free(void *block)
{
    jansson_held -= block != NULL;
    free(block);
}

/*
 * The parser's own memory is not ours to give; that it runs out must not be taken for success. The
 * escaped name is what only the parser can judge.
 */
static void test_P02_a_parser_without_memory_is_a_failure(void **state)
{
    (void)state;
    struct fan_event_draft draft = { FAN_EVENT_DRAFT_SIZE, .type = "a",
                                     .payload = FAN_STR("[{\"\\u0061\":[1,\"x\"],\"b\":2}]") };
    json_set_alloc_funcs(jansson_malloc, jansson_free);
    enum fan_status status = FAN_NO_MEMORY;
    long failures = 0;
    for (; status != FAN_OK && failures < 1000; failures++) {
        struct fan_event *event = NULL;
        jansson_left = failures;
        status = fan_event_new(&draft, NULL, &event, NULL);
        assert_true(status == FAN_OK || status == FAN_NO_MEMORY);
        if (status == FAN_OK)
            fan_event_free(event, NULL);
        else
            assert_null(event);
        assert_int_equal(jansson_held, 0);
    }
    json_set_alloc_funcs(malloc, free);
    assert_int_equal(status, FAN_OK);
    assert_true(failures > 4);
}

static void same_random(void *context, void *bytes, size_t size)
{
    memset(bytes, *(const unsigned char *)context, size);
}

static void test_P01_a_trace_goes_on_with_a_span_of_its_own(void **state)
{
    (void)state;
    static const struct {
        const char *parent;
        const char *child; /* NULL: it is refused */
        unsigned char random;
    } cases[] = {
        { "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
          "00-0af7651916cd43dd8448eb211c80319c-abababababababab-01", 0xab },
        { "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
          "00-0af7651916cd43dd8448eb211c80319c-0505050505050505-00", 0x05 },
        /* Flags that this version does not know are not passed on. */
        { "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff",
          "00-0af7651916cd43dd8448eb211c80319c-0505050505050505-01", 0x05 },
        /* A later version may say more; what goes on is what this one knows. */
        { "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-02-what-else",
          "00-0af7651916cd43dd8448eb211c80319c-0505050505050505-00", 0x05 },
        /* All zeros would be no span. */
        { "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
          "00-0af7651916cd43dd8448eb211c80319c-0000000000000001-01", 0 },
        { "", "", 0 },
        { NULL, "", 0 },
        { "00-00000000000000000000000000000000-b7ad6b7169203331-01", NULL, 0 },
        { "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", NULL, 0 },
        { "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01", NULL, 0 },
        { "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", NULL, 0 },
        { "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-", NULL, 0 },
        { "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331", NULL, 0 },
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        unsigned char byte = cases[i].random;
        struct fan_env env = *fan_env_default();
        env.context = &byte;
        env.random = same_random;
        char text[FAN_TRACEPARENT_SIZE] = "untouched";
        enum fan_status status = fan_trace_child(cases[i].parent, &env, text);
        assert_int_equal(status, cases[i].child ? FAN_OK : FAN_INVALID);
        assert_string_equal(text, cases[i].child ? cases[i].child : "untouched");
    }
    char one[FAN_TRACEPARENT_SIZE];
    char two[FAN_TRACEPARENT_SIZE];
    assert_ok(fan_trace_child(cases[0].parent, NULL, one));
    assert_ok(fan_trace_child(cases[0].parent, NULL, two));
    assert_string_not_equal(one, two);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_P02_absent_fields_are_stamped),
        cmocka_unit_test(test_P01_every_field_is_kept),
        cmocka_unit_test(test_P01_a_trace_goes_on_with_a_span_of_its_own),
        cmocka_unit_test(test_P01_operations_and_types_may_be_custom),
        cmocka_unit_test(test_P02_validation_names_the_field),
        cmocka_unit_test(test_P02_payload_must_be_strict_json),
        cmocka_unit_test(test_P02_metadata_must_be_an_object),
        cmocka_unit_test(test_P02_depth_and_size_have_limits),
        cmocka_unit_test(test_P01_bytes_with_a_content_type_are_any_bytes),
        cmocka_unit_test(test_R04_drafts_of_other_sizes),
        cmocka_unit_test(test_P02_without_memory_nothing_is_lost),
        cmocka_unit_test(test_P02_a_parser_without_memory_is_a_failure),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
