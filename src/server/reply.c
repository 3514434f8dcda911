/* See reply.h. */
#include "server/reply.h"

#include "base/buffer.h"
#include "server/daemon.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

unsigned fan__reply_status(enum fan_status status)
{
    switch (status) {
    case FAN_OK:
        return 200;
    case FAN_INVALID:
        return 400;
    case FAN_NOT_FOUND:
        return 404;
    case FAN_CONFLICT:
    case FAN_EXISTS:
    case FAN_EXPIRED:
        return 409;
    case FAN_FULL: /* of a store that may not forget; a full queue is answered by who finds it */
    case FAN_NO_SPACE:
        return 507;
    default:
        return 503;
    }
}

void fan__reply_fault(struct fan__http_request *request, enum fan_status status,
                      const struct fan_error *error)
{
    unsigned code = fan__reply_status(status);
    if (code == 503)
        fan__http_add_retry_after(request);
    const char *field = error && error->field[0] ? error->field : NULL;
    const char *reason = error && error->message[0] ? error->message : fan_status_text(status);
    fan__http_problem(request, code, field, "%s", reason);
}

void fan__reply_busy(struct fan__http_request *request, const char *field, const char *reason)
{
    fan__http_add_retry_after(request);
    fan__http_problem(request, 503, field, "%s", reason);
}

void fan__reply_json(struct fan__http_request *request, unsigned status,
                     const struct fan__buffer *json)
{
    if (json->failed)
        fan__reply_busy(request, NULL, "out of memory");
    else
        fan__http_answer(request, status, "application/json", json->data, json->size);
}

void fan__reply_check_json(struct fan__http_request *request)
{
    const char *type = fan__http_header(request, "Content-Type");
    const char *encoding = fan__http_header(request, "Content-Encoding");
    if (!type || !fan__reply_media_type_is(type, "application/json"))
        fan__http_problem(request, 415, "Content-Type", "%s%s is not taken; send application/json",
                          type ? "" : "nothing", type ? type : "");
    else if (encoding && strcasecmp(encoding, "identity") != 0)
        fan__http_problem(request, 415, "Content-Encoding", "%s is not taken; send identity",
                          encoding);
}

static size_t trimmed(const char *text, size_t size, const char **ret_start)
{
    while (size > 0 && (text[0] == ' ' || text[0] == '\t')) {
        text++;
        size--;
    }
    while (size > 0 && (text[size - 1] == ' ' || text[size - 1] == '\t'))
        size--;
    *ret_start = text;
    return size;
}

bool fan__reply_media_type_is(const char *content_type, const char *media_type)
{
    const char *start;
    size_t size = trimmed(content_type, strcspn(content_type, ";"), &start);
    return size == strlen(media_type) && strncasecmp(start, media_type, size) == 0;
}

bool fan__reply_header_has(const struct fan__http_request *request, const char *name,
                           const char *item)
{
    const char *at = fan__http_header(request, name);
    while (at && *at) {
        size_t part = strcspn(at, ",");
        const char *start;
        size_t size = trimmed(at, strcspn(at, ",;"), &start);
        if (size == strlen(item) && strncasecmp(start, item, size) == 0)
            return true;
        at += part + (at[part] == ',');
    }
    return false;
}
