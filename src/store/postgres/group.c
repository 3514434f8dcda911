/* Groups come and go; what they are owed is claim.c's, how it ended settle.c's. */
#include "store/postgres/group.h"

#include "base/env.h"

#include <ctype.h>
#include <string.h>

enum fan_status fan__postgres_regex(const char *pattern, const struct fan_env *env,
                                    char **ret_regex)
{
    *ret_regex = NULL;
    if (!pattern || strcmp(pattern, "*") == 0 || strcmp(pattern, ">") == 0)
        return FAN_OK;
    struct fan__buffer regex;
    fan__buffer_init(&regex, env);
    fan__buffer_add(&regex, "^", 1);
    for (const char *at = pattern; *at; at++) {
        bool plain = isalnum((unsigned char)*at) || (unsigned char)*at >= 0x80;
        if (*at == '*')
            fan__buffer_add_text(&regex, "[^.]+");
        else if (*at == '>')
            fan__buffer_add_text(&regex, ".+");
        else
            fan__buffer_add_format(&regex, plain ? "%c" : "\\%c", *at);
    }
    fan__buffer_add(&regex, "$", 2);
    size_t size = 0;
    *ret_regex = fan__buffer_take(&regex, &size);
    return *ret_regex ? FAN_OK : FAN_NO_MEMORY;
}

bool fan__postgres_group_take(PGresult *result, struct fan__postgres_found *ret_group)
{
    if (PQntuples(result) == 0) {
        PQclear(result);
        return false;
    }
    *ret_group = (struct fan__postgres_found){
        .result = result,
        .id = fan__postgres_int(result, 0, 0),
        .regex = fan__postgres_text_or_null(result, 0, 1),
        .topic = fan__postgres_text_or_null(result, 0, 2),
        .cursor_seq = (uint64_t)fan__postgres_int(result, 0, 3),
        .ordered = fan__postgres_int(result, 0, 4) != 0,
        .token = (uint64_t)fan__postgres_int(result, 0, 5),
        .joined_us = fan__postgres_int(result, 0, 6),
        .due_first = fan__postgres_int(result, 0, 7) != 0,
    };
    return true;
}

enum fan_status fan__postgres_group_find(struct fan__postgres_connection *connection,
                                         const struct fan_group_name *name, bool lock,
                                         struct fan__postgres_found *ret_group)
{
    struct fan__postgres_params params = { .count = 0 };
    fan__postgres_add_text(&params, name->group);
    fan__postgres_add_text(&params, name->handler);
    if (fan__postgres_group_take(
            fan__postgres_run(connection, lock ? FAN__PG_GROUP_LOCK : FAN__PG_GROUP_GET, &params),
            ret_group))
        return FAN_OK;
    return connection->status != FAN_OK ? connection->status : FAN_NOT_FOUND;
}

void fan__postgres_group_free(struct fan__postgres_found *group)
{
    PQclear(group->result);
    group->result = NULL;
}

void fan__postgres_unsynced(struct fan__postgres_connection *connection)
{
    fan__postgres_queue(connection, FAN__PG_UNSYNCED, NULL);
}

enum fan_status fan__postgres_group_create(void *self, const struct fan_group_name *name,
                                           const struct fan_group_options *options,
                                           struct fan_error *error)
{
    struct fan__postgres *store = self;
    struct fan__postgres_connection *connection = NULL;
    char *regex = NULL;
    enum fan_status status = fan__postgres_regex(options->pattern, store->env, &regex);
    if (status == FAN_OK)
        status = fan__postgres_borrow(store, FAN__POSTGRES_WRITE, &connection, error);
    if (status != FAN_OK) {
        fan__free(store->env, regex);
        return status;
    }
    fan__postgres_clock_sync(connection);
    struct fan__postgres_params params = { .count = 0 };
    fan__postgres_add_text(&params, name->group);
    fan__postgres_add_text(&params, name->handler);
    fan__postgres_add_text(&params, options->pattern);
    fan__postgres_add_text(&params, regex);
    fan__postgres_add_text(&params, options->topic);
    fan__postgres_add_int(&params, options->start == FAN_START_BEGINNING ? 0
                                   : options->start == FAN_START_CURSOR
                                       ? (int64_t)options->start_seq
                                       : INT64_MAX);
    fan__postgres_add_int(&params, fan__postgres_now_us(store));
    PGresult *result = fan__postgres_run(connection, FAN__PG_GROUP_CREATE, &params);
    bool exists = PQntuples(result) == 1 && fan__postgres_int(result, 0, 0) == 0;
    PQclear(result);
    fan__free(store->env, regex);
    status = fan__postgres_end(connection, FAN_OK, error);
    return status == FAN_OK && exists ? FAN_EXISTS : status;
}

void fan__postgres_group_drop(struct fan__postgres_connection *connection, int64_t id)
{
    struct fan__postgres_params params = { .count = 0 };
    fan__postgres_add_int(&params, id);
    /* A group of that name may come again: a claim on this one must not speak for it. */
    fan__postgres_queue(connection, FAN__PG_TOKEN_FLOOR, &params);
    fan__postgres_queue(connection, FAN__PG_GROUP_DELETE, &params);
    fan__postgres_queue(connection, FAN__PG_DROPPED_ADD, &params);
}

static void clear(struct fan__postgres_connection *connection, int64_t id, int64_t after_seq,
                  size_t row_count)
{
    struct fan__postgres_params params = { .count = 0 };
    fan__postgres_add_int(&params, id);
    fan__postgres_add_int(&params, after_seq);
    fan__postgres_add_int(&params, (int64_t)row_count);
    PGresult *result = fan__postgres_run(connection, FAN__PG_GROUP_CLEAR, &params);
    int64_t last_seq = PQntuples(result) == 1 ? fan__postgres_int(result, 0, 0) : 0;
    bool whole = PQntuples(result) == 1 && fan__postgres_int(result, 0, 1) < (int64_t)row_count;
    PQclear(result);
    params.count = 0;
    fan__postgres_add_int(&params, id);
    if (whole) {
        fan__postgres_queue(connection, FAN__PG_TALLY_CLEAR, &params);
        fan__postgres_queue(connection, FAN__PG_DROPPED_DELETE, &params);
        return;
    }
    fan__postgres_add_int(&params, last_seq);
    fan__postgres_queue(connection, FAN__PG_DROPPED_MOVE, &params);
}

bool fan__postgres_group_clear(struct fan__postgres_connection *connection, size_t row_count)
{
    PGresult *result = fan__postgres_run(connection, FAN__PG_DROPPED_FIRST, NULL);
    bool found = PQntuples(result) == 1;
    if (found)
        clear(connection, fan__postgres_int(result, 0, 0), fan__postgres_int(result, 0, 1),
              row_count);
    PQclear(result);
    return found && connection->status == FAN_OK;
}

enum fan_status fan__postgres_group_delete(void *self, const struct fan_group_name *name)
{
    struct fan__postgres_connection *connection = NULL;
    enum fan_status status = fan__postgres_borrow(self, FAN__POSTGRES_WRITE, &connection, NULL);
    if (status != FAN_OK)
        return status;
    struct fan__postgres_found found = { .id = 0 };
    struct fan__postgres_bounds bounds;
    fan__postgres_bounds(connection, &bounds);
    status = fan__postgres_group_find(connection, name, true, &found);
    if (status == FAN_OK)
        fan__postgres_group_drop(connection, found.id);
    fan__postgres_group_free(&found);
    status = fan__postgres_end(connection, status, NULL);
    if (status == FAN_OK)
        fan__postgres_tail_clear(self);
    return status;
}
