/*
 * See exposition.h. Numbers are written from integers: a decimal point must not be the locale's.
 * Bounds of buckets are written alike in both formats, so that a series stays one when the scrape
 * changes its mind.
 */
#include "broker/exposition.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define NS_PER_S UINT64_C(1000000000)

static const char *const kinds[] = {
    [FAN__FAMILY_COUNTER] = "counter",
    [FAN__FAMILY_GAUGE] = "gauge",
    [FAN__FAMILY_HISTOGRAM] = "histogram",
    [FAN__FAMILY_INFO] = "info",
};

static const char *const suffixes[] = {
    [FAN__FAMILY_COUNTER] = "_total",
    [FAN__FAMILY_GAUGE] = "",
    [FAN__FAMILY_HISTOGRAM] = "",
    [FAN__FAMILY_INFO] = "_info",
};

static bool ends_with(const char *text, const char *end)
{
    size_t size = strlen(text);
    return size > strlen(end) && strcmp(text + size - strlen(end), end) == 0;
}

void fan__expose_family(struct fan__exposition *exposition, const char *name,
                        enum fan__family_kind kind, const char *help)
{
    struct fan__buffer *text = exposition->text;
    bool open = exposition->format == FAN_METRICS_OPENMETRICS;
    const char *suffix = open ? "" : suffixes[kind];
    exposition->family = name;
    exposition->kind = kind;
    fan__buffer_add_format(text, "# HELP %s%s %s\n", name, suffix, help);
    fan__buffer_add_format(text, "# TYPE %s%s %s\n", name, suffix,
                           kind == FAN__FAMILY_INFO && !open ? "gauge" : kinds[kind]);
    if (open && ends_with(name, "_seconds"))
        fan__buffer_add_format(text, "# UNIT %s seconds\n", name);
    else if (open && ends_with(name, "_bytes"))
        fan__buffer_add_format(text, "# UNIT %s bytes\n", name);
}

static void add_label(struct fan__buffer *text, char before, const char *name, const char *value)
{
    fan__buffer_add(text, &before, 1);
    fan__buffer_add_text(text, name);
    fan__buffer_add(text, "=\"", 2);
    for (const char *at = value; *at;) {
        size_t plain = strcspn(at, "\\\"\n");
        fan__buffer_add(text, at, plain);
        at += plain;
        if (*at == '\n')
            fan__buffer_add(text, "\\n", 2);
        else if (*at)
            fan__buffer_add_format(text, "\\%c", *at);
        at += *at != '\0';
    }
    fan__buffer_add(text, "\"", 1);
}

/* Everything of a sample up to its value. */
static void begin(struct fan__exposition *exposition, const char *suffix,
                  const struct fan__label_set *labels, const char *bound)
{
    struct fan__buffer *text = exposition->text;
    char before = '{';
    fan__buffer_add_text(text, exposition->family);
    fan__buffer_add_text(text, suffix);
    for (size_t i = 0; labels && i < 3 && labels->values[i].name; i++) {
        add_label(text, before, labels->values[i].name, labels->values[i].value);
        before = ',';
    }
    if (bound) {
        add_label(text, before, "le", bound);
        before = ',';
    }
    fan__buffer_add_text(text, before == ',' ? "} " : " ");
}

void fan__expose(struct fan__exposition *exposition, const struct fan__label_set *labels,
                 uint64_t value)
{
    begin(exposition, suffixes[exposition->kind], labels, NULL);
    fan__buffer_add_format(exposition->text, "%" PRIu64 "\n", value);
}

static void format_seconds(char text[40], uint64_t value_ns)
{
    snprintf(text, 40, "%" PRIu64 ".%09" PRIu64, value_ns / NS_PER_S, value_ns % NS_PER_S);
    size_t size = strlen(text);
    while (text[size - 1] == '0' && text[size - 2] != '.')
        text[--size] = '\0';
}

void fan__expose_seconds(struct fan__exposition *exposition, const struct fan__label_set *labels,
                         uint64_t value_ns)
{
    char value[40];
    format_seconds(value, value_ns);
    begin(exposition, suffixes[exposition->kind], labels, NULL);
    fan__buffer_add_format(exposition->text, "%s\n", value);
}

void fan__expose_histogram(struct fan__exposition *exposition, const struct fan__label_set *labels,
                           const struct fan__histogram *histogram,
                           const struct fan__histogram_scale *scale)
{
    bool seconds = scale == &fan__histogram_times;
    uint64_t count = 0;
    char text[40];
    for (size_t i = 0; i <= scale->count; i++) {
        count += histogram->counts[i];
        if (i == scale->count)
            snprintf(text, sizeof(text), "+Inf");
        else if (seconds)
            format_seconds(text, scale->bounds[i]);
        else
            snprintf(text, sizeof(text), "%" PRIu64 ".0", scale->bounds[i]);
        begin(exposition, "_bucket", labels, text);
        fan__buffer_add_format(exposition->text, "%" PRIu64 "\n", count);
    }
    if (seconds)
        format_seconds(text, histogram->sum);
    else
        snprintf(text, sizeof(text), "%" PRIu64, histogram->sum);
    begin(exposition, "_sum", labels, NULL);
    fan__buffer_add_format(exposition->text, "%s\n", text);
    begin(exposition, "_count", labels, NULL);
    fan__buffer_add_format(exposition->text, "%" PRIu64 "\n", count);
}

void fan__expose_all(struct fan__exposition *exposition, const struct fan__family *families,
                     size_t count)
{
    for (size_t i = 0; i < count; i++) {
        fan__expose_family(exposition, families[i].name, families[i].kind, families[i].help);
        fan__expose(exposition, NULL, families[i].value);
    }
}

void fan__expose_end(struct fan__exposition *exposition)
{
    if (exposition->format == FAN_METRICS_OPENMETRICS)
        fan__buffer_add_text(exposition->text, "# EOF\n");
}
