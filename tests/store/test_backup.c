/* P24: backups, restores and verifying, on the SQLite log. */
#include "../seed.h"
#include "sqlite_support.h"

#include <fanfare/keep.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/wait.h>

static const struct fan_group_name group = { .group = "g", .handler = "h" };

static void path_in(const struct place *place, const char *name, char path[160])
{
    snprintf(path, 160, "%s/%s", place->folder, name);
}

/* A log with a bit of everything: done, dead, claimed, pending and unseen, keys, units, users. */
static void fill(struct fan_store *store, size_t count)
{
    struct fan_group_options options = { .size = FAN_GROUP_OPTIONS_SIZE };
    assert_ok(fan_group_create(store, &group, &options, NULL));
    char topic[16];
    for (size_t i = 0; i < count; i++) {
        snprintf(topic, sizeof(topic), "topic-%zu", i % 7);
        struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE,
                                         .type = i % 3 ? "a.b.c" : "x.y",
                                         .topic = topic,
                                         .user_id = (int64_t)(i % 5),
                                         .payload = FAN_STR("{\"some\": [1, 2, 3]}") };
        assert_ok(store_add(store, &draft, NULL));
    }
    struct fan_expectation none = { .size = sizeof(none), .key = "alone" };
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "k", .topic = "alone" };
    struct fan_event *event = event_of(&draft);
    struct fan_append item = { .event = event, .expectation = &none };
    assert_ok(fan_store_append(store, &item, 1, NULL));
    fan_event_free(event, NULL);
    struct fan_claim claims[8];
    struct fan_batch *batch = batch_new();
    struct fan_claim_options claim = { .size = FAN_CLAIM_OPTIONS_SIZE, .owner = "me", .limit = 8 };
    assert_ok(fan_group_claim(store, &group, &claim, batch, claims));
    for (size_t i = 0; i < 6; i++) {
        struct fan_settle settle = {
            .seq = claims[i].seq, .token = claims[i].token, .verdict = i % 3, .error = "words"
        };
        assert_ok(fan_group_settle(store, &group, &settle, 1));
    }
    fan_batch_free(batch);
}

struct findings {
    size_t count;
    char text[2048];
};

static bool note(void *context, const struct fan_finding *finding)
{
    struct findings *findings = context;
    size_t size = strlen(findings->text);
    assert_true(finding->size == sizeof(*finding) && *finding->part && *finding->words);
    findings->count++;
    snprintf(findings->text + size, sizeof(findings->text) - size, "%s %llu: %s\n", finding->part,
             (unsigned long long)finding->seq, finding->words);
    return findings->count < 1000;
}

static enum fan_status verify(struct fan_store *store, struct findings *ret_findings)
{
    struct fan_error error = FAN_ERROR_INIT;
    *ret_findings = (struct findings){ .count = 0 };
    enum fan_status status = fan_store_verify(store, note, ret_findings, &error);
    assert_int_equal(status == FAN_CORRUPT, ret_findings->count > 0);
    return status;
}

static void assert_sound(struct fan_store *store)
{
    struct findings findings;
    if (verify(store, &findings) != FAN_OK)
        fail_msg("%s", findings.text);
}

static void restore_uri(const char *path, char uri[200])
{
    int size = snprintf(uri, 200, "sqlite:%s", path);
    assert_true(size < 200);
}

static void test_P24_a_restored_log_is_the_log_with_an_epoch_of_its_own(void **state)
{
    const struct place *place = *state;
    struct fan_store *store = store_open(place->uri);
    fill(store, 100);
    char copy[160];
    char target[160];
    char uri[200];
    path_in(place, "copy", copy);
    path_in(place, "again.db", target);
    restore_uri(target, uri);
    struct fan_error error = FAN_ERROR_INIT;
    assert_ok(fan_store_backup(store, copy, &error));
    uint64_t fence = 0;
    assert_ok(fan_lease_acquire(store, "l", "me", 1000, &fence));
    assert_ok(fan_store_restore(copy, uri, NULL, &error));

    struct fan_store *again = store_open(uri);
    assert_true(fan_store_epoch(again) != fan_store_epoch(store));
    assert_sound(again);
    struct fan_query query = { .size = FAN_QUERY_SIZE };
    struct fan_batch *left = batch_new();
    struct fan_batch *right = batch_new();
    struct fan_read_result result;
    assert_ok(fan_store_read(store, 0, &query, left, &result));
    assert_ok(fan_store_read(again, 0, &query, right, &result));
    assert_int_equal(fan_batch_count(left), 101);
    assert_int_equal(fan_batch_count(right), 101);
    for (size_t i = 0; i < 101; i++) {
        const struct fan_event *event = fan_batch_event(left, i);
        assert_memory_equal(event, fan_batch_event(right, i), fan_event_size(event));
    }
    struct fan_store_stats before = { .size = sizeof(before) };
    struct fan_store_stats after = { .size = sizeof(after) };
    assert_ok(fan_store_stats(store, &before));
    assert_ok(fan_store_stats(again, &after));
    before.bytes = after.bytes = 0;
    assert_memory_equal(&before, &after, sizeof(before));
    /* What the old log gave out after the backup means nothing here. */
    uint64_t other = 0;
    assert_ok(fan_lease_acquire(again, "m", "me", 1000, &other));
    assert_true(other > fence + 1000000);
    fan_batch_free(left);
    fan_batch_free(right);
    fan_store_close(again);
    fan_store_close(store);
}

static void test_P24_a_backup_never_overwrites(void **state)
{
    const struct place *place = *state;
    struct fan_store *store = store_open(place->uri);
    char copy[160];
    path_in(place, "copy", copy);
    struct fan_error error = FAN_ERROR_INIT;
    assert_ok(fan_store_backup(store, copy, NULL));
    assert_int_equal(fan_store_backup(store, copy, &error), FAN_EXISTS);
    assert_non_null(strstr(error.message, copy));
    assert_int_equal(fan_store_backup(store, place->path, &error), FAN_EXISTS);
    path_in(place, "no/such/folder", copy);
    assert_int_equal(fan_store_backup(store, copy, &error), FAN_INVALID);
    assert_non_null(strstr(error.message, "No such file"));
    assert_int_equal(fan_store_backup(store, "", &error), FAN_INVALID);
    /* Nor does a restore. */
    path_in(place, "copy", copy);
    assert_int_equal(fan_store_restore(copy, place->uri, NULL, &error), FAN_EXISTS);
    assert_non_null(strstr(error.message, "is there already"));
    assert_sound(store);
    fan_store_close(store);
}

static void write_file(const char *path, const void *bytes, size_t size)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

static char *read_file(const char *path, size_t *ret_size)
{
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    *ret_size = (size_t)ftell(file);
    rewind(file);
    char *bytes = test_malloc(*ret_size);
    assert_int_equal(fread(bytes, 1, *ret_size, file), *ret_size);
    fclose(file);
    return bytes;
}

static size_t count_files(const char *folder)
{
    DIR *entries = opendir(folder);
    assert_non_null(entries);
    size_t count = 0;
    while (readdir(entries))
        count++;
    closedir(entries);
    return count;
}

static void test_P24_what_is_no_sound_backup_is_refused_and_leaves_nothing(void **state)
{
    const struct place *place = *state;
    struct fan_store *store = store_open(place->uri);
    fill(store, 50);
    char copy[160];
    char bad[160];
    char target[160];
    char uri[200];
    path_in(place, "copy", copy);
    path_in(place, "bad", bad);
    path_in(place, "target.db", target);
    restore_uri(target, uri);
    assert_ok(fan_store_backup(store, copy, NULL));
    fan_store_close(store);
    size_t size;
    char *bytes = read_file(copy, &size);
    struct fan_error error = FAN_ERROR_INIT;
    write_file(bad, "", 0);
    size_t files = count_files(place->folder);

    assert_int_equal(fan_store_restore(bad, uri, NULL, &error), FAN_CORRUPT);
    write_file(bad, "something else that is long enough to look at, but no database", 62);
    assert_int_equal(fan_store_restore(bad, uri, NULL, &error), FAN_CORRUPT);
    assert_non_null(strstr(error.message, "no backup"));
    write_file(bad, bytes, size / 2);
    assert_int_equal(fan_store_restore(bad, uri, NULL, &error), FAN_CORRUPT);
    char changed = bytes[63];
    bytes[63] = 99;
    write_file(bad, bytes, size);
    assert_int_equal(fan_store_restore(bad, uri, NULL, &error), FAN_TOO_NEW);
    bytes[63] = changed;
    bytes[68] ^= 1;
    write_file(bad, bytes, size);
    assert_int_equal(fan_store_restore(bad, uri, NULL, &error), FAN_CORRUPT);
    assert_non_null(strstr(error.message, "another program"));
    bytes[68] ^= 1;
    memset(bytes + size / 4, 0x5a, size / 2);
    write_file(bad, bytes, size);
    assert_int_equal(fan_store_restore(bad, uri, NULL, &error), FAN_CORRUPT);
    path_in(place, "none", bad);
    assert_int_equal(fan_store_restore(bad, uri, NULL, &error), FAN_INVALID);
    assert_int_equal(fan_store_restore(copy, "memory:", NULL, &error), FAN_UNSUPPORTED);
    assert_int_equal(fan_store_restore(copy, "what:", NULL, &error), FAN_INVALID);
    assert_int_equal(count_files(place->folder), files);
    assert_ok(fan_store_restore(copy, uri, NULL, &error));
    test_free(bytes);
}

static void test_P24_a_log_in_use_is_no_backup(void **state)
{
    const struct place *place = *state;
    struct fan_store *store = store_open(place->uri);
    fill(store, 20);
    char target[160];
    char uri[200];
    path_in(place, "target.db", target);
    restore_uri(target, uri);
    struct fan_error error = FAN_ERROR_INIT;
    assert_int_equal(fan_store_restore(place->path, uri, NULL, &error), FAN_INVALID);
    assert_non_null(strstr(error.message, "in use"));
    fan_store_close(store);
}

/* What another process sees of this one's lock on a log, which says that the log is in use. */
static bool is_locked(const char *path)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct flock lock = {
            .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0x40000002, .l_len = 510
        };
        int fd = open(path, O_RDWR | O_CLOEXEC);
        _exit(fd < 0 || fcntl(fd, F_GETLK, &lock) != 0 ? 2 : lock.l_type != F_UNLCK);
    }
    int result = 0;
    assert_int_equal(waitpid(child, &result, 0), child);
    assert_true(WIFEXITED(result) && WEXITSTATUS(result) < 2);
    return WEXITSTATUS(result) == 1;
}

/*
 * POSIX locks belong to the process and go with the first descriptor of the file that it closes:
 * whatever looks at an open log by its file must not take them away, whichever name it goes by.
 */
static void test_P24_a_log_that_this_process_has_open_keeps_its_locks(void **state)
{
    const struct place *place = *state;
    char symbolic[160];
    char hard[160];
    char target[160];
    char uri[200];
    path_in(place, "symbolic", symbolic);
    path_in(place, "hard", hard);
    path_in(place, "target.db", target);
    restore_uri(target, uri);
    assert_int_equal(symlink(place->path, symbolic), 0);
    fan_store_close(store_open(place->uri));
    assert_int_equal(link(place->path, hard), 0);
    assert_int_equal(unlink(hard), 0);
    /* Nothing was written since it was opened: there is nothing in its write-ahead log either. */
    struct fan_store *store = store_open(place->uri);
    assert_true(is_locked(place->path));
    assert_int_equal(link(place->path, hard), 0);
    const char *const names[] = { place->path, symbolic, hard };
    struct fan_error error = FAN_ERROR_INIT;
    for (size_t i = 0; i < 3; i++) {
        char over[200];
        restore_uri(names[i], over);
        assert_int_equal(fan_store_restore(names[i], uri, NULL, &error), FAN_INVALID);
        assert_non_null(strstr(error.message, "in use"));
        assert_true(is_locked(place->path));
        assert_int_equal(fan_store_restore(names[i], over, NULL, &error), FAN_INVALID);
        assert_true(is_locked(place->path));
        assert_int_equal(fan_store_backup(store, names[i], &error), FAN_EXISTS);
        assert_true(is_locked(place->path));
    }
    assert_int_equal(unlink(hard), 0);
    assert_sound(store);
    assert_true(is_locked(place->path));
    assert_int_equal(access(target, F_OK), -1);
    assert_int_equal(fan_store_backup(store, target, &error), FAN_OK);
    assert_true(is_locked(place->path));
    fan_store_close(store);
    assert_false(is_locked(place->path));
    /* In no use any more it is as good as a backup of it. */
    assert_int_equal(unlink(target), 0);
    assert_ok(fan_store_restore(symbolic, uri, NULL, &error));
}

static void test_P24_one_log_by_two_paths_is_one_log(void **state)
{
    const struct place *place = *state;
    char symbolic[160];
    char hard[160];
    char uri[200];
    path_in(place, "symbolic", symbolic);
    path_in(place, "hard", hard);
    struct fan_store *store = store_open(place->uri);
    assert_int_equal(symlink(place->path, symbolic), 0);
    restore_uri(symbolic, uri);
    struct fan_store *other = store_open(uri);
    for (uint64_t i = 1; i <= 20; i += 2) {
        assert_int_equal(store_say(store, "a.b", "t"), i);
        assert_int_equal(store_say(other, "a.b", "t"), i + 1);
    }
    fan_store_close(other);
    assert_true(is_locked(place->path));
    assert_int_equal(store_say(store, "a.b", "t"), 21);
    assert_sound(store);
    /* By a second name the file has a second write-ahead log, and then two who damage it. */
    assert_int_equal(link(place->path, hard), 0);
    restore_uri(hard, uri);
    struct fan_error error = FAN_ERROR_INIT;
    assert_int_equal(fan_store_open(uri, NULL, &other, &error), FAN_INVALID);
    assert_non_null(strstr(error.message, "2 names (hard links)"));
    assert_true(is_locked(place->path));
    assert_int_equal(unlink(hard), 0);
    assert_int_equal(store_say(store, "a.b", "t"), 22);
    fan_store_close(store);
}

/* An environment that sends its process a signal at a certain call. */
struct ambush {
    struct fan_env env;
    int on_resize;
    int on_random;
};

static void *ambush_resize(void *context, void *pointer, size_t size)
{
    struct ambush *ambush = context;
    int signal = ambush->on_resize;
    ambush->on_resize = 0;
    if (signal)
        raise(signal);
    return realloc(pointer, size); // NOLINT(*-realloc-usage): as the default
}

static void ambush_random(void *context, void *bytes, size_t size)
{
    const struct ambush *ambush = context;
    if (ambush->on_random)
        raise(ambush->on_random);
    memset(bytes, 7, size);
}

/* Backs up, or restores, in a child that gets the signal when it has begun with the draft. */
static pid_t ambushed(const struct place *place, const char *path, const char *uri, int signal)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child > 0)
        return child;
    struct ambush ambush = { .env = *fan_env_default() };
    ambush.env.context = &ambush;
    ambush.env.resize = ambush_resize;
    ambush.env.random = ambush_random;
    struct fan_store *store = NULL;
    if (uri) {
        ambush.on_random = signal;
        _exit(fan_store_restore(path, uri, &ambush.env, NULL) == FAN_OK ? 0 : 1);
    }
    if (fan_store_open(place->uri, &ambush.env, &store, NULL) != FAN_OK)
        _exit(2);
    ambush.on_resize = signal;
    enum fan_status status = fan_store_backup(store, path, NULL);
    fan_store_close(store);
    _exit(status == FAN_OK ? 0 : 1);
}

static void killed_by_ambush(pid_t child)
{
    int result = 0;
    assert_int_equal(waitpid(child, &result, 0), child);
    assert_true(WIFSIGNALED(result) && WTERMSIG(result) == SIGKILL);
}

/* Sanitizers want no threads around a fork: the log is open only for as long as a backup takes. */
static enum fan_status back_up(const struct place *place, const char *path, struct fan_error *error)
{
    struct fan_store *store = store_open(place->uri);
    enum fan_status status = fan_store_backup(store, path, error);
    fan_store_close(store);
    return status;
}

static void make_filled(const struct place *place)
{
    struct fan_store *store = store_open(place->uri);
    fill(store, 50);
    fan_store_close(store);
}

static void test_P24_what_a_killed_backup_leaves_goes_with_the_next(void **state)
{
    const struct place *place = *state;
    make_filled(place);
    char copy[160];
    char other[160];
    char part[160];
    char uri[200];
    path_in(place, "copy", copy);
    path_in(place, "other", other);
    path_in(place, "copy.fanfare-part", part);
    size_t files = count_files(place->folder);
    killed_by_ambush(ambushed(place, copy, NULL, SIGKILL));
    assert_int_equal(access(part, F_OK), 0);
    assert_ok(back_up(place, copy, NULL));
    assert_int_equal(count_files(place->folder), files + 1);
    /* One to another file of the folder cleans up, too, and so does a restore. */
    restore_uri(other, uri);
    killed_by_ambush(ambushed(place, copy, uri, SIGKILL));
    assert_true(count_files(place->folder) >= files + 2);
    path_in(place, "third", other);
    assert_ok(back_up(place, other, NULL));
    assert_int_equal(count_files(place->folder), files + 2);
    killed_by_ambush(ambushed(place, copy, uri, SIGKILL));
    assert_ok(fan_store_restore(copy, uri, NULL, NULL));
    assert_int_equal(count_files(place->folder), files + 3);
}

static void test_P24_a_backup_under_way_is_left_alone(void **state)
{
    const struct place *place = *state;
    make_filled(place);
    char copy[160];
    char other[160];
    char part[160];
    path_in(place, "copy", copy);
    path_in(place, "other", other);
    path_in(place, "copy.fanfare-part", part);
    pid_t child = ambushed(place, copy, NULL, SIGSTOP);
    int result = 0;
    assert_int_equal(waitpid(child, &result, WUNTRACED), child);
    assert_true(WIFSTOPPED(result));
    assert_int_equal(access(part, F_OK), 0);
    struct fan_error error = FAN_ERROR_INIT;
    assert_int_equal(back_up(place, copy, &error), FAN_UNAVAILABLE);
    assert_non_null(strstr(error.message, "copy.fanfare-part is there"));
    assert_ok(back_up(place, other, NULL));
    assert_int_equal(access(part, F_OK), 0);
    assert_int_equal(kill(child, SIGCONT), 0);
    assert_int_equal(waitpid(child, &result, 0), child);
    assert_true(WIFEXITED(result) && WEXITSTATUS(result) == 0);
    assert_int_equal(access(copy, F_OK), 0);
    assert_int_equal(access(part, F_OK), -1);
}

/* Appends until told to end; all it appended is one more event of one topic each. */
struct writer {
    struct fan_store *store;
    pthread_mutex_t mutex;
    bool end;
    uint64_t last_seq;
};

static void *write_on(void *context)
{
    struct writer *writer = context;
    for (bool end = false; !end;) {
        uint64_t seq = store_say(writer->store, "w.r.t", "busy");
        pthread_mutex_lock(&writer->mutex);
        writer->last_seq = seq;
        end = writer->end;
        pthread_mutex_unlock(&writer->mutex);
    }
    return NULL;
}

static uint64_t written(struct writer *writer)
{
    pthread_mutex_lock(&writer->mutex);
    uint64_t seq = writer->last_seq;
    pthread_mutex_unlock(&writer->mutex);
    return seq;
}

static void test_P24_backup_and_verify_work_while_events_come_in(void **state)
{
    const struct place *place = *state;
    char uri[240];
    snprintf(uri, sizeof(uri), "%s?synchronous=normal&checkpoint_frames=100", place->uri);
    struct writer writer = { .store = store_open(uri) };
    fill(writer.store, 200);
    pthread_mutex_init(&writer.mutex, NULL);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, write_on, &writer), 0);
    for (int round = 0; round < 4; round++) {
        char copy[160];
        char target[160];
        char name[32];
        snprintf(name, sizeof(name), "copy-%d", round);
        path_in(place, name, copy);
        snprintf(name, sizeof(name), "log-%d.db", round);
        path_in(place, name, target);
        restore_uri(target, uri);
        uint64_t before = written(&writer);
        while (written(&writer) == before)
            sched_yield();
        uint64_t sure = written(&writer);
        struct fan_error error = FAN_ERROR_INIT;
        if (fan_store_backup(writer.store, copy, &error) != FAN_OK)
            fail_msg("%s", error.message);
        assert_sound(writer.store);
        if (fan_store_restore(copy, uri, NULL, &error) != FAN_OK)
            fail_msg("%s", error.message);
        struct fan_store *again = store_open(uri);
        uint64_t head_seq = 0;
        assert_ok(fan_store_head(again, &head_seq));
        struct fan_store_stats stats = { .size = sizeof(stats) };
        assert_ok(fan_store_stats(again, &stats));
        assert_true(head_seq >= sure);
        assert_int_equal(stats.events, head_seq);
        fan_store_close(again);
    }
    pthread_mutex_lock(&writer.mutex);
    writer.end = true;
    pthread_mutex_unlock(&writer.mutex);
    pthread_join(thread, NULL);
    pthread_mutex_destroy(&writer.mutex);
    assert_sound(writer.store);
    fan_store_close(writer.store);
}

static void harm(const struct place *place, const char *sql)
{
    sqlite3 *db = NULL;
    char *message = NULL;
    assert_int_equal(sqlite3_open(place->path, &db), SQLITE_OK);
    if (sqlite3_exec(db, sql, NULL, NULL, &message) != SQLITE_OK)
        fail_msg("%s: %s", sql, message);
    sqlite3_close(db);
}

static void test_P24_verify_finds_what_is_wrong(void **state)
{
    struct place *place = *state;
    static const struct {
        const char *sql;
        const char *found;
    } harms[] = {
        { "UPDATE event_block SET count = count + 1", "block 0: counts 92" },
        { "UPDATE event_block SET t_max = t_min - 1", "does not span" },
        { "DELETE FROM event_block", "has no row" },
        { "DROP TRIGGER event_deleted; DELETE FROM event WHERE seq = 3", "counts" },
        { "DROP TRIGGER event_deleted; DELETE FROM event WHERE seq = 3",
          "delivery 3: is of an event that is not there" },
        { "INSERT INTO delivery(seq, grp, status, attempts, token, due_us) "
          "VALUES(4, 77, 0, 0, 0, 0)",
          "delivery 4: is of the group 77" },
        { "UPDATE delivery SET status = 9 WHERE seq = 2", "delivery 2: has the status 9" },
        { "UPDATE grp SET completed = 50", "g/h counts 50 completed" },
        { "UPDATE grp SET ahead = 3", "g/h counts 3 deliveries past" },
        { "UPDATE grp SET cursor = 1000", "g/h has its cursor past the head" },
        { "UPDATE event SET payload = '{\"some\": ' WHERE seq = 7",
          "event 7: is not legal: payload" },
        { "UPDATE event SET created_us = 0 WHERE seq = 7", "event 7: has no time" },
        { "UPDATE event SET traceparent = 'nonsense' WHERE seq = 8", "event 8: is not legal" },
        { "UPDATE event SET series = 500 WHERE seq = 9", "event 9: cannot be rebuilt" },
        { "UPDATE series SET source = 'moon'", "has no source" },
        { "UPDATE series SET type = 'a..b'", "is not legal: type" },
        { "DELETE FROM meta WHERE key = 'fence'", "meta 0: fence is not there" },
        { "UPDATE meta SET value = 0 WHERE key = 'epoch'", "epoch is 0" },
        { "UPDATE meta SET value = 1000 WHERE key = 'trimmed_seq'", "past the head" },
        { "UPDATE key SET last_seq = 2", "key 2: is called the last" },
        { "INSERT INTO mark(seq, us, bytes) VALUES(2, 1, 1), (3, 0, 1)", "mark 3: has less time" },
        { "INSERT INTO mark(seq, us, bytes) VALUES(5000, 9223372036854775807, 9223372036854775807)",
          "mark 5000: lies past the head" },
        { "UPDATE event SET seq = -4 WHERE seq = 1", "event 18446744073709551612: comes after" },
    };
    for (size_t i = 0; i < sizeof(harms) / sizeof(*harms); i++) {
        snprintf(place->path, sizeof(place->path), "%s/%zu.db", place->folder, i);
        snprintf(place->uri, sizeof(place->uri), "sqlite:%s", place->path);
        struct fan_store *store = store_open(place->uri);
        fill(store, 90);
        assert_sound(store);
        harm(place, harms[i].sql);
        struct findings findings;
        assert_int_equal(verify(store, &findings), FAN_CORRUPT);
        if (!strstr(findings.text, harms[i].found))
            fail_msg("%s: expected '%s' in: %s", harms[i].sql, harms[i].found, findings.text);
        fan_store_close(store);
    }
}

static bool stop_at_once(void *context, const struct fan_finding *finding)
{
    (void)finding;
    ++*(size_t *)context;
    return false;
}

static void test_P24_a_visitor_ends_the_search(void **state)
{
    const struct place *place = *state;
    struct fan_store *store = store_open(place->uri);
    fill(store, 30);
    harm(place, "UPDATE event SET created_us = 0");
    size_t count = 0;
    assert_int_equal(fan_store_verify(store, stop_at_once, &count, NULL), FAN_CORRUPT);
    assert_int_equal(count, 1);
    fan_store_close(store);
}

static void test_P24_a_log_without_its_epoch_is_refused(void **state)
{
    const struct place *place = *state;
    struct fan_store *store = store_open(place->uri);
    fill(store, 3);
    fan_store_close(store);
    harm(place, "DELETE FROM meta WHERE key = 'epoch'");
    struct fan_error error = FAN_ERROR_INIT;
    assert_int_equal(fan_store_open(place->uri, NULL, &store, &error), FAN_CORRUPT);
    assert_non_null(strstr(error.message, "the log has no epoch"));
}

static uint64_t random_next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Uses a damaged log as a server would: it may refuse, and must not fall. */
static void use_damaged(struct fan_store *store)
{
    struct fan_batch *batch = batch_new();
    struct fan_event_state *states = test_calloc(100, sizeof(*states));
    struct fan_query query = { .size = FAN_QUERY_SIZE, .limit = 100, .pattern = "a.>" };
    struct fan_read_result result;
    struct fan_store_stats stats = { .size = sizeof(stats) };
    (void)!fan_store_read(store, 0, &query, batch, &result);
    (void)!fan_store_list(store, &query, batch, states, NULL);
    (void)!fan_store_stats(store, &stats);
    fan_batch_free(batch);
    test_free(states);
}

static void test_P24_random_damage_is_found_or_harmless(void **state)
{
    const struct place *place = *state;
    uint64_t random = test_seed();
    random += random == 0;
    print_message("# FANFARE_SEED=%" PRIu64 "\n", random);
    int rounds = test_is_soak() ? 5000 : 250;
    struct fan_store *store = store_open(place->uri);
    fill(store, 300);
    char copy[160];
    char path[160];
    char uri[200];
    path_in(place, "copy", copy);
    assert_ok(fan_store_backup(store, copy, NULL));
    fan_store_close(store);
    size_t size;
    char *bytes = read_file(copy, &size);
    char *damaged = test_malloc(size);
    size_t found = 0;
    for (int round = 0; round < rounds; round++) {
        memcpy(damaged, bytes, size);
        size_t flips = 1 + random_next(&random) % 64;
        for (size_t i = 0; i < flips; i++)
            damaged[random_next(&random) % size] = (char)random_next(&random);
        snprintf(path, sizeof(path), "%s/damaged.db", place->folder);
        write_file(path, damaged, size);
        restore_uri(path, uri);
        struct fan_error error = FAN_ERROR_INIT;
        store = NULL;
        if (fan_store_open(uri, NULL, &store, &error) == FAN_OK) {
            struct findings findings;
            found += verify(store, &findings) != FAN_OK;
            use_damaged(store);
        } else {
            assert_true(error.message[0] != '\0');
            found++;
        }
        fan_store_close(store);
        static const char *const endings[] = { "", "-wal", "-shm" };
        for (size_t i = 0; i < 3; i++) {
            char name[200];
            snprintf(name, sizeof(name), "%s%s", path, endings[i]);
            (void)unlink(name);
        }
    }
    print_message("# %zu of %d damaged copies were found out\n", found, rounds);
    assert_true(found > (size_t)rounds / 2);
    test_free(bytes);
    test_free(damaged);
}

static void test_P24_what_a_provider_cannot_do_is_said(void **state)
{
    (void)state;
    struct fan_store *store = store_open("memory:");
    struct fan_error error = FAN_ERROR_INIT;
    assert_int_equal(fan_store_backup(store, "/tmp/never", &error), FAN_UNSUPPORTED);
    assert_string_equal(error.message, "a log in 'memory:' cannot be backed up");
    assert_int_equal(fan_store_backup(NULL, "x", &error), FAN_INVALID);
    assert_int_equal(fan_store_verify(store, NULL, NULL, &error), FAN_INVALID);
    fan_store_close(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        at_a_place(test_P24_a_restored_log_is_the_log_with_an_epoch_of_its_own),
        at_a_place(test_P24_a_backup_never_overwrites),
        at_a_place(test_P24_what_is_no_sound_backup_is_refused_and_leaves_nothing),
        at_a_place(test_P24_a_log_in_use_is_no_backup),
        at_a_place(test_P24_a_log_that_this_process_has_open_keeps_its_locks),
        at_a_place(test_P24_one_log_by_two_paths_is_one_log),
        at_a_place(test_P24_what_a_killed_backup_leaves_goes_with_the_next),
        at_a_place(test_P24_a_backup_under_way_is_left_alone),
        at_a_place(test_P24_backup_and_verify_work_while_events_come_in),
        at_a_place(test_P24_verify_finds_what_is_wrong),
        at_a_place(test_P24_a_visitor_ends_the_search),
        at_a_place(test_P24_a_log_without_its_epoch_is_refused),
        at_a_place(test_P24_random_damage_is_found_or_harmless),
        cmocka_unit_test(test_P24_what_a_provider_cannot_do_is_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
