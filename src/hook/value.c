/* One value: from JSON into a statement, and from a statement's row into JSON. */
#include "hook/records.h"

#include "base/env.h"
#include "base/status.h"

#include <math.h>
#include <string.h>

static enum fan_status refuse(const struct fan__column *column, const char *wanted,
                              struct fan_error *error)
{
    return fan__fail(error, FAN_INVALID, column->name, "must be %s, or null", wanted);
}

static int digit_of(char byte)
{
    if (byte >= '0' && byte <= '9')
        return byte - '0';
    if (byte >= 'a' && byte <= 'f')
        return byte - 'a' + 10;
    return byte >= 'A' && byte <= 'F' ? byte - 'A' + 10 : -1;
}

static enum fan_status bind_blob(sqlite3_stmt *statement, int index,
                                 const struct fan__column *column, const json_t *value,
                                 struct fan_error *error)
{
    const char *text = json_string_value(value);
    size_t size = text ? json_string_length(value) : 1;
    if (size % 2 != 0)
        return refuse(column, "a string of hexadecimal digits, two for a byte", error);
    /* SQLite's own memory, as it goes into its hands. */
    unsigned char *bytes = sqlite3_malloc64(size / 2 + 1);
    if (!bytes)
        return fan__fail(error, FAN_NO_MEMORY, "", "out of memory");
    for (size_t i = 0; i < size / 2; i++) {
        int high = digit_of(text[2 * i]);
        int low = digit_of(text[2 * i + 1]);
        if (high < 0 || low < 0) {
            sqlite3_free(bytes);
            return refuse(column, "a string of hexadecimal digits, two for a byte", error);
        }
        bytes[i] = (unsigned char)(high << 4 | low);
    }
    int code = sqlite3_bind_blob64(statement, index, bytes, size / 2, sqlite3_free);
    return code == SQLITE_OK
               ? FAN_OK
               : fan__fail(error, fan__sql_status(code), column->name, "%s", sqlite3_errstr(code));
}

/* Whether an integer is the same as a real. */
static bool is_exact(json_int_t number)
{
    const json_int_t limit = (json_int_t)1 << 53;
    return number >= -limit && number <= limit;
}

static enum fan_status check_kind(const struct fan__column *column, const json_t *value,
                                  struct fan_error *error)
{
    switch (column->kind) {
    case FAN__COLUMN_BOOLEAN:
        return json_is_boolean(value) ? FAN_OK : refuse(column, "true or false", error);
    case FAN__COLUMN_INTEGER:
        return json_is_integer(value) ? FAN_OK : refuse(column, "an integer", error);
    case FAN__COLUMN_REAL:
        return json_is_real(value) ||
                       (json_is_integer(value) && is_exact(json_integer_value(value)))
                   ? FAN_OK
                   : refuse(column, "a number that a double holds", error);
    case FAN__COLUMN_TEXT:
        return json_is_string(value) ? FAN_OK : refuse(column, "a string", error);
    case FAN__COLUMN_BLOB:
        return FAN_OK;
    case FAN__COLUMN_ANY:
        break;
    }
    return json_is_number(value) || json_is_string(value)
               ? FAN_OK
               : refuse(column, "a number or a string", error);
}

enum fan_status fan__value_bind(sqlite3_stmt *statement, int index,
                                const struct fan__column *column, const json_t *value,
                                struct fan_error *error)
{
    int code;
    enum fan_status status = json_is_null(value) ? FAN_OK : check_kind(column, value, error);
    if (status != FAN_OK)
        return status;
    if (json_is_null(value))
        code = sqlite3_bind_null(statement, index);
    else if (column->kind == FAN__COLUMN_BLOB)
        return bind_blob(statement, index, column, value, error);
    else if (json_is_string(value))
        code = sqlite3_bind_text64(statement, index, json_string_value(value),
                                   json_string_length(value), SQLITE_TRANSIENT, SQLITE_UTF8);
    else if (json_is_real(value))
        code = sqlite3_bind_double(statement, index, json_real_value(value));
    else if (json_is_boolean(value))
        code = sqlite3_bind_int(statement, index, json_is_true(value));
    else
        code = sqlite3_bind_int64(statement, index, json_integer_value(value));
    return code == SQLITE_OK
               ? FAN_OK
               : fan__fail(error, fan__sql_status(code), column->name, "%s", sqlite3_errstr(code));
}

static enum fan_status add_json(struct fan__buffer *buffer, json_t *value, size_t flags)
{
    if (!value)
        return FAN_NO_MEMORY;
    size_t size = json_dumpb(value, NULL, 0, flags | JSON_ENCODE_ANY);
    char *place = size > 0 ? fan__buffer_reserve(buffer, size) : NULL;
    if (place) {
        json_dumpb(value, place, size, flags | JSON_ENCODE_ANY);
        buffer->size += size;
    }
    json_decref(value);
    return place ? FAN_OK : FAN_NO_MEMORY;
}

/* The shortest text that is read back as the same number; what JSON cannot say is null. */
static enum fan_status add_real(struct fan__buffer *buffer, double number)
{
    if (!isfinite(number))
        return add_json(buffer, json_null(), 0);
    for (unsigned digits = 15;; digits++) {
        size_t before = buffer->size;
        enum fan_status status = add_json(buffer, json_real(number), JSON_REAL_PRECISION(digits));
        if (status != FAN_OK || digits == 17)
            return status;
        json_t *read = json_loadb(buffer->data + before, buffer->size - before,
                                  JSON_DECODE_ANY | JSON_DECODE_INT_AS_REAL, NULL);
        bool same = json_real_value(read) == number;
        json_decref(read);
        if (same)
            return FAN_OK;
        buffer->size = before;
    }
}

static enum fan_status add_blob(struct fan__buffer *buffer, const unsigned char *bytes, size_t size)
{
    static const char digits[] = "0123456789abcdef";
    char *at = size < SIZE_MAX / 4 ? fan__buffer_reserve(buffer, 2 * size + 2) : NULL;
    if (!at)
        return FAN_NO_MEMORY;
    *at++ = '"';
    for (size_t i = 0; i < size; i++) {
        *at++ = digits[bytes[i] >> 4];
        *at++ = digits[bytes[i] & 0xf];
    }
    *at = '"';
    buffer->size += 2 * size + 2;
    return FAN_OK;
}

static enum fan_status add_text(struct fan__buffer *buffer, sqlite3_stmt *statement, int index,
                                const struct fan__column *column, struct fan_error *error)
{
    const char *text = (const char *)sqlite3_column_text(statement, index);
    size_t size = (size_t)sqlite3_column_bytes(statement, index);
    if (!text)
        return FAN_NO_MEMORY;
    json_t *value = json_stringn(text, size);
    if (!value)
        return fan__fail(error, FAN_INVALID, column->name, "holds text that is not UTF-8");
    return add_json(buffer, value, 0);
}

static enum fan_status add_value(struct fan__buffer *buffer, sqlite3_stmt *statement, int index,
                                 const struct fan__column *column, struct fan_error *error)
{
    sqlite3_int64 number;
    switch (sqlite3_column_type(statement, index)) {
    case SQLITE_INTEGER:
        number = sqlite3_column_int64(statement, index);
        if (column->kind == FAN__COLUMN_BOOLEAN && (number == 0 || number == 1))
            return add_json(buffer, json_boolean(number), 0);
        return add_json(buffer, json_integer(number), 0);
    case SQLITE_FLOAT:
        return add_real(buffer, sqlite3_column_double(statement, index));
    case SQLITE_TEXT:
        return add_text(buffer, statement, index, column, error);
    case SQLITE_BLOB:
        return add_blob(buffer, sqlite3_column_blob(statement, index),
                        (size_t)sqlite3_column_bytes(statement, index));
    default:
        return add_json(buffer, json_null(), 0);
    }
}

enum fan_status fan__row_add(struct fan__buffer *buffer, sqlite3_stmt *statement,
                             const struct fan__records_table *table,
                             struct fan__row_place *ret_place, struct fan_error *error)
{
    enum fan_status status = FAN_OK;
    struct fan__row_place place = { .at = buffer->size };
    for (size_t i = 0; i < table->count && status == FAN_OK; i++) {
        fan__buffer_add_text(buffer, i == 0 ? "{" : ", ");
        status = add_json(buffer, json_string(table->columns[i].name), 0);
        fan__buffer_add_text(buffer, ": ");
        size_t at = buffer->size;
        if (status == FAN_OK)
            status = add_value(buffer, statement, (int)i, &table->columns[i], error);
        if (i == table->key) {
            place.id_at = at;
            place.id_size = buffer->size - at;
        }
    }
    fan__buffer_add_text(buffer, "}");
    if (buffer->failed || status == FAN_NO_MEMORY)
        return fan__fail(error, FAN_NO_MEMORY, "", "out of memory");
    place.size = buffer->size - place.at;
    *ret_place = place;
    return status;
}
