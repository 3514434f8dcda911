/*
 *     file:  durable bytes  +  writes since the last sync, in order  =  current bytes
 *
 * One lock guards everything. Locks of SQLite (of files and of shared memory) are kept per file as
 * counts, since all connections are of this process.
 */
#include "vfs_power.h"

#include <sqlite3.h>

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define FILE_COUNT_MAX 16
#define SECTOR_SIZE 512
#define SHM_LOCK_COUNT 8
#define SHM_REGION_COUNT_MAX 64

struct bytes {
    unsigned char *data;
    size_t size;
    size_t capacity;
};

/* A write, or a truncation (data is NULL). */
struct change {
    size_t at;
    size_t size;
    unsigned char *data;
};

struct file {
    char name[256];
    bool exists;  /* there is such a name */
    bool durable; /* the name survives */
    bool wal;
    struct bytes now;
    struct bytes synced;
    struct change *changes;
    size_t change_count;
    size_t change_capacity;

    unsigned shared;
    const void *reserved;
    const void *pending;
    const void *exclusive;

    void *shm[SHM_REGION_COUNT_MAX];
    size_t shm_count;
    unsigned shm_shared[SHM_LOCK_COUNT];
    bool shm_exclusive[SHM_LOCK_COUNT];
};

struct handle {
    sqlite3_file base;
    struct file *file;
    int lock;
    bool delete_on_close;
    uint8_t shm_shared;
    uint8_t shm_exclusive;
};

static struct {
    pthread_mutex_t mutex;
    struct file files[FILE_COUNT_MAX];
    uint64_t random;
    uint64_t operations;
    uint64_t cut_at;
    bool cut;
    uint64_t wal_syncs;
    uint64_t capacity;
    unsigned failing_syncs;
} disk = { .mutex = PTHREAD_MUTEX_INITIALIZER };

static uint64_t next_random(void)
{
    /* xorshift64* (Vigna, 2016). */
    disk.random ^= disk.random >> 12;
    disk.random ^= disk.random << 25;
    disk.random ^= disk.random >> 27;
    return disk.random * UINT64_C(2685821657736338717);
}

static void lock(void)
{
    pthread_mutex_lock(&disk.mutex);
}

static void unlock(void)
{
    pthread_mutex_unlock(&disk.mutex);
}

/* Counts an operation that changes the disk. False once the power is gone. */
static bool powered(void)
{
    if (!disk.cut && ++disk.operations == disk.cut_at)
        disk.cut = true;
    return !disk.cut;
}

static void resize(struct bytes *bytes, size_t size, bool garbage)
{
    if (size > bytes->capacity) {
        size_t capacity = bytes->capacity ? bytes->capacity : 4096;
        while (capacity < size)
            capacity *= 2;
        bytes->data = realloc(bytes->data, capacity);
        assert(bytes->data);
        bytes->capacity = capacity;
    }
    for (size_t i = bytes->size; i < size; i++)
        bytes->data[i] = garbage ? (unsigned char)next_random() : 0;
    bytes->size = size;
}

static void copy(struct bytes *to, const struct bytes *from)
{
    resize(to, from->size, false);
    if (from->size > 0)
        memcpy(to->data, from->data, from->size);
}

static void forget_changes(struct file *file)
{
    for (size_t i = 0; i < file->change_count; i++)
        free(file->changes[i].data);
    file->change_count = 0;
}

static void note_change(struct file *file, size_t at, const void *data, size_t size)
{
    if (file->change_count == file->change_capacity) {
        file->change_capacity = file->change_capacity ? file->change_capacity * 2 : 64;
        file->changes = realloc(file->changes, file->change_capacity * sizeof(*file->changes));
        assert(file->changes);
    }
    struct change change = { .at = at, .size = size };
    if (data) {
        change.data = malloc(size ? size : 1);
        assert(change.data);
        memcpy(change.data, data, size);
    }
    file->changes[file->change_count++] = change;
}

static void write_bytes(struct bytes *bytes, size_t at, const void *data, size_t size, bool garbage)
{
    if (at + size > bytes->size)
        resize(bytes, at + size, garbage);
    memcpy(bytes->data + at, data, size);
}

/* One write comes to the disk sector by sector, or does not. */
static void survive_write(struct bytes *bytes, const struct change *change)
{
    switch (next_random() % 4) {
    case 0:
        return;
    case 1:
        write_bytes(bytes, change->at, change->data, change->size, true);
        return;
    default:
        break;
    }
    for (size_t at = change->at; at < change->at + change->size;) {
        size_t end = (at / SECTOR_SIZE + 1) * SECTOR_SIZE;
        if (end > change->at + change->size)
            end = change->at + change->size;
        if (next_random() % 2)
            write_bytes(bytes, at, change->data + (at - change->at), end - at, true);
        at = end;
    }
}

static void survive(struct file *file)
{
    if (file->exists != file->durable)
        file->exists = next_random() % 2;
    bool all = next_random() % 4 == 0;
    for (size_t i = 0; file->exists && i < file->change_count; i++) {
        const struct change *change = &file->changes[i];
        if (!change->data && (all || next_random() % 2))
            resize(&file->synced, change->at, true);
        else if (change->data && all)
            write_bytes(&file->synced, change->at, change->data, change->size, true);
        else if (change->data)
            survive_write(&file->synced, change);
    }
    forget_changes(file);
    if (!file->exists)
        resize(&file->synced, 0, false);
    copy(&file->now, &file->synced);
    file->durable = file->exists;
}

static struct file *find(const char *name)
{
    for (size_t i = 0; i < FILE_COUNT_MAX; i++) {
        if (disk.files[i].name[0] && strcmp(disk.files[i].name, name) == 0)
            return &disk.files[i];
    }
    return NULL;
}

/* A name's file; names are never given up, so that a removed file can come back. */
static struct file *obtain(const char *name)
{
    struct file *file = find(name);
    for (size_t i = 0; !file && i < FILE_COUNT_MAX; i++) {
        if (!disk.files[i].name[0])
            file = &disk.files[i];
    }
    assert(file && strlen(name) < sizeof(file->name));
    strcpy(file->name, name);
    return file;
}

static void sync_folder(void)
{
    for (size_t i = 0; i < FILE_COUNT_MAX; i++)
        disk.files[i].durable = disk.files[i].exists;
}

static uint64_t used(void)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < FILE_COUNT_MAX; i++)
        bytes += disk.files[i].exists ? disk.files[i].now.size : 0;
    return bytes;
}

static int power_close(sqlite3_file *base)
{
    struct handle *handle = (void *)base;
    lock();
    if (handle->delete_on_close)
        handle->file->exists = false;
    unlock();
    return SQLITE_OK;
}

static int power_read(sqlite3_file *base, void *buffer, int size, sqlite3_int64 at)
{
    struct file *file = ((struct handle *)(void *)base)->file;
    lock();
    size_t there = (size_t)at < file->now.size ? file->now.size - (size_t)at : 0;
    size_t count = there < (size_t)size ? there : (size_t)size;
    if (count > 0)
        memcpy(buffer, file->now.data + at, count);
    memset((char *)buffer + count, 0, (size_t)size - count);
    bool cut = disk.cut;
    unlock();
    if (cut)
        return SQLITE_IOERR_READ;
    return count == (size_t)size ? SQLITE_OK : SQLITE_IOERR_SHORT_READ;
}

static int power_write(sqlite3_file *base, const void *data, int size, sqlite3_int64 at)
{
    struct file *file = ((struct handle *)(void *)base)->file;
    int code = SQLITE_OK;
    lock();
    size_t end = (size_t)at + (size_t)size;
    size_t growth = end > file->now.size ? end - file->now.size : 0;
    /* The write under way when the power goes may come to the disk in part. */
    bool was_cut = disk.cut;
    bool on = powered();
    if (was_cut) {
        code = SQLITE_IOERR_WRITE;
    } else if (disk.capacity > 0 && growth > 0 && used() + growth > disk.capacity) {
        code = SQLITE_FULL;
    } else {
        note_change(file, (size_t)at, data, (size_t)size);
        write_bytes(&file->now, (size_t)at, data, (size_t)size, false);
        code = on ? SQLITE_OK : SQLITE_IOERR_WRITE;
    }
    unlock();
    return code;
}

static int power_truncate(sqlite3_file *base, sqlite3_int64 size)
{
    struct file *file = ((struct handle *)(void *)base)->file;
    lock();
    bool on = powered();
    if (on) {
        note_change(file, (size_t)size, NULL, 0);
        resize(&file->now, (size_t)size, false);
    }
    unlock();
    return on ? SQLITE_OK : SQLITE_IOERR_TRUNCATE;
}

static int power_sync(sqlite3_file *base, int flags)
{
    struct file *file = ((struct handle *)(void *)base)->file;
    (void)flags;
    lock();
    bool on = powered();
    if (on && file->wal && disk.failing_syncs > 0) {
        disk.failing_syncs--;
        on = false;
    }
    if (on) {
        copy(&file->synced, &file->now);
        forget_changes(file);
        disk.wal_syncs += file->wal;
        /* As SQLite's own VFS: the first sync of a journal or write-ahead log syncs the folder. */
        if (!file->durable && strchr(file->name, '-'))
            sync_folder();
    }
    unlock();
    return on ? SQLITE_OK : SQLITE_IOERR_FSYNC;
}

static int power_file_size(sqlite3_file *base, sqlite3_int64 *ret_size)
{
    lock();
    *ret_size = (sqlite3_int64)((struct handle *)(void *)base)->file->now.size;
    unlock();
    return SQLITE_OK;
}

static int power_lock(sqlite3_file *base, int level)
{
    struct handle *handle = (void *)base;
    struct file *file = handle->file;
    int code = SQLITE_OK;
    lock();
    if (level <= handle->lock) {
        unlock();
        return SQLITE_OK;
    }
    if (level == SQLITE_LOCK_SHARED) {
        if (file->pending || file->exclusive)
            code = SQLITE_BUSY;
        else
            file->shared++;
    } else if (level == SQLITE_LOCK_RESERVED) {
        if (file->reserved || file->pending || file->exclusive)
            code = SQLITE_BUSY;
        else
            file->reserved = handle;
    } else {
        if ((file->reserved && file->reserved != handle) ||
            (file->pending && file->pending != handle)) {
            code = SQLITE_BUSY;
        } else {
            file->pending = handle;
            if (file->shared > 1)
                code = SQLITE_BUSY;
            else
                file->exclusive = handle;
        }
    }
    if (code == SQLITE_OK)
        handle->lock = level;
    unlock();
    return code;
}

static int power_unlock(sqlite3_file *base, int level)
{
    struct handle *handle = (void *)base;
    struct file *file = handle->file;
    lock();
    if (file->reserved == handle)
        file->reserved = NULL;
    if (file->pending == handle)
        file->pending = NULL;
    if (file->exclusive == handle)
        file->exclusive = NULL;
    if (level == SQLITE_LOCK_NONE && handle->lock >= SQLITE_LOCK_SHARED)
        file->shared--;
    if (level < handle->lock)
        handle->lock = level;
    unlock();
    return SQLITE_OK;
}

static int power_check_reserved_lock(sqlite3_file *base, int *ret_held)
{
    struct file *file = ((struct handle *)(void *)base)->file;
    lock();
    *ret_held = file->reserved || file->pending || file->exclusive;
    unlock();
    return SQLITE_OK;
}

static int power_file_control(sqlite3_file *base, int opcode, void *argument)
{
    (void)base;
    (void)opcode;
    (void)argument;
    return SQLITE_NOTFOUND;
}

static int power_sector_size(sqlite3_file *base)
{
    (void)base;
    return SECTOR_SIZE;
}

static int power_device_characteristics(sqlite3_file *base)
{
    (void)base;
    return SQLITE_IOCAP_POWERSAFE_OVERWRITE;
}

static int power_shm_map(sqlite3_file *base, int region, int size, int extend,
                         void volatile **ret_memory)
{
    struct file *file = ((struct handle *)(void *)base)->file;
    lock();
    assert(region < SHM_REGION_COUNT_MAX);
    *ret_memory = NULL;
    while (extend && file->shm_count <= (size_t)region) {
        file->shm[file->shm_count] = calloc(1, (size_t)size);
        assert(file->shm[file->shm_count]);
        file->shm_count++;
    }
    if ((size_t)region < file->shm_count)
        *ret_memory = file->shm[region];
    unlock();
    return SQLITE_OK;
}

static int power_shm_lock(sqlite3_file *base, int offset, int count, int flags)
{
    struct handle *handle = (void *)base;
    struct file *file = handle->file;
    int code = SQLITE_OK;
    lock();
    for (int i = offset; i < offset + count; i++) {
        uint8_t bit = (uint8_t)(1u << i);
        if ((flags & SQLITE_SHM_LOCK) && (flags & SQLITE_SHM_SHARED)) {
            if (file->shm_exclusive[i] && !(handle->shm_exclusive & bit))
                code = SQLITE_BUSY;
        } else if (flags & SQLITE_SHM_LOCK) {
            unsigned mine = (handle->shm_shared & bit) != 0;
            if ((file->shm_exclusive[i] && !(handle->shm_exclusive & bit)) ||
                file->shm_shared[i] > mine)
                code = SQLITE_BUSY;
        }
    }
    for (int i = offset; code == SQLITE_OK && i < offset + count; i++) {
        uint8_t bit = (uint8_t)(1u << i);
        if ((flags & SQLITE_SHM_LOCK) && (flags & SQLITE_SHM_SHARED)) {
            file->shm_shared[i] += !(handle->shm_shared & bit);
            handle->shm_shared |= bit;
        } else if (flags & SQLITE_SHM_LOCK) {
            file->shm_exclusive[i] = true;
            handle->shm_exclusive |= bit;
        } else {
            if (handle->shm_shared & bit)
                file->shm_shared[i]--;
            if (handle->shm_exclusive & bit)
                file->shm_exclusive[i] = false;
            handle->shm_shared &= (uint8_t)~bit;
            handle->shm_exclusive &= (uint8_t)~bit;
        }
    }
    unlock();
    return code;
}

static void power_shm_barrier(sqlite3_file *base)
{
    (void)base;
    lock();
    unlock();
}

static void free_shm(struct file *file)
{
    for (size_t i = 0; i < file->shm_count; i++)
        free(file->shm[i]);
    file->shm_count = 0;
    memset(file->shm_shared, 0, sizeof(file->shm_shared));
    memset(file->shm_exclusive, 0, sizeof(file->shm_exclusive));
}

static int power_shm_unmap(sqlite3_file *base, int delete)
{
    struct handle *handle = (void *)base;
    power_shm_lock(base, 0, SHM_LOCK_COUNT, SQLITE_SHM_UNLOCK | SQLITE_SHM_EXCLUSIVE);
    lock();
    if (delete)
        free_shm(handle->file);
    unlock();
    return SQLITE_OK;
}

static const sqlite3_io_methods methods = {
    .iVersion = 2,
    .xClose = power_close,
    .xRead = power_read,
    .xWrite = power_write,
    .xTruncate = power_truncate,
    .xSync = power_sync,
    .xFileSize = power_file_size,
    .xLock = power_lock,
    .xUnlock = power_unlock,
    .xCheckReservedLock = power_check_reserved_lock,
    .xFileControl = power_file_control,
    .xSectorSize = power_sector_size,
    .xDeviceCharacteristics = power_device_characteristics,
    .xShmMap = power_shm_map,
    .xShmLock = power_shm_lock,
    .xShmBarrier = power_shm_barrier,
    .xShmUnmap = power_shm_unmap,
};

static int power_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *base, int flags,
                      int *ret_flags)
{
    (void)vfs;
    struct handle *handle = (void *)base;
    memset(handle, 0, sizeof(*handle));
    int code = SQLITE_OK;
    lock();
    struct file *file = name ? find(name) : NULL;
    bool exists = file && file->exists;
    if (!name || disk.cut || (!exists && !(flags & SQLITE_OPEN_CREATE))) {
        code = SQLITE_CANTOPEN;
    } else if (!exists) {
        if (powered()) {
            file = obtain(name);
            forget_changes(file);
            resize(&file->now, 0, false);
            if (!file->durable)
                resize(&file->synced, 0, false);
            else
                note_change(file, 0, NULL, 0);
            file->exists = true;
            file->wal = (flags & SQLITE_OPEN_WAL) != 0;
        } else {
            code = SQLITE_CANTOPEN;
        }
    }
    if (code == SQLITE_OK) {
        handle->file = file;
        handle->delete_on_close = (flags & SQLITE_OPEN_DELETEONCLOSE) != 0;
        handle->base.pMethods = &methods;
        if (ret_flags)
            *ret_flags = flags;
    }
    unlock();
    return code;
}

static int power_delete(sqlite3_vfs *vfs, const char *name, int sync)
{
    (void)vfs;
    lock();
    struct file *file = find(name);
    bool on = powered();
    if (on && file) {
        file->exists = false;
        if (sync)
            sync_folder();
    }
    unlock();
    return on ? SQLITE_OK : SQLITE_IOERR_DELETE;
}

static int power_access(sqlite3_vfs *vfs, const char *name, int flags, int *ret_result)
{
    (void)vfs;
    (void)flags;
    lock();
    const struct file *file = find(name);
    *ret_result = file && file->exists;
    unlock();
    return SQLITE_OK;
}

static int power_full_pathname(sqlite3_vfs *vfs, const char *name, int size, char *ret_name)
{
    (void)vfs;
    sqlite3_snprintf(size, ret_name, "%s", name);
    return SQLITE_OK;
}

static int power_randomness(sqlite3_vfs *vfs, int size, char *bytes)
{
    (void)vfs;
    lock();
    for (int i = 0; i < size; i++)
        bytes[i] = (char)next_random();
    unlock();
    return size;
}

static int power_sleep(sqlite3_vfs *vfs, int us)
{
    (void)vfs;
    struct timespec time = { .tv_sec = us / 1000000, .tv_nsec = (long)(us % 1000000) * 1000 };
    /* tidy: SQLite asks the VFS to sleep while it waits for another connection's lock. */
    nanosleep(&time, NULL);
    return us;
}

static int power_current_time(sqlite3_vfs *vfs, double *ret_days)
{
    (void)vfs;
    *ret_days = 2440587.5 + (double)time(NULL) / 86400.0;
    return SQLITE_OK;
}

static sqlite3_vfs vfs = {
    .iVersion = 1,
    .szOsFile = sizeof(struct handle),
    .mxPathname = 255,
    .zName = POWER_VFS,
    .xOpen = power_open,
    .xDelete = power_delete,
    .xAccess = power_access,
    .xFullPathname = power_full_pathname,
    .xRandomness = power_randomness,
    .xSleep = power_sleep,
    .xCurrentTime = power_current_time,
};

void power_install(uint64_t seed)
{
    disk.random = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    disk.operations = 0;
    disk.cut_at = 0;
    disk.cut = false;
    disk.wal_syncs = 0;
    disk.capacity = 0;
    disk.failing_syncs = 0;
    int code = sqlite3_vfs_register(&vfs, 0);
    assert(code == SQLITE_OK);
    (void)code;
}

void power_remove(void)
{
    sqlite3_vfs_unregister(&vfs);
    for (size_t i = 0; i < FILE_COUNT_MAX; i++) {
        struct file *file = &disk.files[i];
        forget_changes(file);
        free_shm(file);
        free(file->changes);
        free(file->now.data);
        free(file->synced.data);
        memset(file, 0, sizeof(*file));
    }
}

void power_cut_at(uint64_t operation)
{
    lock();
    disk.operations = 0;
    disk.cut_at = operation;
    unlock();
}

uint64_t power_operations(void)
{
    lock();
    uint64_t operations = disk.operations;
    unlock();
    return operations;
}

bool power_is_cut(void)
{
    lock();
    bool cut = disk.cut;
    unlock();
    return cut;
}

void power_restore(void)
{
    lock();
    for (size_t i = 0; i < FILE_COUNT_MAX; i++) {
        if (!disk.files[i].name[0])
            continue;
        if (disk.cut)
            survive(&disk.files[i]);
        free_shm(&disk.files[i]);
        disk.files[i].shared = 0;
        disk.files[i].reserved = NULL;
        disk.files[i].pending = NULL;
        disk.files[i].exclusive = NULL;
    }
    disk.cut = false;
    disk.cut_at = 0;
    disk.operations = 0;
    unlock();
}

uint64_t power_wal_syncs(void)
{
    lock();
    uint64_t syncs = disk.wal_syncs;
    unlock();
    return syncs;
}

void power_set_capacity(uint64_t bytes)
{
    lock();
    disk.capacity = bytes;
    unlock();
}

uint64_t power_used(void)
{
    lock();
    uint64_t bytes = used();
    unlock();
    return bytes;
}

void power_fail_syncs(unsigned count)
{
    lock();
    disk.failing_syncs = count;
    unlock();
}
