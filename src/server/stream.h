/*
 * GET /v1/stream: one client and its place in the log.
 *
 *     QUEUED -> READING -+-> LIVE --buffer full--> FULL --drained--> QUEUED
 *        ^               +-> FULL
 *        +---------------+-> PAUSED (the log failed) --a moment later--> QUEUED        all -> gone
 *
 * The invariant: everything up to cursor.seq was sent, told as lost, or did not match. What a
 * client does not take in time is not kept for it: it is read from the log again once there is
 * room, so a slow client costs a bounded buffer and others nothing.
 */
#ifndef FAN_SERVER_STREAM_H
#define FAN_SERVER_STREAM_H

#include "server/hub.h"

struct fan__http_chunk;

enum fan__stream_state {
    FAN__STREAM_QUEUED,
    FAN__STREAM_READING,
    FAN__STREAM_FULL,
    FAN__STREAM_PAUSED,
    FAN__STREAM_LIVE,
    FAN__STREAM_STATES,
};

struct fan__stream {
    struct fan__http_request *request;
    struct fan__hub *hub;
    struct fan__index_entry entry;
    struct fan__stream *previous; /* of all */
    struct fan__stream *next;
    struct fan__stream *queue_next;
    struct fan__page *page; /* while READING */
    struct fan__cursor cursor;
    enum fan__stream_state state;
    bool placed;   /* cursor.seq is a place of this log */
    bool gap_owed; /* the gap in the cursor found no room yet */
    size_t limit;  /* of the next page */
    uint64_t sent_ms;
    char *topic;
    char *pattern;
};

/* The route's function. */
void fan__stream_handle(struct fan__http_request *request);

/* A page of the log is there for it. */
void fan__stream_take_page(struct fan__stream *stream, struct fan__page *page);

/* Sends a live stream the next of the hub; NULL when there was no memory to encode it. */
void fan__stream_give(struct fan__stream *stream, uint64_t seq, struct fan__http_chunk *chunk);

/* The hub lost events up to `before`: a live stream reads on by itself after `after_seq`. */
void fan__stream_leave(struct fan__stream *stream, uint64_t after_seq);

/* Once a second: a comment when it was idle, another try when it was paused. */
void fan__stream_tick(struct fan__stream *stream, uint64_t now_ms);

#endif
