/*
 * The log: publish three events, close, open again, and read the whole story from its beginning.
 * What was acknowledged is on the disk.
 */
#include <fanfare/fanfare.h>

#include <stdio.h>

static int fail(const struct fan_error *error)
{
    fprintf(stderr, "%s\n", error->message);
    return 1;
}

int main(int argc, char **argv)
{
    char uri[512];
    snprintf(uri, sizeof(uri), "sqlite:%s", argc > 1 ? argv[1] : "events.db");
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_broker *broker = NULL;
    if (fan_broker_open(uri, NULL, &broker, &error) != FAN_OK)
        return fail(&error);
    if (fan_broker_start(broker) != FAN_OK)
        return 1;
    const char *names[] = { "Ada", "Grace", "Barbara" };
    for (size_t i = 0; i < 3; i++) {
        char payload[64];
        int size = snprintf(payload, sizeof(payload), "{\"name\": \"%s\"}", names[i]);
        struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE,
                                         .type = "public.users.create",
                                         .payload = { payload, (size_t)size } };
        if (fan_broker_publish(broker, &draft, NULL, &error) != FAN_OK)
            return fail(&error);
    }
    fan_broker_free(broker);

    if (fan_broker_open(uri, NULL, &broker, &error) != FAN_OK)
        return fail(&error);
    struct fan_reader_options options = { .size = FAN_READER_OPTIONS_SIZE,
                                          .start = FAN_START_BEGINNING };
    struct fan_reader *reader = NULL;
    if (fan_broker_subscribe(broker, &options, &reader, &error) != FAN_OK)
        return fail(&error);
    const struct fan_event *event;
    while (fan_reader_next(reader, 0, &event) == FAN_OK)
        printf("%llu %s %.*s\n", (unsigned long long)fan_event_seq(event), fan_event_type(event),
               (int)fan_event_payload(event).size, fan_event_payload(event).data);
    fan_reader_free(reader);
    fan_broker_free(broker);
    return 0;
}
