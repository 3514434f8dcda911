/*
 * A scanner for the grammar of RFC 8259. Two stacks of fixed size stand for the recursion: which
 * containers are open, and the keys of all open objects, the innermost last:
 *
 *     levels   { first key 0 } [ ] { first key 2 }
 *     keys     "id" "user"          "name" ...
 */
#include "event/jsonscan.h"

#include "event/text.h"

#include <string.h>

#define LEVEL_COUNT_MAX 64
#define KEY_COUNT_MAX 128
#define NUMBER_SIZE_MAX 300

struct scan {
    const char *at;
    const char *end;
    bool ascii;
    unsigned level_count;
    unsigned key_count;
    struct {
        bool object;
        unsigned first_key;
    } levels[LEVEL_COUNT_MAX];
    struct fan_str keys[KEY_COUNT_MAX];
};

static void skip_space(struct scan *scan)
{
    while (scan->at < scan->end &&
           (*scan->at == ' ' || *scan->at == '\n' || *scan->at == '\t' || *scan->at == '\r'))
        scan->at++;
}

static bool take(struct scan *scan, char byte)
{
    if (scan->at == scan->end || *scan->at != byte)
        return false;
    scan->at++;
    return true;
}

/* A string behind its opening quote. *ret_plain: there was no escape in it. */
static bool take_string(struct scan *scan, bool *ret_plain)
{
    *ret_plain = true;
    for (; scan->at < scan->end; scan->at++) {
        unsigned char byte = (unsigned char)*scan->at;
        if (byte >= 0x80) {
            scan->ascii = false;
        } else if (byte == '"') {
            scan->at++;
            return true;
        } else if (byte == '\\') {
            *ret_plain = false;
            if (++scan->at == scan->end || !strchr("\"\\/bfnrt", *scan->at) || *scan->at == '\0')
                return false;
        } else if (byte < 0x20) {
            return false;
        }
    }
    return false;
}

static bool take_digits(struct scan *scan)
{
    const char *start = scan->at;
    while (scan->at < scan->end && *scan->at >= '0' && *scan->at <= '9')
        scan->at++;
    return scan->at > start;
}

static bool take_number(struct scan *scan)
{
    const char *start = scan->at;
    take(scan, '-');
    if (!take(scan, '0') && !take_digits(scan))
        return false;
    if (take(scan, '.') && !take_digits(scan))
        return false;
    return scan->at - start <= NUMBER_SIZE_MAX;
}

static bool take_word(struct scan *scan, const char *word)
{
    size_t size = strlen(word);
    if ((size_t)(scan->end - scan->at) < size || memcmp(scan->at, word, size) != 0)
        return false;
    scan->at += size;
    return true;
}

/* A key and its colon; it must be the only one of its object. */
static bool take_key(struct scan *scan)
{
    bool plain;
    const char *start = scan->at + 1;
    if (scan->key_count == KEY_COUNT_MAX || !take(scan, '"') || !take_string(scan, &plain) ||
        !plain)
        return false;
    struct fan_str key = { start, (size_t)(scan->at - 1 - start) };
    for (unsigned i = scan->levels[scan->level_count - 1].first_key; i < scan->key_count; i++) {
        if (scan->keys[i].size == key.size && memcmp(scan->keys[i].data, key.data, key.size) == 0)
            return false;
    }
    scan->keys[scan->key_count++] = key;
    skip_space(scan);
    if (!take(scan, ':'))
        return false;
    skip_space(scan);
    return true;
}

/* A value that is no container. */
static bool take_scalar(struct scan *scan)
{
    bool plain;
    if (scan->at == scan->end)
        return false;
    switch (*scan->at) {
    case '"':
        scan->at++;
        return take_string(scan, &plain);
    case 't':
        return take_word(scan, "true");
    case 'f':
        return take_word(scan, "false");
    case 'n':
        return take_word(scan, "null");
    default:
        return take_number(scan);
    }
}

static bool open_level(struct scan *scan, unsigned depth_max)
{
    if (scan->level_count == depth_max || scan->level_count == LEVEL_COUNT_MAX)
        return false;
    scan->levels[scan->level_count].object = *scan->at++ == '{';
    scan->levels[scan->level_count++].first_key = scan->key_count;
    skip_space(scan);
    return true;
}

static void close_level(struct scan *scan)
{
    scan->key_count = scan->levels[--scan->level_count].first_key;
    scan->at++;
}

/* Behind a value: closes what ends here, and goes to the next value. */
static bool take_rest(struct scan *scan)
{
    for (;;) {
        skip_space(scan);
        if (scan->level_count == 0)
            return true;
        bool object = scan->levels[scan->level_count - 1].object;
        if (scan->at < scan->end && *scan->at == (object ? '}' : ']')) {
            close_level(scan);
            continue;
        }
        if (!take(scan, ','))
            return false;
        skip_space(scan);
        return !object || take_key(scan);
    }
}

bool fan__json_scan(struct fan_str text, unsigned depth_max)
{
    /* Left as it is but for the counts: clearing it all would cost more than most texts. */
    struct scan scan;
    scan.at = text.data;
    scan.end = text.data + text.size;
    scan.ascii = true;
    scan.level_count = 0;
    scan.key_count = 0;
    if (text.size == 0)
        return false;
    skip_space(&scan);
    do {
        bool container = scan.at < scan.end && (*scan.at == '{' || *scan.at == '[');
        if (!container) {
            if (!take_scalar(&scan))
                return false;
        } else {
            if (!open_level(&scan, depth_max))
                return false;
            bool object = scan.levels[scan.level_count - 1].object;
            bool empty = scan.at < scan.end && *scan.at == (object ? '}' : ']');
            if (empty)
                close_level(&scan);
            else if (object && !take_key(&scan))
                return false;
            if (!empty)
                continue;
        }
        if (!take_rest(&scan))
            return false;
    } while (scan.level_count > 0);
    return scan.at == scan.end && (scan.ascii || fan__utf8_valid(text.data, text.size));
}
