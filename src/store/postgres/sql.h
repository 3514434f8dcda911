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

/* Which log it is: another may have been put in its place under a connection that lives on. */
#define FAN__POSTGRES_EPOCH "(SELECT value FROM @meta WHERE key = 'epoch')"

/* Visible is in the order of sequences, so that the last one is the head. */
#define FAN__POSTGRES_HEAD                                                                         \
    "greatest(coalesce((SELECT max(seq) FROM @event), 0), "                                        \
    "(SELECT value FROM @meta WHERE key = 'head_floor'))"

/*
 * Pages, each both ways. $1 < seq <= $2, at most $3 of them and about $4 bytes; $5 the series or
 * NULL, $6 the user or 0, $7 <= created_us < $8.
 */
#define FAN__POSTGRES_BYTES "(octet_length(e.payload) + coalesce(octet_length(e.metadata), 0))"
/* Sums are all that most pages take; where one says too much, row after row tells where to cut. */
#define FAN__POSTGRES_PAGE_OF(with, from, where, order)                                            \
    "WITH " with "p AS MATERIALIZED (SELECT " FAN__POSTGRES_COLUMNS "FROM " from " WHERE " where   \
    "ORDER BY e.seq " order " LIMIT $3::bigint) SELECT " FAN__POSTGRES_COLUMNS                     \
    "FROM p e LIMIT (SELECT CASE WHEN sum(octet_length(e.payload)) + "                             \
    "coalesce(sum(octet_length(e.metadata)), 0) >= $4::bigint THEN (SELECT count(*) FROM "         \
    "(SELECT sum(" FAN__POSTGRES_BYTES ") OVER (ROWS UNBOUNDED PRECEDING) - " FAN__POSTGRES_BYTES  \
    " AS before FROM p e) e WHERE e.before < $4::bigint) END FROM p e)"
#define FAN__POSTGRES_PAGE(from, where, order) FAN__POSTGRES_PAGE_OF("", from, where, order)
#define FAN__POSTGRES_BETWEEN "e.seq > $1::bigint AND e.seq <= $2::bigint "
#define FAN__POSTGRES_TIMED "AND e.created_us >= $7::bigint AND e.created_us < $8::bigint "
/* The same where another index is to find the events. */
#define FAN__POSTGRES_LATER "AND e.created_us + 0 >= $7::bigint AND e.created_us + 0 < $8::bigint "
#define FAN__POSTGRES_USERS "AND ($6::bigint = 0 OR e.user_id = $6::bigint) "
#define FAN__POSTGRES_IN_SET                                                                       \
    "AND ($5::bigint[] IS NULL OR e.series IN (SELECT unnest($5::bigint[]))) "
#define FAN__POSTGRES_PAGE_ALL(order) FAN__POSTGRES_PAGE("@event e", FAN__POSTGRES_BETWEEN, order)
#define FAN__POSTGRES_PAGE_WINDOW(order)                                                           \
    FAN__POSTGRES_PAGE(                                                                            \
        "@event e",                                                                                \
        FAN__POSTGRES_BETWEEN FAN__POSTGRES_IN_SET FAN__POSTGRES_USERS FAN__POSTGRES_LATER, order)
#define FAN__POSTGRES_PAGE_SERIES(order)                                                           \
    FAN__POSTGRES_PAGE(                                                                            \
        "unnest($5::bigint[]) s(id) CROSS JOIN LATERAL (SELECT e.* FROM @event e "                 \
        "WHERE e.series = s.id AND " FAN__POSTGRES_BETWEEN FAN__POSTGRES_USERS FAN__POSTGRES_LATER \
        "ORDER BY e.seq " order " LIMIT $3::bigint) e",                                            \
        "true ", order)
#define FAN__POSTGRES_PAGE_USER(order)                                                             \
    FAN__POSTGRES_PAGE("@event e",                                                                 \
                       "e.user_id = $6::bigint AND " FAN__POSTGRES_BETWEEN FAN__POSTGRES_IN_SET    \
                           FAN__POSTGRES_LATER,                                                    \
                       order)
#define FAN__POSTGRES_PAGE_TIME(order)                                                             \
    FAN__POSTGRES_PAGE_OF(                                                                         \
        "t AS MATERIALIZED (SELECT e.seq FROM @event e WHERE true " FAN__POSTGRES_TIMED            \
        "), q AS MATERIALIZED (SELECT e.seq FROM t e WHERE " FAN__POSTGRES_BETWEEN                 \
        "ORDER BY e.seq " order " LIMIT $3::bigint), ",                                            \
        "q JOIN @event e ON e.seq = q.seq", "true " FAN__POSTGRES_IN_SET FAN__POSTGRES_USERS,      \
        order)
/* $9 is the status of the event, which one of its rows must have, or may once it has lapsed. */
#define FAN__POSTGRES_PAGE_OPEN(order)                                                             \
    FAN__POSTGRES_PAGE_OF(                                                                         \
        "q AS MATERIALIZED (SELECT DISTINCT e.seq FROM @delivery e WHERE e.status <> 2 "           \
        "AND (e.status = $9::bigint OR (e.status = 1 AND $9::bigint = 0)) "                        \
        "AND " FAN__POSTGRES_BETWEEN "), ",                                                        \
        "q JOIN @event e ON e.seq = q.seq",                                                        \
        "true " FAN__POSTGRES_IN_SET FAN__POSTGRES_USERS FAN__POSTGRES_LATER, order)
/* The last of the next $3 events that have a row which is not settled. */
#define FAN__POSTGRES_OPEN_WINDOW(order)                                                           \
    "SELECT q.seq FROM (SELECT DISTINCT e.seq FROM @delivery e WHERE e.status <> 2 "               \
    "AND " FAN__POSTGRES_BETWEEN "ORDER BY e.seq " order                                           \
    " LIMIT $3::bigint) q OFFSET $3::bigint - 1"

#define FAN__POSTGRES_TUPLES                                                                       \
    "unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], "  \
    "$8::text[]) "
#define FAN__POSTGRES_SAME_SERIES                                                                  \
    "s.topic = i.a AND s.type = i.b AND s.source = i.c AND s.schema = i.d AND s.entity = i.e "     \
    "AND s.operation = i.f AND s.instance = i.g AND s.content_type = i.h"
#define FAN__POSTGRES_SERIES                                                                       \
    "SELECT s.id, s.source, s.type, s.topic, s.schema, s.entity, s.operation, s.instance "         \
    "FROM @series s "
#define FAN__POSTGRES_MARK_LAST                                                                    \
    "(SELECT m.seq, m.us, m.bytes FROM @mark m ORDER BY m.seq DESC LIMIT 1) l"

#define FAN__POSTGRES_STATEMENTS_LOG(X)                                                            \
    X(SESSION,                                                                                     \
      "SELECT set_config(s.name, s.value, false) FROM (VALUES ('search_path', 'pg_catalog'), "     \
      "('plan_cache_mode', 'force_generic_plan'), ('enable_seqscan', 'off'), "                     \
      "('enable_hashjoin', 'off'), ('enable_mergejoin', 'off'), ('jit', 'off'), "                  \
      "('statement_timeout', $1::text), ('lock_timeout', $1::text), "                              \
      "('idle_in_transaction_session_timeout', $2::text), ('client_min_messages', 'error'), "      \
      "('default_transaction_read_only', 'off'), ('row_security', 'off'), "                        \
      "('bytea_output', 'hex'), ('max_parallel_workers_per_gather', '0'), "                        \
      "('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' "    \
      "ELSE current_setting('synchronous_commit') END)) s(name, value)")                           \
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
                 "(SELECT value FROM @meta WHERE key = 'epoch'), "                                 \
                 "(SELECT value FROM @meta WHERE key = 'series_swept')")                           \
    X(LOOK_SETTINGS,                                                                               \
      "SELECT current_setting('fsync')::boolean, current_setting('server_encoding') = 'UTF8'")     \
    X(META_GET, "SELECT value FROM @meta WHERE key = $1::text")                                    \
    X(META_ADD, "UPDATE @meta SET value = value + $2::bigint WHERE key = $1::text "                \
                "RETURNING value")                                                                 \
    X(BOUNDS, "SELECT " FAN__POSTGRES_HEAD ", "                                                    \
              "(SELECT value FROM @meta WHERE key = 'trimmed_seq'), " FAN__POSTGRES_EPOCH)         \
    X(CLOCK_GET,                                                                                   \
      "SELECT c.generation, c.offset_us, c.high_us, "                                              \
      "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint, " FAN__POSTGRES_EPOCH " "        \
      "FROM @clock c WHERE c.id = 1")                                                              \
    /* Whoever holds the row is at it, or stands still: nobody waits for that. */                  \
    X(CLOCK_HIGH, "UPDATE @clock SET high_us = $1::bigint WHERE id IN (SELECT c.id FROM @clock c " \
                  "WHERE c.id = 1 AND c.high_us < $1::bigint FOR UPDATE SKIP LOCKED)")             \
    X(CLOCK_SET, "UPDATE @clock SET generation = generation + 1, offset_us = $2::bigint, "         \
                 "high_us = $3::bigint WHERE id = 1 AND generation = $1::bigint")                  \
    X(SERIES_GET, "SELECT id, source, type, topic, schema, entity, operation, instance, "          \
                  "content_type FROM @series WHERE id = ANY($1::bigint[])")                        \
    X(SERIES_MAKE,                                                                                 \
      "INSERT INTO @series(topic, type, source, schema, entity, operation, instance, "             \
      "content_type) SELECT DISTINCT i.* FROM " FAN__POSTGRES_TUPLES                               \
      "i(a, b, c, d, e, f, g, h) WHERE NOT EXISTS (SELECT 1 FROM @series s "                       \
      "WHERE " FAN__POSTGRES_SAME_SERIES ")")                                                      \
    X(SERIES_FIND, "SELECT s.id FROM " FAN__POSTGRES_TUPLES "WITH ORDINALITY "                     \
                   "i(a, b, c, d, e, f, g, h, ord) JOIN @series s ON " FAN__POSTGRES_SAME_SERIES   \
                   " ORDER BY i.ord")                                                              \
    X(APPEND,                                                                                      \
      "WITH h AS MATERIALIZED (SELECT " FAN__POSTGRES_HEAD " AS seq, "                             \
      "(SELECT value FROM @meta WHERE key = 'series_swept') AS swept), "                           \
      "n AS (INSERT INTO @event(seq, id, series, created_us, user_id, session, deliver_at, "       \
      "traceparent, metadata, payload) SELECT h.seq + i.ord, i.a, i.b, i.c, i.d, i.e, i.f, i.g, "  \
      "i.h, i.i FROM h CROSS JOIN unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], "   \
      "$5::text[], $6::bigint[], $7::text[], $8::text[], $9::bytea[]) WITH ORDINALITY "            \
      "i(a, b, c, d, e, f, g, h, i, ord) WHERE h.swept = $10::bigint) "                            \
      "SELECT h.seq, h.swept FROM h")                                                              \
    X(APPEND_ONE,                                                                                  \
      "INSERT INTO @event(seq, id, series, created_us, user_id, session, deliver_at, "             \
      "traceparent, metadata, payload) SELECT " FAN__POSTGRES_HEAD " + 1, $1::text, $2::bigint, "  \
      "$3::bigint, $4::bigint, $5::text, $6::bigint, $7::text, $8::text, $9::bytea "               \
      "WHERE (SELECT value FROM @meta WHERE key = 'series_swept') = $10::bigint "                  \
      "RETURNING seq - 1, $10::bigint")                                                            \
    X(NOTIFY, "SELECT pg_notify($1::text, $2::text)")                                              \
    X(MARK_HEAD,                                                                                   \
      "INSERT INTO @mark(seq, us, bytes) SELECT h.seq, l.us + 1000000, l.bytes + "                 \
      "(SELECT coalesce(sum(octet_length(e.payload) + coalesce(octet_length(e.metadata), 0) + "    \
      "160), 0) FROM @event e WHERE e.seq > l.seq) FROM " FAN__POSTGRES_MARK_LAST ", "             \
      "(SELECT " FAN__POSTGRES_HEAD " AS seq) h "                                                  \
      "WHERE h.seq > l.seq AND $1::bigint >= l.us + 1000000")                                      \
    /* Gives the time of the last mark, NULL where there is none. */                               \
    X(MARK_ADD,                                                                                    \
      "WITH l AS MATERIALIZED (SELECT l.* FROM " FAN__POSTGRES_MARK_LAST "), "                     \
      "n AS (INSERT INTO @mark(seq, us, bytes) SELECT h.seq, $1::bigint, coalesce(l.bytes, 0) + "  \
      "(SELECT coalesce(sum(octet_length(e.payload) + coalesce(octet_length(e.metadata), 0) + "    \
      "160), 0) FROM @event e WHERE e.seq > coalesce(l.seq, 0)) "                                  \
      "FROM (SELECT " FAN__POSTGRES_HEAD " AS seq) h LEFT JOIN l ON true "                         \
      "WHERE h.seq > coalesce(l.seq, 0) AND $1::bigint >= coalesce(l.us + 1000000, 0) "            \
      "RETURNING us) SELECT coalesce((SELECT n.us FROM n), (SELECT l.us FROM l))")                 \
    X(EVENTS_FIND, "SELECT i.ord, e.seq FROM unnest($1::text[]) WITH ORDINALITY i(id, ord) "       \
                   "JOIN @event e ON e.id = i.id")                                                 \
    X(KEYS_LAST,                                                                                   \
      "SELECT coalesce((SELECT max(x.seq) FROM @series s CROSS JOIN LATERAL "                      \
      "(SELECT e.seq FROM @event e WHERE e.series = s.id ORDER BY e.seq DESC LIMIT 1) x "          \
      "WHERE s.topic = i.key), 0) FROM unnest($1::text[]) WITH ORDINALITY i(key, ord) "            \
      "ORDER BY i.ord")                                                                            \
    X(STATS,                                                                                       \
      "SELECT (SELECT min(seq) FROM @event), (SELECT max(seq) FROM @event), " FAN__POSTGRES_HEAD   \
      ", (SELECT value FROM @meta WHERE key = 'removed'), "                                        \
      "(SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c "           \
      "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1::text "                  \
      "AND c.relkind = 'r' AND c.relname = ANY($2::text[]))")                                      \
    X(LEASE_GET, "SELECT owner, fence, until_us FROM @lease WHERE name = $1::text")                \
    X(LEASE_SET,                                                                                   \
      "INSERT INTO @lease(name, owner, fence, until_us) VALUES($1::text, $2::text, $3::bigint, "   \
      "$4::bigint) ON CONFLICT(name) DO UPDATE SET owner = excluded.owner, "                       \
      "fence = excluded.fence, until_us = excluded.until_us")                                      \
    X(LEASE_DELETE, "DELETE FROM @lease WHERE name = $1::text")                                    \
    X(LEASE_SWEEP, "DELETE FROM @lease WHERE until_us <= $1::bigint")                              \
    X(LEASES_FIND, "SELECT l.fence, l.until_us FROM unnest($1::text[]) WITH ORDINALITY "           \
                   "i(name, ord) LEFT JOIN @lease l ON l.name = i.name ORDER BY i.ord")            \
    X(PAGE_ALL, FAN__POSTGRES_PAGE_ALL(""))                                                        \
    X(PAGE_ALL_DOWN, FAN__POSTGRES_PAGE_ALL("DESC"))                                               \
    X(PAGE_WINDOW, FAN__POSTGRES_PAGE_WINDOW(""))                                                  \
    X(PAGE_WINDOW_DOWN, FAN__POSTGRES_PAGE_WINDOW("DESC"))                                         \
    X(PAGE_SERIES, FAN__POSTGRES_PAGE_SERIES(""))                                                  \
    X(PAGE_SERIES_DOWN, FAN__POSTGRES_PAGE_SERIES("DESC"))                                         \
    X(PAGE_USER, FAN__POSTGRES_PAGE_USER(""))                                                      \
    X(PAGE_USER_DOWN, FAN__POSTGRES_PAGE_USER("DESC"))                                             \
    X(PAGE_TIME, FAN__POSTGRES_PAGE_TIME(""))                                                      \
    X(PAGE_TIME_DOWN, FAN__POSTGRES_PAGE_TIME("DESC"))                                             \
    X(PAGE_OPEN, FAN__POSTGRES_PAGE_OPEN(""))                                                      \
    X(PAGE_OPEN_DOWN, FAN__POSTGRES_PAGE_OPEN("DESC"))                                             \
    X(OPEN_WINDOW, FAN__POSTGRES_OPEN_WINDOW(""))                                                  \
    X(OPEN_WINDOW_DOWN, FAN__POSTGRES_OPEN_WINDOW("DESC"))                                         \
    X(EVENT_DELETE, "DELETE FROM @event e WHERE e.id = $1::text")                                  \
    X(EVENT_ERASE, "UPDATE @event e SET user_id = NULL, session = NULL, metadata = NULL, "         \
                   "payload = $2::bytea WHERE e.id = $1::text")                                    \
    X(SERIES_LAST, "SELECT (SELECT max(s.id) FROM @series s), "                                    \
                   "(SELECT value FROM @meta WHERE key = 'series_swept')")                         \
    X(SERIES_AFTER, FAN__POSTGRES_SERIES "WHERE s.id > $1::bigint ORDER BY s.id")                  \
    X(SERIES_BY_TOPIC, FAN__POSTGRES_SERIES "WHERE s.topic = $1::text")                            \
    X(SERIES_BY_TYPE, FAN__POSTGRES_SERIES "WHERE s.type >= $1::text AND s.type < $2::text")       \
    X(SERIES_BY_INSTANCE, FAN__POSTGRES_SERIES "WHERE s.instance = $1::text")                      \
    X(SERIES_BY_ENTITY, FAN__POSTGRES_SERIES "WHERE s.entity = $1::text")                          \
    X(SERIES_BY_SCHEMA, FAN__POSTGRES_SERIES "WHERE s.schema = $1::text")                          \
    X(SERIES_BY_OPERATION, FAN__POSTGRES_SERIES "WHERE s.operation = $1::text")                    \
    X(SERIES_BY_SOURCE, FAN__POSTGRES_SERIES "WHERE s.source = $1::text")                          \
    X(STATES, "SELECT d.seq, d.grp, d.status, d.attempts, d.error, d.due_us, d.processed_us, "     \
              "d.completed_us FROM @delivery d JOIN @grp g ON g.id = d.grp "                       \
              "WHERE d.seq = ANY($1::bigint[]) ORDER BY d.seq, g.name, g.handler")                 \
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
