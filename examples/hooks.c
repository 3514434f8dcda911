/* Hooks: a table of yours, a hook that refuses, and a broker that publishes what was done. */
#include <fanfare/fanfare.h>

#include <sqlite3.h>
#include <stdio.h>

static enum fan_status no_nameless(void *context, const struct fan_operation *operation,
                                   struct fan_error *error)
{
    (void)context;
    if (operation->data.size > 2) /* more than {} */
        return FAN_OK;
    snprintf(error->field, sizeof(error->field), "name");
    snprintf(error->message, sizeof(error->message), "who is it?");
    return FAN_DENIED;
}

int main(void)
{
    sqlite3 *db;
    struct fan_broker *broker;
    struct fan_hooks *hooks;
    struct fan_records *records;
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_record_table users = { .name = "users", .key = "id", .schema = "public" };
    struct fan_hook_options check = { .size = FAN_HOOK_OPTIONS_SIZE,
                                      .operations = FAN_CRUD_CREATE,
                                      .before = no_nameless };
    if (sqlite3_open(":memory:", &db) || fan_broker_open("memory:", NULL, &broker, &error) ||
        sqlite3_exec(db, "CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT)", 0, 0, 0) ||
        fan_broker_start(broker) || fan_hooks_new(NULL, &hooks) ||
        fan_hooks_add(hooks, &check, NULL, &error) ||
        fan_hooks_publish(hooks, broker, NULL, NULL, &error))
        return 1;
    struct fan_records_options options = { FAN_RECORDS_OPTIONS_SIZE, .tables = &users,
                                           .table_count = 1, .hooks = hooks };
    struct fan_reader_options all = { FAN_READER_OPTIONS_SIZE, .start = FAN_START_BEGINNING };
    struct fan_record bad = { FAN_RECORD_SIZE, "users", .data = FAN_STR("{}") };
    struct fan_record ada = { FAN_RECORD_SIZE, "users", .data = FAN_STR("{\"name\": \"Ada\"}") };
    struct fan_record one = { FAN_RECORD_SIZE, "users", .id = FAN_STR("1") };
    struct fan_reader *reader;
    const struct fan_event *event;
    if (fan_records_open(db, &options, &records, &error) ||
        fan_records_create(records, &bad, NULL, &error) != FAN_DENIED)
        return 1;
    printf("refused: %s: %s\n", error.field, error.message);
    if (fan_records_create(records, &ada, NULL, &error) ||
        fan_records_delete(records, &one, &error) ||
        fan_broker_subscribe(broker, &all, &reader, &error))
        return 1;
    for (int i = 0; i < 2 && fan_reader_next(reader, 10000, &event) == FAN_OK; i++)
        printf("%s %s\n", fan_event_type(event), fan_event_payload(event).data);
    fan_records_close(records);
    fan_hooks_free(hooks);
    fan_reader_free(reader);
    fan_broker_free(broker);
    return sqlite3_close(db);
}
