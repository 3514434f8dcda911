/*
 * Texts and names of statuses, from the one table in status.h, and the filling of struct fan_error.
 */
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#undef fan__fail

const char *fan_status_text(enum fan_status status)
{
    switch (status) {
#define FAN_STATUS_CASE(name, code, text)                                                          \
    case FAN_##name:                                                                               \
        return text;
        FAN_STATUS_TABLE(FAN_STATUS_CASE)
#undef FAN_STATUS_CASE
    }
    return "unknown status";
}

const char *fan_status_name(enum fan_status status)
{
    switch (status) {
#define FAN_STATUS_CASE(name, code, text)                                                          \
    case FAN_##name:                                                                               \
        return "FAN_" #name;
        FAN_STATUS_TABLE(FAN_STATUS_CASE)
#undef FAN_STATUS_CASE
    }
    return "FAN_?";
}

/* Copies with an end that is never in the middle of a UTF-8 character. */
static void copy_text(char *target, size_t size, const char *text)
{
    size_t length = strlen(text);
    if (length >= size) {
        length = size - 1;
        while (length > 0 && ((unsigned char)text[length] & 0xc0) == 0x80)
            length--;
    }
    memcpy(target, text, length);
    target[length] = '\0';
}

enum fan_status fan__fail(struct fan_error *error, enum fan_status status, const char *field,
                          const char *format, ...)
{
    if (!error)
        return status;
    char message[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof(message), format, arguments);
    va_end(arguments);
    error->status = status;
    copy_text(error->field, sizeof(error->field), field ? field : "");
    copy_text(error->message, sizeof(error->message), message);
    return status;
}
