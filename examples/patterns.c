/*
 * Patterns: `*` is one segment, a lone `*` everything, a last `>` one segment or more. Readers and
 * handlers take them alike.
 */
#include <fanfare/fanfare.h>

#include <stdio.h>

static const char *const types[] = { "public.users", "public.users.create", "public.roles.create",
                                     "admin.users.create" };
static const char *const patterns[] = { "*",          "public.*",        "public.>",
                                        "*.*.create", "public.*.create", "public.users.create" };

int main(void)
{
    struct fan_error error = FAN_ERROR_INIT;
    for (size_t i = 0; i < sizeof(patterns) / sizeof(*patterns); i++) {
        printf("%-20s", patterns[i]);
        for (size_t j = 0; j < sizeof(types) / sizeof(*types); j++)
            if (fan_pattern_match(patterns[i], types[j]))
                printf(" %s", types[j]);
        printf("\n");
    }
    if (fan_pattern_check("public..create", &error) == FAN_INVALID)
        printf("public..create: %s\n", error.message);

    struct fan_broker *broker;
    struct fan_reader *reader;
    struct fan_reader_options created = { FAN_READER_OPTIONS_SIZE, .start = FAN_START_BEGINNING,
                                          .pattern = "public.*.create" };
    if (fan_broker_open("memory:", NULL, &broker, &error) != FAN_OK ||
        fan_broker_start(broker) != FAN_OK)
        return 1;
    for (size_t j = 0; j < sizeof(types) / sizeof(*types); j++) {
        struct fan_event_draft draft = { FAN_EVENT_DRAFT_SIZE, .type = types[j] };
        if (fan_broker_publish(broker, &draft, NULL, &error) != FAN_OK)
            return 1;
    }
    const struct fan_event *event;
    if (fan_broker_subscribe(broker, &created, &reader, &error) != FAN_OK)
        return 1;
    while (fan_reader_next(reader, 0, &event) == FAN_OK)
        printf("%llu %s\n", (unsigned long long)fan_event_seq(event), fan_event_type(event));
    fan_reader_free(reader);
    fan_broker_free(broker);
    return 0;
}
