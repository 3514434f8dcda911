/* Floor 1: what is said to be legal JSON at a glance, against jansson, which knows. */
#include "../seed.h"
#include "../test.h"

#include <fanfare/batch.h>
#include <fanfare/env.h>
#include <fanfare/json.h>

#include "event/event.h"
#include "event/jsonscan.h"
#include "event/jsontext.h"
#include "random.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool jansson_takes(struct fan_str text, unsigned depth_max)
{
    json_t *value;
    if (fan__json_load(text, depth_max, "text", &value, NULL) != FAN_OK)
        return false;
    json_decref(value);
    return true;
}

/*
 * Asks about a copy behind which, under ASan, there is nothing. Fails when a sure answer is false.
 */
static bool is_sure(struct fan_str text, unsigned depth_max)
{
    char *copy = malloc(text.size ? text.size : 1);
    assert_non_null(copy);
    memcpy(copy, text.data, text.size);
    struct fan_str exact = { copy, text.size };
    bool sure = fan__json_surely_legal(exact, depth_max);
    if (sure && !jansson_takes(exact, depth_max))
        fail_msg("sure of %.*s", (int)text.size, text.data);
    free(copy);
    return sure;
}

static bool is_sure_text(const char *text)
{
    return is_sure((struct fan_str){ text, strlen(text) }, FAN_JSON_DEPTH_MAX);
}

/* ---- Documents from a seed ---- */

struct pen {
    uint64_t seed;
    bool wild; /* also what is a doubt: duplicate keys, surrogates, long numbers, bad escapes */
    size_t size;
    char text[16384];
};

static unsigned below(struct pen *pen, unsigned bound)
{
    return (unsigned)(random_next(&pen->seed) >> 33) % bound;
}

static void put(struct pen *pen, const char *bytes, size_t size)
{
    assert_true(pen->size + size < sizeof(pen->text));
    memcpy(pen->text + pen->size, bytes, size);
    pen->size += size;
    pen->text[pen->size] = '\0';
}

#define PUT(pen, literal) put(pen, literal, sizeof(literal) - 1)

static void put_text(struct pen *pen, const char *text)
{
    put(pen, text, strlen(text));
}

static void put_one_of(struct pen *pen, const char *const *texts, size_t count)
{
    put_text(pen, texts[below(pen, (unsigned)count)]);
}

#define PUT_ONE_OF(pen, texts) put_one_of(pen, texts, sizeof(texts) / sizeof((texts)[0]))

static void put_space(struct pen *pen)
{
    static const char *const spaces[] = { "", "", "", "", " ", "\n        ", "\t", "\r\n", "  " };
    PUT_ONE_OF(pen, spaces);
}

static void put_string(struct pen *pen)
{
    static const char *const pieces[] = {
        "a",
        "name",
        "x/y.z",
        "https://example.net/?q=1&r=2",
        "{[,:]}",
        "\\\"",
        "\\\\",
        "\\/",
        "\\b",
        "\\f\\n",
        "\\r\\t",
        "\\u00e4",
        "\\u20AC",
        "\\uffff",
        "\xc3\xa4",
        "\xe2\x82\xac",
        "\xf0\x9f\x98\x80",
        "\xef\xbf\xbf",
        "\x7f",
        " ",
    };
    static const char *const doubts[] = {
        "\\u0000", "\\ud83d\\ude00", "\\ud800",      "\\x",
        "\\u12",   "\xc0\x80",       "\xed\xa0\x80", "\xf5\x80\x80\x80",
        "\n",      "\xff",           "\x1f",         "\xe2\x82",
        "\\"
    };
    PUT(pen, "\"");
    for (unsigned left = below(pen, 6); left > 0; left--) {
        if (pen->wild && below(pen, 60) == 0)
            PUT_ONE_OF(pen, doubts);
        else
            PUT_ONE_OF(pen, pieces);
    }
    PUT(pen, "\"");
}

static void put_scalar(struct pen *pen)
{
    static const char *const scalars[] = {
        "null",
        "true",
        "false",
        "0",
        "-0",
        "7",
        "-12",
        "3.25",
        "1709208000123456789",
        "0.000001",
        "1e9",
        "-2.5E+10",
        "1e-07",
        "123456789012345",
    };
    static const char *const doubts[] = {
        "1e400", "-1e-400", "01",  "1.",  ".5",    "-",        "+1",
        "1e",    "1e+",     "NaN", "nul", "truer", "Infinity", "123456789012345678901234567890123",
        "1e308", "0x1"
    };
    if (pen->wild && below(pen, 60) == 0)
        PUT_ONE_OF(pen, doubts);
    else if (below(pen, 2) == 0)
        PUT_ONE_OF(pen, scalars);
    else
        put_string(pen);
}

static void put_value(struct pen *pen, unsigned depth);

static void put_key(struct pen *pen, unsigned number)
{
    static const char *const names[] = { "", "id", "a_rather_long_name", "\xc3\xa4", "node", "0" };
    char text[16];
    PUT(pen, "\"");
    PUT_ONE_OF(pen, names);
    if (pen->wild && below(pen, 60) == 0)
        PUT(pen, "\\u0061");
    /* The number makes it differ from the others of its object. */
    if (!pen->wild || below(pen, 40) > 0) {
        snprintf(text, sizeof(text), "#%u", number);
        put_text(pen, text);
    }
    PUT(pen, "\"");
    put_space(pen);
    PUT(pen, ":");
}

static void put_members(struct pen *pen, bool object, unsigned depth)
{
    unsigned count = below(pen, 12) == 0 ? 40 : below(pen, 5);
    for (unsigned i = 0; i < count && pen->size < 4000; i++) {
        if (i > 0)
            PUT(pen, ",");
        put_space(pen);
        if (object)
            put_key(pen, i);
        put_value(pen, depth);
    }
    put_space(pen);
}

static void put_value(struct pen *pen, unsigned depth)
{
    put_space(pen);
    unsigned kind = depth == 0 || pen->size > 4000 ? 9 : below(pen, 6);
    if (kind < 2) {
        PUT(pen, "{");
        put_members(pen, true, depth - 1);
        PUT(pen, "}");
    } else if (kind == 2) {
        PUT(pen, "[");
        put_members(pen, false, depth - 1);
        PUT(pen, "]");
    } else {
        put_scalar(pen);
    }
    put_space(pen);
}

/* One to three small wounds; many of them leave it legal. */
static void mutate(struct pen *pen)
{
    static const char telling[] = "\"\\{}[],:0123456789.eE+-utfn \n\x01\x7f\x80\xc3\xff";
    for (unsigned left = below(pen, 3) + 1; left > 0 && pen->size > 0; left--) {
        char *at = pen->text + below(pen, (unsigned)pen->size);
        size_t behind = (size_t)(pen->text + pen->size - at);
        switch (below(pen, 5)) {
        case 0:
            *at = (char)below(pen, 256);
            break;
        case 1:
            *at = telling[below(pen, sizeof(telling))];
            break;
        case 2:
            memmove(at, at + 1, --behind);
            pen->size--;
            break;
        case 3:
            memmove(at + 1, at, behind);
            *at = telling[below(pen, sizeof(telling))];
            pen->size++;
            break;
        default:
            pen->size -= below(pen, 20) == 0 ? behind : 0;
        }
    }
}

static unsigned soak(unsigned count)
{
    return test_is_soak() ? 20 * count : count;
}

static void test_P02_ordinary_documents_are_surely_legal(void **state)
{
    (void)state;
    static struct pen pen;
    pen = (struct pen){ .seed = 1 };
    size_t bytes = 0;
    for (unsigned i = 0; i < soak(20000); i++) {
        pen.size = 0;
        put_value(&pen, 6);
        bytes += pen.size;
        if (!is_sure((struct fan_str){ pen.text, pen.size }, FAN_JSON_DEPTH_MAX))
            fail_msg("not sure of %s", pen.text);
    }
    assert_true(bytes > 1000000);
}

static void test_P02_whatever_is_surely_legal_is_so_to_jansson(void **state)
{
    (void)state;
    static struct pen pen;
    pen = (struct pen){ .seed = 2, .wild = true };
    unsigned count = soak(200000);
    unsigned sure = 0;
    unsigned legal = 0;
    for (unsigned i = 0; i < count; i++) {
        pen.size = 0;
        put_value(&pen, below(&pen, 5));
        if (below(&pen, 4) > 0)
            mutate(&pen);
        struct fan_str text = { pen.text, pen.size };
        unsigned depth_max = below(&pen, 6);
        sure += is_sure(text, depth_max);
        legal += jansson_takes(text, depth_max);
    }
    print_message("# of %u documents %u are legal, %u surely\n", count, legal, sure);
    assert_true(legal > count / 5 && legal < count / 5 * 4);
    assert_true(sure > legal / 10 * 8);
}

/* ---- Cases by hand ---- */

static const char *const no_json[] = {
    "",
    " ",
    "{",
    "}",
    "[",
    "]",
    "[1",
    "[1,",
    "[1,]",
    "[,1]",
    "[1 2]",
    "[1}",
    "{]",
    "{\"a\"",
    "{\"a\":",
    "{\"a\":}",
    "{\"a\" 1}",
    "{\"a\":1",
    "{\"a\":1,",
    "{\"a\":1,}",
    "{,\"a\":1}",
    "{\"a\":1]",
    "{\"a\":1:2}",
    "{a:1}",
    "{1:1}",
    "{\"a\":1 \"b\":2}",
    "[\"a\":1]",
    "1 2",
    "{}{}",
    "[]]",
    "null,",
    "nul",
    "nulll",
    "Null",
    "tru",
    "falsey",
    "'a'",
    "\"",
    "\"a",
    "\"a\\",
    "\"a\\\"",
    "\"\\a\"",
    "\"\\u\"",
    "\"\\u12\"",
    "\"\\u123",
    "\"\\u123g\"",
    "\"\\U0041\"",
    "\"a\tb\"",
    "\"\x1f\"",
    "-",
    "+1",
    "01",
    "-01",
    "00",
    "1.",
    ".1",
    "1.e1",
    "1e",
    "1e+",
    "1e+-1",
    "0x10",
    "1_000",
    "1.2.3",
    "1e1.5",
    "--1",
    "\xef\xbb\xbf{}",
    "\xc2\xa0{}",
    "\v1",
    "1\f",
    "// a\n1",
    "/* a */ 1",
    "\"\x80\"",
    "\"\xc2\"",
    "\"\xc1\xbf\"",
    "\"\xe0\x9f\xbf\"",
    "\"\xed\xbf\xbf\"",
    "\"\xf0\x8f\xbf\xbf\"",
    "\"\xf4\x90\x80\x80\"",
    "\"\xf8\x88\x80\x80\x80\"",
    "\"\xe2\x82\"",
    "{\"\xff\":1}",
};

static void test_P02_what_is_no_json_is_a_doubt(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(no_json) / sizeof(no_json[0]); i++) {
        struct fan_str text = { no_json[i], strlen(no_json[i]) };
        assert_false(jansson_takes(text, FAN_JSON_DEPTH_MAX));
        if (is_sure(text, FAN_JSON_DEPTH_MAX))
            fail_msg("sure of %s", no_json[i]);
    }
    static const char nuls[][6] = { "1\0 ", "\0 1", "[1,\0]", "\"a\0b\"", "{\0}" };
    static const size_t sizes[] = { 2, 3, 5, 5, 3 };
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        assert_false(is_sure((struct fan_str){ nuls[i], sizes[i] }, FAN_JSON_DEPTH_MAX));
    assert_false(fan__json_surely_legal((struct fan_str){ NULL, 0 }, FAN_JSON_DEPTH_MAX));
}

static void test_P02_what_is_hard_to_tell_is_left_to_jansson(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool legal;
    } rows[] = {
        { "\"\\u0000\"", false },
        { "{\"\\u0000\":1}", false },
        { "{\"\\u0061\":1}", true },
        { "{\"a\\n\":1}", true },
        { "{\"\\u0061\":1,\"a\":1}", false },
        { "\"\\ud83d\\ude00\"", true },
        { "\"\\uD83D\"", false },
        { "\"\\ude00\\ud83d\"", false },
        { "{\"a\":1,\"a\":1}", false },
        { "{\"\":1,\"\":1}", false },
        { "{\"a\":1,\"b\":{\"a\":1,\"c\":0,\"a\":2}}", false },
        { "[{\"b\":1},{\"a\":1,\"a\":1}]", false },
        { "{\"a\":{\"b\":1},\"a\":1}", false },
        { "1e308", true },
        { "1e309", false },
        { "-1e400", false },
        { "1e-400", true },
        { "1e001", true },
        { "123456789012345678901234567890123", true },
        { "0.0000000000000000000000000000001", true },
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct fan_str text = { rows[i].text, strlen(rows[i].text) };
        assert_int_equal(jansson_takes(text, FAN_JSON_DEPTH_MAX), rows[i].legal);
        if (is_sure(text, FAN_JSON_DEPTH_MAX))
            fail_msg("sure of %s", rows[i].text);
    }
}

static void test_P02_what_is_usual_is_surely_legal(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "0",
        "-0",
        "0e0",
        "0.0",
        "1E5",
        "1e+99",
        "-1.25e-99",
        "18446744073709551616",
        "12345678901234567890123456789012",
        " \t\r\n null \t\r\n ",
        "\r\n\t{\"name\": \"Ada\", \"tags\": [\"x\", \"y\"], \"n\": 12345678901234567890}",
        "[[[[[[[[]]]]]]]]",
        "true",
        "false",
        "\"\"",
        "[]",
        "{}",
        "[ ]",
        "{ }",
        "[[],{},[{}]]",
        "{\"\":1}",
        "{\"a\":{\"a\":{\"a\":1}},\"b\":{\"a\":[{\"a\":1},{\"a\":2}]}}",
        "{\"aaaaaaaa\":1,\"aaaaaaab\":1,\"aaaaaaaaa\":1,\"aaaaaaa\":1}",
        "{\"a\":\"\\u0041\\u00e9\\uD7ff\\ue000\\uFFFF\\\"\\\\\\/\\b\\f\\n\\r\\t\"}",
        "\"\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\"",
        "\"\xee\x80\x80\xf0\x90\x80\x80\xf4\x8f\xbf\xbf\"",
        "\"\xef\xbf\xbe\xef\xbb\xbf\"",
        "{\"\xc3\xa4\":1,\"\xc3\xb6\":2}",
        "                                            1                                         ",
    };
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        if (!is_sure_text(texts[i]))
            fail_msg("not sure of %s", texts[i]);
}

/* Every byte at every place of strings of every length: words begin and end everywhere. */
static void test_P02_no_byte_of_a_string_is_overlooked(void **state)
{
    (void)state;
    char text[32];
    for (size_t size = 1; size <= 20; size++) {
        for (size_t place = 0; place < size; place++) {
            for (unsigned byte = 0; byte < 256; byte++) {
                memset(text, 'x', sizeof(text));
                text[0] = '"';
                text[size + 1] = '"';
                text[place + 1] = (char)byte;
                bool plain = byte >= ' ' && byte < 0x80 && byte != '"' && byte != '\\';
                /* A backslash is fine before what stands for itself, and that is no x. */
                bool sure = fan__json_surely_legal((struct fan_str){ text, size + 2 }, 1);
                assert_int_equal(sure, plain);
                /* As a key's, too. */
                char object[48];
                int length = snprintf(object, sizeof(object), "{%.*s:1}", (int)size + 2, text);
                struct fan_str key = { object, (size_t)length };
                if (byte != 0)
                    assert_int_equal(fan__json_surely_legal(key, 1), plain);
            }
        }
    }
}

static void test_P02_every_cut_and_every_depth_is_told(void **state)
{
    (void)state;
    static const char text[] =
        "[{\"a\":[[1,\"\\u00e4\"],{\"b\":{}},[[]]],\"c\xc3\xa4\":null},[true]]";
    struct fan_str whole = { text, sizeof(text) - 1 };
    for (size_t cut = 0; cut < whole.size; cut++)
        assert_false(is_sure((struct fan_str){ text, cut }, FAN_JSON_DEPTH_MAX));
    for (unsigned depth = 0; depth < 10; depth++) {
        assert_int_equal(is_sure(whole, depth), jansson_takes(whole, depth));
        assert_int_equal(is_sure(whole, depth), depth >= 5);
    }
    /* Deeper than its stack it does not look, whatever the limit. */
    static char nested[4000];
    static const size_t depths[] = { 64, 65, 200, 300, 1025, 2000 };
    for (size_t i = 0; i < sizeof(depths) / sizeof(depths[0]); i++) {
        memset(nested, '[', depths[i]);
        memset(nested + depths[i], ']', depths[i]);
        struct fan_str deep = { nested, 2 * depths[i] };
        assert_int_equal(is_sure(deep, 64), depths[i] <= 64);
        assert_int_equal(is_sure(deep, FAN__JSON_DEPTH_LIMIT), depths[i] <= 200);
    }
}

/* `{"k0":0,"k1":0,...}`, with the key `again` once more in the place of the key `at`. */
static struct fan_str keys_text(char *text, unsigned count, unsigned at, unsigned again)
{
    size_t size = 0;
    for (unsigned i = 0; i < count; i++)
        size += (size_t)sprintf(text + size, "%c\"k%u\":0", i ? ',' : '{', i == at ? again : i);
    text[size++] = '}';
    return (struct fan_str){ text, size };
}

static void test_P02_duplicate_keys_are_never_surely_legal(void **state)
{
    (void)state;
    static char text[40000];
    static const unsigned counts[] = { 2, 3, 8, 9, 16, 17, 33, 100 };
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        unsigned count = counts[i];
        assert_true(is_sure(keys_text(text, count, count, 0), 1));
        for (unsigned at = 1; at < count; at++)
            for (unsigned again = 0; again < at; again += 1 + count / 10)
                assert_false(fan__json_surely_legal(keys_text(text, count, at, again), 1));
    }
    assert_true(is_sure(keys_text(text, 1024, 1024, 0), 1));
    assert_false(is_sure(keys_text(text, 1024, 1023, 0), 1));
    /* More than fit on its stack. */
    assert_false(is_sure(keys_text(text, 1025, 1025, 0), 1));
}

/* Keys of closed objects are forgotten, so a long document may have any number of them. */
static void test_P02_only_keys_of_open_objects_count(void **state)
{
    (void)state;
    static char text[300000];
    size_t size = 0;
    for (unsigned i = 0; i < 20000; i++)
        size += (size_t)sprintf(text + size, "%c{\"a\":0}", i ? ',' : '[');
    text[size++] = ']';
    assert_true(is_sure((struct fan_str){ text, size }, 2));
}

/* ---- Events read without jansson ---- */

static void put_event_member(struct pen *pen)
{
    static const char *const members[] = {
        "\"type\":\"public.users.create\"",
        "\"type\":\"a\"",
        "\"topic\":\"user:\xc3\xa4\"",
        "\"topic\":\"a\\u00e4\"",
        "\"topic\":\"\"",
        "\"source\":\"database\"",
        "\"source\":\"somewhere\"",
        "\"source\":null",
        "\"user_id\":-9223372036854775808",
        "\"user_id\":9223372036854775807",
        "\"user_id\":42",
        "\"user_id\":1.5",
        "\"user_id\":\"7\"",
        "\"session_id\":\"s-1\"",
        "\"session_id\":7",
        "\"instance_id\":\"\"",
        "\"created_at\":\"2024-02-29T12:00:00.5+01:00\"",
        "\"created_at\":\"1970-01-01T00:00:00Z\"",
        "\"deliver_at\":\"1970-01-01T00:00:00Z\"",
        "\"deliver_at\":\"soon\"",
        "\"deliver_at\":null",
        "\"schema\":\"s\"",
        "\"entity\":null",
        "\"operation\":\"o\"",
        "\"traceparent\":\"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\"",
        "\"traceparent\":\"x\"",
        "\"content_type\":\"application/json\"",
        "\"content_type\":\"text/plain\"",
        "\"payload_encoding\":\"base64\"",
        "\"metadata\":{}",
        "\"metadata\": { \"a\" : [1 , {}] } ",
        "\"metadata\":[]",
        "\"metadata\":null",
        "\"status\":\"pending\"",
        "\"status\":\"unheard of\"",
        "\"seq\":7",
        "\"processed_at\":null",
        "\"error\":{\"a\":[]}",
        "\"unknown\":1",
        "\"payload\":null",
    };
    if (below(pen, 6) > 0) {
        PUT_ONE_OF(pen, members);
        return;
    }
    PUT(pen, "\"payload\":");
    put_value(pen, 4);
}

static void put_event(struct pen *pen)
{
    put_space(pen);
    PUT(pen, "{\"id\":\"i\",\"type\":\"t\"");
    for (unsigned left = below(pen, 6); left > 0; left--) {
        PUT(pen, ",");
        put_space(pen);
        put_event_member(pen);
        put_space(pen);
    }
    PUT(pen, "}");
    put_space(pen);
    if (pen->wild && below(pen, 20) == 0)
        PUT(pen, "7");
}

static int64_t fixed_clock(void *context)
{
    (void)context;
    return 1;
}

static void assert_same_event(const struct fan_event *a, const struct fan_event *b)
{
    assert_int_equal(fan_event_size(a), fan_event_size(b));
    assert_memory_equal(a, b, fan_event_size(a));
}

/* Puts the pen's text, which may hold a zero byte, between two others. */
static struct fan_str enclose(const struct pen *pen, const char *before, const char *after)
{
    static char array[sizeof(pen->text) + 32];
    size_t before_size = strlen(before);
    size_t after_size = strlen(after);
    assert_true(before_size + after_size <= 32);
    memcpy(array, before, before_size);
    memcpy(array + before_size, pen->text, pen->size);
    memcpy(array + before_size + pen->size, after, after_size);
    return (struct fan_str){ array, before_size + pen->size + after_size };
}

/*
 * What is read alone must come out the same beside an event with an escaped name, which sends all
 * of the array to jansson.
 */
static bool read_both_ways(struct pen *pen, const struct fan_json_options *options,
                           struct fan_batch *batch)
{
    struct fan_event *event;
    struct fan_error error = FAN_ERROR_INIT;
    enum fan_status status =
        fan_event_from_json((struct fan_str){ pen->text, pen->size }, options, &event, &error);
    fan_batch_clear(batch);
    struct fan_error long_error = FAN_ERROR_INIT;
    enum fan_status long_status = fan_events_from_json(
        enclose(pen, "[", ",{\"\\u0074ype\":\"a\"}]"), options, batch, &long_error);
    if (status == FAN_OK) {
        if (long_status != FAN_OK)
            fail_msg("%s: %s %s", pen->text, long_error.field, long_error.message);
        assert_int_equal(fan_batch_count(batch), 2);
        assert_same_event(event, fan_batch_event(batch, 0));
        /* Once more as an array of itself, which may be read without jansson. */
        fan_batch_clear(batch);
        assert_ok(fan_events_from_json(enclose(pen, " [", "]\n"), options, batch, NULL));
        assert_int_equal(fan_batch_count(batch), 1);
        assert_same_event(event, fan_batch_event(batch, 0));
        fan_event_free(event, NULL);
        return true;
    }
    assert_int_equal(long_status, status);
    assert_int_equal(fan_batch_count(batch), 0);
    /* Places differ by the bracket; the reason is the same. */
    if (!strstr(error.message, " at line ") && !strstr(error.message, " at byte "))
        assert_string_equal(long_error.message, error.message);
    return false;
}

static void test_P02_events_are_the_same_with_and_without_jansson(void **state)
{
    (void)state;
    static struct pen pen;
    pen = (struct pen){ .seed = 3 };
    struct fan_env env = *fan_env_default();
    env.wall_us = fixed_clock;
    struct fan_event_defaults defaults = FAN_EVENT_DEFAULTS_INIT;
    defaults.env = &env;
    defaults.instance_id = "here";
    struct fan_json_options options = FAN_JSON_OPTIONS_INIT;
    options.defaults = &defaults;
    struct fan_batch *batch;
    assert_ok(fan_batch_new(NULL, &batch));
    unsigned count = soak(30000);
    unsigned read = 0;
    for (unsigned i = 0; i < count; i++) {
        pen.size = 0;
        pen.wild = below(&pen, 2) == 0;
        put_event(&pen);
        if (below(&pen, 4) == 0)
            mutate(&pen);
        options.accept_read_only = below(&pen, 2) == 0;
        read += read_both_ways(&pen, &options, batch);
    }
    print_message("# of %u events %u are legal\n", count, read);
    assert_true(read > count / 10 && read < count / 10 * 9);
    fan_batch_free(batch);
}

static void test_P05_an_array_with_a_doubt_is_still_all_or_nothing(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t count; /* 0: refused */
        const char *field;
    } rows[] = {
        { "[{\"type\":\"a\"},{\"type\":\"b\"}]", 2, NULL },
        { "[{\"type\":\"a\"},{\"\\u0074ype\":\"b\"}]", 2, NULL },
        { "[{\"type\":\"a\"},{\"type\":7}]", 0, "[1].type" },
        { "[{\"type\":\"a\"},{\"type\":\"a..b\"}]", 0, "[1].type" },
        { "[{\"type\":\"a\"},{\"type\":\"b\"}", 0, "event" },
        { "[{\"type\":\"a\"},{\"type\":\"b\"}}", 0, "event" },
        { "[{\"type\":\"a\"},{\"type\":\"b\"},]", 0, "event" },
        { "[{\"type\":\"a\"}]]", 0, "event" },
        { "{\"type\":\"a\"},{\"type\":\"a\"}", 0, "event" },
        { "[]", 0, NULL },
    };
    struct fan_batch *batch;
    assert_ok(fan_batch_new(NULL, &batch));
    assert_ok(fan_events_from_json((struct fan_str)FAN_STR("{\"type\":\"x\"}"), NULL, batch, NULL));
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct fan_error error = FAN_ERROR_INIT;
        size_t before = fan_batch_count(batch);
        struct fan_str text = { rows[i].text, strlen(rows[i].text) };
        enum fan_status status = fan_events_from_json(text, NULL, batch, &error);
        assert_int_equal(status, rows[i].field ? FAN_INVALID : FAN_OK);
        assert_int_equal(fan_batch_count(batch), before + rows[i].count);
        if (rows[i].field)
            assert_string_equal(error.field, rows[i].field);
    }
    fan_batch_free(batch);
}

static long jansson_calls;

static void *counting_malloc(size_t size)
{
    jansson_calls++;
    return malloc(size);
}

/* The very purpose: an ordinary event costs no parser at all. */
static void test_P02_ordinary_events_are_made_without_a_parser(void **state)
{
    (void)state;
    struct fan_event_draft draft = { FAN_EVENT_DRAFT_SIZE, .type = "public.users.create",
                                     .payload = FAN_STR("{\"id\": 42, \"tags\": [\"a\", 1.5]}"),
                                     .metadata = FAN_STR("{\"trace\": {}}") };
    static const char line[] =
        "{\"type\":\"a\",\"topic\":\"t\",\"user_id\":7,\"source\":\"system\","
        "\"created_at\":\"2024-02-29T12:00:00Z\",\"payload\":{\"a\":[1]},"
        "\"entity\":null,\"deliver_at\":null,"
        "\"metadata\":{\"b\":null}}";
    struct fan_event *event;
    jansson_calls = 0;
    json_set_alloc_funcs(counting_malloc, free);
    assert_ok(fan_event_new(&draft, NULL, &event, NULL));
    fan_event_free(event, NULL);
    assert_ok(fan_event_from_json((struct fan_str)FAN_STR(line), NULL, &event, NULL));
    assert_string_equal(fan_event_payload(event).data, "{\"a\":[1]}");
    fan_event_free(event, NULL);
    assert_int_equal(jansson_calls, 0);
    draft.payload = (struct fan_str)FAN_STR("{\"\\u0061\":1}");
    assert_ok(fan_event_new(&draft, NULL, &event, NULL));
    fan_event_free(event, NULL);
    json_set_alloc_funcs(malloc, free);
    assert_true(jansson_calls > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_P02_ordinary_documents_are_surely_legal),
        cmocka_unit_test(test_P02_whatever_is_surely_legal_is_so_to_jansson),
        cmocka_unit_test(test_P02_what_is_no_json_is_a_doubt),
        cmocka_unit_test(test_P02_what_is_hard_to_tell_is_left_to_jansson),
        cmocka_unit_test(test_P02_what_is_usual_is_surely_legal),
        cmocka_unit_test(test_P02_no_byte_of_a_string_is_overlooked),
        cmocka_unit_test(test_P02_every_cut_and_every_depth_is_told),
        cmocka_unit_test(test_P02_duplicate_keys_are_never_surely_legal),
        cmocka_unit_test(test_P02_only_keys_of_open_objects_count),
        cmocka_unit_test(test_P02_events_are_the_same_with_and_without_jansson),
        cmocka_unit_test(test_P05_an_array_with_a_doubt_is_still_all_or_nothing),
        cmocka_unit_test(test_P02_ordinary_events_are_made_without_a_parser),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
