/* What the tests of the SQLite provider share: a folder of their own, events, small doings. */
#ifndef TESTS_STORE_SQLITE_SUPPORT_H
#define TESTS_STORE_SQLITE_SUPPORT_H

#include "../folder.h"
#include "../test.h"

#include <fanfare/batch.h>
#include <fanfare/fanfare.h>
#include <fanfare/group.h>
#include <fanfare/provider.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct place {
    char folder[TEST_FOLDER_SIZE];
    char path[96];
    char uri[160];
};

static inline int place_make(void **state)
{
    struct place *place = test_calloc(1, sizeof(*place));
    if (!test_folder_make(place->folder))
        return -1;
    snprintf(place->path, sizeof(place->path), "%s/events.db", place->folder);
    snprintf(place->uri, sizeof(place->uri), "sqlite:%s", place->path);
    *state = place;
    return 0;
}

static inline int place_remove(void **state)
{
    struct place *place = *state;
    test_folder_remove(place->folder);
    test_free(place);
    return 0;
}

#define at_a_place(test) cmocka_unit_test_setup_teardown(test, place_make, place_remove)

static inline struct fan_store *store_open(const char *uri)
{
    struct fan_store *store = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    if (fan_store_open(uri, NULL, &store, &error) != FAN_OK)
        fail_msg("%s", error.message);
    return store;
}

static inline struct fan_event *event_of(const struct fan_event_draft *draft)
{
    struct fan_event *event = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    if (fan_event_new(draft, NULL, &event, &error) != FAN_OK)
        fail_msg("%s: %s", error.field, error.message);
    return event;
}

/* Appends one event by its draft. */
static inline enum fan_status store_add(struct fan_store *store,
                                        const struct fan_event_draft *draft,
                                        struct fan_append *ret_item)
{
    struct fan_event *event = event_of(draft);
    struct fan_append item = { .event = event };
    struct fan_error error = FAN_ERROR_INIT;
    enum fan_status status = fan_store_append(store, &item, 1, &error);
    if (status == FAN_OK)
        status = item.ret_status;
    item.event = NULL;
    if (ret_item)
        *ret_item = item;
    fan_event_free(event, NULL);
    return status;
}

/* Appends an event of a type to a topic; gives its sequence. */
static inline uint64_t store_say(struct fan_store *store, const char *type, const char *topic)
{
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = type, .topic = topic };
    struct fan_append item = { 0 };
    assert_ok(store_add(store, &draft, &item));
    return item.ret_seq;
}

static inline struct fan_batch *batch_new(void)
{
    struct fan_batch *batch = NULL;
    assert_ok(fan_batch_new(NULL, &batch));
    return batch;
}

#endif
