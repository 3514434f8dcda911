/*
 * What lies in the schema: nothing, a log of ours, or something else that must not be touched. All
 * is made, or migrated, in one transaction, under the log's lock.
 */
#include "store/postgres/schema.h"

#include "base/env.h"
#include "base/status.h"
#include "store/postgres/store.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* What was found there. */
struct found {
    bool has_schema;
    bool has_meta;
    int64_t others; /* tables of our names */
    int64_t application;
    int64_t format;
    int64_t epoch;
    int64_t series_swept;
};

static enum fan_status tell(struct fan__postgres_connection *connection, const struct found *found,
                            struct fan_error *error)
{
    const struct fan__postgres *store = connection->store;
    enum fan_status status = connection->status;
    const char *user = PQuser(connection->conn);
    if (status == FAN_DENIED && found->has_meta)
        return fan__fail(error, status, "uri",
                         "%s: let its owner GRANT USAGE ON SCHEMA \"%s\" TO \"%s\", and ALL ON ALL "
                         "TABLES IN it",
                         connection->message, store->schema, user);
    if (status == FAN_DENIED)
        return fan__fail(error, status, "uri",
                         found->has_schema
                             ? "%s: let its owner GRANT ALL ON SCHEMA \"%s\" TO \"%s\""
                             : "%s: let its owner CREATE SCHEMA \"%s\" AUTHORIZATION \"%s\"",
                         connection->message, store->schema, user);
    return fan__fail(error, status, "uri", "%s",
                     connection->message[0] ? connection->message : fan_status_text(status));
}

static const char *const words[] = {
    "meta", "series",   "event", "lease",   "mark",   "clock",
    "grp",  "delivery", "tally", "dropped", "events", "deliveries"
};

void fan__postgres_names(const struct fan__postgres *store, struct fan__postgres_array *names)
{
    char name[FAN__POSTGRES_NAME_MAX + 1];
    fan__postgres_array_init(names, store->env, FAN__POSTGRES_TEXT);
    for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++) {
        fan__postgres_name(store, words[i], strlen(words[i]), name);
        fan__postgres_array_text(names, name);
    }
}

static void look(struct fan__postgres_connection *connection, struct found *ret_found)
{
    const struct fan__postgres *store = connection->store;
    struct found found = { 0 };
    struct fan__postgres_params params = { 0 };
    struct fan__postgres_array names;
    char meta[FAN__POSTGRES_NAME_MAX + 1];
    fan__postgres_names(store, &names);
    fan__postgres_name(store, "meta", strlen("meta"), meta);
    fan__postgres_add_text(&params, store->schema);
    fan__postgres_add_text(&params, meta);
    fan__postgres_add_array(&params, &names);
    PGresult *result = fan__postgres_run(connection, FAN__PG_LOOK, &params);
    fan__postgres_array_deinit(&names);
    if (result && PQntuples(result) == 1) {
        found.has_schema = fan__postgres_int(result, 0, 0) != 0;
        found.has_meta = fan__postgres_int(result, 0, 1) == 2;
        found.others = fan__postgres_int(result, 0, 2);
    }
    PQclear(result);
    if (found.has_meta) {
        result = fan__postgres_run(connection, FAN__PG_LOOK_META, NULL);
        if (result && PQntuples(result) == 1) {
            found.application = fan__postgres_int(result, 0, 0);
            found.format = fan__postgres_int(result, 0, 1);
            found.epoch = fan__postgres_int(result, 0, 2);
            found.series_swept = fan__postgres_int(result, 0, 3);
        }
        PQclear(result);
    }
    *ret_found = found;
}

static enum fan_status judge(const struct fan__postgres *store, const struct found *found,
                             struct fan_error *error)
{
    bool ours = found->has_meta && found->application == FAN__POSTGRES_APPLICATION;
    if (!ours && found->others > 0)
        return fan__fail(error, FAN_CORRUPT, "uri",
                         "schema \"%s\" has tables of another program where the log's would be: "
                         "choose another with schema= or table=",
                         store->schema);
    if (ours && found->format > FAN__POSTGRES_FORMAT)
        return fan__fail(error, FAN_TOO_NEW, "uri",
                         "the log in schema \"%s\" has format %" PRId64
                         ", and this library knows formats up to %d: open it with a later one",
                         store->schema, found->format, FAN__POSTGRES_FORMAT);
    if (ours && (found->format < 1 || found->epoch == 0))
        return fan__fail(error, FAN_CORRUPT, "uri",
                         "the log in schema \"%s\" has no format or no epoch that ever was: "
                         "restore a copy of it",
                         store->schema);
    return FAN_OK;
}

static void create(struct fan__postgres_connection *connection, bool has_schema)
{
    char sql[512];
    int64_t epoch = 0;
    uint32_t swept = 0;
    while (epoch == 0)
        fan__random(connection->store->env, &epoch, sizeof(epoch));
    fan__random(connection->store->env, &swept, sizeof(swept));
    if (!has_schema)
        fan__postgres_script(connection, "CREATE SCHEMA @");
    fan__postgres_script(connection, FAN__POSTGRES_SCHEMA_LOG FAN__POSTGRES_SCHEMA_GROUPS);
    fan__postgres_script(connection, FAN__POSTGRES_SCHEMA_TRIGGERS FAN__POSTGRES_SCHEMA_VIEWS);
    snprintf(sql, sizeof(sql),
             "INSERT INTO @meta VALUES('application', %d), ('format', %d), ('epoch', %" PRId64
             "), ('head_floor', 0), ('trimmed_seq', 0), ('removed', 0), ('fence', 0), "
             "('token_floor', 0), ('series_swept', %" PRIu32 ");",
             FAN__POSTGRES_APPLICATION, FAN__POSTGRES_FORMAT, epoch, swept);
    fan__postgres_script(connection, sql);
}

/* Makes the log, unless another process was first; reads what it is. */
static enum fan_status make(struct fan__postgres_connection *connection, struct found *found,
                            struct fan_error *error)
{
    look(connection, found);
    if (connection->status != FAN_OK)
        return tell(connection, found, error);
    enum fan_status status = judge(connection->store, found, error);
    if (status != FAN_OK || found->has_meta)
        return status;
    create(connection, found->has_schema);
    if (connection->status == FAN_OK)
        look(connection, found);
    fan__postgres_clock_sync(connection);
    return connection->status == FAN_OK ? FAN_OK : tell(connection, found, error);
}

/* Whether an acknowledged event is on the server's disk. */
static void look_at_settings(struct fan__postgres_connection *connection)
{
    PGresult *result = fan__postgres_run(connection, FAN__PG_LOOK_SETTINGS, NULL);
    if (result && PQntuples(result) == 1) {
        connection->store->durable = fan__postgres_int(result, 0, 0) != 0;
        if (fan__postgres_int(result, 0, 1) == 0) {
            snprintf(connection->message, sizeof(connection->message),
                     "the database's encoding is not UTF8: make one with ENCODING 'UTF8'");
            fan__postgres_fail(connection, FAN_UNSUPPORTED);
        }
    }
    PQclear(result);
}

enum fan_status fan__postgres_schema_open(struct fan__postgres *store, struct fan_error *error)
{
    struct fan__postgres_connection *connection = NULL;
    enum fan_status status = fan__postgres_borrow_writer(store, &connection, error);
    if (status != FAN_OK)
        return status;
    struct found found;
    look_at_settings(connection);
    status = make(connection, &found, error);
    if (status == FAN_OK && !store->clock.begun)
        fan__postgres_clock_sync(connection);
    enum fan_status ended = fan__postgres_end(connection, status, status == FAN_OK ? error : NULL);
    if (status != FAN_OK || ended != FAN_OK)
        return status != FAN_OK ? status : ended;
    store->epoch = (uint64_t)found.epoch;
    store->series_swept = found.series_swept;
    return FAN_OK;
}

void fan__postgres_bounds_of(struct fan__postgres_connection *connection, const PGresult *result,
                             struct fan__postgres_bounds *ret_bounds)
{
    *ret_bounds = (struct fan__postgres_bounds){ 0 };
    if (PQntuples(result) != 1)
        return;
    ret_bounds->head_seq = (uint64_t)fan__postgres_int(result, 0, 0);
    ret_bounds->trimmed_seq = (uint64_t)fan__postgres_int(result, 0, 1);
    fan__postgres_check_epoch(connection, fan__postgres_int(result, 0, 2));
}

void fan__postgres_bounds(struct fan__postgres_connection *connection,
                          struct fan__postgres_bounds *ret_bounds)
{
    PGresult *result = fan__postgres_run(connection, FAN__PG_BOUNDS, NULL);
    fan__postgres_bounds_of(connection, result, ret_bounds);
    PQclear(result);
}
