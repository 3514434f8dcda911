/* Parameters and values in PostgreSQL's binary format: integers are big-endian, bytes are bytes. */
#include "store/postgres/store.h"

#include <assert.h>
#include <endian.h>
#include <limits.h>
#include <string.h>

/* An array's head: dimensions, whether there are NULLs, type, count, first index. */
#define HEAD_SIZE 20
#define COUNT_AT 12

static void add(struct fan__postgres_params *params, const char *value, size_t size)
{
    assert(params->count < FAN__POSTGRES_PARAM_MAX);
    params->values[params->count] = value;
    params->lengths[params->count] = size > INT_MAX ? INT_MAX : (int)size;
    params->formats[params->count] = 1;
    params->count++;
}

void fan__postgres_add_int(struct fan__postgres_params *params, int64_t number)
{
    uint64_t big = htobe64((uint64_t)number);
    char *at = params->numbers[params->count];
    memcpy(at, &big, sizeof(big));
    add(params, at, sizeof(big));
}

void fan__postgres_add_null(struct fan__postgres_params *params)
{
    add(params, NULL, 0);
}

void fan__postgres_add_text(struct fan__postgres_params *params, const char *text)
{
    add(params, text, text ? strlen(text) : 0);
}

void fan__postgres_add_bytes(struct fan__postgres_params *params, const void *data, size_t size)
{
    add(params, data ? data : "", size);
}

static void put32(struct fan__buffer *buffer, uint32_t number)
{
    uint32_t big = htobe32(number);
    fan__buffer_add(buffer, &big, sizeof(big));
}

void fan__postgres_array_init(struct fan__postgres_array *array, const struct fan_env *env,
                              enum fan__postgres_type type)
{
    fan__buffer_init(&array->buffer, env);
    array->count = 0;
    put32(&array->buffer, 1);
    put32(&array->buffer, 1);
    put32(&array->buffer, type);
    put32(&array->buffer, 0);
    put32(&array->buffer, 1);
}

void fan__postgres_array_deinit(struct fan__postgres_array *array)
{
    fan__buffer_deinit(&array->buffer);
}

void fan__postgres_array_int(struct fan__postgres_array *array, int64_t number)
{
    uint64_t big = htobe64((uint64_t)number);
    fan__postgres_array_bytes(array, &big, sizeof(big));
}

void fan__postgres_array_bytes(struct fan__postgres_array *array, const void *data, size_t size)
{
    array->count++;
    put32(&array->buffer, (uint32_t)size);
    if (size > 0)
        fan__buffer_add(&array->buffer, data, size);
}

void fan__postgres_array_text(struct fan__postgres_array *array, const char *text)
{
    if (text) {
        fan__postgres_array_bytes(array, text, strlen(text));
        return;
    }
    array->count++;
    put32(&array->buffer, UINT32_MAX);
}

void fan__postgres_add_array(struct fan__postgres_params *params, struct fan__postgres_array *array)
{
    uint32_t big = htobe32(array->count);
    if (array->buffer.size >= HEAD_SIZE)
        memcpy(array->buffer.data + COUNT_AT, &big, sizeof(big));
    add(params, array->buffer.data, array->buffer.size);
}

int64_t fan__postgres_int(const PGresult *result, int row, int column)
{
    const char *value = PQgetvalue(result, row, column);
    switch (PQgetlength(result, row, column)) {
    case 1:
        return (signed char)value[0];
    case 2: {
        uint16_t big;
        memcpy(&big, value, sizeof(big));
        return (int16_t)be16toh(big);
    }
    case 4: {
        uint32_t big;
        memcpy(&big, value, sizeof(big));
        return (int32_t)be32toh(big);
    }
    case 8: {
        uint64_t big;
        memcpy(&big, value, sizeof(big));
        return (int64_t)be64toh(big);
    }
    default:
        return 0;
    }
}

const char *fan__postgres_text(const PGresult *result, int row, int column)
{
    return PQgetvalue(result, row, column);
}

const char *fan__postgres_text_or_null(const PGresult *result, int row, int column)
{
    return PQgetisnull(result, row, column) ? NULL : PQgetvalue(result, row, column);
}

struct fan_str fan__postgres_bytes(const PGresult *result, int row, int column)
{
    return (struct fan_str){ PQgetvalue(result, row, column),
                             (size_t)PQgetlength(result, row, column) };
}
