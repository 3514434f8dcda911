/*
 * The log's tables (sql.h tells how names are written).
 *
 *     meta     numbers by name: format, epoch, head_floor, trimmed_seq, removed and so on
 *     series   what events have in common: one row per distinct set of type, topic and so on
 *     event    the log. Sequences have no holes but what was deleted, so that head - removed is
 *              how many there are
 *     clock    one row, how the store's clock goes (clock.c)
 *     mark     when the log was how long: a time and the bytes so far at a sequence, now and then,
 *              so that an age or a size is a sequence
 *     lease    by name, for what only one instance may do
 *     grp, delivery  groups are lazy: of events up to its cursor a group has a delivery where it
 *              wanted one; past it (grp.ahead of them) only where one was discarded before its
 *              turn. In an ordered group, of one key all unsettled deliveries but the oldest are
 *              parked
 *
 * Payloads are bytes, as they came. Texts that are compared have the collation C, which no server
 * changes with an upgrade.
 */
#ifndef FAN_STORE_POSTGRES_SCHEMA_H
#define FAN_STORE_POSTGRES_SCHEMA_H

#define FAN__POSTGRES_FORMAT 1
#define FAN__POSTGRES_APPLICATION 1180786278 /* "Fanf" */

/* clang-format off */
#define FAN__POSTGRES_SCHEMA_LOG                                                                   \
    "CREATE TABLE @meta(key text COLLATE \"C\" PRIMARY KEY, value bigint NOT NULL);"               \
    "CREATE TABLE @series(id bigint PRIMARY KEY, source text COLLATE \"C\" NOT NULL, "             \
    "  type text COLLATE \"C\" NOT NULL, topic text COLLATE \"C\" NOT NULL, "                      \
    "  schema text COLLATE \"C\" NOT NULL, entity text COLLATE \"C\" NOT NULL, "                   \
    "  operation text COLLATE \"C\" NOT NULL, instance text COLLATE \"C\" NOT NULL, "              \
    "  content_type text COLLATE \"C\" NOT NULL, "                                                 \
    "  UNIQUE(topic, type, source, schema, entity, operation, instance, content_type));"           \
    "CREATE INDEX #series_type ON @series(type);"                                                  \
    "CREATE INDEX #series_source ON @series(source);"                                              \
    "CREATE INDEX #series_schema ON @series(schema);"                                              \
    "CREATE INDEX #series_entity ON @series(entity);"                                              \
    "CREATE INDEX #series_operation ON @series(operation);"                                        \
    "CREATE INDEX #series_instance ON @series(instance);"                                          \
    "CREATE TABLE @event(seq bigint PRIMARY KEY, id text COLLATE \"C\" NOT NULL UNIQUE, "          \
    "  series bigint NOT NULL, created_us bigint NOT NULL, user_id bigint, session text, "         \
    "  deliver_at bigint, traceparent text, metadata text, payload bytea NOT NULL);"               \
    "CREATE INDEX #event_series ON @event(series, seq);"                                           \
    "CREATE INDEX #event_user ON @event(user_id, seq) WHERE user_id IS NOT NULL;"                  \
    "CREATE INDEX #event_created ON @event(created_us, seq);"                                      \
    "CREATE TABLE @lease(name text COLLATE \"C\" PRIMARY KEY, owner text NOT NULL, "               \
    "  fence bigint NOT NULL, until_us bigint NOT NULL);"                                          \
    "CREATE TABLE @mark(seq bigint PRIMARY KEY, us bigint NOT NULL, bytes bigint NOT NULL);"       \
    "CREATE TABLE @clock(id integer PRIMARY KEY, generation bigint NOT NULL, "                     \
    "  offset_us bigint NOT NULL, high_us bigint NOT NULL, leap_us bigint NOT NULL);"              \
    "INSERT INTO @clock VALUES(1, 1, 0, 0, 0);"

#define FAN__POSTGRES_SCHEMA_GROUPS                                                                \
    "CREATE TABLE @grp(id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "                       \
    "  name text COLLATE \"C\" NOT NULL, handler text COLLATE \"C\" NOT NULL, pattern text, "      \
    "  topic text COLLATE \"C\", cursor bigint NOT NULL, completed bigint NOT NULL DEFAULT 0, "    \
    "  ordered boolean NOT NULL DEFAULT false, token bigint NOT NULL DEFAULT 0, "                  \
    "  ahead bigint NOT NULL DEFAULT 0, joined_us bigint NOT NULL DEFAULT 0, "                     \
    "  UNIQUE(name, handler)) WITH (fillfactor = 50);"                                             \
    "CREATE TABLE @delivery(seq bigint NOT NULL, grp bigint NOT NULL, "                            \
    "  status smallint NOT NULL, attempts integer NOT NULL, token bigint NOT NULL, owner text, "   \
    "  error text, due_us bigint NOT NULL, processed_us bigint, completed_us bigint, "             \
    "  key bigint, part smallint, parked boolean NOT NULL DEFAULT false, "                         \
    "  lapses integer NOT NULL DEFAULT 0, reason smallint NOT NULL DEFAULT 0, "                    \
    "  PRIMARY KEY(seq, grp)) WITH (fillfactor = 70);"                                             \
    "CREATE INDEX #delivery_open ON @delivery(seq, status) WHERE status <> 2;"                     \
    "CREATE INDEX #delivery_due ON @delivery(grp, due_us, seq) "                                   \
    "  WHERE status < 2 AND NOT parked;"                                                           \
    "CREATE INDEX #delivery_part ON @delivery(grp, part, due_us, seq) "                            \
    "  WHERE status < 2 AND NOT parked AND part IS NOT NULL;"                                      \
    "CREATE INDEX #delivery_key ON @delivery(grp, key, seq) "                                      \
    "  WHERE status < 2 AND key IS NOT NULL;"                                                      \
    "CREATE INDEX #delivery_held ON @delivery(grp, part, due_us, key, owner) "                     \
    "  WHERE status = 1 AND part IS NOT NULL;"

/*
 * Whoever deletes events, an operator's DELETE included: the head never goes back, and what hangs
 * on them goes along.
 */
#define FAN__POSTGRES_SCHEMA_TRIGGERS                                                              \
    "CREATE FUNCTION @event_deleted() RETURNS trigger LANGUAGE plpgsql "                           \
    "SET search_path = pg_catalog AS $body$ BEGIN "                                                \
    "  UPDATE @meta SET value = value + (SELECT count(*) FROM gone) WHERE key = 'removed'; "       \
    "  UPDATE @meta SET value = greatest(value, coalesce((SELECT max(g.seq) FROM gone g "          \
    "    WHERE NOT EXISTS (SELECT 1 FROM @event e WHERE e.seq > g.seq)), 0)) "                     \
    "    WHERE key = 'head_floor'; "                                                               \
    "  DELETE FROM @delivery d USING gone g WHERE d.seq = g.seq; "                                 \
    "  RETURN NULL; END $body$;"                                                                   \
    "CREATE TRIGGER #event_deleted AFTER DELETE ON @event REFERENCING OLD TABLE AS gone "          \
    "  FOR EACH STATEMENT EXECUTE FUNCTION @event_deleted();"                                      \
    "CREATE FUNCTION @delivery_deleted() RETURNS trigger LANGUAGE plpgsql "                        \
    "SET search_path = pg_catalog AS $body$ BEGIN "                                                \
    "  UPDATE @grp g SET completed = g.completed - n.completed, ahead = g.ahead - n.ahead FROM "   \
    "    (SELECT o.grp, count(*) FILTER (WHERE o.status = 2) AS completed, "                       \
    "    count(*) FILTER (WHERE o.seq > x.cursor) AS ahead FROM gone o JOIN @grp x "               \
    "    ON x.id = o.grp GROUP BY o.grp) n "                                                       \
    "    WHERE g.id = n.grp AND (n.completed > 0 OR n.ahead > 0); "                                \
    "  UPDATE @delivery d SET parked = false FROM (SELECT DISTINCT o.grp, o.key FROM gone o "      \
    "    WHERE o.key IS NOT NULL AND o.status < 2) k WHERE d.grp = k.grp AND d.parked "            \
    "    AND d.seq = (SELECT f.seq FROM @delivery f WHERE f.grp = k.grp AND f.key = k.key "        \
    "    AND f.key IS NOT NULL AND f.status < 2 ORDER BY f.seq LIMIT 1); "                         \
    "  RETURN NULL; END $body$;"                                                                   \
    "CREATE TRIGGER #delivery_deleted AFTER DELETE ON @delivery REFERENCING OLD TABLE AS gone "    \
    "  FOR EACH STATEMENT EXECUTE FUNCTION @delivery_deleted();"

#define FAN__POSTGRES_SCHEMA_VIEWS                                                                 \
    "CREATE VIEW @events AS SELECT e.seq, e.id, s.source, s.type, s.topic, s.schema, s.entity, "   \
    "  s.operation, e.user_id, e.session AS session_id, s.instance AS instance_id, "               \
    "  to_timestamp(e.created_us / 1000000.0) AS created_at, e.deliver_at, s.content_type, "       \
    "  e.traceparent, e.metadata, CASE WHEN s.content_type = '' "                                  \
    "  THEN convert_from(e.payload, 'UTF8') END AS json, e.payload "                               \
    "  FROM @event e JOIN @series s ON s.id = e.series;"                                           \
    "CREATE VIEW @deliveries AS SELECT g.name AS group_name, g.handler, d.seq, CASE d.status "     \
    "  WHEN 0 THEN 'pending' WHEN 1 THEN 'processing' WHEN 2 THEN 'completed' ELSE 'failed' END "  \
    "  AS status, d.attempts, d.owner, d.error, d.due_us, d.processed_us, d.completed_us, "        \
    "  d.lapses, CASE d.reason WHEN 0 THEN NULL WHEN 1 THEN 'failed' WHEN 2 THEN 'retries' "       \
    "  WHEN 3 THEN 'lapses' ELSE 'expired' END AS reason "                                         \
    "  FROM @delivery d JOIN @grp g ON g.id = d.grp;"
/* clang-format on */

#endif
