/*
 * The smallest program with a broker: the default one, from a configuration.
 *
 *     cc default.c $(pkg-config --cflags --libs fanfare)
 */
#include <fanfare/default.h>

#include <stdio.h>

/* As it would stand in a file; fan_default_init(NULL, ...) reads the one of FANFARE_CONFIG. */
static const char text[] = "event_broker:\n"
                           "  enabled: true\n"
                           "  provider: memory\n"
                           "  mode: sync # publishing waits for the handlers here\n"
                           "  instance_id: \"shop-1\"\n";

static enum fan_verdict on_order(void *context, const struct fan_event *event,
                                 const struct fan_handling *handling)
{
    (void)context;
    (void)handling;
    printf("%s from %s: %.*s\n", fan_event_type(event), fan_event_instance_id(event),
           (int)fan_event_payload(event).size, fan_event_payload(event).data);
    return FAN_VERDICT_DONE;
}

static void last_words(void *context)
{
    printf("%s\n", (const char *)context);
}

static int fail(const struct fan_error *error)
{
    fprintf(stderr, "%s\n", error->message);
    return 1;
}

int main(void)
{
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_config_options options = FAN_CONFIG_OPTIONS_INIT;
    options.text = text;
    if (fan_default_init(&options, &error) != FAN_OK)
        return fail(&error);
    if (fan_default_on_shutdown(last_words, "the shop closes") != FAN_OK ||
        fan_default_subscribe("shop.order.*", on_order, NULL, &error) != FAN_OK)
        return fail(&error);

    struct fan_event_draft draft = { FAN_EVENT_DRAFT_SIZE, .type = "shop.order.create",
                                     .payload = FAN_STR("{\"total\": 12.50}") };
    if (fan_default_publish(&draft, NULL, &error) != FAN_OK)
        return fail(&error);
    /* Durable handlers (of a group) and all the rest go by fan_default_get. */
    return fan_default_shutdown(5000) == FAN_OK ? 0 : 1;
}
