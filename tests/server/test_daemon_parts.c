/* The parts of the daemon that know no socket: intake, index, frames, what is accepted. */
#include "../test.h"

#include "event/event.h"
#include "server/accept.h"
#include "server/daemon.h"
#include "server/index.h"
#include "server/intake.h"
#include "server/sse.h"

#include <fanfare/pattern.h>

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The same numbers on every run. */
static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525U + 1013904223U;
    return *state >> 8;
}

/* ---- Intake ---- */

/* Writes what an intake gives as one text: `number:item|`, with `!` for what is too long. */
static void drain(struct fan__intake *intake, struct fan__buffer *text)
{
    struct fan_str item;
    for (;;) {
        switch (fan__intake_next(intake, &item)) {
        case FAN__INTAKE_ITEM:
            fan__buffer_add_format(text, "%d:", (int)intake->number);
            fan__buffer_add(text, item.data, item.size);
            fan__buffer_add_text(text, "|");
            break;
        case FAN__INTAKE_TOO_LONG:
            fan__buffer_add_format(text, "%d:!|", (int)intake->number);
            break;
        case FAN__INTAKE_END:
            fan__buffer_add_text(text, "end");
            return;
        case FAN__INTAKE_MORE:
            return;
        }
    }
}

static void test_lines_are_the_same_however_they_are_cut(void **state)
{
    (void)state;
    static const char body[] = "one\ntwo \r\n\n \t\r\n  three\n\n{\"a\": \"b\"}\nlast";
    static const char wanted[] = "1:one|2:two|5:three|7:{\"a\": \"b\"}|8:last|end";
    uint32_t seed = 1;
    for (int round = 0; round < 500; round++) {
        struct fan__intake intake;
        struct fan__buffer text;
        fan__intake_init(&intake, NULL, FAN__INTAKE_LINES);
        fan__buffer_init(&text, NULL);
        for (size_t at = 0; at < sizeof(body) - 1;) {
            size_t size = 1 + next_random(&seed) % 9;
            if (size > sizeof(body) - 1 - at)
                size = sizeof(body) - 1 - at;
            fan__intake_add(&intake, (struct fan_str){ body + at, size }, false);
            /* Now and then several pieces gather before anybody looks. */
            if (next_random(&seed) % 3 > 0)
                drain(&intake, &text);
            at += size;
        }
        fan__intake_add(&intake, (struct fan_str){ "", 0 }, true);
        drain(&intake, &text);
        assert_false(text.failed);
        assert_int_equal(text.size, sizeof(wanted) - 1);
        assert_memory_equal(text.data, wanted, text.size);
        fan__buffer_deinit(&text);
        fan__intake_deinit(&intake);
    }
}

static void test_L12_a_line_too_long_is_told_once_and_not_kept(void **state)
{
    (void)state;
    struct fan__intake intake;
    struct fan__buffer text;
    char *piece = malloc(1 << 16);
    assert_non_null(piece);
    memset(piece, 'x', 1 << 16);
    fan__intake_init(&intake, NULL, FAN__INTAKE_LINES);
    fan__buffer_init(&text, NULL);
    fan__intake_add(&intake, (struct fan_str)FAN_STR("a\n"), false);
    for (int i = 0; i < 1000; i++) {
        fan__intake_add(&intake, (struct fan_str){ piece, 1 << 16 }, false);
        drain(&intake, &text);
        assert_true(intake.input.capacity <= 4 * FAN__BODY_SIZE_MAX);
    }
    fan__intake_add(&intake, (struct fan_str)FAN_STR("x\nb\n"), true);
    drain(&intake, &text);
    static const char wanted[] = "1:a|2:!|3:b|end";
    assert_int_equal(text.size, sizeof(wanted) - 1);
    assert_memory_equal(text.data, wanted, text.size);
    fan__buffer_deinit(&text);
    fan__intake_deinit(&intake);
    free(piece);
}

static void test_members_of_an_array(void **state)
{
    (void)state;
    struct fan__intake intake;
    struct fan__buffer text;
    struct fan_error error = FAN_ERROR_INIT;
    fan__intake_init(&intake, NULL, FAN__INTAKE_WHOLE);
    fan__buffer_init(&text, NULL);
    fan__intake_add(&intake, (struct fan_str)FAN_STR(" [ {\"a\": [1, \"]\"]} ,"), false);
    fan__intake_add(&intake, (struct fan_str)FAN_STR("7, \"x\\\"y\"]\n"), true);
    assert_ok(fan__intake_open(&intake, &error));
    drain(&intake, &text);
    static const char wanted[] = "1:{\"a\": [1, \"]\"]}|2:7|3:\"x\\\"y\"|end";
    assert_int_equal(text.size, sizeof(wanted) - 1);
    assert_memory_equal(text.data, wanted, text.size);
    fan__buffer_deinit(&text);
    fan__intake_deinit(&intake);

    fan__intake_init(&intake, NULL, FAN__INTAKE_WHOLE);
    fan__intake_add(&intake, (struct fan_str)FAN_STR("[1,\n2"), true);
    assert_int_equal(fan__intake_open(&intake, &error), FAN_INVALID);
    assert_non_null(strstr(error.message, "line 2"));
    fan__intake_deinit(&intake);
}

/* ---- Index ---- */

#define ENTRY_COUNT 300

struct listener {
    struct fan__index_entry entry;
    const char *topic;
    const char *pattern;
    unsigned visits;
    bool leaves; /* takes itself out when it is visited */
};

static struct fan__index shared_index;

static void on_visit(void *context, struct fan__index_entry *entry)
{
    struct listener *listener = (struct listener *)entry;
    (*(unsigned *)context)++;
    listener->visits++;
    if (listener->leaves)
        fan__index_remove(&shared_index, entry);
}

static bool wants(const struct listener *listener, const char *topic, const char *type)
{
    return (!listener->topic || strcmp(listener->topic, topic) == 0) &&
           (!listener->pattern || fan_pattern_match(listener->pattern, type));
}

static const char *pick(uint32_t *seed, const char *const *texts, size_t count)
{
    return texts[next_random(seed) % count];
}

#define PICK(seed, texts) pick(seed, texts, sizeof(texts) / sizeof(*(texts)))

/* The event goes by, and exactly those who want it have seen it. */
static void check_event(struct listener *listeners, const char *topic, const char *type)
{
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = type, .topic = topic };
    struct fan_event *event;
    assert_ok(fan_event_new(&draft, NULL, &event, NULL));
    unsigned expected = 0;
    for (size_t i = 0; i < ENTRY_COUNT; i++) {
        listeners[i].visits = 0;
        if (listeners[i].entry.group && wants(&listeners[i], topic, type))
            expected++;
    }
    unsigned visited = 0;
    fan__index_match(&shared_index, event, on_visit, &visited);
    assert_int_equal(visited, expected);
    for (size_t i = 0; i < ENTRY_COUNT; i++) {
        assert_true(listeners[i].visits <= 1);
        assert_true(!listeners[i].visits || wants(&listeners[i], topic, type));
        listeners[i].leaves = false;
    }
    fan_event_free(event, NULL);
}

static void test_the_index_finds_whom_plain_matching_finds(void **state)
{
    (void)state;
    static const char *const topics[] = { "", "a", "b", "c", "topic with a long name", NULL };
    static const char *const patterns[] = { "*",     ">",   "a.b.c", "a.b.*", "a.>", "*.b.*",
                                            "*.*.*", "a.b", "x",     "x.*",   NULL,  NULL };
    static const char *const types[] = { "a.b.c", "a.b.d", "a.b", "x", "x.y", "q.b.q", "a" };
    static struct listener listeners[ENTRY_COUNT];
    uint32_t seed = 7;
    fan__index_init(&shared_index, NULL);
    for (int round = 0; round < 5000; round++) {
        struct listener *listener = &listeners[next_random(&seed) % ENTRY_COUNT];
        if (listener->entry.group) {
            fan__index_remove(&shared_index, &listener->entry);
            fan__index_remove(&shared_index, &listener->entry);
        } else {
            listener->topic = listener->entry.topic = PICK(&seed, topics);
            listener->pattern = listener->entry.pattern = PICK(&seed, patterns);
            assert_ok(fan__index_add(&shared_index, &listener->entry));
        }
        if (round % 7 > 0)
            continue;
        for (int i = 0; i < 10; i++)
            listeners[next_random(&seed) % ENTRY_COUNT].leaves = true;
        const char *topic = topics[next_random(&seed) % 5];
        check_event(listeners, topic, PICK(&seed, types));
    }
    for (size_t i = 0; i < ENTRY_COUNT; i++)
        fan__index_remove(&shared_index, &listeners[i].entry);
    fan__index_deinit(&shared_index);
}

/* ---- Metrics ---- */

static void test_H14_a_scraper_gets_the_format_that_it_wants(void **state)
{
    (void)state;
    static const struct {
        const char *accept;
        enum fan_metrics_format format;
    } cases[] = {
        { NULL, FAN_METRICS_PROMETHEUS },
        { "", FAN_METRICS_PROMETHEUS },
        { "*/*", FAN_METRICS_PROMETHEUS },
        { "text/plain", FAN_METRICS_PROMETHEUS },
        { "application/openmetrics-text", FAN_METRICS_OPENMETRICS },
        { "APPLICATION/OpenMetrics-Text ; version=1.0.0", FAN_METRICS_OPENMETRICS },
        { "application/openmetrics-textual", FAN_METRICS_PROMETHEUS },
        /* What Prometheus sends. */
        { "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;"
          "q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
          FAN_METRICS_OPENMETRICS },
        { "text/plain;q=0.9, application/openmetrics-text;q=0.8", FAN_METRICS_PROMETHEUS },
        { "text/plain;q=0.8 , application/openmetrics-text; q=0.801", FAN_METRICS_OPENMETRICS },
        { "application/openmetrics-text;q=0", FAN_METRICS_PROMETHEUS },
        { "application/openmetrics-text;q=0.000,text/plain;q=0", FAN_METRICS_PROMETHEUS },
        { "application/openmetrics-text;q=", FAN_METRICS_PROMETHEUS },
        { ",,;q=1,;;,", FAN_METRICS_PROMETHEUS },
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_int_equal(fan__accept_metrics(cases[i].accept), cases[i].format);
}

static void test_frames_of_gaps_and_comments(void **state)
{
    (void)state;
    struct fan__buffer text;
    struct fan_cursor behind = { 9, 0xabc };
    fan__buffer_init(&text, NULL);
    struct fan_gap gap = { 4, 10, 5, FAN_GAP_OVERFLOW };
    fan__sse_add_gap(&text, &gap, &behind);
    gap.count = FAN_GAP_COUNT_UNKNOWN;
    gap.reason = FAN_GAP_RETENTION;
    fan__sse_add_gap(&text, &gap, &behind);
    fan__sse_add_retry(&text, 1500, NULL);
    fan__sse_add_retry(&text, 1501, &behind);
    fan__sse_add_comment(&text, NULL);
    fan__sse_add_comment(&text, &behind);
    static const char wanted[] =
        "id: 9@0000000000000abc\nevent: fanfare.gap\n"
        "data: {\"after\":4,\"before\":10,\"count\":5,\"reason\":\"overflow\"}\n\n"
        "id: 9@0000000000000abc\nevent: fanfare.gap\n"
        "data: {\"after\":4,\"before\":10,\"count\":null,\"reason\":\"retention\"}\n\n"
        "retry: 1500\n\nretry: 1501\nid: 9@0000000000000abc\n\n:\n\n:\nid: 9@0000000000000abc\n\n";
    assert_int_equal(text.size, sizeof(wanted) - 1);
    assert_memory_equal(text.data, wanted, text.size);
    fan__buffer_deinit(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines_are_the_same_however_they_are_cut),
        cmocka_unit_test(test_L12_a_line_too_long_is_told_once_and_not_kept),
        cmocka_unit_test(test_members_of_an_array),
        cmocka_unit_test(test_the_index_finds_whom_plain_matching_finds),
        cmocka_unit_test(test_H14_a_scraper_gets_the_format_that_it_wants),
        cmocka_unit_test(test_frames_of_gaps_and_comments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
