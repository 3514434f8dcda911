/* See accept.h. */
#include "server/accept.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <strings.h>

#define SPACE " \t"
#define WEIGHT_ONE 1000u

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* "0.75" in thousandths; what is no weight is none. */
static unsigned read_weight(const char *text)
{
    if (*text != '0' && *text != '1')
        return 0;
    unsigned weight = *text == '1' ? WEIGHT_ONE : 0;
    unsigned unit = WEIGHT_ONE / 10;
    if (text[1] == '.')
        for (text += 2; is_digit(*text) && unit > 0; text++, unit /= 10)
            weight += (unsigned)(*text - '0') * unit;
    return weight < WEIGHT_ONE ? weight : WEIGHT_ONE;
}

/* The weight of an element `type;name=value;q=...` that ends at `end`. */
static unsigned weight_of(const char *element, const char *end)
{
    for (const char *at = memchr(element, ';', (size_t)(end - element)); at;
         at = memchr(at, ';', (size_t)(end - at))) {
        at++;
        at += strspn(at, SPACE);
        if (end - at >= 2 && (*at == 'q' || *at == 'Q') && at[1] == '=')
            return read_weight(at + 2);
    }
    return WEIGHT_ONE;
}

static bool is_type(const char *element, const char *end, const char *type)
{
    size_t size = strlen(type);
    return (size_t)(end - element) >= size && strncasecmp(element, type, size) == 0 &&
           (element + size == end || strchr(";" SPACE, element[size]));
}

enum fan_metrics_format fan__accept_metrics(const char *accept)
{
    unsigned open = 0;
    unsigned plain = 0;
    while (accept && *accept) {
        accept += strspn(accept, SPACE ",");
        const char *end = accept + strcspn(accept, ",");
        unsigned weight = weight_of(accept, end);
        if (is_type(accept, end, "application/openmetrics-text") && weight > open)
            open = weight;
        else if (is_type(accept, end, "text/plain") && weight > plain)
            plain = weight;
        accept = end;
    }
    return open > 0 && open >= plain ? FAN_METRICS_OPENMETRICS : FAN_METRICS_PROMETHEUS;
}
