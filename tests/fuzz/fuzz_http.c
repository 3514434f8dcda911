/*
 * Heads and chunked bodies from arbitrary bytes: nothing is read or written outside, and what is
 * understood does not depend on how the bytes were split. The fields of JSON bodies: what is taken
 * is within its bounds, and what is not is refused by name.
 */
#include "server/field.h"
#include "server/http_inside.h"

#include "base/env.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define DATA_SIZE_MAX 4096

static void must(bool holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "not so: %s\n", what);
    abort();
}

struct decoded {
    char content[DATA_SIZE_MAX];
    size_t size;
    size_t taken;
    bool done;
    bool refused;
};

/* Feeds at most `step` bytes at a time. */
static void decode(const char *data, size_t size, size_t step, struct decoded *ret_decoded)
{
    struct fan__http_body body;
    struct decoded *decoded = ret_decoded;
    memset(decoded, 0, sizeof(*decoded));
    fan__http_body_init(&body, true, 0);
    while (decoded->taken < size && !fan__http_body_done(&body)) {
        struct fan__http_refusal refusal = { 0 };
        struct fan_str piece;
        size_t left = size - decoded->taken;
        size_t taken = fan__http_body_feed(&body, data + decoded->taken, left < step ? left : step,
                                           &piece, &refusal);
        decoded->taken += taken;
        if (refusal.status != 0) {
            decoded->refused = true;
            return;
        }
        must(taken > 0, "a body that is not done takes bytes");
        memcpy(decoded->content + decoded->size, piece.data, piece.size);
        decoded->size += piece.size;
    }
    decoded->done = fan__http_body_done(&body);
}

static void try_body(const char *data, size_t size)
{
    static struct decoded whole;
    static struct decoded split;
    decode(data, size, size, &whole);
    for (size_t step = 1; step < 8; step += 3) {
        decode(data, size, step, &split);
        must(whole.done == split.done && whole.refused == split.refused &&
                 whole.taken == split.taken && whole.size == split.size &&
                 memcmp(whole.content, split.content, whole.size) == 0,
             "a body is the same however it was split");
    }
}

static void try_request(const struct fan__http_request *request)
{
    const char *name;
    const char *value;
    for (size_t i = 0; fan__http_header_at(request, i, &name, &value); i++) {
        must(strlen(name) > 0 && !strpbrk(name, " \t\r\n:"), "a field's name is a token");
        must(!strpbrk(value, "\r\n"), "a field's value is one line");
        must(fan__http_header(request, name) != NULL, "a field is found by its name");
    }
    must(request->path[0] == '/' || strcmp(request->path, "*") == 0, "a path begins with a slash");
    must(!strpbrk(request->path, " ?#\r\n"), "a path ends at the query");
    must(!request->chunked || request->content_length == 0, "a body has one framing");
    must(request->minor == 0 || fan__http_header(request, "host"), "HTTP/1.1 has a Host");
}

static void try_head(const char *data, size_t size)
{
    static struct fan__http_server server = { .options.target_size_max = 1000 };
    static struct fan__http_loop loop = { .server = &server };
    size_t scanned = 0;
    struct fan__http_refusal refusal = { 0 };
    size_t whole = fan__http_head_find(data, size, &scanned, &refusal);
    size_t split = 0;
    struct fan__http_refusal split_refusal = { 0 };
    scanned = 0;
    for (size_t i = 1; i <= size && split == 0 && split_refusal.status == 0; i++)
        split = fan__http_head_find(data, i, &scanned, &split_refusal);
    must(whole == split && refusal.status == split_refusal.status,
         "a head ends at the same place however it was split");
    if (whole == 0)
        return;
    /* An exact copy, so that the sanitizer sees a byte too many. */
    char *copy = malloc(whole);
    must(copy != NULL, "memory");
    memcpy(copy, data, whole);
    struct fan__http_request *request = NULL;
    if (fan__http_head_parse(&loop, copy, whole, &request, &refusal) == FAN_OK) {
        loop.request_count++;
        try_request(request);
        fan__http_request_free(request);
    } else {
        must(refusal.status >= 400 && refusal.reason, "a refusal has its reason");
    }
    free(copy);
}

struct fields {
    const char *text;
    uint64_t number;
    uint64_t digits;
    bool flag;
    const json_t *items;
};

static const struct fan__field fields[] = {
    { "owner", FAN__FIELD_TEXT, true, offsetof(struct fields, text), 1, 8 },
    { "limit", FAN__FIELD_NUMBER, false, offsetof(struct fields, number), 2, 1000 },
    { "token", FAN__FIELD_DIGITS, false, offsetof(struct fields, digits), 3, UINT64_MAX },
    { "ordered", FAN__FIELD_FLAG, false, offsetof(struct fields, flag), 0, 0 },
    { "items", FAN__FIELD_ITEMS, false, offsetof(struct fields, items), 1, 4 },
    { NULL, FAN__FIELD_TEXT, false, 0, 0, 0 },
};

static void check_fields(const struct fields *read)
{
    must(read->text && strlen(read->text) >= 1 && strlen(read->text) <= 8, "a text has its size");
    must(read->number >= 2 && read->number <= 1000, "a number has its bounds");
    must(read->digits >= 3, "digits have their bounds");
}

static void try_fields(const char *data, size_t size)
{
    struct fields read = { .number = 2, .digits = 3 };
    struct fan_error error = FAN_ERROR_INIT;
    json_t *value = NULL;
    if (fan__fields_parse((struct fan_str){ data, size }, fields, &read, &value, &error) !=
        FAN_OK) {
        must(error.status == FAN_INVALID && error.message[0], "a refusal has its reason");
        must(error.field[0] || memchr(data, '"', size), "and its field, as far as it has a name");
        return;
    }
    check_fields(&read);
    for (size_t i = 0; i < json_array_size(read.items); i++) {
        struct fields inner = { .number = 2, .digits = 3 };
        if (fan__fields_item(read.items, i, fields, &inner, &error) == FAN_OK)
            check_fields(&inner);
        else
            must(strncmp(error.field, "items", 5) == 0, "an item's refusal names it");
    }
    json_decref(value);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > DATA_SIZE_MAX)
        return 0;
    try_head((const char *)data, size);
    try_body((const char *)data, size);
    try_fields((const char *)data, size);
    return 0;
}
