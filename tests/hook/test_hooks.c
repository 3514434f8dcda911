/*
 * The registry of hooks, and a broker as one of them (H11). No database: any data layer may call.
 */
#include "support.h"

struct diary {
    char text[512];
};

struct writer {
    struct diary *diary;
    const char *name;
    struct fan_hooks *hooks;
    struct fan_hook *remove; /* from within */
    struct fan_hook *removes_itself;
    bool adds;
    enum fan_status refusal;
    const char *field;
    const char *words;
};

static void note(struct writer *writer, const char *when, const struct fan_operation *operation)
{
    size_t used = strlen(writer->diary->text);
    snprintf(writer->diary->text + used, sizeof(writer->diary->text) - used, "%s%s %s %s.%s;",
             writer->name, when, fan_crud_name(operation->crud), operation->schema,
             operation->entity);
}

static void on_after(void *context, const struct fan_operation *operation);

static enum fan_status on_before(void *context, const struct fan_operation *operation,
                                 struct fan_error *error)
{
    struct writer *writer = context;
    assert_non_null(error);
    note(writer, "<", operation);
    if (writer->refusal != FAN_OK && writer->words)
        snprintf(error->message, sizeof(error->message), "%s", writer->words);
    if (writer->refusal != FAN_OK && writer->field)
        snprintf(error->field, sizeof(error->field), "%s", writer->field);
    return writer->refusal;
}

static void on_after(void *context, const struct fan_operation *operation)
{
    struct writer *writer = context;
    note(writer, ">", operation);
    fan_hook_remove(writer->remove);
    writer->remove = NULL;
    struct fan_hook *itself = writer->removes_itself;
    writer->removes_itself = NULL;
    fan_hook_remove(itself);
    if (writer->adds) {
        writer->adds = false;
        struct fan_hook_options options = { .size = FAN_HOOK_OPTIONS_SIZE,
                                            .after = on_after,
                                            .context = writer };
        assert_ok(fan_hooks_add(writer->hooks, &options, NULL, NULL));
    }
}

static struct fan_hooks *hooks_new(void)
{
    struct fan_hooks *hooks = NULL;
    assert_ok(fan_hooks_new(NULL, &hooks));
    return hooks;
}

static struct fan_hook *add(struct fan_hooks *hooks, struct writer *writer, unsigned operations,
                            const char *schema, const char *entity)
{
    struct fan_hook_options options = {
        .size = FAN_HOOK_OPTIONS_SIZE,
        .operations = operations,
        .schema = schema,
        .entity = entity,
        .before = on_before,
        .after = on_after,
        .context = writer,
    };
    struct fan_hook *hook = NULL;
    assert_ok(fan_hooks_add(hooks, &options, &hook, NULL));
    return hook;
}

static const struct fan_operation creation = {
    .size = FAN_OPERATION_SIZE,
    .crud = FAN_CRUD_CREATE,
    .schema = "main",
    .entity = "users",
    .id = FAN_STR("42"),
    .data = FAN_STR("{\"id\": 42, \"name\": \"Ada\"}"),
    .topic = "users:42",
    .user_id = 7,
    .session_id = "s1",
    .metadata = FAN_STR("{\"why\": \"test\"}"),
};

static void operate(struct fan_hooks *hooks, enum fan_crud crud, const char *schema,
                    const char *entity)
{
    struct fan_operation operation = creation;
    operation.crud = crud;
    operation.schema = schema;
    operation.entity = entity;
    assert_ok(fan_hooks_before(hooks, &operation, NULL));
    fan_hooks_after(hooks, &operation);
}

static void test_H11_hooks_run_before_and_after_in_the_order_of_adding(void **state)
{
    (void)state;
    struct diary diary = { "" };
    struct writer a = { .diary = &diary, .name = "a" };
    struct writer b = { .diary = &diary, .name = "b" };
    struct fan_hooks *hooks = hooks_new();
    add(hooks, &a, 0, NULL, NULL);
    add(hooks, &b, 0, NULL, NULL);
    operate(hooks, FAN_CRUD_CREATE, "main", "users");
    operate(hooks, FAN_CRUD_READ, "main", "users");
    assert_string_equal(diary.text, "a< create main.users;b< create main.users;"
                                    "a> create main.users;b> create main.users;"
                                    "a< read main.users;b< read main.users;"
                                    "a> read main.users;b> read main.users;");
    fan_hooks_free(hooks);
}

static void test_H11_a_hook_is_for_all_or_for_a_schema_an_entity_an_operation(void **state)
{
    (void)state;
    struct diary diary = { "" };
    struct writer schema = { .diary = &diary, .name = "s" };
    struct writer entity = { .diary = &diary, .name = "e" };
    struct writer remove = { .diary = &diary, .name = "d" };
    struct fan_hooks *hooks = hooks_new();
    add(hooks, &schema, FAN_CRUD_CREATE, "main", NULL);
    add(hooks, &entity, FAN_CRUD_CREATE, NULL, "users");
    add(hooks, &remove, FAN_CRUD_DELETE | FAN_CRUD_UPDATE, "main", "users");
    operate(hooks, FAN_CRUD_CREATE, "main", "roles");
    assert_string_equal(diary.text, "s< create main.roles;s> create main.roles;");
    *diary.text = '\0';
    operate(hooks, FAN_CRUD_CREATE, "other", "users");
    assert_string_equal(diary.text, "e< create other.users;e> create other.users;");
    *diary.text = '\0';
    operate(hooks, FAN_CRUD_DELETE, "main", "users");
    operate(hooks, FAN_CRUD_UPDATE, "main", "users");
    operate(hooks, FAN_CRUD_DELETE, "main", "roles");
    assert_string_equal(diary.text, "d< delete main.users;d> delete main.users;"
                                    "d< update main.users;d> update main.users;");
    fan_hooks_free(hooks);
}

static void test_H11_a_before_hook_refuses_with_field_and_reason(void **state)
{
    (void)state;
    struct diary diary = { "" };
    struct writer a = { .diary = &diary, .name = "a" };
    struct writer b = { .diary = &diary,
                        .name = "b",
                        .refusal = FAN_DENIED,
                        .field = "name",
                        .words = "must not be Ada" };
    struct writer c = { .diary = &diary, .name = "c" };
    struct fan_hooks *hooks = hooks_new();
    struct fan_error error = FAN_ERROR_INIT;
    add(hooks, &a, 0, NULL, NULL);
    struct fan_hook *refusing = add(hooks, &b, 0, NULL, NULL);
    add(hooks, &c, 0, NULL, NULL);
    assert_int_equal(fan_hooks_before(hooks, &creation, &error), FAN_DENIED);
    assert_string_equal(error.field, "name");
    assert_string_equal(error.message, "must not be Ada");
    assert_int_equal(error.status, FAN_DENIED);
    assert_string_equal(diary.text, "a< create main.users;b< create main.users;");
    b.words = NULL;
    assert_int_equal(fan_hooks_before(hooks, &creation, &error), FAN_DENIED);
    assert_true(*error.message != '\0');
    assert_int_equal(fan_hooks_before(hooks, &creation, NULL), FAN_DENIED);
    struct fan_hook_stats stats = { .size = sizeof(stats) };
    fan_hook_stats(refusing, &stats);
    assert_int_equal(stats.calls, 3);
    assert_int_equal(stats.refused, 3);
    assert_string_equal(stats.refusal.field, "name");
    fan_hooks_free(hooks);
}

static void test_H11_hooks_are_added_and_removed_from_inside(void **state)
{
    (void)state;
    struct diary diary = { "" };
    struct writer a = { .diary = &diary, .name = "a" };
    struct writer b = { .diary = &diary, .name = "b" };
    struct writer c = { .diary = &diary, .name = "c" };
    struct fan_hooks *hooks = hooks_new();
    a.hooks = b.hooks = c.hooks = hooks;
    a.removes_itself = add(hooks, &a, FAN_CRUD_UPDATE, NULL, NULL);
    a.remove = add(hooks, &b, FAN_CRUD_UPDATE, NULL, NULL);
    add(hooks, &c, FAN_CRUD_UPDATE, NULL, NULL);
    c.adds = true;
    operate(hooks, FAN_CRUD_UPDATE, "x", "y");
    assert_string_equal(diary.text,
                        "a< update x.y;b< update x.y;c< update x.y;a> update x.y;c> update x.y;");
    *diary.text = '\0';
    operate(hooks, FAN_CRUD_UPDATE, "x", "y");
    /* The one that was added is an after hook of the same name. */
    assert_string_equal(diary.text, "c< update x.y;c> update x.y;c> update x.y;");
    fan_hooks_free(hooks);
}

static void test_H11_options_that_make_no_sense_are_refused_by_field(void **state)
{
    (void)state;
    struct fan_hooks *hooks = hooks_new();
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_hook_options options = { .size = FAN_HOOK_OPTIONS_SIZE };
    assert_int_equal(fan_hooks_add(hooks, &options, NULL, &error), FAN_INVALID);
    assert_string_equal(error.field, "before");
    options.before = on_before;
    options.operations = 1 << 4;
    assert_int_equal(fan_hooks_add(hooks, &options, NULL, &error), FAN_INVALID);
    assert_string_equal(error.field, "operations");
    options.operations = 0;
    options.size = 3;
    assert_int_equal(fan_hooks_add(hooks, &options, NULL, &error), FAN_INVALID);
    assert_string_equal(error.field, "size");
    options.size = FAN_HOOK_OPTIONS_SIZE;
    struct fan_broker *broker = broker_open("memory:", true);
    assert_int_equal(fan_hooks_publish(hooks, broker, &options, NULL, &error), FAN_INVALID);
    assert_string_equal(error.field, "before");
    struct fan_operation operation = creation;
    operation.crud = (enum fan_crud)3;
    assert_int_equal(fan_hooks_before(hooks, &operation, &error), FAN_INVALID);
    assert_string_equal(error.field, "crud");
    operation = creation;
    operation.entity = NULL;
    assert_int_equal(fan_hooks_before(hooks, &operation, &error), FAN_INVALID);
    assert_string_equal(error.field, "entity");
    assert_string_equal(fan_crud_name((enum fan_crud)0), "");
    fan_hooks_free(hooks);
    fan_broker_free(broker);
}

/* A hook that stands still until it is let go. */
struct gate {
    pthread_mutex_t mutex;
    pthread_cond_t news;
    bool entered;
    bool open;
    bool left;
};

static void on_gate(void *context, const struct fan_operation *operation)
{
    (void)operation;
    struct gate *gate = context;
    pthread_mutex_lock(&gate->mutex);
    gate->entered = true;
    pthread_cond_broadcast(&gate->news);
    while (!gate->open)
        pthread_cond_wait(&gate->news, &gate->mutex);
    gate->left = true;
    pthread_mutex_unlock(&gate->mutex);
}

static void *pass_gate(void *hooks)
{
    fan_hooks_after(hooks, &creation);
    return NULL;
}

struct removal {
    struct fan_hook *hook;
    struct gate *gate;
    bool left; /* the hook had, when the removal returned */
};

static void *remove_waiting(void *context)
{
    struct removal *removal = context;
    fan_hook_remove(removal->hook);
    pthread_mutex_lock(&removal->gate->mutex);
    removal->left = removal->gate->left;
    pthread_mutex_unlock(&removal->gate->mutex);
    return NULL;
}

static void test_H11_no_lock_is_held_while_a_hook_runs_and_removal_waits_for_it(void **state)
{
    (void)state;
    struct gate gate = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, false, false };
    struct diary diary = { "" };
    struct writer writer = { .diary = &diary, .name = "w" };
    struct fan_hooks *hooks = hooks_new();
    struct fan_hook_options options = { .size = FAN_HOOK_OPTIONS_SIZE,
                                        .operations = FAN_CRUD_CREATE,
                                        .after = on_gate,
                                        .context = &gate };
    struct removal removal = { NULL, &gate, false };
    assert_ok(fan_hooks_add(hooks, &options, &removal.hook, NULL));
    pthread_t passing;
    pthread_t removing;
    assert_int_equal(pthread_create(&passing, NULL, pass_gate, hooks), 0);
    pthread_mutex_lock(&gate.mutex);
    while (!gate.entered)
        pthread_cond_wait(&gate.news, &gate.mutex);
    pthread_mutex_unlock(&gate.mutex);
    /* The hook stands still, and the registry does not. */
    add(hooks, &writer, FAN_CRUD_DELETE, NULL, NULL);
    operate(hooks, FAN_CRUD_DELETE, "main", "users");
    assert_string_equal(diary.text, "w< delete main.users;w> delete main.users;");
    assert_int_equal(pthread_create(&removing, NULL, remove_waiting, &removal), 0);
    pthread_mutex_lock(&gate.mutex);
    assert_false(removal.left);
    gate.open = true;
    pthread_cond_broadcast(&gate.news);
    pthread_mutex_unlock(&gate.mutex);
    pthread_join(passing, NULL);
    pthread_join(removing, NULL);
    assert_true(removal.left);
    fan_hooks_after(hooks, &creation); /* nobody is there who would stand still */
    fan_hooks_free(hooks);
}

#define CROWD 16
#define ROUNDS 300

struct crowd {
    struct fan_hooks *hooks;
    pthread_mutex_t mutex;
    uint64_t calls;
};

static void on_crowd(void *context, const struct fan_operation *operation)
{
    struct crowd *crowd = context;
    assert_int_equal(operation->crud, FAN_CRUD_CREATE);
    pthread_mutex_lock(&crowd->mutex);
    crowd->calls++;
    pthread_mutex_unlock(&crowd->mutex);
}

static void *join_crowd(void *context)
{
    struct crowd *crowd = context;
    for (int i = 0; i < ROUNDS; i++) {
        struct crowd own = { crowd->hooks, PTHREAD_MUTEX_INITIALIZER, 0 };
        struct fan_hook_options options = { .size = FAN_HOOK_OPTIONS_SIZE,
                                            .after = on_crowd,
                                            .context = &own };
        struct fan_hook *hook = NULL;
        assert_ok(fan_hooks_add(crowd->hooks, &options, &hook, NULL));
        fan_hooks_after(crowd->hooks, &creation);
        fan_hook_remove(hook);
        /* Nobody is in it any more: `own` goes out of scope. */
        assert_true(own.calls >= 1);
        pthread_mutex_destroy(&own.mutex);
    }
    return NULL;
}

static void test_H11_sixteen_threads_add_call_and_remove(void **state)
{
    (void)state;
    struct crowd crowd = { hooks_new(), PTHREAD_MUTEX_INITIALIZER, 0 };
    struct fan_hook_options options = { .size = FAN_HOOK_OPTIONS_SIZE,
                                        .after = on_crowd,
                                        .context = &crowd };
    assert_ok(fan_hooks_add(crowd.hooks, &options, NULL, NULL));
    pthread_t threads[CROWD];
    for (int i = 0; i < CROWD; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, join_crowd, &crowd), 0);
    for (int i = 0; i < CROWD; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(crowd.calls, CROWD * ROUNDS);
    fan_hooks_free(crowd.hooks);
}

/* --- a broker as a hook ------------------------------------------------------------------- */

static struct fan_hook_stats stats_of(struct fan_hook *hook)
{
    struct fan_hook_stats stats = { .size = sizeof(stats) };
    fan_hook_stats(hook, &stats);
    return stats;
}

static void test_H11_a_broker_publishes_what_was_done(void **state)
{
    (void)state;
    struct fan_hooks *hooks = hooks_new();
    struct fan_broker *broker = broker_started("memory:");
    struct fan_hook *hook = NULL;
    assert_ok(fan_hooks_publish(hooks, broker, NULL, &hook, NULL));
    struct fan_reader *reader = read_all(broker);
    fan_hooks_after(hooks, &creation);
    struct fan_operation operation = creation;
    operation.crud = FAN_CRUD_READ; /* off, unless it is named */
    fan_hooks_after(hooks, &operation);
    operation.crud = FAN_CRUD_UPDATE;
    operation.data = (struct fan_str)FAN_STR("{\"name\": \"Eve\"}");
    fan_hooks_after(hooks, &operation);
    operation.crud = FAN_CRUD_DELETE;
    fan_hooks_after(hooks, &operation);
    const struct fan_event *event = next_event(reader);
    assert_string_equal(fan_event_type(event), "main.users.create");
    assert_int_equal(fan_event_source(event), FAN_SOURCE_DATABASE);
    assert_string_equal(fan_event_schema(event), "main");
    assert_string_equal(fan_event_entity(event), "users");
    assert_string_equal(fan_event_operation(event), "create");
    assert_string_equal(fan_event_topic(event), "users:42");
    assert_int_equal(fan_event_user_id(event), 7);
    assert_string_equal(fan_event_session_id(event), "s1");
    assert_int_equal(fan_event_metadata(event).size, creation.metadata.size);
    assert_memory_equal(fan_event_metadata(event).data, creation.metadata.data,
                        creation.metadata.size);
    assert_payload(event, creation.data.data);
    event = next_event(reader);
    assert_string_equal(fan_event_type(event), "main.users.update");
    assert_payload(event, "{\"id\": 42, \"data\": {\"name\": \"Eve\"}}");
    event = next_event(reader);
    assert_string_equal(fan_event_type(event), "main.users.delete");
    assert_payload(event, "{\"id\": 42}");
    wait_until(stats_of(hook).stored == 3);
    assert_int_equal(stats_of(hook).accepted, 3);
    assert_int_equal(stats_of(hook).calls, 3);
    assert_int_equal(stats_of(hook).refused, 0);
    assert_no_event(reader);
    fan_hook_remove(hook);
    fan_hooks_after(hooks, &creation);
    fan_broker_stop(broker, 10000);
    const struct fan_event *none = NULL;
    assert_int_equal(fan_reader_next(reader, 0, &none), FAN_CLOSED);
    fan_reader_free(reader);
    fan_hooks_free(hooks);
    fan_broker_free(broker);
}

static void test_H11_each_operation_is_switched_alone(void **state)
{
    (void)state;
    const enum fan_crud all[] = { FAN_CRUD_CREATE, FAN_CRUD_READ, FAN_CRUD_UPDATE,
                                  FAN_CRUD_DELETE };
    for (size_t i = 0; i < 4; i++) {
        struct fan_hooks *hooks = hooks_new();
        struct fan_broker *broker = broker_started("memory:");
        struct fan_hook_options options = { .size = FAN_HOOK_OPTIONS_SIZE, .operations = all[i] };
        struct fan_hook *hook = NULL;
        assert_ok(fan_hooks_publish(hooks, broker, &options, &hook, NULL));
        struct fan_reader *reader = read_all(broker);
        for (size_t j = 0; j < 4; j++)
            operate(hooks, all[j], "main", "users");
        assert_string_equal(fan_event_operation(next_event(reader)), fan_crud_name(all[i]));
        wait_until(stats_of(hook).stored == 1);
        assert_no_event(reader);
        fan_reader_free(reader);
        fan_hooks_free(hooks);
        fan_broker_free(broker);
    }
}

static void test_H11_a_refused_event_is_counted_and_never_fails_the_operation(void **state)
{
    (void)state;
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    options.stepped = true; /* nothing leaves the queue by itself */
    options.queue_count_max = 2;
    options.payload_size_max = 64;
    struct fan_broker *broker = NULL;
    struct fan_hook *hook = NULL;
    struct fan_hooks *hooks = hooks_new();
    assert_ok(fan_broker_open("memory:", &options, &broker, NULL));
    assert_ok(fan_hooks_publish(hooks, broker, NULL, &hook, NULL));
    fan_hooks_after(hooks, &creation); /* before start */
    assert_int_equal(stats_of(hook).refused, 1);
    assert_int_equal(stats_of(hook).refusal.status, FAN_MISUSE);
    assert_ok(fan_broker_start(broker));
    struct fan_operation large = creation;
    large.data = (struct fan_str)FAN_STR("{\"name\": \"0123456789012345678901234567890123456789"
                                         "0123456789012345678901234567890123456789\"}");
    fan_hooks_after(hooks, &large);
    assert_int_equal(stats_of(hook).refused, 2);
    assert_int_equal(stats_of(hook).refusal.status, FAN_INVALID);
    assert_string_equal(stats_of(hook).refusal.field, "payload");
    for (int i = 0; i < 3; i++)
        operate(hooks, FAN_CRUD_CREATE, "main", "users");
    assert_int_equal(stats_of(hook).accepted, 2);
    assert_int_equal(stats_of(hook).refused, 3);
    assert_int_equal(stats_of(hook).refusal.status, FAN_FULL);
    struct fan_operation strange = creation;
    strange.entity = "a.b";
    fan_hooks_after(hooks, &strange);
    assert_int_equal(stats_of(hook).refused, 4);
    assert_string_equal(stats_of(hook).refusal.field, "type");
    fan_broker_stop(broker, 10000);
    assert_int_equal(stats_of(hook).stored, 2);
    fan_hooks_after(hooks, &creation);
    assert_int_equal(stats_of(hook).refused, 5);
    assert_int_equal(stats_of(hook).refusal.status, FAN_CLOSED);
    assert_int_equal(stats_of(hook).calls, 7);
    assert_int_equal(stats_of(hook).accepted, stats_of(hook).stored + stats_of(hook).failed);
    fan_hooks_free(hooks);
    fan_broker_free(broker);
}

static void test_H11_a_registry_may_go_while_its_events_are_under_way(void **state)
{
    (void)state;
    struct fan_hooks *hooks = hooks_new();
    struct fan_broker *broker = broker_open("memory:", true);
    assert_ok(fan_broker_start(broker));
    assert_ok(fan_hooks_publish(hooks, broker, NULL, NULL, NULL));
    fan_hooks_after(hooks, &creation);
    fan_hooks_free(hooks);
    assert_ok(fan_broker_step(broker));
    struct fan_reader *reader = read_all(broker);
    const struct fan_event *event = NULL;
    assert_ok(fan_reader_next(reader, 0, &event));
    assert_string_equal(fan_event_type(event), "main.users.create");
    fan_reader_free(reader);
    fan_broker_free(broker);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_H11_hooks_run_before_and_after_in_the_order_of_adding),
        cmocka_unit_test(test_H11_a_hook_is_for_all_or_for_a_schema_an_entity_an_operation),
        cmocka_unit_test(test_H11_a_before_hook_refuses_with_field_and_reason),
        cmocka_unit_test(test_H11_hooks_are_added_and_removed_from_inside),
        cmocka_unit_test(test_H11_options_that_make_no_sense_are_refused_by_field),
        cmocka_unit_test(test_H11_no_lock_is_held_while_a_hook_runs_and_removal_waits_for_it),
        cmocka_unit_test(test_H11_sixteen_threads_add_call_and_remove),
        cmocka_unit_test(test_H11_a_broker_publishes_what_was_done),
        cmocka_unit_test(test_H11_each_operation_is_switched_alone),
        cmocka_unit_test(test_H11_a_refused_event_is_counted_and_never_fails_the_operation),
        cmocka_unit_test(test_H11_a_registry_may_go_while_its_events_are_under_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
