/* Growth by doubling; the end of memory is the end of the program. */
#include "cli/text.h"

#include "cli/say.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void end_without_memory(void)
{
    fputs("fanfare: out of memory\n", stderr);
    exit(1);
}

void *fan__cli_resize(void *pointer, size_t count, size_t size)
{
    void *resized = reallocarray(pointer, count, size);
    if (!resized)
        end_without_memory();
    return resized;
}

void fan__text_deinit(struct fan__text *text)
{
    free(text->data);
    *text = (struct fan__text){ NULL, 0, 0 };
}

void fan__text_clear(struct fan__text *text)
{
    text->size = 0;
    if (text->data)
        text->data[0] = '\0';
}

char *fan__text_reserve(struct fan__text *text, size_t size)
{
    if (size >= text->capacity - text->size) {
        if (size > SIZE_MAX / 4 || text->size > SIZE_MAX / 4)
            end_without_memory();
        size_t capacity = text->capacity ? text->capacity : 256;
        while (capacity <= text->size + size)
            capacity *= 2;
        text->data = fan__cli_resize(text->data, capacity, 1);
        text->capacity = capacity;
    }
    return text->data + text->size;
}

void fan__text_add(struct fan__text *text, const void *bytes, size_t size)
{
    char *place = fan__text_reserve(text, size);
    if (size > 0)
        memcpy(place, bytes, size);
    place[size] = '\0';
    text->size += size;
}

void fan__text_add_text(struct fan__text *text, const char *words)
{
    fan__text_add(text, words, strlen(words));
}

void fan__text_add_format(struct fan__text *text, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (size < 0)
        end_without_memory();
    char *place = fan__text_reserve(text, (size_t)size);
    va_start(arguments, format);
    vsnprintf(place, (size_t)size + 1, format, arguments);
    va_end(arguments);
    text->size += (size_t)size;
}

bool fan__text_add_json(struct fan__text *text, const char *words)
{
    json_t *value = json_string(words);
    if (!value)
        return false;
    size_t size = json_dumpb(value, NULL, 0, JSON_ENCODE_ANY);
    if (size > 0) {
        char *place = fan__text_reserve(text, size);
        json_dumpb(value, place, size, JSON_ENCODE_ANY);
        place[size] = '\0';
        text->size += size;
    }
    json_decref(value);
    return size > 0;
}

bool fan__text_add_member(struct fan__text *text, const char *name, const char *value)
{
    if (!value)
        return true;
    fan__text_add_format(text, "%s\"%s\":", text->size > 1 ? "," : "", name);
    if (fan__text_add_json(text, value))
        return true;
    fan__say("the %s '%s' is no UTF-8", name, value);
    return false;
}

void fan__text_add_one_line(struct fan__text *text, struct fan_str json)
{
    size_t at = text->size;
    fan__text_add(text, json.data, json.size);
    for (; at < text->size; at++)
        if (text->data[at] == '\n')
            text->data[at] = ' ';
}

void fan__text_add_shown(struct fan__text *text, struct fan_str words)
{
    char *place = fan__text_reserve(text, words.size);
    for (size_t i = 0; i < words.size; i++) {
        unsigned char byte = (unsigned char)words.data[i];
        bool control = byte < 0x20 || byte == 0x7f;
        /* U+0080 to U+009F are control characters too, of two bytes. */
        if (byte == 0xc2 && i + 1 < words.size && (unsigned char)words.data[i + 1] < 0xa0) {
            control = true;
            i++;
        }
        *place++ = (char)(control ? '?' : byte);
    }
    *place = '\0';
    text->size = (size_t)(place - text->data);
}

void fan__text_add_escaped(struct fan__text *text, const char *words)
{
    static const char plain[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~";
    for (; *words; words++) {
        if (strchr(plain, *words))
            fan__text_add(text, words, 1);
        else
            fan__text_add_format(text, "%%%02X", (unsigned)(unsigned char)*words);
    }
}

void fan__text_add_query(struct fan__text *text, const char *name, const char *value)
{
    if (!value)
        return;
    bool first = !text->data || !strchr(text->data, '?');
    fan__text_add_format(text, "%c%s=", first ? '?' : '&', name);
    fan__text_add_escaped(text, value);
}
