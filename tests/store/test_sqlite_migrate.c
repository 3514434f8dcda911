/*
 * P24: a log of the format before, as its own library left it (format1.sql), is brought to this one
 * in one transaction: all of it, or nothing when the process or the power dies on the way.
 */
#include "sqlite_support.h"
#include "vfs_power.h"

#include <sqlite3.h>

#include <inttypes.h>
#include <signal.h>
#include <sys/wait.h>

#define POWER_PATH "/power/events.db"
#define POWER_URI "sqlite:" POWER_PATH "?vfs=" POWER_VFS

/* The log was left at 11 s past this. */
#define LEFT_US INT64_C(1700000000000000)
#define EPOCH UINT64_C(3037317151799949320)

static const struct fan_group_name mail = { "mail", "send" };
static const struct fan_group_name audit = { "audit", "" };
static const struct fan_group_name ordered = { "ordered", "" };

static int64_t wall_us(void *context)
{
    (void)context;
    return LEFT_US + 20000000;
}

static struct fan_env env_then(void)
{
    struct fan_env env = *fan_env_default();
    env.wall_us = wall_us;
    return env;
}

static char *read_sql(void)
{
    FILE *file = fopen(getenv("FANFARE_FORMAT1"), "r");
    assert_non_null(file);
    char *sql = test_calloc(1, 65536);
    size_t size = fread(sql, 1, 65535, file);
    assert_true(size > 1000 && size < 65535);
    fclose(file);
    return sql;
}

static void make_old(const char *path, const char *vfs)
{
    sqlite3 *db = NULL;
    char *sql = read_sql();
    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, vfs),
                     SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "PRAGMA journal_mode = WAL", NULL, NULL, NULL), SQLITE_OK);
    char *message = NULL;
    if (sqlite3_exec(db, sql, NULL, NULL, &message) != SQLITE_OK)
        fail_msg("%s", message);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
    test_free(sql);
}

static int64_t ask(const char *path, const char *vfs, const char *sql)
{
    sqlite3 *db = NULL;
    sqlite3_stmt *statement = NULL;
    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, vfs), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &statement, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(statement), SQLITE_ROW);
    int64_t number = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
    return number;
}

/* What the handler of mail is owed, as the old library left it. */
static const struct expected {
    uint64_t seq;
    enum fan_event_status status;
    unsigned attempts;
    enum fan_dead_reason reason;
    const char *owner;
    const char *error;
} expected[] = {
    { 1, FAN_EVENT_COMPLETED, 1, FAN_DEAD_NONE, "", "" },
    { 2, FAN_EVENT_FAILED, 1, FAN_DEAD_FAILED, "", "no such mailbox" },
    { 4, FAN_EVENT_PENDING, 1, FAN_DEAD_NONE, "", "greylisted" },
    { 5, FAN_EVENT_PENDING, 2, FAN_DEAD_NONE, "", "once more" },
    { 6, FAN_EVENT_PROCESSING, 1, FAN_DEAD_NONE, "m1", "" },
    { 7, FAN_EVENT_PENDING, 0, FAN_DEAD_NONE, "", "" },
    { 8, FAN_EVENT_PENDING, 0, FAN_DEAD_NONE, "", "" },
    { 9, FAN_EVENT_COMPLETED, 0, FAN_DEAD_NONE, "", "" },
};

static bool see_delivery(void *context, const struct fan_delivery *delivery)
{
    const struct expected *wanted = context;
    if (strcmp(delivery->group, "mail") != 0)
        return true;
    assert_int_equal(delivery->seq, wanted->seq);
    assert_int_equal(delivery->status, wanted->status);
    assert_int_equal(delivery->attempts, wanted->attempts);
    assert_int_equal(delivery->reason, wanted->reason);
    assert_int_equal(delivery->lapses, 0);
    assert_string_equal(delivery->owner, wanted->owner);
    assert_string_equal(delivery->error, wanted->error);
    return false;
}

static bool see_group(void *context, const struct fan_group_stats *stats)
{
    unsigned *count = context;
    ++*count;
    assert_int_equal(stats->joined_us, wall_us(NULL));
    if (strcmp(stats->group, "mail") == 0) {
        assert_int_equal(stats->completed, 2);
        assert_int_equal(stats->failed, 1);
        assert_int_equal(stats->processing, 1);
        assert_int_equal(stats->pending, 4);
        assert_int_equal(stats->oldest_us, LEFT_US + 3000000);
    }
    if (strcmp(stats->group, "audit") == 0) {
        assert_int_equal(stats->pending, 10);
        assert_int_equal(stats->oldest_us, LEFT_US);
    }
    return true;
}

/* All that the old log held is there, and can be worked on. */
static void check(struct fan_store *store)
{
    uint64_t head = 0;
    unsigned groups = 0;
    struct fan_store_stats stats = { .size = sizeof(stats) };
    assert_true(fan_store_epoch(store) == EPOCH);
    assert_ok(fan_store_head(store, &head));
    assert_int_equal(head, 11);
    assert_ok(fan_store_stats(store, &stats));
    assert_int_equal(stats.events, 10);
    for (size_t i = 0; i < sizeof(expected) / sizeof(*expected); i++)
        assert_ok(fan_store_deliveries(store, expected[i].seq, 0, see_delivery,
                                       (void *)(uintptr_t)&expected[i]));
    assert_ok(fan_store_groups(store, see_group, &groups));
    assert_int_equal(groups, 3);

    /* The claim of before speaks for its delivery, and the lease is still its owner's. */
    struct fan_settle held = {
        .seq = 6, .token = 6, .verdict = FAN_VERDICT_FAIL, .reason = FAN_DEAD_LAPSES
    };
    assert_ok(fan_group_settle(store, &mail, &held, 1));
    assert_ok(held.ret_status);
    uint64_t fence = 0;
    assert_int_equal(fan_lease_acquire(store, "relay", "node-2", 1000, &fence), FAN_EXISTS);
    assert_ok(fan_lease_renew(store, "relay", "node-1", 1, 1000));

    struct fan_claim claims[16];
    struct fan_batch *batch = batch_new();
    struct fan_claim_options options = { .size = FAN_CLAIM_OPTIONS_SIZE,
                                         .owner = "a",
                                         .limit = 16 };
    assert_ok(fan_group_claim(store, &mail, &options, batch, claims));
    assert_int_equal(fan_batch_count(batch), 1);
    assert_int_equal(claims[0].seq, 8);
    assert_ok(fan_group_claim(store, &audit, &options, batch, claims));
    assert_int_equal(fan_batch_count(batch), 9);
    fan_batch_free(batch);
    assert_int_equal(store_say(store, "users.created", "u:9"), 12);
}

static void test_P24_the_format_before_is_migrated(void **state)
{
    struct place *place = *state;
    struct fan_env env = env_then();
    struct fan_store *store = NULL;
    make_old(place->path, NULL);
    assert_int_equal(ask(place->path, NULL, "PRAGMA user_version"), 1);
    assert_ok(fan_store_open(place->uri, &env, &store, NULL));
    check(store);
    fan_store_close(store);
    assert_int_equal(ask(place->path, NULL, "PRAGMA user_version"), 2);
    assert_int_equal(ask(place->path, NULL,
                         "SELECT count(*) FROM pragma_integrity_check "
                         "WHERE integrity_check = 'ok'"),
                     1);
    assert_int_equal(ask(place->path, NULL,
                         "SELECT count(*) FROM deliveries WHERE reason = 'lapses' AND seq = 6"),
                     1);
}

/* Table by table, column by column: nobody can tell a migrated log from one that was made so. */
#define SHAPE(schema)                                                                              \
    "SELECT m.type, m.name, m.tbl_name, c.cid, c.name AS column_name, c.type AS kind, "            \
    "c.\"notnull\" AS never_null, c.dflt_value, c.pk, CASE m.type WHEN 'table' THEN '' ELSE "      \
    "m.sql END AS sql FROM " schema ".sqlite_schema m LEFT JOIN "                                  \
    "pragma_table_xinfo(m.name, '" schema "') c ON m.type = 'table'"

static void test_P24_a_migrated_log_is_like_a_fresh_one(void **state)
{
    struct place *place = *state;
    char fresh[128];
    char sql[2048];
    snprintf(fresh, sizeof(fresh), "sqlite:%s/fresh.db", place->folder);
    fan_store_close(store_open(fresh));
    make_old(place->path, NULL);
    fan_store_close(store_open(place->uri));
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(place->path, &db), SQLITE_OK);
    snprintf(sql, sizeof(sql), "ATTACH '%s/fresh.db' AS fresh", place->folder);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    static const char *const differences[] = {
        "SELECT * FROM (" SHAPE("main") ") EXCEPT SELECT * FROM (" SHAPE("fresh") ")",
        "SELECT * FROM (" SHAPE("fresh") ") EXCEPT SELECT * FROM (" SHAPE("main") ")",
        "SELECT key FROM main.meta EXCEPT SELECT key FROM fresh.meta",
        "SELECT key FROM fresh.meta EXCEPT SELECT key FROM main.meta",
    };
    for (size_t i = 0; i < sizeof(differences) / sizeof(*differences); i++) {
        sqlite3_stmt *statement = NULL;
        assert_int_equal(sqlite3_prepare_v2(db, differences[i], -1, &statement, NULL), SQLITE_OK);
        if (sqlite3_step(statement) == SQLITE_ROW)
            fail_msg("they differ: %s %s", (const char *)sqlite3_column_text(statement, 0),
                     (const char *)sqlite3_column_text(statement, 1));
        sqlite3_finalize(statement);
    }
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

static void test_P24_power_loss_while_migrating(void **state)
{
    (void)state;
    struct fan_env env = env_then();
    bool whole = false;
    unsigned untouched = 0;
    for (uint64_t cut = 1; !whole; cut++) {
        assert_true(cut < 1000);
        struct fan_store *store = NULL;
        power_install(cut);
        make_old(POWER_PATH, POWER_VFS);
        power_cut_at(cut);
        enum fan_status status = fan_store_open(POWER_URI, &env, &store, NULL);
        whole = status == FAN_OK && !power_is_cut();
        power_cut_at(1);
        fan_store_close(status == FAN_OK ? store : NULL);
        power_restore();
        int64_t format = ask(POWER_PATH, POWER_VFS, "PRAGMA user_version");
        assert_true(format == 1 || format == 2);
        assert_true(format == 2 || !whole);
        untouched += format == 1;
        assert_ok(fan_store_open(POWER_URI, &env, &store, NULL));
        check(store);
        fan_store_close(store);
        power_remove();
    }
    assert_true(untouched > 0);
}

/* ---- Others at the same time ---- */

static void test_P24_processes_migrate_at_once(void **state)
{
    struct place *place = *state;
    enum { COUNT = 6 };
    pid_t children[COUNT];
    int gate[2];
    make_old(place->path, NULL);
    assert_int_equal(pipe(gate), 0);
    for (int i = 0; i < COUNT; i++) {
        children[i] = fork();
        assert_true(children[i] >= 0);
        if (children[i] == 0) {
            struct fan_store *store = NULL;
            struct fan_env env = env_then();
            char byte;
            close(gate[1]);
            /* It ends for all when the parent closes its side. */
            bool right = read(gate[0], &byte, 1) == 0;
            right = right && fan_store_open(place->uri, &env, &store, NULL) == FAN_OK;
            right = right && fan_store_epoch(store) == EPOCH;
            fan_store_close(store);
            _exit(right ? 0 : 1);
        }
    }
    close(gate[0]);
    close(gate[1]);
    for (int i = 0; i < COUNT; i++) {
        int result = 0;
        assert_int_equal(waitpid(children[i], &result, 0), children[i]);
        assert_true(WIFEXITED(result) && WEXITSTATUS(result) == 0);
    }
    struct fan_env env = env_then();
    struct fan_store *store = NULL;
    assert_ok(fan_store_open(place->uri, &env, &store, NULL));
    check(store);
    fan_store_close(store);
}

/* What a process of the library before does while the log is migrated under it. */
static void test_P24_who_has_the_old_log_open_goes_on(void **state)
{
    struct place *place = *state;
    static const char *const statements[] = {
        "INSERT INTO delivery(seq, grp, status, attempts, token, owner, due_us, processed_us, key, "
        "part, parked) VALUES(11, 2, 1, 1, 1, 'old', 1700086411000000, 1, NULL, NULL, 0)",
        "UPDATE delivery SET status = 3, token = 0, owner = NULL, error = 'old', due_us = 0, "
        "completed_us = 2 WHERE seq = 11 AND grp = 2 AND token = 1 AND status = 1",
        "UPDATE grp SET cursor = 11, token = 1, ordered = 0, ahead = 0 WHERE id = 2",
        "INSERT INTO grp(name, handler, pattern, topic, cursor, token) VALUES('late', '', NULL, "
        "NULL, 11, 0)",
        "UPDATE delivery SET status = 2, token = 0, owner = NULL, error = NULL, due_us = 0, "
        "completed_us = 2 WHERE seq = 1 AND grp = 3 AND token = 1 AND status = 1",
    };
    enum { COUNT = sizeof(statements) / sizeof(*statements) };
    sqlite3 *db = NULL;
    sqlite3_stmt *prepared[COUNT];
    make_old(place->path, NULL);
    assert_int_equal(sqlite3_open(place->path, &db), SQLITE_OK);
    for (size_t i = 0; i < COUNT; i++)
        assert_int_equal(sqlite3_prepare_v2(db, statements[i], -1, &prepared[i], NULL), SQLITE_OK);
    struct fan_env env = env_then();
    struct fan_store *store = NULL;
    assert_ok(fan_store_open(place->uri, &env, &store, NULL));
    for (size_t i = 0; i < COUNT; i++) {
        assert_int_equal(sqlite3_step(prepared[i]), SQLITE_DONE);
        assert_int_equal(sqlite3_changes(db), 1);
        sqlite3_finalize(prepared[i]);
    }
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
    struct fan_group_name late = { "late", "" };
    struct fan_claim claims[1];
    struct fan_batch *batch = batch_new();
    struct fan_claim_options options = { .size = FAN_CLAIM_OPTIONS_SIZE, .owner = "a" };
    assert_ok(fan_group_move(store, &audit, 11, FAN_EVENT_PENDING));
    assert_ok(fan_group_claim(store, &audit, &options, batch, claims));
    assert_int_equal(claims[0].seq, 11);
    assert_int_equal(claims[0].lapses, 0);
    assert_int_equal(fan_group_claim(store, &late, &options, batch, claims), FAN_AGAIN);
    /* What waited behind the key that it settled is brought forward. */
    options.ordered = true;
    options.owner = "o1";
    assert_ok(fan_group_claim(store, &ordered, &options, batch, claims));
    assert_int_equal(claims[0].seq, 4);
    fan_batch_free(batch);
    fan_store_close(store);
}

/* ---- A process that kills itself after so many steps of SQLite's ---- */

static int steps_left;

static int on_step(void *context)
{
    (void)context;
    if (--steps_left == 0)
        kill(getpid(), SIGKILL);
    return 0;
}

static int on_open(sqlite3 *db, char **message, const struct sqlite3_api_routines *api)
{
    (void)message;
    (void)api;
    sqlite3_progress_handler(db, 20, on_step, NULL);
    return SQLITE_OK;
}

/* Opens the log in a child that is killed after `steps`. Returns: false when it came through. */
static bool killed_after(const struct place *place, int steps)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct fan_env env = env_then();
        struct fan_store *store = NULL;
        steps_left = steps;
        sqlite3_auto_extension((void (*)(void))on_open);
        _exit(fan_store_open(place->uri, &env, &store, NULL) == FAN_OK ? 0 : 1);
    }
    int result = 0;
    assert_int_equal(waitpid(child, &result, 0), child);
    if (WIFSIGNALED(result))
        return true;
    assert_true(WIFEXITED(result) && WEXITSTATUS(result) == 0);
    return false;
}

static void test_P24_killed_while_migrating(void **state)
{
    struct place *place = *state;
    struct fan_env env = env_then();
    bool killed = true;
    unsigned untouched = 0;
    unsigned migrated = 0;
    for (int steps = 1; killed; steps += 3) {
        struct fan_store *store = NULL;
        make_old(place->path, NULL);
        killed = killed_after(place, steps);
        untouched += ask(place->path, NULL, "PRAGMA user_version") == 1;
        migrated += ask(place->path, NULL, "PRAGMA user_version") == 2;
        assert_ok(fan_store_open(place->uri, &env, &store, NULL));
        check(store);
        fan_store_close(store);
        assert_int_equal(unlink(place->path), 0);
    }
    assert_true(untouched > 0 && migrated > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        at_a_place(test_P24_the_format_before_is_migrated),
        at_a_place(test_P24_a_migrated_log_is_like_a_fresh_one),
        at_a_place(test_P24_processes_migrate_at_once),
        at_a_place(test_P24_who_has_the_old_log_open_goes_on),
        cmocka_unit_test(test_P24_power_loss_while_migrating),
        at_a_place(test_P24_killed_while_migrating),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
