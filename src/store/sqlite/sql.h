/*
 * All SQL of the provider: the schema, and every statement that runs more than once, by name.
 *
 *     series   what events have in common: one row per distinct set of type, topic and so on
 *     event    the log; secondary indexes begin with the block (seq >> 12), so that an append
 *              touches their right edge alone, however large the log is
 *     event_block  per block: how many events, and the bounds of their created times
 *     key      the last retained sequence of topics that an expectation ever named; a missing row
 *              means "look it up", and series.keyed tells an append to keep the row right
 *     mark     when the log was how long: a time and the bytes so far at a sequence, now and then,
 *              so that an age or a size is a sequence
 *     clock    one row, how the store's clock goes (clock.c)
 *     meta     a few numbers; 'dropped ID' is a group that is gone and whose deliveries go little
 * by little: up to the value they are gone, and what is left of them counts for nothing grp,
 * delivery  groups are lazy: of events up to its cursor a group has a delivery where it wanted one;
 * past it (grp.ahead of them) only where one was discarded before its turn. In an ordered group, of
 * one key all unsettled deliveries but the oldest are parked
 *
 * Aliases: b event_block, e event, s series, d delivery, g grp. The unary plus in `+b.block` is
 * needed: without it the column's affinity keeps SQLite from using the index on an expression.
 */
#ifndef FAN_STORE_SQLITE_SQL_H
#define FAN_STORE_SQLITE_SQL_H

#define FAN__SQLITE_FORMAT 2
#define FAN__SQLITE_APPLICATION_ID 0x46616e66 /* "Fanf" */
#define FAN__SQLITE_BLOCK_BITS 12
#define FAN__SQLITE_BLOCK_COUNT 4096

/* The columns of an event, in the order in which row.c reads them. */
#define FAN__SQLITE_COLUMNS                                                                        \
    "e.seq, e.id, e.series, e.created_us, e.user_id, e.session, e.deliver_at, e.traceparent, "     \
    "e.metadata, e.payload "

/* Walks, each both ways. ?1 < seq <= ?2, ?3 the value, ?4 <= created_us < ?5. */
#define FAN__SQLITE_IN_BLOCKS                                                                      \
    " WHERE b.block >= (?1 >> 12) AND b.block <= (?2 >> 12) AND b.t_max >= ?4 AND b.t_min < ?5 "

#define FAN__SQLITE_WALK_ALL                                                                       \
    "SELECT " FAN__SQLITE_COLUMNS "FROM event e WHERE e.seq > ?1 AND e.seq <= ?2 ORDER BY e.seq"

#define FAN__SQLITE_WALK_SERIES                                                                    \
    "SELECT " FAN__SQLITE_COLUMNS "FROM event_block b CROSS JOIN event e ON (e.seq >> 12) = "      \
    "+b.block AND e.series = ?3 AND e.seq > ?1 AND e.seq <= ?2" FAN__SQLITE_IN_BLOCKS

#define FAN__SQLITE_WALK_USER                                                                      \
    "SELECT " FAN__SQLITE_COLUMNS "FROM event_block b CROSS JOIN event e ON (e.seq >> 12) = "      \
    "+b.block AND e.user_id = ?3 AND e.seq > ?1 AND e.seq <= ?2" FAN__SQLITE_IN_BLOCKS

#define FAN__SQLITE_WALK_TIME                                                                      \
    "SELECT " FAN__SQLITE_COLUMNS "FROM event_block b CROSS JOIN event e ON e.seq BETWEEN "        \
    "max(b.block << 12, ?1 + 1) AND min((b.block << 12) + 4095, ?2)" FAN__SQLITE_IN_BLOCKS

#define FAN__SQLITE_WALK_OPEN                                                                      \
    "SELECT " FAN__SQLITE_COLUMNS "FROM delivery d CROSS JOIN event e ON e.seq = d.seq "           \
    "WHERE d.status <> 2 AND d.seq > ?1 AND d.seq <= ?2 ORDER BY d.seq"

#define FAN__SQLITE_BY_BLOCK "ORDER BY b.block, e.seq"
#define FAN__SQLITE_BY_BLOCK_DOWN "ORDER BY b.block DESC, e.seq DESC"

/* The columns of a delivery, in the order in which delivery.c reads them. */
#define FAN__SQLITE_DELIVERY                                                                       \
    "g.name, g.handler, d.seq, d.status, d.attempts, d.owner, d.error, d.due_us, "                 \
    "d.processed_us, d.completed_us, d.reason, d.lapses "

#define FAN__SQLITE_GROUP                                                                          \
    "SELECT g.id, g.name, g.handler, g.pattern, g.topic, g.cursor, g.completed, g.ordered, "       \
    "g.token, g.ahead, g.joined_us FROM grp g "

#define FAN__SQLITE_STATEMENTS(X)                                                                  \
    X(BEGIN, "BEGIN")                                                                              \
    X(BEGIN_IMMEDIATE, "BEGIN IMMEDIATE")                                                          \
    X(COMMIT, "COMMIT")                                                                            \
    X(ROLLBACK, "ROLLBACK")                                                                        \
    X(DATA_VERSION, "PRAGMA data_version")                                                         \
    X(META_GET, "SELECT value FROM meta WHERE key = ?1")                                           \
    X(META_ADD, "UPDATE meta SET value = value + ?2 WHERE key = ?1")                               \
    X(BOUNDS, "SELECT (SELECT max(seq) FROM event), "                                              \
              "(SELECT value FROM meta WHERE key = 'head_floor'), "                                \
              "(SELECT value FROM meta WHERE key = 'trimmed_seq')")                                \
                                                                                                   \
    X(CLOCK_GET, "SELECT boot, offset_us, high_us, leap_us FROM clock WHERE id = 1")               \
    X(CLOCK_SET, "INSERT INTO clock(id, boot, offset_us, high_us, leap_us) "                       \
                 "VALUES(1, ?1, ?2, ?3, ?4) ON CONFLICT(id) DO UPDATE SET boot = excluded.boot, "  \
                 "offset_us = excluded.offset_us, high_us = excluded.high_us, "                    \
                 "leap_us = excluded.leap_us")                                                     \
    X(CLOCK_MOVE_DELIVERIES,                                                                       \
      "UPDATE delivery SET due_us = CASE WHEN due_us <= ?1 THEN min(due_us, ?2) "                  \
      "WHEN status = 1 OR attempts > 0 THEN due_us + ?2 - ?1 ELSE due_us END "                     \
      "WHERE status <> 2 AND status < 2")                                                          \
    X(CLOCK_MOVE_DEAD, "UPDATE delivery SET completed_us = completed_us + ?2 - ?1 "                \
                       "WHERE status <> 2 AND status = 3")                                         \
    X(CLOCK_MOVE_LEASES,                                                                           \
      "UPDATE lease SET until_us = CASE WHEN until_us <= ?1 THEN min(until_us, ?2) "               \
      "ELSE until_us + ?2 - ?1 END")                                                               \
    X(CLOCK_MOVE_GROUPS, "UPDATE grp SET joined_us = joined_us + ?2 - ?1")                         \
    X(CLOCK_MOVE_MARKS, "UPDATE mark SET us = us + ?2 - ?1 WHERE seq > 0")                         \
                                                                                                   \
    X(SERIES_FIND, "SELECT id, keyed FROM series WHERE topic = ?1 AND type = ?2 AND source = ?3 "  \
                   "AND schema = ?4 AND entity = ?5 AND operation = ?6 AND instance = ?7 "         \
                   "AND content_type = ?8")                                                        \
    X(SERIES_INSERT,                                                                               \
      "INSERT INTO series(topic, type, source, schema, entity, operation, instance, "              \
      "content_type, keyed) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")                           \
    X(SERIES_GET, "SELECT id, source, type, topic, schema, entity, operation, instance, "          \
                  "content_type FROM series WHERE id = ?1")                                        \
    X(SERIES_AFTER, "SELECT id, source, type, topic, schema, entity, operation, instance "         \
                    "FROM series WHERE id > ?1 ORDER BY id")                                       \
    X(SERIES_BY_TOPIC, "SELECT id, source, type, topic, schema, entity, operation, instance "      \
                       "FROM series WHERE topic = ?1")                                             \
    X(SERIES_BY_TYPE, "SELECT id, source, type, topic, schema, entity, operation, instance "       \
                      "FROM series WHERE type >= ?1 AND type < ?2")                                \
    X(SERIES_BY_INSTANCE, "SELECT id, source, type, topic, schema, entity, operation, instance "   \
                          "FROM series WHERE instance = ?1")                                       \
    X(SERIES_BY_ENTITY, "SELECT id, source, type, topic, schema, entity, operation, instance "     \
                        "FROM series WHERE entity = ?1")                                           \
    X(SERIES_BY_SCHEMA, "SELECT id, source, type, topic, schema, entity, operation, instance "     \
                        "FROM series WHERE schema = ?1")                                           \
    X(SERIES_BY_OPERATION, "SELECT id, source, type, topic, schema, entity, operation, instance "  \
                           "FROM series WHERE operation = ?1")                                     \
    X(SERIES_BY_SOURCE, "SELECT id, source, type, topic, schema, entity, operation, instance "     \
                        "FROM series WHERE source = ?1")                                           \
    X(SERIES_LAST, "SELECT max(id), (SELECT value FROM meta WHERE key = 'series_swept') "          \
                   "FROM series")                                                                  \
    X(SERIES_IDS, "SELECT id FROM series ORDER BY id")                                             \
    X(SERIES_USED, "SELECT 1 FROM event_block b CROSS JOIN event e ON (e.seq >> 12) = +b.block "   \
                   "AND e.series = ?1 WHERE b.block >= ?2 LIMIT 1")                                \
    X(SERIES_FORGET, "DELETE FROM series WHERE id = ?1 AND id < (SELECT max(id) FROM series)")     \
    X(SERIES_SWEPT, "INSERT INTO meta(key, value) VALUES('series_swept', 1) "                      \
                    "ON CONFLICT(key) DO UPDATE SET value = value + 1")                            \
    X(KEY_FORGET, "DELETE FROM key WHERE last_seq = 0 "                                            \
                  "AND topic = (SELECT s.topic FROM series s WHERE s.id = ?1)")                    \
    X(SERIES_KEYED, "UPDATE series SET keyed = 1 WHERE topic = ?1")                                \
                                                                                                   \
    X(EVENT_INSERT,                                                                                \
      "INSERT INTO event(seq, id, series, created_us, user_id, session, deliver_at, traceparent, " \
      "metadata, payload) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) "                        \
      "ON CONFLICT(id) DO NOTHING")                                                                \
    X(EVENT_FIND, "SELECT seq FROM event WHERE id = ?1")                                           \
    X(EVENT_BY_ID, "SELECT " FAN__SQLITE_COLUMNS "FROM event e WHERE e.id = ?1")                   \
    X(EVENT_BY_SEQ, "SELECT " FAN__SQLITE_COLUMNS "FROM event e WHERE e.seq = ?1")                 \
    X(EVENT_FIRST, "SELECT min(seq) FROM event")                                                   \
    X(EVENT_LAST, "SELECT max(seq) FROM event")                                                    \
    X(EVENT_DELETE, "DELETE FROM event WHERE id = ?1")                                             \
    X(EVENT_ERASE, "UPDATE event SET user_id = NULL, session = NULL, metadata = NULL, "            \
                   "payload = CASE typeof(payload) WHEN 'text' THEN 'null' ELSE x'' END "          \
                   "WHERE id = ?1")                                                                \
    X(BLOCK_UPSERT, "INSERT INTO event_block(block, t_min, t_max, count) VALUES(?1, ?2, ?3, ?4) "  \
                    "ON CONFLICT(block) DO UPDATE SET t_min = min(t_min, excluded.t_min), "        \
                    "t_max = max(t_max, excluded.t_max), count = count + excluded.count")          \
    X(BLOCK_COUNT, "SELECT count FROM event_block WHERE block = ?1")                               \
    X(BLOCK_SUM, "SELECT coalesce(sum(count), 0) FROM event_block WHERE block > ?1")               \
    X(BLOCK_COUNT_AFTER, "SELECT count(*) FROM event e INDEXED BY event_series "                   \
                         "WHERE (e.seq >> 12) = (?1 >> 12) AND e.seq > ?1")                        \
                                                                                                   \
    X(WALK_ALL, FAN__SQLITE_WALK_ALL)                                                              \
    X(WALK_ALL_DOWN, FAN__SQLITE_WALK_ALL " DESC")                                                 \
    X(WALK_SERIES, FAN__SQLITE_WALK_SERIES FAN__SQLITE_BY_BLOCK)                                   \
    X(WALK_SERIES_DOWN, FAN__SQLITE_WALK_SERIES FAN__SQLITE_BY_BLOCK_DOWN)                         \
    X(WALK_USER, FAN__SQLITE_WALK_USER FAN__SQLITE_BY_BLOCK)                                       \
    X(WALK_USER_DOWN, FAN__SQLITE_WALK_USER FAN__SQLITE_BY_BLOCK_DOWN)                             \
    X(WALK_TIME, FAN__SQLITE_WALK_TIME FAN__SQLITE_BY_BLOCK)                                       \
    X(WALK_TIME_DOWN, FAN__SQLITE_WALK_TIME FAN__SQLITE_BY_BLOCK_DOWN)                             \
    X(WALK_OPEN, FAN__SQLITE_WALK_OPEN)                                                            \
    X(WALK_OPEN_DOWN, FAN__SQLITE_WALK_OPEN " DESC")                                               \
    X(WALK_BLOCKS, "SELECT b.block FROM event_block b" FAN__SQLITE_IN_BLOCKS "ORDER BY b.block")   \
    X(WALK_BLOCKS_DOWN,                                                                            \
      "SELECT b.block FROM event_block b" FAN__SQLITE_IN_BLOCKS "ORDER BY b.block DESC")           \
    X(BLOCK_SERIES, "SELECT e.seq FROM event e WHERE (e.seq >> 12) = ?1 AND e.series = ?2")        \
    X(BLOCK_ALL, "SELECT e.seq, e.series FROM event e WHERE (e.seq >> 12) = ?1")                   \
                                                                                                   \
    X(KEY_GET, "SELECT last_seq FROM key WHERE topic = ?1")                                        \
    X(KEY_TRACKED, "SELECT 1 FROM key WHERE topic = ?1 UNION ALL "                                 \
                   "SELECT 1 FROM series WHERE topic = ?1 AND keyed = 1 LIMIT 1")                  \
    X(TOPIC_EXISTS, "SELECT 1 FROM series WHERE topic = ?1 LIMIT 1")                               \
    X(KEY_SET, "INSERT INTO key(topic, last_seq) VALUES(?1, ?2) "                                  \
               "ON CONFLICT(topic) DO UPDATE SET last_seq = excluded.last_seq")                    \
    X(KEY_SEARCH, "SELECT e.seq FROM event_block b CROSS JOIN event e ON (e.seq >> 12) = "         \
                  "+b.block AND e.series IN (SELECT s.id FROM series s WHERE s.topic = ?1) "       \
                  "ORDER BY b.block DESC, e.seq DESC LIMIT 1")                                     \
                                                                                                   \
    X(MARK_LAST, "SELECT seq, us, bytes FROM mark ORDER BY seq DESC LIMIT 1")                      \
    X(MARK_FROM, "SELECT seq, us, bytes FROM mark WHERE seq >= ?1 ORDER BY seq LIMIT 1")           \
    X(MARK_INSERT, "INSERT OR REPLACE INTO mark(seq, us, bytes) VALUES(?1, ?2, ?3)")               \
    X(MARK_BYTES, "SELECT coalesce(sum(length(e.payload) + coalesce(length(e.metadata), 0) "       \
                  "+ ?3), 0) FROM event e WHERE e.seq > ?1 AND e.seq <= ?2")                       \
    X(MARK_THIN, "DELETE FROM mark WHERE seq < ?1 AND us / 3600000000 = "                          \
                 "(SELECT m.us / 3600000000 FROM mark m WHERE m.seq > mark.seq "                   \
                 "ORDER BY m.seq LIMIT 1)")                                                        \
    X(MARK_DROP, "DELETE FROM mark WHERE seq < ?1 AND seq < (SELECT max(m.seq) FROM mark m)")      \
    X(BLOCKS_DOWN, "SELECT b.block, b.count FROM event_block b ORDER BY b.block DESC")             \
    X(BLOCK_NTH, "SELECT e.seq FROM event e WHERE e.seq >= ?1 << 12 AND e.seq < (?1 + 1) << 12 "   \
                 "ORDER BY e.seq DESC LIMIT 1 OFFSET ?2")                                          \
    X(BLOCKS_DROP, "DELETE FROM event_block WHERE block < ?1 AND count <= 0")                      \
    X(OPEN_FROM, "SELECT d.seq, d.grp, d.status, d.due_us, d.completed_us FROM delivery d "        \
                 "WHERE d.status <> 2 AND d.seq >= ?1 AND (d.seq > ?1 OR d.grp > ?2) "             \
                 "AND d.seq <= ?3 ORDER BY d.seq, d.grp LIMIT ?4")                                 \
    X(DELIVERY_EXPIRE, "UPDATE delivery SET status = 3, token = 0, owner = NULL, reason = 4, "     \
                       "lapses = lapses + (status = 1), error = ?3, due_us = 0, parked = 0, "      \
                       "completed_us = ?4 WHERE seq = ?1 AND grp = ?2")                            \
    X(GROUP_HELD, "SELECT 1 FROM delivery d WHERE d.grp = ?1 AND d.status < 2 AND d.parked = 0 "   \
                  "AND d.due_us > ?2 AND d.status = 1 LIMIT 1")                                    \
    X(EVENTS_FROM, "SELECT e.seq, e.series FROM event e WHERE e.seq > ?1 AND e.seq <= ?2 "         \
                   "ORDER BY e.seq LIMIT ?3")                                                      \
    X(EVENT_OPEN, "SELECT 1 FROM delivery d JOIN grp g ON g.id = d.grp "                           \
                  "WHERE d.status <> 2 AND d.seq = ?1 LIMIT 1")                                    \
    X(EVENT_DROP, "DELETE FROM event WHERE seq = ?1")                                              \
    X(EVENT_GROUPS, "SELECT d.grp FROM delivery d WHERE d.seq = ?1")                               \
    X(EVENT_CLEAR, "DELETE FROM delivery WHERE seq = ?1")                                          \
    X(SERIES_IS_KEYED, "SELECT keyed FROM series WHERE id = ?1")                                   \
    X(KEY_DROP, "DELETE FROM key WHERE last_seq = ?2 "                                             \
                "AND topic = (SELECT s.topic FROM series s WHERE s.id = ?1)")                      \
    X(BLOCK_LESS, "UPDATE event_block SET count = count - ?2 WHERE block = ?1")                    \
    X(HEAD_FLOOR, "UPDATE meta SET value = max(value, ?1) WHERE key = 'head_floor'")               \
    X(TRIMMED, "UPDATE meta SET value = max(value, ?1) WHERE key = 'trimmed_seq'")                 \
                                                                                                   \
    X(LEASE_GET, "SELECT owner, fence, until_us FROM lease WHERE name = ?1")                       \
    X(LEASE_DELETE, "DELETE FROM lease WHERE name = ?1")                                           \
    X(LEASE_SWEEP, "DELETE FROM lease WHERE until_us <= ?1")                                       \
    X(LEASE_SET, "INSERT INTO lease(name, owner, fence, until_us) VALUES(?1, ?2, ?3, ?4) "         \
                 "ON CONFLICT(name) DO UPDATE SET owner = excluded.owner, "                        \
                 "fence = excluded.fence, until_us = excluded.until_us")                           \
                                                                                                   \
    X(GROUP_INSERT, "INSERT INTO grp(name, handler, pattern, topic, cursor, joined_us, token) "    \
                    "VALUES(?1, ?2, ?3, ?4, ?5, ?6, "                                              \
                    "(SELECT value FROM meta WHERE key = 'token_floor'))")                         \
    X(GROUP_UPDATE, "UPDATE grp SET pattern = ?2, topic = ?3, joined_us = ?4 WHERE id = ?1")       \
    X(GROUP_JOIN, "UPDATE grp SET joined_us = ?2 WHERE id = ?1")                                   \
    X(GROUP_GET, FAN__SQLITE_GROUP "WHERE g.name = ?1 AND g.handler = ?2")                         \
    X(GROUPS, FAN__SQLITE_GROUP "ORDER BY g.name, g.handler")                                      \
    X(GROUP_ADVANCE,                                                                               \
      "UPDATE grp SET cursor = ?2, token = ?3, ordered = ?4, ahead = ?5, joined_us = ?6 "          \
      "WHERE id = ?1")                                                                             \
    X(GROUP_MOVE, "UPDATE grp SET cursor = ?2, joined_us = ?4 WHERE id = ?1 AND cursor = ?3")      \
    X(GROUP_REORDER, "UPDATE grp SET ordered = 0 WHERE id = ?2 AND EXISTS (SELECT 1 FROM "         \
                     "delivery d WHERE d.seq = ?1 AND d.grp = ?2 AND d.key IS NULL)")              \
    X(GROUP_COMPLETED, "UPDATE grp SET completed = completed + ?2, ahead = ahead + ?3 "            \
                       "WHERE id = ?1")                                                            \
    X(TOKEN_FLOOR, "UPDATE meta SET value = max(value, ?1) WHERE key = 'token_floor'")             \
    X(GROUP_DELETE, "DELETE FROM grp WHERE id = ?1")                                               \
    X(DROPPED_INSERT, "INSERT INTO meta(key, value) VALUES('dropped ' || ?1, 0)")                  \
    X(DROPPED_FIRST, "SELECT CAST(substr(m.key, 9) AS INTEGER), m.value FROM meta m "              \
                     "WHERE m.key > 'dropped ' AND m.key < 'dropped!' LIMIT 1")                    \
    X(DROPPED_GET, "SELECT 1 FROM meta m WHERE m.key = 'dropped ' || ?1")                          \
    X(DROPPED_MOVE, "UPDATE meta SET value = ?2 WHERE key = 'dropped ' || ?1")                     \
    X(DROPPED_DELETE, "DELETE FROM meta WHERE key = 'dropped ' || ?1")                             \
    X(DELIVERY_NTH, "SELECT d.seq FROM delivery d WHERE d.seq > ?1 ORDER BY d.seq LIMIT 1 "        \
                    "OFFSET ?2")                                                                   \
    X(GROUP_CLEAR, "DELETE FROM delivery WHERE seq > ?2 AND seq <= ?3 AND grp = ?1")               \
                                                                                                   \
    X(DUE,                                                                                         \
      "SELECT d.seq, d.attempts, d.lapses + (d.status = 1) FROM delivery d WHERE d.grp = ?1 "      \
      "AND d.status < 2 AND d.parked = 0 AND d.due_us <= ?2 AND d.lapses + (d.status = 1) < ?5 "   \
      "ORDER BY d.due_us, d.seq LIMIT ?3")                                                         \
    X(DUE_IN_PART, "SELECT d.seq, d.attempts, d.lapses + (d.status = 1), d.key FROM delivery d "   \
                   "WHERE d.grp = ?1 AND d.part = ?4 AND d.part IS NOT NULL AND d.status < 2 "     \
                   "AND d.parked = 0 AND d.due_us <= ?2 AND d.lapses + (d.status = 1) < ?5 "       \
                   "AND d.seq <= ?6 AND NOT EXISTS (SELECT 1 FROM delivery o "                     \
                   "WHERE o.grp = d.grp AND o.key = d.key AND o.key IS NOT NULL AND o.status < 2 " \
                   "AND o.seq < d.seq) "                                                           \
                   "ORDER BY d.due_us, d.seq LIMIT ?3")                                            \
    X(HELD, "SELECT d.part, d.owner FROM delivery d WHERE d.grp = ?1 AND d.status = 1 "            \
            "AND d.part IS NOT NULL AND d.due_us > ?2")                                            \
    X(KEY_HELD, "SELECT 1 FROM delivery d WHERE d.grp = ?1 AND d.status = 1 "                      \
                "AND d.part = ?4 AND d.part IS NOT NULL AND d.due_us > ?2 AND d.key = ?3 LIMIT 1") \
    X(KEY_OLDEST, "SELECT d.seq FROM delivery d WHERE d.grp = ?1 AND d.key = ?2 "                  \
                  "AND d.key IS NOT NULL AND d.status < 2 ORDER BY d.seq LIMIT 1")                 \
    X(UNKEYED, "SELECT d.seq FROM delivery d WHERE d.grp = ?1 AND d.status < 2 "                   \
               "AND d.parked = 0 AND d.key IS NULL")                                               \
    X(DELIVERY_ORDER, "UPDATE delivery SET key = ?3, part = ?4 WHERE seq = ?1 AND grp = ?2")       \
    X(DELIVERY_INSERT,                                                                             \
      "INSERT INTO delivery(seq, grp, status, attempts, token, owner, due_us, processed_us, key, " \
      "part, parked) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) "                        \
      "ON CONFLICT(seq, grp) DO NOTHING")                                                          \
    X(DELIVERY_CLAIM, "UPDATE delivery SET status = 1, attempts = attempts + 1, token = ?3, "      \
                      "lapses = lapses + (status = 1), owner = ?4, due_us = ?5, processed_us = "   \
                      "?6 WHERE seq = ?1 AND grp = ?2")                                            \
    X(GROUP_KEYED, "SELECT 1 FROM delivery d WHERE d.grp = ?1 AND d.key IS NOT NULL "              \
                   "AND d.status < 2 LIMIT 1")                                                     \
    X(DELIVERY_DONE, "UPDATE delivery SET status = 2, owner = NULL, error = NULL, due_us = 0, "    \
                     "completed_us = ?4 "                                                          \
                     "WHERE seq = ?1 AND grp = ?2 AND token = ?3 AND status = 1")                  \
    X(DELIVERY_DONE_KEYED, "UPDATE delivery SET status = 2, token = 0, owner = NULL, "             \
                           "error = NULL, due_us = 0, completed_us = ?4 "                          \
                           "WHERE seq = ?1 AND grp = ?2 AND token = ?3 AND status = 1")            \
    X(DELIVERY_FAIL, "UPDATE delivery SET status = 3, token = 0, owner = NULL, error = ?5, "       \
                     "reason = ?6, due_us = 0, completed_us = ?4 "                                 \
                     "WHERE seq = ?1 AND grp = ?2 AND token = ?3 AND status = 1")                  \
    X(DELIVERY_RETRY, "UPDATE delivery SET status = 0, token = 0, owner = NULL, error = ?5, "      \
                      "due_us = ?4 WHERE seq = ?1 AND grp = ?2 AND token = ?3 AND status = 1")     \
    X(DELIVERY_HAND_BACK, "UPDATE delivery SET status = 0, token = 0, owner = NULL, "              \
                          "due_us = ?4, attempts = attempts - 1 "                                  \
                          "WHERE seq = ?1 AND grp = ?2 AND token = ?3 AND status = 1")             \
    X(DELIVERY_RENEW, "UPDATE delivery SET due_us = ?5 "                                           \
                      "WHERE seq = ?1 AND grp = ?2 AND token = ?3 AND status = 1 AND due_us > ?4") \
    X(DELIVERY_REDRIVE,                                                                            \
      "UPDATE delivery SET status = 0, attempts = 0, lapses = 0, reason = 0, due_us = ?3, "        \
      "completed_us = NULL, parked = 0 WHERE seq = ?1 AND grp = ?2")                               \
    X(DELIVERY_DISCARD, "UPDATE delivery SET status = 2, token = 0, owner = NULL, due_us = 0, "    \
                        "reason = 0, parked = 0, completed_us = ?3 WHERE seq = ?1 AND grp = ?2")   \
    X(DELIVERY_GET, "SELECT d.status, d.due_us FROM delivery d WHERE d.seq = ?1 AND d.grp = ?2")   \
    X(STATE, "SELECT d.status, d.attempts, d.error, d.due_us, d.processed_us, d.completed_us, "    \
             "d.grp FROM delivery d JOIN grp g ON g.id = d.grp WHERE d.seq = ?1 "                  \
             "ORDER BY g.name, g.handler")                                                         \
    X(DELIVERIES, "SELECT " FAN__SQLITE_DELIVERY "FROM delivery d JOIN grp g ON g.id = d.grp "     \
                  "WHERE d.seq = ?1 ORDER BY g.name, g.handler")                                   \
    X(DEAD,                                                                                        \
      "SELECT " FAN__SQLITE_DELIVERY "FROM delivery d CROSS JOIN grp g ON g.id = d.grp "           \
      "WHERE d.status <> 2 AND d.status = 3 AND d.seq > ?1 ORDER BY d.seq, g.name, g.handler")     \
    X(AHEAD, "SELECT d.seq, e.series FROM delivery d JOIN event e ON e.seq = d.seq "               \
             "WHERE d.seq > ?1 AND d.grp = ?2")                                                    \
    X(OPEN, "SELECT d.seq, d.grp, d.status, d.due_us FROM delivery d WHERE d.status <> 2 "         \
            "ORDER BY d.seq")

enum fan__sqlite_statement {
#define FAN__SQLITE_NAME(name, text) FAN__SQL_##name,
    FAN__SQLITE_STATEMENTS(FAN__SQLITE_NAME)
#undef FAN__SQLITE_NAME
        FAN__SQL_COUNT,
};

/* The text of a statement, for tests that look at query plans. */
const char *fan__sqlite_text(enum fan__sqlite_statement statement);

#define FAN__SQLITE_STR_(number) #number
#define FAN__SQLITE_STR(number) FAN__SQLITE_STR_(number)

/* clang-format off */
#define FAN__SQLITE_SCHEMA_TABLES                                                                  \
    "PRAGMA application_id = " FAN__SQLITE_STR(FAN__SQLITE_APPLICATION_ID) ";"                     \
    "PRAGMA user_version = " FAN__SQLITE_STR(FAN__SQLITE_FORMAT) ";"                               \
    "CREATE TABLE meta(key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;"               \
    "CREATE TABLE series(id INTEGER PRIMARY KEY, source TEXT NOT NULL, type TEXT NOT NULL, "       \
    "  topic TEXT NOT NULL, schema TEXT NOT NULL, entity TEXT NOT NULL, "                          \
    "  operation TEXT NOT NULL, instance TEXT NOT NULL, content_type TEXT NOT NULL, "              \
    "  keyed INTEGER NOT NULL DEFAULT 0, "                                                         \
    "  UNIQUE(topic, type, source, schema, entity, operation, instance, content_type));"           \
    "CREATE INDEX series_type ON series(type);"                                                    \
    "CREATE INDEX series_source ON series(source);"                                                \
    "CREATE INDEX series_schema ON series(schema);"                                                \
    "CREATE INDEX series_entity ON series(entity);"                                                \
    "CREATE INDEX series_operation ON series(operation);"                                          \
    "CREATE INDEX series_instance ON series(instance);"                                            \
    "CREATE TABLE event(seq INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, "                        \
    "  series INTEGER NOT NULL, created_us INTEGER NOT NULL, user_id INTEGER, session TEXT, "      \
    "  deliver_at INTEGER, traceparent TEXT, metadata TEXT, payload NOT NULL);"                    \
    "CREATE INDEX event_series ON event(seq >> 12, series);"                                       \
    "CREATE INDEX event_user ON event(seq >> 12, user_id) WHERE user_id IS NOT NULL;"              \
    "CREATE TABLE event_block(block INTEGER PRIMARY KEY, t_min INTEGER NOT NULL, "                 \
    "  t_max INTEGER NOT NULL, count INTEGER NOT NULL);"                                           \
    "CREATE TABLE key(topic TEXT PRIMARY KEY, last_seq INTEGER NOT NULL) WITHOUT ROWID;"           \
    "CREATE TABLE lease(name TEXT PRIMARY KEY, owner TEXT NOT NULL, fence INTEGER NOT NULL, "      \
    "  until_us INTEGER NOT NULL) WITHOUT ROWID;"                                                  \
    "CREATE TABLE mark(seq INTEGER PRIMARY KEY, us INTEGER NOT NULL, bytes INTEGER NOT NULL);"     \
    "CREATE TABLE clock(id INTEGER PRIMARY KEY, boot INTEGER NOT NULL, "                           \
    "  offset_us INTEGER NOT NULL, high_us INTEGER NOT NULL, leap_us INTEGER NOT NULL);"           \
    "CREATE TABLE grp(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, "                  \
    "  handler TEXT NOT NULL, pattern TEXT, topic TEXT, cursor INTEGER NOT NULL, "                 \
    "  completed INTEGER NOT NULL DEFAULT 0, ordered INTEGER NOT NULL DEFAULT 0, "                 \
    "  token INTEGER NOT NULL DEFAULT 0, ahead INTEGER NOT NULL DEFAULT 0, "                       \
    "  joined_us INTEGER NOT NULL DEFAULT 0, UNIQUE(name, handler));"                              \
    "CREATE TABLE delivery(seq INTEGER NOT NULL, grp INTEGER NOT NULL, "                           \
    "  status INTEGER NOT NULL, attempts INTEGER NOT NULL, token INTEGER NOT NULL, "               \
    "  owner TEXT, error TEXT, due_us INTEGER NOT NULL, processed_us INTEGER, "                    \
    "  completed_us INTEGER, key INTEGER, part INTEGER, parked INTEGER NOT NULL DEFAULT 0, "       \
    "  lapses INTEGER NOT NULL DEFAULT 0, reason INTEGER NOT NULL DEFAULT 0, "                     \
    "  PRIMARY KEY(seq, grp)) WITHOUT ROWID;"                                                      \
    "CREATE INDEX delivery_open ON delivery(seq, status) WHERE status <> 2;"                       \
    "CREATE INDEX delivery_due ON delivery(grp, due_us, seq) WHERE status < 2 AND parked = 0;"     \
    "CREATE INDEX delivery_part ON delivery(grp, part, due_us, seq) "                              \
    "  WHERE status < 2 AND parked = 0 AND part IS NOT NULL;"                                      \
    "CREATE INDEX delivery_key ON delivery(grp, key, seq) "                                        \
    "  WHERE status < 2 AND key IS NOT NULL;"                                                      \
    "CREATE INDEX delivery_held ON delivery(grp, part, due_us, key, owner) "                       \
    "  WHERE status = 1 AND part IS NOT NULL;"

/*
 * Runs for statements that set the token, which is all that settle but DELIVERY_DONE: that one is
 * for groups without keys, and is what most deliveries end by.
 */
#define FAN__SQLITE_SCHEMA_SETTLED                                                                 \
    "CREATE TRIGGER delivery_settled AFTER UPDATE OF token ON delivery "                           \
    "  WHEN new.status >= 2 AND old.status < 2 AND old.key IS NOT NULL BEGIN "                     \
    "  UPDATE delivery SET parked = 0 WHERE grp = old.grp AND seq = (SELECT d.seq "                \
    "    FROM delivery d WHERE d.grp = old.grp AND d.key = old.key AND d.key IS NOT NULL "         \
    "    AND d.status < 2 ORDER BY d.seq LIMIT 1);"                                                \
    "END;"

#define FAN__SQLITE_SCHEMA_TRIGGERS                                                                \
    /* The head never goes back, also when an operator deletes the last event by hand. */          \
    "CREATE TRIGGER event_deleted AFTER DELETE ON event BEGIN "                                    \
    "  UPDATE meta SET value = old.seq WHERE key = 'head_floor' AND value < old.seq "              \
    "    AND NOT EXISTS (SELECT 1 FROM event WHERE seq > old.seq);"                                \
    "  UPDATE event_block SET count = count - 1 WHERE block = old.seq >> 12;"                      \
    "  DELETE FROM delivery WHERE seq = old.seq;"                                                  \
    "  DELETE FROM key WHERE topic = (SELECT topic FROM series WHERE id = old.series) "            \
    "    AND last_seq = old.seq;"                                                                  \
    "END;"                                                                                         \
    /* Of one key in an ordered group, the oldest unsettled delivery is not parked. */             \
    "CREATE TRIGGER delivery_deleted AFTER DELETE ON delivery BEGIN "                              \
    "  UPDATE grp SET completed = completed - (old.status = 2), "                                  \
    "    ahead = ahead - (old.seq > cursor) WHERE id = old.grp "                                   \
    "    AND (old.status = 2 OR old.seq > cursor);"                                                \
    "  UPDATE delivery SET parked = 0 WHERE old.key IS NOT NULL AND old.status < 2 "               \
    "    AND grp = old.grp AND seq = (SELECT d.seq FROM delivery d WHERE d.grp = old.grp "         \
    "    AND d.key = old.key AND d.key IS NOT NULL AND d.status < 2 ORDER BY d.seq LIMIT 1);"      \
    "END;"                                                                                         \
    FAN__SQLITE_SCHEMA_SETTLED

#define FAN__SQLITE_SCHEMA_DELIVERIES                                                              \
    "CREATE VIEW deliveries AS SELECT g.name AS group_name, g.handler, d.seq, CASE d.status "      \
    "  WHEN 0 THEN 'pending' WHEN 1 THEN 'processing' WHEN 2 THEN 'completed' ELSE 'failed' END "  \
    "  AS status, d.attempts, d.owner, d.error, d.due_us, d.processed_us, d.completed_us, "        \
    "  d.lapses, CASE d.reason WHEN 0 THEN NULL WHEN 1 THEN 'failed' WHEN 2 THEN 'retries' "       \
    "  WHEN 3 THEN 'lapses' ELSE 'expired' END AS reason "                                         \
    "  FROM delivery d JOIN grp g ON g.id = d.grp;"

#define FAN__SQLITE_SCHEMA_VIEWS                                                                   \
    "CREATE VIEW events AS SELECT e.seq, CASE typeof(e.id) WHEN 'blob' THEN "                      \
    "  lower(substr(hex(e.id), 1, 8) || '-' || substr(hex(e.id), 9, 4) || '-' || "                 \
    "  substr(hex(e.id), 13, 4) || '-' || substr(hex(e.id), 17, 4) || '-' || "                     \
    "  substr(hex(e.id), 21)) ELSE e.id END AS id, s.source, s.type, s.topic, s.schema, "          \
    "  s.entity, s.operation, e.user_id, e.session AS session_id, "                                \
    "  s.instance AS instance_id, strftime('%Y-%m-%dT%H:%M:', e.created_us / 1000000, "            \
    "  'unixepoch') || printf('%02d.%06dZ', (e.created_us / 1000000) % 60, "                       \
    "  e.created_us % 1000000) AS created_at, e.deliver_at, s.content_type, e.traceparent, "       \
    "  e.metadata, e.payload FROM event e JOIN series s ON s.id = e.series;"                       \
    FAN__SQLITE_SCHEMA_DELIVERIES

/*
 * From format 1, whose processes may still have the log open: their statements go on to work. It
 * kept no reasons: what is dead may have failed at once or after its retries.
 */
#define FAN__SQLITE_MIGRATE_1                                                                      \
    "ALTER TABLE grp ADD COLUMN joined_us INTEGER NOT NULL DEFAULT 0;"                             \
    "ALTER TABLE delivery ADD COLUMN lapses INTEGER NOT NULL DEFAULT 0;"                           \
    "ALTER TABLE delivery ADD COLUMN reason INTEGER NOT NULL DEFAULT 0;"                           \
    "UPDATE delivery SET reason = 1 WHERE status = 3 AND status <> 2;"                             \
    "CREATE TABLE mark(seq INTEGER PRIMARY KEY, us INTEGER NOT NULL, bytes INTEGER NOT NULL);"     \
    "CREATE TABLE clock(id INTEGER PRIMARY KEY, boot INTEGER NOT NULL, "                           \
    "  offset_us INTEGER NOT NULL, high_us INTEGER NOT NULL, leap_us INTEGER NOT NULL);"           \
    "DROP TRIGGER delivery_settled;"                                                               \
    FAN__SQLITE_SCHEMA_SETTLED                                                                     \
    "DROP VIEW deliveries;"                                                                        \
    FAN__SQLITE_SCHEMA_DELIVERIES                                                                  \
    "PRAGMA user_version = 2;"
/* clang-format on */

#endif
