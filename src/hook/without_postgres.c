/* What stands in the place of PostgreSQL in a library that was built without it. */
#include "base/status.h"
#include "hook/relay.h"

#include <fanfare/capture.h>
#include <fanfare/outbox_postgres.h>

static enum fan_status refuse(struct fan_error *error)
{
    return fan__fail(error, FAN_UNSUPPORTED, "database",
                     "is PostgreSQL, which this library was built without");
}

enum fan_status fan_outbox_postgres_create(struct pg_conn *conn, const char *schema,
                                           struct fan_error *ret_error)
{
    (void)conn;
    (void)schema;
    return refuse(ret_error);
}

enum fan_status fan_outbox_postgres_record(struct pg_conn *conn, const char *schema,
                                           const struct fan_event_draft *draft,
                                           const struct fan_event_defaults *defaults,
                                           struct fan_error *ret_error)
{
    (void)conn;
    (void)schema;
    (void)draft;
    (void)defaults;
    return refuse(ret_error);
}

enum fan_status fan_outbox_postgres_capture(
    const struct fan_outbox_postgres_capture_options *options, struct fan_error *ret_error)
{
    (void)options;
    return refuse(ret_error);
}

static enum fan_status open_none(const struct fan_env *env,
                                 const struct fan_outbox_relay_options *options, void **ret_self,
                                 struct fan_error *error)
{
    (void)env;
    (void)options;
    (void)ret_self;
    return refuse(error);
}

const struct fan__outbox fan__outbox_postgres = { .open = open_none };

enum fan_status fan_capture_open(struct fan_broker *broker,
                                 const struct fan_capture_options *options,
                                 struct fan_capture **ret_capture, struct fan_error *ret_error)
{
    (void)broker;
    (void)options;
    (void)ret_capture;
    return refuse(ret_error);
}

enum fan_status fan_capture_start(struct fan_capture *capture)
{
    (void)capture;
    return FAN_UNSUPPORTED;
}

void fan_capture_stop(struct fan_capture *capture)
{
    (void)capture;
}

void fan_capture_free(struct fan_capture *capture)
{
    (void)capture;
}

void fan_capture_stats(struct fan_capture *capture, struct fan_capture_stats *ret_stats)
{
    (void)capture;
    (void)ret_stats;
}

enum fan_status fan_capture_remove(const char *database, const char *slot,
                                   struct fan_error *ret_error)
{
    (void)database;
    (void)slot;
    return refuse(ret_error);
}
