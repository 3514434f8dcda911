/*
 * Copies of the log. A backup copies pages out of one snapshot, on a connection of its own: commits
 * go on, and only the write-ahead log cannot start anew until the snapshot ends. A restore copies
 * the file and makes another log of it.
 *
 * Both write under a temporary name beside the target, sync, and then give it its name, which must
 * be free: a target is whole or not there, also after a crash.
 */
#include "store/sqlite/store.h"

#include "base/env.h"
#include "base/status.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define STEP_PAGES 2048
#define COPY_SIZE ((size_t)1 << 18)

/* Claims of the old log's time must not speak for any of the restored one's. */
#define TOKENS_APART "4294967296"

/* The first 100 bytes of every SQLite database; numbers are big-endian. */
#define HEADER_SIZE 100
#define HEADER_MAGIC "SQLite format 3"
#define HEADER_USER_VERSION 60
#define HEADER_APPLICATION_ID 68

/* A file under its temporary name. */
struct draft {
    const struct fan_env *env;
    const char *path;
    char *name;
    mode_t mode;
};

static enum fan_status file_failed(const char *path, struct fan_error *error)
{
    int code = errno;
    enum fan_status otherwise = code == ENOENT || code == ENOTDIR ? FAN_INVALID : FAN_IO;
    enum fan_status status = fan__sqlite_map_errno(code, otherwise);
    assert(status != FAN_OK);
    return fan__fail(error, status, "path", "%s: %s", path, strerror(code));
}

/* What lies beside counts too: SQLite would play a left-over journal into the file. */
static enum fan_status check_free(const char *path, struct fan_error *error)
{
    static const char *const endings[] = { "", "-wal", "-journal" };
    for (size_t i = 0; i < sizeof(endings) / sizeof(*endings); i++) {
        char name[1024];
        struct stat info;
        int size = snprintf(name, sizeof(name), "%s%s", path, endings[i]);
        if (size >= (int)sizeof(name))
            return fan__fail(error, FAN_INVALID, "path", "the path is too long");
        if (lstat(name, &info) == 0)
            return fan__fail(error, FAN_EXISTS, "path", "%s is there already, and is left as it is",
                             name);
    }
    return FAN_OK;
}

static enum fan_status draft_begin(struct draft *draft, struct fan_error *error)
{
    enum fan_status status = check_free(draft->path, error);
    if (status != FAN_OK)
        return status;
    struct fan__buffer name;
    fan__buffer_init(&name, draft->env);
    uint32_t number;
    fan__random(draft->env, &number, sizeof(number));
    char ending[32];
    snprintf(ending, sizeof(ending), ".%08" PRIx32 ".part", number);
    fan__buffer_add_text(&name, draft->path);
    fan__buffer_add_text(&name, ending);
    draft->name = fan__buffer_take(&name, NULL);
    fan__buffer_deinit(&name);
    if (!draft->name)
        return fan__fail(error, FAN_NO_MEMORY, NULL, "no memory for the file's name");
    int fd = open(draft->name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, draft->mode);
    if (fd < 0) {
        status = file_failed(draft->name, error);
        fan__free(draft->env, draft->name);
        draft->name = NULL;
        return status;
    }
    close(fd);
    return FAN_OK;
}

static bool sync_path(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool synced = fsync(fd) == 0;
    int code = errno;
    close(fd);
    errno = code;
    return synced;
}

/* Gives the file its name, if that is free. */
static bool give_name(const struct draft *draft)
{
    if (renameat2(AT_FDCWD, draft->name, AT_FDCWD, draft->path, RENAME_NOREPLACE) == 0)
        return true;
    if (errno != EINVAL && errno != ENOSYS)
        return false;
    /* A file system that cannot refuse to replace can refuse to link. */
    return link(draft->name, draft->path) == 0 && unlink(draft->name) == 0;
}

/* Ends a draft: under its name when `status` is FAN_OK, else gone. Gives what came of it. */
static enum fan_status draft_end(struct draft *draft, enum fan_status status,
                                 struct fan_error *error)
{
    if (!draft->name)
        return status;
    char folder[1024];
    fan__sqlite_folder_of(draft->path, folder, sizeof(folder));
    if (status == FAN_OK && !sync_path(draft->name))
        status = file_failed(draft->name, error);
    if (status == FAN_OK && !give_name(draft))
        status = errno == EEXIST
                     ? fan__fail(error, FAN_EXISTS, "path", "%s came to be meanwhile", draft->path)
                     : file_failed(draft->path, error);
    if (status != FAN_OK)
        (void)unlink(draft->name);
    else if (!sync_path(folder))
        status = file_failed(folder, error);
    fan__free(draft->env, draft->name);
    draft->name = NULL;
    return status;
}

static enum fan_status copy_failed(const char *path, sqlite3 *db, int code, struct fan_error *error)
{
    return fan__fail(error, fan__sqlite_map(db, code), "path", "%s: %s", path,
                     db ? sqlite3_errmsg(db) : sqlite3_errstr(code));
}

/* Copies the snapshot that `source` stands in, page by page. */
static enum fan_status copy_snapshot(struct fan__sqlite_connection *source, const char *path,
                                     struct fan_error *error)
{
    sqlite3 *db = NULL;
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE;
    int code = sqlite3_open_v2(path, &db, flags, source->store->vfs);
    if (code == SQLITE_OK) {
        sqlite3_extended_result_codes(db, 1);
        code = sqlite3_exec(db, "PRAGMA journal_mode = OFF; PRAGMA synchronous = FULL", NULL, NULL,
                            NULL);
    }
    sqlite3_backup *backup =
        code == SQLITE_OK ? sqlite3_backup_init(db, "main", source->db, "main") : NULL;
    if (backup) {
        do
            code = sqlite3_backup_step(backup, STEP_PAGES);
        while (code == SQLITE_OK);
        int end = sqlite3_backup_finish(backup);
        code = code == SQLITE_DONE ? end : code;
    } else if (code == SQLITE_OK) {
        code = sqlite3_errcode(db);
    }
    enum fan_status status = code == SQLITE_OK ? FAN_OK : copy_failed(path, db, code, error);
    sqlite3_close(db);
    return status;
}

enum fan_status fan__sqlite_backup(void *self, const char *path, struct fan_error *error)
{
    struct fan__sqlite *store = self;
    struct stat info;
    mode_t mode = stat(store->path, &info) == 0 ? info.st_mode & 0666 : 0600;
    struct draft draft = { .env = store->env, .path = path, .mode = mode };
    enum fan_status status = draft_begin(&draft, error);
    if (status != FAN_OK)
        return status;
    struct fan__sqlite_connection *source = NULL;
    status = fan__sqlite_connect(store, &source, error);
    if (status == FAN_OK) {
        /* The first read fixes the snapshot. */
        struct fan__sqlite_bounds bounds;
        fan__sqlite_run(source, fan__sqlite_use(source, FAN__SQL_BEGIN));
        fan__sqlite_bounds(source, &bounds);
        if (source->status != FAN_OK)
            status = fan__fail(error, source->status, NULL, "%s: %s", store->path, source->message);
        else
            status = copy_snapshot(source, draft.name, error);
        fan__sqlite_disconnect(source);
    }
    return draft_end(&draft, status, error);
}

static uint32_t number_at(const unsigned char *header, size_t offset)
{
    return (uint32_t)header[offset] << 24 | (uint32_t)header[offset + 1] << 16 |
           (uint32_t)header[offset + 2] << 8 | header[offset + 3];
}

/* Refuses what is certainly no backup, before anything is made of it. */
static enum fan_status check_header(int fd, const char *path, struct fan_error *error)
{
    unsigned char header[HEADER_SIZE];
    ssize_t size = pread(fd, header, sizeof(header), 0);
    if (size < 0)
        return file_failed(path, error);
    if (size < HEADER_SIZE || memcmp(header, HEADER_MAGIC, sizeof(HEADER_MAGIC)) != 0)
        return fan__fail(error, FAN_CORRUPT, "path", "%s is no SQLite database, and no backup",
                         path);
    if (number_at(header, HEADER_APPLICATION_ID) != FAN__SQLITE_APPLICATION_ID)
        return fan__fail(error, FAN_CORRUPT, "path",
                         "%s is a database of another program, and no backup", path);
    uint32_t format = number_at(header, HEADER_USER_VERSION);
    if (format > FAN__SQLITE_FORMAT)
        return fan__fail(error, FAN_TOO_NEW, "path",
                         "%s has format %" PRIu32 ", and this library knows formats up to %d", path,
                         format, FAN__SQLITE_FORMAT);
    return FAN_OK;
}

/* A log in use is more than its file: what lies in its write-ahead log would be lost unseen. */
static enum fan_status check_alone(const char *path, struct fan_error *error)
{
    char beside[1024];
    struct stat info;
    snprintf(beside, sizeof(beside), "%s-wal", path);
    if (stat(beside, &info) == 0 && info.st_size > 0)
        return fan__fail(
            error, FAN_INVALID, "path",
            "%s is a log in use, or was not closed (there is %s-wal): back it up first", path,
            path);
    return FAN_OK;
}

static bool write_all(int fd, const char *data, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t written = write(fd, data + done, size - done);
        if (written < 0 && errno != EINTR)
            return false;
        done += written > 0 ? (size_t)written : 0;
    }
    return true;
}

static enum fan_status copy_bytes(int from, const char *path, const struct draft *draft,
                                  struct fan_error *error)
{
    int to = open(draft->name, O_WRONLY | O_CLOEXEC);
    char *data = fan__alloc(draft->env, COPY_SIZE);
    enum fan_status status = to < 0 ? file_failed(draft->name, error) : FAN_OK;
    if (status == FAN_OK && !data)
        status = fan__fail(error, FAN_NO_MEMORY, NULL, "no memory for the copy");
    while (status == FAN_OK) {
        ssize_t size = read(from, data, COPY_SIZE);
        if (size == 0)
            break;
        if (size < 0 && errno != EINTR)
            status = file_failed(path, error);
        else if (size > 0 && !write_all(to, data, (size_t)size))
            status = file_failed(draft->name, error);
    }
    fan__free(draft->env, data);
    if (to >= 0)
        close(to);
    return status;
}

struct found {
    uint64_t count;
    char first[192];
};

static bool note_finding(void *context, const struct fan_finding *finding)
{
    struct found *found = context;
    if (found->count++ == 0)
        snprintf(found->first, sizeof(found->first), "%s: %s", finding->part, finding->words);
    return true;
}

static enum fan_status check_content(struct fan__sqlite *store, const char *path,
                                     struct fan_error *error)
{
    struct found found = { .count = 0 };
    enum fan_status status = fan__sqlite_verify(store, note_finding, &found, error);
    if (status == FAN_CORRUPT && found.count > 0)
        return fan__fail(error, status, "path", "%s is damaged in %" PRIu64 " places, first %s",
                         path, found.count, found.first);
    return status;
}

/* From here on it is a log of its own: cursors, claims and fences of the old one mean nothing. */
static enum fan_status begin_epoch(struct fan__sqlite *store, struct fan_error *error)
{
    uint64_t epoch = 0;
    while (epoch == 0 || epoch == store->epoch)
        fan__random(store->env, &epoch, sizeof(epoch));
    enum fan_status status = fan__sqlite_write_begin(store, error);
    if (status != FAN_OK)
        return status;
    char sql[256];
    snprintf(sql, sizeof(sql),
             "UPDATE meta SET value = %" PRId64 " WHERE key = 'epoch';"
             "UPDATE meta SET value = value + " TOKENS_APART
             " WHERE key IN ('fence', 'token_floor');"
             "UPDATE grp SET token = token + " TOKENS_APART,
             (int64_t)epoch);
    int code = fan__sqlite_exec(store->writer, sql);
    if (code != SQLITE_OK)
        fan__sqlite_failed(store->writer, code);
    return fan__sqlite_write_end(store, FAN_OK, 0, error);
}

static void remove_beside(const char *path)
{
    static const char *const endings[] = { "-wal", "-shm", "-journal" };
    for (size_t i = 0; i < sizeof(endings) / sizeof(*endings); i++) {
        char beside[1024];
        snprintf(beside, sizeof(beside), "%s%s", path, endings[i]);
        (void)unlink(beside);
    }
}

/* Makes a log of the copy that lies under the draft's name. `store` is closed at the end. */
static enum fan_status make_log(struct fan__sqlite *store, const struct draft *draft,
                                const char *path, struct fan_error *error)
{
    store->path = fan__strdup(store->env, draft->name);
    enum fan_status status = store->path ? fan__sqlite_start(store, error)
                                         : fan__fail(error, FAN_NO_MEMORY, NULL, "no memory");
    if (status == FAN_OK)
        status = check_content(store, path, error);
    if (status == FAN_OK)
        status = begin_epoch(store, error);
    fan__sqlite_close(store);
    remove_beside(draft->name);
    return status;
}

static enum fan_status copy_and_make(struct fan__sqlite *store, struct draft *draft,
                                     const char *path, struct fan_error *error)
{
    int from = open(path, O_RDONLY | O_CLOEXEC);
    enum fan_status status = from < 0 ? file_failed(path, error) : FAN_OK;
    if (status == FAN_OK)
        status = check_alone(path, error);
    if (status == FAN_OK)
        status = check_header(from, path, error);
    if (status == FAN_OK)
        status = draft_begin(draft, error);
    if (status == FAN_OK)
        status = copy_bytes(from, path, draft, error);
    if (from >= 0)
        close(from);
    if (status == FAN_OK)
        return make_log(store, draft, path, error);
    fan__sqlite_close(store);
    return status;
}

enum fan_status fan__sqlite_restore(const char *path, const char *uri, const struct fan_env *env,
                                    struct fan_error *error)
{
    struct fan__sqlite *store = NULL;
    enum fan_status status = fan__sqlite_new(uri, env, &store, error);
    if (status != FAN_OK)
        return status;
    char *target = store->path;
    store->path = NULL;
    struct stat info;
    mode_t mode = stat(path, &info) == 0 ? info.st_mode & 0666 : 0600;
    struct draft draft = { .env = env, .path = target, .mode = mode };
    status = copy_and_make(store, &draft, path, error);
    status = draft_end(&draft, status, error);
    fan__free(env, target);
    return status;
}
