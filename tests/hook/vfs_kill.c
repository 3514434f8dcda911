/*
 * The real file lies behind ours in the memory that SQLite gives. Used in children of one thread.
 */
#include "vfs_kill.h"

#include <sqlite3.h>

#include <signal.h>

struct file {
    sqlite3_file base;
    _Alignas(8) char real[]; /* as SQLite aligns */
};

static sqlite3_vfs *below;
static sqlite3_vfs layer;
static uint64_t steps;
static uint64_t kill_step;

void vfs_kill_step(void)
{
    if (++steps == kill_step)
        raise(SIGKILL);
}

static sqlite3_file *real(sqlite3_file *file)
{
    return (sqlite3_file *)(void *)((struct file *)(void *)file)->real;
}

static int file_close(sqlite3_file *file)
{
    return real(file)->pMethods->xClose(real(file));
}

static int file_read(sqlite3_file *file, void *bytes, int size, sqlite3_int64 at)
{
    return real(file)->pMethods->xRead(real(file), bytes, size, at);
}

static int file_write(sqlite3_file *file, const void *bytes, int size, sqlite3_int64 at)
{
    vfs_kill_step();
    return real(file)->pMethods->xWrite(real(file), bytes, size, at);
}

static int file_truncate(sqlite3_file *file, sqlite3_int64 size)
{
    vfs_kill_step();
    return real(file)->pMethods->xTruncate(real(file), size);
}

static int file_sync(sqlite3_file *file, int flags)
{
    (void)flags;
    (void)file;
    vfs_kill_step(); /* a kill loses nothing that was written: there is nothing to wait for */
    return SQLITE_OK;
}

static int file_size(sqlite3_file *file, sqlite3_int64 *ret_size)
{
    return real(file)->pMethods->xFileSize(real(file), ret_size);
}

static int file_lock(sqlite3_file *file, int lock)
{
    vfs_kill_step();
    return real(file)->pMethods->xLock(real(file), lock);
}

static int file_unlock(sqlite3_file *file, int lock)
{
    vfs_kill_step();
    return real(file)->pMethods->xUnlock(real(file), lock);
}

static int file_reserved(sqlite3_file *file, int *ret_reserved)
{
    return real(file)->pMethods->xCheckReservedLock(real(file), ret_reserved);
}

static int file_control(sqlite3_file *file, int opcode, void *argument)
{
    return real(file)->pMethods->xFileControl(real(file), opcode, argument);
}

static int file_sector(sqlite3_file *file)
{
    return real(file)->pMethods->xSectorSize(real(file));
}

static int file_characteristics(sqlite3_file *file)
{
    return real(file)->pMethods->xDeviceCharacteristics(real(file));
}

static int file_shm_map(sqlite3_file *file, int region, int size, int extend, void volatile **ret)
{
    return real(file)->pMethods->xShmMap(real(file), region, size, extend, ret);
}

static int file_shm_lock(sqlite3_file *file, int offset, int count, int flags)
{
    vfs_kill_step();
    return real(file)->pMethods->xShmLock(real(file), offset, count, flags);
}

static void file_shm_barrier(sqlite3_file *file)
{
    real(file)->pMethods->xShmBarrier(real(file));
}

static int file_shm_unmap(sqlite3_file *file, int remove)
{
    return real(file)->pMethods->xShmUnmap(real(file), remove);
}

static const sqlite3_io_methods methods = {
    .iVersion = 2,
    .xClose = file_close,
    .xRead = file_read,
    .xWrite = file_write,
    .xTruncate = file_truncate,
    .xSync = file_sync,
    .xFileSize = file_size,
    .xLock = file_lock,
    .xUnlock = file_unlock,
    .xCheckReservedLock = file_reserved,
    .xFileControl = file_control,
    .xSectorSize = file_sector,
    .xDeviceCharacteristics = file_characteristics,
    .xShmMap = file_shm_map,
    .xShmLock = file_shm_lock,
    .xShmBarrier = file_shm_barrier,
    .xShmUnmap = file_shm_unmap,
};

static int layer_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags,
                      int *ret_flags)
{
    (void)vfs;
    int code = below->xOpen(below, name, real(file), flags, ret_flags);
    file->pMethods = real(file)->pMethods ? &methods : NULL;
    return code;
}

static int layer_delete(sqlite3_vfs *vfs, const char *name, int sync)
{
    (void)vfs;
    vfs_kill_step();
    return below->xDelete(below, name, sync);
}

void vfs_kill_install(void)
{
    below = sqlite3_vfs_find(NULL);
    layer = *below;
    layer.zName = "kill";
    layer.szOsFile = (int)sizeof(struct file) + below->szOsFile;
    layer.xOpen = layer_open;
    layer.xDelete = layer_delete;
    sqlite3_vfs_register(&layer, 1);
}

void vfs_kill_at(uint64_t at)
{
    steps = 0;
    kill_step = at;
}

uint64_t vfs_kill_steps(void)
{
    return steps;
}
