/*
 * The smallest bus: one typed event, one subscriber, one thread.
 *
 *     cc hello.c $(pkg-config --cflags --libs fanfare)
 */
#include <fanfare/kind.h>
#include <fanfare/subscription.h>

#include <stdio.h>

/* What is published is a struct of yours. */
struct greeting {
    char name[32];
    int times;
};

/* Makes greeting_publish and greeting_read, which take this struct and no other. */
enum { GREETING };
FAN_KIND_DECLARE(greeting, GREETING, "hello.greeting", struct greeting)

/* The closed set of kinds: here, one. */
static const struct fan_kind kinds[] = { FAN_KIND(greeting) };

int main(void)
{
    struct fan_bus_options options = FAN_BUS_OPTIONS_INIT;
    options.kinds = kinds;
    options.kind_count = 1;
    struct fan_bus *bus;
    struct fan_error error = FAN_ERROR_INIT;
    if (fan_bus_open(&options, &bus, &error) != FAN_OK) {
        fprintf(stderr, "%s: %s\n", error.field, error.message);
        return 1;
    }

    /* A subscription says what it wants; "all" is spelled out. */
    struct fan_subscription_options wanted = { FAN_SUBSCRIPTION_OPTIONS_SIZE, .all_kinds = true };
    struct fan_subscription *subscription;
    if (fan_bus_subscribe(bus, &wanted, &subscription, &error) != FAN_OK)
        return 1;

    struct greeting sent = { .name = "world", .times = 3 };
    if (greeting_publish(bus, "greetings", &sent, NULL) != FAN_OK)
        return 1;
    fan_bus_close(bus); /* No more will come; what is buffered can still be read. */

    const struct fan_message *message;
    struct greeting got;
    enum fan_status status;
    do { /* FAN_GAP tells what a slow one has lost, and goes on. */
        status = fan_subscription_next(subscription, FAN_TIMEOUT_FOREVER, &message);
        if (status == FAN_OK && greeting_read(message, &got) == FAN_OK)
            printf("%llu: hello %s, %d times\n", (unsigned long long)message->seq, got.name,
                   got.times);
    } while (status != FAN_CLOSED);

    fan_subscription_free(subscription);
    fan_bus_free(bus);
    return 0;
}
