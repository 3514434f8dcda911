/*
 * Kinds that are mixed up, with structs of the same size: test_kinds.py has what does not compile.
 */
#include "typed_test.h"

struct celsius {
    double degrees;
};

struct metres {
    double length;
};

/* Two of one size, in a table that has them the other way round. */
enum { CELSIUS, METRES };
FAN_KIND_DECLARE(celsius, CELSIUS, "unit.celsius", struct celsius)
FAN_KIND_DECLARE(metres, METRES, "unit.metres", struct metres)
static const struct fan_kind mixed_up[] = { FAN_KIND(metres), FAN_KIND(celsius) };

static void test_B10_a_struct_of_the_same_size_is_a_typed_error(void **state)
{
    (void)state;
    struct fan_bus_options options = FAN_BUS_OPTIONS_INIT;
    options.kinds = mixed_up;
    options.kind_count = 2;
    struct fan_bus *bus = open_with(&options);
    struct fan_subscription *all = subscribe_kinds(bus, NULL, 0);
    struct celsius celsius = { 7 };
    struct metres metres = { 8 };
    struct fan_message message = { .size = FAN_MESSAGE_SIZE,
                                   .kind = METRES,
                                   .payload = { (const char *)&celsius, sizeof(celsius) } };
    const struct fan_message *got;
    /* Also where it is like the one before. */
    for (int i = 0; i < 4; i++) {
        assert_int_equal(celsius_publish(bus, NULL, &celsius, NULL), FAN_INVALID);
        assert_int_equal(metres_publish(bus, NULL, &metres, NULL), FAN_INVALID);
        assert_ok(fan_bus_publish(bus, &message, NULL));
        assert_ok(fan_subscription_next(all, 0, &got));
        assert_string_equal(got->type, "unit.celsius");
        assert_int_equal(metres_read(got, &metres), FAN_INVALID);
        assert_int_equal(celsius_read(got, &celsius), FAN_INVALID);
    }
    assert_true(metres.length > 7.9);
    fan_subscription_free(all);
    fan_bus_free(bus);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_B10_a_struct_of_the_same_size_is_a_typed_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
