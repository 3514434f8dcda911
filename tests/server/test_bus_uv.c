/*
 * A subscription's descriptor in a loop of libuv. It is here because the bus's own tests link
 * nothing but the bus (B21).
 */
#include "../bus/bus_test.h"

#include "base/thread.h"

#include <uv.h>

enum { COUNT = 3000 };

struct reader {
    struct fan_subscription *subscription;
    uint64_t last_seq;
    unsigned calls;
};

static void publish_all(void *context)
{
    struct fan_bus *bus = context;
    for (int i = 0; i < COUNT && try_publish(bus, NULL, "a", NULL) == FAN_OK; i++)
        ;
    fan_bus_close(bus);
}

static void read_all(uv_poll_t *poll, int status, int events)
{
    struct reader *reader = poll->data;
    const struct fan_message *message;
    enum fan_status got;
    assert_int_equal(status, 0);
    assert_int_equal(events, UV_READABLE);
    uint64_t before = reader->last_seq;
    while ((got = fan_subscription_next(reader->subscription, 0, &message)) == FAN_OK) {
        assert_int_equal(message->seq, reader->last_seq + 1);
        reader->last_seq = message->seq;
    }
    reader->calls++;
    if (got == FAN_CLOSED) {
        assert_int_equal(uv_poll_stop(poll), 0);
        uv_close((uv_handle_t *)poll, NULL);
    } else {
        /* It was readable: a call is never in vain. */
        assert_int_equal(got, FAN_AGAIN);
        assert_true(reader->last_seq > before);
    }
}

static void test_B19_the_descriptor_works_with_libuv(void **state)
{
    (void)state;
    struct fan_bus *bus = open_blocking(FAN_TIMEOUT_FOREVER);
    struct reader reader = { .subscription = subscribe(bus, FAN_POLICY_BLOCK, 16) };
    int descriptor;
    assert_ok(fan_subscription_fd(reader.subscription, &descriptor));
    uv_loop_t loop;
    uv_poll_t poll = { .data = &reader };
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(uv_poll_init(&loop, &poll, descriptor), 0);
    assert_int_equal(uv_poll_start(&poll, UV_READABLE, read_all), 0);
    /* Nothing is there: the loop finds nothing to call. */
    assert_int_equal(uv_run(&loop, UV_RUN_NOWAIT), 1);
    assert_int_equal(reader.calls, 0);
    struct fan__thread publisher = { .started = false };
    assert_ok(fan__thread_start(&publisher, "publisher", publish_all, bus));
    assert_int_equal(uv_run(&loop, UV_RUN_DEFAULT), 0);
    fan__thread_join(&publisher);
    assert_int_equal(reader.last_seq, COUNT);
    assert_int_equal(uv_loop_close(&loop), 0);
    fan_subscription_free(reader.subscription);
    fan_bus_free(bus);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_B19_the_descriptor_works_with_libuv),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
