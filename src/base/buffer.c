/* Growth by doubling; every failure is remembered until the next clear. */
#include "base/buffer.h"

#include "base/env.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void fan__buffer_init(struct fan__buffer *buffer, const struct fan_env *env)
{
    *buffer = (struct fan__buffer){ .env = env };
}

void fan__buffer_deinit(struct fan__buffer *buffer)
{
    fan__free(buffer->env, buffer->data);
    *buffer = (struct fan__buffer){ .env = buffer->env };
}

void fan__buffer_clear(struct fan__buffer *buffer)
{
    buffer->size = 0;
    buffer->failed = false;
}

void *fan__buffer_reserve(struct fan__buffer *buffer, size_t size)
{
    if (size > buffer->capacity - buffer->size) {
        size_t wanted;
        if (__builtin_add_overflow(buffer->size, size, &wanted))
            goto fail;
        size_t capacity = buffer->capacity ? buffer->capacity : 256;
        while (capacity < wanted) {
            if (capacity > SIZE_MAX / 2)
                goto fail;
            capacity *= 2;
        }
        char *data = fan__resize(buffer->env, buffer->data, capacity);
        if (!data)
            goto fail;
        buffer->data = data;
        buffer->capacity = capacity;
    }
    return buffer->data + buffer->size;

fail:
    buffer->failed = true;
    return NULL;
}

void fan__buffer_add(struct fan__buffer *buffer, const void *bytes, size_t size)
{
    if (size == 0 || !fan__buffer_reserve(buffer, size))
        return;
    memcpy(buffer->data + buffer->size, bytes, size);
    buffer->size += size;
}

void fan__buffer_add_text(struct fan__buffer *buffer, const char *text)
{
    fan__buffer_add(buffer, text, strlen(text));
}

void fan__buffer_add_format(struct fan__buffer *buffer, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (length < 0 || !fan__buffer_reserve(buffer, (size_t)length + 1)) {
        buffer->failed = true;
        return;
    }
    va_start(arguments, format);
    vsnprintf(buffer->data + buffer->size, (size_t)length + 1, format, arguments);
    va_end(arguments);
    buffer->size += (size_t)length;
}

char *fan__buffer_take(struct fan__buffer *buffer, size_t *ret_size)
{
    if (buffer->failed || !fan__buffer_reserve(buffer, 1))
        return NULL;
    char *data = buffer->data;
    data[buffer->size] = '\0';
    if (ret_size)
        *ret_size = buffer->size;
    *buffer = (struct fan__buffer){ .env = buffer->env };
    return data;
}
