/* What the tests of the outbox share, whatever the database: events to record, and relays. */
#ifndef TESTS_HOOK_OUTBOX_SUPPORT_H
#define TESTS_HOOK_OUTBOX_SUPPORT_H

#include "support.h"

/* One with every field that a caller may give. */
static const struct fan_event_draft whole_draft = {
    .size = FAN_EVENT_DRAFT_SIZE,
    .type = "shop.orders.create",
    .topic = "orders:1",
    .id = "first",
    .source = FAN_SOURCE_FRONTEND,
    .payload = { "\x00\xff binary", 9 },
    .content_type = "application/octet-stream",
    .metadata = FAN_STR("{\"a\": [1, 2.50]}"),
    .user_id = -5,
    .session_id = "s",
    .created_us = 1700000000123456,
    .deliver_at_us = 1700000001123456,
    .traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
};

static inline void assert_whole(const struct fan_event *event, const char *instance_id)
{
    const struct fan_event_draft *draft = &whole_draft;
    assert_string_equal(fan_event_id(event), draft->id);
    assert_string_equal(fan_event_type(event), draft->type);
    assert_string_equal(fan_event_topic(event), draft->topic);
    assert_int_equal(fan_event_source(event), draft->source);
    assert_int_equal(fan_event_payload(event).size, draft->payload.size);
    assert_memory_equal(fan_event_payload(event).data, draft->payload.data, draft->payload.size);
    assert_string_equal(fan_event_content_type(event), draft->content_type);
    assert_memory_equal(fan_event_metadata(event).data, draft->metadata.data, draft->metadata.size);
    assert_int_equal(fan_event_user_id(event), draft->user_id);
    assert_string_equal(fan_event_session_id(event), draft->session_id);
    assert_string_equal(fan_event_instance_id(event), instance_id);
    assert_int_equal(fan_event_created_us(event), draft->created_us);
    assert_int_equal(fan_event_deliver_at_us(event), draft->deliver_at_us);
    assert_string_equal(fan_event_traceparent(event), draft->traceparent);
}

/* Texts are borrowed, and may be NULL. */
static inline struct fan_event_draft order_draft(const char *id, const char *payload)
{
    return (struct fan_event_draft){ .size = FAN_EVENT_DRAFT_SIZE,
                                     .type = "shop.orders.create",
                                     .id = id,
                                     .payload = { payload, payload ? strlen(payload) : 0 } };
}

/* `more` may be NULL, and its database, which `database` then is. */
static inline struct fan_outbox_relay *relay_opened_at(struct fan_broker *broker,
                                                       const char *database,
                                                       const struct fan_outbox_relay_options *more)
{
    struct fan_outbox_relay_options options = more ? *more : (struct fan_outbox_relay_options){ 0 };
    options.size = FAN_OUTBOX_RELAY_OPTIONS_SIZE;
    options.database = options.database ? options.database : database;
    struct fan_outbox_relay *relay = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    if (fan_outbox_relay_open(broker, &options, &relay, &error) != FAN_OK)
        fail_msg("%s: %s", error.field, error.message);
    return relay;
}

static inline struct fan_outbox_relay *relay_started_at(struct fan_broker *broker,
                                                        const char *database, uint32_t poll_ms)
{
    struct fan_outbox_relay *relay =
        relay_opened_at(broker, database,
                        &(struct fan_outbox_relay_options){
                            .poll_ms = poll_ms, .batch_count = 7, .lease_ms = 200 });
    assert_ok(fan_outbox_relay_start(relay));
    return relay;
}

static inline struct fan_outbox_relay_stats relay_stats(struct fan_outbox_relay *relay)
{
    struct fan_outbox_relay_stats stats = { .size = sizeof(stats) };
    fan_outbox_relay_stats(relay, &stats);
    return stats;
}

/* Moves everything on this thread. */
static inline void drain(struct fan_outbox_relay *relay)
{
    enum fan_status status;
    struct fan_error error = FAN_ERROR_INIT;
    while ((status = fan_outbox_relay_step(relay, &error)) == FAN_OK)
        ;
    if (status != FAN_AGAIN)
        fail_msg("%s: %s", fan_status_name(status), error.message);
}

#endif
