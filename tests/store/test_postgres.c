/* The PostgreSQL provider over a real server. */
#include "postgres.h"
#include "test.h"

#include <fanfare/store.h>

#include <string.h>

static struct test_postgres server;

static int start(void **state)
{
    (void)state;
    return test_postgres_start(&server, NULL) ? 0 : -1;
}

static int end(void **state)
{
    (void)state;
    test_postgres_end(&server);
    return 0;
}

static struct fan_store *open_store(const char *options)
{
    char uri[256];
    struct fan_store *store = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    test_postgres_uri(&server, options, uri, sizeof(uri));
    if (fan_store_open(uri, NULL, &store, &error) != FAN_OK)
        fail_msg("%s", error.message);
    return store;
}

static void test_P07_a_log_is_made_once_and_keeps_its_epoch(void **state)
{
    (void)state;
    struct fan_store *first = open_store("schema=made%20once&table=a%22b");
    struct fan_store *second = open_store("schema=made%20once&table=a%22b");
    struct fan_store *other = open_store("schema=made%20once&table=c");
    assert_string_equal(fan_store_name(first), "postgres");
    assert_int_equal(fan_store_epoch(first), fan_store_epoch(second));
    assert_int_not_equal(fan_store_epoch(first), fan_store_epoch(other));
    fan_store_close(first);
    fan_store_close(second);
    fan_store_close(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_P07_a_log_is_made_once_and_keeps_its_epoch),
    };
    return cmocka_run_group_tests(tests, start, end);
}
