/* Splitting, decoding and hiding: nothing here knows a provider. */
#include "store/uri.h"

#include "base/env.h"
#include "base/status.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static int hex_value(char digit)
{
    if (digit >= '0' && digit <= '9')
        return digit - '0';
    digit = (char)tolower((unsigned char)digit);
    return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

/* Decodes in place: the text only shrinks. */
static bool decode(char *text)
{
    char *to = text;
    for (const char *from = text; *from; from++) {
        if (*from != '%') {
            *to++ = *from;
            continue;
        }
        int high = hex_value(from[1]);
        int low = high < 0 ? -1 : hex_value(from[2]);
        if (low < 0 || high + low == 0)
            return false;
        *to++ = (char)(high << 4 | low);
        from += 2;
    }
    *to = '\0';
    return true;
}

static enum fan_status add_option(struct fan__uri *uri, char *name, struct fan_error *error)
{
    char *value = strchr(name, '=');
    if (!value || value == name)
        return fan__fail(error, FAN_INVALID, "uri", "expected an option as name=value");
    *value++ = '\0';
    if (!decode(name) || !decode(value))
        return fan__fail(error, FAN_INVALID, "uri", "an option has a broken percent escape");
    for (size_t i = 0; i < uri->option_count; i++) {
        if (strcmp(uri->options[i].name, name) == 0)
            return fan__fail(error, FAN_INVALID, name, "option '%s' is given twice", name);
    }
    if (uri->option_count == FAN__URI_OPTION_COUNT_MAX)
        return fan__fail(error, FAN_INVALID, "uri", "expected at most %d options",
                         FAN__URI_OPTION_COUNT_MAX);
    uri->options[uri->option_count++] = (struct fan__uri_option){ .name = name, .value = value };
    return FAN_OK;
}

static enum fan_status split(struct fan__uri *uri, struct fan_error *error)
{
    char *path = strchr(uri->text, ':');
    if (!path || path == uri->text)
        return fan__fail(error, FAN_INVALID, "uri", "expected scheme:path");
    *path++ = '\0';
    char *options = strchr(path, '?');
    if (options)
        *options++ = '\0';
    if (!decode(path))
        return fan__fail(error, FAN_INVALID, "uri", "the path has a broken percent escape");
    uri->scheme = uri->text;
    uri->path = path;
    while (options && *options) {
        char *next = strchr(options, '&');
        if (next)
            *next++ = '\0';
        enum fan_status status = add_option(uri, options, error);
        if (status != FAN_OK)
            return status;
        options = next;
    }
    return FAN_OK;
}

enum fan_status fan__uri_parse(const char *uri, const struct fan_env *env, struct fan__uri *ret_uri,
                               struct fan_error *error)
{
    struct fan__uri parsed = { .env = env, .text = fan__strdup(env, uri) };
    if (!parsed.text)
        return fan__fail(error, FAN_NO_MEMORY, NULL, "no memory for the URI");
    enum fan_status status = split(&parsed, error);
    if (status != FAN_OK) {
        fan__uri_deinit(&parsed);
        return status;
    }
    *ret_uri = parsed;
    return FAN_OK;
}

void fan__uri_deinit(struct fan__uri *uri)
{
    fan__free(uri->env, uri->text);
    *uri = (struct fan__uri){ .env = uri->env };
}

const char *fan__uri_take(struct fan__uri *uri, const char *name)
{
    for (size_t i = 0; i < uri->option_count; i++) {
        if (strcmp(uri->options[i].name, name) == 0) {
            uri->options[i].taken = true;
            return uri->options[i].value;
        }
    }
    return NULL;
}

enum fan_status fan__uri_take_count(struct fan__uri *uri, const char *name, uint64_t min,
                                    uint64_t max, uint64_t *ret_value, struct fan_error *error)
{
    const char *text = fan__uri_take(uri, name);
    if (!text)
        return FAN_OK;
    char *end = NULL;
    errno = 0;
    uintmax_t value = strtoumax(text, &end, 10);
    /* strtoumax takes signs and leading blanks, which are no numbers here. */
    if (!isdigit((unsigned char)*text) || *end || errno || value < min || value > max)
        return fan__fail(error, FAN_INVALID, name,
                         "option '%s' is '%s': expected a number from %" PRIu64 " to %" PRIu64,
                         name, text, min, max);
    *ret_value = value;
    return FAN_OK;
}

enum fan_status fan__uri_finish(const struct fan__uri *uri, struct fan_error *error)
{
    for (size_t i = 0; i < uri->option_count; i++) {
        const char *name = uri->options[i].name;
        if (!uri->options[i].taken)
            return fan__fail(error, FAN_INVALID, name,
                             "unknown option '%s': docs/stores.md has all", name);
    }
    return FAN_OK;
}

/* Whether every colon outside of brackets has a port behind it: `host:1,[::1]:2`. */
static bool has_ports_only(const char *at, const char *end)
{
    for (; at < end; at++) {
        if (*at == '[')
            while (at < end && *at != ']')
                at++;
        if (at >= end || *at != ':')
            continue;
        while (at + 1 < end && isdigit((unsigned char)at[1]))
            at++;
        if (at + 1 < end && at[1] != ',')
            return false;
    }
    return true;
}

enum fan_status fan__uri_check_place(const char *uri, struct fan_error *error)
{
    const char *place = strstr(uri, "://");
    if (!place)
        return FAN_OK;
    place += 3;
    const char *end = place + strcspn(place, "/?#");
    const char *at = memchr(place, '@', (size_t)(end - place));
    const char *host = at ? at + 1 : place;
    if (!memchr(host, '@', (size_t)(end - host)) && has_ports_only(host, end))
        return FAN_OK;
    return fan__fail(error, FAN_INVALID, "uri",
                     "expected %.*sUSER:PASSWORD@HOST:PORT/..., with /, ?, #, @ and : of a "
                     "name or password written as %%2F, %%3F, %%23, %%40 and %%3A",
                     (int)(place - uri), uri);
}

enum fan_status fan__uri_peel(const char *uri, const struct fan_env *env, char **ret_options,
                              const char **ret_inner, struct fan_error *error)
{
    const char *rest = strchr(uri, ':') + 1;
    size_t size = strcspn(rest, ":");
    bool has_options = memchr(rest, '=', size) != NULL;
    const char *inner = has_options ? rest + size + (rest[size] == ':') : rest;
    if (!*inner)
        return fan__fail(error, FAN_INVALID, "uri", "expected the URI of a store behind it");
    char *options = NULL;
    if (has_options) {
        options = fan__strdup(env, rest);
        if (!options)
            return fan__fail(error, FAN_NO_MEMORY, NULL, "no memory for the URI");
        options[size] = '\0';
    }
    *ret_options = options;
    *ret_inner = inner;
    return FAN_OK;
}

/* Words that make a parameter's value a secret when its name ends in one. */
static const char *const secret_words[] = {
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "pass",
    "token",
    "secret",
    "apikey",
    "api_key",
    "auth",
    "credentials",
    /* as they are mistyped: pasword, paswort */
    "word",
    "wort",
};

static bool is_secret_name(const char *name, size_t size)
{
    for (size_t i = 0; i < sizeof(secret_words) / sizeof(*secret_words); i++) {
        size_t length = strlen(secret_words[i]);
        if (size >= length && strncasecmp(name + size - length, secret_words[i], length) == 0)
            return true;
    }
    return false;
}

struct text {
    char *data;
    size_t size;
    size_t room;
};

static void put(struct text *text, const char *bytes, size_t size)
{
    if (size > text->room - text->size)
        size = text->room - text->size;
    memcpy(text->data + text->size, bytes, size);
    text->size += size;
}

/* Whether what follows is a server also where its owner forgot the two slashes. */
static bool is_server(const char *uri)
{
    static const char *const schemes[] = { "postgres:", "postgresql:", "redis:", "nats:" };
    for (size_t i = 0; i < sizeof(schemes) / sizeof(*schemes); i++) {
        if (strncmp(uri, schemes[i], strlen(schemes[i])) == 0)
            return true;
    }
    return false;
}

/* `scheme://user:passwordhost`, where its owner forgot the `@`. */
static const char *put_unended(struct text *text, const char *uri, const char *authority)
{
    const char *end = authority + strcspn(authority, "/?");
    const char *colon = memchr(authority, ':', (size_t)(end - authority));
    if (!colon || has_ports_only(authority, end))
        return uri;
    put(text, uri, (size_t)(colon + 1 - uri));
    put(text, "***", 3);
    return end;
}

/*
 * The password of `scheme://user:password@host`. A password may hold any of `/ ? @` where its owner
 * forgot to escape them, so it is taken to reach from the first colon to the last `@` of all.
 */
static const char *put_userinfo(struct text *text, const char *uri)
{
    const char *at = strrchr(uri, '@');
    const char *authority = strstr(uri, "://");
    size_t mark = 3;
    if (!at && authority)
        return put_unended(text, uri, authority + mark);
    if (at && !authority && is_server(uri)) {
        authority = strchr(uri, ':');
        mark = 1;
    }
    if (!at || !authority || authority + mark > at)
        return uri;
    /* The scheme may stand behind that of a store over this one. */
    const char *scheme = authority;
    while (scheme > uri && isalnum((unsigned char)scheme[-1]))
        scheme--;
    bool is_nats = strncmp(scheme, "nats", 4) == 0;
    authority += mark;
    const char *colon = memchr(authority, ':', (size_t)(at - authority));
    if (!colon && !is_nats)
        return uri;
    /* Of NATS, a lone word before the `@` is a token. */
    put(text, uri, (size_t)((colon ? colon + 1 : authority) - uri));
    put(text, "***", 3);
    return at;
}

void fan__uri_redact(const char *uri, char *buffer, size_t size)
{
    assert(size > 0);
    struct text text = { .data = buffer, .room = size - 1 };
    const char *at = put_userinfo(&text, uri);
    const char *name = at;
    while (*at) {
        if (*at == '=' && is_secret_name(name, (size_t)(at - name))) {
            put(&text, "=***", 4);
            at += strcspn(at, "&");
            continue;
        }
        if (strchr("?& ", *at))
            name = at + 1;
        put(&text, at++, 1);
    }
    buffer[text.size] = '\0';
}
