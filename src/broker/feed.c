/* The list of feeds, and their families of metrics: docs/metrics.md lists them. */
#include <fanfare/feed.h>

#include "base/adopt.h"
#include "base/env.h"
#include "broker/broker.h"
#include "broker/exposition.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define RELAY FAN_FEED_RELAY
#define CAPTURE FAN_FEED_CAPTURE
#define NAME_SIZE_MAX 80
#define AT(field) offsetof(struct fan_feed_stats, field)

static const struct {
    enum fan_feed_kind feed;
    enum fan__family_kind kind;
    bool seconds;
    size_t at;
    const char *name;
    const char *help;
} families[] = {
    { RELAY, FAN__FAMILY_GAUGE, false, AT(leading), "eventbroker_relay_leading",
      "1 for the relay that works, of those that take turns." },
    { RELAY, FAN__FAMILY_GAUGE, false, AT(failing), "eventbroker_relay_failing",
      "1 while it does not get on." },
    { RELAY, FAN__FAMILY_COUNTER, false, AT(events), "eventbroker_relay_events",
      "Events that the log has taken, also again after a restart." },
    { RELAY, FAN__FAMILY_COUNTER, false, AT(aside), "eventbroker_relay_aside",
      "Rows set aside, as they are no events." },
    { RELAY, FAN__FAMILY_COUNTER, false, AT(failures), "eventbroker_relay_failures",
      "Times that it had to try again." },
    { RELAY, FAN__FAMILY_GAUGE, false, AT(rows), "eventbroker_relay_rows", "Rows that wait." },
    { RELAY, FAN__FAMILY_GAUGE, true, AT(lag_ns), "eventbroker_relay_lag_seconds",
      "Age of the oldest row that waits." },
    { RELAY, FAN__FAMILY_GAUGE, true, AT(hidden_ns), "eventbroker_relay_hidden_seconds",
      "How long rows have waited behind one open transaction." },
    { CAPTURE, FAN__FAMILY_GAUGE, false, AT(leading), "eventbroker_capture_leading",
      "1 for the capture that reads the slot." },
    { CAPTURE, FAN__FAMILY_GAUGE, false, AT(failing), "eventbroker_capture_failing",
      "1 while it does not get on." },
    { CAPTURE, FAN__FAMILY_COUNTER, false, AT(events), "eventbroker_capture_events",
      "Events that the log has taken, also again after a restart." },
    { CAPTURE, FAN__FAMILY_COUNTER, false, AT(refused), "eventbroker_capture_refused",
      "Rows over a limit, told by their key alone." },
    { CAPTURE, FAN__FAMILY_COUNTER, false, AT(gaps), "eventbroker_capture_gaps",
      "Times that changes were missed." },
    { CAPTURE, FAN__FAMILY_COUNTER, false, AT(failures), "eventbroker_capture_failures",
      "Times that it had to try again." },
    { CAPTURE, FAN__FAMILY_GAUGE, true, AT(lag_ns), "eventbroker_capture_lag_seconds",
      "From the commit of the last transaction until its events were durable." },
    { CAPTURE, FAN__FAMILY_GAUGE, false, AT(lag_bytes), "eventbroker_capture_lag_bytes",
      "What the server has logged since the place of the slot." },
    { CAPTURE, FAN__FAMILY_GAUGE, false, AT(slot_bytes), "eventbroker_capture_slot_bytes",
      "What the server keeps for the slot." },
    { CAPTURE, FAN__FAMILY_GAUGE, false, AT(alarm), "eventbroker_capture_slot_alarm",
      "1 while that is at its alarm." },
};

struct fan_feed {
    struct fan_broker *broker;
    struct fan_feed *next;
    struct fan_feed_options options;
    char name[NAME_SIZE_MAX + sizeof("-4294967295")];
    struct fan_feed_stats seen;
};

static bool is_taken(const struct fan_broker *broker, const struct fan_feed *feed)
{
    for (const struct fan_feed *other = broker->feeds; other; other = other->next)
        if (other->options.kind == feed->options.kind && strcmp(other->name, feed->name) == 0)
            return true;
    return false;
}

enum fan_status fan_feed_add(struct fan_broker *broker, const struct fan_feed_options *options,
                             struct fan_feed **ret_feed)
{
    struct fan_feed_options adopted;
    if (!fan__adopt(&adopted, sizeof(adopted), options, sizeof(adopted)) || !adopted.name ||
        !adopted.look || adopted.kind > FAN_FEED_CAPTURE)
        return FAN_INVALID;
    struct fan_feed *feed = fan__alloc_zero(broker->env, 1, sizeof(*feed));
    if (!feed)
        return FAN_NO_MEMORY;
    feed->broker = broker;
    feed->options = adopted;
    fan__mutex_lock(&broker->feed_mutex);
    snprintf(feed->name, sizeof(feed->name), "%.*s", NAME_SIZE_MAX, adopted.name);
    for (unsigned number = 2; is_taken(broker, feed); number++)
        snprintf(feed->name, sizeof(feed->name), "%.*s-%u", NAME_SIZE_MAX, adopted.name, number);
    feed->next = broker->feeds;
    broker->feeds = feed;
    fan__mutex_unlock(&broker->feed_mutex);
    *ret_feed = feed;
    return FAN_OK;
}

void fan_feed_remove(struct fan_feed *feed)
{
    if (!feed)
        return;
    struct fan_broker *broker = feed->broker;
    fan__mutex_lock(&broker->feed_mutex);
    struct fan_feed **at = &broker->feeds;
    while (*at != feed)
        at = &(*at)->next;
    *at = feed->next;
    fan__mutex_unlock(&broker->feed_mutex);
    fan__free(broker->env, feed);
}

static void expose_family(const struct fan_broker *broker, size_t family,
                          struct fan__exposition *exposition)
{
    bool begun = false;
    for (const struct fan_feed *feed = broker->feeds; feed; feed = feed->next) {
        if (feed->options.kind != families[family].feed)
            continue;
        if (!begun)
            fan__expose_family(exposition, families[family].name, families[family].kind,
                               families[family].help);
        begun = true;
        const char *label = feed->options.kind == FAN_FEED_RELAY ? "outbox" : "slot";
        struct fan__label_set labels = { { { label, feed->name } } };
        uint64_t value;
        memcpy(&value, (const char *)&feed->seen + families[family].at, sizeof(value));
        if (families[family].seconds)
            fan__expose_seconds(exposition, &labels, value);
        else
            fan__expose(exposition, &labels, value);
    }
}

static void take_look(struct fan_feed *feed)
{
    feed->seen = (struct fan_feed_stats){ .size = sizeof(feed->seen) };
    feed->options.look(feed->options.context, &feed->seen);
}

void fan__feeds_expose(struct fan_broker *broker, struct fan__exposition *exposition)
{
    fan__mutex_lock(&broker->feed_mutex);
    for (struct fan_feed *feed = broker->feeds; feed; feed = feed->next)
        take_look(feed);
    for (size_t i = 0; i < sizeof(families) / sizeof(families[0]); i++)
        expose_family(broker, i, exposition);
    fan__mutex_unlock(&broker->feed_mutex);
}
