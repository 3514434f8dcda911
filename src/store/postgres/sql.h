/*
 * All SQL of the provider, by name. Names of ours are written @name and become
 * "SCHEMA"."PREFIXname" when a statement is prepared; #name becomes "PREFIXname", for what has no
 * schema in front.
 *
 * Two lists make one enum: what the log needs, and what groups and retention need (sql_group.h).
 * Aliases: e event, s series, d delivery, g grp.
 */
#ifndef FAN_STORE_POSTGRES_SQL_H
#define FAN_STORE_POSTGRES_SQL_H

#include "store/postgres/sql_group.h"

/* The columns of an event, in the order in which rows.c reads them. */
#define FAN__POSTGRES_COLUMNS                                                                      \
    "e.seq, e.id, e.series, e.created_us, e.user_id, e.session, e.deliver_at, e.traceparent, "     \
    "e.metadata, e.payload "

/* Visible is in the order of sequences, so that the last one is the head. */
#define FAN__POSTGRES_HEAD                                                                         \
    "greatest(coalesce((SELECT max(seq) FROM @event), 0), "                                        \
    "(SELECT value FROM @meta WHERE key = 'head_floor'))"

#define FAN__POSTGRES_STATEMENTS_LOG(X)                                                            \
    X(BEGIN_READ, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")                               \
    X(BEGIN_WRITE, "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")                              \
    X(COMMIT, "COMMIT")                                                                            \
    X(ROLLBACK, "ROLLBACK")                                                                        \
    X(LOCK, "SELECT pg_advisory_xact_lock($1::bigint)")                                            \
    X(LOOK, "SELECT (SELECT count(*) FROM pg_namespace n WHERE n.nspname = $1::text), "            \
            "(SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "      \
            "JOIN pg_attribute a ON a.attrelid = c.oid WHERE n.nspname = $1::text "                \
            "AND c.relname = $2::text AND (a.attname = 'key' AND a.atttypid = 25 "                 \
            "OR a.attname = 'value' AND a.atttypid = 20)), "                                       \
            "(SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "      \
            "WHERE n.nspname = $1::text AND c.relname = ANY($3::text[]))")                         \
    X(LOOK_META, "SELECT (SELECT value FROM @meta WHERE key = 'application'), "                    \
                 "(SELECT value FROM @meta WHERE key = 'format'), "                                \
                 "(SELECT value FROM @meta WHERE key = 'epoch')")                                  \
    X(LOOK_SETTINGS,                                                                               \
      "SELECT current_setting('fsync')::boolean, current_setting('server_encoding') = 'UTF8'")     \
    X(META_GET, "SELECT value FROM @meta WHERE key = $1::text")                                    \
    X(META_ADD, "UPDATE @meta SET value = value + $2::bigint WHERE key = $1::text "                \
                "RETURNING value")                                                                 \
    X(BOUNDS, "SELECT " FAN__POSTGRES_HEAD ", "                                                    \
              "(SELECT value FROM @meta WHERE key = 'trimmed_seq')")                               \
    X(CLOCK_GET, "SELECT c.generation, c.offset_us, c.high_us, c.leap_us, "                        \
                 "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint "                      \
                 "FROM @clock c WHERE c.id = 1")                                                   \
    X(CLOCK_HIGH, "UPDATE @clock SET high_us = $1::bigint WHERE id = 1 "                           \
                  "AND high_us < $1::bigint")                                                      \
    X(CLOCK_SET, "UPDATE @clock SET generation = generation + 1, offset_us = $2::bigint, "         \
                 "high_us = $3::bigint, leap_us = $4::bigint "                                     \
                 "WHERE id = 1 AND generation = $1::bigint")                                       \
    X(EVENT_BY_ID, "SELECT " FAN__POSTGRES_COLUMNS "FROM @event e WHERE e.id = $1::text")

#define FAN__POSTGRES_STATEMENTS(X)                                                                \
    FAN__POSTGRES_STATEMENTS_LOG(X)                                                                \
    FAN__POSTGRES_STATEMENTS_GROUP(X)

enum fan__postgres_statement {
#define FAN__POSTGRES_NAME(name, text) FAN__PG_##name,
    FAN__POSTGRES_STATEMENTS(FAN__POSTGRES_NAME)
#undef FAN__POSTGRES_NAME
        FAN__PG_COUNT,
};

/* The text of a statement, for tests that look at query plans. */
const char *fan__postgres_sql(enum fan__postgres_statement statement);

#endif
