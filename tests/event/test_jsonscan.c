/* The quick look at JSON says yes only where the parser does. */
#include "../test.h"

#include "event/jsonscan.h"
#include "event/jsontext.h"

#include <stdio.h>
#include <string.h>

#define DEPTH_MAX 8

static bool parser_accepts(struct fan_str text)
{
    json_t *value = NULL;
    bool right = fan__json_load(text, DEPTH_MAX, "payload", &value, NULL) == FAN_OK;
    if (right)
        json_decref(value);
    return right;
}

static struct fan_str str(const char *text)
{
    return (struct fan_str){ text, strlen(text) };
}

static const char *const plain[] = {
    "null",
    " true ",
    "-0.25",
    "0",
    "\"\"",
    "\"a\\n\\\"b\\\\\"",
    "[]",
    "{ }",
    "[1, 2 ,[3]]",
    "{\"a\": {\"a\": 1, \"b\": [{}, {\"a\": \"\xc3\xa4\"}]}, \"b\": false}",
    "[[[[[[[[]]]]]]]]",
    "\r\n\t{\"name\": \"Ada\", \"tags\": [\"x\", \"y\"], \"n\": 12345678901234567890}",
};

static const char *const others[] = {
    "",
    " ",
    "nul",
    "nulll",
    "01",
    "-",
    "1.",
    ".5",
    "+1",
    "\"a",
    "\"\t\"",
    "\"\\x\"",
    "\"\\u0041\"",
    "\"\\u0000\"",
    "\"\xff\"",
    "\"\xc3\"",
    "[1,]",
    "[1 2]",
    "[",
    "]",
    "[}",
    "{]",
    "{\"a\"}",
    "{\"a\":}",
    "{\"a\":1,}",
    "{\"a\":1,\"a\":2}",
    "{\"a\":1,\"b\":{},\"a\":2}",
    "{\"a\":1,\"\\u0061\":2}",
    "{a:1}",
    "1 2",
    "{} {}",
    "[[[[[[[[[]]]]]]]]]",
    "1e5",
    "1e999",
    "// x",
    "\xef\xbb\xbf{}",
};

static void test_P02_plain_json_is_known_at_once(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(plain) / sizeof(*plain); i++) {
        if (!fan__json_scan(str(plain[i]), DEPTH_MAX))
            fail_msg("not known: %s", plain[i]);
        assert_true(parser_accepts(str(plain[i])));
    }
    for (size_t i = 0; i < sizeof(others) / sizeof(*others); i++) {
        if (fan__json_scan(str(others[i]), DEPTH_MAX))
            fail_msg("accepted: %s", others[i]);
    }
    assert_false(fan__json_scan((struct fan_str){ "1\0", 2 }, DEPTH_MAX));
    assert_false(fan__json_scan((struct fan_str){ "\"\0\"", 3 }, DEPTH_MAX));
    assert_false(fan__json_scan((struct fan_str){ "\"\\\0\"", 4 }, DEPTH_MAX));
}

static void test_P02_an_object_of_very_many_keys_is_left_to_the_parser(void **state)
{
    (void)state;
    char text[8192] = "{";
    for (int i = 0; i < 400; i++)
        snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s\"k%d\": 0", i ? "," : "", i);
    strcat(text, "}");
    assert_false(fan__json_scan(str(text), DEPTH_MAX));
    assert_true(parser_accepts(str(text)));
}

/* Texts with a few bytes changed: whatever the quick look accepts, the parser accepts. */
static void test_P02_the_quick_look_never_accepts_more_than_the_parser(void **state)
{
    (void)state;
    static const char bytes[] = "{}[]\",:\\0123456789-.eE+ntrufalsb \n\t\x01\x7f\x80\xc3\xa4\xff";
    uint64_t random = 1;
    unsigned accepted = 0;
    for (unsigned round = 0; round < 200000; round++) {
        char text[128];
        random = random * UINT64_C(6364136223846793005) + 1442695040888963407;
        const char *from = plain[(random >> 33) % (sizeof(plain) / sizeof(*plain))];
        size_t size = strlen(from);
        memcpy(text, from, size);
        for (unsigned change = 0; change < 1 + round % 3; change++) {
            random = random * UINT64_C(6364136223846793005) + 1442695040888963407;
            text[(random >> 33) % size] = bytes[(random >> 50) % (sizeof(bytes) - 1)];
        }
        struct fan_str mutated = { text, size };
        if (!fan__json_scan(mutated, DEPTH_MAX))
            continue;
        accepted++;
        if (!parser_accepts(mutated))
            fail_msg("the parser refuses: %.*s", (int)size, text);
    }
    assert_true(accepted > 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_P02_plain_json_is_known_at_once),
        cmocka_unit_test(test_P02_an_object_of_very_many_keys_is_left_to_the_parser),
        cmocka_unit_test(test_P02_the_quick_look_never_accepts_more_than_the_parser),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
