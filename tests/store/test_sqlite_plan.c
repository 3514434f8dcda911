/* Query plans of the SQLite provider: no filter reads the whole log (P20). */
#include "sqlite_support.h"

#include "base/env.h"
#include "store/sqlite/sqlite.h"
#include "store/sqlite/store.h"

static const char *const names[FAN__SQL_COUNT] = {
#define STATEMENT_NAME(name, text) #name,
    FAN__SQLITE_STATEMENTS(STATEMENT_NAME)
#undef STATEMENT_NAME
};

static struct fan__sqlite *provider_open(const struct place *place)
{
    void *self = NULL;
    uint64_t epoch = 0;
    struct fan_error error = FAN_ERROR_INIT;
    if (fan__sqlite_provider.open(place->uri, fan_env_default(), &self, &epoch, &error) != FAN_OK)
        fail_msg("%s", error.message);
    return self;
}

/* Scans that are meant: a handful of groups, leases and blocks, another time. */
static bool may_scan(enum fan__sqlite_statement statement, const char *step)
{
    if (strncmp(step, "SCAN g", 6) == 0)
        return statement == FAN__SQL_GROUPS || statement == FAN__SQL_CLOCK_MOVE_GROUPS;
    if (strncmp(step, "SCAN lease", 10) == 0)
        return statement == FAN__SQL_LEASE_SWEEP || statement == FAN__SQL_CLOCK_MOVE_LEASES;
    /* The open deliveries, all of them, by the index that holds nothing else. */
    if (strstr(step, "USING INDEX delivery_open") ||
        strstr(step, "USING COVERING INDEX delivery_open"))
        return statement == FAN__SQL_OPEN || statement == FAN__SQL_CLOCK_MOVE_DELIVERIES ||
               statement == FAN__SQL_CLOCK_MOVE_DEAD;
    /* From the newest block down to the first hit. */
    if (strncmp(step, "SCAN b", 6) == 0)
        return statement == FAN__SQL_KEY_SEARCH || statement == FAN__SQL_BLOCKS_DOWN;
    if (strncmp(step, "SCAN mark", 9) == 0)
        return statement == FAN__SQL_MARK_LAST;
    /* A sweep, now and then, outside of any write transaction. */
    if (strncmp(step, "SCAN series", 11) == 0)
        return statement == FAN__SQL_SERIES_IDS;
    return strstr(step, "CONSTANT ROW") != NULL;
}

static void test_P20_no_statement_scans_a_table(void **state)
{
    struct fan__sqlite *store = provider_open(*state);
    for (unsigned i = 0; i < FAN__SQL_COUNT; i++) {
        char sql[2048];
        snprintf(sql, sizeof(sql), "EXPLAIN QUERY PLAN %s", fan__sqlite_text(i));
        sqlite3_stmt *plan = NULL;
        assert_int_equal(sqlite3_prepare_v2(store->writer->db, sql, -1, &plan, NULL), SQLITE_OK);
        while (sqlite3_step(plan) == SQLITE_ROW) {
            const char *step = (const char *)sqlite3_column_text(plan, 3);
            if (strncmp(step, "SCAN", 4) == 0 && !may_scan(i, step))
                fail_msg("%s: %s", names[i], step);
            if (strstr(step, "AUTOMATIC"))
                fail_msg("%s: %s", names[i], step);
        }
        sqlite3_finalize(plan);
    }
    fan__sqlite_provider.close(store);
}

/* A search by sequence alone would be no scan by name, but one by what it reads. */
static void test_P20_walks_use_their_index(void **state)
{
    static const struct {
        enum fan__sqlite_statement statement;
        const char *step;
    } cases[] = {
        { FAN__SQL_WALK_SERIES, "e USING INDEX event_series (<expr>=? AND series=? AND rowid>?" },
        { FAN__SQL_WALK_SERIES_DOWN, "e USING INDEX event_series (<expr>=? AND series=? AND" },
        { FAN__SQL_WALK_USER, "e USING INDEX event_user (<expr>=? AND user_id=? AND rowid>?" },
        { FAN__SQL_WALK_USER_DOWN, "e USING INDEX event_user (<expr>=? AND user_id=? AND" },
        { FAN__SQL_WALK_TIME, "e USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)" },
        { FAN__SQL_WALK_TIME_DOWN, "e USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)" },
        { FAN__SQL_WALK_OPEN, "d USING COVERING INDEX delivery_open (seq>? AND seq<?)" },
        { FAN__SQL_WALK_BLOCKS, "b USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)" },
        { FAN__SQL_BLOCK_SERIES, "e USING COVERING INDEX event_series (<expr>=? AND series=?)" },
        { FAN__SQL_BLOCK_ALL, "e USING COVERING INDEX event_series (<expr>=?)" },
        { FAN__SQL_BLOCK_COUNT_AFTER, "e USING COVERING INDEX event_series (<expr>=?)" },
        { FAN__SQL_KEY_SEARCH, "e USING COVERING INDEX event_series (<expr>=? AND series=?)" },
        { FAN__SQL_DUE, "d USING INDEX delivery_due (grp=? AND due_us<?)" },
        { FAN__SQL_DUE_IN_PART, "d USING INDEX delivery_part (grp=? AND part=? AND due_us<?)" },
        { FAN__SQL_HELD, "d USING INDEX delivery_held (grp=?" },
        { FAN__SQL_KEY_OLDEST, "d USING INDEX delivery_key (grp=? AND key=?)" },
    };
    struct fan__sqlite *store = provider_open(*state);
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        char sql[2048];
        snprintf(sql, sizeof(sql), "EXPLAIN QUERY PLAN %s", fan__sqlite_text(cases[i].statement));
        sqlite3_stmt *plan = NULL;
        assert_int_equal(sqlite3_prepare_v2(store->writer->db, sql, -1, &plan, NULL), SQLITE_OK);
        char steps[512] = "";
        bool there = false;
        while (sqlite3_step(plan) == SQLITE_ROW) {
            const char *step = (const char *)sqlite3_column_text(plan, 3);
            there |= strstr(step, cases[i].step) != NULL;
            snprintf(steps + strlen(steps), sizeof(steps) - strlen(steps), "\n    %s", step);
        }
        sqlite3_finalize(plan);
        if (!there)
            fail_msg("%s is not by %s but%s", names[cases[i].statement], cases[i].step, steps);
    }
    fan__sqlite_provider.close(store);
}

static void fill(struct fan__sqlite *store)
{
    struct fan_append items[100] = { 0 };
    for (int batch = 0; batch < 100; batch++) {
        for (int i = 0; i < 100; i++) {
            int n = batch * 100 + i;
            char topic[32];
            char type[32];
            char instance[32];
            snprintf(topic, sizeof(topic), "topic:%d", n % 50);
            snprintf(type, sizeof(type), "s%d.e%d.o%d", n % 3, n % 5, n % 7);
            snprintf(instance, sizeof(instance), "node-%d", n % 4);
            items[i].event = event_of(&(struct fan_event_draft){
                .size = FAN_EVENT_DRAFT_SIZE,
                .type = type,
                .topic = topic,
                .source = (enum fan_source)(1 + n % 5),
                .instance_id = instance,
                .user_id = n % 11,
                .created_us = 1000000 + n,
            });
        }
        assert_ok(fan__sqlite_provider.append(store, items, 100, NULL));
        for (int i = 0; i < 100; i++)
            fan_event_free((struct fan_event *)(void *)(uintptr_t)items[i].event, NULL);
    }
}

/* Rows that full scans stepped over, in all connections that lists may have used. */
static int scanned(const struct fan__sqlite *store)
{
    int count = 0;
    for (const struct fan__sqlite_connection *c = store->pool; c; c = c->next) {
        for (unsigned i = 0; i < FAN__SQL_COUNT; i++) {
            if (c->statements[i] && i != FAN__SQL_GROUPS)
                count += sqlite3_stmt_status(c->statements[i], SQLITE_STMTSTATUS_FULLSCAN_STEP, 0);
        }
    }
    return count;
}

static void test_P20_single_field_filters_do_not_scan(void **state)
{
    struct fan__sqlite *store = provider_open(*state);
    fill(store);
    const struct {
        struct fan_query query;
        size_t count;
    } cases[] = {
        { { .topic = "topic:7" }, 200 },
        { { .topic = "no such topic" }, 0 },
        { { .pattern = "s1.e2.o3" }, 95 },
        { { .pattern = "s1.>" }, 3333 },
        { { .pattern = "*.e2.*" }, 2000 },
        { { .source = FAN_SOURCE_DATABASE }, 2000 },
        { { .schema = "s1" }, 3333 },
        { { .entity = "e2" }, 2000 },
        { { .operation = "o3" }, 1429 },
        { { .instance_id = "node-2" }, 2500 },
        { { .user_id = 4 }, 909 },
        { { .from_us = 1000000 + 9990 }, 10 },
        { { .until_us = 1000000 + 10 }, 10 },
        { { .has_status = true, .status = FAN_EVENT_FAILED }, 0 },
        { { .has_status = true, .status = FAN_EVENT_PENDING }, 0 },
    };
    static struct fan_event_state states[10000];
    struct fan_batch *batch = batch_new();
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        for (int down = 0; down < 2; down++) {
            struct fan_query query = cases[i].query;
            query.size = FAN_QUERY_SIZE;
            query.limit = 10000;
            query.newest_first = down == 1;
            fan_batch_clear(batch);
            assert_ok(fan__sqlite_provider.list(store, &query, batch, states, NULL));
            assert_int_equal(fan_batch_count(batch), cases[i].count);
            uint64_t previous = down == 1 ? UINT64_MAX : 0;
            for (size_t j = 0; j < fan_batch_count(batch); j++) {
                uint64_t seq = fan_event_seq(fan_batch_event(batch, j));
                assert_true(down == 1 ? seq < previous : seq > previous);
                previous = seq;
            }
            if (scanned(store) > 0)
                fail_msg("filter %zu scanned", i);
        }
    }
    fan_batch_free(batch);
    fan__sqlite_provider.close(store);
}

/* Many series at once go block by block, with a set in memory instead of a long IN. */
static void test_P20_a_filter_of_many_series_reads_in_order(void **state)
{
    struct fan__sqlite *store = provider_open(*state);
    struct fan_append items[300] = { 0 };
    for (int i = 0; i < 300; i++) {
        char topic[32];
        snprintf(topic, sizeof(topic), "topic:%d", i);
        items[i].event = event_of(&(struct fan_event_draft){
            .size = FAN_EVENT_DRAFT_SIZE, .type = i % 2 ? "a.b.c" : "x.y.z", .topic = topic });
    }
    assert_ok(fan__sqlite_provider.append(store, items, 300, NULL));
    for (int i = 0; i < 300; i++)
        fan_event_free((struct fan_event *)(void *)(uintptr_t)items[i].event, NULL);
    struct fan_batch *batch = batch_new();
    struct fan_query query = { .size = FAN_QUERY_SIZE, .pattern = "a.*.c", .limit = 100 };
    struct fan_read_result result = { 0 };
    uint64_t expected = 2;
    for (int page = 0; page < 2; page++) {
        fan_batch_clear(batch);
        assert_ok(fan__sqlite_provider.read(store, result.scanned_seq, &query, batch, &result));
        assert_int_equal(fan_batch_count(batch), page == 0 ? 100 : 50);
        for (size_t i = 0; i < fan_batch_count(batch); i++, expected += 2)
            assert_int_equal(fan_event_seq(fan_batch_event(batch, i)), expected);
    }
    assert_int_equal(result.scanned_seq, 300);
    assert_int_equal(scanned(store), 0);
    fan_batch_free(batch);
    fan__sqlite_provider.close(store);
}

/* Sums of what is claimed, or dead, come from the rows that say so. */
static void test_P16_sums_look_at_no_event_that_is_open(void **state)
{
    enum { COUNT = 100 };
    static struct fan_claim claims[COUNT];
    struct fan__sqlite *store = provider_open(*state);
    const struct fan_group_name name = { "g", "" };
    const struct fan_group_options options = { .size = FAN_GROUP_OPTIONS_SIZE,
                                               .start = FAN_START_BEGINNING };
    const struct fan_claim_options claiming = {
        .size = FAN_CLAIM_OPTIONS_SIZE, .owner = "me", .limit = COUNT, .lease_ms = 60000
    };
    struct fan_store_stats stats = { .size = sizeof(stats) };
    struct fan_settle dead = { .verdict = FAN_VERDICT_FAIL, .error = "no" };
    struct fan_batch *batch = batch_new();
    fill(store);
    assert_ok(fan__sqlite_provider.group_create(store, &name, &options, NULL));
    assert_ok(fan__sqlite_provider.claim(store, &name, &claiming, batch, claims));
    dead.seq = claims[7].seq;
    dead.token = claims[7].token;
    assert_ok(fan__sqlite_provider.settle(store, &name, &dead, 1));
    assert_ok(fan__sqlite_provider.stats(store, &stats));
    assert_int_equal(stats.processing, COUNT - 1);
    assert_int_equal(stats.failed, 1);
    assert_int_equal(stats.pending, 10000 - COUNT);
    for (const struct fan__sqlite_connection *c = store->pool; c; c = c->next) {
        if (c->statements[FAN__SQL_EVENT_BY_SEQ])
            assert_int_equal(
                sqlite3_stmt_status(c->statements[FAN__SQL_EVENT_BY_SEQ], SQLITE_STMTSTATUS_RUN, 0),
                0);
    }
    fan_batch_free(batch);
    fan__sqlite_provider.close(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        at_a_place(test_P20_no_statement_scans_a_table),
        at_a_place(test_P20_walks_use_their_index),
        at_a_place(test_P20_single_field_filters_do_not_scan),
        at_a_place(test_P16_sums_look_at_no_event_that_is_open),
        at_a_place(test_P20_a_filter_of_many_series_reads_in_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
