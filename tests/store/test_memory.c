/* What the memory provider promises beyond the contract: its bound, and what may go. */
#include "../test.h"

#include <fanfare/batch.h>
#include <fanfare/env.h>
#include <fanfare/group.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct fan_group_name g = { .group = "g", .handler = "" };

struct fixture {
    struct fan_store *store;
    struct fan_batch *batch;
    struct fan_event_state states[64];
};

static struct fixture *open_with(void **state, const char *uri)
{
    struct fixture *fixture = *state;
    struct fan_error error = FAN_ERROR_INIT;
    assert_ok(fan_store_open(uri, NULL, &fixture->store, &error));
    return fixture;
}

static int set_up(void **state)
{
    struct fixture *fixture = test_calloc(1, sizeof(*fixture));
    assert_ok(fan_batch_new(NULL, &fixture->batch));
    *state = fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    fan_store_close(fixture->store);
    fan_batch_free(fixture->batch);
    test_free(fixture);
    return 0;
}

static struct fan_append put(struct fixture *fixture, const char *type, const char *id)
{
    const struct fan_event_draft draft = {
        .size = FAN_EVENT_DRAFT_SIZE, .type = type, .id = id, .topic = "t"
    };
    struct fan_event *event;
    assert_ok(fan_event_new(&draft, NULL, &event, NULL));
    struct fan_append item = { .event = event };
    assert_ok(fan_store_append(fixture->store, &item, 1, NULL));
    fan_event_free(event, NULL);
    return item;
}

static void begin(struct fixture *fixture, const char *pattern)
{
    const struct fan_group_options options = { .size = FAN_GROUP_OPTIONS_SIZE,
                                               .pattern = pattern,
                                               .start = FAN_START_BEGINNING };
    assert_ok(fan_group_create(fixture->store, &g, &options, NULL));
}

static struct fan_claim claim(struct fixture *fixture)
{
    const struct fan_claim_options options = { .size = FAN_CLAIM_OPTIONS_SIZE, .owner = "me" };
    struct fan_claim claim;
    assert_ok(fan_group_claim(fixture->store, &g, &options, fixture->batch, &claim));
    return claim;
}

static void settle(struct fixture *fixture, const struct fan_claim *claimed,
                   enum fan_verdict verdict)
{
    struct fan_settle item = { .seq = claimed->seq, .token = claimed->token, .verdict = verdict };
    assert_ok(fan_group_settle(fixture->store, &g, &item, 1));
    assert_ok(item.ret_status);
}

static struct fan_read_result read_from(struct fixture *fixture, uint64_t after_seq)
{
    struct fan_read_result result;
    assert_ok(fan_store_read(fixture->store, after_seq, NULL, fixture->batch, &result));
    return result;
}

static void check_there(struct fixture *fixture, const char *ids)
{
    const struct fan_query query = { .size = FAN_QUERY_SIZE, .limit = 64 };
    assert_ok(fan_store_list(fixture->store, &query, fixture->batch, fixture->states, NULL));
    char there[128] = "";
    for (size_t i = 0; i < fan_batch_count(fixture->batch); i++)
        strcat(there, fan_event_id(fan_batch_event(fixture->batch, i)));
    assert_string_equal(there, ids);
}

static void put_all(struct fixture *fixture, const char *ids)
{
    for (const char *at = ids; *at; at++) {
        const char id[2] = { *at, '\0' };
        assert_ok(put(fixture, "a.b.c", id).ret_status);
    }
}

static void test_P08_the_oldest_completed_event_goes_first(void **state)
{
    struct fixture *fixture = open_with(state, "memory:?capacity=3");
    put_all(fixture, "abc");
    check_there(fixture, "abc");
    assert_int_equal(read_from(fixture, 0).trimmed_seq, 0);
    put_all(fixture, "de");
    check_there(fixture, "cde");
    struct fan_read_result result = read_from(fixture, 0);
    assert_int_equal(result.trimmed_seq, 2);
    assert_int_equal(result.head_seq, 5);
    assert_int_equal(fan_store_get(fixture->store, "a", fixture->batch, NULL), FAN_NOT_FOUND);
}

static void test_P08_what_is_owed_stays_and_full_is_said(void **state)
{
    struct fixture *fixture = open_with(state, "memory:?capacity=3");
    begin(fixture, NULL);
    put_all(fixture, "abc");
    assert_int_equal(put(fixture, "a.b.c", "d").ret_status, FAN_FULL);
    struct fan_claim a = claim(fixture);
    assert_int_equal(put(fixture, "a.b.c", "d").ret_status, FAN_FULL);
    struct fan_claim b = claim(fixture);
    settle(fixture, &b, FAN_VERDICT_DONE);
    assert_ok(put(fixture, "a.b.c", "d").ret_status);
    check_there(fixture, "acd");
    assert_int_equal(read_from(fixture, 0).trimmed_seq, b.seq);
    assert_int_equal(put(fixture, "a.b.c", "e").ret_status, FAN_FULL);
    settle(fixture, &a, FAN_VERDICT_RETRY);
    assert_int_equal(put(fixture, "a.b.c", "e").ret_status, FAN_FULL);
    /* A duplicate needs no room. */
    assert_true(put(fixture, "a.b.c", "c").ret_duplicate);
}

static void test_P08_a_dead_letter_stays_until_it_is_discarded(void **state)
{
    struct fixture *fixture = open_with(state, "memory:?capacity=2");
    begin(fixture, NULL);
    put_all(fixture, "ab");
    struct fan_claim a = claim(fixture);
    settle(fixture, &a, FAN_VERDICT_FAIL);
    assert_int_equal(put(fixture, "a.b.c", "c").ret_status, FAN_FULL);
    assert_ok(fan_group_move(fixture->store, &g, a.seq, FAN_EVENT_COMPLETED));
    assert_ok(put(fixture, "a.b.c", "c").ret_status);
    check_there(fixture, "bc");
}

static void test_P08_unwanted_events_may_go_once_they_are_passed(void **state)
{
    struct fixture *fixture = open_with(state, "memory:?capacity=3");
    begin(fixture, "a.>");
    assert_ok(put(fixture, "x.y.z", "1").ret_status);
    assert_ok(put(fixture, "a.b.c", "2").ret_status);
    assert_ok(put(fixture, "x.y.z", "3").ret_status);
    put_all(fixture, "45");
    check_there(fixture, "245");
    assert_int_equal(put(fixture, "a.b.c", "6").ret_status, FAN_FULL);
    assert_ok(fan_group_delete(fixture->store, &g));
    put_all(fixture, "6");
    check_there(fixture, "456");
}

static void test_P08_a_group_from_the_beginning_holds_what_was_free(void **state)
{
    struct fixture *fixture = open_with(state, "memory:?capacity=3");
    put_all(fixture, "abc");
    begin(fixture, "a.>");
    assert_int_equal(put(fixture, "a.b.c", "d").ret_status, FAN_FULL);
    const struct fan_group_options other = { .size = FAN_GROUP_OPTIONS_SIZE, .pattern = "x.>" };
    assert_int_equal(fan_group_create(fixture->store, &g, &other, NULL), FAN_EXISTS);
    put_all(fixture, "d");
    check_there(fixture, "bcd");
}

static void test_P08_a_unit_finds_room_whole_or_not_at_all(void **state)
{
    struct fixture *fixture = open_with(state, "memory:?capacity=4");
    put_all(fixture, "ab");
    begin(fixture, "w.>");
    assert_ok(put(fixture, "w.w.w", "o").ret_status);
    assert_ok(put(fixture, "w.w.w", "p").ret_status);
    struct fan_event *events[3];
    struct fan_append items[3];
    for (size_t i = 0; i < 3; i++) {
        const struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
        assert_ok(fan_event_new(&draft, NULL, &events[i], NULL));
        items[i] = (struct fan_append){ .event = events[i], .joined = i > 0 };
    }
    assert_ok(fan_store_append(fixture->store, items, 3, NULL));
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(items[i].ret_status, FAN_FULL);
    check_there(fixture, "abop");
    assert_ok(fan_store_append(fixture->store, items, 2, NULL));
    assert_ok(items[0].ret_status);
    assert_ok(items[1].ret_status);
    assert_int_equal(fan_store_get(fixture->store, "a", fixture->batch, NULL), FAN_NOT_FOUND);
    assert_int_equal(fan_store_get(fixture->store, "b", fixture->batch, NULL), FAN_NOT_FOUND);
    for (size_t i = 0; i < 3; i++)
        fan_event_free(events[i], NULL);
}

static void test_P08_deliveries_go_with_their_event(void **state)
{
    struct fixture *fixture = open_with(state, "memory:?capacity=2");
    begin(fixture, NULL);
    for (int i = 0; i < 50; i++) {
        char id[8];
        snprintf(id, sizeof(id), "%d", i);
        assert_ok(put(fixture, "a.b.c", id).ret_status);
        struct fan_claim one = claim(fixture);
        settle(fixture, &one, FAN_VERDICT_DONE);
    }
    struct fan_store_stats stats = { .size = sizeof(stats) };
    assert_ok(fan_store_stats(fixture->store, &stats));
    assert_int_equal(stats.events, 2);
    assert_int_equal(stats.completed, 2);
    assert_int_equal(stats.first_seq, 49);
    assert_true(stats.bytes > 0 && stats.bytes < 1000);
}

static void test_P08_the_capacity_is_10_000_by_default(void **state)
{
    struct fixture *fixture = open_with(state, "memory:");
    for (int i = 0; i < 10050; i++)
        assert_ok(put(fixture, "a.b.c", NULL).ret_status);
    struct fan_store_stats stats = { .size = sizeof(stats) };
    assert_ok(fan_store_stats(fixture->store, &stats));
    assert_int_equal(stats.events, 10000);
    assert_int_equal(stats.last_seq, 10050);
    assert_int_equal(read_from(fixture, 0).trimmed_seq, 50);
}

static void test_L09_an_id_is_known_while_its_event_is_retained(void **state)
{
    struct fixture *fixture = open_with(state, "memory:?capacity=2");
    put_all(fixture, "abc");
    struct fan_append b = put(fixture, "a.b.c", "b");
    assert_true(b.ret_duplicate && b.ret_seq == 2);
    struct fan_append a = put(fixture, "a.b.c", "a");
    assert_false(a.ret_duplicate);
    assert_int_equal(a.ret_seq, 4);
    check_there(fixture, "ca");
}

static void test_L12_a_log_that_turns_over_stays_small(void **state)
{
    struct fixture *fixture = open_with(state, "memory:?capacity=5");
    for (uint64_t i = 1; i <= 5000; i++) {
        assert_int_equal(put(fixture, "a.b.c", NULL).ret_seq, i);
        if (i % 500 != 0)
            continue;
        struct fan_read_result result = read_from(fixture, 0);
        assert_int_equal(fan_batch_count(fixture->batch), 5);
        assert_int_equal(fan_event_seq(fan_batch_event(fixture->batch, 0)), i - 4);
        assert_int_equal(result.trimmed_seq, i - 5);
    }
}

struct counting {
    struct fan_env env;
    int64_t skew_ns;
    long blocks;
};

static void *counting_resize(void *context, void *pointer, size_t size)
{
    struct counting *counting = context;
    counting->blocks += pointer == NULL;
    return realloc(pointer, size);
}

static void counting_release(void *context, void *pointer)
{
    struct counting *counting = context;
    counting->blocks--;
    free(pointer);
}

static int64_t counting_monotonic_ns(void *context)
{
    return ((struct counting *)context)->skew_ns;
}

static void test_L12_lapsed_leases_are_forgotten(void **state)
{
    struct fixture *fixture = *state;
    struct counting counting = { .env = *fan_env_default() };
    counting.env.context = &counting;
    counting.env.resize = counting_resize;
    counting.env.release = counting_release;
    counting.env.monotonic_ns = counting_monotonic_ns;
    assert_ok(fan_store_open("memory:", &counting.env, &fixture->store, NULL));
    long before = counting.blocks;
    uint64_t last = 0;
    for (int i = 0; i < 2000; i++) {
        char name[16];
        uint64_t fence;
        snprintf(name, sizeof(name), "lease-%d", i);
        assert_ok(fan_lease_acquire(fixture->store, name, "me", 1000, &fence));
        assert_true(fence > last);
        last = fence;
        counting.skew_ns += 100 * INT64_C(1000000);
    }
    /*
     * Ten are held at any time, of two blocks each; twice as many as that, and then some, may lie.
     */
    assert_true(counting.blocks - before < 200);
    fan_store_close(fixture->store);
    fixture->store = NULL;
    assert_int_equal(counting.blocks, 0);
}

/* Deletes in the middle leave holes in the order; what is behind them is still found at once. */
static void test_L12_holes_are_squeezed_out(void **state)
{
    struct fixture *fixture = open_with(state, "memory:?capacity=100000");
    enum { COUNT = 5000 };
    char id[16];
    for (int i = 0; i < COUNT; i++) {
        snprintf(id, sizeof(id), "%d", i);
        assert_ok(put(fixture, "a.b.c", id).ret_status);
    }
    for (int i = 0; i < COUNT; i++) {
        snprintf(id, sizeof(id), "%d", i);
        if (i % 100 != 0)
            assert_ok(fan_store_delete(fixture->store, id));
    }
    struct fan_read_result result = read_from(fixture, 2500);
    assert_int_equal(fan_batch_count(fixture->batch), 25);
    assert_int_equal(fan_event_seq(fan_batch_event(fixture->batch, 0)), 2501);
    assert_int_equal(result.trimmed_seq, 0);
    assert_int_equal(result.scanned_seq, COUNT);
}

int main(void)
{
#define with_a_batch(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        with_a_batch(test_P08_the_oldest_completed_event_goes_first),
        with_a_batch(test_P08_what_is_owed_stays_and_full_is_said),
        with_a_batch(test_P08_a_dead_letter_stays_until_it_is_discarded),
        with_a_batch(test_P08_unwanted_events_may_go_once_they_are_passed),
        with_a_batch(test_P08_a_group_from_the_beginning_holds_what_was_free),
        with_a_batch(test_P08_a_unit_finds_room_whole_or_not_at_all),
        with_a_batch(test_P08_deliveries_go_with_their_event),
        with_a_batch(test_P08_the_capacity_is_10_000_by_default),
        with_a_batch(test_L09_an_id_is_known_while_its_event_is_retained),
        with_a_batch(test_L12_a_log_that_turns_over_stays_small),
        with_a_batch(test_L12_lapsed_leases_are_forgotten),
        with_a_batch(test_L12_holes_are_squeezed_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
