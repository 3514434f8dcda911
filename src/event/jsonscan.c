/*
 * The grammar of RFC 8259 without recursion and without memory of its own: a stack of what is open,
 * and beside it the hashes of the keys of all open objects.
 *
 *     {"a": [{"b": 1, "c" ...        closings  }  ]  }
 *                                    first_keys 0  1  1      keys  a b c
 *
 * Duplicate keys have equal hashes; equal hashes are a doubt, whatever the keys are. The rest of
 * what is left to jansson: escapes in keys, \u0000 and surrogates, numbers that are long or have
 * large exponents, and whatever does not fit on the stack here.
 */
#include "event/jsonscan.h"

#include "event/text.h"

#include <string.h>

#define LEVELS_MAX 256
#define KEYS_MAX 1024
/* Shorter numbers, with exponents of at most two digits, are far within what a double reaches. */
#define NUMBER_SIZE_MAX 32
#define EXPONENT_SIZE_MAX 2

struct nest {
    unsigned depth;
    unsigned depth_max;
    unsigned key_count;
    char closings[LEVELS_MAX];
    uint16_t first_keys[LEVELS_MAX];
    uint64_t keys[KEYS_MAX];
};

#define WORD_SIZE sizeof(uint64_t)
#define EACH_BYTE(byte) (UINT64_C(0x0101010101010101) * (byte))

/* The first bytes of a text, the very first one in the lowest bits; zeros where it ends. */
static inline uint64_t word_at(const char *at, const char *end)
{
    uint64_t word = 0;
    size_t left = (size_t)(end - at);
    if (left >= WORD_SIZE)
        memcpy(&word, at, WORD_SIZE);
    else if (left > 0)
        memcpy(&word, at, left);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    return word;
}

/*
 * Counts the bytes of a word before the first that is no plain part of a string: a quote, an
 * escape, a control character or one beyond ASCII. Each subtraction sets the top bit of the byte it
 * looks for; a borrow can mark others falsely, but only above the first.
 */
static inline unsigned plain_bytes(uint64_t word)
{
    uint64_t marks = (word | (word - EACH_BYTE(' ')) | ((word ^ EACH_BYTE('"')) - EACH_BYTE(1)) |
                      ((word ^ EACH_BYTE('\\')) - EACH_BYTE(1))) &
                     EACH_BYTE(0x80);
    return marks ? (unsigned)__builtin_ctzll(marks) / 8 : WORD_SIZE;
}

static inline char byte_at(const char *at, const char *end)
{
    /* A NUL is legal nowhere, so it may stand for the end. */
    if (at >= end)
        return '\0';
    return *at;
}

static const char *skip_spaces(const char *at, const char *end)
{
    for (; at < end; at++) {
        while (word_at(at, end) == EACH_BYTE(' '))
            at += WORD_SIZE;
        char byte = byte_at(at, end);
        if (byte != ' ' && byte != '\t' && byte != '\n' && byte != '\r')
            return at;
    }
    return at;
}

static inline const char *skip_space(const char *at, const char *end)
{
    if (at < end && (unsigned char)*at > ' ')
        return at;
    return skip_spaces(at, end);
}

static int hex_value(char digit)
{
    if (digit >= '0' && digit <= '9')
        return digit - '0';
    digit = (char)(digit | 0x20);
    return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

/* `at` is at the backslash. */
static const char *skip_escape(const char *at, const char *end)
{
    switch (end - at < 2 ? '\0' : at[1]) {
    case '"':
    case '\\':
    case '/':
    case 'b':
    case 'f':
    case 'n':
    case 'r':
    case 't':
        return at + 2;
    case 'u':
        break;
    default:
        return NULL;
    }
    if (end - at < 6)
        return NULL;
    unsigned character = 0;
    for (unsigned i = 2; i < 6; i++) {
        int digit = hex_value(at[i]);
        if (digit < 0)
            return NULL;
        character = character * 16 + (unsigned)digit;
    }
    return character == 0 || (character & 0xf800) == 0xd800 ? NULL : at + 6;
}

/* From behind the opening quote to the closing one. */
static inline const char *string_end(const char *at, const char *end, bool escapes)
{
    for (;;) {
        /* The zeros at the end are control characters, so `at` stops there. */
        unsigned plain = plain_bytes(word_at(at, end));
        at += plain;
        if (plain == WORD_SIZE)
            continue;
        unsigned char byte = (unsigned char)byte_at(at, end);
        if (byte == '"')
            return at;
        if (byte == '\\') {
            at = escapes ? skip_escape(at, end) : NULL;
            if (!at)
                return NULL;
            continue;
        }
        size_t size = byte >= 0x80 ? fan__utf8_size(at, (size_t)(end - at)) : 0;
        if (size == 0)
            return NULL;
        at += size;
    }
}

static inline const char *skip_digits(const char *at, const char *end)
{
    while (at < end && *at >= '0' && *at <= '9')
        at++;
    return at;
}

static const char *number_end(const char *start, const char *end)
{
    const char *whole = start + (byte_at(start, end) == '-');
    const char *at = byte_at(whole, end) == '0' ? whole + 1 : skip_digits(whole, end);
    bool legal = at > whole;
    if (byte_at(at, end) == '.') {
        const char *fraction = at + 1;
        at = skip_digits(fraction, end);
        legal = legal && at > fraction;
    }
    if (byte_at(at, end) == 'e' || byte_at(at, end) == 'E') {
        at++;
        const char *exponent = at + (byte_at(at, end) == '-' || byte_at(at, end) == '+');
        at = skip_digits(exponent, end);
        legal = legal && at > exponent && at - exponent <= EXPONENT_SIZE_MAX;
    }
    return legal && at - start <= NUMBER_SIZE_MAX ? at : NULL;
}

static const char *word_end(const char *at, const char *end, const char *word, size_t size)
{
    return (size_t)(end - at) >= size && memcmp(at, word, size) == 0 ? at + size : NULL;
}

/* What is neither array nor object. */
static inline const char *scalar_end(const char *at, const char *end)
{
    switch (byte_at(at, end)) {
    case '"':
        at = string_end(at + 1, end, true);
        return at ? at + 1 : NULL;
    case 't':
        return word_end(at, end, "true", 4);
    case 'f':
        return word_end(at, end, "false", 5);
    case 'n':
        return word_end(at, end, "null", 4);
    default:
        return number_end(at, end);
    }
}

/* Fast rather than good: who makes keys collide only has them looked at by jansson. */
static inline uint64_t hash_of(const char *at, size_t size, const char *end)
{
    uint64_t hash = size;
    for (; size > WORD_SIZE; size -= WORD_SIZE, at += WORD_SIZE) {
        hash = (hash ^ word_at(at, end)) * UINT64_C(0x9e3779b97f4a7c15);
        hash ^= hash >> 32;
    }
    if (size > 0) {
        uint64_t rest = word_at(at, end) & (UINT64_MAX >> (8 * (WORD_SIZE - size)));
        hash = (hash ^ rest) * UINT64_C(0x9e3779b97f4a7c15);
    }
    return hash ^ hash >> 32;
}

/*
 * A table with open addressing, at most half full. Long walks through it are given up, so that the
 * time is linear for whatever keys.
 */
static bool many_differ(const uint64_t *keys, size_t count)
{
    uint16_t slots[2 * KEYS_MAX];
    size_t size = 16;
    while (size < 2 * count)
        size *= 2;
    memset(slots, 0, size * sizeof(slots[0]));
    size_t steps_left = 16 * count;
    for (size_t i = 0; i < count; i++) {
        size_t at = keys[i] & (size - 1);
        for (; slots[at] > 0; at = (at + 1) & (size - 1))
            if (keys[slots[at] - 1] == keys[i] || steps_left-- == 0)
                return false;
        slots[at] = (uint16_t)(i + 1);
    }
    return true;
}

static inline bool all_differ(const uint64_t *keys, size_t count)
{
    if (count > 8)
        return many_differ(keys, count);
    for (size_t i = 1; i < count; i++)
        for (size_t j = 0; j < i; j++)
            if (keys[i] == keys[j])
                return false;
    return true;
}

/* From before a key to behind its colon. */
static inline const char *key_end(const char *at, const char *end, struct fan_str *ret_key)
{
    at = skip_space(at, end);
    if (byte_at(at, end) != '"')
        return NULL;
    const char *key = at + 1;
    at = string_end(key, end, false);
    if (!at)
        return NULL;
    *ret_key = (struct fan_str){ key, (size_t)(at - key) };
    at = skip_space(at + 1, end);
    return byte_at(at, end) == ':' ? at + 1 : NULL;
}

static inline const char *take_key(struct nest *nest, const char *at, const char *end)
{
    struct fan_str key;
    at = key_end(at, end, &key);
    if (!at || nest->key_count == KEYS_MAX)
        return NULL;
    nest->keys[nest->key_count++] = hash_of(key.data, key.size, end);
    return at;
}

/* Opens arrays and objects up to and with the first value that is whole: a scalar or empty. */
static inline const char *take_value(struct nest *nest, const char *at, const char *end)
{
    for (;;) {
        at = skip_space(at, end);
        char byte = byte_at(at, end);
        if (byte != '{' && byte != '[')
            return scalar_end(at, end);
        if (nest->depth == nest->depth_max)
            return NULL;
        char closing = byte == '{' ? '}' : ']';
        at = skip_space(at + 1, end);
        if (byte_at(at, end) == closing)
            return at + 1;
        nest->closings[nest->depth] = closing;
        nest->first_keys[nest->depth] = (uint16_t)nest->key_count;
        nest->depth++;
        if (byte == '{')
            at = take_key(nest, at, end);
        if (!at)
            return NULL;
    }
}

/* Leaves the innermost array or object; false when two of its keys may be the same. */
static inline bool leave(struct nest *nest)
{
    nest->depth--;
    unsigned first = nest->first_keys[nest->depth];
    size_t count = nest->key_count - first;
    nest->key_count = first;
    return all_differ(nest->keys + first, count);
}

const char *fan__json_scan_value(const char *at, const char *end, unsigned depth_max)
{
    struct nest nest;
    nest.depth = 0;
    nest.depth_max = depth_max < LEVELS_MAX ? depth_max : LEVELS_MAX;
    nest.key_count = 0;
    for (;;) {
        at = take_value(&nest, at, end);
        if (!at || nest.depth == 0)
            return at;
        at = skip_space(at, end);
        while (byte_at(at, end) == nest.closings[nest.depth - 1]) {
            at++;
            if (!leave(&nest))
                return NULL;
            if (nest.depth == 0)
                return at;
            at = skip_space(at, end);
        }
        if (byte_at(at, end) != ',')
            return NULL;
        at++;
        if (nest.closings[nest.depth - 1] == '}')
            at = take_key(&nest, at, end);
        if (!at)
            return NULL;
    }
}

const char *fan__json_scan_space(const char *at, const char *end)
{
    return skip_space(at, end);
}

const char *fan__json_scan_member(const char *at, const char *end, unsigned depth_max,
                                  struct fan__json_member *ret_member)
{
    at = key_end(at, end, &ret_member->name);
    if (!at)
        return NULL;
    const char *value = skip_space(at, end);
    at = fan__json_scan_value(value, end, depth_max);
    if (!at)
        return NULL;
    ret_member->value = (struct fan_str){ value, (size_t)(at - value) };
    at = skip_space(at, end);
    char byte = byte_at(at, end);
    return byte == ',' || byte == '}' ? at : NULL;
}

bool fan__json_scan_is_object(struct fan_str value, bool *ret_empty)
{
    const char *end = value.data + value.size;
    const char *at = skip_space(value.data, end);
    if (byte_at(at, end) != '{')
        return false;
    *ret_empty = byte_at(skip_space(at + 1, end), end) == '}';
    return true;
}

bool fan__json_surely_legal(struct fan_str text, unsigned depth_max)
{
    if (text.size == 0)
        return false;
    const char *end = text.data + text.size;
    const char *at = fan__json_scan_value(text.data, end, depth_max);
    return at && skip_space(at, end) == end;
}
