/*
 * The outbox: an event recorded inside your own transaction is certain with its commit, and gone
 * with its rollback. A relay brings it into the log.
 */
#include <fanfare/fanfare.h>

#include <sqlite3.h>
#include <stdio.h>

/* An order and its event, both or none. */
static int order(sqlite3 *db, const char *id, const char *end)
{
    struct fan_event_draft placed = { FAN_EVENT_DRAFT_SIZE, "shop.orders.create", .id = id };
    return sqlite3_exec(db, "BEGIN; INSERT INTO orders DEFAULT VALUES", NULL, NULL, NULL) ||
           fan_outbox_record(db, NULL, &placed, NULL, NULL) != FAN_OK ||
           sqlite3_exec(db, end, NULL, NULL, NULL);
}

int main(void)
{
    sqlite3 *db;
    struct fan_error error = FAN_ERROR_INIT;
    if (sqlite3_open("shop.db", &db) || sqlite3_busy_timeout(db, 5000) ||
        sqlite3_exec(db, "PRAGMA journal_mode = WAL; CREATE TABLE orders(n INTEGER PRIMARY KEY)",
                     NULL, NULL, NULL) ||
        fan_outbox_create(db, NULL, &error) != FAN_OK || order(db, "one", "COMMIT") ||
        order(db, "two", "ROLLBACK") || order(db, "three", "COMMIT"))
        return 1;

    struct fan_broker *broker;
    struct fan_reader *reader;
    struct fan_outbox_relay *relay;
    struct fan_outbox_relay_options options = { FAN_OUTBOX_RELAY_OPTIONS_SIZE,
                                                .database = "shop.db" };
    struct fan_reader_options all = { FAN_READER_OPTIONS_SIZE, .start = FAN_START_BEGINNING };
    if (fan_broker_open("sqlite:events.db", NULL, &broker, &error) != FAN_OK ||
        fan_broker_start(broker) != FAN_OK ||
        fan_broker_subscribe(broker, &all, &reader, &error) != FAN_OK ||
        fan_outbox_relay_open(broker, &options, &relay, &error) != FAN_OK ||
        fan_outbox_relay_start(relay) != FAN_OK) {
        fprintf(stderr, "%s\n", error.message);
        return 1;
    }
    const struct fan_event *event;
    for (int i = 0; i < 2 && fan_reader_next(reader, 10000, &event) == FAN_OK; i++)
        printf("%llu %s %s\n", (unsigned long long)fan_event_seq(event), fan_event_id(event),
               fan_event_type(event));
    fan_outbox_relay_free(relay);
    fan_reader_free(reader);
    fan_broker_free(broker);
    return sqlite3_close(db);
}
