/* What stands on the server for a capture, and the sentences for what may be wrong with it. */
#include "hook/capture.h"

#include "base/env.h"
#include "base/status.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MARK "fanfare capture"
#define MADE MARK ", slot made at "
#define FOR_LOG " for log "
#define COMMENT_SIZE 128
#define WAITS "the slot waits for transactions that are open on the server"

enum fan_status fan__capture_slot_name(const char **slot, struct fan_error *error)
{
    if (!*slot)
        *slot = FAN_CAPTURE_SLOT;
    size_t size = strlen(*slot);
    if (size == 0 || size > FAN__PG_NAME_SIZE_MAX ||
        strspn(*slot, "abcdefghijklmnopqrstuvwxyz0123456789_") != size)
        return fan__fail(error, FAN_INVALID, "slot", "must have 1 to %d of a-z, 0-9 and '_'",
                         FAN__PG_NAME_SIZE_MAX);
    return FAN_OK;
}

static enum fan_status run(struct fan__capture_place *place, struct fan__buffer *sql,
                           const char *what, PGresult **ret_result, struct fan_error *error)
{
    fan__buffer_add(sql, "", 1);
    struct fan__pg_call call = { .sql = sql->data };
    enum fan_status status = sql->failed ? fan__fail(error, FAN_NO_MEMORY, "", "out of memory")
                                         : fan__pg_run(&place->pg, &call, what, ret_result, error);
    fan__buffer_clear(sql);
    return status;
}

/* One value as the parameter of a text without ones of its own. */
static enum fan_status ask(struct fan__capture_place *place, const char *sql, const char *value,
                           PGresult **ret_result, struct fan_error *error)
{
    const char *const values[] = { value };
    struct fan__pg_call call = { sql, values, 1 };
    return fan__pg_run(&place->pg, &call, "capture", ret_result, error);
}

enum fan_status fan__capture_connect(struct fan__capture_place *place, struct fan_error *error)
{
    if (fan__pg_is_good(&place->pg))
        return FAN_OK;
    return fan__pg_open(&place->pg, place->uri, false, error);
}

/* --- what must be so ---------------------------------------------------------------------- */

static enum fan_status check_server(struct fan__capture_place *place, struct fan_error *error)
{
    static const struct fan__pg_call call = {
        .sql = "SELECT current_setting('wal_level'), current_user, (SELECT rolreplication OR"
               " rolsuper FROM pg_roles WHERE rolname = current_user)"
    };
    PGresult *result = NULL;
    enum fan_status status = fan__pg_run(&place->pg, &call, "capture", &result, error);
    if (status != FAN_OK)
        return status;
    const char *level = PQgetvalue(result, 0, 0);
    const char *user = PQgetvalue(result, 0, 1);
    if (strcmp(level, "logical") != 0)
        status = fan__fail(error, FAN_UNSUPPORTED, "database",
                           "has wal_level %s: set wal_level = logical and restart the server, or "
                           "capture by triggers",
                           level);
    else if (*PQgetvalue(result, 0, 2) != 't')
        status = fan__fail(error, FAN_DENIED, "database",
                           "does not let user \"%s\" stream changes: ALTER ROLE \"%s\" REPLICATION",
                           user, user);
    PQclear(result);
    return status;
}

/* The tables as a list of quoted names, and as an array of their numbers. */
struct chosen {
    struct fan__buffer names;
    struct fan__buffer numbers;
};

/*
 * A change of a partition is told as one of its table, with as much of the old row as the
 * partition's identity has: less than the table's says would be made up.
 */
static enum fan_status check_partitions(const PGresult *result, const char *field,
                                        struct fan_error *error)
{
    if (PQgetisnull(result, 0, 8))
        return FAN_OK;
    const char *partition = PQgetvalue(result, 0, 8);
    return fan__fail(error, FAN_UNSUPPORTED, field,
                     "%s, a partition of %s, has another REPLICA IDENTITY than its table: ALTER "
                     "TABLE %s REPLICA IDENTITY as there, or FULL",
                     partition, PQgetvalue(result, 0, 0), partition);
}

/* Whether one table can be captured; adds it. */
static enum fan_status check_table(struct fan__capture_place *place, size_t index,
                                   struct chosen *chosen, struct fan_error *error)
{
    static const char sql[] =
        "SELECT c.oid::regclass, c.relkind, c.relreplident, EXISTS (SELECT FROM pg_index i WHERE"
        " i.indrelid = c.oid AND i.indisprimary), pg_has_role(c.relowner, 'USAGE'), n.nspname,"
        " c.relpersistence, c.oid, (SELECT l.oid::regclass FROM pg_partition_tree(c.oid) t JOIN"
        " pg_class l ON l.oid = t.relid WHERE l.relkind = 'r' AND l.relreplident NOT IN ('f',"
        " c.relreplident) ORDER BY l.oid LIMIT 1) FROM pg_class c JOIN pg_namespace n ON n.oid ="
        " c.relnamespace WHERE c.oid = to_regclass($1)";
    char field[32];
    const char *table = place->tables[index];
    PGresult *result = NULL;
    snprintf(field, sizeof(field), "tables[%zu]", index);
    enum fan_status status = ask(place, sql, table, &result, error);
    if (status != FAN_OK)
        return status;
    if (PQntuples(result) == 0) {
        PQclear(result);
        return fan__fail(error, FAN_NOT_FOUND, field, "there is no table %s", table);
    }
    char kind = *PQgetvalue(result, 0, 1);
    char identity = *PQgetvalue(result, 0, 2);
    bool has_key = *PQgetvalue(result, 0, 3) == 't';
    if (kind != 'r' && kind != 'p')
        status = fan__fail(error, FAN_INVALID, field, "%s is no table", table);
    else if (*PQgetvalue(result, 0, 6) != 'p')
        status = fan__fail(error, FAN_UNSUPPORTED, field,
                           "%s is not in the server's log (unlogged, or temporary): capture it by "
                           "triggers",
                           table);
    else if (strcmp(PQgetvalue(result, 0, 5), "fanfare") == 0)
        status = fan__fail(error, FAN_INVALID, field,
                           "%s is in a schema whose name is reserved for types of events", table);
    else if (*PQgetvalue(result, 0, 4) != 't')
        status = fan__fail(error, FAN_DENIED, field,
                           "%s is another's: who captures a table must own it", table);
    else if (identity == 'n' || (identity == 'd' && !has_key))
        /* The server would refuse the application's updates and deletes. */
        status = fan__fail(error, FAN_UNSUPPORTED, field,
                           "%s has no primary key: ALTER TABLE %s REPLICA IDENTITY FULL, or "
                           "capture it by triggers",
                           table, table);
    else
        status = check_partitions(result, field, error);
    fan__buffer_add_format(&chosen->names, "%s%s", index == 0 ? "" : ", ",
                           PQgetvalue(result, 0, 0));
    fan__buffer_add_format(&chosen->numbers, "%c%s", index == 0 ? '{' : ',',
                           PQgetvalue(result, 0, 7));
    PQclear(result);
    return status;
}

/* --- the publication ---------------------------------------------------------------------- */

/* Its comment in `comment` ("" for none), FAN_NOT_FOUND without it, FAN_EXISTS for another's. */
static enum fan_status read_comment(struct fan__capture_place *place, char comment[COMMENT_SIZE],
                                    struct fan_error *error)
{
    PGresult *result = NULL;
    enum fan_status status =
        ask(place,
            "SELECT coalesce(obj_description(oid, 'pg_publication'), '') FROM pg_publication"
            " WHERE pubname = $1",
            place->slot, &result, error);
    if (status != FAN_OK)
        return status;
    if (PQntuples(result) == 0)
        status = FAN_NOT_FOUND;
    else
        snprintf(comment, COMMENT_SIZE, "%s", PQgetvalue(result, 0, 0));
    PQclear(result);
    if (status == FAN_OK && strncmp(comment, MARK, strlen(MARK)) != 0)
        return fan__fail(error, FAN_EXISTS, "slot",
                         "\"%s\" is a publication that is not of capture: choose another name",
                         place->slot);
    return status;
}

static enum fan_status set_comment(struct fan__capture_place *place, const char *comment,
                                   struct fan_error *error)
{
    struct fan__buffer sql;
    fan__buffer_init(&sql, place->env);
    fan__buffer_add_format(&sql, "COMMENT ON PUBLICATION \"%s\" IS '%s'", place->slot, comment);
    enum fan_status status = run(place, &sql, "capture", NULL, error);
    fan__buffer_deinit(&sql);
    return status;
}

/* FAN_OK when the publication has these tables already, FAN_AGAIN when it may be changed. */
static enum fan_status compare_tables(struct fan__capture_place *place, const struct chosen *chosen,
                                      struct fan_error *error)
{
    static const char sql[] =
        "SELECT (SELECT array_agg(prrelid ORDER BY prrelid) FROM pg_publication_rel JOIN"
        " pg_publication p ON p.oid = prpubid WHERE pubname = $1) = (SELECT array_agg(DISTINCT n)"
        " FROM unnest($2::oid[]) AS n), EXISTS (SELECT FROM pg_replication_slots WHERE slot_name ="
        " $1 AND active)";
    const char *const values[] = { place->slot, chosen->numbers.data };
    struct fan__pg_call call = { sql, values, 2 };
    PGresult *result = NULL;
    enum fan_status status = fan__pg_run(&place->pg, &call, "the publication", &result, error);
    if (status != FAN_OK)
        return status;
    bool same = *PQgetvalue(result, 0, 0) == 't';
    bool active = *PQgetvalue(result, 0, 1) == 't';
    PQclear(result);
    if (!same && active)
        return fan__fail(error, FAN_EXISTS, "slot",
                         "\"%s\" is in use by a capture of other tables: choose another name, or "
                         "end that one first",
                         place->slot);
    return same ? FAN_OK : FAN_AGAIN;
}

/* A slot without its publication was made once, and has missed something since. */
static enum fan_status make_publication(struct fan__capture_place *place,
                                        const struct chosen *chosen, struct fan_error *error)
{
    struct fan__buffer sql;
    PGresult *result = NULL;
    enum fan_status status =
        ask(place,
            "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = $1 AND"
            " confirmed_flush_lsn IS NOT NULL",
            place->slot, &result, error);
    if (status != FAN_OK)
        return status;
    fan__buffer_init(&sql, place->env);
    fan__buffer_add_format(&sql,
                           "CREATE PUBLICATION \"%s\" FOR TABLE %s WITH (publish ="
                           " 'insert, update, delete, truncate', publish_via_partition_root ="
                           " true); COMMENT ON PUBLICATION \"%s\" IS '",
                           place->slot, chosen->names.data, place->slot);
    if (PQntuples(result) == 1)
        fan__buffer_add_format(&sql, MADE "%.23s" FOR_LOG "%016" PRIx64 "'",
                               PQgetvalue(result, 0, 0), place->epoch);
    else
        fan__buffer_add_text(&sql, MARK "'");
    PQclear(result);
    status = run(place, &sql, "the publication", NULL, error);
    fan__buffer_deinit(&sql);
    return status;
}

static enum fan_status publish_tables(struct fan__capture_place *place, const struct chosen *chosen,
                                      struct fan_error *error)
{
    char comment[COMMENT_SIZE];
    struct fan__buffer sql;
    enum fan_status status = read_comment(place, comment, error);
    if (status == FAN_NOT_FOUND)
        return make_publication(place, chosen, error);
    if (status == FAN_OK)
        status = compare_tables(place, chosen, error);
    if (status != FAN_AGAIN)
        return status;
    fan__buffer_init(&sql, place->env);
    fan__buffer_add_format(&sql, "ALTER PUBLICATION \"%s\" SET TABLE %s", place->slot,
                           chosen->names.data);
    status = run(place, &sql, "the publication", NULL, error);
    fan__buffer_deinit(&sql);
    return status;
}

enum fan_status fan__capture_prepare(struct fan__capture_place *place, struct fan_error *error)
{
    struct chosen chosen;
    fan__buffer_init(&chosen.names, place->env);
    fan__buffer_init(&chosen.numbers, place->env);
    enum fan_status status = check_server(place, error);
    for (size_t i = 0; i < place->table_count && status == FAN_OK; i++)
        status = check_table(place, i, &chosen, error);
    fan__buffer_add(&chosen.names, "", 1);
    fan__buffer_add(&chosen.numbers, "}", 2);
    if (status == FAN_OK && (chosen.names.failed || chosen.numbers.failed))
        status = fan__fail(error, FAN_NO_MEMORY, "", "out of memory");
    if (status == FAN_OK)
        status = publish_tables(place, &chosen, error);
    fan__buffer_deinit(&chosen.names);
    fan__buffer_deinit(&chosen.numbers);
    return status;
}

/* --- the slot ----------------------------------------------------------------------------- */

/* What the publication's comment says of a slot that was made. */
static void read_mark(const struct fan__capture_place *place, const char *comment,
                      struct fan__capture_state *state)
{
    if (strncmp(comment, MADE, strlen(MADE)) != 0)
        return;
    const char *made_at = comment + strlen(MADE);
    snprintf(state->made_at, sizeof(state->made_at), "%.*s", (int)strcspn(made_at, " "), made_at);
    const char *log = strstr(made_at, FOR_LOG);
    state->foreign = log && strtoull(log + strlen(FOR_LOG), NULL, 16) != place->epoch;
}

static enum fan_status read_slot(struct fan__capture_place *place, struct fan__capture_state *state,
                                 struct fan_error *error)
{
    PGresult *result = NULL;
    enum fan_status status =
        ask(place,
            "SELECT plugin = 'pgoutput' AND database = current_database(), wal_status,"
            " current_setting('max_slot_wal_keep_size'), active, confirmed_flush_lsn IS NULL"
            " FROM (SELECT) AS one LEFT JOIN pg_replication_slots ON slot_name = $1",
            place->slot, &result, error);
    if (status != FAN_OK)
        return status;
    state->has_slot = !PQgetisnull(result, 0, 3);
    state->active = *PQgetvalue(result, 0, 3) == 't';
    state->unbounded = strcmp(PQgetvalue(result, 0, 2), "-1") == 0;
    bool lost = strcmp(PQgetvalue(result, 0, 1), "lost") == 0;
    if (state->has_slot && *PQgetvalue(result, 0, 0) != 't')
        status =
            fan__fail(error, FAN_EXISTS, "slot",
                      "\"%s\" is a slot that is not of capture: choose another name", place->slot);
    else if (state->has_slot && !lost && *PQgetvalue(result, 0, 4) == 't')
        status = fan__fail(error, FAN_UNAVAILABLE, "", WAITS);
    PQclear(result);
    if (status == FAN_OK && lost) {
        status = fan__capture_drop_slot(place, error);
        state->has_slot = false;
    }
    return status;
}

enum fan_status fan__capture_look(struct fan__capture_place *place,
                                  struct fan__capture_state *ret_state, struct fan_error *error)
{
    char comment[COMMENT_SIZE];
    struct fan__capture_state state = { .has_slot = false };
    enum fan_status status = read_comment(place, comment, error);
    if (status == FAN_NOT_FOUND)
        return fan__fail(error, status, "slot", "the publication \"%s\" is gone", place->slot);
    if (status == FAN_OK) {
        read_mark(place, comment, &state);
        status = read_slot(place, &state, error);
    }
    if (status == FAN_OK)
        *ret_state = state;
    return status;
}

enum fan_status fan__capture_forget(struct fan__capture_place *place, struct fan_error *error)
{
    return set_comment(place, MARK, error);
}

enum fan_status fan__capture_make_slot(struct fan__capture_place *place,
                                       const struct fan__capture_state *state,
                                       struct fan_error *error)
{
    PGresult *result = NULL;
    char comment[COMMENT_SIZE];
    enum fan_status status;
    if (state->has_slot && *state->made_at)
        return FAN_OK;
    if (state->has_slot)
        status =
            ask(place, "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = $1",
                place->slot, &result, error);
    else
        status = ask(place, "SELECT lsn FROM pg_create_logical_replication_slot($1, 'pgoutput')",
                     place->slot, &result, error);
    if (status != FAN_OK && place->pg.late)
        return fan__fail(error, FAN_UNAVAILABLE, "", WAITS);
    if (status == FAN_OK) {
        snprintf(comment, sizeof(comment), MADE "%.23s" FOR_LOG "%016" PRIx64,
                 PQntuples(result) == 1 ? PQgetvalue(result, 0, 0) : "0/0", place->epoch);
        status = set_comment(place, comment, error);
    }
    PQclear(result);
    return status;
}

enum fan_status fan__capture_measure(struct fan__capture_place *place,
                                     struct fan__capture_size *ret_size, struct fan_error *error)
{
    PGresult *result = NULL;
    enum fan_status status =
        ask(place,
            "SELECT pg_wal_lsn_diff(now, restart_lsn)::bigint,"
            " greatest(pg_wal_lsn_diff(now, confirmed_flush_lsn), 0)::bigint FROM"
            " pg_replication_slots, pg_current_wal_lsn() AS now WHERE slot_name = $1 AND"
            " restart_lsn IS NOT NULL",
            place->slot, &result, error);
    if (status != FAN_OK)
        return status;
    if (PQntuples(result) == 1)
        *ret_size = (struct fan__capture_size){ (uint64_t)fan__pg_number(result, 0, 0),
                                                (uint64_t)fan__pg_number(result, 0, 1) };
    else
        status = fan__fail(error, FAN_NOT_FOUND, "slot", "the slot \"%s\" is gone", place->slot);
    PQclear(result);
    return status;
}

enum fan_status fan__capture_drop_slot(struct fan__capture_place *place, struct fan_error *error)
{
    return ask(place, "SELECT pg_drop_replication_slot($1)", place->slot, NULL, error);
}

enum fan_status fan__capture_remove(struct fan__capture_place *place, struct fan_error *error)
{
    char comment[COMMENT_SIZE];
    struct fan__capture_state state = { .has_slot = false };
    struct fan__buffer sql;
    enum fan_status published = read_comment(place, comment, error);
    if (published != FAN_OK && published != FAN_NOT_FOUND)
        return published;
    enum fan_status status = read_slot(place, &state, error);
    if (status == FAN_OK && !state.has_slot && published == FAN_NOT_FOUND)
        return fan__fail(error, FAN_NOT_FOUND, "slot",
                         "there is no slot \"%s\", and no publication", place->slot);
    if (status == FAN_OK && state.has_slot)
        status = fan__capture_drop_slot(place, error);
    if (status != FAN_OK || published == FAN_NOT_FOUND)
        return status;
    fan__buffer_init(&sql, place->env);
    fan__buffer_add_format(&sql, "DROP PUBLICATION \"%s\"", place->slot);
    status = run(place, &sql, "the publication", NULL, error);
    fan__buffer_deinit(&sql);
    return status;
}
