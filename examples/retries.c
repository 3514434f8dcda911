/* Errors and retries: what passes is tried again, what does not is a dead letter to be mended. */
#include <fanfare/fanfare.h>

#include <stdio.h>
#include <string.h>

static enum fan_verdict pay(void *context, const struct fan_event *event,
                            const struct fan_handling *handling)
{
    const bool *mended = context;
    printf("%s: attempt %u\n", fan_event_id(event), handling->attempt);
    if (!strcmp(fan_event_id(event), "bank is busy") && handling->attempt < 3)
        return FAN_VERDICT_RETRY; /* after 10 ms, then after 20 */
    if (!strcmp(fan_event_id(event), "wrong card") && !*mended) {
        snprintf(handling->error->message, sizeof(handling->error->message), "no such card");
        return FAN_VERDICT_FAIL; /* trying again would not help */
    }
    return FAN_VERDICT_DONE;
}

static bool show(void *context, const struct fan_delivery *dead)
{
    (void)context;
    printf("dead (%s): %s\n", fan_dead_reason_name(dead->reason), dead->error);
    return true;
}

int main(void)
{
    bool mended = false;
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_retry_policy policy = { .retries = 5, .delay_ms = 10, .factor = 2.0 };
    struct fan_handler_options options = { FAN_HANDLER_OPTIONS_SIZE, "payments", .handle = pay,
                                           .context = &mended, .retry = &policy };
    struct fan_event_draft busy = { FAN_EVENT_DRAFT_SIZE, "shop.pay", .id = "bank is busy" };
    struct fan_event_draft wrong = { FAN_EVENT_DRAFT_SIZE, "shop.pay", .id = "wrong card" };
    struct fan_group_name name = { "payments", "" };
    struct fan_broker_options stepped = FAN_BROKER_OPTIONS_INIT;
    stepped.stepped = true; /* no threads: fan_broker_step does it all, here */
    struct fan_broker *broker;
    struct fan_cursor cursor;
    if (fan_broker_open("memory:", &stepped, &broker, &error) != FAN_OK ||
        fan_broker_handle(broker, &options, NULL, &error) != FAN_OK ||
        fan_broker_start(broker) != FAN_OK ||
        fan_broker_publish_sync(broker, &wrong, &cursor, &error) != FAN_HANDLER)
        return 1;
    printf("%s\n", error.message);
    mended = true;
    struct fan_store *store = fan_broker_store(broker);
    if (fan_store_deliveries(store, 0, 0, show, NULL) != FAN_OK ||
        fan_group_move(store, &name, cursor.seq, FAN_EVENT_PENDING) != FAN_OK ||
        fan_broker_publish(broker, &busy, &cursor, &error) != FAN_OK)
        return 1;
    struct fan_store_stats stats = { .size = sizeof(stats) };
    while (fan_store_stats(store, &stats) == FAN_OK && stats.completed < 2)
        (void)!fan_broker_step(broker); /* FAN_AGAIN, while a retry is not due */
    fan_broker_free(broker);
    return 0;
}
