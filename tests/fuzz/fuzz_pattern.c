/*
 * A pattern and a type, split at the first line end, against a reference that is plainly right; and
 * the same bytes as the text of a cursor, a time and a UUID, which must come back as they were.
 */
#include <fanfare/cursor.h>
#include <fanfare/event.h>
#include <fanfare/pattern.h>

#include "event/text.h"
#include "event/uuid.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds)
{
    if (!holds)
        abort();
}

struct segments {
    char text[256];
    const char *all[130];
    size_t count;
};

static void split(const char *text, struct segments *ret_segments)
{
    strcpy(ret_segments->text, text);
    ret_segments->count = 0;
    char *at = ret_segments->text;
    while (at) {
        char *dot = strchr(at, '.');
        if (dot)
            *dot++ = '\0';
        ret_segments->all[ret_segments->count++] = at;
        at = dot;
    }
}

static bool matches(const struct segments *pattern, size_t p, const struct segments *type, size_t t)
{
    if (p == pattern->count)
        return t == type->count;
    if (t == type->count)
        return false;
    if (strcmp(pattern->all[p], ">") == 0)
        return true;
    if (strcmp(pattern->all[p], "*") != 0 && strcmp(pattern->all[p], type->all[t]) != 0)
        return false;
    return matches(pattern, p + 1, type, t + 1);
}

static void try_pattern(const char *pattern, const char *type)
{
    bool pattern_legal = fan_pattern_check(pattern, NULL) == FAN_OK;
    bool type_legal = fan__type_check(type, "type", NULL) == FAN_OK;
    /* A legal type is a pattern that matches itself. */
    if (type_legal)
        must(fan_pattern_check(type, NULL) == FAN_OK && fan_pattern_match(type, type));
    if (!pattern_legal || !type_legal)
        return;
    struct segments pattern_segments;
    struct segments type_segments;
    split(pattern, &pattern_segments);
    split(type, &type_segments);
    bool expected = strcmp(pattern, "*") == 0 || matches(&pattern_segments, 0, &type_segments, 0);
    must(fan_pattern_match(pattern, type) == expected);
}

static void try_texts(const char *text)
{
    struct fan_cursor cursor;
    struct fan_cursor again;
    char cursor_text[FAN_CURSOR_TEXT_SIZE];
    if (fan_cursor_parse(text, &cursor, NULL) == FAN_OK) {
        fan_cursor_format(&cursor, cursor_text);
        must(fan_cursor_parse(cursor_text, &again, NULL) == FAN_OK);
        must(cursor.seq == again.seq && cursor.epoch == again.epoch);
    }
    int64_t time_us;
    int64_t time_again;
    char time_text[FAN__TIME_TEXT_SIZE];
    if (fan__time_parse(text, strlen(text), &time_us)) {
        fan__time_format(time_us, time_text);
        must(fan__time_parse(time_text, strlen(time_text), &time_again) && time_us == time_again);
    }
    unsigned char uuid[FAN__UUID_SIZE];
    char uuid_text[FAN__UUID_TEXT_SIZE];
    if (fan__uuid_parse(text, uuid)) {
        fan__uuid_format(uuid, uuid_text);
        must(strcmp(uuid_text, text) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);
    must(text != NULL);
    memcpy(text, data, size);
    text[size] = '\0';
    try_texts(text);
    char *type = strchr(text, '\n');
    if (type) {
        *type++ = '\0';
        try_pattern(text, type);
    }
    free(text);
    return 0;
}
