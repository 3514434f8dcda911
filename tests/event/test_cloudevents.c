/* Floor 1: CloudEvents 1.0, structured, in batches and in binary mode, both ways. */
#include "../test.h"

#include <fanfare/batch.h>
#include <fanfare/cloudevents.h>

#include "base/env.h"
#include "event/event.h"
#include "event/uuid.h"
#include "random.h"
#include "world.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#define MUST "\"specversion\":\"1.0\",\"id\":\"A-1\",\"source\":\"/s\",\"type\":\"com.x.y\""

static struct fan_str str(const char *text)
{
    return (struct fan_str){ text, strlen(text) };
}

static struct fan_event *read_json(const char *text)
{
    struct fan_event *event = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    if (fan_event_from_cloudevent_json(str(text), NULL, &event, &error) != FAN_OK)
        fail_msg("%s: %s %s", text, error.field, error.message);
    return event;
}

static void assert_same_json(const char *a, const char *b)
{
    json_t *left = json_loads(a, JSON_REJECT_DUPLICATES, NULL);
    json_t *right = json_loads(b, JSON_REJECT_DUPLICATES, NULL);
    if (!left || !right || !json_equal(left, right))
        fail_msg("%s\nis not\n%s", a, b);
    json_decref(left);
    json_decref(right);
}

static void test_P03_structured_comes_back_as_it_was(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "{" MUST "}",
        "{" MUST ",\"data\":null}",
        "{" MUST ",\"data\":{\"a\":[1, 2.50]}}",
        "{" MUST ",\"data\":\"text\",\"datacontenttype\":\"application/json\"}",
        "{" MUST ",\"data\":\"<x\\u00e4>\\n\",\"datacontenttype\":\"application/xml\"}",
        "{" MUST ",\"data\":\"\",\"datacontenttype\":\"text/plain\"}",
        "{" MUST ",\"datacontenttype\":\"text/plain\"}",
        "{" MUST ",\"datacontenttype\":\"application/json\"}",
        "{" MUST ",\"data_base64\":\"iVBORwD/\"}",
        "{" MUST ",\"data_base64\":\"\"}",
        "{" MUST ",\"data_base64\":\"e30=\",\"datacontenttype\":\"application/json\"}",
        "{" MUST ",\"data_base64\":\"iVBORwD/\",\"datacontenttype\":\"image/png\"}",
        "{" MUST ",\"time\":\"2018-04-05T17:31:00.123456789+02:00\"}",
        "{" MUST ",\"time\":\"1970-01-01T00:00:00Z\"}",
        "{" MUST ",\"time\":\"2016-12-31T23:59:60Z\"}",
        "{" MUST ",\"subject\":\"mynewfile.jpg\",\"dataschema\":\"#x\"}",
        "{" MUST ",\"comexampleextension1\":\"v\",\"comexampleothervalue\":5}",
        "{" MUST
        ",\"a\":true,\"b\":false,\"c\":-2147483648,\"d\":1.0,\"e\":\"\",\"traceparent\":7}",
        "{" MUST ",\"traceparent\":\"nonsense\",\"tracestate\":\"a=b\"}",
        "{" MUST ",\"fansource\":\"mars\",\"sequence\":\"x\"}",
        "{\"specversion\":\"1.0\",\"id\":\"\\\"\\n\",\"source\":\"urn:fanfare:i\",\"type\":\"a\"}",
    };
    struct fan_text out = FAN_TEXT_INIT;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct fan_event *event = read_json(texts[i]);
        assert_ok(fan_event_to_cloudevent_json(event, 0, &out));
        assert_same_json(out.data, texts[i]);
        /* The same once more from the log's point of view: it is one event. */
        struct fan_event *again = read_json(out.data);
        assert_string_equal(fan_event_id(again), fan_event_id(event));
        fan_event_free(again, NULL);
        fan_event_free(event, NULL);
    }
    fan_text_deinit(&out);
}

static void test_P03_attributes_become_fields(void **state)
{
    (void)state;
    struct fan_event *event = read_json(
        "{" MUST ",\"subject\":\"users:42\",\"time\":\"2024-02-29T01:30:00.1234567+01:30\","
        "\"datacontenttype\":\"application/vnd.x+json\",\"data\": { \"a\" : 1.50 } ,"
        "\"traceparent\":\"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\",\"n\":7}");
    unsigned char uuid[FAN__UUID_SIZE];
    assert_true(fan__uuid_parse(fan_event_id(event), uuid));
    assert_int_equal(uuid[6] >> 4, 8);
    assert_int_equal(uuid[8] >> 6, 2);
    assert_string_equal(fan_event_type(event), "com.x.y");
    assert_string_equal(fan_event_operation(event), "y");
    assert_string_equal(fan_event_topic(event), "users:42");
    assert_string_equal(fan_event_content_type(event), "application/vnd.x+json");
    assert_string_equal(fan_event_payload(event).data, "{ \"a\" : 1.50 }");
    assert_true(fan_event_created_us(event) == INT64_C(1709164800123456));
    assert_string_equal(fan_event_traceparent(event),
                        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    assert_non_null(strstr(fan_event_metadata(event).data,
                           "{\"cloudevents\":{\"data\":\"json\",\"attributes\":{\"specversion\""));
    assert_non_null(strstr(fan_event_metadata(event).data, "\"n\":7"));
    fan_event_free(event, NULL);
    /* No time at all means now, so the beginning of 1970 is moved by the least there is. */
    event = read_json("{" MUST ",\"time\":\"1970-01-01T00:00:00Z\"}");
    assert_true(fan_event_created_us(event) == 1);
    fan_event_free(event, NULL);
    event = read_json("{" MUST ",\"data_base64\":\"AAE=\"}");
    assert_string_equal(fan_event_content_type(event), "application/octet-stream");
    assert_int_equal(fan_event_payload(event).size, 2);
    fan_event_free(event, NULL);
}

static void test_P03_the_id_follows_from_source_and_id(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {
        { "/s", "A-1" }, { "/sA", "-1" }, { "/", "sA-1" }, { "/s", "A-2" }, { "A-1", "/s" },
    };
    char ids[5][FAN__UUID_TEXT_SIZE];
    for (size_t i = 0; i < 5; i++) {
        for (int round = 0; round < 2; round++) {
            char text[200];
            snprintf(text, sizeof(text),
                     "{\"specversion\":\"1.0\",\"source\":\"%s\",\"id\":\"%s\",\"type\":\"%s\"}",
                     pairs[i][0], pairs[i][1], round ? "a" : "b");
            struct fan_event *event = read_json(text);
            if (round > 0)
                assert_string_equal(fan_event_id(event), ids[i]);
            strcpy(ids[i], fan_event_id(event));
            fan_event_free(event, NULL);
        }
        for (size_t j = 0; j < i; j++)
            assert_string_not_equal(ids[i], ids[j]);
    }
    /* Written down once: another build must give the same ids, or nothing is idempotent. */
    assert_string_equal(ids[0], "93813ac5-847f-845e-a6cc-5def69d03fc6");
}

static void test_P03_what_cannot_be_mapped_is_refused_by_field(void **state)
{
    (void)state;
    char long_subject[400] = "{" MUST ",\"subject\":\"";
    memset(long_subject + strlen(long_subject), 'x', 256);
    strcat(long_subject, "\"}");
    const struct {
        const char *text;
        const char *field;
        const char *reason;
    } rows[] = {
        { "{}", "specversion", "missing" },
        { "{\"specversion\":\"0.3\",\"id\":\"1\",\"source\":\"s\",\"type\":\"t\"}", "specversion",
          "1.0" },
        { "{\"specversion\":\"1.0\",\"source\":\"s\",\"type\":\"t\"}", "id", "missing" },
        { "{\"specversion\":\"1.0\",\"id\":\"\",\"source\":\"s\",\"type\":\"t\"}", "id", "string" },
        { "{\"specversion\":\"1.0\",\"id\":1,\"source\":\"s\",\"type\":\"t\"}", "id", "string" },
        { "{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"a b\",\"type\":\"t\"}", "source",
          "URI" },
        { "{\"specversion\":\"1.0\",\"id\":\"1\",\"type\":\"t\"}", "source", "missing" },
        { "{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"s\",\"type\":\"t t\"}", "type",
          "illegal segment" },
        { "{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"s\",\"type\":\"t..t\"}", "type",
          "empty segment" },
        { "{" MUST ",\"time\":\"noon\"}", "time", "RFC 3339" },
        { "{" MUST ",\"time\":7}", "time", "string" },
        { "{" MUST ",\"subject\":\"\"}", "subject", "string" },
        { long_subject, "subject", "longer than 255" },
        { "{" MUST ",\"datacontenttype\":\"x\"}", "datacontenttype", "media type" },
        { "{" MUST ",\"Upper\":1}", "Upper", "attribute name" },
        { "{" MUST ",\"under_score\":1}", "under_score", "attribute name" },
        { "{" MUST ",\"\":1}", "", "attribute name" },
        { "{" MUST ",\"ext\":{}}", "ext", "a string, a number or a boolean" },
        { "{" MUST ",\"ext\":[1]}", "ext", "a string, a number or a boolean" },
        { "{" MUST ",\"data\":1,\"data_base64\":\"\"}", "data_base64", "beside" },
        { "{" MUST ",\"data_base64\":\"=\"}", "data_base64", "base64" },
        { "{" MUST ",\"data_base64\":7}", "data_base64", "string" },
        { "{" MUST ",\"data_base64\":\"ew==\",\"datacontenttype\":\"text/json\"}", "data", "JSON" },
        { "{" MUST ",\"data_base64\":\"\",\"datacontenttype\":\"text/json\"}", "data_base64",
          "JSON" },
        { "{" MUST ",\"data\":{},\"datacontenttype\":\"a/b\"}", "data", "string" },
        { "{" MUST ",\"data\":{\"a\":1,\"a\":2}}", "data", "duplicate" },
        { "{" MUST ",\"id\":\"2\"}", "cloudevent", "duplicate" },
        { "[]", "cloudevent", "object" },
        { "{", "cloudevent", "JSON" },
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct fan_event *event = NULL;
        struct fan_error error = FAN_ERROR_INIT;
        assert_int_equal(fan_event_from_cloudevent_json(str(rows[i].text), NULL, &event, &error),
                         FAN_INVALID);
        assert_null(event);
        if (strcmp(error.field, rows[i].field) != 0 || !strstr(error.message, rows[i].reason))
            fail_msg("%s: %s %s", rows[i].text, error.field, error.message);
    }
}

static void test_P03_a_batch_is_all_or_nothing(void **state)
{
    (void)state;
    struct fan_batch *batch;
    struct fan_error error = FAN_ERROR_INIT;
    assert_ok(fan_batch_new(NULL, &batch));
    assert_ok(fan_events_from_cloudevent_json(
        str("[{" MUST ",\"data\":1},{" MUST ",\"data_base64\":\"AAAA\"}]"), NULL, batch, NULL));
    assert_ok(fan_events_from_cloudevent_json(str("{" MUST "}"), NULL, batch, NULL));
    assert_ok(fan_events_from_cloudevent_json(str("[]"), NULL, batch, NULL));
    assert_int_equal(fan_batch_count(batch), 3);
    assert_int_equal(fan_events_from_cloudevent_json(str("[{" MUST "},{" MUST ",\"time\":1}]"),
                                                     NULL, batch, &error),
                     FAN_INVALID);
    assert_string_equal(error.field, "[1].time");
    assert_int_equal(fan_batch_count(batch), 3);
    fan_batch_free(batch);
}

static const char *value_of(const struct fan_cloudevent *cloudevent, const char *name)
{
    for (size_t i = 0; i < cloudevent->attribute_count; i++)
        if (strcmp(cloudevent->attributes[i].name, name) == 0)
            return cloudevent->attributes[i].value;
    return NULL;
}

static void test_P03_binary_mode_both_ways(void **state)
{
    (void)state;
    static const struct fan_attribute attributes[] = {
        { "specversion", "1.0" },
        { "id", "A-1" },
        { "source", "/s" },
        { "type", "com.x.y" },
        { "datacontenttype", "a/b" },
        { "time", "2024-02-29T12:00:00.5+05:30" },
        { "ext", "\"quoted\" \xc3\xa4" },
        { "count", "5" },
    };
    static const char bytes[] = "\x00\xff{";
    struct fan_cloudevent in = { FAN_CLOUDEVENT_SIZE, attributes, 8, true, { bytes, 3 } };
    struct fan_event *event;
    struct fan_cloudevent *out;
    assert_ok(fan_event_from_cloudevent(&in, NULL, &event, NULL));
    struct fan_event *structured = read_json("{" MUST "}");
    assert_string_equal(fan_event_id(event), fan_event_id(structured));
    fan_event_free(structured, NULL);
    assert_ok(fan_event_to_cloudevent(event, NULL, &out));
    assert_int_equal(out->attribute_count, 8);
    for (size_t i = 0; i < 8; i++)
        assert_string_equal(value_of(out, attributes[i].name), attributes[i].value);
    assert_true(out->has_data);
    assert_int_equal(out->data.size, 3);
    assert_memory_equal(out->data.data, bytes, 3);
    fan_cloudevent_free(out, NULL);
    fan_cloudevent_free(NULL, NULL);
    fan_event_free(event, NULL);

    in.has_data = false;
    assert_ok(fan_event_from_cloudevent(&in, NULL, &event, NULL));
    assert_ok(fan_event_to_cloudevent(event, NULL, &out));
    assert_false(out->has_data);
    fan_cloudevent_free(out, NULL);
    fan_event_free(event, NULL);

    /* Numbers and booleans of structured JSON are text in binary mode. */
    event = read_json("{" MUST ",\"n\":-5,\"t\":true,\"f\":false,\"z\":null,\"data\":\"x\","
                      "\"datacontenttype\":\"text/plain\"}");
    assert_ok(fan_event_to_cloudevent(event, NULL, &out));
    assert_string_equal(value_of(out, "n"), "-5");
    assert_string_equal(value_of(out, "t"), "true");
    assert_string_equal(value_of(out, "f"), "false");
    assert_null(value_of(out, "z"));
    assert_memory_equal(out->data.data, "x", 1);
    fan_cloudevent_free(out, NULL);
    fan_event_free(event, NULL);
}

static void test_P03_bad_parts_are_refused(void **state)
{
    (void)state;
    struct fan_attribute attributes[] = {
        { "specversion", "1.0" }, { "id", "1" }, { "source", "s" }, { "type", "t" }, { "ext", "" },
    };
    struct fan_cloudevent in = { FAN_CLOUDEVENT_SIZE, attributes, 5, true, FAN_STR("{\"a\":") };
    struct fan_event *event;
    struct fan_error error = FAN_ERROR_INIT;
    static const struct fan_attribute bad[] = {
        { "ext", "\xff" }, { "id", "2" },     { "data", "x" },
        { "a-b", "x" },    { "subject", "" }, { "datacontenttype", "application/json" }
    };
    static const char *const fields[] = { "ext", "id", "data", "a-b", "subject", "data" };
    for (size_t i = 0; i < 6; i++) {
        attributes[4] = bad[i];
        assert_int_equal(fan_event_from_cloudevent(&in, NULL, &event, &error), FAN_INVALID);
        assert_string_equal(error.field, fields[i]);
    }
    in.data.size = 0;
    assert_ok(fan_event_from_cloudevent(&in, NULL, &event, &error));
    assert_string_equal(fan_event_payload(event).data, "null");
    fan_event_free(event, NULL);
    in.size = 8;
    assert_int_equal(fan_event_from_cloudevent(&in, NULL, &event, &error), FAN_INVALID);
    assert_string_equal(error.field, "size");
}

/* Any event that was born here, with everything that may be in one. */
static struct fan_event *random_event(uint64_t *seed)
{
    static const char *const texts[] = { NULL,           "", "plain", "a b%/\xc3\xa4\"\\", "\n\x7f",
                                         "urn:fanfare:x" };
    static const char *const types[] = { "public.users.create", "chat.message", "a.b.c.d" };
    static const char *const payloads[] = { "", "null", "{ \"a\" : 1.50 }", "\"x\"", "[1,\n2]" };
    static const char *const content_types[] = { NULL, "application/json", "text/json;v=1",
                                                 "text/plain", "application/octet-stream" };
    static const char *const metadatas[] = { "", "{}", "{\"a\": [1]}", "{\"cloudevents\":1}",
                                             "{\"cloudevents\":{\"data\":\"none\","
                                             "\"attributes\":{" MUST "}}}" };
#define PICK(array) ((array)[random_next(seed) % (sizeof(array) / sizeof((array)[0]))])
    struct fan_event_draft draft = {
        .size = FAN_EVENT_DRAFT_SIZE,
        .type = PICK(types),
        .payload = str(PICK(payloads)),
        .topic = PICK(texts),
        .source = (enum fan_source)(random_next(seed) % 6),
        .schema = PICK(texts),
        .entity = PICK(texts),
        .operation = PICK(texts),
        .content_type = PICK(content_types),
        .metadata = str(PICK(metadatas)),
        .user_id = random_next(seed) % 2 ? (int64_t)random_next(seed) : 0,
        .session_id = PICK(texts),
        .instance_id = PICK(texts),
        .created_us = random_next(seed) % 2 ? -(int64_t)(random_next(seed) >> 14) : 0,
        .deliver_at_us = random_next(seed) % 2 ? (int64_t)(random_next(seed) >> 14) : 0,
        .traceparent = random_next(seed) % 2
                           ? "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
                           : NULL,
    };
#undef PICK
    struct fan_event *event = NULL;
    assert_ok(fan_event_new(&draft, NULL, &event, NULL));
    return event;
}

static void test_P03_what_was_born_here_comes_back_the_same(void **state)
{
    (void)state;
    uint64_t seed = 42;
    struct fan_text out = FAN_TEXT_INIT;
    for (int round = 0; round < 3000; round++) {
        struct fan_event *event = random_event(&seed);
        fan__event_set_seq(event, random_next(&seed) >> 1);
        struct fan_event *again;
        struct fan_error error = FAN_ERROR_INIT;
        assert_ok(fan_event_to_cloudevent_json(event, 0, &out));
        if (fan_event_from_cloudevent_json((struct fan_str){ out.data, out.size }, NULL, &again,
                                           &error) != FAN_OK)
            fail_msg("%s: %s %s", out.data, error.field, error.message);
        assert_non_null(strstr(out.data, "\"source\":\"urn:fanfare:"));
        fan__event_set_seq(again, fan_event_seq(event));
        assert_int_equal(fan_event_size(event), fan_event_size(again));
        assert_memory_equal(event, again, fan_event_size(event));
        fan_event_free(again, NULL);

        struct fan_cloudevent *parts;
        assert_ok(fan_event_to_cloudevent(event, NULL, &parts));
        assert_ok(fan_event_from_cloudevent(parts, NULL, &again, NULL));
        fan__event_set_seq(again, fan_event_seq(event));
        assert_int_equal(fan_event_size(event), fan_event_size(again));
        assert_memory_equal(event, again, fan_event_size(event));
        fan_cloudevent_free(parts, NULL);
        fan_event_free(again, NULL);
        fan_event_free(event, NULL);
    }
    fan_text_deinit(&out);
}

static void test_P03_an_unknown_attribute_on_the_way_is_kept(void **state)
{
    (void)state;
    uint64_t seed = 7;
    struct fan_event *event = random_event(&seed);
    struct fan_text out = FAN_TEXT_INIT;
    assert_ok(fan_event_to_cloudevent_json(event, 0, &out));
    char *changed = malloc(out.size + 100);
    assert_non_null(changed);
    sprintf(changed, "{\"tracestate\":\"a=b\",%s", out.data + 1);
    struct fan_event *again = read_json(changed);
    assert_string_not_equal(fan_event_id(again), fan_event_id(event));
    assert_ok(fan_event_to_cloudevent_json(again, 0, &out));
    assert_same_json(out.data, changed);
    free(changed);
    fan_event_free(again, NULL);
    fan_event_free(event, NULL);
    fan_text_deinit(&out);
}

/* Any CloudEvent of somebody else, as text. */
static void random_cloudevent(uint64_t *seed, char *text, size_t size)
{
    static const char *const values[] = { "true",  "-7",         "\"x\"",
                                          "\"\"",  "2147483647", "\"\\u00e4\\\"\"",
                                          "1.5e3", "null",       "\"2024\"" };
    static const char *const datas[] = { "",
                                         ",\"data\":{\"a\": [1, {}]}",
                                         ",\"data\" : null",
                                         ",\"data\":\"s\"",
                                         ",\"data_base64\":\"AAECAw==\"",
                                         ",\"data\":\"<x/>\",\"datacontenttype\":\"text/xml\"" };
    static const char *const times[] = { "", ",\"time\":\"2024-02-29T12:00:00.123456789-11:00\"",
                                         ",\"time\":\"0001-01-01t00:00:00z\"" };
    int at =
        snprintf(text, size,
                 "{ \"source\" : \"https://x/%llu\",\"type\":\"t\",\n\"specversion\":\"1.0\","
                 "\"id\":\"%llu\"%s%s",
                 (unsigned long long)random_next(seed) % 9, (unsigned long long)random_next(seed),
                 datas[random_next(seed) % 6], times[random_next(seed) % 3]);
    unsigned count = (unsigned)(random_next(seed) % 5);
    for (unsigned i = 0; i < count; i++)
        at += snprintf(text + at, size - (size_t)at, ",\"ext%u\":%s", i,
                       values[random_next(seed) % 9]);
    snprintf(text + at, size - (size_t)at, "}");
}

static void test_P03_any_foreign_one_comes_back_as_it_was(void **state)
{
    (void)state;
    uint64_t seed = 20240302;
    struct fan_text out = FAN_TEXT_INIT;
    for (int round = 0; round < 3000; round++) {
        char text[1000];
        random_cloudevent(&seed, text, sizeof(text));
        struct fan_event *event = read_json(text);
        assert_ok(fan_event_to_cloudevent_json(event, 0, &out));
        /* An attribute that is null is absent. */
        json_t *expected = json_loads(text, 0, NULL);
        json_t *got = json_loads(out.data, JSON_REJECT_DUPLICATES, NULL);
        const char *name;
        json_t *value;
        void *next;
        json_object_foreach_safe(expected, next, name, value)
        {
            if (json_is_null(value) && strcmp(name, "data") != 0)
                json_object_del(expected, name);
        }
        if (!json_equal(expected, got))
            fail_msg("%s\nbecame\n%s", text, out.data);
        json_decref(expected);
        json_decref(got);

        /* Through binary mode the id stays the same. */
        struct fan_cloudevent *parts;
        struct fan_event *again;
        assert_ok(fan_event_to_cloudevent(event, NULL, &parts));
        assert_ok(fan_event_from_cloudevent(parts, NULL, &again, NULL));
        assert_string_equal(fan_event_id(event), fan_event_id(again));
        fan_cloudevent_free(parts, NULL);
        fan_event_free(again, NULL);
        fan_event_free(event, NULL);
    }
    fan_text_deinit(&out);
}

static void test_P03_forged_metadata_fool_nobody(void **state)
{
    (void)state;
    struct fan_event *real = read_json("{" MUST "}");
    static const char *const metadatas[] = {
        "{\"cloudevents\":{\"data\":\"none\",\"attributes\":{" MUST ",\"ext\":{}}}}",
        "{\"cloudevents\":{\"data\":\"none\",\"attributes\":{" MUST ",\"Data\":1}}}",
        "{\"cloudevents\":{\"data\":\"none\",\"attributes\":{" MUST ",\"data\":1}}}",
        "{\"cloudevents\":{\"data\":\"soup\",\"attributes\":{" MUST "}}}",
        "{\"cloudevents\":{\"data\":\"text\",\"attributes\":{" MUST "}}}",
        "{\"cloudevents\":{\"data\":\"none\",\"attributes\":{" MUST "},\"x\":1}}",
        "{\"cloudevents\":{\"data\":\"none\",\"attributes\":{" MUST "}},\"x\":1}",
        "{\"cloudevents\":{\"data\":\"none\",\"attributes\":[]}}",
        "{\"cloudevents\":[]}",
        "{\"cloudevents\":{\"data\":\"none\",\"attributes\":{\"specversion\":\"1.0\",\"id\":\"A-"
        "1\","
        "\"source\":\"/s\",\"type\":\"other\"}}}",
        "{\"x\":\"\\\"cloudevents\\\"\",\"y\":{\"cloudevents\":1}}",
    };
    struct fan_text out = FAN_TEXT_INIT;
    for (size_t i = 0; i < sizeof(metadatas) / sizeof(metadatas[0]); i++) {
        struct fan_event_draft draft;
        fan_event_to_draft(real, &draft);
        draft.metadata = str(metadatas[i]);
        struct fan_event *event;
        assert_ok(fan_event_new(&draft, NULL, &event, NULL));
        assert_ok(fan_event_to_cloudevent_json(event, FAN_JSON_ONE_LINE, &out));
        assert_non_null(strstr(out.data, "\"source\":\"urn:fanfare:"));
        struct fan_event *again = read_json(out.data);
        assert_memory_equal(event, again, fan_event_size(event));
        fan_event_free(again, NULL);
        fan_event_free(event, NULL);
    }
    fan_text_deinit(&out);
    fan_event_free(real, NULL);
}

static void test_P03_without_memory_nothing_is_lost(void **state)
{
    (void)state;
    struct world world;
    world_init(&world);
    struct fan_event_defaults defaults = FAN_EVENT_DEFAULTS_INIT;
    defaults.env = &world.env;
    enum fan_status status = FAN_NO_MEMORY;
    long failures = 0;
    for (; status != FAN_OK; failures++) {
        struct fan_event *event = NULL;
        struct fan_event *again = NULL;
        struct fan_cloudevent *parts = NULL;
        struct fan_text out = { &world.env, NULL, 0, 0 };
        world.allocations_left = failures;
        status = fan_event_from_cloudevent_json(str("{" MUST ",\"n\":1,\"data_base64\":\"AAAA\"}"),
                                                &defaults, &event, NULL);
        if (status == FAN_OK)
            status = fan_event_to_cloudevent_json(event, 0, &out);
        if (status == FAN_OK)
            status = fan_event_to_cloudevent(event, &world.env, &parts);
        if (status == FAN_OK)
            status = fan_event_from_cloudevent(parts, &defaults, &again, NULL);
        assert_true(status == FAN_OK || status == FAN_NO_MEMORY);
        fan_event_free(event, &world.env);
        fan_event_free(again, &world.env);
        fan_cloudevent_free(parts, &world.env);
        fan_text_deinit(&out);
        assert_int_equal(world.held, 0);
    }
    assert_true(failures > 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_P03_structured_comes_back_as_it_was),
        cmocka_unit_test(test_P03_attributes_become_fields),
        cmocka_unit_test(test_P03_the_id_follows_from_source_and_id),
        cmocka_unit_test(test_P03_what_cannot_be_mapped_is_refused_by_field),
        cmocka_unit_test(test_P03_a_batch_is_all_or_nothing),
        cmocka_unit_test(test_P03_binary_mode_both_ways),
        cmocka_unit_test(test_P03_bad_parts_are_refused),
        cmocka_unit_test(test_P03_what_was_born_here_comes_back_the_same),
        cmocka_unit_test(test_P03_an_unknown_attribute_on_the_way_is_kept),
        cmocka_unit_test(test_P03_any_foreign_one_comes_back_as_it_was),
        cmocka_unit_test(test_P03_forged_metadata_fool_nobody),
        cmocka_unit_test(test_P03_without_memory_nothing_is_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
