/*
 * Power loss: a store on a disk that forgets what was not synced, cut at an operation that the seed
 * chooses, opened again and held against the ledger (P05, L9, L10).
 *
 *     acknowledged <= stored <= attempted, each once, sequences rising and never given twice, nor
 *     the tokens of claims
 *
 * FANFARE_SOAK=1 runs 200 seeds, else 20, or 5 under a sanitizer; FANFARE_SEED runs one.
 */
#include "../seed.h"
#include "sqlite_support.h"
#include "vfs_power.h"

#include "store/sqlite/sqlite.h"

#include <sqlite3.h>

#include <inttypes.h>

#define PATH "/power/events.db"
#define URI "sqlite:" PATH "?vfs=" POWER_VFS "&checkpoint_frames="
#define EVENT_COUNT_MAX 4000
#define BATCH_COUNT_MAX 24

enum fate {
    UNTRIED = 0,
    ATTEMPTED,
    ACKNOWLEDGED,
    DELETED, /* asked for; it may be there or not */
};

struct ledger {
    uint64_t random;
    enum fate fates[EVENT_COUNT_MAX];
    uint64_t seqs[EVENT_COUNT_MAX];
    bool completed[EVENT_COUNT_MAX];
    size_t count;
    uint64_t seq_max;
    uint64_t epoch;
    uint64_t token_max;
};

static struct ledger ledger;

static uint64_t chance(uint64_t bound)
{
    ledger.random ^= ledger.random << 13;
    ledger.random ^= ledger.random >> 7;
    ledger.random ^= ledger.random << 17;
    return (ledger.random >> 11) % bound;
}

static struct fan_event *make_event(size_t number)
{
    static char payload[6000];
    char id[32];
    char topic[32];
    snprintf(id, sizeof(id), "event-%zu", number);
    snprintf(topic, sizeof(topic), "topic-%zu", number % 7);
    size_t size = number % 13 == 0 ? 5000 : 20 + number % 300;
    memset(payload, 'a' + (int)(number % 26), size);
    payload[0] = '"';
    payload[size - 1] = '"';
    return event_of(&(struct fan_event_draft){ .size = FAN_EVENT_DRAFT_SIZE,
                                               .type = "a.b.c",
                                               .id = id,
                                               .topic = topic,
                                               .user_id = (int64_t)(number % 5),
                                               .payload = { payload, size } });
}

/* Appends some new events, and now and then an old one again. */
static enum fan_status append_some(struct fan_store *store)
{
    struct fan_append items[BATCH_COUNT_MAX] = { 0 };
    size_t numbers[BATCH_COUNT_MAX];
    size_t count = 1 + chance(chance(3) == 0 ? BATCH_COUNT_MAX : 3);
    for (size_t i = 0; i < count; i++) {
        bool again = ledger.count > 0 && chance(12) == 0;
        size_t number = again ? chance(ledger.count) : ledger.count;
        if (!again && ledger.count < EVENT_COUNT_MAX - 1)
            ledger.count++;
        numbers[i] = number;
        if (ledger.fates[number] == UNTRIED)
            ledger.fates[number] = ATTEMPTED;
        items[i].event = make_event(number);
    }
    enum fan_status status = fan_store_append(store, items, count, NULL);
    for (size_t i = 0; i < count; i++) {
        fan_event_free((struct fan_event *)(void *)(uintptr_t)items[i].event, NULL);
        size_t number = numbers[i];
        if (status != FAN_OK || items[i].ret_status != FAN_OK || ledger.fates[number] == DELETED)
            continue;
        if (ledger.fates[number] == ACKNOWLEDGED)
            assert_int_equal(items[i].ret_seq, ledger.seqs[number]);
        ledger.fates[number] = ACKNOWLEDGED;
        ledger.seqs[number] = items[i].ret_seq;
        if (items[i].ret_seq > ledger.seq_max)
            ledger.seq_max = items[i].ret_seq;
    }
    return status;
}

static enum fan_status delete_one(struct fan_store *store)
{
    char id[32];
    if (ledger.count == 0)
        return FAN_OK;
    /* The last one most of all: its sequence must not be given again. */
    size_t number = chance(2) ? ledger.count - 1 : chance(ledger.count);
    snprintf(id, sizeof(id), "event-%zu", number);
    ledger.fates[number] = DELETED;
    enum fan_status status = fan_store_delete(store, id);
    return status == FAN_NOT_FOUND ? FAN_OK : status;
}

static const struct fan_group_name group = { "g", "" };

static size_t number_of(const struct fan_event *event)
{
    return (size_t)strtoul(fan_event_id(event) + strlen("event-"), NULL, 10);
}

static enum fan_status work_some(struct fan_store *store, struct fan_batch *batch)
{
    struct fan_claim claims[8];
    struct fan_settle settles[8];
    struct fan_claim_options options = {
        .size = FAN_CLAIM_OPTIONS_SIZE, .owner = "worker", .limit = 8, .ordered = chance(2) == 0
    };
    enum fan_status status = fan_group_claim(store, &group, &options, batch, claims);
    if (status != FAN_OK)
        return status == FAN_AGAIN ? FAN_OK : status;
    size_t count = fan_batch_count(batch);
    /* A claim may be forgotten, but who holds it over a network is not mistaken for another. */
    assert_true(claims[0].token > ledger.token_max);
    ledger.token_max = claims[0].token;
    for (size_t i = 0; i < count; i++)
        settles[i] = (struct fan_settle){ .seq = claims[i].seq, .token = claims[i].token };
    status = fan_group_settle(store, &group, settles, count);
    for (size_t i = 0; status == FAN_OK && i < count; i++) {
        if (settles[i].ret_status == FAN_OK)
            ledger.completed[number_of(fan_batch_event(batch, i))] = true;
    }
    return status;
}

/* Works on the store until a failure, or for so many steps. */
static void work(struct fan_store *store, unsigned steps)
{
    struct fan_batch *batch = batch_new();
    enum fan_status status = FAN_OK;
    for (unsigned i = 0; status == FAN_OK && i < steps; i++) {
        uint64_t choice = chance(20);
        if (choice < 14)
            status = append_some(store);
        else if (choice < 16)
            status = delete_one(store);
        else
            status = work_some(store, batch);
    }
    fan_batch_free(batch);
    if (status != FAN_OK && !power_is_cut())
        fail_msg("a step failed with the power on: %s", fan_status_name(status));
}

static int64_t ask(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *statement = NULL;
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &statement, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(statement), SQLITE_ROW);
    int64_t number = sqlite3_column_type(statement, 0) == SQLITE_TEXT
                         ? strcmp((const char *)sqlite3_column_text(statement, 0), "ok") == 0
                         : sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    return number;
}

static void check_integrity(void)
{
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open_v2(PATH, &db, SQLITE_OPEN_READWRITE, POWER_VFS), SQLITE_OK);
    assert_int_equal(ask(db, "PRAGMA integrity_check"), 1);
    /* The power may have gone before there was a log. */
    if (ask(db, "SELECT count(*) FROM sqlite_schema") > 0)
        assert_int_equal(ask(db, "SELECT coalesce(sum(count), 0) FROM event_block"),
                         ask(db, "SELECT count(*) FROM event"));
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

/* Reads the whole log and holds it against the ledger. */
static void check_ledger(struct fan_store *store)
{
    static bool stored[EVENT_COUNT_MAX];
    memset(stored, 0, sizeof(stored));
    struct fan_batch *batch = batch_new();
    struct fan_query query = { .size = FAN_QUERY_SIZE, .limit = 100 };
    struct fan_read_result result = { 0 };
    uint64_t previous = 0;
    do {
        assert_ok(fan_store_read(store, result.scanned_seq, &query, batch, &result));
        for (size_t i = 0; i < fan_batch_count(batch); i++) {
            const struct fan_event *event = fan_batch_event(batch, i);
            size_t number = number_of(event);
            assert_true(fan_event_seq(event) > previous);
            previous = fan_event_seq(event);
            assert_true(number < ledger.count || number == 0);
            assert_true(ledger.fates[number] != UNTRIED);
            assert_false(stored[number]);
            stored[number] = true;
            if (ledger.fates[number] == ACKNOWLEDGED)
                assert_int_equal(fan_event_seq(event), ledger.seqs[number]);
            struct fan_event *expected = make_event(number);
            struct fan_str payload = fan_event_payload(expected);
            assert_int_equal(fan_event_payload(event).size, payload.size);
            assert_memory_equal(fan_event_payload(event).data, payload.data, payload.size);
            fan_event_free(expected, NULL);
        }
    } while (result.scanned_seq < result.head_seq);
    assert_true(result.head_seq >= ledger.seq_max);
    for (size_t i = 0; i < EVENT_COUNT_MAX; i++) {
        if (ledger.fates[i] == ACKNOWLEDGED && !stored[i])
            fail_msg("event %zu was acknowledged as %" PRIu64 " and is gone", i, ledger.seqs[i]);
        char id[32];
        struct fan_event_state state;
        snprintf(id, sizeof(id), "event-%zu", i);
        if (ledger.completed[i] && stored[i] && ledger.fates[i] == ACKNOWLEDGED) {
            assert_ok(fan_store_get(store, id, batch, &state));
            assert_int_equal(state.status, FAN_EVENT_COMPLETED);
        }
    }
    fan_batch_free(batch);
}

/* Opens until it succeeds: the power may go while it recovers, too. */
static struct fan_store *open_again(const char *uri)
{
    for (;;) {
        struct fan_store *store = NULL;
        struct fan_error error = FAN_ERROR_INIT;
        enum fan_status status = fan_store_open(uri, NULL, &store, &error);
        if (status == FAN_OK && !power_is_cut())
            return store;
        if (!power_is_cut())
            fail_msg("it does not open: %s", error.message);
        fan_store_close(store);
        power_restore();
    }
}

static void ensure_group(struct fan_store *store)
{
    struct fan_group_options options = { .size = FAN_GROUP_OPTIONS_SIZE,
                                         .start = FAN_START_BEGINNING };
    enum fan_status status = fan_group_create(store, &group, &options, NULL);
    assert_true(status == FAN_OK || status == FAN_EXISTS || power_is_cut());
}

static void run_seed(uint64_t seed)
{
    ledger = (struct ledger){ .random = seed * UINT64_C(0x9e3779b97f4a7c15) + 1 };
    char uri[128];
    snprintf(uri, sizeof(uri), URI "%u", 8 + (unsigned)chance(60));
    power_install(seed);
    for (unsigned cut = 0; cut < 4; cut++) {
        if (chance(3) == 0)
            power_cut_at(1 + chance(30));
        struct fan_store *store = open_again(uri);
        power_cut_at(1 + chance(chance(2) ? 400 : 4000));
        uint64_t epoch = fan_store_epoch(store);
        if (ledger.count > 0)
            assert_true(epoch == ledger.epoch);
        ledger.epoch = epoch;
        ensure_group(store);
        if (!power_is_cut())
            work(store, 400);
        /* At the latest the clean end of the store is cut off. */
        power_cut_at(1);
        fan_store_close(store);
        power_restore();
        check_integrity();
        store = open_again(uri);
        check_ledger(store);
        fan_store_close(store);
    }
    power_remove();
}

static void test_P05_power_loss_keeps_what_was_acknowledged(void **state)
{
    (void)state;
    const char *one = getenv("FANFARE_SEED");
    uint64_t first = one ? strtoull(one, NULL, 10) : 1;
    uint64_t count = one ? 1 : test_is_soak() ? 200 : TEST_SANITIZED ? 5 : 20;
    for (uint64_t seed = first; seed < first + count; seed++) {
        print_message("# FANFARE_SEED=%" PRIu64 "\n", seed);
        run_seed(seed);
    }
}

static void test_P05_each_commit_is_synced(void **state)
{
    (void)state;
    ledger = (struct ledger){ .random = 1 };
    power_install(1);
    struct fan_store *store = store_open(URI "8000");
    struct fan_batch *batch = batch_new();
    const struct fan_group_name idle = { "idle", "" };
    struct fan_group_options options = { .size = FAN_GROUP_OPTIONS_SIZE, .pattern = "x.y.z" };
    struct fan_claim_options claim = { .size = FAN_CLAIM_OPTIONS_SIZE, .owner = "worker" };
    struct fan_claim claims[1];
    assert_ok(fan_group_create(store, &idle, &options, NULL));
    for (int i = 0; i < 50; i++) {
        uint64_t before = power_wal_syncs();
        assert_ok(append_some(store));
        assert_true(power_wal_syncs() > before);
        /* A cursor that only moves on is not worth a sync, and takes none from the next commit. */
        before = power_wal_syncs();
        assert_int_equal(fan_group_claim(store, &idle, &claim, batch, claims), FAN_AGAIN);
        assert_int_equal(power_wal_syncs(), before);
    }
    fan_batch_free(batch);
    fan_store_close(store);
    power_remove();
}

static void test_L09_a_failed_sync_is_an_unknown_outcome(void **state)
{
    (void)state;
    ledger = (struct ledger){ .random = 1 };
    power_install(1);
    struct fan_store *store = store_open(URI "8000");
    store_say(store, "a.b", "t");
    struct fan_event *event = make_event(1);
    struct fan_append item = { .event = event };
    struct fan_error error = FAN_ERROR_INIT;
    power_fail_syncs(1);
    assert_int_equal(fan_store_append(store, &item, 1, &error), FAN_UNKNOWN);
    uint64_t head = 0;
    assert_ok(fan_store_head(store, &head));
    assert_int_equal(head, 1);
    assert_ok(fan_store_append(store, &item, 1, &error));
    assert_int_equal(item.ret_seq, 2);
    assert_false(item.ret_duplicate);
    fan_event_free(event, NULL);
    fan_store_close(store);
    power_remove();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_P05_power_loss_keeps_what_was_acknowledged),
        cmocka_unit_test(test_P05_each_commit_is_synced),
        cmocka_unit_test(test_L09_a_failed_sync_is_an_unknown_outcome),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
