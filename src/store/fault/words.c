/* The words in which faults are told: `seed=7,errors=5%,append.torn=1%`. */
#include "store/fault/fault.h"

#include "base/env.h"
#include "base/status.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define STALL_MS_DEFAULT 1000
#define DELAY_MS_MAX_DEFAULT 3
#define TIME_MS_MAX 3600000
#define WORD_SIZE_MAX 63

static const struct {
    const char *name;
    unsigned traits;
} calls[] = {
#define AS_CALL(name, traits) { #name, traits },
    FAN__FAULT_CALL_TABLE(AS_CALL)
#undef AS_CALL
};

static const struct {
    const char *name;
    unsigned trait;
} kinds[] = {
#define AS_KIND(name, trait) { #name, trait },
    FAN__FAULT_KIND_TABLE(AS_KIND)
#undef AS_KIND
};

/* Names for several kinds, among which a rate is shared out. */
static const struct {
    const char *name;
    uint32_t kinds;
} families[] = {
    { "errors", 1u << FAN__FAULT_unavailable | 1u << FAN__FAULT_io | 1u << FAN__FAULT_no_space },
    { "unknown", 1u << FAN__FAULT_unknown_lost | 1u << FAN__FAULT_unknown_done },
};

static uint32_t find_kinds(const char *name)
{
    for (size_t i = 0; i < FAN__FAULT_KIND_COUNT; i++)
        if (strcmp(kinds[i].name, name) == 0)
            return 1u << i;
    for (size_t i = 0; i < sizeof(families) / sizeof(*families); i++)
        if (strcmp(families[i].name, name) == 0)
            return families[i].kinds;
    return 0;
}

static uint32_t find_calls(const char *name, size_t size)
{
    for (size_t i = 0; i < FAN__FAULT_CALL_COUNT; i++)
        if (strlen(calls[i].name) == size && memcmp(calls[i].name, name, size) == 0)
            return 1u << i;
    return 0;
}

static bool applies(size_t call, size_t kind)
{
    return (calls[call].traits & kinds[kind].trait) != 0;
}

enum fan_status fan__faults_find(const char *name, uint32_t *ret_calls, uint32_t *ret_kinds)
{
    const char *dot = strchr(name, '.');
    uint32_t found_calls =
        dot ? find_calls(name, (size_t)(dot - name)) : (1u << FAN__FAULT_CALL_COUNT) - 1;
    uint32_t found_kinds = find_kinds(dot ? dot + 1 : name);
    bool any = false;
    for (size_t call = 0; call < FAN__FAULT_CALL_COUNT; call++)
        for (size_t kind = 0; kind < FAN__FAULT_KIND_COUNT; kind++)
            any |= found_calls >> call & 1 && found_kinds >> kind & 1 && applies(call, kind);
    if (!any)
        return FAN_INVALID;
    *ret_calls = found_calls;
    *ret_kinds = found_kinds;
    return FAN_OK;
}

/* `5%`, `0.5%`: up to four digits behind the point. */
static bool read_rate(const char *text, uint32_t *ret_rate)
{
    uint32_t rate = 0;
    uint32_t scale = FAN__FAULT_RATE_ONE / 100;
    const char *at = text;
    for (; isdigit((unsigned char)*at) && at - text < 3; at++)
        rate = rate * 10 + (uint32_t)(*at - '0');
    if (at == text)
        return false;
    rate *= scale;
    if (*at == '.') {
        const char *point = at++;
        for (; isdigit((unsigned char)*at) && scale > 1; at++) {
            scale /= 10;
            rate += (uint32_t)(*at - '0') * scale;
        }
        if (at == point + 1)
            return false;
    }
    *ret_rate = rate;
    return strcmp(at, "%") == 0 && rate <= FAN__FAULT_RATE_ONE;
}

static bool read_number(const char *text, uint64_t max, uint64_t *ret_value)
{
    char *end = NULL;
    errno = 0;
    uintmax_t value = strtoumax(text, &end, 10);
    if (!isdigit((unsigned char)*text) || *end || errno || value > max)
        return false;
    *ret_value = value;
    return true;
}

static void set_rate(struct fan__faults *faults, size_t call, uint32_t found, uint32_t rate)
{
    uint32_t count = 0;
    for (size_t kind = 0; kind < FAN__FAULT_KIND_COUNT; kind++)
        count += found >> kind & 1 && applies(call, kind);
    for (size_t kind = 0; kind < FAN__FAULT_KIND_COUNT; kind++)
        if (found >> kind & 1 && applies(call, kind))
            faults->rates[call][kind] = rate / count;
}

static enum fan_status read_rate_of(struct fan__faults *faults, const char *name, const char *value,
                                    struct fan_error *error)
{
    uint32_t rate;
    uint32_t found_calls;
    uint32_t found_kinds;
    if (fan__faults_find(name, &found_calls, &found_kinds) != FAN_OK)
        return fan__fail(error, FAN_INVALID, name, "'%s' is no fault, or none of that call", name);
    if (!read_rate(value, &rate))
        return fan__fail(error, FAN_INVALID, name,
                         "'%s' is '%s': expected a share from 0%% to 100%%", name, value);
    for (size_t call = 0; call < FAN__FAULT_CALL_COUNT; call++)
        if (found_calls >> call & 1)
            set_rate(faults, call, found_kinds, rate);
    return FAN_OK;
}

static enum fan_status read_delay(struct fan__faults *faults, char *value, struct fan_error *error)
{
    uint64_t min = 0;
    uint64_t max = 0;
    char *dash = strchr(value, '-');
    if (dash)
        *dash++ = '\0';
    if (!read_number(value, TIME_MS_MAX, &min) ||
        !read_number(dash ? dash : value, TIME_MS_MAX, &max) || min > max)
        return fan__fail(error, FAN_INVALID, "delay_ms",
                         "expected delay_ms=MIN-MAX, up to %d milliseconds", TIME_MS_MAX);
    faults->delay_ms_min = (uint32_t)min;
    faults->delay_ms_max = (uint32_t)max;
    return FAN_OK;
}

static enum fan_status read_count(const char *name, const char *value, uint64_t max,
                                  uint64_t *ret_value, struct fan_error *error)
{
    if (read_number(value, max, ret_value))
        return FAN_OK;
    return fan__fail(error, FAN_INVALID, name, "'%s' is '%s': expected a number up to %" PRIu64,
                     name, value, max);
}

static enum fan_status read_word(struct fan__faults *faults, char *word, struct fan_error *error)
{
    char *value = strchr(word, '=');
    if (!value)
        return fan__fail(error, FAN_INVALID, "faults", "'%s': expected name=value", word);
    *value++ = '\0';
    if (strcmp(word, "seed") == 0) {
        faults->has_seed = true;
        return read_count(word, value, UINT64_MAX, &faults->seed, error);
    }
    if (strcmp(word, "limit") == 0)
        return read_count(word, value, UINT64_MAX, &faults->limit, error);
    if (strcmp(word, "delay_ms") == 0)
        return read_delay(faults, value, error);
    if (strcmp(word, "stall_ms") == 0) {
        uint64_t stall_ms = 0;
        enum fan_status status = read_count(word, value, TIME_MS_MAX, &stall_ms, error);
        faults->stall_ms = (uint32_t)stall_ms;
        return status;
    }
    if (strcmp(word, "crashed") != 0)
        return read_rate_of(faults, word, value, error);
    if (strcmp(value, "yes") != 0 && strcmp(value, "no") != 0)
        return fan__fail(error, FAN_INVALID, word, "expected crashed=yes or crashed=no");
    faults->crashed = strcmp(value, "yes") == 0;
    return FAN_OK;
}

/* Of one call, one thing alone happens; a delay goes with any. */
static enum fan_status check_sums(const struct fan__faults *faults, struct fan_error *error)
{
    for (size_t call = 0; call < FAN__FAULT_CALL_COUNT; call++) {
        uint32_t sum = 0;
        for (size_t kind = 0; kind < FAN__FAULT_delay; kind++)
            sum += faults->rates[call][kind];
        if (sum > FAN__FAULT_RATE_ONE)
            return fan__fail(error, FAN_INVALID, calls[call].name,
                             "the faults of '%s' are more than 100%% of its calls",
                             calls[call].name);
    }
    return FAN_OK;
}

enum fan_status fan__faults_parse(const char *text, const struct fan_env *env,
                                  struct fan__faults *ret_faults, struct fan_error *error)
{
    struct fan__faults faults = { .seed = 1,
                                  .limit = UINT64_MAX,
                                  .delay_ms_max = DELAY_MS_MAX_DEFAULT,
                                  .stall_ms = STALL_MS_DEFAULT };
    char *copy = fan__strdup(env, text ? text : "");
    if (!copy)
        return fan__fail(error, FAN_NO_MEMORY, NULL, "no memory for the faults");
    enum fan_status status = FAN_OK;
    char *rest = copy;
    while (status == FAN_OK && rest && *rest) {
        char *word = strsep(&rest, ",");
        if (strlen(word) > WORD_SIZE_MAX)
            status = fan__fail(error, FAN_INVALID, "faults", "expected words of at most %d bytes",
                               WORD_SIZE_MAX);
        else
            status = read_word(&faults, word, error);
    }
    if (status == FAN_OK)
        status = check_sums(&faults, error);
    if (status == FAN_OK)
        *ret_faults = faults;
    fan__free(env, copy);
    return status;
}
