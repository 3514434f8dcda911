/*
 * The PostgreSQL provider: one log in a schema of a database, for processes on many machines.
 *
 * URI: `postgres://USER:PASSWORD@HOST:PORT/DATABASE`, as libpq reads it, with `?schema=fanfare`,
 * `table=` (of the events; others are called TABLE_meta and so on), `channel=` (of NOTIFY),
 * `timeout_ms=4000` (how long a call waits for the server), `open_ms=` (the same for open, where it
 * is to be longer), `poll_ms=1000` (how soon appends are seen whose notice was lost), and libpq's
 * own `sslmode`, `sslrootcert`, `sslcert`, `sslkey`, `host`, `target_session_attrs`.
 */
#ifndef FAN_STORE_POSTGRES_POSTGRES_H
#define FAN_STORE_POSTGRES_POSTGRES_H

#include <fanfare/provider.h>

extern const struct fan_provider fan__postgres_provider;

#endif
