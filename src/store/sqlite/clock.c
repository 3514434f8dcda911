/*
 * The store's clock: when leases end, delays are over and deliver_at has come. It is the same in
 * all processes that share the log, and whoever sets the wall clock does not move it.
 *
 *     now = offset + env's monotonic clock, which all processes of one boot share
 *
 * The offset is the wall clock's at the first commit of a boot, and is kept in the log with the
 * boot's id. The next boot makes another one, never behind what the log has seen: high_us follows
 * the clock by at most a second, with whatever is committed anyway.
 */
#include "store/sqlite/store.h"

#include "base/env.h"
#include "base/hash.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#define KEEP_US FAN__US_PER_S
#define BOOT_SEED UINT64_C(0x626f6f74)

/*
 * A number for this boot of the machine; 0 where the kernel does not tell, and nothing is shared.
 */
static int64_t boot_of_machine(void)
{
    char text[64];
    int file = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return 0;
    ssize_t size = read(file, text, sizeof(text));
    close(file);
    return size > 0 ? (int64_t)(fan__hash(BOOT_SEED, text, (size_t)size) >> 1) : 0;
}

static int64_t monotonic_us(const struct fan__sqlite *store)
{
    return fan__monotonic_ns(store->env) / FAN__NS_PER_US;
}

static int64_t get_offset(struct fan__sqlite *store)
{
    fan__mutex_lock(&store->clock_mutex);
    int64_t offset_us = store->clock_offset_us;
    fan__mutex_unlock(&store->clock_mutex);
    return offset_us;
}

static void set_offset(struct fan__sqlite *store, int64_t offset_us)
{
    fan__mutex_lock(&store->clock_mutex);
    store->clock_offset_us = offset_us;
    fan__mutex_unlock(&store->clock_mutex);
}

int64_t fan__sqlite_now_us(struct fan__sqlite *store)
{
    return get_offset(store) + monotonic_us(store);
}

/* What the log keeps of the clock; zeros while nothing was ever committed. */
struct row {
    int64_t boot;
    int64_t offset_us;
    int64_t high_us;
    int64_t leap_us;
};

static struct row row_get(struct fan__sqlite_connection *writer)
{
    struct row row = { 0 };
    sqlite3_stmt *statement = fan__sqlite_use(writer, FAN__SQL_CLOCK_GET);
    if (!fan__sqlite_step(writer, statement))
        return row;
    row.boot = sqlite3_column_int64(statement, 0);
    row.offset_us = sqlite3_column_int64(statement, 1);
    row.high_us = sqlite3_column_int64(statement, 2);
    row.leap_us = sqlite3_column_int64(statement, 3);
    sqlite3_reset(statement);
    return row;
}

/* The log has no clock of this boot, or env's went back: one that goes on where that one was. */
static void begin(struct fan__sqlite *store, const struct row *row)
{
    int64_t now_us = fan__wall_us(store->env);
    store->clock.leap_us = 0;
    if (row->high_us != 0) {
        if (now_us < row->high_us + KEEP_US)
            now_us = row->high_us + KEEP_US;
        int64_t leap_us = now_us - row->high_us;
        store->clock.leap_us = leap_us > row->leap_us ? leap_us : row->leap_us;
    }
    set_offset(store, now_us - monotonic_us(store));
}

void fan__sqlite_clock_note(struct fan__sqlite *store)
{
    store->clock_noted = store->clock;
    store->clock_noted_us = get_offset(store);
}

void fan__sqlite_clock_roll_back(struct fan__sqlite *store)
{
    store->clock = store->clock_noted;
    set_offset(store, store->clock_noted_us);
}

void fan__sqlite_clock_load(struct fan__sqlite *store)
{
    struct row row = row_get(store->writer);
    bool first = !store->clock.begun;
    if (first)
        store->clock.boot = boot_of_machine();
    if (row.boot != 0 && row.boot == store->clock.boot &&
        row.offset_us + monotonic_us(store) >= row.high_us) {
        store->clock.high_us = row.high_us;
        store->clock.leap_us = row.leap_us;
        store->clock.kept = true;
        set_offset(store, row.offset_us);
    } else if (first) {
        begin(store, &row);
    }
    store->clock.begun = true;
    fan__sqlite_clock_note(store);
}

void fan__sqlite_clock_keep(struct fan__sqlite *store)
{
    int64_t offset_us = get_offset(store);
    int64_t now_us = offset_us + monotonic_us(store);
    if (store->clock.kept && now_us < store->clock.high_us + KEEP_US)
        return;
    sqlite3_stmt *statement = fan__sqlite_use(store->writer, FAN__SQL_CLOCK_SET);
    sqlite3_bind_int64(statement, 1, store->clock.boot);
    sqlite3_bind_int64(statement, 2, offset_us);
    sqlite3_bind_int64(statement, 3, now_us);
    sqlite3_bind_int64(statement, 4, store->clock.leap_us);
    fan__sqlite_run(store->writer, statement);
    store->clock.high_us = now_us;
    store->clock.kept = true;
}

int64_t fan__sqlite_clock_jump_us(struct fan__sqlite *store)
{
    int64_t ahead_us = fan__wall_us(store->env) - fan__sqlite_now_us(store);
    int64_t jump_us = ahead_us < 0 ? -ahead_us : ahead_us;
    return jump_us > store->clock.leap_us ? jump_us : store->clock.leap_us;
}

/* What was timed by the old clock and is not over yet ends as much later as it would have. */
static void move_times(struct fan__sqlite_connection *writer, int64_t from_us, int64_t to_us)
{
    static const enum fan__sqlite_statement statements[] = {
        FAN__SQL_CLOCK_MOVE_DELIVERIES, FAN__SQL_CLOCK_MOVE_DEAD,  FAN__SQL_CLOCK_MOVE_LEASES,
        FAN__SQL_CLOCK_MOVE_GROUPS,     FAN__SQL_CLOCK_MOVE_MARKS,
    };
    for (size_t i = 0; i < sizeof(statements) / sizeof(*statements); i++) {
        sqlite3_stmt *statement = fan__sqlite_use(writer, statements[i]);
        sqlite3_bind_int64(statement, 1, from_us);
        sqlite3_bind_int64(statement, 2, to_us);
        fan__sqlite_run(writer, statement);
    }
}

void fan__sqlite_clock_take(struct fan__sqlite *store)
{
    int64_t offset_us = get_offset(store);
    int64_t from_us = fan__sqlite_now_us(store);
    int64_t to_us = fan__wall_us(store->env);
    move_times(store->writer, from_us, to_us);
    set_offset(store, offset_us + to_us - from_us);
    store->clock.leap_us = 0;
    store->clock.kept = false;
    store->marks.known = false;
    /* Also where there is nothing to move: else nobody else would come to know of it. */
    fan__sqlite_clock_keep(store);
}

enum fan_status fan__sqlite_clock_accept(struct fan__sqlite *store)
{
    enum fan_status status = fan__sqlite_write_begin(store, NULL);
    if (status != FAN_OK)
        return status;
    fan__sqlite_clock_take(store);
    return fan__sqlite_write_end(store, FAN_OK, 0, NULL);
}
