/* Append, get, read, delete, erase, wait: the log without groups. */
#include "store/suite/suite.h"

#include <stdio.h>
#include <string.h>

static void appends_rise(struct fan__suite *suite)
{
    CHECK_EQUAL(suite, fan__suite_head(suite), 0);
    uint64_t last = 0;
    for (int i = 0; i < 20; i++) {
        uint64_t seq = fan__suite_put_simple(suite, "a.b.c", "", NULL);
        CHECK(suite, seq > last && seq <= FAN_SEQ_MAX);
        CHECK_EQUAL(suite, fan__suite_head(suite), seq);
        last = seq;
    }
}

static void batch_keeps_its_order(struct fan__suite *suite)
{
    enum { COUNT = 1000 };
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_append *items = fan__suite_alloc(suite, COUNT, sizeof(*items));
    for (size_t i = 0; i < COUNT; i++) {
        char id[32];
        snprintf(id, sizeof(id), "event-%04zu", i);
        items[i].event = fan__suite_simple(suite, "a.b.c", i % 2 ? "odd" : "even", id);
    }
    CHECK_OK(suite, fan_store_append(suite->store, items, 0, &error));
    CHECK_OK(suite, fan_store_append(suite->store, items, COUNT, &error));
    for (size_t i = 0; i < COUNT; i++) {
        CHECK_IS(suite, items[i].ret_status, FAN_OK);
        CHECK(suite, !items[i].ret_duplicate);
        CHECK(suite, i == 0 || items[i].ret_seq > items[i - 1].ret_seq);
    }
    uint64_t after_seq = 0;
    size_t seen = 0;
    while (seen < COUNT) {
        struct fan_read_result result;
        CHECK_OK(suite, fan_store_read(suite->store, after_seq, NULL, suite->batch, &result));
        CHECK(suite, result.scanned_seq > after_seq);
        for (size_t i = 0; i < fan_batch_count(suite->batch); i++, seen++) {
            const struct fan_event *event = fan_batch_event(suite->batch, i);
            CHECK(suite, seen < COUNT);
            CHECK_EQUAL(suite, fan_event_seq(event), items[seen].ret_seq);
            CHECK_TEXT(suite, fan_event_id(event), fan_event_id(items[seen].event));
        }
        after_seq = result.scanned_seq;
    }
    CHECK_EQUAL(suite, after_seq, fan__suite_head(suite));
}

static void get_finds_exactly(struct fan__suite *suite)
{
    uint64_t seq = fan__suite_put_simple(suite, "a.b.c", "t", "Order-1");
    fan__suite_put_simple(suite, "a.b.c", "t", "Order-10");
    CHECK_OK(suite, fan_store_get(suite->store, "Order-1", suite->batch, NULL));
    CHECK_EQUAL(suite, fan_batch_count(suite->batch), 1);
    CHECK_EQUAL(suite, fan_event_seq(fan_batch_event(suite->batch, 0)), seq);
    static const char *const unknown[] = { "Order-",   "order-1", "Order-2", "%",
                                           "Order-1 ", "Order_1", "*" };
    for (size_t i = 0; i < sizeof(unknown) / sizeof(*unknown); i++)
        CHECK_IS(suite, fan_store_get(suite->store, unknown[i], suite->batch, NULL), FAN_NOT_FOUND);
}

/*
 * The same bytes, apart from two words of the head: the sequence that the log gave, and the check
 * over the block.
 */
static void check_same(struct fan__suite *suite, const struct fan_event *read,
                       const struct fan_event *written, uint64_t seq)
{
    enum { WORD = sizeof(uint64_t), OTHERS = 2 };
    const struct fan_event *parsed;
    CHECK(suite, read != NULL);
    CHECK_EQUAL(suite, fan_event_seq(read), seq);
    CHECK_EQUAL(suite, fan_event_size(read), fan_event_size(written));
    CHECK_OK(suite, fan_event_parse(read, fan_event_size(read), &parsed));
    const char *a = (const void *)read;
    const char *b = (const void *)written;
    size_t differing = 0;
    bool has_seq = false;
    for (size_t at = 0; at < fan_event_size(read); at += WORD) {
        if (memcmp(a + at, b + at, WORD) == 0)
            continue;
        if (++differing > OTHERS)
            fan__suite_fail(suite, __FILE__, __LINE__, "event '%.40s' differs at byte %zu of %zu",
                            fan_event_id(written), at, fan_event_size(read));
        has_seq = has_seq || memcmp(a + at, &seq, WORD) == 0;
    }
    CHECK(suite, has_seq);
}

static void check_survives(struct fan__suite *suite, const struct fan_event *event)
{
    uint64_t seq = fan__suite_put(suite, event);
    CHECK_OK(suite, fan_store_get(suite->store, fan_event_id(event), suite->batch, NULL));
    check_same(suite, fan_batch_event(suite->batch, 0), event, seq);
    struct fan_read_result result;
    CHECK_OK(suite, fan_store_read(suite->store, seq - 1, NULL, suite->batch, &result));
    check_same(suite, fan_batch_event(suite->batch, 0), event, seq);
    const struct fan_query query = { .size = FAN_QUERY_SIZE, .newest_first = true, .limit = 1 };
    struct fan_event_state states[1];
    struct fan_error error = FAN_ERROR_INIT;
    CHECK_OK(suite, fan_store_list(suite->store, &query, suite->batch, states, &error));
    check_same(suite, fan_batch_event(suite->batch, 0), event, seq);
}

static void every_field_survives(struct fan__suite *suite)
{
    struct fan_event_draft draft = {
        .type = "public.users.create",
        .topic = "user:42/\xc3\xa4",
        .id = "an id of one's own",
        .source = FAN_SOURCE_WEBSOCKET,
        .schema = "other",
        .entity = "things",
        .operation = "imported",
        .payload = FAN_STR("{\"a\": [1, 2.50, \"\\u00e4\", null],   \"b\": \"\xe2\x82\xac\"}"),
        .metadata = FAN_STR("{\"z\": {\"y\": [true]}, \"a\": \"b\"}"),
        .user_id = INT64_MIN,
        .session_id = "session 1",
        .instance_id = "instance/1",
        .created_us = INT64_C(1700000000123456),
        .deliver_at_us = INT64_C(1700000099123456),
        .traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    };
    check_survives(suite, fan__suite_event(suite, &draft));
    for (int source = FAN_SOURCE_DATABASE; source <= FAN_SOURCE_INTERNAL; source++) {
        draft.id = NULL;
        draft.source = (enum fan_source)source;
        draft.user_id = source % 2 ? INT64_MAX : -source;
        check_survives(suite, fan__suite_event(suite, &draft));
    }
    check_survives(suite, fan__suite_event(suite, &(struct fan_event_draft){ .type = "a" }));
    check_survives(suite, fan__suite_event(
                              suite, &(struct fan_event_draft){ .type = "a.b", .created_us = -1 }));
}

static void payloads_survive(struct fan__suite *suite)
{
    char bytes[256];
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (char)i;
    struct fan_event_draft draft = { .type = "raw.bytes",
                                     .content_type = "application/octet-stream",
                                     .payload = { bytes, sizeof(bytes) } };
    check_survives(suite, fan__suite_event(suite, &draft));
    draft.payload.size = 0;
    check_survives(suite, fan__suite_event(suite, &draft));
    static const size_t sizes[] = { 1, 7, 8, 9, 4095, 65536, FAN_PAYLOAD_SIZE_MAX };
    char *large = fan__suite_alloc(suite, FAN_PAYLOAD_SIZE_MAX, 1);
    for (size_t i = 0; i < FAN_PAYLOAD_SIZE_MAX; i++)
        large[i] = (char)fan__suite_random(&suite->random, 256);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        draft.payload = (struct fan_str){ large, sizes[i] };
        check_survives(suite, fan__suite_event(suite, &draft));
    }
    static const struct fan_str jsons[] = { FAN_STR("null"),
                                            FAN_STR("0"),
                                            FAN_STR("\"\""),
                                            FAN_STR("[]"),
                                            FAN_STR("  {\n\t}  "),
                                            FAN_STR("1e300"),
                                            FAN_STR("-1234567890123456789") };
    for (size_t i = 0; i < sizeof(jsons) / sizeof(*jsons); i++)
        check_survives(suite,
                       fan__suite_event(suite, &(struct fan_event_draft){ .type = "json.value",
                                                                          .payload = jsons[i] }));
}

static void ids_of_any_kind(struct fan__suite *suite)
{
    static const char *const ids[] = {
        "1",
        "01",
        "1.0",
        "a'b",
        "a\"b",
        "a\\b",
        "a%b",
        "a_b",
        "a b",
        " ",
        "a\nb",
        "a:b",
        "a/b",
        "a.b",
        "a*b",
        "a>b",
        "a\tb",
        "NULL",
        "-1",
        "$1",
        "?1",
        "{a}",
        "\xc3\xa4",
        "A",
        "a",
        "\xe2\x82\xac",
        "\xf0\x9f\x98\x80",
        "018f6b1c-7b1e-7c3a-9f00-000000000001",
        "018F6B1C-7B1E-7C3A-9F00-000000000001",
        "018f6b1c7b1e7c3a9f00000000000001",
    };
    enum { COUNT = sizeof(ids) / sizeof(*ids) };
    char longest[2][FAN_TEXT_SIZE_MAX + 1];
    for (int i = 0; i < 2; i++) {
        memset(longest[i], 'x', FAN_TEXT_SIZE_MAX);
        longest[i][FAN_TEXT_SIZE_MAX - 1] = (char)('0' + i);
        longest[i][FAN_TEXT_SIZE_MAX] = '\0';
    }
    uint64_t seqs[COUNT + 2];
    for (size_t i = 0; i < COUNT + 2; i++) {
        const char *id = i < COUNT ? ids[i] : longest[i - COUNT];
        seqs[i] = fan__suite_put_simple(suite, "a.b.c", "", id);
    }
    for (size_t i = 0; i < COUNT + 2; i++) {
        const char *id = i < COUNT ? ids[i] : longest[i - COUNT];
        CHECK_OK(suite, fan_store_get(suite->store, id, suite->batch, NULL));
        CHECK_TEXT(suite, fan_event_id(fan_batch_event(suite->batch, 0)), id);
        CHECK_EQUAL(suite, fan_event_seq(fan_batch_event(suite->batch, 0)), seqs[i]);
        struct fan_append again =
            fan__suite_try(suite, fan__suite_simple(suite, "a.b.c", "", id), NULL);
        CHECK_IS(suite, again.ret_status, FAN_OK);
        CHECK(suite, again.ret_duplicate);
        CHECK_EQUAL(suite, again.ret_seq, seqs[i]);
    }
    CHECK_EQUAL(suite, fan__suite_count(suite), COUNT + 2);
}

static void duplicates_store_nothing(struct fan__suite *suite)
{
    const struct fan_event *first = fan__suite_simple(suite, "a.b.c", "x", "same");
    uint64_t seq = fan__suite_put(suite, first);
    fan__suite_put_simple(suite, "a.b.c", "x", "other");
    for (int i = 0; i < 3; i++) {
        const struct fan_event *other = fan__suite_simple(suite, "d.e.f", "y", "same");
        struct fan_append again = fan__suite_try(suite, other, NULL);
        CHECK_IS(suite, again.ret_status, FAN_OK);
        CHECK(suite, again.ret_duplicate);
        CHECK_EQUAL(suite, again.ret_seq, seq);
    }
    CHECK_EQUAL(suite, fan__suite_count(suite), 2);
    CHECK_OK(suite, fan_store_get(suite->store, "same", suite->batch, NULL));
    check_same(suite, fan_batch_event(suite->batch, 0), first, seq);
}

static void duplicates_in_one_batch(struct fan__suite *suite)
{
    static const char *const ids[] = { "a", "b", "a", "old", "c", "a", "c" };
    enum { COUNT = sizeof(ids) / sizeof(*ids) };
    uint64_t old = fan__suite_put_simple(suite, "a.b.c", "", "old");
    struct fan_append items[COUNT] = { { .event = NULL } };
    struct fan_error error = FAN_ERROR_INIT;
    for (size_t i = 0; i < COUNT; i++)
        items[i].event = fan__suite_simple(suite, "a.b.c", "", ids[i]);
    CHECK_OK(suite, fan_store_append(suite->store, items, COUNT, &error));
    for (size_t i = 0; i < COUNT; i++) {
        size_t first = 0;
        while (strcmp(ids[first], ids[i]) != 0)
            first++;
        CHECK_IS(suite, items[i].ret_status, FAN_OK);
        CHECK_EQUAL(suite, items[i].ret_duplicate, first != i || i == 3);
        CHECK_EQUAL(suite, items[i].ret_seq, i == 3 ? old : items[first].ret_seq);
    }
    CHECK_EQUAL(suite, fan__suite_count(suite), 4);
}

static void read_pages(struct fan__suite *suite)
{
    uint64_t seqs[10];
    for (size_t i = 0; i < 10; i++)
        seqs[i] = fan__suite_put_simple(suite, "a.b.c", "", NULL);
    const struct fan_query query = { .size = FAN_QUERY_SIZE, .limit = 3 };
    struct fan_read_result result = { 0 };
    size_t seen = 0;
    uint64_t after_seq = 0;
    while (result.head_seq == 0 || result.scanned_seq < result.head_seq) {
        CHECK_OK(suite, fan_store_read(suite->store, after_seq, &query, suite->batch, &result));
        CHECK(suite, fan_batch_count(suite->batch) <= 3);
        CHECK(suite, result.scanned_seq > after_seq);
        CHECK_EQUAL(suite, result.head_seq, seqs[9]);
        for (size_t i = 0; i < fan_batch_count(suite->batch); i++, seen++) {
            CHECK(suite, seen < 10);
            CHECK_EQUAL(suite, fan_event_seq(fan_batch_event(suite->batch, i)), seqs[seen]);
        }
        after_seq = result.scanned_seq;
    }
    CHECK_EQUAL(suite, seen, 10);
    CHECK_OK(suite, fan_store_read(suite->store, seqs[9], &query, suite->batch, &result));
    CHECK_EQUAL(suite, fan_batch_count(suite->batch), 0);
    CHECK_EQUAL(suite, result.scanned_seq, seqs[9]);
    CHECK_EQUAL(suite, result.trimmed_seq, 0);
    CHECK_OK(suite, fan_store_read(suite->store, seqs[4], &query, suite->batch, &result));
    CHECK_EQUAL(suite, fan_event_seq(fan_batch_event(suite->batch, 0)), seqs[5]);
}

static void read_of_nothing(struct fan__suite *suite)
{
    struct fan_read_result result = { 7, 7, 7 };
    CHECK_OK(suite, fan_store_read(suite->store, 0, NULL, suite->batch, &result));
    CHECK_EQUAL(suite, fan_batch_count(suite->batch), 0);
    CHECK_EQUAL(suite, result.scanned_seq, 0);
    CHECK_EQUAL(suite, result.head_seq, 0);
    CHECK_EQUAL(suite, result.trimmed_seq, 0);
}

static void read_with_a_rare_match(struct fan__suite *suite)
{
    enum { COUNT = 600, EVERY = 149 };
    struct fan_append *items = fan__suite_alloc(suite, COUNT, sizeof(*items));
    struct fan_error error = FAN_ERROR_INIT;
    for (size_t i = 0; i < COUNT; i++)
        items[i].event =
            fan__suite_simple(suite, i % EVERY ? "a.b.c" : "x.y.z", i % EVERY ? "a" : "rare", NULL);
    CHECK_OK(suite, fan_store_append(suite->store, items, COUNT, &error));
    for (int by_topic = 0; by_topic < 2; by_topic++) {
        const struct fan_query query = { .size = FAN_QUERY_SIZE,
                                         .topic = by_topic ? "rare" : NULL,
                                         .pattern = by_topic ? NULL : "x.>",
                                         .limit = 2 };
        struct fan_read_result result = { 0 };
        size_t found = 0;
        for (int reads = 0; result.scanned_seq == 0 || result.scanned_seq < result.head_seq;
             reads++) {
            uint64_t after_seq = result.scanned_seq;
            CHECK(suite, reads < COUNT);
            CHECK_OK(suite, fan_store_read(suite->store, after_seq, &query, suite->batch, &result));
            CHECK(suite, result.scanned_seq > after_seq);
            for (size_t i = 0; i < fan_batch_count(suite->batch); i++, found++)
                CHECK_EQUAL(suite, fan_event_seq(fan_batch_event(suite->batch, i)),
                            items[found * EVERY].ret_seq);
        }
        CHECK_EQUAL(suite, found, (COUNT + EVERY - 1) / EVERY);
    }
}

static void read_is_bounded(struct fan__suite *suite)
{
    enum { COUNT = 12 };
    char *large = fan__suite_alloc(suite, FAN_PAYLOAD_SIZE_MAX, 1);
    struct fan_event_draft draft = { .type = "raw.bytes",
                                     .content_type = "application/octet-stream",
                                     .payload = { large, 400000 } };
    for (int i = 0; i < COUNT; i++) {
        draft.payload.size = i == 5 ? FAN_PAYLOAD_SIZE_MAX : 400000;
        fan__suite_put(suite, fan__suite_event(suite, &draft));
    }
    struct fan_read_result result = { 0 };
    size_t seen = 0;
    while (seen < COUNT) {
        CHECK_OK(suite,
                 fan_store_read(suite->store, result.scanned_seq, NULL, suite->batch, &result));
        CHECK(suite, fan_batch_count(suite->batch) > 0);
        CHECK(suite, fan_batch_size(suite->batch) <= 2 * FAN_PAYLOAD_SIZE_MAX + 4096);
        seen += fan_batch_count(suite->batch);
    }
    CHECK_EQUAL(suite, seen, COUNT);
    CHECK_EQUAL(suite, result.scanned_seq, result.head_seq);
}

static void deleted_is_gone(struct fan__suite *suite)
{
    uint64_t seqs[4];
    static const char *const ids[] = { "a", "b", "c", "d" };
    for (size_t i = 0; i < 4; i++)
        seqs[i] = fan__suite_put_simple(suite, "a.b.c", "", ids[i]);
    CHECK_IS(suite, fan_store_delete(suite->store, "nobody"), FAN_NOT_FOUND);
    CHECK_OK(suite, fan_store_delete(suite->store, "b"));
    CHECK_IS(suite, fan_store_delete(suite->store, "b"), FAN_NOT_FOUND);
    CHECK_IS(suite, fan_store_erase(suite->store, "b"), FAN_NOT_FOUND);
    CHECK_IS(suite, fan_store_get(suite->store, "b", suite->batch, NULL), FAN_NOT_FOUND);
    CHECK_EQUAL(suite, fan__suite_count(suite), 3);
    struct fan_read_result result;
    CHECK_OK(suite, fan_store_read(suite->store, seqs[0], NULL, suite->batch, &result));
    CHECK_EQUAL(suite, fan_batch_count(suite->batch), 2);
    CHECK_EQUAL(suite, fan_event_seq(fan_batch_event(suite->batch, 0)), seqs[2]);
    CHECK_EQUAL(suite, result.trimmed_seq, 0);
    CHECK_EQUAL(suite, result.scanned_seq, seqs[3]);
}

static void sequences_are_not_used_again(struct fan__suite *suite)
{
    fan__suite_put_simple(suite, "a.b.c", "", "a");
    uint64_t last = fan__suite_put_simple(suite, "a.b.c", "", "b");
    CHECK_OK(suite, fan_store_delete(suite->store, "b"));
    CHECK_EQUAL(suite, fan__suite_head(suite), last);
    CHECK_OK(suite, fan_store_delete(suite->store, "a"));
    CHECK_EQUAL(suite, fan__suite_count(suite), 0);
    struct fan_read_result result;
    CHECK_OK(suite, fan_store_read(suite->store, 0, NULL, suite->batch, &result));
    CHECK_EQUAL(suite, result.scanned_seq, last);
    CHECK_EQUAL(suite, result.head_seq, last);
    CHECK(suite, fan__suite_put_simple(suite, "a.b.c", "", "c") > last);
}

static void erased_keeps_its_place(struct fan__suite *suite)
{
    const struct fan_event *event = fan__suite_event(
        suite, &(struct fan_event_draft){ .type = "a.b.c",
                                          .id = "secret",
                                          .topic = "t",
                                          .payload = FAN_STR("{\"name\": \"Ada\"}"),
                                          .metadata = FAN_STR("{\"ip\": \"192.0.2.1\"}"),
                                          .user_id = 42,
                                          .session_id = "s" });
    uint64_t seq = fan__suite_put(suite, event);
    const struct fan_event *raw = fan__suite_event(
        suite, &(struct fan_event_draft){
                   .id = "raw", .content_type = "text/plain", .payload = FAN_STR("Ada") });
    fan__suite_put(suite, raw);
    CHECK_IS(suite, fan_store_erase(suite->store, "nobody"), FAN_NOT_FOUND);
    for (int i = 0; i < 2; i++) {
        CHECK_OK(suite, fan_store_erase(suite->store, "secret"));
        CHECK_OK(suite, fan_store_get(suite->store, "secret", suite->batch, NULL));
        const struct fan_event *erased = fan_batch_event(suite->batch, 0);
        CHECK_EQUAL(suite, fan_event_seq(erased), seq);
        CHECK_EQUAL(suite, fan_event_payload(erased).size, 4);
        CHECK(suite, memcmp(fan_event_payload(erased).data, "null", 4) == 0);
        CHECK_EQUAL(suite, fan_event_metadata(erased).size, 0);
        CHECK_EQUAL(suite, fan_event_user_id(erased), 0);
        CHECK_TEXT(suite, fan_event_session_id(erased), "");
        CHECK_TEXT(suite, fan_event_type(erased), "a.b.c");
        CHECK_TEXT(suite, fan_event_topic(erased), "t");
        CHECK(suite, fan_event_created_us(erased) == fan_event_created_us(event));
    }
    CHECK_OK(suite, fan_store_erase(suite->store, "raw"));
    CHECK_OK(suite, fan_store_get(suite->store, "raw", suite->batch, NULL));
    CHECK_EQUAL(suite, fan_event_payload(fan_batch_event(suite->batch, 0)).size, 0);
    CHECK_TEXT(suite, fan_event_content_type(fan_batch_event(suite->batch, 0)), "text/plain");
    CHECK(suite, fan__suite_try(suite, event, NULL).ret_duplicate);
    CHECK_EQUAL(suite, fan__suite_count(suite), 2);
    const struct fan_query by_user = { .size = FAN_QUERY_SIZE, .user_id = 42 };
    struct fan_read_result result;
    CHECK_OK(suite, fan_store_read(suite->store, 0, &by_user, suite->batch, &result));
    CHECK_EQUAL(suite, fan_batch_count(suite->batch), 0);
}

static void waits_end_by_themselves(struct fan__suite *suite)
{
    CHECK_IS(suite, fan_store_wait(suite->store, 0, 0), FAN_AGAIN);
    CHECK_IS(suite, fan_store_wait(suite->store, 0, 20), FAN_AGAIN);
    uint64_t first = fan__suite_put_simple(suite, "a.b.c", "", NULL);
    CHECK_OK(suite, fan_store_wait(suite->store, 0, 0));
    CHECK_OK(suite, fan_store_wait(suite->store, first - 1, 60000));
    CHECK_IS(suite, fan_store_wait(suite->store, first, 20), FAN_AGAIN);
    CHECK_IS(suite, fan_store_wait(suite->store, first + 1000, 0), FAN_AGAIN);
}

static bool see_nothing(void *context, const struct fan_group_stats *stats)
{
    (void)stats;
    ++*(int *)context;
    return true;
}

static void stats_of_the_log(struct fan__suite *suite)
{
    struct fan_store_stats stats = fan__suite_stats(suite);
    CHECK_EQUAL(suite, stats.events, 0);
    CHECK_EQUAL(suite, stats.first_seq, 0);
    CHECK_EQUAL(suite, stats.last_seq, 0);
    CHECK_EQUAL(suite, stats.groups, 0);
    uint64_t first = fan__suite_put_simple(suite, "a.b.c", "", "a");
    uint64_t second = fan__suite_put_simple(suite, "a.b.c", "", "b");
    uint64_t last = fan__suite_put_simple(suite, "a.b.c", "", "c");
    stats = fan__suite_stats(suite);
    CHECK_EQUAL(suite, stats.events, 3);
    CHECK_EQUAL(suite, stats.first_seq, first);
    CHECK_EQUAL(suite, stats.last_seq, last);
    CHECK_EQUAL(suite, stats.completed, 3);
    CHECK(suite, stats.bytes > 0);
    CHECK_OK(suite, fan_store_delete(suite->store, "a"));
    stats = fan__suite_stats(suite);
    CHECK_EQUAL(suite, stats.events, 2);
    CHECK_EQUAL(suite, stats.first_seq, second);
    CHECK_EQUAL(suite, stats.completed, 2);
    int groups = 0;
    CHECK_OK(suite, fan_store_groups(suite->store, see_nothing, &groups));
    CHECK_EQUAL(suite, groups, 0);
}

static void logs_have_epochs(struct fan__suite *suite)
{
    struct fan_error error = FAN_ERROR_INIT;
    uint64_t epoch = fan_store_epoch(suite->store);
    CHECK(suite, epoch != 0);
    CHECK_EQUAL(suite, fan_store_epoch(suite->store), epoch);
    CHECK(suite, *fan_store_name(suite->store) != '\0');
    CHECK_OK(suite,
             suite->options->open(suite->options->context, &suite->env, &suite->second, &error));
    CHECK(suite, fan_store_epoch(suite->second) != epoch);
    fan__suite_put_simple(suite, "a.b.c", "", NULL);
    uint64_t seq = 1;
    CHECK_OK(suite, fan_store_head(suite->second, &seq));
    CHECK_EQUAL(suite, seq, 0);
}

const struct fan__suite_behaviour fan__suite_log[] = {
    { "P05_appends_get_rising_sequences", appends_rise, 0 },
    { "P05_a_batch_keeps_its_order", batch_keeps_its_order, 0 },
    { "P05_get_finds_exactly_the_id", get_finds_exactly, 0 },
    { "P01_every_field_survives_byte_for_byte", every_field_survives, 0 },
    { "P01_payloads_survive_byte_for_byte", payloads_survive, 0 },
    { "P01_ids_of_any_kind_up_to_255_bytes", ids_of_any_kind, 0 },
    { "L09_a_duplicate_gives_the_first_sequence_and_stores_nothing", duplicates_store_nothing, 0 },
    { "L09_duplicates_within_one_batch", duplicates_in_one_batch, 0 },
    { "P05_read_goes_on_from_scanned_seq", read_pages, 0 },
    { "P05_read_of_an_empty_log", read_of_nothing, 0 },
    { "P05_read_with_a_filter_that_matches_rarely", read_with_a_rare_match, 0 },
    { "L12_read_is_bounded_in_bytes", read_is_bounded, 0 },
    { "P05_deleted_events_are_gone", deleted_is_gone, 0 },
    { "L02_sequences_are_not_used_again_after_a_delete", sequences_are_not_used_again, 0 },
    { "P05_erased_events_keep_their_place_and_nothing_else", erased_keeps_its_place, 0 },
    { "P05_wait_ends_by_itself", waits_end_by_themselves, 0 },
    { "P16_stats_of_a_log_without_groups", stats_of_the_log, 0 },
    { "P13_each_log_has_an_epoch_of_its_own", logs_have_epochs, 0 },
    { .name = NULL },
};
