/*
 * Several handlers of one event. Each has an outcome of its own: what one of them did is not done
 * again because another asked for a retry.
 */
#include <fanfare/fanfare.h>

#include <stdio.h>
#include <string.h>

static enum fan_verdict on_user(void *context, const struct fan_event *event,
                                const struct fan_handling *handling)
{
    (void)context;
    printf("%s/%s: %s, attempt %u\n", handling->group, handling->handler, fan_event_type(event),
           handling->attempt);
    bool retry = strcmp(handling->handler, "mail") == 0 && handling->attempt == 1;
    return retry ? FAN_VERDICT_RETRY : FAN_VERDICT_DONE;
}

static bool show(void *context, const struct fan_delivery *delivery)
{
    (void)context;
    printf("%s/%s is %s\n", delivery->group, delivery->handler,
           fan_event_status_text(delivery->status));
    return true;
}

int main(void)
{
    struct fan_broker *broker;
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    options.retry.delay_ms = 10;
    options.stepped = true; /* no threads: fan_broker_step does it all, here */
    struct fan_handler_options all[] = {
        { FAN_HANDLER_OPTIONS_SIZE, "users", "index", "public.users.*", .handle = on_user },
        { FAN_HANDLER_OPTIONS_SIZE, "users", "mail", "public.users.create", .handle = on_user },
        { FAN_HANDLER_OPTIONS_SIZE, "audit", "log", "*.*.create", .handle = on_user },
        { FAN_HANDLER_OPTIONS_SIZE, "audit", "deleted", "*.*.delete", .handle = on_user },
    };
    if (fan_broker_open("memory:", &options, &broker, NULL) != FAN_OK)
        return 1;
    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
        if (fan_broker_handle(broker, &all[i], NULL, NULL) != FAN_OK)
            return 1;
    struct fan_event_draft created = { FAN_EVENT_DRAFT_SIZE, .type = "public.users.create" };
    struct fan_cursor cursor;
    if (fan_broker_start(broker) != FAN_OK ||
        fan_broker_publish(broker, &created, &cursor, NULL) != FAN_OK)
        return 1;
    struct fan_store *store = fan_broker_store(broker);
    struct fan_store_stats stats = { .size = sizeof(stats) };
    while (fan_store_stats(store, &stats) == FAN_OK && stats.completed < 1)
        (void)!fan_broker_step(broker); /* FAN_AGAIN, while the retry is not due */
    if (fan_store_deliveries(store, cursor.seq, 0, show, NULL) != FAN_OK)
        return 1;
    fan_broker_free(broker);
    return 0;
}
