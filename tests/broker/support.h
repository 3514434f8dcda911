/* What the broker's tests share: every store that the broker must behave on, and small doings. */
#ifndef TESTS_BROKER_SUPPORT_H
#define TESTS_BROKER_SUPPORT_H

#include "../folder.h"
#include "../test.h"

#include <fanfare/fanfare.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct place {
    const char *scheme;
    char folder[TEST_FOLDER_SIZE];
    char uri[128];
};

/* The stores, as cmocka's initial states. */
static __attribute__((unused)) char scheme_memory[] = "memory";
static __attribute__((unused)) char scheme_sqlite[] = "sqlite";

/* A store of its own for each test; `scheme` is "memory" or "sqlite". */
static inline void place_make(struct place *place, const char *scheme)
{
    place->scheme = scheme;
    assert_true(test_folder_make(place->folder));
    if (strcmp(scheme, scheme_memory) == 0)
        strcpy(place->uri, "memory:");
    else if (strcmp(scheme, scheme_sqlite) == 0)
        snprintf(place->uri, sizeof(place->uri), "sqlite:%s/events.db", place->folder);
    else
        fail_msg("a place of no scheme: was the test given a place already?");
}

static inline void place_remove(struct place *place)
{
    test_folder_remove(place->folder);
}

static inline struct fan_broker *broker_open(const struct place *place)
{
    struct fan_broker *broker = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    if (fan_broker_open(place->uri, NULL, &broker, &error) != FAN_OK)
        fail_msg("%s", error.message);
    return broker;
}

static inline struct fan_broker *broker_started(const struct place *place)
{
    struct fan_broker *broker = broker_open(place);
    assert_ok(fan_broker_start(broker));
    return broker;
}

static inline uint64_t publish(struct fan_broker *broker, const char *type, const char *topic)
{
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = type, .topic = topic };
    struct fan_cursor cursor = { 0, 0 };
    struct fan_error error = FAN_ERROR_INIT;
    if (fan_broker_publish(broker, &draft, &cursor, &error) != FAN_OK)
        fail_msg("%s: %s", error.field, error.message);
    assert_true(cursor.epoch != 0);
    return cursor.seq;
}

/* Events of type a.b.c, without a topic. */
static inline void publish_times(struct fan_broker *broker, size_t count)
{
    for (size_t i = 0; i < count; i++)
        publish(broker, "a.b.c", NULL);
}

static inline struct fan_reader *subscribe_from(struct fan_broker *broker, enum fan_start start,
                                                struct fan_cursor cursor)
{
    struct fan_reader_options options = { .size = FAN_READER_OPTIONS_SIZE,
                                          .start = start,
                                          .cursor = cursor };
    struct fan_reader *reader = NULL;
    assert_ok(fan_broker_subscribe(broker, &options, &reader, NULL));
    return reader;
}

static inline uint64_t next_seq(struct fan_reader *reader)
{
    const struct fan_event *event = NULL;
    assert_ok(fan_reader_next(reader, 10000, &event));
    return fan_event_seq(event);
}

/* A test that makes its own places is told the scheme, the others are given a place. */
#define on_every_scheme(test)                                                                      \
    { #test " (memory)", test, NULL, NULL, scheme_memory },                                        \
    {                                                                                              \
#test " (sqlite)", test, NULL, NULL, scheme_sqlite                                         \
    }

static inline int place_setup(void **state)
{
    struct place *place = test_calloc(1, sizeof(*place));
    place_make(place, *state);
    *state = place;
    return 0;
}

static inline int place_teardown(void **state)
{
    place_remove(*state);
    test_free(*state);
    return 0;
}

#define on_memory(test)                                                                            \
    cmocka_unit_test_prestate_setup_teardown(test, place_setup, place_teardown, scheme_memory)
#define on_sqlite(test)                                                                            \
    cmocka_unit_test_prestate_setup_teardown(test, place_setup, place_teardown, scheme_sqlite)
#define on_every_store(test)                                                                       \
    { #test " (memory)", test, place_setup, place_teardown, scheme_memory },                       \
    {                                                                                              \
#test " (sqlite)", test, place_setup, place_teardown, scheme_sqlite                        \
    }

#endif
