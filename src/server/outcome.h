/*
 * How the events of one request ended, gathered in the order in which they came, as JSON:
 *
 *     {"stored": 1, "duplicates": 0, "refused": 1, "results": [{"line": 1, "id": ...}, ...]}
 *
 * or, for those who accept NDJSON, a line for each and the totals last. Results past
 * FAN__OUTCOME_SIZE_MAX bytes are counted as `unlisted` instead.
 */
#ifndef FAN_SERVER_OUTCOME_H
#define FAN_SERVER_OUTCOME_H

#include "base/buffer.h"

#include <fanfare/cursor.h>

struct fan__http_request;

#define FAN__OUTCOME_SIZE_MAX ((size_t)32 << 20)

struct fan__outcome {
    struct fan__buffer results;
    uint64_t stored;
    uint64_t duplicates;
    uint64_t refused;
    uint64_t unlisted;
    bool as_lines;
    bool minimal; /* refused ones alone are listed */
};

/* What the request's header fields Accept and Prefer ask for. */
void fan__outcome_init(struct fan__outcome *outcome, const struct fan_env *env,
                       const struct fan__http_request *request);
void fan__outcome_deinit(struct fan__outcome *outcome);

struct fan__accepted {
    const char *id;
    struct fan_cursor cursor;
    bool duplicate;
};

/* `"id": ..., "seq": ..., "cursor": ...` and the end of the object. */
void fan__outcome_write(struct fan__buffer *json, const struct fan__accepted *accepted);

void fan__outcome_accept(struct fan__outcome *outcome, uint64_t number,
                         const struct fan__accepted *accepted);

/* http_status is what the event alone would have been answered with: 503 asks to send it again. */
void fan__outcome_refuse(struct fan__outcome *outcome, uint64_t number, unsigned http_status,
                         const char *field, const char *reason);

/* Answers, and ends the request. */
void fan__outcome_answer(struct fan__outcome *outcome, struct fan__http_request *request);

#endif
