/*
 * The daemon: a broker with HTTP before it.
 *
 *     open -> start -> (serving) -> stop -> free
 *
 *     main.c       signals, what is said on standard output
 *     settings.c   flags, --help, the configuration and what of it changed
 *     notify.c     what is told to systemd
 *     daemon.c     the order of starting and stopping; the table of routes
 *     publish.c    POST /v1/events: one request and its events on their way
 *     intake.c     the events of a body: lines, an array, one
 *     outcome.c    how events ended, as JSON
 *     query.c      GET /v1/events and GET /v1/events/{id}
 *     dead.c       /v1/dead: dead letters
 *     group.c      /v1/groups: consumer groups, settling and renewing
 *     claim.c      POST /v1/groups/{group}/claim: who waits for events to work on
 *     stream.c     GET /v1/stream: one client, live or catching up
 *     hub.c        one reader a loop, and the live clients that it feeds
 *     index.c      which clients want an event
 *     sse.c        frames
 *     health.c     /healthz, /readyz, /v1/stats
 *     metrics.c    /metrics; accept.c, in which format
 *     ask.c        a request that the store answers
 *     job.c        what blocks, on libuv's threads, and in whose turn
 *     field.c      what a client gives, checked by name
 *     delivery.c   deliveries as JSON
 *     reply.c      faults as problems
 *
 * What must not wait (a loop) and what waits (the store) meet in two ways alone: publishes are
 * answered by call-back from the writer's thread, and reads are jobs.
 */
#ifndef FAN_SERVER_DAEMON_H
#define FAN_SERVER_DAEMON_H

#include "base/number.h"
#include "base/thread.h"
#include "server/http.h"

#include <fanfare/broker.h>
#include <fanfare/store.h>

struct fan__hub;

/* Events in one JSON body, a line of NDJSON: room for the largest event, however it is written. */
#define FAN__BODY_SIZE_MAX ((size_t)4 << 20)

/*
 * listen         "HOST:PORT"; loopback alone, until there is access control
 * store          the log's URI
 * loop_count     0 for one a core
 * connection_count_max  0 for 10,000
 * keep_alive_ms  a stream that is idle for so long is sent a comment; 0 for 15,000
 * broker         how the broker is opened, but for env; NULL for its defaults
 */
struct fan__daemon_options {
    const struct fan_env *env;
    const char *listen;
    const char *store;
    unsigned loop_count;
    size_t connection_count_max;
    uint32_t keep_alive_ms;
    const struct fan_broker_options *broker;
};

/* What may change while it runs; as of the options. */
struct fan__daemon_changes {
    size_t connection_count_max;
    uint32_t keep_alive_ms;
};

struct fan__daemon {
    const struct fan_env *env;
    struct fan__daemon_options options;
    struct fan__number keep_alive_ms;
    struct fan_broker *broker;
    struct fan_prometheus *prometheus;
    struct fan_store *store;
    uint64_t epoch;
    struct fan_event_defaults defaults; /* of events that come by HTTP */
    struct fan__http_options http_options;
    struct fan__http_server *http;
    int64_t started_ns;

    /*
     * Under the mutex: the hubs of the loops that run; how many events were accepted, then refused
     * by the log when nobody was left to be told.
     */
    struct fan__mutex mutex;
    struct fan__hub *hubs;
    uint64_t unwritten;
};

/*
 * Opens the log and makes the server. Options' strings are borrowed until free.
 *
 * Returns: as fan_broker_open; FAN_INVALID for a bad option.
 * Memory:  *ret_daemon is yours, for fan__daemon_free.
 */
FAN_MUST_CHECK enum fan_status fan__daemon_open(const struct fan__daemon_options *options,
                                                struct fan__daemon **ret_daemon,
                                                struct fan_error *ret_error);

/* Starts the broker, then listens. Returns: as fan__http_server_start. */
FAN_MUST_CHECK enum fan_status fan__daemon_start(struct fan__daemon *daemon,
                                                 struct fan_error *ret_error);

/* Takes the changes at once, for what is there and what comes. */
void fan__daemon_change(struct fan__daemon *daemon, const struct fan__daemon_changes *changes);

/*
 * Stops: no more connections, streams end within a second, requests in flight are finished, then
 * the broker drains.
 *
 * Returns: FAN_TIMED_OUT when accepted events could not be written and nobody could be told.
 */
enum fan_status fan__daemon_stop(struct fan__daemon *daemon, uint32_t timeout_ms);

/* Stops if need be and frees. Accepts NULL. */
void fan__daemon_free(struct fan__daemon *daemon);

/* "127.0.0.1:8080", from start to free. */
const char *fan__daemon_address(const struct fan__daemon *daemon);

#endif
