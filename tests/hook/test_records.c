/*
 * Rows as JSON through hooks (H11): every operation, every error, inside the caller's transaction
 * and outside of it, with a broker on the registry and with the outbox.
 */
#include "support.h"

struct world {
    struct place place;
    sqlite3 *db;
    struct fan_hooks *hooks;
    struct fan_records *records;
    struct fan_text text;
    struct fan_error error;
    char diary[1024];
};

static const struct fan_record_table tables[] = {
    { "users", "id", NULL, NULL },
    { "odd \"table", "the key", "public", "odd" },
    { "posts", "id", NULL, NULL },
};

static void records_open(struct world *world, const struct fan_records_options *more)
{
    struct fan_records_options options = *more;
    options.size = FAN_RECORDS_OPTIONS_SIZE;
    options.tables = tables;
    options.table_count = 3;
    options.hooks = world->hooks;
    if (fan_records_open(world->db, &options, &world->records, &world->error) != FAN_OK)
        fail_msg("%s: %s", world->error.field, world->error.message);
}

static int world_open(void **state)
{
    struct world *world = test_calloc(1, sizeof(*world));
    place_make(&world->place);
    world->db = database_open(&world->place);
    run_sql(world->db, "CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,"
                       " age INT, weight REAL, active BOOLEAN DEFAULT 1, photo BLOB, extra,"
                       " born DATE, label TEXT AS (name || '!'),"
                       " CHECK(age IS NULL OR age < 200));"
                       "CREATE TABLE \"odd \"\"table\"(\"the key\" TEXT PRIMARY KEY, \"a;b\" TEXT);"
                       "CREATE TABLE posts(id INTEGER PRIMARY KEY,"
                       " user INTEGER REFERENCES users(id))");
    assert_ok(fan_hooks_new(NULL, &world->hooks));
    records_open(world, &(struct fan_records_options){ .size = FAN_RECORDS_OPTIONS_SIZE });
    *state = world;
    return 0;
}

static int world_close(void **state)
{
    struct world *world = *state;
    fan_records_close(world->records);
    fan_hooks_free(world->hooks);
    fan_text_deinit(&world->text);
    assert_int_equal(sqlite3_close(world->db), SQLITE_OK);
    place_remove(&world->place);
    test_free(world);
    return 0;
}

static struct fan_str str(const char *text)
{
    return (struct fan_str){ text, text ? strlen(text) : 0 };
}

static struct fan_record ask(const char *table, const char *id, const char *data)
{
    return (struct fan_record){
        .size = FAN_RECORD_SIZE, .table = table, .id = str(id), .data = str(data)
    };
}

static enum fan_status create(struct world *world, const char *table, const char *data)
{
    struct fan_record request = ask(table, NULL, data);
    return fan_records_create(world->records, &request, &world->text, &world->error);
}

static enum fan_status read_row(struct world *world, const char *table, const char *id)
{
    struct fan_record request = ask(table, id, NULL);
    return fan_records_read(world->records, &request, &world->text, &world->error);
}

static enum fan_status update(struct world *world, const char *table, const char *id,
                              const char *data)
{
    struct fan_record request = ask(table, id, data);
    return fan_records_update(world->records, &request, &world->text, &world->error);
}

static enum fan_status remove_row(struct world *world, const char *table, const char *id)
{
    struct fan_record request = ask(table, id, NULL);
    return fan_records_delete(world->records, &request, &world->error);
}

static enum fan_status list(struct world *world, const char *table, const char *after,
                            const char *data, size_t limit)
{
    struct fan_record request = ask(table, after, data);
    request.limit = limit;
    return fan_records_list(world->records, &request, &world->text, &world->error);
}

#define EMPTY                                                                                      \
    "\"weight\": null, \"active\": true, \"photo\": null, \"extra\": null, \"born\": null, "
#define ADA "{\"id\": 1, \"name\": \"Ada\", \"age\": 36, " EMPTY "\"label\": \"Ada!\"}"

static void test_H11_rows_are_created_read_updated_deleted(void **state)
{
    struct world *world = *state;
    assert_ok(create(world, "users", "{\"name\": \"Ada\", \"age\": 36}"));
    assert_string_equal(world->text.data, ADA);
    assert_ok(read_row(world, "users", "1"));
    assert_string_equal(world->text.data, ADA);
    assert_ok(update(world, "users", "1", "{\"age\": 37, \"weight\": 0.1, \"active\": false}"));
    assert_string_equal(world->text.data,
                        "{\"id\": 1, \"name\": \"Ada\", \"age\": 37, \"weight\": 0.1, "
                        "\"active\": false, \"photo\": null, \"extra\": null, \"born\": null, "
                        "\"label\": \"Ada!\"}");
    assert_ok(remove_row(world, "users", "1"));
    assert_int_equal(read_row(world, "users", "1"), FAN_NOT_FOUND);
    assert_int_equal(update(world, "users", "1", "{\"age\": 37}"), FAN_NOT_FOUND);
    assert_int_equal(remove_row(world, "users", "1"), FAN_NOT_FOUND);
    assert_string_equal(world->error.field, "id");
}

static void test_H11_values_come_back_as_they_were(void **state)
{
    struct world *world = *state;
    const char *all = "{\"id\": -9223372036854775808, \"name\": \"\\u00e9\\n\\\"\\ud83d\\ude00\", "
                      "\"age\": 0, \"weight\": 1.7976931348623157e308, \"active\": null, "
                      "\"photo\": \"00ffA0\", \"extra\": 5.0, \"born\": \"1815-12-10\"}";
    assert_ok(create(world, "users", all));
    assert_string_equal(world->text.data,
                        "{\"id\": -9223372036854775808, \"name\": \"\xc3\xa9\\n\\\""
                        "\xf0\x9f\x98\x80\", \"age\": 0, \"weight\": 1.7976931348623157e308, "
                        "\"active\": null, \"photo\": \"00ffa0\", \"extra\": 5.0, "
                        "\"born\": \"1815-12-10\", \"label\": \"\xc3\xa9\\n\\\""
                        "\xf0\x9f\x98\x80!\"}");
    assert_int_equal(number_of(world->db, "SELECT photo = x'00ffa0' FROM users"), 1);
    assert_ok(create(world, "users", "{\"name\": \"\", \"photo\": \"\", \"weight\": 3}"));
    assert_int_equal(number_of(world->db, "SELECT length(photo) = 0 AND weight = 3.0 AND "
                                          "typeof(photo) = 'blob' FROM users WHERE name = ''"),
                     1);
    run_sql(world->db, "UPDATE users SET weight = 9e999 WHERE name = ''");
    assert_ok(read_row(world, "users", "-9223372036854775807"));
    assert_non_null(strstr(world->text.data, "\"weight\": null"));
    run_sql(world->db, "UPDATE users SET born = CAST(x'ff' AS TEXT) WHERE name = ''");
    assert_int_equal(read_row(world, "users", "-9223372036854775807"), FAN_INVALID);
    assert_string_equal(world->error.field, "born");
}

static void test_H11_identifiers_are_quoted_and_values_bound(void **state)
{
    struct world *world = *state;
    const char *row = "{\"the key\": \"x'; DROP TABLE users; --\", \"a;b\": \"?1\"}";
    assert_ok(create(world, "odd \"table", row));
    assert_string_equal(world->text.data, row);
    assert_ok(read_row(world, "odd \"table", "\"x'; DROP TABLE users; --\""));
    assert_string_equal(world->text.data, row);
    assert_ok(update(world, "odd \"table", "\"x'; DROP TABLE users; --\"", "{\"the key\": \"k\"}"));
    assert_ok(remove_row(world, "odd \"table", "\"k\""));
    assert_int_equal(number_of(world->db, "SELECT count(*) FROM users"), 0);
}

static void refused(struct world *world, enum fan_status status, enum fan_status wanted,
                    const char *field)
{
    if (status != wanted || strcmp(world->error.field, field) != 0)
        fail_msg("%s, field %s: %s", fan_status_name(status), world->error.field,
                 world->error.message);
    assert_true(*world->error.message != '\0');
    assert_int_equal(number_of(world->db, "SELECT count(*) FROM users"), 1);
    assert_true(sqlite3_get_autocommit(world->db));
}

static void test_H11_what_is_wrong_is_refused_by_its_field(void **state)
{
    struct world *world = *state;
    assert_ok(create(world, "users", "{\"name\": \"Ada\"}"));
    refused(world, create(world, "nobody", "{}"), FAN_INVALID, "table");
    refused(world, create(world, NULL, "{}"), FAN_INVALID, "table");
    refused(world, create(world, "users", NULL), FAN_INVALID, "data");
    refused(world, create(world, "users", "{\"name\": "), FAN_INVALID, "data");
    refused(world, create(world, "users", "[1]"), FAN_INVALID, "data");
    refused(world, create(world, "users", "{\"name\": \"a\", \"name\": \"b\"}"), FAN_INVALID,
            "data");
    refused(world, create(world, "users", "{\"nam\": \"Ada\"}"), FAN_INVALID, "nam");
    refused(world, create(world, "users", "{\"name\": 5}"), FAN_INVALID, "name");
    refused(world, create(world, "users", "{\"name\": [\"x\"]}"), FAN_INVALID, "name");
    refused(world, create(world, "users", "{\"name\": \"x\", \"age\": \"5\"}"), FAN_INVALID, "age");
    refused(world, create(world, "users", "{\"name\": \"x\", \"age\": 1.5}"), FAN_INVALID, "age");
    refused(world, create(world, "users", "{\"name\": \"x\", \"age\": true}"), FAN_INVALID, "age");
    refused(world, create(world, "users", "{\"name\": \"x\", \"weight\": 9007199254740993}"),
            FAN_INVALID, "weight");
    refused(world, create(world, "users", "{\"name\": \"x\", \"active\": 1}"), FAN_INVALID,
            "active");
    refused(world, create(world, "users", "{\"name\": \"x\", \"photo\": \"0g\"}"), FAN_INVALID,
            "photo");
    refused(world, create(world, "users", "{\"name\": \"x\", \"photo\": \"000\"}"), FAN_INVALID,
            "photo");
    refused(world, create(world, "users", "{\"name\": \"x\", \"extra\": {}}"), FAN_INVALID,
            "extra");
    refused(world, create(world, "users", "{\"name\": \"x\", \"label\": \"y\"}"), FAN_INVALID,
            "label");
    refused(world, create(world, "users", "{\"age\": 5}"), FAN_INVALID, "name");
    refused(world, create(world, "users", "{}"), FAN_INVALID, "name");
    refused(world, create(world, "users", "{\"name\": null}"), FAN_INVALID, "name");
    refused(world, create(world, "users", "{\"name\": \"x\", \"age\": 200}"), FAN_INVALID, "data");
    refused(world, create(world, "users", "{\"name\": \"Ada\"}"), FAN_EXISTS, "name");
    refused(world, create(world, "users", "{\"id\": 1, \"name\": \"Eve\"}"), FAN_EXISTS, "id");
    refused(world, create(world, "odd \"table", "{\"a;b\": \"x\"}"), FAN_INVALID, "the key");
    refused(world, create(world, "posts", "{\"user\": 9}"), FAN_CONFLICT, "");
    refused(world, read_row(world, "users", NULL), FAN_INVALID, "id");
    refused(world, read_row(world, "users", "{}"), FAN_INVALID, "id");
    refused(world, read_row(world, "users", "null"), FAN_INVALID, "id");
    refused(world, read_row(world, "users", "\"1\""), FAN_INVALID, "id");
    refused(world, read_row(world, "users", "2"), FAN_NOT_FOUND, "id");
    refused(world, update(world, "users", "1", "{}"), FAN_INVALID, "data");
    refused(world, update(world, "users", "1", "{\"x\": 1}"), FAN_INVALID, "x");
    refused(world, list(world, "users", NULL, "{\"x\": 1}", 0), FAN_INVALID, "x");
    struct fan_record request = { .size = 2 };
    refused(world, fan_records_read(world->records, &request, NULL, &world->error), FAN_INVALID,
            "size");
}

static void test_H11_tables_are_checked_when_they_are_declared(void **state)
{
    struct world *world = *state;
    run_sql(world->db, "CREATE TABLE codes(code TEXT PRIMARY KEY) WITHOUT ROWID;"
                       "CREATE TABLE pairs(a INT, b INT, c INT UNIQUE, PRIMARY KEY(a, b));"
                       "CREATE VIEW faces AS SELECT 1 AS id");
    static const struct {
        struct fan_record_table table;
        enum fan_status status;
    } cases[] = {
        { { "codes", "code", NULL, NULL }, FAN_OK },
        { { "pairs", "c", NULL, NULL }, FAN_OK },
        { { "pairs", "a", NULL, NULL }, FAN_INVALID },
        { { "users", "age", NULL, NULL }, FAN_INVALID },
        { { "users", "nothing", NULL, NULL }, FAN_INVALID },
        { { "nothing", "id", NULL, NULL }, FAN_INVALID },
        { { "faces", "id", NULL, NULL }, FAN_INVALID },
        { { "users", NULL, NULL, NULL }, FAN_INVALID },
        { { "users", "id", "a.b", NULL }, FAN_INVALID },
        { { "odd \"table", "the key", NULL, NULL }, FAN_INVALID },
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct fan_record_table pair[2] = { tables[0], cases[i].table };
        struct fan_records_options options = { .size = FAN_RECORDS_OPTIONS_SIZE,
                                               .tables = pair,
                                               .table_count = 2 };
        struct fan_records *records = NULL;
        enum fan_status status = fan_records_open(world->db, &options, &records, &world->error);
        if (status != cases[i].status)
            fail_msg("%zu: %s", i, world->error.message);
        if (status != FAN_OK)
            assert_string_equal(world->error.field, "tables[1]");
        fan_records_close(records);
    }
    struct fan_records_options options = {
        .size = FAN_RECORDS_OPTIONS_SIZE, .tables = tables, .table_count = 1, .outbox = "not there"
    };
    struct fan_records *records = NULL;
    assert_int_equal(fan_records_open(world->db, &options, &records, &world->error), FAN_NOT_FOUND);
    run_sql(world->db, "BEGIN");
    assert_int_equal(fan_records_open(world->db, &options, &records, &world->error), FAN_MISUSE);
    run_sql(world->db, "COMMIT");
    options.table_count = 0;
    assert_int_equal(fan_records_open(world->db, &options, &records, &world->error), FAN_INVALID);
    assert_string_equal(world->error.field, "tables");
}

static void test_H11_rows_are_listed_by_key_page_by_page(void **state)
{
    struct world *world = *state;
    assert_ok(list(world, "users", NULL, NULL, 0));
    assert_string_equal(world->text.data, "[]");
    for (int i = 1; i <= 5; i++) {
        char data[64];
        snprintf(data, sizeof(data), "{\"id\": %d, \"name\": \"n%d\", \"age\": %d}", 6 - i, 6 - i,
                 i % 2);
        assert_ok(create(world, "users", data));
    }
    assert_ok(list(world, "users", NULL, "{\"age\": 1, \"extra\": null}", 2));
    assert_non_null(strstr(world->text.data, "[{\"id\": 1, "));
    assert_non_null(strstr(world->text.data, "}, {\"id\": 3, "));
    assert_null(strstr(world->text.data, "\"id\": 5"));
    assert_ok(list(world, "users", "3", "{\"age\": 1}", 2));
    assert_non_null(strstr(world->text.data, "[{\"id\": 5, "));
    assert_ok(list(world, "users", "5", NULL, 2));
    assert_string_equal(world->text.data, "[]");
}

/* --- hooks -------------------------------------------------------------------------------- */

static void write_diary(struct world *world, const char *when,
                        const struct fan_operation *operation)
{
    size_t used = strlen(world->diary);
    snprintf(world->diary + used, sizeof(world->diary) - used, "%s %s %s.%s %.*s %s;", when,
             fan_crud_name(operation->crud), operation->schema, operation->entity,
             (int)operation->id.size, operation->id.size ? operation->id.data : "",
             operation->topic ? operation->topic : "-");
}

static enum fan_status diary_before(void *context, const struct fan_operation *operation,
                                    struct fan_error *error)
{
    struct world *world = context;
    write_diary(world, "before", operation);
    if (operation->user_id != 13)
        return FAN_OK;
    snprintf(error->field, sizeof(error->field), "user_id");
    snprintf(error->message, sizeof(error->message), "is unlucky");
    return FAN_DENIED;
}

static void diary_after(void *context, const struct fan_operation *operation)
{
    write_diary(context, "after", operation);
}

static void keep_diary(struct world *world, bool before)
{
    struct fan_hook_options options = { .size = FAN_HOOK_OPTIONS_SIZE,
                                        .before = before ? diary_before : NULL,
                                        .after = diary_after,
                                        .context = world };
    assert_ok(fan_hooks_add(world->hooks, &options, NULL, NULL));
}

static void assert_diary(struct world *world, const char *wanted)
{
    assert_string_equal(world->diary, wanted);
    *world->diary = '\0';
}

static void test_H11_hooks_are_asked_before_and_told_after(void **state)
{
    struct world *world = *state;
    keep_diary(world, true);
    assert_ok(create(world, "users", "{\"name\": \"Ada\"}"));
    assert_diary(world, "before create main.users  -;after create main.users 1 users:1;");
    assert_ok(update(world, "users", "1", "{\"age\": 5}"));
    assert_diary(world, "before update main.users 1 users:1;after update main.users 1 users:1;");
    assert_ok(read_row(world, "users", "1"));
    assert_diary(world, "before read main.users 1 users:1;after read main.users 1 users:1;");
    assert_ok(create(world, "odd \"table", "{\"the key\": \"k\"}"));
    assert_diary(world, "before create public.odd  -;after create public.odd \"k\" odd:k;");
    assert_ok(create(world, "users", "{\"name\": \"Eve\"}"));
    *world->diary = '\0';
    assert_ok(list(world, "users", NULL, NULL, 0));
    assert_diary(world, "before read main.users  -;after read main.users 1 users:1;"
                        "after read main.users 2 users:2;");
    assert_ok(remove_row(world, "users", "1"));
    assert_diary(world, "before delete main.users 1 users:1;after delete main.users 1 users:1;");
    /* What was not done is not told. */
    assert_int_equal(remove_row(world, "users", "1"), FAN_NOT_FOUND);
    assert_int_equal(create(world, "users", "{\"name\": \"Eve\"}"), FAN_EXISTS);
    assert_diary(world, "before delete main.users 1 users:1;before create main.users  -;");
}

static void test_H11_a_refused_operation_is_not_done(void **state)
{
    struct world *world = *state;
    keep_diary(world, true);
    assert_ok(create(world, "users", "{\"name\": \"Ada\"}"));
    struct fan_record requests[] = { ask("users", NULL, "{\"name\": \"Eve\"}"),
                                     ask("users", "1", "{\"name\": \"Eve\"}") };
    requests[0].user_id = requests[1].user_id = 13;
    *world->diary = '\0';
    struct fan_records *records = world->records;
    assert_int_equal(fan_records_create(records, &requests[0], NULL, &world->error), FAN_DENIED);
    assert_string_equal(world->error.field, "user_id");
    assert_string_equal(world->error.message, "is unlucky");
    assert_int_equal(fan_records_update(records, &requests[1], NULL, &world->error), FAN_DENIED);
    assert_int_equal(fan_records_delete(records, &requests[1], &world->error), FAN_DENIED);
    assert_int_equal(fan_records_read(records, &requests[1], &world->text, &world->error),
                     FAN_DENIED);
    assert_int_equal(fan_records_list(records, &requests[0], &world->text, &world->error),
                     FAN_DENIED);
    assert_null(strstr(world->diary, "after"));
    assert_int_equal(number_of(world->db, "SELECT count(*) FROM users WHERE name = 'Ada'"), 1);
}

static void test_H11_after_hooks_wait_for_the_commit_and_not_for_a_rollback(void **state)
{
    struct world *world = *state;
    keep_diary(world, false);
    run_sql(world->db, "BEGIN");
    assert_ok(create(world, "users", "{\"id\": 1, \"name\": \"Ada\"}"));
    assert_ok(update(world, "users", "1", "{\"age\": 5}"));
    assert_ok(fan_records_settle(world->records));
    assert_diary(world, "");
    run_sql(world->db, "COMMIT");
    assert_diary(world, "");
    assert_ok(fan_records_settle(world->records));
    assert_diary(world, "after create main.users 1 users:1;after update main.users 1 users:1;");
    assert_ok(fan_records_settle(world->records));
    assert_diary(world, "");

    run_sql(world->db, "BEGIN");
    assert_ok(create(world, "users", "{\"id\": 2, \"name\": \"Eve\"}"));
    run_sql(world->db, "ROLLBACK");
    assert_ok(create(world, "users", "{\"id\": 3, \"name\": \"Bob\"}"));
    assert_diary(world, "after create main.users 3 users:3;");

    /* Savepoints, one in the other; the next call outside tells what was committed, in order. */
    run_sql(world->db, "BEGIN");
    assert_ok(create(world, "users", "{\"id\": 4, \"name\": \"n4\"}"));
    run_sql(world->db, "SAVEPOINT one");
    assert_ok(create(world, "users", "{\"id\": 5, \"name\": \"n5\"}"));
    run_sql(world->db, "SAVEPOINT two");
    assert_ok(create(world, "users", "{\"id\": 6, \"name\": \"n6\"}"));
    run_sql(world->db, "ROLLBACK TO two; RELEASE two");
    assert_ok(create(world, "users", "{\"id\": 7, \"name\": \"n7\"}"));
    run_sql(world->db, "RELEASE one; SAVEPOINT three");
    assert_ok(remove_row(world, "users", "4"));
    run_sql(world->db, "ROLLBACK TO three; COMMIT");
    run_sql(world->db, "BEGIN");
    assert_ok(create(world, "users", "{\"id\": 8, \"name\": \"n8\"}"));
    run_sql(world->db, "ROLLBACK");
    assert_ok(update(world, "users", "7", "{\"age\": 1}"));
    assert_diary(world, "after create main.users 4 users:4;after create main.users 5 users:5;"
                        "after create main.users 7 users:7;after update main.users 7 users:7;");
    /* Reading has happened, however the transaction ends. */
    run_sql(world->db, "BEGIN");
    assert_ok(read_row(world, "users", "7"));
    run_sql(world->db, "ROLLBACK");
    assert_diary(world, "after read main.users 7 users:7;");
}

static void test_H11_a_failure_inside_a_transaction_undoes_that_operation_alone(void **state)
{
    struct world *world = *state;
    keep_diary(world, false);
    run_sql(world->db, "BEGIN");
    assert_ok(create(world, "users", "{\"id\": 1, \"name\": \"Ada\"}"));
    assert_int_equal(create(world, "users", "{\"id\": 2, \"name\": \"Ada\"}"), FAN_EXISTS);
    assert_int_equal(create(world, "posts", "{\"id\": 3, \"user\": 2}"), FAN_CONFLICT);
    assert_false(sqlite3_get_autocommit(world->db));
    run_sql(world->db, "COMMIT");
    assert_ok(fan_records_settle(world->records));
    assert_diary(world, "after create main.users 1 users:1;");
    /* A constraint that is checked at the end of the transaction. */
    run_sql(world->db, "DROP TABLE posts; CREATE TABLE posts(id INTEGER PRIMARY KEY, user INTEGER "
                       "REFERENCES users(id) DEFERRABLE INITIALLY DEFERRED)");
    assert_int_equal(create(world, "posts", "{\"user\": 9}"), FAN_CONFLICT);
    assert_true(sqlite3_get_autocommit(world->db));
    assert_int_equal(number_of(world->db, "SELECT count(*) FROM posts"), 0);
    assert_diary(world, "");
}

static void after_create_writes(void *context, const struct fan_operation *operation)
{
    struct world *world = context;
    write_diary(world, "after", operation);
    struct fan_record request = ask("posts", NULL, "{\"user\": 1}");
    assert_ok(fan_records_create(world->records, &request, NULL, &world->error));
    assert_ok(fan_records_settle(world->records));
}

static void test_H11_a_hook_may_use_the_records_itself(void **state)
{
    struct world *world = *state;
    struct fan_hook_options options = { .size = FAN_HOOK_OPTIONS_SIZE,
                                        .operations = FAN_CRUD_CREATE,
                                        .entity = "users",
                                        .after = after_create_writes,
                                        .context = world };
    assert_ok(fan_hooks_add(world->hooks, &options, NULL, NULL));
    assert_ok(create(world, "users", "{\"name\": \"Ada\"}"));
    run_sql(world->db, "BEGIN");
    assert_ok(create(world, "users", "{\"name\": \"Eve\"}"));
    assert_ok(create(world, "users", "{\"name\": \"Bob\"}"));
    run_sql(world->db, "COMMIT");
    assert_ok(fan_records_settle(world->records));
    assert_int_equal(number_of(world->db, "SELECT count(*) FROM posts"), 3);
    assert_diary(world, "after create main.users 1 users:1;after create main.users 2 users:2;"
                        "after create main.users 3 users:3;");
}

static void test_H11_the_callers_row_ids_are_left_alone(void **state)
{
    struct world *world = *state;
    keep_diary(world, false);
    run_sql(world->db, "BEGIN");
    assert_ok(create(world, "users", "{\"id\": 77, \"name\": \"Ada\"}"));
    assert_int_equal(sqlite3_last_insert_rowid(world->db), 77);
    run_sql(world->db, "COMMIT");
}

static void test_H11_a_locked_database_is_unavailable_and_nothing_is_left_open(void **state)
{
    struct world *world = *state;
    sqlite3 *other = database_open(&world->place);
    sqlite3_busy_timeout(world->db, 0);
    run_sql(other, "BEGIN IMMEDIATE");
    assert_int_equal(create(world, "users", "{\"name\": \"Ada\"}"), FAN_UNAVAILABLE);
    assert_true(sqlite3_get_autocommit(world->db));
    run_sql(other, "COMMIT");
    assert_ok(create(world, "users", "{\"name\": \"Ada\"}"));
    /* With a rollback journal the commit itself meets the reader. */
    fan_records_close(world->records);
    world->records = NULL;
    sqlite3_close(other);
    run_sql(world->db, "PRAGMA journal_mode = DELETE");
    records_open(world, &(struct fan_records_options){ .size = FAN_RECORDS_OPTIONS_SIZE });
    assert_int_equal(sqlite3_open(world->place.database, &other), SQLITE_OK);
    run_sql(other, "BEGIN; SELECT * FROM users");
    assert_int_equal(create(world, "users", "{\"name\": \"Eve\"}"), FAN_UNAVAILABLE);
    assert_true(sqlite3_get_autocommit(world->db));
    run_sql(other, "COMMIT");
    assert_ok(create(world, "users", "{\"name\": \"Eve\"}"));
    sqlite3_close(other);
}

static void test_H11_a_broker_publishes_what_records_did(void **state)
{
    struct world *world = *state;
    struct fan_broker *broker = broker_started("memory:");
    struct fan_reader *reader = read_all(broker);
    assert_ok(fan_hooks_publish(world->hooks, broker, NULL, NULL, NULL));
    struct fan_record request = ask("users", NULL, "{\"name\": \"Ada\", \"age\": 36}");
    request.user_id = 7;
    request.session_id = "session";
    request.metadata = (struct fan_str)FAN_STR("{\"a\": 1}");
    assert_ok(fan_records_create(world->records, &request, NULL, NULL));
    run_sql(world->db, "BEGIN");
    request = ask("users", "1", "{\"age\": 37}");
    request.user_id = 8;
    request.session_id = "inside";
    request.metadata = (struct fan_str)FAN_STR("{\"b\": 2}");
    assert_ok(fan_records_update(world->records, &request, NULL, NULL));
    run_sql(world->db, "COMMIT");
    assert_ok(remove_row(world, "users", "1"));
    const struct fan_event *event = next_event(reader);
    assert_string_equal(fan_event_type(event), "main.users.create");
    assert_payload(event, ADA);
    assert_int_equal(fan_event_user_id(event), 7);
    assert_string_equal(fan_event_session_id(event), "session");
    event = next_event(reader);
    assert_string_equal(fan_event_type(event), "main.users.update");
    assert_payload(event, "{\"id\": 1, \"data\": {\"age\": 37}}");
    assert_int_equal(fan_event_user_id(event), 8);
    assert_string_equal(fan_event_session_id(event), "inside");
    assert_string_equal(fan_event_topic(event), "users:1");
    assert_int_equal(fan_event_metadata(event).size, strlen("{\"b\": 2}"));
    event = next_event(reader);
    assert_string_equal(fan_event_type(event), "main.users.delete");
    assert_payload(event, "{\"id\": 1}");
    fan_reader_free(reader);
    fan_hooks_free(world->hooks);
    fan_broker_free(broker);
    fan_records_close(world->records);
    world->hooks = NULL;
    world->records = NULL;
}

static void test_H11_H12_with_an_outbox_the_event_goes_with_the_row(void **state)
{
    struct world *world = *state;
    fan_records_close(world->records);
    world->records = NULL;
    assert_ok(fan_outbox_create(world->db, NULL, &world->error));
    records_open(world, &(struct fan_records_options){ .outbox = FAN_OUTBOX_TABLE });
    keep_diary(world, false);
    const char *count = "SELECT count(*) FROM fan_outbox";
    run_sql(world->db, "UPDATE sqlite_sequence SET seq = 70; "
                       "INSERT INTO sqlite_sequence SELECT 'fan_outbox', 70");
    assert_ok(create(world, "users", "{\"id\": 1, \"name\": \"Ada\"}"));
    assert_int_equal(sqlite3_last_insert_rowid(world->db), 1);
    assert_int_equal(number_of(world->db, count), 1);
    run_sql(world->db, "BEGIN");
    assert_ok(update(world, "users", "1", "{\"age\": 5}"));
    assert_int_equal(number_of(world->db, count), 2);
    run_sql(world->db, "ROLLBACK");
    assert_int_equal(number_of(world->db, count), 1);
    assert_int_equal(create(world, "users", "{\"name\": \"Ada\"}"), FAN_EXISTS);
    assert_ok(read_row(world, "users", "1"));
    assert_int_equal(number_of(world->db, count), 1);
    /* An event that is none takes the row with it, inside a transaction and outside. */
    struct fan_record request = ask("users", NULL, "{\"name\": \"Eve\"}");
    request.metadata = (struct fan_str)FAN_STR("no JSON");
    *world->diary = '\0';
    for (int i = 0; i < 2; i++) {
        if (i > 0)
            run_sql(world->db, "BEGIN");
        assert_int_equal(fan_records_create(world->records, &request, NULL, &world->error),
                         FAN_INVALID);
        assert_string_equal(world->error.field, "metadata");
        assert_int_equal(sqlite3_get_autocommit(world->db), i == 0);
        assert_int_equal(number_of(world->db, "SELECT count(*) FROM users"), 1);
    }
    run_sql(world->db, "COMMIT");
    assert_diary(world, "");
    assert_ok(remove_row(world, "users", "1"));
    assert_int_equal(number_of(world->db,
                               "SELECT count(*) FROM fan_outbox WHERE event ->> 'type' IN "
                               "('main.users.create', 'main.users.delete') "
                               "AND event ->> 'source' = 'database' "
                               "AND event -> 'payload' ->> 'id' = 1"),
                     2);
}

#define THREADS 16
#define ROWS 40

struct worker {
    const struct place *place;
    struct fan_hooks *hooks;
    int number;
};

/* A connection and records of its own; the registry and the broker are everybody's. */
static void *work(void *context)
{
    struct worker *worker = context;
    struct world world = { .place = *worker->place, .hooks = worker->hooks };
    world.db = database_open(worker->place);
    records_open(&world, &(struct fan_records_options){ .size = FAN_RECORDS_OPTIONS_SIZE });
    for (int i = 0; i < ROWS; i++) {
        char data[64];
        snprintf(data, sizeof(data), "{\"name\": \"%d-%d\"}", worker->number, i);
        if (i % 4 == 3) {
            run_sql(world.db, "BEGIN IMMEDIATE");
            assert_ok(create(&world, "users", data));
            run_sql(world.db, i % 8 == 3 ? "COMMIT" : "ROLLBACK");
        } else {
            assert_ok(create(&world, "users", data));
        }
    }
    fan_records_close(world.records);
    fan_text_deinit(&world.text);
    assert_int_equal(sqlite3_close(world.db), SQLITE_OK);
    return NULL;
}

static void test_H11_sixteen_threads_share_a_registry_and_a_broker(void **state)
{
    struct world *world = *state;
    struct fan_broker *broker = broker_started("memory:");
    struct fan_hook *hook = NULL;
    assert_ok(fan_hooks_publish(world->hooks, broker, NULL, &hook, NULL));
    pthread_t threads[THREADS];
    struct worker workers[THREADS];
    for (int i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){ &world->place, world->hooks, i };
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    int64_t rows = number_of(world->db, "SELECT count(*) FROM users");
    assert_int_equal(rows, THREADS * (ROWS - ROWS / 8));
    fan_broker_stop(broker, 10000);
    struct fan_hook_stats stats = { .size = sizeof(stats) };
    fan_hook_stats(hook, &stats);
    assert_int_equal(stats.stored, rows);
    assert_int_equal(stats.refused, 0);
    fan_hook_remove(hook);
    fan_broker_free(broker);
}

/* Memory that runs out at the n-th request. */
struct scarce {
    const struct fan_env *real;
    int64_t left;
};

static void *scarce_resize(void *context, void *pointer, size_t size)
{
    struct scarce *scarce = context;
    if (scarce->left-- <= 0)
        return NULL;
    return scarce->real->resize(scarce->real->context, pointer, size);
}

static void scarce_release(void *context, void *pointer)
{
    struct scarce *scarce = context;
    scarce->real->release(scarce->real->context, pointer);
}

static int64_t scarce_wall_us(void *context)
{
    struct scarce *scarce = context;
    return scarce->real->wall_us(scarce->real->context);
}

static int64_t scarce_monotonic_ns(void *context)
{
    struct scarce *scarce = context;
    return scarce->real->monotonic_ns(scarce->real->context);
}

static void scarce_random(void *context, void *bytes, size_t size)
{
    struct scarce *scarce = context;
    scarce->real->random(scarce->real->context, bytes, size);
}

static void test_H11_H12_without_memory_nothing_is_done(void **state)
{
    struct world *world = *state;
    fan_records_close(world->records);
    world->records = NULL;
    assert_ok(fan_outbox_create(world->db, NULL, NULL));
    struct scarce scarce = { fan_env_default(), 0 };
    struct fan_env env = *scarce.real;
    env.context = &scarce;
    env.resize = scarce_resize;
    env.release = scarce_release;
    env.wall_us = scarce_wall_us;
    env.monotonic_ns = scarce_monotonic_ns;
    env.random = scarce_random;
    env.log = NULL;
    struct fan_event_defaults defaults = FAN_EVENT_DEFAULTS_INIT;
    defaults.env = &env;
    bool done = false;
    for (int64_t n = 0; !done; n++) {
        assert_true(n < 1000);
        scarce.left = n;
        struct fan_text text = { .env = &env };
        struct fan_hooks *hooks = NULL;
        struct fan_records *records = NULL;
        enum fan_status status = fan_hooks_new(&env, &hooks);
        struct fan_records_options options = { .size = FAN_RECORDS_OPTIONS_SIZE,
                                               .env = &env,
                                               .tables = tables,
                                               .table_count = 3,
                                               .hooks = hooks,
                                               .outbox = FAN_OUTBOX_TABLE,
                                               .defaults = &defaults };
        if (status == FAN_OK)
            status = fan_records_open(world->db, &options, &records, NULL);
        if (status == FAN_OK) {
            struct fan_record request = ask("users", NULL, "{\"name\": \"Ada\"}");
            status = fan_records_create(records, &request, &text, NULL);
        }
        done = status == FAN_OK;
        if (!done)
            assert_int_equal(status, FAN_NO_MEMORY);
        assert_true(sqlite3_get_autocommit(world->db));
        assert_int_equal(number_of(world->db, "SELECT count(*) FROM users"), done);
        assert_int_equal(number_of(world->db, "SELECT count(*) FROM fan_outbox"), done);
        fan_records_close(records);
        fan_hooks_free(hooks);
        fan_text_deinit(&text);
    }
}

#define with_a_world(test) cmocka_unit_test_setup_teardown(test, world_open, world_close)

int main(void)
{
    const struct CMUnitTest tests[] = {
        with_a_world(test_H11_rows_are_created_read_updated_deleted),
        with_a_world(test_H11_values_come_back_as_they_were),
        with_a_world(test_H11_identifiers_are_quoted_and_values_bound),
        with_a_world(test_H11_what_is_wrong_is_refused_by_its_field),
        with_a_world(test_H11_tables_are_checked_when_they_are_declared),
        with_a_world(test_H11_rows_are_listed_by_key_page_by_page),
        with_a_world(test_H11_hooks_are_asked_before_and_told_after),
        with_a_world(test_H11_a_refused_operation_is_not_done),
        with_a_world(test_H11_after_hooks_wait_for_the_commit_and_not_for_a_rollback),
        with_a_world(test_H11_a_failure_inside_a_transaction_undoes_that_operation_alone),
        with_a_world(test_H11_a_hook_may_use_the_records_itself),
        with_a_world(test_H11_the_callers_row_ids_are_left_alone),
        with_a_world(test_H11_a_locked_database_is_unavailable_and_nothing_is_left_open),
        with_a_world(test_H11_a_broker_publishes_what_records_did),
        with_a_world(test_H11_H12_with_an_outbox_the_event_goes_with_the_row),
        with_a_world(test_H11_sixteen_threads_share_a_registry_and_a_broker),
        with_a_world(test_H11_H12_without_memory_nothing_is_done),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
