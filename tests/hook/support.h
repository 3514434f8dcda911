/* What the tests of hooks and outbox share: a folder of their own, a database in it, a broker. */
#ifndef TESTS_HOOK_SUPPORT_H
#define TESTS_HOOK_SUPPORT_H

#include "../folder.h"
#include "../test.h"

#include <fanfare/fanfare.h>

#include <sqlite3.h>

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct place {
    char folder[TEST_FOLDER_SIZE];
    char database[128]; /* the application's */
    char uri[128];      /* the log's */
};

static inline void place_make(struct place *place)
{
    assert_true(test_folder_make(place->folder));
    snprintf(place->database, sizeof(place->database), "%s/app.db", place->folder);
    snprintf(place->uri, sizeof(place->uri), "sqlite:%s/events.db", place->folder);
}

static inline void place_remove(struct place *place)
{
    test_folder_remove(place->folder);
}

static inline void run_sql(sqlite3 *db, const char *sql)
{
    char *message = NULL;
    if (sqlite3_exec(db, sql, NULL, NULL, &message) != SQLITE_OK)
        fail_msg("%s: %s", sql, message);
}

static inline sqlite3 *database_open(const struct place *place)
{
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(place->database, &db), SQLITE_OK);
    sqlite3_busy_timeout(db, 10000);
    run_sql(db, "PRAGMA journal_mode = WAL; PRAGMA foreign_keys = ON");
    return db;
}

static inline int64_t number_of(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *statement = NULL;
    if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) != SQLITE_OK)
        fail_msg("%s: %s", sql, sqlite3_errmsg(db));
    assert_int_equal(sqlite3_step(statement), SQLITE_ROW);
    int64_t number = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    return number;
}

static inline struct fan_broker *broker_open(const char *uri, bool stepped)
{
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    options.stepped = stepped;
    struct fan_broker *broker = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    if (fan_broker_open(uri, &options, &broker, &error) != FAN_OK)
        fail_msg("%s", error.message);
    return broker;
}

static inline struct fan_broker *broker_started(const char *uri)
{
    struct fan_broker *broker = broker_open(uri, false);
    assert_ok(fan_broker_start(broker));
    return broker;
}

static inline struct fan_reader *read_all(struct fan_broker *broker)
{
    struct fan_reader_options options = { .size = FAN_READER_OPTIONS_SIZE,
                                          .start = FAN_START_BEGINNING };
    struct fan_reader *reader = NULL;
    assert_ok(fan_broker_subscribe(broker, &options, &reader, NULL));
    return reader;
}

static inline const struct fan_event *next_event(struct fan_reader *reader)
{
    const struct fan_event *event = NULL;
    assert_ok(fan_reader_next(reader, 20000, &event));
    return event;
}

static inline void assert_no_event(struct fan_reader *reader)
{
    const struct fan_event *event = NULL;
    assert_int_equal(fan_reader_next(reader, 0, &event), FAN_AGAIN);
}

static inline void assert_payload(const struct fan_event *event, const char *wanted)
{
    struct fan_str payload = fan_event_payload(event);
    assert_int_equal(payload.size, strlen(wanted));
    assert_memory_equal(payload.data, wanted, payload.size);
}

/* Waits for a condition that another thread or process brings about. */
#define wait_until(condition)                                                                      \
    do {                                                                                           \
        int turns_ = 0;                                                                            \
        while (!(condition)) {                                                                     \
            assert_true(++turns_ < 20000);                                                         \
            poll(NULL, 0, 1);                                                                      \
        }                                                                                          \
    } while (0)

static inline int at_a_place_setup(void **state)
{
    struct place *place = test_calloc(1, sizeof(*place));
    place_make(place);
    *state = place;
    return 0;
}

static inline int at_a_place_teardown(void **state)
{
    place_remove(*state);
    test_free(*state);
    return 0;
}

#define at_a_place(test)                                                                           \
    cmocka_unit_test_setup_teardown(test, at_a_place_setup, at_a_place_teardown)

#endif
