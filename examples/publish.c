/*
 * Publishing: one event and its place in the log, the same id again, several as one unit, and
 * without waiting. What is wrong is refused by its field.
 */
#include <fanfare/fanfare.h>

#include <stdio.h>

static void on_published(void *context, const struct fan_published *published)
{
    *(bool *)context = published->status == FAN_OK;
}

int main(void)
{
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_broker *broker;
    if (fan_broker_open("memory:", NULL, &broker, &error) != FAN_OK ||
        fan_broker_start(broker) != FAN_OK)
        return 1;

    struct fan_event_draft draft = { FAN_EVENT_DRAFT_SIZE, .type = "public.users.create",
                                     .id = "user-42", .topic = "users:42",
                                     .payload = FAN_STR("{\"id\": 42, \"name\": \"Ada\"}") };
    struct fan_cursor cursors[2];
    if (fan_broker_publish(broker, &draft, &cursors[0], &error) != FAN_OK ||
        fan_broker_publish(broker, &draft, &cursors[1], &error) != FAN_OK)
        return 1;
    printf("durable at %llu, and again at %llu\n", (unsigned long long)cursors[0].seq,
           (unsigned long long)cursors[1].seq);

    /* Both or neither, and only if the topic's last event is the one that we have seen. */
    struct fan_event_draft drafts[] = { draft, draft };
    drafts[0].id = drafts[1].id = NULL; /* made for us */
    struct fan_expectation expectation = { sizeof(expectation), "users:42", cursors[0].seq, NULL,
                                           0 };
    struct fan_unit unit = { FAN_UNIT_SIZE, drafts, 2, &expectation, 0 };
    if (fan_broker_publish_unit(broker, &unit, cursors, &error) != FAN_OK)
        return 1;
    printf("a unit at %llu and %llu; once more: ", (unsigned long long)cursors[0].seq,
           (unsigned long long)cursors[1].seq);
    printf("%s\n", fan_status_text(fan_broker_publish_unit(broker, &unit, cursors, &error)));

    bool stored = false;
    if (fan_broker_publish_async(broker, &drafts[0], on_published, &stored, &error) != FAN_OK)
        return 1;
    draft.payload.size--;
    if (fan_broker_publish(broker, &draft, NULL, &error) != FAN_INVALID)
        return 1;
    printf("refused: %s\n", error.field);
    fan_broker_stop(broker, 10000); /* drains */
    printf("stored without waiting: %s\n", stored ? "yes" : "no");
    fan_broker_free(broker);
    return 0;
}
