/* The default broker: its life, who may use it when, and what its shutdown does. */
#include <fanfare/batch.h>
#include <fanfare/default.h>
#include <fanfare/store.h>

#include "../folder.h"
#include "../test.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define ENABLED "event_broker: {enabled: true, instance_id: box}"
#define THREADS 8

static const char *const nothing[] = { NULL };

static struct fan_config_options options_for(const char *text)
{
    struct fan_config_options options = FAN_CONFIG_OPTIONS_INIT;
    options.text = text;
    options.environment = nothing;
    return options;
}

static enum fan_status init(const char *text, struct fan_error *error)
{
    struct fan_config_options options = options_for(text);
    return fan_default_init(&options, error);
}

static enum fan_status publish(struct fan_error *error)
{
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "public.users.create" };
    return fan_default_publish(&draft, NULL, error);
}

/* Events that a handler was given, for a test to wait on. */
struct heard {
    pthread_mutex_t mutex;
    pthread_cond_t grown;
    unsigned count;
};

static struct heard heard = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0 };

static enum fan_verdict on_event(void *context, const struct fan_event *event,
                                 const struct fan_handling *handling)
{
    struct heard *to = context;
    (void)event;
    (void)handling;
    pthread_mutex_lock(&to->mutex);
    to->count++;
    pthread_cond_broadcast(&to->grown);
    pthread_mutex_unlock(&to->mutex);
    return FAN_VERDICT_DONE;
}

static void wait_for(struct heard *what, unsigned count)
{
    pthread_mutex_lock(&what->mutex);
    while (what->count < count)
        pthread_cond_wait(&what->grown, &what->mutex);
    pthread_mutex_unlock(&what->mutex);
}

static void assert_before_init(void)
{
    struct fan_broker *broker = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    assert_int_equal(publish(&error), FAN_MISUSE);
    assert_non_null(strstr(error.message, "before fan_default_init"));
    assert_int_equal(fan_default_get(&broker, &error), FAN_MISUSE);
    assert_int_equal(fan_default_subscribe(">", on_event, &heard, &error), FAN_MISUSE);
    assert_int_equal(fan_default_on_shutdown(free, NULL), FAN_MISUSE);
    assert_null(broker);
    assert_ok(fan_default_shutdown(0));
}

static void test_H16_used_before_init_is_a_typed_error(void **state)
{
    (void)state;
    assert_before_init();
}

static void test_H16_init_publish_subscribe_shutdown_and_again(void **state)
{
    (void)state;
    for (int life = 0; life < 3; life++) {
        struct fan_broker *broker = NULL;
        heard.count = 0;
        assert_ok(init(ENABLED, NULL));
        assert_ok(fan_default_get(&broker, NULL));
        assert_string_equal(fan_broker_defaults(broker)->instance_id, "box");
        assert_ok(fan_default_subscribe("public.*.create", on_event, &heard, NULL));
        assert_ok(publish(NULL));
        wait_for(&heard, 1);
        assert_ok(fan_default_shutdown(5000));
        assert_before_init();
    }
}

static void test_H16_twice_is_an_error_and_changes_nothing(void **state)
{
    (void)state;
    struct fan_broker *broker = NULL;
    struct fan_broker *other = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    assert_ok(init(ENABLED, NULL));
    assert_ok(fan_default_get(&broker, NULL));
    assert_int_equal(init(ENABLED, &error), FAN_EXISTS);
    assert_int_equal(fan_default_set(broker, &error), FAN_EXISTS);
    assert_ok(fan_default_get(&other, NULL));
    assert_ptr_equal(broker, other);
    assert_ok(fan_default_shutdown(5000));
}

static void test_H16_a_bad_configuration_leaves_none(void **state)
{
    (void)state;
    struct fan_error error = FAN_ERROR_INIT;
    assert_int_equal(init("event_broker: {worker_count: none}", &error), FAN_INVALID);
    assert_string_equal(error.field, "event_broker.worker_count");
    assert_int_equal(init("event_broker: {enabled: true, provider: nats}", &error), FAN_INVALID);
    assert_string_equal(error.field, "event_broker.provider");
    assert_before_init();
}

static void test_H16_what_is_disabled_says_so_and_loses_nothing_in_silence(void **state)
{
    (void)state;
    static const char *const texts[] = { "", "event_broker: {enabled: false}" };
    for (size_t i = 0; i < 2; i++) {
        struct fan_broker *broker = NULL;
        struct fan_error error = FAN_ERROR_INIT;
        assert_ok(init(texts[i], &error));
        assert_int_equal(publish(&error), FAN_UNAVAILABLE);
        assert_string_equal(error.field, "event_broker.enabled");
        assert_int_equal(fan_default_get(&broker, &error), FAN_UNAVAILABLE);
        assert_int_equal(fan_default_subscribe(">", on_event, &heard, &error), FAN_UNAVAILABLE);
        assert_int_equal(init(ENABLED, &error), FAN_EXISTS);
        assert_ok(fan_default_shutdown(0));
    }
}

/* What call-backs did, in their order. */
struct trail {
    char text[64];
    enum fan_status published;
    enum fan_status stopped;
    enum fan_status registered;
    enum fan_status initialised;
};

static struct trail trail;

static void leave_mark(void *context)
{
    strcat(trail.text, context);
    trail.published = publish(NULL);
    trail.stopped = fan_default_shutdown(0);
    trail.registered = fan_default_on_shutdown(free, NULL);
    trail.initialised = init(ENABLED, NULL);
}

static void test_H16_shutdown_runs_call_backs_once_in_reverse(void **state)
{
    (void)state;
    static char one[] = "one ";
    static char two[] = "two ";
    static char three[] = "three ";
    trail = (struct trail){ .text = "" };
    heard.count = 0;
    assert_ok(init(ENABLED, NULL));
    assert_ok(fan_default_subscribe(">", on_event, &heard, NULL));
    assert_ok(fan_default_on_shutdown(leave_mark, one));
    assert_ok(fan_default_on_shutdown(leave_mark, two));
    assert_ok(fan_default_on_shutdown(leave_mark, three));
    assert_int_equal(fan_default_on_shutdown(NULL, NULL), FAN_INVALID);
    assert_ok(fan_default_shutdown(5000));
    assert_string_equal(trail.text, "three two one ");
    /* A call-back may still publish, and must not do what waits for itself. */
    assert_ok(trail.published);
    assert_int_equal(trail.stopped, FAN_MISUSE);
    assert_int_equal(trail.registered, FAN_MISUSE);
    assert_int_equal(trail.initialised, FAN_EXISTS);
    assert_ok(fan_default_shutdown(5000));
    assert_string_equal(trail.text, "three two one ");
    assert_ok(init(ENABLED, NULL));
    assert_ok(fan_default_shutdown(5000));
    assert_string_equal(trail.text, "three two one ");
}

static void test_H16_call_backs_have_a_bound(void **state)
{
    (void)state;
    static char mark[] = "x";
    trail = (struct trail){ .text = "" };
    assert_ok(init(ENABLED, NULL));
    for (int i = 0; i < FAN_DEFAULT_CALL_COUNT_MAX; i++)
        assert_ok(fan_default_on_shutdown(leave_mark, mark));
    assert_int_equal(fan_default_on_shutdown(leave_mark, mark), FAN_FULL);
    assert_ok(fan_default_shutdown(5000));
    assert_int_equal(strlen(trail.text), FAN_DEFAULT_CALL_COUNT_MAX);
}

static void test_H16_shutdown_drains_what_is_queued(void **state)
{
    (void)state;
    char folder[TEST_FOLDER_SIZE];
    char text[256];
    char uri[128];
    struct fan_broker *broker = NULL;
    assert_true(test_folder_make(folder));
    snprintf(uri, sizeof(uri), "sqlite:%s/log.db", folder);
    snprintf(text, sizeof(text),
             "event_broker: {enabled: true, provider: database, database: {uri: '%s'}}", uri);
    assert_ok(init(text, NULL));
    assert_ok(fan_default_get(&broker, NULL));
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
    for (int i = 0; i < 1000; i++)
        assert_ok(fan_broker_publish_async(broker, &draft, NULL, NULL, NULL));
    assert_ok(fan_default_shutdown(30000));
    struct fan_store *store = NULL;
    struct fan_store_stats stats = { .size = sizeof(stats) };
    assert_ok(fan_store_open(uri, NULL, &store, NULL));
    assert_ok(fan_store_stats(store, &stats));
    assert_int_equal(stats.events, 1000);
    fan_store_close(store);
    strcat(strcpy(text, folder), "/log.db");
    assert_int_equal(unlink(text), 0);
    assert_int_equal(rmdir(folder), 0);
}

static void test_H16_a_broker_of_ones_own_is_stopped_and_not_freed(void **state)
{
    (void)state;
    struct fan_broker *broker = NULL;
    struct fan_broker *got = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    assert_int_equal(fan_default_set(NULL, &error), FAN_INVALID);
    assert_ok(fan_broker_open("memory:", NULL, &broker, NULL));
    assert_ok(fan_broker_start(broker));
    assert_ok(fan_default_set(broker, &error));
    assert_ok(fan_default_get(&got, NULL));
    assert_ptr_equal(got, broker);
    assert_ok(publish(NULL));
    assert_ok(fan_default_shutdown(5000));
    struct fan_broker_stats stats = { .size = sizeof(stats) };
    fan_broker_stats(broker, &stats);
    assert_false(stats.running);
    assert_int_equal(stats.published, 1);
    fan_broker_free(broker);
}

static enum fan_status inside;

static enum fan_verdict shut_down_inside(void *context, const struct fan_event *event,
                                         const struct fan_handling *handling)
{
    inside = fan_default_shutdown(0);
    return on_event(context, event, handling);
}

static void test_H16_shutdown_in_a_handler_is_a_typed_error(void **state)
{
    (void)state;
    heard.count = 0;
    assert_ok(init(ENABLED, NULL));
    assert_ok(fan_default_subscribe(">", shut_down_inside, &heard, NULL));
    assert_ok(publish(NULL));
    wait_for(&heard, 1);
    assert_ok(fan_default_shutdown(5000));
    assert_int_equal(inside, FAN_MISUSE);
}

static struct heard begun = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0 };
static struct heard let_go = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0 };

static enum fan_verdict hang(void *context, const struct fan_event *event,
                             const struct fan_handling *handling)
{
    on_event(&begun, event, handling);
    wait_for(&let_go, 1);
    return on_event(context, event, handling);
}

static void test_H09_shutdown_does_not_wait_for_a_handler_that_hangs(void **state)
{
    (void)state;
    heard.count = begun.count = let_go.count = 0;
    assert_ok(init(ENABLED, NULL));
    assert_ok(fan_default_subscribe(">", hang, &heard, NULL));
    assert_ok(publish(NULL));
    wait_for(&begun, 1);
    assert_int_equal(fan_default_shutdown(50), FAN_TIMED_OUT);
    assert_int_equal(heard.count, 0);
    /* Another takes its place; and a shutdown with nothing to stop does not wait either. */
    assert_ok(init(ENABLED, NULL));
    assert_ok(publish(NULL));
    assert_ok(fan_default_shutdown(5000));
    assert_ok(fan_default_shutdown(0));
    on_event(&let_go, NULL, NULL);
    wait_for(&heard, 1);
    assert_ok(fan_default_shutdown(0));
}

/* ---- Threads ---- */

static atomic_uint accepted;
static atomic_uint initialised;
static atomic_uint calls;

static void count_call(void *context)
{
    (void)context;
    atomic_fetch_add(&calls, 1);
}

static void *run_life(void *context)
{
    (void)context;
    for (int round = 0; round < 50; round++) {
        enum fan_status status = init(ENABLED, NULL);
        if (status == FAN_OK)
            atomic_fetch_add(&initialised, 1);
        else if (status != FAN_EXISTS)
            return "init";
        status = fan_default_on_shutdown(count_call, NULL);
        if (status == FAN_OK)
            atomic_fetch_add(&accepted, 1);
        else if (status != FAN_MISUSE && status != FAN_FULL)
            return "on_shutdown";
        status = publish(NULL);
        if (status != FAN_OK && status != FAN_MISUSE && status != FAN_CLOSED)
            return "publish";
        status = fan_default_subscribe(">", on_event, &heard, NULL);
        if (status != FAN_OK && status != FAN_MISUSE && status != FAN_CLOSED)
            return "subscribe";
        status = fan_default_shutdown(5000);
        if (status != FAN_OK)
            return "shutdown";
    }
    return NULL;
}

static void test_H16_any_thread_may_use_and_end_it(void **state)
{
    (void)state;
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, run_life, NULL), 0);
    for (int i = 0; i < THREADS; i++) {
        void *wrong = NULL;
        pthread_join(threads[i], &wrong);
        if (wrong)
            fail_msg("%s", (const char *)wrong);
    }
    /* Every call-back that was taken ran, once. */
    assert_ok(fan_default_shutdown(5000));
    assert_true(atomic_load(&initialised) > 0);
    assert_int_equal(atomic_load(&calls), atomic_load(&accepted));
    assert_before_init();
}

static void test_R03_a_forks_child_is_told(void **state)
{
    (void)state;
    assert_ok(init(ENABLED, NULL));
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct fan_broker *broker = NULL;
        struct fan_error error = FAN_ERROR_INIT;
        bool told = publish(&error) == FAN_FORKED && error.message[0] &&
                    init(ENABLED, &error) == FAN_FORKED &&
                    fan_default_get(&broker, NULL) == FAN_FORKED &&
                    fan_default_subscribe(">", on_event, &heard, NULL) == FAN_FORKED &&
                    fan_default_on_shutdown(count_call, NULL) == FAN_FORKED &&
                    fan_default_shutdown(0) == FAN_FORKED;
        _exit(told ? 0 : 1);
    }
    int code = -1;
    assert_int_equal(waitpid(child, &code, 0), child);
    assert_int_equal(code, 0);
    assert_ok(publish(NULL));
    assert_ok(fan_default_shutdown(5000));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_H16_used_before_init_is_a_typed_error),
        cmocka_unit_test(test_H16_init_publish_subscribe_shutdown_and_again),
        cmocka_unit_test(test_H16_twice_is_an_error_and_changes_nothing),
        cmocka_unit_test(test_H16_a_bad_configuration_leaves_none),
        cmocka_unit_test(test_H16_what_is_disabled_says_so_and_loses_nothing_in_silence),
        cmocka_unit_test(test_H16_shutdown_runs_call_backs_once_in_reverse),
        cmocka_unit_test(test_H16_call_backs_have_a_bound),
        cmocka_unit_test(test_H16_shutdown_drains_what_is_queued),
        cmocka_unit_test(test_H16_a_broker_of_ones_own_is_stopped_and_not_freed),
        cmocka_unit_test(test_H16_shutdown_in_a_handler_is_a_typed_error),
        cmocka_unit_test(test_H09_shutdown_does_not_wait_for_a_handler_that_hangs),
        cmocka_unit_test(test_H16_any_thread_may_use_and_end_it),
        cmocka_unit_test(test_R03_a_forks_child_is_told),
    };
    return cmocka_run_group_tests_name("default", tests, NULL, NULL);
}
