/*
 * The provider's keys become a URI, and that is all that is known here of providers: whether there
 * is such a provider, and whether it takes these options, is for the store to say.
 */
#include "config/open.h"

#include "base/adopt.h"
#include "base/env.h"
#include "base/status.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define EB "event_broker."

/* As enum of the key's choices. */
enum provider { MEMORY, REDIS, NATS, DATABASE };

static const char *text_of(const struct fan_config *config, const char *path)
{
    return fan__config_value(config, path)->text;
}

static uint64_t number_of(const struct fan_config *config, const char *path)
{
    return fan__config_value(config, path)->number;
}

static void add_encoded(struct fan__buffer *uri, const char *text)
{
    static const char plain[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~:";
    for (; *text; text++) {
        if (strchr(plain, *text))
            fan__buffer_add(uri, text, 1);
        else
            fan__buffer_add_format(uri, "%%%02X", (unsigned)(unsigned char)*text);
    }
}

/* Adds `name=value`, behind a ? or &. */
static void add_option(struct fan__buffer *uri, const char *name, const char *value)
{
    const char *mark = uri->data && memchr(uri->data, '?', uri->size) ? "&" : "?";
    fan__buffer_add_format(uri, "%s%s=", mark, name);
    add_encoded(uri, value);
}

static void add_number(struct fan__buffer *uri, const char *name, uint64_t number)
{
    char text[24];
    snprintf(text, sizeof(text), "%" PRIu64, number);
    if (number > 0)
        add_option(uri, name, text);
}

static void write_redis(const struct fan_config *config, struct fan__buffer *uri)
{
    const char *host = text_of(config, EB "redis.host");
    const char *user = text_of(config, EB "redis.user");
    const char *password = text_of(config, EB "redis.password");
    fan__buffer_add_text(uri, "redis://");
    if (*user || *password) {
        add_encoded(uri, user);
        fan__buffer_add_text(uri, *password ? ":" : "");
        add_encoded(uri, password);
        fan__buffer_add_text(uri, "@");
    }
    /* An address of IPv6 stands in brackets. */
    bool bare = strchr(host, ':') && *host != '[';
    fan__buffer_add_format(uri, "%s%s%s:%" PRIu64 "/%" PRIu64, bare ? "[" : "", host,
                           bare ? "]" : "", number_of(config, EB "redis.port"),
                           number_of(config, EB "redis.db"));
    add_option(uri, "stream", text_of(config, EB "redis.stream_name"));
    add_option(uri, "group", text_of(config, EB "redis.consumer_group"));
    add_number(uri, "max_len", number_of(config, EB "redis.max_len"));
}

static void write_nats(const struct fan_config *config, struct fan__buffer *uri)
{
    fan__buffer_add_text(uri, text_of(config, EB "nats.url"));
    add_option(uri, "stream", text_of(config, EB "nats.stream_name"));
    add_option(uri, "subjects", text_of(config, EB "nats.subjects"));
    add_option(uri, "storage", text_of(config, EB "nats.storage"));
    add_number(uri, "max_age_ms", number_of(config, EB "nats.max_age"));
}

static enum fan_status refuse(const struct fan_config *config, const char *key,
                              struct fan_error *error, const char *words)
{
    struct fan_error reason = FAN_ERROR_INIT;
    (void)fan__fail(&reason, FAN_INVALID, key, "%s", words);
    return fan__config_blame(config, key, FAN_INVALID, &reason, error);
}

static enum fan_status write_database(const struct fan_config *config, struct fan__buffer *uri,
                                      struct fan_error *error)
{
    const char *given = text_of(config, EB "database.uri");
    const char *table = text_of(config, EB "database.table_name");
    const char *channel = text_of(config, EB "database.channel");
    if (!given)
        return refuse(config, EB "database.uri", error,
                      "must be given for the provider database: sqlite:PATH or postgres://...");
    bool sqlite = strncmp(given, "sqlite:", 7) == 0;
    if (!sqlite && strncmp(given, "postgres:", 9) != 0 && strncmp(given, "postgresql:", 11) != 0)
        return refuse(config, EB "database.uri", error,
                      "expected sqlite:PATH or postgres://... for the provider database");
    if (sqlite && (table || channel))
        return refuse(config, table ? EB "database.table_name" : EB "database.channel", error,
                      "SQLite takes no such setting; it is of PostgreSQL");
    fan__buffer_add_text(uri, given);
    if (table)
        add_option(uri, "table", table);
    if (channel)
        add_option(uri, "channel", channel);
    add_number(uri, "poll_ms", number_of(config, EB "database.poll_interval"));
    return FAN_OK;
}

enum fan_status fan__config_provider(const struct fan_config *config, struct fan__buffer *uri,
                                     const char **ret_key, struct fan_error *error)
{
    enum fan_status status = FAN_OK;
    *ret_key = EB "provider";
    switch ((enum provider)number_of(config, EB "provider")) {
    case MEMORY:
        fan__buffer_add_text(uri, "memory:");
        break;
    case REDIS:
        write_redis(config, uri);
        break;
    case NATS:
        write_nats(config, uri);
        break;
    case DATABASE:
        *ret_key = EB "database.uri";
        status = write_database(config, uri, error);
        break;
    }
    fan__buffer_add(uri, "", 1);
    if (status == FAN_OK && uri->failed)
        status = fan__fail(error, FAN_NO_MEMORY, "", "out of memory");
    return status;
}

/* A number that was given, or what stands there already. */
static uint64_t given_or(const struct fan_config *config, const char *path, uint64_t otherwise)
{
    const struct fan__value *value = fan__config_value(config, path);
    return value->place.source == FAN_CONFIG_DEFAULT ? otherwise : value->number;
}

static void apply_retry(const struct fan_config *config, struct fan_retry_policy *retry)
{
    const struct fan__value *factor = fan__config_value(config, EB "retry_policy.factor");
    uint64_t retries = given_or(config, EB "retry_policy.max_retries", UINT64_MAX);
    if (retries != UINT64_MAX) {
        retry->retries = (unsigned)retries;
        retry->none = retries == 0;
    }
    retry->delay_ms = (uint32_t)given_or(config, EB "retry_policy.initial_delay", retry->delay_ms);
    retry->delay_ms_max =
        (uint32_t)given_or(config, EB "retry_policy.max_delay", retry->delay_ms_max);
    if (factor->place.source != FAN_CONFIG_DEFAULT)
        retry->factor = factor->factor;
    retry->jitter_percent =
        (unsigned)given_or(config, EB "retry_policy.jitter", retry->jitter_percent);
}

/* False when no bound is set: then nobody need look. */
static bool read_retention(const struct fan_config *config, struct fan_retention *retention)
{
    *retention = (struct fan_retention){
        .size = FAN_RETENTION_SIZE,
        .age_ms = number_of(config, EB "retention.age"),
        .count = number_of(config, EB "retention.count"),
        .bytes = number_of(config, EB "retention.bytes"),
        .owed_age_ms = number_of(config, EB "retention.owed_age"),
        .dead_age_ms = number_of(config, EB "retention.dead_age"),
        .group_age_ms = number_of(config, EB "retention.group_age"),
    };
    return retention->age_ms || retention->count || retention->bytes || retention->owed_age_ms ||
           retention->dead_age_ms || retention->group_age_ms;
}

void fan__config_apply(const struct fan_config *config, struct fan_broker_options *options,
                       struct fan_retention *retention)
{
    const char *instance_id = text_of(config, EB "instance_id");
    if (instance_id)
        options->instance_id = instance_id;
    /* As the key's choices: async, sync. */
    options->mode = (enum fan_mode)given_or(config, EB "mode", options->mode);
    options->worker_count = (unsigned)given_or(config, EB "worker_count", options->worker_count);
    options->work_queue_count =
        (size_t)given_or(config, EB "buffer_size", options->work_queue_count);
    apply_retry(config, &options->retry);
    if (read_retention(config, retention))
        options->retention = retention;
    options->retention_interval_ms =
        (uint32_t)given_or(config, EB "retention.interval", options->retention_interval_ms);
}

enum fan_status fan__config_blame(const struct fan_config *config, const char *key,
                                  enum fan_status status, const struct fan_error *reason,
                                  struct fan_error *ret_error)
{
    char where[256];
    const struct fan__place *place = &fan__config_value(config, key)->place;
    const char *message = reason->message[0] ? reason->message : fan_status_text(status);
    fan__place_format(place, where, sizeof(where));
    bool file = place->source == FAN_CONFIG_FILE;
    return fan__fail(ret_error, status, key, "%s%s%s: %s", where, file ? ": " : "",
                     file || !*where ? key : "", message);
}

static enum fan_status open_broker(const struct fan_config *config, struct fan__buffer *uri,
                                   const struct fan_broker_options *options,
                                   struct fan_broker **ret_broker, struct fan_error *error)
{
    const char *key;
    enum fan_status status = fan__config_provider(config, uri, &key, error);
    if (status != FAN_OK)
        return status;
    struct fan_error reason = FAN_ERROR_INIT;
    status = fan_broker_open(uri->data, options, ret_broker, &reason);
    if (status != FAN_OK)
        return fan__config_blame(config, key, status, &reason, error);
    return FAN_OK;
}

enum fan_status fan_config_open_broker(const struct fan_config *config,
                                       const struct fan_broker_options *options,
                                       struct fan_broker **ret_broker, struct fan_error *ret_error)
{
    struct fan_broker_options adopted = FAN_BROKER_OPTIONS_INIT;
    if (options && !fan__adopt(&adopted, sizeof(adopted), options, sizeof(adopted)))
        return fan__fail(ret_error, FAN_INVALID, "options.size", "must be that of the struct");
    if (!number_of(config, EB "enabled"))
        return fan__fail(ret_error, FAN_UNAVAILABLE, EB "enabled",
                         "there is no broker: event_broker.enabled is false");
    struct fan_retention retention;
    fan__config_apply(config, &adopted, &retention);
    struct fan__buffer uri;
    fan__buffer_init(&uri, config->env);
    enum fan_status status = open_broker(config, &uri, &adopted, ret_broker, ret_error);
    fan__buffer_deinit(&uri);
    return status;
}
