/*
 * What the command line reads of strangers. The first byte chooses: an event stream, which must
 * give the same frames whole and in pieces; or an event's JSON, which must be refused, or be one
 * object with an id and a source, and nothing of it lost.
 */
#include "cli/prepare.h"
#include "cli/slice.h"
#include "cli/sse.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds)
{
    if (!holds)
        abort();
}

static bool note(void *context, const struct fan__sse_frame *frame)
{
    struct fan__text *seen = context;
    must(frame->data.data[frame->data.size] == '\n');
    fan__text_add_format(seen, "%s|%s|%zu|", frame->event, frame->id, frame->data.size);
    fan__text_add(seen, frame->data.data, frame->data.size);
    return true;
}

static void read_stream(const char *bytes, size_t size, size_t piece, struct fan__text *seen)
{
    struct fan__sse sse;
    fan__sse_init(&sse, note, seen);
    for (size_t at = 0; at < size; at += piece)
        must(fan__sse_feed(&sse, bytes + at, size - at < piece ? size - at : piece) ==
             FAN__SSE_MORE);
    fan__text_add_format(seen, "%s|%lld", sse.last_id.data, (long long)sse.retry_ms);
    fan__sse_deinit(&sse);
}

static void try_stream(const char *bytes, size_t size)
{
    struct fan__text whole = { NULL, 0, 0 };
    struct fan__text pieces = { NULL, 0, 0 };
    read_stream(bytes, size, size + 1, &whole);
    for (size_t piece = 1; piece < 8; piece++) {
        fan__text_clear(&pieces);
        read_stream(bytes, size, piece, &pieces);
        must(pieces.size == whole.size && memcmp(pieces.data, whole.data, whole.size) == 0);
    }
    fan__text_deinit(&whole);
    fan__text_deinit(&pieces);
}

/* All that is not null stands in the prepared object as it was given. */
static void compare(json_t *given, json_t *prepared)
{
    const char *key;
    json_t *value;
    json_object_foreach(given, key, value)
    {
        bool made = json_is_null(value) && (strcmp(key, "id") == 0 || strcmp(key, "source") == 0);
        must(made || json_equal(value, json_object_get(prepared, key)));
    }
}

static void try_event(const char *bytes, size_t size)
{
    struct fan__text text = { NULL, 0, 0 };
    char reason[256] = "";
    bool own = false;
    struct fan_str line = { bytes, size };
    size_t flags = JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL;
    if (!fan__prepare(&text, line, &own, reason)) {
        must(text.size == 0 && strlen(reason) > 0);
        return;
    }
    json_t *given = json_loadb(bytes, size, flags, NULL);
    json_t *prepared = json_loadb(text.data, text.size, flags, NULL);
    must(json_is_object(given) && json_is_object(prepared));
    must(json_object_get(prepared, "id") && json_object_get(prepared, "source"));
    compare(given, prepared);
    struct fan__slice slice = fan__slice_open((struct fan_str){ text.data, text.size });
    struct fan_str key;
    struct fan_str value;
    size_t count = 0;
    for (; fan__slice_next(&slice, &key, &value); count++) {
        json_t *member = json_loadb(value.data, value.size, flags | JSON_DECODE_ANY, NULL);
        must(member != NULL);
        json_decref(member);
    }
    must(count == json_object_size(prepared));
    json_decref(given);
    json_decref(prepared);
    fan__text_deinit(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    if (data[0] == 's')
        try_stream((const char *)data + 1, size - 1);
    else
        try_event((const char *)data + 1, size - 1);
    return 0;
}
