/*
 * The writer's cache from content to series: a hash table with linear probing, emptied when it is
 * full. The key is the bytes of all texts, each with its NUL.
 *
 * Series made in a transaction are in the cache at once; when it is rolled back their numbers will
 * be given to others, so the whole cache is emptied then.
 */
#include "store/sqlite/series.h"

#include "base/env.h"
#include "base/hash.h"

#include <string.h>

#define ENTRY_COUNT_MAX 65536
#define BYTES_MAX ((size_t)16 << 20)
#define TEXT_COUNT 8

struct entry {
    uint64_t hash;
    int64_t id;
    bool keyed;
    size_t size;
    char key[];
};

struct fan__sqlite_tuples {
    struct entry **slots;
    size_t capacity;
    size_t count;
    size_t bytes;
    uint64_t seed;
    bool uncommitted;
};

/* In the order of SERIES_FIND and SERIES_INSERT. */
struct tuple {
    const char *texts[TEXT_COUNT];
    size_t size;
    char key[TEXT_COUNT * (FAN_TEXT_SIZE_MAX + 1)];
};

bool fan__sqlite_tuples_new(struct fan__sqlite *store)
{
    struct fan__sqlite_tuples *tuples = fan__alloc_zero(store->env, 1, sizeof(*tuples));
    if (!tuples)
        return false;
    tuples->capacity = 256;
    tuples->slots = fan__alloc_zero(store->env, tuples->capacity, sizeof(*tuples->slots));
    if (!tuples->slots) {
        fan__free(store->env, tuples);
        return false;
    }
    fan__random(store->env, &tuples->seed, sizeof(tuples->seed));
    store->tuples = tuples;
    return true;
}

void fan__sqlite_tuples_clear(struct fan__sqlite *store)
{
    struct fan__sqlite_tuples *tuples = store->tuples;
    for (size_t i = 0; i < tuples->capacity; i++) {
        fan__free(store->env, tuples->slots[i]);
        tuples->slots[i] = NULL;
    }
    tuples->count = 0;
    tuples->bytes = 0;
}

void fan__sqlite_tuples_free(struct fan__sqlite *store)
{
    if (!store->tuples)
        return;
    fan__sqlite_tuples_clear(store);
    fan__free(store->env, store->tuples->slots);
    fan__free(store->env, store->tuples);
    store->tuples = NULL;
}

void fan__sqlite_tuples_commit(struct fan__sqlite *store)
{
    store->tuples->uncommitted = false;
}

void fan__sqlite_tuples_roll_back(struct fan__sqlite *store)
{
    if (store->tuples->uncommitted)
        fan__sqlite_tuples_clear(store);
    store->tuples->uncommitted = false;
}

static void tuple_of(const struct fan_event *event, struct tuple *ret_tuple)
{
    const char *const texts[TEXT_COUNT] = {
        fan_event_topic(event),
        fan_event_type(event),
        fan_source_text(fan_event_source(event)),
        fan_event_schema(event),
        fan_event_entity(event),
        fan_event_operation(event),
        fan_event_instance_id(event),
        fan_event_content_type(event),
    };
    size_t size = 0;
    for (size_t i = 0; i < TEXT_COUNT; i++) {
        size_t length = strlen(texts[i]) + 1;
        ret_tuple->texts[i] = ret_tuple->key + size;
        memcpy(ret_tuple->key + size, texts[i], length);
        size += length;
    }
    ret_tuple->size = size;
}

/* The slot of a tuple: the entry itself, or the empty place where it belongs. */
static struct entry **slot_of(const struct fan__sqlite_tuples *tuples, uint64_t hash,
                              const struct tuple *tuple)
{
    for (size_t i = hash & (tuples->capacity - 1);; i = (i + 1) & (tuples->capacity - 1)) {
        struct entry *entry = tuples->slots[i];
        if (!entry || (entry->hash == hash && entry->size == tuple->size &&
                       memcmp(entry->key, tuple->key, tuple->size) == 0))
            return &tuples->slots[i];
    }
}

/* Doubles the table. Without memory it stays as it is, and is emptied earlier. */
static void grow(struct fan__sqlite *store)
{
    struct fan__sqlite_tuples *tuples = store->tuples;
    size_t capacity = tuples->capacity * 2;
    struct entry **slots = capacity <= (size_t)2 * ENTRY_COUNT_MAX
                               ? fan__alloc_zero(store->env, capacity, sizeof(struct entry *))
                               : NULL;
    if (!slots) {
        fan__sqlite_tuples_clear(store);
        return;
    }
    for (size_t i = 0; i < tuples->capacity; i++) {
        if (!tuples->slots[i])
            continue;
        size_t at = tuples->slots[i]->hash & (capacity - 1);
        while (slots[at])
            at = (at + 1) & (capacity - 1);
        slots[at] = tuples->slots[i];
    }
    fan__free(store->env, tuples->slots);
    tuples->slots = slots;
    tuples->capacity = capacity;
}

/* Remembers a series. Without memory it is looked up again next time. */
static void remember(struct fan__sqlite *store, uint64_t hash, const struct tuple *tuple,
                     int64_t id, bool keyed)
{
    struct fan__sqlite_tuples *tuples = store->tuples;
    size_t size = sizeof(struct entry) + tuple->size;
    if (tuples->bytes + size > BYTES_MAX)
        fan__sqlite_tuples_clear(store);
    if ((tuples->count + 1) * 2 > tuples->capacity)
        grow(store);
    struct entry *entry = fan__alloc(store->env, size);
    if (!entry)
        return;
    *entry = (struct entry){ .hash = hash, .id = id, .keyed = keyed, .size = tuple->size };
    memcpy(entry->key, tuple->key, tuple->size);
    *slot_of(tuples, hash, tuple) = entry;
    tuples->count++;
    tuples->bytes += size;
}

static void bind_tuple(sqlite3_stmt *statement, const struct tuple *tuple)
{
    for (int i = 0; i < TEXT_COUNT; i++)
        sqlite3_bind_text(statement, i + 1, tuple->texts[i], -1, SQLITE_STATIC);
}

static int64_t insert(struct fan__sqlite *store, const struct tuple *tuple, bool *ret_keyed)
{
    struct fan__sqlite_connection *writer = store->writer;
    sqlite3_stmt *key = fan__sqlite_use(writer, FAN__SQL_KEY_TRACKED);
    sqlite3_bind_text(key, 1, tuple->texts[0], -1, SQLITE_STATIC);
    *ret_keyed = fan__sqlite_number(writer, key, 0) != 0;
    sqlite3_stmt *statement = fan__sqlite_use(writer, FAN__SQL_SERIES_INSERT);
    bind_tuple(statement, tuple);
    sqlite3_bind_int(statement, TEXT_COUNT + 1, *ret_keyed);
    fan__sqlite_run(writer, statement);
    store->tuples->uncommitted = true;
    return writer->status == FAN_OK ? sqlite3_last_insert_rowid(writer->db) : 0;
}

int64_t fan__sqlite_series_of(struct fan__sqlite *store, const struct fan_event *event,
                              bool *ret_keyed)
{
    struct fan__sqlite_connection *writer = store->writer;
    struct tuple tuple;
    tuple_of(event, &tuple);
    uint64_t hash = fan__hash(store->tuples->seed, tuple.key, tuple.size);
    const struct entry *entry = *slot_of(store->tuples, hash, &tuple);
    if (entry) {
        *ret_keyed = entry->keyed;
        return entry->id;
    }
    int64_t id = 0;
    bool keyed = false;
    sqlite3_stmt *statement = fan__sqlite_use(writer, FAN__SQL_SERIES_FIND);
    bind_tuple(statement, &tuple);
    if (fan__sqlite_step(writer, statement)) {
        id = sqlite3_column_int64(statement, 0);
        keyed = sqlite3_column_int(statement, 1) != 0;
        sqlite3_reset(statement);
    } else {
        id = insert(store, &tuple, &keyed);
    }
    if (writer->status != FAN_OK)
        return 0;
    remember(store, hash, &tuple, id, keyed);
    *ret_keyed = keyed;
    return id;
}
