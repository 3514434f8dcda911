/*
 * UUIDv7 by method 1 of RFC 9562, section 6.2: a counter behind the time.
 *
 *     | 48 bits: ms | 4: version | 12: counter high | 2: variant | 30: counter low | 32: random |
 *
 * The counter starts at a random 41-bit number each millisecond, so that there is room for 2^41 ids
 * until it overflows into the time. One lock guards all; a fork's child starts from a clean state,
 * because it must not repeat the random bytes that its parent holds.
 */
#include "event/uuid.h"

#include "base/env.h"
#include "base/thread.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define COUNTER_BITS 42
#define COUNTER_MAX ((UINT64_C(1) << COUNTER_BITS) - 1)
#define TIME_MAX_MS ((UINT64_C(1) << 48) - 1)

static struct {
    struct fan__mutex mutex;
    uint64_t last_ms;
    uint64_t counter;
    /* Random bytes bought in bulk, and from whom: another environment never gets them. */
    unsigned char pool[512];
    size_t pool_left;
    void (*pool_random)(void *context, void *bytes, size_t size);
    void *pool_context;
    char instance_id[FAN__INSTANCE_ID_SIZE];
} ids = { .mutex = { PTHREAD_MUTEX_INITIALIZER } };

static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void forget(void)
{
    ids.last_ms = 0;
    ids.counter = 0;
    ids.pool_left = 0;
    ids.instance_id[0] = '\0';
}

static void fork_in_child(void)
{
    /* Another thread of the parent may have held it. */
    fan__mutex_init(&ids.mutex);
    forget();
}

static void fork_watch(void)
{
    pthread_atfork(NULL, NULL, fork_in_child);
}

static void lock(void)
{
    pthread_once(&fork_once, fork_watch);
    fan__mutex_lock(&ids.mutex);
}

/* At most 8 bytes; the lock is held. */
static uint64_t take_random(const struct fan_env *env, size_t size)
{
    env = fan__env(env);
    if (ids.pool_left < size || ids.pool_random != env->random ||
        ids.pool_context != env->context) {
        env->random(env->context, ids.pool, sizeof(ids.pool));
        ids.pool_left = sizeof(ids.pool);
        ids.pool_random = env->random;
        ids.pool_context = env->context;
    }
    uint64_t value = 0;
    ids.pool_left -= size;
    memcpy(&value, ids.pool + ids.pool_left, size);
    return value;
}

static void put_bits(unsigned char *bytes, size_t size, uint64_t value)
{
    for (size_t i = size; i > 0; i--) {
        bytes[i - 1] = (unsigned char)value;
        value >>= 8;
    }
}

void fan__uuid_v7(const struct fan_env *env, unsigned char ret_uuid[FAN__UUID_SIZE])
{
    int64_t now_us = fan__wall_us(env);
    uint64_t now_ms = now_us < 0 ? 0 : (uint64_t)now_us / 1000;
    if (now_ms > TIME_MAX_MS)
        now_ms = TIME_MAX_MS;
    lock();
    if (now_ms > ids.last_ms || (ids.last_ms == 0 && ids.counter == 0)) {
        ids.last_ms = now_ms;
        ids.counter = take_random(env, 8) & (COUNTER_MAX >> 1);
    } else if (ids.counter < COUNTER_MAX) {
        ids.counter++;
    } else {
        ids.last_ms = ids.last_ms < TIME_MAX_MS ? ids.last_ms + 1 : TIME_MAX_MS;
        ids.counter = 0;
    }
    uint64_t ms = ids.last_ms;
    uint64_t counter = ids.counter;
    uint64_t tail = take_random(env, 4);
    fan__mutex_unlock(&ids.mutex);

    put_bits(ret_uuid, 6, ms);
    put_bits(ret_uuid + 6, 2, 0x7000 | counter >> 30);
    put_bits(ret_uuid + 8, 4, UINT64_C(0x80000000) | (counter & 0x3fffffff));
    put_bits(ret_uuid + 12, 4, tail);
}

void fan__uuid_v8(unsigned char uuid[FAN__UUID_SIZE])
{
    uuid[6] = (unsigned char)((uuid[6] & 0x0f) | 0x80);
    uuid[8] = (unsigned char)((uuid[8] & 0x3f) | 0x80);
}

static bool is_dash(size_t index)
{
    return index == 8 || index == 13 || index == 18 || index == 23;
}

void fan__uuid_format(const unsigned char uuid[FAN__UUID_SIZE], char text[FAN__UUID_TEXT_SIZE])
{
    static const char digits[] = "0123456789abcdef";
    size_t at = 0;
    for (size_t i = 0; i < FAN__UUID_SIZE; i++) {
        if (is_dash(at))
            text[at++] = '-';
        text[at++] = digits[uuid[i] >> 4];
        text[at++] = digits[uuid[i] & 0xf];
    }
    text[at] = '\0';
}

static int digit_value(char digit)
{
    if (digit >= '0' && digit <= '9')
        return digit - '0';
    if (digit >= 'a' && digit <= 'f')
        return digit - 'a' + 10;
    return -1;
}

bool fan__uuid_parse(const char *text, unsigned char ret_uuid[FAN__UUID_SIZE])
{
    unsigned char uuid[FAN__UUID_SIZE];
    size_t at = 0;
    for (size_t i = 0; i < FAN__UUID_SIZE; i++) {
        if (is_dash(at) && text[at++] != '-')
            return false;
        /* One by one: the first NUL ends the walk, so that nothing behind it is read. */
        int high = digit_value(text[at]);
        if (high < 0)
            return false;
        int low = digit_value(text[at + 1]);
        if (low < 0)
            return false;
        uuid[i] = (unsigned char)(high << 4 | low);
        at += 2;
    }
    if (text[at] != '\0')
        return false;
    memcpy(ret_uuid, uuid, sizeof(uuid));
    return true;
}

void fan__uuid_reset(void)
{
    lock();
    forget();
    fan__mutex_unlock(&ids.mutex);
}

/*
 * What is no letter, digit, dot or dash becomes a dash: host names are not always what they should
 * be.
 */
static void host_name(char *name, size_t size)
{
    if (gethostname(name, size) != 0)
        name[0] = '\0';
    name[size - 1] = '\0';
    for (char *at = name; *at; at++) {
        bool plain = (*at >= 'a' && *at <= 'z') || (*at >= 'A' && *at <= 'Z') ||
                     (*at >= '0' && *at <= '9') || *at == '.';
        if (!plain)
            *at = '-';
    }
    if (name[0] == '\0')
        snprintf(name, size, "host");
}

void fan__instance_id(const struct fan_env *env, char text[FAN__INSTANCE_ID_SIZE])
{
    lock();
    if (ids.instance_id[0] == '\0') {
        char host[65];
        host_name(host, sizeof(host));
        unsigned long long tail = take_random(env, 6);
        snprintf(ids.instance_id, sizeof(ids.instance_id), "%s-%012llx", host, tail);
    }
    memcpy(text, ids.instance_id, FAN__INSTANCE_ID_SIZE);
    fan__mutex_unlock(&ids.mutex);
}
