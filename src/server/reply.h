/* How routes say what went wrong, and read what a request asks. */
#ifndef FAN_SERVER_REPLY_H
#define FAN_SERVER_REPLY_H

#include "server/http.h"

#include <fanfare/cursor.h>

struct fan__buffer;

/* The status of HTTP for one of ours. */
unsigned fan__reply_status(enum fan_status status);

/*
 * Answers with a problem for a failure, and ends the request. With 503 goes a Retry-After of one to
 * four seconds, so that those who were refused do not come back together.
 */
void fan__reply_fault(struct fan__http_request *request, enum fan_status status,
                      const struct fan_error *error);

/* Answers 503 with Retry-After, and ends the request. */
void fan__reply_busy(struct fan__http_request *request, const char *field, const char *reason);

/* Answers with JSON that was gathered in a buffer, or with 503 when its memory failed. */
void fan__reply_json(struct fan__http_request *request, unsigned status,
                     const struct fan__buffer *json);

/* A route's check: answers 415 for a body that does not say it is JSON as it is. */
void fan__reply_check_json(struct fan__http_request *request);

/* Whether a comma-separated header field has an item, parameters aside. */
bool fan__reply_header_has(const struct fan__http_request *request, const char *name,
                           const char *item);

/* Compares a Content-Type's media type, whatever its case and parameters. */
bool fan__reply_media_type_is(const char *content_type, const char *media_type);

#endif
