/* The handle: URIs, what is refused before a provider sees it, forks. And URIs for providers. */
#include "../test.h"

#include "store/uri.h"

#include <fanfare/batch.h>
#include <fanfare/group.h>
#include <fanfare/provider.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct fixture {
    struct fan_store *store;
    struct fan_batch *batch;
    struct fan_event *event;
};

static int set_up(void **state)
{
    struct fixture *fixture = test_calloc(1, sizeof(*fixture));
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c", .id = "x" };
    assert_ok(fan_store_open("memory:", NULL, &fixture->store, NULL));
    assert_ok(fan_batch_new(NULL, &fixture->batch));
    assert_ok(fan_event_new(&draft, NULL, &fixture->event, NULL));
    *state = fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    fan_store_close(fixture->store);
    fan_batch_free(fixture->batch);
    fan_event_free(fixture->event, NULL);
    test_free(fixture);
    return 0;
}

static const char too_long[] = "0123456789012345678901234567890123456789012345678901234567890123"
                               "0123456789012345678901234567890123456789012345678901234567890123"
                               "0123456789012345678901234567890123456789012345678901234567890123"
                               "0123456789012345678901234567890123456789012345678901234567890123";

static void check_open_fails(const char *uri, const char *expected)
{
    struct fan_store *store = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    assert_int_equal(fan_store_open(uri, NULL, &store, &error), FAN_INVALID);
    assert_null(store);
    assert_int_equal(error.status, FAN_INVALID);
    if (!strstr(error.message, expected))
        fail_msg("'%s' gave '%s'", uri, error.message);
}

static void test_P07_an_unknown_scheme_is_named_with_the_known_ones(void **state)
{
    (void)state;
    check_open_fails("mongodb://host/db", "mongodb://host/db: unknown scheme");
    check_open_fails("mongodb://host/db", "memory:, sqlite:");
    check_open_fails("memor:", "unknown scheme");
    check_open_fails("memory", "unknown scheme");
    check_open_fails("", "unknown scheme");
    struct fan_store *store;
    assert_int_equal(fan_store_open(NULL, NULL, &store, NULL), FAN_INVALID);
    assert_int_equal(fan_store_open("memory:", NULL, NULL, NULL), FAN_INVALID);
}

static void test_P07_options_are_checked_by_name(void **state)
{
    (void)state;
    check_open_fails("memory:?capcity=5", "unknown option 'capcity'");
    check_open_fails("memory:?capacity=0", "expected a number from 1");
    check_open_fails("memory:?capacity=-5", "option 'capacity' is '-5'");
    check_open_fails("memory:?capacity=", "option 'capacity' is ''");
    check_open_fails("memory:?capacity=5x", "'5x'");
    check_open_fails("memory:?capacity=99999999999999999999", "expected a number");
    check_open_fails("memory:?capacity=5&capacity=6", "given twice");
    check_open_fails("memory:?capacity", "name=value");
    check_open_fails("memory:?=5", "name=value");
    check_open_fails("memory:?capacity=%3", "percent");
    check_open_fails("memory:?capacity=%00", "percent");
    check_open_fails("memory:somewhere", "expected nothing");
    struct fan_store *store;
    assert_ok(fan_store_open("memory:?capacity=%35", NULL, &store, NULL));
    fan_store_close(store);
}

static void test_P07_secrets_are_not_shown(void **state)
{
    (void)state;
    static const char *const uris[][2] = {
        { "x://user:hunter2@host/db", "x://user:***@host/db" },
        { "x://user:hun/ter2@host/db", "x://user:***@host/db" },
        { "x://user:hun@ter2@host/db?a=b", "x://user:***@host/db?a=b" },
        { "x://user:hunt?er2@host", "x://user:***@host" },
        { "x://:hunter2@host", "x://:***@host" },
        { "x://user@host:5432/db", "x://user@host:5432/db" },
        { "nats://hunter2@host:4222", "nats://***@host:4222" },
        { "x://host/db?password=hunter2&a=b", "x://host/db?password=***&a=b" },
        { "x://host/db?a=b&sslPassword=hunter2", "x://host/db?a=b&sslPassword=***" },
        { "x:db?token=hunter2", "x:db?token=***" },
        { "postgres:user:hunter2@host/db", "postgres:user:***@host/db" },
        { "x:host=h password=hunter2", "x:host=h password=***" },
        { "x://u:p@h/?access_token=a%20b&x=1", "x://u:***@h/?access_token=***&x=1" },
        { "x:db?tokens=5", "x:db?tokens=5" },
        { "x://user:hunter2host:5432/db", "x://user:***/db" },
        { "x://one:1,[::1]:2/db", "x://one:1,[::1]:2/db" },
        { "x:db?pasword=hunter2", "x:db?pasword=***" },
    };
    for (size_t i = 0; i < sizeof(uris) / sizeof(*uris); i++) {
        char shown[128];
        fan__uri_redact(uris[i][0], shown, sizeof(shown));
        assert_string_equal(shown, uris[i][1]);
        check_open_fails(uris[i][0], uris[i][1]);
    }
    char small[12];
    fan__uri_redact("x://user:hunter2@host/db", small, sizeof(small));
    assert_string_equal(small, "x://user:**");
}

static void test_uris_are_split_and_decoded(void **state)
{
    (void)state;
    struct fan__uri uri;
    struct fan_error error = FAN_ERROR_INIT;
    assert_ok(fan__uri_parse("sqlite:/a%20b/c%3f.db?x=1%262&y=&z=a=b", NULL, &uri, &error));
    assert_string_equal(uri.scheme, "sqlite");
    assert_string_equal(uri.path, "/a b/c?.db");
    assert_string_equal(fan__uri_take(&uri, "x"), "1&2");
    assert_null(fan__uri_take(&uri, "w"));
    assert_int_equal(fan__uri_finish(&uri, &error), FAN_INVALID);
    assert_string_equal(error.field, "y");
    assert_string_equal(fan__uri_take(&uri, "y"), "");
    assert_string_equal(fan__uri_take(&uri, "z"), "a=b");
    assert_ok(fan__uri_finish(&uri, &error));
    uint64_t value = 7;
    assert_ok(fan__uri_take_count(&uri, "w", 1, 9, &value, &error));
    assert_int_equal(value, 7);
    fan__uri_deinit(&uri);
    assert_ok(fan__uri_parse("x:", NULL, &uri, &error));
    assert_string_equal(uri.path, "");
    fan__uri_deinit(&uri);
    assert_int_equal(fan__uri_parse(":x", NULL, &uri, &error), FAN_INVALID);
    assert_int_equal(fan__uri_parse("x", NULL, &uri, &error), FAN_INVALID);
}

static enum fan_status refuse_open(const char *uri, const struct fan_env *env, void **ret_self,
                                   uint64_t *ret_epoch, struct fan_error *error)
{
    (void)uri, (void)env, (void)ret_self, (void)ret_epoch, (void)error;
    return FAN_UNAVAILABLE;
}

static void test_P15_a_provider_must_be_whole(void **state)
{
    (void)state;
    struct fan_store *store = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_provider provider = { .size = FAN_PROVIDER_SIZE, .scheme = "own" };
    provider.open = refuse_open;
    assert_int_equal(fan_store_open_provider(NULL, "own:", NULL, &store, &error), FAN_INVALID);
    assert_int_equal(fan_store_open_provider(&provider, "own:", NULL, &store, &error), FAN_INVALID);
    assert_string_equal(error.field, "provider");
    assert_null(store);
}

static void test_append_refuses_what_is_no_batch(void **state)
{
    struct fixture *fixture = *state;
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_append items[2] = { { .event = fixture->event }, { .event = NULL } };
    assert_int_equal(fan_store_append(fixture->store, items, 2, &error), FAN_INVALID);
    assert_string_equal(error.field, "event");
    assert_int_equal(fan_store_append(fixture->store, NULL, 1, &error), FAN_INVALID);
    assert_int_equal(fan_store_append(NULL, items, 1, &error), FAN_INVALID);
    assert_ok(fan_store_append(fixture->store, NULL, 0, &error));
    items[0].joined = true;
    assert_int_equal(fan_store_append(fixture->store, items, 1, &error), FAN_INVALID);
    assert_string_equal(error.field, "joined");
    const struct fan_expectation bad[] = {
        { .size = 1, .key = "k" },
        { .size = sizeof(bad[0]), .key = "" },
        { .size = sizeof(bad[0]), .key = too_long },
        { .size = sizeof(bad[0]), .lease = "" },
        { .size = sizeof(bad[0]), .last_seq = 1 },
        { .size = sizeof(bad[0]), .fence = 1 },
        { .size = sizeof(bad[0]), .key = "k", .last_seq = FAN_SEQ_MAX + 1 },
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        items[0] = (struct fan_append){ .event = fixture->event, .expectation = &bad[i] };
        assert_int_equal(fan_store_append(fixture->store, items, 1, &error), FAN_INVALID);
        assert_non_null(strstr(error.field, "expectation"));
    }
    uint64_t head = 1;
    assert_ok(fan_store_head(fixture->store, &head));
    assert_int_equal(head, 0);
}

static void test_P05_queries_are_refused_by_field(void **state)
{
    struct fixture *fixture = *state;
    struct fan_event_state states[1];
    const struct {
        const char *field;
        struct fan_query query;
    } bad[] = {
        { "size", { .size = 8 } },
        { "pattern", { .size = FAN_QUERY_SIZE, .pattern = "" } },
        { "pattern", { .size = FAN_QUERY_SIZE, .pattern = "a..b" } },
        { "topic", { .size = FAN_QUERY_SIZE, .topic = too_long } },
        { "schema", { .size = FAN_QUERY_SIZE, .schema = too_long } },
        { "instance_id", { .size = FAN_QUERY_SIZE, .instance_id = too_long } },
        { "source", { .size = FAN_QUERY_SIZE, .source = (enum fan_source)6 } },
        { "status",
          { .size = FAN_QUERY_SIZE, .has_status = true, .status = (enum fan_event_status)4 } },
        { "offset", { .size = FAN_QUERY_SIZE, .offset = FAN_SEQ_MAX + 1 } },
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        struct fan_error error = FAN_ERROR_INIT;
        struct fan_read_result result;
        assert_int_equal(
            fan_store_list(fixture->store, &bad[i].query, fixture->batch, states, &error),
            FAN_INVALID);
        assert_string_equal(error.field, bad[i].field);
        assert_int_equal(fan_store_read(fixture->store, 0, &bad[i].query, fixture->batch, &result),
                         FAN_INVALID);
    }
}

static void test_reads_have_no_status_offset_or_order(void **state)
{
    struct fixture *fixture = *state;
    const struct fan_query bad[] = {
        { .size = FAN_QUERY_SIZE, .has_status = true },
        { .size = FAN_QUERY_SIZE, .offset = 1 },
        { .size = FAN_QUERY_SIZE, .newest_first = true },
    };
    struct fan_read_result result;
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        assert_int_equal(fan_store_read(fixture->store, 0, &bad[i], fixture->batch, &result),
                         FAN_INVALID);
    assert_int_equal(fan_store_read(fixture->store, FAN_SEQ_MAX + 1, NULL, fixture->batch, &result),
                     FAN_INVALID);
}

static void test_ids_and_names_have_1_to_255_bytes(void **state)
{
    struct fixture *fixture = *state;
    struct fan_store *store = fixture->store;
    static const char *const names[] = { NULL, "", too_long };
    struct fan_group_options options = { .size = FAN_GROUP_OPTIONS_SIZE };
    uint64_t fence;
    for (size_t i = 0; i < 3; i++) {
        const struct fan_group_name name = { .group = names[i], .handler = "h" };
        assert_int_equal(fan_store_get(store, names[i], fixture->batch, NULL), FAN_INVALID);
        assert_int_equal(fan_store_delete(store, names[i]), FAN_INVALID);
        assert_int_equal(fan_store_erase(store, names[i]), FAN_INVALID);
        assert_int_equal(fan_group_create(store, &name, &options, NULL), FAN_INVALID);
        assert_int_equal(fan_group_delete(store, &name), FAN_INVALID);
        assert_int_equal(fan_lease_acquire(store, names[i], "me", 1, &fence), FAN_INVALID);
        assert_int_equal(fan_lease_acquire(store, "lease", names[i], 1, &fence), FAN_INVALID);
    }
    const struct fan_group_name long_handler = { .group = "g", .handler = too_long };
    assert_int_equal(fan_group_create(store, &long_handler, &options, NULL), FAN_INVALID);
    const struct fan_group_name no_handler = { .group = "g", .handler = NULL };
    const struct fan_group_name empty_handler = { .group = "g", .handler = "" };
    assert_ok(fan_group_create(store, &no_handler, &options, NULL));
    assert_int_equal(fan_group_create(store, &empty_handler, &options, NULL), FAN_EXISTS);
    assert_int_equal(fan_lease_acquire(store, "lease", "me", 0, &fence), FAN_INVALID);
}

static void test_groups_are_refused_by_field(void **state)
{
    struct fixture *fixture = *state;
    const struct fan_group_name name = { .group = "g", .handler = "" };
    const struct {
        const char *field;
        struct fan_group_options options;
    } bad[] = {
        { "size", { .size = 8 } },
        { "pattern", { .size = FAN_GROUP_OPTIONS_SIZE, .pattern = "" } },
        { "topic", { .size = FAN_GROUP_OPTIONS_SIZE, .topic = too_long } },
        { "start", { .size = FAN_GROUP_OPTIONS_SIZE, .start = (enum fan_start)3 } },
        { "start_seq", { .size = FAN_GROUP_OPTIONS_SIZE, .start_seq = FAN_SEQ_MAX + 1 } },
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        struct fan_error error = FAN_ERROR_INIT;
        assert_int_equal(fan_group_create(fixture->store, &name, &bad[i].options, &error),
                         FAN_INVALID);
        assert_string_equal(error.field, bad[i].field);
    }
    struct fan_claim claim;
    struct fan_claim_options options = { .size = FAN_CLAIM_OPTIONS_SIZE };
    assert_int_equal(fan_group_claim(fixture->store, &name, &options, fixture->batch, &claim),
                     FAN_INVALID);
    struct fan_settle settle = { .verdict = (enum fan_verdict)4 };
    assert_int_equal(fan_group_settle(fixture->store, &name, &settle, 1), FAN_INVALID);
    assert_int_equal(fan_group_move(fixture->store, &name, 1, (enum fan_event_status)4),
                     FAN_INVALID);
}

static void test_a_claim_without_limit_gives_one(void **state)
{
    struct fixture *fixture = *state;
    const struct fan_group_name name = { .group = "g", .handler = "" };
    const struct fan_group_options begin = { .size = FAN_GROUP_OPTIONS_SIZE,
                                             .start = FAN_START_BEGINNING };
    struct fan_append item = { .event = fixture->event };
    struct fan_claim_options options = { .size = FAN_CLAIM_OPTIONS_SIZE, .owner = "me" };
    struct fan_claim claim;
    assert_ok(fan_group_create(fixture->store, &name, &begin, NULL));
    assert_ok(fan_store_append(fixture->store, &item, 1, NULL));
    assert_ok(fan_group_claim(fixture->store, &name, &options, fixture->batch, &claim));
    assert_int_equal(fan_batch_count(fixture->batch), 1);
    assert_int_equal(claim.seq, item.ret_seq);
}

/* The child may do nothing with the store but close it; the parent's is none the worse. */
static void test_R03_a_forked_child_is_told(void **state)
{
    struct fixture *fixture = *state;
    struct fan_append item = { .event = fixture->event };
    assert_ok(fan_store_append(fixture->store, &item, 1, NULL));
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        const struct fan_group_name name = { .group = "g", .handler = "" };
        struct fan_store_stats stats = { .size = sizeof(stats) };
        struct fan_error error = FAN_ERROR_INIT;
        uint64_t seq;
        bool told = fan_store_append(fixture->store, &item, 1, &error) == FAN_FORKED &&
                    error.status == FAN_FORKED &&
                    fan_store_get(fixture->store, "x", fixture->batch, NULL) == FAN_FORKED &&
                    fan_store_head(fixture->store, &seq) == FAN_FORKED &&
                    fan_store_wait(fixture->store, 0, 0) == FAN_FORKED &&
                    fan_store_delete(fixture->store, "x") == FAN_FORKED &&
                    fan_store_stats(fixture->store, &stats) == FAN_FORKED &&
                    fan_group_delete(fixture->store, &name) == FAN_FORKED &&
                    fan_lease_acquire(fixture->store, "l", "me", 1, &seq) == FAN_FORKED;
        fan_store_wake(fixture->store);
        fan_store_close(fixture->store);
        _exit(told ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_ok(fan_store_get(fixture->store, "x", fixture->batch, NULL));
}

static void test_close_takes_null(void **state)
{
    (void)state;
    fan_store_close(NULL);
    fan_store_wake(NULL);
}

int main(void)
{
#define with_a_store(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_P07_an_unknown_scheme_is_named_with_the_known_ones),
        cmocka_unit_test(test_P07_options_are_checked_by_name),
        cmocka_unit_test(test_P07_secrets_are_not_shown),
        cmocka_unit_test(test_uris_are_split_and_decoded),
        cmocka_unit_test(test_P15_a_provider_must_be_whole),
        with_a_store(test_append_refuses_what_is_no_batch),
        with_a_store(test_P05_queries_are_refused_by_field),
        with_a_store(test_reads_have_no_status_offset_or_order),
        with_a_store(test_ids_and_names_have_1_to_255_bytes),
        with_a_store(test_groups_are_refused_by_field),
        with_a_store(test_a_claim_without_limit_gives_one),
        with_a_store(test_R03_a_forked_child_is_told),
        cmocka_unit_test(test_close_takes_null),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
