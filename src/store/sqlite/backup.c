/*
 * Copies of the log. A backup copies pages out of one snapshot, on a connection of its own: commits
 * go on, and only the write-ahead log cannot start anew until the snapshot ends. A restore copies
 * the file and makes another log of it.
 *
 * Both write a draft beside the target, sync it, and then give it its name, which must be free: a
 * target is whole or not there, also after a crash. Who writes a draft has it locked (flock), so
 * that one without a lock was left by a process that died, and goes with the next draft in its
 * folder. The folder is locked while drafts come and go.
 *
 * Files that may be a log are opened by SQLite alone: POSIX locks are the process's, and to close
 * such a file by another descriptor would take away those of a log that is open.
 */
#include "store/sqlite/store.h"

#include "base/env.h"
#include "base/status.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define STEP_PAGES 2048
#define COPY_SIZE (1 << 18)
#define NAME_SIZE 1024
#define DRAFT_ENDING ".fanfare-part"

/* Claims of the old log's time must not speak for any of the restored one's. */
#define TOKENS_APART "4294967296"

/* The first 100 bytes of every SQLite database; numbers are big-endian. */
#define HEADER_SIZE 100
#define HEADER_MAGIC "SQLite format 3"
#define HEADER_USER_VERSION 60
#define HEADER_APPLICATION_ID 68

/* A file under its temporary name, which stays locked while it is written. */
struct draft {
    const char *path;
    char name[NAME_SIZE];
    mode_t mode;
    int fd;
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
        char name[NAME_SIZE];
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

/* Opens the folder of a path with a lock on it, which goes with closedir. */
static enum fan_status lock_folder(const char *path, DIR **ret_folder, struct fan_error *error)
{
    char name[NAME_SIZE];
    fan__sqlite_folder_of(path, name, sizeof(name));
    DIR *folder = opendir(name);
    if (!folder)
        return file_failed(name, error);
    while (flock(dirfd(folder), LOCK_EX) != 0 && errno == EINTR)
        ;
    *ret_folder = folder;
    return FAN_OK;
}

/* What SQLite keeps beside a database that is open. */
static void remove_beside(int folder, const char *name)
{
    static const char *const endings[] = { "-wal", "-shm", "-journal" };
    for (size_t i = 0; i < sizeof(endings) / sizeof(*endings); i++) {
        char beside[NAME_SIZE];
        snprintf(beside, sizeof(beside), "%s%s", name, endings[i]);
        (void)unlinkat(folder, beside, 0);
    }
}

static void remove_left_over(int folder, const char *name)
{
    struct stat info;
    int fd = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return;
    if (fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && flock(fd, LOCK_EX | LOCK_NB) == 0) {
        (void)unlinkat(folder, name, 0);
        remove_beside(folder, name);
    }
    close(fd);
}

static void remove_left_overs(DIR *folder)
{
    for (const struct dirent *entry; (entry = readdir(folder));) {
        size_t size = strlen(entry->d_name);
        size_t ending = strlen(DRAFT_ENDING);
        if (size > ending && strcmp(entry->d_name + size - ending, DRAFT_ENDING) == 0)
            remove_left_over(dirfd(folder), entry->d_name);
    }
}

static enum fan_status draft_create(struct draft *draft, struct fan_error *error)
{
    draft->fd = open(draft->name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, draft->mode);
    if (draft->fd < 0 && errno == EEXIST)
        return fan__fail(error, FAN_UNAVAILABLE, "path", "%s is there: it is being written",
                         draft->name);
    if (draft->fd < 0)
        return file_failed(draft->name, error);
    (void)flock(draft->fd, LOCK_EX | LOCK_NB);
    return FAN_OK;
}

static enum fan_status draft_begin(struct draft *draft, struct fan_error *error)
{
    enum fan_status status = check_free(draft->path, error);
    if (status != FAN_OK)
        return status;
    int size = snprintf(draft->name, sizeof(draft->name), "%s" DRAFT_ENDING, draft->path);
    if (size + (int)strlen("-journal") >= (int)sizeof(draft->name))
        return fan__fail(error, FAN_INVALID, "path", "the path is too long");
    DIR *folder = NULL;
    status = lock_folder(draft->path, &folder, error);
    if (status != FAN_OK)
        return status;
    remove_left_overs(folder);
    status = draft_create(draft, error);
    closedir(folder);
    return status;
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

/*
 * In the locked folder. The draft is closed before it has a name by which it may be opened as a
 * log; the lock on it went with that.
 */
static enum fan_status draft_name(struct draft *draft, int folder, struct fan_error *error)
{
    close(draft->fd);
    draft->fd = -1;
    if (!give_name(draft))
        return errno == EEXIST
                   ? fan__fail(error, FAN_EXISTS, "path", "%s came to be meanwhile", draft->path)
                   : file_failed(draft->path, error);
    return fsync(folder) == 0 ? FAN_OK : file_failed(draft->path, error);
}

/* Ends a draft: under its name when `status` is FAN_OK, else gone. Gives what came of it. */
static enum fan_status draft_end(struct draft *draft, enum fan_status status,
                                 struct fan_error *error)
{
    if (draft->fd < 0)
        return status;
    if (status == FAN_OK && fsync(draft->fd) != 0)
        status = file_failed(draft->name, error);
    DIR *folder = NULL;
    if (status == FAN_OK)
        status = lock_folder(draft->path, &folder, error);
    if (status == FAN_OK)
        status = draft_name(draft, dirfd(folder), error);
    if (status != FAN_OK)
        (void)unlink(draft->name);
    if (draft->fd >= 0)
        close(draft->fd);
    if (folder)
        closedir(folder);
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
    struct draft draft = { .path = path, .mode = mode, .fd = -1 };
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

/* The file that a restore reads. */
struct source {
    const char *path;
    sqlite3 *db;
    sqlite3_file *file;
    uint64_t size;
};

static enum fan_status source_failed(const struct source *source, int code, struct fan_error *error)
{
    return copy_failed(source->path, source->db, code, error);
}

/*
 * A log in use is more than its file: what lies in its write-ahead log would be lost unseen. Who
 * has it open has a shared lock on it, also within this process.
 */
static enum fan_status check_alone(const struct source *source, struct fan_error *error)
{
    char beside[NAME_SIZE];
    struct stat info;
    const sqlite3_io_methods *methods = source->file->pMethods;
    int code = methods->xLock(source->file, SQLITE_LOCK_SHARED);
    if (code == SQLITE_OK)
        code = methods->xLock(source->file, SQLITE_LOCK_EXCLUSIVE);
    /* The lock of who does not take part in locking is not to be had: a file that is read-only. */
    bool used = code == SQLITE_BUSY;
    if (code != SQLITE_OK)
        (void)methods->xUnlock(source->file, SQLITE_LOCK_NONE);
    snprintf(beside, sizeof(beside), "%s-wal", sqlite3_db_filename(source->db, "main"));
    bool left = stat(beside, &info) == 0 && info.st_size > 0;
    if (used || left)
        return fan__fail(error, FAN_INVALID, "path",
                         "%s is a log in use, or was not closed%s%s%s: back it up first",
                         source->path, left ? " (there is " : "", left ? beside : "",
                         left ? ")" : "");
    return FAN_OK;
}

/* Refuses what is certainly no backup, before anything is made of it. */
static enum fan_status check_header(const struct source *source, struct fan_error *error)
{
    unsigned char header[HEADER_SIZE] = { 0 };
    const char *path = source->path;
    if (source->size >= HEADER_SIZE) {
        int code = source->file->pMethods->xRead(source->file, header, HEADER_SIZE, 0);
        if (code != SQLITE_OK)
            return source_failed(source, code, error);
    }
    if (memcmp(header, HEADER_MAGIC, sizeof(HEADER_MAGIC)) != 0)
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

static enum fan_status source_open(struct source *source, struct fan_error *error)
{
    struct stat info;
    if (stat(source->path, &info) != 0)
        return file_failed(source->path, error);
    if (!S_ISREG(info.st_mode))
        return fan__fail(error, FAN_INVALID, "path", "%s is no regular file", source->path);
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE;
    int code = sqlite3_open_v2(source->path, &source->db, flags, NULL);
    if (code == SQLITE_OK)
        code = sqlite3_file_control(source->db, "main", SQLITE_FCNTL_FILE_POINTER, &source->file);
    sqlite3_int64 size = 0;
    if (code == SQLITE_OK)
        code = source->file->pMethods->xFileSize(source->file, &size);
    source->size = (uint64_t)size;
    if (code != SQLITE_OK)
        return source_failed(source, code, error);
    enum fan_status status = check_alone(source, error);
    return status == FAN_OK ? check_header(source, error) : status;
}

static void source_close(struct source *source)
{
    if (source->file)
        (void)source->file->pMethods->xUnlock(source->file, SQLITE_LOCK_NONE);
    sqlite3_close(source->db);
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

static enum fan_status copy_bytes(const struct fan__sqlite *store, const struct source *source,
                                  const struct draft *draft, struct fan_error *error)
{
    char *data = fan__alloc(store->env, COPY_SIZE);
    if (!data)
        return fan__fail(error, FAN_NO_MEMORY, NULL, "no memory for the copy");
    enum fan_status status = FAN_OK;
    for (uint64_t at = 0; status == FAN_OK && at < source->size; at += COPY_SIZE) {
        uint64_t left = source->size - at;
        int size = left < COPY_SIZE ? (int)left : COPY_SIZE;
        int code = source->file->pMethods->xRead(source->file, data, size, (sqlite3_int64)at);
        if (code != SQLITE_OK)
            status = source_failed(source, code, error);
        else if (!write_all(draft->fd, data, (size_t)size))
            status = file_failed(draft->name, error);
    }
    fan__free(store->env, data);
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
    /* However long ago the backup was made: a leap of the clock would keep retention from all. */
    fan__sqlite_clock_take(store);
    return fan__sqlite_write_end(store, FAN_OK, 0, error);
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
    remove_beside(AT_FDCWD, draft->name);
    return status;
}

static enum fan_status copy_and_make(struct fan__sqlite *store, struct draft *draft,
                                     const char *path, struct fan_error *error)
{
    struct source source = { .path = path };
    enum fan_status status = source_open(&source, error);
    if (status == FAN_OK)
        status = draft_begin(draft, error);
    if (status == FAN_OK)
        status = copy_bytes(store, &source, draft, error);
    source_close(&source);
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
    char *from = fan__sqlite_path_of(env, path);
    struct stat info;
    mode_t mode = stat(path, &info) == 0 ? info.st_mode & 0666 : 0600;
    struct draft draft = { .path = target, .mode = mode, .fd = -1 };
    if (from) {
        status = copy_and_make(store, &draft, from, error);
        status = draft_end(&draft, status, error);
    } else {
        fan__sqlite_close(store);
        status = fan__fail(error, FAN_NO_MEMORY, NULL, "no memory for the path");
    }
    fan__free(env, from);
    fan__free(env, target);
    return status;
}
