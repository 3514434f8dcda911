/*
 * Body framing by length and by chunks (RFC 9112, 6 and 7.1). http_parser as packaged is built
 * without its strict checks and takes any two bytes for a chunk's CRLF, which lets a proxy and this
 * server disagree on where a request ends; hence the chunks are read here, to the letter.
 */
#include "server/http_inside.h"

#define LINE_SIZE_MAX 256      /* of a chunk's size with its extensions */
#define TRAILERS_SIZE_MAX 4096 /* of all trailers, which are thrown away */

void fan__http_body_init(struct fan__http_body *body, bool chunked, uint64_t length)
{
    *body = (struct fan__http_body){ .chunked = chunked, .left = chunked ? 0 : length };
    if (chunked)
        body->framing = FAN__HTTP_SIZE_FIRST;
    else
        body->framing = length > 0 ? FAN__HTTP_DATA : FAN__HTTP_DONE;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool is_text(char c)
{
    return c == '\t' || ((unsigned char)c >= 0x20 && c != 0x7f);
}

/* A digit of a chunk's size. 15 digits are more than any body and never overflow. */
static const char *step_size(struct fan__http_body *body, char c)
{
    int digit = hex_value(c);
    if (digit >= 0) {
        if (body->left >> 56)
            return "has a chunk size that is too large";
        body->left = body->left << 4 | (unsigned)digit;
        body->framing = FAN__HTTP_SIZE;
        return NULL;
    }
    if (body->framing == FAN__HTTP_SIZE_FIRST)
        return "has a chunk without a size";
    if (c == '\r')
        body->framing = FAN__HTTP_SIZE_LF;
    else if (c == ';' || c == ' ' || c == '\t')
        body->framing = FAN__HTTP_EXTENSION;
    else
        return "has a chunk size that is not hexadecimal";
    return NULL;
}

/* Trailers are field lines: no folding, no bare line ends; their content is not looked at. */
static const char *step_trailer(struct fan__http_body *body, char c)
{
    if (body->framing == FAN__HTTP_TRAILER_FIRST && c == '\r')
        body->framing = FAN__HTTP_LAST_LF;
    else if (body->framing == FAN__HTTP_TRAILER_FIRST && (c == ' ' || c == '\t' || c == ':'))
        return "has a trailer without a name";
    else if (c == '\r')
        body->framing = FAN__HTTP_TRAILER_LF;
    else if (is_text(c))
        body->framing = FAN__HTTP_TRAILER;
    else
        return "has a control character in a trailer";
    return NULL;
}

/* One byte of framing. Gives what is wrong, or NULL. */
static const char *step(struct fan__http_body *body, char c)
{
    switch ((enum fan__http_framing)body->framing) {
    case FAN__HTTP_SIZE_FIRST:
    case FAN__HTTP_SIZE:
        return step_size(body, c);
    case FAN__HTTP_EXTENSION:
        if (c == '\r')
            body->framing = FAN__HTTP_SIZE_LF;
        else if (!is_text(c))
            return "has a control character in a chunk extension";
        return NULL;
    case FAN__HTTP_SIZE_LF:
        if (c != '\n')
            return "has a chunk size that does not end in CRLF";
        body->framing = body->left > 0 ? FAN__HTTP_DATA : FAN__HTTP_TRAILER_FIRST;
        body->line_size = 0;
        return NULL;
    case FAN__HTTP_DATA_CR:
        if (c != '\r')
            return "has a chunk that is longer than its size";
        body->framing = FAN__HTTP_DATA_LF;
        return NULL;
    case FAN__HTTP_DATA_LF:
        if (c != '\n')
            return "has a chunk that does not end in CRLF";
        body->framing = FAN__HTTP_SIZE_FIRST;
        body->line_size = 0;
        return NULL;
    case FAN__HTTP_TRAILER_FIRST:
    case FAN__HTTP_TRAILER:
        return step_trailer(body, c);
    case FAN__HTTP_TRAILER_LF:
    case FAN__HTTP_LAST_LF:
        if (c != '\n')
            return "has a trailer that does not end in CRLF";
        body->framing =
            body->framing == FAN__HTTP_LAST_LF ? FAN__HTTP_DONE : FAN__HTTP_TRAILER_FIRST;
        return NULL;
    case FAN__HTTP_DATA:
    case FAN__HTTP_DONE:
        break;
    }
    return NULL;
}

static bool in_trailers(const struct fan__http_body *body)
{
    return body->framing >= FAN__HTTP_TRAILER_FIRST && body->framing < FAN__HTTP_DONE;
}

size_t fan__http_body_feed(struct fan__http_body *body, const char *data, size_t size,
                           struct fan_str *ret_piece, struct fan__http_refusal *refusal)
{
    *ret_piece = (struct fan_str){ data, 0 };
    size_t at = 0;
    while (at < size && body->framing != FAN__HTTP_DATA && body->framing != FAN__HTTP_DONE) {
        const char *wrong = step(body, data[at]);
        if (!wrong && ++body->line_size > (in_trailers(body) ? TRAILERS_SIZE_MAX : LINE_SIZE_MAX))
            wrong = "has a chunk line or trailers that are too long";
        if (wrong) {
            *refusal = (struct fan__http_refusal){ 400, "body", wrong };
            return at;
        }
        at++;
    }
    if (body->framing == FAN__HTTP_DATA && at < size) {
        size_t piece = size - at;
        if (piece > body->left)
            piece = (size_t)body->left;
        *ret_piece = (struct fan_str){ data + at, piece };
        at += piece;
        body->left -= piece;
        if (body->left == 0)
            body->framing = body->chunked ? FAN__HTTP_DATA_CR : FAN__HTTP_DONE;
    }
    return at;
}
