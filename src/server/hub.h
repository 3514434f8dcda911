/*
 * The hub of a loop: one reader of everything, from which all live streams of the loop are fed.
 * Each event is encoded at most once, and only when a stream wants it.
 *
 *     bus -> reader -> hub (a cursor) -> index -> streams that are live
 *                        |                          ^ join at the hub's place
 *     log -> page -------+-------- page -> streams that catch up
 *
 * Nothing reads the log on the loop: the hub's reader tells a lap as a gap, and the hub fills it
 * with pages, as streams do. Everything up to cursor.seq was given to the streams that were live;
 * a stream that has seen the log up to there joins them, and misses nothing (L7).
 *
 * Bounds: FAN__HUB_PAGES reads of the log at once, each about 1 MiB (R05).
 */
#ifndef FAN_SERVER_HUB_H
#define FAN_SERVER_HUB_H

#include "base/buffer.h"
#include "base/thread.h"
#include "broker/cursor.h"
#include "server/claim.h"
#include "server/index.h"
#include "server/job.h"
#include "server/publish.h"

#include <fanfare/reader.h>

struct fan_batch;
struct fan__stream;

#define FAN__HUB_PAGES 4

/* One read of the log, under way or done. The filter is copied: its stream may go meanwhile. */
struct fan__page {
    struct fan__job job;
    struct fan__hub *hub;
    struct fan__stream *stream; /* NULL when it went, or for the hub's own */
    bool busy;
    uint64_t after_seq;
    struct fan_query query;
    char topic[FAN_TEXT_SIZE_MAX + 1];
    char pattern[FAN_TEXT_SIZE_MAX + 1];
    struct fan_batch *batch;
    struct fan_read_result result;
    enum fan_status status;
};

/* All sums but streams and live. */
struct fan__hub_counters {
    uint64_t streams;
    uint64_t live;
    uint64_t opened;
    uint64_t delivered; /* events to streams */
    uint64_t encoded;   /* frames of events made */
    uint64_t fallbacks; /* from live back to the log */
    uint64_t pages;
    uint64_t gaps;
};

struct fan__hub {
    struct fan__daemon *daemon;
    struct fan__http_loop *loop;
    struct fan__hub *next; /* of the daemon's */
    struct fan__desk desk;
    struct fan__turns questions; /* that read much */
    struct fan__turns chores;    /* that keep work going, and must not wait behind those */
    struct fan__claims claims;
    struct fan_reader *reader;
    struct fan__cursor cursor;
    uv_poll_t poll;
    uv_timer_t tick;
    bool watching;
    bool closing;
    unsigned held; /* handles and pages that libuv still has */
    struct fan__index index;
    struct fan__stream *streams;
    struct fan__stream *queue; /* wait for a page */
    struct fan__stream **queue_end;
    struct fan__page pages[FAN__HUB_PAGES];
    struct fan__page own;
    struct fan__buffer scratch;
    struct fan__hub_counters counters;

    /* Under the mutex: what other threads see. */
    struct fan__mutex mutex;
    struct fan__hub_counters published;
};

/* On the loop's thread, before it serves and after it has. Returns: FAN_NO_MEMORY, faults. */
FAN_MUST_CHECK enum fan_status fan__hub_open(struct fan__daemon *daemon,
                                             struct fan__http_loop *loop, struct fan__hub **ret_hub,
                                             struct fan_error *ret_error);
void fan__hub_close(struct fan__hub *hub);

struct fan__desk *fan__hub_desk(struct fan__hub *hub);

/* Starts pages for the streams that wait, as far as there are free ones. */
void fan__hub_read(struct fan__hub *hub);

/* A stream's counters changed. */
void fan__hub_publish(struct fan__hub *hub);

#endif
