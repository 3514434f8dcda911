/*
 * Brokers on stores that fail (fanfare/fault.h): whatever the store answers, and whenever, what was
 * acknowledged is stored, what is stored was attempted, each once; every event comes to its end
 * with every group; readers see all of it in order. A run follows from its seed, but for the order
 * in which threads come; FANFARE_SEED repeats one, FANFARE_SOAK=1 runs many.
 */
#include "support.h"

#include <fanfare/fault.h>

static struct fan_broker *broker_over(struct fan_store *store, bool stepped)
{
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    struct fan_broker *broker = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    options.store = store;
    options.stepped = stepped;
    if (fan_broker_open(NULL, &options, &broker, &error) != FAN_OK)
        fail_msg("%s: %s", error.field, error.message);
    assert_ok(fan_broker_start(broker));
    return broker;
}

static void test_L06_a_log_outlives_a_broker_that_crashed(void **state)
{
    struct place place;
    struct fan_store *inner = NULL;
    struct fan_store *store = NULL;
    place_make(&place, *state);
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c", .id = "one" };
    assert_ok(fan_store_open(place.uri, NULL, &inner, NULL));
    assert_ok(fan_fault_wrap(inner, "append.crash_done=100%", NULL, &store, NULL));
    struct fan_broker *broker = broker_over(store, true);
    assert_int_not_equal(fan_broker_publish(broker, &draft, NULL, NULL), FAN_OK);
    assert_true(fan_fault_crashed(store));
    draft.id = "two";
    assert_int_equal(fan_broker_publish(broker, &draft, NULL, NULL), FAN_IO);
    fan_broker_free(broker);
    fan_store_close(store);

    struct fan_cursor cursor;
    broker = broker_over(inner, true);
    assert_ok(fan_broker_publish(broker, &draft, &cursor, NULL));
    assert_int_equal(cursor.seq, 2);
    assert_int_equal(cursor.epoch, fan_store_epoch(inner));
    fan_broker_free(broker);
    uint64_t head_seq = 0;
    assert_ok(fan_store_head(inner, &head_seq));
    assert_int_equal(head_seq, 2);
    fan_store_close(inner);
    place_remove(&place);
}

static void test_P15_a_broker_takes_a_store_or_a_uri(void **state)
{
    (void)state;
    struct fan_store *store = NULL;
    struct fan_broker *broker = NULL;
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    struct fan_error error = FAN_ERROR_INIT;
    assert_int_equal(fan_broker_open(NULL, &options, &broker, &error), FAN_INVALID);
    assert_string_equal(error.field, "uri");
    assert_ok(fan_store_open("memory:", NULL, &store, NULL));
    options.store = store;
    assert_int_equal(fan_broker_open("memory:", &options, &broker, &error), FAN_INVALID);
    assert_string_equal(error.field, "store");
    fan_store_close(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_every_store(test_L06_a_log_outlives_a_broker_that_crashed),
        cmocka_unit_test(test_P15_a_broker_takes_a_store_or_a_uri),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
