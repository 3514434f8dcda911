/*
 * The statements of groups, their deliveries, retention and verification (sql.h).
 *
 * Where rows are named one by one, `status + 0` keeps the server from the indexes over open ones,
 * which it would go through from end to end for each name while they look small.
 *
 * A `piece` of the log is looked at from a sequence on: what the group wants of it, and in any case
 * its last event, so that the cursor can go there.
 */
#ifndef FAN_STORE_POSTGRES_SQL_GROUP_H
#define FAN_STORE_POSTGRES_SQL_GROUP_H

#define FAN__POSTGRES_SIZE "octet_length(e.payload) + coalesce(octet_length(e.metadata), 0)"

/* Whether a filter takes the series s: types by a regular expression, NULL takes all. */
#define FAN__POSTGRES_FITS(regex, topic)                                                           \
    "(" regex " IS NULL OR s.type ~ " regex ") AND (" topic " IS NULL OR s.topic = " topic ")"

/*
 * The sum of the deliveries of the event e, of the series s, as st (status, attempts, error,
 * processed_us, completed_us). Of the errors a dead letter's says most.
 */
#define FAN__POSTGRES_STATE(now)                                                                   \
    "LATERAL (SELECT CASE WHEN x.failed THEN 3 WHEN x.held THEN 1 WHEN x.waits OR EXISTS "         \
    "(SELECT 1 FROM @grp g WHERE g.cursor < e.seq AND " FAN__POSTGRES_FITS(                        \
        "g.regex",                                                                                 \
        "g.topic") " AND NOT EXISTS (SELECT 1 FROM @delivery d WHERE d.seq = e.seq AND d.grp = "   \
                   "g.id)) THEN 0 "                                                                \
                   "ELSE 2 END AS status, x.attempts, x.error, x.processed_us, x.completed_us "    \
                   "FROM (SELECT "                                                                 \
                   "coalesce(bool_or(d.status = 3), false) AS failed, "                            \
                   "coalesce(bool_or(d.status = 1 AND d.due_us > " now "), false) AS held, "       \
                   "coalesce(bool_or(d.status < 2), false) AS waits, "                             \
                   "coalesce(max(d.attempts), 0) AS attempts, coalesce(max(d.processed_us), 0) "   \
                   "AS processed_us, "                                                             \
                   "coalesce(max(d.completed_us), 0) AS completed_us, "                            \
                   "(array_agg(d.error ORDER BY (d.status = 3) DESC, g.name, g.handler) "          \
                   "FILTER (WHERE d.error IS NOT NULL))[1] AS error "                              \
                   "FROM @delivery d JOIN @grp g ON g.id = d.grp WHERE d.seq = e.seq) x) st"

#define FAN__POSTGRES_PIECE                                                                        \
    "(SELECT e.seq, e.series, coalesce(e.deliver_at, 0) AS at, " FAN__POSTGRES_SIZE " AS size "    \
    "FROM @event e WHERE e.seq > $2::bigint ORDER BY e.seq LIMIT $5::bigint) c "                   \
    "JOIN @series s ON s.id = c.series"

/* One that was discarded before its turn has a row already. */
#define FAN__POSTGRES_PIECE_FITS                                                                   \
    FAN__POSTGRES_FITS("$3::text", "$4::text")                                                     \
    " AND NOT EXISTS (SELECT 1 FROM @delivery y WHERE y.grp = $1::bigint AND y.seq = c.seq "       \
    "AND y.early)"

/* $1 group, $2 now, $3 limit, $4 bytes, $5 token, $6 owner, $7 lease's end, $8 lapses. */
#define FAN__POSTGRES_TAKE                                                                         \
    ", run AS (SELECT p.seq, p.due_us, " FAN__POSTGRES_SIZE " AS size, sum(" FAN__POSTGRES_SIZE    \
    ") OVER (ORDER BY p.due_us, p.seq ROWS UNBOUNDED PRECEDING) AS bytes "                         \
    "FROM pick p JOIN @event e ON e.seq = p.seq), "                                                \
    "taken AS (UPDATE @delivery d SET status = 1, attempts = d.attempts + 1, token = $5::bigint, " \
    "lapses = d.lapses + (d.status = 1)::int, owner = $6::text, due_us = $7::bigint, "             \
    "processed_us = $2::bigint FROM run r WHERE d.grp = $1::bigint AND d.seq = r.seq "             \
    "AND r.bytes - r.size < $4::bigint AND d.status + 0 < 2 AND d.due_us <= $2::bigint "           \
    "RETURNING d.seq, d.attempts, d.lapses, r.size, r.due_us) "                                    \
    "SELECT t.seq, t.attempts, t.lapses, t.size FROM taken t ORDER BY t.due_us, t.seq"

/* The columns of a delivery, in the order in which state.c reads them. */
#define FAN__POSTGRES_DELIVERY                                                                     \
    "g.name, g.handler, d.seq, d.status, d.attempts, d.owner, d.error, d.due_us, "                 \
    "d.processed_us, d.completed_us, d.reason, d.lapses "

#define FAN__POSTGRES_GROUP                                                                        \
    "SELECT g.id, g.regex, g.topic, g.cursor, g.ordered, g.token, g.joined_us, g.due_first "       \
    "FROM @grp g "

#define FAN__POSTGRES_GROUP_NAMED                                                                  \
    FAN__POSTGRES_GROUP "WHERE g.name = $1::text AND g.handler = $2::text"

/* The oldest unsettled delivery of the key n.key in the group n.grp. */
#define FAN__POSTGRES_KEY_OLDEST                                                                   \
    "(SELECT o.seq FROM @delivery o WHERE o.grp = n.grp AND o.key = n.key "                        \
    "AND o.key IS NOT NULL AND o.status < 2 ORDER BY o.seq LIMIT 1)"

/* Since when an event is owed: it was there, and was to be delivered. */
#define FAN__POSTGRES_OWED_SINCE(seq, at, now)                                                     \
    "greatest(" at ", coalesce((SELECT m.us FROM @mark m WHERE m.seq >= " seq                      \
    " ORDER BY m.seq LIMIT 1), " now "))"

#define FAN__POSTGRES_STATEMENTS_CLAIM(X)                                                          \
    X(UNSYNCED, "SET LOCAL synchronous_commit = off")                                              \
    X(IMPATIENT, "SET LOCAL lock_timeout = 50")                                                    \
    X(GROUP_GET, FAN__POSTGRES_GROUP_NAMED)                                                        \
    X(GROUP_LOCK, FAN__POSTGRES_GROUP_NAMED " FOR NO KEY UPDATE")                                  \
    X(GROUP_CREATE,                                                                                \
      "INSERT INTO @grp(name, handler, pattern, regex, topic, cursor, token, joined_us) "          \
      "VALUES($1::text, $2::text, $3::text, $4::text, $5::text, "                                  \
      "least($6::bigint, " FAN__POSTGRES_HEAD                                                      \
      "), greatest($7::bigint, (SELECT value FROM @meta WHERE key = 'token_floor')), "             \
      "$7::bigint) ON CONFLICT(name, handler) DO UPDATE "                                          \
      "SET pattern = excluded.pattern, regex = excluded.regex, topic = excluded.topic, "           \
      "joined_us = excluded.joined_us "                                                            \
      "RETURNING (xmax = 0)::int")                                                                 \
    /* $1 is a group that was dropped; of it, of rows after $2, those among the next $3 go. */     \
    X(GROUP_CLEAR,                                                                                 \
      "WITH piece AS MATERIALIZED (SELECT d.seq, d.grp FROM @delivery d "                          \
      "WHERE d.seq > $2::bigint ORDER BY d.seq FETCH FIRST ($3::bigint) ROWS WITH TIES), "         \
      "gone AS (DELETE FROM @delivery d USING piece p "                                            \
      "WHERE d.seq = p.seq AND d.grp = p.grp AND d.grp = $1::bigint) "                             \
      "SELECT max(p.seq), count(*) FROM piece p")                                                  \
    X(TOKEN_FLOOR, "UPDATE @meta SET value = greatest(value, (SELECT g.token FROM @grp g "         \
                   "WHERE g.id = $1::bigint)) WHERE key = 'token_floor'")                          \
    X(DROPPED_ADD, "INSERT INTO @dropped(grp, after_seq) VALUES($1::bigint, 0)")                   \
    X(DROPPED_FIRST, "SELECT r.grp, r.after_seq FROM @dropped r ORDER BY r.grp LIMIT 1 "           \
                     "FOR UPDATE SKIP LOCKED")                                                     \
    X(DROPPED_MOVE, "UPDATE @dropped SET after_seq = $2::bigint WHERE grp = $1::bigint")           \
    X(DROPPED_DELETE, "DELETE FROM @dropped WHERE grp = $1::bigint")                               \
    X(GROUP_DELETE, "DELETE FROM @grp WHERE id = $1::bigint")                                      \
    X(GROUP_ADVANCE, "UPDATE @grp SET cursor = $2::bigint, token = $3::bigint, "                   \
                     "ordered = ($4::bigint <> 0), joined_us = $5::bigint, "                       \
                     "due_first = ($6::bigint <> 0) WHERE id = $1::bigint")                        \
    /* Who holds the row is at work on the group, or deletes it: nobody waits to say the same. */  \
    X(GROUP_JOIN, "UPDATE @grp SET joined_us = $2::bigint WHERE id = (SELECT g.id FROM @grp g "    \
                  "WHERE g.id = $1::bigint FOR NO KEY UPDATE SKIP LOCKED)")                        \
    X(TALLY_ADD, "INSERT INTO @tally AS t (grp, slot, completed) "                                 \
                 "VALUES($1::bigint, pg_backend_pid() & 63, $2::bigint) ON CONFLICT(grp, slot) "   \
                 "DO UPDATE SET completed = t.completed + excluded.completed")                     \
    X(TALLY_CLEAR, "DELETE FROM @tally WHERE grp = $1::bigint")                                    \
    X(CLAIM_LOOK,                                                                                  \
      "SELECT (EXISTS (SELECT 1 FROM @delivery d WHERE d.grp = g.id AND d.status < 2 "             \
      "AND NOT d.parked AND d.due_us <= $3::bigint) OR EXISTS (SELECT 1 FROM @event e "            \
      "WHERE e.seq > g.cursor))::int, g.joined_us, g.ordered::int, g.id FROM @grp g "              \
      "WHERE g.name = $1::text AND g.handler = $2::text")                                          \
    X(ORDER_BEGIN, "UPDATE @delivery d SET key = hashtextextended(s.topic, 0), "                   \
                   "part = (hashtextextended(s.topic, 0) & 63)::smallint "                         \
                   "FROM @event e JOIN @series s ON s.id = e.series "                              \
                   "WHERE d.grp = $1::bigint AND d.status < 2 AND d.key IS NULL "                  \
                   "AND e.seq = d.seq")                                                            \
    /* What the claim with a token gave (by its end) is given back, as no attempt. */              \
    X(UNCLAIM, "UPDATE @delivery d SET status = 0, token = 0, owner = NULL, due_us = $4::bigint, " \
               "attempts = d.attempts - 1 WHERE d.grp = $1::bigint AND d.due_us = $3::bigint "     \
               "AND d.status < 2 AND NOT d.parked AND d.status = 1 AND d.token = $2::bigint")      \
    X(HELD, "SELECT DISTINCT d.part FROM @delivery d WHERE d.grp = $1::bigint AND d.status = 1 "   \
            "AND d.part IS NOT NULL AND d.due_us > $2::bigint AND d.owner <> $3::text")            \
    X(DUE, "WITH pick AS MATERIALIZED (SELECT d.seq, d.due_us FROM @delivery d "                   \
           "WHERE d.grp = $1::bigint AND d.status < 2 AND NOT d.parked "                           \
           "AND d.due_us <= $2::bigint AND d.lapses + (d.status = 1)::int < $8::bigint "           \
           "ORDER BY d.due_us, d.seq LIMIT $3::bigint "                                            \
           "FOR UPDATE SKIP LOCKED)" FAN__POSTGRES_TAKE)                                           \
    X(DUE_IN_ORDER,                                                                                \
      "WITH pick AS MATERIALIZED (SELECT l.seq, l.due_us FROM generate_series(0, 63) i "           \
      "CROSS JOIN LATERAL (SELECT d.seq, d.due_us FROM @delivery d WHERE d.grp = $1::bigint "      \
      "AND d.part = ((i + $9::bigint) & 63) AND d.part IS NOT NULL AND d.status < 2 "              \
      "AND NOT d.parked AND d.due_us <= $2::bigint "                                               \
      "AND d.lapses + (d.status = 1)::int < $8::bigint "                                           \
      "AND NOT EXISTS (SELECT 1 FROM @delivery h WHERE h.grp = $1::bigint AND h.part = d.part "    \
      "AND h.part IS NOT NULL AND h.status = 1 AND h.due_us > $2::bigint "                         \
      "AND h.owner <> $6::text) "                                                                  \
      "AND NOT EXISTS (SELECT 1 FROM @delivery o WHERE o.grp = $1::bigint AND o.key = d.key "      \
      "AND o.key IS NOT NULL AND o.status < 2 AND (o.seq < d.seq "                                 \
      "OR (o.status = 1 AND o.due_us > $2::bigint))) "                                             \
      "ORDER BY d.due_us, d.seq LIMIT $3::bigint) l LIMIT $3::bigint)" FAN__POSTGRES_TAKE)         \
    X(SCAN, "SELECT q.seq, q.at, q.size, q.fits, q.scanned FROM (SELECT c.seq, c.at, c.size, "     \
            "max(c.seq) OVER () AS last, count(*) OVER () AS scanned, " FAN__POSTGRES_PIECE_FITS   \
            " AS fits FROM " FAN__POSTGRES_PIECE ") q WHERE q.fits OR q.seq = q.last "             \
            "ORDER BY q.seq")                                                                      \
    X(SCAN_KEYS,                                                                                   \
      "SELECT q.seq, q.at, q.size, q.fits, q.scanned, q.key, q.nth > 1 OR EXISTS "                 \
      "(SELECT 1 FROM @delivery d WHERE d.grp = $1::bigint AND d.key = q.key "                     \
      "AND d.key IS NOT NULL AND d.status < 2) FROM (SELECT f.*, row_number() OVER "               \
      "(PARTITION BY f.fits, f.key ORDER BY f.seq) AS nth FROM (SELECT c.seq, c.at, c.size, "      \
      "max(c.seq) OVER () AS last, count(*) OVER () AS scanned, " FAN__POSTGRES_PIECE_FITS         \
      " AS fits, hashtextextended(s.topic, 0) AS key FROM " FAN__POSTGRES_PIECE ") f) q "          \
      "WHERE q.fits OR q.seq = q.last ORDER BY q.seq")                                             \
    X(DELIVERY_ADD,                                                                                \
      "INSERT INTO @delivery(seq, grp, status, attempts, token, owner, due_us, processed_us, "     \
      "key, part, parked) SELECT u.seq, $1::bigint, (u.due = 0)::int, (u.due = 0)::int, "          \
      "CASE WHEN u.due = 0 THEN $2::bigint ELSE 0 END, CASE WHEN u.due = 0 THEN $3::text END, "    \
      "CASE WHEN u.due = 0 THEN $5::bigint ELSE u.due END, "                                       \
      "CASE WHEN u.due = 0 THEN $4::bigint END, CASE WHEN $6::bigint <> 0 THEN u.key END, "        \
      "CASE WHEN $6::bigint <> 0 THEN u.key & 63 END, u.parked <> 0 "                              \
      "FROM unnest($7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[]) "                      \
      "AS u(seq, due, key, parked)")                                                               \
    X(EVENTS_OF,                                                                                   \
      "SELECT " FAN__POSTGRES_COLUMNS "FROM unnest($1::bigint[]) WITH ORDINALITY AS u(seq, i) "    \
      "JOIN @event e ON e.seq = u.seq ORDER BY u.i")

#define FAN__POSTGRES_STATEMENTS_SETTLE(X)                                                         \
    X(SETTLE,                                                                                      \
      "WITH item AS MATERIALIZED (SELECT DISTINCT ON (u.seq, u.token) u.* "                        \
      "FROM unnest($3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[], "           \
      "$8::bigint[]) WITH ORDINALITY AS u(seq, token, verdict, due, error, reason, i) "            \
      "ORDER BY u.seq, u.token, u.i) "                                                             \
      "UPDATE @delivery d SET status = CASE i.verdict WHEN 0 THEN 2 WHEN 2 THEN 3 ELSE 0 END, "    \
      "token = 0, owner = NULL, error = CASE i.verdict WHEN 3 THEN d.error ELSE i.error END, "     \
      "reason = CASE i.verdict WHEN 2 THEN i.reason ELSE 0 END, due_us = i.due, "                  \
      "attempts = d.attempts - (i.verdict = 3)::int, completed_us = CASE WHEN i.verdict IN "       \
      "(0, 2) THEN $2::bigint ELSE d.completed_us END FROM item i WHERE d.grp = $1::bigint "       \
      "AND d.seq = i.seq AND d.token = i.token AND d.status + 0 = 1 "                              \
      "RETURNING i.i, (d.key IS NOT NULL AND d.status >= 2)::int")                                 \
    X(RENEW, "WITH item AS MATERIALIZED (SELECT u.* FROM unnest($4::bigint[], $5::bigint[]) "      \
             "WITH ORDINALITY AS u(seq, token, i)), done AS (UPDATE @delivery d "                  \
             "SET due_us = $3::bigint FROM item i WHERE d.grp = $1::bigint AND d.seq = i.seq "     \
             "AND d.token = i.token AND d.status + 0 = 1 AND d.due_us > $2::bigint "               \
             "RETURNING d.seq, d.token) SELECT i.i FROM item i "                                   \
             "JOIN done d ON d.seq = i.seq AND d.token = i.token")                                 \
    X(UNPARK, "UPDATE @delivery d SET parked = false FROM (SELECT DISTINCT k.grp, k.key "          \
              "FROM @delivery k WHERE k.grp = $1::bigint AND k.seq = ANY($2::bigint[]) "           \
              "AND k.key IS NOT NULL AND k.status >= 2) n WHERE d.grp = $1::bigint "               \
              "AND d.parked AND d.seq = " FAN__POSTGRES_KEY_OLDEST)                                \
    X(DELIVERY_LOCK, "SELECT d.status, d.due_us FROM @delivery d "                                 \
                     "WHERE d.seq = $1::bigint AND d.grp = $2::bigint FOR UPDATE")                 \
    X(IS_WANTED, "SELECT 1 FROM @event e JOIN @series s ON s.id = e.series "                       \
                 "WHERE e.seq = $1::bigint AND " FAN__POSTGRES_FITS("$2::text", "$3::text"))       \
    X(DISCARD_EARLY, "INSERT INTO @delivery(seq, grp, status, attempts, token, due_us, "           \
                     "completed_us, early) VALUES($1::bigint, $2::bigint, 2, 0, 0, 0, "            \
                     "$3::bigint, true)")                                                          \
    X(REDRIVE, "UPDATE @delivery SET status = 0, attempts = 0, lapses = 0, reason = 0, "           \
               "due_us = $3::bigint, completed_us = NULL, parked = false "                         \
               "WHERE seq = $1::bigint AND grp = $2::bigint")                                      \
    X(DISCARD, "UPDATE @delivery SET status = 2, token = 0, owner = NULL, due_us = 0, "            \
               "reason = 0, parked = false, completed_us = $3::bigint "                            \
               "WHERE seq = $1::bigint AND grp = $2::bigint")

/*
 * Sums of deliveries and of what groups have not come to. Nothing is looked at event by event: it
 * may be millions. Where nothing but the beginning of the log is gone, as many events lie between
 * two sequences as they are apart. Of a filter, each series that it takes is counted by its index;
 * up to NEAR events are looked at instead, as there may be more series than that.
 */
#define FAN__POSTGRES_NEAR "10000"
#define FAN__POSTGRES_TAKES FAN__POSTGRES_FITS("g.regex", "g.topic")
#define FAN__POSTGRES_TAKEN                                                                        \
    "FROM @event e JOIN @series s ON s.id = e.series WHERE e.seq > g.cursor "                      \
    "AND " FAN__POSTGRES_TAKES
/* Whether some group takes the event e of the series s that has not come to it. */
#define FAN__POSTGRES_WANTED                                                                       \
    "EXISTS (SELECT 1 FROM @grp g WHERE g.cursor < e.seq AND " FAN__POSTGRES_TAKES ")"
#define FAN__POSTGRES_NOT_EARLY                                                                    \
    " AND NOT EXISTS (SELECT 1 FROM @delivery y WHERE y.grp = g.id AND y.seq = e.seq AND "         \
    "y.early) "
/* Rows that are not settled, but of groups that were dropped. */
#define FAN__POSTGRES_OPEN "d.status <> 2 AND d.grp NOT IN (SELECT r.grp FROM @dropped r)"
/* before: all up to there is gone. */
#define FAN__POSTGRES_WHOLE                                                                        \
    "whole AS MATERIALIZED (SELECT h.head, h.before, h.before = (SELECT value FROM @meta WHERE "   \
    "key = 'removed') AS is_whole FROM (SELECT " FAN__POSTGRES_HEAD                                \
    " AS head, coalesce((SELECT min(seq) FROM @event) - 1, " FAN__POSTGRES_HEAD                    \
    ") AS before) h), "
/* How many events there are with i.after < seq <= i.until. */
#define FAN__POSTGRES_SPAN                                                                         \
    "CASE WHEN w.is_whole THEN greatest(i.until, w.before) - greatest(i.after, w.before) ELSE "    \
    "(SELECT count(*) FROM @event e WHERE e.seq > i.after AND e.seq <= i.until) END"
/*
 * The lowest cursor, and that of who takes all. Past that one everything is owed (far), between the
 * two by series (taken).
 */
#define FAN__POSTGRES_SUMS_LOW                                                                     \
    "low AS MATERIALIZED (SELECT coalesce((SELECT min(g.cursor) FROM @grp g), w.head) AS seq, "    \
    "least((SELECT min(g.cursor) FROM @grp g WHERE g.regex IS NULL AND g.topic IS NULL), "         \
    "w.head) AS until FROM whole w), "
#define FAN__POSTGRES_SUMS_FAR                                                                     \
    "far AS (SELECT " FAN__POSTGRES_SPAN " AS n FROM whole w CROSS JOIN (SELECT l.until AS "       \
    "after, x.head AS until FROM low l CROSS JOIN whole x) i), taken AS (SELECT CASE WHEN "        \
    "l.until - l.seq <= " FAN__POSTGRES_NEAR " THEN (SELECT count(*) FROM @event e JOIN "          \
    "@series s ON s.id = e.series WHERE e.seq > l.seq AND e.seq <= l.until "                       \
    "AND " FAN__POSTGRES_WANTED                                                                    \
    ") ELSE (SELECT coalesce(sum((SELECT count(*) FROM @event e WHERE "                            \
    "e.series = b.id AND e.seq > b.cursor AND e.seq <= l.until)), 0)::bigint FROM (SELECT "        \
    "s.id, min(g.cursor) AS cursor FROM @grp g JOIN @series s ON " FAN__POSTGRES_TAKES             \
    " WHERE g.cursor < l.until GROUP BY s.id) b) END AS n FROM low l), "
/* Of these, those that have an open row, which says more, and those that were discarded early. */
#define FAN__POSTGRES_SUMS_TWICE                                                                   \
    "twice AS (SELECT count(*) AS n FROM low l CROSS JOIN LATERAL (SELECT DISTINCT d.seq FROM "    \
    "@delivery d WHERE " FAN__POSTGRES_OPEN " AND d.seq > l.seq) o WHERE o.seq > l.until OR "      \
    "(SELECT true FROM @event e JOIN @series s ON s.id = e.series WHERE e.seq = o.seq "            \
    "AND " FAN__POSTGRES_WANTED ")), "                                                             \
    "early AS (SELECT count(*) AS n FROM (SELECT DISTINCT d.seq FROM "                             \
    "@grp g JOIN @delivery d ON d.grp = g.id AND d.early AND d.seq > g.cursor) o JOIN @event e "   \
    "ON e.seq = o.seq JOIN @series s ON s.id = e.series CROSS JOIN " FAN__POSTGRES_STATE(          \
        "$1::bigint") " WHERE st.status = 2 AND " FAN__POSTGRES_WANTED "), "
#define FAN__POSTGRES_SUMS_ROWS                                                                    \
    "rows AS (SELECT count(*) AS n, count(*) FILTER (WHERE o.failed) AS failed, count(*) "         \
    "FILTER (WHERE o.held AND NOT o.failed) AS held FROM (SELECT bool_or(d.status = 3) AS "        \
    "failed, bool_or(d.status = 1 AND d.due_us > $1::bigint) AS held FROM @delivery d "            \
    "WHERE " FAN__POSTGRES_OPEN " GROUP BY d.seq) o) "
#define FAN__POSTGRES_GROUP_WAITS                                                                  \
    "waits AS (SELECT d.grp, count(*) FILTER (WHERE d.status = 0 OR (d.status = 1 AND d.due_us "   \
    "<= $1::bigint)) AS pending, count(*) FILTER (WHERE d.status = 1 AND d.due_us > "              \
    "$1::bigint) AS processing, count(*) FILTER (WHERE d.status = 3) AS failed, min(d.seq) "       \
    "FILTER (WHERE d.status < 2) AS first FROM @delivery d WHERE d.status <> 2 GROUP BY "          \
    "d.grp), done AS (SELECT t.grp, sum(t.completed)::bigint AS completed FROM @tally t GROUP "    \
    "BY t.grp), "
/* From one cursor to the next, so that nothing is counted twice. */
#define FAN__POSTGRES_GROUP_LAG                                                                    \
    "lag AS MATERIALIZED (SELECT i.after AS cursor, sum(" FAN__POSTGRES_SPAN                       \
    ") OVER (ORDER BY i.after DESC)::bigint AS n FROM whole w CROSS JOIN LATERAL (SELECT "         \
    "c.cursor AS after, lead(c.cursor, 1, w.head) OVER (ORDER BY c.cursor) AS until FROM "         \
    "(SELECT DISTINCT g.cursor FROM @grp g WHERE g.cursor < w.head) c) i) "
#define FAN__POSTGRES_GROUP_OWED                                                                   \
    "LATERAL (SELECT CASE WHEN l.n IS NULL THEN 0 WHEN k.takes_all THEN l.n WHEN k.far THEN "      \
    "(SELECT "                                                                                     \
    "coalesce(sum((SELECT count(*) FROM @event e WHERE e.series = s.id AND e.seq > g.cursor)), "   \
    "0)::bigint FROM @series s WHERE " FAN__POSTGRES_TAKES                                         \
    ") ELSE (SELECT count(*) " FAN__POSTGRES_TAKEN ") END - (SELECT count(*) " FAN__POSTGRES_TAKEN \
    " AND e.seq IN (SELECT "                                                                       \
    "y.seq FROM @delivery y WHERE y.grp = g.id AND y.early)) AS n) n "
/* When the first event that is owed was made. */
#define FAN__POSTGRES_GROUP_FIRST                                                                  \
    "(SELECT e.created_us FROM @event e WHERE e.seq = coalesce(w.first, CASE WHEN n.n = 0 THEN "   \
    "NULL WHEN k.far THEN (SELECT min((SELECT e.seq FROM @event e WHERE e.series = s.id AND "      \
    "e.seq > g.cursor" FAN__POSTGRES_NOT_EARLY                                                     \
    "ORDER BY e.seq LIMIT 1)) FROM @series s WHERE " FAN__POSTGRES_TAKES                           \
    ") ELSE (SELECT e.seq " FAN__POSTGRES_TAKEN FAN__POSTGRES_NOT_EARLY                            \
    "ORDER BY e.seq LIMIT 1) END))"

#define FAN__POSTGRES_STATEMENTS_LOOK(X)                                                           \
    X(GROUPS, "SELECT g.id, g.name, g.handler, g.pattern, g.topic, g.cursor FROM @grp g "          \
              "ORDER BY g.name, g.handler")                                                        \
    X(SUMS, "WITH " FAN__POSTGRES_WHOLE FAN__POSTGRES_SUMS_LOW FAN__POSTGRES_SUMS_FAR              \
                FAN__POSTGRES_SUMS_TWICE FAN__POSTGRES_SUMS_ROWS                                   \
            "SELECT f.n + k.n - t.n - e.n + r.n - r.failed - r.held, r.held, r.failed, (SELECT "   \
            "count(*) FROM @grp) FROM far f, taken k, twice t, early e, rows r")                   \
    X(GROUP_STATS,                                                                                 \
      "WITH " FAN__POSTGRES_WHOLE FAN__POSTGRES_GROUP_WAITS FAN__POSTGRES_GROUP_LAG                \
      "SELECT g.name, g.handler, coalesce(g.pattern, ''), g.cursor, coalesce(l.n, 0), "            \
      "coalesce(w.pending, 0) + n.n, coalesce(w.processing, 0), coalesce(c.completed, 0), "        \
      "coalesce(w.failed, 0), g.joined_us, coalesce(" FAN__POSTGRES_GROUP_FIRST                    \
      ", 0) FROM @grp g LEFT JOIN waits w ON w.grp = g.id LEFT JOIN done c ON c.grp = g.id LEFT "  \
      "JOIN lag l ON l.cursor = g.cursor CROSS JOIN LATERAL (SELECT x.takes_all, NOT x.takes_all " \
      "AND (SELECT w.head FROM whole w) - g.cursor > " FAN__POSTGRES_NEAR                          \
      " AS far FROM (SELECT g.regex IS NULL AND g.topic IS NULL AS takes_all) x) k CROSS "         \
      "JOIN " FAN__POSTGRES_GROUP_OWED "ORDER BY g.name, g.handler")                               \
    X(DELIVERIES, "SELECT " FAN__POSTGRES_DELIVERY "FROM @delivery d JOIN @grp g ON g.id = d.grp " \
                  "WHERE d.seq = $1::bigint ORDER BY g.name, g.handler")                           \
    X(DEAD, "SELECT " FAN__POSTGRES_DELIVERY "FROM @delivery d JOIN @grp g ON g.id = d.grp "       \
            "WHERE d.status <> 2 AND d.status = 3 AND d.seq >= $1::bigint "                        \
            "AND (d.seq, g.name, g.handler) > ($1::bigint, $2::text, $3::text) "                   \
            "ORDER BY d.seq, g.name, g.handler LIMIT 1000")

#define FAN__POSTGRES_STATEMENTS_KEEP(X)                                                           \
    X(MARK_UNTIL, "SELECT coalesce((SELECT m.seq FROM @mark m WHERE m.us <= $1::bigint "           \
                  "ORDER BY m.us DESC, m.seq DESC LIMIT 1), 0)")                                   \
    X(MARK_BYTES,                                                                                  \
      "WITH total AS (SELECT coalesce(l.bytes, 0) + (SELECT coalesce(sum(" FAN__POSTGRES_SIZE      \
      " + 160), 0) FROM @event e WHERE e.seq > coalesce(l.seq, 0)) AS bytes FROM (SELECT 1) one "  \
      "LEFT JOIN " FAN__POSTGRES_MARK_LAST " ON true), "                                           \
      "gone AS (SELECT t.bytes - $1::bigint AS bytes FROM total t WHERE t.bytes > $1::bigint), "   \
      "low AS (SELECT m.seq, m.bytes FROM @mark m WHERE m.bytes < (SELECT bytes FROM gone) "       \
      "ORDER BY m.bytes DESC, m.seq DESC LIMIT 1), "                                               \
      "high AS (SELECT m.seq, m.bytes FROM @mark m WHERE m.bytes >= (SELECT bytes FROM gone) "     \
      "ORDER BY m.bytes, m.seq LIMIT 1) "                                                          \
      "SELECT coalesce((SELECT seq FROM low), 0), coalesce((SELECT bytes FROM low), 0), "          \
      "coalesce((SELECT seq FROM high), " FAN__POSTGRES_HEAD "), "                                 \
      "coalesce((SELECT bytes FROM high), (SELECT bytes FROM total)), g.bytes FROM gone g")        \
    X(MARKS_TIDY,                                                                                  \
      "WITH thin AS (DELETE FROM @mark m WHERE m.seq < $1::bigint AND m.us / 3600000000 = "        \
      "(SELECT n.us / 3600000000 FROM @mark n WHERE n.seq > m.seq ORDER BY n.seq LIMIT 1)), "      \
      "early AS (DELETE FROM @mark m WHERE m.seq < coalesce((SELECT min(e.seq) FROM @event "       \
      "e), " FAN__POSTGRES_HEAD ") AND m.seq < (SELECT max(n.seq) FROM @mark n)) "                 \
      "SELECT " FAN__POSTGRES_HEAD " - (SELECT value FROM @meta WHERE key = 'removed')")           \
    X(EVENT_NTH, "SELECT coalesce((SELECT e.seq FROM @event e ORDER BY e.seq DESC "                \
                 "OFFSET $1::bigint LIMIT 1), 0)")                                                 \
    X(OPEN_FROM,                                                                                   \
      "SELECT d.seq, d.grp, d.status, d.due_us, coalesce(d.completed_us, "                         \
      "0), " FAN__POSTGRES_OWED_SINCE(                                                             \
          "d.seq", "coalesce(e.deliver_at, 0)",                                                    \
          "$5::bigint") " FROM @delivery d JOIN @grp g ON g.id = d.grp JOIN @event e ON e.seq = "  \
                        "d.seq "                                                                   \
                        "WHERE d.status <> 2 AND (d.seq, d.grp) > ($1::bigint, $2::bigint) "       \
                        "AND d.seq <= $3::bigint ORDER BY d.seq, d.grp LIMIT $4::bigint")          \
    X(GROUPS_LOCK, "SELECT 1 FROM @grp ORDER BY id FOR NO KEY UPDATE")                             \
    X(EXPIRE,                                                                                      \
      "WITH done AS (UPDATE @delivery d SET status = 3, token = 0, owner = NULL, reason = 4, "     \
      "lapses = d.lapses + (d.status = 1)::int, error = u.words, due_us = 0, parked = false, "     \
      "completed_us = $1::bigint FROM unnest($2::bigint[], $3::bigint[], $4::text[]) "             \
      "AS u(seq, grp, words) WHERE d.seq = u.seq AND d.grp = u.grp AND (d.status + 0 = 0 "         \
      "OR (d.status = 1 AND d.due_us <= $1::bigint)) RETURNING 1) SELECT count(*) FROM done")      \
    X(DISCARD_DEAD,                                                                                \
      "WITH done AS (UPDATE @delivery d SET status = 2, token = 0, owner = NULL, due_us = 0, "     \
      "reason = 0, parked = false, completed_us = $1::bigint "                                     \
      "FROM unnest($2::bigint[], $3::bigint[]) AS u(seq, grp) WHERE d.seq = u.seq "                \
      "AND d.grp = u.grp AND d.status + 0 = 3 RETURNING d.grp), "                                  \
      "counted AS (INSERT INTO @tally AS t (grp, slot, completed) SELECT d.grp, "                  \
      "pg_backend_pid() & 63, count(*) FROM done d GROUP BY d.grp ON CONFLICT(grp, slot) "         \
      "DO UPDATE SET completed = t.completed + excluded.completed) SELECT count(*) FROM done")     \
    X(UNPARK_ALL, "UPDATE @delivery d SET parked = false FROM (SELECT DISTINCT k.grp, k.key "      \
                  "FROM unnest($1::bigint[], $2::bigint[]) AS u(seq, grp) JOIN @delivery k "       \
                  "ON k.seq = u.seq AND k.grp = u.grp WHERE k.key IS NOT NULL "                    \
                  "AND k.status >= 2) n WHERE d.grp = n.grp AND d.parked "                         \
                  "AND d.seq = " FAN__POSTGRES_KEY_OLDEST)                                         \
    X(GROUP_BEHIND, FAN__POSTGRES_GROUP "WHERE g.id > $1::bigint AND g.cursor < $2::bigint "       \
                                        "ORDER BY g.id LIMIT 1 FOR NO KEY UPDATE")                 \
    X(SCAN_UNSEEN,                                                                                 \
      "SELECT q.seq, q.at, " FAN__POSTGRES_OWED_SINCE(                                             \
          "q.seq", "q.at",                                                                         \
          "$7::bigint") ", q.fits, q.key, q.nth > 1 OR EXISTS (SELECT 1 FROM @delivery d "         \
                        "WHERE d.grp = $1::bigint AND d.key = q.key AND d.key IS NOT NULL AND "    \
                        "d.status < 2) "                                                           \
                        "FROM (SELECT f.*, row_number() OVER (PARTITION BY f.fits, f.key ORDER "   \
                        "BY f.seq) AS nth "                                                        \
                        "FROM (SELECT c.seq, c.at, " FAN__POSTGRES_PIECE_FITS " AS fits, "         \
                        "hashtextextended(s.topic, 0) AS key FROM (SELECT e.seq, e.series, "       \
                        "coalesce(e.deliver_at, 0) AS at FROM @event e WHERE e.seq > $2::bigint "  \
                        "AND e.seq <= $6::bigint ORDER BY e.seq LIMIT $5::bigint) c "              \
                        "JOIN @series s ON s.id = c.series) f) q ORDER BY q.seq")                  \
    X(UNSEEN_ADD,                                                                                  \
      "INSERT INTO @delivery(seq, grp, status, attempts, token, due_us, completed_us, error, "     \
      "reason, key, part, parked) SELECT u.seq, $1::bigint, "                                      \
      "CASE WHEN u.words IS NULL THEN 0 ELSE 3 END, 0, 0, "                                        \
      "CASE WHEN u.words IS NULL THEN u.due ELSE 0 END, "                                          \
      "CASE WHEN u.words IS NULL THEN NULL ELSE $2::bigint END, u.words, "                         \
      "CASE WHEN u.words IS NULL THEN 0 ELSE 4 END, "                                              \
      "CASE WHEN $3::bigint <> 0 THEN u.key END, CASE WHEN $3::bigint <> 0 THEN u.key & 63 END, "  \
      "u.words IS NULL AND u.parked <> 0 AND $3::bigint <> 0 "                                     \
      "FROM unnest($4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::text[]) "           \
      "AS u(seq, due, key, parked, words)")                                                        \
    /* What died before the group was ordered has no key: the next ordered claim finds it. */      \
    X(GROUP_REORDER, "UPDATE @grp SET ordered = false WHERE id = $2::bigint AND ordered AND "      \
                     "EXISTS (SELECT 1 FROM @delivery d WHERE d.seq = $1::bigint "                 \
                     "AND d.grp = $2::bigint AND d.key IS NULL)")                                  \
    X(GROUP_MOVE, "UPDATE @grp SET cursor = $2::bigint WHERE id = $1::bigint")                     \
    X(EVENTS_REMOVE,                                                                               \
      "WITH piece AS MATERIALIZED (SELECT e.seq, e.series FROM @event e WHERE e.seq > $1::bigint " \
      "AND e.seq <= $2::bigint ORDER BY e.seq LIMIT $3::bigint), "                                 \
      "finished AS MATERIALIZED (SELECT p.seq FROM piece p JOIN @series s ON s.id = p.series "     \
      "WHERE NOT EXISTS (SELECT 1 FROM @delivery d JOIN @grp g ON g.id = d.grp "                   \
      "WHERE d.seq = p.seq AND d.status <> 2) AND NOT EXISTS (SELECT 1 FROM @grp g "               \
      "WHERE g.cursor < p.seq AND " FAN__POSTGRES_FITS(                                            \
          "g.regex", "g.topic") " AND NOT EXISTS (SELECT 1 FROM @delivery d WHERE d.seq = p.seq "  \
                                "AND d.grp = g.id))), "                                            \
                                "gone AS (DELETE FROM @event e USING finished f WHERE e.seq = "    \
                                "f.seq RETURNING e.seq) "                                          \
                                "SELECT (SELECT count(*) FROM piece), coalesce((SELECT "           \
                                "max(p.seq) FROM piece p), 0), "                                   \
                                "count(*), coalesce(max(g.seq), 0) FROM gone g")                   \
    X(TRIMMED, "UPDATE @meta SET value = greatest(value, $1::bigint) WHERE key = 'trimmed_seq'")   \
    X(GROUP_OLD,                                                                                   \
      "SELECT g.id, g.name, g.handler FROM @grp g "                                                \
      "WHERE ($1::bigint - g.joined_us) / 1000 > $2::bigint AND NOT EXISTS "                       \
      "(SELECT 1 FROM @delivery d WHERE d.grp = g.id AND d.status < 2 AND NOT d.parked "           \
      "AND d.due_us > $1::bigint AND d.status = 1) ORDER BY g.name, g.handler LIMIT 1 FOR UPDATE") \
    /* Those of the next $2 series after $1 that no event uses go. */                              \
    X(SERIES_FORGET,                                                                               \
      "WITH piece AS MATERIALIZED (SELECT s.id FROM @series s WHERE s.id > $1::bigint "            \
      "ORDER BY s.id LIMIT $2::bigint), gone AS (DELETE FROM @series s USING piece p "             \
      "WHERE s.id = p.id AND NOT EXISTS (SELECT 1 FROM @event e WHERE e.series = p.id) "           \
      "RETURNING 1) SELECT count(*), coalesce(max(p.id), 0), (SELECT count(*) FROM gone) "         \
      "FROM piece p")                                                                              \
    X(SERIES_SWEPT, "UPDATE @meta SET value = value + $1::bigint WHERE key = 'series_swept' "      \
                    "RETURNING value")                                                             \
    X(CLOCK_MOVE_DELIVERIES,                                                                       \
      "UPDATE @delivery SET due_us = CASE WHEN due_us <= $1::bigint "                              \
      "THEN least(due_us, $2::bigint) WHEN status = 1 OR attempts > 0 "                            \
      "THEN due_us + $2::bigint - $1::bigint ELSE due_us END WHERE status <> 2 AND status < 2")    \
    X(CLOCK_MOVE_DEAD, "UPDATE @delivery SET completed_us = completed_us + $2::bigint - "          \
                       "$1::bigint WHERE status <> 2 AND status = 3")                              \
    X(CLOCK_MOVE_LEASES, "UPDATE @lease SET until_us = CASE WHEN until_us <= $1::bigint "          \
                         "THEN least(until_us, $2::bigint) "                                       \
                         "ELSE until_us + $2::bigint - $1::bigint END")                            \
    X(CLOCK_MOVE_GROUPS, "UPDATE @grp SET joined_us = joined_us + $2::bigint - $1::bigint")        \
    X(CLOCK_MOVE_MARKS, "UPDATE @mark SET us = us + $2::bigint - $1::bigint")                      \
    X(CLOCK_MOVE, "UPDATE @clock SET generation = generation + 1, "                                \
                  "offset_us = offset_us + $2::bigint - $1::bigint, high_us = $2::bigint "         \
                  "WHERE id = 1")

/* Each gives findings: part, sequence, words. */
#define FAN__POSTGRES_STATEMENTS_VERIFY(X)                                                         \
    X(PATIENT, "SET LOCAL statement_timeout = 0")                                                  \
    X(VERIFY_META,                                                                                 \
      "SELECT 'meta', 0::bigint, n.name || ' is not there' FROM (VALUES ('epoch'), "               \
      "('head_floor'), "                                                                           \
      "('trimmed_seq'), ('removed'), ('fence'), ('series_swept')) n(name) "                        \
      "WHERE NOT EXISTS (SELECT 1 FROM @meta m WHERE m.key = n.name) "                             \
      "UNION ALL SELECT 'meta', 0, m.key || ' is ' || m.value FROM @meta m "                       \
      "WHERE m.value < 0 AND m.key <> 'epoch' OR m.value = 0 AND m.key = 'epoch' "                 \
      "UNION ALL SELECT 'meta', 0, 'trimmed up to ' || m.value || ', past the head' FROM @meta m " \
      "WHERE m.key = 'trimmed_seq' AND m.value > " FAN__POSTGRES_HEAD                              \
      " UNION ALL SELECT 'meta', 0, 'counts ' || x.told || ' events, and there are ' || x.there "  \
      "FROM (SELECT " FAN__POSTGRES_HEAD " - (SELECT value FROM @meta WHERE key = 'removed') "     \
      "AS told, (SELECT count(*) FROM @event) AS there) x WHERE x.told <> x.there")                \
    X(VERIFY_EVENTS, "SELECT " FAN__POSTGRES_COLUMNS "FROM @event e WHERE e.seq > $1::bigint "     \
                     "ORDER BY e.seq LIMIT 64")                                                    \
    X(VERIFY_DELIVERIES,                                                                           \
      "SELECT 'delivery', d.seq, 'is of an event that is not there' FROM @delivery d "             \
      "WHERE NOT EXISTS (SELECT 1 FROM @event e WHERE e.seq = d.seq) "                             \
      "UNION ALL SELECT 'delivery', d.seq, 'has the status ' || d.status || ' and ' || "           \
      "d.attempts "                                                                                \
      "|| ' attempts' FROM @delivery d WHERE d.status NOT BETWEEN 0 AND 3 OR d.attempts < 0 "      \
      "UNION ALL SELECT 'delivery', d.seq, 'is of the group ' || d.grp || ', which is not there' " \
      "FROM @delivery d WHERE NOT EXISTS (SELECT 1 FROM @grp g WHERE g.id = d.grp) "               \
      "AND NOT EXISTS (SELECT 1 FROM @dropped r WHERE r.grp = d.grp) "                             \
      "UNION ALL SELECT 'delivery', d.seq, 'waits behind no other of its key' FROM @delivery d "   \
      "WHERE d.parked AND d.status < 2 AND NOT EXISTS (SELECT 1 FROM @delivery o "                 \
      "WHERE o.grp = d.grp AND o.key = d.key AND o.key IS NOT NULL AND o.status < 2 "              \
      "AND o.seq < d.seq)")                                                                        \
    X(VERIFY_GROUPS,                                                                               \
      "SELECT 'group', 0::bigint, g.name || '/' || g.handler || ' counts ' || x.told || "          \
      "' completed deliveries, and there are ' || x.there FROM @grp g CROSS JOIN LATERAL "         \
      "(SELECT (SELECT coalesce(sum(t.completed), 0) FROM @tally t WHERE t.grp = g.id) AS told, "  \
      "(SELECT count(*) FROM @delivery d WHERE d.grp = g.id AND d.status = 2) AS there) x "        \
      "WHERE x.told <> x.there UNION ALL SELECT 'group', 0, g.name || '/' || g.handler || "        \
      "' has its cursor past the head' FROM @grp g WHERE g.cursor > " FAN__POSTGRES_HEAD)          \
    X(VERIFY_MARKS,                                                                                \
      "SELECT 'mark', x.seq, 'has less time or fewer bytes than the one before it' FROM "          \
      "(SELECT m.seq, m.us, m.bytes, lag(m.us) OVER w AS us_before, lag(m.bytes) OVER w "          \
      "AS bytes_before FROM @mark m WINDOW w AS (ORDER BY m.seq)) x "                              \
      "WHERE x.us < x.us_before OR x.bytes < x.bytes_before "                                      \
      "UNION ALL SELECT 'mark', m.seq, 'lies past the head' FROM @mark m "                         \
      "WHERE m.seq > " FAN__POSTGRES_HEAD)                                                         \
    X(VERIFY_STATES,                                                                               \
      "SELECT count(*) FILTER (WHERE st.status = 0), count(*) FILTER (WHERE st.status = 1), "      \
      "count(*) FILTER (WHERE st.status = 3) FROM @event e JOIN @series s ON s.id = e.series "     \
      "CROSS JOIN " FAN__POSTGRES_STATE("$1::bigint"))

#define FAN__POSTGRES_STATEMENTS_GROUP(X)                                                          \
    FAN__POSTGRES_STATEMENTS_CLAIM(X)                                                              \
    FAN__POSTGRES_STATEMENTS_SETTLE(X)                                                             \
    FAN__POSTGRES_STATEMENTS_LOOK(X)                                                               \
    FAN__POSTGRES_STATEMENTS_KEEP(X)                                                               \
    FAN__POSTGRES_STATEMENTS_VERIFY(X)

#endif
