/*
 * From the bytes of a head to a request. A head is looked at twice: its lines are checked here, to
 * the letter, and its meaning (method, framing, keep-alive) is http_parser's, which forgives far
 * too much: bare line feeds, folded lines, a space before the colon, `GET / HXXX/1.1`, two spaces.
 * What two programs read differently is how requests are smuggled, so all of that is refused.
 */
#include "server/http_inside.h"

#include "base/env.h"

#include <arpa/inet.h>
#include <http_parser.h>
#include <string.h>
#include <strings.h>

#define FIELD_COUNT_MAX 128

struct place {
    uint16_t at;
    uint16_t size;
};

struct head {
    const char *data;
    size_t size;
    struct place method;
    struct place target;
    struct place path;
    struct place query;
    bool has_query;
    struct place names[FIELD_COUNT_MAX];
    struct place values[FIELD_COUNT_MAX];
    size_t field_count;
    bool complete;
    bool keep_alive;
    uint8_t minor;
};

const char *fan__http_status_text(unsigned status)
{
    return http_status_str((enum http_status)status);
}

static bool refuse(struct fan__http_refusal *refusal, unsigned status, const char *field,
                   const char *reason)
{
    *refusal = (struct fan__http_refusal){ status, field, reason };
    return false;
}

size_t fan__http_head_find(const char *data, size_t size, size_t *scanned,
                           struct fan__http_refusal *refusal)
{
    for (size_t line = *scanned; line < size;) {
        const char *end = memchr(data + line, '\n', size - line);
        if (!end)
            break;
        size_t at = (size_t)(end - data);
        if (at == line || data[at - 1] != '\r') {
            refuse(refusal, 400, NULL, "a line of the head does not end in CRLF");
            return 0;
        }
        /* One empty line before a request is allowed (RFC 9112, 2.2), a second one is not. */
        if (at == line + 1 && line == 2) {
            refuse(refusal, 400, NULL, "the request begins with empty lines");
            return 0;
        }
        if (at == line + 1 && line > 0)
            return at + 1;
        line = at + 1;
        *scanned = line;
    }
    return 0;
}

/* RFC 9110, 5.6.2. */
static bool is_token(const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)text[i];
        bool alphanumeric =
            (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        if (!alphanumeric && (c == '\0' || !strchr("!#$%&'*+-.^_`|~", c)))
            return false;
    }
    return size > 0;
}

static struct place place(const struct head *head, const char *at, size_t size)
{
    return (struct place){ (uint16_t)(at - head->data), (uint16_t)size };
}

/* method SP target SP HTTP/1.x, each space a single one. */
static bool take_request_line(struct head *head, const char *line, size_t size,
                              struct fan__http_refusal *refusal)
{
    const char *end = line + size;
    const char *space = memchr(line, ' ', size);
    if (!space || !is_token(line, (size_t)(space - line)))
        return refuse(refusal, 400, NULL, "the request line does not begin with a method");
    head->method = place(head, line, (size_t)(space - line));

    const char *target = space + 1;
    const char *at = target;
    while (at < end && (unsigned char)*at > 0x20 && (unsigned char)*at < 0x7f && *at != '#')
        at++;
    if (at == target || at == end || *at != ' ')
        return refuse(refusal, 400, NULL,
                      "the request target is empty or has a character that must be escaped");
    head->target = place(head, target, (size_t)(at - target));

    const char *version = at + 1;
    if (end - version != 8 || memcmp(version, "HTTP/", 5) != 0 || version[6] != '.' ||
        version[5] < '0' || version[5] > '9' || version[7] < '0' || version[7] > '9')
        return refuse(refusal, 400, NULL, "the request line does not end in a version");
    if (version[5] != '1')
        return refuse(refusal, 505, NULL, "only HTTP/1.0 and HTTP/1.1 are spoken here");
    head->minor = version[7] > '0' ? 1 : 0;
    return true;
}

static bool take_field_line(struct head *head, const char *line, size_t size,
                            struct fan__http_refusal *refusal)
{
    if (line[0] == ' ' || line[0] == '\t')
        return refuse(refusal, 400, NULL, "a header field is folded over lines");
    const char *colon = memchr(line, ':', size);
    if (!colon || !is_token(line, (size_t)(colon - line)))
        return refuse(refusal, 400, NULL, "a header field has no proper name before its colon");
    const char *value = colon + 1;
    const char *end = line + size;
    for (const char *at = value; at < end; at++) {
        unsigned char c = (unsigned char)*at;
        if ((c < 0x20 && c != '\t') || c == 0x7f)
            return refuse(refusal, 400, NULL, "a header field has a control character");
    }
    while (value < end && (*value == ' ' || *value == '\t'))
        value++;
    while (value < end && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    if (head->field_count == FIELD_COUNT_MAX)
        return refuse(refusal, 431, NULL, "the head has more than 128 fields");
    head->names[head->field_count] = place(head, line, (size_t)(colon - line));
    head->values[head->field_count++] = place(head, value, (size_t)(end - value));
    return true;
}

/* Every line ends in CRLF, and the head in an empty one: fan__http_head_find has seen to that. */
static bool take_lines(struct head *head, struct fan__http_refusal *refusal)
{
    size_t at = memcmp(head->data, "\r\n", 2) == 0 ? 2 : 0;
    for (bool first = true;; first = false) {
        const char *line = head->data + at;
        const char *end = memchr(line, '\n', head->size - at);
        size_t size = (size_t)(end - line) - 1;
        if (size == 0)
            return true;
        if (first ? !take_request_line(head, line, size, refusal)
                  : !take_field_line(head, line, size, refusal))
            return false;
        at += size + 2;
    }
}

static int on_complete(http_parser *parser)
{
    struct head *head = parser->data;
    head->complete = true;
    head->keep_alive = http_should_keep_alive(parser) != 0;
    /* The body is not for this parser. */
    return 1;
}

static bool run_parser(struct head *head, struct fan__http_refusal *refusal)
{
    http_parser_settings settings;
    http_parser_settings_init(&settings);
    settings.on_headers_complete = on_complete;
    http_parser parser = { .data = head };
    http_parser_init(&parser, HTTP_REQUEST);
    size_t parsed = http_parser_execute(&parser, &settings, head->data, head->size);
    enum http_errno wrong = HTTP_PARSER_ERRNO(&parser);
    if (wrong == HPE_INVALID_METHOD)
        return refuse(refusal, 501, NULL, "the method is not known");
    if (wrong != HPE_OK)
        return refuse(refusal, 400, NULL, http_errno_description(wrong));
    if (parsed != head->size || !head->complete)
        return refuse(refusal, 400, NULL, "the head is not that of one request");
    return true;
}

static bool is_named(const struct head *head, size_t index, const char *name)
{
    struct place at = head->names[index];
    return strlen(name) == at.size && strncasecmp(head->data + at.at, name, at.size) == 0;
}

static bool has_value(const struct head *head, size_t index, const char *value)
{
    struct place at = head->values[index];
    return strlen(value) == at.size && strncasecmp(head->data + at.at, value, at.size) == 0;
}

/* The number of fields of a name; *ret_index is the last one. */
static size_t count_fields(const struct head *head, const char *name, size_t *ret_index)
{
    size_t count = 0;
    for (size_t i = 0; i < head->field_count; i++) {
        if (is_named(head, i, name)) {
            *ret_index = i;
            count++;
        }
    }
    return count;
}

static bool check_length(const struct head *head, size_t index, uint64_t *ret_length,
                         struct fan__http_refusal *refusal)
{
    struct place at = head->values[index];
    uint64_t length = 0;
    for (size_t i = 0; i < at.size; i++) {
        char c = head->data[at.at + i];
        if (c < '0' || c > '9')
            return refuse(refusal, 400, "Content-Length", "is not a number");
        length = length * 10 + (unsigned)(c - '0');
    }
    /* 18 digits are more than any body and never overflow. */
    if (at.size == 0 || at.size > 18)
        return refuse(refusal, 400, "Content-Length", "is not a number of 1 to 18 digits");
    *ret_length = length;
    return true;
}

/* What can mean one thing alone, and would be read differently by whoever takes the other one. */
static bool check_single(const struct head *head, struct fan__http_refusal *refusal)
{
    static const char *const names[] = { "Host", "Content-Length", "Transfer-Encoding",
                                         "Content-Type", "Last-Event-ID" };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        size_t index = 0;
        if (count_fields(head, names[i], &index) > 1)
            return refuse(refusal, 400, names[i], "comes more than once");
    }
    return true;
}

/* How the body is framed; whatever could be read in two ways is refused (RFC 9112, 6.3). */
static bool check_framing(const struct head *head, bool *ret_chunked, uint64_t *ret_length,
                          struct fan__http_refusal *refusal)
{
    size_t length_at = 0;
    size_t coding_at = 0;
    size_t lengths = count_fields(head, "Content-Length", &length_at);
    size_t codings = count_fields(head, "Transfer-Encoding", &coding_at);
    if (lengths > 0 && codings > 0)
        return refuse(refusal, 400, "Transfer-Encoding", "comes together with Content-Length");
    if (codings > 0 && head->minor == 0)
        return refuse(refusal, 400, "Transfer-Encoding", "comes in HTTP/1.0");
    if (codings > 0 && !has_value(head, coding_at, "chunked"))
        return refuse(refusal, 501, "Transfer-Encoding", "is not `chunked` alone");
    *ret_chunked = codings > 0;
    return lengths == 0 || check_length(head, length_at, ret_length, refusal);
}

/* "localhost", 127.0.0.0/8 or [::1], with or without a port. */
static bool names_loopback(const char *host, size_t size)
{
    if (size >= 5 && memcmp(host, "[::1]", 5) == 0)
        return size == 5 || host[5] == ':';
    const char *colon = memchr(host, ':', size);
    size_t length = colon ? (size_t)(colon - host) : size;
    if (length == 9 && strncasecmp(host, "localhost", 9) == 0)
        return true;
    char text[16] = "";
    struct in_addr address;
    if (length >= sizeof(text))
        return false;
    memcpy(text, host, length);
    return inet_pton(AF_INET, text, &address) == 1 && ntohl(address.s_addr) >> 24 == 127;
}

/*
 * A server for loopback alone answers to loopback's names alone: else a page of a stranger, whose
 * own name is made to lead here, could read and write it through a browser (DNS rebinding).
 */
static bool check_host(const struct head *head, bool loopback_only,
                       struct fan__http_refusal *refusal)
{
    size_t index = 0;
    size_t hosts = count_fields(head, "Host", &index);
    if (hosts == 0)
        return head->minor == 0 || refuse(refusal, 400, "Host", "is missing");
    struct place at = head->values[index];
    for (size_t i = 0; i < at.size; i++) {
        unsigned char c = (unsigned char)head->data[at.at + i];
        if (c <= 0x20 || c >= 0x7f || strchr("/?#@\\,\"<>{}|^`", c))
            return refuse(refusal, 400, "Host", "is not a host name with an optional port");
    }
    if (loopback_only && !names_loopback(head->data + at.at, at.size))
        return refuse(refusal, 421, "Host", "is not localhost, 127.0.0.1 or [::1]");
    return true;
}

/* Splits the target into path and query: origin form, or absolute form, whose host is not used. */
static bool split_target(struct head *head, struct fan__http_refusal *refusal)
{
    const char *target = head->data + head->target.at;
    size_t size = head->target.size;
    const char *path = target;
    if (target[0] != '/' && !(size == 1 && target[0] == '*')) {
        struct http_parser_url url;
        http_parser_url_init(&url);
        if (http_parser_parse_url(target, size, 0, &url) != 0 || !(url.field_set & 1 << UF_HOST) ||
            strncasecmp(target, "http", 4) != 0)
            return refuse(refusal, 400, NULL, "the request target is neither a path nor a URL");
        if (!(url.field_set & 1 << UF_PATH))
            return refuse(refusal, 400, NULL, "the request target has no path");
        path = target + url.field_data[UF_PATH].off;
    }
    size_t left = size - (size_t)(path - target);
    const char *mark = memchr(path, '?', left);
    head->has_query = mark != NULL;
    head->path = place(head, path, mark ? (size_t)(mark - path) : left);
    if (mark)
        head->query = place(head, mark + 1, left - head->path.size - 1);
    return true;
}

static char *cut(char *text, struct place at)
{
    text[at.at + at.size] = '\0';
    return text + at.at;
}

/* One block: the request, its tables, a copy of the head that is cut up into strings. */
static struct fan__http_request *build(struct fan__http_loop *loop, const struct head *head)
{
    size_t parameters = head->has_query ? 1 : 0;
    for (size_t i = 0; i < head->query.size; i++)
        parameters += head->data[head->query.at + i] == '&';
    size_t tables = (head->field_count + parameters) * sizeof(struct fan__http_field);
    const struct fan_env *env = loop->server->options.env;
    struct fan__http_request *request =
        fan__alloc(env, sizeof(*request) + tables + head->size + head->path.size + 1U);
    if (!request)
        return NULL;
    *request = (struct fan__http_request){ .loop = loop };
    request->fields = (struct fan__http_field *)(request + 1);
    request->field_count = head->field_count;
    request->parameters = request->fields + head->field_count;
    request->parameter_count_max = parameters;
    char *text = (char *)(request->parameters + parameters);
    memcpy(text, head->data, head->size);
    request->segment_space = text + head->size;
    for (size_t i = 0; i < head->field_count; i++) {
        request->fields[i].name = cut(text, head->names[i]);
        request->fields[i].value = cut(text, head->values[i]);
    }
    request->method = cut(text, head->method);
    request->path = cut(text, head->path);
    request->query = head->has_query ? cut(text, head->query) : NULL;
    fan__buffer_init(&request->body, env);
    fan__buffer_init(&request->extra, env);
    return request;
}

static void read_expectation(const struct head *head, struct fan__http_request *request)
{
    size_t index = 0;
    size_t count = count_fields(head, "Expect", &index);
    /* A client of HTTP/1.0 cannot mean it (RFC 9110, 10.1.1). */
    if (count == 0 || head->minor == 0)
        return;
    if (count == 1 && has_value(head, index, "100-continue"))
        request->expects_continue = true;
    else
        request->expects_other = true;
}

enum fan_status fan__http_head_parse(struct fan__http_loop *loop, const char *data, size_t size,
                                     struct fan__http_request **ret_request,
                                     struct fan__http_refusal *refusal)
{
    struct head head;
    head.data = data;
    head.size = size;
    head.field_count = 0;
    head.method = head.target = head.query = (struct place){ 0 };
    head.complete = false;
    head.minor = 1;
    bool chunked = false;
    uint64_t length = 0;
    bool right = take_lines(&head, refusal);
    if (right && head.target.size > loop->server->options.target_size_max)
        right = refuse(refusal, 414, NULL, "the request target is too long");
    right = right && check_single(&head, refusal) &&
            check_host(&head, loop->server->options.loopback_only, refusal) &&
            check_framing(&head, &chunked, &length, refusal) && run_parser(&head, refusal);
    if (right && head.method.size == 7 && memcmp(data + head.method.at, "CONNECT", 7) == 0)
        right = refuse(refusal, 501, NULL, "CONNECT is for proxies");
    if (!right || !split_target(&head, refusal))
        return FAN_INVALID;

    struct fan__http_request *request = build(loop, &head);
    if (!request)
        return FAN_NO_MEMORY;
    request->minor = head.minor;
    request->keep_alive = head.keep_alive;
    request->is_head = strcmp(request->method, "HEAD") == 0;
    request->chunked = chunked;
    request->content_length = length;
    request->has_body = chunked || length > 0;
    read_expectation(&head, request);
    *ret_request = request;
    return FAN_OK;
}
