/*
 * The SQLite provider beyond the conformance suite: what lies in the file, and what may be there.
 */
#include "sqlite_support.h"

#include "base/env.h"

#include <sqlite3.h>

#include <fcntl.h>
#include <sys/wait.h>

/* Runs SQL on the file as an operator would, with its own connection. */
static int64_t shell(const struct place *place, const char *sql)
{
    sqlite3 *db = NULL;
    sqlite3_stmt *statement = NULL;
    int64_t number = 0;
    assert_int_equal(sqlite3_open(place->path, &db), SQLITE_OK);
    sqlite3_busy_timeout(db, 5000);
    for (const char *at = sql; at && *at;) {
        assert_int_equal(sqlite3_prepare_v2(db, at, -1, &statement, &at), SQLITE_OK);
        if (!statement)
            break;
        while (sqlite3_step(statement) == SQLITE_ROW)
            number = sqlite3_column_int64(statement, 0);
        assert_int_equal(sqlite3_finalize(statement), SQLITE_OK);
    }
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
    return number;
}

static void test_P01_every_field_comes_back(void **state)
{
    struct place *place = *state;
    struct fan_store *store = store_open(place->uri);
    const char bytes[] = { 'a', '\0', (char)0xff, 'b' };
    const struct fan_event_draft drafts[] = {
        { .size = FAN_EVENT_DRAFT_SIZE,
          .type = "public.users.create",
          .payload = FAN_STR("{\"name\": \"Ada\"}"),
          .topic = "user:42",
          .id = "0190b3f2-7c00-7aaa-8bbb-0123456789ab",
          .source = FAN_SOURCE_DATABASE,
          .metadata = FAN_STR("{\"a\": 1}"),
          .user_id = -7,
          .session_id = "s-1",
          .instance_id = "node-1",
          .created_us = 1700000000123456,
          .deliver_at_us = 1800000000000000,
          .traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01" },
        { .size = FAN_EVENT_DRAFT_SIZE,
          .type = "chat.message",
          .id = "0190B3F2-7C00-7AAA-8BBB-0123456789AB",
          .content_type = "application/octet-stream",
          .payload = { bytes, sizeof(bytes) },
          .created_us = -5 },
        { .size = FAN_EVENT_DRAFT_SIZE, .type = "a", .id = "x" },
    };
    struct fan_batch *batch = batch_new();
    for (size_t i = 0; i < 3; i++) {
        struct fan_event *event = event_of(&drafts[i]);
        struct fan_append item = { .event = event };
        assert_ok(fan_store_append(store, &item, 1, NULL));
        assert_ok(item.ret_status);
        assert_int_equal(item.ret_seq, i + 1);
        assert_ok(fan_store_get(store, fan_event_id(event), batch, NULL));
        const struct fan_event *back = fan_batch_event(batch, 0);
        assert_int_equal(fan_event_seq(back), i + 1);
        /* But for sequence and check the blocks are the same bytes. */
        assert_int_equal(fan_event_size(back), fan_event_size(event));
        assert_memory_equal((const char *)back + 24, (const char *)event + 24,
                            fan_event_size(event) - 24);
        fan_event_free(event, NULL);
    }
    fan_batch_free(batch);
    fan_store_close(store);
    assert_int_equal(shell(place, "SELECT count(*) FROM event WHERE typeof(id) = 'blob'"), 1);
    assert_int_equal(shell(place, "SELECT payload ->> 'name' = 'Ada' FROM events WHERE id = "
                                  "'0190b3f2-7c00-7aaa-8bbb-0123456789ab' AND topic = 'user:42' "
                                  "AND created_at = '2023-11-14T22:13:20.123456Z'"),
                     1);
    assert_int_equal(shell(place, "SELECT typeof(payload) = 'blob' FROM event WHERE seq = 2"), 1);
}

static void test_P24_a_clean_close_leaves_one_file(void **state)
{
    struct place *place = *state;
    struct fan_store *store = store_open(place->uri);
    uint64_t epoch = fan_store_epoch(store);
    store_say(store, "a.b", "t");
    fan_store_close(store);
    char wal[128];
    snprintf(wal, sizeof(wal), "%s-wal", place->path);
    assert_int_not_equal(access(wal, F_OK), 0);
    store = store_open(place->uri);
    assert_true(fan_store_epoch(store) == epoch && epoch != 0);
    fan_store_close(store);
}

static void test_L10_the_head_never_goes_back(void **state)
{
    struct place *place = *state;
    struct fan_store *store = store_open(place->uri);
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b", .id = "last" };
    assert_int_equal(store_say(store, "a.b", "t"), 1);
    assert_ok(store_add(store, &draft, NULL));
    assert_ok(fan_store_delete(store, "last"));
    uint64_t head = 0;
    assert_ok(fan_store_head(store, &head));
    assert_int_equal(head, 2);
    fan_store_close(store);
    /* An operator deletes what is left. */
    shell(place, "DELETE FROM event");
    store = store_open(place->uri);
    assert_ok(fan_store_head(store, &head));
    assert_int_equal(head, 2);
    assert_int_equal(store_say(store, "a.b", "t"), 3);
    struct fan_store_stats stats = { .size = sizeof(stats) };
    assert_ok(fan_store_stats(store, &stats));
    assert_int_equal(stats.events, 1);
    assert_int_equal(stats.first_seq, 3);
    assert_true(stats.bytes > 0);
    fan_store_close(store);
}

static enum fan_status open_fails(const char *uri, struct fan_error *error)
{
    struct fan_store *store = NULL;
    *error = (struct fan_error)FAN_ERROR_INIT;
    enum fan_status status = fan_store_open(uri, NULL, &store, error);
    if (status == FAN_OK)
        fan_store_close(store);
    return status;
}

static void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void test_P24_a_newer_format_is_refused(void **state)
{
    struct place *place = *state;
    fan_store_close(store_open(place->uri));
    shell(place, "PRAGMA user_version = 77");
    struct fan_error error;
    assert_int_equal(open_fails(place->uri, &error), FAN_TOO_NEW);
    assert_non_null(strstr(error.message, "77"));
    assert_non_null(strstr(error.message, "up to 2"));
    assert_non_null(strstr(error.message, place->path));
}

static void test_P07_what_is_no_log_is_told_and_left_alone(void **state)
{
    struct place *place = *state;
    struct fan_error error;
    char text[4096];
    memset(text, 'x', sizeof(text));
    text[sizeof(text) - 1] = '\0';
    write_file(place->path, text);
    assert_int_equal(open_fails(place->uri, &error), FAN_CORRUPT);
    assert_non_null(strstr(error.message, "no SQLite database"));
    struct stat info;
    assert_int_equal(stat(place->path, &info), 0);
    assert_int_equal(info.st_size, sizeof(text) - 1);

    write_file(place->path, "x");
    assert_int_equal(open_fails(place->uri, &error), FAN_CORRUPT);
    assert_int_equal(stat(place->path, &info), 0);
    assert_int_equal(info.st_size, 1);

    unlink(place->path);
    shell(place, "CREATE TABLE bookmarks(url); INSERT INTO bookmarks VALUES('x')");
    assert_int_equal(open_fails(place->uri, &error), FAN_CORRUPT);
    assert_non_null(strstr(error.message, "another program"));
    assert_int_equal(shell(place, "SELECT count(*) FROM sqlite_schema"), 1);
    assert_int_equal(shell(place, "SELECT 1 FROM pragma_journal_mode WHERE journal_mode = 'wal'"),
                     0);
}

/* As root no folder is closed to us: the checks run as nobody then. */
static void as_nobody(void (*check)(const struct place *place), const struct place *place)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0))
            _exit(2);
        check(place);
        _exit(0);
    }
    int result = 0;
    assert_int_equal(waitpid(child, &result, 0), child);
    assert_true(WIFEXITED(result));
    assert_int_equal(WEXITSTATUS(result), 0);
}

static void check_folder(const struct place *place)
{
    struct fan_error error;
    if (open_fails(place->uri, &error) != FAN_DENIED || !strstr(error.message, place->folder))
        _exit(1);
}

static void test_P07_paths_that_cannot_be(void **state)
{
    struct place *place = *state;
    struct fan_error error;
    char uri[256];
    snprintf(uri, sizeof(uri), "sqlite:%s", place->folder);
    assert_int_equal(open_fails(uri, &error), FAN_INVALID);
    assert_non_null(strstr(error.message, "is a folder"));
    snprintf(uri, sizeof(uri), "sqlite:%s/none/events.db", place->folder);
    assert_int_equal(open_fails(uri, &error), FAN_NOT_FOUND);
    assert_non_null(strstr(error.message, "no such folder"));
    assert_non_null(strstr(error.message, "/none"));
    assert_int_equal(open_fails("sqlite:", &error), FAN_INVALID);
    snprintf(uri, sizeof(uri), "%s?bogus=1", place->uri);
    assert_int_equal(open_fails(uri, &error), FAN_INVALID);
    assert_non_null(strstr(error.message, "bogus"));
    snprintf(uri, sizeof(uri), "%s?synchronous=off", place->uri);
    assert_int_equal(open_fails(uri, &error), FAN_INVALID);
    assert_string_equal(error.field, "synchronous");

    assert_int_equal(chmod(place->folder, 0555), 0);
    as_nobody(check_folder, place);
    assert_int_equal(chmod(place->folder, 0777), 0);
    fan_store_close(store_open(place->uri));
    assert_int_equal(chmod(place->path, 0400), 0);
    as_nobody(check_folder, place);
}

/* How often the journal has started anew: the fourth number of its header. */
static uint32_t journal_round(const struct place *place)
{
    char path[128];
    unsigned char bytes[4] = { 0 };
    snprintf(path, sizeof(path), "%s-wal", place->path);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(file >= 0);
    assert_int_equal(pread(file, bytes, sizeof(bytes), 12), sizeof(bytes));
    close(file);
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

/* A journal that only grows would fill the disk under a writer that never pauses. */
static void test_L12_the_journal_starts_anew_under_a_busy_writer(void **state)
{
    enum { FRAMES = 200, ROUNDS = 10, APPENDS_MAX = 10000 };
    struct place *place = *state;
    char uri[256];
    snprintf(uri, sizeof(uri), "%s?checkpoint_frames=%d", place->uri, FRAMES);
    struct fan_store *store = store_open(uri);
    store_say(store, "a.b", "t");
    uint32_t first = journal_round(place);
    int appends = 0;
    while (journal_round(place) - first < ROUNDS && appends < APPENDS_MAX) {
        store_say(store, "a.b", "t");
        appends++;
    }
    assert_in_range(appends, 1, APPENDS_MAX - 1);
    fan_store_close(store);
}

static void test_R03_a_forked_child_is_refused(void **state)
{
    struct place *place = *state;
    struct fan_store *store = store_open(place->uri);
    store_say(store, "a.b", "t");
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        uint64_t head = 0;
        bool right = fan_store_head(store, &head) == FAN_FORKED;
        fan_store_close(store);
        _exit(right ? 0 : 1);
    }
    int result = 0;
    assert_int_equal(waitpid(child, &result, 0), child);
    assert_int_equal(result, 0);
    assert_int_equal(store_say(store, "a.b", "t"), 2);
    fan_store_close(store);
    assert_int_equal(shell(place, "SELECT count(*) FROM event"), 2);
}

static void test_P05_a_damaged_log_is_told(void **state)
{
    struct place *place = *state;
    struct fan_store *store = store_open(place->uri);
    for (int i = 0; i < 300; i++)
        store_say(store, "a.b.c", "t");
    fan_store_close(store);
    /* Every page but the first is overwritten. */
    struct stat info;
    assert_int_equal(stat(place->path, &info), 0);
    int file = open(place->path, O_WRONLY);
    assert_true(file >= 0);
    char garbage[4096];
    memset(garbage, 0x5a, sizeof(garbage));
    for (off_t at = sizeof(garbage); at < info.st_size; at += (off_t)sizeof(garbage))
        assert_int_equal(pwrite(file, garbage, sizeof(garbage), at), sizeof(garbage));
    close(file);
    struct fan_error error;
    assert_int_equal(open_fails(place->uri, &error), FAN_CORRUPT);
    assert_non_null(strstr(error.message, place->path));
}

static void test_P05_damage_among_the_events_is_told(void **state)
{
    struct place *place = *state;
    struct fan_store *store = store_open(place->uri);
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
    static char payload[3000];
    memset(payload, '1', sizeof(payload));
    draft.payload = (struct fan_str){ payload, 300 };
    for (int i = 0; i < 300; i++)
        assert_ok(store_add(store, &draft, NULL));
    fan_store_close(store);
    int64_t page = shell(place, "SELECT pageno FROM dbstat WHERE name = 'event' AND "
                                "pagetype = 'leaf' ORDER BY pageno LIMIT 1 OFFSET 3");
    assert_true(page > 1);
    int file = open(place->path, O_WRONLY);
    assert_true(file >= 0);
    char garbage[4096];
    memset(garbage, 0x5a, sizeof(garbage));
    assert_int_equal(pwrite(file, garbage, sizeof(garbage), (page - 1) * 4096), sizeof(garbage));
    close(file);
    store = store_open(place->uri);
    struct fan_batch *batch = batch_new();
    struct fan_read_result result = { 0 };
    assert_int_equal(fan_store_read(store, 0, NULL, batch, &result), FAN_CORRUPT);
    fan_batch_free(batch);
    fan_store_close(store);
}

static void test_R01_a_log_that_was_deleted_takes_no_events(void **state)
{
    struct place *place = *state;
    struct fan_store *store = NULL;
    assert_ok(fan_store_open(place->uri, NULL, &store, NULL));
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
    struct fan_event *event = NULL;
    assert_ok(fan_event_new(&draft, NULL, &event, NULL));
    assert_int_equal(unlink(place->path), 0);
    struct fan_append item = { .event = event };
    struct fan_error error = FAN_ERROR_INIT;
    assert_int_equal(fan_store_append(store, &item, 1, &error), FAN_UNAVAILABLE);
    assert_non_null(strstr(error.message, "deleted"));
    fan_event_free(event, NULL);
    fan_store_close(store);
}

static void test_P05_durability_is_promised_as_opened(void **state)
{
    struct place *place = *state;
    struct fan_store *store = store_open(place->uri);
    assert_true(fan_store_capabilities(store) & FAN_CAPABILITY_DURABLE_DISK);
    fan_store_close(store);
    char uri[256];
    snprintf(uri, sizeof(uri), "%s?synchronous=normal", place->uri);
    store = store_open(uri);
    assert_false(fan_store_capabilities(store) & FAN_CAPABILITY_DURABLE_DISK);
    assert_true(fan_store_capabilities(store) & FAN_CAPABILITY_DURABLE_PROCESS);
    fan_store_close(store);
}

/* Another process holds the write lock: who asks for work that is not there is answered at once. */
static void test_P05_asking_for_nothing_takes_no_lock(void **state)
{
    struct place *place = *state;
    struct fan_store *store = store_open(place->uri);
    struct fan_batch *batch = batch_new();
    const struct fan_group_name name = { "mail", "" };
    const struct fan_group_options group = { .size = FAN_GROUP_OPTIONS_SIZE, .pattern = "a.*" };
    struct fan_claim_options options = { .size = FAN_CLAIM_OPTIONS_SIZE, .owner = "me" };
    struct fan_claim claim;
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(place->path, &db), SQLITE_OK);
    assert_int_equal(fan_group_create(store, &name, &group, NULL), FAN_OK);
    store_say(store, "a.b", NULL);
    assert_int_equal(fan_group_claim(store, &name, &options, batch, &claim), FAN_OK);
    struct fan_settle settle = {
        .seq = claim.seq, .token = claim.token, .verdict = FAN_VERDICT_RETRY, .delay_ms = 1000000
    };
    assert_int_equal(fan_group_settle(store, &name, &settle, 1), FAN_OK);
    store_say(store, "of.nobody", NULL);
    /* The first claim after it moves the cursor. */
    assert_int_equal(fan_group_claim(store, &name, &options, batch, &claim), FAN_AGAIN);
    assert_int_equal(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    for (int i = 0; i < 100; i++)
        assert_int_equal(fan_group_claim(store, &name, &options, batch, &claim), FAN_AGAIN);
    assert_int_equal(sqlite3_exec(db, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
    /* What is due, and what is there for the first time, is found. */
    store_say(store, "a.b", NULL);
    assert_int_equal(fan_group_claim(store, &name, &options, batch, &claim), FAN_OK);
    settle = (struct fan_settle){ .seq = claim.seq,
                                  .token = claim.token,
                                  .verdict = FAN_VERDICT_HAND_BACK };
    assert_int_equal(fan_group_settle(store, &name, &settle, 1), FAN_OK);
    assert_int_equal(fan_group_claim(store, &name, &options, batch, &claim), FAN_OK);
    fan_batch_free(batch);
    fan_store_close(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        at_a_place(test_P01_every_field_comes_back),
        at_a_place(test_P05_asking_for_nothing_takes_no_lock),
        at_a_place(test_P24_a_clean_close_leaves_one_file),
        at_a_place(test_L10_the_head_never_goes_back),
        at_a_place(test_P24_a_newer_format_is_refused),
        at_a_place(test_P07_what_is_no_log_is_told_and_left_alone),
        at_a_place(test_P07_paths_that_cannot_be),
        at_a_place(test_P05_a_damaged_log_is_told),
        at_a_place(test_P05_damage_among_the_events_is_told),
        at_a_place(test_R01_a_log_that_was_deleted_takes_no_events),
        at_a_place(test_P05_durability_is_promised_as_opened),
        at_a_place(test_L12_the_journal_starts_anew_under_a_busy_writer),
        at_a_place(test_R03_a_forked_child_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
