/*
 * Appending: one transaction a batch. An event costs one insert; its series is a look in a table in
 * memory, its block's row is written once a batch.
 *
 * An id that is there already wins over the expectation of its unit: a retry after an unclear
 * failure must find its own first try, not the conflict that this made.
 */
#include "store/sqlite/retain.h"
#include "store/sqlite/series.h"

#include "base/env.h"
#include "base/status.h"

/* SQLite's own limit for a row is 1,000,000,000 bytes. */
#define EVENT_SIZE_MAX ((size_t)999 * 1000 * 1000)

/* What has been added to one block of the log and is not in its row yet. */
struct block {
    uint64_t number;
    uint64_t count;
    int64_t t_min;
    int64_t t_max;
};

struct append {
    struct fan__sqlite *store;
    struct fan__sqlite_connection *writer;
    uint64_t head_seq;
    uint64_t bytes;
    struct block block;
};

static void flush_block(struct append *append)
{
    if (append->block.count == 0)
        return;
    sqlite3_stmt *statement = fan__sqlite_use(append->writer, FAN__SQL_BLOCK_UPSERT);
    sqlite3_bind_int64(statement, 1, (int64_t)append->block.number);
    sqlite3_bind_int64(statement, 2, append->block.t_min);
    sqlite3_bind_int64(statement, 3, append->block.t_max);
    sqlite3_bind_int64(statement, 4, (int64_t)append->block.count);
    fan__sqlite_run(append->writer, statement);
    append->block.count = 0;
}

static void note_block(struct append *append, uint64_t seq, int64_t created_us)
{
    struct block *block = &append->block;
    if (block->count > 0 && block->number != seq >> FAN__SQLITE_BLOCK_BITS)
        flush_block(append);
    if (block->count == 0)
        *block = (struct block){ seq >> FAN__SQLITE_BLOCK_BITS, 0, created_us, created_us };
    block->count++;
    if (created_us < block->t_min)
        block->t_min = created_us;
    if (created_us > block->t_max)
        block->t_max = created_us;
}

static uint64_t find(struct append *append, const char *id)
{
    unsigned char uuid[16];
    sqlite3_stmt *statement = fan__sqlite_use(append->writer, FAN__SQL_EVENT_FIND);
    fan__sqlite_bind_id(statement, 1, id, uuid);
    return (uint64_t)fan__sqlite_number(append->writer, statement, 0);
}

static void bind_bytes(sqlite3_stmt *statement, int index, struct fan_str bytes, bool text)
{
    if (text)
        sqlite3_bind_text64(statement, index, bytes.data, bytes.size, SQLITE_STATIC, SQLITE_UTF8);
    else
        sqlite3_bind_blob64(statement, index, bytes.data, bytes.size, SQLITE_STATIC);
}

static void bind_positive(sqlite3_stmt *statement, int index, int64_t number)
{
    if (number != 0)
        sqlite3_bind_int64(statement, index, number);
    else
        sqlite3_bind_null(statement, index);
}

/* Inserts an event under a sequence. False when its id is there already, or on failure. */
static bool insert(struct append *append, const struct fan_event *event, int64_t series,
                   uint64_t seq)
{
    unsigned char uuid[16];
    struct fan_str metadata = fan_event_metadata(event);
    sqlite3_stmt *statement = fan__sqlite_use(append->writer, FAN__SQL_EVENT_INSERT);
    sqlite3_bind_int64(statement, 1, (int64_t)seq);
    fan__sqlite_bind_id(statement, 2, fan_event_id(event), uuid);
    sqlite3_bind_int64(statement, 3, series);
    sqlite3_bind_int64(statement, 4, fan_event_created_us(event));
    bind_positive(statement, 5, fan_event_user_id(event));
    fan__sqlite_bind_text(statement, 6, fan_event_session_id(event));
    bind_positive(statement, 7, fan_event_deliver_at_us(event));
    fan__sqlite_bind_text(statement, 8, fan_event_traceparent(event));
    if (metadata.size > 0)
        bind_bytes(statement, 9, metadata, true);
    else
        sqlite3_bind_null(statement, 9);
    bind_bytes(statement, 10, fan_event_payload(event), fan_event_is_json(event));
    fan__sqlite_run(append->writer, statement);
    return append->writer->status == FAN_OK && sqlite3_changes(append->writer->db) > 0;
}

static void set_key(struct append *append, const char *topic, uint64_t seq)
{
    sqlite3_stmt *statement = fan__sqlite_use(append->writer, FAN__SQL_KEY_SET);
    sqlite3_bind_text(statement, 1, topic, -1, SQLITE_STATIC);
    sqlite3_bind_int64(statement, 2, (int64_t)seq);
    fan__sqlite_run(append->writer, statement);
}

static void append_item(struct append *append, struct fan_append *item)
{
    bool keyed = false;
    int64_t series = fan__sqlite_series_of(append->store, item->event, &keyed);
    uint64_t seq = append->head_seq + 1;
    item->ret_status = FAN_OK;
    if (insert(append, item->event, series, seq)) {
        append->head_seq = seq;
        append->bytes += fan_event_payload(item->event).size +
                         fan_event_metadata(item->event).size + FAN__SQLITE_EVENT_BYTES;
        note_block(append, seq, fan_event_created_us(item->event));
        if (keyed)
            set_key(append, fan_event_topic(item->event), seq);
        item->ret_seq = seq;
        return;
    }
    item->ret_duplicate = true;
    item->ret_seq = find(append, fan_event_id(item->event));
}

/* From now on the row in `key` is kept right by every append to the topic, in every process. */
static void track(struct append *append, const char *topic, uint64_t last_seq)
{
    struct fan__sqlite_connection *writer = append->writer;
    sqlite3_stmt *statement = fan__sqlite_use(writer, FAN__SQL_SERIES_KEYED);
    sqlite3_bind_text(statement, 1, topic, -1, SQLITE_STATIC);
    fan__sqlite_run(writer, statement);
    statement = fan__sqlite_use(writer, FAN__SQL_META_ADD);
    sqlite3_bind_text(statement, 1, "key_generation", -1, SQLITE_STATIC);
    sqlite3_bind_int64(statement, 2, 1);
    fan__sqlite_run(writer, statement);
    fan__tuples_clear(append->store->tuples);
    append->store->series_changed = true;
    set_key(append, topic, last_seq);
}

/* The last retained event of a topic. What is being asked for once is kept at hand from then on. */
static bool key_is(struct append *append, const char *topic, uint64_t expected_seq)
{
    struct fan__sqlite_connection *writer = append->writer;
    sqlite3_stmt *statement = fan__sqlite_use(writer, FAN__SQL_KEY_GET);
    sqlite3_bind_text(statement, 1, topic, -1, SQLITE_STATIC);
    int64_t last_seq = fan__sqlite_number(writer, statement, -1);
    if (last_seq >= 0 || writer->status != FAN_OK)
        return (uint64_t)last_seq == expected_seq;
    statement = fan__sqlite_use(writer, FAN__SQL_TOPIC_EXISTS);
    sqlite3_bind_text(statement, 1, topic, -1, SQLITE_STATIC);
    if (fan__sqlite_number(writer, statement, 0) == 0) {
        if (expected_seq == 0)
            set_key(append, topic, 0);
        return expected_seq == 0;
    }
    flush_block(append);
    statement = fan__sqlite_use(writer, FAN__SQL_KEY_SEARCH);
    sqlite3_bind_text(statement, 1, topic, -1, SQLITE_STATIC);
    last_seq = fan__sqlite_number(writer, statement, 0);
    track(append, topic, (uint64_t)last_seq);
    return (uint64_t)last_seq == expected_seq;
}

static bool lease_is(struct append *append, const char *name, uint64_t fence)
{
    struct fan__sqlite_connection *writer = append->writer;
    sqlite3_stmt *statement = fan__sqlite_use(writer, FAN__SQL_LEASE_GET);
    sqlite3_bind_text(statement, 1, name, -1, SQLITE_STATIC);
    if (!fan__sqlite_step(writer, statement))
        return false;
    bool right = (uint64_t)sqlite3_column_int64(statement, 1) == fence &&
                 sqlite3_column_int64(statement, 2) > fan__sqlite_now_us(append->store);
    sqlite3_reset(statement);
    return right;
}

static void refuse(struct fan_append *items, size_t count, enum fan_status status)
{
    for (size_t i = 0; i < count; i++)
        items[i].ret_status = status;
}

/* Appends one unit, whole or not at all. */
static void append_unit(struct append *append, struct fan_append *items, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (fan_event_size(items[i].event) > EVENT_SIZE_MAX) {
            refuse(items, count, FAN_INVALID);
            return;
        }
    }
    const struct fan_expectation *expectation = items[0].expectation;
    bool checks = expectation && (expectation->key || expectation->lease);
    bool there = checks;
    for (size_t i = 0; there && i < count; i++)
        there = find(append, fan_event_id(items[i].event)) > 0;
    if (checks && !there) {
        bool holds =
            (!expectation->key || key_is(append, expectation->key, expectation->last_seq)) &&
            (!expectation->lease || lease_is(append, expectation->lease, expectation->fence));
        if (!holds) {
            refuse(items, count, FAN_CONFLICT);
            return;
        }
    }
    for (size_t i = 0; i < count && append->writer->status == FAN_OK; i++)
        append_item(append, &items[i]);
}

static enum fan_status append_all(struct fan__sqlite *store, struct fan_append *items, size_t count,
                                  struct fan_error *error)
{
    enum fan_status status = fan__sqlite_write_begin(store, error);
    if (status != FAN_OK)
        return status;
    struct append append = { .store = store, .writer = store->writer, .head_seq = store->head_seq };
    for (size_t i = 0; i < count && store->writer->status == FAN_OK;) {
        size_t end = i + 1;
        while (end < count && items[end].joined)
            end++;
        append_unit(&append, items + i, end - i);
        i = end;
    }
    flush_block(&append);
    fan__sqlite_marks_add(store, append.head_seq, append.bytes);
    return fan__sqlite_write_end(store, FAN_OK, append.head_seq, error);
}

enum fan_status fan__sqlite_append(void *self, struct fan_append *items, size_t count,
                                   struct fan_error *error)
{
    struct fan__sqlite *store = self;
    enum fan_status status = append_all(store, items, count, error);
    if (status != FAN_NO_SPACE || !fan__sqlite_checkpoint_made_room(store))
        return status;
    for (size_t i = 0; i < count; i++) {
        items[i].ret_status = FAN_OK;
        items[i].ret_duplicate = false;
        items[i].ret_seq = 0;
    }
    return append_all(store, items, count, error);
}
