/*
 * A durable handler: each event is owed to the group "welcome-mail" until it is done, also across
 * crashes, and goes to one of the processes that handle for it.
 */
#include <fanfare/fanfare.h>

#include <stdio.h>

static enum fan_verdict on_user(void *context, const struct fan_event *event,
                                const struct fan_handling *handling)
{
    struct fan_broker *broker = context;
    printf("%s, attempt %u: %.*s\n", fan_event_type(event), handling->attempt,
           (int)fan_event_payload(event).size, fan_event_payload(event).data);
    /* A handler never waits for the broker; it may publish without waiting. */
    struct fan_event_draft mailed = { .size = FAN_EVENT_DRAFT_SIZE, .type = "public.mails.create" };
    if (fan_broker_publish_async(broker, &mailed, NULL, NULL, NULL) != FAN_OK)
        return FAN_VERDICT_RETRY;
    return FAN_VERDICT_DONE;
}

int main(void)
{
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_broker *broker = NULL;
    if (fan_broker_open("memory:", NULL, &broker, &error) != FAN_OK) {
        fprintf(stderr, "%s\n", error.message);
        return 1;
    }
    struct fan_handler_options handler = { .size = FAN_HANDLER_OPTIONS_SIZE,
                                           .group = "welcome-mail",
                                           .pattern = "public.users.create",
                                           .handle = on_user,
                                           .context = broker };
    struct fan_reader_options mails = { .size = FAN_READER_OPTIONS_SIZE,
                                        .pattern = "public.mails.*" };
    struct fan_reader *reader = NULL;
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE,
                                     .type = "public.users.create",
                                     .payload = FAN_STR("{\"id\": 42, \"name\": \"Ada\"}") };
    const struct fan_event *event;
    if (fan_broker_handle(broker, &handler, NULL, &error) != FAN_OK ||
        fan_broker_subscribe(broker, &mails, &reader, &error) != FAN_OK ||
        fan_broker_start(broker) != FAN_OK ||
        fan_broker_publish(broker, &draft, NULL, &error) != FAN_OK ||
        fan_reader_next(reader, 10000, &event) != FAN_OK)
        return 1;
    printf("then %s\n", fan_event_type(event));
    fan_reader_free(reader);
    fan_broker_free(broker);
    return 0;
}
