/*
 * Marks: when the log was how long, in events and in bytes. An append sets one at most once a
 * second, so that an age or a size becomes a sequence by a search among few rows.
 *
 *     mark       5        9           9 was the head a second after 5, or earlier
 *     events  1..5 | 6..9 | 10 ...    what comes after a mark came within its next second, or has
 *                                     a mark of its own
 *
 * Bytes are what was ever appended, about: payload, metadata and FAN__SQLITE_EVENT_BYTES for each.
 */
#include "store/sqlite/retain.h"

#include <sys/stat.h>

#define MARK_US FAN__US_PER_S

static void insert(struct fan__sqlite *store, uint64_t seq, int64_t us, uint64_t bytes)
{
    sqlite3_stmt *statement = fan__sqlite_use(store->writer, FAN__SQL_MARK_INSERT);
    sqlite3_bind_int64(statement, 1, (int64_t)seq);
    sqlite3_bind_int64(statement, 2, us);
    sqlite3_bind_int64(statement, 3, (int64_t)bytes);
    fan__sqlite_run(store->writer, statement);
    store->marks.last = (struct fan__sqlite_mark){ .seq = seq, .us = us, .bytes = bytes };
}

/* A log of before there were marks begins to age now, and its size is that of its file. */
static void begin_marks(struct fan__sqlite *store)
{
    struct stat info;
    uint64_t bytes = stat(store->path, &info) == 0 ? (uint64_t)info.st_size : 0;
    store->marks.last = (struct fan__sqlite_mark){ 0 };
    store->marks.bytes = 0;
    store->marks.counted = true;
    if (store->head_seq == 0)
        return;
    insert(store, store->head_seq, fan__sqlite_now_us(store), bytes);
    store->marks.bytes = bytes;
}

static void load(struct fan__sqlite *store)
{
    if (store->marks.known)
        return;
    store->marks.known = true;
    sqlite3_stmt *statement = fan__sqlite_use(store->writer, FAN__SQL_MARK_LAST);
    if (!fan__sqlite_step(store->writer, statement)) {
        begin_marks(store);
        return;
    }
    fan__sqlite_mark_of(statement, &store->marks.last);
    sqlite3_reset(statement);
    store->marks.bytes = store->marks.last.bytes;
    store->marks.counted = store->marks.last.seq >= store->head_seq;
}

/* What other processes appended since the last mark is counted when a mark needs it. */
uint64_t fan__sqlite_marks_bytes(struct fan__sqlite *store)
{
    if (store->marks.counted)
        return store->marks.bytes;
    sqlite3_stmt *statement = fan__sqlite_use(store->writer, FAN__SQL_MARK_BYTES);
    sqlite3_bind_int64(statement, 1, (int64_t)store->marks.last.seq);
    sqlite3_bind_int64(statement, 2, (int64_t)store->head_seq);
    sqlite3_bind_int64(statement, 3, FAN__SQLITE_EVENT_BYTES);
    store->marks.bytes =
        store->marks.last.bytes + (uint64_t)fan__sqlite_number(store->writer, statement, 0);
    store->marks.counted = true;
    return store->marks.bytes;
}

void fan__sqlite_mark_of(sqlite3_stmt *row, struct fan__sqlite_mark *ret_mark)
{
    *ret_mark = (struct fan__sqlite_mark){
        .seq = (uint64_t)sqlite3_column_int64(row, 0),
        .us = sqlite3_column_int64(row, 1),
        .bytes = (uint64_t)sqlite3_column_int64(row, 2),
    };
}

void fan__sqlite_marks_head(struct fan__sqlite *store)
{
    load(store);
    const struct fan__sqlite_mark *last = &store->marks.last;
    int64_t until_us = last->us + MARK_US;
    if (store->head_seq > last->seq && fan__sqlite_now_us(store) >= until_us)
        insert(store, store->head_seq, until_us, fan__sqlite_marks_bytes(store));
}

void fan__sqlite_marks_add(struct fan__sqlite *store, uint64_t head_seq, uint64_t bytes)
{
    if (head_seq == store->head_seq)
        return;
    fan__sqlite_marks_head(store);
    int64_t now_us = fan__sqlite_now_us(store);
    if (store->marks.last.seq == 0 || now_us >= store->marks.last.us + MARK_US)
        insert(store, head_seq, now_us, fan__sqlite_marks_bytes(store) + bytes);
    store->marks.bytes += bytes;
}

bool fan__sqlite_marks_find(struct fan__sqlite *store,
                            bool (*is_before)(const void *context, const struct fan__sqlite_mark *),
                            const void *context, struct fan__sqlite_mark ret_around[2])
{
    struct fan__sqlite_connection *writer = store->writer;
    struct fan__sqlite_mark before = { 0 };
    struct fan__sqlite_mark after = { .seq = store->marks.last.seq + 1 };
    bool found = false;
    uint64_t high = after.seq;
    while (high - before.seq > 1 && writer->status == FAN_OK) {
        uint64_t middle = before.seq + (high - before.seq) / 2;
        sqlite3_stmt *statement = fan__sqlite_use(writer, FAN__SQL_MARK_FROM);
        sqlite3_bind_int64(statement, 1, (int64_t)middle);
        struct fan__sqlite_mark mark = after;
        if (fan__sqlite_step(writer, statement)) {
            fan__sqlite_mark_of(statement, &mark);
            sqlite3_reset(statement);
        }
        if (mark.seq < high && is_before(context, &mark)) {
            before = mark;
        } else {
            if (mark.seq < high) {
                after = mark;
                found = true;
            }
            high = middle;
        }
    }
    ret_around[0] = before;
    ret_around[1] = after;
    return found;
}
